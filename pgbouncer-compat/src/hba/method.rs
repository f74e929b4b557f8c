//! The method of a rule, and what stands behind it.

use std::sync::Arc;

use pooler::config::{AuthMethod, CertificateCheck, CertificateName, IdentMap, LdapOptions, Transport};

use super::tokens::Token;
use super::{Complaint, Outcome};
use crate::ldap;

/// Methods by their words. `plain` is PgBouncer's.
const METHODS: &[(&str, AuthMethod)] = &[
    ("trust", AuthMethod::Trust),
    ("reject", AuthMethod::Reject),
    ("password", AuthMethod::Plain),
    ("plain", AuthMethod::Plain),
    ("md5", AuthMethod::Md5),
    ("scram-sha-256", AuthMethod::Scram),
    ("peer", AuthMethod::Peer),
    ("cert", AuthMethod::Cert),
    ("ldap", AuthMethod::Ldap),
    ("pam", AuthMethod::Pam),
];

/// Those of PostgreSQL that are not to be had here.
const UNSUPPORTED: &[&str] = &["ident", "gss", "sspi", "bsd", "radius", "oauth"];

pub(super) fn named(token: &Token, transport: Transport) -> Outcome<AuthMethod> {
    let text = &token.text[..];
    if text == "ident" && transport == Transport::Local {
        return Ok(AuthMethod::Peer); // as PostgreSQL reads it
    }
    if let Some((_, method)) = METHODS.iter().find(|(name, _)| *name == text) {
        return Ok(*method);
    }
    let known: Vec<_> = METHODS.iter().map(|(name, _)| *name).collect();
    let advice = format!("it is one of {}", known.join(", "));
    let unsupported = if UNSUPPORTED.contains(&text) { ": not supported" } else { "" };
    Err(Complaint::new(format!("invalid authentication method \"{text}\"{unsupported}"), advice))
}

/// What stands behind the method.
#[derive(Default)]
pub(super) struct Options {
    pub(super) certificate: CertificateCheck,
    pub(super) name: CertificateName,
    pub(super) map: Option<Arc<IdentMap>>,
    pub(super) ldap: Option<Arc<LdapOptions>>,
    /// As written.
    pub(super) given: Vec<(String, String)>,
}

impl Options {
    pub(super) fn read<'a>(
        tokens: impl Iterator<Item = &'a Token>,
        method: AuthMethod,
        transport: Transport,
        maps: &[Arc<IdentMap>],
    ) -> Outcome<Options> {
        let mut options = Options::default();
        for token in tokens {
            let Some((name, value)) = token.text.split_once('=') else {
                let text = match method {
                    AuthMethod::Ldap => ldap::NO_OPTION.to_owned(),
                    _ => format!("authentication option not in name=value format: {}", token.text),
                };
                return Err(Complaint::new(text, ""));
            };
            options.set(name, value, method, transport, maps)?;
            options.given.retain(|(given, _)| given != name); // the last one counts
            options.given.push((name.to_owned(), value.to_owned()));
        }
        if method == AuthMethod::Ldap {
            let given = options.given.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let read = ldap::from_pairs(given).map_err(|faults| Complaint::new(faults.to_string(), ""))?;
            options.ldap = Some(read.into());
        }
        if method == AuthMethod::Cert {
            options.certificate = CertificateCheck::OfUser;
        }
        Ok(options)
    }

    fn set(
        &mut self,
        name: &str,
        value: &str,
        method: AuthMethod,
        transport: Transport,
        maps: &[Arc<IdentMap>],
    ) -> Outcome<()> {
        let only = |methods: &str| {
            let text = format!(
                "authentication option \"{name}\" is only valid for authentication methods {methods}"
            );
            Err(Complaint::new(text, "leave it out"))
        };
        match name {
            "map" if !matches!(method, AuthMethod::Peer | AuthMethod::Cert) => return only("peer and cert"),
            "map" => self.map = map(value, maps)?,
            "clientcert" | "clientname" if transport != Transport::HostSsl => {
                let text = format!("{name} can only be configured for \"hostssl\" rows");
                return Err(Complaint::new(text, ""));
            }
            "clientcert" => self.certificate = certificate(value, method)?,
            "clientname" => self.name = certificate_name(value)?,
            "pamservice" | "pam_use_hostname" if method != AuthMethod::Pam => return only("pam"),
            "pamservice" | "pam_use_hostname" => {}
            name if ldap::NAMES.contains(&name) && method != AuthMethod::Ldap => return only("ldap"),
            name if ldap::NAMES.contains(&name) => {}
            name if method == AuthMethod::Ldap && !name.starts_with("ldap") => {
                return Err(Complaint::new(ldap::NO_OPTION, ""));
            }
            _ => {
                return Err(Complaint::new(
                    format!("unrecognized authentication option name: \"{name}\""),
                    "",
                ));
            }
        }
        Ok(())
    }
}

/// An empty name is none, as with PostgreSQL.
fn map(name: &str, maps: &[Arc<IdentMap>]) -> Outcome<Option<Arc<IdentMap>>> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = maps.iter().find(|map| map.name == name).cloned();
    let missing =
        || Complaint::new(format!("ident map {name} does not exist"), "auth_ident_file has no line for it");
    found.ok_or_else(missing).map(Some)
}

fn certificate(value: &str, method: AuthMethod) -> Outcome<CertificateCheck> {
    match value {
        "verify-full" => Ok(CertificateCheck::OfUser),
        "verify-ca" if method == AuthMethod::Cert => {
            let text = "clientcert only accepts \"verify-full\" when using \"cert\" authentication";
            Err(Complaint::new(text, "leave it out"))
        }
        "verify-ca" => Ok(CertificateCheck::Verified),
        _ => {
            let text = format!("invalid value for clientcert: \"{value}\"");
            Err(Complaint::new(text, "it is verify-ca or verify-full"))
        }
    }
}

fn certificate_name(value: &str) -> Outcome<CertificateName> {
    match value {
        "CN" => Ok(CertificateName::Common),
        "DN" => Ok(CertificateName::Distinguished),
        _ => Err(Complaint::new(format!("invalid value for clientname: \"{value}\""), "it is CN or DN")),
    }
}
