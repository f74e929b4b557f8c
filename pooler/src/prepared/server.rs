use std::collections::{HashMap, VecDeque};

use super::client::{ClientStatements, Known};

/// A statement as a server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) statement: u64,
    pub(crate) meaning: u64,
}

impl Key {
    /// Its name on every server.
    pub(crate) fn name(self) -> String {
        match self.meaning {
            0 => format!("pgferry_{:x}", self.statement),
            meaning => format!("pgferry_{:x}_{meaning:x}", self.statement),
        }
    }
}

/// What a message that was sent (or answered by the pooler) does if it succeeds. It counts at once, so that what the
/// client sends behind it finds it; if it turns out to have failed it is taken back.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing that is kept track of.
    None,
    /// The unnamed statement was parsed.
    Unnamed,
    /// The unnamed statement was closed.
    UnnamedClosed,
    /// The client has a statement of this name.
    Named { name: Box<[u8]> },
    /// The same, and the server has it, too.
    NamedOnServer { name: Box<[u8]>, key: Key },
    /// The server has a statement.
    OnServer { key: Key },
    /// The server has lost one, which was used last at `used`.
    ClosedOnServer { key: Key, used: u64 },
    /// The server has a statement under a name of a client's.
    Stray { name: Box<[u8]> },
    /// The client has closed a statement.
    Closed { name: Box<[u8]>, known: Known },
}

impl Change {
    fn touches(&self, of: &[u8]) -> bool {
        match self {
            Change::Named { name } | Change::NamedOnServer { name, .. } | Change::Closed { name, .. } => {
                **name == *of
            }
            _ => false,
        }
    }
}

/// No client's unnamed statement: it is not known which one the server has, if any.
const SOMEBODYS: u64 = 0;

/// The statements that one server connection has.
#[derive(Debug, Default)]
pub(crate) struct ServerStatements {
    /// With the number of the batch that used it last.
    have: HashMap<Key, u64>,
    /// Whose unnamed statement it has, by serial number.
    pub(super) unnamed: Option<u64>,
    /// One for each message that changes statements and is not answered yet, with the batch that it belongs to.
    unsettled: VecDeque<(u64, Change)>,
    batch: u64,
    /// Statements under names of a client's, to be dropped before anybody else has the connection.
    strays: Vec<Box<[u8]>>,
}

impl ServerStatements {
    /// How many it has.
    pub(crate) fn len(&self) -> usize {
        self.have.len()
    }

    /// `Sync` or a simple query ends a batch.
    pub(crate) fn end_batch(&mut self) {
        self.batch += 1;
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

    /// The oldest unsettled change has been confirmed.
    pub(crate) fn confirm(&mut self) {
        self.unsettled.pop_front();
    }

    /// The `count` oldest unsettled changes have failed.
    pub(crate) fn take_back(&mut self, count: usize, client: &mut ClientStatements) {
        let count = count.min(self.unsettled.len());
        for (_, change) in self.unsettled.drain(..count).rev() {
            match change {
                Change::None => {}
                Change::Unnamed => {
                    client.close_unnamed();
                    self.unnamed = Some(SOMEBODYS);
                }
                Change::UnnamedClosed => self.unnamed = Some(SOMEBODYS),
                Change::Named { name } => drop(client.remove(&name)),
                Change::NamedOnServer { name, key } => {
                    client.remove(&name);
                    self.have.remove(&key);
                }
                Change::OnServer { key } => drop(self.have.remove(&key)),
                Change::ClosedOnServer { key, used } => drop(self.have.insert(key, used)),
                Change::Stray { name } => self.strays.retain(|stray| *stray != name),
                Change::Closed { name, known } => client.insert(&name, known),
            }
        }
    }

    pub(super) fn note(&mut self, change: Change) {
        self.unsettled.push_back((self.batch, change));
    }

    /// Whether what `name` stands for depends on the outcome of an earlier batch.
    pub(super) fn is_unsettled(&self, name: &[u8]) -> bool {
        self.unsettled.iter().any(|(batch, change)| *batch != self.batch && change.touches(name))
    }

    /// Marks a statement as used by the batch at hand. False: the server does not have it.
    pub(super) fn touch(&mut self, key: Key) -> bool {
        self.have.get_mut(&key).map(|used| *used = self.batch).is_some()
    }

    pub(super) fn insert(&mut self, key: Key) {
        self.have.insert(key, self.batch);
    }

    /// The statement used longest ago, if one more would be more than `limit`.
    pub(super) fn surplus(&self, limit: usize) -> Option<Key> {
        if self.have.len() < limit {
            return None;
        }
        let (key, used) = self.have.iter().min_by_key(|(_, used)| **used)?;
        (*used != self.batch).then_some(*key)
    }

    pub(super) fn close(&mut self, key: Key) {
        let used = self.have.remove(&key).unwrap_or_default();
        self.note(Change::ClosedOnServer { key, used });
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

    /// SQL that drops what is there under names of a client's; `None` if nothing is, or no SQL can name it.
    pub(crate) fn drop_strays(&mut self) -> Option<String> {
        let mut sql = String::new();
        self.strays.retain(|name| match std::str::from_utf8(name) {
            Ok(name) => {
                sql += &format!("DEALLOCATE \"{}\";", name.replace('"', "\"\""));
                false
            }
            Err(_) => true,
        });
        (!sql.is_empty()).then_some(sql)
    }

    /// The server has none any more.
    pub(crate) fn clear(&mut self) {
        self.have.clear();
        self.unnamed = None;
    }
}
