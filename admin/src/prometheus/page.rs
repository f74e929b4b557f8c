//! docs/METRICS.md, rendered from the table.

use std::fmt::Write;

use super::BOUNDS;
use super::table::{Kind, metrics};

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for row in metrics() {
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = row.read.labels().join("`, `");
        let labels = if labels.is_empty() { String::new() } else { format!("`{labels}`") };
        let _ = writeln!(page, "| `{}` | {kind} | {} | {labels} | {} |", row.name, unit(row.name), row.help);
    }
    let [least, most] = [BOUNDS.start(), BOUNDS.end()].map(|power| f64::from(1u32 << power) / 1e6);
    let _ = writeln!(
        page,
        "\nBuckets of histograms are powers of two of a microsecond, from {least} to {most} seconds."
    );
    page.push_str(REST);
    page
}

/// The unit that a name ends with, as Prometheus has it.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    match name.rsplit('_').next() {
        Some("seconds") => "seconds",
        Some("bytes") => "bytes",
        Some("ratio") => "ratio",
        _ => "",
    }
}

const INTRODUCTION: &str = include_str!("page/introduction.md");
const REST: &str = include_str!("page/rest.md");

#[test]
fn the_committed_page_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == page(),
        "docs/METRICS.md is out of date: UPDATE_DOCS=1 cargo test -p pgferry-admin renders it"
    );
}

#[test]
fn names_follow_the_rules() {
    for row in metrics() {
        assert!(row.name.starts_with("pgferry_") || row.name.starts_with("process_"), "{}", row.name);
        assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
        assert!(!row.help.contains('|') && row.help.ends_with('.'), "{}", row.name);
        assert_eq!(metrics().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
    }
}
