use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection, whatever carries it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// None any more: reads the end of the stream, refuses writes.
    Closed,
}

impl Stream {
    /// The stream, leaving `Closed` behind.
    pub(crate) fn take_out(&mut self) -> Stream {
        std::mem::replace(self, Stream::Closed)
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
        let sent = match self {
            Stream::Tcp(s) => s.try_write(bytes),
            Stream::Unix(s) => s.try_write(bytes),
            Stream::Closed => Err(io::ErrorKind::NotConnected.into()),
        };
        match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, bytes),
            sent => Poll::Ready(sent),
        }
    }

    /// Reads what has already been announced; `None` if nothing was. Costs no system call then.
    pub(crate) fn read_ready(&self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let result = match self {
            Stream::Tcp(s) => s.try_read(buf),
            Stream::Unix(s) => s.try_read(buf),
            Stream::Closed => Ok(0),
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
            Stream::Tcp(s) => s.try_io(Interest::READABLE, announced).is_ok(),
            Stream::Unix(s) => s.try_io(Interest::READABLE, announced).is_ok(),
            Stream::Closed => true,
        }
    }

    /// Moves the registration to the event loop of the calling thread.
    pub(crate) fn rehome(self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(s) => Stream::Tcp(TcpStream::from_std(s.into_std()?)?),
            Stream::Unix(s) => Stream::Unix(UnixStream::from_std(s.into_std()?)?),
            Stream::Closed => Stream::Closed,
        })
    }

    /// Sends what fits without waiting; used for a last message before closing.
    pub(crate) fn send_last(&self, bytes: &[u8]) {
        let _ = match self {
            Stream::Tcp(s) => s.try_write(bytes),
            Stream::Unix(s) => s.try_write(bytes),
            Stream::Closed => Ok(0),
        };
    }

    /// Its descriptor, if all that there is to the connection is there.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Tcp(s) => Some(s.as_fd()),
            Stream::Unix(s) => Some(s.as_fd()),
            Stream::Closed => None,
        }
    }

    /// User id of the process at the other end of a Unix socket.
    pub(crate) fn peer_uid(&self) -> Option<u32> {
        match self {
            Stream::Unix(s) => s.peer_cred().ok().map(|c| c.uid()),
            Stream::Tcp(_) | Stream::Closed => None,
        }
    }

    /// The number of its descriptor; -1 without one.
    pub(crate) fn fd_number(&self) -> i32 {
        self.fd().map_or(-1, |fd| fd.as_raw_fd())
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Peer {
        match self {
            Stream::Tcp(s) => s.local_addr().map_or(Peer::Unix { pid: None }, Peer::Tcp),
            Stream::Unix(_) | Stream::Closed => Peer::Unix { pid: None },
        }
    }

    /// Address of the other end.
    pub(crate) fn remote(&self) -> Peer {
        match self {
            Stream::Tcp(s) => s.peer_addr().map_or(Peer::Unix { pid: None }, Peer::Tcp),
            Stream::Unix(s) => Peer::Unix { pid: s.peer_cred().ok().and_then(|c| c.pid()) },
            Stream::Closed => Peer::Unix { pid: None },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// A task's watch over what a stream has to say. As long as nothing new was announced, looking again costs next to
/// nothing. It belongs to one task: whoever takes a stream over begins with a new one.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The event loop wakes this task when there is something to read.
    armed: bool,
}

impl Watch {
    /// As [`Stream::poll_read_into`].
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.armed && !stream.has_spoken() {
            return Poll::Pending;
        }
        let read = stream.poll_read_into(cx, buf);
        // Without budget the task is only put off, and nothing was asked of the event loop.
        self.armed = read.is_pending() && tokio::task::coop::has_budget_remaining();
        read
    }
}

/// One end of a connection, for the console and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket, with the peer's process id where the kernel tells.
    Unix {
        /// Process id.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The address as the console shows it: the IP, or `unix`.
    pub fn host(&self) -> String {
        match self {
            Peer::Tcp(addr) => addr.ip().to_string(),
            Peer::Unix { .. } => "unix".to_owned(),
        }
    }

    /// How the log writes the address of a client that has come to this port.
    pub(crate) fn label(&self, port: u16) -> String {
        match self {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix { .. } => format!("{self}:{port}"),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Peer::Tcp(addr) => Some(addr.port()),
            Peer::Unix { .. } => None,
        }
    }

    /// Process id behind a Unix socket.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Peer::Tcp(_) => None,
            Peer::Unix { pid } => *pid,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Unix { pid: Some(pid) } => write!(f, "unix({pid})"),
            Peer::Unix { pid: None } => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::task::coop;

    use super::*;

    /// A task whose budget ran out is put off without being registered with the event loop; a watch that took this
    /// for "armed" would never hear of what comes later.
    #[tokio::test]
    async fn a_watch_that_ran_out_of_budget_still_hears() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let (mut near, mut watch, mut buf) = (Stream::Unix(near), Watch::default(), [0u8; 8]);
        poll_fn(|cx| {
            while coop::has_budget_remaining() {
                let _ = coop::poll_proceed(cx).map(|spent| spent.made_progress());
            }
            assert!(watch.poll_read(&mut near, cx, &mut buf).is_pending());
            Poll::Ready(())
        })
        .await;
        // In a task of its own, so that nothing but the stream wakes it.
        let heard = tokio::spawn(async move { poll_fn(|cx| watch.poll_read(&mut near, cx, &mut buf)).await });
        tokio::task::yield_now().await;
        far.write_all(b"late").await.unwrap();
        let heard = tokio::time::timeout(std::time::Duration::from_secs(5), heard).await;
        assert_eq!(heard.unwrap().unwrap().unwrap(), 4);
    }
}
