use std::sync::atomic::Ordering::Relaxed;

use crate::cluster::{Cluster, Member};
use crate::config::Host;
use crate::shared::Shared;

/// One host of a database whose hosts are observed.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// The databases that have it, by the names clients use.
    pub databases: Vec<String>,
    /// Name, address, or directory of the socket.
    pub host: String,
    /// Port, for the socket's name too.
    pub port: u16,
    /// Availability zone.
    pub zone: Option<String>,
    /// How much of the reads it gets, compared with others.
    pub weight: u32,
    /// `primary`, `standby`, `fenced` or `unknown`.
    pub role: &'static str,
    /// The timeline that it was seen on last.
    pub timeline: Option<u32>,
    /// Up to where it has written, or replayed, its WAL.
    pub lsn: Option<String>,
    /// How far that is behind the primary, in bytes.
    pub lag_bytes: Option<u64>,
    /// For how long the primary has been further than that, in milliseconds; the time between two looks may be in it.
    pub lag_ms: Option<u64>,
    /// `closed`, `open` or `half-open`.
    pub breaker: &'static str,
    /// Why it is open, or was last; empty: it has long been closed.
    pub breaker_reason: String,
    /// How many milliseconds ago its state began.
    pub breaker_since_ms: Option<u64>,
    /// In how many milliseconds it is tried again.
    pub breaker_retry_ms: Option<u64>,
    /// Requests that it is at work on.
    pub outstanding: usize,
    /// Transactions that were sent there because they only read.
    pub reads: u64,
    /// How often it was looked at.
    pub probes: u64,
    /// How often that has told nothing.
    pub probe_failures: u64,
    /// Why the last time; empty: it has told something.
    pub probe_error: String,
    /// How long the last answer took, in microseconds.
    pub probe_us: Option<u64>,
    /// How many milliseconds ago the last look ended.
    pub probe_age_ms: Option<u64>,
}

/// Every host of every cluster; a cluster's hosts in their order.
pub(crate) fn hosts(shared: &Shared) -> Vec<HostRow> {
    let mut clusters: Vec<_> = shared.clusters.all().into_iter().map(|c| (c.databases(), c)).collect();
    clusters.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rows = clusters.iter().flat_map(|(databases, cluster)| {
        cluster.members().iter().map(move |member| row(cluster, member, databases))
    });
    rows.collect()
}

fn row(cluster: &Cluster, member: &Member, databases: &[String]) -> HostRow {
    let now = cluster.now();
    let ago = |moment: u64| now.saturating_sub(moment) / 1_000;
    let role = cluster.role(member);
    let lag_bytes = cluster.lag_bytes(member);
    let lag = member.lag().filter(|_| lag_bytes.is_some());
    let mut health = member.health();
    health.breaker.look(now);
    let breaker = &health.breaker;
    HostRow {
        databases: databases.to_vec(),
        host: match &member.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        },
        port: member.port,
        zone: member.zone().map(|zone| zone.to_string()),
        weight: member.weight(),
        role: role.word(),
        timeline: member.timeline(),
        lsn: member.lsn().map(|lsn| lsn.to_string()),
        lag_bytes,
        lag_ms: lag.map(|lag| lag / 1_000),
        breaker: breaker.word(),
        breaker_reason: breaker.reason().to_owned(),
        breaker_since_ms: breaker.since().map(ago),
        breaker_retry_ms: breaker.until().map(|until| until.saturating_sub(now) / 1_000),
        outstanding: member.outstanding.load(Relaxed),
        reads: member.reads.load(Relaxed),
        probes: health.probes,
        probe_failures: health.failures,
        probe_error: health.error.clone(),
        probe_us: health.took,
        probe_age_ms: health.last.map(ago),
    }
}
