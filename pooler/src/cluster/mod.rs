//! Hosts that belong together: one primary and its replicas, as they are observed and not as they are called.
//!
//! Every database whose hosts are the same ones shares a [`Cluster`]. A probe for each host tells its role, its timeline and
//! how far its WAL goes; what follows from that (who may be written to, who may be read from) is asked here.

mod causal;
mod lsn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

pub(crate) use causal::{Causal, CausalKeys, NotYet};
pub use lsn::{Lsn, NotAnLsn};

use crate::config::{Host, Replica};
use crate::pool::Pool;
use crate::shared::Shared;

/// What a host was at its last observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Not observed yet, or not within the time for which an observation counts.
    #[default]
    Unknown,
    /// It takes writes.
    Primary,
    /// It is in recovery.
    Standby,
    /// It takes writes, but another host's timeline is newer: nobody may use it.
    Fenced,
}

/// One host of a cluster.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its place among the cluster's hosts.
    pub(crate) index: usize,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) zone: Option<String>,
    /// Requests that it is at work on, of all pools.
    pub(crate) outstanding: AtomicUsize,
    /// Transactions that were sent there because they only read, since the start.
    pub(crate) reads: AtomicU64,
}

impl Member {
    /// Where it is.
    pub(crate) fn address(&self) -> (Host, u16) {
        (self.host.clone(), self.port)
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

/// Hosts of one or more databases.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    members: Box<[Arc<Member>]>,
    /// By clients' causality keys.
    keys: CausalKeys,
    /// Counts observations that matter to who waits: a role, a place in the WAL.
    observed: watch::Sender<u64>,
}

impl Cluster {
    pub(crate) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// What clients with a causality key have written.
    pub(crate) fn keys(&self) -> &CausalKeys {
        &self.keys
    }

    /// The host that may be written to now: the one primary with the newest timeline, unless it can't be reached.
    pub(crate) fn primary(&self) -> Option<Arc<Member>> {
        todo!()
    }

    /// Changes with every new primary.
    pub(crate) fn epoch(&self) -> u64 {
        todo!()
    }

    /// It may be read from.
    pub(crate) fn is_usable(&self, member: &Member) -> bool {
        let _ = member;
        todo!()
    }

    /// A replica for a read.
    pub(crate) fn choose(&self, wanted: Wanted<'_>) -> Result<Arc<Member>, NoReplica> {
        let _ = wanted;
        todo!()
    }

    /// Somebody will want to know the bound of what has been committed up to now: the next sample is taken soon.
    pub(crate) fn wants_sample(&self) {
        todo!()
    }

    /// A place in the WAL behind everything that was committed by the moment `at` (microseconds): the primary's position at
    /// the first sample that was begun at that moment or later. `None`: there is no such sample yet.
    pub(crate) fn bound(&self, at: u64) -> Option<Lsn> {
        let _ = at;
        todo!()
    }

    /// For who waits for a replica to catch up, or for a primary.
    pub(crate) fn observed(&self) -> watch::Receiver<u64> {
        self.observed.subscribe()
    }

    /// A pool of a database with these hosts begins: its credentials do for probes.
    pub(crate) fn attach(self: &Arc<Self>, pool: &Arc<Pool>) {
        let _ = pool;
        todo!()
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| member.address())).finish()
    }
}
