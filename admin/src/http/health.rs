//! Whether the process serves, and whether clients should be sent to it.

use pooler::Phase;
use serde_json::{Value, json};

use crate::prometheus::View;

/// What speaks against sending clients here, as [`Reason::text`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No new clients are taken.
    ShuttingDown,
    /// Everything is paused.
    Paused,
    /// No client is served, and none gets in.
    Suspended,
    /// This database is paused.
    DatabasePaused(String),
    /// No server of this database can be reached.
    NoServer(String),
}

impl Reason {
    fn text(&self) -> &'static str {
        match self {
            Reason::ShuttingDown => "shutting down",
            Reason::Paused => "paused",
            Reason::Suspended => "suspended",
            Reason::DatabasePaused(_) => "database paused",
            Reason::NoServer(_) => "no server reachable",
        }
    }

    /// `None`: it is about all.
    fn database(&self) -> Option<&str> {
        match self {
            Reason::ShuttingDown | Reason::Paused | Reason::Suspended => None,
            Reason::DatabasePaused(name) | Reason::NoServer(name) => Some(name),
        }
    }

    pub(super) fn json(&self) -> Value {
        match self.database() {
            None => json!({ "reason": self.text() }),
            Some(name) => json!({ "reason": self.text(), "database": name }),
        }
    }
}

/// Everything that speaks against it.
pub(crate) fn reasons(view: &View) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if view.phase != Phase::Running {
        reasons.push(Reason::ShuttingDown);
    }
    if view.paused {
        reasons.push(Reason::Paused);
    }
    if view.suspended {
        reasons.push(Reason::Suspended);
    }
    for row in &view.databases {
        if row.paused {
            reasons.push(Reason::DatabasePaused(row.name.clone()));
        }
        if row.cut_off {
            reasons.push(Reason::NoServer(row.name.clone()));
        }
    }
    reasons
}

/// The answer of `/readyz`, for one database or for all, and whether it is a good one.
pub(super) fn readiness(view: &View, database: Option<&str>) -> (bool, Value) {
    let mut reasons = reasons(view);
    if let Some(name) = database {
        reasons.retain(|reason| reason.database().is_none_or(|about| about == name));
    }
    let ready = reasons.is_empty();
    (ready, json!({ "ready": ready, "reasons": reasons.iter().map(Reason::json).collect::<Vec<_>>() }))
}
