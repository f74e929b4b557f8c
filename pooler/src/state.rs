//! What a session has beyond the reported parameters: settings that follow the client, and what can't follow.
//!
//! A transaction that may have touched any of it is audited: behind its end the server is asked what the session has.
//! The settings are kept with the client ([`Settings`]) and given to whichever server it gets next; for what can't be
//! carried the client keeps its server ([`Pins`]) until an audit says that it is gone.

use sql::Effects;

mod audit;
mod brief;
mod calls;
mod functions;
mod pin;
mod sampler;
mod settings;

pub(crate) use audit::{
    Answer, Report, audit_sql, custom_sql, lookup_sql, named_sql, restore_sql, settings_sql,
};
pub(crate) use brief::{BriefPin, Habits, Leavings};
pub(crate) use functions::{Defined, Findings, Functions, Lookup, Trust, role_of};
pub(crate) use pin::{Pin, PinCounts};
pub(crate) use sampler::Sampler;
pub(crate) use settings::{Settings, is_of_transaction, write_changes};

/// What may give a session something that it did not have.
const MAKES: Effects = Effects::SETTINGS
    .union(Effects::PREPARED)
    .union(Effects::EXECUTE)
    .union(Effects::LISTEN)
    .union(Effects::HOLD_CURSOR)
    .union(Effects::TEMP)
    .union(Effects::LOCKS)
    .union(Effects::LOAD)
    .union(Effects::CALLS)
    // What is made goes to `pg_temp` if that is the first schema, and event triggers call functions.
    .union(Effects::DDL)
    .union(Effects::OPAQUE);

/// What may end something for which a client keeps its server.
const ENDS: Effects =
    Effects::CLOSE_CURSOR.union(Effects::TEMP_GONE).union(Effects::UNLOCKS).union(Effects::UNLISTEN);

/// What is about channels.
pub(crate) const CHANNELS: Effects = Effects::LISTEN.union(Effects::UNLISTEN);

/// What may change settings of the session.
pub(crate) const SETS: Effects = Effects::SETTINGS.union(Effects::RESET);

/// What may do anything.
pub(crate) const ANYTHING: Effects =
    Effects::CALLS.union(Effects::OPAQUE).union(Effects::EXECUTE).union(Effects::DISCARD_ALL);

/// What may be the reason of a pin, and what surely is one unless the transaction takes it back.
pub(crate) fn may_pin(effects: Effects) -> bool {
    effects.intersects(MAKES)
}

/// See [`may_pin`].
pub(crate) fn surely_pins(effects: Effects) -> bool {
    const PINS: Effects = Effects::TEMP
        .union(Effects::LOCKS)
        .union(Effects::HOLD_CURSOR)
        .union(Effects::PREPARED)
        .union(Effects::LOAD);
    effects.intersects(PINS)
}

/// Whether a transaction with these effects must be audited. `has_settings`: the session has some that it could lose.
pub(crate) fn must_audit(effects: Effects, pins: Pins, has_settings: bool) -> bool {
    effects.intersects(MAKES)
        || (!pins.is_empty() && effects.intersects(ENDS))
        || (has_settings && effects.intersects(Effects::RESET))
}

/// What a transaction with these effects may have changed of what ties the session to its client.
pub(crate) fn may_tie(effects: Effects, pins: Pins) -> Pins {
    const TIES: [(Pins, Effects); 5] = [
        (Pins::TEMPORARY, Effects::TEMP.union(Effects::TEMP_GONE).union(Effects::DDL)),
        (Pins::LOCKS, Effects::LOCKS.union(Effects::UNLOCKS)),
        (Pins::CURSORS, Effects::HOLD_CURSOR.union(Effects::CLOSE_CURSOR)),
        (Pins::PREPARED, Effects::PREPARED),
        (Pins::LISTENS, CHANNELS),
    ];
    let anything = effects.intersects(ANYTHING) || pins.contains(Pins::UNKNOWN);
    let mut tied = Pins::default();
    for (pin, by) in TIES {
        if anything || effects.intersects(by) {
            tied.add(pin);
        }
    }
    tied
}

/// Whether it must look at settings.
pub(crate) fn may_set(effects: Effects) -> bool {
    effects.intersects(SETS.union(ANYTHING))
}

/// Settings may be others than those that are known, until the next audit.
pub(crate) fn unsettles(effects: Effects) -> bool {
    effects.intersects(SETS.union(ANYTHING).union(Effects::LOCAL_SETTINGS))
}

/// What ties a client to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pins(u16);

impl Pins {
    pub(crate) const TEMPORARY: Pins = Pins(1);
    pub(crate) const LOCKS: Pins = Pins(2);
    pub(crate) const CURSORS: Pins = Pins(4);
    pub(crate) const PREPARED: Pins = Pins(8);
    pub(crate) const LISTENS: Pins = Pins(16);
    /// A library was loaded, which nothing unloads, or something else that only the session's end takes away.
    pub(crate) const LIBRARY: Pins = Pins(32);
    /// It has a setting that the client can't be given on another server, because only superusers may set it.
    pub(crate) const PRIVILEGED: Pins = Pins(1024);
    /// A prepared statement under a name of the client's was too long to be kept with it.
    pub(crate) const LONG: Pins = Pins(512);
    /// `currval` and `lastval` have values, which no audit shows.
    pub(crate) const SEQUENCES: Pins = Pins(128);
    /// `setseed` was called: the numbers that `random` gives follow from it.
    pub(crate) const SEED: Pins = Pins(256);
    /// It could not be found out what the session has.
    pub(crate) const UNKNOWN: Pins = Pins(64);
    /// All that an audit can be asked for.
    pub(crate) const AUDITED: Pins = Pins(1 | 2 | 4 | 8 | 16);

    pub(crate) const NAMES: [(Pins, &'static str); 11] = [
        (Pins::TEMPORARY, "temporary objects"),
        (Pins::LOCKS, "advisory locks"),
        (Pins::CURSORS, "cursors with hold"),
        (Pins::PREPARED, "prepared statements"),
        (Pins::LISTENS, "listen"),
        (Pins::LIBRARY, "loaded library"),
        (Pins::SEQUENCES, "sequences"),
        (Pins::SEED, "random seed"),
        (Pins::PRIVILEGED, "privileged setting"),
        (Pins::LONG, "long statement"),
        (Pins::UNKNOWN, "unknown"),
    ];

    /// To be taken along to another process.
    pub(crate) fn bits(self) -> u16 {
        self.0
    }

    pub(crate) fn from_bits(bits: u16) -> Pins {
        Pins(bits)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, other: Pins) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn remove(&mut self, other: Pins) {
        self.0 &= !other.0;
    }

    /// Those that `other` has not.
    pub(crate) fn without(mut self, other: Pins) -> Pins {
        self.remove(other);
        self
    }

    /// Those that an audit does not show.
    pub(crate) fn unaudited(self) -> Pins {
        Pins(self.0 & (Pins::LIBRARY.0 | Pins::LONG.0 | Pins::SEQUENCES.0 | Pins::SEED.0))
    }

    /// Those that only the client can end, so that `max_pins_per_pool` counts them.
    pub(crate) fn lasting(self) -> Pins {
        self.without(self.brief()).without(Pins::LISTENS)
    }

    /// Those that give way to clients that wait.
    pub(crate) fn brief(self) -> Pins {
        Pins(self.0 & (Pins::SEQUENCES.0 | Pins::SEED.0))
    }

    pub(crate) fn add(&mut self, other: Pins) {
        self.0 |= other.0;
    }

    /// The reasons, as the console and the log name them.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Pins::NAMES.iter().filter(move |(pin, _)| self.contains(*pin)).map(|(_, name)| *name)
    }

    /// The reasons in one text.
    pub(crate) fn reasons(self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }
}
