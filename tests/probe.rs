//! What the tests under load share: a bystander that measures latency, numbers from a seed, and patience in bulk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::postgres::{Database, USER};
use support::wait::eventually;
use support::wire::{Client, Target};

/// A client that asks the same thing over and over and notes how long each answer takes.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Duration>>>,
}

impl Probe {
    /// Logs in and begins, with a pause between two queries.
    #[track_caller]
    pub(crate) fn start(target: &Target, sql: &str, pause: Duration) -> Probe {
        let mut client = Client::login(target);
        client.execute(sql);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sql) = (stop.clone(), sql.to_string());
        let thread = thread::spawn(move || {
            let mut taken = Vec::new();
            while !stopped.load(Relaxed) {
                let begin = Instant::now();
                client.execute(&sql);
                taken.push(begin.elapsed());
                thread::sleep(pause);
            }
            taken
        });
        Probe { stop, thread: Some(thread) }
    }

    /// Ends: what was measured.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Latencies {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().expect("it runs");
        let mut taken = thread.join().expect("the bystander's queries succeed");
        taken.sort_unstable();
        Latencies(taken)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Times, in ascending order.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// The time within which this share (0 to 1) of the answers came.
    #[track_caller]
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        assert!(!self.0.is_empty(), "nothing was measured");
        let place = (self.0.len() as f64 * share) as usize;
        self.0[place.min(self.0.len() - 1)]
    }

    /// How many answers came.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The usual figures, for the test's output.
    pub(crate) fn summary(&self) -> String {
        let [median, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        format!("{} queries, median {median:.1?}, p99 {p99:.1?}, max {max:.1?}", self.count())
    }
}

/// Numbers that depend on a seed only (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in one of `of` cases.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// Tells other threads to stop when it goes out of scope, also when that is because a test fails.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Waits until every server connection is idle outside a transaction, and there are no more than `most`.
#[track_caller]
pub(crate) fn wait_until_idle(database: &Database, most: usize) {
    eventually("idle server connections within the limit", Duration::from_secs(20), || {
        let backends = database.backends(USER);
        backends.len() <= most && backends.iter().all(|backend| backend.state == "idle")
    });
}

/// The value of an environment variable that makes a test larger than it is in CI.
pub(crate) fn size(variable: &str, usual: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
