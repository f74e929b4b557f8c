//! What the server sends, on its way to the client.

use std::rc::Rc;
use std::task::{Context, Poll};

use protocol::error_fields::ErrorFields;
use protocol::frame::HEADER_LEN;
use protocol::message::{self, TxStatus};
use protocol::params::Tracked;
use protocol::session::{Origin, Route};
use protocol::sqlstate::SqlState;

use super::gather::Gather;
use super::link::Link;
use super::notify::{Judge, Told};
use super::timing::Over;
use super::trail::Returning;
use super::trial::{Deal, Refused, Said};
use super::{End, Session};
use crate::error::Refusal;
use crate::prepared::plan_changed;
use crate::queries::rows_told;
use crate::server::Received;

impl Session {
    /// Sends what is unsent to either side, then reads the server if the client can take more. Returns whether
    /// anything was read.
    pub(super) fn relay_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.unsent.is_empty() {
            self.unsent.flush(cx, &mut self.stream).map_err(|_| End::Gone)?;
        }
        let Some(link) = &mut self.link else { return Ok(false) };
        if !link.unsent.is_empty() && link.unsent.flush(cx, &mut link.server.stream).is_err() {
            link.deaf = true;
        }
        let blocked = !self.unsent.is_empty();
        if let Some(timing) = &mut self.timing {
            timing.set_blocked(blocked, self.worker.now());
        }
        if blocked || self.held.is_some() {
            return Ok(false);
        }
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffer.borrow_mut();
        match link.watch.poll_read(&mut link.server.stream, cx, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(n)) if n > 0 => {
                self.counters().sent.add(n as u64);
                self.on_server(cx, &buffer[..n])?;
                Ok(true)
            }
            Poll::Ready(_) => {
                drop(buffer);
                if self.survives_loss() { Ok(true) } else { Err(self.server_ended()) }
            }
        }
    }

    /// Deals with what the server has sent.
    fn on_server(&mut self, cx: &mut Context<'_>, read: &[u8]) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let max_len = self.worker.max_packet_size.get();
        let mut carried = std::mem::take(&mut link.server.carry);
        let input = if carried.is_empty() {
            read
        } else {
            carried.extend_from_slice(read);
            &carried
        };
        let worker = Rc::clone(&self.worker);
        let wrote = link.may_have_written(self.follows.state);
        let held = link.holds_back().then(|| &*worker.shared.tracked);
        let judge = Judge {
            listener: self.listener.as_deref(),
            may_tell: link.may_tell(),
            native: link.native.as_deref_mut(),
            pool: &self.pool,
            pids: (link.server.info.pid, self.local.info.key.pid),
        };
        let expiring = self.timing.as_ref().and_then(|timing| timing.expiring);
        let mut out = Outcome::new(&worker, judge, link.notified, expiring);
        out.on_trial = link.trial.heeds_errors();
        let machine = &link.server.machine;
        let (ended, clients) = (machine.statements_ended(), machine.clients_statements_ended());
        let mut audit = link.audit.as_mut();
        let plain = audit.is_none()
            && link.trail.is_none()
            && self.listener.is_none()
            && out.judge.native.is_none()
            && link.server.suspect.is_empty()
            && link.commit.is_none()
            && expiring.is_none()
            && !out.on_trial;
        let mut commit = link.commit.as_mut();
        if let Some(commit) = &mut commit {
            commit.expect(&link.server.machine);
        }
        let received = link.server.receive(input, max_len, &mut self.statements, |piece| {
            if plain && piece.is_plain() {
                return out.keep(input, piece);
            }
            if commit.as_mut().is_some_and(|commit| commit.holds(piece)) {
                return out.skip(piece);
            }
            if let (Route::Swallow | Route::OwnRequestFailed, Some(audit)) = (piece.route, &mut audit) {
                audit.add(piece.bytes);
            }
            if piece.route == Route::Swallow && piece.said.ready.is_some() {
                audit = None; // what follows answers something else
            }
            match held.is_some_and(|tracked| reports(piece, tracked)) {
                true => out.skip(piece),
                false => out.add(input, piece),
            }
        });
        let idle = link.server.machine.status() == TxStatus::Idle;
        let said = Said { answered: out.readies > 0, idle, refused: out.refused, fatal: out.fatal };
        if said.answered
            && let Some(reading) = &mut self.reading
        {
            reading.lost = 0;
            if wrote {
                reading.note_write(&self.pool);
            }
        }
        let bytes = out.bytes.bytes(input);
        let deal = link.trial.deal(bytes, &said);
        let sent = match &deal {
            Deal::Kept | Deal::Moves => Ok(()),
            Deal::Passed(before) => [before, bytes]
                .into_iter()
                .filter(|bytes| !bytes.is_empty())
                .try_for_each(|bytes| self.unsent.send(cx, &mut self.stream, bytes)),
        };
        let late = link.trial.refused_late(said.refused);
        link.fatal |= out.fatal;
        link.server.ended.rows += out.rows;
        link.server.ended.failed |= out.failed;
        link.stalled = false;
        let ended = link.server.machine.statements_ended() - ended;
        let clients = link.server.machine.clients_statements_ended() - clients;
        if ended > 0 {
            self.local.statement.set(self.local.statement.get() + ended);
        }
        if let Some(timing) = &mut self.timing {
            let now = self.worker.now();
            if ended > 0 {
                timing.statements_ended(clients, now);
            }
            if out.readies > 0 {
                timing.requests_answered(out.readies, now);
            }
        }
        let (block, news) = (out.block, out.news.take());
        drop(out);
        let used = received.map_err(|fault| {
            tracing::warn!(peer = %self.local.info.peer(), "server broke the protocol: {fault}");
            End::Refused(Refusal::fatal(fault.text()))
        })?;
        if used < input.len() {
            link.server.carry = input[used..].to_vec();
        }
        sent.map_err(|_| End::Gone)?;
        if let Some(news) = news {
            self.on_news(news)?;
        }
        if block && self.forbids_transactions() {
            let text = "transaction blocks not allowed in statement pooling mode";
            return Err(End::Refused(Refusal::fatal(text)));
        }
        if let Some(request) = late {
            self.remember(&request);
        }
        if let Deal::Moves = deal {
            self.move_to_primary();
        }
        if said.answered {
            self.next_request_begins();
        }
        self.after_replies(cx)
    }

    /// A request was answered. The time of one behind it, sent already or not, is its own.
    fn next_request_begins(&mut self) {
        let now = self.worker.now();
        let Some(link) = &mut self.link else { return };
        if !link.server.machine.owes_nothing() {
            if self.timing.is_some() && link.query_since != 0 {
                self.pool.counters[self.worker.index].query_time.add(now - link.query_since);
                self.pool.latency.of(self.worker.index).running.record(now - link.query_since);
                link.query_since = now;
            }
        } else if self.resume {
            let idle = link.server.machine.idle().is_some();
            self.requests_answered(now, idle);
        }
    }

    fn on_news(&mut self, news: News) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if let Some(trail) = &mut link.trail {
            trail.named.done |= news.set;
        }
        if news.expired
            && let Some(timing) = &mut self.timing
        {
            (timing.expiring, timing.was_told) = (None, true);
        }
        let moving = link.native.as_ref().is_some_and(|native| native.is_moving());
        let setting = link.audit.is_none() && self.local.preparing.get() && !moving;
        let failed = news.own_failed.is_some();
        if let Some(refusal) = news.own_failed.filter(|_| setting) {
            return self.settings_refused(refusal);
        }
        if failed && moving {
            self.on_moved(0, true); // the end of the reply may come later
        }
        if news.discarded {
            self.on_discard_all();
        }
        if let Some(bytes) = news.held {
            self.hold_back(bytes);
        }
        if news.own_answered > 0 {
            self.on_own_answers(news.own_answered, failed)?;
        }
        Ok(())
    }

    /// The server does not take the client's settings. What others have done there may be the reason (who has used
    /// temporary tables can't change `temp_buffers`), so another is tried, which is a new one in the end. The reported
    /// parameters depend on nothing of that kind.
    fn settings_refused(&mut self, refusal: Refusal) -> Result<(), End> {
        let may_differ = !self.settings.values().is_empty();
        let elsewhere = |link: &mut Link| may_differ && link.setting && !link.server.statements.are_first();
        match self.link.take_if(elsewhere) {
            Some(link) => {
                self.unlinked();
                self.local.cancels.take(); // none was sent: the client's request has not begun
                link.into_server().close("refused a client's settings");
                Ok(())
            }
            None => Err(End::Refused(refusal)), // as if it had been told at its login
        }
    }

    /// So many of the pooler's own requests were answered.
    fn on_own_answers(&mut self, answered: usize, failed: bool) -> Result<(), End> {
        // The client's settings may take two.
        if self.link.as_ref().is_some_and(|link| link.setting && !link.server.machine.owes_nothing()) {
            return Ok(());
        }
        self.local.prepared();
        if let Some(link) = self.link.as_mut().filter(|link| link.is_returning(Returning::Told)) {
            link.trail().returning = Returning::No;
        }
        if self.on_moved(answered, failed) {
            return Ok(());
        }
        let audit = self.link.as_mut().and_then(|link| link.audit.take());
        if !self.link.as_mut().is_some_and(|link| std::mem::take(&mut link.bringing)) {
            self.tell_changes();
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        match audit {
            Some(answer) => self.on_audit(&answer, failed)?,
            None => {
                if std::mem::take(&mut link.setting) {
                    link.server.settings = self.settings.clone();
                }
                let params = link.server.params.clone();
                self.adopt(params);
            }
        }
        Ok(())
    }

    pub(super) fn after_replies(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.sends_again() {
            return self.forward(cx, &[]);
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        let machine = &link.server.machine;
        let idle = machine.idle().is_some();
        if !idle && machine.needs_probe() {
            link.add_query(Origin::Pooler, "");
            return self.forward(cx, &[]);
        }
        if self.leaving && machine.reads_copy() {
            return Err(End::Terminated); // no data will come
        }
        if !machine.owes_nothing() {
            return Ok(());
        }
        let begun = link.query_since != 0;
        let resets = link.is_returning(Returning::Reset);
        let parting = link.parting;
        let settling = self.awaits_cancels();
        if self.resume && !resets && !parting {
            // Its parameters were set. The request that the server is for comes now, if there is time for it.
            let late = idle && self.request_is_late();
            if late {
                self.refuse_late();
            }
            if late || !begun {
                self.requests_answered(self.worker.now(), idle); // its transaction may have been ended meanwhile
            }
            if late {
                self.release_if_free();
            }
            return Ok(());
        }
        self.requests_answered(self.worker.now(), idle);
        if self.leaving {
            return Err(End::Terminated);
        }
        if settling {
            return Ok(());
        }
        if (idle && self.begin_audit()) || self.restore_in_transaction() || self.hand_over(cx) {
            return self.forward(cx, &[]);
        }
        // Behind the audit: what the client says next may have to wait for that.
        if let Some(link) = self.link.as_mut().filter(|link| idle && link.server.statements.has_strays()) {
            let server = &mut *link.server;
            link.unsent.add(|out| server.statements.drop_strays(&mut server.machine, out));
            return self.forward(cx, &[]);
        }
        if idle {
            self.release_if_free();
        }
        if let Some(link) = &mut self.link {
            link.parting = false; // the client keeps it, for what it has in its session
        }
        Ok(())
    }

    /// A batch that the server has refused because of a stale statement, and so did not run, is taken as if the client
    /// sent it now.
    fn sends_again(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let again = &mut link.server.statements.again;
        if !again.is_pending() {
            return false;
        }
        if again.take_missing_sync() {
            link.server.machine.on_sent(b'S', Origin::Pooler, true);
            link.unsent.add(message::sync);
        } else if let Some(mut batch) = again.take_due() {
            batch.append(&mut self.input);
            self.input = batch;
            self.resume = true;
        } else {
            return false;
        }
        true
    }
}

/// Whether the server reports one of these parameters.
fn reports(piece: &Received<'_>, tracked: &Tracked) -> bool {
    let report = piece.bytes.get(HEADER_LEN..).filter(|_| piece.tag == Some(b'S'));
    let report = report.and_then(message::read_parameter_status);
    report.is_some_and(|(name, _)| tracked.index(&name).is_some())
}

/// What one read from the server came to.
struct Outcome<'w> {
    /// For the client.
    bytes: Gather<'w>,
    /// The client's transaction has notified what it listens to itself.
    notified: bool,
    judge: Judge<'w>,
    /// A statement is being cancelled for its transaction's time.
    expiring: Option<Over>,
    at: usize,
    fatal: bool,
    /// The client's request may yet move to another host.
    on_trial: bool,
    /// It was refused because this one is a replica.
    refused: Refused,
    /// Requests of the client's that were answered in full.
    readies: usize,
    /// Statements are counted.
    counts: bool,
    /// Rows that they have returned or changed.
    rows: u64,
    failed: bool,
    /// A transaction block was open behind one.
    block: bool,
    /// What seldom comes.
    news: Option<News>,
}

#[derive(Default)]
struct News {
    /// For the client, behind what it has itself notified.
    held: Option<Vec<u8>>,
    /// How many of the pooler's own requests were answered in full.
    own_answered: usize,
    own_failed: Option<Refusal>,
    /// The session was reset by `DISCARD ALL`.
    discarded: bool,
    /// A `SET` has succeeded.
    set: bool,
    /// The client was told that its transaction has taken too long.
    expired: bool,
}

impl<'w> Outcome<'w> {
    fn new(
        worker: &'w crate::worker::Worker,
        judge: Judge<'w>,
        notified: bool,
        expiring: Option<Over>,
    ) -> Outcome<'w> {
        Outcome {
            bytes: Gather::new(worker),
            notified,
            judge,
            expiring,
            at: 0,
            fatal: false,
            on_trial: false,
            refused: Refused::No,
            readies: 0,
            counts: worker.query_stats.get() > 0,
            rows: 0,
            failed: false,
            block: false,
            news: None,
        }
    }

    fn news(&mut self) -> &mut News {
        self.news.get_or_insert_default()
    }

    fn held(&mut self) -> Option<&mut Vec<u8>> {
        self.news.as_mut()?.held.as_mut()
    }

    fn skip(&mut self, piece: &Received<'_>) {
        self.at += piece.bytes.len();
    }

    /// Nearly every piece: it is the client's as it is, and tells nothing that anybody waits for.
    #[inline]
    fn keep(&mut self, input: &[u8], piece: &Received<'_>) {
        let end = self.at + piece.bytes.len();
        self.bytes.keep(input, self.at..end);
        self.at = end;
        self.fatal |= piece.said.fatal;
        self.note_ready(piece);
        if self.counts {
            self.note_end(piece);
        }
    }

    /// What a statement has come to.
    #[inline]
    fn note_end(&mut self, piece: &Received<'_>) {
        match piece.tag {
            Some(b'C') => self.rows += rows_told(piece.bytes),
            Some(b'E') => self.failed = true,
            _ => {}
        }
    }

    fn note_ready(&mut self, piece: &Received<'_>) {
        if let Some(status) = piece.said.ready {
            self.readies += 1;
            self.block |= status != TxStatus::Idle;
        }
    }

    fn add(&mut self, input: &[u8], piece: &Received<'_>) {
        if piece.invented {
            return self.insert(input, piece.bytes);
        }
        let end = self.at + piece.bytes.len();
        match piece.route {
            Route::Forward => {
                match piece.said.plan_changed {
                    true => self.insert(input, plan_changed()),
                    false => self.pass(input, piece),
                }
                self.fatal |= piece.said.fatal;
                self.note_ready(piece);
                if self.counts {
                    self.note_end(piece);
                }
                if piece.tag == Some(b'C') {
                    let news = self.news();
                    news.discarded |= piece.bytes.ends_with(b"DISCARD ALL\0");
                    news.set |= piece.bytes.ends_with(b"SET\0");
                }
            }
            Route::Swallow => self.news().own_answered += usize::from(piece.said.ready.is_some()),
            Route::OwnRequestFailed => {
                let fields = ErrorFields::new(piece.bytes.get(HEADER_LEN..).unwrap_or_default());
                self.news().own_failed.get_or_insert_with(|| Refusal::repeat(&fields));
            }
        }
        self.at = end;
    }

    /// Passes on what is the client's.
    fn pass(&mut self, input: &[u8], piece: &Received<'_>) {
        if piece.tag == Some(b'E')
            && let Some(over) = self.expiring
            && ErrorFields::new(&piece.bytes[HEADER_LEN..]).code() == Some(SqlState::QUERY_CANCELED)
        {
            self.news().expired = true;
            let mut error = Vec::new();
            over.error().encode_error(&mut error);
            return self.insert(input, &error);
        }
        if self.on_trial && piece.tag == Some(b'E') {
            self.refused = self.refused.max(Refused::by(&ErrorFields::new(&piece.bytes[HEADER_LEN..])));
        }
        if piece.tag == Some(b'A') {
            match self.judge.judge(piece.bytes) {
                Told::Not => return,
                Told::As(bytes) => return self.insert(input, &bytes),
                Told::AsIs => {}
            }
        }
        // What has come for the client meanwhile is told before it is told that it may go on.
        if piece.said.ready == Some(TxStatus::Idle) && self.held().is_none() {
            match self.notified {
                true => self.news().held = Some(Vec::new()),
                false => self.judge.tell(|bytes| self.bytes.insert(input, bytes)),
            }
        }
        match self.held() {
            Some(held) => held.extend_from_slice(piece.bytes),
            None => self.bytes.keep(input, self.at..self.at + piece.bytes.len()),
        }
    }

    fn insert(&mut self, input: &[u8], bytes: &[u8]) {
        match self.held() {
            Some(held) => held.extend_from_slice(bytes),
            None => self.bytes.insert(input, bytes),
        }
    }
}
