//! `pgferry`: arguments, logging, user, pid file, exit code.

#![allow(clippy::print_stdout, reason = "the program prints what it is asked for")]

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use pgbouncer_compat::Loaded;
use pgbouncer_compat::cli::{self, Command, RunOptions};
use pgbouncer_compat::texts::VERSION;
use pgferry::logging::{self, Log};
use pgferry::process::{self, PidFile, ProcessError};
use pgferry::systemd::{self, Systemd};
use pgferry::{App, against, demo};
use pooler::Inheritance;
use tracing::{info, warn};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Command::Run(options)) => end(run(&options), options.quiet),
        Ok(Command::Ping { address }) => ping(&address),
        Ok(Command::Check { config, against }) => check(&config, against.as_deref()),
        Ok(Command::Demo(options)) => end(demo::run(&options).map(|()| ExitCode::SUCCESS), false),
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
fn end(outcome: Result<ExitCode, Box<dyn std::error::Error>>, quiet: bool) -> ExitCode {
    match outcome {
        Ok(code) => code,
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

fn run(options: &RunOptions) -> Result<ExitCode, Box<dyn std::error::Error>> {
    process::give_back_memory();
    let loaded = pgbouncer_compat::load(&options.config).map_err(|faults| {
        if !options.quiet {
            faults.0.iter().for_each(|fault| eprint!("{}", logging::line("ERROR", "", &fault.to_string())));
        }
        "cannot load config file"
    })?;
    process::change_user(options.user.as_deref().or(loaded.program.user.as_deref()))?;
    let in_background = options.daemon && process::is_in_background();
    if options.daemon && !in_background {
        let path = loaded.program.pidfile.as_deref().ok_or(ProcessError::NoPidFile)?;
        if !options.reboot {
            pooler::check_in_use(&loaded.config.listen)?;
            PidFile::check(path)?;
        }
        process::start_in_background()?;
        return Ok(ExitCode::SUCCESS);
    }
    let log = Log::open(!options.quiet && !in_background, &loaded.program, options.verbose.into())?;
    log.install();
    Ok(match serve(loaded, options, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.fatal(&error.to_string());
            ExitCode::FAILURE
        }
    })
}

fn serve(loaded: Loaded, options: &RunOptions, log: &Arc<Log>) -> Result<(), Box<dyn std::error::Error>> {
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    let listen = &loaded.config.listen;
    let passed =
        systemd::passed_listeners().map_err(|error| format!("a socket passed by systemd: {error}"))?;
    if !passed.is_empty() && (!listen.addrs.is_empty() || listen.unix.is_some()) {
        warn!("the service manager has passed sockets: listen_addr and unix_socket_dir are not listened on");
    }
    let inheritance = match options.reboot && passed.is_empty() {
        true => Inheritance::claim(listen)
            .map_err(|error| format!("could not take over from the running process: {error}"))?,
        false => None,
    };
    let pidfile = loaded.program.pidfile.clone();
    if inheritance.is_none() {
        if passed.is_empty() {
            pooler::check_in_use(listen)?;
        }
        pidfile.as_deref().map(PidFile::check).transpose()?;
    }
    if let Some((now, most)) = process::raise_file_limit() {
        info!(
            "kernel file descriptor limit: {now} (hard: {most}); max_client_conn: {}, max expected fd use: {}",
            loaded.config.limits.max_client_conn,
            expected_files(&loaded)
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let taken_over = inheritance.is_some();
        let app = App::build(loaded, &options.config, log.clone(), passed, inheritance)?;
        let _pid_file = pidfile.map(|path| PidFile::write(&path, taken_over)).transpose()?;
        info!("process up: {VERSION}");
        app.run(Systemd::from_env()).await;
        Ok(())
    })
}

/// Descriptors that the limits allow to be taken, as PgBouncer counts them: clients, and one full pool a database.
fn expected_files(loaded: &Loaded) -> usize {
    let config = &loaded.config;
    let size =
        |own: Option<Option<NonZeroUsize>>| own.unwrap_or(config.sizes.size).map_or(0, NonZeroUsize::get);
    let servers: usize = config.databases.values().map(|database| size(database.pool_size)).sum();
    config.limits.max_client_conn + servers
}
