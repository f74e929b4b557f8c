//! What a client has follows it to whichever host answers: prepared statements, settings, cancels; and what belongs to one
//! session stays at the primary.

use std::time::Duration;

use support::frontend::*;
use support::wire::{Client, Reply};

use super::{Fleet, PORT, SOON, batch, eventual};

const SETUP: &str = "create table t (id int primary key, v text); insert into t values (1, 'one'), (2, 'two'); \
                     create schema other; create table other.t (id int, v text); insert into other.t values (1, 'other')";

#[track_caller]
fn run_named(client: &mut Client, name: &str, value: &str) -> Reply {
    client.send([bind("", name, &[Some(value)]), execute("", 0), sync()].concat());
    client.read_until_ready()
}

/// Statements that a client has prepared once are there at every host, those that read and those that write, alone and
/// in transactions, until they are closed.
#[test]
fn prepared_statements() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let read = format!("select v, {PORT} from t where id = $1");
    let write = format!("update t set v = v where id = $1 returning v, {PORT}");
    client.send([parse("r", &read, &[]), parse("w", &write, &[]), describe_statement("w"), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "11tTZ");
    let mut seen = [0, 0, 0];
    for round in 0..40 {
        let reply = run_named(&mut client, "r", "1");
        assert_eq!(reply.tags(), "2DCZ", "{reply:?}");
        assert_eq!(reply.rows()[0][0].as_deref(), Some("one"));
        seen[fleet.place_of(&reply)] += 1;
        let reply = run_named(&mut client, "w", "2");
        assert_eq!(reply.rows()[0][0].as_deref(), Some("two"));
        assert_eq!(fleet.place_of(&reply), 0);
        if round % 8 == 0 {
            client.execute("begin");
            assert_eq!(fleet.place_of(&run_named(&mut client, "r", "2")), 0);
            client.execute("commit");
            client.execute("begin read only");
            assert_ne!(fleet.place_of(&run_named(&mut client, "r", "2")), 0);
            client.execute("commit");
        }
    }
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > 0, "{seen:?}");
    client.send([describe_statement("r"), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "tTZ");
    client.send([close_statement("r"), sync()].concat());
    assert_eq!(client.read_until_ready().tags(), "3Z");
    for _ in 0..5 {
        assert_eq!(run_named(&mut client, "r", "1").error_code(), "26000");
    }
    client.send([parse("r", "select 'new', $1::text", &[]), sync()].concat());
    client.read_until_ready();
    for _ in 0..10 {
        assert_eq!(run_named(&mut client, "r", "x").rows(), [[Some("new".into()), Some("x".to_string())]]);
    }
}

/// The same for those of `PREPARE`.
#[test]
fn statements_prepared_in_sql() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    client.execute(&format!("prepare r (int) as select v, {PORT} from t where id = $1"));
    client.execute(&format!("prepare w (int) as update t set v = v where id = $1 returning v, {PORT}"));
    for _ in 0..10 {
        let reply = client.execute("execute r (1)");
        assert_eq!(reply.rows()[0][0].as_deref(), Some("one"));
        let reply = client.execute("execute w (1)");
        assert_eq!((reply.rows()[0][0].as_deref(), fleet.place_of(&reply)), (Some("one"), 0));
    }
    client.execute("deallocate r");
    assert_eq!(client.query("execute r (1)").error_code(), "26000");
    assert_eq!(fleet.refusals(), [""; 0]);
}

/// Settings of every kind: reported ones, others, the path, the role, the encoding, made-up ones.
#[test]
fn settings() {
    let fleet = Fleet::quiet(SETUP, |builder| eventual(builder).setting("default_pool_size", 2));
    fleet.database.sql(
        "create role follower; grant follower to app; grant usage on schema other to follower; \
                        grant select on other.t to follower",
    );
    fleet.set.catch_up();
    let mut plain = fleet.connect();
    let mut client = fleet.connect();
    client.execute(
        "set search_path = other; set timezone = 'Asia/Tokyo'; set work_mem = '7MB'; set app.tenant = '42'; \
         set role follower; set client_encoding = latin1; set datestyle = 'German'",
    );
    let columns = "(select v from t where id = 1), current_setting('timezone'), current_setting('work_mem'), \
                   current_setting('app.tenant', true), current_user, '1999-12-31'::date, length('ä')";
    let mine = ["other", "Asia/Tokyo", "7MB", "42", "follower", "31.12.1999", "2"];
    let usual = ["one", "UTC", "4MB", "", "app", "1999-12-31", "1"];
    for _ in 0..3 {
        fleet.ask_every_replica(&mut client, columns, &mine);
        fleet.ask_every_replica(&mut plain, columns, &usual);
        for (client, expected) in [(&mut client, &mine), (&mut plain, &usual)] {
            client.execute("begin");
            let reply = client.execute(&format!("select {columns}, {PORT}"));
            client.execute("commit");
            assert_eq!(fleet.place_of(&reply), 0);
            let row: Vec<String> =
                reply.rows()[0][..7].iter().map(|value| value.clone().unwrap_or_default()).collect();
            assert_eq!(row, *expected);
        }
    }
    client.execute("reset role; reset all");
    fleet.ask_every_replica(&mut client, columns, &usual);
    // Of a transaction only, on either kind of host.
    client.execute("begin read only; set local work_mem = '9MB'");
    let reply = client.execute(&format!("select current_setting('work_mem'), {PORT}"));
    assert_eq!(reply.rows()[0][0].as_deref(), Some("9MB"));
    client.execute("set lock_timeout = '3s'");
    client.execute("commit");
    fleet.ask_every_replica(
        &mut client,
        "current_setting('work_mem'), current_setting('lock_timeout')",
        &["4MB", "3s"],
    );
}

/// A client hears nothing of the hosts that it did not ask about.
#[test]
fn what_a_host_is_is_not_reported() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    assert_eq!(client.params["in_hot_standby"], "off");
    for _ in 0..20 {
        assert_eq!(client.execute("select v from t where id = 1").tags(), "TDCZ");
        assert_eq!(client.execute("update t set v = v where id = 1").tags(), "CZ");
        assert_eq!(client.execute("show in_hot_standby").rows(), [[Some("off".to_string())]]);
        assert_eq!(client.execute("show transaction_read_only").rows(), [[Some("off".to_string())]]);
    }
}

/// A cancel request finds the query at the replica that runs it, and no other.
#[test]
fn cancels() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let (mut client, mut bystander) = (fleet.connect(), fleet.connect());
    for round in 0..6 {
        let sql = format!("select pg_sleep(60 + {round}), {PORT}");
        let other = format!("select pg_sleep(0.3), 'bystander {round}'");
        client.send(if round % 2 == 0 { query(&sql) } else { [batch(&sql), sync()].concat() });
        bystander.send(query(&other));
        let (place, _) = fleet.wait_for_running(&sql);
        assert_ne!(place, 0, "{sql}");
        client.cancel();
        let reply = client.read_until_ready();
        assert_eq!((reply.error_code().as_str(), reply.status()), ("57014", Some(b'I')), "{reply:?}");
        assert_eq!(bystander.read_until_ready().rows()[0][1], Some(format!("bystander {round}")));
        assert_eq!(client.scalar("select 'next'"), "next");
    }
    client.execute("update t set v = v where id = 1");
}

/// A client that leaves while a replica works for it: the query ends, the next one gets an answer of its own.
#[test]
fn clients_that_leave() {
    let fleet = Fleet::quiet(SETUP, |builder| eventual(builder).setting("default_pool_size", 1));
    let mut next = fleet.connect();
    for round in 0..4 {
        let mut client = fleet.connect();
        let sql = format!("select pg_sleep(600 + {round}), {PORT}");
        client.send(query(&sql));
        let (place, pid) = fleet.wait_for_running(&sql);
        client.abort();
        let running = format!(
            "select count(*) from pg_stat_activity where pid = {pid} and query like '%pg_sleep(600 + {round})%' and state = 'active'"
        );
        support::wait::eventually("the query is cancelled", SOON, || {
            super::last_value(&fleet.sql_at(place, &running)) == "0"
        });
        fleet.ask_every_replica(&mut next, "'mine'", &["mine"]);
    }
}

/// What lives in one session: while a client has it, its reads go there, too.
#[test]
fn sessions_with_something_of_their_own() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let at_primary = |client: &mut Client| (0..5).all(|_| fleet.reads_at(client) == 0);

    let mut client = fleet.connect();
    client.execute("create temp table t (id int, v text); insert into t values (1, 'temporary')");
    for _ in 0..5 {
        let reply = client.execute(&format!("select v, {PORT} from t where id = 1"));
        assert_eq!((reply.rows()[0][0].as_deref(), fleet.place_of(&reply)), (Some("temporary"), 0));
    }
    client.execute("drop table t");
    assert_eq!(client.scalar("select v from t where id = 1"), "one");

    let mut client = fleet.connect();
    client.execute("select pg_advisory_lock(77)");
    assert!(at_primary(&mut client));
    let held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 77 and granted and \
                database = (select oid from pg_database where datname = current_database())";
    assert_eq!(fleet.database.scalar(held), "1");
    assert_eq!(client.scalar("select pg_advisory_unlock(77)"), "t");
    assert_eq!(fleet.database.scalar(held), "0");

    let mut client = fleet.connect();
    client.execute("begin; declare c cursor with hold for select id from t order by id; commit");
    assert_eq!(client.scalar("fetch 1 from c"), "1");
    assert!(at_primary(&mut client));
    assert_eq!(client.scalar("fetch 1 from c"), "2");
    client.execute("close c");
    fleet.ask_every_replica(&mut client, "'after'", &["after"]);
}

/// `LISTEN` and `NOTIFY` with reads in between.
#[test]
fn notifications() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let (mut listener, mut sender) = (fleet.connect(), fleet.connect());
    listener.execute("listen news");
    fleet.ask_every_replica(&mut listener, "'reads'", &["reads"]);
    sender.execute("notify news, 'first'");
    let heard = listener.read_until(b'A');
    let text = String::from_utf8_lossy(&heard.0[0].body[4..]).into_owned();
    assert_eq!(text, "news\0first\0");
    listener.execute("unlisten news");
    sender.execute("notify news, 'second'");
    listener.expect_silence(Duration::from_millis(100));
}

/// What a client sets in the extended protocol stays its own where nobody keeps its statements, whether it comes in one
/// batch or in two.
#[test]
fn settings_without_statements() {
    let fleet = Fleet::quiet(SETUP, |builder| {
        builder.setting("max_prepared_statements", 0).setting("default_pool_size", 1)
    });
    let (mut client, mut other) = (fleet.connect(), fleet.connect());
    let shown = "select current_setting('work_mem') from t where id = 1 for update";
    client.send([batch("set work_mem = '7MB'"), sync()].concat());
    assert_eq!(client.read_until_ready().error(), None);
    assert_eq!((other.scalar(shown), client.scalar(shown)), ("4MB".into(), "7MB".into()));
    client.send([parse("", "set work_mem = '8MB'", &[]), sync()].concat());
    client.read_until_ready();
    client.send([bind("", "", &[]), execute("", 0), sync()].concat());
    assert_eq!(client.read_until_ready().error(), None);
    assert_eq!((other.scalar(shown), client.scalar(shown)), ("4MB".into(), "8MB".into()));
}
