//! Pools, databases and users, and how many there are.

use pooler::config::{LoadBalance, PoolMode};
use pooler::control::Control;

use crate::rows::{Table, cells};

pub(super) fn pools(table: &mut Table, control: &Control) {
    for row in control.pools() {
        table.row(cells![
            row.database,
            row.user,
            row.cl_active,
            row.cl_waiting,
            row.cancelling,
            0u32, // a cancel request waits for nobody
            row.sv_active,
            row.cancelling,
            row.sv_being_canceled,
            row.sv_idle,
            row.sv_used,
            row.sv_tested,
            row.sv_login,
            row.maxwait / 1_000_000,
            row.maxwait % 1_000_000,
            row.pool_mode.as_str(),
            row.load_balance.map(load_balance),
        ]);
    }
}

/// Statements that the clients of each pool have prepared by name: a text that several have counts once.
pub(super) fn prepared(table: &mut Table, control: &Control) {
    for row in control.pools() {
        let (statements, bytes) = row.statements;
        table.row(cells![row.database, row.user, statements, bytes]);
    }
}

pub(super) fn databases(table: &mut Table, control: &Control) {
    for row in control.databases() {
        table.row(cells![
            row.name,
            row.host,
            row.port,
            row.database,
            row.force_user,
            row.pool_size,
            row.min_pool_size,
            row.reserve_pool_size,
            row.server_lifetime,
            row.pool_mode.map(PoolMode::as_str),
            row.load_balance.map(load_balance),
            row.max_connections,
            row.current_connections,
            row.max_client_connections,
            row.current_client_connections,
            row.paused,
            row.disabled,
        ]);
    }
}

pub(super) fn users(table: &mut Table, control: &Control) {
    for row in control.users() {
        table.row(cells![
            row.name,
            padded(row.pool_size),
            padded(row.reserve_pool_size),
            row.pool_mode.map(PoolMode::as_str),
            row.max_connections,
            row.current_connections,
            row.max_client_connections,
            row.current_client_connections,
        ]);
    }
}

pub(super) fn peers(table: &mut Table, control: &Control) {
    for row in control.peers() {
        table.row(cells![row.id, row.host, row.port, row.pool_size]);
    }
}

pub(super) fn peer_pools(table: &mut Table, control: &Control) {
    for row in control.peers().into_iter().filter(|row| row.used) {
        table.row(cells![row.id, row.active, row.waiting, row.active, row.connecting]);
    }
}

/// What this program has none of counts 0: spare objects, zones and questions of a resolver of its own.
pub(super) fn lists(table: &mut Table, control: &Control) {
    let counts = control.counts();
    for (list, items) in [
        ("databases", counts.databases),
        ("users", counts.users),
        ("peers", counts.peers),
        ("pools", counts.pools),
        ("peer_pools", counts.used_peers),
        ("free_clients", 0),
        ("used_clients", counts.used_clients),
        ("login_clients", counts.login_clients),
        ("free_servers", 0),
        ("used_servers", counts.used_servers),
        ("dns_names", control.dns_hosts().len()),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ] {
        table.row(cells![list, items]);
    }
}

fn load_balance(hosts: LoadBalance) -> &'static str {
    match hosts {
        LoadBalance::RoundRobin => "round-robin",
        LoadBalance::Disable => "disable",
    }
}

/// These two columns are text, a number in them is padded, and one that is not set is empty.
fn padded(size: Option<usize>) -> String {
    size.map(|size| format!("{size:>9}")).unwrap_or_default()
}
