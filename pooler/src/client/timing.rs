//! A client's clocks, and what of its time is over. Only clients with a limit have them.

use std::time::Duration;

use protocol::error_fields::ErrorMessage;
use protocol::message::TxStatus;
use protocol::sqlstate::SqlState;

use super::deadline::Deadlines;
use super::link::Link;
use crate::config::{OnTimeout, TimeLimits};
use crate::error::Refusal;

/// Moments are in microseconds of the process's clock, 0 is none.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// As the request at hand has found them.
    pub(super) limits: TimeLimits,
    /// What the client itself says of its requests.
    pub(super) deadlines: Deadlines,
    /// When the request at hand came; it may have waited for a server since.
    asked: u64,
    /// When the statement at hand began, later by the time in which the client did not take its answer.
    statement: u64,
    /// Since when the client does not take what it has been sent.
    blocked: u64,
    /// When nothing was owed to the client any more.
    idle: u64,
    /// When the statement at hand was cancelled for its time, or later, when the server had from the client what it waited
    /// for and could heed that.
    cancelled: u64,
    /// The request at hand was cancelled for its time, and nothing else of it will run.
    late: bool,
    /// Statements sent and not known to have ended.
    pending: u32,
    /// The server was asked for its replies to the batch at hand, to see which statement it works on.
    pub(super) flushed: bool,
    /// The statement that runs is being cancelled because its transaction takes too long.
    pub(super) expiring: Option<Over>,
    /// The client was told that, in place of the server's error.
    pub(super) was_told: bool,
    /// The pooler ends the transaction.
    pub(super) ending: bool,
    /// The transaction was ended for its time.
    pub(super) expired: Expired,
}

/// What is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Query,
    Transaction,
    IdleTransaction,
    /// The request's time.
    Request,
    /// The statement's time.
    Statement,
    /// The time in which the server had to end it.
    Grace,
}

impl Over {
    /// The setting that says how long it may take.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Over::Query => "query_timeout",
            Over::Transaction => "transaction_timeout",
            Over::IdleTransaction => "idle_transaction_timeout",
            Over::Request => "request_timeout",
            Over::Statement => "statement_timeout",
            Over::Grace => "statement_timeout_grace",
        }
    }

    /// What a client is told that keeps its connection.
    pub(super) fn error(self) -> ErrorMessage {
        let (code, text, hint) = match self {
            Over::IdleTransaction => (
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "transaction ended due to idle-in-transaction timeout",
                ROLLED_BACK,
            ),
            Over::Request => (
                SqlState::QUERY_CANCELED,
                "canceling statement due to request timeout",
                "It was not sent: its time was over before there was a server connection for it.",
            ),
            _ => (SqlState::TRANSACTION_TIMEOUT, "transaction ended due to transaction timeout", ROLLED_BACK),
        };
        ErrorMessage::error(code, text).with_hint(hint)
    }

    /// With PostgreSQL's words, for a client that loses its connection.
    pub(super) fn terminates(self) -> Refusal {
        let (code, what) = match self {
            Over::IdleTransaction => (
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
            _ => (SqlState::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout"),
        };
        Refusal::with_code(code, what).because(self.setting())
    }
}

const ROLLED_BACK: &str = "It was rolled back. End it, and begin it anew.";

/// A transaction that was ended for its time, as its client knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Expired {
    #[default]
    No,
    /// The next request gets the error.
    Untold(Over),
    /// Until the client ends it, the transaction counts as failed.
    Told,
}

/// How long a server may take to send the replies that it has, before it counts as being at work.
const FLUSHED_WITHIN: Duration = Duration::from_millis(50);

impl Timing {
    /// The clocks of one that had no limit so far; what it does began by now.
    pub(super) fn new(now: u64) -> Box<Timing> {
        Box::new(Timing { statement: now, idle: now, ..Timing::default() })
    }

    /// The client takes hold of a server.
    pub(super) fn link(&mut self) {
        let Timing { limits, deadlines, asked, expired, .. } = std::mem::take(self);
        *self = Timing { limits, deadlines, asked, expired, ..Timing::default() };
    }

    /// A request came. What it waits counts.
    pub(super) fn asks(&mut self, now: u64) {
        if self.asked == 0 {
            self.asked = now;
        }
    }

    /// The request at hand is answered or refused.
    pub(super) fn request_ends(&mut self) {
        (self.asked, self.late) = (0, false);
        self.deadlines.requests_end();
    }

    /// So many requests have been answered; if others follow, the next begins.
    pub(super) fn requests_answered(&mut self, requests: usize, now: u64) {
        (self.asked, self.late) = (now, false);
        self.deadlines.answered(requests);
    }

    /// The first statement begins of what is sent together.
    pub(super) fn statement_begins(&mut self, now: u64) {
        self.statement = now;
        self.cancelled = 0;
        self.flushed = false;
    }

    /// So many statements are sent. PostgreSQL keeps the replies to several that come together until the last has ended,
    /// so that nobody can tell which of them it works on: they share the time of all.
    pub(super) fn expects(&mut self, statements: u32) {
        self.pending = self.pending.saturating_add(statements);
    }

    /// So many have ended, or something of the pooler's own in front of them; if others follow, the next begins.
    pub(super) fn statements_ended(&mut self, ended: u64, now: u64) {
        self.pending = self.pending.saturating_sub(u32::try_from(ended).unwrap_or(u32::MAX));
        self.statement_begins(now);
    }

    /// All is answered.
    pub(super) fn idles(&mut self, now: u64) {
        self.idle = now;
        self.pending = 0;
        self.request_ends();
    }

    /// The transaction has ended.
    pub(super) fn transaction_ends(&mut self) {
        self.deadlines.transaction_ends();
        match std::mem::take(&mut self.ending) {
            true => self.cancelled = 0,
            false => self.expired = Expired::No,
        }
    }

    /// The server is told to end what it does, because of what is over.
    pub(super) fn cancels(&mut self, now: u64, over: Over) {
        self.cancelled = now.max(1);
        self.late |= over == Over::Request;
    }

    /// Whether the server is to end a statement, and waits for the client instead.
    pub(super) fn waits_cancelled(&self, link: &Link) -> bool {
        self.cancelled != 0 && self.waits_for_client(link)
    }

    /// The server waited for the client, which has sent something: if that is all, the grace begins.
    pub(super) fn was_sent(&mut self, link: &Link, now: u64) {
        if !self.waits_for_client(link) {
            self.cancelled = now;
        }
    }

    /// Whether the client takes what it is sent. While it does not, the statement's clock stands still.
    pub(super) fn set_blocked(&mut self, blocked: bool, now: u64) {
        match (self.blocked, blocked) {
            (0, true) => self.blocked = now,
            (0, false) | (_, true) => {}
            (since, false) => {
                self.statement += now.saturating_sub(since);
                self.blocked = 0;
            }
        }
    }

    /// A statement may be cancelled for its time. What the server has got already behind it could be hit instead: PostgreSQL
    /// sends two signals for a cancel request, and the second may come when the first has had its effect.
    pub(super) fn may_cancel(&self) -> bool {
        self.limits.statement.is_some()
            || self.limits.transaction.is_some()
            || self.limits.request.is_some()
            || self.deadlines.are_any()
    }

    /// When the time of the request at hand is over, which has not been sent yet.
    pub(super) fn request_until(&self) -> Option<u64> {
        self.over_since(self.asked)
    }

    fn over_since(&self, asked: u64) -> Option<u64> {
        let time = self.deadlines.strictest(self.limits.request)?;
        (asked != 0).then(|| after(asked, time))
    }

    /// Each limit that runs now, and the moment when it is over. `heard`: when the client has last sent anything.
    pub(super) fn running(&self, link: &Link, grace: u64, heard: u64) -> impl Iterator<Item = (u64, Over)> {
        let times = &self.limits;
        let known = !link.server.machine.is_lost(); // a stream of replication ends when it ends
        let asks = known && link.query_since != 0;
        let within = known && link.xact_since != 0 && !self.ending && !link.settling;
        let waits = self.waits_for_client(link);
        let limit = |runs: bool, since: u64, time: Option<Duration>, over| {
            Some((after(since, time.filter(|_| runs)?), over))
        };
        let works = asks && self.blocked == 0 && (!waits || link.server.machine.reads_copy());
        let (statement, request) = match self.cancelled {
            0 => {
                let time = times.statement.map(|time| time.saturating_mul(self.pending.max(1)));
                let time = time.map(|time| if self.flushed { time + FLUSHED_WITHIN } else { time });
                let asked = if self.asked == 0 { link.query_since } else { self.asked };
                let request = self.over_since(asked).filter(|_| works && !self.late && !link.setting);
                (limit(works, self.statement, time, Over::Statement), request.map(|at| (at, Over::Request)))
            }
            at => (limit(!waits, at, Some(Duration::from_micros(grace)), Over::Grace), None),
        };
        // PostgreSQL's own limit is none for a transaction that has failed.
        let spared =
            times.on_timeout == OnTimeout::Terminate && link.server.machine.status() == TxStatus::Failed;
        [
            limit(asks, link.query_since, times.query, Over::Query),
            limit(
                within && !spared && !(asks && (self.expiring.is_some() || self.was_told)),
                link.xact_since,
                times.transaction,
                Over::Transaction,
            ),
            limit(
                within && (!asks || waits),
                self.idle.max(heard),
                times.idle_transaction,
                Over::IdleTransaction,
            ),
            statement,
            request,
        ]
        .into_iter()
        .flatten()
    }

    /// The server can't go on before the client has sent more: the rest of a message, COPY data, or of a batch something
    /// to run. It heeds no cancel request then.
    fn waits_for_client(&self, link: &Link) -> bool {
        let machine = &link.server.machine;
        machine.reads_copy()
            || machine.is_mid_message()
            || machine.batch_is_open() && (machine.owes_nothing() || self.pending == 0)
    }
}

fn after(since: u64, time: Duration) -> u64 {
    since.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
