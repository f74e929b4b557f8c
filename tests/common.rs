//! What most modules begin with.

use std::path::PathBuf;
use std::time::Duration;

use support::message::Fields;
use support::oracle::{Oracle, Script, Way};
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{Database, Postgres, USER};
use support::wait::eventually;
use support::wire::{Client, Target};

/// pgferry, or the pooler that `POOLER_BIN` names (`/usr/sbin/pgbouncer`, to see whether a test is right). Failed logins are
/// not slowed: all tests come from one address.
pub(crate) fn pooler() -> PoolerBuilder {
    match std::env::var_os("POOLER_BIN").map(PathBuf::from) {
        Some(binary) => PoolerBuilder::new(binary),
        None => PoolerBuilder::new(env!("CARGO_BIN_EXE_pgferry")).setting("auth_failure_delay", 0),
    }
}

/// A pooler in front of one database of the shared cluster.
pub(crate) struct Pooled {
    pub(crate) pooler: Pooler,
    pub(crate) database: Database,
}

/// A pooler with one server connection in front of a fresh database, with further settings.
pub(crate) fn pooled(setup: &str, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Pooled {
    let database = prepared_database("pooled", setup);
    let pooler = configure(pooler().setting("default_pool_size", 1).database(&database, "")).start();
    Pooled { pooler, database }
}

impl Pooled {
    /// The way in through the pooler.
    pub(crate) fn target(&self) -> Target {
        self.pooler.target(self.database.name())
    }

    /// A client of the pooler.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::login(&self.target())
    }

    /// Waits until every server connection is idle outside a transaction, or closed.
    #[track_caller]
    pub(crate) fn settle(&self) {
        settle(&self.database);
    }
}

/// PostgreSQL directly, and through a pooler with one server connection: in transaction mode, and in session mode.
pub(crate) struct Pair {
    pub(crate) oracle: Oracle,
    /// Kept for its process.
    _pooler: Pooler,
}

/// Databases prepared by the same SQL, a pooler in front of all but one.
pub(crate) fn pair(setup: &str) -> Pair {
    let [direct, transaction, session] =
        ["direct", "transaction", "session"].map(|name| prepared_database(name, setup));
    let builder = pooler().setting("default_pool_size", 1);
    let pooler = builder.database(&transaction, "").database(&session, "pool_mode=session").start();
    let pooled = |database: Database| Way { target: pooler.target(database.name()), database };
    let pooled = vec![pooled(transaction), pooled(session)];
    Pair {
        oracle: Oracle { direct: Way { target: direct.target(), database: direct }, pooled },
        _pooler: pooler,
    }
}

impl Pair {
    /// The script must be answered alike; afterwards the one server connection must be clean and serve the next client.
    /// Scripts with several clients run in transaction mode only: in session mode the second client would wait for the
    /// end of the first.
    #[track_caller]
    pub(crate) fn check(&self, script: &Script) {
        let ways = if script.clients() > 1 { &self.oracle.pooled[..1] } else { &self.oracle.pooled };
        self.oracle.check_on(ways, script);
        ways.iter().for_each(|way| settle(&way.database));
    }
}

/// One way to configure a pooler.
pub(crate) type Configure = fn(PoolerBuilder) -> PoolerBuilder;

/// Poolers whose clients meet every state of a server: one connection shared by all clients, a fresh connection for each
/// transaction, two connections used in turn.
pub(crate) const CONFIGURATIONS: [Configure; 3] = [
    |builder| builder.setting("default_pool_size", 1),
    |builder| builder.setting("default_pool_size", 1).setting("server_lifetime", 0),
    |builder| builder.setting("default_pool_size", 2).setting("server_round_robin", 1),
];

/// PostgreSQL directly, and through poolers that are configured in several ways.
pub(crate) struct Ways {
    pub(crate) oracle: Oracle,
    /// Kept for their processes.
    _poolers: Vec<Pooler>,
}

/// Databases prepared by the same SQL, a pooler in transaction mode in front of each but one.
pub(crate) fn ways<const N: usize>(setup: &str, configurations: [Configure; N]) -> Ways {
    let direct = prepared_database("direct", setup);
    let (mut pooled, mut poolers) = (Vec::new(), Vec::new());
    for configure in configurations {
        let database = prepared_database("way", setup);
        let pooler = configure(pooler()).database(&database, "").start();
        pooled.push(Way { target: pooler.target(database.name()), database });
        poolers.push(pooler);
    }
    Ways {
        oracle: Oracle { direct: Way { target: direct.target(), database: direct }, pooled },
        _poolers: poolers,
    }
}

pub(crate) fn prepared_database(hint: &str, setup: &str) -> Database {
    let database = Postgres::shared().database(hint);
    if !setup.is_empty() {
        database.connect().execute(setup);
    }
    database
}

#[track_caller]
fn settle(database: &Database) {
    eventually("idle server connections, at most one", Duration::from_secs(10), || {
        let backends = database.backends(USER);
        backends.len() <= 1 && backends.iter().all(|backend| backend.state == "idle")
    });
}

/// What a client is told whose login is refused.
#[track_caller]
pub(crate) fn refusal(target: &Target) -> Fields {
    match Client::try_login(target) {
        Ok(_) => panic!("{} was let in to {}", target.user, target.database),
        Err(error) => error.refusal(),
    }
}
