//! Restart without dropping a client: `-R` takes over listening sockets, sessions, and the servers that they keep.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::frontend::*;
use support::postgres::{Options, PASSWORD, Postgres, SCRAM_USER, USER, send_signal};
use support::proc;
use support::wait::eventually;
use support::wire::{Client, Target, cancel};

use crate::common::{pooled, pooler, prepared_database};
use crate::console::{row_where, rows_where, table};
use crate::logins::stored_secret;
use crate::probe::Probe;

const SOON: Duration = Duration::from_secs(20);

/// What a client has follows it: settings, parameters, statements by name and without, its cancel key, its number and the
/// moment when it connected. The old process ends by itself, and leaves pid file and socket to the new one.
#[test]
fn a_session_goes_on_with_all_it_has() {
    let pooled = pooled("", |builder| builder.setting("pidfile", "{dir}/pid"));
    let pidfile = pooled.pooler.dir().join("pid");
    pooled.pooler.wait_for_log("process up: ");
    let mut client = Client::login(&pooled.target().param("application_name", "walker"));
    client.execute("set search_path = 'pg_catalog', public");
    client.execute("set timezone = 'Europe/Rome'");
    client.execute("set app.who = 'me'");
    client.send([parse("s", "select $1::int + 1", &[]), describe_statement("s"), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "1tTZ");
    client.send([parse("", "select 'unnamed'", &[]), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "1Z");
    let who = |pooled: &crate::common::Pooled| {
        let row = row_where(&mut pooled.pooler.console(), "CLIENTS", "application_name", "walker");
        ["user", "database", "addr", "port", "connect_time"].map(|column| row.text(column).to_owned())
    };
    let before = who(&pooled);

    let mut old = pooled.pooler.take_over();
    assert!(old.wait_ended().success());
    assert_eq!(fs::read_to_string(&pidfile).unwrap().trim(), pooled.pooler.pid().to_string());
    assert_eq!(who(&pooled), before);

    client.send([bind("", "", &[]), execute("", 0), sync()].concat());
    let reply = client.read_until_ready();
    assert_eq!(reply.rows(), [[Some("unnamed".to_owned())]], "{reply:?}");
    client.send([bind("", "s", &[Some("41")]), execute("", 0), sync()].concat());
    assert_eq!(client.read_until_ready().rows(), [[Some("42".to_owned())]]);
    assert_eq!(client.scalar("show search_path"), "pg_catalog, public");
    assert_eq!(client.scalar("show timezone"), "Europe/Rome");
    assert_eq!(client.scalar("show app.who"), "me");
    assert_eq!(client.scalar("show application_name"), "walker");
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || pooled.database.backends(USER).iter().any(|b| b.state == "active"));
    cancel(&pooled.pooler.address(), client.key.as_ref().unwrap());
    assert_eq!(client.read_until_ready().error_code(), "57014");
    assert_eq!(pooled.connect().scalar("show app.who"), "", "it is this client's alone");
    let by_socket = Target::new(pooled.pooler.unix_address(), USER, pooled.database.name());
    assert_eq!(Client::login(&by_socket).scalar("select 1"), "1");
}

/// A transaction ends where it has begun, and its client goes then. Meanwhile a cancel request that comes to the new process
/// finds it with the old one.
#[test]
fn a_transaction_ends_where_it_has_begun() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("default_pool_size", 3));
    let (mut client, mut other) = (pooled.connect(), pooled.connect());
    client.execute("begin; insert into t values (1)");
    let mut old = pooled.pooler.take_over();
    assert_eq!(other.scalar("select count(*) from t"), "0");
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || {
        let backends = pooled.database.backends(USER);
        backends.iter().any(|b| b.state == "active" && b.query.contains("pg_sleep"))
    });
    cancel(&pooled.pooler.address(), client.key.as_ref().unwrap());
    assert_eq!(client.read_until_ready().error_code(), "57014");
    assert!(old.ended().is_none(), "a transaction is open there");
    client.execute("rollback");
    assert!(old.wait_ended().success());
    client.execute("insert into t values (2)");
    assert_eq!(other.scalar("select count(*) from t"), "1");
}

/// Session mode, temporary tables, advisory locks: the server goes along with its client, and is nobody else's later.
#[test]
fn a_server_goes_along_with_its_client() {
    for mode in ["session", "transaction"] {
        let pooled = pooled("", |builder| builder.setting("pool_mode", mode).setting("default_pool_size", 2));
        let mut client = pooled.connect();
        client.execute("create temp table mine (id int)");
        client.execute("insert into mine values (7)");
        client.execute("select pg_advisory_lock(5)");
        let pid = client.scalar("select pg_backend_pid()");
        for _ in 0..2 {
            assert!(pooled.pooler.take_over().wait_ended().success());
            assert_eq!(client.scalar("select id from mine"), "7", "{mode}");
            assert_eq!(client.scalar("select pg_backend_pid()"), pid, "{mode}");
        }
        if mode == "transaction" {
            let pin = row_where(&mut pooled.pooler.console(), "PINS", "database", pooled.database.name());
            assert!(pin.text("reasons").contains("temporary objects"), "{}", pin.text("reasons"));
        }
        client.send(query("select pg_sleep(60)"));
        eventually("it runs", SOON, || pooled.database.backends(USER).iter().any(|b| b.state == "active"));
        cancel(&pooled.pooler.address(), client.key.as_ref().unwrap());
        assert_eq!(client.read_until_ready().error_code(), "57014", "{mode}");
        client.terminate();
        let mut next = pooled.connect();
        eventually("its server is closed", SOON, || {
            pooled.database.backends(USER).iter().all(|backend| backend.pid.to_string() != pid)
        });
        assert_eq!(next.scalar("select to_regclass('mine') is null"), "t");
    }
}

/// A client that waits for a server goes, and its request is served once, there.
#[test]
fn who_waits_goes_on_waiting_elsewhere() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let (mut holder, mut waiting) = (pooled.connect(), pooled.connect());
    holder.execute("begin");
    waiting.send(query("insert into t values (1)"));
    eventually("it waits", SOON, || {
        row_where(&mut pooled.pooler.console(), "POOLS", "database", pooled.database.name())
            .number("cl_waiting")
            == 1
    });
    let mut old = pooled.pooler.take_over();
    assert!(waiting.read_until_ready().error().is_none(), "by the new process");
    holder.execute("commit");
    assert!(old.wait_ended().success());
    assert_eq!(holder.scalar("select count(*) from t"), "1");
}

/// A client that listens without a server of its own is told each notification once and in order, whichever process has it.
#[test]
fn notifications_come_once_and_in_order() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let (mut listener, mut other) = (pooled.connect(), pooled.connect());
    listener.execute("listen a");
    other.execute("listen b");
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let notifying = scope.spawn(|| {
            let mut direct = pooled.database.connect();
            let mut sent = 0;
            while !over.load(Relaxed) {
                sent += 1;
                direct.execute(&format!("notify a, '{sent}'"));
                direct.execute(&format!("notify b, '{sent}'"));
            }
            sent
        });
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            assert!(pooled.pooler.take_over().wait_ended().success());
        }
        over.store(true, Relaxed);
        notifying.join().unwrap()
    });
    for (client, channel) in [(&mut listener, "a"), (&mut other, "b")] {
        for number in 1..=sent {
            let said = client.expect(b'A');
            let text = String::from_utf8_lossy(&said.body[4..]).into_owned();
            assert_eq!(text, format!("{channel}\0{number}\0"));
        }
        assert_eq!(client.scalar("select string_agg(c, ',') from pg_listening_channels() c"), channel);
        client.execute("unlisten *");
    }
    assert!(sent > 100, "{sent}");
}

/// The keys that a client's SCRAM login has disclosed open servers for the new process, too.
#[test]
fn scram_keys_go_over() {
    let postgres = Postgres::shared();
    let database = postgres.database("through");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    let builder = pooler().database(&database, "").setting("auth_type", "scram-sha-256");
    let pooler = builder.secret(SCRAM_USER, &verifier).start();
    let target = pooler.target(database.name()).user(SCRAM_USER).password(PASSWORD);
    let mut client = Client::login(&target);
    assert_eq!(client.scalar("select current_user"), SCRAM_USER);
    let old = database.backends(SCRAM_USER)[0].pid;
    for _ in 0..2 {
        assert!(pooler.take_over().wait_ended().success());
        assert_eq!(client.scalar("select current_user"), SCRAM_USER);
    }
    assert!(database.backends(SCRAM_USER).iter().all(|backend| backend.pid != old), "on a new server");
}

/// A paused pooler stays paused, and so do its databases.
#[test]
fn a_pause_goes_on() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("select 1");
    let name = pooled.database.name().to_owned();
    pooled.pooler.console().execute(&format!("PAUSE {name}"));
    client.send(query("select 2"));
    assert!(pooled.pooler.take_over().wait_ended().success());
    let mut console = pooled.pooler.console();
    assert_eq!(row_where(&mut console, "DATABASES", "name", &name).text("paused"), "1");
    console.execute(&format!("RESUME {name}"));
    assert_eq!(client.read_until_ready().rows(), [[Some("2".to_owned())]]);
    console.execute("PAUSE");
    assert!(pooled.pooler.take_over().wait_ended().success());
    pooled.pooler.console().execute("RESUME");
}

/// The process that takes over dies in the middle: the old one goes on with whoever is there, and can be taken over again.
#[test]
fn the_next_process_dies() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let (mut held, mut idle) = (pooled.connect(), pooled.connect());
    held.execute("begin");
    let mut old = pooled.pooler.take_over();
    let new = pooled.pooler.pid();
    assert_eq!(idle.scalar("select 1"), "1");
    send_signal(new, Signal::SIGKILL);
    let _ = pooled.pooler.ended();
    pooled.pooler.wait_ended();
    pooled.pooler.wait_for_log("going on with the clients that are here");
    held.execute("commit");
    assert_eq!(held.scalar("select 3"), "3", "with the old process");
    assert!(old.ended().is_none());
    assert_eq!(pooled.connect().scalar("select 4"), "4", "it accepts again");
    pooled.pooler.take_over();
    assert!(old.wait_ended().success());
    assert_eq!(held.scalar("select 5"), "5");
}

/// The same under load, at any moment of the change: nobody's statement runs twice, and none is lost that was answered.
/// Clients that were with the process that has died lose their connection, all others go on.
#[test]
fn the_next_process_dies_under_load() {
    let database =
        prepared_database("dies", "create table done (client int, n int, primary key (client, n))");
    let builder = pooler().setting("default_pool_size", 5).setting("max_client_conn", 1000);
    let pooler = builder.database(&database, "").start();
    let mut holder = pooler.connect(database.name());
    holder.execute("begin"); // so that the old process always stays
    let mut old = Vec::new();
    let over = AtomicBool::new(false);
    let outcomes: Vec<(u64, bool)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..600)
            .map(|number| {
                let mut client = pooler.connect(database.name());
                let over = &over;
                scope.spawn(move || {
                    let mut n = 0;
                    while !over.load(Relaxed) {
                        client.send(query(&format!("insert into done values ({number}, {})", n + 1)));
                        let mut message = client.try_read();
                        while message.as_ref().is_ok_and(|message| !matches!(message.tag, b'E' | b'Z')) {
                            message = client.try_read();
                        }
                        thread::sleep(Duration::from_millis(30));
                        match message {
                            Ok(message) if message.tag == b'Z' => n += 1,
                            Ok(message) => panic!("client {number}: {message:?}"),
                            Err(_) => return (n, false),
                        }
                    }
                    (n, true)
                })
            })
            .collect();
        for pause in [0, 5, 15] {
            thread::sleep(Duration::from_millis(300));
            old.push(pooler.take_over());
            thread::sleep(Duration::from_millis(pause));
            pooler.signal(Signal::SIGKILL);
            eventually("it is dead", SOON, || pooler.ended().is_some());
        }
        eventually("the old one accepts", SOON, || {
            Client::try_login(&pooler.target(database.name())).is_ok()
        });
        over.store(true, Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut direct = database.connect();
    for (number, (answered, alive)) in outcomes.iter().enumerate() {
        let ran: u64 =
            direct.scalar(&format!("select count(*) from done where client = {number}")).parse().unwrap();
        assert!(
            ran == *answered || !alive && ran == answered + 1,
            "client {number}: {answered} answered, {ran} ran"
        );
    }
    holder.execute("commit");
    let alive = outcomes.iter().filter(|(_, alive)| *alive).count();
    println!("{alive} of {} clients were never with a process that died", outcomes.len());
}

/// Without a process to take over from, `-R` is a start like any other.
#[test]
fn nobody_to_take_over_from() {
    let pooled = pooled("", |builder| builder);
    pooled.pooler.signal(Signal::SIGINT);
    pooled.pooler.wait_ended();
    pooled.pooler.take_over();
    assert_eq!(pooled.connect().scalar("select 1"), "1");
}

/// Bug row 69: descriptors that leak with each restart. The same clients, twenty processes later.
#[test]
fn twenty_processes_later() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let mut clients: Vec<_> = (0..20).map(|_| pooled.connect()).collect();
    let mut counts = Vec::new();
    for _ in 0..20 {
        assert!(pooled.pooler.take_over().wait_ended().success());
        clients.iter_mut().for_each(|client| assert_eq!(client.scalar("select 1"), "1"));
        eventually("all have come", SOON, || {
            rows_where(&mut pooled.pooler.console(), "CLIENTS", "database", pooled.database.name()).len()
                == 20
        });
        counts.push(proc::open_files(pooled.pooler.pid()).unwrap());
    }
    let (first, last) = (counts[1], counts[19]);
    assert!(last <= first + 4, "{counts:?}");
    drop(clients);
    eventually("all have gone", SOON, || table(&mut pooled.pooler.console(), "CLIENTS").len() == 1);
}

/// PostgreSQL has places for one process's servers and no more: who finds none waits until the old process has closed one.
#[test]
fn the_server_has_no_room_for_both() {
    let options = Options::new().config("max_connections = 9").config("superuser_reserved_connections = 3");
    let postgres = Postgres::start(options);
    let database = postgres.database("tight");
    let pooler = pooler().setting("default_pool_size", 6).setting("server_login_retry", 15);
    let pooler = pooler.database(&database, "").start();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..12 {
            let (target, over) = (pooler.target(database.name()), &over);
            scope.spawn(move || {
                let mut client = Client::login(&target);
                while !over.load(Relaxed) {
                    client.execute("select pg_sleep(0.05)");
                }
            });
        }
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(700));
            assert!(pooler.take_over().wait_ended().success());
        }
        over.store(true, Relaxed);
    });
}

/// A crowd that does nothing goes over while others work.
#[test]
fn a_crowd_goes_over() {
    let pooled = pooled("", |builder| {
        builder
            .setting("max_client_conn", 5000)
            .setting("log_connections", 0)
            .setting("log_disconnections", 0)
    });
    let mut crowd: Vec<_> = (0..2000).map(|_| pooled.connect()).collect();
    let probe = Probe::start(&pooled.target(), "select 1", Duration::from_millis(2));
    let begin = Instant::now();
    assert!(pooled.pooler.take_over().wait_ended().success());
    println!("2000 clients in {:?}, start included", begin.elapsed());
    println!("a client that works: {}", probe.finish().summary());
    crowd.iter_mut().step_by(100).for_each(|client| assert_eq!(client.scalar("select 1"), "1"));
}

/// 200 clients, simple and prepared, and a restart every two seconds: `RESTART_SECONDS=60` for the whole minute. Each
/// client's every transaction is answered once, and counted by PostgreSQL once.
#[test]
fn under_load() {
    let seconds = std::env::var("RESTART_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let database =
        prepared_database("restart", "create table done (client int, n int, primary key (client, n))");
    let builder = pooler().setting("default_pool_size", 10).setting("max_client_conn", 1000);
    let pooler = builder.setting("workers", 2).database(&database, "").start();
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut restarts = 0;
    thread::scope(|scope| {
        for number in 0..200 {
            let (target, over, answers) = (pooler.target(database.name()), &over, &answers);
            scope.spawn(move || {
                let mut client = Client::login(&target);
                let mut n = 0;
                let prepared = number % 2 == 0;
                if prepared {
                    client.send(
                        [parse("i", "insert into done values ($1::int, $2::int)", &[]), sync()].concat(),
                    );
                    assert_eq!(client.read_until_ready().tags(), "1Z");
                }
                while !over.load(Relaxed) {
                    n += 1;
                    match (prepared, n % 5) {
                        (true, _) => {
                            let values = [number.to_string(), n.to_string()];
                            let values: Vec<_> = values.iter().map(|v| Some(v.as_str())).collect();
                            client.send([bind("", "i", &values), execute("", 0), sync()].concat());
                            let reply = client.read_until_ready();
                            assert!(reply.error().is_none(), "{reply:?}");
                        }
                        (false, 0) => {
                            client.execute("begin");
                            client.execute(&format!("insert into done values ({number}, {n})"));
                            client.execute("commit");
                        }
                        (false, _) => {
                            client.execute(&format!("insert into done values ({number}, {n})"));
                        }
                    }
                    answers.fetch_add(1, Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
                client.terminate();
            });
        }
        let begin = Instant::now();
        let mut former = Vec::new();
        while begin.elapsed() < Duration::from_secs(seconds) {
            thread::sleep(Duration::from_secs(2));
            former.push(pooler.take_over());
            restarts += 1;
            assert_eq!(pooler.connect(database.name()).scalar("select 1"), "1");
        }
        over.store(true, Relaxed);
        former.iter_mut().for_each(|old| assert!(old.wait_ended().success()));
    });
    let answers = answers.into_inner();
    assert_eq!(database.connect().scalar("select count(*) from done"), answers.to_string());
    assert!(answers > 1000 && restarts > 2, "{answers} answers, {restarts} restarts");
    println!("{answers} transactions of 200 clients, {restarts} restarts");
}
