//! How full a pool is: looked at four times a second, for that tells as much as counting each loan would.

use std::sync::Mutex;

use super::{Pool, Shard, lock};

/// What was seen at so many looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    looks: u64,
    /// Looks at which somebody waited for a server.
    waited: u64,
    /// Clients that waited, summed over the looks.
    waiting: u64,
    /// Servers in use, summed over the looks.
    in_use: u64,
}

#[derive(Debug, Default)]
struct Looks {
    all: Seen,
    /// At the last two ends of the statistics period.
    ends: [Seen; 2],
    /// Most servers in use since the period began that is at hand, and in the last one.
    most: [usize; 2],
}

/// The looks at one pool.
#[derive(Debug, Default)]
pub(crate) struct Saturation(Mutex<Looks>);

/// What a pool's servers were doing in the last full statistics period; in the first, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Occupancy {
    /// Servers in use, on average.
    pub mean: f64,
    /// Most at any look.
    pub most: usize,
    /// The part of the time in which somebody waited for a server, 0 to 1.
    pub waited: f64,
    /// Clients that waited, on average.
    pub waiting: f64,
}

impl Saturation {
    fn look(&self, in_use: usize, waiting: usize) {
        let mut looks = lock(&self.0);
        looks.all.looks += 1;
        looks.all.waited += u64::from(waiting > 0);
        looks.all.waiting += waiting as u64;
        looks.all.in_use += in_use as u64;
        looks.most[0] = looks.most[0].max(in_use);
    }

    /// A statistics period ends.
    pub(crate) fn end_period(&self) {
        let mut looks = lock(&self.0);
        looks.ends = [looks.ends[1], looks.all];
        looks.most = [0, looks.most[0]];
    }

    pub(crate) fn last(&self) -> Occupancy {
        let looks = lock(&self.0);
        let [before, after] = looks.ends;
        let (before, after, most) = match after.looks {
            0 => (before, looks.all, looks.most[0]),
            _ => (before, after, looks.most[1]),
        };
        let count = (after.looks - before.looks).max(1) as f64;
        Occupancy {
            mean: (after.in_use - before.in_use) as f64 / count,
            most,
            waited: (after.waited - before.waited) as f64 / count,
            waiting: (after.waiting - before.waiting) as f64 / count,
        }
    }
}

impl Pool {
    /// One worker does this at each tick.
    pub(crate) fn look_how_full(&self) {
        self.saturation.look(self.in_use(), self.oldest_wait().map_or(0, |_| self.waiting()));
    }

    /// Servers that are open and not free.
    pub(crate) fn in_use(&self) -> usize {
        let free: usize = self.shards.iter().map(Shard::idle_count).sum();
        self.open.get().saturating_sub(free + self.connecting())
    }

    /// How many servers it may have, by the strictest of the limits that it has alone or with others; `None`: no limit.
    pub(crate) fn allowed(&self) -> Option<usize> {
        let rules = self.rules.load();
        let shared = [rules.max_db, rules.max_user].into_iter().flatten().map(|most| most.get()).min();
        [rules.total(), shared].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_its_own_mean() {
        let saturation = Saturation::default();
        assert_eq!(saturation.last(), Occupancy::default());
        saturation.look(4, 5);
        saturation.look(2, 0);
        assert_eq!(saturation.last(), Occupancy { mean: 3.0, most: 4, waited: 0.5, waiting: 2.5 });
        saturation.end_period();
        saturation.look(1, 0);
        assert_eq!(saturation.last(), Occupancy { mean: 3.0, most: 4, waited: 0.5, waiting: 2.5 });
        saturation.end_period();
        assert_eq!(saturation.last(), Occupancy { mean: 1.0, most: 1, waited: 0.0, waiting: 0.0 });
        saturation.end_period(); // nobody has looked
        assert_eq!(saturation.last(), Occupancy::default());
    }
}
