//! `ErrorResponse` and `NoticeResponse`: a list of fields, each a type byte and a NUL-terminated string, ended by a
//! zero byte.

use std::borrow::Cow;
use std::fmt;

use crate::frame::put;
use crate::sqlstate::SqlState;

/// How grave a message is. The words are those of field `V`, which is never translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the words say it
pub enum Severity {
    Debug,
    Log,
    Info,
    Notice,
    Warning,
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// Every session of the server ends.
    Panic,
}

impl Severity {
    const ALL: [Severity; 8] = [
        Severity::Debug,
        Severity::Log,
        Severity::Info,
        Severity::Notice,
        Severity::Warning,
        Severity::Error,
        Severity::Fatal,
        Severity::Panic,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Log => "LOG",
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
        }
    }

    /// Reads the word on the wire.
    pub fn from_wire(word: &[u8]) -> Option<Severity> {
        Severity::ALL.into_iter().find(|s| s.as_str().as_bytes() == word)
    }

    /// The sender closes the connection behind this message.
    pub fn ends_session(self) -> bool {
        matches!(self, Severity::Fatal | Severity::Panic)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the body of an `ErrorResponse` or `NoticeResponse` in place. Junk is not refused: the fields in front of it
/// are there, the rest is not.
#[derive(Clone, Copy)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Takes what follows the message's length.
    pub fn new(body: &'a [u8]) -> ErrorFields<'a> {
        ErrorFields { body }
    }

    /// Field `V`, which servers since 9.6 send; from older ones field `S`, if it is not translated.
    pub fn severity(&self) -> Option<Severity> {
        self.get(b'V').or_else(|| self.get(b'S')).and_then(Severity::from_wire)
    }

    /// Field `S`: the severity in the language of the server's messages.
    pub fn localized_severity(&self) -> Option<Cow<'a, str>> {
        self.text(b'S')
    }

    /// Field `C`.
    pub fn code(&self) -> Option<SqlState> {
        self.get(b'C').and_then(SqlState::new)
    }

    /// Field `M`.
    pub fn message(&self) -> Option<Cow<'a, str>> {
        self.text(b'M')
    }

    /// Field `D`.
    pub fn detail(&self) -> Option<Cow<'a, str>> {
        self.text(b'D')
    }

    /// Field `H`.
    pub fn hint(&self) -> Option<Cow<'a, str>> {
        self.text(b'H')
    }

    /// The first field of this type, as sent: texts are in the session's `client_encoding`.
    pub fn get(&self, field: u8) -> Option<&'a [u8]> {
        self.iter().find_map(|(tag, value)| (tag == field).then_some(value))
    }

    /// All fields in their order: type byte and value.
    pub fn iter(&self) -> Fields<'a> {
        Fields { rest: self.body }
    }

    fn text(&self, field: u8) -> Option<Cow<'a, str>> {
        self.get(field).map(String::from_utf8_lossy)
    }
}

impl<'a> IntoIterator for ErrorFields<'a> {
    type Item = (u8, &'a [u8]);
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

/// For logs: `ERROR 57014: canceling statement due to user request`.
impl fmt::Display for ErrorFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(severity) = self.severity() {
            write!(f, "{severity} ")?;
        }
        if let Some(code) = self.code() {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message().unwrap_or(Cow::Borrowed("(no message)")))
    }
}

impl fmt::Debug for ErrorFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(tag, value)| (char::from(tag), String::from_utf8_lossy(value))))
            .finish()
    }
}

/// Iterator over type byte and value of each field; ends at the terminator or at the first thing that is no field.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.rest.split_first().filter(|(tag, _)| **tag != 0)?;
        let end = rest.iter().position(|&b| b == 0)?;
        self.rest = &rest[end + 1..];
        Some((tag, &rest[..end]))
    }
}

/// An error or notice made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Fields `S` and `V`.
    pub severity: Severity,
    /// Field `C`.
    pub code: SqlState,
    /// Field `M`.
    pub message: Cow<'static, str>,
    /// Field `D`.
    pub detail: Option<Cow<'static, str>>,
    /// Field `H`.
    pub hint: Option<Cow<'static, str>>,
}

impl ErrorMessage {
    /// A message without detail and hint.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage { severity, code, message: message.into(), detail: None, hint: None }
    }

    /// The statement failed, the session goes on.
    pub fn error(code: SqlState, message: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage::new(Severity::Error, code, message)
    }

    /// The session ends behind this message.
    pub fn fatal(code: SqlState, message: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage::new(Severity::Fatal, code, message)
    }

    /// A notice with code `00000`.
    pub fn notice(message: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
    }

    /// Adds field `D`.
    pub fn with_detail(self, detail: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage { detail: Some(detail.into()), ..self }
    }

    /// Adds field `H`.
    pub fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> ErrorMessage {
        ErrorMessage { hint: Some(hint.into()), ..self }
    }

    /// Appends it as `ErrorResponse`.
    pub fn encode_error(&self, out: &mut Vec<u8>) {
        put(out, b'E', |body| self.put_fields(body));
    }

    /// Appends it as `NoticeResponse`.
    pub fn encode_notice(&self, out: &mut Vec<u8>) {
        put(out, b'N', |body| self.put_fields(body));
    }

    fn put_fields(&self, body: &mut Vec<u8>) {
        put_field(body, b'S', self.severity.as_str().as_bytes());
        put_field(body, b'V', self.severity.as_str().as_bytes());
        put_field(body, b'C', self.code.as_bytes());
        put_field(body, b'M', self.message.as_bytes());
        if let Some(detail) = &self.detail {
            put_field(body, b'D', detail.as_bytes());
        }
        if let Some(hint) = &self.hint {
            put_field(body, b'H', hint.as_bytes());
        }
        body.push(0);
    }
}

impl fmt::Display for ErrorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)
    }
}

fn put_field(body: &mut Vec<u8>, tag: u8, value: &[u8]) {
    body.push(tag);
    put_cstr(body, value);
}

/// Appends a NUL-terminated string; a value with a NUL inside ends there, so that it can't pass for the next field.
pub(crate) fn put_cstr(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().take_while(|&&b| b != 0));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> ErrorMessage {
        ErrorMessage::fatal(SqlState::PROTOCOL_VIOLATION, "query_wait_timeout")
            .with_detail("waited 120 s")
            .with_hint("raise pool_size")
    }

    fn body(message: &ErrorMessage) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode_error(&mut out);
        assert_eq!(out[0], b'E');
        assert_eq!(i32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
        out.split_off(5)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let bytes = body(&sample());
        let fields = ErrorFields::new(&bytes);
        assert_eq!(fields.iter().map(|(tag, _)| tag).collect::<Vec<_>>(), b"SVCMDH");
        assert_eq!(fields.severity(), Some(Severity::Fatal));
        assert_eq!(fields.localized_severity().as_deref(), Some("FATAL"));
        assert_eq!(fields.code(), Some(SqlState::PROTOCOL_VIOLATION));
        assert_eq!(fields.message().as_deref(), Some("query_wait_timeout"));
        assert_eq!(fields.detail().as_deref(), Some("waited 120 s"));
        assert_eq!(fields.hint().as_deref(), Some("raise pool_size"));
        assert_eq!(fields.to_string(), sample().to_string());
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut out = Vec::new();
        ErrorMessage::notice("hi").encode_notice(&mut out);
        assert_eq!(out, b"N\0\0\0\x20SNOTICE\0VNOTICE\0C00000\0Mhi\0\0");
    }

    #[test]
    fn severity_of_old_and_translating_servers() {
        assert_eq!(ErrorFields::new(b"SERROR\0\0").severity(), Some(Severity::Error));
        assert_eq!(ErrorFields::new(b"SFEHLER\0VERROR\0\0").severity(), Some(Severity::Error));
        assert_eq!(ErrorFields::new(b"SFEHLER\0\0").severity(), None);
        for severity in Severity::ALL {
            assert_eq!(Severity::from_wire(severity.as_str().as_bytes()), Some(severity));
        }
    }

    #[test]
    fn fields_in_front_of_junk_are_read() {
        let fields = ErrorFields::new(b"C57014\0Mcut off");
        assert_eq!(fields.code(), Some(SqlState::QUERY_CANCELED));
        assert_eq!(fields.message(), None);
        assert_eq!(ErrorFields::new(b"C57014\0\0Mbehind the end\0").message(), None);
        assert_eq!(ErrorFields::new(b"Cnope\0M\xff\0\0").code(), None);
        assert_eq!(ErrorFields::new(b"Cnope\0M\xff\0\0").message().as_deref(), Some("\u{fffd}"));
        assert_eq!(ErrorFields::new(b"").to_string(), "(no message)");
    }

    #[test]
    fn a_nul_in_a_text_makes_no_field() {
        let bytes = body(&ErrorMessage::error(SqlState::INTERNAL_ERROR, "a\0C00000\0"));
        assert_eq!(ErrorFields::new(&bytes).iter().count(), 4);
        assert_eq!(ErrorFields::new(&bytes).message().as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let fields = ErrorFields::new(&bytes);
            let _ = (fields.to_string(), format!("{fields:?}"), fields.detail(), fields.hint());
        }

        #[test]
        fn any_text_comes_back(message in "[^\0]{0,60}", detail in prop::option::of("[^\0]{0,60}")) {
            let mut error = ErrorMessage::error(SqlState::INTERNAL_ERROR, message.clone());
            error.detail = detail.clone().map(Cow::Owned);
            let bytes = body(&error);
            let fields = ErrorFields::new(&bytes);
            prop_assert_eq!(fields.get(b'M'), Some(message.as_bytes()));
            prop_assert_eq!(fields.get(b'D'), detail.as_deref().map(str::as_bytes));
        }
    }
}
