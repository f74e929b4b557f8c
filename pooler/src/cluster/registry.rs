//! Which clusters there are: one for each set of hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use super::Cluster;
use crate::config::{Database, Host, MOST_HOSTS, Routing};
use crate::pool::lock;
use crate::shared::Shared;

type Address = (Host, u16);

/// All that databases have. Nobody is kept alive by being here.
#[derive(Debug, Default)]
pub(crate) struct Clusters(Mutex<HashMap<Vec<Address>, Weak<Cluster>>>);

/// One host as a database describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) zone: Option<String>,
}

impl Clusters {
    /// The cluster of these places, made if need be. What they say of weights and zones counts from now on.
    pub(super) fn of(&self, shared: &Arc<Shared>, places: Vec<Place>) -> Arc<Cluster> {
        let mut key: Vec<Address> = places.iter().map(|place| (place.host.clone(), place.port)).collect();
        key.sort_by_cached_key(|(host, port)| (format!("{host:?}"), *port));
        let mut made = lock(&self.0);
        made.retain(|_, cluster| cluster.strong_count() > 0);
        let found = made.get(&key).and_then(Weak::upgrade);
        let cluster = found.unwrap_or_else(|| {
            let cluster = Cluster::new(shared, &places);
            made.insert(key, Arc::downgrade(&cluster));
            cluster
        });
        drop(made);
        cluster.set_places(&places);
        cluster
    }

    pub(crate) fn all(&self) -> Vec<Arc<Cluster>> {
        lock(&self.0).values().filter_map(Weak::upgrade).collect()
    }

    /// A host could not be reached by somebody who wanted a connection for clients.
    pub(crate) fn connect_failed(&self, host: &Host, port: u16, why: &str) {
        for cluster in self.all() {
            if let Some(member) = cluster.member_at(host, port) {
                cluster.connect_failed(member, why);
            }
        }
    }
}

/// The hosts of a database, none twice; empty: they are not observed.
pub(super) fn places(database: &Database, routing: &Routing) -> Vec<Place> {
    if !database.is_observed(routing) {
        return Vec::new();
    }
    let own = database.hosts.iter().map(|host| Place {
        host: host.clone(),
        port: database.port,
        weight: 1,
        zone: None,
    });
    let replicas = database.replicas.iter().map(|replica| Place {
        host: replica.host.clone(),
        port: replica.port,
        weight: replica.weight.get(),
        zone: replica.zone.clone(),
    });
    let mut places: Vec<Place> = Vec::new();
    for place in own.chain(replicas) {
        // A host that is in both lists is as the list of replicas says.
        match places.iter_mut().find(|known| known.host == place.host && known.port == place.port) {
            Some(known) => *known = place,
            None => places.push(place),
        }
    }
    places.truncate(MOST_HOSTS);
    places
}
