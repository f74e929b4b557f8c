//! `pgferry demo`: what it prints works, and nothing is left of it, whatever its end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::peer::Address;
use support::postgres::send_signal;
use support::tools::{Tool, program};
use support::wait::eventually;
use support::wire::Target;

/// A demonstration.
struct Demo {
    process: Child,
    stdout: BufReader<ChildStdout>,
    dir: String,
}

impl Demo {
    /// One that has just begun to start.
    fn start(options: &[&str]) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgferry"));
        command.arg("demo").args(options).arg("--pg-bin").arg(program("initdb").parent().unwrap());
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        let dir = said.trim().strip_prefix("Starting PostgreSQL in ").expect(&said).to_owned();
        Demo { process, stdout, dir }
    }

    /// Waits for a line with these words and returns it.
    #[track_caller]
    fn read_until(&mut self, words: &str) -> String {
        self.read_until_all(&[words])
    }

    /// The same with all of these.
    #[track_caller]
    fn read_until_all(&mut self, all: &[&str]) -> String {
        let mut line = String::new();
        while !all.iter().all(|words| line.contains(words)) {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended without {all:?}");
        }
        line
    }

    /// Where the connection string in the line with these words leads to.
    #[track_caller]
    fn way_in(&mut self, words: &str) -> Target {
        let line = self.read_until(words);
        target(
            line.split("psql")
                .last()
                .and_then(|rest| rest.split('\'').nth(1))
                .unwrap_or_else(|| panic!("no connection string in {line}")),
        )
    }

    #[track_caller]
    fn wait_ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the demo ends", Duration::from_secs(20), || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    #[track_caller]
    fn must_leave_nothing(&self) {
        eventually("the directory is gone", Duration::from_secs(20), || !fs::exists(&self.dir).unwrap());
        eventually("the processes are gone", Duration::from_secs(20), || self.processes().is_empty());
    }

    /// Those that have the directory in their command line or as working directory: PostgreSQL, pgbench, the guard.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let belongs = |path: &std::path::Path| {
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            let here = fs::read_link(path.join("cwd")).unwrap_or_default();
            format!("{} {}", String::from_utf8_lossy(&command), here.display()).contains(&self.dir)
        };
        entries
            .map(|entry| entry.path())
            .filter(|path| belongs(path))
            .map(|path| path.display().to_string())
            .collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill(); // its guard does the rest
        let _ = self.process.wait();
    }
}

/// What a `postgresql://USER:PASSWORD@ADDRESS/DATABASE` leads to.
fn target(uri: &str) -> Target {
    let rest = uri.strip_prefix("postgresql://").unwrap();
    let (login, place) = rest.split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let (address, database) = place.split_once('/').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    Target::new(Address::Tcp(address), user, database).password(password)
}

#[test]
fn what_it_prints_works_and_it_stops_by_itself() {
    let mut demo = Demo::start(&["--seconds", "4", "--clients", "6"]);
    let (database, console) = (demo.way_in("application's way in"), demo.way_in("the console"));
    let rows = Tool::psql(&database).args(["-c", "select count(*) from pgbench_accounts"]).run().success();
    assert_eq!(rows.stdout.trim(), "100000");
    let version = Tool::psql(&console).args(["-c", "show version"]).run().success();
    assert!(!version.stdout.trim().is_empty());
    assert!(demo.processes().len() > 3, "the test would not see what is left: {:?}", demo.processes());
    demo.read_until("clients 6, ");
    let mut rest = String::new();
    demo.stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("nothing is left"), "{rest}");
    assert!(demo.wait_ended().success());
    demo.must_leave_nothing();
}

#[test]
fn no_signal_leaves_anything_behind() {
    let cases = [(Signal::SIGTERM, true), (Signal::SIGKILL, false)];
    for ((signal, in_order), running) in cases.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        let mut demo = Demo::start(&["--clients", "3"]);
        if running {
            demo.read_until(" transactions/s");
        }
        send_signal(demo.process.id(), signal);
        assert_eq!(demo.wait_ended().success(), in_order, "{signal}");
        demo.must_leave_nothing();
    }
}

#[test]
fn a_replica_takes_the_reads_and_then_the_primarys_place() {
    let moments = ["--stop-primary-after", "3", "--promote-after", "4500ms", "--rejoin-after", "7s"];
    // It ends by itself where the test would wait for ever.
    let options = [&["--replicas", "1", "--clients", "4", "--seconds", "90"], &moments[..]].concat();
    let mut demo = Demo::start(&options);
    demo.read_until_all(&["5432 primary", "5433 standby", "reads 100 %"]);
    demo.read_until("5432 was the primary, and is stopped");
    demo.read_until("5433 is promoted");
    demo.read_until_all(&["5433 primary", "reads"]);
    demo.read_until("replicas of the primary again: 5432");
    demo.read_until_all(&["5432 standby", "reads 100 %; 5433 primary"]);
    send_signal(demo.process.id(), Signal::SIGINT);
    let summary = demo.read_until("Clients: ");
    assert!(summary.contains(" 0 own writes not seen"), "{summary}");
    // Who wanted to write waited from the stop to the promotion, at least.
    let (_, stall) = summary.split_once("longest stall ").unwrap();
    let (seconds, _) = stall.split_once(" s").unwrap();
    assert!(seconds.parse::<f64>().unwrap() > 1.0, "{summary}");
    assert!(demo.wait_ended().success());
    demo.must_leave_nothing();
}

#[test]
fn without_postgresql_it_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgferry"));
    let output = command.args(["demo", "--pg-bin", "/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in /nowhere"), "{output:?}");
}
