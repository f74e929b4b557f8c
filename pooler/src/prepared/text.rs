use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// One distinct text with its parameter types, shared by all clients of a pool that have prepared it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: u64,
    /// What follows the name in `Parse`: the query, its NUL, number and OIDs of the parameter types given.
    pub(crate) text: Box<[u8]>,
}

/// Every text that some client has prepared. Locked at `Parse` of a named statement.
#[derive(Debug, Default)]
pub(crate) struct Texts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    texts: HashSet<ByText>,
    /// Those that nobody has any more are swept when there are this many.
    sweep_at: usize,
}

#[derive(Debug)]
struct ByText(Arc<Statement>);

impl Borrow<[u8]> for ByText {
    fn borrow(&self) -> &[u8] {
        &self.0.text
    }
}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &ByText) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for ByText {}

/// Ids are unique in the process, so that a name on a server says by itself which statement it is.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Texts {
    /// The one statement with this text.
    pub(crate) fn intern(&self, text: &[u8]) -> Arc<Statement> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.texts.get(text) {
            return found.0.clone();
        }
        if known.texts.len() >= known.sweep_at {
            known.texts.retain(|text| Arc::strong_count(&text.0) > 1);
            known.sweep_at = (known.texts.len() * 2).max(64);
        }
        let statement = Arc::new(Statement { id: NEXT_ID.fetch_add(1, Relaxed), text: text.into() });
        known.texts.insert(ByText(statement.clone()));
        statement
    }
}
