//! Clients of the console, for as long as they are connected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::Peer;
use crate::stats::{Periods, Totals};

/// What others may know of a console client.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleInfo {
    pub(crate) id: u64,
    pub(crate) user: String,
    pub(crate) application_name: Option<String>,
    pub(crate) remote: Peer,
    pub(crate) local: Peer,
    /// When it connected, and when its last message came, in microseconds of the process's clock.
    pub(crate) connected: u64,
    pub(crate) requested: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    connected: Mutex<BTreeMap<u64, ConsoleInfo>>,
    logins: AtomicU64,
    pub(crate) periods: Periods,
}

impl Consoles {
    /// Registers a client that has logged in, until the value is dropped.
    pub(crate) fn add(self: &Arc<Self>, info: ConsoleInfo) -> Entry {
        self.logins.fetch_add(1, Relaxed);
        let id = info.id;
        self.map().insert(id, info);
        Entry { consoles: self.clone(), id }
    }

    /// All, in the order in which they connected.
    pub(crate) fn all(&self) -> Vec<ConsoleInfo> {
        self.map().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.map().len()
    }

    /// As PgBouncer counts them: each is one transaction with one query, and its bytes and times do not count.
    pub(crate) fn totals(&self) -> Totals {
        let logins = self.logins.load(Relaxed);
        Totals { xacts: logins, queries: logins, logins, ..Totals::default() }
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<u64, ConsoleInfo>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A console client's place among them.
#[derive(Debug)]
pub(crate) struct Entry {
    consoles: Arc<Consoles>,
    id: u64,
}

impl Entry {
    /// A message came.
    pub(crate) fn touch(&self, now: u64) {
        if let Some(info) = self.consoles.map().get_mut(&self.id) {
            info.requested = now;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.consoles.map().remove(&self.id);
    }
}
