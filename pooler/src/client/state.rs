//! Session state behind a transaction: what the server says that there is.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use protocol::error_fields::ErrorMessage;
use protocol::message::{self, TxStatus};
use protocol::session::Origin;
use protocol::sqlstate::SqlState;
use sql::{Effects, Statement};
use tracing::{info, warn};

use super::link::Link;
use super::request::Incoming;
use super::trail::Returning;
use super::{End, Session};
use crate::error::Refusal;
use crate::params::ParamSet;
use crate::state::{
    self, Answer, Defined, Pins, Settings, audit_sql, custom_sql, lookup_sql, named_sql, restore_sql,
    role_of, settings_sql,
};
use crate::vacate::{Vacating, vacate};

impl Session {
    /// Whether the request at hand must wait until the pooler has no idle connection to the database that it names.
    pub(super) fn must_vacate(&mut self, message: &Incoming<'_>) -> bool {
        if self.local.vacating.replace(Vacating::No) == Vacating::Done {
            return false;
        }
        let Statement::Vacate(name) = sql::scan(self.text_of(message)).statement else { return false };
        let name = String::from_utf8_lossy(&name).into_owned();
        self.local.vacating.set(Vacating::Underway);
        self.worker.spawn(vacate(self.pool.clone(), name, self.local.clone()));
        true
    }

    /// Asks the server what its session has, if the transaction that has just ended may have changed it.
    pub(super) fn begin_audit(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let ran = std::mem::take(&mut link.ran);
        if !ran && link.server.pins.contains(Pins::UNKNOWN) {
            return false; // it was asked, in vain
        }
        let mut effects = std::mem::take(&mut link.server.suspect);
        if let Some(trust) = link.trust.take()
            && !(self.pool.db.is_settled() && self.pool.db.functions.still_trusts(&trust))
        {
            effects |= Effects::CALLS;
        }
        let wrote = std::mem::take(&mut link.wrote);
        // Nearly every transaction: nothing was done to the session, and nothing is kept in it.
        let hides = ran && self.pool.db.functions.hide(wrote, self.worker.now());
        let plain = effects.is_empty() && link.server.pins.is_empty() && self.brief.is_none();
        let watched = hides || link.sampled || wrote && self.pool.habits.anybody_asks();
        if plain && !watched {
            return false;
        }
        let thorough = std::mem::take(&mut link.sampled) || hides;
        let trail = link.trail();
        trail.end_transaction();
        let named = std::mem::take(&mut trail.named);
        self.pin_briefly(effects, wrote);
        let _ = self.note_pins(); // none of them lasts
        if let Some(link) = self.link.as_mut().filter(|_| effects.contains(Effects::LOAD)) {
            link.server.pins.add(Pins::LIBRARY);
        }
        if effects.contains(Effects::DEFAULTS) {
            // Sessions that begin now have other settings, and the idle servers pass for such.
            for pool in self.pool.neighbours() {
                pool.db.functions.forget(Defined::default(), []);
                pool.renew("its defaults may have changed");
            }
        }
        if let Some(link) = &mut self.link {
            link.server.defining = None;
        }
        match self.what_to_ask(effects, thorough, named) {
            Some(asked) => self.ask(asked),
            None => {
                // A reset that needs no mending.
                self.tell_changes();
                self.link.iter_mut().for_each(|link| link.trail().returning = Returning::No);
                return false;
            }
        }
        true
    }

    /// What has to be asked for behind a transaction with these effects. `thorough`: everything, whatever they are.
    fn what_to_ask(&mut self, effects: Effects, thorough: bool, named: Named) -> Option<Asked> {
        let link = self.link.as_mut()?;
        let server = &link.server;
        // What RESET could take off or bring back to what the server has.
        let tracked = &self.worker.shared.tracked;
        let has_settings = !server.settings.values().is_empty()
            || server.pins.contains(Pins::PRIVILEGED)
            || self.beginning.iter().any(|(name, value)| {
                let now = tracked.index(name).and_then(|index| server.params.values().get(index));
                !now.is_some_and(|now| now.eq_ignore_ascii_case(value))
            });
        let must = state::must_audit(effects, server.pins, has_settings);
        if !must && !thorough {
            return None;
        }
        let asked = match thorough {
            true => Asked { ties: Pins::AUDITED, settings: AskedSettings::All },
            false => Asked {
                ties: state::may_tie(effects, server.pins),
                settings: named.into_asked(effects, |name| {
                    let begins = self.beginning.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
                    (!begins).then(|| tracked.index(name).is_none())
                }),
            },
        };
        link.audit_matters = must;
        if must {
            link.trail().vouched.clear(); // they were not held harmless
        }
        (asked != Asked::default()).then_some(asked)
    }

    /// Sends the audit.
    fn ask(&mut self, asked: Asked) {
        let Some(link) = &mut self.link else { return };
        let mut sql = String::new();
        if asked.settings == AskedSettings::All {
            sql += &restore_sql(&self.beginning);
        }
        sql += &audit_sql(asked.ties);
        let trail = link.trail.get_or_insert_default();
        trail.lookup = None;
        if let AskedSettings::Named(names) = &asked.settings {
            sql += &named_sql(names);
        }
        if asked.settings == AskedSettings::All {
            let known = link.server.settings.values().keys().filter(|name| name.contains('.'));
            trail.asked_custom = std::mem::take(&mut trail.custom);
            trail.asked_custom.extend(known.cloned());
            sql += &settings_sql(&self.pool.user.name, &trail.asked_custom);
            if std::mem::take(&mut trail.too_many) {
                link.server.pins.add(Pins::LIBRARY);
            }
            match self.pool.db.functions.names(self.worker.now()) {
                Ok(names) => sql += &custom_sql(&names),
                Err(lookup) => {
                    sql += &lookup_sql(lookup.since.as_ref());
                    trail.lookup = Some(lookup);
                }
            }
        }
        trail.asked = asked;
        link.audit = Some(Answer::new(trail.lookup.is_some()));
        self.send_aside(&sql);
    }

    /// Sends a query of the pooler's own for the client's session.
    pub(super) fn send_aside(&mut self, sql: &str) {
        let Some(link) = &mut self.link else { return };
        link.add_query(Origin::Aside, sql);
        if link.is_returning(Returning::Reset) {
            link.trail().returning = Returning::Told;
        }
        self.local.preparing.set(true);
    }

    /// Gives settings that were reset in a transaction the values of the client's start-up packet; behind its end the
    /// audit does.
    pub(super) fn restore_in_transaction(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(trail) = link.trail.as_mut().filter(|trail| trail.may_reset) else { return false };
        if link.server.machine.status() != TxStatus::Open || link.server.machine.batch_is_open() {
            return false;
        }
        trail.may_reset = false;
        self.send_aside(&restore_sql(&self.beginning));
        true
    }

    /// The settings that were reset have returned to the client's beginning: it is told of those that it does not know.
    pub(super) fn tell_changes(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(told) = link.trail.as_mut().and_then(|trail| trail.told.take()) else { return };
        for (index, name) in self.worker.shared.tracked.names().enumerate() {
            let now = link.server.params.values().get(index);
            if let Some(value) = now.filter(|_| now != told.values().get(index)) {
                self.unsent.add(|out| message::parameter_status(out, name, value));
            }
        }
    }

    /// What the server's session has is the client's.
    ///
    /// # Errors
    /// It has what it would have to keep its server for, and too many clients keep theirs.
    pub(super) fn on_audit(&mut self, answer: &Answer, failed: bool) -> Result<(), End> {
        let utf8 = self.link.as_ref().is_some_and(|link| self.reads_utf8(&link.server.params));
        let mut report = answer.read(utf8).filter(|_| !failed);
        let asked =
            self.link.as_mut().map(|link| std::mem::take(&mut link.trail().asked)).unwrap_or_default();
        if let Some(report) = report.as_mut().filter(|_| asked.ties.contains(Pins::LISTENS)) {
            self.on_channels(report);
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        link.audit_matters = false;
        let (server, trail) = (&mut link.server, link.trail.get_or_insert_default());
        let (before, had) = (server.pins, self.settings.clone());
        let asked_custom = std::mem::take(&mut trail.asked_custom);
        match report {
            Some(mut report) => {
                let user = &self.pool.user.name;
                let mut role = self.pool.db.functions.role(user);
                if let Some(lookup) = trail.lookup.take() {
                    role = role_of(&report.functions.roles, user);
                    self.pool.db.looked_up(lookup, report.functions, self.worker.now());
                }
                report.settings.retain(|name, value| match name.as_str() {
                    "role" => *value != role,
                    "session_authorization" => *value != self.pool.user.name,
                    name => {
                        !state::is_of_transaction(name) && self.worker.shared.tracked.index(name).is_none()
                    }
                });
                if asked.settings != AskedSettings::None {
                    let mut settings = report.settings;
                    if let AskedSettings::Named(_) = asked.settings {
                        let kept = had.values().iter().filter(|(name, _)| !settings.contains_key(*name));
                        let kept: Vec<_> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
                        settings.extend(kept);
                    }
                    server.settings = self.pool.settings.intern(Settings::new(settings));
                    self.settings = server.settings.clone();
                }
                server.pins = before.without(asked.ties);
                if asked.settings == AskedSettings::All {
                    server.pins.remove(Pins::PRIVILEGED);
                }
                server.pins.remove(Pins::UNKNOWN);
                server.pins.add(report.pins);
            }
            None => {
                if trail.lookup.take().is_some() {
                    self.pool.db.functions.lookup_failed(self.worker.now());
                    link.ran = true; // asked again at once, without that
                }
                server.suspect |= Effects::OPAQUE; // the next transaction is audited again
                trail.custom.extend(asked_custom);
                server.pins = Pins::UNKNOWN;
            }
        }
        server.pins.add(before.unaudited());
        let new = server.pins.without(before).lasting();
        let trusted = std::mem::take(&mut trail.vouched);
        // What connect_query has set is no client's doing.
        self.note_settings();
        let set = had != self.settings && self.pool.db.spec.load().connect_query.is_none();
        if !trusted.is_empty() && (set || !new.is_empty()) {
            warn!(peer = %self.local.info.peer(), "the session was changed by statements that were held harmless: {trusted}");
        }
        self.note_pins()?;
        if !new.is_empty() {
            let reasons = new.reasons();
            info!(peer = %self.local.info.peer(), "keeps its server: {reasons}: {}", self.blamed());
        }
        Ok(())
    }

    /// Makes known what the client now keeps its server for.
    pub(super) fn note_pins(&mut self) -> Result<(), End> {
        let limit = self.rules.now().max_pins.map(NonZeroUsize::get);
        let Some(link) = &self.link else { return Ok(()) };
        let now = self.worker.now();
        let handed_over = link.native.as_ref().is_some_and(|native| !native.stays());
        let pins = link.server.pins.without(if handed_over { Pins::LISTENS } else { Pins::default() });
        let mut pin = self.local.info.pin();
        match self.pool.pins.update(&mut pin, pins, limit, now, || self.blamed().to_owned()) {
            true => Ok(()),
            false => Err(End::Refused(self.too_many_pins(pins, self.blamed()))),
        }
    }

    /// The statement that is to blame for a pin.
    fn blamed(&self) -> &str {
        self.link.as_ref().and_then(|link| link.trail.as_ref()).map_or("", |trail| &trail.blamed)
    }

    /// The transaction has ended before anybody could know what it leaves behind; so the session ends with what it had.
    fn too_many_pins(&self, pins: Pins, statement: &str) -> Refusal {
        let text = format!(
            "too many clients of pool \"{}\" keep their server connection (max_pins_per_pool)",
            self.pool.name()
        );
        let detail = format!(
            "It would be kept for: {}, since: {statement}. The transaction is over; what the session had is gone.",
            pins.lasting().reasons()
        );
        let hint = "Make it and use it up in one transaction, use a database with pool_mode = session, or raise \
                    max_pins_per_pool. SHOW PINS on the console tells who keeps a server connection.";
        let message = ErrorMessage::fatal(SqlState::CONFIGURATION_LIMIT_EXCEEDED, text);
        message.with_detail(detail).with_hint(hint).into()
    }
}

impl Link {
    /// Whether it has any of these, the server is being asked.
    pub(super) fn asks_for(&self, pins: Pins) -> bool {
        self.audit.is_some() && self.trail.as_ref().is_some_and(|trail| trail.asked.ties.contains(pins))
    }
}

/// What an audit asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    ties: Pins,
    settings: AskedSettings,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum AskedSettings {
    #[default]
    None,
    /// These only, whose values PostgreSQL gives at little cost.
    Named(Vec<String>),
    /// All, which costs it 0.35 ms.
    All,
}

/// What transactions of one plain `SET` each have set.
#[derive(Debug, Default)]
pub(super) struct Named {
    names: Vec<String>,
    /// Settings may have been changed in other ways, too.
    others: bool,
    /// A `SET` has succeeded.
    pub(super) done: bool,
}

impl Named {
    pub(super) fn note(&mut self, name: Option<String>) {
        self.others |= name.is_none();
        self.names.extend(name);
    }

    /// What is to be asked for behind a transaction with these effects. `carried` says of a setting whether it is to be
    /// asked for, or `None` if only a look at all of them tells what it is.
    fn into_asked(self, effects: Effects, carried: impl Fn(&str) -> Option<bool>) -> AskedSettings {
        if !state::may_set(effects) {
            return AskedSettings::None;
        }
        let all = self.others || effects.intersects(state::ANYTHING.union(Effects::RESET));
        if all || self.names.iter().any(|name| carried(name).is_none()) {
            return AskedSettings::All;
        }
        let names: Vec<_> = self.names.into_iter().filter(|name| carried(name) == Some(true)).collect();
        match names.is_empty() || !self.done {
            true => AskedSettings::None,
            false => AskedSettings::Named(names),
        }
    }
}

/// Under what a statement that is parsed now is known. While settings may be others than the pooler knows it is known under
/// none.
pub(super) fn meaning(session: &Settings, wanted: &ParamSet, link: &Link) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let is_asked = link.audit.is_some()
        && link.trail.as_ref().is_some_and(|trail| trail.asked.settings != AskedSettings::None);
    let params = if link.bringing { wanted } else { &*link.server.params };
    match is_asked || state::unsettles(link.server.suspect) {
        true => NEXT.fetch_add(1, Relaxed) | 1 << 63,
        false => (session.meaning() ^ params.meaning()) >> 1,
    }
}
