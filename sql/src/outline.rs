use crate::lexer::{Kind, Lexer, Token};

/// The beginning of a text for people to read, in logs and on consoles: every literal is a `?`, since it may be a secret,
/// comments are gone, and blanks are single. At most `most` bytes, and an ellipsis where something is missing: the rest,
/// or what comes behind a place that can't be read.
pub fn outline(text: &[u8], most: usize) -> String {
    // What is shown may be much shorter, so more is looked at; but not all of a text of any length.
    let seen = text.get(..most.saturating_mul(16)).unwrap_or(text);
    let mut lexer = Lexer::new(seen);
    let mut out = String::new();
    let mut last = 0;
    loop {
        let token = lexer.next();
        let bytes = lexer.bytes(token);
        let shown = match token.kind {
            Kind::End if seen.len() == text.len() => return out,
            Kind::End | Kind::Bad => return out + "...",
            Kind::Text | Kind::Coded | Kind::Dollar => "?".into(),
            Kind::Number if !bytes.starts_with(b"$") => "?".into(),
            _ => String::from_utf8_lossy(bytes),
        };
        if out.len() + shown.len() >= most {
            return out + "...";
        }
        if token.start() > last && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&shown);
        last = token.end();
    }
}

/// A number that texts have in common which differ in their literals, parameters, comments, blanks, the case of words and
/// the length of lists of literals, as in `IN (1, 2, 3)`. It is the same at every start.
pub fn fingerprint(text: &[u8]) -> u64 {
    let mut lexer = Lexer::new(text);
    let mut hash = MULTIPLIER;
    let mut last = Kind::End;
    // In brackets nothing but literals so far, ...
    let mut listing = false;
    // ... and a comma behind them, which counts only if something else follows.
    let mut comma = false;
    loop {
        let mut token = lexer.next();
        // A sign, not a difference: with its number it is a literal.
        let sign = matches!(last, Kind::Operator | Kind::Open | Kind::Comma) && token.kind == Kind::Operator;
        if sign && lexer.bytes(token) == b"-" && lexer.peek().kind == Kind::Number {
            token = lexer.next();
        }
        let literal = matches!(token.kind, Kind::Text | Kind::Coded | Kind::Dollar | Kind::Number);
        if std::mem::take(&mut comma) {
            if literal {
                continue;
            }
            hash = mix(hash, Kind::Comma as u64);
        }
        comma = token.kind == Kind::Comma && listing;
        listing = literal && last == Kind::Open || comma;
        last = token.kind;
        match token.kind {
            Kind::End | Kind::Bad => return hash,
            Kind::Comma if comma => {}
            Kind::Word => hash = mix_word(hash, &lexer, token),
            Kind::Quoted | Kind::Operator => hash = mix_bytes(hash, lexer.bytes(token)),
            _ if literal => hash = mix(hash, Kind::Text as u64),
            kind => hash = mix(hash, kind as u64),
        }
    }
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value) * u128::from(MULTIPLIER);
    (product >> 64) as u64 ^ product as u64
}

fn mix_word(hash: u64, lexer: &Lexer<'_>, token: Token) -> u64 {
    match lexer.packed(token) {
        0 => mix_bytes(hash, &lexer.bytes(token).to_ascii_lowercase()),
        word => mix(mix(hash, word as u64), (word >> 64) as u64),
    }
}

fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(hash, bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash, u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_see_through_literals() {
        let same = |one: &str, two: &str| fingerprint(one.as_bytes()) == fingerprint(two.as_bytes());
        for (one, two) in [
            ("select * from t where a = 1", "SELECT *  FROM t -- x\n WHERE a = 'two'"),
            ("select $1", "select 5"),
            ("select * from t where a in (1, 2, 3)", "select * from t where a in ($1)"),
            ("insert into t (a, b) values (1, 'x')", "insert into t (a, b) values ($1, $2)"),
            ("select a_name_longer_than_sixteen_bytes", "select A_NAME_LONGER_THAN_SIXTEEN_BYTES"),
            ("select $$ any ' thing $$", "select E'\\''"),
            ("update t set a = a + 1", "update t set a = a + -1"),
            ("insert into t values (1, 2)", "insert into t values (-1, - 2)"),
        ] {
            assert!(same(one, two), "{one} / {two}");
        }
        for (one, two) in [
            ("select a", "select b"),
            ("select \"A\"", "select \"a\""),
            ("select 1", "select 1, 2"),
            ("select f(1)", "select f(1, a)"),
            ("select f(1, a)", "select f(1 a)"),
            ("select f(1)", "select f()"),
            ("select a + 1", "select a - 1"),
            ("select a + 1", "select a + - b"),
            ("select f(-a)", "select f(a)"),
            ("select a_name_longer_than_sixteen_bytes", "select a_name_longer_than_sixteen_bytez"),
            ("select ab, c", "select a, bc"),
            ("select 1", ""),
        ] {
            assert!(!same(one, two), "{one} / {two}");
        }
        assert_eq!(fingerprint(b"select 1"), fingerprint(b"select 1"));
        assert_eq!(format!("{:016x}", fingerprint(b"select 1")), "99d12135c95e18b2");
    }
}
