//! One message of the protocol, kept as the bytes that were sent and shown decoded.

use std::fmt;

/// Who sends a message; the same tag means different things in the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client.
    Frontend,
    /// A server.
    Backend,
}

/// A message with its tag; the length is that of the body. Its `Debug` output is made for assertion failures.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub side: Side,
    /// The message type.
    pub tag: u8,
    /// Everything behind the length.
    pub body: Vec<u8>,
}

/// The fields of an ErrorResponse or NoticeResponse, in the order in which they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Fields(pub Vec<(u8, String)>);

impl Fields {
    /// The value of one field (`b'C'` is the SQLSTATE), empty if it is missing.
    pub fn get(&self, field: u8) -> &str {
        self.0.iter().find(|(name, _)| *name == field).map_or("", |(_, value)| value)
    }

    /// SQLSTATE.
    pub fn code(&self) -> &str {
        self.get(b'C')
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        self.get(b'M')
    }

    /// `ERROR`, `FATAL`, ... as localized for the client.
    pub fn severity(&self) -> &str {
        self.get(b'S')
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.severity(), self.code(), self.message())?;
        let rest = self.0.iter().filter(|(name, _)| !b"SVCM".contains(name));
        for (name, value) in rest {
            write!(f, " {}={value:?}", *name as char)?;
        }
        Ok(())
    }
}

/// A column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The table it comes from, or 0.
    pub table_oid: u32,
    /// The type's oid.
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: i16,
}

impl Message {
    /// A server's message.
    pub fn backend(tag: u8, body: impl Into<Vec<u8>>) -> Message {
        Message { side: Side::Backend, tag, body: body.into() }
    }

    /// A client's message.
    pub fn frontend(tag: u8, body: impl Into<Vec<u8>>) -> Message {
        Message { side: Side::Frontend, tag, body: body.into() }
    }

    /// The bytes as sent: tag, length, body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag];
        bytes.extend(((self.body.len() + 4) as u32).to_be_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// The transaction status, if this is ReadyForQuery.
    pub fn ready(&self) -> Option<u8> {
        (self.tag == b'Z').then(|| self.body.first().copied()).flatten()
    }

    /// The fields, if this is an ErrorResponse.
    pub fn error(&self) -> Option<Fields> {
        (self.tag == b'E').then(|| fields(&self.body)).flatten()
    }

    /// The fields, if this is a NoticeResponse.
    pub fn notice(&self) -> Option<Fields> {
        (self.tag == b'N').then(|| fields(&self.body)).flatten()
    }

    /// The command tag, if this is CommandComplete.
    pub fn command(&self) -> Option<String> {
        (self.tag == b'C').then(|| Reader(&self.body).text()).flatten()
    }

    /// The values, if this is a DataRow; `None` is NULL.
    pub fn row(&self) -> Option<Vec<Option<Vec<u8>>>> {
        (self.tag == b'D').then(|| row(&self.body)).flatten()
    }

    /// The columns, if this is a RowDescription.
    pub fn columns(&self) -> Option<Vec<Column>> {
        (self.tag == b'T').then(|| columns(&self.body)).flatten()
    }

    /// Name and value, if this is a ParameterStatus.
    pub fn parameter(&self) -> Option<(String, String)> {
        let mut reader = Reader(&self.body);
        (self.tag == b'S').then(|| Some((reader.text()?, reader.text()?))).flatten()
    }

    /// Process id and secret, if this is BackendKeyData.
    pub fn key(&self) -> Option<CancelKey> {
        let mut reader = Reader(&self.body);
        (self.tag == b'K').then(|| Some(CancelKey { pid: reader.i32()?, secret: reader.rest() })).flatten()
    }
}

/// What a CancelRequest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The process id, or what the pooler gives in its place.
    pub pid: i32,
    /// 4 bytes; up to 256 since protocol 3.2.
    pub secret: Vec<u8>,
}

/// Reads a body front to back; `None` where it ends too early.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head.to_vec())
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// A string that ends with a zero byte.
    pub(crate) fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.bytes(end)?;
        self.u8()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// A value with its length in front; the outer `None` is a malformed body, the inner one NULL.
    fn value(&mut self) -> Option<Option<Vec<u8>>> {
        match self.i32()? {
            -1 => Some(None),
            length => Some(Some(self.bytes(usize::try_from(length).ok()?)?)),
        }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.i16()?;
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

fn fields(body: &[u8]) -> Option<Fields> {
    let mut reader = Reader(body);
    let mut fields = Vec::new();
    loop {
        match reader.u8()? {
            0 => return Some(Fields(fields)),
            name => fields.push((name, reader.text()?)),
        }
    }
}

fn row(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    Reader(body).list(Reader::value)
}

fn columns(body: &[u8]) -> Option<Vec<Column>> {
    Reader(body).list(|reader| {
        let name = reader.text()?;
        let table_oid = reader.i32()? as u32;
        reader.bytes(2)?; // attribute number
        let type_oid = reader.i32()? as u32;
        reader.bytes(6)?; // type size and modifier
        Some(Column { name, table_oid, type_oid, format: reader.i16()? })
    })
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.side {
            Side::Frontend => frontend_name(self.tag),
            Side::Backend => backend_name(self.tag),
        };
        let detail = match self.side {
            Side::Frontend => frontend_detail(self.tag, &self.body),
            Side::Backend => self.backend_detail(),
        };
        match detail {
            Some(text) if text.is_empty() => f.write_str(name),
            Some(text) => write!(f, "{name} {text}"),
            None => write!(f, "{name}({:?}) malformed {}", self.tag as char, Bytes(&self.body)),
        }
    }
}

impl Message {
    /// `None`: the body is not what the tag promises.
    fn backend_detail(&self) -> Option<String> {
        let mut reader = Reader(&self.body);
        Some(match self.tag {
            b'E' | b'N' => format!("{:?}", fields(&self.body)?),
            b'Z' => (reader.u8()? as char).to_string(),
            b'C' => reader.text()?,
            b'S' => format!("{}={}", reader.text()?, reader.text()?),
            b'K' => {
                let key = self.key()?;
                format!("pid {} secret {}", key.pid, Bytes(&key.secret))
            }
            b'R' => authentication(reader.i32()?),
            b'A' => format!("pid {} {:?} {:?}", reader.i32()?, reader.text()?, reader.text()?),
            b'D' => values(&row(&self.body)?),
            b'T' => {
                let show = |c: &Column| {
                    format!(
                        "{}:{} of {}{}",
                        c.name,
                        c.type_oid,
                        c.table_oid,
                        ["", " binary"][c.format as usize & 1]
                    )
                };
                columns(&self.body)?.iter().map(show).collect::<Vec<_>>().join(", ")
            }
            b't' => format!("{:?}", reader.list(Reader::i32)?),
            b'd' => Bytes(&self.body).to_string(),
            b'G' | b'H' | b'W' => format!("format {} columns {}", reader.u8()?, reader.i16()?),
            b'V' => reader.value()?.map_or("NULL".to_string(), |value| Bytes(&value).to_string()),
            b'v' => {
                let version = reader.i32()?;
                let names: Option<Vec<String>> = (0..reader.i32()?).map(|_| reader.text()).collect();
                format!("{}.{} without {:?}", version >> 16, version & 0xffff, names?)
            }
            b'1' | b'2' | b'3' | b'c' | b'I' | b'n' | b's' => String::new(),
            _ => Bytes(&self.body).to_string(),
        })
    }
}

fn authentication(kind: i32) -> String {
    match kind {
        0 => "ok".into(),
        3 => "cleartext".into(),
        5 => "md5".into(),
        10 => "SASL".into(),
        11 => "SASL continue".into(),
        12 => "SASL final".into(),
        other => other.to_string(),
    }
}

fn frontend_detail(tag: u8, body: &[u8]) -> Option<String> {
    let mut reader = Reader(body);
    Some(match tag {
        b'Q' => format!("{:?}", reader.text()?),
        b'P' => format!("{:?} {:?} types {:?}", reader.text()?, reader.text()?, reader.list(Reader::i32)?),
        b'B' => {
            let names = format!("portal {:?} of {:?}", reader.text()?, reader.text()?);
            reader.list(Reader::i16)?;
            format!("{names} {}", values(&reader.list(Reader::value)?))
        }
        b'D' | b'C' => format!("{} {:?}", reader.u8()? as char, reader.text()?),
        b'E' => format!("{:?} rows {}", reader.text()?, reader.i32()?),
        b'f' => format!("{:?}", reader.text()?),
        b'S' | b'H' | b'X' | b'c' => String::new(),
        _ => Bytes(body).to_string(),
    })
}

fn values(values: &[Option<Vec<u8>>]) -> String {
    let show = |value: &Option<Vec<u8>>| match value {
        Some(bytes) => Bytes(bytes).to_string(),
        None => "NULL".to_string(),
    };
    format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn frontend_name(tag: u8) -> &'static str {
    match tag {
        b'Q' => "Query",
        b'P' => "Parse",
        b'B' => "Bind",
        b'D' => "Describe",
        b'E' => "Execute",
        b'C' => "Close",
        b'S' => "Sync",
        b'H' => "Flush",
        b'X' => "Terminate",
        b'F' => "FunctionCall",
        b'd' => "CopyData",
        b'c' => "CopyDone",
        b'f' => "CopyFail",
        b'p' => "Password",
        _ => "Unknown",
    }
}

fn backend_name(tag: u8) -> &'static str {
    match tag {
        b'R' => "Authentication",
        b'K' => "BackendKeyData",
        b'S' => "ParameterStatus",
        b'Z' => "ReadyForQuery",
        b'T' => "RowDescription",
        b't' => "ParameterDescription",
        b'n' => "NoData",
        b'D' => "DataRow",
        b'C' => "CommandComplete",
        b'I' => "EmptyQueryResponse",
        b'E' => "ErrorResponse",
        b'N' => "NoticeResponse",
        b'A' => "NotificationResponse",
        b'1' => "ParseComplete",
        b'2' => "BindComplete",
        b'3' => "CloseComplete",
        b's' => "PortalSuspended",
        b'G' => "CopyInResponse",
        b'H' => "CopyOutResponse",
        b'W' => "CopyBothResponse",
        b'd' => "CopyData",
        b'c' => "CopyDone",
        b'V' => "FunctionCallResponse",
        b'v' => "NegotiateProtocolVersion",
        _ => "Unknown",
    }
}

/// Bytes as text where they are text, cut at a length that still fits a line; what is cut shows as a hash.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        write!(f, "\"{}\"", self.0[..self.0.len().min(SHOWN)].escape_ascii())?;
        if self.0.len() > SHOWN {
            let hash = self.0.iter().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193) // FNV-1a
            });
            write!(f, "... {} bytes #{hash:08x}", self.0.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend, frontend};

    fn shown(side: Side, bytes: &[u8]) -> String {
        format!("{:?}", Message { side, tag: bytes[0], body: bytes[5..].to_vec() })
    }

    #[test]
    fn messages_are_shown_decoded() {
        let server = |bytes: Vec<u8>| shown(Side::Backend, &bytes);
        let client = |bytes: Vec<u8>| shown(Side::Frontend, &bytes);
        assert_eq!(server(backend::ready(b'I')), "ReadyForQuery I");
        assert_eq!(server(backend::row(&[Some("a"), None])), r#"DataRow ["a", NULL]"#);
        assert_eq!(server(backend::error("ERROR", "42601", "no")), r#"ErrorResponse ERROR 42601 "no""#);
        assert_eq!(client(frontend::query("select 1")), r#"Query "select 1""#);
        assert_eq!(client(frontend::bind("", "s", &[Some("1")])), r#"Bind portal "" of "s" ["1"]"#);
        assert_eq!(shown(Side::Backend, b"Z\0\0\0\x04"), r#"ReadyForQuery('Z') malformed """#);
    }
}
