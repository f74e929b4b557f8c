//! Throw-away PostgreSQL clusters, databases in them, and what `pg_stat_activity` says.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peer::Address;
use crate::pki::{Authority, Identity, write_private};
use crate::scratch::{Scratch, server_command};
use crate::tls::everywhere;
use crate::tools::program;
use crate::wait::{eventually, free_port, holds_within};
use crate::wire::{Client, Reply, Target};

/// The role that tests use: may log in without a password, owns the databases.
pub const USER: &str = "app";
/// A role that must log in with MD5.
pub const MD5_USER: &str = "md5_user";
/// A role that must log in with SCRAM-SHA-256.
pub const SCRAM_USER: &str = "scram_user";
/// A role that must send its password in clear text.
pub const PLAIN_USER: &str = "plain_user";
/// The password of the three.
pub const PASSWORD: &str = "open 'sesame'";
/// The superuser; no password on either socket.
pub const SUPERUSER: &str = "postgres";

/// First match decides. The groups are for roles that a test makes itself.
const HBA: &str = "
local all         all                          trust
host  all         postgres        127.0.0.1/32 trust
host  all         +md5_logins     127.0.0.1/32 md5
host  all         +scram_logins   127.0.0.1/32 scram-sha-256
host  all         +plain_logins   127.0.0.1/32 password
host  all         all             127.0.0.1/32 trust
host  replication all             127.0.0.1/32 trust
";

/// Settings of every cluster: nothing survives a power cut, nothing happens in the background.
const CONFIG: &str = "
listen_addresses = '127.0.0.1'
max_connections = 300
shared_buffers = 32MB
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
jit = off
wal_level = logical
max_prepared_transactions = 10
log_line_prefix = '%m [%p] %q%u@%d %a: '
timezone = 'UTC'
log_timezone = 'UTC'
";

/// How a cluster differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    config: String,
    hba: String,
    tls: Option<Tls>,
}

/// The certificates of a cluster.
#[derive(Debug, Clone)]
struct Tls {
    identity: Identity,
    /// In PEM; it signs the certificates of clients.
    authority: Option<String>,
}

impl Options {
    /// The usual cluster.
    pub fn new() -> Options {
        Options::default()
    }

    /// With one more line in `postgresql.conf`.
    pub fn config(mut self, line: &str) -> Options {
        self.config.push_str(&format!("{line}\n"));
        self
    }

    /// With TLS: its certificate, and the authority of its clients' certificates, for `cert` and `clientcert` in
    /// `pg_hba.conf`.
    pub fn tls(mut self, identity: &Identity, authority: Option<&Authority>) -> Options {
        self.tls = Some(Tls { identity: identity.clone(), authority: authority.map(Authority::pem) });
        self
    }

    /// With a line in front of the others in `pg_hba.conf`.
    pub fn hba(mut self, line: &str) -> Options {
        self.hba.push_str(&format!("{line}\n"));
        self
    }
}

/// How PostgreSQL is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for the clients.
    Smart,
    /// Disconnects the clients, rolls back.
    Fast,
    /// No checkpoint: recovery at the next start.
    Immediate,
    /// SIGKILL of the postmaster; its children notice by themselves.
    Kill,
}

/// A running cluster; clones are handles to the same one. It is gone with the last handle.
#[derive(Debug, Clone)]
pub struct Postgres(Arc<Cluster>);

#[derive(Debug)]
struct Cluster {
    port: u16,
    dir: PathBuf,
    postmaster: Mutex<Child>,
    databases: AtomicU32,
    scratch: Mutex<Scratch>,
}

impl Postgres {
    /// The cluster that all tests of this process share. Tests that stop, freeze or configure a server start their own.
    pub fn shared() -> Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        let options = || match everywhere() {
            Some(everywhere) => Options::new().tls(&everywhere.identity, None),
            None => Options::new(),
        };
        SHARED.get_or_init(|| Postgres::start(options())).clone()
    }

    /// A cluster of the caller's own.
    pub fn start(options: Options) -> Postgres {
        let scratch = Scratch::new("pg");
        let data = scratch.path().join("data");
        initdb(&data);
        let config = format!("{CONFIG}{}", socket_directory(&scratch));
        append(&data.join("postgresql.conf"), &format!("{config}{}", options.config));
        if let Some(tls) = &options.tls {
            append(&data.join("postgresql.conf"), "ssl = on\n");
            if let Some(authority) = &tls.authority {
                append(&data.join("postgresql.conf"), "ssl_ca_file = 'root.crt'\n");
                write_private(&data.join("root.crt"), authority);
            }
            write_identity(&data, &tls.identity);
        }
        fs::write(data.join("pg_hba.conf"), format!("{}{HBA}", options.hba)).expect("write pg_hba.conf");

        let postgres = Postgres::launch(scratch);
        postgres.create_roles();
        postgres
    }

    /// Starts what is in a directory.
    pub(crate) fn launch(mut scratch: Scratch) -> Postgres {
        let (port, postmaster) = launch_anywhere(&mut scratch);
        Postgres(Arc::new(Cluster {
            port,
            dir: scratch.path().to_path_buf(),
            postmaster: Mutex::new(postmaster),
            databases: AtomicU32::new(0),
            scratch: Mutex::new(scratch),
        }))
    }

    /// Gives a cluster with TLS another certificate, which new connections see.
    #[track_caller]
    pub fn replace_certificate(&self, identity: &Identity) {
        write_identity(&self.0.dir.join("data"), identity);
        self.reload();
    }

    /// Changes a setting by `ALTER SYSTEM`; in force for connections that begin after this.
    #[track_caller]
    pub fn configure(&self, assignment: &str) {
        self.sql(&format!("alter system set {assignment}"));
        self.reload();
    }

    /// Has it read its files again, and waits until it has.
    #[track_caller]
    fn reload(&self) {
        let loaded = || self.sql("select pg_conf_load_time()").rows();
        let before = loaded();
        self.sql("select pg_reload_conf()");
        eventually("PostgreSQL has read its files", Duration::from_secs(20), || loaded() != before);
    }

    fn create_roles(&self) {
        let login = |user: &str, group: &str, encryption: &str| {
            let password = PASSWORD.replace('\'', "''");
            format!(
                "create role {group}; set password_encryption = '{encryption}'; \
                 create role {user} login password '{password}' in role {group};"
            )
        };
        let mut admin = Client::login(&self.superuser("template1"));
        admin.execute(&format!("create role {USER} login createdb; grant all on schema public to public"));
        admin.execute(&login(MD5_USER, "md5_logins", "md5"));
        admin.execute(&login(SCRAM_USER, "scram_logins", "scram-sha-256"));
        admin.execute(&login(PLAIN_USER, "plain_logins", "scram-sha-256"));
        admin.terminate();
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The TCP address.
    pub fn address(&self) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.port)))
    }

    /// The Unix socket.
    pub fn unix_address(&self) -> Address {
        Address::Unix(self.0.dir.join(format!(".s.PGSQL.{}", self.0.port)))
    }

    /// The directory of the Unix socket (`host=` in a connection string).
    pub fn socket_dir(&self) -> &Path {
        &self.0.dir
    }

    /// The superuser's way in, over the Unix socket.
    pub fn superuser(&self, database: &str) -> Target {
        Target::new(self.unix_address(), SUPERUSER, database)
    }

    /// A new empty database whose name begins with `hint`; [`USER`] owns it, everybody may create tables in it. Dropped
    /// with the value, connections or not.
    pub fn database(&self, hint: &str) -> Database {
        let number = self.0.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("{hint}_{number}");
        self.sql(&format!("create database {name} owner {USER}"));
        Database { postgres: self.clone(), name }
    }

    /// Runs SQL as superuser in the database `postgres`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Reply {
        Client::login(&self.superuser("postgres")).execute(sql)
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.0.postmaster.lock().unwrap().id()
    }

    /// Sends a signal to the postmaster (not to the server processes).
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Sends a signal to all processes of the cluster, e.g. SIGSTOP and SIGCONT.
    pub fn signal_all(&self, signal: Signal) {
        processes(self.pid()).into_iter().for_each(|pid| send_signal(pid, signal));
    }

    /// Stops the cluster and waits until it has ended.
    #[track_caller]
    pub fn stop(&self, how: Stop) {
        self.signal(match how {
            Stop::Smart => Signal::SIGTERM,
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
            Stop::Kill => Signal::SIGKILL,
        });
        let mut postmaster = self.0.postmaster.lock().unwrap();
        eventually("PostgreSQL stops", Duration::from_secs(60), || {
            postmaster.try_wait().expect("wait for the postmaster").is_some()
        });
    }

    /// Starts the cluster again on the same port.
    #[track_caller]
    pub fn start_again(&self) {
        let mut scratch = self.0.scratch.lock().unwrap();
        let mut postmaster = self.0.postmaster.lock().unwrap();
        assert!(postmaster.try_wait().expect("wait for the postmaster").is_some(), "still running");
        // After SIGKILL of the postmaster a start fails until the last old server process has noticed.
        eventually("PostgreSQL starts again", Duration::from_secs(60), || {
            *postmaster = spawn(&mut scratch, self.0.port);
            wait_ready(&mut postmaster, scratch.path())
        });
    }

    /// Whether the cluster runs.
    pub fn is_running(&self) -> bool {
        self.0.postmaster.lock().unwrap().try_wait().expect("wait for the postmaster").is_none()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        read_log(&self.0.dir)
    }

    /// Whether the server has logged this text.
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Waits until the server has logged this text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let what = format!("{text:?} in PostgreSQL's log");
        eventually(&what, Duration::from_secs(20), || self.log_contains(text));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let postmaster = self.postmaster.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Ok(None) = postmaster.try_wait() {
            send_signal(postmaster.id(), Signal::SIGQUIT);
            processes(postmaster.id()).into_iter().for_each(|pid| send_signal(pid, Signal::SIGCONT));
            if !holds_within(Duration::from_secs(10), || !matches!(postmaster.try_wait(), Ok(None))) {
                let _ = postmaster.kill();
            }
        }
        let _ = postmaster.wait();
    }
}

/// A database of one test.
#[derive(Debug)]
pub struct Database {
    postgres: Postgres,
    name: String,
}

impl Database {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// [`USER`]'s way in over TCP, without a pooler.
    pub fn target(&self) -> Target {
        Target::new(self.postgres.address(), USER, &self.name)
    }

    /// Logs in as [`USER`] without a pooler.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::login(&self.target())
    }

    /// Runs SQL as superuser in this database.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Reply {
        Client::login(&self.postgres.superuser(&self.name)).execute(sql)
    }

    /// The single value that a query yields for the superuser, empty for NULL.
    #[track_caller]
    pub fn scalar(&self, sql: &str) -> String {
        Client::login(&self.postgres.superuser(&self.name)).scalar(sql)
    }

    /// Server processes of this database for `user`, without those that only look (superuser).
    #[track_caller]
    pub fn backends(&self, user: &str) -> Vec<Backend> {
        let sql = format!(
            "select pid, coalesce(state, ''), query from pg_stat_activity \
             where datname = '{}' and usename = '{user}' and backend_type = 'client backend' order by pid",
            self.name
        );
        let backend = |mut row: Vec<Option<String>>| Backend {
            pid: row[0].take().unwrap_or_default().parse().expect("a process id"),
            state: row[1].take().unwrap_or_default(),
            query: row[2].take().unwrap_or_default(),
        };
        self.postgres.sql(&sql).rows().into_iter().map(backend).collect()
    }

    /// Begins to count `user`'s server processes of this database, over and over.
    pub fn sample_backends(&self, user: &str) -> Sampler {
        Sampler::start(Client::login(&self.postgres.superuser("postgres")), &self.name, user)
    }

    /// Lines of the server's log that belong to this database.
    pub fn log(&self) -> String {
        let mark = format!("@{} ", self.name);
        let log = self.postgres.log();
        log.lines().filter(|line| line.contains(&mark)).map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut admin) = Client::try_login(&self.postgres.superuser("postgres")) {
            let sql = format!("drop database if exists {} with (force)", self.name);
            admin.send(crate::frontend::query(&sql));
            while let Ok(message) = admin.try_read() {
                if message.tag == b'Z' {
                    break;
                }
            }
        }
    }
}

/// A row of `pg_stat_activity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Process id.
    pub pid: u32,
    /// `active`, `idle`, `idle in transaction`, ...
    pub state: String,
    /// The latest statement.
    pub query: String,
}

/// Looks at `pg_stat_activity` all the time and keeps the largest number seen.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    fn start(mut admin: Client, database: &str, user: &str) -> Sampler {
        let sql = format!(
            "select count(*) from pg_stat_activity \
             where datname = '{database}' and usename = '{user}' and backend_type = 'client backend'"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicUsize::new(0));
        let (stopped, highest) = (stop.clone(), peak.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let count = admin.scalar(&sql).parse().expect("a number");
                highest.fetch_max(count, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Sampler { stop, peak, thread: Some(thread) }
    }

    /// The largest number so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Looks no more: the largest number seen.
    pub fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sampling thread");
        }
        self.peak()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends a signal; a process that is gone already is no fault.
pub fn send_signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// The postmaster and its children; only itself if it is gone.
fn processes(postmaster: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
    [postmaster].into_iter().chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// The line of `postgresql.conf` that puts the socket in this directory.
pub(crate) fn socket_directory(scratch: &Scratch) -> String {
    format!("unix_socket_directories = '{}'\n", scratch.path().display())
}

fn initdb(data: &Path) {
    let mut command = server_command(&program("initdb"));
    command.arg("-D").arg(data).args([
        "-U",
        SUPERUSER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]);
    let output = command.stdin(Stdio::null()).output().expect("start initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

fn write_identity(data: &Path, identity: &Identity) {
    write_private(&data.join("server.crt"), &identity.cert);
    write_private(&data.join("server.key"), &identity.key);
}

pub(crate) fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    fs::write(path, old + text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

/// Starts the postmaster on a free port; another one if somebody was faster.
fn launch_anywhere(scratch: &mut Scratch) -> (u16, Child) {
    for _ in 0..5 {
        let port = free_port();
        let mut postmaster = spawn(scratch, port);
        if wait_ready(&mut postmaster, scratch.path()) {
            return (port, postmaster);
        }
        let log = read_log(scratch.path());
        assert!(log.contains("Address already in use"), "PostgreSQL does not start: {log}");
    }
    panic!("PostgreSQL found its port in use five times: {}", read_log(scratch.path()));
}

fn spawn(scratch: &mut Scratch, port: u16) -> Child {
    let log =
        File::options().create(true).append(true).open(scratch.path().join("log")).expect("open the log");
    let mut command = server_command(&program("postgres"));
    command.arg("-D").arg(scratch.path().join("data")).args(["-p", &port.to_string()]);
    let postmaster = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let postmaster = postmaster.expect("start postgres");
    scratch.guard(postmaster.id());
    postmaster
}

/// Waits until the postmaster accepts connections; false if it has ended instead.
fn wait_ready(postmaster: &mut Child, dir: &Path) -> bool {
    let pid = postmaster.id().to_string();
    // The lock file: the process id in its first line, the state in its eighth.
    let is_ready = || {
        let text = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready")
    };
    let mut ended = false;
    let settled = holds_within(Duration::from_secs(60), || {
        ended = postmaster.try_wait().expect("wait for the postmaster").is_some();
        ended || is_ready()
    });
    if !settled {
        let _ = postmaster.kill();
        let _ = postmaster.wait();
        panic!("PostgreSQL is not ready: {}", read_log(dir));
    }
    !ended
}

fn read_log(dir: &Path) -> String {
    let bytes = fs::read(dir.join("log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
