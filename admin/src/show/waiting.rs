//! Clients that wait for a server.

use pooler::control::Control;

use crate::rows::{Table, cells};

pub(super) fn waiting(table: &mut Table, control: &Control) {
    for row in control.waiting() {
        table.row(cells![
            row.database,
            row.user,
            row.client,
            row.application_name.unwrap_or_default(),
            row.remote.host(),
            row.remote.port().unwrap_or(row.fallback_port),
            row.waited / 1_000_000,
            row.waited % 1_000_000,
            row.position,
            row.waits_for,
            row.statement,
        ]);
    }
}
