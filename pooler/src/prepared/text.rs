use std::ffi::CStr;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sql::Effects;

use crate::buffers::{Buffers, Charge};
use crate::intern::Interner;
use crate::routing::Nature;

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
    /// Which host may run it.
    pub(crate) nature: Nature,
    _kept: Charge,
}

impl Statement {
    /// The query alone.
    pub(crate) fn query(&self) -> &[u8] {
        query_of(&self.text)
    }
}

/// The query at the beginning of what follows the name in `Parse`.
pub(crate) fn query_of(text: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(text).map_or(text, CStr::to_bytes)
}

/// The query in the body of `Query`, or its beginning. With a NUL inside PostgreSQL does not run it.
pub(crate) fn simple_query(body: &[u8]) -> &[u8] {
    body.strip_suffix(b"\0").unwrap_or(body)
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
pub(crate) struct Texts {
    statements: Interner<Statement>,
    kept: Arc<Buffers>,
}

/// Ids are unique in the process, so that a name on a server says by itself which statement it is.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Statements of this process have ids from here on.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.load(Relaxed)
}

/// Servers may come that have statements with smaller ids, made by another process.
pub(crate) fn begin_ids_at(first: u64) {
    NEXT_ID.fetch_max(first, Relaxed);
}

impl Texts {
    /// They count there.
    pub(crate) fn new(kept: Arc<Buffers>) -> Texts {
        Texts { statements: Interner::default(), kept }
    }

    /// The one statement with this text.
    pub(crate) fn intern(&self, text: &[u8]) -> Arc<Statement> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let scan = sql::scan(query_of(text));
        let (effects, read_only, nature) = (scan.effects, scan.read_only, scan.access.into());
        let kept = self.kept.charge(text.len());
        self.statements.intern(Statement { id, text: text.into(), effects, read_only, nature, _kept: kept })
    }

    /// Gives back texts that nobody has any more.
    pub(crate) fn sweep(&self) {
        self.statements.sweep();
    }

    /// How many texts clients have, and their bytes.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let mut usage = (0, 0);
        self.statements.each(|statement| usage = (usage.0 + 1, usage.1 + statement.text.len()));
        usage
    }
}
