//! What is kept for clients beyond what each of them usually takes, and the limit for all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes kept in the whole process.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    kept: AtomicUsize,
    /// As of the last tick; 0: none.
    limit: AtomicUsize,
}

impl Buffers {
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Bytes that are kept now.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// How many bytes more than the limit are kept.
    pub(crate) fn excess(&self) -> usize {
        match self.limit.load(Relaxed) {
            0 => 0,
            limit => self.kept.load(Relaxed).saturating_sub(limit),
        }
    }

    /// So many bytes are kept until the charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.kept.fetch_add(bytes, Relaxed);
        Charge { buffers: self.clone(), bytes }
    }
}

/// Bytes that are kept.
#[derive(Debug)]
pub(crate) struct Charge {
    buffers: Arc<Buffers>,
    bytes: usize,
}

impl Charge {
    /// There are so many now.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.buffers.kept.fetch_add(bytes, Relaxed);
        self.buffers.kept.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.buffers.kept.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_counted_until_it_is_dropped() {
        let buffers = Arc::new(Buffers::default());
        let (mut a, b) = (buffers.charge(0), buffers.charge(30));
        a.set(100);
        assert_eq!(buffers.excess(), 0); // no limit
        buffers.set_limit(50);
        assert_eq!(buffers.excess(), 80);
        a.set(40);
        assert_eq!(buffers.excess(), 20);
        drop(b);
        assert_eq!(buffers.excess(), 0);
        drop(a);
        assert_eq!(buffers.kept.load(Relaxed), 0);
    }
}
