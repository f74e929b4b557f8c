//! What all workers share.

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use protocol::error_fields::ErrorMessage;
use protocol::params::Tracked;
use protocol::sqlstate::SqlState;
use tokio::sync::watch;

use crate::auth_query::AuthQueries;
use crate::buffers::Buffers;
use crate::clients::Clients;
use crate::cluster::Clusters;
use crate::config::{Config, Database};
use crate::console::Console;
use crate::consoles::Consoles;
use crate::error::Refusal;
use crate::events::Events;
use crate::handover::Handover;
use crate::ldap::Directories;
use crate::lifecycle::Phase;
use crate::names::Names;
use crate::newcomers::Newcomers;
use crate::pam::Pam;
use crate::peers::Peers;
use crate::pool::{Census, Hosts, Registry, Tally};
use crate::secrets::Secrets;
use crate::snapshot::Listening;
use crate::worker::{Leaving, Order, WorkerHandle};

/// One clock for the process: microseconds since it started.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    wall: SystemTime,
    first: u64,
}

impl Clock {
    /// `first`: what it shows now, where it goes on with the clock of another process.
    fn new(first: u64) -> Clock {
        let wall = SystemTime::now() - Duration::from_micros(first);
        Clock { start: Instant::now(), wall, first: first.max(1) }
    }

    /// Microseconds since the start, from 1 on so that 0 can stand for "never".
    pub(crate) fn micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + self.first
    }

    /// Wall-clock time of a moment.
    pub(crate) fn wall(&self, micros: u64) -> SystemTime {
        self.wall + Duration::from_micros(micros)
    }
}

/// Where the clock, the numbers of sockets and a pause stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) clock: u64,
    pub(crate) next_id: u64,
    pub(crate) paused: bool,
}

/// The process-wide state; one for each pooler (tests run several in a process).
pub(crate) struct Shared {
    pub(crate) config: ArcSwap<Config>,
    pub(crate) clock: Clock,
    /// The parameters that are kept for each client.
    pub(crate) tracked: Arc<Tracked>,
    pub(crate) registry: Registry,
    pub(crate) census: Arc<Census>,
    pub(crate) hosts: Hosts,
    pub(crate) clusters: Clusters,
    pub(crate) names: Names,
    pub(crate) clients: Clients,
    /// Of connections that have not come to a pool.
    pub(crate) events: Events,
    pub(crate) peers: Peers,
    /// Servers that are being brought back.
    pub(crate) salvaging: Arc<Tally>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) consoles: Arc<Consoles>,
    pub(crate) secrets: Secrets,
    /// Connections that have not logged in.
    pub(crate) newcomers: Arc<Newcomers>,
    pub(crate) auth_queries: AuthQueries,
    pub(crate) ldap: Directories,
    pub(crate) pam: Pam,
    pub(crate) console: Arc<dyn Console>,
    /// For those who wait for its end; `phase_now` is the same for those who only look.
    pub(crate) phase_changes: watch::Sender<Phase>,
    phase_now: AtomicU8,
    /// Set once, before the first connection is accepted.
    pub(crate) workers: OnceLock<Vec<WorkerHandle>>,
    /// Set once as well.
    pub(crate) listening: OnceLock<Vec<Listening>>,
    worker_count: usize,
    ids: AtomicU64,
    /// Smaller ones were given out by the process before this one.
    first_id: u64,
    /// Clients are told to leave, because the process ends.
    pub(crate) drains: AtomicBool,
    /// Clients that come from another process, or go to one.
    pub(crate) handover: Handover,
    paused: AtomicBool,
    /// By `SUSPEND`: nothing is accepted and nothing read.
    pub(crate) suspended: watch::Sender<bool>,
    /// The port that was bound, for the console; the configured one may be 0.
    pub(crate) port: AtomicUsize,
}

impl Shared {
    /// What it counts goes on where `since` says that it was.
    pub(crate) fn new(config: Config, console: Arc<dyn Console>, since: Counted) -> Shared {
        let peers = Peers::default();
        peers.reload(&config);
        Shared {
            peers,
            clock: Clock::new(since.clock),
            tracked: Arc::new(Tracked::new(&config.params.track_extra)),
            registry: Registry::default(),
            census: Arc::default(),
            hosts: Hosts::default(),
            clusters: Clusters::default(),
            names: Names::default(),
            clients: Clients::default(),
            events: Events::default(),
            salvaging: Arc::default(),
            buffers: Arc::default(),
            consoles: Arc::default(),
            secrets: Secrets::new(),
            newcomers: Arc::default(),
            auth_queries: AuthQueries::default(),
            ldap: Directories::default(),
            pam: Pam::default(),
            console,
            phase_changes: watch::Sender::new(Phase::Running),
            phase_now: AtomicU8::new(Phase::Running as u8),
            workers: OnceLock::new(),
            listening: OnceLock::new(),
            worker_count: config.workers.get(),
            ids: AtomicU64::new(since.next_id.max(1)),
            first_id: since.next_id,
            paused: AtomicBool::new(since.paused),
            drains: AtomicBool::new(false),
            handover: Handover::default(),
            suspended: watch::Sender::new(false),
            port: AtomicUsize::new(config.listen.port.into()),
            config: ArcSwap::from_pointee(config),
        }
    }

    /// The next number for a socket, client or server.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }

    /// The process before this one may still have the servers that a pool needs: that one can't be opened says nothing.
    pub(crate) fn lacks_room(&self) -> bool {
        self.handover.may_lack_room(self.clock.micros())
    }

    /// What a client begins with that comes now.
    pub(crate) fn leaving(&self) -> Leaving {
        match (self.drains.load(Relaxed), self.handover.gives()) {
            (true, _) => Leaving::Drains,
            (_, true) => Leaving::Travels,
            _ => Leaving::No,
        }
    }

    /// The first number that this process has given out, if it has taken over from another.
    pub(crate) fn first_id(&self) -> u64 {
        self.first_id
    }

    /// What a process that takes over goes on with.
    pub(crate) fn counted(&self) -> Counted {
        Counted { clock: self.clock.micros(), next_id: self.next_id(), paused: self.is_paused() }
    }

    pub(crate) fn worker_count(&self) -> usize {
        self.worker_count
    }

    /// Sends an order to a worker; a worker that has stopped gets none.
    pub(crate) fn order(&self, worker: usize, order: Order) {
        if let Some(handle) = self.workers.get().and_then(|w| w.get(worker)) {
            handle.send(order);
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Relaxed);
    }

    pub(crate) fn is_suspended(&self) -> bool {
        *self.suspended.borrow()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Relaxed) as u16
    }

    /// Drops databases that came from `*` and have not been used for long.
    pub(crate) fn forget_unused_databases(&self, now: u64) {
        let limit = self.config.load().timeouts.autodb_idle.map(|d| d.as_micros() as u64);
        for db in self.registry.databases() {
            let steered = db.paused.load(Relaxed) || db.disabled.load(Relaxed);
            let used = db.clients.get() > 0 || db.servers.get() > 0 || steered;
            if !db.auto || used {
                db.last_used.store(now, Relaxed);
            } else if limit.is_some_and(|limit| now.saturating_sub(db.last_used.load(Relaxed)) >= limit) {
                tracing::info!(
                    "dropping database '{}' as it does not exist anymore or inactive auto-database",
                    db.name
                );
                db.pools().iter().for_each(|pool| self.registry.remove_pool(pool));
                self.registry.remove_database(&db.name);
            }
        }
    }

    /// Drops pools that have had no connection for long.
    pub(crate) fn forget_unused_pools(&self, now: u64) {
        let Some(limit) = self.config.load().timeouts.pool_idle else { return };
        for pool in self.registry.pools() {
            let Some(since) = pool.unused_since(now) else { continue };
            let idle = now.saturating_sub(since);
            if idle >= limit.as_micros() as u64 && self.registry.forget_pool(&pool, since) {
                tracing::info!(
                    "cleaning up idle pool for user {} on db {} because: pool idle timeout (age={}s)",
                    pool.user.name,
                    pool.db.name,
                    idle / 1_000_000
                );
            }
        }
    }

    /// A database with a forced user and a minimum has its pool, and so its servers, before any client comes.
    pub(crate) fn make_kept_pools(self: &Arc<Self>, now: u64) {
        let config = self.config.load();
        let min = |db: &Database| db.min_pool_size.unwrap_or(config.sizes.min);
        for spec in config.databases.values().filter(|db| min(db) > 0) {
            let (Some(user), Ok(db)) = (&spec.user, self.registry.database(&config, &spec.name, now)) else {
                continue;
            };
            if !db.paused.load(Relaxed) && !db.has_pool_of(user) && self.phase() == Phase::Running {
                self.registry.pool(self, &db, user);
            }
        }
    }

    /// While more is kept for clients than may be: ends those for whom most is, as many as it takes.
    pub(crate) fn keep_buffer_limit(&self) {
        self.buffers.set_limit(self.config.load().limits.buffers.map_or(0, NonZeroUsize::get));
        if self.buffers.excess() > 0 {
            self.forget_unused_values();
        }
        let mut excess = self.buffers.excess();
        if excess == 0 {
            return;
        }
        let mut clients = self.clients.all();
        clients.sort_by_cached_key(|client| Reverse(client.kept.load(Relaxed)));
        for client in clients {
            let kept = client.kept.load(Relaxed);
            if kept == 0 || excess == 0 {
                return;
            }
            excess = excess.saturating_sub(kept);
            tracing::warn!(peer = %client.peer(), "{kept} bytes are kept for this client: too much (buffer_limit)");
            let text = "the pooler keeps too much for its clients, and most for this one";
            let hint = "buffer_limit is how much it keeps for all of them.";
            let message = ErrorMessage::fatal(SqlState::OUT_OF_MEMORY, text).with_hint(hint);
            let refusal = Refusal::from(message).because("buffer_limit");
            self.order(client.worker, Order::End(client, refusal));
        }
    }

    /// Gives back what clients have shared, and none has any more.
    pub(crate) fn forget_unused_values(&self) {
        self.registry.pools().iter().for_each(|pool| pool.forget_unused());
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_number(self.phase_now.load(Relaxed))
    }

    /// Moves on to a later phase; an earlier one is not gone back to.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase_changes.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
                self.phase_now.store(phase as u8, Relaxed);
            }
            forward
        });
        (0..self.worker_count()).for_each(|worker| self.order(worker, Order::PhaseChanged));
    }
}
