//! Addresses of servers by name. The system's resolver may take seconds, so it works on a thread of its own, at one
//! question for a name at a time; what it says is kept for a while, also that there is no such name.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dashmap::DashMap;

use crate::config::DnsRules;
use crate::pool::lock;
use crate::server::{ConnectError, unreachable};
use crate::shared::Shared;
use crate::snapshot::DnsHostRow;

/// All that were ever asked for: those of configured servers and peers.
#[derive(Debug, Default)]
pub(crate) struct Names(DashMap<String, Arc<Name>>);

#[derive(Debug, Default)]
struct Name {
    /// Held by who asks the resolver.
    asking: tokio::sync::Mutex<()>,
    known: Mutex<Option<Known>>,
}

/// Addresses, their ports 0.
type Answer = Result<Vec<SocketAddr>, ConnectError>;

#[derive(Debug)]
struct Known {
    answer: Answer,
    /// When it was said, in microseconds.
    at: u64,
    /// Which address comes first the next time.
    turn: usize,
}

impl Known {
    /// For how much longer it counts, by the settings of this moment.
    fn left(&self, now: u64, rules: DnsRules) -> Duration {
        let most = if self.answer.is_ok() { rules.max_ttl } else { rules.nxdomain_ttl };
        most.saturating_sub(Duration::from_micros(now.saturating_sub(self.at)))
    }
}

impl Name {
    fn known(&self, now: u64, rules: DnsRules) -> Option<Answer> {
        let mut known = lock(&self.known);
        let known = known.as_mut().filter(|known| !known.left(now, rules).is_zero())?;
        known.turn += 1;
        let mut answer = known.answer.clone();
        if let Ok(addresses) = &mut answer {
            let turn = known.turn % addresses.len().max(1);
            addresses.rotate_left(turn);
        }
        Some(answer)
    }

    /// Keeps an answer. Returns the addresses that were known and are in it no more.
    fn keep(&self, answer: &Answer, now: u64) -> Vec<SocketAddr> {
        let mut known = lock(&self.known);
        let before = known.take();
        *known = Some(Known { answer: answer.clone(), at: now, turn: before.as_ref().map_or(0, |b| b.turn) });
        match (before.map(|before| before.answer), answer) {
            (Some(Ok(before)), Ok(now)) => before.into_iter().filter(|addr| !now.contains(addr)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Names {
    /// The addresses of a host, the one whose turn it is first; and those that it has no more.
    async fn find(
        &self,
        host: &str,
        now: impl Fn() -> u64,
        rules: DnsRules,
        ask: impl AsyncFnOnce() -> Answer,
    ) -> (Answer, Vec<SocketAddr>) {
        let name = self.0.entry(host.to_owned()).or_default().clone();
        if let Some(answer) = name.known(now(), rules) {
            return (answer, Vec::new());
        }
        let _asking = name.asking.lock().await;
        if let Some(answer) = name.known(now(), rules) {
            return (answer, Vec::new()); // somebody else has asked meanwhile
        }
        let answer = ask().await;
        // What this process has no file descriptor for is not the name's fault.
        let vanished = match &answer {
            Err(ConnectError::Exhausted(_)) => Vec::new(),
            _ => name.keep(&answer, now()),
        };
        (answer, vanished)
    }
}

impl Shared {
    /// The addresses of a host, the one whose turn it is first, none of them twice.
    pub(crate) async fn addresses(&self, host: &str, port: u16) -> Answer {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let rules = self.config.load().dns;
        let ask = async || match tokio::net::lookup_host((host, 0)).await {
            Ok(addresses) => Ok(addresses.collect()),
            Err(error) => Err(unreachable("server DNS lookup failed")(error)),
        };
        let (answer, vanished) = self.names.find(host, || self.clock.micros(), rules, ask).await;
        self.leave(host, &vanished);
        let mut addresses = answer?;
        addresses.iter_mut().for_each(|address| address.set_port(port));
        Ok(addresses)
    }

    /// A name has moved away from these addresses: pools that are connected there connect anew.
    fn leave(&self, host: &str, vanished: &[SocketAddr]) {
        if vanished.is_empty() {
            return;
        }
        for pool in self.registry.pools() {
            let members = pool.members();
            if members.iter().any(|member| member.is_at(host, vanished)) {
                pool.renew("server DNS address changed");
            }
        }
    }

    /// Every name that was looked up, in order.
    pub(crate) fn dns_hosts(&self) -> Vec<DnsHostRow> {
        let (now, rules) = (self.clock.micros(), self.config.load().dns);
        let row = |hostname: &String, name: &Name| {
            let known = lock(&name.known);
            let known = known.as_ref()?;
            let addrs = known.answer.as_ref().map(Vec::as_slice).unwrap_or_default();
            Some(DnsHostRow {
                hostname: hostname.clone(),
                ttl: known.left(now, rules).as_secs(),
                addrs: addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(","),
            })
        };
        let mut rows: Vec<_> =
            self.names.0.iter().filter_map(|entry| row(entry.key(), entry.value())).collect();
        rows.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const RULES: DnsRules =
        DnsRules { max_ttl: Duration::from_secs(15), nxdomain_ttl: Duration::from_secs(5) };

    fn addresses(last: &[u8]) -> Answer {
        Ok(last.iter().map(|last| SocketAddr::from(([10, 0, 0, *last], 0))).collect())
    }

    fn unknown() -> Answer {
        Err(ConnectError::Unreachable("no such name".into()))
    }

    fn firsts(answer: Answer) -> u8 {
        match answer.unwrap()[0].ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => panic!("not asked for"),
        }
    }

    /// At this time, where the resolver would say this; with the number of questions that it was asked.
    async fn find(names: &Names, now: u64, says: Answer) -> (Answer, Vec<SocketAddr>, u32) {
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            says
        };
        let (answer, vanished) = names.find("db", || now, RULES, ask).await;
        (answer, vanished, asked.get())
    }

    #[tokio::test]
    async fn an_answer_counts_for_its_time_and_addresses_take_turns() {
        let names = Names::default();
        let (answer, _, asked) = find(&names, SECOND, addresses(&[1, 2, 3])).await;
        assert_eq!((firsts(answer), asked), (1, 1));
        for first in [2, 3, 1, 2] {
            let (answer, _, asked) = find(&names, 15 * SECOND, unknown()).await;
            assert_eq!((answer.as_ref().unwrap().len(), firsts(answer), asked), (3, first, 0));
        }
        let (answer, vanished, asked) = find(&names, 16 * SECOND, addresses(&[3, 4])).await;
        assert_eq!((firsts(answer), asked), (3, 1));
        assert_eq!(vanished, addresses(&[1, 2]).unwrap());
    }

    #[tokio::test]
    async fn a_failure_counts_for_its_own_time_and_drives_nobody_away() {
        let names = Names::default();
        assert!(find(&names, SECOND, addresses(&[1])).await.0.is_ok());
        let (answer, vanished, asked) = find(&names, 20 * SECOND, unknown()).await;
        assert!(answer.is_err() && vanished.is_empty() && asked == 1);
        let (answer, _, asked) = find(&names, 24 * SECOND, addresses(&[1])).await;
        assert!(answer.is_err() && asked == 0);
        let (answer, _, asked) = find(&names, 25 * SECOND, addresses(&[1])).await;
        assert!(answer.is_ok() && asked == 1);
    }

    #[tokio::test]
    async fn what_the_process_lacks_is_not_held_against_the_name() {
        let names = Names::default();
        let none_left = Err(ConnectError::Exhausted("no file".into()));
        assert!(find(&names, SECOND, none_left).await.0.is_err());
        assert_eq!(find(&names, SECOND, addresses(&[1])).await.2, 1);
    }

    #[tokio::test]
    async fn one_question_at_a_time() {
        let names = Names::default();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            addresses(&[1])
        };
        let find = || names.find("db", || SECOND, RULES, ask);
        let (a, b) = tokio::join!(find(), find());
        assert!(a.0.is_ok() && b.0.is_ok());
        assert_eq!(asked.get(), 1);
    }
}
