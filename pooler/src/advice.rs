//! What an operator should look at, from what was measured; each piece of advice with its evidence.
//!
//! [`advise`] is a pure function over [`Facts`]. How many servers a pool needs follows from Little's law: the rate of
//! transactions times their mean duration is the mean number of servers in use, whatever the distributions are; with
//! those who wait added it is how many would be if nobody had to.

mod facts;

pub(crate) use facts::gather;
pub use facts::{ClientFacts, Facts, HolderFacts, PoolFacts, ServerFacts};

/// How urgent a piece of advice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Clients suffer now.
    Critical,
    /// They will when there is a little more load.
    Warning,
    /// Something is larger, or lasts longer, than it need.
    Notice,
}

impl Severity {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// How urgent it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// What to do.
    pub advice: String,
    /// What was measured.
    pub evidence: String,
}

/// From this part of a period on in which somebody waits, a pool counts as saturated, ...
const WAITS: f64 = 0.05;
/// ... and from this on as the reason why clients are slow.
const WAITS_MUCH: f64 = 0.5;
/// Limits below this are not worth a remark.
const SMALL: usize = 8;
/// Times in microseconds from which on a pin, or a pause in a transaction, is worth one.
const LONG_PIN: u64 = 300_000_000;
const LONG_PAUSE: u64 = 10_000_000;
/// Transactions of a period in which servers were held for less than this part of the time say nothing.
const BUSY: f64 = 0.1;
/// Remarks on single clients, the worst ones first.
const MOST_CLIENTS: usize = 5;

/// Everything that is worth saying, the most urgent first.
pub fn advise(facts: &Facts) -> Vec<Advice> {
    let mut all: Vec<Advice> = Vec::new();
    for pool in &facts.pools {
        all.extend(saturated(pool, facts.seconds));
        all.extend(too_large(pool, facts.seconds));
        all.extend(idles_in_transactions(pool, facts.seconds));
    }
    all.extend(facts.servers.iter().filter_map(promises_too_much));
    all.extend(holders(&facts.pins, LONG_PIN, "keeps its server connection", |pin| {
        (
            Severity::Notice,
            format!(
                "have it give up what it keeps it for ({}), or use a database with pool_mode = session",
                pin.why
            ),
        )
    }));
    all.extend(holders(&facts.idle_in_transaction, LONG_PAUSE, "idles in a transaction", |_| {
        let what = "end the transaction before the client does other work, or set idle_transaction_timeout";
        (Severity::Warning, what.to_owned())
    }));
    all.extend(facts.clients.iter().filter_map(|clients| too_many(clients, facts.seconds)));
    all.sort_by(|a, b| (a.severity, &a.subject, &a.advice).cmp(&(b.severity, &b.subject, &b.advice)));
    all
}

/// Servers in a transaction, on average.
fn busy(pool: &PoolFacts, seconds: f64) -> f64 {
    pool.period.xact_time as f64 / 1e6 / seconds
}

fn subject(pool: &PoolFacts) -> String {
    format!("pool {}/{}", pool.database, pool.user)
}

fn load(pool: &PoolFacts, seconds: f64) -> String {
    if pool.period.xacts == 0 {
        return format!("no transaction in the last full stats_period ({seconds:.0} s)");
    }
    let mean = pool.period.xact_time.checked_div(pool.period.xacts).unwrap_or(0) as f64 / 1e3;
    let rate = pool.period.xacts as f64 / seconds;
    format!(
        "in {seconds:.0} s {rate:.1} transactions/s of {mean:.1} ms each = {:.1} servers busy",
        busy(pool, seconds)
    )
}

fn saturated(pool: &PoolFacts, seconds: f64) -> Option<Advice> {
    let allowed = pool.allowed?;
    let full = pool.occupancy.mean >= allowed as f64 * 0.8 || pool.occupancy.most >= allowed;
    if pool.occupancy.waited < WAITS || !full {
        return None;
    }
    // A transaction that has not ended yet counts in the looks alone.
    let (queue, busy) = (pool.occupancy.waiting, busy(pool, seconds).max(pool.occupancy.mean));
    let wanted = ((busy + queue).ceil() as usize).max(allowed + 1);
    let much = pool.occupancy.waited >= WAITS_MUCH;
    Some(Advice {
        severity: if much { Severity::Critical } else { Severity::Warning },
        subject: subject(pool),
        advice: format!(
            "shorten its transactions, or raise {} from {allowed} to about {wanted} if the server can do more at a time",
            pool.limit
        ),
        evidence: format!(
            "somebody waited {:.0} % of the time, {queue:.1} clients on average{}; {:.1} of {allowed} servers in use on \
             average, {} at most; {}",
            pool.occupancy.waited * 100.0,
            match pool.wait_p99 {
                0 => String::new(),
                p99 => format!(", p99 {:.1} ms", p99 as f64 / 1e3),
            },
            pool.occupancy.mean,
            pool.occupancy.most,
            load(pool, seconds)
        ),
    })
}

fn too_large(pool: &PoolFacts, seconds: f64) -> Option<Advice> {
    let allowed = pool.allowed?;
    // As many as are needed on average, and three standard deviations if they come independently.
    let busy = busy(pool, seconds);
    let enough = (busy + 3.0 * busy.sqrt()).ceil() as usize;
    let enough = enough.max(pool.occupancy.most * 2).max(2);
    if pool.period.xacts == 0 || pool.occupancy.waited > 0.0 || allowed < SMALL || enough * 4 > allowed {
        return None;
    }
    Some(Advice {
        severity: Severity::Notice,
        subject: subject(pool),
        advice: format!("{} could be {enough} instead of {allowed}", pool.limit),
        evidence: format!(
            "{} of {allowed} servers in use at most, nobody waited; {}",
            pool.occupancy.most,
            load(pool, seconds)
        ),
    })
}

fn idles_in_transactions(pool: &PoolFacts, seconds: f64) -> Option<Advice> {
    let (held, ran) = (pool.period.xact_time, pool.period.query_time);
    if busy(pool, seconds) < BUSY || ran * 2 > held {
        return None;
    }
    let idle = 100.0 - ran as f64 * 100.0 / held as f64;
    let waits = pool.occupancy.waited >= WAITS;
    Some(Advice {
        severity: if waits { Severity::Warning } else { Severity::Notice },
        subject: subject(pool),
        advice: "let clients do their own work outside transactions: servers are held without being used"
            .to_owned(),
        evidence: format!(
            "{idle:.0} % of the time in transactions servers waited for clients; {}",
            load(pool, seconds)
        ),
    })
}

fn promises_too_much(server: &ServerFacts) -> Option<Advice> {
    let too_many = server.promised > server.accepts;
    too_many.then(|| Advice {
        severity: Severity::Warning,
        subject: format!("server {}", server.name),
        advice: "lower pool sizes, set max_db_connections, or raise the server's max_connections".to_owned(),
        evidence: format!(
            "the {} pools that there are may open {} connections, the server accepts {} of users without privileges",
            server.pools, server.promised, server.accepts
        ),
    })
}

/// Those who hold servers longer than `limit`, the longest first.
fn holders(
    all: &[HolderFacts],
    limit: u64,
    what: &str,
    advice: impl Fn(&HolderFacts) -> (Severity, String),
) -> Vec<Advice> {
    let mut long: Vec<_> = all.iter().filter(|holder| holder.age >= limit).collect();
    long.sort_by_key(|holder| (std::cmp::Reverse(holder.age), holder.client));
    let one = |holder: &&HolderFacts| {
        let (severity, advice) = advice(holder);
        let application = match &*holder.application_name {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        Advice {
            severity,
            subject: format!("client {}{application} of {}/{}", holder.client, holder.database, holder.user),
            advice,
            evidence: format!("{what} since {} s: {}", holder.age / 1_000_000, holder.statement),
        }
    };
    long.iter().take(MOST_CLIENTS).map(one).collect()
}

fn too_many(clients: &ClientFacts, seconds: f64) -> Option<Advice> {
    if clients.connections < SMALL * 2 || clients.used * 4 > clients.connections {
        return None;
    }
    let application = match &*clients.application_name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    Some(Advice {
        severity: Severity::Notice,
        subject: format!("clients{application} at {} of {}/{}", clients.host, clients.database, clients.user),
        advice: format!("a connection pool of {} would do there", (clients.used * 2).max(2)),
        evidence: format!(
            "of {} connections {} have asked for anything in {seconds:.0} s",
            clients.connections, clients.used
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Occupancy;
    use crate::stats::Totals;

    fn pool(allowed: usize, occupancy: Occupancy, period: Totals) -> Facts {
        let pool = PoolFacts {
            database: "db".into(),
            user: "app".into(),
            allowed: Some(allowed),
            limit: "pool_size",
            occupancy,
            period,
            wait_p99: 250_000,
        };
        Facts { seconds: 10.0, pools: vec![pool], ..Facts::default() }
    }

    /// So many transactions in the ten seconds, each so many milliseconds, all of it running.
    fn load(xacts: u64, each: u64) -> Totals {
        let xact_time = xacts * each * 1_000;
        Totals { xacts, xact_time, query_time: xact_time, ..Totals::default() }
    }

    #[test]
    fn a_saturated_pool_is_told_how_much_it_needs() {
        let occupancy = Occupancy { mean: 19.8, most: 20, waited: 0.93, waiting: 12.0 };
        let advice = advise(&pool(20, occupancy, load(4_125, 48)));
        assert_eq!(advice.len(), 1, "{advice:?}");
        assert_eq!((advice[0].severity, &*advice[0].subject), (Severity::Critical, "pool db/app"));
        assert!(advice[0].advice.contains("raise pool_size from 20 to about 32"), "{advice:?}");
        assert_eq!(
            advice[0].evidence,
            "somebody waited 93 % of the time, 12.0 clients on average, p99 250.0 ms; 19.8 of 20 servers in use on \
             average, 20 at most; in 10 s 412.5 transactions/s of 48.0 ms each = 19.8 servers busy"
        );
        let seldom = Occupancy { waited: 0.1, waiting: 0.1, ..occupancy };
        assert_eq!(advise(&pool(20, seldom, load(4_125, 48)))[0].severity, Severity::Warning);
        // A wait for a connection that is being opened is no want of servers.
        let few = Occupancy { mean: 3.0, most: 5, waited: 0.1, waiting: 0.1 };
        assert!(advise(&pool(20, few, load(600, 50))).is_empty());
    }

    #[test]
    fn a_pool_that_is_never_full_could_be_smaller() {
        let occupancy = Occupancy { mean: 0.9, most: 2, waited: 0.0, waiting: 0.0 };
        let advice = advise(&pool(100, occupancy, load(1_000, 10)));
        assert_eq!((advice.len(), advice[0].severity), (1, Severity::Notice));
        assert_eq!(advice[0].advice, "pool_size could be 4 instead of 100");
        assert!(advise(&pool(15, occupancy, load(1_000, 10))).is_empty(), "not much smaller");
        assert!(
            advise(&pool(100, occupancy, Totals::default())).is_empty(),
            "nothing is known of one without load"
        );
        let unlimited = Facts {
            pools: pool(1, occupancy, load(1, 1))
                .pools
                .into_iter()
                .map(|p| PoolFacts { allowed: None, ..p })
                .collect(),
            seconds: 10.0,
            ..Facts::default()
        };
        assert!(advise(&unlimited).is_empty());
    }

    #[test]
    fn servers_that_wait_for_clients() {
        let occupancy = Occupancy { mean: 5.0, most: 9, waited: 0.0, waiting: 0.0 };
        let period = Totals { query_time: 5_000_000, ..load(1_000, 50) };
        let advice = advise(&pool(20, occupancy, period));
        assert_eq!((advice.len(), advice[0].severity), (1, Severity::Notice));
        assert!(advice[0].evidence.starts_with("90 % of the time in transactions"), "{advice:?}");
        let idle = Totals { xact_time: 100_000, query_time: 0, ..Totals::default() };
        assert!(advise(&pool(5, occupancy, idle)).is_empty());
    }

    #[test]
    fn more_connections_than_the_server_takes() {
        let server = |promised| ServerFacts { name: "h:5432".into(), pools: 3, promised, accepts: 97 };
        let facts = Facts { servers: vec![server(97), server(120)], ..Facts::default() };
        let advice = advise(&facts);
        assert_eq!(advice.len(), 1);
        assert_eq!(
            advice[0].evidence,
            "the 3 pools that there are may open 120 connections, the server accepts 97 of users without privileges"
        );
    }

    #[test]
    fn the_longest_holders_come_first_and_not_all() {
        let holder = |client: u64| HolderFacts {
            client,
            database: "db".into(),
            user: "app".into(),
            application_name: if client == 9 { "shop".into() } else { String::new() },
            why: "temporary tables".into(),
            statement: "create temp table t (a int)".into(),
            age: client * 100_000_000,
        };
        let pins: Vec<_> = (0..10).map(holder).collect();
        let advice = advise(&Facts { pins, idle_in_transaction: vec![holder(1)], ..Facts::default() });
        assert_eq!(advice.len(), 1 + MOST_CLIENTS);
        assert_eq!((advice[0].severity, &*advice[0].subject), (Severity::Warning, "client 1 of db/app"));
        let shop = advice.iter().find(|a| a.subject == "client 9 (shop) of db/app").unwrap();
        assert_eq!(shop.evidence, "keeps its server connection since 900 s: create temp table t (a int)");
        assert!(!advice.iter().any(|a| a.subject.starts_with("client 3 ")));
    }

    #[test]
    fn applications_with_many_idle_connections() {
        let clients = |connections, used| ClientFacts {
            database: "db".into(),
            user: "app".into(),
            application_name: "shop".into(),
            host: "10.0.0.1".into(),
            connections,
            used,
        };
        let facts = Facts {
            seconds: 60.0,
            clients: vec![clients(40, 5), clients(40, 11), clients(9, 0)],
            ..Facts::default()
        };
        let advice = advise(&facts);
        assert_eq!(advice.len(), 1);
        assert_eq!(advice[0].subject, "clients (shop) at 10.0.0.1 of db/app");
        assert_eq!(advice[0].advice, "a connection pool of 10 would do there");
        assert_eq!(advice[0].evidence, "of 40 connections 5 have asked for anything in 60 s");
    }
}
