use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::blockers;
use crate::clients::{ClientInfo, ClientState};
use crate::config::PoolMode;
use crate::events::LONGEST_SHOWN;
use crate::pool::{Occupancy, Pool};
use crate::shared::Shared;
use crate::snapshot;
use crate::stats::Totals;

/// What advice rests on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Length of the periods below, in seconds.
    pub seconds: f64,
    /// Every pool.
    pub pools: Vec<PoolFacts>,
    /// PostgreSQL servers that have said how many connections they accept.
    pub servers: Vec<ServerFacts>,
    /// Clients that keep their server between transactions.
    pub pins: Vec<HolderFacts>,
    /// Clients that idle in a transaction.
    pub idle_in_transaction: Vec<HolderFacts>,
    /// Clients, by where they come from.
    pub clients: Vec<ClientFacts>,
}

/// One pool in the last full period.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// Servers that it may have; `None`: no limit.
    pub allowed: Option<usize>,
    /// The setting that says so.
    pub limit: &'static str,
    /// What its servers did.
    pub occupancy: Occupancy,
    /// What its clients did.
    pub period: Totals,
    /// In microseconds, of those who waited.
    pub wait_p99: u64,
}

/// One PostgreSQL.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// Host and port, as configured.
    pub name: String,
    /// Pools there are for it.
    pub pools: usize,
    /// Connections that these may open together.
    pub promised: usize,
    /// Connections that the server accepts of ordinary users.
    pub accepts: usize,
}

/// A client that holds a server without using it.
#[derive(Debug, Clone)]
pub struct HolderFacts {
    /// Number of its socket.
    pub client: u64,
    /// Client-side database.
    pub database: String,
    /// Login user.
    pub user: String,
    /// May be empty.
    pub application_name: String,
    /// What it keeps it for.
    pub why: String,
    /// Since this statement, without literals.
    pub statement: String,
    /// For so many microseconds.
    pub age: u64,
}

/// Clients of one application at one place.
#[derive(Debug, Clone)]
pub struct ClientFacts {
    /// Client-side database.
    pub database: String,
    /// Login user.
    pub user: String,
    /// May be empty.
    pub application_name: String,
    /// Where they are.
    pub host: String,
    /// How many there are for at least a period.
    pub connections: usize,
    /// How many of those have asked for anything in the last one.
    pub used: usize,
}

/// Asks PostgreSQL for its limits, for two seconds at most.
pub(crate) async fn gather(shared: &Shared) -> Facts {
    let now = shared.clock.micros();
    let period = shared.config.load().stats_period;
    let clients = shared.clients.all();
    let pools = shared.registry.homes();
    let pins = snapshot::pins(shared).into_iter().map(|pin| HolderFacts {
        client: pin.client,
        database: pin.database,
        user: pin.user,
        application_name: pin.application_name.unwrap_or_default(),
        why: pin.reasons,
        statement: pin.statement,
        age: pin.age,
    });
    Facts {
        seconds: period.as_secs_f64().max(1.0),
        pools: pools.iter().map(|pool| pool_facts(pool)).collect(),
        servers: servers(shared, &pools).await,
        pins: pins.collect(),
        idle_in_transaction: clients.iter().filter_map(|client| idle_in_transaction(client, now)).collect(),
        clients: by_origin(&clients, now, period.as_micros() as u64),
    }
}

fn pool_facts(pool: &Pool) -> PoolFacts {
    let allowed = pool.allowed();
    let rules = pool.rules.load();
    let is =
        |most: Option<std::num::NonZeroUsize>| allowed.is_some() && most.map(|most| most.get()) == allowed;
    let limit = match () {
        () if rules.total() == allowed => "pool_size",
        () if is(rules.max_db) => "max_db_connections",
        () => "max_user_connections",
    };
    PoolFacts {
        database: pool.db.name.clone(),
        user: pool.user.name.clone(),
        allowed,
        limit,
        occupancy: pool.saturation.last(),
        period: pool.periods.last(),
        wait_p99: pool.latency.period().waiting.quantile(0.99),
    }
}

/// What a client keeps its server for is told by its pin; in session mode it has its server in any case.
fn idle_in_transaction(client: &ClientInfo, now: u64) -> Option<HolderFacts> {
    let idle = client.state() == ClientState::Active && client.since.load(Relaxed) == 0;
    if !idle || client.pin().is_some() || client.pool.rules.load().mode == PoolMode::Session {
        return None;
    }
    let server = client.pool.member(client.server.load(Relaxed))?;
    Some(HolderFacts {
        client: client.id,
        database: client.pool.db.name.clone(),
        user: client.login.name.clone(),
        application_name: client.params().application_name().unwrap_or_default().to_owned(),
        why: "a transaction".to_owned(),
        statement: sql::outline(&server.text(), LONGEST_SHOWN),
        age: now.saturating_sub(server.requested.load(Relaxed)),
    })
}

fn by_origin(clients: &[Arc<ClientInfo>], now: u64, period: u64) -> Vec<ClientFacts> {
    let mut origins: BTreeMap<[String; 4], [usize; 2]> = BTreeMap::new();
    let since = now.saturating_sub(period);
    for client in clients.iter().filter(|client| client.connected < since) {
        let application = client.params().application_name().unwrap_or_default().to_owned();
        let place = client.remote.host();
        let key = [client.pool.db.name.clone(), client.login.name.clone(), application, place];
        let [connections, used] = origins.entry(key).or_default();
        *connections += 1;
        *used += usize::from(client.requested.load(Relaxed) >= since || client.state() != ClientState::Idle);
    }
    let facts = origins.into_iter().map(|([database, user, application_name, host], [connections, used])| {
        ClientFacts { database, user, application_name, host, connections, used }
    });
    facts.collect()
}

async fn servers(shared: &Shared, pools: &[Arc<Pool>]) -> Vec<ServerFacts> {
    const LIMITS: &str = "SELECT pg_catalog.current_setting('max_connections'), \
        pg_catalog.current_setting('superuser_reserved_connections'), \
        coalesce(pg_catalog.current_setting('reserved_connections', true), '0')";
    let mut servers: BTreeMap<String, Vec<Arc<Pool>>> = BTreeMap::new();
    for pool in pools {
        let spec = pool.db.spec.load();
        if let ([_], Some(host)) = (&*spec.hosts, &spec.host_text) {
            servers.entry(format!("{host}:{}", spec.port)).or_default().push(pool.clone());
        }
    }
    let asked = servers.values().filter_map(|pools| blockers::whom_to_ask(pools.clone())).collect();
    let answers = blockers::ask_all(shared, asked, LIMITS).await;
    let accepts = |pools: &[Arc<Pool>]| {
        let of_it = |asked: &Arc<Pool>| pools.iter().any(|pool| Arc::ptr_eq(pool, asked));
        let (_, found) = answers.iter().find(|(asked, _)| of_it(asked))?;
        let values = found.as_ref().ok()?.first()?;
        let numbers: Option<Vec<usize>> = values.iter().map(|value| value.as_deref()?.parse().ok()).collect();
        numbers?.into_iter().reduce(usize::saturating_sub)
    };
    let facts = servers.iter().filter_map(|(name, pools)| {
        let accepts = accepts(pools)?;
        Some(ServerFacts { name: name.clone(), pools: pools.len(), promised: promised(pools), accepts })
    });
    facts.collect()
}

/// How many connections pools may open together. Those without a limit count with what they have.
fn promised(pools: &[Arc<Pool>]) -> usize {
    let mut databases: BTreeMap<&str, (usize, Option<usize>)> = BTreeMap::new();
    for pool in pools {
        let rules = pool.rules.load();
        let most = databases.entry(&pool.db.name).or_default();
        most.0 += pool.allowed().unwrap_or_else(|| pool.open.get());
        most.1 = rules.max_db.map(|most| most.get());
    }
    databases.values().map(|(sum, most)| most.map_or(*sum, |most| most.min(*sum))).sum()
}
