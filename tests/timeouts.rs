//! Limits in time. A statement that takes too long ends as by PostgreSQL's own `statement_timeout`; what takes a server for
//! too long in other ways ends as with PgBouncer.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use support::backend;
use support::frontend::*;
use support::message::Message;
use support::oracle::{Oracle, Script, Way};
use support::postgres::{Options, Postgres, SUPERUSER};
use support::scripted::ScriptedServer;
use support::tap::{Rule, Tap};
use support::wait::{Gate, eventually};
use support::wire::{Client, Reply, Target};

use crate::common::{pooled, pooler, prepared_database};

const SOON: Duration = Duration::from_secs(10);
/// The limit in most tests, and a time well beyond it.
const LIMIT: Duration = Duration::from_secs(1);
const BEYOND: Duration = Duration::from_millis(1800);

#[track_caller]
fn assert_ended(reply: &Reply, text: &str) {
    let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "08P01", text));
}

/// What a statement timeout leaves alone: where the errors of a cancel and of a timeout are made, and their words.
const WORDS: &[u8] = b"MLFR";

/// PostgreSQL ends statements by its own `statement_timeout`; the pooler by its setting, at a server that has none.
#[test]
fn statements_end_as_by_the_servers_own_timeout() {
    let setup = "create table t (i int); \
                 create function slow(int) returns int language plpgsql volatile as \
                 $$ begin perform pg_sleep(60); return $1; end $$";
    let [direct, through] = ["direct", "through"].map(|name| prepared_database(name, setup));
    direct.connect().execute(&format!("alter database \"{}\" set statement_timeout = '1s'", direct.name()));
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("statement_timeout", "1s")
        .database(&through, "")
        .start();
    let pooled = vec![Way { target: pooler.target(through.name()), database: through }];
    let oracle = Oracle { direct: Way { target: direct.target(), database: direct }, pooled };
    let slow = "select pg_sleep(60)";
    let next = "select 'next'";
    let extended =
        |sql: &str| [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat();
    let script = || Script::new().drop_fields(WORDS);
    let scripts = [
        script().query(slow).query(next),
        // The transaction has failed, and is the client's to end.
        script()
            .query("begin")
            .query("insert into t values (1)")
            .query(slow)
            .query(next)
            .query("commit")
            .query("table t"),
        script()
            .query("begin")
            .query("savepoint s")
            .query(slow)
            .query("rollback to s")
            .query(next)
            .query("commit"),
        // Each statement of a string has its own time.
        script().query("select pg_sleep(0.4); select pg_sleep(0.4); select pg_sleep(0.4)").query(next),
        script().query("select 1; select pg_sleep(60); select 2").query(next),
        script().send([extended(slow), sync()]).ready(1).query(next),
        script().send([extended(next), extended(slow), extended(next), sync()]).ready(1).query(next),
        script().send([extended("select pg_sleep(0.4)").repeat(3), sync()]).ready(1),
        script().send([extended(next), sync(), extended(slow), sync(), extended(next), sync()]).ready(3),
        // Part of a result has come.
        script()
            .query("select i, case when i = 9 then pg_sleep(60) end from generate_series(1, 10) i")
            .query(next),
        script()
            .query("begin")
            .query("declare c cursor for select slow(1)")
            .query("fetch c")
            .query(next)
            .query("rollback"),
        script().query("copy (select slow(i) from generate_series(1, 3) i) to stdout").query(next),
        script()
            .query("do $$ begin perform pg_sleep(60); exception when query_canceled then null; end $$")
            .query(next),
    ];
    for script in &scripts {
        oracle.check(script);
    }
}

/// PostgreSQL heeds no timeout while it waits for the client: what comes too late for a COPY is refused when it comes.
#[test]
fn data_that_come_too_late() {
    let pooled = pooled("create table t (i int)", |builder| {
        builder.setting("statement_timeout", "300ms").setting("statement_timeout_grace", "300ms")
    });
    let mut client = pooled.connect();
    client.send([query("copy t from stdin"), copy_data(b"7\n")].concat());
    client.expect(b'G');
    client.expect_silence(BEYOND);
    client.send([copy_data(b"8\n"), copy_done()].concat());
    let reply = client.read_until_ready();
    assert_eq!((reply.error_code().as_str(), reply.status()), ("57014", Some(b'I')), "{reply:?}");
    assert_eq!(client.scalar("select count(*) from t"), "0");
    // A batch without an end: what it has run is known to have ended.
    client.send([parse("", "select 'quick'", &[]), bind("", "", &[]), execute("", 0)].concat());
    assert_eq!(client.read_until(b'C').rows().len(), 1); // it is told, though it has not asked yet
    client.expect_silence(BEYOND);
    client.send(sync());
    assert_eq!(client.read_until_ready().error_code(), "");
}

/// Time in which the server has nothing to do for the client does not count: it idles in a transaction, or does not take
/// its answer.
#[test]
fn only_the_servers_time_counts() {
    let pooled = pooled("", |builder| builder.setting("statement_timeout", "2s"));
    let mut client = pooled.connect();
    client.execute("begin");
    thread::sleep(2 * BEYOND); // what is tested is that nothing comes of it
    assert_eq!(client.scalar("select 'still here'"), "still here");
    client.execute("commit");

    // 24 MB, of which the client takes nothing for a while.
    client.send(query("select repeat('x', 1000) from generate_series(1, 24000)"));
    client.read();
    thread::sleep(2 * BEYOND);
    let reply = client.read_until_ready();
    assert_eq!(reply.commands(), ["SELECT 24000"]);
}

/// The server, the session and what pins it stay.
#[test]
fn the_session_stays() {
    let pooled =
        pooled("", |builder| builder.setting("statement_timeout", "1s").setting("default_pool_size", 2));
    let mut client = pooled.connect();
    client.execute("set work_mem = '77MB'");
    client.execute("create temporary table kept (i int)");
    client.execute("select pg_advisory_lock(42)");
    let pid = client.scalar("select pg_backend_pid()");
    let begin = Instant::now();
    let reply = client.query("select pg_sleep(60)");
    assert_eq!((reply.error_code().as_str(), reply.status()), ("57014", Some(b'I')));
    let took = begin.elapsed();
    assert!(took >= LIMIT && took < LIMIT * 4, "{took:?}");
    assert_eq!(client.scalar("select pg_backend_pid()"), pid);
    assert_eq!(client.scalar("show work_mem"), "77MB");
    assert_eq!(client.scalar("select count(*) from kept"), "0");
    assert_eq!(client.scalar("select count(*) from pg_locks where locktype = 'advisory'"), "1");
}

/// Who sets a shorter one itself has that; one that is longer does not help.
#[test]
fn the_stricter_holds() {
    let pooled = pooled("", |builder| builder.setting("statement_timeout", "1s"));
    let mut client = pooled.connect();
    client.execute("set statement_timeout = '50ms'");
    let error = client.query("select pg_sleep(60)").error().expect("an error");
    assert_eq!((error.code(), error.message()), ("57014", "canceling statement due to statement timeout"));
    client.execute("set statement_timeout = '1min'");
    let begin = Instant::now();
    assert_eq!(client.query("select pg_sleep(60)").error_code(), "57014");
    assert!(begin.elapsed() < SOON);
}

/// A database's limit goes before the global one, a user's before both; 0 is none.
#[test]
fn limits_of_databases_and_users() {
    let database = prepared_database("limits", "");
    let pooler = pooler()
        .setting("statement_timeout", "300ms")
        .database_as("usual", &database, "")
        .database_as("patient", &database, "statement_timeout=0")
        .database_as("strict", &database, "statement_timeout=100ms")
        .start();
    let outcome = |name: &str| pooler.connect(name).query("select pg_sleep(1)").error_code();
    assert_eq!(outcome("usual"), "57014");
    assert_eq!(outcome("strict"), "57014");
    assert_eq!(outcome("patient"), "");
}

/// The cancel of a statement meets no other, however late it is.
#[test]
fn a_timeout_meets_its_own_statement_only() {
    let pooled = pooled("", |builder| builder.setting("statement_timeout", "20ms"));
    let workers = (0..4).map(|n| {
        let target = pooled.target();
        thread::spawn(move || {
            let mut client = Client::login(&target);
            for i in 0..60 {
                // Around the limit, so that the cancel comes while the statement ends; then one that is done at once.
                let slow = format!("select pg_sleep({})", 0.012 + f64::from(i % 10) * 0.002);
                for sql in [slow.as_str(), "select 'mine'"] {
                    let begin = Instant::now();
                    let code = client.query(sql).error_code();
                    let late = begin.elapsed() >= Duration::from_millis(20);
                    assert!(code.is_empty() || code == "57014" && late, "{n}: {sql}: {code}");
                }
            }
        })
    });
    workers.collect::<Vec<_>>().into_iter().for_each(|worker| worker.join().expect("no stranger's cancel"));
}

/// A server that does not end the statement loses its connection, and the client is told.
#[test]
fn a_server_that_does_not_end_the_statement() {
    let server = ScriptedServer::start(|session| {
        session.login()?;
        session.serve(|message| match message.tag {
            b'Q' if message.body.starts_with(b"stuck") => Vec::new(),
            b'Q' => backend::one_value("served"),
            _ => Vec::new(),
        })
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("statement_timeout", "200ms")
        .setting("statement_timeout_grace", "300ms")
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = pooler.connect("app");
    let begin = Instant::now();
    client.send(query("stuck"));
    let error = client.expect_closed().error().expect("an error");
    assert_eq!((error.severity(), error.code()), ("FATAL", "57014"));
    assert!(error.get(b'H').contains("statement_timeout_grace"), "{error:?}");
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!(server.cancels().len(), 1);
    assert_eq!(pooler.connect("app").scalar("anything"), "served");
    eventually("the first connection is closed", SOON, || server.open_connections() == 1);
    // Nor is it given more time by a client that goes on sending.
    let mut client = pooler.connect("app");
    let begin = Instant::now();
    client.send(query("stuck"));
    client.peer().stream().set_read_timeout(Duration::from_millis(100)).expect("set the timeout");
    let told = loop {
        match client.try_read() {
            Ok(message) => break message,
            Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}"),
        }
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        client.send(flush());
    };
    assert_eq!(told.tag, b'E', "{told:?}");
}

#[test]
fn query_timeout() {
    let pooled = pooled("", |builder| builder.setting("query_timeout", 1));
    let mut client = pooled.connect();
    client.execute("begin");
    thread::sleep(BEYOND); // it counts while a query runs only
    assert_eq!(client.scalar("select 1"), "1");
    // A client that waits for a server is ended, too.
    let mut waiting = pooled.connect();
    let begin = Instant::now();
    waiting.send(query("select 'late'"));
    assert_ended(&waiting.expect_closed(), "query_timeout");
    assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
    let pid = client.scalar("select pg_backend_pid()");
    client.send(query("select pg_sleep(60)"));
    assert_ended(&client.expect_closed(), "query timeout");
    // The server connection was brought back.
    assert_eq!(pooled.connect().scalar("select pg_backend_pid()"), pid);
}

#[test]
fn idle_transaction_timeout() {
    let pooled = pooled("create table t (i int)", |builder| builder.setting("idle_transaction_timeout", 1));
    let mut client = pooled.connect();
    client.execute("begin; insert into t values (1)");
    client.query("select pg_sleep(1.5)"); // busy is not idle
    let begin = Instant::now();
    let pid = client.scalar("select pg_backend_pid()");
    assert_ended(&client.expect_closed(), "idle transaction timeout");
    assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
    let mut next = pooled.connect();
    assert_eq!(next.scalar("select count(*) from t"), "0");
    assert_eq!(next.scalar("select pg_backend_pid()"), pid);
    thread::sleep(BEYOND); // idle, but in no transaction
    assert_eq!(next.scalar("select 1"), "1");
    // Half a batch holds a transaction open as well.
    let mut half = pooled.connect();
    half.send([parse("", "select 1", &[]), flush()].concat());
    assert_ended(&half.expect_closed(), "idle transaction timeout");
    let long = query(&format!("select '{}'", "x".repeat(900_000)));
    for begun in [parse("", "select 1", &[]), long[..800_000].to_vec(), query("copy t from stdin")] {
        let mut half = pooled.connect();
        half.send(begun);
        assert_ended(&half.expect_closed(), "idle transaction timeout");
    }
}

#[test]
fn transaction_timeout() {
    let pooled = pooled("create table t (i int)", |builder| builder.setting("transaction_timeout", 1));
    let mut client = pooled.connect();
    let begin = Instant::now();
    client.execute("begin; insert into t values (1)");
    let reply = loop {
        client.send(query("select pg_sleep(0.1)"));
        let reply = client.read_until(b'E');
        if reply.error().is_some() {
            break reply;
        }
    };
    assert_ended(&reply, "transaction timeout");
    assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
    assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
}

#[test]
fn client_idle_timeout() {
    let pooled = pooled("", |builder| builder.setting("client_idle_timeout", 1));
    let mut idle = pooled.connect();
    let mut busy = pooled.connect();
    busy.send(query("select pg_sleep(2)"));
    let begin = Instant::now();
    assert_ended(&idle.expect_closed(), "client_idle_timeout");
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    // It counts from the end of the last request.
    assert_eq!(busy.read_until_ready().error_code(), "");
    assert_eq!(busy.scalar("select 1"), "1");
}

/// With `on_timeout = error` the transaction is ended and the client is not: its next request gets the error, the server
/// is free meanwhile, and what follows goes as in any failed transaction.
#[test]
fn who_idles_in_a_transaction_is_told_later() {
    let pooled = pooled("create table t (i int)", |builder| {
        builder.setting("idle_transaction_timeout", "300ms").setting("on_timeout", "error")
    });
    let mut client = pooled.connect();
    client.execute("set work_mem = '77MB'");
    let requests = [
        query("commit"),
        query("insert into t values (2)"),
        [parse("", "insert into t values (3)", &[]), bind("", "", &[]), execute("", 0), sync()].concat(),
    ];
    for request in requests {
        client.execute("begin; set local statement_timeout = 0; insert into t values (1)");
        // The server goes to others, without what the client had there.
        let mut other = pooled.connect();
        assert_eq!(other.scalar("select count(*) from t"), "0");
        client.send(&request);
        let reply = client.read_until_ready();
        assert_eq!(
            (reply.tags().as_str(), reply.error_code().as_str(), reply.status()),
            ("EZ", "25P03", Some(b'E'))
        );
        assert_eq!(other.scalar("select 1"), "1");
        let reply = client.query("select 1");
        assert_eq!((reply.error_code().as_str(), reply.status()), ("25P02", Some(b'E')));
        assert_eq!(client.query("savepoint s").error_code(), "25P02");
        let reply = client.query("commit");
        assert_eq!((reply.commands(), reply.status()), (vec!["ROLLBACK".to_string()], Some(b'I')));
        assert_eq!(client.scalar("show work_mem"), "77MB");
        assert_eq!(client.scalar("select count(*) from t"), "0");
    }
    // One who leaves leaves nothing.
    client.execute("begin");
    assert_eq!(pooled.connect().scalar("select 1"), "1");
    client.terminate();
    assert_eq!(pooled.connect().scalar("select 1"), "1");
}

/// It is ended once, however long the server takes to say so: on a busy machine the end was sent anew before each answer,
/// and never came.
#[test]
fn a_transaction_is_ended_once() {
    let postgres = Postgres::shared();
    let database = postgres.database("once");
    let slow = Rule { delay_to_client: Duration::from_millis(50), ..Rule::default() };
    let tap = Tap::with_rules(postgres.address(), move |_| slow.clone());
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("idle_transaction_timeout", "100ms")
        .setting("on_timeout", "error")
        .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
        .start();
    let mut client = pooler.connect(database.name());
    client.execute("begin");
    assert_eq!(pooler.connect(database.name()).scalar("select 1"), "1");
    assert_eq!(client.query("select 1").error_code(), "25P03");
    let sent = tap.links()[0].to_server();
    let rollbacks = sent.windows(8).filter(|window| window.eq_ignore_ascii_case(b"rollback")).count();
    assert_eq!(rollbacks, 1, "{}", sent.escape_ascii());
}

/// A statement that runs when its transaction's time is over ends with that error.
#[test]
fn a_transaction_that_takes_too_long_fails() {
    let pooled = pooled("create table t (i int)", |builder| {
        builder.setting("transaction_timeout", "1s").setting("on_timeout", "error")
    });
    let mut client = pooled.connect();
    client.execute("begin; insert into t values (1)");
    let begin = Instant::now();
    let reply = client.query("select pg_sleep(60)");
    assert_eq!((reply.error_code().as_str(), reply.status()), ("25P04", Some(b'E')), "{reply:?}");
    assert!(begin.elapsed() < LIMIT * 4, "{:?}", begin.elapsed());
    let mut other = pooled.connect();
    assert_eq!(other.scalar("select count(*) from t"), "0");
    assert_eq!(client.query("select 1").error_code(), "25P02");
    assert_eq!(client.query("rollback").status(), Some(b'I'));
    assert_eq!(client.scalar("select 'as before'"), "as before");
    // Many quick statements in one transaction, and one that is not in a block.
    client.execute("begin");
    let code = loop {
        let code = client.query("select pg_sleep(0.05)").error_code();
        if !code.is_empty() {
            break code;
        }
    };
    assert_eq!(code, "25P04");
    client.execute("rollback");
    let reply = client.query("select pg_sleep(60)");
    assert_eq!((reply.error_code().as_str(), reply.status()), ("25P04", Some(b'I')), "{reply:?}");
    assert_eq!(client.scalar("select 1"), "1");
}

/// The end of the reply to the statement that was cancelled comes late: the client was told once, and is not told again.
#[test]
fn told_once_that_a_transaction_has_failed() {
    let (canceled, ended) = (Gate::new(), Gate::new());
    let server = ScriptedServer::start({
        let (canceled, ended) = (canceled.clone(), ended.clone());
        move |session| {
            session.login()?;
            loop {
                let message = session.read()?;
                let text = String::from_utf8_lossy(&message.body);
                let failed = |code| [backend::error("ERROR", code, "no"), backend::ready(b'E')].concat();
                let done = |tag, status| [backend::command_complete(tag), backend::ready(status)].concat();
                let reply = match text.trim_end_matches('\0') {
                    "begin" => done("BEGIN", b'T'),
                    "slow" => {
                        canceled.pass();
                        session.send(&backend::error("ERROR", "57014", "canceled"))?;
                        ended.pass();
                        backend::ready(b'E')
                    }
                    "ROLLBACK" => done("ROLLBACK", b'I'),
                    "next" => failed("25P02"),
                    begin if begin.starts_with("BEGIN;") => failed("3B001"),
                    _ => [backend::empty_query(), backend::ready(b'I')].concat(),
                };
                session.send(&reply)?;
            }
        }
    });
    let pooler = pooler()
        .setting("transaction_timeout", "200ms")
        .setting("on_timeout", "error")
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = pooler.connect("app");
    client.execute("begin");
    client.send(query("slow"));
    eventually("it is cancelled", SOON, || server.cancels().len() == 1);
    canceled.open();
    assert_eq!(client.expect(b'E').error().expect("an error").code(), "25P04");
    client.expect_silence(Duration::from_millis(300));
    assert_eq!(server.cancels().len(), 1);
    ended.open();
    assert_eq!(client.read_until_ready().status(), Some(b'E'));
    assert_eq!(client.query("next").error_code(), "25P02");
}

/// A stream of replication is no statement that takes too long.
#[test]
fn replication_has_no_end() {
    let postgres = Postgres::start(Options::new().hba("host replication all 127.0.0.1/32 trust"));
    let database = postgres.database("replicated");
    let builder = pooler().secret(SUPERUSER, "").database(&database, "");
    let builder = ["statement_timeout", "query_timeout", "transaction_timeout"]
        .iter()
        .fold(builder, |builder, name| builder.setting(name, "0.3"));
    let pooler = builder.start();
    let target = pooler.target(database.name()).user(SUPERUSER).param("replication", "true");
    let mut client = Client::login(&target);
    let place = client.execute("IDENTIFY_SYSTEM").rows()[0][2].clone().expect("a place in the log");
    client.send(query(&format!("START_REPLICATION {place}")));
    client.expect(b'W');
    thread::sleep(LIMIT);
    database.connect().execute("create table t (i int)");
    client.expect(b'd');
}

/// With `on_timeout = terminate` transactions end as by PostgreSQL's own limits. Its `transaction_timeout` came with version
/// 17: with an older one (`PG_BIN`) only the other limit is compared.
#[test]
fn transactions_end_as_by_the_servers_own_limits() {
    let postgres = Postgres::shared();
    let version: u32 =
        postgres.database("version").scalar("show server_version_num").parse().expect("a number");
    let setup = "create table t (i int); \
                 create function slow(int) returns int language plpgsql volatile as \
                 $$ begin perform pg_sleep(0.2); return $1; end $$";
    let extended = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    let idle: [Vec<Vec<u8>>; 4] = [
        vec![query("begin"), query("insert into t values (1)")],
        vec![query("begin; declare c cursor for select 1; fetch c")],
        vec![[extended("begin"), extended("insert into t values (1)"), sync()].concat()],
        vec![query("begin"), query("nonsense")],
    ];
    let busy: [Vec<Vec<u8>>; 6] = [
        vec![query("begin; insert into t values (1)"), query("select pg_sleep(60)")],
        vec![query(
            "insert into t values (1); select pg_sleep(0.4); select pg_sleep(0.4); select pg_sleep(60)",
        )],
        vec![[extended("insert into t values (1)"), extended("select pg_sleep(60)"), sync()].concat()],
        vec![
            query("begin"),
            [extended("insert into t values (1)"), extended("select pg_sleep(60)"), sync()].concat(),
        ],
        vec![
            query("begin; declare c cursor for select slow(i) from generate_series(1, 100) i"),
            query("fetch all from c"),
        ],
        vec![query("begin"), query("copy (select slow(i) from generate_series(1, 100) i) to stdout")],
    ];
    let limits = [
        ("idle_in_transaction_session_timeout", "idle_transaction_timeout", &idle[..], 0),
        ("transaction_timeout", "transaction_timeout", &[&idle[..3], &busy[..]].concat()[..], 170_000),
    ];
    for (theirs, ours, scripts, since) in limits {
        if version < since {
            eprintln!("skipped: PostgreSQL {version} has no {theirs}");
            continue;
        }
        let direct = prepared_database("direct", setup);
        direct.sql(&format!("alter database \"{}\" set {theirs} = '1s'", direct.name()));
        let pooled = pooled(setup, |builder| builder.setting(ours, "1s").setting("on_timeout", "terminate"));
        for script in scripts {
            let ways = [direct.target(), pooled.target()].map(|target| {
                let script = script.clone();
                thread::spawn(move || until_closed(&target, &script))
            });
            let [directly, through] = ways.map(|way| way.join().expect("an outcome"));
            assert_eq!(directly, through);
            for database in [&direct, &pooled.database] {
                assert_eq!(database.scalar("select count(*) from t"), "0");
            }
        }
        if ours == "transaction_timeout" {
            // A transaction that has failed has no limit.
            for target in [direct.target(), pooled.target()] {
                let mut client = Client::login(&target);
                client.query("begin; nonsense");
                client.expect_silence(BEYOND);
                assert_eq!(client.query("rollback").status(), Some(b'I'));
            }
        }
    }
}

/// What a client is told that sends these and then nothing: errors and ends of requests. What PostgreSQL has ready of a
/// reply comes with its last word, and with the pooler's it does not.
fn until_closed(target: &Target, script: &[Vec<u8>]) -> Vec<String> {
    let mut client = Client::login(target);
    let begin = Instant::now();
    script.iter().for_each(|message| client.send(message));
    let reply = client.expect_closed();
    assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
    let told = |message: &Message| match message.error() {
        Some(error) => format!("{} {} {}", error.severity(), error.code(), error.message()),
        None => format!("{message:?}"),
    };
    reply.0.iter().filter(|message| matches!(message.tag, b'E' | b'Z')).map(told).collect()
}

/// What the pooler itself asks in front of a client's statements is none of them.
#[test]
fn only_the_clients_statements_count() {
    let pooled = pooled("", |builder| builder.setting("statement_timeout", 2));
    let mut client = pooled.connect();
    let wait = [parse("", "select pg_sleep(60)", &[]), bind("", "", &[]), execute("", 0), flush()].concat();
    for number in 0..2 {
        client.execute(&format!("set app.x = '{number}'"));
        client.execute("select pg_sleep(1.2); select pg_sleep(1.2)");
        client.execute(&format!("set app.x = 'and {number}'"));
        client.send(&wait);
        assert_eq!(client.read_until(b'E').error_code(), "57014");
        client.send(sync());
        client.read_until_ready();
    }
}
