//! A primary and its replicas behind one address: where requests go, what reads see, and what happens when a host fails.

mod answers;
mod certainty;
mod cluster;
mod consistency;
mod failover;
mod following;
mod health;
mod ledger;
mod loss;
mod modes;
mod patroni;
mod roles;
mod routing;
mod shown;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use support::frontend::*;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, Postgres};
use support::replicas::Replicas;
use support::wait::eventually;
use support::wire::{Client, Reply, Target};

use crate::common::pooler;
use crate::console::{Row, table};

const SOON: Duration = Duration::from_secs(10);

/// What a host tells of itself that counts as a read: each of the set listens on a port of its own.
const PORT: &str = "current_setting('port')";

/// Hosts of one test, a database of them, and a pooler that knows all of them.
struct Fleet {
    pooler: Pooler,
    database: Database,
    set: Arc<Replicas>,
}

/// A primary with two replicas that nobody stops or delays.
fn quiet_set() -> Arc<Replicas> {
    static SET: OnceLock<Arc<Replicas>> = OnceLock::new();
    SET.get_or_init(|| Arc::new(Replicas::start(2))).clone()
}

/// Reads may see what a replica happens to have: where they go depends on nothing but their text.
fn eventual(builder: PoolerBuilder) -> PoolerBuilder {
    builder.setting("read_consistency", "eventual")
}

/// Where a database is, for `[databases]`.
fn hosts(set: &Replicas, database: &Database) -> String {
    let ports: Vec<u16> = set.replicas.iter().map(Postgres::port).collect();
    line(set.primary.port(), &ports, database)
}

fn line(primary: u16, replicas: &[u16], database: &Database) -> String {
    let replicas: Vec<String> = replicas.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("host=127.0.0.1 port={primary} dbname={} replicas={}", database.name(), replicas.join(","))
}

/// A database that all hosts of the set have.
fn database_of(set: &Replicas, setup: &str) -> Database {
    let database = set.primary.database("fleet");
    if !setup.is_empty() {
        database.connect().execute(setup);
    }
    set.catch_up();
    database
}

impl Fleet {
    /// In front of the hosts that other tests use as well; with `read_routing = auto` and further settings.
    #[track_caller]
    fn quiet(setup: &str, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Fleet {
        Fleet::start(quiet_set(), setup, configure)
    }

    /// In front of hosts of its own.
    #[track_caller]
    fn own(count: usize, setup: &str, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Fleet {
        Fleet::start(Arc::new(Replicas::start(count)), setup, configure)
    }

    #[track_caller]
    fn start(
        set: Arc<Replicas>,
        setup: &str,
        configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder,
    ) -> Fleet {
        let database = database_of(&set, setup);
        let hosts = hosts(&set, &database);
        let builder = pooler().setting("read_routing", "auto").setting("default_pool_size", 10);
        let pooler = configure(builder).database_line(database.name(), &hosts).start();
        let fleet = Fleet { pooler, database, set };
        fleet.wait_until_known();
        fleet
    }

    /// One more pooler in front of the same hosts.
    #[track_caller]
    fn another_pooler(&self, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Pooler {
        let builder = pooler().setting("read_routing", "auto").setting("default_pool_size", 10);
        let hosts = hosts(&self.set, &self.database);
        let pooler = configure(builder).database_line(self.database.name(), &hosts).start();
        wait_until_known(&pooler, self.database.name(), self.set.replicas.len());
        pooler
    }

    fn target(&self) -> Target {
        self.pooler.target(self.database.name())
    }

    #[track_caller]
    fn connect(&self) -> Client {
        Client::login(&self.target())
    }

    /// Waits until the pooler has seen what each of its hosts is.
    #[track_caller]
    fn wait_until_known(&self) {
        wait_until_known(&self.pooler, self.database.name(), self.set.replicas.len());
    }

    /// The hosts at the start of the test, the primary first.
    fn members(&self) -> Vec<&Postgres> {
        std::iter::once(&self.set.primary).chain(&self.set.replicas).collect()
    }

    /// Which of [`Fleet::members`] has this port.
    #[track_caller]
    fn place(&self, port: &str) -> usize {
        let is_it = |host: &&Postgres| host.port().to_string() == port;
        self.members().iter().position(is_it).unwrap_or_else(|| panic!("no host has port {port}"))
    }

    /// Where the last column of a reply says that it was made.
    #[track_caller]
    fn place_of(&self, reply: &Reply) -> usize {
        let port = last_value(reply);
        self.place(&port)
    }

    /// Where a plain read goes now.
    #[track_caller]
    fn reads_at(&self, client: &mut Client) -> usize {
        self.place(&client.scalar(&format!("select {PORT}")))
    }

    /// Asks until every replica has answered: what stands before the port must be the same each time.
    #[track_caller]
    fn ask_every_replica(&self, client: &mut Client, columns: &str, expected: &[&str]) {
        let mut waiting: Vec<usize> = (1..=self.set.replicas.len()).collect();
        eventually(&format!("every replica is asked for {columns}"), SOON, || {
            let reply = client.execute(&format!("select {columns}, {PORT}"));
            let mut row = reply.rows().remove(0);
            let at = self.place(&row.pop().flatten().expect("a port"));
            let row: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap_or_default()).collect();
            assert_eq!(row, expected, "{columns} at host {at}");
            waiting.retain(|place| *place != at);
            waiting.is_empty()
        });
    }

    /// The row of `SHOW HOSTS` for each of [`Fleet::members`].
    #[track_caller]
    fn shown(&self) -> Vec<Row> {
        let mut rows = table(&mut self.pooler.console(), "HOSTS");
        let row = |host: &Postgres| {
            let is_it = |row: &Row| row.text("port") == host.port().to_string();
            let at = rows.iter().position(is_it).unwrap_or_else(|| panic!("{} is not shown", host.port()));
            rows.swap_remove(at)
        };
        self.members().into_iter().map(row).collect()
    }

    /// Transactions that went to each host because they only read.
    #[track_caller]
    fn reads(&self) -> Vec<u64> {
        self.shown().iter().map(|row| row.number("reads")).collect()
    }

    /// What each replica has logged about this database that only a standby says.
    fn refusals(&self) -> Vec<String> {
        let mark = format!("@{} ", self.database.name());
        let said = |host: &Postgres| {
            let log = host.log();
            let is_one = |line: &&str| {
                let refused = line.contains("read-only transaction") || line.contains("during recovery");
                line.contains(&mark) && line.contains("ERROR") && refused
            };
            log.lines().filter(is_one).map(str::to_owned).collect::<Vec<_>>()
        };
        self.set.replicas.iter().flat_map(said).collect()
    }

    /// Runs SQL as superuser in the database, at one host.
    #[track_caller]
    fn sql_at(&self, place: usize, sql: &str) -> Reply {
        Client::login(&self.members()[place].superuser(self.database.name())).execute(sql)
    }

    /// Waits until one of the hosts runs a statement that begins so: which one, and the process.
    #[track_caller]
    fn wait_for_running(&self, statement: &str) -> (usize, String) {
        let sql = format!(
            "select pid from pg_stat_activity where datname = '{}' and state = 'active' \
             and starts_with(query, '{}')",
            self.database.name(),
            statement.replace('\'', "''")
        );
        let mut found = None;
        eventually(&format!("{statement:?} runs"), SOON, || {
            for (place, host) in self.members().into_iter().enumerate().filter(|(_, host)| host.is_running())
            {
                let rows = host.sql(&sql).rows();
                found = rows.first().map(|row| (place, row[0].clone().expect("a process id")));
                if found.is_some() {
                    return true;
                }
            }
            false
        });
        found.expect("it runs")
    }
}

/// Waits until a pooler has seen one primary and so many standbys. Somebody must have come, so that it looks.
#[track_caller]
fn wait_until_known(pooler: &Pooler, database: &str, replicas: usize) {
    pooler.connect(database).execute("select 1");
    eventually("the roles of all hosts are known", SOON, || {
        let rows = table(&mut pooler.console(), "HOSTS");
        let count = |role: &str| rows.iter().filter(|row| row.text("role") == role).count();
        (count("primary"), count("standby")) == (1, replicas)
    });
}

/// The last column of the last row.
#[track_caller]
fn last_value(reply: &Reply) -> String {
    let row = reply.rows().pop();
    row.and_then(|mut row| row.pop().flatten()).unwrap_or_else(|| panic!("no value in {reply:?}"))
}

/// Parse, Bind, Describe and Execute of the unnamed statement, without a Sync.
fn batch(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
}

/// Runs a statement in the extended protocol.
#[track_caller]
fn extended(client: &mut Client, sql: &str) -> Reply {
    client.send([batch(sql), sync()].concat());
    client.read_until_ready()
}

/// The pooler has said that a value means nothing to it.
fn warned(reply: &Reply) -> bool {
    reply.0.iter().any(|message| message.notice().is_some_and(|notice| notice.code() == "22023"))
}
