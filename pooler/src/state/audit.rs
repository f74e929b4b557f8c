use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::frame::{Cutter, HEADER_LEN, Piece, Whole};
use protocol::params::literal;

use super::Pins;

/// The question. Names with a schema throughout, because the client's `search_path` counts. `custom`: settings with a
/// dot in their name, which no view shows.
pub(crate) fn audit_sql<'a>(custom: impl IntoIterator<Item = &'a str>) -> String {
    let mut sql = String::from(
        "SELECT 's',name,setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
         UNION ALL SELECT 's','role',pg_catalog.current_setting('role') \
         UNION ALL SELECT 's','session_authorization',session_user::pg_catalog.text ",
    );
    for name in custom {
        let name = literal(name);
        let _ = write!(sql, "UNION ALL SELECT 's',{name},pg_catalog.current_setting({name},true) ");
    }
    sql.push_str(
        "UNION ALL SELECT 'p','1','' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND EXISTS(\
         SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615 \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
         UNION ALL SELECT 'p','2','' WHERE EXISTS(SELECT FROM pg_catalog.pg_locks \
         WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
         UNION ALL SELECT 'p','4','' WHERE EXISTS(SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
         UNION ALL SELECT 'p','8','' WHERE EXISTS(SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
         UNION ALL SELECT 'p','16','' WHERE EXISTS(SELECT FROM pg_catalog.pg_listening_channels())",
    );
    sql
}

/// What returns settings that were reset to what the client's start-up packet said of them. A session that has one of its
/// own was not reset: the pooler gives a server those of the packet by `SET`, too.
pub(crate) fn restore_sql(beginning: &[(String, String)]) -> String {
    let mut sql = String::new();
    for (name, value) in beginning {
        let (name, value) = (literal(name), literal(value));
        let was_reset = match name.contains('.') {
            true => format!(
                "WHERE coalesce(pg_catalog.current_setting({name},true),'') OPERATOR(pg_catalog.=) ''"
            ),
            false => format!(
                "FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) OPERATOR(pg_catalog.=) pg_catalog.lower({name}) \
                 AND source OPERATOR(pg_catalog.<>) 'session' \
                 AND pg_catalog.lower(setting) OPERATOR(pg_catalog.<>) pg_catalog.lower({value})"
            ),
        };
        let _ = write!(sql, "SELECT 'r',pg_catalog.set_config({name},{value},false),'' {was_reset};");
    }
    sql
}

/// More than this in an answer is not read: the session has more than can be carried.
const LONGEST: usize = 256 << 10;

/// The replies to an audit, as they come.
#[derive(Debug, Default)]
pub(crate) struct Answer(Vec<u8>);

/// What a session has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) pins: Pins,
}

impl Answer {
    /// More of the replies.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.0.len() <= LONGEST {
            self.0.extend_from_slice(bytes);
        }
    }

    /// What they say; `None` if that can't be told.
    pub(crate) fn read(&self) -> Option<Report> {
        if self.0.len() > LONGEST {
            return None;
        }
        let mut report = Report::default();
        let (mut cutter, mut rest) = (Cutter::default(), &self.0[..]);
        while let Some(Piece::Begin { tag, bytes, .. }) = cutter.next(rest, &Whole::ALL, u32::MAX).ok()? {
            rest = &rest[bytes.len()..];
            if tag == b'D' {
                report.add_row(&bytes[HEADER_LEN..])?;
            }
        }
        rest.is_empty().then_some(report)
    }
}

impl Report {
    fn add_row(&mut self, body: &[u8]) -> Option<()> {
        let mut columns = Columns(body.get(2..)?);
        let (kind, name, value) = (columns.next()?, columns.next()?, columns.next()?);
        match kind?.as_str() {
            "s" => self.settings.extend(value.map(|value| (name.unwrap_or_default(), value))),
            "p" => self.pins.add(Pins(name?.parse().ok()?)),
            _ => {}
        }
        Some(())
    }
}

/// The columns of a `DataRow`: text, or `None` for NULL. What is not UTF-8 ends them.
struct Columns<'a>(&'a [u8]);

impl Iterator for Columns<'_> {
    type Item = Option<String>;

    fn next(&mut self) -> Option<Option<String>> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        if length < 0 {
            self.0 = rest;
            return Some(None);
        }
        let (value, rest) = rest.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(Some(std::str::from_utf8(value).ok()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::put;

    use super::*;

    fn row(columns: [Option<&str>; 3]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, b'D', |out| {
            out.extend_from_slice(&3u16.to_be_bytes());
            for column in columns {
                out.extend_from_slice(&column.map_or(-1, |c| c.len() as i32).to_be_bytes());
                out.extend_from_slice(column.unwrap_or_default().as_bytes());
            }
        });
        out
    }

    #[test]
    fn rows_are_read_in_any_pieces() {
        let rows = [
            row([Some("s"), Some("work_mem"), Some("64")]),
            row([Some("s"), Some("app.x"), None]),
            row([Some("p"), Some("2"), Some("")]),
            row([Some("p"), Some("16"), Some("")]),
        ]
        .concat();
        let mut answer = Answer::default();
        rows.chunks(3).for_each(|piece| answer.add(piece));
        let report = answer.read().unwrap();
        assert_eq!(report.settings, BTreeMap::from([("work_mem".to_owned(), "64".to_owned())]));
        assert_eq!(report.pins.names().collect::<Vec<_>>(), ["advisory locks", "listen"]);
        answer.add(b"D");
        assert_eq!(answer.read(), None);
    }
}
