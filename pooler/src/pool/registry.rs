//! Databases, users and pools by name.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use super::{Counting, Pool, PoolRules, Site, Tally, lock};
use crate::cluster::{Cluster, Member};
use crate::config::{Config, Database};
use crate::notify::Hub;
use crate::routing::Refused;
use crate::shared::Shared;
use crate::state::{Defined, Findings, Functions, Lookup};

/// A database that clients can name, for as long as it is configured or used.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) name: String,
    pub(crate) spec: ArcSwap<Database>,
    /// It came from the `*` entry.
    pub(crate) auto: bool,
    pub(crate) paused: AtomicBool,
    pub(crate) disabled: AtomicBool,
    pub(crate) servers: Arc<Tally>,
    pub(crate) clients: Arc<Tally>,
    /// When it was last seen in use, in microseconds; matters for those that came from `*`.
    pub(crate) last_used: AtomicU64,
    /// What listens for its clients.
    pub(crate) hub: Arc<Hub>,
    /// What its functions may do.
    pub(crate) functions: Functions,
    /// Reads that replicas refuse.
    pub(crate) refused: Refused,
    /// Clients that may be defining some.
    defining: Arc<Tally>,
    /// Its hosts, where it is observed which of them is the primary.
    pub(crate) cluster: ArcSwapOption<Cluster>,
    pools: Mutex<Vec<Arc<Pool>>>,
}

/// A transaction that may change functions of a database. When it is over, what is known of them is so no more.
pub(crate) struct Defining {
    db: Arc<Db>,
    _counted: Counting,
    defined: Defined,
    /// Settings that they name.
    names: Vec<String>,
}

impl Defining {
    /// One more definition.
    pub(crate) fn add(&mut self, defined: Defined, names: Vec<String>) {
        self.defined |= defined;
        self.names.extend(names);
    }
}

impl Drop for Defining {
    fn drop(&mut self) {
        self.db.functions.forget(self.defined, std::mem::take(&mut self.names));
    }
}

impl Db {
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).clone()
    }

    pub(crate) fn has_pool_of(&self, user: &str) -> bool {
        lock(&self.pools).iter().any(|pool| pool.user.name == user)
    }

    /// A look-up was answered. What takes long to read is read elsewhere.
    pub(crate) fn looked_up(self: &Arc<Self>, lookup: Lookup, findings: Findings, now: u64) {
        let db = self.clone();
        match findings.functions.is_long() {
            true => drop(tokio::task::spawn_blocking(move || db.functions.found(&lookup, findings, now))),
            false => db.functions.found(&lookup, findings, now),
        }
    }

    /// Functions may change from now on, until this is dropped.
    pub(crate) fn define(self: &Arc<Self>) -> Defining {
        let _counted = self.defining.count().0;
        Defining { db: self.clone(), _counted, defined: Defined::default(), names: Vec::new() }
    }

    /// No client changes functions.
    pub(crate) fn is_settled(&self) -> bool {
        self.defining.get() == 0
    }

    /// The client, by the process id that it was given, whose notifications the backend of this process id sends now.
    pub(crate) fn notifier(&self, pid: u32) -> Option<u32> {
        let notifier = self.pools().iter().find_map(|pool| pool.notifier(pid))?;
        (notifier != 0).then_some(notifier)
    }

    /// The name on the server.
    pub(crate) fn server_name(&self) -> String {
        self.spec.load().dbname.clone().unwrap_or_else(|| self.name.clone())
    }
}

/// A user, as login name of clients and as server-side name of pools.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) servers: Arc<Tally>,
    pub(crate) clients: Arc<Tally>,
    pools: Mutex<Vec<Arc<Pool>>>,
}

impl User {
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).clone()
    }
}

/// No such database is configured, and no `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotConfigured;

/// All of them. Entries are made at logins, never on the way of a query.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    databases: DashMap<String, Arc<Db>>,
    users: DashMap<String, Arc<User>>,
    /// Held while a pool is made or removed.
    making: Mutex<()>,
}

impl Registry {
    /// The database of that name, made from `*` if need be.
    pub(crate) fn database(&self, config: &Config, name: &str, now: u64) -> Result<Arc<Db>, NotConfigured> {
        if let Some(db) = self.databases.get(name) {
            return Ok(db.clone());
        }
        let (spec, auto) = match (config.databases.get(name), &config.fallback) {
            (Some(spec), _) => (spec, false),
            (None, Some(spec)) => (spec, true),
            (None, None) => return Err(NotConfigured),
        };
        let db = self.databases.entry(name.to_owned()).or_insert_with(|| {
            if auto {
                tracing::info!("registered new auto-database: {name}");
            }
            Arc::new(Db {
                name: name.to_owned(),
                spec: ArcSwap::new(spec.clone()),
                auto,
                paused: AtomicBool::new(false),
                disabled: AtomicBool::new(false),
                servers: Arc::default(),
                clients: Arc::default(),
                last_used: AtomicU64::new(now),
                hub: Arc::default(),
                functions: Functions::default(),
                refused: Refused::default(),
                defining: Arc::default(),
                cluster: ArcSwapOption::empty(),
                pools: Mutex::default(),
            })
        });
        Ok(db.clone())
    }

    /// The user of that name.
    pub(crate) fn user(&self, name: &str) -> Arc<User> {
        if let Some(user) = self.users.get(name) {
            return user.clone();
        }
        let user = self.users.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(User {
                name: name.to_owned(),
                servers: Arc::default(),
                clients: Arc::default(),
                pools: Mutex::default(),
            })
        });
        user.clone()
    }

    /// The pool of a database for a login user, who may be replaced by the database's own.
    pub(crate) fn pool(&self, shared: &Arc<Shared>, db: &Arc<Db>, login: &str) -> Arc<Pool> {
        let spec = db.spec.load();
        self.pool_of(shared, db, spec.user.as_deref().unwrap_or(login))
    }

    /// The pool of a database for a server-side user.
    pub(crate) fn pool_of(&self, shared: &Arc<Shared>, db: &Arc<Db>, name: &str) -> Arc<Pool> {
        let find = || {
            let pools = lock(&db.pools);
            let found = pools.iter().find(|p| p.site.is_none() && p.user.name == name)?;
            found.last_used.store(shared.clock.micros(), Relaxed); // who looks for idle ones has the lock as well
            Some(found.clone())
        };
        if let Some(pool) = find() {
            return pool;
        }
        let _making = lock(&self.making);
        if let Some(pool) = find() {
            return pool;
        }
        let user = self.user(name);
        let config = shared.config.load();
        let rules = PoolRules::new(&config, &db.spec.load(), config.users.get(name));
        db.find_cluster(shared, &config);
        let pool = Arc::new(Pool::new(shared, db.clone(), user.clone(), rules));
        pool.hold(shared.is_paused() || db.paused.load(Relaxed));
        lock(&db.pools).push(pool.clone());
        lock(&user.pools).push(pool.clone());
        // Once more, for a pause that began between the first look and the push.
        pool.hold(shared.is_paused() || db.paused.load(Relaxed));
        if let Some(cluster) = pool.cluster() {
            cluster.attach();
        }
        pool
    }

    /// The pool at one host of its cluster for the clients of this one.
    pub(crate) fn site(&self, shared: &Arc<Shared>, home: &Arc<Pool>, member: &Arc<Member>) -> Arc<Pool> {
        let _making = lock(&self.making);
        if let Some(pool) = home.sites().iter().find(|pool| pool.is_at(member)) {
            return pool.clone();
        }
        let rules = PoolRules::clone(&home.rules.load());
        let pool = Arc::new(Pool::at_site(home, Site::new(member, home), rules));
        pool.hold(shared.is_paused() || home.db.paused.load(Relaxed));
        lock(&home.db.pools).push(pool.clone());
        lock(&home.user.pools).push(pool.clone());
        home.add_site(&pool);
        // As above, for a pause that has begun meanwhile.
        pool.hold(shared.is_paused() || home.db.paused.load(Relaxed));
        pool
    }

    /// Forgets a pool: its servers are closed by the caller.
    pub(crate) fn remove_pool(&self, pool: &Arc<Pool>) {
        let _making = lock(&self.making);
        pool.removed.store(true, SeqCst);
        pool.leave_home();
        lock(&pool.db.pools).retain(|p| !Arc::ptr_eq(p, pool));
        lock(&pool.user.pools).retain(|p| !Arc::ptr_eq(p, pool));
    }

    /// Forgets a pool that nobody has used since that moment, in microseconds. False: somebody does now.
    pub(crate) fn forget_pool(&self, pool: &Arc<Pool>, since: u64) -> bool {
        {
            let mut pools = lock(&pool.db.pools);
            if pool.last_used.load(Relaxed) != since || pool.clients.get() > 0 {
                return false;
            }
            pools.retain(|p| !Arc::ptr_eq(p, pool));
        }
        self.remove_pool(pool);
        true
    }

    pub(crate) fn remove_database(&self, name: &str) {
        self.databases.remove(name);
    }

    /// Every database, by name.
    pub(crate) fn databases(&self) -> Vec<Arc<Db>> {
        let mut all: Vec<_> = self.databases.iter().map(|e| e.value().clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Every user that has been seen.
    pub(crate) fn user_names(&self) -> Vec<String> {
        self.users.iter().map(|e| e.key().clone()).collect()
    }

    /// The user of that name, if one has been seen.
    pub(crate) fn known_user(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).map(|e| e.value().clone())
    }

    /// The database of that name, if somebody has used it.
    pub(crate) fn known_database(&self, name: &str) -> Option<Arc<Db>> {
        self.databases.get(name).map(|e| e.value().clone())
    }

    /// Every pool that clients have, by database and user: those at single hosts serve the clients of others.
    pub(crate) fn homes(&self) -> Vec<Arc<Pool>> {
        let mut homes = self.pools();
        homes.retain(|pool| pool.site.is_none());
        homes
    }

    /// Every pool, by database and user.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let mut all: Vec<_> = self.databases().iter().flat_map(|db| db.pools()).collect();
        all.sort_by(|a, b| (&a.db.name, &a.user.name).cmp(&(&b.db.name, &b.user.name)));
        all
    }
}
