//! Passwords that change, here or there, and passwords that are wrong: nothing of either sticks to a pool.

use std::thread;
use std::time::{Duration, Instant};

use support::frontend::query;
use support::message::Fields;
use support::pooler::{ADMIN, Pooler};
use support::postgres::{
    Database, MD5_USER, Options, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER, Stop, USER,
};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooler, refusal};
use crate::logins::stored_secret;

const SOON: Duration = Duration::from_secs(10);
const VIOLATION: &str = "08P01";
const SASL_FAILED: &str = "SASL authentication failed";
const WRONG_TYPE: &str = "server login failed: wrong password type";

/// What a client is told whose next query finds no server.
#[track_caller]
fn end(mut client: Client) -> Fields {
    client.send(query("select 1"));
    client.expect_closed().error().expect("an error")
}

/// A role that PostgreSQL asks for SCRAM.
fn role(postgres: &Postgres, name: &str, password: &str) {
    postgres.sql(&format!("create role {name} login password '{password}' in role scram_logins"));
}

fn set_password(postgres: &Postgres, name: &str, password: &str) {
    postgres.sql(&format!("alter role {name} password '{password}'"));
}

/// The server's connections of a user end, and the pooler has noticed.
fn end_servers(database: &Database, pooler: &Pooler, user: &str) {
    let before = closed(pooler);
    let open = database.backends(user).len();
    database.postgres().sql(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}' and datname = '{}'",
        database.name()
    ));
    eventually("they are gone", SOON, || database.backends(user).is_empty());
    eventually("the pooler notices", SOON, || closed(pooler) >= before + open);
}

fn closed(pooler: &Pooler) -> usize {
    pooler.log().lines().filter(|line| line.contains(" S-") && line.contains("closing because")).count()
}

/// What the user list holds of a user.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Verifier,
}

impl Kind {
    fn secret(self, postgres: &Postgres, user: &str, password: &str) -> String {
        match self {
            Kind::Plain => password.to_owned(),
            Kind::Verifier => stored_secret(postgres, user),
        }
    }
}

/// A password is changed on the server while connections live, then in the user list: those who work go on, nobody gets
/// in with the old one, the new one works at once and not only after `server_login_retry`.
#[test]
fn a_password_is_changed() {
    let postgres = Postgres::shared();
    let database = postgres.database("rotation");
    for (kind, user) in [(Kind::Plain, "rotates_plain"), (Kind::Verifier, "rotates_verifier")] {
        role(&postgres, user, "first");
        let builder = pooler().database(&database, "").setting("auth_type", "scram-sha-256");
        let builder = builder.setting("server_login_retry", 600).secret(ADMIN, "boss");
        let mut pooler = builder.secret(user, &kind.secret(&postgres, user, "first")).start();
        let mut console = Client::login(&pooler.target("pgbouncer").user(ADMIN).password("boss"));
        let target = pooler.target(database.name()).user(user);
        let [old, new] = ["first", "second"].map(|password| target.clone().password(password));
        let mut client = Client::login(&old);
        let pid = client.backend_pid();

        set_password(&postgres, user, "second");
        assert_eq!(client.backend_pid(), pid, "{kind:?}: a connection that is open stays open");
        assert_eq!(Client::login(&old).backend_pid(), pid, "{kind:?}: it is still what the pooler knows");
        assert_eq!(refusal(&new).message(), SASL_FAILED, "{kind:?}");
        end_servers(&database, &pooler, user);
        // A new one can't be opened, and the next attempt is far away.
        let fields = end(Client::login(&old));
        match kind {
            Kind::Plain => assert!(fields.message().contains("password authentication failed"), "{fields:?}"),
            Kind::Verifier => assert_eq!(fields.code(), VIOLATION, "{fields:?}"),
        }
        let refused = format!("password authentication failed for user \"{user}\"");
        let failures = postgres.log().matches(&refused).count();
        assert!(failures <= 1, "{kind:?}: {failures} attempts");

        pooler.rewrite(|builder| builder.secret(user, &kind.secret(&postgres, user, "second")));
        console.execute("RELOAD");
        assert_eq!(refusal(&old).message(), SASL_FAILED, "{kind:?}");
        let mut fresh = Client::login(&new);
        assert_eq!(fresh.scalar("select current_user"), user, "{kind:?}");
        assert_eq!(refusal(&old).message(), SASL_FAILED, "{kind:?}: although there is a connection now");
        assert_eq!(Client::login(&new).backend_pid(), fresh.backend_pid());
        let failures_now = postgres.log().matches(&refused).count();
        assert_eq!(failures_now, failures, "{kind:?}: nothing was tried with an old secret");
    }
}

/// Keys that a login has disclosed are for the verifier that was stored then: another one makes them useless, and until
/// somebody has shown the new ones nobody logs in to the server with anything else.
#[test]
fn keys_go_with_their_verifier() {
    let postgres = Postgres::shared();
    let database = postgres.database("keys");
    let user = "keys_go";
    role(&postgres, user, "first");
    let builder = pooler().database(&database, "").setting("auth_type", "scram-sha-256");
    let builder = builder.setting("server_login_retry", 600).secret(ADMIN, "boss");
    let mut pooler = builder.secret(user, "first").start();
    let mut console = Client::login(&pooler.target("pgbouncer").user(ADMIN).password("boss"));
    let target = pooler.target(database.name()).user(user);
    let mut early = Client::login(&target.clone().password("first"));
    assert_eq!(early.scalar("select current_user"), user);

    // A plain secret becomes the verifier that the server has. What was derived from it is nobody's disclosed key.
    pooler.rewrite(|builder| builder.secret(user, &stored_secret(&postgres, user)));
    console.execute("RELOAD");
    end_servers(&database, &pooler, user);
    assert_eq!(end(early).message(), WRONG_TYPE);
    let mut shown = Client::login(&target.clone().password("first"));
    assert_eq!(shown.scalar("select current_user"), user, "at once, whatever failed before");

    // Another password: the keys of the old one are not tried.
    set_password(&postgres, user, "second");
    pooler.rewrite(|builder| builder.secret(user, &stored_secret(&postgres, user)));
    console.execute("RELOAD");
    end_servers(&database, &pooler, user);
    assert_eq!(end(shown).message(), WRONG_TYPE);
    assert_eq!(refusal(&target.clone().password("first")).message(), SASL_FAILED);
    let mut late = Client::login(&target.password("second"));
    assert_eq!(late.scalar("select current_user"), user);
    let refused = format!("password authentication failed for user \"{user}\"");
    assert_eq!(postgres.log().matches(&refused).count(), 0, "nothing wrong was tried");
}

/// Somebody mistypes, then gets it right: on a cold pool and on a warm one, by every method, and the server never hears
/// of it (bugs 80 and 82).
#[test]
fn mistyped_first() {
    let postgres = Postgres::shared();
    let database = postgres.database("mistyped");
    for (auth_type, kind) in [
        ("plain", Kind::Plain),
        ("plain", Kind::Verifier),
        ("md5", Kind::Plain),
        ("md5", Kind::Verifier),
        ("scram-sha-256", Kind::Plain),
        ("scram-sha-256", Kind::Verifier),
    ] {
        let user = format!("mistypes_{}_{kind:?}", auth_type.replace('-', "_")).to_lowercase();
        role(&postgres, &user, "right");
        let builder = pooler().database(&database, "").setting("auth_type", auth_type);
        let pooler = builder.secret(&user, &kind.secret(&postgres, &user, "right")).start();
        let target = pooler.target(database.name()).user(&user);
        for round in ["cold", "warm"] {
            for wrong in ["wrong", "Right", "right ", ""] {
                let fields = refusal(&target.clone().password(wrong));
                assert_eq!(
                    (fields.severity(), fields.code()),
                    ("FATAL", VIOLATION),
                    "{auth_type} {round} {wrong}"
                );
            }
            // A verifier opens no server unless a client has shown its keys, which a password in the clear does not.
            if (auth_type, kind) == ("plain", Kind::Verifier) {
                assert_eq!(refusal(&target.clone().password("right")).code(), VIOLATION);
                continue;
            }
            let mut client = Client::login(&target.clone().password("right"));
            assert_eq!(client.scalar("select current_user"), user, "{auth_type} {kind:?} {round}");
        }
        let refused = format!("password authentication failed for user \"{user}\"");
        assert!(!postgres.log_contains(&refused), "{auth_type} {kind:?}");
    }
}

/// Whoever the client is and however it has shown that: a forced user logs in with the database's own password, also after
/// a restart of the server and after RECONNECT (bug 79).
#[test]
fn forced_users_over_a_restart() {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("forced");
    let quoted = PASSWORD.replace('\'', "''");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    let md5 = stored_secret(&postgres, MD5_USER);
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let mut builder = pooler().setting("auth_type", auth_type).setting("default_pool_size", 1);
        for forced in [PLAIN_USER, MD5_USER, SCRAM_USER] {
            builder = builder.database_as(forced, &database, &format!("user={forced} password='{quoted}'"));
        }
        // The same names as the forced ones, with the same verifiers: their keys would fit, and are not theirs to give.
        let builder = builder.secret(SCRAM_USER, &verifier).secret(MD5_USER, &md5).secret(ADMIN, "boss");
        let pooler = builder.secret(USER, PASSWORD).start();
        let clients = match auth_type {
            "scram-sha-256" => vec![SCRAM_USER, USER],
            _ => vec![SCRAM_USER, USER, MD5_USER],
        };
        let check = |when: &str| {
            for forced in [PLAIN_USER, MD5_USER, SCRAM_USER] {
                for user in &clients {
                    let target = pooler.target(forced).user(user).password(PASSWORD);
                    assert_eq!(Client::login(&target).scalar("select current_user"), forced, "{user} {when}");
                    let wrong = refusal(&target.password("wrong"));
                    assert_eq!(wrong.code(), VIOLATION, "{user} {when}");
                }
            }
        };
        check("at first");
        let mut console = Client::login(&pooler.target("pgbouncer").user(ADMIN).password("boss"));
        console.execute("RECONNECT");
        check("after RECONNECT");
        let before = closed(&pooler);
        postgres.stop(Stop::Fast);
        postgres.start_again();
        eventually("the pooler notices", SOON, || closed(&pooler) >= before + 3);
        check("after a restart");
    }
    let mine = |line: &&str| line.contains("password authentication failed");
    assert_eq!(postgres.log().lines().filter(mine).collect::<Vec<_>>(), [""; 0]);
}

/// A database gets a forced user while keys of clients of that name are there: they are not used for it.
#[test]
fn a_user_becomes_forced() {
    let postgres = Postgres::shared();
    let database = postgres.database("becomes");
    let user = "becomes_forced";
    role(&postgres, user, "right");
    let verifier = stored_secret(&postgres, user);
    let builder = pooler().setting("auth_type", "scram-sha-256").secret(ADMIN, "boss").secret(USER, "mine");
    let mut pooler = builder.database(&database, "").secret(user, &verifier).start();
    let mut console = Client::login(&pooler.target("pgbouncer").user(ADMIN).password("boss"));
    let target = pooler.target(database.name());
    assert_eq!(
        Client::login(&target.clone().user(user).password("right")).scalar("select current_user"),
        user
    );
    let port = postgres.port();
    pooler.rewrite(|builder| {
        let name = database.name();
        let forced = format!("host=127.0.0.1 port={port} dbname={name} user={user}");
        builder.database_line(name, &forced)
    });
    console.execute("RELOAD");
    eventually("old servers go", SOON, || database.backends(user).is_empty());
    let fields = refusal(&target.password("mine"));
    assert_eq!(fields.message(), WRONG_TYPE);
}

/// The console asks for its own password, by every method, whatever else the pooler knows (bug 81).
#[test]
fn the_console_checks_passwords() {
    let postgres = Postgres::shared();
    let database = postgres.database("console");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let builder = pooler().setting("auth_type", auth_type).database(&database, "");
        let builder =
            builder.setting("admin_users", format!("{ADMIN}, {SCRAM_USER}, nobody")).secret(ADMIN, "boss");
        let pooler = builder
            .setting("stats_users", MD5_USER)
            .secret(SCRAM_USER, &verifier)
            .secret(MD5_USER, "stats")
            .start();
        let console = |user: &str, password: &str| {
            Client::try_login(&pooler.target("pgbouncer").user(user).password(password)).map(drop)
        };
        for round in ["cold", "warm"] {
            for (user, password) in [
                (ADMIN, ""),
                (ADMIN, "wrong"),
                (ADMIN, PASSWORD),
                (SCRAM_USER, ""),
                (SCRAM_USER, "boss"),
                (SCRAM_USER, verifier.as_str()),
                (MD5_USER, "boss"),
                ("nobody", ""),
                ("nobody", "boss"),
            ] {
                let refused =
                    console(user, password).expect_err(&format!("{auth_type} {round} {user} {password}"));
                let fields = refused.refusal();
                assert_eq!((fields.severity(), fields.code()), ("FATAL", VIOLATION));
                assert_ne!(fields.message(), "not allowed");
            }
            // Right, but nobody of the console.
            assert_eq!(console(USER, PASSWORD).unwrap_err().refusal().message(), "not allowed");
            for (user, password) in [(ADMIN, "boss"), (SCRAM_USER, PASSWORD), (MD5_USER, "stats")] {
                console(user, password)
                    .unwrap_or_else(|error| panic!("{auth_type} {round} {user}: {error:?}"));
            }
            // Its keys are there now, where they can be.
            if auth_type != "plain" {
                Client::login(&pooler.target(database.name()).user(SCRAM_USER).password(PASSWORD));
            }
        }
    }
}

/// Many clients, and a secret that the server does not take: it is asked once a `server_login_retry`, and with the right
/// secret at once.
#[test]
fn a_wrong_secret_does_not_storm_the_server() {
    let postgres = Postgres::shared();
    let database = postgres.database("storm");
    let user = "storms";
    role(&postgres, user, "right");
    let builder = pooler().database(&database, "").secret(user, "stale").setting("server_login_retry", 2);
    let mut pooler = builder.setting("default_pool_size", 10).start();
    let target = pooler.target(database.name()).user(user);
    let began = Instant::now();
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let target = target.clone();
            thread::spawn(move || (0..3).for_each(|_| assert_eq!(refusal(&target).severity(), "FATAL")))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("every login refused"));
    let refused = format!("password authentication failed for user \"{user}\"");
    let attempts = postgres.log().matches(&refused).count() as u64;
    // At first as many at once as a pool may dial, then one at a time.
    let most = 4 + began.elapsed().as_secs() / 2 + 1;
    assert!((1..=most).contains(&attempts), "{attempts} attempts, {most} at most");
    pooler.reload(|builder| builder.secret(user, "right").setting("server_login_retry", 600));
    assert_eq!(Client::login(&target).scalar("select current_user"), user);
}
