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
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
#[cfg(not(test))]
use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize},
};
use std::sync::{MutexGuard, PoisonError};

#[cfg(test)]
use super::interleave::{AtomicU64, AtomicUsize, Mutex};

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

    /// How many servers are idle, as of just now.
    pub(crate) fn idle_count(&self) -> usize {
        self.idle.load(Relaxed)
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

/// An idle server, of the worker `home` if it has one.
pub(crate) fn any_idle<S, W>(shards: &[Shard<S, W>], home: usize) -> Option<S> {
    let others = (0..shards.len()).filter(|i| *i != home);
    std::iter::once(home).chain(others).find_map(|i| shards[i].take_idle(false))
}

/// Gives a server to the client that waits longest, else lays it among the idle ones. `give` fails, with the server, if the
/// client has just left.
pub(crate) fn hand_over<S, W>(
    shards: &[Shard<S, W>],
    home: usize,
    mut server: S,
    now: u64,
    give: impl Fn(W, S) -> Result<(), S>,
) {
    loop {
        let Some(index) = whom_to_serve(shards, home, now) else {
            shards[home].put_idle(server);
            // A client may have joined a queue in between; see the top of this file.
            if whom_to_serve(shards, home, now).is_none() {
                return;
            }
            match shards[home].take_idle(false) {
                Some(again) => server = again,
                None => return,
            }
            continue;
        };
        let Some(waiter) = shards[index].first_waiting() else { continue };
        match give(waiter, server) {
            Ok(()) => return,
            Err(back) => server = back,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::oneshot;

    use super::super::interleave::{every_order, step};
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

    /// Two workers' shards of a pool whose servers are numbers. As in the pool, a client that leaves may get one at that
    /// moment.
    type Shards = [Shard<u32, oneshot::Sender<u32>>; 2];

    #[derive(Default)]
    struct World {
        shards: Shards,
        waiting: std::sync::Mutex<Vec<oneshot::Receiver<u32>>>,
    }

    impl World {
        fn with_idle(servers: &[(usize, u32)]) -> World {
            let world = World::default();
            servers.iter().for_each(|(home, server)| world.shards[*home].put_idle(*server));
            world
        }

        fn give_back(&self, home: usize, server: u32) {
            hand_over(&self.shards, home, server, 9, |answer, server| {
                step();
                answer.send(server)
            });
        }

        /// A client that joins the queue and pumps.
        fn wait(&self, home: usize) -> (u64, oneshot::Receiver<u32>) {
            let (answer, granted) = oneshot::channel();
            let ticket = self.shards[home].wait(5, answer);
            while self.shards[home].oldest_wait().is_some() {
                let Some(server) = any_idle(&self.shards, home) else { break };
                self.give_back(home, server);
            }
            (ticket, granted)
        }

        fn wait_on(&self, home: usize) {
            let granted = self.wait(home).1;
            self.waiting.lock().unwrap().push(granted);
        }

        fn wait_and_leave(&self, home: usize) {
            let (ticket, mut granted) = self.wait(home);
            if self.shards[home].leave(ticket).is_some() {
                return;
            }
            step();
            granted.close();
            if let Ok(server) = granted.try_recv() {
                self.give_back(home, server);
            }
        }

        /// A client that finds an idle server, uses it and gives it back.
        fn borrow(&self, home: usize) {
            if let Some(server) = self.shards[home].take_idle(false) {
                self.give_back(home, server);
            }
        }

        /// Each of so many servers is somewhere once, and nobody waits beside one that is idle.
        fn check(mut self, servers: u32) {
            let (mut all, mut unserved) = (Vec::new(), 0);
            for mut client in self.waiting.into_inner().unwrap() {
                match client.try_recv() {
                    Ok(server) => all.push(server),
                    Err(_) => unserved += 1,
                }
            }
            let idle: Vec<u32> =
                self.shards.iter_mut().flat_map(|shard| shard.drain_idle(|_| true)).collect();
            assert!(idle.is_empty() || unserved == 0, "{unserved} wait beside {idle:?}");
            all.extend(&idle);
            assert_eq!(all.len(), servers as usize, "{all:?}");
            assert_eq!(all.into_iter().collect::<BTreeSet<u32>>(), (0..servers).collect());
        }
    }

    /// The promise at the top, and that no server is lost or doubled (pg_doorman 3.5.2), in every order of the steps in
    /// which workers can hand over.
    #[test]
    fn no_server_and_no_wake_up_is_lost_in_any_order() {
        type Actor<'a> = &'a (dyn Fn(&World) + Sync);
        /// Idle servers, who acts, and how many servers there are.
        type Case<'a> = (&'a [(usize, u32)], &'a [Actor<'a>], u32);
        let returns: [Actor<'_>; 2] = [&|w| w.give_back(0, 0), &|w| w.give_back(1, 1)];
        let waits: [Actor<'_>; 2] = [&|w| w.wait_on(0), &|w| w.wait_on(1)];
        let leaves: [Actor<'_>; 2] = [&|w| w.wait_and_leave(0), &|w| w.wait_and_leave(1)];
        let borrows: Actor<'_> = &|w| w.borrow(0);
        let worlds: [Case<'_>; 7] = [
            (&[], &[returns[0], waits[0]], 1),
            (&[], &[returns[0], waits[1]], 1),
            (&[], &[returns[0], leaves[0], waits[1]], 1),
            (&[], &[returns[0], waits[0], leaves[1]], 1),
            (&[], &[returns[0], returns[1], waits[1]], 2),
            (&[], &[returns[0], waits[0], waits[1]], 1),
            (&[(0, 0)], &[borrows, waits[1]], 1),
        ];
        let mut orders = 0;
        for (idle, actors, servers) in worlds {
            let preemptions = if actors.len() == 2 { 4 } else { 2 };
            orders +=
                every_order(preemptions, || World::with_idle(idle), actors, |world| world.check(servers));
        }
        println!("{orders} orders");
    }
}
