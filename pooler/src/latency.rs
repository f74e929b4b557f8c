//! How long waits, requests and transactions take: a distribution of each for every pool.
//!
//! What is counted where a request ends must cost next to nothing, so each worker has counters of its own, which only
//! it writes and anybody reads: no lock, no locked instruction, no allocation. Crates for histograms keep one that all
//! writers share behind atomics, or one that has to be sent away to be read, and take many times the memory; this is an
//! array of 124 numbers.
//!
//! Four buckets to each power of two: a value between two bounds is known to within an eighth. Times are microseconds,
//! from 1 to 2^32 (71 minutes); longer ones are in the last bucket, with their true sum and maximum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Buckets to a power of two, as a power of two.
const FINE: u32 = 2;
/// The last power of two that has buckets of its own.
const LAST: u32 = 31;
const BUCKETS: usize = (LAST as usize) << FINE;

/// The bucket of a value.
fn bucket(micros: u64) -> usize {
    let shift = (micros | 1 << FINE).ilog2() - FINE;
    let index = ((shift as usize) << FINE) + (micros >> shift) as usize;
    index.min(BUCKETS - 1)
}

/// The least value of a bucket; of the one behind the last, the first that is too long.
fn least(bucket: usize) -> u64 {
    if bucket < 1 << FINE {
        return bucket as u64;
    }
    let within = bucket & ((1 << FINE) - 1);
    ((1 << FINE) + within as u64) << ((bucket >> FINE) - 1)
}

/// What one worker has timed. Written by it alone.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    fn new() -> Histogram {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Counts one time. Only the owning worker may call this.
    pub(crate) fn record(&self, micros: u64) {
        let count = &self.buckets[bucket(micros)];
        count.store(count.load(Relaxed) + 1, Relaxed);
        self.sum.store(self.sum.load(Relaxed).wrapping_add(micros), Relaxed);
        if micros > self.max.load(Relaxed) {
            self.max.store(micros, Relaxed);
        }
    }
}

/// The three times of a pool's clients, on one worker.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) waiting: Histogram,
    pub(crate) running: Histogram,
    pub(crate) transaction: Histogram,
}

/// Those of a pool: a place for each worker, which it fills when it has something to count, 3 KiB.
#[derive(Debug)]
pub(crate) struct Latency {
    workers: Box<[OnceLock<Box<Times>>]>,
    /// As they were at the last two ends of the statistics period.
    ends: Mutex<[Distributions; 2]>,
}

impl Latency {
    pub(crate) fn new(workers: usize) -> Latency {
        Latency { workers: (0..workers).map(|_| OnceLock::new()).collect(), ends: Mutex::default() }
    }

    /// Where a worker counts.
    pub(crate) fn of(&self, worker: usize) -> &Times {
        self.workers[worker].get_or_init(|| {
            let [waiting, running, transaction] = std::array::from_fn(|_| Histogram::new());
            Box::new(Times { waiting, running, transaction })
        })
    }

    /// Since the start.
    pub(crate) fn total(&self) -> Distributions {
        let mut sum = Distributions::default();
        for times in self.workers.iter().filter_map(OnceLock::get) {
            sum.waiting.count_in(&times.waiting);
            sum.running.count_in(&times.running);
            sum.transaction.count_in(&times.transaction);
        }
        sum
    }

    /// A statistics period ends.
    pub(crate) fn end_period(&self) {
        let now = self.total();
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.rotate_left(1);
        ends[1] = now;
    }

    /// What came in the last full period.
    pub(crate) fn period(&self) -> Distributions {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let [before, after] = &*ends;
        Distributions {
            waiting: after.waiting.since(&before.waiting),
            running: after.running.since(&before.running),
            transaction: after.transaction.since(&before.transaction),
        }
    }
}

/// The three times of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distributions {
    /// Of requests for which no server was free: until they had one, or were refused.
    pub waiting: Distribution,
    /// From a request until nothing was owed to the client.
    pub running: Distribution,
    /// From a transaction's first request until its end.
    pub transaction: Distribution,
}

/// How often what took how long, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Empty, or one for each bucket.
    buckets: Vec<u64>,
    sum: u64,
    max: u64,
}

impl Distribution {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All together, in microseconds.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The longest, in microseconds; of a period, to within a quarter.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What so large a part (0.5 is a half) did not exceed, in microseconds, to within an eighth; 0 if there are none.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = (part.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0);
        let mut before = 0u64;
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (before + count) as f64 >= rank {
                let within = (rank - before as f64 - 0.5) / *count as f64;
                let [from, to] = [least(bucket), least(bucket + 1)].map(|bound| bound as f64);
                return (((to - from) * within + from) as u64).min(self.max);
            }
            before += count;
        }
        0
    }

    /// How many took at most so long, for each of these bounds. Within a bucket they count as evenly spread.
    pub fn cumulative(&self, bounds_us: &[u64]) -> Vec<u64> {
        let at_most = |bound: u64| {
            let last = bucket(bound);
            let below: u64 = self.buckets.iter().take(last).sum();
            let count = self.buckets.get(last).copied().unwrap_or_default();
            let [from, to] = [least(last), least(last + 1)];
            let part = u128::from((bound + 1).min(to) - from) * u128::from(count) / u128::from(to - from);
            below + part as u64
        };
        bounds_us
            .iter()
            .map(|bound| if *bound >= self.max { self.count() } else { at_most(*bound) })
            .collect()
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Distribution) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Adds so many, spread evenly from one value up to the next; sum and maximum come by [`with`](Self::with).
    pub(crate) fn spread(&mut self, count: u64, from: u64, to: u64) {
        self.buckets.resize(BUCKETS, 0);
        let (first, last) = (bucket(from), bucket(to - 1));
        let each = count / (last - first + 1) as u64;
        self.buckets[first..=last].iter_mut().for_each(|bucket| *bucket += each);
        self.buckets[last] += count - each * (last - first + 1) as u64;
    }

    pub(crate) fn with(self, sum: u64, max: u64) -> Distribution {
        Distribution { sum, max, ..self }
    }

    /// The ones that came after `earlier`.
    fn since(&self, earlier: &Distribution) -> Distribution {
        let before = earlier.buckets.iter().chain(std::iter::repeat(&0));
        let counts = self.buckets.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
        let buckets: Vec<u64> = counts.collect();
        let longest = buckets.iter().rposition(|count| *count > 0);
        let max = longest.map_or(0, |bucket| (least(bucket + 1) - 1).min(self.max));
        Distribution { buckets, sum: self.sum.saturating_sub(earlier.sum), max }
    }

    fn count_in(&mut self, from: &Histogram) {
        self.buckets.resize(BUCKETS, 0);
        self.buckets.iter_mut().zip(&from.buckets).for_each(|(count, more)| *count += more.load(Relaxed));
        self.sum += from.sum.load(Relaxed);
        self.max = self.max.max(from.max.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[u64]) -> Distribution {
        let histogram = Histogram::new();
        times.iter().for_each(|time| histogram.record(*time));
        let mut distribution = Distribution::default();
        distribution.count_in(&histogram);
        distribution
    }

    #[test]
    fn buckets_lie_side_by_side() {
        assert_eq!(least(0), 0);
        for index in 0..BUCKETS {
            let (from, to) = (least(index), least(index + 1));
            assert!(from < to, "{index}");
            assert_eq!((bucket(from), bucket(to - 1)), (index, index));
        }
        assert_eq!(least(BUCKETS), 1 << 32);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn parts_of_known_times() {
        let all: Vec<u64> = (1..=10_000).collect();
        let times = of(&all);
        assert_eq!((times.count(), times.sum(), times.max()), (10_000, 50_005_000, 10_000));
        for (part, exact) in [(0.5, 5_000), (0.95, 9_500), (0.99, 9_900), (0.999, 9_990)] {
            let found = times.quantile(part);
            assert!(found.abs_diff(exact) * 100 <= exact * 3, "{part}: {found}");
        }
        assert_eq!(times.cumulative(&[0, 4_095, 10_000, u64::MAX]), [0, 4_095, 10_000, 10_000]);
        assert!(times.cumulative(&[5_000])[0].abs_diff(5_000) < 50);
    }

    #[test]
    fn nothing_is_zero() {
        let none = Distribution::default();
        assert_eq!((none.count(), none.sum(), none.max(), none.quantile(0.99)), (0, 0, 0, 0));
        assert_eq!(none.cumulative(&[1, 1_000]), [0, 0]);
    }

    #[test]
    fn what_takes_hours_is_counted_as_well() {
        let hours = 10 * 3_600_000_000;
        let times = of(&[5, hours]);
        assert_eq!((times.max(), times.sum()), (hours, hours + 5));
        assert_eq!(times.cumulative(&[1 << 32, hours])[1], 2);
    }

    #[test]
    fn a_period_is_what_came_in_it() {
        let latency = Latency::new(2);
        latency.of(0).running.record(7_000);
        latency.end_period();
        latency.of(0).running.record(100);
        latency.of(1).running.record(200);
        latency.end_period();
        let period = latency.period().running;
        assert_eq!((period.count(), period.sum()), (2, 300));
        assert!((200..256).contains(&period.max()), "{}", period.max());
        assert_eq!(latency.total().running.count(), 3);
        assert_eq!(latency.period().waiting.count(), 0);
    }

    /// Any times, but the same ones at each run: they are spread over all powers of two.
    fn some_times(seed: u64, longest: u32) -> Vec<u64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 24
        };
        (0..next() % 200 + 1).map(|_| next() % (1 << (next() % u64::from(longest) + 1))).collect()
    }

    #[test]
    fn a_part_is_in_the_bucket_in_which_it_is_exactly() {
        for seed in 0..500 {
            let mut times = some_times(seed, 31);
            let all = of(&times);
            times.sort_unstable();
            for percent in 0..=100 {
                let rank = (percent * times.len()).div_ceil(100).max(1);
                let found = all.quantile((rank as f64 - 0.5) / times.len() as f64);
                assert_eq!(bucket(found), bucket(times[rank - 1]), "{seed} {percent}");
            }
        }
    }

    #[test]
    fn larger_bounds_hold_more_and_the_largest_all() {
        for seed in 0..500 {
            let times = some_times(seed, 34);
            let mut bounds = some_times(seed + 1_000, 34);
            bounds.sort_unstable();
            bounds.push(u64::MAX);
            let counts = of(&times).cumulative(&bounds);
            assert!(counts.is_sorted(), "{seed}");
            assert_eq!(counts.last(), Some(&(times.len() as u64)));
        }
    }

    #[test]
    fn two_added_are_as_one() {
        let [one, two] = [some_times(1, 34), some_times(2, 34)];
        let mut sum = of(&one);
        sum.add(&of(&two));
        assert_eq!(sum, of(&[one, two].concat()));
    }
}
