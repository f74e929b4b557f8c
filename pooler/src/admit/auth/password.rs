//! Passwords in the clear, and MD5 challenges.

use protocol::auth::md5::Md5Secret;
use protocol::auth::{self, AuthRequest, SecretKind};
use subtle::ConstantTimeEq;

use super::credential::Credential;
use super::{Arrival, Denied, ask};
use crate::error::Refusal;
use crate::secrets::random;

const FAILED: &str = "password authentication failed";

pub(super) async fn plain(arrival: &mut Arrival, credential: &mut Credential) -> Result<(), Denied> {
    let answer = ask(arrival, AuthRequest::CleartextPassword).await?;
    let password = auth::decode_password(&answer).map_err(|_| Refusal::fatal(FAILED))?;
    if password.is_empty() {
        return Err(Refusal::fatal("empty password returned by client").into());
    }
    let right = is_right(arrival, credential, password).await
        || credential.renew(arrival).await? && is_right(arrival, credential, password).await;
    if right { Ok(()) } else { Err(Refusal::fatal(FAILED).into()) }
}

async fn is_right(arrival: &Arrival, credential: &Credential, password: &[u8]) -> bool {
    let user = &credential.user;
    match credential.secret() {
        None => false,
        Some(SecretKind::Plain(stored)) => stored.as_bytes().ct_eq(password).into(),
        Some(SecretKind::Md5(stored)) => stored == Md5Secret::new(user, password),
        Some(SecretKind::Scram(verifier)) => {
            arrival.worker.shared.secrets.is_password_of(user, password, &verifier).await
        }
    }
}

/// A user who can't log in is challenged all the same.
pub(super) async fn md5(arrival: &mut Arrival, credential: &mut Credential) -> Result<(), Denied> {
    let salt = random::<4>();
    let answer = ask(arrival, AuthRequest::Md5Password { salt }).await?;
    let answer = auth::decode_password(&answer).map_err(|_| Refusal::fatal(FAILED))?;
    let fits = |credential: &Credential| md5_secret(credential).is_some_and(|s| s.verify(salt, answer));
    let right = fits(credential) || credential.renew(arrival).await? && fits(credential);
    if right { Ok(()) } else { Err(Refusal::fatal(FAILED).into()) }
}

fn md5_secret(credential: &Credential) -> Option<Md5Secret> {
    match credential.secret()? {
        SecretKind::Md5(stored) => Some(stored),
        SecretKind::Plain(password) => Some(Md5Secret::new(&credential.user, password.as_bytes())),
        SecretKind::Scram(_) => None,
    }
}
