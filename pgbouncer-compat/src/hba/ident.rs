//! A line of the ident file: `MAP SYSTEM-NAME DATABASE-USER`.

use std::sync::Arc;

use pooler::config::{IdentLine, IdentMap, MappedUser, SystemName};

use super::rules::pattern;
use super::tokens::{Line, Token};
use super::{Complaint, Outcome};

/// A line, and the name of its map.
pub(super) type Entry = (String, IdentLine);

const EXPECTED: &str = "a line is MAP SYSTEM-NAME DATABASE-USER";

pub(super) fn entry(line: &Line) -> Outcome<Entry> {
    let mut names = Vec::with_capacity(3);
    for field in &line.fields {
        match &field[..] {
            [token] => names.push(token),
            _ => return Err(Complaint::new("multiple values in ident field", EXPECTED)),
        }
    }
    let [map, system, user] = names[..] else {
        let what =
            if names.len() < 3 { "missing entry at end of line" } else { "too many entries on the line" };
        return Err(Complaint::new(what, EXPECTED));
    };
    if map.text.is_empty() {
        return Err(Complaint::new("the map has no name", EXPECTED));
    }
    let system = match system.text.strip_prefix('/') {
        Some(expression) => SystemName::Pattern(pattern(expression)?),
        None => SystemName::Name(system.text.clone()),
    };
    let user = mapped(user, &system)?;
    Ok((map.text.clone(), IdentLine { system, user }))
}

fn mapped(token: &Token, system: &SystemName) -> Outcome<MappedUser> {
    let text = &token.text[..];
    if token.is_keyword("all") {
        return Ok(MappedUser::All);
    }
    if text.starts_with('+') && !token.quoted {
        let advice = "the pooler does not know who is a member of what; name the users";
        return Err(Complaint::new(format!("the group {text} is not supported"), advice));
    }
    if let Some(expression) = text.strip_prefix('/') {
        return Ok(MappedUser::Pattern(pattern(expression)?));
    }
    match (system, text.split_once("\\1")) {
        (SystemName::Pattern(of_system), Some((before, behind))) if of_system.has_group() => {
            Ok(MappedUser::Group(before.to_owned(), behind.to_owned()))
        }
        (SystemName::Pattern(of_system), Some(_)) => {
            let text = format!(
                "regular expression \"{of_system}\" has no subexpressions as requested by backreference in \"{text}\""
            );
            Err(Complaint::new(text, "put what \\1 is to stand for in parentheses"))
        }
        _ => Ok(MappedUser::Name(text.to_owned())),
    }
}

/// Collects the lines of each map, in the order of the file.
pub(super) fn by_name(entries: Vec<Entry>) -> Vec<Arc<IdentMap>> {
    let mut maps: Vec<IdentMap> = Vec::new();
    for (name, line) in entries {
        match maps.iter_mut().find(|map| map.name == name) {
            Some(map) => map.lines.push(line),
            None => maps.push(IdentMap { name, lines: vec![line] }),
        }
    }
    maps.into_iter().map(Arc::new).collect()
}
