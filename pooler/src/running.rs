//! Starting everything from a finished configuration, and seeing it to its end.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{info, warn};

use crate::client::drained;
use crate::config::Config;
use crate::console::Console;
use crate::control::Control;
use crate::handover::{self, Inheritance, Takeover};
use crate::lifecycle::Phase;
use crate::listen::{Doors, Listener};
use crate::shared::Shared;
use crate::stats::Totals;
use crate::worker::{self, Order};

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
    let takeover = inheritance.map(|it| it.settle(&shared));
    let _ = shared.listening.set(listeners.iter().map(Listener::listening).collect());
    Ok(Running { shared, listeners, takeover, threads })
}

impl Running {
    /// The handle to steer it by.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    /// Accepts connections until the end. Needs a tokio runtime with I/O and time. `report` is given the line of statistics
    /// of each period.
    pub async fn serve(self, report: impl Fn(&str) + Send + 'static) -> Ended {
        let Running { shared, listeners, takeover, threads } = self;
        let doors = Doors::new(shared.clone(), listeners);
        if let Some(takeover) = takeover {
            tokio::spawn(handover::take(shared.clone(), takeover));
        }
        let keep_statistics = tokio::spawn(keep_statistics(shared.clone(), report));
        let ended = tokio::select! {
            () = be_told_to_stop(&shared, &doors) => Ended::Stopped,
            () = handover::serve(&shared, &doors) => Ended::TakenOver,
        };
        doors.shut().await;
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
    doors.close_tcp().await; // the Unix socket stays for the console until the end
    tokio::select! {
        () = wait_for_the_end(shared) => {}
        () = drain(shared) => {}
    }
}

/// Clients are told to leave, where they are not waited for without a limit. Returns when none is left, or none listens.
async fn drain(shared: &Shared) {
    let timeouts = shared.config.load().timeouts.clone();
    let Some(limit) = timeouts.drain.filter(|_| shared.phase() == Phase::WaitForClients) else {
        return pending().await;
    };
    let grace = timeouts.drain_grace.min(limit);
    tokio::time::sleep(grace).await;
    info!(
        "draining: clients are disconnected outside their transactions, all of them in {:?}",
        limit - grace
    );
    shared.drains.store(true, Relaxed);
    (0..shared.worker_count()).for_each(|worker| shared.order(worker, Order::Drain));
    tokio::time::sleep(limit - grace).await;
    let left = shared.clients.all();
    warn!("drain_timeout is over: {} clients are disconnected, whatever they do", left.len());
    for client in left {
        shared.order(client.worker, Order::End(client, drained()));
    }
    tokio::time::sleep(LAST_WORDS).await; // and those who are only connected do not count
}

/// Time to say farewell, and to roll back.
const LAST_WORDS: Duration = Duration::from_secs(3);

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
async fn keep_statistics(shared: Arc<Shared>, report: impl Fn(&str)) {
    loop {
        let period = shared.config.load().stats_period.max(Duration::from_secs(1));
        tokio::time::sleep(period).await;
        let mut all = Totals::default();
        for pool in shared.registry.pools() {
            all.add(&pool.periods.end(pool.totals()));
            pool.latency.end_period();
            pool.saturation.end_period();
        }
        all.add(&shared.consoles.periods.end(shared.consoles.totals()));
        let line = line(&all, period.as_secs_f64());
        report(&line);
        if shared.config.load().log.stats {
            info!("{line}");
        }
    }
}

fn line(t: &Totals, seconds: f64) -> String {
    let rate = |n: u64| (n as f64 / seconds) as u64;
    let mean = |time: u64, n: u64| time.checked_div(n).unwrap_or(0);
    format!(
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
    )
}
