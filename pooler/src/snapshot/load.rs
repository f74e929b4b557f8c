use std::sync::Arc;

use crate::latency::{Distribution, Distributions};
use crate::pool::{Occupancy, Pool};
use crate::shared::Shared;

/// How full one pool is.
#[derive(Debug, Clone)]
pub struct SaturationRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// Servers in use now.
    pub in_use: usize,
    /// How many there may be, by the strictest of all limits; 0 is no limit.
    pub allowed: usize,
    /// The former of the latter, 0 to 1; 0 without a limit.
    pub saturation: f64,
    /// In the last full statistics period; in the first, so far.
    pub period: Occupancy,
}

/// The times of one pool.
#[derive(Debug, Clone)]
pub struct LatencyRow {
    /// Client-side database.
    pub database: String,
    /// Server-side user.
    pub user: String,
    /// How long requests waited for a server; only those that had to. Since the start, as the next two.
    pub waiting: Distribution,
    /// How long requests were with a server.
    pub running: Distribution,
    /// How long transactions took.
    pub transaction: Distribution,
    /// All three, in the last full statistics period.
    pub period: Distributions,
}

/// Every pool but the console's, by database and user.
pub(crate) fn saturation(shared: &Shared) -> Vec<SaturationRow> {
    let row = |pool: &Arc<Pool>| {
        let (in_use, allowed) = (pool.in_use(), pool.allowed());
        SaturationRow {
            database: pool.db.name.clone(),
            user: pool.user.name.clone(),
            in_use,
            allowed: allowed.unwrap_or(0),
            saturation: allowed.map_or(0.0, |allowed| (in_use as f64 / allowed.max(1) as f64).min(1.0)),
            period: pool.saturation.last(),
        }
    };
    let mut rows: Vec<_> = shared.registry.homes().iter().map(row).collect();
    rows.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    rows
}

/// Every pool but the console's, by database and user.
pub(crate) fn latencies(shared: &Shared) -> Vec<LatencyRow> {
    let row = |pool: &Arc<Pool>| {
        let Distributions { waiting, running, transaction } = pool.latency.total();
        let (database, user) = (pool.db.name.clone(), pool.user.name.clone());
        LatencyRow { database, user, waiting, running, transaction, period: pool.latency.period() }
    };
    let mut rows: Vec<_> = shared.registry.homes().iter().map(row).collect();
    rows.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    rows
}
