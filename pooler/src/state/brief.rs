use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sql::Effects;

use crate::pool::{Counting, lock};
use crate::secrets::random;

/// What no audit shows: the state of random numbers, and what `currval` and `lastval` say.
const UNSEEN: Effects = Effects::SEQUENCE.union(Effects::SEED);

/// What clients have left in a server's session that no audit shows. It stays when the server changes hands, and is taken
/// off only for a client that could see it.
#[derive(Debug, Default)]
pub(crate) struct Leavings {
    what: Effects,
    /// Id of the client whose all of it is; [`SEVERAL`].
    by: u64,
}

const SEVERAL: u64 = u64::MAX;

impl Leavings {
    /// A client may have left this.
    pub(crate) fn note(&mut self, effects: Effects, wrote: bool, client: u64) {
        let advanced = if wrote { Effects::SEQUENCE } else { Effects::NONE };
        let unseen = (effects | advanced).intersection(UNSEEN);
        if unseen.is_empty() {
            return;
        }
        self.by = if self.what.is_empty() || self.by == client { client } else { SEVERAL };
        self.what |= unseen;
    }

    /// Something is there that this client must not see. `asks`: it may look at sequences.
    pub(crate) fn concern(&self, client: u64, asks: bool) -> bool {
        let visible = if asks { UNSEEN } else { Effects::SEED };
        self.by != client && self.what.intersects(visible)
    }

    /// The statements that take it off.
    pub(crate) fn write_removal(&mut self, sql: &mut String) {
        if self.what.contains(Effects::SEED) {
            let seed = i64::from_be_bytes(random()) as f64 / i64::MAX as f64;
            let _ = write!(sql, "SELECT pg_catalog.setseed({seed:.18});");
        }
        if self.what.contains(Effects::SEQUENCE) {
            sql.push_str("DISCARD SEQUENCES;");
        }
        self.what = Effects::NONE;
    }

    /// What strangers have left of sequences is about to be discarded.
    pub(crate) fn forget_sequences(&mut self) {
        self.what = self.what.intersection(Effects::SEED);
    }
}

/// After which statements the clients of a pool ask for `currval` or `lastval`: behind others nobody's server is kept.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    anybody_asks: AtomicBool,
    /// By the hash of a statement's outline.
    statements: Mutex<HashMap<u64, Habit>>,
}

#[derive(Debug, Clone, Copy)]
enum Habit {
    AskedAfter,
    /// So many times in vain.
    NotAskedAfter(u8),
}

/// A statement behind which nobody has asked so often is taken for one behind which nobody does. Who inserts several rows
/// asks for the last one's number only.
const IN_VAIN: u8 = 16;

/// More statements are not told apart.
const MOST_STATEMENTS: usize = 4096;

impl Habits {
    /// Some client has asked.
    pub(crate) fn anybody_asks(&self) -> bool {
        self.anybody_asks.load(Relaxed)
    }

    /// A client asks, and this was the last statement before that could be a reason.
    pub(crate) fn asked_after(&self, statement: u64) {
        self.anybody_asks.store(true, Relaxed);
        self.note(statement, |_| Habit::AskedAfter);
    }

    /// A client has been given time to ask, and has not.
    pub(crate) fn not_asked_after(&self, statement: u64) {
        self.note(statement, |habit| match habit {
            Some(Habit::AskedAfter) => Habit::AskedAfter,
            Some(Habit::NotAskedAfter(times)) => Habit::NotAskedAfter(times.saturating_add(1)),
            None => Habit::NotAskedAfter(1),
        });
    }

    fn note(&self, statement: u64, change: impl FnOnce(Option<Habit>) -> Habit) {
        let mut statements = lock(&self.statements);
        let habit = statements.get(&statement).copied();
        if habit.is_some() || statements.len() < MOST_STATEMENTS {
            statements.insert(statement, change(habit));
        }
    }

    /// A client may ask after this statement.
    pub(crate) fn may_be_asked_after(&self, statement: u64) -> bool {
        match lock(&self.statements).get(&statement) {
            None | Some(Habit::AskedAfter) => true,
            Some(Habit::NotAskedAfter(times)) => *times < IN_VAIN,
        }
    }
}

/// A pin for what the client may look at later, or never. It gives way to clients that wait.
#[derive(Debug)]
pub(crate) struct BriefPin {
    /// When it began, or the client last asked, in microseconds.
    pub(crate) since: u64,
    /// When the client's last transaction ended.
    pub(crate) idle_since: u64,
    /// It does so only after a while.
    pub(crate) firm: bool,
    pub(crate) _counted: Counting,
}

/// How long (microseconds) a client must have waited, and the one that keeps the server must have been idle, for a firm
/// pin to end; ...
const IDLE: u64 = 100_000;

/// ... or not have asked again, if it is not idle.
const BUSY: u64 = 1_000_000;

impl BriefPin {
    /// `waiting`: since when a client waits.
    pub(crate) fn must_end(&self, waiting: Option<u64>, now: u64) -> bool {
        let Some(waiting) = waiting else { return false };
        let since = |then: u64| now.saturating_sub(then);
        !self.firm || since(waiting) >= IDLE && (since(self.idle_since) >= IDLE || since(self.since) >= BUSY)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::Tally;

    #[test]
    fn strangers_leavings_are_taken_off_and_own_ones_are_not() {
        let mut leavings = Leavings::default();
        leavings.note(Effects::CALLS, false, 1);
        assert!(!leavings.concern(2, true));
        leavings.note(Effects::NONE, true, 1);
        assert_eq!(
            [(1, true), (2, true), (2, false)].map(|(c, asks)| leavings.concern(c, asks)),
            [false, true, false]
        );
        leavings.note(Effects::SEED, true, 2);
        assert_eq!(
            [(1, true), (2, true), (2, false)].map(|(c, asks)| leavings.concern(c, asks)),
            [true, true, true]
        );
        let mut sql = String::new();
        leavings.write_removal(&mut sql);
        assert!(
            sql.starts_with("SELECT pg_catalog.setseed(") && sql.ends_with(");DISCARD SEQUENCES;"),
            "{sql}"
        );
        let seed: f64 = sql["SELECT pg_catalog.setseed(".len()..sql.find(')').unwrap()].parse().unwrap();
        assert!((-1.0..=1.0).contains(&seed));
        assert!(!leavings.concern(1, true));
    }

    #[test]
    fn habits_are_learned() {
        let habits = Habits::default();
        assert!(!habits.anybody_asks() && habits.may_be_asked_after(1));
        habits.asked_after(1);
        for statement in [1, 2] {
            (0..IN_VAIN).for_each(|_| habits.not_asked_after(statement));
        }
        assert!(habits.anybody_asks() && habits.may_be_asked_after(1) && !habits.may_be_asked_after(2));
        habits.asked_after(2);
        assert!(habits.may_be_asked_after(2));
    }

    #[test]
    fn pins_end_for_those_who_wait() {
        let counted = || Arc::new(Tally::default()).count().0;
        let mut pin = BriefPin { since: 0, idle_since: 0, firm: false, _counted: counted() };
        assert!(!pin.must_end(None, 10 * BUSY));
        assert!(pin.must_end(Some(5), 5));
        pin.firm = true;
        assert!(pin.must_end(Some(0), IDLE));
        pin.idle_since = 5;
        assert!(!pin.must_end(Some(0), IDLE), "a transaction has just ended");
        pin.idle_since = BUSY;
        assert!(!pin.must_end(Some(BUSY), BUSY), "nobody has waited for long");
        assert!(pin.must_end(Some(0), BUSY));
        pin.since = 5;
        assert!(!pin.must_end(Some(0), BUSY), "it has just asked");
    }
}
