//! How soon a host is looked at again. Pure.

/// While somebody wants to know a place in the WAL, in microseconds.
const FINE: u64 = 5_000;
/// For so long after that was wanted last.
const FINE_FOR: u64 = 200_000;
/// While a promotion may be going on.
const BRISK: u64 = 100_000;
/// For so long after a host has failed.
const BRISK_FOR: u64 = 10_000_000;
/// A limit of the lag counts for so long after a read has named it.
const LAG_FOR: u64 = 1_000_000;

/// What decides it; moments and times in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// `probe_interval`.
    pub(super) interval: u64,
    /// When a place in the WAL was wanted last; 0: never, as below.
    pub(super) wanted: u64,
    /// When a read named a longest lag, and which.
    pub(super) lag: (u64, u64),
    /// When a host of the cluster has failed.
    pub(super) failed: u64,
    pub(super) has_primary: bool,
}

impl Pace {
    /// From the beginning of one look to that of the next.
    pub(super) fn pause(&self, now: u64) -> u64 {
        let is_recent = |moment: u64, time: u64| moment > 0 && now.saturating_sub(moment) < time;
        if is_recent(self.wanted, FINE_FOR) {
            return FINE.min(self.interval);
        }
        let mut pause = self.interval;
        if !self.has_primary || is_recent(self.failed, BRISK_FOR) {
            pause = pause.min(BRISK);
        }
        let (named, lag) = self.lag;
        if is_recent(named, LAG_FOR) {
            pause = pause.min((lag / 4).max(FINE));
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_REST: Pace = Pace { interval: 1_000_000, wanted: 0, lag: (0, 0), failed: 0, has_primary: true };
    const NOW: u64 = 100_000_000;

    #[test]
    fn looks_are_frequent_only_while_that_matters() {
        let pauses = [
            (AT_REST, 1_000_000),
            (Pace { wanted: NOW - 199_000, ..AT_REST }, 5_000),
            (Pace { wanted: NOW - 200_000, ..AT_REST }, 1_000_000),
            (Pace { has_primary: false, ..AT_REST }, 100_000),
            (Pace { failed: NOW - 9_000_000, ..AT_REST }, 100_000),
            (Pace { failed: NOW - 10_000_000, ..AT_REST }, 1_000_000),
            (Pace { lag: (NOW, 400_000), ..AT_REST }, 100_000),
            (Pace { lag: (NOW, 1_000), ..AT_REST }, 5_000),
            (Pace { lag: (NOW, 60_000_000), ..AT_REST }, 1_000_000),
            (Pace { lag: (NOW - 1_000_000, 400_000), ..AT_REST }, 1_000_000),
            (Pace { interval: 50_000, has_primary: false, ..AT_REST }, 50_000),
        ];
        for (pace, pause) in pauses {
            assert_eq!(pace.pause(NOW), pause, "{pace:?}");
        }
    }
}
