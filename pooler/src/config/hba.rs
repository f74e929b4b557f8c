//! `auth_hba_file`: rules of which the first that fits a connection says how its client has to prove who it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{AuthMethod, IdentMap, LdapOptions, Pattern};

/// The rules, in the order of the file. Empty: nobody is let in.
#[derive(Debug, Clone, Default)]
pub struct Hba(pub Arc<[Arc<HbaRule>]>);

/// One line of the file.
#[derive(Debug)]
pub struct HbaRule {
    /// The file that it stands in, which may be an included one.
    pub file: Arc<Path>,
    /// Its first line, from 1.
    pub line: u32,
    /// How the client has come.
    pub transport: Transport,
    /// Its database is one of these.
    pub databases: Vec<DatabaseMatch>,
    /// Its user is one of these.
    pub users: Vec<UserMatch>,
    /// Where it comes from; `All` for Unix sockets.
    pub address: AddressMatch,
    /// What it has to do then. Neither `Any` nor `Hba`.
    pub method: AuthMethod,
    /// A certificate that it has to show besides.
    pub certificate: CertificateCheck,
    /// The name that a certificate has for its owner.
    pub name: CertificateName,
    /// Translates a system's names to users; `None`: they are the same.
    pub map: Option<Arc<IdentMap>>,
    /// Where passwords are judged; of the method `ldap`.
    pub ldap: Option<Arc<LdapOptions>>,
    /// Everything behind the method, as written, names and values.
    pub options: Vec<(String, String)>,
    /// How often it has decided since it was read.
    pub hits: Hits,
}

/// The first word of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `local`: a Unix socket.
    Local,
    /// `host`: TCP, with TLS or without.
    Host,
    /// `hostssl`: TCP with TLS.
    HostSsl,
    /// `hostnossl`: TCP without TLS.
    HostNoSsl,
    /// `hostgssenc`: never, since nothing here is encrypted by GSSAPI.
    HostGss,
    /// `hostnogssenc`: TCP.
    HostNoGss,
}

/// One entry of a rule's databases. Replication of the whole cluster has no database and fits `replication` only.
#[derive(Debug)]
pub enum DatabaseMatch {
    /// `all`.
    All,
    /// `sameuser`: it has the user's name.
    SameUser,
    /// `replication`: physical replication.
    Replication,
    /// This one.
    Name(String),
    /// `/…`: every one in whose name the expression is found.
    Pattern(Pattern),
}

/// One entry of a rule's users.
#[derive(Debug)]
pub enum UserMatch {
    /// `all`.
    All,
    /// This one.
    Name(String),
    /// `/…`: every one in whose name the expression is found.
    Pattern(Pattern),
}

/// Addresses of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressMatch {
    /// `all`.
    All,
    /// `samehost`: an address of this machine.
    SameHost,
    /// `samenet`: a network that this machine is in.
    SameNet,
    /// Those that agree with `base` where `mask` has ones; both of one family.
    Net {
        /// Bits outside the mask do not count.
        base: IpAddr,
        /// Not always a prefix.
        mask: IpAddr,
    },
    /// The addresses that this name has.
    Name(String),
}

/// `clientcert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateCheck {
    /// None.
    #[default]
    None,
    /// `verify-ca`: one that was verified.
    Verified,
    /// `verify-full`: one that was verified and is the user's.
    OfUser,
}

/// `clientname`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateName {
    /// The common name, or one of the alternative names.
    #[default]
    Common,
    /// `DN`: the whole subject, as RFC 2253 writes it.
    Distinguished,
}

/// A number that all copies of a rule share.
#[derive(Debug, Default)]
pub struct Hits(AtomicU64);

impl Hits {
    /// The rule has decided once more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How often it has.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// `None`: over a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether TLS protects it.
    pub tls: bool,
    /// As the client names it.
    pub database: &'a str,
    /// As the client names it.
    pub user: &'a str,
    /// Replication of the whole cluster, which has no database.
    pub physical_replication: bool,
}

/// An address of this machine, and the mask of its network.
pub type Interface = (IpAddr, IpAddr);

/// How far a search came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// This rule decides.
    Rule(usize),
    /// This rule does if the name has the client's address; else the search goes on behind it.
    IfNamed(usize, &'a str),
    /// None does.
    None,
}

impl Hba {
    /// The first rule from the one numbered `from` on that fits. `interfaces` is asked where a rule is about this machine.
    pub fn first<'a>(
        &'a self,
        from: usize,
        incoming: &Incoming<'_>,
        interfaces: &mut dyn FnMut() -> Arc<[Interface]>,
    ) -> Found<'a> {
        for (index, rule) in self.0.iter().enumerate().skip(from) {
            if !rule.is_about(incoming) {
                continue;
            }
            match &rule.address {
                AddressMatch::Name(name) => return Found::IfNamed(index, name),
                address if address.holds(incoming.address, interfaces) => return Found::Rule(index),
                _ => {}
            }
        }
        Found::None
    }
}

impl HbaRule {
    /// Address and mask as PostgreSQL's view shows them.
    pub fn address_columns(&self) -> (Option<String>, Option<String>) {
        match &self.address {
            _ if self.transport == Transport::Local => (None, None),
            AddressMatch::All => (Some("all".into()), None),
            AddressMatch::SameHost => (Some("samehost".into()), None),
            AddressMatch::SameNet => (Some("samenet".into()), None),
            AddressMatch::Net { base, mask } => (Some(base.to_string()), Some(mask.to_string())),
            AddressMatch::Name(name) => (Some(name.clone()), None),
        }
    }

    /// Whether all but the address fits.
    fn is_about(&self, incoming: &Incoming<'_>) -> bool {
        self.transport.carries(incoming)
            && self.databases.iter().any(|database| database.holds(incoming))
            && self.users.iter().any(|user| user.holds(incoming.user))
    }
}

impl Transport {
    /// As it is written.
    pub fn keyword(self) -> &'static str {
        match self {
            Transport::Local => "local",
            Transport::Host => "host",
            Transport::HostSsl => "hostssl",
            Transport::HostNoSsl => "hostnossl",
            Transport::HostGss => "hostgssenc",
            Transport::HostNoGss => "hostnogssenc",
        }
    }

    fn carries(self, incoming: &Incoming<'_>) -> bool {
        let tcp = incoming.address.is_some();
        match self {
            Transport::Local => !tcp,
            Transport::Host | Transport::HostNoGss => tcp,
            Transport::HostSsl => tcp && incoming.tls,
            Transport::HostNoSsl => tcp && !incoming.tls,
            Transport::HostGss => false,
        }
    }
}

impl DatabaseMatch {
    fn holds(&self, incoming: &Incoming<'_>) -> bool {
        match self {
            DatabaseMatch::Replication => incoming.physical_replication,
            _ if incoming.physical_replication => false,
            DatabaseMatch::All => true,
            DatabaseMatch::SameUser => incoming.database == incoming.user,
            DatabaseMatch::Name(name) => name == incoming.database,
            DatabaseMatch::Pattern(pattern) => pattern.is_in(incoming.database),
        }
    }
}

impl UserMatch {
    fn holds(&self, user: &str) -> bool {
        match self {
            UserMatch::All => true,
            UserMatch::Name(name) => name == user,
            UserMatch::Pattern(pattern) => pattern.is_in(user),
        }
    }
}

impl fmt::Display for DatabaseMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseMatch::All => f.write_str("all"),
            DatabaseMatch::SameUser => f.write_str("sameuser"),
            DatabaseMatch::Replication => f.write_str("replication"),
            DatabaseMatch::Name(name) => f.write_str(name),
            DatabaseMatch::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

impl fmt::Display for UserMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserMatch::All => f.write_str("all"),
            UserMatch::Name(name) => f.write_str(name),
            UserMatch::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

impl AddressMatch {
    fn holds(&self, client: Option<IpAddr>, interfaces: &mut dyn FnMut() -> Arc<[Interface]>) -> bool {
        // An IPv4 client of an IPv6 socket must not slip past rules for IPv4.
        let Some(client) = client.map(|client| client.to_canonical()) else {
            return *self == AddressMatch::All;
        };
        match self {
            AddressMatch::All => true,
            AddressMatch::SameHost => interfaces().iter().any(|(own, _)| *own == client),
            AddressMatch::SameNet => interfaces().iter().any(|(own, mask)| is_within(client, *own, *mask)),
            AddressMatch::Net { base, mask } => {
                let (base, mask) = canonical(*base, *mask);
                is_within(client, base, mask)
            }
            AddressMatch::Name(_) => false,
        }
    }
}

/// A network of IPv4 addresses that are written as IPv6 ones is that of the IPv4 addresses, as their clients are IPv4 clients.
fn canonical(base: IpAddr, mask: IpAddr) -> (IpAddr, IpAddr) {
    match (base.to_canonical(), mask) {
        (IpAddr::V4(v4), IpAddr::V6(mask)) if mask.to_bits() >> 32 == u128::MAX >> 32 => {
            (v4.into(), Ipv4Addr::from_bits(mask.to_bits() as u32).into())
        }
        _ => (base, mask),
    }
}

/// Whether two addresses agree where the mask has ones.
fn is_within(address: IpAddr, base: IpAddr, mask: IpAddr) -> bool {
    match (address, base, mask) {
        (IpAddr::V4(address), IpAddr::V4(base), IpAddr::V4(mask)) => {
            (address.to_bits() ^ base.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(address), IpAddr::V6(base), IpAddr::V6(mask)) => {
            (address.to_bits() ^ base.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
