//! Unix signals, turned into what PgBouncer 1.25 does on them.

use std::sync::Arc;

use admin::Configuration;
use pooler::Phase;
use pooler::control::Control;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::systemd::Systemd;

/// Obeys signals for as long as the process lives.
pub(crate) async fn obey(
    mut signals: Signals,
    control: Control,
    configuration: Arc<dyn Configuration>,
    systemd: Arc<Systemd>,
) {
    loop {
        let stopping = control.phase() != Phase::Running;
        match signals.next().await {
            Asked::Reload => {
                info!("got SIGHUP, re-reading config");
                systemd.reloading();
                let _ = configuration.reload(&control); // has told the log
                systemd.ready();
            }
            Asked::Terminate if stopping => {
                info!("got SIGTERM while shutting down, fast exit");
                control.shutdown(Phase::Stopped);
            }
            Asked::Interrupt if stopping => {
                info!("got SIGINT while shutting down, fast exit");
                control.shutdown(Phase::Stopped);
            }
            Asked::Terminate => {
                info!("got SIGTERM, shutting down, waiting for all clients disconnect");
                systemd.stopping();
                control.shutdown(Phase::WaitForClients);
            }
            Asked::Interrupt => {
                info!("got SIGINT, shutting down, waiting for all servers connections to be released");
                systemd.stopping();
                control.shutdown(Phase::WaitForServers);
            }
            Asked::Quit => {
                info!("got SIGQUIT, fast exit");
                control.shutdown(Phase::Stopped);
            }
            Asked::Pause if control.is_paused() || control.is_suspended() => {
                info!("got SIGUSR1, but already paused/suspended")
            }
            Asked::Pause => {
                info!("got SIGUSR1, pausing all activity");
                let control = control.clone();
                tokio::spawn(async move { control.pause(None).await });
            }
            Asked::Resume if stopping => info!("got SIGUSR2 while shutting down, ignoring"),
            Asked::Resume => {
                let from = if control.is_suspended() { "SUSPEND" } else { "PAUSE" };
                match control.resume(None) {
                    Ok(()) => info!("got SIGUSR2, continuing from {from}"),
                    Err(_) => info!("got SIGUSR2, but not paused/suspended"),
                }
            }
        }
    }
}

enum Asked {
    Reload,
    Terminate,
    Interrupt,
    Quit,
    Pause,
    Resume,
}

/// A watch on all of them: from its making on none ends the process.
pub(crate) struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub(crate) fn watch() -> std::io::Result<Signals> {
        Ok(Signals {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hup.recv() => Asked::Reload,
            _ = self.term.recv() => Asked::Terminate,
            _ = self.int.recv() => Asked::Interrupt,
            _ = self.quit.recv() => Asked::Quit,
            _ = self.usr1.recv() => Asked::Pause,
            _ = self.usr2.recv() => Asked::Resume,
        }
    }
}
