use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Who may log in, and how.
#[derive(Debug, Clone)]
pub struct Auth {
    /// How clients prove who they are.
    pub method: AuthMethod,
    /// Known users and their secrets.
    pub userlist: Userlist,
    /// Full rights on the console.
    pub admin_users: Vec<String>,
    /// Read-only rights on the console.
    pub stats_users: Vec<String>,
    /// PBKDF2 rounds of verifiers made here (plain secrets and unknown users).
    pub scram_iterations: u32,
    /// How users are looked up that the list does not have.
    pub query: AuthQuery,
}

/// How PostgreSQL is asked about users, where a database does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthQuery {
    /// Who asks (`auth_user`); `None`: nobody, so that only listed users are known.
    pub user: Option<String>,
    /// Where (`auth_dbname`); `None`: in the client's own database. Never the console's name.
    pub dbname: Option<String>,
    /// What (`auth_query`): two columns, name and secret, for the name in `$1`.
    pub sql: String,
    /// How long an answer counts; zero: each login asks.
    pub cache_ttl: Duration,
}

/// `auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// No check; the server-side user must be forced by the database.
    Any,
    /// No check, but the name must be known.
    Trust,
    /// Clear-text password.
    Plain,
    /// MD5 challenge; SCRAM for users whose secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
}

/// Known users by name. A user with an empty secret exists but can pass no password method.
#[derive(Debug, Clone, Default)]
pub struct Userlist(pub HashMap<String, Secret>);

/// A secret as stored; its kind is told from its text (`md5…`, `SCRAM-SHA-256$…`, otherwise plain).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it stands in the file.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
