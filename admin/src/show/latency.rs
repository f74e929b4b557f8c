//! How long things take.

use pooler::control::Control;

use crate::rows::{Table, cells};

pub(super) fn latency(table: &mut Table, control: &Control) {
    for row in control.latencies() {
        let kinds = [
            ("waiting", &row.waiting, &row.period.waiting),
            ("running", &row.running, &row.period.running),
            ("transaction", &row.transaction, &row.period.transaction),
        ];
        for (what, all, period) in kinds {
            let [p50, p95, p99, p99_9] = [0.5, 0.95, 0.99, 0.999].map(|part| all.quantile(part));
            table.row(cells![
                row.database.as_str(),
                row.user.as_str(),
                what,
                all.count(),
                p50,
                p95,
                p99,
                p99_9,
                all.max(),
                period.count(),
                period.quantile(0.5),
                period.quantile(0.95),
                period.quantile(0.99),
            ]);
        }
    }
}
