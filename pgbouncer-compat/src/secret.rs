//! Secrets that stand elsewhere than in the configuration: `%{NAME}` is the environment variable NAME, `%{file:PATH}` the
//! content of a file. Only values that are secrets are looked through; `%%{` is a literal `%{`, any other `%` is itself.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::finding::{Place, Report};
use crate::ini::{self, ReadFile};

/// Longest secret in a file, in bytes: what a login packet may carry, as in `auth_file`.
const MAX_SECRET: usize = 65530;

/// The value with its references resolved; `None` after a fault. A value that is no reference altogether makes its file one
/// that holds secrets.
pub(crate) fn resolve(
    name: &str,
    value: &str,
    place: &Place,
    read_file: ReadFile,
    report: &mut Report,
) -> Option<String> {
    let mut read = |path: &Path| read(path, read_file);
    let variable = |name: &str| std::env::var(name).map_err(|error| error.to_string());
    match expand(value, &variable, &mut read) {
        Ok(Expanded { text, literal, files }) => {
            if literal {
                report.secrets.insert(place.file.clone());
            }
            report.secrets.extend(files);
            Some(text)
        }
        Err(advice) => {
            report.fault(place, format!("{name} cannot be read"), advice);
            None
        }
    }
}

/// The secret in a file; `None` after a fault.
pub(crate) fn from_file(
    name: &str,
    path: &str,
    place: &Place,
    read_file: ReadFile,
    report: &mut Report,
) -> Option<String> {
    report.secrets.insert(Path::new(path).into());
    match read(Path::new(path), read_file) {
        Ok(text) => Some(text),
        Err(advice) => {
            report.fault(place, format!("{name} cannot be read"), advice);
            None
        }
    }
}

struct Expanded {
    text: String,
    /// Some of it stands in the value itself.
    literal: bool,
    files: Vec<Arc<Path>>,
}

/// Errors say what is wrong without the value.
fn expand(
    value: &str,
    variable: &dyn Fn(&str) -> Result<String, String>,
    read: &mut dyn FnMut(&Path) -> Result<String, String>,
) -> Result<Expanded, String> {
    let mut expanded = Expanded { text: String::new(), literal: false, files: Vec::new() };
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once("%{") {
        if let Some(text) = before.strip_suffix('%') {
            expanded.literal = true;
            expanded.text.extend([text, "%{"]);
            rest = behind;
            continue;
        }
        let (name, behind) =
            behind.split_once('}').ok_or("the } behind %{ is missing; write %%{ for %{ itself")?;
        expanded.literal |= !before.is_empty();
        expanded.text.push_str(before);
        match name.strip_prefix("file:") {
            Some(path) => {
                expanded.text.push_str(&read(Path::new(path))?);
                expanded.files.push(Path::new(path).into());
            }
            None => expanded.text.push_str(&of_variable(name, variable)?),
        }
        rest = behind;
    }
    expanded.literal |= !rest.is_empty();
    expanded.text.push_str(rest);
    Ok(expanded)
}

fn of_variable(name: &str, variable: &dyn Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(
            "between %{ and } stands the name of an environment variable, or file:PATH; write %%{ for %{ \
                    itself"
                .into(),
        );
    }
    let text = variable(name).map_err(|error| format!("environment variable {name}: {error}"))?;
    if text.is_empty() { Err(format!("environment variable {name} is empty")) } else { Ok(text) }
}

/// A file's one secret, without the end of its line.
fn read(path: &Path, read_file: ReadFile) -> Result<String, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let bytes = Zeroizing::new(read_file(path).map_err(|error| wrong(&ini::reason(&error)))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("the file is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err(wrong("the file is empty")),
        _ if text.len() > MAX_SECRET => Err(wrong("the file is longer than any password")),
        _ if text.contains(['\0', '\n']) => Err(wrong("the file has more than one line")),
        _ => Ok(text.to_owned()),
    }
}

/// Warns of files with secrets that everybody on the machine can read or write.
pub(crate) fn warn_of_open_files(report: &mut Report) {
    for file in std::mem::take(&mut report.secrets) {
        let Ok(mode) = mode(&file) else { continue }; // one that can't be looked at was told already
        if mode & 0o006 != 0 {
            let can = if mode & 0o002 != 0 { "written" } else { "read" };
            let message = format!("a file with secrets can be {can} by every user of this machine");
            let advice =
                format!("its permissions are {:04o}; chmod o= takes them from others", mode & 0o7777);
            report.warn(&Place { file, line: None }, message, advice);
        }
    }
}

fn mode(file: &Path) -> io::Result<u32> {
    let found = fs::metadata(file)?;
    // What is no file, such as a pipe, is not there for others.
    Ok(if found.is_file() { found.permissions().mode() } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variable(name: &str) -> Result<String, String> {
        match name {
            "PW" => Ok("s3cr%{et".into()),
            "EMPTY" => Ok(String::new()),
            _ => Err("environment variable not found".into()),
        }
    }

    fn expanded(value: &str) -> Result<(String, bool, usize), String> {
        let mut read = |path: &Path| {
            read(path, &|path| match path.to_str() {
                Some("/run/pw") => Ok(b"from file\n".to_vec()),
                Some("/run/windows") => Ok(b"from file\r\n".to_vec()),
                Some("/run/empty") => Ok(b"\n".to_vec()),
                Some("/run/lines") => Ok(b"a\nb\n".to_vec()),
                Some("/run/binary") => Ok(b"\xff".to_vec()),
                Some("/run/zero") => Ok(b"a\0b".to_vec()),
                Some("/run/long") => Ok(vec![b'a'; MAX_SECRET + 1]),
                _ => Err(io::Error::from_raw_os_error(2)),
            })
        };
        expand(value, &variable, &mut read).map(|it| (it.text, it.literal, it.files.len()))
    }

    #[test]
    fn references() {
        for (value, text, literal, files) in [
            ("", "", false, 0),
            ("plain", "plain", true, 0),
            ("100% {sure}", "100% {sure}", true, 0),
            ("%%", "%%", true, 0),
            ("%{PW}", "s3cr%{et", false, 0),
            ("%{PW}%{PW}", "s3cr%{ets3cr%{et", false, 0),
            ("a%{PW}", "as3cr%{et", true, 0),
            ("%{PW}z", "s3cr%{etz", true, 0),
            ("%%{PW}", "%{PW}", true, 0),
            ("%%{%{PW}%%{", "%{s3cr%{et%{", true, 0),
            ("%%%{PW}", "%%{PW}", true, 0),
            ("%{file:/run/pw}", "from file", false, 1),
            ("%{file:/run/windows}", "from file", false, 1),
            (
                "ldapurl=\"x\" ldapbindpasswd=\"%{file:/run/pw}\"",
                "ldapurl=\"x\" ldapbindpasswd=\"from file\"",
                true,
                1,
            ),
        ] {
            assert_eq!(expanded(value), Ok((text.to_owned(), literal, files)), "{value}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_value() {
        for (value, advice) in [
            ("hidden%{GONE}", "environment variable GONE: environment variable not found"),
            ("hidden%{EMPTY}", "environment variable EMPTY is empty"),
            ("hidden%{PW", "the } behind %{ is missing; write %%{ for %{ itself"),
            ("%{file:/gone}", "/gone: No such file or directory"),
            ("%{file:/run/empty}", "/run/empty: the file is empty"),
            ("%{file:/run/lines}", "/run/lines: the file has more than one line"),
            ("%{file:/run/zero}", "/run/zero: the file has more than one line"),
            ("%{file:/run/binary}", "/run/binary: the file is not UTF-8"),
            ("%{file:/run/long}", "/run/long: the file is longer than any password"),
        ] {
            assert_eq!(expanded(value), Err(advice.to_owned()), "{value}");
        }
        for value in ["%{}", "%{a b}", "%{a-b}", "%{\u{e9}}"] {
            assert!(expanded(value).unwrap_err().starts_with("between %{ and }"), "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_without_references_is_itself(value in "[^%]{0,30}%?[^{%]{0,30}") {
            prop_assert_eq!(expanded(&value).unwrap().0, value);
        }

        #[test]
        fn a_literal_is_written_with_two(value in "(%\\{|[a-z{}]){0,20}") {
            prop_assert_eq!(expanded(&value.replace("%{", "%%{")).unwrap().0, value);
        }
    }
}
