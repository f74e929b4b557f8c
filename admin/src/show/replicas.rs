//! Hosts that belong together, and what goes where.

use std::collections::HashMap;

use pgbouncer_compat::columns::ROUTE;
use pooler::control::{Control, ControlError};
use pooler::snapshot::HostRow;

use crate::rows::{Table, cells};

pub(super) fn hosts(table: &mut Table, rows: &[HostRow]) {
    let shares = read_shares(rows);
    for (row, share) in rows.iter().zip(shares) {
        table.row(cells![
            row.databases.join(","),
            row.host.as_str(),
            row.port,
            row.zone.as_deref(),
            row.weight,
            row.role,
            row.timeline,
            row.lsn.as_deref(),
            row.lag_bytes,
            row.lag_ms,
            row.breaker,
            row.breaker_reason.as_str(),
            row.breaker_since_ms,
            row.breaker_retry_ms,
            row.outstanding,
            row.reads,
            share.map(|share| format!("{share:.1}")),
            row.probes,
            row.probe_failures,
            row.probe_error.as_str(),
            row.probe_us,
            row.probe_age_ms,
        ]);
    }
}

/// How many percent of the reads that went to hosts of its cluster have gone to each; `None`: there were none.
pub(crate) fn read_shares(rows: &[HostRow]) -> Vec<Option<f64>> {
    let mut all: HashMap<&[String], u64> = HashMap::new();
    for row in rows {
        *all.entry(&row.databases).or_default() += row.reads;
    }
    let share = |row: &HostRow| {
        let all = all.get(&*row.databases).copied().filter(|all| *all > 0);
        all.map(|all| row.reads as f64 * 100.0 / all as f64)
    };
    rows.iter().map(share).collect()
}

pub(super) fn routing(table: &mut Table, control: &Control) {
    for row in control.routed() {
        table.row(cells![row.database, row.user, row.target, row.reason, row.count]);
    }
}

/// Where a statement would go.
pub(crate) fn route(
    control: &Control,
    database: Option<&str>,
    statement: &str,
) -> Result<Vec<u8>, ControlError> {
    let mut table = Table::new(ROUTE);
    for row in control.route(database, statement)? {
        table.row(cells![row.database, row.target, row.hosts.join(","), row.reason, row.why]);
    }
    Ok(table.finish())
}

#[cfg(test)]
pub(crate) mod tests {
    use pgbouncer_compat::columns::Show;

    use super::*;
    use crate::console::tests::messages;

    /// A primary and two standbys of one cluster, and a host of another one, of which nothing is known.
    pub(crate) fn rows() -> Vec<HostRow> {
        let primary = HostRow {
            databases: vec!["app".into(), "app_ro".into()],
            host: "10.0.0.1".into(),
            port: 5432,
            zone: None,
            weight: 1,
            role: "primary",
            timeline: Some(3),
            lsn: Some("16/B374D848".into()),
            lag_bytes: Some(0),
            lag_ms: Some(0),
            breaker: "closed",
            breaker_reason: String::new(),
            breaker_since_ms: None,
            breaker_retry_ms: None,
            outstanding: 7,
            reads: 10,
            probes: 120,
            probe_failures: 0,
            probe_error: String::new(),
            probe_us: Some(350),
            probe_age_ms: Some(900),
        };
        let near = HostRow {
            host: "10.0.0.2".into(),
            zone: Some("eu-1a".into()),
            weight: 3,
            role: "standby",
            lag_bytes: Some(4096),
            lag_ms: Some(12),
            reads: 60,
            ..primary.clone()
        };
        let open = HostRow {
            host: "::1".into(),
            port: 5433,
            role: "unknown",
            timeline: None,
            lsn: None,
            lag_bytes: None,
            lag_ms: None,
            breaker: "open",
            breaker_reason: "connect failed: Connection refused".into(),
            breaker_since_ms: Some(1500),
            breaker_retry_ms: Some(500),
            outstanding: 0,
            reads: 30,
            probe_failures: 4,
            probe_error: "Connection refused".into(),
            ..primary.clone()
        };
        let other = HostRow { databases: vec!["other".into()], reads: 0, role: "unknown", ..open.clone() };
        vec![primary, near, open, other]
    }

    #[test]
    fn hosts_as_a_table() {
        let mut table = Table::new(Show::Hosts.columns());
        hosts(&mut table, &rows());
        let shown: Vec<String> = messages(&table.finish())
            .rows()
            .iter()
            .map(|row| row.iter().map(|cell| cell.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
            .collect();
        assert_eq!(
            shown,
            [
                "app,app_ro|10.0.0.1|5432|NULL|1|primary|3|16/B374D848|0|0|closed||NULL|NULL|7|10|10.0|120|0||350|900",
                "app,app_ro|10.0.0.2|5432|eu-1a|3|standby|3|16/B374D848|4096|12|closed||NULL|NULL|7|60|60.0|120|0||350|900",
                "app,app_ro|::1|5433|NULL|1|unknown|NULL|NULL|NULL|NULL|open|connect failed: Connection refused|1500|500|0|\
                 30|30.0|120|4|Connection refused|350|900",
                "other|::1|5433|NULL|1|unknown|NULL|NULL|NULL|NULL|open|connect failed: Connection refused|1500|500|0|\
                 0|NULL|120|4|Connection refused|350|900",
            ]
        );
    }
}
