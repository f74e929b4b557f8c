use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::intern::hash_of;

use super::split_name;

/// What was said about a statement: hashes of its parameters and of the rows it returns. 0: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(super) parameters: u64,
    pub(super) rows: u64,
}

/// What clients were told elsewhere can't be compared with what servers say here.
static FOREIGN: AtomicBool = AtomicBool::new(false);

/// See [`FOREIGN`].
pub(crate) fn forget_what_is_told() {
    FOREIGN.store(true, Relaxed);
}

impl Description {
    /// To be taken along to another process.
    pub(super) fn hashes(self) -> (u64, u64) {
        (self.parameters, self.rows)
    }

    /// What was taken along.
    pub(super) fn from_hashes((parameters, rows): (u64, u64)) -> Description {
        match FOREIGN.load(Relaxed) {
            true => Description::default(),
            false => Description { parameters, rows },
        }
    }

    /// By the body of `ParameterDescription`.
    pub(super) fn of_parameters(body: &[u8]) -> u64 {
        hash_of([body]).max(1)
    }

    /// By `RowDescription` or `NoData`: names and types of the columns. Which table they come from, and in which format,
    /// does not count for PostgreSQL either when it looks whether a statement is stale.
    pub(super) fn of_rows(tag: u8, body: &[u8]) -> u64 {
        let mut rest = body.get(2..).unwrap_or_default();
        let columns = std::iter::from_fn(|| {
            let (name, behind) = split_name(rest)?;
            // Table (4 bytes), its column (2), then type (4), length (2), modifier (4), then the format (2).
            let (column, behind) = behind.split_at_checked(18)?;
            rest = behind;
            Some((name, &column[6..16]))
        });
        hash_of(std::iter::once((&[tag][..], &[][..])).chain(columns)).max(1)
    }

    pub(super) fn learn(&mut self, other: Description) {
        let newer = |old: &mut u64, new: u64| {
            if new != 0 {
                *old = new;
            }
        };
        newer(&mut self.parameters, other.parameters);
        newer(&mut self.rows, other.rows);
    }

    /// Whether it says what was said before; `None`: it is not known.
    pub(super) fn repeats(self, before: Description) -> Option<bool> {
        let repeats = |now: u64, before: u64| match (now, before) {
            (_, 0) => Some(true),
            (0, _) => None,
            _ => Some(now == before),
        };
        Some(repeats(self.parameters, before.parameters)? && repeats(self.rows, before.rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, table: u8, kind: u8, format: u8) -> Vec<u8> {
        [name.as_bytes(), &[0, 0, 0, 0, table, 0, 1, 0, 0, 0, kind, 0, 4, 255, 255, 255, 255, 0, format]]
            .concat()
    }

    #[test]
    fn names_and_types_make_a_description() {
        let rows = |columns: &[Vec<u8>]| {
            Description::of_rows(
                b'T',
                &[&(columns.len() as u16).to_be_bytes()[..], &columns.concat()].concat(),
            )
        };
        let one = rows(&[column("a", 1, 23, 0)]);
        assert_eq!(one, rows(&[column("a", 2, 23, 1)]));
        assert_ne!(one, rows(&[column("b", 1, 23, 0)]));
        assert_ne!(one, rows(&[column("a", 1, 25, 0)]));
        assert_ne!(one, rows(&[column("a", 1, 23, 0), column("b", 1, 23, 0)]));
        assert_ne!(rows(&[]), Description::of_rows(b'n', b""));
    }

    #[test]
    fn what_was_not_said_is_not_compared() {
        let known = Description { parameters: 1, rows: 2 };
        assert_eq!(known.repeats(Description::default()), Some(true));
        assert_eq!(known.repeats(Description { parameters: 0, rows: 2 }), Some(true));
        assert_eq!(known.repeats(Description { parameters: 3, rows: 2 }), Some(false));
        assert_eq!(Description { parameters: 0, rows: 2 }.repeats(known), None);
    }
}
