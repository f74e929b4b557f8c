//! What the console shows of who holds and who waits, against what is known to have happened.

use std::time::Duration;

use support::frontend::*;
use support::postgres::{Options, Postgres, Stop};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler};
use crate::console::{Row, row_where, rows_where, table};

const SOON: Duration = Duration::from_secs(10);

// ---- SHOW LATENCY --------------------------------------------------------------------------------------------

/// Transactions with known pauses: two that wait in the server, one whose client is slow, one that waits for the others.
#[test]
fn latencies_are_those_of_known_sleeps() {
    let pooled = pooled("", |builder| builder.setting("stats_period", 1));
    let mut client = pooled.connect();
    for _ in 0..9 {
        client.execute("select 1");
    }
    client.execute("select pg_sleep(0.3)");
    client.execute("begin");
    let mut waiting = pooled.connect();
    waiting.send(query("select 2"));
    let mut console = pooled.pooler.console();
    eventually("it waits", SOON, || {
        row_where(&mut console, "pools", "database", pooled.database.name()).number("cl_waiting") == 1
    });
    std::thread::sleep(Duration::from_millis(200));
    client.execute("commit");
    waiting.read_until_ready();

    let mut rows = || -> Vec<Row> { rows_where(&mut console, "latency", "database", pooled.database.name()) };
    let what: Vec<String> =
        rows().iter().map(|row| format!("{}/{}", row.text("user"), row.text("what"))).collect();
    assert_eq!(what, ["app/waiting", "app/running", "app/transaction"]);
    let counts = rows().iter().map(|row| row.number("count")).collect::<Vec<_>>();
    assert_eq!(counts[1..], [13, 12]); // `begin` and `commit` are one transaction
    let (waits, runs, transactions) = (&rows()[0], &rows()[1], &rows()[2]);
    assert!(
        (1..=2).contains(&waits.number("count")),
        "the first may have waited for its server to be opened"
    );
    assert!((200_000..5_000_000).contains(&waits.number("max")));
    assert!((300_000..5_000_000).contains(&runs.number("max")));
    assert!(runs.number("p50") < 200_000, "most were short");
    assert!((250_000..5_000_000).contains(&runs.number("p99")));
    assert!(transactions.number("p95") >= 175_000, "two of twelve took long");
    eventually("a period has ended", SOON, || rows()[1].number("period_count") > 0);
    eventually("another has, without requests", SOON, || rows()[1].number("period_count") == 0);
    assert_eq!(rows()[1].number("count"), 13);
}

// ---- SHOW WAITING, CANCEL ------------------------------------------------------------------------------------

#[test]
fn who_waits_is_shown_in_order_with_the_reason() {
    let pooled = pooled("", |builder| builder);
    let mut holder = pooled.connect();
    holder.execute("begin");
    let mut waiting = Vec::new();
    let mut console = pooled.pooler.console();
    for name in ["first", "second"] {
        let mut client = Client::login(&pooled.target().param("application_name", name));
        client.send(query(&format!("select 'secret' as {name}")));
        waiting.push(client);
        eventually("it waits", SOON, || table(&mut console, "waiting").len() == waiting.len());
    }
    let rows = table(&mut console, "waiting");
    for (row, name) in rows.iter().zip(["first", "second"]) {
        assert_eq!(row.text("application_name"), name);
        assert_eq!(row.text("statement"), format!("select ? as {name}"));
        assert_eq!(row.text("waits_for"), "a server: pool full (1 of 1 in use)");
        assert_eq!((row.text("database"), row.text("user")), (pooled.database.name(), "app"));
        assert_eq!(row.text("addr"), "127.0.0.1");
    }
    assert_eq!(rows.iter().map(|row| row.number("position")).collect::<Vec<_>>(), [1, 2]);
    let waited = |row: &Row| row.number("wait") * 1_000_000 + row.number("wait_us");
    assert!(waited(&rows[0]) > waited(&rows[1]) && waited(&rows[1]) > 0);

    let id = rows[0].number("id");
    assert_eq!(console.execute(&format!("cancel {id}")).commands(), ["CANCEL"]);
    assert_eq!(waiting[0].read_until_ready().error_code(), "57014");
    assert_eq!(table(&mut console, "waiting").len(), 1);
    holder.execute("commit");
    assert_eq!(waiting[1].read_until_ready().error_code(), "");
    assert_eq!(waiting[0].query("select 1").error_code(), "");
    assert!(table(&mut console, "waiting").is_empty());
}

#[test]
fn waits_for_other_things_than_a_full_pool() {
    let pooled = pooled("", |builder| builder.setting("server_login_retry", 3));
    let mut client = pooled.connect();
    client.execute("select 1");
    let mut console = pooled.pooler.console();
    console.execute("pause");
    client.send(query("select 2"));
    let reason =
        |console: &mut Client| table(console, "waiting").first().map(|row| row.text("waits_for").to_owned());
    eventually("it waits for the end of the pause", SOON, || {
        reason(&mut console).as_deref() == Some("paused")
    });
    console.execute("resume");
    client.read_until_ready();
}

#[test]
fn waits_for_a_server_that_is_down() {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("down");
    let pooler = pooler().setting("server_login_retry", 1).database(&database, "").start();
    let mut client = pooler.connect(database.name());
    client.execute("select 1");
    let mut console = pooler.console();
    postgres.stop(Stop::Fast);
    client.send(query("select 'secret' as down"));
    eventually("it waits for the server", SOON, || {
        let rows = table(&mut console, "waiting");
        rows.first().is_some_and(|row| {
            let reason = row.text("waits_for");
            reason.starts_with("server is down: ")
                && reason.contains(", next attempt in ")
                && row.text("statement") == "select ? as down"
        })
    });
    postgres.start_again();
    assert_eq!(client.read_until_ready().error_code(), "");
}

/// As by the client itself: PostgreSQL's own error, and nothing else is met.
#[test]
fn a_request_is_cancelled_by_the_console() {
    let pooled = pooled("", |builder| builder.setting("stats_users", "watcher").secret("watcher", ""));
    let mut client = pooled.connect();
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || pooled.database.backends("app").iter().any(|b| b.state == "active"));
    let mut console = pooled.pooler.console();
    let id = row_where(&mut console, "clients", "database", pooled.database.name()).number("id");
    assert_eq!(console.execute(&format!("CANCEL {id}")).commands(), ["CANCEL"]);
    let reply = client.read_until_ready();
    assert_eq!(reply.error().unwrap().message(), "canceling statement due to user request");
    assert_eq!(console.execute(&format!("cancel {id};")).commands(), ["CANCEL"]); // it does nothing
    assert_eq!(client.query("select pg_sleep(0.1)").error_code(), "");
    for (text, message) in [
        ("cancel 987654321", "client not found"),
        ("cancel", "invalid client pointer supplied"),
        ("cancel x", "invalid client pointer supplied"),
    ] {
        let reply = console.query(text);
        assert_eq!(reply.error().unwrap().message(), message);
    }
    pooled.pooler.wait_for_log(&format!("CANCEL {id} command issued"));
    let mut watcher = Client::login(&pooled.pooler.target("pgbouncer").user("watcher"));
    assert_eq!(watcher.query(&format!("cancel {id}")).error().unwrap().message(), "admin access needed");
    watcher.execute("show waiting");
}

// ---- SHOW QUERIES --------------------------------------------------------------------------------------------

#[test]
fn statements_are_counted_by_what_they_hold() {
    let pooled = pooled(
        "create table t (a int, b text); insert into t select g, g::text from generate_series(1, 50) g",
        |builder| builder,
    );
    let mut client = pooled.connect();
    for text in [
        "select * from t where a <= 7",
        "SELECT *  from t where a <= 3 -- as well",
        "select * from t where a <= $1",
    ] {
        match text.contains('$') {
            false => client.execute(text),
            true => {
                client.send(
                    [parse("named", text, &[]), bind("", "named", &[Some("50")]), execute("", 0), sync()]
                        .concat(),
                );
                client.read_until_ready()
            }
        };
    }
    client.execute("update t set b = 'secret' where a in (1, 2, 3)");
    client.execute("update t set b = 'other' where a in (1)");
    client.query("select 1 / 0");
    client.execute("select pg_sleep(0.3)");
    client.execute("begin");
    std::thread::sleep(Duration::from_millis(500));
    client.execute("commit");
    let mut console = pooled.pooler.console();
    let rows = rows_where(&mut console, "queries", "database", pooled.database.name());
    let find = |statement: &str| {
        let mut found = rows.iter().filter(|row| row.text("statement") == statement);
        let row = found.next().unwrap_or_else(|| panic!("no {statement}"));
        assert!(found.next().is_none());
        row
    };
    let numbers = |statement: &str| find(statement).numbers(["calls", "rows", "errors"]);
    assert_eq!(numbers("select * from t where a <= ?"), [3, 60, 0]);
    assert_eq!(numbers("update t set b = ? where a in (?, ?, ?)"), [2, 4, 0]);
    assert_eq!(numbers("select ? / ?"), [1, 0, 1]);
    assert_eq!(rows[0].text("statement"), "begin", "it held the server for longest");
    assert_eq!(rows[1].text("statement"), "select pg_sleep(?)");
    assert!((500_000..5_000_000).contains(&rows[0].number("held")) && rows[0].number("max") < 400_000);
    let sleep = rows[1].numbers(["held", "running", "mean", "p95", "max"]);
    assert!(sleep.iter().all(|time| (225_000..5_000_000).contains(time)), "{sleep:?}");
    assert_eq!(find("commit").text("fingerprint").len(), 16);
    assert!(rows.iter().all(|row| row.text("user") == "app" && !row.text("statement").contains("secret")));
}

#[test]
fn as_many_statements_as_are_wanted() {
    let mut pooled = pooled("", |builder| builder.setting("query_stats", 20));
    let mut client = pooled.connect();
    for round in 0..200 {
        client.execute(&format!("select 1 as a{round}"));
        client.execute("select 2 as heavy");
    }
    let mut console = pooled.pooler.console();
    let rows = table(&mut console, "queries");
    assert!(rows.len() <= 20, "{}", rows.len());
    let heavy = rows.iter().find(|row| row.text("statement") == "select ? as heavy").expect("the heavy one");
    assert_eq!(heavy.number("calls"), 200);
    pooled.pooler.reload(|builder| builder.setting("query_stats", 0));
    client.execute("select 3");
    eventually("they are forgotten", SOON, || table(&mut console, "queries").is_empty());
}

// ---- SHOW BLOCKERS -------------------------------------------------------------------------------------------

#[test]
fn blockers_are_named_as_clients() {
    let setup = "create table t (a int); insert into t values (1)";
    let pooled = pooled(setup, |builder| builder.setting("default_pool_size", 3));
    let [mut holder, mut waiting, mut idle] = ["holder", "waiter", "sleeper"]
        .map(|name| Client::login(&pooled.target().param("application_name", name)));
    let mut console = pooled.pooler.console();
    assert!(table(&mut console, "blockers").is_empty());
    holder.execute("begin");
    holder.execute("update t set a = 42");
    idle.execute("begin");
    idle.execute("select 'secret'");
    waiting.send(query("update t set a = 43"));
    eventually("it waits for a lock", SOON, || {
        pooled.database.scalar("select count(*) from pg_locks where not granted and pid <> pg_backend_pid()")
            != "0"
    });
    // Each client has one of the pool's servers: PostgreSQL is asked over one more.
    eventually("the other counts as idle", SOON, || table(&mut console, "blockers").len() == 2);
    let rows = table(&mut console, "blockers");
    let ids: Vec<u64> = rows_where(&mut console, "clients", "database", pooled.database.name())
        .iter()
        .map(|row| row.number("id"))
        .collect();
    let row = &rows[0];
    assert_eq!(row.text("database"), pooled.database.name());
    assert_eq!(row.numbers(["waiting_id", "blocking_id"]), [ids[1], ids[0]]);
    assert_eq!((row.text("waiting_application"), row.text("blocking_application")), ("waiter", "holder"));
    assert_eq!((row.text("waiting_user"), row.text("blocking_user")), ("app", "app"));
    assert_eq!(row.text("waiting_statement"), "update t set a = ?");
    assert_eq!(row.text("blocking_statement"), "update t set a = ?");
    assert_eq!(row.text("state"), "idle in transaction");
    assert!(row.text("blocking_addr").starts_with("127.0.0.1:"));
    assert!((1..60_000_000).contains(&row.number("waited")));
    let pids = pooled.database.scalar(&format!("select pg_blocking_pids({})", row.number("waiting_pid")));
    assert_eq!(pids, format!("{{{}}}", row.number("blocking_pid")));
    assert_eq!((rows[1].text("waiting_id"), rows[1].number("blocking_id")), ("", ids[2]));
    assert_eq!(rows[1].text("blocking_statement"), "select ?");
    assert!(rows[1].number("duration") >= 1_000_000);

    // One who is not the pooler's.
    holder.execute("rollback");
    waiting.read_until_ready();
    idle.execute("rollback");
    let mut stranger = pooled.database.connect();
    stranger.execute("begin");
    stranger.execute("lock table t");
    waiting.send(query("update t set a = 44"));
    eventually("it waits for the other", SOON, || !table(&mut console, "blockers").is_empty());
    let row = &table(&mut console, "blockers")[0];
    assert_eq!((row.number("waiting_id"), row.text("blocking_id")), (ids[1], ""));
    assert_eq!(row.number("blocking_pid") as i32, stranger.backend_pid());
    stranger.execute("rollback");
    waiting.read_until_ready();
}

// ---- SHOW ADVICE ---------------------------------------------------------------------------------------------

#[test]
fn advice_says_what_is_the_matter_and_why() {
    let pooled = pooled("", |builder| builder.setting("stats_period", 1));
    let mut holder = Client::login(&pooled.target().param("application_name", "shop"));
    let mut console = pooled.pooler.console();
    holder.execute("select 1");
    assert!(table(&mut console, "advice").iter().all(|row| row.text("severity") == "notice"));
    holder.execute("begin; select 'secret'");
    let mut waiting = pooled.connect();
    waiting.send(query("select 2"));
    let name = pooled.database.name();
    let mut find = |severity: &str, subject: &str| {
        let rows = table(&mut console, "advice");
        rows.into_iter().find(|row| row.text("severity") == severity && row.text("subject").contains(subject))
    };
    eventually("the pool is full for a period", SOON, || {
        find("critical", &format!("pool {name}/app")).is_some()
    });
    let row = find("critical", "pool").unwrap();
    assert!(row.text("advice").contains("raise pool_size from 1 to about"), "{}", row.text("advice"));
    assert!(row.text("evidence").contains("of 1 servers in use"), "{}", row.text("evidence"));
    eventually("the pause is a long one", SOON * 2, || find("warning", "(shop)").is_some());
    let row = find("warning", "(shop)").unwrap();
    assert!(row.text("evidence").starts_with("idles in a transaction since 1"), "{}", row.text("evidence"));
    assert!(row.text("evidence").ends_with("s: begin; select ?"), "{}", row.text("evidence"));
    holder.execute("commit");
    waiting.read_until_ready();
    eventually("all is well", SOON, || find("critical", "").is_none() && find("warning", "").is_none());
}

#[test]
fn pools_that_promise_more_than_the_server_accepts() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 400));
    pooled.connect().execute("select 1");
    let rows = table(&mut pooled.pooler.console(), "advice");
    let row = rows
        .iter()
        .find(|row| row.text("subject").starts_with("server 127.0.0.1:"))
        .expect("a row for the server");
    assert_eq!(row.text("severity"), "warning");
    assert!(
        row.text("evidence").contains("may open 400 connections, the server accepts 297 "),
        "{}",
        row.text("evidence")
    );
}
