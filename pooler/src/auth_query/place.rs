//! Where users of a database are looked up, and by whom.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::error;

use super::{CONFIG_ERROR, Lookup};
use crate::config::{Config, Database};
use crate::console::is_console;
use crate::error::Refusal;
use crate::pool::{NotConfigured, Pool};
use crate::shared::Shared;

/// The question about `login`, who wants to use `database`. `None`: nobody is asked. `spec` is `None` for the console, and
/// for a database that is not configured, for which nobody is asked either.
///
/// # Errors
/// There is no database in which it could be asked.
pub(crate) fn lookup(
    config: &Config,
    database: &str,
    spec: Option<&Database>,
    login: &str,
) -> Result<Option<Lookup>, Refusal> {
    let global = &config.auth.query;
    let own = |key: fn(&Database) -> &Option<String>| spec.and_then(|spec| key(spec).as_deref());
    let Some(asker) = own(|db| &db.auth_user).or(global.user.as_deref()) else { return Ok(None) };
    let place = own(|db| &db.auth_dbname).or(global.dbname.as_deref()).unwrap_or(database);
    if spec.is_none() && !is_console(database) {
        return Ok(None);
    }
    if is_console(place) {
        error!("cannot use the reserved \"{place}\" database as an auth_dbname");
        return Err(Refusal::fatal(CONFIG_ERROR));
    }
    Ok(Some(Lookup {
        database: place.to_owned(),
        asker: asker.to_owned(),
        sql: own(|db| &db.auth_query).unwrap_or(&global.sql).to_owned(),
        login: login.to_owned(),
    }))
}

/// The pool over which a question is asked. A user that the database forces on its clients has no part in it.
///
/// # Errors
/// There is no such database, or it is disabled.
pub(super) fn pool(shared: &Arc<Shared>, lookup: &Lookup) -> Result<Arc<Pool>, Refusal> {
    let config = shared.config.load();
    let name = &lookup.database;
    let db = shared.registry.database(&config, name, shared.clock.micros());
    let db = db.map_err(|NotConfigured| {
        error!("authentication database \"{name}\" is not configured.");
        Refusal::fatal(CONFIG_ERROR)
    })?;
    if db.disabled.load(Relaxed) {
        let text = format!("authentication database \"{name}\" is disabled");
        return Err(Refusal::fatal(text).because("authentication database is disabled"));
    }
    Ok(shared.registry.pool_of(shared, &db, &lookup.asker))
}
