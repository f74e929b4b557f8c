//! Many requests under way at once, and what belongs to which: each test is a bug that a pooler has shipped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use support::backend;
use support::frontend::*;
use support::oracle::Script;
use support::scripted::ScriptedServer;
use support::wait::{Gate, eventually};

use crate::common::{pair, pooled, pooler};

const TABLE: &str = "create table t (id int primary key, v text)";

/// Parse, Bind, Describe, Execute of an unnamed statement, without Sync.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
}

/// Parse and Close by turns in one batch, so that replies made by the pooler and replies of the server mix: a pooler's
/// queue of replies fell out of step for the rest of the server connection's life (bug 2: pgbouncer#1555, #1532).
#[test]
fn parse_and_close_by_turns() {
    let pair = pair(TABLE);
    let turn = |number: usize| {
        let sql = format!("select {number}");
        [parse("s", &sql, &[]), bind("", "s", &[]), execute("", 0), close_statement("s")].concat()
    };
    let script = Script::new()
        .send((0..50).map(turn).chain([sync()]))
        .ready(1)
        .send([
            parse("s", "select 1", &[]),
            close_statement("s"),
            close_statement("s"),
            parse("s", "select 2", &[]),
        ])
        .send([describe_statement("s"), close_statement("s"), sync()])
        .ready(1)
        .send([turn(1), parse("s", "selec", &[]), close_statement("s"), turn(2), sync(), turn(3), sync()])
        .ready(2);
    pair.check(&script);
}

/// A pipeline of many Syncs; poolers took the first ReadyForQuery for the end of everything (bug 5: supavisor#1061,
/// #1079, #1176, postgres.js#970, pgbouncer#759).
#[test]
fn many_syncs_in_one_write() {
    let pair = pair(TABLE);
    for count in [3, 24, 200] {
        let requests = (0..count).map(|number| [run(&format!("select {number}")), sync()].concat());
        pair.check(&Script::new().send(requests).ready(count));
    }
    pair.check(&Script::new().send(vec![sync(); 200]).ready(200));
    let mixed = (0..100).flat_map(|number| match number % 5 {
        0 => [run("select 1/0"), sync()],
        1 => [query(&format!("select {number}")), sync()],
        2 => [run(&format!("insert into t values ({number})")), sync()],
        3 => [query("select nothing"), query("")],
        _ => [run("select 'last'"), sync()],
    });
    let ready = (0..100).map(|number| if matches!(number % 5, 1 | 3) { 2 } else { 1 }).sum();
    pair.check(&Script::new().send(mixed).ready(ready).rows("select count(*) from t"));
}

/// More replies than sockets hold, while the client still writes.
#[test]
fn large_replies_in_a_pipeline() {
    let pair = pair("");
    let request = |number: usize| [run(&format!("select {number}, repeat('x', 20000)")), sync()].concat();
    pair.check(&Script::new().send((0..200).map(request)).ready(200));
}

/// The last Sync of one pipeline and the first of the next in flight together, with another client waiting.
#[test]
fn two_clients_with_pipelines() {
    let pair = pair(TABLE);
    let burst =
        |client: usize| (0..20).map(move |n| [run(&format!("select {client}, {n}")), sync()].concat());
    let script = Script::new()
        .send(burst(0))
        .on(1)
        .send(burst(1))
        .on(2)
        .send(burst(2))
        .ready(20)
        .on(0)
        .ready(20)
        .on(1)
        .ready(20);
    pair.check(&script);
}

/// A cursor read with Flush: the portal lives until Sync, and each Flush is answered by what there is, without a
/// ReadyForQuery. Poolers released the server at Flush, or hung (bug 9: pgdog#1330, #763, pgcat#396, #672, #761, #953).
#[test]
fn a_cursor_read_with_flush() {
    let pair = pair("");
    let script = Script::new()
        .send([parse("", "select * from generate_series(1, 5)", &[]), bind("", "", &[])])
        .send([describe_portal(""), flush()])
        .until(b'T')
        .send([execute("", 2), flush()])
        .until(b's')
        .on(1)
        .send([query("select 'somebody else'")])
        .on(0)
        .send([execute("", 2), flush()])
        .until(b's')
        .send([execute("", 2), flush()])
        .until(b'C')
        .send([sync()])
        .ready(1)
        .on(1)
        .ready(1);
    pair.check(&script);
}

/// Describe first, bind when the types are known (bug 9).
#[test]
fn describe_then_bind_with_flush() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([parse("", "insert into t values ($1, $2) returning id", &[]), describe_statement(""), flush()])
        .until(b'T')
        .send([bind("", "", &[Some("1"), None]), execute("", 0), flush()])
        .until(b'C')
        .send([flush(), flush(), sync()])
        .ready(1)
        .send([parse("", "selec", &[]), flush()])
        .until(b'E')
        .send([flush(), bind("", "", &[]), flush(), sync()])
        .ready(1)
        .send([flush()])
        .query("select 'after a lone Flush'")
        .rows("select * from t");
    pair.check(&script);
}

/// What a pooler likes to answer by itself (LISTEN, SET, its own check query) must still wait its turn
/// (bug 10: pgdog#1512, pgpool2#176).
#[test]
fn no_reply_out_of_turn() {
    let pair = pair("");
    for sql in ["listen channel", "set application_name = 'x'", "select 1", ";", "", "discard all", "begin"] {
        let script = Script::new()
            .send([run(sql), run("select 'second'"), sync()])
            .ready(1)
            .send([run("select 'first'"), run(sql), sync(), run("select 'third'"), sync()])
            .ready(2)
            .query("rollback; unlisten *")
            .send([query(sql), query("select 'second'"), query("rollback")])
            .ready(3)
            .query("unlisten *; reset all");
        pair.check(&script);
    }
}

/// Between an error and Sync PostgreSQL ignores everything, a simple Query too: no ReadyForQuery is owed for it
/// (bug 11: yugabyte-db#33915).
#[test]
fn what_is_ignored_until_sync() {
    let pair = pair(TABLE);
    let bad = || [parse("", "selec", &[]), bind("", "", &[]), execute("", 0)].concat();
    let script = Script::new()
        .send([bad(), query("insert into t values (1)"), sync()])
        .ready(1)
        .send([bad(), query("select 1"), query("select 2"), sync(), query("select 3")])
        .ready(2)
        .send([
            bad(),
            function_call(0, &[]),
            close_statement("x"),
            flush(),
            copy_done(),
            run("select 1"),
            sync(),
        ])
        .ready(1)
        .send([bad(), sync(), sync(), bad(), query("ignored"), bad(), sync(), query("select 4")])
        .ready(4)
        .query("begin")
        .send([bad(), query("commit"), sync(), query("rollback")])
        .ready(2)
        .rows("select count(*) from t");
    pair.check(&script);
}

#[test]
fn terminate_in_the_ignored_part() {
    let pair = pair("");
    pair.check(&Script::new().send([parse("", "selec", &[]), terminate(), query("select 1")]).closed());
}

/// Terminate in the same packet as the last request: the reply is owed all the same, otherwise a write is committed and
/// its client told nothing (bug 12: yugabyte-db#33913).
#[test]
fn terminate_behind_a_request() {
    let pair = pair(TABLE);
    pair.check(&Script::new().send([query("insert into t values (1)"), terminate()]).closed());
    pair.check(&Script::new().send([run("insert into t values (2)"), sync(), terminate()]).closed());
    pair.check(&Script::new().send([query("select repeat('x', 1000000)"), terminate()]).closed());
    pair.check(&Script::new().send([query("select pg_sleep(0.1)"), query("select 2"), terminate()]).closed());
    pair.check(&Script::new().send([query("begin; insert into t values (3)"), terminate()]).closed());
    pair.check(&Script::new().send([run("insert into t values (4)"), terminate()]).closed());
    pair.check(&Script::new().send([terminate()]).closed());
    pair.check(&Script::new().rows("select id from t order by id"));
}

/// The server process ends in the middle of a pipeline: the client gets PostgreSQL's error, once, and the end of the
/// connection; two errors made libpq's pipeline mode loop (bug 13: odyssey#514, pgdog#841).
#[test]
fn the_server_ends_in_a_pipeline() {
    let pair = pair("");
    let script = Script::new()
        .send([
            run("select 1"),
            sync(),
            run("select 2, pg_sleep(60)"),
            run("select 3"),
            sync(),
            run("select 4"),
            sync(),
        ])
        .ready(1)
        .act("terminate the server process", |stage| {
            let sleeping = "select pg_terminate_backend(pid) from pg_stat_activity \
                            where datname = current_database() and query like '%pg_sleep(60)%' \
                            and state = 'active' and pid <> pg_backend_pid()";
            eventually("the pipeline runs", Duration::from_secs(10), || {
                !stage.database.sql(sleeping).rows().is_empty()
            });
        })
        .closed();
    pair.check(&script);
}

/// The same in a transaction that waits for its client.
#[test]
fn the_server_ends_in_a_transaction() {
    let pair = pair("");
    let script = Script::new()
        .query("begin")
        .act("terminate the server process", |stage| {
            let waiting = "select pg_terminate_backend(pid) from pg_stat_activity \
                           where datname = current_database() and state = 'idle in transaction'";
            eventually("the transaction waits", Duration::from_secs(10), || {
                !stage.database.sql(waiting).rows().is_empty()
            });
        })
        .closed();
    pair.check(&script);
}

/// The server's connection breaks without a word, at every byte of its reply: the client gets the whole messages and
/// one error, or what there was of a message and then nothing; never a made-up reply, never an error in the middle of a
/// message, never the rest of the pipeline on another server (bugs 13 and 21).
#[test]
fn the_server_vanishes_in_a_pipeline() {
    let messages = [
        backend::parse_complete(),
        backend::bind_complete(),
        backend::row(&[Some("some text")]),
        backend::command_complete("SELECT 1"),
        backend::ready(b'I'),
        backend::parse_complete(),
        backend::bind_complete(),
        backend::row(&[None]),
    ];
    let boundaries: Vec<usize> = (0..=messages.len()).map(|count| messages[..count].concat().len()).collect();
    let whole = messages.concat();
    let cut = Arc::new(AtomicUsize::new(0));
    let server = ScriptedServer::start({
        let (whole, cut) = (whole.clone(), cut.clone());
        move |session| {
            session.login()?;
            while session.read()?.tag != b'P' {
                session.send(&backend::one_value("another request"))?;
            }
            session.read_until(b'S')?;
            session.read_until(b'S')?;
            session.send(&whole[..cut.load(Relaxed)])
        }
    });
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    for sent in 0..=whole.len() {
        cut.store(sent, Relaxed);
        let mut client = pooler.connect("app");
        let request = [parse("", "select", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
        client.send([request.clone(), request].concat());
        let received = client.peer().read_to_end().expect("the end of the connection");
        let complete = *boundaries.iter().rfind(|boundary| **boundary <= sent).expect("0 is one");
        assert_ends_between_messages(&received, &whole[..sent], complete);
        assert_eq!(pooler.connect("app").scalar("select 1"), "another request");
    }
}

/// A pooler that ends a connection for its own reasons says so only where a message may begin.
#[test]
fn no_error_in_the_middle_of_a_message() {
    let (row, large) = (backend::row(&[Some("some text")]), backend::row(&[Some(&"x".repeat(300_000))]));
    for (message, sent) in [(&row, 5), (&row, 10), (&large, 7), (&large, 100_000)] {
        let part = message[..sent].to_vec();
        let sent = Gate::new();
        let server = ScriptedServer::start({
            let (part, sent) = (part.clone(), sent.clone());
            move |session| {
                session.login()?;
                session.expect(b'Q')?;
                session.send(&part)?;
                session.peer().stream().wait_until_read(Duration::from_secs(5));
                sent.open();
                session.serve(|_| Vec::new())
            }
        });
        let pooler = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port())).start();
        let mut client = pooler.connect("app");
        client.send(query("select"));
        sent.pass();
        pooler.console().execute("kill app");
        let received = client.peer().read_to_end().expect("the end of the connection");
        assert_ends_between_messages(&received, &part, 0);
    }
}

/// `received` is what a client got of a server's `sent`, whose first `complete` bytes are whole messages: these and one
/// error, or all of it when the rest is a part of a message.
#[track_caller]
fn assert_ends_between_messages(received: &[u8], sent: &[u8], complete: usize) {
    let shown = received[..received.len().min(200)].escape_ascii();
    assert!(received.starts_with(&sent[..complete]), "of {} bytes sent: {shown}", sent.len());
    if received.len() > complete && sent.starts_with(received) {
        return;
    }
    let error = &received[complete..];
    assert!(error.len() > 5 && error[0] == b'E', "of {} bytes sent, no error: {shown}", sent.len());
    let length = u32::from_be_bytes([error[1], error[2], error[3], error[4]]) as usize;
    assert_eq!(error.len(), 1 + length, "of {} bytes sent, more than one error: {shown}", sent.len());
}

/// Statements up to one Sync are one transaction, also when a pooler adds messages of its own between them
/// (bug 20: proxysql#5119).
#[test]
fn a_batch_is_one_transaction() {
    let pair = pair(TABLE);
    let insert = |id: u32| run(&format!("insert into t values ({id})"));
    let script = Script::new()
        .send([insert(1), insert(1), sync()])
        .ready(1)
        .rows("select * from t")
        .send([insert(2), insert(3), sync(), insert(4), insert(4), sync(), insert(5), sync()])
        .ready(3)
        .rows("select id from t order by id")
        .send([
            query("insert into t values (6); insert into t values (6)"),
            query("insert into t values (7)"),
        ])
        .ready(2)
        .rows("select id from t order by id");
    pair.check(&script);
}

/// A server lost inside a transaction: the next statement must fail, it may not run by itself on another server and be
/// committed there (bug 21: proxysql#5654, #5658).
#[test]
fn a_lost_transaction_is_not_continued() {
    let pair = pair(TABLE);
    let script = Script::new()
        .query("begin")
        .query("insert into t values (1)")
        .act("terminate the server process", |stage| {
            let waiting = "select pg_terminate_backend(pid) from pg_stat_activity \
                           where datname = current_database() and state = 'idle in transaction'";
            stage.database.sql(waiting);
            eventually("it is gone", Duration::from_secs(10), || stage.database.backends("app").is_empty());
        })
        .query("insert into t values (2)")
        .query("commit")
        .rows("select * from t");
    pair.check(&script);
}

/// Bytes of a request that could not get a server were kept and sent later: the client's next request got the answer to
/// the one before (bug 1: pg_doorman#38).
#[test]
fn a_request_that_got_no_server_is_forgotten() {
    let pooled = pooled("", |builder| builder.setting("query_wait_timeout", 1));
    let mut holder = pooled.connect();
    holder.execute("begin");
    let mut waiting = pooled.connect();
    waiting.send([run("select 'old'"), sync()].concat());
    let reply = waiting.expect_closed();
    assert_eq!(reply.tags(), "E", "{reply:?}");
    holder.execute("commit");
    let mut next = pooled.connect();
    assert_eq!(next.query("select 'new'").rows(), [[Some("new".to_string())]]);
    pooled.settle();
}

/// A server whose client died before the reply was read: the next client got the rest of it (bug 4: pgagroal#989,
/// pgdog#137).
#[test]
fn the_rest_of_a_dead_clients_reply() {
    let pooled = pooled("", |builder| builder);
    for sql in ["select n, repeat('x', 1000) from generate_series(1, 1000000) n", "select pg_sleep(60)"] {
        let mut client = pooled.connect();
        client.send([query(sql), run("select 'more'"), sync()].concat());
        if sql.contains("series") {
            client.read_until(b'D');
        }
        client.abort();
        assert_eq!(pooled.connect().scalar("select 42"), "42");
    }
    pooled.settle();
}

/// A client cut off behind each message of a batch: its server may not be left in the middle of it, holding locks
/// (bug 8: pgdog#803).
#[test]
fn half_a_batch() {
    let pooled = pooled(TABLE, |builder| builder);
    let messages =
        [parse("", "insert into t values (1)", &[]), bind("", "", &[]), describe_portal(""), execute("", 0)];
    for count in 1..=messages.len() {
        for flushed in [false, true] {
            let mut client = pooled.connect();
            client.send(messages[..count].concat());
            if flushed {
                client.send(flush());
                client.read();
            }
            client.abort();
            pooled.settle();
            let locks = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation where relname = 't' \
                         and l.database = (select oid from pg_database where datname = current_database())";
            eventually("no lock on the table", Duration::from_secs(5), || {
                pooled.database.scalar(locks) == "0"
            });
            assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
        }
    }
}

/// What a server says while no client has it is nobody's reply (bug 14: supavisor#105, pgbouncer#52, #822).
#[test]
fn what_an_idle_server_says_reaches_nobody() {
    let unsolicited = [
        backend::notice("WARNING", "01000", "unasked"),
        backend::notification(7, "channel", "unasked"),
        backend::parameter_status("application_name", "unasked"),
        backend::error("FATAL", "57P01", "terminating connection due to administrator command"),
        backend::command_complete("SELECT 1"),
        backend::ready(b'I'),
        b"rubbish".to_vec(),
    ];
    for bytes in unsolicited {
        let (speak, spoken) = (Gate::new(), Gate::new());
        let server = ScriptedServer::start({
            let (speak, spoken, bytes) = (speak.clone(), spoken.clone(), bytes.clone());
            move |session| {
                session.login()?;
                if session.number == 0 {
                    session.expect(b'Q')?;
                    session.send(&backend::one_value("first"))?;
                    speak.pass();
                    session.send(&bytes)?;
                    session.peer().stream().wait_until_read(Duration::from_secs(5));
                    spoken.open();
                }
                session.serve_number()
            }
        });
        let pooler = pooler()
            .setting("default_pool_size", 1)
            .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
            .start();
        let mut client = pooler.connect("app");
        assert_eq!(client.scalar("select 1"), "first");
        speak.open();
        spoken.pass();
        let reply = client.query("select 2");
        assert_eq!(reply.tags(), "TDCZ", "after {}: {reply:?}", bytes.escape_ascii());
        assert!(["0", "1"].contains(&reply.rows()[0][0].as_deref().unwrap()), "{reply:?}");
    }
}
