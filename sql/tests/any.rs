//! Any bytes at all.

use pgferry_sql::{Effects, custom_settings, scan};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What texts are made of: words, delimiters that open and close, and bytes of other encodings.
const PIECES: &[&[u8]] = &[
    b"select",
    b"set_config",
    b"(",
    b")",
    b",",
    b";",
    b"'",
    b"''",
    b"\"",
    b"E'",
    b"U&'",
    b"U&\"",
    b"x'",
    b"\\",
    b"$$",
    b"$a$",
    b"$1",
    b"--",
    b"\n",
    b"/*",
    b"*/",
    b".",
    b"::",
    b" ",
    b"1",
    b"1.5e3",
    b"a",
    b"role",
    b"true",
    b"with",
    b"as",
    b"set",
    b"local",
    b"to",
    b"prepare",
    b"explain",
    b"declare",
    b"cursor",
    b"for",
    b"hold",
    b"create",
    b"temp",
    b"into",
    b"drop",
    b"database",
    b"execute",
    b"distinct",
    b"on",
    b"pg_temp",
    b"alter",
    b"extension",
    b"values",
    b"lower",
    b"f",
    b"insert",
    b"show",
    b"app",
    b"reset",
    b"all",
    b"begin",
    b"end",
    b"\xe4",
    b"\x95\x5c",
    b"\xc3\xa9",
    b"\0",
    b"=",
    b"{",
    b"operator",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    vec((select(PIECES), prop::bool::ANY), 0..40).prop_map(|pieces| {
        let spaced =
            pieces.into_iter().map(|(piece, space)| [piece, if space { b" " } else { b"" }].concat());
        spaced.collect::<Vec<_>>().concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(text in vec(any::<u8>(), 0..200)) {
        scan(&text);
        custom_settings(&text).count();
    }

    #[test]
    fn no_pieces_panic_wherever_they_are_cut(text in pieces()) {
        for end in 0..=text.len() {
            scan(&text[..end]);
            custom_settings(&text[end..]).count();
        }
    }

    /// Nothing in one statement hides what another does.
    #[test]
    fn effects_of_several_statements_add_up(first in pieces(), second in pieces()) {
        let (one, other) = (scan(&first), scan(&second));
        if one.effects.contains(Effects::OPAQUE) || second.contains(&0) {
            return Ok(());
        }
        let text = [&first[..], b"\n;", &second].concat();
        let both = scan(&text);
        prop_assert!(both.effects.contains(one.effects | other.effects));
        prop_assert_eq!(both.read_only, one.read_only && other.read_only);
    }

    /// What does nothing is one whole, so whatever is put behind it is seen.
    #[test]
    fn nothing_hides_behind_what_is_harmless(text in pieces()) {
        let text = [b"select ", &text[..]].concat();
        if !scan(&text).effects.is_empty() {
            return Ok(());
        }
        let more = [&text[..], b"\n;set a = 1"].concat();
        prop_assert!(scan(&more).effects.contains(Effects::SETTINGS));
    }

    #[test]
    fn case_and_comments_make_no_difference(words in vec(select(&[
        "select", "set_config", "(", ")", ",", ";", "'role'", "true", "set", "local", "x", "=", "1", "with", "as", "into",
        "temp", "create", "table", "drop", "prepare", "execute", "nextval", "lower", "f", "declare", "cursor", "hold", "for",
    ][..]), 0..20)) {
        let plain = words.join(" ");
        let odd = words.iter().map(|word| if word.starts_with('\'') { (*word).to_owned() } else { word.to_uppercase() });
        let odd = odd.collect::<Vec<_>>().join("\t/* ' /* \" */ ; */--(\r\n");
        prop_assert_eq!(scan(plain.as_bytes()).effects, scan(odd.as_bytes()).effects);
    }
}

/// So much of each would take minutes if the work were not in proportion to the text.
#[test]
fn the_work_is_linear_in_the_text() {
    for piece in [
        "(",
        ")",
        "'",
        "\"",
        "/*",
        "$",
        "$a$",
        "$$",
        "a.",
        "set_config(",
        "set_config('a',",
        "with a as (",
        "explain ",
        "prepare a as ",
        "declare a cursor for ",
        "into ",
        "\\",
        "'\\\\''",
        "E'\\'",
        "create temp ",
        "set ",
        "current_setting('",
        "do $a$",
        "select 1;",
        "lower(1),",
        "u&",
        "-",
        "--\n",
    ] {
        for start in ["", "select ", "'", "$a$", "create table "] {
            let text = [start, &piece.repeat(50_000 / piece.len())].concat();
            scan(text.as_bytes());
            custom_settings(text.as_bytes()).count();
        }
    }
}

#[test]
fn what_is_nested_too_deep_is_opaque() {
    let nested = |depth: usize| ["select ", &"set_config(".repeat(depth), &")".repeat(depth)].concat();
    assert!(!scan(nested(60).as_bytes()).effects.contains(Effects::OPAQUE));
    assert!(scan(nested(64).as_bytes()).effects.contains(Effects::OPAQUE));
    assert!(scan(nested(10_000).as_bytes()).effects.contains(Effects::OPAQUE));
}
