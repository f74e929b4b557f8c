//! Counters of a pool, one set a worker, summed when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A counter with one writer (the worker it belongs to) and any number of readers: no locked instruction to count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds a duration in microseconds.
    pub fn add_time(&self, time: Duration) {
        self.add(time.as_micros() as u64);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What one worker has counted for one pool, on cache lines of its own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters { $($(#[$doc])* pub $name: Counter),* }

        /// The same at one moment, summed over workers.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $name: u64),* }

        impl Totals {
            /// Adds what one worker has counted.
            pub fn add_counters(&mut self, from: &Counters) {
                $(self.$name += from.$name.get();)*
            }

            /// Adds other totals.
            pub fn add(&mut self, other: &Totals) {
                $(self.$name += other.$name;)*
            }

            /// What has come since `earlier`.
            pub fn since(&self, earlier: &Totals) -> Totals {
                Totals { $($name: self.$name.saturating_sub(earlier.$name)),* }
            }
        }
    };
}

counters! {
    /// Times a server was linked to a client.
    assignments,
    /// Transactions begun.
    xacts,
    /// Rounds of requests until nothing was owed.
    queries,
    /// Bytes taken from clients after login.
    received,
    /// Bytes taken from servers after login.
    sent,
    /// Microseconds in transactions.
    xact_time,
    /// Microseconds in queries.
    query_time,
    /// Microseconds that clients waited for a server.
    wait_time,
    /// Named `Parse` messages from clients.
    client_parses,
    /// `Parse` messages that the pooler sent on its own.
    server_parses,
    /// Named `Bind` messages from clients.
    binds,
    /// Successful logins.
    logins,
}

/// Totals at the last two ends of the statistics period.
#[derive(Debug, Default)]
pub(crate) struct Periods(Mutex<[Totals; 2]>);

impl Periods {
    /// A period ends with these totals. Returns what has come in it.
    pub(crate) fn end(&self, now: Totals) -> Totals {
        let mut ends = self.ends();
        *ends = [ends[1], now];
        now.since(&ends[0])
    }

    /// What came in the last full period.
    pub(crate) fn last(&self) -> Totals {
        let [before, after] = *self.ends();
        after.since(&before)
    }

    fn ends(&self) -> MutexGuard<'_, [Totals; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
