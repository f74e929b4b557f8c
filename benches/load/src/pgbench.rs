//! One run of pgbench: transactions and processor time over a window that has neither the logins nor the farewells.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use support::peer::Address;
use support::tools;
use support::wire::Target;

use crate::Result;
use crate::measure::{Timed, cpu_time, percentiles};
use crate::work::Protocol;

/// How pgbench is to run.
pub(crate) struct Job<'a> {
    pub(crate) target: &'a Target,
    /// The pooler, whose processor time is measured.
    pub(crate) pid: Option<u32>,
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    pub(crate) time: Duration,
    /// For the script and the log of transactions.
    pub(crate) dir: PathBuf,
}

impl Job<'_> {
    /// Runs pgbench with a second of warm-up in front.
    pub(crate) fn run(&self) -> Result<Timed> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join("select.sql"), SCRIPT)?;
        let mut pgbench = Running(self.command()?.spawn()?);
        let lines = lines_of(pgbench.0.stderr.take().ok_or("pgbench has no standard error")?);
        let (marks, complaints) = self.watch(&lines)?;
        let mut summary = String::new();
        pgbench.0.stdout.take().ok_or("pgbench has no standard output")?.read_to_string(&mut summary)?;
        if !pgbench.0.wait()?.success() {
            return Err(first_error(&complaints).into());
        }
        let log = Log::take(&self.dir)?;
        let window = Window::new(&marks).ok_or("pgbench reported no progress")?;
        Ok(Timed {
            cpu: window.cpu_per_transaction(),
            rate: window.rate(),
            latencies: percentiles(log.between(window.first.stamp, window.last.stamp))
                .ok_or("an empty log")?,
            count: processed(&summary).ok_or("pgbench does not say how many transactions it ran")?,
        })
    }

    fn command(&self) -> Result<Command> {
        let Address::Tcp(address) = &self.target.address else { return Err("only TCP is measured".into()) };
        let mut command = Command::new(tools::program("pgbench"));
        command.env_clear().current_dir(&self.dir);
        command.args(["-n", "-f", "select.sql", "-l", "-P", "1", "--progress-timestamp"]);
        // Enough of the log for percentiles; all of it would cost pgbench time that the others need.
        command.arg(format!("--sampling-rate={}", if self.clients == 1 { 1.0 } else { 0.1 }));
        command.arg(format!("--protocol={}", self.protocol));
        command.arg(format!("--client={}", self.clients)).arg(format!("--jobs={}", self.clients.min(2)));
        command.arg(format!("--time={}", (self.time + WARM_UP).as_secs()));
        command.arg(format!("--host={}", address.ip())).arg(format!("--port={}", address.port()));
        command.arg(format!("--username={}", self.target.user)).arg(&self.target.database);
        command.env("PGSSLMODE", if self.target.tls.is_some() { "require" } else { "disable" });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Reads processor time whenever pgbench reports progress, until it ends; also gives what else it says.
    fn watch(&self, lines: &Receiver<String>) -> Result<(Vec<Mark>, Vec<String>)> {
        let end = Instant::now() + WARM_UP + self.time + GRACE;
        let (mut marks, mut complaints) = (Vec::new(), Vec::new());
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match progress(&line) {
                    Some((stamp, rate)) => {
                        let cpu = self.pid.map(cpu_time).transpose()?;
                        marks.push(Mark { stamp, rate, cpu, read: Instant::now() });
                    }
                    None if complaints.len() < 100 => complaints.push(line),
                    None => {}
                },
                Err(RecvTimeoutError::Disconnected) => return Ok((marks, complaints)),
                Err(RecvTimeoutError::Timeout) => return Err("pgbench hangs; stopped".into()),
            }
        }
    }
}

/// pgbench, which ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A progress report.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// By pgbench's clock, seconds since 1970.
    stamp: f64,
    /// Transactions a second since the report before.
    rate: f64,
    cpu: Option<Duration>,
    /// When `cpu` was read.
    read: Instant,
}

/// From the first report, when every client is logged in and warm, to the last, when none has gone yet.
struct Window {
    first: Mark,
    last: Mark,
    transactions: f64,
}

impl Window {
    fn new(marks: &[Mark]) -> Option<Window> {
        let (first, last) = (*marks.first()?, *marks.last()?);
        let transactions = marks.windows(2).map(|pair| pair[1].rate * (pair[1].stamp - pair[0].stamp)).sum();
        (last.stamp > first.stamp && transactions > 0.0).then_some(Window { first, last, transactions })
    }

    fn rate(&self) -> f64 {
        self.transactions / (self.last.stamp - self.first.stamp)
    }

    /// Both as rates, each by its own clock: that this process gets a report some milliseconds late does no harm.
    fn cpu_per_transaction(&self) -> Option<f64> {
        let used = self.last.cpu?.saturating_sub(self.first.cpu?).as_secs_f64();
        let time = self.last.read.duration_since(self.first.read).as_secs_f64();
        Some(used / time / self.rate() * 1e6)
    }
}

/// The log of transactions, sampled.
struct Log(String);

impl Log {
    /// Reads what pgbench left, one file a thread, and removes it.
    fn take(dir: &Path) -> Result<Log> {
        let mut text = String::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgbench_log.")) {
                text.push_str(&fs::read_to_string(&path)?);
                fs::remove_file(&path)?;
            }
        }
        Ok(Log(text))
    }

    /// Milliseconds of the transactions that ended in this time.
    fn between(&self, from: f64, to: f64) -> Vec<f64> {
        let entry = |line: &str| {
            // client, number, microseconds, script, end (seconds, microseconds)
            let fields: Vec<f64> = line.split(' ').map_while(|field| field.parse().ok()).collect();
            let end = fields.get(4)? + fields.get(5)? / 1e6;
            (from..=to).contains(&end).then(|| fields[2] / 1e3)
        };
        self.0.lines().filter_map(entry).collect()
    }
}

/// The lines of a pipe as they come.
fn lines_of(pipe: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(|line| line.ok()).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// Time and rate of `progress: 1700000000.123 s, 23456.7 tps, ...`.
fn progress(line: &str) -> Option<(f64, f64)> {
    let (stamp, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
    let (rate, _) = rest.split_once(" tps")?;
    Some((stamp.parse().ok()?, rate.parse().ok()?))
}

/// From pgbench's summary. `number of transactions actually processed: 1234`, with `/5678` behind it at times.
fn processed(summary: &str) -> Option<f64> {
    let line = summary.lines().find_map(|line| line.split_once("transactions actually processed: "))?;
    line.1.split('/').next()?.trim().parse().ok()
}

fn first_error(complaints: &[String]) -> String {
    let error = complaints.iter().find(|line| line.contains("error") || line.contains("ERROR"));
    error.or(complaints.last()).map_or("pgbench fails and does not say why".into(), String::clone)
}

const SCRIPT: &str = "\\set aid random(1, 100000)\nSELECT :aid;\n";
/// pgbench's first report comes after a second.
const WARM_UP: Duration = Duration::from_secs(1);
/// What logins and farewells may take.
const GRACE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_progress() {
        let line = "progress: 1795253716.254 s, 35123.9 tps, lat 0.568 ms stddev 0.135, 0 failed";
        assert_eq!(progress(line), Some((1795253716.254, 35123.9)));
        assert_eq!(progress("pgbench: error: client 3 aborted"), None);
    }

    #[test]
    fn reads_the_number_of_transactions() {
        assert_eq!(processed("duration: 2 s\nnumber of transactions actually processed: 70\n"), Some(70.0));
        assert_eq!(processed("number of transactions actually processed: 70/100\n"), Some(70.0));
        assert_eq!(processed("nothing"), None);
    }

    #[test]
    fn takes_latencies_of_the_window() {
        let log = Log("0 1 250 0 99 999999\n0 2 500 0 100 500000\n1 3 750 0 102 1\nbroken\n".into());
        assert_eq!(log.between(100.0, 102.0), [0.5]);
    }

    #[test]
    fn the_window_leaves_the_warm_up_out() {
        let start = Instant::now();
        let mark = |second: u64, rate: f64, cpu: u64| Mark {
            stamp: 1000.0 + second as f64,
            rate,
            cpu: Some(Duration::from_millis(cpu)),
            read: start + Duration::from_secs(second),
        };
        let window = Window::new(&[mark(1, 5.0, 900), mark(2, 100.0, 1000), mark(3, 300.0, 1300)]).unwrap();
        assert_eq!(window.rate(), 200.0);
        assert_eq!(window.cpu_per_transaction().unwrap().round(), 1000.0);
        assert!(Window::new(&[mark(1, 5.0, 900)]).is_none());
    }
}
