//! Limits in time on what a client asks for. They are looked at when the session's alarm rings, which it does at the moment
//! when the first of them may be over.

use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;

use protocol::error_fields::ErrorMessage;
use protocol::frame::{HEADER_LEN, Piece, Whole};
use protocol::message::{self, TxStatus};
use protocol::session::Origin;
use protocol::sqlstate::SqlState;
use tokio::sync::oneshot;

use super::gather::Gather;
use super::link::Link;
use super::request::Incoming;
use super::timing::{Expired, Over};
use super::{End, Session};
use crate::cancel;
use crate::config::OnTimeout;
use crate::error::Refusal;
use crate::events::report;

impl Link {
    /// A transaction can be ended without the client: the server is not in the middle of something that only the client
    /// can end.
    fn may_expire(&self) -> bool {
        let machine = &self.server.machine;
        let moving = self.native.as_ref().is_some_and(|native| native.is_moving());
        !machine.batch_is_open() && !machine.reads_copy() && !machine.is_mid_message() && !moving
    }
}

impl Session {
    /// Finds the limits of this moment, for the request that begins or because the configuration has changed.
    pub(super) fn update_limits(&mut self) {
        let rules = self.rules.now();
        if !rules.limited && self.timing.is_none() {
            return;
        }
        let params = self.link.as_ref().map_or(&self.params, |link| &link.server.params);
        let limits = rules.limits_of(params.application_name().unwrap_or_default());
        if limits.is_any() || self.timing.is_some() {
            self.timing().limits = limits;
        }
    }

    /// Has the session woken when the first limit is over.
    pub(super) fn set_alarm(&mut self) {
        let Some(timing) = &self.timing else { return };
        let first = match self.link {
            Some(_) => self.first_limit().map(|(at, _)| at),
            None => timing.request_until(),
        };
        self.worker.alarms.set(&self.local, first.unwrap_or(0));
    }

    /// Of the limits that run while the client has a server, the one that is over first, and when.
    fn first_limit(&self) -> Option<(u64, Over)> {
        let (link, timing) = (self.link.as_ref()?, self.timing.as_ref()?);
        let (grace, heard) = (self.worker.statement_grace.get(), self.local.info.requested.load(Relaxed));
        timing.running(link, grace, heard).min_by_key(|(at, _)| *at)
    }

    /// The request at hand, which was not sent yet, has no time left.
    pub(super) fn request_is_late(&self) -> bool {
        let until = self.timing.as_ref().and_then(|timing| timing.request_until());
        until.is_some_and(|until| until <= self.worker.now())
    }

    /// Answers the request at hand with an error in place of sending it. `None`: that it was cancelled.
    pub(super) fn refuse(&mut self, error: Option<ErrorMessage>) {
        self.machine.refuse();
        self.refusal = error.map(Box::new);
        if let Some(timing) = &mut self.timing {
            timing.request_ends();
        }
    }

    /// Answers the request at hand, which waits and [is late](Self::request_is_late), with that.
    pub(super) fn refuse_late(&mut self) {
        self.report_waiting(Over::Request.setting());
        self.refuse(Some(Over::Request.error()));
    }

    /// Counts and logs what is done to the request at the front of `input`, which waits.
    pub(super) fn report_waiting(&self, reason: &'static str) {
        report(&self.worker, &self.local, reason, Some(self.waiting_text()));
    }

    /// What the request asks for that waits.
    pub(super) fn waiting_text(&self) -> &[u8] {
        let mut cutter = self.cutter;
        match cutter.next(&self.input, &Whole::NONE, u32::MAX) {
            Ok(Some(Piece::Begin { tag, bytes, .. })) => self.text_in(tag, &bytes[HEADER_LEN..]),
            _ => &[],
        }
    }

    /// Ends what has taken too long.
    ///
    /// # Errors
    /// The client is to be disconnected for it.
    pub(super) fn heed_limits(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.update_limits();
        let now = self.worker.now();
        let Some((_, over)) = self.first_limit().filter(|(at, _)| *at <= now) else { return Ok(()) };
        let (Some(link), Some(timing)) = (&mut self.link, &mut self.timing) else { return Ok(()) };
        let terminates = timing.limits.on_timeout == OnTimeout::Terminate;
        let gentle = timing.limits.on_timeout == OnTimeout::Error && link.may_expire();
        let refusal = match over {
            Over::Transaction | Over::IdleTransaction if gentle => return self.expire(over, cx),
            Over::Transaction | Over::IdleTransaction if terminates => over.terminates(),
            Over::Query => Refusal::fatal("query timeout").because(over.setting()),
            Over::Transaction => Refusal::fatal("transaction timeout").because(over.setting()),
            Over::IdleTransaction => Refusal::fatal("idle transaction timeout").because(over.setting()),
            Over::Statement | Over::Request if link.server.machine.batch_is_open() && !timing.flushed => {
                timing.flushed = true;
                link.server.machine.on_sent(b'H', Origin::Pooler, true);
                link.unsent.add(message::flush);
                return self.forward(cx, &[]);
            }
            Over::Statement | Over::Request => {
                self.cancel_statement(over);
                return Ok(());
            }
            Over::Grace => return Err(End::Unanswered),
        };
        Err(End::Refused(refusal))
    }

    /// Ends the transaction and keeps the client.
    fn expire(&mut self, over: Over, cx: &mut Context<'_>) -> Result<(), End> {
        let (Some(link), Some(timing)) = (&self.link, &mut self.timing) else { return Ok(()) };
        if link.query_since != 0 {
            // The statement fails, and with it the transaction.
            timing.expiring = Some(over);
            self.cancel_statement(over);
            return Ok(());
        }
        report(&self.worker, &self.local, over.setting(), None);
        let told = timing.was_told || timing.expired == Expired::Told;
        (timing.expiring, timing.was_told, timing.ending) = (None, false, true);
        timing.cancels(self.worker.now(), over);
        timing.expired = if told { Expired::Told } else { Expired::Untold(over) };
        self.send_aside("ROLLBACK");
        self.forward(cx, &[])
    }

    /// The client's transaction was ended for its time, and now it asks for something: it gets the error.
    pub(super) fn refuse_expired(&mut self, tag: u8) {
        let Some(timing) = &mut self.timing else { return };
        if let Expired::Untold(over) = timing.expired
            && matches!(tag, b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' | b'S' | b'F')
        {
            timing.expired = Expired::Told;
            self.refuse(Some(over.error()));
        }
    }

    /// Its transaction was ended for its time, and the client has not ended it yet.
    pub(super) fn has_expired(&self) -> bool {
        self.timing.as_ref().is_some_and(|timing| timing.expired != Expired::No)
    }

    /// A request of a client whose transaction was ended: the server is to treat it as it treats any in a failed one.
    pub(super) fn fail_transaction(&mut self, message: &Incoming<'_>, out: &mut Gather<'_>) {
        let Some(link) = &mut self.link else { return };
        if link.server.machine.status() != TxStatus::Idle || !link.server.machine.owes_nothing() {
            return; // it has failed already, or will have
        }
        link.server.own_query(Origin::Pooler);
        let mut front = Vec::new();
        message::query(&mut front, "BEGIN;ROLLBACK TO SAVEPOINT pgferry_expired");
        out.insert(message.read, &front);
    }

    /// Sends the server a cancel request, which meets this statement or none.
    fn cancel_statement(&mut self, over: Over) {
        let (Some(_), Some(timing)) = (&self.link, &mut self.timing) else { return };
        timing.cancels(self.worker.now(), over);
        report(&self.worker, &self.local, over.setting(), None);
        let (done, _) = oneshot::channel();
        let statement = Some(self.local.statement.get());
        self.worker.spawn(cancel::cancel(self.worker.clone(), self.local.clone(), statement, done));
    }
}

/// What a client is told whose server does not end a statement.
pub(super) fn unanswered() -> Refusal {
    let text = "canceling statement due to statement timeout";
    let message = ErrorMessage::fatal(SqlState::QUERY_CANCELED, text);
    message.with_hint(
        "The server did not end the statement within statement_timeout_grace, so its connection was closed. It may still \
         be at work on it.",
    )
    .into()
}
