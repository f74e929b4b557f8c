//! The session of a client after its login: the one place that orders the steps of a query.
//!
//! ```text
//!               request arrives                 a server is free
//!     Unlinked ────────────────▶ (wait) ───────────────────────────▶ Linked
//!        ▲                                                             │ relay both ways
//!        └─────────── nothing owed, outside a transaction ◀────────────┘
//!                     (session mode: only when the client leaves)
//! ```
//!
//! One turn of the task reads what is ready on both sides, decides, and sends. It is polled by hand because the read
//! buffer belongs to the worker and must not be kept across an await.

mod brief;
mod certainty;
mod deadline;
mod detour;
mod gather;
mod kept;
mod limits;
mod link;
mod notify;
mod reading;
mod reply;
mod request;
mod route;
mod state;
mod timing;
mod trail;
mod travel;
mod trial;
mod wait;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::error_fields::ErrorMessage;
use protocol::frame::Cutter;
use protocol::session::ClientMachine;
use protocol::startup::Replication;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Sleep;
use tracing::{info, warn};

use crate::buffers::Charge;
use crate::config::PoolMode;
use crate::error::Refusal;
use crate::events::report;
use crate::lifecycle::Phase;
use crate::load::Leave;
use crate::net::{Stream, Watch};
use crate::notify::Listener;
use crate::params::ParamSet;
use crate::pool::{Counting, Pool, RulesCache};
use crate::prepared::ClientStatements;
use crate::salvage::{self, Running};
use crate::state::{BriefPin, Settings};
use crate::stats::Counters;
use crate::unsent::{MOST_REPLIES, Unsent};
use crate::vacate::Vacating;
use crate::worker::{Leaving, Local, Worker};

use link::Link;
use notify::Held;
pub(crate) use reading::{ROUTE, ROUTES};
use request::Follows;
use route::Reading;
use timing::{Over, Timing};
use travel::Travelled;
pub(crate) use travel::drained;

/// A client that has logged in.
pub(crate) struct Session {
    worker: Rc<Worker>,
    pool: Arc<Pool>,
    rules: RulesCache,
    local: Rc<Local>,
    stream: Stream,
    watch: Watch,
    machine: ClientMachine,
    cutter: Cutter,
    /// Input that could not be dealt with yet: part of a header, or a request that waits for a server.
    input: Vec<u8>,
    /// `input` can be dealt with now.
    resume: bool,
    follows: Follows,
    /// What it has to do with the choice of hosts, if it has a choice.
    reading: Option<Box<Reading>>,
    /// The rest of the current message is dropped.
    dropping: bool,
    unsent: Unsent,
    /// What is kept for it, as it was counted last, in bytes, ...
    counted_kept: usize,
    /// ... and the part that is its alone.
    charge: Charge,
    /// What the console was told last of `input` and `unsent`, in bytes.
    shown: (usize, usize),
    /// What it has prepared.
    statements: ClientStatements,
    /// The parameters this client wants.
    params: Arc<ParamSet>,
    /// The other settings it has.
    settings: Arc<Settings>,
    /// It has asked for `currval` or `lastval`.
    asks_sequences: bool,
    /// The last statement after which it may ask, by the hash of its outline; 0: none.
    last_advance: u64,
    brief: Option<Box<BriefPin>>,
    /// The settings in its start-up packet, to which `RESET` returns.
    beginning: Box<[(String, String)]>,
    /// The parameters it had before it may have changed any of them, if its start-up packet gave some.
    began: Option<Arc<ParamSet>>,
    link: Option<Link>,
    /// Its clocks, if there are limits for it.
    timing: Option<Box<Timing>>,
    /// What the request is told that is refused; `None`: that it was cancelled.
    refusal: Option<Box<ErrorMessage>>,
    /// Its channels, once it has listened.
    listener: Option<Box<Listener>>,
    /// What it is not told before its own notifications.
    held: Option<Box<Held>>,
    /// `Terminate` came; what is owed is still passed on.
    leaving: bool,
    /// Runs while a client that is leaving has closed its connection.
    farewell: Option<Pin<Box<Sleep>>>,
    /// Start-up parameters for the server, of a replication client.
    replication: Option<Vec<(String, String)>>,
    _counted: (Counting, [Counting; 3]),
    _leave: Leave,
}

/// What a login hands to the session.
pub(crate) struct Admitted {
    pub(crate) worker: Rc<Worker>,
    pub(crate) local: Rc<Local>,
    pub(crate) stream: Stream,
    /// Bytes that came behind the login.
    pub(crate) input: Vec<u8>,
    pub(crate) params: Arc<ParamSet>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) beginning: Box<[(String, String)]>,
    pub(crate) replication: Option<Vec<(String, String)>>,
    pub(crate) counted: (Counting, [Counting; 3]),
    pub(crate) leave: Leave,
}

/// What a turn came to.
enum Step {
    /// The request at the front of `input` needs a server, and none is free.
    NeedServer,
    End(End),
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// `Terminate`, and everything owed was passed on.
    Terminated,
    /// The connection is gone.
    Gone,
    /// The client is told why and closed.
    Refused(Refusal),
    /// The server has told the client itself, with its own `FATAL`.
    ServerEnded,
    /// The server does not end a statement that was cancelled.
    Unanswered,
    /// It is at rest, and another process is to have it.
    Travels,
    /// The server is gone whose answer to a COMMIT was awaited: first its successor is asked what became of that.
    Unsure(Refusal),
}

impl Session {
    pub(crate) fn new(admitted: Admitted) -> Box<Session> {
        // From here on, so that whoever ends clients finds this one.
        let local = admitted.local.clone();
        admitted.worker.sessions.borrow_mut().insert(local.info.id, local);
        let charge = admitted.worker.shared.buffers.charge(0);
        let mut session = Box::new(Session {
            rules: RulesCache::new(&admitted.local.info.pool),
            pool: admitted.local.info.pool.clone(),
            worker: admitted.worker,
            local: admitted.local,
            stream: admitted.stream,
            watch: Watch::default(),
            machine: ClientMachine::default(),
            cutter: Cutter::default(),
            resume: !admitted.input.is_empty(),
            input: admitted.input,
            follows: Follows::default(),
            reading: None,
            dropping: false,
            unsent: Unsent::default(),
            counted_kept: 0,
            shown: (0, 0),
            charge,
            statements: ClientStatements::default(),
            params: admitted.params,
            settings: admitted.settings,
            asks_sequences: false,
            last_advance: 0,
            brief: None,
            beginning: admitted.beginning,
            began: None,
            link: None,
            timing: None,
            refusal: None,
            listener: None,
            held: None,
            leaving: false,
            farewell: None,
            replication: admitted.replication,
            _counted: admitted.counted,
            _leave: admitted.leave,
        });
        session.note_settings();
        session.local.leaving.set(session.worker.shared.leaving());
        session
    }

    /// Serves the client until it leaves or is made to.
    ///
    /// Boxed, and its end as well: the future is what an idle client costs.
    pub(crate) async fn run(self: Box<Self>) {
        let worker = self.worker.clone();
        let mut serve = std::pin::pin!(self.serve());
        poll_fn(|cx| {
            worker.stamp();
            serve.as_mut().poll(cx)
        })
        .await;
    }

    async fn serve(mut self: Box<Self>) {
        let end = loop {
            let end = match poll_fn(|cx| self.poll_turn(cx)).await {
                Step::NeedServer => match self.wait_for_server().await {
                    Ok(()) => {
                        self.resume = true;
                        continue;
                    }
                    Err(end) => end,
                },
                Step::End(end) => end,
            };
            match end {
                End::Travels => match Box::pin(self.travel()).await {
                    Travelled::Away => return self.leave_behind(),
                    Travelled::Not => self.resume = !self.input.is_empty(),
                    Travelled::Refused(refusal) => break End::Refused(refusal),
                },
                End::Unsure(refusal) => match Box::pin(self.learn_outcome(refusal)).await {
                    Ok(()) => self.resume = !self.input.is_empty(),
                    Err(end) => break end,
                },
                end => break end,
            }
        };
        self.worker.sessions.borrow_mut().remove(&self.local.info.id);
        self.worker.shared.clients.remove(self.local.info.key);
        Box::pin(self.finish(end)).await;
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.local.outdated.get()
            && let Some(end) = self.heed_roles()
        {
            return Poll::Ready(Step::End(end));
        }
        let turn = self.turn(cx);
        self.count_kept();
        match turn {
            Ok(None) if self.local.outdated.get() && self.must_part() => {
                let refusal = Refusal::fatal("database configuration changed");
                Poll::Ready(Step::End(End::Refused(refusal)))
            }
            Ok(None) => {
                if self.local.leaving.get() != Leaving::No
                    && let Some(end) = self.may_leave()
                {
                    return Poll::Ready(Step::End(end));
                }
                if self.timing.is_some() {
                    self.set_alarm();
                }
                self.local.watch(cx.waker());
                Poll::Pending
            }
            Ok(Some(step)) => Poll::Ready(step),
            Err(end) => Poll::Ready(Step::End(end)),
        }
    }

    /// Reads, decides and sends until neither side has anything more.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Option<Step>, End> {
        if let Some(refusal) = self.local.ended() {
            return Err(End::Refused(refusal));
        }
        if self.comes_to_rest() {
            return Ok(None);
        }
        self.unpin_in_time();
        if self.local.alarm.has_rung() {
            self.heed_limits(cx)?;
        }
        if self.link.as_ref().is_some_and(|link| link.settling) {
            self.after_replies(cx)?;
        }
        loop {
            if self.comes_to_rest() {
                return Ok(None);
            }
            let replied = self.relay_server(cx)?;
            let mut asked = false;
            if self.leaving {
                self.watch_leaving(cx)?;
            } else if self.link.as_ref().is_some_and(|link| link.stalled) {
                self.watch_stalled(cx)?;
            }
            if self.may_read_client() {
                if std::mem::take(&mut self.resume) {
                    let input = std::mem::take(&mut self.input);
                    if let Some(step) = self.on_client(cx, &input)? {
                        return Ok(Some(step));
                    }
                    asked = true;
                } else {
                    match self.read_client(cx)? {
                        Poll::Ready(Some(step)) => return Ok(Some(step)),
                        Poll::Ready(None) => asked = true,
                        Poll::Pending => {}
                    }
                }
            }
            // Without a server only the client can have more, and it has just been looked at.
            if !asked && (!replied || self.link.is_none()) {
                if self.hand_over(cx) {
                    self.forward(cx, &[])?;
                }
                if self.tell_notifications(cx)? {
                    continue;
                }
                let unsent = self.unsent.len();
                self.unsent.flush(cx, &mut self.stream).map_err(|_| End::Gone)?;
                if unsent == self.unsent.len() {
                    return Ok(None);
                }
                // Who was not read because of it may be now, and nobody would wake this task for that.
            }
        }
    }

    /// It is to rest (`SUSPEND`), no message is under way in either direction, and nothing is unsent.
    fn comes_to_rest(&self) -> bool {
        if !self.worker.suspended.get() {
            return false;
        }
        let link_rests = |link: &Link| {
            link.unsent.is_empty() && link.server.carry.is_empty() && !link.server.is_mid_reply()
        };
        let rests = self.unsent.is_empty() && self.cutter.at_boundary();
        let rests = rests && self.link.as_ref().is_none_or(link_rests);
        self.local.resting.set(rests);
        rests
    }

    fn may_read_client(&self) -> bool {
        let ending = self.timing.as_ref().is_some_and(|timing| timing.ending);
        let waits =
            ending || self.leaving || self.held.is_some() || self.local.vacating.get() == Vacating::Underway;
        let waits = waits || self.unsent.len() > MOST_REPLIES || self.is_pressed();
        !waits && self.link.as_ref().is_none_or(|link| link.takes_requests() && !self.parts_soon(link))
    }

    fn counters(&self) -> &Counters {
        &self.pool.counters[self.worker.index]
    }

    /// Whoever has had a server for its session keeps it so, whatever the mode is now: nobody knows what is in there.
    fn mode(&mut self) -> PoolMode {
        let mode = match self.local.info.replication {
            Replication::Off => self.rules.now().mode,
            _ => PoolMode::Session,
        };
        let Some(link) = &mut self.link else { return mode };
        link.exclusive |= mode == PoolMode::Session;
        if link.exclusive { PoolMode::Session } else { mode }
    }

    /// The server goes back as soon as the client needs it no more, unless it is the client's for its whole session.
    fn shares_servers(&mut self) -> bool {
        // While the pooler shuts down, session-mode servers are given up between transactions as well.
        self.mode() != PoolMode::Session
    }

    /// Its server is to be closed, and this client has it for its whole session: it can only be disconnected. That waits
    /// for the end of a transaction, which replication does not know.
    fn must_part(&mut self) -> bool {
        let replicates = self.local.info.replication != Replication::Off;
        let parts = replicates || (self.mode() == PoolMode::Session && self.rules.now().server.fast_close);
        let link = self.link.as_ref().filter(|link| parts && link.server.info.is_outdated());
        self.local.outdated.set(link.is_some());
        link.is_some_and(|link| {
            replicates || (link.unsent.is_empty() && link.server.machine.idle().is_some())
        })
    }

    fn refuses_new_work(&self) -> bool {
        self.worker.shared.phase() >= Phase::WaitForServers
    }

    async fn finish(&mut self, end: End) {
        let shared = self.worker.shared.clone();
        let config = shared.config.load();
        let unanswered = matches!(end, End::Unanswered).then(limits::unanswered);
        let (reason, told) = match &end {
            End::Terminated => ("client close request".to_owned(), None),
            End::Gone | End::Travels => ("client unexpected eof".to_owned(), None),
            End::Refused(refusal) | End::Unsure(refusal) => (refusal.text().to_owned(), Some(refusal)),
            End::ServerEnded => ("server conn crashed?".to_owned(), None),
            End::Unanswered => ("statement not cancelled in time".to_owned(), unanswered.as_ref()),
        };
        let peer = self.local.info.peer();
        self.report_end(&end);
        if let Some(refusal) = told {
            // In the middle of a server's message it would be read as part of that.
            if !self.link.as_ref().is_some_and(|link| link.server.is_mid_reply()) {
                self.unsent.add(|out| refusal.encode(out));
            }
            if config.log.pooler_errors {
                warn!(peer = %peer, "pooler error: {}", refusal.text());
            }
        }
        if config.log.disconnections {
            let age = shared.clock.micros().saturating_sub(self.local.info.connected) / 1_000_000;
            info!(peer = %peer, "closing because: {reason} (age={age}s)");
        }
        *self.local.info.pin() = None;
        self.give_back();
        if let Some(mut link) = self.link.take() {
            self.pool.holder_ends(self.worker.index, &mut link.server.holder, self.worker.now());
            self.unlinked(); // a cancel request that comes now is too late
            let left = matches!(end, End::Gone | End::Terminated);
            let running = match left && !self.rules.now().server.client_gone_cancel {
                true => Running::LetFinish,
                false => Running::Cancel,
            };
            let unknown = link.exclusive && self.rules.now().mode != PoolMode::Session;
            let mut server = link.into_server();
            if unknown {
                server.suspect |= sql::Effects::OPAQUE; // the reset of session mode may not be the one of this
            }
            let cancels = self.local.cancels.take();
            match end {
                End::Unanswered => server.close("statement not cancelled in time"),
                _ => salvage::begin(&self.worker, server, cancels, running),
            }
        }
        // Who has said good-bye and got everything waits for nothing more.
        let parted = matches!(end, End::Gone) || (matches!(end, End::Terminated) && self.unsent.is_empty());
        if !parted {
            let _ = tokio::time::timeout(LAST_WORDS, self.say_last_words()).await;
        }
    }

    /// Counts an end that is not the usual one.
    fn report_end(&self, end: &End) {
        let reason = match (end, &self.link) {
            (End::Refused(refusal), None) => return self.report_waiting(refusal.reason()),
            (End::Refused(refusal), Some(_)) => refusal.reason(),
            (End::Unanswered, _) => Over::Grace.setting(),
            (End::ServerEnded, _) => "server connection lost",
            (End::Gone, Some(link)) if link.query_since != 0 => "client gone with a query running",
            (End::Gone | End::Terminated, Some(link)) if link.xact_since != 0 => {
                "client gone in a transaction"
            }
            _ => return,
        };
        report(&self.worker, &self.local, reason, None);
    }

    /// Sends what is unsent, and reads until the client closes: closing with unread input would reset the connection
    /// and take the last message with it.
    async fn say_last_words(&mut self) {
        let flushed = poll_fn(|cx| match self.unsent.flush(cx, &mut self.stream) {
            Ok(()) if !self.unsent.is_empty() => Poll::Pending,
            result => Poll::Ready(result),
        });
        if flushed.await.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        let mut buf = vec![0u8; 4096];
        while matches!(self.stream.read(&mut buf).await, Ok(n) if n > 0) {}
    }

    fn touch(&self, now: u64) {
        self.local.info.requested.store(now, Relaxed);
    }
}

/// Time for a client to take its last message.
const LAST_WORDS: Duration = Duration::from_secs(2);
