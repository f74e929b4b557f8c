//! Secrets as they are stored, made without PostgreSQL: for many roles at once, and cheap to log in with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::password;
use sha2::{Digest, Sha256};

use crate::scram::hmac;

/// `md5` and 32 hexadecimal digits.
pub fn md5(user: &str, password: &str) -> String {
    password::md5(password.as_bytes(), user)
}

/// A SCRAM-SHA-256 verifier whose salt comes from `salt_of`. PostgreSQL's own have 4096 iterations; fewer make a login
/// take less time, which is what a test of a thousand logins wants. The password is taken as it is (no SASLprep).
pub fn verifier(salt_of: &str, password: &str, iterations: u32) -> String {
    let salt = &Sha256::digest(salt_of)[..16];
    let mut round = hmac(password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
    let mut salted = round.clone();
    for _ in 1..iterations {
        round = hmac(password.as_bytes(), &round);
        salted.iter_mut().zip(&round).for_each(|(sum, byte)| *sum ^= byte);
    }
    let stored = Sha256::digest(hmac(&salted, b"Client Key"));
    let server = hmac(&salted, b"Server Key");
    let text = |bytes: &[u8]| BASE64.encode(bytes);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", text(salt), text(&stored), text(&server))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677 has this salt and these iterations; its messages follow from the keys.
    #[test]
    fn verifiers_are_what_postgresql_makes() {
        let verifier = verifier("any", "pencil", 4096);
        let salt = BASE64.encode(&Sha256::digest("any")[..16]);
        assert!(verifier.starts_with(&format!("SCRAM-SHA-256$4096:{salt}$")), "{verifier}");
        let mut server = crate::scram::ScramServer::with_verifier(&verifier);
        let mut client = postgres_protocol::authentication::sasl::ScramSha256::new(
            b"pencil",
            postgres_protocol::authentication::sasl::ChannelBinding::unsupported(),
        );
        let first = server.first(std::str::from_utf8(client.message()).unwrap());
        client.update(first.as_bytes()).unwrap();
        let last = server.last(std::str::from_utf8(client.message()).unwrap()).expect("the right proof");
        client.finish(last.as_bytes()).unwrap();
    }

    #[test]
    fn md5_secrets_depend_on_the_user() {
        assert_eq!(md5("ann", "secret").len(), 35);
        assert_ne!(md5("ann", "secret"), md5("bob", "secret"));
    }
}
