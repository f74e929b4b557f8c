//! `DROP DATABASE` and its like need a database to which nobody is connected. Direct clients that have left are no
//! hindrance, so neither may the connections be that the pooler keeps for them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;
use crate::server::ServerState;
use crate::worker::Local;

/// Where the statement of a client stands that needs this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Vacating {
    #[default]
    No,
    /// The statement waits.
    Underway,
    /// It may be sent.
    Done,
}

/// Closes the idle connections to a database on the server of `pool` and waits until they are gone, then wakes the client.
/// Those that become idle while its statement runs are closed as well.
pub(crate) async fn vacate(pool: Arc<Pool>, database: String, local: Rc<Local>) {
    let emptied = until(|| {
        let pools = pool.neighbours().into_iter().filter(|pool| pool.db.server_name() == database);
        pools.filter(|pool| !is_empty(pool)).count() == 0
    });
    emptied.await; // the server has the last word in any case
    local.vacating.set(Vacating::Done);
    local.wake();
    until(|| {
        pool.neighbours().iter().filter(|pool| pool.db.server_name() == database).for_each(|pool| {
            is_empty(pool);
        });
        local.vacating.get() == Vacating::No && !local.busy.get()
    })
    .await;
}

/// Waits until the condition holds or patience ends.
async fn until(mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, holds).await;
}

/// Closes what is idle. True: only clients that use theirs have connections.
fn is_empty(pool: &Pool) -> bool {
    pool.close_idle("its database is wanted without connections");
    let members = pool.members();
    let leaving = pool.open.get() > members.len() + pool.connecting();
    !leaving && members.iter().all(|server| server.state() == ServerState::Active)
}

/// Time for connections that are being reset or closed. PostgreSQL itself waits as long for those in the way.
const PATIENCE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(5);
