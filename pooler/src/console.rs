//! The one call against the arrows: a client that asked for the console.

use std::future::Future;
use std::pin::Pin;

use crate::control::Control;

/// What a console client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything (`admin_users`, or the owner of the process through the Unix socket).
    Admin,
    /// Look only (`stats_users`).
    Stats,
}

/// Answers console commands. Implemented by the crate `admin`.
pub trait Console: Send + Sync {
    /// Runs one command and returns the messages that answer it, without the closing `ReadyForQuery`. Dropped if the
    /// client leaves: a command that waits (`PAUSE`) stops waiting then.
    fn execute<'a>(
        &'a self,
        control: &'a Control,
        command: &'a str,
        rights: Rights,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>>;

    /// A conversation with one client.
    fn converse<'a>(&'a self, control: &'a Control, rights: Rights) -> Box<dyn Conversing + 'a>;

    /// `server_version` in the console's welcome.
    fn version(&self) -> String;
}

/// The console's side of a conversation, which has both of PostgreSQL's protocols for queries.
pub trait Conversing {
    /// Answers one message of the client, of any kind but `Terminate`. Dropped if the client leaves, or cancels.
    fn answer<'a>(&'a mut self, tag: u8, body: &'a [u8]) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>>;

    /// The answer to the message at hand was dropped because the client has cancelled it: takes back what waited, and
    /// says so.
    fn cancelled(&mut self) -> Vec<u8>;
}

/// What the console's database, user and pool are called in tables: PgBouncer's name, which tools look for.
pub const NAME: &str = "pgbouncer";

/// Whether this database means the console.
pub fn is_console(database: &str) -> bool {
    matches!(database, NAME | "pgferry")
}
