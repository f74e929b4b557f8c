//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: the user name inside the exchange is ignored, the
//! start-up packet's counts. `SCRAM-SHA-256-PLUS` is the same bound to the server's certificate (`tls-server-end-point`,
//! RFC 5929): a man in the middle, who shows another certificate, can't pass the exchange on.
//!
//! ```text
//! server role                                          client role
//!                                                      AwaitServerFirst::start
//! AwaitProof::start            <-- client-first ---        |
//!     |                        --- server-first -->    AwaitServerFirst::server_first
//!     |                                                AwaitKeys::prove (keys from `derive` or passed through)
//! AwaitProof::client_final     <-- client-final ---        |
//!     `-> Proved               --- server-final -->    AwaitServerFinal::server_final
//! ```
//!
//! The only expensive step is [`derive()`], and neither role calls it: the caller runs it where it disturbs nobody and
//! keeps the result for this password, salt and iteration count.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

mod client;
mod prepare;
mod server;

pub use client::{AwaitKeys, AwaitServerFinal, AwaitServerFirst, ChannelBinding, Choice, NoMechanism};
pub use server::{Accepted, AwaitProof, Offer, Proved};

use prepare::prepare;

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The name of the mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The one type of channel binding there is here, as in PostgreSQL.
const END_POINT: &str = "tls-server-end-point";

/// Bytes of a key, a signature or a proof.
pub const KEY_LEN: usize = 32;

/// Random bytes each side adds to the nonce.
pub const NONCE_LEN: usize = 18;

/// Longest message of the exchange accepted, in bytes (PostgreSQL's limit).
pub const MAX_MESSAGE_LEN: usize = 1024;

/// Longest salt accepted, in bytes. PostgreSQL makes 16; a longer one than this would not fit a message in base64.
pub const MAX_SALT_LEN: usize = 512;

/// Bytes of the salts made here, as many as PostgreSQL's have: an unknown user's must not look different.
pub const SALT_LEN: usize = 16;

/// Most iterations that [`derive()`] runs. The count comes from the peer, and each iteration costs about 0.2 us: a
/// hostile server could ask for minutes of work with PostgreSQL's own limit of 2^31 - 1. A million stays below a
/// second and above every recommendation in use (PostgreSQL's default is 4096, OWASP's advice 600,000).
pub const MAX_DERIVE_ITERATIONS: u32 = 1_000_000;

type Key = [u8; KEY_LEN];

/// What a password becomes for one salt and iteration count. The client key logs in, so treat all of it as a password:
/// it is wiped when it is dropped, and compared in constant time.
#[derive(Clone)]
pub struct Keys {
    client_key: Key,
    stored_key: Key,
    server_key: Key,
}

impl Keys {
    /// Keys without a password: the client key that a client's proof disclosed ([`Proved::client_key`]) and the
    /// verifier that it was checked against. They log in wherever the same verifier is stored.
    pub fn pass_through(client_key: &Key, verifier: &Verifier) -> Keys {
        Keys { client_key: *client_key, stored_key: verifier.stored_key, server_key: verifier.server_key }
    }

    /// They are those behind this verifier, whatever it was when they were disclosed.
    pub fn fit(&self, verifier: &Verifier) -> bool {
        let own = self.stored_key.ct_eq(&verifier.stored_key) & self.server_key.ct_eq(&verifier.server_key);
        own.into()
    }

    /// All of it, to be given to another process of the same user.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.client_key, self.stored_key, self.server_key].concat())
    }

    /// Reads what [`to_bytes`](Self::to_bytes) has written.
    pub fn from_bytes(bytes: &[u8]) -> Option<Keys> {
        let ([client_key, stored_key, server_key], []) = bytes.as_chunks::<KEY_LEN>() else { return None };
        Some(Keys { client_key: *client_key, stored_key: *stored_key, server_key: *server_key })
    }

    /// What a server stores to check these keys.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> Verifier {
        Verifier { iterations, salt: salt.into(), stored_key: self.stored_key, server_key: self.server_key }
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Keys) -> bool {
        let [own, others] = [self, other].map(|keys| [&keys.client_key, &keys.stored_key, &keys.server_key]);
        let equal = own.into_iter().zip(others).map(|(a, b)| a.ct_eq(b));
        equal.fold(1.into(), |all: subtle::Choice, one| all & one).into()
    }
}

impl Eq for Keys {}

impl Drop for Keys {
    fn drop(&mut self) {
        [&mut self.client_key, &mut self.stored_key, &mut self.server_key].into_iter().for_each(Key::zeroize);
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Runs PBKDF2 on a password: about a millisecond for 4096 iterations. Pure, so a result may be kept.
///
/// # Errors
/// [`ScramError::Iterations`] for 0 and for more than [`MAX_DERIVE_ITERATIONS`].
pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Result<Keys, ScramError> {
    if !(1..=MAX_DERIVE_ITERATIONS).contains(&iterations) {
        return Err(ScramError::Iterations);
    }
    let salted = pbkdf2(&prepare(password), salt, iterations);
    let client_key = Zeroizing::new(hmac(&*salted, &[b"Client Key"]));
    let server_key = hmac(&*salted, &[b"Server Key"]);
    Ok(Keys { client_key: *client_key, stored_key: Sha256::digest(*client_key).into(), server_key })
}

/// What a server stores instead of a password. Who has it can play the server, and try passwords.
#[derive(Clone)]
pub struct Verifier {
    iterations: u32,
    salt: Box<[u8]>,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// A verifier that no proof fits, for a user who does not exist: the same one each time for a user and
    /// `process_secret`, so that asking twice does not tell. The secret needs 32 unguessable bytes.
    pub fn fake(user: &str, process_secret: &[u8], iterations: u32) -> Verifier {
        Verifier {
            iterations,
            salt: salt_for(user, process_secret).into(),
            stored_key: hmac(process_secret, &[b"stored key ", user.as_bytes()]),
            server_key: hmac(process_secret, &[b"server key ", user.as_bytes()]),
        }
    }

    /// Reads the stored form, `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    pub fn parse(stored: &str) -> Option<Verifier> {
        let rest = stored.strip_prefix(MECHANISM)?.strip_prefix('$')?;
        let (cost, keys) = rest.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Verifier {
            iterations: parse_iterations(iterations).ok()?,
            salt: decode_salt(salt).ok()?,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// PBKDF2 iterations of the password behind it.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Salt of the password behind it.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }
}

/// Salt and iteration count are told to everybody who asks; the keys are compared in constant time.
impl PartialEq for Verifier {
    fn eq(&self, other: &Verifier) -> bool {
        let keys = self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        self.iterations == other.iterations && self.salt == other.salt && bool::from(keys)
    }
}

impl Eq for Verifier {}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

/// The stored form.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| BASE64.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// A salt for a user whose password is stored in plain, or who does not exist: the two can't be told apart by it, and
/// keys derived with it can be kept for the life of the process.
pub fn salt_for(user: &str, process_secret: &[u8]) -> [u8; SALT_LEN] {
    let digest = hmac(process_secret, &[b"salt ", user.as_bytes()]);
    std::array::from_fn(|i| digest[i])
}

/// Something to know secrets by without having them: the same for the same parts, and of no use to who does not know the
/// process's own secret.
pub fn fingerprint(process_secret: &[u8], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut mac = keyed(process_secret);
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Why an exchange failed. Only for logs: the peer is told nothing but that it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScramError {
    /// A message longer than [`MAX_MESSAGE_LEN`].
    TooLong,
    /// A message that is not laid out as the RFC says.
    Syntax {
        /// What was expected.
        expected: &'static str,
    },
    /// Channel binding data in an exchange without channel binding.
    BindingUnasked,
    /// No channel binding data in an exchange with channel binding.
    BindingMissing,
    /// The client could bind, and believes that it was not offered: somebody has changed the offer on its way.
    BindingDowngraded,
    /// The client binds to something else, by this name.
    BindingType(Box<str>),
    /// Bound to another certificate than this server's: somebody is in between.
    BindingWrong,
    /// The client wants to act as another user.
    AuthorizationIdentity,
    /// The peer insists on an extension.
    MandatoryExtension,
    /// The client's last message repeats another channel binding header than its first one had.
    BindingMismatch,
    /// The nonce is not the one agreed on.
    NonceMismatch,
    /// An iteration count of 0 or above the limit.
    Iterations,
    /// The client does not know the password.
    WrongProof,
    /// The server does not know the password, or not this one.
    WrongSignature,
    /// The server says why it refuses.
    Refused(Box<str>),
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScramError::TooLong => "SCRAM message too long",
            ScramError::Syntax { expected } => {
                return write!(f, "malformed SCRAM message: expected {expected}");
            }
            ScramError::BindingUnasked => {
                "malformed SCRAM message: The client selected SCRAM-SHA-256 without channel binding, but the SCRAM \
                 message includes channel binding data."
            }
            ScramError::BindingMissing => {
                "malformed SCRAM message: The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
                 channel binding data."
            }
            ScramError::BindingDowngraded => {
                "SCRAM channel binding negotiation error: The client supports SCRAM channel binding but thinks the \
                 server does not.  However, this server does support channel binding."
            }
            ScramError::BindingType(name) => {
                return write!(f, "unsupported SCRAM channel-binding type \"{name}\"");
            }
            ScramError::BindingWrong => "SCRAM channel binding check failed",
            ScramError::AuthorizationIdentity => "client uses a SCRAM authorization identity",
            ScramError::MandatoryExtension => "peer requires an unknown SCRAM extension",
            ScramError::BindingMismatch => "unexpected SCRAM channel-binding attribute in client-final-message",
            ScramError::NonceMismatch => "SCRAM nonce does not match",
            ScramError::Iterations => "SCRAM iteration count out of range",
            ScramError::WrongProof => "wrong SCRAM proof",
            ScramError::WrongSignature => "wrong SCRAM server signature",
            ScramError::Refused(reason) => return write!(f, "server ended SCRAM exchange: {reason:?}"),
        })
    }
}

impl std::error::Error for ScramError {}

/// PBKDF2 with HMAC-SHA-256 and one block of output.
fn pbkdf2(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<Key> {
    let keyed = keyed(password);
    let round = |input: &[u8], tail: &[u8]| -> Key {
        keyed.clone().chain_update(input).chain_update(tail).finalize().into_bytes().into()
    };
    let mut last = Zeroizing::new(round(salt, &1u32.to_be_bytes()));
    let mut sum = last.clone();
    for _ in 1..iterations {
        *last = round(&*last, &[]);
        *sum = xor(&sum, &last);
    }
    sum
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    parts.iter().fold(keyed(key), |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

/// HMAC's own rule for keys that are not one block long (RFC 2104), spelled out because it can't fail.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    if let Some(front) = block.get_mut(..key.len()) {
        front.copy_from_slice(key);
    } else {
        block[..KEY_LEN].copy_from_slice(&Sha256::digest(key));
    }
    Hmac::new((&*block).into())
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn nonce_text(random: [u8; NONCE_LEN]) -> String {
    BASE64.encode(random)
}

/// The message as text, within its bounds.
fn message_text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE_LEN {
        return Err(ScramError::TooLong);
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramError::Syntax { expected: "UTF-8" })?;
    if text.contains('\0') { Err(ScramError::Syntax { expected: "no NUL" }) } else { Ok(text) }
}

/// Walks the attributes of a message (`a=value`, separated by commas).
struct Attributes<'a> {
    parts: std::str::Split<'a, char>,
}

impl<'a> Attributes<'a> {
    fn of(text: &'a str) -> Attributes<'a> {
        Attributes { parts: text.split(',') }
    }

    /// The next attribute, which must begin with `expected` (letter and equals sign).
    fn take(&mut self, expected: &'static str) -> Result<&'a str, ScramError> {
        let part = self.parts.next().unwrap_or_default();
        if part.starts_with("m=") {
            return Err(ScramError::MandatoryExtension);
        }
        part.strip_prefix(expected).ok_or(ScramError::Syntax { expected })
    }

    /// A nonce: printable ASCII, not empty.
    fn take_nonce(&mut self) -> Result<&'a str, ScramError> {
        let nonce = self.take("r=")?;
        let printable = !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic());
        printable.then_some(nonce).ok_or(ScramError::Syntax { expected: "a printable nonce" })
    }

    /// Optional extensions are ignored, but have to be attributes.
    fn finish(self) -> Result<(), ScramError> {
        for part in self.parts {
            let well_formed = matches!(part.as_bytes(), [name, b'=', ..] if name.is_ascii_alphabetic());
            if !well_formed {
                return Err(ScramError::Syntax { expected: "an extension or the end" });
            }
        }
        Ok(())
    }
}

/// A count as PostgreSQL takes it: decimal digits, 1 to 2^31 - 1.
fn parse_iterations(text: &str) -> Result<u32, ScramError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ScramError::Syntax { expected: "an iteration count" });
    }
    match text.parse::<i32>() {
        Ok(count @ 1..) => Ok(count.unsigned_abs()),
        _ => Err(ScramError::Iterations),
    }
}

fn decode_salt(text: &str) -> Result<Box<[u8]>, ScramError> {
    let salt = BASE64.decode(text).map_err(|_| ScramError::Syntax { expected: "a salt in base64" })?;
    if salt.len() > MAX_SALT_LEN { Err(ScramError::TooLong) } else { Ok(salt.into()) }
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
