//! Who takes part, and how each is started.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::peer::Address;
use support::pki::{Authority, Files};
use support::pooler::{Pooler, PoolerBuilder, StartError};
use support::postgres::{self, Database, PASSWORD, Postgres, SCRAM_USER, SUPERUSER};
use support::tls::ClientTls;
use support::wire::{Client, Target};

use crate::Result;
use crate::options::Options;
use crate::work::{Link, Protocol, Work};

/// One that does the work.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// Clients connect to the server itself.
    Postgresql,
    /// See [`crate::relay`].
    Relay,
    Pgbouncer {
        binary: PathBuf,
        /// Whether it knows protocol-level prepared statements in transaction mode.
        prepared: bool,
    },
    Pgferry {
        binary: PathBuf,
        /// `None`: its default.
        workers: Option<u32>,
    },
}

impl Contender {
    /// All whose programs there are, and a remark about each that is missing.
    pub(crate) fn all(options: &Options) -> (Vec<Contender>, Vec<String>) {
        let mut contenders = vec![Contender::Postgresql, Contender::Relay];
        let mut missing = Vec::new();
        match version(&options.pgbouncer) {
            Some(version) => contenders.push(Contender::Pgbouncer {
                binary: options.pgbouncer.clone(),
                prepared: knows_prepared_statements(&version),
            }),
            None => missing.push(format!("no PgBouncer at {}, left out", options.pgbouncer.display())),
        }
        let pgferry = |workers| Contender::Pgferry { binary: options.pgferry.clone(), workers };
        match (version(&options.pgferry), options.workers) {
            (None, _) => missing.push(format!("no pgferry at {}, left out", options.pgferry.display())),
            (Some(_), Some(workers)) => contenders.push(pgferry(Some(workers))),
            (Some(_), None) => contenders.extend([pgferry(Some(1)), pgferry(None)]),
        }
        (contenders, missing)
    }

    /// What `--version` says.
    pub(crate) fn version(&self) -> Option<String> {
        match self {
            Contender::Postgresql => version(&support::tools::program("postgres")),
            Contender::Relay => None,
            Contender::Pgbouncer { binary, .. } | Contender::Pgferry { binary, .. } => version(binary),
        }
    }

    /// Why this one can't do that work, if it can't.
    pub(crate) fn excuse(&self, work: Work) -> Option<&'static str> {
        match (self, work) {
            (
                Contender::Pgbouncer { prepared: false, .. },
                Work::Queries { protocol: Protocol::Prepared, .. },
            ) => Some("no prepared statements in transaction mode before 1.21"),
            (Contender::Postgresql | Contender::Relay, Work::Idle { .. } | Work::Beside) => {
                Some("a server process a client")
            }
            (Contender::Relay, Work::Secured { .. } | Work::Logins { link: Link::Client | Link::Both }) => {
                Some("only relays")
            }
            _ => None,
        }
    }

    /// Starts it, fresh for every run.
    pub(crate) fn start(&self, stage: &Stage, access: Access, link: Link) -> Result<Running> {
        let pooler = |binary| pooler(binary, stage, access, link);
        let process = match self {
            Contender::Postgresql => Process::Postgresql(stage.database.postgres().port()),
            Contender::Relay => Process::Relay(RelayProcess::start(stage.database.postgres().port())?),
            Contender::Pgbouncer { binary, prepared: true } => {
                start(&pooler(binary).setting("max_prepared_statements", 200))?
            }
            Contender::Pgferry { binary, workers: Some(workers) } => {
                start(&pooler(binary).setting("workers", workers))?
            }
            Contender::Pgbouncer { binary, .. } | Contender::Pgferry { binary, .. } => {
                start(&pooler(binary))?
            }
        };
        Ok(Running { target: stage.target(process.port(), access, link), process })
    }
}

/// The name in tables and in the JSON output.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contender::Postgresql => f.write_str("postgresql"),
            Contender::Relay => f.write_str("relay"),
            Contender::Pgbouncer { .. } => f.write_str("pgbouncer"),
            Contender::Pgferry { workers: None, .. } => f.write_str("pgferry"),
            Contender::Pgferry { workers: Some(workers), .. } => write!(f, "pgferry workers={workers}"),
        }
    }
}

/// How clients log in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    Trust,
    Scram,
}

/// The server behind all contenders.
pub(crate) struct Stage {
    database: Database,
    /// The SCRAM secret as in `pg_authid`; the poolers get the same.
    verifier: String,
    /// What clients trust.
    tls: ClientTls,
    /// `server.crt` and `server.key`, the poolers' as well as the server's.
    files: Files,
}

impl Stage {
    /// Starts a cluster with room for a server connection of each of 500 clients.
    pub(crate) fn new() -> Stage {
        let authority = Authority::new("load");
        let identity = authority.server(&["localhost", "127.0.0.1"]);
        let files = Files::new();
        files.identity("server", &identity);
        let options = postgres::Options::new().config("max_connections = 600").tls(&identity, None);
        let postgres = Postgres::start(options);
        let database = postgres.database("load");
        let verifier =
            database.scalar(&format!("select rolpassword from pg_authid where rolname = '{SCRAM_USER}'"));
        Stage { database, verifier, tls: ClientTls::new(&authority), files }
    }

    /// A directory that is removed at the end.
    pub(crate) fn dir(&self) -> PathBuf {
        self.database.postgres().socket_dir().join("pgbench")
    }

    /// Waits until no server process is left of the run before.
    pub(crate) fn clear(&self) {
        let sql = format!(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and usename <> '{SUPERUSER}'"
        );
        let mut admin = Client::login(&self.database.postgres().superuser("postgres"));
        support::wait::eventually("the server is idle", std::time::Duration::from_secs(60), || {
            admin.scalar(&sql) == "0"
        });
    }

    fn target(&self, port: u16, access: Access, link: Link) -> Target {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let target = match access {
            Access::Trust => Target::new(address, postgres::USER, self.database.name()),
            Access::Scram => Target::new(address, SCRAM_USER, self.database.name()).password(PASSWORD),
        };
        match link {
            Link::Plain => target,
            Link::Client | Link::Both => target.tls(&self.tls),
        }
    }
}

/// A contender at work.
pub(crate) struct Running {
    /// How clients log in to it.
    pub(crate) target: Target,
    process: Process,
}

enum Process {
    Postgresql(u16),
    Relay(RelayProcess),
    Pooler(Box<Pooler>),
}

impl Running {
    /// The process between clients and server, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::Postgresql(_) => None,
            Process::Relay(relay) => Some(relay.child.id()),
            Process::Pooler(pooler) => Some(pooler.pid()),
        }
    }

    /// Stops it.
    ///
    /// # Errors
    /// When a pooler has ended by itself before.
    pub(crate) fn stop(self) -> Result<()> {
        if let Process::Pooler(pooler) = self.process
            && let Some(status) = pooler.ended()
        {
            let report = format!("it ended with {status}: {}", last_line(&pooler.stderr()));
            // Its drop would panic, which is for tests. The watchdog removes its directory.
            mem::forget(pooler);
            return Err(report.into());
        }
        Ok(())
    }
}

impl Process {
    fn port(&self) -> u16 {
        match self {
            Process::Postgresql(port) => *port,
            Process::Relay(relay) => relay.port,
            Process::Pooler(pooler) => pooler.port(),
        }
    }
}

/// The relay, which is this program again.
struct RelayProcess {
    child: Child,
    port: u16,
}

impl RelayProcess {
    fn start(server: u16) -> Result<RelayProcess> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("relay").arg(SocketAddr::from((Ipv4Addr::LOCALHOST, server)).to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut relay = RelayProcess { child, port: 0 };
        let mut line = String::new();
        BufReader::new(relay.child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
        relay.port = line.trim().parse()?;
        Ok(relay)
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same configuration for every pooler. Nothing is logged of single clients: what is measured is the pooling.
fn pooler(binary: &Path, stage: &Stage, access: Access, link: Link) -> PoolerBuilder {
    let builder = PoolerBuilder::new(binary)
        .database(&stage.database, "")
        .setting("default_pool_size", 20)
        .setting("max_client_conn", 16_000)
        .setting("log_connections", 0)
        .setting("log_disconnections", 0);
    let file = |name: &str| stage.files.dir().join(name).display().to_string();
    let secured = |builder: PoolerBuilder| {
        let builder = builder.setting("client_tls_sslmode", "require");
        builder
            .setting("client_tls_cert_file", file("server.crt"))
            .setting("client_tls_key_file", file("server.key"))
    };
    let builder = match link {
        // The server has TLS, and pgferry takes what it is offered unless it is told not to; PgBouncer before 1.20 does not.
        Link::Plain => builder.setting("server_tls_sslmode", "disable"),
        Link::Client => secured(builder).setting("server_tls_sslmode", "disable"),
        Link::Both => secured(builder).setting("server_tls_sslmode", "require"),
    };
    match access {
        Access::Trust => builder,
        Access::Scram => builder.setting("auth_type", "scram-sha-256").secret(SCRAM_USER, &stage.verifier),
    }
}

fn start(builder: &PoolerBuilder) -> Result<Process> {
    for _ in 0..5 {
        match builder.try_start() {
            Ok(pooler) => return Ok(Process::Pooler(Box::new(pooler))),
            Err(StartError::PortInUse) => {}
            Err(StartError::Ended(status, log)) => {
                return Err(format!("it does not start ({status}): {}", last_line(&log)).into());
            }
        }
    }
    Err("its port was in use five times".into())
}

/// The first line of what `binary --version` says.
fn version(binary: &Path) -> Option<String> {
    fs::metadata(binary).ok()?;
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next().unwrap_or("(no version)").to_string())
}

/// From `PgBouncer 1.18.0`.
fn knows_prepared_statements(version: &str) -> bool {
    let mut numbers =
        version.rsplit(' ').next().unwrap_or_default().split('.').map(|part| part.parse::<u32>());
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (1, 21))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("(it said nothing)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_pgbouncer_has_prepared_statements() {
        assert!(!knows_prepared_statements("PgBouncer 1.18.0"));
        assert!(knows_prepared_statements("PgBouncer 1.21.0"));
        assert!(knows_prepared_statements("PgBouncer 1.25.1"));
        assert!(!knows_prepared_statements("something else"));
    }
}
