//! Options of LDAP: those of `auth_ldap_options`, and of a line of the HBA file whose method is `ldap`.
//!
//! They are `name=value`, separated by blanks or commas. Double quotes protect both in a name, a value, or the whole;
//! `""` inside is one quote. What comes later takes the place of what came before, an URL's parts included.

mod url;

use std::fmt;
use std::sync::Arc;

use pooler::config::{
    LdapFilter as Filter, LdapLookup, LdapOptions, LdapScope as Scope, LdapSearch as Search, LdapSecurity,
    LdapServer,
};
use zeroize::Zeroizing;

/// What is said of a word that may be a part of a password.
pub(crate) const NO_OPTION: &str =
    "there is a word that is no LDAP option; values with blanks or commas need double quotes";

/// Every name that there is: PostgreSQL's, and `ldapcafile`.
pub const NAMES: &[&str] = &[
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapurl",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapcafile",
];

const PORT: u16 = 389;
const PORT_TLS: u16 = 636;

/// What is wrong with options, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapFaults(pub Vec<String>);

impl fmt::Display for LdapFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for LdapFaults {}

/// Reads options as they stand in a file.
///
/// # Errors
/// All that is wrong with them. No text of it has a password in it.
pub fn parse(text: &str) -> Result<LdapOptions, LdapFaults> {
    let words = words(text).map_err(|fault| LdapFaults(vec![fault]))?;
    let pairs = words.iter().map(|word| word.split_once('=').unwrap_or((word, "")));
    from_pairs(pairs)
}

/// As [`parse`], of options that are separated already.
///
/// # Errors
/// All that is wrong with them.
pub fn from_pairs<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<LdapOptions, LdapFaults> {
    let mut draft = Draft::default();
    let mut faults = Vec::new();
    for (name, value) in pairs {
        if let Err(fault) = draft.set(name, value) {
            faults.push(fault);
        }
    }
    match draft.finish() {
        Ok(options) if faults.is_empty() => Ok(options),
        Ok(_) => Err(LdapFaults(faults)),
        Err(more) => {
            // What is missing may be what could not be read.
            if faults.is_empty() {
                faults = more;
            }
            Err(LdapFaults(faults))
        }
    }
}

/// The words of a text, without their quotes.
fn words(text: &str) -> Result<Vec<Zeroizing<String>>, String> {
    let mut words = Vec::new();
    let mut word: Option<Zeroizing<String>> = None;
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                word.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ',' if !quoted => words.extend(word.take()),
            c if !quoted && c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("a double quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// As written.
#[derive(Default)]
struct Draft {
    servers: Option<String>,
    port: Option<u16>,
    tls: bool,
    ldaps: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_name: Option<String>,
    bind_password: Option<Zeroizing<String>>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<Scope>,
    ca_file: Option<String>,
}

impl Draft {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let may_be_empty = matches!(name, "ldapprefix" | "ldapsuffix" | "ldapbinddn" | "ldapbindpasswd");
        if value.is_empty() && NAMES.contains(&name) && !may_be_empty {
            return Err(format!("{name} has no value; there is no blank around the ="));
        }
        let text = || Some(value.to_owned());
        match name {
            "ldapserver" => self.servers = text(),
            "ldapport" => self.port = Some(port(value)?),
            "ldapscheme" => self.ldaps = is_ldaps(value)?,
            "ldaptls" => match value {
                "0" | "1" => self.tls = value == "1",
                _ => return Err(format!("ldaptls is 0 or 1, not \"{value}\"")),
            },
            "ldapurl" => self.take_url(value)?,
            "ldapprefix" => self.prefix = text(),
            "ldapsuffix" => self.suffix = text(),
            "ldapbasedn" => self.base = text(),
            "ldapbinddn" => self.bind_name = text(),
            "ldapbindpasswd" => self.bind_password = Some(Zeroizing::new(value.to_owned())),
            "ldapsearchattribute" => self.attribute = text(),
            "ldapsearchfilter" => self.filter = text(),
            "ldapcafile" => self.ca_file = text(),
            // A part of a password whose quotes were forgotten must not be told.
            name if name.starts_with("ldap") => {
                return Err(format!("invalid LDAP key parameter: \"{name}\""));
            }
            _ => return Err(NO_OPTION.to_owned()),
        }
        Ok(())
    }

    fn take_url(&mut self, text: &str) -> Result<(), String> {
        let url = url::parse(text)?;
        self.ldaps = url.ldaps;
        self.scope = Some(url.scope);
        // What an URL leaves open stays as it was.
        let keep = |new: Option<String>, old: &mut Option<String>| {
            if new.is_some() {
                *old = new;
            }
        };
        keep(url.host, &mut self.servers);
        keep(url.base, &mut self.base);
        keep(url.attribute, &mut self.attribute);
        keep(url.filter, &mut self.filter);
        self.port = url.port.or(self.port);
        Ok(())
    }

    fn finish(self) -> Result<LdapOptions, Vec<String>> {
        let mut faults = Vec::new();
        if self.ldaps && self.tls {
            faults.push("ldaptls = 1 (StartTLS) can't be used together with ldaps".to_owned());
        }
        let security = match (self.ldaps, self.tls) {
            (true, _) => LdapSecurity::Tls,
            (_, true) => LdapSecurity::StartTls,
            _ => LdapSecurity::None,
        };
        let port = self.port.unwrap_or(if self.ldaps { PORT_TLS } else { PORT });
        let names = self.servers.as_deref().unwrap_or_default().split_whitespace();
        let servers: Vec<_> =
            names.filter_map(|name| server(name, port).map_err(|fault| faults.push(fault)).ok()).collect();
        if servers.is_empty() && faults.is_empty() {
            faults.push(
                "ldapserver, or a host in ldapurl, is missing; it is not looked for in the DNS".to_owned(),
            );
        }
        let ca_file = self.ca_file.as_ref().map(Into::into);
        match self.lookup() {
            Ok(lookup) if faults.is_empty() => Ok(LdapOptions { servers, security, ca_file, lookup }),
            Ok(_) => Err(faults),
            Err(fault) => {
                faults.push(fault);
                Err(faults)
            }
        }
    }

    fn lookup(self) -> Result<LdapLookup, String> {
        if self.prefix.is_some() || self.suffix.is_some() {
            let searches = [&self.base, &self.bind_name, &self.attribute, &self.filter];
            if self.bind_password.is_some() || searches.iter().any(|option| option.is_some()) {
                return Err("cannot use ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute, \
                            ldapsearchfilter, or such parts of ldapurl together with ldapprefix or ldapsuffix"
                    .to_owned());
            }
            let (prefix, suffix) = (self.prefix.unwrap_or_default(), self.suffix.unwrap_or_default());
            return Ok(LdapLookup::Bind { prefix, suffix });
        }
        let base = self.base.ok_or("ldapbasedn, ldapprefix, or ldapsuffix is missing")?;
        let filter = match (&self.attribute, &self.filter) {
            (Some(_), Some(_)) => {
                return Err("cannot use ldapsearchattribute together with ldapsearchfilter".to_owned());
            }
            (None, Some(filter)) => {
                Filter::parse(filter).map_err(|fault| format!("ldapsearchfilter can't be used: {fault}"))?
            }
            (attribute, None) => Filter::equals(attribute.as_deref().unwrap_or("uid"))
                .map_err(|fault| format!("ldapsearchattribute can't be used: {fault}"))?,
        };
        Ok(LdapLookup::Search(Search {
            bind_name: self.bind_name.unwrap_or_default(),
            bind_password: self.bind_password.unwrap_or_default(),
            base,
            scope: self.scope.unwrap_or(Scope::Subtree),
            filter: Arc::new(filter),
        }))
    }
}

fn is_ldaps(scheme: &str) -> Result<bool, String> {
    match scheme {
        "ldap" => Ok(false),
        "ldaps" => Ok(true),
        _ => Err(format!("invalid ldapscheme value: \"{scheme}\"; it is ldap or ldaps")),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid LDAP port number: \"{text}\""))
}

/// `host`, `host:port`, `[address]`, `[address]:port`, or an address of IPv6 alone.
fn server(text: &str, default: u16) -> Result<LdapServer, String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']').ok_or_else(|| format!("\"{text}\" has no closing bracket"))?,
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) => port(digits)?,
        None if rest.is_empty() => default,
        None => return Err(format!("\"{text}\" is no LDAP server")),
    };
    if host.is_empty() {
        return Err(format!("\"{text}\" is no LDAP server"));
    }
    Ok(LdapServer { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests;
