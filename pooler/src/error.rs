//! What a client is told when the pooler ends its connection or its request.

use std::borrow::Cow;

use protocol::error_fields::ErrorMessage;
use protocol::sqlstate::SqlState;

/// A `FATAL` for a client. Texts are PgBouncer's where it has one for the case, because tools look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(Box<(SqlState, Cow<'static, str>)>); // boxed: results on the way of every query carry one

impl Refusal {
    /// With PgBouncer's code for everything, `08P01`.
    pub(crate) fn fatal(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::with_code(SqlState::PROTOCOL_VIOLATION, text)
    }

    /// With a code of its own.
    pub(crate) fn with_code(code: SqlState, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal(Box::new((code, text.into())))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0.1
    }

    /// Appends the `ErrorResponse`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (code, text) = &*self.0;
        ErrorMessage::fatal(*code, text.clone()).encode_error(out);
    }
}
