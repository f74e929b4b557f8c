//! `auth_file`: users and their secrets.
//!
//! A record is `"user" "secret"` on one line; a quote inside is doubled, what follows on the line is ignored. A `;` at
//! the start of a line makes it a comment. PgBouncer stops at the first record that it cannot read and goes on with
//! those before it; here such a record is a fault, since its user could not log in. It may also let a record span
//! lines; here it may not, or a missing quote would silently give one user the next one's name as password.

use std::path::Path;
use std::sync::Arc;

use pooler::config::{Secret, Userlist};

use crate::finding::{Place, Report};
use crate::users::MAX_NAME;

/// Reads the records of `file`, whose content is `bytes`. Of several for one user the last counts.
pub(crate) fn parse(file: &Path, bytes: &[u8], report: &mut Report) -> Userlist {
    let file: Arc<Path> = file.into();
    let mut users = Userlist::default();
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b";") {
            continue;
        }
        match record(line) {
            Ok((user, secret)) => {
                users.0.insert(user, Secret::new(secret));
            }
            Err((message, advice)) => {
                report.fault(&Place { file: file.clone(), line: Some(number) }, message, advice);
            }
        }
    }
    users
}

/// What a login packet may carry, as PgBouncer limits it, in bytes.
const MAX_SECRET: usize = 65530;
const BROKEN: &str = "broken auth file";

/// Splits a record. The error never quotes it.
fn record(line: &[u8]) -> Result<(String, String), (&'static str, &'static str)> {
    let broken = |advice| (BROKEN, advice);
    let line = std::str::from_utf8(line).map_err(|_| broken("the line is not UTF-8"))?;
    if line.contains('\0') {
        return Err(broken("the line holds a zero byte"));
    }
    let rest =
        line.strip_prefix('"').ok_or(broken("expected \"user\" \"secret\"; a comment starts with ;"))?;
    let (user, rest) = quoted(rest).ok_or(broken("the closing quote of the user name is missing"))?;
    let (_, rest) = rest.split_once('"').ok_or(broken("the secret in double quotes is missing"))?;
    let (secret, _) = quoted(rest).ok_or(broken("the closing quote of the secret is missing"))?;
    if user.len() > MAX_NAME {
        return Err(("username too long in auth file", "at most 127 bytes"));
    }
    if secret.len() > MAX_SECRET {
        return Err(("password too long in auth file", "at most 65530 bytes"));
    }
    Ok((user, secret))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"')?;
        value.push_str(part);
        let Some(more) = behind.strip_prefix('"') else { return Some((value, behind)) };
        value.push('"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> (Vec<(String, String)>, Vec<String>) {
        let mut report = Report::default();
        let users = parse(Path::new("users"), bytes, &mut report);
        let mut users: Vec<_> =
            users.0.into_iter().map(|(name, secret)| (name, secret.reveal().to_owned())).collect();
        users.sort();
        (users, report.faults.iter().map(ToString::to_string).collect())
    }

    fn pair(user: &str, secret: &str) -> (String, String) {
        (user.to_owned(), secret.to_owned())
    }

    #[test]
    fn records() {
        let file = b"\n; comment\n  ;another\n\"a\" \"x\"\n\t\"b\"\"\" \"\"\"y\"\"\" 2030-01-01 \"more\"\r\n\
                     \"c\" \"\"\n\"d\",\"z\"\n\"a\" \"later\"\n\"e\" \"SCRAM-SHA-256$4096:c2FsdA==$c3Q=:c2s=\"";
        let (users, faults) = read(file);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(
            users,
            [
                pair("a", "later"),
                pair("b\"", "\"y\""),
                pair("c", ""),
                pair("d", "z"),
                pair("e", "SCRAM-SHA-256$4096:c2FsdA==$c3Q=:c2s=")
            ]
        );
    }

    #[test]
    fn every_broken_record_is_told_and_good_ones_kept() {
        let long_name = format!("\"{}\" \"x\"", "n".repeat(128));
        let long_secret = format!("\"u\" \"{}\"", "s".repeat(65531));
        let file = [
            b"# comment".as_slice(),
            b"user secret",
            b"\"open",
            b"\"alone\"",
            b"\"a\" \"hidden",
            b"\"a\" \"\xff\"",
            b"\"a\" \"\0\"",
            long_name.as_bytes(),
            long_secret.as_bytes(),
            b"\"good\" \"one\"",
        ]
        .join(&b'\n');
        let (users, faults) = read(&file);
        assert_eq!(users, [pair("good", "one")]);
        assert_eq!(
            faults,
            [
                "broken auth file (users:1): expected \"user\" \"secret\"; a comment starts with ;",
                "broken auth file (users:2): expected \"user\" \"secret\"; a comment starts with ;",
                "broken auth file (users:3): the closing quote of the user name is missing",
                "broken auth file (users:4): the secret in double quotes is missing",
                "broken auth file (users:5): the closing quote of the secret is missing",
                "broken auth file (users:6): the line is not UTF-8",
                "broken auth file (users:7): the line holds a zero byte",
                "username too long in auth file (users:8): at most 127 bytes",
                "password too long in auth file (users:9): at most 65530 bytes",
            ]
        );
    }

    #[test]
    fn the_longest_are_accepted() {
        let (name, secret) = ("n".repeat(127), "s".repeat(65530));
        let (users, faults) = read(format!("\"{name}\" \"{secret}\"").as_bytes());
        assert_eq!((users, faults), (vec![(name, secret)], vec![]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            read(&bytes);
        }

        #[test]
        fn what_is_quoted_is_read(user in "[^\\x00\n\r]{0,30}", secret in "[^\\x00\n\r]{0,30}") {
            let line = format!("\"{}\" \"{}\"", user.replace('"', "\"\""), secret.replace('"', "\"\""));
            prop_assert_eq!(read(line.as_bytes()), (vec![(user, secret)], vec![]));
        }
    }
}
