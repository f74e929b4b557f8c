use std::io;

use protocol::frame::{Cutter, HEADER_LEN, Piece, Whole};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize;

use super::Stream;

/// Talks over a stream one whole message at a time: logins, the console, the pooler's own requests. Not for the data
/// path: every message is gathered.
pub(crate) struct Conversation {
    pub(crate) stream: Stream,
    buf: Vec<u8>,
    /// What goes out in front of what is sent next.
    queued: Vec<u8>,
    max_len: u32,
}

/// Bytes read at once. Logins are short and many at a time: what each of them holds must not add up.
const READ_STEP: usize = 512;

/// More input than this is not read while nobody asks for it.
const READ_AHEAD: usize = 64 << 10;

impl Conversation {
    /// `max_len` bounds a message in bytes, its type byte included.
    pub(crate) fn new(stream: Stream, max_len: u32) -> Conversation {
        Conversation { stream, buf: Vec::new(), queued: Vec::new(), max_len }
    }

    /// The stream and what was read but not asked for.
    pub(crate) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buf)
    }

    /// Bytes that were read and not asked for.
    pub(crate) fn input(&self) -> &[u8] {
        &self.buf
    }

    /// The same, which is gone with it.
    pub(crate) fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buf)
    }

    /// Drops bytes from the front of the input.
    pub(crate) fn consume(&mut self, n: usize) {
        self.buf.drain(..n);
    }

    /// Reads more into the input. Cancel-safe.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream.
    pub(crate) async fn read_more(&mut self) -> io::Result<()> {
        self.buf.reserve(READ_STEP);
        match self.stream.read_buf(&mut self.buf).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the peer has left; meanwhile its input is read up to a bound. Cancel-safe.
    pub(crate) async fn gone(&mut self) {
        while self.read_more().await.is_ok() {
            if self.buf.len() > READ_AHEAD {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next message: tag and body. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for a header that no message has, `UnexpectedEof` at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        const ALL: Whole = Whole::ALL;
        loop {
            let cut = Cutter::default().next(&self.buf, &ALL, self.max_len);
            let cut = cut.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some(Piece::Begin { tag, bytes, .. }) = cut {
                let len = bytes.len();
                let body = bytes[HEADER_LEN..].to_vec();
                self.buf[..len].zeroize(); // it may be a password
                self.buf.drain(..len);
                return Ok((tag, body));
            }
            self.read_more().await?;
        }
    }

    /// Sends a last message, and reads until the peer closes: closing with unread input would reset the connection
    /// and take the message with it.
    pub(crate) async fn send_and_close(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes).await?;
        self.stream.shutdown().await?;
        let mut buf = vec![0u8; READ_STEP];
        while self.stream.read(&mut buf).await? > 0 {}
        Ok(())
    }

    /// Leaves a message for whatever is sent next: together they are one packet.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.queued.extend_from_slice(bytes);
    }

    /// Sends what is queued, where the next message is long in coming.
    pub(crate) async fn send_queued(&mut self) -> io::Result<()> {
        if self.queued.is_empty() { Ok(()) } else { self.send(&[]).await }
    }

    /// Sends all of `bytes`, behind what is queued.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.queued.is_empty() {
            self.stream.write_all(bytes).await?;
        } else {
            let mut all = std::mem::take(&mut self.queued);
            all.extend_from_slice(bytes);
            self.stream.write_all(&all).await?;
        }
        self.stream.flush().await
    }
}
