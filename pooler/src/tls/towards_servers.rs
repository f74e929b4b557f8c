//! TLS towards servers.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection};

use super::files::{Files, Fingerprint};
use super::suites::Words;
use super::verify::ServerVerifier;
use super::{ALPN, Findings};
use crate::config::{Negotiation, SslMode};

/// The settings `server_tls_*` as written, of the process or of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerWords {
    /// `server_tls_sslmode`.
    pub mode: SslMode,
    /// `server_tls_negotiation`.
    pub negotiation: Negotiation,
    /// `server_tls_ca_file`; empty: none. `system`: those that the system has.
    pub ca_file: String,
    /// `server_tls_cert_file`; empty: none is shown.
    pub cert_file: String,
    /// `server_tls_key_file`.
    pub key_file: String,
    /// `server_tls_protocols`.
    pub protocols: String,
    /// `server_tls_ciphers`.
    pub ciphers: String,
    /// `server_tls13_ciphers`.
    pub tls13_ciphers: Option<String>,
}

/// What connections to servers use. Two are equal if settings and files are.
#[derive(Clone, Default)]
pub struct ServerTls {
    mode: SslMode,
    negotiation: Negotiation,
    fingerprint: Fingerprint,
    dialling: Option<Arc<Dialling>>,
}

/// What a handshake needs.
pub(crate) struct Dialling {
    config: Arc<ClientConfig>,
    /// Certificates are verified.
    verifies: bool,
}

/// Sessions that may be resumed, of all servers. PostgreSQL offers none; other poolers do.
const SESSIONS: usize = 64;

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &ServerTls) -> bool {
        self.fingerprint == other.fingerprint && self.mode == other.mode
    }
}

impl Eq for ServerTls {}

impl ServerTls {
    /// Reads the files and builds what handshakes use. With faults it can't be used.
    pub fn build(
        words: &ServerWords,
        read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
        findings: &mut Findings,
    ) -> ServerTls {
        if words.mode == SslMode::Disable {
            return ServerTls::default();
        }
        let mut files = Files::new(read, findings);
        words.note(&mut files);
        let dialling = dialling(words, &mut files).map(Arc::new);
        let fingerprint = files.fingerprint();
        ServerTls { mode: words.mode, negotiation: words.negotiation, fingerprint, dialling }
    }

    /// Goes on with what was in effect if nothing has changed, so that sessions can be resumed, or if what has changed can't
    /// be used.
    pub fn keep(&mut self, old: &ServerTls) {
        if self.is_unusable() || self == old {
            *self = old.clone();
        }
    }

    fn is_unusable(&self) -> bool {
        self.mode != SslMode::Disable && self.dialling.is_none()
    }

    /// `server_tls_sslmode`.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// `server_tls_negotiation`.
    pub fn negotiation(&self) -> Negotiation {
        self.negotiation
    }

    /// What a handshake needs; `None`: TLS is not used.
    pub(crate) fn dialling(&self) -> Option<Arc<Dialling>> {
        self.dialling.clone()
    }

    /// Names this state of settings and files, for telling two apart.
    pub(crate) fn digest(&self) -> String {
        let digits: String = self.fingerprint.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{} ({digits})", self.mode.as_str())
    }
}

impl ServerWords {
    fn note(&self, files: &mut Files<'_>) {
        let words = [
            self.mode.as_str(),
            self.negotiation.as_str(),
            &self.ca_file,
            &self.cert_file,
            &self.key_file,
            &self.protocols,
            &self.ciphers,
            self.tls13_ciphers.as_deref().unwrap_or_default(),
        ];
        words.into_iter().for_each(|word| files.note(word.as_bytes()));
    }
}

fn dialling(words: &ServerWords, files: &mut Files<'_>) -> Option<Dialling> {
    let spoken = Words {
        protocols: &words.protocols,
        ciphers: &words.ciphers,
        tls13_ciphers: words.tls13_ciphers.as_deref(),
        curve: None,
    }
    .resolve(files.findings);
    let mut provider = ring::default_provider();
    if let Some(spoken) = &spoken {
        provider.cipher_suites.clone_from(&spoken.suites);
        provider.kx_groups.clone_from(&spoken.groups);
    }
    let identity = match (words.cert_file.as_str(), words.key_file.as_str()) {
        ("", "") => Some(None),
        ("", _) => {
            let advice = "set server_tls_cert_file as well, or neither";
            files.findings.fault("cert_file", "there is a key without a certificate", advice);
            None
        }
        (_, "") => {
            let advice = "set server_tls_key_file as well, or neither";
            files.findings.fault("key_file", "there is a certificate without a key", advice);
            None
        }
        (cert_file, key_file) => files.identity(cert_file, key_file, &provider).map(Some),
    };
    if words.negotiation == Negotiation::Direct && !words.mode.is_mandatory() {
        let message = format!("direct with server_tls_sslmode = {}", words.mode.as_str());
        files.findings.fault(
            "negotiation",
            message,
            "who begins with TLS can't go on without: set it to require or more",
        );
    }
    let authorities = match words.ca_file.as_str() {
        "" if words.mode.verifies() => {
            let message = format!("{} needs server_tls_ca_file", words.mode.as_str());
            files.findings.fault("sslmode", message, "it says who signs the certificates of servers");
            None
        }
        // Where TLS is a matter of chance, so is who is at the other end.
        _ if !words.mode.is_mandatory() => Some(None),
        "" => Some(None),
        file => files.authorities(file).map(Some),
    };
    let (spoken, identity, authorities) = (spoken?, identity?, authorities?);
    let verifies = authorities.is_some();
    let provider = Arc::new(provider);
    let names = words.mode == SslMode::VerifyFull;
    let verifier = ServerVerifier { provider: provider.clone(), authorities, names };
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&spoken.versions);
    let config = match config {
        Ok(config) => config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        Err(error) => {
            files.findings.fault("protocols", error.to_string(), "");
            return None;
        }
    };
    let mut config = match identity {
        Some(identity) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(identity));
            config.with_client_cert_resolver(resolver)
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Some(Dialling { config: Arc::new(config), verifies })
}

impl Dialling {
    /// A connection to a server by this name, whose handshake has not begun.
    pub(crate) fn begin(&self, name: ServerName<'static>) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), name)
    }

    /// What is known of it at its end.
    pub(crate) fn info(&self, connection: &ClientConnection) -> super::TlsInfo {
        super::TlsInfo::new(connection, self.verifies, None)
    }
}
