//! What a server owes, and whether its connection may change hands.

use std::collections::VecDeque;

use super::owed::{Invented, Origin, Owed, Owes, Route, Violation};
use crate::message::TxStatus;

/// Where the client-to-server stream stands between two `Sync`s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// No extended-query message since the last `Sync`.
    Closed,
    /// Extended-query messages without their `Sync`: PostgreSQL has a transaction open, whatever the status says.
    Open,
    /// The server reported an error and ignores everything up to the next `Sync`, which has not been sent.
    Skipping,
}

/// COPY from the client, as far as the replies have told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyIn {
    /// None is running.
    No,
    /// The server reads COPY data; the client has not ended them.
    Reading,
    /// The client has sent `CopyDone` or `CopyFail`; the server has not answered.
    Ended,
}

/// Proof that a server owes nothing and is outside every transaction. Only [`ServerMachine::idle`] makes one.
#[derive(Debug)]
pub struct Idle(());

/// One server connection after its login: the status that `ReadyForQuery` last gave, and the replies owed.
///
/// ```text
///             on_sent: push what the message is owed
///   client ───────────────────────────────────────────▶ server
///             on_received: pop what the reply settles
///          ◀───────────────────────────────────────────
///
///   extended query:  Batch::Closed ──P B D E C──▶ Open ──Sync──▶ Closed
///                                                  │ ErrorResponse, no Sync sent yet
///                                                  ▼
///                                               Skipping ──Sync──▶ Closed
///
///   COPY FROM:       No ──CopyInResponse──▶ Reading ──CopyDone, CopyFail──▶ Ended ──CommandComplete──▶ No
///                     ▲                        └──────────── ErrorResponse ────┴──────────────────────┘
/// ```
///
/// **Errors.** In the extended protocol an `ErrorResponse` settles everything up to the next `Sync`: the server
/// ignores it unread, simple queries included.
///
/// **COPY and Sync.** A driver that pipelines sends `Sync` right behind the `Execute` of a COPY. The server eats such
/// a `Sync` while it reads COPY data. If the COPY fails, nobody outside the server can tell whether a `Sync` was
/// eaten (it failed on data) or not (it failed before reading any, say in a trigger), and so how many
/// `ReadyForQuery`s will come. [`Owes::Syncs`] stands for that; whatever reply comes next and is not a
/// `ReadyForQuery` settles it. If nothing else is owed, [`needs_probe`](Self::needs_probe) asks for an empty query,
/// whose `EmptyQueryResponse` is such a reply.
///
/// **A simple query inside a batch.** PostgreSQL 18 may be left in a state in which the next statement, whoever sends
/// it, fails (`XX000`). The same empty query is that statement then.
#[derive(Debug)]
pub struct ServerMachine {
    status: TxStatus,
    owed: VecDeque<Owed>,
    batch: Batch,
    copy: CopyIn,
    /// A message from the client has been sent in part.
    mid_message: bool,
    /// A simple query was sent inside an open batch.
    mixed: bool,
    /// See [`take_skipped`](Self::take_skipped).
    skipped: usize,
    /// See [`statements_ended`](Self::statements_ended).
    ended: u64,
    /// Those of them that were the pooler's own.
    own_ended: u64,
    /// What is owed can no longer be known (streaming replication, or a request inside COPY data).
    lost: bool,
}

impl Default for ServerMachine {
    fn default() -> Self {
        ServerMachine {
            status: TxStatus::Idle,
            owed: VecDeque::new(),
            batch: Batch::Closed,
            copy: CopyIn::No,
            mid_message: false,
            mixed: false,
            skipped: 0,
            ended: 0,
            own_ended: 0,
            lost: false,
        }
    }
}

/// More requests than this without an answer, and the client should not be read for now.
const MANY_OWED: usize = 1 << 12;

impl ServerMachine {
    /// A connection whose login has just ended with `ReadyForQuery` idle.
    pub fn new() -> ServerMachine {
        ServerMachine::default()
    }

    /// The status that `ReadyForQuery` last gave.
    pub fn status(&self) -> TxStatus {
        self.status
    }

    /// No reply is owed.
    pub fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// So much is owed that no more should be sent, but for the rest of a message.
    pub fn is_overrun(&self) -> bool {
        // `Sync`s that were joined stand at the end.
        let joined = match self.owed.back() {
            Some(Owed { what: Owes::Syncs { at_least, .. }, .. }) => *at_least as usize,
            _ => 0,
        };
        self.owed.len() + joined >= MANY_OWED && !self.mid_message
    }

    /// Part of a message is still to be sent.
    pub fn is_mid_message(&self) -> bool {
        self.mid_message
    }

    /// The server reads COPY data and waits for their end.
    pub fn reads_copy(&self) -> bool {
        self.copy == CopyIn::Reading
    }

    /// Extended-query messages were sent without their `Sync`.
    pub fn batch_is_open(&self) -> bool {
        self.batch != Batch::Closed
    }

    /// The server ignores everything until a `Sync` that has not been sent yet.
    pub fn skips_until_sync(&self) -> bool {
        self.batch == Batch::Skipping
    }

    /// What is owed can't be known any more: the connection must not be used for anybody else.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The proof that the connection may change hands, if it may.
    pub fn idle(&self) -> Option<Idle> {
        let clean = self.status == TxStatus::Idle
            && self.owed.is_empty()
            && self.batch == Batch::Closed
            && self.copy == CopyIn::No
            && !self.mid_message
            && !self.mixed
            && !self.lost;
        clean.then_some(Idle(()))
    }

    /// Only an empty query can tell whether more `ReadyForQuery`s will come.
    pub fn needs_probe(&self) -> bool {
        let open = |o: &Owed| matches!(o.what, Owes::Syncs { at_least: 0, .. });
        let mixed = self.mixed && self.status == TxStatus::Idle && self.owed.is_empty();
        (mixed || self.owed.len() == 1 && self.owed.front().is_some_and(open))
            && self.batch == Batch::Closed
            && !self.mid_message
    }

    /// A message was sent to the server, or its first part: `complete` tells.
    pub fn on_sent(&mut self, tag: u8, origin: Origin, complete: bool) {
        self.mid_message = !complete;
        if self.copy == CopyIn::Reading {
            return self.on_sent_in_copy(tag, origin);
        }
        let what = match tag {
            b'S' => {
                self.batch = Batch::Closed;
                Owes::Sync
            }
            b'c' | b'f' if self.may_meet_copy() => Owes::CopyEnd,
            b'H' | b'd' | b'c' | b'f' => return, // Flush is owed nothing; COPY data without a COPY are ignored
            _ if self.batch == Batch::Skipping && self.may_have_skipped() => return self.lose(),
            _ if self.batch == Batch::Skipping => return,
            b'Q' | b'F' => {
                self.mixed = origin == Origin::Client && (self.mixed || self.batch == Batch::Open);
                if tag == b'Q' { Owes::Query } else { Owes::FunctionCall }
            }
            b'P' => self.open(Owes::Parse),
            b'B' => self.open(Owes::Bind),
            b'D' => self.open(Owes::Describe),
            b'E' => self.open(Owes::Execute),
            b'C' => self.open(Owes::Close),
            _ => return self.lose(),
        };
        self.push(what, origin);
    }

    /// `Describe` was sent, and somebody wants to know what it says. It counts in
    /// [`take_skipped`](Self::take_skipped).
    pub fn on_noted_describe(&mut self, origin: Origin) {
        if self.batch != Batch::Skipping {
            let what = self.open(Owes::NotedDescribe);
            self.push(what, origin);
        }
    }

    /// The next reply belongs to a `Describe` of which somebody wants to know what it says, unless it is an error.
    pub fn notes_description(&self) -> bool {
        self.owed.front().is_some_and(|o| o.what == Owes::NotedDescribe)
    }

    /// Outside a transaction, and the batch at hand has sent nothing yet but what no transaction takes back.
    pub fn batch_may_begin_again(&self) -> bool {
        let lasting = |o: &Owed| match o.what {
            Owes::Parse | Owes::Close | Owes::Invented(_) | Owes::NotedDescribe => true,
            _ => matches!(o.origin, Origin::Pooler | Origin::Aside),
        };
        self.status == TxStatus::Idle && self.copy == CopyIn::No && self.owed.iter().all(lasting)
    }

    /// A message of an extended-query batch was not sent, because the pooler answers it.
    pub fn on_invented(&mut self, reply: Invented) {
        if self.batch != Batch::Skipping {
            let what = self.open(Owes::Invented(reply));
            self.push(what, Origin::Client);
        }
    }

    /// The turn of a reply of the pooler's own will be known. It is not behind a `Sync` that may have been eaten.
    pub fn may_invent(&self) -> bool {
        !self.owed.iter().any(|owed| matches!(owed.what, Owes::Syncs { .. } | Owes::CopyEnd))
            && self.copy == CopyIn::No
    }

    /// The pooler's own reply whose turn has come. Asked for after every event until there is none.
    pub fn next_invented(&mut self) -> Option<Invented> {
        match self.owed.front()?.what {
            Owes::Invented(reply) => {
                self.owed.pop_front();
                Some(reply)
            }
            _ => None,
        }
    }

    /// How many of the oldest unanswered messages that change prepared statements (`Parse`, `Close`, and those
    /// answered by the pooler) or note what they are an error has settled since this was last asked: they had no
    /// effect.
    pub fn take_skipped(&mut self) -> usize {
        std::mem::take(&mut self.skipped)
    }

    /// Counts statements that have ended, well or badly. Several of a simple query count each.
    pub fn statements_ended(&self) -> u64 {
        self.ended
    }

    /// How many of them were the client's.
    pub fn clients_statements_ended(&self) -> u64 {
        self.ended - self.own_ended
    }

    fn end_statement(&mut self, origin: Origin) {
        self.ended += 1;
        self.own_ended += u64::from(origin != Origin::Client);
    }

    /// Something in front of the batch at hand is still to be answered.
    pub fn awaits_ready(&self) -> bool {
        self.owed.iter().any(|o| o.what.ends_with_ready() || o.what == Owes::CopyEnd)
    }

    /// How many of the client's requests are not answered in full; of a batch without its `Sync` that is not one.
    pub fn requests_owed(&self) -> usize {
        self.owed.iter().filter(|o| o.origin == Origin::Client && o.what.ends_with_ready()).count()
    }

    /// What is owed, and to whom; the oldest first.
    pub fn owed(&self) -> impl Iterator<Item = (Owes, Origin)> {
        self.owed.iter().map(|owed| (owed.what, owed.origin))
    }

    /// Everything owed belongs to the batch at hand, and the transaction has not failed.
    pub fn is_sure_of_status(&self) -> bool {
        self.status != TxStatus::Failed && !self.awaits_ready()
    }

    /// The rest of a message was sent, or more of it: `complete` tells.
    pub fn on_sent_rest(&mut self, complete: bool) {
        self.mid_message = !complete;
    }

    /// Whether an end of COPY input sent now may be read by a COPY: not if nothing is being answered, nor right
    /// behind a COPY that has failed.
    fn may_meet_copy(&self) -> bool {
        self.owed.back().is_some_and(|o| self.copy != CopyIn::No || !matches!(o.what, Owes::Syncs { .. }))
    }

    /// Whether the server skips what is sent now depends on what a failed COPY has eaten.
    fn may_have_skipped(&self) -> bool {
        self.owed.back().is_some_and(|o| matches!(o.what, Owes::Syncs { .. }))
    }

    fn on_sent_in_copy(&mut self, tag: u8, origin: Origin) {
        match tag {
            b'd' | b'H' => {}
            b'c' | b'f' => {
                self.copy = CopyIn::Ended;
                self.push(Owes::CopyEnd, origin);
            }
            // Eaten, unless the COPY has already failed and the news is on its way.
            b'S' => match self.owed.back_mut() {
                Some(Owed { what: Owes::Syncs { at_most, .. }, .. }) => *at_most += 1,
                _ => self.push(Owes::Syncs { at_least: 0, at_most: 1 }, origin),
            },
            _ => self.lose(),
        }
    }

    fn open(&mut self, what: Owes) -> Owes {
        self.batch = Batch::Open;
        what
    }

    /// What is owed can't be known any more; nor can it after a message that was not admissible.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    fn push(&mut self, what: Owes, origin: Origin) {
        if let (Owes::Sync, Some(Owed { what: Owes::Syncs { at_least, at_most }, .. })) =
            (what, self.owed.back_mut())
        {
            *at_least += 1;
            *at_most += 1;
            return;
        }
        self.owed.push_back(Owed { what, origin });
    }

    /// Where a `DataRow` goes, if one is admissible now. It changes nothing.
    #[inline]
    pub fn route_of_row(&self) -> Option<Route> {
        match self.owed.front()? {
            Owed { what: Owes::Query | Owes::Execute, origin } if !self.lost => Some(origin.route()),
            _ => None,
        }
    }

    /// A message came from the server. `status` is the body of a `ReadyForQuery`.
    ///
    /// # Errors
    /// The message is not admissible: discard the connection.
    pub fn on_received(&mut self, tag: u8, status: Option<TxStatus>) -> Result<Route, Violation> {
        if self.lost {
            self.status = status.unwrap_or(self.status);
            return Ok(Route::Forward);
        }
        if matches!(tag, b'N' | b'S' | b'A') {
            return Ok(self.asynchronous(tag));
        }
        self.settle_front(tag);
        let Some(front) = self.owed.front().copied() else {
            // An error nobody asked for announces the end of the connection (57P01 and the like).
            self.lose();
            return if tag == b'E' { Ok(Route::Forward) } else { Err(self.violation(tag)) };
        };
        match tag {
            b'Z' => {
                let status = status.ok_or_else(|| self.violation(tag))?;
                self.ready(front, tag, status)?;
            }
            b'E' => return Ok(self.error(front)),
            _ => self.reply(front, tag)?,
        }
        Ok(front.origin.route())
    }

    /// Drops from the front what `tag` proves settled: ends of COPY input that were ignored, and `Sync`s that turn
    /// out to have been eaten.
    fn settle_front(&mut self, tag: u8) {
        while let Some(front) = self.owed.front() {
            match front.what {
                Owes::CopyEnd => {}
                Owes::Syncs { at_least: 0, .. } if tag != b'Z' => {}
                _ => return,
            }
            self.owed.pop_front();
        }
    }

    fn asynchronous(&self, tag: u8) -> Route {
        match self.owed.front() {
            Some(Owed { origin: Origin::Pooler, .. }) => Route::Swallow,
            Some(Owed { origin: Origin::InFront | Origin::Aside, .. }) if tag == b'N' => Route::Swallow,
            _ => Route::Forward,
        }
    }

    fn ready(&mut self, front: Owed, tag: u8, status: TxStatus) -> Result<(), Violation> {
        match front.what {
            Owes::Query | Owes::Sync | Owes::FunctionCall => {
                self.owed.pop_front();
            }
            Owes::Syncs { at_least, at_most } => {
                if at_most <= 1 {
                    self.owed.pop_front();
                } else if let Some(Owed { what, .. }) = self.owed.front_mut() {
                    *what = Owes::Syncs { at_least: at_least.saturating_sub(1), at_most: at_most - 1 };
                }
            }
            _ => return Err(self.violation(tag)),
        }
        self.status = status;
        self.copy = CopyIn::No;
        if self.batch == Batch::Skipping {
            self.batch = Batch::Closed; // a Sync that was thought eaten has ended it
        }
        self.settle_end();
        Ok(())
    }

    /// After the last `ReadyForQuery` nothing can follow that only marks an ignored end of COPY input.
    fn settle_end(&mut self) {
        while self.owed.front().is_some_and(|o| o.what == Owes::CopyEnd) {
            self.owed.pop_front();
        }
    }

    fn error(&mut self, front: Owed) -> Route {
        let at_fault = if front.origin == Origin::InFront { Origin::Client } else { front.origin };
        self.end_statement(at_fault);
        let in_copy = std::mem::replace(&mut self.copy, CopyIn::No) != CopyIn::No;
        if !front.what.ends_with_ready() {
            self.skip_to_sync();
        }
        if in_copy {
            self.merge_syncs();
        }
        match front.origin {
            Origin::Client | Origin::InFront => Route::Forward,
            Origin::Pooler | Origin::Aside => Route::OwnRequestFailed,
        }
    }

    /// The server ignores what was sent up to the next `Sync`.
    fn skip_to_sync(&mut self) {
        while let Some(front) = self.owed.front() {
            match front.what {
                Owes::Sync | Owes::Syncs { .. } => return,
                Owes::Query | Owes::FunctionCall => self.mixed = false, // it was not even begun
                Owes::Parse | Owes::Close | Owes::Invented(_) | Owes::NotedDescribe => self.skipped += 1,
                _ => {}
            }
            self.owed.pop_front();
        }
        self.batch = Batch::Skipping;
    }

    /// Joins the `Sync`s that a failed COPY may have eaten with the one behind the end of its input.
    fn merge_syncs(&mut self) {
        let start = usize::from(self.owed.front().is_some_and(|o| o.what == Owes::Query));
        let (mut least, mut most, mut count) = (0u32, 0u32, 0usize);
        for owed in self.owed.iter().skip(start) {
            match owed.what {
                Owes::Syncs { at_least, at_most } => {
                    least += at_least;
                    most += at_most;
                }
                Owes::CopyEnd => {}
                Owes::Sync if most > 0 => {
                    least += 1;
                    most += 1;
                }
                _ => break,
            }
            count += 1;
        }
        if most == 0 {
            return;
        }
        if least == 0 && start == 0 {
            // Whether the server skips depends on what was eaten; only the next Sync tells.
            self.batch = Batch::Skipping;
            if self.owed.len() > count {
                return self.lose(); // so does whether what was sent behind it is answered
            }
        }
        let origin = Origin::Client; // the pooler never runs COPY
        self.owed.drain(start..start + count);
        self.owed.insert(start, Owed { what: Owes::Syncs { at_least: least, at_most: most }, origin });
    }

    fn reply(&mut self, front: Owed, tag: u8) -> Result<(), Violation> {
        match (front.what, tag) {
            (Owes::Parse, b'1') | (Owes::Bind, b'2') | (Owes::Close, b'3') => self.pop(),
            (Owes::Describe | Owes::NotedDescribe, b'T' | b'n') => self.pop(),
            (Owes::Describe | Owes::NotedDescribe, b't') | (Owes::FunctionCall, b'V') => {}
            (Owes::Execute, b'C' | b'I' | b's') => {
                self.end_statement(front.origin);
                self.pop();
                self.end_copy(0);
            }
            (Owes::Query, b'C') => {
                self.end_statement(front.origin);
                self.end_copy(1);
            }
            (Owes::Query, b'T' | b'I') => {}
            (Owes::Query | Owes::Execute, b'D' | b'H' | b'd' | b'c') => {}
            (Owes::Query | Owes::Execute, b'G') => self.begin_copy(),
            (Owes::Query | Owes::Execute, b'W') => self.lose(),
            _ => return Err(self.violation(tag)),
        }
        Ok(())
    }

    fn pop(&mut self) {
        self.owed.pop_front();
    }

    /// The request at the front reads COPY data from here on; what was sent behind it, up to the end of the input,
    /// is read as such.
    fn begin_copy(&mut self) {
        let is_sync = |o: &&Owed| matches!(o.what, Owes::Sync | Owes::Syncs { .. });
        let syncs = self.owed.iter().skip(1).take_while(is_sync).count();
        self.copy = match self.owed.get(1 + syncs).map(|o| o.what) {
            None => CopyIn::Reading,
            Some(Owes::CopyEnd) => CopyIn::Ended,
            // A request inside COPY data: the server ends the session, or has failed before it read that far.
            Some(_) => return self.lose(),
        };
        if syncs > 0 {
            self.owed.drain(1..1 + syncs);
            let what = Owes::Syncs { at_least: 0, at_most: syncs as u32 };
            self.owed.insert(1, Owed { what, origin: Origin::Client });
        }
        let extended = self.owed.front().is_some_and(|o| o.what == Owes::Execute);
        if extended && !self.owed.iter().any(|o| o.what == Owes::Sync) {
            self.batch = Batch::Open; // the Sync that closed it is being eaten
        }
    }

    /// COPY has succeeded: every `Sync` before the end of its input was eaten. The entries stand behind `skip`
    /// others.
    fn end_copy(&mut self, skip: usize) {
        if std::mem::replace(&mut self.copy, CopyIn::No) == CopyIn::No {
            return;
        }
        while let Some(owed) = self.owed.get(skip) {
            let end = owed.what == Owes::CopyEnd;
            if !end && !matches!(owed.what, Owes::Syncs { at_least: 0, .. }) {
                return;
            }
            self.owed.remove(skip);
            if end {
                return;
            }
        }
    }

    fn violation(&self, tag: u8) -> Violation {
        Violation { tag, while_owed: self.owed.front().map(|o| o.what) }
    }

    /// Gives back the memory of a long pipeline. Called when the connection changes hands.
    pub fn shrink(&mut self) {
        if self.owed.capacity() > 64 {
            self.owed.shrink_to(16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: `>X` sends a message of tag X, `~X` sends the pooler's own, `^X` one in front of the client's,
    /// `!P` and `!C` are answered by the pooler, `<X` receives; `<Z` is followed by the status. Returns what became of
    /// each reply: f(orward), s(wallow), o(wn request failed), ! violation; `1` and `3` are invented.
    fn run(machine: &mut ServerMachine, script: &str) -> String {
        let mut routes = String::new();
        for step in script.split_whitespace() {
            let bytes = step.as_bytes();
            match bytes[0] {
                b'>' => machine.on_sent(bytes[1], Origin::Client, true),
                b'~' => machine.on_sent(bytes[1], Origin::Pooler, true),
                b'^' => machine.on_sent(bytes[1], Origin::InFront, true),
                b'!' if bytes[1] == b'P' => machine.on_invented(Invented::Parse),
                b'!' => machine.on_invented(Invented::Close),
                _ => {
                    let status = bytes.get(2).and_then(|&b| TxStatus::from_byte(b));
                    routes.push(match machine.on_received(bytes[1], status) {
                        Ok(Route::Forward) => 'f',
                        Ok(Route::Swallow) => 's',
                        Ok(Route::OwnRequestFailed) => 'o',
                        Err(_) => '!',
                    });
                }
            }
            while let Some(reply) = machine.next_invented() {
                routes.push(reply.message()[0] as char);
            }
        }
        routes
    }

    fn after(script: &str) -> (ServerMachine, String) {
        let mut machine = ServerMachine::new();
        let routes = run(&mut machine, script);
        (machine, routes)
    }

    #[track_caller]
    fn idle_after(script: &str) {
        let (machine, routes) = after(script);
        assert!(!routes.contains('!'), "{script}: {routes}");
        assert!(machine.idle().is_some(), "{script}: {machine:?}");
    }

    #[track_caller]
    fn busy_after(script: &str) {
        let (machine, routes) = after(script);
        assert!(!routes.contains('!'), "{script}: {routes}");
        assert!(machine.idle().is_none(), "{script}: {machine:?}");
    }

    #[test]
    fn requests_and_their_replies() {
        idle_after("");
        idle_after(">Q <T <D <C <ZI");
        idle_after(">Q <T <C <T <C <I <ZI");
        busy_after(">Q <T <C");
        busy_after(">Q <C <ZT");
        idle_after(">Q <C <ZT >Q <C <ZI");
        idle_after(">P >B >D >E >S <1 <2 <T <D <C <ZI");
        idle_after(">P >D >S <1 <t <n <ZI");
        idle_after(">B >E >H <2 <D <s >E >S <C <ZI");
        idle_after(">F <V <ZI");
        idle_after(">C >S <3 <ZI");
        idle_after(">S >S >S <ZI <ZI <ZI");
        busy_after(">S >S >S <ZI <ZI");
    }

    #[test]
    fn a_batch_without_sync_keeps_the_server() {
        busy_after(">P >D >H <1 <t <n");
        busy_after(">P >B >E >H <1 <2 <C"); // the implicit transaction is open although the status says idle
        idle_after(">P >H <1 >S <ZI");
    }

    #[test]
    fn an_error_settles_everything_up_to_sync() {
        idle_after(">P >B >E >S <E <ZI");
        idle_after(">P >B >E >Q >S <E <ZI"); // the simple query is ignored as well
        busy_after(">P >B <E");
        idle_after(">P >B <E >E >Q >F >S <ZI"); // sent after the error was seen
        idle_after(">P >B >E >S >P >S <1 <2 <E <ZI <1 <ZI");
        idle_after(">Q <E <ZI");
        idle_after(">F <E <ZI");
        idle_after(">S <E <ZI"); // a deferred constraint fails at the implicit commit
        busy_after(">P >B >E >S <E <ZE");
    }

    #[test]
    fn copy_in() {
        idle_after(">Q <G >d >d >c <C <ZI");
        idle_after(">Q >d >c <G <C <ZI"); // sent blind
        idle_after(">Q >d >c >d >c <G <C <G <C <ZI"); // two COPYs in one string
        idle_after(">Q <G >d <E >d >c <ZI"); // late data after the error
        idle_after(">Q <G >d <E <ZI >d >c"); // later still
        idle_after(">Q >d >c <E <ZI"); // no COPY at all: a syntax error
        busy_after(">Q <G >d");
        idle_after(">P >B >E >H <1 <2 <G >d >c >S <C <ZI");
        idle_after(">P >B >E >S <1 <2 <G >d >c >S <C <ZI"); // the first Sync is eaten
        busy_after(">P >B >E >S <1 <2 <G >d >c <C"); // as long as no other came
        idle_after(">P >B >E >S >d >c >S <1 <2 <G <C <ZI");
        idle_after(">P >B >E >d >c >S <1 <2 <G <C <ZI");
        idle_after(">P >B >E >S >d >c >S <1 <2 <E <ZI <ZI"); // failed before the COPY began
    }

    /// More than sixteen bits count: the joined `Sync`s of a client that sends nothing else.
    #[test]
    fn any_number_of_syncs_behind_a_failed_copy() {
        const SYNCS: usize = 70_000;
        let (mut machine, _) = after(">P >B >E >S <1 <2 <G >d <E");
        (0..SYNCS).for_each(|_| machine.on_sent(b'S', Origin::Client, true));
        assert!(machine.is_overrun());
        for _ in 0..SYNCS {
            assert_eq!(machine.on_received(b'Z', Some(TxStatus::Idle)), Ok(Route::Forward));
        }
        assert_eq!(run(&mut machine, "~Q <I <ZI"), "ss");
        assert!(machine.idle().is_some(), "{machine:?}");
    }

    #[test]
    fn a_failed_copy_may_or_may_not_have_eaten_the_sync() {
        let failed = ">P >B >E >S <1 <2 <G >d >c >S <E <ZI";
        let (mut machine, _) = after(failed);
        assert!(machine.idle().is_none());
        assert!(machine.needs_probe());
        assert_eq!(run(&mut machine, "~Q <I <ZI"), "ss", "the Sync was eaten");
        assert!(machine.idle().is_some());

        let (mut machine, _) = after(failed);
        assert_eq!(
            run(&mut machine, "~Q <ZI <I <ZI"),
            "fss",
            "it was not: the client gets its ReadyForQuery"
        );
        assert!(machine.idle().is_some());

        // The next request's reply settles it just as well.
        idle_after(&format!("{failed} >Q <T <C <ZI"));
        idle_after(&format!("{failed} >Q <ZI <T <C <ZI"));
        // Before the client has sent its Sync, only one can come, if any.
        let (mut machine, _) = after(">P >B >E >S <1 <2 <G >d <E");
        assert!(machine.idle().is_none() && !machine.needs_probe());
        assert_eq!(run(&mut machine, ">c >S <ZI"), "f");
        assert!(machine.needs_probe());
        // It failed before reading anything: the Sync is answered, and the client goes on.
        idle_after(">P >B >E >S <1 <2 <G <E <ZI >c >P >S <1 <ZI");
        // Simple protocol.
        let (mut machine, _) = after(">Q <G >d >S >c <E <ZI");
        assert!(machine.needs_probe(), "{machine:?}");
        run(&mut machine, "~Q <I <ZI");
        assert!(machine.idle().is_some());
    }

    #[test]
    fn the_poolers_own_requests_are_swallowed() {
        let (machine, routes) = after("~Q >Q <S <C <ZI <T <D <C <ZI");
        assert_eq!(routes, "sssffff");
        assert!(machine.idle().is_some());
        assert_eq!(after("~Q >Q <E").1, "o");
    }

    #[test]
    fn invented_replies_come_in_their_turn() {
        assert_eq!(after("!P >B >E >S <2 <C <ZI").1, "1fff");
        assert_eq!(after(">B !C >E !P >S <2 <C <ZI").1, "f3f1f");
        let (mut machine, routes) = after(">B !P >E !C >S <E");
        assert_eq!((routes.as_str(), machine.take_skipped()), ("f", 2), "an error leaves nothing behind it");
        assert_eq!(run(&mut machine, "<ZI"), "f");
        assert!(machine.idle().is_some());
        assert_eq!(after(">P <E !P >S <ZI").1, "ff", "the server would skip it");
        assert!(after("!P").0.idle().is_none(), "its batch is open");
    }

    #[test]
    fn an_error_in_front_of_the_clients_message_is_the_clients() {
        assert_eq!(after("^P >B >E >S <1 <2 <C <ZI").1, "sfff");
        let (mut machine, routes) = after("^C ^P >B >E >S <3 <N <E <ZI");
        assert_eq!((routes.as_str(), machine.take_skipped()), ("ssff", 1));
        assert!(machine.idle().is_some());
    }

    #[test]
    fn the_status_is_sure_only_inside_one_batch() {
        let sure = |script: &str| after(script).0.is_sure_of_status();
        assert!(sure("") && sure(">P >B >E") && sure(">Q <C <ZT >P"));
        assert!(!sure(">Q") && !sure(">P >S") && !sure(">P >S <1 >P") && !sure(">Q <E <ZE"));
    }

    #[test]
    fn what_nobody_asked_for() {
        let mut machine = ServerMachine::new();
        assert_eq!(run(&mut machine, "<N <S <A"), "fff");
        assert_eq!(run(&mut machine, "<E"), "f");
        for tag in b"123TDCIZGHWdcVnst".iter().chain(b"KRv") {
            let script = format!("<{}{}", *tag as char, if *tag == b'Z' { "I" } else { "" });
            assert_eq!(run(&mut ServerMachine::new(), &script), "!", "{script}");
        }
        assert_eq!(after(">P <2").1, "!");
        assert_eq!(after(">P <ZI").1, "!");
        assert_eq!(after(">B >S <1").1, "!");
        assert_eq!(after(">S <C").1, "!");
        let mut machine = ServerMachine::new();
        machine.on_sent(b'Q', Origin::Client, true);
        assert!(machine.on_received(b'Z', None).is_err(), "a status that is none");
    }

    #[test]
    fn what_cannot_be_known_keeps_the_server_for_good() {
        let lost = |script: &str| {
            let (machine, _) = after(script);
            assert!(machine.is_lost() && machine.idle().is_none(), "{script}: {machine:?}");
        };
        lost(">P >B >E >S >Q <1 <2 <G"); // a request inside COPY data
        lost(">P >B >E >S >c >Q <1 <2 <G <E"); // ignored if the Sync was eaten
        lost(">P >B >E >S <1 <2 <G <E >Q"); // the same, sent after the error was seen
        lost(">P >B >E >S <1 <2 <G <E >Q >S <ZI <E"); // the Query's ReadyForQuery is still to come
        lost("<E"); // the session ends
        lost(">Q <C <ZI <Z"); // a violation
    }

    #[test]
    fn syncs_that_copy_eats_do_not_fill_the_queue() {
        const SYNCS: usize = 70_000;
        let (mut machine, _) = after(">P >B >E");
        (0..SYNCS).for_each(|_| machine.on_sent(b'S', Origin::Client, true));
        run(&mut machine, "<1 <2 <G");
        assert!(!machine.is_overrun(), "the end of the COPY could never be sent");
        (0..SYNCS).for_each(|_| machine.on_sent(b'S', Origin::Client, true));
        assert!(!machine.is_overrun());
        assert_eq!(run(&mut machine, ">c <C >S <ZI"), "ff");
        assert!(machine.idle().is_some());
    }

    #[test]
    fn a_simple_query_inside_a_batch_is_followed_by_an_empty_one() {
        let (mut machine, _) = after(">P >B >E >Q >S <1 <2 <C <T <C <ZI <ZI");
        assert!(machine.idle().is_none() && machine.needs_probe());
        assert_eq!(run(&mut machine, "~Q <E <ZI"), "os");
        assert!(machine.idle().is_some() && !machine.needs_probe());
    }

    #[test]
    fn a_description_of_interest_is_one_of_the_changes() {
        let mut machine = ServerMachine::new();
        machine.on_noted_describe(Origin::InFront);
        assert!(machine.batch_may_begin_again());
        run(&mut machine, ">P >E");
        assert!(!machine.batch_may_begin_again() && machine.notes_description());
        assert_eq!(run(&mut machine, "<t <T <1"), "ssf");
        assert!(!machine.notes_description());
        machine.on_noted_describe(Origin::Client);
        assert_eq!((run(&mut machine, ">C <E"), machine.take_skipped()), ("f".into(), 2));
        machine.on_noted_describe(Origin::Client);
        assert_eq!(run(&mut machine, ">S <ZI"), "f"); // it was ignored
        assert!(machine.idle().is_some());
    }

    #[test]
    fn half_a_message_keeps_the_server() {
        let mut machine = ServerMachine::new();
        run(&mut machine, ">Q <C <ZI");
        machine.on_sent(b'd', Origin::Client, false);
        assert!(machine.idle().is_none());
        machine.on_sent_rest(false);
        assert!(machine.idle().is_none());
        machine.on_sent_rest(true);
        assert!(machine.idle().is_some());
    }

    #[test]
    fn replication_never_becomes_idle() {
        let (machine, routes) = after(">Q <W <d <d <c <C <ZI");
        assert_eq!(routes, "ffffff"); // tracking ends at CopyBothResponse
        assert!(machine.is_lost() && machine.idle().is_none());
    }
}
