//! Bringing back a server whose client has left: its query cancelled, its transaction rolled back, its replies read
//! off. What can't be proven clean is closed.
//!
//! Nothing that the client sent by halves may take effect. In particular a batch without its `Sync` must not be ended
//! by one: that would commit it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use protocol::message::{self, TxStatus};
use protocol::session::Origin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cancel::{self, Cancels};
use crate::net::Stream;
use crate::pool::Counting;
use crate::server::{self, OwnError, Server, ServerState};
use crate::worker::Worker;

/// Time for all of it. A server that takes longer is busy in a way that a cancel does not end.
const SALVAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a running query to react to its cancel before the request is repeated, which then has twice as long, and so
/// on; the first may come too early, when the query has not begun.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);

/// Time for the server to confirm a cancel request.
const CONFIRM: Duration = Duration::from_secs(1);

/// What becomes of a statement that is being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Cancel,
    LetFinish,
}

/// Brings a server back to its pool, or closes it. The process does not end in order before what is to be cancelled is.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    mut server: Box<Server>,
    cancels: Option<Rc<Cancels>>,
    running: Running,
) {
    let counted = (running == Running::Cancel).then(|| worker.shared.salvaging.count().0);
    let here = worker.clone();
    worker.spawn(async move {
        if running == Running::LetFinish {
            let_finish(&mut server).await;
        }
        salvage(here, server, cancels, counted).await;
    });
}

async fn salvage(
    worker: Rc<Worker>,
    mut server: Box<Server>,
    cancels: Option<Rc<Cancels>>,
    counted: Option<Counting>,
) {
    let pool = server.pool().clone();
    let state = if cancels.is_some() { ServerState::BeingCanceled } else { ServerState::Tested };
    server.info.set_state(state);
    let info = server.info.clone();
    let cleaned = tokio::select! {
        biased;
        () = pool.left_behind(&info) => Ok(Err("another host has become the primary")),
        cleaned = tokio::time::timeout(SALVAGE_TIMEOUT, clean(&mut server, cancels)) => cleaned,
    };
    drop(counted);
    match cleaned {
        Ok(Ok(())) if server.is_used() || pool.rules.load().must_reset() => {
            return server::reset(worker, server).await;
        }
        Ok(Ok(())) => {
            if let Some(server) = server.into_idle() {
                pool.give_back(worker.index, server);
            }
        }
        Ok(Err(why)) => server.close(why),
        Err(_) => server.close("client disconnected with query in progress"),
    }
    pool.pump(&worker);
}

async fn clean(server: &mut Server, cancels: Option<Rc<Cancels>>) -> Result<(), &'static str> {
    let mut cancelled = match cancels {
        Some(cancels) => cancels.settle().await?,
        None => false,
    };
    if server.machine.is_lost() || server.machine.is_mid_message() || server.info.replication {
        return end_for_good(server).await;
    }
    if !server.machine.owes_nothing() {
        end_requests(server).await?;
        cancelled = true;
    }
    settle(server).await?;
    if server.machine.batch_is_open() {
        // ROLLBACK takes back what the batch has done so far; the Sync after it ends nothing.
        put(server, b'Q', |out| message::query(out, "ROLLBACK")).await?;
        put(server, b'S', message::sync).await?;
    }
    settle(server).await?;
    if server.machine.status() != TxStatus::Idle {
        run(server, "ROLLBACK").await?;
    }
    if cancelled {
        // Takes a signal that comes late.
        run(server, "").await?;
    }
    Ok(())
}

/// Waits for what the client has asked for, as long as that may take.
async fn let_finish(server: &mut Server) {
    let machine = &server.machine;
    if machine.is_lost() || machine.is_mid_message() || server.info.replication {
        return;
    }
    let application = server.params.application_name().unwrap_or_default();
    let limit = server.pool().rules.load().limits_of(application).statement;
    let finished = async {
        ask_for_replies(server).await?;
        settle(server).await
    };
    // Whether it has ended, or how it failed, shows again.
    let _ = tokio::time::timeout(limit.unwrap_or(Duration::MAX), finished).await;
}

/// Has the server send what it may be keeping back of its replies to a batch.
async fn ask_for_replies(server: &mut Server) -> Result<(), &'static str> {
    if server.machine.batch_is_open() && !server.machine.skips_until_sync() && !server.machine.reads_copy() {
        put(server, b'H', message::flush).await?;
    }
    Ok(())
}

/// Ends what is still being answered.
async fn end_requests(server: &mut Server) -> Result<(), &'static str> {
    ask_for_replies(server).await?;
    let mut patience = CANCEL_AGAIN;
    loop {
        cancel_now(server).await?;
        match tokio::time::timeout(patience, settle(server)).await {
            Ok(result) => return result,
            Err(_) => patience *= 2,
        }
    }
}

/// Ends the session of a server that can't be used again, and what runs in it: as long as it runs, the server does not
/// notice that nobody is there.
async fn end_for_good(server: &mut Server) -> Result<(), &'static str> {
    const WHY: &str = "client disconnect while server was not ready";
    let _ = server.stream.shutdown().await;
    let mut patience = CANCEL_AGAIN;
    while !server.machine.owes_nothing() {
        cancel_now(server).await?;
        match tokio::time::timeout(patience, ended(&mut server.stream)).await {
            Ok(()) => break,
            Err(_) => patience *= 2,
        }
    }
    Err(WHY)
}

async fn ended(stream: &mut Stream) {
    let mut bytes = [0u8; 4096];
    while matches!(stream.read(&mut bytes).await, Ok(n) if n > 0) {}
}

/// Cancels what the server is doing. One that was sent and has not arrived may arrive at any time.
async fn cancel_now(server: &Server) -> Result<(), &'static str> {
    let pool = server.pool().clone();
    let sent = Cell::new(false);
    let sending = cancel::send(&pool, &server.info, || {
        sent.set(true);
        true
    });
    let confirmed = tokio::time::timeout(CONFIRM, sending).await.unwrap_or(false);
    if sent.get() && !confirmed { Err(cancel::UNCONFIRMED) } else { Ok(()) }
}

/// Reads everything that is owed, and ends a batch that has failed. A COPY that waits for data, or begins to, gets no
/// more.
async fn settle(server: &mut Server) -> Result<(), &'static str> {
    loop {
        match server::drain(server).await {
            Ok(()) | Err(OwnError::Refused(_)) => {}
            Err(OwnError::Broken(why)) => return Err(why),
        }
        if server.machine.skips_until_sync() {
            put(server, b'S', message::sync).await?; // commits nothing: what it ends has failed
        } else if server.machine.reads_copy() {
            put(server, b'f', |out| message::copy_fail(out, "client has left")).await?;
        } else if server.machine.needs_probe() {
            put(server, b'Q', |out| message::query(out, "")).await?;
        } else {
            return Ok(());
        }
    }
}

async fn run(server: &mut Server, sql: &str) -> Result<(), &'static str> {
    put(server, b'Q', |out| message::query(out, sql)).await?;
    settle(server).await
}

async fn put(server: &mut Server, tag: u8, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), &'static str> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    server.machine.on_sent(tag, Origin::Pooler, true);
    server::send(server, &bytes).await.map_err(|_| "server connection closed")
}
