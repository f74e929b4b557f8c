//! Prepared statements of clients that change servers (pure).
//!
//! A client's names are its own; on a server every distinct text has one name of the pooler's, shared by all clients
//! whose settings give the text the same meaning. A statement that a server does not have is parsed there in front of
//! the message that needs it. What a server answers decides: each message that changes statements leaves a
//! [`Change`], which its reply confirms and an error takes back.

mod again;
mod client;
mod description;
mod key;
mod moments;
mod server;
mod text;

pub(crate) use again::{Fault, plan_changed};
pub(crate) use client::{ClientStatements, Names};
pub(crate) use description::forget_what_is_told;
pub(crate) use moments::Moments;
pub(crate) use server::ServerStatements;
pub(crate) use text::{Texts, begin_ids_at, next_id, query_of, simple_query};

use protocol::frame::{HEADER_LEN, put};
use protocol::message::{self, TxStatus};
use protocol::session::{Invented, Origin, ServerMachine};
use sql::Use;

use again::CHANGED;
use client::Known;
use description::Description;
use key::Key;
use server::{Agreement, Change};
use text::Statement;

/// How much of a message's body (bytes) must be there to find its names in it.
pub(crate) const LOOKED_AT: u32 = 64 << 10;

/// The most (bytes) that a statement may take to be kept, and a text to be understood: parameters without end are well
/// below. A longer `Parse` passes as it is, and if it has a name its client keeps the server.
pub(crate) const KEPT: u32 = 512 << 10;

/// The longest name (bytes) of a statement: it is kept for each message that is not answered yet. PostgreSQL looks at 63.
const LONGEST_NAME: usize = 8 << 10;

/// What becomes of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to the server as it is, behind what was written.
    Forward,
    /// What was written stands for it, if anything.
    Replaced,
    /// Not before the server has answered what it was sent.
    Wait,
    /// The client has prepared too much.
    Full,
}

/// One message's view of both sides.
pub(crate) struct Exchange<'a> {
    pub(crate) client: &'a mut ClientStatements,
    pub(crate) server: &'a mut ServerStatements,
    pub(crate) machine: &'a mut ServerMachine,
    /// Statements parsed under other settings may mean something else.
    pub(crate) meaning: u64,
    /// The session may have statements that SQL has prepared.
    pub(crate) by_sql: bool,
    /// The moment at hand: what was parsed earlier may be stale.
    pub(crate) moment: u64,
    /// Where in what is being read the message stands, and what follows it there.
    pub(crate) at: usize,
    pub(crate) behind: &'a [u8],
    /// Most statements a server keeps.
    pub(crate) limit: usize,
    /// What the client's statements may take, in bytes.
    pub(crate) most: usize,
    /// What is to be sent in front of the message, or for it.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) counted: Counted,
}

/// Messages about named statements, for the statistics.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) client_parses: u64,
    pub(crate) server_parses: u64,
    pub(crate) binds: u64,
}

impl Exchange<'_> {
    /// `Parse`, `Bind`, `Describe` or `Close` came from the client: all of it, or its beginning. `names`: what is bound
    /// may name other statements.
    pub(crate) fn on_message(
        &mut self,
        tag: u8,
        bytes: &[u8],
        complete: bool,
        names: bool,
        texts: &Texts,
    ) -> Verdict {
        let body = &bytes[HEADER_LEN..];
        if self.machine.skips_until_sync() {
            return Verdict::Forward; // the server ignores it
        }
        if self.server.is_dropping(self.machine) {
            if !self.machine.awaits_ready() && self.server.must_flush() {
                put(self.out, b'H', |_| {});
            }
            return Verdict::Wait;
        }
        if names && let Some((text, ..)) = self.client.bound(body) {
            let text = text.to_vec();
            if self.on_names(&text, false) == Verdict::Wait {
                return Verdict::Wait;
            }
        }
        let verdict = match tag {
            b'P' => self.on_parse(body, complete, texts),
            b'B' => self.on_bind(bytes, complete),
            b'D' => self.on_describe(bytes),
            _ => self.on_close(body),
        };
        // Malformed: the server will say so.
        verdict.unwrap_or_else(|| {
            if matches!(tag, b'P' | b'C') { self.pass(Change::None) } else { Verdict::Forward }
        })
    }

    /// SQL knows nothing of the pooler's names: a statement of the client's that it may name the server is given under
    /// the client's name, until the transaction is over. `query`: the text is a simple query.
    pub(crate) fn on_names(&mut self, text: &[u8], query: bool) -> Verdict {
        if self.machine.awaits_ready() {
            return Verdict::Wait; // what the names stand for is not known
        }
        if self.machine.skips_until_sync() || query && self.machine.batch_is_open() {
            return Verdict::Forward;
        }
        let origin = if query { Origin::Pooler } else { Origin::InFront };
        for (verb, name) in sql::prepared_names(text) {
            if verb == Use::Deallocate {
                self.server.deallocate(&name);
            }
            if self.server.close_stray(&name) {
                self.send(b'C', origin, |out| statement_body(out, &name)); // it may be there for a Parse that has failed
            }
            let Some(known) = self.client.get(&name) else { continue };
            let statement = known.statement.clone();
            // An empty statement is always accepted, and enough where it is not executed.
            let text = if verb == Use::Execute { &*statement.text } else { EMPTY };
            self.make_stray(&name, text, origin);
        }
        if query && self.machine.batch_is_open() {
            self.machine.on_sent(b'S', Origin::Pooler, true);
            message::sync(self.out);
        }
        Verdict::Forward
    }

    fn make_stray(&mut self, name: &[u8], text: &[u8], origin: Origin) {
        if self.server.add_stray(name) {
            self.send(b'P', origin, |out| parse_body(out, name, text));
        }
    }

    fn close_stray(&mut self, name: &[u8]) {
        if self.server.close_stray(name) {
            self.send(b'C', Origin::InFront, |out| statement_body(out, name));
        }
    }

    /// A message that changes statements goes on as it is.
    fn pass(&mut self, change: Change) -> Verdict {
        self.server.note(change);
        Verdict::Forward
    }

    fn on_parse(&mut self, body: &[u8], complete: bool, texts: &Texts) -> Option<Verdict> {
        let (name, text) = split_name(body)?;
        if name.is_empty() {
            let kept = if complete { text } else { b"" };
            let serial = self.client.parse_unnamed(kept);
            self.server.unnamed = Some(serial);
            return Some(self.pass(Change::Unnamed { serial }));
        }
        if !complete {
            return Some(self.pass(Change::None));
        }
        let statement = texts.intern(text);
        let key = Key { statement: statement.id, meaning: self.meaning };
        if self.server.is_unsettled(name, &[key]) {
            return Some(Verdict::Wait);
        }
        if self.client.bytes() >= self.most || name.len() > LONGEST_NAME {
            return Some(Verdict::Full);
        }
        if self.client.get(name).is_some() {
            self.counted.client_parses += 1;
            // The server has no statement of this name; with one it refuses the client's in its own words.
            self.make_stray(name, EMPTY, Origin::InFront);
            return Some(self.pass(Change::None));
        }
        self.counted.client_parses += 1;
        if self.by_sql {
            self.make_stray(name, EMPTY, Origin::InFront); // refused if SQL has prepared one of this name
        }
        let (meaning, parsed) = (self.meaning, self.moment);
        let known = Known { statement, meaning, parsed, told: Description::default() };
        if self.server.touch(key, parsed) && self.machine.is_sure_of_status() {
            self.client.insert(name, known);
            self.server.note(Change::Named { name: name.into() });
            self.machine.on_invented(Invented::Parse);
            return Some(Verdict::Replaced);
        }
        self.make_way(key); // whether it may be parsed now is the server's to say
        self.client.insert(name, known);
        self.server.insert(key, parsed);
        self.counted.server_parses += 1;
        self.server.note(Change::NamedOnServer { name: name.into(), key });
        self.send(b'P', Origin::Client, |out| parse_body(out, &key.name(), text));
        Some(Verdict::Replaced)
    }

    fn on_bind(&mut self, bytes: &[u8], complete: bool) -> Option<Verdict> {
        let (portal, rest) = split_name(&bytes[HEADER_LEN..])?;
        let (name, _) = split_name(rest)?;
        let (key, told) = match self.bring(name)? {
            Brought::Rename { key, told } => (key, told),
            Brought::AsIs => return Some(Verdict::Forward),
            Brought::Wait => return Some(Verdict::Wait),
        };
        let renamed = key.name();
        let new = match self.agrees(name, key, told) {
            Agreement::Agrees => &*renamed,
            Agreement::Differs => CHANGED,
            Agreement::Asked | Agreement::Unknown => return Some(Verdict::Wait),
        };
        self.counted.binds += 1;
        if !self.server.has_told(key, told) {
            self.server.on_bound(portal, name);
        }
        self.begin();
        self.machine.on_sent(b'B', Origin::Client, complete);
        let length = u32::from_be_bytes(*bytes[1..].first_chunk()?);
        let length = length - name.len() as u32 + new.len() as u32; // both are short
        self.out.push(b'B');
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(portal);
        self.out.push(0);
        self.out.extend_from_slice(new);
        self.out.extend_from_slice(&rest[name.len()..]);
        Some(Verdict::Replaced)
    }

    fn on_describe(&mut self, bytes: &[u8]) -> Option<Verdict> {
        let (kind, rest) = bytes[HEADER_LEN..].split_first()?;
        let (name, _) = split_name(rest)?;
        if *kind != b'S' {
            let Some(bound) = self.server.take_bound(name) else { return Some(Verdict::Forward) };
            let Some(known) = self.client.get(&bound) else { return Some(Verdict::Forward) };
            let key = known.key();
            self.note_describe(bound, key, Origin::Client);
            self.out.extend_from_slice(bytes);
            return Some(Verdict::Replaced);
        }
        match self.bring(name)? {
            Brought::Rename { key, .. } => {
                self.begin();
                self.note_describe(name.into(), key, Origin::Client);
                put(self.out, b'D', |out| statement_body(out, &key.name()));
                Some(Verdict::Replaced)
            }
            Brought::AsIs => Some(Verdict::Forward),
            Brought::Wait => Some(Verdict::Wait),
        }
    }

    /// From here on the batch may be sent again, if it is the first message that asks for a statement.
    fn begin(&mut self) {
        if self.machine.batch_may_begin_again() {
            self.server.begin(self.at);
        }
    }

    fn note_describe(&mut self, name: Box<[u8]>, key: Key, origin: Origin) {
        self.machine.on_noted_describe(origin);
        self.server.note(Change::Described { name, key });
    }

    fn on_close(&mut self, body: &[u8]) -> Option<Verdict> {
        let (kind, rest) = body.split_first()?;
        let (name, _) = split_name(rest)?;
        if *kind != b'S' {
            return Some(self.pass(Change::None));
        }
        if name.is_empty() {
            self.client.close_unnamed();
            self.server.unnamed = None;
            return Some(self.pass(Change::UnnamedClosed));
        }
        if self.server.is_unsettled(name, &[]) {
            return Some(Verdict::Wait);
        }
        let Some(known) = self.client.remove(name) else { return Some(self.pass(Change::None)) };
        self.close_stray(name);
        let change = Change::Closed { name: name.into(), known };
        if !self.machine.may_invent() {
            return Some(self.pass(change)); // to the server, which answers for a name that it does not have
        }
        self.server.note(change);
        self.machine.on_invented(Invented::Close);
        Some(Verdict::Replaced)
    }

    /// Sees to it that the server has the statement that the client calls `name`.
    fn bring(&mut self, name: &[u8]) -> Option<Brought> {
        if name.is_empty() {
            self.bring_unnamed();
            return Some(Brought::AsIs);
        }
        if self.server.awaits_outcomes() {
            let now = |known: &Known| Key { meaning: self.meaning, ..known.key() };
            let keys = self.client.get(name).map(|known| [known.key(), now(known)]);
            if self.server.is_unsettled(name, keys.as_ref().map_or(&[], |keys| keys)) {
                return Some(Brought::Wait);
            }
        }
        if self.server.has_strays() && self.client.get(name).is_none() {
            self.close_stray(name); // which would answer for it
        }
        let Some(known) = self.client.get_mut(name) else { return Some(Brought::AsIs) };
        let told = known.told;
        if self.server.touch(known.key(), known.parsed) {
            return Some(Brought::Rename { key: known.key(), told });
        }
        // Parsed now, it means what the settings of this moment make of it.
        known.meaning = self.meaning;
        let (key, parsed) = (known.key(), known.parsed);
        if !self.server.touch(key, parsed) {
            let statement = known.statement.clone();
            self.make(key, &statement);
        }
        Some(Brought::Rename { key, told })
    }

    /// Whether a statement is what its client was told, as far as the client relies on that. If the server has to be
    /// asked, this asks it.
    fn agrees(&mut self, name: &[u8], key: Key, mut told: Description) -> Agreement {
        if matches!(self.behind, [b'D', _, _, _, _, b'P', ..]) {
            told.rows = 0; // it will be told again
        }
        if told == Description::default() || self.machine.status() == TxStatus::Failed {
            return Agreement::Agrees;
        }
        let agreement = self.server.agrees(key, told);
        if let (Agreement::Unknown, Some(known)) = (&agreement, self.client.get(name)) {
            let statement = known.statement.clone();
            self.make(key, &statement); // as it is now, for it might be stale
            self.server.ask(key);
            self.note_describe(Box::default(), key, Origin::InFront);
            put(self.out, b'D', |out| statement_body(out, &key.name()));
            put(self.out, b'H', |_| {});
        }
        agreement
    }

    /// The unnamed statement on the server must be this client's, or none.
    fn bring_unnamed(&mut self) {
        match self.client.unnamed() {
            Some((serial, _)) if self.server.unnamed == Some(serial) => {}
            Some((serial, text)) if !text.is_empty() => {
                self.server.unnamed = Some(serial);
                self.server.note(Change::Unnamed { serial });
                let text = text.to_vec();
                self.send(b'P', Origin::InFront, |out| parse_body(out, b"", &text));
            }
            _ if self.server.unnamed.is_some() => {
                self.server.unnamed = None;
                self.server.note(Change::UnnamedClosed);
                self.send(b'C', Origin::InFront, |out| statement_body(out, b""));
            }
            _ => {}
        }
    }

    /// Closes the statement that was used longest ago, if there are too many. Those that the batch at hand has used
    /// stay.
    fn make_room(&mut self) {
        while let Some(oldest) = self.server.surplus(self.limit) {
            self.close_on_server(oldest);
        }
    }

    /// Parses a statement on the server.
    fn make(&mut self, key: Key, statement: &Statement) {
        self.make_way(key);
        self.server.insert(key, self.moment);
        self.counted.server_parses += 1;
        self.server.note(Change::OnServer { key });
        self.send(b'P', Origin::InFront, |out| parse_body(out, &key.name(), &statement.text));
    }

    /// Closes what the server has of a statement that is parsed next.
    fn make_way(&mut self, key: Key) {
        match self.server.has(key) {
            true => self.close_on_server(key),
            false => self.make_room(),
        }
    }

    fn close_on_server(&mut self, key: Key) {
        self.server.close(key);
        self.send(b'C', Origin::InFront, |out| statement_body(out, &key.name()));
    }

    fn send(&mut self, tag: u8, origin: Origin, body: impl FnOnce(&mut Vec<u8>)) {
        self.machine.on_sent(tag, origin, true);
        put(self.out, tag, body);
    }
}

/// What follows the name in `Parse` of a statement that does nothing.
const EMPTY: &[u8] = b"\0\0\0";

/// How the server knows a client's statement.
enum Brought {
    /// `told`: what the client knows of it.
    Rename {
        key: Key,
        told: Description,
    },
    AsIs,
    Wait,
}

fn parse_body(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(text);
}

fn statement_body(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'S');
    out.extend_from_slice(name);
    out.push(0);
}

/// The string at the front, without its NUL, and what follows.
pub(crate) fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
