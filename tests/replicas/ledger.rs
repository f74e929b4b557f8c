//! Many clients write numbers that nobody else writes, and note what they were told; afterwards that must be so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::message::Fields;
use support::postgres::Postgres;
use support::wire::{Client, LoginError, Target};

use super::batch;
use crate::probe::{Random, StopAtEnd};

/// Without a key: a number may be there twice.
pub(super) const SETUP: &str = "create table ledger (id bigint not null)";

/// What a client was told of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It is committed.
    Committed,
    /// It is not, and will not be.
    NotDone,
    /// Nothing that one could rely on.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u64,
    told: Told,
    at: Instant,
}

/// What all clients were told.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    /// How often which SQLSTATE came, or `closed`, or `login ...`.
    errors: BTreeMap<String, usize>,
    began: Instant,
    ended: Instant,
}

/// One client: it goes on with another connection where one has ended.
struct Scribe<'a> {
    target: &'a Target,
    connection: Option<Client>,
    random: Random,
    entries: Vec<Entry>,
    errors: BTreeMap<String, usize>,
}

/// How one request was answered.
enum Answer {
    Done(Option<String>),
    Failed(Fields),
    Closed,
}

impl Scribe<'_> {
    fn work(mut self, number: u64, over: &AtomicBool) -> Self {
        for count in 0.. {
            if over.load(Relaxed) {
                break;
            }
            if self.connection.is_none() && !self.connect() {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            let id = number * 1_000_000 + count;
            let told = match self.random.below(3) {
                0 => self.alone(query(&format!("insert into ledger values ({id})"))),
                1 => self.alone([batch(&format!("insert into ledger values ({id})")), sync()].concat()),
                _ => self.in_transaction(id),
            };
            self.entries.push(Entry { id, told, at: Instant::now() });
            thread::sleep(Duration::from_millis(self.random.below(20)));
        }
        self
    }

    fn connect(&mut self) -> bool {
        match Client::try_login(self.target) {
            Ok(client) => self.connection = Some(client),
            Err(LoginError::Refused(fields)) => self.count(format!("login {}", fields.code())),
            Err(LoginError::Io(error)) => self.count(format!("login {:?}", error.kind())),
        }
        self.connection.is_some()
    }

    fn count(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    /// A transaction of its own.
    fn alone(&mut self, request: Vec<u8>) -> Told {
        match self.ask(&request) {
            Answer::Done(_) => Told::Committed,
            Answer::Failed(fields) => told_by(&fields),
            Answer::Closed => Told::Nothing,
        }
    }

    fn in_transaction(&mut self, id: u64) -> Told {
        for sql in ["begin", &format!("insert into ledger values ({id})")] {
            if !matches!(self.ask(&query(sql)), Answer::Done(_)) {
                let _ = self.connection.is_some().then(|| self.ask(&query("rollback")));
                return Told::NotDone;
            }
        }
        match self.ask(&query("commit")) {
            Answer::Done(command) if command.as_deref() == Some("COMMIT") => Told::Committed,
            Answer::Done(_) => Told::NotDone,
            Answer::Failed(fields) => told_by(&fields),
            Answer::Closed => Told::Nothing,
        }
    }

    /// Sends a request and reads its answer, to ReadyForQuery or the end of the connection.
    fn ask(&mut self, request: &[u8]) -> Answer {
        let Some(client) = &mut self.connection else { return Answer::Closed };
        let _ = client.peer().send(request); // shows when something is read
        let (mut command, mut failed, mut ready) = (None, None, false);
        while !ready {
            match client.try_read() {
                Ok(message) => {
                    command = message.command().or(command);
                    failed = failed.or(message.error());
                    ready = message.tag == b'Z';
                }
                Err(error) if support::peer::is_end(&error) => break,
                Err(error) => panic!("no answer to {:?}: {error}", String::from_utf8_lossy(request)),
            }
        }
        if !ready {
            self.connection = None;
        }
        let error = failed.as_ref().map(|fields| fields.code().to_string());
        if let Some(error) = error.or_else(|| (!ready).then(|| "closed".to_string())) {
            self.count(error);
        }
        match failed {
            Some(fields) => Answer::Failed(fields),
            None if ready => Answer::Done(command),
            None => Answer::Closed,
        }
    }
}

/// What an answer to a COMMIT, or to a statement by itself, says of the transaction.
fn told_by(error: &Fields) -> Told {
    match (error.severity(), error.code()) {
        (_, "40003" | "08006" | "08007" | "57P01" | "57P02") => Told::Nothing,
        (_, "08P01") if error.message() == "query_wait_timeout" => Told::NotDone,
        ("ERROR", _) => Told::NotDone,
        _ => Told::Nothing,
    }
}

impl Ledger {
    /// So many clients write for as long as `story` takes.
    pub(super) fn keep<T>(target: &Target, clients: usize, story: impl FnOnce() -> T) -> (Ledger, T) {
        let over = AtomicBool::new(false);
        let began = Instant::now();
        thread::scope(|scope| {
            let stop = StopAtEnd(&over);
            let scribe = |number: u64| Scribe {
                target,
                connection: None,
                random: Random::new(number),
                entries: Vec::new(),
                errors: BTreeMap::new(),
            };
            let working: Vec<_> = (0..clients as u64)
                .map(|number| {
                    let over = &over;
                    scope.spawn(move || scribe(number).work(number, over))
                })
                .collect();
            let told = story();
            drop(stop);
            let ended = Instant::now();
            let mut ledger = Ledger { entries: Vec::new(), errors: BTreeMap::new(), began, ended };
            for scribe in working {
                let scribe = scribe.join().expect("a client");
                ledger.entries.extend(scribe.entries);
                for (error, count) in scribe.errors {
                    *ledger.errors.entry(error).or_default() += count;
                }
            }
            ledger.entries.sort_by_key(|entry| entry.at);
            (ledger, told)
        })
    }

    fn told(&self, told: Told) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.told == told)
    }

    /// How many commits were acknowledged.
    pub(super) fn committed(&self) -> usize {
        self.told(Told::Committed).count()
    }

    /// From this moment to the next acknowledged commit.
    #[track_caller]
    pub(super) fn recovery(&self, since: Instant) -> Duration {
        let next = self.told(Told::Committed).find(|entry| entry.at > since);
        next.expect("a commit after the fail-over").at - since
    }

    /// The longest time in which nobody's commit was acknowledged.
    pub(super) fn longest_stall(&self) -> Duration {
        let commits = self.told(Told::Committed).map(|entry| entry.at).filter(|at| *at < self.ended);
        let moments: Vec<Instant> = [self.began].into_iter().chain(commits).chain([self.ended]).collect();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// For the test's output.
    pub(super) fn summary(&self) -> String {
        let [committed, not_done, unknown] =
            [Told::Committed, Told::NotDone, Told::Nothing].map(|told| self.told(told).count());
        format!(
            "{committed} committed, {not_done} not done, {unknown} unknown, longest stall {:.2?}, errors {:?}",
            self.longest_stall(),
            self.errors
        )
    }

    /// What clients were told is what is there.
    #[track_caller]
    pub(super) fn check(&self, primary: &Postgres, database: &str) {
        let mut admin = Client::login(&primary.superuser(database));
        let twice = admin.execute("select id from ledger group by id having count(*) > 1").rows();
        assert!(twice.is_empty(), "there twice: {twice:?}");
        let rows = admin.execute("select id from ledger").rows();
        let there: BTreeSet<u64> =
            rows.iter().map(|row| row[0].as_deref().expect("an id").parse().expect("a number")).collect();
        let lost: Vec<u64> =
            self.told(Told::Committed).map(|entry| entry.id).filter(|id| !there.contains(id)).collect();
        let ghosts: Vec<u64> =
            self.told(Told::NotDone).map(|entry| entry.id).filter(|id| there.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}; {}", self.summary());
        assert!(ghosts.is_empty(), "said not to be done and there: {ghosts:?}; {}", self.summary());
    }
}

/// The statements of clients that a host has logged, which logs what changes something.
pub(super) fn inserts_logged(host: &Postgres) -> usize {
    host.log().lines().filter(|line| line.contains("insert into ledger") && line.contains("LOG")).count()
}
