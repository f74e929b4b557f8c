use std::fmt;
use std::path::PathBuf;

use protocol::ldap::Search;

/// Where and how an LDAP server judges passwords.
#[derive(Debug, Clone)]
pub struct LdapOptions {
    /// Tried in this order; not empty.
    pub servers: Vec<LdapServer>,
    /// What protects passwords on their way.
    pub security: LdapSecurity,
    /// Authorities that sign the servers' certificates; `None`: what `LDAPTLS_CACERT` names, else the system's.
    pub ca_file: Option<PathBuf>,
    /// How the directory knows a user.
    pub lookup: LdapLookup,
}

/// An LDAP server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LdapServer {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for LdapServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What protects passwords on their way to an LDAP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LdapSecurity {
    /// Nothing.
    None,
    /// TLS that begins after a request in the clear.
    StartTls,
    /// TLS from the first byte on.
    Tls,
}

/// How the directory knows a user.
#[derive(Clone)]
pub enum LdapLookup {
    /// By a name made of the user's.
    Bind {
        /// In front of it.
        prefix: String,
        /// Behind it.
        suffix: String,
    },
    /// By the name of what a search for the user finds.
    Search(Search),
}

impl fmt::Debug for LdapLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LdapLookup::Bind { prefix, suffix } => {
                f.debug_struct("Bind").field("prefix", prefix).field("suffix", suffix).finish()
            }
            LdapLookup::Search(search) => f
                .debug_struct("Search")
                .field("bind_name", &search.bind_name)
                .field("base", &search.base)
                .field("scope", &search.scope)
                .field("filter", &search.filter)
                .finish_non_exhaustive(),
        }
    }
}
