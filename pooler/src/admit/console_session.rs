//! A client of the console: its messages, answered by the console itself.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use protocol::auth::AuthRequest;
use protocol::error_fields::ErrorMessage;
use protocol::frame::HEADER_LEN;
use protocol::message::{self, TxStatus};
use protocol::params::{Tracked, Values};
use protocol::sqlstate::SqlState;

use super::{Arrival, ConsoleClient, put_login_notice};
use crate::clients::CancelKey;
use crate::console::Conversing;
use crate::consoles::{Calls, ConsoleInfo, Entry};
use crate::control::Control;
use crate::lifecycle::Phase;

/// Serves the client until it leaves, is ended, or the process stops.
pub(super) async fn run(mut arrival: Arrival, client: ConsoleClient) {
    let mut stopped = arrival.worker.shared.phase_changes.subscribe();
    let calls = Arc::<Calls>::default();
    let sending = Cell::new(false);
    let last = tokio::select! {
        last = serve(&mut arrival, client, &calls, &sending) => last,
        () = calls.ended.notified() => Some("admin forced disconnect".to_owned()),
        _ = stopped.wait_for(|phase| *phase == Phase::Stopped) => None,
    };
    // In the middle of an answer it would be read as part of that.
    if let Some(text) = last.filter(|_| !sending.get()) {
        let mut out = Vec::new();
        ErrorMessage::fatal(SqlState::PROTOCOL_VIOLATION, text).encode_error(&mut out);
        let _ = tokio::time::timeout(LAST_WORDS, arrival.conversation.send_and_close(&out)).await;
    }
}

/// Time for a client to take its last message.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Answers of so many bytes are sent even if the client has not asked for them yet.
const MOST_UNSENT: usize = 8 << 10;

/// Messages from clients that the protocol has; what of COPY comes here is dropped.
const KNOWN: &[u8] = b"QPBDECSHFdcf";

/// Returns what the client is to be told, if it is still there.
async fn serve(
    arrival: &mut Arrival,
    client: ConsoleClient,
    calls: &Arc<Calls>,
    sending: &Cell<bool>,
) -> Option<String> {
    let shared = arrival.worker.shared.clone();
    let control = Control::new(shared.clone());
    let console = Arc::clone(&shared.console);
    let key = CancelKey::random(control.config().peer_id);
    let mut conversing = console.converse(&control, client.rights);
    let mut out = Vec::new();
    write_welcome(&mut out, &console.version(), &shared.tracked, &client.params, key);
    put_login_notice(&mut out, &control.config());
    message::ready_for_query(&mut out, TxStatus::Idle);
    let entry = shared.consoles.add(ConsoleInfo {
        id: arrival.id,
        application_name: client.params.get(Tracked::APPLICATION_NAME).map(str::to_owned),
        user: client.user,
        remote: arrival.remote,
        local: arrival.local,
        tls: arrival.tls(),
        connected: arrival.since,
        requested: arrival.since,
        key,
        busy: 0,
        calls: calls.clone(),
    });
    let mut due = true;
    loop {
        if due || out.len() > MOST_UNSENT {
            sending.set(true);
            arrival.conversation.send(&out).await.ok()?;
            sending.set(false);
            out = Vec::new(); // a table may be large
        }
        let (tag, body) = match arrival.conversation.next().await {
            Ok((b'X', _)) => return None,
            Ok((tag, _)) if !KNOWN.contains(&tag) => return Some("unknown pkt".to_owned()),
            Ok(message) => message,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Some(error.to_string()),
            Err(_) => return None,
        };
        entry.begin(shared.clock.micros(), HEADER_LEN + body.len());
        let answer = answer(arrival, &mut *conversing, (tag, &body), calls).await?;
        finish(&entry, &mut out, answer);
        due = matches!(tag, b'Q' | b'S' | b'H' | b'F');
    }
}

fn finish(entry: &Entry, out: &mut Vec<u8>, answer: Vec<u8>) {
    entry.end();
    match out.is_empty() {
        true => *out = answer,
        false => out.extend(answer),
    }
}

/// `None`: the client has left, and its command with it. `PAUSE` must not go on waiting.
async fn answer(
    arrival: &mut Arrival,
    conversing: &mut dyn Conversing,
    (tag, body): (u8, &[u8]),
    calls: &Calls,
) -> Option<Vec<u8>> {
    tokio::select! {
        biased;
        answer = conversing.answer(tag, body) => return Some(answer),
        () = arrival.conversation.gone() => return None,
        () = calls.cancelled.notified() => {}
    }
    Some(conversing.cancelled())
}

/// `params` are those that the client gave: they are told back to it.
fn write_welcome(out: &mut Vec<u8>, version: &str, tracked: &Tracked, params: &Values, key: CancelKey) {
    AuthRequest::Ok.encode(out);
    let own = [
        ("server_version", version),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ];
    for (name, value) in own {
        message::parameter_status(out, name, value);
    }
    for (index, name) in tracked.names().enumerate() {
        if let Some(value) = params.get(index) {
            message::parameter_status(out, name, value);
        }
    }
    message::backend_key_data(out, key.pid, &key.secret);
}
