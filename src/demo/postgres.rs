//! A throw-away PostgreSQL.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::NAME;
use super::guard::Guard;
use super::programs::Programs;

/// Time for a cluster to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for one to end, whose clients are sent away.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing needs to survive; the load is light.
const SETTINGS: [&str; 5] =
    ["listen_addresses=", "max_connections=50", "shared_buffers=32MB", "fsync=off", "full_page_writes=off"];

/// One cluster, its files in the guarded directory.
pub(super) struct Postgres {
    /// The number in the name of its Unix socket. It listens nowhere else.
    pub(super) number: u16,
    data: PathBuf,
    log: PathBuf,
    postmaster: Option<Child>,
}

impl Postgres {
    /// One that is yet to be made.
    pub(super) fn new(guard: &Guard, number: u16) -> Postgres {
        let at = |kind: &str| guard.dir().join(format!("{kind}-{number}"));
        Postgres { number, data: at("data"), log: at("log"), postmaster: None }
    }

    /// Makes its files.
    ///
    /// # Errors
    /// `initdb` fails.
    pub(super) async fn init(&self, programs: &Programs, guard: &Guard) -> Result<(), String> {
        let mut initdb = programs.command("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&self.data);
        programs.run(guard, &mut initdb).await
    }

    /// Makes a standby of it, with the files of `primary`. What it had is gone.
    ///
    /// # Errors
    /// `pg_basebackup` fails.
    pub(super) async fn copy(
        &self,
        programs: &Programs,
        guard: &Guard,
        primary: &Postgres,
    ) -> Result<(), Box<dyn Error>> {
        if self.data.exists() {
            fs::remove_dir_all(&self.data)?;
        }
        let mut backup = programs.command("pg_basebackup");
        backup.env("PGHOST", guard.dir()).env("PGPORT", primary.number.to_string()).env("PGUSER", "postgres");
        backup.args(["-R", "-c", "fast", "-X", "stream", "--no-sync", "-D"]).arg(&self.data);
        Ok(programs.run(guard, &mut backup).await?)
    }

    /// Starts it, and waits until it accepts connections.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn start(
        &mut self,
        programs: &Programs,
        guard: &Guard,
        settings: &[String],
    ) -> Result<(), Box<dyn Error>> {
        let mut postgres = programs.command("postgres");
        postgres.arg("-D").arg(&self.data).args(["-p", &self.number.to_string(), "-k"]).arg(guard.dir());
        for setting in SETTINGS.iter().map(ToString::to_string).chain(settings.iter().cloned()) {
            postgres.args(["-c", &setting]);
        }
        postgres.stdout(Stdio::null()).stderr(fs::File::create(&self.log)?);
        self.postmaster = Some(guard.start(&mut postgres, "QUIT")?);
        self.wait_until_ready().await
    }

    /// The eighth line of the lock file says when connections are accepted.
    async fn wait_until_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let state = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if let Some(status) = self.postmaster.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(self.failure(status));
            }
            if Instant::now() > deadline {
                return Err(format!("PostgreSQL is not ready after {START_TIMEOUT:?}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The role and the database [`NAME`].
    ///
    /// # Errors
    /// One of PostgreSQL's programs fails.
    pub(super) async fn make_database(&self, programs: &Programs, guard: &Guard) -> Result<(), String> {
        // Who probes may see how a standby follows.
        let role: &[&str] = &["--login", "-g", "pg_monitor"];
        for (program, arguments) in [("createuser", role), ("createdb", &["--owner=demo"])] {
            let mut command = programs.command(program);
            self.connect(&mut command, guard.dir(), "postgres", "postgres");
            programs.run(guard, command.args(arguments).arg(NAME)).await?;
        }
        Ok(())
    }

    /// Tables to work on where there is `pgbench`.
    ///
    /// # Errors
    /// `pgbench` fails.
    pub(super) async fn fill(&self, programs: &Programs, guard: &Guard) -> Result<(), String> {
        if !programs.has("pgbench") {
            return Ok(());
        }
        let mut pgbench = programs.command("pgbench");
        self.connect(&mut pgbench, guard.dir(), NAME, NAME);
        programs.run(guard, pgbench.args(["-i", "-q"])).await
    }

    fn connect(&self, command: &mut Command, dir: &Path, user: &str, database: &str) {
        command.env("PGHOST", dir).env("PGPORT", self.number.to_string());
        command.env("PGUSER", user).env("PGDATABASE", database);
    }

    /// Makes a primary of a standby: it begins to, when this returns.
    ///
    /// # Errors
    /// `pg_ctl` fails.
    pub(super) async fn promote(&self, programs: &Programs, guard: &Guard) -> Result<(), String> {
        let mut promote = programs.command("pg_ctl");
        promote.args(["promote", "--no-wait", "-D"]).arg(&self.data);
        programs.run(guard, &mut promote).await
    }

    /// Ends it as an administrator would, its clients sent away.
    ///
    /// # Errors
    /// It does not end.
    pub(super) async fn stop(&mut self, guard: &Guard) -> Result<(), Box<dyn Error>> {
        let Some(postmaster) = &mut self.postmaster else { return Ok(()) };
        let Some(pid) = postmaster.id() else { return Ok(()) };
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        let ended = timeout(STOP_TIMEOUT, postmaster.wait()).await;
        ended.map_err(|_| format!("PostgreSQL has not ended after {STOP_TIMEOUT:?}"))??;
        self.postmaster = None;
        Ok(guard.ended(Some(pid))?)
    }

    pub(super) fn runs(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Returns when it has ended without having been told to.
    pub(super) async fn ended(&mut self) -> Box<dyn Error> {
        match &mut self.postmaster {
            None => std::future::pending().await,
            Some(postmaster) => match postmaster.wait().await {
                Ok(status) => self.failure(status),
                Err(error) => error.into(),
            },
        }
    }

    fn failure(&self, status: ExitStatus) -> Box<dyn Error> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        format!("PostgreSQL has ended ({status}):\n{last}").into()
    }
}
