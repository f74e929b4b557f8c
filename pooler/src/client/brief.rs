//! State that no audit shows and that few ask for: what `currval` and `lastval` say, and the sequence of random numbers
//! behind `setseed`. The client keeps its server for it as long as nobody waits, and for a moment if somebody does. Where
//! it comes too late it is told that there is no value, never another client's.

use sql::Effects;

use super::Session;
use super::gather::Gather;
use super::request::Incoming;
use crate::state::{BriefPin, Pins};

/// How long (microseconds) a client that may have advanced a sequence keeps its server in case it asks for the value.
const MAY_ASK: u64 = 1_000_000;

impl Session {
    /// A message that asks for `currval` or `lastval` comes: what strangers have left goes.
    pub(super) fn ask_sequences(&mut self, message: &Incoming<'_>, out: &mut Gather<'_>) {
        self.asks_sequences = true;
        let Some(link) = &mut self.link else { return };
        let server = &mut link.server;
        // Behind what it has itself advanced here, in this transaction or since it keeps the server, nothing can go without
        // that; it is the first to ask, or the rest was taken off before.
        if !server.leavings.concern(self.local.info.id, true)
            || link.wrote
            || self.brief.is_some()
            || !server.runs_own_in_front()
        {
            return;
        }
        server.leavings.forget_sequences();
        server.leavings.note(Effects::SEQUENCE, false, self.local.info.id); // of this statement, perhaps
        let front = server.own_in_front(message.tag, &["DISCARD SEQUENCES".to_owned()]);
        out.insert(message.read, &front);
    }

    /// A transaction has ended: keeps the server if the client may yet look at what it has left there.
    pub(super) fn pin_briefly(&mut self, effects: Effects, wrote: bool) {
        let Some(link) = &mut self.link else { return };
        if effects.contains(Effects::DISCARD_ALL) {
            self.asks_sequences = false;
            return self.unpin();
        }
        let advanced = effects.contains(Effects::SEQUENCE) || wrote && self.pool.habits.anybody_asks();
        let pins = &mut link.server.pins;
        let seeded = effects.contains(Effects::SEED) || pins.contains(Pins::SEED);
        let last = self.last_advance;
        let asked = effects.contains(Effects::SEQUENCE_READ);
        let firm = seeded || asked || last != 0 && self.pool.habits.may_be_asked_after(last);
        if seeded {
            pins.add(Pins::SEED);
        }
        if self.asks_sequences || advanced && firm {
            pins.add(Pins::SEQUENCES);
        }
        if pins.brief().is_empty() {
            return;
        }
        let now = self.worker.now();
        let lasts = seeded || self.asks_sequences;
        self.local.unpin_at.set(if lasts { u64::MAX } else { now + MAY_ASK });
        match &mut self.brief {
            Some(brief) => {
                (brief.firm, brief.idle_since) = (firm, now);
                if asked {
                    brief.since = now;
                }
            }
            brief => {
                let counted = self.pool.pins.brief.count().0;
                *brief = Some(Box::new(BriefPin { since: now, idle_since: now, firm, _counted: counted }));
            }
        }
        self.worker.watch_pinned(&self.local);
        if self.must_unpin() {
            self.unpin();
        }
    }

    fn must_unpin(&self) -> bool {
        let now = self.worker.now();
        self.brief.as_ref().is_some_and(|brief| {
            now >= self.local.unpin_at.get() || brief.must_end(self.pool.oldest_wait(), now)
        })
    }

    pub(super) fn unpin(&mut self) {
        self.local.unpin_at.set(0);
        if self.brief.take().is_some() {
            self.pool.habits.not_asked_after(self.last_advance);
        }
        if let Some(link) = &mut self.link {
            link.server.pins.remove(Pins::SEQUENCES);
            link.server.pins.remove(Pins::SEED);
        }
    }

    /// Gives the server back when the client has not asked in time, or others need it.
    pub(super) fn unpin_in_time(&mut self) {
        if self.local.unpin_at.get() == 0 || !self.must_unpin() {
            return;
        }
        self.unpin();
        let _ = self.note_pins(); // there are no more than before
        if self.link.as_ref().is_some_and(|link| link.server.machine.owes_nothing()) {
            self.release_if_free();
        }
    }
}
