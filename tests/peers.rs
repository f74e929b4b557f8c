//! Several instances behind one address: a cancel request works whichever of them it comes to.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::frontend::*;
use support::message::CancelKey;
use support::pooler::Pooler;
use support::postgres::{Database, USER};
use support::scripted::ScriptedServer;
use support::wait::{Gate, eventually};
use support::wire::{Client, cancel};

use crate::common::{pooler, prepared_database};

const SOON: Duration = Duration::from_secs(10);

/// Instances with these numbers, one server each. They do not know each other yet.
fn instances(database: &Database, ids: &[u16]) -> Vec<Pooler> {
    let start =
        |id| pooler().setting("default_pool_size", 1).setting("peer_id", id).database(database, "").start();
    ids.iter().map(start).collect()
}

fn tcp(pooler: &Pooler) -> String {
    format!("host=127.0.0.1 port={}", pooler.port())
}

fn unix(pooler: &Pooler) -> String {
    format!("host={} port={}", pooler.dir().display(), pooler.port())
}

/// The value in this row and column of `SHOW`, found by the row's first value.
#[track_caller]
fn shown(pooler: &Pooler, show: &str, first: &str, column: usize) -> String {
    let rows = pooler.console().execute(show).rows();
    let row = rows.iter().find(|row| row[0].as_deref() == Some(first));
    row.unwrap_or_else(|| panic!("{show}: no {first} in {rows:?}"))[column].clone().unwrap_or_default()
}

/// PostgreSQL has begun with a query: it ignores cancel requests that come earlier.
fn runs(database: &Database) -> bool {
    database.backends(USER).iter().any(|backend| backend.state == "active")
}

/// Two and three instances, over TCP and Unix sockets, that know themselves too or only the others: a running query and
/// one that waits is cancelled by way of each of them (bug 53: pgbouncer#666, #1217, cloudnative-pg#3262, #9818).
#[test]
fn a_cancel_by_way_of_any_instance() {
    let database = prepared_database("peers", "");
    let ids = [1, 2, 300];
    for (count, knows_itself) in [(2, false), (3, true), (3, false)] {
        let mut poolers = instances(&database, &ids[..count]);
        let ways: Vec<String> =
            poolers.iter().enumerate().map(|(at, p)| if at % 2 == 0 { tcp(p) } else { unix(p) }).collect();
        for (at, pooler) in poolers.iter_mut().enumerate() {
            let others = (0..count).filter(|other| knows_itself || *other != at);
            pooler.reload(|builder| others.fold(builder, |b, other| b.peer_line(ids[other], &ways[other])));
        }
        for (home, id) in poolers.iter().zip(ids) {
            let (mut client, mut waiting) = (home.connect(database.name()), home.connect(database.name()));
            let [_, low, high, _] = client.key.as_ref().expect("a key").pid.to_be_bytes();
            assert_eq!(u16::from_le_bytes([low, high]), id, "PgBouncer's place for it");
            assert_eq!(client.key.as_ref().expect("a key").secret[3] & 3, 3, "three times at most");
            for by_way in &poolers {
                client.send(query("select pg_sleep(60)"));
                eventually("it runs", SOON, || runs(&database));
                waiting.send(query("select pg_sleep(60)"));
                eventually("it waits", SOON, || shown(home, "show pools", database.name(), 3) == "1");
                for client in [&mut waiting, &mut client] {
                    cancel(&by_way.address(), client.key.as_ref().expect("a key"));
                    assert_eq!(
                        client.read_until_ready().error_code(),
                        "57014",
                        "{id} by way of {}",
                        by_way.port()
                    );
                }
            }
            assert_eq!(client.scalar("select 'mine'"), "mine");
        }
        let known = count - usize::from(!knows_itself);
        assert_eq!(shown(&poolers[0], "show lists", "peers", 1), known.to_string());
        assert_eq!(shown(&poolers[0], "show lists", "peer_pools", 1), (count - 1).to_string(), "those used");
        assert_eq!(shown(&poolers[0], "show peers", "2", 3), "1", "pool_size");
        assert_eq!(shown(&poolers[0], "show peer_pools", "2", 1), "0");
    }
}

/// An instance that is told to end once its clients have gone takes connections on its Unix socket only, and can still be
/// passed a request for one of them.
#[test]
fn an_instance_that_ends() {
    let database = prepared_database("peers", "");
    let mut poolers = instances(&database, &[1, 2]);
    let way = unix(&poolers[1]);
    poolers[0].reload(|builder| builder.peer_line(2, &way));
    let mut client = poolers[1].connect(database.name());
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || runs(&database));
    poolers[1].signal(Signal::SIGTERM);
    eventually("it takes no clients", SOON, || poolers[1].address().connect().is_err());
    cancel(&poolers[0].address(), client.key.as_ref().expect("a key"));
    assert_eq!(client.read_until_ready().error_code(), "57014");
    drop(client);
    assert!(poolers[1].wait_ended().success());
}

/// What is passed on is the key as it came, but for the count of hops; what names nobody, or has been passed on too often,
/// ends here. Without a number of its own an instance passes on nothing.
#[test]
fn keys_that_are_passed_on() {
    let database = prepared_database("peers", "");
    let peer = ScriptedServer::start(|session| session.login());
    let mut pooler = instances(&database, &[1]).remove(0);
    let line = format!("host=127.0.0.1 port={}", peer.port());
    pooler.reload(|builder| builder.peer_line(0x0203, &line));
    // Peers 2 and 3 have the same bytes in other places.
    let key = |id: u16, last: u8| {
        let [low, high] = id.to_le_bytes();
        CancelKey { pid: i32::from_be_bytes([0x71, low, high, 9]), secret: vec![1, 2, 3, last] }
    };
    for (id, last) in [(0x0203, 0xff), (0x0203, 0xfd), (0x0203, 0xfc), (0x0302, 0xff), (1, 0xff), (0, 0xff)] {
        cancel(&pooler.address(), &key(id, last));
    }
    let long = CancelKey { secret: vec![7; 32], ..key(0x0203, 0xff) };
    cancel(&pooler.address(), &long);
    assert_eq!(peer.cancels(), [key(0x0203, 0xfe), key(0x0203, 0xfc)]);

    pooler.reload(|builder| builder.setting("peer_id", 0));
    cancel(&pooler.address(), &key(0x0203, 0xff));
    let mut client = pooler.connect(database.name());
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || runs(&database));
    client.cancel();
    assert_eq!(client.read_until_ready().error_code(), "57014", "with a key of no instance");
    assert_eq!(peer.cancels().len(), 2);
}

/// Two instances that take each other for a third pass a request on three times, and then it is over. A peer that is not
/// there is no hindrance either.
#[test]
fn requests_that_go_round() {
    let database = prepared_database("peers", "");
    let mut poolers = instances(&database, &[1, 2]);
    let ways: Vec<String> = poolers.iter().map(|pooler| tcp(pooler) + " pool_size=4").collect();
    let gone = support::wait::free_port();
    for (at, pooler) in poolers.iter_mut().enumerate() {
        let other = ways[1 - at].clone();
        pooler.reload(|b| b.peer_line(3, &other).peer_line(4, &format!("host=127.0.0.1 port={gone}")));
    }
    let begin = Instant::now();
    for id in [3, 4] {
        let pid = i32::from_be_bytes([1, id, 0, 1]);
        cancel(&poolers[0].address(), &CancelKey { pid, secret: vec![255; 4] });
    }
    assert!(begin.elapsed() < SOON / 2, "{:?}", begin.elapsed());
    poolers[0].wait_for_log("cannot pass a cancel request on to peer 4");
    let used = |pooler: &Pooler| shown(pooler, "show peer_pools", "3", 0);
    assert_eq!((used(&poolers[0]), used(&poolers[1])), ("3".into(), "3".into()));
}

/// No more than `pool_size` are passed on at once, and none takes longer than `cancel_wait_timeout`. A reload changes
/// where they go.
#[test]
fn a_peer_that_does_not_answer() {
    let database = prepared_database("peers", "");
    let gate = Gate::new();
    let peer = ScriptedServer::start_holding_cancels(gate.clone(), |session| session.login());
    let other = ScriptedServer::start(|session| session.login());
    let mut pooler = instances(&database, &[1]).remove(0);
    let line = |server: &ScriptedServer| format!("host=127.0.0.1 port={} pool_size=2", server.port());
    pooler.reload(|builder| builder.setting("cancel_wait_timeout", "2s").peer_line(2, &line(&peer)));
    let key = CancelKey { pid: i32::from_be_bytes([1, 2, 0, 1]), secret: vec![255; 4] };
    let mut senders: Vec<Client> = (0..5).map(|_| Client::open(&pooler.address())).collect();
    let begin = Instant::now();
    senders.iter_mut().for_each(|sender| sender.send(cancel_request(&key)));
    eventually("two are passed on and three wait", SOON, || {
        shown(&pooler, "show lists", "peer_pools", 1) == "1"
            && [1, 2].map(|column| shown(&pooler, "show peer_pools", "2", column)) == ["2", "3"]
    });
    senders.iter_mut().for_each(|sender| assert!(sender.expect_closed().0.is_empty()));
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    pooler.reload(|builder| builder.peer_line(2, &line(&other)));
    cancel(&pooler.address(), &key);
    assert_eq!(other.cancels().len(), 1);
    gate.open();
}
