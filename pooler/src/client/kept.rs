//! What is kept for a client, and what becomes of one for whom too much is.

use std::sync::atomic::Ordering::Relaxed;

use protocol::error_fields::ErrorMessage;
use protocol::sqlstate::SqlState;

use super::Session;
use crate::error::Refusal;
use crate::prepared::ClientStatements;

/// A client has this much (bytes) before it counts, and it counts in steps of that size.
const STEP: usize = 64 << 10;

impl Session {
    /// Behind a turn: what is kept for the client counts.
    #[inline]
    pub(super) fn count_kept(&mut self) {
        let kept = self.input.len() + self.unsent.len() + self.statements.bytes();
        let kept = kept + self.listener.as_ref().map_or(0, |listener| listener.inbox.bytes());
        if kept.abs_diff(self.counted_kept) >= STEP {
            self.count(kept);
        }
        let waiting = (self.input.len(), self.unsent.len());
        if waiting != self.shown {
            self.shown = waiting;
            self.local.info.input.store(waiting.0, Relaxed);
            self.local.info.unsent.store(waiting.1, Relaxed);
        }
    }

    #[cold]
    fn count(&mut self, kept: usize) {
        self.counted_kept = kept;
        self.local.info.kept.store(kept, Relaxed);
        // Texts and notifications may be others' as well, and count by themselves.
        self.charge.set(self.input.len() + self.unsent.len() + self.statements.own_bytes());
    }

    /// There is too much in all, and the client has more than others.
    pub(super) fn is_pressed(&self) -> bool {
        let pressed = self.counted_kept >= STEP && self.worker.shared.buffers.excess() > 0;
        if pressed {
            self.worker.pressed.set(true);
        }
        pressed
    }

    /// The session has ended, and only its last words are to be sent.
    pub(super) fn give_back(&mut self) {
        self.input = Vec::new();
        self.statements = ClientStatements::default();
        self.listener = None;
        self.held = None;
        self.count(self.unsent.len());
    }
}

/// A client has more kept than it may.
pub(super) fn too_much(text: &'static str) -> Refusal {
    let hint = "client_buffer_limit is how much the pooler keeps for one client.";
    let message = ErrorMessage::fatal(SqlState::OUT_OF_MEMORY, text).with_hint(hint);
    Refusal::from(message).because("client_buffer_limit")
}
