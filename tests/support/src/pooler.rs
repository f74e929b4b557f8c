//! A pooler as a process: pgferry, or PgBouncer with the same file for comparing the two.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::peer::Address;
use crate::postgres::{Database, USER, send_signal};
use crate::proc;
use crate::scratch::{Scratch, server_command, server_user};
use crate::tls::everywhere;
use crate::wait::{eventually, free_port, holds_within};
use crate::wire::{Client, Target};

/// The console user of every pooler started here; needs no password unless the test says so.
pub const ADMIN: &str = "admin";

/// The configuration of a pooler, put together line by line.
#[derive(Debug, Clone)]
pub struct PoolerBuilder {
    binary: PathBuf,
    databases: Vec<String>,
    users: Vec<String>,
    applications: Vec<String>,
    peers: Vec<(u16, String)>,
    settings: Vec<(String, String)>,
    userlist: Vec<(String, String)>,
    env: Vec<(String, String)>,
    /// Other files in its directory, by name.
    beside: Vec<(String, String)>,
    /// The whole file, in place of all that would stand in it.
    file: Option<String>,
}

impl PoolerBuilder {
    /// A pooler of this binary that lets [`USER`] and [`ADMIN`] in without a password, in transaction mode.
    pub fn new(binary: impl Into<PathBuf>) -> PoolerBuilder {
        let builder = PoolerBuilder {
            binary: binary.into(),
            databases: Vec::new(),
            users: Vec::new(),
            applications: Vec::new(),
            peers: Vec::new(),
            settings: Vec::new(),
            userlist: Vec::new(),
            env: Vec::new(),
            beside: Vec::new(),
            file: None,
        };
        let builder = match everywhere() {
            Some(everywhere) => builder
                .beside("everywhere.crt", &everywhere.identity.cert)
                .beside("everywhere.key", &everywhere.identity.key)
                .setting("client_tls_cert_file", "{dir}/everywhere.crt")
                .setting("client_tls_key_file", "{dir}/everywhere.key")
                .setting("client_tls_sslmode", "prefer"),
            None => builder,
        };
        builder
            .setting("auth_type", "trust")
            .setting("pool_mode", "transaction")
            .setting("admin_users", ADMIN)
            .setting("server_login_retry", 1)
            .secret(USER, "")
            .secret(ADMIN, "")
    }

    /// Whether this is PgBouncer (by the file's name), where a test must allow for one of its known faults.
    pub fn is_pgbouncer(&self) -> bool {
        self.binary.file_name() == Some(OsStr::new("pgbouncer"))
    }

    /// A line of `[databases]`: this database under its own name, over TCP, with further connection parameters.
    pub fn database(self, database: &Database, params: &str) -> PoolerBuilder {
        self.database_as(database.name(), database, params)
    }

    /// Like [`PoolerBuilder::database`] under another name.
    pub fn database_as(self, name: &str, database: &Database, params: &str) -> PoolerBuilder {
        let (port, dbname) = (database.postgres().port(), database.name());
        self.database_line(name, &format!("host=127.0.0.1 port={port} dbname={dbname} {params}"))
    }

    /// A line of `[databases]`: name and connection string.
    pub fn database_line(mut self, name: &str, connection: &str) -> PoolerBuilder {
        self.databases.push(format!("{name} = {connection}"));
        self
    }

    /// This text as `pooler.ini`, with `{dir}` for the pooler's directory and `{port}` for its port. Only the user list is
    /// written besides; the Unix socket must be in that directory.
    pub fn file(mut self, text: &str) -> PoolerBuilder {
        self.file = Some(text.to_owned());
        self
    }

    /// A line of `[users]`.
    pub fn user_line(mut self, name: &str, params: &str) -> PoolerBuilder {
        self.users.push(format!("{name} = {params}"));
        self
    }

    /// A line of `[applications]`, which PgBouncer does not have.
    pub fn application_line(mut self, pattern: &str, params: &str) -> PoolerBuilder {
        self.applications.push(format!("{pattern} = {params}"));
        self
    }

    /// A line of `[peers]`; in place of an earlier one of the same number.
    pub fn peer_line(mut self, id: u16, params: &str) -> PoolerBuilder {
        self.peers.retain(|(known, _)| *known != id);
        self.peers.push((id, params.into()));
        self
    }

    /// A line of `[pgbouncer]`; in place of an earlier one of the same name. `{dir}` is the directory of the pooler's files.
    pub fn setting(mut self, name: &str, value: impl ToString) -> PoolerBuilder {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// A line of the user list; in place of an earlier one of the same name.
    pub fn secret(mut self, user: &str, secret: &str) -> PoolerBuilder {
        self.userlist.retain(|(known, _)| known != user);
        self.userlist.push((user.into(), secret.into()));
        self
    }

    /// One more file in `{dir}`; in place of an earlier one of the same name.
    pub fn beside(mut self, name: &str, text: &str) -> PoolerBuilder {
        self.beside.retain(|(known, _)| known != name);
        self.beside.push((name.into(), text.into()));
        self
    }

    /// An environment variable of the process.
    pub fn env(mut self, name: &str, value: &str) -> PoolerBuilder {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it accepts connections, on another port if somebody took the first.
    #[track_caller]
    pub fn start(self) -> Pooler {
        for _ in 0..5 {
            match self.try_start() {
                Ok(pooler) => return pooler,
                Err(StartError::PortInUse) => {}
                Err(StartError::Ended(status, log)) => panic!("the pooler ended with {status}:\n{log}"),
            }
        }
        panic!("the pooler found its port in use five times");
    }

    /// Starts it on a port that was free a moment ago, for tests of what makes a pooler refuse to start.
    pub fn try_start(&self) -> Result<Pooler, StartError> {
        let pooler = self.spawn_at(free_port(), |scratch| spawn(&self.binary, &self.env, &[], scratch));
        pooler.wait_until_up().map(|()| pooler)
    }

    /// Starts it on a port that others may have, too (`so_reuseport`).
    #[track_caller]
    pub fn start_on(self, port: u16) -> Pooler {
        let pooler = self.spawn_at(port, |scratch| spawn(&self.binary, &self.env, &[], scratch));
        pooler.wait_for_log("process up: ");
        pooler
    }

    /// Starts it as systemd does with a listening socket that it has bound itself.
    #[track_caller]
    pub fn start_with_socket(self, socket: &TcpListener, port: u16) -> Pooler {
        let passed = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let pooler = self.spawn_at(port, |scratch| {
            let mut shell = server_command(Path::new("/bin/sh"));
            shell.args(["-c", "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$1\" </dev/null"]);
            shell
                .arg(runnable(&self.binary))
                .arg(scratch.path().join("pooler.ini"))
                .stdin(passed)
                .stderr(Stdio::null());
            let process = shell.spawn().expect("start a shell");
            scratch.guard(process.id());
            process
        });
        pooler.wait_for_log("process up: ");
        pooler
    }

    fn spawn_at(&self, port: u16, spawn: impl FnOnce(&mut Scratch) -> Child) -> Pooler {
        let mut scratch = Scratch::new("pooler");
        self.write_files(&scratch, port);
        Pooler {
            builder: self.clone(),
            port,
            process: Mutex::new(spawn(&mut scratch)),
            end_was_seen: AtomicBool::new(false),
            scratch: Mutex::new(scratch),
        }
    }

    fn write_files(&self, scratch: &Scratch, port: u16) {
        scratch.write("pooler.ini", &self.ini(scratch.path(), port));
        let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let line = |(user, secret): &(String, String)| format!("{} {}\n", quote(user), quote(secret));
        self.beside.iter().for_each(|(name, text)| drop(scratch.write(name, text)));
        scratch.write("userlist.txt", &self.userlist.iter().map(line).collect::<String>());
    }

    fn ini(&self, dir: &Path, port: u16) -> String {
        let dir = dir.display().to_string();
        if let Some(file) = &self.file {
            return file.replace("{dir}", &dir).replace("{port}", &port.to_string());
        }
        let settings: String =
            self.settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let settings = settings.replace("{dir}", &dir);
        let applications = match self.applications.as_slice() {
            [] => String::new(),
            lines => format!("[applications]\n{}\n", lines.join("\n")),
        };
        // PgBouncer has it since 1.19.
        let peers = match self.peers.as_slice() {
            [] => String::new(),
            peers => {
                peers.iter().fold("[peers]\n".into(), |text, (id, params)| format!("{text}{id} = {params}\n"))
            }
        };
        format!(
            "[databases]\n{}\n\n[users]\n{}\n\n{peers}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {dir}\nlogfile = {dir}/log\nauth_file = {dir}/userlist.txt\n{settings}\n{applications}",
            self.databases.join("\n"),
            self.users.join("\n"),
        )
    }
}

/// Why a pooler did not come up.
#[derive(Debug)]
pub enum StartError {
    /// Somebody else listens on its port.
    PortInUse,
    /// It has ended; with all that it had to say.
    Ended(ExitStatus, String),
}

/// A running pooler. Dropping it kills the process; if the test has not failed yet, it fails when the process had
/// panicked, or had died without the test having seen it ([`Pooler::ended`]).
#[derive(Debug)]
pub struct Pooler {
    builder: PoolerBuilder,
    port: u16,
    process: Mutex<Child>,
    /// The caller has looked and knows that the process has ended.
    end_was_seen: AtomicBool,
    scratch: Mutex<Scratch>,
}

impl Pooler {
    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TCP address.
    pub fn address(&self) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    /// The Unix socket.
    pub fn unix_address(&self) -> Address {
        Address::Unix(self.dir().join(format!(".s.PGSQL.{}", self.port)))
    }

    /// The directory of its files: `pooler.ini`, `userlist.txt`, `log`, `stderr` and the Unix socket.
    pub fn dir(&self) -> PathBuf {
        self.scratch.lock().unwrap().path().to_path_buf()
    }

    /// [`USER`]'s way in over TCP.
    pub fn target(&self, database: &str) -> Target {
        let target = Target::new(self.address(), USER, database);
        match everywhere() {
            Some(everywhere) => target.tls(&everywhere.client),
            None => target,
        }
    }

    /// Logs in as [`USER`].
    #[track_caller]
    pub fn connect(&self, database: &str) -> Client {
        Client::login(&self.target(database))
    }

    /// Logs in to the console as [`ADMIN`].
    #[track_caller]
    pub fn console(&self) -> Client {
        Client::login(&self.target("pgbouncer").user(ADMIN))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        proc::rss(self.pid()).expect("the pooler runs")
    }

    /// Processor time (user + system) used so far.
    pub fn cpu_time(&self) -> Duration {
        proc::cpu_time(self.pid()).expect("the pooler runs")
    }

    /// Lets it have so many file descriptors more than it has now (program `prlimit`).
    #[track_caller]
    pub fn allow_files(&self, more: usize) {
        let now = || proc::open_files(self.pid()).expect("the pooler runs");
        let (mut before, mut same) = (now(), 0);
        eventually("nothing is opened or closed", Duration::from_secs(10), || {
            same = if before == now() { same + 1 } else { 0 };
            before = now();
            same == 5
        });
        let taken = |number: &usize| Path::new(&format!("/proc/{}/fd/{number}", self.pid())).is_symlink();
        let most = (0..).filter(|number| !taken(number)).nth(more).expect("a number");
        let mut prlimit = server_command(Path::new("prlimit")); // only who may send it signals
        prlimit.args(["--pid", &self.pid().to_string(), &format!("--nofile={most}:")]);
        assert!(prlimit.status().expect("prlimit").success());
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        let ended = self.process.lock().unwrap().try_wait().expect("wait for the pooler");
        self.end_was_seen.fetch_or(ended.is_some(), Ordering::Relaxed);
        ended
    }

    /// Waits until it has ended by itself, e.g. after a signal.
    #[track_caller]
    pub fn wait_ended(&self) -> ExitStatus {
        eventually("the pooler ends", Duration::from_secs(20), || self.ended().is_some());
        self.ended().expect("it has ended")
    }

    /// Writes its files anew with the changed configuration, and has it read them: RELOAD on the console.
    #[track_caller]
    pub fn reload(&mut self, change: impl FnOnce(PoolerBuilder) -> PoolerBuilder) {
        self.rewrite(change);
        self.console().execute("RELOAD");
    }

    /// Writes its files anew with the changed configuration, and leaves it to the caller to have them read.
    pub fn rewrite(&mut self, change: impl FnOnce(PoolerBuilder) -> PoolerBuilder) {
        self.builder = change(self.builder.clone());
        self.builder.write_files(&self.scratch.lock().unwrap(), self.port);
    }

    /// Starts another process in its place that takes over from it (`-R`), and waits until that has done so far that it
    /// accepts connections. Returns the old process.
    #[track_caller]
    pub fn take_over(&self) -> Former {
        let ups = || self.log().matches("process up: ").count();
        let before = ups();
        let next = spawn(&self.builder.binary, &self.builder.env, &["-R"], &mut self.scratch.lock().unwrap());
        let former = Former(std::mem::replace(&mut *self.process.lock().unwrap(), next));
        eventually("the next process is up", Duration::from_secs(20), || ups() > before);
        former
    }

    /// Its log file so far.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// What it wrote to standard error: the log again, and what a dying process says.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Waits until it has logged this text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let what = format!("{text:?} in the pooler's log");
        eventually(&what, Duration::from_secs(10), || self.log().contains(text));
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The Unix socket tells that it is this process which accepts, the log that it has the port as well.
    fn wait_until_up(&self) -> Result<(), StartError> {
        let in_use = || self.stderr().contains("in use") || self.log().contains("in use");
        let up = || {
            self.ended().is_some()
                || (self.unix_address().connect().is_ok() && self.address().connect().is_ok())
                || in_use()
        };
        assert!(holds_within(Duration::from_secs(20), up), "the pooler does not come up: {}", self.stderr());
        match self.ended() {
            _ if in_use() => Err(StartError::PortInUse),
            Some(status) => Err(StartError::Ended(status, self.stderr())),
            None => Ok(()),
        }
    }
}

/// A process from which another has taken over. Dropping it kills it.
#[derive(Debug)]
pub struct Former(Child);

impl Former {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("wait for the old process")
    }

    /// Waits until it has gone by itself.
    #[track_caller]
    pub fn wait_ended(&mut self) -> ExitStatus {
        eventually("the old process ends", Duration::from_secs(20), || self.ended().is_some());
        self.ended().expect("it has ended")
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let panics = self.stderr().contains("panicked at");
        let (log, stderr) = (self.log(), self.stderr());
        let process = self.process.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let ended = process.try_wait().ok().flatten();
        let _ = process.kill();
        let _ = process.wait();
        let died = ended.filter(|status| !status.success() && !self.end_was_seen.load(Ordering::Relaxed));
        if thread::panicking() {
            let said = if log.is_empty() { &stderr } else { &log };
            eprintln!("the pooler's last words ({ended:?}):\n{}", last_lines(said, 40));
            if panics {
                eprintln!("its standard error:\n{}", last_lines(&stderr, 40));
            }
        } else {
            assert!(died.is_none() && !panics, "the pooler died ({died:?}):\n{}", last_lines(&stderr, 60));
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn spawn(binary: &Path, env: &[(String, String)], flags: &[&str], scratch: &mut Scratch) -> Child {
    let stderr = scratch.path().join("stderr");
    let stderr = fs::OpenOptions::new().create(true).append(true).open(stderr).expect("create stderr");
    let mut command = server_command(&runnable(binary));
    command
        .args(flags)
        .arg(scratch.path().join("pooler.ini"))
        .envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let process = command.spawn().unwrap_or_else(|e| panic!("start {}: {e}", binary.display()));
    scratch.guard(process.id());
    process
}

/// The binary, or a copy of it where the user as whom it runs cannot reach it (root's build directory).
fn runnable(binary: &Path) -> PathBuf {
    static COPY: OnceLock<(PathBuf, Scratch)> = OnceLock::new();
    let closed =
        |dir: &Path| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0);
    if server_user().is_none() || !binary.ancestors().skip(1).any(closed) {
        return binary.to_path_buf();
    }
    let (copied, scratch) = COPY.get_or_init(|| {
        let scratch = Scratch::new("binary");
        let copy = scratch.path().join(binary.file_name().expect("a file name"));
        fs::copy(binary, copy).unwrap_or_else(|e| panic!("copy {}: {e}", binary.display()));
        (binary.to_path_buf(), scratch)
    });
    assert_eq!(copied, binary, "one process tests one binary");
    scratch.path().join(binary.file_name().expect("a file name"))
}
