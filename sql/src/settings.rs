//! The custom settings that a text names.

use crate::Name;
use crate::lexer::{Kind, Lexer, Token};
use crate::rules::dotted;
use crate::words::pack;

/// The names with a dot that a text sets or reads: `SET app.user_id`, `RESET`, `SHOW`, `set_config('app.user_id', ...)`,
/// `current_setting`, and strings that look like one; also inside dollar-quoted bodies. They are not in `pg_settings`, so
/// whoever wants their values has to know them. Some may be no settings at all (`UPDATE t SET a.b`, `'public.t'`), and the
/// same may come several times. Not seen: names that are computed or bound, and those in bodies in plain quotes.
pub fn custom_settings(text: &[u8]) -> CustomSettings<'_> {
    // Tokens have places of 32 bits; no message is longer.
    let lexers = if u32::try_from(text.len()).is_ok() { vec![Lexer::new(text)] } else { Vec::new() };
    CustomSettings { lexers }
}

/// Whether a value looks like the name of a setting with a dot in it, as it is usually written.
pub fn may_name_setting(value: &[u8]) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    let begins = value.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    begins && value.len() <= LONGEST && value.contains(&b'.') && value.iter().all(in_name)
}

/// Longer names, in bytes, are only seen where they are surely names.
const LONGEST: usize = 128;

/// See [`custom_settings`].
#[derive(Debug)]
pub struct CustomSettings<'a> {
    /// The text, and the bodies that are open in it.
    lexers: Vec<Lexer<'a>>,
}

impl<'a> Iterator for CustomSettings<'a> {
    type Item = Name<'a>;

    fn next(&mut self) -> Option<Name<'a>> {
        loop {
            let lexer = self.lexers.last_mut()?;
            let token = lexer.next();
            let name = match token.kind {
                Kind::End | Kind::Bad => {
                    self.lexers.pop();
                    None
                }
                Kind::Dollar => {
                    let body = Lexer::new(dollar_body(lexer.bytes(token)));
                    // Bodies in bodies are copied nowhere, but looked at once for each level.
                    if self.lexers.len() < DEEPEST {
                        self.lexers.push(body);
                    }
                    None
                }
                Kind::Word => named(lexer, token),
                Kind::Quoted => argument(lexer, token),
                // Perhaps the argument of a function that sets it.
                Kind::Text => lexer.value(token).filter(|value| may_name_setting(value)),
                _ => None,
            };
            if name.as_ref().is_some_and(|name| name.contains(&b'.')) {
                return name;
            }
        }
    }
}

/// How many bodies are opened inside each other: a text can't make the work more than this many times its length.
const DEEPEST: usize = 4;

fn named<'a>(lexer: &mut Lexer<'a>, token: Token) -> Option<Name<'a>> {
    let word = pack(lexer.bytes(token));
    if word != SET && word != RESET && word != SHOW {
        return argument(lexer, token);
    }
    let mut name = lexer.peek();
    if matches!(lexer.packed(name), LOCAL | SESSION) {
        let mut ahead = *lexer;
        ahead.next();
        if ahead.peek().is_name() {
            *lexer = ahead;
            name = ahead.peek();
        }
    }
    name.is_name().then(|| {
        lexer.next();
        dotted(lexer, name)
    })
}

/// The first argument of `set_config` or `current_setting`, if it is a plain string.
fn argument<'a>(lexer: &Lexer<'a>, token: Token) -> Option<Name<'a>> {
    let function = lexer.name(token);
    if !matches!(&*function, b"set_config" | b"current_setting") {
        return None;
    }
    let mut ahead = *lexer;
    let open = ahead.next();
    (open.kind == Kind::Open).then(|| lexer.value(ahead.next())).flatten()
}

/// What is between the tags.
fn dollar_body(bytes: &[u8]) -> &[u8] {
    let tag = bytes.iter().skip(1).position(|&b| b == b'$').map_or(0, |at| at + 2);
    bytes.get(tag..bytes.len().saturating_sub(tag)).unwrap_or_default()
}

const SET: u128 = pack(b"set");
const RESET: u128 = pack(b"reset");
const SHOW: u128 = pack(b"show");
const LOCAL: u128 = pack(b"local");
const SESSION: u128 = pack(b"session");
