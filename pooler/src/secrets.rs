//! Randomness, and keys derived from passwords, kept so that the expensive step is done once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::auth::scram::{self, Keys, Verifier};

/// `N` random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Without randomness no login is safe, and no caller could do anything about it.
        tracing::error!("no randomness from the kernel: {error}");
        std::process::abort();
    }
    bytes
}

/// What a key was derived from.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Origin {
    user: String,
    password: String,
    salt: Vec<u8>,
    iterations: u32,
}

/// Derived keys, by what they were derived from.
pub(crate) struct Secrets {
    /// Makes the salts of users that have no verifier, known or not.
    process: [u8; 32],
    derived: Mutex<HashMap<Origin, Keys>>,
}

/// More derived keys than this are not kept: a server that sends a new salt each time must not fill the memory.
const MOST_DERIVED: usize = 4096;

impl Secrets {
    pub(crate) fn new() -> Secrets {
        Secrets { process: random(), derived: Mutex::default() }
    }

    /// The keys of a password for a salt. PBKDF2 runs on a thread of its own the first time; `None` if the
    /// iteration count is out of bounds.
    pub(crate) async fn derive(
        &self,
        user: &str,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        let origin = Origin {
            user: user.to_owned(),
            password: password.to_owned(),
            salt: salt.to_owned(),
            iterations,
        };
        if let Some(keys) = self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(&origin) {
            return Some(keys.clone());
        }
        let work = tokio::task::spawn_blocking(move || {
            let keys = scram::derive(origin.password.as_bytes(), &origin.salt, origin.iterations);
            (origin, keys.ok())
        });
        let (origin, keys) = work.await.ok()?;
        let keys = keys?;
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if derived.len() >= MOST_DERIVED {
            derived.clear();
        }
        derived.insert(origin, keys.clone());
        Some(keys)
    }

    /// A verifier for a plain password, with a salt that does not change while the process lives.
    pub(crate) async fn verifier(&self, user: &str, password: &str, iterations: u32) -> Option<Verifier> {
        let salt = scram::salt_for(user, &self.process);
        Some(self.derive(user, password, &salt, iterations).await?.verifier(&salt, iterations))
    }

    /// A verifier that nothing fits, for a user who does not exist.
    pub(crate) fn fake_verifier(&self, user: &str, iterations: u32) -> Verifier {
        Verifier::fake(user, &self.process, iterations)
    }
}
