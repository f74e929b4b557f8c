//! MD5 passwords: stored as `md5` and the hex digest of password and user name; proved by hashing that digest once
//! more with the server's salt. What is stored is as good as the password.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

const PREFIX: &str = "md5";

/// A stored MD5 secret. Good in both roles: it answers challenges and checks answers. It is wiped when it is dropped, and
/// compared in constant time.
#[derive(Clone)]
pub struct Md5Secret {
    /// Lower-case hex digits.
    digest: [u8; 32],
}

impl Md5Secret {
    /// The secret of this user with this password.
    pub fn new(user: &str, password: &[u8]) -> Md5Secret {
        Md5Secret { digest: hex_digest(password, user.as_bytes()) }
    }

    /// Reads the stored form; `None` unless it is `md5` and 32 lower-case hex digits.
    pub fn parse(stored: &str) -> Option<Md5Secret> {
        let digest: [u8; 32] = stored.strip_prefix(PREFIX)?.as_bytes().try_into().ok()?;
        digest.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(Md5Secret { digest })
    }

    /// The answer to a challenge, the text of a `PasswordMessage`.
    pub fn response(&self, salt: [u8; 4]) -> String {
        format!("{PREFIX}{}", Hex(&hex_digest(&self.digest, &salt)))
    }

    /// Checks an answer, in a time that does not depend on where it is wrong.
    pub fn verify(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.response(salt).as_bytes().ct_eq(answer).into()
    }
}

/// The stored form.
impl fmt::Display for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", Hex(&self.digest))
    }
}

impl PartialEq for Md5Secret {
    fn eq(&self, other: &Md5Secret) -> bool {
        self.digest.ct_eq(&other.digest).into()
    }
}

impl Eq for Md5Secret {}

impl Drop for Md5Secret {
    fn drop(&mut self) {
        self.digest.zeroize();
    }
}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

/// Hex digits as text.
struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&b| fmt::Write::write_char(f, char::from(b)))
    }
}

fn hex_digest(first: &[u8], second: &[u8]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest: [u8; 16] = Md5::new().chain_update(first).chain_update(second).finalize().into();
    std::array::from_fn(|i| {
        let byte = digest[i / 2];
        DIGITS[usize::from(if i % 2 == 0 { byte >> 4 } else { byte & 15 })]
    })
}

#[cfg(test)]
mod tests {
    use postgres_protocol::{authentication, password};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrong_answers_are_refused() {
        let secret = Md5Secret::new("ann", b"secret");
        let answer = secret.response([1, 2, 3, 4]);
        assert!(secret.verify([1, 2, 3, 4], answer.as_bytes()));
        assert!(!secret.verify([1, 2, 3, 5], answer.as_bytes()));
        for wrong in ["", "md5", &answer[..34], &answer[3..], &format!("{answer}0"), &secret.to_string()] {
            assert!(!secret.verify([1, 2, 3, 4], wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{secret:?}"), "Md5Secret(..)");
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(
            user in ".{0,20}",
            text in prop::collection::vec(any::<u8>(), 0..20),
            salt in any::<[u8; 4]>(),
        ) {
            let secret = Md5Secret::new(&user, &text);
            prop_assert_eq!(secret.to_string(), password::md5(&text, &user));
            prop_assert_eq!(Md5Secret::parse(&secret.to_string()), Some(secret.clone()));
            prop_assert_eq!(secret.response(salt), authentication::md5_hash(user.as_bytes(), &text, salt));
        }
    }
}
