//! The grammar of the console: one command of at most two words, with at most one semicolon behind it.
//!
//! A word is made of `A-Z a-z 0-9 _` or stands in double quotes, where a quote is doubled. `SET` has a form of its
//! own: `SET key = value`, `SET key TO value`, the value a word or text in single quotes; so has `SHOW ROUTE`. Case does not matter in
//! commands and `SHOW` items, it does in names of databases. Rights, and whether a database exists, are not judged
//! here. PgBouncer closes the connection on an invalid command longer than 450 bytes; here it is an error like any.
//!
//! Drivers begin and end transactions that nobody has asked for. PgBouncer refuses that; here it is accepted and does
//! nothing.

use std::fmt;

use crate::columns::{Column, FAKE_PARAMETERS, ISOLATION, RELOAD_PLAN, ROUTE, Show};
use crate::texts;

/// A command of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SHOW item`; `SELECT item` is the same.
    Show(Show),
    /// `SHOW ROUTE [db] 'statement'`: where that would go, and why. Not PgBouncer's.
    ShowRoute {
        /// `None`: all whose requests may go to more than one host.
        database: Option<String>,
        /// Without its quotes.
        statement: String,
    },
    /// `SET key = value` of a setting.
    Set {
        /// As written.
        key: String,
        /// Without its quotes.
        value: String,
    },
    /// `SET` of a parameter that drivers set by habit: accepted with a notice, without effect.
    SetIgnored,
    /// Begins or ends a transaction, which the console has none of; holds the tag. Not PgBouncer's.
    Transaction(&'static str),
    /// `PAUSE [db]`.
    Pause(Option<String>),
    /// `RESUME [db]`.
    Resume(Option<String>),
    /// `DISABLE db`. Without a database it is an error, after the check of rights; so are the others.
    Disable(Option<String>),
    /// `ENABLE db`.
    Enable(Option<String>),
    /// `RECONNECT [db]`.
    Reconnect(Option<String>),
    /// `KILL [db]`.
    Kill(Option<String>),
    /// `KILL_CLIENT id`; `None` where no number is given.
    KillClient(Option<u64>),
    /// `CANCEL id`, of a client; `None` where no number is given. Not PgBouncer's.
    Cancel(Option<u64>),
    /// `SUSPEND`.
    Suspend,
    /// `SHUTDOWN [mode]`.
    Shutdown(Shutdown),
    /// `RELOAD`.
    Reload,
    /// `RELOAD_PLAN [file]`: what that would change, if it read this file. Not PgBouncer's.
    ReloadPlan(Option<String>),
    /// `WAIT_CLOSE [db]`.
    WaitClose(Option<String>),
}

impl Command {
    /// The columns of the table that answers it, if one does.
    pub fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Command::Show(item) => Some(item.columns()).filter(|columns| !columns.is_empty()),
            Command::ReloadPlan(_) => Some(RELOAD_PLAN),
            Command::ShowRoute { .. } => Some(ROUTE),
            _ => None,
        }
    }
}

/// What a shutdown waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing.
    Immediate,
    /// `WAIT_FOR_SERVERS`: until clients have given back their servers.
    WaitForServers,
    /// `WAIT_FOR_CLIENTS`: until clients have disconnected.
    WaitForClients,
}

/// Why a text is no command. Displayed in PgBouncer's words; SQLSTATE 08P01, the connection stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandError {
    /// No such command, item or form; holds the text.
    Invalid(String),
    /// A word is too long.
    BadArguments,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Invalid(text) => f.write_str(&texts::invalid_command(text)),
            CommandError::BadArguments => f.write_str(texts::BAD_ARGUMENTS),
        }
    }
}

impl std::error::Error for CommandError {}

/// Reads the text of a simple query sent to the console.
///
/// # Errors
/// The text is no command of PgBouncer.
pub fn parse(text: &str) -> Result<Command, CommandError> {
    let command = match (set_form(text), route_form(text)) {
        (Some((key, value)), _) => set(key, value)?,
        (None, Some((database, statement))) => Some(Command::ShowRoute { database, statement }),
        (None, None) => words(text).map(|(word, argument)| command(word, argument)).transpose()?.flatten(),
    };
    command.or_else(|| habit(text)).ok_or_else(|| CommandError::Invalid(shortened(text)))
}

/// Parameters that drivers set and the console has no use for, besides those that it shows.
const IGNORED: [&str; 2] = ["extra_float_digits", "application_name"];

/// What may follow `BEGIN`.
const MODES: &str = "transaction work isolation level serializable repeatable read committed uncommitted write only not \
                     deferrable";

/// Longest name of a command, longest argument or key, and longest value of `SET`, in bytes.
const MAX_WORD: usize = 15;
const MAX_ARGUMENT: usize = 63;
const MAX_VALUE: usize = 255;
/// How much of an invalid text its error repeats, in bytes.
const MAX_REPEATED: usize = 400;

fn command(word: String, argument: Option<String>) -> Result<Option<Command>, CommandError> {
    if word.eq_ignore_ascii_case("reload_plan") {
        return Ok(Some(Command::ReloadPlan(argument))); // a path may be long
    }
    if word.len() > MAX_WORD || argument.as_ref().is_some_and(|text| text.len() > MAX_ARGUMENT) {
        return Err(CommandError::BadArguments);
    }
    Ok(Some(match (word.to_ascii_lowercase().as_str(), argument) {
        ("show" | "select", Some(item)) => match Show::named(&item) {
            Some(show) => Command::Show(show),
            None => return Ok(None),
        },
        ("pause", db) => Command::Pause(db),
        ("resume", db) => Command::Resume(db),
        ("disable", db) => Command::Disable(db),
        ("enable", db) => Command::Enable(db),
        ("reconnect", db) => Command::Reconnect(db),
        ("kill", db) => Command::Kill(db),
        ("kill_client", id) => Command::KillClient(id.as_deref().and_then(leading_number)),
        ("cancel", id) => Command::Cancel(id.as_deref().and_then(leading_number)),
        ("wait_close", db) => Command::WaitClose(db),
        ("suspend", None) => Command::Suspend,
        ("reload", None) => Command::Reload,
        ("shutdown", None) => Command::Shutdown(Shutdown::Immediate),
        ("shutdown", Some(mode)) if mode.eq_ignore_ascii_case("wait_for_servers") => {
            Command::Shutdown(Shutdown::WaitForServers)
        }
        ("shutdown", Some(mode)) if mode.eq_ignore_ascii_case("wait_for_clients") => {
            Command::Shutdown(Shutdown::WaitForClients)
        }
        _ => return Ok(None),
    }))
}

fn set(key: String, value: String) -> Result<Option<Command>, CommandError> {
    if key.len() > MAX_ARGUMENT || value.len() > MAX_VALUE {
        return Err(CommandError::BadArguments);
    }
    let mut ignored = FAKE_PARAMETERS.iter().map(|parameter| parameter.name).chain(IGNORED);
    if ignored.any(|name| name.eq_ignore_ascii_case(&key)) {
        return Ok(Some(Command::SetIgnored));
    }
    Ok(Some(Command::Set { key, value }))
}

/// What drivers send without being asked to.
fn habit(text: &str) -> Option<Command> {
    let text = text.trim_matches(is_blank);
    let text = text.strip_suffix(';').unwrap_or(text).to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c| is_blank(c) || c == ',').filter(|word| !word.is_empty()).collect();
    let modes = |words: &[&str]| words.iter().all(|word| MODES.split(' ').any(|mode| mode == *word));
    match words.as_slice() {
        ["show", "transaction", "isolation", "level"] => Some(Command::Show(Show::Fake(&ISOLATION))),
        ["begin", rest @ ..] if modes(rest) => Some(Command::Transaction("BEGIN")),
        ["start", "transaction", rest @ ..] if modes(rest) => Some(Command::Transaction("START TRANSACTION")),
        ["commit" | "end"] | ["commit" | "end", "transaction" | "work"] => {
            Some(Command::Transaction("COMMIT"))
        }
        ["rollback" | "abort"] | ["rollback" | "abort", "transaction" | "work"] => {
            Some(Command::Transaction("ROLLBACK"))
        }
        _ => None,
    }
}

/// `word [word] [;]`.
fn words(text: &str) -> Option<(String, Option<String>)> {
    let (first, behind) = word(skip_blanks(text))?;
    if at_end(behind) {
        return Some((first, None));
    }
    let (second, rest) = word(skip_blanks(behind))?;
    (starts_with_blank(behind) && at_end(rest)).then_some((first, Some(second)))
}

/// `SET word =|TO value [;]`.
fn set_form(text: &str) -> Option<(String, String)> {
    let text = skip_blanks(text);
    let rest = strip_prefix_ignoring_case(text, "set")?;
    if !starts_with_blank(rest) {
        return None;
    }
    let (key, rest) = word(skip_blanks(rest))?;
    let rest = skip_blanks(rest);
    let rest = rest.strip_prefix('=').or_else(|| strip_prefix_ignoring_case(rest, "to"))?;
    let rest = skip_blanks(rest);
    let (value, rest) = quoted(rest, '\'').or_else(|| word(rest))?;
    at_end(rest).then_some((key, value))
}

/// `SHOW ROUTE [word] 'text' [;]`, or with the text between `$$`.
fn route_form(text: &str) -> Option<(Option<String>, String)> {
    let rest = skip_blanks(skip_keyword(skip_blanks(text), "show")?);
    let rest = skip_blanks(skip_keyword(rest, "route")?);
    if let Some(statement) = statement(rest) {
        return Some((None, statement));
    }
    let (database, rest) = word(rest)?;
    statement(skip_blanks(rest)).map(|statement| (Some(database), statement))
}

/// Nothing but a text in quotes, or between `$$`.
fn statement(text: &str) -> Option<String> {
    let (statement, rest) = quoted(text, '\'').or_else(|| dollar_quoted(text))?;
    at_end(rest).then_some(statement)
}

fn dollar_quoted(text: &str) -> Option<(String, &str)> {
    let (inside, rest) = text.strip_prefix("$$")?.split_once("$$")?;
    Some((inside.to_owned(), rest))
}

/// What follows a word that ends there.
fn skip_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let rest = strip_prefix_ignoring_case(text, keyword)?;
    (!rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')).then_some(rest)
}

/// A word and what follows it.
fn word(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// Text in quotes and what follows them; a quote inside is doubled.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix(quote)?;
    loop {
        let (part, behind) = rest.split_once(quote)?;
        value.push_str(part);
        let Some(more) = behind.strip_prefix(quote) else { return Some((value, behind)) };
        value.push(quote);
        rest = more;
    }
}

/// Nothing is left but blanks and one semicolon.
fn at_end(text: &str) -> bool {
    let text = skip_blanks(text);
    skip_blanks(text.strip_prefix(';').unwrap_or(text)).is_empty()
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

fn starts_with_blank(text: &str) -> bool {
    text.starts_with(is_blank)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// As C's `strtoul` would read it.
fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_REPEATED {
        return text.to_owned();
    }
    let end = (0..=MAX_REPEATED).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn db(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn set(key: &str, value: &str) -> Command {
        Command::Set { key: key.to_owned(), value: value.to_owned() }
    }

    fn route(database: Option<&str>, statement: &str) -> Command {
        Command::ShowRoute { database: database.and_then(db), statement: statement.to_owned() }
    }

    #[test]
    fn commands() {
        for (text, expected) in [
            ("SHOW POOLS", Command::Show(Show::Pools)),
            ("show pools;", Command::Show(Show::Pools)),
            (" \n\tShow\r\n Pools \t; \n", Command::Show(Show::Pools)),
            ("select version", Command::Show(Show::Version)),
            ("\"SHOW\" \"Stats_Totals\"", Command::Show(Show::StatsTotals)),
            ("SHOW timezone", Command::Show(Show::Fake(&FAKE_PARAMETERS[4]))),
            ("PAUSE", Command::Pause(None)),
            ("PAUSE Mixed", Command::Pause(db("Mixed"))),
            ("pause \"my db\"", Command::Pause(db("my db"))),
            ("pause \"a\"\"b\";", Command::Pause(db("a\"b"))),
            ("RESUME", Command::Resume(None)),
            ("RESUME a", Command::Resume(db("a"))),
            ("DISABLE", Command::Disable(None)),
            ("DISABLE a", Command::Disable(db("a"))),
            ("ENABLE a", Command::Enable(db("a"))),
            ("RECONNECT", Command::Reconnect(None)),
            ("RECONNECT a", Command::Reconnect(db("a"))),
            ("KILL", Command::Kill(None)),
            ("KILL a", Command::Kill(db("a"))),
            ("KILL_CLIENT 12", Command::KillClient(Some(12))),
            ("KILL_CLIENT 12ab", Command::KillClient(Some(12))),
            ("KILL_CLIENT x", Command::KillClient(None)),
            ("KILL_CLIENT", Command::KillClient(None)),
            ("KILL_CLIENT 99999999999999999999999", Command::KillClient(None)),
            ("CANCEL 12", Command::Cancel(Some(12))),
            ("CANCEL", Command::Cancel(None)),
            ("SUSPEND", Command::Suspend),
            ("SHUTDOWN", Command::Shutdown(Shutdown::Immediate)),
            ("SHUTDOWN wait_for_servers", Command::Shutdown(Shutdown::WaitForServers)),
            ("SHUTDOWN WAIT_FOR_CLIENTS;", Command::Shutdown(Shutdown::WaitForClients)),
            ("RELOAD", Command::Reload),
            ("RELOAD_PLAN", Command::ReloadPlan(None)),
            ("reload_plan \"/etc/a b.ini\";", Command::ReloadPlan(Some("/etc/a b.ini".into()))),
            ("WAIT_CLOSE", Command::WaitClose(None)),
            ("WAIT_CLOSE a", Command::WaitClose(db("a"))),
            ("SET a = b", set("a", "b")),
            ("set a=1;", set("a", "1")),
            ("set a to b", set("a", "b")),
            ("set a TO'it''s'", set("a", "it's")),
            ("set \"a b\" = \"c d\"", set("a b", "c d")),
            ("set a = ''", set("a", "")),
            ("set a = '/tmp/x-y.z' ; ", set("a", "/tmp/x-y.z")),
            ("SET DateStyle = 'ISO'", Command::SetIgnored),
            ("set client_encoding to utf8", Command::SetIgnored),
            ("SET extra_float_digits = 3", Command::SetIgnored),
            ("SHOW ROUTE 'select 1'", route(None, "select 1")),
            ("show\troute  'it''s' ;", route(None, "it's")),
            ("SHOW ROUTE a 'select 1'", route(Some("a"), "select 1")),
            ("SHOW ROUTE \"my db\"'x';", route(Some("my db"), "x")),
            ("SHOW ROUTE $$select 'x'$$", route(None, "select 'x'")),
            ("SHOW ROUTE ''", route(None, "")),
            ("BEGIN", Command::Transaction("BEGIN")),
            ("begin isolation level repeatable read, read only;", Command::Transaction("BEGIN")),
            ("START TRANSACTION READ WRITE", Command::Transaction("START TRANSACTION")),
            ("commit;", Command::Transaction("COMMIT")),
            ("ROLLBACK", Command::Transaction("ROLLBACK")),
            ("SHOW TRANSACTION ISOLATION LEVEL", Command::Show(Show::Fake(&ISOLATION))),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn not_commands() {
        for text in [
            "",
            ";",
            "SHOW",
            "SHOW ALL",
            "SHOW server_version",
            "SHOW POOLS x",
            "SHOW POOLS;;",
            "SHOW ROUTE",
            "SHOW ROUTE a",
            "SHOW ROUTE 'x",
            "SHOW ROUTE 'x' y",
            "SHOW ROUTE a b 'x'",
            "SHOW ROUTES 'x'",
            "SHOW ROUTE $$x$",
            "SHOWROUTE 'x'",
            "SHOW POOLS; SHOW LISTS",
            "SHOWPOOLS",
            "SHOW\"pools\"",
            "-- SHOW POOLS",
            "/* x */ SHOW POOLS",
            "SELECT 1",
            "select version()",
            "BEGIN; SHOW POOLS",
            "BEGIN what",
            "COMMIT PREPARED x",
            "PAUSE my-db",
            "PAUSE \"a",
            "RELOAD x",
            "SUSPEND x",
            "SHUTDOWN now",
            "SET a",
            "SET a = ",
            "SET a = b-c",
            "SET a = b c",
            "SET a = 'b",
            "SETa = b",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid command '{text}', use SHOW HELP;"));
        }
    }

    #[test]
    fn long_words() {
        assert_eq!(parse("abcdefghijklmnop"), Err(CommandError::BadArguments));
        assert!(matches!(parse("abcdefghijklmno"), Err(CommandError::Invalid(_))));
        let long = |length| "n".repeat(length);
        assert_eq!(parse(&format!("PAUSE {}", long(63))), Ok(Command::Pause(db(&long(63)))));
        assert_eq!(parse(&format!("PAUSE {}", long(64))), Err(CommandError::BadArguments));
        assert_eq!(parse(&format!("SET {} = 1", long(64))), Err(CommandError::BadArguments));
        assert_eq!(parse(&format!("SET a = '{}'", long(255))), Ok(set("a", &long(255))));
        assert_eq!(parse(&format!("SET a = '{}'", long(256))), Err(CommandError::BadArguments));
    }

    #[test]
    fn a_long_text_is_an_error_like_any() {
        let error = parse(&format!("SELECT '{}'", "é".repeat(100_000))).unwrap_err().to_string();
        assert!(error.starts_with("invalid command 'SELECT 'éé"), "{error}");
        assert!(error.ends_with("é...', use SHOW HELP;"), "{error}");
        assert!(error.len() < 450);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC*|((set|show|to|pause|pools|route|=|;|'|\"|\"\"| |é|x){1,2}){0,12}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.to_string().len() < 450);
            }
        }
    }
}
