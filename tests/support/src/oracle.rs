//! The direct oracle: the same client messages go straight to PostgreSQL and through a pooler, and what comes back must
//! be the same, message by message.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;

use crate::diff::diff;
use crate::message::{Fields, Message};
use crate::peer::is_end;
use crate::postgres::Database;
use crate::wire::{Client, Target};

/// A way to PostgreSQL: how clients log in, and the database where they end. Each way has a database of its own, so
/// that a script finds the same state on all of them.
#[derive(Debug)]
pub struct Way {
    /// How clients log in.
    pub target: Target,
    /// The database behind it, for looking at it as superuser.
    pub database: Database,
}

/// PostgreSQL itself, and ways through a pooler that should be the same.
#[derive(Debug)]
pub struct Oracle {
    /// Straight to PostgreSQL.
    pub direct: Way,
    /// Through a pooler.
    pub pooled: Vec<Way>,
}

impl Oracle {
    /// Runs the script on every way and compares; then a new client of each must get an answer of its own.
    #[track_caller]
    pub fn check(&self, script: &Script) {
        self.check_on(&self.pooled, script);
    }

    /// [`Oracle::check`] on some of the ways.
    #[track_caller]
    pub fn check_on(&self, ways: &[Way], script: &Script) {
        let direct = script.run(&self.direct);
        assert!(!direct.timed_out(), "PostgreSQL itself does not answer all of {script:?}: {direct:?}");
        for way in ways {
            let pooled = script.run(way);
            assert!(direct == pooled, "{}", difference(script, way, &direct, &pooled));
            way.check_next_client();
        }
    }
}

impl Way {
    /// Whoever comes next gets the answer to its own question and nothing else.
    #[track_caller]
    pub fn check_next_client(&self) {
        let mut next = Client::login(&self.target);
        let reply = next.query("select 'mine'");
        assert_eq!(reply.tags(), "TDCZ", "the next client got {reply:?}");
        assert_eq!(reply.rows(), [[Some("mine".to_string())]]);
        next.terminate();
    }
}

fn difference(script: &Script, way: &Way, direct: &Transcript, pooled: &Transcript) -> String {
    let lines = diff(&direct.0, &pooled.0);
    let name = &way.target.database;
    format!("not what PostgreSQL answers (- PostgreSQL only, + through {name} only):\n{lines}to {script:?}")
}

/// What clients do, in order. Each reading step names what it waits for, so that a run depends on no timing.
#[derive(Default)]
pub struct Script {
    steps: Vec<(usize, Step)>,
    client: usize,
    record_login: bool,
    dropped_fields: Vec<u8>,
}

type Action = Box<dyn Fn(&mut Stage<'_>)>;

enum Step {
    Send(Vec<u8>),
    SendSplit(Vec<u8>, Vec<usize>),
    Ready(usize),
    Until(u8),
    Closed,
    HalfClose,
    Close,
    Abort,
    Rows(String),
    Act(String, Action),
}

impl Script {
    /// An empty script. The first client logs in when its first step comes.
    pub fn new() -> Script {
        Script::default()
    }

    /// The steps that follow are those of another client (the first is 0), which logs in at its first step.
    pub fn on(mut self, client: usize) -> Script {
        self.client = client;
        self
    }

    /// Sends messages with one write.
    pub fn send(self, messages: impl IntoIterator<Item = Vec<u8>>) -> Script {
        self.step(Step::Send(messages.into_iter().flatten().collect()))
    }

    /// Sends messages in pieces that begin at these offsets.
    pub fn send_split(self, messages: impl IntoIterator<Item = Vec<u8>>, offsets: &[usize]) -> Script {
        self.step(Step::SendSplit(messages.into_iter().flatten().collect(), offsets.to_vec()))
    }

    /// Sends a simple query and reads to ReadyForQuery.
    pub fn query(self, sql: &str) -> Script {
        self.send([crate::frontend::query(sql)]).ready(1)
    }

    /// Reads up to the `count`th ReadyForQuery.
    pub fn ready(self, count: usize) -> Script {
        self.step(Step::Ready(count))
    }

    /// Reads up to a message with this tag.
    pub fn until(self, tag: u8) -> Script {
        self.step(Step::Until(tag))
    }

    /// Reads to the end of the connection.
    pub fn closed(self) -> Script {
        self.step(Step::Closed)
    }

    /// Ends the client's direction of the connection.
    pub fn half_close(self) -> Script {
        self.step(Step::HalfClose)
    }

    /// Closes the connection.
    pub fn close(self) -> Script {
        self.step(Step::Close)
    }

    /// Closes the connection with a TCP reset.
    pub fn abort(self) -> Script {
        self.step(Step::Abort)
    }

    /// Looks at the database as superuser: what a query yields there is compared too.
    pub fn rows(self, sql: &str) -> Script {
        self.step(Step::Rows(sql.into()))
    }

    /// Does something from outside, such as waiting for a state or terminating a server process.
    pub fn act(self, what: &str, action: impl Fn(&mut Stage<'_>) + 'static) -> Script {
        self.step(Step::Act(what.into(), Box::new(action)))
    }

    /// Compares the messages of the login too.
    pub fn record_login(mut self) -> Script {
        self.record_login = true;
        self
    }

    /// Leaves these fields of errors and notices out of the comparison, such as `b"FLR"` (place in the source).
    pub fn drop_fields(mut self, fields: &[u8]) -> Script {
        self.dropped_fields.extend(fields);
        self
    }

    /// How many clients it has.
    pub fn clients(&self) -> usize {
        let mut clients: Vec<usize> = self.steps.iter().map(|(client, _)| *client).collect();
        clients.sort_unstable();
        clients.dedup();
        clients.len()
    }

    fn step(mut self, step: Step) -> Script {
        self.steps.push((self.client, step));
        self
    }

    /// Runs the script one way.
    pub fn run(&self, way: &Way) -> Transcript {
        let mut stage = Stage {
            database: &way.database,
            target: &way.target,
            clients: BTreeMap::new(),
            events: Vec::new(),
            normaliser: Normaliser { dropped_fields: self.dropped_fields.clone(), oids: Vec::new() },
            record_login: self.record_login,
        };
        for (client, step) in &self.steps {
            stage.play(*client, step);
        }
        Transcript(stage.events)
    }
}

/// A script while it runs one way.
pub struct Stage<'a> {
    /// The database behind this way.
    pub database: &'a Database,
    /// How clients log in.
    pub target: &'a Target,
    /// `None`: the connection has ended.
    clients: BTreeMap<usize, Option<Client>>,
    events: Vec<(usize, Event)>,
    normaliser: Normaliser,
    record_login: bool,
}

impl Stage<'_> {
    /// A client of the script; `None` once its connection has ended.
    pub fn client(&mut self, number: usize) -> Option<&mut Client> {
        if !self.clients.contains_key(&number) {
            let client = Client::login(self.target);
            if self.record_login {
                self.record_greeting(number, &client);
            }
            self.clients.insert(number, Some(client));
        }
        self.clients.get_mut(&number)?.as_mut()
    }

    /// The order of the ParameterStatus messages is the server's choice.
    fn record_greeting(&mut self, number: usize, client: &Client) {
        let mut greeting = client.greeting.clone();
        greeting.sort_by_key(|message| (message.tag, message.parameter()));
        for message in greeting {
            let message = self.normaliser.apply(message);
            self.events.push((number, Event::Message(message)));
        }
    }

    fn play(&mut self, number: usize, step: &Step) {
        match step {
            // A failed write shows as the end of the connection in the next reading step.
            Step::Send(bytes) => {
                let _ = self.client(number).map(|client| client.peer().send(bytes));
            }
            Step::SendSplit(bytes, offsets) => {
                let _ = self.client(number).map(|client| client.peer().send_split(bytes, offsets));
            }
            Step::Ready(count) => {
                let mut left = *count;
                self.read_until(number, |message| {
                    left -= usize::from(message.tag == b'Z');
                    left == 0
                });
            }
            Step::Until(tag) => self.read_until(number, |message| message.tag == *tag),
            Step::Closed => self.read_until(number, |_| false),
            Step::HalfClose => {
                if let Some(client) = self.client(number) {
                    let _ = client.peer().stream().shutdown(std::net::Shutdown::Write);
                }
            }
            Step::Close => drop(self.clients.insert(number, None)),
            Step::Abort => {
                self.client(number);
                if let Some(Some(client)) = self.clients.insert(number, None) {
                    client.abort();
                }
            }
            Step::Rows(sql) => {
                let rows = self.database.sql(sql).rows();
                self.events.push((number, Event::Rows(rows)));
            }
            Step::Act(_, action) => action(self),
        }
    }

    /// Reads messages until one is the last, the connection ends, or nothing more comes.
    fn read_until(&mut self, number: usize, mut is_last: impl FnMut(&Message) -> bool) {
        while let Some(client) = self.client(number) {
            let event = match client.try_read() {
                Ok(message) => {
                    let last = is_last(&message);
                    let message = self.normaliser.apply(message);
                    self.events.push((number, Event::Message(message)));
                    if last {
                        return;
                    }
                    continue;
                }
                Err(error) if is_end(&error) => Event::Closed,
                Err(error) if error.kind() == ErrorKind::TimedOut => Event::Silence,
                Err(error) => Event::Broken(error.to_string()),
            };
            self.events.push((number, event));
            self.clients.insert(number, None);
        }
    }
}

/// What came back, in the order in which it was read, each with the client that read it.
#[derive(PartialEq)]
pub struct Transcript(pub Vec<(usize, Event)>);

/// One thing that a client saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A message, normalised.
    Message(Message),
    /// The end of the connection.
    Closed,
    /// Something was still owed and did not come in time.
    Silence,
    /// Bytes that are no message, or an error of the socket.
    Broken(String),
    /// What the superuser saw in the database.
    Rows(Vec<Vec<Option<String>>>),
}

impl Transcript {
    fn timed_out(&self) -> bool {
        self.0.iter().any(|(_, event)| *event == Event::Silence)
    }

    /// The tags of the messages in order.
    pub fn tags(&self) -> String {
        let tag = |(_, event): &(usize, Event)| match event {
            Event::Message(message) => Some(message.tag as char),
            _ => None,
        };
        self.0.iter().filter_map(tag).collect()
    }

    /// The errors that clients saw.
    pub fn errors(&self) -> Vec<Fields> {
        let error = |(_, event): &(usize, Event)| match event {
            Event::Message(message) => message.error(),
            _ => None,
        };
        self.0.iter().filter_map(error).collect()
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script\n")?;
        for (client, step) in &self.steps {
            writeln!(f, "    {client}: {step:?}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Send(bytes) => write!(f, "send {:?}", split_messages(bytes)),
            Step::SendSplit(bytes, offsets) => {
                write!(f, "send {:?} cut at {offsets:?}", split_messages(bytes))
            }
            Step::Ready(count) => write!(f, "read {count} ReadyForQuery"),
            Step::Until(tag) => write!(f, "read until {:?}", *tag as char),
            Step::Closed => f.write_str("read to the end"),
            Step::HalfClose => f.write_str("half close"),
            Step::Close => f.write_str("close"),
            Step::Abort => f.write_str("reset"),
            Step::Rows(sql) => write!(f, "look at {sql:?}"),
            Step::Act(what, _) => f.write_str(what),
        }
    }
}

/// The messages in `bytes`; what is left over at the end, or malformed, shows as one of type 0.
fn split_messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let Some((body, rest)) = length.checked_sub(4).and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        messages.push(Message::frontend(header[0], body));
        bytes = rest;
    }
    if !bytes.is_empty() {
        messages.push(Message::frontend(0, bytes));
    }
    messages
}

/// Takes out of messages what differs between two runs that mean the same.
struct Normaliser {
    dropped_fields: Vec<u8>,
    /// Oids of the database's own objects in order of appearance.
    oids: Vec<u32>,
}

impl Normaliser {
    fn apply(&mut self, mut message: Message) -> Message {
        match message.tag {
            b'K' => message.body.fill(0),
            b'A' => message.body[..4].fill(0),
            b'E' | b'N' => message.body = self.keep_fields(&message),
            b'T' => self.hide_column_oids(&mut message.body),
            b't' => {
                for at in (2..message.body.len()).step_by(4) {
                    self.hide_oid(&mut message.body, at);
                }
            }
            _ => {}
        }
        message
    }

    fn keep_fields(&self, message: &Message) -> Vec<u8> {
        let Some(fields) = message.error().or_else(|| message.notice()) else { return message.body.clone() };
        let mut body = Vec::new();
        for (name, value) in fields.0.iter().filter(|(name, _)| !self.dropped_fields.contains(name)) {
            body.push(*name);
            body.extend(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    /// Each column: name, table oid (4 bytes), attribute (2), type oid (4), size (2), modifier (4), format (2).
    fn hide_column_oids(&mut self, body: &mut [u8]) {
        let mut at = 2;
        while let Some(length) = body.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
            at += length + 1;
            self.hide_oid(body, at);
            self.hide_oid(body, at + 6);
            at += 18;
        }
    }

    /// Replaces the oid at this place by a number that depends on the order of appearance only.
    fn hide_oid(&mut self, body: &mut [u8], at: usize) {
        const FIRST_NORMAL_OID: u32 = 16384;
        let Some(bytes) = body.get_mut(at..at + 4) else { return };
        let oid = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if oid >= FIRST_NORMAL_OID {
            let place = self.oids.iter().position(|known| *known == oid).unwrap_or_else(|| {
                self.oids.push(oid);
                self.oids.len() - 1
            });
            bytes.copy_from_slice(&(FIRST_NORMAL_OID + place as u32).to_be_bytes());
        }
    }
}
