//! The client's role.

use std::fmt;

use base64::Engine;
use subtle::ConstantTimeEq;

use crate::auth::Mechanisms;

use super::{
    Attributes, BASE64, Key, Keys, MECHANISM, MECHANISM_PLUS, NONCE_LEN, ScramError, Verifier, decode_key,
    decode_salt, hmac, message_text, nonce_text, parse_iterations, xor,
};

/// Whether exchanges as a client are bound to the server's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    #[default]
    Prefer,
    /// Or there is no exchange.
    Require,
}

/// The mechanism that a client chooses, and what it binds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a>(Gs2<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gs2<'a> {
    /// `n`: this side can't bind, or is not to.
    Unable,
    /// `y`: it could, but was offered no binding. A server that did offer one notices that somebody took the offer away.
    NotOffered,
    /// `p`: bound to this hash of the server's certificate.
    Bound(&'a [u8]),
}

/// The server offers nothing that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMechanism {
    /// No mechanism of its list is spoken here.
    Unknown,
    /// Channel binding is required, and one of the sides can't.
    Binding,
}

impl<'a> Choice<'a> {
    /// SCRAM without channel binding, where no other is possible.
    pub const UNBOUND: Choice<'static> = Choice(Gs2::Unable);

    /// Chooses from what the server offers. `end_point` is the hash of the certificate that it has shown.
    ///
    /// # Errors
    /// Nothing fits.
    pub fn of(
        offered: &Mechanisms<'_>,
        end_point: Option<&'a [u8]>,
        rule: ChannelBinding,
    ) -> Result<Choice<'a>, NoMechanism> {
        let (plain, plus) = (offered.contains(MECHANISM), offered.contains(MECHANISM_PLUS));
        match (rule, end_point) {
            (ChannelBinding::Prefer | ChannelBinding::Require, Some(hash)) if plus => {
                Ok(Choice(Gs2::Bound(hash)))
            }
            (ChannelBinding::Require, _) => Err(NoMechanism::Binding),
            _ if !plain => Err(NoMechanism::Unknown),
            (ChannelBinding::Prefer, Some(_)) => Ok(Choice(Gs2::NotOffered)),
            _ => Ok(Choice::UNBOUND),
        }
    }

    /// Its name.
    pub fn mechanism(self) -> &'static str {
        if let Gs2::Bound(_) = self.0 { MECHANISM_PLUS } else { MECHANISM }
    }

    pub(super) fn header(self) -> &'static str {
        match self.0 {
            Gs2::Unable => "n,,",
            Gs2::NotOffered => "y,,",
            Gs2::Bound(_) => "p=tls-server-end-point,,",
        }
    }

    /// The header once more and the hash, in base64.
    fn binding(self) -> String {
        let hash = if let Gs2::Bound(hash) = self.0 { hash } else { &[] };
        BASE64.encode([self.header().as_bytes(), hash].concat())
    }
}

/// The first message is out; waits for the server's challenge.
pub struct AwaitServerFirst {
    nonce: String,
    /// See [`Choice::binding`].
    binding: String,
    bare: String,
}

impl AwaitServerFirst {
    /// Begins; the text is the client's first message. `nonce` must be fresh random bytes. The user name stays empty,
    /// as libpq leaves it.
    pub fn start(choice: Choice<'_>, nonce: [u8; NONCE_LEN]) -> (AwaitServerFirst, String) {
        AwaitServerFirst::begin(choice, "", nonce_text(nonce))
    }

    pub(super) fn begin(choice: Choice<'_>, user: &str, nonce: String) -> (AwaitServerFirst, String) {
        let bare = format!("n={user},r={nonce}");
        let client_first = format!("{}{bare}", choice.header());
        (AwaitServerFirst { nonce, binding: choice.binding(), bare }, client_first)
    }

    /// Takes the server's first message.
    ///
    /// # Errors
    /// The exchange has failed.
    pub fn server_first(self, server_first: &[u8]) -> Result<AwaitKeys, ScramError> {
        let text = message_text(server_first)?;
        let mut attributes = Attributes::of(text);
        let nonce = attributes.take_nonce()?;
        let salt = decode_salt(attributes.take("s=")?)?;
        let iterations = parse_iterations(attributes.take("i=")?)?;
        attributes.finish()?;
        // A server that adds nothing could replay an exchange.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::NonceMismatch);
        }
        let unproved = format!("c={},r={nonce}", self.binding);
        let signed = format!("{},{text},{unproved}", self.bare);
        Ok(AwaitKeys { salt, iterations, unproved, signed })
    }
}

/// Challenged; waits for the keys that belong to salt and iteration count.
pub struct AwaitKeys {
    salt: Box<[u8]>,
    iterations: u32,
    unproved: String,
    signed: String,
}

impl AwaitKeys {
    /// Salt to derive the keys with.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Iterations to derive the keys with, 1 to 2^31 - 1; [`derive()`](super::derive()) has its own limit.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The server's password was salted like this verifier's, so that keys passed through have a chance.
    pub fn is_salted_like(&self, verifier: &Verifier) -> bool {
        self.iterations == verifier.iterations() && *self.salt == *verifier.salt()
    }

    /// Signs with the keys; the text is the client's last message.
    pub fn prove(self, keys: &Keys) -> (AwaitServerFinal, String) {
        let signed = self.signed.as_bytes();
        let proof = xor(&keys.client_key, &hmac(&keys.stored_key, &[signed]));
        let client_final = format!("{},p={}", self.unproved, BASE64.encode(proof));
        (AwaitServerFinal { signature: hmac(&keys.server_key, &[signed]) }, client_final)
    }
}

/// The proof is out; waits for the server's own.
pub struct AwaitServerFinal {
    signature: Key,
}

impl AwaitServerFinal {
    /// Checks the server's last message. `AuthenticationOk` without it is not to be believed: a server that does not
    /// know the password could send that too.
    ///
    /// # Errors
    /// The exchange has failed.
    pub fn server_final(self, server_final: &[u8]) -> Result<(), ScramError> {
        let text = message_text(server_final)?;
        if let Some(reason) = text.strip_prefix("e=") {
            return Err(ScramError::Refused(reason.into()));
        }
        let mut attributes = Attributes::of(text);
        let signature = attributes.take("v=")?;
        attributes.finish()?;
        let signature =
            decode_key(signature).ok_or(ScramError::Syntax { expected: "a signature in base64" })?;
        if signature.ct_eq(&self.signature).into() { Ok(()) } else { Err(ScramError::WrongSignature) }
    }
}

impl fmt::Debug for AwaitServerFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitServerFirst(..)")
    }
}

impl fmt::Debug for AwaitKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitKeys(..)")
    }
}

impl fmt::Debug for AwaitServerFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitServerFinal(..)")
    }
}
