//! Limits in time: the keys that databases, users and applications have in common, and `[applications]`.

use std::time::Duration;

use pooler::config::{Application, OnTimeout, OwnTimeLimits};

use crate::connstr;
use crate::finding::{Place, Report, did_you_mean};
use crate::value;

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What its value looks like, for the reference.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
    /// Or what is wrong with the value, as a phrase to follow "expected".
    pub(crate) set: fn(&mut OwnTimeLimits, &str) -> Result<(), &'static str>,
}

/// What PgBouncer does not have: keys of all three.
pub(crate) const OWN: &[Key] = &[
    time("statement_timeout", |times, v| set(&mut times.statement, v)),
    time("request_timeout", |times, v| set(&mut times.request, v)),
    Key {
        name: "on_timeout",
        value: "`disconnect`, `terminate`, `error`",
        help: "As the setting of that name. Not PgBouncer's.",
        set: |times, v| {
            times.on_timeout = Some(on_timeout(v)?);
            Ok(())
        },
    },
];

/// What databases and users have as PgBouncer does, and applications as the others.
const MORE: &[Key] = &[
    time("query_timeout", |times, v| set(&mut times.query, v)),
    time("transaction_timeout", |times, v| set(&mut times.transaction, v)),
    time("idle_transaction_timeout", |times, v| set(&mut times.idle_transaction, v)),
];

const fn time(name: &'static str, set: fn(&mut OwnTimeLimits, &str) -> Result<(), &'static str>) -> Key {
    Key { name, value: "time", help: "As the setting of that name; 0: no limit. Not PgBouncer's.", set }
}

fn set(limit: &mut Option<Option<Duration>>, text: &str) -> Result<(), &'static str> {
    let time =
        value::duration(text).ok_or("a time in seconds such as 30 or 0.5, or with a unit such as 500ms")?;
    *limit = Some(Some(time).filter(|time| !time.is_zero()));
    Ok(())
}

/// A value of `on_timeout`.
pub(crate) fn on_timeout(word: &str) -> Result<OnTimeout, &'static str> {
    match word.to_ascii_lowercase().as_str() {
        "disconnect" => Ok(OnTimeout::Disconnect),
        "terminate" => Ok(OnTimeout::Terminate),
        "error" => Ok(OnTimeout::Error),
        _ => Err("disconnect, terminate or error"),
    }
}

/// The keys of `[applications]`.
pub(crate) fn keys() -> impl Iterator<Item = &'static Key> {
    OWN.iter().chain(MORE)
}

/// Reads one entry of `[applications]`.
pub(crate) fn parse(pattern: &str, text: &str, place: &Place, report: &mut Report) -> Option<Application> {
    let pairs = match connstr::pairs(text) {
        Ok(pairs) => pairs,
        Err(advice) => {
            let advice = format!("application {pattern}: {advice}");
            report.fault(place, "syntax error in application settings", advice);
            return None;
        }
    };
    let mut times = OwnTimeLimits::default();
    for (key, value) in pairs {
        let Some(row) = keys().find(|row| row.name == key) else {
            let message = format!("unrecognized application parameter: {key}");
            report.fault(place, message, did_you_mean(key, keys().map(|row| row.name)));
            continue;
        };
        if let Err(expected) = (row.set)(&mut times, &value) {
            let advice = format!("application {pattern}: expected {expected}");
            report.fault(place, format!("invalid {key}: {value}"), advice);
        }
    }
    Some(Application { pattern: pattern.to_owned(), times })
}
