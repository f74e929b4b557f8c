use std::sync::LazyLock;

use protocol::error_fields::ErrorFields;
use protocol::frame::put;
use protocol::sqlstate::SqlState;

/// More of a batch than this (bytes) is not kept.
const MOST: usize = 64 << 10;

/// Room for batches up to this many bytes is not given back between them.
const USUAL: usize = 4 << 10;

/// The batch at hand, as the client has sent it, for as long as it may turn out that it has to be sent again: the server
/// may refuse its first statement because a change of the schema, which the client knows nothing of, has made it stale.
///
/// ```text
///   Off ──first Bind or Describe of a batch──▶ Open ──Sync──▶ Synced
///    ▲                                           │             │
///    ├── any reply but to Parse and Close ───────┤─────────────┤
///    ├── any other message, or too much of them ─┘─────────────┘
///    │                                           │ refused     │ refused
///    │                                           ▼             ▼
///    └──────── taken ──── Due ◀──ReadyForQuery── Failed ───────┘
/// ```
#[derive(Debug, Default)]
pub(crate) struct Again {
    stage: Stage,
    bytes: Vec<u8>,
    /// Where what is to be kept begins in what is being read.
    from: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Off,
    Open,
    Synced,
    /// `synced`: its `Sync`, or one in its place, was sent.
    Failed {
        synced: bool,
    },
    Due,
}

impl Again {
    /// The first message of a batch that may be sent again stands at `at` in what is being read.
    pub(super) fn begin(&mut self, at: usize) {
        if self.stage == Stage::Off {
            self.stage = Stage::Open;
            self.bytes.clear();
            self.from = at;
        }
    }

    pub(super) fn on_sent(&mut self, tag: u8, complete: bool) {
        self.stage = match (self.stage, tag) {
            (Stage::Open, b'S') => Stage::Synced,
            (Stage::Open, b'P' | b'B' | b'D' | b'E' | b'C' | b'H') if complete => Stage::Open,
            _ => Stage::Off,
        };
    }

    /// Keeps what was dealt with of what was read.
    pub(crate) fn keep(&mut self, read: &[u8]) {
        let from = std::mem::take(&mut self.from);
        if !self.is_open() {
            return;
        }
        match read.get(from..) {
            Some(bytes) if self.bytes.len() + bytes.len() <= MOST => self.bytes.extend_from_slice(bytes),
            _ => self.stage = Stage::Off,
        }
    }

    /// The server may yet refuse its first statement.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Synced)
    }

    /// The client is told what the server has answered, which can't be taken back, unless it comes in front of the first
    /// statement.
    pub(crate) fn on_reply(&mut self, tag: u8) {
        if self.is_open() && !matches!(tag, b'1' | b'3' | b'E' | b'N' | b'S' | b'A') {
            self.stage = Stage::Off;
        }
    }

    /// The server has refused its first statement. False: it can't be sent again.
    pub(crate) fn fail(&mut self) -> bool {
        let kept = self.is_open();
        if kept {
            self.stage = Stage::Failed { synced: self.stage == Stage::Synced };
        }
        kept
    }

    /// Between the refusal and the time to send it again: nothing else goes to the server.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Failed { .. } | Stage::Due)
    }

    /// The server waits for a `Sync`, which the client has not sent; from now on it is taken as sent.
    pub(crate) fn take_missing_sync(&mut self) -> bool {
        let missing = self.stage == Stage::Failed { synced: false };
        if missing {
            self.stage = Stage::Failed { synced: true };
        }
        missing
    }

    /// `ReadyForQuery` came. True: nobody is to see it, for the batch is not over.
    pub(crate) fn on_ready(&mut self) -> bool {
        let pending = self.is_pending();
        if pending {
            self.stage = Stage::Due;
        }
        pending
    }

    /// What is to be sent again now.
    pub(crate) fn take_due(&mut self) -> Option<Vec<u8>> {
        (self.stage == Stage::Due).then(|| {
            self.stage = Stage::Off;
            std::mem::take(&mut self.bytes)
        })
    }

    /// Gives back the room that an unusual batch has taken.
    pub(super) fn shrink(&mut self) {
        if self.stage == Stage::Off && self.bytes.capacity() > USUAL {
            self.bytes = Vec::new();
        }
    }

    /// The client has left.
    pub(crate) fn forget(&mut self) {
        self.stage = Stage::Off;
    }
}

/// What an error says about a statement on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It returns something else than when it was parsed.
    Stale,
    /// The pooler's own statements are not there any more.
    Missing,
    /// A `Bind` to [`CHANGED`] was refused.
    Changed,
    Other,
}

impl Fault {
    pub(crate) fn of(error: &ErrorFields<'_>) -> Fault {
        let names = |name: &[u8]| {
            error.get(b'M').is_some_and(|text| text.windows(name.len()).any(|part| part == name))
        };
        match error.code() {
            Some(SqlState::FEATURE_NOT_SUPPORTED) if error.get(b'R') == Some(ROUTINE) => Fault::Stale,
            Some(SqlState::INVALID_SQL_STATEMENT_NAME) if names(CHANGED) => Fault::Changed,
            Some(SqlState::INVALID_SQL_STATEMENT_NAME) if names(b"pgferry_") => Fault::Missing,
            _ => Fault::Other,
        }
    }
}

/// Where PostgreSQL finds that a statement is stale; drivers look for it, too.
const ROUTINE: &[u8] = b"RevalidateCachedQuery";

/// A statement that no server has. The server's refusal leaves its transaction as PostgreSQL's own refusal of a stale
/// statement would, and the client is told of that one.
pub(super) const CHANGED: &[u8] = b"pgferry_changed";

/// PostgreSQL's words for a statement that returns something else than the client was told.
pub(crate) fn plan_changed() -> &'static [u8] {
    static MESSAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut message = Vec::new();
        put(&mut message, b'E', |out| {
            out.extend_from_slice(
                b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0R",
            );
            out.extend_from_slice(ROUTINE);
            out.extend_from_slice(b"\0\0");
        });
        message
    });
    &MESSAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `>X` sends a message, `<X` is a reply, `!` the refusal. Returns what is due at the end.
    fn after(script: &str) -> Option<Vec<u8>> {
        let mut again = Again::default();
        again.begin(2);
        let mut read = b"..".to_vec();
        for step in script.split_whitespace() {
            match step.as_bytes() {
                [b'>', tag] => {
                    read.push(*tag);
                    again.on_sent(*tag, true);
                }
                b"|" => again.keep(&std::mem::take(&mut read)),
                b"<Z" => drop(again.on_ready()),
                [b'<', tag] => again.on_reply(*tag),
                _ => drop(again.fail()),
            }
        }
        again.take_missing_sync();
        again.take_due()
    }

    #[test]
    fn a_batch_is_kept_until_it_has_had_an_effect() {
        assert_eq!(after(">B >E >S | <1 <N ! <Z").as_deref(), Some(&b"BES"[..]));
        assert_eq!(after(">B | >E >P | <3 ! <Z").as_deref(), Some(&b"BEP"[..]));
        assert_eq!(after(">B >E >S | ! "), None); // the server is not ready for it
        assert_eq!(after(">B >E >S | <2 ! <Z"), None);
        assert_eq!(after(">B >E >S >B | ! <Z"), None); // that is executed
        assert_eq!(after(">B >Q | ! <Z"), None);
        assert_eq!(after(">B >E >S | >Q | ! <Z"), None);
    }

    #[test]
    fn a_long_one_is_not_kept() {
        let mut again = Again::default();
        again.begin(0);
        again.on_sent(b'B', true);
        again.keep(&[0; MOST]);
        again.on_sent(b'E', true);
        again.keep(b"E");
        assert!(!again.fail());
    }

    #[test]
    fn faults_are_told_apart() {
        let of = |body: &[u8]| Fault::of(&ErrorFields::new(body));
        assert_eq!(of(&plan_changed()[5..]), Fault::Stale);
        assert_eq!(of(b"C0A000\0Mcursors are not supported\0\0"), Fault::Other);
        assert_eq!(of(b"C26000\0Mprepared statement \"pgferry_changed\" does not exist\0\0"), Fault::Changed);
        assert_eq!(of(b"C26000\0Mprepared statement \"pgferry_1f\" does not exist\0\0"), Fault::Missing);
        assert_eq!(of(b"C26000\0Mprepared statement \"s\" does not exist\0\0"), Fault::Other);
    }
}
