//! Certificates for tests: authorities, and what they sign.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm,
};

use crate::scratch::{Scratch, give_to_servers};

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificates between the root and what it signs, in PEM, this authority's own first; empty for a root.
    chain: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A root of this name.
    pub fn new(name: &str) -> Authority {
        let issuer =
            CertifiedIssuer::self_signed(authority_params(name), key(&rcgen::PKCS_ECDSA_P256_SHA256));
        Authority { issuer: issuer.expect("a root certificate"), chain: String::new() }
    }

    /// An authority below this one, whose certificate goes along with what it signs.
    pub fn intermediate(&self, name: &str) -> Authority {
        let key = key(&rcgen::PKCS_ECDSA_P256_SHA256);
        let issuer = CertifiedIssuer::signed_by(authority_params(name), key, &self.issuer);
        let issuer = issuer.expect("an intermediate certificate");
        let chain = issuer.pem() + &self.chain;
        Authority { issuer, chain }
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its certificate in DER.
    pub fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A certificate for a server of these names, each a DNS name or an IP address. The first is the common name.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue(common_name(names[0]).alternatives(names).usage(ExtendedKeyUsagePurpose::ServerAuth))
    }

    /// A certificate for a client with this common name and no alternative ones.
    pub fn client(&self, name: &str) -> Identity {
        self.issue(common_name(name).usage(ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// A certificate as asked for.
    pub fn issue(&self, request: Request) -> Identity {
        let key = key(request.algorithm);
        let cert = request.params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { cert: cert.pem() + &self.chain, key: key.serialize_pem(), der: cert.der().to_vec() }
    }
}

/// What a certificate is to say.
#[derive(Debug)]
pub struct Request {
    params: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
}

/// Begins a request for a certificate whose subject has this common name.
pub fn common_name(name: &str) -> Request {
    Request { params: named(name), algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 }
}

impl Request {
    /// With these alternative names, each a DNS name or an IP address.
    pub fn alternatives(mut self, names: &[&str]) -> Request {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.params.subject_alt_names = CertificateParams::new(names).expect("names").subject_alt_names;
        self
    }

    /// For this usage; several calls add up.
    pub fn usage(mut self, usage: ExtendedKeyUsagePurpose) -> Request {
        self.params.extended_key_usages.push(usage);
        self
    }

    /// With a key of this kind (`rcgen::PKCS_ED25519`, ...); it decides the signature of a self-signed one, too.
    pub fn key(mut self, algorithm: &'static SignatureAlgorithm) -> Request {
        self.algorithm = algorithm;
        self
    }

    /// Which was valid for a day, years ago.
    pub fn expired(mut self) -> Request {
        self.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        self.params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        self
    }

    /// With anything else that `rcgen` can say.
    pub fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Request {
        change(&mut self.params);
        self
    }

    /// Signed by its own key.
    pub fn self_signed(self) -> Identity {
        let key = key(self.algorithm);
        let cert = self.params.self_signed(&key).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().to_vec() }
    }
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate in PEM, and those between it and the root.
    pub cert: String,
    /// The private key in PEM (PKCS #8).
    pub key: String,
    /// The certificate alone, in DER.
    pub der: Vec<u8>,
}

/// A directory of PEM files that servers can read; removed with the value.
#[derive(Debug)]
pub struct Files(Scratch);

impl Files {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Files {
        Files(Scratch::new("pki"))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, in place of an earlier one of this name. Nobody else may read it: it may be a key.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close a file to others");
        path
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub fn identity(&self, name: &str, identity: &Identity) -> (PathBuf, PathBuf) {
        (
            self.write(&format!("{name}.crt"), &identity.cert),
            self.write(&format!("{name}.key"), &identity.key),
        )
    }
}

/// Writes a file that belongs to the servers' user and that nobody else may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("close a file to others");
    give_to_servers(path);
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).expect("a key")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
