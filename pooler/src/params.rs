//! Values of the tracked parameters, shared by everyone who has the same ones, so that "does this server have what
//! this client wants" is a comparison of two pointers.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use protocol::params::{Tracked, Values};

use crate::intern::{Interner, hash_of};

/// One distinct set of values.
#[derive(Debug)]
pub(crate) struct ParamSet {
    values: Values,
    /// A server has accepted these values, so they can be set in front of a query without waiting for the answer.
    proven: AtomicBool,
    meaning: u64,
}

impl PartialEq for ParamSet {
    fn eq(&self, other: &ParamSet) -> bool {
        self.values == other.values
    }
}

impl Eq for ParamSet {}

impl Hash for ParamSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl ParamSet {
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Relaxed)
    }

    /// A number that is the same for the same values, `application_name` aside: prepared statements made under
    /// different ones may mean different things.
    pub(crate) fn meaning(&self) -> u64 {
        self.meaning
    }

    pub(crate) fn application_name(&self) -> Option<&str> {
        self.values.get(Tracked::APPLICATION_NAME)
    }
}

/// Every set that is in use in a pool. What one database accepts another may refuse, so pools share none.
#[derive(Debug)]
pub(crate) struct Params {
    tracked: Arc<Tracked>,
    sets: Interner<ParamSet>,
}

impl Params {
    /// How many distinct sets there are.
    pub(crate) fn count(&self) -> usize {
        self.sets.count()
    }

    pub(crate) fn new(tracked: Arc<Tracked>) -> Params {
        Params { tracked, sets: Interner::default() }
    }

    /// The one set with these values. `proven`: they come from a server.
    pub(crate) fn intern(&self, values: Values, proven: bool) -> Arc<ParamSet> {
        let named = |index: &usize| *index != Tracked::APPLICATION_NAME;
        let meaning = hash_of((0..self.tracked.names().len()).filter(named).map(|index| values.get(index)));
        let set = self.sets.intern(ParamSet { values, proven: AtomicBool::new(false), meaning });
        if proven {
            set.proven.store(true, Relaxed);
        }
        set
    }

    /// `set` with one value changed by a server's report; the same set if the parameter is not tracked.
    pub(crate) fn report(&self, set: &Arc<ParamSet>, name: &str, value: &str) -> Arc<ParamSet> {
        match self.tracked.index(name) {
            Some(index) if set.values.get(index) != Some(value) => {
                let mut values = set.values.clone();
                values.set(index, value);
                self.intern(values, true)
            }
            _ => set.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_set() {
        let params = Params::new(Arc::new(Tracked::new(["IntervalStyle"])));
        let none = params.intern(Values::none(&params.tracked), false);
        assert!(!none.is_proven());
        let a = params.report(&none, "timezone", "UTC");
        let b = params.report(&none, "TimeZone", "UTC");
        assert!(Arc::ptr_eq(&a, &b) && a.is_proven());
        assert!(Arc::ptr_eq(&params.report(&a, "server_version", "15"), &a));
        assert!(Arc::ptr_eq(&params.report(&a, "TimeZone", "UTC"), &a));
    }
}
