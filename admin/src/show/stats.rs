//! Counters: since the start, and as averages of the last statistics period.

use std::time::Duration;

use pooler::control::Control;
use pooler::stats::Totals;

use crate::rows::{Cell, Table, cells};

/// How many counters each database has.
const COUNTERS: usize = 12;

/// The counters in the order of the columns, with their names in `SHOW TOTALS`.
const NAMES: [&str; COUNTERS] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

pub(super) fn stats(table: &mut Table, control: &Control) {
    let period = period(control);
    for row in control.stats() {
        let [total, average] = [sums(&row.total), averages(&row.period, period)];
        table.row(line(&row.database, total.into_iter().chain(average)));
    }
}

pub(super) fn stats_totals(table: &mut Table, control: &Control) {
    for row in control.stats() {
        table.row(line(&row.database, sums(&row.total)));
    }
}

pub(super) fn stats_averages(table: &mut Table, control: &Control) {
    let period = period(control);
    for row in control.stats() {
        table.row(line(&row.database, averages(&row.period, period)));
    }
}

pub(super) fn events(table: &mut Table, control: &Control) {
    for row in control.events() {
        for (reason, total) in &row.totals {
            table.row(cells![row.database.as_str(), row.user.as_str(), *reason, *total]);
        }
    }
}

/// All databases and the console together.
pub(super) fn totals(table: &mut Table, control: &Control) {
    let (mut total, mut last) = (Totals::default(), Totals::default());
    for row in control.stats() {
        total.add(&row.total);
        last.add(&row.period);
    }
    for (prefix, values) in [("total_", sums(&total)), ("avg_", averages(&last, period(control)))] {
        for (name, value) in NAMES.iter().zip(values) {
            table.row(cells![format!("{prefix}{name}"), value]);
        }
    }
}

fn line(database: &str, values: impl IntoIterator<Item = u64>) -> Vec<Cell<'_>> {
    std::iter::once(Cell::from(database)).chain(values.into_iter().map(Cell::from)).collect()
}

fn period(control: &Control) -> Duration {
    control.config().stats_period
}

fn sums(t: &Totals) -> [u64; COUNTERS] {
    [
        t.assignments,
        t.xacts,
        t.queries,
        t.received,
        t.sent,
        t.xact_time,
        t.query_time,
        t.wait_time,
        t.client_parses,
        t.server_parses,
        t.binds,
        t.logins,
    ]
}

/// Counts and bytes a second, rounded down; times for each transaction, query and server that was waited for.
fn averages(t: &Totals, period: Duration) -> [u64; COUNTERS] {
    let rate = |count: u64| {
        let in_period = u128::from(count) * 1_000_000;
        in_period.checked_div(period.as_micros()).map_or(0, |rate| rate as u64)
    };
    let mean = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
    let mut averages = sums(t).map(rate);
    averages[5] = mean(t.xact_time, t.xacts);
    averages[6] = mean(t.query_time, t.queries);
    averages[7] = mean(t.wait_time, t.assignments);
    averages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rates_and_means() {
        let totals = Totals {
            assignments: 4,
            xacts: 5,
            queries: 21,
            received: 119,
            xact_time: 52,
            query_time: 43,
            wait_time: 9,
            ..Totals::default()
        };
        let averages = averages(&totals, Duration::from_secs(2));
        assert_eq!(averages, [2, 2, 10, 59, 0, 10, 2, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn nothing_counted_is_nothing_on_average() {
        assert_eq!(averages(&Totals::default(), Duration::ZERO), [0; COUNTERS]);
    }
}
