//! Cancel requests that arrive around the end of queries, by the thousand and over a slow path: each meets the query that
//! it was meant for, or nothing; and none is lost that came in time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::frontend::*;
use support::message::CancelKey;
use support::peer::Address;
use support::pooler::Pooler;
use support::postgres::{Database, Postgres};
use support::tap::{Rule, Tap};
use support::wait::patient;
use support::wire::{Client, Reply, cancel};

use crate::common::pooler;
use crate::probe::{Random, StopAtEnd, size, wait_until_idle};

const CANCELED: &str = "57014";

/// Tells the client that it has begun, and at its end when that was, by the clock that the test looks at as well.
const TELLS: &str = "create function tells(float) returns float language plpgsql as $$ begin \
     raise notice 'begun'; perform pg_sleep($1); return extract(epoch from clock_timestamp()); end $$";

/// What a loaded machine may need between a signal and its being noticed.
const SLACK: Duration = Duration::from_millis(100);

/// Seconds of the wall clock.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// A pooler whose cancel requests take up to 6 ms to their server, and nothing else does.
fn behind_a_slow_path(pool_size: usize) -> (Tap, Database, Pooler) {
    let postgres = Postgres::shared();
    let database = postgres.database("races");
    database.connect().execute(TELLS);
    let random = std::sync::Mutex::new(Random::new(49));
    let tap = Tap::with_rules(postgres.address(), move |opening| {
        let delay = Duration::from_micros(random.lock().unwrap().below(3000)); // the packet goes in two pieces
        Rule { delay_to_server: if opening.is_cancel { delay } else { Duration::ZERO }, ..Rule::default() }
    });
    let pooler = pooler()
        .setting("default_pool_size", pool_size)
        .setting("max_client_conn", 1000)
        .setting("query_wait_notify", 0)
        .setting("log_connections", 0)
        .setting("log_disconnections", 0)
        .database_line(database.name(), &format!("host=127.0.0.1 port={}", tap.port()))
        .start();
    (tap, database, pooler)
}

/// Cancels when it is told to, after a pause. Says by the wall clock when the cancel was over.
struct Canceler {
    orders: mpsc::Sender<Duration>,
    over: mpsc::Receiver<f64>,
}

impl Canceler {
    fn start<'scope>(scope: &'scope thread::Scope<'scope, '_>, address: Address, key: CancelKey) -> Canceler {
        let (orders, inbox) = mpsc::channel::<Duration>();
        let (told, over) = mpsc::channel();
        scope.spawn(move || {
            for pause in inbox {
                thread::sleep(pause);
                cancel(&address, &key);
                let _ = told.send(now());
            }
        });
        Canceler { orders, over }
    }

    fn go(&self, pause: Duration) {
        self.orders.send(pause).expect("it waits for orders");
    }

    #[track_caller]
    fn wait(&self) -> f64 {
        self.over.recv_timeout(patient(Duration::from_secs(30))).expect("the cancel ends")
    }
}

/// What came of the cancels of one client.
#[derive(Debug, Default)]
struct Tally {
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl Tally {
    /// The reply is its query's own, or the query was cancelled. Returns whether it was.
    #[track_caller]
    fn note(&self, reply: &Reply, number: u64) -> bool {
        let canceled = reply.error().is_some();
        if canceled {
            assert_eq!(reply.error_code(), CANCELED, "{reply:?}");
            self.hits.fetch_add(1, Relaxed);
        } else {
            assert_eq!(reply.rows()[0][0], Some(number.to_string()), "somebody else's reply: {reply:?}");
            self.misses.fetch_add(1, Relaxed);
        }
        canceled
    }
}

/// One client: queries that end about when their cancels come, and behind each one that nobody cancels.
fn race(mut client: Client, canceler: &Canceler, rounds: usize, mut random: Random, tally: &Tally) {
    for number in (0..).step_by(2).take(rounds) {
        let length = random.below(4000);
        let pause = Duration::from_micros(random.below(length + 3000));
        match random.below(8) {
            0 => canceled_for_certain(&mut client, canceler, pause, tally),
            1 => {
                client.execute("begin");
                canceler.go(pause);
                let seconds = length as f64 / 1e6;
                let reply = client.query(&format!("select {number}, pg_sleep({seconds})"));
                let canceled = tally.note(&reply, number);
                assert_eq!(reply.status(), Some(if canceled { b'E' } else { b'T' }), "{reply:?}");
                canceler.wait();
                let next = client.query("select 'mine'");
                let expected = if canceled { "25P02" } else { "" };
                assert_eq!(next.error_code(), expected, "in the transaction of {number}: {next:?}");
                client.execute("rollback");
            }
            kind => {
                let seconds = length as f64 / 1e6;
                let call = if kind < 4 { "tells" } else { "pg_sleep" };
                canceler.go(pause);
                tally.note(&client.query(&format!("select {number}, {call}({seconds})")), number);
                canceler.wait();
            }
        }
        let quiet = client.query(&format!("select {}, pg_sleep(0.0005)", number + 1));
        assert_eq!(quiet.tags(), "TDCZ", "behind {number}, cancelled by nobody: {quiet:?}");
        assert_eq!(quiet.rows()[0][0], Some((number + 1).to_string()));
    }
}

/// A query that is known to run when it is cancelled: it ends at once, or had ended by itself before the cancel was over.
fn canceled_for_certain(client: &mut Client, canceler: &Canceler, pause: Duration, tally: &Tally) {
    let seconds = if pause.subsec_micros().is_multiple_of(2) { 60.0 } else { pause.as_secs_f64() * 2.0 };
    client.send(query(&format!("select tells({seconds})")));
    client.read_until(b'N');
    canceler.go(pause);
    let reply = client.read_until_ready();
    let over = canceler.wait();
    if reply.error().is_some() {
        assert_eq!(reply.error_code(), CANCELED, "{reply:?}");
        tally.hits.fetch_add(1, Relaxed);
    } else {
        let ended: f64 = reply.rows()[0][0].as_ref().expect("a time").parse().expect("a number");
        let late = ended - over;
        assert!(late < patient(SLACK).as_secs_f64(), "lost: the query ran {late} s longer than its cancel");
        tally.misses.fetch_add(1, Relaxed);
    }
}

/// `racers` clients with `rounds` cancels each share `pool_size` servers with clients that nobody cancels.
fn race_on(pool_size: usize, racers: usize, rounds: usize) {
    let (tap, database, pooler) = behind_a_slow_path(pool_size);
    let (over, tally, begin) = (AtomicBool::new(false), Tally::default(), Instant::now());
    let served = thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        let bystander = scope.spawn(|| {
            let mut client = pooler.connect(database.name());
            let mut served = 0;
            while !over.load(Relaxed) {
                let reply = client.query("select pg_sleep(0.001)");
                assert_eq!(reply.tags(), "TDCZ", "cancelled by somebody else: {reply:?}");
                served += 1;
            }
            served
        });
        let racing: Vec<_> = (0..racers)
            .map(|number| {
                let client = pooler.connect(database.name());
                let key = client.key.clone().expect("a key");
                let canceler = Canceler::start(scope, pooler.address(), key);
                let (tally, random) = (&tally, Random::new(number as u64));
                scope.spawn(move || race(client, &canceler, rounds, random, tally))
            })
            .collect();
        racing.into_iter().for_each(|racer| racer.join().expect("a racer's replies are its own"));
        over.store(true, Relaxed);
        bystander.join().expect("a bystander is left alone")
    });
    let (hits, misses) = (tally.hits.into_inner(), tally.misses.into_inner());
    let reached = database.log().matches("canceling statement due to user request").count();
    let sent = tap.links().iter().filter(|link| link.opening.is_cancel).count();
    println!(
        "pool of {pool_size}: {} cancels in {:.0?}: {hits} queries cancelled ({reached} by PostgreSQL, {sent} requests \
         sent to it), {misses} had ended; {served} queries of a bystander",
        racers * rounds,
        begin.elapsed()
    );
    assert_eq!(hits + misses, racers * rounds);
    assert!(reached <= hits, "something else was cancelled");
    assert!(hits.min(misses) > racers * rounds / 10, "not around the end of queries");
    wait_until_idle(&database, pool_size);
}

/// Cancels at random moments around the end of queries, delayed on their way to PostgreSQL (bugs 15 and 49: pgbouncer#38,
/// #141, #223, #245, #717, npgsql#1636, ruby-pg#430, pgcat#297). `CANCELS=100000` for the whole of it.
#[test]
fn cancels_around_the_end_of_queries() {
    let each = size("CANCELS", 2000) / 2;
    race_on(1, 2, each / 2);
    race_on(4, 5, each / 5);
}
