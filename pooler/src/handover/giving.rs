//! The old process: it waits for one that takes over, and gives it what it has.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::fields::{Fields, Writer, number, text};
use super::frames::{Inbox, Kind, receive, send};
use super::{Answer, Open, Parcel, VERSION, Whence, cancel_fields, key_of, number_of, place, tag};
use crate::auth_query::Learnt;
use crate::cancel;
use crate::intern::{hash_of, seed};
use crate::listen::Doors;
use crate::prepared;
use crate::shared::Shared;
use crate::worker::Order;

/// Clients under way at the same time.
const UNDER_WAY: usize = 64;

/// Time between two looks at who is still to go.
const LOOK: Duration = Duration::from_millis(20);

/// Clients that are asked to go with one look: who is asked does nothing else until the other process has it.
const ASKED_AT_ONCE: usize = 256;

/// So many looks later those are asked once more who could not go.
const ASK_AGAIN: u32 = 100;

/// Statements of this process may get so many ids while it gives its clients away.
const MORE_STATEMENTS: u64 = 1 << 24;

/// Where a process that takes over knocks: a socket beside the clients' own.
pub(crate) struct Door {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Door {
    fn open(path: &Path) -> io::Result<Door> {
        let _ = std::fs::remove_file(path); // of the process before this one
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Door { path: path.to_owned(), listener: Some(listener) })
    }

    /// The next process of the same user.
    async fn answer(&self) -> UnixStream {
        let Some(listener) = &self.listener else { return pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) if super::taking::is_trusted(&stream) => return stream,
                Ok(_) => warn!("somebody else than the pooler's own user asks for its clients: refused"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The file is another process's from now on.
    fn leave(mut self) {
        self.listener = None;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Waits for a process that takes over; returns when it has everything.
pub(crate) async fn serve(shared: &Arc<Shared>, doors: &Doors) {
    let config = shared.config.load_full();
    let Some(path) = place(&config.listen, shared.port()) else { return pending().await };
    loop {
        let door = match Door::open(&path) {
            Ok(door) => door,
            Err(error) => {
                warn!("cannot be taken over by another process ({}): {error}", path.display());
                return pending().await;
            }
        };
        let stream = door.answer().await;
        let mut inbox = Inbox::default();
        match introduce(shared, doors, &stream, &mut inbox).await {
            Ok(()) => door.leave(),
            Err(error) => {
                warn!("a process that was to take over has given up: {error}");
                continue;
            }
        }
        info!("another process takes over");
        doors.shut().await;
        doors.leave_files(true);
        let result = give_clients(shared, &stream, &mut inbox).await;
        match result {
            Ok(()) => {
                let _ = send(&stream, Kind::Done, &[], &[]).await;
                return info!("all clients are with the other process, exiting");
            }
            Err(error) => {
                warn!(
                    "the process that took over has gone ({error}); going on with the clients that are here"
                );
                doors.leave_files(false);
                doors.open();
            }
        }
    }
}

/// Says what there is, and waits until the new process accepts connections.
async fn introduce(
    shared: &Arc<Shared>,
    doors: &Doors,
    stream: &UnixStream,
    inbox: &mut Inbox,
) -> io::Result<()> {
    let claim = receive(stream, inbox).await?;
    let version = Fields(&claim.fields).find(|(tag, _)| *tag == tag::VERSION).and_then(|(_, v)| number(v));
    if claim.kind != Kind::Claim || version != Some(VERSION) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let counted = shared.counted();
    let mut hello = Writer::default();
    hello.number(tag::VERSION, VERSION).number(tag::CLOCK, counted.clock);
    hello.number(tag::NEXT_ID, counted.next_id);
    hello.number(tag::NEXT_STATEMENT, prepared::next_id() + MORE_STATEMENTS);
    hello.put(tag::SEED, seed()).number(tag::SEED_CHECK, hash_of([0u8]));
    hello.flag(tag::PAUSED, counted.paused);
    send(stream, Kind::Hello, &hello.finish(), &[]).await?;
    for listener in doors.listeners() {
        let mut fields = Writer::default();
        if let Some(path) = listener.path() {
            fields.put(tag::PATH, path.as_os_str().as_encoded_bytes());
        }
        send(stream, Kind::Listener, &fields.finish(), &[listener.as_fd()]).await?;
    }
    for db in shared.registry.databases() {
        let (paused, disabled) = (db.paused.load(Relaxed), db.disabled.load(Relaxed));
        if paused || disabled {
            let mut fields = Writer::default();
            fields.put(tag::DATABASE, &db.name).flag(tag::PAUSED, paused).flag(tag::DISABLED, disabled);
            send(stream, Kind::Held, &fields.finish(), &[]).await?;
        }
    }
    for pool in shared.registry.pools() {
        let mut fields = Writer::default();
        fields.put(tag::DATABASE, &pool.db.name).put(tag::USER, &pool.user.name);
        let (keys, proven) = (pool.passed_through(), pool.proven());
        let disclosed = keys.is_some() || proven.is_some();
        if let Some(keys) = keys {
            fields.put(tag::KEYS, keys.to_bytes());
        }
        if let Some(password) = proven {
            fields.put(tag::SECRET, password.reveal());
        }
        if disclosed {
            send(stream, Kind::Keys, &fields.finish(), &[]).await?;
        }
        if let Some(Learnt { secret, lookup }) = pool.learnt() {
            let mut fields = Writer::default();
            fields.put(tag::DATABASE, &pool.db.name).put(tag::USER, &pool.user.name);
            fields.put(tag::SECRET, secret.reveal()).put(tag::SQL, lookup.sql).put(tag::LOGIN, lookup.login);
            fields.put(tag::ASKED_IN, lookup.database).put(tag::ASKED_BY, lookup.asker);
            send(stream, Kind::Learnt, &fields.finish(), &[]).await?;
        }
    }
    send(stream, Kind::Ready, &[], &[]).await?;
    match receive(stream, inbox).await?.kind {
        Kind::Up => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Ends what was begun when clients stop going.
struct Giving<'a>(&'a Shared);

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        self.0.handover.gives.store(false, Relaxed);
    }
}

async fn give_clients(shared: &Arc<Shared>, stream: &UnixStream, inbox: &mut Inbox) -> io::Result<()> {
    let (_parcels_open, mut parcels) = Open::new(&shared.handover.parcels);
    let (_cancels_open, mut cancels) = Open::new(&shared.handover.newer);
    shared.handover.gives.store(true, Relaxed);
    let _giving = Giving(shared);
    let mut waiting: HashMap<u64, Answer> = HashMap::new();
    let mut cancelling: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
    let (done, mut dealt_with) = tokio::sync::mpsc::unbounded_channel();
    let mut asked = HashSet::new();
    let (mut last, mut looks) = (0, 0);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(parcel) = parcels.recv(), if waiting.len() < UNDER_WAY => {
                last += 1;
                if let Some(answer) = send_parcel(stream, last, parcel).await? {
                    waiting.insert(last, answer);
                }
            }
            frame = receive(stream, inbox) => {
                let frame = frame?;
                let Some(number) = number_of(&frame.fields) else { continue };
                match frame.kind {
                    Kind::Arrived | Kind::Listening => {
                        drop(waiting.remove(&number).map(|answer| answer.send(Ok(frame.fields))));
                    }
                    Kind::Refused => {
                        let why = Fields(&frame.fields).find(|(tag, _)| *tag == tag::TEXT);
                        let why = why.and_then(|(_, why)| text(why)).unwrap_or_default();
                        drop(waiting.remove(&number).map(|answer| answer.send(Err(why))));
                    }
                    Kind::Cancel => answer_cancel(shared, key_of(&frame.fields), number, done.clone(), Whence::Newer),
                    Kind::Cancelled => drop(cancelling.remove(&number)),
                    _ => {}
                }
            }
            Some((key, finished)) = cancels.recv() => {
                last += 1;
                cancelling.insert(last, finished);
                send(stream, Kind::Cancel, &cancel_fields(last, key), &[]).await?;
            }
            Some(number) = dealt_with.recv() => {
                let fields = Writer::default().number(tag::NUMBER, number).finish();
                send(stream, Kind::Cancelled, &fields, &[]).await?;
            }
            _ = look.tick() => {
                looks += 1;
                if looks % ASK_AGAIN == 0 {
                    asked.clear();
                }
                if waiting.is_empty() && parcels.is_empty() && is_empty(shared) {
                    return Ok(());
                }
                ask_clients(shared, &mut asked);
            }
        }
    }
}

/// Sends a client, or what is asked for one; returns who is to be told.
async fn send_parcel(stream: &UnixStream, number: u64, parcel: Parcel) -> io::Result<Option<Answer>> {
    let mut fields = Writer::default();
    let fields = fields.number(tag::NUMBER, number).put(tag::CLIENT, &parcel.bytes).finish();
    let fds: Vec<_> = parcel.fds.iter().map(AsFd::as_fd).collect();
    match send(stream, parcel.kind, &fields, &fds).await {
        // It is too long: it stays.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        sent => sent.map(|()| Some(parcel.answer)),
    }
}

/// Deals with a cancel request that the other process has passed on, and says so in the end.
pub(super) fn answer_cancel(
    shared: &Arc<Shared>,
    key: Option<crate::clients::CancelKey>,
    number: u64,
    done: tokio::sync::mpsc::UnboundedSender<u64>,
    whence: Whence,
) {
    let shared = shared.clone();
    tokio::spawn(async move {
        if let Some(key) = key {
            cancel::request(&shared, key, whence).await;
        }
        let _ = done.send(number);
    });
}

/// Nobody is here any more.
fn is_empty(shared: &Shared) -> bool {
    let clients = shared.clients.len() + shared.clients.logging_in.load(Relaxed);
    clients + shared.salvaging.get() == 0 && !shared.handover.receives()
}

/// Asks those who are new since the last look to go as soon as they are at rest, and makes room for the other process's
/// servers.
fn ask_clients(shared: &Shared, asked: &mut HashSet<u64>) {
    let clients = shared.clients.all();
    asked.retain(|id| clients.binary_search_by_key(id, |client| client.id).is_ok());
    for client in clients.into_iter().filter(|client| asked.insert(client.id)).take(ASKED_AT_ONCE) {
        shared.order(client.worker, Order::Travel(client));
    }
    let before = shared.clock.micros().saturating_sub(LOOK.as_micros() as u64); // others are in use
    shared.registry.pools().iter().for_each(|pool| pool.close_idle_since(before, "handed over"));
}
