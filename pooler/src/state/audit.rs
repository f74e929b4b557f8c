use std::collections::{BTreeMap, BTreeSet};

use protocol::frame::{Cutter, HEADER_LEN, Piece, Whole};
use protocol::params::literal;

use super::calls::Mark;
use super::{Findings, Pins};
use crate::notify::{Channels, WITNESS};

/// The question what ties the session to its client, for these ties only: each branch costs PostgreSQL the time to plan
/// it, and a view more than the function below it. Names with a schema throughout, because the client's `search_path`
/// counts.
pub(crate) fn audit_sql(asked: Pins) -> String {
    const BRANCHES: [(Pins, &str); 5] = [
        (
            Pins::TEMPORARY,
            " UNION ALL SELECT 'p','1','' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND EXISTS(\
             SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615 \
             AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
        ),
        (
            Pins::LOCKS,
            " UNION ALL SELECT 'p','2','' WHERE EXISTS(SELECT FROM pg_catalog.pg_lock_status() \
             WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
             AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
        ),
        (
            Pins::CURSORS,
            " UNION ALL SELECT 'p','4','' WHERE EXISTS(SELECT FROM pg_catalog.pg_cursor() WHERE is_holdable)",
        ),
        (
            Pins::PREPARED,
            " UNION ALL SELECT 'p','8','' WHERE EXISTS(SELECT FROM pg_catalog.pg_prepared_statement() WHERE from_sql)",
        ),
        (
            Pins::LISTENS,
            " UNION ALL SELECT 'l',channel,'' FROM pg_catalog.pg_listening_channels() AS channel",
        ),
    ];
    // Without the witness nothing about channels can be concluded, and it is cheap.
    let mut sql = format!(
        "SELECT 'w','','' WHERE pg_catalog.current_setting('{WITNESS}',true) OPERATOR(pg_catalog.=) '1'"
    );
    BRANCHES.iter().filter(|(pin, _)| asked.contains(*pin)).for_each(|(_, branch)| sql += branch);
    sql
}

/// To be appended: these settings and no others.
pub(crate) fn named_sql(names: &[String]) -> String {
    let ask = |name: &String| {
        let name = literal(name);
        format!(" UNION ALL SELECT 's',{name},pg_catalog.current_setting({name},true)")
    };
    names.iter().map(ask).collect()
}

/// To be appended: its settings. They cost PostgreSQL 0.35 ms. `user`: who logs in; `custom`: those with a dot in
/// their name, which no view shows.
pub(crate) fn settings_sql(user: &str, custom: &BTreeSet<String>) -> String {
    format!(
        " UNION ALL SELECT CASE WHEN context OPERATOR(pg_catalog.=) 'superuser' AND NOT (SELECT rolsuper FROM \
         pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) {}) THEN 'x' ELSE 's' END,name,setting \
         FROM pg_catalog.pg_show_all_settings() WHERE source OPERATOR(pg_catalog.=) 'session' \
         UNION ALL SELECT 's','role',pg_catalog.current_setting('role') \
         UNION ALL SELECT 's','session_authorization',session_user::pg_catalog.text",
        literal(user)
    ) + &by_name('s', custom)
}

/// To be appended: the values of these settings with a dot in their name, in rows of this kind. One branch for all: each
/// costs PostgreSQL the time to plan it.
fn by_name(kind: char, names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<_> = names.iter().map(|name| literal(name)).collect();
    let names = names.join(",");
    format!(
        " UNION ALL SELECT '{kind}',n,pg_catalog.current_setting(n,true) FROM pg_catalog.unnest(ARRAY[{names}]) AS n \
         WHERE pg_catalog.current_setting(n,true) IS NOT NULL"
    )
}

/// To be put behind an audit: what functions may do unseen and, with `since`, those of them that are new since that mark.
/// What it needs of settings holds until its end only, and an audit that came behind it would find that.
pub(crate) fn lookup_sql(since: Option<&Mark>) -> String {
    let mut lookup = include_str!("lookup.sql").to_owned();
    if let Some(Mark { place, since }) = since {
        let functions = include_str!("functions.sql").replace("$place", place).replace("$since", since);
        lookup = format!("{lookup};{functions}");
    }
    format!(
        ";SELECT 'r',pg_catalog.set_config(n,v,true),'' FROM (VALUES('search_path','pg_catalog,pg_temp'),('jit','off'),\
         ('statement_timeout','{LOOKUP_TIMEOUT}')) AS s(n,v);{lookup}"
    )
}

/// After so many milliseconds PostgreSQL gives a look-up up.
const LOOKUP_TIMEOUT: u32 = 10_000;

/// To be appended where they are known.
pub(crate) fn custom_sql(names: &BTreeSet<String>) -> String {
    by_name('c', names)
}

/// What returns settings that were reset to what the client's start-up packet said of them. A session that has one of its
/// own was not reset: the pooler gives a server those of the packet by `SET`, too.
pub(crate) fn restore_sql(beginning: &[(String, String)]) -> String {
    let values = |dotted: bool| {
        let own = beginning.iter().filter(|(name, _)| name.contains('.') == dotted);
        let rows: Vec<_> =
            own.map(|(name, value)| format!("({},{})", literal(name), literal(value))).collect();
        (!rows.is_empty()).then(|| {
            format!("SELECT 'r',pg_catalog.set_config(n,v,false),'' FROM (VALUES{}) b(n,v)", rows.join(","))
        })
    };
    let mut sql = String::new();
    if let Some(values) = values(true) {
        sql += &format!(
            "{values} WHERE coalesce(pg_catalog.current_setting(n,true),'') OPERATOR(pg_catalog.=) '';"
        );
    }
    if let Some(values) = values(false) {
        // Most say what they said: only where one does not, PostgreSQL has to look at all that it has.
        sql += &format!(
            "{values} WHERE pg_catalog.lower(pg_catalog.current_setting(n,true)) OPERATOR(pg_catalog.<>) \
             pg_catalog.lower(v) AND EXISTS(SELECT FROM pg_catalog.pg_show_all_settings() s \
             WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) pg_catalog.lower(n) \
             AND s.source OPERATOR(pg_catalog.<>) 'session' \
             AND pg_catalog.lower(s.setting) OPERATOR(pg_catalog.<>) pg_catalog.lower(v));"
        );
    }
    sql
}

/// More than this in an answer is not read: the session has more than can be carried; ...
const LONGEST: usize = 256 << 10;

/// ... and this with a look-up, which holds the bodies of functions, each byte as two.
const LONGEST_LOOKUP: usize = 16 << 20;

/// The replies to an audit, as they come.
#[derive(Debug)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    longest: usize,
}

/// What a session has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) settings: BTreeMap<String, String>,
    /// What it says of functions, if it was asked.
    pub(crate) functions: Findings,
    pub(crate) pins: Pins,
    /// What it listens to.
    pub(crate) channels: Channels,
    /// The channels that the client has at the hub are among them, unless it has left them.
    pub(crate) witness: bool,
}

impl Answer {
    /// `lookup`: it is asked for functions as well.
    pub(crate) fn new(lookup: bool) -> Answer {
        Answer { bytes: Vec::new(), longest: if lookup { LONGEST_LOOKUP } else { LONGEST } }
    }

    /// More of the replies.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.bytes.len() <= self.longest {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// What they say; `None` if that can't be told. Where they are not in UTF-8 they must be in ASCII.
    pub(crate) fn read(&self, utf8: bool) -> Option<Report> {
        if self.bytes.len() > self.longest {
            return None;
        }
        let mut report = Report::default();
        let (mut cutter, mut rest) = (Cutter::default(), &self.bytes[..]);
        while let Some(Piece::Begin { tag, bytes, .. }) = cutter.next(rest, &Whole::ALL, u32::MAX).ok()? {
            rest = &rest[bytes.len()..];
            match tag {
                b'D' => report.add_row(&bytes[HEADER_LEN..], utf8)?,
                b'E' => return None, // perhaps behind some rows, and well before the end
                _ => {}
            }
        }
        rest.is_empty().then_some(report)
    }
}

impl Report {
    fn add_row(&mut self, body: &[u8], utf8: bool) -> Option<()> {
        let mut columns = Columns { rest: body.get(2..)?, utf8 };
        let (kind, name, value) = (columns.next()?, columns.next()?, columns.next()?);
        match kind?.as_str() {
            "s" => self.settings.extend(value.map(|value| (name.unwrap_or_default(), value))),
            // Some function of a superuser's has set it: the client itself may not, on another server.
            "x" => self.pins.add(Pins::PRIVILEGED),
            // Empty is what is left of one that was reset; only who names it could tell that from none.
            "c" => {
                let name = name?;
                self.functions.names.insert(name.clone());
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    self.settings.entry(name).or_insert(value);
                }
            }
            "d" => self.functions.roles.push((name?, value?)),
            "m" => self.functions.functions.mark = Some((name?, value?)),
            "f" => self.functions.functions.functions.push((name?, value?)),
            "h" => *self.functions.hidden.get_mut(name?.parse::<usize>().ok()?)? = true,
            "l" => self.channels.extend(name.map(String::into_boxed_str)),
            "w" => self.witness = true,
            "p" => self.pins.add(Pins(name?.parse().ok()?)),
            _ => {}
        }
        Some(())
    }
}

/// The columns of a `DataRow`: text, or `None` for NULL. What is not UTF-8 ends them, or, without `utf8`, not ASCII.
struct Columns<'a> {
    rest: &'a [u8],
    utf8: bool,
}

impl Iterator for Columns<'_> {
    type Item = Option<String>;

    fn next(&mut self) -> Option<Option<String>> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        if length < 0 {
            self.rest = rest;
            return Some(None);
        }
        let (value, rest) = rest.split_at_checked(length as usize)?;
        self.rest = rest;
        let value = std::str::from_utf8(value).ok().filter(|value| self.utf8 || value.is_ascii());
        Some(Some(value?.to_owned()))
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
            row([Some("p"), Some("4"), Some("")]),
            row([Some("l"), Some("c"), Some("")]),
        ]
        .concat();
        let mut answer = Answer::new(false);
        rows.chunks(3).for_each(|piece| answer.add(piece));
        let report = answer.read(false).unwrap();
        assert_eq!(report.settings, BTreeMap::from([("work_mem".to_owned(), "64".to_owned())]));
        assert_eq!(report.pins.names().collect::<Vec<_>>(), ["advisory locks", "cursors with hold"]);
        assert_eq!((report.channels, report.witness), (Channels::from(["c".into()]), false));
        answer.add(&row([Some("s"), Some("app.x"), Some("\u{e9}")]));
        assert_eq!(answer.read(false), None);
        assert_eq!(answer.read(true).unwrap().settings["app.x"], "\u{e9}");
        let mut failed = Answer::new(false);
        failed.add(&rows);
        failed.add(&[b'E', 0, 0, 0, 4]);
        assert_eq!(failed.read(true), None);
        answer.add(b"D");
        assert_eq!(answer.read(true), None);
    }
}
