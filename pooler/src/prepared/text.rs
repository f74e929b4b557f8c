use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sql::Effects;

use crate::intern::Interner;

/// One distinct text with its parameter types, shared by all clients of a pool that have prepared it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: u64,
    /// What follows the name in `Parse`: the query, its NUL, number and OIDs of the parameter types given.
    pub(crate) text: Box<[u8]>,
    /// What it may do to a session when it runs.
    pub(crate) effects: Effects,
    /// It only reads.
    pub(crate) read_only: bool,
}

impl Statement {
    /// The query alone.
    pub(crate) fn query(&self) -> &[u8] {
        query_of(&self.text)
    }
}

/// The query at the beginning of what follows the name in `Parse`, or of the body of `Query`.
pub(crate) fn query_of(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

impl PartialEq for Statement {
    fn eq(&self, other: &Statement) -> bool {
        self.text == other.text
    }
}

impl Eq for Statement {}

impl Hash for Statement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Every text that some client has prepared.
#[derive(Debug, Default)]
pub(crate) struct Texts(Interner<Statement>);

/// Ids are unique in the process, so that a name on a server says by itself which statement it is.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Texts {
    /// The one statement with this text.
    pub(crate) fn intern(&self, text: &[u8]) -> Arc<Statement> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let scan = sql::scan(query_of(text));
        let (effects, read_only) = (scan.effects, scan.read_only);
        self.0.intern(Statement { id, text: text.into(), effects, read_only })
    }
}
