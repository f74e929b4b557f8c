//! Functions of the database that leave the session alone may be called without a look at it; for all others it is
//! looked at, whatever they hide behind.

use std::time::{Duration, Instant};

use support::frontend::*;
use support::oracle::Script;
use support::tap::Tap;
use support::wait::eventually;
use support::wire::Client;

use crate::common::{Configure, Pooled, pooler, prepared_database, ways};
use crate::console::table;

/// A look-up comes when a hundred times the time of the last one has gone by.
const LOOKED_UP: Duration = Duration::from_secs(60);

/// Functions that are clean, and those that are not.
const FUNCTIONS: &str = r#"
    create table t (id int, v text); insert into t values (1, 'x');
    create schema s;
    create function reads(int) returns bigint language plpgsql as $$ -- looks
        declare n bigint; begin select count(*) into n from t where id = $1; return n; end $$;
    create function "Queries"(int) returns text language sql stable as 'select v from t where id = $1 -- set';
    create function s.writes(int) returns void language plpgsql as $$ begin
        update t set v = 'y' where id = $1; insert into t values (2) on conflict do nothing; end $$;
    create function locally(int) returns text language sql as
        $$ select set_config('work_mem', $1 || 'MB', true) from pg_advisory_xact_lock(1) $$;
    create function calls_clean(int) returns text language sql as 'select "Queries"($1) from reads($1)';
    create aggregate clean_sum(int) (sfunc = int4pl, stype = int);

    create function sets(int) returns int language sql as
        $$ select set_config('work_mem', $1 || 'MB', false); select 1 $$;
    create function says_set(int) returns void language plpgsql as 'begin /* x */ set work_mem = ''7MB''; end';
    create function says_set_below(int) returns void language plpgsql as $$ begin
        -- update
        set work_mem = '7MB'; end $$;
    create function "sétS" (int) returns int language sql as
        $$ SELECT SET_CONFIG('work_mem', $1 || 'MB', FALSE), 1; SELECT 1 $$;
    create function calls_it_so(int) returns int language sql as 'SELECT public."sétS" ($1)';
    create function resets(int) returns void language sql as 'reset work_mem';
    create function locks(int) returns void language plpgsql as 'begin perform pg_try_advisory_lock_shared($1); end';
    create function unlocks(int) returns void language plpgsql as 'begin perform pg_advisory_unlock_shared($1); end';
    create function makes(int) returns void language plpgsql as
        'begin create temp table if not exists made (id int); end';
    create function executes(text) returns void language plpgsql as 'begin execute $1; end';
    create function runs(text) returns xml language sql as 'select query_to_xml($1, true, true, '''')';
    create function does(int) returns void language plpgsql as 'begin do $x$ begin end $x$; end';
    create function holds(int) returns void language sql as 'declare c cursor with hold for select 1';
    create function listens(int) returns void language plpgsql as 'begin listen c; unlisten c; end';
    create function prepares(int) returns void language sql as 'prepare p as select 1; deallocate p';
    create function atomic(int) returns int language sql begin atomic select sets($1); end;
    create function calls_one(int) returns int language sql as 'select sets ($1)';
    create function calls_it_too(int) returns int language plpgsql as
        'begin return case when $1 > 0 then public."calls_one"($1) end; end';
    create function comments(int) returns int language sql as 'select sets/**/($1)';
    create function by_default(a int, b int default sets(9)) returns int language sql as 'select $1';
    create function of_row(t) returns int language sql as 'select sets(9)';
    create function dots(int) returns int language sql as 'select r.of_row from t as r limit 1';
    create function dots_value(int) returns int language sql as 'select ($1).sets';
    create function adds(int, int) returns int language sql as 'select sets($2)';
    create aggregate aggregates(int) (sfunc = adds, stype = int);
    create function overloaded(int) returns int language sql as 'select 1';
    create function overloaded(text) returns int language sql as 'select sets(9)';
    create function s.now() returns int language sql as 'select sets(9)';
    create function selects_into(int) returns void language sql as 'select 1 as id into unlogged made_too'"#;

const CLEAN: [&str; 8] = [
    "select reads(1)",
    "select public.READS(1), \"Queries\"(1)",
    "select s.writes(1)",
    "begin; select locally(7); commit",
    "select calls_clean(id) from t",
    "select clean_sum(id) from t",
    "begin; select reads(1); select s . writes(1); rollback",
    "explain select * from reads(1)",
];

const NOT_CLEAN: [&str; 28] = [
    "select sets(7)",
    "select reads(1), sets(7)",
    "begin; select reads(1); select says_set(1); commit",
    "select says_set(1)",
    "select says_set_below(1)",
    "select resets(1)",
    "select locks(1)",
    "select unlocks(1)",
    "select makes(1)",
    "select executes('select 1')",
    "select runs('select 1')",
    "select does(1)",
    "select holds(1)",
    "select listens(1)",
    "select prepares(1)",
    "select atomic(7)",
    "select calls_one(7)",
    "select calls_it_too(7)",
    "select comments(7)",
    "select calls_it_so(7), \"sétS\"(8)",
    "select internal(1)",
    "select by_default(1)",
    "select dots(1), dots_value(1)",
    "select aggregates(id) from t",
    "select overloaded(1)",
    "select s.now()",
    "select selects_into(1)",
    "select unknown(1)",
];

/// A pooler that looks at sessions only where it must, and what it sends to PostgreSQL.
struct Watched {
    pooled: Pooled,
    tap: Tap,
}

impl Watched {
    fn start() -> Watched {
        Watched::with_servers(2)
    }

    fn with_servers(count: usize) -> Watched {
        let database = prepared_database("calls", FUNCTIONS);
        database.sql("create function internal(int) returns int language internal as 'int4um'");
        let tap = Tap::start(database.postgres().address());
        let line = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
        let builder = pooler().setting("default_pool_size", count).setting("audit_sample", 0);
        let pooler = builder.database_line(database.name(), &line).start();
        Watched { pooled: Pooled { pooler, database }, tap }
    }

    /// How often PostgreSQL was sent this.
    fn count(&self, what: &str) -> usize {
        let count = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).matches(what).count();
        self.tap.links().iter().map(|link| count(link.to_server())).sum()
    }

    fn audits(&self) -> usize {
        self.count("SELECT 'w','',''")
    }

    /// Whether the session is looked at behind what the client does. That is asked in front of its next request.
    fn looks(&self, client: &mut Client, act: impl FnOnce(&mut Client)) -> bool {
        let before = self.audits();
        act(client);
        client.execute("select 1");
        self.audits() > before
    }

    fn looks_behind(&self, client: &mut Client, sql: &str) -> bool {
        self.looks(client, |client| drop(client.query(sql)))
    }
}

#[test]
fn only_clean_functions_are_trusted() {
    let watched = Watched::start();
    let mut client = watched.pooled.connect();
    assert!(watched.looks_behind(&mut client, "select reads(1)"), "nobody knows it");
    for sql in CLEAN {
        assert!(!watched.looks_behind(&mut client, sql), "{sql}");
    }
    for sql in NOT_CLEAN {
        assert!(watched.looks_behind(&mut client, sql), "{sql}");
        assert!(!watched.looks_behind(&mut client, "select reads(1)"), "behind {sql}");
    }

    // In the extended protocol, with a name and without.
    for (sql, looks) in [("select reads($1)", false), ("select sets($1)", true)] {
        for name in ["", sql] {
            let run = [parse(name, sql, &[]), bind("", name, &[Some("7")]), execute("", 0), sync()];
            let looked = watched.looks(&mut client, |client| {
                client.send_all(run);
                client.read_until_ready();
            });
            assert_eq!(looked, looks, "{sql} as {name:?}");
        }
    }
}

/// What was clean need not stay so; what it calls, too. Between a definition and the look-up behind it, which does not
/// come at once where there were others, nothing is trusted.
#[test]
fn functions_are_trusted_until_they_change() {
    let watched = Watched::start();
    let (mut client, mut other) = (watched.pooled.connect(), watched.pooled.connect());
    let calls = ["select reads(1)", "select calls_clean(1)"];
    assert!(watched.looks_behind(&mut client, calls[0]));
    // What is asked behind its end is asked in front of the next request.
    let run = |other: &mut Client, sql: &str| [sql, "select 1"].map(|sql| drop(other.execute(sql)));
    let define = |other: &mut Client, body: &str| {
        let body = format!("$$ begin {body} return 1; end $$");
        run(
            other,
            &format!("create or replace function reads(int) returns bigint language plpgsql as {body}"),
        );
    };
    for body in ["set work_mem = '7MB';", "", "perform sets(7);"] {
        // Called before the change is known, as it was and as it will be.
        client.execute("begin");
        client.execute(calls[0]);
        define(&mut other, body);
        client.execute(calls[0]);
        assert!(watched.looks_behind(&mut client, "commit"), "{body}");
        let trusted = || !watched.looks_behind(&mut client, "select locally(1)");
        eventually("it was looked up", LOOKED_UP, trusted);
        for sql in calls.iter().cycle().take(4) {
            assert_eq!(watched.looks_behind(&mut client, sql), !body.is_empty(), "{sql} with {body}");
        }
        // While somebody is about to change it, it may be any.
        other.execute("begin");
        define(&mut other, body);
        assert!(watched.looks_behind(&mut client, "select locally(1)"));
        run(&mut other, "commit");
    }
}

/// However many functions are defined, they are looked up now and then only. What they may do counts at once.
#[test]
fn definitions_do_not_make_look_ups() {
    let watched = Watched::with_servers(1);
    let (mut client, mut other) = (watched.pooled.connect(), watched.pooled.connect());
    let begin = Instant::now();
    client.execute("create table u (id int)");
    for round in 0..40 {
        let names = |name: &str| format!("set_config('calls.x{round}', '{name}', false)");
        other.execute(&format!(
            "create function n{round}() returns text language sql as $$ select {} $$",
            names("f")
        ));
        other.execute(&format!(
            "create or replace function u() returns trigger language plpgsql as \
             $$ begin perform {}; return new; end $$",
            names("t")
        ));
        other.execute("create or replace trigger u before insert on u for each row execute function u()");
        let told = [(format!("select n{round}()"), "f"), ("insert into u values (1)".to_owned(), "t")];
        for (sql, expected) in told {
            client.execute(&sql);
            let kept = format!("select current_setting('calls.x{round}', true)");
            assert_eq!(client.scalar(&kept), expected, "{sql} in round {round}");
            assert_ne!(other.scalar(&kept), expected, "{sql} in round {round}");
        }
    }
    assert!(watched.count("pg_show_all_settings") > 100);
    // At most one in a second, and at first one of each.
    let (looks, elapsed) = (watched.count("FROM pg_depend"), begin.elapsed());
    assert!(looks as u64 <= elapsed.as_secs() + 3, "{looks} look-ups in {elapsed:?}");
}

/// Where functions can't be looked up, everything goes on without that.
#[test]
fn a_look_up_may_fail() {
    let watched = Watched::start();
    watched.pooled.database.sql("revoke select on pg_proc from public");
    let (mut client, mut other) = (watched.pooled.connect(), watched.pooled.connect());
    for round in 1..20 {
        client.execute(&format!("select sets({round})"));
        other.execute(&format!("select sets({})", round + 100));
        assert_eq!(client.scalar("show work_mem"), format!("{round}MB"));
        assert_eq!(other.scalar("show work_mem"), format!("{}MB", round + 100));
        client.execute("create or replace function more() returns int language sql as 'select 1'");
    }
    assert_eq!(table(&mut watched.pooled.pooler.console(), "PINS").len(), 0);
    let looks = watched.count("FROM pg_depend");
    assert!((1..5).contains(&looks), "{looks} look-ups");
    assert!(watched.looks_behind(&mut client, CLEAN[0]), "it is not known");
}

/// Where anything may call a function that changes the session, every transaction is looked at, once.
#[test]
fn each_transaction_is_looked_at_once() {
    let watched = Watched::with_servers(1);
    watched.pooled.database.sql("create view hiding as select sets(7)");
    let (mut client, mut other) = (watched.pooled.connect(), watched.pooled.connect());
    client.execute("create table u (id int)"); // and what there is is looked up
    for _ in 0..5 {
        assert!(watched.looks_behind(&mut client, "select 2"));
        assert!(watched.looks_behind(&mut other, "select 2"));
    }
    let before = watched.audits();
    client.execute("select 3");
    other.execute("select 3"); // has the only server
    let audits = watched.audits() - before;
    assert!((1..=3).contains(&audits), "{audits}"); // one may be late
}

/// A domain's check runs wherever a value becomes one of it, without a word of it in the text.
#[test]
fn a_domain_may_hide_a_call() {
    let watched = Watched::start();
    let (mut client, mut other) = (watched.pooled.connect(), watched.pooled.connect());
    client.execute("create domain checked as int check (value = sets(8))");
    client.execute("select 1");
    other.execute("reset work_mem");
    client.query("select 1::checked");
    assert_eq!(client.scalar("show work_mem"), "8MB");
    assert_ne!(other.scalar("show work_mem"), "8MB");
}

/// Clients see what they have set by functions, and nobody else does.
#[test]
fn what_functions_set_follows() {
    const NEVER: [Configure; 2] = [
        |builder| builder.setting("default_pool_size", 2).setting("audit_sample", 0),
        |builder| builder.setting("default_pool_size", 1).setting("audit_sample", 0),
    ];
    let mut script = Script::new();
    for step in
        CLEAN.into_iter().chain(NOT_CLEAN[..6].iter().copied()).chain(NOT_CLEAN[15..25].iter().copied())
    {
        script = script.on(0).query(step);
        for client in [0, 1, 0, 1] {
            script = script.on(client).query("select current_setting('work_mem'), reads(1)");
        }
        script = script.on(0).query("reset all").query("select locally(8)").query("show work_mem");
    }
    ways(FUNCTIONS, NEVER).oracle.check(&script);
}
