mod auth;
mod routing;
mod tls;

use std::time::Duration;

use pooler::config::{
    AuthMethod, CheckQuery, Host, ListenAddr, LoadBalance, OnTimeout, OwnTimeLimits, PoolMode, PoolSizes,
    UnixListen, User,
};
use proptest::prelude::*;

use super::*;
use crate::settings::Kind;

const DEBIAN: &str = include_str!("../../fixtures/debian.ini");

/// Loads `a.ini`, the first of `files`; the others are what it may name.
fn load_files(files: &[(&str, &str)]) -> Result<Loaded, Faults> {
    load_from(Path::new(files[0].0), &|path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(io::Error::from_raw_os_error(2))
    })
}

fn loaded(text: &str) -> Loaded {
    load_files(&[("a.ini", text), ("users", "\"alice\" \"secret\"\n")]).unwrap()
}

/// The lines of what is wrong with `text`.
fn faults(text: &str) -> Vec<String> {
    let faults = load_files(&[("a.ini", text), ("users", "")]).unwrap_err();
    faults.to_string().lines().map(str::to_owned).collect()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

fn shown(loaded: &Loaded, key: &str) -> Option<String> {
    loaded.settings.show().find(|row| row.key == key).unwrap().value
}

/// One entry of `[databases]` named `db`.
fn database(text: &str) -> Database {
    let loaded = loaded(&format!("[pgbouncer]\nauth_file = users\n[databases]\ndb = {text}"));
    (*loaded.config.databases["db"]).clone()
}

/// What the packages install.
#[test]
fn the_shipped_configuration_has_no_fault() {
    let ini = include_str!("../../../contrib/etc/pgferry.ini");
    let users = ("/etc/pgferry/userlist.txt", include_str!("../../../contrib/etc/userlist.txt"));
    let commented = load_files(&[("pgferry.ini", ini), users]).unwrap();
    assert_eq!(warnings(&commented), [""; 0]);
    // Nor have its examples, which stand behind one semicolon and a blank.
    let examples = load_files(&[("pgferry.ini", &ini.replace("\n; ", "\n")), users]).unwrap();
    assert_eq!(warnings(&examples), [""; 0]);
    assert!(examples.config.fallback.is_some() && examples.program.logfile.is_some());
}

#[test]
fn a_configuration_of_debian() {
    let users = ("/etc/pgbouncer/userlist.txt", "\"user2\" \"md5aaaa\"\n");
    let loaded = load_files(&[("pgbouncer.ini", DEBIAN), users]).unwrap();
    assert_eq!(warnings(&loaded), [""; 0]);

    let config = &loaded.config;
    assert_eq!(config.listen.addrs, [ListenAddr::Name("localhost".into())]);
    assert_eq!((config.listen.port, config.listen.backlog), (6432, 128));
    let unix = config.listen.unix.as_ref().unwrap();
    assert_eq!(
        (unix.dir.to_str(), unix.mode, unix.group.clone()),
        (Some("/var/run/postgresql"), 0o777, None)
    );
    assert_eq!(config.auth.method, AuthMethod::Md5);
    assert_eq!(config.auth.admin_users, ["user2", "someadmin", "otheradmin"]);
    assert_eq!(config.auth.stats_users, ["stats", "root"]);
    assert_eq!(config.auth.userlist.0["user2"].reveal(), "md5aaaa");
    assert_eq!(config.pool_mode, PoolMode::Session);
    assert_eq!(config.sizes, PoolSizes { size: NonZeroUsize::new(20), min: 0, reserve: 0 });
    assert_eq!(config.limits.max_client_conn, 100);
    assert_eq!(config.limits.max_db_connections, None);
    assert_eq!(config.timeouts.query_wait, Some(Duration::from_secs(120)));
    assert_eq!(config.server.check_query, CheckQuery::Empty);
    assert_eq!(config.params.ignore, ["extra_float_digits"]);
    assert_eq!(config.params.track_extra, ["IntervalStyle"]);
    assert_eq!(config.stats_period, Duration::from_secs(60));
    assert!(config.workers.get() >= 1);

    let names: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    assert_eq!(names, ["bardb", "foodb", "forcedb", "nondefaultdb"]);
    assert_eq!(config.databases["foodb"].hosts, [Host::Unix("/var/run/postgresql".into())]);
    assert_eq!(config.databases["foodb"].host_text, None);
    assert_eq!(config.databases["bardb"].dbname.as_deref(), Some("bazdb"));
    assert_eq!(config.fallback.as_ref().unwrap().hosts, [Host::Tcp("testserver".into())]);
    assert_eq!(config.users["user1"].pool_mode, Some(PoolMode::Transaction));
    assert_eq!(config.users["user1"].max_connections, NonZeroUsize::new(10));

    assert_eq!(
        loaded.program,
        Program {
            conffile: "pgbouncer.ini".into(),
            pidfile: Some("/var/run/postgresql/pgbouncer.pid".into()),
            logfile: Some("/var/log/postgresql/pgbouncer.log".into()),
            syslog: Syslog { on: false, facility: 3, ident: "pgbouncer".into() },
            log_format: LogFormat::Text,
            user: None,
            verbose: None,
        }
    );
    assert_eq!(shown(&loaded, "conffile").as_deref(), Some("pgbouncer.ini"));
}

#[test]
fn its_defaults_written_out_change_nothing() {
    let is_default =
        |line: &&str| line.strip_prefix(';').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    let written_out: String = DEBIAN
        .lines()
        .map(|line| if is_default(&line) { &line[1..] } else { line })
        .map(|l| format!("{l}\n"))
        .collect();
    assert!(DEBIAN.lines().filter(is_default).count() > 80);

    let users = ("/etc/pgbouncer/userlist.txt", "");
    let plain = load_files(&[("a.ini", DEBIAN), users]).unwrap();
    let full = load_files(&[("a.ini", &written_out), users]).unwrap();
    assert_eq!(warnings(&full), [""; 0]);
    assert_eq!(format!("{:?}", full.config), format!("{:?}", plain.config));
    assert!(full.settings.show().eq(plain.settings.show()));
    assert_eq!(full.program, Program { verbose: Some(0), ..plain.program });
}

#[test]
fn the_least_that_runs() {
    let loaded = loaded("[pgbouncer]");
    assert_eq!(
        warnings(&loaded),
        ["auth_file is not set (a.ini): without it no user is known and nobody can log in"]
    );
    assert_eq!(loaded.config.listen.addrs, []);
    assert_eq!(loaded.config.listen.unix.unwrap().dir, Path::new("/tmp"));
    assert!(loaded.config.databases.is_empty() && loaded.config.fallback.is_none());
}

#[test]
fn every_fault_at_once() {
    let text = "\
early = 1
[pgbouncer]
max_client_con = 1
max_client_conn = ten
pool_mode = pool
resolv_conf = /etc/other
auth_type = hba
auth_dbname = pgbouncer
listen_port
server_tls_sslmode = verify-full
%include gone.ini
auth_file = broken
listen_addr =
unix_socket_dir =
[database]
skipped = host=x
[databases]
pgbouncer = host=a
pgferry = host=a
a = host=h pot=1 port=0 pool_mode=x password='s3cret
b = host=h pot=1 port=0 pool_mode=x pool_size=lots password=s3cret load_balance_hosts=no
c = auth_user=me auth_query='select 1' auth_dbname=d host=a,,b
d = dbname=local
e = server_lifetime=soon host='a, b' port=65536
0123456789012345678901234567890123456789012345678901234567890123 = host=h
[users]
u = pool_mod=session query_timeout=soon pool_size=x
v = pool_mode
[peers]
1 = port=0 hots=a
0 = host=a
2 = host=a,b
3
";
    let faults = load_files(&[("a.ini", text), ("broken", "\"a\" \"b\"\n\"c\"\n")]).unwrap_err();
    let lines: Vec<String> = faults.to_string().lines().map(str::to_owned).collect();
    let expected = [
        "nowhere to listen on (a.ini): set listen_addr or unix_socket_dir",
        "value without section: early (a.ini:1): put it below [pgbouncer], [databases], [users] or [peers]",
        "unknown parameter: pgbouncer/max_client_con (a.ini:3): did you mean max_client_conn?",
        "invalid value \"ten\" for parameter max_client_conn in configuration (a.ini:4): \
         expected a whole number from 0 to 2147483647",
        "invalid value \"pool\" for parameter pool_mode in configuration (a.ini:5): \
         expected one of session, transaction, statement",
        "resolv_conf = /etc/other is not implemented in this version (a.ini:6): leave resolv_conf out",
        "auth_hba_file is not set (a.ini:7): auth_type = hba needs the rules; nobody could log in",
        "cannot use the reserved \"pgbouncer\" database as an auth_dbname (a.ini:8): name one in which auth_query can run",
        "syntax error in configuration (a.ini:9): expected key = value",
        "server_tls_sslmode: verify-full needs server_tls_ca_file (a.ini:10): \
         it says who signs the certificates of servers",
        "could not load file \"gone.ini\": No such file or directory (a.ini:11)",
        "invalid section \"database\" in configuration (a.ini:15): did you mean databases?",
        "database name \"pgbouncer\" is reserved (a.ini:18): clients that ask for it get the console; \
         choose another name",
        "database name \"pgferry\" is reserved (a.ini:19): clients that ask for it get the console; \
         choose another name",
        "syntax error in connection string (a.ini:20): database a: the closing quote behind password is missing",
        "unrecognized connection parameter: pot (a.ini:21): did you mean port?",
        "invalid port: 0 (a.ini:21): database b: expected a number from 1 to 65535",
        "invalid pool mode: x (a.ini:21): database b: expected session, transaction or statement",
        "invalid pool_size: lots (a.ini:21): database b: expected a whole number",
        "invalid load_balance_hosts: no (a.ini:21): database b: expected round-robin or disable",
        "invalid host: a,,b (a.ini:22): database c: expected host names separated by single commas",
        "unix socket dir not configured: d (a.ini:23): name a host, or set unix_socket_dir",
        "invalid server_lifetime: soon (a.ini:24): database e: expected whole seconds, or a time such as 5min",
        "invalid host: a, b (a.ini:24): database e: expected host names without blanks",
        "invalid port: 65536 (a.ini:24): database e: expected a number from 1 to 65535",
        "too long db name: 0123456789012345678901234567890123456789012345678901234567890123 (a.ini:25): \
         at most 63 bytes",
        "unrecognized user parameter: pool_mod (a.ini:27): did you mean pool_mode?",
        "invalid query_timeout: soon (a.ini:27): user u: expected whole seconds, or a time such as 5min",
        "invalid pool_size: x (a.ini:27): user u: expected a whole number",
        "syntax error in user settings (a.ini:28): user v: expected = behind pool_mode; \
         a value with blanks stands in single quotes",
        "invalid port: 0 (a.ini:30): peer 1: expected a number from 1 to 65535",
        "unrecognized peer parameter: hots (a.ini:30): did you mean host?",
        "peer 1 has no host (a.ini:30): add host= to it",
        "invalid peer id: 0 (a.ini:31): expected a number from 1 to 65535",
        "invalid host: a,b (a.ini:32): peer 2: expected one host",
        "peer 2 has no host (a.ini:32): add host= to it",
        "syntax error in configuration (a.ini:33): expected key = value",
        "broken auth file (broken:2): the secret in double quotes is missing",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected);
    }
    assert_eq!(lines.len(), expected.len());
    assert!(!faults.to_string().contains("s3cret"));
}

#[test]
fn files_that_are_not_there() {
    let missing = load_from(Path::new("none.ini"), &|_| Err(io::Error::from_raw_os_error(13))).unwrap_err();
    assert_eq!(missing.to_string(), "could not load file \"none.ini\": Permission denied (none.ini)");
    assert_eq!(
        faults("[databases]"),
        ["main section missing from config file (a.ini): add a section [pgbouncer]"]
    );
    assert_eq!(faults(""), ["main section missing from config file (a.ini): add a section [pgbouncer]"]);

    let loaded = loaded("[pgbouncer]\nauth_file = nobody");
    assert!(loaded.config.auth.userlist.0.is_empty());
    assert_eq!(
        warnings(&loaded),
        ["could not open auth_file nobody: No such file or directory (a.ini:2): \
         no user is known until it is there and the configuration reloaded"]
    );
}

#[test]
fn a_file_of_the_file_system() {
    let dir = std::env::temp_dir().join(format!("pgferry-load-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (config, users) = (dir.join("a.ini"), dir.join("users"));
    std::fs::write(&users, "\"bob\" \"pw\"\n").unwrap();
    std::fs::write(&config, format!("[pgbouncer]\nauth_file = {}\n", users.display())).unwrap();
    let loaded = load(&config);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(loaded.unwrap().config.auth.userlist.0["bob"].reveal(), "pw");
}

#[test]
fn sections_in_parts_and_files() {
    let main = "[databases]\na = host=1\n%include more.ini\nb = host=4\n[pgbouncer]\nauth_file = users\n";
    let more = "a = host=2\n[users]\n[databases]\nc = host=3\n";
    let loaded = load_files(&[("a.ini", main), ("more.ini", more), ("users", "")]).unwrap();
    let hosts: Vec<String> = loaded
        .config
        .databases
        .values()
        .map(|db| format!("{}={}", db.name, db.host_text.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(hosts, ["a=2", "b=4", "c=3"]);
    assert_eq!(
        warnings(&loaded),
        ["database a is given again (more.ini:1): this line takes the place of the one above"]
    );
}

#[test]
fn a_main_section_that_starts_again() {
    let text = "[pgbouncer]\nauth_file = users\nmax_client_conn = 7\nmax_client_conn = 8\n\
                [pgbouncer]\npool_mode = statement\n";
    let loaded = loaded(text);
    assert_eq!(loaded.config.limits.max_client_conn, 100);
    assert_eq!(loaded.config.pool_mode, PoolMode::Statement);
    assert_eq!(loaded.config.auth.userlist.0.len(), 1);
    assert_eq!(
        warnings(&loaded),
        [
            "max_client_conn is set again (a.ini:4): it takes the place of the value in a.ini:3",
            "section [pgbouncer] starts again (a.ini:5): settings above it are back at their defaults; \
         keep them in one section",
        ]
    );
}

#[test]
fn what_is_accepted_but_probably_not_meant() {
    for (text, expected) in [
        (
            "pkt_buf = 8192",
            "pkt_buf has no effect in this version (a.ini:3): connections own no buffer of a fixed size",
        ),
        ("pkt_buf = 4096", ""),
        (
            "unix_socket_mode = 777",
            "unix_socket_mode = 777 is read as a decimal number (a.ini:3): \
             permissions are octal with a leading 0, such as 0777",
        ),
        ("unix_socket_mode = 0770", ""),
        (
            "min_pool_size = 21",
            "min_pool_size is above default_pool_size (a.ini:3): no more than 20 connections will be kept",
        ),
        ("min_pool_size = 20", ""),
        ("min_pool_size = 21\ndefault_pool_size = 0", ""),
        (
            "[databases]\na = pool_size=2 min_pool_size=3",
            "min_pool_size of database a is above its pool_size (a.ini:4): no more than 2 connections will be kept",
        ),
        ("[databases]\na = pool_size=0 min_pool_size=3", ""),
        (
            "[databases]\na = password=x",
            "the password of database a is not used (a.ini:4): it counts only with user=",
        ),
        (
            "auth_type = any\n[databases]\na =\nb = user=x\n* =",
            "auth_type=any requires forced user: a (a.ini:5): \
             logins to this database will fail; add user= to it\n\
             auth_type=any requires forced user: * (a.ini:7): \
             logins to this database will fail; add user= to it",
        ),
        (
            "[users]\na = pool_size=1\na =",
            "user a is given again (a.ini:5): this line takes the place of the one above",
        ),
    ] {
        let loaded = loaded(&format!("[pgbouncer]\nauth_file = users\n{text}"));
        assert_eq!(warnings(&loaded).join("\n"), expected, "{text}");
    }
}

#[test]
fn every_active_setting_reaches_its_place() {
    let base = "[pgbouncer]\nauth_file = users\n";
    let rendered = |text: &str| {
        let loaded = load_files(&[("a.ini", text), ("users", ""), ("x", "\"x\" \"y\"")]).unwrap();
        format!("{:?} {:?}", loaded.config, loaded.program)
    };
    let unchanged = rendered(base);
    for setting in SETTINGS {
        let value = match (setting.kind, setting.status) {
            _ if setting.name == "auth_type" => "trust",
            _ if ["auth_hba_file", "auth_ident_file"].contains(&setting.name) => continue, // with hba only, below
            _ if setting.name == "http_listen" => "*:9127",
            _ if setting.name == "patroni" => "http://x:8008",
            _ if setting.name.contains("_tls") => continue, // below
            _ if setting.name == "auth_ldap_options" => "ldapserver=h ldapprefix=cn=",
            (_, Status::Harmless(_) | Status::Only(_)) => continue,
            (Kind::Bool, _) if setting.default == Some("1") => "0",
            (Kind::Bool, _) => "1",
            (Kind::Int { .. } | Kind::Seconds | Kind::Percent, _) => "7",
            (Kind::Mode, _) => "0600",
            (Kind::List | Kind::Text | Kind::Secret, _) => "x",
            (Kind::Choice(words), _) => words[words.len() - 1],
        };
        let changed = rendered(&format!("{base}{} = {value}\n", setting.name));
        assert_ne!(changed, unchanged, "{} = {value} changes nothing", setting.name);
    }
}

#[test]
fn where_http_is_served_and_by_whom_it_is_steered() {
    let text = "[pgbouncer]\nauth_file = users\n";
    let with = loaded(&format!(
        "{text}http_listen = 127.0.0.1:9127, [::1]:0\nhttp_admin_token = 0123456789abcdef\n"
    ));
    assert_eq!(with.config.http.listen, ["127.0.0.1:9127", "[::1]:0"]);
    assert_eq!(warnings(&with), [""; 0]);
    assert_eq!(shown(&with, "http_admin_token").as_deref(), Some("(secret)"));
    assert!(!format!("{:?}", with.config).contains("0123456789abcdef"));
    assert_eq!(shown(&loaded(text), "http_admin_token").as_deref(), Some(""));
    let risky = loaded(&format!("{text}http_listen = *:9127\nhttp_admin_token = short\n"));
    assert_eq!(
        warnings(&risky),
        [
            "http_admin_token is easy to guess (a.ini:4): take a random one, such as `openssl rand -hex 16` prints",
            "http_admin_token is sent in the clear to an address of http_listen (a.ini:4): there is no TLS: let only a \
             proxy on this machine, or a trusted network, reach it",
        ]
    );
    assert_eq!(
        faults(&format!("{text}http_listen = 127.0.0.1:9127, 9128, :9129, localhost:http\n")),
        ["9128", ":9129", "localhost:http"].map(|address| format!(
            "invalid address \"{address}\" in http_listen (a.ini:3): expected ADDRESS:PORT, such as 127.0.0.1:9127, \
             [::1]:9127 or *:9127"
        ))
    );
}

/// A nought that means "never" must not be taken for "at once", nor one that means "no limit" for "none" (bug 70:
/// pg_doorman 3.3.2).
#[test]
fn a_nought_is_no_limit_where_the_help_says_so() {
    let unlimited = |value: &str, setting: &str| {
        let loaded = loaded(&format!("[pgbouncer]\nauth_file = users\n{setting} = {value}\n"));
        format!("{:?}", loaded.config).matches("None").count()
    };
    let mut checked = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| setting.status == Status::Active) {
        if ["0: never", "0: no limit", "0: the system's setting"]
            .iter()
            .any(|words| setting.help.contains(words))
        {
            assert_eq!(unlimited("0", setting.name), unlimited("7", setting.name) + 1, "{}", setting.name);
            checked.push(setting.name);
        }
    }
    assert!(checked.len() > 20, "{checked:?}");
}

#[test]
fn values_of_settings() {
    let loaded = loaded(
        "[pgbouncer]
auth_file = users
auth_type = SCRAM-SHA-256
listen_addr = *, 127.0.0.1,::1 db.example
listen_port = 0
unix_socket_dir = @pooler
unix_socket_mode = 0750
unix_socket_group = www-data
max_packet_size = 64MB
query_wait_timeout = 0
query_wait_notify = 0
server_lifetime = 0
server_idle_timeout = 0
server_check_query =
reserve_pool_timeout = 0
default_pool_size = 0
tcp_user_timeout = 30s
tcp_keepidle = 2min
tcp_keepalive = off
stats_period = 1min
workers = 3
verbose = 2
user = pooler
conffile = other.ini
",
    );
    let config = &loaded.config;
    assert_eq!(config.auth.method, AuthMethod::Scram);
    let ip = |text: &str| ListenAddr::Ip(text.parse().unwrap());
    let name = ListenAddr::Name("db.example".into());
    assert_eq!(config.listen.addrs, [ListenAddr::Any, ip("127.0.0.1"), ip("::1"), name]);
    assert_eq!(config.listen.port, 0);
    let unix = UnixListen { dir: "@pooler".into(), mode: 0o750, group: Some("www-data".into()) };
    assert_eq!(config.listen.unix, Some(unix));
    assert_eq!(config.limits.max_packet_size, 64 << 20);
    assert_eq!((config.timeouts.query_wait, config.timeouts.query_wait_notify), (None, None));
    assert_eq!(config.timeouts.reserve_pool, None);
    assert_eq!((config.server.lifetime, config.server.idle_timeout), (Duration::ZERO, None));
    assert_eq!(config.server.check_query, CheckQuery::Off);
    assert_eq!(config.sizes.size, None);
    assert_eq!((config.socket.user_timeout, config.socket.keepidle), (Some(30_000), Some(120)));
    assert_eq!((config.socket.keepalive, config.socket.keepcnt), (false, None));
    assert_eq!((config.stats_period, config.workers.get()), (Duration::from_secs(60), 3));
    assert_eq!(loaded.program.verbose, Some(2));
    assert_eq!(loaded.program.user.as_deref(), Some("pooler"));
    assert_eq!(loaded.program.conffile, Path::new("other.ini"));
}

#[test]
fn hosts_of_databases() {
    let tcp = |host: &str| Host::Tcp(host.into());
    for (text, hosts) in [
        ("", vec![Host::Unix("/tmp".into())]),
        ("host=db.example", vec![tcp("db.example")]),
        ("host=::1", vec![tcp("::1")]),
        ("host=a,10.0.0.1,fe80::1", vec![tcp("a"), tcp("10.0.0.1"), tcp("fe80::1")]),
        ("host=/run/pg", vec![Host::Unix("/run/pg".into())]),
        ("host=@abstract", vec![Host::Unix("@abstract".into())]),
        ("host= port=1", vec![tcp("port=1")]),
    ] {
        assert_eq!(database(text).hosts, hosts, "{text}");
    }
    assert_eq!(database("host=a,b").host_text.as_deref(), Some("a,b"));
}

#[test]
fn keys_of_databases() {
    let none = database("");
    assert_eq!((none.name.as_str(), none.port, none.dbname.clone()), ("db", 5432, None));
    let seconds = Duration::from_secs;
    for (text, expected) in [
        ("dbname='my db'", Database { dbname: Some("my db".into()), ..none.clone() }),
        ("port=6000", Database { port: 6000, ..none.clone() }),
        ("user=u", Database { user: Some("u".into()), ..none.clone() }),
        (
            "user=u password='p''w'",
            Database {
                user: Some("u".into()),
                password: Some(pooler::config::Secret::new("p'w")),
                ..none.clone()
            },
        ),
        ("auth_user=a", Database { auth_user: Some("a".into()), ..none.clone() }),
        ("auth_query='select 1, 2'", Database { auth_query: Some("select 1, 2".into()), ..none.clone() }),
        ("auth_dbname=d", Database { auth_dbname: Some("d".into()), ..none.clone() }),
        ("pool_size=5", Database { pool_size: Some(NonZeroUsize::new(5)), ..none.clone() }),
        ("pool_size=0", Database { pool_size: Some(None), ..none.clone() }),
        ("pool_size=-1", none.clone()),
        ("min_pool_size=0", Database { min_pool_size: Some(0), ..none.clone() }),
        ("min_pool_size=-1", none.clone()),
        ("reserve_pool_size=3", Database { reserve_pool_size: Some(3), ..none.clone() }),
        ("reserve_pool=3", Database { reserve_pool_size: Some(3), ..none.clone() }),
        ("pool_mode=Transaction", Database { pool_mode: Some(PoolMode::Transaction), ..none.clone() }),
        ("query_wait_timeout=9", Database { query_wait_timeout: Some(Some(seconds(9))), ..none.clone() }),
        ("query_wait_timeout=0", Database { query_wait_timeout: Some(None), ..none.clone() }),
        ("query_wait_timeout=-1", Database { query_wait_timeout: Some(None), ..none.clone() }),
        (
            "statement_timeout=1.5",
            Database {
                times: OwnTimeLimits { statement: Some(Some(Duration::from_millis(1500))), ..none.times },
                ..none.clone()
            },
        ),
        (
            "statement_timeout=0",
            Database { times: OwnTimeLimits { statement: Some(None), ..none.times }, ..none.clone() },
        ),
        ("max_waiting_clients=7", Database { max_waiting: Some(NonZeroUsize::new(7)), ..none.clone() }),
        ("max_waiting_clients=0", Database { max_waiting: Some(None), ..none.clone() }),
        ("max_waiting_clients=-1", none.clone()),
        ("load_balance_hosts=disable", Database { load_balance: LoadBalance::Disable, ..none.clone() }),
        ("load_balance_hosts=round-robin", none.clone()),
        ("max_db_connections=4", Database { max_connections: NonZeroUsize::new(4), ..none.clone() }),
        ("max_db_connections=0", none.clone()),
        ("max_db_connections=-1", none.clone()),
        (
            "max_db_client_connections=4",
            Database { max_client_connections: NonZeroUsize::new(4), ..none.clone() },
        ),
        ("server_lifetime=5min", Database { server_lifetime: Some(seconds(300)), ..none.clone() }),
        ("server_lifetime=0", none.clone()),
        ("connect_query='select 1'", Database { connect_query: Some("select 1".into()), ..none.clone() }),
        (
            "application_name=a timezone=UTC datestyle=ISO client_encoding=LATIN1 datestyle=German",
            Database {
                startup: vec![
                    ("client_encoding", "LATIN1".into()),
                    ("datestyle", "German".into()),
                    ("timezone", "UTC".into()),
                    ("application_name", "a".into()),
                ],
                ..none.clone()
            },
        ),
    ] {
        assert_eq!(database(text), expected, "{text}");
    }
}

#[test]
fn names_of_databases() {
    let long = "n".repeat(63);
    let loaded = loaded(&format!(
        "[pgbouncer]\nauth_file = users\n[databases]\n'my \"db\"' = host=a\n{long} =\n* = dbname=other\n"
    ));
    let names: Vec<&str> = loaded.config.databases.keys().map(String::as_str).collect();
    assert_eq!(names, ["my \"db\"", &long]);
    let fallback = loaded.config.fallback.unwrap();
    assert_eq!((fallback.name.as_str(), fallback.dbname.as_deref()), ("*", Some("other")));
}

#[test]
fn keys_of_users() {
    let seconds = Duration::from_secs;
    let none = User::default();
    for (text, expected) in [
        ("", none.clone()),
        ("pool_mode=statement", User { pool_mode: Some(PoolMode::Statement), ..none.clone() }),
        ("pool_size=0", User { pool_size: Some(None), ..none.clone() }),
        ("pool_size=-1", none.clone()),
        ("reserve_pool_size=0", User { reserve_pool_size: Some(0), ..none.clone() }),
        ("max_user_connections=2", User { max_connections: NonZeroUsize::new(2), ..none.clone() }),
        ("max_user_connections=0", none.clone()),
        (
            "max_user_client_connections=2",
            User { max_client_connections: NonZeroUsize::new(2), ..none.clone() },
        ),
        ("query_wait_timeout=0", User { query_wait_timeout: Some(None), ..none.clone() }),
        ("query_wait_timeout=7", User { query_wait_timeout: Some(Some(seconds(7))), ..none.clone() }),
        (
            "query_timeout=0 idle_transaction_timeout=0 transaction_timeout=0 client_idle_timeout=-1",
            none.clone(),
        ),
        (
            "query_timeout=1 idle_transaction_timeout=2 transaction_timeout=3 client_idle_timeout=4 \
             statement_timeout=500ms on_timeout=Error",
            User {
                times: OwnTimeLimits {
                    query: Some(Some(seconds(1))),
                    idle_transaction: Some(Some(seconds(2))),
                    transaction: Some(Some(seconds(3))),
                    statement: Some(Some(Duration::from_millis(500))),
                    request: None,
                    on_timeout: Some(OnTimeout::Error),
                },
                client_idle_timeout: Some(seconds(4)),
                ..none.clone()
            },
        ),
    ] {
        let loaded = loaded(&format!("[pgbouncer]\nauth_file = users\n[users]\n'a b' = {text}"));
        assert_eq!(loaded.config.users["a b"], expected, "{text}");
    }
    let name = "n".repeat(128);
    assert_eq!(
        faults(&format!("[pgbouncer]\n[users]\n{name} =")),
        [format!("too long user name: {name} (a.ini:3): at most 127 bytes")]
    );
}

/// Every key that PgBouncer has in these sections, and a value of it.
#[test]
fn every_key_of_pgbouncer() {
    let databases = "dbname=d host=h port=1 user=u password=p auth_user=x auth_query='select 1, 2' auth_dbname=x pool_size=1 min_pool_size=1 reserve_pool_size=1 \
        reserve_pool=1 pool_mode=session query_wait_timeout=1 load_balance_hosts=disable max_db_connections=1 \
        max_db_client_connections=1 server_lifetime=1 connect_query='select 1' client_encoding=utf8 datestyle=iso \
        timezone=utc application_name=a";
    let users = "pool_mode=session pool_size=1 reserve_pool_size=1 max_user_connections=1 \
        max_user_client_connections=1 query_timeout=1 query_wait_timeout=1 idle_transaction_timeout=1 \
        transaction_timeout=1 client_idle_timeout=1";
    let text =
        format!("[databases]\nd = {databases}\n[users]\nu = {users}\n[pgbouncer]\nauth_file = users\n");
    assert_eq!(warnings(&loaded(&text)), [""; 0]);
}

proptest! {
    #[test]
    fn any_text_is_judged(
        text in "((\\[(pgbouncer|databases|users|peers)\\]|pool_mode|auth_file|\\*|a|%include|'a b') ?=? ?\
                 (a\\.ini|host=|port|pool_size=|'|''|1|-1|session|,|é)*\n){0,12}",
    ) {
        let _ = load_files(&[("a.ini", &text), ("session", &text)]);
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>) {
        let _ = load_from(Path::new("a.ini"), &|_| Ok([b"[pgbouncer]\nauth_file = x\n", bytes.as_slice()].concat()));
    }
}
