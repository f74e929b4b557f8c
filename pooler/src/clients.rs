//! Clients that have logged in, by the key that cancels their queries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use protocol::startup::Replication;

use crate::net::Peer;
use crate::params::ParamSet;
use crate::pool::{Pool, Tally, User};
use crate::secrets::random;
use crate::state::Pin;

/// What a client sends to cancel its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CancelKey {
    pub(crate) pid: u32,
    pub(crate) secret: [u8; 4],
}

impl CancelKey {
    /// As given in a `CancelRequest`; `None` if it can't be one of ours.
    pub(crate) fn from_request(pid: u32, secret: &[u8]) -> Option<CancelKey> {
        Some(CancelKey { pid, secret: secret.try_into().ok()? })
    }

    /// For a client of the instance with this number; 0: there are no others. PgBouncer's keys look the same: the second
    /// and third byte are the number, lower byte first, the last two bits say how often a request may be passed on.
    pub(crate) fn random(peer_id: u16) -> CancelKey {
        let [a, mut b, mut c, d, secret @ ..] = random::<8>();
        if peer_id != 0 {
            [b, c] = peer_id.to_le_bytes();
        }
        // Some drivers read the process id as a signed number and trip over a negative one.
        let key = CancelKey { pid: u32::from_be_bytes([a & 0x7f, b, c, d]), secret };
        if peer_id == 0 { key } else { key.with_all_hops() }
    }

    /// The number of the instance whose client has it, if that has one.
    pub(crate) fn peer(self) -> u16 {
        let [_, low, high, _] = self.pid.to_be_bytes();
        u16::from_le_bytes([low, high])
    }

    /// As its client was given it.
    pub(crate) fn with_all_hops(mut self) -> CancelKey {
        self.secret[3] |= HOPS;
        self
    }

    /// As it is passed on; `None` if it was passed on too often already.
    pub(crate) fn with_one_hop_less(mut self) -> Option<CancelKey> {
        let may = self.secret[3] & HOPS != 0;
        may.then(|| {
            self.secret[3] -= 1;
            self
        })
    }
}

/// The bits of a key's last byte that count how often a request may still be passed on.
const HOPS: u8 = 0b11;

/// What a client is doing, in the console's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ClientState {
    /// Not linked to a server.
    Idle,
    /// Linked to a server.
    Active,
    /// In the queue for one.
    Waiting,
}

/// What others may know of a client while it is connected.
#[derive(Debug)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    pub(crate) key: CancelKey,
    /// The worker that carries it.
    pub(crate) worker: usize,
    pub(crate) pool: Arc<Pool>,
    pub(crate) login: Arc<User>,
    pub(crate) remote: Peer,
    pub(crate) local: Peer,
    /// Version and cipher suite; empty without TLS.
    pub(crate) tls: &'static str,
    pub(crate) replication: Replication,
    pub(crate) fd: i32,
    /// When it connected, in microseconds of the process's clock.
    pub(crate) connected: u64,
    state: AtomicU8,
    /// When its last message came.
    pub(crate) requested: AtomicU64,
    /// When its query or its wait began; 0 without one.
    pub(crate) since: AtomicU64,
    /// Id of the linked server, or 0.
    pub(crate) server: AtomicU64,
    /// How many statements it has prepared by name.
    pub(crate) prepared: AtomicU32,
    /// How many bytes are kept for it, if that is unusually much.
    pub(crate) kept: AtomicUsize,
    /// How many bytes of it could not be dealt with yet, and how many for it are unsent.
    pub(crate) input: AtomicUsize,
    pub(crate) unsent: AtomicUsize,
    params: Mutex<Arc<ParamSet>>,
    pin: Mutex<Option<Pin>>,
}

impl ClientInfo {
    pub(crate) fn state(&self) -> ClientState {
        match self.state.load(Relaxed) {
            0 => ClientState::Idle,
            1 => ClientState::Active,
            _ => ClientState::Waiting,
        }
    }

    pub(crate) fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Relaxed);
    }

    pub(crate) fn params(&self) -> Arc<ParamSet> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_params(&self, params: Arc<ParamSet>) {
        *self.params.lock().unwrap_or_else(PoisonError::into_inner) = params;
    }

    /// What ties it to its server, if anything does.
    pub(crate) fn pin(&self) -> MutexGuard<'_, Option<Pin>> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the log names it.
    pub(crate) fn peer(&self) -> String {
        let address = self.remote.label(self.pool.shared.port());
        format!("C-{:#x}: {}/{}@{address}", self.id, self.pool.db.name, self.login.name)
    }
}

/// Everything a new entry needs.
pub(crate) struct NewClient {
    pub(crate) id: u64,
    pub(crate) worker: usize,
    pub(crate) pool: Arc<Pool>,
    pub(crate) login: Arc<User>,
    pub(crate) remote: Peer,
    pub(crate) local: Peer,
    pub(crate) tls: &'static str,
    pub(crate) replication: Replication,
    pub(crate) fd: i32,
    pub(crate) connected: u64,
    pub(crate) params: Arc<ParamSet>,
}

impl NewClient {
    fn with_key(self, key: CancelKey) -> ClientInfo {
        ClientInfo {
            id: self.id,
            key,
            worker: self.worker,
            pool: self.pool,
            login: self.login,
            remote: self.remote,
            local: self.local,
            tls: self.tls,
            replication: self.replication,
            fd: self.fd,
            connected: self.connected,
            state: AtomicU8::new(ClientState::Idle as u8),
            requested: AtomicU64::new(self.connected),
            since: AtomicU64::new(0),
            server: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            kept: AtomicUsize::new(0),
            input: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            params: Mutex::new(self.params),
            pin: Mutex::default(),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_key: DashMap<CancelKey, Arc<ClientInfo>>,
    /// Sockets of every kind, those logging in and the console's included.
    pub(crate) sockets: Arc<Tally>,
    /// Sockets that have not finished their login.
    pub(crate) logging_in: AtomicUsize,
    /// The same by number.
    arriving: Mutex<BTreeMap<u64, Arriving>>,
}

/// What is known of a client before its login.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arriving {
    pub(crate) remote: Peer,
    pub(crate) local: Peer,
    /// In microseconds of the process's clock.
    pub(crate) since: u64,
}

impl Clients {
    /// Registers a client under a new key of the instance with this number.
    pub(crate) fn add(&self, new: NewClient, peer_id: u16) -> Arc<ClientInfo> {
        loop {
            let key = CancelKey::random(peer_id);
            let dashmap::Entry::Vacant(entry) = self.by_key.entry(key) else { continue };
            let info = Arc::new(new.with_key(key));
            entry.insert(info.clone());
            info.pool.logged_in.fetch_add(1, Relaxed);
            return info;
        }
    }

    /// Registers a client under the key that it has; `None` if that is another's.
    pub(crate) fn add_known(&self, new: NewClient, key: CancelKey) -> Option<Arc<ClientInfo>> {
        let dashmap::Entry::Vacant(entry) = self.by_key.entry(key) else { return None };
        let info = Arc::new(new.with_key(key));
        entry.insert(info.clone());
        Some(info)
    }

    /// A client begins its login.
    pub(crate) fn arrives(&self, id: u64, client: Arriving) {
        self.logging_in.fetch_add(1, Relaxed);
        self.arriving_now().insert(id, client);
    }

    /// It has come to an end, whatever that is.
    pub(crate) fn has_arrived(&self, id: u64) {
        self.logging_in.fetch_sub(1, Relaxed);
        self.arriving_now().remove(&id);
    }

    /// Clients that have not finished their login, in the order in which they connected.
    pub(crate) fn arriving(&self) -> Vec<(u64, Arriving)> {
        self.arriving_now().iter().map(|(id, client)| (*id, *client)).collect()
    }

    fn arriving_now(&self) -> MutexGuard<'_, BTreeMap<u64, Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remove(&self, key: CancelKey) {
        if let Some((_, info)) = self.by_key.remove(&key) {
            info.pool.logged_in.fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn by_key(&self, key: CancelKey) -> Option<Arc<ClientInfo>> {
        self.by_key.get(&key).map(|e| e.value().clone())
    }

    /// All, in the order in which they connected.
    pub(crate) fn all(&self) -> Vec<Arc<ClientInfo>> {
        let mut all: Vec<_> = self.by_key.iter().map(|e| e.value().clone()).collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}
