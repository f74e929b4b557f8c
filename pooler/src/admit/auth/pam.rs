//! Passwords that PAM judges.

use super::ldap::ask_password;
use super::{Arrival, Denied};
use crate::config::Secret;
use crate::error::Refusal;
use crate::net::Peer;
use crate::pam::Question;

const FAILED: &str = "PAM authentication failed";

/// Asks for the password, and PAM about it. Returns the password: servers are logged in to with it.
pub(super) async fn log_in(arrival: &mut Arrival, service: &str, user: &str) -> Result<Secret, Denied> {
    let password = ask_password(arrival, FAILED).await?;
    let shared = arrival.worker.shared.clone();
    let question = Question {
        service: service.to_owned(),
        user: user.to_owned(),
        password: password.clone(),
        from: match arrival.remote {
            Peer::Tcp(address) => address.ip().to_string(),
            Peer::Unix { .. } => "localhost".to_owned(),
        },
    };
    let outcome = tokio::select! {
        biased;
        outcome = shared.ask_pam(question) => outcome,
        () = arrival.conversation.gone() => return Err(Denied::Silent),
    };
    match outcome {
        Ok(()) => Ok(Secret::new(password.as_str())),
        Err(why) => {
            tracing::warn!(peer = %arrival.label(), "PAM login failed for user {user:?}: {why}");
            Err(Refusal::fatal(FAILED).into())
        }
    }
}
