//! Waiting for a condition with a deadline, and ports that nobody uses.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long a read or a small wait may take before a test is called hung: 10 s, times [`patience`].
pub fn default_deadline() -> Duration {
    patient(Duration::from_secs(10))
}

/// Factor from the environment variable `PATIENCE` by which all deadlines are stretched (slow machines, sanitizers).
/// 1 where it is not set.
pub fn patience() -> f64 {
    static FACTOR: OnceLock<f64> = OnceLock::new();
    *FACTOR.get_or_init(|| match std::env::var("PATIENCE") {
        Ok(text) => text.parse().expect("PATIENCE is a number"),
        Err(_) => 1.0,
    })
}

/// `limit` stretched by [`patience`].
pub fn patient(limit: Duration) -> Duration {
    limit.mul_f64(patience())
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit` (stretched by [`patience`]).
#[track_caller]
pub fn eventually(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "{what}: not within {:?}", patient(limit));
}

/// True as soon as `condition` holds, false if it does not within `limit` (stretched by [`patience`]).
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patient(limit);
    let mut pause = Duration::from_millis(1);
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
///
/// It lies below the range from which the kernel takes ports for outgoing connections, so only another listener can
/// take it; callers start their server and try again with another port if that happened. No port is given twice by one
/// process, and every process begins at a random place.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 19_000;
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new((random() % u64::from(COUNT)) as u32));
    for _ in 0..COUNT {
        let port = (FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A number that differs between processes and calls. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A gate that is closed until somebody opens it: "go on when I say so" between a test and a scripted peer.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    /// Waits until the gate is open.
    ///
    /// # Panics
    /// When nobody opens it within a minute (stretched by [`patience`]).
    #[track_caller]
    pub fn pass(&self) {
        let limit = patient(Duration::from_secs(60));
        let (open, timeout) =
            self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), limit, |open| !*open).unwrap();
        assert!(*open && !timeout.timed_out(), "nobody opened the gate");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_one_process_differ() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_condition_that_never_holds_is_reported() {
        assert!(!holds_within(Duration::from_millis(5), || false));
        assert!(holds_within(Duration::from_millis(5), || true));
    }

    #[test]
    fn a_gate_lets_through_once_open() {
        let gate = Gate::new();
        let waiting = gate.clone();
        let thread = thread::spawn(move || waiting.pass());
        assert!(!gate.is_open());
        gate.open();
        thread.join().unwrap();
    }
}
