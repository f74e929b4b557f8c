//! One question to PostgreSQL: a server from the queue, a clean session, the messages.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::error_fields::{ErrorFields, Severity};
use protocol::frame::{HEADER_LEN, put};
use protocol::session::{Origin, Route};
use tokio::io::AsyncReadExt;
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use super::row::{self, Fault};
use super::{Answer, CONFIG_ERROR, Found, Lookup};
use crate::error::Refusal;
use crate::pool::{Crowded, Grant, Pool};
use crate::prepared::ClientStatements;
use crate::salvage::{self, Running};
use crate::server::{self, OwnError, Server, ServerState};
use crate::state;
use crate::worker::Worker;

/// A longer answer is not read, in bytes: it is two short texts, and few rows.
const LONGEST: usize = 64 << 10;

/// Waits in the queue as a client does. Cancel-safe.
///
/// # Errors
/// What a client is told that waits in vain.
pub(super) async fn wait_for_server(worker: &Rc<Worker>, pool: &Arc<Pool>) -> Result<Box<Server>, Refusal> {
    if let Some(refusal) = pool.refuses_new() {
        pool.try_again(worker);
        return Err(refusal);
    }
    let crowded = |crowded: Crowded| Refusal::from(crowded.message(Severity::Fatal)).because(Crowded::REASON);
    let mut counted = pool.join_crowd().map_err(crowded)?;
    let since = pool.shared.clock.micros();
    loop {
        let limit = pool.wait_limit(&pool.shared.config.load(), &pool.user.name, None);
        let mut place = pool.wait(worker.index, since, limit, None, counted.take());
        let _arriving = pool.arriving.count();
        if pool.is_removed() {
            return Err(Refusal::fatal("database removed")); // nobody would serve this queue
        }
        pool.pump(worker);
        pool.ask_back(worker);
        let grant = (&mut place.granted).await;
        place.done = true;
        match grant {
            Ok(Grant::Server(server)) => {
                let Some(mut server) = server.into_clean() else { continue };
                match server.move_to(worker.index) {
                    Ok(()) => return Ok(server),
                    Err(_) => server.close("could not be moved to another worker"),
                }
            }
            Ok(Grant::Refused(refusal)) => return Err(refusal),
            Ok(Grant::Cancelled) => {}
            Err(_) => return Err(Refusal::fatal("database removed")),
        }
    }
}

/// Why there is no answer.
enum Failure {
    /// The connection can't be used any more.
    Broken(&'static str),
    /// PostgreSQL does not like the question; severity and message.
    Refused(String),
    Answer(Fault),
}

impl From<OwnError> for Failure {
    fn from(error: OwnError) -> Failure {
        match error {
            OwnError::Refused(message) => Failure::Refused(format!("ERROR: {message}")),
            OwnError::Broken(why) => Failure::Broken(why),
        }
    }
}

/// Asks, and gives the server back. `None`: `unwanted` has come first; what PostgreSQL does for it is cancelled.
pub(super) async fn ask(
    worker: &Rc<Worker>,
    mut server: Box<Server>,
    lookup: &Lookup,
    unwanted: impl Future<Output = ()>,
) -> Option<Result<Answer, Refusal>> {
    let pool = server.pool().clone();
    server.info.set_state(ServerState::Active);
    let asked = tokio::select! {
        biased;
        asked = query(&mut server, lookup) => Some(asked),
        () = unwanted => None,
    };
    let answer = match asked {
        Some(Ok(found)) => {
            if let Some(server) = server.into_idle() {
                pool.give_back(worker.index, server);
            }
            Some(Ok(found.map(Arc::new)))
        }
        Some(Err(failure)) => Some(Err(report(server, failure))),
        None => {
            salvage::begin(worker, server, None, Running::Cancel);
            None
        }
    };
    pool.pump(worker);
    answer
}

/// Closes the server; the log is told why, the client only that it has failed.
fn report(server: Box<Server>, failure: Failure) -> Refusal {
    let peer = server.info.peer(server.pool());
    match failure {
        Failure::Broken(why) => {
            warn!(peer = %peer, "auth_query failed: {why}");
            server.close(why);
        }
        Failure::Refused(text) => {
            warn!(peer = %peer, "error in auth_query: {text}");
            server.close("error response from auth_query");
        }
        Failure::Answer(fault) => {
            warn!(peer = %peer, "{}", fault.text());
            server.close("unexpected response from auth_query");
        }
    }
    Refusal::fatal(CONFIG_ERROR)
}

async fn query(server: &mut Server, lookup: &Lookup) -> Result<Option<Found>, Failure> {
    clean(server).await?;
    let request = request(server, lookup);
    server::send(server, &request).await?;
    let answer = receive(server).await?;
    row::read(&answer).map_err(Failure::Answer)
}

/// The session must be as its login made it: what any client of the pool has set or made there, a `search_path` above all,
/// would decide what the names in the question mean (CVE-2025-12819).
async fn clean(server: &mut Server) -> Result<(), OwnError> {
    if server.info.requested.load(Relaxed) == 0 {
        return Ok(()); // no client has ever had it
    }
    let pool = server.pool().clone();
    let welcome = pool.welcome().filter(|_| pool.rules.load().preserves());
    let Some(welcome) = welcome else { return begin_anew(server, &pool).await };
    let mut sql = String::new();
    state::write_changes(&server.settings, &pool.no_settings, &mut sql);
    server.params.values().write_changes(welcome.defaults.values(), &pool.shared.tracked, &mut sql);
    if !sql.is_empty() {
        server::run(server, &sql).await?;
        server.settings = pool.no_settings.clone();
    }
    Ok(())
}

/// Where state does not follow clients it is not known what a session has.
async fn begin_anew(server: &mut Server, pool: &Pool) -> Result<(), OwnError> {
    server::run(server, "DISCARD ALL").await?;
    server.renewed();
    match &pool.db.spec.load().connect_query {
        Some(sql) => server::run(server, sql).await,
        None => Ok(()),
    }
}

/// The messages of the question; the machine is told of them.
fn request(server: &mut Server, lookup: &Lookup) -> Vec<u8> {
    let login = lookup.login.as_bytes();
    let length = (login.len() as u32).to_be_bytes();
    let messages: [(u8, &[&[u8]]); 5] = [
        (b'P', &[b"\0", lookup.sql.as_bytes(), b"\0\0\0"]),
        // To the unnamed portal, of the unnamed statement; no formats; one parameter; no formats of results.
        (b'B', &[b"\0\0\0\0\0\x01", &length, login, b"\0\0"]),
        (b'D', &[b"P\0"]),
        (b'E', &[b"\0\0\0\0\0"]),
        (b'S', &[]),
    ];
    let mut out = Vec::new();
    server.statements.on_own_unnamed();
    for (tag, body) in messages {
        server.machine.on_sent(tag, Origin::Pooler, true);
        put(&mut out, tag, |out| body.iter().for_each(|part| out.extend_from_slice(part)));
    }
    out
}

/// Everything up to `ReadyForQuery`, that aside which is nobody's reply.
/// They hold a secret, and are wiped; so is what they were read to.
async fn receive(server: &mut Server) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let max_len = server.pool().shared.config.load().limits.max_packet_size;
    // With room enough for an answer, so that growing leaves no copies.
    let (mut answer, mut refused) = (Zeroizing::new(Vec::with_capacity(4096)), None);
    while !server.machine.owes_nothing() {
        if server.machine.reads_copy() || answer.len() > LONGEST {
            return Err(Failure::Broken("auth_query returned too much, or is no query"));
        }
        server.carry.reserve(1024);
        match server.stream.read_buf(&mut server.carry).await {
            Ok(n) if n > 0 => {}
            _ => return Err(Failure::Broken("server conn crashed?")),
        }
        let mut carry = std::mem::take(&mut server.carry);
        let nobodys = &mut ClientStatements::default();
        let used = server.receive(&carry, max_len, nobodys, |received| match received.route {
            Route::OwnRequestFailed if received.tag == Some(b'E') => {
                let fields = ErrorFields::new(received.bytes.get(HEADER_LEN..).unwrap_or_default());
                let severity = if received.said.fatal { "FATAL" } else { "ERROR" };
                refused = Some(format!("{severity}: {}", fields.message().unwrap_or_default()));
            }
            Route::Swallow => answer.extend_from_slice(received.bytes),
            _ => {}
        });
        let used = used.map_err(|fault| Failure::Broken(fault.text()))?;
        if let Some(done) = carry.get_mut(..used) {
            done.zeroize();
        }
        carry.drain(..used);
        server.carry = carry;
    }
    match refused {
        Some(text) => Err(Failure::Refused(text)),
        None => Ok(answer),
    }
}
