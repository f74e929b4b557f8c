//! Hosts that are dead, mute or frozen: who is left out, when, and who suffers from it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::pooler::PoolerBuilder;
use support::postgres::{MD5_USER, Stop};
use support::wait::{eventually, free_port, patient};
use support::wire::Client;

use super::{Fleet, PORT, SOON, database_of, eventual, last_value, quiet_set};
use crate::console::{Row, rows_where, table};
use crate::probe::StopAtEnd;

const SETUP: &str = "create table t (id int primary key, v text); insert into t values (1, 'one')";
/// No answer of a healthy host takes so long, even on a busy machine.
const QUICK: Duration = Duration::from_secs(1);

fn watchful(builder: PoolerBuilder) -> PoolerBuilder {
    eventual(builder).setting("probe_interval", "200ms").setting("probe_timeout", "500ms")
}

#[track_caller]
fn assert_quick(begin: Instant, what: &str) {
    assert!(begin.elapsed() < patient(QUICK), "{what} took {:?}", begin.elapsed());
}

fn breaker(row: &Row) -> &str {
    row.text("breaker")
}

/// A replica that refuses connections and one that accepts them and says nothing: the pooler starts, and nobody waits
/// for them, neither at the primary nor at the replica that is well.
#[test]
fn dead_replicas_at_the_start() {
    let set = quiet_set();
    let database = database_of(&set, SETUP);
    let mute = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mute = mute.local_addr().expect("an address").port();
    let (dead, alive) = (free_port(), set.replicas[0].port());
    let hosts = super::line(set.primary.port(), &[dead, mute, alive], &database);
    let begin = Instant::now();
    let pooler = watchful(crate::common::pooler())
        .setting("read_routing", "auto")
        .database_line(database.name(), &hosts)
        .start();
    assert!(begin.elapsed() < patient(Duration::from_secs(5)), "the start took {:?}", begin.elapsed());
    let mut client = pooler.connect(database.name());
    for round in 0..20 {
        let begin = Instant::now();
        client.execute("select v from t where id = 1");
        client.execute("update t set v = v where id = 1");
        assert_quick(begin, &format!("round {round}"));
    }
    eventually("the replica that is well has the reads", SOON, || {
        last_value(&client.execute(&format!("select {PORT}"))) == alive.to_string()
    });
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(last_value(&client.execute(&format!("select {PORT}"))), alive.to_string());
        assert_quick(begin, "a read");
    }
    eventually("both are out, and why", SOON, || {
        let rows = table(&mut pooler.console(), "HOSTS");
        let of = |port: u16| rows.iter().find(|row| row.text("port") == port.to_string()).expect("a row");
        [dead, mute]
            .iter()
            .all(|port| breaker(of(*port)) == "open" && !of(*port).text("breaker_reason").is_empty())
            && breaker(of(alive)) == "closed"
    });
}

/// A replica that stops is out, and in again when it is back.
#[test]
fn a_replica_that_stops_and_comes_back() {
    let fleet = Fleet::own(2, SETUP, watchful);
    let mut client = fleet.connect();
    let replica = &fleet.set.replicas[0];
    for how in [Stop::Fast, Stop::Immediate] {
        replica.stop(how);
        for _ in 0..50 {
            let begin = Instant::now();
            assert_ne!(fleet.reads_at(&mut client), 1);
            assert_quick(begin, "a read");
        }
        eventually("it is out", SOON, || {
            let row = &fleet.shown()[1];
            breaker(row) == "open" && !row.text("breaker_reason").is_empty()
        });
        assert_eq!(breaker(&fleet.shown()[2]), "closed");
        replica.start_again();
        eventually("it is in again", SOON, || breaker(&fleet.shown()[1]) == "closed");
        fleet.ask_every_replica(&mut client, "(select v from t where id = 1)", &["one"]);
    }
}

/// Reads of a host that fail, but not because of the host.
#[test]
fn what_opens_no_breaker() {
    let fleet = Fleet::quiet(SETUP, |builder| {
        watchful(builder)
            .setting("query_wait_timeout", 1)
            .setting("default_pool_size", 1)
            .secret(MD5_USER, "not the password")
    });
    let all_closed = || {
        let shown = fleet.shown();
        assert!(shown.iter().all(|row| breaker(row) == "closed"), "{shown:?}");
    };
    all_closed();

    let mut client = fleet.connect();
    client.execute("set statement_timeout = '50ms'");
    for _ in 0..20 {
        assert_eq!(client.query("select pg_sleep(10)").error_code(), "57014");
    }
    all_closed();

    // All connections to the replicas are taken.
    let mut holders: Vec<Client> = (0..2).map(|_| fleet.connect()).collect();
    for (number, holder) in holders.iter_mut().enumerate() {
        eventually("a replica of its own", SOON, || {
            holder.execute("begin read only");
            let place = fleet.reads_at(holder);
            let is_mine = place == number + 1;
            if !is_mine {
                holder.execute("commit");
            }
            is_mine
        });
    }
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let target = fleet.target();
            thread::spawn(move || {
                let mut client = Client::login(&target);
                client.send(query("select v from t where id = 1"));
                while let Ok(message) = client.try_read() {
                    if message.tag == b'Z' {
                        break;
                    }
                }
            })
        })
        .collect();
    waiting.into_iter().for_each(|thread| thread.join().expect("a client"));
    all_closed();
    holders.iter_mut().for_each(|holder| drop(holder.execute("commit")));

    for _ in 0..5 {
        let target = fleet.target().user(MD5_USER);
        if let Ok(mut client) = Client::try_login(&target) {
            client.send(query("select 1"));
            while client.try_read().is_ok_and(|message| message.tag != b'Z') {}
        }
    }
    all_closed();
    fleet.ask_every_replica(&mut fleet.connect(), "'well'", &["well"]);
}

/// With no replica left the primary serves the reads, if it may.
#[test]
fn all_replicas_are_down() {
    let fleet = Fleet::own(1, SETUP, watchful);
    let mut client = fleet.connect();
    assert_eq!(fleet.reads_at(&mut client), 1);
    fleet.set.replicas[0].stop(Stop::Immediate);
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(fleet.reads_at(&mut client), 0);
        assert_quick(begin, "a read");
    }
    fleet.set.replicas[0].start_again();
    eventually("the replica has them again", SOON, || fleet.reads_at(&mut client) == 1);
}

/// `replica_fallback = error`: reads wait for a replica, and are refused when there is none in time; writes go on.
#[test]
fn the_primary_is_spared() {
    let fleet = Fleet::own(1, SETUP, |builder| {
        watchful(builder).setting("replica_fallback", "error").setting("query_wait_timeout", 2)
    });
    let mut writer = fleet.connect();
    assert_eq!(fleet.reads_at(&mut writer), 1);
    fleet.set.replicas[0].stop(Stop::Immediate);
    let mut reader = fleet.connect();
    let begin = Instant::now();
    reader.send(query(&format!("select {PORT}")));
    writer.execute("update t set v = v where id = 1");
    assert_quick(begin, "a write");
    let mut codes = Vec::new();
    while let Ok(message) = reader.try_read() {
        codes.extend(message.error().map(|error| error.code().to_string()));
        assert_ne!(message.tag, b'D', "an answer");
        if message.tag == b'Z' {
            break;
        }
    }
    assert_eq!(codes.len(), 1, "{codes:?}");
    assert!(begin.elapsed() < patient(Duration::from_secs(6)), "{:?}", begin.elapsed());
    let mut reader = fleet.connect();
    reader.send(query(&format!("select {PORT}")));
    fleet.set.replicas[0].start_again();
    // It may have taken longer than the client may wait.
    while let Ok(message) = reader.try_read() {
        match message.tag {
            b'D' => assert_eq!(fleet.place_of(&support::wire::Reply(vec![message])), 1),
            b'Z' => break,
            _ => {}
        }
    }
    fleet.wait_until_known();
    eventually("the replica is back", SOON, || fleet.shown()[1].text("breaker") == "closed");
    assert_eq!(fleet.reads_at(&mut fleet.connect()), 1);
}

/// A replica that says nothing any more is out within about `probe_timeout`; reads that were there are answered by
/// another or end at their own time limit.
#[test]
fn a_frozen_replica() {
    let fleet = Fleet::own(2, SETUP, |builder| watchful(builder).setting("statement_timeout", "3s"));
    let frozen = &fleet.set.replicas[0];
    let over = AtomicBool::new(false);
    let (slowest, failed, late) = thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        let readers: Vec<_> = (0..20)
            .map(|_| {
                let (mut client, over, fleet) = (fleet.connect(), &over, &fleet);
                scope.spawn(move || {
                    let (mut slowest, mut failed) = (Duration::ZERO, Vec::new());
                    while !over.load(Relaxed) {
                        let begin = Instant::now();
                        let reply = client.query(&format!("select v, {PORT} from t where id = 1"));
                        slowest = slowest.max(begin.elapsed());
                        match reply.error() {
                            Some(error) => failed.push(error.code().to_string()),
                            None => assert_ne!(fleet.place_of(&reply), 0, "the other replica is there"),
                        }
                        thread::sleep(Duration::from_millis(5));
                    }
                    (slowest, failed)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        let begin = Instant::now();
        frozen.freeze();
        eventually("it is out", SOON, || breaker(&fleet.shown()[1]) == "open");
        let late = begin.elapsed();
        // Longer than the limit of those that it had.
        thread::sleep(Duration::from_secs(4));
        let before = fleet.reads()[1];
        thread::sleep(Duration::from_millis(500));
        assert_eq!(fleet.reads()[1], before, "it is still asked");
        drop(stop);
        let mut all = (Duration::ZERO, Vec::new());
        for reader in readers {
            let (slowest, failed) = reader.join().expect("a reader");
            all = (all.0.max(slowest), [all.1, failed].concat());
        }
        (all.0, all.1, late)
    });
    frozen.thaw();
    println!("frozen: out after {late:.2?}, slowest read {slowest:.2?}, failed {failed:?}");
    assert!(late < patient(Duration::from_secs(3)), "out after {late:?}");
    assert!(slowest < patient(Duration::from_secs(6)), "{slowest:?}");
    assert!(failed.len() <= 20 && failed.iter().all(|code| code == "57014"), "{failed:?}");
    eventually("it is in again", SOON, || breaker(&fleet.shown()[1]) == "closed");
    fleet.ask_every_replica(&mut fleet.connect(), "'thawed'", &["thawed"]);
}

/// Row 73: a primary that says nothing, and nobody takes its place: writes end with an error in time, reads go on.
#[test]
fn a_frozen_primary() {
    let fleet = Fleet::own(1, SETUP, |builder| {
        watchful(builder).setting("query_wait_timeout", 2).setting("statement_timeout", "3s")
    });
    let (mut reader, mut writer) = (fleet.connect(), fleet.connect());
    fleet.set.primary.freeze();
    eventually("the primary is none", SOON, || breaker(&fleet.shown()[0]) == "open");
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(fleet.reads_at(&mut reader), 1);
        assert_quick(begin, "a read");
    }
    let begin = Instant::now();
    writer.send(query("update t set v = 'late' where id = 1"));
    let mut failed = false;
    while let Ok(message) = writer.try_read() {
        failed |= message.tag == b'E';
        if message.tag == b'Z' {
            break;
        }
    }
    assert!(failed);
    assert!(begin.elapsed() < patient(Duration::from_secs(6)), "{:?}", begin.elapsed());
    fleet.set.primary.thaw();
    eventually("it is the primary again", SOON, || {
        let mut writer = fleet.connect();
        writer.query("update t set v = 'again' where id = 1").error().is_none()
    });
    assert_eq!(fleet.database.scalar("select v from t where id = 1"), "again");
}

/// Who waits for a replica can change its mind: a cancel request ends the wait, not the session; and who leaves is gone.
#[test]
fn clients_that_wait_for_a_replica() {
    let fleet = Fleet::own(1, SETUP, |builder| watchful(builder).setting("replica_fallback", "error"));
    let (mut client, mut leaving) = (fleet.connect(), fleet.connect());
    assert_eq!(fleet.reads_at(&mut client), 1);
    fleet.set.replicas[0].stop(Stop::Immediate);
    eventually("it is out", SOON, || breaker(&fleet.shown()[1]) == "open");
    let waiting = || {
        let name = fleet.database.name();
        let rows = rows_where(&mut fleet.pooler.console(), "CLIENTS", "database", name);
        rows.iter().filter(|row| row.text("state") == "waiting").count()
    };
    client.send(query("select 'waits'"));
    leaving.send(query("select 'leaves'"));
    eventually("they wait", SOON, || waiting() == 2);
    leaving.abort();
    eventually("one has left", SOON, || waiting() == 1);
    let begin = Instant::now();
    client.cancel();
    let reply = client.read_until_ready();
    assert_eq!((reply.error_code().as_str(), reply.status()), ("57014", Some(b'I')), "{reply:?}");
    assert_quick(begin, "a cancel");
    client.execute("update t set v = v where id = 1");
}

/// The same for one that waits for a server of a pool at a replica.
#[test]
fn clients_that_wait_at_a_replica() {
    let fleet = Fleet::own(1, SETUP, |builder| eventual(builder).setting("default_pool_size", 1));
    let (mut client, mut other) = (fleet.connect(), fleet.connect());
    other.execute("begin read only; select count(*) from t");
    client.send(query("select 'waits'"));
    eventually("it waits", SOON, || {
        let name = fleet.database.name();
        let rows = rows_where(&mut fleet.pooler.console(), "CLIENTS", "database", name);
        rows.iter().any(|row| row.text("state") == "waiting")
    });
    client.cancel();
    let reply = client.read_until_ready();
    assert_eq!((reply.error_code().as_str(), reply.status()), ("57014", Some(b'I')), "{reply:?}");
    other.execute("commit");
    assert_eq!(client.scalar("select 'goes on'"), "goes on");
}
