//! Randomness, and keys derived from passwords, kept so that the expensive step is done once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::auth::scram::{self, Keys, Verifier};
use tokio::sync::Semaphore;

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// One derivation at a time: a burst of logins takes one core at most, and the queries of others have the rest.
    turn: Semaphore,
}

/// More derived keys than this are not kept: a server that sends a new salt each time must not fill the memory.
const MOST_DERIVED: usize = 4096;

impl Secrets {
    pub(crate) fn new() -> Secrets {
        Secrets { process: random(), derived: Mutex::default(), turn: Semaphore::new(1) }
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
        let keys = self.compute(&origin).await?;
        self.remember(origin, &keys);
        Some(keys)
    }

    /// Whether a password is the one behind a verifier. Wrong ones are not remembered.
    pub(crate) async fn is_password_of(&self, user: &str, password: &str, verifier: &Verifier) -> bool {
        let origin = Origin {
            user: user.to_owned(),
            password: password.to_owned(),
            salt: verifier.salt().to_owned(),
            iterations: verifier.iterations(),
        };
        let Some(keys) = self.compute(&origin).await else { return false };
        let right = keys.verifier(verifier.salt(), verifier.iterations()) == *verifier;
        if right {
            self.remember(origin, &keys);
        }
        right
    }

    async fn compute(&self, origin: &Origin) -> Option<Keys> {
        let known = || self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned();
        if let Some(keys) = known() {
            return Some(keys);
        }
        let _turn = self.turn.acquire().await.ok()?;
        if let Some(keys) = known() {
            return Some(keys); // another login of the same user was first
        }
        let origin = origin.clone();
        let work = move || scram::derive(origin.password.as_bytes(), &origin.salt, origin.iterations).ok();
        tokio::task::spawn_blocking(work).await.ok()?
    }

    fn remember(&self, origin: Origin, keys: &Keys) {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if derived.len() >= MOST_DERIVED {
            derived.clear();
        }
        derived.insert(origin, keys.clone());
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
