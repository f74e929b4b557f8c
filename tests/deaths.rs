//! Connections that end where they should not: clients cut off at every byte, servers that die, freeze, or talk
//! nonsense. Whatever happens, the next client gets a clean server and the answer to its own question.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::backend;
use support::frontend::*;
use support::postgres::{Options, Postgres, USER, send_signal};
use support::scripted::{ScriptedServer, Session};
use support::tap::{Rule, Tap};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{Pooled, pooled, pooler};
use crate::probe::size;

const TABLE: &str = "create table t (id int, v text)";
const COPY_IN: &str = "copy t from stdin";
const SOON: Duration = Duration::from_secs(10);

type Death = fn(Client);

/// In order with data unread or not, with a reset, and with the reading end still open.
const DEATHS: [Death; 3] = [drop, Client::abort, |mut client| {
    client.half_close();
    let _ = client.peer().read_to_end();
}];

fn insert(id: u32) -> Vec<u8> {
    let sql = format!("insert into t values ({id})");
    [parse("", &sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
}

/// Messages that commit something with their last byte, and what comes before them.
struct Batch {
    prepare: fn(&mut Client),
    bytes: Vec<u8>,
}

fn batches() -> Vec<Batch> {
    let nothing: fn(&mut Client) = |_| {};
    let begun: fn(&mut Client) = |client| {
        client.execute("begin; insert into t values (1)");
    };
    let failed: fn(&mut Client) = |client| {
        client.query("begin; insert into t values (1); select 1/0");
    };
    let copying: fn(&mut Client) = |client| {
        client.send(query(COPY_IN));
        client.read_until(b'G');
    };
    let data = || [copy_data(b"1\tone\n"), copy_data(b"2\ttwo\n"), copy_done()].concat();
    let copy = || [parse("", COPY_IN, &[]), bind("", "", &[]), execute("", 0)].concat();
    vec![
        Batch { prepare: nothing, bytes: query("insert into t values (1), (2)") },
        Batch { prepare: nothing, bytes: [insert(1), insert(2), sync()].concat() },
        Batch { prepare: nothing, bytes: [insert(1), flush(), insert(2), flush(), sync()].concat() },
        Batch { prepare: begun, bytes: query("commit") },
        Batch { prepare: begun, bytes: [insert(2), sync(), query("commit")].concat() },
        Batch { prepare: failed, bytes: query("rollback") },
        Batch { prepare: failed, bytes: [insert(2), sync()].concat() },
        Batch { prepare: copying, bytes: data() },
        Batch { prepare: nothing, bytes: [query(COPY_IN), data()].concat() },
        Batch { prepare: nothing, bytes: [copy(), data(), sync()].concat() },
    ]
}

/// A client cut off at every byte of what it sends: nothing that it sent by halves is committed, no server is left in
/// the middle of it, and no byte of it is taken for somebody else's (bugs 7, 8, 37: supavisor#1164, odyssey#554,
/// pgdog#803, pgcat#64).
#[test]
fn clients_cut_off_at_every_byte() {
    let pooled = pooled(TABLE, |builder| builder);
    let mut next = pooled.connect();
    for (number, batch) in batches().iter().enumerate() {
        for cut in (0..batch.bytes.len()).filter(|cut| is_telling(&batch.bytes, *cut)) {
            let mut client = pooled.connect();
            (batch.prepare)(&mut client);
            client.send(&batch.bytes[..cut]);
            DEATHS[cut % DEATHS.len()](client);
            let count = next.query("select count(*) from t");
            assert_eq!(count.tags(), "TDCZ", "batch {number} cut at {cut}: {count:?}");
            assert_eq!(count.rows(), [[Some("0".to_string())]], "batch {number} cut at {cut}");
        }
    }
    pooled.settle();
    assert_no_protocol_errors(&pooled);
}

/// Whether to cut here: at and around the edges of messages, and at every ninth byte of their bodies.
fn is_telling(messages: &[u8], cut: usize) -> bool {
    let mut start = 0;
    while let Some(header) = messages.get(start..start + 5) {
        let end = start + 1 + u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if cut < end {
            return cut < start + 7 || cut + 2 > end || cut.is_multiple_of(9);
        }
        start = end;
    }
    false
}

/// PostgreSQL logs what it could not make sense of, and a transaction that begins in another.
#[track_caller]
fn assert_no_protocol_errors(pooled: &Pooled) {
    let log = pooled.database.log();
    for text in ["invalid frontend message", "invalid message", "already a transaction"] {
        let line = log.lines().find(|line| line.contains(text));
        assert!(line.is_none(), "{line:?}");
    }
}

/// The same for clients that have got an answer: cut off at every point of reading a long one.
#[test]
fn clients_that_stop_reading() {
    let pooled = pooled("", |builder| builder);
    let mut next = pooled.connect();
    let long = "select n, repeat('x', 500) from generate_series(1, 20000) n";
    for read in [0, 1, 2, 10, 1000] {
        for (number, die) in DEATHS.iter().enumerate() {
            let mut client = pooled.connect();
            client.send([query("begin"), query(long), query("select 'another'")].concat());
            (0..read).for_each(|_| drop(client.read()));
            die(client);
            assert_eq!(next.scalar("select 42"), "42", "after {read} messages, death {number}");
        }
    }
    pooled.settle();
}

/// A client that dies leaves no lock behind and no query, whatever its server has been sent: a batch without its end, or
/// half a message behind a query that runs (bug 8: pgdog#803, where no time limit ended it).
#[test]
fn half_a_batch_keeps_no_locks() {
    let pooled = pooled(TABLE, |builder| builder);
    let batch = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()];
    let locks = "select count(*) from pg_locks where relation = 't'::regclass";
    let quiet = || {
        let busy = pooled.database.backends(USER).iter().any(|backend| backend.state != "idle");
        !busy && pooled.database.scalar(locks) == "0"
    };
    for sql in ["lock table t", "insert into t values (1)", "select pg_sleep(600), count(*) from t"] {
        let batch = batch(sql);
        for part in [&batch[..1], &batch[..2], &batch[..3], &batch] {
            let whole = part.concat();
            let halved = [&whole[..], &query("select 1")[..7]].concat();
            for (number, bytes) in [whole.clone(), halved, [whole, flush()].concat()].iter().enumerate() {
                let mut client = pooled.connect();
                client.execute("begin");
                client.send(bytes);
                DEATHS[number % 2](client);
                let what = format!("nothing is left of {} messages of {sql}, way {number}", part.len());
                eventually(&what, Duration::from_secs(3), quiet);
            }
        }
    }
    assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
}

/// The path of requests is slower than that of cancels: what a dead client has asked for has not begun when its cancel
/// comes, and is cancelled all the same, whether the server can be kept or not.
#[test]
fn a_cancel_comes_before_its_query() {
    let database = Postgres::shared().database("slow");
    let tap = Tap::with_rules(Postgres::shared().address(), |opening| match opening.is_cancel {
        true => Rule::default(),
        false => Rule { delay_to_server: Duration::from_millis(300), ..Rule::default() },
    });
    let line = format!("host=127.0.0.1 port={}", tap.port());
    let pooler = pooler().setting("default_pool_size", 1).database_line(database.name(), &line).start();
    for end in [&b""[..], &query("select 1")[..7]] {
        let mut client = pooler.connect(database.name());
        client.execute("select 1");
        client.send([&query("select pg_sleep(600)"), end].concat());
        eventually("the pooler has it", SOON, || {
            pooler
                .console()
                .query("show servers")
                .rows()
                .iter()
                .flatten()
                .any(|v| v.as_deref() == Some("active"))
        });
        client.abort();
        assert_eq!(pooler.connect(database.name()).scalar("select 42"), "42");
        let active =
            || database.backends(USER).iter().filter(|backend| backend.query.contains("sleep")).count();
        eventually("no query is left", Duration::from_secs(3), || active() == 0);
    }
}

/// With `client_gone_cancel` off what a client has asked for is finished without it, and its server is kept; but a
/// transaction that it has left open is rolled back, and no statement runs longer than `statement_timeout`.
#[test]
fn who_leaves_may_let_it_finish() {
    let pooled = pooled(TABLE, |builder| {
        builder.setting("client_gone_cancel", "off").setting("statement_timeout", "2s")
    });
    let mut watcher = pooled.database.connect();
    let pid = pooled.connect().backend_pid();
    let requests = [
        query("select pg_sleep(0.3); insert into t values (1)"),
        [query("begin; insert into t values (2)"), query("select pg_sleep(0.3)")].concat(),
        [&insert(3)[..], &parse("", "select pg_sleep(0.3)", &[]), &bind("", "", &[]), &execute("", 0)]
            .concat(),
        [query("insert into t select 4 from pg_sleep(0.3)"), query(COPY_IN), copy_data(b"5\tfive\n")]
            .concat(),
        query("insert into t select 6 from pg_sleep(600)"),
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut client = pooled.connect();
        client.send(request);
        let runs = || {
            let active = "select count(*) from pg_stat_activity where pid = ";
            watcher.scalar(&format!("{active} {pid} and wait_event = 'PgSleep'")) == "1"
        };
        eventually("it runs", SOON, runs);
        DEATHS[number % 2](client);
        assert_eq!(pooled.connect().backend_pid(), pid, "after request {number}");
    }
    let kept = "select string_agg(id::text, ' ' order by id) from t";
    assert_eq!(watcher.scalar(kept), "1 4");
    drop(watcher);
    pooled.settle();
}

/// Terminate inside a transaction, failed or not, alone or in the same packet as a request: the server is cleaned and
/// serves on (bug 61: pgdog#848, where it deadlocked the client's task).
#[test]
fn terminate_inside_a_transaction() {
    let pooled = pooled(TABLE, |builder| builder);
    let mut next = pooled.connect();
    let pid = next.backend_pid();
    let transactions = ["begin; insert into t values (1)", "begin; insert into t values (1); select 1/0"];
    for round in 0..size("CHAOS_TERMINATES", 400) {
        let mut client = pooled.connect();
        let begin = query(transactions[round % 2]);
        match round % 4 {
            0 | 1 => {
                client.send(begin);
                client.read_until_ready();
                client.send(terminate());
            }
            _ => client.send([begin, terminate()].concat()),
        }
        drop(client);
        assert_eq!(next.scalar("select count(*) from t"), "0");
    }
    assert_eq!(next.backend_pid(), pid, "a server that could be cleaned was closed");
    pooled.settle();
    assert_no_protocol_errors(&pooled);
}

/// Connect, begin, die: nothing of a client is kept (bug 86: pgcat#70, odyssey#421).
#[test]
fn dead_clients_leave_no_memory_behind() {
    let pooled =
        pooled(TABLE, |builder| builder.setting("log_connections", 0).setting("log_disconnections", 0));
    let die_often = |times: usize| {
        for round in 0..times {
            let mut client = pooled.connect();
            client.query(if round % 2 == 0 {
                "begin; select 1/0"
            } else {
                "begin; insert into t values (1)"
            });
            DEATHS[round % 2](client);
        }
        pooled.settle();
        pooled.pooler.rss()
    };
    let before = die_often(200);
    let deaths = size("CHAOS_DEATHS", 1_000);
    let after = die_often(deaths);
    println!("resident memory: {} KiB, {} KiB after {deaths} more deaths", before >> 10, after >> 10);
    assert!(after < before + (2 << 20), "{before} grew to {after} bytes");
}

/// An idle server that PostgreSQL has ended is no use to anybody, and nobody notices (bug 14: supavisor#105).
#[test]
fn idle_servers_are_terminated() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 3));
    let mut clients: Vec<Client> = (0..3).map(|_| pooled.connect()).collect();
    for _ in 0..5 {
        clients.iter_mut().for_each(|client| drop(client.execute("begin")));
        clients.iter_mut().for_each(|client| drop(client.execute("commit")));
        let end = format!(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity \
             where datname = current_database() and usename = '{USER}'"
        );
        assert_eq!(pooled.database.scalar(&end), "3");
        eventually("the ends arrive", SOON, || pooled.database.backends(USER).is_empty());
        clients.iter_mut().for_each(|client| assert_eq!(client.query("select 1").tags(), "TDCZ"));
    }
}

/// A changed setting is reported by servers in whatever they say next; each client sees it as its own server's, and
/// nobody's session is set back (bug 14).
#[test]
fn a_reload_of_the_servers_configuration() {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("reloaded");
    let pooler = pooler().setting("default_pool_size", 1).database(&database, "").start();
    let mut first = pooler.connect(database.name());
    let mut second = Client::login(&pooler.target(database.name()).param("TimeZone", "Asia/Tokyo"));
    let pid = first.backend_pid();
    postgres.sql("alter system set timezone = 'Europe/Rome'");
    postgres.sql("select pg_reload_conf()");
    postgres.wait_for_log("received SIGHUP");
    for _ in 0..3 {
        first.execute("select 1");
        assert_eq!(first.scalar("show timezone"), first.params["TimeZone"]);
        assert_eq!(second.scalar("show timezone"), "Asia/Tokyo");
        assert_eq!(second.params["TimeZone"], "Asia/Tokyo");
    }
    assert_eq!(first.backend_pid(), pid);
    let mut fresh = pooler.connect(database.name());
    assert_eq!(fresh.scalar("show timezone"), fresh.params["TimeZone"]);
}

/// A server process that does nothing more, as on a machine that hangs: its client can leave, and within a bound the
/// others have a place again.
#[test]
fn a_server_freezes() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    let pid = client.backend_pid() as u32;
    send_signal(pid, Signal::SIGSTOP);
    client.send(query("select 1"));
    client.expect_silence(Duration::from_millis(50));
    client.abort();
    let begin = Instant::now();
    let mut next = pooled.connect();
    next.send(query("select 42"));
    next.peer().stream().set_read_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(next.read_until_ready().rows(), [[Some("42".to_string())]]);
    println!("a frozen server's place was free after {:.1?}", begin.elapsed());
    send_signal(pid, Signal::SIGCONT);
    pooled.settle();
}

/// What no server may say in answer to a query, and how it goes on afterwards.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let header = |tag: u8, length: i32| [&[tag][..], &length.to_be_bytes()].concat();
    vec![
        ("bad pkt header", header(b'D', 0)),
        ("bad pkt header", header(b'D', 3)),
        ("bad pkt header", header(b'D', -1)),
        ("bad pkt header", header(b'D', i32::MIN)),
        ("bad pkt header", header(b'D', i32::MAX)),
        ("unknown pkt", raw(b'Y', b"no such message")),
        ("unknown pkt", raw(0, b"")),
        ("unknown pkt", raw(255, b"")),
        ("unknown pkt", backend::parse_complete()),
        ("unknown pkt", backend::bind_complete()),
        ("unknown pkt", backend::close_complete()),
        ("unknown pkt", backend::no_data()),
        ("unknown pkt", raw(b's', b"")),
        ("unknown pkt", raw(b'V', b"\0\0\0\0")),
        ("unknown pkt", backend::authentication_ok()),
        ("unknown pkt", raw(b'K', &[0; 8])),
        ("unknown pkt", backend::negotiate_version(VERSION_3_0, &[])),
        ("unknown pkt", raw(b'Z', b"")),
        ("unknown pkt", raw(b'Z', b"X")),
        ("unknown pkt", raw(b'Z', b"II")),
        ("broken ParameterStatus packet", raw(b'S', b"name")),
        ("broken ParameterStatus packet", raw(b'S', b"")),
    ]
}

/// A server that breaks the protocol: the client gets what came before and one error, and the server is closed, however
/// well it behaves afterwards; returned, it would owe or give replies that are out of step for its whole life.
#[test]
fn a_server_talks_nonsense() {
    let begin = [backend::row_description(&["value"]), backend::row(&[Some("a row")])].concat();
    let end = [backend::command_complete("SELECT 1"), backend::ready(b'I')].concat();
    let at = Arc::new(AtomicUsize::new(0));
    let server = ScriptedServer::start({
        let (begin, end, at) = (begin.clone(), end.clone(), at.clone());
        move |session: &mut Session| {
            session.login()?;
            while session.expect(b'Q')?.body == b"show number\0" {
                session.send(&backend::one_value(&session.number.to_string()))?;
            }
            let bytes = &nonsense()[at.load(Relaxed)].1;
            session.send(&[&begin[..], bytes].concat())?;
            session.peer().stream().wait_until_read(SOON);
            session.send(&end)?;
            session.serve_number()
        }
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    for (number, (text, bytes)) in nonsense().iter().enumerate() {
        at.store(number, Relaxed);
        let shown = bytes.escape_ascii();
        let mut client = pooler.connect("app");
        let victim = client.scalar("show number");
        client.send(query("select"));
        let received = client.expect_closed();
        assert_eq!(received.tags(), "TDE", "{shown}: {received:?}");
        let error = received.error().expect("an error");
        assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "08P01", *text), "{shown}");
        let next = pooler.connect("app").scalar("show number");
        assert_ne!(next, victim, "the server that said {shown} was used again");
    }
}

/// The pooler ends a session for its own reasons while a row is on its way: what it says would be read as part of the
/// row, so it says nothing.
#[test]
fn a_session_ends_in_the_middle_of_a_row() {
    let row = backend::row(&[Some("a row that does not come in full")]);
    let part = [&backend::row_description(&["value"])[..], &row[..20]].concat();
    let server = ScriptedServer::start({
        let part = part.clone();
        move |session| {
            session.login()?;
            session.expect(b'Q')?;
            session.send(&part)?;
            session.serve(|_| Vec::new())
        }
    });
    let pooler = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port())).start();
    let mut client = pooler.connect("app");
    client.send(query("select"));
    let received = client.peer().read_bytes(part.len()).expect("the part of the reply");
    client.send(b"Q\0\0\0\0");
    assert_eq!(received, part);
    let rest = client.peer().read_to_end().expect("the end");
    assert!(rest.is_empty(), "in the middle of a row: {}", rest.escape_ascii());
}
