//! Session state: what a client's messages may do to it, and what the server says that there is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use protocol::frame::HEADER_LEN;
use protocol::message::{self, TxStatus};
use protocol::session::Origin;
use sql::{Effects, Statement};
use tracing::info;

use super::Session;
use crate::params::ParamSet;
use crate::prepared::{query_of, split_name};
use crate::server::Server;
use crate::state::{self, Answer, Pins, Settings, audit_sql, restore_sql};

/// How long (microseconds) a client that may have advanced a sequence keeps its server in case it asks for the value.
const MAY_ASK: u64 = 1_000_000;

/// More names than this are not asked for: no client needs so many, and a hostile one may send any.
const MOST_CUSTOM: usize = 256;

impl Session {
    /// Session state follows this client from server to server.
    pub(super) fn keeps_state(&mut self) -> bool {
        self.replication.is_none() && self.rules.now().preserves()
    }

    /// Remembers what a message that goes to the server may do to the session.
    pub(super) fn watch_state(&mut self, tag: u8, bytes: &[u8], complete: bool) {
        // What is parsed counts when it is bound.
        if !(matches!(tag, b'Q' | b'B' | b'F') || tag == b'P' && !complete) || !self.keeps_state() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        let body = &bytes[HEADER_LEN..];
        let (text, mut effects, mut read_only) = match tag {
            b'Q' => (query_of(body), Effects::NONE, false),
            b'P' => (&[][..], Effects::NONE, false),
            b'B' => match self.statements.bound(body) {
                Some(bound) => bound,
                None => return,
            },
            _ => (&[][..], Effects::CALLS, false),
        };
        if tag != b'B' && !text.is_empty() {
            let scan = sql::scan(text);
            (effects, read_only) = (scan.effects, scan.read_only);
            if matches!(scan.statement, Statement::Reset(_) | Statement::DiscardAll)
                && !self.beginning.is_empty()
            {
                link.told.get_or_insert_with(|| link.server.params.clone());
            }
        }
        if !complete && tag != b'B' {
            effects |= Effects::OPAQUE; // its end was not seen
        }
        link.server.suspect |= effects;
        link.wrote |= !read_only;
        link.may_reset |= effects.contains(Effects::SETTINGS) && !self.beginning.is_empty();
        if !effects.intersects(Effects::SETTINGS.union(Effects::CALLS).union(Effects::OPAQUE)) {
            return;
        }
        let mut note = |name: &[u8]| {
            if let Ok(name) = std::str::from_utf8(name)
                && link.custom.len() < MOST_CUSTOM
                && !link.custom.iter().any(|known| known == name)
            {
                link.custom.push(name.to_owned());
            }
        };
        sql::custom_settings(text).for_each(|name| note(&name));
        if tag == b'B' {
            dotted_values(body).for_each(note); // set_config($1, ...)
        }
    }

    /// Asks the server what its session has, if the transaction that has just ended may have changed it.
    pub(super) fn begin_audit(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let server = &mut link.server;
        if server.machine.idle().is_none() {
            return false;
        }
        let effects = std::mem::take(&mut server.suspect);
        let wrote = std::mem::take(&mut link.wrote);
        link.may_reset = false;
        self.pin_sequences(effects, wrote);
        let Some(link) = &mut self.link else { return false };
        let server = &mut link.server;
        if effects.contains(Effects::LOAD) {
            server.pins.add(Pins::LIBRARY);
        }
        if !state::must_audit(effects, server.pins) {
            return false;
        }
        let known = server.settings.values().keys().filter(|name| name.contains('.'));
        let known = known.filter(|name| !link.custom.contains(name));
        let mut sql = restore_sql(&self.beginning);
        sql += &audit_sql(known.chain(&link.custom).map(String::as_str));
        server.own_query(Origin::Aside);
        link.unsent.add(|out| message::query(out, &sql));
        link.audit = Some(Answer::default());
        self.local.preparing.set(true);
        true
    }

    /// `currval` and `lastval` belong to the session in which a sequence was advanced, which an `INSERT` may do unseen.
    /// Who asks for them keeps its server; who may ask keeps it for a moment.
    fn pin_sequences(&mut self, effects: Effects, wrote: bool) {
        let Some(link) = &mut self.link else { return };
        if effects.contains(Effects::DISCARD_ALL) {
            link.server.pins.remove(Pins::SEQUENCES);
            self.local.unpin_at.set(0);
            self.reads_sequences = false;
            return;
        }
        if effects.contains(Effects::SEQUENCE_READ) {
            self.reads_sequences = true;
            self.pool.reads_sequences.store(true, Relaxed);
        }
        let advanced =
            effects.contains(Effects::SEQUENCE) || wrote && self.pool.reads_sequences.load(Relaxed);
        if self.reads_sequences {
            link.server.pins.add(Pins::SEQUENCES);
            self.local.unpin_at.set(0);
        } else if advanced {
            link.server.pins.add(Pins::SEQUENCES);
            if self.local.unpin_at.replace(self.worker.now() + MAY_ASK) == 0 {
                self.worker.pinned.borrow_mut().push(self.local.clone());
            }
        }
    }

    /// Gives the server back when the client has not asked for `currval` in time.
    pub(super) fn unpin_in_time(&mut self) {
        let at = self.local.unpin_at.get();
        if at == 0 || self.worker.now() < at {
            return;
        }
        self.local.unpin_at.set(0);
        let Some(link) = &mut self.link else { return };
        link.server.pins.remove(Pins::SEQUENCES);
        if link.server.machine.owes_nothing() {
            self.release_if_free();
        }
    }

    /// Gives settings that were reset in a transaction the values of the client's start-up packet; behind its end the
    /// audit does.
    pub(super) fn restore_in_transaction(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let server = &mut link.server;
        if !link.may_reset || server.machine.status() != TxStatus::Open || server.machine.batch_is_open() {
            return false;
        }
        link.may_reset = false;
        server.own_query(Origin::Aside);
        link.unsent.add(|out| message::query(out, &restore_sql(&self.beginning)));
        self.local.preparing.set(true);
        true
    }

    /// The settings that were reset have returned to the client's beginning: it is told of those that it does not know.
    pub(super) fn tell_changes(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(told) = link.told.take() else { return };
        for (index, name) in self.worker.shared.tracked.names().enumerate() {
            let now = link.server.params.values().get(index);
            if let Some(value) = now.filter(|_| now != told.values().get(index)) {
                self.unsent.add(|out| message::parameter_status(out, name, value));
            }
        }
    }

    /// What the server's session has is the client's.
    pub(super) fn on_audit(&mut self, answer: &Answer, failed: bool) {
        let Some(link) = &mut self.link else { return };
        let server = &mut link.server;
        let before = server.pins;
        match answer.read().filter(|_| !failed) {
            Some(mut report) => {
                report.settings.retain(|name, value| match name.as_str() {
                    "role" => value != "none",
                    "session_authorization" => *value != self.pool.user.name,
                    name => {
                        !name.starts_with("transaction_") && self.worker.shared.tracked.index(name).is_none()
                    }
                });
                server.settings = self.pool.settings.intern(Settings::new(report.settings));
                self.settings = server.settings.clone();
                server.pins = report.pins;
            }
            None => {
                server.suspect |= Effects::OPAQUE; // the next transaction is audited again
                server.pins = Pins::UNKNOWN;
            }
        }
        server.pins.add(before.unaudited());
        if before.is_empty() && !server.pins.is_empty() {
            let reasons: Vec<_> = server.pins.names().collect();
            info!(peer = %self.local.info.peer(), "keeps its server: {}", reasons.join(", "));
        }
    }
}

/// Under what a statement that is parsed now is known. While settings may have changed it is known under none.
pub(super) fn meaning(settings: &Settings, params: &ParamSet, server: &Server) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    match state::unsettles(server.suspect) {
        true => NEXT.fetch_add(1, Relaxed) | 1 << 63,
        false => (settings.meaning() ^ params.meaning()) >> 1,
    }
}

/// Values in a `Bind` that may be the name of a setting with a dot in it.
fn dotted_values(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_formats(body).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, values) = rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length).max(0) as usize;
        let (value, behind) = values.split_at_checked(length)?;
        rest = behind;
        Some(value)
    })
    .filter(|value| {
        let name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
        value.len() <= 128 && value.contains(&b'.') && value.iter().all(name)
    })
}

/// The values of a `Bind`: portal, statement, formats, their number, then these.
fn after_formats(body: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_name(body)?;
    let (_, rest) = split_name(rest)?;
    let (formats, rest) = rest.split_first_chunk()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*formats)) * 2..)?;
    rest.get(2..)
}
