//! Where a pool's connections go: to the hosts of its database, to the primary of a cluster, or to one host of a cluster.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use super::{Db, Pool};
use crate::cluster::{Cluster, Member};
use crate::config::{Config, Host};
use crate::error::Refusal;
use crate::server::ServerInfo;
use crate::shared::Shared;

/// What a pool is whose connections all go to one host of a cluster.
pub(crate) struct Site {
    pub(crate) member: Arc<Member>,
    /// The pool of the same database and user whose clients it serves.
    home: Weak<Pool>,
}

impl Site {
    pub(super) fn new(member: &Arc<Member>, home: &Arc<Pool>) -> Site {
        Site { member: member.clone(), home: Arc::downgrade(home) }
    }
}

impl Pool {
    /// The hosts of its database, if it is observed which of them is the primary.
    pub(crate) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.db.cluster.load_full()
    }

    /// Its hosts are observed.
    pub(crate) fn is_clustered(&self) -> bool {
        self.db.cluster.load().is_some()
    }

    /// The pool of the same database and user at one host.
    pub(crate) fn at(self: &Arc<Self>, member: &Arc<Member>) -> Arc<Pool> {
        let is_there = |pool: &&Arc<Pool>| pool.is_at(member);
        let found = self.sites.load().iter().find(is_there).cloned();
        found.unwrap_or_else(|| self.shared.registry.site(&self.shared, self, member))
    }

    pub(super) fn is_at(&self, member: &Member) -> bool {
        self.site.as_ref().is_some_and(|site| std::ptr::eq(&*site.member, member))
    }

    /// The pool whose clients it serves: itself, unless it is at a site.
    pub(crate) fn home(self: &Arc<Self>) -> Arc<Pool> {
        self.site.as_ref().and_then(|site| site.home.upgrade()).unwrap_or_else(|| self.clone())
    }

    /// Its pools at single hosts.
    pub(crate) fn sites(&self) -> arc_swap::Guard<Arc<Vec<Arc<Pool>>>> {
        self.sites.load()
    }

    pub(super) fn add_site(&self, pool: &Arc<Pool>) {
        self.sites.rcu(|sites| sites.iter().chain([pool]).cloned().collect::<Vec<_>>());
    }

    /// It is no pool any more.
    pub(super) fn leave_home(&self) {
        if let Some(home) = self.site.as_ref().and_then(|site| site.home.upgrade()) {
            home.sites.rcu(|sites| {
                sites.iter().filter(|pool| !std::ptr::eq(&***pool, self)).cloned().collect::<Vec<_>>()
            });
        }
    }

    /// Where its next connections may go. Empty: a primary is not known.
    pub(super) fn targets(&self) -> Vec<(Host, u16)> {
        match &self.site {
            Some(site) => vec![site.member.address()],
            None => self.db.targets(),
        }
    }

    /// One host can't be used any more: what it was to do is done elsewhere.
    pub(crate) fn member_lost(&self, member: &Member) {
        let sites = self.sites.load();
        let Some(site) = sites.iter().find(|pool| pool.is_at(member)) else { return };
        site.renew("its host can't be used");
        site.refuse_waiting(&Refusal::fatal("its host can't be used"));
    }

    /// It is at a host that is no longer one of its database's.
    pub(crate) fn is_astray(&self) -> bool {
        let Some(site) = &self.site else { return false };
        let cluster = self.db.cluster.load();
        !cluster.as_ref().is_some_and(|cluster| cluster.has(&site.member))
    }

    /// The primary can't be reached: nothing more is sent to it over what is open, and it may never be one again.
    pub(crate) fn primary_lost(self: &Arc<Self>) {
        self.renew_sessions("the primary can't be reached");
    }

    /// The primary is there again: who waits for it need wait no longer.
    pub(crate) fn primary_is_back(self: &Arc<Self>) {
        self.forget_failure();
        self.order_pump();
    }

    /// Returns when a server's host is the primary no more and another one is: what is still there is not worth a wait,
    /// and counts for nothing at the host that its place is wanted for. Never, where hosts are not observed.
    ///
    /// Cancel safe.
    pub(crate) async fn left_behind(&self, info: &ServerInfo) {
        let cluster = self.cluster().filter(|_| self.site.is_none());
        let Some(cluster) = cluster else { return std::future::pending().await };
        let mut observed = cluster.observed();
        let is_there = |primary: Arc<Member>| primary.is_at(&info.host, info.port);
        while cluster.primary().is_none_or(is_there) && observed.changed().await.is_ok() {}
    }

    /// Which of its hosts is the primary has changed: nothing new is begun where it was.
    pub(crate) fn primary_changed(self: &Arc<Self>) {
        self.renew("another primary");
        self.forget_failure();
        self.order_pump();
    }
}

impl Db {
    /// Finds the cluster that its hosts are, if they are observed. True: it is another one than before.
    pub(crate) fn find_cluster(self: &Arc<Self>, shared: &Arc<Shared>, config: &Config) -> bool {
        let spec = self.spec.load();
        let cluster = Cluster::of(shared, &spec, &config.routing.with(&spec.routing));
        let before = self.cluster.swap(cluster.clone());
        if let Some(cluster) = &cluster {
            cluster.join(self);
        }
        before.as_ref().map(Arc::as_ptr) != cluster.as_ref().map(Arc::as_ptr)
    }

    /// Where its clients' requests go that are for the primary. Empty: that is not known.
    pub(crate) fn targets(&self) -> Vec<(Host, u16)> {
        match self.cluster.load().as_ref() {
            Some(cluster) => cluster.primary().iter().map(|member| member.address()).collect(),
            None => {
                let spec = self.spec.load();
                spec.hosts.iter().map(|host| (host.clone(), spec.port)).collect()
            }
        }
    }

    /// Clients are still at work on a host that is the primary no more: until they are cut off nothing begins on another.
    pub(super) fn is_elsewhere(&self, targets: &[(Host, u16)]) -> bool {
        let at_work = |pool: &Arc<Pool>| {
            let is_out = |info: &Arc<ServerInfo>| {
                info.client.load(Relaxed) != 0
                    && !targets.iter().any(|(host, port)| (host, *port) == (&info.host, info.port))
            };
            pool.site.is_none() && pool.members().iter().any(is_out)
        };
        self.pools().iter().any(at_work)
    }
}
