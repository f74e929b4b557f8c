//! Cancel requests: they reach the query that they were meant for, or nothing.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;
use support::backend;
use support::frontend::*;
use support::message::CancelKey;
use support::peer::Stream;
use support::pooler::Pooler;
use support::scripted::{Greeting, ScriptedServer};
use support::tap::{Rule, Tap};
use support::wait::{Gate, eventually};
use support::wire::{Client, Reply, cancel};

use crate::common::{pooled, pooler};
use crate::probe::{Random, StopAtEnd, size, wait_until_idle};

const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(50);
const CANCELED: &str = "57014";

fn key(client: &Client) -> CancelKey {
    client.key.clone().expect("a cancel key")
}

/// Clients of the pooler that wait for a server, and servers that clients have.
pub(crate) fn waiting_and_active(pooler: &Pooler) -> (usize, usize) {
    let pools = pooler.console().execute("show pools");
    let columns = pools.0[0].columns().expect("columns");
    let sum = |name: &str| {
        let at = columns.iter().position(|column| column.name == name).expect(name);
        let values = pools.rows().into_iter().map(|row| row[at].clone().expect("a number"));
        values.map(|value| value.parse::<usize>().expect("a number")).sum()
    };
    (sum("cl_waiting"), sum("sv_active"))
}

#[track_caller]
fn assert_canceled(reply: &Reply, status: u8) {
    assert_eq!(reply.error_code(), CANCELED, "{reply:?}");
    assert_eq!(reply.status(), Some(status), "{reply:?}");
}

#[test]
fn a_running_query() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let mut client = pooled.connect();
    let pid = client.backend_pid();
    let running = |text: &str| {
        let text = text.to_string();
        eventually("it runs", SOON, || {
            let backends = pooled.database.backends("app");
            backends.iter().any(|backend| backend.state == "active" && backend.query == text)
        });
    };

    client.send(query("select pg_sleep(60)"));
    running("select pg_sleep(60)");
    client.cancel();
    assert_canceled(&client.read_until_ready(), b'I');

    client.execute("begin; insert into t values (1)");
    client.send([parse("", "select pg_sleep(61)", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    running("select pg_sleep(61)");
    client.cancel();
    assert_canceled(&client.read_until_ready(), b'E');
    assert_eq!(client.query("select 1").error_code(), "25P02", "the transaction is what it was");
    client.execute("rollback");

    client.send([query("select 1; select pg_sleep(62)"), query("select 'behind'")].concat());
    running("select 1; select pg_sleep(62)");
    cancel(&pooled.pooler.unix_address(), &key(&client));
    assert_canceled(&client.read_until_ready(), b'I');
    assert_eq!(client.read_until_ready().rows(), [[Some("behind".to_string())]]);
    assert_eq!(pooled.connect().backend_pid(), pid, "the server is kept");
}

/// A client that waits for a server is cancelled at once, as if its query had run; other poolers could not
/// (bug 51: pgbouncer#1222).
#[test]
fn a_waiting_query() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let (mut holder, mut client) = (pooled.connect(), pooled.connect());
    holder.execute("begin");
    let waits = || eventually("it waits", SOON, || waiting_and_active(&pooled.pooler).0 == 1);
    let insert = [parse("", "insert into t values (1)", &[]), bind("", "", &[]), execute("", 0)].concat();
    let requests = [
        query("insert into t values (1)"),
        [insert.clone(), sync()].concat(),
        [describe_statement("none"), insert.clone(), sync()].concat(),
        [query("insert into t values (1)"), copy_data(b"late"), copy_done(), flush()].concat(),
        query(&format!("insert into t select {}", vec!["1"; 100_000].join("+"))),
    ];
    for request in requests {
        let begin = Instant::now();
        client.send(request);
        waits();
        client.cancel();
        assert_canceled(&client.read_until_ready(), b'I');
        assert!(begin.elapsed() < SOON);
        assert_eq!(waiting_and_active(&pooled.pooler), (0, 1), "its place in the queue is gone");
    }
    // Only the request that waits is cancelled, not what was sent behind it.
    client.send([insert, sync(), query("select 'next'")].concat());
    waits();
    client.cancel();
    assert_canceled(&client.read_until_ready(), b'I');
    holder.execute("commit");
    assert_eq!(client.read_until_ready().rows(), [[Some("next".to_string())]]);
    assert_eq!(client.scalar("select count(*) from t"), "0");
}

/// A cancel that comes when the client's server is on its way already, or is being given the client's settings: it waits no
/// more, and its query has not begun. The cancel meets that query all the same.
#[test]
fn a_cancel_as_the_server_comes() {
    let pooled = pooled("", |builder| builder.setting("workers", 2));
    let (mut holder, mut client) = (pooled.connect(), pooled.connect());
    let mut random = Random::new(1);
    let rounds = size("CANCELS", 2000) / 4;
    for round in 0..rounds {
        if round == rounds / 2 {
            client.execute("set work_mem = '5MB'");
        }
        holder.execute("begin");
        client.send(query("select pg_sleep(60)"));
        eventually("it waits", SOON, || waiting_and_active(&pooled.pooler).0 == 1);
        let mut canceller = Client::open(client.address());
        let pause = Duration::from_micros(random.below(900));
        holder.send(query("commit"));
        let begin = Instant::now();
        while begin.elapsed() < pause {
            std::hint::spin_loop();
        }
        canceller.send(cancel_request(&key(&client)));
        let reply = client.read_until_ready();
        assert_eq!(reply.error_code(), CANCELED, "round {round}, {pause:?}: {reply:?}");
        holder.read_until_ready();
    }
}

/// A cancel request that does nothing because the server has the query and has not begun it is made again.
#[test]
fn a_cancel_that_is_early() {
    let postgres = support::postgres::Postgres::shared();
    let database = postgres.database("early");
    let cancels = AtomicUsize::new(0);
    let tap = Tap::with_rules(postgres.address(), move |opening| match opening.is_cancel {
        // Half a request does nothing.
        true if cancels.fetch_add(1, Relaxed) == 0 => Rule { cut_to_server: Some(8), ..Rule::default() },
        _ => Rule::default(),
    });
    let line = format!("host=127.0.0.1 port={}", tap.port());
    let pooler = pooler().setting("default_pool_size", 1).database_line(database.name(), &line).start();
    let mut client = pooler.connect(database.name());
    let pid = client.backend_pid();
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || waiting_and_active(&pooler).1 == 1);
    client.cancel();
    assert_canceled(&client.read_until_ready(), b'I');
    assert_eq!(client.backend_pid(), pid, "the server is kept");
    assert_eq!(tap.links().iter().filter(|link| link.opening.is_cancel).count(), 2);
}

/// Nothing is cancelled, and whoever asks learns nothing: the connection is closed without a word (bug 54).
#[test]
fn requests_that_mean_nobody() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    let key = key(&client);
    client.send(query("select pg_sleep(0.5)"));
    let mut other = CancelKey { pid: key.pid.wrapping_add(1), ..key.clone() };
    cancel(client.address(), &other);
    other = CancelKey { pid: -key.pid, ..key.clone() };
    cancel(client.address(), &other);
    let mut secret = key.secret.clone();
    secret[3] ^= 1;
    cancel(client.address(), &CancelKey { pid: key.pid, secret });
    for length in [0, 1, 3, 5, 8, 32, 256, 257, 5000] {
        let secret = key.secret.iter().copied().cycle().take(length).collect();
        cancel(client.address(), &CancelKey { pid: key.pid, secret });
    }
    assert_eq!(client.read_until_ready().tags(), "TDCZ");

    // What comes behind a request does not count, as with PostgreSQL.
    client.send(query("select pg_sleep(60)"));
    let mut sender = Client::open(client.address());
    eventually("it is cancelled", SOON, || {
        sender = Client::open(client.address());
        sender.send([cancel_request(&key), vec![0]].concat());
        let _ = sender.peer().read_to_end();
        waiting_and_active(&pooled.pooler).1 == 0
    });
    assert_canceled(&client.read_until_ready(), b'I');

    // A client without a request, with a transaction open or not, and one that has left.
    client.cancel();
    assert_eq!(client.scalar("select 'not cancelled'"), "not cancelled");
    client.execute("begin");
    client.cancel();
    assert_eq!(client.scalar("select 'not cancelled'"), "not cancelled");
    drop(client);
    cancel(&pooled.pooler.address(), &key);
    assert_eq!(pooled.connect().scalar("select pg_sleep(0.05)"), "");
}

/// Keys of servers are passed on as they are: negative process ids, and secrets of any length that the protocol knows;
/// a server without a key gets no request (bug 54: pgjdbc#2318, npgsql#6159, pgdog#918).
#[test]
fn keys_of_servers() {
    let long = |length: u8| CancelKey { pid: 7, secret: (0..length).collect() };
    let keys = [
        Some(CancelKey { pid: -7, secret: vec![255; 4] }),
        Some(CancelKey { pid: i32::MIN, secret: vec![0; 4] }),
        Some(long(32)),
        Some(long(255)),
        Some(CancelKey { pid: 7, secret: vec![7; 256] }),
        None,
    ];
    for key in keys {
        let answered = Gate::new();
        let server = ScriptedServer::start({
            let (key, answered) = (key.clone(), answered.clone());
            move |session| {
                session.login_with(&Greeting { key: key.clone(), ..Greeting::new(0) })?;
                session.expect(b'Q')?;
                answered.pass();
                session.send(&backend::one_value("done"))?;
                session.serve_number()
            }
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
            .start();
        let mut client = pooler.connect("app");
        client.send(query("select"));
        eventually("the query arrives", SOON, || server.received(0).len() == 1);
        client.cancel();
        assert_eq!(server.cancels(), key.into_iter().collect::<Vec<_>>());
        answered.open();
        assert_eq!(client.read_until_ready().rows(), [[Some("done".to_string())]]);
        client.query("select");
    }
}

/// The query ends while its cancel request is on its way: the next client on the same server must not be hit
/// (bug 49: pgbouncer#245, #717, ruby-pg#430, pgcat#297).
#[test]
fn a_cancel_that_is_late() {
    let postgres = support::postgres::Postgres::shared();
    let database = postgres.database("late");
    let tap = Tap::with_rules(postgres.address(), |opening| match opening.is_cancel {
        true => Rule { delay_to_server: Duration::from_millis(200), ..Rule::default() },
        false => Rule::default(),
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
        .start();
    let (mut first, mut second) = (pooler.connect(database.name()), pooler.connect(database.name()));
    let pid = second.backend_pid();
    for round in 0..6 {
        let text = "select pg_sleep(0.1)";
        first.send(query(text));
        // It may have ended again when somebody looks.
        eventually("it has begun", SOON, || {
            database.backends("app").iter().any(|backend| backend.query == text)
        });
        second.send(query("select pg_backend_pid(), pg_sleep(0.1)"));
        first.cancel();
        let mine = first.read_until_ready();
        assert!(["TDCZ", "TEZ"].contains(&mine.tags().as_str()), "{mine:?}");
        let others = second.read_until_ready();
        assert_eq!(others.tags(), "TDCZ", "round {round}: {others:?}");
        assert_eq!(others.rows()[0][0], Some(pid.to_string()), "the server is kept");
    }
    assert!(tap.links().iter().any(|link| link.opening.is_cancel));
}

/// The same where the client dies while its cancel request is under way: that of the pooler, which ends its query, takes
/// a faster path, and the server may not be given away before both have come.
#[test]
fn a_cancel_that_is_late_for_a_dead_client() {
    let postgres = support::postgres::Postgres::shared();
    let database = postgres.database("late");
    let cancels = AtomicUsize::new(0);
    let tap = Tap::with_rules(postgres.address(), move |opening| {
        let slow = opening.is_cancel && cancels.fetch_add(1, Relaxed).is_multiple_of(2);
        Rule { delay_to_server: if slow { MOMENT * 2 } else { Duration::ZERO }, ..Rule::default() }
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
        .start();
    let mut second = pooler.connect(database.name());
    let pid = second.backend_pid();
    for round in 1..6 {
        let mut first = pooler.connect(database.name());
        first.send(query("select pg_sleep(60)"));
        eventually("it runs", SOON, || waiting_and_active(&pooler).1 == 1);
        let mut sender = Client::open(first.address());
        sender.send(cancel_request(&key(&first)));
        let sent = || tap.links().iter().filter(|link| link.opening.is_cancel).count();
        eventually("the slow one is under way", SOON, || sent() == 2 * round - 1);
        first.abort();
        let reply = second.query("select pg_backend_pid(), pg_sleep(0.3)");
        assert_eq!(reply.tags(), "TDCZ", "round {round}: {reply:?}");
        assert_eq!(reply.rows()[0][0], Some(pid.to_string()), "the server is kept");
        assert_eq!(sent(), 2 * round);
    }
}

/// The same where the client keeps its server: what it asks for next is not hit either, nor what the pooler asks for
/// itself behind a transaction.
#[test]
fn a_cancel_that_is_late_for_its_own_client() {
    let postgres = support::postgres::Postgres::shared();
    for (mode, begin, end) in [
        ("transaction", "begin", "rollback"),
        ("session", "select 1", "select 1"),
        ("transaction", "select 1", "set a.b = 1"),
    ] {
        let database = postgres.database("late");
        let tap = Tap::with_rules(postgres.address(), |opening| match opening.is_cancel {
            true => Rule { delay_to_server: MOMENT, ..Rule::default() },
            false => Rule::default(),
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .setting("pool_mode", mode)
            .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
            .start();
        let mut client = pooler.connect(database.name());
        for round in 0..5 {
            client.execute(begin);
            let (address, key) = (client.address().clone(), key(&client));
            client.send(query(&format!("select pg_sleep(0.02), set_config('a.c', '{round}', false)")));
            let canceling = thread::spawn(move || cancel(&address, &key));
            let reply = client.read_until_ready();
            assert_eq!(reply.tags(), "TDCZ", "the cancel came in time: {reply:?}");
            assert_eq!(client.query("select pg_sleep(0.15)").tags(), "TDCZ", "round {round} after {begin}");
            assert_eq!(client.scalar("show a.c"), round.to_string());
            canceling.join().unwrap();
            client.execute(end);
        }
        assert!(!database.log().contains("canceling statement"), "{mode}: something else was hit");
        assert_eq!(tap.links().iter().filter(|link| link.opening.is_cancel).count(), 5);
    }
}

/// The connection for a cancel request takes so long that its query has ended and the server is somebody else's: it is
/// closed without a word, and nobody has waited for it (bug 49).
#[test]
fn a_cancel_whose_connection_takes_long() {
    let database = support::postgres::Postgres::shared().database("late");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line(database.name(), &format!("host=127.0.0.1 port={port}"))
        .start();
    let (drain, upstream) = (Gate::new(), database.postgres().address());
    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let stream = Stream::Tcp(listener.accept().expect("the server connection").0);
            let server = upstream.connect().expect("PostgreSQL");
            for (mut from, mut to) in
                [(stream.try_clone().unwrap(), server.try_clone().unwrap()), (server, stream)]
            {
                scope.spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
            drain.pass();
            let full = listener.accept().expect("what has filled the queue");
            drop(full);
            let mut received = Vec::new();
            let mut late = listener.accept().expect("the cancel connection").0;
            late.read_to_end(&mut received).expect("its end");
            received
        });
        let (mut first, mut second) = (pooler.connect(database.name()), pooler.connect(database.name()));
        // The kernel holds one connection that nobody has accepted, and lets others try again after a second.
        SockRef::from(&listener).listen(0).expect("a shorter queue");
        let _full = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        first.send(query("select pg_sleep(0.1)"));
        eventually("it runs", SOON, || waiting_and_active(&pooler).1 == 1);
        let mut sender = Client::open(first.address());
        sender.send(cancel_request(&key(&first)));
        assert_eq!(first.read_until_ready().tags(), "TDCZ");
        let begin = Instant::now();
        second.send(query("select pg_sleep(3)"));
        eventually("it runs", SOON, || {
            database.backends("app").iter().any(|b| b.query.contains("(3)") && b.state == "active")
        });
        assert!(begin.elapsed() < Duration::from_millis(800), "the server was held back");
        drain.open();
        assert_eq!(second.read_until_ready().tags(), "TDCZ");
        assert!(sender.expect_closed().0.is_empty());
        let received = accepting.join().expect("all was accepted");
        assert!(received.is_empty(), "{}", received.escape_ascii());
        drop((first, second, pooler));
    });
}

/// A cancel request that does not arrive in time may arrive at any time: the server that it goes to can't be given to
/// anybody (bug 49). The query is cancelled by its client, or the client has gone and the pooler cancels it.
#[test]
fn a_cancel_that_gets_stuck() {
    let postgres = support::postgres::Postgres::shared();
    for dies in [false, true] {
        let database = postgres.database("stuck");
        let gate = Gate::new();
        let tap = Tap::with_rules(postgres.address(), {
            let gate = gate.clone();
            move |opening| Rule { hold: opening.is_cancel.then(|| gate.clone()), ..Rule::default() }
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .setting("cancel_wait_timeout", 1)
            .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
            .start();
        let mut first = pooler.connect(database.name());
        let pid = first.backend_pid();
        first.send(query("select pg_sleep(2)"));
        eventually("it runs", SOON, || database.backends("app").iter().any(|b| b.query.contains("pg_sleep")));
        if dies {
            first.abort();
        } else {
            first.cancel(); // ends after a second
            assert_eq!(first.read_until_ready().tags(), "TDCZ");
        }
        let mut second = pooler.connect(database.name());
        second.send(query("select pg_backend_pid() = 0, pg_sleep(0.3), pg_backend_pid()"));
        eventually("it runs", SOON, || {
            database.backends("app").iter().any(|b| b.state == "active" && b.query.contains("0.3"))
        });
        gate.open();
        let reply = second.read_until_ready();
        assert_eq!(reply.tags(), "TDCZ", "{reply:?}");
        assert_ne!(reply.rows()[0][2], Some(pid.to_string()), "the server was used again");
    }
}

/// The pooler sets the client's parameters in front of its query: a cancel waits until that is over
/// (bug 52: pgbouncer#298).
#[test]
fn a_cancel_during_the_poolers_own_request() {
    let (set, cancelled) = (Gate::new(), Gate::new());
    let server = ScriptedServer::start({
        let (set, cancelled) = (set.clone(), cancelled.clone());
        move |session| {
            session.login()?;
            let own = session.expect(b'Q')?;
            assert!(own.body.starts_with(b"SET "), "{own:?}");
            set.pass();
            session.send(&backend::parameter_status("application_name", "mine"))?;
            session.send(&[backend::command_complete("SET"), backend::ready(b'I')].concat())?;
            let theirs = session.expect(b'Q')?;
            assert_eq!(theirs.body, b"select\0");
            cancelled.pass();
            session.send(&backend::error("ERROR", CANCELED, "canceling statement due to user request"))?;
            session.send(&backend::ready(b'I'))?;
            session.serve_number()
        }
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = Client::login(&pooler.target("app").param("application_name", "mine"));
    client.send(query("select"));
    eventually("the pooler's request arrives", SOON, || server.received(0).len() == 1);
    let (address, key) = (client.address().clone(), key(&client));
    let canceling = thread::spawn(move || cancel(&address, &key));
    thread::sleep(MOMENT * 2);
    assert!(server.cancels().is_empty(), "the pooler's own request was cancelled");
    set.open();
    eventually("the client's query is cancelled", SOON, || server.cancels().len() == 1);
    cancelled.open();
    canceling.join().unwrap();
    assert_canceled(&client.read_until_ready(), b'I');
    assert_eq!(client.scalar("select"), "0");
}

/// Many cancel requests while every server is busy, many clients wait, and most requests mean nobody: they get through
/// at once, and nobody else is hurt (bug 50: pgbouncer#245, #542, #833).
#[test]
fn many_cancels_with_a_full_pool() {
    const BUSY: usize = 5;
    const WAITING: usize = 20;
    let pooled = pooled("", |builder| builder.setting("default_pool_size", BUSY));
    let mut bystander = pooled.connect();
    let mut clients: Vec<Client> = (0..BUSY + WAITING).map(|_| pooled.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(query("select pg_sleep(60)")));
    eventually("all are busy", SOON, || waiting_and_active(&pooled.pooler) == (WAITING, BUSY));
    bystander.send(query("select 'served'"));

    let begin = Instant::now();
    let keys: Vec<CancelKey> = clients.iter().map(key).collect();
    let address = pooled.pooler.address();
    thread::scope(|scope| {
        for part in 0..10_usize {
            let (keys, address) = (&keys, &address);
            scope.spawn(move || {
                for number in 0..50_usize {
                    let mut key = keys[(part + number * 10) % keys.len()].clone();
                    if number.is_multiple_of(2) {
                        key.pid ^= 0x55;
                    }
                    cancel(address, &key);
                }
            });
        }
    });
    println!("500 cancel requests took {:.1?}", begin.elapsed());
    // Each client was meant at least once, but one that got a server behind a cancelled one may run still.
    for client in &mut clients {
        let address = client.address().clone();
        let key = key(client);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopAtEnd(&done);
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    cancel(&address, &key);
                }
            });
            assert_canceled(&client.read_until_ready(), b'I');
        });
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert_eq!(bystander.read_until_ready().rows(), [[Some("served".to_string())]]);
    pooled.pooler.signal(Signal::SIGTERM);
    drop((clients, bystander));
    assert!(pooled.pooler.wait_ended().success());
}

/// Five hundred cancel requests for one query over a path that is stuck: a few connections go to the server, which do for
/// all (bug 50).
#[test]
fn many_cancels_of_one_query() {
    let postgres = support::postgres::Postgres::shared();
    let database = postgres.database("storm");
    let gate = Gate::new();
    let tap = Tap::with_rules(postgres.address(), {
        let gate = gate.clone();
        move |opening| Rule { hold: opening.is_cancel.then(|| gate.clone()), ..Rule::default() }
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("max_client_conn", 1000)
        .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
        .start();
    let mut client = pooler.connect(database.name());
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || {
        database.backends("app").iter().any(|backend| backend.query.contains("pg_sleep"))
    });
    let request = cancel_request(&key(&client));
    let mut senders: Vec<Client> = (0..500).map(|_| Client::open(client.address())).collect();
    senders.iter_mut().for_each(|sender| sender.send(&request));
    client.expect_silence(MOMENT);
    gate.open();
    assert_canceled(&client.read_until_ready(), b'I');
    senders.iter_mut().for_each(|sender| assert!(sender.expect_closed().0.is_empty()));
    let opened = tap.links().iter().filter(|link| link.opening.is_cancel).count();
    assert!(opened <= 8, "{opened} connections for one query");
    assert_eq!(client.scalar("select 'mine'"), "mine");
}

/// Cancel requests that get no answer do not keep the process from ending (bug 50).
#[test]
fn a_shutdown_with_cancels_under_way() {
    let gate = Gate::new();
    let server = ScriptedServer::start_holding_cancels(gate.clone(), |session| {
        session.login()?;
        session.serve(|_| Vec::new())
    });
    let pooler = pooler()
        .setting("cancel_wait_timeout", 1)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = pooler.connect("app");
    client.send(query("select"));
    eventually("the query arrives", SOON, || server.received(0).len() == 1);
    let mut cancels: Vec<Client> = (0..50).map(|_| Client::open(client.address())).collect();
    cancels.iter_mut().for_each(|sender| sender.send(cancel_request(&key(&client))));
    let begin = Instant::now();
    pooler.signal(Signal::SIGTERM);
    pooler.wait_for_log("got SIGTERM");
    drop(client);
    assert!(pooler.wait_ended().success());
    println!("ended after {:.1?}", begin.elapsed());
    gate.open();
}

/// A query whose client dies while the pooler ends is cancelled first: PostgreSQL would not notice that nobody is there.
#[test]
fn a_shutdown_leaves_no_query_behind() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.send(query("select pg_sleep(60)"));
    let running = || pooled.database.backends("app").iter().any(|backend| backend.state == "active");
    eventually("it runs", SOON, running);
    pooled.pooler.signal(Signal::SIGTERM);
    pooled.pooler.wait_for_log("got SIGTERM");
    client.abort();
    assert!(pooled.pooler.wait_ended().success());
    eventually("the query ends", SOON, || !running());
}

/// COPY is cancelled as it is directly: in, when the next data come, and out.
#[test]
fn copy_is_cancelled() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let pid = pooled.connect().backend_pid();
    for target in [pooled.database.target(), pooled.target()] {
        let mut client = Client::login(&target);
        client.send(query("copy t from stdin"));
        client.read_until(b'G');
        client.send(copy_data(b"1\n"));
        client.cancel();
        client.send([copy_data(b"2\n"), copy_done()].concat());
        let reply = client.read_until_ready();
        assert_canceled(&reply, b'I');
        assert_eq!(reply.tags(), "EZ", "{target:?}");

        client.send(query("copy (select generate_series(1, 1000000000)) to stdout"));
        client.read_until(b'd');
        client.cancel();
        let reply = client.read_until_ready();
        assert_canceled(&reply, b'I');
        assert!(reply.tags().ends_with("dEZ"), "{target:?}");

        client.execute("begin");
        client
            .send([parse("", "copy t from stdin", &[]), bind("", "", &[]), execute("", 0), flush()].concat());
        client.read_until(b'G');
        client.cancel();
        client.send([copy_data(b"3\n"), copy_done(), sync()].concat());
        assert_canceled(&client.read_until_ready(), b'E');
        client.execute("rollback");
        assert_eq!(client.scalar("select count(*) from t"), "0", "{target:?}");
    }
    assert_eq!(pooled.connect().backend_pid(), pid, "the server is kept");
}

/// A client cancels and dies in the same moment: its request may not find its way to a server that has changed hands.
#[test]
fn clients_that_cancel_and_die() {
    let pooled = pooled("", |builder| builder);
    let mut next = pooled.connect();
    for round in 0..size("CHAOS_CANCELS", 200) {
        let mut client = pooled.connect();
        client.send(query("select pg_sleep(60)"));
        let mut canceling = Client::open(client.address());
        let request = cancel_request(&key(&client));
        if round % 2 == 0 {
            client.abort();
            canceling.send(request);
        } else {
            canceling.send(request);
            client.abort();
        }
        let reply = next.query("select pg_sleep(0.002)");
        assert_eq!(reply.tags(), "TDCZ", "round {round}: {reply:?}");
    }
}

/// Cancels before, during and after each query, at any moment: every query gets its own reply or is cancelled, no reply
/// is left over, and a bystander is never hit (bug 15: pgbouncer#141, #223, npgsql#1636).
#[test]
fn cancels_at_any_moment() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let over = AtomicBool::new(false);
    let mut canceled = 0;
    let rounds = size("CHAOS_CANCELS", 400);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        let mut client = pooled.connect();
        let (address, key) = (client.address().clone(), key(&client));
        scope.spawn(|| {
            let (address, key, mut random) = (address, key, Random::new(15));
            while !over.load(Relaxed) {
                thread::sleep(Duration::from_micros(random.below(3000)));
                cancel(&address, &key);
            }
        });
        let mut bystander = pooled.connect();
        scope.spawn({
            let over = &over;
            move || {
                while !over.load(Relaxed) {
                    assert_eq!(bystander.query("select pg_sleep(0.001)").tags(), "TDCZ");
                }
            }
        });
        for round in 0..rounds {
            let reply = client.query(&format!("select {round}, pg_sleep({})", 0.001 * (round % 4) as f64));
            if reply.error().is_some() {
                assert_canceled(&reply, b'I');
                canceled += 1;
            } else {
                assert_eq!(reply.rows()[0][0], Some(round.to_string()), "{reply:?}");
            }
        }
    });
    println!("{canceled} of {rounds} queries were cancelled");
    wait_until_idle(&pooled.database, 2);
}
