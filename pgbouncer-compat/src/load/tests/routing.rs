//! Replicas and what goes to them.

use std::num::NonZeroU32;

use pooler::config::{
    OwnRouting, ProbeRules, ReadConsistency, ReadRouting, Replica, ReplicaFallback, Route, Routing, Share,
};

use super::*;

const MAIN: &str = "[pgbouncer]\nauth_file = users\n";

#[test]
fn settings() {
    let without = loaded(MAIN).config;
    assert_eq!(without.routing, Routing::default());
    assert_eq!(without.probes, ProbeRules::default());
    assert_eq!(without.patroni, [""; 0]);
    let with = loaded(&format!(
        "{MAIN}
read_routing = AUTO
route = read-only
read_consistency = strong
read_consistency_wait = 50ms
max_replica_lag = 2min
replica_fallback = error
primary_read_share = 12.5
commit_certainty = on
read_functions = Total, shop.total
patroni = http://a:8008, http://[::1]:8009
probe_interval = 250ms
probe_timeout = 0.5
probe_user = watcher
availability_zone = eu-1a
"
    ));
    assert_eq!(
        with.config.routing,
        Routing {
            reads: ReadRouting::Auto,
            route: Route::Replica,
            consistency: ReadConsistency::Strong,
            consistency_wait: Duration::from_millis(50),
            max_lag: Some(Duration::from_secs(120)),
            fallback: ReplicaFallback::Error,
            primary_read_share: Share::millionths(125_000),
            commit_certainty: true,
            read_functions: vec!["total".into(), "shop.total".into()],
        }
    );
    assert_eq!(
        with.config.probes,
        ProbeRules {
            interval: Duration::from_millis(250),
            timeout: Duration::from_millis(500),
            user: Some("watcher".into()),
            zone: Some("eu-1a".into()),
        }
    );
    assert_eq!(with.config.patroni, ["http://a:8008", "http://[::1]:8009"]);
    assert_eq!(shown(&with, "read_routing").as_deref(), Some("auto"));
    assert_eq!(shown(&with, "route").as_deref(), Some("read-only"));
    assert_eq!(shown(&with, "read_consistency_wait").as_deref(), Some("0.05"));
    assert_eq!(shown(&with, "read_functions").as_deref(), Some("Total, shop.total"));
}

#[test]
fn all_words_of_a_choice_have_their_meaning() {
    let routing = |setting: &str, value: &str| {
        let global = loaded(&format!("{MAIN}{setting} = {value}\n")).config.routing;
        let own = database(&format!("host=a,b {setting}={}", value.to_uppercase())).routing;
        (global, own)
    };
    for (word, reads) in
        [("off", ReadRouting::Off), ("explicit", ReadRouting::Explicit), ("auto", ReadRouting::Auto)]
    {
        let (global, own) = routing("read_routing", word);
        assert_eq!((global.reads, own.reads), (reads, Some(reads)), "{word}");
    }
    for (word, consistency) in [
        ("session", ReadConsistency::Session),
        ("eventual", ReadConsistency::Eventual),
        ("strong", ReadConsistency::Strong),
    ] {
        let (global, own) = routing("read_consistency", word);
        assert_eq!((global.consistency, own.consistency), (consistency, Some(consistency)), "{word}");
    }
    for (word, fallback) in [("primary", ReplicaFallback::Primary), ("error", ReplicaFallback::Error)] {
        let (global, own) = routing("replica_fallback", word);
        assert_eq!((global.fallback, own.fallback), (fallback, Some(fallback)), "{word}");
    }
    for (word, route) in [
        ("auto", Route::Auto),
        ("any", Route::Auto),
        ("primary", Route::Primary),
        ("read-write", Route::Primary),
        ("replica", Route::Replica),
        ("standby", Route::Replica),
        ("read-only", Route::Replica),
        ("prefer-standby", Route::PreferReplica),
        ("prefer-replica", Route::PreferReplica),
    ] {
        let (global, own) = routing("route", word);
        assert_eq!((global.route, own.route), (route, Some(route)), "{word}");
    }
}

#[test]
fn keys_of_a_database() {
    // The port counts wherever it stands.
    let app = database(
        "host=a replicas=b,[::1]:1*2@z,/run/pg:5433 port=7 patroni=http://a:8008 read_routing=auto route=standby \
         read_consistency=eventual read_consistency_wait=10ms max_replica_lag=0 replica_fallback=error \
         primary_read_share=50 commit_certainty=1 read_functions='F, g'",
    );
    let replica = |host: Host, port, weight, zone: Option<&str>| Replica {
        host,
        port,
        weight: NonZeroU32::new(weight).unwrap(),
        zone: zone.map(str::to_owned),
    };
    assert_eq!(
        app.replicas,
        [
            replica(Host::Tcp("b".into()), 7, 1, None),
            replica(Host::Tcp("::1".into()), 1, 2, Some("z")),
            replica(Host::Unix("/run/pg".into()), 5433, 1, None),
        ]
    );
    assert_eq!(
        app.replicas.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["b:7", "[::1]:1*2@z", "/run/pg:5433"]
    );
    assert_eq!(app.patroni.as_deref(), Some(&["http://a:8008".to_owned()][..]));
    assert_eq!(
        app.routing,
        OwnRouting {
            reads: Some(ReadRouting::Auto),
            route: Some(Route::Replica),
            consistency: Some(ReadConsistency::Eventual),
            consistency_wait: Some(Duration::from_millis(10)),
            max_lag: Some(None),
            fallback: Some(ReplicaFallback::Error),
            primary_read_share: Some(Share::millionths(500_000)),
            commit_certainty: Some(true),
            read_functions: Some(vec!["f".into(), "g".into()]),
        }
    );
    // What is said of one host counts for that one, and `*` may have several.
    let both = loaded(&format!("{MAIN}[databases]\n* = host=a replicas=a*3@z,b read_routing=auto\n"));
    assert_eq!(warnings(&both), [""; 0]);
    assert_eq!(both.config.fallback.as_ref().unwrap().replicas.len(), 2);
    assert_eq!(database("host=a").routing, OwnRouting::default());
}

#[test]
fn every_fault_at_once() {
    let text = "\
[pgbouncer]
auth_file = users
read_routing = automatic
route = secondary
max_replica_lag = soon
primary_read_share = 101
patroni = http://a:8008, https://b:8008, http://c
read_functions = f, g()
probe_interval = 5ms
probe_timeout = 0
replica = b
[databases]
a = host=a replicas=b:x,c*0,,d@ patroni=a:8008 read_routing=on route=master read_functions=f.g.h
b = host=a replicas=b,B:5432 replica_fallback=fail commit_certainty=maybe max_replica_lag=-1 read_routin=auto
";
    let expected = [
        "invalid value \"automatic\" for parameter read_routing in configuration (a.ini:3): \
         expected one of off, explicit, auto",
        "invalid value \"secondary\" for parameter route in configuration (a.ini:4): expected one of auto, primary, \
         replica, prefer-standby, any, read-write, read-only, standby, prefer-replica",
        "invalid value \"soon\" for parameter max_replica_lag in configuration (a.ini:5): \
         expected a time in seconds such as 30 or 1.5, or with a unit such as 5min or 500ms",
        "invalid value \"101\" for parameter primary_read_share in configuration (a.ini:6): \
         expected a percentage from 0 to 100, decimals allowed",
        "invalid value \"https://b:8008\" for parameter patroni in configuration (a.ini:7): \
         expected http://HOST:PORT and nothing behind it, such as http://10.0.0.5:8008",
        "invalid value \"http://c\" for parameter patroni in configuration (a.ini:7): \
         expected http://HOST:PORT and nothing behind it, such as http://10.0.0.5:8008",
        "invalid value \"g()\" for parameter read_functions in configuration (a.ini:8): \
         expected names of functions such as f or schema.f, without quotes and parentheses",
        "invalid value \"0.005\" for parameter probe_interval in configuration (a.ini:9): \
         expected a time from 10ms to 60s",
        "invalid value \"0\" for parameter probe_timeout in configuration (a.ini:10): \
         expected a time from 10ms to 60s",
        "unknown parameter: pgbouncer/replica (a.ini:11)",
        "invalid patroni: a:8008 (a.ini:13): database a: \
         expected http://HOST:PORT and nothing behind it, such as http://10.0.0.5:8008",
        "invalid read_routing: on (a.ini:13): database a: expected off, explicit or auto",
        "invalid route: master (a.ini:13): database a: expected auto, primary, replica or prefer-standby; \
         or any, read-write, read-only, standby, prefer-replica",
        "invalid read_functions: f.g.h (a.ini:13): database a: \
         expected names of functions such as f or schema.f, without quotes and parentheses",
        "invalid replicas: b:x (a.ini:13): database a: expected a port from 1 to 65535",
        "invalid replicas: c*0 (a.ini:13): database a: expected a weight from 1 to 1000 behind *",
        "invalid replicas:  (a.ini:13): database a: expected HOST[:PORT][*WEIGHT][@ZONE], separated by single commas",
        "invalid replicas: d@ (a.ini:13): database a: expected the zone's name behind @",
        "invalid replica_fallback: fail (a.ini:14): database b: expected primary or error",
        "invalid commit_certainty: maybe (a.ini:14): database b: expected 0 or 1, on or off",
        "invalid max_replica_lag: -1 (a.ini:14): database b: \
         expected a time in seconds such as 30 or 0.5, or with a unit such as 500ms",
        "unrecognized connection parameter: read_routin (a.ini:14): did you mean read_routing?",
        "invalid replicas: B:5432 (a.ini:14): database b: expected each host and port once",
    ];
    let lines = faults(text);
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected);
    }
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
}

#[test]
fn no_more_hosts_than_can_be_told_apart() {
    let of = |replicas: usize| {
        let names: Vec<String> = (0..replicas).map(|i| format!("r{i}")).collect();
        format!("{MAIN}read_routing = auto\n[databases]\na = host=r0,p replicas={}\n", names.join(","))
    };
    assert_eq!(warnings(&loaded(&of(63))), [""; 0]);
    assert_eq!(faults(&of(64)), ["database a has 65 hosts (a.ini:5): at most 64"]);
}

#[test]
fn what_is_probably_not_meant() {
    let with =
        |global: &str, entry: &str| warnings(&loaded(&format!("{MAIN}{global}\n[databases]\na = {entry}\n")));
    assert_eq!(
        with("", "host=a read_routing=auto"),
        ["nothing is routed in database a (a.ini:5): it has one host; name the others in replicas="]
    );
    assert_eq!(
        with("", "host=a replicas=b"),
        ["the replicas of database a get no requests (a.ini:5): set read_routing to explicit or auto"]
    );
    assert_eq!(with("", "host=a replicas=b route=standby"), [""; 0]);
    assert_eq!(with("read_routing = auto", "host=a"), [""; 0]);
    assert_eq!(with("read_routing = auto", "host=a replicas=b"), [""; 0]);
    assert_eq!(with("", "host=a,b read_routing=explicit"), [""; 0]);
}

#[test]
fn by_set_as_by_a_file() {
    let loaded = loaded(MAIN);
    let set = |name: &str, value: &str| loaded.draft.set(Path::new("a.ini"), &loaded.settings, name, value);
    assert_eq!(set("read_routing", "auto").unwrap().config.routing.reads, ReadRouting::Auto);
    assert_eq!(set("probe_interval", "0.1").unwrap().config.probes.interval, Duration::from_millis(100));
    let refused = set("probe_interval", "0").unwrap_err();
    assert_eq!(refused.advice, "expected a time from 10ms to 60s");
    assert_eq!(
        set("patroni", "x").unwrap_err().what,
        "invalid value \"x\" for parameter patroni in configuration"
    );
}

proptest! {
    #[test]
    fn any_list_is_judged(text in "\\PC*|([ab:,@*/0-9]|\\[::1\\]){0,20}") {
        let _ = crate::routing::patroni(&text);
        let _ = crate::routing::functions(&text);
        if let Ok(replicas) = crate::routing::replicas(&text, 5432) {
            // As shown, they are the same ones.
            let again = replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(crate::routing::replicas(&again, 1), Ok(replicas));
        }
    }
}
