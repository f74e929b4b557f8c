//! A server that follows a script: it logs clients in as PostgreSQL would, and then says, holds back and breaks off
//! exactly what a test wants. Any number of connections, each with a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;

use crate::backend;
use crate::message::{CancelKey, Message, Reader, Side};
use crate::peer::{Address, Peer, Stream, is_end};
use crate::scram::ScramServer;
use crate::tls::ServerTls;
use crate::wait::{Gate, eventually};

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// The server. Dropping it ends all its connections; a script that panicked then fails the test.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    hold_cancels: Option<Gate>,
    tls: Option<ServerTls>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: Vec<Record>,
    cancels: Vec<CancelKey>,
    failures: Vec<String>,
}

/// What is known about one connection that sent a StartupMessage.
#[derive(Debug)]
struct Record {
    /// For ending the connection from outside; `None` once the script has ended.
    socket: Option<Stream>,
    startup: BTreeMap<String, String>,
    received: Vec<Message>,
}

type ScriptFn = dyn Fn(&mut Session) -> io::Result<()> + Send + Sync;

impl ScriptedServer {
    /// Listens on a free port of 127.0.0.1. `script` is run for each connection once its StartupMessage is there; when
    /// it returns the connection is closed. An error of the socket ends a script silently, a panic fails the test.
    pub fn start(script: impl Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static) -> ScriptedServer {
        ScriptedServer::launch(Shared::default(), Arc::new(script))
    }

    /// Like [`ScriptedServer::start`], but cancel requests are taken note of only when the gate is open, and their
    /// connections stay open until then.
    pub fn start_holding_cancels(
        gate: Gate,
        script: impl Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static,
    ) -> ScriptedServer {
        ScriptedServer::launch(Shared { hold_cancels: Some(gate), ..Shared::default() }, Arc::new(script))
    }

    /// Like [`ScriptedServer::start`], with TLS for whoever asks for it or begins with it.
    pub fn start_with_tls(
        tls: &ServerTls,
        script: impl Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static,
    ) -> ScriptedServer {
        ScriptedServer::launch(Shared { tls: Some(tls.clone()), ..Shared::default() }, Arc::new(script))
    }

    fn launch(shared: Shared, script: Arc<ScriptFn>) -> ScriptedServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(shared);
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared, &script)
        });
        ScriptedServer { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that sent a StartupMessage, ended ones included.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().sessions.len()
    }

    /// Connections whose script has not ended.
    pub fn open_connections(&self) -> usize {
        self.shared.state.lock().unwrap().sessions.iter().filter(|session| session.socket.is_some()).count()
    }

    /// The start-up parameters of a connection (the first is 0).
    pub fn startup(&self, connection: usize) -> BTreeMap<String, String> {
        self.shared.state.lock().unwrap().sessions[connection].startup.clone()
    }

    /// All messages that a connection's script has read so far.
    pub fn received(&self, connection: usize) -> Vec<Message> {
        self.shared.state.lock().unwrap().sessions[connection].received.clone()
    }

    /// Cancel requests so far.
    pub fn cancels(&self) -> Vec<CancelKey> {
        self.shared.state.lock().unwrap().cancels.clone()
    }

    /// Waits until all scripts have ended by themselves.
    #[track_caller]
    pub fn finish(self) {
        eventually("the scripts end", Duration::from_secs(20), || self.open_connections() == 0);
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address); // wakes the accepting thread
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let state = self.shared.state.lock().unwrap();
        for socket in state.sessions.iter().filter_map(|session| session.socket.as_ref()) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if !thread::panicking() {
            assert!(state.failures.is_empty(), "a scripted server failed: {}", state.failures.join("; "));
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<ScriptFn>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (shared, script) = (shared.clone(), script.clone());
        thread::spawn(move || {
            let _ =
                Session::open(Stream::Tcp(stream), shared).map(|session| session.map(|s| s.play(&*script)));
        });
    }
}

/// One connection of a scripted server.
#[derive(Debug)]
pub struct Session {
    /// Its number, from 0, in the order of the StartupMessages.
    pub number: usize,
    /// Start-up parameters.
    pub startup: BTreeMap<String, String>,
    peer: Peer,
    shared: Arc<Shared>,
    reset: bool,
}

/// How a scripted server checks passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    Trust,
    /// Clear text; this is the right one.
    Cleartext(String),
    /// MD5 with this password.
    Md5(String),
    /// SCRAM-SHA-256 with this password.
    Scram(String),
}

/// What a scripted server says at login.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// How it checks the password.
    pub auth: Auth,
    /// ParameterStatus messages.
    pub params: Vec<(String, String)>,
    /// BackendKeyData, if any.
    pub key: Option<CancelKey>,
}

impl Greeting {
    /// Trust, the parameters of a PostgreSQL 15, and a key that names the connection's number.
    pub fn new(connection: usize) -> Greeting {
        let params = [
            ("application_name", ""),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
            ("integer_datetimes", "on"),
            ("IntervalStyle", "postgres"),
            ("is_superuser", "off"),
            ("server_encoding", "UTF8"),
            ("server_version", "15.0 (scripted)"),
            ("session_authorization", "app"),
            ("standard_conforming_strings", "on"),
            ("TimeZone", "UTC"),
        ];
        Greeting {
            auth: Auth::Trust,
            params: params.map(|(name, value)| (name.to_string(), value.to_string())).to_vec(),
            key: Some(CancelKey { pid: 1000 + connection as i32, secret: vec![7, 7, 7, connection as u8] }),
        }
    }

    /// With this check of the password.
    pub fn auth(mut self, auth: Auth) -> Greeting {
        self.auth = auth;
        self
    }
}

impl Session {
    /// Reads the start-up packet; `None` for a cancel request and for a connection that says nothing.
    fn open(stream: Stream, shared: Arc<Shared>) -> io::Result<Option<Session>> {
        stream.prepare()?;
        // A pooler's connections may be idle for as long as a test runs.
        stream.set_read_timeout(Duration::from_secs(3600))?;
        let socket = stream.try_clone()?;
        let mut peer = match &shared.tls {
            Some(tls) if stream.begins_with(0x16)? => Peer::new(tls.handshake(stream)?),
            _ => Peer::new(stream),
        };
        loop {
            let packet = peer.read_untagged()?;
            let mut reader = Reader(&packet);
            match reader.i32().map(|code| code as u32) {
                Some(SSL) if shared.tls.is_some() => {
                    peer.send(b"S")?;
                    let tls = shared.tls.as_ref().expect("TLS");
                    peer = Peer::new(tls.handshake(peer.into_stream())?);
                }
                Some(SSL | GSSENC) => peer.send(b"N")?,
                Some(CANCEL) => {
                    if let Some(gate) = &shared.hold_cancels {
                        gate.pass();
                    }
                    let key = CancelKey { pid: reader.i32().unwrap_or_default(), secret: reader.rest() };
                    shared.state.lock().unwrap().cancels.push(key);
                    return Ok(None);
                }
                _ => {
                    let startup = startup_params(&mut reader);
                    let mut state = shared.state.lock().unwrap();
                    let number = state.sessions.len();
                    let record =
                        Record { socket: Some(socket), startup: startup.clone(), received: Vec::new() };
                    state.sessions.push(record);
                    drop(state);
                    return Ok(Some(Session { number, startup, peer, shared, reset: false }));
                }
            }
        }
    }

    fn play(mut self, script: &ScriptFn) {
        let result = catch_unwind(AssertUnwindSafe(|| script(&mut self)));
        let mut state = self.shared.state.lock().unwrap();
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            state.failures.push(text.unwrap_or_default());
        }
        // The last handle closes the connection: a reset must not be preceded by an orderly end.
        let socket = state.sessions[self.number].socket.take();
        if let Some(socket) = socket.filter(|_| !self.reset) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Lets the client in as [`Greeting::new`] says.
    pub fn login(&mut self) -> io::Result<()> {
        self.login_with(&Greeting::new(self.number))
    }

    /// Checks the password and greets. A wrong password is refused, which ends the script.
    pub fn login_with(&mut self, greeting: &Greeting) -> io::Result<()> {
        if !self.password_is_right(&greeting.auth)? {
            self.send(&backend::error("FATAL", "28P01", "password authentication failed"))?;
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut welcome = backend::authentication_ok();
        for (name, value) in &greeting.params {
            welcome.extend(backend::parameter_status(name, value));
        }
        if let Some(key) = &greeting.key {
            welcome.extend(backend::key_data(key));
        }
        welcome.extend(backend::ready(b'I'));
        self.send(&welcome)
    }

    fn password_is_right(&mut self, auth: &Auth) -> io::Result<bool> {
        match auth {
            Auth::Trust => Ok(true),
            Auth::Cleartext(password) => {
                self.send(&backend::authentication_cleartext())?;
                Ok(self.expect(b'p')?.body == [password.as_bytes(), &[0]].concat())
            }
            Auth::Md5(password) => {
                let salt = [1, 2, 3, 4];
                self.send(&backend::authentication_md5(salt))?;
                let user = self.startup.get("user").cloned().unwrap_or_default();
                let right = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                Ok(self.expect(b'p')?.body == [right.as_bytes(), &[0]].concat())
            }
            Auth::Scram(password) => self.scram(password),
        }
    }

    fn scram(&mut self, password: &str) -> io::Result<bool> {
        let mut exchange = ScramServer::new(password);
        self.send(&backend::authentication(10, b"SCRAM-SHA-256\0\0"))?;
        let initial = self.expect(b'p')?.body;
        let mut reader = Reader(&initial);
        assert_eq!(reader.text().as_deref(), Some("SCRAM-SHA-256"));
        reader.i32();
        let first = exchange.first(&String::from_utf8_lossy(&reader.rest()));
        self.send(&backend::authentication(11, first.as_bytes()))?;
        let answer = self.expect(b'p')?.body;
        let Some(last) = exchange.last(&String::from_utf8_lossy(&answer)) else { return Ok(false) };
        self.send(&backend::authentication(12, last.as_bytes()))?;
        Ok(true)
    }

    /// Reads one message and keeps a copy for [`ScriptedServer::received`].
    pub fn read(&mut self) -> io::Result<Message> {
        let message = self.peer.read_message(Side::Frontend)?;
        self.shared.state.lock().unwrap().sessions[self.number].received.push(message.clone());
        Ok(message)
    }

    /// Reads one message that must have this tag.
    #[track_caller]
    pub fn expect(&mut self, tag: u8) -> io::Result<Message> {
        let message = self.read()?;
        assert_eq!(message.tag as char, tag as char, "connection {} read {message:?}", self.number);
        Ok(message)
    }

    /// Reads one message that must be exactly these bytes.
    #[track_caller]
    pub fn expect_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let message = self.read()?;
        let expected = Message::frontend(bytes[0], &bytes[5..]);
        assert_eq!(message, expected, "connection {}", self.number);
        Ok(())
    }

    /// Reads up to and including a message with this tag.
    pub fn read_until(&mut self, tag: u8) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.read()?);
            if messages.last().is_some_and(|message| message.tag == tag) {
                return Ok(messages);
            }
        }
    }

    /// Sends bytes. To stall in the middle of a message, send a part and pass a [`Gate`] before the rest.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.peer.send(bytes)
    }

    /// Reads messages and sends what `answer` makes of each, until Terminate or the end of the connection.
    pub fn serve(&mut self, mut answer: impl FnMut(&Message) -> Vec<u8>) -> io::Result<()> {
        loop {
            match self.read() {
                Ok(message) if message.tag == b'X' => return Ok(()),
                Ok(message) => self.peer.send(&answer(&message))?,
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers every simple query with one value, the connection's number, until the connection ends.
    pub fn serve_number(&mut self) -> io::Result<()> {
        let number = self.number.to_string();
        self.serve(|message| match message.tag {
            b'Q' => backend::one_value(&number),
            _ => Vec::new(),
        })
    }

    /// The connection will be reset, not closed in order, when the script returns.
    pub fn reset_at_end(&mut self) -> io::Result<()> {
        self.reset = true;
        self.peer.stream().reset_on_close()
    }

    /// The connection.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

fn startup_params(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let mut params = BTreeMap::new();
    while let Some(name) = reader.text().filter(|name| !name.is_empty()) {
        params.insert(name, reader.text().unwrap_or_default());
    }
    params
}
