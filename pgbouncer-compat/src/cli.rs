//! The command line: PgBouncer's flags and one configuration file, or a command of our own as the first word.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command as Clap, value_parser};

use crate::value;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `pgferry [flags] CONFIG.ini`.
    Run(RunOptions),
    /// `pgferry check CONFIG.ini`: say what is wrong with it.
    Check {
        /// The file.
        config: PathBuf,
        /// The Unix socket of a running pgferry, or its directory: what would a reload of the file change there?
        against: Option<PathBuf>,
    },
    /// `pgferry ping ADDRESS`: does a pooler answer there?
    Ping {
        /// `HOST:PORT`, or the path of a Unix socket.
        address: String,
    },
    /// `pgferry demo [options]`: a throw-away PostgreSQL with the pooler in front.
    Demo(DemoOptions),
    /// `-V`: print [`crate::texts::VERSION`] and exit with 0.
    Version,
    /// `-h`: print this and exit with 0.
    Help(String),
}

/// How to run the pooler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Run in the background; needs a pid file and logs nothing to standard error.
    pub daemon: bool,
    /// Log nothing to standard error.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Unix user to become; wins over the setting `user`.
    pub user: Option<String>,
    /// Take over the sockets of the running process.
    pub reboot: bool,
}

/// How to run the demonstration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// Port of the pooler; `None`: any free one.
    pub port: Option<u16>,
    /// Stop by itself after this; `None`: when told to.
    pub stop_after: Option<Duration>,
    /// Clients that send load.
    pub clients: u32,
    /// Where PostgreSQL's programs are; `None`: wherever they are found.
    pub pg_bin: Option<PathBuf>,
    /// Streaming replicas of the PostgreSQL.
    pub replicas: u8,
    /// When its primary is stopped, counted from the start of the load.
    pub stop_primary_after: Option<Duration>,
    /// When a replica is promoted.
    pub promote_after: Option<Duration>,
    /// When servers that have fallen behind become replicas again.
    pub rejoin_after: Option<Duration>,
}

/// A command line that makes no sense. Print it to standard error and exit with 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pgferry: {}\nTry \"pgferry --help\" for more information.", self.message)
    }
}

impl std::error::Error for UsageError {}

/// Reads a command line, the program's name first.
///
/// # Errors
/// What is wrong with it.
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Command, UsageError> {
    let matches = match grammar().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Command::Help(error.to_string())),
        Err(error) => return Err(UsageError { message: message(&error) }),
    };
    if matches.get_flag("version") {
        return Ok(Command::Version);
    }
    match matches.subcommand() {
        Some(("ping", ping)) => Ok(Command::Ping { address: address(ping)? }),
        Some(("check", check)) => {
            Ok(Command::Check { config: config(check)?, against: check.get_one("against").cloned() })
        }
        Some((_, demo)) => Ok(Command::Demo(demo_options(demo)?)),
        None => Ok(Command::Run(run_options(&matches)?)),
    }
}

fn run_options(matches: &ArgMatches) -> Result<RunOptions, UsageError> {
    Ok(RunOptions {
        config: config(matches)?,
        daemon: matches.get_flag("daemon"),
        quiet: matches.get_flag("quiet"),
        verbose: matches.get_count("verbose"),
        user: matches.get_one("user").cloned(),
        reboot: matches.get_flag("reboot"),
    })
}

fn demo_options(matches: &ArgMatches) -> Result<DemoOptions, UsageError> {
    let time = |name: &str| matches.get_one(name).copied();
    let options = DemoOptions {
        port: matches.get_one("port").copied(),
        stop_after: matches.get_one("seconds").copied().map(Duration::from_secs),
        clients: matches.get_one("clients").copied().unwrap_or(DEMO_CLIENTS),
        pg_bin: matches.get_one("pg-bin").cloned(),
        replicas: matches.get_one("replicas").copied().unwrap_or(0),
        stop_primary_after: time(STOP_PRIMARY_AFTER),
        promote_after: time(PROMOTE_AFTER),
        rejoin_after: time(REJOIN_AFTER),
    };
    let needs_replicas = [STOP_PRIMARY_AFTER, PROMOTE_AFTER, REJOIN_AFTER];
    match needs_replicas.into_iter().find(|name| matches.contains_id(name)) {
        Some(name) if options.replicas == 0 => {
            Err(UsageError { message: format!("--{name} needs --replicas") })
        }
        _ => Ok(options),
    }
}

fn config(matches: &ArgMatches) -> Result<PathBuf, UsageError> {
    let missing = || UsageError { message: "no configuration file specified".into() };
    matches.get_one("config").cloned().ok_or_else(missing)
}

fn address(matches: &ArgMatches) -> Result<String, UsageError> {
    let missing = || UsageError { message: "no address specified".into() };
    matches.get_one("address").cloned().ok_or_else(missing)
}

/// One line of what clap has to say.
fn message(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => "no configuration file specified".into(),
        ErrorKind::UnknownArgument if !argument.starts_with('-') => "too many arguments".into(),
        // A second file looks like the name of a command that comes too late.
        ErrorKind::ArgumentConflict => "too many arguments".into(),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

const DEMO_CLIENTS: u32 = 20;
const STOP_PRIMARY_AFTER: &str = "stop-primary-after";
const PROMOTE_AFTER: &str = "promote-after";
const REJOIN_AFTER: &str = "rejoin-after";

/// The whole of it, for reading and for what is rendered from it.
pub(crate) fn grammar() -> Clap {
    Clap::new("pgferry")
        .about("A PostgreSQL connection pooler that takes PgBouncer's place")
        .override_usage(
            "pgferry [OPTION]... CONFIG_FILE\n       pgferry check [--against SOCKET] CONFIG_FILE\n       pgferry ping ADDRESS\n       pgferry demo [OPTION]...",
        )
        .after_help("A configuration file named check, ping or demo is given as ./check, ./ping or ./demo.")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .arg(config_arg())
        .arg(flag("daemon", 'd', "Run in the background"))
        .arg(flag("quiet", 'q', "Log nothing to standard error"))
        .arg(flag("verbose", 'v', "Log more; may be repeated").action(ArgAction::Count))
        .arg(
            flag("user", 'u', "Become this Unix user after start")
                .action(ArgAction::Set)
                .value_name("NAME")
                .overrides_with("user"),
        )
        .arg(flag("reboot", 'R', "Take over from the running process"))
        .arg(flag("version", 'V', "Show the version, then exit"))
        .subcommand(
            Clap::new("check")
                .about("Say what is wrong with a configuration file")
                .arg(config_arg().required(true))
                .arg(
                    Arg::new("against")
                        .long("against")
                        .value_name("SOCKET")
                        .value_parser(value_parser!(PathBuf))
                        .help("Unix socket of a running pgferry, or its directory: what would a reload change?"),
                ),
        )
        .subcommand(Clap::new("ping").about("Ask whether a pooler answers").arg(address_arg()))
        .subcommand(demo_grammar())
}

fn demo_grammar() -> Clap {
    let option = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Clap::new("demo")
        .about("Start a throw-away PostgreSQL, pgferry in front of it, and a little load")
        .arg(
            option("port", "Port of the pooler; without it, any free one")
                .value_name("PORT")
                .value_parser(value_parser!(u16).range(1..)),
        )
        .arg(
            option("seconds", "Stop after so many seconds; without it, run until stopped")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=86400 * 365)),
        )
        .arg(
            option("clients", "Clients that send load [default: 20]")
                .value_name("N")
                .value_parser(value_parser!(u32).range(0..=10_000)),
        )
        .arg(
            option("pg-bin", "Directory of PostgreSQL's programs; without it, wherever they are found")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "replicas",
                "Streaming replicas of the PostgreSQL, on which reads are spread [default: 0]",
            )
            .value_name("N")
            .value_parser(value_parser!(u8).range(0..=8)),
        )
        .arg(moment(STOP_PRIMARY_AFTER, "Stop the primary so long after the start, as the key s does"))
        .arg(moment(PROMOTE_AFTER, "Promote a replica so long after the start, as the key p does"))
        .arg(moment(
            REJOIN_AFTER,
            "Make replicas of servers that follow nobody so long after the start, as the key r does",
        ))
}

/// A time from a start on.
fn moment(name: &'static str, help: &'static str) -> Arg {
    let time = |text: &str| value::duration(text).ok_or("a time such as 5 or 500ms");
    Arg::new(name).long(name).help(help).value_name("TIME").value_parser(time)
}

fn config_arg() -> Arg {
    Arg::new("config")
        .value_name("CONFIG_FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file")
}

fn address_arg() -> Arg {
    Arg::new("address").value_name("ADDRESS").help("HOST:PORT, or the path of a Unix socket")
}

/// A flag that may be repeated, as PgBouncer's may.
fn flag(name: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(name).long(name).short(short).help(help).action(ArgAction::SetTrue).overrides_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(config: &str) -> RunOptions {
        let config = config.into();
        RunOptions { config, daemon: false, quiet: false, verbose: 0, user: None, reboot: false }
    }

    fn parse_words(words: &str) -> Result<Command, UsageError> {
        parse(std::iter::once("pgferry").chain(words.split_whitespace()))
    }

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn accepted() {
        let demo = DemoOptions {
            port: None,
            stop_after: None,
            clients: 20,
            pg_bin: None,
            replicas: 0,
            stop_primary_after: None,
            promote_after: None,
            rejoin_after: None,
        };
        for (words, expected) in [
            ("a.ini", Command::Run(run("a.ini"))),
            ("-d a.ini", Command::Run(RunOptions { daemon: true, ..run("a.ini") })),
            ("a.ini -q", Command::Run(RunOptions { quiet: true, ..run("a.ini") })),
            ("-q -q -qd a.ini", Command::Run(RunOptions { quiet: true, daemon: true, ..run("a.ini") })),
            ("-v -vv --verbose a.ini", Command::Run(RunOptions { verbose: 4, ..run("a.ini") })),
            ("-u pooler a.ini", Command::Run(RunOptions { user: Some("pooler".into()), ..run("a.ini") })),
            ("--user=x -uy a.ini", Command::Run(RunOptions { user: Some("y".into()), ..run("a.ini") })),
            ("-u check a.ini", Command::Run(RunOptions { user: Some("check".into()), ..run("a.ini") })),
            ("-Rd a.ini", Command::Run(RunOptions { reboot: true, daemon: true, ..run("a.ini") })),
            ("-- -odd.ini", Command::Run(run("-odd.ini"))),
            ("-q check", Command::Run(RunOptions { quiet: true, ..run("check") })),
            ("./check", Command::Run(run("./check"))),
            ("./demo", Command::Run(run("./demo"))),
            ("ping localhost:6432", Command::Ping { address: "localhost:6432".into() }),
            ("./ping", Command::Run(run("./ping"))),
            ("check a.ini", Command::Check { config: "a.ini".into(), against: None }),
            (
                "check --against /run/s a.ini",
                Command::Check { config: "a.ini".into(), against: Some("/run/s".into()) },
            ),
            ("demo", Command::Demo(demo.clone())),
            (
                "demo --port 7000 --seconds=5 --clients 3 --pg-bin /x",
                Command::Demo(DemoOptions {
                    port: Some(7000),
                    stop_after: Some(Duration::from_secs(5)),
                    clients: 3,
                    pg_bin: Some("/x".into()),
                    ..demo.clone()
                }),
            ),
            (
                "demo --replicas 2 --stop-primary-after 5s --promote-after=8 --rejoin-after 1.5min",
                Command::Demo(DemoOptions {
                    replicas: 2,
                    stop_primary_after: Some(Duration::from_secs(5)),
                    promote_after: Some(Duration::from_secs(8)),
                    rejoin_after: Some(Duration::from_secs(90)),
                    ..demo.clone()
                }),
            ),
            ("-V", Command::Version),
            ("--version", Command::Version),
            ("-V a.ini", Command::Version),
        ] {
            assert_eq!(parse_words(words), Ok(expected), "{words}");
        }
    }

    #[test]
    fn refused_with_one_line_and_a_hint() {
        for (words, expected) in [
            ("", "no configuration file specified"),
            ("-d", "no configuration file specified"),
            ("check", "no configuration file specified"),
            ("ping", "no address specified"),
            ("ping a b", "too many arguments"),
            ("a.ini b.ini", "too many arguments"),
            ("-d check a.ini", "too many arguments"),
            ("a.ini check", "too many arguments"),
            ("check a.ini b.ini", "too many arguments"),
            ("-x a.ini", "unexpected argument '-x' found"),
            ("--nope a.ini", "unexpected argument '--nope' found"),
            ("-u", "a value is required for '--user <NAME>' but none was supplied"),
            ("demo --port 0", "invalid value '0' for '--port <PORT>': 0 is not in 1..=65535"),
            (
                "demo --clients many",
                "invalid value 'many' for '--clients <N>': invalid digit found in string",
            ),
            ("demo x", "too many arguments"),
            ("demo --replicas 9", "invalid value '9' for '--replicas <N>': 9 is not in 0..=8"),
            ("demo --promote-after 5s", "--promote-after needs --replicas"),
            ("demo --replicas 0 --stop-primary-after 1", "--stop-primary-after needs --replicas"),
            (
                "demo --replicas 1 --rejoin-after soon",
                "invalid value 'soon' for '--rejoin-after <TIME>': a time such as 5 or 500ms",
            ),
        ] {
            let error = parse_words(words).unwrap_err();
            assert_eq!(error.message, expected, "{words:?}");
            let text = format!("pgferry: {expected}\nTry \"pgferry --help\" for more information.");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn help_names_every_flag() {
        for words in ["-h", "--help", "a.ini --help"] {
            let Ok(Command::Help(text)) = parse_words(words) else { panic!("{words}: no help") };
            for part in [
                "CONFIG_FILE",
                "--daemon",
                "--quiet",
                "--verbose",
                "--user",
                "--reboot",
                "--version",
                "check",
                "ping",
                "demo",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
        let Ok(Command::Help(text)) = parse_words("demo --help") else { panic!("no help") };
        assert!(text.contains("--pg-bin"), "{text}");
    }
}
