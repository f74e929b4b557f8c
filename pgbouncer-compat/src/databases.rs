//! `[databases]`: what a client-side name connects to.

use std::path::PathBuf;

use pooler::config::{
    ChannelBinding, Database, DatabaseTls, Host, LoadBalance, OwnRouting, OwnTimeLimits, Secret,
};

use crate::connstr;
use crate::finding::{Place, Report, did_you_mean};
use crate::ini::ReadFile;
use crate::limits;
use crate::routing::{self, Wrong};
use crate::secret;
use crate::tls;
use crate::users;
use crate::value::{self, Unit};

/// The names that mean the console.
pub(crate) const CONSOLE: [&str; 2] = ["pgbouncer", "pgferry"];

/// One key of a connection string.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What its value looks like, for the reference.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
    set: Set,
}

/// How a key changes the entry.
#[derive(Clone, Copy)]
enum Set {
    /// Or what is wrong with the value, as a phrase to follow "expected".
    Value(fn(&mut Database, &str) -> Result<(), &'static str>),
    /// Or everything in it that is wrong.
    List(fn(&mut Database, &str) -> Result<(), Vec<Wrong>>),
    /// A secret, which may refer to where it stands.
    Secret(fn(&mut Database, Secret)),
    /// The file that holds a secret.
    SecretFile(fn(&mut Database, Secret)),
}

/// Every key but those that [users and applications](limits::OWN) have as well.
pub(crate) fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(routing::KEYS)
}

/// In PgBouncer's order.
const KEYS: &[Key] = &[
    key("dbname", "text", "Name on the server; without it, the name the client uses.", |db, v| {
        db.dbname = Some(v.to_owned());
        Ok(())
    }),
    key(
        "host",
        "name, address, `/directory`, `@abstract`; or a list of them separated by commas, without blanks",
        "Where the server is; without it, the Unix socket in `unix_socket_dir`.",
        |db, v| {
            db.host_text = Some(v.to_owned());
            db.hosts = hosts(v)?;
            Ok(())
        },
    ),
    key(
        "port",
        "number",
        "Port of the server, and the number in its Unix socket's name; without it, 5432.",
        |db, v| {
            db.port = port(v)?;
            Ok(())
        },
    ),
    key(
        "user",
        "text",
        "Log in to the server as this user, whoever the client is: one pool for all.",
        |db, v| {
            db.user = Some(v.to_owned());
            Ok(())
        },
    ),
    Key {
        name: "password",
        value: "text, `%{VARIABLE}`, `%{file:PATH}`",
        help: "Password of `user`; without it, that user's secret in `auth_file`. See [secrets](authentication.md#secrets).",
        set: Set::Secret(|db, secret| db.password = Some(secret)),
    },
    Key {
        name: "password_file",
        value: "path",
        help: "File that holds the password of `user` and nothing else; read again at `RELOAD`. Not PgBouncer's.",
        set: Set::SecretFile(|db, secret| db.password = Some(secret)),
    },
    key("auth_user", "text", "User who runs `auth_query` for clients of this database.", |db, v| {
        db.auth_user = Some(v.to_owned());
        Ok(())
    }),
    key("auth_query", "SQL", "As the setting of that name; in single quotes.", |db, v| {
        db.auth_query = Some(v.to_owned());
        Ok(())
    }),
    key("auth_dbname", "text", "As the setting of that name.", |db, v| {
        db.auth_dbname = Some(v.to_owned());
        Ok(())
    }),
    key("pool_size", "number", "As `default_pool_size`; negative: inherited.", |db, v| {
        db.pool_size = users::pool_size(v)?;
        Ok(())
    }),
    key("min_pool_size", "number", "As the setting of that name; negative: inherited.", |db, v| {
        db.min_pool_size = users::size(v)?;
        Ok(())
    }),
    key("reserve_pool_size", "number", "As the setting of that name; negative: inherited.", |db, v| {
        db.reserve_pool_size = users::size(v)?;
        Ok(())
    }),
    key("reserve_pool", "number", "Old name of `reserve_pool_size`.", |db, v| {
        db.reserve_pool_size = users::size(v)?;
        Ok(())
    }),
    key("pool_mode", "`session`, `transaction`, `statement`", "As the setting of that name.", |db, v| {
        db.pool_mode = Some(users::pool_mode(v)?);
        Ok(())
    }),
    key(
        "session_state",
        "`preserve`, `discard`",
        "As the setting of that name. Not PgBouncer's.",
        |db, v| {
            db.session_state = Some(users::session_state(v)?);
            Ok(())
        },
    ),
    key("audit_sample", "percent", "As the setting of that name. Not PgBouncer's.", |db, v| {
        db.audit_sample = Some(users::share(v)?);
        Ok(())
    }),
    key(
        "max_pins_per_pool",
        "number",
        "As the setting of that name; 0: no limit; negative: inherited. Not PgBouncer's.",
        |db, v| {
            db.max_pins = users::pool_size(v)?;
            Ok(())
        },
    ),
    key(
        "max_waiting_clients",
        "number",
        "As the setting of that name; 0: no limit; negative: inherited. Not PgBouncer's.",
        |db, v| {
            db.max_waiting = users::pool_size(v)?;
            Ok(())
        },
    ),
    key("query_wait_timeout", "seconds", "As the setting of that name; 0 or less: no limit.", |db, v| {
        db.query_wait_timeout = Some(users::time_limit(v)?);
        Ok(())
    }),
    key(
        "load_balance_hosts",
        "`round-robin`, `disable`",
        "Which host of a list a new connection uses: each in turn, or the same until a connect fails.",
        |db, v| {
            db.load_balance = match v.to_ascii_lowercase().as_str() {
                "round-robin" => LoadBalance::RoundRobin,
                "disable" => LoadBalance::Disable,
                _ => return Err("round-robin or disable"),
            };
            Ok(())
        },
    ),
    key("max_db_connections", "number", "As the setting of that name; 0 or less: inherited.", |db, v| {
        db.max_connections = users::limit(v)?;
        Ok(())
    }),
    key(
        "max_db_client_connections",
        "number",
        "As the setting of that name; 0 or less: inherited.",
        |db, v| {
            db.max_client_connections = users::limit(v)?;
            Ok(())
        },
    ),
    key("server_lifetime", "seconds", "As the setting of that name; 0 or less: inherited.", |db, v| {
        db.server_lifetime = users::time_limit(v)?;
        Ok(())
    }),
    key("connect_query", "SQL", "Run once on every new server connection.", |db, v| {
        db.connect_query = Some(v.to_owned());
        Ok(())
    }),
    key(
        "server_channel_binding",
        "`disable`, `prefer`, `require`",
        "As the setting of that name. Not PgBouncer's.",
        |db, v| {
            let rule = channel_binding(&v.to_ascii_lowercase()).ok_or("disable, prefer or require")?;
            db.channel_binding = Some(rule);
            Ok(())
        },
    ),
    key(
        "client_tls_sslmode",
        MODES,
        "What clients of this database need at least, over TCP. Not PgBouncer's.",
        |db, v| {
            db.client_tls = Some(tls::mode(v)?);
            Ok(())
        },
    ),
    key("server_tls_sslmode", MODES, OWN_TLS, |db, v| {
        db.server_tls.mode = Some(tls::mode(v)?);
        Ok(())
    }),
    key("server_tls_negotiation", "`postgres`, `direct`", OWN_TLS, |db, v| {
        db.server_tls.negotiation = Some(tls::negotiation(v)?);
        Ok(())
    }),
    key("server_tls_ca_file", "file", OWN_TLS, |db, v| {
        db.server_tls.ca_file = Some(v.to_owned());
        Ok(())
    }),
    key("server_tls_cert_file", "file", OWN_TLS, |db, v| {
        db.server_tls.cert_file = Some(v.to_owned());
        Ok(())
    }),
    key("server_tls_key_file", "file", OWN_TLS, |db, v| {
        db.server_tls.key_file = Some(v.to_owned());
        Ok(())
    }),
    key("client_encoding", "text", STARTUP, |db, v| startup(db, "client_encoding", v)),
    key("datestyle", "text", STARTUP, |db, v| startup(db, "datestyle", v)),
    key("timezone", "text", STARTUP, |db, v| startup(db, "timezone", v)),
    key("application_name", "text", STARTUP, |db, v| startup(db, "application_name", v)),
];

const STARTUP: &str = "Given to the server at login.";
const OWN_TLS: &str = "As the setting of that name. Not PgBouncer's.";
const MODES: &str = "`disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`";

pub(crate) const fn key(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Database, &str) -> Result<(), &'static str>,
) -> Key {
    Key { name, value, help, set: Set::Value(set) }
}

pub(crate) const fn list_key(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Database, &str) -> Result<(), Vec<Wrong>>,
) -> Key {
    Key { name, value, help, set: Set::List(set) }
}

/// Reads one entry. `unix_socket_dir` is where a server without `host` is; `None` if there is no such directory.
pub(crate) fn parse(
    name: &str,
    text: &str,
    unix_socket_dir: Option<&str>,
    place: &Place,
    read_file: ReadFile,
    report: &mut Report,
) -> Option<Database> {
    if CONSOLE.contains(&name) {
        let advice = "clients that ask for it get the console; choose another name";
        report.fault(place, format!("database name \"{name}\" is reserved"), advice);
        return None;
    }
    if name.len() > MAX_NAME {
        report.fault(place, format!("too long db name: {name}"), format!("at most {MAX_NAME} bytes"));
    }
    let mut pairs = match connstr::pairs(text) {
        Ok(pairs) => pairs,
        Err(advice) => {
            report.fault(place, "syntax error in connection string", format!("database {name}: {advice}"));
            return None;
        }
    };
    let mut database = empty(name);
    let has = |name: &str| pairs.iter().any(|(key, _)| *key == name);
    if has("password") && has("password_file") {
        let message = format!("database {name} has both password and password_file");
        report.fault(place, message, "leave one of them out");
    }
    pairs.sort_by_key(|(key, _)| *key == routing::REPLICAS);
    for (key, value) in &pairs {
        set(&mut database, key, value, place, read_file, report);
    }
    if database.host_text.is_none() {
        match unix_socket_dir {
            Some(dir) => database.hosts.push(Host::Unix(dir.into())),
            None => report.fault(
                place,
                format!("unix socket dir not configured: {name}"),
                "name a host, or set unix_socket_dir",
            ),
        }
    }
    if database.password.is_some() && database.user.is_none() {
        report.warn(
            place,
            format!("the password of database {name} is not used"),
            "it counts only with user=",
        );
    }
    database.startup.sort_by_key(|(key, _)| STARTUP_ORDER.iter().position(|name| name == key));
    Some(database)
}

/// PostgreSQL's own limit for names.
const MAX_NAME: usize = 63;
const STARTUP_ORDER: [&str; 4] = ["client_encoding", "datestyle", "timezone", "application_name"];

fn set(
    database: &mut Database,
    key: &str,
    value: &str,
    place: &Place,
    read_file: ReadFile,
    report: &mut Report,
) {
    let name = database.name.clone();
    let own = limits::OWN.iter().find(|row| row.name == key);
    let wrong = |item: &str, expected: &'static str| Wrong { item: item.to_owned(), expected };
    let set = match (own, keys().find(|row| row.name == key).map(|row| row.set)) {
        (Some(own), _) => {
            (own.set)(&mut database.times, value).map_err(|expected| vec![wrong(value, expected)])
        }
        (None, Some(Set::Value(set))) => {
            set(database, value).map_err(|expected| vec![wrong(value, expected)])
        }
        (None, Some(Set::List(set))) => set(database, value),
        (None, Some(Set::Secret(set))) => {
            let named = format!("{key} of database {name}");
            let secret = secret::resolve(&named, value, place, read_file, report);
            secret.into_iter().for_each(|text| set(database, Secret::new(text)));
            return;
        }
        (None, Some(Set::SecretFile(set))) => {
            let named = format!("{key} of database {name}");
            let secret = secret::from_file(&named, value, place, read_file, report);
            secret.into_iter().for_each(|text| set(database, Secret::new(text)));
            return;
        }
        (None, None) => {
            let message = format!("unrecognized connection parameter: {key}");
            return report.fault(place, message, did_you_mean(key, names()));
        }
    };
    for Wrong { item, expected } in set.err().into_iter().flatten() {
        let message = format!("invalid {}: {item}", users::label(key));
        report.fault(place, message, format!("database {name}: expected {expected}"));
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    keys().map(|row| row.name).chain(limits::OWN.iter().map(|row| row.name))
}

fn empty(name: &str) -> Database {
    Database {
        name: name.to_owned(),
        dbname: None,
        hosts: Vec::new(),
        host_text: None,
        port: 5432,
        replicas: Vec::new(),
        patroni: None,
        routing: OwnRouting::default(),
        user: None,
        password: None,
        auth_user: None,
        auth_query: None,
        auth_dbname: None,
        pool_size: None,
        min_pool_size: None,
        reserve_pool_size: None,
        pool_mode: None,
        session_state: None,
        audit_sample: None,
        max_pins: None,
        max_waiting: None,
        max_connections: None,
        max_client_connections: None,
        server_lifetime: None,
        query_wait_timeout: None,
        times: OwnTimeLimits::default(),
        load_balance: LoadBalance::RoundRobin,
        connect_query: None,
        channel_binding: None,
        client_tls: None,
        server_tls: DatabaseTls::default(),
        startup: Vec::new(),
    }
}

pub(crate) fn port(text: &str) -> Result<u16, &'static str> {
    value::integer(text, Unit::None)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .ok_or("a number from 1 to 65535")
}

pub(crate) fn hosts(list: &str) -> Result<Vec<Host>, &'static str> {
    list.split(',')
        .map(|host| match host.as_bytes().first() {
            None => Err("host names separated by single commas"),
            Some(b'/' | b'@') => Ok(Host::Unix(PathBuf::from(host))),
            Some(_) if host.contains([' ', '\t']) => Err("host names without blanks"),
            Some(_) => Ok(Host::Tcp(host.to_owned())),
        })
        .collect()
}

pub(crate) fn channel_binding(word: &str) -> Option<ChannelBinding> {
    match word {
        "disable" => Some(ChannelBinding::Disable),
        "prefer" => Some(ChannelBinding::Prefer),
        "require" => Some(ChannelBinding::Require),
        _ => None,
    }
}

fn startup(database: &mut Database, key: &'static str, value: &str) -> Result<(), &'static str> {
    database.startup.retain(|(set, _)| *set != key);
    database.startup.push((key, value.to_owned()));
    Ok(())
}
