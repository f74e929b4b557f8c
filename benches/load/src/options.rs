//! The command line.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::Result;
use crate::work::Work;

/// What this process is asked to be.
pub(crate) enum Task {
    Compare(Options),
    /// The relay in front of this server; started by the comparison.
    Relay(SocketAddr),
}

/// A comparison.
#[derive(Debug)]
pub(crate) struct Options {
    /// Measured time of one run.
    pub(crate) time: Duration,
    /// Times that every contender does a piece of work.
    pub(crate) rounds: u32,
    pub(crate) works: Vec<Work>,
    pub(crate) pgferry: PathBuf,
    /// `workers` of pgferry. `None`: one run with one, one with its default.
    pub(crate) workers: Option<u32>,
    pub(crate) pgbouncer: PathBuf,
    pub(crate) json: Option<PathBuf>,
    /// Whether to count system calls, too.
    pub(crate) syscalls: bool,
}

/// Reads the arguments; ends the process where they are wrong, or ask for help.
pub(crate) fn parse() -> Result<Task> {
    let matches = command().get_matches();
    if let Some(relay) = matches.subcommand_matches("relay") {
        return Ok(Task::Relay(required(relay, "server")?));
    }
    Ok(Task::Compare(Options {
        time: Duration::from_secs(u64::from(required::<u32>(&matches, "seconds")?)),
        rounds: required(&matches, "rounds")?,
        works: chosen(&matches)?,
        pgferry: match matches.get_one::<PathBuf>("pgferry-bin") {
            Some(path) => path.clone(),
            None => env::current_exe()?.with_file_name("pgferry"),
        },
        workers: matches.get_one("pgferry-workers").copied(),
        pgbouncer: required(&matches, "pgbouncer-bin")?,
        json: matches.get_one("json").cloned(),
        syscalls: matches.get_flag("syscalls"),
    }))
}

fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let number = |most: i64| value_parser!(u32).range(1..=most);
    Command::new("pgferry-load")
        .about(
            "Runs PostgreSQL, a bare relay, PgBouncer and pgferry in turn on the same work and compares them",
        )
        .args_conflicts_with_subcommands(true)
        .arg(
            option("seconds", "N", "Measured time of one run, after a second of warm-up")
                .default_value("5")
                .value_parser(number(600)),
        )
        .arg(
            option("rounds", "N", "How often each contender does each piece of work; their order rotates")
                .default_value("3")
                .value_parser(number(100)),
        )
        .arg(
            option(
                "only",
                "WORK",
                "Only this: simple, extended, prepared, each with :1, :20, :500 or all; tls; tls-both; idle; logins; \
                 tls-logins; beside",
            )
            .value_delimiter(',')
            .action(ArgAction::Append),
        )
        .arg(
            option("idle-clients", "N", "Clients of the work `idle`")
                .default_value("2000")
                .value_parser(number(15_000)),
        )
        .arg(
            option("pgferry-bin", "PATH", "pgferry's binary [default: pgferry beside this program]")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "pgferry-workers",
                "N",
                "Workers of pgferry [default: one run with 1, one with its own default]",
            )
            .value_parser(number(1024)),
        )
        .arg(
            option("pgbouncer-bin", "PATH", "PgBouncer's binary")
                .default_value("/usr/sbin/pgbouncer")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option("json", "PATH", "Write all figures to this file, too")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("syscalls")
                .long("syscalls")
                .action(ArgAction::SetTrue)
                .help("Count system calls as well, in runs of their own under strace"),
        )
        .subcommand(
            Command::new("relay")
                .about("Be the relay, until standard input ends")
                .arg(Arg::new("server").required(true).value_parser(value_parser!(SocketAddr))),
        )
}

/// The work that some filter names; all of it without filters.
fn chosen(matches: &ArgMatches) -> Result<Vec<Work>> {
    let mut works = Work::all(required(matches, "idle-clients")?);
    let filters: Vec<&String> = matches.get_many("only").into_iter().flatten().collect();
    for filter in &filters {
        if !works.iter().any(|work| work.matches(filter)) {
            return Err(format!("--only {filter}: there is no such work").into());
        }
    }
    works.retain(|work| filters.is_empty() || filters.iter().any(|filter| work.matches(filter)));
    Ok(works)
}

/// An argument that clap has made sure of.
fn required<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Result<T> {
    matches.get_one::<T>(name).cloned().ok_or_else(|| format!("no {name}").into())
}
