//! Read your writes: what a client has written it finds again, however far behind the replicas are.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::pooler::PoolerBuilder;
use support::postgres::Options;
use support::replicas::Replicas;
use support::wait::{eventually, patient};
use support::wire::{Client, Target};

use super::{Fleet, PORT, SOON, batch, eventual, extended, last_value};
use crate::probe::{Random, StopAtEnd, size};

const SETUP: &str = "
    create table t (id int primary key, v bigint not null);
    insert into t select n, 0 from generate_series(0, 999) n;
    create function bump(int, bigint) returns void language sql as 'update t set v = $2 where id = $1'";

const LATE: Duration = Duration::from_millis(300);

fn session(builder: PoolerBuilder) -> PoolerBuilder {
    builder.setting("read_consistency", "session")
}

/// What clients have seen.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    writes: usize,
    reads: usize,
    on_replicas: usize,
    stale: usize,
}

impl Seen {
    fn and(self, other: Seen) -> Seen {
        Seen {
            writes: self.writes + other.writes,
            reads: self.reads + other.reads,
            on_replicas: self.on_replicas + other.on_replicas,
            stale: self.stale + other.stale,
        }
    }
}

/// A client that alone writes one row, and reads it.
struct Writer {
    client: Client,
    row: u64,
    value: u64,
    primary: String,
    random: Random,
    seen: Seen,
}

impl Writer {
    fn read(&self) -> String {
        format!("select v, {PORT} from t where id = {}", self.row)
    }

    /// Writes the next value, in one of the ways there are.
    fn write(&mut self) {
        self.value += 1;
        self.seen.writes += 1;
        let (row, value) = (self.row, self.value);
        let update = format!("update t set v = {value} where id = {row}");
        match self.random.below(5) {
            0 => drop(self.client.execute(&update)),
            1 => {
                for sql in ["begin", &update, "commit"] {
                    self.client.execute(sql);
                }
            }
            2 => assert_eq!(extended(&mut self.client, &update).error(), None),
            3 => drop(self.client.execute(&format!("select bump({row}, {value})"))),
            _ => {
                let read = self.read();
                self.client.send([batch(&update), sync(), batch(&read), sync()].concat());
                assert_eq!(self.client.read_until_ready().error(), None);
                let reply = self.client.read_until_ready();
                self.note(&reply);
            }
        }
    }

    fn note(&mut self, reply: &support::wire::Reply) {
        let rows = reply.rows();
        let [Some(value), Some(port)] = &rows[0][..] else { panic!("{reply:?}") };
        self.seen.reads += 1;
        self.seen.on_replicas += usize::from(*port != self.primary);
        self.seen.stale += usize::from(*value != self.value.to_string());
    }

    /// Writes and reads until it is over.
    fn work(mut self, over: &AtomicBool) -> Seen {
        while !over.load(Relaxed) {
            self.write();
            for _ in 0..=self.random.below(20) {
                let read = self.read();
                let reply = match self.random.one_in(2) {
                    true => self.client.query(&read),
                    false => extended(&mut self.client, &read),
                };
                self.note(&reply);
                if over.load(Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_millis(self.random.below(120)));
            }
        }
        self.seen
    }
}

/// Changes how far the replicas are behind, until it is over: from nothing to half a second.
fn delay_replicas(set: &Replicas, over: &AtomicBool) {
    let mut random = Random::new(7);
    while !over.load(Relaxed) {
        for replica in &set.replicas {
            replica.delay_replay(Duration::from_millis(random.below(501)));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Many clients write and read back at once, while the replicas are up to half a second behind.
fn write_and_read_back(fleet: &Fleet, time: Duration) -> Seen {
    let over = AtomicBool::new(false);
    let clients = size("CONSISTENCY_CLIENTS", 100) as u64;
    let primary = fleet.set.primary.port().to_string();
    let writer = |row: u64| Writer {
        client: fleet.connect(),
        row,
        value: 0,
        primary: primary.clone(),
        random: Random::new(row),
        seen: Seen::default(),
    };
    let writers: Vec<Writer> = (0..clients).map(writer).collect();
    let seen = thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        scope.spawn(|| delay_replicas(&fleet.set, &over));
        let working: Vec<_> = writers.into_iter().map(|writer| scope.spawn(|| writer.work(&over))).collect();
        thread::sleep(time);
        drop(stop);
        working.into_iter().map(|thread| thread.join().expect("a client")).fold(Seen::default(), Seen::and)
    });
    let share = 100.0 * seen.on_replicas as f64 / seen.reads.max(1) as f64;
    println!(
        "{clients} clients in {time:?}: {} writes, {} reads, {share:.1} % of them on replicas, {} stale",
        seen.writes, seen.reads, seen.stale
    );
    seen
}

fn usual_time() -> Duration {
    Duration::from_secs(size("CONSISTENCY_SECONDS", 6) as u64)
}

/// Row 78: no stale read of one's own, and still the replicas work.
#[test]
fn no_client_misses_its_own_writes() {
    let fleet = Fleet::own(2, SETUP, |builder| session(builder).setting("max_client_conn", 500));
    let seen = write_and_read_back(&fleet, usual_time());
    assert_eq!(seen.stale, 0, "{seen:?}");
    assert!(seen.on_replicas * 20 > seen.reads, "hardly a read is left for the replicas: {seen:?}");
}

/// The same test finds stale reads where they are allowed.
#[test]
fn without_consistency_reads_are_stale() {
    let fleet = Fleet::own(2, SETUP, |builder| eventual(builder).setting("max_client_conn", 500));
    let seen = write_and_read_back(&fleet, Duration::from_secs(3));
    assert!(seen.stale > 0, "{seen:?}");
    assert!(seen.on_replicas * 10 > seen.reads * 9, "{seen:?}");
}

/// Replicas that are so much behind, and a pooler.
fn behind(delay: Duration, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Fleet {
    let fleet = Fleet::own(2, SETUP, configure);
    fleet.set.replicas.iter().for_each(|replica| replica.delay_replay(delay));
    fleet
}

#[track_caller]
fn write(client: &mut Client, row: u64, value: u64) {
    client.execute(&format!("update t set v = {value} where id = {row}"));
}

/// Value and place of a row as a client sees it.
#[track_caller]
fn read(fleet: &Fleet, client: &mut Client, row: u64) -> (String, usize) {
    let reply = client.execute(&format!("select v, {PORT} from t where id = {row}"));
    (reply.rows()[0][0].clone().expect("a value"), fleet.place_of(&reply))
}

/// `strong`: what anybody has committed before, also past the pooler.
#[test]
fn strong_reads_see_what_others_have_committed() {
    for wait in ["0", "2s"] {
        let fleet = Fleet::own(2, SETUP, |builder| {
            builder.setting("read_consistency", "strong").setting("read_consistency_wait", wait)
        });
        let (mut writer, mut direct) = (fleet.connect(), fleet.database.connect());
        let mut reader = fleet.connect();
        let mut on_replicas = 0;
        for round in 1..=60 {
            if round == 31 {
                fleet.set.replicas.iter().for_each(|replica| replica.delay_replay(Duration::from_millis(60)));
            }
            write(if round % 2 == 0 { &mut writer } else { &mut direct }, 5, round);
            let (value, place) = read(&fleet, &mut reader, 5);
            assert_eq!(value, round.to_string(), "at host {place}, wait {wait}");
            on_replicas += usize::from(place != 0);
        }
        assert!(wait == "0" || on_replicas > 20, "{on_replicas} of 60 on replicas");
    }
}

/// `read_consistency_wait`: a read waits for a replica; when that takes too long it goes to the primary.
#[test]
fn reads_that_wait_for_a_replica() {
    let fleet = behind(LATE, |builder| session(builder).setting("read_consistency_wait", "10s"));
    let target = fleet.target().param("pgferry.causal_key", "waits");
    let (mut client, mut reader) = (Client::login(&target), Client::login(&target));
    write(&mut client, 1, 1);
    let begin = Instant::now();
    let (value, place) = read(&fleet, &mut reader, 1);
    assert_eq!(value, "1");
    assert_ne!(place, 0, "it had the time");
    assert!(begin.elapsed() >= LATE / 2, "{:?}", begin.elapsed());

    let fleet =
        behind(Duration::from_secs(60), |builder| session(builder).setting("read_consistency_wait", "200ms"));
    let target = fleet.target().param("pgferry.causal_key", "waits");
    let (mut client, mut reader) = (Client::login(&target), Client::login(&target));
    write(&mut client, 1, 1);
    let begin = Instant::now();
    assert_eq!(read(&fleet, &mut reader, 1), ("1".to_string(), 0));
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(150) && took < patient(Duration::from_secs(3)), "{took:?}");
}

/// By default a read does not wait, and a client goes back to the replicas when they have what it wrote.
#[test]
fn reads_go_to_the_primary_until_a_replica_has_caught_up() {
    let fleet = behind(LATE, session);
    let (mut client, mut other) = (fleet.connect(), fleet.connect());
    for round in 1..=3 {
        let begin = Instant::now();
        write(&mut client, 1, round);
        let written = Instant::now();
        assert_eq!(read(&fleet, &mut client, 1), (round.to_string(), 0));
        assert!(written.elapsed() < LATE || begin.elapsed() > LATE, "it did not wait");
        let (value, place) = read(&fleet, &mut other, 1);
        assert!(
            place != 0 && value == (round - 1).to_string(),
            "{value} at {place}: others are not concerned"
        );
        eventually("back on a replica", SOON, || {
            let (value, place) = read(&fleet, &mut client, 1);
            assert_eq!(value, round.to_string());
            place != 0
        });
        fleet.set.catch_up();
    }
}

/// A key joins sessions: what one has written the others with it see.
#[test]
fn causal_keys() {
    let fleet = behind(LATE, session);
    let keyed = |key: &str| {
        let mut client = fleet.connect();
        client.execute(&format!("set pgferry.causal_key = '{key}'"));
        client
    };
    let (mut writer, mut friend) = (keyed("user-42"), keyed("user-42"));
    let mut by_name = Client::login(&fleet.target().param("pgferry.causal_key", "user-42"));
    let (mut stranger, mut nobody) = (keyed("user-43"), fleet.connect());
    for round in 1..=3 {
        write(&mut writer, 1, round);
        for friend in [&mut friend, &mut by_name, &mut keyed("user-42")] {
            assert_eq!(read(&fleet, friend, 1).0, round.to_string());
        }
        for other in [&mut stranger, &mut nobody] {
            let (value, place) = read(&fleet, other, 1);
            assert!(place != 0 && value == (round - 1).to_string(), "{value} at {place}");
        }
        fleet.set.catch_up();
    }
    // Who takes it off is on its own again; what it wrote itself it still sees.
    friend.execute("reset pgferry.causal_key");
    write(&mut friend, 2, 7);
    write(&mut writer, 1, 9);
    assert_eq!(read(&fleet, &mut friend, 2).0, "7");
    assert_eq!(read(&fleet, &mut by_name, 1).0, "9");
}

/// A token carries it to another pooler.
#[test]
fn causal_tokens() {
    let fleet = behind(LATE, session);
    let other = fleet.another_pooler(session);
    let mut writer = fleet.connect();
    let mut reader = other.connect(fleet.database.name());
    for round in 1..=3 {
        write(&mut writer, 1, round);
        let token = writer.scalar("show pgferry.causal_token");
        let (value, place) = read(&fleet, &mut reader, 1);
        assert!(place != 0 && value == (round - 1).to_string(), "{value} at {place}");
        reader.execute(&format!("set pgferry.causal_token = '{token}'"));
        assert_eq!(read(&fleet, &mut reader, 1).0, round.to_string(), "with {token}");
        eventually("back on a replica", SOON, || {
            let (value, place) = read(&fleet, &mut reader, 1);
            assert_eq!(value, round.to_string());
            place != 0
        });
        fleet.set.catch_up();
    }
    for wrong in ["", "moon", "1/0/0"] {
        let reply = reader.query(&format!("set pgferry.causal_token = '{wrong}'"));
        assert!(wrong.is_empty() || super::warned(&reply), "{wrong:?}: {reply:?}");
        assert_eq!(read(&fleet, &mut reader, 1).0, "3");
    }
}

/// `max_replica_lag`: a replica that is further behind gets no reads, until it has caught up.
#[test]
fn replicas_too_far_behind() {
    let fleet = Fleet::own(2, SETUP, |builder| {
        eventual(builder).setting("max_replica_lag", "300ms").setting("probe_interval", "100ms")
    });
    let mut client = fleet.connect();
    let mut places =
        |count: usize| -> Vec<usize> { (0..count).map(|_| fleet.reads_at(&mut client)).collect() };
    let mut writer = fleet.connect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        // Without writes nobody is behind.
        scope.spawn(|| {
            for value in 1.. {
                if over.load(Relaxed) {
                    break;
                }
                write(&mut writer, 1, value);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let gone = |place: usize| move |places: Vec<usize>| !places.contains(&place);
        fleet.set.replicas[0].delay_replay(Duration::from_secs(60));
        eventually("the first replica is out", SOON, || gone(1)(places(40)));
        assert!(places(40).contains(&2));
        fleet.set.replicas[1].delay_replay(Duration::from_secs(60));
        eventually("both are out", SOON, || places(40) == [0; 40]);
        fleet.set.replicas.iter().for_each(|replica| replica.delay_replay(Duration::ZERO));
        eventually("both are back", SOON, || {
            let places = places(40);
            places.contains(&1) && places.contains(&2)
        });
    });
}

/// A commit that is acknowledged before its WAL is written: the place that is written says nothing of it.
#[test]
fn commits_that_are_not_written_yet() {
    let options = Options::new().config("wal_writer_delay = 10s").config("wal_writer_flush_after = 0");
    let set = Replicas::start_with(2, options);
    let fleet = Fleet::start(std::sync::Arc::new(set), SETUP, session);
    let mut client = fleet.connect();
    client.execute("set synchronous_commit = off");
    for round in 1..=200 {
        write(&mut client, 1, round);
        if round % 10 == 0 {
            thread::sleep(Duration::from_millis(30)); // so that a sample is taken
        }
        let (value, place) = read(&fleet, &mut client, 1);
        assert_eq!(value, round.to_string(), "at host {place}");
    }
}

/// A function that writes, a `COPY`, a `DO`, a commit of two phases: all of them are writes to be seen.
#[test]
fn writes_of_every_form_are_seen() {
    let fleet = behind(LATE, session);
    let mut client = fleet.connect();
    let writes = [
        "select bump(1, {})",
        "do $$ begin perform bump(1, {}); end $$",
        "with w as (update t set v = {} where id = 1 returning 1) select count(*) from w",
        "begin; update t set v = {} where id = 1; commit",
        "begin; update t set v = {} where id = 1; prepare transaction 'seen {}'; commit prepared 'seen {}'",
        "explain analyze update t set v = {} where id = 1",
        "select 1; update t set v = {} where id = 1; select 2",
    ];
    for (number, sql) in writes.iter().enumerate() {
        // Or what was written before keeps reads away from replicas.
        eventually("a replica has caught up", SOON, || read(&fleet, &mut client, 1).1 != 0);
        for sql in sql.replace("{}", &(number + 1).to_string()).split_inclusive("'; ") {
            client.execute(sql.trim_end_matches("; "));
        }
        assert_eq!(read(&fleet, &mut client, 1).0, (number + 1).to_string(), "{sql}");
    }
    client.execute("delete from t where id = 1");
    client.send(query("copy t from stdin"));
    client.read_until(b'G');
    client.send([copy_data(b"1\t99\n"), copy_done()].concat());
    client.read_until_ready();
    assert_eq!(read(&fleet, &mut client, 1).0, "99");
    // Rolled back: nothing to be seen, and nothing is.
    client.execute("begin; update t set v = 100 where id = 1; rollback");
    assert_eq!(read(&fleet, &mut client, 1).0, "99");
}

/// A write whose text is not kept anywhere when it runs, and one that asks a sequence as well.
#[test]
fn writes_that_are_hard_to_see_are_seen() {
    let fleet = behind(LATE, |builder| session(builder).setting("max_prepared_statements", 0));
    let mut client = fleet.connect();
    for value in 1..=3 {
        eventually("a replica has caught up", SOON, || read(&fleet, &mut client, 1).1 != 0);
        assert_eq!(extended(&mut client, &format!("update t set v = {value} where id = 1")).error(), None);
        assert_eq!(read(&fleet, &mut client, 1).0, value.to_string());
    }

    let fleet = behind(LATE, |builder| session(builder).setting("default_pool_size", 1));
    fleet.database.sql("create sequence s; grant all on sequence s to public");
    let (mut client, mut other) = (fleet.connect(), fleet.connect());
    let before = fleet.shown()[0].text("lsn").to_owned();
    client.execute("select nextval('s')");
    eventually("replicas have the sequence, and the pooler knows", SOON, || {
        let lsns: Vec<String> = fleet.shown().iter().map(|row| row.text("lsn").to_owned()).collect();
        lsns[0] != before && lsns.iter().all(|lsn| *lsn == lsns[0])
    });
    client.execute("update t set v = currval('s') where id = 2");
    // It wants the server that the client would have kept for its sequence.
    other.execute("update t set v = 0 where id = 3");
    assert_eq!(read(&fleet, &mut client, 2).0, "1");
}

/// The settings of one database count for it alone.
#[test]
fn consistency_by_database() {
    let set = super::quiet_set();
    let database = super::database_of(&set, SETUP);
    let hosts = super::hosts(&set, &database);
    let pooler = crate::common::pooler()
        .setting("read_routing", "auto")
        .database_line("strict", &format!("{hosts} read_consistency=strong"))
        .database_line("loose", &format!("{hosts} read_consistency=eventual read_routing=explicit"))
        .start();
    let target = |name: &str| -> Target { pooler.target(name) };
    super::wait_until_known(&pooler, "strict", 2);
    let mut loose = Client::login(&target("loose"));
    let primary = set.primary.port().to_string();
    assert_eq!(last_value(&loose.execute(&format!("select {PORT}"))), primary);
    loose.execute("begin read only");
    assert_ne!(last_value(&loose.execute(&format!("select {PORT}"))), primary);
    loose.execute("commit");
}
