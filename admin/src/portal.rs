//! A command that was bound: its reply, taken in portions, in the formats that were asked for.

use pgbouncer_compat::columns::{Column, Type};
use pgbouncer_compat::command::Command;
use protocol::error_fields::ErrorMessage;
use protocol::frame::{HEADER_LEN, put};
use protocol::sqlstate::SqlState;

use crate::console::refused;

pub(crate) struct Portal {
    /// `None` is an empty text.
    pub(crate) command: Option<Command>,
    /// 0 is text, 1 binary; one for each column.
    formats: Vec<i16>,
    state: State,
}

enum State {
    New,
    /// What is left of the reply.
    Open(Vec<u8>, usize),
    Over,
}

/// What `Execute` finds.
pub(crate) enum Begun {
    /// An empty text.
    Empty,
    /// It has not run yet.
    First(Command),
    /// It has run, and there is more of its reply.
    Again,
    /// Nothing is left.
    Over,
}

impl Portal {
    /// `formats` as `Bind` gives them: none, one for all columns, or one for each.
    pub(crate) fn new(command: Option<Command>, formats: &[i16]) -> Result<Portal, ErrorMessage> {
        let width = command.as_ref().and_then(Command::columns).map_or(0, <[Column]>::len);
        if let Some(format) = formats.iter().find(|format| !matches!(format, 0 | 1)) {
            let text = format!("unsupported format code: {format}");
            return Err(ErrorMessage::error(SqlState::INVALID_PARAMETER_VALUE, text));
        }
        let formats = match formats {
            [] => vec![0; width],
            [all] => vec![*all; width],
            each if each.len() == width => each.to_vec(),
            each => {
                let count = each.len();
                return Err(refused(format!(
                    "bind message has {count} result formats but query has {width} columns"
                )));
            }
        };
        Ok(Portal { command, formats, state: State::New })
    }

    pub(crate) fn formats(&self) -> &[i16] {
        &self.formats
    }

    pub(crate) fn begin(&mut self) -> Begun {
        match (&self.command, &self.state) {
            (None, _) => Begun::Empty,
            (Some(command), State::New) => {
                let command = command.clone();
                self.state = State::Over; // unless it comes to a reply
                Begun::First(command)
            }
            (Some(_), State::Open(..)) => Begun::Again,
            (Some(_), State::Over) => Begun::Over,
        }
    }

    /// Takes the reply to the command, as the simple protocol has it.
    pub(crate) fn fill(&mut self, reply: Vec<u8>) -> Result<(), ErrorMessage> {
        let columns = self.command.as_ref().and_then(Command::columns).unwrap_or_default();
        let reply =
            if self.formats.contains(&1) { in_formats(&reply, columns, &self.formats)? } else { reply };
        self.state = State::Open(reply, 0);
        Ok(())
    }

    /// The next rows, at most so many, and what ends the reply. It was described before.
    pub(crate) fn take(&mut self, most: Option<usize>) -> Vec<u8> {
        let State::Open(reply, at) = &mut self.state else { return Vec::new() };
        let (mut out, mut rows) = (Vec::new(), 0);
        while let Some(message) = first_message(&reply[*at..]) {
            if message[0] == b'D' && most == Some(rows) {
                put(&mut out, b's', |_| {}); // PortalSuspended
                return out;
            }
            rows += usize::from(message[0] == b'D');
            if message[0] != b'T' {
                out.extend_from_slice(message);
            }
            *at += message.len();
        }
        self.state = State::Over;
        out
    }
}

/// The first message of several that were put together here.
fn first_message(bytes: &[u8]) -> Option<&[u8]> {
    let length: [u8; 4] = bytes.get(1..HEADER_LEN)?.try_into().ok()?;
    bytes.get(..1 + u32::from_be_bytes(length) as usize)
}

/// The same messages with rows whose values are binary where that was asked for.
fn in_formats(mut reply: &[u8], columns: &[Column], formats: &[i16]) -> Result<Vec<u8>, ErrorMessage> {
    let mut out = Vec::with_capacity(reply.len());
    while let Some(message) = first_message(reply) {
        reply = &reply[message.len()..];
        if message[0] != b'D' {
            out.extend_from_slice(message);
            continue;
        }
        let mut row = Vec::with_capacity(message.len());
        row.extend_from_slice(&message[HEADER_LEN..HEADER_LEN + 2]);
        let mut values = &message[HEADER_LEN + 2..];
        for (column, format) in columns.iter().zip(formats) {
            let Some((length, rest)) = values.split_first_chunk::<4>() else { break };
            let length = usize::try_from(i32::from_be_bytes(*length)).ok(); // -1 is NULL
            let (value, rest) = rest.split_at(length.unwrap_or(0));
            let binary = match (length, format) {
                (Some(_), 1) => Some(binary(column, value)?),
                _ => None,
            };
            row.extend(
                (length.map_or(-1, |_| binary.as_deref().unwrap_or(value).len() as i32)).to_be_bytes(),
            );
            row.extend_from_slice(binary.as_deref().unwrap_or(value));
            values = rest;
        }
        put(&mut out, b'D', |body| body.extend(row));
    }
    Ok(out)
}

/// A value in PostgreSQL's binary format for its type.
fn binary(column: &Column, text: &[u8]) -> Result<Vec<u8>, ErrorMessage> {
    let number = || std::str::from_utf8(text).ok()?.parse::<i128>().ok();
    let binary = match column.kind {
        Type::Text => Some(text.to_vec()),
        Type::Int4 => number().and_then(|n| i32::try_from(n).ok()).map(|n| n.to_be_bytes().to_vec()),
        Type::Int8 => number().and_then(|n| i64::try_from(n).ok()).map(|n| n.to_be_bytes().to_vec()),
        Type::Numeric => number().and_then(|n| u64::try_from(n).ok()).map(numeric),
        Type::Bytea => None,
    };
    binary.ok_or_else(|| {
        let text = format!("a value of column \"{}\" has no binary format; ask for text", column.name);
        ErrorMessage::error(SqlState::FEATURE_NOT_SUPPORTED, text)
    })
}

/// Digits to base 10,000, the highest first, behind their number, the weight of the first, sign and scale.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push((number % 10_000) as i16);
        number /= 10_000;
    }
    let header = [digits.len() as i16, digits.len().saturating_sub(1) as i16, 0, 0];
    header.iter().chain(digits.iter().rev()).flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use pgbouncer_compat::columns::Show;

    use super::*;
    use crate::rows::{Table, cells};

    #[test]
    fn numbers_in_postgresqls_binary_format() {
        let words = |number| -> Vec<i16> {
            numeric(number).chunks(2).map(|word| i16::from_be_bytes([word[0], word[1]])).collect()
        };
        assert_eq!(words(0), [0, 0, 0, 0]);
        assert_eq!(words(9_999), [1, 0, 0, 0, 9_999]);
        assert_eq!(words(12_340_005), [2, 1, 0, 0, 1_234, 5]);
        assert_eq!(words(u64::MAX), [5, 4, 0, 0, 1_844, 6_744, 737, 955, 1_615]);
    }

    #[test]
    fn rows_are_taken_in_portions_and_in_their_formats() {
        let mut table = Table::new(Show::Lists.columns());
        table.row(cells!["a", 1usize]);
        table.row(cells![None::<&str>, 258usize]);
        let mut portal = Portal::new(Some(Command::Show(Show::Lists)), &[0, 1]).unwrap();
        assert!(matches!(portal.begin(), Begun::First(_)));
        portal.fill(table.finish()).unwrap();
        assert_eq!(portal.take(Some(1)), b"D\0\0\0\x13\0\x02\0\0\0\x01a\0\0\0\x04\0\0\0\x01s\0\0\0\x04");
        assert!(matches!(portal.begin(), Begun::Again));
        let rest = b"D\0\0\0\x12\0\x02\xff\xff\xff\xff\0\0\0\x04\0\0\x01\x02C\0\0\0\x09SHOW\0";
        assert_eq!(portal.take(None), rest);
        assert!(matches!(portal.begin(), Begun::Over));
    }

    #[test]
    fn what_no_binary_format_can_hold_is_refused() {
        let mut table = Table::new(Show::Lists.columns());
        table.row(cells!["a", u64::MAX]);
        let mut portal = Portal::new(Some(Command::Show(Show::Lists)), &[1]).unwrap();
        assert!(matches!(portal.begin(), Begun::First(_)));
        assert_eq!(portal.fill(table.finish()).unwrap_err().code, SqlState::FEATURE_NOT_SUPPORTED);
    }
}
