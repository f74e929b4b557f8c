//! What a client itself says of hosts: its route, its causality key and token, the modes of its transactions, its writes.

use std::sync::Arc;

use protocol::frame::{HEADER_LEN, messages, put};

use super::Session;
use super::deadline::sent_text;
use super::route::Reading;
use crate::config::Route;
use crate::pool::Pool;
use crate::prepared::split_name;
use crate::routing::Defaults;

/// The setting that says where a client's requests go.
pub(crate) const ROUTE: &str = "pgferry.route";
const CAUSAL_KEY: &str = "pgferry.causal_key";
const CAUSAL_TOKEN: &str = "pgferry.causal_token";

/// The values that these have.
pub(crate) const ROUTES: &str =
    "Write auto, primary, replica or prefer-standby, or a word of target_session_attrs.";
const TOKENS: &str = "Take what SHOW pgferry.causal_token has answered.";

/// What a client that asks for its causality token is answered by the primary.
const TOKEN_SQL: &str =
    "SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text AS \"pgferry.causal_token\"";

impl Reading {
    /// A write of the client's was answered just now. It is noted before the client hears of it: another one with its
    /// causality key may ask at once.
    pub(super) fn note_write(&self, pool: &Pool) {
        if let Some(cluster) = pool.cluster() {
            self.causal.wrote(cluster.now());
            cluster.wants_sample();
        }
    }
}

impl Session {
    /// It comes from another process, which alone knew what it had written: it may have done so just now.
    pub(super) fn note_past_writes(&mut self) {
        self.follows = self.what_follows();
        if self.follows.routes && self.pool.is_clustered() {
            self.begin_reading();
            self.note_write();
        }
    }

    /// The client has written: what it reads from now on includes that.
    pub(super) fn note_write(&mut self) {
        if let Some(reading) = self.reading.as_ref().filter(|_| self.follows.routes) {
            reading.note_write(&self.pool);
        }
    }

    /// Takes over what the client's settings say of hosts.
    pub(super) fn note_reading(&mut self) {
        let Some(mut reading) = self.reading.take() else { return };
        let settings = self.settings.values();
        reading.route = settings.get(ROUTE).and_then(|word| Route::of(word));
        if let (Some(key), Some(cluster)) = (settings.get(CAUSAL_KEY), self.pool.cluster()) {
            reading.causal = cluster.keys().of(key);
        }
        let said = self.pool.welcome();
        let reported = |name: &str| {
            let said = said.as_ref()?;
            said.untracked.iter().find(|(said, _)| said == name).map(|(_, value)| value.as_str())
        };
        let now = |name: &str| settings.get(name).map(|value| &**value).or_else(|| reported(name));
        reading.defaults = Defaults {
            read_only: now("default_transaction_read_only") == Some("on"),
            serializable: now("default_transaction_isolation") == Some("serializable"),
        };
        self.reading = Some(reading);
    }

    /// Takes over a setting of a text that runs, before an audit tells.
    pub(super) fn note_own_setting(&mut self, name: &[u8], value: Option<&str>) {
        if !self.follows.routes {
            return;
        }
        let cluster = self.pool.cluster();
        let Some(cluster) = cluster else { return };
        self.begin_reading();
        let Some(reading) = &mut self.reading else { return };
        let mut wrong = None;
        match name {
            name if name == ROUTE.as_bytes() => {
                let route = value.map(Route::of);
                if route == Some(None) {
                    wrong = Some((ROUTE, ROUTES));
                }
                reading.route = route.flatten();
            }
            name if name == CAUSAL_KEY.as_bytes() => {
                reading.causal = match value {
                    Some(key) if !key.is_empty() => cluster.keys().of(key),
                    _ => Arc::default(),
                };
            }
            name if name == CAUSAL_TOKEN.as_bytes() => {
                match value.map(str::trim).filter(|value| !value.is_empty()).map(str::parse) {
                    Some(Ok(lsn)) => reading.causal.must_see(lsn, cluster.epoch()),
                    Some(Err(_)) => wrong = Some((CAUSAL_TOKEN, TOKENS)),
                    None => {}
                }
            }
            _ => {}
        }
        if let Some((name, hint)) = wrong {
            self.warn_of_value(format!("this value of {name} is none: it has no effect"), hint);
        }
    }

    /// The bytes that a client has sent, if it asks for its causality token there: with a question in its place that the
    /// primary can answer.
    pub(super) fn with_token(&self, input: &[u8]) -> Option<Vec<u8>> {
        let may_ask = self.follows.routes && self.cutter.at_boundary();
        let asks = |tag, body| matches!(tag, b'Q' | b'P') && asks_for_token(sent_text(tag, body));
        if !may_ask || !messages(input).any(|(tag, body)| asks(tag, body)) {
            return None;
        }
        let (mut out, mut at) = (Vec::new(), 0);
        for (tag, body) in messages(input) {
            let end = at + HEADER_LEN + body.len();
            if asks(tag, body) {
                let name = if tag == b'P' { split_name(body).map_or(&[][..], |(name, _)| name) } else { &[] };
                put(&mut out, tag, |out| {
                    if tag == b'P' {
                        out.extend_from_slice(name);
                        out.push(0);
                    }
                    out.extend_from_slice(TOKEN_SQL.as_bytes());
                    out.extend_from_slice(if tag == b'P' { b"\0\0\0" } else { b"\0" });
                });
            } else {
                out.extend_from_slice(&input[at..end]);
            }
            at = end;
        }
        out.extend_from_slice(&input[at..]);
        Some(out)
    }

    pub(super) fn begin_reading(&mut self) {
        if self.reading.is_none() {
            self.reading = Some(Box::default());
            self.note_reading();
        }
    }
}

/// `SHOW pgferry.causal_token`, and nothing else.
fn asks_for_token(text: &[u8]) -> bool {
    let text = text.trim_ascii().strip_suffix(b";").unwrap_or(text.trim_ascii());
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is = |word: Option<&[u8]>, other: &str| {
        word.is_some_and(|word| word.eq_ignore_ascii_case(other.as_bytes()))
    };
    is(words.next(), "show") && is(words.next(), CAUSAL_TOKEN) && words.next().is_none()
}
