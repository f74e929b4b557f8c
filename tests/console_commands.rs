//! Commands of the console that steer databases, clients and the whole, and the tables that show what is open.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::pooler::ADMIN;
use support::postgres::{Postgres, USER};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler, refusal};
use crate::console::{expect_ended, expect_refused, psql_as_owner, row_where, rows_where, states, table};

const MOMENT: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(10);

/// The number of the only client of a database, or of the console client of that name.
fn client_id(console: &mut Client, column: &str, value: &str) -> u64 {
    row_where(console, "CLIENTS", column, value).number("id")
}

// ---- databases -----------------------------------------------------------------------------------------------

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let mut client = pooled.connect();
    assert_eq!(console.query(&format!("DISABLE {name}")).commands(), ["DISABLE"]);
    assert_eq!(row_where(&mut console, "DATABASES", "name", name).number("disabled"), 1);
    let refused = refusal(&pooled.target());
    assert_eq!(
        (refused.code(), refused.message()),
        ("08P01", format!("database \"{name}\" is disabled").as_str())
    );
    client.execute("select 1");
    assert_eq!(console.query(&format!("ENABLE {name}")).commands(), ["ENABLE"]);
    assert_eq!(console.query(&format!("ENABLE {name}")).commands(), ["ENABLE"], "enabled before");
    pooled.connect().execute("select 1");
    expect_refused(&mut console, "DISABLE", "08P01", "a database is required");
    expect_refused(&mut console, "DISABLE pgbouncer", "08P01", "cannot disable admin db: pgbouncer");
    pooled.pooler.wait_for_log(&format!("DISABLE '{name}' command issued"));
}

/// A database that comes from `*` can be disabled before anybody has used it.
#[test]
fn databases_that_nobody_has_used_yet_can_be_disabled_and_paused() {
    let database = Postgres::shared().database("unused");
    let fallback = format!("host=127.0.0.1 port={}", database.postgres().port());
    let pooler = pooler().database_line("*", &fallback).start();
    let mut console = pooler.console();
    for command in ["DISABLE", "PAUSE", "RECONNECT", "WAIT_CLOSE"] {
        assert_eq!(console.query(&format!("{command} {}", database.name())).commands(), [command]);
    }
    assert_eq!(
        row_where(&mut console, "DATABASES", "name", database.name()).numbers(["paused", "disabled"]),
        [1, 1]
    );
}

#[test]
fn reconnect_replaces_every_server_when_it_is_free() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let mut client = pooled.connect();
    for text in ["RECONNECT".to_owned(), format!("RECONNECT {name}")] {
        let before = client.backend_pid();
        eventually("the server is free", SOON, || states(&mut console, "SERVERS", name) == ["idle"]);
        assert_eq!(console.query(&text).commands(), ["RECONNECT"]);
        assert_ne!(client.backend_pid(), before, "{text}: the idle server was closed");
        client.execute("begin");
        let before = client.backend_pid();
        console.execute(&text);
        assert_eq!(row_where(&mut console, "SERVERS", "database", name).number("close_needed"), 1);
        assert_eq!(client.backend_pid(), before, "{text}: a transaction keeps it");
        client.execute("commit");
        console.execute("WAIT_CLOSE"); // it may still have been looked at
        assert_ne!(client.backend_pid(), before);
    }
}

#[test]
fn wait_close_waits_until_servers_that_are_to_be_closed_are_gone() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let (mut console, mut other) = (pooled.pooler.console(), pooled.pooler.console());
    let mut client = pooled.connect();
    client.execute("begin");
    assert_eq!(console.query("WAIT_CLOSE").commands(), ["WAIT_CLOSE"], "none is to be closed");
    other.execute("RECONNECT");
    for text in ["WAIT_CLOSE".to_owned(), format!("WAIT_CLOSE {name}")] {
        console.send(query(&text));
        console.expect_silence(MOMENT);
        client.execute("commit");
        assert_eq!(console.read_until_ready().commands(), ["WAIT_CLOSE"]);
        client.execute("begin");
        other.execute("RECONNECT");
    }
}

// ---- clients -------------------------------------------------------------------------------------------------

#[test]
fn kill_client_ends_one_client_and_no_other() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let mut console = pooled.pooler.console();
    let named = |name: &str| Client::login(&pooled.target().param("application_name", name));
    let (mut victim, mut other) = (named("victim"), named("other"));
    victim.execute("begin; insert into t values (1)");
    let id = client_id(&mut console, "application_name", "victim");
    assert_eq!(console.query(&format!("KILL_CLIENT {id}")).commands(), ["KILL_CLIENT"]);
    expect_ended(&mut victim, "admin forced disconnect");
    assert_eq!(other.scalar("select count(*) from t"), "0", "its transaction was rolled back");
    let id = client_id(&mut console, "application_name", "other");
    console.execute(&format!("KILL_CLIENT {id}"));
    expect_ended(&mut other, "admin forced disconnect");
    expect_refused(&mut console, &format!("KILL_CLIENT {id}"), "08P01", "client not found");
    expect_refused(&mut console, "KILL_CLIENT abc", "08P01", "invalid client pointer supplied");
    expect_refused(&mut console, "KILL_CLIENT", "08P01", "invalid client pointer supplied");
}

/// PgBouncer aborts when a client of the console gives its own number.
#[test]
fn kill_client_of_console_clients_the_own_included() {
    let pooler = pooler().start();
    let target = |name: &str| pooler.target("pgbouncer").user(ADMIN).param("application_name", name);
    let (mut first, mut second) = (Client::login(&target("first")), Client::login(&target("second")));
    let id = client_id(&mut first, "application_name", "second");
    assert_eq!(first.query(&format!("KILL_CLIENT {id}")).commands(), ["KILL_CLIENT"]);
    expect_ended(&mut second, "admin forced disconnect");
    let id = client_id(&mut first, "application_name", "first");
    first.send(query(&format!("KILL_CLIENT {id}")));
    let error = first.expect_closed().error().expect("an error");
    assert_eq!((error.severity(), error.message()), ("FATAL", "admin forced disconnect"));
    pooler.console().execute("SHOW STATE");
}

// ---- SUSPEND -------------------------------------------------------------------------------------------------

fn suspended(console: &mut Client) -> bool {
    row_where(console, "STATE", "key", "suspended").text("value") == "yes"
}

#[test]
fn suspend_stops_everything_and_resume_lets_it_go_on() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("default_pool_size", 2));
    let mut console = pooled.pooler.console();
    let (mut in_transaction, mut idle) = (pooled.connect(), pooled.connect());
    in_transaction.execute("begin; insert into t values (1)");
    assert_eq!(console.query("SUSPEND").commands(), ["SUSPEND"]);
    assert!(suspended(&mut console));
    for text in ["SUSPEND", "PAUSE", "KILL"] {
        expect_refused(&mut console, text, "08P01", "already suspended/paused");
    }
    in_transaction.send(query("commit"));
    idle.send(query("select 1"));
    in_transaction.expect_silence(MOMENT);
    idle.expect_silence(MOMENT);
    // The system takes the connection, the pooler does not.
    let mut newcomer = Client::open(&pooled.pooler.address());
    newcomer.send(pooled.target().startup());
    newcomer.expect_silence(MOMENT);
    assert_eq!(console.query("RESUME").commands(), ["RESUME"]);
    assert!(!suspended(&mut console));
    assert_eq!(in_transaction.read_until_ready().commands(), ["COMMIT"]);
    assert_eq!(idle.read_until_ready().tags(), "TDCZ");
    newcomer.finish_login(&pooled.target()).unwrap();
    newcomer.execute("select 1");
    assert_eq!(pooled.database.scalar("select count(*) from t"), "1");
    expect_refused(&mut console, "RESUME", "08P01", "pooler is not paused/suspended");
}

/// What a server sends meanwhile is passed on later.
#[test]
fn queries_that_run_while_suspended_are_answered_behind_it() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let (mut running, mut waiting) = (pooled.connect(), pooled.connect());
    running.send(query("select pg_sleep(0.3)"));
    eventually("it runs", SOON, || states(&mut console, "SERVERS", pooled.database.name()) == ["active"]);
    waiting.send(query("select 2"));
    eventually("one waits", SOON, || {
        row_where(&mut console, "POOLS", "database", pooled.database.name()).number("cl_waiting") == 1
    });
    console.execute("SUSPEND");
    running.expect_silence(Duration::from_millis(600));
    waiting.expect_silence(MOMENT);
    console.execute("RESUME");
    assert_eq!(running.read_until_ready().tags(), "TDCZ");
    assert_eq!(waiting.read_until_ready().tags(), "TDCZ");
}

/// A client that does not take its rows is in the middle of a message for ever.
#[test]
fn who_does_not_come_to_rest_is_ended_after_suspend_timeout() {
    let pooled = pooled("", |builder| builder.setting("suspend_timeout", 1));
    let mut console = pooled.pooler.console();
    let mut stuck = pooled.connect();
    stuck.send(query("select repeat('x', 100000000)"));
    eventually("bytes are unsent", SOON, || {
        let rows = rows_where(&mut console, "ACTIVE_SOCKETS", "database", pooled.database.name());
        rows.iter().any(|row| row.number("send_avail") > 0)
    });
    let began = Instant::now();
    assert_eq!(console.query("SUSPEND").commands(), ["SUSPEND"]);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    pooled.pooler.wait_for_log("closing because: suspend_timeout");
    console.execute("RESUME");
    pooled.connect().execute("select 1");
}

#[test]
fn without_a_console_client_suspend_ends_by_itself() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("select 1");
    let mut console = pooled.pooler.console();
    console.execute("SUSPEND");
    client.send(query("select 1"));
    client.expect_silence(MOMENT);
    console.abort();
    assert_eq!(client.read_until_ready().tags(), "TDCZ");
    pooled.pooler.wait_for_log("admin disappeared when suspended, doing RESUME");
    pooled.pooler.console().execute("SHOW STATE");
}

#[test]
fn suspend_is_refused_while_anything_is_paused() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    console.execute(&format!("PAUSE {}", pooled.database.name()));
    expect_refused(&mut console, "SUSPEND", "08P01", "cannot suspend with paused databases");
    console.execute(&format!("RESUME {}", pooled.database.name()));
    console.execute("PAUSE");
    expect_refused(&mut console, "SUSPEND", "08P01", "already suspended/paused");
}

/// Clients at work notice nothing of pauses and suspensions but the time they take.
#[test]
fn pauses_and_suspensions_under_load_lose_nothing() {
    let pooled = pooled("create table t (id int)", |builder| builder.setting("default_pool_size", 2));
    let mut console = pooled.pooler.console();
    let target = pooled.target();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let target = target.clone();
            thread::spawn(move || {
                let mut client = Client::login(&target);
                for _ in 0..150 {
                    client.execute("insert into t values (1)");
                    client.execute("begin");
                    client.execute("insert into t values (2)");
                    client.execute("commit");
                }
            })
        })
        .collect();
    let mut rounds = 0;
    while rounds < 5 || clients.iter().any(|client| !client.is_finished()) {
        let command = if rounds % 2 == 0 { "SUSPEND" } else { "PAUSE" };
        assert_eq!(console.query(command).commands(), [command]);
        console.execute("RESUME");
        thread::sleep(Duration::from_millis(20));
        rounds += 1;
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(pooled.database.scalar("select count(*) from t"), "1200");
}

// ---- SET -----------------------------------------------------------------------------------------------------

#[track_caller]
fn shown(console: &mut Client, key: &str) -> String {
    row_where(console, "CONFIG", "key", key).text("value").to_owned()
}

#[test]
fn set_takes_effect_at_once_and_is_lost_at_reload() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let (mut first, mut second) = (pooled.connect(), pooled.connect());
    first.execute("begin");
    second.send(query("select 1"));
    second.expect_silence(MOMENT);
    assert_eq!(console.query("SET default_pool_size = 2").commands(), ["SET default_pool_size=2"]);
    assert_eq!(second.read_until_ready().tags(), "TDCZ", "there is room for it now");
    assert_eq!(shown(&mut console, "default_pool_size"), "2");
    assert_eq!(
        console.query("set server_idle_timeout TO '12.5';").commands(),
        ["SET server_idle_timeout=12.5"]
    );
    assert_eq!(shown(&mut console, "default_pool_size"), "2", "the other one stays");
    console.execute("SET max_client_conn = 3");
    assert_eq!(refusal(&pooled.target()).message(), "no more connections allowed (max_client_conn)");
    console.execute("SET auth_dbname = 'kept'");
    console.execute("RELOAD");
    assert_eq!(shown(&mut console, "default_pool_size"), "1");
    assert_eq!(shown(&mut console, "max_client_conn"), "100");
    assert_eq!(shown(&mut console, "auth_dbname"), "kept", "it has no default");
    first.execute("commit");
}

#[test]
fn what_set_refuses_changes_nothing() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    let before = console.query("SHOW CONFIG");
    for (text, detail) in [
        ("SET verbos = 1", "unknown parameter: verbos"),
        ("SET query_timeout = soon", "invalid value \"soon\" for parameter query_timeout"),
        ("SET pool_mode = ''", "invalid value \"\" for parameter pool_mode"),
        ("SET listen_port = 1", "listen_port cannot be changed while the program runs"),
    ] {
        let error = console.query(text).error().expect("an error");
        assert_eq!(
            (error.severity(), error.code(), error.message()),
            ("ERROR", "08P01", "SET failed"),
            "{text}"
        );
        assert!(error.get(b'D').starts_with(detail), "{text}: {}", error.get(b'D'));
    }
    expect_refused(&mut console, "SET a.b = 1", "08P01", "invalid command 'SET a.b = 1', use SHOW HELP;");
    assert_eq!(console.query("SHOW CONFIG"), before);
}

#[test]
fn set_reaches_the_log_and_the_file_that_is_read_next() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    let other = pooler.dir().join("other.ini");
    let text = fs::read_to_string(pooler.dir().join("pooler.ini")).unwrap();
    fs::write(&other, text.replace("[pgbouncer]\n", "[pgbouncer]\nquery_timeout = 77\n")).unwrap();
    console.execute(&format!("SET conffile = '{}'", other.display()));
    console.execute("RELOAD");
    assert_eq!(shown(&mut console, "query_timeout"), "77");
    let log = pooler.dir().join("other.log");
    console.execute(&format!("SET logfile = '{}'", log.display()));
    console.query("nonsense");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("pooler error: invalid command 'nonsense'"), "{said}");
}

// ---- tables --------------------------------------------------------------------------------------------------

/// Clients and servers share one counter, and numbers only grow.
#[test]
fn numbers_of_sockets_grow_by_one() {
    let pooled = pooled("", |builder| builder);
    let mut first = pooled.pooler.console();
    eventually("what looked whether it is up is gone", SOON, || table(&mut first, "SOCKETS").len() == 1);
    let mut console = pooled.pooler.console();
    first.terminate();
    eventually("only one is left", SOON, || table(&mut console, "SOCKETS").len() == 1);
    let ids = |console: &mut Client| {
        let mut ids: Vec<u64> = table(console, "SOCKETS").iter().map(|row| row.number("id")).collect();
        ids.sort_unstable();
        ids
    };
    let own = *ids(&mut console).last().unwrap();
    let mut client = pooled.connect(); // the first of a pool waits for a server
    client.execute("select 1");
    assert_eq!(ids(&mut console), [own, own + 1, own + 2]);
    let second = pooled.pooler.console();
    assert_eq!(ids(&mut console), [own, own + 1, own + 2, own + 3]);
    second.terminate();
    eventually("it is gone", SOON, || ids(&mut console).len() == 3);
    let _third = pooled.pooler.console();
    assert_eq!(*ids(&mut console).last().unwrap(), own + 4, "no number is used twice");
}

#[test]
fn sockets_are_in_pgbouncers_states() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let named = |name: &str| Client::login(&pooled.target().param("application_name", name));
    let (mut active, mut waiting, _idle) = (named("active"), named("waiting"), named("idle"));
    active.execute("begin");
    waiting.send(query("select 1"));
    let all = ["cl_active", "cl_waiting", "cl_active", "sv_active"];
    eventually("one waits", SOON, || states(&mut console, "SOCKETS", name) == all);
    let row = row_where(&mut console, "SOCKETS", "application_name", "waiting");
    assert_eq!(row.number("pkt_avail"), "select 1".len() as u64 + 6, "its request is kept");
    let own = row_where(&mut console, "ACTIVE_SOCKETS", "database", "pgbouncer");
    assert_eq!(own.number("recv_pos"), "SHOW ACTIVE_SOCKETS".len() as u64 + 6);
    let active_rows = table(&mut console, "ACTIVE_SOCKETS");
    assert_eq!(active_rows.len(), 2, "the console, and who waits");
    // Who has not logged in comes last.
    let mut arriving = Client::open(&pooled.pooler.address());
    arriving.send([0, 0]);
    eventually("it is there", SOON, || {
        let rows = table(&mut console, "SOCKETS");
        let last = rows.last().unwrap();
        (last.text("state"), last.text("user"), last.text("database")) == ("cl_login", "(nouser)", "(nodb)")
    });
}

#[test]
fn descriptors_are_those_of_the_process() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let mut client = pooled.connect();
    client.execute("begin");
    let rows = table(&mut console, "FDS");
    let open = |fd: u64| fs::read_link(format!("/proc/{}/fd/{fd}", pooled.pooler.pid())).unwrap();
    for row in &rows {
        assert!(open(row.number("fd")).to_string_lossy().starts_with("socket:"), "{}", row.text("fd"));
        assert_eq!(
            ["password", "scram_client_key", "scram_server_key"].map(|column| row.text(column)),
            [""; 3]
        );
    }
    let tasks: Vec<&str> = rows.iter().map(|row| row.text("task")).collect();
    assert_eq!(tasks, ["pooler", "pooler", "client", "server"], "TCP, Unix; the console's are left out");
    let (client_row, server_row) = (&rows[2], &rows[3]);
    assert_eq!((client_row.text("user"), client_row.text("database")), (USER, name));
    assert_eq!(client_row.text("link"), server_row.text("fd"));
    assert_eq!(server_row.text("link"), client_row.text("fd"));
    assert_eq!(server_row.number("cancel") >> 32, client.backend_pid() as u64);
    let key = client.key.as_ref().unwrap();
    assert_eq!(client_row.number("cancel") >> 32, key.pid as u64);
    assert_eq!(client_row.text("client_encoding"), "UTF8");
}

#[test]
fn memory_by_kind() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let _clients = [pooled.connect(), pooled.connect()];
    for (name, used) in [("client_cache", 2), ("server_cache", 1), ("pool_cache", 1), ("db_cache", 1)] {
        let row = row_where(&mut console, "MEM", "name", name);
        assert_eq!((row.number("used"), row.number("free")), (used, 0), "{name}");
        assert_eq!(row.number("memtotal"), row.number("size") * used, "{name}");
        assert!(row.number("size") > 100, "{name}");
    }
    assert!(table(&mut console, "DNS_HOSTS").is_empty() && table(&mut console, "DNS_ZONES").is_empty());
}

/// psql as administrators use it.
#[test]
fn every_command_from_psql() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let texts = [
        "SUSPEND".to_owned(),
        "RESUME".to_owned(),
        format!("DISABLE {name}"),
        format!("ENABLE {name}"),
        "RECONNECT".to_owned(),
        "WAIT_CLOSE".to_owned(),
        "SET query_timeout = '5'".to_owned(),
        "BEGIN".to_owned(),
        "SHOW DNS_HOSTS".to_owned(),
    ];
    let arguments: Vec<&str> =
        ["-At"].into_iter().chain(texts.iter().flat_map(|text| ["-c", text])).collect();
    let reply = psql_as_owner(&pooled.pooler, &arguments);
    let said = String::from_utf8_lossy(&reply.stdout).into_owned();
    assert!(reply.status.success(), "{reply:?}");
    assert_eq!(said, "SUSPEND\nRESUME\nDISABLE\nENABLE\nRECONNECT\nWAIT_CLOSE\nSET query_timeout=5\nBEGIN\n");
}
