//! Session state in transaction mode: it follows its client from server to server, nobody else sees it, and for what
//! can't follow the client keeps its server as long as it exists. (Bugs 24 to 39 of other poolers.)

use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::postgres::Postgres;

use crate::common::{CONFIGURATIONS, Configure, Ways, ways};

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

/// What is sent right behind a reset, in the same write even, finds the settings of the start-up packet: Npgsql puts its
/// `DISCARD ALL`, or the `RESET ALL` among others, in front of the first query of whoever gets the connection next.
#[test]
fn nothing_runs_between_a_reset_and_its_return() {
    let params = [("search_path", "start, public"), ("options", "-c work_mem=5MB")];
    let asks = "select v, current_setting('work_mem') from t";
    let run =
        || [parse("", asks, &[]), describe_statement(""), bind("", "", &[]), execute("", 0), sync()].concat();
    let mut script = Script::new();
    for reset in ["discard all", "set session authorization default; reset all; close all; discard temp"] {
        script = script.query("set search_path = public").send([query(reset), run()]).ready(2);
        script = script.on(1).query(SEES).on(0).send([query(reset), query(asks), run()]).ready(3);
    }
    let reset = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    let script = script.send([reset("set work_mem to default"), run(), query(asks)]).ready(3);
    let script =
        script.send([query("begin"), query("reset search_path"), run(), query("commit"), run()]).ready(5);
    let script =
        script.query("begin").send([query("select 1/0"), query("reset all"), run(), query("rollback")]);
    let script = script.ready(4).send([query("reset all"), query("select 1/0"), run()]).ready(3);
    let setup = "create schema start; create table start.t as select 'start' v; create table public.t as select 'public' v";
    ways_with(setup, &params).oracle.check(&script.send([query("reset all"), terminate()]).closed());
}

/// What a reset reports comes in front of its end, where the start-up packet says nothing else.
#[test]
fn resets_are_reported_in_their_turn() {
    let mut script = Script::new();
    for reset in ["reset all", "reset DateStyle", "discard all", "set DateStyle to default"] {
        script = script.query("do $$ begin perform set_config('DateStyle', 'SQL, DMY', false); end $$");
        script = script
            .query("select '2026-11-21'::date::text")
            .query(reset)
            .query("select '2026-11-21'::date::text");
    }
    ways_with("", &[("client_encoding", "UTF8")]).oracle.check(&script);
}

/// Also the first in the life of a pool, on a server where another client has advanced a sequence.
#[test]
fn the_first_who_asks_for_a_sequence_is_answered() {
    let setup = "create table t (id serial primary key, v text); create sequence s start 100";
    let script =
        Script::new().on(1).query("insert into t (v) values ('x')").on(2).query("select nextval('s')");
    check(
        setup,
        &script.on(0).query("select nextval('s')").query("select currval('s')").query("select lastval()"),
    );
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

/// A role that a user has by default is no setting of the session, and `none` is one. (Row 28.)
#[test]
fn the_role_that_a_user_begins_with() {
    const CONFIGURATIONS: [Configure; 2] = [
        |builder| builder.setting("default_pool_size", 1).secret("begins", ""),
        |builder| {
            builder.setting("default_pool_size", 2).setting("server_round_robin", 1).secret("begins", "")
        },
    ];
    Postgres::shared().sql(
        "create role begins login; create role begun_as; create role another; grant begun_as, another to begins; \
         alter role begins set role = begun_as",
    );
    let sees = "select current_setting('role'), current_user, session_user";
    let changes = [
        "set work_mem = '7MB'",
        "set role none",
        "set role another",
        "reset role",
        "begin; set local role another; commit",
        "set role none",
        "discard all",
        "set role none; set work_mem = '8MB'",
        "set role to default",
    ];
    let mut script = Script::new();
    for change in changes {
        script = script.query(change);
        for client in [0, 1, 2, 0] {
            script = script.on(client).query(sees);
        }
    }
    let mut ways = ways("", CONFIGURATIONS);
    for way in ways.oracle.pooled.iter_mut().chain([&mut ways.oracle.direct]) {
        way.target = way.target.clone().user("begins");
    }
    ways.oracle.check(&script);
}

/// Sessions that begin behind `ALTER ROLE` or `DATABASE ... SET` have the new values, whichever server they get; whose
/// defaults do not change keep their servers. (Row 39.)
#[test]
fn new_defaults_are_for_all_that_come() {
    let pooled = crate::common::pooled("", |builder| builder.setting("default_pool_size", 2));
    let name = pooled.database.name();
    let (mut old, mut another) = (pooled.connect(), pooled.connect());
    old.execute("begin");
    another.execute("begin"); // both servers are there
    another.execute("commit");
    old.execute("commit");
    let pid = old.backend_pid();
    assert_eq!(old.scalar("show work_mem"), "4MB");
    assert_eq!(old.backend_pid(), pid, "nothing was changed");
    for (change, value) in [
        (format!("alter database {name} set work_mem = '7MB'"), "7MB"),
        (format!("alter database {name} reset work_mem"), "4MB"),
    ] {
        old.execute(&change);
        for _ in 0..3 {
            let (mut first, mut second) = (pooled.connect(), pooled.connect());
            first.execute("begin");
            second.execute("begin");
            assert_eq!([first.scalar("show work_mem"), second.scalar("show work_mem")], [value; 2]);
        }
    }
    // Reported ones are told at the login as well.
    old.execute(&format!("begin; alter database {name} set timezone = 'Asia/Tokyo'; commit"));
    assert_eq!(pooled.connect().params["TimeZone"], "Asia/Tokyo");
}

/// Connections that the pooler keeps for nobody are not in the way of what needs a database without any; those that a
/// client uses are.
#[test]
fn databases_are_dropped_whose_clients_have_gone() {
    let postgres = Postgres::shared();
    let victim = postgres.database("victim");
    let home = postgres.database("home");
    let [name, renamed, copy] = ["", "_renamed", "_copy"].map(|suffix| format!("{}{suffix}", victim.name()));
    let builder =
        crate::common::pooler().database(&victim, "").database(&home, "").setting("default_pool_size", 3);
    let as_renamed = format!("host=127.0.0.1 port={} dbname={renamed}", postgres.port());
    let pooler = builder.database_line("renamed", &as_renamed).start();
    let use_it = |name: &str| {
        let mut clients = [pooler.connect(name), pooler.connect(name)];
        clients.iter_mut().for_each(|client| drop(client.execute("begin")));
        clients.iter_mut().for_each(|client| drop(client.execute("commit")));
        clients
    };
    let mut admin = pooler.connect(home.name());
    let clients = use_it(&name);
    // PostgreSQL looks again for 5 s before it refuses, so that the time says who has closed them.
    let begin = std::time::Instant::now();
    admin.execute(&format!("create database {copy} template {name}"));
    admin.execute(&format!("drop database {copy}"));
    assert!(use_it(&name).len() == 2);
    admin.execute(&format!("alter database {name} rename to {renamed}"));
    drop(clients);
    let mut user = use_it("renamed");
    user[0].execute("begin");
    assert!(begin.elapsed() < support::wait::patient(Duration::from_secs(4)), "{:?}", begin.elapsed());
    let reply = admin.query(&format!("drop database {renamed}"));
    assert_eq!(reply.error_code(), "55006", "{reply:?}");
    user[0].execute("commit");

    // In the extended protocol, in front of other requests, and by a client that does not wait for it.
    let drop_it = format!("drop database {renamed}");
    admin.send_all([parse("", &drop_it, &[]), bind("", "", &[]), execute("", 0), sync(), query("select 7")]);
    let reply = [admin.read_until_ready(), admin.read_until_ready()];
    assert_eq!(reply[0].commands(), ["DROP DATABASE"], "{reply:?}");
    assert_eq!(reply[1].rows(), [[Some("7".to_string())]]);
    assert_eq!(admin.scalar("select count(*) from pg_database where datname like 'victim%'"), "0");
}

/// Settings that only the bodies of functions name, as for row-level security, belong to the client that has called them.
#[test]
fn settings_that_only_functions_name() {
    let setup = "create table rows (tenant int, later text); \
        insert into rows values (1, 'x'), (42, 'x'), (42, 'y'); \
        create function visible(int, text) returns boolean language plpgsql stable as $$ begin \
            return $1 = nullif(current_setting('app.tenant', true), '')::int \
            or $2 = (select current_setting(name || 'er', true) from (values ('app.lat')) as n (name)); end $$; \
        create policy mine on rows using (visible(tenant, later)); \
        alter table rows enable row level security; alter table rows force row level security; \
        create function log_in(int) returns void language plpgsql as $$ begin \
            perform Set_Config ( 'app.tenant' , $1::text, false); end $$; \
        create procedure log_out() language plpgsql as $$ begin reset App.tenant; end $$";
    let later = "create function later(text) returns void language plpgsql as $$ begin \
        if $1 = 'y' then set app.later = 'y'; else set app.later to 'x'; end if; end $$";
    let rows = "select tenant, later from rows order by 1, 2";
    let mut script = Script::new();
    let steps = [
        (0, "select log_in(42)"),
        (1, "begin; select log_in(1); commit"),
        (2, later),
        (2, "select later('y')"),
    ];
    let steps = steps.into_iter().chain([
        (1, "begin; select log_in(42); rollback"),
        (0, "call log_out()"),
        (0, "select later('x')"),
        (2, "discard all"),
    ]);
    for (client, step) in steps {
        script = script.on(client).query(step);
        for looks in [0, 1, 2, 3, 1, 0, 2] {
            script = script.on(looks).query(rows);
        }
    }
    check(setup, &script);
}

/// What goes to the temporary schema only because that comes first is temporary, too.
#[test]
fn what_is_temporary_by_its_place() {
    let mut script = Script::new().query("set search_path = pg_temp, public");
    for step in ["create table hidden (id int)", "insert into hidden values (7)", "select * from hidden"] {
        script = script.query(step).on(1).query("select * from hidden").on(0);
    }
    let steps = ["drop table hidden", "create view hidden as select 1", "select * from hidden", "reset all"];
    for step in steps {
        script = script.query(step).on(1).query("select * from hidden").on(0);
    }
    ways("", [CONFIGURATIONS[2]]).oracle.check(&script);
}

/// What only a look at the session can find, because no text tells of it: triggers and operators that call functions.
const UNSEEN: &str = "create table t (id int default 1); create table r (tenant int); insert into r values (1), (42); \
    create function triggers() returns trigger language plpgsql as $$ begin \
        perform set_config('work_mem', new.id || 'MB', false), set_config('app.tenant', '42', false); return new; end $$; \
    create trigger t before insert on t for each row execute function triggers(); \
    create function own(int, int) returns boolean language plpgsql as $$ begin \
        return $1 = nullif(current_setting('app.tenant', true), '')::int; end $$; \
    create operator === (leftarg = int, rightarg = int, function = own); \
    create function locks(int) returns int language plpgsql as $$ begin \
        perform pg_advisory_lock($1); return 1; end $$";
const SEES_UNSEEN: &str = "select current_setting('work_mem'), (select count(*) from r where tenant === 1), \
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())";

#[test]
fn what_triggers_and_operators_do_unseen() {
    let mut script = Script::new();
    let steps = [
        "insert into t values (7)",
        "begin; insert into t values (8); rollback",
        "create operator @@@ (rightarg = int, function = locks)",
        "select @@@ 7",
        "reset all",
        "select pg_advisory_unlock_all()",
        "drop operator @@@ (none, int)",
        "drop trigger t on t",
        "insert into t values (9)",
        "create trigger t before insert on t for each row execute function triggers()",
        "insert into t values (10)",
    ];
    for step in steps {
        script = script.on(0).query(step);
        for client in [0, 1, 0, 1] {
            script = script.on(client).query(SEES_UNSEEN);
        }
    }
    const NEVER: [Configure; 2] = [
        |builder| builder.setting("default_pool_size", 2).setting("audit_sample", 0),
        |builder| {
            builder.setting("default_pool_size", 2).setting("audit_sample", 0).setting("server_lifetime", 0)
        },
    ];
    ways(UNSEEN, NEVER).oracle.check(&script);
}

/// What is hidden even from who reads the functions is found by looking at the session; how often is a setting.
#[test]
fn sampled_audits_find_what_nothing_tells() {
    let setup = "create table t (id int); create function triggers() returns trigger language plpgsql as $$ begin \
            execute 'se' || 't work_mem = ' || new.id; return new; end $$; \
        create trigger t before insert on t for each row execute function triggers()";
    let mut script = Script::new();
    for step in [
        "insert into t values (777)",
        "begin; insert into t values (888); rollback",
        "insert into t values (999)",
    ] {
        script = script.on(0).query(step);
        for client in [0, 1, 0, 1] {
            script = script.on(client).query("show work_mem");
        }
    }
    const ALWAYS: [Configure; 2] = [
        |builder| builder.setting("default_pool_size", 2).setting("audit_sample", 100),
        |builder| {
            builder.setting("default_pool_size", 2).setting("audit_sample", 100).setting("server_lifetime", 0)
        },
    ];
    ways(setup, ALWAYS).oracle.check(&script);

    let pooled = crate::common::pooled(setup, |builder| builder.setting("audit_sample", 50));
    let mut client = pooled.connect();
    let mut id = 100;
    let text = "the session was changed by statements that were held harmless: insert into t values (?)";
    support::wait::eventually("a look at the session", Duration::from_secs(10), || {
        id += 1;
        client.execute(&format!("insert into t values ({id})"));
        pooled.pooler.log().lines().any(|line| line.contains("WARNING C-0x") && line.contains(text))
    });
}

/// What ends a pin or makes one behind a look at the session that is under way was not held harmless.
#[test]
fn samples_accuse_nobody_in_vain() {
    let pooled = crate::common::pooled("", |builder| builder.setting("audit_sample", 100));
    let mut client = pooled.connect();
    let rounds: [&[&str]; 2] = [
        &["select pg_advisory_lock(1)", "select pg_advisory_unlock(1)"],
        &["declare c cursor with hold for select 1", "fetch c", "close c"],
    ];
    for sql in rounds.into_iter().flat_map(|round| (0..50).flat_map(move |_| round)) {
        client.execute(sql);
    }
    client.execute("select 1");
    pooled.settle();
    assert!(!pooled.pooler.log().contains("held harmless"), "{}", pooled.pooler.log());
}
