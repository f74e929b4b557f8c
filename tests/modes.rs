//! When a client has a server connection, and in what state it finds it: session, transaction and statement mode.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::pooler::Pooler;
use support::postgres::{MD5_USER, PASSWORD, Postgres};
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::{Pooled, pair, pooled, pooler};

const TABLE: &str = "create table t (id int primary key, v text)";
const MOMENT: Duration = Duration::from_millis(50);

fn in_mode(mode: &str, setup: &str) -> Pooled {
    pooled(setup, |builder| builder.setting("pool_mode", mode))
}

/// Clients of the database that wait for a server.
fn waiting(pooler: &Pooler, database: &str) -> usize {
    let pools = pooler.console().execute("show pools");
    let columns = pools.0.iter().find_map(|message| message.columns()).expect("columns");
    let column = columns.iter().position(|column| column.name == "cl_waiting").expect("cl_waiting");
    let rows = pools.rows();
    let of_database = rows.iter().filter(|row| row[0].as_deref() == Some(database));
    of_database.map(|row| row[column].as_deref().expect("a number").parse::<usize>().expect("a number")).sum()
}

#[test]
fn session_mode_keeps_the_server_until_the_client_leaves() {
    let pooled = in_mode("session", "");
    let mut first = pooled.connect();
    let pid = first.backend_pid();
    first.execute("set work_mem = '7MB'; prepare p as select 'prepared'; create temp table mine (id int)");
    assert_eq!(first.scalar("show work_mem"), "7MB");
    assert_eq!(first.scalar("execute p"), "prepared");

    let mut second = pooled.connect();
    second.send(query("select pg_backend_pid()"));
    second.expect_silence(MOMENT);
    assert_eq!(first.backend_pid(), pid);
    first.terminate();
    let reply = second.read_until_ready();
    assert_eq!(reply.rows(), [[Some(pid.to_string())]], "the same server, reset");
    assert_eq!(second.scalar("show work_mem"), "4MB");
    assert_eq!(second.query("execute p").error_code(), "26000");
    assert_eq!(second.query("select * from mine").error_code(), "42P01");
}

/// Nobody knows what a client has made of a server that was its own: a reload does not give it to others with that.
#[test]
fn a_server_of_session_mode_stays_so() {
    let mut pooled = in_mode("session", "");
    let mut first = pooled.connect();
    let prepared = [parse("s", "select 'prepared'", &[]), sync()];
    first.send(prepared.concat());
    assert_eq!(first.read_until_ready().tags(), "1Z");
    first.execute("set work_mem = '7MB'; create temp table mine (id int); select pg_advisory_lock(1)");
    pooled.pooler.reload(|builder| builder.setting("pool_mode", "transaction"));
    let mut second = pooled.connect();
    second.send(query("show work_mem"));
    second.expect_silence(MOMENT);
    assert_eq!(first.scalar("select count(*) from mine"), "0");
    first.send([bind("", "s", &[]), execute("", 0), sync()].concat());
    assert_eq!(first.read_until_ready().tags(), "2DCZ");
    assert_eq!(first.scalar("show work_mem"), "7MB");
    first.terminate();
    assert_eq!(second.read_until_ready().rows(), [[Some("4MB".to_string())]]);
    assert_eq!(second.query("select * from mine").error_code(), "42P01");
    assert_eq!(second.scalar("select count(*) from pg_prepared_statements"), "0");
    assert_eq!(
        second.scalar("select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'"),
        "0"
    );
    assert_eq!(pooled.connect().backend_pid(), second.backend_pid(), "it is shared now");
}

/// A login needs no server of its own: the one that told the pooler its parameters is enough.
#[test]
fn session_mode_links_at_the_first_query() {
    let pooled = in_mode("session", "");
    let mut idle = pooled.connect();
    let mut busy = pooled.connect();
    busy.execute("select 1");
    idle.send(query("select 2"));
    idle.expect_silence(MOMENT);
    busy.terminate();
    assert_eq!(idle.read_until_ready().tags(), "TDCZ");
}

#[test]
fn session_mode_passes_named_statements_and_cursors_on() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([parse("named", "select $1::int", &[]), sync()])
        .ready(1)
        .send([bind("", "named", &[Some("7")]), execute("", 0), sync()])
        .ready(1)
        .query("select name, statement from pg_prepared_statements")
        .send([parse("named", "select 1", &[]), sync()])
        .ready(1)
        .query("begin; declare c cursor with hold for select * from generate_series(1, 3); commit")
        .query("fetch 2 from c")
        .query("listen channel")
        .query("notify channel, 'payload'")
        .query("select pg_advisory_lock(1)")
        .query("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
        .close();
    let session = &pair.oracle.pooled[1..];
    pair.oracle.check_on(session, &script);
    let mut next = Client::login(&session[0].target);
    assert_eq!(next.scalar("select count(*) from pg_prepared_statements"), "0");
    assert_eq!(next.scalar("select count(*) from pg_listening_channels()"), "0");
    let mine = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    assert_eq!(next.scalar(mine), "0");
}

#[test]
fn session_mode_without_a_reset_query_leaves_the_state() {
    let pooled =
        pooled("", |builder| builder.setting("pool_mode", "session").setting("server_reset_query", ""));
    let mut first = pooled.connect();
    let pid = first.backend_pid();
    first.execute("set work_mem = '7MB'");
    first.terminate();
    let mut second = pooled.connect();
    assert_eq!((second.backend_pid(), second.scalar("show work_mem")), (pid, "7MB".to_string()));
}

#[test]
fn transaction_mode_releases_between_transactions() {
    let pooled = in_mode("transaction", TABLE);
    let (mut first, mut second) = (pooled.connect(), pooled.connect());
    let pid = first.backend_pid();
    assert_eq!(second.backend_pid(), pid, "one server for both");

    first.execute("begin");
    first.execute("insert into t values (1)");
    second.send(query("select count(*) from t"));
    second.expect_silence(MOMENT);
    assert_eq!(first.backend_pid(), pid);
    assert_eq!(first.query("select 1/0").status(), Some(b'E'));
    second.expect_silence(MOMENT);
    first.execute("rollback");
    assert_eq!(second.read_until_ready().rows(), [[Some("0".to_string())]]);
}

/// The server is held until Sync even if all replies have been read.
#[test]
fn transaction_mode_holds_the_server_until_sync() {
    let pooled = in_mode("transaction", "");
    let (mut first, mut second) = (pooled.connect(), pooled.connect());
    first.send_all([parse("", "select 1", &[]), flush()]);
    first.expect(b'1');
    second.send(query("select 2"));
    second.expect_silence(MOMENT);
    first.send_all([bind("", "", &[]), execute("", 0), sync()]);
    assert_eq!(first.read_until_ready().tags(), "2DCZ");
    assert_eq!(second.read_until_ready().tags(), "TDCZ");
}

#[test]
fn a_reset_query_in_transaction_mode_only_if_told() {
    let always = pooled("", |builder| {
        builder.setting("server_reset_query", "set work_mem = '9MB'").setting("server_reset_query_always", 1)
    });
    let mut client = always.connect();
    client.execute("select 1");
    assert_eq!(client.scalar("show work_mem"), "9MB");

    let never = pooled("", |builder| builder.setting("server_reset_query", "set work_mem = '9MB'"));
    let mut client = never.connect();
    client.execute("select 1");
    assert_eq!(client.scalar("show work_mem"), "4MB");
}

/// A client that leaves inside a transaction has it rolled back, whatever its state, and its server is not lost to the
/// others (bug 38).
#[test]
fn a_client_leaves_inside_a_transaction() {
    for mode in ["session", "transaction"] {
        let pooled = in_mode(mode, TABLE);
        type Leave = fn(Client);
        let ways: [Leave; 3] = [drop, Client::abort, Client::terminate];
        for leave in ways {
            for sql in ["begin; insert into t values (1)", "begin; insert into t values (1); select 1/0"] {
                let mut client = pooled.connect();
                client.query(sql);
                leave(client);
                pooled.settle();
                assert_eq!(pooled.connect().scalar("select count(*) from t"), "0", "{mode}");
            }
        }
        let log = pooled.database.log();
        assert!(!log.contains("already a transaction in progress"), "{log}");
    }
}

#[test]
fn statement_mode_refuses_transactions() {
    let pooled = in_mode("statement", TABLE);
    let mut client = pooled.connect();
    assert_eq!(client.scalar("select 1"), "1");
    let single = client.query("begin; insert into t values (1); commit");
    assert_eq!(single.commands(), ["BEGIN", "INSERT 0 1", "COMMIT"]);
    for sql in ["begin", "begin; insert into t values (2)"] {
        let mut client = pooled.connect();
        client.send(query(sql));
        let reply = client.expect_closed();
        let error = reply.error().expect("an error");
        assert_eq!(error.severity(), "FATAL");
        assert_eq!(error.message(), "transaction blocks not allowed in statement pooling mode");
    }
    assert_eq!(client.scalar("select count(*) from t"), "1", "the others go on");
    pooled.settle();
}

#[test]
fn the_mode_of_a_database_and_of_a_user_come_first() {
    let database = Postgres::shared().database("modes");
    let builder = pooler().setting("default_pool_size", 1);
    let builder = builder.database(&database, "").database_as("by_session", &database, "pool_mode=session");
    let builder = builder.user_line(MD5_USER, "pool_mode=session").secret(MD5_USER, PASSWORD);
    let pooler = builder.start();

    let keeps_its_server = |target: Target| {
        let (mut first, mut second) = (Client::login(&target), Client::login(&target));
        first.execute("select 1");
        second.send(query("select 2"));
        eventually("a reply or a place in the queue", Duration::from_secs(5), || {
            second.peer().stream().set_read_timeout(MOMENT).unwrap();
            second.try_read().is_ok() || waiting(&pooler, &target.database) == 1
        });
        waiting(&pooler, &target.database) == 1
    };
    assert!(!keeps_its_server(pooler.target(database.name())));
    assert!(keeps_its_server(pooler.target("by_session")));
    assert!(keeps_its_server(pooler.target(database.name()).user(MD5_USER)));
}

/// Who waits longest is served first, whichever worker has the client, as long as it has waited clearly longer.
#[test]
fn waiting_clients_are_served_in_order() {
    let pooled = pooled("create table arrivals (seq serial, client int)", |builder| builder);
    let mut holder = pooled.connect();
    holder.execute("begin");
    let mut clients: Vec<Client> = (0..5).map(|_| pooled.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(query(&format!("insert into arrivals (client) values ({number})")));
        eventually("it waits", Duration::from_secs(5), || {
            waiting(&pooled.pooler, pooled.database.name()) == number + 1
        });
        // A few milliseconds' difference may give way to a client of the worker that has the server.
        std::thread::sleep(Duration::from_millis(15));
    }
    holder.execute("commit");
    clients.iter_mut().for_each(|client| assert_eq!(client.read_until_ready().tags(), "CZ"));
    let order = pooled.database.scalar("select string_agg(client::text, ',' order by seq) from arrivals");
    assert_eq!(order, "0,1,2,3,4");
}

/// The server used last is used next; with `server_round_robin` the one that has rested longest.
#[test]
fn which_idle_server_is_taken() {
    for (round_robin, in_use) in [(0, 1), (1, 3)] {
        let pooled = pooled("", |builder| {
            builder.setting("default_pool_size", 3).setting("server_round_robin", round_robin)
        });
        let mut clients: Vec<Client> = (0..3).map(|_| pooled.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.execute("begin")));
        clients.iter_mut().for_each(|client| drop(client.execute("commit")));
        let pids: Vec<i32> = (0..6).map(|_| clients[0].backend_pid()).collect();
        assert_eq!(pids[..in_use].iter().collect::<BTreeSet<_>>().len(), in_use, "{pids:?}");
        assert_eq!(pids[..6 - in_use], pids[in_use..], "in turn");
    }
}

/// A client whose next request is always quicker than the server, which is asked behind each what its session has, takes
/// turns with others all the same.
#[test]
fn who_changes_its_session_without_a_pause_shares_its_server() {
    let pooled = pooled("", |builder| builder);
    let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let mut hasty = pooled.connect();
        let (over, turns) = (&over, &turns);
        scope.spawn(move || {
            while !over.load(Relaxed) {
                hasty.execute("select set_config('work_mem', '5MB', false)");
                turns.fetch_add(1, Relaxed);
            }
        });
        let mut other = pooled.connect();
        let mut missed = 0;
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(5));
            let before = turns.load(Relaxed);
            other.execute("select 1");
            missed += turns.load(Relaxed) - before;
        }
        over.store(true, Relaxed);
        assert!(missed < 50 * 10, "{missed} requests of the other came first");
    });
}
