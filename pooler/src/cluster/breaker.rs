//! Whether reads may go to a host. Pure.
//!
//! ```text
//!            failed                  its pause is over
//!   closed ─────────▶ open ──────────────────────────────▶ half-open
//!      ▲               ▲             failed: twice the pause │    │
//!      │               └─────────────────────────────────────┘    │
//!      └──────────────────────────────────────────────────────────┘ worked
//! ```
//!
//! The trial of a half-open one is the next look at the host; what works during the pause does not count, so that a host
//! that comes and goes is left alone longer and longer.

/// The first pause, and the longest, in microseconds.
const FIRST_PAUSE: u64 = 1_000_000;
const LONGEST_PAUSE: u64 = 30_000_000;

/// Closed for so long (microseconds) its earlier failures are forgotten.
const FORGIVEN_AFTER: u64 = 60_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    /// Nothing goes there before `until`.
    Open {
        until: u64,
    },
    HalfOpen,
}

#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    state: State,
    /// When that began, in microseconds; 0: it was never otherwise.
    since: u64,
    /// Why it was opened last; empty: never, or forgiven.
    reason: String,
    /// The pause at the next opening.
    pause: u64,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: State::Closed, since: 0, reason: String::new(), pause: FIRST_PAUSE }
    }
}

impl Breaker {
    /// The host did not do what any host must: a connection, an answer in time.
    pub(crate) fn failed(&mut self, now: u64, reason: &str) {
        self.look(now);
        self.reason = reason.to_owned();
        if matches!(self.state, State::Open { .. }) {
            return;
        }
        self.enter(State::Open { until: now + self.pause }, now);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The host has answered.
    pub(crate) fn worked(&mut self, now: u64) {
        self.look(now);
        match self.state {
            State::HalfOpen => self.enter(State::Closed, now),
            State::Closed if now.saturating_sub(self.since) >= FORGIVEN_AFTER => {
                self.pause = FIRST_PAUSE;
                self.reason.clear();
            }
            State::Closed | State::Open { .. } => {}
        }
    }

    /// Time has passed.
    pub(crate) fn look(&mut self, now: u64) {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.enter(State::HalfOpen, until);
        }
    }

    fn enter(&mut self, state: State, now: u64) {
        self.state = state;
        self.since = now;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// For the console.
    pub(crate) fn word(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen => "half-open",
        }
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// When its state began, in microseconds.
    pub(crate) fn since(&self) -> Option<u64> {
        (self.since > 0).then_some(self.since)
    }

    /// Until when nothing is tried, in microseconds.
    pub(crate) fn until(&self) -> Option<u64> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn one_failure_opens_it_for_a_while() {
        let mut breaker = Breaker::default();
        assert_eq!((breaker.word(), breaker.reason(), breaker.since()), ("closed", "", None));
        breaker.failed(10, "refused");
        assert_eq!((breaker.word(), breaker.reason(), breaker.since()), ("open", "refused", Some(10)));
        assert_eq!(breaker.until(), Some(10 + SECOND));
        breaker.worked(SECOND);
        assert_eq!(breaker.word(), "open", "its pause is not over");
        breaker.look(SECOND + 10);
        assert_eq!(
            (breaker.word(), breaker.since(), breaker.until()),
            ("half-open", Some(SECOND + 10), None)
        );
        assert!(!breaker.is_closed());
        breaker.worked(SECOND + 20);
        assert_eq!((breaker.word(), breaker.since()), ("closed", Some(SECOND + 20)));
        assert_eq!(breaker.reason(), "refused", "it can be seen why it was open");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut breaker = Breaker::default();
        let mut now = 1;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            breaker.failed(now, "timeout");
            let until = breaker.until().expect("open");
            pauses.push((until - now) / SECOND);
            breaker.failed(until - 1, "again");
            assert_eq!(breaker.until(), Some(until), "it is open already");
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_good_minute_forgives() {
        let mut breaker = Breaker::default();
        breaker.failed(1, "timeout");
        breaker.worked(2 * SECOND);
        breaker.failed(3 * SECOND, "timeout");
        assert_eq!(breaker.until(), Some(5 * SECOND), "twice the pause");
        breaker.worked(6 * SECOND);
        breaker.worked(66 * SECOND);
        assert_eq!(breaker.reason(), "");
        breaker.failed(67 * SECOND, "timeout");
        assert_eq!(breaker.until(), Some(68 * SECOND));
    }
}
