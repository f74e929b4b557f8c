//! The prepared statements that a text names.

use crate::Name;
use crate::lexer::{Kind, Lexer};
use crate::words::pack;

/// What SQL does with a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum Use {
    Prepare,
    Execute,
    Deallocate,
}

/// The prepared statements that a text names, in its order: `PREPARE name`, `EXECUTE name` (wherever it stands),
/// `DEALLOCATE name`. Some may be none (`GRANT EXECUTE ON ...`).
pub fn prepared_names(text: &[u8]) -> Vec<(Use, Name<'_>)> {
    let mut names = Vec::new();
    if u32::try_from(text.len()).is_err() {
        return names; // tokens have places of 32 bits; no message is longer
    }
    let mut lexer = Lexer::new(text);
    let mut begins = true; // a statement
    loop {
        let token = lexer.next();
        let verb = match token.kind {
            Kind::End | Kind::Bad => return names,
            Kind::Word => match pack(lexer.bytes(token)) {
                EXECUTE => Some(Use::Execute),
                PREPARE if begins => Some(Use::Prepare),
                DEALLOCATE if begins => Some(Use::Deallocate),
                _ => None,
            },
            _ => None,
        };
        begins = token.kind == Kind::Semicolon;
        let Some(verb) = verb else { continue };
        let mut name = lexer.peek();
        if verb == Use::Deallocate && lexer.packed(name) == PREPARE {
            let mut ahead = lexer;
            ahead.next();
            if ahead.peek().is_name() {
                name = ahead.peek();
            }
        }
        let all = verb == Use::Deallocate && lexer.packed(name) == ALL;
        if name.is_name() && !all {
            names.push((verb, lexer.name(name)));
        }
    }
}

const ALL: u128 = pack(b"all");
const DEALLOCATE: u128 = pack(b"deallocate");
const EXECUTE: u128 = pack(b"execute");
const PREPARE: u128 = pack(b"prepare");

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(Use, String)> {
        let text_of = |name: &Name<'_>| String::from_utf8_lossy(name).into_owned();
        prepared_names(text.as_bytes()).iter().map(|(verb, name)| (*verb, text_of(name))).collect()
    }

    #[test]
    fn names_are_found_where_statements_are() {
        let (prepare, execute, deallocate) = (Use::Prepare, Use::Execute, Use::Deallocate);
        assert_eq!(names("DEALLOCATE pdo_stmt_1"), [(deallocate, "pdo_stmt_1".into())]);
        let text =
            "deallocate prepare \"A b\"; /* ; */ Deallocate prepare; DEALLOCATE ALL; deallocate \"all\"";
        let found = [(deallocate, "A b".into()), (deallocate, "prepare".into()), (deallocate, "all".into())];
        assert_eq!(names(text), found);
        let text = "PREPARE p(int) AS SELECT 1; EXPLAIN EXECUTE p(1); CREATE TABLE t AS EXECUTE q";
        assert_eq!(names(text), [(prepare, "p".into()), (execute, "p".into()), (execute, "q".into())]);
        assert_eq!(names("select deallocate, x prepare from t where a = 'execute s'"), []);
        assert_eq!(names("execute 'unterminated"), []);
    }
}
