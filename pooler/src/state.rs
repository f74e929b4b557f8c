//! What a session has beyond the reported parameters: settings that follow the client, and what can't follow.
//!
//! A transaction that may have touched any of it is audited: behind its end the server is asked what the session has.
//! The settings are kept with the client ([`Settings`]) and given to whichever server it gets next; for what can't be
//! carried the client keeps its server ([`Pins`]) until an audit says that it is gone.

use sql::Effects;

mod audit;
mod settings;

pub(crate) use audit::{Answer, audit_sql, restore_sql};
pub(crate) use settings::{Settings, write_changes};

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
    .union(Effects::OPAQUE);

/// What may end something for which a client keeps its server.
const ENDS: Effects = Effects::CLOSE_CURSOR.union(Effects::TEMP_GONE).union(Effects::UNLOCKS);

/// Whether a transaction with these effects must be audited.
pub(crate) fn must_audit(effects: Effects, pins: Pins) -> bool {
    effects.intersects(MAKES) || (!pins.is_empty() && effects.intersects(ENDS))
}

/// Settings may be others than those that are known, until the next audit.
pub(crate) fn unsettles(effects: Effects) -> bool {
    effects.intersects(
        Effects::SETTINGS.union(Effects::LOCAL_SETTINGS).union(Effects::CALLS).union(Effects::OPAQUE),
    )
}

/// What ties a client to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pins(u8);

impl Pins {
    pub(crate) const TEMPORARY: Pins = Pins(1);
    pub(crate) const LOCKS: Pins = Pins(2);
    pub(crate) const CURSORS: Pins = Pins(4);
    pub(crate) const PREPARED: Pins = Pins(8);
    pub(crate) const LISTENS: Pins = Pins(16);
    /// A library was loaded, which nothing unloads.
    pub(crate) const LIBRARY: Pins = Pins(32);
    /// `currval` and `lastval` have values, which no audit shows.
    pub(crate) const SEQUENCES: Pins = Pins(128);
    /// It could not be found out what the session has.
    pub(crate) const UNKNOWN: Pins = Pins(64);

    const NAMES: [(Pins, &'static str); 8] = [
        (Pins::TEMPORARY, "temporary objects"),
        (Pins::LOCKS, "advisory locks"),
        (Pins::CURSORS, "cursors with hold"),
        (Pins::PREPARED, "prepared statements"),
        (Pins::LISTENS, "listen"),
        (Pins::LIBRARY, "loaded library"),
        (Pins::SEQUENCES, "sequences"),
        (Pins::UNKNOWN, "unknown"),
    ];

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, other: Pins) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn remove(&mut self, other: Pins) {
        self.0 &= !other.0;
    }

    /// Those that an audit does not show.
    pub(crate) fn unaudited(self) -> Pins {
        Pins(self.0 & (Pins::LIBRARY.0 | Pins::SEQUENCES.0))
    }

    pub(crate) fn add(&mut self, other: Pins) {
        self.0 |= other.0;
    }

    /// The reasons, as the console and the log name them.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Pins::NAMES.iter().filter(move |(pin, _)| self.0 & pin.0 != 0).map(|(_, name)| *name)
    }
}
