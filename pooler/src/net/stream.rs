use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tls::Tls;
use super::{Peer, Socket};
use crate::tls::TlsInfo;

/// A connection, whatever carries it.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<Tls>),
}

impl Stream {
    /// The stream, leaving a closed one behind.
    pub(crate) fn take_out(&mut self) -> Stream {
        std::mem::replace(self, Stream::Plain(Socket::Closed))
    }

    fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.socket(),
        }
    }

    /// What is known of its TLS.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(tls.info()),
        }
    }

    /// Reads once into `buf`. `Ready(Ok(0))` is the end of the stream.
    pub(crate) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_read_into(cx, buf),
            Stream::Tls(tls) => tls.poll_read_into(cx, buf),
        }
    }

    /// Sends part of `bytes`. With TLS what was taken may not be on its way yet: [`holds`](Self::holds).
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_send(cx, bytes),
            Stream::Tls(tls) => tls.poll_send(cx, bytes),
        }
    }

    /// Something that was taken is still to be sent: see [`poll_push`](Self::poll_push).
    pub(crate) fn holds(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.holds(),
        }
    }

    /// Sends what was taken. Pending: the socket is full, and the task is woken when it is not.
    pub(crate) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.poll_push(cx),
        }
    }

    /// Reads what has already been announced; `None` if nothing was. Costs no system call then.
    pub(crate) fn read_ready(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.read_ready(buf),
            Stream::Tls(tls) => tls.read_ready(buf),
        }
    }

    /// The event loop has announced something to read, or the end of the stream. With TLS that may turn out to be nothing
    /// for anybody but TLS itself.
    pub(crate) fn has_spoken(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.has_spoken(),
            Stream::Tls(tls) => tls.has_spoken(),
        }
    }

    /// Moves the registration to the event loop of the calling thread.
    pub(crate) fn rehome(self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Plain(socket) => Stream::Plain(socket.rehome()?),
            Stream::Tls(tls) => Stream::Tls(tls.rehome()?),
        })
    }

    /// Sends what fits without waiting; used for a last message before closing.
    pub(crate) fn send_last(&mut self, bytes: &[u8]) {
        match self {
            Stream::Plain(socket) => socket.send_last(bytes),
            Stream::Tls(tls) => tls.send_last(bytes),
        }
    }

    /// Its descriptor, if all that there is to the connection is there.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Plain(socket) => socket.fd(),
            Stream::Tls(_) => None,
        }
    }

    /// User id of the process at the other end of a Unix socket.
    pub(crate) fn peer_uid(&self) -> Option<u32> {
        self.socket().peer_uid()
    }

    /// The number of its descriptor; -1 without one.
    pub(crate) fn fd_number(&self) -> i32 {
        self.socket().fd_number()
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Peer {
        self.socket().local()
    }

    /// Address of the other end.
    pub(crate) fn remote(&self) -> Peer {
        self.socket().remote()
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Stream {
        Stream::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Tls(tls) => match tls.poll_read_into(cx, buf.initialize_unfilled()) {
                Poll::Ready(Ok(n)) => {
                    buf.advance(n);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Stream {
    /// With TLS it is on its way only after a flush.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Stream::Tls(tls) => tls.poll_send(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_push(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}
