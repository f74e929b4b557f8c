//! Lines to fields of tokens: what HBA and ident files have in common.
//!
//! A line ends at its newline, unless a backslash stands before it. Fields are separated by blanks, the tokens of a field
//! by commas, behind which blanks may stand; `#` starts a comment. Double quotes take a token's special meaning away, and
//! that of blanks, commas and `#` in it; a doubled one is itself, and the end of the line closes an open one. `@FILE` is
//! all the tokens of FILE. `include FILE`, `include_if_exists FILE` and `include_dir DIRECTORY` stand for the lines of
//! other files. Names of files are relative to the file that names them.

use std::path::Path;
use std::sync::Arc;

use super::{Complaint, Files, Outcome, beside};
use crate::finding::{Place, Report};
use crate::ini::reason;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// It begins with a quote, so that it is no keyword.
    pub(super) quoted: bool,
}

impl Token {
    /// Whether it is this word, and not a name that looks like it.
    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// Tokens, at least one.
pub(super) type Field = Vec<Token>;

/// A line that is neither empty nor a directive.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) fields: Vec<Field>,
}

/// Files within files, the first not counted. PostgreSQL's limit.
const MAX_DEPTH: usize = 10;
/// Files read in all: two lines that include their own file would make two to the power of the above.
const MAX_FILES: usize = 1000;

/// Reads a file and what it includes.
pub(super) fn read(path: &Path, files: Files<'_>, report: &mut Report) -> Vec<Line> {
    let mut reader = Reader { files, report, lines: Vec::new(), read: 0 };
    if let Err(Complaint(message, advice)) = reader.file(path, 0) {
        reader.report.fault(&Place { file: path.into(), line: None }, message, advice);
    }
    reader.lines
}

struct Reader<'a> {
    files: Files<'a>,
    report: &'a mut Report,
    lines: Vec<Line>,
    /// Files.
    read: usize,
}

impl Reader<'_> {
    /// The error is about the file as a whole; those of its lines are reported.
    fn file(&mut self, path: &Path, depth: usize) -> Outcome<()> {
        let bytes = self.bytes(path, depth)?;
        let file: Arc<Path> = path.into();
        for (number, text) in logical_lines(&bytes) {
            let place = Place { file: file.clone(), line: Some(number) };
            if let Err(Complaint(message, advice)) = self.line(&text, &place, depth) {
                self.report.fault(&place, message, advice);
            }
        }
        Ok(())
    }

    fn bytes(&mut self, path: &Path, depth: usize) -> Outcome<Vec<u8>> {
        let open =
            |why: &str| Complaint::new(format!("could not open file \"{}\": {why}", path.display()), "");
        if depth > MAX_DEPTH {
            return Err(open("maximum nesting depth exceeded"));
        }
        self.read += 1;
        if self.read > MAX_FILES {
            return Err(open("too many files are included"));
        }
        (self.files.read)(path).map_err(|error| open(&reason(&error)))
    }

    fn line(&mut self, text: &[u8], place: &Place, depth: usize) -> Outcome<()> {
        let fields = self.fields(text, place, depth)?;
        match &fields[..] {
            [] => {}
            [directive, argument] if is_directive(&directive[0]) => {
                self.include(&directive[0].text, &argument[0].text, place, depth + 1)?;
            }
            _ => self.lines.push(Line { place: place.clone(), fields }),
        }
        Ok(())
    }

    fn fields(&mut self, mut text: &[u8], place: &Place, depth: usize) -> Outcome<Vec<Field>> {
        let mut fields = Vec::new();
        while !text.is_empty() {
            let mut field = Vec::new();
            while let Some((token, more)) = next_token(&mut text)? {
                match token.text.strip_prefix('@').filter(|name| !token.quoted && !name.is_empty()) {
                    Some(name) => field.extend(self.tokens_of(&beside(place, name), depth + 1)?),
                    None => field.push(token),
                }
                if !more {
                    break;
                }
            }
            if !field.is_empty() {
                fields.push(field);
            }
        }
        Ok(fields)
    }

    /// All tokens of a file, whatever its lines are.
    fn tokens_of(&mut self, path: &Path, depth: usize) -> Outcome<Vec<Token>> {
        let before = (self.lines.len(), self.report.faults.len());
        self.file(path, depth)?;
        let tokens = self.lines.drain(before.0..).flat_map(|line| line.fields).flatten().collect();
        match self.report.faults.len() == before.1 {
            true => Ok(tokens),
            false => Err(Complaint::new(format!("file \"{}\" has faults", path.display()), "")),
        }
    }

    fn include(&mut self, directive: &str, name: &str, place: &Place, depth: usize) -> Outcome<()> {
        let path = beside(place, name);
        match directive {
            "include_dir" => return self.directory(&path, name, depth),
            "include_if_exists" if self.is_missing(&path) => {}
            _ => self.file(&path, depth)?,
        }
        Ok(())
    }

    fn is_missing(&self, path: &Path) -> bool {
        (self.files.read)(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// The files whose names end in `.conf`, in the order of their names.
    fn directory(&mut self, path: &Path, name: &str, depth: usize) -> Outcome<()> {
        if name.trim().is_empty() {
            return Err(Complaint::new(format!("empty configuration directory name: \"{name}\""), ""));
        }
        let could_not = |error: std::io::Error| {
            let why = reason(&error);
            Complaint::new(format!("could not open directory \"{}\": {why}", path.display()), "")
        };
        let mut paths = (self.files.list)(path).map_err(could_not)?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.ends_with(b".conf") && name.len() > b".conf".len() && !name.starts_with(b".")
        });
        paths.sort();
        paths.iter().try_for_each(|path| self.file(path, depth))
    }
}

fn is_directive(token: &Token) -> bool {
    matches!(&token.text[..], "include" | "include_if_exists" | "include_dir")
}

/// Lines with those that continue them, each with the number of its first.
fn logical_lines(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut lines = Vec::new();
    let mut open: Option<(u32, Vec<u8>)> = None;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let (first, mut text) = open.take().unwrap_or((number, Vec::new()));
        let before = text.len();
        let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |at| at + 1);
        text.extend(&line[..end]);
        // A backslash of the line before does not count again when nothing follows it.
        if text.len() > before && text.ends_with(b"\\") {
            text.pop();
            open = Some((first, text));
        } else {
            lines.push((first, text));
        }
    }
    lines.extend(open);
    lines
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Takes a token, and says whether a comma ends it.
fn next_token(text: &mut &[u8]) -> Outcome<Option<(Token, bool)>> {
    let start = text.iter().position(|byte| !is_blank(*byte) && *byte != b',').unwrap_or(text.len());
    let mut rest = &text[start..];
    let mut token = Vec::new();
    let (mut inside, mut was_quote, mut saw_quote, mut quoted, mut comma) =
        (false, false, false, false, false);
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            byte if is_blank(byte) && !inside => break,
            b'#' if !inside => {
                rest = &[];
                break;
            }
            b',' if !inside => {
                comma = true;
                rest = behind;
                break;
            }
            b'"' => {
                if was_quote {
                    token.push(byte);
                }
                was_quote = inside && !was_quote;
                inside = !inside;
                saw_quote = true;
                quoted |= token.is_empty();
            }
            _ => {
                token.push(byte);
                was_quote = false;
            }
        }
        rest = behind;
    }
    *text = rest;
    if token.is_empty() && !saw_quote {
        return Ok(None);
    }
    if token.contains(&0) {
        return Err(Complaint::new("the line holds a zero byte", ""));
    }
    let text = String::from_utf8(token).map_err(|_| Complaint::new("the line is not UTF-8", ""))?;
    Ok(Some((Token { text, quoted }, comma)))
}
