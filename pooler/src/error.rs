//! What a client is told when the pooler ends its connection or its request.

use std::borrow::Cow;

use protocol::error_fields::{ErrorFields, ErrorMessage};
use protocol::sqlstate::SqlState;

/// A `FATAL` for a client. Texts are PgBouncer's where it has one for the case, because tools look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(Box<(ErrorMessage, &'static str)>); // boxed: results on the way of every query carry one

impl Refusal {
    /// With PgBouncer's code for everything, `08P01`.
    pub(crate) fn fatal(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::with_code(SqlState::PROTOCOL_VIOLATION, text)
    }

    /// Counted under this name, and not under its text.
    pub(crate) fn because(mut self, reason: &'static str) -> Refusal {
        self.0.1 = reason;
        self
    }

    /// Under what it is counted.
    pub(crate) fn reason(&self) -> &'static str {
        self.0.1
    }

    /// With a code of its own.
    pub(crate) fn with_code(code: SqlState, text: impl Into<Cow<'static, str>>) -> Refusal {
        ErrorMessage::fatal(code, text).into()
    }

    /// What a server has said, to be told to a client as the reason why its session ends.
    pub(crate) fn repeat(fields: &ErrorFields<'_>) -> Refusal {
        let code = fields.code().unwrap_or(SqlState::INTERNAL_ERROR);
        let mut message = ErrorMessage::fatal(code, fields.message().unwrap_or_default().into_owned());
        message.detail = fields.detail().map(|detail| detail.into_owned().into());
        message.hint = fields.hint().map(|hint| hint.into_owned().into());
        message.into()
    }

    pub(crate) fn text(&self) -> &str {
        &self.0.0.message
    }

    /// Appends the `ErrorResponse`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.0.0.encode_error(out);
    }
}

/// It must be a `FATAL`.
impl From<ErrorMessage> for Refusal {
    fn from(message: ErrorMessage) -> Refusal {
        let reason = if let Cow::Borrowed(text) = message.message { text } else { "other" };
        Refusal(Box::new((message, reason)))
    }
}
