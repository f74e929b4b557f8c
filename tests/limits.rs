//! How many connections there may be, how long anybody waits for one, and how long one lives.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::backend;
use support::frontend::*;
use support::pooler::{ADMIN, Pooler};
use support::postgres::{Database, Options, Postgres, Stop, USER};
use support::scripted::ScriptedServer;
use support::wait::{eventually, holds_within};
use support::wire::{Client, LoginError, Reply, Target};

use crate::common::{pooled, pooler};
use crate::console::row_where;
use crate::probe::{Random, StopAtEnd, size, wait_until_idle};

const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(50);
const QUEUED: &str = "No server connection available in postgres backend, client being queued";

/// New roles that may log in without a password.
fn roles<const COUNT: usize>(postgres: &Postgres) -> [String; COUNT] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        let role = format!("role_{}", NEXT.fetch_add(1, Relaxed));
        postgres.sql(&format!("create role {role} login"));
        role
    })
}

#[track_caller]
fn assert_refused(target: &Target, text: &str) {
    match Client::try_login(target) {
        Ok(_) => panic!("{} was let in to {}", target.user, target.database),
        Err(error) => assert_fatal(&error.refusal(), text),
    }
}

#[track_caller]
fn assert_fatal(fields: &support::message::Fields, text: &str) {
    assert_eq!((fields.severity(), fields.code(), fields.message()), ("FATAL", "08P01", text));
}

#[track_caller]
fn assert_ended(reply: &Reply, text: &str) {
    assert_fatal(&reply.error().unwrap_or_else(|| panic!("{reply:?}")), text);
}

/// A client that has begun a transaction, and so has a server.
#[track_caller]
fn holder(target: &Target) -> Client {
    let mut client = Client::login(target);
    client.execute("begin");
    client
}

/// Begins transactions until one has to wait; how many did not.
#[track_caller]
fn servers_to_be_had(target: &Target, most: usize) -> usize {
    let mut holders = Vec::new();
    while holders.len() <= most {
        let mut client = Client::login(target);
        client.send(query("begin"));
        client.peer().stream().set_read_timeout(Duration::from_millis(300)).unwrap();
        if client.try_read().is_err() {
            break;
        }
        holders.push(client);
    }
    holders.len()
}

// ---- clients --------------------------------------------------------------------------------------------------

#[test]
fn max_client_conn() {
    let pooled = pooled("", |builder| builder.setting("max_client_conn", 3));
    let target = pooled.target();
    let clients: Vec<Client> = (0..3).map(|_| Client::login(&target)).collect();
    for _ in 0..3 {
        assert_refused(&target, "no more connections allowed (max_client_conn)");
    }
    // Neither the console nor a cancel request is kept out.
    pooled.pooler.console().execute("show version");
    clients[0].cancel();
    drop(clients);
    eventually("the places are free", SOON, || Client::try_login(&target).is_ok());
}

#[test]
fn clients_of_a_database_and_of_a_user() {
    let postgres = Postgres::shared();
    let database = postgres.database("clients");
    let [limited] = roles(&postgres);
    let builder = pooler()
        .database_as("usual", &database, "")
        .database_as("more", &database, "max_db_client_connections=3")
        .database_as("other", &database, "max_db_client_connections=100")
        .setting("max_db_client_connections", 2)
        .setting("max_user_client_connections", 6)
        .user_line(&limited, "max_user_client_connections=1")
        .secret(&limited, "");
    let pooler = builder.start();
    let database_full = "client connections exceeded (max_db_client_connections)";
    let user_full = "client connections exceeded (max_user_client_connections)";

    let usual: Vec<Client> = (0..2).map(|_| pooler.connect("usual")).collect();
    assert_refused(&pooler.target("usual"), database_full);
    let more: Vec<Client> = (0..3).map(|_| pooler.connect("more")).collect();
    assert_refused(&pooler.target("more"), database_full);
    let other = pooler.connect("other");
    assert_refused(&pooler.target("other"), user_full);
    let single = Client::login(&pooler.target("other").user(&limited));
    assert_refused(&pooler.target("other").user(&limited), user_full);
    drop((usual, more, other, single));
    for target in [pooler.target("usual"), pooler.target("other").user(&limited)] {
        eventually("places are free", SOON, || Client::try_login(&target).is_ok());
    }
}

/// A login that fails at any point gives its places back (pgbouncer's test_user_client_count_db_connect_fail).
#[test]
fn failed_logins_are_not_counted() {
    let postgres = Postgres::shared();
    let database = postgres.database("failed");
    let port = postgres.port();
    let missing = format!("host=127.0.0.1 port={port} dbname=no_such_database");
    let pooler = pooler()
        .database(&database, "")
        .database_line("missing", &missing)
        .setting("auth_type", "plain")
        .setting("max_client_conn", 10)
        .setting("max_user_client_connections", 2)
        .setting("max_db_client_connections", 2)
        .secret(USER, "secret")
        .secret(ADMIN, "secret")
        .start();
    for round in 0..30 {
        let (name, password) = match round % 3 {
            0 => ("missing", "secret"),
            1 => (database.name(), "wrong"),
            _ => (database.name(), ""),
        };
        let outcome = Client::try_login(&pooler.target(name).password(password));
        let Err(LoginError::Refused(fields)) = outcome else { panic!("{outcome:?}") };
        assert!(!fields.message().contains("connections"), "{fields:?}");
        let mut silent = Client::open(&pooler.address());
        silent.send(pooler.target(name).startup());
        silent.expect(b'R');
    }
    let target = pooler.target(database.name()).password("secret");
    eventually("all places are free", SOON, || {
        let clients: Vec<_> = (0..2).map(|_| Client::try_login(&target)).collect();
        clients.iter().all(Result::is_ok)
    });
}

// ---- servers --------------------------------------------------------------------------------------------------

#[test]
fn the_size_of_a_pool() {
    let postgres = Postgres::shared();
    let database = postgres.database("sizes");
    let [own] = roles(&postgres);
    let pooler = pooler()
        .setting("default_pool_size", 2)
        .database_as("usual", &database, "")
        .database_as("own", &database, "pool_size=3")
        .database_as("unlimited", &database, "pool_size=0")
        .database_as("forced", &database, &format!("pool_size=3 user={USER}"))
        .user_line(&own, "pool_size=1")
        .secret(&own, "")
        .start();
    let to_be_had = |name: &str, user: &str| servers_to_be_had(&pooler.target(name).user(user), 8);
    assert_eq!(to_be_had("usual", USER), 2, "the global size");
    assert_eq!(to_be_had("own", USER), 3, "the database's");
    assert_eq!(to_be_had("own", &own), 1, "the user's comes first");
    assert_eq!(to_be_had("forced", &own), 3, "the login user's does not count where another is forced");
    assert_eq!(to_be_had("unlimited", USER), 9, "0 is no limit");
}

/// Databases and users share their limits among pools: a place that somebody needs is taken from an idle server of
/// another pool.
#[test]
fn servers_of_a_database_and_of_a_user() {
    let postgres = Postgres::shared();
    let (first, second) = (postgres.database("shared"), postgres.database("shared"));
    let [one, two, three] = roles(&postgres);
    let builder = pooler()
        .database(&first, "max_db_connections=2")
        .database(&second, "")
        .setting("max_db_connections", 3)
        .setting("max_user_connections", 4)
        .user_line(&three, "max_user_connections=1");
    let pooler =
        [&one, &two, &three].into_iter().fold(builder, |builder, user| builder.secret(user, "")).start();
    let target = |database: &Database, user: &str| pooler.target(database.name()).user(user);

    // By database: an idle server of the other user goes.
    let mut kept = holder(&target(&first, &one));
    Client::login(&target(&first, &two)).execute("select 1");
    assert_eq!(first.backends(&two).len(), 1);
    let other = holder(&target(&first, &one));
    assert_eq!((first.backends(&one).len(), first.backends(&two).len()), (2, 0));
    let mut waiting = Client::login(&target(&first, &two));
    waiting.send(query("select 'served'"));
    waiting.expect_silence(MOMENT);
    kept.execute("commit");
    assert_eq!(waiting.read_until_ready().rows(), [[Some("served".to_string())]]);
    drop((kept, other, waiting));

    // By user, over databases.
    assert_eq!(servers_to_be_had(&target(&second, &one), 5), 3);
    eventually("all are back", SOON, || second.backends(&one).iter().all(|server| server.state == "idle"));
    let mut holders = vec![holder(&target(&first, &one)), holder(&target(&first, &one))];
    assert_eq!(first.backends(&one).len(), 2);
    assert_eq!(second.backends(&one).len(), 2, "one was evicted");
    holders.extend((0..2).map(|_| holder(&target(&second, &one))));
    let mut fifth = Client::login(&target(&second, &one));
    fifth.send(query("select 1"));
    fifth.expect_silence(MOMENT);
    holders[0].execute("commit");
    assert_eq!(fifth.read_until_ready().tags(), "TDCZ");
    assert_eq!(servers_to_be_had(&target(&second, &three), 3), 1, "the user's own limit");
}

/// More clients, or clients that wait long, than a pool has servers: the reserve helps out, and only then.
#[test]
fn the_reserve() {
    let postgres = Postgres::shared();
    let database = postgres.database("reserve");
    let [with_reserve] = roles(&postgres);
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("reserve_pool_timeout", "0.5")
        .database_as("none", &database, "")
        .database_as("two", &database, "reserve_pool_size=2")
        .user_line(&with_reserve, "reserve_pool_size=1")
        .secret(&with_reserve, "")
        .start();
    for (name, user, reserve) in [("none", USER, 0), ("two", USER, 2), ("none", &with_reserve, 1)] {
        let target = pooler.target(name).user(user);
        let mut holders = vec![holder(&target)];
        for _ in 0..reserve {
            let begin = Instant::now();
            holders.push(holder(&target));
            assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
        }
        let mut last = Client::login(&target);
        last.send(query("select 1"));
        last.expect_silence(Duration::from_secs(1));
        drop(holders);
        assert_eq!(last.read_until_ready().tags(), "TDCZ");
    }
}

#[test]
fn the_smallest_pool() {
    let postgres = Postgres::shared();
    let database = postgres.database("smallest");
    let [user] = roles(&postgres);
    let pooler = pooler()
        .setting("min_pool_size", 3)
        .setting("server_idle_timeout", "0.5")
        .database(&database, "")
        .database_as("small", &database, "pool_size=2")
        .database_as("forced", &database, &format!("user={user} min_pool_size=2"))
        .start();
    let servers = |user: &str, count: usize| {
        let what = format!("{count} servers of {user}");
        eventually(&what, SOON, || database.backends(user).len() == count);
    };
    // Only where somebody may use them.
    let client = pooler.connect(database.name());
    servers(USER, 3);
    let mut second = pooler.connect("small");
    servers(USER, 5);
    assert_eq!(second.scalar("select 1"), "1");
    Client::login(&pooler.target("forced")).execute("select 1");
    servers(&user, 2);
    assert!(!holds_within(Duration::from_millis(1500), || database.backends(USER).len() != 5), "they stay");
    drop((client, second));
    assert!(!holds_within(Duration::from_millis(1500), || database.backends(USER).len() != 5), "they stay");
    servers(&user, 2);
}

/// Connections closed by the server are opened again up to the minimum, and no limit is exceeded for it.
#[test]
fn the_smallest_pool_keeps_to_the_limits() {
    let postgres = Postgres::shared();
    let database = postgres.database("smallest");
    let pooler = pooler().setting("min_pool_size", 5).database(&database, "max_db_connections=3").start();
    let _client = pooler.connect(database.name());
    eventually("as many as the limit allows", SOON, || database.backends(USER).len() == 3);
    let sampler = database.sample_backends(USER);
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'",
        database.name()
    );
    for _ in 0..3 {
        let old: Vec<u32> = database.backends(USER).iter().map(|backend| backend.pid).collect();
        postgres.sql(&end);
        eventually("others in their place", SOON, || {
            let new = database.backends(USER);
            new.len() == 3 && new.iter().all(|backend| !old.contains(&backend.pid))
        });
    }
    assert_eq!(sampler.finish(), 3);
}

/// PostgreSQL never sees more connections than the limits allow, whatever clients do: queries cut off, logins broken
/// off, transactions abandoned, and two users that take places from each other
/// (bug 63: pgbouncer#1285, #130, pgdog#483).
#[test]
fn never_more_servers_than_the_limit() {
    const LIMIT: usize = 4;
    let postgres = Postgres::shared();
    let database = postgres.database("churn");
    let [one, two] = roles(&postgres);
    let pooler = pooler()
        .setting("default_pool_size", 3)
        .setting("server_lifetime", "0.2")
        .setting("max_client_conn", 500)
        .database(&database, &format!("max_db_connections={LIMIT}"))
        .secret(&one, "")
        .secret(&two, "")
        .start();
    let watcher = Watcher::start(&database);
    let users = [&one, &two];
    thread::scope(|scope| {
        for number in 0..12_usize {
            let target = pooler.target(database.name()).user(users[number % 2]);
            scope.spawn(move || churn(&target, number as u64, size("CHAOS_CHURN", 60)));
        }
    });
    let peaks: BTreeMap<_, _> = users.iter().map(|user| (user, database.backends(user).len())).collect();
    let peak = watcher.finish();
    println!("at most {peak} servers at once, {peaks:?} at the end");
    assert!(peak <= LIMIT, "{peak} servers at once");
    assert!(peak >= 3);
    for user in users {
        let mut client = Client::login(&pooler.target(database.name()).user(user));
        assert_eq!(client.scalar("select 1"), "1");
    }
}

/// Counts all server processes of a database over and over, whoever's they are, but not those that only look.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<usize>,
}

impl Watcher {
    fn start(database: &Database) -> Watcher {
        let mut admin = Client::login(&database.postgres().superuser("postgres"));
        let sql = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and usename <> 'postgres'",
            database.name()
        );
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Relaxed) {
                peak = peak.max(admin.scalar(&sql).parse().expect("a number"));
            }
            peak
        });
        Watcher { stop, thread }
    }

    /// The largest number seen.
    fn finish(self) -> usize {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the watching thread")
    }
}

/// A client that comes and goes in every way.
fn churn(target: &Target, seed: u64, rounds: usize) {
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let mut client = Client::login(target);
        match random.below(5) {
            0 => client.send(query("select pg_sleep(10)")),
            1 => client.send([query("begin"), query("select pg_sleep(0.001)")].concat()),
            2 => client.send(&query("select 'half a message'")[..10]),
            3 => drop(client.query("select pg_sleep(0.002)")),
            _ => {
                let mut early = Client::open(&target.address);
                early.send(target.startup());
                early.abort();
            }
        }
        thread::sleep(Duration::from_millis(random.below(4)));
        if random.one_in(2) { client.abort() } else { drop(client) }
    }
}

// ---- waiting --------------------------------------------------------------------------------------------------

#[test]
fn query_wait_timeout() {
    let postgres = Postgres::shared();
    let database = postgres.database("waiting");
    let [patient] = roles(&postgres);
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("query_wait_timeout", "0.5")
        .database_as("usual", &database, "")
        .database_as("longer", &database, "query_wait_timeout=2")
        .user_line(&patient, "query_wait_timeout=0")
        .secret(&patient, "")
        .start();
    let mut holders = vec![holder(&pooler.target("usual")), holder(&pooler.target("longer"))];
    let patients = pooler.target("usual").user(&patient);
    holders.push(holder(&patients));
    let wait = |target: &Target| {
        let mut client = Client::login(target);
        client.send([parse("", "select 'late'", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
        client
    };
    let begin = Instant::now();
    let (mut usual, mut longer, mut for_ever) =
        (wait(&pooler.target("usual")), wait(&pooler.target("longer")), wait(&patients));
    assert_ended(&usual.expect_closed(), "query_wait_timeout");
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(500) && waited < Duration::from_millis(1500), "{waited:?}");
    assert_ended(&longer.expect_closed(), "query_wait_timeout");
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    for_ever.expect_silence(Duration::from_millis(300));
    holders.iter_mut().for_each(|holder| drop(holder.execute("commit")));
    assert_eq!(for_ever.read_until_ready().rows(), [[Some("late".to_string())]]);
    // Nothing is wrong with the server (bug 67: pgcat#134).
    assert_eq!(pooler.connect("usual").scalar("select 1"), "1");
}

#[test]
fn a_notice_to_who_waits() {
    let pooled = pooled("", |builder| builder.setting("query_wait_notify", 1));
    let mut holder = holder(&pooled.target());
    let mut client = pooled.connect();
    for _ in 0..2 {
        let begin = Instant::now();
        client.send(query("select 'served'"));
        let notice = client.expect(b'N').notice().expect("a notice");
        assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!((notice.severity(), notice.code(), notice.message()), ("NOTICE", "00000", QUEUED));
        client.expect_silence(Duration::from_millis(500));
        holder.execute("commit");
        assert_eq!(client.read_until_ready().rows(), [[Some("served".to_string())]]);
        holder.execute("begin");
    }
}

#[test]
fn client_login_timeout() {
    // A listener that never answers.
    let dead = TcpListener::bind("127.0.0.1:0").expect("bind");
    let line = format!("host=127.0.0.1 port={}", dead.local_addr().expect("an address").port());
    let database = Postgres::shared().database("login");
    let pooler = pooler()
        .setting("client_login_timeout", "0.5")
        .setting("auth_type", "plain")
        .secret(USER, "secret")
        .database(&database, "")
        .database_line("dead", &line)
        .start();
    let startup = pooler.target(database.name()).startup();
    let with_password = [pooler.target("dead").startup(), password("secret")].concat();
    let cases: [(&[u8], &str, &str); 5] = [
        (b"", "E", "client_login_timeout"),
        (&startup[..4], "E", "client_login_timeout"),
        (&startup[..20], "E", "client_login_timeout"),
        (&startup, "RE", "client_login_timeout"),
        (&with_password, "RE", "client_login_timeout (server down)"),
    ];
    for (bytes, tags, text) in cases {
        let begin = Instant::now();
        let mut client = Client::open(&pooler.address());
        client.send(bytes);
        let reply = client.expect_closed();
        assert_eq!(reply.tags(), tags, "{reply:?}");
        assert_ended(&reply, text);
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(500) && waited < Duration::from_secs(2), "{waited:?}");
    }
}

/// A client that gives up while it waits for the first server of its pool takes its place in every count with it.
#[test]
fn a_client_leaves_while_no_server_answers() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("bind");
    let line = format!("host=127.0.0.1 port={}", dead.local_addr().expect("an address").port());
    let pooler = pooler().setting("max_client_conn", 5).database_line("dead", &line).start();
    for round in 0..50 {
        let mut client = Client::open(&pooler.address());
        client.send(pooler.target("dead").startup());
        eventually("there is a place", SOON, || match client.peer().stream().set_read_timeout(MOMENT) {
            Ok(()) => match client.try_read() {
                Ok(message) => {
                    assert_eq!(message.tag, b'E', "round {round}: {message:?}");
                    client = Client::open(&pooler.address());
                    client.send(pooler.target("dead").startup());
                    false
                }
                Err(error) => error.kind() == std::io::ErrorKind::TimedOut,
            },
            Err(error) => panic!("{error}"),
        });
        if round % 2 == 0 { client.abort() } else { drop(client) }
    }
}

// ---- servers that can't be reached ------------------------------------------------------------------------------

/// A server that accepts and says nothing is given up after `server_connect_timeout`, and tried again.
#[test]
fn server_connect_timeout() {
    let working = Arc::new(AtomicBool::new(false));
    let server = ScriptedServer::start({
        let working = working.clone();
        move |session| {
            if working.load(Relaxed) {
                session.login()?;
            }
            session.serve_number()
        }
    });
    let pooler = pooler()
        .setting("server_connect_timeout", "0.5")
        .setting("server_login_retry", "0.5")
        .setting("query_wait_timeout", 30)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = Client::open(&pooler.address());
    client.send(pooler.target("app").startup());
    eventually("a third attempt", SOON, || server.connections() >= 3);
    pooler.wait_for_log("connect timeout");
    client.expect_silence(MOMENT);
    working.store(true, Relaxed);
    client.finish_login(&pooler.target("app")).expect("a login");
    let number: usize = client.scalar("select").parse().expect("a number");
    assert_eq!(number, server.connections() - 1);
}

/// While the last attempt to reach the server has failed and there is no connection, new requests are refused at once
/// with the reason, those that wait already go on waiting, and one attempt at a time is made.
#[test]
fn a_server_that_is_down() {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("down");
    let pooler = pooler()
        .setting("default_pool_size", 5)
        .setting("server_login_retry", 5) // who comes while it is tried again waits for that
        .database(&database, "")
        .start();
    let mut clients: Vec<Client> = (0..8).map(|_| pooler.connect(database.name())).collect();
    clients.iter_mut().for_each(|client| drop(client.execute("select 1")));
    postgres.stop(Stop::Fast);
    eventually("the pooler notices", SOON, || pooler.log().contains("closing because"));

    // The first ones wait; some time after that the attempt has failed.
    let mut waiting = clients.pop().expect("a client");
    waiting.send(query("select 'waited'"));
    pooler.wait_for_log("server login failed");
    let before = Instant::now();
    for client in &mut clients {
        client.send(query("select 'refused'"));
        let reply = client.expect_closed();
        let error = reply.error().expect("an error");
        assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
        let text = error.message();
        assert!(text.starts_with("server login has been failing, cached error: connect failed"), "{text}");
        assert!(text.ends_with("(server_login_retry)"), "{text}");
    }
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    // Who logs in anew is let in, because what the server says at login is known.
    let mut fresh = pooler.connect(database.name());
    postgres.start_again();
    assert_eq!(waiting.read_until_ready().rows(), [[Some("waited".to_string())]]);
    assert_eq!(fresh.scalar("select 1"), "1");
    let attempts = pooler.log().matches("server login failed").count();
    assert!(attempts < 40, "{attempts} attempts");
}

/// A server that refuses the login says why to all that wait; one that only starts up (57P03) is waited for
/// (bug 67: pgcat#823, pgdog#496).
#[test]
fn a_server_that_refuses() {
    let refusals =
        [("3D000", "database \"app\" does not exist"), ("53300", "sorry, too many clients already")];
    for (code, text) in refusals {
        let server = ScriptedServer::start(move |session| session.send(&backend::error("FATAL", code, text)));
        let builder = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port()));
        let pooler = builder.setting("server_login_retry", "0.2").start();
        let mut logins: Vec<Client> = (0..3).map(|_| Client::open(&pooler.address())).collect();
        logins.iter_mut().for_each(|client| client.send(pooler.target("app").startup()));
        for client in &mut logins {
            let error = client.expect_closed().error().expect("an error");
            assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", code, text));
        }
    }
    let starting = ScriptedServer::start(|session| {
        if session.number < 3 {
            return session.send(&backend::error("FATAL", "57P03", "the database system is starting up"));
        }
        session.login()?;
        session.serve_number()
    });
    let builder = pooler().database_line("app", &format!("host=127.0.0.1 port={}", starting.port()));
    let pooler = builder.setting("server_login_retry", "0.2").start();
    assert_eq!(pooler.connect("app").scalar("select"), "3");
}

/// One pool's trouble is not another's, and what a client does wrong is nobody's trouble: wrong passwords, queries
/// that fail, are cancelled, or wait too long (bug 67: pgcat#67, pgdog#785, #238).
#[test]
fn trouble_stays_where_it_is() {
    let postgres = Postgres::shared();
    let database = postgres.database("trouble");
    let [barred] = roles(&postgres);
    let pooler = pooler()
        .setting("server_login_retry", 60)
        .setting("default_pool_size", 1)
        .setting("query_wait_timeout", "0.3")
        .database(&database, "")
        .secret(&barred, "")
        .start();
    postgres.sql(&format!("alter role {barred} nologin"));
    for _ in 0..2 {
        assert!(Client::try_login(&pooler.target(database.name()).user(&barred)).is_err());
    }
    let mut client = pooler.connect(database.name());
    assert_eq!(client.query("select 1/0").error_code(), "22012");
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || database.backends(USER).iter().any(|b| b.query.contains("sleep")));
    let mut late = pooler.connect(database.name());
    late.send(query("select 1"));
    assert_ended(&late.expect_closed(), "query_wait_timeout");
    client.cancel();
    assert_eq!(client.read_until_ready().error_code(), "57014");
    assert_eq!(pooler.connect(database.name()).scalar("select 1"), "1");
}

// ---- the life of a server ---------------------------------------------------------------------------------------

#[test]
fn server_lifetime() {
    let database = Postgres::shared().database("lifetime");
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("server_lifetime", 3600)
        .database_as("usual", &database, "")
        .database_as("short", &database, "server_lifetime=1")
        .start();
    let mut usual = pooler.connect("usual");
    let kept = usual.backend_pid();
    let mut client = pooler.connect("short");
    let first = client.backend_pid();
    // Not inside a transaction, however long it takes.
    client.execute("begin");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.backend_pid(), first);
    client.execute("commit");
    assert_ne!(client.backend_pid(), first, "used again after its time");
    let second = client.backend_pid() as u32;
    eventually("an idle one is closed", SOON, || database.backends(USER).iter().all(|b| b.pid != second));
    assert_eq!(usual.backend_pid(), kept);
}

/// 0 is "used once", neither "for ever" nor "not at all" (bug 70: pg_doorman 3.3.2).
#[test]
fn a_lifetime_of_zero() {
    let pooled = pooled("", |builder| builder.setting("server_lifetime", 0));
    let mut client = pooled.connect();
    let pids: Vec<i32> = (0..5).map(|_| client.backend_pid()).collect();
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]), "{pids:?}");
    client.execute("begin");
    assert_eq!(client.backend_pid(), client.backend_pid());
    client.execute("commit");
}

/// Connections opened together are not closed together, which would make all clients wait at once
/// (bug 70: pg_doorman 3.3.2).
#[test]
fn lifetimes_do_not_end_all_at_once() {
    let pooled = pooled("", |builder| {
        builder.setting("default_pool_size", 4).setting("server_lifetime", 2).setting("log_connections", 1)
    });
    let holders: Vec<Client> = (0..4).map(|_| holder(&pooled.target())).collect();
    drop(holders);
    wait_until_idle(&pooled.database, 4);
    let mut counts = Vec::new();
    eventually("all are closed", SOON, || {
        let count = pooled.database.backends(USER).len();
        if counts.last() != Some(&count) {
            counts.push(count);
        }
        count == 0
    });
    assert_eq!(counts, [4, 3, 2, 1, 0], "the numbers that were seen");
}

#[test]
fn server_idle_timeout() {
    let pooled = pooled("", |builder| {
        builder
            .setting("default_pool_size", 2)
            .setting("server_idle_timeout", 1)
            .setting("query_wait_timeout", 1)
    });
    let mut client = pooled.connect();
    let pid = client.backend_pid();
    drop(holder(&pooled.target()));
    // Use in between counts, and a transaction that waits is not idle (bug 66: pgbouncer#22, #125).
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(400));
        client.execute("select 1");
    }
    client.execute("begin");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.backend_pid(), pid);
    client.execute("commit");
    eventually("nothing is left", SOON, || pooled.database.backends(USER).is_empty());
    assert_eq!(client.scalar("select 1"), "1");
}

/// A connection that was idle for long is asked whether it still answers before a client gets it; one that does not is
/// replaced without the client noticing.
#[test]
fn server_check_query() {
    for (setting, asked) in [("<empty>", ""), ("select 'alive'", "select 'alive'")] {
        let server = ScriptedServer::start(move |session| {
            session.login()?;
            session.expect(b'Q')?; // a client's
            session.send(&backend::one_value(&session.number.to_string()))?;
            let check = session.expect(b'Q')?;
            assert_eq!(check.body, [asked.as_bytes(), b"\0"].concat());
            if session.number == 0 {
                return Ok(()); // dead
            }
            session.send(&[backend::empty_query(), backend::ready(b'I')].concat())?;
            session.serve_number()
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .setting("server_check_query", setting)
            .setting("server_check_delay", "0.2")
            .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
            .start();
        let mut client = pooler.connect("app");
        assert_eq!(client.scalar("select"), "0");
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(400));
            let reply = client.query("select");
            assert_eq!((reply.tags().as_str(), &reply.rows()[0][0]), ("TDCZ", &Some("1".to_string())));
        }
    }
}

/// One client needs one server: the others stay as they are, and none is opened besides, although the check takes time.
#[test]
fn one_check_for_one_client() {
    let server = ScriptedServer::start(|session| {
        session.login()?;
        session.serve_number()
    });
    let pooler = pooler()
        .setting("default_pool_size", 10)
        .setting("server_check_query", "check")
        .setting("server_check_delay", "0.2")
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut clients: Vec<Client> = (0..4).map(|_| pooler.connect("app")).collect();
    clients.iter_mut().for_each(|client| client.send(query("select")));
    clients.iter_mut().for_each(|client| drop(client.read_until_ready()));
    let mut console = pooler.console();
    let mut logging_in = || row_where(&mut console, "POOLS", "database", "app").number("sv_login");
    eventually("no connection is being opened", SOON, || logging_in() == 0);
    let opened = server.connections();
    let checks = || {
        let sent = (0..server.connections()).flat_map(|number| server.received(number));
        sent.filter(|message| message.body == b"check\0").count()
    };
    assert_eq!(checks(), 0);
    for round in 1..=5 {
        thread::sleep(Duration::from_millis(300));
        clients[0].execute("select");
        assert_eq!((server.connections(), checks()), (opened, round));
    }
}

/// A server that does not answer its check holds up nobody for long while there are others.
#[test]
fn a_check_that_hangs() {
    let server = ScriptedServer::start(|session| {
        session.login()?;
        session.serve(|message| match message.body.as_slice() {
            b"check\0" => Vec::new(),
            _ => backend::one_value("served"),
        })
    });
    let pooler = pooler()
        .setting("default_pool_size", 2)
        .setting("server_check_query", "check")
        .setting("server_check_delay", "0.2")
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut client = pooler.connect("app");
    assert_eq!(client.scalar("select"), "served");
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    assert_eq!(client.scalar("select"), "served");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn no_check_before_its_time() {
    for (setting, delay, checks) in [("<empty>", "30", 0), ("", "0", 0), ("select 7", "0", 3)] {
        let server = ScriptedServer::start(|session| {
            session.login()?;
            session.serve_number()
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .setting("server_check_query", setting)
            .setting("server_check_delay", delay)
            .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
            .start();
        let mut client = pooler.connect("app");
        (0..3).for_each(|_| drop(client.query("select")));
        let seen = server.received(0).iter().filter(|message| message.body != b"select\0").count();
        assert_eq!(seen, checks, "{setting:?} after {delay}");
    }
}

// ---- shares -----------------------------------------------------------------------------------------------------

/// Three users with as many clients each share ten servers: none of them starves (bug 64: pgbouncer#131, #103).
#[test]
fn users_that_share_a_limit() {
    const CLIENTS: usize = 15;
    let postgres = Postgres::shared();
    let database = postgres.database("fair");
    let users: [String; 3] = roles(&postgres);
    let builder = pooler().setting("max_client_conn", 300).database(&database, "max_db_connections=10");
    let pooler = users.iter().fold(builder, |builder, user| builder.secret(user, "")).start();
    let shares = shares(&pooler, database.name(), &users, CLIENTS, Duration::from_secs(3));
    let total: usize = shares.iter().sum();
    let shares: Vec<f64> = shares.iter().map(|share| *share as f64 * 100.0 / total as f64).collect();
    println!("of {total} answers the users got {shares:.1?} %");
    assert!(shares.iter().all(|share| (20.0..47.0).contains(share)), "{shares:.1?} %");
}

fn shares(pooler: &Pooler, database: &str, users: &[String], clients: usize, time: Duration) -> Vec<usize> {
    let answers: Vec<AtomicUsize> = users.iter().map(|_| AtomicUsize::new(0)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        for (user, answers) in users.iter().zip(&answers) {
            let target = pooler.target(database).user(user);
            for _ in 0..clients {
                let (target, over) = (target.clone(), &over);
                scope.spawn(move || {
                    let mut client = Client::login(&target);
                    while !over.load(Relaxed) {
                        client.execute("select pg_sleep(0.005)");
                        answers.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        thread::sleep(time);
    });
    answers.into_iter().map(AtomicUsize::into_inner).collect()
}
