use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use protocol::frame::HEADER_LEN;

use crate::buffers::{Buffers, Charge};

/// What a message takes beside its bytes, in bytes.
const AROUND: usize = 100;

/// A message for clients that listen, shared by all of them.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Box<[u8]>,
    _kept: Charge,
}

impl Message {
    /// It counts there until everybody has been told.
    pub(crate) fn new(bytes: impl Into<Box<[u8]>>, kept: &Arc<Buffers>) -> Arc<Message> {
        let bytes = bytes.into();
        let kept = kept.charge(bytes.len() + AROUND);
        Arc::new(Message { bytes, _kept: kept })
    }

    fn cost(&self) -> usize {
        self.bytes.len() + AROUND
    }

    /// Process id, channel and payload of a `NotificationResponse`.
    pub(crate) fn notification(bytes: &[u8]) -> Option<(u32, &str, &[u8])> {
        let body = bytes.get(HEADER_LEN..).filter(|_| bytes[0] == b'A')?;
        let (pid, rest) = body.split_first_chunk()?;
        let (channel, payload) = rest.split_at_checked(rest.iter().position(|&b| b == 0)?)?;
        Some((
            u32::from_be_bytes(*pid),
            std::str::from_utf8(channel).ok()?,
            payload.get(1..)?.strip_suffix(b"\0")?,
        ))
    }

    /// The same notification from another process.
    pub(crate) fn with_pid(bytes: &[u8], pid: u32) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&pid.to_be_bytes());
        bytes
    }
}

/// What has come for a client and was not yet told.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    /// What that takes, in bytes.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Arc<Message>>,
    full: bool,
    waker: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for the client, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Adds a message and wakes the client's session. No more than `most` bytes wait for a client that does not read, or
    /// is in a transaction. Whose inbox is full is closed: it must know that it has missed something.
    pub(super) fn put(&self, message: &Arc<Message>, most: usize) {
        let mut waiting = self.lock();
        let bytes = self.bytes.fetch_add(message.cost(), Relaxed) + message.cost();
        if bytes > most {
            waiting.full = true;
            waiting.messages = VecDeque::new();
        } else {
            waiting.messages.push_back(message.clone());
        }
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// Remembers whom to wake. Returns whether something has come already.
    pub(crate) fn watch(&self, cx: &Context<'_>) -> bool {
        let mut waiting = self.lock();
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        waiting.full || !waiting.messages.is_empty()
    }

    /// Something was dropped for want of room.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Moves all messages to `out`.
    pub(crate) fn take(&self, out: &mut Vec<u8>) {
        let mut waiting = self.lock();
        self.bytes.store(0, Relaxed);
        // Its room may be large, and is seldom needed twice.
        std::mem::take(&mut waiting.messages)
            .iter()
            .for_each(|message| out.extend_from_slice(&message.bytes));
    }

    /// Moves to `out` what has come before this marker. False: it has not come yet, or all that there is would be dropped
    /// for want of room. Other markers of that channel are nobody's.
    pub(super) fn take_before(&self, channel: &str, number: u64, out: &mut Vec<u8>) -> bool {
        let number = number.to_string();
        let mut waiting = self.lock();
        while !waiting.full
            && let Some(message) = waiting.messages.pop_front()
        {
            self.bytes.fetch_sub(message.cost(), Relaxed);
            match Message::notification(&message.bytes) {
                Some((_, from, payload)) if from == channel => {
                    if payload == number.as_bytes() {
                        return true;
                    }
                }
                _ => out.extend_from_slice(&message.bytes),
            }
        }
        false
    }

    /// Drops what has come from these channels.
    pub(super) fn forget(&self, channels: &[Box<str>]) {
        if channels.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        waiting.messages.retain(|message| {
            Message::notification(&message.bytes)
                .is_none_or(|(_, channel, _)| channels.iter().all(|c| **c != *channel))
        });
        self.bytes.store(waiting.messages.iter().map(|message| message.cost()).sum(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::put;

    use super::*;

    const MOST: usize = 10_000;

    fn notification(channel: &str, payload: &str) -> Arc<Message> {
        let mut bytes = Vec::new();
        put(&mut bytes, b'A', |out| {
            out.extend_from_slice(&7u32.to_be_bytes());
            out.extend_from_slice(channel.as_bytes());
            out.push(0);
            out.extend_from_slice(payload.as_bytes());
            out.push(0);
        });
        Message::new(bytes, &Arc::default())
    }

    fn taken(inbox: &Inbox) -> Vec<u8> {
        let mut out = Vec::new();
        inbox.take(&mut out);
        out
    }

    #[test]
    fn a_notification_is_read_and_given_another_sender() {
        let message = notification("c", "p");
        assert_eq!(Message::notification(&message.bytes), Some((7, "c", &b"p"[..])));
        assert_eq!(Message::notification(&Message::with_pid(&message.bytes, 9)), Some((9, "c", &b"p"[..])));
        assert_eq!(Message::notification(b"A\0\0\0\x08\0\0\0\x01"), None);
        assert_eq!(Message::notification(b"A\0\0\0\x0a\0\0\0\x01c\0"), None);
    }

    #[test]
    fn messages_come_in_order_and_those_of_left_channels_not_at_all() {
        let inbox = Inbox::default();
        let (a, b) = (notification("a", "1"), notification("b", "2"));
        [&a, &b, &a].into_iter().for_each(|message| inbox.put(message, MOST));
        inbox.forget(&["b".into()]);
        assert_eq!(taken(&inbox), [&*a.bytes, &*a.bytes].concat());
        assert_eq!(taken(&inbox), b"");
    }

    #[test]
    fn what_is_before_the_marker_is_told_here() {
        let inbox = Inbox::default();
        let all = [("a", "1"), ("m", "4"), ("a", "2"), ("m", "5"), ("a", "3"), ("m", "6")];
        let all = all.map(|(channel, payload)| notification(channel, payload));
        let (before, behind) = all.split_at(3);
        before.iter().for_each(|message| inbox.put(message, MOST));
        let mut told = Vec::new();
        assert!(!inbox.take_before("m", 5, &mut told));
        behind.iter().for_each(|message| inbox.put(message, MOST));
        assert!(inbox.take_before("m", 5, &mut told));
        assert_eq!(told, [&*all[0].bytes, &*all[2].bytes].concat());
        inbox.forget(&["m".into()]);
        assert_eq!(taken(&inbox), &*all[4].bytes, "if it does not go after all");
    }

    #[test]
    fn a_full_inbox_says_so_and_holds_nothing() {
        let inbox = Inbox::default();
        let large = notification("a", &"x".repeat(MOST / 2));
        inbox.put(&large, MOST);
        assert!(!inbox.is_full());
        inbox.put(&large, MOST);
        assert!(inbox.is_full());
        assert_eq!(taken(&inbox), b"");
    }
}
