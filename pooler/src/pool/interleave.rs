//! For tests: threads that take turns, in every order.
//!
//! Locks and atomics of this module stop before each access until the thread's turn comes. [`every_order`] runs some
//! threads again and again, each time in another order of these steps, until all orders with at most so many
//! changes of a thread that could have gone on have been seen; faults that need more than a few are all but unknown. Memory is that of
//! one processor: it suits code whose accesses are sequentially consistent or under a lock.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, LockResult, MutexGuard, TryLockError};

/// A point where more than one thread could go on: those that could, and which of them does this time.
#[derive(Debug)]
struct Choice {
    threads: Vec<usize>,
    taken: usize,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    ended: Vec<bool>,
    /// Those that found a lock taken; they try again when another thread has gone on.
    blocked: Vec<bool>,
    preemptions: usize,
    most_preemptions: usize,
    choices: Vec<Choice>,
    depth: usize,
}

impl State {
    /// Decides who goes on where `me` stands. `can`: it could be `me`.
    fn next(&mut self, me: usize, can: bool) {
        if can || self.ended.get(me) != Some(&false) {
            self.blocked.fill(false);
        } else {
            self.blocked[me] = true;
        }
        let ready = |thread: &usize| !self.ended[*thread] && !self.blocked[*thread];
        let others = (0..self.ended.len()).filter(|thread| *thread != me).filter(ready);
        let threads: Vec<usize> = match can {
            true if self.preemptions == self.most_preemptions => vec![me],
            true => std::iter::once(me).chain(others).collect(),
            false => others.collect(),
        };
        if threads.is_empty() {
            assert!(!can && self.ended.iter().all(|ended| *ended), "a deadlock");
            return;
        }
        if self.depth == self.choices.len() {
            self.choices.push(Choice { threads, taken: 0 });
        }
        let choice = &self.choices[self.depth];
        self.running = choice.threads[choice.taken];
        self.depth += 1;
        self.preemptions += usize::from(can && self.running != me);
    }

    /// Prepares the next order. False: there is none.
    fn backtrack(&mut self) -> bool {
        while self.choices.last().is_some_and(|choice| choice.taken + 1 == choice.threads.len()) {
            self.choices.pop();
        }
        self.choices.last_mut().map(|choice| choice.taken += 1).is_some()
    }
}

#[derive(Debug, Default)]
struct Turns {
    state: std::sync::Mutex<State>,
    changed: Condvar,
}

impl Turns {
    fn step(&self, me: usize, can: bool) {
        let mut state = self.state.lock().unwrap();
        state.next(me, can);
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.running != me && !state.ended[me]).unwrap());
    }
}

thread_local! {
    static ME: RefCell<Option<(Arc<Turns>, usize)>> = const { RefCell::new(None) };
}

/// Before whatever other threads may see. Threads that [`every_order`] has not started go on at once.
pub(super) fn step() {
    wait_for_turn(true);
}

fn wait_for_turn(can: bool) {
    let me = ME.with_borrow(Clone::clone);
    me.inspect(|(turns, me)| turns.step(*me, can));
}

/// Runs the threads in every order on what `make` makes, and `check` behind each. Returns the number of orders.
pub(super) fn every_order<T: Send + Sync>(
    preemptions: usize,
    make: impl Fn() -> T,
    threads: &[&(dyn Fn(&T) + Sync)],
    check: impl Fn(T),
) -> usize {
    let turns = Arc::new(Turns::default());
    turns.state.lock().unwrap().most_preemptions = preemptions;
    let mut orders = 0;
    loop {
        {
            let mut state = turns.state.lock().unwrap();
            (state.depth, state.preemptions) = (0, 0);
            (state.ended, state.blocked) = (vec![false; threads.len()], vec![false; threads.len()]);
            state.next(usize::MAX, false);
        }
        let world = make();
        std::thread::scope(|scope| {
            for (me, thread) in threads.iter().enumerate() {
                let (turns, world) = (turns.clone(), &world);
                scope.spawn(move || {
                    ME.set(Some((turns.clone(), me)));
                    drop(turns.changed.wait_while(turns.state.lock().unwrap(), |s| s.running != me).unwrap());
                    let outcome = catch_unwind(AssertUnwindSafe(|| thread(world)));
                    turns.state.lock().unwrap().ended[me] = true;
                    turns.step(me, false);
                    outcome.unwrap_or_else(|panic| resume_unwind(panic));
                });
            }
        });
        check(world);
        orders += 1;
        if !turns.state.lock().unwrap().backtrack() {
            return orders;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        step();
        loop {
            match self.0.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
                Err(TryLockError::WouldBlock) if ME.with_borrow(Option::is_none) => return self.0.lock(),
                Err(TryLockError::WouldBlock) => wait_for_turn(false),
            }
        }
    }
}

macro_rules! atomic {
    ($name:ident, $number:ty) => {
        #[derive(Debug, Default)]
        pub(super) struct $name(std::sync::atomic::$name);

        #[allow(dead_code, reason = "not all are used of each")]
        impl $name {
            pub(super) const fn new(value: $number) -> $name {
                $name(std::sync::atomic::$name::new(value))
            }

            pub(super) fn load(&self, ordering: Ordering) -> $number {
                step();
                self.0.load(ordering)
            }

            pub(super) fn store(&self, value: $number, ordering: Ordering) {
                step();
                self.0.store(value, ordering);
            }

            pub(super) fn fetch_add(&self, value: $number, ordering: Ordering) -> $number {
                step();
                self.0.fetch_add(value, ordering)
            }

            pub(super) fn fetch_sub(&self, value: $number, ordering: Ordering) -> $number {
                step();
                self.0.fetch_sub(value, ordering)
            }
        }
    };
}

atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

#[test]
fn all_orders_are_seen() {
    // Two threads of two steps each that could go on: 6 orders of the steps.
    let walk = |seen: &std::sync::Mutex<String>, name: char| {
        for _ in 0..2 {
            step();
            seen.lock().unwrap().push(name);
        }
    };
    let all = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let seen = |seen: std::sync::Mutex<String>| {
        all.lock().unwrap().insert(seen.into_inner().unwrap());
    };
    every_order(3, std::sync::Mutex::default, &[&|s| walk(s, 'a'), &|s| walk(s, 'b')], seen);
    let all: Vec<String> = all.into_inner().unwrap().into_iter().collect();
    assert_eq!(all, ["aabb", "abab", "abba", "baab", "baba", "bbaa"]);
}
