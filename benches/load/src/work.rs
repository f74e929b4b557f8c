//! What is measured.

use std::fmt;

/// One piece of work that every contender does in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// pgbench with `SELECT :aid`.
    Queries { protocol: Protocol, clients: u32 },
    /// The same, with TLS.
    Secured { clients: u32, link: Link },
    /// Clients that logged in, ran one query and wait: memory.
    Idle { clients: u32 },
    /// SCRAM logins against a stored verifier, one after the other on a few connections at a time.
    Logins { link: Link },
    /// Queries at a steady pace, in windows with and without logins at a fixed rate beside them.
    Beside,
}

/// Where there is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Plain,
    /// Between client and pooler.
    Client,
    /// Between pooler and server, too.
    Both,
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
        let secured = [Link::Client, Link::Both].map(|link| Work::Secured { clients: 20, link });
        let logins = [Link::Plain, Link::Client].map(|link| Work::Logins { link });
        let idle = Work::Idle { clients: idle_clients };
        queries.chain(secured).chain([idle]).chain(logins).chain([Work::Beside]).collect()
    }

    /// Where its clients and its servers have TLS.
    pub(crate) fn link(self) -> Link {
        match self {
            Work::Secured { link, .. } | Work::Logins { link } => link,
            Work::Queries { .. } | Work::Idle { .. } | Work::Beside => Link::Plain,
        }
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
            Work::Secured { clients, link: Link::Both } => {
                format!("TLS on both sides, simple protocol, {clients} clients")
            }
            Work::Secured { clients, .. } => format!("TLS of clients, simple protocol, {clients} clients"),
            Work::Logins { link: Link::Plain } => "logins with SCRAM".into(),
            Work::Logins { .. } => "logins with TLS and SCRAM".into(),
            Work::Beside => "queries beside logins".into(),
        }
    }
}

/// The name by which filters and the JSON output know it.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Queries { protocol, clients } => write!(f, "{protocol}:{clients}"),
            Work::Idle { .. } => f.write_str("idle"),
            Work::Secured { clients, link: Link::Both } => write!(f, "tls-both:{clients}"),
            Work::Secured { clients, .. } => write!(f, "tls:{clients}"),
            Work::Logins { link: Link::Plain } => f.write_str("logins"),
            Work::Logins { .. } => f.write_str("tls-logins"),
            Work::Beside => f.write_str("beside"),
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
        assert_eq!(chosen("tls"), ["tls:20"]);
        assert_eq!(chosen("idle"), ["idle"]);
        assert_eq!(chosen("logins"), ["logins"]);
        assert!(chosen("simple:2").is_empty());
    }
}
