//! TLS of a client that arrives: by SSLRequest, or from the first byte on.

use super::{Arrival, Denied};
use crate::config::{Config, Database, SslMode};
use crate::error::Refusal;
use crate::net::{self, Peer, Stream};

/// The first byte of a TLS connection: a record of the handshake. No start-up packet that may be begins so, as its length
/// would be above the limit.
const HANDSHAKE_RECORD: u8 = 0x16;

impl Arrival {
    /// Version and cipher suite; empty without TLS.
    pub(super) fn tls(&self) -> &'static str {
        self.conversation.stream.tls().map_or("", |tls| tls.label())
    }

    /// TLS is offered to it: it comes over TCP, has none yet, and there are certificates.
    fn may_have_tls(&self) -> bool {
        let is_plain = matches!(self.conversation.stream, Stream::Plain(_));
        let enabled = self.worker.shared.config.load().client_tls.mode() != SslMode::Disable;
        is_plain && enabled && matches!(self.remote, Peer::Tcp(_))
    }

    /// The client begins the handshake without having asked.
    pub(super) fn begins_with_tls(&self) -> bool {
        self.conversation.input().first() == Some(&HANDSHAKE_RECORD) && self.may_have_tls()
    }

    /// Answers an SSLRequest, and serves the handshake if there is to be one.
    ///
    /// What was sent behind the request, before anything is encrypted, may be somebody else's who sits on the line; it must
    /// not be taken for the client's (CVE-2021-3935).
    pub(super) async fn answer_ssl_request(&mut self) -> Result<(), Denied> {
        if self.conversation.stream.tls().is_some() {
            return Err(Denied::Unsaid("SSL req inside SSL".to_owned()));
        }
        if !self.may_have_tls() {
            return Ok(self.conversation.send(b"N").await?);
        }
        if !self.conversation.input().is_empty() {
            return Err(Refusal::fatal("received unencrypted data after SSL request").into());
        }
        self.begin_tls(b"S").await
    }

    /// Sends the answer, if there was a request, and serves the handshake, of which the input may be the beginning.
    pub(super) async fn begin_tls(&mut self, answer: &[u8]) -> Result<(), Denied> {
        let accepting = self.worker.shared.config.load().client_tls.accepting();
        let Some(accepting) = accepting else { return Err(Denied::Silent) }; // switched off this moment
        self.conversation.send(answer).await?;
        let begun = self.conversation.take_input();
        let Stream::Plain(socket) = self.conversation.stream.take_out() else { return Err(Denied::Silent) };
        match net::tls::accept(socket, &accepting, &begun).await {
            Ok(stream) => {
                self.conversation.stream = stream;
                Ok(())
            }
            Err(error) => Err(Denied::Unsaid(format!("TLS handshake failed: {error}"))),
        }
    }

    /// Refuses who comes over TCP and has not the TLS that it must have.
    pub(super) fn require_tls(&self, mode: SslMode) -> Result<(), Refusal> {
        if !mode.is_mandatory() || !matches!(self.remote, Peer::Tcp(_)) {
            return Ok(());
        }
        let Some(tls) = self.conversation.stream.tls() else { return Err(Refusal::fatal("SSL required")) };
        match mode.verifies() && tls.peer_certificate().is_none() {
            true => Err(Refusal::fatal("TLS client certificate required")),
            false => Ok(()),
        }
    }

    /// As well, by what its database and its user ask for.
    pub(super) fn require_own_tls(
        &self,
        config: &Config,
        database: Option<&Database>,
        user: &str,
    ) -> Result<(), Refusal> {
        let of_database = database.and_then(|database| database.client_tls);
        let of_user = config.users.get(user).and_then(|user| user.client_tls);
        [of_database, of_user].into_iter().flatten().try_for_each(|mode| self.require_tls(mode))
    }
}
