//! Hosts that belong together, and what goes where.

use pooler::snapshot::HostRow;

use super::{Read, Row, counter, gauge, number, time, total};

/// Each of the words, 1 for the one that holds.
fn one_of<const N: usize>(words: [&'static str; N], holds: &str) -> Vec<(&'static str, f64)> {
    words.into_iter().map(|word| (word, f64::from(u8::from(word == holds)))).collect()
}

fn roles(row: &HostRow) -> Vec<(&'static str, f64)> {
    one_of(["primary", "standby", "fenced", "unknown"], row.role)
}

fn breakers(row: &HostRow) -> Vec<(&'static str, f64)> {
    one_of(["closed", "half-open", "open"], row.breaker)
}

pub(super) const METRICS: &[Row] = &[
    gauge(
        "pgferry_host_role",
        Read::HostBy("role", roles),
        "1 for the role in which a host was seen last: primary, standby, fenced (out of recovery, but another host's \
         timeline is newer), unknown.",
    )
    .largest(),
    gauge(
        "pgferry_host_lag_bytes",
        Read::Host(|row| row.lag_bytes.and_then(total)),
        "How much of the primary's WAL a host has not replayed.",
    )
    .largest(),
    gauge(
        "pgferry_host_lag_seconds",
        Read::Host(|row| row.lag_ms.and_then(|lag| time(lag.saturating_mul(1_000)))),
        "For how long the primary has been further than a host; absent where that is not known.",
    )
    .largest(),
    gauge(
        "pgferry_host_breaker",
        Read::HostBy("state", breakers),
        "1 for the state of a host's circuit breaker: closed (reads may go there), open (none go there for a while), half-open (the next look at it decides).",
    )
    .largest(),
    gauge(
        "pgferry_host_outstanding_requests",
        Read::Host(|row| number(row.outstanding)),
        "Requests that a host is at work on.",
    ),
    counter(
        "pgferry_host_reads_total",
        Read::Host(|row| total(row.reads)),
        "Transactions that went to a host because they only read.",
    ),
    counter("pgferry_host_probes_total", Read::Host(|row| total(row.probes)), "Looks at a host."),
    counter(
        "pgferry_host_probe_failures_total",
        Read::Host(|row| total(row.probe_failures)),
        "Looks at a host that told nothing.",
    ),
    gauge(
        "pgferry_host_probe_seconds",
        Read::Host(|row| row.probe_us.and_then(time)),
        "How long a host took to answer the last look.",
    )
    .largest(),
    counter(
        "pgferry_routed_total",
        Read::Routed,
        "Requests by where they went and why (SHOW ROUTING); only those of databases whose requests may go to more than \
         one host.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::metrics;
    use crate::console::tests::Fixture;
    use crate::prometheus::{View, samples};
    use crate::show::host_rows;

    fn of(view: &View, name: &str) -> BTreeMap<String, f64> {
        let row = metrics().find(|row| row.name == name).unwrap();
        samples(row, view).into_iter().map(|(labels, value)| (labels.join(" "), value)).collect()
    }

    #[test]
    fn hosts_by_their_endpoints() {
        let fixture = Fixture::new();
        let mut view = View::of(&fixture.control);
        view.hosts = host_rows();
        let roles = of(&view, "pgferry_host_role");
        assert_eq!(roles.len(), 3 * 4, "a host of two clusters is one: {roles:?}");
        let holding: Vec<_> =
            roles.iter().filter(|(_, value)| **value == 1.0).map(|(labels, _)| labels).collect();
        assert_eq!(holding, ["10.0.0.1:5432 primary", "10.0.0.2:5432 standby", "[::1]:5433 unknown"]);
        let breakers = of(&view, "pgferry_host_breaker");
        assert_eq!((breakers["10.0.0.1:5432 closed"], breakers["[::1]:5433 open"]), (1.0, 1.0));
        assert_eq!((breakers["10.0.0.1:5432 open"], breakers["[::1]:5433 closed"]), (0.0, 0.0));
        let lag = of(&view, "pgferry_host_lag_seconds");
        assert_eq!((lag.get("10.0.0.2:5432"), lag.get("[::1]:5433")), (Some(&0.012), None));
        assert_eq!(of(&view, "pgferry_host_lag_bytes")["10.0.0.2:5432"], 4096.0);
        assert_eq!(of(&view, "pgferry_host_reads_total")["[::1]:5433"], 30.0);
        assert_eq!(of(&view, "pgferry_host_outstanding_requests")["10.0.0.1:5432"], 7.0);
        assert_eq!(of(&view, "pgferry_host_probe_failures_total")["[::1]:5433"], 8.0);
        assert_eq!(of(&view, "pgferry_host_probe_seconds")["10.0.0.1:5432"], 0.00035);
    }

    #[test]
    fn requests_by_where_they_went() {
        let fixture = Fixture::new();
        let mut view = View::of(&fixture.control);
        view.routed = vec![pooler::snapshot::RoutedRow {
            database: "app".into(),
            user: "u".into(),
            target: "replica",
            reason: "only reads",
            count: 7,
        }];
        assert_eq!(of(&view, "pgferry_routed_total"), [("app u replica only reads".to_owned(), 7.0)].into());
    }
}
