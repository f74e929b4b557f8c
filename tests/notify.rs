//! `LISTEN`, `NOTIFY` and `UNLISTEN` in transaction mode: clients that listen keep no server, and are told what
//! PostgreSQL would tell them, when it would. (Rows 10 and 36 of the bugs that other poolers had.)

use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::postgres::Postgres;
use support::tap::{Opening, Rule, Tap};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{CONFIGURATIONS, Configure, pooled, pooler, ways};

fn check(setup: &str, script: &Script) {
    ways(setup, CONFIGURATIONS).oracle.check(script);
}

const CHANNELS: &str = "select * from pg_listening_channels() order by 1";

/// Another client notifies; the first is told at once, and of nothing that was not for it.
fn notified(script: Script, channels: &[&str]) -> Script {
    channels.iter().fold(script, |script, channel| {
        script.on(1).query(&format!("notify {channel}, 'to {channel}'")).on(0)
    })
}

#[test]
fn who_listens_is_told() {
    let script = Script::new().query("listen a").query("listen \"B b\"").query(CHANNELS);
    let script = notified(script, &["other", "a"]).until(b'A');
    let script = notified(script, &["\"B b\"", "a", "\"B b\""]).until(b'A').until(b'A').until(b'A');
    let script = notified(script.query("unlisten a").query(CHANNELS), &["a", "\"B b\""]).until(b'A');
    let script = notified(script.query("listen a").query("unlisten *").query(CHANNELS), &["a", "\"B b\""]);
    check("", &script.query("listen last").on(1).query("notify last").on(0).until(b'A'));
}

/// Channels are joined and left at the end of a transaction that commits, and only then.
#[test]
fn channels_are_transactional() {
    let steps = [
        "begin; listen a; commit",
        "begin; listen b; unlisten a; rollback",
        "begin",
        "listen c",
        "savepoint s",
        "unlisten c",
        "listen d",
        "rollback to s",
        "commit",
        CHANNELS,
        "begin; unlisten *; rollback",
        CHANNELS,
        "begin; savepoint s; unlisten *; rollback to s; listen e; commit",
        CHANNELS,
        "begin; unlisten *; listen f; commit",
        CHANNELS,
        "begin; listen g; select 1/0",
        "rollback",
        "begin; savepoint s; listen x; rollback to s; unlisten *; commit",
        CHANNELS,
        "begin",
        "savepoint s",
        "unlisten *",
        "rollback to s",
        "listen f",
        "commit",
        CHANNELS,
        "begin",
        "savepoint s",
        "listen x",
        "rollback to s",
        "unlisten *",
        "listen y",
        "commit",
        CHANNELS,
        "do $$ begin execute 'listen h'; end $$",
        CHANNELS,
        "discard all",
        CHANNELS,
        "listen i",
    ];
    let mut script = Script::new();
    for step in steps {
        script = script.query(step);
        if step == CHANNELS {
            // With a single server the other is answered when the channels have been handed over.
            script = script.on(1).query("select 1").on(0);
        }
    }
    let script = notified(script, &["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    check("", &script.until(b'A').query(CHANNELS));
}

/// What a client notifies itself comes in front of the end of its transaction. Nothing is told inside of one.
#[test]
fn a_client_that_notifies_itself() {
    let mut script = Script::new().query("listen a").query("notify a").query("select pg_notify('a', 'x'), 1");
    for step in ["begin", "notify a, 'in a transaction'", "select 1", "commit", "begin; notify a; rollback"] {
        script = script.query(step);
    }
    let script = script.query("begin; listen b; notify b, '1'; notify a, '2'; commit");
    let batch = [parse("", "notify b, 'extended'", &[]), bind("", "", &[]), execute("", 0), sync()];
    check("", &script.send(batch.clone()).ready(1).send(batch).ready(1));
}

/// `LISTEN` in the extended protocol, in one batch with other statements.
#[test]
fn channels_in_batches() {
    let run = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    let script = Script::new().send([run("listen a"), run("select 1"), sync()]).ready(1);
    let script = script.send([run("select 1"), run("listen b"), run(CHANNELS), sync()]).ready(1);
    let script = notified(script, &["a", "b"]).until(b'A').until(b'A');
    let script = script.send([parse("u", "unlisten a", &[]), sync()]).ready(1);
    let script = script.send([bind("", "u", &[]), execute("", 0), run(CHANNELS), sync()]).ready(1);
    let script = script.send([run("listen c"), run("select 1/0"), sync()]).ready(1).query(CHANNELS);
    let script = script.send([query("listen d"), query("select 2"), run("listen e"), sync()]).ready(3);
    let script = ["d", "b", "e"].iter().fold(notified(script, &["a", "c"]), |script, channel| {
        notified(script, &[channel]).until(b'A') // one at a time: see the module `notify` about their order
    });
    check("", &script.query(CHANNELS));
}

/// What is sent behind a `NOTIFY` is answered as well, however many of them are kept back for their notifications.
#[test]
fn what_comes_behind_a_notify_is_answered() {
    let run = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    let mut script = Script::new().query("listen a");
    for _ in 0..20 {
        let batch = [query("notify a"), run("select 1"), query("select 2"), run("select 3")];
        script = script.send(batch).ready(4);
    }
    check("", &script);
}

/// `DISCARD ALL` in the extended protocol, which can't share its transaction.
#[test]
fn discard_all_of_a_client_that_listens() {
    let run = |name: &str| {
        [close_statement(name), parse(name, "discard all", &[]), bind("", name, &[]), execute("", 0), sync()]
    };
    let mut script = Script::new();
    for name in ["", "named"] {
        script = script.query("listen a").query("select 1").send(run(name)).ready(1);
        script = notified(script.query(CHANNELS), &["a"]);
    }
    check("", &script);
}

/// Channels are there again when a transaction with `LISTEN` has failed, also for a client that keeps its server and asks
/// at once.
#[test]
fn channels_after_a_failed_listen() {
    let mut script = Script::new().query("create temp table keeps (id int)").query("listen a");
    for _ in 0..20 {
        script = script.query("begin").query("listen b").query("select 1/0").query("commit").query(CHANNELS);
        // What is parsed under a name that is taken has to be taken off the server again.
        let taken = [parse("s", "select 1", &[]), sync(), parse("s", "select 2", &[]), sync()];
        script = script.query("begin").query("listen b").send(taken).ready(2).query("commit").query(CHANNELS);
        script = script.send([close_statement("s"), sync()]).ready(1);
    }
    let room: Configure = |builder| builder.setting("default_pool_size", 2);
    ways("", [room]).oracle.check(&notified(script, &["b", "a"]).until(b'A'));
}

/// What is said of channels behind an error is skipped like anything else, and puts nothing out of step.
#[test]
fn channels_in_a_batch_that_has_failed() {
    let listens = [parse("l", "listen d", &[]), bind("", "l", &[]), execute("", 0), sync()];
    let script = Script::new().query("listen c").on(1).query("select 1").on(0);
    let script = script.send([parse("", "selec", &[]), flush()]).until(b'E').send(listens).ready(1);
    let script =
        script.send([parse("t", "selec", &[]), sync(), parse("t", "select 1", &[]), sync()]).ready(2);
    let script = script.send([bind("", "t", &[]), execute("", 0), sync()]).ready(1);
    check("", &notified(script, &["d", "c"]).until(b'A'));
}

/// What was handed over counts from its marker on, also for a client that speaks of its channels before that has come to
/// the connection that listens, which is far away.
#[test]
fn channels_are_handed_over_once() {
    let database = Postgres::shared().database("far");
    let far = |opening: Opening| match opening.number {
        1 => Rule { delay_to_client: Duration::from_millis(30), ..Rule::default() },
        _ => Rule::default(),
    };
    let tap = Tap::with_rules(database.postgres().address(), far);
    let connection = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let pooler = pooler().setting("default_pool_size", 1).database_line("far", &connection).start();
    let mut client = pooler.connect("far");
    for _ in 0..10 {
        client.execute("listen a");
        client.execute("select pg_sleep(0.1)"); // the hub listens, and its marker is on its way
        assert_eq!(client.execute(CHANNELS).rows().len(), 1);
        client.send(query("listen a; notify a"));
        client.read_until(b'A');
        client.read_until_ready();
        client.execute("unlisten a");
    }
}

/// Any number of clients, one more connection; a client gets what was sent after its `LISTEN`, all of it, in order.
#[test]
fn one_connection_listens_for_all() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 20;
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let mut sender = pooled.connect();
    let mut listeners = Vec::new();
    for client in 0..CLIENTS {
        let mut listener = pooled.connect();
        listener.query("listen everyone");
        listener.query(&format!("listen only_{client}"));
        listeners.push(listener);
        sender.query(&format!("notify everyone, '{client}'"));
    }
    for round in 0..ROUNDS {
        sender.query(&format!("begin; notify everyone, 'round {round}'; notify only_{round}, 'you'; commit"));
    }
    for (client, listener) in listeners.iter_mut().enumerate() {
        let early = (client..CLIENTS).map(|other| format!("everyone {other}"));
        let late = (0..ROUNDS).flat_map(|round| {
            let own = (round == client).then(|| format!("only_{client} you"));
            [Some(format!("everyone round {round}")), own].into_iter().flatten()
        });
        let expected: Vec<_> = early.chain(late).collect();
        let got: Vec<_> = expected.iter().map(|_| notification(listener)).collect();
        assert_eq!(got, expected, "client {client}");
    }
    let backends = pooled.database.backends(support::postgres::USER).len();
    assert!(backends <= 3, "{backends} connections for a pool of 2");
}

/// Reads one notification: its channel and payload.
fn notification(client: &mut Client) -> String {
    let body = client.expect(b'A').body;
    let mut texts = body[4..].split(|&b| b == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    format!("{} {}", texts.next().unwrap(), texts.next().unwrap())
}

/// Programs ignore what they have sent themselves, by the process id that they were given.
#[test]
fn a_clients_own_notifications_have_its_process_id() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let mut client = pooled.connect();
    let own = client.key.as_ref().unwrap().pid;
    client.query("listen a");
    client.query("select 1");
    let mine = client.query("notify a");
    let mine = mine.0.iter().find(|message| message.tag == b'A').unwrap();
    assert_eq!(mine.body[..4], own.to_be_bytes());
    pooled.connect().query("notify a");
    assert_ne!(client.expect(b'A').body[..4], own.to_be_bytes());
}

/// A listener is told when something may have been lost, and listens on.
#[test]
fn a_lost_connection_is_said_and_replaced() {
    let pooled = pooled("", |builder| builder);
    let mut listener = pooled.connect();
    listener.query("listen a");
    pooled.connect().query("notify a");
    assert_eq!(notification(&mut listener), "a "); // it is the other connection that told
    let backends = pooled.database.backends(support::postgres::USER);
    let hub = backends.iter().find(|backend| backend.query.starts_with("LISTEN")).unwrap();
    pooled.database.connect().execute(&format!("select pg_terminate_backend({})", hub.pid));
    let notice = listener.expect(b'N').notice().unwrap();
    assert_eq!((notice.code(), notice.message()), ("01000", "notifications may have been lost"));
    pooled.connect().query("notify a, 'again'");
    assert_eq!(notification(&mut listener), "a again");
}

/// `PAUSE` closes the connection that listens as well.
#[test]
fn a_pause_includes_the_listening_connection() {
    let pooled = pooled("", |builder| builder);
    let mut listener = pooled.connect();
    listener.query("listen a");
    let mut console = pooled.pooler.console();
    console.query("pause");
    eventually("no server connection", Duration::from_secs(5), || {
        pooled.database.backends(support::postgres::USER).is_empty()
    });
    console.query("resume");
    assert_eq!(listener.expect(b'N').notice().unwrap().code(), "01000");
    pooled.connect().query("notify a, 'resumed'");
    assert_eq!(notification(&mut listener), "a resumed");
}
