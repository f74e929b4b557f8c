//! What PostgreSQL answers to `auth_query`. Pure.

use protocol::frame::HEADER_LEN;

use super::Found;
use crate::config::Secret;

/// Two columns are asked for.
const COLUMNS: u16 = 2;

/// What is wrong with an answer; why its server is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has so many columns.
    Columns(u16),
    NullName,
    /// A text that is none, or a row that is not as it was announced.
    Malformed,
}

impl Fault {
    /// In PgBouncer's words.
    pub(super) fn text(self) -> String {
        match self {
            Fault::Columns(count) => format!("expected {COLUMNS} columns from auth_query, not {count}"),
            Fault::NullName => "auth_query response contained null user name".to_owned(),
            Fault::Malformed => "malformed auth_query response".to_owned(),
        }
    }
}

/// The user in the last row of these messages, which are whole; `None`: there is no row.
pub(super) fn read(mut messages: &[u8]) -> Result<Option<Found>, Fault> {
    let mut columns = 0;
    let mut last = None;
    while let Some((header, rest)) = messages.split_first_chunk::<HEADER_LEN>() {
        let [tag, a, b, c, d] = *header;
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(HEADER_LEN - 1);
        let (body, behind) =
            length.and_then(|length| rest.split_at_checked(length)).ok_or(Fault::Malformed)?;
        match tag {
            b'T' => columns = count(body)?,
            b'D' if columns == COLUMNS => last = Some(row(body)?),
            _ => {}
        }
        messages = behind;
    }
    if columns == COLUMNS { Ok(last) } else { Err(Fault::Columns(columns)) }
}

fn count(body: &[u8]) -> Result<u16, Fault> {
    body.first_chunk().map(|count| u16::from_be_bytes(*count)).ok_or(Fault::Malformed)
}

fn row(body: &[u8]) -> Result<Found, Fault> {
    let rest = body.get(2..).filter(|_| count(body) == Ok(COLUMNS)).ok_or(Fault::Malformed)?;
    let (user, rest) = value(rest)?;
    let (secret, _) = value(rest)?;
    Ok(Found { user: user.ok_or(Fault::NullName)?.to_owned(), secret: secret.map(Secret::new) })
}

/// A value, `None` for NULL, and what is behind it.
fn value(bytes: &[u8]) -> Result<(Option<&str>, &[u8]), Fault> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Fault::Malformed)?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Ok((None, rest)) };
    let (value, rest) = rest.split_at_checked(length).ok_or(Fault::Malformed)?;
    Ok((Some(std::str::from_utf8(value).map_err(|_| Fault::Malformed)?), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::put;

    fn described(columns: u16, rows: &[&[Option<&str>]]) -> Vec<u8> {
        let mut out = b"1\0\0\0\x042\0\0\0\x04".to_vec();
        put(&mut out, b'T', |out| out.extend(columns.to_be_bytes()));
        for row in rows {
            put(&mut out, b'D', |out| {
                out.extend((row.len() as u16).to_be_bytes());
                for value in *row {
                    out.extend(value.map_or(-1, |value| value.len() as i32).to_be_bytes());
                    out.extend(value.unwrap_or_default().as_bytes());
                }
            });
        }
        put(&mut out, b'C', |out| out.extend(b"SELECT 1\0"));
        out
    }

    fn found(user: &str, secret: Option<&str>) -> Result<Option<Found>, Fault> {
        Ok(Some(Found { user: user.to_owned(), secret: secret.map(Secret::new) }))
    }

    #[test]
    fn the_last_row_counts() {
        assert_eq!(read(&described(2, &[])), Ok(None));
        assert_eq!(read(&described(2, &[&[Some("a"), Some("pw")]])), found("a", Some("pw")));
        let rows: [&[_]; 2] = [&[Some("a"), Some("pw")], &[Some("b"), None]];
        assert_eq!(read(&described(2, &rows)), found("b", None));
        assert_eq!(read(&described(2, &[&[Some("a"), Some("")]])), found("a", Some("")));
    }

    #[test]
    fn what_no_user_can_be_read_from() {
        assert_eq!(read(&described(1, &[&[Some("a")]])), Err(Fault::Columns(1)));
        assert_eq!(read(&described(3, &[])), Err(Fault::Columns(3)));
        assert_eq!(read(b"1\0\0\0\x04n\0\0\0\x04"), Err(Fault::Columns(0)));
        assert_eq!(read(&described(2, &[&[None, Some("pw")]])), Err(Fault::NullName));
        assert_eq!(read(&described(2, &[&[Some("a")]])), Err(Fault::Malformed));
        let mut cut = described(2, &[&[Some("a"), Some("pw")]]);
        cut.truncate(cut.len() - 3);
        assert_eq!(read(&cut), Err(Fault::Malformed));
        let latin1 = [&described(2, &[])[..], b"D\0\0\0\x0f\0\x02\0\0\0\x01\xe4\xff\xff\xff\xff"].concat();
        assert_eq!(read(&latin1), Err(Fault::Malformed));
    }
}
