//! One copy of equal values, for whoever has them.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::secrets::random;

/// Shares equal values for as long as somebody has them. Locked when a value is made, not on the way of a query.
#[derive(Debug)]
pub(crate) struct Interner<T>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    values: HashSet<Arc<T>>,
    /// Those that nobody has any more are swept when there are this many.
    sweep_at: usize,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner(Mutex::new(Kept { values: HashSet::new(), sweep_at: 0 }))
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// The one value that equals this one.
    pub(crate) fn intern(&self, value: T) -> Arc<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.values.get(&value) {
            return found.clone();
        }
        if kept.values.len() >= kept.sweep_at {
            kept.sweep();
        }
        let value = Arc::new(value);
        kept.values.insert(value.clone());
        value
    }

    /// How many distinct values there are, some perhaps that nobody has any more.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values.len()
    }

    /// Gives back what nobody has any more.
    pub(crate) fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sweep();
    }
}

impl<T: Eq + Hash> Kept<T> {
    fn sweep(&mut self) {
        self.values.retain(|value| Arc::strong_count(value) > 1);
        self.sweep_at = (self.values.len() * 2).max(64);
        self.values.shrink_to(self.sweep_at);
    }
}

impl<T> Interner<T> {
    /// Looks at every value that somebody has.
    pub(crate) fn each(&self, look: impl FnMut(&T)) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values.iter().filter(|value| Arc::strong_count(value) > 1).map(|value| &**value).for_each(look);
    }
}

/// One number for equal sequences, which nobody outside can foresee.
pub(crate) fn hash_of<T: Hash>(values: impl IntoIterator<Item = T>) -> u64 {
    let mut hasher = DefaultHasher::new();
    seed().hash(&mut hasher);
    values.into_iter().for_each(|value| value.hash(&mut hasher));
    hasher.finish()
}

static SEED: OnceLock<[u8; 16]> = OnceLock::new();

/// What makes the numbers of this process its own.
pub(crate) fn seed() -> [u8; 16] {
    *SEED.get_or_init(random)
}

/// Makes the numbers of this process those of the one whose clients it takes over, before any was made.
pub(crate) fn take_seed(seed: [u8; 16]) {
    let _ = SEED.set(seed); // several poolers in one process (tests) share the first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_go_with_their_last_owner() {
        let interner = Interner::default();
        let kept = interner.intern(0);
        assert!(Arc::ptr_eq(&kept, &interner.intern(0)));
        (1..1000).for_each(|value| drop(interner.intern(value)));
        let count = interner.0.lock().unwrap().values.len();
        assert!(count <= 65, "{count} are kept");
        assert!(Arc::ptr_eq(&kept, &interner.intern(0)));
        interner.sweep();
        assert_eq!(interner.0.lock().unwrap().values.len(), 1);
        let mut seen = Vec::new();
        interner.each(|value| seen.push(*value));
        assert_eq!(seen, [0]);
    }
}
