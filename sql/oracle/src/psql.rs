//! What psql would send of a script: statements without its own commands and without the data of `COPY`.

pub(crate) fn split(script: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut rest = script;
    while !rest.is_empty() {
        let (statement, after) = cut(rest);
        rest = after;
        // psql's variables are names and strings of the test; the text is SQL with almost anything in their place.
        for text in [statement.clone(), without_variables(&statement)] {
            if let Ok(parsed) = pg_query::parse(&text, 0) {
                let copies = format!("{:?}", parsed.protobuf).contains("CopyStmt");
                if copies && text.to_ascii_lowercase().contains("stdin") {
                    rest = after_data(rest);
                }
                statements.push(text);
                break;
            }
            statements.push(text);
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements.dedup();
    statements
}

/// The first statement, and what follows it.
fn cut(script: &str) -> (String, &str) {
    let bytes = script.as_bytes();
    let mut statement = String::new();
    let (mut at, mut from, mut depth, mut bodies) = (0, 0, 0, 0);
    while at < bytes.len() {
        let rest = &script[at..];
        match bytes[at] {
            b'\'' | b'"' => at += quoted(bytes, at),
            b'$' => at += dollar_quoted(rest),
            b'-' if rest.starts_with("--") => at += rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => at += comment(rest),
            b'\\' if rest.starts_with("\\;") => {
                statement.push_str(&script[from..at]);
                (at, from) = (at + 2, at + 1);
            }
            b'\\' => {
                statement.push_str(&script[from..at]);
                let line = rest.find('\n').unwrap_or(rest.len());
                at += line;
                from = at;
                if statement.trim().is_empty() || rest.starts_with("\\g") || rest.starts_with("\\cross") {
                    return (statement, &script[at..]);
                }
            }
            b'(' => (at, depth) = (at + 1, depth + 1),
            b')' => (at, depth) = (at + 1, depth - 1),
            b';' if depth <= 0 && bodies == 0 => {
                statement.push_str(&script[from..at]);
                return (statement, &script[at + 1..]);
            }
            b if b.is_ascii_alphabetic() || b == b'_' => {
                let word =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
                let lower = rest[..word].to_ascii_lowercase();
                let creates = script[from..at].trim_start().to_ascii_lowercase().starts_with("create");
                let atomic = rest[word..].trim_start().to_ascii_lowercase().starts_with("atomic");
                match lower.as_str() {
                    "begin" if creates && atomic => bodies = 1,
                    "case" if bodies > 0 => bodies += 1,
                    "end" if bodies > 0 => bodies -= 1,
                    _ => {}
                }
                at += word;
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    statement.push_str(&script[from..]);
    (statement, "")
}

/// The length of what is between quotes; a backslash escapes in `E''` only.
fn quoted(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let escapes = quote == b'\''
        && start > 0
        && bytes[start - 1].eq_ignore_ascii_case(&b'e')
        && !(start > 1 && (bytes[start - 2].is_ascii_alphanumeric() || bytes[start - 2] == b'_'));
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if escapes && bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len() - 1) + 1 - start
}

fn dollar_quoted(rest: &str) -> usize {
    let Some(end) = rest[1..].find('$') else { return 1 };
    let tag = &rest[..end + 2];
    let name = &tag[1..tag.len() - 1];
    if !name.chars().all(|c| c.is_alphanumeric() || c == '_')
        || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return 1;
    }
    rest[tag.len()..].find(tag).map_or(rest.len(), |at| at + 2 * tag.len())
}

fn comment(rest: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < rest.len() {
        let pair = rest.as_bytes().get(at..at + 2);
        match pair {
            Some(b"*/") => (at, depth) = (at + 2, depth - 1),
            Some(b"/*") => (at, depth) = (at + 2, depth + 1),
            _ => at += 1,
        }
    }
    at
}

fn after_data(rest: &str) -> &str {
    let lines = rest.find('\n').map_or("", |line| &rest[line + 1..]);
    match lines.starts_with("\\.\n") {
        true => &lines[3..],
        false => lines.find("\n\\.\n").map_or(rest, |end| &lines[end + 4..]),
    }
}

fn without_variables(statement: &str) -> String {
    let mut out = String::new();
    let mut chars = statement.char_indices().peekable();
    let mut before = ' ';
    while let Some((_, c)) = chars.next() {
        let next = chars.peek().map_or(' ', |next| next.1);
        if c != ':' || before == ':' || !(next.is_alphabetic() || matches!(next, '\'' | '"' | '_')) {
            out.push(c);
        }
        before = c;
    }
    out
}
