//! What PgBouncer's own tests check and no other module does; docs/pgbouncer-tests.md has the whole list.

use std::time::Duration;

use nix::sys::signal::Signal;
use support::frontend::*;
use support::oracle::Script;
use support::postgres::{Postgres, SCRAM_USER, USER};
use support::wait::{eventually, holds_within};
use support::wire::{Client, Target};

use crate::common::{pair, pooled, pooler, prepared_database};
use crate::console::{row_where, rows_where, table};
use crate::options::NO_NAME;

const SOON: Duration = Duration::from_secs(10);

#[track_caller]
fn refusal(target: &Target) -> String {
    match Client::try_login(target) {
        Ok(_) => panic!("{} was let in to {}", target.user, target.database),
        Err(error) => error.refusal().message().to_owned(),
    }
}

fn role(postgres: &Postgres, name: &str) {
    postgres.sql(&format!("create role {name} login"));
}

// ---- limits ---------------------------------------------------------------------------------------------------

#[test]
fn limits_of_clients_are_shown_and_spare_administrators_only() {
    let database = prepared_database("limited", "");
    let pooler = pooler()
        .setting("max_db_client_connections", 3)
        .setting("max_user_client_connections", 2)
        .setting("stats_users", "viewer, watcher")
        .secret("viewer", "")
        .secret("watcher", "")
        .database(&database, "")
        .database_as("own", &database, "max_db_client_connections=7")
        .user_line("watcher", "max_user_client_connections=1")
        .start();
    let mut console = pooler.console();
    let columns = ["max_client_connections", "current_client_connections"];
    let usual = [pooler.connect(database.name()), pooler.connect(database.name())];
    assert_eq!(row_where(&mut console, "DATABASES", "name", database.name()).numbers(columns), [3, 2]);
    assert_eq!(row_where(&mut console, "DATABASES", "name", "own").numbers(columns), [7, 0]);
    let columns = ["max_user_client_connections", "current_client_connections"];
    assert_eq!(row_where(&mut console, "USERS", "name", USER).numbers(columns), [2, 2]);
    assert_eq!(row_where(&mut console, "USERS", "name", "watcher").number(columns[0]), 1);
    drop(usual);
    eventually("the places are free", SOON, || {
        row_where(&mut console, "USERS", "name", USER).number("current_client_connections") == 0
    });

    let on_console = |user: &str| pooler.target("pgbouncer").user(user);
    let _watcher = Client::login(&on_console("watcher"));
    for _ in 0..2 {
        assert_eq!(
            refusal(&on_console("watcher")),
            "client connections exceeded (max_user_client_connections)"
        );
    }
    let _viewer = Client::login(&on_console("viewer"));
    let administrators: Vec<Client> = (0..4).map(|_| pooler.console()).collect();
    assert_eq!(refusal(&on_console("viewer")), "client connections exceeded (max_db_client_connections)");
    drop(administrators);
}

/// Who failed to log in, at the pooler or behind it, is counted nowhere; who is unknown is not even listed.
#[test]
fn failed_logins_leave_nothing_on_the_console() {
    let postgres =
        Postgres::start(support::postgres::Options::new().hba("host all refused 127.0.0.1/32 reject"));
    let database = postgres.database("failed");
    role(&postgres, "refused");
    let pooler = pooler()
        .database(&database, "")
        .setting("auth_type", "plain")
        .setting("server_login_retry", 1)
        .secret("refused", "secret")
        .secret("admin", "secret")
        .start();
    let target = pooler.target(database.name());
    let text = refusal(&target.clone().user("refused").password("secret"));
    assert!(text.contains("pg_hba.conf rejects connection"), "{text}");
    assert_eq!(refusal(&target.clone().user("refused").password("wrong")), "password authentication failed");
    assert_eq!(refusal(&target.user("stranger").password("secret")), "password authentication failed");
    let mut console = Client::login(&pooler.target("pgbouncer").user("admin").password("secret"));
    eventually("nothing is counted", SOON, || {
        row_where(&mut console, "USERS", "name", "refused").number("current_client_connections") == 0
    });
    assert!(rows_where(&mut console, "USERS", "name", "stranger").is_empty());
}

#[test]
fn pools_of_forced_users_are_filled_before_anybody_comes() {
    let postgres = Postgres::shared();
    let database = postgres.database("filled");
    role(&postgres, "filler");
    let pooler = pooler()
        .setting("min_pool_size", 2)
        .database_as("forced", &database, "user=filler")
        .database_as("own", &database, "user=filler min_pool_size=1 pool_size=5")
        .database_as("none", &database, "user=filler min_pool_size=0")
        .database(&database, "")
        .start();
    eventually("three servers", SOON, || database.backends("filler").len() == 3);
    assert!(!holds_within(Duration::from_millis(800), || database.backends("filler").len() != 3), "no more");
    assert!(database.backends(USER).is_empty());
    let mut console = pooler.console();
    let idle = |console: &mut Client, name: &str| {
        rows_where(console, "POOLS", "database", name).iter().map(|row| row.number("sv_idle")).sum::<u64>()
    };
    assert_eq!(["forced", "own", "none"].map(|name| idle(&mut console, name)), [2, 1, 0]);
}

/// Nobody's idle server is closed for somebody's minimum.
#[test]
fn minimums_stop_at_a_users_limit() {
    let postgres = Postgres::shared();
    let database = postgres.database("minimum");
    role(&postgres, "minimal");
    let pooler = pooler()
        .setting("min_pool_size", 2)
        .user_line("minimal", "max_user_connections=3")
        .database_as("one", &database, "user=minimal")
        .database_as("two", &database, "user=minimal")
        .start();
    eventually("three servers", SOON, || database.backends("minimal").len() == 3);
    let pids = || database.backends("minimal").iter().map(|backend| backend.pid).collect::<Vec<_>>();
    let before = pids();
    assert!(!holds_within(Duration::from_millis(1200), || pids() != before), "they stay");
    assert!(!pooler.log().contains("evicted"), "{}", pooler.log());
}

#[test]
fn the_reserve_for_all_and_by_its_old_name() {
    let database = prepared_database("reserve", "");
    let pooler = pooler()
        .setting("default_pool_size", 1)
        .setting("reserve_pool_size", 1)
        .setting("reserve_pool_timeout", "0.3")
        .database_as("usual", &database, "")
        .database_as("old", &database, "reserve_pool=2")
        .start();
    for (name, servers) in [("usual", 2), ("old", 3)] {
        let mut clients: Vec<Client> = (0..servers + 1).map(|_| pooler.connect(name)).collect();
        clients[..servers].iter_mut().for_each(|client| drop(client.execute("begin")));
        clients[servers].send(query("select 1"));
        clients[servers].expect_silence(Duration::from_millis(800));
        clients[0].execute("commit");
        assert_eq!(clients[servers].read_until_ready().tags(), "TDCZ");
    }
    pooler.wait_for_log("taking connection from reserve_pool");
}

// ---- users and databases that are not there --------------------------------------------------------------------

#[test]
fn unknown_users_and_unknown_databases() {
    let database = prepared_database("known", "");
    let verifier = Postgres::shared().superuser("postgres");
    let verifier = Client::login(&verifier)
        .scalar(&format!("select rolpassword from pg_authid where rolname = '{SCRAM_USER}'"));
    let md5 = database.scalar("select 'md5' || md5('secret' || 'app')");
    let (password_failed, sasl_failed) = ("password authentication failed", "SASL authentication failed");
    for (auth_type, user, secret, password, unknown_user, wrong) in [
        ("trust", USER, "", "", "\"trust\" authentication failed", None),
        ("plain", USER, "secret", "secret", password_failed, Some(password_failed)),
        ("md5", USER, md5.as_str(), "secret", password_failed, Some(password_failed)),
        ("md5", SCRAM_USER, verifier.as_str(), "open 'sesame'", password_failed, Some(sasl_failed)),
        ("scram-sha-256", SCRAM_USER, verifier.as_str(), "open 'sesame'", sasl_failed, Some(sasl_failed)),
    ] {
        let pooler = pooler()
            .setting("auth_type", auth_type)
            .secret(user, secret)
            .database(&database, "")
            .database_as("forced", &database, "user=app")
            .start();
        let target = |name: &str| pooler.target(name).user(user).password(password);
        for name in [database.name(), "forced"] {
            assert_eq!(refusal(&target(name).user("stranger")), unknown_user, "{auth_type} {name}");
        }
        pooler.wait_for_log("login attempt: db=forced user=stranger tls=no replication=no");
        assert_eq!(refusal(&target("missing")), "no such database: missing", "{auth_type}");
        pooler.wait_for_log(&format!("login failed: db=missing user={user}"));
        if let Some(wrong) = wrong {
            assert_eq!(refusal(&target("missing").password("wrong")), wrong, "{auth_type}");
        }
    }
}

#[test]
fn databases_that_the_server_does_not_have() {
    let line = format!("host=127.0.0.1 port={}", Postgres::shared().port());
    let pooler = pooler()
        .database_line("gone", &format!("{line} dbname=not_there"))
        .database_line("*", &line)
        .setting("server_login_retry", 0)
        .start();
    for (name, on_server) in [("gone", "not_there"), ("any", "any"), ("any", "any")] {
        let error =
            Client::try_login(&pooler.target(name)).map(drop).expect_err("no such database").refusal();
        let text = format!("database \"{on_server}\" does not exist");
        assert_eq!((error.severity(), error.code(), error.message()), ("FATAL", "3D000", text.as_str()));
    }
    pooler.wait_for_log("registered new auto-database: any");
    pooler.wait_for_log("server login failed: database \"any\" does not exist");
    assert!(!pooler.log().contains("registered new auto-database: gone"));
    let database = prepared_database("auto", "");
    assert_eq!(pooler.connect(database.name()).scalar("select current_database()"), database.name());
    assert_eq!(
        row_where(&mut pooler.console(), "DATABASES", "name", database.name()).text("host"),
        "127.0.0.1"
    );
}

// ---- hosts ----------------------------------------------------------------------------------------------------

#[test]
fn one_host_of_a_list_is_kept_until_it_fails() {
    let database = prepared_database("hosts", "");
    let line = |hosts: &str, more: &str| {
        let port = Postgres::shared().port();
        format!("host={hosts} port={port} dbname={} {more}", database.name())
    };
    let mut pooler = pooler()
        .setting("server_lifetime", 0) // each transaction has a connection of its own
        .setting("server_login_retry", 0)
        .setting("dns_nxdomain_ttl", 0)
        .database_line("good", &line(&format!("127.0.0.1,{NO_NAME}"), "load_balance_hosts=disable"))
        .database_line("bad", &line(&format!("{NO_NAME},127.0.0.1"), "load_balance_hosts=disable"))
        .database_line("turns", &line("127.0.0.1,localhost", "pool_size=2 server_lifetime=1000"))
        .start();
    let mut console = pooler.console();
    let mut good = pooler.connect("good");
    (0..5).for_each(|_| drop(good.execute("select 1")));
    assert!(table(&mut console, "DNS_HOSTS").is_empty(), "nobody has asked for the other host");
    let mut bad = pooler.connect("bad");
    (0..5).for_each(|_| drop(bad.execute("select 1")));
    assert_eq!(pooler.log().matches("server DNS lookup failed").count(), 1);

    // By turns each host gets its share; a host may stand in the list twice.
    let (mut one, mut two) = (pooler.connect("turns"), pooler.connect("turns"));
    one.execute("begin");
    two.execute("begin");
    let hosts = table(&mut console, "DNS_HOSTS");
    assert!(hosts.iter().any(|row| row.text("hostname") == "localhost"));

    let shown = |console: &mut Client, name: &str| {
        row_where(console, "DATABASES", "name", name).text("load_balance_hosts").to_owned()
    };
    assert_eq!([shown(&mut console, "good"), shown(&mut console, "turns")], ["disable", "round-robin"]);
    let changed = line(&format!("127.0.0.1,{NO_NAME}"), "load_balance_hosts=round-robin");
    pooler.reload(|builder| builder.database_line("good", &changed));
    assert_eq!(shown(&mut console, "good"), "round-robin");
}

// ---- COPY by a named statement ----------------------------------------------------------------------------------

#[test]
fn copies_of_prepared_statements() {
    let pair = pair("create table t (id int primary key)");
    let copy = |statement: &str| [bind("", statement, &[]), execute("", 0)].concat();
    let row = |id: u32| copy_data(format!("{id}\n").as_bytes());
    let script = Script::new()
        .send([parse("in", "copy t from stdin", &[]), parse("out", "copy t to stdout", &[]), sync()])
        .ready(1)
        .send([copy("in"), row(1), row(2), copy_done(), sync()])
        .ready(1)
        .send([copy("out"), sync()])
        .ready(1)
        .send([copy("in"), flush()])
        .until(b'G')
        .send([copy_data(b"bad\n")])
        .until(b'E')
        .send([copy_done(), sync()])
        .ready(1)
        .send([copy("in"), row(2), copy_done(), sync()]) // the key is taken, which the end shows
        .ready(1)
        .query("begin")
        .send([copy("in"), row(3), copy_done(), sync(), copy("out"), sync()])
        .ready(2)
        .query("rollback")
        .rows("select * from t");
    pair.check(&script);
}

// ---- the rest ---------------------------------------------------------------------------------------------------

#[test]
fn connect_query_runs_on_every_new_connection() {
    let mut pooled = pooled("", |builder| builder);
    let port = pooled.database.postgres().port();
    let line = format!(
        "host=127.0.0.1 port={port} dbname={} connect_query='set enable_seqscan to off; set enable_nestloop to off'",
        pooled.database.name()
    );
    pooled.pooler.reload(|builder| builder.database_line("prepared", &line));
    let mut client = pooled.pooler.connect("prepared");
    assert_eq!(client.scalar("show enable_seqscan"), "off");
    assert_eq!(client.scalar("show enable_nestloop"), "off");
}

/// A value in other words than the server's own is set once; from then on the client has the server's words.
#[test]
fn a_start_up_parameter_in_other_words_is_set_once() {
    let database = prepared_database("logged", "");
    Postgres::shared().sql(&format!("alter database {} set log_statement = 'all'", database.name()));
    let pooler = pooler().setting("default_pool_size", 1).database(&database, "").start();
    let target = pooler.target(database.name()).param("datestyle", "iso").param("timezone", "utc");
    let mut client = Client::login(&target);
    for _ in 0..4 {
        assert_eq!(client.scalar("select 1"), "1");
    }
    assert_eq!(client.scalar("show datestyle"), "ISO, MDY");
    eventually("the statements are in the log", SOON, || database.log().contains("show datestyle"));
    let log = database.log().to_lowercase();
    let sets = log.lines().filter(|line| line.contains("statement:") && line.contains("'iso'")).count();
    assert!(sets <= 1, "{log}");
}

/// A client that gets no server at its login hears nothing of the queue, and is told when its time is over.
#[test]
fn no_notice_of_the_queue_during_a_login() {
    let database = prepared_database("login", "");
    let pooler = pooler()
        .setting("query_wait_notify", 1)
        .setting("client_login_timeout", 3)
        .setting("default_pool_size", 1)
        .database(&database, "")
        .start();
    pooler.console().execute(&format!("PAUSE {}", database.name()));
    let mut client = Client::open(&pooler.address());
    client.send(pooler.target(database.name()).startup());
    let reply = client.expect_closed();
    assert_eq!(reply.tags(), "E", "{reply:?}");
    assert_eq!(reply.error().unwrap().message(), "client_login_timeout (server down)");
}

/// Many databases with one forced user, with servers of their own, over repeated reloads (pgbouncer#1104).
#[test]
fn many_forced_databases_over_many_reloads() {
    let database = prepared_database("many", "");
    let mut builder = pooler().setting("max_user_connections", 30).setting("min_pool_size", 0);
    for number in 0..40 {
        builder = builder.database_as(&format!("db{number}"), &database, &format!("user={USER} pool_size=1"));
    }
    let mut pooler = builder.start();
    for round in 0..5 {
        pooler.reload(|builder| builder.setting("server_idle_timeout", 100 + round));
        for number in (0..40).step_by(3) {
            assert_eq!(pooler.connect(&format!("db{number}")).scalar("select 1"), "1");
        }
    }
    assert!(database.backends(USER).len() <= 30);
}

/// `pkt_buf` is the size of PgBouncer's buffers, through which larger messages pass as well.
#[test]
fn the_smallest_buffers_take_any_login() {
    let database = prepared_database("buffers", "");
    let pooler = pooler()
        .setting("pkt_buf", 16)
        .setting("auth_type", "scram-sha-256")
        .secret(SCRAM_USER, "open 'sesame'")
        .database(&database, "")
        .start();
    let name = "n".repeat(60);
    let target = pooler.target(database.name()).user(SCRAM_USER).password("open 'sesame'");
    let mut client = Client::login(&target.param("application_name", &name));
    assert_eq!(client.scalar("select current_setting('application_name')"), name);
    let text = "x".repeat(100_000);
    assert_eq!(client.scalar(&format!("select '{text}'")), text);
}

/// A rolling restart: the old instance serves its clients to their end and takes no new ones. By SIGTERM it is the same as
/// by SHUTDOWN WAIT_FOR_CLIENTS; a second signal ends it at once.
#[test]
fn an_instance_that_is_replaced_serves_its_clients_to_the_end() {
    for by_signal in [false, true] {
        let pooled = pooled("", |builder| builder.setting("so_reuseport", 1));
        let mut client = pooled.connect();
        client.execute("begin");
        match by_signal {
            true => pooled.pooler.signal(Signal::SIGTERM),
            false => {
                let mut console = pooled.pooler.console();
                console.execute("SHUTDOWN WAIT_FOR_CLIENTS");
                console.terminate();
            }
        }
        eventually("no new clients", SOON, || Client::try_open(&pooled.pooler.address()).is_err());
        assert_eq!(client.scalar("select 'still served'"), "still served");
        client.execute("commit");
        assert_eq!(client.scalar("select 'and again'"), "and again");
        assert_eq!(pooled.pooler.ended(), None);
        client.terminate();
        assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
    }
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.execute("begin");
    pooled.pooler.signal(Signal::SIGTERM);
    pooled.pooler.wait_for_log("got SIGTERM");
    pooled.pooler.signal(Signal::SIGTERM);
    assert_eq!(pooled.pooler.wait_ended().code(), Some(0));
    assert!(client.expect_closed().0.is_empty());
}
