//! The handle for everything that is not a query: console commands, signals, reloads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tracing::info;

use crate::advice::{self, Advice};
use crate::blockers::{self, BlockerRow};
use crate::config::Config;
use crate::error::Refusal;
use crate::lifecycle::Phase;
pub use crate::newcomers::NewcomerCounts;
use crate::pool::{Db, Pool, PoolRules};
use crate::queries::QueryRow;
use crate::reload::{self, Effect, Plan};
use crate::server::reach;
use crate::shared::Shared;
use crate::snapshot::{
    self, Counts, DatabaseRow, DnsHostRow, EventsRow, FdRow, HostRow, LatencyRow, MemoryRow, PeerRow, PinRow,
    PinTotalsRow, PoolRow, RouteRow, RoutedRow, SaturationRow, SocketRow, StatsRow, UserRow,
};
use crate::state::Defined;
use crate::waiting::{self, WaitingRow};
use crate::worker::Order;

/// Steers a running pooler, from any thread.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

/// Why a command was not carried out. The texts are PgBouncer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlError {
    /// No such database.
    NoSuchDatabase(String),
    /// `PAUSE` or `KILL` while the process is paused.
    AlreadyPaused,
    /// `RESUME` while it is not.
    NotPaused,
    /// `RESUME db` for a database that is not paused.
    DatabaseNotPaused(String),
    /// `RESUME` during a shutdown.
    ShuttingDown,
    /// `SUSPEND` while a database is paused.
    DatabasePaused,
    /// `KILL_CLIENT` of a client that is not there.
    ClientNotFound,
    /// A pause was ended before it was complete.
    Resumed,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::NoSuchDatabase(name) => write!(f, "no such database: {name}"),
            ControlError::AlreadyPaused => f.write_str("already suspended/paused"),
            ControlError::NotPaused => f.write_str("pooler is not paused/suspended"),
            ControlError::DatabaseNotPaused(name) => write!(f, "database {name} is not paused"),
            ControlError::ShuttingDown => f.write_str("pooler is shutting down"),
            ControlError::DatabasePaused => f.write_str("cannot suspend with paused databases"),
            ControlError::ClientNotFound => f.write_str("client not found"),
            ControlError::Resumed => f.write_str("resumed before everything was at rest"),
        }
    }
}

impl std::error::Error for ControlError {}

/// How often a command that waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Control {
        Control { shared }
    }

    /// The configuration in effect.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.load_full()
    }

    /// The TCP port, or the number in the Unix socket's name.
    pub fn port(&self) -> u16 {
        self.shared.port()
    }

    /// Where the process stands.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Clients go over to a process that has taken this one's place.
    pub fn hands_over(&self) -> bool {
        self.shared.handover.gives()
    }

    /// Whether a global `PAUSE` is in effect.
    pub fn is_paused(&self) -> bool {
        self.shared.is_paused()
    }

    /// Whether `SUSPEND` is in effect.
    pub fn is_suspended(&self) -> bool {
        self.shared.is_suspended()
    }

    // ---- what there is ---------------------------------------------------------------------------------------

    /// Every pool, by database and user; the console counts as one.
    pub fn pools(&self) -> Vec<PoolRow> {
        snapshot::pools(&self.shared)
    }

    /// Every client, by number, those of the console included.
    pub fn clients(&self) -> Vec<SocketRow> {
        snapshot::clients(&self.shared)
    }

    /// Every server connection, by pool.
    pub fn servers(&self) -> Vec<SocketRow> {
        snapshot::servers(&self.shared)
    }

    /// Every client that has not finished its login, by number.
    pub fn arriving(&self) -> Vec<SocketRow> {
        snapshot::arriving(&self.shared)
    }

    /// Every descriptor of a socket: listening, of clients, of servers.
    pub fn fds(&self) -> Vec<FdRow> {
        snapshot::fds(&self.shared)
    }

    /// What memory goes to, by kind.
    pub fn memory(&self) -> Vec<MemoryRow> {
        snapshot::memory(&self.shared)
    }

    /// Every client that keeps its server between transactions, by number.
    pub fn pins(&self) -> Vec<PinRow> {
        snapshot::pins(&self.shared)
    }

    /// Connections that have not logged in, and what failed logins have led to.
    pub fn newcomers(&self) -> NewcomerCounts {
        self.shared.newcomers.counts(self.shared.clock.micros())
    }

    /// What was ended, cancelled or refused, by pool; without one, first.
    pub fn events(&self) -> Vec<EventsRow> {
        snapshot::events(&self.shared)
    }

    /// How often clients kept their servers and why, by pool.
    pub fn pin_totals(&self) -> Vec<PinTotalsRow> {
        snapshot::pin_totals(&self.shared)
    }

    /// How long waits, requests and transactions took, by pool.
    pub fn latencies(&self) -> Vec<LatencyRow> {
        snapshot::latencies(&self.shared)
    }

    /// Where requests went, by pool and reason.
    pub fn routed(&self) -> Vec<RoutedRow> {
        snapshot::routed(&self.shared)
    }

    /// Where a text would go, in this database or in all whose requests may go to more than one host.
    ///
    /// # Errors
    /// No such database.
    pub fn route(&self, database: Option<&str>, text: &str) -> Result<Vec<RouteRow>, ControlError> {
        let config = self.shared.config.load();
        let mut databases = self.databases_or_all(database)?;
        if database.is_none() {
            databases.retain(|db| db.spec.load().is_observed(&config));
        }
        let hosts = self.hosts();
        let row = |db: &Arc<Db>| {
            let is_its = |host: &&HostRow| host.databases.contains(&db.name);
            let hosts: Vec<HostRow> = hosts.iter().filter(is_its).cloned().collect();
            snapshot::route(&self.shared, db, &hosts, text)
        };
        Ok(databases.iter().map(row).collect())
    }

    /// What holds servers, by statement, pool by pool; those first that hold them longest.
    pub fn queries(&self) -> Vec<QueryRow> {
        let most = self.shared.config.load().query_stats;
        let pools = self.shared.registry.homes();
        pools.iter().flat_map(|pool| pool.queries.top(&pool.db.name, &pool.user.name, most)).collect()
    }

    /// Who waits for whom in PostgreSQL, and who idles in a transaction. Asks PostgreSQL, for two seconds at most.
    pub async fn blockers(&self) -> Vec<BlockerRow> {
        blockers::rows(&self.shared).await
    }

    /// What an operator should look at. Asks PostgreSQL for its limits, for two seconds at most.
    pub async fn advice(&self) -> Vec<Advice> {
        advice::advise(&advice::gather(&self.shared).await)
    }

    /// How full each pool is.
    pub fn saturation(&self) -> Vec<SaturationRow> {
        snapshot::saturation(&self.shared)
    }

    /// Clients that wait for a server, in the order in which they came. Asks the workers, and blocks for that up to half
    /// a second.
    pub fn waiting(&self) -> Vec<WaitingRow> {
        waiting::rows(&self.shared)
    }

    /// Counters by database.
    pub fn stats(&self) -> Vec<StatsRow> {
        snapshot::stats(&self.shared)
    }

    /// Every host of a database whose hosts are observed.
    pub fn hosts(&self) -> Vec<HostRow> {
        snapshot::hosts(&self.shared)
    }

    /// Every database, by name.
    pub fn databases(&self) -> Vec<DatabaseRow> {
        snapshot::databases(&self.shared)
    }

    /// Every known user, by name.
    pub fn users(&self) -> Vec<UserRow> {
        snapshot::users(&self.shared)
    }

    /// Every peer, by number.
    pub fn peers(&self) -> Vec<PeerRow> {
        snapshot::peers(&self.shared)
    }

    /// Every name of a server that was looked up, in order.
    pub fn dns_hosts(&self) -> Vec<DnsHostRow> {
        self.shared.dns_hosts()
    }

    /// How many there are of what.
    pub fn counts(&self) -> Counts {
        snapshot::counts(&self.shared)
    }

    /// When the process started.
    pub fn started(&self) -> SystemTime {
        self.shared.clock.wall(0)
    }

    /// How many connections each worker carries.
    pub fn worker_loads(&self) -> Vec<usize> {
        self.shared.workers.get().map_or_else(Vec::new, |workers| workers.iter().map(|w| w.load()).collect())
    }

    /// Bytes kept for clients, of those that `buffer_limit` limits.
    pub fn kept_bytes(&self) -> usize {
        self.shared.buffers.kept()
    }

    /// Tries the hosts of databases that are cut off. Clients may have stopped coming, and with them the attempts that
    /// would find out that a server is back. None is tried more often than `server_login_retry` says.
    pub async fn look_again(&self) {
        let shared = &self.shared;
        for db in shared.registry.databases().iter().filter(|db| db.servers.get() == 0) {
            let targets = db.targets();
            if shared.hosts.down_until(&targets).is_none_or(|until| shared.clock.micros() < until) {
                continue;
            }
            for (host, port) in &targets {
                let attempt = tokio::time::timeout(Duration::from_secs(1), reach(shared, host, *port)).await;
                let pause = shared.config.load().timeouts.server_login_retry.as_micros() as u64;
                let down_until = (!matches!(attempt, Ok(Ok(_)))).then(|| shared.clock.micros() + pause);
                shared.hosts.looked_at(host, *port, down_until);
            }
        }
    }

    // ---- commands --------------------------------------------------------------------------------------------

    /// `PAUSE`: no server is handed out any more; returns when all that were in use have been given back. Dropping
    /// the future stops the waiting, not the pause.
    ///
    /// # Errors
    /// Paused already, or no such database.
    pub async fn pause(&self, database: Option<&str>) -> Result<(), ControlError> {
        self.check_not_paused()?;
        let pools = match database {
            None => {
                self.shared.set_paused(true);
                self.shared.registry.pools()
            }
            Some(name) => {
                let db = self.database(name)?;
                db.paused.store(true, Relaxed);
                db.pools()
            }
        };
        pools.iter().for_each(|pool| pool.hold(true));
        while pools.iter().any(|pool| pool.open.get() + pool.watching.get() + pool.db.hub.open().get() > 0) {
            tokio::time::sleep(LOOK_AGAIN).await;
            if pools.iter().any(|pool| !pool.is_held()) {
                return Err(ControlError::Resumed);
            }
        }
        Ok(())
    }

    fn check_not_paused(&self) -> Result<(), ControlError> {
        match self.shared.is_paused() || self.shared.is_suspended() {
            true => Err(ControlError::AlreadyPaused),
            false => Ok(()),
        }
    }

    /// `SUSPEND`: nothing more is accepted or read; returns when no message is under way and nothing is unsent. Who has
    /// not come to rest after `suspend_timeout` is disconnected. Ends by itself when no console client is left.
    ///
    /// # Errors
    /// Paused already, the whole or a database.
    pub async fn suspend(&self) -> Result<(), ControlError> {
        self.check_not_paused()?;
        if self.shared.registry.databases().iter().any(|db| db.paused.load(Relaxed)) {
            return Err(ControlError::DatabasePaused);
        }
        self.shared.suspended.send_replace(true);
        let deadline = self.config().timeouts.suspend.map(|timeout| tokio::time::Instant::now() + timeout);
        while self.stirring(deadline.is_some_and(|at| tokio::time::Instant::now() >= at)).await > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        match self.shared.is_suspended() {
            true => Ok(()),
            false => Err(ControlError::Resumed),
        }
    }

    /// Has all sessions rest, or end. Returns how many do not rest yet.
    async fn stirring(&self, end: bool) -> usize {
        let mut stirring = 0;
        for worker in 0..self.shared.worker_count() {
            let (answer, counted) = oneshot::channel();
            let refusal = end.then(|| Refusal::fatal("suspend_timeout"));
            self.shared.order(worker, Order::Suspend(refusal, answer));
            stirring += counted.await.unwrap_or(0); // a worker that has stopped has none
        }
        stirring
    }

    /// Ends `SUSPEND`.
    pub(crate) fn unsuspend(&self) {
        self.shared.suspended.send_replace(false);
        (0..self.shared.worker_count()).for_each(|worker| self.shared.order(worker, Order::Unsuspend));
    }

    /// `RESUME`: ends a pause, or `SUSPEND`. The global form leaves databases alone that were paused by name.
    ///
    /// # Errors
    /// Not paused, no such database, or shutting down.
    pub fn resume(&self, database: Option<&str>) -> Result<(), ControlError> {
        let pools = match database {
            None => {
                if self.shared.phase() != Phase::Running {
                    return Err(ControlError::ShuttingDown);
                }
                if self.shared.is_suspended() {
                    self.unsuspend();
                    return Ok(());
                }
                if !self.shared.is_paused() {
                    return Err(ControlError::NotPaused);
                }
                self.shared.set_paused(false);
                self.shared.registry.pools()
            }
            Some(name) => {
                let db = self.database(name)?;
                if !db.paused.swap(false, Relaxed) {
                    return Err(ControlError::DatabaseNotPaused(name.to_owned()));
                }
                db.pools()
            }
        };
        for pool in pools {
            pool.hold(self.shared.is_paused() || pool.db.paused.load(Relaxed));
            self.pump(&pool);
        }
        Ok(())
    }

    /// `KILL`: ends all clients and servers of a database, or of every database in use, and pauses it.
    ///
    /// # Errors
    /// Paused already, or no such database.
    pub fn kill(&self, database: Option<&str>) -> Result<(), ControlError> {
        self.check_not_paused()?;
        for db in self
            .databases_or_all(database)?
            .into_iter()
            .filter(|db| database.is_some() || !db.pools().is_empty())
        {
            db.paused.store(true, Relaxed);
            for pool in db.pools() {
                pool.hold(true);
                self.end_pool(&pool, "database removed");
            }
        }
        Ok(())
    }

    /// `CANCEL`: cancels what a client is doing, its wait or its query, as if it had asked for that itself; returns when
    /// that was dealt with. False: there is no such client.
    pub async fn cancel(&self, id: u64) -> bool {
        let Some(client) = self.shared.clients.all().into_iter().find(|client| client.id == id) else {
            return false;
        };
        let (done, finished) = tokio::sync::oneshot::channel();
        self.shared.order(client.worker, Order::Cancel(client, done));
        let _ = finished.await; // its end is the answer
        true
    }

    /// `KILL_CLIENT`: disconnects the client of this number, which may be one of the console's.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_client(&self, id: u64) -> Result<(), ControlError> {
        if let Some(client) = self.shared.clients.all().into_iter().find(|client| client.id == id) {
            let refusal = Refusal::fatal("admin forced disconnect");
            self.shared.order(client.worker, Order::End(client, refusal));
            return Ok(());
        }
        self.shared.consoles.end(id).then_some(()).ok_or(ControlError::ClientNotFound)
    }

    /// `DISABLE`, or `ENABLE`: whether new clients may log in to a database.
    ///
    /// # Errors
    /// No such database.
    pub fn set_disabled(&self, database: &str, disabled: bool) -> Result<(), ControlError> {
        self.database(database)?.disabled.store(disabled, Relaxed);
        Ok(())
    }

    /// `RECONNECT`: every server is closed as soon as it is free, and what servers said at their login is forgotten.
    ///
    /// # Errors
    /// No such database.
    pub fn reconnect(&self, database: Option<&str>) -> Result<(), ControlError> {
        for pool in self.databases_or_all(database)?.iter().flat_map(|db| db.pools()) {
            pool.renew("close_needed");
            self.pump(&pool);
        }
        Ok(())
    }

    /// `WAIT_CLOSE`: returns when no server is left that is to be closed. Dropping the future stops the waiting.
    ///
    /// # Errors
    /// No such database.
    pub async fn wait_close(&self, database: Option<&str>) -> Result<(), ControlError> {
        let databases = self.databases_or_all(database)?;
        let closing = |pool: &Arc<Pool>| pool.members().iter().any(|member| member.is_outdated());
        while databases.iter().flat_map(|db| db.pools()).any(|pool| closing(&pool)) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Ends the process: at once, or when clients or servers have gone. Who rests could not go: that is over.
    pub fn shutdown(&self, phase: Phase) {
        if self.shared.is_suspended() {
            self.unsuspend();
        }
        if phase == Phase::WaitForServers {
            self.shared.set_paused(true);
            self.shared.registry.pools().iter().for_each(|pool| pool.hold(true));
        }
        self.shared.advance(phase);
    }

    /// What [`Control::reload`] of this configuration would do.
    pub fn plan(&self, config: &Config) -> Plan {
        reload::plan(&self.shared.config.load(), config)
    }

    /// Puts a new configuration into effect, as planned. What is fixed at start keeps its value.
    pub fn reload(&self, mut config: Config) -> Plan {
        let old = self.shared.config.load_full();
        config.listen = old.listen.clone();
        config.workers = old.workers;
        config.params.track_extra = old.params.track_extra.clone();
        config.params.refuse_simple_query = old.params.refuse_simple_query;
        config.keep_tls(&old);
        let plan = reload::plan(&old, &config);
        let config = Arc::new(config);
        self.shared.config.store(config.clone());
        self.shared.peers.reload(&config);
        self.shared.auth_queries.forget();
        for db in self.shared.registry.databases() {
            let listed = [&old, &config].iter().any(|config| config.databases.contains_key(&db.name));
            let effect = plan.effect_on(if listed { &db.name } else { "*" });
            self.reload_database(&config, &db, effect);
            for pool in db.pools().iter().filter(|pool| plan.changes_secret(pool)) {
                pool.secret_changed();
                self.pump(pool);
            }
            if old.auth.method != config.auth.method {
                db.pools().iter().for_each(|pool| pool.prove(None)); // nobody may judge passwords any more
            }
        }
        (0..self.shared.worker_count()).for_each(|worker| self.shared.order(worker, Order::Reloaded));
        plan
    }

    fn reload_database(&self, config: &Config, db: &Arc<Db>, effect: Option<Effect>) {
        let spec = config.databases.get(&db.name).or(config.fallback.as_ref());
        let Some(spec) = spec else {
            info!("dropping database '{}' as it does not exist anymore or inactive auto-database", db.name);
            db.pools().iter().for_each(|pool| self.end_pool(pool, "database removed"));
            return self.shared.registry.remove_database(&db.name);
        };
        db.spec.store(spec.clone());
        let regrouped = db.find_cluster(&self.shared, config);
        db.pools()
            .iter()
            .filter(|pool| pool.is_astray())
            .for_each(|pool| self.end_pool(pool, "another cluster"));
        let renewed = regrouped || effect == Some(Effect::Renewed);
        if renewed {
            db.functions.forget(Defined::ANYTHING, []); // it may be another database now
        }
        for pool in db.pools() {
            let rules = PoolRules::new(config, spec, config.users.get(&pool.user.name));
            let before = pool.rules.load_full();
            let same = *before == rules;
            // Nobody knows what clients have left in sessions whose state was not looked after.
            let follows_now = rules.preserves() && !before.preserves();
            if !same {
                pool.rules.store(Arc::new(rules));
            }
            if renewed {
                pool.renew("database configuration changed");
            } else if follows_now {
                pool.renew_sessions("session state follows clients now");
            }
            if renewed || !same {
                self.pump(&pool);
            }
        }
    }

    fn end_pool(&self, pool: &Arc<Pool>, why: &'static str) {
        let refusal = Refusal::fatal(why);
        for client in self.shared.clients.all().into_iter().filter(|c| Arc::ptr_eq(&c.pool, pool)) {
            self.shared.order(client.worker, Order::End(client, refusal.clone()));
        }
        pool.refuse_waiting(&refusal);
        pool.renew(why);
        self.shared.registry.remove_pool(pool);
    }

    fn pump(&self, pool: &Arc<Pool>) {
        (0..self.shared.worker_count())
            .for_each(|worker| self.shared.order(worker, Order::Pump(pool.clone())));
    }

    /// The database of this name, or all that somebody has used.
    fn databases_or_all(&self, name: Option<&str>) -> Result<Vec<Arc<Db>>, ControlError> {
        match name {
            None => Ok(self.shared.registry.databases()),
            Some(name) => Ok(vec![self.database(name)?]),
        }
    }

    fn database(&self, name: &str) -> Result<Arc<Db>, ControlError> {
        let config = self.shared.config.load();
        let found = self.shared.registry.database(&config, name, self.shared.clock.micros());
        found.map_err(|_| ControlError::NoSuchDatabase(name.to_owned()))
    }
}
