//! What a client is told when the pooler ends its connection or its request.

use std::borrow::Cow;

use protocol::error_fields::ErrorMessage;
use protocol::sqlstate::SqlState;

/// A `FATAL` for a client. Texts are PgBouncer's where it has one for the case, because tools look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: SqlState,
    text: Cow<'static, str>,
}

impl Refusal {
    /// With PgBouncer's code for everything, `08P01`.
    pub(crate) fn fatal(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code: SqlState::PROTOCOL_VIOLATION, text: text.into() }
    }

    /// With a code of its own.
    pub(crate) fn with_code(code: SqlState, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, text: text.into() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Appends the `ErrorResponse`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        ErrorMessage::fatal(self.code, self.text.clone()).encode_error(out);
    }
}
