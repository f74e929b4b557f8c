//! More is asked for than there is: of servers, of the network, of the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::message::Fields;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, Postgres, USER};
use support::proc;
use support::scripted::ScriptedServer;
use support::tap::Tap;
use support::tools::Tool;
use support::wait::{eventually, holds_within, patient};
use support::wire::{Client, Target};

use crate::cancels::waiting_and_active;
use crate::common::{Pooled, pooled, pooler};
use crate::probe::{Random, size, wait_until_idle};

const SOON: Duration = Duration::from_secs(10);
const CROWDED: &str = "too many clients already wait for a server connection (max_waiting_clients)";

// ---- too many clients wait --------------------------------------------------------------------------------------

/// A client that has begun a transaction, and so has a server.
#[track_caller]
fn holder(target: &Target) -> Client {
    let mut client = Client::login(target);
    client.execute("begin");
    client
}

/// So many more clients that wait for a server, one after the other.
#[track_caller]
fn waiting(pooler: &Pooler, target: &Target, count: usize) -> Vec<Client> {
    let before = waiting_and_active(pooler).0;
    let waiting = (1..=count).map(|number| {
        let mut client = Client::login(target);
        client.send(query("select 'served'"));
        eventually("it waits", SOON, || waiting_and_active(pooler).0 == before + number);
        client
    });
    waiting.collect()
}

#[track_caller]
fn assert_crowded(error: &Fields, severity: &str) {
    assert_eq!((error.severity(), error.code(), error.message()), (severity, "53300", CROWDED));
    assert!(error.get(b'H').contains("overloaded"), "{error:?}");
}

/// One client too many that asks for a server gets an error at once, as to a statement that fails, and can ask again. Who
/// waits already is served.
#[test]
fn max_waiting_clients() {
    let pooled = pooled("", |builder| builder.setting("max_waiting_clients", 2));
    let target = pooled.target();
    let (mut holder, mut late) = (holder(&target), Client::login(&target));
    let mut waiting = waiting(&pooled.pooler, &target, 2);

    let reply = late.query("select 'late'");
    assert_eq!((reply.tags().as_str(), reply.status()), ("EZ", Some(b'I')), "{reply:?}");
    assert_crowded(&reply.error().expect("an error"), "ERROR");
    let batch = [parse("", "select 'late'", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    late.send([batch.clone(), batch.clone(), query("begin")].concat());
    for _ in 0..3 {
        let reply = late.read_until_ready();
        assert_eq!((reply.tags().as_str(), reply.status()), ("EZ", Some(b'I')), "{reply:?}");
        assert_crowded(&reply.error().expect("an error"), "ERROR");
    }
    assert_eq!(waiting_and_active(&pooled.pooler), (2, 1));

    holder.execute("commit");
    for client in &mut waiting {
        assert_eq!(client.read_until_ready().rows(), [[Some("served".to_string())]]);
    }
    late.send(batch);
    assert_eq!(late.read_until_ready().rows(), [[Some("late".to_string())]]);
    let events = pooled.pooler.console().execute("show events").rows();
    let told = events.iter().find(|row| row.contains(&Some("max_waiting_clients".into())));
    assert!(told.is_some_and(|row| row.contains(&Some("4".into()))), "{events:?}");
}

/// Places are those of clients that wait: who leaves, is cancelled or is served makes room for another.
#[test]
fn the_places_of_those_who_wait_are_given_back() {
    let pooled = pooled("", |builder| builder.setting("max_waiting_clients", 1));
    let target = pooled.target();
    let mut holder = holder(&target);
    for round in 0..30 {
        let mut client = waiting(&pooled.pooler, &target, 1).remove(0);
        match round % 3 {
            0 => client.abort(),
            1 => {
                client.cancel();
                assert_eq!(client.read_until_ready().error_code(), "57014");
            }
            _ => {
                holder.execute("commit");
                assert_eq!(client.read_until_ready().rows(), [[Some("served".to_string())]]);
                holder.execute("begin");
            }
        }
        eventually("nobody waits", SOON, || waiting_and_active(&pooled.pooler).0 == 0);
    }
}

/// Database and user have their own limits. Connections that can still be opened are no reason to refuse anybody, nor is a
/// pause; a client that waits for the first server of its pool is refused at its login.
#[test]
fn who_counts_as_waiting() {
    let postgres = Postgres::shared();
    let database = postgres.database("crowd");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let silent = format!("host=127.0.0.1 port={}", nowhere.local_addr().expect("an address").port());
    let pooler = pooler()
        .setting("default_pool_size", 4)
        .setting("max_waiting_clients", 1)
        .database_as("usual", &database, "")
        .database_as("more", &database, "max_waiting_clients=3")
        .database_as("no_limit", &database, "max_waiting_clients=0")
        .database_as("forced", &database, &format!("max_waiting_clients=3 user={USER}"))
        .database_line("silent", &format!("{silent} pool_size=1"))
        .start();
    for (name, limit) in [("usual", 1), ("more", 3), ("no_limit", 9)] {
        let target = pooler.target(name);
        let mut clients: Vec<Client> = (0..4 + limit).map(|_| Client::login(&target)).collect();
        clients.iter_mut().for_each(|client| client.send(query("begin")));
        eventually("all but the pool's size wait", SOON, || waiting_and_active(&pooler) == (limit, 4));
        let mut late = Client::login(&target);
        if name == "no_limit" {
            late.send(query("select 1"));
            eventually("it waits", SOON, || waiting_and_active(&pooler).0 == limit + 1);
        } else {
            assert_crowded(&late.query("select 1").error().expect("an error"), "ERROR");
        }
        drop((clients, late));
        eventually("all are gone", SOON, || waiting_and_active(&pooler) == (0, 0));
    }

    let mut console = pooler.console();
    console.execute("pause usual");
    let mut clients = waiting(&pooler, &pooler.target("usual"), 8);
    console.execute("resume usual");
    clients.iter_mut().for_each(|client| assert_eq!(client.read_until_ready().tags(), "TDCZ"));

    // One for whom a connection is opened, and one who may wait.
    let mut logins: Vec<Client> = (0..3).map(|_| Client::open(&pooler.address())).collect();
    logins.iter_mut().for_each(|client| client.send(pooler.target("silent").startup()));
    let refused = |client: &mut Client| {
        client.peer().stream().set_read_timeout(Duration::from_millis(100)).unwrap();
        client.try_read().ok()
    };
    let mut answers = Vec::new();
    eventually("one is refused", SOON, || {
        answers.extend(logins.iter_mut().filter_map(refused));
        !answers.is_empty()
    });
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_crowded(&answers[0].error().expect("an error"), "FATAL");
}

// ---- many pools of one host ---------------------------------------------------------------------------------------

/// A pooler with so many databases, all on one server.
fn many_pools(server: &ScriptedServer, pools: usize, builder: PoolerBuilder) -> Pooler {
    let line = format!("host=127.0.0.1 port={}", server.port());
    (0..pools).fold(builder, |builder, number| builder.database_line(&format!("app{number}"), &line)).start()
}

/// Clients of as many pools, all of which want their first server.
fn arrivals(pooler: &Pooler, pools: usize) -> Vec<(Client, Target)> {
    let arrive = |number| {
        let target = pooler.target(&format!("app{number}"));
        let mut client = Client::open(&pooler.address());
        client.send(target.startup());
        (client, target)
    };
    (0..pools).map(arrive).collect()
}

/// Many pools open connections to one host by turns, and the next one at once when one is done.
#[test]
fn logins_take_turns_at_a_host() {
    const POOLS: usize = 60;
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = ScriptedServer::start({
        let (now, peak) = (now.clone(), peak.clone());
        move |session| {
            peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::sleep(Duration::from_millis(10));
            now.fetch_sub(1, SeqCst); // not later: who has got its welcome may be followed by the next at once
            session.login()?;
            session.serve_number()
        }
    });
    let pooler = many_pools(&server, POOLS, pooler().setting("max_connecting", 3));
    let begin = Instant::now();
    for (client, target) in &mut arrivals(&pooler, POOLS) {
        client.finish_login(target).expect("a login");
    }
    let taken = begin.elapsed();
    println!("{POOLS} pools in {taken:?}, at most {} at once", peak.load(SeqCst));
    assert_eq!(peak.load(SeqCst), 3);
    // 0.2 s of logins; a pool that had to wait for the next tick each time would take 5 s.
    assert!(taken < patient(Duration::from_millis(2500)), "{taken:?}");
}

/// A host that does not answer is tried by one pool at a time, for all of them; when it is back all go on.
#[test]
fn a_broken_host_is_tried_once_at_a_time() {
    const POOLS: usize = 12;
    let working = Arc::new(AtomicBool::new(false));
    let server = ScriptedServer::start({
        let working = working.clone();
        move |session| {
            if working.load(SeqCst) {
                session.login()?;
            }
            session.serve_number()
        }
    });
    let builder = pooler().setting("server_connect_timeout", "0.3").setting("server_login_retry", "0.4");
    let pooler = many_pools(&server, POOLS, builder.setting("max_connecting", 4));
    let mut clients = arrivals(&pooler, POOLS);
    eventually("the first attempts have failed", SOON, || {
        pooler.log().matches("connect timeout").count() >= 4 && server.open_connections() <= 1
    });
    let before = server.connections();
    assert_eq!(before, 4, "those that nobody knew it of");
    let begin = Instant::now();
    assert!(!holds_within(Duration::from_secs(2), || server.open_connections() > 1), "two at once");
    let attempts = server.connections() - before;
    let most = begin.elapsed().as_millis() / 300 + 1;
    assert!(attempts >= 2 && attempts as u128 <= most, "{attempts} attempts");
    working.store(true, SeqCst);
    for (client, target) in &mut clients {
        client.finish_login(target).expect("a login");
    }
}

/// Of several hosts one is down: nobody waits for it, and a pool that comes later does not even try.
#[test]
fn one_of_two_hosts_is_down() {
    for order in ["127.0.0.9,127.0.0.1", "127.0.0.1,127.0.0.9"] {
        let server = ScriptedServer::start(|session| {
            session.login()?;
            session.serve_number()
        });
        let line = format!("host={order} port={}", server.port());
        let pooler = pooler()
            .setting("server_login_retry", 60)
            .setting("server_lifetime", 0)
            .database_line("one", &line)
            .database_line("two", &line)
            .start();
        for name in ["one", "two"] {
            let mut client = pooler.connect(name);
            (0..5).for_each(|_| drop(client.execute("select")));
        }
        assert_eq!(pooler.log().matches("server login failed").count(), 1, "{}", pooler.log());
    }
}

// ---- servers change hands -----------------------------------------------------------------------------------------

/// After very many hand-overs, to clients that often leave at that very moment, the pool has all of its places and no more
/// (bug 60: pg_doorman 3.5.2). `HAND_OVERS=1000000` for many.
#[test]
fn no_place_is_lost_in_hand_overs() {
    const SERVERS: usize = 3;
    const CLIENTS: usize = 12;
    let pooled = pooled("", |builder| builder.setting("default_pool_size", SERVERS).setting("workers", 2));
    let sampler = pooled.database.sample_backends(USER);
    let rounds = size("HAND_OVERS", 6_000) / CLIENTS;
    thread::scope(|scope| {
        for seed in 0..CLIENTS as u64 {
            let target = pooled.target();
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut client = Client::login(&target);
                for _ in 0..rounds {
                    client.send(query("select 1"));
                    match random.below(100) {
                        0 => {
                            thread::sleep(Duration::from_micros(random.below(2000)));
                            std::mem::replace(&mut client, Client::login(&target)).abort();
                        }
                        1 => {
                            client.cancel();
                            client.read_until_ready();
                        }
                        _ => assert_eq!(client.read_until_ready().tags(), "TDCZ"),
                    }
                }
            });
        }
    });
    wait_until_idle(&pooled.database, SERVERS);
    let mut holders: Vec<Client> = (0..SERVERS).map(|_| holder(&pooled.target())).collect();
    let mut late = Client::login(&pooled.target());
    late.send(query("select 1"));
    late.expect_silence(Duration::from_millis(200));
    holders[0].execute("commit");
    assert_eq!(late.read_until_ready().tags(), "TDCZ");
    let peak = sampler.finish();
    assert!(peak <= SERVERS, "{peak} servers at once");
}

// ---- out of file descriptors ----------------------------------------------------------------------------------------

/// Clients for which there is no descriptor wait outside, and come in as soon as others leave. Those that are connected get
/// whatever they need, new server connections and cancelled statements included, and the pooler does not spin
/// (bug 69: pg_doorman 3.10.5).
#[test]
fn clients_leave_descriptors_to_servers() {
    const RESERVED: usize = 16;
    const ROOM: usize = 6;
    let pooled = pooled("", |builder| {
        builder
            .setting("default_pool_size", 3)
            .setting("statement_timeout", "0.3")
            .setting("max_client_conn", 1000)
    });
    let target = pooled.target();
    let mut inside: Vec<Client> = (0..3).map(|_| Client::login(&target)).collect();
    inside[0].execute("begin");
    let many: Vec<Client> = (0..16 * RESERVED).map(|_| Client::open(&target.address)).collect();
    eventually("all are accepted", Duration::from_secs(30), || {
        proc::open_files(pooled.pooler.pid()).is_some_and(|open| open > many.len() + inside.len())
    });
    pooled.pooler.allow_files(RESERVED + ROOM);
    let mut outside: Vec<Client> = (0..ROOM + 5).map(|_| Client::open(&target.address)).collect();
    outside.iter_mut().for_each(|client| client.send(target.startup()));
    pooled.pooler.wait_for_log("cannot accept a connection");

    let spent = pooled.pooler.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let spent = pooled.pooler.cpu_time() - spent;
    assert!(spent < Duration::from_millis(250), "{spent:?} in a second");
    inside.iter_mut().for_each(|client| drop(client.query("begin")));
    assert_eq!(pooled.database.backends(USER).len(), 3, "servers were opened");
    assert_eq!(inside[1].query("select pg_sleep(60)").error_code(), "57014");
    assert_eq!(pooled.pooler.log().matches("cannot accept a connection").count(), 1, "said once in a while");

    let (first, rest) = outside.split_at_mut(ROOM);
    first
        .iter_mut()
        .for_each(|client| client.peer().stream().shutdown(std::net::Shutdown::Both).expect("shut down"));
    rest.iter_mut().for_each(|client| client.finish_login(&target).expect("a login"));
    drop(many);
}

/// Without a descriptor for a server its clients wait, however long the pause after a failure of the server would be, and
/// are served as soon as there is one.
#[test]
fn no_descriptor_for_a_server() {
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", 2).setting("server_login_retry", 60));
    let mut holder = Client::login(&pooled.target());
    let mut client = Client::login(&pooled.target());
    holder.execute("begin");
    pooled.pooler.allow_files(0);
    client.send(query("select 'served'"));
    pooled.pooler.wait_for_log("server login failed: connect failed: Too many open files");
    assert_eq!(holder.query("select 1").tags(), "TDCZ");
    client.expect_silence(Duration::from_millis(100));
    pooled.pooler.allow_files(10);
    assert_eq!(client.read_until_ready().rows(), [[Some("served".to_string())]]);
}

// ---- many more clients than servers -------------------------------------------------------------------------------

const SERVERS: usize = 8;

/// What so many clients got, who all ask without a pause for something that takes a server some milliseconds.
#[derive(Debug, Clone, Copy)]
struct Served {
    /// Answers a second.
    rate: f64,
    /// Within which time half of the answers came, and 99 of 100.
    median: Duration,
    p99: Duration,
}

/// Has pgbench be the clients for a while (`OVERLOAD_SECONDS`), and sees how long the pool takes to be as before when
/// they have gone.
fn overload(pooled: &Pooled, clients: usize) -> (Served, Duration) {
    let prefix = pooled.pooler.dir().join(format!("load-{clients}"));
    let prefix = prefix.to_str().expect("a path in UTF-8");
    let run = |seconds: usize| {
        let output = Tool::new("pgbench", &pooled.target())
            .args(["-n", "-f", "-", "-j", "2", "-c", &clients.to_string(), "-T", &seconds.to_string()])
            .args(["-l", "--log-prefix", prefix])
            .limit(Duration::from_secs(120))
            .run_with("select pg_sleep(0.02);\n")
            .success();
        let line = output.stdout.lines().find_map(|line| line.strip_prefix("tps = "))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // Its time begins with the logins: on a machine that is busy all of it may be over with them, and there is no rate.
    let seconds = size("OVERLOAD_SECONDS", 3);
    let rate = [1, 3, 10].into_iter().find_map(|times| run(times * seconds)).expect("a rate");
    let begin = Instant::now();
    drop((0..SERVERS).map(|_| holder(&pooled.target())).collect::<Vec<_>>());
    let back = begin.elapsed();
    let mut taken = Vec::new();
    for file in
        std::fs::read_dir(pooled.pooler.dir()).expect("the directory").map(|entry| entry.unwrap().path())
    {
        if file.to_str().is_some_and(|name| name.starts_with(prefix)) {
            let text = std::fs::read_to_string(&file).expect("the log");
            std::fs::remove_file(file).expect("remove the log");
            taken.extend(text.lines().map(|line| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap()));
        }
    }
    taken.sort_unstable();
    let within = |share: usize| Duration::from_micros(taken[taken.len() * share / 100]);
    (Served { rate, median: within(50), p99: within(99) }, back)
}

/// Clients 1.1, 2, 10 and 100 times the servers: all get as much as the servers can give, each of them about as much as the
/// others, and a second after the burst the pool is as before (bug 62: pgdog#1361). The best of some rounds counts, for what
/// else the machine does. `OVERLOAD_SECONDS=10` for good figures, with `--nocapture`.
#[test]
fn an_overloaded_pool_gives_what_it_can() {
    const CLIENTS: [usize; 5] = [SERVERS, SERVERS + 1, SERVERS * 2, SERVERS * 10, SERVERS * 100];
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", SERVERS).setting("max_client_conn", 2000));
    let mut rounds: [Vec<(Served, Duration)>; CLIENTS.len()] = Default::default();
    let best = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MAX, f64::min);
    let mut faults = Vec::new();
    for _ in 0..5 {
        for (rounds, clients) in rounds.iter_mut().zip(CLIENTS) {
            let (served, back) = overload(&pooled, clients);
            println!(
                "{clients} clients of {SERVERS} servers: {served:.1?}, all servers back after {back:.1?}"
            );
            rounds.push((served, back));
        }
        let rates = rounds.each_ref().map(|rounds| -best(&mut rounds.iter().map(|(served, _)| -served.rate)));
        let peak = rates.iter().copied().fold(0.0, f64::max);
        faults.clear();
        for ((rounds, clients), rate) in rounds.iter().zip(CLIENTS).zip(rates) {
            let spread = best(&mut rounds.iter().map(|(s, _)| s.p99.as_secs_f64() / s.median.as_secs_f64()));
            let back = best(&mut rounds.iter().map(|(_, back)| back.as_secs_f64()));
            if rate < 0.9 * peak || spread > 3.0 || back > 1.0 {
                faults.push(format!(
                    "{clients} clients: {rate:.0} a second of {peak:.0}, p99 {spread:.1} medians"
                ));
            }
        }
        if faults.is_empty() {
            break;
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

// ---- whose fault it is -----------------------------------------------------------------------------------------------

/// One way to PostgreSQL that can be cut, and a pool with one server behind it.
struct Blamed {
    tap: Option<Tap>,
    pooler: Pooler,
    database: Database,
    barred: String,
}

impl Blamed {
    fn target(&self) -> Target {
        self.pooler.target("app")
    }
}

/// What can go wrong, and whether the server is to blame for it: only then are those who want a connection to it told so.
/// Nobody else is held up in either case (bug 67: pgcat#134, #823, #67; pgdog#496, #785, #238).
#[test]
fn who_is_to_blame() {
    type Cause = (&'static str, bool, fn(&mut Blamed));
    let causes: [Cause; 8] = [
        ("a wait that takes too long", false, |world| {
            let mut holder = holder(&world.target());
            let mut late = Client::login(&world.target());
            late.send(query("select 1"));
            assert_eq!(late.expect_closed().error().unwrap().message(), "query_wait_timeout");
            holder.execute("commit");
        }),
        ("a statement that fails", false, |world| {
            assert_eq!(Client::login(&world.target()).query("select 1/0").error_code(), "22012");
        }),
        ("a statement that takes too long", false, |world| {
            assert_eq!(Client::login(&world.target()).query("select pg_sleep(60)").error_code(), "57014");
        }),
        ("a server process that is killed", false, |world| {
            let pid = Client::login(&world.target()).backend_pid() as u32;
            world.database.postgres().sql(&format!("select pg_terminate_backend({pid})"));
            let backends = || world.database.backends(USER);
            eventually("it has ended", SOON, || backends().iter().all(|backend| backend.pid != pid));
        }),
        ("a connection that is reset", false, |world| {
            let mut client = holder(&world.target());
            world.tap.iter().flat_map(Tap::links).for_each(|link| link.reset());
            client.expect_closed();
        }),
        ("a user who may not log in", false, |world| {
            let barred = world.target().user(&world.barred);
            (0..2).for_each(|_| assert!(Client::try_login(&barred).is_err()));
        }),
        ("a database that is not there", false, |world| {
            (0..2).for_each(|_| assert!(Client::try_login(&world.pooler.target("missing")).is_err()));
        }),
        ("a connection that is refused", true, |world| {
            world.tap = None;
            eventually("it is known", SOON, || {
                let mut client = Client::login(&world.target()); // the first may get the server that was cut off
                client.send(query("select 1"));
                client.expect_closed();
                world.pooler.log().contains("server login failed: connect failed")
            });
        }),
    ];
    for (name, blamed, happens) in causes {
        let postgres = Postgres::shared();
        let database = postgres.database("blame");
        let barred = format!("barred_{}", database.name());
        postgres.sql(&format!("create role {barred}"));
        let tap = Tap::start(postgres.address());
        let line = |name: &str| format!("host=127.0.0.1 port={} dbname={name}", tap.port());
        let pooler = pooler()
            .setting("server_login_retry", 60)
            .setting("default_pool_size", 1)
            .setting("query_wait_timeout", "0.5")
            .setting("statement_timeout", "0.3")
            .database_line("app", &line(database.name()))
            .database_line("other", &line("postgres"))
            .database_line("missing", &line("no_such_database"))
            .database_as("elsewhere", &database, "")
            .secret(&barred, "")
            .start();
        let mut world = Blamed { tap: Some(tap), pooler, database, barred };
        for database in ["app", "other", "elsewhere"] {
            drop(world.pooler.connect(database));
        }
        happens(&mut world);
        let begin = Instant::now();
        let here: &[&str] = if blamed { &["elsewhere"] } else { &["app", "other", "elsewhere"] };
        for database in here {
            assert_eq!(world.pooler.connect(database).scalar("select 1"), "1", "{name}: {database}");
        }
        assert!(begin.elapsed() < patient(Duration::from_secs(2)), "{name}: {:?}", begin.elapsed());
        if blamed {
            let mut client = Client::login(&world.target());
            client.send(query("select 1"));
            let error = client.expect_closed().error().expect("an error");
            assert!(error.message().contains("server login has been failing"), "{name}: {error:?}");
        }
    }
}
