//! One end of a connection, TCP or Unix, with reads that cut messages and ends that can be chosen: orderly, half, or
//! with a reset.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::message::{Message, Side};
use crate::proc::unread;
use crate::tls::Session;
use crate::wait::{default_deadline, holds_within};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket, `DIR/.s.PGSQL.PORT`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// Connects; writes and reads time out after [`default_deadline`].
    pub fn connect(&self) -> io::Result<Stream> {
        let stream = match self {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect_timeout(address, default_deadline())?),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.prepare()?;
        Ok(stream)
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<Session>),
}

impl Stream {
    /// What is known of its TLS.
    pub fn tls(&self) -> Option<&Session> {
        match self {
            Stream::Tls(session) => Some(session),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// The same, for what TLS has to say itself.
    pub fn tls_mut(&mut self) -> Option<&mut Session> {
        match self {
            Stream::Tls(session) => Some(session),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// Sets the deadlines, and sends small packets at once.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.set_read_timeout(default_deadline())?;
        match self {
            Stream::Tcp(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_write_timeout(Some(default_deadline()))
            }
            Stream::Unix(unix) => unix.set_write_timeout(Some(default_deadline())),
            Stream::Tls(session) => session.socket().prepare(),
        }
    }

    /// Waits for the first byte, and leaves it there: whether it is this one (TCP).
    pub fn begins_with(&self, byte: u8) -> io::Result<bool> {
        let Stream::Tcp(tcp) = self else { return Ok(false) };
        let mut first = [0];
        Ok(tcp.peek(&mut first)? == 1 && first[0] == byte)
    }

    /// How long a read waits for the first byte.
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(tcp) => tcp.set_read_timeout(Some(limit)),
            Stream::Unix(unix) => unix.set_read_timeout(Some(limit)),
            Stream::Tls(session) => session.socket().set_read_timeout(limit),
        }
    }

    /// Waits until the process at the other end has read all that was sent, or has closed (TCP between processes of this
    /// machine), but no longer than `limit`: whether it has.
    pub fn wait_until_read(&self, limit: Duration) -> bool {
        let tcp = match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Unix(_) => return false,
            Stream::Tls(session) => return session.socket().wait_until_read(limit),
        };
        let (Ok(here), Ok(there)) = (tcp.local_addr(), tcp.peer_addr()) else { return true };
        holds_within(limit, || unread(there, here).unwrap_or(0) == 0)
    }

    /// Another handle to the same socket; there is none to a TLS connection.
    pub fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(tcp) => Stream::Tcp(tcp.try_clone()?),
            Stream::Unix(unix) => Stream::Unix(unix.try_clone()?),
            Stream::Tls(_) => return Err(ErrorKind::Unsupported.into()),
        })
    }

    /// Ends one or both directions of the socket, of which TLS says nothing.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(tcp) => tcp.shutdown(how),
            Stream::Unix(unix) => unix.shutdown(how),
            Stream::Tls(session) => session.socket().shutdown(how),
        }
    }

    /// Makes the coming close (of the last handle) a reset on TCP: what the peer has not read is lost to it.
    pub fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(tcp) => SockRef::from(tcp).set_linger(Some(Duration::ZERO)),
            Stream::Unix(_) => Ok(()),
            Stream::Tls(session) => session.socket().reset_on_close(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.read(buffer),
            Stream::Unix(unix) => unix.read(buffer),
            Stream::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.write(bytes),
            Stream::Unix(unix) => unix.write(bytes),
            Stream::Tls(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that reads whole messages. A read that times out loses nothing.
#[derive(Debug)]
pub struct Peer {
    stream: Stream,
    inbox: Vec<u8>,
    taken: usize,
}

impl Peer {
    /// Takes over a connected socket.
    pub fn new(stream: Stream) -> Peer {
        Peer { stream, inbox: Vec::new(), taken: 0 }
    }

    /// The socket, of which nothing may have been read too much.
    pub fn into_stream(self) -> Stream {
        assert!(self.waiting().is_empty(), "{} bytes were read too much", self.waiting().len());
        self.stream
    }

    /// The socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The socket, for what is not a message.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes in pieces that begin at the given offsets, with a pause between them so that they mostly arrive in
    /// separate packets.
    pub fn send_split(&mut self, bytes: &[u8], offsets: &[usize]) -> io::Result<()> {
        let mut start = 0;
        for end in offsets.iter().copied() {
            self.send(&bytes[start..end])?;
            thread::sleep(Duration::from_millis(1));
            start = end;
        }
        self.send(&bytes[start..])
    }

    /// Reads one message sent by `side`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection has ended, `TimedOut` when nothing came in time.
    pub fn read_message(&mut self, side: Side) -> io::Result<Message> {
        self.fill_to(5)?;
        let tag = self.waiting()[0];
        let length = body_length(&self.waiting()[1..5])?;
        self.fill_to(5 + length)?;
        let message = Message { side, tag, body: self.waiting()[5..5 + length].to_vec() };
        self.take(5 + length);
        Ok(message)
    }

    /// Reads one message and throws its body away as it comes: tag and body length. For what is larger than memory.
    pub fn skip_message(&mut self) -> io::Result<(u8, usize)> {
        self.fill_to(5)?;
        let tag = self.waiting()[0];
        let length = body_length(&self.waiting()[1..5])?;
        self.take(5);
        let mut left = length;
        while left > 0 {
            self.fill_to(1)?;
            let part = self.waiting().len().min(left);
            self.take(part);
            left -= part;
        }
        Ok((tag, length))
    }

    /// Reads an untagged packet (start-up, SSLRequest, CancelRequest): everything behind the length.
    pub fn read_untagged(&mut self) -> io::Result<Vec<u8>> {
        self.fill_to(4)?;
        let length = body_length(&self.waiting()[..4])?;
        self.fill_to(4 + length)?;
        let body = self.waiting()[4..4 + length].to_vec();
        self.take(4 + length);
        Ok(body)
    }

    /// Reads bytes that are not framed, such as the answer to SSLRequest.
    pub fn read_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.fill_to(count)?;
        let bytes = self.waiting()[..count].to_vec();
        self.take(count);
        Ok(bytes)
    }

    /// Reads to the end of the connection: what came before it. A reset counts as an end.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill_to(self.waiting().len() + 1) {
                Ok(()) => {}
                Err(error) if is_end(&error) => {
                    let rest = self.waiting().to_vec();
                    self.take(rest.len());
                    return Ok(rest);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that were received and not yet taken.
    fn waiting(&self) -> &[u8] {
        &self.inbox[self.taken..]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.inbox.len() {
            self.inbox.clear();
            self.taken = 0;
        }
    }

    /// Reads until at least `count` bytes wait.
    fn fill_to(&mut self, count: usize) -> io::Result<()> {
        const CHUNK: usize = 64 * 1024;
        if self.waiting().len() < count {
            self.inbox.drain(..self.taken);
            self.taken = 0;
        }
        while self.waiting().len() < count {
            let old = self.inbox.len();
            self.inbox.resize(old + CHUNK, 0);
            let result = self.stream.read(&mut self.inbox[old..]);
            self.inbox.truncate(old + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether an error means that the other side has ended the connection, in order or not.
pub fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
    )
}

fn body_length(bytes: &[u8]) -> io::Result<usize> {
    let length = i32::from_be_bytes(bytes.try_into().expect("four bytes"));
    usize::try_from(length - 4)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, format!("length {length}")))
}
