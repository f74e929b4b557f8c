//! Cutting messages out of a byte stream by their headers.
//!
//! Every message after start-up is a type byte, a big-endian length that counts itself but not the type byte, and a
//! body. A [`Cutter`] keeps only how much of the current body is still to come, so it can be fed any split of the
//! stream and never needs a message in one piece, except for the few kinds that somebody wants to look into.

/// Bytes of a message header: type and length.
pub const HEADER_LEN: usize = 5;

/// A message whose header breaks the rules. The connection can't be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The length is below 4 (it counts itself) or negative.
    BadLength {
        /// The five header bytes.
        header: [u8; HEADER_LEN],
    },
    /// The message is longer than the limit.
    TooLong {
        /// The five header bytes.
        header: [u8; HEADER_LEN],
    },
}

impl FrameError {
    /// The offending header.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        match self {
            FrameError::BadLength { header } | FrameError::TooLong { header } => header,
        }
    }
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bad packet header: '")?;
        for byte in self.header() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("'")
    }
}

impl std::error::Error for FrameError {}

/// Message kinds that must be seen in one piece, or at least so much of their body.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    tags: u128,
    max_body: u32,
    longer: (u128, u32),
}

impl Whole {
    /// No kind: every message may be cut anywhere.
    pub const NONE: Whole = Whole { tags: 0, max_body: 0, longer: (0, 0) };

    /// Every kind, however long.
    pub const ALL: Whole = Whole { tags: u128::MAX, max_body: u32::MAX, longer: (0, 0) };

    /// The given ASCII tags, up to `max_body` bytes of body; the first piece of a longer one has at least as much.
    pub const fn new(tags: &[u8], max_body: u32) -> Whole {
        Whole { tags: bits(tags), max_body, longer: (0, 0) }
    }

    /// The same with more for some of the tags.
    pub const fn with(self, tags: &[u8], max_body: u32) -> Whole {
        Whole { longer: (bits(tags), max_body), ..self }
    }

    /// How many bytes of a message's body must be there before it is begun.
    fn wants(&self, tag: u8, body: u32) -> usize {
        let bit = 1 << (tag & 0x7f);
        let max_body = match (self.tags & bit, self.longer.0 & bit) {
            (0, _) => 0,
            (_, 0) => self.max_body,
            _ => self.longer.1,
        };
        body.min(max_body) as usize
    }
}

/// One bit for each of these ASCII tags.
const fn bits(tags: &[u8]) -> u128 {
    let mut bits = 0u128;
    let mut i = 0;
    while i < tags.len() {
        bits |= 1 << (tags[i] & 0x7f);
        i += 1;
    }
    bits
}

/// The next run of bytes that belongs to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A message begins.
    Begin {
        /// Its type byte.
        tag: u8,
        /// Header and as much of the body as there is.
        bytes: &'a [u8],
        /// The whole message is in `bytes`.
        complete: bool,
    },
    /// More of the body of the message that began before.
    Rest {
        /// Body bytes.
        bytes: &'a [u8],
        /// The message ends here.
        complete: bool,
    },
}

impl<'a> Piece<'a> {
    /// The bytes of this piece.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Piece::Begin { bytes, .. } | Piece::Rest { bytes, .. } => bytes,
        }
    }
}

/// Walks one direction of a connection. Invariant: `rest` bytes of the current message's body have not been seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cutter {
    rest: u32,
}

impl Cutter {
    /// The next message starts with the next byte.
    pub fn at_boundary(&self) -> bool {
        self.rest == 0
    }

    /// Takes the next piece from the front of `input`, or `None` if `input` ends inside a header, or inside a
    /// message that `whole` wants in one piece. The caller drops the piece's bytes from `input`, keeps what is left
    /// and gives it again with more behind it. `max_len` bounds a message, its type byte included.
    ///
    /// # Errors
    /// [`FrameError`] if the header is not acceptable; the cutter must not be used again.
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        whole: &Whole,
        max_len: u32,
    ) -> Result<Option<Piece<'a>>, FrameError> {
        if self.rest > 0 {
            if input.is_empty() {
                return Ok(None);
            }
            let take = input.len().min(self.rest as usize);
            self.rest -= take as u32;
            return Ok(Some(Piece::Rest { bytes: &input[..take], complete: self.rest == 0 }));
        }
        let Some(header) = input.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let tag = header[0];
        let len = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if len < 4 {
            return Err(FrameError::BadLength { header: *header });
        }
        let len = len as u32; // checked above: not negative
        if len >= max_len {
            return Err(FrameError::TooLong { header: *header });
        }
        let body = len - 4;
        let total = HEADER_LEN + body as usize;
        if input.len() >= total {
            return Ok(Some(Piece::Begin { tag, bytes: &input[..total], complete: true }));
        }
        if input.len() - HEADER_LEN < whole.wants(tag, body) {
            return Ok(None);
        }
        self.rest = (total - input.len()) as u32;
        Ok(Some(Piece::Begin { tag, bytes: input, complete: false }))
    }
}

/// Appends one message: `body` writes what follows the header, the length is filled in behind it.
pub fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// The whole messages at the front of these bytes, by type and body. Ends before one that is not there in full, or whose
/// length is none.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let [tag, length @ ..] = *header;
        let end = (u32::from_be_bytes(length) as usize).checked_add(1)?;
        let body = bytes.get(HEADER_LEN..end)?;
        bytes = &bytes[end..];
        Some((tag, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOK: Whole = Whole::new(b"ZS", 24);

    /// What a consumer sees: per message its tag and bytes.
    fn cut(chunks: &[&[u8]], max: u32) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut cutter = Cutter::default();
        let mut held: Vec<u8> = Vec::new();
        let mut out: Vec<(u8, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            held.extend_from_slice(chunk);
            let mut at = 0;
            while let Some(piece) = cutter.next(&held[at..], &LOOK, max)? {
                at += piece.bytes().len();
                match piece {
                    Piece::Begin { tag, bytes, complete } => {
                        let body = bytes.len() - HEADER_LEN;
                        assert!(
                            complete || body >= LOOK.wants(tag, u32::MAX),
                            "a wanted message came in pieces"
                        );
                        out.push((tag, bytes.to_vec()));
                    }
                    Piece::Rest { bytes, .. } => out.last_mut().unwrap().1.extend_from_slice(bytes),
                }
            }
            held.drain(..at);
        }
        Ok(out)
    }

    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let message = (prop::sample::select(b"ZSDTQ".to_vec()), prop::collection::vec(any::<u8>(), 0..40));
        prop::collection::vec(message, 0..8).prop_map(|list| {
            let mut out = Vec::new();
            for (tag, body) in list {
                put(&mut out, tag, |b| b.extend_from_slice(&body));
            }
            out
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(bytes in messages(), cuts in prop::collection::vec(0usize..400, 0..12)) {
            let whole = cut(&[&bytes], u32::MAX).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for c in cuts { chunks.push(&bytes[from..c]); from = c; }
            chunks.push(&bytes[from..]);
            prop_assert_eq!(cut(&chunks, u32::MAX).unwrap(), whole);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = cut(&[&bytes], 1 << 20);
        }
    }

    #[test]
    fn lengths_that_no_message_has_are_refused() {
        for len in [0i32, 3, -1, i32::MIN] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&len.to_be_bytes());
            assert!(matches!(cut(&[&bytes], u32::MAX), Err(FrameError::BadLength { .. })), "{len}");
        }
        let mut bytes = vec![b'Q'];
        bytes.extend_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(cut(&[&bytes], 1 << 20), Err(FrameError::TooLong { .. })));
        assert_eq!(cut(&[&bytes], 1 << 20).unwrap_err().to_string(), "bad packet header: '517fffffff'");
    }

    #[test]
    fn whole_messages_only() {
        let of = |bytes| super::messages(bytes).map(|(tag, body)| (tag, body.len())).collect::<Vec<_>>();
        assert_eq!(of(b"S\0\0\0\x04Q\0\0\0\x06a\0"), [(b'S', 0), (b'Q', 2)]);
        assert_eq!(of(b"S\0\0\0\x04Q\0\0\0\x06a"), [(b'S', 0)], "its end is not there");
        for bytes in [&b""[..], b"S\0\0\0", b"S\0\0\0\x03", b"S\xff\xff\xff\xff"] {
            assert_eq!(of(bytes), []);
        }
    }

    #[test]
    fn the_limit_counts_the_type_byte() {
        let mut bytes = Vec::new();
        put(&mut bytes, b'Q', |b| b.extend_from_slice(&[0; 5])); // 10 bytes in all
        assert!(cut(&[&bytes], 10).is_ok());
        assert!(cut(&[&bytes], 9).is_err());
    }
}
