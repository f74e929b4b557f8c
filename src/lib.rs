//! The composition root: the only place where the crates meet.

pub mod against;
mod configuration;
pub mod demo;
pub mod logging;
pub mod ping;
pub mod process;
mod signals;
pub mod systemd;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use admin::AdminConsole;
use pgbouncer_compat::Loaded;
use pooler::control::Control;
use pooler::{Ended, Inheritance, ListenError, Listener, Running};

use configuration::Source;
use logging::Log;
use signals::Signals;
use systemd::Systemd;

/// A pooler, ready to accept.
pub struct App {
    running: Running,
    source: Arc<Source>,
    console: Arc<AdminConsole>,
    signals: Signals,
}

/// Why it could not be started.
#[derive(Debug)]
pub enum StartError {
    /// Nothing could be listened on.
    Listen(ListenError),
    /// A thread could not be started.
    Thread(std::io::Error),
    /// Signals can't be watched.
    Signals(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => error.fmt(f),
            StartError::Thread(error) => write!(f, "cannot start a worker: {error}"),
            StartError::Signals(error) => write!(f, "cannot watch signals: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Builds everything from a configuration that was read from `path`. It listens on the sockets that were passed, or, if
    /// none were, binds those that are configured, as far as another process has not given them.
    ///
    /// # Errors
    /// Sockets, threads or signals are not to be had.
    pub fn build(
        loaded: Loaded,
        path: &Path,
        log: Arc<Log>,
        passed: Vec<Listener>,
        mut inheritance: Option<Inheritance>,
    ) -> Result<App, StartError> {
        let listeners = match passed.is_empty() {
            true => pooler::bind(&loaded.config, inheritance.as_mut()).map_err(StartError::Listen)?,
            false => passed,
        };
        let source = Arc::new(Source::new(path, loaded.draft, loaded.settings, log));
        let console = Arc::new(AdminConsole::new(source.clone()));
        let running = pooler::start(loaded.config, listeners, console.clone(), inheritance)
            .map_err(StartError::Thread)?;
        let signals = Signals::watch().map_err(StartError::Signals)?;
        Ok(App { running, source, console, signals })
    }

    /// The handle to steer it by.
    pub fn control(&self) -> Control {
        self.running.control()
    }

    /// Serves until it is told to stop, by the console or by a signal.
    pub async fn run(self, systemd: Systemd) -> Ended {
        let control = self.running.control();
        let systemd = Arc::new(systemd);
        systemd.ready();
        let signals =
            tokio::spawn(signals::obey(self.signals, control.clone(), self.source, systemd.clone()));
        let http = tokio::spawn(admin::http::serve(control, self.console));
        let ended = self.running.serve(move |line| systemd.status(&line.replace(" us", " µs"))).await;
        http.abort();
        signals.abort();
        ended
    }
}
