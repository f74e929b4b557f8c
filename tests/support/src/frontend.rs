//! Bytes of the messages that a client sends.

use crate::message::CancelKey;

/// Protocol 3.0.
pub const VERSION_3_0: u32 = 3 << 16;
/// Protocol 3.2: longer cancel keys.
pub const VERSION_3_2: u32 = 3 << 16 | 2;

/// StartupMessage. `params` includes `user` and `database`.
pub fn startup(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in params {
        put_text(&mut body, name);
        put_text(&mut body, value);
    }
    body.push(0);
    untagged(&body)
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

/// GSSENCRequest.
pub fn gssenc_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

/// CancelRequest.
pub fn cancel_request(key: &CancelKey) -> Vec<u8> {
    let mut body = 80_877_102_u32.to_be_bytes().to_vec();
    body.extend(key.pid.to_be_bytes());
    body.extend(&key.secret);
    untagged(&body)
}

/// PasswordMessage, for clear text and MD5.
pub fn password(text: &str) -> Vec<u8> {
    tagged(b'p', |body| put_text(body, text))
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    tagged(b'p', |body| {
        put_text(body, mechanism);
        body.extend((data.len() as u32).to_be_bytes());
        body.extend(data);
    })
}

/// SASLResponse.
pub fn sasl_response(data: &[u8]) -> Vec<u8> {
    raw(b'p', data)
}

/// Query: the simple protocol.
pub fn query(sql: &str) -> Vec<u8> {
    tagged(b'Q', |body| put_text(body, sql))
}

/// Parse. `types` may be shorter than the parameters; 0 leaves one open.
pub fn parse(statement: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    tagged(b'P', |body| {
        put_text(body, statement);
        put_text(body, sql);
        body.extend((types.len() as u16).to_be_bytes());
        types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    })
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_with_formats(portal, statement, &[], &values, &[])
}

/// Bind with format codes: none (all text), one for all, or one each.
pub fn bind_with_formats(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
    results: &[u16],
) -> Vec<u8> {
    tagged(b'B', |body| {
        put_text(body, portal);
        put_text(body, statement);
        put_u16s(body, formats);
        body.extend((values.len() as u16).to_be_bytes());
        values.iter().for_each(|value| put_value(body, *value));
        put_u16s(body, results);
    })
}

/// Describe of a prepared statement.
pub fn describe_statement(name: &str) -> Vec<u8> {
    named(b'D', b'S', name)
}

/// Describe of a portal.
pub fn describe_portal(name: &str) -> Vec<u8> {
    named(b'D', b'P', name)
}

/// Close of a prepared statement.
pub fn close_statement(name: &str) -> Vec<u8> {
    named(b'C', b'S', name)
}

/// Close of a portal.
pub fn close_portal(name: &str) -> Vec<u8> {
    named(b'C', b'P', name)
}

/// Execute; 0 rows is all of them.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    tagged(b'E', |body| {
        put_text(body, portal);
        body.extend(rows.to_be_bytes());
    })
}

/// Sync.
pub fn sync() -> Vec<u8> {
    raw(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    raw(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    raw(b'X', &[])
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    raw(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    raw(b'c', &[])
}

/// CopyFail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    tagged(b'f', |body| put_text(body, reason))
}

/// FunctionCall with binary arguments and a binary result.
pub fn function_call(oid: u32, arguments: &[Option<&[u8]>]) -> Vec<u8> {
    tagged(b'F', |body| {
        body.extend(oid.to_be_bytes());
        put_u16s(body, &[1]);
        body.extend((arguments.len() as u16).to_be_bytes());
        arguments.iter().for_each(|value| put_value(body, *value));
        body.extend(1_u16.to_be_bytes());
    })
}

/// Any tag with any body, with the right length.
pub fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
    tagged(tag, |message| message.extend(body))
}

pub(crate) fn tagged(tag: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = vec![tag, 0, 0, 0, 0];
    fill(&mut message);
    let length = (message.len() - 1) as u32;
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message
}

fn untagged(body: &[u8]) -> Vec<u8> {
    let mut packet = ((body.len() + 4) as u32).to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    tagged(tag, |body| {
        body.push(kind);
        put_text(body, name);
    })
}

pub(crate) fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(text.as_bytes());
    body.push(0);
}

pub(crate) fn put_value(body: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => body.extend((-1_i32).to_be_bytes()),
        Some(bytes) => {
            body.extend((bytes.len() as u32).to_be_bytes());
            body.extend(bytes);
        }
    }
}

fn put_u16s(body: &mut Vec<u8>, numbers: &[u16]) {
    body.extend((numbers.len() as u16).to_be_bytes());
    numbers.iter().for_each(|number| body.extend(number.to_be_bytes()));
}
