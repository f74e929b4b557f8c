//! Finding out whether a client is who it says: which method applies, what is known of the user, and the proof.

mod credential;
mod ldap;
mod pam;
mod password;
mod rules;
mod scram;

use std::sync::Arc;

use protocol::auth::AuthRequest;
use protocol::auth::scram::Keys;
use protocol::startup::Startup;

use super::{Arrival, ConsoleClient, Denied};
use crate::config::{AuthMethod, Config, Database, Secret};
use crate::console::Rights;
use crate::error::Refusal;
use crate::net::Peer;
use credential::Credential;

/// Who a client has proven to be.
pub(super) struct Proven {
    /// Its user from here on.
    pub(super) user: String,
    /// What a SCRAM login with a stored verifier disclosed: it opens servers that store the same one.
    pub(super) keys: Option<Keys>,
    /// The password that another program has found to be right: it opens servers that ask the same one.
    pub(super) password: Option<Secret>,
}

/// Runs the configured method.
pub(super) async fn authenticate(
    arrival: &mut Arrival,
    config: &Config,
    startup: &Startup,
    spec: Option<&Arc<Database>>,
) -> Result<Proven, Denied> {
    if config.auth.method == AuthMethod::Any && spec.is_some_and(|spec| spec.user.is_none()) {
        tracing::warn!(peer = %arrival.label(), "auth_type=any requires forced user");
        return Err(Refusal::fatal("bouncer config error").into());
    }
    prove(arrival, config, startup, spec).await
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
        prove(self, config, startup, None).await?;
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

/// Chooses the method, looks the user up, and has it prove itself. `spec` is the database; `None` for the console and for
/// one that is not configured, which is told apart only after a good password.
async fn prove(
    arrival: &mut Arrival,
    config: &Config,
    startup: &Startup,
    spec: Option<&Arc<Database>>,
) -> Result<Proven, Denied> {
    let credential = credential::find(arrival, config, startup, spec).await?;
    let method = rules::method(arrival, config, startup)?;
    let (keys, password) = match method {
        AuthMethod::Ldap => {
            let options = config.auth.ldap.as_deref();
            (None, Some(ldap::log_in(arrival, options, &credential.user).await?))
        }
        AuthMethod::Pam => (None, Some(pam::log_in(arrival, config, &credential.user).await?)),
        method => (answer(arrival, config, method, &credential).await?, None),
    };
    Ok(Proven { user: credential.user, keys, password })
}

/// Has the client answer to one method.
async fn answer(
    arrival: &mut Arrival,
    config: &Config,
    method: AuthMethod,
    credential: &Credential,
) -> Result<Option<Keys>, Denied> {
    match method {
        AuthMethod::Any => Ok(None),
        AuthMethod::Trust if credential.is_known() => Ok(None),
        AuthMethod::Trust => Err(Refusal::fatal("\"trust\" authentication failed").into()),
        AuthMethod::Plain => password::plain(arrival, credential).await.map(|()| None),
        AuthMethod::Md5 => match credential.verifier() {
            Some(verifier) => scram::exchange(arrival, &credential.user, Some(verifier)).await,
            None => password::md5(arrival, credential).await.map(|()| None),
        },
        AuthMethod::Scram => scram::log_in(arrival, config, credential).await,
        AuthMethod::Ldap | AuthMethod::Pam => Err(Denied::Silent), // judged elsewhere
    }
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
