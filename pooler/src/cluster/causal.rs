//! What a client must see when it reads: its own writes, and those of clients with the same causality key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use dashmap::DashMap;

use super::{Cluster, Lsn};

/// What somebody has written, as far as replicas may not have it yet.
#[derive(Debug, Default)]
pub(crate) struct Causal {
    /// When the last write was answered of which the place in the WAL is not known; 0: none.
    wrote_at: AtomicU64,
    /// Everything up to there must be seen.
    seen: AtomicU64,
    /// Of which primary that place is.
    epoch: AtomicU64,
}

/// The place in the WAL up to which a replica must have replayed is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotYet;

impl Causal {
    /// A write was answered.
    pub(crate) fn wrote(&self, now: u64) {
        self.wrote_at.fetch_max(now, SeqCst);
    }

    /// Everything up to this place in the WAL was seen elsewhere.
    pub(crate) fn must_see(&self, lsn: Lsn, epoch: u64) {
        self.epoch.store(epoch, SeqCst);
        self.seen.fetch_max(lsn.0, SeqCst);
    }

    /// What a replica must have replayed for who reads now. `None`: nothing.
    ///
    /// # Errors
    /// There was a write for which no sample was taken yet.
    pub(crate) fn needs(&self, cluster: &Cluster, now: u64) -> Result<Option<Lsn>, NotYet> {
        let epoch = cluster.epoch();
        if self.epoch.swap(epoch, SeqCst) != epoch && self.seen.swap(0, SeqCst) != 0 {
            // Places of another timeline mean nothing on this one; what the new primary has now includes all that is left.
            self.wrote(now);
        }
        let wrote_at = self.wrote_at.load(SeqCst);
        if wrote_at != 0 {
            let lsn = cluster.bound(wrote_at).ok_or(NotYet)?;
            self.seen.fetch_max(lsn.0, SeqCst);
            let _ = self.wrote_at.compare_exchange(wrote_at, 0, SeqCst, SeqCst); // another write may have come
        }
        Ok(Some(Lsn(self.seen.load(SeqCst))).filter(|lsn| lsn.0 > 0))
    }
}

/// By the keys that clients have given themselves.
#[derive(Debug, Default)]
pub(crate) struct CausalKeys(DashMap<Box<str>, Arc<Causal>>);

/// Keys that nobody has are forgotten when there are more than this.
const MANY: usize = 10_000;

impl CausalKeys {
    /// What those with this key have written.
    pub(crate) fn of(&self, key: &str) -> Arc<Causal> {
        if self.0.len() > MANY {
            self.0.retain(|_, causal| Arc::strong_count(causal) > 1);
        }
        self.0.entry(key.into()).or_default().clone()
    }
}
