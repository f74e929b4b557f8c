//! Exact counts of server connections, and permission to open one more.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
#[cfg(not(test))]
use std::sync::{Mutex, atomic::AtomicUsize};

#[cfg(test)]
use super::interleave::{AtomicUsize, Mutex};

/// Connections counted against one limit (a pool, a database, a server-side user).
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicUsize);

impl Tally {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts one more for as long as the value lives, and says how many there are with it.
    pub(crate) fn count(self: &Arc<Self>) -> (Counting, usize) {
        let before = self.0.fetch_add(1, Relaxed);
        (Counting(self.clone()), before + 1)
    }
}

/// One that is counted in a [`Tally`].
#[derive(Debug)]
pub(crate) struct Counting(Arc<Tally>);

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// What stands in the way of one more connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Pool,
    Database,
    User,
}

/// What a pool's connections count against, and the limits at this moment.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    pub(crate) pool: (&'a Arc<Tally>, Option<usize>),
    pub(crate) database: (&'a Arc<Tally>, Option<NonZeroUsize>),
    pub(crate) user: (&'a Arc<Tally>, Option<NonZeroUsize>),
}

/// Gives out permits. One lock for the process: connections are opened and closed rarely, and only one lock makes
/// three limits exact at once.
#[derive(Debug, Default)]
pub(crate) struct Census {
    lock: Mutex<()>,
}

impl Census {
    /// Counts one more connection if no limit forbids it.
    pub(crate) fn admit(self: &Arc<Self>, counted: &Counted<'_>) -> Result<Permit, Full> {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |tally: &Tally, limit: Option<usize>| limit.is_some_and(|limit| tally.get() >= limit);
        if full(counted.pool.0, counted.pool.1) {
            return Err(Full::Pool);
        }
        if full(counted.database.0, counted.database.1.map(NonZeroUsize::get)) {
            return Err(Full::Database);
        }
        if full(counted.user.0, counted.user.1.map(NonZeroUsize::get)) {
            return Err(Full::User);
        }
        Ok(self.count([counted.pool.0, counted.database.0, counted.user.0]))
    }

    /// A place in every count, whatever the limits.
    pub(crate) fn admit_anyway(self: &Arc<Self>, tallies: [&Arc<Tally>; 3]) -> Permit {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.count(tallies)
    }

    /// The lock is held.
    fn count(self: &Arc<Self>, tallies: [&Arc<Tally>; 3]) -> Permit {
        let tallies = tallies.map(Arc::clone);
        for tally in &tallies {
            tally.0.fetch_add(1, Relaxed);
        }
        Permit { census: self.clone(), tallies }
    }
}

/// One connection's place in every count; dropping it gives the places back.
#[derive(Debug)]
pub(crate) struct Permit {
    census: Arc<Census>,
    tallies: [Arc<Tally>; 3],
}

impl Drop for Permit {
    fn drop(&mut self) {
        let _guard = self.census.lock.lock().unwrap_or_else(PoisonError::into_inner);
        for tally in &self.tallies {
            tally.0.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::interleave::{every_order, step};
    use super::*;

    #[test]
    fn every_limit_counts_and_is_given_back() {
        let census = Arc::new(Census::default());
        let tallies: [Arc<Tally>; 3] = Default::default();
        let admit = |pool, database, user| {
            census.admit(&Counted {
                pool: (&tallies[0], pool),
                database: (&tallies[1], NonZeroUsize::new(database)),
                user: (&tallies[2], NonZeroUsize::new(user)),
            })
        };
        let first = admit(Some(1), 0, 0).unwrap();
        assert_eq!(admit(Some(1), 0, 0).unwrap_err(), Full::Pool);
        assert_eq!(admit(Some(2), 1, 0).unwrap_err(), Full::Database);
        assert_eq!(admit(None, 0, 1).unwrap_err(), Full::User);
        assert!(tallies.iter().all(|t| t.get() == 1), "a refusal counts nowhere");
        drop(first);
        assert!(tallies.iter().all(|t| t.get() == 0));
        assert!(admit(Some(1), 1, 1).is_ok());
    }

    /// Two pools with a place each, and one for both: never two permits, in whatever order they come and go, and none is
    /// lost.
    #[test]
    fn limits_hold_in_any_order() {
        type World = (Arc<Census>, [Arc<Tally>; 4], std::sync::atomic::AtomicUsize);
        let come_and_go = |(census, tallies, out): &World, pool: usize| {
            for _ in 0..2 {
                let counted = Counted {
                    pool: (&tallies[pool], Some(1)),
                    database: (&tallies[2], NonZeroUsize::new(1)),
                    user: (&tallies[3], None),
                };
                let Ok(permit) = census.admit(&counted) else { continue };
                assert_eq!(out.fetch_add(1, Relaxed), 0, "more than one permit");
                step();
                out.fetch_sub(1, Relaxed);
                drop(permit);
            }
        };
        let none_is_left = |(_, tallies, _): World| assert!(tallies.iter().all(|tally| tally.get() == 0));
        let orders =
            every_order(3, World::default, &[&|w| come_and_go(w, 0), &|w| come_and_go(w, 1)], none_is_left);
        println!("{orders} orders");
    }

    #[test]
    fn limits_hold_under_threads() {
        let census = Arc::new(Census::default());
        let tallies: [Arc<Tally>; 3] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = census.admit(&Counted {
                            pool: (&tallies[0], Some(2)),
                            database: (&tallies[1], NonZeroUsize::new(3)),
                            user: (&tallies[2], None),
                        });
                        assert!(tallies[0].get() <= 2);
                        drop(permit);
                    }
                });
            }
        });
        assert!(tallies.iter().all(|t| t.get() == 0));
    }
}
