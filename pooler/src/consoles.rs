//! Clients of the console, for as long as they are connected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clients::CancelKey;
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
    /// Version and cipher suite; empty without TLS.
    pub(crate) tls: &'static str,
    /// When it connected, and when its last message came, in microseconds of the process's clock.
    pub(crate) connected: u64,
    pub(crate) requested: u64,
    /// Cancels the command that it waits for.
    pub(crate) key: CancelKey,
    /// Bytes of the message that is being answered; 0 if none is.
    pub(crate) busy: usize,
    pub(crate) calls: Arc<Calls>,
}

/// What others tell a console client's session.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// It is to end.
    pub(crate) ended: Notify,
    /// The command that it runs, if any, is cancelled.
    pub(crate) cancelled: Notify,
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

    /// Cancels what the client of this key runs. False: nobody here has it.
    pub(crate) fn cancel(&self, key: CancelKey) -> bool {
        let map = self.map();
        let client = map.values().find(|client| client.key == key);
        client.inspect(|client| client.calls.cancelled.notify_waiters()).is_some()
    }

    /// Ends the client of this number. False: there is none.
    pub(crate) fn end(&self, id: u64) -> bool {
        self.map().get(&id).inspect(|client| client.calls.ended.notify_one()).is_some()
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
    /// A message of so many bytes came.
    pub(crate) fn begin(&self, now: u64, bytes: usize) {
        if let Some(info) = self.consoles.map().get_mut(&self.id) {
            info.requested = now;
            info.busy = bytes;
        }
    }

    /// It was answered.
    pub(crate) fn end(&self) {
        if let Some(info) = self.consoles.map().get_mut(&self.id) {
            info.busy = 0;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.consoles.map().remove(&self.id);
    }
}
