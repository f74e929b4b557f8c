//! Restart without dropping a client: a new process takes over listening sockets and clients from an old one.
//!
//! ```text
//!     old process                                   new process (-R)
//!     waits at DIR/.s.pgferry.PORT   ◀── Claim ───  connects
//!     Hello, Listener…, Keys…, Ready ──────────▶    binds nothing anew, starts its workers
//!     stops accepting                ◀── Up ──────  accepts; nobody was refused meanwhile
//!     a client is at rest: Client    ──────────▶    makes a session of it
//!     forgets it                     ◀── Arrived ─  serves it
//!     nobody is left: Done, exits    ──────────▶    goes on alone
//! ```
//!
//! A client goes when it is at rest ([`traveller`]): nothing owed, nothing unsent, outside a transaction; one that keeps
//! its server (session mode, a pin) takes that along. Until `Arrived` has come the old process has it and only the old one
//! touches its socket, so that if either dies the client is with the other. `Arrived` is sent before the new process reads
//! a byte of the client's. A process that still takes over clients can itself be taken over: what arrives goes on.
//!
//! A client that listens (`LISTEN` without a server of its own) is first listened for by the new process. Then the old one
//! notifies a marker, which both get in the one order in which all transactions commit: what comes before it is told by
//! the old process, what comes behind it by the new one.
//!
//! Cancel requests for keys that one process does not know are passed on to the other.

mod fields;
mod frames;
mod giving;
mod taking;
mod traveller;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

pub(crate) use giving::serve;
pub use taking::Inheritance;
pub(crate) use taking::{Arriving, ListenAhead, Takeover, listen, settle, take};
pub(crate) use traveller::{Companion, Prepared, Traveller};

use crate::clients::CancelKey;
use crate::config::Listen;
use crate::notify::{Channels, Listener};
use fields::{Fields, Writer};

/// Something for the new process.
struct Parcel {
    kind: frames::Kind,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    answer: Answer,
}

/// The fields of the other process's answer, or why it can't be; dropped if nobody takes clients any more.
type Answer = oneshot::Sender<Result<Vec<u8>, String>>;
type Answered = oneshot::Receiver<Result<Vec<u8>, String>>;

/// Who listens for a client that is about to come, by its cancel key.
type Listeners = Mutex<HashMap<CancelKey, Listener>>;

/// A cancel request for the other process; the sender is dropped when it was dealt with.
type Passed = (CancelKey, oneshot::Sender<()>);

/// This process's dealings with the one before it and the one after it.
#[derive(Default)]
pub(crate) struct Handover {
    /// Where clients go to, while they do.
    parcels: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
    older: Mutex<Option<mpsc::UnboundedSender<Passed>>>,
    newer: Mutex<Option<mpsc::UnboundedSender<Passed>>>,
    listeners: Listeners,
    /// Clients still come from an older process.
    receives: AtomicBool,
    /// By this moment (microseconds) its servers are gone.
    room_by: AtomicU64,
    /// They go to a newer one.
    gives: AtomicBool,
}

/// Where a cancel request comes from; it is not sent back there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whence {
    Client,
    Older,
    Newer,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handover {
    /// Clients at rest are to leave.
    pub(crate) fn gives(&self) -> bool {
        self.gives.load(Relaxed)
    }

    /// Clients still come from an older process, which may have servers for others of them.
    pub(crate) fn receives(&self) -> bool {
        self.receives.load(Relaxed)
    }

    /// See [`Shared::lacks_room`](crate::shared::Shared::lacks_room).
    pub(crate) fn may_lack_room(&self, now: u64) -> bool {
        self.receives() || now < self.room_by.load(Relaxed)
    }

    /// Hands over a client; `None` if nobody takes any.
    pub(crate) fn give(&self, client: &Traveller, fds: Vec<OwnedFd>) -> Option<Answered> {
        self.post(frames::Kind::Client, client.encode(), fds)
    }

    /// Has the new process listen for a client that is about to go, and says which marker it waits for then: channel and
    /// number. `None`: it does not, or there is none.
    pub(crate) async fn listen_ahead(
        &self,
        key: CancelKey,
        (database, login): (&str, &str),
        channels: &Channels,
    ) -> Option<(String, u64)> {
        let mut fields = Writer::default();
        fields.pairs(tag::KEY, [(key.pid.to_be_bytes(), key.secret)]);
        fields.put(tag::DATABASE, database).put(tag::USER, login);
        channels.iter().for_each(|channel| _ = fields.put(tag::CHANNEL, channel.as_bytes()));
        let answered = self.post(frames::Kind::Listen, fields.finish(), Vec::new())?;
        let answer = answered.await.ok()?.ok()?;
        let find = |wanted| Fields(&answer).find(|(tag, _)| *tag == wanted).map(|(_, bytes)| bytes);
        Some((fields::text(find(tag::CHANNEL)?)?, fields::number(find(tag::MARKER)?)?))
    }

    fn post(&self, kind: frames::Kind, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Option<Answered> {
        let (answer, answered) = oneshot::channel();
        lock(&self.parcels).as_ref()?.send(Parcel { kind, bytes, fds, answer }).ok()?;
        Some(answered)
    }

    /// Who listens for this client since before it came.
    pub(crate) fn listener(&self, key: CancelKey) -> Option<Listener> {
        lock(&self.listeners).remove(&key)
    }

    /// Passes on a cancel request for a client that is not here, and waits until that was dealt with.
    pub(crate) async fn pass_on(&self, key: CancelKey, whence: Whence) {
        let ways = [(&self.older, Whence::Older), (&self.newer, Whence::Newer)];
        let mut dealt_with = Vec::new();
        for (way, _) in ways.iter().filter(|(_, there)| *there != whence) {
            let (done, finished) = oneshot::channel();
            if lock(way).as_ref().is_some_and(|way| way.send((key, done)).is_ok()) {
                dealt_with.push(finished);
            }
        }
        for finished in dealt_with {
            let _ = finished.await;
        }
    }
}

/// Clears a slot when those who read from it are gone.
struct Open<'a, T>(&'a Mutex<Option<mpsc::UnboundedSender<T>>>);

impl<'a, T> Open<'a, T> {
    fn new(slot: &'a Mutex<Option<mpsc::UnboundedSender<T>>>) -> (Open<'a, T>, mpsc::UnboundedReceiver<T>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(slot) = Some(sender);
        (Open(slot), receiver)
    }
}

impl<T> Drop for Open<'_, T> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

/// Where the process that serves these addresses waits for the one that takes over; `None`: it has no directory for it.
fn place(listen: &Listen, port: u16) -> Option<PathBuf> {
    let dir = &listen.unix.as_ref()?.dir;
    (!dir.as_os_str().as_encoded_bytes().starts_with(b"@")).then(|| dir.join(format!(".s.pgferry.{port}")))
}

mod tag {
    pub(super) const VERSION: u8 = 1;
    pub(super) const CLOCK: u8 = 2;
    pub(super) const NEXT_ID: u8 = 3;
    pub(super) const NEXT_STATEMENT: u8 = 4;
    pub(super) const SEED: u8 = 5;
    pub(super) const SEED_CHECK: u8 = 6;
    pub(super) const PAUSED: u8 = 7;
    pub(super) const DISABLED: u8 = 8;
    pub(super) const PATH: u8 = 9;
    pub(super) const DATABASE: u8 = 10;
    pub(super) const USER: u8 = 11;
    pub(super) const KEYS: u8 = 12;
    pub(super) const NUMBER: u8 = 13;
    pub(super) const TEXT: u8 = 14;
    pub(super) const CLIENT: u8 = 15;
    pub(super) const KEY: u8 = 16;
    pub(super) const CHANNEL: u8 = 17;
    pub(super) const MARKER: u8 = 18;
    pub(super) const SECRET: u8 = 19;
    pub(super) const ASKED_IN: u8 = 20;
    pub(super) const ASKED_BY: u8 = 21;
    pub(super) const SQL: u8 = 22;
    pub(super) const LOGIN: u8 = 23;
}

/// Of the whole conversation. It changes only when an older process could misunderstand a newer one.
const VERSION: u64 = 1;

fn cancel_fields(number: u64, key: CancelKey) -> Vec<u8> {
    let mut fields = Writer::default();
    fields.number(tag::NUMBER, number).pairs(tag::KEY, [(key.pid.to_be_bytes(), key.secret)]).finish()
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    Fields(bytes).find(|(tag, _)| *tag == tag::NUMBER).and_then(|(_, bytes)| fields::number(bytes))
}

fn key_of(bytes: &[u8]) -> Option<CancelKey> {
    let (_, bytes) = Fields(bytes).find(|(tag, _)| *tag == tag::KEY)?;
    let (pid, secret) = fields::pair(bytes)?;
    Some(CancelKey { pid: u32::from_be_bytes(pid.try_into().ok()?), secret: secret.try_into().ok()? })
}
