use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::error_fields::{ErrorFields, ErrorMessage, Severity};
use protocol::frame::HEADER_LEN;
use protocol::message;
use protocol::session::Origin;
use protocol::sqlstate::SqlState;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

use super::{Inbox, Message};
use crate::pool::{Pool, Tally};
use crate::prepared::ClientStatements;
use crate::secrets::random;
use crate::server::{self, Server, ServerState};
use crate::worker::Worker;

/// Time between two attempts to connect, and between two looks at whether the connection is still wanted.
const PAUSE: Duration = Duration::from_millis(250);

/// How many such looks a connection that nobody needs is kept for the next client that listens: 10 s.
const LINGER: u32 = 40;

/// The connection that listens for all clients of a database.
pub(crate) struct Hub {
    state: Mutex<State>,
    /// There is something to do.
    changed: Notify,
    /// Its connection, while there is one.
    open: Arc<Tally>,
    /// The channel of the markers, unlike any other pooler's.
    marker: String,
}

#[derive(Default)]
struct State {
    /// Clients by channel. The connection listens, or is about to, to each that is here.
    channels: HashMap<Box<str>, Vec<Arc<Inbox>>>,
    joins: HashMap<u64, Join>,
    last_join: u64,
    todo: Vec<Todo>,
    /// The pool of the client that joined last: whose user logs in.
    pool: Option<Arc<Pool>>,
    running: bool,
    connected: bool,
}

/// A client whose channels are being handed over.
struct Join {
    inbox: Arc<Inbox>,
    channels: Vec<Box<str>>,
    /// Until the connection listens.
    ready: Option<oneshot::Sender<()>>,
    /// The client has changed over; the marker is on its way.
    moved: bool,
}

enum Todo {
    Listen(Box<str>),
    Unlisten(Box<str>),
    /// A marker for another process's hub: its channel and the number.
    Mark(Box<str>, u64),
    Done(Done),
}

/// Who is told when everything before has been done.
enum Done {
    Join(u64),
    Fence(oneshot::Sender<()>),
}

/// A client's wait until the connection listens to its channels.
pub(crate) struct Joining {
    pub(crate) ready: oneshot::Receiver<()>,
    number: u64,
    channel: String,
}

impl Joining {
    /// What the client's server is to run, outside a transaction, when the connection is ready.
    pub(crate) fn marker(&self) -> String {
        mark(&self.channel, self.number)
    }

    /// The same for a server that another process has: channel and number.
    pub(crate) fn mark(&self) -> (&str, u64) {
        (&self.channel, self.number)
    }

    /// The marker has this payload.
    pub(crate) fn is_marker(&self, payload: &[u8]) -> bool {
        payload == self.number.to_string().as_bytes()
    }
}

impl Default for Hub {
    fn default() -> Self {
        let marker = format!("pgferry_{:016x}", u64::from_be_bytes(random::<8>()));
        Hub { state: Mutex::default(), changed: Notify::new(), open: Arc::default(), marker }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({})", self.marker)
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its connection, if there is one, counts here.
    pub(crate) fn open(&self) -> &Arc<Tally> {
        &self.open
    }

    /// The channel of the markers, which no client is to hear of.
    pub(crate) fn marker(&self) -> &str {
        &self.marker
    }

    /// Begins to listen to channels for a client of `pool`.
    pub(super) fn join(
        self: &Arc<Self>,
        inbox: &Arc<Inbox>,
        channels: Vec<Box<str>>,
        pool: &Arc<Pool>,
        worker: &Rc<Worker>,
    ) -> Joining {
        let (sender, ready) = oneshot::channel();
        let mut state = self.lock();
        state.last_join += 1;
        let number = state.last_join;
        for channel in &channels {
            if !state.channels.contains_key(channel) {
                state.channels.insert(channel.clone(), Vec::new());
                state.todo.push(Todo::Listen(channel.clone()));
            }
        }
        state
            .joins
            .insert(number, Join { inbox: inbox.clone(), channels, ready: Some(sender), moved: false });
        state.todo.push(Todo::Done(Done::Join(number)));
        state.pool = Some(pool.clone());
        if !mem::replace(&mut state.running, true) {
            worker.spawn(self.clone().run(worker.clone()));
        }
        self.changed.notify_one();
        Joining { ready, number, channel: self.marker.clone() }
    }

    /// A client listens to these channels no more.
    pub(super) fn leave(&self, inbox: &Arc<Inbox>, channels: &[Box<str>]) {
        if channels.is_empty() {
            return;
        }
        let mut state = self.lock();
        for join in state.joins.values_mut().filter(|join| Arc::ptr_eq(&join.inbox, inbox)) {
            join.channels.retain(|channel| !channels.contains(channel));
        }
        for channel in channels {
            if let Some(inboxes) = state.channels.get_mut(channel) {
                inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
            }
            state.let_go(channel);
        }
        self.changed.notify_one();
    }

    /// What a client has handed over is the connection's from the marker on, whatever the client does meanwhile.
    pub(super) fn moved(&self, inbox: &Arc<Inbox>) {
        let mut state = self.lock();
        let joins = state.joins.values_mut().filter(|join| Arc::ptr_eq(&join.inbox, inbox));
        joins.filter(|join| join.ready.is_none()).for_each(|join| join.moved = true);
    }

    /// What a client has begun to hand over and not ended is forgotten; all of it when the client is gone.
    pub(super) fn forget(&self, inbox: &Arc<Inbox>, gone: bool) {
        let mut state = self.lock();
        let (gone, kept) = mem::take(&mut state.joins)
            .into_iter()
            .partition(|(_, join)| Arc::ptr_eq(&join.inbox, inbox) && (gone || !join.moved));
        state.joins = kept;
        let gone: HashMap<u64, Join> = gone;
        for channel in gone.values().flat_map(|join| &join.channels) {
            state.let_go(channel);
        }
        self.changed.notify_one();
    }

    /// A client goes to another process, whose hub counts from this marker on: it comes to the inbox in its place among the
    /// client's notifications. False: there is no connection now.
    pub(super) fn mark(&self, inbox: &Arc<Inbox>, channel: &str, number: u64) -> bool {
        let mut state = self.lock();
        if state.connected {
            let inboxes = state.channels.entry(channel.into()).or_default();
            if !inboxes.iter().any(|other| Arc::ptr_eq(other, inbox)) {
                inboxes.push(inbox.clone());
            }
            state.todo.push(Todo::Mark(channel.into(), number));
            self.changed.notify_one();
        }
        state.connected
    }

    /// Resolves when everything that was committed before has come to the clients' inboxes; `None`: nothing can be
    /// waited for.
    pub(crate) fn fence(&self) -> Option<oneshot::Receiver<()>> {
        let (sender, passed) = oneshot::channel();
        let mut state = self.lock();
        state.connected.then(|| {
            state.todo.push(Todo::Done(Done::Fence(sender)));
            self.changed.notify_one();
            passed
        })
    }

    /// What is at hand is done at once: a pause begins or ends.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    // ---- the connection --------------------------------------------------------------------------------------

    /// Keeps a connection for as long as some client listens.
    async fn run(self: Arc<Self>, worker: Rc<Worker>) {
        let mut lost = false;
        let mut said = false;
        while let Some(pool) = self.pool_or_end() {
            match self.connect(&worker, &pool).await {
                Ok(Some(server)) => {
                    said = false;
                    self.lock().connected = true;
                    let why = self.serve(server, lost).await;
                    self.disconnected();
                    info!(peer = %pool.name(), "connection that listens for clients closed: {why}");
                    lost = true;
                    continue;
                }
                Ok(None) => {}
                Err(error) if !mem::replace(&mut said, true) => {
                    warn!(peer = %pool.name(), "connection that listens for clients: {error}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whose user logs in; `None` when nobody listens any more.
    fn pool_or_end(&self) -> Option<Arc<Pool>> {
        let mut state = self.lock();
        if !state.is_wanted() {
            (state.running, state.pool) = (false, None);
            state.todo.clear();
            return None;
        }
        if let Some(pool) = state.pool.take_if(|pool| pool.is_removed()) {
            state.pool = pool.db.pools().into_iter().next().or(Some(pool));
        }
        state.pool.clone()
    }

    /// `Ok(None)`: not now.
    async fn connect(
        &self,
        worker: &Rc<Worker>,
        pool: &Arc<Pool>,
    ) -> Result<Option<Box<Server>>, server::ConnectError> {
        if self.must_close(pool) || pool.is_removed() {
            return Ok(None);
        }
        let now = pool.shared.clock.micros();
        let Some(begun) = pool.dial(now, || pool.admit_aside(&self.open)) else { return Ok(None) };
        let mut server = server::connect(worker, pool, begun, &[]).await?.into_server();
        server.info.set_state(ServerState::Listening);
        // The clients that are served from here all have it.
        let set = server::run(&mut server, "SET client_encoding = 'UTF8'").await;
        set.map_err(|error| server::ConnectError::Unreachable(error.to_string()))?;
        Ok(Some(server))
    }

    /// In a pause there is no connection, as soon as no client keeps its server for want of one.
    fn must_close(&self, pool: &Pool) -> bool {
        pool.is_held() && self.lock().joins.is_empty()
    }

    fn disconnected(&self) {
        let mut state = self.lock();
        state.connected = false;
        state.todo.retain(|todo| !matches!(todo, Todo::Done(Done::Fence(_))));
    }

    /// Listens until the connection ends or must; returns why.
    async fn serve(&self, mut server: Box<Server>, lost: bool) -> Cow<'static, str> {
        let mut sent = VecDeque::from([self.lock().begin(&self.marker)]);
        let mut request = mem::take(&mut sent[0].0);
        let mut looks = tokio::time::interval(PAUSE);
        let mut unwanted = 0;
        let mut began = false;
        loop {
            if !request.is_empty() {
                server.own_query(Origin::Aside);
                if server::send(&mut server, &request).await.is_err() {
                    return "server conn crashed?".into();
                }
                request.clear();
            }
            tokio::select! {
                () = self.changed.notified() => {
                    let (bytes, done) = self.lock().next();
                    if !bytes.is_empty() {
                        request = bytes;
                        sent.push_back((Vec::new(), done));
                    }
                }
                read = server.stream.read_buf(&mut server.carry) => {
                    let Ok(1..) = read else { return "server conn crashed?".into() };
                    let answered = match self.read(&mut server) {
                        Ok(answered) => answered,
                        Err(why) => return why,
                    };
                    for (_, done) in sent.drain(..answered.min(sent.len())) {
                        self.lock().finish(done);
                        if lost && !mem::replace(&mut began, true) {
                            self.lock().tell_loss();
                        }
                    }
                }
                _ = looks.tick() => {
                    unwanted = if self.lock().is_wanted() { 0 } else { unwanted + 1 };
                    if unwanted > LINGER {
                        return "nobody listens".into();
                    }
                }
            }
            let pool = server.pool();
            if self.must_close(pool) || server.info.generation != pool.generation() {
                return "close_needed".into();
            }
        }
    }

    /// Deals with what has come; returns how many requests were answered.
    fn read(&self, server: &mut Server) -> Result<usize, Cow<'static, str>> {
        let pool = server.pool().clone();
        let max_len = pool.shared.config.load().limits.max_packet_size;
        let mut buf = mem::take(&mut server.carry);
        let (mut answered, mut failed) = (0, None);
        let used = server.receive(&buf, max_len, &mut ClientStatements::default(), |piece| {
            answered += usize::from(piece.said.ready.is_some());
            if piece.tag == Some(b'E') {
                failed = ErrorFields::new(&piece.bytes[HEADER_LEN..]).message().map(Cow::into_owned);
            }
            if piece.tag == Some(b'A') {
                self.deliver(piece.bytes, &pool);
            }
        });
        buf.drain(..used.map_err(|fault| fault.text())?);
        server.carry = buf;
        failed.map_or(Ok(answered), |message| Err(message.into()))
    }

    /// Gives a notification to whom it concerns.
    fn deliver(&self, bytes: &[u8], pool: &Pool) {
        let Some((pid, channel, payload)) = Message::notification(bytes) else { return };
        let mut state = self.lock();
        if channel == self.marker {
            let number = std::str::from_utf8(payload).ok().and_then(|number| number.parse().ok());
            if let Some(join) = number.and_then(|number: u64| state.joins.remove(&number)) {
                state.admit(join);
            }
            return;
        }
        let Some(inboxes) = state.channels.get(channel).filter(|inboxes| !inboxes.is_empty()) else { return };
        let kept = &pool.shared.buffers;
        let message = match pool.db.notifier(pid) {
            Some(client) => Message::new(Message::with_pid(bytes, client), kept),
            None => Message::new(bytes, kept),
        };
        let most = pool.shared.config.load().limits.client_buffer();
        inboxes.iter().for_each(|inbox| inbox.put(&message, most));
    }
}

impl State {
    fn is_wanted(&self) -> bool {
        !self.channels.is_empty() || !self.joins.is_empty()
    }

    /// Ends listening to a channel if nobody needs it.
    fn let_go(&mut self, channel: &str) {
        let joining = self.joins.values().any(|join| join.channels.iter().any(|c| **c == *channel));
        if !joining && self.channels.get(channel).is_some_and(Vec::is_empty) {
            self.channels.remove(channel);
            self.todo.push(Todo::Unlisten(channel.into()));
        }
    }

    /// The client has its channels from the connection from now on.
    fn admit(&mut self, join: Join) {
        for channel in join.channels {
            let inboxes = self.channels.entry(channel).or_default();
            if !inboxes.iter().any(|inbox| Arc::ptr_eq(inbox, &join.inbox)) {
                inboxes.push(join.inbox.clone());
            }
        }
    }

    /// The first request of a new connection, and who is told when it is answered. Markers on their way when the old one
    /// ended may have been missed: their clients have changed over.
    fn begin(&mut self, marker: &str) -> (Vec<u8>, Vec<Done>) {
        let (waiting, under_way) =
            mem::take(&mut self.joins).into_iter().partition(|(_, join)| join.ready.is_some());
        self.joins = waiting;
        let under_way: HashMap<u64, Join> = under_way;
        under_way.into_values().for_each(|join| self.admit(join));
        self.todo.clear();
        let channels = self.channels.keys().map(|channel| &**channel);
        let sql: String =
            channels.chain([marker]).map(|channel| format!("LISTEN {};", quoted(channel))).collect();
        (query(&sql), self.joins.keys().map(|number| Done::Join(*number)).collect())
    }

    /// The next request, and who is told when it is answered.
    fn next(&mut self) -> (Vec<u8>, Vec<Done>) {
        if self.todo.is_empty() {
            return Default::default();
        }
        let (mut sql, mut done) = (String::new(), Vec::new());
        for todo in self.todo.drain(..) {
            match todo {
                Todo::Listen(channel) => sql += &format!("LISTEN {};", quoted(&channel)),
                Todo::Unlisten(channel) => sql += &format!("UNLISTEN {};", quoted(&channel)),
                Todo::Mark(channel, number) => sql += &mark(&channel, number),
                Todo::Done(who) => done.push(who),
            }
        }
        (query(&sql), done)
    }

    fn finish(&mut self, done: Vec<Done>) {
        for who in done {
            let sender = match who {
                Done::Fence(sender) => Some(sender),
                Done::Join(number) => self.joins.get_mut(&number).and_then(|join| join.ready.take()),
            };
            sender.map(|sender| sender.send(()));
        }
    }

    fn tell_loss(&self) {
        let mut told = HashSet::new();
        let mut bytes = Vec::new();
        let text = "notifications may have been lost";
        ErrorMessage::new(Severity::Warning, SqlState::WARNING, text)
            .with_detail("The connection that listens for the clients of this database was lost and is back.")
            .encode_notice(&mut bytes);
        let notice = Message::new(bytes, &Arc::default());
        for inbox in self.channels.values().flatten() {
            if told.insert(Arc::as_ptr(inbox)) {
                inbox.put(&notice, usize::MAX);
            }
        }
    }
}

/// Sends a marker, to be heard here, too.
fn mark(channel: &str, number: u64) -> String {
    format!("LISTEN {0};NOTIFY {0},'{number}';", quoted(channel))
}

fn query(sql: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    message::query(&mut bytes, sql);
    bytes
}

/// The name of a channel in SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
