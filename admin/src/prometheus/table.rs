//! Every metric, a row each.

mod replicas;

use pooler::Phase;
use pooler::latency::Distribution;
use pooler::snapshot::{DatabaseRow, HostRow, LatencyRow, PoolRow, SaturationRow, UserRow};

use super::view::{View, seconds};
use crate::http::health;

/// One metric.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) read: Read,
    /// Puts values of the same labels together, where many are called `other`.
    pub(crate) fold: fn(f64, f64) -> f64,
    /// What it means, in a sentence.
    pub(crate) help: &'static str,
}

/// Its type, in Prometheus's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Where its values come from, and with them its labels.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// One value.
    One(fn(&View) -> Option<f64>),
    /// A value for each value of one label.
    By(&'static str, fn(&View) -> Vec<(String, f64)>),
    /// One for each pool.
    Pool(fn(&PoolRow) -> Option<f64>),
    /// One for each pool, of how full it is.
    Full(fn(&SaturationRow) -> Option<f64>),
    /// Several for each pool, by one more label.
    PoolBy(&'static str, fn(&PoolRow) -> Vec<(&'static str, f64)>),
    /// One for each pool and reason.
    Reasons(fn(&View) -> Vec<Reason<'_>>),
    /// One for each pool, from the counts of clients that keep their servers.
    Pins(fn(&pooler::snapshot::PinTotalsRow) -> f64),
    /// One for each database.
    Database(fn(&DatabaseRow) -> Option<f64>),
    /// One for each user.
    User(fn(&UserRow) -> Option<f64>),
    /// One for each host of a cluster.
    Host(fn(&HostRow) -> Option<f64>),
    /// Several for each, by one more label.
    HostBy(&'static str, fn(&HostRow) -> Vec<(&'static str, f64)>),
    /// One for each pool, kind of host and reason.
    Routed,
    /// A histogram for each pool.
    Distribution(DistributionOf),
}

/// A pool's database and user, the reason, and how often.
pub(crate) type Reason<'a> = (&'a str, &'a str, &'static str, u64);

/// One of a pool's distributions.
pub(crate) type DistributionOf = fn(&LatencyRow) -> &Distribution;

impl Read {
    pub(crate) fn labels(self) -> Vec<&'static str> {
        match self {
            Read::One(_) => vec![],
            Read::By(label, _) => vec![label],
            Read::Pool(_) | Read::Full(_) | Read::Pins(_) | Read::Distribution(_) => vec!["database", "user"],
            Read::PoolBy(label, _) => vec!["database", "user", label],
            Read::Reasons(_) => vec!["database", "user", "reason"],
            Read::Host(_) => vec!["host"],
            Read::HostBy(label, _) => vec!["host", label],
            Read::Routed => vec!["database", "user", "target", "reason"],
            Read::Database(_) => vec!["database"],
            Read::User(_) => vec!["user"],
        }
    }

    /// Puts every value, with the values of its labels. Histograms have more than one, and are read elsewhere.
    pub(crate) fn each(self, view: &View, put: &mut impl FnMut(Vec<String>, f64)) {
        let names = |row: &PoolRow| vec![row.database.clone(), row.user.clone()];
        match self {
            Read::One(read) => read(view).into_iter().for_each(|value| put(vec![], value)),
            Read::By(_, read) => read(view).into_iter().for_each(|(label, value)| put(vec![label], value)),
            Read::Pool(read) => view.pools.iter().for_each(|row| {
                read(row).into_iter().for_each(|value| put(names(row), value));
            }),
            Read::Full(read) => view.saturation.iter().for_each(|row| {
                let names = || vec![row.database.clone(), row.user.clone()];
                read(row).into_iter().for_each(|value| put(names(), value));
            }),
            Read::PoolBy(_, read) => view.pools.iter().for_each(|row| {
                let values = read(row).into_iter();
                values.for_each(|(by, value)| put([names(row), vec![by.to_owned()]].concat(), value));
            }),
            Read::Reasons(read) => read(view).into_iter().for_each(|(database, user, reason, count)| {
                put([database, user, reason].map(str::to_owned).into(), count as f64);
            }),
            Read::Pins(read) => {
                view.pins.iter().for_each(|row| put(vec![row.database.clone(), row.user.clone()], read(row)));
            }
            Read::Host(read) => view.hosts.iter().for_each(|row| {
                read(row).into_iter().for_each(|value| put(vec![row.endpoint()], value));
            }),
            Read::HostBy(_, read) => view.hosts.iter().for_each(|row| {
                read(row).into_iter().for_each(|(by, value)| put(vec![row.endpoint(), by.to_owned()], value));
            }),
            Read::Routed => view.routed.iter().for_each(|row| {
                let labels = [&*row.database, &*row.user, row.target, row.reason];
                put(labels.map(str::to_owned).into(), row.count as f64);
            }),
            Read::Database(read) => view.databases.iter().for_each(|row| {
                read(row).into_iter().for_each(|value| put(vec![row.name.clone()], value));
            }),
            Read::User(read) => view.users.iter().for_each(|row| {
                read(row).into_iter().for_each(|value| put(vec![row.name.clone()], value));
            }),
            Read::Distribution(_) => {}
        }
    }
}

const fn row(name: &'static str, kind: Kind, read: Read, help: &'static str) -> Row {
    Row { name, kind, read, fold: std::ops::Add::add, help }
}

const fn gauge(name: &'static str, read: Read, help: &'static str) -> Row {
    row(name, Kind::Gauge, read, help)
}

const fn counter(name: &'static str, read: Read, help: &'static str) -> Row {
    row(name, Kind::Counter, read, help)
}

const fn histogram(name: &'static str, of: DistributionOf, help: &'static str) -> Row {
    row(name, Kind::Histogram, Read::Distribution(of), help)
}

impl Row {
    const fn largest(self) -> Row {
        Row { fold: f64::max, ..self }
    }

    const fn smallest(self) -> Row {
        Row { fold: f64::min, ..self }
    }
}

fn flag(on: bool) -> Option<f64> {
    Some(f64::from(u8::from(on)))
}

fn number(count: usize) -> Option<f64> {
    Some(count as f64)
}

fn total(count: u64) -> Option<f64> {
    Some(count as f64)
}

fn time(micros: u64) -> Option<f64> {
    Some(seconds(micros))
}

/// 0 in the console's tables means that there is no limit.
fn limit(most: usize) -> Option<f64> {
    (most > 0).then_some(most as f64)
}

/// Clients of a pool by what they do. The first two are `cl_active` of `SHOW POOLS`.
pub(crate) fn clients(row: &PoolRow) -> [(&'static str, usize); 3] {
    let linked = row.sv_active.min(row.cl_active);
    [("idle", row.cl_active - linked), ("linked", linked), ("waiting", row.cl_waiting)]
}

/// Servers of a pool by state, in the words of `SHOW POOLS`.
pub(crate) fn servers(row: &PoolRow) -> [(&'static str, usize); 6] {
    [
        ("active", row.sv_active),
        ("being_canceled", row.sv_being_canceled),
        ("idle", row.sv_idle),
        ("used", row.sv_used),
        ("tested", row.sv_tested),
        ("login", row.sv_login),
    ]
}

fn counts<const N: usize>(counts: [(&'static str, usize); N]) -> Vec<(&'static str, f64)> {
    counts.into_iter().map(|(name, count)| (name, count as f64)).collect()
}

/// Logins that did not come to a pool.
fn failed_logins(view: &View) -> Vec<(String, f64)> {
    let rows = view.events.iter().filter(|row| row.database.is_empty());
    rows.flat_map(|row| &row.totals).map(|(reason, count)| ((*reason).to_owned(), *count as f64)).collect()
}

fn events(view: &View) -> Vec<Reason<'_>> {
    let rows = view.events.iter().filter(|row| !row.database.is_empty());
    rows.flat_map(|row| {
        row.totals.iter().map(|(reason, count)| (row.database.as_str(), row.user.as_str(), *reason, *count))
    })
    .collect()
}

fn pins(view: &View) -> Vec<Reason<'_>> {
    let rows = view.pins.iter();
    rows.flat_map(|row| {
        row.made.iter().map(|(reason, count)| (row.database.as_str(), row.user.as_str(), *reason, *count))
    })
    .collect()
}

fn since_start(view: &View) -> Option<f64> {
    Some(view.started.elapsed().unwrap_or_default().as_secs_f64())
}

fn started(view: &View) -> Option<f64> {
    view.started.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

/// All of them, in the order of `/metrics`.
pub(crate) fn metrics() -> impl Iterator<Item = &'static Row> {
    METRICS.iter().chain(replicas::METRICS)
}

const METRICS: &[Row] = &[
    // ---- the process -----------------------------------------------------------------------------------------
    gauge(
        "pgferry_build_info",
        Read::By("version", |_| vec![(env!("CARGO_PKG_VERSION").to_owned(), 1.0)]),
        "Always 1; the label says which version runs.",
    ),
    gauge("pgferry_start_time_seconds", Read::One(started), "When the process started, in Unix time."),
    gauge("pgferry_uptime_seconds", Read::One(since_start), "How long the process has run."),
    gauge(
        "pgferry_ready",
        Read::One(|view| flag(health::reasons(view).is_empty())),
        "Whether /readyz answers 200: not shutting down, nothing paused or suspended, a server reachable for every database.",
    ),
    gauge(
        "pgferry_paused",
        Read::One(|view| flag(view.paused)),
        "Whether a PAUSE of everything is in effect.",
    ),
    gauge(
        "pgferry_shutting_down",
        Read::One(|view| flag(view.phase != Phase::Running)),
        "Whether the process takes no new clients and ends when the present ones have gone.",
    ),
    gauge("pgferry_workers", Read::One(|view| number(view.workers.len())), "Threads that carry connections."),
    gauge(
        "pgferry_worker_connections",
        Read::By("worker", |view| {
            view.workers.iter().enumerate().map(|(number, load)| (number.to_string(), *load as f64)).collect()
        }),
        "Connections that a worker carries.",
    ),
    gauge(
        "pgferry_client_connections",
        Read::One(|view| number(view.counts.used_clients + view.counts.login_clients)),
        "Client connections of every kind, those logging in and the console's included.",
    ),
    gauge(
        "pgferry_max_client_connections",
        Read::One(|view| number(view.config.limits.max_client_conn)),
        "How many there may be (max_client_conn).",
    ),
    gauge(
        "pgferry_clients_logging_in",
        Read::One(|view| number(view.counts.login_clients)),
        "Connections that have not finished their login.",
    ),
    gauge("pgferry_console_clients", Read::One(|view| number(view.consoles)), "Clients of the console."),
    counter(
        "pgferry_failed_logins_total",
        Read::By("reason", failed_logins),
        "Logins that were refused, by reason; a wrong password is \"SASL authentication failed\" or \"password \
         authentication failed\".",
    ),
    gauge(
        "pgferry_logins_in_progress",
        Read::One(|view| number(view.newcomers.here)),
        "Connections that have not logged in; limited by max_login_clients.",
    ),
    counter(
        "pgferry_login_failures_delayed_total",
        Read::One(|view| total(view.newcomers.delayed)),
        "Failed logins that were answered late because of others from the same address (auth_failure_delay).",
    ),
    gauge(
        "pgferry_login_addresses_slowed",
        Read::One(|view| number(view.newcomers.slowed)),
        "Addresses with failed logins that are not forgiven yet.",
    ),
    gauge("pgferry_pools", Read::One(|view| number(view.pools.len())), "Pools, the console's not counted."),
    gauge(
        "pgferry_kept_bytes",
        Read::One(|view| number(view.kept)),
        "What is kept for clients: prepared statements, notifications, parts of messages.",
    ),
    gauge(
        "pgferry_kept_limit_bytes",
        Read::One(|view| view.config.limits.buffers.map(|most| most.get() as f64)),
        "How much may be kept (buffer_limit).",
    ),
    counter(
        "process_cpu_seconds_total",
        Read::One(|view| view.process.cpu.map(seconds)),
        "Processor time, user and system.",
    ),
    gauge(
        "process_resident_memory_bytes",
        Read::One(|view| view.process.resident.and_then(total)),
        "Resident memory.",
    ),
    gauge(
        "process_open_fds",
        Read::One(|view| view.process.open_files.and_then(total)),
        "Open file descriptors.",
    ),
    gauge(
        "process_max_fds",
        Read::One(|view| view.process.most_files.and_then(total)),
        "How many file descriptors there may be.",
    ),
    gauge("process_start_time_seconds", Read::One(started), "When the process started, in Unix time."),
    // ---- pools: how full, who waits --------------------------------------------------------------------------
    gauge(
        "pgferry_pool_clients",
        Read::PoolBy("state", |row| counts(clients(row))),
        "Clients of a pool: idle, linked to a server, waiting for one. Idle and linked are cl_active of SHOW POOLS.",
    ),
    gauge(
        "pgferry_pool_servers",
        Read::PoolBy("state", |row| counts(servers(row))),
        "Server connections of a pool, by the states of SHOW POOLS.",
    ),
    gauge(
        "pgferry_pool_size",
        Read::Pool(|row| row.size.and_then(number)),
        "Server connections that a pool may have without its reserve; absent where there is no limit.",
    ),
    gauge(
        "pgferry_pool_reserve_size",
        Read::Pool(|row| number(row.reserve)),
        "Server connections that a pool may have besides when clients have waited.",
    ),
    gauge(
        "pgferry_pool_allowed_servers",
        Read::Full(|row| limit(row.allowed)),
        "Server connections that a pool may have with its reserve, by the strictest of the limits that it has alone or with \
         others; absent where there is none.",
    ),
    gauge(
        "pgferry_pool_servers_in_use",
        Read::Full(|row| number(row.in_use)),
        "Server connections that no client could have now: all but the free ones.",
    ),
    gauge(
        "pgferry_pool_saturation_ratio",
        Read::Full(|row| (row.allowed > 0).then_some(row.saturation)),
        "Servers in use for each that is allowed; 1: no other client gets one. Absent without a limit.",
    )
    .largest(),
    gauge(
        "pgferry_pool_oldest_wait_seconds",
        Read::Pool(|row| time(row.maxwait)),
        "How long the first client in the queue has waited by now; 0: nobody waits.",
    )
    .largest(),
    gauge(
        "pgferry_pool_cancel_requests",
        Read::Pool(|row| number(row.cancelling)),
        "Cancel requests on their way to a server.",
    ),
    gauge(
        "pgferry_pool_prepared_statements",
        Read::Pool(|row| number(row.statements.0)),
        "Distinct statements that a pool's clients have prepared by name.",
    ),
    gauge(
        "pgferry_pool_prepared_statement_bytes",
        Read::Pool(|row| number(row.statements.1)),
        "The bytes of their texts.",
    ),
    // ---- pools: what passed ----------------------------------------------------------------------------------
    counter(
        "pgferry_pool_transactions_total",
        Read::Pool(|row| total(row.total.xacts)),
        "Transactions that were begun (xact_count of SHOW STATS, as the next ones in the same way).",
    ),
    counter(
        "pgferry_pool_queries_total",
        Read::Pool(|row| total(row.total.queries)),
        "Requests that were answered.",
    ),
    counter(
        "pgferry_pool_assignments_total",
        Read::Pool(|row| total(row.total.assignments)),
        "Times a server was given to a client.",
    ),
    counter(
        "pgferry_pool_received_bytes_total",
        Read::Pool(|row| total(row.total.received)),
        "Bytes from clients.",
    ),
    counter("pgferry_pool_sent_bytes_total", Read::Pool(|row| total(row.total.sent)), "Bytes from servers."),
    counter(
        "pgferry_pool_transaction_seconds_total",
        Read::Pool(|row| time(row.total.xact_time)),
        "Time in transactions.",
    ),
    counter(
        "pgferry_pool_query_seconds_total",
        Read::Pool(|row| time(row.total.query_time)),
        "Time in requests.",
    ),
    counter(
        "pgferry_pool_wait_seconds_total",
        Read::Pool(|row| time(row.total.wait_time)),
        "Time that clients waited for a server.",
    ),
    counter(
        "pgferry_pool_client_parses_total",
        Read::Pool(|row| total(row.total.client_parses)),
        "Statements that clients prepared by name.",
    ),
    counter(
        "pgferry_pool_server_parses_total",
        Read::Pool(|row| total(row.total.server_parses)),
        "Statements that the pooler prepared on servers for them.",
    ),
    counter(
        "pgferry_pool_binds_total",
        Read::Pool(|row| total(row.total.binds)),
        "Executions of statements prepared by name.",
    ),
    counter("pgferry_pool_logins_total", Read::Pool(|row| total(row.total.logins)), "Logins that succeeded."),
    histogram(
        "pgferry_pool_wait_seconds",
        |row| &row.waiting,
        "How long requests waited for a server; only those for which none was free.",
    ),
    histogram("pgferry_pool_query_seconds", |row| &row.running, "How long requests were with a server."),
    histogram(
        "pgferry_pool_transaction_seconds",
        |row| &row.transaction,
        "How long transactions took, from the first request to the end.",
    ),
    // ---- pools: what is out of the ordinary ------------------------------------------------------------------
    counter(
        "pgferry_pool_events_total",
        Read::Reasons(events),
        "What was ended, cancelled or refused, by reason (SHOW EVENTS).",
    ),
    gauge(
        "pgferry_pool_pinned_clients",
        Read::Pins(|row| row.current as f64),
        "Clients that keep their server between transactions and count against max_pins_per_pool (SHOW PIN_TOTALS).",
    ),
    counter(
        "pgferry_pool_pins_total",
        Read::Reasons(pins),
        "Times a client began to keep its server, by reason.",
    ),
    counter(
        "pgferry_pool_pins_refused_total",
        Read::Pins(|row| row.refused as f64),
        "Clients disconnected because of max_pins_per_pool.",
    ),
    // ---- databases and users ---------------------------------------------------------------------------------
    gauge(
        "pgferry_database_up",
        Read::Database(|row| flag(!row.cut_off)),
        "0: no server is open, and none of the database's hosts could be reached when they were last tried.",
    )
    .smallest(),
    gauge(
        "pgferry_database_paused",
        Read::Database(|row| flag(row.paused)),
        "Whether a PAUSE or KILL of the database is in effect.",
    )
    .largest(),
    gauge("pgferry_database_disabled", Read::Database(|row| flag(row.disabled)), "Whether it is disabled.")
        .largest(),
    gauge(
        "pgferry_database_servers",
        Read::Database(|row| number(row.current_connections)),
        "Server connections of a database, over all its pools.",
    ),
    gauge(
        "pgferry_database_max_servers",
        Read::Database(|row| limit(row.max_connections)),
        "How many there may be; absent without a limit.",
    ),
    gauge(
        "pgferry_database_clients",
        Read::Database(|row| number(row.current_client_connections)),
        "Clients of a database.",
    ),
    gauge(
        "pgferry_database_max_clients",
        Read::Database(|row| limit(row.max_client_connections)),
        "How many there may be; absent without a limit.",
    ),
    gauge(
        "pgferry_user_servers",
        Read::User(|row| number(row.current_connections)),
        "Server connections of a server-side user, over all pools.",
    ),
    gauge(
        "pgferry_user_max_servers",
        Read::User(|row| limit(row.max_connections)),
        "How many there may be; absent without a limit.",
    ),
    gauge(
        "pgferry_user_clients",
        Read::User(|row| number(row.current_client_connections)),
        "Clients of a login user.",
    ),
    gauge(
        "pgferry_user_max_clients",
        Read::User(|row| limit(row.max_client_connections)),
        "How many there may be; absent without a limit.",
    ),
];
