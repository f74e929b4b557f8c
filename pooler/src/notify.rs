//! `LISTEN` for clients that change servers: one connection a database listens for all of them.
//!
//! A client's `LISTEN` and `UNLISTEN` run on its own server like any statement, so that they are checked, committed or
//! rolled back by PostgreSQL. Behind the transaction the audit says what that session listens to, and the channels are
//! handed over to the [`Hub`]:
//!
//! ```text
//!     client's server   … A(x,1)  A(x,2)  marker │ UNLISTEN *, back to the pool
//!     hub                   LISTEN x … A(x,2)  marker  A(x,3) …
//! ```
//!
//! 1. The hub listens as well. Until the marker, only the server's notifications go to the client.
//! 2. The server notifies a marker, which both get in the one order in which all transactions of the database commit.
//!    Up to it the server's count, behind it the hub's: none is lost, none comes twice.
//!
//! While that is under way, notifications of channels that the client had before may overtake those of new channels, or
//! be overtaken by them. Those of one channel always come in their order.
//!
//! A client that has channels at the hub and speaks of channels again is given them back on its server first, so that
//! `UNLISTEN` and `pg_listening_channels()` find them; the audit then says what is left.

mod hub;
mod inbox;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

pub(crate) use hub::{Hub, Joining, quoted};
use inbox::Inbox;
pub(crate) use inbox::Message;

use crate::pool::Pool;
use crate::worker::Worker;

/// Set in a session to which channels were given back. It is rolled back with them, and `UNLISTEN *` leaves it.
pub(crate) const WITNESS: &str = "pgferry.listens";

/// Names of channels.
pub(crate) type Channels = BTreeSet<Box<str>>;

/// A client's channels at the hub, and what has come for it.
pub(crate) struct Listener {
    hub: Arc<Hub>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) channels: Channels,
}

impl Listener {
    pub(crate) fn new(pool: &Pool) -> Listener {
        Listener { hub: pool.db.hub.clone(), inbox: Arc::default(), channels: Channels::new() }
    }

    /// The hub is to listen to these channels for the client, too.
    pub(crate) fn join(&self, channels: &Channels, pool: &Arc<Pool>, worker: &Rc<Worker>) -> Joining {
        self.hub.join(&self.inbox, channels.difference(&self.channels).cloned().collect(), pool, worker)
    }

    /// What was begun is not ended: more has changed meanwhile.
    pub(crate) fn forget_joins(&self) {
        self.hub.forget(&self.inbox, false);
    }

    /// The server listens for the client no more.
    pub(crate) fn moved(&mut self, channels: Channels) {
        self.channels = channels;
        self.hub.moved(&self.inbox);
    }

    /// The client listens to none but these any more. What has come from the others and was not yet told never is.
    pub(crate) fn keep(&mut self, channels: &Channels) {
        let gone: Vec<_> = self.channels.difference(channels).cloned().collect();
        self.channels.retain(|channel| channels.contains(channel));
        self.hub.leave(&self.inbox, &gone);
        self.inbox.forget(&gone);
    }

    /// The client goes to a process whose hub waits for this marker. False: it can't be sent now.
    pub(crate) fn mark(&self, channel: &str, number: u64) -> bool {
        self.hub.mark(&self.inbox, channel, number)
    }

    /// It does not go, or has gone: the marker's channel is left.
    pub(crate) fn unmark(&self, channel: &str) {
        let channels = [Box::from(channel)];
        self.hub.leave(&self.inbox, &channels);
        self.inbox.forget(&channels);
    }

    /// Waits for the marker, and moves to `out` what has come before it.
    pub(crate) async fn told_before(&self, channel: &str, number: u64, out: &mut Vec<u8>) {
        poll_fn(|cx| {
            self.inbox.watch(cx);
            match self.inbox.take_before(channel, number, out) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.forget(&self.inbox, true);
        self.keep(&Channels::new());
    }
}
