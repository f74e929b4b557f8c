//! Which statements hold servers.

use pooler::control::Control;

use crate::rows::{Table, cells};

/// Those first that hold them longest, of all pools.
pub(super) fn queries(table: &mut Table, control: &Control) {
    let mut rows = control.queries();
    rows.sort_by_key(|row| std::cmp::Reverse(row.held));
    for row in rows {
        table.row(cells![
            row.database,
            row.user,
            format!("{:016x}", row.fingerprint),
            row.statement,
            row.calls,
            row.rows,
            row.errors,
            row.held,
            row.running.sum(),
            row.running.sum() / row.calls.max(1),
            row.running.quantile(0.95),
            row.running.max(),
        ]);
    }
}
