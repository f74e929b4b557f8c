use protocol::frame::{Cutter, FrameError, HEADER_LEN, Piece, Whole};

use crate::input::Input;

/// Types wanted in one piece in this target.
const WANTED: &[u8] = b"ZSQ";

/// A stream of messages, right and wrong ones, cut once as a whole and once in chunks: both must give the same.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let max_len = [12, 40, 200, u32::MAX][input.below(4)];
    let max_body = u32::from(input.byte() % 64);
    let chunks: Vec<usize> = (0..8).map(|_| 1 + usize::from(input.byte() % 32)).collect();
    let stream = stream(input);
    let wanted = Whole::new(WANTED, max_body);

    let all_at_once = cut(&stream, &[stream.len().max(1)], &wanted, max_body, max_len);
    let in_chunks = cut(&stream, &chunks, &wanted, max_body, max_len);
    assert_eq!(all_at_once, in_chunks);
}

/// Turns what is left of the input into a stream: mostly well-formed short messages.
fn stream(mut input: Input) -> Vec<u8> {
    let mut out = Vec::new();
    while !input.is_empty() {
        let tag = input.byte();
        if tag == 0xff {
            out.extend_from_slice(input.take(HEADER_LEN));
            continue;
        }
        let len = usize::from(input.byte() % 80);
        let body = input.take(len);
        out.push(tag);
        out.extend_from_slice(&(4 + len as u32).to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}

/// What a reader of the pieces sees: messages (the last perhaps in part), and the error that ended them.
type Seen = (Vec<(u8, Vec<u8>, bool)>, Option<FrameError>);

/// Feeds the stream in chunks of these sizes, again and again.
fn cut(stream: &[u8], sizes: &[usize], wanted: &Whole, max_body: u32, max_len: u32) -> Seen {
    let (mut cutter, mut held, mut seen) = (Cutter::default(), Vec::new(), Vec::<(u8, Vec<u8>, bool)>::new());
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(sizes.next().map_or(1, |size| (*size).min(rest.len())));
        rest = behind;
        held.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            let piece = match cutter.next(&held[at..], wanted, max_len) {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            };
            assert!(!piece.bytes().is_empty(), "no progress");
            at += piece.bytes().len();
            match piece {
                Piece::Begin { tag, bytes, complete } => {
                    assert!(seen.last().is_none_or(|(_, _, complete)| *complete), "begun inside another");
                    assert!(bytes.len() >= HEADER_LEN && bytes[0] == tag);
                    seen.push((tag, bytes.to_vec(), complete));
                    assert!(complete || !is_wanted(bytes, max_body), "wanted whole");
                }
                Piece::Rest { bytes, complete } => {
                    let last = seen.last_mut().expect("a rest follows a beginning");
                    assert!(!last.2, "the rest of a complete message");
                    last.1.extend_from_slice(bytes);
                    last.2 = complete;
                }
            }
            assert_eq!(cutter.at_boundary(), seen.last().is_some_and(|last| last.2));
        }
        held.drain(..at);
        assert!(held.len() < HEADER_LEN + max_body as usize + 1, "held back more than a wanted message");
    }
    (seen, None)
}

fn is_wanted(bytes: &[u8], max_body: u32) -> bool {
    let len = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    WANTED.contains(&bytes[0]) && len - 4 <= max_body
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let setup = [3u8, 63, 0, 1, 2, 3, 5, 8, 13, 21];
    let messages: [&[u8]; 3] = [
        b"Q\x08select 1T\x02xxD\x03aaaZ\x01I",
        b"d\x20aaaaaaaaZ\x01IS\x05a\0b\0",
        b"Z\x01I\xffQ\0\0\0\x03Z\x01I",
    ];
    messages.iter().map(|m| [&setup[..], m].concat()).collect()
}
