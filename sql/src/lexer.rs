//! PostgreSQL's lexical rules (`scan.l`, versions 13 to 18), as far as they decide where a token ends.
//!
//! Two things are not known here: `standard_conforming_strings`, and the client's encoding, in which a byte that
//! looks like a backslash may be the second half of a character (SJIS, BIG5, GBK, ...). Where a reading of the text
//! depends on either, the token is [`Kind::Bad`].

use std::borrow::Cow;

use crate::words::pack;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The beginning or the end of a text.
    End,
    /// An identifier or a keyword without quotes.
    Word,
    /// A `"quoted identifier"`.
    Quoted,
    /// A string in plain quotes, `'...'`.
    Text,
    /// `E''`, `B''`, `X''`, `N''`, `U&''`: strings whose value is not read here.
    Coded,
    /// `$tag$...$tag$`.
    Dollar,
    /// A number or a parameter, `$1`.
    Number,
    Dot,
    Comma,
    Open,
    Close,
    Semicolon,
    /// `::`
    Cast,
    /// Any other operator character, one by one.
    Operator,
    /// Unterminated, ambiguous or no token at all: what follows can't be understood.
    Bad,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// 32 bits: tokens are copied a lot, and no message is longer.
    start: u32,
    end: u32,
}

impl Token {
    pub(crate) const NONE: Self = Self { kind: Kind::End, start: 0, end: 0 };

    fn new(kind: Kind, start: usize, end: usize) -> Self {
        Self { kind, start: start as u32, end: end as u32 }
    }

    /// The same place, seen as something else.
    pub(crate) fn taken_for(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) fn is_name(self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

/// Cuts tokens off the front of a text. A copy of it is a look ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// The last token was an `E''` string: a string on the next line continues it, by its rules.
    escapes: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, escapes: false }
    }

    /// The bytes of a token of this text.
    pub(crate) fn bytes(&self, token: Token) -> &'a [u8] {
        self.text.get(token.start()..token.end()).unwrap_or_default()
    }

    /// The token as a packed word, 0 if it is none.
    #[inline]
    pub(crate) fn packed(&self, token: Token) -> u128 {
        if token.kind == Kind::Word { pack(self.bytes(token)) } else { 0 }
    }

    /// Behind the last token.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What is between two places of this text.
    pub(crate) fn between(&self, start: usize, end: usize) -> &'a [u8] {
        self.text.get(start..end).unwrap_or_default()
    }

    pub(crate) fn peek(mut self) -> Token {
        self.next()
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Token {
        let mut start = self.at;
        let class = loop {
            let Some(&byte) = self.text.get(start) else {
                self.at = start;
                return Token::new(Kind::End, start, start);
            };
            match CLASS[usize::from(byte)] {
                Class::Space => start += 1,
                Class::Minus if self.byte(start + 1) == b'-' => start = self.line_comment(start + 2),
                Class::Slash if self.byte(start + 1) == b'*' => match self.block_comment(start + 2) {
                    Some(end) => start = end,
                    None => return self.token(Kind::Bad, start, start),
                },
                class => break class,
            }
        };
        let escapes = std::mem::take(&mut self.escapes);
        match class {
            Class::Letter => self.word(start),
            Class::Digit => {
                self.token(Kind::Number, start, self.run(start, |b| b.is_ascii_digit() || b == b'.'))
            }
            Class::Quote if escapes => self.escape_string(start, start + 1),
            Class::Quote => self.plain_string(Kind::Text, start, start + 1),
            Class::DoubleQuote => match self.closing(start + 1, b'"') {
                Some(end) => self.token(Kind::Quoted, start, end),
                None => self.token(Kind::Bad, start, start),
            },
            Class::Dollar => self.dollar(start),
            Class::Dot if self.byte(start + 1).is_ascii_digit() => {
                self.token(Kind::Number, start, self.run(start + 1, |b| b.is_ascii_digit()))
            }
            Class::Dot => self.token(Kind::Dot, start, start + 1),
            Class::Comma => self.token(Kind::Comma, start, start + 1),
            Class::Open => self.token(Kind::Open, start, start + 1),
            Class::Close => self.token(Kind::Close, start, start + 1),
            Class::Semicolon => self.token(Kind::Semicolon, start, start + 1),
            Class::Colon if self.byte(start + 1) == b':' => self.token(Kind::Cast, start, start + 2),
            Class::Minus | Class::Slash | Class::Colon | Class::Operator => {
                self.token(Kind::Operator, start, start + 1)
            }
            Class::Space | Class::Other => self.token(Kind::Bad, start, start),
        }
    }

    fn token(&mut self, kind: Kind, start: usize, end: usize) -> Token {
        // Nothing can be read behind what was not understood.
        self.at = if kind == Kind::Bad { self.text.len() } else { end };
        Token::new(kind, start, end)
    }

    /// The byte there, or NUL (which no text of PostgreSQL's can contain) behind the end.
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or_default()
    }

    fn run(&self, from: usize, belongs: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        from + rest.iter().position(|&b| !belongs(b)).unwrap_or(rest.len())
    }

    /// Where the byte is next, or the end; eight bytes at a time.
    fn find(&self, byte: u8, from: usize) -> usize {
        const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
        const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
        let mut at = from;
        while let Some(chunk) = self.text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let zero_where_found = u64::from_le_bytes(*chunk) ^ (ONES * u64::from(byte));
            let found = zero_where_found.wrapping_sub(ONES) & !zero_where_found & HIGH;
            if found != 0 {
                return at + found.trailing_zeros() as usize / 8;
            }
            at += 8;
        }
        self.run(at, |b| b != byte)
    }

    #[inline]
    fn word(&mut self, start: usize) -> Token {
        let end = self.run(start + 1, |b| IN_WORD[usize::from(b)]);
        if end == start + 1 && matches!(self.byte(end), b'\'' | b'&') {
            match (self.byte(start).to_ascii_lowercase(), self.byte(end), self.byte(end + 1)) {
                (b'e', b'\'', _) => return self.escape_string(start, end + 1),
                (b'b' | b'x' | b'n', b'\'', _) => return self.plain_string(Kind::Coded, start, end + 1),
                (b'u', b'&', b'\'') => return self.plain_string(Kind::Coded, start, end + 2),
                (b'u', b'&', b'"') => return self.token(Kind::Bad, start, start),
                _ => {}
            }
        }
        self.token(Kind::Word, start, end)
    }

    /// Behind the quote that closes what is open at `from`; a doubled one does not.
    fn closing(&self, mut from: usize, quote: u8) -> Option<usize> {
        loop {
            let end = self.find(quote, from);
            if end >= self.text.len() {
                return None;
            }
            if self.byte(end + 1) != quote {
                return Some(end + 1);
            }
            from = end + 2;
        }
    }

    /// A string in which backslashes are letters, unless `standard_conforming_strings` is off: then a quote behind
    /// one does not end it, and the two readings part.
    fn plain_string(&mut self, kind: Kind, start: usize, first: usize) -> Token {
        let mut from = first;
        loop {
            let quote = self.find(b'\'', from);
            if quote >= self.text.len() {
                return self.token(Kind::Bad, start, start);
            }
            if quote > first && self.byte(quote - 1) == b'\\' {
                let before = self.between(first, quote);
                let run = before.iter().rev().take_while(|&&b| b == b'\\').count();
                let half_character = before.iter().rev().nth(run).is_some_and(|b| *b >= 0x80);
                if run % 2 == 1 || half_character {
                    return self.token(Kind::Bad, start, start);
                }
            }
            if self.byte(quote + 1) != b'\'' {
                return self.token(kind, start, quote + 1);
            }
            from = quote + 2;
        }
    }

    fn escape_string(&mut self, start: usize, first: usize) -> Token {
        let mut at = first;
        loop {
            at = self.run(at, |b| b != b'\'' && b != b'\\');
            match (self.byte(at), self.byte(at + 1)) {
                (b'\'', b'\'') => at += 2,
                (b'\'', _) => {
                    self.escapes = true;
                    return self.token(Kind::Coded, start, at + 1);
                }
                (b'\\', _) if self.byte(at - 1) < 0x80 => at += 2,
                _ => return self.token(Kind::Bad, start, start),
            }
        }
    }

    fn dollar(&mut self, start: usize) -> Token {
        if self.byte(start + 1).is_ascii_digit() {
            return self.token(Kind::Number, start, self.run(start + 1, |b| b.is_ascii_digit()));
        }
        let tag_end = self.run(start + 1, |b| b.is_ascii_alphanumeric() || b == b'_');
        if self.byte(tag_end) != b'$' {
            return self.token(Kind::Bad, start, start);
        }
        let tag = self.between(start, tag_end + 1);
        let mut at = tag_end + 1;
        loop {
            at = self.find(b'$', at);
            let rest = self.text.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return self.token(Kind::Bad, start, start);
            }
            if rest.starts_with(tag) {
                return self.token(Kind::Dollar, start, at + tag.len());
            }
            at += 1;
        }
    }

    fn line_comment(&self, from: usize) -> usize {
        self.run(from, |b| b != b'\n' && b != b'\r')
    }

    fn block_comment(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1;
        while at < self.text.len() {
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') if depth == 1 => return Some(at + 2),
                (b'*', b'/') => (at, depth) = (at + 2, depth - 1),
                (b'/', b'*') => (at, depth) = (at + 2, depth + 1),
                _ => at += 1,
            }
        }
        None
    }

    /// The name that an identifier stands for. ASCII letters without quotes are folded; other letters are left as
    /// they are, which is what PostgreSQL does in UTF-8. It would also cut the name to 63 bytes.
    pub(crate) fn name(&self, token: Token) -> Cow<'a, [u8]> {
        let bytes = self.bytes(token);
        match token.kind {
            Kind::Quoted => unquoted(bytes, b'"'),
            _ if bytes.iter().any(u8::is_ascii_uppercase) => bytes.to_ascii_lowercase().into(),
            _ => bytes.into(),
        }
    }

    /// The value of a plain string, `None` if that depends on `standard_conforming_strings`.
    pub(crate) fn value(&self, token: Token) -> Option<Cow<'a, [u8]>> {
        let bytes = self.bytes(token);
        (token.kind == Kind::Text && !bytes.contains(&b'\\')).then(|| unquoted(bytes, b'\''))
    }
}

/// What is between the quotes, doubled ones made single.
fn unquoted(bytes: &[u8], quote: u8) -> Cow<'_, [u8]> {
    let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&quote) {
        return inner.into();
    }
    let mut skip = false;
    let single = inner.iter().copied().filter(|&b| {
        skip = b == quote && !skip;
        !skip || b != quote
    });
    single.collect::<Vec<_>>().into()
}

#[derive(Clone, Copy)]
enum Class {
    Space,
    Letter,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Comma,
    Open,
    Close,
    Semicolon,
    Colon,
    Minus,
    Slash,
    Operator,
    Other,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b',' => Class::Comma,
            b'(' => Class::Open,
            b')' => Class::Close,
            b';' => Class::Semicolon,
            b':' => Class::Colon,
            b'-' => Class::Minus,
            b'/' => Class::Slash,
            b'+' | b'*' | b'<' | b'>' | b'=' | b'~' | b'!' | b'@' | b'#' | b'%' | b'^' | b'&' | b'|'
            | b'`' | b'?' | b'[' | b']' => Class::Operator,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

static IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASS[byte], Class::Letter | Class::Digit | Class::Dollar);
        byte += 1;
    }
    table
};
