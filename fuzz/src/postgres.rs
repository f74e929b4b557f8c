//! A PostgreSQL backend reduced to the order of its messages: what it reads, what it ignores, what it answers. It
//! follows the loop in `postgres.c` and the COPY reader in `copyfromparse.c`, and knows by construction what it owes,
//! which is what the server machine has to work out from outside. Which statements fail and when is decided by the
//! input.

use std::collections::VecDeque;

use protocol::message::TxStatus;
use protocol::session::Origin;

use crate::input::Input;

/// Marks, among the messages, one that the pooler answers.
pub(crate) const INVENTED: u8 = b'i';

/// A message on its way to the server.
pub(crate) struct Sent {
    pub(crate) tag: u8,
    pub(crate) origin: Origin,
    /// Statements in it that are COPY FROM.
    pub(crate) copies: u8,
}

/// A message on its way to the pooler. `origin` is whose request it answers; `None` if nobody's.
pub(crate) struct Reply {
    pub(crate) tag: u8,
    pub(crate) status: Option<TxStatus>,
    pub(crate) origin: Option<Origin>,
}

/// COPY FROM in progress.
struct Copy {
    origin: Origin,
    /// More of them follow in the query string; `None` in the extended protocol.
    copies_left: Option<u8>,
}

pub(crate) struct Postgres {
    /// Sent by the pooler, not yet read.
    pub(crate) inbox: VecDeque<Sent>,
    /// Answered, not yet received by the pooler.
    pub(crate) outbox: VecDeque<Reply>,
    status: TxStatus,
    /// The last message that the main loop read belongs to the extended protocol.
    extended: bool,
    ignore_till_sync: bool,
    /// Extended-query messages have opened a transaction that only a Sync (or a Query) ends.
    batch_open: bool,
    copy: Option<Copy>,
    pub(crate) closed: bool,
}

impl Postgres {
    pub(crate) fn new() -> Postgres {
        Postgres {
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            status: TxStatus::Idle,
            extended: false,
            ignore_till_sync: false,
            batch_open: false,
            copy: None,
            closed: false,
        }
    }

    /// Nothing is owed and no state is left, whatever still travels: another client may have this connection.
    pub(crate) fn is_clean(&self) -> bool {
        let harmless = |sent: &Sent| matches!(sent.tag, b'd' | b'c' | b'f' | b'H');
        self.outbox.iter().all(|reply| reply.origin.is_none())
            && self.inbox.iter().all(harmless)
            && self.status == TxStatus::Idle
            && !self.ignore_till_sync
            && !self.batch_open
            && self.copy.is_none()
    }

    pub(crate) fn reads_copy(&self) -> bool {
        self.copy.is_some()
    }

    pub(crate) fn status(&self) -> TxStatus {
        self.status
    }

    /// A notice, a parameter or a notification.
    pub(crate) fn say_unasked(&mut self, tag: u8) {
        self.outbox.push_back(Reply { tag, status: None, origin: None });
    }

    /// An administrator ends the session.
    pub(crate) fn terminate(&mut self) {
        self.say_unasked(b'E');
        self.closed = true;
    }

    /// Where the messages would be read that the pooler answers, if they were there, it answers.
    pub(crate) fn pass_invented(&mut self) {
        if self.copy.is_some() {
            return;
        }
        let unanswered = |sent: &mut Sent| matches!(sent.tag, INVENTED | b'd' | b'c' | b'f' | b'H');
        while let Some(sent) = self.inbox.pop_front_if(unanswered) {
            if sent.tag != INVENTED {
                self.message(sent, &mut Input::new(&[]));
            } else if !self.ignore_till_sync {
                self.answer(&[INVENTED], Origin::Client);
            }
        }
    }

    /// Reads and answers one message; false if there is none.
    pub(crate) fn step(&mut self, input: &mut Input) -> bool {
        self.pass_invented();
        if self.closed {
            return false;
        }
        let Some(sent) = self.inbox.pop_front() else { return false };
        match self.copy.take() {
            Some(copy) => self.copy_message(sent.tag, copy, input),
            None => self.message(sent, input),
        }
        true
    }

    fn message(&mut self, Sent { tag, origin, copies }: Sent, input: &mut Input) {
        match tag {
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.extended = true,
            b'S' => (self.extended, self.ignore_till_sync) = (false, false),
            _ => self.extended = false,
        }
        if self.ignore_till_sync {
            return;
        }
        match tag {
            b'Q' => self.query(origin, copies, input),
            b'F' => self.function_call(origin, input),
            b'S' => self.sync(origin, input),
            b'H' | b'd' | b'c' | b'f' => {}
            b'E' if copies > 0 && input.below(10) < 9 => {
                self.batch_open = true;
                self.begin_copy(Copy { origin, copies_left: None }, input);
            }
            _ => self.extended_message(tag, origin, input),
        }
    }

    fn query(&mut self, origin: Origin, copies: u8, input: &mut Input) {
        if origin == Origin::Pooler {
            self.answer([&b"I"[..], b"C", b"SSCC", b"TDC"][input.below(4)], origin);
            return self.ready(origin);
        }
        if copies == 0 && input.below(8) == 7 {
            self.answer(b"I", origin);
            return self.ready(origin);
        }
        self.statements(copies, origin, input);
    }

    /// Runs what is left of a query string: any statements and this many COPYs, if none fails.
    fn statements(&mut self, copies: u8, origin: Origin, input: &mut Input) {
        for _ in 0..=input.below(3) {
            match input.below(8) {
                0 => self.commit(origin),
                1 => self.begin(origin),
                2 => self.answer(b"C", origin),
                3 => self.answer(b"TC", origin),
                4 => self.answer(b"TDDNC", origin),
                5 => self.answer(b"HddcC", origin),
                6 if copies > 0 => break,
                _ => return self.error(origin),
            }
        }
        match copies.checked_sub(1) {
            Some(left) => self.begin_copy(Copy { origin, copies_left: Some(left) }, input),
            None => self.ready(origin),
        }
    }

    fn function_call(&mut self, origin: Origin, input: &mut Input) {
        match input.below(3) {
            0 => {
                self.answer(b"V", origin);
                self.ready(origin);
            }
            1 => {
                self.answer(b"NV", origin);
                self.ready(origin);
            }
            _ => self.error(origin),
        }
    }

    fn sync(&mut self, origin: Origin, input: &mut Input) {
        // The implicit transaction commits here, and that may fail.
        if self.batch_open && self.status == TxStatus::Idle && input.below(8) == 7 {
            return self.error(origin);
        }
        self.ready(origin);
    }

    fn extended_message(&mut self, tag: u8, origin: Origin, input: &mut Input) {
        self.batch_open = true;
        let outcome = input.below(10);
        if outcome == 9 {
            if tag == b'E' && input.below(2) == 1 {
                self.answer(b"D", origin);
            }
            return self.error(origin);
        }
        match (tag, outcome) {
            (b'P', _) => self.answer(b"1", origin),
            (b'B', _) => self.answer(b"2", origin),
            (b'C', _) => self.answer(b"3", origin),
            (b'D', 0..3) => self.answer(b"tT", origin),
            (b'D', 3..5) => self.answer(b"tn", origin),
            (b'D', 5..7) => self.answer(b"T", origin),
            (b'D', _) => self.answer(b"n", origin),
            (b'E', 0) => self.commit(origin),
            (b'E', 1) => self.begin(origin),
            (b'E', 2) => self.answer(b"DDs", origin),
            (b'E', 3) => self.answer(b"I", origin),
            (b'E', 4) => self.answer(b"HddcC", origin),
            (b'E', _) => self.answer(b"DDC", origin),
            _ => unreachable!("no other type is sent"),
        }
    }

    fn begin(&mut self, origin: Origin) {
        if self.status == TxStatus::Idle {
            self.status = TxStatus::Open;
        }
        self.answer(b"C", origin);
    }

    fn commit(&mut self, origin: Origin) {
        self.status = TxStatus::Idle;
        self.answer(b"C", origin);
    }

    fn begin_copy(&mut self, copy: Copy, input: &mut Input) {
        self.answer(b"G", copy.origin);
        if input.below(8) == 7 {
            return self.error(copy.origin); // before any data: a trigger, say
        }
        self.copy = Some(copy);
    }

    /// A message read by COPY.
    fn copy_message(&mut self, tag: u8, copy: Copy, input: &mut Input) {
        match tag {
            b'd' if input.below(6) == 5 => self.error(copy.origin),
            b'd' | b'H' | b'S' => self.copy = Some(copy),
            b'c' if input.below(6) == 5 => self.error(copy.origin),
            b'c' => {
                self.answer(b"C", copy.origin);
                if let Some(left) = copy.copies_left {
                    self.statements(left, copy.origin, input);
                }
            }
            b'f' => self.error(copy.origin),
            // Synchronisation with the client is lost.
            _ => {
                self.answer(b"E", copy.origin);
                self.closed = true;
            }
        }
    }

    fn error(&mut self, origin: Origin) {
        self.answer(b"E", origin);
        self.batch_open = false; // rolled back
        if self.status == TxStatus::Open {
            self.status = TxStatus::Failed;
        }
        if self.extended {
            self.ignore_till_sync = true;
        } else {
            self.ready(origin);
        }
    }

    fn ready(&mut self, origin: Origin) {
        self.batch_open = false;
        self.outbox.push_back(Reply { tag: b'Z', status: Some(self.status), origin: Some(origin) });
    }

    fn answer(&mut self, tags: &[u8], origin: Origin) {
        for &tag in tags {
            let origin = (!matches!(tag, b'N' | b'S' | b'A')).then_some(origin);
            self.outbox.push_back(Reply { tag, status: None, origin });
        }
    }
}
