//! Prepared statements of the extended protocol in transaction mode: a client's names are its own, whichever server it
//! gets, and everything is answered as PostgreSQL answers it. (Bugs 40 to 48 of other poolers.)

use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::wait::eventually;
use support::wire::Client;

use crate::common::{Configure, pooled, ways};
use crate::console::table;

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

/// Row 42, too: `Describe` alone, wherever the client comes to.
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

/// A server that is given a statement in a batch that fails may not have it in the next.
#[test]
fn a_pipeline_behind_what_was_skipped() {
    let script = Script::new().send([parse("s", "select 'mine'", &[]), sync()]).ready(1);
    let script =
        between(script, 1).send([call("nobody", &[]), call("s", &[]), sync(), call("s", &[]), sync()]);
    let script = between(script.ready(2), 2);
    let script =
        script.send([query("begin"), query("select 1/0"), call("s", &[]), sync(), query("rollback")]);
    let script = script.send([call("s", &[]), sync()]).ready(5);
    // What makes room for another may be skipped, too.
    let other = |name: &str| [parse(name, "select 'other'", &[]), call(name, &[])].concat();
    let script =
        script.send([call("nobody", &[]), other("o"), sync(), call("s", &[]), sync(), other("o"), sync()]);
    check("", &script.ready(3).send([call("s", &[]), sync()]).ready(1).drop_fields(b"LR"));
}

/// Row 17.
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

/// Replies that the pooler gives itself come in front of the others also to who says good-bye behind its requests.
#[test]
fn a_known_statement_and_good_bye() {
    let made = |name: &str| [parse(name, "select 'known'", &[]), call(name, &[])].concat();
    let script = Script::new().send([made("s"), sync()]).ready(1);
    let last = [close_statement("s"), made("t"), parse("u", "select 'new'", &[]), sync(), terminate()];
    check("", &script.send(last).closed());
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
    let long = format!("select 'mine' -- {}", "x".repeat(3_000_000));
    let (mut owner, mut other) = (pooled.connect(), pooled.connect());
    owner.send_all([parse("", &long, &[]), sync()]);
    assert_eq!(owner.read_until_ready().tags(), "1Z");
    owner.send_all([call("", &[]), sync()]);
    assert_eq!(owner.read_until_ready().tags(), "2DCZ");
    other.send_all([call("", &[]), sync()]);
    assert_eq!(other.read_until_ready().error_code(), "26000");
}

/// Statements with thousands of parameters take hundreds of kilobytes, and are as good as others.
#[test]
fn long_statements_follow_their_client() {
    let long = |what: &str| format!("select '{what}', $1::text -- {}", "x".repeat(400_000));
    let script = Script::new().send([parse("s", &long("mine"), &[]), sync()]).ready(1);
    let script = between(script, 1).send([call("s", &[Some("1")]), sync()]).ready(1);
    let script = script.on(2).send([call("s", &[Some("1")]), sync()]).ready(1);
    let script =
        script.send([parse("s", &long("another"), &[]), call("s", &[Some("1")]), sync()]).ready(1).on(0);
    let script = script.send([parse("", &long("unnamed"), &[]), describe_statement(""), sync()]).ready(1);
    let script = between(script, 1).send([call("", &[Some("1")]), call("s", &[Some("1")]), sync()]).ready(1);
    let script = script.send([close_statement("s"), sync(), call("s", &[Some("1")]), sync()]).ready(2);
    check("", &script);
}

/// Whose statement is too long even for that keeps its server, and nobody else finds it there.
#[test]
fn a_client_keeps_its_server_for_a_very_long_statement() {
    for state in ["preserve", "discard"] {
        let pooled = pooled("", |b| b.setting("default_pool_size", 2).setting("session_state", state));
        let long = |what: &str| parse("s", &format!("select '{what}' -- {}", "x".repeat(3_000_000)), &[]);
        let mut clients = ["a", "b"].map(|what| {
            let mut client = pooled.connect();
            client.send_all([long(what), sync()]);
            assert_eq!(client.read_until_ready().tags(), "1Z");
            client
        });
        for (client, what) in clients.iter_mut().zip(["a", "b"]) {
            client.send_all([call("s", &[]), sync()]);
            assert_eq!(client.read_until_ready().rows(), [[Some(what.to_owned())]]);
        }
        let mut console = pooled.pooler.console();
        eventually("both are shown", Duration::from_secs(10), || {
            let pins = table(&mut console, "PINS");
            pins.len() == 2 && pins.iter().all(|pin| pin.text("reasons") == "long statement")
        });
        drop(clients);
        let mut next = pooled.connect();
        next.send_all([call("s", &[]), sync()]);
        assert_eq!(next.read_until_ready().error_code(), "26000");
    }
}

/// Row 2: replies that the pooler gives itself come in their turn, as often as they are due.
#[test]
fn many_changes_in_a_batch() {
    let turn = |n: usize| {
        let text = ["select 'a'", "select 'b'", "select 'c'"][n % 3];
        [parse("s", text, &[]), call("s", &[]), close_statement("s"), close_statement("s")].concat()
    };
    let script = Script::new().send((0..20).map(turn).chain([sync()])).ready(1);
    let script = script.send((0..20).map(|n| [turn(n), sync()].concat())).ready(20);
    let script = script.on(1).send([parse("s", "select 'a'", &[]), call("s", &[]), sync()]).ready(1);
    check(
        "",
        &script.on(0).send([turn(1), parse("s", "selec", &[]), turn(2), sync(), turn(1), sync()]).ready(2),
    );
}

/// Row 16: so do they in front of an error, and of a row that comes in many pieces.
#[test]
fn a_known_statement_before_an_error_and_a_large_row() {
    let made = || parse("s", "select 1 / $1::int, repeat('x', 1000000 * $1)", &[]);
    let script = Script::new().on(1).send([made(), sync()]).ready(1).on(0);
    let script = script.send([made(), call("s", &[Some("1")]), sync()]).ready(1);
    let script = script.send([close_statement("s"), made(), call("s", &[Some("one")]), sync()]).ready(1);
    let script = script.send([call("s", &[Some("0")]), sync(), close_statement("s"), sync()]).ready(2);
    check(
        "",
        &script.send([made(), bind("", "nobody", &[]), sync(), call("s", &[Some("2")]), sync()]).ready(2),
    );
}

/// Row 22: a driver prepares what ends transactions, too; on whichever server, in whatever state, it is there.
#[test]
fn a_prepared_commit() {
    let run = |name: &str| [call(name, &[]), sync()].concat();
    let mut script = Script::new();
    for text in ["begin", "commit", "rollback", "insert into t values (3, 'three')"] {
        script = script.send([parse(text, text, &[]), sync()]).ready(1);
    }
    script = between(script, 1).send([run("begin"), run("insert into t values (3, 'three')")]).ready(2);
    script = script.send([run("commit")]).ready(1);
    script = between(script, 2).send([run("begin")]).ready(1).query("select 1/0");
    script = script.send([run("insert into t values (3, 'three')"), run("commit")]).ready(2);
    script = between(script, 3).send([run("begin"), run("insert into t values (3, 'three')"), run("commit")]);
    script =
        script.ready(3).send([run("begin")]).ready(1).query("select 1/0").send([run("rollback")]).ready(1);
    check(TABLE, &script.rows("select * from t order by 1").drop_fields(b"LR"));
}

/// Changes of the schema made by a client of the pool, and such as the pooler hears nothing of.
const CHANGES: [&str; 2] = [
    "alter table t add column more int default 7",
    "do $$ begin execute 'alter table t add column more int default 7'; end $$",
];

const ALL: &str = "select * from t where id = $1";

/// Rows 23 and 45: a client that comes after a change of the schema finds the new columns, described or not, whoever had
/// the text before; who was told of the old ones learns of the change in PostgreSQL's words, and it heals.
#[test]
fn after_ddl_a_new_client_sees_the_new_columns() {
    for change in CHANGES {
        let prepared = |script: Script, client| {
            script.on(client).send([parse("s", ALL, &[]), describe_statement("s"), sync()]).ready(1)
        };
        let used = |script: Script, client: usize| {
            script.on(client).send([call("s", &[Some("1")]), sync()]).ready(1)
        };
        let mut script = prepared(Script::new(), 0);
        script = used(prepared(script, 1), 0);
        script = used(script, 1).on(2).query(change);
        script = used(prepared(script, 3), 3);
        // Those that were told of two columns.
        script = used(used(script, 0), 1);
        script = used(script, 0).send([close_statement("s"), sync()]).ready(1);
        script = used(prepared(script, 0), 0);
        script = script.on(1).query("begin");
        script = used(used(script, 1), 1).query("rollback");
        script = used(prepared(script.on(1).query("deallocate all"), 1), 1);
        script = used(used(script, 3), 0);
        check(TABLE, &script.drop_fields(b"L"));
    }
}

/// Only a description tells that a parameter has another type: what is parsed behind a change is
/// parsed by the server, also by who makes the change, before it is committed, and when it is rolled back.
#[test]
fn what_is_parsed_behind_ddl_knows_of_it() {
    const CHANGE: &str = "alter table t alter column v type int using 0";
    let made = |name: &str| {
        [parse(name, "update t set v = $2 where id = $1", &[]), describe_statement(name), sync()].concat()
    };
    let script = Script::new().send([made("before")]).ready(1).on(1).send([made("before")]).ready(1);
    let script = script.query("begin").query(CHANGE).send([made("changed")]).ready(1);
    let script = script.send([call("changed", &[Some("1"), Some("5")]), sync()]).ready(1).query("rollback");
    let script = script.send([made("undone")]).ready(1).on(2).send([made("new")]).ready(1);
    let script = script.send([query(CHANGE), made("behind")]).ready(2).on(3).send([made("new")]).ready(1);
    let script =
        script.query("begin").send([call("new", &[Some("1"), Some("6")]), sync()]).ready(1).query("commit");
    let back = [parse("", "alter table t alter column v type text", &[]), call("", &[])].concat();
    let script = script.on(1).send([back, made("in its batch")]).ready(1);
    check(TABLE, &script.on(2).send([made("newer")]).ready(1).rows("select * from t order by id"));
}

/// The same for clients that are told of the columns with every execution, or never: outside a transaction they do not
/// see that their statement had to be parsed again, since it did not run.
#[test]
fn a_stale_statement_is_parsed_again() {
    for change in CHANGES {
        let pooled = pooled(TABLE, |builder| builder);
        let (mut told, mut silent) = (pooled.connect(), pooled.connect());
        for client in [&mut told, &mut silent] {
            client.send_all([parse("s", ALL, &[]), sync()]);
            client.read_until_ready();
        }
        let columns = |client: &mut Client, describe: Vec<u8>| {
            client.send_all([bind("", "s", &[Some("1")]), describe, execute("", 0), sync()]);
            let reply = client.read_until_ready();
            reply.rows().first().map(Vec::len).ok_or_else(|| reply.error_code())
        };
        assert_eq!(columns(&mut told, describe_portal("")), Ok(2));
        assert_eq!(columns(&mut silent, vec![]), Ok(2));
        told.query(change);
        assert_eq!(columns(&mut silent, vec![]), Ok(3), "{change}");
        assert_eq!(columns(&mut told, describe_portal("")), Ok(3));
        assert_eq!(columns(&mut told, vec![]), Ok(3));
        // Nothing in front of it counts, and a Sync is still to come.
        silent.query(&change.replace("more", "still_more"));
        let batch = [close_statement("nobody"), call("s", &[Some("2")])].concat();
        silent.send_all([batch, call("s", &[Some("1")]), flush()]);
        let mut tags = String::new();
        while !tags.ends_with("2DC2DC") && !tags.ends_with('E') {
            tags.push(silent.read().tag as char);
        }
        silent.send_all([sync()]);
        assert_eq!((tags.as_str(), silent.read_until_ready().tags().as_str()), ("32DC2DC", "Z"));
        // Who was told of the columns and is not told again would take the rows for something else.
        assert_eq!(columns(&mut told, vec![]), Err("0A000".to_owned()));
        assert_eq!(columns(&mut told, describe_portal("")), Ok(4));
        assert_eq!(columns(&mut told, vec![]), Ok(4));
    }
}

/// What was executed is not executed again, and what comes behind is neither lost nor done twice.
#[test]
fn what_has_begun_is_not_sent_again() {
    let setup = format!("{TABLE}; create table log (n int)");
    let log = |n: u32| [parse("", &format!("insert into log values ({n})"), &[]), call("", &[])].concat();
    for change in CHANGES {
        let pooled = pooled(&setup, |builder| builder);
        let (mut client, mut other) = (pooled.connect(), pooled.connect());
        client.send_all([parse("s", ALL, &[]), call("s", &[Some("1")]), sync()]);
        client.read_until_ready();
        other.query(change);
        client.send_all([log(1), call("s", &[Some("1")]), log(2), sync(), log(3), sync()]);
        assert_eq!(client.read_until_ready().error_code(), "0A000");
        assert_eq!(client.read_until_ready().tags(), "12CZ");
        client.send_all([call("s", &[Some("1")]), sync(), log(4), sync()]);
        let tags = [client.read_until_ready().tags(), client.read_until_ready().tags()];
        assert_eq!(tags, ["2DCZ", "12CZ"], "{change}");
        other.query("begin");
        other.query(&change.replace("more", "still_more"));
        other.query("commit");
        client.send_all([call("s", &[Some("1")]), log(5), sync()]);
        let reply = client.read_until_ready();
        assert_eq!(reply.tags(), "2DC12CZ", "{reply:?}");
        assert_eq!(other.scalar("select string_agg(n::text, '') from log"), "345");
    }
}

/// Row 46: PHP's PDO ends the statements that it has made by the protocol with SQL; and SQL may execute them.
#[test]
fn sql_deallocates_and_executes_what_the_protocol_made() {
    let made = |script: Script, name: &str| script.send([parse(name, SELECT, &[]), sync()]).ready(1);
    let script = made(made(made(Script::new(), "a"), "Mixed Case"), "c");
    let script = between(script, 1).send([call("a", &[Some("1")]), sync()]).ready(1);
    let script = between(script, 2).query("deallocate a").send([call("a", &[Some("1")]), sync()]).ready(1);
    let script = made(script, "a").query("execute a(2)").query("explain (costs off) execute a(2)");
    let script = between(script, 3).query("begin").query("execute c(1); deallocate prepare \"Mixed Case\"");
    let script = script.send([call("c", &[Some("2")]), sync()]).ready(1).query("execute c(2)");
    let script = script.send([close_statement("c"), parse("c", "select 'new'", &[]), sync()]).ready(1);
    let script = script.query("execute c").send([call("c", &[]), sync()]).ready(1);
    // Neither is undone by a rollback; nor done where the server refuses it.
    let script = script.query("rollback").send([call("Mixed Case", &[Some("1")]), sync()]).ready(1);
    let script = script.query("begin").query("deallocate nobody").query("deallocate a").query("rollback");
    let script = script.send([call("a", &[Some("1")]), sync()]).ready(1);
    let script = script.query("deallocate a; select 1/0; deallocate c");
    let script = script.send([call("a", &[Some("1")]), sync(), call("c", &[]), sync()]).ready(2);
    // In a pipeline, and by the extended protocol.
    let script =
        made(script, "a").send([query("deallocate a"), call("a", &[Some("1")]), sync(), query("select 1")]);
    let script = made(script.ready(3), "a").send([parse("", "execute a(1)", &[]), call("", &[]), sync()]);
    let script = script.ready(1).send([parse("", "deallocate a", &[]), call("", &[]), sync()]).ready(1);
    let script = script.send([call("a", &[Some("1")]), sync(), call("c", &[]), sync()]).ready(2);
    check(TABLE, &script.query("deallocate c").query("deallocate c"));
}

/// What SQL has prepared is found by a Parse that comes before the pooler knows of it.
#[test]
fn sql_has_just_prepared_it() {
    let mut script = Script::new();
    for number in 0..5 {
        let name = format!("a{number}");
        script = script.query(&format!("prepare {name} as select 1"));
        script = script.send([parse(&name, "select 2", &[]), call(&name, &[]), sync()]).ready(1);
        script = script.query(&format!("execute {name}"));
    }
    check("", &script);
}

/// Whether SQL has prepared one of that name, the server is asked by a statement of the pooler's own. If the client's then
/// fails, SQL must not find that one.
#[test]
fn sql_does_not_find_what_failed() {
    let mut script = Script::new().query("begin").query("deallocate all").query("savepoint s");
    for ask in ["execute a", "deallocate a"] {
        script = script.send([parse("a", "select nothing from nowhere", &[]), sync()]).ready(1);
        script = script.query("rollback to s").query(ask).query("rollback to s");
        script = script.send([parse("", ask, &[]), call("", &[]), sync()]).ready(1).query("rollback to s");
    }
    check("", &script.query("rollback"));
}

/// Row 47: names that SQL has prepared are each client's own, and one namespace with those of the protocol.
#[test]
fn sql_prepares_beside_the_protocol() {
    let mut script = Script::new();
    for client in [0, 1] {
        script =
            script.on(client).query(&format!("prepare x(int) as select {client}, $1")).query("execute x(1)");
        script = script.send([describe_statement("x"), call("x", &[Some("2")]), sync()]).ready(1);
        // The name is taken.
        script = script.send([parse("x", "select 3", &[]), sync()]).ready(1).query("prepare x as select 4");
        script = script.send([parse("y", "select 5", &[]), sync()]).ready(1).query("prepare y as select 6");
        script = script.send([call("y", &[]), sync()]).ready(1).query("deallocate x").query("execute x(1)");
        script = script.send([parse("x", "select 7", &[]), call("x", &[]), sync()]).ready(1);
    }
    let script = script.on(0).query("execute x").query("execute y").query("prepare z as select 8");
    let script = script.send([call("z", &[]), close_statement("z"), call("y", &[]), sync()]).ready(1);
    let script = script.query("execute z").on(1).query("execute x").query("deallocate all");
    check(TABLE, &script.query("execute x").on(0).send([call("x", &[]), sync()]).ready(1));
}

/// Nobody can fill the pooler's memory with statements: far above what a program needs the client is told, and closed.
#[test]
fn a_client_can_not_prepare_without_end() {
    let pooled = pooled("", |builder| builder.setting("max_prepared_statements", 2));
    let mut hostile = pooled.connect();
    let filling = "x".repeat(60_000);
    let refused = (0..2000).find_map(|n| {
        hostile.send_all([parse(&format!("s{n}"), &format!("select {n} -- {filling}"), &[]), flush()]);
        hostile.read().error().map(|error| (n, error.code().to_owned()))
    });
    let (many, code) = refused.expect("something must stop it");
    assert!(many > 1000, "refused after {many}");
    assert_eq!(code, "53200");
    hostile.expect_closed();
    let mut next = pooled.connect();
    next.send_all([parse("s", "select 1", &[]), call("s", &[]), sync()]);
    assert_eq!(next.read_until_ready().tags(), "12DCZ");
}

/// A function may drop what a server has without anybody seeing it: others find their statements all the same.
#[test]
fn statements_dropped_unseen_are_made_again() {
    let pooled = pooled("", |builder| builder);
    let (mut client, mut other) = (pooled.connect(), pooled.connect());
    client.send_all([parse("s", "select 'mine'", &[]), describe_statement("s"), sync()]);
    client.read_until_ready();
    let mut drop_all = || assert_eq!(other.query("do 'begin execute ''deallocate all''; end'").tags(), "CZ");
    drop_all();
    client.send_all([call("s", &[]), sync()]);
    assert_eq!(client.read_until_ready().tags(), "2DCZ");
    drop_all();
    client.send_all([query("begin"), call("s", &[]), sync()]);
    assert_eq!([client.read_until_ready().tags(), client.read_until_ready().tags()], ["CZ", "EZ"]);
    client.send_all([query("rollback"), query("begin"), call("s", &[]), sync()]);
    assert_eq!([(); 3].map(|()| client.read_until_ready().tags()), ["CZ", "CZ", "2DCZ"]);
}

/// Behind a COPY that has failed nobody can tell where the answer to a Close would stand, so the server gives it. (So
/// does tokio-postgres: the Sync behind its Execute is eaten by the COPY.)
#[test]
fn statements_closed_behind_a_failed_copy() {
    let copy = [call("s", &[]), sync()];
    let end = [copy_data(b"1\n"), copy_done(), sync(), close_statement("s"), sync()];
    let script = Script::new().send([parse("s", "copy t from stdin", &[]), sync()]).ready(1);
    let script = script.send(copy).until(b'G').send(end).ready(2).query("select 1");
    check("create table t (id int primary key); insert into t values (1)", &script);
}

/// A batch that has failed takes nothing from the one behind it, which may have to wait for its outcome.
#[test]
fn unnamed_statements_behind_a_failed_batch() {
    let run = |sql: &str| [parse("", sql, &[]), call("", &[]), sync()].concat();
    let script = Script::new().send([parse("x", "select 1", &[]), sync()]).ready(1);
    let script = script.send([run("select * from missing"), run("prepare y as select 2")]).ready(2);
    let failing = [run("select * from missing"), run("execute y"), run("deallocate x"), run("deallocate y")];
    check("", &script.send(failing).ready(4).query("select 1"));
}

/// What the pooler puts in the way of a name that is taken is gone behind the transaction, whatever became of the batches
/// that it was put in front of: else it, or what came through, would be a stranger's.
#[test]
fn names_taken_in_pipelines_that_fail() {
    let taken = |name: &str| parse(name, "select 'not mine'", &[]);
    let script = Script::new().send([parse("s", "select 'mine'", &[]), sync()]).ready(1);
    let script = script.send([describe_statement("nobody"), taken("s"), sync(), taken("s"), sync()]).ready(2);
    let script = script.send([call("s", &[]), sync()]).ready(1);
    let script = script.on(1).send([call("s", &[]), sync()]).ready(1).on(0);
    // It would be put aside for what executes the statement, but that is skipped.
    let script = script.send([parse("x", "execute s", &[]), sync()]).ready(1);
    let script = script.send([taken("s"), call("x", &[]), sync()]).ready(1);
    let script = script.on(1).send([call("s", &[]), sync()]).ready(1).on(0);
    let script = script.send([taken("s"), close_statement("s"), sync(), call("s", &[]), sync()]).ready(2);
    let script = script.on(1).send([taken("s"), call("s", &[]), sync()]).ready(1).on(0);
    // Nor does it answer for a statement of its client's that failed.
    let failing = [parse("", "deallocate all", &[]), call("", &[]), parse("u", "selec", &[]), sync()];
    check("", &script.send(failing).send([describe_statement("u"), sync()]).ready(2));
}

/// What is made behind a statement that drops others is there, and what it drops is not, in one pipeline.
#[test]
fn statements_made_behind_those_that_drop_them() {
    let made = |name: &str| [parse(name, "select 'made', $1::text", &[]), call(name, &[Some("x")])].concat();
    for sql in ["discard all", "deallocate all", "deallocate s"] {
        let script = Script::new().send([made("s"), made("t"), sync()]).ready(1);
        let dropping = || [parse("", sql, &[]), call("", &[])].concat();
        let script = script.send([dropping(), made("s"), made("new"), sync()]).ready(1);
        let script =
            script.send([call("s", &[Some("y")]), sync(), call("new", &[Some("y")]), sync()]).ready(2);
        let script = script.on(1).send([call("s", &[Some("y")]), sync()]).ready(1).on(0);
        let script =
            script.send([dropping(), sync(), made("s"), sync(), query(sql), made("s"), sync()]).ready(4);
        let script = script.send([call("s", &[Some("y")]), sync()]).ready(1);
        // Skipped, or not executed, it drops nothing.
        let script =
            script.send([call("nobody", &[]), dropping(), sync(), call("s", &[Some("y")]), sync()]).ready(2);
        let bound = [parse("", sql, &[]), bind("", "", &[])].concat();
        let script = script.send([bound, call("s", &[Some("y")]), sync()]).ready(1);
        check("", &script.on(1).send([call("s", &[Some("y")]), sync()]).ready(1));
    }
}
