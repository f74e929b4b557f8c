//! What each `SHOW` answers with: columns, in order, with their types.

mod replicas;

pub use replicas::ROUTE;

/// An item of `SHOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// `ACTIVE_SOCKETS`
    ActiveSockets,
    /// `ADVICE`: what to look at, with the evidence. Not PgBouncer's.
    Advice,
    /// `BLOCKERS`: who waits for whom in PostgreSQL. Not PgBouncer's.
    Blockers,
    /// `CLIENTS`
    Clients,
    /// `CONFIG`
    Config,
    /// `DATABASES`
    Databases,
    /// `DNS_HOSTS`
    DnsHosts,
    /// `DNS_ZONES`
    DnsZones,
    /// `FDS`; for administrators only.
    Fds,
    /// `HELP`: a notice instead of a table.
    Help,
    /// `HOSTS`: primaries and their replicas, as they are observed. Not PgBouncer's.
    Hosts,
    /// `LATENCY`: how long waits, requests and transactions took. Not PgBouncer's.
    Latency,
    /// `LISTS`
    Lists,
    /// `HBA`: the rules that choose the method, and how often each has. Not PgBouncer's.
    Hba,
    /// `MEM`
    Mem,
    /// `PEERS`
    Peers,
    /// `PEER_POOLS`
    PeerPools,
    /// `PINS`: clients that keep their server. Not PgBouncer's.
    Pins,
    /// `EVENTS`: what was ended, cancelled or refused, and how often. Not PgBouncer's.
    Events,
    /// `PIN_TOTALS`: how often and why, by pool. Not PgBouncer's.
    PinTotals,
    /// `POOLS`
    Pools,
    /// `PREPARED`: statements that clients have prepared, by pool. Not PgBouncer's.
    Prepared,
    /// `QUERIES`: which statements hold servers. Not PgBouncer's.
    Queries,
    /// `ROUTING`: how often requests went where, and why. Not PgBouncer's.
    Routing,
    /// `SERVERS`
    Servers,
    /// `SOCKETS`
    Sockets,
    /// `STATE`
    State,
    /// `STATS`
    Stats,
    /// `STATS_AVERAGES`
    StatsAverages,
    /// `STATS_TOTALS`
    StatsTotals,
    /// `TOTALS`
    Totals,
    /// `USERS`
    Users,
    /// `VERSION`
    Version,
    /// `WAITING`: who waits for a server, and what for. Not PgBouncer's.
    Waiting,
    /// A parameter that drivers ask for; one row, one column of its name.
    Fake(&'static FakeParameter),
}

/// A parameter that the console answers for drivers' sake and that `SET` ignores.
#[derive(Debug, PartialEq, Eq)]
pub struct FakeParameter {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
    /// The one column of its table.
    columns: [Column; 1],
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
}

/// The type of a column. Values travel as text in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// 32-bit integer.
    Int4,
    /// 64-bit integer.
    Int8,
    /// A number of any size.
    Numeric,
    /// Bytes, as `\x` and hex digits.
    Bytea,
}

impl Type {
    /// Its object id in PostgreSQL.
    pub fn oid(self) -> u32 {
        match self {
            Type::Bytea => 17,
            Type::Int8 => 20,
            Type::Int4 => 23,
            Type::Text => 25,
            Type::Numeric => 1700,
        }
    }

    /// Its size in bytes; -1 is variable.
    pub fn size(self) -> i16 {
        match self {
            Type::Int4 => 4,
            Type::Int8 => 8,
            Type::Text | Type::Numeric | Type::Bytea => -1,
        }
    }
}

/// Every item with its name.
pub const ITEMS: &[(&str, Show)] = &[
    ("active_sockets", Show::ActiveSockets),
    ("advice", Show::Advice),
    ("blockers", Show::Blockers),
    ("clients", Show::Clients),
    ("config", Show::Config),
    ("databases", Show::Databases),
    ("dns_hosts", Show::DnsHosts),
    ("dns_zones", Show::DnsZones),
    ("fds", Show::Fds),
    ("help", Show::Help),
    ("hba", Show::Hba),
    ("hosts", Show::Hosts),
    ("lists", Show::Lists),
    ("mem", Show::Mem),
    ("peers", Show::Peers),
    ("peer_pools", Show::PeerPools),
    ("events", Show::Events),
    ("latency", Show::Latency),
    ("pins", Show::Pins),
    ("pin_totals", Show::PinTotals),
    ("pools", Show::Pools),
    ("prepared", Show::Prepared),
    ("queries", Show::Queries),
    ("routing", Show::Routing),
    ("servers", Show::Servers),
    ("sockets", Show::Sockets),
    ("state", Show::State),
    ("stats", Show::Stats),
    ("stats_averages", Show::StatsAverages),
    ("stats_totals", Show::StatsTotals),
    ("totals", Show::Totals),
    ("users", Show::Users),
    ("version", Show::Version),
    ("waiting", Show::Waiting),
    ("client_encoding", Show::Fake(&FAKE_PARAMETERS[0])),
    ("default_transaction_isolation", Show::Fake(&FAKE_PARAMETERS[1])),
    ("standard_conforming_strings", Show::Fake(&FAKE_PARAMETERS[2])),
    ("datestyle", Show::Fake(&FAKE_PARAMETERS[3])),
    ("timezone", Show::Fake(&FAKE_PARAMETERS[4])),
];

/// What `SHOW TRANSACTION ISOLATION LEVEL` answers. Not PgBouncer's, but drivers ask for it.
pub static ISOLATION: FakeParameter = fake("transaction_isolation", "read committed");

/// Parameters that exist for drivers' sake.
pub static FAKE_PARAMETERS: [FakeParameter; 5] = [
    fake("client_encoding", "UTF-8"),
    fake("default_transaction_isolation", "read committed"),
    fake("standard_conforming_strings", "on"),
    fake("datestyle", "ISO"),
    fake("timezone", "GMT"),
];

impl Show {
    /// The item of this name, in any case.
    pub fn named(name: &str) -> Option<Show> {
        ITEMS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, show)| *show)
    }

    /// The columns of its table; `HELP` has none.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Show::ActiveSockets | Show::Sockets => SOCKETS,
            Show::Clients | Show::Servers => CONNECTIONS,
            Show::Advice => ADVICE,
            Show::Blockers => BLOCKERS,
            Show::Config => CONFIG,
            Show::Databases => DATABASES,
            Show::DnsHosts => DNS_HOSTS,
            Show::DnsZones => DNS_ZONES,
            Show::Fds => FDS,
            Show::Help => &[],
            Show::Latency => LATENCY,
            Show::Lists => LISTS,
            Show::Mem => MEM,
            Show::Peers => PEERS,
            Show::PeerPools => PEER_POOLS,
            Show::Events => EVENTS,
            Show::Hba => HBA,
            Show::Hosts => replicas::HOSTS,
            Show::Routing => replicas::ROUTING,
            Show::Pins => PINS,
            Show::PinTotals => PIN_TOTALS,
            Show::Pools => POOLS,
            Show::Prepared => PREPARED,
            Show::Queries => QUERIES,
            Show::State => STATE,
            Show::Stats => STATS,
            Show::StatsAverages => STATS_AVERAGES,
            Show::StatsTotals => STATS_TOTALS,
            Show::Totals => TOTALS,
            Show::Users => USERS,
            Show::Version => VERSION,
            Show::Waiting => WAITING,
            Show::Fake(parameter) => &parameter.columns,
        }
    }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Type::Text }
}

const fn int4(name: &'static str) -> Column {
    Column { name, kind: Type::Int4 }
}

const fn int8(name: &'static str) -> Column {
    Column { name, kind: Type::Int8 }
}

const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Type::Numeric }
}

const fn bytea(name: &'static str) -> Column {
    Column { name, kind: Type::Bytea }
}

const fn fake(name: &'static str, value: &'static str) -> FakeParameter {
    FakeParameter { name, value, columns: [text(name)] }
}

/// `SOCKETS`; its first columns are those of `CLIENTS` and `SERVERS`.
const SOCKETS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("prepared_statements"),
    int4("id"),
    int4("recv_pos"),
    int4("pkt_pos"),
    int4("pkt_remain"),
    int4("send_pos"),
    int4("send_remain"),
    int4("pkt_avail"),
    int4("send_avail"),
];

const CONNECTIONS: &[Column] = SOCKETS.split_at(21).0;

const ADVICE: &[Column] = &[text("severity"), text("subject"), text("advice"), text("evidence")];

/// Times are microseconds.
const BLOCKERS: &[Column] = &[
    text("database"),
    int4("waiting_id"),
    int4("waiting_pid"),
    text("waiting_addr"),
    text("waiting_application"),
    text("waiting_user"),
    text("waiting_statement"),
    numeric("waited"),
    int4("blocking_id"),
    int4("blocking_pid"),
    text("blocking_addr"),
    text("blocking_application"),
    text("blocking_user"),
    text("blocking_statement"),
    text("state"),
    numeric("duration"),
];

const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];

const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int4("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool_size"),
    int4("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int4("max_connections"),
    int4("current_connections"),
    int4("max_client_connections"),
    int4("current_client_connections"),
    int4("paused"),
    int4("disabled"),
];

/// `RELOAD_PLAN`: what a reload would change. Not PgBouncer's.
pub const RELOAD_PLAN: &[Column] =
    &[text("kind"), text("name"), text("key"), text("old"), text("new"), text("effect")];

const DNS_HOSTS: &[Column] = &[text("hostname"), int8("ttl"), text("addrs")];

const DNS_ZONES: &[Column] = &[text("zonename"), int8("serial"), int4("count")];

const FDS: &[Column] = &[
    int4("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int4("port"),
    int8("cancel"),
    int4("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

/// Microseconds; those of the last statistics period behind those since the start.
const LATENCY: &[Column] = &[
    text("database"),
    text("user"),
    text("what"),
    numeric("count"),
    numeric("p50"),
    numeric("p95"),
    numeric("p99"),
    numeric("p99_9"),
    numeric("max"),
    numeric("period_count"),
    numeric("period_p50"),
    numeric("period_p95"),
    numeric("period_p99"),
];

const LISTS: &[Column] = &[text("list"), int4("items")];

const MEM: &[Column] = &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];

const PEERS: &[Column] = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];

const PEER_POOLS: &[Column] = &[
    int4("peer_id"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active_cancel"),
    int4("sv_login"),
];

/// Those of PostgreSQL's `pg_hba_file_rules`, lists with commas.
const HBA: &[Column] = &[
    int4("rule_number"),
    text("file_name"),
    int4("line_number"),
    text("type"),
    text("database"),
    text("user_name"),
    text("address"),
    text("netmask"),
    text("auth_method"),
    text("options"),
    int8("hits"),
];

const PINS: &[Column] = &[
    text("user"),
    text("database"),
    text("application_name"),
    text("addr"),
    int4("port"),
    text("ptr"),
    text("link"),
    int4("id"),
    int4("server_pid"),
    text("reasons"),
    text("statement"),
    int8("seconds"),
];

/// A row for each reason of each pool; `current`, `refused` and `max_pins` are the pool's.
const EVENTS: &[Column] = &[text("database"), text("user"), text("reason"), numeric("total")];

const PIN_TOTALS: &[Column] = &[
    text("database"),
    text("user"),
    int4("current"),
    int4("max_pins"),
    numeric("refused"),
    text("reason"),
    numeric("pins"),
];

/// Distinct texts that clients have prepared by name, and what they take.
const PREPARED: &[Column] = &[text("database"), text("user"), int4("statements"), numeric("bytes")];

const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int4("cl_active"),
    int4("cl_waiting"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active"),
    int4("sv_active_cancel"),
    int4("sv_being_canceled"),
    int4("sv_idle"),
    int4("sv_used"),
    int4("sv_tested"),
    int4("sv_login"),
    int4("maxwait"),
    int4("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

/// Times are microseconds.
const QUERIES: &[Column] = &[
    text("database"),
    text("user"),
    text("fingerprint"),
    text("statement"),
    numeric("calls"),
    numeric("rows"),
    numeric("errors"),
    numeric("held"),
    numeric("running"),
    numeric("mean"),
    numeric("p95"),
    numeric("max"),
];

const STATE: &[Column] = &[text("key"), text("value")];

const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

const STATS_AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

const STATS_TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

const TOTALS: &[Column] = &[text("name"), numeric("value")];

const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int4("max_user_connections"),
    int4("current_connections"),
    int4("max_user_client_connections"),
    int4("current_client_connections"),
];

const WAITING: &[Column] = &[
    text("database"),
    text("user"),
    int4("id"),
    text("application_name"),
    text("addr"),
    int4("port"),
    int4("wait"),
    int4("wait_us"),
    int4("position"),
    text("waits_for"),
    text("statement"),
];

const VERSION: &[Column] = &[text("version")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_columns_as_pgbouncers() {
        for (item, columns) in [
            ("active_sockets", 28),
            ("advice", 4),
            ("blockers", 16),
            ("clients", 21),
            ("config", 4),
            ("databases", 17),
            ("dns_hosts", 3),
            ("dns_zones", 3),
            ("fds", 15),
            ("hba", 11),
            ("hosts", 22),
            ("help", 0),
            ("lists", 2),
            ("mem", 5),
            ("peers", 4),
            ("peer_pools", 5),
            ("latency", 13),
            ("pins", 12),
            ("events", 4),
            ("pin_totals", 7),
            ("pools", 17),
            ("prepared", 4),
            ("queries", 12),
            ("routing", 5),
            ("servers", 21),
            ("sockets", 28),
            ("state", 2),
            ("stats", 25),
            ("stats_averages", 13),
            ("stats_totals", 13),
            ("totals", 2),
            ("users", 8),
            ("version", 1),
            ("waiting", 11),
        ] {
            assert_eq!(Show::named(item).unwrap().columns().len(), columns, "{item}");
        }
        assert_eq!(ITEMS.len(), 34 + FAKE_PARAMETERS.len());
    }

    #[test]
    fn names_are_found_in_any_case_and_occur_once() {
        assert_eq!(Show::named("Peer_Pools"), Some(Show::PeerPools));
        assert_eq!(Show::named("nothing"), None);
        for (name, show) in ITEMS {
            assert_eq!(Show::named(name), Some(*show));
            let mut columns: Vec<&str> = show.columns().iter().map(|column| column.name).collect();
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), show.columns().len(), "{name}");
        }
    }

    #[test]
    fn a_fake_parameter_is_a_table_of_one_column() {
        let Some(Show::Fake(parameter)) = Show::named("DateStyle") else { panic!("not fake") };
        assert_eq!((parameter.name, parameter.value), ("datestyle", "ISO"));
        assert_eq!(Show::Fake(parameter).columns(), [text("datestyle")]);
    }
}
