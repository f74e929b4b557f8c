use std::time::Duration;

/// Process-wide time limits. `None` is no limit. Each is checked by a worker's coarse tick, so it may fire up to a
/// third of a second late, as PgBouncer's do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Time a client may wait in the queue for a server connection.
    pub query_wait: Option<Duration>,
    /// A queued client gets a notice after this.
    pub query_wait_notify: Option<Duration>,
    /// Time to finish login, and to get the first server of a pool.
    pub client_login: Option<Duration>,
    /// Time for connect and login to a server.
    pub server_connect: Option<Duration>,
    /// Pause between attempts after a server refused or could not be reached.
    pub server_login_retry: Duration,
    /// Time the first queued client waits before the reserve is used; `None`: the reserve is off.
    pub reserve_pool: Option<Duration>,
    /// Time a cancel request may take to reach its server.
    pub cancel_wait: Option<Duration>,
    /// A database that came from `*` is forgotten after being unused this long.
    pub autodb_idle: Option<Duration>,
}
