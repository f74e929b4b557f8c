//! Waking sessions in time: one timer a worker, however many sessions have something that may take too long.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::worker::Local;

/// When a session is to be woken. Setting it later, which every request does, costs a store: the queue is put right when
/// the old moment comes.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// In microseconds of the process's clock; 0: never.
    due: Cell<u64>,
    /// The moment under which it stands in the queue, not after `due`; 0: it does not.
    queued: Cell<u64>,
    /// The moment has come, and the session has not seen to it yet.
    rung: Cell<bool>,
}

impl Alarm {
    /// Whether the session is to see what is over, which it does then.
    pub(crate) fn has_rung(&self) -> bool {
        self.rung.get() && self.rung.replace(false)
    }

    /// Has the session look, whatever the time.
    pub(crate) fn ring(&self) {
        self.rung.set(true);
    }
}

/// The sessions of one worker that have an alarm, the first in front.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// Moments, and ids of clients, which may have gone.
    queue: RefCell<BinaryHeap<Reverse<(u64, u64)>>>,
    /// There is an earlier one than the timer is set to.
    pub(crate) earlier: Notify,
}

impl Alarms {
    /// Has a session woken at `at` (microseconds) and not before; 0: not at all. It is for the session to see whether
    /// anything is over then.
    pub(crate) fn set(&self, local: &Local, at: u64) {
        let alarm = &local.alarm;
        alarm.due.set(at);
        let queued = alarm.queued.get();
        if at == 0 || queued != 0 && queued <= at {
            return;
        }
        alarm.queued.set(at);
        let mut queue = self.queue.borrow_mut();
        if queue.peek().is_none_or(|Reverse((first, _))| at < *first) {
            self.earlier.notify_one();
        }
        queue.push(Reverse((at, local.info.id)));
    }

    /// Forgets the moments of sessions that have gone, or have an earlier one, before they come: a limit may be of hours, and
    /// a session of milliseconds.
    pub(crate) fn sweep(&self, sessions: &HashMap<u64, Rc<Local>>) {
        let queued = |id| sessions.get(&id).map(|local| local.alarm.queued.get());
        self.keep(sessions.len(), |at, id| queued(id) == Some(at));
    }

    /// Once there are clearly more moments than sessions.
    fn keep(&self, sessions: usize, counts: impl Fn(u64, u64) -> bool) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() > sessions * 2 + FEW {
            queue.retain(|Reverse((at, id))| counts(*at, *id));
            queue.shrink_to(sessions + FEW);
        }
    }

    /// Wakes those whose time has come. Returns when the next one may be due.
    pub(crate) fn ring(&self, now: u64, sessions: &HashMap<u64, Rc<Local>>) -> Option<u64> {
        let mut queue = self.queue.borrow_mut();
        while let Some(&Reverse((at, id))) = queue.peek() {
            if at > now {
                return Some(at);
            }
            queue.pop();
            // One that was set to an earlier moment since stands there, too.
            let Some(local) = sessions.get(&id).filter(|local| local.alarm.queued.get() == at) else {
                continue;
            };
            let due = local.alarm.due.get();
            if due > now {
                local.alarm.queued.set(due);
                queue.push(Reverse((due, id)));
                continue;
            }
            local.alarm.queued.set(0);
            if due > 0 {
                local.alarm.ring();
                local.wake();
            }
        }
        None
    }
}

/// So many moments need not be looked through.
const FEW: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_leaves_no_moments_behind() {
        let alarms = Alarms::default();
        let in_an_hour = |id| Reverse((3_600_000_000 + id, id));
        for id in 0..100_000 {
            alarms.queue.borrow_mut().push(in_an_hour(id));
            alarms.keep(10, |_, other| other + 10 > id);
            assert!(alarms.queue.borrow().len() <= 20 + FEW);
        }
        assert!(
            (99_990..100_000).all(|id| alarms.queue.borrow().iter().any(|entry| *entry == in_an_hour(id)))
        );
        assert!(alarms.queue.borrow().capacity() < 10 * FEW);
    }
}
