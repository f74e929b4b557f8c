//! What the pooler has ended, cancelled or refused: counted by reason, and told in the log with all that helps to find out
//! why.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::info;

use crate::worker::{Local, Worker};

/// How often something happened, by reason.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<BTreeMap<&'static str, u64>>);

impl Events {
    pub(crate) fn count(&self, reason: &'static str) {
        *self.counts().entry(reason).or_default() += 1;
    }

    /// Every reason so far, by name.
    pub(crate) fn totals(&self) -> Vec<(&'static str, u64)> {
        self.counts().iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that a worker writes to the log in one second; the next second begins with how many more there were.
const LINES_A_SECOND: u64 = 20;

/// So much of a statement is shown, in bytes.
pub(crate) const LONGEST_SHOWN: usize = 200;

/// Keeps an overload from filling the log.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    second: Cell<u64>,
    lines: Cell<u64>,
}

impl Throttle {
    /// Whether a line may be written now, and how many were left out before it.
    fn admits(&self, now: u64) -> Option<u64> {
        let second = now / 1_000_000;
        let before = if self.second.replace(second) == second { None } else { Some(self.lines.replace(0)) };
        self.lines.set(self.lines.get() + 1);
        let left_out = before.unwrap_or_default().saturating_sub(LINES_A_SECOND);
        (self.lines.get() <= LINES_A_SECOND).then_some(left_out)
    }
}

/// Counts and logs what was done to a client's request, or to the client. `text` is what it asked for if no server has
/// it yet.
pub(crate) fn report(worker: &Worker, local: &Local, reason: &'static str, text: Option<&[u8]>) {
    let client = &local.info;
    client.pool.events.count(reason);
    let now = worker.shared.clock.micros();
    let Some(left_out) = worker.throttle.admits(now) else { return };
    if left_out > 0 {
        info!("{left_out} more such lines were not written");
    }
    let server = local.server.borrow().clone();
    let statement = match (text, &server) {
        (Some(text), _) => sql::outline(text, LONGEST_SHOWN),
        (None, Some(server)) => sql::outline(&server.text(), LONGEST_SHOWN),
        (None, None) => String::new(),
    };
    let params = client.params();
    let application = params.application_name().unwrap_or_default();
    let on = server.as_ref().map_or("none".into(), |server| {
        format!("S-{:#x} ({}, pid {})", server.id, server.remote, server.pid)
    });
    let since = client.since.load(Relaxed);
    let time = if since == 0 { 0 } else { now.saturating_sub(since) };
    let (waited, ran) = if server.is_some() { (local.waited.get(), time) } else { (time, 0) };
    let [waited, ran] = [waited, ran].map(|micros| micros as f64 / 1000.0);
    info!(
        peer = %client.peer(),
        "{reason}: application={application} server={on} waited={waited:.3}ms ran={ran:.3}ms statement={statement}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second() {
        let throttle = Throttle::default();
        let written = |now| (0..50).filter(|_| throttle.admits(now).is_some()).count() as u64;
        assert_eq!(written(5_000_000), LINES_A_SECOND);
        assert_eq!(throttle.admits(6_000_000), Some(30));
        assert_eq!(throttle.admits(6_500_000), Some(0));
        assert_eq!(throttle.admits(7_000_000), Some(0));
    }
}
