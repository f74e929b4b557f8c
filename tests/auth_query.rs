//! Users that `auth_file` does not have: what PostgreSQL is asked, by whom and where, and what follows from its answer.

use std::thread;
use std::time::{Duration, Instant};

use support::frontend::query;
use support::pooler::{ADMIN, Pooler, PoolerBuilder};
use support::postgres::{Database, MD5_USER, PASSWORD, Postgres, SCRAM_USER, SUPERUSER, USER};
use support::tap::Tap;
use support::wait::eventually;
use support::wire::{Client, LoginError, Target};

use crate::common::{pooler, prepared_database};
use crate::console::{row_where, rows_where};

const SOON: Duration = Duration::from_secs(10);
const FAILED: &str = "password authentication failed";
const CONFIG_ERROR: &str = "bouncer config error";

/// A pooler that asks as the superuser for whom its list does not have; users log in as they do to PostgreSQL.
fn asking() -> PoolerBuilder {
    pooler().setting("auth_type", "md5").setting("auth_user", SUPERUSER).secret(ADMIN, PASSWORD)
}

#[track_caller]
fn refusal(target: &Target) -> String {
    match Client::try_login(target) {
        Ok(_) => panic!("{} was let in to {}", target.user, target.database),
        Err(error) => {
            let fields = error.refusal();
            assert_eq!(fields.severity(), "FATAL");
            fields.message().to_owned()
        }
    }
}

/// A target with the password that every role has.
fn known(pooler: &Pooler, database: &str, user: &str) -> Target {
    pooler.target(database).user(user).password(PASSWORD)
}

#[track_caller]
fn assert_works(target: &Target) {
    assert_eq!(Client::login(target).scalar("select current_user"), target.user);
}

fn reload(pooler: &mut Pooler, change: impl FnOnce(PoolerBuilder) -> PoolerBuilder) {
    pooler.rewrite(change);
    Client::login(&known(pooler, "pgbouncer", ADMIN)).execute("RELOAD");
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A role with this password, stored and asked for as the group (`md5_logins`, `scram_logins`) has it.
fn role(postgres: &Postgres, name: &str, group: &str, password: &str, more: &str) {
    let kind = if group == "md5_logins" { "md5" } else { "scram-sha-256" };
    postgres.sql(&format!(
        "set password_encryption = '{kind}'; create role {name} login password {} in role {group} {more}",
        quoted(password)
    ));
}

fn set_password(postgres: &Postgres, name: &str, kind: &str, password: &str) {
    postgres
        .sql(&format!("set password_encryption = '{kind}'; alter role {name} password {}", quoted(password)));
}

/// In `[databases]` a quote within quotes is two.
fn database_query(sql: &str) -> String {
    format!("auth_query={}", quoted(sql))
}

// ---- what the answer means ------------------------------------------------------------------------------------

#[test]
fn secrets_of_both_kinds_open_both_sides() {
    let database = prepared_database("found", "");
    let pooler = asking().database(&database, "").start();
    for user in [MD5_USER, SCRAM_USER] {
        let target = known(&pooler, database.name(), user);
        assert_works(&target);
        let text = if user == MD5_USER { FAILED } else { "SASL authentication failed" };
        assert_eq!(refusal(&target.clone().password("wrong")), text);
        assert_works(&target);
    }
    let target = known(&pooler, database.name(), "nobody_of_this_name");
    assert_eq!(refusal(&target), "no such user");
    pooler.wait_for_log(&format!("login failed: db={}\n", database.name()));
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    for user in [SUPERUSER, SCRAM_USER] {
        row_where(&mut console, "USERS", "name", user);
    }
    assert!(rows_where(&mut console, "USERS", "name", "nobody_of_this_name").is_empty());
    let scram = asking().setting("auth_type", "scram-sha-256").database(&database, "").start();
    assert_works(&known(&scram, database.name(), SCRAM_USER));
    assert_eq!(refusal(&known(&scram, database.name(), MD5_USER)), "SASL authentication failed");
}

/// CVE-2025-2291: the default query does not hand out a secret whose time is over.
#[test]
fn a_password_that_has_run_out_is_refused() {
    let postgres = Postgres::shared();
    let database = postgres.database("run_out");
    role(&postgres, "run_out", "scram_logins", PASSWORD, "valid until '2001-01-01'");
    role(&postgres, "still_valid", "scram_logins", PASSWORD, "valid until '2999-01-01'");
    role(&postgres, "without_password", "scram_logins", PASSWORD, "");
    postgres.sql("alter role without_password password null");
    for (method, text) in
        [("md5", FAILED), ("plain", FAILED), ("scram-sha-256", "SASL authentication failed")]
    {
        let pooler = asking().setting("auth_type", method).database(&database, "").start();
        assert_eq!(refusal(&known(&pooler, database.name(), "run_out")), text, "{method}");
        assert_eq!(refusal(&known(&pooler, database.name(), "without_password")), text, "{method}");
        if method != "plain" {
            assert_works(&known(&pooler, database.name(), "still_valid"));
        }
    }
}

#[test]
fn the_last_row_counts_and_its_name_is_the_users() {
    let postgres = Postgres::shared();
    let database = postgres.database("renamed");
    let rows = format!(
        "select * from (values ('x', 'nonsense'), ('{USER}', {})) as v where $1 <> ''",
        quoted(PASSWORD)
    );
    let pooler = asking().setting("auth_type", "plain").database(&database, &database_query(&rows)).start();
    let mut client = Client::login(&known(&pooler, database.name(), "whoever"));
    assert_eq!(client.scalar("select current_user"), USER);
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    assert_eq!(row_where(&mut console, "CLIENTS", "database", database.name()).text("user"), USER);
}

#[test]
fn what_is_wrong_with_the_query_is_told_to_the_log_only() {
    let postgres = Postgres::shared();
    let database = postgres.database("faulty");
    let faults = [
        ("one", "select $1::text", "expected 2 columns from auth_query, not 1"),
        ("three", "select $1::text, 2, 3", "expected 2 columns from auth_query, not 3"),
        ("none", "select 1, 2, 3 where $1 = 'none'", "expected 2 columns from auth_query, not 3"),
        ("null", "select nullif($1, $1), 'pw'", "auth_query response contained null user name"),
        (
            "gone",
            "select * from no_such_table where u = $1",
            "error in auth_query: ERROR: relation \"no_such_table\" does not exist",
        ),
        ("parameters", "select $1, $2", "error in auth_query: ERROR: "),
        (
            "nothing",
            "delete from pg_am where amname = $1 and false",
            "expected 2 columns from auth_query, not 0",
        ),
    ];
    let mut builder = asking().setting("default_pool_size", 1);
    for (name, sql, _) in faults {
        builder = builder.database_as(name, &database, &database_query(sql));
    }
    let pooler = builder.start();
    for (name, _, text) in faults {
        assert_eq!(refusal(&known(&pooler, name, "whoever")), CONFIG_ERROR, "{name}");
        let line = pooler.log().lines().filter(|line| line.contains(text)).count();
        assert!(line > 0, "{name}: {}", pooler.log());
    }
    eventually("their servers are closed", SOON, || database.backends(SUPERUSER).is_empty());
}

// ---- where and by whom ----------------------------------------------------------------------------------------

#[test]
fn what_a_database_says_wins_over_the_global_settings() {
    let postgres = Postgres::shared();
    let [database, users] = ["used", "users"].map(|name| postgres.database(name));
    users.connect().execute("create table secrets (name text, secret text)");
    let own = database_query("select name, secret from secrets where name = $1");
    let mut pooler = asking()
        .setting("auth_dbname", "no_such_database")
        .database_as("users", &users, "")
        .database_as("asks_nowhere", &database, "")
        .database_as("asks_there", &database, &format!("auth_dbname=users auth_user={USER} {own}"))
        .database_as("asks_default", &database, "auth_dbname=users")
        .database_as("asks_console", &database, "auth_dbname=pgbouncer")
        .start();
    assert_eq!(refusal(&known(&pooler, "asks_nowhere", MD5_USER)), CONFIG_ERROR);
    pooler.wait_for_log("authentication database \"no_such_database\" is not configured.");
    assert_eq!(refusal(&known(&pooler, "asks_console", MD5_USER)), CONFIG_ERROR);
    pooler.wait_for_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
    assert_eq!(refusal(&known(&pooler, "asks_there", MD5_USER)), "no such user");
    assert_works(&known(&pooler, "asks_default", SCRAM_USER));
    users.sql("insert into secrets values ('md5_user', 'open sesame too')");
    assert_works(&known(&pooler, "asks_default", MD5_USER));
    assert_eq!(refusal(&known(&pooler, "asks_there", MD5_USER)), FAILED);
    assert_eq!(users.backends(SUPERUSER).len(), 1);
    assert!(database.backends(SUPERUSER).is_empty());

    reload(&mut pooler, |builder| builder.setting("auth_dbname", "users"));
    assert_works(&known(&pooler, "asks_nowhere", SCRAM_USER));
}

#[test]
fn a_disabled_database_answers_no_question() {
    let postgres = Postgres::shared();
    let [database, users] = ["enabled", "disabled"].map(|name| postgres.database(name));
    let pooler = asking()
        .setting("auth_dbname", "users")
        .database_as("users", &users, "")
        .database(&database, "")
        .start();
    let target = known(&pooler, database.name(), SCRAM_USER);
    assert_works(&target);
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    console.execute("disable users");
    assert_eq!(refusal(&target), "authentication database \"users\" is disabled");
    console.execute("enable users");
    assert_works(&target);
}

#[test]
fn databases_that_came_from_the_star() {
    let postgres = Postgres::shared();
    let [database, users] = ["automatic", "automatic"].map(|name| postgres.database(name));
    let star = format!("host=127.0.0.1 port={}", postgres.port());
    let pooler = asking().database_line("*", &format!("{star} auth_dbname={}", users.name())).start();
    assert_works(&known(&pooler, database.name(), SCRAM_USER));
    assert_eq!((users.backends(SUPERUSER).len(), database.backends(SUPERUSER).len()), (1, 0));

    let pooler = asking().database_line("*", &star).start();
    assert_works(&known(&pooler, database.name(), SCRAM_USER));
    let text = refusal(&known(&pooler, "not_in_postgresql", SCRAM_USER));
    assert_eq!(text, "database \"not_in_postgresql\" does not exist");
}

/// Nobody is asked about users of a database that is not there: the challenge that follows can't be met.
#[test]
fn the_password_comes_before_the_database() {
    let database = prepared_database("other", "");
    let pooler = asking().database(&database, "").start();
    assert_eq!(refusal(&known(&pooler, "no_such_database", SCRAM_USER)), FAILED);
    assert!(database.backends(SUPERUSER).is_empty());
    let text = refusal(&known(&pooler, "no_such_database", ADMIN));
    assert_eq!(text, "no such database: no_such_database");
}

#[test]
fn who_asks_needs_no_entry_in_the_list() {
    let database = prepared_database("unlisted", "");
    let trusting = || pooler().setting("auth_type", "trust").database(&database, "");
    let mut set = trusting().start();
    let target = |pooler: &Pooler| pooler.target(database.name()).user(MD5_USER);
    assert_eq!(refusal(&target(&set)), "\"trust\" authentication failed");
    set.console().execute(&format!("set auth_user = '{SUPERUSER}'"));
    assert_works(&target(&set));

    set.reload(|builder| builder.setting("auth_user", USER));
    assert_eq!(refusal(&target(&set)), CONFIG_ERROR);
    set.wait_for_log("error in auth_query: ERROR: permission denied");

    let mut own = trusting().start();
    assert_eq!(refusal(&target(&own)), "\"trust\" authentication failed");
    own.reload(|builder| builder.database_as("asks", &database, &format!("auth_user={SUPERUSER}")));
    assert_eq!(refusal(&target(&own)), "\"trust\" authentication failed");
    assert_works(&own.target("asks").user(MD5_USER));
}

#[test]
fn the_consoles_name_is_no_database_for_it() {
    let database = prepared_database("reserved", "");
    let mut pooler = asking().setting("auth_dbname", database.name()).database(&database, "").start();
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    assert!(console.query("set auth_dbname = 'pgbouncer'").error().is_some());
    pooler.rewrite(|builder| builder.setting("auth_dbname", "pgbouncer"));
    assert_eq!(console.query("reload").error_code(), "F0000");
    pooler.wait_for_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
    assert_works(&known(&pooler, database.name(), SCRAM_USER));
}

/// A server that refuses who asks is told to the first, and to the next without being asked again.
#[test]
fn who_asks_may_not_log_in() {
    let database = prepared_database("refused", "");
    let pooler =
        asking().setting("server_login_retry", 3600).database(&database, "auth_user=no_such_role").start();
    let target = known(&pooler, database.name(), SCRAM_USER);
    let why = "role \"no_such_role\" does not exist";
    assert_eq!(refusal(&target), why);
    let text = refusal(&target);
    assert_eq!(text, format!("server login has been failing, cached error: {why} (server_login_retry)"));
}

/// The function that docs/authentication.md recommends, for a user who may do nothing else.
#[test]
fn the_example_of_the_documentation() {
    let postgres = Postgres::shared();
    let database = postgres.database("documented");
    let page = include_str!("../docs/authentication.md");
    let sql = page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    Client::login(&postgres.superuser(database.name())).execute(sql);
    let query = page.lines().find_map(|line| line.strip_prefix("auth_query = ")).unwrap();
    let pooler = asking()
        .setting("auth_user", "pgferry_auth")
        .setting("auth_query", query)
        .database(&database, "")
        .start();
    for user in [MD5_USER, SCRAM_USER] {
        assert_works(&known(&pooler, database.name(), user));
    }
    assert_eq!(refusal(&known(&pooler, database.name(), SUPERUSER)), "no such user");
    let mut other = Client::login(&known(&pooler, database.name(), MD5_USER));
    assert_eq!(other.query("select * from pgferry.find_user('md5_user')").error_code(), "42501");
}

/// A user of `[users]` whose secret is nowhere in the configuration is asked for, and its settings count.
#[test]
fn settings_of_users_without_a_secret() {
    let database = prepared_database("configured", "");
    let pooler = asking()
        .database(&database, "")
        .user_line(SCRAM_USER, "pool_mode=statement max_user_client_connections=1")
        .start();
    let target = known(&pooler, database.name(), SCRAM_USER);
    let mut client = Client::login(&target);
    assert_eq!(client.scalar("select 1"), "1");
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    assert_eq!(row_where(&mut console, "POOLS", "user", SCRAM_USER).text("pool_mode"), "statement");
    assert_eq!(refusal(&target), "client connections exceeded (max_user_client_connections)");
}

#[test]
fn limits_of_a_database_hold_for_who_was_asked_for() {
    let database = prepared_database("limited", "");
    let pooler = asking()
        .setting("max_db_client_connections", 2)
        .setting("stats_users", "viewer")
        .secret("viewer", PASSWORD)
        .database(&database, "")
        .database_as("own", &database, "max_db_client_connections=1")
        .start();
    for (name, most) in [(database.name(), 2), ("own", 1)] {
        let target = known(&pooler, name, MD5_USER);
        let clients: Vec<Client> = (0..most).map(|_| Client::login(&target)).collect();
        let text = "client connections exceeded (max_db_client_connections)";
        assert_eq!(refusal(&target), text);
        assert_eq!(refusal(&known(&pooler, name, SCRAM_USER)), text);
        drop(clients);
    }
}

/// Its pool is the asker's own, whatever the database forces on clients.
#[test]
fn a_database_that_forces_the_user_who_asks() {
    let postgres = Postgres::shared();
    let database = postgres.database("forced");
    for line in [format!("user={SUPERUSER}"), format!("user={USER} auth_user={SUPERUSER}")] {
        let pooler = asking().setting("min_pool_size", 2).database_as("forced", &database, &line).start();
        let forced = if line.contains(USER) { USER } else { SUPERUSER };
        eventually("its minimum", SOON, || database.backends(forced).len() == 2);
        let target = known(&pooler, "forced", SCRAM_USER);
        for _ in 0..3 {
            assert_eq!(Client::login(&target).scalar("select current_user"), forced);
        }
        assert_eq!(refusal(&target.password("wrong")), "SASL authentication failed");
        let servers = database.backends(SUPERUSER).len() + database.backends(USER).len();
        // Each pool fills up to its minimum in time; that of the asker may be the one of all.
        let most = if forced == SUPERUSER { 3 } else { 4 };
        assert!((2..=most).contains(&servers), "{servers}");
        drop(pooler);
        eventually("they are gone", SOON, || database.backends(forced).is_empty());
    }
}

/// The console's users may be asked for as well, in a database that is named for it; and one pooler's by another.
#[test]
fn the_console_and_a_pooler_behind_a_pooler() {
    let postgres = Postgres::shared();
    let database = postgres.database("behind");
    role(&postgres, "console_admin", "md5_logins", PASSWORD, "");
    let asking =
        || asking().setting("admin_users", "admin, console_admin").database_as("users", &database, "");
    let pooler_without = asking().start();
    assert_eq!(refusal(&known(&pooler_without, "pgbouncer", "console_admin")), CONFIG_ERROR);
    let inner = asking().setting("auth_dbname", "users").start();
    let target = known(&inner, "pgbouncer", "console_admin");
    row_where(&mut Client::login(&target), "DATABASES", "name", "users");
    assert_eq!(refusal(&target.password("wrong")), FAILED);
    assert_eq!(refusal(&known(&inner, "pgbouncer", MD5_USER)), "not allowed");

    let outer = asking()
        .setting("auth_dbname", "users")
        .database_line("inner_console", &format!("host=127.0.0.1 port={} dbname=pgbouncer", inner.port()))
        .start();
    let mut client = Client::login(&known(&outer, "inner_console", "console_admin"));
    assert!(client.query("show version").error().is_none());
}

/// A right on the console is not had by the password of another.
#[test]
fn who_proves_to_be_another_has_the_others_rights() {
    let postgres = Postgres::shared();
    let database = postgres.database("another");
    for (user, allowed) in [("nobody", false), ("second_admin", true)] {
        let pooler = asking()
            .setting("admin_users", "first_admin, second_admin")
            .setting("auth_dbname", "users")
            .setting("auth_type", "plain")
            .setting("auth_query", format!("select '{user}', {} where $1 <> ''", quoted(PASSWORD)))
            .database_as("users", &database, "")
            .start();
        let target = known(&pooler, "pgbouncer", "first_admin");
        match allowed {
            true => drop(Client::login(&target)),
            false => assert_eq!(refusal(&target), "not allowed"),
        }
    }
}

// ---- the session in which it is asked -------------------------------------------------------------------------

/// Two tables of the same name: who sees the second in place of the first may log in with any password that it likes.
const USERS: &str = "
    create schema evil;
    create table public.users (name text, secret text);
    create table evil.users (name text, secret text);
    insert into public.users values ('stranger', 'right');
    insert into evil.users values ('stranger', 'forged');
    grant usage on schema evil to public";
const FROM_USERS: &str = "select name, secret from users where name = $1";

/// CVE-2025-12819: nothing that a client says before it has proven who it is comes to the session in which that is asked.
#[test]
fn a_strangers_search_path_does_not_reach_the_query() {
    let database = prepared_database("strangers", USERS);
    for tracked in ["search_path", "IntervalStyle"] {
        let pooler = asking()
            .setting("track_extra_parameters", tracked)
            .setting("default_pool_size", 1)
            .setting("ignore_startup_parameters", "options")
            .database(&database, &database_query(FROM_USERS))
            .start();
        let target = pooler.target(database.name()).user("stranger");
        for hostile in [
            target.clone().param("search_path", "evil"),
            target.clone().param("options", "-c search_path=evil"),
            target.clone().param("options", "-csearch_path=evil,public -c role=nobody"),
        ] {
            assert_eq!(refusal(&hostile.password("forged")), FAILED);
        }
        assert_eq!(refusal(&target.clone().password("forged")), FAILED);
        let text = refusal(&target.password("right")); // which is no user of PostgreSQL's
        assert_eq!(text, "role \"stranger\" does not exist");
    }
}

/// Nor does what the user who asks has done to its own sessions, in any mode.
#[test]
fn sessions_of_the_asker_as_a_client_do_not_reach_the_query() {
    let database = prepared_database("askers", USERS);
    for (mode, state, reset) in [
        ("transaction", "preserve", "DISCARD ALL"),
        ("transaction", "discard", "DISCARD ALL"),
        ("session", "preserve", ""),
        ("session", "preserve", "DISCARD ALL"),
    ] {
        let pooler = pooler()
            .setting("auth_type", "plain")
            .setting("pool_mode", mode)
            .setting("session_state", state)
            .setting("server_reset_query", reset)
            .setting("default_pool_size", 1)
            .setting("auth_user", USER)
            .secret(USER, PASSWORD)
            .database(&database, &database_query(FROM_USERS))
            .start();
        let mut asker = Client::login(&known(&pooler, database.name(), USER));
        asker.execute("set search_path = evil");
        if (mode, state) != ("transaction", "preserve") {
            asker.execute("create temp table users (name text, secret text)"); // would keep the one server
            asker.execute("insert into pg_temp.users values ('stranger', 'forged')");
        }
        if mode == "session" {
            asker.terminate();
        }
        let target = pooler.target(database.name()).user("stranger");
        let what = format!("{mode}, {state}, {reset}");
        match Client::try_login(&target.password("forged")) {
            Err(LoginError::Refused(fields)) => assert_eq!(fields.message(), FAILED, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_clients_parameters_are_not_set_for_the_query() {
    let database = prepared_database("parameters", "");
    let tap = Tap::start(database.postgres().address());
    let line = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let pooler = asking()
        .setting("auth_dbname", "users")
        .setting("default_pool_size", 1)
        .database_line("users", &line)
        .database(&database, "")
        .start();
    let target = known(&pooler, database.name(), SCRAM_USER)
        .param("application_name", "conspicuous")
        .param("client_encoding", "LATIN1")
        .param("datestyle", "German")
        .param("timezone", "Europe/Berlin");
    for _ in 0..3 {
        assert_works(&target);
    }
    let links = tap.links();
    assert_eq!(links.len(), 1);
    let sent = links[0].to_server();
    let sent = String::from_utf8_lossy(&sent);
    assert_eq!(sent.matches("pg_authid").count(), 3);
    for foreign in ["SET ", "set_config", "conspicuous", "LATIN1", "German", "Berlin"] {
        assert!(!sent.contains(foreign), "{foreign} in {sent:?}");
    }
}

#[test]
fn a_newer_protocol_is_negotiated_once() {
    let database = prepared_database("newer", "");
    let pooler = asking().database(&database, "").start();
    let target = known(&pooler, database.name(), SCRAM_USER);
    let mut client = Client::open(&target.address);
    let mut startup = target.startup();
    startup[4..8].copy_from_slice(&(3 << 16 | 2u32).to_be_bytes());
    client.send(startup);
    client.finish_login(&target).unwrap();
    assert_eq!(client.greeting.iter().filter(|message| message.tag == b'v').count(), 1);
    assert_eq!(client.scalar("select 1"), "1");
}

#[test]
fn long_questions_and_answers() {
    let postgres = Postgres::shared();
    let database = postgres.database("long");
    let long = "p".repeat(900);
    let sql = format!("select $1::text, '{long}' /* {} */", "x".repeat(20_000));
    let pooler = asking().setting("pkt_buf", 64).database(&database, &database_query(&sql)).start();
    let target = pooler.target(database.name()).user("postgres").password(&long);
    assert_works(&target);
    let huge = "select $1::text, repeat('x', 1000000)";
    let pooler = asking().database(&database, &database_query(huge)).start();
    assert_eq!(refusal(&known(&pooler, database.name(), "postgres")), CONFIG_ERROR);
}

// ---- how often it is asked ------------------------------------------------------------------------------------

/// A database whose function `find` counts how often it is asked, and waits for `gate` to be unlocked. All have the same
/// password.
fn counting(name: &str, password: &str) -> Database {
    let sql = format!(
        "create table asked (name text);
         create table passwords (name text primary key, secret text);
         insert into passwords values ('{USER}', {0}), ('{MD5_USER}', {0}), ('{SCRAM_USER}', {0}), ('{SUPERUSER}', {0});
         create function find(who text) returns table (n text, s text) language plpgsql as $$
         begin
             insert into asked values (who);
             perform pg_advisory_xact_lock_shared(5);
             return query select * from passwords p where p.name = who;
         end $$",
        quoted(password)
    );
    prepared_database(name, &sql)
}

const FIND: &str = "select n, s from find($1)";

fn asked(database: &Database) -> usize {
    database.scalar("select count(*) from asked").parse().unwrap()
}

/// A pooler that asks as [`USER`], which is not in its list under the name of who logs in.
fn with_count(database: &Database) -> PoolerBuilder {
    pooler()
        .setting("auth_type", "plain")
        .setting("auth_user", USER)
        .setting("auth_query", FIND)
        .secret(ADMIN, PASSWORD)
        .database(database, "")
}

fn waits(database: &Database) -> usize {
    let backends = database.backends(USER).into_iter();
    backends.filter(|backend| backend.state == "active" && backend.query.contains("find(")).count()
}

/// Logins of one user at the same time share a question, but for those who came when it was on its way.
#[test]
fn simultaneous_logins_share_a_question() {
    let database = counting("shared", PASSWORD);
    let pooler = with_count(&database).start();
    let target = known(&pooler, database.name(), SUPERUSER);
    let mut gate = database.connect();
    gate.execute("begin");
    gate.execute("select pg_advisory_xact_lock(5)");
    thread::scope(|scope| {
        let first = scope.spawn(|| assert_works(&target));
        eventually("the first question", SOON, || waits(&database) == 1);
        let others: Vec<_> = (0..20).map(|_| scope.spawn(|| assert_works(&target))).collect();
        eventually("all are there", SOON, || pooler.log().matches("login attempt: ").count() == 21);
        gate.execute("commit");
        first.join().unwrap();
        others.into_iter().for_each(|other| other.join().unwrap());
    });
    let asked = asked(&database);
    assert!((2..=6).contains(&asked), "{asked} questions");
}

/// One that takes long holds up nobody who comes later.
#[test]
fn a_slow_question_is_not_waited_for_by_all() {
    let database = prepared_database("slow", "create sequence turn");
    let sql = "select rolname, rolpassword from pg_authid
               where rolname = $1 and (nextval('turn') > 1 or pg_sleep(60) is not null)";
    let pooler = asking().database(&database, &database_query(&sql.replace('\n', " "))).start();
    let target = known(&pooler, database.name(), MD5_USER);
    let mut slow = Client::open(&target.address);
    slow.send(target.startup());
    eventually("it sleeps", SOON, || {
        let backends = database.backends(SUPERUSER);
        backends.iter().any(|backend| backend.state == "active" && backend.query.contains("'turn'"))
    });
    let began = Instant::now();
    assert_works(&target);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    slow.abort();
}

/// A question that nobody waits for is given up, in the queue and on the server; the connection stays.
#[test]
fn a_client_that_leaves_takes_its_question_along() {
    let database = counting("leaving", PASSWORD);
    let pooler = with_count(&database).setting("default_pool_size", 1).start();
    let mut gate = database.connect();
    gate.execute("begin");
    gate.execute("select pg_advisory_xact_lock(5)");
    let ask = |user: &str| {
        let target = known(&pooler, database.name(), user);
        let mut client = Client::open(&target.address);
        client.send(target.startup());
        client
    };
    let asks = ask(SUPERUSER);
    eventually("its question", SOON, || waits(&database) == 1);
    let pid = database.backends(USER).iter().find(|backend| backend.query.contains("find(")).unwrap().pid;
    let queues = ask(MD5_USER);
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    let waiting = |console: &mut Client| row_where(console, "POOLS", "user", USER).number("cl_waiting");
    eventually("the other waits", SOON, || waiting(&mut console) == 1);
    queues.abort();
    eventually("nobody waits", SOON, || waiting(&mut console) == 0);
    asks.abort();
    eventually("its question is cancelled", SOON, || waits(&database) == 0);
    gate.execute("commit");
    assert_works(&known(&pooler, database.name(), SUPERUSER));
    assert!(database.backends(USER).iter().any(|backend| backend.pid == pid), "the server was kept");
    assert_eq!(asked(&database), 1, "what was cancelled has left nothing");
}

#[test]
fn a_login_does_not_wait_for_ever() {
    let database = counting("patient", PASSWORD);
    let pooler = with_count(&database).setting("client_login_timeout", 1).start();
    let mut gate = database.connect();
    gate.execute("begin");
    gate.execute("select pg_advisory_xact_lock(5)");
    let target = known(&pooler, database.name(), SUPERUSER);
    assert_eq!(refusal(&target), "client_login_timeout");
    eventually("the question is cancelled", SOON, || waits(&database) == 0);
    gate.execute("commit");
    assert_works(&target);
}

/// In the queue it is like a client, with a client's limits.
#[test]
fn it_waits_its_turn_in_the_pool() {
    let database = counting("queued", PASSWORD);
    let pooler = with_count(&database)
        .setting("default_pool_size", 1)
        .setting("query_wait_timeout", 1)
        .secret(USER, PASSWORD)
        .start();
    let mut client = Client::login(&known(&pooler, database.name(), USER));
    client.execute("begin");
    let target = known(&pooler, database.name(), SUPERUSER);
    assert_eq!(refusal(&target), "query_wait_timeout");
    client.execute("commit");
    assert_works(&target);
    assert_eq!(database.backends(USER).len(), 1);
}

#[test]
fn answers_are_kept_as_long_as_configured() {
    let database = counting("kept", PASSWORD);
    let mut without = with_count(&database).start();
    let target = |pooler: &Pooler| known(pooler, database.name(), SUPERUSER);
    (0..3).for_each(|_| assert_works(&target(&without)));
    assert_eq!(asked(&database), 3);

    without.rewrite(|builder| builder.setting("auth_query_cache_ttl", 3600));
    let mut console = Client::login(&known(&without, "pgbouncer", ADMIN));
    console.execute("RELOAD");
    let kept = without;
    (0..3).for_each(|_| assert_works(&target(&kept)));
    assert_eq!(asked(&database), 4);
    for forgets in ["RELOAD", "RECONNECT"] {
        let before = asked(&database);
        console.execute(forgets);
        (0..3).for_each(|_| assert_works(&target(&kept)));
        assert_eq!(asked(&database), before + 1, "{forgets}");
    }
}

/// What is kept is enough to refuse a wrong password, and to let a right one in.
#[test]
fn kept_answers_do_where_a_question_fails() {
    let database = counting("failing", PASSWORD);
    let builder = with_count(&database).setting("auth_type", "scram-sha-256");
    let pooler = builder.setting("auth_query_cache_ttl", 3600).start();
    let target = known(&pooler, database.name(), SUPERUSER);
    assert_works(&target);
    database.connect().execute("drop function find");
    assert_eq!(refusal(&target.clone().password("wrong")), "SASL authentication failed");
    pooler.wait_for_log("error in auth_query: ERROR: function find");
    assert_works(&target);
}

/// What is kept lets nobody wait who has a new password, and nobody in with an old one for longer than it is kept.
#[test]
fn a_password_that_is_replaced_while_its_answer_is_kept() {
    let database = counting("replaced", "old");
    for method in ["plain", "md5"] {
        let pooler =
            with_count(&database).setting("auth_type", method).setting("auth_query_cache_ttl", 2).start();
        let target = pooler.target(database.name()).user(SUPERUSER);
        let [old, new] = ["old", "new"].map(|password| target.clone().password(password));
        assert_works(&old);
        let before = asked(&database);
        assert_eq!(refusal(&new), FAILED);
        assert_eq!(asked(&database), before + 1, "what does not fit is compared with a new answer");
        database.connect().execute("update passwords set secret = 'new'");
        assert_works(&new);
        assert_eq!(refusal(&old), FAILED, "the new one was learnt by then");
        database.connect().execute("update passwords set secret = 'old'");
        assert_works(&new);
        eventually("it is kept no longer", SOON, || Client::try_login(&new).is_err());
        assert_works(&old);
    }
}

// ---- servers of who was asked for -----------------------------------------------------------------------------

/// A changed password opens new servers for clients that are there already; nobody logs in anew.
#[test]
fn servers_are_opened_with_the_password_of_today() {
    let postgres = Postgres::shared();
    let database = postgres.database("today");
    role(&postgres, "rotated", "md5_logins", PASSWORD, "");
    let pooler = asking().setting("server_login_retry", 3600).database(&database, "").start();
    let mut client = Client::login(&known(&pooler, database.name(), "rotated"));
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    for password in ["second", "third"] {
        set_password(&postgres, "rotated", "md5", password);
        console.execute("RECONNECT");
        assert_eq!(client.scalar("select current_user"), "rotated");
        assert_eq!(refusal(&known(&pooler, database.name(), "rotated")), FAILED);
    }
    assert_eq!(pooler.log().matches("server login failed").count(), 0);
}

/// With SCRAM only a client that knows it can bring the new password; its login counts at once.
#[test]
fn keys_of_yesterday_give_way_to_those_of_a_new_login() {
    let postgres = Postgres::shared();
    let database = postgres.database("yesterday");
    role(&postgres, "rotated_scram", "scram_logins", PASSWORD, "");
    let pooler = asking()
        .setting("auth_type", "scram-sha-256")
        .setting("server_login_retry", 3600)
        .database(&database, "")
        .start();
    let target = known(&pooler, database.name(), "rotated_scram");
    let mut client = Client::login(&target);
    let mut console = Client::login(&known(&pooler, "pgbouncer", ADMIN));
    console.execute("RECONNECT");
    assert_eq!(client.scalar("select 1"), "1", "the same keys open another server");
    set_password(&postgres, "rotated_scram", "scram-sha-256", "new");
    console.execute("RECONNECT");
    client.send(query("select 1"));
    let text = client.expect_closed().error().expect("a refusal").message().to_owned();
    assert_eq!(text, "server login failed: wrong password type", "no key fits");
    assert_eq!(refusal(&target), "SASL authentication failed");
    assert_works(&target.password("new"));
}

#[test]
fn a_new_process_knows_what_the_old_one_was_told() {
    let postgres = Postgres::shared();
    let database = postgres.database("told");
    let pooler = asking().database(&database, "").start();
    let mut clients: Vec<Client> = [MD5_USER, SCRAM_USER]
        .iter()
        .map(|user| Client::login(&known(&pooler, database.name(), user)))
        .collect();
    let mut former = pooler.take_over();
    former.wait_ended();
    for (client, user) in clients.iter_mut().zip([MD5_USER, SCRAM_USER]) {
        assert_eq!(client.scalar("select current_user"), user);
    }
}

#[test]
fn a_replication_link_of_who_was_asked_for() {
    let postgres = Postgres::shared();
    let database = postgres.database("replicated");
    role(&postgres, "replicator", "md5_logins", PASSWORD, "replication");
    let pooler = asking().setting("ignore_startup_parameters", "options").database(&database, "").start();
    let target = known(&pooler, database.name(), "replicator");
    let link = target.clone().param("replication", "database").param("application_name", "walreader");
    let mut link = Client::login(&link);
    assert!(link.query("IDENTIFY_SYSTEM").error().is_none());
    assert_works(&target);
}
