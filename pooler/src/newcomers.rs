//! Connections that have not logged in yet: how many there may be, and how answers to failed logins are slowed by address.
//!
//! A right password is never delayed. A wrong one is answered at once the first time; after that the answer waits, twice as
//! long with every failure from that address, up to [`LONGEST_DELAY`]. One failure is forgiven every [`FORGIVEN_EVERY`]
//! seconds. The connection counts as one that has not logged in until its answer is sent, whether or not the client waits
//! for it, and an address that has failed often may have few of those: else many guesses at once would be as good as fast
//! ones.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::sqlstate::SqlState;

use crate::config::LoginLimits;
use crate::error::Refusal;
use crate::net::{Peer, Stream};
use crate::pool::{Counting, Tally};

/// The answer to a failed login waits no longer than this.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Microseconds after which one failure of an address is forgiven.
const FORGIVEN_EVERY: u64 = 10_000_000;

/// An address that has failed this often may have only [`FEW_AT_ONCE`] connections that have not logged in.
const OFTEN: u32 = 4;
const FEW_AT_ONCE: u32 = 16;

/// More failures than this make no difference: forgiven after four minutes at most.
const MOST_FAILURES: u32 = 24;

/// Addresses that are known one by one; those that come when there are as many share one count.
const MOST_ORIGINS: usize = 4096;

/// Connections above the limits that are told so at the same time; others are closed without a word.
const MOST_TOLD: usize = 64;

/// How long such a connection may take to say what it wants, and to take the answer.
pub(crate) const TIME_TO_TELL: Duration = Duration::from_secs(1);

/// Where a connection comes from, as far as failures are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    V4([u8; 4]),
    /// The network: who has one address of it has them all.
    V6([u8; 8]),
    /// User of the other end of a Unix socket, where the kernel tells.
    Unix(Option<u32>),
}

impl Origin {
    pub(crate) fn of(remote: Peer, stream: &Stream) -> Origin {
        match remote {
            Peer::Tcp(address) => Origin::of_address(address.ip()),
            Peer::Unix { .. } => Origin::Unix(stream.peer_uid()),
        }
    }

    fn of_address(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(v4) => Origin::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Origin::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Why a connection may not even try to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    All,
    Address,
    Failures,
}

impl From<Crowded> for Refusal {
    fn from(crowded: Crowded) -> Refusal {
        let (text, reason) = match crowded {
            Crowded::All => ("too many connections are logging in (max_login_clients)", "max_login_clients"),
            Crowded::Address => (
                "too many connections from this address are logging in (max_login_clients_per_address)",
                "max_login_clients_per_address",
            ),
            Crowded::Failures => (
                "too many connections from this address are logging in after failed logins (auth_failure_delay)",
                "auth_failure_delay",
            ),
        };
        Refusal::with_code(SqlState::TOO_MANY_CONNECTIONS, text).because(reason)
    }
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// Connections that have not logged in.
    here: u32,
    /// Failures not forgiven when the last one came.
    failures: u32,
    /// When that was, in microseconds.
    failed_at: u64,
}

impl Record {
    fn failures(&self, now: u64) -> u32 {
        let forgiven = now.saturating_sub(self.failed_at) / FORGIVEN_EVERY;
        self.failures.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    fn is_blank(&self, now: u64) -> bool {
        self.here == 0 && self.failures(now) == 0
    }

    /// One more failure. Returns how long its answer waits.
    fn fail(&mut self, now: u64, first_delay: Duration) -> Duration {
        let before = self.failures(now);
        self.failures = (before + 1).min(MOST_FAILURES);
        self.failed_at = now;
        match before.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                first_delay.saturating_mul(1 << doublings.min(MOST_FAILURES)).min(LONGEST_DELAY)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Records {
    all: usize,
    /// Never more than [`MOST_ORIGINS`].
    known: HashMap<Origin, Record>,
    /// Of all others.
    others: Record,
    /// When blank ones were last dropped.
    swept_at: u64,
    /// Answers that waited.
    delayed: u64,
}

impl Records {
    /// The name under which an origin is counted from now on: `None` is all those that are not known one by one.
    fn name(&mut self, origin: Origin, now: u64) -> Option<Origin> {
        let full = self.known.len() >= MOST_ORIGINS && !self.known.contains_key(&origin);
        if full && now.saturating_sub(self.swept_at) >= 1_000_000 {
            self.swept_at = now;
            self.known.retain(|_, record| !record.is_blank(now));
            return self.name(origin, now);
        }
        (!full).then_some(origin)
    }

    fn of(&mut self, name: Option<Origin>) -> &mut Record {
        match name {
            Some(origin) => self.known.entry(origin).or_default(),
            None => &mut self.others,
        }
    }
}

/// All of them, by address.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    records: Mutex<Records>,
    told: Arc<Tally>,
}

/// Numbers for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewcomerCounts {
    /// Connections that have not logged in.
    pub here: usize,
    /// Addresses whose next failure is answered late.
    pub slowed: usize,
    /// Failures that were answered late, since the start.
    pub delayed: u64,
}

impl Newcomers {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more, if the limits allow.
    ///
    /// # Errors
    /// Why they do not.
    pub(crate) fn enter(
        self: &Arc<Self>,
        origin: Origin,
        limits: &LoginLimits,
        now: u64,
    ) -> Result<Newcomer, Crowded> {
        let mut records = self.lock();
        if records.all >= limits.most {
            return Err(Crowded::All);
        }
        let name = records.name(origin, now);
        let record = records.of(name);
        // Those that are not known one by one are many: a limit for one address is not for them.
        let of_one = |most: u32| name.is_some() && record.here >= most;
        if limits.most_of_address.is_some_and(|most| of_one(most.get())) {
            return Err(Crowded::Address);
        }
        if !limits.failure_delay.is_zero() && record.failures(now) >= OFTEN && of_one(FEW_AT_ONCE) {
            return Err(Crowded::Failures);
        }
        record.here += 1;
        records.all += 1;
        Ok(Newcomer { newcomers: self.clone(), name })
    }

    /// Leave to tell one that it came at a bad time.
    pub(crate) fn tells(&self) -> Option<Counting> {
        let (counting, told) = self.told.count();
        (told <= MOST_TOLD).then_some(counting)
    }

    pub(crate) fn counts(&self, now: u64) -> NewcomerCounts {
        let records = self.lock();
        let slowed = records.known.values().filter(|record| record.failures(now) > 0).count();
        NewcomerCounts { here: records.all, slowed, delayed: records.delayed }
    }
}

/// One of them; dropped when it has logged in or its end is decided.
#[derive(Debug)]
pub(crate) struct Newcomer {
    newcomers: Arc<Newcomers>,
    name: Option<Origin>,
}

impl Newcomer {
    /// Its login has failed. Returns how long the answer waits.
    pub(crate) fn failed(&self, now: u64, limits: &LoginLimits) -> Duration {
        if limits.failure_delay.is_zero() {
            return Duration::ZERO;
        }
        let mut records = self.newcomers.lock();
        let delay = records.of(self.name).fail(now, limits.failure_delay);
        records.delayed += u64::from(!delay.is_zero());
        delay
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut records = self.newcomers.lock();
        records.all -= 1;
        let record = records.of(self.name);
        record.here -= 1;
        // One that has never failed needs not be remembered.
        if let (Some(origin), Record { here: 0, failures: 0, .. }) = (self.name, *record) {
            records.known.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const HERE: Origin = Origin::V4([10, 0, 0, 1]);
    const THERE: Origin = Origin::V4([10, 0, 0, 2]);

    fn limits() -> LoginLimits {
        LoginLimits { most: 100, most_of_address: None, failure_delay: Duration::from_millis(100) }
    }

    fn fail(newcomers: &Arc<Newcomers>, origin: Origin, now: u64) -> u128 {
        newcomers.enter(origin, &limits(), now).unwrap().failed(now, &limits()).as_millis()
    }

    #[test]
    fn failures_are_slowed_and_forgiven() {
        let newcomers = Arc::new(Newcomers::default());
        let delays: Vec<_> = (0..9).map(|_| fail(&newcomers, HERE, 1)).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(fail(&newcomers, THERE, 1), 0, "another address");
        assert_eq!(newcomers.counts(1), NewcomerCounts { here: 0, slowed: 2, delayed: 8 });
        // Nine failures, seven forgiven; then two, and one more.
        assert_eq!(fail(&newcomers, HERE, 1 + 70 * SECOND), 200);
        assert_eq!(fail(&newcomers, HERE, 1 + 100 * SECOND), 0);
        for _ in 0..1000 {
            fail(&newcomers, HERE, 2 * SECOND);
        }
        let later = (2 + 10 * u64::from(MOST_FAILURES)) * SECOND;
        assert_eq!(fail(&newcomers, HERE, later), 0, "however many there were");
    }

    #[test]
    fn no_delay_means_no_memory() {
        let newcomers = Arc::new(Newcomers::default());
        let off = LoginLimits { failure_delay: Duration::ZERO, ..limits() };
        for _ in 0..100 {
            assert_eq!(newcomers.enter(HERE, &off, 1).unwrap().failed(1, &off), Duration::ZERO);
        }
        assert!(newcomers.lock().known.is_empty());
    }

    #[test]
    fn so_many_at_once() {
        let newcomers = Arc::new(Newcomers::default());
        let few = LoginLimits { most: 3, most_of_address: NonZeroU32::new(2), ..limits() };
        let enter = |origin| newcomers.enter(origin, &few, 1);
        let first = enter(HERE).unwrap();
        let _second = enter(HERE).unwrap();
        assert_eq!(enter(HERE).unwrap_err(), Crowded::Address);
        let _third = enter(THERE).unwrap();
        assert_eq!(enter(THERE).unwrap_err(), Crowded::All);
        drop(first);
        assert!(enter(HERE).is_ok());
        assert_eq!(newcomers.counts(1).here, 2);
    }

    /// Many guesses at once are no faster than one after the other.
    #[test]
    fn who_has_failed_often_may_have_few_at_once() {
        let newcomers = Arc::new(Newcomers::default());
        let enter = |origin, now| newcomers.enter(origin, &limits(), now);
        (0..OFTEN).for_each(|_| assert!(fail(&newcomers, HERE, 1) < 5000));
        let held: Vec<_> = (0..FEW_AT_ONCE).map(|_| enter(HERE, 1).unwrap()).collect();
        assert_eq!(enter(HERE, 1).unwrap_err(), Crowded::Failures);
        assert!(enter(THERE, 1).is_ok());
        assert!(enter(HERE, 1 + FORGIVEN_EVERY).is_ok(), "one failure forgiven");
        drop(held);
        assert!(enter(HERE, 1).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let newcomers = Arc::new(Newcomers::default());
        let address = |n: u32| Origin::V4(n.to_be_bytes());
        let all = MOST_ORIGINS as u32 + 1000;
        (0..all).for_each(|n| assert!(fail(&newcomers, address(n), 1) <= 5000));
        assert_eq!(newcomers.lock().known.len(), MOST_ORIGINS);
        assert!(fail(&newcomers, address(all), 1) > 0, "the others share one count");
        let others: Vec<_> = (0..50).map(|_| newcomers.enter(address(all), &limits(), 1).unwrap()).collect();
        // When the first are forgiven there is room again.
        let later = 1 + FORGIVEN_EVERY;
        assert_eq!(fail(&newcomers, address(all + 1), later), 0);
        assert_eq!(newcomers.lock().known.len(), 1);
        drop(others);
        assert_eq!(newcomers.counts(later).here, 0);
    }

    #[test]
    fn addresses() {
        let of = |text: &str| Origin::of_address(text.parse().unwrap());
        assert_eq!(of("::ffff:10.0.0.1"), HERE);
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn few_are_told() {
        let newcomers = Newcomers::default();
        let told: Vec<_> = std::iter::from_fn(|| newcomers.tells()).collect();
        assert_eq!(told.len(), MOST_TOLD);
        drop(told);
        assert!(newcomers.tells().is_some());
    }
}
