//! The same console script against Debian's PgBouncer (1.18) and pgferry: columns, types, tags, codes and texts are the same
//! but for what later releases of PgBouncer have changed, which stands here in full. Debian's own configuration file and its
//! exporter meet the same. Skipped where there is no PgBouncer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::Database;
use support::wait::eventually;
use support::wire::{Client, Reply};

use crate::common::{pooler, prepared_database};
use crate::console::psql_as_owner;

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// Who sends a step.
#[derive(Clone, Copy)]
enum Who {
    Admin,
    Viewer,
    /// Logs in anew to this database, as this user.
    Login(&'static str, &'static str),
}

/// What is asked, in this order. `shop` is a database with a client that has a server, `other` one that nobody uses.
const SCRIPT: &[(Who, &str)] = {
    use Who::{Admin, Login, Viewer};
    &[
        (Admin, "SHOW HELP"),
        (Admin, "SHOW VERSION"),
        (Admin, "show version;"),
        (Admin, "select version"),
        (Admin, "SHOW STATE"),
        (Admin, "SHOW CONFIG"),
        (Admin, "SHOW DATABASES"),
        (Admin, "SHOW POOLS"),
        (Admin, "SHOW CLIENTS"),
        (Admin, "SHOW SERVERS"),
        (Admin, "SHOW SOCKETS"),
        (Admin, "SHOW ACTIVE_SOCKETS"),
        (Admin, "SHOW LISTS"),
        (Admin, "SHOW USERS"),
        (Admin, "SHOW STATS"),
        (Admin, "SHOW STATS_TOTALS"),
        (Admin, "SHOW STATS_AVERAGES"),
        (Admin, "SHOW TOTALS"),
        (Admin, "SHOW MEM"),
        (Admin, "SHOW FDS"),
        (Admin, "SHOW DNS_HOSTS"),
        (Admin, "SHOW DNS_ZONES"),
        (Admin, "SHOW PEERS"),
        (Admin, "SHOW PEER_POOLS"),
        (Admin, "SHOW client_encoding"),
        (Admin, "SHOW default_transaction_isolation"),
        (Admin, "SHOW standard_conforming_strings"),
        (Admin, "SHOW datestyle"),
        (Admin, "SHOW timezone"),
        (Admin, "SET datestyle = 'ISO'"),
        (Admin, "SHOW ALL"),
        (Admin, "SHOW"),
        (Admin, "SHOW POOLS x"),
        (Admin, "SHOW POOLS; SHOW LISTS"),
        (Admin, "BEGIN"),
        (Admin, "SELECT 1"),
        (Admin, "-- nothing"),
        (Admin, ""),
        (Admin, "SET default_pool_size = 5"),
        (Admin, "SET default_pool_size = 'many'"),
        (Admin, "SET no_such_setting = 1"),
        (Admin, "SET listen_backlog = 5"),
        (Viewer, "SHOW POOLS"),
        (Viewer, "SHOW FDS"),
        (Viewer, "SET datestyle = 'ISO'"),
        (Viewer, "SET default_pool_size = 5"),
        (Viewer, "PAUSE"),
        (Viewer, "RELOAD"),
        (Viewer, "SHUTDOWN"),
        (Viewer, "nonsense"),
        (Login("pgbouncer", "app"), "console"),
        (Login("none", "app"), "no database"),
        (Login("shop", "nobody"), "no user"),
        (Admin, "PAUSE none"),
        (Admin, "PAUSE pgbouncer"),
        (Admin, "PAUSE other"),
        (Admin, "PAUSE other"),
        (Admin, "SUSPEND"),
        (Admin, "RESUME other"),
        (Admin, "RESUME other"),
        (Admin, "RESUME none"),
        (Admin, "RESUME"),
        (Admin, "DISABLE"),
        (Admin, "DISABLE none"),
        (Admin, "DISABLE pgbouncer"),
        (Admin, "DISABLE other"),
        (Login("other", "app"), "disabled"),
        (Admin, "ENABLE other"),
        (Admin, "ENABLE other"),
        (Admin, "ENABLE none"),
        (Admin, "ENABLE"),
        (Login("other", "app"), "enabled"),
        (Admin, "RECONNECT none"),
        (Admin, "RECONNECT pgbouncer"),
        (Admin, "RECONNECT other"),
        (Admin, "WAIT_CLOSE none"),
        (Admin, "WAIT_CLOSE pgbouncer"),
        (Admin, "WAIT_CLOSE other"),
        (Admin, "RECONNECT"),
        (Admin, "WAIT_CLOSE"),
        (Admin, "KILL none"),
        (Admin, "KILL pgbouncer"),
        (Admin, "KILL_CLIENT"),
        (Admin, "KILL_CLIENT 99999"),
        (Admin, "RELOAD"),
        (Admin, "RELOAD x"),
        (Admin, "PAUSE"),
        (Admin, "PAUSE"),
        (Admin, "KILL shop"),
        (Admin, "SUSPEND"),
        (Admin, "SHOW STATE"),
        (Admin, "RESUME"),
        (Admin, "SUSPEND"),
        (Admin, "SHOW STATE"),
        (Admin, "SUSPEND"),
        (Admin, "RESUME"),
        (Admin, "KILL shop"),
        (Admin, "RESUME shop"),
        (Admin, "KILL"),
        (Admin, "SHUTDOWN now"),
        (Admin, "SHUTDOWN"),
    ]
};

/// What was answered, as far as it must not differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    /// Name and type of each column.
    columns: Vec<String>,
    /// The values of the first column, where they are names of what there is and not what happens to be there.
    keys: Vec<String>,
    /// Everything else: tags, notices, errors, the status or the end of the connection.
    rest: Vec<String>,
}

fn answer(step: &str, reply: &Reply) -> Answer {
    let mut answer = Answer::default();
    for message in &reply.0 {
        if let Some(columns) = message.columns() {
            answer.columns =
                columns.iter().map(|column| format!("{}:{}", column.name, column.type_oid)).collect();
        } else if let Some(tag) = message.command() {
            answer.rest.push(tag);
        } else if let Some(fields) = message.error().or(message.notice()) {
            answer.rest.push(format!("{} {} {}", fields.severity(), fields.code(), fields.message()));
        } else if let Some(status) = message.ready() {
            answer.rest.push(format!("ready {}", char::from(status)));
        }
    }
    if reply.0.last().is_none_or(|message| message.ready().is_none()) {
        answer.rest.push("closed".into());
    }
    if ["SHOW CONFIG", "SHOW LISTS", "SHOW STATE", "SHOW TOTALS"].contains(&step) {
        answer.keys = reply.rows().into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    }
    answer
}

/// Everything that a reply may be, up to ReadyForQuery or the end of the connection.
fn ask(client: &mut Client, text: &str) -> Reply {
    client.send(support::frontend::query(text));
    let mut messages = Vec::new();
    while let Ok(message) = client.try_read() {
        let ready = message.ready().is_some();
        messages.push(message);
        if ready {
            break;
        }
    }
    Reply(messages)
}

fn run(builder: PoolerBuilder, shop: &Database) -> Vec<Answer> {
    let line = |name: &str, builder: PoolerBuilder| builder.database_as(name, shop, "");
    let builder = line("other", line("shop", builder)).setting("stats_users", "viewer").secret("viewer", "");
    let pooler: Pooler = builder.start();
    let mut client = pooler.connect("shop");
    client.execute("select 1");
    let mut admin = pooler.console();
    let mut viewer = Client::login(&pooler.target("pgbouncer").user("viewer"));
    let step = |(who, text): &(Who, &str)| {
        let reply = match who {
            Who::Admin => ask(&mut admin, text),
            Who::Viewer => ask(&mut viewer, text),
            Who::Login(database, user) => {
                let target = pooler.target(database).user(user);
                match Client::try_login(&target) {
                    Ok(client) => {
                        Reply(client.greeting.clone().into_iter().filter(|m| m.tag == b'Z').collect())
                    }
                    Err(error) => {
                        let refusal = error.refusal();
                        let rest =
                            vec![format!("{} {} {}", refusal.severity(), refusal.code(), refusal.message())];
                        return Answer { rest, ..Answer::default() };
                    }
                }
            }
        };
        answer(text, &reply)
    };
    let answers = SCRIPT.iter().map(step).collect();
    pooler.wait_ended();
    answers
}

/// How a later release answers a step.
enum Change {
    /// 1.18 does not know it.
    New,
    /// Columns that came since.
    Columns(&'static [&'static str]),
    /// Columns that came since, and those that have another name.
    Renamed(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// Names in the first column that came since.
    Keys(&'static [&'static str]),
    /// An answer of 1.18, and that of today.
    Rest(&'static str, &'static str),
}

/// All that has changed between 1.18 and 1.25, and at the end what pgferry does otherwise.
const CHANGES: &[(&str, Change)] = &[
    ("SHOW STATE", Change::New),
    ("SHOW PEERS", Change::New),
    ("SHOW PEER_POOLS", Change::New),
    ("KILL_CLIENT", Change::New),
    ("KILL_CLIENT 99999", Change::New),
    (
        "SHOW DATABASES",
        Change::Renamed(
            &[
                "server_lifetime",
                "load_balance_hosts",
                "max_client_connections",
                "current_client_connections",
            ],
            &[("reserve_pool", "reserve_pool_size")],
        ),
    ),
    ("SHOW POOLS", Change::Columns(&["load_balance_hosts"])),
    ("SHOW CLIENTS", Change::Columns(SOCKETS)),
    ("SHOW SERVERS", Change::Columns(SOCKETS)),
    ("SHOW SOCKETS", Change::Columns(SOCKETS)),
    ("SHOW ACTIVE_SOCKETS", Change::Columns(SOCKETS)),
    (
        "SHOW USERS",
        Change::Columns(&[
            "pool_size",
            "reserve_pool_size",
            "max_user_connections",
            "current_connections",
            "max_user_client_connections",
            "current_client_connections",
        ]),
    ),
    (
        "SHOW STATS",
        Change::Columns(&[
            "total_server_assignment_count",
            "total_client_parse_count",
            "total_server_parse_count",
            "total_bind_count",
            "total_client_login_count",
            "avg_server_assignment_count",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ]),
    ),
    (
        "SHOW STATS_TOTALS",
        Change::Columns(&[
            "server_assignment_count",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "client_login_count",
        ]),
    ),
    (
        "SHOW STATS_AVERAGES",
        Change::Columns(&[
            "server_assignment_count",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ]),
    ),
    (
        "SHOW TOTALS",
        Change::Keys(&[
            "total_server_assignment_count",
            "total_ps_client_parse_count",
            "total_ps_server_parse_count",
            "total_ps_bind_count",
            "total_client_login_count",
            "avg_server_assignment_count",
            "avg_ps_client_parse_count",
            "avg_ps_server_parse_count",
            "avg_ps_bind_count",
            "avg_client_login_count",
        ]),
    ),
    ("SHOW LISTS", Change::Keys(&["peers", "peer_pools"])),
    ("SHOW CONFIG", Change::Keys(SETTINGS)),
    ("KILL", Change::Rest("ERROR 08P01 a database is required", "KILL")),
    // Drivers begin transactions.
    ("BEGIN", Change::Rest("ERROR 08P01 invalid command 'BEGIN', use SHOW HELP;", "BEGIN")),
    // PgBouncer says that it has set what counts from the next start on only.
    ("SET listen_backlog = 5", Change::Rest("SET listen_backlog=5", "ERROR 08P01 SET failed")),
];

const SOCKETS: &[&str] = &["replication", "prepared_statements", "id"];

const SETTINGS: &[&str] = &[
    "auth_dbname",
    "auth_ident_file",
    "auth_ldap_options",
    "cancel_wait_timeout",
    "client_tls13_ciphers",
    "login_notify_message",
    "max_db_client_connections",
    "max_prepared_statements",
    "max_user_client_connections",
    "peer_id",
    "pool_idle_timeout",
    "query_wait_notify",
    "scram_iterations",
    "server_tls13_ciphers",
    "track_extra_parameters",
    "transaction_timeout",
];

/// What pgferry has besides begins behind this.
const LAST_SETTING: &str = "verbose";

#[track_caller]
fn compare(text: &str, theirs: &Answer, ours: &Answer) {
    let (mut expected, mut ours) = (theirs.clone(), ours.clone());
    if text == "SHOW CONFIG" {
        let last = ours.keys.iter().position(|key| key == LAST_SETTING).expect("PgBouncer's last setting");
        ours.keys.truncate(last + 1);
    }
    let without = |list: &[String], new: &[&str]| -> Vec<String> {
        let name = |entry: &String| entry.split(':').next().unwrap_or_default().to_owned();
        let missing = new.iter().find(|new| !list.iter().any(|entry| name(entry) == **new));
        assert!(missing.is_none(), "{text}: there is no {missing:?} in {list:?}");
        list.iter().filter(|entry| !new.contains(&name(entry).as_str())).cloned().collect()
    };
    match CHANGES.iter().find(|(step, _)| *step == text).map(|(_, change)| change) {
        None => {}
        Some(Change::New) => {
            assert_eq!(theirs.rest[0], format!("ERROR 08P01 invalid command '{text}', use SHOW HELP;"));
            assert!(!ours.rest[0].contains("invalid command"), "{text}: {ours:?}");
            return;
        }
        Some(Change::Columns(new)) => ours.columns = without(&ours.columns, new),
        Some(Change::Renamed(new, names)) => {
            ours.columns = without(&ours.columns, new);
            for (old, new) in *names {
                let column =
                    expected.columns.iter_mut().find(|column| column.starts_with(&format!("{old}:")));
                let column = column.unwrap_or_else(|| panic!("{text}: 1.18 has no {old}"));
                *column = column.replace(old, new);
            }
        }
        Some(Change::Keys(new)) => ours.keys = without(&ours.keys, new),
        Some(Change::Rest(old, new)) => {
            assert_eq!(expected.rest[0], *old, "{text}");
            expected.rest[0] = (*new).to_owned();
        }
    }
    assert_eq!(ours, expected, "{text}");
}

#[test]
fn the_console_answers_as_pgbouncers() {
    if !is_there(PGBOUNCER) {
        return;
    }
    let shop = prepared_database("shop", "");
    let theirs = run(PoolerBuilder::new(PGBOUNCER), &shop);
    let ours = run(pooler(), &shop);
    for (i, (_, text)) in SCRIPT.iter().enumerate() {
        compare(text, &theirs[i], &ours[i]);
    }
}

fn is_there(program: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        println!("skipped: there is no {program} (scripts/setup --with-pgbouncer brings PgBouncer)");
    }
    there
}

// ---- Debian's packages ---------------------------------------------------------------------------------------

/// The file of the package, with other paths and another port.
fn debians_file() -> String {
    let file = fs::read_to_string("/etc/pgbouncer/pgbouncer.ini");
    let mut text =
        file.unwrap_or_else(|_| include_str!("../pgbouncer-compat/fixtures/debian.ini").to_owned());
    for dir in ["/var/log/postgresql", "/var/run/postgresql", "/etc/pgbouncer"] {
        assert!(text.contains(dir), "{text}");
        text = text.replace(dir, "{dir}");
    }
    text.replace("listen_port = 6432", "listen_port = {port}")
}

/// What happens to those who use it.
fn use_debians_file(builder: PoolerBuilder, shop: &Database) -> Vec<String> {
    let secret = shop.scalar("select 'md5' || md5('open sesame' || 'app')");
    let file = debians_file();
    let mut pooler = builder.file(&file).secret("app", &secret).start();
    let mut seen = Vec::new();
    let login = |pooler: &Pooler, password: &str| match Client::try_login(
        &pooler.target("shop").password(password),
    ) {
        Ok(mut client) => client.scalar("select 'served'"),
        Err(error) => {
            let refusal = error.refusal();
            format!("{} {} {}", refusal.severity(), refusal.code(), refusal.message())
        }
    };
    let lists = psql_as_owner(&pooler, &["-At", "-c", "SHOW LISTS"]);
    seen.push(format!("{}", String::from_utf8_lossy(&lists.stdout).contains("used_clients|")));
    seen.push(login(&pooler, "open sesame"));
    seen.push(login(&pooler, "wrong"));
    let pid_file = pooler.dir().join("pgbouncer.pid");
    seen.push(format!("{}", fs::read_to_string(&pid_file).unwrap() == format!("{}\n", pooler.pid())));

    let port = shop.postgres().port();
    let line = format!("[databases]\nshop = host=127.0.0.1 port={port} dbname={}", shop.name());
    pooler.rewrite(|builder| builder.file(&file.replace("[databases]", &line)));
    pooler.signal(Signal::SIGHUP);
    eventually("the database is there", Duration::from_secs(10), || {
        login(&pooler, "open sesame") == "served"
    });
    seen.push(login(&pooler, "wrong"));
    pooler.signal(Signal::SIGTERM);
    seen.push(format!("{:?} {}", pooler.wait_ended().code(), pid_file.exists()));
    seen
}

#[test]
fn debians_file_works_as_with_pgbouncer() {
    let shop = prepared_database("shop", "");
    let expected = [
        "true",
        "FATAL 08P01 no such database: shop",
        "FATAL 08P01 password authentication failed",
        "true",
        "FATAL 08P01 password authentication failed",
        "Some(0) false",
    ];
    assert_eq!(use_debians_file(pooler(), &shop), expected);
    if is_there(PGBOUNCER) {
        let mut theirs = use_debians_file(PoolerBuilder::new(PGBOUNCER), &shop);
        // Until 1.23 SIGTERM was no regular end.
        assert_eq!(theirs.pop().as_deref(), Some("Some(1) false"));
        assert_eq!(theirs, expected[..5]);
    }
}

const EXPORTER: &str = "/usr/bin/prometheus-pgbouncer-exporter";

/// Its collectors on its own connection, each metric with its labels. Two names in it are older than PgBouncer 1.8 and
/// 1.24: these are given as they are today, by the arguments behind the port.
const COLLECT: &str = r#"
import sys
from prometheus_pgbouncer_exporter import collectors
from prometheus_pgbouncer_exporter.utils import get_connection
port, requests, reserve = sys.argv[1:]
for collector, old, new in ((collectors.StatsCollector, 'total_requests', requests),
                            (collectors.DatabasesCollector, 'reserve_pool', reserve)):
    collector.metrics[new] = collector.metrics.pop(old)
connection = get_connection('admin', port, '127.0.0.1')
found = [collectors.ListsCollector(connection=connection)]
for collector in (collectors.StatsCollector, collectors.PoolsCollector, collectors.DatabasesCollector):
    found.append(collector(connection=connection, databases=None))
for collector in found:
    for family in collector.collect():
        for sample in family.samples:
            float(sample[2])
            print(sample[0], sorted(sample[1].items()))
"#;

fn exported(builder: PoolerBuilder, shop: &Database, names: [&str; 2]) -> (Vec<String>, String) {
    let pooler = builder.database_as("shop", shop, "").start();
    let mut client = pooler.connect("shop");
    client.execute("select 1");
    let port = pooler.port().to_string();
    let output = Command::new("/usr/bin/python3").args(["-c", COLLECT, &port]).args(names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    // The program itself, which knows the old names only.
    let program = Command::new(EXPORTER)
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            "1",
            "--pgbouncer-host",
            "127.0.0.1",
            "--pgbouncer-port",
            &port,
        ])
        .args(["--pgbouncer-user", "admin"])
        .output()
        .unwrap();
    let said = String::from_utf8(program.stderr).unwrap();
    (lines, said.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn debians_exporter_gets_what_pgbouncer_gives_it() {
    if !is_there(PGBOUNCER) || !is_there(EXPORTER) {
        return;
    }
    let shop = prepared_database("shop", "");
    let theirs = exported(PoolerBuilder::new(PGBOUNCER), &shop, ["total_query_count", "reserve_pool"]);
    let ours = exported(pooler(), &shop, ["total_query_count", "reserve_pool_size"]);
    assert_eq!(ours, theirs);
    assert!(
        ours.0.len() > 20 && ours.0.contains(&format!("pgbouncer_active_clients {}", LABELS)),
        "{ours:?}"
    );
    assert_eq!(ours.1, "KeyError: 'total_requests'");
}

const LABELS: &str = "[('database', 'shop'), ('user', 'app')]";
