//! The server's role.

use std::fmt;

use base64::Engine;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{
    Attributes, BASE64, END_POINT, KEY_LEN, Key, MECHANISM, MECHANISM_PLUS, NONCE_LEN, ScramError, Verifier,
    decode_key, hmac, message_text, nonce_text, xor,
};
use crate::auth::Mechanisms;

/// What a server offers on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer<'a> {
    end_point: Option<&'a [u8]>,
}

impl<'a> Offer<'a> {
    /// `end_point` is the hash of the certificate that the server has shown on this connection (RFC 5929); `None` without
    /// TLS, and for a certificate that has no such hash.
    pub fn new(end_point: Option<&'a [u8]>) -> Offer<'a> {
        Offer { end_point }
    }

    /// The list for the client.
    pub fn mechanisms(self) -> Mechanisms<'static> {
        match self.end_point {
            Some(_) => Mechanisms::SCRAM_SHA_256_PLUS,
            None => Mechanisms::SCRAM_SHA_256,
        }
    }

    /// The client's choice; `None` if it was not offered.
    pub fn accept(self, mechanism: &[u8]) -> Option<Accepted<'a>> {
        let is = |name: &str| mechanism == name.as_bytes();
        match self.end_point {
            Some(hash) if is(MECHANISM_PLUS) => Some(Accepted(Binding::To(hash))),
            end_point if is(MECHANISM) => Some(Accepted(Binding::Not { offered: end_point.is_some() })),
            _ => None,
        }
    }
}

/// The mechanism that a client has chosen of an [`Offer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted<'a>(Binding<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding<'a> {
    Not { offered: bool },
    To(&'a [u8]),
}

impl Accepted<'_> {
    /// With channel binding.
    pub fn is_bound(self) -> bool {
        matches!(self.0, Binding::To(_))
    }

    /// Judges the flag in front of a client's first message.
    fn check(self, flag: &str) -> Result<(), ScramError> {
        match (flag.strip_prefix("p="), self.0) {
            (Some(END_POINT), Binding::To(_)) => Ok(()),
            (Some(name), Binding::To(_)) => Err(ScramError::BindingType(printable(name))),
            (Some(_), Binding::Not { .. }) => Err(ScramError::BindingUnasked),
            (None, _) if !matches!(flag, "n" | "y") => {
                Err(ScramError::Syntax { expected: "a channel binding header" })
            }
            (None, Binding::To(_)) => Err(ScramError::BindingMissing),
            // The client could bind and saw no offer to, though there was one.
            (None, Binding::Not { offered: true }) if flag == "y" => Err(ScramError::BindingDowngraded),
            (None, Binding::Not { .. }) => Ok(()),
        }
    }

    /// What the client's last message must begin with, in base64: its header once more, and the hash.
    fn binding(self, header: &str) -> String {
        let hash = if let Binding::To(hash) = self.0 { hash } else { &[] };
        BASE64.encode([header.as_bytes(), hash].concat())
    }
}

/// What the peer calls something, short enough for a log line.
fn printable(name: &str) -> Box<str> {
    name.chars()
        .take(30)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect::<String>()
        .into()
}

/// The challenge is out; waits for the client's proof.
pub struct AwaitProof {
    /// See [`Accepted::binding`].
    binding: String,
    is_bound: bool,
    /// Both nonces.
    nonce: String,
    /// What both sides sign, so far.
    signed: String,
    stored_key: Key,
    server_key: Key,
}

impl AwaitProof {
    /// Takes the client's first message; the text is the server's first message, its challenge. `nonce` must be fresh
    /// random bytes.
    ///
    /// # Errors
    /// The exchange has failed.
    pub fn start(
        accepted: Accepted<'_>,
        client_first: &[u8],
        verifier: &Verifier,
        nonce: [u8; NONCE_LEN],
    ) -> Result<(AwaitProof, String), ScramError> {
        AwaitProof::begin(accepted, client_first, verifier, &nonce_text(nonce))
    }

    pub(super) fn begin(
        accepted: Accepted<'_>,
        client_first: &[u8],
        verifier: &Verifier,
        nonce: &str,
    ) -> Result<(AwaitProof, String), ScramError> {
        let first = ClientFirst::parse(message_text(client_first)?, accepted)?;
        let nonce = format!("{}{nonce}", first.nonce);
        let salt = BASE64.encode(verifier.salt());
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations());
        let state = AwaitProof {
            binding: accepted.binding(first.binding_header),
            is_bound: accepted.is_bound(),
            nonce,
            signed: format!("{},{server_first}", first.bare),
            stored_key: verifier.stored_key,
            server_key: verifier.server_key,
        };
        Ok((state, server_first))
    }

    /// Checks the client's last message.
    ///
    /// # Errors
    /// The exchange has failed; [`ScramError::WrongProof`] is a wrong password, all else is no SCRAM.
    pub fn client_final(self, client_final: &[u8]) -> Result<Proved, ScramError> {
        let text = message_text(client_final)?;
        let (unproved, proof) = text.rsplit_once(",p=").ok_or(ScramError::Syntax { expected: "p=" })?;
        let mut attributes = Attributes::of(unproved);
        let binding = attributes.take("c=")?;
        let nonce = attributes.take_nonce()?;
        attributes.finish()?;
        if binding != self.binding {
            return Err(if self.is_bound { ScramError::BindingWrong } else { ScramError::BindingMismatch });
        }
        if nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        let proof = decode_key(proof).ok_or(ScramError::Syntax { expected: "a proof in base64" })?;
        let signed = format!("{},{unproved}", self.signed);
        let client_key = Zeroizing::new(xor(&proof, &hmac(&self.stored_key, &[signed.as_bytes()])));
        if !bool::from(Sha256::digest(*client_key).as_slice().ct_eq(&self.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let signature = BASE64.encode(hmac(&self.server_key, &[signed.as_bytes()]));
        Ok(Proved { client_key, server_final: format!("v={signature}") })
    }
}

/// The client knows the password.
pub struct Proved {
    /// Recovered from the proof: with [`Keys::pass_through`](super::Keys::pass_through) it logs in to a server that
    /// stores the same verifier.
    pub client_key: Zeroizing<[u8; KEY_LEN]>,
    /// The server's last message.
    pub server_final: String,
}

impl Drop for AwaitProof {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for AwaitProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitProof(..)")
    }
}

impl fmt::Debug for Proved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proved(..)")
    }
}

/// `FLAG,[AUTHZID],n=USER,r=NONCE`.
struct ClientFirst<'a> {
    /// The front part with its second comma: it comes back in the last message.
    binding_header: &'a str,
    /// The part that is signed.
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(text: &'a str, accepted: Accepted<'_>) -> Result<ClientFirst<'a>, ScramError> {
        let expected = ScramError::Syntax { expected: "a channel binding header" };
        let (flag, rest) = text.split_once(',').ok_or(expected.clone())?;
        let (identity, bare) = rest.split_once(',').ok_or(expected)?;
        accepted.check(flag)?;
        if !identity.is_empty() {
            return Err(ScramError::AuthorizationIdentity);
        }
        let mut attributes = Attributes::of(bare);
        attributes.take("n=")?;
        let nonce = attributes.take_nonce()?;
        attributes.finish()?;
        Ok(ClientFirst { binding_header: &text[..text.len() - bare.len()], bare, nonce })
    }
}
