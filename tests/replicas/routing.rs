//! Which host a statement goes to with `read_routing = auto`: what only reads goes to a replica, and nothing else does.

use support::frontend::*;
use support::wire::Client;

use super::{Fleet, PORT, batch, eventual, extended};

const SETUP: &str = "
    create table t (id int primary key, v text); insert into t select n, 'row ' || n from generate_series(1, 100) n;
    create sequence s; create materialized view m as select 1 as one;
    create function mine(int) returns int stable language sql as 'select $1 + 1';
    create procedure does_nothing() language sql as 'select 1';
    create function written(int) returns int language sql as 'insert into t values ($1) returning id'";

/// Statements that yield, as their last column, the port of the host that has run them.
fn reads() -> Vec<String> {
    [
        "select {}",
        "select count(*), {} from t",
        "(select v, {} from t where id = 7)",
        "values (1, {})",
        "with recursive up(n) as (select 1 union all select n + 1 from up where n < 9) select max(n), {} from up",
        "select 'for update', {} -- insert into t\n from t limit 1",
        "/* update t */ select $$delete from t$$, {}",
        "select id, {} from t union all select 0, {} order by 1 limit 1",
        "select now() > 'epoch', random() >= 0, upper(v), {} from t where id = 1",
        "select \"update\", {} from (select 1 as \"update\") x",
        "select 1; select {}",
        "begin; select {}; commit",
    ]
    .map(|sql| sql.replace("{}", PORT))
    .to_vec()
}

/// The same of what is not sure to be only a read.
fn writes() -> Vec<String> {
    [
        "insert into t values ({n}, 'a') returning {}",
        "update t set v = 'b' where id = 1 returning {}",
        "delete from t where id = (select max(id) from t) returning {}",
        "select id, {} from t where id = 3 for update",
        "select id, {} from t where id = 3 for no key update of t skip locked",
        "select id, {} from t where id = 3 for share nowait",
        "select id, {} from t where id = 3 for key share",
        "select * from (select id, {} from t where id = 3 for update) x",
        "with w as (insert into t values ({n}) returning id) select id, {} from w",
        "with w as (select 1), x as (delete from t where id > 100 returning id) select count(*), {} from x",
        "select nextval('s'), {}",
        "select setval('s', 10), {}",
        "select pg_advisory_xact_lock(7), {}",
        "select txid_current(), {}",
        "select lo_create(0), {}",
        "select pg_is_in_recovery(), {}",
        "select inet_server_port(), {}",
        "select count(*), {} from pg_stat_activity",
        "select mine(1), {}",
        "select written({n}), {}",
        "select pg_catalog.set_config('work_mem', '5MB', true), {}",
        "insert into t values ({n}); select {}",
        "select 1; delete from t where id > 100; select {}",
        "begin; delete from t where id > 100; select {}; commit",
        "begin isolation level serializable read only; select {}; commit",
    ]
    .map(|sql| sql.replace("{}", PORT))
    .to_vec()
}

/// Of the same kind, but without a row, or without a column for the port.
const SILENT_WRITES: [&str; 20] = [
    "select id into made from t",
    "select id into temp made_temp from t",
    "drop table made",
    "create table made_as as select 1 as one",
    "begin; lock table t; commit",
    "explain analyze insert into t values (0)",
    "do $$ begin perform 1; end $$",
    "call does_nothing()",
    "truncate made_as",
    "vacuum made_as",
    "analyze made_as",
    "notify somebody",
    "comment on table t is 'what it is'",
    "refresh materialized view m",
    "prepare w as update t set v = 'prepared' where id = 9",
    "execute w",
    "deallocate w",
    "checkpoint_of_nobody",
    "grant select on t to public",
    "alter table t add column more int",
];

/// `{n}` is a number that no row has.
fn numbered(sql: &str, number: &mut usize) -> String {
    *number += 1;
    sql.replace("{n}", &number.to_string())
}

/// The replicas share the reads, the primary gets none, and what `SHOW HOSTS` counts is what happened.
#[test]
fn reads_are_spread_over_the_replicas() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let before = fleet.reads();
    let mut counts = [0, 0, 0];
    let mut client = fleet.connect();
    for round in 0..200 {
        let sql = format!("select v, {PORT} from t where id = 1");
        let reply = if round % 2 == 0 { client.execute(&sql) } else { extended(&mut client, &sql) };
        counts[fleet.place_of(&reply)] += 1;
    }
    assert_eq!(counts[0], 0, "{counts:?}");
    assert!(counts[1] >= 20 && counts[2] >= 20, "{counts:?}");
    let counted: Vec<u64> = fleet.reads().iter().zip(&before).map(|(after, before)| after - before).collect();
    assert_eq!(counted, counts);
}

/// Every form of a read, in both protocols.
#[test]
fn what_only_reads_goes_to_a_replica() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    for sql in reads() {
        let reply = client.execute(&sql);
        assert_ne!(fleet.place_of(&reply), 0, "{sql}");
        if !sql.contains(';') {
            let reply = extended(&mut client, &sql);
            assert_ne!(fleet.place_of(&reply), 0, "extended: {sql}");
        }
    }
    assert_eq!(fleet.refusals(), [""; 0]);
    client.send(query(&format!("copy (select id, {PORT} from t where id = 1) to stdout")));
    let copied = client.read_until_ready();
    let data = copied.0.iter().find(|message| message.tag == b'd').expect("a row");
    let text = String::from_utf8_lossy(&data.body).into_owned();
    let (id, port) = text.trim_end().split_once('\t').expect("two columns");
    assert_eq!(id, "1");
    assert_ne!(fleet.place(port), 0);
}

/// Row 77: writes of every form, locks, functions that are not known; none of them is even tried on a replica.
#[test]
fn what_is_not_only_a_read_goes_to_the_primary() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let before = fleet.reads();
    let (mut client, mut number) = (fleet.connect(), 1000);
    for sql in writes() {
        let simple = numbered(&sql, &mut number);
        let reply = client.execute(&simple);
        assert_eq!(fleet.place_of(&reply), 0, "{simple}");
        if !sql.contains(';') {
            let reply = extended(&mut client, &numbered(&sql, &mut number));
            assert_eq!(reply.error(), None, "extended: {sql}");
            assert_eq!(fleet.place_of(&reply), 0, "extended: {sql}");
        }
    }
    for sql in SILENT_WRITES {
        let reply = client.query(sql);
        let code = if sql == "checkpoint_of_nobody" { "42601" } else { "" };
        assert_eq!(reply.error_code(), code, "{sql}: {reply:?}");
    }
    assert_eq!(fleet.reads(), before);
    assert_eq!(fleet.refusals(), [""; 0]);
}

/// `read_functions`: who knows that a function only reads can say so.
#[test]
fn functions_that_are_said_only_to_read() {
    let fleet = Fleet::quiet(SETUP, |builder| eventual(builder).setting("read_functions", "mine, other"));
    let mut client = fleet.connect();
    assert_ne!(fleet.place_of(&client.execute(&format!("select mine(1), {PORT}"))), 0);
    assert_ne!(fleet.place_of(&extended(&mut client, &format!("select Mine(1), {PORT}"))), 0);
    assert_eq!(fleet.place_of(&client.execute(&format!("select written(1000), {PORT}"))), 0);
    assert_eq!(fleet.refusals(), [""; 0]);
}

/// Statements up to one Sync are one transaction: one that writes takes all of them along.
#[test]
fn a_batch_stays_together() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let read = format!("select count(*), {PORT} from t");
    let write = format!("update t set v = 'w' where id = 1 returning 1, {PORT}");
    for statements in [[&read, &write], [&write, &read]] {
        client.send([batch(statements[0]), batch(statements[1]), sync()].concat());
        let reply = client.read_until_ready();
        let places: Vec<usize> =
            reply.rows().iter().map(|row| fleet.place(row[1].as_deref().unwrap())).collect();
        assert_eq!(places, [0, 0], "{reply:?}");
        assert_eq!(reply.tags(), "12TDC12TDCZ");
    }
    client.send([batch(&read), batch(&read), sync()].concat());
    let reply = client.read_until_ready();
    let places: Vec<usize> = reply.rows().iter().map(|row| fleet.place(row[1].as_deref().unwrap())).collect();
    assert!(places[0] != 0 && places[0] == places[1], "{places:?}");
    assert_eq!(fleet.refusals(), [""; 0]);
}

/// Batches that are sent all at once are each judged by itself, are answered in their order, and see what those before
/// them have written.
#[test]
fn a_pipeline_of_reads_and_writes() {
    let fleet = Fleet::quiet(SETUP, |builder| builder);
    let mut client = fleet.connect();
    let mut on_replicas = 0;
    for round in 0..20 {
        let write = format!("update t set v = 'round {round}' where id = 5 returning v, {PORT}");
        let read = format!("select v, {PORT} from t where id = 5");
        let other = format!("select 'other', {PORT}");
        let simple = |sql: &str| query(sql);
        let synced = |sql: &str| [batch(sql), sync()].concat();
        client.send([synced(&other), synced(&write), synced(&read), simple(&read), synced(&other)].concat());
        let replies: Vec<Vec<Option<String>>> =
            (0..5).map(|_| client.read_until_ready().rows().remove(0)).collect();
        let values: Vec<&str> = replies.iter().map(|row| row[0].as_deref().unwrap()).collect();
        let round = format!("round {round}");
        assert_eq!(values, ["other", &round, &round, &round, "other"]);
        assert_eq!(fleet.place(replies[1][1].as_deref().unwrap()), 0);
        on_replicas += usize::from(fleet.place(replies[0][1].as_deref().unwrap()) != 0);
    }
    assert!(on_replicas > 0, "no read that came first went to a replica");
}

/// A batch that is not sent as a whole: what was asked for with Flush is answered, wherever the rest goes.
#[test]
fn a_batch_in_pieces() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let pieces = |client: &mut Client, sql: &str| {
        client.send([parse("", sql, &[]), describe_statement(""), flush()].concat());
        client.read_until(b'T');
        client.send([bind("", "", &[]), execute("", 0), sync()].concat());
        client.read_until_ready()
    };
    for _ in 0..10 {
        let reply = pieces(&mut client, &format!("select v, {PORT} from t where id = 6"));
        assert_eq!(reply.tags(), "2DCZ");
        let reply = pieces(&mut client, &format!("update t set v = v where id = 6 returning v, {PORT}"));
        assert_eq!((reply.tags().as_str(), fleet.place_of(&reply)), ("2DCZ", 0));
    }
    assert_eq!(fleet.refusals(), [""; 0]);
}

/// With `off` and `explicit` nothing goes to a replica that did not ask for it.
#[test]
fn who_does_not_want_it() {
    for routing in ["off", "explicit"] {
        let fleet = Fleet::quiet(SETUP, |builder| eventual(builder).setting("read_routing", routing));
        let mut client = fleet.connect();
        let places: Vec<usize> = (0..20).map(|_| fleet.reads_at(&mut client)).collect();
        assert_eq!(places, [0; 20], "{routing}");
    }
}
