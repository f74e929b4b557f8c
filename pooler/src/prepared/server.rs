use std::collections::VecDeque;

use foldhash::HashMap;

use protocol::frame::put;
use protocol::message;
use protocol::session::{Origin, ServerMachine};

use super::again::Again;
use super::client::{ClientStatements, Known};
use super::description::Description;
use super::key::Key;
use super::{split_name, statement_body};

/// What a message that was sent (or answered by the pooler) does if it succeeds. It counts at once, so that what the
/// client sends behind it finds it; if it turns out to have failed it is taken back.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing that is kept track of.
    None,
    /// The unnamed statement was parsed.
    Unnamed { serial: u64 },
    /// The unnamed statement was closed.
    UnnamedClosed,
    /// The client has a statement of this name.
    Named { name: Box<[u8]> },
    /// The same, and the server has it, too.
    NamedOnServer { name: Box<[u8]>, key: Key },
    /// The server has a statement.
    OnServer { key: Key },
    /// The server has lost one.
    ClosedOnServer { key: Key, kept: Kept },
    /// The server has a statement under a name of a client's.
    Stray { name: Box<[u8]> },
    /// It has lost that again.
    StrayClosed { name: Box<[u8]> },
    /// The client has closed a statement.
    Closed { name: Box<[u8]>, known: Known },
    /// The server will say what the statement looks like, to the client that calls it so (to none if that is empty).
    Described { name: Box<[u8]>, key: Key },
}

impl Change {
    fn touches(&self, of: &[u8]) -> bool {
        match self {
            Change::Named { name }
            | Change::NamedOnServer { name, .. }
            | Change::Closed { name, .. }
            | Change::Stray { name }
            | Change::StrayClosed { name } => **name == *of,
            _ => false,
        }
    }

    fn makes_or_drops(&self, of: Key) -> bool {
        match self {
            Change::NamedOnServer { key, .. }
            | Change::OnServer { key }
            | Change::ClosedOnServer { key, .. } => *key == of,
            _ => false,
        }
    }
}

/// What is known of a statement on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The batch that used it last.
    used: u64,
    /// The moment when it was parsed, or an earlier one.
    made: u64,
    /// The batch in front of which the pooler has asked last what it looks like.
    asked: u64,
    says: Description,
}

/// Whether a statement on a server is what its client was told.
pub(super) enum Agreement {
    Agrees,
    Differs,
    /// The server has been asked.
    Asked,
    /// The server has to be asked, of a statement that is parsed now.
    Unknown,
}

/// No client's unnamed statement: it is not known which one the server has, if any.
const SOMEBODYS: u64 = 0;

/// The statements that one server connection has.
#[derive(Debug, Default)]
pub(crate) struct ServerStatements {
    have: HashMap<Key, Kept>,
    /// Whose unnamed statement it has, by serial number.
    pub(super) unnamed: Option<u64>,
    /// One for each message that changes statements and is not answered yet, with the batch that it belongs to.
    unsettled: VecDeque<(u64, Change)>,
    /// Counts batches; 0: nobody has used the server.
    batch: u64,
    /// The batch in which something was executed last, or that was kept to be sent again.
    begun: u64,
    /// What the batch at hand has bound last without knowing what it returns: portal and statement, each with a NUL.
    bound: Vec<u8>,
    /// The parameters in the description that is being received.
    parameters: u64,
    pub(crate) again: Again,
    /// Statements under names of a client's, to be dropped before anybody else has the connection.
    strays: Vec<Box<[u8]>>,
    /// The statements that SQL is to deallocate, in the order of the replies.
    deallocating: VecDeque<Box<[u8]>>,
    dropping: Dropping,
}

/// How far a statement has come that drops others.
#[derive(Debug, Default, PartialEq, Eq)]
enum Dropping {
    #[default]
    No,
    /// It is bound in the batch at hand.
    Bound,
    /// It is executed, or something else of that batch.
    Executed,
    /// The same, and the server was asked for its answer.
    Flushed,
}

impl ServerStatements {
    /// Those of a server that comes from another process: not known.
    pub(crate) fn of_another_process() -> ServerStatements {
        ServerStatements { unnamed: Some(SOMEBODYS), ..ServerStatements::default() }
    }

    /// How many it has.
    pub(crate) fn len(&self) -> usize {
        self.have.len()
    }

    /// Gives back the room that an unusual batch has taken.
    pub(crate) fn shrink(&mut self) {
        if self.unsettled.capacity() > 64 {
            self.unsettled.shrink_to(16);
        }
        self.again.shrink();
    }

    /// The client that has the server is its first, and has sent nothing yet.
    pub(crate) fn are_first(&self) -> bool {
        self.batch <= 1
    }

    /// `Sync` or a simple query ends a batch.
    pub(crate) fn end_batch(&mut self) {
        self.batch += 1;
        self.bound.clear();
    }

    /// A message of the client's goes to the server.
    pub(crate) fn on_sent(&mut self, tag: u8, complete: bool) {
        if tag == b'E' {
            self.begun = self.batch;
            if self.dropping == Dropping::Bound {
                self.dropping = Dropping::Executed;
            }
        }
        self.again.on_sent(tag, complete);
    }

    /// The first message of a batch that needs a statement stands at `at` in what is being read: from here on it may be
    /// sent again, once.
    pub(super) fn begin(&mut self, at: usize) {
        if self.begun != self.batch {
            self.begun = self.batch;
            self.again.begin(at);
        }
    }

    /// The server has refused the batch at hand because of a statement. False: that is the client's to know.
    pub(crate) fn fail(&mut self) -> bool {
        let again = self.again.fail();
        if again {
            self.end_batch();
            self.begun = self.batch; // once
        }
        again
    }

    /// A simple query ends the unnamed statement, unless an error in front of it lets the server skip it.
    pub(crate) fn on_query(&mut self, in_batch: bool) {
        self.end_batch();
        self.unnamed = in_batch.then_some(SOMEBODYS);
    }

    /// A simple query of the pooler's own ends the unnamed statement as well.
    pub(crate) fn on_own_query(&mut self) {
        self.unnamed = None;
    }

    /// The pooler parses or closes a statement of its own.
    pub(crate) fn on_own_statement(&mut self) {
        self.note(Change::None);
    }

    /// The pooler parses an unnamed statement of its own.
    pub(crate) fn on_own_unnamed(&mut self) {
        self.note(Change::None);
        self.unnamed = Some(SOMEBODYS);
    }

    /// The oldest unsettled change has been confirmed.
    pub(crate) fn confirm(&mut self) {
        self.unsettled.pop_front();
    }

    /// The `count` oldest unsettled changes have failed.
    pub(crate) fn take_back(&mut self, count: usize, client: &mut ClientStatements) {
        let count = count.min(self.unsettled.len());
        for (_, change) in self.unsettled.drain(..count).rev() {
            match change {
                Change::None | Change::Described { .. } => {}
                // One that was parsed since stays.
                Change::Unnamed { serial } => {
                    if client.unnamed().is_some_and(|(now, _)| now == serial) {
                        client.close_unnamed();
                    }
                    if self.unnamed == Some(serial) {
                        self.unnamed = Some(SOMEBODYS);
                    }
                }
                Change::UnnamedClosed => drop(self.unnamed.get_or_insert(SOMEBODYS)),
                Change::Named { name } => drop(client.remove(&name)),
                Change::NamedOnServer { name, key } => {
                    client.remove(&name);
                    self.have.remove(&key);
                }
                Change::OnServer { key } => drop(self.have.remove(&key)),
                Change::ClosedOnServer { key, kept } => drop(self.have.insert(key, kept)),
                Change::Stray { name } => self.strays.retain(|stray| *stray != name),
                Change::StrayClosed { name } => self.strays.push(name),
                Change::Closed { name, known } => client.insert(&name, known),
            }
        }
    }

    pub(super) fn note(&mut self, change: Change) {
        self.unsettled.push_back((self.batch, change));
    }

    /// An earlier batch has changed statements, and is not answered.
    pub(super) fn awaits_outcomes(&self) -> bool {
        self.unsettled.front().is_some_and(|(batch, _)| *batch != self.batch)
    }

    /// Whether what `name` stands for depends on the outcome of an earlier batch, or whether the server has one of these.
    /// Those batches come first, so that a long one is not looked through for each of its messages.
    pub(super) fn is_unsettled(&self, name: &[u8], keys: &[Key]) -> bool {
        let earlier = self.unsettled.iter().take_while(|(batch, _)| *batch != self.batch);
        earlier
            .map(|(_, change)| change)
            .any(|change| change.touches(name) || keys.iter().any(|key| change.makes_or_drops(*key)))
    }

    /// The server says what the oldest statement looks like of which it was asked: `ParameterDescription`, then
    /// `RowDescription` or `NoData`.
    pub(crate) fn on_description(&mut self, tag: u8, body: &[u8], client: &mut ClientStatements) {
        if tag == b't' {
            self.parameters = Description::of_parameters(body);
            return;
        }
        let rows = Description::of_rows(tag, body);
        let says = Description { parameters: std::mem::take(&mut self.parameters), rows };
        let Some((_, Change::Described { name, key })) = self.unsettled.pop_front() else { return };
        if let Some(kept) = self.have.get_mut(&key) {
            kept.says.learn(says);
        }
        if let Some(known) = client.get_mut(&name).filter(|known| known.statement.id == key.statement) {
            known.told.learn(says);
        }
    }

    /// What a portal of this statement would be described as, the client knows.
    pub(super) fn has_told(&self, key: Key, told: Description) -> bool {
        told.rows != 0 && self.have.get(&key).is_some_and(|kept| kept.says.rows == told.rows)
    }

    /// Remembers what was bound, so that the client is known to rely on what the portal's description says.
    pub(super) fn on_bound(&mut self, portal: &[u8], name: &[u8]) {
        self.bound.clear();
        for part in [portal, name] {
            self.bound.extend_from_slice(part);
            self.bound.push(0);
        }
    }

    /// The statement that was bound to this portal, if that is of interest.
    pub(super) fn take_bound(&mut self, portal: &[u8]) -> Option<Box<[u8]>> {
        let (last, rest) = split_name(&self.bound)?;
        let name = (last == portal).then(|| split_name(rest)).flatten().map(|(name, _)| name.into());
        self.bound.clear();
        name
    }

    /// Marks a statement as used by the batch at hand. False: the server does not have it, or only as it was parsed
    /// before this moment.
    pub(super) fn touch(&mut self, key: Key, parsed: u64) -> bool {
        self.have.get_mut(&key).is_some_and(|kept| {
            kept.used = self.batch;
            kept.made >= parsed
        })
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.have.contains_key(&key)
    }

    pub(super) fn insert(&mut self, key: Key, made: u64) {
        let kept = Kept { used: self.batch, made, asked: 0, says: Description::default() };
        self.have.insert(key, kept);
    }

    /// Whether a statement is what its client was told.
    pub(super) fn agrees(&self, key: Key, told: Description) -> Agreement {
        let Some(kept) = self.have.get(&key) else { return Agreement::Agrees };
        match kept.says.repeats(told) {
            Some(true) => Agreement::Agrees,
            _ if kept.asked != self.batch => Agreement::Unknown,
            Some(false) => Agreement::Differs,
            None => Agreement::Asked,
        }
    }

    /// The server is being asked what a statement looks like.
    pub(super) fn ask(&mut self, key: Key) {
        if let Some(kept) = self.have.get_mut(&key) {
            kept.asked = self.batch;
        }
    }

    /// The statement used longest ago, if one more would be more than `limit`.
    pub(super) fn surplus(&self, limit: usize) -> Option<Key> {
        if self.have.len() < limit {
            return None;
        }
        let (key, kept) = self.have.iter().min_by_key(|(_, kept)| kept.used)?;
        (kept.used != self.batch).then_some(*key)
    }

    pub(super) fn close(&mut self, key: Key) {
        if let Some(kept) = self.have.remove(&key) {
            self.note(Change::ClosedOnServer { key, kept });
        }
    }

    /// A statement is made under a name of a client's. False: it is there already.
    pub(super) fn add_stray(&mut self, name: &[u8]) -> bool {
        if self.strays.iter().any(|stray| **stray == *name) {
            return false;
        }
        self.strays.push(name.into());
        self.note(Change::Stray { name: name.into() });
        true
    }

    pub(crate) fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// The statement under this name of a client's is about to be closed. False: there is none.
    pub(super) fn close_stray(&mut self, name: &[u8]) -> bool {
        let closes = self.remove_stray(name);
        if closes {
            self.note(Change::StrayClosed { name: name.into() });
        }
        closes
    }

    /// The statement under this name of a client's is gone. False: there was none.
    fn remove_stray(&mut self, name: &[u8]) -> bool {
        let before = self.strays.len();
        self.strays.retain(|stray| **stray != *name);
        self.strays.len() < before
    }

    /// Closes what is there under names of a client's.
    pub(crate) fn drop_strays(&mut self, machine: &mut ServerMachine, out: &mut Vec<u8>) {
        for name in std::mem::take(&mut self.strays) {
            self.note(Change::None);
            machine.on_sent(b'C', Origin::Pooler, true);
            put(out, b'C', |out| statement_body(out, &name));
        }
        machine.on_sent(b'S', Origin::Pooler, true);
        message::sync(out);
    }

    /// `DEALLOCATE` of this name goes to the server.
    pub(super) fn deallocate(&mut self, name: &[u8]) {
        self.deallocating.push_back(name.into());
    }

    /// A statement that may drop others was bound, or sent as a simple query.
    pub(crate) fn drops(&mut self, query: bool) {
        self.dropping = if query { Dropping::Executed } else { Dropping::Bound };
    }

    /// What there is of statements depends on one that drops some, and that is not answered.
    pub(super) fn is_dropping(&mut self, machine: &ServerMachine) -> bool {
        let executed = !matches!(self.dropping, Dropping::No | Dropping::Bound);
        if executed && machine.owes_nothing() {
            self.dropping = Dropping::No;
            self.deallocating.clear();
            return false;
        }
        executed
    }

    /// It stands in the batch at hand, so that its answer has to be asked for. Once is enough.
    pub(super) fn must_flush(&mut self) -> bool {
        let flushed = self.dropping == Dropping::Flushed;
        self.dropping = Dropping::Flushed;
        !flushed
    }

    /// `DEALLOCATE` has succeeded.
    pub(crate) fn on_deallocated(&mut self, client: &mut ClientStatements) {
        if let Some(name) = self.deallocating.pop_front() {
            self.remove_stray(&name);
            client.remove(&name);
        }
    }

    /// All requests have been answered: what was not deallocated is still there.
    pub(crate) fn on_quiet(&mut self) {
        self.deallocating.clear();
        self.dropping = Dropping::No;
    }

    /// The server does not have those any more that the pooler has named.
    pub(crate) fn lose(&mut self) {
        self.have.clear();
    }

    /// The server has none any more.
    pub(crate) fn clear(&mut self) {
        self.have.clear();
        self.strays.clear();
        self.unnamed = None;
    }
}
