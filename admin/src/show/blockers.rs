//! Who waits for whom in PostgreSQL.

use pgbouncer_compat::columns::Show;
use pooler::blockers::Party;
use pooler::control::Control;

use crate::console::Answer;
use crate::rows::{Table, cells};

/// Unlike the other tables this one has to be asked for.
pub(crate) async fn blockers(control: &Control) -> Answer {
    let mut table = Table::new(Show::Blockers.columns());
    for row in control.blockers().await {
        let (waiting, waited) = row.waiting.unzip();
        let (known, waiting) = (waiting.is_some(), waiting.unwrap_or_default());
        let blocking = row.blocking.unwrap_or_default();
        let Party { client, pid, address, application_name, user, statement } = waiting;
        table.row(cells![
            row.database,
            client,
            known.then_some(pid),
            address,
            application_name,
            user,
            known.then_some(statement),
            waited,
            blocking.client,
            blocking.pid,
            blocking.address,
            blocking.application_name,
            blocking.user,
            blocking.statement,
            row.state,
            row.duration,
        ]);
    }
    Ok(table.finish())
}
