//! The plan of a reload: what it names, and that it names nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use pgferry_pgbouncer_compat::{Loaded, load_from};
use pooler::reload::plan;

const USERS: &str = "\"app\" \"secret\"\n\"old\" \"x\"\n";

const BASE: &str = "
[databases]
shop = host=a pool_size=20 password=p user=u
gone = host=a
* = host=fallback

[users]
app = pool_mode=session query_timeout=5
old = pool_size=3

[applications]
web-* = query_timeout=1
job = statement_timeout=2

[peers]
1 = host=one
2 = host=two

[pgbouncer]
listen_addr = *
auth_file = users
";

fn loaded(text: &str, users: &str) -> Loaded {
    let read = |path: &Path| {
        let text = if path == Path::new("users") { users } else { text };
        Ok(text.as_bytes().to_vec())
    };
    load_from(Path::new("a.ini"), &read).unwrap()
}

/// The plan for going from the base to another text.
fn changes(text: &str, users: &str) -> Vec<String> {
    let (old, new) = (loaded(BASE, USERS), loaded(text, users));
    plan(&old.config, &new.config).0.iter().map(ToString::to_string).collect()
}

/// The base with a part of it in other words.
#[track_caller]
fn with(part: &str, other: &str) -> Vec<String> {
    assert!(BASE.contains(part), "{part}");
    changes(&BASE.replace(part, other), USERS)
}

#[test]
fn the_same_files_change_nothing() {
    assert_eq!(changes(BASE, USERS), [""; 0]);
    assert_eq!(with("web-* = query_timeout=1", "; a comment\nweb-* = query_timeout=1s"), [""; 0]);
}

#[test]
fn replicas() {
    let from = |old: &str, new: &str| {
        let [old, new] = [old, new].map(|entry| {
            let base = BASE.replace("shop = host=a", &format!("shop = host=a {entry}"));
            loaded(&base, USERS).config
        });
        plan(&old, &new).0.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // Which of the hosts has the servers so far is not known.
    assert_eq!(
        from("", "replicas=b"),
        [
            "database shop.replicas: (none) -> b:5432 (now)",
            "database shop.observed: (none) -> 1 (servers renewed)"
        ]
    );
    for (old, new, changed) in [
        ("replicas=b", "replicas=b*2@z,[::1]:7", "replicas: b:5432 -> b:5432*2@z,[::1]:7 (now)"),
        ("replicas=b", "replicas=b read_routing=auto", "read_routing: (none) -> auto (now)"),
        ("replicas=b", "replicas=b route=standby", "route: (none) -> replica (now)"),
        ("replicas=b", "replicas=b read_consistency=strong", "read_consistency: (none) -> strong (now)"),
        (
            "replicas=b",
            "replicas=b read_consistency_wait=5ms",
            "read_consistency_wait: (none) -> 0.005 (now)",
        ),
        ("replicas=b max_replica_lag=1", "replicas=b max_replica_lag=0", "max_replica_lag: 1 -> 0 (now)"),
        ("replicas=b", "replicas=b replica_fallback=error", "replica_fallback: (none) -> error (now)"),
        ("replicas=b", "replicas=b primary_read_share=50", "primary_read_share: (none) -> 50 (now)"),
        ("replicas=b", "replicas=b commit_certainty=1", "commit_certainty: (none) -> 1 (now)"),
        ("replicas=b", "replicas=b read_functions=f,g", "read_functions: (none) -> f,g (now)"),
        ("replicas=b", "replicas=b patroni=http://a:1", "patroni: (none) -> http://a:1 (now)"),
    ] {
        assert_eq!(from(old, new), [format!("database shop.{changed}")]);
    }
}

#[test]
fn databases() {
    assert_eq!(with("pool_size=20", "pool_size=50"), ["database shop.pool_size: 20 -> 50 (now)"]);
    assert_eq!(with("pool_size=20", "pool_size=0"), ["database shop.pool_size: 20 -> 0 (now)"]);
    assert_eq!(
        with("shop = host=a pool_size=20", "shop = host=b port=1"),
        [
            "database shop.host: a -> b (servers renewed)",
            "database shop.port: 5432 -> 1 (servers renewed)",
            "database shop.pool_size: 20 -> (none) (now)"
        ]
    );
    for moved in ["dbname=d", "connect_query='select 1'", "load_balance_hosts=disable", "timezone=utc"] {
        let changes = with("pool_size=20", &format!("pool_size=20 {moved}"));
        assert!(changes.len() == 1 && changes[0].ends_with("(servers renewed)"), "{changes:?}");
    }
    // A secret is not shown, and the servers that have logged in with it stay.
    assert_eq!(with("password=p", "password=q"), ["database shop.password: (secret) -> (secret) (now)"]);
    // Without an entry of its own a name is one of those that `*` stands for.
    assert_eq!(with("gone = host=a\n", ""), ["database gone.host: a -> fallback (servers renewed)"]);
    assert_eq!(with("gone = host=a\n", "gone = host=a\nnew = host=fallback\n"), [""; 0]);
}

#[test]
fn databases_that_come_and_go() {
    let with = |text: &str| {
        let base = BASE.replace("* = host=fallback\n", "");
        let (old, new) = (loaded(&base, USERS), loaded(&base.replace("gone = host=a\n", text), USERS));
        plan(&old.config, &new.config).0.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(with(""), ["database gone: host=a port=5432 -> (none) (clients disconnected)"]);
    assert_eq!(
        with("gone = host=a\nnew = port=7 host=n user=u password=p\n"),
        ["database new: (none) -> host=n port=7 user=u password=(secret) (now)"]
    );
    assert_eq!(with("gone = host=a\n* = host=n\n"), ["database *: (none) -> host=n port=5432 (now)"]);
}

#[test]
fn users_applications_and_peers() {
    assert_eq!(
        with("query_timeout=5", "query_timeout=6 pool_size=1"),
        ["user app.pool_size: (none) -> 1 (now)", "user app.query_timeout: 5 -> 6 (now)"]
    );
    assert_eq!(with("old = pool_size=3\n", ""), ["user old: pool_size=3 -> (none) (now)"]);
    assert_eq!(
        with("web-* = query_timeout=1", "web-* = query_timeout=2"),
        ["application web-*.query_timeout: 1 -> 2 (now)"]
    );
    assert_eq!(
        with(
            "web-* = query_timeout=1\njob = statement_timeout=2",
            "job = statement_timeout=2\nweb-* = query_timeout=1"
        ),
        ["application .order: web-*, job -> job, web-* (now)"]
    );
    assert_eq!(
        with("2 = host=two", "2 = host=2 port=3"),
        ["peer 2.host: two -> 2 (now)", "peer 2.port: 6432 -> 3 (now)"]
    );
}

#[test]
fn secrets_are_named_and_not_shown() {
    let changes = changes(BASE, "\"app\" \"other\"\n\"new\" \"x\"\n");
    assert_eq!(
        changes,
        [
            "secret app: (secret) -> (secret) (next login)",
            "secret new: (none) -> (secret) (next login)",
            "secret old: (secret) -> (none) (next login)"
        ]
    );
}
