//! An LDAP server that says what a test wants, byte by byte.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The server. Each connection has a thread of its own; dropping it ends all of them.
#[derive(Debug)]
pub struct LdapServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
    received: Mutex<Vec<u8>>,
}

/// One connection to it.
#[derive(Debug)]
pub struct LdapSession {
    stream: TcpStream,
    shared: Arc<Shared>,
}

/// A request.
#[derive(Debug)]
pub struct LdapRequest {
    /// Its number.
    pub id: u8,
    /// Tag of the operation: 0x60 bind, 0x63 search, 0x77 extended, 0x42 unbind.
    pub operation: u8,
    /// What follows that tag's length.
    pub body: Vec<u8>,
}

impl LdapServer {
    /// Listens on a free port of 127.0.0.1. `script` is run for each connection; an error ends it silently.
    pub fn start(script: impl Fn(&mut LdapSession) -> io::Result<()> + Send + Sync + 'static) -> LdapServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { return };
                    if shared.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    shared.sockets.lock().unwrap().extend(stream.try_clone());
                    let (script, shared) = (script.clone(), shared.clone());
                    thread::spawn(move || {
                        let mut session = LdapSession { stream, shared };
                        let _ = script(&mut session);
                        // Dropping it would not do: there is a copy of it for the end of all.
                        let _ = session.stream.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        LdapServer { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Everything that all connections have sent.
    pub fn received(&self) -> Vec<u8> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for LdapServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.accepting.take().map(JoinHandle::join);
    }
}

impl LdapSession {
    /// The next request.
    ///
    /// # Errors
    /// The client has left.
    pub fn read(&mut self) -> io::Result<LdapRequest> {
        let (_, message) = self.element()?;
        let id = message[2];
        let operation = message[3];
        let header = if message[4] < 0x80 { 1 } else { 1 + usize::from(message[4] & 0x7f) };
        Ok(LdapRequest { id, operation, body: message[4 + header..].to_vec() })
    }

    fn element(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let len = match head[1] {
            short @ 0..0x80 => usize::from(short),
            long => {
                let mut bytes = vec![0; usize::from(long & 0x7f)];
                self.stream.read_exact(&mut bytes)?;
                bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte))
            }
        };
        let mut content = vec![0; len];
        self.stream.read_exact(&mut content)?;
        self.shared.received.lock().unwrap().extend_from_slice(&content);
        Ok((head[0], content))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The client has left.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits until the client has left.
    pub fn wait_for_end(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    /// Sends bytes one at a time, this far apart.
    ///
    /// # Errors
    /// The client has left.
    pub fn drip(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            self.send(&[*byte])?;
            thread::sleep(pause);
        }
        Ok(())
    }
}

/// A reply that says how a request went: 0x61 to a bind, 0x65 the end of a search, 0x78 to an extended request.
pub fn outcome(id: u8, operation: u8, code: u8) -> Vec<u8> {
    message(id, operation, &[0x0a, 1, code, 4, 0, 4, 0])
}

/// An entry that a search has found.
pub fn entry(id: u8, name: &str) -> Vec<u8> {
    message(id, 0x64, &[&[4, name.len() as u8], name.as_bytes(), &[0x30, 0]].concat())
}

/// A message of up to 120 bytes.
pub fn message(id: u8, operation: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= 120);
    let body_len = body.len() as u8;
    [&[0x30, body_len + 5, 2, 1, id, operation, body_len], body].concat()
}
