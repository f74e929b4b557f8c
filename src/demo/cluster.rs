//! The throw-away PostgreSQL.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::NAME;
use super::guard::Guard;
use super::programs::Programs;

/// The number in the name of its Unix socket. It listens nowhere else.
pub(super) const SOCKET_NUMBER: u16 = 5432;

/// Time for a cluster to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Nothing needs to survive; the load is light.
const SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "max_connections=50",
    "shared_buffers=32MB",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
];

/// A running cluster with the database and the role [`NAME`].
pub(super) struct Cluster {
    postmaster: Child,
    log: PathBuf,
}

impl Cluster {
    /// Makes one in the guarded directory.
    ///
    /// # Errors
    /// One of PostgreSQL's programs fails.
    pub(super) async fn start(programs: &Programs, guard: &Guard) -> Result<Cluster, Box<dyn Error>> {
        let data = guard.dir().join("data");
        let mut initdb = programs.command("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data);
        programs.run(guard, &mut initdb).await?;

        let log = guard.dir().join("postgresql.log");
        let mut postgres = programs.command("postgres");
        postgres.arg("-D").arg(&data).args(["-p", &SOCKET_NUMBER.to_string(), "-k"]).arg(guard.dir());
        SETTINGS.iter().for_each(|setting| {
            postgres.args(["-c", setting]);
        });
        postgres.stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let mut cluster = Cluster { postmaster: guard.start(&mut postgres, "QUIT")?, log };
        cluster.wait_until_ready(&data).await?;
        fill(programs, guard).await?;
        Ok(cluster)
    }

    /// The eighth line of the lock file says when connections are accepted.
    async fn wait_until_ready(&mut self, data: &Path) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if let Some(status) = self.postmaster.try_wait()? {
                return Err(self.failure(status));
            }
            if Instant::now() > deadline {
                return Err(format!("PostgreSQL is not ready after {START_TIMEOUT:?}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns when it has ended without having been asked to.
    pub(super) async fn ended(&mut self) -> Box<dyn Error> {
        match self.postmaster.wait().await {
            Ok(status) => self.failure(status),
            Err(error) => error.into(),
        }
    }

    fn failure(&self, status: ExitStatus) -> Box<dyn Error> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        format!("PostgreSQL has ended ({status}):\n{last}").into()
    }
}

/// The role, its database, and tables to work on where there is `pgbench`.
async fn fill(programs: &Programs, guard: &Guard) -> Result<(), String> {
    let connect = |command: &mut Command, user: &str, database: &str| {
        command.env("PGHOST", guard.dir()).env("PGPORT", SOCKET_NUMBER.to_string());
        command.env("PGUSER", user).env("PGDATABASE", database);
    };
    for (program, argument) in [("createuser", "--login"), ("createdb", "--owner=demo")] {
        let mut command = programs.command(program);
        connect(&mut command, "postgres", "postgres");
        programs.run(guard, command.args([argument, NAME])).await?;
    }
    if programs.has("pgbench") {
        let mut pgbench = programs.command("pgbench");
        connect(&mut pgbench, NAME, NAME);
        programs.run(guard, pgbench.args(["-i", "-q"])).await?;
    }
    Ok(())
}
