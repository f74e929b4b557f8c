//! What the dashboard shows, as JSON. Counters are told as they are; the page makes rates of them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use pooler::Phase;
use pooler::control::Control;
use pooler::latency::{Distribution, Distributions};
use pooler::snapshot::{DatabaseRow, HostRow, PinRow, PoolRow, SaturationRow};
use serde_json::{Map, Value, json};

use super::health;
use crate::prometheus::{View, clients, servers};
use crate::show::read_shares;

/// So many rows of a kind are told, those that matter most.
const MOST: usize = 200;
const MOST_PINS: usize = 20;

/// Everything at this moment. Looks at each client for its pin: not for an event loop's thread.
pub(super) fn state(control: &Control) -> Value {
    let view = View::of(control);
    let pins = control.pins();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now_ms": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        "started_ms": view.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        "phase": phase(view.phase),
        "paused": view.paused,
        "not_ready": health::reasons(&view).iter().map(health::Reason::json).collect::<Vec<_>>(),
        "workers": view.workers,
        "clients": view.counts.used_clients,
        "logging_in": view.counts.login_clients,
        "max_clients": view.config.limits.max_client_conn,
        "kept_bytes": view.kept,
        "cpu_us": view.process.cpu,
        "resident_bytes": view.process.resident,
        "pools": pools(&view),
        "pools_in_all": view.pools.len(),
        "hosts": hosts(&view),
        "databases": view.databases.iter().take(MOST).map(database).collect::<Vec<_>>(),
        "events": events(&view),
        "pins": { "all": pins.len(), "rows": longest(pins).iter().map(pin).collect::<Vec<_>>() },
    })
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::WaitForClients => "waiting for clients to leave",
        Phase::WaitForServers => "waiting for servers to be released",
        Phase::Stopped => "stopped",
    }
}

/// Those first that hurt most: by the wait, the queue, the saturation, the traffic.
fn pools(view: &View) -> Vec<Value> {
    let full: HashMap<_, _> = view.saturation.iter().map(|row| ((&*row.database, &*row.user), row)).collect();
    let of = |row: &PoolRow| full.get(&(&*row.database, &*row.user)).copied();
    let thousandths = |row| of(row).map_or(0, |full| (full.saturation * 1000.0) as u64);
    let mut rows: Vec<&PoolRow> = view.pools.iter().collect();
    rows.sort_by_key(|row| Reverse((row.maxwait, row.cl_waiting, thousandths(row), row.total.queries)));
    rows.truncate(MOST);
    rows.into_iter().map(|row| pool(view, row, of(row))).collect()
}

fn pool(view: &View, row: &PoolRow, full: Option<&SaturationRow>) -> Value {
    let t = &row.total;
    let latency =
        view.latencies.iter().find(|known| known.database == row.database && known.user == row.user);
    json!({
        "database": row.database,
        "user": row.user,
        "mode": row.pool_mode.as_str(),
        "clients": by_name(clients(row)),
        "servers": by_name(servers(row)),
        "size": row.size,
        "reserve": row.reserve,
        "in_use": full.map(|full| full.in_use),
        "allowed": full.map(|full| full.allowed).filter(|most| *most > 0),
        "waited": full.map(|full| full.period.waited),
        "oldest_wait_us": row.maxwait,
        "assignments": t.assignments,
        "transactions": t.xacts,
        "queries": t.queries,
        "received": t.received,
        "sent": t.sent,
        "transaction_us": t.xact_time,
        "query_us": t.query_time,
        "wait_us": t.wait_time,
        "latency": latency.map(|row| times(&row.period)),
    })
}

/// Of the last statistics period.
fn times(period: &Distributions) -> Value {
    json!({
        "waiting": quantiles(&period.waiting),
        "running": quantiles(&period.running),
        "transaction": quantiles(&period.transaction),
    })
}

fn quantiles(times: &Distribution) -> Value {
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|part| times.quantile(part));
    json!({ "count": times.count(), "p50_us": p50, "p95_us": p95, "p99_us": p99, "max_us": times.max() })
}

fn by_name<const N: usize>(counts: [(&'static str, usize); N]) -> Map<String, Value> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect()
}

fn database(row: &DatabaseRow) -> Value {
    json!({
        "name": row.name,
        "host": row.host,
        "port": row.port,
        "servers": row.current_connections,
        "max_servers": row.max_connections,
        "clients": row.current_client_connections,
        "paused": row.paused,
        "disabled": row.disabled,
        "cut_off": row.cut_off,
    })
}

fn hosts(view: &View) -> Vec<Value> {
    view.hosts.iter().zip(read_shares(&view.hosts)).take(MOST).map(|(row, share)| host(row, share)).collect()
}

fn host(row: &HostRow, read_share: Option<f64>) -> Value {
    json!({
        "databases": row.databases,
        "host": row.endpoint(),
        "zone": row.zone,
        "weight": row.weight,
        "role": row.role,
        "lag_bytes": row.lag_bytes,
        "lag_us": row.lag_ms.map(|lag| lag.saturating_mul(1_000)),
        "breaker": row.breaker,
        "breaker_reason": row.breaker_reason,
        "retry_us": row.breaker_retry_ms.map(|time| time.saturating_mul(1_000)),
        "outstanding": row.outstanding,
        "reads": row.reads,
        "read_percent": read_share,
        "probe_error": row.probe_error,
    })
}

fn events(view: &View) -> Vec<Value> {
    let mut rows: Vec<_> = view
        .events
        .iter()
        .flat_map(|row| row.totals.iter().map(move |(reason, total)| (row, *reason, *total)))
        .collect();
    rows.sort_by_key(|(_, _, total)| Reverse(*total));
    rows.truncate(MOST);
    let row = |(row, reason, total): (&pooler::snapshot::EventsRow, &str, u64)| json!({ "database": row.database, "user": row.user, "reason": reason, "total": total });
    rows.into_iter().map(row).collect()
}

fn longest(mut pins: Vec<PinRow>) -> Vec<PinRow> {
    pins.sort_by_key(|row| Reverse(row.age));
    pins.truncate(MOST_PINS);
    pins
}

fn pin(row: &PinRow) -> Value {
    json!({
        "database": row.database,
        "user": row.user,
        "application": row.application_name,
        "address": row.remote.host(),
        "client": row.client,
        "server_pid": row.server_pid,
        "reasons": row.reasons,
        "statement": row.statement,
        "age_us": row.age,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::tests::Fixture;
    use crate::show::host_rows;

    #[test]
    fn hosts_with_their_shares() {
        let mut view = View::of(&Fixture::new().control);
        assert!(hosts(&view).is_empty());
        view.hosts = host_rows();
        let rows = hosts(&view);
        let of = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
        assert_eq!(of("host"), ["10.0.0.1:5432", "10.0.0.2:5432", "[::1]:5433", "[::1]:5433"]);
        assert_eq!(of("role"), ["primary", "standby", "unknown", "unknown"]);
        assert_eq!(of("lag_us"), [json!(0), json!(12_000), Value::Null, Value::Null]);
        assert_eq!(of("read_percent"), [json!(10.0), json!(60.0), json!(30.0), Value::Null]);
        assert_eq!(rows[2]["breaker_reason"], "connect failed: Connection refused");
    }
}
