//! Opening server connections, within the limits, and what becomes of the attempt.

use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use super::{Counted, Dial, Failure, Full, Permit, Pool, Tally, lock};
use crate::auth_query;
use crate::error::Refusal;
use crate::server::{self, ConnectError, IdleServer};
use crate::worker::Worker;

/// Connections of one pool that may be opening at the same time; one while the server refuses.
const CONNECTING_AT_ONCE: usize = 4;

/// Pause (microseconds) behind a failure to reach a host of a cluster: probes find out how it is.
const CLUSTER_RETRY: u64 = 100_000;

impl Pool {
    /// Permission to open a connection now, counted as connecting.
    pub(crate) fn begin_connect(self: &Arc<Self>) -> Option<(Permit, Dial)> {
        let now = self.shared.clock.micros();
        {
            let mut dialling = lock(&self.dialling);
            let most = if dialling.failure.is_some() { 1 } else { CONNECTING_AT_ONCE };
            let too_early = dialling.failure.as_ref().is_some_and(|f| now < f.retry_at);
            if too_early || dialling.connecting >= most {
                return None;
            }
            dialling.connecting += 1; // now, because another worker may ask at the same moment
        }
        let begun = self.dial(now, || self.admit(now));
        if begun.is_none() {
            lock(&self.dialling).connecting -= 1;
        }
        begun
    }

    /// A place in every count, making room among idle servers where another pool shares the limit.
    pub(crate) fn admit(self: &Arc<Self>, now: u64) -> Option<Permit> {
        let rules = self.rules.load();
        let mut most = rules.size;
        let patience = rules.reserve_after.map(|d| d.as_micros() as u64);
        let late = |since: u64| patience.is_some_and(|p| now.saturating_sub(since) >= p);
        if rules.reserve > 0 && self.oldest_wait().is_some_and(late) {
            most = rules.total();
        }
        let counted = Counted {
            pool: (&self.open, most),
            database: (&self.db.servers, rules.max_db),
            user: (&self.user.servers, rules.max_user),
        };
        if self.must_yield(&rules, now, 1) {
            return None; // the other pool is pumped by whatever frees a place, and by the tick
        }
        let census = &self.shared.census;
        let permit = census.admit(&counted).or_else(|full| match self.evict_for(full) {
            true => census.admit(&counted),
            false => Err(full),
        });
        let permit = permit.ok()?;
        if rules.size.is_some_and(|size| self.open.get() > size) {
            warn!(peer = %self.name(), "taking connection from reserve_pool");
        }
        Some(permit)
    }

    /// A place for a connection that is there already, with its client from another process: over the limits, if need be.
    pub(crate) fn admit_anyway(&self) -> Permit {
        self.shared.census.admit_anyway([&self.open, &self.db.servers, &self.user.servers])
    }

    /// A place for a connection that serves the whole database: it counts in `tally` and not in the pool.
    pub(crate) fn admit_aside(&self, tally: &Arc<Tally>) -> Option<Permit> {
        let rules = self.rules.load();
        let counted = Counted {
            pool: (tally, None),
            database: (&self.db.servers, rules.max_db),
            user: (&self.user.servers, rules.max_user),
        };
        let permit = self.shared.census.admit(&counted);
        if let Err(full) = permit {
            self.evict_for(full); // for the next attempt
        }
        permit.ok()
    }

    /// Neither held nor waiting for the time of its next attempt.
    pub(super) fn may_connect(&self, now: u64) -> bool {
        !self.is_held() && lock(&self.dialling).failure.as_ref().is_none_or(|failure| now >= failure.retry_at)
    }

    /// Opens a connection if it is time for another attempt, although nobody waits.
    pub(crate) fn try_again(self: &Arc<Self>, worker: &Rc<Worker>) {
        if let Some(begun) = self.begin_connect() {
            worker.spawn(self.clone().open_one(worker.clone(), begun));
        }
    }

    /// Closes an idle server of this pool, for a client that can't use one.
    pub(crate) fn evict_one(&self) {
        if let Some(server) = self.shards.iter().find_map(|s| s.take_idle(true)) {
            server.close("evicted");
        }
    }

    /// Closes the server that was idle longest among those that share the limit.
    fn evict_for(&self, full: Full) -> bool {
        let sharing = match full {
            Full::Pool => return false,
            Full::Database => self.db.pools(),
            Full::User => self.user.pools(),
        };
        let oldest = sharing.iter().flat_map(|pool| {
            pool.shards
                .iter()
                .enumerate()
                .filter_map(move |(i, s)| Some((s.min_idle(IdleServer::idle_since)?, pool, i)))
        });
        let Some((since, pool, index)) = oldest.min_by_key(|(since, ..)| *since) else { return false };
        let mut evicted = pool.shards[index].drain_idle(|s| s.idle_since() == since);
        let victim = evicted.pop();
        evicted.into_iter().for_each(|s| pool.shards[index].put_idle(s));
        victim.map(|s| s.close("evicted")).is_some()
    }

    pub(super) async fn open_one(self: Arc<Self>, worker: Rc<Worker>, begun: (Permit, Dial)) {
        let result = server::connect(&worker, &self, begun, &[]).await;
        match &result {
            Err(error) if error.is_of_secret() && auth_query::renew(&worker, &self).await => {
                lock(&self.dialling).connecting -= 1; // once more, with the secret that is right now
            }
            _ => self.connected(&worker, result),
        }
        self.pump(&worker);
    }

    pub(super) fn connected(self: &Arc<Self>, worker: &Rc<Worker>, result: Result<IdleServer, ConnectError>) {
        let error = match result {
            Ok(server) => {
                // It counts as connecting until its client has it; else another would be opened for that client.
                self.give_back(worker.index, server);
                let mut dialling = lock(&self.dialling);
                dialling.connecting -= 1;
                dialling.failure = None;
                dialling.insecure = 0;
                return;
            }
            Err(error) => error,
        };
        {
            let mut dialling = lock(&self.dialling);
            dialling.connecting -= 1;
            dialling.next_host += usize::from(!self.rotates_hosts());
        }
        self.failed(&error, self.shared.login_retry_at(&error));
        warn!(peer = %self.name(), "server login failed: {error}");
        // Who can't be reached may come back; who refuses the login refuses every client's.
        if let Some(refusal) = error.for_waiting_clients()
            && self.open.get() == 0
            && !self.shared.lacks_room()
        {
            self.refuse_waiting(&refusal);
        }
    }

    /// The server could not be reached, or has refused the login: a pause, unless another host may do better.
    pub(super) fn failed(&self, error: &ConnectError, retry_at: u64) {
        if error.is_of_host() && self.is_clustered() {
            let retry_at = self.shared.clock.micros() + CLUSTER_RETRY;
            lock(&self.dialling).failure = Some(Failure { reason: error.to_string(), retry_at });
            if self.site.is_some() {
                // Another host can do it.
                self.refuse_waiting(&Refusal::fatal(error.to_string()));
            }
            return;
        }
        let none_is_better = match error {
            ConnectError::Insecure(_) => self.all_are_insecure(),
            _ => !error.is_of_host() || self.is_cut_off(),
        };
        if none_is_better {
            lock(&self.dialling).failure = Some(Failure { reason: error.to_string(), retry_at });
        }
    }

    /// The next attempt need not wait for what the last one came to.
    pub(super) fn forget_failure(&self) {
        lock(&self.dialling).failure = None;
    }

    /// As many attempts in turn as there are hosts have ended for want of TLS, with this one.
    fn all_are_insecure(&self) -> bool {
        let hosts = self.targets().len();
        let mut dialling = lock(&self.dialling);
        dialling.insecure += 1;
        dialling.insecure >= hosts
    }

    /// Why a new request can't be served: the last attempt failed and no connection is open or opening.
    pub(crate) fn failing(self: &Arc<Self>) -> Option<String> {
        if self.site.is_none() && self.is_clustered() {
            return None; // there will be another primary
        }
        let dialling = lock(&self.dialling);
        let failure = dialling.failure.as_ref().filter(|_| !self.shared.lacks_room())?;
        (self.open.get() == 0).then(|| failure.reason.clone())
    }

    /// The same as what a client is told.
    pub(crate) fn refuses_new(self: &Arc<Self>) -> Option<Refusal> {
        let reason = self.failing()?;
        let text = format!("server login has been failing, cached error: {reason} (server_login_retry)");
        Some(Refusal::fatal(text).because("server_login_retry"))
    }

    /// Why the last attempt failed, and when the next one is made.
    pub(crate) fn last_failure(&self) -> Option<(String, u64)> {
        lock(&self.dialling).failure.as_ref().map(|failure| (failure.reason.clone(), failure.retry_at))
    }
}
