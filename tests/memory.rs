//! What clients can make the pooler keep for them, and that it gives it back. Sizes are small here; the variables in
//! `size` make them larger.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::message::Fields;
use support::peer::Stream;
use support::pooler::PoolerBuilder;
use support::wait::eventually;
use support::wire::Client;

use crate::bulk::Growth;
use crate::common::{Pooled, pooled};
use crate::probe::{Probe, size};

const MIB: usize = 1 << 20;

/// With small socket buffers, so that what is not taken stays in the pooler.
fn cramped(configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Pooled {
    pooled("", |builder| configure(builder.setting("tcp_socket_buffer", 500_000)))
}

/// Sends until all is sent or the pooler takes no more for a while; the rest is sent while `go_on` runs.
fn send_beside(client: &mut Client, bytes: &[u8], go_on: impl FnOnce(&mut Client)) {
    const A_WHILE: Duration = Duration::from_secs(1);
    let mut stream = client.peer().stream().try_clone().expect("a handle");
    let Stream::Tcp(tcp) = &stream else { panic!("not TCP") };
    let tcp = tcp.try_clone().expect("a handle");
    tcp.set_write_timeout(Some(A_WHILE)).expect("a limit");
    let mut sent = 0;
    while let Ok(count @ 1..) = stream.write(&bytes[sent..]) {
        sent += count;
    }
    println!("{sent} of {} bytes were taken", bytes.len());
    tcp.set_write_timeout(None).expect("no limit");
    thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&bytes[sent..]).expect("the rest is taken"));
        go_on(client);
    });
}

/// Replies that the pooler makes itself wait for a client like those of a server: who takes none of them is not read.
#[test]
fn replies_of_the_poolers_own() {
    let pooled = cramped(|builder| builder);
    let mut client = pooled.connect();
    client.send([parse("s", "select 1", &[]), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "1Z");
    let pairs = size("MEMORY_PAIRS", 600_000);
    let pair = [parse("a", "select 1", &[]), close_statement("a")].concat();
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    send_beside(&mut client, &[pair.repeat(pairs), sync()].concat(), |client| {
        growth.check_below(2 * MIB, "replies that nobody takes", begin);
        for _ in 0..pairs {
            client.expect(b'1');
            client.expect(b'3');
        }
        client.expect(b'Z');
    });
    pooled.settle();
}

/// Replies that the pooler makes itself may be owed behind one that the server keeps until its batch ends: more of them
/// than are remembered do not make both wait for ever, wherever a message is cut.
#[test]
fn replies_of_the_poolers_own_behind_a_servers() {
    const MANY: usize = 10_000;
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.send([parse("s", "select 1", &[]), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "1Z");
    let known = (0..MANY).flat_map(|number| parse(&format!("a{number}"), "select 1", &[]));
    let batch: Vec<u8> = parse("new", "select 2", &[]).into_iter().chain(known).collect();
    let long = parse("long", &large_text(3, 100_000), &[]);
    let batch = [&batch[..], &long, &bind("", "s", &[]), &execute("", 0), &sync()].concat();
    send_beside(&mut client, &batch, |client| {
        assert_eq!(client.read_until_ready().tags(), format!("1{}12DCZ", "1".repeat(MANY)));
    });
    pooled.settle();
}

/// A text with a comment of this many bytes, unlike that of any other number.
fn large_text(number: usize, bytes: usize) -> String {
    format!("select {number} /* {} */", "x".repeat(bytes))
}

/// Short messages may need long statements on the server: what goes there in front of them is not gathered at once, and
/// all are answered.
#[test]
fn short_messages_that_need_long_ones() {
    const STATEMENTS: usize = 100;
    let pooled = pooled("", |builder| builder.setting("max_prepared_statements", 1));
    let mut client = pooled.connect();
    let name = |number: usize| format!("s{number}");
    for number in 0..STATEMENTS {
        client.send([parse(&name(number), &large_text(number, 256 << 10), &[]), sync()].concat());
        assert_eq!(client.read_until_ready().tags(), "1Z");
    }
    let run = |number| [bind("", &name(number), &[]), execute("", 0), sync()].concat();
    let batches: Vec<u8> = (0..STATEMENTS).flat_map(run).collect();
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    send_beside(&mut client, &batches, |client| {
        for number in 0..STATEMENTS {
            let reply = client.read_until_ready();
            assert_eq!(reply.rows(), [[Some(number.to_string())]], "{reply:?}");
        }
    });
    growth.check_below(8 * MIB, "short messages that need long ones", begin);
    pooled.settle();
}

/// What many clients have once sent, or prepared, is given back: the unnamed statement with the next one, a named one
/// with its `Close`, all with the client (bug 85).
#[test]
fn large_statements_are_given_back() {
    let clients = size("MEMORY_CLIENTS", 100);
    let pooled = pooled("", |builder| {
        builder.setting("default_pool_size", 2).setting("max_client_conn", clients + 10)
    });
    let mut all: Vec<Client> = (0..clients).map(|_| pooled.connect()).collect();
    let mut everyone = |what: &dyn Fn(usize) -> Vec<u8>| {
        for (number, client) in all.iter_mut().enumerate() {
            client.send([what(number), sync()].concat());
            assert!(client.read_until_ready().error().is_none());
        }
    };
    let small = |_| [parse("", "select 1", &[]), bind("", "", &[]), execute("", 0)].concat();
    let named = |name: &'static str| move |number| parse(name, &large_text(number, 400_000), &[]);
    everyone(&small);
    let before = pooled.pooler.rss();
    everyone(&named(""));
    let unnamed = pooled.pooler.rss();
    everyone(&small);
    assert_given_back(&pooled, before, unnamed, "unnamed statements");
    everyone(&named("s"));
    let prepared = pooled.pooler.rss();
    everyone(&|_| close_statement("s"));
    assert_given_back(&pooled, before, prepared, "named statements");
    everyone(&named("t"));
    let prepared = pooled.pooler.rss();
    drop(all);
    assert_given_back(&pooled, before, prepared, "statements of clients that have left");
}

#[track_caller]
fn assert_given_back(pooled: &Pooled, before: u64, peak: u64, what: &str) {
    println!("{what}: {} KiB before, {} KiB at the peak", before >> 10, peak >> 10);
    assert!(peak > before + 20 * MIB as u64, "nothing was kept, so nothing is tested");
    eventually("memory is given back", Duration::from_secs(20), || {
        pooled.pooler.rss() < before + 4 * MIB as u64
    });
    println!("{what}: {} KiB afterwards", pooled.pooler.rss() >> 10);
}

#[track_caller]
fn assert_too_much(error: &Fields, text: &str, limit: &str) {
    assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "53200", text));
    assert!(error.get(b'H').contains(limit), "{error:?}");
}

/// Who listens and never takes its notifications is disconnected when too many wait, and nobody else is.
#[test]
fn notifications_that_are_never_taken() {
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", 3).setting("client_buffer_limit", MIB));
    let [mut deaf, mut listening, mut notifying] = [(); 3].map(|()| pooled.connect());
    deaf.execute("listen c");
    listening.execute("listen c");
    let mut console = pooled.pooler.console();
    eventually("their channels are handed over", Duration::from_secs(10), || {
        let servers = console.execute("show servers").rows();
        servers.iter().flatten().all(|cell| cell.as_deref() != Some("active"))
    });
    deaf.execute("begin"); // nobody is told inside a transaction
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());
    let payload = "x".repeat(7_000);
    for number in 0..400 {
        notifying.execute(&format!("notify c, '{number} {payload}'"));
        listening.expect(b'A');
    }
    let error = deaf.expect_closed().error().expect("a reason");
    assert_too_much(&error, "too many notifications are waiting for this client", "client_buffer_limit");
    growth.check_below(4 * MIB, "notifications that are never taken", begin);
    assert_eq!(listening.scalar("select 1"), "1");
}

/// Reads up to `ReadyForQuery`, or an error: that.
fn error_or_ready(client: &mut Client) -> Option<Fields> {
    loop {
        match client.read() {
            message if message.tag == b'Z' => return None,
            message if message.tag == b'E' => return message.error(),
            _ => {}
        }
    }
}

/// Clients that together make the pooler keep too much: those for whom most is kept are told and disconnected, and
/// others go on.
#[test]
fn too_much_for_all() {
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", 2).setting("buffer_limit", 8 * MIB));
    let mut modest = pooled.connect();
    let small = large_text(0, 100_000);
    modest.send([parse("modest", &small, &[]), sync()].concat());
    assert_eq!(modest.read_until_ready().tags(), "1Z");
    let (growth, begin) = (Growth::of(&pooled.pooler), Instant::now());

    // Statements of one, and long messages of many, of which the end never comes.
    let mut hoarder = pooled.connect();
    let refusal = (1..1_000).find_map(|number| {
        hoarder.send([parse(&format!("s{number}"), &large_text(number, 400_000), &[]), sync()].concat());
        error_or_ready(&mut hoarder)
    });
    let text = "the pooler keeps too much for its clients, and most for this one";
    assert_too_much(&refusal.expect("an end"), text, "buffer_limit");
    let mut dawdlers: Vec<Client> = (0..60).map(|_| pooled.connect()).collect();
    let begun = query(&format!("select '{}'", "x".repeat(400_000)));
    dawdlers.iter_mut().for_each(|client| client.send(&begun[..300_000]));
    let mut told = 0;
    for client in &mut dawdlers {
        let _ = client.peer().send(&begun[300_000..]);
        if let Some(error) = error_or_ready(client) {
            assert_too_much(&error, text, "buffer_limit");
            told += 1;
        }
    }
    println!("{told} of {} were ended", dawdlers.len());
    assert!((20..60).contains(&told), "{told}");
    growth.check_below(24 * MIB, "too much for all", begin);
    modest.send([bind("", "modest", &[]), execute("", 0), sync()].concat());
    assert_eq!(modest.read_until_ready().rows(), [[Some("0".to_owned())]]);
}

/// The console's tables of thousands of clients, ten times a second: they are made beside the threads that serve clients,
/// and whoever asks PostgreSQL does not notice (bug 71: pg_doorman 3.10.5).
#[test]
fn a_console_that_asks_all_the_time() {
    const TABLES: [&str; 5] = ["clients", "servers", "pools", "stats", "lists"];
    let clients = size("MEMORY_CONSOLE_CLIENTS", 2_000);
    let pooled = pooled("", |builder| {
        let builder = builder.setting("max_client_conn", clients + 100).setting("listen_backlog", 4096);
        builder.setting("default_pool_size", 5).setting("log_connections", 0).setting("workers", 1)
    });
    let target = pooled.target();
    let _crowd: Vec<Client> = (0..clients).map(|_| Client::login(&target)).collect();
    let mut console = pooled.pooler.console();
    let mut ask = || {
        for _ in 0..20 {
            let next = Instant::now() + Duration::from_millis(100);
            for table in TABLES {
                assert!(!console.execute(&format!("show {table}")).rows().is_empty());
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    };
    let spent = || [worker_ticks(pooled.pooler.pid()), pooled.pooler.cpu_time().as_millis() as u64 / 10];
    let before = spent();
    ask();
    let after = spent();
    let [worker, all] = [0, 1].map(|place| after[place] - before[place]);
    println!("{all} ticks of processor time for a hundred tables, {worker} of them by the worker");
    assert!(worker * 2 < all, "{worker} of {all}");

    let bystander = Probe::start(&target, "select 1", Duration::from_millis(1));
    ask();
    let latencies = bystander.finish();
    println!("the bystander: {}", latencies.summary());
    assert!(latencies.quantile(0.9) < Duration::from_millis(50), "{}", latencies.summary());
}

/// Processor time of the only worker, in ticks of 10 ms.
fn worker_ticks(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut workers = tasks.filter_map(Result::ok).map(|task| task.path());
    let worker = workers.find(|task| read(task.join("comm")).trim() == "worker-0").expect("a worker");
    let stat = read(worker.join("stat"));
    let fields = stat.split_whitespace().skip(13).take(2);
    fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
