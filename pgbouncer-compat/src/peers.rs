//! `[peers]`: other instances that cancel requests are passed on to.

use std::num::NonZeroUsize;

use pooler::config::{Host, PeerInstance};

use crate::connstr;
use crate::databases;
use crate::finding::{Place, Report, did_you_mean};
use crate::users;

/// One key of a peer's entry.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What its value looks like, for the reference.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
    /// Or what is wrong with the value, as a phrase to follow "expected".
    set: fn(&mut Draft, &str) -> Result<(), &'static str>,
}

/// An entry as far as it is read.
struct Draft {
    host: Option<(String, Host)>,
    port: u16,
    pool_size: Option<Option<NonZeroUsize>>,
}

/// Every key, in PgBouncer's order.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "host",
        value: "name, address, `/directory`, `@abstract`",
        help: "Where it listens.",
        set: |peer, v| {
            let host = databases::hosts(v)?.pop().filter(|_| !v.contains(',')).ok_or("one host")?;
            peer.host = Some((v.to_owned(), host));
            Ok(())
        },
    },
    Key {
        name: "port",
        value: "number",
        help: "Its `listen_port`; without it, 6432.",
        set: |peer, v| {
            peer.port = databases::port(v)?;
            Ok(())
        },
    },
    Key {
        name: "pool_size",
        value: "number",
        help: "Cancel requests that are passed on to it at once; 0: no limit; negative or left out: `default_pool_size`.",
        set: |peer, v| {
            peer.pool_size = users::pool_size(v)?;
            Ok(())
        },
    },
];

/// Reads one entry. `pool_size` counts where it says nothing.
pub(crate) fn parse(
    name: &str,
    text: &str,
    pool_size: Option<NonZeroUsize>,
    place: &Place,
    report: &mut Report,
) -> Option<(u16, PeerInstance)> {
    let Some(id) = name.parse().ok().filter(|id| *id > 0) else {
        report.fault(place, format!("invalid peer id: {name}"), "expected a number from 1 to 65535");
        return None;
    };
    let pairs = match connstr::pairs(text) {
        Ok(pairs) => pairs,
        Err(advice) => {
            report.fault(place, "syntax error in peer settings", format!("peer {name}: {advice}"));
            return None;
        }
    };
    let mut peer = Draft { host: None, port: 6432, pool_size: None };
    for (key, value) in pairs {
        let Some(row) = KEYS.iter().find(|row| row.name == key) else {
            let message = format!("unrecognized peer parameter: {key}");
            report.fault(place, message, did_you_mean(key, KEYS.iter().map(|row| row.name)));
            continue;
        };
        if let Err(expected) = (row.set)(&mut peer, &value) {
            report.fault(
                place,
                format!("invalid {key}: {value}"),
                format!("peer {name}: expected {expected}"),
            );
        }
    }
    let Some((host_text, host)) = peer.host else {
        report.fault(place, format!("peer {name} has no host"), "add host= to it");
        return None;
    };
    let pool_size = peer.pool_size.unwrap_or(pool_size);
    Some((id, PeerInstance { host, host_text, port: peer.port, pool_size }))
}
