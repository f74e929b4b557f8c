//! Dialling a server and logging in.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use nix::errno::Errno;
use protocol::auth::md5::Md5Secret;
use protocol::auth::scram::{
    AwaitServerFinal, AwaitServerFirst, ChannelBinding, Choice, Keys, NONCE_LEN, NoMechanism,
};
use protocol::auth::{self, AuthRequest, SaslInitialResponse, SecretKind};
use protocol::error_fields::ErrorFields;
use protocol::frame::Cutter;
use protocol::message;
use protocol::params::Values;
use protocol::session::{Route, ServerMachine};
use protocol::sqlstate::SqlState;
use protocol::startup;
use zeroize::Zeroizing;

use super::dial::dial;
use super::{IdleServer, Server, ServerInfo, ServerState, own};
use crate::config::{Host, Secret};
use crate::error::Refusal;
use crate::net::Conversation;
use crate::pool::{Dial, Permit, Pool, Welcome};
use crate::prepared::ServerStatements;
use crate::queries::{Ended, Holder};
use crate::secrets::random;
use crate::state::{Leavings, Pins};
use crate::worker::Worker;

/// Longest message a server may send before it is ready, in bytes, and most parameters it may report.
const MAX_LOGIN_MESSAGE: u32 = 256 << 10;
const MOST_PARAMS: usize = 1024;

/// The parameter by which a server says what it is, from PostgreSQL 14 on.
pub(crate) const IN_HOT_STANDBY: &str = "in_hot_standby";

/// Why a connection could not be opened.
#[derive(Debug, Clone)]
pub(crate) enum ConnectError {
    /// No address, no answer, or not PostgreSQL: it may come back.
    Unreachable(String),
    /// No TLS as the database's settings demand it. Others may come to terms with the same host.
    Insecure(String),
    /// This process has no file descriptor left for it.
    Exhausted(String),
    /// The server refused the login, in its own words.
    Refused { code: SqlState, message: String },
    /// The login can't succeed with the secret there is.
    Login(&'static str),
}

/// Under what clients are counted that are told why.
const LOGIN_FAILED: &str = "server login failed";

impl ConnectError {
    /// What clients that wait for this pool are told; `None`: they go on waiting.
    pub(crate) fn for_waiting_clients(&self) -> Option<Refusal> {
        match self {
            ConnectError::Unreachable(_) | ConnectError::Insecure(_) | ConnectError::Exhausted(_) => None,
            ConnectError::Refused { code, .. } if *code == SqlState::CANNOT_CONNECT_NOW => None,
            ConnectError::Refused { code, message } => {
                Some(Refusal::with_code(*code, message.clone()).because(LOGIN_FAILED))
            }
            ConnectError::Login(text) => {
                Some(Refusal::fatal(format!("server login failed: {text}")).because(LOGIN_FAILED))
            }
        }
    }

    /// Another secret might do.
    pub(crate) fn is_of_secret(&self) -> bool {
        match self {
            ConnectError::Refused { code, .. } => {
                matches!(*code, SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
            ConnectError::Login(_) => true,
            ConnectError::Unreachable(_) | ConnectError::Insecure(_) | ConnectError::Exhausted(_) => false,
        }
    }

    /// Nobody could have logged in there at that moment, whichever database and user it were.
    pub(crate) fn is_of_host(&self) -> bool {
        match self {
            ConnectError::Unreachable(_) => true,
            ConnectError::Refused { code, .. } => *code == SqlState::CANNOT_CONNECT_NOW,
            ConnectError::Insecure(_) | ConnectError::Exhausted(_) | ConnectError::Login(_) => false,
        }
    }
}

impl ConnectError {
    /// What a replication client is told: the server's own words go to the log only.
    pub(crate) fn for_replication_client(&self) -> String {
        match self {
            ConnectError::Refused { .. } => "login failed".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Unreachable(text)
            | ConnectError::Insecure(text)
            | ConnectError::Exhausted(text) => f.write_str(text),
            ConnectError::Refused { message, .. } => f.write_str(message),
            ConnectError::Login(text) => write!(f, "server login failed: {text}"),
        }
    }
}

pub(crate) fn unreachable(what: &str) -> impl FnOnce(std::io::Error) -> ConnectError + '_ {
    move |e| match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => ConnectError::Exhausted(format!("{what}: {e}")),
        _ => ConnectError::Unreachable(format!("{what}: {e}")),
    }
}

/// Opens a connection for a pool and logs in as its user. `extra` goes into the start-up packet (replication).
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    pool: &Arc<Pool>,
    (permit, dial): (Permit, Dial),
    extra: &[(String, String)],
) -> Result<IdleServer, ConnectError> {
    let limit = pool.shared.config.load().timeouts.server_connect;
    let opening = open(worker, pool, permit, &dial, extra);
    let result = match limit {
        Some(limit) => match tokio::time::timeout(limit, opening).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Unreachable("connect timeout".to_owned())),
        },
        None => opening.await,
    };
    dial.end(&result);
    result
}

async fn open(
    worker: &Rc<Worker>,
    pool: &Arc<Pool>,
    permit: Permit,
    to: &Dial,
    extra: &[(String, String)],
) -> Result<IdleServer, ConnectError> {
    let generation = pool.generation();
    let spec = pool.db.spec.load_full();
    let from_spec = spec.startup.iter().map(|(name, value)| (*name, value.as_str()));
    let from_client = extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let params: Vec<_> = from_spec.chain(from_client).collect();
    let (conversation, said) = log_in(pool, (&to.host, to.port), &params).await?;
    let (remote, local) = (conversation.stream.remote(), conversation.stream.local());
    // What came behind the welcome (a notice, at most) is looked at before the connection is first used.
    let (stream, carry) = conversation.into_parts();

    let shared = &pool.shared;
    let mut values = Values::none(&shared.tracked);
    let mut untracked = Vec::new();
    for (name, value) in said.params {
        match shared.tracked.index(&name) {
            Some(index) => values.set(index, &value),
            None => untracked.push((name, value)),
        }
    }
    let params = pool.params.intern(values, true);
    let info = Arc::new(ServerInfo {
        id: shared.next_id(),
        host: to.host.clone(),
        port: to.port,
        remote,
        local,
        tls: stream.tls().map_or("", |tls| tls.label()),
        fd: stream.fd_number(),
        pid: said.pid,
        secret: said.secret,
        opened: shared.clock.micros(),
        generation,
        current: pool.generation_cell(),
        replication: !extra.is_empty(),
        state: AtomicU8::new(ServerState::Tested as u8),
        requested: AtomicU64::new(0),
        client: AtomicU64::new(0),
        prepared: AtomicU32::new(0),
        notifier: AtomicU32::new(0),
        params: Mutex::new(params.clone()),
        text: Mutex::default(),
    });
    let is_standby = untracked.iter().any(|(name, value)| name == IN_HOT_STANDBY && value == "on");
    if is_standby && pool.site.is_none() && pool.is_clustered() {
        return Err(ConnectError::Unreachable("it is a standby and no primary".to_owned()));
    }
    if extra.is_empty() {
        greet(pool, generation, Welcome { untracked, defaults: params.clone() });
    }
    pool.member_opened(&info);
    let mut server = Box::new(Server {
        stream,
        machine: ServerMachine::new(),
        cutter: Cutter::default(),
        route: Route::Swallow,
        carry,
        params,
        statements: ServerStatements::default(),
        settings: pool.no_settings.clone(),
        suspect: sql::Effects::NONE,
        leavings: Leavings::default(),
        defining: None,
        pins: Pins::default(),
        info,
        home: worker.index,
        idle_since: 0,
        ended: Ended::default(),
        holder: Holder::default(),
        pool: pool.clone(),
        permit: Some(permit),
        reason: "connect failed",
    });
    if let Some(sql) = &spec.connect_query
        && let Err(error) = own::run(&mut server, sql).await
    {
        tracing::warn!(peer = %server.info.peer(pool), "error while executing connect_query: {error}");
    }
    if server.machine.idle().is_none() {
        return Err(ConnectError::Login("connect_query left a transaction open"));
    }
    server.idle_since = shared.clock.micros();
    server.info.set_state(ServerState::Idle);
    Ok(IdleServer(server))
}

/// Keeps what a server has said for the logins of clients, unless that is known. Those of all hosts say the same, but for
/// what they are.
fn greet(pool: &Arc<Pool>, generation: u64, welcome: Welcome) {
    let home = pool.home();
    if home.welcome().is_none() {
        let generation = if pool.site.is_some() { home.generation() } else { generation };
        home.set_welcome(generation, welcome);
    }
}

/// Connects to a host and logs in there as a pool's user, to its database, with further parameters for the start-up packet.
/// Nothing is counted.
pub(crate) async fn log_in(
    pool: &Arc<Pool>,
    (host, port): (&Host, u16),
    params: &[(&str, &str)],
) -> Result<(Conversation, Said), ConnectError> {
    let stream = dial(&pool.shared, host, port, &pool.server_tls()).await?;
    let mut conversation = Conversation::new(stream, MAX_LOGIN_MESSAGE);
    let database = pool.db.server_name();
    let mut packet = Vec::new();
    let fixed = [("database", database.as_str()), ("user", pool.user.name.as_str())];
    startup::encode_startup(&mut packet, 0, fixed.into_iter().chain(params.iter().copied()));
    conversation.send(&packet).await.map_err(unreachable("connect failed"))?;
    authenticate(pool, &mut conversation).await?;
    let said = read_welcome(&mut conversation).await?;
    Ok((conversation, said))
}

/// Answers what the server asks until it is content.
async fn authenticate(pool: &Arc<Pool>, conversation: &mut Conversation) -> Result<(), ConnectError> {
    // Who has none answers with an empty one, as PgBouncer does, and is refused in the server's own words.
    let secret = login_secret(pool).or_else(|| Some(Secret::new("")));
    let binding = channel_binding(pool);
    let end_point = end_point(conversation);
    let mut scram = Scram::NotBegun;
    loop {
        let (tag, body) = next(conversation).await?;
        if tag == b'v' {
            continue; // we asked for 3.0, but an option of ours may be unknown
        }
        if tag != b'R' {
            return Err(ConnectError::Unreachable(format!(
                "unknown pkt from server: '{}'",
                tag.escape_ascii()
            )));
        }
        let request = AuthRequest::decode(&body);
        let request = request.map_err(|_| {
            ConnectError::Login("the server wants an authentication method that is not supported")
        })?;
        let mut out = Zeroizing::new(Vec::new()); // it may hold a password
        match request {
            AuthRequest::Ok => return scram.may_end(binding),
            AuthRequest::CleartextPassword | AuthRequest::Md5Password { .. }
                if binding == ChannelBinding::Require =>
            {
                return Err(NOT_BOUND);
            }
            AuthRequest::CleartextPassword => auth::encode_password(&mut out, plain(&secret)?.as_bytes()),
            AuthRequest::Md5Password { salt } => {
                let answer = md5(pool, &secret)?.response(salt);
                auth::encode_password(&mut out, answer.as_bytes());
            }
            AuthRequest::Sasl(mechanisms) => {
                let choice = Choice::of(&mechanisms, end_point.as_deref(), binding);
                scram = scram_begin(choice, &mut out)?;
            }
            AuthRequest::SaslContinue(data) => {
                scram = scram_prove(pool, &secret, scram, data, &mut out).await?
            }
            AuthRequest::SaslFinal(data) => {
                let Scram::Proved(exchange) = std::mem::replace(&mut scram, Scram::NotBegun) else {
                    return Err(out_of_turn());
                };
                exchange.server_final(data).map_err(|_| ConnectError::Login("invalid server signature"))?;
                scram = Scram::Verified;
            }
        }
        conversation.send(&out).await.map_err(unreachable("connect failed"))?;
    }
}

enum Scram {
    NotBegun,
    Begun(AwaitServerFirst),
    Proved(AwaitServerFinal),
    /// The server has shown that it knows the password, too.
    Verified,
}

impl Scram {
    /// The server says that the login is complete. In the middle of an exchange that is not to be believed, and where
    /// channel binding is required it takes one: which is then a bound one, for no other is begun.
    fn may_end(&self, binding: ChannelBinding) -> Result<(), ConnectError> {
        match self {
            Scram::Verified => Ok(()),
            Scram::NotBegun if binding == ChannelBinding::Require => Err(NOT_BOUND),
            Scram::NotBegun => Ok(()),
            Scram::Begun(_) | Scram::Proved(_) => Err(out_of_turn()),
        }
    }
}

/// `server_channel_binding` for this pool.
fn channel_binding(pool: &Pool) -> ChannelBinding {
    let own = pool.db.spec.load().channel_binding;
    own.unwrap_or_else(|| pool.shared.config.load().server.channel_binding)
}

/// The hash of the certificate that the server has shown (RFC 5929).
fn end_point(conversation: &Conversation) -> Option<Vec<u8>> {
    conversation.stream.tls()?.server_end_point()
}

const NOT_BOUND: ConnectError = ConnectError::Login(
    "channel binding is required, and the server did not offer SCRAM-SHA-256-PLUS over TLS",
);

const WRONG_TYPE: ConnectError = ConnectError::Login("wrong password type");

fn out_of_turn() -> ConnectError {
    ConnectError::Unreachable("unknown pkt from server: SASL message out of turn".to_owned())
}

fn scram_begin(choice: Result<Choice<'_>, NoMechanism>, out: &mut Vec<u8>) -> Result<Scram, ConnectError> {
    let choice = choice.map_err(|none| match none {
        NoMechanism::Unknown => {
            ConnectError::Login("none of the server's SASL authentication mechanisms are supported")
        }
        NoMechanism::Binding => NOT_BOUND,
    })?;
    let (exchange, first) = AwaitServerFirst::start(choice, random::<NONCE_LEN>());
    let mechanism = choice.mechanism().as_bytes();
    SaslInitialResponse { mechanism, data: Some(first.as_bytes()) }.encode(out);
    Ok(Scram::Begun(exchange))
}

async fn scram_prove(
    pool: &Arc<Pool>,
    secret: &Option<Secret>,
    scram: Scram,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<Scram, ConnectError> {
    let Scram::Begun(exchange) = scram else { return Err(out_of_turn()) };
    let challenge =
        exchange.server_first(data).map_err(|_| ConnectError::Login("malformed SCRAM message"))?;
    let keys: Keys = match secret.as_ref().map(|s| SecretKind::of(s.reveal())) {
        Some(SecretKind::Plain(password)) => {
            let cache = &pool.shared.secrets;
            let derived =
                cache.derive(&pool.user.name, password, challenge.salt(), challenge.iterations()).await;
            derived.ok_or(ConnectError::Login("malformed SCRAM message"))?
        }
        // Only what a client's login disclosed can stand in for the password, and only for the same verifier.
        Some(SecretKind::Scram(verifier)) if challenge.is_salted_like(&verifier) => {
            pool.keys_for(&verifier).ok_or(WRONG_TYPE)?
        }
        _ => return Err(WRONG_TYPE),
    };
    let (exchange, last) = challenge.prove(&keys);
    auth::encode_sasl_response(out, last.as_bytes());
    Ok(Scram::Proved(exchange))
}

/// The secret of the pool's user: the database's for a forced user, else the password that a client has proven, else the one
/// in the user list, else what `auth_query` has told of it.
fn login_secret(pool: &Pool) -> Option<Secret> {
    let spec = pool.db.spec.load();
    if let Some(password) = spec.password.as_ref().filter(|_| pool.is_forced()) {
        return Some(password.clone());
    }
    if let Some(password) = pool.proven() {
        return Some(password);
    }
    let listed = pool.shared.config.load().auth.userlist.0.get(&pool.user.name).cloned();
    listed.or_else(|| Some(pool.learnt()?.secret))
}

fn plain(secret: &Option<Secret>) -> Result<&str, ConnectError> {
    match secret.as_ref().map(|s| (s, SecretKind::of(s.reveal()))) {
        Some((secret, SecretKind::Plain(_))) => Ok(secret.reveal()),
        _ => Err(WRONG_TYPE),
    }
}

fn md5(pool: &Pool, secret: &Option<Secret>) -> Result<Md5Secret, ConnectError> {
    match secret.as_ref().map(|s| SecretKind::of(s.reveal())) {
        Some(SecretKind::Md5(stored)) => Ok(stored),
        Some(SecretKind::Plain(password)) => Ok(Md5Secret::new(&pool.user.name, password.as_bytes())),
        _ => Err(WRONG_TYPE),
    }
}

/// What a server told before it was ready.
pub(crate) struct Said {
    params: Vec<(String, String)>,
    pid: u32,
    secret: Box<[u8]>,
}

/// Reads from `AuthenticationOk` to the first `ReadyForQuery`.
async fn read_welcome(conversation: &mut Conversation) -> Result<Said, ConnectError> {
    let mut said = Said { params: Vec::new(), pid: 0, secret: Box::default() };
    let junk = || ConnectError::Unreachable("unknown pkt from server at login".to_owned());
    loop {
        let (tag, body) = next(conversation).await?;
        match tag {
            b'S' if said.params.len() < MOST_PARAMS => {
                let (name, value) = message::read_parameter_status(&body).ok_or_else(junk)?;
                said.params.push((name.into_owned(), value.into_owned()));
            }
            b'K' => {
                let (pid, secret) = message::read_backend_key_data(&body).ok_or_else(junk)?;
                (said.pid, said.secret) = (pid, secret.into());
            }
            b'N' => {}
            b'Z' if message::read_ready_for_query(&body) == Some(message::TxStatus::Idle) => return Ok(said),
            _ => return Err(junk()),
        }
    }
}

async fn next(conversation: &mut Conversation) -> Result<(u8, Vec<u8>), ConnectError> {
    let (tag, body) = conversation.next().await.map_err(unreachable("connect failed"))?;
    if tag == b'E' {
        let fields = ErrorFields::new(&body);
        return Err(ConnectError::Refused {
            code: fields.code().unwrap_or(SqlState::PROTOCOL_VIOLATION),
            message: fields.message().unwrap_or_default().into_owned(),
        });
    }
    Ok((tag, body))
}
