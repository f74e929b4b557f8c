//! How long its requests may take by a client's own word: `SET pgferry.deadline = '800ms'`, or a comment at the head of a
//! statement, `/*deadline=800ms*/`.

use std::time::Duration;

use protocol::error_fields::{ErrorMessage, Severity};
use protocol::sqlstate::SqlState;
use sql::Assignment;

use super::Session;
use super::link::Link;
use super::timing::Timing;
use super::trail::contains_word;
use crate::prepared::{query_of, simple_query, split_name};

const SETTING: &str = "pgferry.deadline";
const KEY: &str = "deadline";

/// A comment at the head is looked at so far, in bytes.
pub(super) const LONGEST_COMMENT: u32 = 512;

/// A client's own limits for its requests; of several the strictest counts. `None` is none.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Of the session.
    session: Option<Duration>,
    /// Of the transaction at hand (`SET LOCAL`), in place of the session's.
    local: Option<Option<Duration>>,
    /// Of single requests: how many others are answered before it, and the limit. Those with 0 are of the one at hand.
    requests: Vec<(usize, Duration)>,
}

impl Deadlines {
    pub(super) fn strictest(&self, configured: Option<Duration>) -> Option<Duration> {
        let of_request = self.requests.iter().filter(|(before, _)| *before == 0).map(|(_, time)| *time);
        [configured, self.local.unwrap_or(self.session)].into_iter().flatten().chain(of_request).min()
    }

    /// For this request or one behind it.
    pub(super) fn are_any(&self) -> bool {
        self.local.unwrap_or(self.session).is_some() || !self.requests.is_empty()
    }

    /// The client is owed nothing any more.
    pub(super) fn requests_end(&mut self) {
        self.requests.clear();
    }

    /// So many requests were answered.
    pub(super) fn answered(&mut self, requests: usize) {
        self.requests.retain_mut(|(before, _)| match before.checked_sub(requests) {
            Some(left) => {
                *before = left;
                true
            }
            None => false,
        });
    }

    pub(super) fn transaction_ends(&mut self) {
        self.local = None;
    }
}

/// Whether [`note_head`] may find anything, by the first byte.
pub(super) fn begins_with_comment(text: &[u8]) -> bool {
    text.first().is_some_and(|first| *first == b'/' || first.is_ascii_whitespace())
}

/// Takes the limit from the comment at the head of a text that a client runs, if there is one. It is behind the requests
/// for which `link`'s server owes answers.
pub(super) fn note_head(timing: &mut Option<Box<Timing>>, link: Option<&Link>, now: u64, text: &[u8]) {
    if let Some(time) = value_at_head(text).and_then(duration).filter(|time| !time.is_zero()) {
        let timing = timing.get_or_insert_with(|| Timing::new(now));
        let before = link.map_or(0, |link| link.server.machine.requests_owed());
        match timing.deadlines.requests.last_mut() {
            Some((last, other)) if *last == before => *other = time.min(*other),
            _ => timing.deadlines.requests.push((before, time)),
        }
    }
}

/// The text in the body of a `Query` or a `Parse`.
pub(super) fn sent_text(tag: u8, body: &[u8]) -> &[u8] {
    match tag {
        b'Q' => simple_query(body),
        b'P' => split_name(body).map_or(&[][..], |(_, rest)| query_of(rest)),
        _ => &[],
    }
}

/// Whether a text may begin with assignments, judged by its first letters.
pub(super) fn may_assign(text: &[u8]) -> bool {
    let first = |word: &[u8]| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    first(b"set") || first(b"reset") || first(b"discard") || first(b"begin") || first(b"start")
}

/// Whether a text may end a transaction without the server's ever saying that none is open: what was local to it ends.
pub(super) fn chains(text: &[u8]) -> bool {
    contains_word(text, b"and chain")
}

impl Session {
    /// Takes over what a text sets. An audit, where there is one, tells later what has become of it.
    pub(super) fn note_assignments(&mut self, text: &[u8]) {
        for assignment in sql::assignments(text) {
            let (value, local) = match assignment {
                Assignment::One { name, value, local } if *name == *SETTING.as_bytes() => (value, local),
                Assignment::All => (None, false),
                Assignment::One { name, value, .. } => {
                    self.note_own_setting(
                        &name,
                        value.as_deref().and_then(|value| std::str::from_utf8(value).ok()),
                    );
                    continue;
                }
            };
            let time = value.as_ref().and_then(|value| duration(std::str::from_utf8(value).ok()?));
            if value.is_some() && time.is_none() {
                self.warn_of_no_time();
                continue;
            }
            let time = time.filter(|time| !time.is_zero());
            if time.is_some() || self.timing.is_some() {
                let deadlines = &mut self.timing().deadlines;
                match local {
                    true => deadlines.local = Some(time),
                    false => (deadlines.session, deadlines.local) = (time, None),
                }
            }
        }
    }

    pub(super) fn timing(&mut self) -> &mut Timing {
        self.timing.get_or_insert_with(|| Timing::new(self.worker.now()))
    }

    /// PostgreSQL takes any value of a setting that it does not know.
    fn warn_of_no_time(&mut self) {
        let text = format!("this value of {SETTING} is no time: requests have no deadline");
        self.warn_of_value(text, "Write it as 800ms, 1.5s or 2min.");
    }

    /// Tells the client that a value which PostgreSQL takes means nothing here.
    pub(super) fn warn_of_value(&mut self, text: String, hint: &'static str) {
        if !self.link.as_ref().is_some_and(|link| link.server.is_mid_reply()) {
            let warning = ErrorMessage::new(Severity::Warning, SqlState::INVALID_PARAMETER_VALUE, text);
            let warning = warning.with_hint(hint);
            self.unsent.add(|out| warning.encode_notice(out));
        }
    }

    /// The client's settings are known.
    pub(super) fn note_settings(&mut self) {
        let time = self.settings.values().get(SETTING).and_then(|value| duration(value));
        if time.is_some() || self.timing.is_some() {
            self.timing().deadlines.session = time.filter(|time| !time.is_zero());
        }
        self.note_reading();
    }
}

/// What a comment at the head says of the deadline: one of several `key=value`, separated by commas, the value in single
/// quotes or not.
fn value_at_head(text: &[u8]) -> Option<&str> {
    let text = text.trim_ascii_start().strip_prefix(b"/*")?;
    let text = text.get(..LONGEST_COMMENT as usize).unwrap_or(text);
    let end = text.windows(2).position(|two| two == b"*/")?;
    let comment = std::str::from_utf8(&text[..end]).ok()?;
    let mut pairs = comment.split(',').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim() == KEY)?;
    Some(value.trim().trim_matches('\''))
}

/// A time as PostgreSQL writes it, in milliseconds without a unit.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "us" => 1e-6,
        "ms" | "" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.trim_end().parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, expected) in [
            ("800ms", ms(800)),
            ("800", ms(800)),
            (" 1.5 s ", ms(1500)),
            ("2min", ms(120_000)),
            ("0", ms(0)),
            ("-1", None),
            ("", None),
            ("soon", None),
            ("1 week", None),
            ("nan", None),
            ("1e300h", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn comments() {
        for (text, expected) in [
            ("/*deadline=800ms*/ select 1", Some("800ms")),
            (" \n/* deadline = '2s' */select 1", Some("2s")),
            ("/*route='/x',deadline=5,db='y'*/ select", Some("5")),
            ("select 1 /*deadline=800ms*/", None),
            ("/*deadline=800ms", None),
            ("/*+ SeqScan(t) */ select 1", None),
            ("/**/ /*deadline=800ms*/", None),
            ("/*no_deadline=1*/", None),
        ] {
            assert_eq!(value_at_head(text.as_bytes()), expected, "{text}");
        }
        let far = format!("/*{}deadline=1*/ select 1", "x".repeat(LONGEST_COMMENT as usize));
        assert_eq!(value_at_head(far.as_bytes()), None);
    }
}
