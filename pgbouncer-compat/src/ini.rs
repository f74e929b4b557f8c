//! The grammar of a configuration file: sections, `key = value`, comments, `%include`.
//!
//! It is line by line. A comment starts with `;` or `#` and has its line to itself: behind a value it would be part of
//! the value. A key is made of `A-Z a-z 0-9 _ . - *`, any other name stands in single quotes. `%include FILE` reads
//! FILE, relative to the process's working directory, as if its lines stood here, so that a section carries across.
//! Nothing is judged here but the grammar, and no fault stops the scan.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::finding::{Place, Report};

/// How a file's bytes are fetched; tests hand in files that do not exist.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// What a file says, as written and in order; later entries win, and a section may start again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// `[name]`.
    Section { name: String, place: Place },
    /// `key = value`, both without surrounding blanks, the key without quotes.
    Entry { key: String, value: String, place: Place },
}

/// Reads `path` and everything it includes.
pub(crate) fn read(path: &Path, read_file: ReadFile, report: &mut Report) -> Vec<Item> {
    let mut scan = Scan { read_file, report, open: Vec::new(), items: Vec::new() };
    scan.file(path, &Place { file: path.into(), line: None });
    scan.items
}

/// Files within files, counting the first as none. PgBouncer's limit.
const MAX_INCLUDE_DEPTH: usize = 10;

struct Scan<'a> {
    read_file: ReadFile<'a>,
    report: &'a mut Report,
    /// The file being read and those that include it, outermost first.
    open: Vec<PathBuf>,
    items: Vec<Item>,
}

impl Scan<'_> {
    /// `from` is the line that asks for the file.
    fn file(&mut self, path: &Path, from: &Place) {
        let bytes = match (self.read_file)(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) => {
                let message = format!("could not load file \"{}\": {}", path.display(), reason(&error));
                return self.report.fault(from, message, "");
            }
        };
        self.open.push(path.to_owned());
        let file: Arc<Path> = path.into();
        for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
            let place = Place { file: file.clone(), line: Some(number) };
            match text(line) {
                Ok(text) => self.line(text, &place),
                Err(advice) => self.syntax_error(&place, advice),
            }
        }
        self.open.pop();
    }

    fn line(&mut self, line: &str, place: &Place) {
        let mut rest = line.trim_matches(is_blank);
        while let Some(section) = rest.strip_prefix('[') {
            let Some((name, behind)) = section.split_once(']') else {
                return self.syntax_error(place, "a section is written [name]");
            };
            self.items.push(Item::Section { name: name.to_owned(), place: place.clone() });
            rest = behind.trim_start_matches(is_blank);
        }
        if rest.is_empty() || rest.starts_with([';', '#']) {
            return;
        }
        if let Some(path) = rest.strip_prefix("%include").and_then(|rest| rest.strip_prefix([' ', '\t'])) {
            return self.include(Path::new(path.trim_start_matches(is_blank)), place);
        }
        match entry(rest) {
            Ok((key, value)) => {
                self.items.push(Item::Entry { key: key.into(), value: value.into(), place: place.clone() });
            }
            Err(advice) => self.syntax_error(place, advice),
        }
    }

    fn include(&mut self, path: &Path, place: &Place) {
        if self.open.iter().any(|open| open == path) {
            let advice = format!("{} would include itself", path.display());
            return self.report.fault(place, "error processing include file in configuration", advice);
        }
        if self.open.len() > MAX_INCLUDE_DEPTH {
            let advice = format!("at most {MAX_INCLUDE_DEPTH} files deep");
            return self.report.fault(place, "include nesting level too deep", advice);
        }
        self.file(path, place);
    }

    fn syntax_error(&mut self, place: &Place, advice: &str) {
        self.report.fault(place, "syntax error in configuration", advice);
    }
}

/// A line as text. Comments may be in any encoding.
fn text(line: &[u8]) -> Result<&str, &'static str> {
    if matches!(line.trim_ascii_start().first(), None | Some(b';' | b'#')) {
        return Ok("");
    }
    if line.contains(&0) {
        return Err("the line holds a zero byte");
    }
    std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")
}

/// Splits `key = value`.
fn entry(line: &str) -> Result<(&str, &str), &'static str> {
    let (key, rest) = match line.strip_prefix('\'') {
        Some(quoted) => quoted.split_once('\'').ok_or("the closing quote of the name is missing")?,
        None => line.split_at(line.find(|c| !is_bare(c)).unwrap_or(line.len())),
    };
    let Some(value) = rest.trim_start_matches(is_blank).strip_prefix('=') else {
        return Err(match rest.trim_start_matches(is_blank).is_empty() {
            true => "expected key = value",
            false => {
                "expected key = value; a name with other characters than letters, digits, _ . - * \
                 stands in single quotes"
            }
        });
    };
    if key.is_empty() {
        return Err("the name before = is missing");
    }
    Ok((key, value.trim_start_matches(is_blank)))
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*')
}

/// C's `isspace`.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\x0b' | '\x0c')
}

/// The system's words without Rust's `(os error 2)`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads `files[0]`; renders items as `[section]` and `key=value@file:line`.
    fn scan(files: &[(&str, &[u8])]) -> (Vec<String>, Vec<String>) {
        let mut report = Report::default();
        let read_file = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, bytes)| bytes.to_vec()).ok_or(io::Error::from_raw_os_error(2))
        };
        let items = read(Path::new(files[0].0), &read_file, &mut report);
        let items = items
            .into_iter()
            .map(|item| match item {
                Item::Section { name, .. } => format!("[{name}]"),
                Item::Entry { key, value, place } => format!("{key}={value}@{place}"),
            })
            .collect();
        (items, report.faults.iter().map(ToString::to_string).collect())
    }

    fn items(text: &str) -> Vec<String> {
        let (items, faults) = scan(&[("f", text.as_bytes())]);
        assert!(faults.is_empty(), "{faults:?}");
        items
    }

    #[test]
    fn lines() {
        for (text, expected) in [
            ("", vec![]),
            ("; a comment\n  # another\n\n\r\n", vec![]),
            ("[a]\r\nk = v\r\n", vec!["[a]", "k=v@f:2"]),
            ("k=v", vec!["k=v@f:1"]),
            ("k =", vec!["k=@f:1"]),
            ("  k\t=\t v w ; not a comment  ", vec!["k=v w ; not a comment@f:1"]),
            ("* = host=a", vec!["*=host=a@f:1"]),
            ("a.b-c_1 = x", vec!["a.b-c_1=x@f:1"]),
            ("'my \"db\" =é' = x", vec!["my \"db\" =é=x@f:1"]),
            ("[a] k = v", vec!["[a]", "k=v@f:1"]),
            ("[a][b] ; comment", vec!["[a]", "[b]"]),
            ("[ a ]", vec!["[ a ]"]),
            ("k = 'as written'", vec!["k='as written'@f:1"]),
        ] {
            assert_eq!(items(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_fault_is_told_and_none_stops_the_scan() {
        let text = b"[x\nkey\n= 1\n'a = 1\n'' = 1\n\"b\" = 1\n'a'b = 1\n%includefoo\n%include gone\n\
                     \xff = 1\nz = \0\ngood = 1";
        let (items, faults) = scan(&[("f", text)]);
        assert_eq!(items, ["good=1@f:12"]);
        let lines: Vec<&str> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(
            lines,
            [
                "syntax error in configuration (f:1)",
                "syntax error in configuration (f:2)",
                "syntax error in configuration (f:3)",
                "syntax error in configuration (f:4)",
                "syntax error in configuration (f:5)",
                "syntax error in configuration (f:6)",
                "syntax error in configuration (f:7)",
                "syntax error in configuration (f:8)",
                "could not load file \"gone\"",
                "syntax error in configuration (f:10)",
                "syntax error in configuration (f:11)",
            ]
        );
        assert_eq!(faults[8], "could not load file \"gone\": No such file or directory (f:9)");
    }

    #[test]
    fn a_comment_may_be_in_any_encoding() {
        let (items, faults) = scan(&[("f", b"; caf\xe9\n \t# \xff\0\nk = 1")]);
        assert_eq!((items, faults), (vec!["k=1@f:3".to_owned()], vec![]));
    }

    #[test]
    fn an_included_file_stands_where_its_line_stands() {
        let (items, faults) =
            scan(&[("f", b"[a]\n%include  dir/g \nafter = 1"), ("dir/g", b"in = 1\n[b]\nlate = 1\n")]);
        assert_eq!(items, ["[a]", "in=1@dir/g:1", "[b]", "late=1@dir/g:3", "after=1@f:3"]);
        assert!(faults.is_empty());
    }

    #[test]
    fn includes_that_never_end() {
        let (_, faults) = scan(&[("f", b"\n%include g"), ("g", b"%include f\n%include g")]);
        assert_eq!(
            faults,
            [
                "error processing include file in configuration (g:1): f would include itself",
                "error processing include file in configuration (g:2): g would include itself",
            ]
        );
        let names: Vec<String> = (0..13).map(|i| format!("f{i}")).collect();
        let texts: Vec<String> = (0..13).map(|i| format!("%include f{}", i + 1)).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        assert_eq!(scan(&files).1, ["include nesting level too deep (f10:1): at most 10 files deep"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            scan(&[("f", &bytes)]);
        }

        #[test]
        fn any_likely_text_is_read(text in "([]\\['=;#%*\\n a-c]|%include |é){0,60}") {
            scan(&[("f", text.as_bytes()), ("a", text.as_bytes())]);
        }
    }
}
