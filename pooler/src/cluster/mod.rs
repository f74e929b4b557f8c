//! Hosts that belong together: one primary and its replicas, as they are observed and not as they are called.
//!
//! Every database whose hosts are the same ones shares a [`Cluster`]. A probe for each host tells its role, its timeline and
//! how far its WAL goes; what follows from that (who may be written to, who may be read from) is asked here.

mod breaker;
mod causal;
mod choice;
mod lsn;
mod member;
mod outcome;
mod pace;
mod patroni;
mod probe;
mod registry;
mod roles;
mod samples;
mod sighting;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use causal::{Causal, CausalKeys, NotYet};
pub(crate) use lsn::Lsn;
pub(crate) use member::Member;
pub(crate) use outcome::{OWN_ID, Outcome, Scene, Sought, Testimony, question};
pub(crate) use patroni::Watch;
pub(crate) use probe::Probe;
pub(crate) use registry::Clusters;
pub(crate) use sighting::Sighting;

use crate::config::{Database, Host, Routing};
use crate::pool::{Db, Pool, lock};
use crate::shared::Shared;
use pace::Pace;
use probe::Look;
use registry::Place;
use roles::Roles;
use samples::Samples;

/// What a host was at its last observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Role {
    /// Not observed yet, or not within the time for which an observation counts.
    #[default]
    Unknown,
    /// It takes writes.
    Primary,
    /// It is in recovery.
    Standby,
    /// It takes writes, but another host's timeline is newer, or Patroni names another leader: nobody may use it.
    Fenced,
}

impl Role {
    fn from_number(number: u8) -> Role {
        let all = [Role::Primary, Role::Standby, Role::Fenced];
        all.into_iter().find(|role| *role as u8 == number).unwrap_or_default()
    }

    /// For the console.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Unknown => "unknown",
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Fenced => "fenced",
        }
    }
}

/// What a read asks of the replica that serves it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// The replica must have replayed as much.
    pub(crate) seen: Option<Lsn>,
    /// Members, by their indices as bits, that have failed it already.
    pub(crate) without: u64,
    /// The pooler's zone.
    pub(crate) zone: Option<&'a str>,
    /// Longest lag, in microseconds.
    pub(crate) max_lag: Option<u64>,
    /// Of a random number generator.
    pub(crate) random: u64,
}

/// Why no replica serves a read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoReplica {
    /// None has replayed as much yet.
    Behind,
    /// None is there, or healthy, or near enough to the primary.
    NoneHealthy,
}

/// An observation counts for so many times the longest time between two.
const VALID_FOR: u64 = 3;

/// That somebody wants places in the WAL is noted again only after so long (microseconds), to spare the workers' caches.
const NOTED_FOR: u64 = 50_000;

/// Stands for no primary.
const NOBODY: usize = usize::MAX;

/// Hosts of one or more databases.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    members: Box<[Arc<Member>]>,
    /// Its databases, and some that were.
    joined: Mutex<Vec<Weak<Db>>>,
    /// By clients' causality keys.
    keys: CausalKeys,
    roles: Mutex<Roles>,
    /// The same as in `roles`, for who only looks.
    primary: AtomicUsize,
    epoch: AtomicU64,
    samples: Mutex<Samples>,
    /// When somebody wanted to know places in the WAL, in microseconds, and whether probes were woken for that.
    wanted: AtomicU64,
    hurries: AtomicBool,
    /// When a read named a longest lag, and which, in microseconds.
    lag_named: AtomicU64,
    lag_limit: AtomicU64,
    /// When one of the hosts has failed, in microseconds.
    failed: AtomicU64,
    /// Counts observations that matter to who waits: a role, a place in the WAL.
    observed: watch::Sender<u64>,
}

impl Cluster {
    /// The cluster of a database's hosts; `None`: they are not observed.
    pub(crate) fn of(shared: &Arc<Shared>, database: &Database, routing: &Routing) -> Option<Arc<Cluster>> {
        let places = registry::places(database, routing);
        (!places.is_empty()).then(|| shared.clusters.of(shared, places))
    }

    /// Observed from now on, until nobody has it any more.
    fn new(shared: &Arc<Shared>, places: &[Place]) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster::unobserved(shared, places));
        for (index, member) in cluster.members.iter().enumerate() {
            let probe = Probe { cluster: Arc::downgrade(&cluster), member: member.clone() };
            shared.order(index % shared.worker_count(), crate::worker::Order::Probe(probe));
        }
        shared.order(0, crate::worker::Order::AskPatroni(Watch::new(&cluster)));
        cluster
    }

    fn unobserved(shared: &Arc<Shared>, places: &[Place]) -> Cluster {
        let member =
            |(index, place): (usize, &Place)| Arc::new(Member::new(index, place.host.clone(), place.port));
        Cluster {
            shared: shared.clone(),
            members: places.iter().enumerate().map(member).collect(),
            joined: Mutex::default(),
            keys: CausalKeys::default(),
            roles: Mutex::new(Roles::new(places.len())),
            primary: AtomicUsize::new(NOBODY),
            epoch: AtomicU64::new(0),
            samples: Mutex::default(),
            wanted: AtomicU64::new(0),
            hurries: AtomicBool::new(false),
            lag_named: AtomicU64::new(0),
            lag_limit: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            observed: watch::Sender::new(0),
        }
    }

    /// Weights and zones, as they are configured now.
    fn set_places(&self, places: &[Place]) {
        for place in places {
            let member = self.member_at(&place.host, place.port);
            member.inspect(|member| member.set_place(place.weight, place.zone.clone()));
        }
    }

    pub(crate) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// What clients with a causality key have written.
    pub(crate) fn keys(&self) -> &CausalKeys {
        &self.keys
    }

    /// The one at this address.
    pub(crate) fn member_at(&self, host: &Host, port: u16) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.is_at(host, port))
    }

    pub(crate) fn has(&self, member: &Arc<Member>) -> bool {
        self.members.iter().any(|own| Arc::ptr_eq(own, member))
    }

    // ---- what follows from what was observed -----------------------------------------------------------------

    /// The host that may be written to now: the one primary with the newest timeline, unless it can't be reached.
    pub(crate) fn primary(&self) -> Option<Arc<Member>> {
        let primary = self.members.get(self.primary.load(SeqCst))?;
        primary.is_fresh(self.now(), self.valid_for()).then(|| primary.clone())
    }

    /// Changes with every new primary.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// What a host is.
    pub(crate) fn role(&self, member: &Member) -> Role {
        member.role_at(self.now(), self.valid_for())
    }

    /// It may be read from.
    pub(crate) fn is_usable(&self, member: &Member) -> bool {
        let now = self.now();
        let fit = |role| matches!(role, Role::Standby | Role::Unknown);
        fit(member.role_at(now, self.valid_for())) && member.health().breaker.is_closed()
    }

    /// A replica for a read.
    pub(crate) fn choose(&self, wanted: Wanted<'_>) -> Result<Arc<Member>, NoReplica> {
        let (now, valid) = (self.now(), self.valid_for());
        if let Some(lag) = wanted.max_lag
            && now.saturating_sub(self.lag_named.load(Relaxed)) > NOTED_FOR
        {
            self.lag_limit.store(lag, Relaxed);
            self.lag_named.store(now, Relaxed);
        }
        let candidates = self.members.iter().filter_map(|member| member.candidate(now, valid, wanted.zone));
        choice::choose(candidates, &wanted).map(|index| self.members[index].clone())
    }

    /// Somebody will want to know the bound of what has been committed up to now: the next sample is taken soon.
    pub(crate) fn wants_sample(&self) {
        let now = self.now();
        if now.saturating_sub(self.wanted.load(Relaxed)) <= NOTED_FOR {
            return; // looks are frequent still, and for long enough
        }
        self.wanted.store(now, SeqCst);
        if !self.hurries.swap(true, SeqCst) {
            self.wake();
        }
    }

    /// A place in the WAL behind everything that was committed by the moment `at` (microseconds): the primary's position at
    /// the first sample that was begun at that moment or later. `None`: there is no such sample yet.
    pub(crate) fn bound(&self, at: u64) -> Option<Lsn> {
        lock(&self.samples).bound(at)
    }

    /// How far a host is behind the primary, as far as is known, in bytes.
    pub(crate) fn lag_bytes(&self, member: &Member) -> Option<u64> {
        let newest = lock(&self.samples).newest()?;
        let replayed = member.lsn().filter(|_| matches!(self.role(member), Role::Primary | Role::Standby))?;
        Some(newest.0.saturating_sub(replayed.0))
    }

    /// For who waits for a replica to catch up, or for a primary.
    pub(crate) fn observed(&self) -> watch::Receiver<u64> {
        self.observed.subscribe()
    }

    // ---- whose it is -----------------------------------------------------------------------------------------

    /// A database has these hosts.
    pub(crate) fn join(&self, db: &Arc<Db>) {
        let mut joined = lock(&self.joined);
        joined.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(db)));
        joined.push(Arc::downgrade(db));
    }

    /// A pool of one of its databases begins: its credentials do for probes.
    pub(crate) fn attach(&self) {
        self.wake();
    }

    /// Those that have these hosts still.
    fn own_databases(&self) -> Vec<Arc<Db>> {
        let is_own = |db: &Arc<Db>| db.cluster.load().as_ref().is_some_and(|own| std::ptr::eq(&**own, self));
        lock(&self.joined).iter().filter_map(Weak::upgrade).filter(is_own).collect()
    }

    /// The names of its databases.
    pub(crate) fn databases(&self) -> Vec<String> {
        let mut names: Vec<_> = self.own_databases().iter().map(|db| db.name.clone()).collect();
        names.sort();
        names
    }

    /// The pools of its databases, but not those at single hosts.
    fn homes(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = self.own_databases().iter().flat_map(|db| db.pools()).collect();
        pools.retain(|pool| pool.site.is_none());
        pools
    }

    /// With whose user and to whose database probes log in; the best first.
    fn pools_for_probes(&self) -> Vec<Arc<Pool>> {
        let config = self.shared.config.load();
        let named = |db: &Arc<Db>, user: &str| self.shared.registry.pool_of(&self.shared, db, user);
        if let Some(user) = &config.probes.user {
            return self.own_databases().first().iter().map(|db| named(db, user)).collect();
        }
        let pools = self.homes();
        if !pools.is_empty() {
            return pools;
        }
        let own = self.own_databases().iter().find_map(|db| {
            let spec = db.spec.load();
            let user = spec.user.as_ref().or(spec.auth_user.as_ref()).or(config.auth.query.user.as_ref())?;
            Some(named(db, user))
        });
        own.into_iter().collect()
    }

    // ---- what probes do --------------------------------------------------------------------------------------

    /// Microseconds of the process's clock.
    pub(crate) fn now(&self) -> u64 {
        self.shared.clock.micros()
    }

    fn wake(&self) {
        self.members.iter().for_each(|member| member.wake.notify_one());
    }

    fn probe_timeout(&self) -> Duration {
        self.shared.config.load().probes.timeout
    }

    /// For how long an observation counts, in microseconds.
    fn valid_for(&self) -> u64 {
        let config = self.shared.config.load();
        // A look takes up to its limit, so the next one may come that much later.
        (VALID_FOR * config.probes.interval.as_micros() as u64)
            .max(2 * config.probes.timeout.as_micros() as u64)
    }

    /// All its databases are paused: nobody is connected.
    fn rests(&self) -> bool {
        let databases = self.own_databases();
        self.shared.is_paused() || !databases.is_empty() && databases.iter().all(|db| db.paused.load(Relaxed))
    }

    /// A host is not observed for now.
    fn rest(&self, member: &Member) {
        self.settle(|roles| roles.lose(member.index));
    }

    /// A look at a host has come to this. Returns the time from its beginning to that of the next.
    fn note(&self, member: &Member, look: Look) -> Duration {
        let now = self.now();
        match look {
            Look::Seen(sighting, begun, took) => {
                let was_fresh = member.is_fresh(now, self.valid_for());
                member.saw(&sighting, now, took);
                self.settle(|roles| roles.observe(member.index, &sighting));
                self.note_place(member, &sighting, begun, now);
                if !was_fresh && self.primary.load(SeqCst) == member.index {
                    self.homes().iter().for_each(|pool| pool.primary_is_back());
                }
                self.observed.send_modify(|count| *count += 1);
            }
            Look::NotYet(why) => member.missed(now, &why),
            Look::Nothing(why) => {
                member.missed(now, &why);
                self.settle(|roles| roles.pass_over(member.index));
            }
            Look::Failed(why) => {
                let is_news = self.role(member) != Role::Unknown;
                if is_news {
                    warn!("{}: {why}", member);
                    self.failed.store(now, Relaxed);
                    self.wake_others(member);
                }
                member.failed(now, &why);
                self.settle(|roles| roles.lose(member.index));
                if is_news {
                    self.homes().iter().for_each(|pool| pool.member_lost(member));
                }
            }
        }
        Duration::from_micros(self.pause())
    }

    fn wake_others(&self, failed: &Member) {
        let others = self.members.iter().filter(|member| member.index != failed.index);
        others.for_each(|member| member.wake.notify_one());
    }

    /// In microseconds. Decided once more when the probes are no longer expected to hurry, so that whoever wants a sample
    /// behind that wakes them.
    fn pause(&self) -> u64 {
        let pause = self.pace().pause(self.now());
        if self.wanted.load(SeqCst) > 0 && pause > self.pace_wanted() {
            self.hurries.store(false, SeqCst);
            return self.pace().pause(self.now());
        }
        pause
    }

    fn pace(&self) -> Pace {
        let config = self.shared.config.load();
        Pace {
            interval: config.probes.interval.as_micros() as u64,
            wanted: self.wanted.load(SeqCst),
            lag: (self.lag_named.load(Relaxed), self.lag_limit.load(Relaxed)),
            failed: self.failed.load(Relaxed),
            has_primary: self.primary.load(SeqCst) != NOBODY,
        }
    }

    /// The pause while a sample is wanted now.
    fn pace_wanted(&self) -> u64 {
        let now = self.now();
        Pace { wanted: now, ..self.pace() }.pause(now)
    }

    /// Changes what is known of roles, and has everybody know what follows.
    fn settle(&self, change: impl FnOnce(&mut Roles)) {
        let now = self.now();
        let mut roles = lock(&self.roles);
        let (before, epoch) = (roles.primary(), roles.epoch());
        change(&mut roles);
        let mut changed = false;
        for member in &self.members {
            let index = member.index;
            let was = member.role_at(now, u64::MAX);
            changed |= member.stand(roles.role(index), roles.follows(index), roles.timeline(index), now);
            if roles.role(index) != was {
                info!("{}: {}, was {}", member, roles.role(index).word(), was.word());
            }
        }
        self.primary.store(roles.primary().unwrap_or(NOBODY), SeqCst);
        if roles.epoch() != epoch {
            lock(&self.samples).clear(); // another history, and nobody adds to the old one any more
        }
        self.epoch.store(roles.epoch(), SeqCst);
        let (after, is_new) = (roles.primary(), roles.epoch() != epoch);
        drop(roles);
        if is_new {
            self.homes().iter().for_each(|pool| pool.primary_changed());
        } else if before.is_none() && after.is_some() {
            self.homes().iter().for_each(|pool| pool.primary_is_back());
        } else if before.is_some() && after.is_none() {
            self.homes().iter().for_each(|pool| pool.primary_lost());
        }
        if changed || before != after {
            self.observed.send_modify(|count| *count += 1);
        }
    }

    /// How far the primary is, or a standby behind it.
    fn note_place(&self, member: &Member, sighting: &Sighting, begun: u64, now: u64) {
        let mut samples = lock(&self.samples);
        match self.primary.load(SeqCst) == member.index {
            true => {
                samples.push(begun, sighting.lsn);
                member.set_lag(Some(0));
            }
            false => member.set_lag(samples.lag(sighting.lsn, now)),
        }
    }

    // ---- what others find out --------------------------------------------------------------------------------

    /// Somebody could not connect to a host.
    pub(crate) fn connect_failed(&self, member: &Member, why: &str) {
        member.health().breaker.failed(self.now(), why);
        self.settle(|_| {});
        self.suspect(member);
    }

    /// A connection to a host was lost that was in use: is it still there?
    pub(crate) fn suspect(&self, member: &Member) {
        self.failed.store(self.now(), Relaxed);
        member.wake.notify_one();
    }
}

impl Drop for Cluster {
    /// Its probes find that it is gone.
    fn drop(&mut self) {
        self.wake();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| member.address())).finish()
    }
}
