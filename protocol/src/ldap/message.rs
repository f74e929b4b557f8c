//! The messages.

use zeroize::Zeroizing;

use super::ber::{BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, nest, put, put_number};
use super::filter::Filter;

/// How far below the base a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The base itself.
    Base = 0,
    /// What is right below it.
    One = 1,
    /// It and all that is below.
    Subtree = 2,
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// 0 is success; see RFC 4511, 4.1.9.
    pub code: u32,
    /// What the server says about it, cut to 200 characters.
    pub text: String,
}

impl Outcome {
    pub(super) fn is_success(&self) -> bool {
        self.code == 0
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.code {
            1 => "operations error",
            2 => "protocol error",
            4 => "size limit exceeded",
            8 => "strong(er) authentication required",
            10 => "referral",
            13 => "confidentiality required",
            32 => "no such object",
            34 => "invalid DN syntax",
            48 => "inappropriate authentication",
            49 => "invalid credentials",
            50 => "insufficient access",
            51 => "busy",
            52 => "unavailable",
            53 => "unwilling to perform",
            _ => "",
        };
        match name {
            "" => write!(f, "result {}", self.code)?,
            name => f.write_str(name)?,
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({:?})", self.text) }
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Bound(Outcome),
    /// Something that the search has found: its name.
    Found(&'a [u8]),
    /// The search could go on elsewhere.
    Reference,
    SearchDone(Outcome),
    Extended(Outcome),
}

const BIND: u8 = 0x60;
const UNBIND: u8 = 0x42;
const SEARCH: u8 = 0x63;
const EXTENDED: u8 = 0x77;
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

fn message(id: u32, room: usize, body: impl FnOnce(&mut Vec<u8>)) -> Zeroizing<Vec<u8>> {
    // With room for all: a buffer that grows leaves copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(room + 64));
    nest(&mut out, SEQUENCE, |out| {
        put_number(out, INTEGER, id);
        body(out);
    });
    out
}

pub(super) fn bind(id: u32, name: &[u8], password: &str) -> Zeroizing<Vec<u8>> {
    message(id, name.len() + password.len(), |out| {
        nest(out, BIND, |out| {
            put_number(out, INTEGER, 3);
            put(out, OCTETS, name);
            put(out, 0x80, password.as_bytes());
        });
    })
}

/// Asks for the names of at most two matches: a second one is as bad as a hundred.
pub(super) fn search(id: u32, base: &str, scope: Scope, filter: &Filter, user: &str) -> Zeroizing<Vec<u8>> {
    message(id, 1024, |out| {
        nest(out, SEARCH, |out| {
            put(out, OCTETS, base.as_bytes());
            put_number(out, ENUMERATED, scope as u32);
            put_number(out, ENUMERATED, 0); // aliases stay what they are
            put_number(out, INTEGER, 2);
            put_number(out, INTEGER, 0);
            put(out, BOOLEAN, &[0]);
            filter.encode(user, out);
            nest(out, SEQUENCE, |out| put(out, OCTETS, b"1.1")); // no attributes
        });
    })
}

pub(super) fn start_tls(id: u32) -> Zeroizing<Vec<u8>> {
    message(id, START_TLS.len(), |out| nest(out, EXTENDED, |out| put(out, 0x80, START_TLS)))
}

pub(super) fn unbind(id: u32) -> Zeroizing<Vec<u8>> {
    message(id, 0, |out| put(out, UNBIND, &[]))
}

/// Reads one message: its number and what it says.
pub(super) fn read(frame: &[u8]) -> Result<(u32, Reply<'_>), Malformed> {
    let mut outer = Reader(frame);
    let mut message = Reader(outer.expect(SEQUENCE)?);
    if !outer.is_empty() {
        return Err(Malformed);
    }
    let id = message.number(INTEGER)?;
    let (tag, body) = message.next()?;
    let reply = match tag {
        0x61 => Reply::Bound(outcome(body)?),
        0x64 => Reply::Found(Reader(body).expect(OCTETS)?),
        0x65 => Reply::SearchDone(outcome(body)?),
        0x73 => Reply::Reference,
        0x78 => Reply::Extended(outcome(body)?),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

fn outcome(body: &[u8]) -> Result<Outcome, Malformed> {
    let mut fields = Reader(body);
    let code = fields.number(ENUMERATED)?;
    fields.expect(OCTETS)?;
    let text = fields.expect(OCTETS)?;
    let text = String::from_utf8_lossy(text).chars().take(200).collect();
    Ok(Outcome { code, text })
}
