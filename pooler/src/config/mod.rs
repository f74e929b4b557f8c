//! The effective configuration: already valid, with units, limits and references resolved. Nothing downstream of
//! these types checks them again; the crate that reads files builds them in one fallible step.

mod auth;
mod hba;
mod ident;
mod ldap;
mod pattern;
mod pool;
mod routing;
mod timeouts;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::tls::{ClientTls, ServerTls};
pub use auth::{Auth, AuthMethod, AuthQuery, LoginLimits, Secret, Userlist};
pub use hba::{
    AddressMatch, CertificateCheck, CertificateName, DatabaseMatch, Found, Hba, HbaRule, Hits, Incoming,
    Interface, Transport, UserMatch,
};
pub use ident::{IdentLine, IdentMap, MappedUser, SystemName};
pub use ldap::{LdapLookup, LdapOptions, LdapSecurity, LdapServer};
pub use pattern::Pattern;
pub use pool::{
    CheckQuery, Database, Host, LoadBalance, PoolMode, PoolSizes, ServerRules, SessionState, Share, User,
};
pub use protocol::auth::scram::ChannelBinding;
pub use protocol::ldap::{Filter as LdapFilter, Scope as LdapScope, Search as LdapSearch};
pub(crate) use routing::endpoint;
pub use routing::{
    MOST_HOSTS, OwnRouting, ProbeRules, ReadConsistency, ReadRouting, Replica, ReplicaFallback, Route,
    Routing,
};
pub use timeouts::{Application, OnTimeout, OwnTimeLimits, TimeLimits, Timeouts};
pub use tls::{DatabaseTls, Negotiation, SslMode};

/// Everything a running pooler needs to know. Shared as `Arc<Config>`; a reload replaces the whole value.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect. Fixed at start.
    pub listen: Listen,
    /// Threads that carry connections, each with its own event loop. Fixed at start.
    pub workers: NonZeroUsize,
    /// The number of this instance among its peers; 0: it has none.
    pub peer_id: u16,
    /// `[peers]`, by their numbers; this instance may be among them.
    pub peers: BTreeMap<u16, PeerInstance>,
    /// Who may log in and how.
    pub auth: Auth,
    /// Limits for the whole process.
    pub limits: Limits,
    /// For how long addresses of servers are kept.
    pub dns: DnsRules,
    /// Process-wide timeouts.
    pub timeouts: Timeouts,
    /// How long requests and transactions may take where neither database nor user says otherwise.
    pub times: TimeLimits,
    /// Pool sizes where neither database nor user says otherwise.
    pub sizes: PoolSizes,
    /// Pool mode where neither database nor user says otherwise.
    pub pool_mode: PoolMode,
    /// What becomes of session state in transaction and statement mode where neither database nor user says otherwise.
    pub session_state: SessionState,
    /// Unsuspicious transactions that are audited all the same.
    pub audit_sample: Share,
    /// How server connections are kept, checked and retired.
    pub server: ServerRules,
    /// How requests are spread over hosts where the database does not say otherwise.
    pub routing: Routing,
    /// How hosts are observed.
    pub probes: ProbeRules,
    /// `patroni`: addresses of Patroni's REST interface where the database has none of its own.
    pub patroni: Vec<String>,
    /// Start-up parameters of clients.
    pub params: StartupParams,
    /// TLS of clients over TCP.
    pub client_tls: ClientTls,
    /// TLS to servers over TCP where the database does not say otherwise.
    pub server_tls: Arc<ServerTls>,
    /// Socket options of every TCP connection, both sides.
    pub socket: SocketOptions,
    /// What is logged.
    pub log: LogRules,
    /// Where metrics, the dashboard and health checks are served.
    pub http: Http,
    /// Period of the averages in `SHOW STATS` and of the statistics line in the log.
    pub stats_period: std::time::Duration,
    /// Statements that each pool's `SHOW QUERIES` keeps; 0: they are not counted.
    pub query_stats: usize,
    /// `[databases]`, by the name clients use.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// The `*` entry: a template for names not listed.
    pub fallback: Option<Arc<Database>>,
    /// `[users]`, by login name.
    pub users: HashMap<String, User>,
    /// `[applications]`, of which the first that matches counts.
    pub applications: Arc<[Application]>,
}

impl Config {
    /// TLS to the servers of a database.
    pub(crate) fn server_tls(&self, database: &Database) -> Arc<ServerTls> {
        database.server_tls.tls.as_ref().unwrap_or(&self.server_tls).clone()
    }

    /// Goes on with what is in effect of TLS, where nothing has changed.
    pub(crate) fn keep_tls(&mut self, old: &Config) {
        self.client_tls.keep(&old.client_tls);
        Arc::make_mut(&mut self.server_tls).keep(&old.server_tls);
        for (name, database) in &mut self.databases {
            let old = old.databases.get(name).and_then(|database| database.server_tls.tls.as_ref());
            if let (true, Some(old)) = (database.server_tls.tls.is_some(), old) {
                let own = &mut Arc::make_mut(database).server_tls.tls;
                own.iter_mut().for_each(|own| Arc::make_mut(own).keep(old));
            }
        }
    }
}

/// Another instance, to which cancel requests are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInstance {
    /// Where it listens.
    pub host: Host,
    /// As written, for the console.
    pub host_text: String,
    /// Its port, for its Unix socket's name too.
    pub port: u16,
    /// Connections to it at once; `None` is no limit.
    pub pool_size: Option<NonZeroUsize>,
}

/// Addresses the pooler listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// TCP addresses in the order of the file. `*` is every IPv4 address and every IPv6 address, each a socket of
    /// its own. Empty: no TCP.
    pub addrs: Vec<ListenAddr>,
    /// TCP port, and the suffix of the Unix socket's name. 0 lets the kernel choose (tests).
    pub port: u16,
    /// `listen(2)` backlog, in connections.
    pub backlog: u32,
    /// Directory, mode and group of the Unix socket; `None` is no Unix socket.
    pub unix: Option<UnixListen>,
    /// `SO_REUSEPORT`: several processes share the port.
    pub reuse_port: bool,
    /// `TCP_DEFER_ACCEPT`: the kernel keeps a connection until its first bytes arrive (1 s at most).
    pub defer_accept: bool,
}

/// One entry of `listen_addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// A literal address.
    Ip(IpAddr),
    /// A host name, resolved when the socket is bound.
    Name(String),
    /// `*`: all addresses of both families.
    Any,
}

/// A Unix socket `DIR/.s.PGSQL.PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixListen {
    /// Directory; starting with `@`: an abstract socket.
    pub dir: PathBuf,
    /// Permission bits of the socket file.
    pub mode: u32,
    /// Group of the socket file: a name or a number, as written.
    pub group: Option<String>,
}

/// The HTTP server beside the console.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// `ADDRESS:PORT`, as written; `*` for an address is all. Empty: none.
    pub listen: Vec<String>,
    /// Who knows it may give orders; `None`: nobody may.
    pub admin_token: Option<Secret>,
}

/// Limits for the whole process. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Client sockets of every kind, those still logging in included.
    pub max_client_conn: usize,
    /// Server connections a database, over all its pools.
    pub max_db_connections: Option<NonZeroUsize>,
    /// Client connections a database.
    pub max_db_client_connections: Option<NonZeroUsize>,
    /// Server connections a server-side user, over all its pools.
    pub max_user_connections: Option<NonZeroUsize>,
    /// Client connections a login user.
    pub max_user_client_connections: Option<NonZeroUsize>,
    /// Clients of a pool that may keep their server connection between transactions for what they have in its session.
    pub max_pins_per_pool: Option<NonZeroUsize>,
    /// Clients of a pool that may wait for a server while no connection can be opened for them.
    pub max_waiting_clients: Option<NonZeroUsize>,
    /// Server connections that may be opening at the same time to one host.
    pub max_connecting: Option<NonZeroUsize>,
    /// Largest message either side may send, in bytes, its type byte included.
    pub max_packet_size: u32,
    /// What may be kept for one client, in bytes: its prepared statements, its notifications.
    pub client_buffer: Option<NonZeroUsize>,
    /// What may be kept for all clients, in bytes.
    pub buffers: Option<NonZeroUsize>,
}

impl Limits {
    /// What may be kept for one client, in bytes.
    pub(crate) fn client_buffer(&self) -> usize {
        self.client_buffer.map_or(usize::MAX, NonZeroUsize::get)
    }
}

/// What happens to parameters in a client's start-up packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupParams {
    /// Names dropped silently; case matters. `options` drops unknown settings inside `options`.
    pub ignore: Vec<String>,
    /// Reported parameters tracked per client beside the five that always are; case does not matter.
    pub track_extra: Vec<String>,
    /// Append the client's address to `application_name`.
    pub application_name_add_host: bool,
    /// Refuse simple queries (`disable_pqexec`).
    pub refuse_simple_query: bool,
    /// A notice to every client that logs in (`login_notify_message`).
    pub login_notice: Option<String>,
}

/// For how long an answer of the system's resolver counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsRules {
    /// One that has addresses.
    pub max_ttl: std::time::Duration,
    /// One that has none.
    pub nxdomain_ttl: std::time::Duration,
}

/// Socket options; zero or `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `TCP_KEEPCNT`, probes.
    pub keepcnt: Option<u32>,
    /// `TCP_KEEPIDLE`, seconds.
    pub keepidle: Option<u32>,
    /// `TCP_KEEPINTVL`, seconds.
    pub keepintvl: Option<u32>,
    /// `SO_SNDBUF` and `SO_RCVBUF`, bytes.
    pub buffer: Option<u32>,
    /// `TCP_USER_TIMEOUT`, milliseconds.
    pub user_timeout: Option<u32>,
}

/// Which events are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRules {
    /// Logins and new server connections.
    pub connections: bool,
    /// `closing because:` lines.
    pub disconnections: bool,
    /// `pooler error:` lines.
    pub pooler_errors: bool,
    /// The statistics line, every `stats_period`.
    pub stats: bool,
}
