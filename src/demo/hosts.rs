//! The servers as the pooler sees them: role, lag, share of the reads.

use std::collections::HashMap;
use std::fmt::Write as _;

use pooler::control::Control;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The number in its socket's name.
    pub(super) number: u16,
    pub(super) role: &'static str,
    pub(super) lag_bytes: Option<u64>,
    pub(super) lag_ms: Option<u64>,
    pub(super) breaker: &'static str,
    /// Since the start.
    pub(super) reads: u64,
}

/// All of them, by number.
pub(super) fn look(control: &Control) -> Vec<Host> {
    let mut hosts: Vec<Host> = control
        .hosts()
        .into_iter()
        .map(|row| Host {
            number: row.port,
            role: row.role,
            lag_bytes: row.lag_bytes,
            lag_ms: row.lag_ms,
            breaker: row.breaker,
            reads: row.reads,
        })
        .collect();
    hosts.sort_by_key(|host| host.number);
    hosts
}

/// Their shares of the reads since `before`, in percent.
pub(super) fn shares(before: &[Host], now: &[Host]) -> Vec<u64> {
    let earlier: HashMap<u16, u64> = before.iter().map(|host| (host.number, host.reads)).collect();
    let new = |host: &Host| host.reads.saturating_sub(earlier.get(&host.number).copied().unwrap_or(0));
    let all: u64 = now.iter().map(new).sum();
    now.iter().map(|host| (new(host) * 200 + all).checked_div(2 * all).unwrap_or(0)).collect()
}

/// A line each, with a heading.
pub(super) fn as_block(before: &[Host], now: &[Host]) -> String {
    let mut text =
        format!("  {:<8}{:<10}{:>12}{:>9}  {:<13}{}\n", "server", "role", "lag", "", "breaker", "reads");
    for (host, share) in now.iter().zip(shares(before, now)) {
        let bytes = host.lag_bytes.map_or("-".to_owned(), |bytes| format!("{bytes} B"));
        let time = host.lag_ms.map_or("-".to_owned(), |time| format!("{time} ms"));
        let bar = "#".repeat((share / 5) as usize);
        let _ = writeln!(
            text,
            "  {:<8}{:<10}{bytes:>12}{time:>9}  {:<13}{share:>3} % {bar}",
            host.number, host.role, host.breaker
        ); // a String takes everything
    }
    text
}

/// All on one line.
pub(super) fn as_line(before: &[Host], now: &[Host]) -> String {
    let hosts = now.iter().zip(shares(before, now));
    let words: Vec<String> = hosts
        .map(|(host, share)| {
            let lag = host.lag_bytes.map_or(String::new(), |bytes| format!(", lag {bytes} B"));
            let breaker =
                if host.breaker == "closed" { String::new() } else { format!(", breaker {}", host.breaker) };
            format!("{} {}{lag}{breaker}, reads {share} %", host.number, host.role)
        })
        .collect();
    format!("       hosts: {}\n", words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u16, role: &'static str, reads: u64) -> Host {
        Host { number, role, lag_bytes: Some(0), lag_ms: None, breaker: "closed", reads }
    }

    #[test]
    fn shares_are_of_the_time_between() {
        let before = [host(1, "primary", 100), host(2, "standby", 100)];
        let now = [host(1, "primary", 101), host(2, "standby", 102), host(3, "standby", 1)];
        assert_eq!(shares(&before, &now), [25, 50, 25]);
        assert_eq!(shares(&now, &now), [0, 0, 0]);
        assert_eq!(as_block(&before, &now).lines().count(), 4);
        let line = as_line(&before, &now);
        let expected =
            "1 primary, lag 0 B, reads 25 %; 2 standby, lag 0 B, reads 50 %; 3 standby, lag 0 B, reads 25 %";
        assert_eq!(line.trim(), format!("hosts: {expected}"));
    }

    #[test]
    fn an_open_breaker_is_shown() {
        let open = Host { breaker: "open", ..host(1, "unknown", 0) };
        assert!(as_line(&[], &[open]).contains("breaker open"));
    }
}
