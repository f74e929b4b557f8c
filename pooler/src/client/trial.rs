//! A request at a replica, for as long as it may turn out that another host has to answer it.
//!
//! ```text
//!   Fresh ──its first message──▶ Armed ──answered, or 8 KiB of the reply have come──▶ Over
//!                                  │
//!                                  ├── refused because it is a replica ──▶ the primary
//!                                  └── the replica is lost ──────────────▶ another host
//! ```
//!
//! PostgreSQL itself keeps 8 KiB before it sends them, so that nobody waits longer for having them kept here.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::error_fields::ErrorFields;
use protocol::sqlstate::SqlState;

use crate::cluster::Member;
use crate::pool::Counting;
use crate::prepared::Names;

/// Bytes of a reply that are kept.
const MOST_KEPT: usize = 8 << 10;

/// How far the request at hand has come on a replica.
#[derive(Debug, Default)]
pub(super) enum Trial {
    /// The server is no replica's.
    #[default]
    None,
    /// Nothing was sent yet.
    Fresh,
    Armed(Box<Armed>),
    /// The client has seen something of the answer to this request, or the request is the replica's alone.
    Over(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Armed {
    /// The request as the client has sent it.
    pub(super) request: Vec<u8>,
    /// So many bytes of it were taken: sent, or answered by the pooler. The rest is still in the session's input.
    pub(super) taken: usize,
    /// What the names of statements meant before it that it gives a meaning, or takes theirs.
    pub(super) names: Names,
    /// What of the reply has come.
    pub(super) reply: Vec<u8>,
    /// The primary may answer it instead.
    pub(super) movable: bool,
    /// It was refused because this is a replica.
    pub(super) refused: Refused,
    /// The server has said that it ends the session.
    pub(super) fatal: bool,
}

/// What becomes of bytes for the client.
pub(super) enum Held {
    /// They are kept.
    Kept,
    /// They go to the client, behind these.
    Passed(Vec<u8>),
}

impl Armed {
    /// Bytes for the client have come, with which the request is `answered` or not.
    pub(super) fn hold(&mut self, bytes: &[u8], answered: bool) -> Held {
        let ends = answered && self.refused == Refused::No && !self.fatal;
        if ends || self.reply.len() + bytes.len() > MOST_KEPT {
            return Held::Passed(std::mem::take(&mut self.reply));
        }
        self.reply.extend_from_slice(bytes);
        Held::Kept
    }
}

/// What an error says of the host that has sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refused {
    /// Nothing.
    #[default]
    No,
    /// The statement was given up for the host's replay. Another time it may go well.
    ForNow,
    /// A standby can't do what was asked, but the primary can.
    ForGood,
}

impl Refused {
    pub(super) fn by(error: &ErrorFields<'_>) -> Refused {
        match error.code() {
            Some(SqlState::SERIALIZATION_FAILURE) => Refused::ForNow,
            Some(SqlState::READ_ONLY_SQL_TRANSACTION) => Refused::ForGood,
            Some(SqlState::FEATURE_NOT_SUPPORTED | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                let message = error.message().unwrap_or_default();
                match message.contains("recovery") || message.contains("hot standby") {
                    true => Refused::ForGood,
                    false => Refused::No,
                }
            }
            _ => Refused::No,
        }
    }
}

/// A request that a host is at work on, as it is counted until it ends.
pub(super) enum Visit {
    Replica(Arc<Member>),
    /// A read that is for a replica, at the primary.
    Guest(#[expect(dead_code, reason = "counts as long as it is there")] Counting),
}

impl Visit {
    pub(super) fn new(member: &Arc<Member>) -> Visit {
        member.outstanding.fetch_add(1, Relaxed);
        member.reads.fetch_add(1, Relaxed);
        Visit::Replica(member.clone())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Visit::Replica(member) = self {
            member.outstanding.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> Armed {
        Armed {
            request: Vec::new(),
            taken: 0,
            names: Names::default(),
            reply: Vec::new(),
            movable: true,
            refused: Refused::No,
            fatal: false,
        }
    }

    #[test]
    fn a_reply_is_kept_until_it_is_whole_or_long() {
        let mut trial = armed();
        assert!(matches!(trial.hold(b"ab", false), Held::Kept));
        assert!(matches!(trial.hold(b"cd", true), Held::Passed(before) if before == b"ab"));
        let mut trial = armed();
        assert!(matches!(trial.hold(&[0; MOST_KEPT], false), Held::Kept));
        assert!(matches!(trial.hold(&[0], false), Held::Passed(before) if before.len() == MOST_KEPT));
    }

    #[test]
    fn a_refusal_is_kept() {
        let mut trial = Armed { refused: Refused::ForGood, ..armed() };
        assert!(matches!(trial.hold(b"ab", true), Held::Kept));
    }
}
