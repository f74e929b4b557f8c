//! `pgferry demo`: a throw-away PostgreSQL, the pooler in front of it, a little load, and live numbers until it is
//! told to stop. It lives in one directory and leaves nothing behind; see `guard`. With replicas the servers change places
//! under the load.

mod client;
mod crowd;
mod experience;
mod guard;
mod hosts;
mod keys;
mod load;
mod postgres;
mod programs;
mod screen;
mod stage;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use pgbouncer_compat::cli::DemoOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::logging::Log;
use crate::{App, process};
use crowd::WayIn;
use experience::Experience;
use guard::Guard;
use keys::Keys;
use load::Load;
use programs::Programs;
use screen::Scene;
use stage::{Order, Stage};

/// Name of the database and of the role that owns it.
const NAME: &str = "demo";

/// Server connections to a host: few enough that the default load has to share them.
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
    let experience = Experience::default();
    let outcome = runtime.block_on(async {
        let mut stop = StopSignal::new()?;
        tokio::select! {
            outcome = show(options, &programs, &guard, &experience) => outcome,
            () = stop.received() => Ok(()),
        }
    });
    drop(runtime);
    let lived_through = experience.summary(Instant::now());
    drop(guard);
    if outcome.is_ok() {
        if options.replicas > 0 {
            let _ = screen::say(&format!("\nClients: {lived_through}\n"));
        }
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

async fn show(
    options: &DemoOptions,
    programs: &Programs,
    guard: &Guard,
    experience: &Experience,
) -> Result<(), Box<dyn Error>> {
    screen::say(&format!("Starting PostgreSQL in {}\n", guard.dir().display()))?;
    let mut stage = Stage::start(programs, guard, options.replicas).await?;
    let password = guard::random_hex()?;
    let numbers: Vec<u16> = stage.numbers().collect();
    let app = build_pooler(options, guard.dir(), &password, &numbers)?;
    let control = app.control();
    let port = control.port();
    screen::say(&way_in(programs, port, &password))?;
    let (orders, taken) = mpsc::unbounded_channel();
    let (told, news) = mpsc::unbounded_channel();
    let mut keys = if options.replicas > 0 { Keys::open() } else { None };
    let scene = Scene { experience: experience.clone(), news, keys: keys.is_some() };
    let load = Load { programs, guard, clients: options.clients, port, password };
    if options.replicas == 0
        && let Some(why) = load.why_none()
    {
        screen::say(&format!("{why}\n\n"))?;
    }
    // Signals are this module's business here, so the pooler serves without obeying any.
    let serve = app.running.serve(|_| ());
    let most = options.stop_after.unwrap_or(Duration::MAX);
    tokio::select! {
        shown = screen::show_numbers(&control, (options.replicas > 0).then_some(scene)) => Ok(shown?),
        failure = stage.play(taken, &told) => Err(failure),
        failure = send_load(options, &load, experience) => Err(failure),
        never = stage::give_in_time(in_time(options), &orders) => match never {},
        lost = obey(&mut keys, &orders) => Err(lost.into()),
        _ = serve => Ok(()), // `SHUTDOWN` on the console
        () = tokio::time::sleep(most) => Ok(()),
    }
}

/// Returns only if that fails.
async fn send_load(options: &DemoOptions, load: &Load<'_>, experience: &Experience) -> Box<dyn Error> {
    if options.replicas == 0 {
        return load.run().await;
    }
    let way_in = WayIn { port: load.port, password: load.password.clone() };
    if let Err(error) = way_in.fill(options.clients).await {
        return error;
    }
    way_in.work(options.clients, experience).await;
    std::future::pending().await // none was asked for
}

fn in_time(options: &DemoOptions) -> Vec<(Duration, Order)> {
    let at = [
        (options.stop_primary_after, Order::StopPrimary),
        (options.promote_after, Order::Promote),
        (options.rejoin_after, Order::Rejoin),
    ];
    at.into_iter().filter_map(|(after, order)| Some((after?, order))).collect()
}

/// Passes on what keys stand for, until the terminal is gone.
async fn obey(keys: &mut Option<Keys>, orders: &mpsc::UnboundedSender<Order>) -> std::io::Error {
    let Some(keys) = keys else { return std::future::pending().await };
    loop {
        match keys.next().await {
            Ok(key) => Order::of(key).into_iter().for_each(|order| {
                let _ = orders.send(order); // nobody takes any at the end
            }),
            Err(error) => return error,
        }
    }
}

/// The pooler, through the same loading of a file as any other. It asks for a password: there are others on a loopback
/// interface.
fn build_pooler(
    options: &DemoOptions,
    dir: &Path,
    password: &str,
    numbers: &[u16],
) -> Result<App, Box<dyn Error>> {
    let (port, clients) = (options.port.unwrap_or(0), options.clients + 100);
    let users = dir.join("userlist.txt");
    private_file(&users, &format!("\"{NAME}\" \"{password}\"\n"))?;
    let servers = servers(dir, numbers);
    let ini = format!(
        "[databases]\n{NAME} = {servers}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n\
         admin_users = {NAME}\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n\
         max_client_conn = {clients}\nlogfile = {log}\n",
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

/// Where the database is: the first is the primary for now.
fn servers(dir: &Path, numbers: &[u16]) -> String {
    let dir = dir.display();
    let (primary, replicas) = numbers.split_first().map_or((0, &[][..]), |(first, others)| (*first, others));
    let at: Vec<String> = replicas.iter().map(|number| format!("{dir}:{number}")).collect();
    match at.is_empty() {
        true => format!("host={dir} port={primary}"),
        false => format!("host={dir} port={primary} replicas={} read_routing=auto", at.join(",")),
    }
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
