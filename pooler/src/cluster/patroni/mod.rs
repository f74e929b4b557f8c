//! Patroni as one more observer: it knows which host holds the leader's lock, often before a probe can see it, and which
//! host that still takes writes has lost it. It says who may not be written to; who may, probes say as ever.

mod answer;
mod ask;
mod word;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{info, warn};

use super::Cluster;
use crate::config::{Host, ProbeRules};
use crate::shared::Shared;
use answer::Told;
use word::{Word, is_at};

/// Time between two questions while it is not known who is the primary.
const HURRY: Duration = Duration::from_millis(100);

/// What Patroni says counts for so many intervals, and for the time that an answer may take.
const COUNTS_FOR: u32 = 3;

/// The task of a cluster that asks Patroni about it.
pub(crate) struct Watch {
    cluster: Weak<Cluster>,
    /// The URL that answered last.
    last: Option<String>,
    /// None has answered, and that was said.
    complained: bool,
    /// What was said last, and when it was asked for, in microseconds; `None`: that counts no more.
    word: Option<(Word, u64)>,
}

impl Watch {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Watch {
        Watch { cluster: Arc::downgrade(cluster), last: None, complained: false, word: None }
    }

    /// Until nobody has the cluster any more.
    pub(crate) async fn run(mut self) {
        while let Some(cluster) = self.cluster.upgrade() {
            let urls = cluster.patroni();
            match urls.is_empty() {
                true => self.forget(&cluster),
                false => self.look(&cluster, &urls).await,
            }
            let interval = cluster.shared.config.load().probes.interval;
            let hurried = cluster.primary().is_none(); // at the start not even whose the cluster is
            drop(cluster);
            tokio::time::sleep(if hurried { interval.min(HURRY) } else { interval }).await;
        }
    }

    /// Asks each in turn until one answers, first the one that did so last.
    async fn look(&mut self, cluster: &Cluster, urls: &[String]) {
        let first = urls.iter().position(|url| Some(url) == self.last.as_ref()).unwrap_or(0);
        let mut why = String::new();
        for url in urls[first..].iter().chain(&urls[..first]) {
            let at = cluster.now();
            match answer(cluster, url).await {
                Ok(told) => {
                    if self.complained || self.last.as_ref() != Some(url) {
                        info!("patroni: {url} answers");
                    }
                    (self.last, self.complained) = (Some(url.clone()), false);
                    return self.believe(cluster, &told, at);
                }
                Err(error) => why = format!("{url}: {error}"),
            }
            self.forget_old(cluster);
        }
        if !std::mem::replace(&mut self.complained, true) {
            warn!("patroni: no answer; who may be written to is up to probes soon ({why})");
        }
    }

    fn believe(&mut self, cluster: &Cluster, told: &[Told], at: u64) {
        let word = Word::new(&cluster.addresses(), told);
        if self.word.as_ref().is_none_or(|(before, _)| *before != word) {
            let leader = told.iter().find(|told| told.leads());
            info!("patroni: {}", leader.map_or("nobody leads".to_owned(), Told::to_string));
            cluster.heed(&word);
        }
        self.word = Some((word, at));
    }

    fn forget_old(&mut self, cluster: &Cluster) {
        let limit = counts_for(&cluster.shared.config.load().probes);
        if self.word.as_ref().is_some_and(|(_, at)| cluster.now().saturating_sub(*at) >= limit) {
            self.forget(cluster);
        }
    }

    fn forget(&mut self, cluster: &Cluster) {
        if self.word.take().is_some() {
            cluster.heed(&Word::default());
        }
    }
}

/// How long what was said counts, in microseconds.
fn counts_for(rules: &ProbeRules) -> u64 {
    (rules.interval * COUNTS_FOR + rules.timeout).as_micros() as u64
}

/// One answer, its hosts as the members are written that they are.
async fn answer(cluster: &Cluster, url: &str) -> Result<Vec<Told>, String> {
    let ask = async {
        let mut told = ask::ask(&cluster.shared, url).await.map_err(|error| error.to_string())?;
        rename(&cluster.shared, &cluster.addresses(), &mut told).await;
        Ok(told)
    };
    let answer = tokio::time::timeout(cluster.probe_timeout(), ask).await;
    answer.unwrap_or_else(|_| Err("no answer in time (probe_timeout)".to_owned()))
}

/// A host that is no member by name may be one by its addresses.
async fn rename(shared: &Shared, members: &[(Host, u16)], told: &mut [Told]) {
    for told in told.iter_mut().filter(|told| !members.iter().any(|member| is_at(member, told))) {
        let theirs = sockets(shared, &told.host, told.port).await;
        for (host, port) in members {
            let Host::Tcp(name) = host else { continue };
            if *port == told.port && !sockets(shared, name, *port).await.is_disjoint(&theirs) {
                told.host = name.clone();
                break;
            }
        }
    }
}

async fn sockets(shared: &Shared, host: &str, port: u16) -> HashSet<SocketAddr> {
    shared.addresses(host, port).await.into_iter().flatten().collect()
}

impl Cluster {
    /// URLs of Patroni's REST interface, as the databases with these hosts name them.
    fn patroni(&self) -> Vec<String> {
        let config = self.shared.config.load();
        let mut urls = Vec::new();
        for db in self.own_databases() {
            let spec = db.spec.load();
            for url in spec.patroni.as_ref().unwrap_or(&config.patroni) {
                if !urls.contains(url) {
                    urls.push(url.clone());
                }
            }
        }
        urls
    }

    fn addresses(&self) -> Vec<(Host, u16)> {
        self.members.iter().map(|member| member.address()).collect()
    }

    /// Patroni says this from now on: all hosts are looked at, and again soon, for one may be about to become the primary.
    fn heed(&self, word: &Word) {
        self.failed.store(self.now(), Relaxed);
        self.settle(|roles| roles.forbid(word.forbidden));
        self.wake();
    }
}
