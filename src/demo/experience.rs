//! What the clients of the demonstration live through.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all clients and the screen.
#[derive(Debug, Clone, Default)]
pub(super) struct Experience(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    reads: u64,
    writes: u64,
    /// Reads that did not show what the same client had written before.
    missed: u64,
    /// By SQLSTATE, or what took its place.
    errors: BTreeMap<String, u64>,
    longest: Duration,
    /// Since when each client has tried to get its statement done.
    trying: BTreeMap<usize, Instant>,
}

/// What a client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

impl Experience {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client begins with a statement, and goes on until it is done, however often it fails.
    pub(super) fn begin(&self, client: usize, now: Instant) {
        self.with(|state| state.trying.insert(client, now));
    }

    /// It is done.
    pub(super) fn done(&self, client: usize, kind: Kind, now: Instant) {
        self.with(|state| {
            if let Some(since) = state.trying.remove(&client) {
                state.longest = state.longest.max(now.duration_since(since));
            }
            match kind {
                Kind::Read => state.reads += 1,
                Kind::Write => state.writes += 1,
            }
        });
    }

    /// It was answered with an error, or not at all.
    pub(super) fn failed(&self, code: &str) {
        self.with(|state| *state.errors.entry(code.to_owned()).or_default() += 1);
    }

    /// A read did not show what its client had written.
    pub(super) fn missed(&self) {
        self.with(|state| state.missed += 1);
    }

    /// All of it, on one line. Who still waits counts with the time until now.
    pub(super) fn summary(&self, now: Instant) -> String {
        self.with(|state| {
            let waiting = state.trying.values().map(|since| now.saturating_duration_since(*since)).max();
            let longest = state.longest.max(waiting.unwrap_or_default());
            let mut text = format!("{} reads, {} writes, ", state.reads, state.writes);
            let errors: u64 = state.errors.values().sum();
            let _ = write!(text, "{errors} errors"); // a String takes everything
            let kinds: Vec<String> =
                state.errors.iter().map(|(code, count)| format!("{code}: {count}")).collect();
            if !kinds.is_empty() {
                let _ = write!(text, " ({})", kinds.join(", "));
            }
            let _ = write!(text, ", longest stall {:.2} s", longest.as_secs_f64());
            let _ = write!(text, ", {} own writes not seen", state.missed);
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_lasts_from_the_first_attempt_to_the_last() {
        let (experience, start) = (Experience::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        experience.begin(1, at(0));
        experience.done(1, Kind::Read, at(100));
        experience.begin(1, at(200));
        experience.failed("57P01");
        experience.failed("connection lost");
        experience.failed("57P01");
        experience.done(1, Kind::Write, at(1700));
        let errors = "3 errors (57P01: 2, connection lost: 1)";
        let expected = format!("1 reads, 1 writes, {errors}, longest stall 1.50 s, 0 own writes not seen");
        assert_eq!(experience.summary(at(9000)), expected);
        experience.begin(2, at(9000));
        experience.missed();
        let text = experience.summary(at(12_000));
        assert!(text.ends_with("longest stall 3.00 s, 1 own writes not seen"), "{text}");
    }
}
