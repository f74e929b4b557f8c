use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::LdapOptions;

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
    /// For those whose password an LDAP server judges.
    pub ldap: Option<Arc<LdapOptions>>,
    /// As which service PAM is asked: the name of a file in `/etc/pam.d`.
    pub pam_service: String,
    /// PBKDF2 rounds of verifiers made here (plain secrets and unknown users).
    pub scram_iterations: u32,
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
    /// A password in the clear that an LDAP server judges.
    Ldap,
    /// A password in the clear that PAM judges.
    Pam,
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
