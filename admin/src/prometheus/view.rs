//! Everything that the metrics and the dashboard show, taken at one moment.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pooler::Phase;
use pooler::config::Config;
use pooler::console::is_console;
use pooler::control::{Control, NewcomerCounts};
use pooler::snapshot::{
    Counts, DatabaseRow, EventsRow, HostRow, LatencyRow, PinTotalsRow, PoolRow, RoutedRow, SaturationRow,
    UserRow,
};

use super::process::Process;

/// The pooler at one moment, the console left out.
pub(crate) struct View {
    pub(crate) pools: Vec<PoolRow>,
    pub(crate) saturation: Vec<SaturationRow>,
    pub(crate) databases: Vec<DatabaseRow>,
    pub(crate) users: Vec<UserRow>,
    pub(crate) pins: Vec<PinTotalsRow>,
    pub(crate) events: Vec<EventsRow>,
    pub(crate) latencies: Vec<LatencyRow>,
    pub(crate) hosts: Vec<HostRow>,
    pub(crate) routed: Vec<RoutedRow>,
    pub(crate) counts: Counts,
    pub(crate) newcomers: NewcomerCounts,
    pub(crate) consoles: usize,
    pub(crate) workers: Vec<usize>,
    pub(crate) kept: usize,
    pub(crate) started: SystemTime,
    pub(crate) phase: Phase,
    pub(crate) paused: bool,
    pub(crate) suspended: bool,
    pub(crate) config: Arc<Config>,
    pub(crate) process: Process,
}

impl View {
    pub(crate) fn of(control: &Control) -> View {
        let (consoles, pools) =
            control.pools().into_iter().partition::<Vec<_>, _>(|row| is_console(&row.database));
        let mut databases = control.databases();
        databases.retain(|row| !is_console(&row.name));
        View {
            pools,
            saturation: control.saturation(),
            databases,
            users: control.users(),
            pins: control.pin_totals(),
            events: control.events(),
            latencies: control.latencies(),
            hosts: control.hosts(),
            routed: control.routed(),
            counts: control.counts(),
            newcomers: control.newcomers(),
            consoles: consoles.iter().map(|row| row.cl_active).sum(),
            workers: control.worker_loads(),
            kept: control.kept_bytes(),
            started: control.started(),
            phase: control.phase(),
            paused: control.is_paused(),
            suspended: control.is_suspended(),
            config: control.config(),
            process: Process::now(),
        }
    }
}

/// Microseconds in Prometheus's unit.
pub(crate) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// The name of all that have no series of their own.
pub(crate) const OTHER: &str = "other";

/// So many pools, databases and users have series of their own.
const MOST: usize = 200;

/// Names that have series of their own. Who came first keeps them, for as long as it exists: series that came and went
/// with the order of the alphabet would be worth nothing.
#[derive(Default)]
pub(crate) struct Admitted(Mutex<HashSet<(String, String)>>);

impl Admitted {
    /// Takes in what is new, as far as there is room.
    pub(crate) fn update(&self, present: Vec<(String, String)>) -> HashSet<(String, String)> {
        let mut admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = present.iter().filter(|name| !admitted.contains(name)).count();
        if admitted.len() + new > MOST {
            let present: HashSet<_> = present.iter().collect();
            admitted.retain(|name| present.contains(name));
        }
        for name in present {
            if admitted.len() < MOST || admitted.contains(&name) {
                admitted.insert(name);
            }
        }
        admitted.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<(String, String)> {
        range.map(|number| (format!("{number:04}"), String::new())).collect()
    }

    #[test]
    fn who_came_first_keeps_its_series() {
        let admitted = Admitted::default();
        assert_eq!(admitted.update(names(100..150)).len(), 50);
        let full = admitted.update(names(0..150 + MOST));
        assert_eq!(full.len(), MOST);
        assert!(names(100..150).iter().all(|name| full.contains(name)));
        assert_eq!(admitted.update(names(0..150 + MOST)), full);
    }

    #[test]
    fn what_is_gone_makes_room() {
        let admitted = Admitted::default();
        admitted.update(names(0..MOST));
        let new = names(MOST..MOST + 10);
        let all = admitted.update([names(5..MOST), new.clone()].concat());
        assert_eq!(new.iter().filter(|name| all.contains(name)).count(), 5);
        assert_eq!(all.len(), MOST);
    }
}
