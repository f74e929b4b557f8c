//! Messages between two processes, with descriptors beside them, over a Unix socket: a length (4 bytes), a kind, how many
//! descriptors belong to it, then its fields. Descriptors come with the first byte of their message.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// New to old: what do you have?
    Claim,
    /// The answer: where numbers stand.
    Hello,
    /// A listening socket, with its descriptor.
    Listener,
    /// What the clients of a pool have disclosed: keys of their password, or all of it.
    Keys,
    /// A database that is paused or disabled.
    Held,
    /// Nothing more comes before `Up`.
    Ready,
    /// New to old: it accepts connections now.
    Up,
    /// A client, with its socket.
    Client,
    /// New to old: the client has arrived, and the old process has nothing to do with it any more.
    Arrived,
    /// It can't be taken.
    Refused,
    /// Either way: a cancel request for a client that is perhaps with the other.
    Cancel,
    /// It was dealt with.
    Cancelled,
    /// Old to new: no client is left.
    Done,
    /// Old to new: listen for a client that is about to come.
    Listen,
    /// It is listened for, from this marker on.
    Listening,
    /// What `auth_query` has told of a pool's user.
    Learnt,
    /// Of a later version.
    Unknown,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::Claim,
        Kind::Hello,
        Kind::Listener,
        Kind::Keys,
        Kind::Held,
        Kind::Ready,
        Kind::Up,
        Kind::Client,
        Kind::Arrived,
        Kind::Refused,
        Kind::Cancel,
        Kind::Cancelled,
        Kind::Done,
        Kind::Listen,
        Kind::Listening,
        Kind::Learnt,
    ];

    fn of(number: u8) -> Kind {
        Kind::ALL.get(usize::from(number)).copied().unwrap_or(Kind::Unknown)
    }
}

/// A message that has come.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) fields: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

const HEADER: usize = 6;

/// A longer message is not sent, and one that says to be longer is none.
pub(super) const LONGEST: usize = 256 << 20;

/// The most descriptors that come with one read.
const MOST_FDS: usize = 8;

/// The bytes of a message; `None` if it would be too long.
pub(super) fn frame(kind: Kind, fields: &[u8], fds: usize) -> Option<Vec<u8>> {
    if fields.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(HEADER + fields.len());
    bytes.extend_from_slice(&(fields.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&[kind as u8, fds as u8]);
    bytes.extend_from_slice(fields);
    Some(bytes)
}

/// Puts messages together again.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// The next whole message.
    ///
    /// # Errors
    /// What has come is none.
    fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [a, b, c, d, kind, fds] = *header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let fds = usize::from(fds);
        if len > LONGEST || fds > MOST_FDS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(fields) = rest.get(..len).map(<[u8]>::to_vec) else { return Ok(None) };
        if fds > self.fds.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.bytes.drain(..HEADER + len);
        Ok(Some(Frame { kind: Kind::of(kind), fields, fds: self.fds.drain(..fds).collect() }))
    }

    /// Reads once.
    fn read(&mut self, stream: impl AsFd) -> io::Result<usize> {
        let mut buf = [0u8; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(stream, &mut [IoSliceMut::new(&mut buf)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.bytes.extend_from_slice(&buf[..read.bytes]);
        Ok(read.bytes)
    }
}

/// Sends part of a message, its descriptors with the first byte.
fn write(stream: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(fds));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

/// One end of the conversation, for a thread that may wait.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: std::os::unix::net::UnixStream,
    pub(super) inbox: Inbox,
}

impl Line {
    pub(super) fn send(&mut self, kind: Kind, fields: &[u8]) -> io::Result<()> {
        use std::io::Write;
        self.stream.write_all(&frame(kind, fields, 0).ok_or(io::ErrorKind::InvalidInput)?)
    }

    pub(super) fn receive(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.inbox.next()? {
                return Ok(frame);
            }
            if self.inbox.read(&self.stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Sends a message from an event loop. Not to be given up half way.
pub(super) async fn send(
    stream: &UnixStream,
    kind: Kind,
    fields: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = frame(kind, fields, fds.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut sent = 0;
    while sent < bytes.len() {
        let fds = if sent == 0 { fds } else { &[] };
        sent += stream.async_io(Interest::WRITABLE, || write(stream, &bytes[sent..], fds)).await?;
    }
    Ok(())
}

/// The next message. Cancel-safe.
pub(super) async fn receive(stream: &UnixStream, inbox: &mut Inbox) -> io::Result<Frame> {
    loop {
        if let Some(frame) = inbox.next()? {
            return Ok(frame);
        }
        if stream.async_io(Interest::READABLE, || inbox.read(stream)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_numbers_that_they_are_sent_as() {
        for (number, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, number);
            assert_eq!(Kind::of(number as u8), *kind);
        }
        assert_eq!(Kind::of(255), Kind::Unknown);
    }

    /// Messages of every length, with and without descriptors, come as they were sent, and the descriptors with theirs.
    #[tokio::test]
    async fn messages_arrive_with_their_descriptors() {
        use std::io::{Read, Write};
        let (here, there) = UnixStream::pair().unwrap();
        let sending = tokio::spawn(async move {
            for len in [0usize, 1, 100_000, 3] {
                let (mut far, near) = std::os::unix::net::UnixStream::pair().unwrap();
                far.write_all(len.to_string().as_bytes()).unwrap();
                send(&here, Kind::Done, &vec![1; len], &[]).await.unwrap();
                send(&here, Kind::Client, &vec![7; len], &[near.as_fd(), near.as_fd()]).await.unwrap();
            }
        });
        let mut inbox = Inbox::default();
        for len in [0usize, 1, 100_000, 3] {
            let plain = receive(&there, &mut inbox).await.unwrap();
            assert_eq!((plain.kind, plain.fields.len(), plain.fds.len()), (Kind::Done, len, 0));
            let mut client = receive(&there, &mut inbox).await.unwrap();
            assert_eq!((client.kind, client.fields, client.fds.len()), (Kind::Client, vec![7; len], 2));
            let mut text = String::new();
            std::os::unix::net::UnixStream::from(client.fds.remove(1)).read_to_string(&mut text).unwrap();
            assert_eq!(text, len.to_string());
        }
        sending.await.unwrap();
        assert!(receive(&there, &mut inbox).await.is_err(), "the end");
    }
}
