//! SCRAM-SHA-256, bound to the certificate shown to the client where there is one.

use protocol::auth::scram::{AwaitProof, Keys, NONCE_LEN, Offer, ScramError, Verifier};
use protocol::auth::{AuthRequest, SaslInitialResponse, SecretKind};

use super::credential::Credential;
use super::{Arrival, Denied, ask};
use crate::config::Config;
use crate::error::Refusal;
use crate::secrets::random;

const FAILED: &str = "SASL authentication failed";

/// Runs the exchange with what is stored. Returns the keys that are of use towards servers.
pub(super) async fn log_in(
    arrival: &mut Arrival,
    config: &Config,
    credential: &Credential,
) -> Result<Option<Keys>, Denied> {
    let user = &credential.user;
    match credential.secret() {
        Some(SecretKind::Plain(password)) => {
            let secrets = &arrival.worker.shared.clone().secrets;
            let verifier = secrets.verifier(user, password, config.auth.scram_iterations).await;
            exchange(arrival, user, verifier).await?;
            Ok(None) // the server's verifier has another salt
        }
        Some(SecretKind::Scram(verifier)) => exchange(arrival, user, Some(verifier)).await,
        Some(SecretKind::Md5(_)) | None => exchange(arrival, user, None).await,
    }
}

/// Without a verifier nobody can pass; the challenge is made all the same.
pub(super) async fn exchange(
    arrival: &mut Arrival,
    user: &str,
    verifier: Option<Verifier>,
) -> Result<Option<Keys>, Denied> {
    let iterations = arrival.worker.shared.config.load().auth.scram_iterations;
    let known = verifier.is_some();
    let verifier = verifier.unwrap_or_else(|| arrival.worker.shared.secrets.fake_verifier(user, iterations));
    let end_point = end_point(arrival);
    let offer = Offer::new(end_point.as_deref());
    let answer = ask(arrival, AuthRequest::Sasl(offer.mechanisms())).await?;
    let initial = SaslInitialResponse::decode(&answer).map_err(|_| Refusal::fatal(FAILED))?;
    let Some(accepted) = offer.accept(initial.mechanism) else {
        return Err(Refusal::fatal("client selected an invalid SASL authentication mechanism").into());
    };
    let first = initial.data.unwrap_or_default();
    let started = AwaitProof::start(accepted, first, &verifier, random::<NONCE_LEN>());
    let (exchange, server_first) = started.map_err(|error| failed(arrival, &error))?;
    let answer = ask(arrival, AuthRequest::SaslContinue(server_first.as_bytes())).await?;
    let proved = exchange.client_final(&answer).map_err(|error| failed(arrival, &error))?;
    if !known {
        return Err(failed(arrival, &ScramError::WrongProof));
    }
    let mut out = Vec::new();
    AuthRequest::SaslFinal(proved.server_final.as_bytes()).encode(&mut out);
    arrival.conversation.queue(&out); // the welcome follows; PostgreSQL sends them together, too
    Ok(Some(Keys::pass_through(&proved.client_key, &verifier)))
}

/// The hash of the certificate that this client was shown (RFC 5929).
fn end_point(arrival: &Arrival) -> Option<Vec<u8>> {
    arrival.conversation.stream.tls()?.server_end_point()
}

/// The client is told that it failed, the log why.
fn failed(arrival: &Arrival, error: &ScramError) -> Denied {
    if *error != ScramError::WrongProof {
        tracing::info!(peer = %arrival.label(), "{FAILED}: {error}");
    }
    Refusal::fatal(FAILED).into()
}
