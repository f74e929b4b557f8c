use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Hba, LdapOptions};

/// Who may log in, and how.
#[derive(Debug, Clone)]
pub struct Auth {
    /// How clients prove who they are.
    pub method: AuthMethod,
    /// What the method `Hba` follows.
    pub hba: Hba,
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
    /// Connections that have not logged in, and what failures cost.
    pub logins: LoginLimits,
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

/// What holds for connections until they have logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimits {
    /// Such connections in all.
    pub most: usize,
    /// Such connections from one address.
    pub most_of_address: Option<NonZeroU32>,
    /// How long the answer to an address's second failure in a row waits; it doubles from there. Zero: none waits.
    pub failure_delay: Duration,
}

/// `auth_type`, or the method of a rule.
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
    /// A client certificate with the user's name, over TLS.
    Cert,
    /// The user of the operating system, over a Unix socket. Of rules only.
    Peer,
    /// Nobody is let in. Of rules only.
    Reject,
    /// A password that an LDAP server judges.
    Ldap,
    /// A password that PAM judges.
    Pam,
    /// What the first rule that fits says. Of `auth_type` only.
    Hba,
}

impl AuthMethod {
    /// Its word in a rule, or that of `auth_type`.
    pub fn name(self) -> &'static str {
        match self {
            AuthMethod::Any => "any",
            AuthMethod::Trust => "trust",
            AuthMethod::Plain => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::Scram => "scram-sha-256",
            AuthMethod::Cert => "cert",
            AuthMethod::Peer => "peer",
            AuthMethod::Reject => "reject",
            AuthMethod::Ldap => "ldap",
            AuthMethod::Pam => "pam",
            AuthMethod::Hba => "hba",
        }
    }
}

/// Known users by name. A user with an empty secret exists but can pass no password method.
#[derive(Debug, Clone, Default)]
pub struct Userlist(pub HashMap<String, Secret>);

/// A secret as stored; its kind is told from its text (`md5…`, `SCRAM-SHA-256$…`, otherwise plain). It is wiped when it is
/// dropped, and compared in constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as it stands in the file.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
