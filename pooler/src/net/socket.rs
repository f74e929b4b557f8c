//! The socket itself, without what may be spoken over it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Peer;

/// A socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// None any more: reads the end of the stream, refuses writes.
    Closed,
}

impl Socket {
    /// The socket, leaving `Closed` behind.
    pub(crate) fn take_out(&mut self) -> Socket {
        std::mem::replace(self, Socket::Closed)
    }

    /// Reads once into `buf`. `Ready(Ok(0))` is the end of the stream.
    pub(crate) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| buf.filled().len())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends part of `bytes`.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // There nearly always is room, and asking first costs more than trying.
        match self.try_send(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, bytes),
            sent => Poll::Ready(sent),
        }
    }

    /// Reads what has already been announced; `None` if nothing was. Costs no system call then.
    pub(crate) fn read_ready(&self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let result = match self {
            Socket::Tcp(s) => s.try_read(buf),
            Socket::Unix(s) => s.try_read(buf),
            Socket::Closed => Ok(0),
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }

    /// The event loop has announced something to read, or the end of the stream.
    pub(crate) fn has_spoken(&self) -> bool {
        let announced = || Ok(()); // not called, and so not `Ok`, unless there is something
        match self {
            Socket::Tcp(s) => s.try_io(Interest::READABLE, announced).is_ok(),
            Socket::Unix(s) => s.try_io(Interest::READABLE, announced).is_ok(),
            Socket::Closed => true,
        }
    }

    /// Moves the registration to the event loop of the calling thread.
    pub(crate) fn rehome(self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(s) => Socket::Tcp(TcpStream::from_std(s.into_std()?)?),
            Socket::Unix(s) => Socket::Unix(UnixStream::from_std(s.into_std()?)?),
            Socket::Closed => Socket::Closed,
        })
    }

    /// Sends what fits without waiting.
    ///
    /// # Errors
    /// `WouldBlock`: nothing fits.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.try_write(bytes),
            Socket::Unix(s) => s.try_write(bytes),
            Socket::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As [`try_send`](Self::try_send), of several pieces.
    pub(super) fn try_send_all(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.try_write_vectored(pieces),
            Socket::Unix(s) => s.try_write_vectored(pieces),
            Socket::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As [`poll_send`](Self::poll_send), of several pieces.
    pub(super) fn poll_send_all(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.try_send_all(pieces) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self {
                Socket::Tcp(s) => Pin::new(s).poll_write_vectored(cx, pieces),
                Socket::Unix(s) => Pin::new(s).poll_write_vectored(cx, pieces),
                Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            },
            sent => Poll::Ready(sent),
        }
    }

    /// Sends what fits without waiting; used for a last message before closing.
    pub(crate) fn send_last(&self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
    }

    /// Its descriptor, if all that there is to the connection is there.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Socket::Tcp(s) => Some(s.as_fd()),
            Socket::Unix(s) => Some(s.as_fd()),
            Socket::Closed => None,
        }
    }

    /// User id of the process at the other end of a Unix socket.
    pub(crate) fn peer_uid(&self) -> Option<u32> {
        match self {
            Socket::Unix(s) => s.peer_cred().ok().map(|c| c.uid()),
            Socket::Tcp(_) | Socket::Closed => None,
        }
    }

    /// The number of its descriptor; -1 without one.
    pub(crate) fn fd_number(&self) -> i32 {
        self.fd().map_or(-1, |fd| fd.as_raw_fd())
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Peer {
        match self {
            Socket::Tcp(s) => s.local_addr().map_or(Peer::Unix { pid: None }, Peer::Tcp),
            Socket::Unix(_) | Socket::Closed => Peer::Unix { pid: None },
        }
    }

    /// Address of the other end.
    pub(crate) fn remote(&self) -> Peer {
        match self {
            Socket::Tcp(s) => s.peer_addr().map_or(Peer::Unix { pid: None }, Peer::Tcp),
            Socket::Unix(s) => Peer::Unix { pid: s.peer_cred().ok().and_then(|c| c.pid()) },
            Socket::Closed => Peer::Unix { pid: None },
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Socket::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Socket::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Socket::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Closed => Poll::Ready(Ok(())),
        }
    }
}
