//! Where a request goes, the primary or a replica, and why: decided from what its text may do, from what its client and the
//! configuration want, and from nothing else.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use dashmap::DashSet;
use sql::{Access, AccessMode, Isolation, Kind, Modes, Transaction};

use crate::config::{ReadRouting, Route, Routing};

/// What a request asks of its host, without the words that say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nature {
    pub(crate) kind: Plain,
    pub(crate) transaction: Transaction,
}

/// [`sql::Kind`] without its reasons; the later ones ask for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plain {
    Neutral,
    Reads,
    /// Unknown for a function only, of which the configuration may know that it reads.
    Calls,
    Unknown,
    Writes,
}

impl From<Access<'_>> for Nature {
    fn from(access: Access<'_>) -> Nature {
        let kind = match access.kind {
            Kind::Neutral => Plain::Neutral,
            Kind::Reads => Plain::Reads,
            Kind::Unknown(reason) if reason.cause == sql::Cause::UnknownFunction => Plain::Calls,
            Kind::Unknown(_) => Plain::Unknown,
            Kind::Writes(_) => Plain::Writes,
        };
        Nature { kind, transaction: access.transaction }
    }
}

impl Nature {
    /// Of nothing at all.
    pub(crate) const NOTHING: Nature = Nature { kind: Plain::Neutral, transaction: Transaction::Same };

    /// Of one text behind another in the same request.
    pub(crate) fn then(self, next: Nature) -> Nature {
        let transaction = match (self.transaction, next.transaction) {
            (first, Transaction::Same) => first,
            (Transaction::Begins(first), Transaction::Begins(then) | Transaction::Sets(then)) => {
                Transaction::Begins(Modes {
                    access: then.access.or(first.access),
                    isolation: then.isolation.or(first.isolation),
                })
            }
            (_, last) => last,
        };
        Nature { kind: self.kind.max(next.kind), transaction }
    }

    /// It leaves everything in the database as it is, wherever it runs.
    pub(crate) fn only_reads(self) -> bool {
        self.kind <= Plain::Reads
    }
}

/// The modes of a transaction for which its `BEGIN` says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// `default_transaction_read_only` is on.
    pub(crate) read_only: bool,
    /// `default_transaction_isolation` is `serializable`.
    pub(crate) serializable: bool,
}

/// Which kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Primary,
    Replica,
}

impl Target {
    /// For people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Target::Primary => "primary",
            Target::Replica => "replica",
        }
    }
}

/// Why a request goes where it goes, in the order of the table of names below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Why {
    /// Nobody may send it to a replica.
    Off,
    /// The client's route, or that of its database, names the primary.
    RoutePrimary,
    /// Only what clients ask for goes to replicas.
    NotAsked,
    Writes,
    NotSure,
    /// A transaction that may write begins.
    MayWrite,
    /// No standby has this isolation.
    Serializable,
    /// Not all of the request is there to be looked at.
    NotSeen,
    /// It reads nothing.
    #[default]
    Nothing,
    /// A replica has refused this statement before.
    Remembered,
    /// A replica has refused it just now, or was lost.
    Again,
    /// No replica has what the client must see.
    Behind,
    /// No replica is there.
    NoReplica,
    /// The client's route, or that of its database, names a replica.
    RouteReplica,
    Reads,
    ReadOnly,
}

const NAMES: [(Target, &str); 16] = [
    (Target::Primary, "routing is off"),
    (Target::Primary, "route"),
    (Target::Primary, "explicit only"),
    (Target::Primary, "writes"),
    (Target::Primary, "not certain only to read"),
    (Target::Primary, "transaction may write"),
    (Target::Primary, "serializable"),
    (Target::Primary, "not seen as a whole"),
    (Target::Primary, "reads nothing"),
    (Target::Primary, "refused by a replica before"),
    (Target::Primary, "refused by a replica"),
    (Target::Primary, "replicas behind"),
    (Target::Primary, "no replica"),
    (Target::Replica, "route"),
    (Target::Replica, "only reads"),
    (Target::Replica, "read-only transaction"),
];

impl Why {
    pub(crate) fn target(self) -> Target {
        NAMES[self as usize].0
    }

    /// Under which name it is counted.
    pub(crate) fn as_str(self) -> &'static str {
        NAMES[self as usize].1
    }
}

/// What is known of a request before any of it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) nature: Nature,
    /// A replica has refused it, or one like it, before.
    pub(crate) refused: bool,
}

/// Where a request goes that begins outside a transaction, if a replica can be found for it. `None`: not all of it is known.
pub(crate) fn decide(routing: &Routing, route: Route, defaults: Defaults, seen: Option<Seen>) -> Why {
    match routing.heeded(route) {
        Route::Auto if routing.reads == ReadRouting::Off => return Why::Off,
        Route::Primary => return Why::RoutePrimary,
        Route::Replica | Route::PreferReplica => return Why::RouteReplica,
        Route::Auto => {}
    }
    let Some(Seen { nature, refused }) = seen else { return Why::NotSeen };
    let (access, isolation) = match nature.transaction {
        Transaction::Begins(modes) => (modes.access, modes.isolation),
        _ => (None, None),
    };
    let read_only = access.map_or(defaults.read_only, |access| access == AccessMode::ReadOnly);
    let serializable =
        isolation.map_or(defaults.serializable, |isolation| isolation == Isolation::Serializable);
    let begins = matches!(nature.transaction, Transaction::Begins(_));
    match nature.kind {
        Plain::Writes => Why::Writes,
        Plain::Unknown | Plain::Calls => Why::NotSure,
        Plain::Neutral if !begins => Why::Nothing,
        _ if begins && !read_only => Why::MayWrite,
        _ if serializable => Why::Serializable,
        _ if !read_only && routing.reads != ReadRouting::Auto => Why::NotAsked,
        _ if refused => Why::Remembered,
        _ if read_only => Why::ReadOnly,
        _ => Why::Reads,
    }
}

/// How often requests went where, by reason.
#[derive(Debug, Default)]
pub(crate) struct Routed([AtomicU64; NAMES.len()]);

impl Routed {
    pub(crate) fn count(&self, why: Why) {
        self.0[why as usize].fetch_add(1, Relaxed);
    }

    /// Target, reason and number of each.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        NAMES
            .iter()
            .zip(&self.0)
            .map(|((target, reason), count)| (target.as_str(), *reason, count.load(Relaxed)))
    }
}

/// Statements that a replica has refused although they looked like reads, by their fingerprints.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    count: AtomicUsize,
    statements: DashSet<u64>,
}

/// More of them are not remembered: all are tried again then.
const MOST_REFUSED: usize = 10_000;

impl Refused {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    pub(crate) fn contains(&self, fingerprint: u64) -> bool {
        self.statements.contains(&fingerprint)
    }

    pub(crate) fn insert(&self, fingerprint: u64) {
        if self.statements.len() >= MOST_REFUSED {
            self.statements.clear();
        }
        self.statements.insert(fingerprint);
        self.count.store(self.statements.len(), Relaxed);
    }
}

/// Functions that the configuration says only read.
pub(crate) struct Listed<'a>(pub(crate) &'a [String]);

impl sql::Knowledge for Listed<'_> {
    fn only_reads(&self, schema: &[u8], function: &[u8]) -> bool {
        self.0.iter().any(|listed| match listed.split_once('.') {
            Some((of, name)) => of.as_bytes() == schema && name.as_bytes() == function,
            None => schema.is_empty() && listed.as_bytes() == function,
        })
    }
}

/// What a text asks of its host, by what the configuration knows as well.
pub(crate) fn access_of<'a>(routing: &Routing, text: &'a [u8]) -> Access<'a> {
    match routing.read_functions.is_empty() {
        true => sql::scan(text).access,
        false => sql::scan_with(text, &Listed(&routing.read_functions)).access,
    }
}

/// The same without the words.
pub(crate) fn nature_of(routing: &Routing, text: &[u8]) -> Nature {
    access_of(routing, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto() -> Routing {
        Routing { reads: ReadRouting::Auto, ..Routing::default() }
    }

    fn seen(nature: Nature) -> Option<Seen> {
        Some(Seen { nature, refused: false })
    }

    fn why(routing: &Routing, defaults: Defaults, texts: &[&str]) -> Why {
        let nature = texts
            .iter()
            .map(|text| nature_of(routing, text.as_bytes()))
            .reduce(Nature::then)
            .unwrap_or(Nature::NOTHING);
        decide(routing, Route::Auto, defaults, seen(nature))
    }

    #[test]
    fn requests() {
        let none = Defaults::default();
        let read_only = Defaults { read_only: true, ..none };
        let serializable = Defaults { serializable: true, ..none };
        for (defaults, texts, expected) in [
            (none, &["select 1"][..], Why::Reads),
            (none, &["insert into t values (1)"], Why::Writes),
            (none, &["select f()"], Why::NotSure),
            (none, &["select * from t for update"], Why::Writes),
            (none, &["set x.y = 1"], Why::Nothing),
            (none, &[""], Why::Nothing),
            (none, &["begin"], Why::MayWrite),
            (none, &["begin read only"], Why::ReadOnly),
            (none, &["begin read only isolation level serializable"], Why::Writes),
            (none, &["begin", "set transaction read only", "select 1"], Why::ReadOnly),
            (none, &["begin read only", "select 1"], Why::ReadOnly),
            (none, &["begin read only", "select nextval('s')"], Why::Writes),
            (none, &["begin; select 1; commit"], Why::Reads),
            (read_only, &["begin"], Why::ReadOnly),
            (read_only, &["begin read write"], Why::Writes),
            (read_only, &["select 1"], Why::ReadOnly),
            (serializable, &["select 1"], Why::Serializable),
        ] {
            assert_eq!(why(&auto(), defaults, texts), expected, "{texts:?}");
        }
    }

    #[test]
    fn explicit_routing_heeds_what_the_client_says_only() {
        let explicit = Routing { reads: ReadRouting::Explicit, ..Routing::default() };
        assert_eq!(why(&explicit, Defaults::default(), &["select 1"]), Why::NotAsked);
        assert_eq!(why(&explicit, Defaults::default(), &["begin read only"]), Why::ReadOnly);
        let read = Nature::from(sql::scan(b"select 1").access);
        let to = |route| decide(&explicit, route, Defaults::default(), seen(read));
        assert_eq!(to(Route::Replica), Why::RouteReplica);
        assert_eq!(to(Route::Primary), Why::RoutePrimary);
    }

    #[test]
    fn where_it_is_off_only_what_is_configured_goes_to_a_replica() {
        let off = Routing::default();
        let nature = seen(nature_of(&off, b"begin read only"));
        for route in [Route::Auto, Route::Primary, Route::Replica, Route::PreferReplica] {
            assert_eq!(decide(&off, route, Defaults::default(), nature), Why::Off);
            let for_readers = Routing { route: Route::Replica, ..off.clone() };
            assert_eq!(decide(&for_readers, route, Defaults::default(), nature), Why::RouteReplica);
        }
    }

    #[test]
    fn what_a_replica_has_refused_goes_to_the_primary() {
        let to = |text: &str, route| {
            let seen = Seen { nature: nature_of(&auto(), text.as_bytes()), refused: true };
            decide(&auto(), route, Defaults::default(), Some(seen))
        };
        assert_eq!(to("select 1", Route::Auto), Why::Remembered);
        assert_eq!(to("begin read only", Route::Auto), Why::Remembered);
        assert_eq!(to("insert into t values (1)", Route::Auto), Why::Writes);
        assert_eq!(to("select 1", Route::Replica), Why::RouteReplica, "it is the client's wish");
    }

    #[test]
    fn functions_that_are_listed_read() {
        let routing = Routing { read_functions: vec!["f".into(), "s.g".into()], ..auto() };
        for (text, expected) in [
            ("select f()", Why::Reads),
            ("select s.g()", Why::Reads),
            ("select g()", Why::NotSure),
            ("select s.f()", Why::NotSure),
        ] {
            assert_eq!(why(&routing, Defaults::default(), &[text]), expected, "{text}");
        }
    }

    #[test]
    fn each_reason_has_its_name() {
        assert_eq!(NAMES[Why::Off as usize].1, "routing is off");
        assert_eq!(NAMES[Why::NoReplica as usize], (Target::Primary, "no replica"));
        assert_eq!(Why::RouteReplica.target(), Target::Replica);
        assert_eq!(NAMES[Why::ReadOnly as usize], (Target::Replica, "read-only transaction"));
    }
}
