//! Client certificates: the method `cert`, and `clientcert` of rules with other methods.

use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::RdnSequence;

use super::rules::Demand;
use super::{Arrival, Denied};
use crate::config::{AuthMethod, CertificateCheck, CertificateName};
use crate::error::Refusal;
use crate::net::Peer;

/// Whether TLS protects the connection.
pub(super) fn is_encrypted(arrival: &Arrival) -> bool {
    arrival.conversation.stream.tls().is_some()
}

/// The certificate that the client has shown and that was verified, as DER.
fn shown(arrival: &Arrival) -> Option<&[u8]> {
    arrival.conversation.stream.tls()?.peer_certificate()
}

/// Checks what the rule, or the method `cert`, wants of the client's certificate.
pub(super) fn check(arrival: &Arrival, demand: &Demand, login: &str) -> Result<(), Denied> {
    let wanted = match &demand.rule {
        Some(rule) => rule.certificate,
        None if demand.method == AuthMethod::Cert => CertificateCheck::OfUser,
        None => CertificateCheck::None,
    };
    if wanted == CertificateCheck::None {
        return Ok(());
    }
    judge(arrival, demand, login, wanted).map_err(|why| {
        tracing::info!(peer = %arrival.label(), "{why}");
        Refusal::fatal("certificate authentication failed").into()
    })
}

/// The error is for the log: a client is not told what would have passed.
fn judge(arrival: &Arrival, demand: &Demand, login: &str, wanted: CertificateCheck) -> Result<(), String> {
    if matches!(arrival.remote, Peer::Unix { .. }) || !is_encrypted(arrival) {
        return Err("TLS connection required".into());
    }
    let certificate = shown(arrival).ok_or("TLS client certificate required")?;
    if wanted == CertificateCheck::Verified {
        return Ok(());
    }
    let names = Names::of(certificate).ok_or("TLS client certificate cannot be read")?;
    let rule = demand.rule.as_ref();
    let mut names = names.by(rule.map_or(CertificateName::Common, |rule| rule.name));
    match rule.and_then(|rule| rule.map.as_ref()) {
        Some(map) if names.any(|name| map.allows(name, login)) => Ok(()),
        Some(map) => Err(format!("ident map: {} does not have a match", map.name)),
        None if names.any(|name| name == login) => Ok(()),
        None => Err("TLS certificate name mismatch".into()),
    }
}

/// What a certificate calls its owner.
#[derive(Debug, PartialEq)]
struct Names {
    /// The first common name of the subject.
    common: Option<String>,
    /// Names of hosts, which PgBouncer takes for names of users as well. Wildcards among them are names like others.
    alternative: Vec<String>,
    /// The whole subject, as RFC 2253 writes it.
    distinguished: String,
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

impl Names {
    /// `None`: it is no certificate.
    fn of(der: &[u8]) -> Option<Names> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let alternative = match certificate.get_extension::<SubjectAltName>() {
            Ok(Some((_, SubjectAltName(names)))) => names.iter().filter_map(host).collect(),
            Ok(None) => Vec::new(),
            Err(_) => return None,
        };
        let subject = RdnSequence::from(certificate.subject().clone());
        Some(Names { common: common_name(&subject), alternative, distinguished: subject.to_string() })
    }

    fn by(&self, which: CertificateName) -> impl Iterator<Item = &str> {
        let (first, others) = match which {
            CertificateName::Common => (self.common.as_deref(), &self.alternative[..]),
            CertificateName::Distinguished => (Some(&self.distinguished[..]), &[][..]),
        };
        first.into_iter().chain(others.iter().map(String::as_str)).filter(|name| !name.is_empty())
    }
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => clean(name.as_str().as_bytes()),
        _ => None,
    }
}

fn common_name(subject: &RdnSequence) -> Option<String> {
    let mut attributes = subject.iter().flat_map(|rdn| rdn.iter());
    let value = &attributes.find(|attribute| attribute.oid == COMMON_NAME)?.value;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString => clean(value.value()),
        _ => None,
    }
}

/// A zero byte would end the name for some who look at it, and not for others.
fn clean(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl req -x509`, subject `/O=Shop, Inc/OU=sales/CN=ann`, two host names among other alternatives.
    const CERTIFICATE: &[u8] = include_bytes!("../../../fixtures/client.der");

    #[test]
    fn what_a_certificate_calls_its_owner() {
        let names = Names::of(CERTIFICATE).unwrap();
        assert_eq!(
            names.by(CertificateName::Common).collect::<Vec<_>>(),
            ["ann", "app.example", "*.example"]
        );
        assert_eq!(
            names.by(CertificateName::Distinguished).collect::<Vec<_>>(),
            [r"CN=ann,OU=sales,O=Shop\, Inc"]
        );
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(Names::of(b""), None);
        assert_eq!(Names::of(&CERTIFICATE[..CERTIFICATE.len() - 1]), None);
        for at in 0..CERTIFICATE.len() {
            let mut changed = CERTIFICATE.to_vec();
            changed[at] ^= 0x41;
            let _ = Names::of(&changed); // it is read, or not; nothing else
        }
        assert_eq!(clean(b"ann\0.evil"), None);
    }
}
