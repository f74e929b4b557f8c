//! What a client's messages may do to its session, as far as their texts tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::frame::HEADER_LEN;
use protocol::message::TxStatus;
use sql::{Assignment, Effects, Statement};

use super::Session;
use super::deadline::{begins_with_comment, note_head, sent_text};
use super::link::Link;
use super::request::Incoming;
use super::state::{Asked, Named};
use crate::intern::hash_of;
use crate::params::ParamSet;
use crate::pool::Pool;
use crate::prepared::{simple_query, split_name};
use crate::state::{self, Defined, Lookup};

/// This much of a statement is shown and logged, in bytes.
const LONGEST_SHOWN: usize = 200;

/// What resets settings, beside `SET ... TO DEFAULT`.
const RESETS: Effects = Effects::RESET.union(Effects::DISCARD_ALL);

/// More names than this, or longer ones (bytes), are not asked for. Whoever sends them keeps the server, because what it has set is not known.
const MOST_CUSTOM: usize = 4096;
const LONGEST_CUSTOM: usize = 1024;

/// What the audit behind a transaction will want to know of its statements. Most clients never leave one.
#[derive(Default)]
pub(super) struct Trail {
    /// Settings with a dot in their name that the client has named since the last look at all settings, or other things that
    /// look like one; ...
    pub(super) custom: BTreeSet<String>,
    /// ... there were more; ...
    pub(super) too_many: bool,
    /// ... and those for which the audit asks that is being answered.
    pub(super) asked_custom: BTreeSet<String>,
    /// The statement of the transaction at hand that may have pinned, without its literals, and whether it surely does.
    cause: Option<(bool, String)>,
    /// That of the transaction which is being audited.
    pub(super) blamed: String,
    /// The statements of a transaction that is audited as a sample.
    trusted: String,
    /// Those of the transaction which is being audited, if they were held harmless.
    pub(super) vouched: String,
    /// What the audit asks for.
    pub(super) asked: Asked,
    /// The settings that the transaction at hand has set, if those are all.
    pub(super) named: Named,
    /// The audit also looks up the settings that functions name.
    pub(super) lookup: Option<Lookup>,
    /// Settings may have been reset in the transaction at hand.
    pub(super) may_reset: bool,
    /// How far they have come on their way to what the client's start-up packet says of them.
    pub(super) returning: Returning,
    /// What the client knew of the reported parameters before it reset some: those of its start-up packet return to what
    /// that said, and so it is told only when they have.
    pub(super) told: Option<Arc<ParamSet>>,
}

/// What becomes of settings that the client resets, if its start-up packet had some.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Returning {
    #[default]
    No,
    /// They are being reset: a request behind that would run without what is to return.
    Reset,
    /// The server is being told.
    Told,
}

impl Trail {
    /// The transaction is over, and what it did is about to be asked for.
    pub(super) fn end_transaction(&mut self) {
        self.may_reset = false;
        self.blamed = self.cause.take().map(|(_, statement)| statement).unwrap_or_default();
        self.vouched = std::mem::take(&mut self.trusted);
    }

    fn trust(&mut self, text: &[u8]) {
        if self.trusted.len() < LONGEST_SHOWN {
            let separator = if self.trusted.is_empty() { "" } else { "; " };
            self.trusted += separator;
            self.trusted += &sql::outline(text, LONGEST_SHOWN);
        }
    }

    /// The first statement that may pin is to blame, unless a later one surely does.
    fn blame(&mut self, text: &[u8], surely: bool) {
        if self.cause.as_ref().is_none_or(|(sure, _)| surely && !sure) {
            self.cause = Some((surely, sql::outline(text, LONGEST_SHOWN)));
        }
    }

    fn note_custom(&mut self, name: &[u8]) {
        if let Ok(name) = std::str::from_utf8(name)
            && !self.custom.contains(name)
        {
            match self.custom.len() < MOST_CUSTOM && name.len() <= LONGEST_CUSTOM {
                true => drop(self.custom.insert(name.to_owned())),
                false => self.too_many = true,
            }
        }
    }
}

impl Session {
    /// Remembers what a message that goes to the server may do to the session. Returns its effects.
    pub(super) fn watch_state(&mut self, message: &Incoming<'_>) -> Effects {
        let Incoming { tag, bytes, complete, .. } = *message;
        // What is parsed counts when it is bound.
        let are_known = self.follows.statements > 0;
        if !(matches!(tag, b'Q' | b'B' | b'F') || tag == b'P' && !(complete && are_known)) {
            return Effects::NONE;
        }
        let Some(link) = &mut self.link else { return Effects::NONE };
        link.ran = true;
        let body = &bytes[HEADER_LEN..];
        let (text, mut effects, read_only) = match tag {
            b'Q' => {
                let text = simple_query(body);
                let scan = sql::scan(text);
                if matches!(scan.statement, Statement::Reset(_) | Statement::DiscardAll) {
                    link.keep_told(&self.params, &self.beginning, &self.pool);
                }
                (text, scan.effects, scan.read_only)
            }
            b'P' if complete => {
                let text = sent_text(tag, body);
                let scan = sql::scan(text);
                (text, scan.effects, scan.read_only)
            }
            b'P' => (sent_text(tag, body), Effects::NONE, false),
            b'B' => match self.statements.bound(body) {
                Some(bound) => {
                    if begins_with_comment(bound.0) {
                        note_head(&mut self.timing, Some(&*link), self.worker.now(), bound.0);
                    }
                    bound
                }
                // The unnamed statement is that of the batch, which has counted.
                None if !are_known && link.server.machine.batch_is_open() && binds_unnamed(body) => {
                    return Effects::NONE;
                }
                None => {
                    link.wrote = true;
                    if !are_known {
                        link.server.suspect |= Effects::OPAQUE;
                    }
                    return Effects::NONE;
                }
            },
            _ => (&[][..], Effects::CALLS, false),
        };
        if !complete && tag != b'B' {
            effects |= Effects::OPAQUE; // its end was not seen
        }
        if effects.contains(Effects::CALLS) && link.may_trust(text, &self.pool, self.worker.now()) {
            // What a clean function sets ends with the transaction.
            effects = effects.without(Effects::CALLS) | Effects::LOCAL_SETTINGS;
        }
        link.server.info.note_text(text);
        link.server.suspect |= effects;
        let wrote = !read_only;
        // Nearly every statement: it leaves the session as it is, and nobody will ask what it was.
        if effects.is_empty() && !wrote && !link.sampled && !self.pool.db.functions.hide(false, 0) {
            return effects;
        }
        let asks = effects.contains(Effects::SEQUENCE_READ);
        link.wrote |= wrote && !asks;
        link.server.leavings.note(effects, wrote, self.local.info.id);
        let advances =
            asks || effects.contains(Effects::SEQUENCE) || wrote && self.pool.habits.anybody_asks();
        if advances {
            let habits = &self.pool.habits;
            match asks {
                true => habits.asked_after(self.last_advance),
                false if self.brief.is_some() => habits.not_asked_after(self.last_advance),
                false => {}
            }
            if !asks || effects.contains(Effects::SEQUENCE) {
                self.last_advance = hash_of([&sql::outline(text, LONGEST_SHOWN)]);
            }
        }
        if link.sampled {
            link.trail().trust(text);
        }
        if advances || state::may_pin(effects) || self.pool.db.functions.hide(wrote, self.worker.now()) {
            link.trail().blame(text, state::surely_pins(effects));
        }
        if effects.contains(Effects::DDL) {
            self.pool.moments.advance(); // what is parsed behind it is parsed on the server
        }
        if effects.intersects(Effects::DDL.union(state::ANYTHING)) {
            link.note_definition(text, effects, &self.pool);
        }
        if effects.intersects(state::SETS) {
            let alone = link.server.machine.status() == TxStatus::Idle
                && !link.server.suspect.contains(Effects::TRANSACTION);
            let trail = link.trail();
            trail.named.note(if alone && effects == Effects::SETTINGS { set_name(text) } else { None });
            if !self.beginning.is_empty() {
                trail.may_reset = true;
                if effects.intersects(RESETS) || contains_word(text, b"default") {
                    trail.returning = Returning::Reset;
                }
            }
        }
        if effects.intersects(state::SETS.union(Effects::CALLS).union(Effects::OPAQUE)) {
            if !self.beginning.is_empty() && self.began.is_none() {
                self.began = Some(self.params.clone());
            }
            let trail = link.trail();
            sql::custom_settings(text).for_each(|name| trail.note_custom(&name));
            if tag == b'B' {
                dotted_values(body).for_each(|name| trail.note_custom(name)); // set_config($1, ...)
            }
        }
        effects
    }

    /// The text that a `Query` holds or a `Bind` runs.
    pub(super) fn text_of<'a>(&'a self, message: &Incoming<'a>) -> &'a [u8] {
        match message.tag {
            b'P' => &[],
            tag => self.text_in(tag, &message.bytes[HEADER_LEN..]),
        }
    }

    /// The text that the body of a `Query`, `Parse` or `Bind` is about.
    pub(super) fn text_in<'a>(&'a self, tag: u8, body: &'a [u8]) -> &'a [u8] {
        match tag {
            b'B' => self.statements.bound(body).map_or(&[][..], |(text, ..)| text),
            _ => sent_text(tag, body),
        }
    }
}

impl Link {
    pub(super) fn trail(&mut self) -> &mut Trail {
        self.trail.get_or_insert_default()
    }

    /// The client is about to reset settings: what it knows of them is kept, if the server would report others than those
    /// with which the client began.
    fn keep_told(&mut self, params: &Arc<ParamSet>, beginning: &[(String, String)], pool: &Pool) {
        if begins_otherwise(beginning, pool) {
            let knows = if self.bringing { params } else { &self.server.params }.clone();
            self.trail().told.get_or_insert(knows);
        }
    }

    /// All functions that a text calls are known to be clean. The transaction relies on that from here on: whoever changes
    /// anything until it ends may change these functions.
    fn may_trust(&mut self, text: &[u8], pool: &Pool, now: u64) -> bool {
        let Some(trust) = pool.db.functions.trust(now).filter(|_| !text.is_empty()) else { return false };
        let clean = !sql::scan_knowing(text, &|name| trust.contains(name)).effects.contains(Effects::CALLS);
        if clean {
            self.trust.get_or_insert(trust);
        }
        clean
    }

    /// Remembers what a text with these effects defines, if it defines anything.
    fn note_definition(&mut self, text: &[u8], effects: Effects, pool: &Pool) {
        let Some(defined) = defined_by(text, effects) else { return };
        let names = sql::custom_settings(text).filter_map(|name| String::from_utf8(name.into()).ok());
        let names = names.take(MOST_CUSTOM).collect();
        self.server.defining.get_or_insert_with(|| pool.db.define()).add(defined, names);
    }
}

/// Whether a reported parameter of the start-up packet is another than the server's own: then a reset reports what is
/// not the client's.
fn begins_otherwise(beginning: &[(String, String)], pool: &Pool) -> bool {
    let Some(welcome) = pool.welcome() else { return !beginning.is_empty() };
    beginning.iter().any(|(name, value)| {
        let index = pool.shared.tracked.index(name);
        let own = index.map(|index| welcome.defaults.values().get(index));
        own.is_some_and(|own| !own.is_some_and(|own| own.eq_ignore_ascii_case(value)))
    })
}

/// The setting that a text of one `SET` names; none of those that hold for a transaction only. `SET ... TO DEFAULT` gives
/// none a value: only a look at all tells that the session has none of its own now.
fn set_name(text: &[u8]) -> Option<String> {
    if let Some(Assignment::One { value: None, .. }) = sql::assignments(text).next() {
        return None;
    }
    let Statement::Set { name } = sql::scan(text).statement else { return None };
    let name = std::str::from_utf8(&name).ok()?.to_ascii_lowercase();
    (!state::is_of_transaction(&name)).then_some(name)
}

/// What is defined that may call functions, or is one. Where a text hides what it does, its words tell as well.
fn defined_by(text: &[u8], effects: Effects) -> Option<Defined> {
    const FUNCTIONS: [&[u8]; 6] =
        [b"function", b"procedure", b"routine", b"aggregate", b"extension", b"language"];
    const FOR_WRITES: [&[u8]; 3] = [b"trigger", b"default", b"check"];
    const FOR_ALL: [&[u8]; 6] = [b"view", b"rule", b"policy", b"operator", b"cast", b"domain"];
    let has = |words: &[&[u8]]| words.iter().any(|word| contains_word(text, word));
    if !has(&[b"create", b"alter"]) {
        return None;
    }
    let functions = has(&FUNCTIONS);
    let others = !effects.contains(Effects::TEMP);
    let hidden = [functions || others && has(&FOR_WRITES), functions || others && has(&FOR_ALL)];
    (hidden != [false, false]).then_some(Defined { functions, hidden })
}

/// Whether the word is somewhere in the text, in a name or a comment as well.
pub(super) fn contains_word(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
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
    .filter(|value| sql::may_name_setting(value))
}

/// The values of a `Bind`: portal, statement, formats, their number, then these.
fn after_formats(body: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_name(body)?;
    let (_, rest) = split_name(rest)?;
    let (formats, rest) = rest.split_first_chunk()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*formats)) * 2..)?;
    rest.get(2..)
}

/// Whether a `Bind` with this body is about the unnamed statement.
fn binds_unnamed(bind: &[u8]) -> bool {
    split_name(bind).and_then(|(_, rest)| split_name(rest)).is_some_and(|(name, _)| name.is_empty())
}
