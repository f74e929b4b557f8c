use std::cell::Cell;

use crate::config::Share;

/// Picks a share of many, evenly: no chance, so that it costs an addition.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// What is due, in millionths of one.
    due: Cell<u32>,
    /// No small share is picked from before this, in microseconds.
    rests_until: Cell<u64>,
}

/// An audit of everything takes PostgreSQL about a millisecond: with this (microseconds) between two of them they take no
/// more than a hundredth of a processor's time for each worker, however many transactions there are.
const REST: u64 = 100_000;

/// Whoever asks for this share or more has all of it.
const ASKED_FOR: u32 = Share::WHOLE / 100;

impl Sampler {
    /// Whether the next one is picked, `now` in microseconds.
    #[inline]
    pub(crate) fn picks(&self, share: Share, now: u64) -> bool {
        let due = self.due.get() + share.get();
        self.due.set(due);
        due >= Share::WHOLE && self.picks_due(share, now)
    }

    #[cold]
    fn picks_due(&self, share: Share, now: u64) -> bool {
        self.due.set(self.due.get() - Share::WHOLE);
        let rests = share.get() < ASKED_FOR && now < self.rests_until.get();
        if !rests {
            self.rests_until.set(now + REST);
        }
        !rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_exact() {
        for (millionths, picked) in
            [(0, 0), (100, 1), (333_333, 3_333), (999_900, 9_999), (1_000_000, 10_000)]
        {
            let sampler = Sampler::default();
            let share = Share::millionths(millionths);
            let picks = (0..10_000).filter(|n| sampler.picks(share, n * REST));
            assert_eq!(picks.count(), picked, "{millionths}");
        }
    }

    #[test]
    fn a_small_share_takes_little_time() {
        for (millionths, picked) in [(1_000, 10), (9_999, 10), (10_000, 100)] {
            let sampler = Sampler::default();
            let share = Share::millionths(millionths);
            let picks = (0..10_000).filter(|n| sampler.picks(share, n * REST / 1_000));
            assert_eq!(picks.count(), picked, "{millionths}");
        }
    }
}
