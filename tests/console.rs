//! The console: its tables tell the truth, its commands do what they say, and it refuses as PgBouncer does.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use support::backend;
use support::frontend::*;
use support::pooler::{ADMIN, Pooler};
use support::postgres::{Postgres, USER};
use support::scripted::ScriptedServer;
use support::tools;
use support::wait::{Gate, eventually};
use support::wire::{Client, Target};

use crate::common::{pooled, pooler, refusal};

const MOMENT: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(10);

/// A row of a table, by column.
#[derive(Debug)]
pub(crate) struct Row(HashMap<String, Option<String>>);

impl Row {
    /// A value, empty for NULL.
    #[track_caller]
    pub(crate) fn text(&self, column: &str) -> &str {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column}")).as_deref().unwrap_or("")
    }

    #[track_caller]
    pub(crate) fn number(&self, column: &str) -> u64 {
        self.text(column).parse().unwrap_or_else(|_| panic!("{column} is {:?}", self.text(column)))
    }

    #[track_caller]
    pub(crate) fn numbers<const N: usize>(&self, columns: [&str; N]) -> [u64; N] {
        columns.map(|column| self.number(column))
    }
}

#[track_caller]
pub(crate) fn table(console: &mut Client, item: &str) -> Vec<Row> {
    let reply = console.execute(&format!("SHOW {item}"));
    let columns = reply.0[0].columns().expect("columns");
    let row = |values: Vec<Option<String>>| {
        Row(columns.iter().map(|column| column.name.clone()).zip(values).collect())
    };
    reply.rows().into_iter().map(row).collect()
}

/// The rows in which `column` is `value`.
#[track_caller]
pub(crate) fn rows_where(console: &mut Client, item: &str, column: &str, value: &str) -> Vec<Row> {
    table(console, item).into_iter().filter(|row| row.text(column) == value).collect()
}

/// The only such row.
#[track_caller]
pub(crate) fn row_where(console: &mut Client, item: &str, column: &str, value: &str) -> Row {
    let mut rows = rows_where(console, item, column, value);
    assert_eq!(rows.len(), 1, "rows of {item} with {column} = {value}");
    rows.remove(0)
}

/// States of the clients of a database, in the order in which they connected.
#[track_caller]
pub(crate) fn states(console: &mut Client, item: &str, database: &str) -> Vec<String> {
    rows_where(console, item, "database", database).iter().map(|row| row.text("state").into()).collect()
}

#[track_caller]
pub(crate) fn expect_refused(console: &mut Client, text: &str, code: &str, message: &str) {
    let reply = console.query(text);
    assert_eq!(reply.tags(), "EZ", "{text}: {reply:?}");
    let error = reply.error().unwrap();
    assert_eq!((error.severity(), error.code(), error.message()), ("ERROR", code, message), "{text}");
}

/// The client was told why and disconnected.
#[track_caller]
pub(crate) fn expect_ended(client: &mut Client, message: &str) {
    let error = client.expect_closed().error().expect("an error");
    assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "08P01", message));
}

/// psql as the user who owns the process, through its Unix socket.
pub(crate) fn psql_as_owner(pooler: &Pooler, arguments: &[&str]) -> Output {
    let owner = fs::metadata(pooler.dir()).unwrap();
    let mut psql = Command::new(tools::program("psql"));
    psql.uid(owner.uid()).gid(owner.gid()).current_dir("/").args(["-X", "-h"]).arg(pooler.dir());
    psql.args(["-p", &pooler.port().to_string(), "-U", "pgbouncer", "-d", "pgbouncer"]).args(arguments);
    psql.output().unwrap()
}

// ---- tables --------------------------------------------------------------------------------------------------

/// Columns as PgBouncer's next release after 1.25.2 has them.
#[test]
fn every_table_has_pgbouncers_columns_and_types() {
    let pooled = pooled("", |builder| builder);
    let _client = pooled.connect();
    let mut console = pooled.pooler.console();
    let types = HashMap::from([("text", 25), ("int4", 23), ("int8", 20), ("numeric", 1700), ("bytea", 17)]);
    for line in include_str!("console/columns.txt").lines() {
        let (item, columns) = line.split_once(' ').unwrap();
        let expected: Vec<(String, u32)> = columns
            .split(' ')
            .map(|c| c.split_once(':').unwrap())
            .map(|(n, t)| (n.into(), types[t]))
            .collect();
        let reply = console.execute(&format!("SHOW {item};"));
        let columns = reply.0[0].columns().expect("columns");
        assert!(columns.iter().all(|column| (column.table_oid, column.format) == (0, 0)), "{item}");
        let columns: Vec<(String, u32)> = columns.into_iter().map(|c| (c.name, c.type_oid)).collect();
        assert_eq!(columns, expected, "{item}");
        assert_eq!(reply.commands(), ["SHOW"], "{item}");
        assert_eq!(reply.status(), Some(b'I'), "{item}");
    }
}

#[test]
fn the_welcome_of_the_console() {
    let pooler = pooler().start();
    let target = pooler.target("pgbouncer").user(ADMIN).param("application_name", "watcher");
    let client = Client::login(&target);
    let told: Vec<(String, String)> = client.greeting.iter().filter_map(|m| m.parameter()).collect();
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names.join(" "),
        "server_version client_encoding server_encoding DateStyle TimeZone standard_conforming_strings \
         is_superuser application_name"
    );
    assert!(told[0].1.ends_with("/bouncer"), "{told:?}");
    assert_eq!(told[7].1, "watcher");
    let mut other = Client::login(&pooler.target("pgferry").user(ADMIN));
    let row = row_where(&mut other, "CLIENTS", "application_name", "watcher");
    assert_eq!((row.text("database"), row.text("user"), row.text("state")), ("pgbouncer", ADMIN, "idle"));
    assert_eq!(row_where(&mut other, "POOLS", "database", "pgbouncer").number("cl_active"), 2);
    client.terminate();
    eventually("one is left", SOON, || {
        row_where(&mut other, "POOLS", "database", "pgbouncer").number("cl_active") == 1
    });
}

#[test]
fn clients_servers_and_pools_while_one_works_one_waits_and_one_idles() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let named = |name: &str| Client::login(&pooled.target().param("application_name", name));
    let (mut active, mut waiting, idle) = (named("active"), named("waiting"), named("idle"));
    active.execute("begin");
    let pid = active.backend_pid();
    waiting.send(query("select 1"));
    eventually("one waits", SOON, || states(&mut console, "CLIENTS", name) == ["active", "waiting", "idle"]);

    let pool = row_where(&mut console, "POOLS", "database", name);
    assert_eq!((pool.text("user"), pool.text("pool_mode")), (USER, "transaction"));
    assert_eq!(pool.numbers(["cl_active", "cl_waiting", "sv_active", "sv_idle"]), [2, 1, 1, 0]);
    assert!(pool.number("maxwait") * 1_000_000 + pool.number("maxwait_us") > 0);

    let clients = rows_where(&mut console, "CLIENTS", "database", name);
    let server = row_where(&mut console, "SERVERS", "database", name);
    let texts = |column| -> Vec<&str> { clients.iter().map(|row| row.text(column)).collect() };
    assert_eq!(texts("application_name"), ["active", "waiting", "idle"]);
    assert_eq!(texts("link"), [server.text("ptr"), "", ""]);
    assert!(server.text("ptr").starts_with("0x"));
    for client in &clients {
        let port = pooled.pooler.port().to_string();
        assert_eq!((client.text("type"), client.text("user"), client.text("tls")), ("C", USER, ""));
        assert_eq!((client.text("addr"), client.text("local_addr")), ("127.0.0.1", "127.0.0.1"));
        assert_eq!((client.text("local_port"), client.text("replication")), (port.as_str(), "none"));
        assert_eq!(client.text("connect_time").split(' ').count(), 3, "date, time and zone");
    }
    assert!(clients[1].number("wait") * 1_000_000 + clients[1].number("wait_us") > 0);
    assert_eq!(clients[2].numbers(["wait", "wait_us"]), [0, 0]);
    assert_eq!((server.text("type"), server.text("state"), server.text("user")), ("S", "active", USER));
    assert_eq!(server.text("link"), clients[0].text("ptr"));
    assert_eq!(server.number("remote_pid"), pid as u64);
    assert_eq!(server.number("port"), u64::from(pooled.database.postgres().port()));
    assert_eq!(server.text("application_name"), "active");
    assert_eq!(server.numbers(["wait", "close_needed", "prepared_statements"]), [0, 0, 0]);
    let mut ids: Vec<u64> = clients.iter().map(|row| row.number("id")).collect();
    assert!(ids.is_sorted());
    ids.push(server.number("id"));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "one counter for both");

    active.execute("commit");
    waiting.read_until_ready();
    eventually("all idle", SOON, || states(&mut console, "CLIENTS", name) == ["idle", "idle", "idle"]);
    eventually("the server too", SOON, || states(&mut console, "SERVERS", name) == ["idle"]);
    let pool = row_where(&mut console, "POOLS", "database", name);
    assert_eq!(pool.numbers(["cl_active", "cl_waiting", "sv_active", "sv_idle"]), [3, 0, 0, 1]);
    assert_eq!(pool.numbers(["maxwait", "maxwait_us", "sv_login", "sv_tested"]), [0, 0, 0, 0]);
    assert_eq!(row_where(&mut console, "SERVERS", "database", name).text("link"), "");
    idle.terminate();
    eventually("two are left", SOON, || states(&mut console, "CLIENTS", name).len() == 2);
}

#[test]
fn replication_clients_and_their_servers() {
    let server = ScriptedServer::start(|session| {
        session.login()?;
        session.serve_number()
    });
    let pooler = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port())).start();
    let mut console = pooler.console();
    for (asked, shown) in [("true", "physical"), ("database", "logical")] {
        let mut client = Client::login(&pooler.target("app").param("replication", asked));
        client.execute("IDENTIFY_SYSTEM");
        let row = row_where(&mut console, "CLIENTS", "database", "app");
        assert_eq!(row.text("replication"), shown);
        let server = row_where(&mut console, "SERVERS", "ptr", row.text("link"));
        assert_eq!((server.text("replication"), server.text("link")), (shown, row.text("ptr")));
        client.terminate();
        eventually("it is gone", SOON, || states(&mut console, "CLIENTS", "app").is_empty());
        eventually("its server too", SOON, || states(&mut console, "SERVERS", "app") == ["idle"]);
    }
}

/// A server that is being cancelled is nobody's until the request is over.
#[test]
fn cancel_requests_show_in_their_pool() {
    let (landed, answered) = (Gate::new(), Gate::new());
    let server = ScriptedServer::start_holding_cancels(landed.clone(), {
        let answered = answered.clone();
        move |session| {
            session.login()?;
            session.expect(b'Q')?;
            answered.pass();
            session.send(&backend::one_value("late"))?;
            session.serve(|_| [backend::empty_query(), backend::ready(b'I')].concat())
        }
    });
    let builder = pooler().database_line("app", &format!("host=127.0.0.1 port={}", server.port()));
    let pooler = builder.setting("default_pool_size", 1).start();
    let mut console = pooler.console();
    let mut client = pooler.connect("app");
    client.send(query("select 1"));
    eventually("it runs", SOON, || states(&mut console, "SERVERS", "app") == ["active"]);
    let mut cancelling = Client::open(&pooler.address());
    cancelling.send(cancel_request(client.key.as_ref().unwrap()));
    let columns = ["cl_active_cancel_req", "sv_active_cancel", "sv_active", "sv_being_canceled", "sv_idle"];
    let mut pool_is = |what: &str, expected: [u64; 5]| {
        eventually(what, SOON, || {
            row_where(&mut console, "POOLS", "database", "app").numbers(columns) == expected
        });
    };
    pool_is("the request is on its way", [1, 1, 1, 0, 0]);
    answered.open();
    client.read_until_ready();
    pool_is("the server is held back", [1, 1, 0, 1, 0]);
    landed.open();
    pool_is("it is over", [0, 0, 0, 0, 1]);
    assert!(cancelling.expect_closed().0.is_empty());
}

#[test]
fn databases_users_and_lists_count_connections() {
    let database = Postgres::shared().database("counted");
    let builder = pooler().database(&database, "pool_size=2 max_db_connections=5");
    let pooler = builder.user_line(USER, "pool_size=3 max_user_connections=4").start();
    let mut console = pooler.console();
    let counts = ["current_connections", "current_client_connections"];
    let [mut first, mut second] = [pooler.connect(database.name()), pooler.connect(database.name())];
    first.execute("begin");
    second.execute("begin");

    let row = row_where(&mut console, "DATABASES", "name", database.name());
    assert_eq!((row.text("host"), row.text("database")), ("127.0.0.1", database.name()));
    assert_eq!(row.numbers(["pool_size", "max_connections", "paused", "disabled"]), [2, 5, 0, 0]);
    assert_eq!(row.numbers(counts), [2, 2]);
    let row = row_where(&mut console, "DATABASES", "name", "pgbouncer");
    assert_eq!((row.number("port"), row.number("pool_size")), (u64::from(pooler.port()), 2));
    assert_eq!((row.0["host"].clone(), row.text("force_user")), (None, "pgbouncer"));
    assert_eq!(row.numbers(counts), [0, 1]);

    let row = row_where(&mut console, "USERS", "name", USER);
    assert_eq!((row.text("pool_size"), row.text("reserve_pool_size")), ("        3", ""));
    assert_eq!(row.number("max_user_connections"), 4);
    assert_eq!(row.numbers(counts), [2, 2]);
    assert_eq!(row_where(&mut console, "USERS", "name", ADMIN).numbers(counts), [0, 1]);
    let _ = refusal(&pooler.target(database.name()).user("stranger"));
    assert_eq!(rows_where(&mut console, "USERS", "name", "stranger").len(), 0, "unknown, if tried");

    let mut list = |name: &str| row_where(&mut console, "LISTS", "list", name).number("items");
    assert_eq!((list("databases"), list("users"), list("pools")), (2, 3, 2));
    assert_eq!((list("used_clients"), list("login_clients"), list("used_servers")), (3, 0, 2));
    drop(first);
    second.execute("commit");
    second.terminate();
    eventually("they are gone", SOON, || {
        row_where(&mut console, "DATABASES", "name", database.name()).number(counts[1]) == 0
            && row_where(&mut console, "LISTS", "list", "used_clients").number("items") == 1
    });
}

#[test]
fn statistics_count_transactions_queries_and_logins() {
    let pooled = pooled("create table t (id int)", |builder| {
        // A look at the session behind a transaction may keep the server until the next one comes.
        builder.setting("stats_period", 1).setting("session_state", "discard")
    });
    let name = pooled.database.name();
    let mut client = pooled.connect();
    client.execute("select 1; select 2");
    ["begin", "insert into t values (1)", "commit"].iter().for_each(|sql| drop(client.execute(sql)));
    client.query("select 1/0");
    pooled.settle();
    let mut console = pooled.pooler.console();
    let counters = ["total_xact_count", "total_query_count", "total_server_assignment_count"];
    eventually("all is counted", SOON, || {
        row_where(&mut console, "STATS", "database", name).numbers(counters) == [3, 5, 3]
    });
    let stats = row_where(&mut console, "STATS", "database", name);
    assert_eq!(stats.number("total_client_login_count"), 1);
    let sent: usize = ["select 1; select 2", "begin", "insert into t values (1)", "commit", "select 1/0"]
        .map(|s| s.len() + 6)
        .iter()
        .sum();
    assert_eq!(stats.number("total_received"), sent as u64);
    for column in ["total_sent", "total_xact_time", "total_query_time"] {
        assert!(stats.number(column) > 0, "{column}");
    }
    let totals = row_where(&mut console, "STATS_TOTALS", "database", name);
    assert_eq!(totals.numbers(["xact_count", "query_count", "server_assignment_count"]), [3, 5, 3]);
    assert_eq!(totals.text("bytes_received"), stats.text("total_received"));

    pooled.pooler.console().terminate();
    let own = row_where(&mut console, "STATS", "database", "pgbouncer");
    let own = own.numbers(["total_xact_count", "total_query_count", "total_client_login_count"]);
    assert_eq!(own, [2, 2, 2], "a login to the console is a transaction and a query");
    let total = row_where(&mut console, "TOTALS", "name", "total_query_count");
    assert_eq!(total.number("value"), 5 + own[1]);

    eventually("averages of a second", SOON, || {
        client.execute("select 1");
        let averages = row_where(&mut console, "STATS_AVERAGES", "database", name);
        averages.number("query_count") > 1 && averages.number("query_time") > 0
    });
}

#[test]
fn state_help_and_what_drivers_ask_for() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    let states: Vec<_> = table(&mut console, "STATE")
        .iter()
        .map(|row| format!("{}={}", row.text("key"), row.text("value")))
        .collect();
    assert_eq!(states, ["active=yes", "paused=no", "suspended=no"]);
    assert_eq!(console.scalar("SHOW standard_conforming_strings"), "on");
    assert!(console.scalar("select version").starts_with("PgBouncer 1.25"));
    let help = console.query("SHOW HELP");
    assert_eq!((help.tags().as_str(), help.commands()), ("NCZ", vec!["SHOW".to_string()]));
    let set = console.query("SET client_encoding = 'UTF8'");
    assert_eq!((set.tags().as_str(), set.commands()), ("NCZ", vec!["SET".to_string()]));
    let port = row_where(&mut console, "CONFIG", "key", "listen_port");
    assert_eq!((port.number("value"), port.text("default")), (u64::from(pooler.port()), "6432"));
    assert_eq!(port.text("changeable"), "no");
}

// ---- what is refused -----------------------------------------------------------------------------------------

#[test]
fn who_may_look_may_not_act() {
    let pooler = pooler().setting("stats_users", "viewer").secret("viewer", "").secret("nobody", "").start();
    let mut viewer = Client::login(&pooler.target("pgbouncer").user("viewer"));
    for text in ["PAUSE", "RESUME", "KILL", "RELOAD", "SHUTDOWN", "SHOW FDS", "SET verbose = 1"] {
        expect_refused(&mut viewer, text, "08P01", "admin access needed");
    }
    assert_eq!(table(&mut viewer, "POOLS").len(), 1);
    assert_eq!(viewer.query("SET timezone = 'UTC'").tags(), "NCZ");
    assert_eq!(refusal(&pooler.target("pgbouncer").user("nobody")).message(), "not allowed");
}

/// The owner of the process needs neither a password nor an entry anywhere.
#[test]
fn the_owner_of_the_process_is_an_administrator() {
    let pooler = pooler().setting("auth_type", "scram-sha-256").setting("admin_users", "").start();
    let reply = psql_as_owner(&pooler, &["-At", "-c", "SHOW VERSION", "-c", "PAUSE", "-c", "RESUME"]);
    let said = String::from_utf8_lossy(&reply.stdout).into_owned();
    assert!(reply.status.success() && said.starts_with("PgBouncer "), "{reply:?}");
    assert!(said.ends_with("PAUSE\nRESUME\n"), "{said}");

    let over_tcp = Target::new(pooler.address(), "pgbouncer", "pgbouncer");
    assert_eq!(refusal(&over_tcp).message(), "not allowed");
    let from_here = Target::new(pooler.unix_address(), "pgbouncer", "pgbouncer");
    if fs::metadata(pooler.dir()).unwrap().uid() != nix::unistd::geteuid().as_raw() {
        assert_eq!(refusal(&from_here).message(), "not allowed");
    }
}

/// PgBouncer hangs up on `\d` and other long texts.
#[test]
fn what_is_no_command_keeps_the_connection() {
    let pooler = pooler().start();
    let reply = psql_as_owner(&pooler, &["-At", "-c", "\\d", "-c", "SHOW VERSION"]);
    assert!(String::from_utf8_lossy(&reply.stderr).contains("ERROR:  invalid command 'SELECT "), "{reply:?}");
    assert!(String::from_utf8_lossy(&reply.stdout).starts_with("PgBouncer "), "{reply:?}");

    let mut console = pooler.console();
    for text in ["", "SELECT 1", "SHOW ALL", "SHOW VERSION; SHOW STATE"] {
        expect_refused(&mut console, text, "08P01", &format!("invalid command '{text}', use SHOW HELP;"));
    }
    assert_eq!(console.query("SHOW VERSION").tags(), "TDCZ");
}

#[test]
fn commands_sent_behind_each_other_are_answered_in_turn() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    console.send_all(["PAUSE", "SHOW VERSION", "nonsense", "RESUME"].map(query));
    let tags: String = (0..4).map(|_| console.read_until_ready().tags()).collect();
    assert_eq!(tags, "CZTDCZEZCZ");
}

// ---- commands ------------------------------------------------------------------------------------------------

#[test]
fn pause_waits_for_transactions_and_holds_queries_back() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let (mut busy, mut next) = (pooled.connect(), pooled.connect());
    busy.execute("begin");
    console.send(query("PAUSE"));
    pooled.pooler.wait_for_log("PAUSE command issued");
    console.expect_silence(MOMENT);
    let mut other = pooled.pooler.console();
    assert_eq!(row_where(&mut other, "STATE", "key", "paused").text("value"), "yes");
    expect_refused(&mut other, "PAUSE", "08P01", "already suspended/paused");
    next.send(query("select 1"));
    eventually("it waits", SOON, || {
        row_where(&mut other, "POOLS", "database", pooled.database.name()).number("cl_waiting") == 1
    });
    busy.execute("commit");
    assert_eq!(console.read_until_ready().commands(), ["PAUSE"]);
    assert!(pooled.database.backends(USER).is_empty(), "no server connection is left");
    next.expect_silence(MOMENT);
    let mut newcomer = pooled.connect();
    newcomer.send(query("select 2"));
    newcomer.expect_silence(MOMENT);
    assert_eq!(console.query("RESUME").commands(), ["RESUME"]);
    assert_eq!(next.read_until_ready().tags(), "TDCZ");
    assert_eq!(newcomer.read_until_ready().tags(), "TDCZ");
    expect_refused(&mut console, "RESUME", "08P01", "pooler is not paused/suspended");
    pooled.pooler.wait_for_log("RESUME command issued");
}

#[test]
fn pause_of_one_database_leaves_the_others_alone() {
    let databases = ["one", "two"].map(|hint| Postgres::shared().database(hint));
    let [one, two] = databases.each_ref().map(|database| database.name());
    let pooler = pooler().database(&databases[0], "").database(&databases[1], "").start();
    let mut console = pooler.console();
    let [mut held, mut free] = [pooler.connect(one), pooler.connect(two)];
    assert_eq!(console.query(&format!("PAUSE {one}")).commands(), ["PAUSE"]);
    pooler.wait_for_log(&format!("PAUSE '{one}' command issued"));
    assert_eq!(row_where(&mut console, "DATABASES", "name", one).number("paused"), 1);
    assert_eq!(row_where(&mut console, "DATABASES", "name", two).number("paused"), 0);
    assert_eq!(row_where(&mut console, "STATE", "key", "active").text("value"), "yes");
    held.send(query("select 1"));
    free.execute("select 1");
    held.expect_silence(MOMENT);
    expect_refused(&mut console, "RESUME", "08P01", "pooler is not paused/suspended");
    expect_refused(&mut console, "PAUSE none", "08P01", "no such database: none");
    expect_refused(&mut console, &format!("RESUME {two}"), "08P01", &format!("database {two} is not paused"));
    console.execute(&format!("RESUME {one}"));
    assert_eq!(held.read_until_ready().tags(), "TDCZ");
}

/// The pause stays, the waiting ends: another administrator takes it back.
#[test]
fn an_administrator_leaves_while_pause_waits() {
    let pooled = pooled("", |builder| builder);
    let mut busy = pooled.connect();
    busy.execute("begin");
    let mut console = pooled.pooler.console();
    console.send(query("PAUSE"));
    pooled.pooler.wait_for_log("PAUSE command issued");
    console.abort();
    let mut other = pooled.pooler.console();
    eventually("it is gone", SOON, || {
        row_where(&mut other, "POOLS", "database", "pgbouncer").number("cl_active") == 1
    });
    assert_eq!(row_where(&mut other, "STATE", "key", "paused").text("value"), "yes");
    other.execute("RESUME");
    busy.execute("commit");
    busy.execute("select 1");
}

#[test]
fn kill_ends_clients_and_servers_and_pauses_the_database() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let (mut busy, mut waiting, mut idle) = (pooled.connect(), pooled.connect(), pooled.connect());
    busy.execute("begin");
    waiting.send(query("select 1"));
    eventually("it waits", SOON, || states(&mut console, "CLIENTS", name) == ["active", "waiting", "idle"]);
    assert_eq!(console.query(&format!("KILL {name}")).commands(), ["KILL"]);
    for client in [&mut busy, &mut waiting, &mut idle] {
        expect_ended(client, "database removed");
    }
    eventually("no server is left", SOON, || pooled.database.backends(USER).is_empty());
    assert_eq!(row_where(&mut console, "DATABASES", "name", name).number("paused"), 1);
    console.execute(&format!("RESUME {name}"));
    let mut again = pooled.connect();
    again.execute("select 1");
    assert_eq!(console.query("KILL").commands(), ["KILL"]);
    expect_ended(&mut again, "database removed");
    expect_refused(&mut console, "KILL none", "08P01", "no such database: none");
    expect_refused(&mut console, "KILL pgbouncer", "08P01", "cannot kill admin db: pgbouncer");
}

#[test]
fn reload_takes_a_good_file_and_nothing_of_a_bad_one() {
    let mut pooled = pooled("", |builder| builder);
    let name = pooled.database.name().to_owned();
    let mut console = pooled.pooler.console();
    let mut client = pooled.connect();
    client.execute("begin");
    let extra = format!("host=127.0.0.1 port={} dbname={name}", pooled.database.postgres().port());
    pooled.pooler.rewrite(|builder| builder.setting("default_pool_size", 2).database_line("extra", &extra));
    assert_eq!(console.query("RELOAD").commands(), ["RELOAD"]);
    assert_eq!(row_where(&mut console, "CONFIG", "key", "default_pool_size").number("value"), 2);
    assert_eq!(row_where(&mut console, "DATABASES", "name", &name).number("pool_size"), 2);
    pooled.pooler.connect("extra").execute("select 1");
    pooled.connect().execute("select 1");
    client.execute("commit");

    let config = console.query("SHOW CONFIG");
    pooled.pooler.rewrite(|builder| {
        builder
            .setting("default_pool_size", 3)
            .setting("pool_mode", "sometimes")
            .database_line("more", &extra)
    });
    expect_refused(&mut console, "RELOAD", "F0000", "RELOAD failed, see logs for additional details");
    pooled.pooler.wait_for_log("invalid value \"sometimes\" for parameter pool_mode");
    assert_eq!(console.query("SHOW CONFIG"), config);
    assert_eq!(row_where(&mut console, "DATABASES", "name", &name).number("pool_size"), 2);
    assert_eq!(refusal(&pooled.pooler.target("more")).message(), "no such database: more");
    client.execute("select 1");
}

#[test]
fn reload_ends_the_clients_of_a_removed_database() {
    let mut pooled = pooled("", |builder| builder);
    let extra = format!(
        "host=127.0.0.1 port={} dbname={}",
        pooled.database.postgres().port(),
        pooled.database.name()
    );
    pooled.pooler.reload(|builder| builder.database_line("extra", &extra));
    let mut client = pooled.pooler.connect("extra");
    client.execute("select 1");
    let ini = pooled.pooler.dir().join("pooler.ini");
    let without = fs::read_to_string(&ini).unwrap().replace("\nextra = ", "\n;extra = ");
    fs::write(&ini, without).unwrap();
    pooled.pooler.console().execute("RELOAD");
    expect_ended(&mut client, "database removed");
    assert_eq!(refusal(&pooled.pooler.target("extra")).message(), "no such database: extra");
}

#[test]
fn shutdown_at_once_says_nothing() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("begin");
    let mut console = pooled.pooler.console();
    console.send(query("SHUTDOWN"));
    assert!(console.expect_closed().0.is_empty());
    assert!(client.expect_closed().0.is_empty());
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
}

#[test]
fn shutdown_that_waits_for_clients() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    let mut console = pooled.pooler.console();
    assert_eq!(console.query("SHUTDOWN WAIT_FOR_CLIENTS").commands(), ["SHUTDOWN"]);
    expect_refused(&mut console, "RESUME", "08P01", "pooler is shutting down");
    eventually("TCP is closed", SOON, || pooled.pooler.address().connect().is_err());
    client.execute("select 1");
    let over_unix = Target { address: pooled.pooler.unix_address(), ..pooled.target() };
    assert_eq!(refusal(&over_unix).message(), "pooler is shutting down");
    let console_over_unix = over_unix.database("pgbouncer").user(ADMIN);
    Client::login(&console_over_unix).terminate();
    console.terminate();
    client.execute("select 1");
    assert!(pooled.pooler.ended().is_none(), "a client is left");
    client.terminate();
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
}

#[test]
fn shutdown_that_waits_for_servers() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let mut console = pooled.pooler.console();
    let (mut busy, mut waiting, mut idle) = (pooled.connect(), pooled.connect(), pooled.connect());
    busy.execute("begin; insert into t values (1)");
    waiting.send(query("select 1"));
    let name = pooled.database.name();
    eventually("it waits", SOON, || states(&mut console, "CLIENTS", name) == ["active", "waiting", "idle"]);
    assert_eq!(console.query("SHUTDOWN WAIT_FOR_SERVERS").commands(), ["SHUTDOWN"]);
    expect_refused(&mut console, "RESUME", "08P01", "pooler is shutting down");
    expect_ended(&mut waiting, "server shutting down");
    idle.send(query("select 1"));
    expect_ended(&mut idle, "server shutting down");
    assert_eq!(busy.query("commit").commands(), ["COMMIT"]);
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
    assert_eq!(pooled.database.scalar("select count(*) from t"), "1");
}

/// A text that several clients have prepared is kept, and counted, once.
#[test]
fn prepared_statements_are_counted_by_their_texts() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let mut clients = [pooled.connect(), pooled.connect()];
    for client in &mut clients {
        client.send_all([parse("s", "select 'counted once'", &[]), sync()]);
        client.read_until_ready();
    }
    clients[0].send_all([parse("t", "select 2", &[]), sync()]);
    clients[0].read_until_ready();
    let rows = rows_where(&mut console, "PREPARED", "database", pooled.database.name());
    assert_eq!(rows[0].text("user"), USER);
    let [statements, bytes] = rows[0].numbers(["statements", "bytes"]);
    assert_eq!(statements, 2);
    assert!((30..200).contains(&bytes), "{bytes}");
}
