//! The server's role.

use std::fmt;

use base64::Engine;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Attributes, BASE64, Key, NONCE_LEN, ScramError, Verifier, decode_key, hmac, message_text, nonce_text, xor,
};

/// The challenge is out; waits for the client's proof.
pub struct AwaitProof {
    /// Channel binding header of the first message, in base64.
    binding: String,
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
        client_first: &[u8],
        verifier: &Verifier,
        nonce: [u8; NONCE_LEN],
    ) -> Result<(AwaitProof, String), ScramError> {
        AwaitProof::begin(client_first, verifier, &nonce_text(nonce))
    }

    pub(super) fn begin(
        client_first: &[u8],
        verifier: &Verifier,
        nonce: &str,
    ) -> Result<(AwaitProof, String), ScramError> {
        let first = ClientFirst::parse(message_text(client_first)?)?;
        let nonce = format!("{}{nonce}", first.nonce);
        let salt = BASE64.encode(verifier.salt());
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations());
        let state = AwaitProof {
            binding: BASE64.encode(first.binding_header),
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
            return Err(ScramError::BindingMismatch);
        }
        if nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        let proof = decode_key(proof).ok_or(ScramError::Syntax { expected: "a proof in base64" })?;
        let signed = format!("{},{unproved}", self.signed);
        let client_key = xor(&proof, &hmac(&self.stored_key, &[signed.as_bytes()]));
        if !bool::from(Sha256::digest(client_key).as_slice().ct_eq(&self.stored_key)) {
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
    pub client_key: Key,
    /// The server's last message.
    pub server_final: String,
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
    fn parse(text: &'a str) -> Result<ClientFirst<'a>, ScramError> {
        let expected = ScramError::Syntax { expected: "a channel binding header" };
        let (flag, rest) = text.split_once(',').ok_or(expected.clone())?;
        let (identity, bare) = rest.split_once(',').ok_or(expected.clone())?;
        match flag {
            // `y`: the client could bind but saw no offer to. True, only MECHANISM is offered.
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(expected),
        }
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
