//! Pools: one for each database and server-side user, shared by all workers.
//!
//! ```text
//!                 take_idle             give_back
//!    client ◀──────────────── idle ◀──────────────── client
//!       │                      ▲ │
//!       │ none idle            │ └── janitor: too old, idle too long, gone ──▶ closed
//!       ▼                      │
//!    waiting ── pump: another worker's idle server, else open one if the limits allow ──▶ served
//! ```

mod census;
mod credentials;
mod crowd;
mod hosts;
#[cfg(test)]
mod interleave;
mod janitor;
mod opening;
mod queue;
mod registry;
mod rules;
mod saturation;
mod shard;
mod sites;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tracing::info;

pub(crate) use census::{Census, Counted, Counting, Full, Permit, Tally};
pub(crate) use crowd::Crowded;
pub(crate) use hosts::{Dial, Hosts};
pub(crate) use queue::{Grant, Place, WaitLimit, Waiter};
pub(crate) use registry::{Db, Defining, NotConfigured, Registry, User};
pub(crate) use rules::{PoolRules, RulesCache};
pub use saturation::Occupancy;
pub(crate) use saturation::Saturation;
pub(crate) use shard::{Shard, any_idle, hand_over};
pub(crate) use sites::Site;

use credentials::Credentials;

use crate::events::Events;
use crate::intern::Interner;
use crate::latency::Latency;
use crate::net::Peer;
use crate::params::{ParamSet, Params};
use crate::prepared::{Moments, Texts};
use crate::queries::Queries;
use crate::routing::Routed;
use crate::server::{IdleServer, Server, ServerInfo, ServerState};
use crate::shared::Shared;
use crate::state::{Habits, PinCounts, Settings};
use crate::stats::{Counters, Periods, Totals};
use crate::tls::ServerTls;
use crate::worker::Order;

/// How much longer (microseconds) a client of another pool must have waited before a pool gives up a place for it:
/// another connection has to be opened then, which takes about as long.
const YIELD_AFTER: u64 = 20_000;

/// What a server told at its login and every client of the pool is told at its own, in that order.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// Reported parameters that are not tracked.
    pub(crate) untracked: Vec<(String, String)>,
    /// Tracked parameters as the server has them for this user and database.
    pub(crate) defaults: Arc<ParamSet>,
}

/// Why the last attempt to reach the server failed.
#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    /// No further attempt before, in microseconds.
    retry_at: u64,
}

#[derive(Debug, Default)]
struct Dialling {
    connecting: usize,
    failure: Option<Failure>,
    /// Attempts in turn that ended for want of TLS.
    insecure: usize,
    next_host: usize,
    /// When a server was last closed for its age, to spread such closings out.
    last_expiry: u64,
}

/// One database, one server-side user. Where the database has a cluster, the servers of this pool are those of the
/// primary, and others are at its [sites](Pool::at).
pub(crate) struct Pool {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: Arc<Db>,
    pub(crate) user: Arc<User>,
    /// The one host that it connects to, and the pool that it belongs to.
    pub(crate) site: Option<Site>,
    /// The pools that it has at single hosts.
    sites: ArcSwap<Vec<Arc<Pool>>>,
    pub(crate) rules: ArcSwap<PoolRules>,
    pub(crate) shards: Box<[Shard<IdleServer, Waiter>]>,
    pub(crate) counters: Box<[Counters]>,
    pub(crate) latency: Latency,
    pub(crate) saturation: Saturation,
    pub(crate) queries: Queries,
    pub(crate) open: Arc<Tally>,
    pub(crate) clients: Arc<Tally>,
    /// When it was last seen with a connection, in microseconds.
    last_used: AtomicU64,
    /// Every server connection, whoever has it.
    members: Mutex<HashMap<u64, Arc<ServerInfo>>>,
    /// Servers opened under an older number are closed instead of being used again.
    generation: Arc<AtomicU64>,
    held: AtomicBool,
    /// Nobody looks after it any more; clients that still have it are told so.
    removed: AtomicBool,
    dialling: Mutex<Dialling>,
    /// With the generation of the servers that said it.
    welcome: ArcSwap<Option<(u64, Arc<Welcome>)>>,
    pub(crate) params: Arc<Params>,
    /// What its clients have prepared.
    pub(crate) texts: Arc<Texts>,
    pub(crate) moments: Arc<Moments>,
    pub(crate) settings: Arc<Interner<Settings>>,
    pub(crate) pins: PinCounts,
    pub(crate) events: Events,
    pub(crate) habits: Habits,
    /// Of a session that has changed none.
    pub(crate) no_settings: Arc<Settings>,
    credentials: Arc<Mutex<Credentials>>,
    pub(crate) periods: Periods,
    /// Cancel requests on their way to servers of this pool.
    pub(crate) cancelling: Arc<Tally>,
    /// Idle servers that are being checked for a client that waits.
    checking: Arc<Tally>,
    /// Connections to see who blocks whom.
    pub(crate) watching: Arc<Tally>,
    /// Clients that wait, where their number is limited.
    crowd: Arc<Tally>,
    /// Reads at the primary that are for replicas.
    pub(crate) guests: Arc<Tally>,
    /// Where requests went.
    pub(crate) routed: Routed,
    /// Clients that have logged in.
    pub(crate) logged_in: AtomicUsize,
    /// Clients that wait for a server in their login.
    pub(crate) arriving: Arc<Tally>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn new(shared: &Arc<Shared>, db: Arc<Db>, user: Arc<User>, rules: PoolRules) -> Pool {
        let workers = shared.worker_count();
        let settings = Arc::new(Interner::default());
        Pool {
            shared: shared.clone(),
            db,
            user,
            site: None,
            sites: ArcSwap::default(),
            rules: ArcSwap::from_pointee(rules),
            shards: (0..workers).map(|_| Shard::default()).collect(),
            counters: (0..workers).map(|_| Counters::default()).collect(),
            latency: Latency::new(workers),
            saturation: Saturation::default(),
            queries: Queries::new(workers),
            open: Arc::default(),
            clients: Arc::default(),
            last_used: AtomicU64::new(shared.clock.micros()),
            members: Mutex::default(),
            generation: Arc::default(),
            held: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            dialling: Mutex::default(),
            welcome: ArcSwap::from_pointee(None),
            params: Params::new(shared.tracked.clone()).into(),
            texts: Texts::new(shared.buffers.clone()).into(),
            moments: Arc::default(),
            pins: PinCounts::default(),
            events: Events::default(),
            habits: Habits::default(),
            no_settings: settings.intern(Settings::default()),
            settings,
            credentials: Arc::default(),
            periods: Periods::default(),
            cancelling: Arc::default(),
            checking: Arc::default(),
            watching: Arc::default(),
            crowd: Arc::default(),
            guests: Arc::default(),
            routed: Routed::default(),
            logged_in: AtomicUsize::new(0),
            arriving: Arc::default(),
        }
    }

    /// The same at one host, for the clients of that pool and with all that they share.
    fn at_site(home: &Arc<Pool>, site: Site, rules: PoolRules) -> Pool {
        Pool {
            site: Some(site),
            params: home.params.clone(),
            texts: home.texts.clone(),
            moments: home.moments.clone(),
            settings: home.settings.clone(),
            no_settings: home.no_settings.clone(),
            credentials: home.credentials.clone(),
            ..Pool::new(&home.shared, home.db.clone(), home.user.clone(), rules)
        }
    }

    // ---- loan and return -------------------------------------------------------------------------------------

    /// An idle server of this worker that can be used at once.
    pub(crate) fn take_idle(&self, home: usize, now: u64, rules: &PoolRules) -> Option<Box<Server>> {
        if self.held.load(Relaxed) {
            return None;
        }
        loop {
            let server = self.next_idle(home, rules.server.round_robin)?;
            if rules.must_check(server.idle_since(), now) {
                self.shards[home].put_idle(server);
                return None; // the slow path checks it first
            }
            if let Some(server) = server.into_clean() {
                return Some(server);
            }
        }
    }

    /// The idle server of this worker that was used last, or, `fifo`, the one of any worker that is idle longest.
    fn next_idle(&self, home: usize, fifo: bool) -> Option<IdleServer> {
        if !fifo {
            return self.shards[home].take_idle(false);
        }
        let since = |shard: &Shard<IdleServer, Waiter>| shard.min_idle(IdleServer::idle_since);
        let (_, longest) =
            self.shards.iter().filter_map(|shard| Some((since(shard)?, shard))).min_by_key(|s| s.0)?;
        longest.take_idle(true)
    }

    /// Takes back a server: to the client that waits longest, else among the idle ones.
    pub(crate) fn give_back(&self, home: usize, server: IdleServer) {
        self.give_back_at(home, server, self.shared.clock.micros(), &self.rules.load());
    }

    /// The same for who knows the time and the rules.
    pub(crate) fn give_back_at(&self, home: usize, mut server: IdleServer, now: u64, rules: &PoolRules) {
        if let Some(reason) = self.why_close(&server, now, rules) {
            return server.close(reason);
        }
        server.begin_idling(now);
        let generation = server.info().generation;
        hand_over(&self.shards, home, server, now, |waiter, server| {
            match waiter.answer.send(Grant::Server(server)) {
                Err(Grant::Server(back)) => Err(back), // that client has just left
                Ok(()) | Err(_) => Ok(()),
            }
        });
        // [`renew`](Self::renew) and [`hold`](Self::hold) close what is idle when they come. This one may have become so
        // just behind them, and would be lent as if nothing had happened.
        if self.generation() != generation {
            self.close_outdated();
        } else if self.held.load(Relaxed) {
            self.close_idle("pause mode");
        }
    }

    #[cold]
    fn close_outdated(&self) {
        let generation = self.generation();
        let is_outdated = |server: &IdleServer| server.info().generation != generation;
        let outdated = self.shards.iter().flat_map(|shard| shard.drain_idle(is_outdated));
        outdated.for_each(|server| server.close("close_needed"));
    }

    fn why_close(&self, server: &IdleServer, now: u64, rules: &PoolRules) -> Option<&'static str> {
        if server.info().generation != self.generation.load(Relaxed) {
            return Some("close_needed");
        }
        if self.held.load(Relaxed) {
            return Some("pause mode");
        }
        if rules.total().is_some_and(|most| self.open.get() > most) {
            return Some("too many servers in the pool");
        }
        // One that nobody has used would be opened in vain.
        if server.info().requested.load(Relaxed) > 0 && self.must_yield(rules, now, 0) {
            return Some("evicted");
        }
        self.lifetime_over(rules, server.info(), now).then_some("server lifetime over")
    }

    /// The limit that this pool shares with others is reached (with `more` connections), and a client of another pool
    /// has waited clearly longer than any of this one: without this a pool that is always busy would keep every place
    /// for ever, and one that comes first by chance would take each that is freed.
    fn must_yield(&self, rules: &PoolRules, now: u64, more: usize) -> bool {
        let full = |tally: &Tally, most: Option<NonZeroUsize>| {
            most.is_some_and(|most| tally.get() + more >= most.get())
        };
        let (db_full, user_full) =
            (full(&self.db.servers, rules.max_db), full(&self.user.servers, rules.max_user));
        if !db_full && !user_full {
            return false;
        }
        let by_db = if db_full { self.db.pools() } else { Vec::new() };
        let by_user = if user_full { self.user.pools() } else { Vec::new() };
        let others = by_db.iter().chain(&by_user).filter(|pool| !std::ptr::eq(&***pool, self));
        let wants_place = |pool: &&Arc<Pool>| {
            pool.may_connect(now) && pool.rules.load().size.is_none_or(|size| pool.open.get() < size)
        };
        let Some(other) = others.filter(wants_place).filter_map(|pool| pool.oldest_wait()).min() else {
            return false;
        };
        self.oldest_wait().is_none_or(|own| other + YIELD_AFTER + now.saturating_sub(own) / 4 < own)
    }

    /// Old enough to be closed, and no other was closed for its age just now.
    fn lifetime_over(&self, rules: &PoolRules, info: &ServerInfo, now: u64) -> bool {
        let lifetime = rules.lifetime.as_micros() as u64;
        if lifetime == 0 {
            return info.requested.load(Relaxed) > 0; // used once
        }
        if now.saturating_sub(info.opened) < lifetime {
            return false;
        }
        let pause = lifetime / rules.size.unwrap_or(1).max(1) as u64;
        let mut dialling = lock(&self.dialling);
        let due = now.saturating_sub(dialling.last_expiry) >= pause;
        if due {
            dialling.last_expiry = now;
        }
        due
    }

    // ---- state -----------------------------------------------------------------------------------------------

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The same, for who wants to know later.
    pub(crate) fn generation_cell(&self) -> Arc<AtomicU64> {
        self.generation.clone()
    }

    /// Closes every server as soon as it is free, and forgets what servers said at their login.
    pub(crate) fn renew(self: &Arc<Self>, reason: &'static str) {
        self.generation.fetch_add(1, Relaxed);
        self.close_idle(reason);
        self.db.hub.look();
        (0..self.shards.len()).for_each(|worker| self.shared.order(worker, Order::Renewed(self.clone())));
    }

    /// The same where only the sessions are not to be used again: what servers say at a login still holds.
    pub(crate) fn renew_sessions(self: &Arc<Self>, reason: &'static str) {
        let said = self.welcome();
        self.renew(reason);
        if let Some(said) = said {
            self.welcome.store(Arc::new(Some((self.generation(), said))));
        }
    }

    /// All pools of the server to which this one connects.
    pub(crate) fn neighbours(&self) -> Vec<Arc<Pool>> {
        let here = self.db.spec.load();
        let mut pools = self.shared.registry.pools();
        pools.retain(|pool| {
            let there = pool.db.spec.load();
            let cluster = self.db.cluster.load();
            cluster.is_some()
                && cluster.as_ref().map(Arc::as_ptr) == pool.db.cluster.load().as_ref().map(Arc::as_ptr)
                || there.port == here.port && there.hosts.iter().any(|host| here.hosts.contains(host))
        });
        pools
    }

    /// Closes the idle servers now.
    pub(crate) fn close_idle(&self, reason: &'static str) {
        self.close_idle_since(u64::MAX, reason);
    }

    /// Closes those that have been idle since this moment or longer.
    pub(crate) fn close_idle_since(&self, then: u64, reason: &'static str) {
        for shard in &self.shards {
            shard.drain_idle(|server| server.idle_since() <= then).into_iter().for_each(|s| s.close(reason));
        }
    }

    /// Stops (or allows again) handing out servers. The caller pumps afterwards.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Relaxed);
        if held {
            self.close_idle("pause mode");
            self.db.hub.look();
        }
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(SeqCst)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    pub(crate) fn welcome(&self) -> Option<Arc<Welcome>> {
        let welcome = self.welcome.load();
        welcome.as_ref().as_ref().filter(|(of, _)| *of == self.generation()).map(|(_, said)| said.clone())
    }

    pub(crate) fn set_welcome(&self, generation: u64, welcome: Welcome) {
        self.welcome.store(Arc::new(Some((generation, Arc::new(welcome)))));
    }

    /// What all workers have counted.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters.iter().for_each(|c| totals.add_counters(c));
        totals
    }

    /// Every server connection, whoever has it.
    pub(crate) fn members(&self) -> Vec<Arc<ServerInfo>> {
        lock(&self.members).values().cloned().collect()
    }

    /// The client whose notifications the backend of this process id sends now, 0 if none is known; `None` if no server of
    /// this pool has it.
    pub(crate) fn notifier(&self, pid: u32) -> Option<u32> {
        lock(&self.members).values().find(|m| m.pid == pid).map(|m| m.notifier.load(Relaxed))
    }

    /// The server connection of that number.
    pub(crate) fn member(&self, id: u64) -> Option<Arc<ServerInfo>> {
        lock(&self.members).get(&id).cloned()
    }

    pub(crate) fn connecting(&self) -> usize {
        lock(&self.dialling).connecting
    }

    /// How many servers are in a state.
    pub(crate) fn count(&self, state: ServerState) -> usize {
        lock(&self.members).values().filter(|m| m.state() == state).count()
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.db.name, self.user.name)
    }

    /// A connection was closed: whoever waits for a place that it took may have it.
    pub(crate) fn place_is_free(&self) {
        let sharing = self.db.pools().into_iter().chain(self.user.pools());
        sharing.for_each(|pool| pool.order_pump());
    }

    /// Has the workers whose clients wait do what can be done for them.
    fn order_pump(self: &Arc<Self>) {
        for (index, shard) in self.shards.iter().enumerate() {
            if shard.oldest_wait().is_some() {
                self.shared.order(index, Order::Pump(self.clone()));
            }
        }
    }

    pub(crate) fn member_opened(&self, info: &Arc<ServerInfo>) {
        if self.shared.config.load().log.connections {
            let from = match info.local {
                Peer::Tcp(address) => format!(" (from {address})"),
                Peer::Unix { .. } => String::new(),
            };
            info!(peer = %info.peer(self), "new connection to server{from}");
            if !info.tls.is_empty() {
                info!(peer = %info.peer(self), "SSL established: {}", info.tls);
            }
        }
        lock(&self.members).insert(info.id, info.clone());
    }

    /// TLS to its servers, as it is configured now.
    pub(crate) fn server_tls(&self) -> Arc<ServerTls> {
        self.shared.config.load().server_tls(&self.db.spec.load())
    }

    /// The same for one that comes from another process.
    pub(crate) fn member_arrived(&self, info: &Arc<ServerInfo>) {
        lock(&self.members).insert(info.id, info.clone());
    }

    pub(crate) fn member_closed(&self, info: &ServerInfo, reason: &str) {
        if self.shared.config.load().log.disconnections {
            let age = self.shared.clock.micros().saturating_sub(info.opened) / 1_000_000;
            info!(peer = %info.peer(self), "closing because: {reason} (age={age}s)");
        }
        lock(&self.members).remove(&info.id);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.name())
    }
}
