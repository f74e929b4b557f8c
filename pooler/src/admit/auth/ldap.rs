//! Passwords that an LDAP server judges.

use protocol::auth::{self, AuthRequest};
use zeroize::Zeroizing;

use super::{Arrival, Denied, ask};
use crate::config::{LdapOptions, Secret};
use crate::error::Refusal;

const FAILED: &str = "LDAP authentication failed";

/// Asks for the password, and the LDAP server about it. Returns the password: servers are logged in to with it.
pub(super) async fn log_in(
    arrival: &mut Arrival,
    options: Option<&LdapOptions>,
    user: &str,
) -> Result<Secret, Denied> {
    let Some(options) = options else {
        return Err(Refusal::fatal("auth_ldap_options is null").into());
    };
    let password = ask_password(arrival, FAILED).await?;
    let shared = arrival.worker.shared.clone();
    let outcome = tokio::select! {
        biased;
        outcome = shared.ask_ldap(options, user, &password) => outcome,
        () = arrival.conversation.gone() => return Err(Denied::Silent),
    };
    match outcome {
        Ok(()) => Ok(Secret::new(password.as_str())),
        Err(why) => {
            tracing::warn!(peer = %arrival.label(), "LDAP login failed for user {user:?}: {why}");
            Err(Refusal::fatal(FAILED).into())
        }
    }
}

/// Asks for a password that somebody else judges; an empty one is nobody's. `failed` is for one that is no text.
pub(super) async fn ask_password(
    arrival: &mut Arrival,
    failed: &'static str,
) -> Result<Zeroizing<String>, Denied> {
    let answer = Zeroizing::new(ask(arrival, AuthRequest::CleartextPassword).await?);
    let password = auth::decode_password(&answer).map_err(|_| Refusal::fatal(failed))?;
    if password.is_empty() {
        return Err(Refusal::fatal("empty password returned by client").into());
    }
    let text = std::str::from_utf8(password).map_err(|_| Refusal::fatal(failed))?;
    Ok(Zeroizing::new(text.to_owned()))
}
