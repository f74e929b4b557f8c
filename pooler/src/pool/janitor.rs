//! What a worker's tick does for its part of each pool.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Grant, IdleServer, Pool, lock};
use crate::worker::Worker;

impl Pool {
    /// Retires idle servers, ends waits that took too long, and keeps the pool at its minimum.
    pub(crate) fn tick(self: &Arc<Self>, worker: &Rc<Worker>, now: u64) {
        self.retire(worker.index, now);
        self.end_long_waits(worker, now);
        self.pump(worker);
        if worker.index == 0 {
            self.keep_minimum(worker);
            self.look_how_full();
        }
    }

    /// Notes whether it has a connection on either side, and says since when it has none, in microseconds.
    pub(crate) fn unused_since(&self, now: u64) -> Option<u64> {
        let waits = self.is_forced() && self.rules.load().min > 0; // to be filled without a client
        if self.open.get() > 0 || self.clients.get() > 0 || self.is_held() || waits {
            self.last_used.store(now, Relaxed);
            return None;
        }
        Some(self.last_used.load(Relaxed))
    }

    /// Its user is the one that the database forces on its clients.
    pub(crate) fn is_forced(&self) -> bool {
        self.db.spec.load().user.as_ref() == Some(&self.user.name)
    }

    /// Gives back what its clients have shared, and none has any more.
    pub(crate) fn forget_unused(&self) {
        self.texts.sweep();
        self.settings.sweep();
    }

    fn retire(&self, home: usize, now: u64) {
        let rules = self.rules.load();
        let idle_limit = rules.server.idle_timeout.map(|d| d.as_micros() as u64);
        // Nobody watches an idle server: what it says (that it shuts down, say) is read here and at the next loan.
        let spoke = self.shards[home].drain_idle(IdleServer::has_spoken);
        for server in spoke {
            if let Some(server) = server.into_clean().and_then(crate::server::Server::into_idle) {
                self.give_back(home, server);
            }
        }
        let mut spare = self.open.get().saturating_sub(rules.min);
        let stale = self.shards[home].drain_idle(|s| {
            let over =
                idle_limit.is_some_and(|limit| spare > 0 && now.saturating_sub(s.idle_since()) >= limit);
            spare -= usize::from(over);
            over
        });
        stale.into_iter().for_each(|s| s.close("server idle timeout"));
        let aged = self.shards[home].drain_idle(|s| self.lifetime_over(&rules, s.info(), now));
        aged.into_iter().for_each(|s| s.close("server lifetime over"));
        let mut surplus = rules.total().map_or(0, |most| self.open.get().saturating_sub(most));
        let excess = self.shards[home].drain_idle(|_| {
            let close = surplus > 0;
            surplus -= usize::from(close);
            close
        });
        excess.into_iter().for_each(|s| s.close("too many servers in the pool"));
    }

    fn end_long_waits(&self, worker: &Worker, now: u64) {
        let shard = &self.shards[worker.index];
        if shard.oldest_wait().is_none() {
            return;
        }
        let notify_after = self.shared.config.load().timeouts.query_wait_notify.map(|d| d.as_micros() as u64);
        let over = shard.drain_waiting(|since, waiter| {
            let waited = now.saturating_sub(since);
            if notify_after.is_some_and(|after| waited > after)
                && let Some(local) =
                    waiter.notify.take().and_then(|id| worker.sessions.borrow().get(&id).cloned())
            {
                local.long_wait.set(true);
                local.wake();
            }
            waiter.limit.over(waited).is_some()
        });
        for waiter in over {
            if let Some(refusal) = waiter.limit.over(u64::MAX) {
                let _ = waiter.answer.send(Grant::Refused(refusal));
            }
        }
    }

    /// Opens one connection if there are fewer than the minimum and somebody may use them.
    fn keep_minimum(self: &Arc<Self>, worker: &Rc<Worker>) {
        let rules = self.rules.load();
        let wanted = self.open.get() < rules.min && !self.is_held();
        if !wanted || (!self.is_forced() && self.db.clients.get() == 0) || lock(&self.dialling).connecting > 0
        {
            return;
        }
        // Nobody is evicted for a minimum.
        let room = rules.max_db.is_none_or(|most| self.db.servers.get() < most.get())
            && rules.max_user.is_none_or(|most| self.user.servers.get() < most.get());
        if let Some(begun) = room.then(|| self.begin_connect()).flatten() {
            worker.spawn(self.clone().open_one(worker.clone(), begun));
        }
    }
}
