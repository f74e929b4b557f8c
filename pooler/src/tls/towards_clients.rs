//! TLS towards clients.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, ServerConnection};

use super::files::{Files, Fingerprint};
use super::suites::Words;
use super::{ALPN, Findings, certificate};
use crate::config::SslMode;

/// The settings `client_tls_*` as written.
#[derive(Debug, Clone, Copy)]
pub struct ClientWords<'a> {
    /// `client_tls_sslmode`.
    pub mode: SslMode,
    /// `client_tls_ca_file`; empty: none.
    pub ca_file: &'a str,
    /// `client_tls_cert_file`.
    pub cert_file: &'a str,
    /// `client_tls_key_file`.
    pub key_file: &'a str,
    /// `client_tls_protocols`.
    pub protocols: &'a str,
    /// `client_tls_ciphers`.
    pub ciphers: &'a str,
    /// `client_tls13_ciphers`.
    pub tls13_ciphers: Option<&'a str>,
    /// `client_tls_ecdhcurve`.
    pub curve: &'a str,
    /// `client_tls_dheparams`.
    pub dheparams: &'a str,
}

/// What connections of clients use. Two are equal if settings and files are.
#[derive(Clone, Default)]
pub struct ClientTls {
    mode: SslMode,
    fingerprint: Fingerprint,
    /// None when disabled.
    accepting: Option<Arc<Accepting>>,
}

/// What a handshake needs.
pub(crate) struct Accepting {
    config: Arc<ServerConfig>,
    /// Of the own certificate.
    end_point: Option<Arc<[u8]>>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &ClientTls) -> bool {
        self.fingerprint == other.fingerprint && self.mode == other.mode
    }
}

impl ClientTls {
    /// Reads the files and builds what handshakes use. With faults it can't be used.
    pub fn build(
        words: &ClientWords<'_>,
        read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
        findings: &mut Findings,
    ) -> ClientTls {
        if words.mode == SslMode::Disable {
            return ClientTls::default();
        }
        let mut files = Files::new(read, findings);
        words.note(&mut files);
        let accepting = accepting(words, &mut files).map(Arc::new);
        ClientTls { mode: words.mode, fingerprint: files.fingerprint(), accepting }
    }

    /// Goes on with what was in effect if nothing has changed, so that tickets that clients have stay good, or if what has
    /// changed can't be used.
    pub fn keep(&mut self, old: &ClientTls) {
        let unusable = self.mode != SslMode::Disable && self.accepting.is_none();
        if unusable || self == old {
            *self = old.clone();
        }
    }

    /// `client_tls_sslmode`.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// What a handshake needs; `None`: TLS is refused.
    pub(crate) fn accepting(&self) -> Option<Arc<Accepting>> {
        self.accepting.clone()
    }
}

impl ClientWords<'_> {
    fn note(&self, files: &mut Files<'_>) {
        let words = [
            self.mode.as_str(),
            self.ca_file,
            self.cert_file,
            self.key_file,
            self.protocols,
            self.ciphers,
            self.tls13_ciphers.unwrap_or_default(),
            self.curve,
            self.dheparams,
        ];
        words.into_iter().for_each(|word| files.note(word.as_bytes()));
    }
}

fn accepting(words: &ClientWords<'_>, files: &mut Files<'_>) -> Option<Accepting> {
    let spoken = Words {
        protocols: words.protocols,
        ciphers: words.ciphers,
        tls13_ciphers: words.tls13_ciphers,
        curve: Some(words.curve),
    }
    .resolve(files.findings);
    if words.dheparams == "legacy" {
        let advice = "keys are exchanged by elliptic curves only";
        files.findings.warn("dheparams", "legacy has no effect", advice);
    }
    for (setting, file) in [("cert_file", words.cert_file), ("key_file", words.key_file)] {
        if file.is_empty() {
            files.findings.fault(
                setting,
                "not set",
                "clients can't use TLS without; or set client_tls_sslmode = disable",
            );
        }
    }
    let mut provider = ring::default_provider();
    if let Some(spoken) = &spoken {
        provider.cipher_suites.clone_from(&spoken.suites);
        provider.kx_groups.clone_from(&spoken.groups);
    }
    let given = !words.cert_file.is_empty() && !words.key_file.is_empty();
    let identity = if given { files.identity(words.cert_file, words.key_file, &provider) } else { None };
    let provider = Arc::new(provider);
    let verifier = verifier(words, files, &provider);
    let (spoken, identity, verifier) = (spoken?, identity?, verifier?);
    let end_point = identity.cert.first().and_then(|own| certificate::end_point(own));
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&spoken.versions);
    let mut config = match config {
        Ok(config) => config
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        Err(error) => {
            files.findings.fault("protocols", error.to_string(), "");
            return None;
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A ticket holds the session, encrypted with a key that only this process has: nothing is kept for clients that do
    // not come again. One is enough: drivers that resume at all open connections one by one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    match ring::Ticketer::new() {
        Ok(ticketer) => config.ticketer = ticketer,
        Err(_) => config.send_tls13_tickets = 0,
    }
    Some(Accepting { config: Arc::new(config), end_point: end_point.map(Into::into) })
}

/// Whether clients are asked for a certificate, and by whom it must be signed. Where they may do without, one that is
/// shown must be good all the same, as with PgBouncer.
fn verifier(
    words: &ClientWords<'_>,
    files: &mut Files<'_>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Option<Arc<dyn ClientCertVerifier>> {
    if words.ca_file.is_empty() {
        if words.mode.verifies() {
            let message = format!("{} needs client_tls_ca_file", words.mode.as_str());
            files.findings.fault("sslmode", message, "it says who signs the certificates of clients");
            return None;
        }
        return Some(WebPkiClientVerifier::no_client_auth());
    }
    let authorities = files.authorities(words.ca_file)?;
    let builder = WebPkiClientVerifier::builder_with_provider(authorities.roots, provider.clone());
    let builder = if words.mode.verifies() { builder } else { builder.allow_unauthenticated() };
    match builder.build() {
        Ok(verifier) => Some(verifier),
        Err(error) => {
            files.findings.fault("ca_file", format!("could not use {}: {error}", words.ca_file), "");
            None
        }
    }
}

impl Accepting {
    /// A connection whose handshake has not begun.
    pub(crate) fn begin(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.config.clone())
    }

    /// What is known of it at its end.
    pub(crate) fn info(&self, connection: &ServerConnection) -> super::TlsInfo {
        super::TlsInfo::new(connection, true, Some(self.end_point.clone()))
    }
}
