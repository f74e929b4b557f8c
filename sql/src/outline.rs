use crate::lexer::{Kind, Lexer};

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
