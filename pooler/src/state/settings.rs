use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

use protocol::params::literal;

use crate::intern::hash_of;

/// Settings that a client has given its session, apart from the tracked parameters: by name, as the server shows them.
/// `role` and `session_authorization` are among them.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
    meaning: u64,
}

/// Settings that end with their transaction, so that no session keeps them.
pub(crate) fn is_of_transaction(name: &str) -> bool {
    matches!(name, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

const ROLE: &str = "role";
const AUTHORIZATION: &str = "session_authorization";

impl Settings {
    pub(crate) fn new(values: BTreeMap<String, String>) -> Settings {
        let meaning = if values.is_empty() { 0 } else { hash_of(&values) };
        Settings { values, meaning }
    }

    /// The same number for the same settings, 0 for none: prepared statements made under different ones may mean
    /// different things.
    pub(crate) fn meaning(&self) -> u64 {
        self.meaning
    }

    pub(crate) fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Whether it decides what the client may do.
    pub(crate) fn changes_role(&self) -> bool {
        self.values.contains_key(ROLE) || self.values.contains_key(AUTHORIZATION)
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        self.values == other.values
    }
}

impl Eq for Settings {}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.meaning);
    }
}

/// Appends the statements that bring a session from the settings it has to those that are wanted. The role comes off
/// first and goes on last: what the login user may set, another role may not.
pub(crate) fn write_changes(have: &Settings, want: &Settings, sql: &mut String) {
    let differs = |name: &str| have.values.get(name) != want.values.get(name);
    let new_role = differs(ROLE) || differs(AUTHORIZATION);
    if new_role && have.values.contains_key(AUTHORIZATION) {
        sql.push_str("RESET SESSION AUTHORIZATION;");
    }
    if new_role && have.changes_role() {
        sql.push_str("RESET ROLE;");
    }
    let is_role = |name: &str| name == ROLE || name == AUTHORIZATION;
    for name in have.values.keys().filter(|name| !want.values.contains_key(*name) && !is_role(name)) {
        let _ = write!(sql, "RESET {};", quoted_name(name));
    }
    for (name, value) in want.values.iter().filter(|(name, _)| differs(name) && !is_role(name)) {
        let _ = write!(sql, "SELECT pg_catalog.set_config({},{},false);", literal(name), literal(value));
    }
    if new_role {
        for (name, statement) in [(AUTHORIZATION, "SET SESSION AUTHORIZATION"), (ROLE, "SET ROLE")] {
            if let Some(value) = want.values.get(name) {
                let _ = write!(sql, "{statement} {};", literal(value));
            }
        }
    }
}

/// `a.b` is two identifiers.
fn quoted_name(name: &str) -> String {
    let parts = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(&str, &str)]) -> Settings {
        Settings::new(list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
    }

    fn changes(have: &[(&str, &str)], want: &[(&str, &str)]) -> String {
        let mut sql = String::new();
        write_changes(&settings(have), &settings(want), &mut sql);
        sql
    }

    #[test]
    fn only_differences_are_written() {
        assert_eq!(changes(&[("work_mem", "64")], &[("work_mem", "64")]), "");
        assert_eq!(
            changes(
                &[("app.x", "1"), ("work_mem", "64")],
                &[("search_path", "\"a b\", it's"), ("work_mem", "65")]
            ),
            "RESET \"app\".\"x\";SELECT pg_catalog.set_config('search_path','\"a b\", it''s',false);\
             SELECT pg_catalog.set_config('work_mem','65',false);"
        );
        assert_eq!(changes(&[], &[("a.b", r"\")]), r"SELECT pg_catalog.set_config('a.b',E'\\',false);");
    }

    #[test]
    fn a_role_comes_off_first_and_goes_on_last() {
        assert_eq!(
            changes(&[("role", "r"), ("work_mem", "64")], &[("role", "s"), ("zz", "1")]),
            "RESET ROLE;RESET \"work_mem\";SELECT pg_catalog.set_config('zz','1',false);SET ROLE 's';"
        );
        assert_eq!(
            changes(&[("session_authorization", "u")], &[]),
            "RESET SESSION AUTHORIZATION;RESET ROLE;"
        );
        assert_eq!(
            changes(&[], &[("role", "r"), ("session_authorization", "u")]),
            "SET SESSION AUTHORIZATION 'u';SET ROLE 'r';"
        );
    }

    /// PostgreSQL 17 has one more with that beginning, which is like any other.
    #[test]
    fn a_transaction_has_three_settings() {
        assert!(is_of_transaction("transaction_read_only"));
        assert!(!is_of_transaction("transaction_timeout"));
    }

    #[test]
    fn equal_settings_mean_the_same() {
        assert_eq!(settings(&[]).meaning(), 0);
        assert_eq!(settings(&[("a", "1")]).meaning(), settings(&[("a", "1")]).meaning());
        assert_ne!(settings(&[("a", "1")]).meaning(), settings(&[("a", "2")]).meaning());
    }
}
