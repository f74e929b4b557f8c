//! The client's role.

use std::fmt;

use base64::Engine;
use subtle::ConstantTimeEq;

use super::{
    Attributes, BASE64, Key, Keys, NONCE_LEN, ScramError, Verifier, decode_key, decode_salt, hmac,
    message_text, nonce_text, parse_iterations, xor,
};

/// No channel binding.
const BINDING_HEADER: &str = "n,,";

/// The first message is out; waits for the server's challenge.
pub struct AwaitServerFirst {
    nonce: String,
    bare: String,
}

impl AwaitServerFirst {
    /// Begins; the text is the client's first message. `nonce` must be fresh random bytes. The user name stays empty,
    /// as libpq leaves it.
    pub fn start(nonce: [u8; NONCE_LEN]) -> (AwaitServerFirst, String) {
        AwaitServerFirst::begin("", nonce_text(nonce))
    }

    pub(super) fn begin(user: &str, nonce: String) -> (AwaitServerFirst, String) {
        let bare = format!("n={user},r={nonce}");
        let client_first = format!("{BINDING_HEADER}{bare}");
        (AwaitServerFirst { nonce, bare }, client_first)
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
        let unproved = format!("c={},r={nonce}", BASE64.encode(BINDING_HEADER));
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
