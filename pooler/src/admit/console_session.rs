//! A client of the console: simple queries, answered by the console itself.

use std::sync::Arc;

use protocol::auth::AuthRequest;
use protocol::error_fields::ErrorMessage;
use protocol::message::{self, TxStatus};
use protocol::params::{Tracked, Values};
use protocol::sqlstate::SqlState;

use super::{Arrival, ConsoleClient, put_login_notice};
use crate::consoles::ConsoleInfo;
use crate::control::Control;
use crate::secrets::random;

/// Serves the client until it leaves or the process stops.
pub(super) async fn run(mut arrival: Arrival, client: ConsoleClient) {
    let mut stopped = arrival.worker.shared.phase_changes.subscribe();
    let session = serve(&mut arrival, client);
    tokio::select! {
        () = session => {}
        _ = stopped.wait_for(|phase| *phase == crate::lifecycle::Phase::Stopped) => {}
    }
}

async fn serve(arrival: &mut Arrival, client: ConsoleClient) {
    let shared = arrival.worker.shared.clone();
    let entry = shared.consoles.add(ConsoleInfo {
        id: arrival.id,
        application_name: client.params.get(Tracked::APPLICATION_NAME).map(str::to_owned),
        user: client.user,
        remote: arrival.remote,
        local: arrival.local,
        connected: arrival.since,
        requested: arrival.since,
    });
    let control = Control::new(shared.clone());
    let console = Arc::clone(&shared.console);
    let mut out = Vec::new();
    write_welcome(&mut out, &console.version(), &shared.tracked, &client.params);
    put_login_notice(&mut out, &control.config());
    message::ready_for_query(&mut out, TxStatus::Idle);
    loop {
        if arrival.conversation.send(&out).await.is_err() {
            return;
        }
        out = Vec::new(); // a table may be large
        let (tag, body) = match arrival.conversation.next().await {
            Ok(message) => message,
            Err(_) => return,
        };
        entry.touch(shared.clock.micros());
        match tag {
            b'Q' => {
                let text = body.strip_suffix(&[0]).unwrap_or(&body);
                let text = String::from_utf8_lossy(text);
                // A client that leaves takes its command with it: PAUSE must not go on waiting.
                tokio::select! {
                    biased;
                    answer = console.execute(&control, &text, client.rights) => out = answer,
                    () = arrival.conversation.gone() => return,
                }
                message::ready_for_query(&mut out, TxStatus::Idle);
            }
            b'X' => return,
            b'P' | b'B' | b'E' | b'D' | b'C' | b'H' => {
                let text = "extended query protocol not supported by admin console";
                ErrorMessage::error(SqlState::PROTOCOL_VIOLATION, text).encode_error(&mut out);
                if !skip_to_sync(arrival).await {
                    return;
                }
                message::ready_for_query(&mut out, TxStatus::Idle);
            }
            b'S' => message::ready_for_query(&mut out, TxStatus::Idle),
            b'd' | b'c' | b'f' => {}
            _ => {
                ErrorMessage::fatal(SqlState::PROTOCOL_VIOLATION, "unknown pkt").encode_error(&mut out);
                let _ = arrival.conversation.send_and_close(&out).await;
                return;
            }
        }
    }
}

async fn skip_to_sync(arrival: &mut Arrival) -> bool {
    loop {
        match arrival.conversation.next().await {
            Ok((b'S', _)) => return true,
            Ok((b'X', _)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

/// `params` are those that the client gave: they are told back to it.
fn write_welcome(out: &mut Vec<u8>, version: &str, tracked: &Tracked, params: &Values) {
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
    let key = random::<8>();
    let pid = u32::from_be_bytes([key[0] & 0x7f, key[1], key[2], key[3]]);
    message::backend_key_data(out, pid, &key[4..]);
}
