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
    /// Time a client may be idle without a server.
    pub client_idle: Option<Duration>,
    /// Time for a server to end a statement that took too long; then its connection is closed.
    pub statement_grace: Duration,
    /// Time a cancel request may take to reach its server.
    pub cancel_wait: Option<Duration>,
    /// Clients are ended this long after the process was told to end when they have left.
    pub drain: Option<Duration>,
    /// How long of that they go on as before.
    pub drain_grace: Duration,
    /// A database that came from `*` is forgotten after being unused this long.
    pub autodb_idle: Option<Duration>,
    /// A pool is forgotten after having no connection for this long.
    pub pool_idle: Option<Duration>,
    /// Time for clients to come to rest after `SUSPEND`.
    pub suspend: Option<Duration>,
}

/// How long what a client does with a server may take. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeLimits {
    /// A request, until it is answered in full; then the client is disconnected.
    pub query: Option<Duration>,
    /// A statement; then it is cancelled.
    pub statement: Option<Duration>,
    /// A request, its wait for a server included; then it is refused or cancelled.
    pub request: Option<Duration>,
    /// A transaction.
    pub transaction: Option<Duration>,
    /// A client's doing nothing in a transaction.
    pub idle_transaction: Option<Duration>,
    /// What becomes of a client whose transaction takes too long, or that does nothing in it.
    pub on_timeout: OnTimeout,
}

/// What becomes of a client whose transaction was ended for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTimeout {
    /// It is disconnected, as by PgBouncer.
    #[default]
    Disconnect,
    /// It is disconnected with the code and the words of PostgreSQL.
    Terminate,
    /// It is told with its next request, and goes on as with any failed transaction.
    Error,
}

/// What a database or a user says of [`TimeLimits`]. `None` says nothing, `Some(None)` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs)]
pub struct OwnTimeLimits {
    pub query: Option<Option<Duration>>,
    pub statement: Option<Option<Duration>>,
    pub request: Option<Option<Duration>>,
    pub transaction: Option<Option<Duration>>,
    pub idle_transaction: Option<Option<Duration>>,
    pub on_timeout: Option<OnTimeout>,
}

impl TimeLimits {
    /// These where `own` says nothing.
    pub(crate) fn with(self, own: OwnTimeLimits) -> TimeLimits {
        TimeLimits {
            query: own.query.unwrap_or(self.query),
            statement: own.statement.unwrap_or(self.statement),
            request: own.request.unwrap_or(self.request),
            transaction: own.transaction.unwrap_or(self.transaction),
            idle_transaction: own.idle_transaction.unwrap_or(self.idle_transaction),
            on_timeout: own.on_timeout.unwrap_or(self.on_timeout),
        }
    }

    /// There is one.
    pub(crate) fn is_any(&self) -> bool {
        let limits = [self.query, self.statement, self.request, self.transaction, self.idle_transaction];
        limits.iter().any(Option::is_some)
    }
}

/// Limits for the clients whose `application_name` matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// `*` stands for any text, the empty one included.
    pub pattern: String,
    /// What it says.
    pub times: OwnTimeLimits,
}

impl Application {
    /// Whether the pattern matches the whole name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, matches, others) in [
            ("web", &["web"][..], &["", "web1", "aweb"][..]),
            ("*", &["", "x"], &[]),
            ("web-*", &["web-", "web-1"], &["web", "aweb-1"]),
            ("*-job", &["-job", "x-job", "x-job-job"], &["x-jobs"]),
            ("a*b*c", &["abc", "axbxc", "abbcc"], &["ab", "ac", "abcd", "xabc"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("", &[""], &["x"]),
        ] {
            let application = Application { pattern: pattern.into(), times: OwnTimeLimits::default() };
            assert!(matches.iter().all(|name| application.matches(name)), "{pattern}");
            assert!(!others.iter().any(|name| application.matches(name)), "{pattern}");
        }
    }
}
