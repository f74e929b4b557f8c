//! `[users]`: limits and pool mode by user, and the numbers that `[databases]` shares with it.

use std::num::NonZeroUsize;
use std::time::Duration;

use pooler::config::{PoolMode, SessionState, Share, User};

use crate::connstr;
use crate::finding::{Place, Report, did_you_mean};
use crate::limits;
use crate::tls;
use crate::value::{self, Unit};

/// One key of a user's entry.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What its value looks like, for the reference.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
    /// Or what is wrong with the value, as a phrase to follow "expected".
    set: fn(&mut User, &str) -> Result<(), &'static str>,
}

/// Every key, in PgBouncer's order.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "pool_mode",
        value: "`session`, `transaction`, `statement`",
        help: "Pool mode of the pools in which this is the server-side user.",
        set: |user, v| {
            user.pool_mode = Some(pool_mode(v)?);
            Ok(())
        },
    },
    Key {
        name: "session_state",
        value: "`preserve`, `discard`",
        help: "As the setting of that name, for the pools in which this is the server-side user. Not PgBouncer's.",
        set: |user, v| {
            user.session_state = Some(session_state(v)?);
            Ok(())
        },
    },
    Key {
        name: "audit_sample",
        value: "percent",
        help: "As the setting of that name, for the pools in which this is the server-side user. Not PgBouncer's.",
        set: |user, v| {
            user.audit_sample = Some(share(v)?);
            Ok(())
        },
    },
    Key {
        name: "pool_size",
        value: "number",
        help: "As `default_pool_size`, for those pools; negative: inherited.",
        set: |user, v| {
            user.pool_size = pool_size(v)?;
            Ok(())
        },
    },
    Key {
        name: "reserve_pool_size",
        value: "number",
        help: "As the setting of that name, for those pools; negative: inherited.",
        set: |user, v| {
            user.reserve_pool_size = size(v)?;
            Ok(())
        },
    },
    Key {
        name: "max_user_connections",
        value: "number",
        help: "As the setting of that name; 0 or less: inherited.",
        set: |user, v| {
            user.max_connections = limit(v)?;
            Ok(())
        },
    },
    Key {
        name: "max_user_client_connections",
        value: "number",
        help: "As the setting of that name; 0 or less: inherited.",
        set: |user, v| {
            user.max_client_connections = limit(v)?;
            Ok(())
        },
    },
    inheriting(
        "query_timeout",
        "As the setting of that name, for the pools in which this is the server-side user; 0: inherited.",
        |user, v| {
            user.times.query = time_limit(v)?.map(Some);
            Ok(())
        },
    ),
    Key {
        name: "query_wait_timeout",
        value: "seconds",
        help: "As the setting of that name, for logins of this user; 0 or less: no limit.",
        set: |user, v| {
            user.query_wait_timeout = Some(time_limit(v)?);
            Ok(())
        },
    },
    inheriting(
        "idle_transaction_timeout",
        "As the setting of that name, for the pools in which this is the server-side user; 0: inherited.",
        |user, v| {
            user.times.idle_transaction = time_limit(v)?.map(Some);
            Ok(())
        },
    ),
    inheriting(
        "transaction_timeout",
        "As the setting of that name, for the pools in which this is the server-side user; 0: inherited.",
        |user, v| {
            user.times.transaction = time_limit(v)?.map(Some);
            Ok(())
        },
    ),
    inheriting(
        "client_idle_timeout",
        "As the setting of that name, for logins of this user; 0: inherited.",
        |user, v| {
            user.client_idle_timeout = time_limit(v)?;
            Ok(())
        },
    ),
    Key {
        name: "client_tls_sslmode",
        value: "`disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`",
        help: "What logins of this user need at least, over TCP. Not PgBouncer's.",
        set: |user, v| {
            user.client_tls = Some(tls::mode(v)?);
            Ok(())
        },
    },
    Key {
        name: "max_waiting_clients",
        value: "number",
        help: "As the setting of that name, for the pools in which this is the server-side user; 0: no limit; negative: \
               inherited. Not PgBouncer's.",
        set: |user, v| {
            user.max_waiting = pool_size(v)?;
            Ok(())
        },
    },
];

/// One of the limits that PgBouncer has; it can't take off a global one.
const fn inheriting(
    name: &'static str,
    help: &'static str,
    set: fn(&mut User, &str) -> Result<(), &'static str>,
) -> Key {
    Key { name, value: "seconds", help, set }
}

/// Reads one entry.
pub(crate) fn parse(name: &str, text: &str, place: &Place, report: &mut Report) -> Option<User> {
    if name.len() > MAX_NAME {
        report.fault(place, format!("too long user name: {name}"), format!("at most {MAX_NAME} bytes"));
    }
    let pairs = match connstr::pairs(text) {
        Ok(pairs) => pairs,
        Err(advice) => {
            report.fault(place, "syntax error in user settings", format!("user {name}: {advice}"));
            return None;
        }
    };
    let mut user = User::default();
    for (key, value) in pairs {
        let own = limits::OWN.iter().find(|row| row.name == key);
        let set = match (own, KEYS.iter().find(|row| row.name == key)) {
            (Some(own), _) => (own.set)(&mut user.times, &value),
            (None, Some(row)) => (row.set)(&mut user, &value),
            (None, None) => {
                let message = format!("unrecognized user parameter: {key}");
                report.fault(place, message, did_you_mean(key, names()));
                continue;
            }
        };
        if let Err(expected) = set {
            let message = format!("invalid {}: {value}", label(key));
            report.fault(place, message, format!("user {name}: expected {expected}"));
        }
    }
    Some(user)
}

fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|row| row.name).chain(limits::OWN.iter().map(|row| row.name))
}

/// The longest user name a start-up packet may carry, in bytes.
pub(crate) const MAX_NAME: usize = 127;

/// What PgBouncer calls a key in its messages.
pub(crate) fn label(key: &str) -> &str {
    if key == "pool_mode" { "pool mode" } else { key }
}

pub(crate) fn pool_mode(text: &str) -> Result<PoolMode, &'static str> {
    [PoolMode::Session, PoolMode::Transaction, PoolMode::Statement]
        .into_iter()
        .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
        .ok_or("session, transaction or statement")
}

pub(crate) fn session_state(text: &str) -> Result<SessionState, &'static str> {
    match text {
        _ if text.eq_ignore_ascii_case("preserve") => Ok(SessionState::Preserve),
        _ if text.eq_ignore_ascii_case("discard") => Ok(SessionState::Discard),
        _ => Err("preserve or discard"),
    }
}

/// A percentage with up to four decimals.
pub(crate) fn share(text: &str) -> Result<Share, &'static str> {
    value::percent(text).map(Share::millionths).ok_or("a percentage from 0 to 100, decimals allowed")
}

/// A pool's size: negative inherits (`None`), 0 is no limit (`Some(None)`).
pub(crate) fn pool_size(text: &str) -> Result<Option<Option<NonZeroUsize>>, &'static str> {
    Ok(size(text)?.map(NonZeroUsize::new))
}

/// A number of connections that is inherited when negative.
pub(crate) fn size(text: &str) -> Result<Option<usize>, &'static str> {
    Ok(usize::try_from(number(text, Unit::Connections)?).ok())
}

/// A limit that is inherited when 0 or less.
pub(crate) fn limit(text: &str) -> Result<Option<NonZeroUsize>, &'static str> {
    Ok(size(text)?.and_then(NonZeroUsize::new))
}

/// Whole seconds; `None` for 0 and less.
pub(crate) fn time_limit(text: &str) -> Result<Option<Duration>, &'static str> {
    let seconds = number(text, Unit::Seconds).map_err(|_| "whole seconds, or a time such as 5min")?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

fn number(text: &str, unit: Unit) -> Result<i64, &'static str> {
    value::integer(text, unit).filter(|number| i32::try_from(*number).is_ok()).ok_or("a whole number")
}
