//! How many clients may wait.

use std::num::NonZeroUsize;

use protocol::error_fields::{ErrorMessage, Severity};
use protocol::sqlstate::SqlState;

use super::{Counting, Pool, PoolRules, Tally, lock};

/// More clients wait for this pool than may.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowded;

impl Crowded {
    /// Under what it is counted.
    pub(crate) const REASON: &'static str = "max_waiting_clients";

    /// What the client is told that would be one more.
    pub(crate) fn message(self, severity: Severity) -> ErrorMessage {
        let text = "too many clients already wait for a server connection (max_waiting_clients)";
        let hint = "The pool is overloaded. Try again a moment later, or give it more server connections.";
        ErrorMessage::new(severity, SqlState::TOO_MANY_CONNECTIONS, text).with_hint(hint)
    }
}

impl Pool {
    /// Counts one more client that waits, unless too many do. In a pause they all may.
    pub(crate) fn join_crowd(&self) -> Result<Option<Counting>, Crowded> {
        let rules = self.rules.load();
        let Some(most) = rules.max_waiting.filter(|_| !self.is_held()) else { return Ok(None) };
        let (counting, waiting) = self.crowd.count();
        if waiting <= most.get().saturating_add(self.coming(&rules)) {
            return Ok(Some(counting));
        }
        Err(Crowded)
    }

    /// How many of those who wait need not wait for others, because connections can be opened for them.
    fn coming(&self, rules: &PoolRules) -> usize {
        let dialling = lock(&self.dialling);
        if dialling.failure.is_some() {
            return 0;
        }
        let left = |tally: &Tally, most: Option<usize>| {
            most.map_or(usize::MAX, |most| most.saturating_sub(tally.get()))
        };
        left(&self.open, rules.size)
            .min(left(&self.db.servers, rules.max_db.map(NonZeroUsize::get)))
            .min(left(&self.user.servers, rules.max_user.map(NonZeroUsize::get)))
            .saturating_add(dialling.connecting)
    }
}
