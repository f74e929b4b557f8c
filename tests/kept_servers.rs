//! What can't follow a client to another server, and what other poolers made of it: each with the row of the list in
//! docs/BUGS-AVOIDED.md.

use support::frontend::*;
use support::oracle::Script;

use crate::common::{Configure, pooled, ways};
use crate::probe::wait_until_idle;

/// Room for two clients that keep a server, and for one more. Used in turn, so that a client that does not keep its
/// server has another one the next time.
const ROOM: [Configure; 1] =
    [|builder| builder.setting("default_pool_size", 3).setting("server_round_robin", 1)];

fn check(setup: &str, script: &Script) {
    ways(setup, ROOM).oracle.check(script);
}

const LOCKS: &str =
    "select objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() order by 1";

/// Row 33: a lock is where its client is, as long as that has it, and gone with it.
#[test]
fn advisory_locks_are_their_clients() {
    let mut script = Script::new().query("select pg_advisory_lock(7)").query("select pg_advisory_lock(7)");
    script = script.on(1).query("select pg_try_advisory_lock(7)").query("select pg_advisory_unlock(7)");
    script = script.on(0).query(LOCKS).query("select pg_advisory_unlock(7)").query(LOCKS);
    script = script.on(1).query("select pg_try_advisory_lock(7)").query(LOCKS);
    script = script.on(0).query("select pg_advisory_unlock(7)").query(LOCKS);
    script = script.on(1).query("select pg_try_advisory_lock(7)").query(LOCKS);
    // Taken in a transaction that does not commit, it is taken.
    script = script.on(0).query("begin").query("select pg_advisory_lock(8)").query("rollback").query(LOCKS);
    script =
        script.on(2).query("select pg_try_advisory_lock(8)").on(0).query("select pg_advisory_unlock_all()");
    script = script.on(2).query("select pg_try_advisory_lock(8)").query("select pg_advisory_unlock(8)");
    script = script.on(1).query("select pg_advisory_unlock(7)").query("select pg_advisory_xact_lock(9)");
    check("", &script.query(LOCKS).on(0).query(LOCKS));
}

/// Row 33, too, and 37: who leaves in any state leaves no lock, no table and no setting behind.
#[test]
fn who_leaves_takes_its_state_along() {
    let before = ["select 1", "begin; select 1", "begin; select 1/0"];
    for inside in before {
        for abrupt in [false, true] {
            let pooled = pooled("", |builder| builder);
            let mut leaving = pooled.connect();
            leaving.execute("select pg_advisory_lock(7)");
            leaving.execute("create temp table mine (id int)");
            leaving.execute("set work_mem = '7MB'");
            leaving.execute("declare c cursor with hold for select 1");
            leaving.query(inside);
            if abrupt {
                leaving.abort()
            } else {
                leaving.terminate()
            }
            let mut next = pooled.connect();
            assert_eq!(next.scalar("select pg_try_advisory_lock(7)"), "t");
            assert_eq!(next.scalar("show work_mem"), "4MB");
            assert_eq!(next.scalar("select count(*) from pg_cursors where is_holdable"), "0");
            next.execute("create temp table mine (id int)");
            next.execute("discard all");
        }
    }
}

/// Row 34: tables of the same name in two sessions, made to last to the end of the transaction, or longer.
#[test]
fn temporary_tables_of_the_same_name() {
    let mut script = Script::new();
    for on_commit in ["preserve rows", "delete rows", "drop"] {
        for client in [0, 1] {
            let create = format!("create temp table t (v) on commit {on_commit} as select {client}");
            script = script.on(client).query("begin").query(&create).query("select v from t").query("commit");
            script = script.query("select v from t");
        }
        for client in [0, 1] {
            script = script.on(client).query("select v from t").query("drop table if exists pg_temp.t");
            script = script.query("select v from t");
        }
    }
    check("", &script.on(2).query("select v from t"));
}

/// Row 35: a cursor that outlives its transaction, as Django has them, and its name with another client.
#[test]
fn cursors_with_hold() {
    let declare =
        |from: u32| format!("declare c cursor with hold for select generate_series({from}, {from} + 4)");
    let mut script = Script::new().query("begin").query(&declare(1)).query("fetch 1 from c").query("commit");
    script = script.on(1).query("fetch 1 from c").query(&declare(100)).query("fetch 2 from c");
    script = script.on(0).query("fetch 2 from c").query("begin").query("fetch 1 from c").query("rollback");
    script = script.query("fetch all from c").query("close c").query("fetch 1 from c");
    script = script.on(1).query("move 1 in c").query("fetch all from c").query("close all");
    // In the extended protocol, made in a batch of its own.
    let run =
        |sql: &str| [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0), sync()];
    script = script.on(0).send(run(&declare(50))).ready(1).send(run("fetch 2 from c")).ready(1);
    check("", &script.on(2).query("fetch 1 from c").on(0).query("close c"));
}

/// Row 36: state that functions make, of which no text tells.
#[test]
fn what_functions_do_behind_their_names() {
    let function = |name: &str, body: &str| {
        format!(
            "create function {name}() returns void language plpgsql as $f$ declare c refcursor := 'hidden'; \
             begin {body}; end $f$;"
        )
    };
    let setup = [
        function("locks", "perform pg_advisory_lock(7)"),
        function("makes", "create temp table hidden (id int)"),
        function("sets", "perform set_config('work_mem', '7MB', false)"),
        function("becomes", "set lock_timeout = '7s'"),
        function("listens", "execute 'listen hidden'"),
        function("prepares", "execute 'prepare hidden as select 1'"),
        function("opens", "execute 'declare hidden cursor with hold for select 1'"),
    ]
    .concat();
    let look = "select current_setting('work_mem'), current_setting('lock_timeout'), \
                (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
                to_regclass('pg_temp.hidden') is null, \
                (select count(*) from pg_prepared_statements where from_sql), \
                (select count(*) from pg_cursors where is_holdable)";
    let ways = ways(&setup, ROOM);
    for call in ["locks", "makes", "sets", "becomes", "listens", "prepares", "opens"] {
        let mut script = Script::new().query(look).query(&format!("select {call}()"));
        for client in [0, 1, 2, 0, 1] {
            script = script.on(client).query(look);
        }
        let in_table = format!("select count({call}()) from generate_series(1, 1)");
        script = script.on(0).query("discard all").query("begin").query(&in_table).query("rollback");
        ways.oracle.check(&script.query(look).on(1).query(look).on(0).query("discard all"));
    }
}

/// Row 38: nobody finds a transaction open, and none is left behind, whoever leaves in the middle of one. (Under load: the
/// module `chaos`.)
#[test]
fn no_transaction_is_handed_on() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("default_pool_size", 2));
    for round in 0..40 {
        let mut leaving = pooled.connect();
        leaving.execute("begin; insert into t values (1)");
        match round % 4 {
            0 => leaving.abort(),
            1 => leaving.terminate(),
            2 => {
                leaving.send(query("select pg_sleep(10)"));
                leaving.abort();
            }
            _ => {
                leaving.query("select 1/0");
                leaving.abort();
            }
        }
        let mut next = pooled.connect();
        let reply = next.query("begin; insert into t values (2); commit");
        assert_eq!(reply.commands(), ["BEGIN", "INSERT 0 1", "COMMIT"]);
        assert!(!reply.tags().contains('N'), "{reply:?}");
    }
    wait_until_idle(&pooled.database, 2);
    assert_eq!(pooled.database.scalar("select count(*) from t where id = 1"), "0");
    let log = pooled.database.log();
    let bad = log
        .lines()
        .find(|line| line.contains("already a transaction") || line.contains("idle-in-transaction"));
    assert_eq!(bad, None);
}
