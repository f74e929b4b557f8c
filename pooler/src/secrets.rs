//! Randomness, and keys derived from passwords, kept so that the expensive step is done once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::auth::scram::{self, Keys, Verifier};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

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

/// What a key is derived from.
struct Origin<'a> {
    user: &'a str,
    password: &'a [u8],
    salt: &'a [u8],
    iterations: u32,
}

/// What an origin is known by: passwords themselves are not kept.
type Fingerprint = [u8; scram::KEY_LEN];

/// Derived keys, by what they were derived from.
pub(crate) struct Secrets {
    /// Makes the salts of users that have no verifier, known or not, and fingerprints.
    process: Zeroizing<[u8; 32]>,
    derived: Mutex<HashMap<Fingerprint, Keys>>,
    /// One derivation for clients at a time: a burst of logins takes one core at most, and the queries of others have the
    /// rest.
    of_clients: Semaphore,
    /// The same for logins to servers, which must not queue behind everybody who tries a password.
    of_servers: Semaphore,
}

/// More derived keys than this are not kept: a server that sends a new salt each time must not fill the memory.
const MOST_DERIVED: usize = 4096;

impl Secrets {
    pub(crate) fn new() -> Secrets {
        let [of_clients, of_servers] = [1, 1].map(Semaphore::new);
        Secrets { process: Zeroizing::new(random()), derived: Mutex::default(), of_clients, of_servers }
    }

    /// The keys of a password for the salt that a server has sent. PBKDF2 runs on a thread of its own the first time;
    /// `None` if the iteration count is out of bounds.
    pub(crate) async fn derive(
        &self,
        user: &str,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        let origin = Origin { user, password: password.as_bytes(), salt, iterations };
        self.derive_in(&self.of_servers, &origin).await
    }

    async fn derive_in(&self, turn: &Semaphore, origin: &Origin<'_>) -> Option<Keys> {
        let keys = self.compute(turn, origin).await?;
        self.remember(origin, &keys);
        Some(keys)
    }

    /// Whether a password is the one behind a verifier. Wrong ones are not remembered.
    pub(crate) async fn is_password_of(&self, user: &str, password: &[u8], verifier: &Verifier) -> bool {
        let (salt, iterations) = (verifier.salt(), verifier.iterations());
        let origin = Origin { user, password, salt, iterations };
        let Some(keys) = self.compute(&self.of_clients, &origin).await else { return false };
        let right = keys.fit(verifier);
        if right {
            self.remember(&origin, &keys);
        }
        right
    }

    async fn compute(&self, turn: &Semaphore, origin: &Origin<'_>) -> Option<Keys> {
        let name = self.name(origin);
        let known = || self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(keys) = known() {
            return Some(keys);
        }
        let _turn = turn.acquire().await.ok()?;
        if let Some(keys) = known() {
            return Some(keys); // another login of the same user was first
        }
        let password = Zeroizing::new(origin.password.to_vec());
        let (salt, iterations) = (origin.salt.to_vec(), origin.iterations);
        let work = move || scram::derive(&password, &salt, iterations).ok();
        tokio::task::spawn_blocking(work).await.ok()?
    }

    fn name(&self, origin: &Origin<'_>) -> Fingerprint {
        let Origin { user, password, salt, iterations } = origin;
        let parts = [user.as_bytes(), password, salt, &iterations.to_be_bytes()];
        scram::fingerprint(&*self.process, &parts)
    }

    fn remember(&self, origin: &Origin<'_>, keys: &Keys) {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if derived.len() >= MOST_DERIVED {
            derived.clear();
        }
        derived.insert(self.name(origin), keys.clone());
    }

    /// A verifier for a plain password, with a salt that does not change while the process lives.
    pub(crate) async fn verifier(&self, user: &str, password: &str, iterations: u32) -> Option<Verifier> {
        let salt = scram::salt_for(user, &*self.process);
        let origin = Origin { user, password: password.as_bytes(), salt: &salt, iterations };
        Some(self.derive_in(&self.of_clients, &origin).await?.verifier(&salt, iterations))
    }

    /// A verifier that nothing fits, for a user who does not exist.
    pub(crate) fn fake_verifier(&self, user: &str, iterations: u32) -> Verifier {
        Verifier::fake(user, &*self.process, iterations)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn logins_to_servers_do_not_wait_for_those_of_clients() {
        let secrets = Secrets::new();
        let _taken = secrets.of_clients.acquire().await.unwrap();
        let derived = secrets.derive("ann", "pw", b"salt", 2);
        assert!(tokio::time::timeout(Duration::from_secs(10), derived).await.expect("its turn").is_some());
    }
}
