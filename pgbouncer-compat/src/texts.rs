//! Wording that tools depend on and that belongs to no single module.

/// What `SHOW VERSION` answers, and the first line of `--version`. Tools take the first three numbers for PgBouncer's
/// version and choose the columns they ask for by it, so it names the release whose surface this is.
pub const VERSION: &str = concat!("PgBouncer 1.25.2 (pgferry ", env!("CARGO_PKG_VERSION"), ")");

/// A console command of which a word is too long.
pub const BAD_ARGUMENTS: &str = "bad arguments";

/// A text that is no console command.
pub fn invalid_command(text: &str) -> String {
    format!("invalid command '{text}', use SHOW HELP;")
}
