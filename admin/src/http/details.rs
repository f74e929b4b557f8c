//! What the dashboard shows besides, less often, because others have to be asked for it: the workers, and PostgreSQL.

use std::cmp::Reverse;
use std::time::Duration;

use pooler::advice::Advice;
use pooler::blockers::{BlockerRow, Party};
use pooler::control::Control;
use pooler::queries::QueryRow;
use pooler::waiting::WaitingRow;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// So many rows of a kind are told, those that matter most.
const MOST: usize = 20;

/// However many ask, the workers and PostgreSQL are asked no more often.
const FRESH_FOR: Duration = Duration::from_secs(4);

/// The last answer, and when it was given.
#[derive(Default)]
pub(super) struct Details(Mutex<Option<(Instant, Value)>>);

impl Details {
    pub(super) async fn now(&self, control: &Control) -> Value {
        let mut last = self.0.lock().await;
        if let Some((at, value)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return value.clone();
        }
        let (rows, advice) = (control.blockers().await, control.advice().await);
        let others = control.clone();
        let rest = spawn_blocking(move || (waiting(others.waiting()), queries(others.queries()))).await;
        let (waiting, queries) = rest.unwrap_or_default();
        let value = json!({
            "waiting": waiting,
            "queries": queries,
            "blockers": blockers(rows),
            "advice": advice.iter().take(MOST).map(remark).collect::<Vec<_>>(),
        });
        *last = Some((Instant::now(), value.clone()));
        value
    }
}

fn remark(advice: &Advice) -> Value {
    json!({
        "severity": advice.severity.name(),
        "subject": advice.subject,
        "advice": advice.advice,
        "evidence": advice.evidence,
    })
}

/// Who has waited longest.
fn waiting(mut rows: Vec<WaitingRow>) -> Value {
    rows.sort_by_key(|row| Reverse(row.waited));
    let row = |row: &WaitingRow| {
        json!({
            "database": row.database,
            "user": row.user,
            "application": row.application_name,
            "address": row.remote.host(),
            "client": row.client,
            "waited_us": row.waited,
            "waits_for": row.waits_for,
            "statement": row.statement,
        })
    };
    json!({ "all": rows.len(), "rows": rows.iter().take(MOST).map(row).collect::<Vec<_>>() })
}

/// What has held servers longest, and how long all together have.
fn queries(mut rows: Vec<QueryRow>) -> Value {
    rows.sort_by_key(|row| Reverse(row.held));
    let row = |row: &QueryRow| {
        json!({
            "database": row.database,
            "user": row.user,
            "statement": row.statement,
            "calls": row.calls,
            "rows": row.rows,
            "errors": row.errors,
            "held_us": row.held,
            "mean_us": row.running.sum() / row.calls.max(1),
            "p95_us": row.running.quantile(0.95),
        })
    };
    let held: u64 = rows.iter().map(|row| row.held).sum();
    json!({ "held_us": held, "rows": rows.iter().take(MOST).map(row).collect::<Vec<_>>() })
}

/// Who has kept others waiting, or has idled in a transaction, longest.
fn blockers(mut rows: Vec<BlockerRow>) -> Vec<Value> {
    let waited = |row: &BlockerRow| row.waiting.as_ref().map_or(0, |(_, waited)| *waited);
    rows.sort_by_key(|row| Reverse((waited(row), row.duration)));
    let row = |row: &BlockerRow| {
        json!({
            "database": row.database,
            "blocking": row.blocking.as_ref().map(party),
            "waiting": row.waiting.as_ref().map(|(waiting, _)| party(waiting)),
            "waited_us": row.waiting.as_ref().map(|(_, waited)| waited),
            "state": row.state,
            "duration_us": row.duration,
        })
    };
    rows.iter().take(MOST).map(row).collect()
}

fn party(party: &Party) -> Value {
    json!({
        "client": party.client,
        "pid": party.pid,
        "address": party.address,
        "application": party.application_name,
        "user": party.user,
        "statement": party.statement,
    })
}
