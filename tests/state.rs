//! Session state in transaction mode: it follows its client from server to server, nobody else sees it, and for what
//! can't follow the client keeps its server as long as it exists. (Bugs 24 to 39 of other poolers.)

use support::frontend::*;
use support::oracle::Script;

use crate::common::{Configure, Ways, ways};

/// Poolers whose clients meet every state of a server: one connection shared by all clients, a fresh connection for each
/// transaction, two connections used in turn.
const CONFIGURATIONS: [Configure; 3] = [
    |builder| builder.setting("default_pool_size", 1),
    |builder| builder.setting("default_pool_size", 1).setting("server_lifetime", 0),
    |builder| builder.setting("default_pool_size", 2).setting("server_round_robin", 1),
];

/// Every client gives these at its login.
fn ways_with(setup: &str, params: &[(&str, &str)]) -> Ways {
    let mut ways = ways(setup, CONFIGURATIONS);
    let ways_in = ways.oracle.pooled.iter_mut().chain([&mut ways.oracle.direct]);
    for way in ways_in {
        for (name, value) in params {
            way.target = way.target.clone().param(name, value);
        }
    }
    ways
}

fn check(setup: &str, script: &Script) {
    ways(setup, CONFIGURATIONS).oracle.check(script);
}

/// What every client can see of its session.
const SEES: &str = "select current_setting('search_path'), current_setting('work_mem'), current_setting('statement_timeout'), \
                    current_setting('TimeZone'), nullif(current_setting('app.user_id', true), ''), current_user, session_user = current_user";

/// Every client looks at what it has, other clients in between.
fn everyone_looks(mut script: Script, clients: usize) -> Script {
    for client in (0..clients).chain((0..clients).rev()) {
        script = script.on(client).query(SEES);
    }
    script.on(0)
}

/// Each way to change a setting, in and out of transactions that commit or do not. (Rows 24 to 27, 30.)
#[test]
fn settings_follow_their_client() {
    let changes = [
        "set search_path = a, \"b c\"",
        "set work_mem = '7MB'",
        "select set_config('app.user_id', '42', false)",
        "set app.user_id = 'it''s'",
        "begin; set work_mem = '8MB'; commit",
        "begin; set work_mem = '9MB'; rollback",
        "set statement_timeout = '17s'; set timezone = 'Asia/Tokyo'",
        "do $$ begin perform set_config('work_mem', '10MB', false); end $$",
        "set local work_mem = '11MB'",
        "reset work_mem",
        "set search_path = ''",
        "reset all",
        "set time zone 'Europe/Rome'",
        "set session characteristics as transaction read only",
        "set default_transaction_read_only = off",
        "discard all",
        "set search_path to default",
    ];
    let mut script = everyone_looks(Script::new(), 2);
    for change in changes {
        script = everyone_looks(script.query(change), 2);
    }
    check("", &script);
}

#[test]
fn settings_in_transactions_and_savepoints() {
    let steps = [
        "begin",
        "set work_mem = '7MB'",
        "savepoint s",
        "set work_mem = '8MB'",
        "set app.user_id = '8'",
        "rollback to s",
        "set local statement_timeout = '3s'",
        "commit",
        "begin",
        "set work_mem = '12MB'",
        "select 1/0",
        "rollback",
        "begin",
        "reset work_mem",
        "rollback",
    ];
    let mut script = Script::new();
    for step in steps {
        script = script.query(step).query(SEES);
    }
    check("", &everyone_looks(script, 3));
}

/// In the extended protocol, with the name and the value bound.
#[test]
fn settings_through_bound_arguments() {
    let call = |statement: &str, values: &[Option<&str>]| {
        [bind("", statement, values), execute("", 0), sync()].concat()
    };
    let script = Script::new().send([parse("s", "select set_config($1, $2, false)", &[]), sync()]).ready(1);
    let script = script.send([call("s", &[Some("app.user_id"), Some("7")])]).ready(1);
    let script = everyone_looks(script, 2).send([call("s", &[Some("work_mem"), Some("7MB")])]).ready(1);
    let script =
        everyone_looks(script, 2).send([parse("", "set search_path = x", &[]), call("", &[])]).ready(1);
    check("", &everyone_looks(script, 2));
}

/// Rows 34 to 36, and what else stays on its server: others never see it, and its client always does.
#[test]
fn what_cannot_move_keeps_its_server() {
    let steps = [
        "create temp table mine (id int)",
        "insert into mine values (1), (2)",
        "select * from mine",
        "drop table mine",
        "select pg_advisory_lock(7)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "select pg_advisory_unlock(7)",
        "begin",
        "declare c cursor with hold for select generate_series(1, 5)",
        "commit",
        "fetch 2 from c",
        "fetch 2 from c",
        "close c",
        "prepare p (int) as select $1 + 1",
        "execute p(1)",
        "deallocate p",
        "begin; create temp table gone (id int) on commit drop; commit",
        "do $$ begin create temp table inside (id int); perform pg_advisory_lock(8); end $$",
        "select * from inside",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "discard all",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ];
    let mut script = Script::new();
    for step in steps {
        script = script.query(step);
    }
    check("", &script);
}

/// Settings of the start-up packet, reported or not, are where `RESET` returns to. (Row 29.)
#[test]
fn sessions_begin_as_their_clients_say() {
    let params = [
        ("options", "-c work_mem=5MB --app.user_id=start"),
        ("search_path", "start, public"),
        ("application_name", "begins"),
        ("DateStyle", "German"),
    ];
    let dates = "select current_setting('application_name'), '2026-11-21'::date::text";
    let mut script = everyone_looks(Script::new(), 2).query(dates);
    let changes = [
        "set work_mem = '7MB'",
        "reset work_mem",
        "begin; set search_path = other; commit",
        "begin; reset search_path; commit",
        "set app.user_id = 'changed'",
        "set work_mem to default",
        "reset app.user_id",
        "set work_mem = '7MB'; set search_path = x",
        "reset all",
        "set search_path = x",
        "discard all",
    ];
    for change in changes {
        script = everyone_looks(script.query(change), 2).query(dates);
    }
    for step in ["begin", "set work_mem = '9MB'", "reset work_mem", SEES, "set search_path = y", "rollback"] {
        script = script.query(step);
    }
    let ways = ways_with("", &params);
    ways.oracle.check(&everyone_looks(script, 2));
}

#[test]
fn sequences_are_asked_by_who_advanced_them() {
    let setup = "create table t (id serial primary key, v text); create sequence s start 100";
    let steps = ["insert into t (v) values ('x')", "select 1", "select currval('t_id_seq'), lastval()"];
    let steps =
        steps.into_iter().chain(["select nextval('s')", "select lastval()", "select currval('t_id_seq')"]);
    let mut script = Script::new().query("select nextval('s')").query("select currval('s')");
    for step in steps {
        script = script.query(step);
    }
    check(setup, &script.query("discard all").query("select lastval()"));
}
