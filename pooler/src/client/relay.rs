//! Passing messages between a client and its server.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::frame::{HEADER_LEN, Piece, Whole};
use protocol::message::{self, TxStatus};
use protocol::params::Tracked;
use protocol::session::{Origin, Request, Route};

use super::gather::Gather;
use super::state::meaning;
use super::{End, Session, Step};
use crate::error::Refusal;
use crate::prepared::{Counted, Exchange, LOOKED_AT, Verdict};
use crate::server::Received;

impl Session {
    // ---- from the client -------------------------------------------------------------------------------------

    pub(super) fn read_client(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Step>>, End> {
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffer.borrow_mut();
        let n = match self.watch.poll_read(&mut self.stream, cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Err(End::Gone),
        };
        self.counters().received.add(n as u64);
        if self.input.is_empty() {
            return self.on_client(cx, &buffer[..n]).map(Poll::Ready);
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(&buffer[..n]);
        drop(buffer);
        self.on_client(cx, &input).map(Poll::Ready)
    }

    /// Deals with what the client has sent. What has to wait is kept in `input`.
    pub(super) fn on_client(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Result<Option<Step>, End> {
        let worker = Rc::clone(&self.worker);
        let mut out = Gather::new(&worker);
        self.touch(worker.now());
        let mut at = 0;
        let taken = self.take_messages(input, &mut at, &mut out);
        self.forward(cx, out.bytes(input))?; // a server owes an answer even to what came before a fault
        drop(out);
        let step = match taken? {
            Flow::Leave => return self.leave(cx),
            Flow::Wait(step) => step,
            Flow::Forward | Flow::Drop => None,
        };
        if at < input.len() {
            self.input = input[at..].to_vec();
        }
        if let Some(link) = &mut self.link {
            while let Some(reply) = link.server.next_invented() {
                self.unsent.add(|out| out.extend_from_slice(reply.message()));
            }
        }
        self.unsent.flush(cx, &mut self.stream).map_err(|_| End::Gone)?;
        Ok(step)
    }

    /// Cuts messages off the front of `input`, up to `at`, and collects what goes to the server.
    fn take_messages(&mut self, input: &[u8], at: &mut usize, out: &mut Gather<'_>) -> Result<Flow, End> {
        let max_len = self.worker.max_packet_size.get();
        let looked_into = match self.keeps_statements() || self.keeps_state() {
            true => &LOOKED_INTO,
            false => &Whole::NONE,
        };
        loop {
            let cutter = self.cutter;
            let piece = match self.cutter.next(&input[*at..], looked_into, max_len) {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(Flow::Drop),
                Err(error) => return Err(End::Refused(Refusal::fatal(error.to_string()))),
            };
            let end = *at + piece.bytes().len();
            let flow = match piece {
                Piece::Rest { complete, .. } => self.on_rest(complete),
                // The only message that PostgreSQL answers although it is owed nothing, and by ignoring what follows.
                Piece::Begin { tag: b'H', bytes, complete } if !complete || bytes.len() > HEADER_LEN => {
                    return Err(End::Refused(Refusal::fatal("invalid message format")));
                }
                Piece::Begin { tag, bytes, complete } => self.on_begin(tag, bytes, complete, input, out)?,
            };
            match flow {
                Flow::Forward => out.keep(input, *at..end),
                Flow::Drop => {}
                Flow::Leave => return Ok(Flow::Leave),
                Flow::Wait(step) => {
                    self.cutter = cutter;
                    return Ok(Flow::Wait(step));
                }
            }
            *at = end;
        }
    }

    /// Prepared statements follow this client from server to server.
    fn keeps_statements(&mut self) -> bool {
        self.shares_servers() && self.rules.now().server.max_prepared_statements > 0
    }

    /// The rest of a message.
    fn on_rest(&mut self, complete: bool) -> Flow {
        match &mut self.link {
            Some(link) if !self.dropping => {
                link.server.machine.on_sent_rest(complete);
                Flow::Forward
            }
            _ => Flow::Drop,
        }
    }

    fn on_begin(
        &mut self,
        tag: u8,
        bytes: &[u8],
        complete: bool,
        input: &[u8],
        out: &mut Gather<'_>,
    ) -> Result<Flow, End> {
        let request = self.machine.on_message(tag);
        self.dropping = true;
        match request {
            Request::Forward => self.on_request(tag, bytes, complete, input, out),
            Request::ForwardIfLinked if self.link.is_some() => {
                self.on_request(tag, bytes, complete, input, out)
            }
            Request::ForwardIfLinked | Request::Drop => Ok(Flow::Drop),
            Request::Refuse => self.answer(|out| CANCELED.with(|e| e.encode_error(out))),
            Request::RefuseAndReady => self.answer(|out| {
                CANCELED.with(|e| e.encode_error(out));
                message::ready_for_query(out, TxStatus::Idle);
            }),
            Request::Ready => self.answer(|out| message::ready_for_query(out, TxStatus::Idle)),
            Request::Terminate => Ok(Flow::Leave),
            Request::Unknown => Err(End::Refused(Refusal::fatal("unknown pkt"))),
        }
    }

    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Flow, End> {
        self.unsent.add(write);
        Ok(Flow::Drop)
    }

    fn on_request(
        &mut self,
        tag: u8,
        bytes: &[u8],
        complete: bool,
        input: &[u8],
        out: &mut Gather<'_>,
    ) -> Result<Flow, End> {
        if tag == b'Q' && self.worker.refuse_simple_query.get() {
            return Err(End::Refused(Refusal::fatal("PQexec disallowed")));
        }
        let now = self.worker.now();
        if self.link.is_none() {
            if self.refuses_new_work() {
                return Err(End::Refused(Refusal::fatal("server shutting down")));
            }
            if !self.link_now(now) {
                return Ok(Flow::Wait(Some(Step::NeedServer)));
            }
        }
        let Some(link) = &mut self.link else { return Ok(Flow::Wait(Some(Step::NeedServer))) };
        if link.setting {
            self.resume = true;
            self.request_begins(now); // it can be cancelled from now on
            return Ok(Flow::Wait(None));
        }
        self.watch_state(tag, bytes, complete);
        let verdict = self.on_statement(tag, bytes, complete, input, out);
        let Some(link) = &mut self.link else { return Ok(Flow::Drop) };
        match verdict {
            Verdict::Forward => link.server.machine.on_sent(tag, Origin::Client, complete),
            Verdict::Replaced => {}
            Verdict::Wait => {
                link.stalled = true;
                self.resume = true;
                return Ok(Flow::Wait(None));
            }
        }
        self.dropping = false;
        // COPY data and Flush are not requests of their own; late ones must not look like a running query.
        if !link.server.machine.owes_nothing() || link.server.machine.batch_is_open() {
            self.request_begins(now);
        }
        Ok(if verdict == Verdict::Forward { Flow::Forward } else { Flow::Drop })
    }

    /// What a message means for prepared statements.
    fn on_statement(
        &mut self,
        tag: u8,
        bytes: &[u8],
        complete: bool,
        input: &[u8],
        out: &mut Gather<'_>,
    ) -> Verdict {
        if !matches!(tag, b'P' | b'B' | b'D' | b'C' | b'S' | b'Q') || !self.keeps_statements() {
            return Verdict::Forward;
        }
        let limit = self.rules.now().server.max_prepared_statements;
        let Some(link) = &mut self.link else { return Verdict::Forward };
        let server = &mut *link.server;
        match tag {
            b'S' => {
                server.statements.end_batch();
                return Verdict::Forward;
            }
            b'Q' => {
                server.statements.on_query(server.machine.batch_is_open());
                self.statements.close_unnamed();
                return Verdict::Forward;
            }
            _ => {}
        }
        let mut front = self.worker.front.borrow_mut();
        front.clear();
        let meaning = meaning(&self.settings, &self.params, server);
        let mut exchange = Exchange {
            client: &mut self.statements,
            server: &mut server.statements,
            machine: &mut server.machine,
            meaning,
            limit,
            out: &mut front,
            counted: Counted::default(),
        };
        let verdict = exchange.on_message(tag, bytes, complete, &self.pool.texts);
        let counted = exchange.counted;
        if !front.is_empty() {
            out.insert(input, &front);
        }
        let counters = &self.pool.counters[self.worker.index];
        counters.client_parses.add(counted.client_parses);
        counters.server_parses.add(counted.server_parses);
        counters.binds.add(counted.binds);
        self.local.info.prepared.store(self.statements.len() as u32, Relaxed);
        server.info.prepared.store(server.statements.len() as u32, Relaxed);
        verdict
    }

    /// Sends bytes to the server, behind what the pooler itself has put in front of them.
    fn forward(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if link.deaf || (bytes.is_empty() && link.unsent.is_empty()) {
            return Ok(());
        }
        if link.unsent.send(cx, &mut link.server.stream, bytes).is_err() {
            link.deaf = true; // it may have said why; reading tells
        }
        Ok(())
    }

    /// `Terminate` came. What is owed to the client up to its last `Sync` it still gets.
    fn leave(&mut self, cx: &mut Context<'_>) -> Result<Option<Step>, End> {
        let Some(link) = &mut self.link else { return Err(End::Terminated) };
        let machine = &mut link.server.machine;
        if machine.owes_nothing() || machine.reads_copy() || machine.is_lost() {
            return Err(End::Terminated);
        }
        if machine.batch_is_open() {
            // Which replies of half a batch are sent before it is rolled back is the server's to say.
            machine.on_sent(b'X', Origin::Client, true);
            let mut bye = Vec::with_capacity(HEADER_LEN);
            message::terminate(&mut bye);
            self.forward(cx, &bye)?;
        }
        self.leaving = true;
        Ok(None)
    }

    /// Notices when a client that has sent `Terminate` closes as well: then nobody waits for what is still owed, and
    /// after a grace, in which a short statement ends as it would with PostgreSQL, it is cancelled.
    pub(super) fn watch_leaving(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.farewell.is_none() {
            let mut buffer = self.worker.buffer.borrow_mut();
            match self.watch.poll_read(&mut self.stream, cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n)) if n > 0 => {} // nothing counts behind Terminate
                Poll::Ready(_) => self.farewell = Some(Box::pin(tokio::time::sleep(FAREWELL))),
            }
        }
        match self.farewell.as_mut().map(|farewell| farewell.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(End::Gone),
            _ => Ok(()),
        }
    }

    // ---- from the server -------------------------------------------------------------------------------------

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
        if !self.unsent.is_empty() {
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
            Poll::Ready(_) => Err(self.server_ended()),
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
        let mut out = Outcome::new(&worker);
        let held = link.told.is_some().then(|| &*worker.shared.tracked);
        let mut audit = link.audit.as_mut();
        let received = link.server.receive(input, max_len, &mut self.statements, |piece| {
            if let (Route::Swallow, Some(audit)) = (piece.route, &mut audit) {
                audit.add(piece.bytes);
            }
            match held.is_some_and(|tracked| reports(piece, tracked)) {
                true => out.skip(piece),
                false => out.add(input, piece),
            }
        });
        let sent = match out.bytes.bytes(input) {
            [] => Ok(()),
            bytes => self.unsent.send(cx, &mut self.stream, bytes),
        };
        link.fatal |= out.fatal;
        link.stalled = false;
        let (own_answered, own_failed, block) = (out.own_answered, out.own_failed, out.block);
        drop(out);
        let used = received.map_err(|fault| {
            tracing::warn!(peer = %self.local.info.peer(), "server broke the protocol: {fault}");
            End::Refused(Refusal::fatal(fault.text()))
        })?;
        link.server.carry = input[used..].to_vec();
        if own_failed && link.audit.is_none() && self.local.preparing.get() {
            return Err(End::Refused(Refusal::fatal("invalid server parameter")));
        }
        sent.map_err(|_| End::Gone)?;
        if own_answered {
            self.local.preparing.set(false);
            let audit = link.audit.take();
            self.tell_changes();
            let Some(link) = &mut self.link else { return Ok(()) };
            match audit {
                Some(answer) => self.on_audit(&answer, own_failed),
                None => {
                    if std::mem::take(&mut link.setting) {
                        link.server.settings = self.settings.clone();
                    }
                    let params = link.server.params.clone();
                    self.adopt(params);
                }
            }
        }
        if block && self.forbids_transactions() {
            let text = "transaction blocks not allowed in statement pooling mode";
            return Err(End::Refused(Refusal::fatal(text)));
        }
        self.after_replies(cx)
    }

    fn after_replies(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let machine = &mut link.server.machine;
        let own = match machine.idle() {
            Some(_) => link.server.statements.drop_strays(),
            None => machine.needs_probe().then(String::new),
        };
        if let Some(sql) = own {
            link.server.own_query(Origin::Pooler);
            link.unsent.add(|out| message::query(out, &sql));
            return self.forward(cx, &[]);
        }
        if self.leaving && link.server.machine.reads_copy() {
            return Err(End::Terminated); // no data will come
        }
        if !link.server.machine.owes_nothing() {
            return Ok(());
        }
        if self.resume {
            return Ok(()); // its parameters were set; the request that the server is for comes now
        }
        self.requests_answered(self.worker.now());
        if self.leaving {
            return Err(End::Terminated);
        }
        if self.begin_audit() || self.restore_in_transaction() {
            return self.forward(cx, &[]);
        }
        self.release_if_free();
        Ok(())
    }
}

/// Messages from a client that are looked into where its prepared statements and session state follow it.
const LOOKED_INTO: Whole = Whole::new(b"QPBDC", LOOKED_AT);

/// Time for what is still owed to a client that has said good-bye and closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// What becomes of a message from the client.
enum Flow {
    Forward,
    Drop,
    /// Not now: it and all behind it are kept.
    Wait(Option<Step>),
    Leave,
}

thread_local! {
    /// PostgreSQL's words for a cancelled request.
    static CANCELED: protocol::error_fields::ErrorMessage = protocol::error_fields::ErrorMessage::error(
        protocol::sqlstate::SqlState::QUERY_CANCELED,
        "canceling statement due to user request",
    );
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
    at: usize,
    fatal: bool,
    /// The pooler's own request was answered in full.
    own_answered: bool,
    own_failed: bool,
    /// A transaction block was open at a `ReadyForQuery`.
    block: bool,
}

impl<'w> Outcome<'w> {
    fn new(worker: &'w crate::worker::Worker) -> Outcome<'w> {
        let bytes = Gather::new(worker);
        Outcome { bytes, at: 0, fatal: false, own_answered: false, own_failed: false, block: false }
    }

    fn skip(&mut self, piece: &Received<'_>) {
        self.at += piece.bytes.len();
    }

    fn add(&mut self, input: &[u8], piece: &Received<'_>) {
        if piece.invented {
            self.bytes.insert(input, piece.bytes);
            return;
        }
        let end = self.at + piece.bytes.len();
        match piece.route {
            Route::Forward => {
                self.bytes.keep(input, self.at..end);
                self.fatal |= piece.fatal;
                self.block |= piece.ready.is_some_and(|status| status != TxStatus::Idle);
            }
            Route::Swallow => self.own_answered |= piece.ready.is_some(),
            Route::OwnRequestFailed => self.own_failed = true,
        }
        self.at = end;
    }
}
