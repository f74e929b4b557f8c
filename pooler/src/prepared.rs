//! Prepared statements of clients that change servers (pure).
//!
//! A client's names are its own; on a server every distinct text has one name of the pooler's, shared by all clients
//! whose settings give the text the same meaning. A statement that a server does not have is parsed there in front of
//! the message that needs it. What a server answers decides: each message that changes statements leaves a
//! [`Change`], which its reply confirms and an error takes back.

mod client;
mod server;
mod text;

pub(crate) use client::ClientStatements;
pub(crate) use server::ServerStatements;
pub(crate) use text::{Texts, query_of};

use protocol::frame::{HEADER_LEN, put};
use protocol::session::{Invented, Origin, ServerMachine};

use client::Known;
use server::{Change, Key};

/// How much of a message's body must be there to find its names in it, and the most that a statement may take to be
/// kept. A longer `Parse` passes as it is.
pub(crate) const LOOKED_AT: u32 = 64 << 10;

/// What becomes of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to the server as it is, behind what was written.
    Forward,
    /// What was written stands for it, if anything.
    Replaced,
    /// Not before the server has answered what it was sent.
    Wait,
}

/// One message's view of both sides.
pub(crate) struct Exchange<'a> {
    pub(crate) client: &'a mut ClientStatements,
    pub(crate) server: &'a mut ServerStatements,
    pub(crate) machine: &'a mut ServerMachine,
    /// Statements parsed under other settings may mean something else.
    pub(crate) meaning: u64,
    /// Most statements a server keeps.
    pub(crate) limit: usize,
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
    /// `Parse`, `Bind`, `Describe` or `Close` came from the client: all of it, or its beginning.
    pub(crate) fn on_message(&mut self, tag: u8, bytes: &[u8], complete: bool, texts: &Texts) -> Verdict {
        let body = &bytes[HEADER_LEN..];
        if self.machine.skips_until_sync() {
            return Verdict::Forward; // the server ignores it
        }
        let verdict = match tag {
            b'P' => self.on_parse(body, complete, texts),
            b'B' => self.on_bind(bytes, complete),
            b'D' => self.on_describe(body),
            _ => self.on_close(body),
        };
        // Malformed: the server will say so.
        verdict.unwrap_or_else(|| {
            if matches!(tag, b'P' | b'C') { self.pass(Change::None) } else { Verdict::Forward }
        })
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
            self.server.unnamed = Some(self.client.parse_unnamed(kept));
            return Some(self.pass(Change::Unnamed));
        }
        if !complete {
            return Some(self.pass(Change::None));
        }
        if self.server.is_unsettled(name) {
            return Some(Verdict::Wait);
        }
        self.counted.client_parses += 1;
        if self.client.get(name).is_some() {
            // The server has no statement of this name; with one it refuses the client's in its own words.
            if self.server.add_stray(name) {
                self.send(b'P', Origin::InFront, |out| parse_body(out, name, b"\0\0\0"));
            }
            return Some(self.pass(Change::None));
        }
        let statement = texts.intern(text);
        let key = Key { statement: statement.id, meaning: self.meaning };
        let known = Known { statement, meaning: self.meaning };
        if !self.server.touch(key) {
            self.make_room();
        } else if self.machine.is_sure_of_status() {
            self.client.insert(name, known);
            self.server.note(Change::Named { name: name.into() });
            self.machine.on_invented(Invented::Parse);
            return Some(Verdict::Replaced);
        } else {
            self.close_on_server(key); // whether it may be parsed now is the server's to say
        }
        self.client.insert(name, known);
        self.server.insert(key);
        self.counted.server_parses += 1;
        self.server.note(Change::NamedOnServer { name: name.into(), key });
        self.send(b'P', Origin::Client, |out| parse_body(out, key.name().as_bytes(), text));
        Some(Verdict::Replaced)
    }

    fn on_bind(&mut self, bytes: &[u8], complete: bool) -> Option<Verdict> {
        let (portal, rest) = split_name(&bytes[HEADER_LEN..])?;
        let (name, _) = split_name(rest)?;
        let key = match self.bring(name)? {
            Brought::Rename(key) => key,
            Brought::AsIs => return Some(Verdict::Forward),
            Brought::Wait => return Some(Verdict::Wait),
        };
        self.counted.binds += 1;
        let new = key.name();
        self.machine.on_sent(b'B', Origin::Client, complete);
        let length = u32::from_be_bytes(*bytes[1..].first_chunk()?);
        let length = length - name.len() as u32 + new.len() as u32; // both are short
        self.out.push(b'B');
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(portal);
        self.out.push(0);
        self.out.extend_from_slice(new.as_bytes());
        self.out.extend_from_slice(&rest[name.len()..]);
        Some(Verdict::Replaced)
    }

    fn on_describe(&mut self, body: &[u8]) -> Option<Verdict> {
        let (kind, rest) = body.split_first()?;
        let (name, _) = split_name(rest)?;
        if *kind != b'S' {
            return Some(Verdict::Forward);
        }
        match self.bring(name)? {
            Brought::Rename(key) => {
                self.send(b'D', Origin::Client, |out| statement_body(out, key.name().as_bytes()));
                Some(Verdict::Replaced)
            }
            Brought::AsIs => Some(Verdict::Forward),
            Brought::Wait => Some(Verdict::Wait),
        }
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
        if self.server.is_unsettled(name) {
            return Some(Verdict::Wait);
        }
        let Some(known) = self.client.remove(name) else { return Some(self.pass(Change::None)) };
        self.server.note(Change::Closed { name: name.into(), known });
        self.machine.on_invented(Invented::Close);
        Some(Verdict::Replaced)
    }

    /// Sees to it that the server has the statement that the client calls `name`.
    fn bring(&mut self, name: &[u8]) -> Option<Brought> {
        if name.is_empty() {
            self.bring_unnamed();
            return Some(Brought::AsIs);
        }
        if self.server.is_unsettled(name) {
            return Some(Brought::Wait);
        }
        let Some(known) = self.client.get_mut(name) else { return Some(Brought::AsIs) };
        let parsed = Key { statement: known.statement.id, meaning: known.meaning };
        if self.server.touch(parsed) {
            return Some(Brought::Rename(parsed));
        }
        // Parsed now, it means what the settings of this moment make of it.
        known.meaning = self.meaning;
        let statement = known.statement.clone();
        let key = Key { meaning: self.meaning, ..parsed };
        if !self.server.touch(key) {
            self.make_room();
            self.server.insert(key);
            self.counted.server_parses += 1;
            self.server.note(Change::OnServer { key });
            self.send(b'P', Origin::InFront, |out| parse_body(out, key.name().as_bytes(), &statement.text));
        }
        Some(Brought::Rename(key))
    }

    /// The unnamed statement on the server must be this client's, or none.
    fn bring_unnamed(&mut self) {
        match self.client.unnamed() {
            Some((serial, _)) if self.server.unnamed == Some(serial) => {}
            Some((serial, text)) if !text.is_empty() => {
                self.server.unnamed = Some(serial);
                self.server.note(Change::Unnamed);
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

    fn close_on_server(&mut self, key: Key) {
        self.server.close(key);
        self.send(b'C', Origin::InFront, |out| statement_body(out, key.name().as_bytes()));
    }

    fn send(&mut self, tag: u8, origin: Origin, body: impl FnOnce(&mut Vec<u8>)) {
        self.machine.on_sent(tag, origin, true);
        put(self.out, tag, body);
    }
}

/// How the server knows a client's statement.
enum Brought {
    Rename(Key),
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
