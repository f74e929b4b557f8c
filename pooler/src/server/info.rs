//! What others may know of a server connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Host;
use crate::net::Peer;
use crate::params::ParamSet;
use crate::pool::Pool;

/// What a server connection is doing, in the console's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ServerState {
    /// Linked to a client.
    Active,
    /// Free.
    Idle,
    /// Free, but must be checked before it is used.
    Used,
    /// Running a reset or check query.
    Tested,
    /// Held back until cancel requests are known to be over.
    BeingCanceled,
    /// Listens for all clients of its database.
    Listening,
}

/// What others may know of a server connection while somebody uses it.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    pub(crate) id: u64,
    /// Where it goes to, for cancel requests.
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) remote: Peer,
    pub(crate) local: Peer,
    /// Version and cipher suite; empty without TLS.
    pub(crate) tls: &'static str,
    pub(crate) fd: i32,
    /// Backend process id and cancel secret, if the server gave them.
    pub(crate) pid: u32,
    pub(crate) secret: Box<[u8]>,
    /// When it was opened, in microseconds of the process's clock.
    pub(crate) opened: u64,
    pub(crate) generation: u64,
    /// That of its pool now.
    pub(super) current: Arc<AtomicU64>,
    /// It serves a replication client and nobody else.
    pub(crate) replication: bool,
    pub(super) state: AtomicU8,
    /// When the last request was sent.
    pub(crate) requested: AtomicU64,
    /// Id of the linked client, or 0.
    pub(crate) client: AtomicU64,
    /// How many prepared statements it keeps.
    pub(crate) prepared: AtomicU32,
    /// Process id, as that client knows it, of the one whose notifications are on their way; 0 if none are.
    pub(crate) notifier: AtomicU32,
    pub(super) params: Mutex<Arc<ParamSet>>,
    /// What it was last asked to run, or the beginning of that.
    pub(super) text: Mutex<Text>,
}

/// A text, as far as it is kept.
#[derive(Debug, Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    /// Nobody has counted it yet.
    new: bool,
}

/// So much of a text is kept, in bytes.
const TEXT_KEPT: usize = 2 << 10;

impl ServerInfo {
    pub(crate) fn state(&self) -> ServerState {
        match self.state.load(Relaxed) {
            0 => ServerState::Active,
            1 => ServerState::Idle,
            3 => ServerState::Tested,
            4 => ServerState::BeingCanceled,
            5 => ServerState::Listening,
            _ => ServerState::Used,
        }
    }

    pub(crate) fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Relaxed);
    }

    /// It is to be closed instead of being used again.
    pub(crate) fn is_outdated(&self) -> bool {
        self.generation != self.current.load(Relaxed)
    }

    pub(crate) fn params(&self) -> Arc<ParamSet> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_text(&self, text: &[u8]) {
        let mut kept = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        kept.new = true;
        kept.bytes.clear();
        kept.bytes.extend_from_slice(text.get(..TEXT_KEPT).unwrap_or(text));
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()
    }

    /// Looks at the text if nobody has since it was noted.
    pub(crate) fn take_text<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut kept = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let new = std::mem::take(&mut kept.new) && !kept.bytes.is_empty();
        new.then(|| look(&kept.bytes))
    }

    /// It was reached by this name at one of these addresses, whatever the port.
    pub(crate) fn is_at(&self, name: &str, addresses: &[SocketAddr]) -> bool {
        let Peer::Tcp(remote) = self.remote else { return false };
        matches!(&self.host, Host::Tcp(host) if host == name)
            && addresses.iter().any(|address| address.ip() == remote.ip())
    }

    /// How the log names it.
    pub(crate) fn peer(&self, pool: &Pool) -> String {
        let host = match &self.host {
            Host::Tcp(_) => self.remote.to_string(),
            Host::Unix(_) => format!("unix:{}", self.port),
        };
        format!("S-{:#x}: {}@{host}", self.id, pool.name())
    }
}
