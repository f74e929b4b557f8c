//! Secrets: where they may stand, that a reload takes a new one, and that nothing tells them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::frontend::{password, query};
use support::pooler::{ADMIN, Pooler, StartError};
use support::postgres::{MD5_USER, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER, USER};
use support::scratch::Scratch;
use support::wire::{Client, LoginError};

use crate::common::pooler;
use crate::http::page;
use crate::logins::stored_secret;

/// Everything that the console shows.
const SHOWN: [&str; 27] = [
    "ACTIVE_SOCKETS",
    "ADVICE",
    "BLOCKERS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "EVENTS",
    "FDS",
    "HBA",
    "HELP",
    "HOSTS",
    "LATENCY",
    "LISTS",
    "MEM",
    "PEERS",
    "PINS",
    "POOLS",
    "QUERIES",
    "ROUTING",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "TOTALS",
    "USERS",
    "WAITING",
];

fn secret_file(scratch: &Scratch, name: &str, secret: &str) -> PathBuf {
    scratch.write(name, secret);
    scratch.path().join(name)
}

fn as_admin(pooler: &Pooler) -> Client {
    Client::login(&pooler.target("pgbouncer").user(ADMIN).password("boss-0secret"))
}

/// A session with all that can be logged, with right and wrong passwords: no secret appears anywhere.
#[test]
fn nothing_tells_a_secret() {
    let postgres = Postgres::shared();
    let database = postgres.database("hush");
    let user = "hush_user";
    postgres.sql(&format!("create role {user} login password 'forced-0secret' in role scram_logins"));
    let scratch = Scratch::new("secrets");
    let file = secret_file(&scratch, "password", "forced-0secret\n");
    let verifier = stored_secret(&postgres, SCRAM_USER);
    let md5 = stored_secret(&postgres, MD5_USER);
    let mut pooler = pooler()
        .setting("auth_type", "plain")
        .setting("verbose", 3)
        .setting("http_listen", "127.0.0.1:0")
        .setting("http_admin_token", "%{HUSH_TOKEN}")
        .setting("auth_ldap_options", "ldapurl=\"ldap://x\" ldapbindpasswd=\"ldap-0secret\"")
        .setting("auth_hba_file", "{dir}/hba")
        .beside("hba", "host all ann all ldap ldapserver=x ldapbasedn=x ldapbindpasswd=rule-0secret\nhost all all all md5\n")
        .env("HUSH_TOKEN", "token-0secret-0123456789")
        .env("HUSH_PASSWORD", "forced-0secret")
        .database(&database, "")
        .database_as("literal", &database, &format!("user={user} password=forced-0secret"))
        .database_as("variable", &database, &format!("user={user} password=%{{HUSH_PASSWORD}}"))
        .database_as("file", &database, &format!("user={user} password_file={}", file.display()))
        .secret(ADMIN, "boss-0secret")
        .secret(USER, "plain-0secret")
        .secret(PLAIN_USER, PASSWORD)
        .secret(SCRAM_USER, &verifier)
        .secret(MD5_USER, &md5)
        .start();
    let mut told = String::new();
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        pooler.rewrite(|builder| builder.setting("auth_type", auth_type));
        as_admin(&pooler).execute("RELOAD");
        for name in ["literal", "variable", "file"] {
            let target = pooler.target(name).password("plain-0secret");
            assert_eq!(Client::login(&target).scalar("select current_user"), user, "{auth_type} {name}");
            match Client::try_login(&target.password("typed-0secret")) {
                Err(LoginError::Refused(fields)) => told.push_str(fields.message()),
                other => panic!("{other:?}"),
            }
        }
        if auth_type != "scram-sha-256" {
            Client::login(&pooler.target(database.name()).user(MD5_USER).password(PASSWORD));
        }
        if auth_type != "plain" {
            Client::login(&pooler.target(database.name()).user(SCRAM_USER).password(PASSWORD));
        }
    }
    // A password where none is expected, and half of one.
    let mut client = Client::open(&pooler.address());
    client.send(password("stray-0secret"));
    client.expect_closed();
    let mut client = Client::open(&pooler.address());
    client.send(pooler.target("literal").startup());
    client.expect(b'R');
    client.send(password("stray-0secret\0more"));
    client.expect_closed();
    // A reload that changes each of them, with its plan.
    let mut admin = as_admin(&pooler);
    pooler.rewrite(|builder| {
        let builder = builder.setting("auth_type", "hba").secret(USER, "other-0secret");
        builder.setting("http_admin_token", "other-0secret-0123456789")
    });
    for command in ["RELOAD_PLAN", "RELOAD"]
        .into_iter()
        .map(str::to_owned)
        .chain(SHOWN.map(|name| format!("SHOW {name}")))
    {
        admin.send(query(&command));
        told.push_str(&format!("{:?}", admin.read_until_ready()));
    }
    for path in ["/metrics", "/api/state", "/"] {
        told.push_str(&page(&pooler, path));
    }
    told.push_str(&pooler.log());
    told.push_str(&pooler.stderr());
    assert!(
        ["login attempt: db=literal", "http_admin_token", "ldapbindpasswd"]
            .iter()
            .all(|text| told.contains(text)),
        "something was told"
    );
    let verifier_keys = verifier.rsplit_once('$').expect("a verifier").1;
    for secret in ["0secret", PASSWORD, verifier_keys, &md5[3..]] {
        let line = told.lines().find(|line| line.contains(secret));
        // PostgreSQL's own names of tables and columns aside, nothing has such words in it.
        assert_eq!(line, None, "{secret}");
    }
}

/// New passwords in a file are taken at a reload; the environment stays what it was.
#[test]
fn files_and_variables_rotate() {
    let postgres = Postgres::shared();
    let database = postgres.database("files");
    let user = "files_user";
    postgres.sql(&format!("create role {user} login password 'first' in role scram_logins"));
    let scratch = Scratch::new("secrets");
    let file = secret_file(&scratch, "password", "first\n");
    let mut pooler = pooler()
        .setting("auth_type", "trust")
        .setting("server_login_retry", 600)
        .env("ROTATED_PASSWORD", "first")
        .database_as("named", &database, &format!("user={user} password_file={}", file.display()))
        .database_as("referred", &database, &format!("user={user} password='%{{file:{}}}'", file.display()))
        .database_as("variable", &database, &format!("user={user} password=%{{ROTATED_PASSWORD}}"))
        .database_as("literal", &database, &format!("user={user} password=%%{{ROTATED_PASSWORD}}"))
        .start();
    for name in ["named", "referred", "variable"] {
        assert_eq!(pooler.connect(name).scalar("select current_user"), user, "{name}");
    }
    postgres.sql(&format!("alter role {user} password 'second'"));
    pooler.console().execute("RECONNECT");
    secret_file(&scratch, "password", "second\n");
    pooler.reload(|builder| builder);
    for name in ["named", "referred"] {
        let mut client = pooler.connect(name);
        assert_eq!(client.scalar("select current_user"), user, "{name}");
    }
    // `%%{` is `%{` itself.
    postgres.sql(&format!("alter role {user} password '%{{ROTATED_PASSWORD}}'"));
    assert_eq!(pooler.connect("literal").scalar("select current_user"), user);
    // A file that is gone is a fault, and all stays as it was.
    fs::remove_file(&file).expect("remove the file");
    let error = pooler.console().query("RELOAD").error().expect("a fault");
    assert!(!error.message().contains("second"), "{error:?}");
    pooler.wait_for_log("password_file of database named cannot be read");
    assert_eq!(pooler.connect("referred").scalar("select 1"), "1");
}

/// What can't be resolved is told with file and line, and all of it at once.
#[test]
fn a_secret_that_is_nowhere() {
    let database = Postgres::shared().database("nowhere");
    let refused = pooler()
        .database_as("a", &database, "user=app password=%{SURELY_NOT_SET}")
        .database_as("b", &database, "user=app password_file=/nowhere/at/all")
        .database_as("c", &database, "user=app password=%{open")
        .database_as("d", &database, "user=app password=x password_file=/dev/null")
        .setting("http_admin_token", "%{NEITHER_SET}")
        .try_start();
    let Err(StartError::Ended(_, text)) = refused else { panic!("it started") };
    for expected in [
        "password of database a cannot be read (",
        "pooler.ini:2): environment variable SURELY_NOT_SET",
        "pooler.ini:3): /nowhere/at/all: No such file or directory",
        "pooler.ini:4): the } behind %{ is missing",
        "database d has both password and password_file",
        "http_admin_token cannot be read (",
        "environment variable NEITHER_SET",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

/// Files with secrets that others can read are warned about, at the start and at a reload; others are not.
#[test]
fn files_that_others_can_read() {
    let database = Postgres::shared().database("open");
    let scratch = Scratch::new("secrets");
    let file = secret_file(&scratch, "password", "x");
    let mode =
        |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    mode(&file, 0o644);
    let mut pooler =
        pooler().database(&database, &format!("user=app password_file={}", file.display())).start();
    let warned = |pooler: &Pooler, path: &PathBuf, can: &str| {
        let text =
            format!("a file with secrets can be {can} by every user of this machine ({})", path.display());
        pooler.log().matches(&text).count()
    };
    let (ini, users) = (pooler.dir().join("pooler.ini"), pooler.dir().join("userlist.txt"));
    assert_eq!(warned(&pooler, &file, "read"), 1);
    assert_eq!(warned(&pooler, &ini, "read"), 0, "it holds none");
    mode(&file, 0o640);
    mode(&users, 0o640);
    let before = warned(&pooler, &users, "read");
    pooler.console().execute("RELOAD");
    assert_eq!((warned(&pooler, &file, "read"), warned(&pooler, &users, "read")), (1, before));
    mode(&users, 0o646);
    pooler.console().execute("RELOAD");
    assert_eq!(warned(&pooler, &users, "written"), 1);
    pooler.rewrite(|builder| builder.database_as("other", &database, "user=app password=literal"));
    mode(&ini, 0o644);
    pooler.console().execute("RELOAD");
    assert_eq!(warned(&pooler, &ini, "read"), 1);
}
