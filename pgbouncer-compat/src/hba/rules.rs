//! A line of the HBA file: `TYPE DATABASES USERS [ADDRESS [MASK]] METHOD [OPTIONS]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::slice::Iter;
use std::sync::Arc;

use pooler::config::{
    AddressMatch, AuthMethod, DatabaseMatch, HbaRule, Hits, IdentMap, Pattern, Transport, UserMatch,
};

use super::method::{self, Options};
use super::tokens::{Field, Line, Token};
use super::{Complaint, Outcome};
use crate::finding::Report;

pub(super) fn rule(line: &Line, maps: &[Arc<IdentMap>], report: &mut Report) -> Outcome<HbaRule> {
    let mut fields = Fields(line.fields.iter());
    let transport = transport(fields.single("connection type")?)?;
    let databases = fields.next("database specification")?;
    let databases = databases.iter().map(database).collect::<Outcome<_>>()?;
    let users = fields.next("role specification")?.iter().map(user).collect::<Outcome<_>>()?;
    let address = match transport {
        Transport::Local => Address { matches: AddressMatch::All, has_more: false },
        _ => address(&mut fields)?,
    };
    let method = method::named(fields.single("authentication method")?, transport)?;
    let options = Options::read(fields.0.flatten(), method, transport, maps)?;
    if address.has_more {
        let advice = "those bits do not count; PgBouncer would take the rule for one that never matches";
        report.warn(&line.place, "the address has bits set that its mask leaves out", advice);
    }
    if let Some(why) = never_passes(transport, method) {
        report.warn(&line.place, "nobody can log in by this rule", why);
    }
    Ok(HbaRule {
        file: line.place.file.clone(),
        line: line.place.line.unwrap_or_default(),
        transport,
        databases,
        users,
        address: address.matches,
        method,
        certificate: options.certificate,
        name: options.name,
        map: options.map,
        ldap: options.ldap,
        options: options.given,
        hits: Hits::default(),
    })
}

/// PostgreSQL refuses these; PgBouncer reads them and then refuses every client.
fn never_passes(transport: Transport, method: AuthMethod) -> Option<&'static str> {
    match (transport, method) {
        (_, AuthMethod::Pam) if !pooler::HAS_PAM => Some("pam is not supported by this build"),
        (Transport::HostGss, _) => Some("there is no encryption by GSSAPI here"),
        (Transport::Local, AuthMethod::Cert) => Some("over a Unix socket there are no certificates"),
        (Transport::Local, _) => None,
        (_, AuthMethod::Peer) => Some("peer is for Unix sockets"),
        _ => None,
    }
}

/// Fields from left to right.
struct Fields<'a>(Iter<'a, Field>);

impl<'a> Fields<'a> {
    fn next(&mut self, what: &str) -> Outcome<&'a Field> {
        self.0.next().ok_or_else(|| Complaint::new(format!("end-of-line before {what}"), EXPECTED))
    }

    fn single(&mut self, what: &str) -> Outcome<&'a Token> {
        match &self.next(what)?[..] {
            [token] => Ok(token),
            _ => Err(Complaint::new(format!("multiple values specified for {what}"), "give one a line")),
        }
    }
}

const EXPECTED: &str = "a rule is TYPE DATABASES USERS [ADDRESS] METHOD [OPTIONS]";

fn transport(token: &Token) -> Outcome<Transport> {
    let all = [
        Transport::Local,
        Transport::Host,
        Transport::HostSsl,
        Transport::HostNoSsl,
        Transport::HostGss,
        Transport::HostNoGss,
    ];
    all.into_iter().find(|transport| transport.keyword() == token.text).ok_or_else(|| {
        let known = all.map(Transport::keyword).join(", ");
        Complaint::new(format!("invalid connection type \"{}\"", token.text), format!("it is one of {known}"))
    })
}

const NO_MEMBERSHIP: &str = "the pooler does not know who is a member of what; name the users";

fn database(token: &Token) -> Outcome<DatabaseMatch> {
    Ok(match &token.text[..] {
        "all" if !token.quoted => DatabaseMatch::All,
        "sameuser" if !token.quoted => DatabaseMatch::SameUser,
        "replication" if !token.quoted => DatabaseMatch::Replication,
        "samerole" | "samegroup" if !token.quoted => {
            return Err(Complaint::new(format!("{} is not supported", token.text), NO_MEMBERSHIP));
        }
        text => match text.strip_prefix('/') {
            Some(expression) => DatabaseMatch::Pattern(pattern(expression)?),
            None => DatabaseMatch::Name(text.to_owned()),
        },
    })
}

fn user(token: &Token) -> Outcome<UserMatch> {
    Ok(match &token.text[..] {
        "all" if !token.quoted => UserMatch::All,
        text if text.starts_with('+') && !token.quoted => {
            return Err(Complaint::new(format!("the group {text} is not supported"), NO_MEMBERSHIP));
        }
        text => match text.strip_prefix('/') {
            Some(expression) => UserMatch::Pattern(pattern(expression)?),
            None => UserMatch::Name(text.to_owned()),
        },
    })
}

pub(super) fn pattern(text: &str) -> Outcome<Pattern> {
    Pattern::new(text).map_err(|why| {
        // The crate's messages may have several lines.
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        Complaint::new(format!("invalid regular expression \"{text}\": {why}"), "")
    })
}

struct Address {
    matches: AddressMatch,
    /// It has bits outside its mask.
    has_more: bool,
}

fn address(fields: &mut Fields<'_>) -> Outcome<Address> {
    let token = match &fields.next("IP address specification")?[..] {
        [token] => token,
        _ => {
            let advice = "specify one address range per line";
            return Err(Complaint::new("multiple values specified for host address", advice));
        }
    };
    let text = &token.text[..];
    let whole = |matches| Ok(Address { matches, has_more: false });
    match text {
        "all" if !token.quoted => return whole(AddressMatch::All),
        "samehost" if !token.quoted => return whole(AddressMatch::SameHost),
        "samenet" if !token.quoted => return whole(AddressMatch::SameNet),
        _ => {}
    }
    let (host, bits) = match text.split_once('/') {
        Some((host, bits)) => (host, Some(bits)),
        None => (text, None),
    };
    let Ok(base) = host.parse::<IpAddr>() else { return whole(name(host, bits)?) };
    let mask = match bits {
        Some(bits) => prefix(base, bits).ok_or_else(|| {
            Complaint::new(format!("invalid CIDR mask in address \"{text}\""), "it is a number of bits")
        })?,
        None => mask(base, fields)?,
    };
    let has_more = masked(base, mask) != base;
    Ok(Address { matches: AddressMatch::Net { base, mask }, has_more })
}

/// A host's name. Resolvers take all kinds of numbers for addresses, which nobody means here.
fn name(host: &str, bits: Option<&str>) -> Outcome<AddressMatch> {
    let invalid = |advice: &str| Err(Complaint::new(format!("invalid IP address \"{host}\""), advice));
    if host.is_empty() {
        return invalid("an address or a host name is missing");
    }
    if host.contains(':')
        || host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()))
    {
        return invalid("an IPv4 address has four decimal numbers");
    }
    if bits.is_some() {
        let text = format!("specifying both host name and CIDR mask is invalid: \"{host}\"");
        return Err(Complaint::new(text, "leave the mask out"));
    }
    if host.starts_with('.') {
        let advice =
            "the pooler asks no resolver for the names of addresses; name the hosts, or give their network";
        return Err(Complaint::new(format!("the domain \"{host}\" is not supported"), advice));
    }
    Ok(AddressMatch::Name(host.to_owned()))
}

fn prefix(base: IpAddr, bits: &str) -> Option<IpAddr> {
    if !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // a sign would parse
    }
    let bits: u32 = bits.parse().ok()?;
    match base {
        IpAddr::V4(_) => {
            let hidden = u32::BITS.checked_sub(bits)?;
            Some(Ipv4Addr::from_bits(u32::MAX.checked_shl(hidden).unwrap_or(0)).into())
        }
        IpAddr::V6(_) => {
            let hidden = u128::BITS.checked_sub(bits)?;
            Some(Ipv6Addr::from_bits(u128::MAX.checked_shl(hidden).unwrap_or(0)).into())
        }
    }
}

fn mask(base: IpAddr, fields: &mut Fields<'_>) -> Outcome<IpAddr> {
    let advice = "specify an address range in CIDR notation, or provide a separate netmask";
    let token = match fields.0.next().map(|field| &field[..]) {
        Some([token]) => token,
        Some(_) => return Err(Complaint::new("multiple values specified for netmask", advice)),
        None => return Err(Complaint::new("end-of-line before netmask specification", advice)),
    };
    match token.text.parse::<IpAddr>() {
        Ok(mask) if mask.is_ipv4() == base.is_ipv4() => Ok(mask),
        Ok(_) => Err(Complaint::new("IP address and mask do not match", "both are of one family")),
        Err(_) => Err(Complaint::new(format!("invalid IP mask \"{}\"", token.text), advice)),
    }
}

fn masked(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address & mask).into(),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address & mask).into(),
        _ => address,
    }
}
