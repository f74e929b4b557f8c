//! Operating it as PgBouncer is operated: ending it, and what PgBouncer's own tests look at on the console.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::frontend::*;
use support::pooler::ADMIN;
use support::postgres::Postgres;
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::{pooled, pooler, refusal};
use crate::console::{expect_ended, expect_refused, row_where, states};

const SOON: Duration = Duration::from_secs(10);

// ---- the end -------------------------------------------------------------------------------------------------

#[test]
fn resume_does_not_take_back_a_shutdown() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("begin");
    pooled.pooler.signal(Signal::SIGINT);
    eventually("TCP is closed", SOON, || pooled.pooler.address().connect().is_err());
    let over_unix = Target { address: pooled.pooler.unix_address(), ..pooled.target() };
    let mut console = Client::login(&over_unix.database("pgbouncer").user(ADMIN));
    expect_refused(&mut console, "RESUME", "08P01", "pooler is shutting down");
    pooled.pooler.signal(Signal::SIGUSR2);
    pooled.pooler.wait_for_log("got SIGUSR2 while shutting down, ignoring");
    assert_eq!(row_where(&mut console, "STATE", "key", "paused").text("value"), "yes");
    client.execute("commit");
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    for (signal, waits) in [(Signal::SIGTERM, "clients"), (Signal::SIGINT, "servers")] {
        let pooled = pooled("", |builder| builder);
        let mut client = pooled.connect();
        client.execute("begin");
        pooled.pooler.signal(signal);
        eventually("TCP is closed", SOON, || pooled.pooler.address().connect().is_err());
        client.execute("select 1");
        assert!(pooled.pooler.ended().is_none(), "it waits for {waits}");
        pooled.pooler.signal(signal);
        assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
        assert!(client.expect_closed().0.is_empty(), "nothing is said");
    }
}

/// Who suspends and then ends the process that waits for its clients would wait for ever.
#[test]
fn a_shutdown_ends_a_suspension() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    let mut console = pooled.pooler.console();
    console.execute("SUSPEND");
    assert_eq!(console.query("SHUTDOWN WAIT_FOR_CLIENTS").commands(), ["SHUTDOWN"]);
    client.execute("select 1");
    client.terminate();
    console.terminate();
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
}

// ---- behaviours that PgBouncer's own tests look at ------------------------------------------------------------

#[test]
fn a_client_is_idle_waits_and_is_active() {
    let pooled = pooled("", |builder| builder);
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    let mut client = pooled.connect();
    assert_eq!(states(&mut console, "CLIENTS", name), ["idle"]);
    console.execute(&format!("PAUSE {name}"));
    client.send(query("begin"));
    eventually("it waits", SOON, || states(&mut console, "CLIENTS", name) == ["waiting"]);
    console.execute(&format!("RESUME {name}"));
    client.read_until_ready();
    assert_eq!(states(&mut console, "CLIENTS", name), ["active"]);
}

#[test]
fn statistics_of_a_session_pool() {
    let pooled = pooled("", |builder| builder.setting("pool_mode", "session"));
    let name = pooled.database.name();
    let mut console = pooled.pooler.console();
    for _ in 0..2 {
        let mut client = pooled.connect();
        ["select 1", "begin", "select 2", "commit"].iter().for_each(|sql| drop(client.execute(sql)));
        client.terminate();
        eventually("it is gone", SOON, || states(&mut console, "CLIENTS", name).is_empty());
    }
    let counters = [
        "total_server_assignment_count",
        "total_xact_count",
        "total_query_count",
        "total_client_login_count",
    ];
    eventually("all is counted", SOON, || {
        row_where(&mut console, "STATS", "database", name).numbers(counters) == [2, 4, 8, 2]
    });
    let total = |console: &mut Client, name: &str| row_where(console, "TOTALS", "name", name).number("value");
    assert_eq!(total(&mut console, "total_query_count"), 8 + 1, "a login to the console is a query");
    assert_eq!(total(&mut console, "total_client_login_count"), 2 + 1);
}

#[test]
fn the_version_is_the_first_line_of_the_option() {
    let pooler = pooler().start();
    let program = env!("CARGO_BIN_EXE_pgferry");
    let run = |option: &str| Command::new(program).arg(option).output().unwrap();
    let version = String::from_utf8(run("--version").stdout).unwrap();
    assert_eq!(version.lines().next(), Some(pooler.console().scalar("SHOW VERSION").as_str()));
    assert!(run("--help").status.success());
}

/// A database that goes to another one behind a reload.
#[test]
fn the_new_database_is_used_behind_a_reload() {
    let [old, new] = ["old", "new"].map(|hint| Postgres::shared().database(hint));
    let mut pooler = pooler().database_as("moving", &old, "").start();
    let mut client = pooler.connect("moving");
    assert_eq!(client.scalar("select current_database()"), old.name());
    pooler.rewrite(|builder| builder.database_as("moving", &new, ""));
    let mut console = pooler.console();
    console.execute("RELOAD");
    console.execute("WAIT_CLOSE"); // the server may still have been looked at
    assert_eq!(client.scalar("select current_database()"), new.name());
}

/// Who was held back by PAUSE is told, and so is who needs a server.
#[test]
fn clients_that_wait_are_told_of_a_shutdown_that_waits_for_servers() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let (mut busy, mut paused) = (pooled.connect(), pooled.connect());
    busy.execute("begin");
    console.send(query("PAUSE"));
    pooled.pooler.wait_for_log("PAUSE command issued");
    paused.send(query("select 1"));
    let over_unix = Target { address: pooled.pooler.unix_address(), ..pooled.target() };
    let mut other = Client::login(&over_unix.clone().database("pgbouncer").user(ADMIN));
    eventually("it waits", SOON, || {
        states(&mut other, "CLIENTS", pooled.database.name()) == ["active", "waiting"]
    });
    other.execute("SHUTDOWN WAIT_FOR_SERVERS");
    expect_ended(&mut paused, "server shutting down");
    eventually("TCP is closed", SOON, || pooled.pooler.address().connect().is_err());
    assert_eq!(refusal(&over_unix).message(), "pooler is shutting down");
    busy.execute("commit");
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
}
