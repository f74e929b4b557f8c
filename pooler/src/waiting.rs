//! Who waits for a server, and what for.
//!
//! What a client asks for lies in its session, which only its own task may look at. So that a wait costs nothing more,
//! nobody notes it beforehand: who wants to know has the sessions tell.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::clients::{ClientInfo, ClientState};
use crate::net::Peer;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::worker::Order;

/// A client that waits for a server.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// Number of the client's socket.
    pub client: u64,
    /// Login user.
    pub user: String,
    /// Client-side database.
    pub database: String,
    /// Tracked `application_name`.
    pub application_name: Option<String>,
    /// Where it is.
    pub remote: Peer,
    /// Port shown where the socket has none of its own (Unix).
    pub fallback_port: u16,
    /// How long it has waited, in microseconds.
    pub waited: u64,
    /// Its place among those that wait in the same pool, from 1.
    pub position: usize,
    /// What is missing.
    pub waits_for: String,
    /// What it asks for, without literals; empty if its session did not say in time.
    pub statement: String,
}

/// Whom a session tells the number of its client and what that asks for.
pub(crate) type Telling = mpsc::Sender<(u64, String)>;

/// Time for the workers to answer.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn rows(shared: &Shared) -> Vec<WaitingRow> {
    let now = shared.clock.micros();
    let waits = |client: Arc<ClientInfo>| {
        let since = client.since.load(Relaxed); // 0: it has just been served
        (since != 0 && client.state() == ClientState::Waiting).then_some((since, client))
    };
    let mut clients: Vec<_> = shared.clients.all().into_iter().filter_map(waits).collect();
    clients.sort_by_key(|(since, _)| *since);
    let mut statements = if clients.is_empty() { HashMap::new() } else { statements(shared, clients.len()) };
    let mut positions: HashMap<*const Pool, usize> = HashMap::new();
    let row = |(since, client): (u64, Arc<ClientInfo>)| {
        let position = positions.entry(Arc::as_ptr(&client.pool)).or_default();
        *position += 1;
        WaitingRow {
            client: client.id,
            user: client.login.name.clone(),
            database: client.pool.db.name.clone(),
            application_name: client.params().application_name().map(str::to_owned),
            remote: client.remote,
            fallback_port: shared.port(),
            waited: now.saturating_sub(since),
            position: *position,
            waits_for: client.pool.what_is_missing(now),
            statement: statements.remove(&client.id).unwrap_or_default(),
        }
    };
    clients.into_iter().map(row).collect()
}

fn statements(shared: &Shared, expected: usize) -> HashMap<u64, String> {
    let (sender, told) = mpsc::channel();
    (0..shared.worker_count()).for_each(|worker| shared.order(worker, Order::TellWaiting(sender.clone())));
    drop(sender); // when all have answered or gone, nobody has one
    let until = Instant::now() + PATIENCE;
    let mut statements = HashMap::with_capacity(expected);
    while let Ok((client, statement)) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        statements.insert(client, statement);
    }
    statements
}

impl Pool {
    /// Why a client that waits has no server yet.
    fn what_is_missing(&self, now: u64) -> String {
        if self.is_held() {
            return "paused".to_owned();
        }
        if let Some((reason, retry_at)) = self.last_failure() {
            let seconds = retry_at.saturating_sub(now).div_ceil(1_000_000);
            let what = match self.open.get() {
                0 => "server is down",
                _ => "a server: no further connection can be opened",
            };
            return format!("{what}: {reason}, next attempt in {seconds} s");
        }
        let rules = self.rules.load();
        let limits = [
            ("pool full", self.open.get(), rules.total()),
            ("max_db_connections", self.db.servers.get(), rules.max_db.map(NonZeroUsize::get)),
            ("max_user_connections", self.user.servers.get(), rules.max_user.map(NonZeroUsize::get)),
            ("pool full without its reserve", self.open.get(), rules.size),
        ];
        let reached = limits.into_iter().find(|(_, used, most)| most.is_some_and(|most| *used >= most));
        match reached {
            Some((name, used, most)) => {
                format!("a server: {name} ({used} of {} in use)", most.unwrap_or_default())
            }
            None if self.connecting() > 0 => "a server: a connection is being opened".to_owned(),
            None => "a server".to_owned(),
        }
    }
}
