use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::HashMap;
use sql::Effects;

use super::description::Description;
use super::key::Key;
use super::split_name;
use super::text::{Statement, Texts, query_of};
use crate::handover::Prepared;
use crate::routing::Nature;

/// A statement under a client's name.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) statement: Arc<Statement>,
    /// The settings under which it was parsed.
    pub(crate) meaning: u64,
    /// Nothing that was parsed on a server before this moment answers for it.
    pub(super) parsed: u64,
    /// What the client was told of it, and so relies on.
    pub(super) told: Description,
}

impl Known {
    /// How a server has it.
    pub(super) fn key(&self) -> Key {
        Key { statement: self.statement.id, meaning: self.meaning }
    }
}

/// The statements that one client has prepared, as it knows them.
#[derive(Debug, Default)]
pub(crate) struct ClientStatements {
    named: HashMap<Box<[u8]>, Known>,
    /// What the named ones take, by [`cost`], ...
    bytes: usize,
    /// ... and how much of that are their texts.
    texts: usize,
    unnamed: Option<(u64, Box<[u8]>)>,
}

/// What some names meant to a client, the unnamed one included where it matters.
#[derive(Debug, Default)]
pub(crate) struct Names {
    named: Vec<(Box<[u8]>, Option<Known>)>,
    unnamed: Option<(u64, Box<[u8]>)>,
}

/// What a statement under a name takes, if no other client has its text.
fn cost(name: &[u8], statement: &Statement) -> usize {
    const AROUND: usize = 200;
    name.len() + statement.text.len() + AROUND
}

/// Serial numbers of unnamed statements, unique in the process.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl ClientStatements {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Known> {
        self.named.get(name)
    }

    /// Query and effects of the statement that a `Bind` with this body names, and whether it only reads, if it is one
    /// of these.
    pub(crate) fn bound(&self, bind: &[u8]) -> Option<(&[u8], Effects, bool)> {
        let (_, rest) = split_name(bind)?;
        let (name, _) = split_name(rest)?;
        if name.is_empty() {
            let (_, text) = self.unnamed.as_ref()?;
            let query = query_of(text);
            let scan = sql::scan(query);
            return Some((query, scan.effects, scan.read_only));
        }
        let statement = &self.named.get(name)?.statement;
        Some((statement.query(), statement.effects, statement.read_only))
    }

    /// Which host may run what a `Bind` or `Describe` names, with its text.
    pub(crate) fn nature(&self, name: &[u8]) -> Option<(Nature, &[u8])> {
        if name.is_empty() {
            let query = query_of(&self.unnamed.as_ref()?.1);
            return Some((sql::scan(query).access.into(), query));
        }
        let statement = &self.named.get(name)?.statement;
        Some((statement.nature, statement.query()))
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Known> {
        self.named.get_mut(name)
    }

    /// Nothing that was parsed on a server before this moment answers for any of them.
    pub(crate) fn parse_anew(&mut self, moment: u64) {
        self.named.values_mut().for_each(|known| known.parsed = moment);
    }

    pub(super) fn insert(&mut self, name: &[u8], known: Known) {
        self.bytes += cost(name, &known.statement);
        self.texts += known.statement.text.len();
        if let Some(old) = self.named.insert(name.into(), known) {
            self.forget(name, &old);
        }
    }

    fn forget(&mut self, name: &[u8], known: &Known) {
        self.bytes -= cost(name, &known.statement);
        self.texts -= known.statement.text.len();
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Known> {
        let known = self.named.remove(name)?;
        self.forget(name, &known);
        Some(known)
    }

    /// What the names mean now that a request's messages give a meaning, or take theirs.
    pub(crate) fn names<'a>(&self, request: impl Iterator<Item = (u8, &'a [u8])>) -> Names {
        let mut names = Names::default();
        for (tag, body) in request {
            match (tag, body) {
                (b'C', [b'S', 0]) => names.unnamed.clone_from(&self.unnamed),
                (b'P', name) | (b'C', [b'S', name @ ..]) => {
                    if let Some((name, _)) = split_name(name).filter(|(name, _)| !name.is_empty()) {
                        names.named.push((name.into(), self.named.get(name).cloned()));
                    }
                }
                _ => {}
            }
        }
        names
    }

    /// They mean that again: the request comes once more.
    pub(crate) fn restore(&mut self, names: Names) {
        for (name, before) in names.named {
            match before {
                Some(known) => self.insert(&name, known),
                None => drop(self.remove(&name)),
            }
        }
        self.unnamed = names.unnamed.or_else(|| self.unnamed.take());
    }

    /// All of them, to be taken along to another process: the named ones with what the client was told of them, and the
    /// unnamed one.
    pub(crate) fn pack(&self) -> (Vec<Prepared>, Option<Vec<u8>>) {
        let named = self.named.iter().map(|(name, known)| Prepared {
            name: name.to_vec(),
            text: known.statement.text.to_vec(),
            told: known.told.hashes(),
        });
        (named.collect(), self.unnamed.as_ref().map(|(_, text)| text.to_vec()))
    }

    /// What was taken along. No server has parsed any of it for this client: `moment` is now, `meaning` that of the settings.
    pub(crate) fn unpack(
        named: Vec<Prepared>,
        unnamed: Option<Vec<u8>>,
        texts: &Texts,
        moment: u64,
        meaning: u64,
    ) -> ClientStatements {
        let mut all = ClientStatements::default();
        for Prepared { name, text, told } in named {
            let (statement, told) = (texts.intern(&text), Description::from_hashes(told));
            all.insert(&name, Known { statement, meaning, parsed: moment, told });
        }
        if let Some(text) = unnamed {
            all.parse_unnamed(&text);
        }
        all
    }

    /// What they take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.unnamed.as_ref().map_or(0, |(_, text)| text.len())
    }

    /// The same without the texts of named ones, which others may have as well.
    pub(crate) fn own_bytes(&self) -> usize {
        self.bytes() - self.texts
    }

    /// The unnamed statement has this text from now on; empty: one too long to be kept. Returns its serial number.
    pub(super) fn parse_unnamed(&mut self, text: &[u8]) -> u64 {
        let serial = NEXT_SERIAL.fetch_add(1, Relaxed);
        match &mut self.unnamed {
            // A statement that is sent again and again keeps its memory.
            Some((old, kept)) if kept.len() == text.len() => {
                *old = serial;
                kept.copy_from_slice(text);
            }
            unnamed => *unnamed = Some((serial, text.into())),
        }
        serial
    }

    pub(super) fn unnamed(&self) -> Option<(u64, &[u8])> {
        self.unnamed.as_ref().map(|(serial, text)| (*serial, &**text))
    }

    /// There is no unnamed statement any more: closed, failed, or ended by a simple query.
    pub(crate) fn close_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// How many it has by name.
    pub(crate) fn len(&self) -> usize {
        self.named.len()
    }

    /// Forgets all: `DEALLOCATE ALL`, which leaves only the unnamed statement.
    pub(crate) fn clear(&mut self) {
        self.named = HashMap::default();
        (self.bytes, self.texts) = (0, 0);
    }
}
