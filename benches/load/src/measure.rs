//! What the kernel says about a process, and statistics of samples.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

use crate::Result;

/// Processor time (user + system) of all threads of a process, also of those that have ended, in nanoseconds. The times
/// in `/proc/PID/stat` are the same sum rounded to clock ticks.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.try_into()?))?;
    Ok(clock.now()?.into())
}

/// A run of transactions, or of logins.
#[derive(Debug)]
pub(crate) struct Timed {
    /// Processor time of the pooler, microseconds each. `None`: there is no pooler.
    pub(crate) cpu: Option<f64>,
    /// How many a second.
    pub(crate) rate: f64,
    /// 50th, 95th and 99th percentile in milliseconds.
    pub(crate) latencies: [f64; 3],
    /// How many in all, warm-up included.
    pub(crate) count: f64,
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident pages.
    pub(crate) rss: f64,
    /// Resident pages, those shared with other processes by their share.
    pub(crate) pss: f64,
}

impl Memory {
    /// Reads `smaps_rollup`, which walks the page tables: exact, where `VmRSS` lags behind by some pages a thread.
    pub(crate) fn of(pid: u32) -> Result<Memory> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            kib.map(|kib| kib * 1024.0).ok_or_else(|| io::Error::other(format!("no {name} in smaps_rollup")))
        };
        Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")? })
    }
}

/// Median, smallest and largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(numbers: &[f64]) -> Option<Spread> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Spread { median: (low + high) / 2.0, min, max })
    }
}

/// The 50th, 95th and 99th percentile (nearest rank). `None` of nothing.
pub(crate) fn percentiles(mut numbers: Vec<f64>) -> Option<[f64; 3]> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    Some([0.50, 0.95, 0.99].map(|share| numbers[(share * last as f64).round() as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(&[1.0, 2.0, 4.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn percentiles_of_a_hundred() {
        let numbers = (1..=101).rev().map(f64::from).collect();
        assert_eq!(percentiles(numbers), Some([51.0, 96.0, 100.0]));
        assert_eq!(percentiles(Vec::new()), None);
    }

    #[test]
    fn knows_this_process() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() == before {}
        assert!(Memory::of(std::process::id()).unwrap().rss > 100_000.0);
    }
}
