//! What may a text of SQL do to the session that runs it, beyond its transaction? And which host may run it: the primary
//! only, or a replica as well?
//!
//! [`scan`] reads the text of a simple Query or of a Parse message with a tokenizer of its own, by PostgreSQL's grammar
//! (versions 13 to 18). It is linear in the text, and does not allocate for plain statements. What it does not
//! recognise may do anything: [`Effects::OPAQUE`], [`Effects::CALLS`], [`Kind::Unknown`].
//!
//! The text may be in any encoding that is a superset of ASCII, valid or not. `standard_conforming_strings` need not
//! be known: a text that reads differently without it is opaque.
//!
//! What no text tells, and only an audit of the session can (for [`Kind`], a standby itself):
//!
//! - a function of the user that has the name of a built-in one that is harmless, or of a keyword that takes
//!   parentheses, and one that is called without its name and parentheses: through an operator, a cast, a trigger, a
//!   default (`nextval` for a serial column, too), a rule, a view, an index, or as `table.function`;
//! - the temporary view that `CREATE VIEW` makes of a temporary table, and objects that go to `pg_temp` because it is
//!   first in the search path (both are [`Effects::DDL`]);
//! - what `EXECUTE` runs: the effects of the statement were those of its `PREPARE`.

mod access;
mod assign;
mod body;
mod lexer;
mod outline;
mod prepared;
mod rules;
mod settings;
mod words;

use std::borrow::Cow;
use std::fmt;
use std::ops::{BitOr, BitOrAssign};

pub use access::{Access, AccessMode, Cause, Isolation, Kind, Modes, Reason, Transaction};
pub use assign::{Assignment, Assignments, assignments};
pub use body::{Language, Mention, is_clean_body};
pub use outline::{fingerprint, outline};
pub use prepared::{Use, prepared_names};
pub use settings::{CustomSettings, custom_settings, may_name_setting};

/// What a text may do to the session. `NONE` for a plain `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `MERGE`, `COPY`, ...
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects(u32);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:expr,)*) => {
        impl Effects {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &[(Self, &str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

effects! {
    /// `SET`, `set_config` whose `is_local` is not written `true`, `DISCARD ALL`.
    SETTINGS = 0,
    /// `SET LOCAL`, `SET TRANSACTION`, `set_config(..., true)`: over with the transaction.
    LOCAL_SETTINGS = 1,
    /// `SET ROLE`, `SET SESSION AUTHORIZATION` in any form, always with `SETTINGS`.
    ROLE = 2,
    /// SQL `PREPARE` and `DEALLOCATE`. The effects of the prepared statement are there, too.
    PREPARED = 3,
    /// SQL `EXECUTE`, also in `EXPLAIN` and `CREATE TABLE AS`: the effects of what was prepared.
    EXECUTE = 4,
    /// `LISTEN`, `pg_listening_channels`, `DISCARD ALL`.
    LISTEN = 5,
    /// `NOTIFY`, `pg_notify`.
    NOTIFY = 6,
    /// `DECLARE ... WITH HOLD`.
    HOLD_CURSOR = 7,
    /// `CLOSE`.
    CLOSE_CURSOR = 8,
    /// A temporary object is made, or something is made in `pg_temp`.
    TEMP = 9,
    /// A temporary object may be gone: any `DROP`, `DISCARD TEMP`.
    TEMP_GONE = 10,
    /// An advisory lock of the session.
    LOCKS = 11,
    /// `pg_advisory_unlock` and its like.
    UNLOCKS = 12,
    /// `nextval`, `setval`, `DISCARD SEQUENCES`: what `currval` and `lastval` will say.
    SEQUENCE = 13,
    /// `currval`, `lastval`.
    SEQUENCE_READ = 14,
    /// `LOAD`, and functions that leave in the session what no view shows and only its end takes away: a connection of
    /// `dblink`, a backup that has begun, a temporary replication slot, a replication origin.
    LOAD = 15,
    /// `setseed`, `SET seed`.
    SEED = 16,
    /// Anything that may change what a prepared statement returns.
    DDL = 17,
    /// What a new session begins with: `ALTER ROLE` or `DATABASE ... SET`, `ALTER SYSTEM`.
    DEFAULTS = 18,
    /// `CREATE DATABASE`, `DROP DATABASE`, `ALTER DATABASE ... RENAME` or `SET TABLESPACE`: connections are in the way.
    DATABASE = 19,
    /// `DISCARD ALL`; the effects of all that it does are there, too.
    DISCARD_ALL = 20,
    /// `DEALLOCATE ALL`, `DISCARD ALL`.
    DEALLOCATE_ALL = 21,
    /// `BEGIN`, `COMMIT`, `ROLLBACK`, `SAVEPOINT`, `PREPARE TRANSACTION`, ...
    TRANSACTION = 22,
    /// Calls what is not known to be harmless: a function of the user, of an extension or one that runs SQL; `DO`, `CALL`.
    CALLS = 23,
    /// Not understood.
    OPAQUE = 24,
    /// `RESET`: takes settings off, and gives none.
    RESET = 25,
    /// `UNLISTEN`.
    UNLISTEN = 26,
}

impl Effects {
    /// Nothing that outlives the transaction.
    pub const NONE: Self = Self(0);

    /// Both together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that `other` has not.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// All of `other` is there.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Something of `other` is there.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The text leaves the session as it was.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Effects {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(Self::NAMES.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| name))
            .finish()
    }
}

/// What [`scan`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Over all statements of the text.
    pub effects: Effects,
    /// Which host may run it, and why.
    pub access: Access<'a>,
    /// Certain to change nothing in the database: reads, also those that only the primary may answer, and whatever is
    /// only about the session and its transaction.
    pub read_only: bool,
    /// The statement, if the text is exactly one.
    pub statement: Statement<'a>,
    /// How many statements the text has.
    pub statements: u32,
}

/// A name as PostgreSQL would see it: ASCII letters folded unless quoted, quotes gone; without the cut to 63 bytes.
/// Letters beyond ASCII are as in the text (PostgreSQL folds those only in single-byte encodings).
pub type Name<'a> = Cow<'a, [u8]>;

/// One of something, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum Target<'a> {
    All,
    One(Name<'a>),
}

/// A statement that a pooler acts upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement<'a> {
    /// No statement at all: blanks, comments, semicolons.
    Empty,
    /// More than one, or one that holds several (`CREATE RULE`, `CREATE FUNCTION ... BEGIN ATOMIC`).
    Several,
    /// None of those below, or not understood.
    Other,
    /// `SET [SESSION] name`. `TIME ZONE` is `timezone`, `NAMES` is `client_encoding`, and so on.
    Set {
        /// The setting, its parts joined by dots.
        name: Name<'a>,
    },
    /// `RESET name` and `RESET ALL`.
    Reset(Target<'a>),
    /// `PREPARE name [(types)] AS body`.
    Prepare {
        /// The statement's name.
        name: Name<'a>,
        /// The types of the parameters as written, without the parentheses; empty if there are none.
        types: &'a [u8],
        /// What is prepared, as written.
        body: &'a [u8],
    },
    /// `EXECUTE name [(arguments)]`.
    Execute {
        /// The statement's name.
        name: Name<'a>,
    },
    /// `DEALLOCATE [PREPARE] name` or `ALL`.
    Deallocate(Target<'a>),
    /// `LISTEN channel`.
    Listen(Name<'a>),
    /// `UNLISTEN channel` or `*`.
    Unlisten(Target<'a>),
    /// `NOTIFY channel [, payload]`.
    Notify(Name<'a>),
    /// `DISCARD ALL`.
    DiscardAll,
    /// Nobody may be connected to this database: `DROP DATABASE`, `ALTER DATABASE ... RENAME` or `SET TABLESPACE`,
    /// `CREATE DATABASE` from it as template.
    Vacate(Name<'a>),
    /// `BEGIN`, `START TRANSACTION`, with or without modes.
    Begin,
    /// `COMMIT`, `END`; not `AND CHAIN`, not `PREPARED`.
    Commit,
    /// `ROLLBACK`, `ABORT`; not `AND CHAIN`, not `PREPARED`, not `TO` a savepoint.
    Rollback,
}

/// What a caller knows that no text tells; nothing, by default.
///
/// Names are as PostgreSQL sees them, see [`Name`].
pub trait Knowledge {
    /// A function of this name, in whatever schema, leaves the session as it is: a call of it is no [`Effects::CALLS`].
    /// It may still write. Not asked of temporary ones.
    fn is_harmless(&self, function: &[u8]) -> bool {
        let _ = function;
        false
    }

    /// A function only reads, and a standby runs it, too. The schema is empty where the text has none. Not asked of
    /// temporary ones, nor of built-in ones that are known to write.
    fn only_reads(&self, schema: &[u8], function: &[u8]) -> bool {
        let _ = (schema, function);
        false
    }

    /// What was prepared in this session under this name only reads.
    fn prepared_only_reads(&self, name: &[u8]) -> bool {
        let _ = name;
        false
    }
}

/// No knowledge.
impl Knowledge for () {}

/// What the text may do to the session that runs it, and which host may run it.
pub fn scan(text: &[u8]) -> Scan<'_> {
    rules::scan(text, &())
}

/// The same for who knows more.
pub fn scan_with<'a>(text: &'a [u8], knowledge: &dyn Knowledge) -> Scan<'a> {
    rules::scan(text, knowledge)
}

/// The same for who knows the functions of the database: see [`Knowledge::is_harmless`].
pub fn scan_knowing<'a>(text: &'a [u8], harmless: &dyn Fn(&[u8]) -> bool) -> Scan<'a> {
    rules::scan(text, &Harmless(harmless))
}

struct Harmless<'k>(&'k dyn Fn(&[u8]) -> bool);

impl Knowledge for Harmless<'_> {
    fn is_harmless(&self, function: &[u8]) -> bool {
        (self.0)(function)
    }
}
