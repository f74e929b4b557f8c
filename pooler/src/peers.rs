//! Other instances behind the same address. A client's cancel request may come to any of them; its key says to whom it
//! belongs, and there it is passed on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::cancel;
use crate::clients::CancelKey;
use crate::config::{Config, PeerInstance};
use crate::net::Stream;
use crate::pool::Tally;
use crate::server::reach;
use crate::shared::Shared;

/// All that are configured.
#[derive(Debug, Default)]
pub(crate) struct Peers(ArcSwap<BTreeMap<u16, Arc<Peer>>>);

/// The way to one of them.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) spec: PeerInstance,
    /// Connections that may still be opened.
    places: Semaphore,
    /// A request was passed on to it.
    pub(crate) used: AtomicBool,
    /// Requests for which no connection stands.
    pub(crate) waiting: Arc<Tally>,
    pub(crate) connecting: Arc<Tally>,
    /// Requests that were sent and are being dealt with there.
    pub(crate) active: Arc<Tally>,
}

impl Peers {
    /// Takes over what the configuration says now. What has not changed keeps its connections in mind.
    pub(crate) fn reload(&self, config: &Config) {
        let known = self.0.load();
        let peer = |(id, spec): (&u16, &PeerInstance)| {
            let same = known.get(id).filter(|peer| peer.spec == *spec).cloned();
            (*id, same.unwrap_or_else(|| Arc::new(Peer::new(spec.clone()))))
        };
        self.0.store(Arc::new(config.peers.iter().map(peer).collect()));
    }

    pub(crate) fn all(&self) -> Arc<BTreeMap<u16, Arc<Peer>>> {
        self.0.load_full()
    }
}

impl Peer {
    fn new(spec: PeerInstance) -> Peer {
        let places = spec.pool_size.map_or(Semaphore::MAX_PERMITS, |size| size.get());
        Peer {
            spec,
            places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)),
            used: AtomicBool::default(),
            waiting: Arc::default(),
            connecting: Arc::default(),
            active: Arc::default(),
        }
    }

    async fn pass_on(&self, shared: &Shared, key: CancelKey) {
        self.used.store(true, Relaxed);
        let waiting = self.waiting.count();
        let Ok(_place) = self.places.acquire().await else { return };
        let connecting = self.connecting.count();
        let mut stream = match reach(shared, &self.spec.host, self.spec.port).await {
            Ok(socket) => Stream::from(socket),
            Err(error) => {
                return tracing::warn!("cannot pass a cancel request on to peer {}: {error}", key.peer());
            }
        };
        drop((waiting, connecting));
        let _active = self.active.count();
        cancel::deliver(&mut stream, key.pid, &key.secret).await;
    }
}

/// Passes a cancel request on to the instance that its key names, and waits until that has dealt with it. One that names
/// none, or has been passed on too often, ends here.
pub(crate) async fn forward(shared: &Shared, key: CancelKey) {
    let peer = shared.peers.0.load().get(&key.peer()).cloned();
    let (Some(peer), Some(key)) = (peer, key.with_one_hop_less()) else { return };
    let _ = tokio::time::timeout(cancel::time_limit(shared), peer.pass_on(shared, key)).await;
}
