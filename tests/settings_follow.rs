//! Settings of one session that other poolers gave to another, or took from their owner: each with the row of the list
//! in docs/BUGS-AVOIDED.md. The direct oracle decides what is right.

use std::sync::Once;
use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::postgres::{Postgres, USER};
use support::tap::{Rule, Tap};
use support::tools::Tool;
use support::wait::eventually;
use support::wire::Client;

use crate::common::{CONFIGURATIONS, pooled, pooler, ways};
use crate::console::table;

fn check(setup: &str, script: &Script) {
    ways(setup, CONFIGURATIONS).oracle.check(script);
}

/// Clients 0 and 1 ask the same, the first once more.
fn both_ask(mut script: Script, sql: &str) -> Script {
    for client in [0, 1, 0] {
        script = script.on(client).query(sql);
    }
    script
}

/// Row 24: `pg_dump` empties the search path, and so does `postgres_fdw` in the sessions that it opens.
#[test]
fn pg_dump_and_postgres_fdw_leave_the_path_to_others() {
    const ASKS: &str =
        "select current_setting('search_path'), current_setting('extra_float_digits'), count(*) from t";
    let pooled = pooled("create table t (id int); insert into t values (1)", |builder| builder);
    let mut client = pooled.connect();
    let before = client.execute(ASKS).rows();
    Tool::new("pg_dump", &pooled.target()).args(["--inserts"]).run().success();
    assert_eq!(client.execute(ASKS).rows(), before);

    let local = Postgres::shared().database("local");
    let (port, database) = (pooled.pooler.port(), pooled.database.name());
    local.sql(&format!(
        "create extension postgres_fdw; \
         create server pool foreign data wrapper postgres_fdw \
             options (host '127.0.0.1', port '{port}', dbname '{database}'); \
         create user mapping for {USER} server pool options (user '{USER}', password_required 'false'); \
         grant usage on foreign server pool to {USER}; \
         create foreign table t (id int) server pool options (table_name 't'); grant all on t to {USER}"
    ));
    let mut over_there = local.connect();
    for _ in 0..2 {
        assert_eq!(over_there.scalar("select count(*) from t"), "1");
        assert_eq!(client.execute(ASKS).rows(), before);
        assert_eq!(pooled.connect().execute(ASKS).rows(), before);
    }
}

/// Row 25: a setting that is changed when the transaction has its server already.
#[test]
fn settings_changed_in_the_middle_of_a_transaction() {
    const ASKS: &str = "select current_setting('statement_timeout'), current_setting('TimeZone')";
    let mut script = both_ask(Script::new(), ASKS);
    for step in
        ["begin", "select 1", "set statement_timeout = '17s'", "set timezone = 'Asia/Tokyo'", "commit"]
    {
        script = script.query(step);
    }
    check("", &both_ask(script, ASKS));
}

/// Row 26: what changes a setting, times what ends the transaction or a part of it. (Rows 27 and 30 with them.)
#[test]
fn every_change_with_every_end() {
    const ASKS: &str = "select current_setting('lock_timeout'), current_setting('IntervalStyle'), \
                        current_setting('default_transaction_read_only'), \
                        nullif(current_setting('app.user_id', true), '')";
    let setup = "create function remember(text) returns text language plpgsql \
                 as 'begin return set_config(''app.user_id'', $1, false); end'";
    let changes = [
        "set lock_timeout = '7s'",
        "update pg_settings set setting = '9s' where name = 'lock_timeout'",
        "set local lock_timeout = '8s'",
        "reset lock_timeout",
        "set IntervalStyle = iso_8601",
        "set default_transaction_read_only = on",
        "select set_config('app.user_id', '9', true), set_config('lock_timeout', '9s', false)",
        "select remember('10'), current_setting('app.user_id')",
        "do $$ begin perform set_config('app.user_id', '11', false); end $$",
        "set lock_timeout = '12s'; set app.user_id = '12'; reset lock_timeout",
    ];
    let ends: [&[&str]; 7] = [
        &["commit"],
        &["rollback"],
        &["rollback to s", "commit"],
        &["release s", "commit"],
        &["release s", "rollback"],
        &["select 1/0", "rollback to s", "commit"],
        &["select 1/0", "commit"],
    ];
    let ways = ways(setup, CONFIGURATIONS);
    for change in changes {
        let mut script = Script::new().query("set lock_timeout = '1min'").query("set app.user_id = 'mine'");
        for end in ends {
            script = script.query("begin").query("savepoint s").query(change).query(ASKS);
            for step in end {
                script = script.query(step);
            }
            script = both_ask(script, ASKS);
        }
        ways.oracle.check(&script);
    }
}

/// Row 28: the roles of one client are not the next one's. (That the role with which a user begins is no change: in the
/// module `state`.)
#[test]
fn roles_stay_with_their_client() {
    const ASKS: &str = "select current_user, session_user, current_setting('role')";
    static ROLES: Once = Once::new();
    ROLES.call_once(|| {
        Postgres::shared().sql(&format!("create role follows_one; grant follows_one to {USER}"));
    });
    let changes = [
        "set role follows_one",
        "reset all",
        "reset role",
        "begin; set local role follows_one; select current_user; commit",
        "begin; set role follows_one; rollback",
        "set session authorization app",
        "select set_config('role', 'follows_one', false)",
        "discard all",
    ];
    let script = changes
        .iter()
        .fold(both_ask(Script::new(), ASKS), |script, change| both_ask(script.query(change), ASKS));
    check("", &script);
}

/// Row 28, 3: the role that a client has is taken from it; others go on. The client is told, and its request is not run.
#[test]
fn a_role_that_can_be_had_no_more() {
    let postgres = Postgres::shared();
    postgres.sql(&format!("create role follows_lost; grant follows_lost to {USER}"));
    for extended in [false, true] {
        let pooled = pooled("create table t (id int)", |builder| builder);
        let (mut client, mut other) = (pooled.connect(), pooled.connect());
        client.execute("set role follows_lost");
        other.execute("select 1"); // takes it off the server
        postgres.sql(&format!("revoke follows_lost from {USER}"));
        let insert = "insert into t values (1)";
        match extended {
            true => client.send_all([parse("", insert, &[]), bind("", "", &[]), execute("", 0), sync()]),
            false => client.send(query(insert)),
        }
        let told = client.expect_closed().error().expect("why");
        assert_eq!(told.severity(), "FATAL");
        assert_eq!(other.scalar("select current_user"), USER);
        assert_eq!(other.scalar("select count(*) from t"), "0");
        assert_eq!(pooled.connect().scalar("select current_user"), USER);
        postgres.sql(&format!("grant follows_lost to {USER}"));
    }
    postgres.sql("drop role follows_lost");
}

/// Row 3: what a client wants set is not a value there any more: it is told, and nobody else is.
#[test]
fn a_setting_that_is_refused_hits_its_client_only() {
    let pooled = pooled("", |builder| builder);
    let mut good = pooled.connect();
    for value in ["", "nonsense"] {
        let refused = Client::try_login(&pooled.target().param("work_mem", value));
        let error = match refused {
            Err(error) => error.refusal(),
            Ok(mut client) => {
                client.send([query("select 1"), query("select 2")].concat());
                client.expect_closed().error().expect("why")
            }
        };
        assert_eq!(error.severity(), "FATAL");
        assert_eq!(good.query("select 'mine'").tags(), "TDCZ");
        assert_eq!(pooled.connect().query("select 'mine'").tags(), "TDCZ");
    }
}

/// What is not ASCII is what it was, whatever the encodings of those that had the server before.
#[test]
fn settings_of_clients_with_other_encodings() {
    const ASKS: &str = "select coalesce(octet_length(current_setting('app.name', true)), 0)";
    let mut script = Script::new().query("set app.name = 'Jos\u{e9}'");
    script = script.on(1).query("set client_encoding = 'latin1'").query("set app.other = 'x'");
    script = both_ask(both_ask(script, ASKS), ASKS).query("show client_encoding");
    // One that looks like UTF-8 in its client's encoding, and like two letters in truth.
    script = script.on(2).query("set client_encoding = 'latin1'");
    script = script.query("select set_config('app.name', chr(195) || chr(169), false)").query(ASKS);
    check("", &script.query("set app.name = ''").on(0).query(ASKS).on(1).query("show client_encoding"));
}

/// A setting is found among hundreds of other words that look like one, and at the end of a long text.
#[test]
fn settings_named_beside_many_others() {
    const ASKS: &str = "select nullif(current_setting('app.user_id', true), '')";
    let setup = "create function named(text) returns text language sql as 'select $1'";
    let many: Vec<_> = (0..1000).map(|n| format!("named('file_{n}.txt')")).collect();
    let many = format!("select {}", many.join(" || "));
    let script = Script::new().query("begin").query(&many).query("set app.user_id = '7'").query("commit");
    let script = both_ask(script, ASKS);
    let long = format!("select '{}'; set app.user_id = '8'; select 1", "x".repeat(300_000));
    check(setup, &both_ask(script.query(&long), ASKS));
}

/// Whoever sends more of them than can be asked for keeps its server, and nobody has that after it.
#[test]
fn who_names_too_many_settings_keeps_its_server() {
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", 2).setting("server_round_robin", 1));
    let (mut hostile, mut other) = (pooled.connect(), pooled.connect());
    let many: Vec<_> = (0..5000).map(|n| format!("set app.number_{n} = 'mine'")).collect();
    hostile.execute(&many.join(";"));
    let ask = |client: &mut Client, n: u32| {
        client.scalar(&format!("select coalesce(current_setting('app.number_{n}', true), '')"))
    };
    for n in [1, 4999] {
        assert_eq!([ask(&mut hostile, n), ask(&mut other, n), ask(&mut other, n)], ["mine", "", ""]);
    }
    drop(hostile);
    for n in [1, 4999] {
        assert_eq!([(); 3].map(|()| ask(&mut other, n)), [""; 3]);
    }
}

/// A server may refuse a client's settings because of what others have done there: the client gets another server.
#[test]
fn settings_that_only_a_used_server_refuses() {
    let mut script = Script::new().query("set temp_buffers = '2MB'").on(1);
    script =
        script.query("create temp table mine (id int); insert into mine values (1); drop table mine").on(0);
    check("", &both_ask(script, "show temp_buffers"));
}

/// What a function of a superuser's has set can't be set again on another server: its client keeps the one it has.
#[test]
fn settings_of_superusers_stay_with_their_client() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    pooled.database.sql(
        "create function privileged(text) returns text language sql security definer \
         as $$ select set_config('log_min_duration_statement', $1, false) $$",
    );
    const ASKS: &str = "show log_min_duration_statement";
    let (mut privileged, mut other) = (pooled.connect(), pooled.connect());
    privileged.execute("select privileged('60000')");
    for _ in 0..2 {
        assert_eq!(other.scalar(ASKS), "-1");
        assert_eq!(privileged.scalar(ASKS), "1min");
        privileged.execute("set work_mem = '5MB'"); // looked for alone
    }
    let pins = || {
        table(&mut pooled.pooler.console(), "PINS")
            .iter()
            .map(|pin| pin.text("reasons").to_owned())
            .collect::<Vec<_>>()
    };
    eventually("it is pinned", Duration::from_secs(10), || pins() == ["privileged setting"]);
    privileged.execute("reset all");
    assert_eq!(privileged.scalar(ASKS), "-1");
    eventually("it is pinned no more", Duration::from_secs(10), || pins().is_empty());
    privileged.execute("select privileged('60000')");
    drop(privileged);
    eventually("its server is clean", Duration::from_secs(10), || pins().is_empty());
    assert_eq!([(); 3].map(|()| other.scalar(ASKS)), ["-1"; 3]);
}

/// Row 29: what one client's start-up packet says of a setting that the server does not report.
#[test]
fn start_up_settings_stay_with_their_client() {
    const ASKS: &str = "select current_setting('enable_seqscan'), current_setting('app.user_id', true)";
    let pooled = pooled("", |builder| builder);
    let options = "-c enable_seqscan=off -c app.user_id=7";
    let mut with = Client::login(&pooled.target().param("options", options));
    let mut without = pooled.connect();
    let row = |values: [&str; 2]| [values.map(|value| Some(value.to_owned())).to_vec()];
    let is_without = |asked: Vec<Vec<Option<String>>>| {
        asked[0][0].as_deref() == Some("on") && asked[0][1].as_deref().unwrap_or_default().is_empty()
    };
    for change in ["select 1", "discard all", "reset all"] {
        with.execute(change);
        assert_eq!(with.execute(ASKS).rows(), row(["off", "7"]));
        assert!(is_without(without.execute(ASKS).rows()));
        without.execute(change);
        assert!(is_without(pooled.connect().execute(ASKS).rows()));
    }
}

/// Row 29, too: a client returns to the server's own value, which is not that of its start-up packet, and gets another
/// server.
#[test]
fn a_value_set_back_to_the_servers_own_is_kept() {
    const ASKS: &str = "select '2026-11-21'::date::text, current_setting('TimeZone')";
    let mut ways = ways("", CONFIGURATIONS);
    for way in ways.oracle.pooled.iter_mut().chain([&mut ways.oracle.direct]) {
        way.target = way.target.clone().param("DateStyle", "German").param("TimeZone", "Asia/Tokyo");
    }
    let mut script = both_ask(Script::new(), ASKS);
    for change in
        ["set DateStyle = 'ISO, MDY'", "set timezone = 'UTC'", "set work_mem = '7MB'", "reset work_mem"]
    {
        script = both_ask(script.query(change), ASKS);
    }
    ways.oracle.check(&script);
}

/// A session with the default of a setting is not one that was given that value: what follows may reset the first, and must
/// leave the second. Found by the leak hunt.
#[test]
fn a_default_is_not_a_value_that_was_set() {
    let pooled = pooled("", |builder| builder);
    let options = "-c default_transaction_isolation=repeatable\\ read";
    let mut client = Client::login(&pooled.target().param("options", options));
    assert_eq!(client.scalar("show default_transaction_isolation"), "repeatable read");
    client.execute("set default_transaction_isolation = 'read committed'");
    let mut other = pooled.connect();
    other.execute("set default_transaction_isolation to default");
    client.execute("reset work_mem");
    assert_eq!(client.scalar("show default_transaction_isolation"), "read committed");
    client.execute("set default_transaction_isolation to default");
    assert_eq!(client.scalar("show default_transaction_isolation"), "repeatable read");
    other.execute("select 1");
    assert_eq!(client.scalar("show default_transaction_isolation"), "repeatable read");
}

/// What is reported of a setting after a reset is what it is, also where the client before wanted something else.
#[test]
fn a_reset_does_not_hide_what_is_reported() {
    let pooled = pooled("", |builder| builder);
    let mut client = Client::login(&pooled.target().param("options", "-c lock_timeout=1min"));
    let mut other = pooled.connect();
    other.execute("set DateStyle = 'German, DMY'");
    let german = "select set_config('DateStyle', 'German, DMY', false)";
    for _ in 0..50 {
        client.execute("set DateStyle = 'ISO, MDY'");
        other.execute("select 1"); // the server is German again
        client.send([query("reset work_mem"), query(german)].concat());
        client.read_until_ready();
        client.read_until_ready();
        assert_eq!(client.scalar("show DateStyle"), "German, DMY");
        assert_eq!(client.params["DateStyle"], "German, DMY");
        client.execute("discard all");
        assert_eq!(client.scalar("show DateStyle"), "ISO, MDY");
        assert_eq!(client.params["DateStyle"], "ISO, MDY");
    }
}

/// Row 31: lists, quotes and long names come out on the next server as they went in.
#[test]
fn values_of_every_form() {
    const ASKS: &str = "select current_setting('search_path'), current_schemas(false), \
                        nullif(current_setting('app.text', true), ''), current_setting('DateStyle')";
    let long = "x".repeat(200);
    let setup = "create schema \"a,b\"; create schema \"it's\"; create schema \"\"\"\"";
    let changes = [
        "set search_path = ''".to_owned(),
        "set search_path = \"$user\", \"a,b\", public".to_owned(),
        "set search_path = \"it's\", \"\"\"\"".to_owned(),
        format!("set search_path = {long}, \"a,b\""),
        "set search_path = public".to_owned(),
        r"set app.text = E'back\\slash ''quoted'' \n line'".to_owned(),
        format!("set app.text = '{}'", "y".repeat(5000)),
        "set standard_conforming_strings = off".to_owned(),
        r"select set_config('app.text', '\\\'', false)".to_owned(),
        "set DateStyle = 'SQL, DMY'".to_owned(),
        "set client_encoding = 'LATIN1'".to_owned(),
    ];
    let script = changes
        .iter()
        .fold(both_ask(Script::new(), ASKS), |script, change| both_ask(script.query(change), ASKS));
    check(setup, &script.drop_fields(b"LR"));
}

/// Row 32: one text, two search paths, and the same text again under the other path.
#[test]
fn one_text_under_two_search_paths() {
    let setup = "create schema one; create schema two; create table one.t as select 'one' v; \
                 create table two.t as select 'two' v";
    let prepared = || [parse("s", "select v from t", &[]), describe_statement("s"), sync()];
    let run = || [bind("", "s", &[]), execute("", 0), sync()];
    let mut script = Script::new();
    for (client, path) in [(0, "one"), (1, "two")] {
        script = script.on(client).query(&format!("set search_path = {path}")).send(prepared()).ready(1);
    }
    for client in [0, 1, 1, 0] {
        script = script.on(client).send(run()).ready(1);
    }
    let script = script.on(0).query("set search_path = two").send(run()).ready(1);
    let script = script.on(1).query("begin").query("set local search_path = one").send(run()).ready(1);
    check(setup, &script.query("commit").send(run()).ready(1));
}

/// The text of a statement is read under the settings of the moment, and who has others must not get what became of it: not
/// when it was parsed while the pooler asked for the settings, nor by a client that keeps its server.
#[test]
fn one_text_under_two_date_styles() {
    let run = |date: &str| {
        let text = format!("select date '{date}' - date '2020-01-01'");
        [parse("s", &text, &[]), bind("", "s", &[]), execute("", 0), close_statement("s"), sync()]
    };
    let script = Script::new().query("set datestyle = 'SQL, DMY'").send(run("1/2/2020")).ready(1);
    let script = script.on(1).query("begin").send(run("1/2/2020")).ready(1).query("commit");
    let script = script.on(0).query("select pg_advisory_lock(1)").query("set datestyle = 'SQL, MDY'");
    let script =
        script.query("select 1").send(run("3/4/2020")).ready(1).query("select pg_advisory_unlock(1)");
    let script = script.on(2).query("set datestyle = 'SQL, DMY'").query("begin").send(run("3/4/2020"));
    check("", &script.ready(1).query("commit"));
}

/// A client that dies when its settings are put on a server, or are asked for, leaves none. The server is far away.
#[test]
fn who_dies_while_settings_move_leaves_none() {
    const ASKS: &str = "select current_setting('enable_seqscan'), current_setting('work_mem')";
    let database = Postgres::shared().database("far");
    let far = |_| Rule { delay_to_client: Duration::from_millis(20), ..Rule::default() };
    let tap = Tap::with_rules(database.postgres().address(), far);
    let connection = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let builder = pooler().setting("default_pool_size", 1).database_line("far", &connection);
    let pooler = builder.start();
    let expected = database.connect().execute(ASKS).rows();
    for moves in [false, true] {
        let mut dying = pooler.connect("far");
        dying.execute("set enable_seqscan = off; set work_mem = '7MB'");
        if moves {
            assert_eq!(pooler.connect("far").execute(ASKS).rows(), expected);
            dying.send(query("select 1")); // its settings go on in front of this
        }
        dying.abort();
        assert_eq!(pooler.connect("far").execute(ASKS).rows(), expected, "moves: {moves}");
    }
}
