//! Which host may run a text: the primary only, or a replica as well.

use std::fmt;

use crate::outline;

/// What a text asks of the host that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// Over all statements of the text.
    pub kind: Kind<'a>,
    /// What the text as a whole does to the transaction of its session.
    pub transaction: Transaction,
}

/// The most that a statement of the text asks for.
///
/// What no text tells: what is behind an operator, a cast, a view, a rule, a sampling method, a function of the user that
/// has a built-in one's name, `table.function`, and whether a table is unlogged. A standby refuses those with `25006`, or
/// with `0A000` or `55000` and a message that ends in "during recovery" or "hot standby".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Any host will do, and nothing of the database is read: no statement at all, `BEGIN`, `COMMIT`, `SET`, `SHOW`,
    /// `DEALLOCATE`, ... It says nothing of the statements that follow in the same transaction.
    Neutral,
    /// Certain to be only a read, and one that a standby answers as the primary does.
    Reads,
    /// For the primary.
    Writes(Reason<'a>),
    /// May write, or may be answered differently by a standby.
    Unknown(Reason<'a>),
}

/// What a text does to the transaction of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Nothing: it runs in the one that is open, or in one of its own. Also `COMMIT AND CHAIN`.
    Same,
    /// It begins one, which is open behind it.
    Begins(Modes),
    /// It changes the modes of the one that was open: `SET TRANSACTION`.
    Sets(Modes),
    /// It ends the one that was open, or one that it began itself.
    Ends,
}

/// What `BEGIN` and `SET TRANSACTION` say. `None`: the session's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs)]
pub struct Modes {
    pub access: Option<AccessMode>,
    pub isolation: Option<Isolation>,
}

/// Whether a transaction may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum AccessMode {
    ReadOnly,
    ReadWrite,
}

/// The isolation of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum Isolation {
    /// Also `READ UNCOMMITTED`, which PostgreSQL takes for the same.
    ReadCommitted,
    RepeatableRead,
    /// No standby has it.
    Serializable,
}

/// Why a text is not sure to be only a read, for people: `FOR UPDATE locks rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// What kind of reason.
    pub cause: Cause,
    /// The words or the name, as in the text.
    pub words: &'a [u8],
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Changes rows: `INSERT`, `COPY FROM`, `TRUNCATE`, ...
    Changes,
    /// Changes what is defined: `CREATE`, `GRANT`, `SELECT INTO`, ...
    Defines,
    /// Locks rows or tables: `FOR UPDATE`, `LOCK`.
    Locks,
    /// A standby has no such thing: `LISTEN`, `VACUUM`, `PREPARE TRANSACTION`, ...
    Refused,
    /// A mode of the transaction that asks for the primary: `READ WRITE`, `SERIALIZABLE`, `SET CONSTRAINTS`.
    Mode,
    /// A built-in function that does more than read, that a standby refuses, or that tells of the host.
    Function,
    /// A function of which it is not known that it only reads.
    UnknownFunction,
    /// Code that is not seen: `DO`, `CALL`, `LOAD`.
    Code,
    /// What stands behind a name is not known: `EXECUTE`, `FETCH`.
    Named,
    /// It stays in the session that runs it, which binds its client to that host: `PREPARE`, `DECLARE ... WITH HOLD`.
    Session,
    /// What is read is the host's own: `pg_stat_activity`, `SHOW transaction_read_only`, a file that `COPY` writes.
    Host,
    /// Not understood.
    NotUnderstood,
}

impl<'a> Kind<'a> {
    /// The stronger of the two; of two that are as strong, the first.
    pub(crate) fn and(self, other: Self) -> Self {
        if other.strength() > self.strength() { other } else { self }
    }

    fn strength(self) -> u8 {
        match self {
            Kind::Neutral => 0,
            Kind::Reads => 1,
            // What may also change something matters more.
            Kind::Unknown(Reason { cause: Cause::Host | Cause::Session, .. }) => 2,
            Kind::Unknown(_) => 3,
            Kind::Writes(_) => 4,
        }
    }

    /// Why it is for the primary; `None` if it is not.
    pub fn reason(self) -> Option<Reason<'a>> {
        match self {
            Kind::Neutral | Kind::Reads => None,
            Kind::Writes(reason) | Kind::Unknown(reason) => Some(reason),
        }
    }

    /// Certain to change nothing, wherever it is run.
    pub(crate) fn changes_nothing(self) -> bool {
        self.reason().is_none_or(|reason| matches!(reason.cause, Cause::Host | Cause::Session))
    }
}

impl<'a> From<Reason<'a>> for Kind<'a> {
    fn from(reason: Reason<'a>) -> Self {
        match reason.cause {
            Cause::Changes
            | Cause::Defines
            | Cause::Locks
            | Cause::Refused
            | Cause::Mode
            | Cause::Function => Kind::Writes(reason),
            Cause::UnknownFunction
            | Cause::Code
            | Cause::Named
            | Cause::Session
            | Cause::Host
            | Cause::NotUnderstood => Kind::Unknown(reason),
        }
    }
}

/// Longest name shown, in bytes.
const LONGEST_SHOWN: usize = 128;

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = outline(self.words, LONGEST_SHOWN);
        match self.cause {
            Cause::Changes => write!(f, "{words} changes rows"),
            Cause::Defines => write!(f, "{words} changes what is defined"),
            Cause::Locks => write!(f, "{words} takes locks"),
            Cause::Refused => write!(f, "{words} is nothing that a standby does"),
            Cause::Mode => write!(f, "{words} asks for the primary"),
            Cause::Function => write!(f, "function {words} does more than read, or tells of its host"),
            Cause::UnknownFunction => write!(f, "function {words} is not known only to read"),
            Cause::Code => write!(f, "{words} runs code that is not seen"),
            Cause::Named => write!(f, "{words} runs what is not known here"),
            Cause::Session => write!(f, "{words} stays in the session that runs it"),
            Cause::Host => write!(f, "{words} is the host's own"),
            Cause::NotUnderstood if words.is_empty() => write!(f, "not understood"),
            Cause::NotUnderstood => write!(f, "{words} is not understood"),
        }
    }
}
