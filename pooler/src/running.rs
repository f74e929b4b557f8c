//! Starting everything from a finished configuration, and seeing it to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::info;

use crate::config::Config;
use crate::console::Console;
use crate::control::Control;
use crate::handover::{self, Inheritance, Takeover};
use crate::lifecycle::Phase;
use crate::listen::{Doors, Listener};
use crate::shared::Shared;
use crate::stats::Totals;
use crate::worker;

/// A pooler whose workers run. [`serve`](Self::serve) makes it accept.
pub struct Running {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    takeover: Option<Takeover>,
    threads: Vec<JoinHandle<()>>,
}

/// How a pooler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// Another process has taken over, and with it the files that belong to whoever runs.
    TakenOver,
}

/// Starts the workers, to go on with what another process has given.
///
/// # Errors
/// A thread could not be started.
pub fn start(
    config: Config,
    listeners: Vec<Listener>,
    console: Arc<dyn Console>,
    inheritance: Option<Inheritance>,
) -> io::Result<Running> {
    let since = inheritance.as_ref().map(|it| it.counted).unwrap_or_default();
    let shared = Arc::new(Shared::new(config, console, since));
    if let Some(port) = listeners.iter().find_map(Listener::port) {
        shared.port.store(port.into(), Relaxed);
    }
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for index in 0..shared.worker_count() {
        let (handle, thread) = worker::start(shared.clone(), index)?;
        handles.push(handle);
        threads.push(thread);
    }
    let _ = shared.workers.set(handles); // set nowhere else
    let _ = shared.listening.set(listeners.iter().map(Listener::listening).collect());
    let takeover = inheritance.map(|it| it.settle(&shared));
    Ok(Running { shared, listeners, takeover, threads })
}

impl Running {
    /// The handle to steer it by.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    /// Accepts connections until the end. Needs a tokio runtime with I/O and time.
    pub async fn serve(self) -> Ended {
        let Running { shared, listeners, takeover, threads } = self;
        let doors = Doors::new(shared.clone(), listeners);
        if let Some(takeover) = takeover {
            tokio::spawn(handover::take(shared.clone(), takeover));
        }
        let keep_statistics = tokio::spawn(keep_statistics(shared.clone()));
        let ended = tokio::select! {
            () = be_told_to_stop(&shared, &doors) => Ended::Stopped,
            () = handover::serve(&shared, &doors) => Ended::TakenOver,
        };
        doors.shut();
        drop(doors);
        keep_statistics.abort();
        shared.advance(Phase::Stopped);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = joined.await;
        for pool in shared.registry.pools() {
            pool.close_idle("shutdown");
            shared.registry.remove_pool(&pool); // pools and the shared state refer to each other
        }
        ended
    }
}

async fn be_told_to_stop(shared: &Shared, doors: &Doors) {
    let mut phase = shared.phase_changes.subscribe();
    let _ = phase.wait_for(|p| *p != Phase::Running).await;
    doors.close_tcp(); // the Unix socket stays for the console until the end
    wait_for_the_end(shared).await;
}

async fn wait_for_the_end(shared: &Shared) {
    let mut phase = shared.phase_changes.subscribe();
    let look = Duration::from_millis(20);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Stopped => return,
            Phase::WaitForClients if shared.clients.sockets.get() + shared.salvaging.get() == 0 => {
                return info!("client connections dropped, exiting");
            }
            Phase::WaitForServers if shared.registry.pools().iter().all(|p| p.open.get() == 0) => {
                return info!("server connections dropped, exiting");
            }
            _ => {}
        }
        let _ = tokio::time::timeout(look, phase.changed()).await;
    }
}

/// Notes the counters at the end of every statistics period and logs what has come in it.
async fn keep_statistics(shared: Arc<Shared>) {
    loop {
        let period = shared.config.load().stats_period.max(Duration::from_secs(1));
        tokio::time::sleep(period).await;
        let mut all = Totals::default();
        for pool in shared.registry.pools() {
            all.add(&pool.periods.end(pool.totals()));
            pool.latency.end_period();
        }
        all.add(&shared.consoles.periods.end(shared.consoles.totals()));
        if shared.config.load().log.stats {
            log_line(&all, period.as_secs_f64());
        }
    }
}

fn log_line(t: &Totals, seconds: f64) {
    let rate = |n: u64| (n as f64 / seconds) as u64;
    let mean = |time: u64, n: u64| time.checked_div(n).unwrap_or(0);
    info!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, {} client logins/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        rate(t.xacts),
        rate(t.queries),
        rate(t.client_parses),
        rate(t.server_parses),
        rate(t.binds),
        rate(t.logins),
        rate(t.received),
        rate(t.sent),
        mean(t.xact_time, t.xacts),
        mean(t.query_time, t.queries),
        mean(t.wait_time, t.assignments),
    );
}
