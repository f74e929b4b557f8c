//! How much is asked of a server's certificate.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// Verifies servers. Whatever it asks of the certificate, the handshake must be signed by its key.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) provider: Arc<CryptoProvider>,
    /// The certificate must lead to one of these; `None`: any will do.
    pub(super) authorities: Option<Authorities>,
    /// It must be for the host as well.
    pub(super) names: bool,
}

/// Certificates that are believed.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    /// The same in DER. One that is a server's own as well is believed as that, although it is no authority or, as those
    /// that `openssl req -x509` makes, says of itself that it is one.
    pub(super) listed: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    fn check_chain(
        &self,
        authorities: &Authorities,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if authorities.listed.iter().any(|listed| listed == certificate) {
            return match certificate::is_valid_at(certificate, now) {
                true => Ok(()),
                false => Err(CertificateError::Expired.into()),
            };
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &authorities.roots, intermediates, now, algorithms)
    }
}

/// The name must be among the alternative ones; the common name counts only where there is no alternative DNS name, and
/// for an address no alternative address either, as with PostgreSQL's clients.
fn check_name(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let by_alternative = ParsedCertificate::try_from(certificate).and_then(|c| verify_server_name(&c, host));
    let Err(error) = by_alternative else { return Ok(()) };
    let is_address = matches!(host, ServerName::IpAddress(_));
    let host = match host {
        ServerName::DnsName(name) => name.as_ref().to_owned(),
        ServerName::IpAddress(ip) => IpAddr::from(*ip).to_string(),
        _ => return Err(error),
    };
    let names = certificate::names_without_alternatives(certificate, is_address);
    if names.iter().any(|name| certificate::name_matches(name, &host)) { Ok(()) } else { Err(error) }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(authorities) = &self.authorities {
            self.check_chain(authorities, end_entity, intermediates, now)?;
        }
        if self.names {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(cert).is_ok() {
            return verify_tls12_signature(message, cert, dss, algorithms);
        }
        certificate::verify_signature(message, cert, dss, algorithms)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match certificate::public_key(cert) {
            Some(key) if ParsedCertificate::try_from(cert).is_err() => {
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
            }
            _ => verify_tls13_signature(message, cert, dss, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
