//! The console in the extended protocol, which drivers use by default and PgBouncer refuses.

use std::time::Duration;

use support::frontend::*;
use support::pooler::ADMIN;
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::{pooled, pooler};
use crate::console::{expect_refused, row_where};

const SOON: Duration = Duration::from_secs(10);

/// All messages of a command, as drivers send them.
fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0), sync()].concat()
}

#[test]
fn a_table_comes_as_in_the_simple_protocol() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    for item in ["CONFIG", "POOLS", "STATS", "STATE", "VERSION", "FDS", "USERS"] {
        let text = format!("SHOW {item};");
        let simple = console.query(&text);
        console.send(extended(&text));
        let reply = console.read_until_ready();
        assert_eq!(reply.tags(), format!("12{}", simple.tags()), "{item}");
        let columns = |reply: &support::wire::Reply, at: usize| reply.0[at].columns().unwrap();
        assert_eq!(columns(&reply, 2), columns(&simple, 0), "{item}");
        assert_eq!(
            (reply.rows().len(), reply.commands()),
            (simple.rows().len(), vec!["SHOW".into()]),
            "{item}"
        );
    }
}

#[test]
fn named_statements_and_portals_are_described_and_taken_in_portions() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    console.send_all([parse("s", "SHOW STATE", &[]), describe_statement("s"), sync()]);
    assert_eq!(console.read_until_ready().tags(), "1tTZ");
    console.send_all([bind("p", "s", &[]), execute("p", 2), execute("p", 2), execute("p", 0), sync()]);
    let reply = console.read_until_ready();
    assert_eq!(reply.tags(), "2DDsDCEZ");
    assert_eq!(reply.error().unwrap().message(), "portal \"p\" cannot be run");
    console.send_all([execute("p", 0), sync()]);
    let gone = console.read_until_ready().error().unwrap();
    assert_eq!((gone.code(), gone.message()), ("34000", "portal \"p\" does not exist"), "ended by Sync");
    // Drivers that take rows in portions begin a transaction for it.
    console.execute("BEGIN");
    console.send_all([bind("p", "s", &[]), execute("p", 2), sync()]);
    assert_eq!(console.read_until_ready().tags(), "2DDsZ");
    console.send_all([execute("p", 2), sync()]);
    assert_eq!(console.read_until_ready().tags(), "DCZ");
    console.execute("COMMIT");
    console.send_all([execute("p", 0), sync()]);
    assert_eq!(console.read_until_ready().error_code(), "34000");
    console.send_all([
        parse("", "SHOW HELP", &[]),
        describe_statement(""),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(console.read_until_ready().tags(), "1tn2NCZ");
    console.send_all([close_statement("s"), close_portal("none"), bind("", "s", &[]), sync()]);
    let reply = console.read_until_ready();
    assert_eq!(reply.tags(), "33EZ");
    assert_eq!(reply.error_code(), "26000");
}

/// Values in the binary formats that PostgreSQL has for the types of the columns.
#[test]
fn values_come_in_binary_where_that_is_asked_for() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    let ask = |console: &mut Client, item: &str| {
        let messages = [
            parse("", &format!("SHOW {item}"), &[]),
            bind_with_formats("", "", &[], &[], &[1]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ];
        console.send_all(messages);
        console.read_until_ready()
    };
    let reply = ask(&mut console, "LISTS");
    assert!(reply.0[2].columns().unwrap().iter().all(|column| column.format == 1));
    let rows: Vec<_> = reply.0.iter().filter_map(|message| message.row()).collect();
    let databases = rows.iter().find(|row| row[0].as_deref() == Some(b"databases")).unwrap();
    assert_eq!(databases[1].as_deref(), Some(&1i32.to_be_bytes()[..]));
    let reply = ask(&mut console, "TOTALS");
    let rows: Vec<_> = reply.0.iter().filter_map(|message| message.row()).collect();
    let logins = rows.iter().find(|row| row[0].as_deref() == Some(b"total_client_login_count")).unwrap();
    assert_eq!(logins[1].as_deref(), Some(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..]));
    let null = ask(&mut console, "DATABASES").0.iter().filter_map(|message| message.row()).next().unwrap();
    assert_eq!(null[1], None, "the console has no host");
}

#[test]
fn after_an_error_everything_up_to_sync_is_dropped() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    for (messages, code, text) in [
        (parse("", "nonsense", &[]), "08P01", "invalid command 'nonsense', use SHOW HELP;"),
        (bind("", "none", &[]), "26000", "prepared statement \"none\" does not exist"),
        (describe_portal("none"), "34000", "portal \"none\" does not exist"),
        (
            [parse("twice", "PAUSE", &[]), parse("twice", "PAUSE", &[])].concat(),
            "42P05",
            "prepared statement \"twice\" already exists",
        ),
        (
            [parse("", "SHOW STATE", &[]), bind("", "", &[Some("1")])].concat(),
            "08P01",
            "bind message supplies 1 parameters, but prepared statement \"\" requires 0",
        ),
        (extended("RESUME"), "08P01", "pooler is not paused/suspended"),
        (raw(b'B', b"no end"), "08P01", "invalid message format"),
    ] {
        console.send_all([messages, parse("", "PAUSE", &[]), bind("", "", &[]), execute("", 0), sync()]);
        let mut reply = console.read_until_ready();
        if text == "pooler is not paused/suspended" {
            reply = console.read_until_ready(); // the rest has its own Sync
            assert_eq!(reply.tags(), "12CZ");
            console.execute("RESUME");
            continue;
        }
        let error = reply.error().unwrap();
        assert_eq!((error.severity(), error.code(), error.message()), ("ERROR", code, text));
        assert_eq!(reply.commands(), [""; 0], "{text}: what follows is dropped");
        assert_eq!(console.scalar("SHOW VERSION").split(' ').next(), Some("PgBouncer"));
    }
    assert_eq!(row_where(&mut console, "STATE", "key", "active").text("value"), "yes");
}

/// psycopg begins a transaction that nobody asked for, JDBC sets `extra_float_digits`, and asks for the isolation level.
#[test]
fn what_drivers_send_by_habit_does_no_harm() {
    let pooler = pooler().setting("stats_users", "viewer").secret("viewer", "").start();
    let target = pooler.target("pgbouncer").user("viewer").param("extra_float_digits", "2");
    let mut viewer = Client::login(&target);
    for (text, tag) in [("BEGIN", "BEGIN"), ("COMMIT", "COMMIT"), ("rollback;", "ROLLBACK")] {
        let reply = viewer.query(text);
        assert_eq!((reply.commands(), reply.status()), (vec![tag.to_owned()], Some(b'I')), "{text}");
        viewer.send(extended(text));
        assert_eq!(viewer.read_until_ready().tags(), "12nCZ");
    }
    assert_eq!(viewer.query("SET extra_float_digits = 3").tags(), "NCZ");
    assert_eq!(viewer.scalar("SHOW TRANSACTION ISOLATION LEVEL"), "read committed");
    viewer.send(extended(""));
    assert_eq!(viewer.read_until_ready().tags(), "12nIZ");
    viewer.send(extended("PAUSE"));
    assert_eq!(viewer.read_until_ready().error().unwrap().message(), "admin access needed");
}

#[test]
fn messages_may_come_in_pieces_and_unknown_ones_end_the_connection() {
    let pooler = pooler().start();
    let mut console = pooler.console();
    let bytes = [query("SHOW VERSION"), extended("SHOW VERSION")].concat();
    for byte in bytes {
        console.send([byte]);
    }
    assert_eq!(console.read_until_ready().tags(), "TDCZ");
    assert_eq!(console.read_until_ready().tags(), "12TDCZ");
    console.send(function_call(1, &[]));
    let reply = console.read_until_ready();
    assert_eq!(reply.error().unwrap().message(), "unsupported packet type for admin console: 70");
    console.send_all([copy_data(b"x"), copy_done(), flush(), sync()]);
    assert_eq!(console.read_until_ready().tags(), "Z");
    console.send(raw(b'?', b""));
    let error = console.expect_closed().error().unwrap();
    assert_eq!((error.severity(), error.message()), ("FATAL", "unknown pkt"));
}

/// PgBouncer resumes as well, and leaves the client without an answer.
#[test]
fn a_cancel_request_takes_back_a_pause_that_waits() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let mut busy = pooled.connect();
    busy.execute("begin");
    let name = pooled.database.name();
    let mut other = pooled.pooler.console();
    for (text, in_extended) in [("PAUSE".to_owned(), false), (format!("PAUSE {name}"), true)] {
        console.send(if in_extended { extended(&text) } else { query(&text) });
        eventually("it is paused", SOON, || {
            let whole = row_where(&mut other, "STATE", "key", "paused").text("value") == "yes";
            whole || row_where(&mut other, "DATABASES", "name", name).number("paused") == 1
        });
        console.cancel();
        let reply = console.read_until_ready();
        assert_eq!((reply.error_code(), reply.status()), ("57014".to_owned(), Some(b'I')), "{text}");
        assert_eq!(row_where(&mut other, "STATE", "key", "active").text("value"), "yes");
        assert_eq!(row_where(&mut other, "DATABASES", "name", name).number("paused"), 0);
    }
    console.cancel(); // nothing runs: nothing happens
    busy.execute("select 1");
    assert_eq!(console.query("SHOW VERSION").tags(), "TDCZ");
}

/// Another administrator ends the pause: who waits for it is told.
#[test]
fn a_pause_that_is_ended_by_somebody_else() {
    let pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let mut busy = pooled.connect();
    busy.execute("begin");
    console.send(query("PAUSE"));
    pooled.pooler.wait_for_log("PAUSE command issued");
    let mut other = pooled.pooler.console();
    eventually("it is paused", SOON, || {
        row_where(&mut other, "STATE", "key", "paused").text("value") == "yes"
    });
    other.execute("RESUME");
    assert_eq!(
        console.read_until_ready().error().unwrap().message(),
        "resumed before everything was at rest"
    );
    expect_refused(&mut other, "RESUME", "08P01", "pooler is not paused/suspended");
}

#[test]
fn a_long_query_ends_the_connection_with_a_reason() {
    let pooler = pooler().start();
    let target: Target = pooler.target("pgbouncer").user(ADMIN);
    let mut console = Client::login(&target);
    let _ = console.peer().send(&query(&"x".repeat(70_000)));
    let error = console.expect_closed().error().unwrap();
    assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
}
