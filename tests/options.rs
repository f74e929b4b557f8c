//! Single settings that belong to no other module: the notice at login, server connections that are given up at once,
//! pools that are forgotten, addresses of servers.

use std::time::Duration;

use support::postgres::Postgres;
use support::tools::Tool;
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler, prepared_database};
use crate::console::{row_where, rows_where, table};

const SOON: Duration = Duration::from_secs(10);

/// No resolver needs to ask anybody to know that there is no such name: a part of it is longer than 63 bytes.
pub(crate) const NO_NAME: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.invalid";

/// As PgBouncer's next release says it: a NOTICE of code 00000 in front of the first ReadyForQuery.
#[test]
fn a_notice_greets_who_logs_in() {
    let mut pooled = pooled("", |builder| builder.setting("login_notify_message", "back at 9"));
    for target in [pooled.target(), pooled.pooler.target("pgbouncer").user("admin")] {
        let client = Client::login(&target);
        let tags: String = client.greeting.iter().map(|message| char::from(message.tag)).collect();
        assert!(tags.ends_with("KNZ"), "{tags}");
        let notice = client.greeting.iter().find_map(support::message::Message::notice).unwrap();
        let told = (notice.severity(), notice.code(), notice.message());
        assert_eq!(told, ("NOTICE", "00000", "back at 9"));
    }
    let output = Tool::psql(&pooled.target()).args(["-Atc", "select 1"]).run().success();
    assert!(output.stdout == "1\n" && output.stderr.ends_with("NOTICE:  back at 9\n"), "{output:?}");

    pooled.pooler.reload(|builder| builder.setting("login_notify_message", ""));
    assert!(pooled.connect().greeting.iter().all(|message| message.notice().is_none()));
}

/// A session-mode client would keep a server of the old configuration for as long as it stays.
#[test]
fn session_clients_part_from_outdated_servers_when_told_to() {
    let setup = |fast: u8| {
        pooled("", |builder| {
            builder
                .setting("server_fast_close", fast)
                .setting("pool_mode", "session")
                .setting("default_pool_size", 3)
        })
    };
    let renew = |pooled: &mut crate::common::Pooled| {
        let params = "connect_query='select 2'";
        let database = pooled.database.name().to_owned();
        let line = format!("host=127.0.0.1 port={} {params}", pooled.database.postgres().port());
        pooled.pooler.reload(|builder| builder.database_line(&database, &line));
    };
    let mut slow = setup(0);
    let mut client = slow.connect();
    let pid = client.backend_pid();
    renew(&mut slow);
    assert_eq!(client.backend_pid(), pid);

    let mut fast = setup(1);
    let (mut idle, mut unlinked, mut working) = (fast.connect(), fast.connect(), fast.connect());
    idle.execute("select 1");
    working.execute("begin");
    renew(&mut fast);
    let error = idle.expect_closed().error().expect("an error");
    assert_eq!(
        (error.severity(), error.code(), error.message()),
        ("FATAL", "08P01", "database configuration changed")
    );
    assert_eq!(working.scalar("select 1"), "1");
    working.send(support::frontend::query("commit"));
    let last = working.expect_closed();
    assert_eq!(last.tags(), "CZE");
    assert_eq!(last.error().unwrap().message(), "database configuration changed");
    unlinked.execute("select 1");
    fast.pooler.wait_for_log("closing because: database configuration changed");
}

#[test]
fn pools_without_connections_are_forgotten() {
    let database = prepared_database("idle", "");
    let pooler = pooler()
        .setting("pool_idle_timeout", 1)
        .setting("server_idle_timeout", 0.2)
        .database(&database, "")
        .database_as("filled", &database, "user=app min_pool_size=1")
        .start();
    let mut console = pooler.console();
    let pools = |console: &mut Client, name: &str| rows_where(console, "POOLS", "database", name).len();
    let mut client = pooler.connect(database.name());
    client.execute("select 1");
    pooler.connect("filled").execute("select 1");
    eventually("no server is open", SOON, || {
        let row = row_where(&mut console, "POOLS", "database", database.name());
        row.numbers(["sv_idle", "sv_used", "sv_active"]) == [0; 3]
    });
    // The client holds the pool. It is idle, so only a look can tell.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pools(&mut console, database.name()), 1);
    client.terminate();
    let text = format!(
        "cleaning up idle pool for user app on db {} because: pool idle timeout (age=",
        database.name()
    );
    pooler.wait_for_log(&text);
    assert_eq!((pools(&mut console, database.name()), pools(&mut console, "filled")), (0, 1));
    // It comes back with the next client.
    pooler.connect(database.name()).execute("select 1");
    assert_eq!(pools(&mut console, database.name()), 1);
}

#[test]
fn addresses_of_servers_are_kept_for_a_while() {
    let database = prepared_database("names", "");
    let port = Postgres::shared().port();
    let line = |host: &str| format!("host={host} port={port} dbname={}", database.name());
    let mut pooler = pooler()
        .setting("dns_max_ttl", 100)
        .setting("dns_nxdomain_ttl", 200)
        .setting("server_lifetime", 0) // a new connection for each transaction
        .setting("query_wait_timeout", 2)
        .database_line("known", &line("localhost"))
        .database_line("literal", &line("127.0.0.1"))
        .database_line("unknown", &line(NO_NAME))
        .start();
    let mut console = pooler.console();
    let (mut known, mut literal) = (pooler.connect("known"), pooler.connect("literal"));
    for _ in 0..3 {
        known.execute("select 1");
        literal.execute("select 1");
    }
    Client::try_login(&pooler.target("unknown")).map(drop).expect_err("no address");
    pooler.wait_for_log("server DNS lookup failed");
    let hosts = table(&mut console, "DNS_HOSTS");
    let names: Vec<&str> = hosts.iter().map(|row| row.text("hostname")).collect();
    assert_eq!(names, ["localhost", NO_NAME]);
    assert!(
        hosts[0].text("addrs").split(',').any(|addr| addr == "127.0.0.1:0"),
        "{}",
        hosts[0].text("addrs")
    );
    assert_eq!(hosts[1].text("addrs"), "");
    assert_eq!(row_where(&mut console, "LISTS", "list", "dns_names").number("items"), 2);
    assert!((1..=100).contains(&hosts[0].number("ttl")) && (101..=200).contains(&hosts[1].number("ttl")));
    // A reload keeps what is known; how long it counts is judged by the new setting.
    pooler.reload(|builder| builder.setting("dns_nxdomain_ttl", 0));
    let hosts = table(&mut console, "DNS_HOSTS");
    assert!(hosts[0].number("ttl") > 0);
    assert_eq!((hosts[1].text("hostname"), hosts[1].number("ttl")), (NO_NAME, 0));
}
