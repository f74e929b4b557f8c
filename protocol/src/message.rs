//! Messages that the pooler itself writes, and the few it reads.

use std::borrow::Cow;

use crate::frame::put;

/// Transaction status, as `ReadyForQuery` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TxStatus {
    /// `I`: outside a transaction block.
    Idle,
    /// `T`: in a transaction block.
    Open,
    /// `E`: in a transaction block that failed; only its end is accepted.
    Failed,
}

impl TxStatus {
    /// Reads the status byte; `None` if it is none of the three.
    pub fn from_byte(byte: u8) -> Option<TxStatus> {
        match byte {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::Open),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        }
    }

    /// The status byte.
    pub fn as_byte(self) -> u8 {
        match self {
            TxStatus::Idle => b'I',
            TxStatus::Open => b'T',
            TxStatus::Failed => b'E',
        }
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    // A NUL would end the string early and shift what follows; none of ours has one, a client's can't (it was cut
    // at its NUL).
    out.extend(text.bytes().filter(|&b| b != 0));
    out.push(0);
}

/// `Query`: a simple query. Sent to servers for the pooler's own statements.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    put(out, b'Q', |b| put_str(b, sql));
}

/// `Sync`.
pub fn sync(out: &mut Vec<u8>) {
    put(out, b'S', |_| {});
}

/// `Flush`.
pub fn flush(out: &mut Vec<u8>) {
    put(out, b'H', |_| {});
}

/// `CopyFail` with a reason.
pub fn copy_fail(out: &mut Vec<u8>, reason: &str) {
    put(out, b'f', |b| put_str(b, reason));
}

/// `Terminate`.
pub fn terminate(out: &mut Vec<u8>) {
    put(out, b'X', |_| {});
}

/// `ReadyForQuery`.
pub fn ready_for_query(out: &mut Vec<u8>, status: TxStatus) {
    put(out, b'Z', |b| b.push(status.as_byte()));
}

/// `ParameterStatus`.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, b'S', |b| {
        put_str(b, name);
        put_str(b, value);
    });
}

/// `BackendKeyData`: process id and secret (4 bytes in protocol 3.0, up to 256 in 3.2).
pub fn backend_key_data(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    put(out, b'K', |b| {
        b.extend_from_slice(&pid.to_be_bytes());
        b.extend_from_slice(secret);
    });
}

/// `CommandComplete`.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, b'C', |b| put_str(b, tag));
}

/// Reads the body of a `ParameterStatus`. `None` if it is not two NUL-terminated strings. They are in the client's
/// encoding; what is not UTF-8 is replaced, which no tracked parameter needs.
pub fn read_parameter_status(body: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let mut parts = body.strip_suffix(&[0])?.split(|&b| b == 0);
    let (name, value, rest) = (parts.next()?, parts.next()?, parts.next());
    rest.is_none().then(|| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
}

/// Reads the body of a `BackendKeyData`: process id and a secret of 4 to 256 bytes.
pub fn read_backend_key_data(body: &[u8]) -> Option<(u32, &[u8])> {
    let (pid, secret) = body.split_first_chunk::<4>()?;
    (4..=256).contains(&secret.len()).then_some((u32::from_be_bytes(*pid), secret))
}

/// Reads the body of a `ReadyForQuery`.
pub fn read_ready_for_query(body: &[u8]) -> Option<TxStatus> {
    match body {
        [byte] => TxStatus::from_byte(*byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_messages_can_be_read() {
        let mut out = Vec::new();
        parameter_status(&mut out, "TimeZone", "Etc/UTC");
        assert_eq!(read_parameter_status(&out[5..]), Some(("TimeZone".into(), "Etc/UTC".into())));
        out.clear();
        backend_key_data(&mut out, 7, &[1; 32]);
        assert_eq!(read_backend_key_data(&out[5..]), Some((7, &[1u8; 32][..])));
        out.clear();
        ready_for_query(&mut out, TxStatus::Failed);
        assert_eq!(read_ready_for_query(&out[5..]), Some(TxStatus::Failed));
    }

    #[test]
    fn junk_is_not_read() {
        for body in [&b""[..], b"\0", b"a\0b", b"a\0b\0c\0"] {
            assert_eq!(read_parameter_status(body), None, "{body:?}");
        }
        assert_eq!(read_backend_key_data(&[0; 7]), None);
        assert_eq!(read_backend_key_data(&[0; 261]), None);
        assert_eq!(read_ready_for_query(b"IT"), None);
    }
}
