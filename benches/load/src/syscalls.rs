//! System calls a transaction or login, counted by strace, which slows what it counts: apart from all other measurements.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Result;

/// strace, attached to a process.
pub(crate) struct Counter<'a> {
    strace: Child,
    dir: &'a Path,
}

impl Counter<'_> {
    /// Attaches and waits until that is done.
    pub(crate) fn attach(pid: u32, dir: &Path) -> Result<Counter<'_>> {
        fs::create_dir_all(dir)?;
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o", OUTPUT, "-p"]).arg(pid.to_string()).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let strace = command.spawn().map_err(|error| format!("strace: {error}"))?;
        let mut counter = Counter { strace, dir };
        let mut said = String::new();
        BufReader::new(counter.strace.stderr.take().ok_or("no pipe")?).read_line(&mut said)?;
        if said.contains("attached") { Ok(counter) } else { Err(said.into()) }
    }

    /// Detaches: how often each system call was made, the most frequent first.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, f64)>> {
        kill(Pid::from_raw(self.strace.id().try_into()?), Signal::SIGINT)?;
        self.strace.wait()?;
        let mut counts = counts(&fs::read_to_string(self.dir.join(OUTPUT))?);
        counts.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(counts)
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Of strace's table: `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn counts(table: &str) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first()?.parse::<f64>().ok()?;
        let name = fields.last().filter(|name| **name != "total")?;
        Some((name.to_string(), fields.get(3)?.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}

const OUTPUT: &str = "strace.out";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_straces_table() {
        let table = "% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.59    0.375041          19     19337           sendto
 36.64    0.226809          11     19339         2 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.623108          15     39901         2 total
";
        assert_eq!(counts(table), [("sendto".to_string(), 19337.0), ("recvfrom".to_string(), 19339.0)]);
    }
}
