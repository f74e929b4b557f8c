//! Rows that PostgreSQL answers with. Pure.

use protocol::frame::messages;

/// The values of a row, as text; `None` is NULL.
pub(crate) type Values = Vec<Option<String>>;

/// The values of the `DataRow`s among these messages.
pub(crate) fn data_rows(bytes: &[u8]) -> Vec<Values> {
    let rows = messages(bytes).filter(|(tag, _)| *tag == b'D');
    rows.map(|(_, body)| values(body).unwrap_or_default()).collect()
}

/// Of the body of a `DataRow`; `None`: it ends too early.
pub(crate) fn values(body: &[u8]) -> Option<Values> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = behind;
            continue;
        };
        let (value, behind) = behind.split_at_checked(length)?;
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = behind;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_what_is_cut_off_is_not() {
        let mut bytes = b"T\0\0\0\x06\0\0".to_vec();
        bytes.extend(b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff");
        bytes.extend(b"D\0\0\0\x0b\0\x01\0\0\0\x01");
        assert_eq!(data_rows(&bytes), [vec![Some("ab".to_owned()), None]]);
        assert!(data_rows(b"D\0\0\0\x02").is_empty());
        assert_eq!(values(b"\0\x02\0\0\0\x05ab"), None);
    }
}
