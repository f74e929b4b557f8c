//! What the settings of TLS say. [`crate::tls`] makes of it what connections use.

use std::sync::Arc;

use crate::tls::{ServerTls, ServerWords};

/// `client_tls_sslmode` and `server_tls_sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum SslMode {
    /// Never.
    #[default]
    Disable,
    /// Where the other side wants it (PgBouncer does not tell this from `Prefer`).
    Allow,
    /// Where the other side can.
    Prefer,
    /// Always.
    Require,
    /// Always, and the other side shows a certificate that a known authority has signed.
    VerifyCa,
    /// As well; a server's is for the host name by which it is configured.
    VerifyFull,
}

impl SslMode {
    /// All of them, by their words.
    pub const ALL: [(&'static str, SslMode); 6] = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];

    /// By its word; `None`: there is no such mode.
    pub fn named(word: &str) -> Option<SslMode> {
        SslMode::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, mode)| mode)
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        SslMode::ALL[self as usize].0
    }

    /// Connections over TCP must be encrypted.
    pub fn is_mandatory(self) -> bool {
        self >= SslMode::Require
    }

    /// The other side must have a certificate that can be verified.
    pub fn verifies(self) -> bool {
        self >= SslMode::VerifyCa
    }
}

/// `server_tls_negotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Negotiation {
    /// By SSLRequest.
    #[default]
    Postgres,
    /// The connection begins with the handshake (PostgreSQL 17 and later).
    Direct,
}

impl Negotiation {
    /// By its word; `None`: there is none such.
    pub fn named(word: &str) -> Option<Negotiation> {
        match word {
            "postgres" => Some(Negotiation::Postgres),
            "direct" => Some(Negotiation::Direct),
            _ => None,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Negotiation::Postgres => "postgres",
            Negotiation::Direct => "direct",
        }
    }
}

/// What a database says of TLS to its servers. `None` means that the global setting counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseTls {
    /// `server_tls_sslmode`.
    pub mode: Option<SslMode>,
    /// `server_tls_negotiation`.
    pub negotiation: Option<Negotiation>,
    /// `server_tls_ca_file`; empty: none.
    pub ca_file: Option<String>,
    /// `server_tls_cert_file`; empty: none.
    pub cert_file: Option<String>,
    /// `server_tls_key_file`; empty: none.
    pub key_file: Option<String>,
    /// What comes of these and the global settings; `None`: it says nothing.
    pub tls: Option<Arc<ServerTls>>,
}

impl DatabaseTls {
    /// The settings of this database, if it has any of its own.
    pub fn over(&self, global: &ServerWords) -> Option<ServerWords> {
        let own = [&self.ca_file, &self.cert_file, &self.key_file];
        let says = self.mode.is_some() || self.negotiation.is_some() || own.iter().any(|file| file.is_some());
        let file = |own: &Option<String>, global: &String| own.as_ref().unwrap_or(global).clone();
        says.then(|| ServerWords {
            mode: self.mode.unwrap_or(global.mode),
            negotiation: self.negotiation.unwrap_or(global.negotiation),
            ca_file: file(&self.ca_file, &global.ca_file),
            cert_file: file(&self.cert_file, &global.cert_file),
            key_file: file(&self.key_file, &global.key_file),
            ..global.clone()
        })
    }
}
