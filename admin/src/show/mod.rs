//! `SHOW`: the pooler's snapshot as tables, a file for each family of them.

mod about;
mod advice;
mod blockers;
mod connections;
mod hba;
mod latency;
mod pins;
mod pools;
mod queries;
mod replicas;
mod stats;
mod waiting;

pub(crate) use advice::advice;
pub(crate) use blockers::blockers;
use pgbouncer_compat::columns::Show;
use pooler::control::Control;
#[cfg(test)]
pub(crate) use replicas::tests::rows as host_rows;
pub(crate) use replicas::{read_shares, route};

use crate::console::{Answer, Configuration};
use crate::rows::Table;

/// Answers `SHOW item`.
pub(crate) fn answer(item: Show, control: &Control, configuration: &dyn Configuration) -> Answer {
    let mut table = Table::new(item.columns());
    match item {
        Show::Help => return Ok(about::help()),
        Show::Version => about::version(&mut table),
        Show::State => about::state(&mut table, control),
        Show::Config => about::config(&mut table, configuration),
        Show::Fake(parameter) => about::fake(&mut table, parameter),
        Show::Clients => connections::clients(&mut table, control),
        Show::Servers => connections::servers(&mut table, control),
        Show::Events => stats::events(&mut table, control),
        Show::Hba => hba::hba(&mut table, control),
        Show::Hosts => replicas::hosts(&mut table, &control.hosts()),
        Show::Routing => replicas::routing(&mut table, control),
        Show::Pins => pins::pins(&mut table, control),
        Show::PinTotals => pins::totals(&mut table, control),
        Show::Pools => pools::pools(&mut table, control),
        Show::Prepared => pools::prepared(&mut table, control),
        Show::Databases => pools::databases(&mut table, control),
        Show::Users => pools::users(&mut table, control),
        Show::DnsHosts => connections::dns_hosts(&mut table, control),
        Show::Peers => pools::peers(&mut table, control),
        Show::PeerPools => pools::peer_pools(&mut table, control),
        Show::Latency => latency::latency(&mut table, control),
        Show::Lists => pools::lists(&mut table, control),
        Show::Waiting => waiting::waiting(&mut table, control),
        Show::Queries => queries::queries(&mut table, control),
        Show::Stats => stats::stats(&mut table, control),
        Show::StatsTotals => stats::stats_totals(&mut table, control),
        Show::StatsAverages => stats::stats_averages(&mut table, control),
        Show::Totals => stats::totals(&mut table, control),
        Show::Advice | Show::Blockers => {} // PostgreSQL has to be asked: the console does that itself
        Show::Sockets => connections::sockets(&mut table, control),
        Show::ActiveSockets => connections::active_sockets(&mut table, control),
        Show::Fds => connections::fds(&mut table, control),
        Show::Mem => about::memory(&mut table, control),
        Show::DnsZones => {} // the system's resolver knows none
    }
    Ok(table.finish())
}
