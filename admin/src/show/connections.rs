//! Clients and servers, a row for each connection.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pooler::control::Control;
use pooler::snapshot::SocketRow;
use protocol::startup::Replication;

use crate::rows::{Cell, Table, cells};

pub(super) fn clients(table: &mut Table, control: &Control) {
    control.clients().iter().for_each(|row| connection(table, "C", row));
}

pub(super) fn servers(table: &mut Table, control: &Control) {
    control.servers().iter().for_each(|row| connection(table, "S", row));
}

/// Clients, servers, clients that log in. States are those of PgBouncer's lists.
pub(super) fn sockets(table: &mut Table, control: &Control) {
    all_sockets(control).for_each(|(kind, row)| socket(table, kind, &row));
}

/// Those of them with something in a buffer. The console that asks is one.
pub(super) fn active_sockets(table: &mut Table, control: &Control) {
    let active = |row: &SocketRow| row.answering + row.input + row.unsent > 0;
    all_sockets(control).filter(|(_, row)| active(row)).for_each(|(kind, row)| socket(table, kind, &row));
}

fn all_sockets(control: &Control) -> impl Iterator<Item = (&'static str, SocketRow)> {
    let of = |kind: &'static str| move |row| (kind, row);
    let connected =
        control.clients().into_iter().map(of("C")).chain(control.servers().into_iter().map(of("S")));
    connected.chain(control.arriving().into_iter().map(of("C")))
}

/// Buffers belong to no connection, so there are no positions in them: what counts is how many bytes are there.
fn socket(table: &mut Table, kind: &str, row: &SocketRow) {
    let state = match (kind, row.state) {
        ("C", "idle" | "active") => "cl_active",
        ("C", "waiting") => "cl_waiting",
        ("C", _) => "cl_login",
        (_, "idle") => "sv_idle",
        (_, "used") => "sv_used",
        (_, "tested") => "sv_tested",
        _ => "sv_active",
    };
    let mut cells = Vec::from(connection_cells(kind, state, row));
    let (read, input, unsent) = (row.answering, row.input, row.unsent);
    cells.extend(cells![read + input, read, 0u32, 0u32, 0u32, input, unsent]);
    table.row(cells);
}

pub(super) fn fds(table: &mut Table, control: &Control) {
    for row in control.fds() {
        let [date_style, encoding, time_zone, strings] = row.params;
        let (fd, cancel, link) = (row.fd.to_string(), row.cancel, row.link.to_string());
        let secret = None::<&str>; // an administrator has no use for it
        table.row(cells![
            fd,
            row.task,
            row.user,
            row.database,
            row.addr,
            row.port,
            cancel,
            link,
            encoding,
            strings,
            date_style,
            time_zone,
            secret,
            secret,
            secret,
        ]);
    }
}

fn connection(table: &mut Table, kind: &str, row: &SocketRow) {
    table.row(connection_cells(kind, row.state, row));
}

fn connection_cells<'a>(kind: &'a str, state: &'a str, row: &'a SocketRow) -> [Cell<'a>; 21] {
    let (wait, wait_us) = (row.wait / 1_000_000, row.wait % 1_000_000);
    cells![
        kind,
        row.user.as_str(),
        row.database.as_str(),
        replication(row.replication),
        state,
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
        row.tls,
        row.application_name.as_deref().unwrap_or(""),
        row.prepared,
        row.id,
    ]
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
