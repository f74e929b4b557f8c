//! What is wrong with a configuration, where, and what to do about it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a file, or a file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named on the command line or by `%include`.
    pub file: Arc<Path>,
    /// Counted from 1; `None` when no single line is at fault.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file.display()),
            None => write!(f, "{}", self.file.display()),
        }
    }
}

/// One fault or warning. It never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What, in PgBouncer's words where it has any.
    pub message: String,
    /// What to do; may be empty.
    pub advice: String,
}

/// `MESSAGE (FILE:LINE): ADVICE`. PgBouncer's own lines end behind the parenthesis.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.place)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, ": {}", self.advice) }
    }
}

/// Why a configuration was refused: all its faults, in the order of the files' lines. Never empty.
#[derive(Debug)]
pub struct Faults(pub Vec<Finding>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects findings while a configuration is read; nothing stops at the first.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) faults: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    /// Files that hold secrets, to be looked at when all is read.
    pub(crate) secrets: BTreeSet<Arc<Path>>,
    /// Faults of TLS: who changes certificate and key one after the other must get past the first.
    pub(crate) tls_faults: Vec<Finding>,
}

impl Report {
    pub(crate) fn fault(&mut self, place: &Place, message: impl Into<String>, advice: impl Into<String>) {
        self.faults.push(Finding { place: place.clone(), message: message.into(), advice: advice.into() });
    }

    pub(crate) fn tls_fault(&mut self, place: &Place, message: impl Into<String>, advice: impl Into<String>) {
        self.tls_faults.push(Finding {
            place: place.clone(),
            message: message.into(),
            advice: advice.into(),
        });
    }

    pub(crate) fn warn(&mut self, place: &Place, message: impl Into<String>, advice: impl Into<String>) {
        self.warnings.push(Finding { place: place.clone(), message: message.into(), advice: advice.into() });
    }
}

/// `did you mean NAME?` for the closest of `names` that is at most two letters away, else nothing.
pub(crate) fn did_you_mean<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, name)| format!("did you mean {name}?"))
        .unwrap_or_default()
}

/// Letters to insert, delete or replace to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        let names = ["max_client_conn", "min_pool_size", "user"];
        assert_eq!(did_you_mean("max_client_con", names.into_iter()), "did you mean max_client_conn?");
        assert_eq!(did_you_mean("something_else", names.into_iter()), "");
        assert_eq!(did_you_mean("", names.into_iter()), "");
    }
}
