//! The server's side of SCRAM-SHA-256, for scripted servers. Written from RFC 5802, apart from pgferry's own code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::password::scram_sha_256;
use sha2::{Digest, Sha256};

/// An exchange with a client that should know `password`.
pub(crate) struct ScramServer {
    salt: String,
    iterations: String,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    client_first_bare: String,
    server_first: String,
}

impl ScramServer {
    pub(crate) fn new(password: &str) -> ScramServer {
        ScramServer::with_verifier(&scram_sha_256(password.as_bytes()))
    }

    /// `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`
    pub(crate) fn with_verifier(verifier: &str) -> ScramServer {
        let parts: Vec<&str> = verifier.split(['$', ':']).collect();
        let decode = |text: &str| BASE64.decode(text).expect("base64 in a verifier");
        ScramServer {
            iterations: parts[1].into(),
            salt: parts[2].into(),
            stored_key: decode(parts[3]),
            server_key: decode(parts[4]),
            client_first_bare: String::new(),
            server_first: String::new(),
        }
    }

    /// Takes the client's first message, gives the server's first.
    pub(crate) fn first(&mut self, client_first: &str) -> String {
        let bare = client_first.splitn(3, ',').nth(2).expect("a GS2 header");
        let nonce = attribute(bare, "r=").expect("a client nonce");
        self.client_first_bare = bare.into();
        self.server_first = format!("r={nonce}scripted,s={},i={}", self.salt, self.iterations);
        self.server_first.clone()
    }

    /// Takes the client's final message; the server's final message if the proof is right.
    pub(crate) fn last(&self, client_final: &str) -> Option<String> {
        let (without_proof, proof) = client_final.rsplit_once(",p=")?;
        let exchange = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = hmac(&self.stored_key, exchange.as_bytes());
        let proof = BASE64.decode(proof).ok()?;
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let is_right = Sha256::digest(client_key)[..] == self.stored_key[..];
        is_right.then(|| format!("v={}", BASE64.encode(hmac(&self.server_key, exchange.as_bytes()))))
    }
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

pub(crate) fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length will do");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}
