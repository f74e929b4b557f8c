//! The numbers, once a second: redrawn in place on a terminal, a line each elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use pooler::control::Control;
use pooler::stats::Totals;

use super::experience::Experience;
use super::hosts::{self, Host};
use super::stage::News;
use super::{NAME, POOL_SIZE};
use tokio::sync::mpsc;

/// Width of the bar, in characters.
const BAR: usize = 30;

/// Writes at once.
///
/// # Errors
/// Nobody reads any more.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What is shown beside the pool's numbers where there are replicas.
pub(super) struct Scene {
    pub(super) experience: Experience,
    /// What was done to servers.
    pub(super) news: mpsc::UnboundedReceiver<News>,
    /// Keys are obeyed.
    pub(super) keys: bool,
}

/// Shows what the pooler does until nobody reads any more.
pub(super) async fn show_numbers(control: &Control, mut scene: Option<Scene>) -> io::Result<()> {
    let terminal = io::stdout().is_terminal();
    let start = Instant::now();
    let mut last = Sample::take(control);
    let mut drawn = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await; // the first is at once
    loop {
        tick.tick().await;
        let now = Sample::take(control);
        let figures = Figures::between(&last, &now);
        let news = scene.as_mut().map(|scene| scene.news(start)).unwrap_or_default();
        let text = if terminal {
            let lines =
                figures.as_block() + &scene.as_ref().map_or(String::new(), |s| s.as_block(&last, &now));
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            drawn = lines.lines().count();
            up + &news + &lines
        } else {
            let line = figures.as_line(start.elapsed());
            news + &line + &scene.as_ref().map_or(String::new(), |s| s.as_line(&last, &now))
        };
        match say(&text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            said => said?,
        }
        last = now;
    }
}

impl Scene {
    /// A line for each thing that was done.
    fn news(&mut self, start: Instant) -> String {
        let news = std::iter::from_fn(|| self.news.try_recv().ok());
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        news.map(|news| format!("{:>6.1} s  {}\n", since(news.at), news.done)).collect()
    }

    fn as_block(&self, before: &Sample, now: &Sample) -> String {
        let clients = self.experience.summary(now.at);
        let keys = if self.keys {
            "\n  s: stop the primary   p: promote a replica   r: rejoin   Ctrl-C: end\n"
        } else {
            ""
        };
        format!("\n{}\n  clients: {clients}\n{keys}", hosts::as_block(&before.hosts, &now.hosts))
    }

    fn as_line(&self, before: &Sample, now: &Sample) -> String {
        let clients = self.experience.summary(now.at);
        format!("{}       clients: {clients}\n", hosts::as_line(&before.hosts, &now.hosts))
    }
}

/// The pooler at one moment.
struct Sample {
    at: Instant,
    clients: usize,
    waiting: usize,
    active: usize,
    open: usize,
    totals: Totals,
    /// Where there are replicas.
    hosts: Vec<Host>,
}

/// Most servers that the pool may have.
fn capacity(hosts: usize) -> usize {
    POOL_SIZE as usize * hosts.max(1)
}

impl Sample {
    fn take(control: &Control) -> Sample {
        let pool = control.pools().into_iter().find(|pool| pool.database == NAME);
        let stats = control.stats().into_iter().find(|row| row.database == NAME);
        let mut sample = Sample {
            at: Instant::now(),
            clients: 0,
            waiting: 0,
            active: 0,
            open: 0,
            totals: stats.map(|row| row.total).unwrap_or_default(),
            hosts: hosts::look(control),
        };
        if let Some(pool) = pool {
            sample.clients = pool.cl_active + pool.cl_waiting;
            sample.waiting = pool.cl_waiting;
            sample.active = pool.sv_active;
            sample.open =
                pool.sv_active + pool.sv_idle + pool.sv_used + pool.sv_tested + pool.sv_being_canceled;
        }
        sample
    }
}

/// What is shown.
#[derive(Debug, PartialEq)]
struct Figures {
    clients: usize,
    waiting: usize,
    open: usize,
    active: usize,
    /// Most servers that there may be.
    capacity: usize,
    /// Share of the pool's capacity that was lent out, 0 to 1.
    busy: f64,
    transactions: f64,
    queries: f64,
    /// Means, in milliseconds.
    query: f64,
    wait: f64,
}

impl Figures {
    fn between(before: &Sample, now: &Sample) -> Figures {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let new = now.totals.since(&before.totals);
        let mean =
            |micros: u64, count: u64| if count == 0 { 0.0 } else { micros as f64 / count as f64 / 1e3 };
        let capacity = capacity(now.hosts.len());
        Figures {
            capacity,
            clients: now.clients,
            waiting: now.waiting,
            open: now.open,
            active: now.active,
            busy: (new.xact_time as f64 / 1e6 / seconds / capacity as f64).min(1.0),
            transactions: new.xacts as f64 / seconds,
            queries: new.queries as f64 / seconds,
            query: mean(new.query_time, new.queries),
            wait: mean(new.wait_time, new.assignments),
        }
    }

    fn as_line(&self, since: Duration) -> String {
        format!(
            "{:>4} s  clients {}, waiting {}  servers {} of {}, active {}  pool {:.0} %  \
             {:.0} transactions/s  {:.0} queries/s  query {:.2} ms  wait {:.2} ms\n",
            since.as_secs(),
            self.clients,
            self.waiting,
            self.open,
            self.capacity,
            self.active,
            self.busy * 100.0,
            self.transactions,
            self.queries,
            self.query,
            self.wait,
        )
    }

    fn as_block(&self) -> String {
        let filled = (self.busy * BAR as f64).round() as usize;
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<14}{value}"); // a String takes everything
        };
        line("clients", format!("{}, of which {} wait for a server", self.clients, self.waiting));
        let idle = self.open.saturating_sub(self.active);
        line("servers", format!("{} of {}: {} active, {idle} idle", self.open, self.capacity, self.active));
        line("pool in use", format!("[{bar}] {:.0} %", self.busy * 100.0));
        line("per second", format!("{:.0} transactions, {:.0} queries", self.transactions, self.queries));
        line("mean time", format!("{:.2} ms a query, {:.2} ms waiting for a server", self.query, self.wait));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, totals: Totals) -> Sample {
        Sample { at, clients: 20, waiting: 1, active: 3, open: 5, totals, hosts: Vec::new() }
    }

    #[test]
    fn figures_are_rates_and_means_of_the_time_between() {
        let start = Instant::now();
        let before = Totals { xacts: 10, queries: 40, assignments: 10, ..Totals::default() };
        let after = Totals {
            xacts: 110,
            queries: 440,
            query_time: 800_000,
            xact_time: 4_000_000,
            wait_time: 50_000,
            assignments: 110,
            ..Totals::default()
        };
        let figures =
            Figures::between(&sample(start, before), &sample(start + Duration::from_secs(2), after));
        assert_eq!(figures.transactions, 50.0);
        assert_eq!(figures.queries, 200.0);
        assert_eq!((figures.query, figures.wait), (2.0, 0.5));
        assert_eq!(figures.busy, 4.0 / 2.0 / f64::from(POOL_SIZE));
        assert!(
            figures.as_block().contains("[############..................] 40 %"),
            "{}",
            figures.as_block()
        );
        assert_eq!(figures.as_block().lines().count(), 5);
        let line = figures.as_line(Duration::from_secs(7));
        assert!(
            line.starts_with("   7 s  clients 20, waiting 1  servers 5 of 5, active 3  pool 40 %"),
            "{line}"
        );
    }

    #[test]
    fn nothing_done_is_no_division_by_zero() {
        let start = Instant::now();
        let figures = Figures::between(&sample(start, Totals::default()), &sample(start, Totals::default()));
        assert_eq!((figures.query, figures.wait, figures.busy), (0.0, 0.0, 0.0));
    }
}
