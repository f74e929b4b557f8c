//! Which method a client has to answer to.

use protocol::startup::Startup;

use super::{Arrival, Denied};
use crate::config::{AuthMethod, Config};

/// The method for this connection, database and user.
pub(super) fn method(_arrival: &Arrival, config: &Config, _startup: &Startup) -> Result<AuthMethod, Denied> {
    Ok(config.auth.method)
}
