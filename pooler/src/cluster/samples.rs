//! How far the primary's WAL went at which moments. Pure.

use std::collections::VecDeque;

use super::Lsn;

/// So many are kept; where there are more, every other one of the older half goes.
const MOST: usize = 2048;

/// Samples, each begun later than the one before. Those in turn that show the same place are one, at the last moment. One
/// that is missing is safe: what is asked is then answered by a later place, or an earlier moment.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(u64, Lsn)>);

impl Samples {
    /// The primary's WAL went as far as `lsn` at some moment after `begun`, in microseconds.
    pub(super) fn push(&mut self, begun: u64, lsn: Lsn) {
        match self.0.back_mut() {
            Some((at, _)) if begun <= *at => return,
            Some((at, last)) if *last == lsn => return *at = begun,
            _ => self.0.push_back((begun, lsn)),
        }
        if self.0.len() > MOST {
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index > MOST / 2 || index % 2 == 1
            });
        }
    }

    /// Places of another primary mean nothing.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The place at the first sample that was begun at `at` or later: behind everything committed by then.
    pub(super) fn bound(&self, at: u64) -> Option<Lsn> {
        let next = self.0.partition_point(|(begun, _)| *begun < at);
        self.0.get(next).map(|(_, lsn)| *lsn)
    }

    pub(super) fn newest(&self) -> Option<Lsn> {
        self.0.back().map(|(_, lsn)| *lsn)
    }

    /// For how long, in microseconds, the primary may have been further than this; `None`: it is not known of any primary
    /// how far it is. Where it is further back than what is kept, as much as is known.
    pub(super) fn lag(&self, replayed: Lsn, now: u64) -> Option<u64> {
        let (_, newest) = self.0.back()?;
        if replayed >= *newest {
            return Some(0);
        }
        let next = self.0.partition_point(|(_, lsn)| *lsn <= replayed);
        let (had_it, _) = self.0.get(next.saturating_sub(1))?;
        Some(now.saturating_sub(*had_it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(all: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::default();
        all.iter().for_each(|(begun, lsn)| samples.push(*begun, Lsn(*lsn)));
        samples
    }

    #[test]
    fn the_first_sample_behind_a_commit_bounds_it() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300)]);
        let bounds = [0, 10, 11, 20, 30].map(|at| samples.bound(at));
        assert_eq!(bounds, [100, 100, 200, 200, 300].map(|lsn| Some(Lsn(lsn))));
        assert_eq!(samples.bound(31), None);
        assert_eq!(Samples::default().bound(0), None);
    }

    #[test]
    fn a_primary_at_rest_needs_one_sample() {
        let samples = samples(&[(10, 100), (20, 200), (30, 200), (40, 200)]);
        assert_eq!(samples.0.len(), 2);
        assert_eq!([11, 20, 35, 40].map(|at| samples.bound(at)), [Some(Lsn(200)); 4]);
        assert_eq!(samples.bound(41), None);
    }

    #[test]
    fn samples_do_not_go_back_in_time() {
        let samples = samples(&[(20, 200), (10, 300), (20, 300)]);
        assert_eq!(samples.bound(15), Some(Lsn(200)));
        assert_eq!(samples.newest(), Some(Lsn(200)));
    }

    #[test]
    fn lag_is_since_the_primary_was_where_the_replica_is() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300)]);
        assert_eq!(samples.lag(Lsn(300), 50), Some(0));
        assert_eq!(samples.lag(Lsn(400), 50), Some(0));
        assert_eq!(samples.lag(Lsn(299), 50), Some(30));
        assert_eq!(samples.lag(Lsn(200), 50), Some(30));
        assert_eq!(samples.lag(Lsn(100), 50), Some(40));
        assert_eq!(samples.lag(Lsn(1), 50), Some(40), "at least");
        assert_eq!(Samples::default().lag(Lsn(1), 50), None);
    }

    #[test]
    fn many_samples_are_thinned_out_and_stay_right() {
        let all: Vec<_> = (1..=100_000).map(|n| (n * 10, n)).collect();
        let samples = samples(&all);
        assert!(samples.0.len() <= MOST);
        assert!(samples.0.front().is_some_and(|(begun, _)| *begun <= 10_000), "old moments are known");
        for at in (1..1_000_000).step_by(977) {
            let bound = samples.bound(at).map_or(0, |lsn| lsn.0);
            assert!(bound * 10 >= at, "{bound} is not behind {at}");
        }
        assert_eq!(samples.bound(999_995), Some(Lsn(100_000)));
        let lag = samples.lag(Lsn(99_990), 1_000_000).unwrap_or_default();
        assert_eq!(lag, 100);
    }
}
