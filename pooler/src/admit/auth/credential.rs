//! What is known of the user that a client says it is.

use std::sync::Arc;

use protocol::auth::SecretKind;
use protocol::auth::scram::Verifier;
use protocol::startup::Startup;

use super::{Arrival, Denied};
use crate::config::{Config, Database, Secret};

/// A user and its secret.
pub(super) struct Credential {
    /// Name of the session's user.
    pub(super) user: String,
    /// `None`: nobody knows this user.
    secret: Option<Secret>,
}

impl Credential {
    pub(super) fn is_known(&self) -> bool {
        self.secret.is_some()
    }

    /// The secret, unless there is none that a password could fit.
    pub(super) fn secret(&self) -> Option<SecretKind<'_>> {
        let kind = self.secret.as_ref().map(|secret| SecretKind::of(secret.reveal()))?;
        if kind == SecretKind::Plain("") { None } else { Some(kind) }
    }

    /// The stored SCRAM verifier, if that is its secret.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        match self.secret()? {
            SecretKind::Scram(verifier) => Some(verifier),
            SecretKind::Plain(_) | SecretKind::Md5(_) => None,
        }
    }
}

/// Looks the user up in the user list.
pub(super) async fn find(
    _arrival: &mut Arrival,
    config: &Config,
    startup: &Startup,
    _spec: Option<&Arc<Database>>,
) -> Result<Credential, Denied> {
    let user = startup.user();
    Ok(Credential { user: user.to_owned(), secret: config.auth.userlist.0.get(user).cloned() })
}
