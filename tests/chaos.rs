//! Many clients move money between accounts, in every way that the protocol has, and die at any moment; servers are
//! shot now and then. Afterwards the books must balance.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::frontend::*;
use support::message::Message;
use support::postgres::{Database, USER};
use support::wire::{Client, Target, cancel};

use crate::common::{Pooled, pooled};
use crate::probe::{Random, StopAtEnd, size, wait_until_idle};

const SERVERS: usize = 5;
const CLIENTS: u64 = 40;
const ACCOUNTS: u64 = 50;
const START: u64 = 1000;

/// `entries` is written with every transfer: two lines that add up to nothing. `transfers` names the transfer.
fn setup() -> String {
    format!(
        "create table accounts (id int primary key, balance bigint not null);
         insert into accounts select id, {START} from generate_series(0, {}) id;
         create table transfers (id bigint primary key);
         create table entries (transfer bigint not null, account int not null, amount bigint not null)",
        ACCOUNTS - 1
    )
}

/// What a client does: it writes, and it waits for replies.
enum Step {
    /// Bytes; whether the transfer may be committed once the last of them is sent.
    Send(Vec<u8>, bool),
    /// Reads so many ReadyForQuery.
    Ready(usize),
    /// Reads CopyInResponse, or an error.
    CopyIn,
}

/// One transfer of an amount from one account to another.
struct Transfer {
    id: u64,
    accounts: [u64; 2],
    amounts: [i64; 2],
}

impl Transfer {
    fn random(id: u64, random: &mut Random) -> Transfer {
        let mut accounts = [random.below(ACCOUNTS), random.below(ACCOUNTS - 1)];
        accounts[1] += u64::from(accounts[1] >= accounts[0]);
        accounts.sort_unstable(); // in one order, or transfers would block each other
        let amount = random.below(100) as i64 - 50;
        Transfer { id, accounts, amounts: [amount, -amount] }
    }

    /// The statements in between BEGIN and COMMIT; a query whose answer only this transfer can get is among them.
    fn statements(&self) -> Vec<String> {
        let id = self.id;
        let mut statements = Vec::new();
        for (account, amount) in self.accounts.iter().zip(self.amounts) {
            statements.push(format!("update accounts set balance = balance + {amount} where id = {account}"));
            statements.push(format!("insert into entries values ({id}, {account}, {amount})"));
        }
        statements.push(format!("insert into transfers values ({id}) returning {}", self.mark()));
        statements
    }

    fn mark(&self) -> String {
        format!("'transfer {}'", self.id)
    }

    fn copy_lines(&self) -> Vec<u8> {
        let lines = self.accounts.iter().zip(self.amounts);
        lines
            .flat_map(|(account, amount)| copy_data(format!("{}\t{account}\t{amount}\n", self.id).as_bytes()))
            .collect()
    }
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)].concat()
}

/// The ways of doing it.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// A query at a time.
    Simple,
    /// All in one query string: one implicit transaction.
    OneQuery,
    /// Extended, with a Sync behind each statement.
    Extended,
    /// Extended, with one Sync: one implicit transaction.
    OneBatch,
    /// Everything sent at once, with a Sync behind each statement.
    Pipeline,
    /// The entries through COPY.
    Copy,
    /// All of it, and then a change of mind.
    Abandoned,
    /// An error in the middle.
    Failing,
}

const WAYS: [Way; 8] = [
    Way::Simple,
    Way::OneQuery,
    Way::Extended,
    Way::OneBatch,
    Way::Pipeline,
    Way::Copy,
    Way::Abandoned,
    Way::Failing,
];

impl Way {
    fn steps(self, transfer: &Transfer) -> Vec<Step> {
        let statements = transfer.statements();
        let ask = |bytes: Vec<u8>| [Step::Send(bytes, false), Step::Ready(1)];
        let begin = || ask(query("begin"));
        let end = |sql: &str| [Step::Send(query(sql), sql == "commit"), Step::Ready(1)];
        let simple = || statements.iter().flat_map(|sql| ask(query(sql)));
        match self {
            Way::Simple => begin().into_iter().chain(simple()).chain(end("commit")).collect(),
            Way::Abandoned => begin().into_iter().chain(simple()).chain(end("rollback")).collect(),
            Way::Failing => begin()
                .into_iter()
                .chain(simple())
                .chain(ask(query("select 1/0")))
                .chain(end("rollback"))
                .collect(),
            Way::OneQuery => vec![Step::Send(query(&statements.join(";")), true), Step::Ready(1)],
            Way::Extended => {
                let each = statements.iter().flat_map(|sql| ask([extended(sql), sync()].concat()));
                begin().into_iter().chain(each).chain(end("commit")).collect()
            }
            Way::OneBatch => {
                let all: Vec<u8> = statements.iter().flat_map(|sql| extended(sql)).chain(sync()).collect();
                vec![Step::Send(all, true), Step::Ready(1)]
            }
            Way::Pipeline => {
                let each = statements.iter().flat_map(|sql| [extended(sql), sync()].concat());
                let all = query("begin").into_iter().chain(each).chain(query("commit")).collect();
                vec![Step::Send(all, true), Step::Ready(statements.len() + 2)]
            }
            Way::Copy => {
                let others = statements.iter().filter(|sql| !sql.contains("entries"));
                let copy = [Step::Send(query("copy entries from stdin"), false), Step::CopyIn];
                let data = Step::Send([transfer.copy_lines(), copy_done()].concat(), false);
                begin()
                    .into_iter()
                    .chain(others.flat_map(|sql| ask(query(sql))))
                    .chain(copy)
                    .chain([data, Step::Ready(1)])
                    .chain(end("commit"))
                    .collect()
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// The client was told that it is committed.
    Committed,
    /// The client did not ask for a commit in full, or was told that there is none.
    Undone,
    /// It was asked for, and the client has not heard.
    Unknown,
}

/// What replies have said so far.
#[derive(Default)]
struct Heard {
    commit: bool,
    failed: bool,
    mark: bool,
    foreign: Option<String>,
}

impl Heard {
    fn note(&mut self, message: &Message, mark: &str) {
        match message.command().as_deref() {
            Some("COMMIT") => self.commit = true,
            Some("ROLLBACK") => self.failed = true,
            _ => {}
        }
        self.failed |= message.tag == b'E';
        if let Some(Some(Some(value))) = message.row().map(|row| row.into_iter().next()) {
            let value = String::from_utf8_lossy(&value).into_owned();
            match format!("'{value}'") == mark {
                true => self.mark = true,
                false => self.foreign = Some(value),
            }
        }
    }
}

/// How a client dies, if it does, and where.
struct Fate {
    step: usize,
    way: u64,
    cut: u64,
}

/// A transfer under way on a connection that may end in the middle of it.
struct Attempt<'a> {
    client: Option<Client>,
    mark: String,
    heard: Heard,
    commit_sent: bool,
    random: &'a mut Random,
}

impl Attempt<'_> {
    /// Runs the steps up to the end, an error, or the client's death.
    fn run(&mut self, steps: Vec<Step>, fate: Option<Fate>) {
        for (number, step) in steps.into_iter().enumerate() {
            let dies = fate.as_ref().filter(|fate| fate.step == number);
            match step {
                Step::Send(bytes, commits) => match dies {
                    Some(fate) => return self.die_sending(&bytes, commits, fate),
                    None => {
                        self.send(&bytes);
                        self.commit_sent |= commits;
                    }
                },
                _ if dies.is_some() => return self.die(fate.map_or(0, |fate| fate.way)),
                Step::Ready(count) => {
                    for _ in 0..count {
                        self.read_to(|message| message.tag == b'Z');
                    }
                    if self.heard.failed && !self.commit_sent {
                        return self.roll_back();
                    }
                }
                Step::CopyIn => {
                    self.read_to(|message| message.tag == b'G' || message.tag == b'Z');
                    if self.heard.failed {
                        return self.roll_back();
                    }
                }
            }
        }
    }

    /// A connection that breaks here shows when something is read.
    fn send(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client {
            let _ = client.peer().send(bytes);
        }
    }

    fn read_to(&mut self, is_last: impl Fn(&Message) -> bool) {
        while let Some(client) = &mut self.client {
            match client.try_read() {
                Ok(message) => {
                    self.heard.note(&message, &self.mark);
                    if is_last(&message) {
                        return;
                    }
                }
                Err(error) if support::peer::is_end(&error) => self.client = None,
                Err(error) => panic!("{} hangs: {error}", self.mark),
            }
        }
    }

    fn roll_back(&mut self) {
        self.send(&query("rollback"));
        self.read_to(|message| message.tag == b'Z');
    }

    fn die_sending(&mut self, bytes: &[u8], commits: bool, fate: &Fate) {
        let cut = (fate.cut % (bytes.len() as u64 + 1)) as usize;
        self.send(&bytes[..cut]);
        self.commit_sent |= commits && cut == bytes.len();
        if cut == bytes.len() && fate.way.is_multiple_of(2) {
            self.send(&terminate());
            self.read_to(|_| false);
        }
        self.die(fate.way);
    }

    fn die(&mut self, way: u64) {
        thread::sleep(Duration::from_micros(self.random.below(2) * self.random.below(3000)));
        match (way % 3, self.client.take()) {
            (0, Some(client)) => client.abort(),
            (1, Some(mut client)) => {
                client.half_close();
                self.client = Some(client);
                self.read_to(|_| false);
            }
            _ => {}
        }
    }

    fn outcome(&self, way: Way) -> Outcome {
        let implicit = matches!(way, Way::OneQuery | Way::OneBatch);
        let told = if implicit {
            self.heard.mark && self.client.is_some() && !self.heard.failed
        } else {
            self.heard.commit
        };
        match told {
            true => Outcome::Committed,
            false if !self.commit_sent => Outcome::Undone,
            false if self.heard.failed && self.client.is_some() => Outcome::Undone,
            false => Outcome::Unknown,
        }
    }
}

/// What became of one client's transfers.
#[derive(Default)]
struct Books {
    committed: Vec<u64>,
    undone: Vec<u64>,
    unknown: usize,
    deaths: usize,
}

/// Makes transfers one after the other; a client that died is followed by another.
fn work(target: &Target, seed: u64, number: u64, transfers: u64) -> Books {
    let mut random = Random::new(seed ^ (number << 32));
    let mut books = Books::default();
    let mut connection = None;
    for count in 0..transfers {
        let transfer = Transfer::random(number * 10_000_000 + count, &mut random);
        let way = WAYS[random.below(WAYS.len() as u64) as usize];
        let steps = way.steps(&transfer);
        let fate = random.one_in(3).then(|| Fate {
            step: random.below(steps.len() as u64) as usize,
            way: random.next(),
            cut: random.next(),
        });
        books.deaths += usize::from(fate.is_some());
        let client: Client = connection.take().unwrap_or_else(|| Client::login(target));
        let canceling = cancels(way) && fate.is_none() && random.one_in(20);
        let canceling = canceling.then(|| late_cancel(&client, random.below(2000)));
        let mut attempt = Attempt {
            client: Some(client),
            mark: transfer.mark(),
            heard: Heard::default(),
            commit_sent: false,
            random: &mut random,
        };
        attempt.run(steps, fate);
        assert_eq!(attempt.heard.foreign, None, "{} got somebody else's answer, {way:?}", attempt.mark);
        match attempt.outcome(way) {
            Outcome::Committed => books.committed.push(transfer.id),
            Outcome::Undone => books.undone.push(transfer.id),
            Outcome::Unknown => books.unknown += 1,
        }
        connection = attempt.client;
        if let Some(canceling) = canceling {
            canceling.join().expect("the cancel request");
        }
    }
    books
}

/// Ways in which a statement that is cancelled cannot let those behind it run by themselves.
fn cancels(way: Way) -> bool {
    matches!(way, Way::OneQuery | Way::OneBatch)
}

fn late_cancel(client: &Client, micros: u64) -> thread::JoinHandle<()> {
    let (address, key) = (client.address().clone(), client.key.clone().expect("a cancel key"));
    thread::spawn(move || {
        thread::sleep(Duration::from_micros(micros));
        cancel(&address, &key);
    })
}

/// Ends a server process now and then, until told to stop.
fn shoot_servers(database: &Database, seed: u64, over: &AtomicBool) -> usize {
    let mut admin = Client::login(&database.postgres().superuser(database.name()));
    let mut random = Random::new(!seed);
    let mut shot = 0;
    while !over.load(Relaxed) {
        thread::sleep(Duration::from_millis(100 + random.below(400)));
        let end = format!(
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity \
             where datname = current_database() and usename = '{USER}' order by md5(pid || '{}') limit 1) victim",
            random.next()
        );
        shot += admin.scalar(&end).parse::<usize>().expect("a number");
    }
    shot
}

#[test]
fn the_books_balance() {
    let seed = std::env::var("CHAOS_SEED").ok().map(|seed| seed.parse().expect("CHAOS_SEED is a number"));
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_micros() as u64)
    });
    println!("CHAOS_SEED={seed}");
    let transfers = size("CHAOS_TRANSACTIONS", 10_000) as u64;
    let pooled = pooled(&setup(), |builder| {
        let builder = builder.setting("default_pool_size", SERVERS).setting("max_client_conn", 1000);
        builder.setting("log_connections", 0).setting("log_disconnections", 0)
    });
    let memory = pooled.pooler.rss();
    let sampler = pooled.database.sample_backends(USER);
    let begin = Instant::now();
    let over = AtomicBool::new(false);
    let (books, shot) = thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        let shooting = scope.spawn(|| shoot_servers(&pooled.database, seed, &over));
        let target = pooled.target();
        let workers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let target = target.clone();
                scope.spawn(move || work(&target, seed, number, transfers / CLIENTS))
            })
            .collect();
        let books: Vec<Books> = workers.into_iter().map(|worker| worker.join().expect("a client")).collect();
        drop(stop);
        (books, shooting.join().expect("the shooter"))
    });
    let took = begin.elapsed();
    wait_until_idle(&pooled.database, SERVERS);
    let peak = sampler.finish();
    let committed: Vec<u64> = books.iter().flat_map(|books| books.committed.iter().copied()).collect();
    let undone: Vec<u64> = books.iter().flat_map(|books| books.undone.iter().copied()).collect();
    let [unknown, deaths] = [|books: &Books| books.unknown, |books: &Books| books.deaths]
        .map(|count| books.iter().map(count).sum::<usize>());
    println!(
        "{transfers} transfers in {took:.1?}: {} committed, {} undone, {unknown} unknown; {deaths} clients died, \
         {shot} servers were shot, at most {peak} of {SERVERS} connections, memory {} KiB, {} KiB before",
        committed.len(),
        undone.len(),
        pooled.pooler.rss() >> 10,
        memory >> 10,
    );
    assert!(peak <= SERVERS, "{peak} connections");
    assert!(committed.len() as u64 > transfers / 4, "so few that something is wrong with the test");
    check_books(&pooled.database, &committed, &undone);
    check_capacity(&pooled);
    let log = pooled.database.log();
    for text in
        ["already a transaction", "no transaction in progress", "invalid frontend message", "deadlock"]
    {
        let lines = || log.lines().filter(|line| line.contains(text));
        // The pooler's own ROLLBACK of half a batch is one of the second kind.
        assert!(lines().count() == 0 || text.starts_with("no"), "{:?}", lines().next());
    }
}

/// What is in the database is what clients were told.
#[track_caller]
fn check_books(database: &Database, committed: &[u64], undone: &[u64]) {
    let mut admin = Client::login(&database.postgres().superuser(database.name()));
    let there = admin.execute("select id from transfers").rows();
    let there: BTreeSet<u64> =
        there.iter().map(|row| row[0].as_deref().expect("an id").parse().expect("a number")).collect();
    let lost: Vec<_> = committed.iter().filter(|id| !there.contains(id)).collect();
    let ghosts: Vec<_> = undone.iter().filter(|id| there.contains(id)).collect();
    assert!(lost.is_empty(), "told to be committed, and not there: {lost:?}");
    assert!(ghosts.is_empty(), "not committed by their clients, and there: {ghosts:?}");

    let none = [
        ("the sum of all accounts", format!("select sum(balance) - {} from accounts", START * ACCOUNTS)),
        (
            "accounts that differ from their entries",
            format!(
                "select count(*) from accounts a where balance - {START} <> \
                 (select coalesce(sum(amount), 0) from entries where account = a.id)"
            ),
        ),
        (
            "transfers without their two entries",
            "select count(*) from transfers t where (select (count(*), sum(amount)) <> (2::bigint, 0::numeric) \
             from entries where transfer = t.id)"
                .to_string(),
        ),
        (
            "entries without a transfer",
            "select count(*) from entries e where not exists (select from transfers where id = e.transfer)".to_string(),
        ),
        ("locks", "select count(*) from pg_locks where locktype = 'relation' and pid <> pg_backend_pid() \
           and database = (select oid from pg_database where datname = current_database())".to_string()),
    ];
    admin.execute("create index on entries (transfer); create index on entries (account)");
    for (what, sql) in none {
        assert_eq!(admin.scalar(&sql), "0", "{what}");
    }
}

/// Every server connection that the pool may have can still be had, all at once.
#[track_caller]
fn check_capacity(pooled: &Pooled) {
    let mut clients: Vec<Client> = (0..SERVERS).map(|_| pooled.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.execute("begin")));
    let pids: BTreeSet<i32> = clients.iter_mut().map(Client::backend_pid).collect();
    assert_eq!(pids.len(), SERVERS);
    clients.iter_mut().for_each(|client| drop(client.execute("commit")));
    wait_until_idle(&pooled.database, SERVERS);
}
