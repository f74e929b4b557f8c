use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{Database, Host, Share};

impl Database {
    /// Which of its hosts is the primary is observed: it has replicas, or several hosts over which reads may be spread.
    pub(crate) fn is_observed(&self, routing: &Routing) -> bool {
        !self.replicas.is_empty() || self.hosts.len() > 1 && routing.with(&self.routing).is_on()
    }
}

/// Hosts that a database may have, `host` and `replicas` together: sets of them are bits of a word.
pub const MOST_HOSTS: usize = 64;

/// Who decides that a request goes to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadRouting {
    /// Nobody: all go to the primary, unless the configured route says otherwise.
    #[default]
    Off,
    /// The client, by its route or by the modes of its transaction.
    Explicit,
    /// The pooler as well, where it is sure that a request only reads.
    Auto,
}

/// What reads on replicas see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadConsistency {
    /// Everything that the client itself, or one with its causality key, has committed.
    #[default]
    Session,
    /// What the replica happens to have, within `max_lag`.
    Eventual,
    /// Everything that anybody has committed before the read came.
    Strong,
}

/// What becomes of a read for which there is no replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicaFallback {
    /// The primary runs it.
    #[default]
    Primary,
    /// It waits for a replica like for any server.
    Error,
}

/// Where a client wants its requests to go: the words of `pgferry.route`, and those of libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// As `read_routing` says (`auto`, `any`).
    #[default]
    Auto,
    /// The primary (`primary`, `read-write`).
    Primary,
    /// A replica, and nothing else (`replica`, `standby`, `read-only`).
    Replica,
    /// A replica; where there is none, the primary (`prefer-standby`).
    PreferReplica,
}

impl ReadRouting {
    /// The word used in configuration and console.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadRouting::Off => "off",
            ReadRouting::Explicit => "explicit",
            ReadRouting::Auto => "auto",
        }
    }
}

impl ReadConsistency {
    /// The word used in configuration and console.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadConsistency::Session => "session",
            ReadConsistency::Eventual => "eventual",
            ReadConsistency::Strong => "strong",
        }
    }
}

impl ReplicaFallback {
    /// The word used in configuration and console.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplicaFallback::Primary => "primary",
            ReplicaFallback::Error => "error",
        }
    }
}

impl Route {
    /// The route that a word stands for; case does not matter.
    pub fn of(word: &str) -> Option<Route> {
        Some(match word.to_ascii_lowercase().as_str() {
            "auto" | "any" => Route::Auto,
            "primary" | "read-write" => Route::Primary,
            "replica" | "standby" | "read-only" => Route::Replica,
            "prefer-standby" | "prefer-replica" => Route::PreferReplica,
            _ => return None,
        })
    }

    /// Our own word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Route::Auto => "auto",
            Route::Primary => "primary",
            Route::Replica => "replica",
            Route::PreferReplica => "prefer-standby",
        }
    }
}

/// A host of a database beside those in `host`: `HOST[:PORT][*WEIGHT][@ZONE]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    /// Where it is.
    pub host: Host,
    /// Its port: the database's, where none is written.
    pub port: u16,
    /// How much of the reads it gets, compared with others; 1 where none is written.
    pub weight: NonZeroU32,
    /// Its availability zone.
    pub zone: Option<String>,
}

/// `HOST:PORT`, with brackets about an IPv6 address.
pub(crate) fn endpoint(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(directory) => format!("{}:{port}", directory.display()),
    }
}

/// As in the file, with all that may be left out there but a weight of 1.
impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&endpoint(&self.host, self.port))?;
        if self.weight != NonZeroU32::MIN {
            write!(f, "*{}", self.weight)?;
        }
        self.zone.iter().try_for_each(|zone| write!(f, "@{zone}"))
    }
}

/// How the requests of a pool are spread over hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// `read_routing`.
    pub reads: ReadRouting,
    /// `route`: of clients that say nothing.
    pub route: Route,
    /// `read_consistency`.
    pub consistency: ReadConsistency,
    /// `read_consistency_wait`: how long a read waits for a replica that may serve it before it goes to the primary.
    pub consistency_wait: Duration,
    /// `max_replica_lag`: replicas further behind get no reads; `None`: lag does not matter.
    pub max_lag: Option<Duration>,
    /// `replica_fallback`.
    pub fallback: ReplicaFallback,
    /// `primary_read_share`: the part of the pool's connections to the primary that reads may have which are for replicas.
    pub primary_read_share: Share,
    /// `commit_certainty`: what became of a COMMIT whose answer was lost is asked of the next primary.
    pub commit_certainty: bool,
    /// `read_functions`: functions that only read, as written in statements, in small letters.
    pub read_functions: Vec<String>,
}

impl Default for Routing {
    fn default() -> Routing {
        Routing {
            reads: ReadRouting::default(),
            route: Route::default(),
            consistency: ReadConsistency::default(),
            consistency_wait: Duration::ZERO,
            max_lag: None,
            fallback: ReplicaFallback::default(),
            primary_read_share: Share::millionths(Share::WHOLE),
            commit_certainty: false,
            read_functions: Vec::new(),
        }
    }
}

/// What a database says of [`Routing`]. `None` says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs)]
pub struct OwnRouting {
    pub reads: Option<ReadRouting>,
    pub route: Option<Route>,
    pub consistency: Option<ReadConsistency>,
    pub consistency_wait: Option<Duration>,
    pub max_lag: Option<Option<Duration>>,
    pub fallback: Option<ReplicaFallback>,
    pub primary_read_share: Option<Share>,
    pub commit_certainty: Option<bool>,
    pub read_functions: Option<Vec<String>>,
}

impl Routing {
    /// Requests may go to a replica.
    pub(crate) fn is_on(&self) -> bool {
        self.reads != ReadRouting::Off || matches!(self.route, Route::Replica | Route::PreferReplica)
    }

    /// The route that counts for a client that has this one: where routing is off, it is not the client who says.
    pub(crate) fn heeded(&self, route: Route) -> Route {
        if self.reads == ReadRouting::Off { self.route } else { route }
    }

    /// This where `own` says nothing.
    pub(crate) fn with(&self, own: &OwnRouting) -> Routing {
        Routing {
            reads: own.reads.unwrap_or(self.reads),
            route: own.route.unwrap_or(self.route),
            consistency: own.consistency.unwrap_or(self.consistency),
            consistency_wait: own.consistency_wait.unwrap_or(self.consistency_wait),
            max_lag: own.max_lag.unwrap_or(self.max_lag),
            fallback: own.fallback.unwrap_or(self.fallback),
            primary_read_share: own.primary_read_share.unwrap_or(self.primary_read_share),
            commit_certainty: own.commit_certainty.unwrap_or(self.commit_certainty),
            read_functions: own.read_functions.clone().unwrap_or_else(|| self.read_functions.clone()),
        }
    }
}

/// How hosts are observed that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeRules {
    /// `probe_interval`: the longest time between two looks at a host; they are more frequent while that matters.
    pub interval: Duration,
    /// `probe_timeout`: the time for one.
    pub timeout: Duration,
    /// `probe_user`: who looks; `None`: a user whose pool there is.
    pub user: Option<String>,
    /// `availability_zone`: where this pooler is; replicas there come first.
    pub zone: Option<String>,
}

impl Default for ProbeRules {
    fn default() -> ProbeRules {
        ProbeRules {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            user: None,
            zone: None,
        }
    }
}
