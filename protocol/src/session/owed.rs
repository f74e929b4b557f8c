//! What a server may owe, to whom, and where a reply goes.

/// Who sent a request, and so who gets its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The client: replies are forwarded.
    Client,
    /// The pooler itself: replies are swallowed.
    Pooler,
    /// The pooler, in front of a client's message that needs it: replies are swallowed, but an error is the client's.
    InFront,
    /// The pooler, for the client's session: as `Pooler`, but what is told aside (parameters, notifications) is the
    /// client's to know.
    Aside,
}

impl Origin {
    /// Where a reply goes that is no error.
    pub(super) fn route(self) -> Route {
        match self {
            Origin::Client => Route::Forward,
            Origin::Pooler | Origin::InFront | Origin::Aside => Route::Swallow,
        }
    }
}

/// A reply that the pooler gives in the server's place, in its turn among the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invented {
    /// `ParseComplete`.
    Parse,
    /// `CloseComplete`.
    Close,
}

impl Invented {
    /// The message.
    pub fn message(self) -> &'static [u8; 5] {
        match self {
            Invented::Parse => b"1\0\0\0\x04",
            Invented::Close => b"3\0\0\0\x04",
        }
    }
}

/// What to do with a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Pass it to the client.
    Forward,
    /// It answers the pooler's own request.
    Swallow,
    /// The pooler's own request failed. The replies owed behind it can't be trusted.
    OwnRequestFailed,
}

/// A message that PostgreSQL's protocol does not allow here. The server connection must be discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// Tag of the offending message.
    pub tag: u8,
    /// What was being waited for.
    pub while_owed: Option<Owes>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unexpected message '{}'", self.tag.escape_ascii())?;
        match self.while_owed {
            Some(owes) => write!(f, " while {owes:?} was to be answered"),
            None => f.write_str(" while nothing was to be answered"),
        }
    }
}

/// One request that has not been answered in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owes {
    /// `Parse` → `ParseComplete`.
    Parse,
    /// `Bind` → `BindComplete`.
    Bind,
    /// `Describe` → `ParameterDescription` (of a statement), then `RowDescription` or `NoData`.
    Describe,
    /// The same, and what it says is of interest: see
    /// [`notes_description`](super::ServerMachine::notes_description).
    NotedDescribe,
    /// `Execute` → rows or COPY, then `CommandComplete`, `EmptyQueryResponse` or `PortalSuspended`.
    Execute,
    /// `Close` → `CloseComplete`.
    Close,
    /// `Query` → anything a statement can answer, then `ReadyForQuery`.
    Query,
    /// `FunctionCall` → `FunctionCallResponse`, then `ReadyForQuery`.
    FunctionCall,
    /// `Sync` → `ReadyForQuery`.
    Sync,
    /// Nothing by the server: the pooler answers.
    Invented(Invented),
    /// `CopyDone` or `CopyFail`, which nothing answers: it only marks where a COPY's input ended.
    CopyEnd,
    /// One or more `Sync`s of which COPY may have eaten some: between `at_least` and `at_most` times
    /// `ReadyForQuery`. See [`ServerMachine`](super::ServerMachine).
    Syncs {
        /// `ReadyForQuery`s that must still come.
        at_least: u32,
        /// `ReadyForQuery`s that may still come.
        at_most: u32,
    },
}

impl Owes {
    /// `ReadyForQuery` is its last reply.
    pub(super) fn ends_with_ready(self) -> bool {
        matches!(self, Owes::Query | Owes::FunctionCall | Owes::Sync | Owes::Syncs { .. })
    }
}

/// A request that has not been answered in full, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) what: Owes,
    pub(super) origin: Origin,
}
