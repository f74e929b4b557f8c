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

/// What the replies of one read say of the request.
pub(super) struct Said {
    /// It was answered in full.
    pub(super) answered: bool,
    /// No transaction is open behind it.
    pub(super) idle: bool,
    pub(super) refused: Refused,
    /// The server ends the session.
    pub(super) fatal: bool,
}

/// What becomes of bytes for the client.
pub(super) enum Deal {
    /// They are kept.
    Kept,
    /// They are kept, and the primary is to answer.
    Moves,
    /// They go to the client, behind these.
    Passed(Vec<u8>),
}

impl Trial {
    /// Errors tell something of it.
    pub(super) fn heeds_errors(&self) -> bool {
        match self {
            Trial::None | Trial::Fresh => false,
            Trial::Armed(_) => true,
            Trial::Over(request) => !request.is_empty(),
        }
    }

    /// Bytes for the client have come.
    pub(super) fn deal(&mut self, bytes: &[u8], said: &Said) -> Deal {
        let Trial::Armed(armed) = self else { return Deal::Passed(Vec::new()) };
        let deal = armed.deal(bytes, said);
        if let Deal::Passed(_) = deal {
            let watched = armed.movable && !said.answered;
            *self = Trial::Over(if watched { std::mem::take(&mut armed.request) } else { Vec::new() });
        }
        deal
    }

    /// The request that was refused for good, but too late to be moved: another like it is not to be tried.
    pub(super) fn refused_late(&mut self, refused: Refused) -> Option<Vec<u8>> {
        match self {
            Trial::Over(request) if refused == Refused::ForGood => Some(std::mem::take(request)),
            _ => None,
        }
    }
}

impl Armed {
    fn deal(&mut self, bytes: &[u8], said: &Said) -> Deal {
        if self.movable {
            self.refused = self.refused.max(said.refused);
        }
        self.fatal |= said.fatal;
        let moves = self.refused != Refused::No && said.answered && said.idle;
        if said.answered && !moves {
            self.refused = Refused::No; // within a transaction it is the client's affair
        }
        let ends = said.answered && self.refused == Refused::No && !self.fatal;
        if ends || self.reply.len() + bytes.len() > MOST_KEPT {
            return Deal::Passed(std::mem::take(&mut self.reply));
        }
        self.reply.extend_from_slice(bytes);
        if moves { Deal::Moves } else { Deal::Kept }
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

    const NOTHING: Said = Said { answered: false, idle: true, refused: Refused::No, fatal: false };
    const ANSWERED: Said = Said { answered: true, ..NOTHING };

    #[test]
    fn a_reply_is_kept_until_it_is_whole_or_long() {
        let mut trial = armed();
        assert!(matches!(trial.deal(b"ab", &NOTHING), Deal::Kept));
        assert!(matches!(trial.deal(b"cd", &ANSWERED), Deal::Passed(before) if before == b"ab"));
        let mut trial = armed();
        assert!(matches!(trial.deal(&[0; MOST_KEPT], &NOTHING), Deal::Kept));
        assert!(matches!(trial.deal(&[0], &NOTHING), Deal::Passed(before) if before.len() == MOST_KEPT));
    }

    #[test]
    fn a_refusal_is_kept() {
        let refused = Said { refused: Refused::ForGood, ..NOTHING };
        let mut trial = armed();
        assert!(matches!(trial.deal(b"ab", &refused), Deal::Kept));
        assert!(matches!(trial.deal(b"cd", &ANSWERED), Deal::Moves));
        let mut trial = Armed { refused: Refused::ForGood, ..armed() };
        let failed = Said { idle: false, ..ANSWERED };
        assert!(matches!(trial.deal(b"ab", &failed), Deal::Passed(_)), "in a transaction");
        let mut trial = Armed { movable: false, ..armed() };
        let refused = Said { answered: true, ..refused };
        assert!(matches!(trial.deal(b"ab", &refused), Deal::Passed(_)), "the client's own wish");
    }

    #[test]
    fn what_is_refused_too_late_is_known() {
        let mut trial = Trial::Armed(Box::new(Armed { request: b"request".to_vec(), ..armed() }));
        assert!(matches!(trial.deal(&[0; MOST_KEPT + 1], &NOTHING), Deal::Passed(_)));
        assert!(trial.heeds_errors());
        assert_eq!(trial.refused_late(Refused::ForNow), None);
        assert_eq!(trial.refused_late(Refused::ForGood).as_deref(), Some(&b"request"[..]));
        assert!(!trial.heeds_errors());
    }
}
