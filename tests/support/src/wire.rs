//! A client that sends exactly the bytes it is told to and shows exactly the messages that come back.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use sha2::{Digest, Sha256};

use crate::frontend;
use crate::message::{CancelKey, Fields, Message, Reader, Side};
use crate::peer::{Address, Peer, is_end};
use crate::tls::ClientTls;

/// Everything that a login needs.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where to connect.
    pub address: Address,
    /// Start-up parameter `user`.
    pub user: String,
    /// Start-up parameter `database`.
    pub database: String,
    /// What to answer when asked for a password.
    pub password: Option<String>,
    /// Further start-up parameters.
    pub params: Vec<(String, String)>,
    /// Protocol version asked for.
    pub version: u32,
    /// With TLS, and how.
    pub tls: Option<ClientTls>,
    /// As with `channel_binding=require`.
    pub bound: bool,
}

impl Target {
    /// A login without a password.
    pub fn new(address: Address, user: &str, database: &str) -> Target {
        Target {
            address,
            user: user.into(),
            database: database.into(),
            password: None,
            params: Vec::new(),
            version: frontend::VERSION_3_0,
            tls: None,
            bound: false,
        }
    }

    /// Which must be bound to the certificate that the server shows (`tls-server-end-point`, with SHA-256).
    pub fn bound(mut self) -> Target {
        self.bound = true;
        self
    }

    /// With TLS; its cancel requests as well.
    pub fn tls(mut self, tls: &ClientTls) -> Target {
        self.tls = Some(tls.clone());
        self
    }

    /// With this password.
    pub fn password(mut self, password: &str) -> Target {
        self.password = Some(password.into());
        self
    }

    /// As another user.
    pub fn user(mut self, user: &str) -> Target {
        self.user = user.into();
        self
    }

    /// To another database.
    pub fn database(mut self, database: &str) -> Target {
        self.database = database.into();
        self
    }

    /// With one more start-up parameter.
    pub fn param(mut self, name: &str, value: &str) -> Target {
        self.params.push((name.into(), value.into()));
        self
    }

    /// The StartupMessage.
    pub fn startup(&self) -> Vec<u8> {
        let mut params = vec![("user", self.user.as_str()), ("database", self.database.as_str())];
        params.extend(self.params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        frontend::startup(self.version, &params)
    }
}

/// Why a login failed.
#[derive(Debug)]
pub enum LoginError {
    /// The server said so.
    Refused(Fields),
    /// The connection broke, or nothing came in time.
    Io(io::Error),
}

impl LoginError {
    /// What the server said.
    ///
    /// # Panics
    /// When it said nothing.
    #[track_caller]
    pub fn refusal(self) -> Fields {
        match self {
            LoginError::Refused(fields) => fields,
            LoginError::Io(error) => panic!("no refusal but {error}"),
        }
    }
}

/// A client connection. Methods without `try_` panic when something else happens than they are for.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
    address: Address,
    tls: Option<ClientTls>,
    /// All that the server sent up to the first ReadyForQuery.
    pub greeting: Vec<Message>,
    /// The latest value of each reported parameter.
    pub params: BTreeMap<String, String>,
    /// From BackendKeyData.
    pub key: Option<CancelKey>,
}

impl Client {
    /// Connects and sends nothing.
    #[track_caller]
    pub fn open(address: &Address) -> Client {
        Client::try_open(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"))
    }

    /// Connects and sends nothing.
    pub fn try_open(address: &Address) -> io::Result<Client> {
        Client::try_open_with(address, None)
    }

    /// Connects, with TLS or without, and sends nothing else.
    pub fn try_open_with(address: &Address, tls: Option<&ClientTls>) -> io::Result<Client> {
        let stream = tls.map_or_else(|| address.connect(), |tls| tls.connect(address))?;
        Ok(Client {
            peer: Peer::new(stream),
            address: address.clone(),
            tls: tls.cloned(),
            greeting: Vec::new(),
            params: BTreeMap::new(),
            key: None,
        })
    }

    /// Connects and logs in.
    #[track_caller]
    pub fn login(target: &Target) -> Client {
        Client::try_login(target).unwrap_or_else(|e| {
            panic!("login as {} to {} at {}: {e:?}", target.user, target.database, target.address)
        })
    }

    /// Connects and logs in by the method that the server asks for.
    pub fn try_login(target: &Target) -> Result<Client, LoginError> {
        let mut client =
            Client::try_open_with(&target.address, target.tls.as_ref()).map_err(LoginError::Io)?;
        client.peer.send(&target.startup()).map_err(LoginError::Io)?;
        client.finish_login(target)?;
        Ok(client)
    }

    /// The rest of a login whose StartupMessage was sent.
    pub fn finish_login(&mut self, target: &Target) -> Result<(), LoginError> {
        let password = target.password.as_deref().unwrap_or_default();
        let end_point = target.bound.then(|| self.end_point()).flatten();
        let mut scram = None;
        loop {
            let message = self.try_read().map_err(LoginError::Io)?;
            if let Some(fields) = message.error() {
                return Err(LoginError::Refused(fields));
            }
            if message.tag == b'R' {
                let binding = end_point.as_deref();
                let answer = answer_challenge(&message.body, &target.user, password, binding, &mut scram);
                if let Some(answer) = answer.map_err(LoginError::Io)? {
                    self.peer.send(&answer).map_err(LoginError::Io)?;
                }
            } else if message.tag == b'K' {
                self.key = message.key();
            }
            let done = message.tag == b'Z';
            self.greeting.push(message);
            if done {
                return match target.bound && (end_point.is_none() || scram.is_none()) {
                    true => Err(LoginError::Io(invalid("let in without channel binding"))),
                    false => Ok(()),
                };
            }
        }
    }

    /// The hash of the certificate that the server has shown.
    fn end_point(&mut self) -> Option<Vec<u8>> {
        let certificates = self.peer.stream().tls()?.connection().peer_certificates()?;
        Some(Sha256::digest(certificates.first()?).to_vec())
    }

    /// Where this client is connected to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The connection itself.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Sends bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.peer.send(bytes.as_ref()).unwrap_or_else(|e| panic!("send to {}: {e}", self.address));
    }

    /// Sends several messages with one write.
    #[track_caller]
    pub fn send_all(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        self.send(messages.into_iter().flatten().collect::<Vec<u8>>());
    }

    /// Reads one message.
    #[track_caller]
    pub fn read(&mut self) -> Message {
        self.try_read().unwrap_or_else(|e| panic!("read from {}: {e}", self.address))
    }

    /// Reads one message; keeps what it says about parameters.
    pub fn try_read(&mut self) -> io::Result<Message> {
        let message = self.peer.read_message(Side::Backend)?;
        if let Some((name, value)) = message.parameter() {
            self.params.insert(name, value);
        }
        Ok(message)
    }

    /// Reads one message and checks its tag.
    #[track_caller]
    pub fn expect(&mut self, tag: u8) -> Message {
        let message = self.read();
        assert_eq!(message.tag as char, tag as char, "{message:?}");
        message
    }

    /// Reads up to and including a message with this tag.
    #[track_caller]
    pub fn read_until(&mut self, tag: u8) -> Reply {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(message) => messages.push(message),
                Err(error) => panic!("{error} before {:?}, after {messages:?}", tag as char),
            }
            if messages.last().is_some_and(|message| message.tag == tag) {
                return Reply(messages);
            }
        }
    }

    /// Reads up to and including ReadyForQuery.
    #[track_caller]
    pub fn read_until_ready(&mut self) -> Reply {
        self.read_until(b'Z')
    }

    /// Runs a simple query and reads its whole reply, which may hold an error.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Reply {
        self.send(frontend::query(sql));
        self.read_until_ready()
    }

    /// Runs a simple query that must succeed.
    #[track_caller]
    pub fn execute(&mut self, sql: &str) -> Reply {
        let reply = self.query(sql);
        assert!(reply.error().is_none(), "{sql}: {:?}", reply.error());
        reply
    }

    /// The single value that a query yields, empty for NULL.
    #[track_caller]
    pub fn scalar(&mut self, sql: &str) -> String {
        let rows = self.execute(sql).rows();
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: not one value but {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// The process id of the server process that answers now.
    #[track_caller]
    pub fn backend_pid(&mut self) -> i32 {
        self.scalar("select pg_backend_pid()").parse().expect("a process id")
    }

    /// Sends a CancelRequest for this session over a connection of its own and waits until that is closed.
    #[track_caller]
    pub fn cancel(&self) {
        cancel_with(&self.address, self.tls.as_ref(), self.key.as_ref().expect("a cancel key"));
    }

    /// Reads to the end of the connection: the whole messages that came before it.
    #[track_caller]
    pub fn expect_closed(&mut self) -> Reply {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(message) => messages.push(message),
                Err(error) if is_end(&error) => return Reply(messages),
                Err(error) => panic!("{error} instead of an end, after {messages:?}"),
            }
        }
    }

    /// Checks that nothing arrives for a while. What did not come yet could still come: use it where a wrong message
    /// would be sent at once.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        self.peer.stream().set_read_timeout(time).expect("set the timeout");
        match self.try_read() {
            Ok(message) => panic!("not silent: {message:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}"),
        }
        self.peer.stream().set_read_timeout(crate::wait::default_deadline()).expect("set the timeout");
    }

    /// Says Terminate and waits until the server closes.
    #[track_caller]
    pub fn terminate(mut self) {
        self.send(frontend::terminate());
        let rest = self.expect_closed();
        assert!(rest.0.is_empty(), "after Terminate: {rest:?}");
    }

    /// Ends this direction; the server's still works.
    #[track_caller]
    pub fn half_close(&mut self) {
        self.peer.stream().shutdown(Shutdown::Write).expect("shut down");
    }

    /// Dies as a process does that crashes with unread data: TCP reset.
    #[track_caller]
    pub fn abort(self) {
        self.peer.stream().reset_on_close().expect("set linger");
    }
}

/// Sends a CancelRequest and waits until the server closes.
#[track_caller]
pub fn cancel(address: &Address, key: &CancelKey) {
    cancel_with(address, None, key);
}

/// As [`cancel`], with TLS or without.
#[track_caller]
pub fn cancel_with(address: &Address, tls: Option<&ClientTls>, key: &CancelKey) {
    let client = Client::try_open_with(address, tls);
    let mut client = client.unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    client.send(frontend::cancel_request(key));
    let rest = client.peer.read_to_end().expect("the end of the cancel connection");
    assert!(rest.is_empty(), "an answer to a cancel request: {}", rest.escape_ascii());
}

fn answer_challenge(
    body: &[u8],
    user: &str,
    password: &str,
    end_point: Option<&[u8]>,
    scram: &mut Option<ScramSha256>,
) -> io::Result<Option<Vec<u8>>> {
    let mut reader = Reader(body);
    let kind = reader.i32();
    let data = reader.rest();
    match (kind, scram) {
        (Some(0), _) => Ok(None),
        (Some(3), _) => Ok(Some(frontend::password(password))),
        (Some(5), _) => {
            let salt = data.try_into().map_err(|_| invalid("md5 salt"))?;
            Ok(Some(frontend::password(&md5_hash(user.as_bytes(), password.as_bytes(), salt))))
        }
        (Some(10), scram) => {
            let (mechanism, binding) = match end_point {
                Some(hash) => ("SCRAM-SHA-256-PLUS", ChannelBinding::tls_server_end_point(hash.to_vec())),
                None => ("SCRAM-SHA-256", ChannelBinding::unsupported()),
            };
            let exchange = ScramSha256::new(password.as_bytes(), binding);
            let first = frontend::sasl_initial(mechanism, exchange.message());
            *scram = Some(exchange);
            Ok(Some(first))
        }
        (Some(11), Some(exchange)) => {
            exchange.update(&data)?;
            Ok(Some(frontend::sasl_response(exchange.message())))
        }
        (Some(12), Some(exchange)) => exchange.finish(&data).map(|()| None),
        _ => Err(invalid("authentication request")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The messages of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Vec<Message>);

impl Reply {
    /// All data rows as text.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        let row = |message: &Message| Some(message.row()?.into_iter().map(|value| value.map(text)).collect());
        self.0.iter().filter_map(row).collect()
    }

    /// All command tags.
    pub fn commands(&self) -> Vec<String> {
        self.0.iter().filter_map(Message::command).collect()
    }

    /// The first error.
    pub fn error(&self) -> Option<Fields> {
        self.0.iter().find_map(Message::error)
    }

    /// The first error's SQLSTATE, empty if there is no error.
    pub fn error_code(&self) -> String {
        self.error().map(|fields| fields.code().to_string()).unwrap_or_default()
    }

    /// The tags in order, as text: `"T D C Z"` without the blanks.
    pub fn tags(&self) -> String {
        self.0.iter().map(|message| message.tag as char).collect()
    }

    /// The transaction status of the last ReadyForQuery.
    pub fn status(&self) -> Option<u8> {
        self.0.iter().rev().find_map(Message::ready)
    }
}
