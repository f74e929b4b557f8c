//! Input that no client sends: it is refused in time, it costs next to nothing, and nobody else notices.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::peer::is_end;
use support::pooler::Pooler;
use support::proc;
use support::wait::eventually;
use support::wire::{Client, Reply};

use crate::common::{Pooled, pooled};
use crate::probe::{Probe, Random, size};

const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(1);

/// Everything that a client may send after its login.
const KNOWN: &[u8] = b"QPBDECSHFXdcf";

#[track_caller]
fn assert_refused(reply: &Reply, text: &str) {
    let error = reply.error().unwrap_or_else(|| panic!("no refusal but {reply:?}"));
    assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "08P01", text), "{reply:?}");
    assert_eq!(reply.0.last().map(|message| message.tag), Some(b'E'), "{reply:?}");
}

/// A client in each phase of a session, and what brought it there.
fn phases() -> [fn(&mut Client); 4] {
    [
        |_| {},
        |client| drop(client.execute("begin")),
        |client| drop(client.query("begin; select 1/0")),
        |client| {
            client.send([parse("", "select 1", &[]), flush()].concat());
            client.expect(b'1');
        },
    ]
}

/// Lengths that no message has, in every phase: the connection ends with the header that was refused, and the server
/// goes to the next client.
#[test]
fn impossible_lengths() {
    let pooled = pooled("", |builder| builder);
    let mut next = pooled.connect();
    let pid = next.backend_pid();
    for reach in phases() {
        for tag in [b'Q', b'P', b'S', b'd', b'X', 0, 255] {
            for length in [0, 1, 3, -1, i32::MIN, i32::MAX] {
                let mut client = pooled.connect();
                reach(&mut client);
                let header = [&[tag][..], &length.to_be_bytes()].concat();
                client.send(&header);
                let shown: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_refused(&client.expect_closed(), &format!("bad packet header: '{shown}'"));
                assert_eq!(next.backend_pid(), pid);
            }
        }
    }
    pooled.settle();
}

/// Message types that do not exist, or are a server's, or belong to the login.
#[test]
fn unknown_messages() {
    let pooled = pooled("", |builder| builder);
    let mut next = pooled.connect();
    let pid = next.backend_pid();
    for (number, tag) in (0..=255).filter(|tag| !KNOWN.contains(tag)).enumerate() {
        let mut client = pooled.connect();
        phases()[number % 4](&mut client);
        client.send(raw(tag, b"body"));
        assert_refused(&client.expect_closed(), "unknown pkt");
        assert_eq!(next.backend_pid(), pid);
    }
    pooled.settle();
}

/// A message that is too long for the limit is refused at its header, not when it has come.
#[test]
fn messages_beyond_the_limit() {
    let pooled = pooled("", |builder| builder.setting("max_packet_size", 10_000));
    let mut client = pooled.connect();
    let longest = "x".repeat(10_000 - 6 - "select ''".len() - 1);
    assert_eq!(client.scalar(&format!("select '{longest}'")), longest);
    let mut refused = pooled.connect();
    refused.send(&query(&format!("select '{longest}.....'"))[..5]);
    assert!(refused.expect_closed().error().expect("a refusal").message().starts_with("bad packet header"));
    // The limit is the server's too.
    client.send(query("select repeat('x', 20000)"));
    let reply = client.expect_closed();
    assert_eq!(reply.tags(), "TE");
    assert_eq!(reply.error().expect("an error").message(), "bad pkt header");
    assert_eq!(pooled.connect().scalar("select 1"), "1");
}

/// Random bytes before and after the login, and in the middle of everything.
#[test]
fn random_bytes() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("client_login_timeout", 1));
    let seed = size("HOSTILE_SEED", 1) as u64;
    let mut random = Random::new(seed);
    let bystander = Probe::start(&pooled.target(), "select 1", MOMENT);
    let mut before = 0;
    let rounds = size("HOSTILE_ROUNDS", 400);
    for round in 0..rounds {
        let mut bytes: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
        if let (true, Some(first)) = (random.one_in(2), bytes.first_mut()) {
            *first = KNOWN[random.below(KNOWN.len() as u64) as usize];
        }
        if let (true, Some(length)) = (random.one_in(2), bytes.get_mut(1..4)) {
            length.fill(0); // or nearly every length would be far too long
        }
        let mut client = match random.below(3) {
            0 => Client::open(&pooled.pooler.address()),
            _ => pooled.connect(),
        };
        if random.one_in(4) {
            let _ = client.peer().send(&query("begin; insert into t values (1)"));
        }
        let _ = client.peer().send(&bytes);
        if random.one_in(2) {
            // A connection that was ended with input unread is reset.
            let _ = client.peer().stream().shutdown(Shutdown::Write);
            let ended = client.peer().read_to_end().map_err(|error| error.kind());
            let over = matches!(ended, Ok(_) | Err(ErrorKind::ConnectionReset | ErrorKind::NotConnected));
            assert!(over, "seed {seed}, round {round}: {ended:?}");
        }
        if round == rounds / 4 {
            before = pooled.pooler.rss();
        }
    }
    let latencies = bystander.finish();
    println!("the bystander: {}", latencies.summary());
    assert!(latencies.quantile(1.0) < Duration::from_secs(2), "{}", latencies.summary());
    assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
    pooled.settle();
    assert_flat(&pooled.pooler, before, 1 << 20);
}

#[track_caller]
fn assert_flat(pooler: &Pooler, before: u64, growth: u64) {
    let after = pooler.rss();
    println!("resident memory: {} KiB, then {} KiB", before >> 10, after >> 10);
    assert!(after <= before + growth, "{before} grew to {after} bytes");
}

/// A start-up packet that never ends, a byte at a time, and a password that does the same.
#[test]
fn logins_that_never_end() {
    let pooled = pooled("", |builder| {
        builder.setting("client_login_timeout", 1).setting("auth_type", "plain").secret("app", "secret")
    });
    let target = pooled.target().password("secret");
    let startup = target.startup();
    let endless = [&60_000_u32.to_be_bytes()[..], &startup[4..]].concat();
    let password = [&b"p"[..], &60_000_u32.to_be_bytes()].concat();
    thread::scope(|scope| {
        for first in [endless, [startup, password].concat()] {
            let address = pooled.pooler.address();
            scope.spawn(move || {
                let begin = Instant::now();
                let mut client = Client::open(&address);
                client.send(&first);
                while client.peer().send(b"x").is_ok() && begin.elapsed() < SOON {
                    thread::sleep(Duration::from_millis(10));
                }
                assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            });
        }
    });
    assert_eq!(Client::login(&target).scalar("select 1"), "1");
}

/// As many silent connections as the limits of this process allow: they cost little, end in time, and neither sessions
/// nor logins notice them.
#[test]
fn a_crowd_that_says_nothing() {
    let crowd = size("HOSTILE_CROWD", 10_000);
    let pooled = crowded(|builder| builder.setting("client_login_timeout", 4));
    let bystander = Probe::start(&pooled.target(), "select 1", MOMENT);
    let before = pooled.pooler.rss();
    let begin = Instant::now();
    let mut silent: Vec<Client> =
        (0..crowd).map_while(|_| Client::try_open(&pooled.pooler.address()).ok()).collect();
    println!("{} silent connections in {:.1?}", silent.len(), begin.elapsed());
    assert!(silent.len() > crowd.min(5_000) - 1, "{}", silent.len());
    for number in 0..20 {
        let begin = Instant::now();
        assert_eq!(pooled.connect().scalar("select 1"), "1");
        assert!(begin.elapsed() < Duration::from_secs(2), "login {number} took {:?}", begin.elapsed());
    }
    let during = pooled.pooler.rss();
    println!("memory of a silent connection: {} bytes", during.saturating_sub(before) / silent.len() as u64);
    let last = silent.last_mut().expect("one");
    assert_refused(&last.expect_closed(), "client_login_timeout");
    let latencies = bystander.finish();
    println!("the bystander: {}", latencies.summary());
    drop(silent);
    eventually("the crowd is gone", SOON, || {
        proc::open_files(pooled.pooler.pid()).is_some_and(|files| files < 100)
    });
    assert!(latencies.quantile(0.99) < Duration::from_millis(250), "{}", latencies.summary());
    assert!(during < before + 4096 * crowd as u64, "{} bytes", during - before);
}

fn crowded(
    configure: impl FnOnce(support::pooler::PoolerBuilder) -> support::pooler::PoolerBuilder,
) -> Pooled {
    pooled("", |builder| {
        let builder = builder.setting("max_client_conn", 100_000).setting("listen_backlog", 4096);
        configure(
            builder
                .setting("log_connections", 0)
                .setting("log_disconnections", 0)
                .setting("log_pooler_errors", 0),
        )
    })
}

/// Names that nobody has, by the thousand: none of them is remembered.
#[test]
fn names_that_do_not_exist() {
    let pooled = pooled("", |builder| {
        let builder = builder.setting("log_connections", 0).setting("log_disconnections", 0);
        builder.setting("log_pooler_errors", 0).database_line("*", "host=127.0.0.1 port=1")
    });
    let attempt = |from: usize, to: usize| {
        for number in from..to {
            let user = format!("user_{number}_{}", "x".repeat(100));
            let target = pooled.target().user(&user).database(&format!("database_{number}"));
            assert!(Client::try_login(&target).is_err());
        }
        pooled.pooler.rss()
    };
    let count = size("HOSTILE_NAMES", 2_000);
    let before = attempt(0, count / 2);
    let lists = |what: &str| {
        let rows = pooled.pooler.console().execute("show lists").rows();
        let row = rows.into_iter().find(|row| row[0].as_deref() == Some(what)).expect("a row");
        row[1].clone().expect("a number")
    };
    let known = ["users", "databases", "pools"].map(lists);
    attempt(count / 2, count);
    assert_eq!(["users", "databases", "pools"].map(lists), known);
    assert_flat(&pooled.pooler, before, 1 << 20);
}

/// Clients that begin a large message and dawdle, and some that ask for much and read nothing: others are served all
/// the while, and memory does not grow with what was announced or asked for.
#[test]
fn clients_that_dawdle() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 12));
    let bystander = Probe::start(&pooled.target(), "select 1", MOMENT);
    let before = pooled.pooler.rss();
    let large = query(&format!("select '{}'", "x".repeat(8 << 20)));
    let mut dawdlers: Vec<Client> = (0..10).map(|_| pooled.connect()).collect();
    for (number, client) in dawdlers.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.send(&large[..large.len() / 2]);
        } else {
            client.send(query("select repeat('x', 1000000) from generate_series(1, 1000)"));
        }
    }
    thread::sleep(Duration::from_millis(500));
    let during = pooled.pooler.rss();
    println!(
        "{} KiB for ten that dawdle; the bystander: {}",
        (during - before) >> 10,
        bystander.finish().summary()
    );
    assert!(during < before + (4 << 20), "{before} grew to {during}");
    for (number, client) in dawdlers.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.send(&large[large.len() / 2..]);
            assert_eq!(client.read_until_ready().tags(), "TDCZ");
        }
    }
    drop(dawdlers);
    eventually("no server is busy", SOON, || {
        pooled.database.backends("app").iter().all(|backend| backend.state == "idle")
    });
}

/// Without file descriptors no connection can be accepted or opened; those that exist are served, the process does not
/// spin, and it recovers (bug 69: pg_doorman 3.10.5).
#[test]
fn no_file_descriptors() {
    let pooled = pooled("", |builder| builder.setting("client_login_timeout", 60));
    let mut client = pooled.connect();
    client.execute("select 1");
    let pid = pooled.pooler.pid();
    let limit = proc::open_files(pid).expect("it runs") + 5;
    // As the user whose process it is.
    let owner = std::fs::metadata(pooled.pooler.dir()).expect("the pooler's directory");
    let mut prlimit = Command::new("prlimit");
    prlimit.args([format!("--pid={pid}"), format!("--nofile={limit}:{limit}")]);
    prlimit.uid(owner.uid()).gid(owner.gid());
    assert!(prlimit.status().expect("prlimit of util-linux").success());
    let crowd: Vec<Client> = (0..50).map(|_| Client::open(&pooled.pooler.address())).collect();
    pooled.pooler.wait_for_log("cannot accept a connection");
    let busy = pooled.pooler.cpu_time();
    for _ in 0..100 {
        assert_eq!(client.scalar("select 1"), "1");
        thread::sleep(Duration::from_millis(10));
    }
    let busy = pooled.pooler.cpu_time() - busy;
    assert!(busy < Duration::from_millis(500), "{busy:?} of processor time in a second");
    drop(crowd);
    let mut again = None;
    eventually("a login", SOON, || match Client::try_login(&pooled.target()) {
        Ok(client) => again.replace(client).is_none(),
        Err(support::wire::LoginError::Io(error)) => {
            assert!(is_end(&error) || error.kind() == ErrorKind::TimedOut, "{error}");
            false
        }
        Err(error) => panic!("{error:?}"),
    });
    assert_eq!(again.expect("a client").scalar("select 1"), "1");
}
