//! What the pooler looks like at one moment, as plain data: the console and the metrics render the same rows.

mod connections;
mod hosts;
mod load;
mod process;
mod routing;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use protocol::startup::Replication;

pub use connections::{PinRow, SocketRow};
pub(crate) use connections::{clients, pins, servers};
pub use hosts::HostRow;
pub(crate) use hosts::hosts;
pub use load::{LatencyRow, SaturationRow};
pub(crate) use load::{latencies, saturation};

use crate::clients::{ClientInfo, ClientState};
use crate::config::{Config, LoadBalance, PoolMode, User};
use crate::console;
use crate::consoles::ConsoleInfo;
use crate::net::Peer;
use crate::peers::Peer as Instance;
use crate::pool::{Db, Pool};
use crate::server::{ServerInfo, ServerState};
use crate::shared::Shared;
use crate::stats::Totals;

pub use process::{FdRow, MemoryRow};
pub(crate) use process::{Listening, arriving, fds, memory};
pub use routing::{RouteRow, RoutedRow};
pub(crate) use routing::{route, routed};

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// Clients, linked or idle.
    pub cl_active: usize,
    /// Clients in the queue.
    pub cl_waiting: usize,
    /// Cancel requests on their way, each on a server connection of its own.
    pub cancelling: usize,
    /// Servers linked to a client.
    pub sv_active: usize,
    /// Servers held back until cancel requests are over.
    pub sv_being_canceled: usize,
    /// Free servers.
    pub sv_idle: usize,
    /// Free servers that need a check.
    pub sv_used: usize,
    /// Servers running a reset or check query.
    pub sv_tested: usize,
    /// Servers connecting.
    pub sv_login: usize,
    /// How long the first client in the queue has waited, in microseconds.
    pub maxwait: u64,
    /// Distinct statements that its clients have prepared by name, and the bytes of their texts.
    pub statements: (usize, usize),
    /// Effective pool mode.
    pub pool_mode: PoolMode,
    /// Set for host lists only.
    pub load_balance: Option<LoadBalance>,
    /// Servers that it may have without the reserve; `None` is no limit.
    pub size: Option<usize>,
    /// Servers that it may have besides when clients have waited.
    pub reserve: usize,
    /// Counters since the start.
    pub total: Totals,
}

/// What was ended, cancelled or refused for one pool, or before there was one.
#[derive(Debug, Clone)]
pub struct EventsRow {
    /// Client-side database; empty for connections that have not come to a pool.
    pub database: String,
    /// Server-side user; empty as well.
    pub user: String,
    /// How often since the start, by reason.
    pub totals: Vec<(&'static str, u64)>,
}

/// What one pool's clients keep their servers for.
#[derive(Debug, Clone)]
pub struct PinTotalsRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// Clients that keep theirs now and count against the limit.
    pub current: usize,
    /// `max_pins_per_pool`; 0 is no limit.
    pub limit: usize,
    /// Clients disconnected because of the limit, since the start.
    pub refused: u64,
    /// Begun since the start, by reason.
    pub made: Vec<(&'static str, u64)>,
}

/// Counters of one database.
#[derive(Debug, Clone)]
pub struct StatsRow {
    /// Client-side database.
    pub database: String,
    /// Since the start.
    pub total: Totals,
    /// In the last full statistics period.
    pub period: Totals,
}

/// One database.
#[derive(Debug, Clone)]
pub struct DatabaseRow {
    /// Client-side name.
    pub name: String,
    /// `host` as configured.
    pub host: Option<String>,
    /// Server port.
    pub port: u16,
    /// Name on the server.
    pub database: String,
    /// Forced user.
    pub force_user: Option<String>,
    /// Effective pool size; 0 is no limit.
    pub pool_size: usize,
    /// Effective minimum.
    pub min_pool_size: usize,
    /// Effective reserve.
    pub reserve_pool_size: usize,
    /// Effective lifetime of servers, in seconds.
    pub server_lifetime: u64,
    /// Its own pool mode.
    pub pool_mode: Option<PoolMode>,
    /// Set for host lists only.
    pub load_balance: Option<LoadBalance>,
    /// Effective limit of servers; 0 is none.
    pub max_connections: usize,
    /// Servers now.
    pub current_connections: usize,
    /// Effective limit of clients; 0 is none.
    pub max_client_connections: usize,
    /// Clients now.
    pub current_client_connections: usize,
    /// `PAUSE` or `KILL` is in effect for it.
    pub paused: bool,
    /// `DISABLE` is in effect.
    pub disabled: bool,
    /// No server is open, and none of its hosts could be reached when they were last tried.
    pub cut_off: bool,
}

/// One user.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// Name.
    pub name: String,
    /// Its own pool size; 0 is no limit.
    pub pool_size: Option<usize>,
    /// Its own reserve.
    pub reserve_pool_size: Option<usize>,
    /// Its own pool mode.
    pub pool_mode: Option<PoolMode>,
    /// Effective limit of servers; 0 is none.
    pub max_connections: usize,
    /// Servers now, as server-side user.
    pub current_connections: usize,
    /// Effective limit of clients; 0 is none.
    pub max_client_connections: usize,
    /// Clients now, as login user.
    pub current_client_connections: usize,
}

/// A name that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHostRow {
    /// The name.
    pub hostname: String,
    /// For how long the answer still counts, in seconds.
    pub ttl: u64,
    /// The addresses as `ip:0`, separated by commas; empty where the look-up failed.
    pub addrs: String,
}

/// One peer.
#[derive(Debug, Clone)]
pub struct PeerRow {
    /// Its `peer_id`.
    pub id: u16,
    /// Its host, as written.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Connections to it at once; 0 is no limit.
    pub pool_size: usize,
    /// Cancel requests were passed on to it.
    pub used: bool,
    /// Those for which no connection stands.
    pub waiting: usize,
    /// Connections that are being opened.
    pub connecting: usize,
    /// Those that were sent and are being dealt with there.
    pub active: usize,
}

/// How many there are of what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Databases.
    pub databases: usize,
    /// Users.
    pub users: usize,
    /// Peers.
    pub peers: usize,
    /// Peers to which cancel requests were passed on.
    pub used_peers: usize,
    /// Pools.
    pub pools: usize,
    /// Logged-in clients.
    pub used_clients: usize,
    /// Clients logging in.
    pub login_clients: usize,
    /// Server connections.
    pub used_servers: usize,
}

fn load_balance(db: &Db) -> Option<LoadBalance> {
    let spec = db.spec.load();
    (spec.hosts.len() > 1).then_some(spec.load_balance)
}

pub(crate) fn pools(shared: &Shared) -> Vec<PoolRow> {
    let now = shared.clock.micros();
    let mut rows: Vec<_> = shared.registry.homes().iter().map(|pool| pool_row(pool, now)).collect();
    rows.push(console_pool(shared));
    rows.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    rows
}

/// Made of counters: the cost is the same with ten clients and with ten thousand. The servers at single hosts are counted
/// with those of the primary, so that there is one row for a database and a user.
fn pool_row(pool: &Pool, now: u64) -> PoolRow {
    let sites = pool.sites();
    let all = || sites.iter().map(|site| &**site).chain([pool]);
    let count = |state| all().map(|pool| pool.count(state)).sum();
    let waiting: usize = all().flat_map(|pool| &pool.shards).map(|shard| shard.counts().1).sum();
    let logged_in_waiting = waiting.saturating_sub(pool.arriving.get());
    let oldest_wait = all().filter_map(Pool::oldest_wait).min();
    let rules = pool.rules.load();
    PoolRow {
        database: pool.db.name.clone(),
        user: pool.user.name.clone(),
        cl_active: pool.logged_in.load(Relaxed).saturating_sub(logged_in_waiting),
        cl_waiting: waiting,
        cancelling: all().map(|pool| pool.cancelling.get()).sum(),
        sv_active: count(ServerState::Active),
        sv_being_canceled: count(ServerState::BeingCanceled),
        sv_idle: count(ServerState::Idle),
        sv_used: count(ServerState::Used),
        sv_tested: count(ServerState::Tested),
        sv_login: all().map(Pool::connecting).sum(),
        maxwait: oldest_wait.map_or(0, |since| now.saturating_sub(since)),
        statements: pool.texts.usage(),
        pool_mode: rules.mode,
        load_balance: load_balance(&pool.db),
        size: rules.size,
        reserve: rules.reserve,
        total: pool.totals(),
    }
}

fn console_pool(shared: &Shared) -> PoolRow {
    PoolRow {
        database: console::NAME.to_owned(),
        user: console::NAME.to_owned(),
        cl_active: shared.consoles.len(),
        cl_waiting: 0,
        cancelling: 0,
        sv_active: 0,
        sv_being_canceled: 0,
        sv_idle: 0,
        sv_used: 0,
        sv_tested: 0,
        sv_login: 0,
        maxwait: 0,
        statements: (0, 0),
        pool_mode: PoolMode::Statement,
        load_balance: None,
        size: None,
        reserve: 0,
        total: shared.consoles.totals(),
    }
}

/// What has not come to a pool, then every pool by database and user.
pub(crate) fn events(shared: &Shared) -> Vec<EventsRow> {
    let row = |pool: &Arc<Pool>| EventsRow {
        database: pool.db.name.clone(),
        user: pool.user.name.clone(),
        totals: pool.events.totals(),
    };
    let mut rows: Vec<_> = shared.registry.homes().iter().map(row).collect();
    rows.push(EventsRow { database: String::new(), user: String::new(), totals: shared.events.totals() });
    rows.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    rows
}

/// Every pool but the console's, by database and user.
pub(crate) fn pin_totals(shared: &Shared) -> Vec<PinTotalsRow> {
    let row = |pool: &Arc<Pool>| PinTotalsRow {
        database: pool.db.name.clone(),
        user: pool.user.name.clone(),
        current: pool.pins.lasting.get(),
        limit: number(pool.rules.load().max_pins),
        refused: pool.pins.refused.load(Relaxed),
        made: pool.pins.made().collect(),
    };
    let mut rows: Vec<_> = shared.registry.homes().iter().map(row).collect();
    rows.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    rows
}

/// Per database, those with a pool only, and for the console.
pub(crate) fn stats(shared: &Shared) -> Vec<StatsRow> {
    let mut rows = Vec::new();
    for db in shared.registry.databases() {
        let pools = db.pools();
        if pools.is_empty() {
            continue;
        }
        let mut row =
            StatsRow { database: db.name.clone(), total: Totals::default(), period: Totals::default() };
        for pool in pools {
            row.total.add(&pool.totals());
            row.period.add(&pool.periods.last());
        }
        rows.push(row);
    }
    rows.push(StatsRow {
        database: console::NAME.to_owned(),
        total: shared.consoles.totals(),
        period: shared.consoles.periods.last(),
    });
    rows.sort_by(|a, b| a.database.cmp(&b.database));
    rows
}

/// Configured databases, those that came from `*` and are in use, and the console's.
pub(crate) fn databases(shared: &Shared) -> Vec<DatabaseRow> {
    let mut rows: Vec<_> = known_databases(shared).iter().map(|db| database_row(shared, db)).collect();
    rows.push(console_database(shared));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Entries are made when a client comes; what nobody has used yet is known as well.
fn known_databases(shared: &Shared) -> Vec<Arc<Db>> {
    let config = shared.config.load();
    for name in config.databases.keys() {
        let _ = shared.registry.database(&config, name, shared.clock.micros());
    }
    shared.registry.databases()
}

fn console_database(shared: &Shared) -> DatabaseRow {
    let config = shared.config.load();
    DatabaseRow {
        name: console::NAME.to_owned(),
        host: None,
        port: shared.port(),
        database: console::NAME.to_owned(),
        force_user: Some(console::NAME.to_owned()),
        pool_size: 2,
        min_pool_size: 0,
        reserve_pool_size: 0,
        server_lifetime: config.server.lifetime.as_secs(),
        pool_mode: Some(PoolMode::Statement),
        load_balance: None,
        max_connections: number(config.limits.max_db_connections),
        current_connections: 0,
        max_client_connections: number(config.limits.max_db_client_connections),
        current_client_connections: shared.consoles.len(),
        paused: false,
        disabled: false,
        cut_off: false,
    }
}

/// A limit as the console shows it.
fn number(limit: Option<NonZeroUsize>) -> usize {
    limit.map_or(0, NonZeroUsize::get)
}

fn database_row(shared: &Shared, db: &Db) -> DatabaseRow {
    let config = shared.config.load();
    let spec = db.spec.load();
    let sizes = &config.sizes;
    DatabaseRow {
        name: db.name.clone(),
        host: spec.host_text.clone(),
        port: spec.port,
        database: db.server_name(),
        force_user: spec.user.clone(),
        pool_size: number(spec.pool_size.unwrap_or(sizes.size)),
        min_pool_size: spec.min_pool_size.unwrap_or(sizes.min),
        reserve_pool_size: spec.reserve_pool_size.unwrap_or(sizes.reserve),
        server_lifetime: spec.server_lifetime.unwrap_or(config.server.lifetime).as_secs(),
        pool_mode: spec.pool_mode,
        load_balance: load_balance(db),
        max_connections: number(spec.max_connections.or(config.limits.max_db_connections)),
        current_connections: db.servers.get(),
        max_client_connections: number(
            spec.max_client_connections.or(config.limits.max_db_client_connections),
        ),
        current_client_connections: db.clients.get(),
        paused: db.paused.load(Relaxed),
        disabled: db.disabled.load(Relaxed),
        cut_off: db.servers.get() == 0 && shared.hosts.down_until(&db.targets()).is_some(),
    }
}

/// Users of the user list and of `[users]`, forced users, and the console's. A name that somebody has merely tried
/// is none.
pub(crate) fn users(shared: &Shared) -> Vec<UserRow> {
    let config = shared.config.load();
    let consoles = shared.consoles.all();
    let seen = shared.registry.user_names();
    let names =
        known_users(&config).into_iter().chain(seen.iter().map(String::as_str)).collect::<BTreeSet<_>>();
    names.into_iter().map(|name| user_row(shared, &config, &consoles, name)).collect()
}

fn known_users(config: &Config) -> BTreeSet<&str> {
    let databases = config.databases.values().chain(&config.fallback);
    let named = databases.flat_map(|db| [db.user.as_deref(), db.auth_user.as_deref()]).flatten();
    let named = named.chain(config.auth.query.user.as_deref());
    let listed = config.auth.userlist.0.keys().chain(config.users.keys()).map(String::as_str);
    listed.chain(named).chain([console::NAME]).collect()
}

fn user_row(shared: &Shared, config: &Config, consoles: &[ConsoleInfo], name: &str) -> UserRow {
    let rules = config.users.get(name);
    let seen = shared.registry.known_user(name);
    let own = |limit: fn(&User) -> Option<NonZeroUsize>| rules.and_then(limit);
    UserRow {
        name: name.to_owned(),
        pool_size: rules.and_then(|r| r.pool_size).map(number),
        reserve_pool_size: rules.and_then(|r| r.reserve_pool_size),
        pool_mode: rules.and_then(|r| r.pool_mode),
        max_connections: number(own(|r| r.max_connections).or(config.limits.max_user_connections)),
        current_connections: seen.as_ref().map_or(0, |user| user.servers.get()),
        max_client_connections: number(
            own(|r| r.max_client_connections).or(config.limits.max_user_client_connections),
        ),
        current_client_connections: seen.map_or(0, |user| user.clients.get())
            + consoles.iter().filter(|c| c.user == name).count(),
    }
}

pub(crate) fn peers(shared: &Shared) -> Vec<PeerRow> {
    let row = |(id, peer): (&u16, &Arc<Instance>)| PeerRow {
        id: *id,
        host: peer.spec.host_text.clone(),
        port: peer.spec.port,
        pool_size: number(peer.spec.pool_size),
        used: peer.used.load(Relaxed),
        waiting: peer.waiting.get(),
        connecting: peer.connecting.get(),
        active: peer.active.get(),
    };
    shared.peers.all().iter().map(row).collect()
}

/// The console counts among databases, users and pools.
pub(crate) fn counts(shared: &Shared) -> Counts {
    let peers = shared.peers.all();
    let pools = shared.registry.pools();
    Counts {
        databases: known_databases(shared).len() + 1,
        users: known_users(&shared.config.load()).len(),
        peers: peers.len(),
        used_peers: peers.values().filter(|peer| peer.used.load(Relaxed)).count(),
        pools: shared.registry.homes().len() + 1,
        used_clients: shared.clients.len() + shared.consoles.len(),
        login_clients: shared.clients.logging_in.load(Relaxed),
        used_servers: pools.iter().map(|p| p.open.get()).sum(),
    }
}
