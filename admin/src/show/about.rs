//! The process itself: version, state, settings, help.

use pgbouncer_compat::columns::FakeParameter;
use pgbouncer_compat::texts;
use pooler::control::Control;
use protocol::error_fields::ErrorMessage;
use protocol::message;

use crate::console::Configuration;
use crate::rows::{Table, cells};

/// What this version has.
const USAGE: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|LISTS|STATE|VERSION
\tSHOW PEERS|PEER_POOLS|FDS|SOCKETS|ACTIVE_SOCKETS|MEM|DNS_HOSTS|DNS_ZONES
\tSHOW PINS|PIN_TOTALS|PREPARED|EVENTS|LATENCY|WAITING|QUERIES|BLOCKERS|ADVICE|HBA|HOSTS|ROUTING
\tSHOW ROUTE [<db>] '<statement>'
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSET key = value
\tRELOAD
\tRELOAD_PLAN [<file>]
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tCANCEL <client_id>
\tKILL_CLIENT <client_id>
\tSUSPEND
\tWAIT_CLOSE [<db>]
\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

/// A notice in place of a table.
pub(super) fn help() -> Vec<u8> {
    let mut out = Vec::new();
    ErrorMessage::notice("Console usage").with_detail(USAGE).encode_notice(&mut out);
    message::command_complete(&mut out, "SHOW");
    out
}

pub(super) fn version(table: &mut Table) {
    table.row(cells![texts::VERSION]);
}

/// The state of the process; databases paused by name do not show here.
pub(super) fn state(table: &mut Table, control: &Control) {
    let (paused, suspended) = (control.is_paused(), control.is_suspended());
    let active = !paused && !suspended;
    for (state, holds) in [("active", active), ("paused", paused), ("suspended", suspended)] {
        table.row(cells![state, yes_or_no(holds)]);
    }
}

pub(super) fn config(table: &mut Table, configuration: &dyn Configuration) {
    for row in configuration.settings().show() {
        table.row(cells![row.key, row.value, row.default, yes_or_no(row.changeable)]);
    }
}

/// There are no spare objects: what is freed goes back to the system.
pub(super) fn memory(table: &mut Table, control: &Control) {
    for row in control.memory() {
        table.row(cells![row.name, row.size, row.used, 0u32, row.total]);
    }
}

pub(super) fn fake(table: &mut Table, parameter: &FakeParameter) {
    table.row(cells![parameter.value]);
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
