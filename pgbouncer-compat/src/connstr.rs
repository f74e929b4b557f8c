//! Connection strings: the values of `[databases]`, `[users]` and `[peers]`.
//!
//! `key=value key='value' ...`: blanks around `=` are allowed, a plain value ends at a blank, a quote inside a quoted
//! value is doubled. No value is empty, so `host= port=1` gives `host` the value `port=1`.

/// The pairs in order, or what is wrong, without showing values: they may be passwords.
pub(crate) fn pairs(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let (key, behind) = rest.split_at(rest.find(|c| c == '=' || is_blank(c)).unwrap_or(rest.len()));
        if key.is_empty() {
            return Err("the name before = is missing".into());
        }
        let Some(value) = behind.trim_start_matches(is_blank).strip_prefix('=') else {
            // The rest of a password that has blanks and no quotes is not shown.
            let behind_password =
                pairs.last().is_some_and(|(last, _): &(&str, String)| last.contains("password"));
            let word = if behind_password { "the word behind the password" } else { key };
            return Err(format!("expected = behind {word}; a value with blanks stands in single quotes"));
        };
        let (value, behind) = value_of(key, value.trim_start_matches(is_blank))?;
        if value.is_empty() {
            return Err(format!("{key} has no value; leave it out instead"));
        }
        pairs.push((key, value));
        rest = behind.trim_start_matches(is_blank);
    }
    Ok(pairs)
}

/// The value at the start of `text`, and what follows.
fn value_of<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), String> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let (value, behind) = text.split_at(text.find(is_blank).unwrap_or(text.len()));
        return Ok((value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let Some((part, behind)) = rest.split_once('\'') else {
            return Err(format!("the closing quote behind {key} is missing"));
        };
        value.push_str(part);
        match behind.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None if behind.is_empty() || behind.starts_with(is_blank) => return Ok((value, behind)),
            None => return Err(format!("expected a blank behind the closing quote of {key}")),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn well_formed() {
        for (text, expected) in [
            ("", vec![]),
            ("  ", vec![]),
            ("host=a", vec![("host", "a")]),
            (" host = a\tport=1 ", vec![("host", "a"), ("port", "1")]),
            ("user='it''s' x=y", vec![("user", "it's"), ("x", "y")]),
            ("q='select '' '''", vec![("q", "select ' '")]),
            ("password=a=b'c", vec![("password", "a=b'c")]),
            ("host= port=1", vec![("host", "port=1")]),
        ] {
            let expected: Vec<(&str, String)> =
                expected.into_iter().map(|(k, v)| (k, v.to_owned())).collect();
            assert_eq!(pairs(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn malformed() {
        for (text, expected) in [
            ("host", "expected = behind host; a value with blanks stands in single quotes"),
            ("host a", "expected = behind host; a value with blanks stands in single quotes"),
            (
                "password=my secret",
                "expected = behind the word behind the password; a value with blanks stands in single quotes",
            ),
            ("=a", "the name before = is missing"),
            ("host=", "host has no value; leave it out instead"),
            ("host=''", "host has no value; leave it out instead"),
            ("password='secret", "the closing quote behind password is missing"),
            ("password='secret'port=1", "expected a blank behind the closing quote of password"),
        ] {
            assert_eq!(pairs(text), Err(expected.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC*|[a-c'= é]*") {
            let _ = pairs(&text);
        }

        #[test]
        fn a_quoted_value_survives(value in "[^\\x00]+") {
            let text = format!("k='{}'", value.replace('\'', "''"));
            prop_assert_eq!(pairs(&text), Ok(vec![("k", value)]));
        }
    }
}
