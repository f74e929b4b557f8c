//! What a pooler costs, by comparison: PostgreSQL itself, a bare relay, PgBouncer and pgferry do the same work in turn,
//! several times over. The figure that counts is processor time a transaction in the pooler's own process, divided by
//! that of another in the same round: it holds on a noisy machine, where throughput does not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its findings")]

mod beside;
mod contender;
mod idle;
mod logins;
mod machine;
mod measure;
mod options;
mod pgbench;
mod relay;
mod report;
mod scram;
mod syscalls;
mod work;

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::contender::{Access, Contender, Running, Stage};
use crate::machine::Machine;
use crate::measure::Timed;
use crate::options::{Options, Task};
use crate::pgbench::Job;
use crate::report::{Metric, Report, Row, Sample};
use crate::syscalls::Counter;
use crate::work::{Protocol, Work};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let done = options::parse().and_then(|task| match task {
        Task::Relay(server) => Ok(relay::run(server)?),
        Task::Compare(options) => compare(&options),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgferry-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    machine::raise_file_limit()?;
    let machine = Machine::here();
    let (contenders, missing) = Contender::all(options);
    let runs = options.works.len() as u64 * u64::from(options.rounds) * contenders.len() as u64;
    println!("{}: {} cores ({}), Linux {}", machine.date, machine.cores, machine.processor, machine.kernel);
    for contender in &contenders {
        if let Some(version) = contender.version() {
            println!("{contender}: {version}");
        }
    }
    missing.iter().for_each(|remark| println!("{remark}"));
    println!("{runs} runs, about {} min\n", (runs * (options.time.as_secs() + 2)).div_ceil(60));

    let stage = Stage::new();
    let mut reports = Vec::new();
    for work in &options.works {
        let report = measure(*work, &contenders, &stage, options);
        println!("{report}");
        reports.push(report);
    }
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", to_json(&machine, &contenders, options, &reports)))?;
    }
    Ok(())
}

/// Lets all do one piece of work in turn, in an order that rotates from round to round.
fn measure(work: Work, contenders: &[Contender], stage: &Stage, options: &Options) -> Report {
    let mut rows: Vec<Row> = contenders
        .iter()
        .map(|contender| Row {
            name: contender.to_string(),
            remark: contender.excuse(work).map(|excuse| format!("skipped: {excuse}")),
            ..Row::default()
        })
        .collect();
    for round in 0..options.rounds {
        for position in 0..contenders.len() {
            let index = (position + round as usize) % contenders.len();
            let row = &mut rows[index];
            // Who can't do it is not tried again; a single failure of one who can leaves the other rounds alone.
            if row.remark.is_some() && row.samples.is_empty() {
                continue;
            }
            eprintln!("{work}, round {} of {}: {}", round + 1, options.rounds, row.name);
            match run(work, &contenders[index], stage, options) {
                Ok(sample) => row.samples.push((round, sample)),
                Err(error) => row.remark = Some(format!("fails in round {}: {error}", round + 1)),
            }
        }
    }
    if options.syscalls {
        for (contender, row) in contenders.iter().zip(&mut rows).filter(|(_, row)| !row.samples.is_empty()) {
            match count_syscalls(work, contender, stage, options) {
                Ok(counts) => row.syscalls = counts,
                Err(error) => row.remark = Some(format!("system calls not counted: {error}")),
            }
        }
    }
    Report { work, rows }
}

/// One contender does one piece of work.
fn run(work: Work, contender: &Contender, stage: &Stage, options: &Options) -> Result<Sample> {
    let running = start(work, contender, stage)?;
    let sample = match work {
        Work::Queries { protocol, clients } => {
            queries(&running, protocol, clients, stage, options).map(|timed| timings(&timed))
        }
        Work::Secured { clients, .. } => {
            queries(&running, Protocol::Simple, clients, stage, options).map(|timed| timings(&timed))
        }
        Work::Idle { clients } => idle(&running, clients),
        Work::Logins { .. } => logins(&running, options).map(|timed| timings(&timed)),
        Work::Beside => {
            let elsewhere = start(work, contender, stage)?;
            let sample = beside::run(&running.target, &elsewhere.target, options.time);
            elsewhere.stop()?;
            sample
        }
    };
    // A pooler that died is the reason for whatever else went wrong.
    running.stop()?;
    sample
}

fn start(work: Work, contender: &Contender, stage: &Stage) -> Result<Running> {
    stage.clear();
    let access = match work {
        Work::Logins { .. } | Work::Beside => Access::Scram,
        Work::Queries { .. } | Work::Secured { .. } | Work::Idle { .. } => Access::Trust,
    };
    contender.start(stage, access, work.link())
}

fn queries(
    running: &Running,
    protocol: Protocol,
    clients: u32,
    stage: &Stage,
    options: &Options,
) -> Result<Timed> {
    let pid = running.pid();
    Job { target: &running.target, pid, protocol, clients, time: options.time, dir: stage.dir() }.run()
}

fn logins(running: &Running, options: &Options) -> Result<Timed> {
    logins::run(&running.target, running.pid(), options.time)
}

fn idle(running: &Running, clients: u32) -> Result<Sample> {
    let pid = running.pid().ok_or("there is no process to look at")?;
    let memory = idle::run(&running.target, pid, clients)?;
    Ok(vec![(Metric::Rss, memory.rss / 1024.0), (Metric::Pss, memory.pss / 1024.0)])
}

fn timings(timed: &Timed) -> Sample {
    let [p50, p95, p99] = timed.latencies;
    let cpu = timed.cpu.map(|cpu| (Metric::Cpu, cpu));
    let rest = [(Metric::Rate, timed.rate), (Metric::P50, p50), (Metric::P95, p95), (Metric::P99, p99)];
    cpu.into_iter().chain(rest).collect()
}

/// System calls a transaction or login, the start of the run included. None for idle clients, or where nobody stands
/// between client and server.
fn count_syscalls(
    work: Work,
    contender: &Contender,
    stage: &Stage,
    options: &Options,
) -> Result<Vec<(String, f64)>> {
    let running = start(work, contender, stage)?;
    let Some(pid) = running.pid() else { return Ok(Vec::new()) };
    let dir = stage.dir();
    let counter = Counter::attach(pid, &dir)?;
    let timed = match work {
        Work::Queries { protocol, clients } => queries(&running, protocol, clients, stage, options)?,
        Work::Secured { clients, .. } => queries(&running, Protocol::Simple, clients, stage, options)?,
        Work::Idle { .. } | Work::Beside => return Ok(Vec::new()),
        Work::Logins { .. } => logins(&running, options)?,
    };
    let counts = counter.finish()?;
    running.stop()?;
    Ok(counts.into_iter().map(|(name, count)| (name, count / timed.count)).collect())
}

fn to_json(machine: &Machine, contenders: &[Contender], options: &Options, reports: &[Report]) -> Value {
    let versions: Map<String, Value> = contenders
        .iter()
        .filter_map(|contender| Some((contender.to_string(), json!(contender.version()?))))
        .collect();
    json!({
        "date": machine.date,
        "machine": machine.to_json(),
        "versions": versions,
        "seconds": options.time.as_secs(),
        "rounds": options.rounds,
        "works": reports.iter().map(Report::to_json).collect::<Vec<Value>>(),
    })
}
