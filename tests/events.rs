//! What the pooler ends, cancels or refuses is counted by reason, and the log says what it was about.

use std::collections::BTreeMap;
use std::time::Duration;

use support::frontend::*;
use support::pooler::Pooler;
use support::wait::eventually;
use support::wire::Client;

use crate::common::pooled;

const SOON: Duration = Duration::from_secs(10);

/// The counts of a database; those of no database under "".
fn counts(pooler: &Pooler, database: &str) -> BTreeMap<String, u32> {
    let rows = pooler.console().query("show events").rows();
    let rows = rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>());
    let of_database = rows.filter(|row| row[0] == database);
    of_database.map(|row| (row[2].clone(), row[3].parse().expect("a number"))).collect()
}

#[test]
fn each_limit_is_counted_and_told() {
    let pooled = pooled("", |builder| {
        builder
            .setting("statement_timeout", "300ms")
            .setting("request_timeout", "1s")
            .setting("idle_transaction_timeout", "400ms")
            .setting("max_client_conn", 5)
            .user_line("app", "query_wait_timeout=30")
    });
    let target = pooled.target().param("application_name", "shop");
    let mut client = Client::login(&target);
    assert_eq!(client.query("select 'secret', pg_sleep(60) /* secret */").error_code(), "57014");
    client.send(
        [parse("s", "select pg_sleep(60), 'secret'", &[]), bind("", "s", &[]), execute("", 0), sync()]
            .concat(),
    );
    assert_eq!(client.read_until_ready().error_code(), "57014");
    client.execute("begin; select 'secret'");
    let mut waiting = Client::login(&target);
    assert_eq!(waiting.query("select 'secret' as other").error_code(), ""); // until the other has lost its server
    client.expect_closed();
    drop(client);
    let mut holder = Client::login(&target);
    holder.send(query("select pg_sleep(0.2)"));
    holder.read_until_ready();
    let mut clients: Vec<_> = (0..3).map(|_| Client::login(&target)).collect();
    Client::try_login(&target).expect_err("one too many").refusal();
    clients.clear();

    let name = pooled.database.name();
    eventually("all is counted", SOON, || {
        let counts = counts(&pooled.pooler, name);
        counts.get("statement_timeout") == Some(&2) && counts.get("idle_transaction_timeout") == Some(&1)
    });
    assert_eq!(counts(&pooled.pooler, "").get("max_client_conn"), Some(&1));
    let log = pooled.pooler.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("statement_timeout: ")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for line in lines {
        assert!(line.contains(&format!("{name}/app@127.0.0.1:")), "{line}");
        assert!(
            line.contains("application=shop") && line.contains("server=S-") && line.contains("pid "),
            "{line}"
        );
        assert!(line.contains("waited=") && line.contains("ran=3"), "{line}");
        assert!(line.contains("pg_sleep(?)") && !line.contains("secret"), "{line}");
    }
    assert!(!log.contains("secret"), "{log}");
}

/// One that waits, and is refused: with its text, and how long it has waited.
#[test]
fn who_waits_is_told_with_its_statement() {
    let pooled = pooled("", |builder| builder.setting("request_timeout", "300ms"));
    let mut holder = pooled.connect();
    holder.execute("begin");
    let mut client = pooled.connect();
    client.send([parse("s", "select 1 as waited", &[]), sync()].concat());
    assert_eq!(client.read_until_ready().error_code(), "57014");
    assert_eq!(client.query("select 2 as simple").error_code(), "57014");
    for text in ["select ? as waited", "select ? as simple"] {
        pooled.pooler.wait_for_log(&format!("ran=0.000ms statement={text}"));
    }
    assert_eq!(counts(&pooled.pooler, pooled.database.name())["request_timeout"], 2);
}

/// Cancel requests, of a query that runs and one that waits; who asks once too often is not counted.
#[test]
fn cancel_requests() {
    let pooled = pooled("", |builder| builder);
    let (mut client, mut waiting) = (pooled.connect(), pooled.connect());
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || {
        pooled.database.backends("app").iter().any(|backend| backend.state == "active")
    });
    waiting.send(query("select 1 as waited"));
    let in_queue =
        |pooler: &Pooler| pooler.console().query("show pools").rows()[1][3].as_deref() == Some("1");
    eventually("it waits", SOON, || in_queue(&pooled.pooler));
    for client in [&mut waiting, &mut client] {
        client.cancel();
        assert_eq!(client.read_until_ready().error_code(), "57014");
        client.cancel();
    }
    assert_eq!(counts(&pooled.pooler, pooled.database.name()).get("cancel request"), Some(&2));
    pooled.pooler.wait_for_log("statement=select ? as waited");
    pooled.pooler.wait_for_log("statement=select pg_sleep(?)");
}

#[test]
fn clients_that_are_gone() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.send(query("select pg_sleep(60)"));
    eventually("it runs", SOON, || {
        pooled.database.backends("app").iter().any(|backend| backend.state == "active")
    });
    drop(client);
    let mut client = pooled.connect();
    client.execute("begin");
    drop(client);
    eventually("both are counted", SOON, || {
        let counts = counts(&pooled.pooler, pooled.database.name());
        counts.get("client gone with a query running") == Some(&1)
            && counts.get("client gone in a transaction") == Some(&1)
    });
}
