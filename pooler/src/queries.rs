//! Which statements hold the servers of a pool: counted by fingerprint, in bounded memory.
//!
//! Each worker has a table for each pool, behind a lock that all but always only it takes. A round of requests counts
//! when it has been answered, under its last statement, which is the one that matters where a driver sends `BEGIN` along.
//! In a transaction a statement also holds the server until the next one comes; so `BEGIN` has what a client that thinks
//! between its statements costs.
//!
//! When a table is full, the quarter goes that has held servers least, and what the others have weighs half from then on:
//! what was heavy long ago makes place in the end, and what is heavy now is not lost among statements that come once.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::sync::Mutex;

use foldhash::{HashMap, HashMapExt};

use crate::events::LONGEST_SHOWN;
use crate::latency::Distribution;
use crate::pool::{Pool, lock};

/// One statement of a pool, whatever its literals.
#[derive(Debug, Clone)]
pub struct QueryRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// The same at every start.
    pub fingerprint: u64,
    /// As it first came, without literals.
    pub statement: String,
    /// Rounds of requests that ended with it.
    pub calls: u64,
    /// Rows returned or changed, by the server's word.
    pub rows: u64,
    /// Rounds that ended with an error.
    pub errors: u64,
    /// Microseconds that it held a server: running, or until the next statement of its transaction came.
    pub held: u64,
    /// How long it ran.
    pub running: Distribution,
}

/// How a round of requests has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ended {
    /// In microseconds.
    pub(crate) ran: u64,
    pub(crate) rows: u64,
    pub(crate) failed: bool,
}

/// The statement since whose answer a transaction is idle.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// 0: there is none.
    pub(crate) fingerprint: u64,
    /// When it was answered.
    pub(crate) since: u64,
}

#[derive(Debug)]
struct Entry {
    statement: String,
    calls: u64,
    rows: u64,
    errors: u64,
    held: u64,
    /// What of `held` still counts when the table is full.
    weight: u64,
    running: Coarse,
}

/// Times, in buckets of half a power of two.
#[derive(Debug)]
struct Coarse {
    counts: [u32; Coarse::BUCKETS],
    sum: u64,
    max: u64,
}

impl Coarse {
    const BUCKETS: usize = 64;

    /// The least of each bucket and of the next one: 0, 1, 2, 3, 4, 6, 8, 12, 16, ...
    fn least(bucket: usize) -> u64 {
        match bucket {
            0 | 1 => bucket as u64,
            _ => (2 + bucket as u64 % 2) << (bucket / 2 - 1),
        }
    }

    fn record(&mut self, micros: u64) {
        let shift = (micros | 2).ilog2() - 1;
        let bucket = (shift as usize * 2 + (micros >> shift) as usize).min(Coarse::BUCKETS - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.sum += micros;
        self.max = self.max.max(micros);
    }

    fn distribution(&self) -> Distribution {
        let mut times = Distribution::default();
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            times.spread(u64::from(*count), Coarse::least(bucket), Coarse::least(bucket + 1));
        }
        times.with(self.sum, self.max)
    }
}

impl Entry {
    fn new(text: &[u8]) -> Entry {
        let running = Coarse { counts: [0; Coarse::BUCKETS], sum: 0, max: 0 };
        let statement = sql::outline(text, LONGEST_SHOWN);
        Entry { statement, calls: 0, rows: 0, errors: 0, held: 0, weight: 0, running }
    }

    fn hold(&mut self, micros: u64) {
        self.held += micros;
        self.weight += micros;
    }
}

type Table = HashMap<u64, Entry>;

/// The statements of one pool.
#[derive(Debug)]
pub(crate) struct Queries(Box<[Mutex<Table>]>);

impl Queries {
    pub(crate) fn new(workers: usize) -> Queries {
        Queries((0..workers).map(|_| Mutex::new(Table::new())).collect())
    }

    /// Counts a round of requests, in a table of at most `most` statements.
    pub(crate) fn record(&self, worker: usize, fingerprint: u64, text: &[u8], ended: Ended, most: usize) {
        let mut table = lock(&self.0[worker]);
        if table.len() >= most && !table.contains_key(&fingerprint) {
            make_room(&mut table);
        }
        let entry = table.entry(fingerprint).or_insert_with(|| Entry::new(text));
        entry.calls += 1;
        entry.rows += ended.rows;
        entry.errors += u64::from(ended.failed);
        entry.hold(ended.ran);
        entry.running.record(ended.ran);
    }

    /// A statement has held a server for so much longer.
    pub(crate) fn hold(&self, worker: usize, fingerprint: u64, micros: u64) {
        if let Some(entry) = lock(&self.0[worker]).get_mut(&fingerprint) {
            entry.hold(micros);
        }
    }

    /// Forgets what one worker has counted.
    pub(crate) fn clear(&self, worker: usize) {
        *lock(&self.0[worker]) = Table::new();
    }

    /// Up to `most` statements, those first that have held servers longest.
    pub(crate) fn top(&self, database: &str, user: &str, most: usize) -> Vec<QueryRow> {
        let mut rows: HashMap<u64, QueryRow> = HashMap::new();
        for table in &self.0 {
            for (fingerprint, entry) in lock(table).iter() {
                let row = rows.entry(*fingerprint).or_insert_with(|| QueryRow {
                    database: database.to_owned(),
                    user: user.to_owned(),
                    fingerprint: *fingerprint,
                    statement: entry.statement.clone(),
                    calls: 0,
                    rows: 0,
                    errors: 0,
                    held: 0,
                    running: Distribution::default(),
                });
                row.calls += entry.calls;
                row.rows += entry.rows;
                row.errors += entry.errors;
                row.held += entry.held;
                row.running.add(&entry.running.distribution());
            }
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort_by(|a, b| (b.held, &a.statement).cmp(&(a.held, &b.statement)));
        rows.truncate(most);
        rows
    }
}

fn make_room(table: &mut Table) {
    let mut weights: Vec<u64> = table.values().map(|entry| entry.weight).collect();
    let quarter = weights.len() / 4;
    let (_, limit, _) = weights.select_nth_unstable(quarter);
    let limit = *limit;
    let mut going = quarter + 1;
    table.retain(|_, entry| {
        let goes = going > 0 && entry.weight <= limit;
        going -= usize::from(goes);
        entry.weight /= 2;
        !goes
    });
}

/// The fingerprints of texts that came lately, so that those that come again and again are not read again.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    hasher: foldhash::fast::RandomState,
    /// A text's hash and its fingerprint, at the place that the hash says.
    known: RefCell<Vec<(u64, u64)>>,
}

impl Fingerprints {
    const PLACES: usize = 1024;

    pub(crate) fn of(&self, text: &[u8]) -> u64 {
        let hash = self.hasher.hash_one(text);
        let mut known = self.known.borrow_mut();
        known.resize(Fingerprints::PLACES, (0, 0));
        let place = &mut known[hash as usize % Fingerprints::PLACES];
        if place.0 != hash {
            *place = (hash, sql::fingerprint(text));
        }
        place.1
    }
}

impl Pool {
    /// The statement that has held a server so far does so no more.
    #[inline]
    pub(crate) fn holder_ends(&self, worker: usize, holder: &mut Holder, now: u64) {
        if holder.fingerprint != 0 {
            let Holder { fingerprint, since } = std::mem::take(holder);
            self.queries.hold(worker, fingerprint, now.saturating_sub(since));
        }
    }
}

/// The number of rows that a `CommandComplete` tells.
pub(crate) fn rows_told(message: &[u8]) -> u64 {
    let tag = message.strip_suffix(b"\0").unwrap_or(message);
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let add = |(sum, unit): (u64, u64), digit: &u8| {
        (sum.saturating_add(unit.saturating_mul(u64::from(digit - b'0'))), unit.saturating_mul(10))
    };
    digits.fold((0, 1), add).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ran: u64) -> Ended {
        Ended { ran, rows: 2, failed: ran == 7 }
    }

    #[test]
    fn workers_tables_are_summed() {
        let queries = Queries::new(2);
        queries.record(0, 1, b"select 'a'", ended(100), 10);
        queries.record(1, 1, b"select 'b'", ended(7), 10);
        queries.record(1, 2, b"commit", ended(20), 10);
        queries.hold(1, 2, 1_000);
        queries.hold(1, 3, 1_000); // has made place
        let rows = queries.top("db", "user", 10);
        let shown: Vec<_> = rows.iter().map(|row| (&*row.statement, row.calls, row.held)).collect();
        assert_eq!(shown, [("commit", 1, 1_020), ("select ?", 2, 107)]);
        assert_eq!((rows[1].rows, rows[1].errors), (4, 1));
        assert_eq!((rows[1].running.sum(), rows[1].running.max(), rows[1].running.count()), (107, 100, 2));
        assert_eq!(queries.top("db", "user", 1).len(), 1);
    }

    #[test]
    fn the_heavy_ones_stay_among_thousands() {
        let queries = Queries::new(1);
        for round in 0..50_000 {
            queries.record(0, round % 5, b"heavy", ended(1_000), 100);
            queries.record(0, 1_000 + round, b"once", ended(50), 100);
        }
        assert!(lock(&queries.0[0]).len() <= 100);
        let rows = queries.top("db", "user", 5);
        assert!(rows.iter().all(|row| row.fingerprint < 5 && row.calls == 10_000), "{rows:?}");
    }

    #[test]
    fn what_was_heavy_long_ago_makes_place() {
        let queries = Queries::new(1);
        (0..100).for_each(|old| queries.record(0, old, b"old", ended(1_000_000), 100));
        for round in 0..5_000 {
            queries.record(0, 1_000 + round % 120, b"new", ended(100), 100);
        }
        assert!(lock(&queries.0[0]).keys().filter(|key| **key >= 1_000).count() > 50);
    }

    #[test]
    fn coarse_times_are_off_by_a_quarter_at_most() {
        for bucket in 0..Coarse::BUCKETS - 1 {
            assert!(Coarse::least(bucket) < Coarse::least(bucket + 1));
        }
        let mut coarse = Coarse { counts: [0; Coarse::BUCKETS], sum: 0, max: 0 };
        (1..=10_000).for_each(|time| coarse.record(time));
        let times = coarse.distribution();
        assert_eq!((times.count(), times.sum(), times.max()), (10_000, 50_005_000, 10_000));
        for (part, exact) in [(0.5, 5_000u64), (0.95, 9_500)] {
            assert!(times.quantile(part).abs_diff(exact) * 4 <= exact, "{}", times.quantile(part));
        }
        coarse.record(u64::MAX >> 8);
    }

    #[test]
    fn a_text_is_known_again() {
        let fingerprints = Fingerprints::default();
        for _ in 0..2 {
            assert_eq!(fingerprints.of(b"select 1"), sql::fingerprint(b"select 2"));
            assert_ne!(fingerprints.of(b"select a"), fingerprints.of(b"select b"));
        }
    }

    #[test]
    fn rows_in_tags() {
        for (tag, rows) in
            [("SELECT 12", 12), ("INSERT 0 3", 3), ("BEGIN", 0), ("COPY 1000000", 1_000_000), ("", 0)]
        {
            assert_eq!(rows_told(format!("C\0\0\0\x09{tag}\0").as_bytes()), rows, "{tag}");
        }
    }
}
