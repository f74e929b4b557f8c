//! What is known of a connection's TLS once it stands.

use std::sync::Arc;

use rustls::CommonState;
use rustls::pki_types::CertificateDer;

use super::certificate;
use super::suites::Suite;

/// What the log, the console and logins want to know.
#[derive(Debug)]
pub(crate) struct TlsInfo {
    suite: Option<&'static Suite>,
    /// The peer's own certificate, if it was shown and verified.
    peer: Option<CertificateDer<'static>>,
    end_point: EndPoint,
    is_postgresql: bool,
}

/// The certificate of the server's side.
#[derive(Debug)]
pub(super) enum EndPoint {
    /// This side's own; its hash.
    Own(Option<Arc<[u8]>>),
    /// The peer's.
    Peers(Option<CertificateDer<'static>>),
}

impl TlsInfo {
    /// `verified`: certificates of peers are.
    pub(super) fn new(state: &CommonState, verified: bool, own: Option<Option<Arc<[u8]>>>) -> TlsInfo {
        let leaf =
            state.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
        TlsInfo {
            suite: state.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite())),
            is_postgresql: state.alpn_protocol() == Some(super::ALPN),
            peer: leaf.clone().filter(|_| verified),
            end_point: match own {
                Some(hash) => EndPoint::Own(hash),
                None => EndPoint::Peers(leaf),
            },
        }
    }

    /// `VERSION/SUITE` in OpenSSL's names.
    pub(crate) fn label(&self) -> &'static str {
        self.suite.map_or("unknown", |suite| suite.label)
    }

    /// Both sides have agreed on PostgreSQL's protocol by ALPN.
    pub(crate) fn is_postgresql(&self) -> bool {
        self.is_postgresql
    }

    /// The certificate, in DER, that the peer has shown and that leads to a configured authority.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        self.peer.as_deref()
    }

    /// The channel binding `tls-server-end-point` of this connection, the same on both of its ends. `None`: there is none
    /// for such a certificate.
    pub(crate) fn server_end_point(&self) -> Option<Vec<u8>> {
        match &self.end_point {
            EndPoint::Own(hash) => hash.as_ref().map(|hash| hash.to_vec()),
            EndPoint::Peers(certificate) => certificate::end_point(certificate.as_ref()?),
        }
    }
}
