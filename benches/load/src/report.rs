//! Figures of one piece of work, as a table and as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::measure::Spread;
use crate::work::Work;

/// What is measured in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Processor time of the pooler's own process, microseconds a transaction or login.
    Cpu,
    /// Transactions or logins a second.
    Rate,
    P50,
    P95,
    P99,
    /// The 99th percentile with logins beside, divided by that with logins at another process.
    Moved,
    P99Calm,
    P99Elsewhere,
    /// Resident memory, KiB a client.
    Rss,
    /// Proportional memory, KiB a client.
    Pss,
}

impl Metric {
    /// The metrics of this work; the first is compared.
    fn of(work: Work) -> &'static [Metric] {
        match work {
            Work::Queries { .. } | Work::Secured { .. } | Work::Logins { .. } => {
                &[Metric::Cpu, Metric::Rate, Metric::P50, Metric::P95, Metric::P99]
            }
            Work::Idle { .. } => &[Metric::Rss, Metric::Pss],
            Work::Beside => {
                &[Metric::Moved, Metric::P99Calm, Metric::P99Elsewhere, Metric::P99, Metric::Rate]
            }
        }
    }

    fn heading(self, work: Work) -> &'static str {
        match (self, work) {
            (Metric::Cpu, Work::Logins { .. }) => "cpu us/login",
            (Metric::Cpu, _) => "cpu us/transaction",
            (Metric::Rate, Work::Logins { .. } | Work::Beside) => "logins/s",
            (Metric::Rate, _) => "transactions/s",
            (Metric::P50, _) => "p50 ms",
            (Metric::P95, _) => "p95 ms",
            (Metric::P99, Work::Beside) => "logins here",
            (Metric::P99, _) => "p99 ms",
            (Metric::Moved, _) => "p99, logins here/elsewhere",
            (Metric::P99Calm, _) => "p99 ms, no logins",
            (Metric::P99Elsewhere, _) => "logins elsewhere",
            (Metric::Rss, _) => "RSS KiB/client",
            (Metric::Pss, _) => "PSS KiB/client",
        }
    }

    /// In the JSON output.
    fn key(self) -> &'static str {
        match self {
            Metric::Cpu => "cpu_us",
            Metric::Rate => "per_second",
            Metric::P50 => "p50_ms",
            Metric::P95 => "p95_ms",
            Metric::P99 => "p99_ms",
            Metric::Moved => "p99_moved",
            Metric::P99Calm => "p99_calm_ms",
            Metric::P99Elsewhere => "p99_elsewhere_ms",
            Metric::Rss => "rss_kib",
            Metric::Pss => "pss_kib",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Metric::Rate => 0,
            Metric::Cpu => 1,
            _ => 2,
        }
    }

    /// Latencies are noise enough without their range.
    fn shows_range(self) -> bool {
        !matches!(self, Metric::P50 | Metric::P95 | Metric::P99 | Metric::P99Calm | Metric::P99Elsewhere)
    }
}

/// The figures of one run.
pub(crate) type Sample = Vec<(Metric, f64)>;

/// All about one contender.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// With the number of the round. A round that failed has none.
    pub(crate) samples: Vec<(u32, Sample)>,
    /// Why it did not take part, or failed.
    pub(crate) remark: Option<String>,
    /// System calls a transaction or login, the most frequent first.
    pub(crate) syscalls: Vec<(String, f64)>,
}

impl Row {
    fn value(&self, round: u32, metric: Metric) -> Option<f64> {
        let (_, sample) = self.samples.iter().find(|(number, _)| *number == round)?;
        sample.iter().find(|(known, _)| *known == metric).map(|(_, value)| *value)
    }

    fn values(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().filter_map(|(round, _)| self.value(*round, metric)).collect()
    }

    /// This one's figure divided by another's of the same round, which the same noise has met.
    fn ratio(&self, base: &Row, metric: Metric) -> Option<Spread> {
        let quotient =
            |(round, _): &(u32, Sample)| Some(self.value(*round, metric)? / base.value(*round, metric)?);
        Spread::of(&self.samples.iter().filter_map(quotient).collect::<Vec<f64>>())
    }
}

/// One piece of work as done by all.
pub(crate) struct Report {
    pub(crate) work: Work,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    fn base(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// `{"work": ..., "contenders": [{"name": ..., "cpu_us": {"median": ..., "of_pgbouncer": ...}}]}`
    pub(crate) fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.row_to_json(row)).collect();
        json!({ "work": self.work.to_string(), "contenders": rows })
    }

    fn row_to_json(&self, row: &Row) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(row.name));
        if let Some(remark) = &row.remark {
            object.insert("remark".into(), json!(remark));
        }
        for metric in Metric::of(self.work) {
            let Some(spread) = Spread::of(&row.values(*metric)) else { continue };
            let mut value = spread_to_json(spread);
            value["rounds"] = json!(row.values(*metric));
            for name in BASES {
                if let Some(ratio) = self.base(name).and_then(|base| row.ratio(base, *metric)) {
                    value[format!("of_{name}")] = spread_to_json(ratio);
                }
            }
            object.insert(metric.key().into(), value);
        }
        if !row.syscalls.is_empty() {
            object.insert("syscalls".into(), row.syscalls.iter().cloned().collect());
        }
        Value::Object(object)
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut cells = vec![row.name.clone()];
        for (position, metric) in Metric::of(self.work).iter().enumerate() {
            cells.push(cell(Spread::of(&row.values(*metric)), metric.decimals(), metric.shows_range()));
            if position == 0 {
                let ratio = |name| self.base(name).and_then(|base| row.ratio(base, *metric));
                cells.extend(BASES.map(|name| cell(ratio(name), 2, true)));
            }
        }
        cells
    }

    fn headings(&self) -> Vec<String> {
        let mut headings = vec![self.work.title()];
        for (position, metric) in Metric::of(self.work).iter().enumerate() {
            headings.push(metric.heading(self.work).into());
            if position == 0 {
                headings.extend(BASES.map(|name| format!("of {name}")));
            }
        }
        headings
    }
}

/// The table: a line a contender, then remarks.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = self.rows.iter().filter(|row| !row.samples.is_empty());
        let lines: Vec<Vec<String>> =
            [self.headings()].into_iter().chain(measured.map(|row| self.cells(row))).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        for line in &lines {
            write!(f, "{:<w$}", line[0], w = widths[0])?;
            for (cell, w) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>w$}")?;
            }
            writeln!(f)?;
        }
        for row in &self.rows {
            if let Some(remark) = &row.remark {
                writeln!(f, "{}: {remark}", row.name)?;
            }
            if !row.syscalls.is_empty() {
                let shown = row.syscalls.iter().filter(|(_, count)| *count >= 0.005);
                let list: Vec<String> = shown.map(|(name, count)| format!("{count:.2} {name}")).collect();
                writeln!(f, "{}: system calls each: {}", row.name, list.join(", "))?;
            }
        }
        Ok(())
    }
}

fn cell(spread: Option<Spread>, decimals: usize, range: bool) -> String {
    match spread {
        None => "-".into(),
        Some(Spread { median, min, max }) if range && min < max => {
            format!("{median:.decimals$} ({min:.decimals$}..{max:.decimals$})")
        }
        Some(Spread { median, .. }) => format!("{median:.decimals$}"),
    }
}

fn spread_to_json(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}

/// What the others are compared with.
const BASES: [&str; 2] = ["pgbouncer", "relay"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Protocol;

    fn row(name: &str, cpu: &[f64]) -> Row {
        let sample = |(round, cpu): (usize, &f64)| (round as u32, vec![(Metric::Cpu, *cpu)]);
        Row { name: name.into(), samples: cpu.iter().enumerate().map(sample).collect(), ..Row::default() }
    }

    fn report() -> Report {
        let work = Work::Queries { protocol: Protocol::Simple, clients: 20 };
        let rows = vec![row("pgbouncer", &[10.0, 20.0, 40.0]), row("pgferry", &[9.0, 16.0, 40.0])];
        Report { work, rows }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let json = report().to_json();
        let cpu = &json["contenders"][1]["cpu_us"];
        assert_eq!(json["work"], "simple:20");
        assert_eq!(cpu["median"], 16.0);
        assert_eq!(cpu["rounds"], json!([9.0, 16.0, 40.0]));
        assert_eq!(cpu["of_pgbouncer"], json!({ "median": 0.9, "min": 0.8, "max": 1.0 }));
        assert!(cpu.get("of_relay").is_none());
    }

    #[test]
    fn the_table_shows_medians_ranges_and_remarks() {
        let mut report = report();
        report.rows.push(Row { name: "relay".into(), remark: Some("fails: why".into()), ..Row::default() });
        let table = report.to_string();
        assert!(table.contains("16.0 (9.0..40.0)  0.90 (0.80..1.00)"), "{table}");
        assert!(table.contains("relay: fails: why"), "{table}");
    }
}
