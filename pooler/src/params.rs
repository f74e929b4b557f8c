//! Values of the tracked parameters, shared by everyone who has the same ones, so that "does this server have what
//! this client wants" is a comparison of two pointers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use protocol::params::{Tracked, Values};

/// One distinct set of values.
#[derive(Debug)]
pub(crate) struct ParamSet {
    values: Values,
    /// A server has accepted these values, so they can be set in front of a query without waiting for the answer.
    proven: AtomicBool,
}

impl ParamSet {
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Relaxed)
    }

    pub(crate) fn application_name(&self) -> Option<&str> {
        self.values.get(Tracked::APPLICATION_NAME)
    }
}

/// Every set that is in use in a pool, by its values. What one database accepts another may refuse, so pools share none.
/// Locked at logins and when a parameter changes, not on the way of a query.
#[derive(Debug)]
pub(crate) struct Params {
    tracked: Arc<Tracked>,
    sets: Mutex<Sets>,
}

#[derive(Debug, Default)]
struct Sets {
    by_values: HashMap<Values, Weak<ParamSet>>,
    /// Dead entries are swept when the map has grown to this many.
    sweep_at: usize,
}

impl Params {
    pub(crate) fn new(tracked: Arc<Tracked>) -> Params {
        Params { tracked, sets: Mutex::default() }
    }

    /// The one set with these values. `proven`: they come from a server.
    pub(crate) fn intern(&self, values: Values, proven: bool) -> Arc<ParamSet> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = match sets.by_values.get(&values).and_then(Weak::upgrade) {
            Some(set) => set,
            None => {
                if sets.by_values.len() >= sets.sweep_at {
                    sets.by_values.retain(|_, set| set.strong_count() > 0);
                    sets.sweep_at = (sets.by_values.len() * 2).max(64);
                }
                let set = Arc::new(ParamSet { values: values.clone(), proven: AtomicBool::new(false) });
                sets.by_values.insert(values, Arc::downgrade(&set));
                set
            }
        };
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

    #[test]
    fn sets_nobody_uses_are_forgotten() {
        let params = Params::new(Arc::new(Tracked::new(["x"])));
        let none = params.intern(Values::none(&params.tracked), false);
        for i in 0..1000 {
            params.report(&none, "application_name", &i.to_string());
        }
        assert!(params.sets.lock().unwrap().by_values.len() <= 64);
    }
}
