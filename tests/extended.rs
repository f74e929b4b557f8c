//! The extended protocol in transaction mode, with nothing kept from one transaction to the next but the unnamed
//! statement.

use support::frontend::*;
use support::oracle::Script;

use crate::common::pair;

const TABLE: &str = "create table t (id int primary key, v text)";

/// Parse, Bind, Describe, Execute of an unnamed statement, without Sync.
fn run(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", values), describe_portal(""), execute("", 0)].concat()
}

#[test]
fn every_kind_of_reply() {
    let pair = pair(TABLE);
    let steps = [
        run("select $1::int + 1, $2::text", &[Some("41"), None]),
        run("insert into t values ($1, $2)", &[Some("1"), Some("one")]),
        run("update t set v = $1", &[Some("new")]),
        run("select * from t", &[]),
        run("", &[]),
        run("create table made (id int)", &[]),
        run("do $$ begin raise notice 'a notice'; end $$", &[]),
        run("set timezone = 'Asia/Tokyo'", &[]),
        run("reset timezone", &[]),
        run("begin", &[]),
        run("select count(*) from t", &[]),
        run("commit", &[]),
    ];
    let script = steps.into_iter().fold(Script::new(), |script, step| script.send([step, sync()]).ready(1));
    pair.check(&script.rows("select * from t"));
}

#[test]
fn describe_alone_and_close() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([parse("", "select id, v from t where id = $1", &[]), describe_statement(""), sync()])
        .ready(1)
        .send([parse("s", "insert into t values ($1, $2)", &[23]), describe_statement("s")])
        .send([bind("p", "s", &[Some("1"), Some("x")]), describe_portal("p"), execute("p", 0)])
        .send([
            close_portal("p"),
            close_statement("s"),
            close_statement("s"),
            close_portal("unknown"),
            sync(),
        ])
        .ready(1)
        .send([sync(), sync()])
        .ready(2)
        .rows("select * from t");
    pair.check(&script);
}

/// After an error everything up to Sync is skipped, at whatever message it happened.
#[test]
fn errors_at_each_message() {
    let pair = pair(TABLE);
    let good = || run("select 'never'", &[]);
    let failing = [
        parse("", "selec 1", &[]),
        bind("", "unknown", &[]),
        [parse("", "select $1::int", &[]), bind("", "", &[])].concat(),
        [parse("", "select $1::int", &[]), bind("", "", &[Some("x")])].concat(),
        describe_statement("unknown"),
        describe_portal("unknown"),
        execute("unknown", 0),
        run("select 1/0", &[]),
        run("insert into t values (1)", &[]),
    ];
    let mut script = Script::new().query("insert into t values (1)");
    for messages in failing {
        script = script.send([messages.clone(), good(), sync()]).ready(1);
        script = script.query("begin").send([messages, good(), sync()]).ready(1);
        script = script.send([good(), sync()]).ready(1).query("rollback");
    }
    pair.check(&script);
}

#[test]
fn portals_give_their_rows_in_parts() {
    let pair = pair("");
    let script = Script::new()
        .send([parse("", "select * from generate_series(1, 5)", &[]), bind("", "", &[])])
        .send([execute("", 2), execute("", 2), execute("", 2), sync()])
        .ready(1)
        .query("begin")
        .send([parse("", "select * from generate_series(1, 3)", &[]), bind("cursor", "", &[]), sync()])
        .ready(1)
        .send([execute("cursor", 2), sync()])
        .ready(1)
        .send([execute("cursor", 2), close_portal("cursor"), execute("cursor", 1), sync()])
        .ready(1)
        .query("rollback");
    pair.check(&script);
}

/// A named statement made and used inside one transaction stays on its server.
#[test]
fn named_statements_inside_a_transaction() {
    let pair = pair(TABLE);
    let script = Script::new()
        .query("begin")
        .send([parse("add", "insert into t values ($1)", &[]), sync()])
        .ready(1)
        .send([
            bind("", "add", &[Some("1")]),
            execute("", 0),
            bind("", "add", &[Some("2")]),
            execute("", 0),
            sync(),
        ])
        .ready(1)
        .send([bind("", "add", &[Some("2")]), execute("", 0), sync()])
        .ready(1)
        .send([bind("", "add", &[Some("3")]), execute("", 0), sync()])
        .ready(1)
        .query("rollback")
        .query("begin")
        .send([close_statement("add"), sync()])
        .ready(1)
        .query("commit")
        .rows("select * from t");
    pair.check(&script);
}

#[test]
fn binary_values() {
    let pair = pair("");
    let (number, bytes) = (7_i32.to_be_bytes(), [0_u8, 1, 255]);
    let values: [Option<&[u8]>; 2] = [Some(&number), Some(&bytes)];
    let script = Script::new()
        .send([parse("", "select $1::int4, $2::bytea, 'text'", &[])])
        .send([
            bind_with_formats("", "", &[1], &values, &[1, 1, 0]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ])
        .ready(1);
    pair.check(&script);
}

#[test]
fn a_batch_cut_at_every_byte() {
    let pair = pair("");
    let batch = [run("select $1::text", &[Some("cut")]), sync()];
    let length = batch.concat().len();
    let script =
        (1..length).fold(Script::new(), |script, at| script.send_split(batch.clone(), &[at]).ready(1));
    pair.check(&script);
}

#[test]
fn large_values() {
    let pair = pair(TABLE);
    let large = "x".repeat(3_000_000);
    let script = Script::new()
        .send([run("insert into t values (1, $1)", &[Some(&large)]), run("select v from t", &[]), sync()])
        .ready(1)
        .send([run("select length($1)", &[Some(&large)]), sync(), run("select 1", &[]), sync()])
        .ready(2);
    pair.check(&script);
}

#[test]
fn simple_and_extended_mixed() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([query("begin"), run("insert into t values (1)", &[]), sync(), query("commit")])
        .ready(3)
        .send([run("select 1", &[]), query("select 2"), run("select 3", &[]), sync()])
        .ready(2)
        .send([run("insert into t values (2)", &[]), query("insert into t values (3)"), sync()])
        .ready(2)
        .rows("select * from t order by id");
    pair.check(&script);
}
