//! Cancel requests: from a client's key to its server, and to no other query than the one that was meant.
//!
//! A server may be given to another client the moment it is idle, and a cancel request travels on a connection of
//! its own. So a request is only sent while the query that it was meant for still runs, and the server changes hands
//! only after the server has closed that connection (the signal was sent by then) and has answered an empty query
//! (which takes a signal that was still on its way).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protocol::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use crate::clients::CancelKey;
use crate::events::report;
use crate::handover::Whence;
use crate::net::Stream;
use crate::peers;
use crate::pool::Pool;
use crate::server::{ServerInfo, dial_again};
use crate::shared::Shared;
use crate::tls::ServerTls;
use crate::worker::{Local, Order, Waits, Worker};

/// Cancel requests for what one server does while one client has it. They are numbered in the order in which they come.
#[derive(Debug, Default)]
pub(crate) struct Cancels {
    /// How many have come.
    asked: Cell<u64>,
    /// One that is sent to the server does for all that have come by then: up to which number.
    covered: Cell<u64>,
    /// Up to which number they have arrived.
    landed: Cell<u64>,
    /// A connection for the next is being opened.
    dialling: Cell<bool>,
    /// Were sent, and are not known to have arrived.
    under_way: Cell<u32>,
    /// One was sent: the server may still get its signal.
    sent: Cell<bool>,
    /// One was sent, and the server has not confirmed in time that it has come: it may come at any time.
    unconfirmed: Cell<bool>,
    changed: Notify,
}

/// Requests under way to one server; more wait, since a server that does not answer so many is not helped by another.
const MOST_UNDER_WAY: u32 = 4;

/// How long a request may take.
pub(crate) fn time_limit(shared: &Shared) -> Duration {
    const UNLIMITED: Duration = Duration::from_secs(60); // not for ever: a client that keeps its server waits for it
    shared.config.load().timeouts.cancel_wait.unwrap_or(UNLIMITED)
}

impl Cancels {
    fn ask(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.asked.get()
    }

    /// A connection for the request with this number may be opened.
    fn may_dial(&self, number: u64) -> bool {
        self.covered.get() < number && !self.dialling.get() && self.under_way.get() < MOST_UNDER_WAY
    }

    /// The server may get a signal that was meant for what it was doing.
    pub(crate) fn are_under_way(&self) -> bool {
        self.under_way.get() > 0
    }

    /// Those who wait for something are to look again.
    pub(crate) fn look_again(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until none is under way; what was not sent by the end of its request will not be. Returns whether one was.
    ///
    /// # Errors
    /// One was sent and may still hit whatever the server does.
    pub(crate) async fn settle(&self) -> Result<bool, &'static str> {
        while self.are_under_way() {
            self.changed.notified().await;
        }
        if self.unconfirmed.get() { Err(UNCONFIRMED) } else { Ok(self.sent.get()) }
    }
}

/// A request that is being sent.
struct Sending<'a> {
    cancels: &'a Cancels,
    /// Once it was sent: up to which number it does for all.
    covers: Option<u64>,
    confirmed: bool,
}

impl<'a> Sending<'a> {
    fn begin(cancels: &'a Cancels) -> Sending<'a> {
        cancels.dialling.set(true);
        Sending { cancels, covers: None, confirmed: false }
    }

    /// It is written now.
    fn sent(&mut self) {
        let cancels = self.cancels;
        self.covers = Some(cancels.asked.get());
        cancels.covered.set(cancels.asked.get());
        cancels.dialling.set(false);
        cancels.under_way.set(cancels.under_way.get() + 1);
        cancels.sent.set(true);
        cancels.look_again();
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let cancels = self.cancels;
        match self.covers {
            None => cancels.dialling.set(false),
            Some(covers) => {
                cancels.under_way.set(cancels.under_way.get() - 1);
                match self.confirmed {
                    true => cancels.landed.set(cancels.landed.get().max(covers)),
                    false => cancels.unconfirmed.set(true),
                }
            }
        }
        cancels.look_again();
    }
}

/// What a request is counted as that a client has sent.
pub(crate) const REASON: &str = "cancel request";

/// Why a server is closed that a cancel request may still be on its way to.
pub(crate) const UNCONFIRMED: &str = "cancel request not confirmed by the server";

/// Passes a `CancelRequest` on to the worker of its client, or to the process or the peer whose client it is, and waits
/// until it was dealt with.
pub(crate) async fn request(shared: &Shared, key: CancelKey, whence: Whence) {
    let own = shared.config.load().peer_id;
    let is_home = key.peer() == own;
    let key = if own != 0 && is_home { key.with_all_hops() } else { key };
    if shared.consoles.cancel(key) {
        return;
    }
    let Some(client) = shared.clients.by_key(key) else {
        shared.handover.pass_on(key, whence).await;
        if own != 0 && !is_home && whence == Whence::Client {
            peers::forward(shared, key).await;
        }
        return;
    };
    let (done, finished) = oneshot::channel();
    shared.order(client.worker, Order::Cancel(client, done));
    let _ = finished.await;
}

/// Cancels what a client is doing: its wait for a server, or its running query, of which only this `statement` if one is
/// given. `done` is dropped when that was asked of the server.
pub(crate) async fn cancel(
    worker: Rc<Worker>,
    local: Rc<Local>,
    statement: Option<u64>,
    done: oneshot::Sender<()>,
) {
    let late = local.waits.borrow().as_ref().map(|waits| match waits {
        // A server may have been granted already; its session sees to it when it takes that.
        Waits::InQueue(pool, ticket) => !pool.cancel_wait(worker.index, *ticket),
        Waits::ForReplica => true,
    });
    if let Some(late) = late {
        local.cancelled_late.set(late);
        return local.wake();
    }
    let request = local.request.get();
    let target = local.server.borrow().clone();
    let (Some(target), true) = (target, local.busy.get()) else { return };
    let cancels = local.cancels.borrow_mut().get_or_insert_default().clone();
    let still_meant = || {
        let same = statement.is_none_or(|statement| local.statement.get() == statement);
        same && local.busy.get() && local.request.get() == request
    };
    let reported = Cell::new(statement.is_some()); // a limit in time has reported itself
    let on_sent = || {
        if !reported.replace(true) {
            report(&worker, &local, REASON, None);
        }
    };
    let forward = || forward(&local, &cancels, &target, &still_meant, &on_sent);
    let limit = time_limit(&worker.shared);
    let sent = tokio::time::timeout(limit, forward()).await;
    local.wake(); // it may have waited for this
    drop(done);
    let mut patience = AGAIN;
    // One of a client may have come when the server had the query and had not begun it: then it did nothing.
    while sent == Ok(true) && statement.is_none() && patience <= MOST_PATIENCE {
        tokio::time::sleep(patience).await;
        if !still_meant() {
            return;
        }
        let _ = tokio::time::timeout(limit, forward()).await;
        local.wake();
        patience *= 2;
    }
}

/// Time for a query to end that a client has cancelled, before the request is repeated, which then has twice as long, and so
/// on up to a bound: what goes on longer is at something that no cancel request ends.
const AGAIN: Duration = Duration::from_millis(100);
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// Asks the server to cancel what it does for its client, as long as `still_meant` says so. Requests that come together go
/// together. Returns whether one was sent for this.
async fn forward(
    local: &Local,
    cancels: &Cancels,
    target: &ServerInfo,
    still_meant: &dyn Fn() -> bool,
    on_sent: &dyn Fn(),
) -> bool {
    let number = cancels.ask();
    let pool = &local.info.pool;
    let _counted = pool.cancelling.count();
    while still_meant() && cancels.landed.get() < number {
        // The pooler's own statement in front of the client's must not be hit.
        if local.preparing.get() || !cancels.may_dial(number) {
            cancels.changed.notified().await;
            continue;
        }
        let mut sending = Sending::begin(cancels);
        let meant = || {
            let meant = still_meant();
            if meant {
                sending.sent();
                on_sent();
            }
            meant
        };
        let confirmed = send(pool, target, meant).await;
        sending.confirmed = confirmed;
        return sending.covers.is_some();
    }
    false
}

/// Sends a cancel request for whatever a server is doing, if `still_meant` says so once the connection stands, and
/// waits for the server to close it. Returns whether it did.
pub(crate) async fn send(pool: &Pool, server: &ServerInfo, still_meant: impl FnOnce() -> bool) -> bool {
    if server.secret.is_empty() {
        return false; // the server gave no key
    }
    let at = (&server.host, server.remote); // of a name's addresses, the one it is at
    let dialled = dial_again(&pool.shared, at, server.port, &tls_for(pool, server)).await;
    let Ok(mut stream) = dialled else { return false };
    still_meant() && deliver(&mut stream, server.pid, &server.secret).await
}

/// As for a new connection, but that a server which has refused TLS where it may is not asked again.
fn tls_for(pool: &Pool, server: &ServerInfo) -> Arc<ServerTls> {
    let tls = pool.server_tls();
    let refused = server.tls.is_empty() && !tls.mode().is_mandatory();
    if refused { Arc::default() } else { tls }
}

/// Sends a cancel request, and waits until the other side closes: then it has dealt with it. Returns whether it did,
/// as it should.
pub(crate) async fn deliver(stream: &mut Stream, pid: u32, secret: &[u8]) -> bool {
    let mut packet = Vec::with_capacity(16);
    startup::encode_cancel(&mut packet, pid, secret);
    let mut byte = [0u8; 1];
    let sent = async {
        stream.write_all(&packet).await?;
        stream.flush().await
    };
    let mut read = sent.await.map(|()| 1);
    while matches!(read, Ok(n) if n > 0) {
        read = stream.read(&mut byte).await;
    }
    read.is_ok()
}
