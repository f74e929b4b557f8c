//! The hosts that pools connect to. A host has a limited strength for logins, and none at all while it is down, whichever
//! pools they are for: so its pools open connections to it by turns, and share what one of them has found out.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dashmap::DashMap;

use super::{Permit, Pool, lock};
use crate::config::{Host, LoadBalance};
use crate::secrets::random;
use crate::server::ConnectError;
use crate::shared::Shared;

/// Pause where it was this process that had no file descriptor left.
const EXHAUSTED_FOR: Duration = Duration::from_secs(1);

/// All that were ever connected to.
#[derive(Debug, Default)]
pub(crate) struct Hosts(DashMap<(Host, u16), Arc<Endpoint>>);

impl Hosts {
    fn at(&self, host: &Host, port: u16) -> Arc<Endpoint> {
        self.0.entry((host.clone(), port)).or_default().clone()
    }

    /// Somebody has tried whether it takes connections.
    pub(crate) fn looked_at(&self, host: &Host, port: u16, down_until: Option<u64>) {
        lock(&self.at(host, port).0).down_until = down_until;
    }

    /// Set if none of these hosts could be reached when they were last tried: until when no other attempt is made.
    pub(crate) fn down_until(&self, hosts: &[(Host, u16)]) -> Option<u64> {
        let down = |at: &(Host, u16)| self.0.get(at).and_then(|at| lock(&at.0).down_until);
        hosts.iter().map(down).min().flatten()
    }
}

#[derive(Debug, Default)]
struct Endpoint(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Connections that are being opened.
    dialling: usize,
    /// The last attempt has not reached it. Until then, in microseconds, another host is taken instead if there is one.
    down_until: Option<u64>,
    /// Pools that would have opened a connection but for the others.
    turned_away: VecDeque<Weak<Pool>>,
}

impl State {
    /// How many more may be opened now.
    fn room(&self, most: Option<NonZeroUsize>) -> usize {
        let most = if self.down_until.is_some() { NonZeroUsize::new(1) } else { most };
        most.map_or(usize::MAX, |most| most.get().saturating_sub(self.dialling))
    }

    /// Pools whose clients wait, as many as there is room for.
    fn next_in_turn(&mut self, most: Option<NonZeroUsize>) -> Vec<Arc<Pool>> {
        let room = self.room(most);
        let pools = std::iter::from_fn(|| self.turned_away.pop_front());
        pools
            .filter_map(|pool| pool.upgrade())
            .filter(|pool| pool.oldest_wait().is_some())
            .take(room)
            .collect()
    }
}

/// Leave to open one connection to a host.
pub(crate) struct Dial {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Dial {
    /// Says what came of it.
    pub(crate) fn end<T>(self, result: &Result<T, ConnectError>) {
        let failure = result.as_ref().err().filter(|error| error.is_of_host());
        let mut state = lock(&self.endpoint.0);
        let Some(error) = failure else {
            if !matches!(result, Err(ConnectError::Exhausted(_))) {
                state.down_until = None;
            }
            return;
        };
        let retry_at = self.shared.login_retry_at(error);
        state.down_until = Some(retry_at);
        let pools = std::mem::take(&mut state.turned_away);
        drop(state);
        self.shared.clusters.connect_failed(&self.host, self.port, &error.to_string());
        // It was tried for them as well.
        pools.iter().filter_map(Weak::upgrade).for_each(|pool| pool.failed(error, retry_at));
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        let most = self.shared.config.load().limits.max_connecting;
        let next = {
            let mut state = lock(&self.endpoint.0);
            state.dialling -= 1;
            state.next_in_turn(most)
        };
        next.iter().for_each(|pool| pool.order_pump());
    }
}

impl Shared {
    /// When a server that has failed now is tried again: not at the same moment by all that it has failed.
    pub(super) fn login_retry_at(&self, error: &ConnectError) -> u64 {
        let pause = self.config.load().timeouts.server_login_retry;
        let pause = match error {
            ConnectError::Exhausted(_) => pause.min(EXHAUSTED_FOR), // it is not the server's fault
            _ if self.lacks_room() => pause.min(EXHAUSTED_FOR), // the old process may have its places still
            _ => pause,
        };
        let pause = pause.as_micros() as u64;
        let more = pause / 10 * u64::from(u16::from_ne_bytes(random())) / u64::from(u16::MAX);
        self.clock.micros() + pause + more
    }
}

impl Pool {
    /// Leave to open a connection to one of the pool's hosts, and a place in every count. Without it the pool is told when
    /// it may.
    pub(crate) fn dial(
        self: &Arc<Self>,
        now: u64,
        admit: impl FnOnce() -> Option<Permit>,
    ) -> Option<(Permit, Dial)> {
        let (dial, index) = self.choose_host(now)?;
        let permit = admit()?;
        lock(&self.dialling).next_host = index + usize::from(self.rotates_hosts());
        Some((permit, dial))
    }

    /// The next host, or one behind it if that is down.
    fn choose_host(self: &Arc<Self>, now: u64) -> Option<(Dial, usize)> {
        let targets = self.targets();
        if self.site.is_none() && self.is_clustered() && self.db.is_elsewhere(&targets) {
            return None;
        }
        let first = lock(&self.dialling).next_host;
        let most = self.shared.config.load().limits.max_connecting;
        for even_down in [false, true] {
            for index in (first..first + targets.len()).map(|index| index % targets.len()) {
                let (host, port) = &targets[index];
                let endpoint = self.shared.hosts.at(host, *port);
                let mut state = lock(&endpoint.0);
                let down = state.down_until.is_some_and(|until| now < until);
                if state.room(most) > 0 && (even_down || !down) {
                    state.dialling += 1;
                    drop(state);
                    let (host, port) = (host.clone(), *port);
                    return Some((Dial { shared: self.shared.clone(), endpoint, host, port }, index));
                }
                let me = Arc::downgrade(self);
                if even_down && !state.turned_away.iter().any(|pool| pool.ptr_eq(&me)) {
                    state.turned_away.push_back(me);
                }
            }
        }
        None
    }

    /// Every connection goes to the next host, not only the one behind a failure.
    pub(super) fn rotates_hosts(&self) -> bool {
        self.db.spec.load().load_balance == LoadBalance::RoundRobin
    }

    /// None of its hosts could be reached when they were last tried.
    pub(super) fn is_cut_off(&self) -> bool {
        self.shared.hosts.down_until(&self.targets()).is_some()
    }
}
