//! From the first byte to ReadyForQuery: start-up packets, passwords on both sides, and the parameters that follow each
//! client over shared servers. Texts and codes are PgBouncer's.

use std::thread;
use std::time::Duration;

use support::frontend::*;
use support::message::{CancelKey, Fields};
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{
    Database, MD5_USER, Options, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER, Stop, USER,
};
use support::wait::eventually;
use support::wire::{Client, LoginError, Target};

use crate::common::{pooled, pooler, refusal};
use crate::probe::{Probe, size};

const VIOLATION: &str = "08P01";
const SOON: Duration = Duration::from_secs(10);

/// A user of PostgreSQL's and its secret as the server stores it.
pub(crate) fn stored_secret(postgres: &Postgres, user: &str) -> String {
    let reply = postgres.sql(&format!("select rolpassword from pg_authid where rolname = '{user}'"));
    reply.rows()[0][0].clone().expect("a password")
}

#[track_caller]
fn assert_fatal(fields: &Fields, code: &str, text: &str) {
    assert_eq!((fields.severity(), fields.code(), fields.message()), ("FATAL", code, text));
}

// ---- clients' passwords ---------------------------------------------------------------------------------------

const WITH_PLAIN: &str = "with_plain_secret";
const WITH_MD5: &str = "with_md5_secret";
const WITH_SCRAM: &str = "with_scram_secret";
const WITH_EMPTY: &str = "with_empty_secret";
const UNKNOWN: &str = "unknown_to_all";

/// Users with each kind of secret, and `forced`, a database whose server-side user is always the same.
fn with_secrets(database: &Database, builder: PoolerBuilder) -> PoolerBuilder {
    let postgres = database.postgres();
    let quoted = PASSWORD.replace('\'', "''");
    let md5 = database.scalar(&format!("select 'md5' || md5('{quoted}{WITH_MD5}')"));
    builder
        .database_as("forced", database, &format!("user={USER}"))
        .secret(WITH_PLAIN, PASSWORD)
        .secret(WITH_MD5, &md5)
        .secret(WITH_SCRAM, &stored_secret(postgres, SCRAM_USER))
        .secret(WITH_EMPTY, "")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Given {
    Right,
    Wrong,
    Empty,
}

/// `None`: the client is let in.
fn expected(auth_type: &str, user: &str, given: Given) -> Option<&'static str> {
    let can_log_in = ![WITH_EMPTY, UNKNOWN].contains(&user);
    match (auth_type, given) {
        ("any", _) => None,
        ("trust", _) => (user == UNKNOWN).then_some("\"trust\" authentication failed"),
        ("plain", Given::Empty) => Some("empty password returned by client"),
        ("plain" | "md5", Given::Right) if can_log_in => None,
        ("scram-sha-256", Given::Right) if can_log_in && user != WITH_MD5 => None,
        ("scram-sha-256", _) => Some("SASL authentication failed"),
        ("md5", _) if user == WITH_SCRAM => Some("SASL authentication failed"),
        _ => Some("password authentication failed"),
    }
}

#[test]
fn every_method_with_every_kind_of_secret() {
    let database = Postgres::shared().database("secrets");
    for auth_type in ["any", "trust", "plain", "md5", "scram-sha-256"] {
        let pooler = with_secrets(&database, pooler()).setting("auth_type", auth_type).start();
        for user in [WITH_PLAIN, WITH_MD5, WITH_SCRAM, WITH_EMPTY, UNKNOWN] {
            for (given, password) in
                [(Given::Right, PASSWORD), (Given::Wrong, "open sesame"), (Given::Empty, "")]
            {
                let target = pooler.target("forced").user(user).password(password);
                let what = format!("{auth_type}, {user}, {given:?}");
                match (Client::try_login(&target), expected(auth_type, user, given)) {
                    (Ok(mut client), None) => {
                        assert_eq!(client.scalar("select current_user"), USER, "{what}")
                    }
                    (Err(LoginError::Refused(fields)), Some(text)) => {
                        assert_eq!((fields.severity(), fields.code()), ("FATAL", VIOLATION), "{what}");
                        assert_eq!(fields.message(), text, "{what}");
                    }
                    (outcome, expected) => panic!("{what}: {outcome:?} instead of {expected:?}"),
                }
            }
        }
    }
}

/// `any` lets everybody in as the user that the database names, and nobody where it names none.
#[test]
fn any_needs_a_forced_user() {
    let database = Postgres::shared().database("any");
    let pooler =
        with_secrets(&database, pooler()).database(&database, "").setting("auth_type", "any").start();
    let fields = refusal(&pooler.target(database.name()));
    assert_fatal(&fields, VIOLATION, "bouncer config error");
}

/// A bad password wins over everything else that is wrong; only who has logged in learns of databases.
#[test]
fn unknown_databases_are_told_after_the_password() {
    let database = Postgres::shared().database("known");
    let pooler = with_secrets(&database, pooler()).setting("auth_type", "scram-sha-256").start();
    let target = pooler.target("no_such_database").user(WITH_PLAIN);
    let fields = refusal(&target.clone().password("wrong"));
    assert_fatal(&fields, VIOLATION, "SASL authentication failed");
    let fields = refusal(&target.clone().password(PASSWORD));
    assert_fatal(&fields, VIOLATION, "no such database: no_such_database");
    let long = "d".repeat(100);
    let fields = refusal(&target.database(&long).password(PASSWORD));
    assert_fatal(&fields, VIOLATION, &format!("no such database: {}", &long[..63]));
}

/// A connection that somebody else has opened proves nothing about who comes next (bug 82: proxysql#5944).
#[test]
fn a_warm_pool_satisfies_no_wrong_password() {
    let database = Postgres::shared().database("warm");
    let verifier = stored_secret(&Postgres::shared(), SCRAM_USER);
    for (auth_type, user, secret) in [
        ("plain", PLAIN_USER, PASSWORD),
        ("md5", MD5_USER, PASSWORD),
        ("scram-sha-256", SCRAM_USER, PASSWORD),
        ("scram-sha-256", SCRAM_USER, verifier.as_str()),
    ] {
        let builder = pooler().database(&database, "").setting("auth_type", auth_type).secret(user, secret);
        let pooler = builder.start();
        let target = pooler.target(database.name()).user(user);
        for password in ["wrong", "", "open 'sesame' ", "open 'sesame"] {
            let mut warm = Client::login(&target.clone().password(PASSWORD));
            assert_eq!(warm.scalar("select current_user"), user);
            assert_eq!(refusal(&target.clone().password(password)).code(), VIOLATION);
            assert_eq!(warm.scalar("select current_user"), user);
        }
    }
}

struct Challenge {
    nonce: String,
    salt: String,
    iterations: String,
}

/// Begins a SCRAM login and breaks it off.
#[track_caller]
fn challenge(pooler: &Pooler, user: &str) -> Challenge {
    const NONCE: &str = "abcdefghijklmnopqrstuvwx";
    let mut client = Client::open(&pooler.address());
    client.send(pooler.target("forced").user(user).startup());
    assert_eq!(client.expect(b'R').body, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    client.send(sasl_initial("SCRAM-SHA-256", format!("n,,n=,r={NONCE}").as_bytes()));
    let body = client.expect(b'R').body;
    let text = String::from_utf8(body[4..].to_vec()).expect("text");
    let parts: Vec<&str> = text.split(',').collect();
    let [nonce, salt, iterations] = parts[..] else { panic!("{text}") };
    let own = nonce.strip_prefix(&format!("r={NONCE}")).expect("the client's nonce first");
    Challenge { nonce: own.into(), salt: salt.into(), iterations: iterations.into() }
}

/// Who does not exist is asked for a password like everybody else, and always with the same salt: nobody can find out
/// who exists without a password.
#[test]
fn unknown_users_get_a_challenge() {
    let database = Postgres::shared().database("challenge");
    let builder = with_secrets(&database, pooler()).setting("auth_type", "scram-sha-256");
    let pooler = builder.start();
    let known = [WITH_PLAIN, WITH_SCRAM, WITH_MD5, WITH_EMPTY];
    for user in
        known.into_iter().chain([UNKNOWN, "unknown_2", ""].into_iter().filter(|user| !user.is_empty()))
    {
        let [first, second] = [challenge(&pooler, user), challenge(&pooler, user)];
        assert_eq!(first.salt, second.salt, "{user}");
        assert_eq!(first.salt.len(), "s=".len() + 24, "16 bytes for {user}");
        assert_eq!((first.iterations.as_str(), second.iterations.as_str()), ("i=4096", "i=4096"));
        assert_ne!(first.nonce, second.nonce);
        assert_eq!(first.nonce.len(), second.nonce.len());
    }
    assert_ne!(challenge(&pooler, UNKNOWN).salt, challenge(&pooler, "unknown_2").salt);

    let pooler = with_secrets(&database, self::pooler()).setting("auth_type", "md5").start();
    for user in [WITH_PLAIN, WITH_MD5, WITH_EMPTY, UNKNOWN] {
        let mut client = Client::open(&pooler.address());
        client.send(pooler.target("forced").user(user).startup());
        let body = client.expect(b'R').body;
        assert_eq!((body.len(), &body[..4]), (8, &b"\0\0\0\x05"[..]), "{user}");
    }
}

/// Messages that no client sends in a login.
#[test]
fn malformed_answers_to_a_challenge() {
    let database = Postgres::shared().database("malformed");
    let scram = with_secrets(&database, pooler()).setting("auth_type", "scram-sha-256").start();
    let answers: [(Vec<u8>, &str); 9] = [
        (
            sasl_initial("SCRAM-SHA-256-PLUS", b"n,,n=,r=abc"),
            "client selected an invalid SASL authentication mechanism",
        ),
        (sasl_initial("", b""), "client selected an invalid SASL authentication mechanism"),
        (sasl_initial("SCRAM-SHA-256", b"p=tls-unique,,n=,r=abc"), "SASL authentication failed"),
        (sasl_initial("SCRAM-SHA-256", b"n,,n=,r="), "SASL authentication failed"),
        (sasl_initial("SCRAM-SHA-256", b"n,a=admin,n=,r=abc"), "SASL authentication failed"),
        (sasl_initial("SCRAM-SHA-256", b""), "SASL authentication failed"),
        (sasl_initial("SCRAM-SHA-256", &[0xff; 200]), "SASL authentication failed"),
        (password("no SASL message at all"), "SASL authentication failed"),
        (raw(b'p', b""), "SASL authentication failed"),
    ];
    for (answer, text) in answers {
        let mut client = Client::open(&scram.address());
        client.send(scram.target("forced").user(WITH_PLAIN).startup());
        client.expect(b'R');
        client.send(&answer);
        let reply = client.expect_closed();
        assert_eq!(reply.error().map(|e| e.message().to_string()).as_deref(), Some(text), "{reply:?}");
    }
    // A proof without, or with the wrong, end.
    for last in ["", "c=biws,r=x", "c=biws,r=x,p=", "c=biws,r=x,p=AAAA", "p=", "c=,r=,p=!"] {
        let mut client = Client::open(&scram.address());
        client.send(scram.target("forced").user(WITH_PLAIN).startup());
        client.expect(b'R');
        client.send(sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc"));
        client.expect(b'R');
        client.send(sasl_response(last.as_bytes()));
        let reply = client.expect_closed();
        assert_eq!(reply.error().expect("an error").message(), "SASL authentication failed", "{last}");
    }
    // Queries instead of an answer: closed without a word.
    let mut client = Client::open(&scram.address());
    client.send(scram.target("forced").user(WITH_PLAIN).startup());
    client.expect(b'R');
    client.send(query("select 1"));
    assert_eq!(client.expect_closed().tags(), "");
}

// ---- servers' passwords ---------------------------------------------------------------------------------------

/// What the pooler can answer with each kind of secret to each method of the server.
#[test]
fn every_method_of_the_server_with_every_kind_of_secret() {
    let postgres = Postgres::shared();
    let database = postgres.database("server_methods");
    let scram = stored_secret(&postgres, SCRAM_USER);
    let md5 = stored_secret(&postgres, MD5_USER);
    let wrong_type = "server login failed: wrong password type";
    let cases = [
        (PLAIN_USER, PASSWORD, None),
        (PLAIN_USER, &md5, Some(wrong_type)),
        (PLAIN_USER, &scram, Some(wrong_type)),
        (MD5_USER, PASSWORD, None),
        (MD5_USER, &md5, None),
        (MD5_USER, &scram, Some(wrong_type)),
        (SCRAM_USER, PASSWORD, None),
        (SCRAM_USER, &md5, Some(wrong_type)),
        (SCRAM_USER, &scram, Some(wrong_type)), // nobody has shown the keys
        (USER, PASSWORD, None),
        (USER, &md5, None),
        (USER, "", None),
    ];
    for (user, secret, refused) in cases {
        let pooler = pooler().database(&database, "").secret(user, secret).start();
        let target = pooler.target(database.name()).user(user);
        match refused {
            None => assert_eq!(Client::login(&target).scalar("select current_user"), user),
            Some(text) => assert_fatal(&refusal(&target), VIOLATION, text),
        }
    }
    // The server's own words and code, for those who wait and for those who come later.
    for user in [PLAIN_USER, MD5_USER, SCRAM_USER] {
        let builder =
            pooler().database(&database, "").secret(user, "wrong").setting("server_login_retry", 60);
        let pooler = builder.start();
        let target = pooler.target(database.name()).user(user);
        let text = format!("password authentication failed for user \"{user}\"");
        assert_fatal(&refusal(&target), "28P01", &text);
    }
}

/// The password of a forced user comes from the database's line, and no client's SCRAM keys take its place
/// (bug 79: pgbouncer#1612, #1504).
#[test]
fn forced_users() {
    let postgres = Postgres::shared();
    let database = postgres.database("forced");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    let password = PASSWORD.replace('\'', "''");
    let forced = format!("user={SCRAM_USER} password='{password}'");
    let pooler = pooler()
        .setting("auth_type", "scram-sha-256")
        .database_as("with_password", &database, &forced)
        .database_as("without", &database, &format!("user={SCRAM_USER}"))
        .secret(WITH_SCRAM, &verifier)
        .secret(SCRAM_USER, &verifier)
        .start();
    for user in [WITH_SCRAM, SCRAM_USER, WITH_SCRAM] {
        let target = pooler.target("with_password").user(user).password(PASSWORD);
        assert_eq!(Client::login(&target).scalar("select current_user"), SCRAM_USER);
        let end = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{SCRAM_USER}' \
                           and datname = '{}'",
            database.name()
        );
        postgres.sql(&end);
        eventually("it is gone", SOON, || database.backends(SCRAM_USER).is_empty());
        // A verifier is nothing to log in with, whoever's keys it would fit.
        let fields = refusal(&target.database("without"));
        let text = "server login failed: wrong password type";
        let known = fields.message() == text || fields.message().contains("server login has been failing");
        assert!(known && fields.code() == VIOLATION, "{fields:?}");
    }
}

/// The same verifier on both sides: what a client shows in its login opens the server, also after a restart of the
/// server, and not before anybody has logged in.
#[test]
fn scram_keys_are_passed_through() {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("through");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    for auth_type in ["scram-sha-256", "md5"] {
        let builder = pooler().database(&database, "").setting("auth_type", auth_type);
        let pooler = builder.secret(SCRAM_USER, &verifier).start();
        let target = pooler.target(database.name()).user(SCRAM_USER).password(PASSWORD);
        let mut client = Client::login(&target);
        assert_eq!(client.scalar("select current_user"), SCRAM_USER);
        assert_eq!(refusal(&target.clone().password("wrong")).message(), "SASL authentication failed");
        postgres.stop(Stop::Fast);
        postgres.start_again();
        // The connection died idle, so the client does not notice; only the pooler logs in again.
        eventually("the pooler notices", SOON, || {
            pooler.log().lines().any(|line| line.contains(" S-") && line.contains("closing because"))
        });
        assert_eq!(client.scalar("select current_user"), SCRAM_USER);
        assert_eq!(Client::login(&target).scalar("select current_user"), SCRAM_USER);
    }
}

/// Deriving keys from plain secrets takes milliseconds of processor time for each user: the queries of others may not
/// wait for that (bug 65: pgbouncer#660, #1054, #1563).
#[test]
fn logins_do_not_stall_queries() {
    let users = size("CHAOS_SCRAM_USERS", 100);
    let database = Postgres::shared().database("stall");
    let builder =
        pooler().database(&database, &format!("user={USER}")).database_as("forced", &database, "user=app");
    let builder = (0..users).fold(builder, |builder, n| builder.secret(&format!("user_{n}"), "secret"));
    let builder = builder.setting("auth_type", "scram-sha-256").secret(USER, "secret");
    let pooler = builder.setting("max_client_conn", users + 10).start();
    let bystander = pooler.target(database.name()).password("secret");

    let calm = Probe::start(&bystander, "select 1", Duration::from_millis(1));
    thread::sleep(Duration::from_millis(500));
    let calm = calm.finish();
    let busy = Probe::start(&bystander, "select 1", Duration::from_millis(1));
    let before = pooler.cpu_time();
    // All at once; what the clients themselves would have to compute is left out.
    let mut clients: Vec<Client> = (0..users)
        .map(|n| {
            let mut client = Client::open(&pooler.address());
            client.send(pooler.target("forced").user(&format!("user_{n}")).startup());
            client
        })
        .collect();
    for client in &mut clients {
        client.peer().stream().set_read_timeout(Duration::from_secs(60)).unwrap();
        client.expect(b'R');
    }
    let busy = busy.finish();
    println!("without logins: {}", calm.summary());
    let taken = pooler.cpu_time() - before;
    println!("with {users} logins, {:.1?} of processor time each: {}", taken / users as u32, busy.summary());
    let limit = calm.quantile(0.99) * 2 + Duration::from_millis(40);
    assert!(busy.quantile(0.99) < limit, "p99 {:?}, allowed {limit:?}", busy.quantile(0.99));
}

// ---- start-up packets -----------------------------------------------------------------------------------------

fn app() -> (Database, Pooler) {
    let database = Postgres::shared().database("startup");
    let line = format!("host=127.0.0.1 port={} dbname={}", database.postgres().port(), database.name());
    let builder = pooler().database_line("app", &line).setting("default_pool_size", 1);
    (database, builder.setting("ignore_startup_parameters", "extra_float_digits, search_path").start())
}

/// A login over a connection on which something was said before.
#[track_caller]
fn finish_login(mut client: Client, pooler: &Pooler) -> Client {
    let target = pooler.target("app");
    client.send(target.startup());
    client.finish_login(&target).expect("a login");
    assert_eq!(client.scalar("select 1"), "1");
    client
}

#[test]
fn encryption_is_declined() {
    let (_database, pooler) = app();
    for address in [pooler.address(), pooler.unix_address()] {
        let mut client = Client::open(&address);
        for request in [ssl_request(), gssenc_request(), gssenc_request(), ssl_request(), ssl_request()] {
            client.send(request);
            assert_eq!(client.peer().read_bytes(1).expect("an answer"), b"N");
        }
        finish_login(client, &pooler);
    }
    // Bytes that came before the answer would be an attacker's, were the rest encrypted.
    for (request, text) in [
        (ssl_request(), "received unencrypted data after SSL request"),
        (gssenc_request(), "received unencrypted data after GSSAPI encryption request"),
    ] {
        let mut client = Client::open(&pooler.address());
        client.send([request, pooler.target("app").startup()].concat());
        let reply = client.expect_closed();
        assert_fatal(&reply.error().expect("an error"), VIOLATION, text);
    }
}

/// Newer protocols and extensions are negotiated down, once, before anything else is said.
#[test]
fn protocol_versions() {
    let (_database, pooler) = app();
    let login = |target: Target| Client::login(&target);
    let none: [u8; 8] = [0, 3, 0, 0, 0, 0, 0, 0];
    for version in [VERSION_3_2, 3 << 16 | 1, 3 << 16 | 9999] {
        let client = login(Target { version, ..pooler.target("app") });
        assert_eq!(client.greeting[0].tag, b'v');
        assert_eq!(client.greeting[0].body, none);
        assert_eq!(client.greeting.iter().filter(|message| message.tag == b'v').count(), 1);
        let CancelKey { secret, .. } = client.key.clone().expect("a key");
        assert_eq!(secret.len(), 4, "the key of protocol 3.0");
    }
    let extended = pooler.target("app").param("_pq_.first", "1").param("_pq_.second", "");
    for version in [VERSION_3_0, VERSION_3_2] {
        let mut client = login(Target { version, ..extended.clone() });
        let body = [&[0, 3, 0, 0, 0, 0, 0, 2][..], b"_pq_.first\0_pq_.second\0"].concat();
        assert_eq!(client.greeting[0].body, body);
        assert_eq!(client.scalar("select 1"), "1");
    }
    assert!(login(pooler.target("app")).greeting.iter().all(|message| message.tag != b'v'));

    for version in [2 << 16, 2 << 16 | 7] {
        let fields = refusal(&Target { version, ..pooler.target("app") });
        assert_fatal(&fields, VIOLATION, "old V2 protocol not supported");
    }
    for version in [0, 1 << 16, 4 << 16, u32::MAX] {
        let target = Target { version, ..pooler.target("app") };
        let head = target.startup()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_fatal(&refusal(&target), VIOLATION, &format!("bad packet header: '{head}'"));
    }
}

#[test]
fn malformed_startup_packets() {
    let (_database, pooler) = app();
    let packet = |body: &[u8]| {
        let mut packet = ((body.len() + 8) as u32).to_be_bytes().to_vec();
        packet.extend(VERSION_3_0.to_be_bytes());
        packet.extend(body);
        packet
    };
    let layout = "invalid startup packet layout: expected terminator as last byte";
    let long = format!("user\0{}\0database\0app\0\0", "u".repeat(128));
    let cases: [(Vec<u8>, &str); 14] = [
        (packet(b"\0"), "no username supplied"),
        (packet(b""), layout),
        (packet(b"user\0app"), layout),
        (packet(b"user\0app\0"), layout),
        (packet(b"user\0app\0database"), layout),
        (packet(b"user\0app\0database\0app\0\0\0"), layout),
        (packet(b"user\0app\0database\0app\0\0more"), layout),
        (packet(b"database\0app\0\0"), "no username supplied"),
        (packet(b"user\0\0database\0app\0\0"), "no username supplied"),
        (packet(long.as_bytes()), "username too long"),
        (password("secret"), "client password pkt before startup packet"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "bad packet header: '474554202f204854'"),
        (b"\0\0\0\x07\0\x03\0\0".to_vec(), "bad packet header: '0000000700030000'"),
        (b"\0\x01\0\x01\0\x03\0\0".to_vec(), "bad packet header: '0001000100030000'"),
    ];
    for (bytes, text) in cases {
        let mut client = Client::open(&pooler.address());
        client.send(&bytes);
        let reply = client.expect_closed();
        assert_fatal(&reply.error().unwrap_or_else(|| panic!("{text}: {reply:?}")), VIOLATION, text);
    }
    for message in [query("select 1"), sync(), terminate()] {
        let mut client = Client::open(&pooler.address());
        client.send(message);
        assert_eq!(client.expect_closed().tags(), "");
    }
}

#[test]
fn startup_packets_that_are_unusual_and_right() {
    let (database, pooler) = app();
    let plain = pooler.target("app");
    // As large as they may be, and in small pieces.
    let large = plain.clone().param("search_path", &"x".repeat(64_000)).startup();
    assert!(large.len() < 1 << 16);
    let mut client = Client::open(&pooler.address());
    client.send(&large);
    client.finish_login(&plain).expect("a login");
    let mut client = Client::open(&pooler.address());
    let bytes = plain.startup();
    client.peer().send_split(&bytes, &(1..bytes.len()).step_by(3).collect::<Vec<_>>()).unwrap();
    client.finish_login(&plain).expect("a login");
    // The user's name is the database's where none is named.
    for params in [&[("user", "app")][..], &[("user", "app"), ("database", "")]] {
        let mut client = Client::open(&pooler.address());
        client.send(startup(VERSION_3_0, params));
        client.finish_login(&plain).expect("a login");
        assert_eq!(client.scalar("select current_database()"), database.name());
    }
    // What is ignored, names in any case, a value given twice, and a `replication` that says nothing.
    let target = plain
        .param("extra_float_digits", "3")
        .param("TIMEZONE", "Europe/Oslo")
        .param("Application_Name", "first")
        .param("application_name", "second")
        .param("replication", "perhaps");
    let mut client = Client::login(&target);
    assert_eq!(client.scalar("show timezone"), "Europe/Oslo");
    assert_eq!(client.scalar("show application_name"), "second");
    // Queries in the same packet as the start-up.
    let mut client = Client::open(&pooler.address());
    client.send([target.startup(), query("select 'at once'"), query("select 'and again'")].concat());
    client.finish_login(&target).expect("a login");
    assert_eq!(client.read_until_ready().rows(), [[Some("at once".to_string())]]);
    assert_eq!(client.read_until_ready().rows(), [[Some("and again".to_string())]]);
}

/// Where session state stays with servers, only parameters that are tracked can be given.
#[test]
fn parameters_that_are_not_tracked() {
    let database = Postgres::shared().database("untracked");
    let pooler = pooler().database(&database, "").setting("session_state", "discard").start();
    let plain = pooler.target(database.name());
    let fields = refusal(&plain.clone().param("work_mem", "1MB"));
    assert_fatal(&fields, VIOLATION, "unsupported startup parameter: work_mem");
    let fields = refusal(&plain.clone().param("options", "-c TimeZone=UTC -c work_mem=1MB"));
    assert_fatal(&fields, VIOLATION, "unsupported startup parameter in options: work_mem");
}

#[test]
fn options() {
    let (_database, pooler) = app();
    let plain = pooler.target("app");
    let good = [
        "-c TimeZone=Asia/Tokyo",
        "-cTimeZone=Asia/Tokyo",
        "--TimeZone=Asia/Tokyo",
        "--timezone=Asia/Tokyo -c search_path=nowhere",
        "  -c   DateStyle=SQL,\\ DMY\t-c TimeZone=Asia/Tokyo ",
        "-c extra-float-digits=1 -c TimeZone=UTC -c TimeZone=Asia/Tokyo",
        "-c TimeZone=Asia\\/Tokyo",
    ];
    for options in good {
        let mut client = Client::login(&plain.clone().param("options", options));
        assert_eq!(client.scalar("show timezone"), "Asia/Tokyo", "{options}");
        if options.contains("DMY") {
            assert_eq!(client.scalar("show datestyle"), "SQL, DMY");
        }
    }
    let form = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    for options in ["-c", "-c TimeZone", "-d 5", "TimeZone=UTC", "-c TimeZone=UTC -B 7", "--TimeZone"] {
        assert_fatal(&refusal(&plain.clone().param("options", options)), VIOLATION, form);
    }

    let database = Postgres::shared().database("options");
    let builder = self::pooler().database(&database, "").setting("ignore_startup_parameters", "options");
    let lenient = builder.start();
    let target = lenient.target(database.name()).param("options", "-c work_mem=1MB -c TimeZone=Asia/Tokyo");
    let mut client = Client::login(&target);
    assert_eq!(client.scalar("show timezone"), "Asia/Tokyo");
    assert_eq!(client.scalar("show work_mem"), "4MB");
}

// ---- parameters -----------------------------------------------------------------------------------------------

/// Clients with different parameters on one server: each sees its own, whoever was served in between.
#[test]
fn each_client_has_its_own_parameters() {
    let pooled = pooled("", |builder| {
        builder.setting("track_extra_parameters", "IntervalStyle, default_transaction_read_only")
    });
    let values = [
        ("DateStyle", ["German, DMY", "ISO, MDY", "SQL, DMY"]),
        ("client_encoding", ["LATIN1", "UTF8", "SQL_ASCII"]),
        ("TimeZone", ["Asia/Tokyo", "Europe/Rome", "UTC"]),
        ("standard_conforming_strings", ["on", "off", "on"]),
        ("application_name", ["first", "", "third"]),
        ("IntervalStyle", ["iso_8601", "postgres", "sql_standard"]),
        ("default_transaction_read_only", ["off", "on", "off"]),
    ];
    let login = |place: usize| {
        let params = values.iter().map(|(name, values)| (name.to_string(), values[place].to_string()));
        Client::login(&Target { params: params.collect(), ..pooled.target() })
    };
    let mut clients: Vec<Client> = (0..values[0].1.len()).map(login).collect();
    let pid = clients[0].backend_pid();
    for round in 0..3 {
        for (place, client) in clients.iter_mut().enumerate() {
            for (name, values) in &values {
                assert_eq!(client.params[*name], values[place], "{name} of client {place} as it was told");
                assert_eq!(client.scalar(&format!("show {name}")), values[place], "{name}, round {round}");
            }
        }
    }
    // Changes follow too: at once, at the end of a transaction, and not if it is rolled back.
    clients[0].execute("set application_name = 'changed'; set timezone = 'Africa/Cairo'");
    clients[1].execute("begin; set application_name = 'rolled back'; rollback");
    clients[2].execute("begin; set local application_name = 'local'; commit");
    for _ in 0..2 {
        assert_eq!(clients[0].scalar("show application_name"), "changed");
        assert_eq!(clients[1].scalar("show application_name"), "");
        assert_eq!(clients[2].scalar("show application_name"), "third");
        assert_eq!(clients[0].scalar("show timezone"), "Africa/Cairo");
    }
    assert_eq!(clients[0].backend_pid(), pid, "all on one server");
    let told = clients.iter().all(|client| client.params["application_name"] != "local");
    assert!(told, "a value that the client no longer has");
}

/// Any value arrives as it was given, and nothing in it is run.
#[test]
fn values_that_need_quoting() {
    let pooled = pooled("create table victim (id int)", |builder| builder);
    let mut other = pooled.connect();
    let values = [
        "it's",
        "'; drop table victim; --",
        r"\",
        r"\'; drop table victim; --",
        r"a\\b",
        "E'x'",
        "$$;drop table victim;$$",
        "\"quoted\"",
        " blanks ",
        "",
        "tab\tand % and :name and ?",
        &"x".repeat(63),
    ];
    for scs in ["on", "off"] {
        for value in values {
            let target = pooled.target().param("application_name", value);
            let mut client = Client::login(&target.param("standard_conforming_strings", scs));
            assert_eq!(client.scalar("show standard_conforming_strings"), scs);
            for _ in 0..2 {
                assert_eq!(other.scalar("show application_name"), "");
                assert_eq!(client.scalar("show application_name"), value.replace('\t', "?"));
            }
        }
    }
    // PostgreSQL cuts long names.
    let mut client = Client::login(&pooled.target().param("application_name", &"x".repeat(200)));
    assert_eq!(client.scalar("show application_name"), "x".repeat(63));
    assert_eq!(other.scalar("select count(*) from victim"), "0");
}

/// A parameter that the server does not accept ends the session of the client that has it; the failed SET is nobody
/// else's, and the server is in order (bug 3: pgdog#876, #887).
#[test]
fn a_parameter_that_is_refused() {
    let pooled = pooled("create table t (id int)", |builder| builder);
    let mut other = pooled.connect();
    let pid = other.backend_pid();
    let extended = [parse("", "insert into t values (1)", &[]), bind("", "", &[]), execute("", 0), sync()];
    for request in [query("insert into t values (1)"), extended.concat()] {
        for _ in 0..2 {
            let target = pooled.target().param("application_name", "mine").param("TimeZone", "No/Where");
            let mut client = Client::login(&target);
            client.send([request.clone(), query("insert into t values (2)")].concat());
            let reply = client.expect_closed();
            assert_eq!(reply.tags(), "E", "{reply:?}");
            let direct =
                Client::try_login(&Target { address: pooled.database.target().address, ..target.clone() });
            let direct = direct.map(drop).map_err(LoginError::refusal).expect_err("a refused login");
            assert_fatal(&direct, "22023", "invalid value for parameter \"TimeZone\": \"No/Where\"");
            let told = reply.error().expect("an error");
            assert_fatal(&told, direct.code(), direct.message());
            assert_eq!(
                [b'D', b'H'].map(|field| told.get(field)),
                [b'D', b'H'].map(|field| direct.get(field))
            );
            assert_eq!(other.scalar("select count(*) from t"), "0", "the request was run all the same");
            assert_eq!(other.scalar("show application_name"), "");
        }
    }
    assert_eq!(other.backend_pid(), pid, "the server is kept");
}

/// What one database accepts another may refuse. Values that a server of the first pool has accepted were set in front
/// of a query of the second in the same write: the SET failed, the query ran without it and stored text in the wrong
/// encoding.
#[test]
fn a_parameter_that_only_another_database_accepts() {
    let postgres = Postgres::shared();
    let utf8 = postgres.database("utf8");
    postgres.sql("create database euc_jp encoding 'EUC_JP' template template0 owner app");
    let euc_jp = format!("host=127.0.0.1 port={} dbname=euc_jp", postgres.port());
    let builder = pooler().database(&utf8, "").database_line("euc_jp", &euc_jp);
    let pooler = builder.setting("default_pool_size", 1).start();
    let mut owner = pooler.connect("euc_jp");
    owner.execute("create table t (v text)");
    for _ in 0..2 {
        let mut accepted = Client::login(&pooler.target(utf8.name()).param("client_encoding", "LATIN1"));
        assert_eq!(accepted.scalar("show client_encoding"), "LATIN1");
        let mut refused = Client::login(&pooler.target("euc_jp").param("client_encoding", "LATIN1"));
        refused.send(query("insert into t values ('\u{e9}')"));
        let reply = refused.expect_closed();
        let told = reply.error().expect("an error");
        assert_fatal(&told, "0A000", "invalid value for parameter \"client_encoding\": \"LATIN1\"");
        assert_eq!(owner.scalar("select count(*) from t"), "0", "it ran without its encoding");
    }
    drop((owner, pooler));
    postgres.sql("drop database euc_jp with (force)");
}

#[test]
fn the_clients_address_in_its_application_name() {
    let pooled = pooled("", |builder| builder.setting("application_name_add_host", 1));
    let shown = |mut client: Client| client.scalar("show application_name");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    let (host, port) = (host.trim(), pooled.pooler.port());

    let mut client = Client::login(&pooled.target().param("application_name", "mine"));
    let local = match client.peer().stream() {
        support::peer::Stream::Tcp(tcp) => tcp.local_addr().expect("an address"),
        _ => panic!("not TCP"),
    };
    assert_eq!(client.params["application_name"], format!("mine - {local}"));
    assert_eq!(shown(client), format!("mine - {local}"));
    let unnamed = pooled.connect();
    assert!(unnamed.params["application_name"].starts_with("app - 127.0.0.1:"));

    let unix = Target { address: pooled.pooler.unix_address(), ..pooled.target() };
    let pid = std::process::id();
    assert_eq!(shown(Client::login(&unix)), format!("app - unix({pid}@{host}):{port}"));
    // What a client sets later is what it wanted.
    let mut client = Client::login(&unix);
    client.execute("set application_name = 'plain'");
    assert_eq!(shown(client), "plain");
}
