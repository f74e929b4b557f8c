//! From a file's draft to the effective configuration, in one step that reports every fault.

mod effective;
mod set;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pooler::config::{Config, Database, Hba, LdapOptions, Userlist};
use zeroize::Zeroizing;

pub use set::NotSet;

use crate::finding::{Faults, Finding, Place, Report, did_you_mean};
use crate::ini::{self, Item, ReadFile};
use crate::settings::{Change, Kind, SETTINGS, SetError, Setting, Status, Values};
use crate::{databases, hba, ldap, limits, peers, routing, secret, tls, userlist, users};

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the pooler needs.
    pub config: Config,
    /// What only the program around it needs.
    pub program: Program,
    /// The settings, for `SHOW CONFIG`.
    pub settings: Values,
    /// What is accepted and probably not meant.
    pub warnings: Vec<Finding>,
    /// By `SET`: why the TLS settings can't be used as they are now. What was in effect of them stays.
    pub unusable_tls: Vec<Finding>,
    /// Settings that differ from those in effect. Those that are fixed at the start have kept their values above.
    pub changes: Vec<Change>,
    /// The files, for `SET`.
    pub draft: Draft,
}

/// Settings of the process rather than the pooler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What the next reload reads.
    pub conffile: PathBuf,
    /// Holds the process id while the program runs.
    pub pidfile: Option<PathBuf>,
    /// The log is appended to it.
    pub logfile: Option<PathBuf>,
    /// Whether and how lines go to syslog, too.
    pub syslog: Syslog,
    /// The form of lines on standard error and in the file.
    pub log_format: LogFormat,
    /// Unix user to become.
    pub user: Option<String>,
    /// 1 is debug, 2 and more everything. `None`: what the command line says.
    pub verbose: Option<u32>,
}

/// How lines go to syslog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// They do.
    pub on: bool,
    /// Its number.
    pub facility: u8,
    /// The tag of lines.
    pub ident: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// PgBouncer's.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// Reads a configuration file and all that it names.
///
/// # Errors
/// Every fault of every file.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    load_from(path, &|path| std::fs::read(path))
}

/// As [`load`], with `read_file` in place of the file system.
///
/// # Errors
/// Every fault of every file.
pub fn load_from(path: &Path, read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Loaded, Faults> {
    load_over(path, None, read_file)
}

/// As [`load`], for a process in which these settings are in effect.
///
/// # Errors
/// Every fault of every file.
pub fn reload(path: &Path, running: &Values) -> Result<Loaded, Faults> {
    load_over(path, Some(running), &|path| std::fs::read(path))
}

fn load_over(
    path: &Path,
    running: Option<&Values>,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Loaded, Faults> {
    let mut report = Report::default();
    let mut draft = Draft::read(path, read_file, &mut report);
    let changes = running.map(|running| draft.settings.keep_fixed(running)).unwrap_or_default();
    let loaded = draft.clone().resolve(path, read_file, &mut report);
    secret::warn_of_open_files(&mut report);
    report.faults.append(&mut report.tls_faults);
    if report.faults.is_empty() {
        report.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        return Ok(Loaded { warnings: report.warnings, changes, draft, ..loaded });
    }
    report.faults.sort_by(|a, b| a.place.cmp(&b.place));
    Err(Faults(report.faults))
}

/// An entry of a section whose keys are names: name, value, place.
type Named = (String, String, Place);

/// The sections' content, in the order of the files. Connection strings may hold passwords.
#[derive(Clone, Default)]
pub struct Draft {
    settings: Values,
    databases: Vec<Named>,
    users: Vec<Named>,
    applications: Vec<Named>,
    peers: Vec<Named>,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Draft(..)")
    }
}

/// Where an entry belongs.
#[derive(Clone, Copy)]
enum Section {
    /// Before any section.
    None,
    Pgbouncer,
    Databases,
    Users,
    Applications,
    Peers,
    /// Told already; its entries are skipped.
    Unknown,
}

impl Section {
    fn named(name: &str) -> Section {
        match name {
            "pgbouncer" => Section::Pgbouncer,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "applications" => Section::Applications,
            "peers" => Section::Peers,
            _ => Section::Unknown,
        }
    }
}

impl Draft {
    fn read(path: &Path, read_file: ReadFile, report: &mut Report) -> Draft {
        let mut draft = Draft::default();
        let conffile = path.to_string_lossy();
        // Any text is a value of this setting.
        let _ = draft.settings.set("conffile", &conffile, None);
        let items = ini::read(path, read_file, report);
        let unread = items.is_empty() && !report.faults.is_empty();
        let mut section = Section::None;
        let mut has_main = false;
        for item in items {
            match item {
                Item::Section { name, place } => {
                    section = Section::named(&name);
                    has_main |= matches!(section, Section::Pgbouncer);
                    draft.start(section, &name, &place, report);
                }
                Item::Entry { key, value, place } => match section {
                    Section::Pgbouncer => draft.setting(&key, &value, &place, read_file, report),
                    _ => draft.entry(section, key, value, place, report),
                },
            }
        }
        if !has_main && !unread {
            let place = Place { file: path.into(), line: None };
            report.fault(&place, "main section missing from config file", "add a section [pgbouncer]");
        }
        draft
    }

    fn start(&mut self, section: Section, name: &str, place: &Place, report: &mut Report) {
        match section {
            Section::Unknown => {
                let known = ["pgbouncer", "databases", "users", "applications", "peers"];
                let advice = match did_you_mean(name, known.into_iter()) {
                    advice if advice.is_empty() => format!("the sections are {}", known.join(", ")),
                    advice => advice,
                };
                report.fault(place, format!("invalid section \"{name}\" in configuration"), advice);
            }
            Section::Pgbouncer if self.settings.restart() => {
                let advice = "settings above it are back at their defaults; keep them in one section";
                report.warn(place, "section [pgbouncer] starts again", advice);
            }
            _ => {}
        }
    }

    fn entry(&mut self, section: Section, key: String, value: String, place: Place, report: &mut Report) {
        match section {
            Section::Databases => self.databases.push((key, value, place)),
            Section::Users => self.users.push((key, value, place)),
            Section::Applications => self.applications.push((key, value, place)),
            Section::Peers => self.peers.push((key, value, place)),
            Section::None => report.fault(
                &place,
                format!("value without section: {key}"),
                "put it below [pgbouncer], [databases], [users] or [peers]",
            ),
            Section::Pgbouncer | Section::Unknown => {}
        }
    }

    fn setting(&mut self, name: &str, value: &str, place: &Place, read_file: ReadFile, report: &mut Report) {
        if let Some(first) = self.settings.place(name) {
            let advice = format!("it takes the place of the value in {first}");
            report.warn(place, format!("{name} is set again"), advice);
        }
        let is_secret = Setting::find(name).is_some_and(|setting| setting.kind == Kind::Secret);
        let resolved = match is_secret {
            true => secret::resolve(name, value, place, read_file, report).map(Cow::Owned),
            false => Some(Cow::Borrowed(value)),
        };
        let Some(resolved) = resolved else { return };
        match self.settings.set(name, &resolved, Some(place)) {
            Ok(()) => note_no_effect(name, &self.settings, place, report),
            Err(SetError::Unknown) => {
                let advice = did_you_mean(name, SETTINGS.iter().map(|setting| setting.name));
                report.fault(place, format!("unknown parameter: pgbouncer/{name}"), advice);
            }
            Err(SetError::Invalid { expected }) => {
                let message = format!("invalid value \"{value}\" for parameter {name} in configuration");
                report.fault(place, message, format!("expected {expected}"));
            }
            Err(SetError::NotImplemented { implemented }) => {
                let message = format!("{name} = {value} is not implemented in this version");
                report.fault(place, message, advice_not_implemented(name, implemented));
            }
        }
        let decimal_mode = name == "unix_socket_mode" && value.starts_with(|c| matches!(c, '1'..='9'));
        if decimal_mode {
            let message = format!("unix_socket_mode = {value} is read as a decimal number");
            report.warn(place, message, format!("permissions are octal with a leading 0, such as 0{value}"));
        }
    }

    /// Builds the effective configuration. Where the report holds faults it may be incomplete.
    fn resolve(self, path: &Path, read_file: ReadFile, report: &mut Report) -> Loaded {
        let settings = self.settings;
        let whole_file = Place { file: path.into(), line: None };
        let client_tls = tls::clients(&settings, &whole_file, read_file, report);
        let (server_words, server_tls) = tls::servers(&settings, &whole_file, read_file, report);
        let unix_socket_dir = settings.text_if_any("unix_socket_dir");
        let mut named = BTreeMap::new();
        let mut fallback = None;
        for (name, value, place) in &self.databases {
            let parsed = databases::parse(name, value, unix_socket_dir, place, read_file, report);
            let Some(mut database) = parsed else {
                continue;
            };
            tls::of_database(&mut database, &server_words, read_file, place, report);
            let whose = format!("database {name}");
            tls::check_demand(database.client_tls, &whose, &settings, place, report);
            let database = Arc::new(database);
            check_database(&database, &settings, place, report);
            routing::check_database(&database, &settings, place, report);
            let earlier = match name.as_str() {
                "*" => fallback.replace(database),
                _ => named.insert(name.clone(), database),
            };
            note_twice(earlier.is_some(), "database", name, place, report);
        }
        let mut by_name = HashMap::new();
        for (name, value, place) in &self.users {
            let Some(user) = users::parse(name, value, place, report) else { continue };
            tls::check_demand(user.client_tls, &format!("user {name}"), &settings, place, report);
            let earlier = by_name.insert(name.clone(), user);
            note_twice(earlier.is_some(), "user", name, place, report);
        }
        let applications = self.applications.iter();
        let applications = applications
            .filter_map(|(pattern, value, place)| limits::parse(pattern, value, place, report))
            .collect();
        let mut by_id = BTreeMap::new();
        let pool_size = NonZeroUsize::new(settings.count("default_pool_size"));
        for (name, value, place) in &self.peers {
            let Some((id, peer)) = peers::parse(name, value, pool_size, place, report) else { continue };
            let earlier = by_id.insert(id, peer);
            note_twice(earlier.is_some(), "peer", name, place, report);
        }
        if let Some((_, _, place)) = self.peers.first().filter(|_| settings.int("peer_id") == 0) {
            let advice = "no cancel request is passed on; set it to this process's own number";
            report.warn(place, "there are peers, but peer_id is 0", advice);
        }
        let userlist = userlist(&settings, &whole_file, read_file, report);
        let hba = hba(&settings, &whole_file, read_file, report);
        check_settings(&settings, &whole_file, report);
        let keys = ["client_tls_key_file", "server_tls_key_file"].map(|name| settings.text_if_any(name));
        report.secrets.extend(keys.into_iter().flatten().map(|file| Path::new(file).into()));
        let mut config =
            effective::config(&settings, (userlist, hba), (named, fallback), by_name, applications, by_id);
        config.auth.ldap = ldap_options(&settings, &whole_file, report);
        Loaded {
            config: Config { client_tls, server_tls: server_tls.into(), ..config },
            program: effective::program(&settings, path),
            settings,
            warnings: Vec::new(),
            unusable_tls: Vec::new(),
            changes: Vec::new(),
            draft: Draft::default(),
        }
    }
}

fn advice_not_implemented(name: &str, implemented: &[&str]) -> String {
    match implemented {
        [""] => format!("leave {name} out"),
        [only] => format!("leave {name} out, or set it to {only}"),
        values => format!("it can be one of {}", values.join(", ")),
    }
}

fn note_no_effect(name: &str, settings: &Values, place: &Place, report: &mut Report) {
    if let Some(setting) = Setting::find(name)
        && let Status::Harmless(why) = setting.status
        && !settings.is_default(setting)
    {
        report.warn(place, format!("{name} has no effect in this version"), why.replace('`', ""));
    }
}

fn note_twice(twice: bool, what: &str, name: &str, place: &Place, report: &mut Report) {
    if twice {
        report.warn(
            place,
            format!("{what} {name} is given again"),
            "this line takes the place of the one above",
        );
    }
}

/// The users of `auth_file`. PgBouncer starts without the file, and so does this.
fn userlist(settings: &Values, whole_file: &Place, read_file: ReadFile, report: &mut Report) -> Userlist {
    let Some(file) = settings.text_if_any("auth_file").map(Path::new) else {
        let elsewhere = matches!(settings.text("auth_type"), "any" | "ldap" | "pam");
        if !elsewhere && settings.text("auth_user").is_empty() {
            report.warn(
                whole_file,
                "auth_file is not set",
                "without it no user is known and nobody can log in",
            );
        }
        return Userlist::default();
    };
    match read_file(file) {
        Ok(bytes) => {
            let users = userlist::parse(file, &Zeroizing::new(bytes), report);
            if !users.0.is_empty() {
                report.secrets.insert(file.into());
            }
            users
        }
        Err(error) => {
            let message = format!("could not open auth_file {}: {}", file.display(), ini::reason(&error));
            let place = settings.place("auth_file").unwrap_or(whole_file);
            report.warn(place, message, "no user is known until it is there and the configuration reloaded");
            Userlist::default()
        }
    }
}

/// The rules of `auth_hba_file`, with the maps of `auth_ident_file`; both count with `auth_type = hba` only. PgBouncer
/// starts without the file and lets nobody in.
fn hba(settings: &Values, whole_file: &Place, read_file: ReadFile, report: &mut Report) -> Hba {
    if settings.text("auth_type") != "hba" {
        return Hba::default();
    }
    let files = hba::Files::read_by(read_file);
    let maps = match settings.text_if_any("auth_ident_file") {
        Some(file) => collect(hba::read_maps(Path::new(file), files), report),
        None => Vec::new(),
    };
    let Some(file) = settings.text_if_any("auth_hba_file") else {
        let place = settings.place("auth_type").unwrap_or(whole_file);
        report.fault(
            place,
            "auth_hba_file is not set",
            "auth_type = hba needs the rules; nobody could log in",
        );
        return Hba::default();
    };
    let rules = collect(hba::read_rules(Path::new(file), files, &maps), report);
    Hba(rules.into_iter().map(Arc::new).collect())
}

fn collect<T>(parsed: hba::Parsed<T>, report: &mut Report) -> Vec<T> {
    report.faults.extend(parsed.faults);
    report.warnings.extend(parsed.warnings);
    parsed.entries
}

/// What `auth_type = ldap` needs. Where it is not that, bad options do no harm.
fn ldap_options(settings: &Values, whole_file: &Place, report: &mut Report) -> Option<Arc<LdapOptions>> {
    let is_used = settings.text("auth_type") == "ldap";
    let Some(text) = settings.text_if_any("auth_ldap_options") else {
        if is_used {
            let place = settings.place("auth_type").unwrap_or(whole_file);
            report.warn(
                place,
                "auth_ldap_options is null",
                "every login will fail; say where the LDAP server is",
            );
        }
        return None;
    };
    let place = settings.place("auth_ldap_options").unwrap_or(whole_file);
    match ldap::parse(text) {
        Ok(options) => Some(Arc::new(options)),
        Err(faults) => {
            for fault in faults.0 {
                let message = format!("auth_ldap_options: {fault}");
                match is_used {
                    true => report.fault(place, message, ""),
                    false => report.warn(place, message, "they are used with auth_type = ldap"),
                }
            }
            None
        }
    }
}

fn check_database(database: &Database, settings: &Values, place: &Place, report: &mut Report) {
    if settings.text("auth_type") == "any" && database.user.is_none() {
        let message = format!("auth_type=any requires forced user: {}", database.name);
        report.warn(place, message, "logins to this database will fail; add user= to it");
    }
    if let Some(dbname) = database.auth_dbname.as_deref().filter(|name| databases::CONSOLE.contains(name)) {
        let message = format!("cannot use the reserved \"{dbname}\" database as an auth_dbname");
        report.warn(
            place,
            message,
            format!("database {}: logins that need auth_query will fail", database.name),
        );
    }
    let strangers =
        database.name == "*" && database.auth_dbname.is_none() && settings.text("auth_dbname").is_empty();
    if strangers && (database.auth_user.is_some() || !settings.text("auth_user").is_empty()) {
        let advice = "whatever database a stranger names is connected to for auth_query; name one for it";
        report.warn(place, "auth_user with the database * and without auth_dbname", advice);
    }
    let overridden = database.pool_size.is_some() || database.min_pool_size.is_some();
    let size = database.pool_size.unwrap_or_else(|| NonZeroUsize::new(settings.count("default_pool_size")));
    let min = database.min_pool_size.unwrap_or_else(|| settings.count("min_pool_size"));
    if let Some(size) = size
        && overridden
        && min > size.get()
    {
        let message = format!("min_pool_size of database {} is above its pool_size", database.name);
        report.warn(place, message, format!("no more than {size} connections will be kept"));
    }
}

/// Rules between settings.
fn check_settings(settings: &Values, whole_file: &Place, report: &mut Report) {
    if settings.text("auth_type") == "pam" && !pooler::HAS_PAM {
        let place = settings.place("auth_type").unwrap_or(whole_file);
        let advice = "build it with `cargo build --release --features pam`, which needs libpam0g-dev";
        report.fault(place, "auth_type = pam: pam is not supported by this build", advice);
    }
    check_http(settings, whole_file, report);
    check_auth_query(settings, whole_file, report);
    routing::check(settings, whole_file, report);
    if settings.list("listen_addr").is_empty() && settings.text("unix_socket_dir").is_empty() {
        report.fault(whole_file, "nowhere to listen on", "set listen_addr or unix_socket_dir");
    }
    if settings.text("auth_type") == "cert" && settings.text("client_tls_sslmode") != "verify-full" {
        let place = settings.place("auth_type").unwrap_or(whole_file);
        let advice = "nobody could log in; set it, and client_tls_ca_file";
        report.fault(place, "auth_type=cert requires client_tls_sslmode=verify-full", advice);
    }
    let (min, size) = (settings.int("min_pool_size"), settings.int("default_pool_size"));
    if size > 0 && min > size {
        let place = settings.place("min_pool_size").unwrap_or(whole_file);
        let advice = format!("no more than {size} connections will be kept");
        report.warn(place, "min_pool_size is above default_pool_size", advice);
    }
}

/// The longest that answers of `auth_query` may count without a warning.
const LONGEST_TTL: Duration = Duration::from_secs(10);

fn check_auth_query(settings: &Values, whole_file: &Place, report: &mut Report) {
    let place = |name| settings.place(name).unwrap_or(whole_file);
    let dbname = settings.text("auth_dbname");
    if databases::CONSOLE.contains(&dbname) {
        let message = format!("cannot use the reserved \"{dbname}\" database as an auth_dbname");
        report.fault(place("auth_dbname"), message, "name one in which auth_query can run");
    }
    if settings.time("auth_query_cache_ttl") > LONGEST_TTL {
        let advice = "a password that was replaced or revoked is taken so long";
        report.warn(place("auth_query_cache_ttl"), "auth_query_cache_ttl is above 10 seconds", advice);
    }
}

fn check_http(settings: &Values, whole_file: &Place, report: &mut Report) {
    let place = settings.place("http_listen").unwrap_or(whole_file);
    let listen = settings.list("http_listen");
    for address in &listen {
        let parts = address.rsplit_once(':');
        if parts.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            let advice = "expected ADDRESS:PORT, such as 127.0.0.1:9127, [::1]:9127 or *:9127";
            report.fault(place, format!("invalid address \"{address}\" in http_listen"), advice);
        }
    }
    let token = settings.text("http_admin_token");
    let place = settings.place("http_admin_token").unwrap_or(whole_file);
    if !token.is_empty() && token.len() < SHORTEST_TOKEN {
        let advice = "take a random one, such as `openssl rand -hex 16` prints";
        report.warn(place, "http_admin_token is easy to guess", advice);
    }
    let local = |address: &String| ["127.", "[::1]", "localhost:"].iter().any(|own| address.starts_with(own));
    if !token.is_empty() && !listen.iter().all(local) {
        let advice = "there is no TLS: let only a proxy on this machine, or a trusted network, reach it";
        report.warn(place, "http_admin_token is sent in the clear to an address of http_listen", advice);
    }
}

/// A shorter token, in bytes, can be found by trying.
const SHORTEST_TOKEN: usize = 16;

#[cfg(test)]
mod tests;
