use std::cell::Cell;

use crate::config::Share;

/// Picks a share of many, evenly: no chance, so that it costs an addition.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// What is due, in millionths of one.
    due: Cell<u32>,
}

impl Sampler {
    /// Whether the next one is picked.
    pub(crate) fn picks(&self, share: Share) -> bool {
        let due = self.due.get() + share.get();
        let picked = due >= Share::WHOLE;
        self.due.set(if picked { due - Share::WHOLE } else { due });
        picked
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
            assert_eq!((0..10_000).filter(|_| sampler.picks(share)).count(), picked, "{millionths}");
        }
    }
}
