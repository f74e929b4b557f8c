//! Parameters that a server reports (`ParameterStatus`) and that follow each client: which are tracked, what values
//! a connection has, and the statements that turn one set of values into another.

use std::fmt::Write;
use std::sync::Arc;

/// Names of the tracked parameters, in the order in which a client is told of them. Fixed for the process.
#[derive(Debug, PartialEq, Eq)]
pub struct Tracked {
    names: Box<[Box<str>]>,
}

/// Always tracked, in the order of PgBouncer's welcome.
const BASE: [&str; 5] =
    ["DateStyle", "client_encoding", "TimeZone", "standard_conforming_strings", "application_name"];

impl Tracked {
    /// The five that always are, and `extra`. Names are compared without regard to case.
    pub fn new(extra: impl IntoIterator<Item = impl AsRef<str>>) -> Tracked {
        let mut names: Vec<Box<str>> = BASE.iter().map(|n| Box::from(*n)).collect();
        for name in extra {
            let name = name.as_ref();
            if !names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        }
        Tracked { names: names.into() }
    }

    /// Position of a name, if it is tracked.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }

    /// The names.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|n| &**n)
    }

    /// Position of `application_name`.
    pub const APPLICATION_NAME: usize = 4;
}

/// Values of the tracked parameters, by position; `None` where nobody has said anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Values(Box<[Option<Arc<str>>]>);

impl Values {
    /// No value for any of `tracked`.
    pub fn none(tracked: &Tracked) -> Values {
        Values(vec![None; tracked.names.len()].into())
    }

    /// The value at a position.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).and_then(|v| v.as_deref())
    }

    /// Sets the value at a position. Positions come from the same [`Tracked`].
    pub fn set(&mut self, index: usize, value: &str) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(value.into());
        }
    }

    /// These values, with those of `base` where there is none.
    pub fn or(mut self, base: &Values) -> Values {
        for (mine, theirs) in self.0.iter_mut().zip(&base.0) {
            if mine.is_none() {
                mine.clone_from(theirs);
            }
        }
        self
    }

    /// Appends the statements that bring a server that has `self` to `wanted`. Values other than free text compare
    /// without regard to case (a server spells them in its own way), and a parameter that either side knows nothing
    /// of is left alone.
    pub fn write_changes(&self, wanted: &Values, tracked: &Tracked, sql: &mut String) {
        for (index, name) in tracked.names().enumerate() {
            let (Some(have), Some(want)) = (self.get(index), wanted.get(index)) else { continue };
            let free_text = index == Tracked::APPLICATION_NAME || index >= BASE.len();
            if have != want && (free_text || !have.eq_ignore_ascii_case(want)) {
                write_set(sql, name, want);
            }
        }
    }

    /// Appends statements for the parameters that a client has changed since it had `self`, among those that `given`
    /// names, where the server has the value already: set all the same, it is told from one that was never set.
    pub fn write_kept(
        &self,
        wanted: &Values,
        server: &Values,
        tracked: &Tracked,
        given: impl Fn(usize) -> bool,
        sql: &mut String,
    ) {
        for (index, name) in tracked.names().enumerate() {
            let Some(want) = wanted.get(index) else { continue };
            if self.get(index) != Some(want) && server.get(index) == Some(want) && given(index) {
                write_set(sql, name, want);
            }
        }
    }
}

/// `SET name='value';` so that the server reads exactly `value`, whatever its settings.
fn write_set(sql: &mut String, name: &str, value: &str) {
    // A list of quoted names (search_path) is one string to SET, which would quote it again.
    let list = name.eq_ignore_ascii_case("search_path");
    let value = literal(value);
    let _ = match list {
        true => write!(sql, "SELECT pg_catalog.set_config('{name}',{value},false);"),
        false => write!(sql, "SET {name}={value};"),
    };
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    // With it off a backslash is an escape in '…'; in E'…' it always is.
    let prefix = if text.contains('\\') { "E" } else { "" };
    format!("{prefix}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tracked: &Tracked, list: &[(&str, &str)]) -> Values {
        let mut values = Values::none(tracked);
        for (name, value) in list {
            values.set(tracked.index(name).unwrap(), value);
        }
        values
    }

    fn changes(tracked: &Tracked, have: &[(&str, &str)], want: &[(&str, &str)]) -> String {
        let mut sql = String::new();
        values(tracked, have).write_changes(&values(tracked, want), tracked, &mut sql);
        sql
    }

    #[test]
    fn only_differences_are_set() {
        let t = Tracked::new(["IntervalStyle", "timezone"]);
        assert_eq!(t.names().len(), 6, "a name listed twice is tracked once");
        let have = [("TimeZone", "UTC"), ("DateStyle", "ISO, MDY"), ("application_name", "")];
        assert_eq!(changes(&t, &have, &have), "");
        assert_eq!(changes(&t, &have, &[("timezone", "utc")]), "");
        assert_ne!(changes(&t, &have, &[("application_name", "A")]), "");
        assert_eq!(changes(&t, &have, &[("IntervalStyle", "iso_8601")]), "", "the server never reported it");
        assert_eq!(
            changes(&t, &have, &[("TimeZone", "Europe/Rome"), ("application_name", "it's")]),
            "SET TimeZone='Europe/Rome';SET application_name='it''s';"
        );
    }

    #[test]
    fn values_are_read_back_as_they_are() {
        let t = Tracked::new(["search_path"]);
        assert_eq!(
            changes(&t, &[("application_name", "a")], &[("application_name", r"\'x")]),
            r"SET application_name=E'\\''x';"
        );
        assert_eq!(
            changes(&t, &[("search_path", "public")], &[("search_path", r#""a, b", public"#)]),
            r#"SELECT pg_catalog.set_config('search_path','"a, b", public',false);"#
        );
    }

    #[test]
    fn missing_values_come_from_the_base() {
        let t = Tracked::new(["x"]);
        let mine = values(&t, &[("TimeZone", "UTC")]);
        let all = mine.or(&values(&t, &[("TimeZone", "CET"), ("x", "1")]));
        assert_eq!((all.get(2), all.get(5)), (Some("UTC"), Some("1")));
    }
}
