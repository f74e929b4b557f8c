//! SASLprep (RFC 4013), as PostgreSQL does it: a password that it does not apply to is taken as it is, byte for byte.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// What PBKDF2 gets for a password.
pub(super) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok().filter(|text| !text.is_ascii());
    Zeroizing::new(text.and_then(saslprep).unwrap_or_else(|| password.to_vec()))
}

/// `None` where the profile forbids the text. As in PostgreSQL it is the mapped text that is judged, not what
/// normalization makes of it: a character that is forbidden can't become one that is not.
fn saslprep(text: &str) -> Option<Vec<u8>> {
    // Never grown, which would leave a copy behind.
    let mut mapped = Zeroizing::new(String::with_capacity(text.len()));
    mapped.extend(text.chars().filter_map(map));
    if mapped.is_empty() || mapped.chars().any(is_forbidden) || !reads_one_way(&mapped) {
        return None;
    }
    let mut prepared = String::with_capacity(mapped.nfkc().map(char::len_utf8).sum());
    prepared.extend(mapped.nfkc());
    Some(prepared.into_bytes())
}

/// Step 1: `None` for what is mapped to nothing. U+200B is in both lists; PostgreSQL makes a space of it.
fn map(c: char) -> Option<char> {
    match c {
        c if tables::non_ascii_space_character(c) => Some(' '),
        c if tables::commonly_mapped_to_nothing(c) => None,
        c => Some(c),
    }
}

/// Step 3: prohibited, or not assigned in Unicode 3.2.
fn is_forbidden(c: char) -> bool {
    [
        tables::ascii_control_character,
        tables::non_ascii_control_character,
        tables::private_use,
        tables::non_character_code_point,
        tables::inappropriate_for_plain_text,
        tables::inappropriate_for_canonical_representation,
        tables::change_display_properties_or_deprecated,
        tables::tagging_character,
        tables::unassigned_code_point,
    ]
    .into_iter()
    .any(|holds| holds(c))
}

/// Step 4: characters of right-to-left scripts stand first and last, and those of left-to-right ones nowhere; or
/// there are none of the former.
fn reads_one_way(text: &str) -> bool {
    let leftward = tables::bidi_r_or_al;
    let ends = |c: Option<char>| c.is_some_and(leftward);
    !text.chars().any(leftward)
        || !text.chars().any(tables::bidi_l) && ends(text.chars().next()) && ends(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(password: &str, prepared: &str) {
        assert_eq!(prepare(password.as_bytes()).as_slice(), prepared.as_bytes(), "{password:?}");
    }

    #[test]
    fn the_examples_of_rfc_4013() {
        becomes("I\u{ad}X", "IX");
        becomes("user", "user");
        becomes("USER", "USER");
        becomes("\u{aa}", "a");
        becomes("\u{2168}", "IX");
        becomes("\u{7}", "\u{7}");
        becomes("\u{627}\u{31}", "\u{627}\u{31}");
    }

    /// What has no prepared form is used as it is.
    #[test]
    fn what_the_profile_forbids() {
        let unchanged = [
            "",
            "\u{ad}",         // nothing would be left
            "\u{aa}\u{7f}",   // ASCII control
            "\u{aa}\u{85}",   // another control
            "\u{aa}\u{e000}", // private use
            "\u{aa}\u{fdd0}", // no character
            "\u{aa}\u{fffd}", // not for plain text
            "\u{aa}\u{2ff0}", // not canonical
            "\u{aa}\u{200e}", // changes the display
            "\u{aa}\u{340}",  // deprecated, though normalization would make it U+0300
            "\u{aa}\u{e0041}",
            "\u{aa}\u{221}",   // not assigned in Unicode 3.2
            "\u{aa}\u{1f600}", // nor this
            "\u{627}\u{aa}",   // both directions
            "\u{aa}\u{627}",
            "\u{627}\u{2163}\u{627}",
            "\u{627}\u{a0}", // ends with none of its direction
        ];
        for password in unchanged {
            becomes(password, password);
        }
        assert_eq!(prepare(b"\xff\xc2\xaa").as_slice(), b"\xff\xc2\xaa", "no UTF-8");
        assert_eq!(prepare(b"\xed\xa0\x80").as_slice(), b"\xed\xa0\x80", "a surrogate");
    }

    #[test]
    fn mapping_and_normalization() {
        becomes("a\u{a0}b\u{3000}c\u{200b}d", "a b c d");
        becomes("\u{ad}\u{200d}a\u{fe0f}\u{e9}", "a\u{e9}");
        becomes("u\u{308}\u{301}", "\u{1d8}");
        becomes("\u{fb01}\u{ff21}", "fiA");
        becomes("\u{627}1\u{628}", "\u{627}1\u{628}");
        becomes("\u{627}\u{a0}\u{628}", "\u{627} \u{628}");
    }
}
