//! Notifications, and the channels that a client has while it has no server. See the module [`notify`](crate::notify).

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;

use protocol::frame::HEADER_LEN;
use protocol::session::Origin;
use sql::Effects;
use tokio::sync::oneshot;

use super::gather::Gather;
use super::kept::too_much;
use super::request::Incoming;
use super::trail::contains_word;
use super::{End, Session};
use crate::notify::{Channels, Joining, Listener, Message, WITNESS, quoted};
use crate::pool::Pool;
use crate::prepared::{query_of, split_name};
use crate::state::{self, Pins, Report};

/// The encoding in which the hub reads names and payloads.
const ENCODING: &str = "UTF8";

/// What a linked server listens to for its client.
pub(super) struct Native {
    /// All channels of the client, by the last audit.
    channels: Channels,
    stage: Stage,
}

enum Stage {
    Found,
    /// The hub begins to listen as well.
    Joining(Joining),
    /// The server ends it.
    Moving {
        /// Until the server has sent the marker. Without one nothing comes from this server that the client must have.
        marker: Option<Joining>,
        /// Requests of the pooler's own that are not answered.
        left: usize,
    },
    /// The hub can't take it: the client keeps the server.
    Stays,
}

impl Native {
    /// No request of the client's may come in between.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.stage, Stage::Moving { .. })
    }

    /// It is not handed over, or not yet.
    pub(super) fn stays(&self) -> bool {
        matches!(self.stage, Stage::Stays)
    }
}

/// The end of a client's replies, kept back until its own notifications have come.
pub(super) struct Held {
    bytes: Vec<u8>,
    passed: oneshot::Receiver<()>,
}

/// What becomes of a notification from the linked server.
pub(super) enum Told {
    Not,
    As(Vec<u8>),
    AsIs,
}

/// Judges notifications from the linked server.
pub(super) struct Judge<'a> {
    pub(super) listener: Option<&'a Listener>,
    pub(super) native: Option<&'a mut Native>,
    /// What the hub has may be told now.
    pub(super) may_tell: bool,
    pub(super) pool: &'a Pool,
    /// Process ids of the linked server and of its client.
    pub(super) pids: (u32, u32),
}

impl Judge<'_> {
    pub(super) fn judge(&mut self, bytes: &[u8]) -> Told {
        let Some((pid, channel, payload)) = Message::notification(bytes) else { return Told::AsIs };
        let moving = match &mut self.native {
            Some(Native { stage: Stage::Moving { marker, .. }, .. }) => Some(marker),
            _ => None,
        };
        if channel == self.pool.db.hub.marker() {
            if let Some(marker) = moving {
                marker.take_if(|joining| joining.is_marker(payload));
            }
            return Told::Not;
        }
        if moving.is_some_and(|marker| marker.is_none()) {
            return Told::Not; // it was committed behind the marker
        }
        if self.listener.is_some_and(|listener| listener.channels.contains(channel)) {
            return Told::Not; // the hub brings it
        }
        let (server, client) = self.pids;
        let notifier = if pid == server { Some(client) } else { self.pool.db.notifier(pid) };
        match notifier {
            Some(client) => Told::As(Message::with_pid(bytes, client)),
            None => Told::AsIs,
        }
    }

    /// Hands out what has come to the hub for the client.
    pub(super) fn tell(&self, mut tell: impl FnMut(&[u8])) {
        let Some(listener) = self.listener.filter(|_| self.may_tell) else { return };
        let mut bytes = Vec::new();
        listener.inbox.take(&mut bytes);
        if !bytes.is_empty() {
            tell(&bytes);
        }
    }
}

impl Session {
    fn listens(&self) -> Option<&Listener> {
        self.listener.as_deref().filter(|listener| !listener.channels.is_empty())
    }

    /// The text of a `Parse` is about channels, and the client has some at the hub.
    pub(super) fn parses_listen(&self, bytes: &[u8]) -> bool {
        let text = self.listens().and_then(|_| split_name(&bytes[HEADER_LEN..]));
        let effects = text.map(|(_, text)| sql::scan(query_of(text)).effects).unwrap_or_default();
        effects.intersects(state::CHANNELS) && !effects.contains(Effects::DISCARD_ALL)
    }

    /// The client has channels at the hub, and what could not be told from its leaving them is about to become possible:
    /// that the server is given them behind a savepoint, and loses them when that is rolled back to.
    pub(super) fn marks_savepoint(&self, message: &Incoming<'_>) -> bool {
        self.listens().is_some() && contains_word(self.text_of(message), b"savepoint")
    }

    /// The client notifies: what it listens to itself comes before the end of its transaction.
    pub(super) fn on_notify(&mut self) {
        if self.listens().is_none() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        link.notified = true;
        link.server.info.notifier.store(self.local.info.key.pid, Relaxed);
    }

    /// A message about channels has to wait for what the audit under way says of them.
    pub(super) fn waits_for_channels(&mut self) -> bool {
        let waits = self.listens().is_some() && self.link.as_ref().is_some_and(|link| link.audit.is_some());
        if let Some(link) = self.link.as_mut().filter(|_| waits) {
            link.stalled = true;
            self.resume = true;
        }
        waits
    }

    /// A message about channels comes: those that the client has at the hub go to the server in front of it, if possible
    /// in a transaction of their own, because only then `pg_listening_channels()` shows them.
    pub(super) fn bring_channels(&mut self, message: &Incoming<'_>, out: &mut Gather<'_>) {
        let Some(channels) = self.listens().map(|listener| listener.channels.clone()) else { return };
        let Some(link) = &mut self.link else { return };
        let server = &mut link.server;
        if link.brought || !server.runs_own_in_front() {
            return;
        }
        link.brought = true;
        server.suspect |= Effects::LISTEN; // what is brought must be looked for, whatever the message does
        let witness = format!("SELECT pg_catalog.set_config('{WITNESS}','1',false)");
        let statements: Vec<_> =
            channels.iter().map(|channel| format!("LISTEN {}", quoted(channel))).chain([witness]).collect();
        out.insert(message.read, &server.own_in_front(message.tag, &statements));
    }

    /// The audit has said what the server's session listens to.
    pub(super) fn on_channels(&mut self, report: &mut Report) {
        let Some(link) = &mut self.link else { return };
        let mut channels = std::mem::take(&mut report.channels);
        link.brought = report.witness;
        let on_server = report.witness || !channels.is_empty();
        if on_server {
            report.pins.add(Pins::LISTENS);
        }
        if let Some(listener) = &mut self.listener {
            listener.forget_joins();
            if !report.witness {
                channels.extend(listener.channels.iter().cloned());
            }
            listener.keep(&channels);
        }
        link.native = on_server.then(|| Box::new(Native { channels, stage: Stage::Found }));
    }

    /// `DISCARD ALL` has ended everything.
    pub(super) fn on_discard_all(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.forget_joins();
            listener.keep(&Channels::new());
        }
        if let Some(link) = &mut self.link {
            link.native = None;
            link.brought = false;
        }
    }

    /// Hands over to the hub what the server's session listens to, one step at a time. True: the server is busy with it.
    #[inline]
    pub(super) fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.link.as_ref().is_some_and(|link| link.native.is_some() && !link.settling)
            && self.move_channels(cx)
    }

    fn move_channels(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(native) = &mut link.native else { return false };
        // What has run since the last audit may have listened to more, which would be lost with the rest.
        let known = link.audit.is_none() && link.server.suspect.is_empty();
        if link.server.machine.idle().is_none() || !known {
            return false;
        }
        if matches!(native.stage, Stage::Found) {
            let listener = self.listener.get_or_insert_with(|| Box::new(Listener::new(&self.pool)));
            let added = !native.channels.is_subset(&listener.channels);
            let tracked = &self.worker.shared.tracked;
            let encoding = tracked.index("client_encoding").and_then(|i| link.server.params.values().get(i));
            native.stage = match added {
                true if encoding != Some(ENCODING) => {
                    link.brought = false;
                    Stage::Stays
                }
                true => Stage::Joining(listener.join(&native.channels, &self.pool, &self.worker)),
                false => Stage::Moving { marker: None, left: 0 },
            };
        }
        match std::mem::replace(&mut native.stage, Stage::Stays) {
            Stage::Joining(mut joining) => match Pin::new(&mut joining.ready).poll(cx) {
                std::task::Poll::Ready(Ok(())) => {
                    native.stage = Stage::Moving { marker: Some(joining), left: 0 };
                }
                _ => native.stage = Stage::Joining(joining),
            },
            stage => native.stage = stage,
        }
        if native.stays() {
            let _ = self.note_pins(); // the limit does not count it
            return false;
        }
        let Stage::Moving { marker, left } = &mut native.stage else { return false };
        if *left > 0 {
            return true;
        }
        let marker = marker.as_ref().map(Joining::marker);
        let queries: Vec<_> = marker.into_iter().chain([format!("UNLISTEN *;RESET {WITNESS}")]).collect();
        *left = queries.len();
        queries.iter().for_each(|sql| link.add_query(Origin::Aside, sql));
        self.local.preparing.set(true);
        true
    }

    /// Requests of the pooler's own were answered. True: they were about channels.
    pub(super) fn on_moved(&mut self, answered: usize, failed: bool) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(native) = &mut link.native else { return false };
        let Stage::Moving { left, .. } = &mut native.stage else { return false };
        *left = left.saturating_sub(answered);
        if failed {
            native.stage = Stage::Stays;
            link.brought = false;
        } else if *left == 0 {
            if let Some(listener) = &mut self.listener {
                listener.moved(std::mem::take(&mut native.channels));
            }
            link.native = None;
            link.brought = false;
            link.server.pins.remove(Pins::LISTENS);
        }
        true
    }

    /// Tells the client what has come for it, if it may be told now. True: nothing is kept back any more, and neither side
    /// was read meanwhile.
    pub(super) fn tell_notifications(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(listener) = &self.listener else { return Ok(false) };
        if let Some(held) = &mut self.held {
            if Pin::new(&mut held.passed).poll(cx).is_pending() {
                return Ok(false);
            }
            let bytes = std::mem::take(&mut held.bytes);
            self.held = None;
            self.unsent.add(|out| {
                listener.inbox.take(out);
                out.extend_from_slice(&bytes);
            });
            if let Some(link) = &self.link {
                link.server.info.notifier.store(0, Relaxed);
            }
            self.after_replies(cx)?; // the server may go back, once it is known what its session has
            return Ok(true);
        }
        if !listener.inbox.watch(cx) {
            return Ok(false);
        }
        if listener.inbox.is_full() {
            return Err(End::Refused(too_much("too many notifications are waiting for this client")));
        }
        let idle =
            self.link.as_ref().is_none_or(|link| link.server.machine.idle().is_some() && link.may_tell());
        if idle && self.unsent.is_empty() && !self.leaving {
            self.unsent.add(|out| listener.inbox.take(out));
            self.unsent.flush(cx, &mut self.stream).map_err(|_| End::Gone)?;
        }
        Ok(false)
    }

    /// Keeps back the end of the client's replies until what it has itself notified has come.
    pub(super) fn hold_back(&mut self, bytes: Vec<u8>) {
        let Some(listener) = &self.listener else { return };
        match listener.hub().fence() {
            Some(passed) => self.held = Some(Box::new(Held { bytes, passed })),
            None => self.unsent.add(|out| out.extend_from_slice(&bytes)),
        }
    }
}
