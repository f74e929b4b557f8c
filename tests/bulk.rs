//! Much data and many clients in little memory. Sizes are small here; `BULK_MEGABYTES=1024` is what is promised.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::frontend::*;
use support::pooler::Pooler;
use support::proc;
use support::wire::{Client, Target};

use crate::common::pooled;
use crate::probe::{Probe, Random, size};

/// The pooler may grow by this much, whatever passes through it.
const GROWTH: usize = 32 << 20;
const MOMENT: Duration = Duration::from_millis(1);

fn megabytes(usual: usize) -> usize {
    size("BULK_MEGABYTES", usual)
}

/// Watches how large a process becomes.
pub(crate) struct Growth {
    before: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Growth {
    pub(crate) fn of(pooler: &Pooler) -> Growth {
        let pid = pooler.pid();
        let before = pooler.rss();
        let (peak, stop) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let (highest, stopped) = (peak.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while let (false, Some(rss)) = (stopped.load(Relaxed), proc::rss(pid)) {
                highest.fetch_max(rss, Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Growth { before, peak, stop, thread: Some(thread) }
    }

    /// Ends: by how much it was larger than at the beginning.
    #[track_caller]
    fn check(self, what: &str, begin: Instant) {
        self.check_below(GROWTH, what, begin);
    }

    /// Ends: it was at most so many bytes larger.
    #[track_caller]
    pub(crate) fn check_below(self, most: usize, what: &str, begin: Instant) {
        let growth = (self.peak.load(Relaxed) - self.before) as usize;
        println!("{what} in {:.1?}: memory grew by {} KiB", begin.elapsed(), growth >> 10);
        assert!(growth < most, "{what}: memory grew by {growth} bytes");
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lines whose every byte depends on their number.
fn line(number: usize) -> String {
    format!("{number}\t{}\n", format!("{number:010}").repeat(100))
}

/// The same, made by PostgreSQL.
const VALUE: &str = "repeat(lpad(id::text, 10, '0'), 100)";

/// COPY both ways, cut into packets at random places, every byte checked, in constant memory (bug 59: odyssey#554,
/// pgbouncer#57).
#[test]
fn copy_both_ways() {
    let rows = megabytes(64) * 1_000_000 / line(1_000_000).len();
    let pooled = pooled("create table t (id int, v text); create sequence seen", |builder| builder);
    let mut client = pooled.connect();

    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    client.send(query(&format!("copy (select id, {VALUE} from generate_series(1, {rows}) id) to stdout")));
    client.expect(b'H');
    for number in 1..=rows {
        let data = client.expect(b'd').body;
        assert!(data == line(number).into_bytes(), "row {number}: {}", data.escape_ascii());
    }
    assert_eq!(client.read_until_ready().tags(), "cCZ");
    growth.check(&format!("{rows} rows out"), begin);

    // The server keeps those rows only that are not what they should be.
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    client.send(query(&format!("copy t from stdin where nextval('seen') > 0 and v <> {VALUE}")));
    client.expect(b'G');
    let mut random = Random::new(59);
    let mut unsent = Vec::new();
    for number in 1..=rows {
        unsent.extend(copy_data(line(number).as_bytes()));
        while unsent.len() > 200_000 {
            let rest = unsent.split_off(1 + random.below(100_000) as usize);
            client.send(&unsent);
            unsent = rest;
        }
    }
    client.send([unsent, copy_done()].concat());
    client.peer().stream().set_read_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(client.read_until_ready().commands(), ["COPY 0"]);
    growth.check(&format!("{rows} rows in"), begin);
    assert_eq!(client.scalar("select last_value from seen"), rows.to_string());
    pooled.settle();
}

/// Reads a message of this type whose body ends with `size` times `x`, slowly.
#[track_caller]
fn read_slowly(client: &mut Client, tag: u8, size: usize) {
    let header = client.peer().read_bytes(5).expect("a header");
    assert_eq!(header[0] as char, tag as char);
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize - 4;
    let mut body = client.peer().read_bytes(length - size).expect("what stands before the value");
    assert!(body.ends_with(&(size as u32).to_be_bytes()), "{}", body.escape_ascii());
    body.resize(256 << 10, 0);
    let mut left = size;
    while left > 0 {
        let part = body.len().min(left).min(65_536);
        let bytes = client.peer().read_bytes(part).expect("more of the value");
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        left -= part;
        if left % (1 << 20) < part {
            thread::sleep(MOMENT); // a pause every megabyte
        }
    }
}

/// One value of any size passes in constant memory to a slow reader, as a row and as a function's result, and in a query
/// and as a parameter; others do not notice (bug 87: pg_doorman 3.10.7, 3.6.5).
#[test]
fn one_large_value() {
    const REPEAT: u32 = 1622; // repeat(text, int4)
    let size = (megabytes(64) << 20).min((1 << 30) - 100); // PostgreSQL's values are below 1 GiB
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let mut client = pooled.connect();
    let bystander = Probe::start(&pooled.target(), "select 1", MOMENT);
    client.peer().stream().set_read_timeout(Duration::from_secs(120)).unwrap();

    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    client.send(query(&format!("select repeat('x', {size})")));
    client.expect(b'T');
    read_slowly(&mut client, b'D', size);
    assert_eq!(client.read_until_ready().tags(), "CZ");
    growth.check(&format!("a row of {} MiB", size >> 20), begin);

    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    client.send(function_call(REPEAT, &[Some(b"x"), Some(&(size as u32).to_be_bytes())]));
    read_slowly(&mut client, b'V', size);
    assert_eq!(client.read_until_ready().tags(), "Z");
    growth.check(&format!("a function's result of {} MiB", size >> 20), begin);

    let size = size.min(256 << 20); // PostgreSQL itself needs several times as much
    let value = "x".repeat(size);
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    assert_eq!(client.scalar(&format!("select length('{value}')")), size.to_string());
    growth.check(&format!("a query of {} MiB", size >> 20), begin);

    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    let bind = bind("", "", &[Some(&value)]);
    client.send([parse("", "select length($1::text)", &[]), bind, execute("", 0), sync()].concat());
    assert_eq!(client.read_until_ready().rows(), [[Some(size.to_string())]]);
    growth.check(&format!("a parameter of {} MiB", size >> 20), begin);

    let latencies = bystander.finish();
    println!("the bystander: {}", latencies.summary());
    assert!(latencies.quantile(0.9) < Duration::from_millis(250), "{}", latencies.summary());
}

/// Clients that once had a large statement and a large answer cost afterwards what others cost
/// (bug 85: pg_doorman 3.6.3, hasura#5087).
#[test]
fn large_once_then_small() {
    let clients = size("BULK_CLIENTS", 50);
    let pooled = pooled("", |builder| {
        builder.setting("default_pool_size", 4).setting("max_client_conn", clients + 10)
    });
    let mut all: Vec<Client> = (0..clients).map(|_| pooled.connect()).collect();
    all.iter_mut().for_each(|client| drop(client.execute("select 1")));
    let before = pooled.pooler.rss();
    let large = query(&format!("select '{}'", "x".repeat(4 << 20)));
    let begin = Instant::now();
    for client in &mut all {
        client.send(&large);
        client.expect(b'T');
        client.peer().skip_message().expect("the row");
        assert_eq!(client.read_until_ready().tags(), "CZ");
    }
    let mut after = u64::MAX;
    for _ in 0..3 {
        all.iter_mut().for_each(|client| drop(client.execute("select 1")));
        after = after.min(pooled.pooler.rss());
    }
    println!(
        "{clients} clients with 4 MiB each way once, in {:.1?}: {} KiB before, {} KiB after",
        begin.elapsed(),
        before >> 10,
        after >> 10,
    );
    assert!(after < before + (4 << 20), "{before} grew to {after}");
}

/// Thousands of clients log in and stay, each of them can work, and none of them costs much.
#[test]
fn thousands_of_clients() {
    const THREADS: usize = 4;
    let wanted = size("BULK_IDLE_CLIENTS", 10_000);
    let pooled = pooled("", |builder| {
        let builder = builder.setting("max_client_conn", wanted + 100).setting("listen_backlog", 4096);
        builder.setting("default_pool_size", 5).setting("log_connections", 0).setting("log_disconnections", 0)
    });
    pooled.connect().execute("select 1");
    let before = pooled.pooler.rss();
    let begin = Instant::now();
    let target = pooled.target();
    let log_in =
        |count: usize| (0..count).map_while(|_| Client::try_login(&target).ok()).collect::<Vec<Client>>();
    let mut clients: Vec<Client> = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| log_in(wanted / THREADS))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("the logins")).collect()
    });
    let took = begin.elapsed();
    let idle = pooled.pooler.rss().saturating_sub(before) / clients.len() as u64;
    println!(
        "{} clients in {took:.1?}, {:.0}/s; memory of an idle one: {idle} bytes",
        clients.len(),
        clients.len() as f64 / took.as_secs_f64(),
    );
    assert_eq!(clients.len(), wanted, "the limit of file descriptors?");
    ask_all(&mut clients);
    let used = pooled.pooler.rss().saturating_sub(before) / clients.len() as u64;
    println!("after a query each: {used} bytes");
    assert!(idle < 8 << 10 && used < 8 << 10, "{idle} and {used} bytes");
}

/// Every client gets the answer to its own question.
fn ask_all(clients: &mut [Client]) {
    for part in clients.chunks_mut(500) {
        for (number, client) in part.iter_mut().enumerate() {
            client.send(query(&format!("select {number}")));
        }
        for (number, client) in part.iter_mut().enumerate() {
            assert_eq!(client.read_until_ready().rows(), [[Some(number.to_string())]]);
        }
    }
}

/// A reader that stops makes the server wait, not the pooler store: a gigabyte asked for by clients that read nothing
/// stays where it is.
#[test]
fn readers_that_stop() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 10));
    let growth = Growth::of(&pooled.pooler);
    let begin = Instant::now();
    let ask = |target: &Target| {
        let mut client = Client::login(target);
        client.send(query("select repeat('x', 100000) from generate_series(1, 10000)"));
        client.expect(b'T');
        client
    };
    let mut clients: Vec<Client> = (0..8).map(|_| ask(&pooled.target())).collect();
    thread::sleep(Duration::from_millis(500));
    for client in &mut clients {
        let mut some = [0; 1000];
        client.peer().stream().try_clone().unwrap().read_exact(&mut some).unwrap();
    }
    growth.check("eight readers that stop", begin);
}
