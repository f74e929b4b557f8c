//! Cancel requests: from a client's key to its server, and to no other query than the one that was meant.
//!
//! A server may be given to another client the moment it is idle, and a cancel request travels on a connection of
//! its own. So a request is only sent while the query that it was meant for still runs, and the server changes hands
//! only after the server has closed that connection (the signal was sent by then) and has answered an empty query
//! (which takes a signal that was still on its way).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use protocol::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use crate::clients::CancelKey;
use crate::config::Host;
use crate::net::{Peer, Stream};
use crate::pool::Pool;
use crate::server::{ServerInfo, dial};
use crate::shared::Shared;
use crate::worker::{Local, Order, Worker};

/// Cancel requests on their way to one server while one client has it.
#[derive(Debug, Default)]
pub(crate) struct Cancels {
    in_flight: Cell<u32>,
    /// One was written: the server may still get its signal.
    sent: Cell<bool>,
    /// One was written, and the server has not confirmed in time that it has come: it may come at any time.
    unconfirmed: Cell<bool>,
    landed: Notify,
}

impl Cancels {
    fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    fn end(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.landed.notify_one();
    }

    /// Waits until none is in flight. Returns whether one was sent.
    ///
    /// # Errors
    /// One was sent and may still hit whatever the server does.
    pub(crate) async fn settle(&self) -> Result<bool, &'static str> {
        while self.in_flight.get() > 0 {
            self.landed.notified().await;
        }
        if self.unconfirmed.get() { Err(UNCONFIRMED) } else { Ok(self.sent.get()) }
    }
}

/// Why a server is closed that a cancel request may still be on its way to.
pub(crate) const UNCONFIRMED: &str = "cancel request not confirmed by the server";

/// Passes a `CancelRequest` on to the worker of its client, and waits until it was dealt with.
pub(crate) async fn request(shared: &Shared, key: Option<CancelKey>) {
    let Some(client) = key.and_then(|key| shared.clients.by_key(key)) else { return };
    let (done, finished) = oneshot::channel();
    shared.order(client.worker, Order::Cancel(client, done));
    let _ = finished.await;
}

/// Cancels what a client is doing: its wait for a server, or its running query. `_done` is dropped at the end.
pub(crate) async fn cancel(worker: Rc<Worker>, local: Rc<Local>, _done: oneshot::Sender<()>) {
    let pool = &local.info.pool;
    if let Some(ticket) = local.ticket.get()
        && pool.cancel_wait(worker.index, ticket)
    {
        return;
    }
    let request = local.request.get();
    let target = local.server.borrow().clone();
    let (Some(target), true) = (target, local.busy.get()) else { return };
    let cancels = local.cancels.borrow_mut().get_or_insert_default().clone();
    cancels.begin();
    let _counted = pool.cancelling.count();
    let limit = worker.shared.config.load().timeouts.cancel_wait;
    let still_meant = || local.busy.get() && local.request.get() == request;
    let sent = Cell::new(false);
    let forwarding = async {
        // The pooler's own statement in front of the client's must not be hit.
        while local.preparing.get() && still_meant() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        send(pool, &target, || {
            sent.set(still_meant());
            sent.get()
        })
        .await;
    };
    let in_time = tokio::time::timeout(limit.unwrap_or(Duration::MAX), forwarding).await.is_ok();
    if sent.get() {
        cancels.sent.set(true);
        cancels.unconfirmed.set(cancels.unconfirmed.get() || !in_time);
    }
    cancels.end();
}

/// Sends a cancel request for whatever a server is doing, if `still_meant` says so once the connection stands, and
/// waits for the server to close it.
pub(crate) async fn send(pool: &Pool, server: &ServerInfo, still_meant: impl FnOnce() -> bool) {
    if server.secret.is_empty() {
        return; // the server gave no key
    }
    let host = match server.remote {
        Peer::Tcp(address) => Host::Tcp(address.ip().to_string()), // of a name's addresses, the one it is at
        Peer::Unix { .. } => server.host.clone(),
    };
    let Ok(mut stream) = dial(pool, &host, server.port).await else { return };
    if !still_meant() {
        return;
    }
    let mut packet = Vec::with_capacity(16);
    startup::encode_cancel(&mut packet, server.pid, &server.secret);
    if stream.write_all(&packet).await.is_ok() {
        wait_for_end(&mut stream).await;
    }
}

async fn wait_for_end(stream: &mut Stream) {
    let mut byte = [0u8; 1];
    while matches!(stream.read(&mut byte).await, Ok(n) if n > 0) {}
}
