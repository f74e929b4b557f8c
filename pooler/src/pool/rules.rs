use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use super::Pool;
use crate::config::{
    Application, CheckQuery, Config, Database, PoolMode, Routing, ServerRules, SessionState, Share,
    TimeLimits, User,
};

/// The settings of one pool, after database, user and global ones were weighed. The server-side user wins over the
/// database, the database over the global setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolRules {
    pub(crate) mode: PoolMode,
    pub(crate) session_state: SessionState,
    pub(crate) audit_sample: Share,
    /// Server connections; `None` is no limit.
    pub(crate) size: Option<usize>,
    pub(crate) min: usize,
    pub(crate) reserve: usize,
    /// How long the first client waits before the reserve is used; `None`: it never is.
    pub(crate) reserve_after: Option<Duration>,
    pub(crate) lifetime: Duration,
    pub(crate) max_db: Option<NonZeroUsize>,
    pub(crate) max_user: Option<NonZeroUsize>,
    /// Clients that may keep their server for what they have in its session.
    pub(crate) max_pins: Option<NonZeroUsize>,
    /// Clients that may wait while no connection can be opened for them.
    pub(crate) max_waiting: Option<NonZeroUsize>,
    /// There are limits in time, at least for some clients.
    pub(crate) limited: bool,
    times: TimeLimits,
    applications: Arc<[Application]>,
    pub(crate) server: ServerRules,
    pub(crate) routing: Arc<Routing>,
}

impl PoolRules {
    pub(crate) fn new(config: &Config, db: &Database, user: Option<&User>) -> PoolRules {
        let size = user.and_then(|u| u.pool_size).or(db.pool_size).unwrap_or(config.sizes.size);
        let size = size.map(NonZeroUsize::get);
        let times = config.times.with(db.times).with(user.map(|u| u.times).unwrap_or_default());
        PoolRules {
            mode: user.and_then(|u| u.pool_mode).or(db.pool_mode).unwrap_or(config.pool_mode),
            session_state: user
                .and_then(|u| u.session_state)
                .or(db.session_state)
                .unwrap_or(config.session_state),
            audit_sample: user
                .and_then(|u| u.audit_sample)
                .or(db.audit_sample)
                .unwrap_or(config.audit_sample),
            size,
            // Without a size PgBouncer keeps no minimum.
            min: size.map_or(0, |s| db.min_pool_size.unwrap_or(config.sizes.min).min(s)),
            reserve: user
                .and_then(|u| u.reserve_pool_size)
                .or(db.reserve_pool_size)
                .unwrap_or(config.sizes.reserve),
            reserve_after: config.timeouts.reserve_pool,
            lifetime: db.server_lifetime.unwrap_or(config.server.lifetime),
            max_db: db.max_connections.or(config.limits.max_db_connections),
            max_user: user.and_then(|u| u.max_connections).or(config.limits.max_user_connections),
            max_pins: db.max_pins.unwrap_or(config.limits.max_pins_per_pool),
            max_waiting: user
                .and_then(|u| u.max_waiting)
                .or(db.max_waiting)
                .unwrap_or(config.limits.max_waiting_clients),
            limited: times.is_any() || !config.applications.is_empty(),
            times,
            applications: config.applications.clone(),
            server: config.server.clone(),
            routing: config.routing.with(&db.routing).into(),
        }
    }

    /// The limits for clients of this `application_name`.
    pub(crate) fn limits_of(&self, application_name: &str) -> TimeLimits {
        let own = self.applications.iter().find(|application| application.matches(application_name));
        own.map_or(self.times, |own| self.times.with(own.times))
    }

    /// Session state follows clients from server to server.
    pub(crate) fn preserves(&self) -> bool {
        self.mode != PoolMode::Session && self.session_state == SessionState::Preserve
    }

    /// Servers with the reserve.
    pub(crate) fn total(&self) -> Option<usize> {
        self.size.map(|s| s + self.reserve)
    }

    /// Whether a server idle since `since` must be checked before it is used.
    pub(crate) fn must_check(&self, since: u64, now: u64) -> bool {
        self.server.check_query != CheckQuery::Off
            && now.saturating_sub(since) >= self.server.check_delay.as_micros() as u64
    }

    /// Whether `reset_query` runs before a server that a client used goes to another.
    pub(crate) fn must_reset(&self) -> bool {
        !self.server.reset_query.is_empty()
            && (self.mode == PoolMode::Session || self.server.reset_query_always)
    }
}

/// One reader's copy of a pool's rules: a look that shows no change costs no write to memory that workers share.
pub(crate) struct RulesCache(Cache<RulesOf, Arc<PoolRules>>);

impl RulesCache {
    pub(crate) fn new(pool: &Arc<Pool>) -> RulesCache {
        RulesCache(Cache::new(RulesOf(pool.clone())))
    }

    /// The rules of this moment.
    pub(crate) fn now(&mut self) -> &PoolRules {
        self.0.load()
    }
}

struct RulesOf(Arc<Pool>);

impl Deref for RulesOf {
    type Target = ArcSwap<PoolRules>;

    fn deref(&self) -> &ArcSwap<PoolRules> {
        &self.0.rules
    }
}
