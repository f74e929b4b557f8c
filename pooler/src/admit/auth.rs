//! Finding out whether a client is who it says.

use std::sync::Arc;

use protocol::auth::md5::Md5Secret;
use protocol::auth::scram::{AwaitProof, Keys, NONCE_LEN, Verifier};
use protocol::auth::{self, AuthRequest, Mechanisms, SaslInitialResponse, SecretKind};
use protocol::startup::Startup;
use subtle::ConstantTimeEq;

use super::{Arrival, ConsoleClient, Denied};
use crate::config::{AuthMethod, Config, Database, Secret};
use crate::console::Rights;
use crate::error::Refusal;
use crate::net::Peer;
use crate::secrets::random;

const PASSWORD_FAILED: &str = "password authentication failed";
const SASL_FAILED: &str = "SASL authentication failed";

/// Runs the configured method. Returns the keys that a SCRAM login with a stored verifier disclosed.
pub(super) async fn authenticate(
    arrival: &mut Arrival,
    config: &Config,
    startup: &Startup,
    spec: Option<&Arc<Database>>,
) -> Result<Option<Keys>, Denied> {
    if config.auth.method == AuthMethod::Any && spec.is_some_and(|spec| spec.user.is_none()) {
        tracing::warn!(peer = %arrival.label(), "auth_type=any requires forced user");
        return Err(Refusal::fatal("bouncer config error").into());
    }
    check(arrival, config, startup.user()).await
}

impl Arrival {
    pub(super) async fn log_in_to_console(
        &mut self,
        config: &Config,
        startup: &Startup,
    ) -> Result<ConsoleClient, Denied> {
        let tracked = &self.worker.shared.tracked;
        // Any setting may be given, as for a database: drivers do. Without a server it has no meaning.
        let params = super::ClientParams::read(startup, config, tracked, self.remote, true)?.values;
        let rights = self.console_rights(config, startup).await?;
        Ok(ConsoleClient { rights, user: startup.user().to_owned(), params })
    }

    /// What a client of the console may do, once it has proven who it is.
    async fn console_rights(&mut self, config: &Config, startup: &Startup) -> Result<Rights, Denied> {
        let user = startup.user();
        let listed = |list: &[String]| list.iter().any(|u| u == user);
        if matches!(user, "pgbouncer" | "pgferry") && self.is_own_process_owner() {
            tracing::info!(peer = %self.label(), "pgbouncer access from unix socket");
            return Ok(Rights::Admin);
        }
        let rights = match (listed(&config.auth.admin_users), listed(&config.auth.stats_users)) {
            (true, _) => Rights::Admin,
            (_, true) => Rights::Stats,
            _ if config.auth.method == AuthMethod::Any => Rights::Stats,
            _ => return Err(Refusal::fatal("not allowed").into()),
        };
        if rights == Rights::Stats {
            self.check_console_limits(config, user)?;
        }
        self.log_attempt(config, startup);
        check(self, config, user).await?;
        Ok(rights)
    }

    /// Limits for clients hold on the console as well, but not for administrators.
    fn check_console_limits(&self, config: &Config, user: &str) -> Result<(), Refusal> {
        let shared = &self.worker.shared;
        let consoles = shared.consoles.all();
        let elsewhere = shared.registry.known_user(user).map_or(0, |user| user.clients.get());
        let own = elsewhere + consoles.iter().filter(|console| console.user == user).count();
        let of_user = config.users.get(user).and_then(|user| user.max_client_connections);
        for (limit, count, name) in [
            (of_user.or(config.limits.max_user_client_connections), own, "max_user_client_connections"),
            (config.limits.max_db_client_connections, consoles.len(), "max_db_client_connections"),
        ] {
            if limit.is_some_and(|most| count >= most.get()) {
                return Err(Refusal::fatal(format!("client connections exceeded ({name})")).because(name));
            }
        }
        Ok(())
    }

    fn is_own_process_owner(&self) -> bool {
        matches!(self.remote, Peer::Unix { .. })
            && self.conversation.stream.peer_uid() == Some(nix::unistd::geteuid().as_raw())
    }
}

async fn check(arrival: &mut Arrival, config: &Config, user: &str) -> Result<Option<Keys>, Denied> {
    let secret = config.auth.userlist.0.get(user);
    match config.auth.method {
        AuthMethod::Any => Ok(None),
        AuthMethod::Trust if secret.is_some() => Ok(None),
        AuthMethod::Trust => Err(Refusal::fatal("\"trust\" authentication failed").into()),
        AuthMethod::Plain => plain(arrival, user, secret).await.map(|()| None),
        AuthMethod::Md5 => match secret.map(|s| SecretKind::of(s.reveal())) {
            Some(SecretKind::Scram(verifier)) => scram(arrival, user, Some(verifier)).await,
            Some(SecretKind::Md5(stored)) => md5(arrival, Some(stored)).await.map(|()| None),
            Some(SecretKind::Plain("")) | None => md5(arrival, None).await.map(|()| None),
            Some(SecretKind::Plain(password)) => {
                md5(arrival, Some(Md5Secret::new(user, password.as_bytes()))).await.map(|()| None)
            }
        },
        AuthMethod::Scram => {
            let verifier = match secret.map(|s| SecretKind::of(s.reveal())) {
                Some(SecretKind::Scram(verifier)) => Some(verifier),
                Some(SecretKind::Plain(password)) if !password.is_empty() => {
                    let secrets = &arrival.worker.shared.clone().secrets;
                    let verifier = secrets.verifier(user, password, config.auth.scram_iterations).await;
                    scram(arrival, user, verifier).await?;
                    return Ok(None); // the server's verifier has another salt
                }
                _ => None,
            };
            scram(arrival, user, verifier).await
        }
    }
}

async fn plain(arrival: &mut Arrival, user: &str, secret: Option<&Secret>) -> Result<(), Denied> {
    let answer = ask(arrival, AuthRequest::CleartextPassword).await?;
    let password = auth::decode_password(&answer).map_err(|_| Refusal::fatal(PASSWORD_FAILED))?;
    if password.is_empty() {
        return Err(Refusal::fatal("empty password returned by client").into());
    }
    let right = match secret.map(|s| SecretKind::of(s.reveal())) {
        None | Some(SecretKind::Plain("")) => false,
        Some(SecretKind::Plain(stored)) => stored.as_bytes().ct_eq(password).into(),
        Some(SecretKind::Md5(stored)) => stored == Md5Secret::new(user, password),
        Some(SecretKind::Scram(verifier)) => match std::str::from_utf8(password) {
            Ok(text) => arrival.worker.shared.secrets.is_password_of(user, text, &verifier).await,
            Err(_) => false,
        },
    };
    if right { Ok(()) } else { Err(Refusal::fatal(PASSWORD_FAILED).into()) }
}

/// `stored` is `None` for a user who can't log in: the challenge is made all the same.
async fn md5(arrival: &mut Arrival, stored: Option<Md5Secret>) -> Result<(), Denied> {
    let salt = random::<4>();
    let answer = ask(arrival, AuthRequest::Md5Password { salt }).await?;
    let answer = auth::decode_password(&answer).map_err(|_| Refusal::fatal(PASSWORD_FAILED))?;
    match stored {
        Some(stored) if stored.verify(salt, answer) => Ok(()),
        _ => Err(Refusal::fatal(PASSWORD_FAILED).into()),
    }
}

async fn scram(
    arrival: &mut Arrival,
    user: &str,
    verifier: Option<Verifier>,
) -> Result<Option<Keys>, Denied> {
    let failed = || Denied::Refused(Refusal::fatal(SASL_FAILED));
    let iterations = arrival.worker.shared.config.load().auth.scram_iterations;
    let known = verifier.is_some();
    let verifier = verifier.unwrap_or_else(|| arrival.worker.shared.secrets.fake_verifier(user, iterations));
    let answer = ask(arrival, AuthRequest::Sasl(Mechanisms::SCRAM_SHA_256)).await?;
    let initial = SaslInitialResponse::decode(&answer).map_err(|_| failed())?;
    if initial.mechanism != auth::scram::MECHANISM.as_bytes() {
        return Err(Refusal::fatal("client selected an invalid SASL authentication mechanism").into());
    }
    let first = initial.data.unwrap_or_default();
    let started = AwaitProof::start(first, &verifier, random::<NONCE_LEN>());
    let (exchange, server_first) = started.map_err(|_| failed())?;
    let answer = ask(arrival, AuthRequest::SaslContinue(server_first.as_bytes())).await?;
    let proved = exchange.client_final(&answer).map_err(|_| failed())?;
    if !known {
        return Err(failed());
    }
    let mut out = Vec::new();
    AuthRequest::SaslFinal(proved.server_final.as_bytes()).encode(&mut out);
    arrival.conversation.send(&out).await?;
    Ok(Some(Keys::pass_through(proved.client_key, &verifier)))
}

/// Sends a challenge and reads the answer, which must be a `p` message.
async fn ask(arrival: &mut Arrival, request: AuthRequest<'_>) -> Result<Vec<u8>, Denied> {
    let mut out = Vec::new();
    request.encode(&mut out);
    arrival.conversation.send(&out).await?;
    match arrival.conversation.next().await? {
        (b'p', body) => Ok(body),
        _ => Err(Denied::Silent),
    }
}
