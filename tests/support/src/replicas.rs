//! A primary with streaming replicas, and what happens to such: lag, promotion, demotion, freezing.

use std::fmt;
use std::fs;
use std::process::Stdio;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::postgres::{Options, Postgres, SUPERUSER, Stop, append, socket_directory};
use crate::scratch::{Scratch, server_command};
use crate::tools::program;
use crate::wait::eventually;

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Lsn, String> {
        let wrong = || format!("{text:?} is no place in the WAL");
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| wrong());
        Ok(Lsn(number(high)? << 32 | number(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// Settings of a cluster that has replicas, and of these. Commits are in the WAL when they are acknowledged, and WAL is
/// kept for replicas that were away.
const CONFIG: [&str; 5] = [
    "synchronous_commit = on",
    "wal_keep_size = 256MB",
    "max_wal_senders = 20",
    "wal_receiver_status_interval = 1s",
    "wal_retrieve_retry_interval = 100ms",
];

/// A primary and its replicas, all running. Each goes away with its last handle.
#[derive(Debug)]
pub struct Replicas {
    /// The primary at the start.
    pub primary: Postgres,
    /// Its replicas at the start.
    pub replicas: Vec<Postgres>,
}

impl Replicas {
    /// A primary of the usual kind with so many replicas that stream from it.
    pub fn start(count: usize) -> Replicas {
        Replicas::start_with(count, Options::new())
    }

    /// The same with further options, for all of them.
    pub fn start_with(count: usize, options: Options) -> Replicas {
        let options = CONFIG.into_iter().fold(options, Options::config);
        let primary = Postgres::start(options);
        let starting: Vec<_> = (0..count)
            .map(|_| {
                let primary = primary.clone();
                thread::spawn(move || primary.replica())
            })
            .collect();
        let replicas = starting.into_iter().map(|thread| thread.join().expect("a replica starts")).collect();
        let set = Replicas { primary, replicas };
        set.catch_up();
        set
    }

    /// Waits until every replica has replayed what the primary has acknowledged up to now.
    #[track_caller]
    pub fn catch_up(&self) {
        let position = self.primary.position();
        self.replicas.iter().for_each(|replica| replica.wait_for_position(position));
    }
}

impl Postgres {
    /// One more replica, streaming from this cluster.
    pub fn replica(&self) -> Postgres {
        let scratch = Scratch::new("replica");
        let data = scratch.path().join("data");
        let mut backup = server_command(&program("pg_basebackup"));
        backup.arg("-D").arg(&data).args(["-d", &self.way_to()]);
        backup.args(["-R", "-c", "fast", "-X", "fetch", "--no-sync", "--no-manifest"]);
        let output = backup.stdin(Stdio::null()).output().expect("start pg_basebackup");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        // The last line counts.
        append(&data.join("postgresql.conf"), &socket_directory(&scratch));
        Postgres::launch(scratch)
    }

    /// How replicas connect to this cluster.
    fn way_to(&self) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER} connect_timeout=5", self.port())
    }

    /// Whether the cluster is in recovery.
    #[track_caller]
    pub fn is_standby(&self) -> bool {
        self.ask("select pg_is_in_recovery()") == "t"
    }

    /// Of a primary: up to where its WAL is written, which is behind every acknowledged commit. Of a standby: up to
    /// where it has replayed.
    #[track_caller]
    pub fn position(&self) -> Lsn {
        let sql = "select case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0') \
                   else pg_current_wal_flush_lsn() end";
        self.ask(sql).parse().expect("a place in the WAL")
    }

    /// The timeline that a primary writes, or that a standby receives.
    #[track_caller]
    pub fn timeline(&self) -> u32 {
        let sql = "select case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)::text \
                   else ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0') end";
        u32::from_str_radix(&self.ask(sql), 16).expect("a timeline")
    }

    /// Waits until a standby has replayed up to this place.
    #[track_caller]
    pub fn wait_for_position(&self, position: Lsn) {
        let what = format!("{position} is replayed");
        eventually(&what, Duration::from_secs(30), || self.position() >= position);
    }

    /// A standby replays commits so much later than they were made; zero: at once. It counts for what is to be replayed
    /// from now on, and for what waits already.
    #[track_caller]
    pub fn delay_replay(&self, delay: Duration) {
        self.configure(&format!("recovery_min_apply_delay = {}", delay.as_millis()));
    }

    /// Makes a primary of a standby, and waits until it is one.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.ask("select pg_promote(true, 60)"), "t", "promotion");
    }

    /// A standby streams from `primary` from now on.
    #[track_caller]
    pub fn follow(&self, primary: &Postgres) {
        self.configure(&format!("primary_conninfo = '{}'", primary.way_to()));
    }

    /// The same under a name, and the primary acknowledges no commit that this standby has not got.
    #[track_caller]
    pub fn follow_in_step(&self, primary: &Postgres, name: &str) {
        self.configure(&format!("primary_conninfo = '{} application_name={name}'", primary.way_to()));
        primary.configure(&format!("synchronous_standby_names = '{name}'"));
        let state = format!("select sync_state from pg_stat_replication where application_name = '{name}'");
        eventually("the standby is in step", Duration::from_secs(30), || primary.ask(&state) == "sync");
    }

    /// Primary and standby change places, and nothing is lost: the primary stops when all of its WAL is with the standby.
    /// The moment at which there was a primary again.
    #[track_caller]
    pub fn hand_over(&self, standby: &Postgres) -> Instant {
        self.follow(standby);
        self.stop(Stop::Fast);
        standby.promote();
        let promoted = Instant::now();
        fs::write(self.socket_dir().join("data/standby.signal"), "").expect("write standby.signal");
        self.start_again();
        promoted
    }

    /// Starts the cluster again as a standby of `primary`. What it has written since they parted stays, and then it
    /// can't follow, but is up and answers reads.
    #[track_caller]
    pub fn demote(&self, primary: &Postgres) {
        self.follow(primary);
        self.stop(Stop::Fast);
        fs::write(self.socket_dir().join("data/standby.signal"), "").expect("write standby.signal");
        self.start_again();
        assert!(self.is_standby());
    }

    /// Stops all processes where they are (SIGSTOP): connections stay open, new ones are accepted by the kernel, and
    /// nobody answers.
    pub fn freeze(&self) {
        // First the one that makes new ones.
        self.signal(Signal::SIGSTOP);
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets all processes go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    #[track_caller]
    fn ask(&self, sql: &str) -> String {
        let rows = self.sql(sql).rows();
        rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_wal_are_numbers() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("1/0".parse::<Lsn>().unwrap() > "0/FFFFFFFF".parse().unwrap());
        assert!(["", "1", "x/1", "1/", "1/2/3"].iter().all(|text| text.parse::<Lsn>().is_err()));
    }
}
