//! A worker: one thread with its own event loop. Sessions, their servers and all their tasks stay on it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::admit;
use crate::cancel::{self, Cancels};
use crate::clients::ClientInfo;
use crate::error::Refusal;
use crate::lifecycle::Phase;
use crate::listen::Accepted;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::shared::Shared;

/// Time between two looks at deadlines. PgBouncer's is 333 ms; limits may fire this much late.
const TICK: Duration = Duration::from_millis(250);

/// Bytes read at once. Large enough for bulk transfers, small enough to stay in the second-level cache.
const READ_BUFFER: usize = 64 << 10;

/// What a worker is told to do.
pub(crate) enum Order {
    /// Admit a new connection.
    Accept(Accepted),
    /// A place may be free for clients that wait in this pool.
    Pump(Arc<Pool>),
    /// Cancel what a client is doing. The sender is dropped when that is done.
    Cancel(Arc<ClientInfo>, tokio::sync::oneshot::Sender<()>),
    /// End a client's connection.
    End(Arc<ClientInfo>, Refusal),
    /// Look at the phase again.
    PhaseChanged,
}

/// The way to a worker from other threads.
pub(crate) struct WorkerHandle {
    orders: mpsc::UnboundedSender<Order>,
    /// Connections it carries.
    load: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub(crate) fn send(&self, order: Order) {
        let _ = self.orders.send(order); // fails only when the worker has stopped
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// Counts a connection before its worker has seen it, so that a burst of them is spread.
    pub(crate) fn accept(&self, accepted: Accepted) {
        self.load.fetch_add(1, Relaxed);
        self.send(Order::Accept(accepted));
    }
}

/// What the worker's other tasks may know and do of a session.
pub(crate) struct Local {
    pub(crate) info: Arc<ClientInfo>,
    /// Set to end the session; it is woken.
    ended: RefCell<Option<Refusal>>,
    waker: RefCell<Option<Waker>>,
    /// Its place in the queue, if it waits.
    pub(crate) ticket: Cell<Option<u64>>,
    /// The server it is linked to.
    pub(crate) server: RefCell<Option<Arc<ServerInfo>>>,
    /// Counts requests, so that a cancel can tell whether the one it was meant for is still the one that runs.
    pub(crate) request: Cell<u64>,
    /// It waits so long that it is to be told.
    pub(crate) long_wait: Cell<bool>,
    /// A request of the client's is being answered.
    pub(crate) busy: Cell<bool>,
    /// A request of the pooler's own stands in front of it.
    pub(crate) preparing: Cell<bool>,
    /// When it gives up a server that it keeps for a moment only, in microseconds; 0: it keeps none.
    pub(crate) unpin_at: Cell<u64>,
    /// Cancel requests sent, or about to be, to the linked server.
    pub(crate) cancels: RefCell<Option<Rc<Cancels>>>,
}

impl Local {
    pub(crate) fn new(info: Arc<ClientInfo>) -> Rc<Local> {
        Rc::new(Local {
            info,
            ended: RefCell::default(),
            waker: RefCell::default(),
            ticket: Cell::default(),
            server: RefCell::default(),
            request: Cell::default(),
            long_wait: Cell::default(),
            busy: Cell::default(),
            preparing: Cell::default(),
            unpin_at: Cell::default(),
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

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
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
    /// Sessions that are to be woken at their `unpin_at`.
    pub(crate) pinned: RefCell<Vec<Rc<Local>>>,
    /// When the session that runs now was woken, in microseconds of the process's clock.
    now: Cell<u64>,
    load: Arc<AtomicUsize>,
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

    fn tick(self: &Rc<Self>) {
        let now = self.shared.clock.micros();
        self.note_settings();
        self.pinned.borrow_mut().retain(|local| {
            let over = local.unpin_at.get() <= now;
            if over {
                local.wake();
            }
            !over
        });
        for pool in self.shared.registry.pools() {
            pool.tick(self, now);
        }
        if self.index == 0 {
            self.shared.forget_unused_databases(now);
        }
        let mut scratch = self.scratch.borrow_mut();
        if scratch.capacity() > READ_BUFFER * 2 {
            *scratch = Vec::new();
        }
    }

    fn note_settings(&self) {
        let config = self.shared.config.load();
        self.max_packet_size.set(config.limits.max_packet_size);
        self.refuse_simple_query.set(config.params.refuse_simple_query);
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Accept(accepted) => {
                let leave = Leave(self.load.clone());
                self.spawn(admit::admit(self.clone(), accepted, leave));
            }
            Order::Pump(pool) => pool.pump(self),
            Order::Cancel(client, done) => {
                let local = self.sessions.borrow().get(&client.id).cloned();
                if let Some(local) = local {
                    self.spawn(cancel::cancel(self.clone(), local, done));
                }
            }
            Order::End(client, refusal) => {
                if let Some(local) = self.sessions.borrow().get(&client.id) {
                    local.end(refusal);
                }
            }
            Order::PhaseChanged => {
                if self.shared.phase() == Phase::WaitForServers {
                    self.sessions.borrow().values().for_each(|local| local.wake());
                }
            }
        }
    }
}

/// Takes a connection off the worker's load when it ends.
pub(crate) struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Starts one worker's thread. It ends when the phase is [`Phase::Stopped`].
pub(crate) fn start(shared: Arc<Shared>, index: usize) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    let (orders, inbox) = mpsc::unbounded_channel();
    let load = Arc::new(AtomicUsize::new(0));
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
            refuse_simple_query: Cell::default(),
            now: Cell::default(),
            pinned: RefCell::default(),
            load,
        });
        worker.note_settings();
        runtime.block_on(work(worker, inbox));
        runtime.shutdown_background();
    })?;
    Ok((handle, thread))
}

async fn work(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let mut phase = worker.shared.phase_changes.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(order) => worker.obey(order),
                None => return,
            },
            _ = tick.tick() => worker.tick(),
            changed = phase.wait_for(|p| *p == Phase::Stopped) => {
                let _ = changed;
                return;
            }
        }
    }
}
