//! Faults of PgBouncer that are not copied, of the table in docs/moving-from-pgbouncer.md: those that no other module shows.

use std::fs;
use std::time::Duration;

use support::pooler::{Pooler, StartError};
use support::postgres::USER;
use support::wire::{Client, LoginError};

use crate::common::{Pooled, pooled, pooler};
use crate::console::row_where;

/// Any name is the same database, any client the same user there.
fn open_to_all() -> Pooled {
    let mut pooled = pooled("", |builder| builder.secret("guest", ""));
    let (port, name) = (pooled.database.postgres().port(), pooled.database.name().to_owned());
    let line = format!("host=127.0.0.1 port={port} dbname={name} user={USER}");
    pooled.pooler.reload(|builder| builder.database_line("*", &line));
    pooled
}

fn edit(pooler: &Pooler, file: &str, from: &str, to: &str) {
    let path = pooler.dir().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

fn why_not(pooled: &Pooled, user: &str, database: &str) -> String {
    let login = Client::try_login(&pooled.pooler.target(database).user(user));
    login.map(drop).map_err(LoginError::refusal).expect_err("a refused login").message().to_owned()
}

/// With PgBouncer both go on until the next start: the user at least where no password is asked for.
#[test]
fn whoever_is_taken_out_of_the_files_is_out() {
    let pooled = open_to_all();
    let mut guest = Client::login(&pooled.pooler.target("some").user("guest"));
    edit(&pooled.pooler, "userlist.txt", "\"guest\"", "; \"guest\"");
    pooled.pooler.console().execute("RELOAD");
    assert_eq!(why_not(&pooled, "guest", "some"), "\"trust\" authentication failed");
    guest.execute("select 1"); // as in PostgreSQL: who is in stays

    pooled.pooler.connect("some").execute("select 1");
    edit(&pooled.pooler, "pooler.ini", "\n* = ", "\n; * = ");
    pooled.pooler.console().execute("RELOAD");
    for name in ["some", "other"] {
        assert_eq!(why_not(&pooled, USER, name), format!("no such database: {name}"));
    }
}

/// PgBouncer would read no further, and say that all is well.
#[test]
fn a_user_list_that_cannot_be_read_is_a_fault() {
    let pooled = open_to_all();
    edit(&pooled.pooler, "userlist.txt", "\"guest\"", "# who is this?\n\"guest\"");
    assert_eq!(pooled.pooler.console().query("RELOAD").error_code(), "F0000");
    pooled.pooler.wait_for_log("userlist.txt");
    Client::login(&pooled.pooler.target("some").user("guest")).execute("select 1");

    let outcome = pooler().setting("auth_file", "/proc/version").try_start();
    assert!(matches!(outcome, Err(StartError::Ended(status, _)) if status.code() == Some(1)), "{outcome:?}");
}

#[test]
fn a_setting_without_a_default_that_is_taken_out_is_unset() {
    let mut pooled = open_to_all();
    let value = |pooled: &Pooled| {
        let row = row_where(&mut pooled.pooler.console(), "CONFIG", "key", "auth_dbname");
        row.text("value").to_owned()
    };
    pooled.pooler.reload(|builder| builder.setting("auth_dbname", "some"));
    assert_eq!(value(&pooled), "some");
    edit(&pooled.pooler, "pooler.ini", "auth_dbname = some\n", "");
    pooled.pooler.console().execute("RELOAD");
    assert_eq!(value(&pooled), "");
}

/// PgBouncer would disconnect everybody else within a third of a second.
#[test]
fn an_idle_limit_of_one_user_is_nobody_elses() {
    let pooled =
        pooled("", |builder| builder.secret("guest", "").user_line("guest", "client_idle_timeout=1000"));
    let mut client = pooled.connect();
    client.execute("select 1");
    client.expect_silence(Duration::from_secs(1));
    client.execute("select 1");
}

/// PgBouncer would lend it again as it is.
#[test]
fn a_server_that_could_not_be_reset_is_closed() {
    let pooled = pooled("", |builder| {
        builder.setting("pool_mode", "session").setting("server_reset_query", "select nonsense")
    });
    let mut first = pooled.connect();
    let pid = first.backend_pid();
    first.terminate();
    assert_ne!(pooled.connect().backend_pid(), pid);
}
