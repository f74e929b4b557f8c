//! Regular expressions of the HBA and ident files, searched in linear time.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// An expression, and the text that it was made of.
///
/// It means what it means to PostgreSQL, whose syntax is wider: what the two read differently is refused. One thing
/// differs: of several ways to match, the first that is written counts, not the longest, which only shows in what `\1`
/// stands for.
#[derive(Clone)]
pub struct Pattern(Regex);

/// Longest compiled expression, in bytes.
const MAX_SIZE: usize = 256 << 10;

/// Letters behind a backslash that mean another thing to PostgreSQL, or to only one of the two.
const AMBIGUOUS: &[char] =
    &['b', 'B', '<', '>', 'x', 'u', 'U', 'p', 'P', 'z', 'Z', 'm', 'M', 'y', 'Y', 'c', 'e'];

impl Pattern {
    /// Compiles what stands behind the `/`.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn new(text: &str) -> Result<Pattern, String> {
        refuse_what_differs(text)?;
        let built = RegexBuilder::new(text).dot_matches_new_line(true).size_limit(MAX_SIZE).build();
        built.map(Pattern).map_err(|error| error.to_string())
    }

    /// Whether it matches anywhere in a text.
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// What its first group has matched, if it matches; the group may have taken no part.
    pub(crate) fn first_group<'a>(&self, text: &'a str) -> Option<Option<&'a str>> {
        let captures = self.0.captures(text)?;
        Some(captures.get(1).map(|group| group.as_str()))
    }

    /// Whether it has a group that `\1` can stand for.
    pub fn has_group(&self) -> bool {
        self.0.captures_len() > 1
    }
}

/// As it stands in the file.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

fn refuse_what_differs(text: &str) -> Result<(), String> {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                if let Some(escaped) = chars.next().filter(|escaped| AMBIGUOUS.contains(escaped)) {
                    return Err(format!("\\{escaped} is not supported"));
                }
            }
            '(' => {
                let options = chars.as_str().strip_prefix('?').filter(|rest| !rest.starts_with(':'));
                let at_start = text.len() == chars.as_str().len() + 1;
                if options.is_some_and(|rest| !(at_start && rest.starts_with("i)"))) {
                    return Err(
                        "of groups that start with (? only (?:...) is supported, and (?i) at the start"
                            .into(),
                    );
                }
            }
            _ => {}
        }
    }
    if text.contains("[.") || text.contains("[=") || text.contains("[:<") || text.contains("[:>") {
        return Err("collating elements are not supported".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_searched_anywhere_and_a_point_is_any_character() {
        let pattern = |text| Pattern::new(text).unwrap();
        assert!(pattern("b+").is_in("abc") && !pattern("^b+$").is_in("abc"));
        assert!(pattern("a.c").is_in("a\nc"));
        assert!(pattern("(?i)ABC").is_in("abc") && !pattern("ABC").is_in("abc"));
        assert!(pattern("^a$").is_in("a") && !pattern("^a$").is_in("a\n"));
        assert!(!pattern(r"^\w$").is_in("é"), "as in the C locale");
    }

    #[test]
    fn the_first_group_is_what_stands_for_one() {
        let pattern = Pattern::new(r"^(.*)@shop\.example$").unwrap();
        assert_eq!(pattern.first_group("ann@shop.example"), Some(Some("ann")));
        assert_eq!(pattern.first_group("ann@shop-example"), None);
        let pattern = Pattern::new("^(a)?b").unwrap();
        assert_eq!(pattern.first_group("b"), Some(None));
        assert!(pattern.has_group() && !Pattern::new("(?:a)").unwrap().has_group());
    }

    #[test]
    fn what_means_another_thing_to_postgresql_is_refused() {
        for text in [
            r"\bword",
            r"a\y",
            r"\x41",
            "(?x)a b",
            "a(?i)",
            "(?=a)",
            "(?P<n>a)",
            "[[.a.]]",
            "[[:<:]]a",
            "(",
            "a{2,1}",
            "*a",
            r"\1",
            "a{1000}{1000}{1000}",
            "[",
            "***=a",
        ] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
