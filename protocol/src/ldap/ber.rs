//! BER as LDAP restricts it: definite lengths, tags of one byte.

use std::fmt;

/// Longest message that is read, in bytes. Only names are asked for, so that a longer one is none of those expected.
pub const MOST_REPLY: usize = 64 << 10;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const SEQUENCE: u8 = 0x30;

/// Bytes that are no LDAP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is no LDAP message that fits")
    }
}

impl std::error::Error for Malformed {}

/// How many bytes the first message of `input` takes; `None` while more of it has to come.
///
/// # Errors
/// What begins there can't be a message, or is one of more than [`MOST_REPLY`] bytes.
pub fn frame(input: &[u8]) -> Result<Option<usize>, Malformed> {
    match input.first() {
        None => return Ok(None),
        Some(&SEQUENCE) => {}
        Some(_) => return Err(Malformed),
    }
    let Some((len, header)) = length(&input[1..])? else { return Ok(None) };
    let whole = 1 + header + len;
    if whole > MOST_REPLY {
        return Err(Malformed);
    }
    Ok((input.len() >= whole).then_some(whole))
}

/// A length, and how many bytes it takes; `None` if they are not all there.
fn length(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some(&first) = input.first() else { return Ok(None) };
    match first {
        0..=0x7f => Ok(Some((first.into(), 1))),
        0x81..=0x84 => {
            let more = usize::from(first & 0x7f);
            let bytes = input.get(1..=more);
            Ok(bytes.map(|b| (b.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), 1 + more)))
        }
        _ => Err(Malformed), // indefinite, or longer than any message
    }
}

/// Takes elements from the front of its bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element's tag and content.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        let (len, header) = length(rest)?.ok_or(Malformed)?;
        let content = rest.get(header..).and_then(|rest| rest.get(..len)).ok_or(Malformed)?;
        self.0 = &rest[header + len..];
        Ok((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed),
        }
    }

    /// A number that is not negative and fits in 31 bits.
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, Malformed> {
        match self.expect(tag)? {
            content @ ([0..0x80] | [0..0x80, _] | [0..0x80, _, _] | [0..0x80, _, _, _]) => {
                Ok(content.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
            }
            _ => Err(Malformed),
        }
    }
}

/// Appends a primitive element.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    match content.len() {
        len @ 0..0x80 => out.push(len as u8),
        len => put_long(out, len),
    }
    out.extend_from_slice(content);
}

/// Appends an element of others. Its length takes five bytes whatever it is, which BER allows.
pub(super) fn nest(out: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    put_long(out, 0);
    let start = out.len();
    content(out);
    let len = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&len.to_be_bytes());
}

fn put_long(out: &mut Vec<u8>, len: usize) {
    out.push(0x84);
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

pub(super) fn put_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let bytes = number.to_be_bytes();
    let zeros = bytes.iter().take(3).take_while(|byte| **byte == 0).count();
    // One zero more where the number would otherwise look negative.
    let sign = usize::from(bytes[zeros] >= 0x80);
    let mut content = [0; 5];
    content[sign..sign + 4 - zeros].copy_from_slice(&bytes[zeros..]);
    put(out, tag, &content[..sign + 4 - zeros]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 255, 256, 32767, 32768, 0x7f_ffff, 0x80_0000, 0x7fff_ffff] {
            let mut out = Vec::new();
            put_number(&mut out, INTEGER, number);
            assert_eq!(Reader(&out).number(INTEGER), Ok(number), "{number}");
        }
        assert_eq!(Reader(&[2, 1, 0x80]).number(INTEGER), Err(Malformed), "negative");
        assert_eq!(Reader(&[2, 0]).number(INTEGER), Err(Malformed), "nothing");
        assert_eq!(Reader(&[2, 5, 0, 0, 0, 0, 1]).number(INTEGER), Err(Malformed), "too long");
    }

    #[test]
    fn a_frame_is_whole_or_incomplete_or_none() {
        let mut message = Vec::new();
        nest(&mut message, SEQUENCE, |out| put(out, OCTETS, &[7; 200]));
        for cut in 0..message.len() {
            assert_eq!(frame(&message[..cut]), Ok(None), "{cut}");
        }
        let whole = message.len();
        message.push(9);
        assert_eq!(frame(&message), Ok(Some(whole)));
        for bad in
            [&b"\x31\x00"[..], b"\x30\x80", b"\x30\x85\0\0\0\0\x01", b"\x30\x84\x7f\xff\xff\xff", b"HTTP/1.1"]
        {
            assert_eq!(frame(bad), Err(Malformed), "{bad:x?}");
        }
    }
}
