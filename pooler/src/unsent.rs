//! Bytes that a socket has not taken yet.

use std::io;
use std::task::{Context, Poll};

use crate::net::Stream;

/// More unsent replies than this (bytes), and the client is not read either: it may be owed more of the pooler's own for
/// what it sends. PostgreSQL stops reading at the first byte that is not taken.
pub(crate) const MOST_REPLIES: usize = 64 << 10;

/// The one place through which the data path sends. As long as something is unsent, the source of the bytes is not
/// read, so it never holds more than one read's worth, besides what the pooler itself adds.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    buf: Vec<u8>,
    sent: usize,
    /// The stream has taken bytes and not sent them (TLS).
    held: bool,
}

impl Unsent {
    /// All has been sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.buf.len() && !self.held
    }

    /// Bytes that are still to be sent; what the stream holds itself counts as one.
    pub(crate) fn len(&self) -> usize {
        self.buf.len() - self.sent + usize::from(self.held)
    }

    /// Adds bytes without sending them yet.
    pub(crate) fn add(&mut self, add: impl FnOnce(&mut Vec<u8>)) {
        add(&mut self.buf);
    }

    /// Sends bytes, behind what is unsent. What the socket does not take now is kept, and the task is woken when it
    /// takes more.
    ///
    /// # Errors
    /// The connection is broken; what was unsent is gone.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
        if self.is_empty() {
            match write(cx, stream, bytes)? {
                n if n == bytes.len() => {}
                n => self.buf.extend_from_slice(&bytes[n..]),
            }
            self.held = stream.holds();
            return Ok(());
        }
        self.buf.extend_from_slice(bytes);
        self.flush(cx, stream)
    }

    /// Sends what is unsent, as far as the socket takes it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let pushed = if self.held { push(cx, stream) } else { Ok(()) };
        match pushed.and_then(|()| write(cx, stream, &self.buf[self.sent..])) {
            Ok(n) => self.sent += n,
            Err(error) => {
                self.clear();
                return Err(error);
            }
        }
        self.held = stream.holds();
        if self.is_empty() {
            self.clear();
        }
        Ok(())
    }

    fn clear(&mut self) {
        *self = Unsent::default();
    }
}

/// Sends what the stream holds, as far as the socket takes it.
fn push(cx: &mut Context<'_>, stream: &mut Stream) -> io::Result<()> {
    match stream.poll_push(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Writes until everything is taken or the socket is full; returns how much was taken.
fn write(cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.poll_send(cx, &bytes[sent..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => sent += n,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(sent)
}
