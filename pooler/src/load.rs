//! How many connections each worker carries, and which of them takes the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Load {
    carried: AtomicUsize,
    /// Counts ticks of the worker.
    tick: AtomicU32,
    /// Connections that came and went since the last tick.
    passing: AtomicUsize,
    /// The same between the two ticks before.
    passed: AtomicUsize,
}

/// So many connections that come and go between two ticks are a stream of them: the next one most likely leaves as soon.
/// Whatever looks for a pooler now and then, health checks and the like, is none.
const STREAM: usize = 16;

/// In a stream the worker that accepts keeps a connection even if it has so many more than another. What stays when the
/// stream is over is out of balance by no more.
const MOST_AHEAD: usize = 8;

impl Load {
    /// Connections that the worker carries.
    pub(crate) fn carried(&self) -> usize {
        self.carried.load(Relaxed)
    }

    /// One more, which may not have reached the worker yet.
    pub(crate) fn add(&self) {
        self.carried.fetch_add(1, Relaxed);
    }

    /// What ends with a connection that was [added](Self::add).
    pub(crate) fn leave(self: &Arc<Self>) -> Leave {
        Leave { tick: self.tick.load(Relaxed), load: self.clone() }
    }

    /// The worker's tick.
    pub(crate) fn tick(&self) {
        self.tick.fetch_add(1, Relaxed);
        self.passed.store(self.passing.swap(0, Relaxed), Relaxed);
    }

    /// How many connections more than another the worker may have and still keep the next one that it accepts. Handing one
    /// over costs a fifth of a login: that pays for a client that stays.
    pub(crate) fn may_be_ahead(&self) -> usize {
        let passed = self.passed.load(Relaxed).max(self.passing.load(Relaxed));
        if passed >= STREAM { MOST_AHEAD } else { 0 }
    }
}

/// Takes a connection off the worker's load when it ends.
pub(crate) struct Leave {
    load: Arc<Load>,
    /// When it came to the worker.
    tick: u32,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.load.carried.fetch_sub(1, Relaxed);
        if self.load.tick.load(Relaxed) == self.tick {
            self.load.passing.fetch_add(1, Relaxed);
        }
    }
}

/// The worker that takes a connection which the worker `here` has accepted: the one with the fewest, the first of equals; but
/// `here` if it is ahead of that one by no more than it may be.
pub(crate) fn choose(
    carried: impl Iterator<Item = usize> + Clone,
    here: usize,
    may_be_ahead: usize,
) -> usize {
    let Some((least, fewest)) = carried.clone().enumerate().min_by_key(|(_, carried)| *carried) else {
        return here;
    };
    let ahead = carried.clone().nth(here).map(|own| own - fewest);
    if may_be_ahead > 0 && ahead.is_some_and(|ahead| ahead <= may_be_ahead) { here } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(carried: &[usize], here: usize, may_be_ahead: usize) -> usize {
        choose(carried.iter().copied(), here, may_be_ahead)
    }

    #[test]
    fn clients_that_stay_are_balanced() {
        assert_eq!([chosen(&[0, 0], 0, 0), chosen(&[1, 0], 0, 0), chosen(&[1, 1], 0, 0)], [0, 1, 0]);
        assert_eq!([chosen(&[2, 2, 1], 0, 0), chosen(&[3, 2, 2], 2, 0), chosen(&[2, 2], 1, 0)], [2, 1, 0]);
    }

    #[test]
    fn in_a_stream_the_one_that_accepts_keeps_them_up_to_a_bound() {
        assert_eq!([chosen(&[8, 0], 0, 8), chosen(&[9, 0], 0, 8)], [0, 1]);
        assert_eq!([chosen(&[3, 3], 1, 8), chosen(&[100, 109, 104], 1, 8)], [1, 0]);
    }

    #[test]
    fn a_stream_is_what_comes_and_goes_between_two_ticks() {
        let load = Arc::new(Load::default());
        let pass = |times| (0..times).for_each(|_| (load.add(), drop(load.leave())).0);
        let ahead_after_tick = || {
            load.tick();
            load.may_be_ahead()
        };
        pass(STREAM - 1);
        assert_eq!([load.may_be_ahead(), ahead_after_tick()], [0, 0]);
        pass(STREAM);
        assert_eq!(load.may_be_ahead(), MOST_AHEAD);
        assert_eq!([ahead_after_tick(), ahead_after_tick()], [MOST_AHEAD, 0]);
        let stay: Vec<_> = (0..STREAM).map(|_| (load.add(), load.leave()).1).collect();
        assert_eq!([load.carried(), ahead_after_tick()], [STREAM, 0]);
        drop(stay);
        assert_eq!([load.carried(), ahead_after_tick()], [0, 0]); // they have stayed beyond a tick
    }
}
