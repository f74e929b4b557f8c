//! A reload changes what has changed and nothing else; what that is can be asked for beforehand.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use support::frontend::query;
use support::pooler::{Pooler, PoolerBuilder};
use support::wire::Client;

use crate::common::{pooled, pooler, prepared_database};
use crate::console::{row_where, table};

/// The plan of a reload, as the log would tell it.
fn plan(console: &mut Client, command: &str) -> Vec<String> {
    let reply = console.execute(command);
    let columns: Vec<String> = reply.0[0].columns().unwrap().into_iter().map(|column| column.name).collect();
    assert_eq!(columns.join(" "), "kind name key old new effect");
    assert_eq!(reply.commands(), ["SHOW"]);
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".into());
    reply.rows().iter().map(|row| row.iter().map(value).collect::<Vec<_>>().join("|")).collect()
}

fn log_of_reload(pooler: &Pooler) -> Vec<String> {
    let log = pooler.log();
    let lines = log.lines().filter_map(|line| line.split_once(" LOG reload: "));
    lines.map(|(_, change)| change.to_owned()).collect()
}

#[test]
fn the_same_files_again_change_nothing() {
    let viewer = |builder: PoolerBuilder| builder.setting("stats_users", "viewer").secret("viewer", "");
    let pooled = pooled("", |builder| viewer(builder).setting("default_pool_size", 3));
    let (mut idle, mut busy) = (pooled.connect(), pooled.connect());
    busy.execute("begin");
    let pids = (idle.backend_pid(), busy.backend_pid());
    let mut console = pooled.pooler.console();
    let config = console.query("SHOW CONFIG");
    assert_eq!(plan(&mut console, "RELOAD_PLAN"), [""; 0]);
    let mut viewer = Client::login(&pooled.pooler.target("pgbouncer").user("viewer"));
    assert_eq!(viewer.query("RELOAD_PLAN").error().unwrap().message(), "admin access needed");
    console.execute("RELOAD");
    assert_eq!(console.query("SHOW CONFIG"), config);
    assert_eq!((idle.backend_pid(), busy.backend_pid()), pids);
    assert_eq!(log_of_reload(&pooled.pooler), [""; 0]);
    busy.execute("commit");
}

#[test]
fn what_the_plan_says_is_done_and_logged() {
    let (stays, moves, goes) =
        (prepared_database("stays", ""), prepared_database("moves", ""), prepared_database("goes", ""));
    let lines = |moved: &str| {
        pooler()
            .database(&stays, "")
            .database(&moves, moved)
            .setting("default_pool_size", 2)
            .setting("listen_backlog", 100)
            .secret("leaver", "hidden-1")
    };
    let mut pooler = lines("").database(&goes, "").start();
    let (mut in_stays, mut in_moves) = (pooler.connect(stays.name()), pooler.connect(moves.name()));
    let mut in_goes = pooler.connect(goes.name());
    let pids = [&mut in_stays, &mut in_moves, &mut in_goes].map(Client::backend_pid);
    let changed = lines("connect_query='select 1' pool_size=7")
        .setting("default_pool_size", 3)
        .setting("listen_backlog", 200)
        .secret("joiner", "hidden-2");
    pooler.rewrite(|_| changed);
    let mut console = pooler.console();
    let planned = plan(&mut console, "RELOAD_PLAN");
    let expected = [
        "setting|default_pool_size||2|3|now".to_owned(),
        "setting|listen_backlog||100|200|next start".to_owned(),
        format!("database|{}|connect_query|NULL|select 1|servers renewed", moves.name()),
        format!("database|{}|pool_size|NULL|7|now", moves.name()),
        "secret|joiner||NULL|(secret)|next login".to_owned(),
    ];
    let removed = format!("database|{}||", goes.name());
    let (gone, rest): (Vec<String>, Vec<String>) =
        planned.into_iter().partition(|change| change.starts_with(&removed));
    let mut sorted = expected.to_vec();
    sorted.sort();
    let mut rest_sorted = rest.clone();
    rest_sorted.sort();
    assert_eq!(rest_sorted, sorted);
    assert!(gone.len() == 1 && gone[0].ends_with("|NULL|clients disconnected"), "{gone:?}");
    // Nothing was done yet.
    assert_eq!(row_where(&mut console, "CONFIG", "key", "default_pool_size").number("value"), 2);
    in_goes.execute("select 1");

    console.execute("RELOAD");
    assert_eq!(plan(&mut console, "RELOAD_PLAN"), ["setting|listen_backlog||100|200|next start"]);
    assert_eq!(row_where(&mut console, "DATABASES", "name", moves.name()).number("pool_size"), 7);
    assert_eq!(row_where(&mut console, "DATABASES", "name", stays.name()).number("pool_size"), 3);
    assert_eq!(row_where(&mut console, "CONFIG", "key", "listen_backlog").number("value"), 100);
    assert_eq!(in_goes.expect_closed().error().unwrap().message(), "database removed");
    assert_eq!(in_stays.backend_pid(), pids[0]);
    assert_ne!(in_moves.backend_pid(), pids[1]);
    let log = pooler.log();
    let told = log_of_reload(&pooler);
    assert_eq!(told.len(), gone.len() + rest.len() - 1, "{told:?}");
    assert!(told.contains(&"setting default_pool_size: 2 -> 3 (now)".to_owned()), "{told:?}");
    assert!(
        log.contains("listen_backlog has changed in the file; the new value counts from the next start on")
    );
    assert!(!log.contains("hidden"));
}

#[test]
fn a_bad_file_changes_nothing_and_every_fault_is_told() {
    let mut pooled = pooled("", |builder| builder);
    let mut console = pooled.pooler.console();
    let before = console.query("SHOW CONFIG");
    pooled.pooler.rewrite(|builder| {
        builder
            .setting("pool_mode", "sometimes")
            .setting("max_client_conn", "many")
            .setting("default_pool_size", 9)
    });
    for command in ["RELOAD", "RELOAD_PLAN"] {
        let reply = console.query(command);
        assert_eq!(reply.tags(), "EZ");
        let error = reply.error().unwrap();
        assert_eq!((error.severity(), error.code()), ("ERROR", "F0000"));
        let detail = error.get(b'D');
        for fault in ["parameter pool_mode", "parameter max_client_conn"] {
            assert!(
                detail.lines().any(|line| line.contains(fault) && line.contains("pooler.ini:")),
                "{detail}"
            );
            if command == "RELOAD" {
                pooled.pooler.wait_for_log(fault);
            }
        }
    }
    assert_eq!(console.query("SHOW CONFIG"), before);
    pooled.connect().execute("select 1");
}

/// `disable_pqexec` is read for every message, and yet counts from the start on only.
#[test]
fn what_is_fixed_at_the_start_stays() {
    let mut pooled = pooled("", |builder| builder);
    pooled.pooler.reload(|builder| builder.setting("disable_pqexec", 1).setting("unix_socket_mode", "0700"));
    pooled.connect().execute("select 1");
    let mut console = pooled.pooler.console();
    assert_eq!(row_where(&mut console, "CONFIG", "key", "disable_pqexec").number("value"), 0);
    assert_eq!(row_where(&mut console, "CONFIG", "key", "unix_socket_mode").number("value"), 0o777);
}

/// `conffile` names what the next reload reads.
#[test]
fn the_next_file_is_the_one_that_is_named() {
    let mut pooled = pooled("", |builder| builder);
    let other = pooled.pooler.dir().join("other.ini");
    let text = fs::read_to_string(pooled.pooler.dir().join("pooler.ini")).unwrap();
    fs::write(&other, text.replace("default_pool_size = 1", "default_pool_size = 4")).unwrap();
    let mut console = pooled.pooler.console();
    let value =
        |console: &mut Client, key: &str| row_where(console, "CONFIG", "key", key).text("value").to_owned();
    assert_eq!(
        plan(&mut console, &format!("RELOAD_PLAN \"{}\"", other.display())),
        ["setting|default_pool_size||1|4|now"]
    );
    pooled.pooler.reload(|builder| builder.setting("conffile", other.display()));
    assert_eq!(value(&mut console, "conffile"), other.display().to_string());
    assert_eq!(value(&mut console, "default_pool_size"), "1");
    console.execute("RELOAD");
    assert_eq!(value(&mut console, "default_pool_size"), "4");
    console.execute("RELOAD");
    assert_eq!(value(&mut console, "default_pool_size"), "4");
}

#[test]
fn check_says_what_a_running_process_would_change() {
    let mut pooled = pooled("", |builder| builder);
    let dir = pooled.pooler.dir();
    let file = dir.join("pooler.ini");
    let owner = fs::metadata(&dir).unwrap();
    let binary = fs::read_link(format!("/proc/{}/exe", pooled.pooler.pid())).unwrap();
    let check = |uid: u32, gid: u32, against: &Path| {
        let mut check = Command::new(&binary);
        check.uid(uid).gid(gid).current_dir("/").args(["check", "--against"]).arg(against).arg(&file);
        let output = check.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let as_owner = |against: &Path| check(owner.uid(), owner.gid(), against);
    let same = (Some(0), format!("{}: a reload changes nothing\n", file.display()));
    assert_eq!(as_owner(&dir), same);

    pooled.pooler.rewrite(|builder| builder.setting("default_pool_size", 5).setting("so_reuseport", 1));
    let changes = "setting default_pool_size: 1 -> 5 (now)\nsetting so_reuseport: 0 -> 1 (next start)\n";
    let socket = dir.join(format!(".s.PGSQL.{}", pooled.pooler.port()));
    assert_eq!(as_owner(&socket), (Some(0), changes.to_owned()));
    assert_eq!(
        row_where(&mut pooled.pooler.console(), "CONFIG", "key", "default_pool_size").number("value"),
        1
    );

    let (code, said) = as_owner(&dir.join("none"));
    assert!(code == Some(1) && said.starts_with("no answer from the console at "), "{said}");
    pooled.pooler.rewrite(|builder| builder.setting("max_client_conn", "many"));
    let (code, said) = as_owner(&dir);
    assert!(
        code == Some(1) && said.contains("invalid value \"many\" for parameter max_client_conn"),
        "{said}"
    );
    assert!(table(&mut pooled.pooler.console(), "CLIENTS").iter().all(|row| row.text("user") != "pgbouncer"));
}

/// Settings that are read at a login, for each message, at the end of a transaction, or by a tick: all count from the
/// reload on, for those who are connected as well.
#[test]
fn single_settings_count_at_once() {
    let mut pooled = pooled("", |builder| builder.setting("stats_users", "old").secret("old", ""));
    let mut client = pooled.connect();
    client.execute("select 1");
    let console = |pooler: &Pooler, user: &str| {
        let target = pooler.target("pgbouncer").user(user);
        Client::try_login(&target).map(drop).map_err(|error| error.refusal().message().to_owned())
    };
    assert_eq!(console(&pooled.pooler, "old"), Ok(()));
    pooled.pooler.reload(|builder| {
        builder
            .setting("stats_users", "new")
            .secret("new", "")
            .setting("application_name_add_host", 1)
            .setting("pool_mode", "session")
            .setting("log_connections", 0)
            .setting("query_timeout", 1)
            .setting("max_packet_size", 1000)
    });
    assert_eq!(console(&pooled.pooler, "old"), Err("not allowed".to_owned()));
    assert_eq!(console(&pooled.pooler, "new"), Ok(()));
    assert_eq!(pooled.pooler.log().matches("login attempt: db=pgbouncer user=new").count(), 0);
    // In session mode its server stays with it.
    let mut admin = pooled.pooler.console();
    client.execute("select 1");
    assert_eq!(row_where(&mut admin, "POOLS", "database", pooled.database.name()).number("sv_active"), 1);
    client.send(query("select pg_sleep(60)"));
    assert_eq!(client.expect_closed().error().expect("an error").message(), "query timeout");
    let mut other = Client::login(&pooled.target().param("application_name", "me"));
    assert!(other.scalar("show application_name").starts_with("me - 127.0.0.1:"));
    other.send(query(&format!("select '{}'", "x".repeat(2000))));
    let error = other.expect_closed().error().expect("an error");
    assert!(error.message().starts_with("bad packet header"), "{}", error.message());
}

/// Where nobody looked after the state of sessions, nobody knows what clients have left there.
#[test]
fn session_state_is_followed_from_fresh_servers_on() {
    let mut pooled = pooled("", |builder| builder.setting("session_state", "discard"));
    pooled.connect().execute("set work_mem = '1234kB'");
    pooled.pooler.reload(|builder| builder.setting("session_state", "preserve"));
    assert_ne!(pooled.connect().scalar("show work_mem"), "1234kB");
}
