//! A table as messages: RowDescription, DataRows, CommandComplete.

use std::borrow::Cow;

use pgbouncer_compat::columns::Column;
use protocol::frame::put;
use protocol::message;

/// A value as it travels: text, or NULL.
#[derive(Debug)]
pub(crate) struct Cell<'a>(Option<Cow<'a, str>>);

/// A table that is being written.
pub(crate) struct Table {
    width: usize,
    out: Vec<u8>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(columns: &[Column]) -> Table {
        let mut out = Vec::new();
        put_description(&mut out, columns, &[]);
        Table { width: columns.len(), out }
    }

    /// Appends a row, a cell for each column.
    pub(crate) fn row<'a>(&mut self, cells: impl AsRef<[Cell<'a>]>) {
        let cells = cells.as_ref();
        debug_assert_eq!(cells.len(), self.width);
        put(&mut self.out, b'D', |body| {
            put_count(body, cells.len());
            cells.iter().for_each(|cell| put_cell(body, cell));
        });
    }

    /// The messages, ended by CommandComplete with the tag that every table of the console has.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        message::command_complete(&mut self.out, "SHOW");
        self.out
    }
}

/// The cells of a row.
macro_rules! cells {
    ($($value:expr),* $(,)?) => { [$($crate::rows::Cell::from($value)),*] };
}
pub(crate) use cells;

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Cell<'a> {
        Cell(Some(Cow::Borrowed(text)))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Cell(Some(Cow::Owned(text)))
    }
}

impl From<bool> for Cell<'_> {
    fn from(flag: bool) -> Self {
        Cell::from(if flag { "1" } else { "0" })
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Cell<'a> {
        value.map_or(Cell(None), Into::into)
    }
}

macro_rules! from_numbers {
    ($($number:ty)*) => {
        $(impl From<$number> for Cell<'_> {
            fn from(number: $number) -> Self {
                Cell::from(number.to_string())
            }
        })*
    };
}

from_numbers!(u16 u32 u64 usize);

/// RowDescription. A column without a format is text.
pub(crate) fn put_description(out: &mut Vec<u8>, columns: &[Column], formats: &[i16]) {
    put(out, b'T', |body| {
        put_count(body, columns.len());
        for (i, column) in columns.iter().enumerate() {
            put_column(body, column, formats.get(i).copied().unwrap_or(0));
        }
    });
}

/// Of no table, without a type modifier.
fn put_column(body: &mut Vec<u8>, column: &Column, format: i16) {
    body.extend(column.name.as_bytes());
    body.push(0);
    body.extend(0i32.to_be_bytes()); // table
    body.extend(0i16.to_be_bytes()); // number of the column in it
    body.extend(column.kind.oid().to_be_bytes());
    body.extend(column.kind.size().to_be_bytes());
    body.extend((-1i32).to_be_bytes()); // type modifier
    body.extend(format.to_be_bytes());
}

fn put_cell(body: &mut Vec<u8>, cell: &Cell<'_>) {
    match &cell.0 {
        None => body.extend((-1i32).to_be_bytes()),
        Some(text) => {
            body.extend((text.len() as i32).to_be_bytes());
            body.extend(text.as_bytes());
        }
    }
}

fn put_count(body: &mut Vec<u8>, count: usize) {
    body.extend((count as i16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use pgbouncer_compat::columns::Show;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut table = Table::new(Show::Lists.columns());
        table.row(cells!["pools", 2usize]);
        let description = b"T\0\0\0\x35\0\x02\
            list\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
            items\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
        let row = b"D\0\0\0\x14\0\x02\0\0\0\x05pools\0\0\0\x012";
        assert_eq!(table.finish(), [&description[..], row, b"C\0\0\0\x09SHOW\0"].concat());
    }

    #[test]
    fn null_and_empty_differ() {
        let mut table = Table::new(Show::State.columns());
        table.row(cells![None::<&str>, Some("")]);
        let row = b"D\0\0\0\x0e\0\x02\xff\xff\xff\xff\0\0\0\0";
        assert!(table.finish().windows(row.len()).any(|window| window == row));
    }

    #[test]
    fn values_as_text() {
        let shown = |cell: Cell<'_>| cell.0.map(Cow::into_owned);
        assert_eq!(shown(Cell::from(true)).as_deref(), Some("1"));
        assert_eq!(shown(Cell::from(u64::MAX)).as_deref(), Some("18446744073709551615"));
        assert_eq!(shown(Cell::from(Some(String::from("é")))).as_deref(), Some("é"));
        assert_eq!(shown(Cell::from(None::<u16>)), None);
    }
}
