//! A worker: one thread with its own event loop. Sessions, their servers and all their tasks stay on it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::admit;
use crate::alarms::{Alarm, Alarms};
use crate::blockers::{self, Question};
use crate::cancel::{self, Cancels};
use crate::clients::{ClientInfo, ClientState};
use crate::cluster::Probe;
use crate::control::Control;
use crate::error::Refusal;
use crate::events::Throttle;
use crate::handover::{self, Arriving, ListenAhead};
use crate::lifecycle::Phase;
use crate::listen::{self, Accepted, Door};
use crate::load::Load;
use crate::net::{Peer, Stream};
use crate::pool::Pool;
use crate::queries::Fingerprints;
use crate::server::ServerInfo;
use crate::shared::Shared;
use crate::state::Sampler;
use crate::vacate::Vacating;
use crate::waiting::Telling;

/// Time between two looks at deadlines. PgBouncer's is 333 ms; limits may fire this much late.
const TICK: Duration = Duration::from_millis(250);

/// After so many ticks, 5 s, values that nobody has any more are given back.
const SWEEP: u32 = 20;

/// Bytes read at once. Large enough for bulk transfers, small enough to stay in the second-level cache.
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// What a worker is told to do.
pub(crate) enum Order {
    /// Accept connections on a listening socket.
    Open(Door),
    /// Admit a new connection from there.
    Accept(Accepted, Peer),
    /// Make a session of a client that comes from another process.
    Arrive(Box<Arriving>),
    /// Listen for a client that is about to come.
    ListenAhead(Box<ListenAhead>),
    /// A client is to go to another process as soon as it is at rest.
    Travel(Arc<ClientInfo>),
    /// Clients are to end as soon as they are outside a transaction.
    Drain,
    /// A place may be free for clients that wait in this pool.
    Pump(Arc<Pool>),
    /// A client waits in this pool.
    AskBack(Arc<Pool>),
    /// Cancel what a client is doing. The sender is dropped when that is done.
    Cancel(Arc<ClientInfo>, tokio::sync::oneshot::Sender<()>),
    /// End a client's connection.
    End(Arc<ClientInfo>, Refusal),
    /// Have the clients that wait tell what they ask for.
    TellWaiting(Telling),
    /// Ask PostgreSQL something for the console.
    Ask(Question),
    /// Observe a host of a cluster.
    Probe(Probe),
    /// Ask Patroni about a cluster, for as long as that is there.
    AskPatroni(crate::cluster::Watch),
    /// Look at the phase again.
    PhaseChanged,
    /// There is a new configuration.
    Reloaded,
    /// The servers that this pool has had are to be closed.
    Renewed(Arc<Pool>),
    /// `SUSPEND`: sessions are to come to rest, those that have not yet are to be ended if there is a refusal for them.
    /// Answered with their number.
    Suspend(Option<Refusal>, tokio::sync::oneshot::Sender<usize>),
    /// It is over.
    Unsuspend,
}

/// The way to a worker from other threads.
pub(crate) struct WorkerHandle {
    orders: mpsc::UnboundedSender<Order>,
    load: Arc<Load>,
}

impl WorkerHandle {
    pub(crate) fn send(&self, order: Order) {
        let _ = self.orders.send(order); // fails only when the worker has stopped
    }

    /// Connections it carries.
    pub(crate) fn load(&self) -> usize {
        self.load.carried()
    }

    /// Has it serve a connection that another worker has accepted.
    pub(crate) fn accept(&self, accepted: Accepted, remote: Peer) {
        self.load.add();
        self.send(Order::Accept(accepted, remote));
    }

    /// The same for a client that comes from another process.
    pub(crate) fn receive(&self, arriving: Arriving) {
        self.load.add();
        self.send(Order::Arrive(Box::new(arriving)));
    }
}

/// Whether a client is to leave, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Leaving {
    #[default]
    No,
    /// To another process, when it is at rest.
    Travels,
    /// It is ended when it is outside a transaction.
    Drains,
}

/// Where a request waits for a server.
pub(crate) enum Waits {
    /// In a pool's queue, at this place.
    InQueue(Arc<Pool>, u64),
    /// For a replica that may serve it, in no queue.
    ForReplica,
}

/// What the worker's other tasks may know and do of a session.
pub(crate) struct Local {
    pub(crate) info: Arc<ClientInfo>,
    /// Set to end the session; it is woken.
    ended: RefCell<Option<Refusal>>,
    waker: RefCell<Option<Waker>>,
    /// Where it waits, if it does.
    pub(crate) waits: RefCell<Option<Waits>>,
    /// The server it is linked to.
    pub(crate) server: RefCell<Option<Arc<ServerInfo>>>,
    /// Counts requests, so that a cancel can tell whether the one it was meant for is still the one that runs.
    pub(crate) request: Cell<u64>,
    /// It waits so long that it is to be told.
    pub(crate) long_wait: Cell<bool>,
    /// The wait was cancelled when a server had been granted already, or there was no queue.
    pub(crate) cancelled_late: Cell<bool>,
    /// Its server is to be closed.
    pub(crate) outdated: Cell<bool>,
    /// A request of the client's is being answered.
    pub(crate) busy: Cell<bool>,
    /// A request of the pooler's own stands in front of it.
    pub(crate) preparing: Cell<bool>,
    /// It reads nothing more, as `SUSPEND` has asked.
    pub(crate) resting: Cell<bool>,
    /// It is to leave as soon as it can.
    pub(crate) leaving: Cell<Leaving>,
    /// Its request waits until nobody is connected to a database.
    pub(crate) vacating: Cell<Vacating>,
    /// When it gives up a server that it keeps for a moment only, in microseconds; 0: it keeps none.
    pub(crate) unpin_at: Cell<u64>,
    /// It is in the worker's list of such sessions.
    listed: Cell<bool>,
    /// When it gave back its last server, in microseconds of the process's clock.
    pub(crate) idle_since: Cell<u64>,
    /// When the first limit in time is over.
    pub(crate) alarm: Alarm,
    /// How long the request at hand has waited for its server, in microseconds.
    pub(crate) waited: Cell<u64>,
    /// Counts statements, so that the cancel of one that takes too long meets no other.
    pub(crate) statement: Cell<u64>,
    /// Whom to tell what it asks for, while it waits.
    pub(crate) tell: RefCell<Option<Telling>>,
    /// Cancel requests sent, or about to be, to the linked server.
    pub(crate) cancels: RefCell<Option<Rc<Cancels>>>,
}

impl Local {
    pub(crate) fn new(info: Arc<ClientInfo>) -> Rc<Local> {
        Rc::new(Local {
            info,
            ended: RefCell::default(),
            waker: RefCell::default(),
            waits: RefCell::default(),
            server: RefCell::default(),
            request: Cell::default(),
            long_wait: Cell::default(),
            cancelled_late: Cell::default(),
            outdated: Cell::default(),
            busy: Cell::default(),
            preparing: Cell::default(),
            resting: Cell::default(),
            leaving: Cell::default(),
            vacating: Cell::default(),
            unpin_at: Cell::default(),
            listed: Cell::default(),
            idle_since: Cell::default(),
            alarm: Alarm::default(),
            waited: Cell::default(),
            statement: Cell::default(),
            tell: RefCell::default(),
            cancels: RefCell::default(),
        })
    }

    /// Why the session was ended from outside, if it was.
    pub(crate) fn ended(&self) -> Option<Refusal> {
        self.ended.borrow().clone()
    }

    pub(crate) fn end(&self, refusal: Refusal) {
        self.ended.borrow_mut().get_or_insert(refusal);
        self.wake();
    }

    fn leave(&self, leaving: Leaving) {
        self.leaving.set(leaving);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// It neither has a server nor waits for one.
    fn is_idle(&self) -> bool {
        self.info.state() == ClientState::Idle
    }

    /// Has it look whether it has to part from its server.
    fn note_outdated(&self) {
        if self.server.borrow().as_ref().is_some_and(|server| server.is_outdated()) {
            self.outdated.set(true);
            self.wake();
        }
    }

    /// No request of the pooler's own stands in front of the client's any more.
    pub(crate) fn prepared(&self) {
        if self.preparing.replace(false)
            && let Some(cancels) = &*self.cancels.borrow()
        {
            cancels.look_again();
        }
    }

    /// Remembers whom to wake.
    pub(crate) fn watch(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }
}

/// The thread's own state, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    /// Every read goes here first; nobody keeps it across an await.
    pub(crate) buffer: RefCell<Box<[u8]>>,
    /// Replies of one turn that do not lie side by side in `buffer`.
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// Messages that go in front of a client's, or stand for it.
    pub(crate) front: RefCell<Vec<u8>>,
    pub(crate) sessions: RefCell<HashMap<u64, Rc<Local>>>,
    /// Settings that are looked at for every message, as of the last tick.
    pub(crate) max_packet_size: Cell<u32>,
    pub(crate) refuse_simple_query: Cell<bool>,
    /// Statements that are counted for each pool.
    pub(crate) query_stats: Cell<usize>,
    /// In bytes.
    pub(crate) client_buffer_limit: Cell<usize>,
    ticks: Cell<u32>,
    /// Since the last tick clients were not read because too much is kept in all.
    pub(crate) pressed: Cell<bool>,
    /// Sessions are to rest (`SUSPEND`).
    pub(crate) suspended: Cell<bool>,
    /// In microseconds.
    pub(crate) statement_grace: Cell<u64>,
    /// Sessions that keep a server for a moment only.
    pinned: RefCell<Vec<Rc<Local>>>,
    pub(crate) alarms: Alarms,
    pub(crate) throttle: Throttle,
    pub(crate) fingerprints: Fingerprints,
    /// Which transactions are audited although they look harmless.
    pub(crate) sampler: Sampler,
    /// When the session that runs now was woken, in microseconds of the process's clock.
    now: Cell<u64>,
    pub(crate) load: Arc<Load>,
}

impl Worker {
    /// Runs a task on this worker.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// The moment at which the session that runs now was woken: one look at the clock serves the whole turn.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// A session is woken.
    pub(crate) fn stamp(&self) {
        self.now.set(self.shared.clock.micros());
    }

    /// A session keeps a server for a moment only: it is woken when that is over, and when others wait.
    pub(crate) fn watch_pinned(&self, local: &Rc<Local>) {
        if !local.listed.replace(true) {
            self.pinned.borrow_mut().push(local.clone());
        }
    }

    /// Wakes the sessions that keep a server of this pool for a moment only.
    pub(crate) fn wake_pinned(&self, pool: &Arc<Pool>) {
        self.pinned
            .borrow()
            .iter()
            .filter(|local| Arc::ptr_eq(&local.info.pool, pool))
            .for_each(|l| l.wake());
    }

    fn tick(self: &Rc<Self>) {
        self.load.tick();
        if self.suspended.get() {
            if self.index == 0 && self.shared.consoles.len() == 0 {
                tracing::info!("admin disappeared when suspended, doing RESUME");
                Control::new(self.shared.clone()).unsuspend();
            }
            return;
        }
        let now = self.shared.clock.micros();
        self.pinned.borrow_mut().retain(|local| {
            let at = local.unpin_at.get();
            if at != 0 && (at <= now || local.info.pool.oldest_wait().is_some()) {
                local.wake();
            }
            local.listed.set(at != 0);
            at != 0
        });
        for pool in self.shared.registry.pools() {
            pool.tick(self, now);
        }
        self.end_idle_clients(now);
        self.wake_pressed();
        self.alarms.sweep(&self.sessions.borrow());
        if self.index == 0 {
            self.shared.forget_unused_databases(now);
            self.shared.forget_unused_pools(now);
            self.shared.make_kept_pools(now);
            self.shared.keep_buffer_limit();
            self.shared.auth_queries.sweep(now);
            if self.ticks.replace((self.ticks.get() + 1) % SWEEP) == 0 {
                self.shared.forget_unused_values();
            }
        }
        for buffer in [&self.scratch, &self.front] {
            if buffer.borrow().capacity() > READ_BUFFER * 2 {
                buffer.take();
            }
        }
    }

    /// Clients that were not read because too much was kept in all may perhaps be read again.
    fn wake_pressed(&self) {
        if self.pressed.take() {
            self.sessions.borrow().values().for_each(|local| local.wake());
        }
    }

    /// Disconnects clients that have been idle without a server for too long.
    fn end_idle_clients(&self, now: u64) {
        let config = self.shared.config.load();
        let own = |name: &str| config.users.get(name).and_then(|user| user.client_idle_timeout);
        let global = config.timeouts.client_idle;
        if global.is_none() && config.users.values().all(|user| user.client_idle_timeout.is_none()) {
            return;
        }
        for local in self.sessions.borrow().values() {
            let limit = own(&local.info.login.name).or(global).filter(|_| local.is_idle());
            let since = local.idle_since.get().max(local.info.connected);
            if limit.is_some_and(|limit| now.saturating_sub(since) >= limit.as_micros() as u64) {
                local.end(Refusal::fatal("client_idle_timeout"));
            }
        }
    }

    /// How many sessions have not come to rest; with a refusal they are ended. Those that wait for a server have nothing
    /// under way and wait on.
    fn stirring(&self, refusal: Option<Refusal>) -> usize {
        let sessions = self.sessions.borrow();
        let stirring: Vec<_> = sessions
            .values()
            .filter(|local| !local.resting.get() && local.info.state() != ClientState::Waiting)
            .collect();
        for local in &stirring {
            match &refusal {
                Some(refusal) => local.end(refusal.clone()),
                None => local.wake(),
            }
        }
        stirring.len()
    }

    fn note_settings(&self) {
        let config = self.shared.config.load();
        self.max_packet_size.set(config.limits.max_packet_size);
        self.client_buffer_limit.set(config.limits.client_buffer());
        self.refuse_simple_query.set(config.params.refuse_simple_query);
        self.query_stats.set(config.query_stats);
        if config.query_stats == 0 {
            self.shared.registry.pools().iter().for_each(|pool| pool.queries.clear(self.index));
        }
        self.statement_grace.set(config.timeouts.statement_grace.as_micros() as u64);
    }

    /// Serves a connection that it has accepted itself.
    pub(crate) fn accept(self: &Rc<Self>, stream: Stream, remote: Peer) {
        self.load.add();
        self.admit(stream, remote);
    }

    /// Serves a connection that is counted as load.
    fn admit(self: &Rc<Self>, stream: Stream, remote: Peer) {
        let leave = self.load.leave();
        self.spawn(admit::admit(self.clone(), stream, remote, leave));
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Open(door) => self.spawn(listen::accept(self.clone(), door)),
            Order::Accept(accepted, remote) => match accepted.into_stream() {
                Some(stream) => self.admit(stream, remote),
                None => drop(self.load.leave()),
            },
            Order::Arrive(arriving) => {
                let leave = self.load.leave();
                self.spawn(handover::settle(self.clone(), *arriving, leave));
            }
            Order::ListenAhead(ahead) => self.spawn(handover::listen(self.clone(), *ahead)),
            Order::Travel(client) => {
                if let Some(local) = self.sessions.borrow().get(&client.id) {
                    local.leave(Leaving::Travels);
                }
            }
            Order::Drain => {
                self.sessions.borrow().values().for_each(|local| local.leave(Leaving::Drains));
            }
            Order::Pump(pool) => pool.pump(self),
            Order::AskBack(pool) => self.wake_pinned(&pool),
            Order::Cancel(client, done) => {
                let local = self.sessions.borrow().get(&client.id).cloned();
                if let Some(local) = local {
                    self.spawn(cancel::cancel(self.clone(), local, None, done));
                }
            }
            Order::End(client, refusal) => {
                if let Some(local) = self.sessions.borrow().get(&client.id) {
                    local.end(refusal);
                }
            }
            Order::TellWaiting(telling) => {
                let sessions = self.sessions.borrow();
                for local in sessions.values().filter(|l| l.info.state() == ClientState::Waiting) {
                    *local.tell.borrow_mut() = Some(telling.clone());
                    local.wake();
                }
            }
            Order::Probe(probe) => self.spawn(probe.run()),
            Order::AskPatroni(watch) => self.spawn(watch.run()),
            Order::Ask(question) => self.spawn(blockers::ask(self.clone(), question)),
            Order::PhaseChanged => {
                if self.shared.phase() == Phase::WaitForServers {
                    self.sessions.borrow().values().for_each(|local| local.wake());
                }
            }
            Order::Suspend(refusal, answer) => {
                self.suspended.set(self.shared.is_suspended()); // it may be over by now
                let _ = answer.send(self.stirring(refusal));
            }
            Order::Unsuspend => {
                self.suspended.set(false);
                for local in self.sessions.borrow().values() {
                    local.resting.set(false);
                    local.wake();
                }
                self.shared.registry.pools().iter().for_each(|pool| pool.pump(self));
            }
            Order::Reloaded => {
                self.note_settings();
                let sessions = self.sessions.borrow();
                // Other limits may hold for what goes on; the rest finds them when it begins.
                for local in sessions.values().filter(|local| local.server.borrow().is_some()) {
                    local.alarm.ring();
                    local.wake();
                    local.note_outdated();
                }
            }
            Order::Renewed(pool) => {
                let sessions = self.sessions.borrow();
                let home = pool.home();
                let clients = sessions.values().filter(|local| Arc::ptr_eq(&local.info.pool, &home));
                clients.for_each(|local| local.note_outdated());
            }
        }
    }
}

/// Starts one worker's thread. It ends when the phase is [`Phase::Stopped`].
pub(crate) fn start(shared: Arc<Shared>, index: usize) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    let (orders, inbox) = mpsc::unbounded_channel();
    let load = Arc::<Load>::default();
    let handle = WorkerHandle { orders, load: load.clone() };
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime =
            Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!("worker {index} has no event loop: {error}");
                shared.advance(Phase::Stopped);
                return;
            }
        };
        let worker = Rc::new(Worker {
            index,
            shared,
            buffer: RefCell::new(vec![0; READ_BUFFER].into()),
            scratch: RefCell::default(),
            front: RefCell::default(),
            sessions: RefCell::default(),
            max_packet_size: Cell::default(),
            client_buffer_limit: Cell::default(),
            ticks: Cell::default(),
            pressed: Cell::default(),
            suspended: Cell::default(),
            refuse_simple_query: Cell::default(),
            query_stats: Cell::default(),
            fingerprints: Fingerprints::default(),
            statement_grace: Cell::default(),
            sampler: Sampler::default(),
            now: Cell::default(),
            pinned: RefCell::default(),
            alarms: Alarms::default(),
            throttle: Throttle::default(),
            load,
        });
        worker.note_settings();
        runtime.block_on(work(worker, inbox));
        runtime.shutdown_background();
    })?;
    Ok((handle, thread))
}

/// Until the first alarm may be due.
async fn alarm(worker: &Worker, next: Option<u64>) {
    let left = next
        .map_or(Duration::MAX, |at| Duration::from_micros(at.saturating_sub(worker.shared.clock.micros())));
    // Sooner if there is an earlier one.
    let _ = tokio::time::timeout(left, worker.alarms.earlier.notified()).await;
}

async fn work(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let mut phase = worker.shared.phase_changes.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = None;
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(order) => worker.obey(order),
                None => return,
            },
            _ = tick.tick() => worker.tick(),
            () = alarm(&worker, next) => {
                next = worker.alarms.ring(worker.shared.clock.micros(), &worker.sessions.borrow());
            }
            changed = phase.wait_for(|p| *p == Phase::Stopped) => {
                let _ = changed;
                return;
            }
        }
    }
}
