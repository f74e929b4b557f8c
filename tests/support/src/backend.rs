//! Bytes of the messages that a server sends, for scripted servers.

use crate::frontend::{put_text, put_value, raw, tagged};
use crate::message::CancelKey;

/// AuthenticationOk.
pub fn authentication_ok() -> Vec<u8> {
    raw(b'R', &0_u32.to_be_bytes())
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext() -> Vec<u8> {
    raw(b'R', &3_u32.to_be_bytes())
}

/// AuthenticationMD5Password.
pub fn authentication_md5(salt: [u8; 4]) -> Vec<u8> {
    authentication(5, &salt)
}

/// Any Authentication message: 10 is SASL, 11 SASLContinue, 12 SASLFinal.
pub fn authentication(kind: u32, data: &[u8]) -> Vec<u8> {
    tagged(b'R', |body| {
        body.extend(kind.to_be_bytes());
        body.extend(data);
    })
}

/// ParameterStatus.
pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    tagged(b'S', |body| {
        put_text(body, name);
        put_text(body, value);
    })
}

/// BackendKeyData.
pub fn key_data(key: &CancelKey) -> Vec<u8> {
    tagged(b'K', |body| {
        body.extend(key.pid.to_be_bytes());
        body.extend(&key.secret);
    })
}

/// ReadyForQuery: `b'I'`, `b'T'` or `b'E'`.
pub fn ready(status: u8) -> Vec<u8> {
    raw(b'Z', &[status])
}

/// RowDescription of text columns (type `text`).
pub fn row_description(names: &[&str]) -> Vec<u8> {
    const TEXT: u32 = 25;
    tagged(b'T', |body| {
        body.extend((names.len() as u16).to_be_bytes());
        for name in names {
            put_text(body, name);
            body.extend([0; 6]); // table, attribute
            body.extend(TEXT.to_be_bytes());
            body.extend((-1_i16).to_be_bytes());
            body.extend((-1_i32).to_be_bytes());
            body.extend([0; 2]); // text format
        }
    })
}

/// DataRow of text values; `None` is NULL.
pub fn row(values: &[Option<&str>]) -> Vec<u8> {
    tagged(b'D', |body| {
        body.extend((values.len() as u16).to_be_bytes());
        values.iter().for_each(|value| put_value(body, value.map(str::as_bytes)));
    })
}

/// CommandComplete.
pub fn command_complete(tag: &str) -> Vec<u8> {
    tagged(b'C', |body| put_text(body, tag))
}

/// A whole reply to a simple query that yields one row with one text value.
pub fn one_value(value: &str) -> Vec<u8> {
    [row_description(&["value"]), row(&[Some(value)]), command_complete("SELECT 1"), ready(b'I')].concat()
}

/// ErrorResponse.
pub fn error(severity: &str, code: &str, message: &str) -> Vec<u8> {
    report(b'E', severity, code, message)
}

/// NoticeResponse.
pub fn notice(severity: &str, code: &str, message: &str) -> Vec<u8> {
    report(b'N', severity, code, message)
}

/// NotificationResponse.
pub fn notification(pid: i32, channel: &str, payload: &str) -> Vec<u8> {
    tagged(b'A', |body| {
        body.extend(pid.to_be_bytes());
        put_text(body, channel);
        put_text(body, payload);
    })
}

/// EmptyQueryResponse.
pub fn empty_query() -> Vec<u8> {
    raw(b'I', &[])
}

/// ParseComplete.
pub fn parse_complete() -> Vec<u8> {
    raw(b'1', &[])
}

/// BindComplete.
pub fn bind_complete() -> Vec<u8> {
    raw(b'2', &[])
}

/// CloseComplete.
pub fn close_complete() -> Vec<u8> {
    raw(b'3', &[])
}

/// NoData.
pub fn no_data() -> Vec<u8> {
    raw(b'n', &[])
}

/// CopyInResponse: text, `columns` columns.
pub fn copy_in(columns: u16) -> Vec<u8> {
    copy_response(b'G', columns)
}

/// CopyOutResponse: text, `columns` columns.
pub fn copy_out(columns: u16) -> Vec<u8> {
    copy_response(b'H', columns)
}

/// NegotiateProtocolVersion.
pub fn negotiate_version(version: u32, unknown: &[&str]) -> Vec<u8> {
    tagged(b'v', |body| {
        body.extend(version.to_be_bytes());
        body.extend((unknown.len() as u32).to_be_bytes());
        unknown.iter().for_each(|name| put_text(body, name));
    })
}

fn copy_response(tag: u8, columns: u16) -> Vec<u8> {
    tagged(tag, |body| {
        body.push(0);
        body.extend(columns.to_be_bytes());
        body.extend(vec![0; usize::from(columns) * 2]);
    })
}

fn report(tag: u8, severity: &str, code: &str, message: &str) -> Vec<u8> {
    tagged(tag, |body| {
        for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)] {
            body.push(field);
            put_text(body, value);
        }
        body.push(0);
    })
}
