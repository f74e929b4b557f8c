//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) with its costly part done once: the keys depend only on
//! password, salt and iterations, so that whoever logs in again and again computes two HMACs a login.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::Result;

/// A client that logs in many times with one password.
pub(crate) struct ScramClient {
    password: String,
    keys: Option<Keys>,
}

struct Keys {
    /// Salt (base64) and iterations as the server sent them.
    salt: String,
    iterations: u32,
    client_key: Digest256,
    stored_key: Digest256,
    server_key: Digest256,
}

/// What the client must send and what the server must answer.
pub(crate) struct Final {
    pub(crate) client_final: String,
    pub(crate) server_final: String,
}

impl ScramClient {
    /// The password is taken as it is: SASLprep would not change ASCII.
    pub(crate) fn new(password: &str) -> ScramClient {
        ScramClient { password: password.into(), keys: None }
    }

    /// The client's first message, without channel binding; PostgreSQL takes the user from the StartupMessage.
    pub(crate) fn first(nonce: &str) -> String {
        format!("n,,n=,r={nonce}")
    }

    /// The answer to the server's first message.
    pub(crate) fn answer(&mut self, nonce: &str, server_first: &str) -> Result<Final> {
        let attribute = |name: &str| {
            let value = server_first.split(',').find_map(|part| part.strip_prefix(name));
            value.ok_or_else(|| format!("no {name} in {server_first:?}"))
        };
        let both_nonces = attribute("r=")?;
        if !both_nonces.starts_with(nonce) {
            return Err("a foreign nonce".into());
        }
        let keys = self.keys(attribute("s=")?, attribute("i=")?.parse()?)?;
        let without_proof = format!("c=biws,r={both_nonces}"); // biws: "n,,"
        let exchange = format!("n=,r={nonce},{server_first},{without_proof}");
        let mut proof = hmac(&keys.stored_key, &[exchange.as_bytes()])?;
        xor(&mut proof, &keys.client_key);
        let signature = hmac(&keys.server_key, &[exchange.as_bytes()])?;
        Ok(Final {
            client_final: format!("{without_proof},p={}", BASE64.encode(proof)),
            server_final: format!("v={}", BASE64.encode(signature)),
        })
    }

    fn keys(&mut self, salt: &str, iterations: u32) -> Result<&Keys> {
        let known = self.keys.take().filter(|keys| keys.salt == salt && keys.iterations == iterations);
        let keys = match known {
            Some(keys) => keys,
            None => Keys::derive(&self.password, salt, iterations)?,
        };
        Ok(self.keys.insert(keys))
    }
}

impl Keys {
    fn derive(password: &str, salt: &str, iterations: u32) -> Result<Keys> {
        let mut block = hmac(password.as_bytes(), &[&BASE64.decode(salt)?, &1_u32.to_be_bytes()])?;
        let mut salted = block;
        for _ in 1..iterations {
            block = hmac(password.as_bytes(), &[&block])?;
            xor(&mut salted, &block);
        }
        let client_key = hmac(&salted, &[b"Client Key"])?;
        Ok(Keys {
            salt: salt.into(),
            iterations,
            client_key,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, &[b"Server Key"])?,
        })
    }
}

type Digest256 = [u8; 32];

fn hmac(key: &[u8], parts: &[&[u8]]) -> Result<Digest256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().into())
}

fn xor(into: &mut Digest256, other: &Digest256) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Password, salt and iterations of RFC 7677.
    #[test]
    fn derives_the_keys_of_rfc_7677() {
        let keys = Keys::derive("pencil", "W22ZaJ0SNY7soEsUEjb6gQ==", 4096).unwrap();
        assert_eq!(BASE64.encode(keys.stored_key), "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=");
        assert_eq!(BASE64.encode(keys.server_key), "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");
    }

    #[test]
    fn keeps_the_keys_while_the_salt_stays() {
        let mut client = ScramClient::new("pencil");
        let server_first = "r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1";
        let first = client.answer("abc", server_first).unwrap().client_final;
        assert_eq!(client.answer("abc", server_first).unwrap().client_final, first);
        let salted_anew = client.answer("abc", "r=abcdef,s=AAAA,i=1").unwrap().client_final;
        assert_ne!(salted_anew, first);
        assert!(client.answer("xyz", server_first).is_err());
    }
}
