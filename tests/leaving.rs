//! Clients that say good-bye, or something forbidden, while something of theirs is still on its way; and replication
//! clients, whose servers belong to nobody else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::postgres::{Options, Postgres, SUPERUSER};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler};
use crate::console::row_where;

/// The place of a client that has left is free again within this.
const SOON: Duration = Duration::from_secs(5);

/// A COPY that is begun and left in the same packet. The server then waits for data that will never come, and the
/// client is not read any more: the place was lost for ever.
#[test]
fn terminate_right_behind_a_copy() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let extended = [parse("", "copy t from stdin", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    for begun in [query("copy t from stdin"), extended] {
        let mut client = pooled.connect();
        client.send([begun, terminate()].concat());
        let begin = Instant::now();
        assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    }
}

/// A request, `Terminate` behind it, and the connection closed: it runs wherever there is a free server, of the worker that
/// has the client or of another one. (Where none is free it would have to wait, and who is gone is not waited for; so it is
/// PostgreSQL that is asked whether it ran, not the pooler.)
#[test]
fn a_request_on_the_way_out() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("workers", 2));
    let mut console = pooled.pooler.console();
    let mut direct = pooled.database.connect();
    for count in 1..=30 {
        let mut client = pooled.connect();
        eventually("an idle server", SOON, || {
            row_where(&mut console, "POOLS", "database", pooled.database.name()).number("sv_idle") == 1
        });
        client.send([query("insert into t values (1)"), terminate()].concat());
        drop(client);
        eventually("it ran", SOON, || direct.scalar("select count(*) from t") == count.to_string());
    }
}

/// A statement that runs long, `Terminate` behind it, and the connection closed: nobody waits for the answer, so it is
/// cancelled. A short one ends as it would directly.
#[test]
fn terminate_behind_a_statement_and_gone() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let mut client = pooled.connect();
    client.send([query("select pg_sleep(0.2); insert into t values (1)"), terminate()].concat());
    drop(client);
    let mut client = pooled.connect();
    client.send([query("select pg_sleep(600)"), terminate()].concat());
    drop(client);
    let begin = Instant::now();
    assert_eq!(pooled.connect().scalar("select count(*) from t"), "1");
    assert!(begin.elapsed() < SOON * 2, "{:?}", begin.elapsed());
}

/// A request, and behind it in the same packet a message that no client may send: the request is sent all the same, so
/// that what the server owes is what the pooler thinks it does. The place was held for ten seconds.
#[test]
fn a_forbidden_message_behind_a_request() {
    let pooled = pooled("", |builder| builder);
    for _ in 0..3 {
        let mut client = pooled.connect();
        client.send([query("select 42"), b"?\0\0\0\x04".to_vec()].concat());
        client.expect_closed();
        let begin = Instant::now();
        assert_eq!(pooled.connect().scalar("select 1"), "1");
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    }
}

/// A walsender without a database takes no SET, and reports other parameters than the pool's servers do.
#[test]
fn physical_replication_needs_no_parameters() {
    let postgres = Postgres::start(Options::new().hba("host replication all 127.0.0.1/32 trust"));
    let database = postgres.database("replicated");
    let builder = pooler().setting("default_pool_size", 1).secret(SUPERUSER, "");
    let pooler = builder.database(&database, "").start();
    let target = pooler.target(database.name()).user(SUPERUSER);
    Client::login(&target).scalar("select 1");
    let mut client = Client::login(&target.clone().param("replication", "true"));
    let reply = client.query("IDENTIFY_SYSTEM");
    assert!(reply.error().is_none(), "{reply:?}");
    assert_eq!(reply.rows().len(), 1);
    client.terminate();
    assert_eq!(Client::login(&target).scalar("select 1"), "1", "its place is free");
}

/// Two pools that may have one connection between them: it goes back and forth, and each time it moves it is used. They
/// once opened and closed connections for each other as fast as they could while their clients waited.
#[test]
fn pools_that_share_one_connection() {
    let postgres = Postgres::shared();
    let databases = ["one", "other"].map(|name| postgres.database(name));
    let builder = pooler().setting("max_user_connections", 1);
    let pooler = databases.iter().fold(builder, |builder, database| builder.database(database, "")).start();
    let answers: [AtomicUsize; 2] = Default::default();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (database, answers) in databases.iter().zip(&answers) {
            for _ in 0..4 {
                let target = pooler.target(database.name());
                let over = &over;
                scope.spawn(move || {
                    let mut client = Client::login(&target);
                    while !over.load(Relaxed) {
                        client.execute("select pg_sleep(0.03)");
                        answers.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        thread::sleep(Duration::from_secs(4));
        over.store(true, Relaxed);
    });
    let answers = answers.map(AtomicUsize::into_inner);
    let opened = pooler.log().matches("new connection to server").count();
    let all: usize = answers.iter().sum();
    assert!(all >= 30, "{answers:?} of about 130 possible, {opened} connections opened");
    assert!(answers.iter().all(|some| *some >= all / 5), "{answers:?}");
    assert!(opened <= all, "{opened} connections opened for {all} answers");
}
