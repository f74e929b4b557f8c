//! One host of a cluster, as it was observed last.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::breaker::Breaker;
use super::choice::{self, Candidate};
use super::outcome::{Recovered, Scene};
use super::{Lsn, Role, Sighting};
use crate::config::{Host, endpoint};
use crate::pool::lock;

/// Stands for a lag that is not known.
const NO_LAG: u64 = u64::MAX;

/// One host of a cluster.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its place among the cluster's hosts.
    pub(crate) index: usize,
    pub(crate) host: Host,
    pub(crate) port: u16,
    weight: AtomicU32,
    zone: ArcSwapOption<String>,
    /// Requests that it is at work on, of all pools.
    pub(crate) outstanding: AtomicUsize,
    /// Transactions that were sent there because they only read, since the start.
    pub(crate) reads: AtomicU64,
    /// When it was seen last, in microseconds; 0: never.
    seen_at: AtomicU64,
    role: AtomicU8,
    /// It is in recovery on the primary's timeline, and its breaker is closed.
    serves: AtomicBool,
    /// Since when, in microseconds.
    serves_since: AtomicU64,
    timeline: AtomicU32,
    lsn: AtomicU64,
    lag: AtomicU64,
    /// Moving average of the time that a look takes, in microseconds; 0: none yet.
    latency: AtomicU64,
    health: Mutex<Health>,
    /// Ends the sleep of its probe.
    pub(super) wake: Notify,
}

/// What only probes and the console look at.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) breaker: Breaker,
    pub(crate) probes: u64,
    pub(crate) failures: u64,
    /// Why the last look has told nothing; empty: it has.
    pub(crate) error: String,
    /// When that was, in microseconds.
    pub(crate) last: Option<u64>,
    /// How long the last answer took, in microseconds.
    pub(crate) took: Option<u64>,
    /// What a COMMIT is sent to there; `None`: not to a primary.
    pub(crate) scene: Option<Scene>,
    /// What it knew of transactions when it was seen last in recovery.
    pub(crate) recovered: Option<Recovered>,
}

impl Member {
    pub(crate) fn new(index: usize, host: Host, port: u16) -> Member {
        Member {
            index,
            host,
            port,
            weight: AtomicU32::new(1),
            zone: ArcSwapOption::empty(),
            outstanding: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            seen_at: AtomicU64::new(0),
            role: AtomicU8::new(Role::Unknown as u8),
            serves: AtomicBool::new(false),
            serves_since: AtomicU64::new(0),
            timeline: AtomicU32::new(0),
            lsn: AtomicU64::new(0),
            lag: AtomicU64::new(NO_LAG),
            latency: AtomicU64::new(0),
            health: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> (Host, u16) {
        (self.host.clone(), self.port)
    }

    pub(crate) fn is_at(&self, host: &Host, port: u16) -> bool {
        self.host == *host && self.port == port
    }

    /// Its place among the cluster's hosts as one of the bits of [`Wanted::without`](super::Wanted).
    pub(crate) fn bit(&self) -> u64 {
        choice::bit(self.index)
    }

    /// Its share of reads beside others, and its availability zone.
    pub(crate) fn set_place(&self, weight: u32, zone: Option<String>) {
        self.weight.store(weight, Relaxed);
        if self.zone().as_deref() != zone.as_ref() {
            self.zone.store(zone.map(Into::into));
        }
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(crate) fn zone(&self) -> Option<std::sync::Arc<String>> {
        self.zone.load_full()
    }

    /// What it was at its last look, for as long as that counts (`valid`, in microseconds).
    pub(crate) fn role_at(&self, now: u64, valid: u64) -> Role {
        match self.is_fresh(now, valid) {
            true => Role::from_number(self.role.load(Relaxed)),
            false => Role::Unknown,
        }
    }

    pub(super) fn is_fresh(&self, now: u64, valid: u64) -> bool {
        let seen = self.seen_at.load(Relaxed);
        seen > 0 && now.saturating_sub(seen) <= valid
    }

    pub(crate) fn timeline(&self) -> Option<u32> {
        Some(self.timeline.load(Relaxed)).filter(|timeline| *timeline > 0)
    }

    /// Up to where it has written or replayed, at its last look.
    pub(crate) fn lsn(&self) -> Option<Lsn> {
        Some(Lsn(self.lsn.load(Relaxed))).filter(|lsn| lsn.0 > 0)
    }

    /// In microseconds, at its last look.
    pub(crate) fn lag(&self) -> Option<u64> {
        Some(self.lag.load(Relaxed)).filter(|lag| *lag != NO_LAG)
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    /// As somebody who may serve reads, if it may.
    pub(super) fn candidate(&self, now: u64, valid: u64, zone: Option<&str>) -> Option<Candidate> {
        if !self.serves.load(Relaxed) || !self.is_fresh(now, valid) {
            return None;
        }
        let near = zone.is_some_and(|zone| self.zone.load().as_ref().is_some_and(|own| **own == *zone));
        let serves_for = now.saturating_sub(self.serves_since.load(Relaxed));
        let age = now.saturating_sub(self.seen_at.load(Relaxed));
        Some(Candidate {
            index: self.index,
            near,
            strength: choice::strength(self.weight(), self.latency.load(Relaxed), serves_for),
            outstanding: self.outstanding.load(Relaxed),
            replayed: Lsn(self.lsn.load(Relaxed)),
            // One that is behind gets no nearer that anybody knows of until the next look.
            lag: self.lag().map(|lag| if lag == 0 { 0 } else { lag.saturating_add(age) }),
        })
    }

    /// It has answered after `took` microseconds.
    pub(super) fn saw(&self, sighting: &Sighting, now: u64, took: u64) {
        let before = self.latency.load(Relaxed);
        let average = if before == 0 { took } else { (before * 7 + took) / 8 };
        self.latency.store(average.max(1), Relaxed);
        self.lsn.store(sighting.lsn.0, Relaxed);
        self.seen_at.store(now, Relaxed);
        let mut health = self.health();
        health.note(now, "");
        health.took = Some(took);
        health.scene = Scene::new(self.index, sighting, now.saturating_sub(took));
        health.recovered = Recovered::new(sighting).or(health.recovered);
        health.breaker.worked(now);
    }

    /// It was looked at in vain, by no fault of the host's.
    pub(super) fn missed(&self, now: u64, why: &str) {
        self.health().note(now, why);
    }

    /// The same, and the host is to blame.
    pub(super) fn failed(&self, now: u64, why: &str) {
        let mut health = self.health();
        health.note(now, why);
        health.breaker.failed(now, why);
    }

    /// What follows from what is known of all hosts. True: something is different.
    pub(super) fn stand(&self, role: Role, follows: bool, timeline: Option<u32>, now: u64) -> bool {
        let serves = follows && self.health().breaker.is_closed();
        self.timeline.store(timeline.unwrap_or(0), Relaxed);
        if serves && !self.serves.load(Relaxed) {
            self.serves_since.store(now, Relaxed);
        }
        let changed = self.serves.swap(serves, Relaxed) != serves;
        self.role.swap(role as u8, Relaxed) != role as u8 || changed
    }

    pub(super) fn set_lag(&self, lag: Option<u64>) {
        self.lag.store(lag.unwrap_or(NO_LAG), Relaxed);
    }
}

/// For the log.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", endpoint(&self.host, self.port))
    }
}

impl Health {
    fn note(&mut self, now: u64, error: &str) {
        self.probes += 1;
        self.failures += u64::from(!error.is_empty());
        self.last = Some(now);
        error.clone_into(&mut self.error);
    }
}
