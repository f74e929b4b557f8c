//! Clients and servers, a row for each connection.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pooler::control::Control;
use pooler::snapshot::SocketRow;
use protocol::startup::Replication;

use crate::rows::{Table, cells};

pub(super) fn clients(table: &mut Table, control: &Control) {
    control.clients().iter().for_each(|row| connection(table, "C", row));
}

pub(super) fn servers(table: &mut Table, control: &Control) {
    control.servers().iter().for_each(|row| connection(table, "S", row));
}

fn connection(table: &mut Table, kind: &str, row: &SocketRow) {
    let (wait, wait_us) = (row.wait / 1_000_000, row.wait % 1_000_000);
    table.row(cells![
        kind,
        row.user.as_str(),
        row.database.as_str(),
        replication(row.replication),
        row.state,
        row.remote.host(),
        row.remote.port().unwrap_or(row.fallback_port),
        row.local.host(),
        row.local.port().unwrap_or(row.fallback_port),
        local_time(row.connected),
        local_time(row.requested),
        wait,
        wait_us,
        row.close_needed,
        pointer(row.id),
        row.link.map(pointer).unwrap_or_default(),
        row.remote_pid,
        "", // no TLS
        row.application_name.as_deref().unwrap_or(""),
        row.prepared,
        row.id,
    ]);
}

fn replication(mode: Replication) -> &'static str {
    match mode {
        Replication::Off => "none",
        Replication::Logical => "logical",
        Replication::Physical => "physical",
    }
}

/// Stands for PgBouncer's address of the object: the same for as long as the connection lives, and no other's.
pub(super) fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

/// `YYYY-MM-DD HH:MM:SS TZ` in the zone of the process; empty for a time that no calendar has.
fn local_time(time: SystemTime) -> String {
    let zoned = Timestamp::try_from(time).map(|time| time.to_zoned(TimeZone::system()));
    zoned.map(|time| time.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()).unwrap_or_default()
}

/// Names of servers that were looked up.
pub(super) fn dns_hosts(table: &mut Table, control: &Control) {
    for row in control.dns_hosts() {
        table.row(cells![row.hostname, row.ttl, row.addrs]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_name_their_zone() {
        let shown = local_time(SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_000 * 366 + 999));
        let (time, zone) = shown.split_at(20);
        assert!(time.starts_with("197") && time.ends_with(' '), "{shown}");
        assert_eq!((&time[4..5], &time[10..11], &time[13..14]), ("-", " ", ":"), "{shown}");
        assert!(!zone.is_empty() && !zone.contains(' '), "{shown}");
    }

    #[test]
    fn numbers_as_pointers() {
        assert_eq!((pointer(1), pointer(255)), ("0x1".to_owned(), "0xff".to_owned()));
    }
}
