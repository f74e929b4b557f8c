//! Which settings a text assigns, with their values.

use crate::Name;
use crate::lexer::{Kind, Lexer};
use crate::rules::dotted;
use crate::words::pack;

/// What one statement does to settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment<'a> {
    /// `SET` and `RESET` of one.
    One {
        /// The setting, its parts joined by dots.
        name: Name<'a>,
        /// As written, without quotes; `None`: its default.
        value: Option<Name<'a>>,
        /// Until the transaction ends.
        local: bool,
    },
    /// `RESET ALL` and `DISCARD ALL`.
    All,
}

/// The assignments of a text in its own statements, in their order; not those by functions. One value each: of a list
/// the first. Special forms (`SET TIME ZONE`, `SET ROLE`) are not among them, nor are values that depend on how the
/// server reads strings.
pub fn assignments(text: &[u8]) -> Assignments<'_> {
    // Tokens have places of 32 bits; no message is longer.
    let text = if u32::try_from(text.len()).is_ok() { text } else { &[] };
    Assignments { lexer: Lexer::new(text), begins: true }
}

/// See [`assignments`].
#[derive(Debug)]
pub struct Assignments<'a> {
    lexer: Lexer<'a>,
    /// A statement begins here.
    begins: bool,
}

impl<'a> Iterator for Assignments<'a> {
    type Item = Assignment<'a>;

    fn next(&mut self) -> Option<Assignment<'a>> {
        loop {
            let token = self.lexer.next();
            match token.kind {
                Kind::End | Kind::Bad => return None,
                _ if std::mem::replace(&mut self.begins, token.kind == Kind::Semicolon) => {}
                _ => continue,
            }
            let found = match self.lexer.packed(token) {
                SET => self.set(),
                RESET => self.reset(),
                DISCARD => (self.lexer.packed(self.lexer.peek()) == ALL).then_some(Assignment::All),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

impl<'a> Assignments<'a> {
    fn set(&mut self) -> Option<Assignment<'a>> {
        let mut lexer = self.lexer;
        let scope = self.lexer.packed(lexer.peek());
        if scope == LOCAL || scope == SESSION {
            lexer.next();
        }
        let token = lexer.next();
        if !token.is_name() {
            return None;
        }
        let name = dotted(&mut lexer, token);
        let by = lexer.next();
        if !(self.lexer.packed(by) == TO || by.kind == Kind::Operator && lexer.bytes(by) == b"=") {
            return None;
        }
        let token = lexer.next();
        let value = match token.kind {
            Kind::Word if self.lexer.packed(token) == DEFAULT => None,
            Kind::Word | Kind::Quoted => Some(lexer.name(token)),
            Kind::Number => Some(lexer.bytes(token).into()),
            Kind::Text => Some(lexer.value(token)?),
            _ => return None,
        };
        self.lexer = lexer;
        Some(Assignment::One { name, value, local: scope == LOCAL })
    }

    fn reset(&mut self) -> Option<Assignment<'a>> {
        let token = self.lexer.peek();
        if self.lexer.packed(token) == ALL {
            return Some(Assignment::All);
        }
        token.is_name().then(|| {
            self.lexer.next();
            let name = dotted(&mut self.lexer, token);
            Assignment::One { name, value: None, local: false }
        })
    }
}

const SET: u128 = pack(b"set");
const RESET: u128 = pack(b"reset");
const DISCARD: u128 = pack(b"discard");
const ALL: u128 = pack(b"all");
const LOCAL: u128 = pack(b"local");
const SESSION: u128 = pack(b"session");
const TO: u128 = pack(b"to");
const DEFAULT: u128 = pack(b"default");

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let text_of = |name: &Name<'_>| String::from_utf8_lossy(name).into_owned();
        let shown = |assignment| match assignment {
            Assignment::All => "all".into(),
            Assignment::One { name, value, local } => {
                let value = value.as_ref().map_or("default".into(), text_of);
                format!("{}{}={value}", if local { "local " } else { "" }, text_of(&name))
            }
        };
        assignments(text.as_bytes()).map(shown).collect()
    }

    #[test]
    fn every_form() {
        assert_eq!(all("set a.b = '800ms'"), ["a.b=800ms"]);
        assert_eq!(all("SET SESSION a.B TO x;"), ["a.b=x"]);
        assert_eq!(all("/* c */ set local \"A\".b to 5; select 1"), ["local A.b=5"]);
        assert_eq!(all("begin;set a.b to default ; set c = 'it''s'"), ["a.b=default", "c=it's"]);
        assert_eq!(all("reset a.b; reset all; discard all"), ["a.b=default", "all", "all"]);
    }

    #[test]
    fn what_assigns_nothing() {
        for text in [
            "",
            "select 1",
            "update t set a.b = 1",
            "set time zone 'UTC'",
            "set local",
            "set a.b = e'x'",
            "set a.b = 'x\\'",
            "set transaction read only",
            "discard plans",
            "reset 5",
            "set a.b = 'open",
        ] {
            assert!(all(text).is_empty(), "{text}");
        }
    }
}
