//! From an accepted socket to a client that may work: encryption request, start-up packet, limits, login, welcome.

mod auth;
mod console_session;
mod startup_params;
mod tls;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use protocol::auth::AuthRequest;
use protocol::error_fields::{ErrorMessage, Severity};
use protocol::message::{self, TxStatus};
use protocol::params::Values;
use protocol::sqlstate::SqlState;
use protocol::startup::{self, Parsed, Replication, Startup, StartupPacket};
use tracing::{info, warn};

use crate::cancel;
use crate::client::{Admitted, ROUTE, ROUTES, Session};
use crate::clients::{Arriving, CancelKey, NewClient};
use crate::config::{Config, Database, Route, SessionState};
use crate::console::{Rights, is_console};
use crate::error::Refusal;
use crate::handover::Whence;
use crate::lifecycle::Phase;
use crate::load::Leave;
use crate::net::{Conversation, Peer, Stream};
use crate::newcomers::{Crowded as LoginsCrowded, Origin, TIME_TO_TELL};
use crate::params::ParamSet;
use crate::pool::{Counting, Crowded, Db, Grant, NotConfigured, Pool, PoolRules, User, Welcome};
use crate::server::IN_HOT_STANDBY;
use crate::shared::Shared;
use crate::state::Settings;
use crate::worker::{Local, Worker};

use auth::Disclosed;
use startup_params::ClientParams;

/// Longest start-up packet, in bytes; PgBouncer's limit.
const MAX_STARTUP: usize = 64 << 10;

/// Who has not said yet who it is.
const NOBODY: &str = "(nodb)/(nouser)@";

/// Newest minor version of protocol 3 that clients are offered.
const NEWEST_MINOR: u16 = 0;

/// Longest message during a login, in bytes: passwords and SASL messages.
const MAX_LOGIN_MESSAGE: u32 = 64 << 10;

/// Why a login ended without a session.
pub(super) enum Denied {
    /// The client is told why.
    Refused(Refusal),
    /// It has not proven who it is, and is told so.
    Failed(Refusal),
    /// Nobody is there to be told, or nothing is to be said.
    Silent,
    /// Nothing can be said; the log is told.
    Unsaid(String),
}

impl Denied {
    /// The same, where a proof was refused: it was a failure, whatever was wrong with it.
    fn of_proof(self) -> Denied {
        match self {
            Denied::Refused(refusal) | Denied::Failed(refusal) => Denied::Failed(refusal),
            Denied::Silent | Denied::Unsaid(_) => self,
        }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Denied {
        Denied::Refused(refusal)
    }
}

impl From<std::io::Error> for Denied {
    fn from(error: std::io::Error) -> Denied {
        match error.kind() {
            std::io::ErrorKind::InvalidData => Denied::Refused(Refusal::fatal(error.to_string())),
            _ => Denied::Silent,
        }
    }
}

/// A connection on its way to a session.
pub(super) struct Arrival {
    pub(super) worker: Rc<Worker>,
    pub(super) conversation: Conversation,
    pub(super) remote: Peer,
    pub(super) local: Peer,
    pub(super) id: u64,
    /// When it connected, in microseconds.
    pub(super) since: u64,
    /// `database/user@address`, as far as known, for the log.
    pub(super) who: String,
    counted: Counting,
    leave: Leave,
}

/// Serves one accepted connection until its session, if it comes to one, has a task of its own.
pub(crate) async fn admit(worker: Rc<Worker>, stream: Stream, remote: Peer, leave: Leave) {
    let shared = worker.shared.clone();
    let (counted, _) = shared.clients.sockets.count();
    let local = stream.local();
    let mut arrival = Arrival {
        conversation: Conversation::new(stream, MAX_LOGIN_MESSAGE),
        who: format!("{NOBODY}{}", remote.label(shared.port())),
        id: shared.next_id(),
        since: shared.clock.micros(),
        worker,
        remote,
        local,
        counted,
        leave,
    };
    let (id, since) = (arrival.id, arrival.since);
    shared.clients.arrives(id, Arriving { remote, local, since });
    let config = shared.config.load_full();
    let origin = Origin::of(remote, &arrival.conversation.stream);
    let newcomer = match shared.newcomers.enter(origin, &config.auth.logins, since) {
        Ok(newcomer) => newcomer,
        Err(crowded) => {
            Box::pin(arrival.tell(crowded)).await;
            return shared.clients.has_arrived(id);
        }
    };
    let outcome = within(config.timeouts.client_login, arrival.log_in(), "client_login_timeout").await;
    drop(config);
    shared.clients.has_arrived(id);
    if let Err(Denied::Failed(_)) = &outcome {
        // Also if it leaves meanwhile: it would know by then that its guess was wrong.
        let delay = newcomer.failed(shared.clock.micros(), &shared.config.load().auth.logins);
        tokio::time::sleep(delay).await;
    }
    drop(newcomer);
    // Boxed, as is what follows the start-up packet: who says nothing would otherwise have room for all of it.
    match outcome {
        Ok(Login::Session(session)) => Box::pin(arrival.start_session(*session)).await,
        Ok(Login::Console(client)) => Box::pin(console_session::run(arrival, client)).await,
        Ok(Login::Done) => {}
        Err(denied) => Box::pin(arrival.turn_away(denied)).await,
    }
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Denied>>,
    text: &'static str,
) -> Result<T, Denied> {
    match limit {
        Some(limit) => {
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Refusal::fatal(text).into()))
        }
        None => work.await,
    }
}

enum Login {
    Session(Box<Authenticated>),
    Console(ConsoleClient),
    /// It was not a login: a cancel request, or nothing at all.
    Done,
}

/// A client that has proven who it is.
struct Authenticated {
    pool: Arc<Pool>,
    login: Arc<User>,
    params: ClientParams,
    replication: Replication,
    counted: [Counting; 3],
}

/// Whether session state follows clients of this database and login.
fn preserves(config: &Config, db: &Database, login: &str) -> bool {
    let user = config.users.get(db.user.as_deref().unwrap_or(login));
    PoolRules::new(config, db, user).session_state == SessionState::Preserve
}

/// A client of the console that has proven who it is.
pub(super) struct ConsoleClient {
    rights: Rights,
    user: String,
    /// Tracked parameters that it gave.
    params: Values,
}

impl Arrival {
    async fn log_in(&mut self) -> Result<Login, Denied> {
        let Some(startup) = self.read_startup().await? else { return Ok(Login::Done) };
        let shared = self.worker.shared.clone();
        let config = shared.config.load_full();
        self.who = format!("{}/{}@{}", startup.database(), startup.user(), self.remote.label(shared.port()));
        self.require_tls(config.client_tls.mode())?;
        if startup.must_negotiate(NEWEST_MINOR) {
            let mut out = Vec::new();
            startup::encode_negotiate_protocol_version(&mut out, NEWEST_MINOR, startup.protocol_options());
            self.conversation.send(&out).await?;
        }
        if is_console(startup.database()) {
            return Box::pin(self.log_in_to_console(&config, &startup)).await.map(Login::Console);
        }
        if shared.clients.sockets.get() > config.limits.max_client_conn {
            return Err(Refusal::fatal("no more connections allowed (max_client_conn)")
                .because("max_client_conn")
                .into());
        }
        Box::pin(self.log_in_to_database(&config, &startup)).await.map(|a| Login::Session(Box::new(a)))
    }

    /// Reads up to the start-up packet; `None` if it was a cancel request, which is dealt with, or if the client has left:
    /// it has only looked whether somebody listens, and leaves no line in the log, as with PgBouncer.
    async fn read_startup(&mut self) -> Result<Option<Startup>, Denied> {
        loop {
            if self.begins_with_tls() {
                Box::pin(self.begin_tls(&[])).await?;
            }
            let parsed = startup::parse(self.conversation.input(), MAX_STARTUP);
            let (packet, used) = match parsed {
                Ok(Parsed::Incomplete { .. }) => {
                    match self.conversation.read_more().await.map_err(Denied::from) {
                        Err(Denied::Silent) => return Ok(None),
                        read => read?,
                    }
                    continue;
                }
                Ok(Parsed::Complete { packet, used }) => (packet, used),
                Err(error) if error.is_silent() => return Err(Denied::Silent),
                Err(error) => return Err(Refusal::fatal(error.to_string()).into()),
            };
            self.conversation.consume(used);
            match packet {
                StartupPacket::Ssl => Box::pin(self.answer_ssl_request()).await?,
                StartupPacket::GssEnc => self.conversation.send(b"N").await?,
                StartupPacket::Cancel(cancel) => {
                    if let Some(key) = CancelKey::from_request(cancel.pid, &cancel.secret) {
                        Box::pin(cancel::request(&self.worker.shared, key, Whence::Client)).await;
                    }
                    return Ok(None);
                }
                StartupPacket::Startup(startup) => return Ok(Some(startup)),
            }
        }
    }

    async fn log_in_to_database(
        &mut self,
        config: &Config,
        startup: &Startup,
    ) -> Result<Authenticated, Denied> {
        let shared = self.worker.shared.clone();
        // Nothing is remembered of names that nobody has proven to be allowed to use.
        let spec = config.databases.get(startup.database()).or(config.fallback.as_ref());
        self.require_own_tls(config, spec.map(|spec| &**spec), startup.user())?;
        let preserves = spec.is_none_or(|db| preserves(config, db, startup.user()));
        let params = ClientParams::read(startup, config, &shared.tracked, self.remote, preserves)?;
        check_client_limits(&shared, config, startup)?;
        self.log_attempt(config, startup);
        let proven = auth::authenticate(self, config, startup, spec).await?;
        let config = &*shared.config.load_full(); // a reload may have come meanwhile
        let db = shared.registry.database(config, startup.database(), self.since);
        let db = db.map_err(|NotConfigured| {
            let name: String = startup.database().chars().take(63).collect();
            info!(peer = %self.label(), "login failed: db={name} user={}", proven.user);
            Refusal::fatal(format!("no such database: {name}")).because("no such database")
        })?;
        if db.disabled.load(Relaxed) {
            return Err(Refusal::fatal(format!("database \"{}\" is disabled", db.name))
                .because("database is disabled")
                .into());
        }
        if shared.phase() != Phase::Running {
            return Err(Refusal::fatal("pooler is shutting down").into());
        }
        let login = shared.registry.user(&proven.user);
        let [of_login, of_db] = [login.clients.count().0, db.clients.count().0];
        // Others may have logged in meanwhile; this login is counted by now.
        within_client_limits(config, &login, Some(&db), 0)?;
        let pool = shared.registry.pool(&shared, &db, &proven.user);
        let counted = [of_login, of_db, pool.clients.count().0];
        // A client that knows its own password has not shown to know the forced user's.
        if db.spec.load().user.is_none() {
            match proven.disclosed {
                Disclosed::Nothing => {}
                Disclosed::Keys(keys) => pool.pass_through(keys),
                Disclosed::Password(password) => pool.prove(Some(password)),
            }
            pool.learn(proven.learnt);
        }
        Ok(Authenticated { pool, login, params, replication: startup.replication(), counted })
    }

    fn log_attempt(&self, config: &Config, startup: &Startup) {
        if config.log.connections {
            let (db, user) = (startup.database(), startup.user());
            let replication = match startup.replication() {
                Replication::Off => "no",
                Replication::Logical => "database",
                Replication::Physical => "yes",
            };
            let tls = Some(self.tls()).filter(|tls| !tls.is_empty()).unwrap_or("no");
            info!(peer = %self.label(), "login attempt: db={db} user={user} tls={tls} replication={replication}");
        }
    }

    /// How the log names it.
    pub(super) fn label(&self) -> String {
        format!("C-{:#x}: {}", self.id, self.who)
    }

    /// Sends the welcome and gives the session its own task, so that what a login needs is freed.
    async fn start_session(mut self, client: Authenticated) {
        let config = self.worker.shared.config.load_full();
        let left = config.timeouts.client_login.map(|limit| {
            let used = self.worker.shared.clock.micros().saturating_sub(self.since);
            limit.saturating_sub(Duration::from_micros(used))
        });
        let welcome =
            within(left, self.await_welcome(&config, &client), "client_login_timeout (server down)").await;
        let welcome = match welcome {
            Ok(welcome) => welcome,
            Err(denied) => return self.turn_away(denied).await,
        };
        let shared = self.worker.shared.clone();
        let values = client.params.values.clone().or(welcome.defaults.values());
        let params = client.pool.params.intern(values, false);
        let beginning = client.params.beginning(&shared.tracked).into();
        let settings = client.pool.settings.intern(Settings::new(client.params.untracked));
        if let Some(refusal) = wrong_route(&settings) {
            return self.turn_away(refusal.into()).await;
        }
        let new = NewClient {
            id: self.id,
            worker: self.worker.index,
            pool: client.pool.clone(),
            login: client.login,
            remote: self.remote,
            local: self.local,
            tls: self.tls(),
            replication: client.replication,
            fd: self.conversation.stream.fd_number(),
            connected: self.since,
            params: params.clone(),
        };
        let info = shared.clients.add(new, config.peer_id);
        let mut out = Vec::with_capacity(512);
        let standby = client.pool.cluster().map(|_| reads_replicas(&client.pool, &settings));
        write_welcome(&mut out, &welcome, (&params, standby), &self.worker);
        message::backend_key_data(&mut out, info.key.pid, &info.key.secret);
        put_login_notice(&mut out, &config);
        message::ready_for_query(&mut out, TxStatus::Idle);
        if self.conversation.send(&out).await.is_err() {
            shared.clients.remove(info.key);
            return;
        }
        client.pool.counters[self.worker.index].logins.add(1);
        let replication = (client.replication != Replication::Off).then_some(client.params.for_server);
        let (stream, input) = self.conversation.into_parts();
        let session = Session::new(Admitted {
            worker: self.worker.clone(),
            local: Local::new(info),
            stream,
            input,
            params,
            settings,
            beginning,
            replication,
            counted: (self.counted, client.counted),
            leave: self.leave,
        });
        self.worker.spawn(session.run());
    }

    /// What servers of this pool say at their login; the first client of a pool waits for one.
    async fn await_welcome(
        &mut self,
        config: &Config,
        client: &Authenticated,
    ) -> Result<Arc<Welcome>, Denied> {
        let pool = &client.pool;
        if let Some(welcome) = pool.welcome() {
            return Ok(welcome);
        }
        self.conversation.send_queued().await?; // the end of the proof does not wait
        let mut counted = pool
            .join_crowd()
            .map_err(|crowded| Refusal::from(crowded.message(Severity::Fatal)).because(Crowded::REASON))?;
        loop {
            if let Some(welcome) = pool.welcome() {
                return Ok(welcome);
            }
            let limit = pool.wait_limit(config, &client.login.name, None);
            let home = self.worker.index;
            let mut place = pool.wait(home, self.worker.shared.clock.micros(), limit, None, counted.take());
            let _arriving = pool.arriving.count();
            if pool.is_removed() {
                return Err(Refusal::fatal("database removed").into()); // nobody would serve this queue
            }
            pool.pump(&self.worker);
            let grant = tokio::select! {
                biased;
                grant = &mut place.granted => grant,
                () = self.conversation.gone() => return Err(Denied::Silent),
            };
            place.done = true;
            match grant {
                Ok(Grant::Server(server)) => pool.give_back(home, server),
                Ok(Grant::Refused(refusal)) => return Err(refusal.into()),
                Ok(Grant::Cancelled) => {}
                Err(_) => return Err(Refusal::fatal("database removed").into()),
            }
        }
    }

    /// One that may not log in now is told so, unless that is being done for many. A cancel request is carried out.
    async fn tell(mut self, crowded: LoginsCrowded) {
        let shared = self.worker.shared.clone();
        let Some(_telling) = shared.newcomers.tells() else {
            return shared.events.count(Refusal::from(crowded).reason());
        };
        if let Ok(Ok(Some(_))) = tokio::time::timeout(TIME_TO_TELL, self.read_startup()).await {
            self.turn_away(Refusal::from(crowded).into()).await;
        }
    }

    async fn turn_away(mut self, denied: Denied) {
        let config = self.worker.shared.config.load_full();
        let reason = match &denied {
            Denied::Refused(refusal) | Denied::Failed(refusal) => refusal.text().to_owned(),
            Denied::Silent => "client unexpected eof".to_owned(),
            Denied::Unsaid(reason) => reason.clone(),
        };
        if let Denied::Refused(refusal) | Denied::Failed(refusal) = &denied {
            self.worker.shared.events.count(refusal.reason());
            if config.log.pooler_errors {
                warn!(peer = %self.label(), "pooler error: {reason}");
            }
            let mut out = Vec::new();
            refusal.encode(&mut out);
            let _ =
                tokio::time::timeout(Duration::from_secs(1), self.conversation.send_and_close(&out)).await;
        }
        // Who only looks whether somebody listens is not worth a line.
        let said_nothing = matches!(denied, Denied::Silent) && self.conversation.input().is_empty();
        if config.log.disconnections && !(said_nothing && self.who.starts_with(NOBODY)) {
            let age = self.worker.shared.clock.micros().saturating_sub(self.since) / 1_000_000;
            info!(peer = %self.label(), "closing because: {reason} (age={age}s)");
        }
    }
}

/// Refuses a client that would be one too many, before it is asked for a password.
fn check_client_limits(shared: &Shared, config: &Config, startup: &Startup) -> Result<(), Refusal> {
    let db = shared.registry.known_database(startup.database());
    match shared.registry.known_user(startup.user()) {
        Some(user) => within_client_limits(config, &user, db.as_ref(), 1),
        None => Ok(()),
    }
}

/// `more`: clients that are not counted yet.
fn within_client_limits(
    config: &Config,
    user: &User,
    db: Option<&Arc<Db>>,
    more: usize,
) -> Result<(), Refusal> {
    let own = config.users.get(&user.name).and_then(|u| u.max_client_connections);
    let limit = own.or(config.limits.max_user_client_connections);
    if limit.is_some_and(|most| user.clients.get() + more > most.get()) {
        return Err(Refusal::fatal("client connections exceeded (max_user_client_connections)")
            .because("max_user_client_connections"));
    }
    let Some(db) = db else { return Ok(()) };
    let limit = db.spec.load().max_client_connections.or(config.limits.max_db_client_connections);
    if limit.is_some_and(|most| db.clients.get() + more > most.get()) {
        return Err(Refusal::fatal("client connections exceeded (max_db_client_connections)")
            .because("max_db_client_connections"));
    }
    Ok(())
}

/// What the configuration has to say to everybody.
fn put_login_notice(out: &mut Vec<u8>, config: &Config) {
    if let Some(text) = &config.params.login_notice {
        ErrorMessage::notice(text.clone()).encode_notice(out);
    }
}

/// The client's route is none that there is.
fn wrong_route(settings: &Settings) -> Option<Refusal> {
    let word = settings.values().get(ROUTE).filter(|word| Route::of(word).is_none())?;
    let text = format!("invalid value for parameter \"{ROUTE}\": \"{word}\"");
    let message = ErrorMessage::fatal(SqlState::INVALID_PARAMETER_VALUE, text);
    Some(Refusal::from(message.with_hint(ROUTES)).because("invalid route"))
}

/// All requests of the client go to replicas, by its own word or by that of its database.
fn reads_replicas(pool: &Pool, settings: &Settings) -> bool {
    let own = settings.values().get(ROUTE).and_then(|word| Route::of(word));
    let routing = &pool.rules.load().routing;
    let route = routing.heeded(own.unwrap_or(routing.route));
    matches!(route, Route::Replica | Route::PreferReplica)
}

/// `standby`: what the hosts are that the client is to use, where they are not all alike.
fn write_welcome(
    out: &mut Vec<u8>,
    welcome: &Welcome,
    (params, standby): (&ParamSet, Option<bool>),
    worker: &Worker,
) {
    AuthRequest::Ok.encode(out);
    for (name, value) in &welcome.untracked {
        let value = match standby.filter(|_| name == IN_HOT_STANDBY) {
            Some(true) => "on",
            Some(false) => "off",
            None => value,
        };
        message::parameter_status(out, name, value);
    }
    for (index, name) in worker.shared.tracked.names().enumerate() {
        if let Some(value) = params.values().get(index) {
            message::parameter_status(out, name, value);
        }
    }
}
