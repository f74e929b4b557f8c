//! TLS over a socket. rustls works on memory; this moves bytes between it and the socket.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{CommonState, Connection};
use tokio::io::AsyncWrite;

use super::{Socket, Stream};
use crate::tls::{Accepting, Dialling, TlsInfo};

/// A connection after its handshake.
pub(crate) struct Tls {
    connection: Connection,
    socket: Socket,
    info: Arc<TlsInfo>,
}

/// Most ciphertext that is kept when the socket takes no more (bytes, but for one message).
const MOST_HELD: usize = 32 << 10;

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("socket", &self.socket).field("info", &self.info).finish_non_exhaustive()
    }
}

/// Serves the handshake of a client, of which `begun` has been read already. Dropping the future drops the connection.
///
/// # Errors
/// `InvalidData`: the handshake failed; the client has been sent the alert. Others are the socket's.
pub(crate) async fn accept(socket: Socket, accepting: &Accepting, begun: &[u8]) -> io::Result<Stream> {
    let connection = accepting.begin().map_err(invalid)?;
    let (connection, socket) = shake_hands(connection.into(), socket, begun).await?;
    let info = match &connection {
        Connection::Server(server) => accepting.info(server),
        Connection::Client(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(Tls::established(connection, socket, info))
}

/// Begins TLS with a server that goes by this name. Dropping the future drops the connection.
///
/// # Errors
/// As [`accept`].
pub(crate) async fn connect(
    socket: Socket,
    dialling: &Dialling,
    name: ServerName<'static>,
) -> io::Result<Stream> {
    let connection = dialling.begin(name).map_err(invalid)?;
    let (connection, socket) = shake_hands(connection.into(), socket, &[]).await?;
    let info = match &connection {
        Connection::Client(client) => dialling.info(client),
        Connection::Server(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(Tls::established(connection, socket, info))
}

async fn shake_hands(
    mut connection: Connection,
    mut socket: Socket,
    mut begun: &[u8],
) -> io::Result<(Connection, Socket)> {
    connection.set_buffer_limit(Some(MOST_HELD));
    while !begun.is_empty() {
        connection.read_tls(&mut begun)?;
        process(&mut connection, &socket)?;
    }
    std::future::poll_fn(|cx| {
        loop {
            ready!(poll_push(&mut connection, &mut socket, cx))?;
            if !connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match connection.read_tls(&mut Polled { socket: &mut socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => process(&mut connection, &socket)?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    })
    .await?;
    Ok((connection, socket))
}

/// Takes in what was read. What is wrong with it the peer is told, as far as there is room.
fn process(connection: &mut Connection, socket: &Socket) -> io::Result<()> {
    connection.process_new_packets().map(drop).map_err(|error| {
        push_ready(connection, socket);
        invalid(error)
    })
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Sends what rustls has for the socket.
fn poll_push(connection: &mut Connection, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while connection.wants_write() {
        match connection.write_tls(&mut Polled { socket, cx }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    Poll::Ready(Ok(()))
}

/// The same, as far as there is room now.
fn push_ready(connection: &mut Connection, socket: &Socket) {
    while connection.wants_write() {
        if !matches!(connection.write_tls(&mut Ready(socket)), Ok(n) if n > 0) {
            return;
        }
    }
}

impl Tls {
    fn established(connection: Connection, socket: Socket, info: TlsInfo) -> Stream {
        Stream::Tls(Box::new(Tls { connection, socket, info: Arc::new(info) }))
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn info(&self) -> &Arc<TlsInfo> {
        &self.info
    }

    /// Reads what was decrypted; `None`: nothing is left. An end without `close_notify` is one like any other: whoever
    /// cuts a connection off cuts it between messages or within one, and the protocol above tells these apart.
    fn take(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        match self.connection.reader().read(buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Some(Ok(0)),
            other => Some(other),
        }
    }

    /// As [`Stream::poll_read_into`].
    pub(super) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        // Whoever waits for an answer may not have waited for the request to leave.
        if let Poll::Ready(Err(error)) = self.poll_push(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(read) = self.take(buf) {
                return Poll::Ready(read);
            }
            match self.connection.read_tls(&mut Polled { socket: &mut self.socket, cx }) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
            process(&mut self.connection, &self.socket)?;
            // An answer of TLS's own. What the socket does not take goes in front of whatever is sent next.
            if let Poll::Ready(Err(error)) = self.poll_push(cx) {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// As [`Stream::read_ready`].
    pub(super) fn read_ready(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        loop {
            if let Some(read) = self.take(buf) {
                return Some(read);
            }
            match self.connection.read_tls(&mut Ready(&self.socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) => return Some(Err(e)),
            }
            if let Err(error) = process(&mut self.connection, &self.socket) {
                return Some(Err(error));
            }
            self.push_ready();
        }
    }

    /// As [`Stream::has_spoken`].
    pub(super) fn has_spoken(&self) -> bool {
        !self.connection.wants_read() || self.socket.has_spoken()
    }

    /// As [`Stream::poll_send`]. No more is encrypted than the socket is likely to take soon.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_push(cx))?;
        let taken = self.connection.writer().write(bytes)?;
        match self.poll_push(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// As [`Stream::holds`].
    pub(super) fn holds(&self) -> bool {
        self.connection.wants_write()
    }

    /// As [`Stream::poll_push`].
    pub(super) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_push(&mut self.connection, &mut self.socket, cx)
    }

    fn push_ready(&mut self) {
        push_ready(&mut self.connection, &self.socket);
    }

    /// As [`Stream::send_last`]; nothing can be sent behind it.
    pub(super) fn send_last(&mut self, bytes: &[u8]) {
        let _ = self.connection.writer().write(bytes);
        self.state().send_close_notify();
        self.push_ready();
    }

    /// Says that nothing follows, and closes the sending half of the socket.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().send_close_notify();
        ready!(self.poll_push(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn state(&mut self) -> &mut CommonState {
        &mut self.connection
    }

    pub(super) fn rehome(mut self: Box<Self>) -> io::Result<Box<Tls>> {
        self.socket = self.socket.take_out().rehome()?;
        Ok(self)
    }
}

impl Drop for Tls {
    /// However it ends, the peer is told that it was meant to, if there is room for it.
    fn drop(&mut self) {
        self.state().send_close_notify();
        self.push_ready();
    }
}

/// The socket, of which a call that would have to wait leaves word with the event loop.
struct Polled<'a, 'b> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'b>,
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.socket.poll_read_into(self.cx, buf) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.poll_send(self.cx, bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.poll_send_all(self.cx, records) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket, of which nobody waits for anything.
struct Ready<'a>(&'a Socket);

impl Read for Ready<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_ready(buf).unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }
}

impl Write for Ready<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_send(bytes)
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_send_all(records)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
