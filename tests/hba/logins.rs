//! What comes of rules: the method that a client has to answer to, and whether it passes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use socket2::{Domain, Socket, Type};
use support::frontend::{VERSION_3_0, startup};
use support::message::Fields;
use support::pooler::{Pooler, PoolerBuilder, StartError};
use support::postgres::{Options, PASSWORD, Postgres, USER};
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::{pooled, pooler};

/// With these rules.
pub(super) fn with_rules(builder: PoolerBuilder, rules: &str) -> PoolerBuilder {
    builder.setting("auth_type", "hba").setting("auth_hba_file", "{dir}/hba").beside("hba", rules)
}

#[track_caller]
pub(super) fn assert_refused(target: &Target, text: &str) {
    let fields: Fields = match Client::try_login(target) {
        Ok(_) => panic!("{} was let in to {}", target.user, target.database),
        Err(error) => error.refusal(),
    };
    assert_eq!((fields.severity(), fields.code(), fields.message()), ("FATAL", "08P01", text));
}

// ---- the same decision as PostgreSQL's --------------------------------------------------------------------------

/// `local marker` shows that they are in effect.
const RULES: &str = r#"
local     marker         marker                       reject
host      sameuser       all        127.0.0.2/32      password
host      shop,"my shop" ann        127.0.0.0/30      scram-sha-256
host      other          bob        samehost          reject
hostssl   all            all        0.0.0.0/0         trust
hostnossl all            "all"      127.0.0.77/24     trust
host      shop           all        127.0.0.4 255.255.255.255 scram-sha-256
host      replication    rep        127.0.0.0/8       password
hostgssenc all           all        all               trust
local     all            ann,"bob"  scram-sha-256
local     "sameuser"     all        password
local     sameuser       carl       trust
local     replication    all        password
hostnossl ann            bob, carl  samenet           trust
host      other          carl       localhost         password
host      all            "rep"      ::1/0             trust
host      other          all        127.0.0.9/31      trust
"#;

#[derive(Debug, Clone, Copy)]
enum Source {
    Unix,
    Tcp(u8),
}

#[derive(Debug, Clone, Copy)]
enum Server<'a> {
    Postgres(&'a Postgres),
    Pooler(&'a Pooler),
}

/// What the first message says of the method.
fn demanded(server: Server<'_>, source: Source, params: &[(&str, &str)]) -> String {
    let bytes = startup(VERSION_3_0, params);
    match source {
        Source::Unix => {
            let path = match server {
                Server::Postgres(postgres) => {
                    postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port()))
                }
                Server::Pooler(pooler) => pooler.dir().join(format!(".s.PGSQL.{}", pooler.port())),
            };
            ask(UnixStream::connect(path).unwrap(), &bytes)
        }
        Source::Tcp(last) => {
            let port = match server {
                Server::Postgres(postgres) => postgres.port(),
                Server::Pooler(pooler) => pooler.port(),
            };
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
            socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
            ask(TcpStream::from(socket), &bytes)
        }
    }
}

fn ask(mut stream: impl Read + Write, startup: &[u8]) -> String {
    stream.write_all(startup).unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let len = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
    let mut body = vec![0; len - 4];
    stream.read_exact(&mut body).unwrap();
    let text = String::from_utf8_lossy(&body);
    match (header[0], body.get(..4)) {
        (b'R', Some([0, 0, 0, 0])) => "trust".into(),
        (b'R', Some([0, 0, 0, 3])) => "password".into(),
        (b'R', Some([0, 0, 0, 10])) => "scram-sha-256".into(),
        (b'E', _) if text.contains("rejects") || text.contains("login rejected") => "reject".into(),
        (b'E', _) if text.contains("no pg_hba.conf entry") || text.contains("no authentication method") => {
            "none".into()
        }
        _ => format!("{:?} {text}", header[0] as char),
    }
}

#[test]
fn the_rule_that_decides_is_the_one_that_decides_in_postgresql() {
    let postgres = Postgres::start(Options::new());
    fs::write(postgres.socket_dir().join("data/pg_hba.conf"), RULES).unwrap();
    let mut admin = Client::login(&postgres.superuser("template1"));
    admin.execute("select pg_reload_conf()");
    let marker = [("user", "marker"), ("database", "marker")];
    eventually("the rules are in effect", Duration::from_secs(10), || {
        demanded(Server::Postgres(&postgres), Source::Unix, &marker) == "reject"
    });

    let (databases, users) =
        (["shop", "my shop", "ann", "sameuser", "other", "carl"], ["ann", "bob", "carl", "all", "rep"]);
    let behind = Postgres::shared().database("behind");
    let mut builder = with_rules(pooler(), RULES);
    for name in databases {
        builder = builder.database_as(&format!("'{name}'"), &behind, &format!("user={USER}"));
    }
    let pooler = users.iter().fold(builder, |builder, user| builder.secret(user, "")).start();

    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let sources = [Source::Unix].into_iter().chain([1, 2, 3, 4, 8, 9, 78].map(Source::Tcp));
    for source in sources {
        for user in users {
            let physical = [("user", user), ("database", "shop"), ("replication", "true")];
            let logins = databases.map(|database| vec![("user", user), ("database", database)]);
            for params in logins.iter().map(Vec::as_slice).chain([&physical[..]]) {
                let there = demanded(Server::Postgres(&postgres), source, params);
                let here = demanded(Server::Pooler(&pooler), source, params);
                assert_eq!(here, there, "{source:?} {params:?}");
                *seen.entry(there).or_default() += 1;
            }
        }
    }
    println!("{seen:?}");
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["none", "password", "reject", "scram-sha-256", "trust"]);
}

// ---- methods ----------------------------------------------------------------------------------------------------

#[test]
fn each_method_of_a_rule() {
    let pooled = pooled("", |builder| {
        with_rules(
            builder,
            "local all admin trust\nhost all app all trust\nhost all plain all password\nhost all md all md5\n\
             host all scram all scram-sha-256\nhost all bad all reject\nhost all own all peer\nhost all paper all cert\n\
             hostssl all sealed all trust clientcert=verify-ca\n",
        )
        .secret("plain", PASSWORD)
        .secret("md", PASSWORD)
        .secret("scram", PASSWORD)
        .secret("own", "")
        .secret("paper", "")
    });
    let target = |user: &str| pooled.target().user(user).password(PASSWORD);
    assert_eq!(pooled.connect().scalar("select 1"), "1");
    for user in ["plain", "md", "scram"] {
        assert_refused(
            &target(user).password("wrong"),
            match user {
                "scram" => "SASL authentication failed",
                _ => "password authentication failed",
            },
        );
    }
    assert_refused(&target("bad"), "login rejected");
    assert_refused(&target("own"), "unix socket login rejected");
    assert_refused(&target("paper"), "certificate authentication failed");
    pooled.pooler.wait_for_log("TLS connection required");
    assert_refused(&target("nobody"), "no authentication method is found");
    assert_refused(&target("sealed"), "no authentication method is found");
    assert_refused(&target("admin").database("pgbouncer"), "no authentication method is found");
}

/// Who runs the tests.
fn own_name() -> String {
    User::from_uid(geteuid()).unwrap().unwrap().name
}

/// PgBouncer's test_peer_auth_ident_map.
#[test]
fn who_the_system_says_it_is() {
    let own = own_name();
    let ident =
        format!("direct {own} app\nother someone_else app\nany {own} all\nfound /^(.*)$ \\1\nno /^$ all\n");
    let mut pooled = pooled("", |builder| {
        with_rules(builder, "local all admin trust\nlocal all all peer map=direct\nhost all all all trust\n")
            .setting("auth_ident_file", "{dir}/ident")
            .beside("ident", &ident)
            .secret(&own, "")
            .secret("third", "")
    });
    let rejected = "unix socket login rejected";
    let unix =
        |pooler: &Pooler, database: &str, user: &str| Target::new(pooler.unix_address(), user, database);
    let database = pooled.database.name().to_owned();
    let login = |pooler: &Pooler, user: &str| Client::try_login(&unix(pooler, &database, user)).is_ok();

    assert!(login(&pooled.pooler, USER));
    assert_refused(&unix(&pooled.pooler, &database, &own), rejected);
    assert_refused(&unix(&pooled.pooler, &database, "unknown_to_all"), rejected);
    pooled.pooler.wait_for_log("ident map direct cannot be matched");
    for (map, app_passes, third_is_rejected) in
        [("other", false, true), ("any", true, false), ("found", false, true), ("no", false, true)]
    {
        let rules = format!("host all admin all trust\nlocal all all peer map={map}\n");
        pooled.pooler.reload(|builder| builder.beside("hba", &rules));
        assert_eq!(login(&pooled.pooler, USER), app_passes, "{map}");
        let answer = Client::try_login(&unix(&pooled.pooler, &database, "third")).err();
        let rejects = answer.is_some_and(|error| error.refusal().message() == rejected);
        assert_eq!(rejects, third_is_rejected, "{map}");
    }
    // Without a map the names must be the same. PostgreSQL does not know this one: that is behind the check.
    pooled.pooler.reload(|builder| builder.beside("hba", "host all admin all trust\nlocal all all peer\n"));
    assert_refused(&unix(&pooled.pooler, &database, USER), rejected);
    let told = Client::try_login(&unix(&pooled.pooler, &database, &own)).err().map(|error| error.refusal());
    assert!(told.is_none_or(|fields| fields.message() != rejected));
}

// ---- files ------------------------------------------------------------------------------------------------------

#[test]
fn a_bad_line_keeps_the_pooler_from_starting() {
    let builder = with_rules(
        pooler(),
        "local all all trust\nhost all bad 10.0.0.0/8 rejct\nlocal all all peer map=m\n",
    );
    let Err(StartError::Ended(_, log)) = builder.database_line("d", "").try_start() else {
        panic!("it has started");
    };
    assert!(log.contains("invalid authentication method \"rejct\""), "{log}");
    assert!(log.contains("hba:2") && log.contains("hba:3"), "{log}");
}

#[test]
fn rules_are_read_again_and_kept_where_the_new_ones_have_faults() {
    let mut pooled =
        pooled("", |builder| with_rules(builder, "local all admin trust\nhost all all all reject\n"));
    let console = Target::new(pooled.pooler.unix_address(), "admin", "pgbouncer");
    let reload = |pooler: &mut Pooler, rules: &str| {
        pooler.rewrite(|builder| builder.beside("hba", rules));
        Client::login(&console).query("RELOAD").error()
    };
    assert_refused(&pooled.target(), "login rejected");
    assert!(reload(&mut pooled.pooler, "local all admin trust\nhost all all all trust\n").is_none());
    drop(pooled.connect());
    assert!(
        reload(&mut pooled.pooler, "local all admin trust\nhost all all all reject\nhost all\n").is_some()
    );
    pooled.pooler.wait_for_log("end-of-line before role specification");
    drop(pooled.connect());
    assert!(reload(&mut pooled.pooler, "local all admin trust\nhost all all all reject\n").is_none());
    assert_refused(&pooled.target(), "login rejected");
}

/// PgBouncer's test_hba_leak.
#[test]
fn reading_rules_again_and_again_takes_no_memory() {
    let mut rules = String::from("local all admin trust\n");
    (0..500).for_each(|n| rules.push_str(&format!("host db_{n} /^user_{n} 10.0.0.0/8 reject\n")));
    rules.push_str("host all all all trust\n");
    let mut pooled = pooled("", |builder| with_rules(builder, &rules));
    let mut toggle = |rounds: usize| {
        for _ in 0..rounds {
            pooled.pooler.rewrite(|builder| builder.setting("auth_type", "trust"));
            let console = Target::new(pooled.pooler.unix_address(), "admin", "pgbouncer");
            Client::login(&console).execute("RELOAD");
            pooled.pooler.rewrite(|builder| builder.setting("auth_type", "hba"));
            Client::login(&console).execute("RELOAD");
            drop(pooled.connect());
        }
        pooled.pooler.rss()
    };
    let before = toggle(5);
    let after = toggle(30);
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
}

#[test]
fn thousands_of_rules_are_no_burden() {
    let mut rules = String::from("local all admin trust\n");
    (0..5000).for_each(|n| rules.push_str(&format!("host db_{n} user_{n} 10.0.0.0/8 reject\n")));
    let without = pooled("", |builder| builder);
    let with = pooled("", |builder| with_rules(builder, &format!("{rules}host all all all trust\n")));
    let login = |target: &Target| {
        let started = Instant::now();
        drop(Client::login(target));
        started.elapsed()
    };
    let fastest = |target: &Target| (0..20).map(|_| login(target)).min().unwrap();
    let [without, with] = [&without, &with].map(|pooled| fastest(&pooled.target()));
    println!("a login without rules {without:?}, with 5,000 {with:?}");
    assert!(with < without + Duration::from_millis(20));
}
