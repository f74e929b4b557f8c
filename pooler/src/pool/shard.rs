//! One worker's part of a pool: its idle servers and its waiting clients.
//!
//! The lock of a shard is taken by its own worker at every loan and return, and by other workers only when they have
//! run dry, so it is all but never contended.
//!
//! **No wake-up is lost.** A client first joins its shard's queue (which writes `oldest`), then looks for idle servers
//! in every shard (which reads `idle`). A server is first put on its shard's idle list (which writes `idle`), then the
//! queues of every shard are looked at (which reads `oldest`). The four are sequentially consistent, so at least one
//! of the two sees what the other has done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No client waits.
const NOBODY: u64 = u64::MAX;

/// Idle servers (`S`) and waiting clients (`W`) of one worker.
///
/// On cache lines of its own: the next worker's shard lies beside it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard<S, W> {
    state: Mutex<State<S, W>>,
    /// Arrival of the first waiting client, and the number of idle servers: written under the lock, read without.
    oldest: AtomicU64,
    idle: AtomicUsize,
}

#[derive(Debug)]
struct State<S, W> {
    /// Most recently used last.
    idle: VecDeque<S>,
    /// In order of arrival; tickets grow.
    waiting: VecDeque<Waiting<W>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiting<W> {
    ticket: u64,
    /// Arrival, in microseconds of the process's clock.
    since: u64,
    waiter: W,
}

impl<S, W> Default for Shard<S, W> {
    fn default() -> Self {
        Shard {
            state: Mutex::new(State { idle: VecDeque::new(), waiting: VecDeque::new(), next_ticket: 0 }),
            oldest: AtomicU64::new(NOBODY),
            idle: AtomicUsize::new(0),
        }
    }
}

impl<S, W> Shard<S, W> {
    fn lock(&self) -> MutexGuard<'_, State<S, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After every change of `waiting`.
    fn publish_oldest(&self, state: &State<S, W>) {
        let oldest = state.waiting.front().map_or(NOBODY, |w| w.since);
        if self.oldest.load(Relaxed) != oldest {
            self.oldest.store(oldest, SeqCst);
        }
    }

    /// After every change of `idle`.
    fn publish_idle(&self, state: &State<S, W>) {
        self.idle.store(state.idle.len(), SeqCst);
    }

    /// When the first waiting client arrived, in microseconds; `None` if nobody waits.
    pub(crate) fn oldest_wait(&self) -> Option<u64> {
        match self.oldest.load(SeqCst) {
            NOBODY => None,
            since => Some(since),
        }
    }

    /// Takes the idle server used last, or, `fifo`, the one idle longest.
    pub(crate) fn take_idle(&self, fifo: bool) -> Option<S> {
        if self.idle.load(SeqCst) == 0 {
            return None;
        }
        let mut state = self.lock();
        let server = if fifo { state.idle.pop_front() } else { state.idle.pop_back() };
        self.publish_idle(&state);
        server
    }

    /// Adds a server as the one used last.
    pub(crate) fn put_idle(&self, server: S) {
        let mut state = self.lock();
        state.idle.push_back(server);
        self.publish_idle(&state);
    }

    /// Looks at every idle server and takes out those for which `take` says so.
    pub(crate) fn drain_idle(&self, mut take: impl FnMut(&S) -> bool) -> Vec<S> {
        let mut state = self.lock();
        let mut out = Vec::new();
        let mut at = 0;
        while at < state.idle.len() {
            if take(&state.idle[at]) {
                out.extend(state.idle.remove(at));
            } else {
                at += 1;
            }
        }
        self.publish_idle(&state);
        out
    }

    /// Joins the queue; the ticket identifies the place.
    pub(crate) fn wait(&self, since: u64, waiter: W) -> u64 {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(Waiting { ticket, since, waiter });
        self.publish_oldest(&state);
        ticket
    }

    /// Leaves the queue. `None`: already served.
    pub(crate) fn leave(&self, ticket: u64) -> Option<W> {
        let mut state = self.lock();
        let at = state.waiting.binary_search_by_key(&ticket, |w| w.ticket).ok()?;
        let waiting = state.waiting.remove(at)?;
        self.publish_oldest(&state);
        Some(waiting.waiter)
    }

    /// Takes the client that waits longest.
    pub(crate) fn first_waiting(&self) -> Option<W> {
        let mut state = self.lock();
        let first = state.waiting.pop_front()?;
        self.publish_oldest(&state);
        Some(first.waiter)
    }

    /// Takes the clients for which `take` says so; it is given the arrival in microseconds.
    pub(crate) fn drain_waiting(&self, mut take: impl FnMut(u64, &mut W) -> bool) -> Vec<W> {
        let mut state = self.lock();
        let mut out = Vec::new();
        let mut at = 0;
        while at < state.waiting.len() {
            let waiting = &mut state.waiting[at];
            if take(waiting.since, &mut waiting.waiter) {
                out.extend(state.waiting.remove(at).map(|w| w.waiter));
            } else {
                at += 1;
            }
        }
        self.publish_oldest(&state);
        out
    }

    /// How many servers are idle and how many clients wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.idle.len(), state.waiting.len())
    }

    /// The smallest `key` of the idle servers.
    pub(crate) fn min_idle<K: Ord>(&self, key: impl Fn(&S) -> K) -> Option<K> {
        self.lock().idle.iter().map(key).min()
    }
}

/// How much longer (microseconds) a client of another worker must have waited before it goes ahead of a worker's own:
/// handing a server to another thread costs a wake-up and a new registration of the socket.
const FOREIGN_HEAD_START: u64 = 3_000;

/// Queues of two workers are never quite as long, and a server that moves for every small difference costs more than
/// the difference: up to this much (microseconds), a quarter of the own client's wait is added to the head start.
const MOST_ADDED: u64 = 4_000;

/// Which shard's queue a server given back at `home` should serve, if any client waits: the own one, unless another
/// worker's client has waited a few milliseconds longer.
pub(crate) fn whom_to_serve<S, W>(shards: &[Shard<S, W>], home: usize, now: u64) -> Option<usize> {
    let own = shards[home].oldest_wait();
    if shards.len() == 1 {
        return own.map(|_| home);
    }
    let foreign = shards
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != home)
        .filter_map(|(index, shard)| Some((shard.oldest_wait()?, index)))
        .min();
    match (own, foreign) {
        (Some(own), Some((since, index)))
            if since + FOREIGN_HEAD_START + (now.saturating_sub(own) / 4).min(MOST_ADDED) < own =>
        {
            Some(index)
        }
        (Some(_), _) => Some(home),
        (None, Some((_, index))) => Some(index),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_servers_come_back_last_in_first_out() {
        let shard: Shard<u32, ()> = Shard::default();
        (1..=3).for_each(|s| shard.put_idle(s));
        assert_eq!(shard.take_idle(false), Some(3));
        assert_eq!(shard.take_idle(true), Some(1));
        assert_eq!(shard.drain_idle(|s| *s == 2), [2]);
        assert_eq!(shard.take_idle(false), None);
    }

    #[test]
    fn clients_are_served_in_order_and_can_leave() {
        let shard: Shard<(), char> = Shard::default();
        assert_eq!(shard.oldest_wait(), None);
        shard.wait(10, 'a');
        let b = shard.wait(20, 'b');
        shard.wait(30, 'c');
        assert_eq!(shard.leave(b), Some('b'));
        assert_eq!(shard.leave(b), None);
        assert_eq!(shard.first_waiting(), Some('a'));
        assert_eq!(shard.oldest_wait(), Some(30));
        assert_eq!(shard.drain_waiting(|since, _| since <= 30), ['c']);
        assert_eq!(shard.oldest_wait(), None);
    }

    #[test]
    fn own_clients_first_unless_another_waited_clearly_longer() {
        let shards: [Shard<(), ()>; 2] = Default::default();
        assert_eq!(whom_to_serve(&shards, 0, 0), None);
        shards[1].wait(1_000, ());
        assert_eq!(whom_to_serve(&shards, 0, 5_000), Some(1));
        let own = shards[0].wait(1_000 + FOREIGN_HEAD_START, ());
        assert_eq!(whom_to_serve(&shards, 0, 5_000), Some(0));
        shards[0].leave(own);
        shards[0].wait(1_001 + FOREIGN_HEAD_START, ());
        assert_eq!(whom_to_serve(&shards, 0, 1_001 + FOREIGN_HEAD_START), Some(1));
        assert_eq!(whom_to_serve(&shards, 0, 9_001 + FOREIGN_HEAD_START), Some(0), "not by a quarter");
    }

    /// Both sides of the promise at the top, over every interleaving of their steps: a client that joins the queue
    /// while a server is given back must not be left waiting beside an idle server.
    #[test]
    fn no_wake_up_is_lost_in_any_interleaving() {
        // Client on shard 1: join, then look into shard 0. Server on shard 0: put, then look at the queues.
        for order in [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]] {
            let shards: [Shard<u32, char>; 2] = Default::default();
            let (mut client, mut server, mut met) = (0, 0, false);
            for who in order {
                match (who, if who == 0 { &mut client } else { &mut server }) {
                    (0, step @ 0) => {
                        shards[1].wait(5, 'c');
                        *step = 1;
                    }
                    (0, _) => met |= shards[0].take_idle(false).is_some(),
                    (_, step @ 0) => {
                        shards[0].put_idle(7);
                        *step = 1;
                    }
                    (_, _) => met |= whom_to_serve(&shards, 0, 9) == Some(1),
                }
            }
            assert!(met, "{order:?}");
        }
    }
}
