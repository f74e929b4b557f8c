//! The new process: it asks the old one for what that has, and makes sessions of the clients that come.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use protocol::auth::scram::Keys;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::fields::{Fields, Writer, number, text};
use super::frames::{Frame, Inbox, Kind, Line, receive, send};
use super::giving::answer_cancel;
use super::{Open, Traveller, VERSION, Whence, cancel_fields, key_of, number_of, place, tag};
use crate::auth_query::{Learnt, Lookup};
use crate::client::Session;
use crate::clients::CancelKey;
use crate::config::{Listen, Secret};
use crate::intern::{hash_of, take_seed};
use crate::listen::Listener as Socket;
use crate::load::Leave;
use crate::notify::{Channels, Listener};
use crate::prepared;
use crate::shared::{Counted, Shared};
use crate::worker::{Order, Worker};

/// How long the old process may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// The servers of a process that has left are gone after this.
const SERVERS_GONE_WITHIN: Duration = Duration::from_secs(5);

/// What an old process has given so far.
pub struct Inheritance {
    line: Line,
    pub(crate) counted: Counted,
    listeners: Vec<Socket>,
    disclosed: Vec<(String, String, Option<Keys>, Option<Secret>)>,
    learnt: Vec<(String, String, Learnt)>,
    held: Vec<(String, bool, bool)>,
}

/// The process at the other end is this user's, or root's.
pub(super) fn is_trusted(stream: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid.as_raw() == nix::unistd::geteuid().as_raw())
}

impl Inheritance {
    /// Asks the process that serves these addresses; `None` if there is none.
    ///
    /// # Errors
    /// There is one, and it does not give what it has.
    pub fn claim(listen: &Listen) -> io::Result<Option<Inheritance>> {
        let Some(path) = place(listen, listen.port) else { return Ok(None) };
        let stream = match std::os::unix::net::UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error),
        };
        if !is_trusted(&stream) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = Line { stream, inbox: Inbox::default() };
        line.send(Kind::Claim, &Writer::default().number(tag::VERSION, VERSION).finish())?;
        let mut it = Inheritance {
            line,
            counted: Counted::default(),
            listeners: Vec::new(),
            disclosed: Vec::new(),
            learnt: Vec::new(),
            held: Vec::new(),
        };
        loop {
            let mut frame = it.line.receive()?;
            let fields = &frame.fields;
            let heard = match frame.kind {
                Kind::Hello => it.on_hello(fields),
                Kind::Listener => frame.fds.pop().and_then(|fd| it.on_listener(fields, fd)),
                Kind::Keys => it.on_keys(fields),
                Kind::Learnt => it.on_learnt(fields),
                Kind::Held => it.on_held(fields),
                Kind::Ready => return Ok(Some(it)),
                _ => Some(()),
            };
            heard.ok_or(io::ErrorKind::InvalidData)?;
        }
    }

    fn on_hello(&mut self, fields: &[u8]) -> Option<()> {
        let mut check = 0;
        Fields(fields).each(|tag, bytes| {
            match tag {
                tag::CLOCK => self.counted.clock = number(bytes)?,
                tag::NEXT_ID => self.counted.next_id = number(bytes)?,
                tag::NEXT_STATEMENT => prepared::begin_ids_at(number(bytes)?),
                tag::SEED => take_seed(bytes.try_into().ok()?),
                tag::SEED_CHECK => check = number(bytes)?,
                tag::PAUSED => self.counted.paused = true,
                _ => {}
            }
            Some(())
        })?;
        if check != hash_of([0u8]) {
            info!(
                "the old process was built otherwise: what clients were told of their statements is forgotten"
            );
            prepared::forget_what_is_told();
        }
        Some(())
    }

    fn on_listener(&mut self, fields: &[u8], fd: OwnedFd) -> Option<()> {
        let path = Fields(fields).find(|(tag, _)| *tag == tag::PATH);
        let path = path.map(|(_, path)| PathBuf::from(OsStr::from_bytes(path)));
        self.listeners.push(Socket::inherited(fd, path)?);
        Some(())
    }

    fn on_keys(&mut self, fields: &[u8]) -> Option<()> {
        let (mut database, mut user, mut keys, mut proven) = (String::new(), String::new(), None, None);
        Fields(fields).each(|tag, bytes| {
            match tag {
                tag::DATABASE => database = text(bytes)?,
                tag::USER => user = text(bytes)?,
                tag::KEYS => keys = Some(Keys::from_bytes(bytes)?),
                tag::SECRET => proven = Some(Secret::new(text(bytes)?)),
                _ => {}
            }
            Some(())
        })?;
        self.disclosed.push((database, user, keys, proven));
        Some(())
    }

    fn on_learnt(&mut self, fields: &[u8]) -> Option<()> {
        let (mut database, mut user, mut secret) = (String::new(), String::new(), None);
        let mut lookup = Lookup::default();
        Fields(fields).each(|tag, bytes| {
            match tag {
                tag::DATABASE => database = text(bytes)?,
                tag::USER => user = text(bytes)?,
                tag::SECRET => secret = Some(Secret::new(text(bytes)?)),
                tag::ASKED_IN => lookup.database = text(bytes)?,
                tag::ASKED_BY => lookup.asker = text(bytes)?,
                tag::SQL => lookup.sql = text(bytes)?,
                tag::LOGIN => lookup.login = text(bytes)?,
                _ => {}
            }
            Some(())
        })?;
        self.learnt.push((database, user, Learnt { secret: secret?, lookup }));
        Some(())
    }

    fn on_held(&mut self, fields: &[u8]) -> Option<()> {
        let (mut database, mut paused, mut disabled) = (String::new(), false, false);
        Fields(fields).each(|tag, bytes| {
            match tag {
                tag::DATABASE => database = text(bytes)?,
                tag::PAUSED => paused = true,
                tag::DISABLED => disabled = true,
                _ => {}
            }
            Some(())
        })?;
        self.held.push((database, paused, disabled));
        Some(())
    }

    /// The sockets, for [`crate::bind`].
    pub(crate) fn listeners(&mut self) -> Vec<Socket> {
        std::mem::take(&mut self.listeners)
    }

    /// Gives databases and pools what the old process knows of them. Returns the way to it.
    pub(crate) fn settle(self, shared: &Arc<Shared>) -> Takeover {
        let config = shared.config.load_full();
        let now = shared.clock.micros();
        shared.handover.receives.store(true, Relaxed);
        for (name, paused, disabled) in self.held {
            if let Ok(db) = shared.registry.database(&config, &name, now) {
                db.paused.store(paused, Relaxed);
                db.disabled.store(disabled, Relaxed);
            }
        }
        for (name, user, keys, proven) in self.disclosed {
            if let Ok(db) = shared.registry.database(&config, &name, now) {
                let pool = shared.registry.pool(shared, &db, &user);
                keys.into_iter().for_each(|keys| pool.pass_through(keys));
                pool.prove(proven);
            }
        }
        for (name, user, learnt) in self.learnt {
            if let Ok(db) = shared.registry.database(&config, &name, now) {
                shared.registry.pool_of(shared, &db, &user).learn(Some(learnt));
            }
        }
        Takeover(self.line)
    }
}

/// The way to the old process.
pub(crate) struct Takeover(Line);

/// A client that comes, on its way to a worker.
pub(crate) struct Arriving {
    traveller: Traveller,
    fds: Vec<OwnedFd>,
    number: u64,
    answers: mpsc::UnboundedSender<Answer>,
}

/// A client for which is to be listened before it comes.
pub(crate) struct ListenAhead {
    key: CancelKey,
    database: String,
    login: String,
    channels: Channels,
    number: u64,
    answers: mpsc::UnboundedSender<Answer>,
}

/// What the old process is told of a client.
struct Answer {
    number: u64,
    outcome: Outcome,
}

enum Outcome {
    /// It may be served as soon as this was told.
    Arrived(oneshot::Sender<()>),
    /// From this marker on: channel and number.
    Listening(String, u64),
    Refused(String),
}

/// Makes a session of a client that has come, and serves it once the old process has been told.
pub(crate) async fn settle(worker: Rc<Worker>, arriving: Arriving, leave: Leave) {
    let Arriving { traveller, fds, number, answers } = arriving;
    match Session::arrive(&worker, traveller, fds, leave) {
        Ok(mut session) => {
            let (told, may_begin) = oneshot::channel();
            let _ = answers.send(Answer { number, outcome: Outcome::Arrived(told) });
            match may_begin.await {
                Ok(()) => session.run().await,
                Err(_) => session.leave_behind(), // the old process has it still
            }
        }
        Err(why) => drop(answers.send(Answer { number, outcome: Outcome::Refused(why) })),
    }
}

/// Listens for a client that is about to come.
pub(crate) async fn listen(worker: Rc<Worker>, ahead: ListenAhead) {
    let shared = &worker.shared;
    let ListenAhead { key, database, login, channels, number, answers } = ahead;
    let db = shared.registry.database(&shared.config.load(), &database, shared.clock.micros());
    let outcome = match db {
        Ok(db) => {
            let pool = shared.registry.pool(shared, &db, &login);
            let mut listener = Listener::new(&pool);
            let mut joining = listener.join(&channels, &pool, &worker);
            let _ = (&mut joining.ready).await;
            listener.moved(channels);
            super::lock(&shared.handover.listeners).insert(key, listener);
            let (channel, marker) = joining.mark();
            Outcome::Listening(channel.to_owned(), marker)
        }
        Err(_) => Outcome::Refused("database removed".into()),
    };
    let _ = answers.send(Answer { number, outcome });
}

/// Tells the old process that connections are accepted here, and takes over its clients until it has none.
pub(crate) async fn take(shared: Arc<Shared>, takeover: Takeover) {
    let Line { stream, mut inbox } = takeover.0;
    let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    let result = match stream {
        Ok(stream) => take_clients(&shared, &stream, &mut inbox).await,
        Err(error) => Err(error),
    };
    let room_by = shared.clock.micros() + SERVERS_GONE_WITHIN.as_micros() as u64;
    shared.handover.room_by.store(room_by, Relaxed);
    shared.handover.receives.store(false, Relaxed);
    super::lock(&shared.handover.listeners).clear(); // of clients that have not come
    match result {
        Ok(count) => info!("has taken over {count} clients; the old process has none any more"),
        Err(error) => warn!("the old process has gone before it had given everything: {error}"),
    }
}

async fn take_clients(shared: &Arc<Shared>, stream: &UnixStream, inbox: &mut Inbox) -> io::Result<usize> {
    let (_cancels_open, mut cancels) = Open::new(&shared.handover.older);
    let (answers, mut answered) = mpsc::unbounded_channel();
    let (done, mut dealt_with) = mpsc::unbounded_channel();
    let mut cancelling = std::collections::HashMap::new();
    let (mut count, mut last) = (0, 0);
    send(stream, Kind::Up, &[], &[]).await?;
    loop {
        tokio::select! {
            frame = receive(stream, inbox) => {
                let frame = frame?;
                let number = number_of(&frame.fields).unwrap_or(0);
                match frame.kind {
                    Kind::Client | Kind::Listen => arrive(shared, number, frame, &answers),
                    Kind::Cancel => answer_cancel(shared, key_of(&frame.fields), number, done.clone(), Whence::Older),
                    Kind::Cancelled => drop(cancelling.remove(&number)),
                    Kind::Done => return Ok(count),
                    _ => {}
                }
            }
            Some(Answer { number, outcome }) = answered.recv() => {
                let mut fields = Writer::default();
                fields.number(tag::NUMBER, number);
                match outcome {
                    Outcome::Listening(channel, marker) => {
                        fields.put(tag::CHANNEL, channel).number(tag::MARKER, marker);
                        send(stream, Kind::Listening, &fields.finish(), &[]).await?;
                    }
                    Outcome::Arrived(may_begin) => {
                        send(stream, Kind::Arrived, &fields.finish(), &[]).await?;
                        let _ = may_begin.send(());
                        count += 1;
                    }
                    Outcome::Refused(why) => {
                        send(stream, Kind::Refused, &fields.put(tag::TEXT, why).finish(), &[]).await?;
                    }
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
        }
    }
}

/// Gives what has come to a worker.
fn arrive(shared: &Shared, number: u64, frame: Frame, answers: &mpsc::UnboundedSender<Answer>) {
    let workers = shared.workers.get().map_or(&[][..], Vec::as_slice);
    let worker = workers.iter().min_by_key(|worker| worker.load());
    let client = Fields(&frame.fields).find(|(tag, _)| *tag == tag::CLIENT).map(|(_, bytes)| bytes);
    let given = worker.zip(client).and_then(|(worker, bytes)| {
        let answers = answers.clone();
        match frame.kind {
            Kind::Listen => worker.send(Order::ListenAhead(listen_ahead(bytes, number, answers)?)),
            _ => {
                let traveller = Traveller::decode(bytes)?;
                worker.receive(Arriving { traveller, fds: frame.fds, number, answers });
            }
        }
        Some(())
    });
    if given.is_none() {
        let outcome = Outcome::Refused("what the pooler knew of the session was lost".into());
        let _ = answers.send(Answer { number, outcome });
    }
}

fn listen_ahead(
    bytes: &[u8],
    number: u64,
    answers: mpsc::UnboundedSender<Answer>,
) -> Option<Box<ListenAhead>> {
    let (mut database, mut login, mut channels) = (String::new(), String::new(), Channels::new());
    Fields(bytes).each(|tag, bytes| {
        match tag {
            tag::DATABASE => database = text(bytes)?,
            tag::USER => login = text(bytes)?,
            tag::CHANNEL => _ = channels.insert(text(bytes)?.into()),
            _ => {}
        }
        Some(())
    })?;
    let key = key_of(bytes)?;
    Some(Box::new(ListenAhead { key, database, login, channels, number, answers }))
}
