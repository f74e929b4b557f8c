//! What logins do to those who are logged in: queries at a steady pace, while windows without logins alternate with
//! windows in which clients log in at a fixed rate. Both kinds of window meet the same noise of the machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::wire::{Client, Target};

use crate::Result;
use crate::logins::LoginLoop;
use crate::measure::percentiles;
use crate::report::{Metric, Sample};

/// Runs windows of both kinds for this time.
pub(crate) fn run(target: &Target, time: Duration) -> Result<Sample> {
    let windows = Windows::new(time);
    let logins = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let latencies = thread::scope(|scope| {
        let queries = [(); QUERIES_AT_ONCE].map(|()| scope.spawn(|| windows.query(target)));
        let guests = [(); LOGINS_AT_ONCE].map(|()| scope.spawn(|| windows.log_in(target, &logins, &failed)));
        for guest in guests {
            guest.join().map_err(|_| "a thread panicked")??;
        }
        let mut all = Vec::new();
        for thread in queries {
            all.extend(thread.join().map_err(|_| "a thread panicked")?);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(all)
    });
    let latencies = latencies.map_err(|error| error.to_string())?;
    let of =
        |wanted: bool| latencies.iter().filter(move |(busy, _)| *busy == wanted).map(|(_, ms)| *ms).collect();
    let [_, _, calm] = percentiles(of(false)).ok_or("no query without logins")?;
    let [_, _, busy] = percentiles(of(true)).ok_or("no query beside logins")?;
    let rate = logins.load(Ordering::Relaxed) as f64 / windows.busy_time().as_secs_f64();
    Ok(vec![(Metric::Moved, busy / calm), (Metric::P99Calm, calm), (Metric::P99, busy), (Metric::Rate, rate)])
}

/// Windows of [`WINDOW`], the first without logins.
struct Windows {
    start: Instant,
    count: u32,
}

impl Windows {
    fn new(time: Duration) -> Windows {
        let pairs = (time.as_secs_f64() / (2.0 * WINDOW.as_secs_f64())).ceil() as u32;
        Windows { start: Instant::now() + WARM_UP, count: 2 * pairs }
    }

    fn busy_time(&self) -> Duration {
        WINDOW * (self.count / 2)
    }

    /// The number of the window, if it has begun and there is one, and how far into it.
    fn at(&self, now: Instant) -> Option<(u32, Duration)> {
        let since = now.checked_duration_since(self.start)?;
        let number = (since.as_secs_f64() / WINDOW.as_secs_f64()) as u32;
        (number < self.count).then(|| (number, since.saturating_sub(WINDOW * number)))
    }

    fn end(&self) -> Instant {
        self.start + WINDOW * self.count
    }

    /// A client that asks at its pace: whether there were logins beside, and milliseconds.
    fn query(&self, target: &Target) -> Vec<(bool, f64)> {
        let mut client = Client::login(target);
        let mut latencies = Vec::new();
        while Instant::now() < self.end() {
            let begun = Instant::now();
            client.execute("select 1");
            // At the edges a query may belong to both.
            if let Some((number, into)) = self.at(begun)
                && into > EDGE
                && into < WINDOW - EDGE
            {
                latencies.push((number % 2 == 1, begun.elapsed().as_secs_f64() * 1e3));
            }
            thread::sleep(PAUSE);
        }
        latencies
    }

    /// Logs in at its share of the rate in every window that is for it. Who falls behind leaves logins out: the rate that
    /// was reached is told.
    fn log_in(&self, target: &Target, count: &AtomicU64, failed: &AtomicBool) -> LoginResult {
        let mut logins = LoginLoop::new(target);
        let pace = Duration::from_secs(LOGINS_AT_ONCE as u64) / LOGINS_A_SECOND;
        let mut due = self.start;
        while due < self.end() && !failed.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.at(Instant::now()).is_some_and(|(number, _)| number % 2 == 1) {
                if let Err(error) = logins.once() {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error.to_string().into());
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            due = (due + pace).max(Instant::now() - pace);
        }
        Ok(())
    }
}

type LoginResult = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

const LOGINS_A_SECOND: u32 = 500;
const LOGINS_AT_ONCE: usize = 4;
const QUERIES_AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);
const WINDOW: Duration = Duration::from_millis(500);
const EDGE: Duration = Duration::from_millis(25);
const WARM_UP: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_alternate_and_end() {
        let windows = Windows::new(Duration::from_millis(1700));
        assert_eq!(windows.count, 4);
        let at = |ms| windows.at(windows.start + Duration::from_millis(ms)).map(|(number, _)| number);
        assert_eq!([at(0), at(600), at(1999), at(2000)], [Some(0), Some(1), Some(3), None]);
        assert_eq!(windows.at(windows.start - Duration::from_millis(1)), None);
    }
}
