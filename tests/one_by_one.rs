//! Requests that come together, where a limit may cancel one: each is sent when those before it have been answered, and
//! nothing but time may tell.

use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::oracle::{Oracle, Script, Way};
use support::postgres::{Options, Postgres, SUPERUSER};
use support::wait::eventually;

use crate::common::{pooled, pooler, prepared_database};

const SOON: Duration = Duration::from_secs(10);

/// PostgreSQL directly, and through a pooler whose limits are never over.
fn check(setup: &str, scripts: impl IntoIterator<Item = Script>) {
    let [direct, limited] = ["direct", "limited"].map(|name| prepared_database(name, setup));
    let builder = pooler().setting("default_pool_size", 1).setting("statement_timeout", "60s");
    let pooler = builder.database(&limited, "").start();
    let pooled = Way { target: pooler.target(limited.name()), database: limited };
    let oracle = Oracle { direct: Way { target: direct.target(), database: direct }, pooled: vec![pooled] };
    scripts.into_iter().for_each(|script| oracle.check(&script));
}

/// A client whose next request waits for the answer to the one before is gone as any other: its query is cancelled, and its
/// next request never sent.
#[test]
fn a_client_that_leaves() {
    let pooled = pooled("create table t (i int)", |builder| builder.setting("statement_timeout", "60s"));
    let insert = query("insert into t values (1)");
    for end in ["abort", "close"] {
        let mut client = pooled.connect();
        client.send(query("select pg_sleep(60)"));
        eventually("it runs", SOON, || pooled.database.backends("app").iter().any(|b| b.state == "active"));
        client.send(&insert);
        thread::sleep(Duration::from_millis(50)); // so that it is read
        match end {
            "abort" => client.abort(),
            _ => drop(client),
        }
        assert_eq!(pooled.connect().scalar("select count(*) from t"), "0", "{end}");
    }
    // Who has said good-bye gets what it has asked for, if that does not take long.
    let mut client = pooled.connect();
    client.send([query("select pg_sleep(0.3)"), insert, terminate()].concat());
    drop(client);
    eventually("it is done", SOON, || pooled.connect().scalar("select count(*) from t") == "1");
}

/// One that always has a request under way has no transaction that takes long, nor a query.
#[test]
fn a_client_that_never_stops() {
    for limit in ["transaction_timeout", "query_timeout"] {
        let pooled = pooled("", |builder| builder.setting(limit, "1"));
        let mut client = pooled.connect();
        let begin = Instant::now();
        client.send(query("select pg_sleep(0.05)"));
        while begin.elapsed() < Duration::from_millis(2500) {
            client.send(query("select pg_sleep(0.05)"));
            assert_eq!(client.read_until_ready().error_code(), "", "{limit}");
        }
    }
}

/// A stream of replication that has ended leaves a session in which commands run.
#[test]
fn behind_a_stream_of_replication() {
    let postgres = Postgres::start(Options::new().hba("host replication all 127.0.0.1/32 trust"));
    let database = postgres.database("replicated");
    let builder = pooler().secret(SUPERUSER, "").database(&database, "").setting("statement_timeout", "60s");
    let pooler = builder.start();
    let target = pooler.target(database.name()).user(SUPERUSER).param("replication", "true");
    let mut client = support::wire::Client::login(&target);
    let place = client.execute("IDENTIFY_SYSTEM").rows()[0][2].clone().expect("a place in the log");
    client.send(query(&format!("START_REPLICATION {place}")));
    client.expect(b'W');
    client.send(copy_done());
    client.read_until_ready();
    assert_eq!(client.execute("IDENTIFY_SYSTEM").rows().len(), 1);
}

/// What a server that skips does not answer is not waited for.
#[test]
fn copies_that_fail() {
    let copy = || [parse("", "copy t from stdin", &[]), bind("", "", &[]), execute("", 0), sync()];
    let failed = || Script::new().send(copy()).until(b'G').send([copy_data(b"one\n"), copy_done()]);
    check(
        "create table t (i int)",
        [
            failed().until(b'E').send([query("select 1"), sync()]).ready(1),
            failed().until(b'E').send([sync(), query("select 1")]).ready(2),
            failed().send([sync(), query("select 1")]).ready(2),
            Script::new().send(copy()).until(b'G').send([parse("", "select 1", &[]), sync()]).until(b'E'),
        ],
    );
}
