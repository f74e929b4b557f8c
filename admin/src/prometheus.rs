//! `/metrics`: the rows that the console shows, as Prometheus reads them. Every metric is a row of the table
//! (`table.rs`), from which docs/METRICS.md is rendered as well.

#[cfg(test)]
mod page;
mod process;
mod table;
mod view;

use std::collections::BTreeMap;

use ::prometheus::TextEncoder;
use ::prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use pooler::control::Control;
use pooler::latency::Distribution;
use tracing::warn;

use table::{Kind, Read, Row, metrics};
pub(crate) use table::{clients, servers};
pub(crate) use view::View;
use view::{Admitted, OTHER};

/// Renders the metrics of one pooler.
#[derive(Default)]
pub(crate) struct Exporter {
    /// The pools, databases and users that have series of their own.
    pools: Admitted,
    databases: Admitted,
    users: Admitted,
}

/// Upper bounds of the histograms' buckets, in microseconds: powers of two, because there the pooler's own buckets end, so
/// that no count is an estimate that could be smaller the next time.
const BOUNDS: std::ops::RangeInclusive<u32> = 7..=26; // 128 us to 67 s

impl Exporter {
    /// The text of `/metrics`. Takes milliseconds where there are hundreds of pools, so not for an event loop's thread.
    pub(crate) fn text(&self, control: &Control) -> String {
        let mut view = View::of(control);
        self.bound(&mut view);
        let families: Vec<_> = metrics().filter_map(|row| family(row, &view)).collect();
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            warn!("cannot render the metrics: {error}");
            String::new()
        })
    }

    /// What has no series of its own is called `other`.
    fn bound(&self, view: &mut View) {
        let pools = view.pools.iter().map(|row| (row.database.clone(), row.user.clone()));
        let admitted = self.pools.update(pools.collect());
        let rename = |database: &mut String, user: &mut String| {
            let unnamed = database.is_empty() && user.is_empty(); // not come to a pool
            if !unnamed && !admitted.contains(&(database.clone(), user.clone())) {
                (*database, *user) = (OTHER.to_owned(), OTHER.to_owned());
            }
        };
        view.pools.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        view.saturation.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        view.pins.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        view.events.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        view.latencies.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        view.routed.iter_mut().for_each(|row| rename(&mut row.database, &mut row.user));
        let alone = |name: &String| (name.clone(), String::new());
        let admitted = self.databases.update(view.databases.iter().map(|row| alone(&row.name)).collect());
        for row in view.databases.iter_mut().filter(|row| !admitted.contains(&alone(&row.name))) {
            row.name = OTHER.to_owned();
        }
        let admitted = self.users.update(view.users.iter().map(|row| alone(&row.name)).collect());
        for row in view.users.iter_mut().filter(|row| !admitted.contains(&alone(&row.name))) {
            row.name = OTHER.to_owned();
        }
    }
}

/// A metric with all its series; `None` if it has none yet.
fn family(row: &Row, view: &View) -> Option<MetricFamily> {
    let labels = row.read.labels();
    let metrics: Vec<Metric> = match row.read {
        Read::Distribution(of) => {
            distributions(view, of).iter().map(|(values, all)| histogram(&labels, values, all)).collect()
        }
        _ => samples(row, view)
            .into_iter()
            .map(|(values, value)| sample(row.kind, &labels, &values, value))
            .collect(),
    };
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(match row.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    let any = !metrics.is_empty();
    family.set_metric(metrics);
    any.then_some(family)
}

/// Values by labels, those of the same labels (`other`) put together.
fn samples(row: &Row, view: &View) -> BTreeMap<Vec<String>, f64> {
    let mut all = BTreeMap::new();
    let mut put = |labels: Vec<String>, value: f64| {
        all.entry(labels).and_modify(|known| *known = (row.fold)(*known, value)).or_insert(value);
    };
    row.read.each(view, &mut put);
    all
}

fn distributions(view: &View, of: table::DistributionOf) -> BTreeMap<Vec<String>, Distribution> {
    let mut all: BTreeMap<Vec<String>, Distribution> = BTreeMap::new();
    for row in &view.latencies {
        all.entry(vec![row.database.clone(), row.user.clone()]).or_default().add(of(row));
    }
    all
}

fn labelled(labels: &[&str], values: &[String]) -> Metric {
    let pair = |(label, value): (&&str, &String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*label).to_owned());
        pair.set_value(value.clone());
        pair
    };
    Metric::from_label(labels.iter().zip(values).map(pair).collect())
}

fn sample(kind: Kind, labels: &[&str], values: &[String], value: f64) -> Metric {
    let mut metric = labelled(labels, values);
    if kind == Kind::Counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn histogram(labels: &[&str], values: &[String], distribution: &Distribution) -> Metric {
    let bounds: Vec<u64> = BOUNDS.map(|power| 1 << power).collect();
    let below: Vec<u64> = bounds.iter().map(|bound| bound - 1).collect();
    let bucket = |(bound, count): (&u64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(view::seconds(*bound));
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounds.iter().zip(distribution.cumulative(&below)).map(bucket).collect());
    histogram.set_sample_count(distribution.count());
    histogram.set_sample_sum(view::seconds(distribution.sum()));
    let mut metric = labelled(labels, values);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use pooler::snapshot::PoolRow;

    use super::*;
    use crate::console::tests::Fixture;

    #[test]
    fn pools_beyond_the_bound_are_put_together() {
        let fixture = Fixture::new();
        let mut view = View::of(&fixture.control);
        let pattern = fixture.control.pools().remove(0);
        view.pools.extend((0..203).map(|number| PoolRow {
            database: format!("tenant{number:04}"),
            cl_waiting: 1,
            maxwait: number * 1_000_000,
            ..pattern.clone()
        }));
        Exporter::default().bound(&mut view);
        let of = |name: &str| {
            let row = metrics().find(|row| row.name == name).unwrap();
            let all = samples(row, &view);
            let pools = all.keys().map(|labels| &labels[..2]).collect::<std::collections::BTreeSet<_>>();
            assert_eq!(pools.len(), 201, "{name}");
            all.iter().filter(|(labels, _)| labels[0] == "other").map(|(_, value)| *value).collect::<Vec<_>>()
        };
        assert_eq!(of("pgferry_pool_clients"), [0.0, 0.0, 3.0]);
        assert_eq!(of("pgferry_pool_oldest_wait_seconds"), [202.0]);
    }
}
