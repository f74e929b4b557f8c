use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use protocol::auth::scram::ChannelBinding;

/// When a server connection goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When the client's transaction ends.
    Transaction,
    /// When the client's statement ends; transaction blocks are refused.
    Statement,
}

impl PoolMode {
    /// The word used in configuration and console.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

/// What becomes of a client's session state when it gives its server back between transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    /// It follows the client; for what can't, the client keeps its server.
    #[default]
    Preserve,
    /// It stays with the server, as with PgBouncer.
    Discard,
}

/// A part of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(u32);

impl Share {
    /// The whole.
    pub const WHOLE: u32 = 1_000_000;

    /// At most the whole.
    pub fn millionths(millionths: u32) -> Share {
        Share(millionths.min(Share::WHOLE))
    }

    /// In millionths.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// How many server connections a pool may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes {
    /// Server connections of a pool (one database, one user); `None` is no limit.
    pub size: Option<NonZeroUsize>,
    /// Connections kept open while the pool has clients (or its database a forced user).
    pub min: usize,
    /// Connections above `size` once a client has waited `reserve_pool_timeout`.
    pub reserve: usize,
}

/// One entry of `[databases]`. `None` means that the global setting counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The name clients connect to; `*` in the fallback entry.
    pub name: String,
    /// Name on the server; `None`: the client-side name.
    pub dbname: Option<String>,
    /// Where the server is, in order; one entry unless `host` is a list. Never empty.
    pub hosts: Vec<Host>,
    /// `host` as written, for the console; `None` when the file gives none.
    pub host_text: Option<String>,
    /// Server port, for the Unix socket's name too.
    pub port: u16,
    /// Further hosts. With any, which of all hosts is the primary is observed.
    pub replicas: Vec<super::Replica>,
    /// Addresses of Patroni's REST interface, `http://HOST:PORT`, where they are not the global ones.
    pub patroni: Option<Vec<String>>,
    /// How requests are spread over the hosts.
    pub routing: super::OwnRouting,
    /// Forced server-side user: all clients share its pool.
    pub user: Option<String>,
    /// Password of the forced user; `None`: its entry in the user list.
    pub password: Option<super::Secret>,
    /// Who asks for users that the list does not have.
    pub auth_user: Option<String>,
    /// What it asks.
    pub auth_query: Option<String>,
    /// In which database, by the name clients use; a console's name: nowhere, and logins fail.
    pub auth_dbname: Option<String>,
    /// `pool_size`; `Some(None)` is no limit.
    pub pool_size: Option<Option<NonZeroUsize>>,
    /// `min_pool_size`.
    pub min_pool_size: Option<usize>,
    /// `reserve_pool_size`.
    pub reserve_pool_size: Option<usize>,
    /// Pool mode.
    pub pool_mode: Option<PoolMode>,
    /// `session_state`.
    pub session_state: Option<SessionState>,
    /// `audit_sample`.
    pub audit_sample: Option<Share>,
    /// `max_pins_per_pool`; `Some(None)` is no limit.
    pub max_pins: Option<Option<NonZeroUsize>>,
    /// `max_waiting_clients`; `Some(None)` is no limit.
    pub max_waiting: Option<Option<NonZeroUsize>>,
    /// Server connections of this database.
    pub max_connections: Option<NonZeroUsize>,
    /// Client connections of this database.
    pub max_client_connections: Option<NonZeroUsize>,
    /// Age after which a server connection is retired.
    pub server_lifetime: Option<Duration>,
    /// Time a client may wait for a server; `Some(None)` is for ever.
    pub query_wait_timeout: Option<Option<Duration>>,
    /// How long requests and transactions may take.
    pub times: super::OwnTimeLimits,
    /// Which host of a list the next connection uses.
    pub load_balance: LoadBalance,
    /// Run once after a server login.
    pub connect_query: Option<String>,
    /// `server_channel_binding`.
    pub channel_binding: Option<ChannelBinding>,
    /// `client_tls_sslmode`: what clients of this database need at least.
    pub client_tls: Option<super::SslMode>,
    /// TLS to its servers.
    pub server_tls: super::DatabaseTls,
    /// Parameters for the server's start-up packet: `client_encoding`, `datestyle`, `timezone`,
    /// `application_name`, in that order, only those given.
    pub startup: Vec<(&'static str, String)>,
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or literal address.
    Tcp(String),
    /// Directory of a Unix socket; starting with `@`: abstract.
    Unix(PathBuf),
}

/// `load_balance_hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalance {
    /// Each new connection to the next host.
    RoundRobin,
    /// Stay on a host until a connect fails, then the next.
    Disable,
}

/// One entry of `[users]`. `None` means that database or global setting counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Pool mode of this server-side user's pools.
    pub pool_mode: Option<PoolMode>,
    /// `session_state` of this server-side user's pools.
    pub session_state: Option<SessionState>,
    /// `audit_sample` of this server-side user's pools.
    pub audit_sample: Option<Share>,
    /// `pool_size`; `Some(None)` is no limit.
    pub pool_size: Option<Option<NonZeroUsize>>,
    /// `reserve_pool_size`.
    pub reserve_pool_size: Option<usize>,
    /// `max_waiting_clients` of this server-side user's pools; `Some(None)` is no limit.
    pub max_waiting: Option<Option<NonZeroUsize>>,
    /// Server connections of this user.
    pub max_connections: Option<NonZeroUsize>,
    /// Client connections of this user.
    pub max_client_connections: Option<NonZeroUsize>,
    /// Time a client may wait for a server; `Some(None)` is for ever. Login user.
    pub query_wait_timeout: Option<Option<Duration>>,
    /// How long requests and transactions may take, in this server-side user's pools.
    pub times: super::OwnTimeLimits,
    /// Time a client may be idle without a server; `None` is the global limit. Login user.
    pub client_idle_timeout: Option<Duration>,
    /// `client_tls_sslmode`: what this user needs at least. Login user.
    pub client_tls: Option<super::SslMode>,
}

/// How server connections are kept, checked and retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRules {
    /// Run when a session-mode client leaves, before the connection is used again; empty: nothing.
    pub reset_query: String,
    /// Run `reset_query` in every pool mode.
    pub reset_query_always: bool,
    /// Cancel what the client of a connection was doing when it left; else let it finish.
    pub client_gone_cancel: bool,
    /// Prepared statements that a server connection keeps in transaction and statement mode; 0: names pass as they
    /// are.
    pub max_prepared_statements: usize,
    /// Run before a connection is used that was idle longer than `check_delay`.
    pub check_query: CheckQuery,
    /// See `check_query`.
    pub check_delay: Duration,
    /// Use the connection that was idle longest (FIFO) instead of the one used last (LIFO).
    pub round_robin: bool,
    /// Age after which an unused connection is closed. Zero: used once.
    pub lifetime: Duration,
    /// Idle time after which a connection is closed; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A client of session mode is disconnected, outside a transaction, whose server is to be closed.
    pub fast_close: bool,
    /// Whether SCRAM logins are bound to the server's certificate.
    pub channel_binding: ChannelBinding,
}

/// `server_check_query`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckQuery {
    /// No check.
    Off,
    /// The empty query: answered by the server without parsing.
    Empty,
    /// This statement.
    Sql(String),
}
