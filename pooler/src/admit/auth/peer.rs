//! `peer`: the client is who the operating system says it is.

use nix::unistd::{Uid, User};

use super::credential::Credential;
use super::rules::Demand;
use super::{Arrival, Denied};
use crate::error::Refusal;
use crate::net::Peer;

/// Compares the name of the process's owner at the other end of a Unix socket with the user, or looks both up in the map.
pub(super) async fn check(
    arrival: &Arrival,
    demand: &Demand,
    login: &str,
    credential: &Credential,
) -> Result<(), Denied> {
    let rejected = || Denied::Refused(Refusal::fatal("unix socket login rejected"));
    if !matches!(arrival.remote, Peer::Unix { .. }) || !credential.is_known() {
        return Err(rejected());
    }
    let uid = arrival.conversation.stream.peer_uid().ok_or_else(rejected)?;
    let name = user_name(uid).await.ok_or_else(rejected)?;
    match demand.rule.as_ref().and_then(|rule| rule.map.as_ref()) {
        Some(map) if map.allows(&name, login) => Ok(()),
        Some(map) => {
            tracing::info!(peer = %arrival.label(), "ident map {} cannot be matched", map.name);
            Err(rejected())
        }
        None if name == login => Ok(()),
        None => Err(rejected()),
    }
}

/// The name of a user of the system. The answer may come from far away, so a thread beside the workers waits for it.
async fn user_name(uid: u32) -> Option<String> {
    let look_up = move || User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Some(tokio::task::spawn_blocking(look_up).await.ok()??.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_its_superuser() {
        assert_eq!(user_name(0).await.as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7).await, None);
    }
}
