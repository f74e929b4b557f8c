//! The pooler's own requests to a server: check, reset, and reading off what is still owed.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use protocol::error_fields::ErrorFields;
use protocol::frame::HEADER_LEN;
use protocol::message;
use protocol::session::{Origin, Route, ServerMachine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{IdleServer, Received, Server, ServerState};
use crate::answers::{self, Values};
use crate::config::CheckQuery;
use crate::pool::Counting;
use crate::prepared::ClientStatements;
use crate::state::Pins;
use crate::worker::Worker;

/// Why a request of the pooler's own did not succeed.
#[derive(Debug)]
pub(crate) enum OwnError {
    /// The server answered with an error; the connection is in order.
    Refused(String),
    /// The connection can't be used any more.
    Broken(&'static str),
}

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OwnError::Refused(message) => f.write_str(message),
            OwnError::Broken(why) => f.write_str(why),
        }
    }
}

/// Time for a check, a reset or any other of the pooler's own requests, where no setting says otherwise.
const OWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one simple query and drops its results.
///
/// # Errors
/// The server refused the statement, or the connection broke.
pub(crate) async fn run(server: &mut Server, sql: &str) -> Result<(), OwnError> {
    run_into(server, sql, |_| {}).await
}

/// Runs one simple query, and returns the rows that it answers with: those of the first `longest` bytes, about.
///
/// # Errors
/// The server refused the statement, or the connection broke.
pub(crate) async fn ask(server: &mut Server, sql: &str, longest: usize) -> Result<Vec<Values>, OwnError> {
    let mut answer = Vec::new();
    run_into(server, sql, |received| {
        if received.route == Route::Swallow && answer.len() < longest {
            answer.extend_from_slice(received.bytes);
        }
    })
    .await?;
    Ok(answers::data_rows(&answer))
}

async fn run_into(server: &mut Server, sql: &str, told: impl FnMut(&Received<'_>)) -> Result<(), OwnError> {
    let mut request = Vec::new();
    message::query(&mut request, sql);
    server.own_query(Origin::Pooler);
    send(server, &request).await?;
    let draining = drain_into(server, told);
    tokio::time::timeout(OWN_TIMEOUT, draining).await.unwrap_or(Err(OwnError::Broken("timeout")))
}

/// Sends bytes that the machine knows of.
pub(crate) async fn send(server: &mut Server, bytes: &[u8]) -> Result<(), OwnError> {
    let sending = async {
        server.stream.write_all(bytes).await?;
        server.stream.flush().await
    };
    let sent = tokio::time::timeout(OWN_TIMEOUT, sending).await;
    sent.map_err(|_| OwnError::Broken("timeout"))?.map_err(|_| OwnError::Broken("server connection closed"))
}

/// Reads and drops replies until nothing is owed, or the server waits for something: a probe, COPY data, or the `Sync`
/// that ends a failed batch. Cancel-safe.
///
/// # Errors
/// A request of the pooler's own among them was refused, or the connection broke.
pub(crate) async fn drain(server: &mut Server) -> Result<(), OwnError> {
    drain_into(server, |_| {}).await
}

/// The same, and tells of everything that is dropped.
async fn drain_into(server: &mut Server, mut told: impl FnMut(&Received<'_>)) -> Result<(), OwnError> {
    let max_len = server.pool().shared.config.load().limits.max_packet_size;
    let mut refused = None;
    let rests = |machine: &ServerMachine| {
        machine.owes_nothing() || machine.needs_probe() || machine.reads_copy() || machine.skips_until_sync()
    };
    while !rests(&server.machine) {
        server.carry.reserve(4096);
        match server.stream.read_buf(&mut server.carry).await {
            Ok(n) if n > 0 => {}
            _ => return Err(OwnError::Broken("server conn crashed?")),
        }
        let mut buf = std::mem::take(&mut server.carry);
        let nobodys = &mut ClientStatements::default(); // whose they were has left
        let used = server.receive(&buf, max_len, nobodys, |received| {
            told(received);
            if received.tag == Some(b'E') && received.route == Route::OwnRequestFailed {
                let text = ErrorFields::new(&received.bytes[HEADER_LEN..])
                    .message()
                    .unwrap_or_default()
                    .into_owned();
                refused = Some(text);
            }
        });
        let used = used.map_err(|fault| OwnError::Broken(fault.text()))?;
        buf.drain(..used);
        server.carry = buf;
    }
    match refused {
        Some(text) => Err(OwnError::Refused(text)),
        None => Ok(()),
    }
}

/// Time for a server to answer its check before another is tried for the client that waits.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);

/// Asks a server that was idle for long whether it still answers, then gives it back to its pool. `counting` is given
/// up when it is no longer to be expected that a client that waits will have this server.
pub(crate) async fn check(worker: Rc<Worker>, server: IdleServer, counting: Counting) {
    let mut counting = Some(counting);
    let mut server = server.into_server();
    let pool = server.pool().clone();
    server.info.set_state(ServerState::Tested);
    let sql = match pool.rules.load().server.check_query.clone() {
        CheckQuery::Off | CheckQuery::Empty => String::new(),
        CheckQuery::Sql(sql) => sql,
    };
    let moved = server.move_to(worker.index);
    let answer = {
        let mut running = std::pin::pin!(run(&mut server, &sql));
        match tokio::time::timeout(CHECK_PATIENCE, &mut running).await {
            Ok(answer) => answer,
            Err(_) => {
                drop(counting.take());
                pool.pump(&worker);
                running.await
            }
        }
    };
    match (moved, answer) {
        (Ok(()), Ok(())) => hand_back(&worker, server),
        _ => server.close("test query failed"),
    }
    drop(counting);
    pool.pump(&worker);
}

/// Resets the session of a server that a client has left, then gives it back to its pool: by the reset query, or, where
/// the session must be as new, by what makes it so.
pub(crate) async fn reset(worker: Rc<Worker>, mut server: Box<Server>) {
    let pool = server.pool().clone();
    server.info.set_state(ServerState::Tested);
    match run_reset(&mut server).await {
        Ok(()) if server.pins.contains(Pins::LIBRARY) => server.close("a client has loaded a library"),
        Ok(()) => hand_back(&worker, server),
        Err(error) => {
            tracing::warn!(peer = %server.info.peer(&pool), "reset query failed: {error}");
            server.close("reset query failed");
        }
    }
    pool.pump(&worker);
}

async fn run_reset(server: &mut Server) -> Result<(), OwnError> {
    const EVERYTHING: &str = "DISCARD ALL";
    let rules = server.pool().rules.load_full();
    let query = if rules.must_reset() { &rules.server.reset_query } else { "" };
    let discards = query.trim_end_matches([';', ' ']).eq_ignore_ascii_case(EVERYTHING);
    if discards || server.is_used() {
        run(server, EVERYTHING).await?;
        server.renewed();
    }
    if discards || query.is_empty() { Ok(()) } else { run(server, query).await }
}

fn hand_back(worker: &Worker, server: Box<Server>) {
    let pool = server.pool().clone();
    if let Some(server) = server.into_idle() {
        pool.give_back(worker.index, server);
    }
}
