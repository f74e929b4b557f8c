//! `client_tls_*` and `server_tls_*`, of the process, a database or a user.

use pooler::config::{ClientTls, Database, Negotiation, ServerTls, SslMode};
use pooler::tls::{ClientWords, Findings, ServerWords};

use crate::finding::{Place, Report};
use crate::ini::ReadFile;
use crate::settings::Values;

/// TLS of clients, as `[pgbouncer]` has it.
pub(crate) fn clients(
    settings: &Values,
    whole_file: &Place,
    read_file: ReadFile,
    report: &mut Report,
) -> ClientTls {
    let words = ClientWords {
        mode: mode_of(settings, "client_tls_sslmode"),
        ca_file: settings.text("client_tls_ca_file"),
        cert_file: settings.text("client_tls_cert_file"),
        key_file: settings.text("client_tls_key_file"),
        protocols: settings.text("client_tls_protocols"),
        ciphers: settings.text("client_tls_ciphers"),
        tls13_ciphers: settings.text_if_any("client_tls13_ciphers"),
        curve: settings.text("client_tls_ecdhcurve"),
        dheparams: settings.text("client_tls_dheparams"),
    };
    let mut findings = Findings::default();
    let tls = ClientTls::build(&words, read_file, &mut findings);
    tell(findings, "client", "", |setting| place_of(settings, setting, whole_file), report);
    tls
}

/// TLS to servers, as `[pgbouncer]` has it.
pub(crate) fn servers(
    settings: &Values,
    whole_file: &Place,
    read_file: ReadFile,
    report: &mut Report,
) -> (ServerWords, ServerTls) {
    let words = ServerWords {
        mode: mode_of(settings, "server_tls_sslmode"),
        negotiation: Negotiation::named(settings.text("server_tls_negotiation")).unwrap_or_default(),
        ca_file: settings.text("server_tls_ca_file").to_owned(),
        cert_file: settings.text("server_tls_cert_file").to_owned(),
        key_file: settings.text("server_tls_key_file").to_owned(),
        protocols: settings.text("server_tls_protocols").to_owned(),
        ciphers: settings.text("server_tls_ciphers").to_owned(),
        tls13_ciphers: settings.text_if_any("server_tls13_ciphers").map(str::to_owned),
    };
    let mut findings = Findings::default();
    let tls = ServerTls::build(&words, read_file, &mut findings);
    tell(findings, "server", "", |setting| place_of(settings, setting, whole_file), report);
    (words, tls)
}

/// Makes of what a database says, over the global settings, what its connections use.
pub(crate) fn of_database(
    database: &mut Database,
    global: &ServerWords,
    read_file: ReadFile,
    place: &Place,
    report: &mut Report,
) {
    let Some(words) = database.server_tls.over(global) else { return };
    let mut findings = Findings::default();
    let tls = ServerTls::build(&words, read_file, &mut findings);
    let whose = format!("database {}: ", database.name);
    tell(findings, "server", &whose, |_| place.clone(), report);
    database.server_tls.tls = Some(tls.into());
}

/// Checks what a database or a user demands of clients against what they are offered.
pub(crate) fn check_demand(
    demand: Option<SslMode>,
    whose: &str,
    settings: &Values,
    place: &Place,
    report: &mut Report,
) {
    let Some(demand) = demand.filter(|demand| demand.is_mandatory()) else { return };
    let word = demand.as_str();
    if mode_of(settings, "client_tls_sslmode") == SslMode::Disable {
        let message = format!("{whose} has client_tls_sslmode = {word}, and clients are not offered TLS");
        report.fault(place, message, "set client_tls_sslmode in [pgbouncer] to prefer or more");
    } else if demand.verifies() && settings.text("client_tls_ca_file").is_empty() {
        let message = format!("{whose} has client_tls_sslmode = {word}, and there is no client_tls_ca_file");
        report.fault(place, message, "it says who signs the certificates of clients");
    }
}

/// A word of `client_tls_sslmode` or `server_tls_sslmode`.
pub(crate) fn mode(text: &str) -> Result<SslMode, &'static str> {
    SslMode::named(&text.to_ascii_lowercase())
        .ok_or("disable, allow, prefer, require, verify-ca or verify-full")
}

pub(crate) fn negotiation(text: &str) -> Result<Negotiation, &'static str> {
    Negotiation::named(&text.to_ascii_lowercase()).ok_or("postgres or direct")
}

/// The table admits no other word.
fn mode_of(settings: &Values, name: &str) -> SslMode {
    SslMode::named(settings.text(name)).unwrap_or_default()
}

fn place_of(settings: &Values, setting: &str, whole_file: &Place) -> Place {
    settings.place(setting).unwrap_or(whole_file).clone()
}

/// Passes on what was found, by the full names of settings.
fn tell(findings: Findings, side: &str, whose: &str, place: impl Fn(&str) -> Place, report: &mut Report) {
    let name = |setting: &str| match setting {
        "tls13_ciphers" => format!("{side}_{setting}"),
        _ => format!("{side}_tls_{setting}"),
    };
    for fault in findings.faults {
        let name = name(fault.setting);
        let message = format!("{whose}{name}: {}", fault.message);
        report.tls_fault(&place(&name), message, fault.advice);
    }
    for warning in findings.warnings {
        let name = name(warning.setting);
        report.warn(&place(&name), format!("{whose}{name}: {}", warning.message), warning.advice);
    }
}
