//! What Patroni's `GET /cluster` says, in all the forms that its versions 1.6 to 4 give it.

use std::fmt;

use serde_json::{Map, Value};

/// One host, as Patroni sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// As it is written there; brackets of an IPv6 address are left out.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) role: Part,
    /// PostgreSQL runs there.
    pub(crate) running: bool,
    pub(crate) timeline: Option<u32>,
    /// How far it is behind, in bytes of WAL; `None` where that is not known, and for the leader.
    pub(crate) lag_bytes: Option<u64>,
}

impl Told {
    /// It holds the leader's lock, and PostgreSQL runs.
    pub(crate) fn leads(&self) -> bool {
        self.running && self.role != Part::Replica
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} is {}", self.host, self.port, self.role.as_str())?;
        if !self.running {
            f.write_str(", not running")?;
        }
        self.timeline.map_or(Ok(()), |timeline| write!(f, ", timeline {timeline}"))?;
        self.lag_bytes.map_or(Ok(()), |lag| write!(f, ", {lag} bytes behind"))
    }
}

/// What a host does in a cluster of Patroni's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It holds the lock that makes a primary.
    Leader,
    /// It holds the lock in a cluster that follows another: it is in recovery itself.
    StandbyLeader,
    /// It follows, in whichever way.
    Replica,
}

impl Part {
    fn of(word: &str) -> Part {
        match word {
            "leader" | "master" | "primary" => Part::Leader,
            "standby_leader" => Part::StandbyLeader,
            _ => Part::Replica, // replica, sync_standby, quorum_standby, and what is yet to come
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Part::Leader => "leader",
            Part::StandbyLeader => "leader of a standby cluster",
            Part::Replica => "replica",
        }
    }
}

/// Why an answer says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    NotJson,
    NoMembers,
    TwoLeaders,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::NotJson => "the answer is not JSON",
            Unreadable::NoMembers => "the answer lists no members",
            Unreadable::TwoLeaders => "the answer names two leaders",
        })
    }
}

/// Members beyond so many are left out; a cluster has no more hosts.
const MOST: usize = 64;

/// PostgreSQL's port where an address has none.
const USUAL_PORT: u16 = 5432;

/// Reads an answer. Members whose address can't be told are left out.
///
/// # Errors
/// It says nothing, or contradicts itself.
pub(crate) fn read(json: &[u8]) -> Result<Vec<Told>, Unreadable> {
    let answer: Value = serde_json::from_slice(json).map_err(|_| Unreadable::NotJson)?;
    let members = answer.get("members").and_then(Value::as_array).ok_or(Unreadable::NoMembers)?;
    let told: Vec<Told> = members.iter().filter_map(Value::as_object).filter_map(member).take(MOST).collect();
    match told.iter().filter(|told| told.role != Part::Replica).count() {
        0 | 1 => Ok(told),
        _ => Err(Unreadable::TwoLeaders),
    }
}

fn member(member: &Map<String, Value>) -> Option<Told> {
    let text = |name: &str| member.get(name).and_then(Value::as_str).unwrap_or_default();
    let (host, port) = address(member)?;
    let role = Part::of(text("role"));
    let number = |name: &str| member.get(name).and_then(Value::as_u64); // also "unknown"
    Some(Told {
        host,
        port,
        role,
        running: is_running(text("state"), role),
        timeline: number("timeline").and_then(|timeline| u32::try_from(timeline).ok()),
        lag_bytes: number("replay_lag").or_else(|| number("lag")).filter(|_| role == Part::Replica),
    })
}

/// From version 3.1 on the state of a host that follows says how it does so, if it does.
fn is_running(state: &str, role: Part) -> bool {
    match state {
        "running" => true,
        "streaming" | "in archive recovery" => role != Part::Leader,
        _ => false,
    }
}

/// `host` and `port`; where they are missing, those of `conn_url`.
fn address(member: &Map<String, Value>) -> Option<(String, u16)> {
    let host = member.get("host").and_then(Value::as_str).unwrap_or_default();
    if host.is_empty() {
        return of_url(member.get("conn_url")?.as_str()?);
    }
    let port = match member.get("port") {
        None | Some(Value::Null) => USUAL_PORT,
        Some(Value::String(digits)) => digits.parse().ok()?,
        Some(port) => port.as_u64()?.try_into().ok()?,
    };
    Some((without_brackets(host).to_owned(), port))
}

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?...`, of which only the host is a must.
fn of_url(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let place = authority.rsplit('@').next()?;
    let port_at = place.rfind(':').filter(|colon| !place[*colon..].contains(']'));
    let (host, port) = match port_at {
        Some(colon) => (&place[..colon], place[colon + 1..].parse().ok()?),
        None => (place, USUAL_PORT),
    };
    let host = without_brackets(host);
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: &str, role: Part, timeline: u32, lag: Option<u64>) -> Told {
        Told {
            host: host.to_owned(),
            port: 5432,
            role,
            running: true,
            timeline: Some(timeline),
            lag_bytes: lag,
        }
    }

    #[test]
    fn version_2() {
        let json = br#"{"members": [
            {"name": "a", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
             "host": "10.0.0.1", "port": 5432, "timeline": 5, "tags": {"clonefrom": true}},
            {"name": "b", "role": "replica", "state": "running", "api_url": "http://10.0.0.2:8008/patroni",
             "host": "10.0.0.2", "port": 5432, "timeline": 5, "lag": 1024},
            {"name": "c", "role": "sync_standby", "state": "running", "api_url": "http://10.0.0.3:8008/patroni",
             "host": "10.0.0.3", "port": 5432, "timeline": 5, "lag": "unknown"}],
            "scheduled_switchover": {"at": "2023-02-13T14:26:00+00:00", "from": "a"}}"#;
        let expected = [
            told("10.0.0.1", Part::Leader, 5, None),
            told("10.0.0.2", Part::Replica, 5, Some(1024)),
            told("10.0.0.3", Part::Replica, 5, None),
        ];
        assert_eq!(read(json).unwrap(), expected);
    }

    #[test]
    fn version_3_says_how_a_replica_follows() {
        let json = br#"{"members": [
            {"name": "a", "role": "standby_leader", "state": "in archive recovery", "host": "a", "port": 5432, "timeline": 1},
            {"name": "b", "role": "replica", "state": "streaming", "host": "b", "port": 5432, "timeline": 1, "lag": 0},
            {"name": "c", "role": "replica", "state": "start failed", "host": "c", "port": 5432, "timeline": 1,
             "lag": 7, "pending_restart": true}], "scope": "main", "pause": true}"#;
        let failed = Told { running: false, ..told("c", Part::Replica, 1, Some(7)) };
        let expected =
            [told("a", Part::StandbyLeader, 1, None), told("b", Part::Replica, 1, Some(0)), failed];
        assert_eq!(read(json).unwrap(), expected);
        assert!(read(json).unwrap()[0].leads());
    }

    #[test]
    fn version_4_tells_received_from_replayed() {
        let json = br#"{"members": [
            {"name": "a", "role": "primary", "state": "running", "host": "::1", "port": 5432, "timeline": 9},
            {"name": "b", "role": "quorum_standby", "state": "streaming", "host": "[fd00::2]", "port": 5432,
             "timeline": 9, "receive_lsn": "0/4000148", "receive_lag": 0, "replay_lsn": "0/4000060",
             "replay_lag": 232, "lsn": "0/4000148", "lag": 0}], "scope": "main"}"#;
        let expected = [told("::1", Part::Leader, 9, None), told("fd00::2", Part::Replica, 9, Some(232))];
        assert_eq!(read(json).unwrap(), expected);
    }

    #[test]
    fn an_address_may_be_an_url() {
        let at = |members: &str| {
            let json = format!(r#"{{"members": [{members}]}}"#);
            read(json.as_bytes()).unwrap().pop().map(|told| (told.host, told.port))
        };
        for (member, expected) in [
            (r#"{"conn_url": "postgres://10.0.0.1:6000/postgres"}"#, Some(("10.0.0.1", 6000))),
            (r#"{"conn_url": "postgres://u:p@h/postgres?x=:1"}"#, Some(("h", 5432))),
            (r#"{"conn_url": "postgresql://[fd00::1]"}"#, Some(("fd00::1", 5432))),
            (r#"{"conn_url": "postgresql://[fd00::1]:5"}"#, Some(("fd00::1", 5))),
            (r#"{"conn_url": "postgres://:5432/"}"#, None),
            (r#"{"conn_url": "http://a:1/"}"#, None),
            (r#"{"conn_url": "postgres://a:b/"}"#, None),
            (r#"{"host": "a"}"#, Some(("a", 5432))),
            (r#"{"host": "a", "port": "5433"}"#, Some(("a", 5433))),
            (r#"{"host": "a", "port": 65536}"#, None),
            (r#"{"host": "a", "port": -1}"#, None),
            (r#"{"host": 3, "port": 5432}"#, None),
            (r#"{"name": "a", "api_url": "http://10.0.0.1:8008/patroni"}"#, None),
        ] {
            assert_eq!(at(member), expected.map(|(host, port)| (host.to_owned(), port)), "{member}");
        }
    }

    #[test]
    fn a_leader_that_does_not_run_leads_nobody() {
        for state in ["stopped", "crashed", "starting", "running custom bootstrap script", "", "streaming"] {
            let json = format!(r#"{{"members": [{{"host": "a", "role": "leader", "state": "{state}"}}]}}"#);
            assert!(!read(json.as_bytes()).unwrap()[0].leads(), "{state}");
        }
    }

    #[test]
    fn hostile_answers_say_nothing() {
        let deep = format!("{{\"members\": {}", "[".repeat(100_000));
        for json in ["", "{", "\u{0}", "NaN", &deep, "[1"] {
            assert_eq!(read(json.as_bytes()), Err(Unreadable::NotJson), "{:.40}", json);
        }
        assert_eq!(read(b"{\"members\": \"\xff\"}"), Err(Unreadable::NotJson));
        for json in ["null", "[]", "{}", r#"{"members": {"a": 1}}"#, r#"{"members": null}"#] {
            assert_eq!(read(json.as_bytes()), Err(Unreadable::NoMembers), "{json}");
        }
        let odd = r#"{"members": [1, null, [], {}, {"host": "a", "role": 7, "state": [], "timeline": 1e99, "lag": -5}]}"#;
        let none = Told { running: false, timeline: None, ..told("a", Part::Replica, 0, None) };
        assert_eq!(read(odd.as_bytes()).unwrap(), [none]);
        let leader = |host| format!(r#"{{"host": "{host}", "role": "leader", "state": "running"}}"#);
        let two = format!(r#"{{"members": [{}, {}]}}"#, leader("a"), leader("b"));
        assert_eq!(read(two.as_bytes()), Err(Unreadable::TwoLeaders));
        let many = vec![r#"{"host": "a", "role": "replica"}"#; 1000].join(",");
        assert_eq!(read(format!(r#"{{"members": [{many}]}}"#).as_bytes()).unwrap().len(), MOST);
    }
}
