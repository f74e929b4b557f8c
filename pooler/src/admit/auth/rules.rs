//! Which method a client has to answer to.

use std::net::IpAddr;
use std::sync::Arc;

use protocol::startup::{Replication, Startup};

use super::{Arrival, Denied, certificate};
use crate::config::{AuthMethod, Config, Found, HbaRule, Incoming, Interface};
use crate::error::Refusal;
use crate::net::Peer;
use crate::shared::Shared;

/// What is demanded of a client.
pub(super) struct Demand {
    /// Neither `Hba` nor, of a rule, `Any`.
    pub(super) method: AuthMethod,
    /// The rule that says so; `None`: `auth_type` does.
    pub(super) rule: Option<Arc<HbaRule>>,
}

impl Demand {
    /// A password is asked for that neither a list nor PostgreSQL knows.
    pub(super) fn is_judged_elsewhere(&self) -> bool {
        matches!(self.method, AuthMethod::Ldap | AuthMethod::Pam)
    }

    /// An option of the rule.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let options = &self.rule.as_ref()?.options;
        options.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// The method for this connection, database and user.
///
/// # Errors
/// No rule fits, or one rejects it.
pub(super) async fn demand(arrival: &Arrival, config: &Config, startup: &Startup) -> Result<Demand, Denied> {
    if config.auth.method != AuthMethod::Hba {
        return Ok(Demand { method: config.auth.method, rule: None });
    }
    let address = match arrival.remote {
        Peer::Tcp(address) => Some(address.ip().to_canonical()),
        Peer::Unix { .. } => None,
    };
    let incoming = Incoming {
        address,
        tls: certificate::is_encrypted(arrival),
        database: startup.database(),
        user: startup.user(),
        physical_replication: startup.replication() == Replication::Physical,
    };
    let Some(rule) = first(&arrival.worker.shared, config, &incoming).await else {
        return Err(Refusal::fatal("no authentication method is found").into());
    };
    rule.hits.add();
    tracing::debug!(peer = %arrival.label(), "rule {}:{} decides", rule.file.display(), rule.line);
    if rule.method == AuthMethod::Reject {
        return Err(Refusal::fatal("login rejected").into());
    }
    Ok(Demand { method: rule.method, rule: Some(rule) })
}

/// The first rule that fits. Names of hosts are looked up one after the other, as far as their rules come into question.
async fn first(shared: &Shared, config: &Config, incoming: &Incoming<'_>) -> Option<Arc<HbaRule>> {
    let rules = &config.auth.hba;
    let mut known = None;
    let mut interfaces = || known.get_or_insert_with(interfaces).clone();
    let mut from = 0;
    loop {
        match rules.first(from, incoming, &mut interfaces) {
            Found::Rule(index) => return rules.0.get(index).cloned(),
            Found::IfNamed(index, name) => {
                let rule = rules.0.get(index)?;
                if is_at(shared, name, incoming.address, rule.method).await {
                    return Some(rule.clone());
                }
                from = index + 1;
            }
            Found::None => return None,
        }
    }
}

/// Whether the name has the client's address. One that can't be found rejects, where its rule does: nobody knows whom.
async fn is_at(shared: &Shared, name: &str, client: Option<IpAddr>, method: AuthMethod) -> bool {
    match shared.addresses(name, 0).await {
        Ok(addresses) => addresses.iter().any(|address| Some(address.ip().to_canonical()) == client),
        Err(_) => {
            tracing::warn!("the address of {name}, which a rule names, cannot be found");
            method == AuthMethod::Reject
        }
    }
}

/// The addresses of this machine. None, and so no match, if the system does not tell.
fn interfaces() -> Arc<[Interface]> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return [].into() };
    all.filter_map(|interface| {
        let [address, mask] = [interface.address?, interface.netmask?].map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        });
        Some((address?, mask?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reached_by_its_loopback() {
        let own: Vec<_> = interfaces().iter().copied().collect();
        let loopback: Interface = ([127, 0, 0, 1].into(), [255, 0, 0, 0].into());
        assert!(own.contains(&loopback), "{own:?}");
    }
}
