//! Finding out whether a client is who it says: which method applies, what is known of the user, and the proof.

mod certificate;
mod credential;
mod ldap;
mod pam;
mod password;
mod peer;
mod rules;
mod scram;

use std::sync::Arc;

use protocol::auth::AuthRequest;
use protocol::auth::scram::Keys;
use protocol::startup::Startup;
use zeroize::Zeroizing;

use super::{Arrival, ConsoleClient, Denied};
use crate::auth_query::Learnt;
use crate::config::{AuthMethod, Config, Database, Secret};
use crate::console::Rights;
use crate::error::Refusal;
use crate::net::Peer;
use credential::Credential;
use rules::Demand;

/// Who a client has proven to be.
pub(super) struct Proven {
    /// Its user from here on.
    pub(super) user: String,
    /// What it has disclosed.
    pub(super) disclosed: Disclosed,
    /// What `auth_query` has told of it.
    pub(super) learnt: Option<Learnt>,
}

/// What a client has disclosed that opens servers.
pub(super) enum Disclosed {
    Nothing,
    /// A SCRAM login with a stored verifier: it opens servers that store the same one.
    Keys(Keys),
    /// The password that another program has found to be right: it opens servers that ask the same one.
    Password(Secret),
}

impl From<Option<Keys>> for Disclosed {
    fn from(keys: Option<Keys>) -> Disclosed {
        keys.map_or(Disclosed::Nothing, Disclosed::Keys)
    }
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
        self.require_own_tls(config, None, startup.user())?;
        let tracked = &self.worker.shared.tracked;
        // Any setting may be given, as for a database: drivers do. Without a server it has no meaning.
        let params = super::ClientParams::read(startup, config, tracked, self.remote, true)?.values;
        let rights = self.console_rights(config, startup).await?;
        Ok(ConsoleClient { rights, user: startup.user().to_owned(), params })
    }

    /// What a client of the console may do, once it has proven who it is.
    async fn console_rights(&mut self, config: &Config, startup: &Startup) -> Result<Rights, Denied> {
        let user = startup.user();
        if matches!(user, "pgbouncer" | "pgferry") && self.is_own_process_owner() {
            tracing::info!(peer = %self.label(), "pgbouncer access from unix socket");
            return Ok(Rights::Admin);
        }
        let rights = rights_of(config, user)?;
        if rights == Rights::Stats {
            self.check_console_limits(config, user)?;
        }
        self.log_attempt(config, startup);
        let proven = prove(self, config, startup, None).await?;
        // By `auth_query` it may have proven to be somebody else, who must be allowed as much.
        match rights_of(config, &proven.user)? {
            Rights::Admin => Ok(rights),
            Rights::Stats => Ok(Rights::Stats),
        }
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

/// What a user may do on the console.
fn rights_of(config: &Config, user: &str) -> Result<Rights, Refusal> {
    let listed = |list: &[String]| list.iter().any(|u| u == user);
    match (listed(&config.auth.admin_users), listed(&config.auth.stats_users)) {
        (true, _) => Ok(Rights::Admin),
        (_, true) => Ok(Rights::Stats),
        _ if config.auth.method == AuthMethod::Any => Ok(Rights::Stats),
        _ => Err(Refusal::fatal("not allowed")),
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
    // Who is rejected costs no look-up.
    let demand = rules::demand(arrival, config, startup).await?;
    certificate::check(arrival, &demand, startup.user())?;
    if demand.is_judged_elsewhere() && asks_postgresql(config, spec) {
        tracing::warn!(peer = %arrival.label(), "{} can't be used together with auth_user", demand.method.name());
        return Err(Refusal::fatal("bouncer config error").into());
    }
    let mut credential = credential::find(arrival, config, startup, spec).await?;
    match answer(arrival, config, &demand, startup.user(), &mut credential).await {
        Ok(disclosed) => Ok(Proven { disclosed, learnt: credential.learnt(), user: credential.user }),
        Err(denied @ (Denied::Silent | Denied::Unsaid(_))) => Err(denied),
        Err(denied) => {
            let _ = credential.renew(arrival).await; // for the next attempt; this one has failed, whatever comes of it
            Err(denied.of_proof())
        }
    }
}

/// Whether users who are not listed are looked up in PostgreSQL.
fn asks_postgresql(config: &Config, spec: Option<&Arc<Database>>) -> bool {
    config.auth.query.user.is_some() || spec.is_some_and(|spec| spec.auth_user.is_some())
}

/// Has the client answer to one method.
async fn answer(
    arrival: &mut Arrival,
    config: &Config,
    demand: &Demand,
    login: &str,
    credential: &mut Credential,
) -> Result<Disclosed, Denied> {
    let nothing = |()| Disclosed::Nothing;
    match demand.method {
        AuthMethod::Any => Ok(Disclosed::Nothing),
        AuthMethod::Trust if credential.is_known() => Ok(Disclosed::Nothing),
        AuthMethod::Trust => Err(Refusal::fatal("\"trust\" authentication failed").into()),
        AuthMethod::Plain => password::plain(arrival, credential).await.map(nothing),
        AuthMethod::Md5 => match credential.verifier() {
            Some(verifier) => {
                scram::exchange(arrival, &credential.user, Some(verifier)).await.map(Into::into)
            }
            None => password::md5(arrival, credential).await.map(nothing),
        },
        AuthMethod::Scram => scram::log_in(arrival, config, credential).await.map(Into::into),
        AuthMethod::Peer => peer::check(arrival, demand, login, credential).await.map(nothing),
        // The certificate itself has been checked.
        AuthMethod::Cert if credential.is_known() => Ok(Disclosed::Nothing),
        AuthMethod::Cert => Err(Refusal::fatal("certificate authentication failed").into()),
        AuthMethod::Ldap => {
            let options = demand.rule.as_ref().map_or(&config.auth.ldap, |rule| &rule.ldap);
            ldap::log_in(arrival, options.as_deref(), &credential.user).await.map(Disclosed::Password)
        }
        AuthMethod::Pam => {
            let service = demand.option("pamservice").unwrap_or(&config.auth.pam_service);
            pam::log_in(arrival, service, &credential.user).await.map(Disclosed::Password)
        }
        AuthMethod::Reject | AuthMethod::Hba => Err(Refusal::fatal("login rejected").into()),
    }
}

/// Sends a challenge and reads the answer, which must be a `p` message. It is wiped when it is dropped, for it may be a
/// password.
async fn ask(arrival: &mut Arrival, request: AuthRequest<'_>) -> Result<Zeroizing<Vec<u8>>, Denied> {
    let mut out = Vec::new();
    request.encode(&mut out);
    arrival.conversation.send(&out).await?;
    match arrival.conversation.next().await? {
        (b'p', body) => Ok(Zeroizing::new(body)),
        _ => Err(Denied::Silent),
    }
}
