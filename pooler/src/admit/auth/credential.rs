//! What is known of the user that a client says it is.

use std::sync::Arc;

use protocol::auth::SecretKind;
use protocol::auth::scram::Verifier;
use protocol::startup::Startup;
use tracing::info;

use super::{Arrival, Denied};
use crate::auth_query::{self, Age, AuthQueries, Found, Learnt, Lookup, Told};
use crate::config::{AuthMethod, Config, Database, Secret};
use crate::error::Refusal;

/// A user and its secret.
pub(super) struct Credential {
    /// Name of the session's user.
    pub(super) user: String,
    /// `None`: nobody knows this user.
    secret: Option<Secret>,
    /// Where it was looked up, if the user list does not have it.
    lookup: Option<Lookup>,
    /// The answer is one of an earlier login: there may be a newer one.
    kept: bool,
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

    fn adopt(&mut self, found: &Found) {
        self.user = found.user.clone();
        self.secret = Some(found.secret.clone().unwrap_or_else(|| Secret::new(""))); // known, and no password fits
    }

    /// What fails by an answer that is not new is judged by a new one, once. True: that says something else. A client that
    /// leaves meanwhile is waited for: its failure is to count.
    pub(super) async fn renew(&mut self, arrival: &Arrival) -> Result<bool, Refusal> {
        if !std::mem::take(&mut self.kept) {
            return Ok(false);
        }
        let Some(lookup) = &self.lookup else { return Ok(false) };
        let told = AuthQueries::find(&arrival.worker, lookup, Age::Fresh).await?;
        let before = (self.user.clone(), self.secret.clone());
        match told.answer {
            Some(found) => self.adopt(&found),
            None => self.secret = None,
        }
        Ok(before != (self.user.clone(), self.secret.clone()))
    }

    /// What a pool is to know of it for logging in to servers.
    pub(super) fn learnt(&self) -> Option<Learnt> {
        Learnt::new(self.secret.as_ref()?, self.lookup.as_ref()?)
    }

    /// The stored SCRAM verifier, if that is its secret.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        match self.secret()? {
            SecretKind::Scram(verifier) => Some(verifier),
            SecretKind::Plain(_) | SecretKind::Md5(_) => None,
        }
    }
}

/// Looks the user up: in the user list, then by `auth_query`.
pub(super) async fn find(
    arrival: &mut Arrival,
    config: &Config,
    startup: &Startup,
    spec: Option<&Arc<Database>>,
) -> Result<Credential, Denied> {
    let user = startup.user();
    let listed = config.auth.userlist.0.get(user).cloned();
    let unlisted = listed.is_none() && config.auth.method != AuthMethod::Any;
    let mut credential = Credential { user: user.to_owned(), secret: listed, lookup: None, kept: false };
    if unlisted
        && let Some(lookup) = auth_query::lookup(config, startup.database(), spec.map(|s| &**s), user)?
    {
        let told = ask(arrival, &lookup).await?;
        let Some(found) = told.answer else {
            info!(peer = %arrival.label(), "login failed: db={}", startup.database());
            // Guessed names cost as much as guessed passwords.
            return Err(Denied::Failed(Refusal::fatal("no such user")));
        };
        credential.lookup = Some(lookup);
        credential.kept = told.kept;
        credential.adopt(&found);
    }
    Ok(credential)
}

/// Asks PostgreSQL, as long as the client is there.
async fn ask(arrival: &mut Arrival, lookup: &Lookup) -> Result<Told, Denied> {
    let worker = arrival.worker.clone();
    tokio::select! {
        biased;
        told = AuthQueries::find(&worker, lookup, Age::Kept) => Ok(told?),
        () = arrival.conversation.gone() => Err(Denied::Silent),
    }
}
