//! Waiting for a server.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use protocol::error_fields::{ErrorMessage, Severity};

use super::{End, Session};
use crate::cancel;
use crate::clients::ClientState;
use crate::error::Refusal;
use crate::events::LONGEST_SHOWN;
use crate::pool::{Counting, Crowded, Grant, Place, Pool, WaitLimit};
use crate::server::{self, IdleServer};
use crate::worker::{Leaving, Waits};

const QUEUED: &str = "No server connection available in postgres backend, client being queued";

/// A waiting client's further requests are read up to this many bytes, so that its leaving is noticed.
pub(super) const READ_AHEAD: usize = 32 << 10;

impl Session {
    /// Waits for a server and links it. Returns without one when the request at hand is to be refused.
    pub(super) async fn wait_for_server(&mut self) -> Result<(), End> {
        let since = self.worker.now();
        if let Some(timing) = &mut self.timing {
            timing.asks(since);
        }
        self.local.info.since.store(since, Relaxed);
        self.local.info.set_state(ClientState::Waiting);
        let linked = match self.replication.clone() {
            // Boxed: the future of every session would otherwise be as large as a login to a server.
            Some(params) => Box::pin(self.wait_for_own_server(params)).await,
            None if self.awaits_replica() => Box::pin(self.wait_for_replica()).await,
            None => self.wait_in_queue(since).await,
        };
        let waited = self.worker.now() - since;
        self.local.tell.take(); // too late
        self.local.waited.set(waited);
        self.counters().wait_time.add(waited);
        if waited > 0 {
            self.pool.latency.of(self.worker.index).waiting.record(waited);
        }
        if self.link.is_none() {
            self.local.info.since.store(0, Relaxed);
            self.local.info.set_state(ClientState::Idle);
        }
        linked
    }

    /// Longest wait, by the configuration of this moment.
    pub(super) fn wait_limit(&self) -> WaitLimit {
        let config = self.worker.shared.config.load();
        let query = self.timing.as_ref().and_then(|timing| timing.limits.query);
        self.pool.wait_limit(&config, &self.local.info.login.name, query)
    }

    async fn wait_in_queue(&mut self, since: u64) -> Result<(), End> {
        let pool = self.aimed_at().clone();
        if let Some(refusal) = pool.refuses_new() {
            pool.try_again(&self.worker);
            return self.not_served(&pool, refusal);
        }
        let mut counted = match pool.join_crowd() {
            Ok(counted) => counted,
            Err(crowded) => {
                self.report_waiting(Crowded::REASON);
                self.refuse(Some(crowded.message(Severity::Error)));
                return Ok(());
            }
        };
        loop {
            let Some(grant) = self.queue(&pool, since, counted.take()).await? else {
                self.refuse_late();
                return Ok(());
            };
            match grant {
                Grant::Server(server) => {
                    if server.into_clean().is_some_and(|server| self.link(server)) {
                        if self.link.as_ref().is_some_and(|link| link.setting) {
                            self.request_begins_early(self.worker.now());
                        }
                        return Ok(());
                    }
                    // It was gone before it could be used: in line again.
                }
                Grant::Cancelled => return self.wait_was_cancelled(),
                Grant::Refused(refusal) => return self.not_served(&pool, refusal),
            }
        }
    }

    /// Waits in a pool's queue as somebody who came at `since`. `None`: the request has no time left.
    pub(super) async fn queue(
        &mut self,
        pool: &Arc<Pool>,
        since: u64,
        counted: Option<Counting>,
    ) -> Result<Option<Grant>, End> {
        let limit = self.wait_limit();
        let notify = Some(self.local.info.id);
        let mut place = pool.wait(self.worker.index, since, limit, notify, counted);
        if pool.is_removed() {
            // Nobody would serve this queue.
            return Ok(Some(Grant::Refused(Refusal::fatal("database removed"))));
        }
        *self.local.waits.borrow_mut() = Some(Waits::InQueue(pool.clone(), place.ticket));
        pool.pump(&self.worker);
        pool.ask_back(&self.worker);
        self.set_alarm();
        let grant = match place.take() {
            Some(grant) => Ok(Some(grant)), // of another worker: that is no wait
            None => poll_fn(|cx| self.poll_wait(cx, &mut place)).await,
        };
        *self.local.waits.borrow_mut() = None;
        let late = self.local.cancelled_late.take();
        match grant? {
            Some(Grant::Server(server)) if late => {
                pool.give_back(self.worker.index, server);
                Ok(Some(Grant::Cancelled))
            }
            grant => Ok(grant),
        }
    }

    /// The pool has no server for the client: at a replica another host has one, else it ends.
    fn not_served(&mut self, pool: &Arc<Pool>, refusal: Refusal) -> Result<(), End> {
        if pool.site.is_none() {
            return Err(End::Refused(refusal));
        }
        self.try_elsewhere(pool);
        Ok(())
    }

    pub(super) fn wait_was_cancelled(&mut self) -> Result<(), End> {
        self.report_waiting(cancel::REASON);
        self.refuse(None);
        Ok(())
    }

    /// The answer, unless the client leaves or is ended first; `None`: its request has no time left. What then comes is
    /// for others.
    fn poll_wait(&mut self, cx: &mut Context<'_>, place: &mut Place) -> Poll<Result<Option<Grant>, End>> {
        if let Poll::Ready(end) = self.poll_still_there(cx) {
            return Poll::Ready(Err(end));
        }
        if self.request_is_late() {
            return Poll::Ready(Ok(None));
        }
        Pin::new(&mut place.granted).poll(cx).map(|grant| {
            place.done = true;
            grant.map(Some).map_err(|_| End::Refused(Refusal::fatal("database removed")))
        })
    }

    /// Ready when the client is gone or was ended. Reads ahead, within bounds.
    fn poll_still_there(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(refusal) = self.local.ended() {
            return Poll::Ready(End::Refused(refusal));
        }
        if self.refuses_new_work() {
            return Poll::Ready(End::Refused(Refusal::fatal("server shutting down")));
        }
        self.local.watch(cx.waker());
        if let Some(telling) = self.local.tell.take() {
            let _ = telling.send((self.local.info.id, sql::outline(self.waiting_text(), LONGEST_SHOWN)));
        }
        if self.local.long_wait.take() {
            self.unsent.add(|out| ErrorMessage::notice(QUEUED).encode_notice(out));
        }
        if self.unsent.flush(cx, &mut self.stream).is_err() {
            return Poll::Ready(End::Gone);
        }
        if self.local.leaving.get() == Leaving::Travels && self.may_travel() {
            return Poll::Ready(End::Travels); // it waits for a server of the other process
        }
        while self.input.len() < READ_AHEAD {
            let mut buffer = self.worker.buffer.borrow_mut();
            match self.watch.poll_read(&mut self.stream, cx, &mut buffer[..READ_AHEAD]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.input.extend_from_slice(&buffer[..n]),
                Poll::Ready(_) => return Poll::Ready(End::Gone),
            }
        }
        Poll::Pending
    }

    /// A replication client gets a server connection of its own, opened with its own start-up parameters.
    async fn wait_for_own_server(&mut self, params: Vec<(String, String)>) -> Result<(), End> {
        let begun = loop {
            let now = self.worker.shared.clock.micros();
            if self.pool.is_removed() {
                return Err(End::Refused(Refusal::fatal("database removed")));
            }
            if !self.pool.is_held() {
                let admit = || {
                    let permit = self.pool.admit(now);
                    if permit.is_none() {
                        self.pool.evict_one(); // for the next attempt
                    }
                    permit
                };
                if let Some(begun) = self.pool.dial(now, admit) {
                    break begun;
                }
            }
            let since = self.local.info.since.load(Relaxed);
            if let Some(refusal) = self.wait_limit().over(now.saturating_sub(since)) {
                return Err(End::Refused(refusal));
            }
            self.or_gone(tokio::time::sleep(std::time::Duration::from_millis(50))).await?;
        };
        let (worker, pool) = (self.worker.clone(), self.pool.clone());
        match self.or_gone(server::connect(&worker, &pool, begun, &params)).await? {
            Ok(server) => {
                self.link(IdleServer::into_server(server));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(peer = %self.local.info.peer(), "replication login failed: {error}");
                Err(End::Refused(Refusal::fatal(error.for_replication_client())))
            }
        }
    }

    /// Runs something as long as the client is there.
    pub(super) async fn or_gone<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending => self.poll_still_there(cx).map(Err),
        })
        .await
    }
}
