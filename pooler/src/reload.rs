//! What a reload changes, as data: [`plan`] compares two configurations, `Control::reload` does what it says and nothing
//! else, and the log and the console show it.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};
use std::time::Duration;

use crate::config::{
    Application, Config, Database, DatabaseTls, Host, LoadBalance, OnTimeout, OwnRouting, OwnTimeLimits,
    PeerInstance, SessionState, Share, User,
};
use crate::pool::Pool;

/// What a change does, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It counts from now on.
    Now,
    /// It counts from the next login on.
    NextLogin,
    /// It counts from the next start on.
    NextStart,
    /// Server connections are closed as soon as they are free, and opened anew.
    Renewed,
    /// Clients of it are disconnected, its servers closed.
    Removed,
}

impl Effect {
    /// For the log and the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Now => "now",
            Effect::NextLogin => "next login",
            Effect::NextStart => "next start",
            Effect::Renewed => "servers renewed",
            Effect::Removed => "clients disconnected",
        }
    }
}

/// One difference. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `setting`, `database`, `user`, `application`, `peer` or `secret`.
    pub kind: &'static str,
    /// Of what.
    pub name: String,
    /// Which part of it; empty where all of it comes, goes or is one value.
    pub key: &'static str,
    /// The value so far; `None`: there is none.
    pub old: Option<String>,
    /// The value from then on; `None`: there is none.
    pub new: Option<String>,
    /// What follows.
    pub effect: Effect,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.key.is_empty() { "" } else { "." };
        let value = |value: &Option<String>| value.as_deref().unwrap_or("(none)").to_owned();
        write!(
            f,
            "{} {}{dot}{}: {} -> {} ({})",
            self.kind,
            self.name,
            self.key,
            value(&self.old),
            value(&self.new),
            self.effect.as_str()
        )
    }
}

/// Every difference between two configurations but those of single settings, which have no names here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Change>);

impl Plan {
    /// The gravest thing that happens to a database.
    pub(crate) fn effect_on(&self, database: &str) -> Option<Effect> {
        let changes = self.0.iter().filter(|change| change.kind == "database" && change.name == database);
        changes.map(|change| change.effect).max_by_key(|effect| *effect as u8)
    }

    /// The secret with which a pool logs in is another one.
    pub(crate) fn changes_secret(&self, pool: &Pool) -> bool {
        self.0.iter().any(|change| match (change.kind, change.key) {
            ("secret", _) => change.name == pool.user.name,
            ("database", "password") => change.name == pool.db.name || change.name == "*",
            _ => false,
        })
    }

    /// Notes the differences between two values of something.
    fn compare(&mut self, kind: &'static str, name: &str, [old, new]: [Option<Parts>; 2], effect: Effect) {
        let note = |key, old, new, effect| Change { kind, name: name.to_owned(), key, old, new, effect };
        match (old, new) {
            (Some(old), Some(new)) => {
                for ((key, old, kind), (_, new, _)) in old.into_iter().zip(new) {
                    if old != new {
                        let effect = if kind.is_of_server() { Effect::Renewed } else { effect };
                        // What is secret differs, and is shown as neither.
                        let hide = |value: Option<String>| match kind {
                            Part::Secret => value.map(|_| SECRET.to_owned()),
                            _ => value,
                        };
                        self.0.push(note(key, hide(old), hide(new), effect));
                    }
                }
            }
            (old @ Some(_), None) if kind == "database" => {
                self.0.push(note("", old.map(whole), None, Effect::Removed));
            }
            (None, None) => {}
            (old, new) => self.0.push(note("", old.map(whole), new.map(whole), effect)),
        }
    }
}

const SECRET: &str = "(secret)";

/// What a change of a value means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Plain,
    /// Servers are other ones with another value.
    Server,
    /// As well, and no line of the file says it alone: global settings do, and the content of files.
    Derived,
    Secret,
}

impl Part {
    fn is_of_server(self) -> bool {
        matches!(self, Part::Server | Part::Derived)
    }
}

/// Everything that something is made of: key, value if it has one, meaning.
type Parts = Vec<(&'static str, Option<String>, Part)>;

/// As the file has it, without secrets.
fn whole(parts: Parts) -> String {
    let given = parts.into_iter().filter_map(|(key, value, part)| match part {
        Part::Secret => value.map(|_| format!("{key}={SECRET}")),
        Part::Derived => None,
        _ => value.map(|value| format!("{key}={value}")),
    });
    given.collect::<Vec<_>>().join(" ")
}

/// Everything that a reload of `new` changes where `old` is in effect.
pub fn plan(old: &Config, new: &Config) -> Plan {
    let mut plan = Plan::default();
    for name in names(old.databases.keys(), new.databases.keys()) {
        // A name that is not listed is one of those that `*` stands for.
        let of = |config: &Config| {
            config.databases.get(name).or(config.fallback.as_ref()).map(|d| database(config, d))
        };
        plan.compare("database", name, [of(old), of(new)], Effect::Now);
    }
    let fallback = |config: &Config| config.fallback.as_deref().map(|d| database(config, d));
    plan.compare("database", "*", [fallback(old), fallback(new)], Effect::Now);
    for name in names(old.users.keys(), new.users.keys()) {
        let of = |config: &Config| config.users.get(name).map(user);
        plan.compare("user", name, [of(old), of(new)], Effect::Now);
    }
    applications(&mut plan, &old.applications, &new.applications);
    for id in names(old.peers.keys(), new.peers.keys()) {
        let of = |config: &Config| config.peers.get(id).map(peer);
        plan.compare("peer", &id.to_string(), [of(old), of(new)], Effect::Now);
    }
    for name in names(old.auth.userlist.0.keys(), new.auth.userlist.0.keys()) {
        let [old, new] = [old, new].map(|config| config.auth.userlist.0.get(name));
        if old != new {
            let [old, new] = [old, new].map(|secret| secret.map(|_| SECRET.to_owned()));
            let effect = Effect::NextLogin;
            plan.0.push(Change { kind: "secret", name: name.clone(), key: "", old, new, effect });
        }
    }
    plan
}

fn names<'a, K: Ord + 'a>(
    old: impl Iterator<Item = &'a K>,
    new: impl Iterator<Item = &'a K>,
) -> BTreeSet<&'a K> {
    old.chain(new).collect()
}

/// The first that matches counts, so their order matters.
fn applications(plan: &mut Plan, old: &[Application], new: &[Application]) {
    let before = plan.0.len();
    let patterns = |list: &[Application]| list.iter().map(|a| a.pattern.clone()).collect::<Vec<_>>();
    let (old_order, new_order) = (patterns(old), patterns(new));
    for pattern in names(old_order.iter(), new_order.iter()) {
        let of = |list: &[Application]| list.iter().find(|a| a.pattern == *pattern).map(|a| times(&a.times));
        plan.compare("application", pattern, [of(old), of(new)], Effect::Now);
    }
    if plan.0.len() == before && old_order != new_order {
        let [old, new] = [old_order, new_order].map(|order| Some(order.join(", ")));
        let name = String::new();
        plan.0.push(Change { kind: "application", name, key: "order", old, new, effect: Effect::Now });
    }
}

// All fields are named in each of these, so that none is forgotten.

fn database(config: &Config, database: &Database) -> Parts {
    let Database {
        name: _,
        dbname,
        hosts,
        host_text,
        port,
        replicas,
        patroni,
        routing: own_routing,
        user,
        password,
        auth_user,
        auth_query,
        auth_dbname,
        pool_size,
        min_pool_size,
        reserve_pool_size,
        pool_mode,
        session_state,
        audit_sample,
        max_pins,
        max_waiting,
        max_connections,
        max_client_connections,
        server_lifetime,
        query_wait_timeout,
        times: own,
        load_balance,
        connect_query,
        channel_binding,
        startup,
        client_tls,
        server_tls: DatabaseTls { mode, negotiation, ca_file, cert_file, key_file, tls: _ },
    } = database;
    use Part::{Derived, Plain, Secret, Server};
    let balance = match load_balance {
        LoadBalance::RoundRobin => None,
        LoadBalance::Disable => Some("disable".to_owned()),
    };
    let over_tcp = hosts.iter().any(|host| matches!(host, Host::Tcp(_)));
    let startup: Vec<String> = startup.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut parts = vec![
        ("host", host_text.clone().or_else(|| Some(format!("{hosts:?}"))), Server),
        ("port", Some(port.to_string()), Server),
        ("dbname", dbname.clone(), Server),
        ("user", user.clone(), Server),
        ("password", password.as_ref().map(|password| password.reveal().to_owned()), Secret),
        ("connect_query", connect_query.clone(), Server),
        ("server_channel_binding", channel_binding.map(|rule| format!("{rule:?}").to_lowercase()), Server),
        ("load_balance_hosts", balance, Server),
        ("startup", (!startup.is_empty()).then(|| startup.join(", ")), Server),
        ("auth_user", auth_user.clone(), Plain),
        ("auth_query", auth_query.clone(), Plain),
        ("auth_dbname", auth_dbname.clone(), Plain),
        ("server_tls_sslmode", mode.map(|mode| mode.as_str().to_owned()), Server),
        ("server_tls_negotiation", negotiation.map(|negotiation| negotiation.as_str().to_owned()), Server),
        ("server_tls_ca_file", ca_file.clone(), Server),
        ("server_tls_cert_file", cert_file.clone(), Server),
        ("server_tls_key_file", key_file.clone(), Server),
        ("server_tls", over_tcp.then(|| config.server_tls(database).digest()), Derived),
        ("client_tls_sslmode", client_tls.map(|mode| mode.as_str().to_owned()), Plain),
        ("pool_size", limit(pool_size), Plain),
        ("min_pool_size", shown(min_pool_size), Plain),
        ("reserve_pool_size", shown(reserve_pool_size), Plain),
        ("pool_mode", pool_mode.map(|mode| mode.as_str().to_owned()), Plain),
        ("session_state", session_state.map(state), Plain),
        ("audit_sample", audit_sample.map(percent), Plain),
        ("max_pins_per_pool", limit(max_pins), Plain),
        ("max_waiting_clients", limit(max_waiting), Plain),
        ("max_db_connections", shown(max_connections), Plain),
        ("max_db_client_connections", shown(max_client_connections), Plain),
        ("server_lifetime", server_lifetime.map(seconds), Plain),
        ("query_wait_timeout", query_wait_timeout.map(time), Plain),
        // One host more or less leaves the servers at the others as they are; but where no host was looked at, or none is
        // any more, they may be anywhere.
        ("replicas", (!replicas.is_empty()).then(|| listed(replicas)), Plain),
        ("observed", database.is_observed(&config.routing).then(|| "1".to_owned()), Derived),
        ("patroni", patroni.as_deref().map(listed), Plain),
    ];
    parts.extend(routing(own_routing));
    parts.extend(times(own));
    parts
}

fn routing(own: &OwnRouting) -> Parts {
    use Part::Plain;
    let OwnRouting {
        reads,
        route,
        consistency,
        consistency_wait,
        max_lag,
        fallback,
        primary_read_share,
        commit_certainty,
        read_functions,
    } = own;
    vec![
        ("read_routing", reads.map(|reads| reads.as_str().to_owned()), Plain),
        ("route", route.map(|route| route.as_str().to_owned()), Plain),
        ("read_consistency", consistency.map(|consistency| consistency.as_str().to_owned()), Plain),
        ("read_consistency_wait", consistency_wait.map(seconds), Plain),
        ("max_replica_lag", max_lag.map(time), Plain),
        ("replica_fallback", fallback.map(|fallback| fallback.as_str().to_owned()), Plain),
        ("primary_read_share", primary_read_share.map(percent), Plain),
        ("commit_certainty", commit_certainty.map(|on| u8::from(on).to_string()), Plain),
        ("read_functions", read_functions.as_deref().map(listed), Plain),
    ]
}

fn user(user: &User) -> Parts {
    use Part::Plain;
    let User {
        pool_mode,
        session_state,
        audit_sample,
        pool_size,
        reserve_pool_size,
        max_waiting,
        max_connections,
        max_client_connections,
        query_wait_timeout,
        times: own,
        client_idle_timeout,
        client_tls,
    } = user;
    let mut parts = vec![
        ("pool_mode", pool_mode.map(|mode| mode.as_str().to_owned()), Plain),
        ("session_state", session_state.map(state), Plain),
        ("audit_sample", audit_sample.map(percent), Plain),
        ("pool_size", limit(pool_size), Plain),
        ("reserve_pool_size", shown(reserve_pool_size), Plain),
        ("max_waiting_clients", limit(max_waiting), Plain),
        ("max_user_connections", shown(max_connections), Plain),
        ("max_user_client_connections", shown(max_client_connections), Plain),
        ("query_wait_timeout", query_wait_timeout.map(time), Plain),
        ("client_idle_timeout", client_idle_timeout.map(seconds), Plain),
        ("client_tls_sslmode", client_tls.map(|mode| mode.as_str().to_owned()), Plain),
    ];
    parts.extend(times(own));
    parts
}

fn times(own: &OwnTimeLimits) -> Parts {
    use Part::Plain;
    let OwnTimeLimits { query, statement, request, transaction, idle_transaction, on_timeout } = own;
    let on_timeout = on_timeout.map(|on_timeout| match on_timeout {
        OnTimeout::Disconnect => "disconnect".to_owned(),
        OnTimeout::Terminate => "terminate".to_owned(),
        OnTimeout::Error => "error".to_owned(),
    });
    vec![
        ("query_timeout", query.map(time), Plain),
        ("statement_timeout", statement.map(time), Plain),
        ("request_timeout", request.map(time), Plain),
        ("transaction_timeout", transaction.map(time), Plain),
        ("idle_transaction_timeout", idle_transaction.map(time), Plain),
        ("on_timeout", on_timeout, Plain),
    ]
}

fn peer(peer: &PeerInstance) -> Parts {
    let PeerInstance { host: _, host_text, port, pool_size } = peer;
    vec![
        ("host", Some(host_text.clone()), Part::Plain),
        ("port", Some(port.to_string()), Part::Plain),
        ("pool_size", Some(pool_size.map_or_else(|| "0".to_owned(), |size| size.to_string())), Part::Plain),
    ]
}

fn listed<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn shown<T: Debug>(value: &Option<T>) -> Option<String> {
    value.as_ref().map(|value| format!("{value:?}"))
}

/// No limit is 0, as in the file.
fn limit<T: Debug>(value: &Option<Option<T>>) -> Option<String> {
    value.as_ref().map(|value| shown(value).unwrap_or_else(|| "0".to_owned()))
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "0".to_owned(), seconds)
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

fn percent(share: Share) -> String {
    (f64::from(share.get()) * 100.0 / f64::from(Share::WHOLE)).to_string()
}

fn state(state: SessionState) -> String {
    match state {
        SessionState::Preserve => "preserve".to_owned(),
        SessionState::Discard => "discard".to_owned(),
    }
}
