//! Search filters: RFC 4515's text with `$username` in it, to BER.
//!
//! The user's name is put in behind the parsing, as a value, so that no name can be read as a part of the filter.

use std::fmt;

use super::ber::{OCTETS, SEQUENCE, nest, put};

/// Stands for the user's name.
const USER: &[u8] = b"$username";

/// Filters within filters, at most.
const DEEPEST: usize = 16;

/// A filter with places for a user's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(Node);

/// Why a text is no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFilter(&'static str);

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadFilter {}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    /// And, or: their tag.
    Several(u8, Vec<Node>),
    Not(Box<Node>),
    /// Equal, at least, at most, about: their tag.
    Compare(u8, Vec<u8>, Value),
    Substrings(Vec<u8>, Vec<(u8, Value)>),
    Present(Vec<u8>),
    Extensible {
        rule: Vec<u8>,
        attribute: Vec<u8>,
        value: Value,
        names: bool,
    },
}

const AND: u8 = 0xa0;
const OR: u8 = 0xa1;
const NOT: u8 = 0xa2;
const EQUAL: u8 = 0xa3;
const SUBSTRINGS: u8 = 0xa4;
const AT_LEAST: u8 = 0xa5;
const AT_MOST: u8 = 0xa6;
const PRESENT: u8 = 0x87;
const ABOUT: u8 = 0xa8;
const EXTENSIBLE: u8 = 0xa9;

/// Literal bytes, and the user's name between each two of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Value(Vec<Vec<u8>>);

impl Value {
    fn of(&self, user: &str) -> Vec<u8> {
        self.0.join(user.as_bytes())
    }

    fn names_user(&self) -> bool {
        self.0.len() > 1
    }
}

impl Filter {
    /// Reads a filter. One that is a single comparison may stand without its parentheses.
    ///
    /// # Errors
    /// It is none, or it does not depend on the user's name: every user would be the same entry.
    pub fn parse(text: &str) -> Result<Filter, BadFilter> {
        let text = text.trim().as_bytes();
        let node = if text.starts_with(b"(") {
            let mut parser = Parser { rest: text };
            let node = parser.filter(0)?;
            parser.skip_blanks();
            if !parser.rest.is_empty() {
                return Err(BadFilter("there is something behind its last parenthesis"));
            }
            node
        } else {
            item(text)?
        };
        if node.names_user() { Ok(Filter(node)) } else { Err(BadFilter("$username does not occur in it")) }
    }

    /// Whoever has this value of an attribute.
    ///
    /// # Errors
    /// That is no name of an attribute.
    pub fn equals(attribute: &str) -> Result<Filter, BadFilter> {
        let attribute = described(attribute.as_bytes())?;
        Ok(Filter(Node::Compare(EQUAL, attribute, Value(vec![Vec::new(), Vec::new()]))))
    }

    pub(super) fn encode(&self, user: &str, out: &mut Vec<u8>) {
        self.0.encode(user, out);
    }
}

impl Node {
    fn names_user(&self) -> bool {
        match self {
            Node::Several(_, nodes) => nodes.iter().any(Node::names_user),
            Node::Not(node) => node.names_user(),
            Node::Compare(_, _, value) | Node::Extensible { value, .. } => value.names_user(),
            Node::Substrings(_, parts) => parts.iter().any(|(_, value)| value.names_user()),
            Node::Present(_) => false,
        }
    }

    fn encode(&self, user: &str, out: &mut Vec<u8>) {
        match self {
            Node::Several(tag, nodes) => {
                nest(out, *tag, |out| nodes.iter().for_each(|n| n.encode(user, out)))
            }
            Node::Not(node) => nest(out, NOT, |out| node.encode(user, out)),
            Node::Compare(tag, attribute, value) => nest(out, *tag, |out| {
                put(out, OCTETS, attribute);
                put(out, OCTETS, &value.of(user));
            }),
            Node::Substrings(attribute, parts) => nest(out, SUBSTRINGS, |out| {
                put(out, OCTETS, attribute);
                nest(out, SEQUENCE, |out| {
                    parts.iter().for_each(|(tag, value)| put(out, *tag, &value.of(user)))
                });
            }),
            Node::Present(attribute) => put(out, PRESENT, attribute),
            Node::Extensible { rule, attribute, value, names } => nest(out, EXTENSIBLE, |out| {
                let given =
                    [(0x81, rule), (0x82, attribute)].into_iter().filter(|(_, text)| !text.is_empty());
                given.for_each(|(tag, text)| put(out, tag, text));
                put(out, 0x83, &value.of(user));
                if *names {
                    put(out, 0x84, &[0xff]);
                }
            }),
        }
    }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(&[byte]);
        rest.map(|rest| self.rest = rest).is_some()
    }

    fn filter(&mut self, depth: usize) -> Result<Node, BadFilter> {
        if depth == DEEPEST {
            return Err(BadFilter("it is nested too deep"));
        }
        if !self.take(b'(') {
            return Err(BadFilter("an opening parenthesis is missing"));
        }
        let node = if self.take(b'&') {
            Node::Several(AND, self.filters(depth)?)
        } else if self.take(b'|') {
            Node::Several(OR, self.filters(depth)?)
        } else if self.take(b'!') {
            Node::Not(Box::new(self.filter(depth + 1)?))
        } else {
            let end = self.rest.iter().position(|b| matches!(b, b'(' | b')')).unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            item(text)?
        };
        if self.take(b')') { Ok(node) } else { Err(BadFilter("a closing parenthesis is missing")) }
    }

    fn filters(&mut self, depth: usize) -> Result<Vec<Node>, BadFilter> {
        let mut nodes = vec![self.filter(depth + 1)?];
        loop {
            self.skip_blanks();
            if !self.rest.starts_with(b"(") {
                return Ok(nodes);
            }
            nodes.push(self.filter(depth + 1)?);
        }
    }
}

/// A comparison, without parentheses.
fn item(text: &[u8]) -> Result<Node, BadFilter> {
    let sign = text.iter().position(|b| *b == b'=').ok_or(BadFilter("there is a comparison without ="))?;
    let (left, right) = (&text[..sign], &text[sign + 1..]);
    let (tag, attribute) = match left {
        [name @ .., b'~'] => (ABOUT, name),
        [name @ .., b'>'] => (AT_LEAST, name),
        [name @ .., b'<'] => (AT_MOST, name),
        [name @ .., b':'] => return extensible(name, right),
        name => (EQUAL, name),
    };
    let attribute = described(attribute)?;
    if tag != EQUAL || !right.contains(&b'*') {
        return Ok(Node::Compare(tag, attribute, value(right)?));
    }
    if right == b"*" {
        return Ok(Node::Present(attribute));
    }
    let pieces: Vec<&[u8]> = right.split(|b| *b == b'*').collect();
    let last = pieces.len() - 1;
    let parts = pieces.iter().enumerate().filter(|(_, piece)| !piece.is_empty()).map(|(i, piece)| {
        let tag = match i {
            0 => 0x80,
            i if i == last => 0x82,
            _ => 0x81,
        };
        Ok((tag, value(piece)?))
    });
    match parts.collect::<Result<Vec<_>, _>>()? {
        parts if parts.is_empty() => Err(BadFilter("there is nothing between two *")),
        parts => Ok(Node::Substrings(attribute, parts)),
    }
}

/// `attribute:dn:rule:=value`, of which the attribute or the rule may be missing.
fn extensible(left: &[u8], right: &[u8]) -> Result<Node, BadFilter> {
    let mut words = left.split(|b| *b == b':');
    let attribute = words.next().unwrap_or_default();
    let mut rest: Vec<&[u8]> = words.collect();
    let names = rest.first().is_some_and(|word| word.eq_ignore_ascii_case(b"dn"));
    if names {
        rest.remove(0);
    }
    let rule = match rest[..] {
        [] => &[][..],
        [rule] => rule,
        _ => return Err(BadFilter("there is a comparison with too many colons")),
    };
    if attribute.is_empty() && rule.is_empty() {
        return Err(BadFilter("there is a comparison without an attribute"));
    }
    let word = |text: &[u8]| if text.is_empty() { Ok(Vec::new()) } else { described(text) };
    Ok(Node::Extensible { rule: word(rule)?, attribute: word(attribute)?, value: value(right)?, names })
}

/// The name of an attribute, perhaps with options.
fn described(text: &[u8]) -> Result<Vec<u8>, BadFilter> {
    let text = text.trim_ascii();
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b';' | b'_');
    match text {
        [] => Err(BadFilter("there is a comparison without an attribute")),
        text if text.iter().all(fits) => Ok(text.to_vec()),
        _ => Err(BadFilter("the name of an attribute has letters, digits, hyphens and dots only")),
    }
}

/// The value of a comparison: `\xx` is a byte, `$username` the user.
fn value(mut text: &[u8]) -> Result<Value, BadFilter> {
    let mut pieces = vec![];
    let mut piece = Vec::new();
    while let [first, rest @ ..] = text {
        if let Some(rest) = text.strip_prefix(USER) {
            pieces.push(std::mem::take(&mut piece));
            text = rest;
            continue;
        }
        text = match (first, rest) {
            (b'\\', [high, low, rest @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16).ok_or(BadFilter(ESCAPE));
                piece.push((digit(*high)? << 4 | digit(*low)?) as u8);
                rest
            }
            (b'\\', _) => return Err(BadFilter(ESCAPE)),
            (b'(' | b')', _) => return Err(BadFilter("a value has parentheses as \\28 and \\29")),
            (byte, rest) => {
                piece.push(*byte);
                rest
            }
        };
    }
    pieces.push(piece);
    Ok(Value(pieces))
}

const ESCAPE: &str = "a backslash needs two hexadecimal digits behind it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ldap::ber::Reader;
    use proptest::prelude::*;

    fn encoded(text: &str, user: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Filter::parse(text).unwrap().encode(user, &mut out);
        out
    }

    /// A filter in RFC 4515's text again, by another way than the parser's: from the bytes.
    fn shown(reader: &mut Reader<'_>) -> String {
        let (tag, body) = reader.next().unwrap();
        let text = |b: &[u8]| {
            let special = |b: &u8| matches!(b, b'(' | b')' | b'*' | b'\\' | 0);
            b.iter()
                .map(|b| if special(b) { format!("\\{b:02x}") } else { char::from(*b).to_string() })
                .collect()
        };
        let pair = |sign: &str| {
            let mut fields = Reader(body);
            let [left, right]: [String; 2] = [0, 1].map(|_| text(fields.expect(OCTETS).unwrap()));
            format!("{left}{sign}{right}")
        };
        let inner = |sign: &str| {
            let mut fields = Reader(body);
            let mut out = sign.to_owned();
            while !fields.is_empty() {
                out += &shown(&mut fields);
            }
            out
        };
        let inner = match tag {
            AND => inner("&"),
            OR => inner("|"),
            NOT => inner("!"),
            EQUAL => pair("="),
            AT_LEAST => pair(">="),
            AT_MOST => pair("<="),
            ABOUT => pair("~="),
            PRESENT => format!("{}=*", text(body)),
            SUBSTRINGS => {
                let mut fields = Reader(body);
                let attribute: String = text(fields.expect(OCTETS).unwrap());
                let mut parts = Reader(fields.expect(SEQUENCE).unwrap());
                let mut all = String::new();
                let mut last = 0;
                while !parts.is_empty() {
                    let (tag, part) = parts.next().unwrap();
                    let star = if tag == 0x80 { "" } else { "*" };
                    all += &format!("{star}{}", text(part));
                    last = tag;
                }
                format!("{attribute}={all}{}", if last == 0x82 { "" } else { "*" })
            }
            tag => panic!("tag {tag:x}"),
        };
        format!("({inner})")
    }

    #[test]
    fn filters_come_out_as_written() {
        for text in [
            "(uid=$username)",
            "(|(uid=$username)(mail=$username))",
            "(&(objectClass=*)(!(a~=b))(c>=1)(d<=2)(uid=x-$username-y))",
            "(cn=$username*)",
            "(cn=*$username)",
            "(cn=a*b*$username*c)",
            "(mail=\\2a$username\\28)",
        ] {
            let expected = text.replace("$username", "ann");
            assert_eq!(shown(&mut Reader(&encoded(text, "ann"))), expected);
        }
        assert_eq!(
            encoded("uid=$username", "a"),
            encoded(" ( uid=$username ) ".replace(" )", ")").trim(), "a")
        );
        assert_eq!(encoded("(| (a=$username)\n (b=1) )", "x"), encoded("(|(a=$username)(b=1))", "x"));
        assert_eq!(Filter::equals("uid"), Filter::parse("(uid=$username)"));
    }

    #[test]
    fn extensible_matches() {
        let rule = "(memberOf:1.2.840.113556.1.4.1941:=cn=$username)";
        let expected = b"\xa9\x84\0\0\0\x2b\x81\x171.2.840.113556.1.4.1941\x82\x08memberOf\x83\x06cn=ann";
        assert_eq!(encoded(rule, "ann"), expected);
        assert_eq!(encoded("(ou:dn:=$username)", "x"), b"\xa9\x84\0\0\0\x0a\x82\x02ou\x83\x01x\x84\x01\xff");
    }

    #[test]
    fn what_is_no_filter() {
        for (text, why) in [
            ("", "without ="),
            ("(uid=$username", "closing"),
            ("(uid=$username))", "behind its last"),
            ("(&)", "opening"),
            ("(uid)", "without ="),
            ("(=$username)", "without an attribute"),
            ("(u id=$username)", "letters"),
            ("($username=x)", "letters"),
            ("(uid=\\zz$username)", "hexadecimal"),
            ("(uid=$username\\2)", "hexadecimal"),
            ("(uid=bob)", "$username"),
            ("(uid=**)", "between two"),
            ("(a:b:c:d:=$username)", "colons"),
            (&format!("{}(uid=$username){}", "(!".repeat(20), ")".repeat(20)), "too deep"),
        ] {
            let error = Filter::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        /// Whatever the name is, the filter keeps its shape and the name is one value of it.
        #[test]
        fn no_name_is_read_as_a_part_of_the_filter(user in "\\PC*|[()*\\\\&|!=\\x00]{1,12}") {
            let out = encoded("(&(objectClass=person)(uid=$username))", &user);
            let mut outer = Reader(&out);
            let mut all = Reader(outer.expect(AND).unwrap());
            prop_assert!(outer.is_empty());
            all.expect(EQUAL).unwrap();
            let mut own = Reader(all.expect(EQUAL).unwrap());
            prop_assert!(all.is_empty());
            prop_assert_eq!(own.expect(OCTETS).unwrap(), b"uid");
            prop_assert_eq!(own.expect(OCTETS).unwrap(), user.as_bytes());
            prop_assert!(own.is_empty());
        }

        #[test]
        fn any_text_is_a_filter_or_not(text in "[()&|!a=*:~<>\\\\0 ]{0,40}") {
            let _ = Filter::parse(&(text + "$username)"));
        }
    }
}
