//! Replicas: the keys of `[databases]`, and the settings for which the table's kinds do not suffice.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use pooler::config::{
    Database, Host, MOST_HOSTS, OwnRouting, ProbeRules, ReadConsistency, ReadRouting, Replica,
    ReplicaFallback, Route, Routing,
};

use crate::databases::{Key, key, list_key};
use crate::finding::{Place, Report};
use crate::settings::Values;
use crate::users;
use crate::value;

pub(crate) const READS: &[&str] = &["off", "explicit", "auto"];
pub(crate) const ROUTES: &[&str] = &[
    "auto",
    "primary",
    "replica",
    "prefer-standby",
    "any",
    "read-write",
    "read-only",
    "standby",
    "prefer-replica",
];
pub(crate) const CONSISTENCIES: &[&str] = &["session", "eventual", "strong"];
pub(crate) const FALLBACKS: &[&str] = &["primary", "error"];

/// `*WEIGHT`.
const WEIGHTS: RangeInclusive<u32> = 1..=1000;
/// `probe_interval` and `probe_timeout`.
const PROBES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// Something in a list that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// As written.
    pub(crate) item: String,
    /// What would have been right, as a phrase to follow "expected".
    pub(crate) expected: &'static str,
}

/// Keys of a database, beside those in its own table.
pub(crate) const KEYS: &[Key] = &[
    list_key(
        REPLICAS,
        "`HOST[:PORT][*WEIGHT][@ZONE]`, several separated by commas",
        "Further hosts of the same cluster, beside `host`; which of them all is the primary is observed. Without a port: the \
         database's; weights go from 1 to 1000, and each host has 1 without. An IPv6 address stands in brackets. See \
         [replicas](replicas.md). Not PgBouncer's.",
        |db, v| {
            db.replicas = replicas(v, db.port)?;
            Ok(())
        },
    ),
    list_key("patroni", "URLs", AS_GLOBAL, |db, v| {
        db.patroni = Some(patroni(v)?);
        Ok(())
    }),
    key("read_routing", "`off`, `explicit`, `auto`", AS_GLOBAL, |db, v| {
        db.routing.reads = Some(reads(v).ok_or("off, explicit or auto")?);
        Ok(())
    }),
    key("route", "`auto`, `primary`, `replica`, `prefer-standby`, ...", AS_GLOBAL, |db, v| {
        let words = "auto, primary, replica or prefer-standby; or any, read-write, read-only, standby, prefer-replica";
        db.routing.route = Some(Route::of(v).ok_or(words)?);
        Ok(())
    }),
    key("read_consistency", "`session`, `eventual`, `strong`", AS_GLOBAL, |db, v| {
        db.routing.consistency = Some(consistency(v).ok_or("session, eventual or strong")?);
        Ok(())
    }),
    key("read_consistency_wait", "time", AS_GLOBAL, |db, v| {
        db.routing.consistency_wait = Some(time(v)?);
        Ok(())
    }),
    key("max_replica_lag", "time", AS_GLOBAL, |db, v| {
        db.routing.max_lag = Some(Some(time(v)?).filter(|lag| !lag.is_zero()));
        Ok(())
    }),
    key("replica_fallback", "`primary`, `error`", AS_GLOBAL, |db, v| {
        db.routing.fallback = Some(fallback(v).ok_or("primary or error")?);
        Ok(())
    }),
    key("primary_read_share", "percent", AS_GLOBAL, |db, v| {
        db.routing.primary_read_share = Some(users::share(v)?);
        Ok(())
    }),
    key("commit_certainty", "0 or 1", AS_GLOBAL, |db, v| {
        db.routing.commit_certainty = Some(value::boolean(v).ok_or("0 or 1, on or off")?);
        Ok(())
    }),
    list_key("read_functions", "names", AS_GLOBAL, |db, v| {
        db.routing.read_functions = Some(functions(v)?);
        Ok(())
    }),
];

const AS_GLOBAL: &str = "As the setting of that name. Not PgBouncer's.";
/// Read behind all others, for the port.
pub(crate) const REPLICAS: &str = "replicas";

fn word<T: Copy>(text: &str, words: &[&str], meanings: &[T]) -> Option<T> {
    words.iter().position(|word| word.eq_ignore_ascii_case(text)).and_then(|i| meanings.get(i)).copied()
}

fn reads(text: &str) -> Option<ReadRouting> {
    word(text, READS, &[ReadRouting::Off, ReadRouting::Explicit, ReadRouting::Auto])
}

fn consistency(text: &str) -> Option<ReadConsistency> {
    use ReadConsistency::{Eventual, Session, Strong};
    word(text, CONSISTENCIES, &[Session, Eventual, Strong])
}

fn fallback(text: &str) -> Option<ReplicaFallback> {
    word(text, FALLBACKS, &[ReplicaFallback::Primary, ReplicaFallback::Error])
}

fn time(text: &str) -> Result<Duration, &'static str> {
    value::duration(text).ok_or("a time in seconds such as 30 or 0.5, or with a unit such as 500ms")
}

/// Every item by `read`, or all that are wrong.
fn each<T>(items: &[&str], read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, Vec<Wrong>> {
    let mut right = Vec::new();
    let mut wrong = Vec::new();
    for item in items {
        match read(item) {
            Ok(value) => right.push(value),
            Err(expected) => wrong.push(Wrong { item: (*item).to_owned(), expected }),
        }
    }
    if wrong.is_empty() { Ok(right) } else { Err(wrong) }
}

/// `HOST[:PORT][*WEIGHT][@ZONE]`, separated by commas.
pub(crate) fn replicas(text: &str, port: u16) -> Result<Vec<Replica>, Vec<Wrong>> {
    let items: Vec<&str> = text.split(',').map(|item| item.trim_matches([' ', '\t'])).collect();
    let replicas = each(&items, |item| replica(item, port))?;
    let mut seen = HashSet::new();
    let endpoint = |replica: &Replica| match &replica.host {
        Host::Tcp(name) => (Host::Tcp(name.to_ascii_lowercase()), replica.port),
        unix @ Host::Unix(_) => (unix.clone(), replica.port),
    };
    let again = items.iter().zip(&replicas).filter(|(_, replica)| !seen.insert(endpoint(replica)));
    let again: Vec<Wrong> = again
        .map(|(item, _)| Wrong { item: (*item).to_owned(), expected: "each host and port once" })
        .collect();
    if again.is_empty() { Ok(replicas) } else { Err(again) }
}

fn replica(text: &str, port: u16) -> Result<Replica, &'static str> {
    // A name may start with the sign of zones: that of an abstract socket.
    let (rest, zone) = match text.rsplit_once('@').filter(|(rest, _)| !rest.is_empty()) {
        Some((_, "")) => return Err("the zone's name behind @"),
        Some((rest, zone)) => (rest, Some(zone.to_owned())),
        None => (text, None),
    };
    let (rest, weight) = match rest.rsplit_once('*') {
        Some((rest, weight)) => (rest, number(weight).filter(|weight| WEIGHTS.contains(weight))),
        None => (rest, Some(1)),
    };
    let weight = weight.and_then(NonZeroU32::new).ok_or("a weight from 1 to 1000 behind *")?;
    let (host, own_port) = host_and_port(rest)?;
    let own_port = own_port.map(|port| number(port).and_then(|port| u16::try_from(port).ok()));
    let port = own_port.unwrap_or(Some(port)).filter(|port| *port != 0);
    Ok(Replica { host, port: port.ok_or("a port from 1 to 65535")?, weight, zone })
}

fn host_and_port(text: &str) -> Result<(Host, Option<&str>), &'static str> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, behind) = bracketed.split_once(']').ok_or(BRACKETS)?;
        let address: Ipv6Addr = address.parse().map_err(|_| BRACKETS)?;
        let port = match behind {
            "" => None,
            _ => Some(behind.strip_prefix(':').ok_or(BRACKETS)?),
        };
        return Ok((Host::Tcp(address.to_string()), port));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    match host.as_bytes().first() {
        None => Err("HOST[:PORT][*WEIGHT][@ZONE], separated by single commas"),
        Some(b'/' | b'@') => Ok((Host::Unix(PathBuf::from(host)), port)),
        Some(_) if host.contains(':') => Err(BRACKETS),
        Some(_) if host.contains([' ', '\t', '/', '@', '*', '[', ']']) => {
            Err("a host's name, HOST[:PORT][*WEIGHT][@ZONE]")
        }
        Some(_) => Ok((Host::Tcp(host.to_owned()), port)),
    }
}

const BRACKETS: &str = "an IPv6 address in brackets, such as [::1]:5432";

/// Plain digits.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `http://HOST:PORT`, separated by commas or blanks.
pub(crate) fn patroni(text: &str) -> Result<Vec<String>, Vec<Wrong>> {
    let items = value::list(text);
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    each(&items, |url| {
        let expected = "http://HOST:PORT and nothing behind it, such as http://10.0.0.5:8008";
        let address = url.strip_prefix("http://").ok_or(expected)?;
        match host_and_port(address) {
            Ok((Host::Tcp(host), Some(port)))
                if !host.is_empty() && number(port).is_some_and(|port| (1..=65535).contains(&port)) =>
            {
                Ok(url.to_owned())
            }
            _ => Err(expected),
        }
    })
}

/// Names of functions, with a schema or without, as they are in statements without quotes.
pub(crate) fn functions(text: &str) -> Result<Vec<String>, Vec<Wrong>> {
    let items = value::list(text);
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let is_name = |name: &str| {
        name.starts_with(|c: char| c == '_' || c.is_alphabetic())
            && name.chars().all(|c| matches!(c, '_' | '$') || c.is_alphanumeric())
    };
    each(&items, |item| match item.split('.').all(is_name) && item.matches('.').count() <= 1 {
        true => Ok(item.to_ascii_lowercase()),
        false => Err("names of functions such as f or schema.f, without quotes and parentheses"),
    })
}

/// The global settings. The table has judged the words, [`check`] the lists.
pub(crate) fn global(settings: &Values) -> Routing {
    Routing {
        reads: reads(settings.text("read_routing")).unwrap_or_default(),
        route: Route::of(settings.text("route")).unwrap_or_default(),
        consistency: consistency(settings.text("read_consistency")).unwrap_or_default(),
        consistency_wait: settings.time("read_consistency_wait"),
        max_lag: settings.time_limit("max_replica_lag"),
        fallback: fallback(settings.text("replica_fallback")).unwrap_or_default(),
        primary_read_share: users::share(settings.text("primary_read_share")).unwrap_or_default(),
        commit_certainty: settings.flag("commit_certainty"),
        read_functions: functions(settings.text("read_functions")).unwrap_or_default(),
    }
}

/// How hosts are observed.
pub(crate) fn probes(settings: &Values) -> ProbeRules {
    ProbeRules {
        interval: settings.time("probe_interval"),
        timeout: settings.time("probe_timeout"),
        user: settings.text_if_any("probe_user").map(str::to_owned),
        zone: settings.text_if_any("availability_zone").map(str::to_owned),
    }
}

/// Reports what the table cannot judge.
pub(crate) fn check(settings: &Values, whole_file: &Place, report: &mut Report) {
    let mut fault = |name: &str, value: &str, expected: &str| {
        let message = format!("invalid value \"{value}\" for parameter {name} in configuration");
        report.fault(settings.place(name).unwrap_or(whole_file), message, format!("expected {expected}"));
    };
    for (name, wrong) in [
        ("patroni", patroni(settings.text("patroni")).err()),
        ("read_functions", functions(settings.text("read_functions")).err()),
    ] {
        wrong.into_iter().flatten().for_each(|wrong| fault(name, &wrong.item, wrong.expected));
    }
    for name in ["probe_interval", "probe_timeout"] {
        let time = settings.time(name);
        if !PROBES.contains(&time) {
            fault(name, &value::percent_g(time.as_secs_f64()), "a time from 10ms to 60s");
        }
    }
}

/// Reports what is wrong with a database as a whole, or probably not meant.
pub(crate) fn check_database(database: &Database, settings: &Values, place: &Place, report: &mut Report) {
    let name = &database.name;
    let hosts = database.hosts.iter().map(|host| (host, database.port));
    let replicas = database.replicas.iter().map(|replica| (&replica.host, replica.port));
    let count = hosts.chain(replicas).collect::<HashSet<_>>().len();
    if count > MOST_HOSTS {
        report.fault(place, format!("database {name} has {count} hosts"), format!("at most {MOST_HOSTS}"));
    }
    let own = OwnRouting { read_functions: None, ..database.routing.clone() };
    if count == 1 && own != OwnRouting::default() {
        let message = format!("nothing is routed in database {name}");
        report.warn(place, message, "it has one host; name the others in replicas=");
    }
    let reads = database.routing.reads.or_else(|| reads(settings.text("read_routing")));
    let route = database.routing.route.or_else(|| Route::of(settings.text("route"))).unwrap_or_default();
    let to_replicas = matches!(route, Route::Replica | Route::PreferReplica);
    if !database.replicas.is_empty() && reads.unwrap_or_default() == ReadRouting::Off && !to_replicas {
        let message = format!("the replicas of database {name} get no requests");
        report.warn(place, message, "set read_routing to explicit or auto");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Replica, &'static str> {
        replica(text, 5432)
    }

    #[test]
    fn well_formed_replicas() {
        let tcp = |name: &str| Host::Tcp(name.to_owned());
        for (text, host, port, weight, zone) in [
            ("b", tcp("b"), 5432, 1, None),
            ("b:1", tcp("b"), 1, 1, None),
            ("10.0.0.2*3", tcp("10.0.0.2"), 5432, 3, None),
            ("b@eu-1a", tcp("b"), 5432, 1, Some("eu-1a")),
            ("b.example:65535*1000@z", tcp("b.example"), 65535, 1000, Some("z")),
            ("[::1]", tcp("::1"), 5432, 1, None),
            ("[FE80::1]:7*2@z", tcp("fe80::1"), 7, 2, Some("z")),
            ("/run/pg", Host::Unix("/run/pg".into()), 5432, 1, None),
            ("/run/pg:5433*2", Host::Unix("/run/pg".into()), 5433, 2, None),
            ("@abstract:5433", Host::Unix("@abstract".into()), 5433, 1, None),
            ("@abstract@z", Host::Unix("@abstract".into()), 5432, 1, Some("z")),
        ] {
            let weight = NonZeroU32::new(weight).unwrap();
            let zone = zone.map(str::to_owned);
            assert_eq!(one(text), Ok(Replica { host, port, weight, zone }), "{text}");
        }
    }

    #[test]
    fn malformed_replicas() {
        for (text, expected) in [
            ("", "HOST[:PORT][*WEIGHT][@ZONE], separated by single commas"),
            (":5432", "HOST[:PORT][*WEIGHT][@ZONE], separated by single commas"),
            ("*2", "HOST[:PORT][*WEIGHT][@ZONE], separated by single commas"),
            ("b:", "a port from 1 to 65535"),
            ("b:0", "a port from 1 to 65535"),
            ("b:65536", "a port from 1 to 65535"),
            ("b:+1", "a port from 1 to 65535"),
            ("b:postgres", "a port from 1 to 65535"),
            ("b*0", "a weight from 1 to 1000 behind *"),
            ("b*1001", "a weight from 1 to 1000 behind *"),
            ("b*", "a weight from 1 to 1000 behind *"),
            ("b*1.5", "a weight from 1 to 1000 behind *"),
            ("b*1:5432", "a weight from 1 to 1000 behind *"),
            ("b@", "the zone's name behind @"),
            ("::1", "an IPv6 address in brackets, such as [::1]:5432"),
            ("[::1", "an IPv6 address in brackets, such as [::1]:5432"),
            ("[::1]5432", "an IPv6 address in brackets, such as [::1]:5432"),
            ("[b]:5432", "an IPv6 address in brackets, such as [::1]:5432"),
            ("b c", "a host's name, HOST[:PORT][*WEIGHT][@ZONE]"),
            ("b@z@y", "a host's name, HOST[:PORT][*WEIGHT][@ZONE]"),
        ] {
            assert_eq!(one(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_host_once() {
        let wrong = |text| replicas(text, 5432).unwrap_err().into_iter().map(|wrong| wrong.item).collect();
        let again: Vec<String> = wrong("a, b:1, A:5432*2, b:2, b:1@z");
        assert_eq!(again, ["A:5432*2", "b:1@z"]);
        let malformed: Vec<String> = wrong("a,,b:x,a*0,c");
        assert_eq!(malformed, ["", "b:x", "a*0"]);
    }

    #[test]
    fn addresses_of_patroni() {
        let two = "http://a:8008, http://[::1]:1";
        assert_eq!(patroni(two).unwrap(), ["http://a:8008", "http://[::1]:1"]);
        for wrong in [
            "https://a:8008",
            "a:8008",
            "http://a",
            "http://a:8008/cluster",
            "http://a:8008/",
            "http://u@a:8008",
            "http://:8008",
            "http:///run/pg:8008",
            "http://a:0",
            "HTTP://a:8008",
        ] {
            assert_eq!(patroni(wrong).unwrap_err()[0].item, wrong);
        }
    }

    #[test]
    fn names_of_functions() {
        assert_eq!(functions("F, s.G _x1$").unwrap(), ["f", "s.g", "_x1$"]);
        for wrong in ["f()", "\"F\"", "a.b.c", ".f", "1f", "a-b"] {
            assert_eq!(functions(wrong).unwrap_err()[0].item, wrong);
        }
    }
}
