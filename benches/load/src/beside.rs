//! What logins do to those who are logged in: queries at a steady pace, in windows by turns: without logins, with clients that
//! log in here at a fixed rate, and with the same clients logging in at another process, which the machine feels and this
//! one does not. All kinds of window meet the same noise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::wire::{Client, Target};

use crate::Result;
use crate::logins::LoginLoop;
use crate::measure::percentiles;
use crate::report::{Metric, Sample};

/// Runs windows of all kinds for this time.
pub(crate) fn run(target: &Target, elsewhere: &Target, time: Duration) -> Result<Sample> {
    let windows = Windows::new(time);
    let logins = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let latencies = thread::scope(|scope| {
        let queries = [(); QUERIES_AT_ONCE].map(|()| scope.spawn(|| windows.query(target)));
        let guests = [(); LOGINS_AT_ONCE]
            .map(|()| scope.spawn(|| windows.log_in([target, elsewhere], &logins, &failed)));
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
        |wanted: Kind| latencies.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, ms)| *ms).collect();
    let [_, _, calm] = percentiles(of(Kind::Calm)).ok_or("no query without logins")?;
    let [_, _, elsewhere] = percentiles(of(Kind::Elsewhere)).ok_or("no query beside logins elsewhere")?;
    let [_, _, busy] = percentiles(of(Kind::Here)).ok_or("no query beside logins")?;
    let rate = logins.load(Ordering::Relaxed) as f64 / windows.busy_time().as_secs_f64();
    Ok(vec![
        (Metric::Moved, busy / elsewhere),
        (Metric::P99Calm, calm),
        (Metric::P99Elsewhere, elsewhere),
        (Metric::P99, busy),
        (Metric::Rate, rate),
    ])
}

/// What happens in a window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Calm,
    Here,
    Elsewhere,
}

impl Kind {
    fn of(window: u32) -> Kind {
        match window % KINDS {
            0 => Kind::Calm,
            1 => Kind::Here,
            _ => Kind::Elsewhere,
        }
    }
}

/// Windows of [`WINDOW`], the first without logins.
struct Windows {
    start: Instant,
    count: u32,
}

impl Windows {
    fn new(time: Duration) -> Windows {
        let turns = (time.as_secs_f64() / (f64::from(KINDS) * WINDOW.as_secs_f64())).ceil() as u32;
        Windows { start: Instant::now() + WARM_UP, count: KINDS * turns }
    }

    fn busy_time(&self) -> Duration {
        WINDOW * (self.count / KINDS)
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

    /// A client that asks at its pace: in what kind of window, and milliseconds.
    fn query(&self, target: &Target) -> Vec<(Kind, f64)> {
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
                latencies.push((Kind::of(number), begun.elapsed().as_secs_f64() * 1e3));
            }
            thread::sleep(PAUSE);
        }
        latencies
    }

    /// Logs in at its share of the rate in every window that is for it. Who falls behind leaves logins out: the rate that
    /// was reached is told.
    fn log_in(&self, targets: [&Target; 2], count: &AtomicU64, failed: &AtomicBool) -> LoginResult {
        let [mut here, mut elsewhere] = targets.map(LoginLoop::new);
        let pace = Duration::from_secs(LOGINS_AT_ONCE as u64) / LOGINS_A_SECOND;
        let mut due = self.start;
        while due < self.end() && !failed.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let kind = self.at(Instant::now()).map(|(number, _)| Kind::of(number));
            let logged_in = match kind {
                Some(Kind::Here) => here.once(),
                Some(Kind::Elsewhere) => elsewhere.once(),
                Some(Kind::Calm) | None => Ok(()),
            };
            if let Err(error) = logged_in {
                failed.store(true, Ordering::Relaxed);
                return Err(error.to_string().into());
            }
            count.fetch_add(u64::from(kind == Some(Kind::Here)), Ordering::Relaxed);
            due = (due + pace).max(Instant::now() - pace);
        }
        Ok(())
    }
}

type LoginResult = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

const KINDS: u32 = 3;
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
        assert_eq!(windows.count, 6);
        let at = |ms| windows.at(windows.start + Duration::from_millis(ms)).map(|(number, _)| number);
        assert_eq!([at(0), at(600), at(2999), at(3000)], [Some(0), Some(1), Some(5), None]);
        assert_eq!(windows.at(windows.start - Duration::from_millis(1)), None);
    }
}
