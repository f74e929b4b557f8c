//! Prepared statements of the extended protocol in transaction mode: a client's names are its own, whichever server it
//! gets, and everything is answered as PostgreSQL answers it. (Bugs 40 to 48 of other poolers.)

use support::frontend::*;
use support::oracle::Script;
use support::wire::Client;

use crate::common::{Configure, pooled, ways};

/// Poolers whose clients meet every state of a server: one connection shared by all clients, a fresh connection for each
/// transaction, room for a single statement.
const CONFIGURATIONS: [Configure; 3] = [
    |builder| builder.setting("default_pool_size", 1),
    |builder| builder.setting("default_pool_size", 1).setting("server_lifetime", 0),
    |builder| builder.setting("default_pool_size", 1).setting("max_prepared_statements", 1),
];

fn check(setup: &str, script: &Script) {
    ways(setup, CONFIGURATIONS).oracle.check(script);
}

const TABLE: &str =
    "create table t (id int primary key, v text); insert into t values (1, 'one'), (2, 'two')";
const SELECT: &str = "select id, v from t where id = $1";

fn call(statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0)].concat()
}

/// Other clients with the same and with other texts between any two steps.
fn between(script: Script, number: usize) -> Script {
    let other = format!("select {number}, $1::text");
    let script =
        script.on(number).send([parse("s", &other, &[]), call("s", &[Some("other")]), sync()]).ready(1);
    script.on(0)
}

#[test]
fn a_statement_lives_as_long_as_its_client() {
    let script = Script::new().send([parse("s", SELECT, &[]), describe_statement("s"), sync()]).ready(1);
    let script = between(script, 1).send([call("s", &[Some("1")]), sync()]).ready(1);
    let script = between(script, 2).send([describe_statement("s"), sync()]).ready(1);
    let script =
        between(script, 3).send([describe_statement("s"), flush()]).until(b'T').send([sync()]).ready(1);
    let script =
        between(script, 4).query("begin").send([call("s", &[Some("2")]), call("s", &[Some("1")]), sync()]);
    let script = script.ready(1).send([close_statement("s"), sync()]).ready(1);
    let script = script.send([call("s", &[Some("2")]), sync()]).ready(1).query("rollback");
    let script = script.send([parse("s", "select 'new'", &[]), call("s", &[]), sync()]).ready(1);
    check(TABLE, &script);
}

#[test]
fn clients_share_texts_and_not_names() {
    let mut script = Script::new();
    for client in [0, 1, 2] {
        let text = ["select 'a'", "select 'b'", "select 'a'"][client];
        script = script.on(client).send([parse("s", text, &[]), sync()]).ready(1);
    }
    for client in [2, 0, 1] {
        script = script.on(client).send([call("s", &[]), sync()]).ready(1);
    }
    let script =
        script.on(0).send([close_statement("s"), sync()]).ready(1).on(2).send([call("s", &[]), sync()]);
    let script = script.ready(1).on(0).send([call("s", &[]), sync()]).ready(1);
    check("", &script);
}

/// What the server says of names that are taken or unknown, it says itself.
#[test]
fn names_taken_and_unknown() {
    let script = Script::new().send([parse("s", SELECT, &[]), sync()]).ready(1);
    let script = script.send([parse("s", "select 2", &[]), call("s", &[]), sync()]).ready(1);
    let script = script.send([call("s", &[Some("1")]), sync()]).ready(1);
    let script = script.send([parse("s", SELECT, &[]), sync()]).ready(1);
    let script = script.send([call("nobody", &[]), sync(), describe_statement("nobody"), sync()]).ready(2);
    let script = script.send([close_statement("nobody"), sync()]).ready(1).query("begin");
    let script = script.send([parse("s", "select 3", &[]), sync()]).ready(1);
    let script = script.send([parse("s", "select 4", &[]), sync()]).ready(1).query("rollback");
    check(TABLE, &script.send([call("s", &[Some("2")]), sync()]).ready(1));
}

/// Rows 40 and 48.
#[test]
fn a_failed_parse_leaves_nothing() {
    let script =
        Script::new().send([parse("s", "select * from later", &[]), close_statement("s"), sync()]).ready(1);
    let script = script.send([call("s", &[]), sync()]).ready(1);
    let script = script.send([parse("s", "select * from later", &[]), call("s", &[]), sync()]).ready(1);
    let script = script.query("create table later (id int)");
    let script = script.send([parse("s", "select * from later", &[]), call("s", &[]), sync()]).ready(1);
    let script = script.query("begin").query("select 1/0");
    let script = script.send([parse("aborted", "select 1", &[]), sync()]).ready(1);
    let script = script.send([parse("ending", "rollback", &[]), call("ending", &[]), sync()]).ready(1);
    let script = script.send([call("aborted", &[]), sync()]).ready(1);
    let script = script.send([parse("aborted", "select 2", &[]), call("aborted", &[]), sync()]).ready(1);
    let script =
        script.query("begin").query("select 1/0").send([parse("x", "select 2", &[]), sync()]).ready(1);
    let script = script.send([call("ending", &[]), sync()]).ready(1);
    check("", &script.send([call("x", &[]), sync()]).ready(1));
}

/// An error in a batch undoes what comes behind it and nothing else.
#[test]
fn errors_inside_pipelines() {
    let good = |name: &str| [parse(name, SELECT, &[]), call(name, &[Some("1")])].concat();
    let script = Script::new().send([good("a"), call("nobody", &[]), good("b"), sync(), good("c"), sync()]);
    let script = script.ready(2);
    let script = script.send([call("a", &[Some("2")]), sync(), call("b", &[Some("2")]), sync()]).ready(2);
    let script = script.send([call("c", &[Some("2")]), sync()]).ready(1);
    let script =
        script.send([close_statement("a"), call("nobody", &[]), close_statement("c"), sync()]).ready(1);
    let script = script.send([call("a", &[Some("2")]), sync(), call("c", &[Some("2")]), sync()]).ready(2);
    // The same name again and again, before anything is answered.
    let again = || {
        [close_statement("c"), parse("c", "select $1::int", &[]), call("c", &[Some("7")]), sync()].concat()
    };
    let script = script.send([again(), again(), good("c"), sync(), again()]).ready(4);
    let failing = [close_statement("c"), parse("c", "selec", &[]), sync()].concat();
    let script = script.send([failing, call("c", &[Some("8")]), sync(), again()]).ready(3);
    check(TABLE, &script);
}

/// Whether a transaction has failed is not known while its batches are under way.
#[test]
fn a_pipeline_across_a_failed_transaction() {
    let run = |sql: &str| [parse("", sql, &[]), call("", &[]), sync()].concat();
    let known = || [parse("s", "select 1", &[]), call("s", &[]), sync()].concat();
    let script = Script::new().on(1).send([known()]).ready(1).on(0);
    let script = script.send([run("begin"), run("select 1/0"), known(), run("rollback"), known()]).ready(5);
    let script = script
        .send([query("begin"), query("select 1/0"), call("s", &[]), sync(), query("rollback")])
        .ready(4);
    let script = script.send([call("s", &[]), sync()]).ready(1);
    // Which of a statement's messages a failed transaction refuses depends on whether the server has the statement.
    check("", &script.drop_fields(b"LR"));
}

#[test]
fn the_unnamed_statement_is_the_clients_own() {
    let script = Script::new().send([parse("", "select 'mine', $1::int", &[]), sync()]).ready(1);
    let script = between(script, 1).send([describe_statement(""), call("", &[Some("1")]), sync()]).ready(1);
    // Client 1's unnamed statement is nobody else's.
    let script = script.on(2).send([call("", &[Some("1")]), sync()]).ready(1);
    let script = script.on(3).send([parse("", "select 'three'", &[]), sync()]).ready(1);
    let script =
        script.on(2).send([call("", &[]), sync()]).ready(1).send([describe_statement(""), sync()]).ready(1);
    let script = script.on(0).send([call("", &[Some("2")]), sync()]).ready(1);
    // A simple query ends it, so does Close, so does a Parse that fails.
    let script = script.query("select 1").send([call("", &[Some("3")]), sync()]).ready(1);
    let script = script.send([parse("", "select 1", &[]), close_statement(""), sync()]).ready(1);
    let script =
        script.send([call("", &[]), sync()]).ready(1).send([parse("", "select 1", &[]), sync()]).ready(1);
    let script =
        script.send([parse("", "selec", &[]), sync()]).ready(1).send([call("", &[]), sync()]).ready(1);
    check("", &script);
}

/// Row 43: with room for one, a batch that uses three.
#[test]
fn more_statements_in_a_batch_than_are_kept() {
    let made = |n: usize| parse(&format!("s{n}"), &format!("select {n}, $1::text"), &[]);
    let used = |n: usize| call(&format!("s{n}"), &[Some("x")]);
    let script =
        Script::new().send([made(1), used(1), made(2), used(2), made(3), used(1), used(3), sync()]).ready(1);
    let script = script.send([used(1), used(2), used(3), sync()]).ready(1);
    let script = script.send([used(3), sync(), used(2), sync(), used(1), sync()]).ready(3);
    let script = script.send([used(3), flush()]).until(b'C').send([used(2), flush()]).until(b'C');
    check("", &script.send([used(3), sync()]).ready(1));
}

#[test]
fn deallocate_all_and_discard_all() {
    for sql in ["deallocate all", "discard all", "select 1; deallocate all; select 2"] {
        let script =
            Script::new().send([parse("s", "select 1", &[]), parse("", "select 2", &[]), sync()]).ready(1);
        let script =
            between(script, 1).on(2).send([parse("s", "select 1", &[]), sync()]).ready(1).on(0).query(sql);
        let script = script.send([call("s", &[]), sync(), call("", &[]), sync()]).ready(2);
        let script = script.on(2).send([call("s", &[]), sync()]).ready(1).on(0);
        let script = script.send([parse("s", "select 3", &[]), call("s", &[]), sync()]).ready(1);
        // One that fails changes nothing.
        let script = script.query("begin").query("discard all").query("rollback");
        check("", &script.send([call("s", &[]), sync()]).ready(1));
    }
}

/// Portals outlive their statement's name and belong to the transaction.
#[test]
fn portals_of_named_statements() {
    let script = Script::new().send([parse("s", "select generate_series(1, 3)", &[]), sync()]).ready(1);
    let script =
        script.query("begin").send([bind("p", "s", &[]), describe_portal("p"), execute("p", 1), sync()]);
    let script = script.ready(1).send([close_statement("s"), execute("p", 1), sync()]).ready(1);
    let script =
        script.send([parse("s", "select 'another'", &[]), call("s", &[]), execute("p", 1), sync()]).ready(1);
    check("", &script.send([close_portal("p"), sync()]).ready(1).query("commit"));
}

/// Names are cut out of messages wherever reads divide them.
#[test]
fn any_split() {
    let messages =
        [parse("s", SELECT, &[23]), bind("portal", "s", &[Some("1")]), execute("portal", 0)].concat();
    let messages = [messages, describe_statement("s"), close_statement("s"), sync()].concat();
    let ways = ways(TABLE, CONFIGURATIONS);
    for step in 1..7 {
        let offsets: Vec<usize> = (step..messages.len()).step_by(step).collect();
        ways.oracle.check(&Script::new().send_split([messages.clone()], &offsets).ready(1));
    }
}

/// A `Bind` of any length goes on under its new name.
#[test]
fn long_values() {
    let long = "x".repeat(300_000);
    let script = Script::new().send([parse("s", "select length($1), md5($1)", &[]), sync()]).ready(1);
    let script = between(script, 1).send([call("s", &[Some(&long)]), sync()]).ready(1);
    check("", &script.send([call("s", &[Some("short")]), call("s", &[Some(&long)]), sync()]).ready(1));
}

/// Row 41: who dies in the middle leaves nothing that others trip over.
#[test]
fn a_client_that_dies_before_its_statement_was_made() {
    let pooled = pooled("", |builder| builder);
    for until in 1..4 {
        let mut dying = pooled.connect();
        let messages = [parse("s", "select 'shared'", &[]), bind("", "s", &[]), execute("", 0)];
        dying.send_all(messages.into_iter().take(until));
        dying.abort();
        let mut next = pooled.connect();
        next.send_all([parse("s", "select 'shared'", &[]), call("s", &[]), sync()]);
        assert_eq!(next.read_until_ready().tags(), "12DCZ");
        next.terminate();
    }
}

/// Row 44: what a server keeps is bounded, whatever clients prepare.
#[test]
fn a_server_keeps_so_many_and_no_more() {
    let pooled = pooled("", |builder| builder.setting("max_prepared_statements", 5));
    let mut clients: Vec<Client> = (0..3).map(|_| pooled.connect()).collect();
    for round in 0..40 {
        for client in &mut clients {
            let (name, text) = (format!("s{round}"), format!("select {round}"));
            client.send_all([parse(&name, &text, &[]), call(&name, &[]), sync()]);
            assert_eq!(client.read_until_ready().tags(), "12DCZ");
        }
    }
    let kept = clients[0].scalar("select count(*) from pg_prepared_statements");
    assert_eq!(kept, "5");
    for client in &mut clients {
        client.send_all((0..40).map(|round| call(&format!("s{round}"), &[])).chain([sync()]));
        let rows = client.read_until_ready().rows();
        assert_eq!(rows, (0..40).map(|round| vec![Some(round.to_string())]).collect::<Vec<_>>());
    }
}

/// An unnamed statement too long to be kept is its client's as long as nothing comes between, and nobody else's.
#[test]
fn a_long_unnamed_statement_is_nobody_elses() {
    let pooled = pooled("", |builder| builder.setting("session_state", "discard"));
    let long = format!("select 'mine' -- {}", "x".repeat(400_000));
    let (mut owner, mut other) = (pooled.connect(), pooled.connect());
    owner.send_all([parse("", &long, &[]), sync()]);
    assert_eq!(owner.read_until_ready().tags(), "1Z");
    owner.send_all([call("", &[]), sync()]);
    assert_eq!(owner.read_until_ready().tags(), "2DCZ");
    other.send_all([call("", &[]), sync()]);
    assert_eq!(other.read_until_ready().error_code(), "26000");
}
