//! Clients that wait for a server, and what is done for them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Counting, Pool, Shard, any_idle, lock};
use crate::config::Config;
use crate::error::Refusal;
use crate::server::{self, IdleServer, Server};
use crate::worker::{Order, Worker};

/// What a waiting client gets.
pub(crate) enum Grant {
    Server(IdleServer),
    /// Its wait was cancelled (`CancelRequest`).
    Cancelled,
    Refused(Refusal),
}

/// The longest that a client waits, in microseconds, and what it is told then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitLimit(Option<(u64, &'static str)>);

impl WaitLimit {
    /// The reason to end a wait of so many microseconds.
    pub(crate) fn over(self, waited: u64) -> Option<Refusal> {
        self.0.filter(|(limit, _)| waited >= *limit).map(|(_, text)| Refusal::fatal(text))
    }
}

/// A client in the queue.
pub(crate) struct Waiter {
    pub(crate) answer: oneshot::Sender<Grant>,
    pub(crate) limit: WaitLimit,
    /// Id of a client that is to be told when it has waited long.
    pub(crate) notify: Option<u64>,
    /// Where the number of those who wait is limited.
    _counted: Option<Counting>,
}

impl Pool {
    /// Joins the queue of this worker, with the place of somebody who came at `since`.
    pub(crate) fn wait(
        self: &Arc<Self>,
        home: usize,
        since: u64,
        limit: WaitLimit,
        notify: Option<u64>,
        counted: Option<Counting>,
    ) -> Place {
        let (answer, granted) = oneshot::channel();
        let ticket = self.shards[home].wait(since, Waiter { answer, limit, notify, _counted: counted });
        Place { pool: self.clone(), home, ticket, granted, done: false }
    }

    /// A client waits: those that keep a server as long as nobody needs it are told.
    pub(crate) fn ask_back(self: &Arc<Self>, worker: &Worker) {
        if self.pins.brief.get() == 0 {
            return;
        }
        worker.wake_pinned(self);
        let others = (0..self.shards.len()).filter(|index| *index != worker.index);
        others.for_each(|index| self.shared.order(index, Order::AskBack(self.clone())));
    }

    /// Ends a client's wait as cancelled. False: it was served before.
    pub(crate) fn cancel_wait(&self, home: usize, ticket: u64) -> bool {
        let waiter = self.shards[home].leave(ticket);
        waiter.is_some_and(|w| w.answer.send(Grant::Cancelled).is_ok())
    }

    /// Refuses every waiting client.
    pub(crate) fn refuse_waiting(&self, refusal: &Refusal) {
        for shard in &self.shards {
            for waiter in shard.drain_waiting(|_, _| true) {
                let _ = waiter.answer.send(Grant::Refused(refusal.clone()));
            }
        }
    }

    /// When the client that waits longest joined, in microseconds.
    pub(crate) fn oldest_wait(&self) -> Option<u64> {
        self.shards.iter().filter_map(Shard::oldest_wait).min()
    }

    /// Does what can be done for the clients that wait on this worker.
    pub(crate) fn pump(self: &Arc<Self>, worker: &Rc<Worker>) {
        if self.held.load(Relaxed) || worker.suspended.get() {
            return;
        }
        let home = worker.index;
        while self.shards[home].oldest_wait().is_some() {
            let Some(server) = self.any_idle(home) else { break };
            if self.rules.load().must_check(server.idle_since(), self.shared.clock.micros()) {
                if self.checking.get() >= self.waiting() {
                    self.shards[home].put_idle(server);
                    break; // each client that waits will have one
                }
                worker.spawn(server::check(worker.clone(), server, self.checking.count().0));
            } else if let Some(server) = server.into_clean().and_then(Server::into_idle) {
                self.give_back(home, server);
            }
        }
        if self.rules.load().total().is_some_and(|most| self.open.get() >= most) {
            return; // full: the common case of a client that waits
        }
        while self.wants_more() {
            let Some(begun) = self.begin_connect() else { break };
            worker.spawn(self.clone().open_one(worker.clone(), begun));
        }
    }

    /// How long a client waits for a server: its own limit, its database's, or everybody's; no longer than a query may
    /// take.
    pub(crate) fn wait_limit(&self, config: &Config, login: &str, query: Option<Duration>) -> WaitLimit {
        let user = config.users.get(login).and_then(|u| u.query_wait_timeout);
        let wait = user.or(self.db.spec.load().query_wait_timeout).unwrap_or(config.timeouts.query_wait);
        let limits = [(wait, "query_wait_timeout"), (query, "query_timeout")];
        let limits = limits.into_iter().filter_map(|(time, text)| Some((time?.as_micros() as u64, text)));
        WaitLimit(limits.min_by_key(|(micros, _)| *micros))
    }

    pub(super) fn any_idle(&self, home: usize) -> Option<IdleServer> {
        if self.rules.load().server.round_robin {
            return self.next_idle(home, true);
        }
        any_idle(&self.shards, home)
    }

    pub(super) fn waiting(&self) -> usize {
        self.shards.iter().map(|shard| shard.counts().1).sum()
    }

    pub(super) fn wants_more(&self) -> bool {
        self.waiting() > lock(&self.dialling).connecting + self.checking.get()
    }
}

/// A client's place in the queue. Dropping it leaves the queue; a server that came at that moment goes on to the
/// next.
pub(crate) struct Place {
    pool: Arc<Pool>,
    home: usize,
    pub(crate) ticket: u64,
    pub(crate) granted: oneshot::Receiver<Grant>,
    pub(crate) done: bool,
}

impl Place {
    /// What has been granted already.
    pub(crate) fn take(&mut self) -> Option<Grant> {
        let grant = self.granted.try_recv().ok();
        self.done |= grant.is_some();
        grant
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.done || self.pool.shards[self.home].leave(self.ticket).is_some() {
            return;
        }
        self.granted.close();
        if let Ok(Grant::Server(server)) = self.granted.try_recv() {
            self.pool.give_back(self.home, server);
        }
    }
}
