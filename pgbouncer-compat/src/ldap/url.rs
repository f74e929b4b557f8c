//! `ldap://host:port/base?attribute?scope?filter` (RFC 4516).

use pooler::config::LdapScope as Scope;

/// What an URL says; `None` where it says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) ldaps: bool,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) base: Option<String>,
    pub(super) attribute: Option<String>,
    pub(super) scope: Scope,
    pub(super) filter: Option<String>,
}

pub(super) fn parse(text: &str) -> Result<Url, String> {
    let fault = |why: &str| format!("could not parse LDAP URL \"{text}\": {why}");
    let (scheme, rest) = text.split_once("://").ok_or_else(|| fault("it begins with ldap:// or ldaps://"))?;
    let ldaps = match scheme {
        "ldap" => false,
        "ldaps" => true,
        _ => return Err(format!("unsupported LDAP URL scheme: {scheme}")),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let mut parts = path.strip_prefix('/').unwrap_or(path).splitn(5, '?');
    let mut part = || {
        let text = parts.next().filter(|part| !part.is_empty());
        text.map(|part| decoded(part).ok_or_else(|| fault("a % needs two hexadecimal digits behind it")))
            .transpose()
    };
    let (base, attributes, scope, filter) = (part()?, part()?, part()?, part()?);
    if part()?.is_some_and(|extensions| extensions.split(',').any(|one| one.starts_with('!'))) {
        return Err(fault("it has an extension that is critical"));
    }
    let scope = match scope.as_deref() {
        None | Some("base") => Scope::Base,
        Some("one" | "onelevel") => Scope::One,
        Some("sub" | "subtree") => Scope::Subtree,
        Some(_) => return Err(fault("its scope is base, one or sub")),
    };
    let (host, port) = match authority {
        "" => (None, None),
        authority => {
            let server = super::server(authority, 0).map_err(|why| fault(&why))?;
            (Some(server.host), Some(server.port).filter(|port| *port > 0))
        }
    };
    let host = host.map(|host| if host.contains(':') { format!("[{host}]") } else { host });
    let attribute = attributes.and_then(|list| list.split(',').next().map(str::to_owned));
    Ok(Url { ldaps, host, port, base, attribute, scope, filter })
}

/// Takes `%xx` for a byte. `None` if that is none, or no text comes out.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = match (first, more) {
            (b'%', [high, low, more @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16);
                out.push((digit(*high)? << 4 | digit(*low)?) as u8);
                more
            }
            (b'%', _) => return None,
            (byte, more) => {
                out.push(*byte);
                more
            }
        };
    }
    String::from_utf8(out).ok()
}
