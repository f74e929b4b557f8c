//! Replication through the pooler, by the programs that do it.

use std::fs;
use std::time::Duration;

use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, Options, Postgres, SUPERUSER};
use support::tools::Tool;
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::pooler;

const SOON: Duration = Duration::from_secs(30);

struct Replicated {
    pooler: Pooler,
    database: Database,
    postgres: Postgres,
}

/// A cluster of its own, since slots and subscriptions are the cluster's. Physical replication asks for a database of the
/// name `replication`.
fn replicated(configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Replicated {
    let postgres = Postgres::start(Options::new());
    let database = postgres.database("published");
    let builder = pooler().secret(SUPERUSER, "").database(&database, "");
    let pooler = configure(builder.database_as("replication", &database, "")).start();
    Replicated { pooler, database, postgres }
}

impl Replicated {
    fn target(&self) -> Target {
        self.pooler.target(self.database.name()).user(SUPERUSER)
    }

    fn sql(&self, sql: &str) -> String {
        let mut client = Client::login(&self.postgres.superuser(self.database.name()));
        let reply = client.execute(sql);
        reply.rows().last().and_then(|row| row[0].clone()).unwrap_or_default()
    }

    /// A directory that is removed with the pooler.
    fn dir(&self, name: &str) -> String {
        self.pooler.dir().join(name).display().to_string()
    }
}

#[test]
fn links_of_both_kinds_beside_ordinary_ones() {
    let replicated = replicated(|builder| builder.setting("default_pool_size", 3));
    let mut ordinary = Client::login(&replicated.target());
    for (kind, name) in [("database", replicated.database.name()), ("true", "replication")] {
        let target = replicated.pooler.target(name).user(SUPERUSER);
        let target = target.param("replication", kind).param("application_name", "walreader");
        let target = target.param("options", "-c work_mem=7MB -c extra_float_digits=0");
        let mut link = Client::login(&target);
        let reply = link.query("IDENTIFY_SYSTEM");
        assert!(reply.error().is_none(), "{reply:?}");
        assert_eq!(link.query("SHOW work_mem").rows(), [[Some("7MB".to_owned())]]);
        let seen = "select count(*) from pg_stat_activity where application_name = 'walreader'";
        assert_eq!(replicated.sql(seen), "1");
        assert_eq!(ordinary.scalar("select 1"), "1");
        link.terminate();
        eventually("its server is gone", SOON, || replicated.sql(seen) == "0");
    }
}

#[test]
fn who_may_not_replicate_is_told_so_and_the_log_why() {
    let replicated = replicated(|builder| builder);
    let mut other = Client::login(&replicated.pooler.target(replicated.database.name()));
    for (kind, name) in [("database", replicated.database.name()), ("true", "replication")] {
        let target = replicated.pooler.target(name).param("replication", kind);
        let mut link = match Client::try_login(&target) {
            Ok(link) => link,
            Err(error) => panic!("{kind}: {error:?}"),
        };
        link.send(support::frontend::query("IDENTIFY_SYSTEM"));
        let error = link.expect_closed().error().expect("an error");
        assert_eq!((error.severity(), error.message()), ("FATAL", "login failed"), "{kind}");
        assert_eq!(other.scalar("select 1"), "1");
    }
    replicated.pooler.wait_for_log("replication login failed: ");
}

#[test]
fn pg_recvlogical_gets_changes() {
    let replicated = replicated(|builder| builder);
    replicated.sql("create table t (v text); create publication p for all tables");
    let recvlogical =
        |args: &[&str]| Tool::new("pg_recvlogical", &replicated.target()).args(args).run().success();
    let name = replicated.database.name();
    recvlogical(&["-d", name, "--slot", "s", "-P", "pgoutput", "--create-slot"]);
    replicated.sql("insert into t values ('the row that is sent')");
    let end = replicated.sql("select pg_current_wal_insert_lsn()");
    let file = replicated.dir("changes");
    recvlogical(&[
        "-d",
        name,
        "--slot",
        "s",
        "-o",
        "proto_version=1",
        "-o",
        "publication_names=p",
        "--endpos",
        &end,
        "-f",
        &file,
        "--no-loop",
        "--start",
    ]);
    let changes = fs::read(&file).unwrap();
    assert!(String::from_utf8_lossy(&changes).contains("the row that is sent"));
    recvlogical(&["-d", name, "--slot", "s", "--drop-slot"]);
}

#[test]
fn pg_receivewal_gets_the_log() {
    let replicated = replicated(|builder| builder);
    replicated.sql("create table t (v text)");
    replicated.sql("insert into t values ('a')");
    let end = replicated.sql("select pg_current_wal_lsn()");
    replicated.sql("insert into t values ('behind the end')");
    let dir = replicated.dir("wal");
    fs::create_dir(&dir).unwrap();
    let receive = Tool::new("pg_receivewal", &replicated.target());
    receive.args(["-D", &dir, "--endpos", &end, "--no-loop", "--no-sync"]).run().success();
    assert!(fs::read_dir(&dir).unwrap().count() > 0);
}

#[test]
fn pg_basebackup_copies_the_cluster() {
    let replicated = replicated(|builder| builder);
    let dir = replicated.dir("backup");
    let backup = Tool::new("pg_basebackup", &replicated.target());
    backup.args(["-D", &dir, "--checkpoint=fast", "--no-sync", "-X", "stream"]).run().success();
    assert!(fs::metadata(format!("{dir}/PG_VERSION")).is_ok());
}

#[test]
fn a_subscription_by_way_of_the_pooler() {
    let replicated = replicated(|builder| builder);
    let subscriber = replicated.postgres.database("subscriber");
    let table = "create table t (id int primary key, v text)";
    replicated.sql(table);
    replicated.sql("insert into t values (1, 'before')");
    replicated.sql("create publication p for table t");
    replicated.sql("select pg_create_logical_replication_slot('s', 'pgoutput')");
    let mut admin = Client::login(&replicated.postgres.superuser(subscriber.name()));
    admin.execute(table);
    admin.execute(&format!(
        "create subscription sub connection 'host=127.0.0.1 port={} dbname={} user=postgres' publication p \
         with (create_slot = false, slot_name = 's')",
        replicated.pooler.port(),
        replicated.database.name()
    ));
    eventually("the first row is copied", SOON, || admin.scalar("select count(*) from t") == "1");
    replicated.sql("insert into t values (2, 'after')");
    eventually("the second follows", SOON, || {
        admin.scalar("select count(*) from t where v = 'after'") == "1"
    });
    admin.execute("alter subscription sub disable");
    admin.execute("alter subscription sub set (slot_name = none)");
    admin.execute("drop subscription sub");
}
