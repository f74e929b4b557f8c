//! Clients that keep their server between transactions, and why.

use pooler::control::Control;

use super::connections::pointer;
use crate::rows::{Table, cells};

/// `ptr` and `id` are those of `SHOW CLIENTS`, `link` and `server_pid` the `ptr` and `remote_pid` of `SHOW SERVERS`.
pub(super) fn pins(table: &mut Table, control: &Control) {
    for row in control.pins() {
        table.row(cells![
            row.user,
            row.database,
            row.application_name.unwrap_or_default(),
            row.remote.host(),
            row.remote.port().unwrap_or(row.fallback_port),
            pointer(row.client),
            pointer(row.server),
            row.client,
            row.server_pid,
            row.reasons,
            row.statement,
            row.age / 1_000_000,
        ]);
    }
}

pub(super) fn totals(table: &mut Table, control: &Control) {
    for row in control.pin_totals() {
        for (reason, made) in &row.made {
            table.row(cells![
                row.database.as_str(),
                row.user.as_str(),
                row.current,
                row.limit,
                row.refused,
                *reason,
                *made,
            ]);
        }
    }
}
