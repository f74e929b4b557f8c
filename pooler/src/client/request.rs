//! Messages from the client, on their way to its server.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::frame::{HEADER_LEN, Piece, Whole, put};
use protocol::message::{self, TxStatus};
use protocol::session::{Origin, Request};
use sql::Effects;

use super::deadline::{LONGEST_COMMENT, begins_with_comment, chains, may_assign, note_head, sent_text};
use super::gather::Gather;
use super::kept::too_much;
use super::route::Ahead;
use super::state::meaning;
use super::trail::Returning;
use super::trial::Trial;
use super::wait::READ_AHEAD;
use super::{End, Session, Step};
use crate::error::Refusal;
use crate::prepared::{Counted, Exchange, KEPT, LOOKED_AT, Verdict, simple_query};
use crate::state::{self, Pins};

impl Session {
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
        let replaced = self.with_token(input);
        let input = replaced.as_deref().unwrap_or(input);
        let worker = Rc::clone(&self.worker);
        let mut out = Gather::new(&worker);
        self.touch(worker.now());
        let mut at = 0;
        let waited =
            matches!((&self.timing, &self.link), (Some(timing), Some(link)) if timing.waits_cancelled(link));
        let taken = self.take_messages(input, &mut at, &mut out);
        if let (true, Some(timing), Some(link)) = (waited, &mut self.timing, &self.link) {
            timing.was_sent(link, worker.now());
        }
        self.forward(cx, out.bytes(input))?; // a server owes an answer even to what came before a fault
        drop(out);
        if let Some(link) = &mut self.link {
            link.server.statements.again.keep(&input[..at]);
            let machine = &link.server.machine;
            if machine.is_overrun() && machine.batch_is_open() {
                // What is owed may be the pooler's own, behind replies that the server keeps until it is asked for them.
                link.unsent.add(|out| put(out, b'H', |_| {}));
                self.forward(cx, &[])?;
            }
        }
        let step = match taken? {
            Flow::Leave => return self.leave(cx),
            Flow::Wait(step) => step,
            Flow::Forward | Flow::Drop => None,
        };
        if at < input.len() {
            self.input = input[at..].to_vec();
        }
        if self.link.as_ref().is_some_and(|link| link.parting) {
            self.after_replies(cx)?;
        }
        self.unsent.flush(cx, &mut self.stream).map_err(|_| End::Gone)?;
        Ok(step)
    }

    /// Cuts messages off the front of `input`, up to `at`, and collects what goes to the server.
    fn take_messages(&mut self, input: &[u8], at: &mut usize, out: &mut Gather<'_>) -> Result<Flow, End> {
        let max_len = self.worker.max_packet_size.get();
        self.follows = self.what_follows();
        let begins = self.link.as_ref().is_none_or(|link| link.query_since == 0);
        if begins && (self.follows.limited || self.timing.is_some()) {
            self.update_limits();
        }
        let looked_into = match self.follows.anything() {
            true => &LOOKED_INTO,
            false => &HEADS,
        };
        loop {
            if out.gathered() > MOST_AT_ONCE {
                self.resume = true;
                return Ok(Flow::Wait(None));
            }
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
                // The server can't be asked for its answers in the middle of a message.
                Piece::Begin { complete: false, .. } if self.is_overrun() => {
                    self.resume = true;
                    Flow::Wait(None)
                }
                Piece::Begin { tag, bytes, complete } => {
                    self.on_begin(Incoming { tag, bytes, complete, read: input, at: *at }, out)?
                }
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

    fn is_overrun(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.server.machine.is_overrun())
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

    fn on_begin(&mut self, message: Incoming<'_>, out: &mut Gather<'_>) -> Result<Flow, End> {
        self.refuse_expired(message.tag);
        let request = self.machine.on_message(message.tag);
        self.dropping = true;
        let status = if self.has_expired() { TxStatus::Failed } else { TxStatus::Idle };
        match request {
            Request::Forward => self.on_request(message, out),
            Request::ForwardIfLinked if self.link.is_some() => self.on_request(message, out),
            Request::ForwardIfLinked | Request::Drop => Ok(Flow::Drop),
            Request::Refuse => self.answer_refused(None),
            Request::RefuseAndReady => self.answer_refused(Some(status)),
            Request::Ready => self.answer(|out| message::ready_for_query(out, status)),
            Request::Terminate => Ok(Flow::Leave),
            Request::Unknown => Err(End::Refused(Refusal::fatal("unknown pkt"))),
        }
    }

    /// What the rules of this moment say.
    pub(super) fn what_follows(&mut self) -> Follows {
        let replicates = self.replication.is_some();
        let shares = self.shares_servers();
        let rules = self.rules.now();
        Follows {
            statements: if shares { rules.server.max_prepared_statements } else { 0 },
            state: shares && rules.preserves() && !replicates,
            limited: rules.limited,
            routes: rules.routing.is_on() && !replicates,
            certainly: rules.routing.commit_certainty && shares && !replicates,
        }
    }

    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Flow, End> {
        self.unsent.add(write);
        Ok(Flow::Drop)
    }

    fn answer_refused(&mut self, ready: Option<TxStatus>) -> Result<Flow, End> {
        let error = self.refusal.take();
        self.answer(|out| {
            match error {
                Some(error) => error.encode_error(out),
                None => CANCELED.with(|error| error.encode_error(out)),
            }
            if let Some(status) = ready {
                message::ready_for_query(out, status);
            }
        })
    }

    fn on_request(&mut self, message: Incoming<'_>, out: &mut Gather<'_>) -> Result<Flow, End> {
        let tag = message.tag;
        if tag == b'Q' && self.worker.refuse_simple_query.get() {
            return Err(End::Refused(Refusal::fatal("PQexec disallowed")));
        }
        let now = self.worker.now();
        let text = sent_text(tag, &message.bytes[HEADER_LEN..]);
        if begins_with_comment(text) {
            note_head(&mut self.timing, self.link.as_ref(), now, text);
        }
        let mut ahead = None;
        if self.link.is_none() && !self.find_server(&message, &mut ahead)? {
            return Ok(Flow::Wait(Some(Step::NeedServer)));
        }
        if self.reading.is_some() && !self.may_follow(&message, ahead) {
            self.resume = true;
            return Ok(Flow::Wait(None));
        }
        let Some(link) = &mut self.link else { return Ok(Flow::Wait(Some(Step::NeedServer))) };
        if link.setting {
            self.resume = true;
            self.request_begins_early(now);
            return Ok(Flow::Wait(None));
        }
        if matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F')
            && (self.timing.as_ref().is_some_and(|timing| timing.may_cancel())
                || link.is_returning(Returning::Reset))
            && link.awaits_answer()
        {
            link.stalled = true;
            self.resume = true;
            return Ok(Flow::Wait(None));
        }
        if self.has_expired() {
            self.fail_transaction(&message, out);
        }
        if self.follows.certainly {
            self.ask_before_commit(&message, out);
        }
        let mut effects = Effects::NONE;
        if self.follows.state {
            self.sample(now);
            effects = self.watch_state(&message);
            // Nearly every message: there is nothing that it would have to wait for.
            if (!effects.is_empty() || self.listener.is_some()) && !self.make_way(effects, &message, out) {
                self.request_begins(now);
                return Ok(Flow::Wait(None));
            }
        } else {
            self.watch_text(&message);
        }
        let verdict = match self.follows.statements {
            0 => Verdict::Forward,
            limit => self.on_statement(&message, effects, limit, out),
        };
        let Some(link) = &mut self.link else { return Ok(Flow::Drop) };
        match verdict {
            Verdict::Forward => link.server.machine.on_sent(tag, Origin::Client, message.complete),
            Verdict::Replaced => {
                while let Some(reply) = link.server.next_invented() {
                    match &mut link.trial {
                        Trial::Armed(trial) => trial.reply.extend_from_slice(reply.message()),
                        _ => self.unsent.add(|out| out.extend_from_slice(reply.message())),
                    }
                }
            }
            Verdict::Wait => {
                link.stalled = true;
                self.resume = true;
                self.request_begins(now);
                return Ok(Flow::Wait(None));
            }
            Verdict::Full => {
                return Err(End::Refused(too_much("too many prepared statements")));
            }
        }
        if let Trial::Armed(trial) = &mut link.trial {
            trial.taken += message.bytes.len();
        }
        link.server.statements.on_sent(tag, message.complete);
        if let Some(timing) = &mut self.timing {
            match tag {
                b'E' => timing.expects(1),
                b'Q' => timing.expects(sql::scan(text).statements),
                _ => {}
            }
        }
        self.dropping = false;
        // COPY data and Flush are not requests of their own; late ones must not look like a running query.
        if !link.server.machine.owes_nothing() || link.server.machine.batch_is_open() {
            self.request_begins(now);
        }
        Ok(if verdict == Verdict::Forward { Flow::Forward } else { Flow::Drop })
    }

    /// Finds an idle server for the request that begins with this message, at the host where it goes; `ahead` is what was
    /// seen of it for that. False: it has to wait for one.
    fn find_server(&mut self, message: &Incoming<'_>, ahead: &mut Option<Ahead>) -> Result<bool, End> {
        if self.refuses_new_work() {
            return Err(End::Refused(Refusal::fatal("server shutting down")));
        }
        let now = self.worker.now();
        let chooses = self.follows.routes || self.reading.is_some();
        if (!chooses || self.aim(message, ahead)) && self.link_now(now) {
            return Ok(true);
        }
        if message.tag == b'B'
            && let Some((text, ..)) = self.statements.bound(&message.bytes[HEADER_LEN..])
        {
            note_head(&mut self.timing, self.link.as_ref(), now, text);
        }
        Ok(false)
    }

    /// Notes what a message asks for where nothing of its session is followed.
    fn watch_text(&mut self, message: &Incoming<'_>) {
        if !matches!(message.tag, b'Q' | b'P') {
            return;
        }
        let text = sent_text(message.tag, &message.bytes[HEADER_LEN..]);
        self.link.iter().for_each(|link| link.server.info.note_text(text));
        if may_assign(text) {
            self.note_assignments(text);
        }
        if self.timing.is_some() && chains(text) {
            self.timing().deadlines.transaction_ends();
        }
    }

    /// Puts in front of a message with these effects what it needs. False: it has to wait.
    fn make_way(&mut self, effects: Effects, message: &Incoming<'_>, out: &mut Gather<'_>) -> bool {
        if effects.contains(Effects::DATABASE) && self.must_vacate(message) {
            self.resume = true;
            return false;
        }
        if effects.intersects(ASSIGNS) {
            let text = self.text_of(message);
            if may_assign(text) {
                let text = text.to_vec();
                self.note_assignments(&text);
            }
        }
        if effects.contains(Effects::TRANSACTION) && self.timing.is_some() && chains(self.text_of(message)) {
            self.timing().deadlines.transaction_ends();
        }
        if effects.contains(Effects::SEQUENCE_READ) {
            self.ask_sequences(message, out);
        }
        if effects.intersects(Effects::NOTIFY) {
            self.on_notify();
        }
        // DISCARD ALL can't have anything in front of it in its batch, and needs no channels to end them.
        let channels = effects.intersects(state::CHANNELS) && !effects.contains(Effects::DISCARD_ALL);
        let savepoint = effects.intersects(Effects::TRANSACTION) && self.marks_savepoint(message);
        if channels || savepoint || message.tag == b'P' && self.parses_listen(message.bytes) {
            if self.waits_for_channels() {
                return false;
            }
            self.bring_channels(message, out);
        }
        true
    }

    /// What a message means for prepared statements, of which a server keeps up to `limit`.
    fn on_statement(
        &mut self,
        message: &Incoming<'_>,
        effects: Effects,
        limit: usize,
        out: &mut Gather<'_>,
    ) -> Verdict {
        let Incoming { tag, bytes, complete, read, at } = *message;
        let Some(link) = &mut self.link else { return Verdict::Forward };
        let server = &mut *link.server;
        let by_name = Effects::PREPARED.union(Effects::EXECUTE);
        let names = effects.intersects(by_name);
        let may_drop = effects.contains(Effects::PREPARED);
        match tag {
            b'Q' if !names => {
                server.statements.on_query(server.machine.batch_is_open());
                self.statements.close_unnamed();
                return Verdict::Forward;
            }
            b'S' => {
                server.statements.end_batch();
                return Verdict::Forward;
            }
            b'P' | b'B' | b'D' | b'C' | b'Q' => {}
            _ => return Verdict::Forward,
        }
        let mut front = self.worker.front.borrow_mut();
        front.clear();
        let meaning = meaning(&self.settings, &self.params, link);
        let may_have = link.server.suspect.intersects(by_name) || link.asks_for(Pins::PREPARED);
        let server = &mut *link.server;
        let moments = &self.pool.moments;
        let moment = if tag == b'P' { moments.of_parse(self.worker.now()) } else { moments.latest() };
        let mut exchange = Exchange {
            client: &mut self.statements,
            server: &mut server.statements,
            machine: &mut server.machine,
            meaning,
            by_sql: may_have || server.pins.contains(Pins::PREPARED),
            moment,
            at,
            behind: &read[at + bytes.len()..],
            limit,
            most: self.worker.client_buffer_limit.get(),
            out: &mut front,
            counted: Counted::default(),
        };
        let verdict = match tag {
            b'Q' => exchange.on_names(simple_query(&bytes[HEADER_LEN..]), true),
            _ => exchange.on_message(tag, bytes, complete, names, &self.pool.texts),
        };
        if tag == b'P' && !complete && bytes.get(HEADER_LEN) != Some(&0) {
            server.pins.add(Pins::LONG);
        }
        if may_drop && verdict != Verdict::Wait {
            exchange.server.drops(tag == b'Q');
        }
        if tag == b'Q' && verdict == Verdict::Forward {
            exchange.server.on_query(exchange.machine.batch_is_open());
            exchange.client.close_unnamed();
        }
        let counted = exchange.counted;
        if !front.is_empty() {
            out.insert(read, &front);
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
    pub(super) fn forward(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), End> {
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
        link.server.statements.again.forget();
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
        self.poll_farewell(cx)
    }

    /// Notices when a client leaves whose next request waits for what is under way. What it sends meanwhile is kept, within
    /// bounds.
    pub(super) fn watch_stalled(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.farewell.is_none() && self.input.len() < READ_AHEAD {
            let mut buffer = self.worker.buffer.borrow_mut();
            match self.watch.poll_read(&mut self.stream, cx, &mut buffer[..READ_AHEAD]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.counters().received.add(n as u64);
                    self.input.extend_from_slice(&buffer[..n]);
                }
                Poll::Ready(Ok(_)) if self.input.ends_with(TERMINATE) => {
                    self.farewell = Some(Box::pin(tokio::time::sleep(FAREWELL)));
                }
                Poll::Ready(_) => return Err(End::Gone),
            }
        }
        self.poll_farewell(cx)
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        match self.farewell.as_mut().map(|farewell| farewell.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(End::Gone),
            _ => Ok(()),
        }
    }
}

/// A message from the client, or its first part.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) tag: u8,
    pub(super) bytes: &'a [u8],
    pub(super) complete: bool,
    /// What was read, and where in it the message begins.
    pub(super) read: &'a [u8],
    pub(super) at: usize,
}

/// What follows a client from server to server.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Follows {
    /// Its prepared statements: so many a server keeps; 0: they don't.
    pub(super) statements: usize,
    /// The rest of its session's state.
    pub(super) state: bool,
    /// There are limits in time for some clients.
    limited: bool,
    /// Its requests may go to different hosts.
    pub(super) routes: bool,
    /// It hears what became of a COMMIT whose answer was lost.
    certainly: bool,
}

impl Follows {
    fn anything(self) -> bool {
        self.state || self.statements > 0
    }
}

/// Messages from a client that are looked into where its prepared statements and session state follow it.
const LOOKED_INTO: Whole = Whole::new(b"QPBDC", LOOKED_AT).with(b"QP", KEPT);

/// The beginnings of statements, for what a comment there may say.
const HEADS: Whole = Whole::new(b"QP", LONGEST_COMMENT);

/// What may assign a setting of the pooler's own.
const ASSIGNS: Effects = state::SETS.union(Effects::LOCAL_SETTINGS).union(Effects::DISCARD_ALL);

/// More than this (bytes) is not gathered before it is sent. What was read is less; but a short message may need a long
/// statement in front of it, and there may be thousands in one read.
const MOST_AT_ONCE: usize = 1 << 20;

/// The message of who has nothing more to say.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

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
