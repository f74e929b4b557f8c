//! `pgferry demo`: a throw-away PostgreSQL, the pooler in front of it, a little load, and live numbers until it is
//! told to stop. It lives in one directory and leaves nothing behind; see `guard`.

mod cluster;
mod guard;
mod load;
mod programs;
mod screen;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use pgbouncer_compat::cli::DemoOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::logging::Log;
use crate::{App, process};
use cluster::Cluster;
use guard::Guard;
use load::Load;
use programs::Programs;

/// Name of the database and of the role that owns it.
const NAME: &str = "demo";

/// Server connections: few enough that the default load has to share them.
const POOL_SIZE: u32 = 5;

/// Runs the demonstration.
///
/// # Errors
/// There is no PostgreSQL, or something could not be started, or PostgreSQL ended by itself.
pub fn run(options: &DemoOptions) -> Result<(), Box<dyn Error>> {
    let places = programs::usual_places(); // asked while the program's own path can be read
    become_unprivileged()?;
    let programs = Programs::find(options.pg_bin.as_deref(), places)?;
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let guard = Guard::new()?;
    let outcome = runtime.block_on(async {
        let mut stop = StopSignal::new()?;
        tokio::select! {
            outcome = show(options, &programs, &guard) => outcome,
            () = stop.received() => Ok(()),
        }
    });
    drop(runtime);
    drop(guard);
    if outcome.is_ok() {
        let _ = screen::say("\nStopped; nothing is left of it.\n"); // whoever read it may have gone
    }
    outcome
}

/// Neither PostgreSQL nor pgferry runs as root.
fn become_unprivileged() -> Result<(), Box<dyn Error>> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let known = |name: &&str| User::from_name(name).ok().flatten().is_some();
    let user = ["postgres", "nobody"].into_iter().find(known);
    Ok(process::change_user(Some(
        user.ok_or("root needs a user `postgres` or `nobody` to run the demo as")?,
    ))?)
}

async fn show(options: &DemoOptions, programs: &Programs, guard: &Guard) -> Result<(), Box<dyn Error>> {
    screen::say(&format!("Starting PostgreSQL in {}\n", guard.dir().display()))?;
    let mut cluster = Cluster::start(programs, guard).await?;
    let password = guard::random_hex()?;
    let app = build_pooler(options, guard.dir(), &password)?;
    let control = app.control();
    let port = control.port();
    screen::say(&way_in(programs, port, &password))?;
    let load = Load { programs, guard, clients: options.clients, port, password };
    // Signals are this module's business here, so the pooler serves without obeying any.
    let serve = app.running.serve(|_| ());
    let most = options.stop_after.unwrap_or(Duration::MAX);
    tokio::select! {
        shown = screen::show_numbers(&control, &load) => Ok(shown?),
        failure = cluster.ended() => Err(failure),
        failure = load.run() => Err(failure),
        _ = serve => Ok(()), // `SHUTDOWN` on the console
        () = tokio::time::sleep(most) => Ok(()),
    }
}

/// The pooler, through the same loading of a file as any other. It asks for a password: there are others on a loopback
/// interface.
fn build_pooler(options: &DemoOptions, dir: &Path, password: &str) -> Result<App, Box<dyn Error>> {
    let (port, clients) = (options.port.unwrap_or(0), options.clients + 100);
    let users = dir.join("userlist.txt");
    private_file(&users, &format!("\"{NAME}\" \"{password}\"\n"))?;
    let ini = format!(
        "[databases]\n{NAME} = host={host} port={socket}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n\
         admin_users = {NAME}\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n\
         max_client_conn = {clients}\nlogfile = {log}\n",
        host = dir.display(),
        socket = cluster::SOCKET_NUMBER,
        users = users.display(),
        log = dir.join("pgferry.log").display(),
    );
    let path = dir.join("pgferry.ini");
    fs::write(&path, ini)?;
    let loaded = pgbouncer_compat::load(&path)?;
    let log = Log::open(false, &loaded.program, 0)?;
    log.install();
    Ok(App::build(loaded, &path, log, Vec::new(), None)?)
}

fn private_file(path: &PathBuf, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn way_in(programs: &Programs, port: u16, password: &str) -> String {
    let psql = programs.psql_to_type();
    let uri = |database: &str| format!("postgresql://{NAME}:{password}@127.0.0.1:{port}/{database}");
    format!(
        "It runs, with pgferry in front of it.\n\n  \
         an application's way in      {psql} '{database}'\n  \
         the console (SHOW POOLS ...) {psql} '{console}'\n\n\
         Ctrl-C stops it and removes everything.\n\n",
        database = uri(NAME),
        console = uri("pgferry"),
    )
}

/// What a user, a service manager or a closed terminal sends to end a program.
struct StopSignal([tokio::signal::unix::Signal; 3]);

impl StopSignal {
    fn new() -> std::io::Result<StopSignal> {
        let watch = |kind| signal(kind);
        Ok(StopSignal([
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
            watch(SignalKind::hangup())?,
        ]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
