//! A little load: `pgbench` through the pooler, as an application with more clients than the pool has servers.

use std::error::Error;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::NAME;
use super::guard::Guard;
use super::programs::Programs;

/// Each client holds a server for some milliseconds, then thinks; twenty keep a pool of five busy, not full.
const TRANSACTION: &str = "\
\\set aid random(1, 100000)
\\set work random(2, 15)
\\set think random(10, 90)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
\\sleep :work ms
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
COMMIT;
\\sleep :think ms
";

/// Pause before a `pgbench` that was disconnected (`KILL` on the console, say) is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// What to send, and where.
pub(super) struct Load<'a> {
    pub(super) programs: &'a Programs,
    pub(super) guard: &'a Guard,
    pub(super) clients: u32,
    pub(super) port: u16,
    pub(super) password: String,
}

impl Load<'_> {
    /// Why none is sent, if none is.
    pub(super) fn why_none(&self) -> Option<&'static str> {
        match (self.clients, self.programs.has("pgbench")) {
            (0, _) => Some("no load, as asked for"),
            (_, false) => Some("no load: there is no pgbench beside initdb"),
            _ => None,
        }
    }

    /// Sends it for ever.
    ///
    /// # Errors
    /// `pgbench` can't be started.
    pub(super) async fn run(&self) -> Box<dyn Error> {
        if self.why_none().is_some() {
            std::future::pending::<()>().await;
        }
        loop {
            if let Err(error) = self.run_once().await {
                return error.into();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn run_once(&self) -> std::io::Result<()> {
        let (script, log) = (self.guard.dir().join("load.sql"), self.guard.dir().join("pgbench.log"));
        fs::write(&script, TRANSACTION)?;
        let mut pgbench = self.programs.command("pgbench");
        // A year: the guard and `kill_on_drop` end it.
        pgbench.args(["-n", "-T", "31536000", "-c", &self.clients.to_string(), "-f"]).arg(&script);
        pgbench.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        pgbench.env("PGUSER", NAME).env("PGDATABASE", NAME).env("PGPASSWORD", &self.password);
        pgbench.stdout(Stdio::null()).stderr(fs::File::create(log)?).kill_on_drop(true);
        let mut child = self.guard.start(&mut pgbench, "TERM")?;
        let pid = child.id();
        child.wait().await?;
        self.guard.ended(pid)
    }
}
