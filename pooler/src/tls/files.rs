//! PEM files: authorities, a certificate and its key.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::verify::Authorities;
use super::{Findings, certificate};

/// Reads a file.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Reads the files of one side, and takes a fingerprint of all that it has read or been told, by which it is known whether
/// anything has changed. No key is kept for that.
pub(super) struct Files<'a> {
    read: ReadFile<'a>,
    hash: Sha256,
    pub(super) findings: &'a mut Findings,
}

/// Stands for the authorities of the system.
const SYSTEM: &str = "system";

/// Where Debian, Red Hat, SUSE and Alpine keep them.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Of settings and files.
pub(super) type Fingerprint = [u8; 32];

impl<'a> Files<'a> {
    pub(super) fn new(read: ReadFile<'a>, findings: &'a mut Findings) -> Files<'a> {
        Files { read, hash: Sha256::new(), findings }
    }

    /// Adds a value to the fingerprint.
    pub(super) fn note(&mut self, value: &[u8]) {
        self.hash.update((value.len() as u64).to_be_bytes());
        self.hash.update(value);
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.hash.clone().finalize().into()
    }

    fn read(&mut self, setting: &'static str, path: &str) -> Option<Vec<u8>> {
        match (self.read)(Path::new(path)) {
            Ok(bytes) => {
                self.note(&bytes);
                Some(bytes)
            }
            Err(error) => {
                let error = error.to_string();
                let error = error.split(" (os error").next().unwrap_or_default();
                self.findings.fault(setting, format!("could not load {path}: {error}"), "");
                None
            }
        }
    }

    fn certificates(&mut self, setting: &'static str, path: &str) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.read(setting, path)?;
        let parsed: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
        match parsed {
            Ok(certificates) if !certificates.is_empty() => Some(certificates),
            Ok(_) => {
                let message = format!("could not load {path}: no certificate in it");
                self.findings.fault(setting, message, "expected PEM: -----BEGIN CERTIFICATE-----");
                None
            }
            Err(error) => {
                self.findings.fault(setting, format!("could not load {path}: {error}"), "");
                None
            }
        }
    }

    /// The certificates that are believed, of a file or of the system. Some of them may be unreadable, but not all.
    pub(super) fn authorities(&mut self, path: &str) -> Option<Authorities> {
        let path = match path {
            SYSTEM => match SYSTEM_FILES.iter().find(|path| (self.read)(Path::new(path)).is_ok()) {
                Some(path) => path,
                None => {
                    let advice = format!("looked for {}", SYSTEM_FILES.join(", "));
                    self.findings.fault("ca_file", "the system has no file of authorities", advice);
                    return None;
                }
            },
            path => path,
        };
        let listed = self.certificates("ca_file", path)?;
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(listed.iter().cloned());
        if ignored > 0 {
            let message = format!("{ignored} certificates in {path} are not understood");
            self.findings.warn("ca_file", message, "what they have signed is not accepted");
        }
        Some(Authorities { roots: Arc::new(roots), listed })
    }

    /// A certificate, those behind it in its file, and its key.
    pub(super) fn identity(
        &mut self,
        cert_file: &str,
        key_file: &str,
        provider: &CryptoProvider,
    ) -> Option<Arc<CertifiedKey>> {
        let chain = self.certificates("cert_file", cert_file);
        let key = self.key(key_file);
        let (chain, key) = (chain?, key?);
        let key = match provider.key_provider.load_private_key(key) {
            Ok(key) => key,
            Err(error) => {
                let advice = "RSA (2048 bits and more), ECDSA (P-256, P-384) and Ed25519 are understood";
                self.findings.fault(
                    "key_file",
                    format!("could not use the key in {key_file}: {error}"),
                    advice,
                );
                return None;
            }
        };
        let of_certificate = chain.first().and_then(|first| certificate::public_key(first));
        let of_key = key.public_key().map(|key| key.as_ref().to_vec());
        if of_key.is_some() && of_certificate != of_key {
            let message = format!("the key in {key_file} is not that of the certificate in {cert_file}");
            self.findings.fault("key_file", message, "");
            return None;
        }
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn key(&mut self, path: &str) -> Option<PrivateKeyDer<'static>> {
        let bytes = self.read("key_file", path)?;
        match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(key) => Some(key),
            Err(pem::Error::NoItemsFound) => {
                let encrypted = String::from_utf8_lossy(&bytes).contains("ENCRYPTED");
                let (what, advice) = match encrypted {
                    true => ("the key in it is encrypted", "a key with a passphrase can't be used"),
                    false => ("no private key in it", "expected PEM: -----BEGIN PRIVATE KEY-----"),
                };
                self.findings.fault("key_file", format!("could not load {path}: {what}"), advice);
                None
            }
            // What the parser says never holds the key.
            Err(error) => {
                self.findings.fault("key_file", format!("could not load {path}: {error}"), "");
                None
            }
        }
    }
}
