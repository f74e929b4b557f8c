//! What is measured.

use std::fmt;

/// One piece of work that every contender does in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// pgbench with `SELECT :aid`.
    Queries { protocol: Protocol, clients: u32 },
    /// Clients that logged in, ran one query and wait: memory.
    Idle { clients: u32 },
    /// SCRAM logins, one after the other on a few connections at a time.
    Logins,
}

/// How pgbench sends its query (`-M`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Work {
    /// Everything, in the order in which it is run.
    pub(crate) fn all(idle_clients: u32) -> Vec<Work> {
        let queries = Protocol::ALL
            .into_iter()
            .flat_map(|protocol| CLIENTS.into_iter().map(move |clients| Work::Queries { protocol, clients }));
        queries.chain([Work::Idle { clients: idle_clients }, Work::Logins]).collect()
    }

    /// Whether a filter names this work: `simple`, `simple:20`, `:500`, `idle`, `logins`.
    pub(crate) fn matches(self, filter: &str) -> bool {
        let name = self.to_string();
        match filter.strip_prefix(':') {
            Some(_) => name.ends_with(filter),
            None => name == filter || name.split(':').next() == Some(filter),
        }
    }

    /// One line for people.
    pub(crate) fn title(self) -> String {
        match self {
            Work::Queries { protocol, clients: 1 } => format!("{protocol} protocol, 1 client"),
            Work::Queries { protocol, clients } => format!("{protocol} protocol, {clients} clients"),
            Work::Idle { clients } => format!("{clients} idle clients"),
            Work::Logins => "logins with SCRAM".into(),
        }
    }
}

/// The name by which filters and the JSON output know it.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Queries { protocol, clients } => write!(f, "{protocol}:{clients}"),
            Work::Idle { .. } => f.write_str("idle"),
            Work::Logins => f.write_str("logins"),
        }
    }
}

impl Protocol {
    const ALL: [Protocol; 3] = [Protocol::Simple, Protocol::Extended, Protocol::Prepared];
}

/// The argument of `pgbench -M`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        })
    }
}

/// Numbers of pgbench clients.
const CLIENTS: [u32; 3] = [1, 20, 500];

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(filter: &str) -> Vec<String> {
        let all = Work::all(2000).into_iter();
        all.filter(|work| work.matches(filter)).map(|work| work.to_string()).collect()
    }

    #[test]
    fn filters_name_work_by_kind_by_clients_or_both() {
        assert_eq!(chosen("simple:20"), ["simple:20"]);
        assert_eq!(chosen("prepared"), ["prepared:1", "prepared:20", "prepared:500"]);
        assert_eq!(chosen(":500"), ["simple:500", "extended:500", "prepared:500"]);
        assert_eq!(chosen("idle"), ["idle"]);
        assert_eq!(chosen("logins"), ["logins"]);
        assert!(chosen("simple:2").is_empty());
    }
}
