//! What is read in certificates beyond their verification.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::UnixTime;
use rustls::{DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{
    ContextSpecific, Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef,
};
use x509_cert::der::{Decode, Encode, SliceReader, TagNumber};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierOwned;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// The `tls-server-end-point` of a server's certificate (RFC 5929, section 4.1): its hash by the function of its signature,
/// where that is MD5 or SHA-1 by SHA-256. `None`: the signature has no hash function of its own (Ed25519), or it is one
/// that nobody uses.
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(match hash_of(certificate.signature_algorithm())? {
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Hash {
    /// MD5 and SHA-1 as well.
    Sha256,
    Sha384,
    Sha512,
}

fn hash_of(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    if algorithm.oid == RSA_PSS {
        let Some(parameters) = &algorithm.parameters else { return Some(Hash::Sha256) }; // SHA-1 is the default
        let mut reader = SliceReader::new(parameters.value()).ok()?;
        let hash =
            ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber(0)).ok()?;
        let Some(hash) = hash else { return Some(Hash::Sha256) };
        return match hash.value.oid.to_string().as_str() {
            "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
            "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
            "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
            _ => None,
        };
    }
    match algorithm.oid.to_string().as_str() {
        // RSA and ECDSA, each with MD5, SHA-1 or SHA-256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        _ => None,
    }
}

/// The public key of a certificate of any version, as `SubjectPublicKeyInfo` in DER.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(der).ok()?.tbs_certificate().subject_public_key_info().to_der().ok()
}

/// Whether it is valid at a moment.
pub(super) fn is_valid_at(der: &[u8], now: UnixTime) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let validity = certificate.tbs_certificate().validity();
    let now = now.as_secs();
    validity.not_before.to_unix_duration().as_secs() <= now
        && now <= validity.not_after.to_unix_duration().as_secs()
}

/// The common names of a certificate, which do not count where it has alternative names that hosts are looked for in: DNS
/// names, and for a host that is an address, addresses.
pub(super) fn names_without_alternatives(der: &[u8], host_is_address: bool) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(der) else { return Vec::new() };
    let tbs = certificate.tbs_certificate();
    let counts = |name: &GeneralName| match name {
        GeneralName::DnsName(_) => true,
        GeneralName::IpAddress(_) => host_is_address,
        _ => false,
    };
    match tbs.get_extension::<SubjectAltName>() {
        Ok(Some((_, names))) if names.0.iter().any(counts) => Vec::new(),
        Err(_) => Vec::new(),
        _ => tbs.subject().iter().filter(|part| part.oid == COMMON_NAME).filter_map(text).collect(),
    }
}

fn text(part: &AttributeTypeAndValue) -> Option<String> {
    let value = &part.value;
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| ia5()).ok()
}

/// Whether a name from a certificate, whose first label may be `*`, is that of a host.
pub(super) fn name_matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.trim_end_matches('.'), host.trim_end_matches('.'));
    if pattern.is_empty() || pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(parent), Some((first, rest))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    // Of `*.com` nothing is accepted, and an address has no labels.
    parent.contains('.')
        && !first.is_empty()
        && host.parse::<std::net::IpAddr>().is_err()
        && parent.eq_ignore_ascii_case(rest)
}

/// Checks the signature of a handshake by the key of a certificate of any version; of the old version 1 as well, which
/// `webpki` does not read.
pub(super) fn verify_signature(
    message: &[u8],
    der: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    let certificate =
        Certificate::from_der(der).map_err(|_| Error::from(rustls::CertificateError::BadEncoding))?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    let bad = || Error::from(rustls::CertificateError::BadSignature);
    // Identifiers are compared without their outer header, as `webpki` has them.
    let algorithm = key.algorithm.to_der().map_err(|_| bad())?;
    let algorithm = contents(&algorithm).ok_or_else(bad)?;
    let bits = key.subject_public_key.as_bytes().ok_or_else(bad)?;
    let schemes: &[_] = candidates(algorithms, signed.scheme)?;
    let fitting = schemes.iter().filter(|scheme| scheme.public_key_alg_id().as_ref() == algorithm);
    for scheme in fitting {
        if scheme.verify_signature(bits, message, signed.signature()).is_ok() {
            return Ok(());
        }
    }
    Err(bad())
}

fn candidates(
    algorithms: &WebPkiSupportedAlgorithms,
    scheme: SignatureScheme,
) -> Result<&[&'static dyn rustls::pki_types::SignatureVerificationAlgorithm], Error> {
    let found = algorithms.mapping.iter().find(|(known, _)| *known == scheme);
    let found = found.map(|(_, candidates)| *candidates);
    found.ok_or_else(|| PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

/// What is inside the outermost value in DER.
fn contents(der: &[u8]) -> Option<&[u8]> {
    use x509_cert::der::asn1::AnyRef;
    AnyRef::from_der(der).ok().map(|any| any.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_with(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        let der = signed_with(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&der), Some(Sha256::digest(&der).to_vec()));
        let der = signed_with(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&der), Some(Sha384::digest(&der).to_vec()));
        assert_eq!(end_point(&signed_with(&rcgen::PKCS_ED25519)), None);
        assert_eq!(end_point(b"no certificate"), None);
    }

    /// RSA-PSS names its hash in parameters, by default SHA-1, in whose place RFC 5929 puts SHA-256.
    #[test]
    fn the_hash_of_rsa_pss_is_in_its_parameters() {
        let with = |parameters: &[u8]| {
            // SEQUENCE { id-RSASSA-PSS, parameters }
            let oid = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0a];
            let content = [&oid, parameters].concat();
            let der = [&[0x30, content.len() as u8], content.as_slice()].concat();
            hash_of(&AlgorithmIdentifierOwned::from_der(&der).unwrap())
        };
        let sha = |last: u8| {
            let oid = [0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, last];
            [&[0x30, 15, 0xa0, 13, 0x30, 11], oid.as_slice()].concat()
        };
        assert_eq!(with(&[]), Some(Hash::Sha256));
        assert_eq!(with(&[0x30, 0]), Some(Hash::Sha256));
        assert_eq!(with(&sha(1)), Some(Hash::Sha256));
        assert_eq!(with(&sha(2)), Some(Hash::Sha384));
        assert_eq!(with(&sha(3)), Some(Hash::Sha512));
        assert_eq!(with(&sha(4)), None); // SHA-224
    }

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(name_matches("db.example.com", "DB.example.com"));
        assert!(name_matches("*.example.com", "db.example.com."));
        assert!(!name_matches("*.example.com", "a.db.example.com"));
        assert!(!name_matches("*.example.com", "example.com"));
        assert!(!name_matches("*.com", "example.com"));
        assert!(!name_matches("*.0.0.1", "127.0.0.1"));
        assert!(!name_matches("d*.example.com", "db.example.com"));
        assert!(!name_matches("", ""));
    }
}
