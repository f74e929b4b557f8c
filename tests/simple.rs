//! The simple protocol in transaction mode.

use support::frontend::*;
use support::oracle::Script;

use crate::common::pair;

const TABLE: &str = "create table t (id int primary key, v text)";

#[test]
fn every_kind_of_reply() {
    let pair = pair(TABLE);
    let statements = [
        "select 1, null, 'text'",
        "select",
        "select from generate_series(1, 3)",
        "",
        " ; ; ",
        "-- nothing",
        "insert into t values (1, 'one'), (2, 'two')",
        "update t set v = 'new' where id > 5",
        "delete from t where id = 2 returning *",
        "select * from t",
        "create table made (id int); drop table made",
        "select 1; select 2; select 3",
        "do $$ begin raise notice 'a notice'; raise warning 'a warning'; end $$",
        "values (1), (2)",
        "explain (costs off) select * from t",
        "vacuum t",
        "show server_encoding",
        "checkpoint",
    ];
    pair.check(&statements.iter().fold(Script::new(), |script, sql| script.query(sql)));
}

#[test]
fn errors_keep_their_fields() {
    let pair = pair(TABLE);
    let statements = [
        "selec 1",
        "select 1/0",
        "select nothing from t",
        "select 1; select 1/0; select 2",
        "insert into t values (7, 'x'); insert into t values (7, 'y')",
        "select * from t",
        "do $$ begin raise exception 'own' using errcode = 'XX123', detail = 'd', hint = 'h'; end $$",
        "copy t from '/nonexistent'",
    ];
    pair.check(&statements.iter().fold(Script::new(), |script, sql| script.query(sql)));
}

/// Failed transactions used to be released, or ROLLBACK TO refused (bug 19: pgdog#545).
#[test]
fn transactions_and_savepoints() {
    let pair = pair(TABLE);
    let script = Script::new()
        .query("begin")
        .query("insert into t values (1, 'kept')")
        .query("savepoint a")
        .query("insert into t values (1, 'duplicate')")
        .query("select 'refused in a failed transaction'")
        .query("rollback to a")
        .query("insert into t values (2, 'kept too')")
        .query("release a")
        .query("commit")
        .query("begin; insert into t values (3, 'lost')")
        .query("select * from t order by id")
        .query("rollback")
        .query("begin; select 1/0")
        .query("commit")
        .query("commit")
        .query("begin; begin")
        .query("rollback and chain")
        .query("rollback")
        .rows("select * from t order by id");
    pair.check(&script);
}

#[test]
fn several_queries_in_one_write() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([query("select 1"), query("select 1/0"), query(""), query("begin"), query("select 2")])
        .ready(5)
        .send([query("commit"), query("select 3"), query("insert into t values (1)")])
        .ready(3)
        .rows("select * from t");
    pair.check(&script);
}

#[test]
fn a_query_cut_at_every_byte() {
    let pair = pair("");
    let messages = [query("select 'cut'"), query("")];
    let length = messages.concat().len();
    let script =
        (1..length).fold(Script::new(), |script, at| script.send_split(messages.clone(), &[at]).ready(2));
    pair.check(&script);
    let every: Vec<usize> = (1..length).collect();
    pair.check(&Script::new().send_split(messages, &every).ready(2));
}

/// Larger than any buffer, in both directions.
#[test]
fn large_queries_and_large_rows() {
    let pair = pair("");
    let long = format!("select length('{}')", "x".repeat(3_000_000));
    let script = Script::new()
        .query(&long)
        .query("select repeat('y', 5000000)")
        .query("select n, repeat('z', 100) from generate_series(1, 20000) n")
        .send([query(&long), query("select repeat('y', 70000)"), query(&long)])
        .ready(3);
    pair.check(&script);
}

/// Changes of reported parameters reach the client when they happen, the undoing of a rolled-back SET too.
#[test]
fn reported_parameters() {
    let pair = pair("");
    let statements = [
        "set application_name = 'mine'",
        "begin; set timezone = 'Asia/Tokyo'",
        "rollback",
        "set datestyle = 'German'; select date '2026-02-01'",
        "set client_encoding = latin1; select 'a'",
        "reset client_encoding",
        "set local timezone = 'Europe/Paris'",
        "begin; set local timezone = 'Europe/Paris'; show timezone",
        "commit",
        "show timezone",
        "reset all",
    ];
    pair.check(&statements.iter().fold(Script::new(), |script, sql| script.query(sql)));
}

#[test]
fn a_fast_path_function_call() {
    const INT4PL: u32 = 177;
    let (one, two) = (1_i32.to_be_bytes(), 2_i32.to_be_bytes());
    let call = function_call(INT4PL, &[Some(&one), Some(&two)]);
    let pair = pair("");
    let script = Script::new()
        .send([call.clone(), query("select 1"), call.clone()])
        .ready(3)
        .send([function_call(INT4PL, &[Some(&one), None]), function_call(0, &[])])
        .ready(2)
        .query("begin")
        .send([call])
        .ready(1)
        .query("commit");
    pair.check(&script);
}

#[test]
fn two_clients_in_turn() {
    let pair = pair(TABLE);
    let script = Script::new()
        .query("select 'first'")
        .on(1)
        .query("select 'second'")
        .on(0)
        .query("begin; insert into t values (1)")
        .query("commit")
        .on(1)
        .query("select * from t")
        .on(0)
        .query("select 1/0")
        .on(1)
        .query("select 'not an error'");
    pair.check(&script);
}
