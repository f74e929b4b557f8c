//! Peers that are gone without a word: nothing that is sent arrives, and nobody says so (bug 68: pgbouncer#1181, #953).

use std::time::{Duration, Instant};

use support::frontend::*;
use support::network::Network;
use support::pooler::{ADMIN, Pooler, PoolerBuilder};
use support::postgres::{Postgres, USER};
use support::tap::Tap;
use support::wait::{eventually, patient};
use support::wire::{Client, Reply, Target};

use crate::cancels::waiting_and_active;
use crate::common::{pooled, pooler};
use crate::probe::wait_until_idle;

const SOON: Duration = Duration::from_secs(10);

/// `tcp_user_timeout` of these tests, and how late it may be noticed: the kernel looks when it sends something again, which
/// it does in ever longer intervals, and the pooler's tick comes behind that.
const USER_TIMEOUT: Duration = Duration::from_millis(1500);
const LATE: Duration = Duration::from_millis(2000);

/// Who has something to send finds a dead peer by `tcp_user_timeout`; who only listens, by probes.
fn watchful(builder: PoolerBuilder) -> PoolerBuilder {
    builder
        .setting("tcp_user_timeout", USER_TIMEOUT.as_millis())
        .setting("tcp_keepidle", 1)
        .setting("tcp_keepintvl", 1)
        .setting("default_pool_size", 4)
}

/// The way in over the Unix socket, which leads out of every network.
fn by_unix(pooler: &Pooler, database: &str) -> Target {
    Target::new(pooler.unix_address(), USER, database)
}

#[track_caller]
fn assert_crashed(reply: &Reply) {
    let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "08P01", "server conn crashed?"));
}

/// A server behind which the network is gone: clients that wait for an answer, sit in a transaction or ask for something new
/// are told in time, its places are free, and when it is back all goes on.
#[test]
fn a_server_in_a_black_hole() {
    let postgres = Postgres::shared();
    let database = postgres.database("black_hole");
    let Some(network) = Network::new() else { return };
    let upstream = postgres.unix_address();
    let pooler = network.run({
        let (name, dbname) = ("app".to_owned(), database.name().to_owned());
        move || {
            let tap = Tap::start(upstream);
            let line = format!("host=127.0.0.1 port={} dbname={dbname}", tap.port());
            let builder = watchful(pooler()).setting("server_connect_timeout", 1).database_line(&name, &line);
            std::mem::forget(tap); // its end would have to be in the network as well
            builder.start()
        }
    });
    let target = by_unix(&pooler, "app");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::login(&target)).collect();
    clients.iter_mut().for_each(|client| drop(client.execute("begin")));
    clients[2].execute("commit");
    clients[3].execute("commit");
    let [within, working, asking, resting] = &mut clients[..] else { panic!("four clients") };
    working.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || database.backends(USER).iter().any(|backend| backend.state == "active"));

    network.lose_packets();
    let begin = Instant::now();
    asking.send(query("select 'lost'"));
    for client in [asking, working, within] {
        assert_crashed(&client.expect_closed());
        let taken = begin.elapsed();
        assert!(taken < USER_TIMEOUT + patient(LATE), "{taken:?}");
    }
    let mut console = Client::login(&Target::new(pooler.unix_address(), ADMIN, "pgbouncer"));
    eventually("no place is taken", SOON, || console.execute("show servers").rows().is_empty());
    // There is no server to be had: the first to ask wait, and then it is known.
    resting.send(query("select 'waited'"));
    pooler.wait_for_log("server login failed: connect timeout");
    let begin = Instant::now();
    let mut refused = Client::login(&target);
    refused.send(query("select 'refused'"));
    let reply = refused.expect_closed();
    assert!(reply.error().expect("an error").message().contains("connect timeout"), "{reply:?}");
    assert!(begin.elapsed() < patient(Duration::from_secs(1)), "{:?}", begin.elapsed());

    network.heal();
    assert_eq!(resting.read_until_ready().rows(), [[Some("waited".to_string())]]);
    let mut holders: Vec<Client> = (0..4).map(|_| Client::login(&target)).collect();
    holders.iter_mut().for_each(|client| drop(client.execute("begin")));
}

/// Clients that are gone without a word give back what they had: the transaction is rolled back, and the server free.
#[test]
fn clients_in_a_black_hole() {
    let postgres = Postgres::shared();
    let database = postgres.database("black_hole");
    let Some(network) = Network::new() else { return };
    let sockets = postgres.socket_dir().display().to_string();
    let line = format!("host={sockets} port={} dbname={}", postgres.port(), database.name());
    let pooler = network
        .run(move || watchful(pooler()).setting("default_pool_size", 2).database_line("app", &line).start());
    let target = pooler.target("app");
    let mut clients = network.run(move || [(); 2].map(|()| Client::login(&target)));
    clients.iter_mut().for_each(|client| drop(client.execute("begin")));
    clients[1].send(query("select pg_sleep(0.5)")); // is answered when nobody is there

    network.lose_packets();
    let begin = Instant::now();
    let mut waiting = Client::login(&by_unix(&pooler, "app"));
    assert_eq!(waiting.query("select 'served'").rows(), [[Some("served".to_string())]]);
    wait_until_idle(&database, 2);
    let taken = begin.elapsed();
    assert!(taken < USER_TIMEOUT + Duration::from_millis(500) + patient(LATE), "{taken:?}");
    network.heal();
}

/// A server that takes no more bytes, although its machine is there: found in the same way, wherever this runs.
#[test]
fn a_server_that_reads_no_more() {
    let postgres = Postgres::shared();
    let database = postgres.database("stuck");
    let tap = Tap::start(postgres.address());
    let line = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let pooler = watchful(pooler()).setting("default_pool_size", 1).database_line("app", &line).start();
    let mut client = pooler.connect("app");
    client.execute("select 1");
    tap.links().iter().for_each(|link| link.freeze_to_server());
    let begin = Instant::now();
    let mut sender = client.peer().stream().try_clone().expect("a second handle");
    let text = query(&format!("select length('{}')", "x".repeat(64 << 20)));
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &text).is_err());
    assert_crashed(&client.expect_closed());
    let taken = begin.elapsed();
    assert!(taken < USER_TIMEOUT + patient(LATE), "{taken:?}");
    drop(client);
    sending.join().expect("the thread that sends");
    assert_eq!(pooler.connect("app").scalar("select 'served'"), "served");
}

/// A client that takes no more bytes holds its server no longer than that.
#[test]
fn a_client_that_reads_no_more() {
    let pooled = pooled("", |builder| watchful(builder).setting("default_pool_size", 1));
    let mut client = pooled.connect();
    client.send(query("select repeat('x', 1000000) from generate_series(1, 200)"));
    eventually("it has the server", SOON, || waiting_and_active(&pooled.pooler) == (0, 1));
    let begin = Instant::now();
    assert_eq!(pooled.connect().scalar("select 'served'"), "served");
    let taken = begin.elapsed();
    assert!(taken >= Duration::from_millis(500), "{taken:?}: it took all that it was sent");
    assert!(taken < USER_TIMEOUT + patient(LATE), "{taken:?}");
    drop(client);
}
