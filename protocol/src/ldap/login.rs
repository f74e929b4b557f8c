//! From a name and a password to a verdict.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::ber::Malformed;
use super::filter::Filter;
use super::message::{self, Outcome, Reply, Scope};

/// More references than this in one search are not read.
const MOST_REPLIES: usize = 64;

/// Who looks for a user's name in the directory, and how.
#[derive(Clone)]
pub struct Search {
    /// Who asks; empty: nobody in particular.
    pub bind_name: String,
    /// Its password.
    pub bind_password: Zeroizing<String>,
    /// Where the search begins.
    pub base: String,
    /// How far it goes.
    pub scope: Scope,
    /// What it looks for.
    pub filter: Arc<Filter>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this and read a reply.
    Send(Zeroizing<Vec<u8>>),
    /// Wait for a further reply.
    Wait,
    /// Negotiate TLS, then ask [`Login::begin`] what to send.
    StartTls,
    /// The password is the user's.
    Accepted,
}

/// Why there is no yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not with this password, or not this user.
    Refused(Outcome),
    /// The search has found nobody.
    NobodyFound,
    /// The search has found several.
    SeveralFound,
    /// The server can't be used as it is configured.
    Unusable(&'static str, Outcome),
    /// It can't answer now, or has ended the connection; another one may.
    Unavailable(Outcome),
    /// It has not answered what was asked.
    Malformed,
}

impl Failure {
    /// Whether another server is worth a try.
    pub fn is_of_this_server(&self) -> bool {
        matches!(self, Failure::Unavailable(_) | Failure::Malformed)
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Failure {
        Failure::Malformed
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(outcome) => write!(f, "{outcome}"),
            Failure::NobodyFound => f.write_str("the search has found no entry"),
            Failure::SeveralFound => f.write_str("the search has found more than one entry"),
            Failure::Unusable(what, outcome) => write!(f, "{what}: {outcome}"),
            Failure::Unavailable(outcome) => write!(f, "the server can't answer: {outcome}"),
            Failure::Malformed => write!(f, "{Malformed}"),
        }
    }
}

/// One attempt to log in at one server.
///
/// ```text
///   begin ──▶ StartTls ──(TLS)── begin ──▶ SearchBind ──▶ Searching ──▶ UserBind ──▶ Accepted
///      │                           │                                      ▲
///      └───────────────────────────┴────────── the name is known ─────────┘
/// ```
pub struct Login {
    state: State,
    /// Number of the request that is out.
    id: u32,
    user: String,
    password: Zeroizing<String>,
}

enum State {
    /// Nothing is sent yet.
    New {
        start_tls: bool,
        name: Name,
    },
    StartTls(Name),
    SearchBind(Search),
    Searching {
        found: Option<Vec<u8>>,
        replies: usize,
    },
    UserBind,
    Over,
}

/// How the user is known to the directory.
enum Name {
    Known(String),
    Searched(Search),
}

impl Login {
    /// `name` is the user's name in the directory, or how to find it. `None` for a password that must not be sent: a
    /// server takes an empty one for somebody who does not want to prove anything, and says yes.
    pub fn new(
        start_tls: bool,
        name: Result<String, Search>,
        user: &str,
        password: Zeroizing<String>,
    ) -> Option<Login> {
        let name = match name {
            Ok(name) if name.is_empty() => return None,
            Ok(name) => Name::Known(name),
            Err(search) => Name::Searched(search),
        };
        let state = State::New { start_tls, name };
        (!password.is_empty()).then(|| Login { state, id: 0, user: user.to_owned(), password })
    }

    /// The first step, and the first after the start of TLS.
    pub fn begin(&mut self) -> Step {
        self.id += 1;
        match std::mem::replace(&mut self.state, State::Over) {
            State::New { start_tls: true, name } => {
                self.state = State::StartTls(name);
                Step::Send(message::start_tls(self.id))
            }
            State::New { name, .. } => self.identify(name),
            other => {
                self.state = other;
                Step::Wait
            }
        }
    }

    fn identify(&mut self, name: Name) -> Step {
        match name {
            Name::Known(name) => self.bind_user(name.as_bytes()),
            Name::Searched(search) => {
                let bind = message::bind(self.id, search.bind_name.as_bytes(), &search.bind_password);
                self.state = State::SearchBind(search);
                Step::Send(bind)
            }
        }
    }

    fn bind_user(&mut self, name: &[u8]) -> Step {
        self.state = State::UserBind;
        Step::Send(message::bind(self.id, name, &self.password))
    }

    /// Takes a whole message of the server's.
    ///
    /// # Errors
    /// The attempt is over.
    pub fn receive(&mut self, frame: &[u8]) -> Result<Step, Failure> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let (id, reply) = message::read(frame)?;
        if let (0, Reply::Extended(outcome)) = (id, &reply) {
            return Err(Failure::Unavailable(outcome.clone())); // its notice of disconnection
        }
        if id != self.id {
            return Err(Failure::Malformed);
        }
        match (state, reply) {
            (State::StartTls(name), Reply::Extended(outcome)) => {
                succeeded("it does not start TLS", outcome)?;
                self.state = State::New { start_tls: false, name };
                Ok(Step::StartTls)
            }
            (State::SearchBind(search), Reply::Bound(outcome)) => {
                succeeded("it refuses ldapbinddn", outcome)?;
                self.id += 1;
                let Search { base, scope, filter, .. } = &search;
                let request = message::search(self.id, base, *scope, filter, &self.user);
                self.state = State::Searching { found: None, replies: 0 };
                Ok(Step::Send(request))
            }
            (State::Searching { found, replies }, reply) => self.on_search(found, replies, reply),
            (State::UserBind, Reply::Bound(outcome)) if outcome.is_success() => Ok(Step::Accepted),
            (State::UserBind, Reply::Bound(outcome)) => Err(if is_passing(&outcome) {
                Failure::Unavailable(outcome)
            } else {
                Failure::Refused(outcome)
            }),
            _ => Err(Failure::Malformed),
        }
    }

    fn on_search(
        &mut self,
        found: Option<Vec<u8>>,
        replies: usize,
        reply: Reply<'_>,
    ) -> Result<Step, Failure> {
        let found = match (reply, found) {
            (Reply::Found(_), Some(_)) => return Err(Failure::SeveralFound),
            // A bind without a name succeeds without a proof.
            (Reply::Found([]), None) => return Err(Failure::Malformed),
            (Reply::Found(name), None) => Some(name.to_vec()),
            (Reply::Reference, found) => found,
            (Reply::SearchDone(outcome), found) => {
                succeeded("the search failed", outcome)?;
                let name = found.ok_or(Failure::NobodyFound)?;
                self.id += 1;
                return Ok(self.bind_user(&name));
            }
            _ => return Err(Failure::Malformed),
        };
        if replies == MOST_REPLIES {
            return Err(Failure::Malformed);
        }
        self.state = State::Searching { found, replies: replies + 1 };
        Ok(Step::Wait)
    }

    /// What to send before the connection is closed.
    pub fn end(&self) -> Zeroizing<Vec<u8>> {
        message::unbind(self.id + 1)
    }
}

fn succeeded(what: &'static str, outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        outcome if outcome.is_success() => Ok(()),
        outcome if is_passing(&outcome) => Err(Failure::Unavailable(outcome)),
        outcome => Err(Failure::Unusable(what, outcome)),
    }
}

/// Busy, unavailable.
fn is_passing(outcome: &Outcome) -> bool {
    matches!(outcome.code, 51 | 52)
}

/// The name for a simple bind; `None` if no such user can be meant. Behind a prefix that ends in `=` the user's name is
/// a value of a distinguished name and is escaped (RFC 4514). Elsewhere (`DOMAIN\user`, `user@domain`) there is no
/// escaping, so a name with characters that mean something in a distinguished name is none.
pub fn bind_name(prefix: &str, user: &str, suffix: &str) -> Option<String> {
    const SPECIAL: &[char] = &[',', '+', '"', '\\', '<', '>', ';', '='];
    if prefix.trim_end().ends_with('=') {
        return Some(format!("{prefix}{}{suffix}", escape_value(user)));
    }
    let plain = !user.contains(SPECIAL) && !user.chars().any(char::is_control);
    plain.then(|| format!("{prefix}{user}{suffix}"))
}

fn escape_value(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    for (i, c) in value.char_indices() {
        let last = i + c.len_utf8() == value.len();
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '\0'..='\x1f' => {
                out.push_str(&format!("\\{:02x}", u32::from(c)));
            }
            '#' | ' ' if i == 0 => out.push_str(&format!("\\{:02x}", u32::from(c))),
            ' ' if last => out.push_str("\\20"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
