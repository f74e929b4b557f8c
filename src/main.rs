//! `pgferry`: arguments, logging, user, pid file, exit code.

#![allow(clippy::print_stdout, reason = "the program prints what it is asked for")]

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use pgbouncer_compat::cli::{self, Command, RunOptions};
use pgbouncer_compat::texts::VERSION;
use pgferry::logging::{self, Log};
use pgferry::process::{self, PidFile, ProcessError};
use pgferry::{App, against, demo};
use pooler::Inheritance;
use tracing::{info, warn};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Command::Run(options)) => end(run(&options), options.quiet),
        Ok(Command::Ping { address }) => ping(&address),
        Ok(Command::Check { config, against }) => check(&config, against.as_deref()),
        Ok(Command::Demo(options)) => end(demo::run(&options), false),
        Ok(Command::Version) => {
            println!("{VERSION}");
            ExitCode::SUCCESS
        }
        Ok(Command::Help(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// 0 for every regular end, 1 with the reason for any other.
fn end(outcome: Result<(), Box<dyn std::error::Error>>, quiet: bool) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !quiet {
                fatal(&error);
            }
            ExitCode::FAILURE
        }
    }
}

fn fatal(error: &dyn Display) {
    eprint!("{}", logging::line("FATAL", "", &error.to_string()));
}

fn check(path: &Path, against: Option<&Path>) -> ExitCode {
    let loaded = match pgbouncer_compat::load(path) {
        Ok(loaded) => loaded,
        Err(faults) => {
            println!("{faults}");
            return ExitCode::FAILURE;
        }
    };
    loaded.warnings.iter().for_each(|warning| println!("warning: {warning}"));
    let Some(target) = against else {
        println!("{}: ok", path.display());
        return ExitCode::SUCCESS;
    };
    match against::plan(target, loaded.config.listen.port, path) {
        Ok(changes) if changes.is_empty() => println!("{}: a reload changes nothing", path.display()),
        Ok(changes) => changes.iter().for_each(|change| println!("{change}")),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn ping(address: &str) -> ExitCode {
    match pgferry::ping::run(address) {
        Ok(()) => {
            println!("{address} answers");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("no answer at {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &RunOptions) -> Result<(), Box<dyn std::error::Error>> {
    process::give_back_memory();
    let loaded = pgbouncer_compat::load(&options.config).map_err(|faults| {
        if !options.quiet {
            faults.0.iter().for_each(|fault| eprint!("{}", logging::line("ERROR", "", &fault.to_string())));
        }
        "cannot load config file"
    })?;
    let program = loaded.program.clone();
    process::change_user(options.user.as_deref().or(program.user.as_deref()))?;
    let in_background = options.daemon && process::is_in_background();
    if options.daemon && !in_background {
        let path = program.pidfile.as_deref().ok_or(ProcessError::NoPidFile)?;
        if !options.reboot {
            PidFile::check(path)?;
        }
        return Ok(process::start_in_background()?);
    }
    let verbosity = program.verbose.unwrap_or(options.verbose.into());
    let log = Log::open(!options.quiet && !in_background, program.logfile.as_deref(), verbosity)?;
    log.install();
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    let inheritance = match options.reboot {
        true => Inheritance::claim(&loaded.config.listen)
            .map_err(|error| format!("could not take over from the running process: {error}"))?,
        false => None,
    };
    if let (Some(path), None) = (&program.pidfile, &inheritance) {
        PidFile::check(path)?;
    }
    if let Some((now, most)) = process::raise_file_limit() {
        info!(
            "kernel file descriptor limit: {now} (hard: {most}); max_client_conn: {}",
            loaded.config.limits.max_client_conn
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let taken_over = inheritance.is_some();
        let app = App::build(loaded, &options.config, log, inheritance)?;
        let pid_file = program.pidfile.as_deref();
        let _pid_file = pid_file.map(|path| PidFile::write(path, taken_over)).transpose()?;
        info!("process up: {VERSION}");
        app.run().await;
        Ok(())
    })
}
