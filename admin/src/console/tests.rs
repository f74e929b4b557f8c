use std::path::Path;

use pgbouncer_compat::columns::ITEMS;
use pgbouncer_compat::{Finding, NotSet, load_from, texts};
use pooler::Phase;
use support::message::Message;
use support::wire::Reply;

use super::*;

const INI: &str = "
[databases]
alpha = host=127.0.0.1 port=1 user=forced pool_size=3 pool_mode=session
beta = host=one,two load_balance_hosts=disable
gamma = host=one replicas=two:5433*2 read_routing=auto pool_mode=transaction
delta = host=one replicas=two route=replica

[users]
listed = pool_size=7 max_user_connections=2

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6543
auth_file = userlist
workers = 1
max_user_client_connections = 9
";

/// A pooler that listens nowhere, and its console.
pub(crate) struct Fixture {
    console: AdminConsole,
    pub(crate) control: Control,
}

struct Unreadable(Values);

impl Configuration for Unreadable {
    fn reload(&self, _: &Control) -> Result<(), String> {
        Err("not a number (pgferry.ini:3)".into())
    }

    fn plan(&self, control: &Control, _: Option<&Path>) -> Result<Plan, String> {
        Ok(control.plan(&control.config()))
    }

    fn set(&self, _: &Control, key: &str, _: &str) -> Result<Vec<Finding>, NotSet> {
        Err(NotSet { what: format!("unknown parameter: {key}"), advice: String::new() })
    }

    fn settings(&self) -> Values {
        self.0.clone()
    }
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let read = |path: &Path| {
            let text = if path == Path::new("userlist") { "\"known\" \"\"\n" } else { INI };
            Ok(text.as_bytes().to_vec())
        };
        let loaded = load_from(Path::new("pgferry.ini"), &read).unwrap();
        let configuration: Arc<dyn Configuration> = Arc::new(Unreadable(loaded.settings));
        let inner = Arc::new(AdminConsole::new(configuration.clone()));
        let control = pooler::start(loaded.config, Vec::new(), inner, None).unwrap().control();
        Fixture { console: AdminConsole::new(configuration), control }
    }

    fn ask(&self, rights: Rights, text: &str) -> Reply {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        messages(&runtime.block_on(self.console.execute(&self.control, text, rights)))
    }

    fn admin(&self, text: &str) -> Reply {
        self.ask(Rights::Admin, text)
    }

    #[track_caller]
    fn expect_error(&self, rights: Rights, text: &str, code: &str, message: &str) {
        let reply = self.ask(rights, text);
        assert_eq!(reply.tags(), "E", "{text}: {reply:?}");
        let error = reply.error().unwrap();
        assert_eq!((error.severity(), error.code(), error.message()), ("ERROR", code, message), "{text}");
    }

    /// The row whose first value is `key`, as one text.
    #[track_caller]
    fn row(&self, text: &str, key: &str) -> String {
        let rows = self.admin(text).rows();
        let row = rows.iter().find(|row| row[0].as_deref() == Some(key));
        let row = row.unwrap_or_else(|| panic!("no {key} in {rows:?}"));
        row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.control.shutdown(Phase::Stopped);
    }
}

pub(crate) fn messages(mut bytes: &[u8]) -> Reply {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (body, rest) = rest.split_at(length - 4);
        messages.push(Message::backend(header[0], body));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    Reply(messages)
}

#[test]
fn every_table_has_its_columns() {
    let fixture = Fixture::new();
    for (name, show) in ITEMS.iter().filter(|(_, show)| *show != Show::Help) {
        let text = format!("SHOW {name}");
        let reply = fixture.admin(&text);
        let described: Vec<_> =
            reply.0[0].columns().unwrap().into_iter().map(|c| (c.name, c.type_oid, c.format)).collect();
        let expected: Vec<_> = show.columns().iter().map(|c| (c.name.to_owned(), c.kind.oid(), 0)).collect();
        assert_eq!(described, expected, "{name}");
        assert!(reply.rows().iter().all(|row| row.len() == expected.len()), "{name}");
        assert_eq!(reply.commands(), ["SHOW"], "{name}");
    }
}

#[test]
fn select_is_show() {
    let fixture = Fixture::new();
    assert_eq!(fixture.admin("select version;"), fixture.admin("SHOW VERSION"));
    assert_eq!(fixture.row("SHOW VERSION", texts::VERSION), texts::VERSION);
    assert_eq!(fixture.admin("SHOW client_encoding").rows(), [[Some("UTF-8".to_owned())]]);
}

#[test]
fn the_version_of_the_welcome_is_that_of_show_version() {
    let version = Fixture::new().console.version();
    assert_eq!(version.strip_suffix("/bouncer"), texts::VERSION.split(' ').nth(1));
}

#[test]
fn databases_users_and_the_console_itself() {
    let fixture = Fixture::new();
    let databases = "SHOW DATABASES";
    let alpha = "alpha|127.0.0.1|1|alpha|forced|3|0|0|3600|session|NULL|0|0|0|0|0|0";
    assert_eq!(fixture.row(databases, "alpha"), alpha);
    let beta = "beta|one,two|5432|beta|NULL|20|0|0|3600|NULL|disable|0|0|0|0|0|0";
    assert_eq!(fixture.row(databases, "beta"), beta);
    let console = "pgbouncer|NULL|6543|pgbouncer|pgbouncer|2|0|0|3600|statement|NULL|0|0|0|0|0|0";
    assert_eq!(fixture.row(databases, "pgbouncer"), console);
    let console = "pgbouncer|pgbouncer|0|0|0|0|0|0|0|0|0|0|0|0|0|statement|NULL";
    assert_eq!(fixture.row("SHOW POOLS", "pgbouncer"), console);

    let users = fixture.admin("SHOW USERS").rows();
    let names: Vec<_> = users.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(names, ["forced", "known", "listed", "pgbouncer"]);
    assert_eq!(fixture.row("SHOW USERS", "listed"), "listed|        7||NULL|2|0|9|0");
    assert_eq!(fixture.row("SHOW USERS", "known"), "known|||NULL|0|0|9|0");

    assert_eq!(fixture.row("SHOW LISTS", "databases"), "databases|5");
    assert_eq!(fixture.row("SHOW LISTS", "users"), "users|4");
    assert_eq!(fixture.row("SHOW LISTS", "pools"), "pools|1");
}

#[test]
fn lists_and_totals_have_fixed_rows() {
    let fixture = Fixture::new();
    let names = |text: &str| -> Vec<String> {
        fixture.admin(text).rows().into_iter().map(|row| row[0].clone().unwrap()).collect()
    };
    assert_eq!(
        names("SHOW LISTS").join(","),
        "databases,users,peers,pools,peer_pools,free_clients,used_clients,login_clients,free_servers,\
         used_servers,dns_names,dns_zones,dns_queries,dns_pending"
    );
    let total = "total_server_assignment_count,total_xact_count,total_query_count,total_client_bytes,\
                 total_server_bytes,total_xact_time,total_query_time,total_wait_time,\
                 total_ps_client_parse_count,total_ps_server_parse_count,total_ps_bind_count,\
                 total_client_login_count";
    assert_eq!(names("SHOW TOTALS").join(","), format!("{total},{}", total.replace("total_", "avg_")));
    assert_eq!(names("SHOW STATE"), ["active", "paused", "suspended"]);
}

/// Which databases have a row, and that the decision is the one of their sessions; all of its outcomes are tested beside it.
#[test]
fn where_a_statement_would_go() {
    let fixture = Fixture::new();
    let shown = |text: &str| -> Vec<String> {
        let rows = fixture.ask(Rights::Stats, text).rows();
        let cell = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".to_owned());
        rows.into_iter().map(|row| row.into_iter().map(cell).collect::<Vec<_>>().join("|")).collect()
    };
    assert_eq!(
        shown("SHOW ROUTE 'insert into t values (''x'')'"),
        [
            "delta|replica||no replica|route is replica; it waits for a replica",
            "gamma|primary||writes|insert changes rows"
        ]
    );
    // Nobody has looked at the hosts yet.
    assert_eq!(
        shown("show route gamma $$select 'x'$$"),
        ["gamma|primary||no replica|it only reads, but there is no replica for it"]
    );
    assert_eq!(
        shown("SHOW ROUTE alpha 'select 1'"),
        ["alpha|primary|127.0.0.1:1|routing is off|it has one host, or reads are not spread over its hosts"]
    );
    fixture.expect_error(Rights::Admin, "SHOW ROUTE nothing 'x'", "08P01", "no such database: nothing");
    assert_eq!(fixture.admin("SHOW ROUTING").rows().len(), 0);
}

#[test]
fn settings_as_they_are() {
    let fixture = Fixture::new();
    assert_eq!(fixture.row("SHOW CONFIG", "listen_port"), "listen_port|6543|6432|no");
    assert_eq!(fixture.row("SHOW CONFIG", "server_lifetime"), "server_lifetime|3600|3600|yes");
    assert_eq!(fixture.row("SHOW CONFIG", "auth_user"), "auth_user|NULL|NULL|yes");
}

#[test]
fn help_and_ignored_settings_are_notices() {
    let fixture = Fixture::new();
    let help = fixture.ask(Rights::Stats, "SHOW HELP");
    assert_eq!((help.tags().as_str(), help.commands()), ("NC", vec!["SHOW".to_owned()]));
    let notice = help.0[0].notice().unwrap();
    assert_eq!((notice.message(), notice.code()), ("Console usage", "00000"));
    assert!(notice.get(b'D').starts_with("\n\tSHOW HELP|"));

    let set = fixture.ask(Rights::Stats, "SET client_encoding = 'utf8'");
    assert_eq!((set.tags().as_str(), set.commands()), ("NC", vec!["SET".to_owned()]));
    assert_eq!(set.0[0].notice().unwrap().message(), "SET ignored");
}

#[test]
fn who_may_only_look_changes_nothing() {
    let fixture = Fixture::new();
    for text in
        "RELOAD,PAUSE,PAUSE nothing,RESUME,KILL,SHUTDOWN,DISABLE,ENABLE a,RECONNECT,KILL_CLIENT 1,SUSPEND,WAIT_CLOSE,\
         SET a = b,SHOW FDS"
            .split(',')
    {
        fixture.expect_error(Rights::Stats, text, "08P01", "admin access needed");
    }
    assert_eq!(fixture.control.phase(), Phase::Running);
    assert_eq!(fixture.ask(Rights::Stats, "SHOW POOLS").rows().len(), 1);
}

#[test]
fn what_is_no_command() {
    let fixture = Fixture::new();
    let error = |text: &str, code: &str, message: &str| {
        fixture.expect_error(Rights::Admin, text, code, message);
    };
    error("", "08P01", "invalid command '', use SHOW HELP;");
    error("SELECT 1", "08P01", "invalid command 'SELECT 1', use SHOW HELP;");
    error("SHUTDOWN now", "08P01", "invalid command 'SHUTDOWN now', use SHOW HELP;");
    error("abcdefghijklmnop", "08P01", "bad arguments");
    error("SET verbos = 1", "08P01", "SET failed");
}

#[test]
fn commands_that_need_an_argument_or_find_nothing_of_that_name() {
    let fixture = Fixture::new();
    let error = |text: &str, message: &str| fixture.expect_error(Rights::Admin, text, "08P01", message);
    error("DISABLE", "a database is required");
    error("ENABLE", "a database is required");
    error("KILL_CLIENT", "invalid client pointer supplied");
    error("KILL_CLIENT x", "invalid client pointer supplied");
    error("KILL_CLIENT 4711", "client not found");
    for command in ["DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE"] {
        error(&format!("{command} nothing"), "no such database: nothing");
    }
    for command in ["disable", "enable", "reconnect"] {
        error(&format!("{command} pgbouncer"), &format!("cannot {command} admin db: pgbouncer"));
    }
    error("WAIT_CLOSE pgbouncer", "cannot wait in admin db: pgbouncer");
}

#[test]
fn databases_are_disabled_and_enabled() {
    let fixture = Fixture::new();
    for (command, shown) in [("DISABLE", "|0|1"), ("DISABLE", "|0|1"), ("ENABLE", "|0|0"), ("ENABLE", "|0|0")]
    {
        assert_eq!(fixture.admin(&format!("{command} alpha")).commands(), [command]);
        assert!(fixture.row("SHOW DATABASES", "alpha").ends_with(shown));
    }
    assert_eq!(fixture.admin("RECONNECT").commands(), ["RECONNECT"]);
    assert_eq!(fixture.admin("WAIT_CLOSE alpha").commands(), ["WAIT_CLOSE"]);
}

#[test]
fn suspended_is_a_state_of_its_own() {
    let fixture = Fixture::new();
    let error = |text: &str, message: &str| fixture.expect_error(Rights::Admin, text, "08P01", message);
    fixture.admin("PAUSE alpha");
    error("SUSPEND", "cannot suspend with paused databases");
    fixture.admin("RESUME alpha");
    fixture.admin("PAUSE");
    error("SUSPEND", "already suspended/paused");
    fixture.admin("RESUME");
}

#[test]
fn commands_answer_with_their_tag_or_say_why_not() {
    let fixture = Fixture::new();
    let done = |text: &str, tag: &str| assert_eq!(fixture.admin(text).commands(), [tag], "{text}");
    let error = |text: &str, message: &str| fixture.expect_error(Rights::Admin, text, "08P01", message);
    error("PAUSE nothing", "no such database: nothing");
    error("RESUME nothing", "no such database: nothing");
    error("KILL nothing", "no such database: nothing");
    error("PAUSE pgbouncer", "cannot pause admin db: pgbouncer");
    error("KILL pgferry", "cannot kill admin db: pgferry");
    error("RESUME pgbouncer", "database pgbouncer is not paused");
    error("RESUME", "pooler is not paused/suspended");
    error("RESUME alpha", "database alpha is not paused");
    done("PAUSE alpha", "PAUSE");
    done("PAUSE alpha", "PAUSE");
    assert!(fixture.row("SHOW DATABASES", "alpha").ends_with("|1|0"), "paused");
    assert_eq!(fixture.row("SHOW STATE", "paused"), "paused|no", "by name only");
    done("RESUME alpha", "RESUME");
    assert!(fixture.row("SHOW DATABASES", "alpha").ends_with("|0|0"));

    done("PAUSE", "PAUSE");
    assert_eq!(fixture.row("SHOW STATE", "active"), "active|no");
    assert_eq!(fixture.row("SHOW STATE", "paused"), "paused|yes");
    error("PAUSE", "already suspended/paused");
    error("PAUSE nothing", "already suspended/paused");
    error("KILL", "already suspended/paused");
    error("KILL alpha", "already suspended/paused");
    done("RESUME", "RESUME");
    assert_eq!(fixture.row("SHOW STATE", "active"), "active|yes");
    done("KILL", "KILL");
    done("KILL beta", "KILL");
    assert!(fixture.row("SHOW DATABASES", "beta").ends_with("|1|0"), "paused");
    done("RESUME beta", "RESUME");
}

#[test]
fn a_reload_that_fails_refers_to_the_log() {
    let text = "RELOAD failed, see logs for additional details";
    Fixture::new().expect_error(Rights::Admin, "RELOAD", "F0000", text);
}

#[test]
fn a_shutdown_can_be_made_stricter_but_not_taken_back() {
    let fixture = Fixture::new();
    assert_eq!(fixture.admin("SHUTDOWN WAIT_FOR_CLIENTS").commands(), ["SHUTDOWN"]);
    fixture.expect_error(Rights::Admin, "RESUME", "08P01", "pooler is shutting down");
    assert_eq!(fixture.admin("SHUTDOWN WAIT_FOR_SERVERS").commands(), ["SHUTDOWN"]);
    assert_eq!(fixture.control.phase(), Phase::WaitForServers);
    fixture.expect_error(Rights::Admin, "RESUME", "08P01", "pooler is shutting down");
}
