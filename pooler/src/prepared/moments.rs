use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long (microseconds) a change of the schema that nobody has told the pooler of may go unnoticed by a `Parse`.
const TICK: u64 = 1_000_000;

/// A clock of what may make statements stale, one a pool. It goes on with every change of the schema that the pooler
/// knows of, and once a second when a client parses, for those that are made elsewhere. What a client parsed at one
/// moment must not be answered by what was parsed on a server at an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    latest: AtomicU64,
    ticked: AtomicU64,
}

impl Moments {
    pub(crate) fn latest(&self) -> u64 {
        self.latest.load(Relaxed)
    }

    /// The schema may have changed. Returns the new moment.
    pub(crate) fn advance(&self) -> u64 {
        self.latest.fetch_add(1, Relaxed) + 1
    }

    /// The moment of a client's `Parse` at `now` (microseconds).
    pub(crate) fn of_parse(&self, now: u64) -> u64 {
        if now.saturating_sub(self.ticked.load(Relaxed)) < TICK {
            return self.latest();
        }
        self.ticked.store(now, Relaxed);
        self.advance()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ticks_once_a_second_at_most_and_with_every_change() {
        let moments = Moments::default();
        let first = moments.of_parse(5 * TICK);
        assert_eq!(moments.of_parse(6 * TICK - 1), first);
        assert_eq!(moments.advance(), first + 1);
        assert_eq!(moments.of_parse(6 * TICK - 1), first + 1);
        assert_eq!(moments.of_parse(6 * TICK), first + 2);
    }
}
