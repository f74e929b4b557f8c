//! TLS by rustls: from settings to what connections of either side use. Files are read once, here; what has not changed
//! since keeps its tickets and sessions ([`ClientTls::keep`]).

mod certificate;
mod files;
mod info;
mod suites;
mod towards_clients;
mod towards_servers;
mod verify;

pub use towards_clients::{ClientTls, ClientWords};
pub use towards_servers::{ServerTls, ServerWords};

pub(crate) use info::TlsInfo;
pub(crate) use towards_clients::Accepting;
pub(crate) use towards_servers::Dialling;

/// The protocol that both sides name by ALPN.
const ALPN: &[u8] = b"postgresql";

/// What is wrong with the settings of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// It can't be used so.
    pub faults: Vec<Finding>,
    /// It is probably not meant so.
    pub warnings: Vec<Finding>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The setting without `client_tls_` or `server_tls_` in front; `tls13_ciphers` for `client_tls13_ciphers`.
    pub setting: &'static str,
    /// What. It never holds a key.
    pub message: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Findings {
    fn fault(&mut self, setting: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.faults.push(Finding { setting, message: message.into(), advice: advice.into() });
    }

    fn warn(&mut self, setting: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.warnings.push(Finding { setting, message: message.into(), advice: advice.into() });
    }
}
