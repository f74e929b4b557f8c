//! Budgets: the time of a request runs from its arrival, whether it waits for a server or is at work.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use support::backend;
use support::frontend::*;
use support::pooler::PoolerBuilder;
use support::scripted::ScriptedServer;
use support::wait::{Gate, eventually};
use support::wire::{Client, Reply};

use crate::common::{Pooled, pooled, pooler, prepared_database};

const SOON: Duration = Duration::from_secs(10);
const SLOW: &str = "select pg_sleep(60)";
const UNSENT: &str = "canceling statement due to request timeout";

/// The server ended it.
#[track_caller]
fn assert_canceled(reply: &Reply) {
    let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!((error.severity(), error.code()), ("ERROR", "57014"));
    assert_eq!(error.message(), "canceling statement due to user request");
}

/// The pooler did not send it.
#[track_caller]
fn assert_unsent(reply: &Reply, status: u8) {
    let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!((error.severity(), error.code(), error.message()), ("ERROR", "57014", UNSENT));
    assert!(error.get(b'H').contains("not sent"), "{error:?}");
    assert_eq!(reply.status(), Some(status));
}

/// A client that has the only server.
fn holder(pooled: &Pooled) -> Client {
    let mut holder = pooled.connect();
    holder.execute("begin");
    holder
}

fn within(limit: &'static str) -> impl FnOnce(PoolerBuilder) -> PoolerBuilder {
    move |builder| builder.setting("request_timeout", limit)
}

/// What is local to a transaction is not the next one's, which `COMMIT AND CHAIN` begins at once.
#[test]
fn a_local_deadline_ends_with_its_transaction() {
    for state in ["preserve", "discard"] {
        let pooled = pooled("", |builder| builder.setting("session_state", state));
        let mut client = pooled.connect();
        for (end, status) in [("commit and chain", b'T'), ("rollback", b'I'), ("rollback and chain", b'T')] {
            client.query("begin");
            client.execute("set local pgferry.deadline = '300ms'");
            assert_canceled(&client.query(SLOW));
            client.execute("rollback; begin");
            client.execute("set local pgferry.deadline = '300ms'");
            assert_eq!(client.query(end).status(), Some(status));
            client.execute("select pg_sleep(0.6)");
            client.query("rollback");
        }
    }
}

/// A request that waits too long is refused and never sent; the client goes on as after any error.
#[test]
fn a_request_that_waits_too_long_is_not_sent() {
    let pooled = pooled("create table t (i int)", within("400ms"));
    let insert = "insert into t values (1)";
    let extended = [parse("", insert, &[]), bind("", "", &[]), execute("", 0)].concat();
    let requests = [
        (query(insert), "EZ"),
        ([&extended[..], &sync()].concat(), "EZ"),
        ([&extended[..], &extended, &sync()].concat(), "EZ"),
        (parse("named", insert, &[]), "E"),
    ];
    for (request, tags) in requests {
        let mut holder = holder(&pooled);
        let mut client = pooled.connect();
        let begin = Instant::now();
        client.send(&request);
        let reply = client.read_until(*tags.as_bytes().last().expect("some"));
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(400) && took < SOON, "{took:?}");
        assert_eq!(reply.tags(), tags);
        if tags == "E" {
            client.send([describe_statement("named"), sync()].concat());
            assert_eq!(client.read_until_ready().tags(), "Z");
        }
        holder.execute("rollback");
        assert_eq!(client.scalar("select count(*) from t"), "0");
        drop(holder);
    }
    let mut holder = holder(&pooled);
    assert_unsent(&pooled.connect().query(insert), b'I');
    // The next request behind one that was refused has its own time.
    let mut client = pooled.connect();
    client.send([query(insert), query("select 'next'")].concat());
    assert_unsent(&client.read_until_ready(), b'I');
    holder.execute("rollback");
    assert_eq!(client.read_until_ready().rows(), [[Some("next".to_owned())]]);
}

/// What is left after the wait is the statement's.
#[test]
fn waiting_and_running_share_the_time() {
    let pooled = pooled("", within("2s"));
    let mut holder = holder(&pooled);
    let mut client = pooled.connect();
    let begin = Instant::now();
    client.send(query(SLOW));
    client.expect_silence(Duration::from_millis(1200));
    holder.execute("rollback");
    assert_canceled(&client.read_until_ready());
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
    // Each request has its time anew, one of several that came together as well.
    for _ in 0..2 {
        client.send([query("select pg_sleep(1.2)"), query("select pg_sleep(1.2)")].concat());
        assert_eq!(client.read_until_ready().error_code(), "");
        assert_eq!(client.read_until_ready().error_code(), "");
    }
    // All statements of a request share it.
    let reply = client.query("select pg_sleep(0.8); select pg_sleep(0.8); select pg_sleep(0.8)");
    assert_canceled(&reply);
    assert_eq!(reply.commands().len(), 2);
    // Time between the requests of a transaction is not theirs.
    client.execute("begin");
    client.expect_silence(Duration::from_millis(2500));
    assert_eq!(client.scalar("select 1"), "1");
}

/// A server that is slow to log in is no reason to wait longer.
#[test]
fn connecting_counts() {
    let (gate, first) = (Gate::new(), AtomicBool::new(true));
    let server = ScriptedServer::start({
        let gate = gate.clone();
        move |session| {
            if !first.swap(false, SeqCst) {
                gate.pass();
            }
            session.login()?;
            session.serve(|message| match &message.body[..] {
                b"begin\0" => [backend::command_complete("BEGIN"), backend::ready(b'T')].concat(),
                _ => backend::one_value("served"),
            })
        }
    });
    let pooler = pooler()
        .setting("default_pool_size", 2)
        .setting("request_timeout", "500ms")
        .database_line("app", &format!("host=127.0.0.1 port={}", server.port()))
        .start();
    let mut holder = pooler.connect("app");
    holder.execute("begin");
    let mut client = pooler.connect("app");
    assert_unsent(&client.query("select 1"), b'I');
    gate.open();
    eventually("it is served", SOON, || client.query("select 1").error_code().is_empty());
}

/// By the client's word: for the session, for a transaction, and back.
#[test]
fn set_by_the_client() {
    for mode in ["transaction", "session", "statement"] {
        let pooled = pooled("", |builder| builder.setting("pool_mode", mode).setting("default_pool_size", 2));
        let mut client = pooled.connect();
        let mut other = pooled.connect();
        let mut outcome = |client: &mut Client| {
            let code = client.query("select pg_sleep(0.8)").error_code();
            assert_eq!(other.query("select pg_sleep(0.3)").error_code(), ""); // nobody else has it
            code
        };
        client.execute("set pgferry.deadline = '200ms'");
        assert_eq!(outcome(&mut client), "57014", "{mode}");
        assert_eq!(outcome(&mut client), "57014", "{mode}");
        client.execute("reset pgferry.deadline");
        assert_eq!(outcome(&mut client), "", "{mode}");
        client.send(extended("set pgferry.deadline to '0.2s'"));
        assert_eq!(client.read_until_ready().error_code(), "");
        assert_eq!(outcome(&mut client), "57014", "{mode}");
        assert_eq!(client.scalar("show pgferry.deadline"), "0.2s");
        client.execute("set pgferry.deadline = 0");
        assert_eq!(outcome(&mut client), "", "{mode}");
        if mode != "statement" {
            client.execute("begin");
            client.execute("set local pgferry.deadline = '200ms'");
            assert_eq!(outcome(&mut client), "57014", "{mode}");
            client.execute("rollback");
            assert_eq!(outcome(&mut client), "", "{mode}");
            client.execute("begin; set local pgferry.deadline = '200ms'; commit");
            assert_eq!(outcome(&mut client), "", "{mode}");
        }
        client.execute("set pgferry.deadline = '200ms'");
        client.execute("discard all");
        assert_eq!(outcome(&mut client), "", "{mode}");
    }
}

/// In transaction mode the server is asked what has become of it: functions may set it, and a rollback takes it back.
#[test]
fn set_in_ways_that_no_text_tells() {
    let setup = "create function hurry() returns void language sql as \
                 $$ select set_config('pgferry.deadline', '200ms', false) $$";
    let pooled = pooled(setup, |builder| builder);
    let mut client = pooled.connect();
    let outcome = |client: &mut Client| client.query("select pg_sleep(0.8)").error_code();
    client.execute("select hurry()");
    client.send(query("select pg_sleep(60)")); // the server may not have been asked yet when it comes
    assert_canceled(&client.read_until_ready());
    assert_eq!(outcome(&mut client), "57014");
    client.execute("begin; reset pgferry.deadline");
    assert_eq!(outcome(&mut client), "");
    client.execute("rollback");
    assert_eq!(outcome(&mut client), "57014");
    let target = pooled.target();
    let mut begun = Client::login(&target.clone().param("pgferry.deadline", "200ms"));
    assert_eq!(outcome(&mut begun), "57014");
    begun.execute("set pgferry.deadline = '1min'");
    assert_eq!(outcome(&mut begun), "");
    begun.execute("reset all");
    assert_eq!(outcome(&mut begun), "57014");
    let mut begun = Client::login(&target.param("options", "-c pgferry.deadline=200ms"));
    assert_eq!(outcome(&mut begun), "57014");
}

/// A comment at the head of a statement holds for its request.
#[test]
fn in_a_comment() {
    for mode in ["transaction", "session"] {
        let pooled = pooled("", |builder| builder.setting("pool_mode", mode));
        let mut client = pooled.connect();
        let slow = "/* deadline = '200ms', route='/x' */ select pg_sleep(60)";
        assert_canceled(&client.query(slow));
        assert_eq!(client.query("select pg_sleep(0.4)").error_code(), "");
        client.send(extended(slow));
        assert_canceled(&client.read_until_ready());
        client.send(extended("select pg_sleep(0.4)"));
        assert_eq!(client.read_until_ready().error_code(), "");
        client.execute("begin");
        assert_canceled(&client.query(slow));
        client.execute("rollback");
        // Each of several that come together has its own.
        client.send(
            [query(slow), query("select pg_sleep(0.4)"), extended(slow), extended("select pg_sleep(0.4)")]
                .concat(),
        );
        for code in ["57014", "", "57014", ""] {
            assert_eq!(client.read_until_ready().error_code(), code);
        }
        client.send([query("select pg_sleep(0.4)"), query("select 1"), query(slow)].concat());
        for code in ["", "", "57014"] {
            assert_eq!(client.read_until_ready().error_code(), code);
        }
        // Of several the strictest.
        client.execute("set pgferry.deadline = '1min'");
        assert_canceled(&client.query(slow));
        client.execute("set pgferry.deadline = '100ms'");
        assert_canceled(&client.query("/*deadline=1min*/ select pg_sleep(60)"));
    }
}

/// A prepared statement brings its comment along, and while it waits as well.
#[test]
fn in_a_prepared_statement() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.send([parse("quick", "/*deadline=200ms*/ select pg_sleep($1)", &[]), sync()].concat());
    client.read_until_ready();
    let run = |time: &str| [bind("", "quick", &[Some(time)]), execute("", 0), sync()].concat();
    client.send(run("60"));
    assert_canceled(&client.read_until_ready());
    client.send(run("0"));
    assert_eq!(client.read_until_ready().error_code(), "");
    let mut holder = holder(&pooled);
    client.send(run("0"));
    assert_unsent(&client.read_until_ready(), b'I');
    holder.execute("rollback");
}

/// A client can't have more time than it is given.
#[test]
fn the_stricter_holds() {
    let pooled = pooled("", within("300ms"));
    let mut client = pooled.connect();
    client.execute("set pgferry.deadline = '1min'");
    let begin = Instant::now();
    assert_canceled(&client.query("/*deadline=1min*/ select pg_sleep(60)"));
    assert!(begin.elapsed() < SOON);
}

#[test]
fn what_is_no_time() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    let reply = client.query("set pgferry.deadline = 'soon'");
    assert_eq!(reply.tags(), "NCZ");
    let notice = reply.0[0].notice().expect("a notice");
    assert_eq!((notice.severity(), notice.code()), ("WARNING", "22023"));
    assert_eq!(client.query("select pg_sleep(0.3)").error_code(), "");
}

/// A database's limit goes before the global one, an application's before both; 0 is none.
#[test]
fn limits_of_databases_and_applications() {
    let database = prepared_database("budgets", "");
    let pooler = pooler()
        .setting("request_timeout", "300ms")
        .database_as("usual", &database, "")
        .database_as("patient", &database, "request_timeout=0")
        .application_line("report-*", "request_timeout=0 statement_timeout=0")
        .application_line("web", "statement_timeout=100ms request_timeout=0")
        .application_line("*-strict", "request_timeout=100ms")
        .start();
    let outcome = |database: &str, application: &str| {
        let target = pooler.target(database).param("application_name", application);
        Client::login(&target).query("select pg_sleep(0.8)").error_code()
    };
    assert_eq!(outcome("usual", ""), "57014");
    assert_eq!(outcome("patient", ""), "");
    assert_eq!(outcome("usual", "report-7"), "");
    assert_eq!(outcome("patient", "web"), "57014");
    assert_eq!(outcome("patient", "web-strict"), "57014");
    assert_eq!(outcome("usual", "report-strict"), ""); // the first that matches
    // The name that it has at the moment.
    let mut client = pooler.connect("patient");
    assert_eq!(client.query("select pg_sleep(0.8)").error_code(), "");
    client.execute("set application_name = 'web'");
    assert_eq!(client.query("select pg_sleep(0.8)").error_code(), "57014");
    client.execute("set application_name = 'report-1'");
    assert_eq!(client.query("select pg_sleep(0.8)").error_code(), "");
}

/// New limits hold for what goes on.
#[test]
fn a_reload_reaches_who_idles_in_a_transaction() {
    let mut pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("begin");
    let mut busy = holder_of_another(&pooled);
    pooled.pooler.reload(|builder| builder.setting("idle_transaction_timeout", "300ms"));
    let error = client.expect_closed().error().expect("an error");
    assert_eq!(error.message(), "idle transaction timeout");
    assert_eq!(busy.read_until_ready().error_code(), "");
}

fn holder_of_another(pooled: &Pooled) -> Client {
    let mut waiting = pooled.connect();
    waiting.send(query("select 1"));
    waiting
}

/// A client that is gone when its turn comes has asked for nothing.
#[test]
fn who_leaves_the_queue_is_not_served() {
    let pooled = pooled("create table t (i int)", |builder| builder);
    let mut holder = holder(&pooled);
    for _ in 0..5 {
        let mut client = pooled.connect();
        client.send([query("insert into t values (1)"), terminate()].concat());
        drop(client);
        let mut client = pooled.connect();
        client.send(query("insert into t values (2)"));
        client.abort();
    }
    eventually("they have left the queue", SOON, || {
        let reply = pooled.pooler.console().query("show pools");
        let row = reply.rows().into_iter().find(|row| row[0].as_deref() == Some(pooled.database.name()));
        row.is_some_and(|row| row[3].as_deref() == Some("0"))
    });
    holder.execute("commit");
    assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat()
}
