//! What becomes of a request that can't stay at the host where it went: it is answered by another, where nothing is lost by
//! that, or the client is told.

use protocol::error_fields::ErrorMessage;
use protocol::frame::messages;
use protocol::message::TxStatus;
use protocol::sqlstate::SqlState;

use super::deadline::sent_text;
use super::request::Incoming;
use super::route::Ahead;
use super::trial::{Armed, Refused, Trial};
use super::{End, Session};
use crate::error::Refusal;
use crate::routing::{Nature, Why};

/// So many servers may be lost while they run one request.
const MOST_LOST: u8 = 3;

impl Session {
    /// Whether the request that begins with this message may go to the replica whose server the client has. If not, it
    /// waits for what is under way, and then for a server of its own. `ahead`: what was seen of it already.
    pub(super) fn may_follow(&mut self, message: &Incoming<'_>, ahead: Option<Ahead>) -> bool {
        let Some(link) = &mut self.link else { return true };
        let machine = &link.server.machine;
        if machine.batch_is_open() || !link.server.pins.is_empty() || link.exclusive {
            return true;
        }
        if matches!(link.trial, Trial::None) {
            // What the client has just set may be where it wants to go.
            link.parting = link.audit.is_some() && link.audit_matters;
            return !link.parting;
        }
        if !matches!(message.tag, b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F' | b'S' | b'H') {
            return true;
        }
        if machine.requests_owed() > 0 || link.fatal {
            link.stalled = true; // what is kept of the last answer would be lost with its trial
            return false;
        }
        if machine.status() != TxStatus::Idle {
            return true;
        }
        match link.trial {
            Trial::Over(_) => {
                link.parting = true;
                false
            }
            _ => {
                self.begin_trial(message, ahead);
                true
            }
        }
    }

    fn begin_trial(&mut self, message: &Incoming<'_>, ahead: Option<Ahead>) {
        let ahead = ahead.or_else(|| self.look_ahead(message));
        let auto = self.reading.as_ref().is_some_and(|reading| reading.why != Why::RouteReplica);
        let Some(link) = &mut self.link else { return };
        link.trial = match ahead {
            Some(ahead) if ahead.seen.nature.only_reads() => {
                let request = message.read[message.at..message.at + ahead.len].to_vec();
                Trial::Armed(Box::new(Armed {
                    taken: 0,
                    names: self.statements.names(messages(&request)),
                    request,
                    reply: Vec::new(),
                    movable: auto,
                    refused: Refused::No,
                    fatal: false,
                }))
            }
            _ => Trial::Over(Vec::new()), // the client's own wish: it hears what the replica says
        };
    }

    /// The replica has refused the request, which another host answers then.
    pub(super) fn move_to_primary(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.parting = true;
        let Trial::Armed(trial) = std::mem::replace(&mut link.trial, Trial::Over(Vec::new())) else { return };
        let cluster = self.pool.cluster();
        if trial.refused == Refused::ForGood {
            self.remember(&trial.request);
        }
        if let Some(reading) = self.reading.as_mut().filter(|_| cluster.is_some()) {
            reading.refused = true;
        }
        self.take_again(*trial);
    }

    /// The client's server was lost. True: the client need not notice, because nothing was under way, or what was goes to
    /// another host.
    pub(super) fn survives_loss(&mut self) -> bool {
        // A request that waits for its settings there is in the input still.
        let survives = |link: &super::Link| {
            matches!(link.trial, Trial::Armed(_))
                || link.setting && matches!(link.trial, Trial::Fresh)
                || link.has_nothing_to_lose()
        };
        let survives = self.link.as_ref().is_some_and(survives);
        if self.leaving || !survives || !self.pool.is_clustered() || !self.may_try_again() {
            self.pass_on_what_is_kept();
            return false;
        }
        let Some(link) = &mut self.link else { return false };
        let trial = std::mem::take(&mut link.trial);
        if let (Some(reading), Some(site)) = (&mut self.reading, &link.server.pool().site) {
            reading.without |= site.member.bit();
        }
        self.leave_lost_server();
        match trial {
            Trial::Armed(trial) => self.take_again(*trial),
            _ => self.resume = !self.input.is_empty(),
        }
        true
    }

    /// Parts from a server that is lost. What it had of the session, beside the transaction, was next to nothing.
    pub(super) fn leave_lost_server(&mut self) {
        self.unpin();
        let _ = self.note_pins(); // there are no more than before
        let Some(link) = self.link.take() else { return };
        self.unlinked();
        self.local.cancels.take(); // what they were meant for has ended
        let mut server = link.into_server();
        server.machine.lose();
        server.close("server conn crashed?");
    }

    /// Counts the servers that are lost with the request at hand. False: it may be the reason, and takes no more of them.
    fn may_try_again(&mut self) -> bool {
        let runs = self.link.as_ref().is_some_and(|link| matches!(link.trial, Trial::Armed(_)));
        let Some(reading) = self.reading.as_mut().filter(|_| runs) else { return true };
        reading.lost = reading.lost.saturating_add(1);
        reading.lost <= MOST_LOST
    }

    /// The client gets what was kept of a reply that has no end.
    fn pass_on_what_is_kept(&mut self) {
        let Some(link) = &mut self.link else { return };
        if let Trial::Armed(trial) = &mut link.trial {
            let reply = std::mem::take(&mut trial.reply);
            self.unsent.add(|out| out.extend_from_slice(&reply));
            link.trial = Trial::Over(Vec::new());
        }
    }

    /// The request comes to its turn once more, as if the client sent it now.
    fn take_again(&mut self, trial: Armed) {
        self.statements.restore(trial.names);
        let mut request = trial.request;
        request.truncate(trial.taken); // the rest stands at the front of the input
        request.append(&mut self.input);
        self.input = request;
        self.resume = true;
    }

    /// Requests like this one are not tried at a replica any more.
    pub(super) fn remember(&self, request: &[u8]) {
        for (tag, body) in messages(request) {
            let text = match tag {
                b'B' => self.statements.bound(body).map_or(&[][..], |(text, ..)| text),
                _ => sent_text(tag, body),
            };
            if !text.is_empty() {
                self.pool.db.refused.insert(self.worker.fingerprints.of(text));
            }
        }
    }

    /// Its server's host is no more what it was when the client got that server. Ends what can't go on: nobody may write to
    /// a former primary.
    pub(super) fn heed_roles(&mut self) -> Option<End> {
        let cluster = self.pool.cluster()?;
        let link = self.link.as_ref()?;
        match &link.server.pool().site {
            Some(site) => {
                if !cluster.is_usable(&site.member) {
                    self.survives_loss();
                }
                None
            }
            None => {
                let info = &link.server.info;
                let primary = cluster.primary()?;
                if primary.is_at(&info.host, info.port) {
                    return None;
                }
                let begun = link.query_since != 0 || link.xact_since != 0;
                let keeps = begun || !link.has_nothing_to_lose();
                if !keeps {
                    self.survives_loss();
                }
                keeps.then(|| self.lost_server("another host has become the primary"))
            }
        }
    }

    /// What a client is told whose server is gone. A transaction that was being committed may have been.
    pub(super) fn lost(&self, why: &str) -> Refusal {
        let Some(link) = &self.link else { return Refusal::fatal("server conn crashed?") };
        let text = link.server.info.text();
        let nature = Nature::from(sql::scan(&text).access);
        let commits = link.query_since != 0
            && match link.server.machine.status() {
                TxStatus::Idle => !nature.only_reads(),
                TxStatus::Open => nature.transaction == sql::Transaction::Ends,
                TxStatus::Failed => false,
            };
        let refusal: Refusal = match commits {
            true => ErrorMessage::fatal(
                SqlState::STATEMENT_COMPLETION_UNKNOWN,
                format!("the server connection was lost while the transaction was being committed: {why}"),
            )
            .with_detail("It is not known whether the transaction was committed.")
            .with_hint("Look whether its changes are there before you repeat it.")
            .into(),
            false => ErrorMessage::fatal(SqlState::ADMIN_SHUTDOWN, format!("terminating connection: {why}"))
                .with_detail("The transaction, if one was open, was rolled back.")
                .into(),
        };
        refusal.because("server lost")
    }
}
