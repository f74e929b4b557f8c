//! Where requests went, and where one would go.

use std::sync::Arc;

use super::HostRow;
use crate::config::{PoolMode, ReplicaFallback, Route, Routing, endpoint};
use crate::pool::{Db, Pool};
use crate::routing::{self, Defaults, Seen, Target, Why};
use crate::shared::Shared;

impl HostRow {
    /// `HOST:PORT`, with brackets about an IPv6 address.
    pub fn endpoint(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with(['/', '@']) {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// How often requests of one pool went to one kind of host for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutedRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// `primary` or `replica`.
    pub target: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How often since the start.
    pub count: u64,
}

/// Where a text would go that comes outside a transaction, from a client that has said nothing of its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    /// Client-side database.
    pub database: String,
    /// `primary` or `replica`.
    pub target: &'static str,
    /// The hosts among which one is chosen, as `HOST:PORT`. Empty: there is none now, and the request waits.
    pub hosts: Vec<String>,
    /// The reason under which it would be counted.
    pub reason: &'static str,
    /// The same in words.
    pub why: String,
}

/// What has happened, pool by pool.
pub(crate) fn routed(shared: &Shared) -> Vec<RoutedRow> {
    let rows = |pool: &Arc<Pool>| {
        let totals = pool.routed.totals().filter(|(_, _, count)| *count > 0);
        let row = |(target, reason, count)| RoutedRow {
            database: pool.db.name.clone(),
            user: pool.user.name.clone(),
            target,
            reason,
            count,
        };
        totals.map(row).collect::<Vec<_>>()
    };
    shared.registry.homes().iter().flat_map(rows).collect()
}

/// Where a text goes in one database, whose hosts are these.
pub(crate) fn route(shared: &Shared, db: &Db, hosts: &[HostRow], text: &str) -> RouteRow {
    let config = shared.config.load();
    let spec = db.spec.load();
    let routing = config.routing.with(&spec.routing);
    if !spec.is_observed(&config.routing) {
        let hosts = db.targets().iter().map(|(host, port)| endpoint(host, *port)).collect();
        let why = "it has one host, or reads are not spread over its hosts".to_owned();
        return RouteRow {
            database: db.name.clone(),
            target: Target::Primary.as_str(),
            hosts,
            reason: Why::Off.as_str(),
            why,
        };
    }
    let is_refused = db.refused.contains(sql::fingerprint(text.as_bytes()));
    let mode = spec.pool_mode.unwrap_or(config.pool_mode);
    let found = find(&routing, mode, hosts, text, is_refused);
    RouteRow { database: db.name.clone(), ..found }
}

/// The same without the name of the database.
fn find(routing: &Routing, mode: PoolMode, hosts: &[HostRow], text: &str, is_refused: bool) -> RouteRow {
    let access = routing::access_of(routing, text.as_bytes());
    // Who keeps its server for its session says beforehand where that is to be.
    let seen = (mode != PoolMode::Session).then(|| Seen { nature: access.into(), refused: is_refused });
    let decided = routing::decide(routing, routing.route, Defaults::default(), seen);
    let why = in_words(decided, routing, &access);
    let row = |target: Target, hosts, why: Why, words| RouteRow {
        database: String::new(),
        target: target.as_str(),
        hosts,
        reason: why.as_str(),
        why: words,
    };
    let primary = || hosts.iter().filter(|row| row.role == "primary").map(HostRow::endpoint).collect();
    if decided.target() == Target::Primary {
        return row(Target::Primary, primary(), decided, why);
    }
    let replicas = replicas(hosts, routing.max_lag.map(|lag| lag.as_millis() as u64));
    if !replicas.is_empty() {
        return row(Target::Replica, replicas, decided, why);
    }
    if routing.route == Route::Replica || routing.fallback == ReplicaFallback::Error {
        return row(Target::Replica, replicas, Why::NoReplica, format!("{why}; it waits for a replica"));
    }
    row(Target::Primary, primary(), Why::NoReplica, format!("{why}, but there is no replica for it"))
}

/// Replicas to which reads go, not further behind than so many milliseconds.
fn replicas(hosts: &[HostRow], max_lag: Option<u64>) -> Vec<String> {
    let is_near = |row: &HostRow| max_lag.is_none_or(|most| row.lag_ms.is_some_and(|lag| lag <= most));
    let found = hosts.iter().filter(|row| row.role == "standby" && row.breaker == "closed" && is_near(row));
    found.map(HostRow::endpoint).collect()
}

fn in_words(why: Why, routing: &Routing, access: &sql::Access<'_>) -> String {
    let words = match why {
        Why::Off => "read_routing is off",
        Why::RoutePrimary | Why::RouteReplica => return format!("route is {}", routing.route.as_str()),
        Why::NotAsked => {
            "it only reads, but read_routing is explicit: only what clients ask for goes to a replica"
        }
        Why::Writes | Why::NotSure => match access.kind.reason() {
            Some(reason) => return reason.to_string(),
            None => why.as_str(),
        },
        Why::MayWrite => "the transaction may write, as it does not begin READ ONLY",
        Why::Serializable => "no replica runs serializable transactions",
        Why::Nothing => "it reads nothing",
        Why::Remembered => "it seems only to read, but a replica has refused it before",
        Why::Reads => "it only reads",
        Why::ReadOnly => "the transaction is READ ONLY",
        Why::NotSeen => "in session mode a client keeps its server, so that only its route counts",
        Why::Again | Why::Behind | Why::NoReplica => why.as_str(), // not decided by its text
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ReadRouting;

    fn host(name: &str, role: &'static str, breaker: &'static str, lag_ms: u64) -> HostRow {
        HostRow {
            databases: vec!["app".into()],
            host: name.into(),
            port: 5432,
            zone: None,
            weight: 1,
            role,
            timeline: Some(1),
            lsn: None,
            lag_bytes: None,
            lag_ms: Some(lag_ms),
            breaker,
            breaker_reason: String::new(),
            breaker_since_ms: None,
            breaker_retry_ms: None,
            outstanding: 0,
            reads: 0,
            probes: 0,
            probe_failures: 0,
            probe_error: String::new(),
            probe_us: None,
            probe_age_ms: None,
        }
    }

    fn hosts() -> Vec<HostRow> {
        vec![
            host("a", "primary", "closed", 0),
            host("b", "standby", "closed", 5),
            host("c", "standby", "closed", 900),
            host("d", "standby", "open", 5),
            host("d", "standby", "half-open", 5),
            host("e", "fenced", "closed", 0),
        ]
    }

    fn auto() -> Routing {
        Routing { reads: ReadRouting::Auto, ..Routing::default() }
    }

    fn shown(routing: &Routing, hosts: &[HostRow], text: &str) -> String {
        let row = find(routing, PoolMode::Transaction, hosts, text, false);
        format!("{} {}: {} ({})", row.target, row.hosts.join(","), row.why, row.reason)
    }

    #[test]
    fn by_what_a_text_does() {
        for (text, expected) in [
            ("select 1", "replica b:5432,c:5432: it only reads (only reads)"),
            (
                "begin read only",
                "replica b:5432,c:5432: the transaction is READ ONLY (read-only transaction)",
            ),
            ("insert into t values (1)", "primary a:5432: insert changes rows (writes)"),
            ("select * from t for update", "primary a:5432: FOR UPDATE takes locks (writes)"),
            ("select f()", "primary a:5432: function f is not known only to read (not certain only to read)"),
            (
                "begin",
                "primary a:5432: the transaction may write, as it does not begin READ ONLY (transaction may write)",
            ),
            ("", "primary a:5432: it reads nothing (reads nothing)"),
        ] {
            assert_eq!(shown(&auto(), &hosts(), text), expected, "{text}");
        }
        let refused = find(&auto(), PoolMode::Transaction, &hosts(), "select 1", true);
        assert_eq!((refused.target, refused.reason), ("primary", "refused by a replica before"));
        let for_session = find(&auto(), PoolMode::Session, &hosts(), "select 1", false);
        assert_eq!((for_session.target, for_session.reason), ("primary", "not seen as a whole"));
    }

    #[test]
    fn by_what_is_configured() {
        let of = |routing: Routing| shown(&routing, &hosts(), "select 1");
        assert_eq!(of(Routing::default()), "primary a:5432: read_routing is off (routing is off)");
        assert_eq!(
            of(Routing { reads: ReadRouting::Explicit, ..auto() }),
            "primary a:5432: it only reads, but read_routing is explicit: only what clients ask for goes to a replica \
             (explicit only)"
        );
        assert_eq!(
            of(Routing { route: Route::Primary, ..auto() }),
            "primary a:5432: route is primary (route)"
        );
        let near = Some(Duration::from_millis(100));
        assert_eq!(of(Routing { max_lag: near, ..auto() }), "replica b:5432: it only reads (only reads)");
    }

    #[test]
    fn where_there_is_no_replica() {
        let alone = &hosts()[..1];
        assert_eq!(
            shown(&auto(), alone, "select 1"),
            "primary a:5432: it only reads, but there is no replica for it (no replica)"
        );
        let strict = Routing { fallback: ReplicaFallback::Error, ..auto() };
        let waits = "replica : it only reads; it waits for a replica (no replica)";
        assert_eq!(shown(&strict, alone, "select 1"), waits);
        let strict = Routing { route: Route::Replica, ..auto() };
        let waits = "replica : route is replica; it waits for a replica (no replica)";
        assert_eq!(shown(&strict, alone, "select 1"), waits);
    }
}
