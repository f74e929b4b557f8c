//! One server connection: its stream, what it owes, and what is known of it.

mod connect;
mod dial;
mod info;
mod own;
mod travel;

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use protocol::error_fields::ErrorFields;
use protocol::frame::{Cutter, HEADER_LEN, Piece, Whole, put};
use protocol::message::{self, TxStatus};
use protocol::session::{Invented, Origin, Route, ServerMachine, Violation};
use sql::Effects;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) use connect::{ConnectError, IN_HOT_STANDBY, connect, log_in, unreachable};
pub(crate) use dial::{dial_again, reach};
pub(crate) use info::{ServerInfo, ServerState};
pub(crate) use own::{OwnError, ask, check, drain, reset, run, send};

use crate::config::PoolMode;
use crate::net::Stream;
use crate::params::ParamSet;
use crate::pool::{Defining, Permit, Pool};
use crate::prepared::{ClientStatements, Fault, ServerStatements};
use crate::queries::{Ended, Holder};
use crate::state::{Leavings, Pins, Settings};

/// Messages from a server that the pooler looks into. Their bodies are short, errors aside.
pub(crate) const LOOKED_INTO: Whole = Whole::new(b"ZSECAtT", 64 << 10);

/// A server connection in somebody's hands. Dropping it closes it.
pub(crate) struct Server {
    pub(crate) stream: Stream,
    pub(crate) machine: ServerMachine,
    cutter: Cutter,
    /// Where the message goes that the cutter is in.
    route: Route,
    /// The start of a message that can't be passed on yet.
    pub(crate) carry: Vec<u8>,
    pub(crate) params: Arc<ParamSet>,
    pub(crate) statements: ServerStatements,
    /// The settings that its session has, beyond those that are reported.
    pub(crate) settings: Arc<Settings>,
    /// What may have been done to its session since that was last known.
    pub(crate) suspect: Effects,
    /// What no audit shows, and may be there still of earlier clients.
    pub(crate) leavings: Leavings,
    /// What ties its session to the client.
    pub(crate) pins: Pins,
    /// The transaction at hand may change functions.
    pub(crate) defining: Option<Defining>,
    pub(crate) info: Arc<ServerInfo>,
    /// The worker whose event loop watches the stream.
    home: usize,
    idle_since: u64,
    /// What the round of requests at hand has come to so far.
    pub(crate) ended: Ended,
    pub(crate) holder: Holder,
    pool: Arc<Pool>,
    permit: Option<Permit>,
    reason: &'static str,
}

impl Server {
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Closes it.
    pub(crate) fn close(self: Box<Self>, reason: &'static str) {
        let mut server = self;
        server.reason = reason;
    }

    /// Proves that it may be given to anybody, or says that it may not by returning it.
    pub(crate) fn into_idle(mut self: Box<Self>) -> Option<IdleServer> {
        let clean =
            self.machine.idle().is_some() && self.is_between_messages() && !self.statements.has_strays();
        let clean = clean && self.suspect.is_empty() && self.pins.is_empty();
        if !clean || self.info.replication {
            self.reason = "client disconnect while server was not ready";
            return None;
        }
        self.defining = None;
        self.machine.shrink();
        self.statements.shrink();
        self.carry = Vec::new();
        self.info.client.store(0, Relaxed);
        self.info.set_state(ServerState::Idle);
        Some(IdleServer(self))
    }

    /// A simple query of the pooler's own is sent.
    pub(crate) fn own_query(&mut self, origin: Origin) {
        self.machine.on_sent(b'Q', origin, true);
        self.statements.on_own_query();
    }

    /// Statements of the pooler's own may be put in front of the next message: as far as is known it is not skipped, and
    /// its transaction has not failed.
    pub(crate) fn runs_own_in_front(&self) -> bool {
        self.machine.status() != TxStatus::Failed && !self.machine.skips_until_sync()
    }

    /// Statements of the pooler's own, to be sent in front of a message of type `tag`: in a transaction of their own, or,
    /// where the message goes on with a batch, within that.
    pub(crate) fn own_in_front(&mut self, tag: u8, statements: &[String]) -> Vec<u8> {
        let mut front = Vec::new();
        if tag == b'Q' || !self.machine.batch_is_open() {
            self.own_query(Origin::Aside);
            message::query(&mut front, &statements.join(";"));
        } else {
            statements.iter().for_each(|statement| self.own_statement(statement, &mut front));
        }
        front
    }

    /// A statement of the pooler's own is written that runs in front of the client's next message, within its batch.
    fn own_statement(&mut self, sql: &str, out: &mut Vec<u8>) {
        const NAME: &[u8] = b"pgferry\0";
        let messages: [(u8, &[&[u8]]); 5] = [
            (b'P', &[NAME, sql.as_bytes(), b"\0\0\0"]),
            (b'B', &[NAME, NAME, b"\0\0\0\0\0\0"]),
            (b'E', &[NAME, b"\0\0\0\0"]),
            (b'C', &[b"P", NAME]),
            (b'C', &[b"S", NAME]),
        ];
        for (tag, body) in messages {
            self.machine.on_sent(tag, Origin::InFront, true);
            if matches!(tag, b'P' | b'C') {
                self.statements.on_own_statement();
            }
            put(out, tag, |out| body.iter().for_each(|part| out.extend_from_slice(part)));
        }
    }

    /// Something that only a reset takes away may be left of its client.
    pub(crate) fn is_used(&self) -> bool {
        let settings = self.pool.rules.load().mode == PoolMode::Session && !self.settings.values().is_empty();
        settings || !self.suspect.is_empty() || !self.pins.is_empty() || self.statements.has_strays()
    }

    /// Its session was reset.
    pub(crate) fn renewed(&mut self) {
        self.settings = self.pool.no_settings.clone();
        self.suspect = Effects::NONE;
        self.pins = if self.pins.contains(Pins::LIBRARY) { Pins::LIBRARY } else { Pins::default() };
        self.statements = ServerStatements::default();
        self.leavings.forget_sequences();
    }

    /// Makes this thread's event loop watch the stream.
    ///
    /// # Errors
    /// The kernel refused; the server is to be closed.
    pub(crate) fn move_to(&mut self, home: usize) -> std::io::Result<()> {
        if self.home != home {
            self.stream = self.stream.take_out().rehome()?;
            self.home = home;
        }
        Ok(())
    }

    /// Takes what was read from the server apart and tells `sink` of each piece. Returns how many bytes were used;
    /// the rest is to be given again with more behind it.
    ///
    /// # Errors
    /// The server broke the protocol: discard it.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        max_len: u32,
        client: &mut ClientStatements,
        sink: impl FnMut(&Received<'_>),
    ) -> Result<usize, ServerFault> {
        let used = self.take_apart(input, max_len, client, sink);
        if used.is_err() {
            // However well it behaves from now on, it is out of step.
            self.machine.lose();
            self.route = Route::Swallow;
        }
        used
    }

    fn take_apart(
        &mut self,
        input: &[u8],
        max_len: u32,
        client: &mut ClientStatements,
        mut sink: impl FnMut(&Received<'_>),
    ) -> Result<usize, ServerFault> {
        let mut used = 0;
        loop {
            let received = match self.due_invented() {
                Some(reply) => Received::invented(reply),
                None => {
                    let cutter = self.cutter;
                    let next = self.cutter.next(&input[used..], &LOOKED_INTO, max_len);
                    let Some(piece) = next.map_err(|_| ServerFault::Header)? else { return Ok(used) };
                    let behind = used + piece.bytes().len();
                    let (mut tag, mut said) = (None, Said::default());
                    if let Piece::Begin { tag: begun, bytes, complete } = piece {
                        tag = Some(begun);
                        let Some(refused) = self.is_refused(begun, &input[behind..], max_len) else {
                            self.cutter = cutter;
                            return Ok(used);
                        };
                        // Of rows there may be many, and nobody looks into them.
                        let row = if begun == b'D' { self.machine.route_of_row() } else { None };
                        match row {
                            Some(route) => self.on_row(route),
                            None => {
                                said = self.begin(begun, bytes, complete, refused, client).map_err(|f| *f)?
                            }
                        }
                    }
                    used = behind;
                    Received { bytes: piece.bytes(), tag, route: self.route, said, invented: false }
                }
            };
            sink(&received);
        }
    }

    /// The reply of the pooler's own that comes between the message that was taken last and the next.
    #[inline]
    fn due_invented(&mut self) -> Option<Invented> {
        self.cutter.at_boundary().then(|| self.next_invented()).flatten()
    }

    /// A stale statement is refused only behind its `ParameterDescription`, which the client must not see then if the
    /// batch is sent again. `None`: what follows must be there to tell.
    #[inline]
    fn is_refused(&self, tag: u8, behind: &[u8], max_len: u32) -> Option<bool> {
        if tag != b't' || !self.statements.again.is_open() {
            return Some(false);
        }
        let mut ahead = self.cutter;
        match ahead.next(behind, &LOOKED_INTO, max_len) {
            Ok(None) => None,
            Ok(Some(Piece::Begin { tag: b'E', bytes, .. })) => {
                Some(Fault::of(&ErrorFields::new(&bytes[HEADER_LEN..])) == Fault::Stale)
            }
            _ => Some(false),
        }
    }

    /// The reply of the pooler's own whose turn has come.
    pub(crate) fn next_invented(&mut self) -> Option<Invented> {
        let reply = self.machine.next_invented()?;
        self.statements.confirm();
        Some(reply)
    }

    #[inline]
    fn on_row(&mut self, route: Route) {
        self.route = route;
        if route == Route::Forward {
            self.statements.again.on_reply(b'D');
        }
    }

    /// A message begins; its route is set.
    fn begin(
        &mut self,
        tag: u8,
        bytes: &[u8],
        complete: bool,
        refused: bool,
        client: &mut ClientStatements,
    ) -> Result<Said, Box<ServerFault>> {
        self.route = Route::Swallow; // nothing of a message that turns out to be forbidden is passed on
        let body = &bytes[HEADER_LEN..];
        let ready = if tag == b'Z' { message::read_ready_for_query(body) } else { None };
        if tag == b'S' {
            let report = complete.then(|| message::read_parameter_status(body)).flatten();
            let (name, value) = report.ok_or_else(|| Box::new(ServerFault::Parameter))?;
            self.on_parameter(&name, &value);
        }
        if tag == b'Z' && self.suspect.contains(Effects::DDL) {
            self.pool.moments.advance(); // before anybody is told of it
        }
        let noted = matches!(tag, b't' | b'T' | b'n') && self.machine.notes_description();
        let route = self.machine.on_received(tag, ready);
        self.route = route.map_err(|violation| Box::new(ServerFault::Violation(violation)))?;
        if refused {
            self.route = Route::Swallow;
        } else if self.route == Route::Forward {
            self.statements.again.on_reply(tag);
        }
        let mut said = Said { ready, ..Said::default() };
        match tag {
            b'1' | b'3' => self.statements.confirm(),
            _ if noted => self.statements.on_description(tag, body, client),
            b'Z' if self.statements.again.on_ready() => self.route = Route::Swallow,
            b'Z' if self.machine.owes_nothing() => self.statements.on_quiet(),
            b'C' if body == b"DEALLOCATE\0" => self.statements.on_deallocated(client),
            b'C' if matches!(body, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0") => {
                self.statements.clear();
                client.clear();
            }
            b'E' => {
                self.statements.take_back(self.machine.take_skipped(), client);
                let error = ErrorFields::new(body);
                said.fatal = error.severity().is_some_and(|s| s.ends_session());
                said.plan_changed = self.on_fault(Fault::of(&error), client);
            }
            _ => {}
        }
        Ok(said)
    }

    /// An error says something about a prepared statement. True: the client is told [`crate::prepared::plan_changed`] instead of it.
    fn on_fault(&mut self, fault: Fault, client: &mut ClientStatements) -> bool {
        match fault {
            Fault::Stale => client.parse_anew(self.pool.moments.advance()),
            Fault::Missing => self.statements.lose(), // dropped in a way that did not show
            Fault::Changed => return true,
            Fault::Other => return false,
        }
        if self.route == Route::Forward && self.statements.fail() {
            self.route = Route::Swallow;
        }
        false
    }

    /// Everything that has come belongs to a whole message.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.cutter.at_boundary() && self.carry.is_empty()
    }

    /// The client has been given the beginning of a message and not its end.
    pub(crate) fn is_mid_reply(&self) -> bool {
        !self.cutter.at_boundary() && self.route == Route::Forward
    }

    /// A parameter was reported.
    pub(crate) fn on_parameter(&mut self, name: &str, value: &str) {
        let set = self.pool.params.report(&self.params, name, value);
        if !Arc::ptr_eq(&set, &self.params) {
            self.params = set.clone();
            *self.info.params.lock().unwrap_or_else(PoisonError::into_inner) = set;
        }
    }

    /// Reads what an unused connection has said: reports of parameters are noted, notices dropped; anything else, an
    /// error or the end of the stream means that it can't be used.
    fn heed(&mut self) -> Result<(), &'static str> {
        let mut buf = [0u8; 64]; // small: it is made for every loan, and nearly always for nothing
        while let Some(read) = self.stream.read_ready(&mut buf) {
            match read {
                Ok(0) | Err(_) => return Err("server conn crashed?"),
                Ok(n) => self.carry.extend_from_slice(&buf[..n]),
            }
            let mut carry = std::mem::take(&mut self.carry);
            let mut used = 0;
            while let Ok(Some(piece)) = self.cutter.next(&carry[used..], &LOOKED_INTO, u32::MAX) {
                used += piece.bytes().len();
                match piece {
                    Piece::Begin { tag: b'S', bytes, complete: true } => {
                        let (name, value) =
                            message::read_parameter_status(&bytes[5..]).ok_or("idle server got dirty")?;
                        self.on_parameter(&name, &value);
                    }
                    Piece::Begin { tag: b'N', .. } | Piece::Rest { .. } => {}
                    Piece::Begin { .. } => return Err("idle server got dirty"),
                }
            }
            carry.drain(..used);
            self.carry = carry;
        }
        // A message that has not come in full would be read as part of the next client's replies.
        if self.carry.is_empty() && self.cutter.at_boundary() { Ok(()) } else { Err("idle server got dirty") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        self.pool.member_closed(&self.info, self.reason);
        let mut stream = self.stream.take_out();
        if !self.machine.is_mid_message() {
            let mut bye = Vec::with_capacity(5);
            message::terminate(&mut bye);
            stream.send_last(&bye);
        }
        let closing = wait_for_end(stream, self.pool.clone(), self.info.clone(), permit);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(closing);
        }
    }
}

/// A server's place in the counts is free only when the backend is gone, which it says by closing its end; otherwise
/// the server would see more connections than the limits allow.
async fn wait_for_end(mut stream: Stream, pool: Arc<Pool>, info: Arc<ServerInfo>, permit: Permit) {
    let gone = async {
        let _ = stream.shutdown().await;
        let mut buf = vec![0u8; 1024];
        while matches!(stream.read(&mut buf).await, Ok(n) if n > 0) {}
    };
    tokio::select! {
        _ = tokio::time::timeout(LEAVE_TIMEOUT, gone) => {}
        () = pool.left_behind(&info) => {}
    }
    drop(stream);
    drop(permit);
    pool.place_is_free();
}

/// How long a closed connection counts if the server does not confirm its end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A piece of what a server has sent.
pub(crate) struct Received<'a> {
    pub(crate) bytes: &'a [u8],
    /// Where a message begins, its tag.
    pub(crate) tag: Option<u8>,
    pub(crate) route: Route,
    pub(crate) said: Said,
    /// It is not in what was read.
    pub(crate) invented: bool,
}

/// What a message from the server says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said {
    /// The status in a `ReadyForQuery`.
    pub(crate) ready: Option<TxStatus>,
    /// An error that ends the session.
    pub(crate) fatal: bool,
    /// What the client gets for it is [`crate::prepared::plan_changed`].
    pub(crate) plan_changed: bool,
}

impl Received<'_> {
    /// It goes to the client as it is, and is no notification.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.route == Route::Forward && !self.invented && !self.said.plan_changed && self.tag != Some(b'A')
    }
}

impl Received<'static> {
    fn invented(reply: Invented) -> Received<'static> {
        let bytes = reply.message();
        let tag = Some(bytes[0]);
        Received { bytes, tag, route: Route::Forward, said: Said::default(), invented: true }
    }
}

/// How a server broke the protocol.
#[derive(Debug)]
pub(crate) enum ServerFault {
    Header,
    Parameter,
    Violation(Violation),
}

impl std::fmt::Display for ServerFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerFault::Violation(violation) => violation.fmt(f),
            _ => f.write_str(self.text()),
        }
    }
}

impl ServerFault {
    /// What the client and the log are told of it, in PgBouncer's words.
    pub(crate) fn text(&self) -> &'static str {
        match self {
            ServerFault::Header => "bad pkt header",
            ServerFault::Parameter => "broken ParameterStatus packet",
            ServerFault::Violation(_) => "unknown pkt",
        }
    }
}

/// A server connection that owes nothing and is outside every transaction.
pub(crate) struct IdleServer(Box<Server>);

impl IdleServer {
    pub(crate) fn info(&self) -> &Arc<ServerInfo> {
        &self.0.info
    }

    /// The pool that it goes back to.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.0.pool
    }

    pub(crate) fn idle_since(&self) -> u64 {
        self.0.idle_since
    }

    /// It is nobody's from now on.
    pub(crate) fn begin_idling(&mut self, now: u64) {
        self.0.idle_since = now;
    }

    pub(crate) fn close(self, reason: &'static str) {
        self.0.close(reason);
    }

    /// Something is there to be read.
    pub(crate) fn has_spoken(&self) -> bool {
        self.0.stream.has_spoken()
    }

    /// The server, for use, unless what it has said meanwhile forbids it.
    pub(crate) fn into_clean(self) -> Option<Box<Server>> {
        let mut server = self.0;
        match server.heed() {
            Ok(()) => Some(server),
            Err(reason) => {
                server.close(reason);
                None
            }
        }
    }

    /// The server, for a request of the pooler's own.
    pub(crate) fn into_server(self) -> Box<Server> {
        self.0
    }
}
