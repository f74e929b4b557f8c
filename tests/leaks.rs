//! Many clients on few servers change their sessions in every way, in transactions that commit or do not, and die at any
//! moment. After every transaction each checks that it sees its own state and nobody else's. (Bugs 24 to 39 of other
//! poolers, all at once.) `LEAK_SECONDS` makes it longer, `LEAK_SEED` repeats what clients do.

mod model;

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::frontend::*;
use support::message::Message;
use support::postgres::{Database, Postgres, USER};
use support::wire::{Client, Target};

use crate::common::{Pooled, pooled};
use crate::probe::{Random, StopAtEnd, size, wait_until_idle};
use model::{BOSS, Model, OTHER, Piece, ROLES, Want, pick, plain};

const SERVERS: usize = 5;
/// So many clients may keep their servers at a time: with none left over all others would wait for ever.
const PINNED: usize = SERVERS - 1;
const CLIENTS: u64 = 50;
/// Superusers, on a pool of their own.
const BOSSES: u64 = 10;

/// Messages up to a `ReadyForQuery`, and what must come back for each statement up to it.
struct Unit {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Unit {
    /// One statement, in any form that it has.
    fn of(piece: Piece, random: &mut Random) -> Unit {
        let bytes = match &piece.simple {
            Some(sql) if random.one_in(2) => query(sql),
            Some(sql) if random.one_in(3) => {
                let name = *pick(random, &["u", "v"]);
                let named = [close_statement(name), parse(name, sql, &[]), bind("", name, &[])];
                [named.concat(), execute("", 0), sync()].concat()
            }
            _ => [piece.extended.clone(), sync()].concat(),
        };
        Unit { bytes, pieces: vec![piece] }
    }

    /// Several statements in one query string.
    fn several(pieces: Vec<Piece>) -> Unit {
        let texts: Vec<&str> = pieces.iter().filter_map(|piece| piece.simple.as_deref()).collect();
        Unit { bytes: query(&texts.join("; ")), pieces }
    }

    /// Several statements in front of one `Sync`.
    fn batch(pieces: Vec<Piece>) -> Unit {
        let messages = pieces.iter().flat_map(|piece| piece.extended.clone());
        Unit { bytes: messages.chain(sync()).collect(), pieces }
    }
}

/// The way in of one client.
#[derive(Clone)]
struct Entrance<'a> {
    target: Target,
    number: u64,
    database: &'a Database,
    defaults: &'a BTreeMap<String, String>,
    /// How many more may keep their servers.
    tokens: &'a AtomicUsize,
    /// Start-up packets have settings.
    begins: bool,
}

/// The right to keep a server.
struct Token<'a>(&'a AtomicUsize);

impl<'a> Token<'a> {
    fn take(left: &'a AtomicUsize) -> Option<Token<'a>> {
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok().map(|_| Token(left))
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Tally {
    transactions: usize,
    deaths: usize,
    pinned: usize,
    notifications: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.transactions += other.transactions;
        self.deaths += other.deaths;
        self.pinned += other.pinned;
        self.notifications += other.notifications;
    }
}

/// A client with the model of its session.
struct Hunter<'a> {
    entrance: Entrance<'a>,
    random: Random,
    client: Client,
    model: Model,
    token: Option<Token<'a>>,
    /// The transaction at hand is sent at once, not statement by statement.
    pipelined: bool,
    history: VecDeque<String>,
    tally: Tally,
}

/// What was seen that should not have been.
type Difference = String;

impl<'a> Hunter<'a> {
    fn new(entrance: Entrance<'a>, mut random: Random) -> Hunter<'a> {
        let mut history = VecDeque::new();
        let (client, model) = log_in(&entrance, &mut random, 0, &mut history);
        Hunter {
            entrance,
            random,
            client,
            model,
            token: None,
            pipelined: false,
            history,
            tally: Tally::default(),
        }
    }

    /// Transactions, one after the other, until time is over.
    fn hunt(mut self, over: impl Fn() -> bool) -> Result<Tally, Difference> {
        while !over() {
            if let Err(what) = self.round() {
                let history = Vec::from(self.history).join("\n    ");
                let number = self.entrance.number;
                let servers = activity(self.entrance.database).join("\n    ");
                return Err(format!(
                    "client {number}: {what}, after\n    {history}\nservers:\n    {servers}"
                ));
            }
        }
        Ok(self.tally)
    }

    fn round(&mut self) -> Result<(), Difference> {
        if self.token.is_none() && self.random.one_in(6) {
            self.token = Token::take(self.entrance.tokens);
            self.tally.pinned += usize::from(self.token.is_some());
        }
        self.model.may_pin = self.token.is_some();
        self.tally.transactions += 1;
        let units = self.transaction();
        if self.random.one_in(25) {
            self.die_in(&units);
            return Ok(());
        }
        self.run(&units)?;
        self.look()?;
        if self.token.is_some() && self.random.one_in(6) {
            self.let_go()?;
        }
        Ok(())
    }

    /// A random transaction, whose effects the model has then.
    fn transaction(&mut self) -> Vec<Unit> {
        let (model, random) = (&mut self.model, &mut self.random);
        let (count, shape) = (1 + random.below(4), random.below(8));
        self.pipelined = random.one_in(3);
        model.at_once = self.pipelined || matches!(shape, 3 | 4);
        (model.unlistened, model.reset_all) = (false, false);
        match shape {
            0..=2 => {
                let all = model.may_pin;
                // Behind a DISCARD ALL that is not answered a name that it frees still counts as taken.
                let discards = !self.pipelined;
                let one =
                    |_| match (discards && random.one_in(30)).then(|| model.discard(random, all)).flatten() {
                        Some(piece) => Unit::of(piece, random),
                        None => Unit::of(model.alone(|model| model.statement(random, false)), random),
                    };
                (0..count).map(one).collect()
            }
            3 => vec![Unit::several(implicit(model, |model| model.statement(random, true), count))],
            4 => vec![Unit::batch(implicit(model, |model| model.statement(random, false), count))],
            _ => {
                model.begin();
                let mut units = vec![Unit::of(plain("begin", Want::Done), random)];
                for _ in 0..count * 2 {
                    let piece = match random.one_in(4) || model.is_aborted() && random.one_in(2) {
                        true => model.savepoint(random),
                        false => model.statement(random, false),
                    };
                    units.push(Unit::of(piece, random));
                }
                let commits = random.below(3) > 0;
                if commits {
                    model.commit()
                } else {
                    model.roll_back()
                }
                let end = if commits { "commit" } else { "rollback" };
                units.push(Unit::of(plain(end, Want::Done), random));
                units
            }
        }
    }

    /// Sends them at once or one after the other, and compares what comes back.
    fn run(&mut self, units: &[Unit]) -> Result<(), Difference> {
        let pipelined = self.pipelined;
        self.note(if pipelined { "-- at once:" } else { "-- one after the other:" });
        if pipelined {
            self.send(&units.iter().flat_map(|unit| unit.bytes.clone()).collect::<Vec<u8>>())?;
        }
        for unit in units {
            if !pipelined {
                self.send(&unit.bytes)?;
            }
            let kind = if unit.bytes[0] == b'Q' { "simple" } else { "extended" };
            let shown: Vec<_> = unit.pieces.iter().map(|piece| piece.shown.as_str()).collect();
            self.note(&format!("{kind}: {}", shown.join("; ")));
            self.read(unit)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        self.client.peer().send(bytes).map_err(|error| format!("can't send: {error}"))
    }

    fn next(&mut self) -> Result<Message, Difference> {
        loop {
            let message = self.client.try_read().map_err(|error| format!("no answer: {error}"))?;
            if message.tag != b'A' {
                return Ok(message);
            }
            let texts = String::from_utf8_lossy(&message.body[4..]).into_owned(); // behind the process id
            let mut texts = texts.split('\0').map(str::to_owned);
            let heard = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
            // In order on each channel. Between two it can differ while the client begins to listen to one of them.
            let place = self.model.heard.iter().position(|(channel, _)| *channel == heard.0);
            let wanted = place.and_then(|place| self.model.heard.remove(place));
            self.tally.notifications += 1;
            if wanted.as_ref() != Some(&heard) {
                return Err(format!("notified of {heard:?} instead of {wanted:?}"));
            }
        }
    }

    /// The answers up to `ReadyForQuery`.
    fn read(&mut self, unit: &Unit) -> Result<(), Difference> {
        let mut wants = unit.pieces.iter().filter_map(|piece| piece.want.as_ref());
        let (mut rows, mut failed) = (Vec::new(), false);
        loop {
            let message = self.next()?;
            match message.tag {
                b'D' => rows.extend(message.row().and_then(|row| row.into_iter().next())),
                b'C' | b'E' | b'I' => {
                    let error = message.error();
                    failed |= error.is_some();
                    let rows = std::mem::take(&mut rows)
                        .into_iter()
                        .map(|value| String::from_utf8_lossy(&value.unwrap_or_default()).into_owned());
                    let rows: Vec<String> = rows.collect();
                    let right = match (wants.next(), &error) {
                        (Some(Want::Done), None) => true,
                        (Some(Want::Rows(wanted)), None) => *wanted == rows,
                        (Some(Want::Fails(code)), Some(fields)) => fields.code() == *code,
                        _ => false,
                    };
                    if !right {
                        let wants: Vec<_> =
                            unit.pieces.iter().filter_map(|piece| piece.want.as_ref()).collect();
                        return Err(format!("got {error:?} {rows:?}\n  of    {wants:?}"));
                    }
                }
                b'Z' if failed || wants.next().is_none() => return Ok(()),
                b'Z' => return Err("fewer answers than statements".into()),
                _ => {}
            }
        }
    }

    /// All that can be seen must be what the model has.
    fn look(&mut self) -> Result<(), Difference> {
        let look = match self.random.one_in(2) {
            true => Unit::batch(vec![self.model.look(true)]),
            false => Unit::of(self.model.look(false), &mut self.random),
        };
        self.note(&format!("look: {:?}", look.bytes[0] as char));
        self.send(&look.bytes)?;
        self.read(&look).map_err(|what| format!("sees another session: {what}"))?;
        while !self.model.heard.is_empty() {
            let message =
                self.next().map_err(|what| format!("{:?} did not come: {what}", self.model.heard))?;
            if !matches!(message.tag, b'S' | b'N') {
                return Err(format!("{message:?} instead of {:?}", self.model.heard));
            }
        }
        match self.model.misreported(&self.client.params) {
            None => Ok(()),
            Some((name, value)) => Err(format!("was told {:?}, not {name}={value:?}", self.client.params)),
        }
    }

    /// Ends all for which it keeps its server.
    fn let_go(&mut self) -> Result<(), Difference> {
        let pieces = match self.random.below(3) {
            0 => {
                self.die_in(&[]);
                return Ok(());
            }
            1 => self.model.discard(&mut self.random, true).map(|piece| vec![piece]),
            _ => None,
        };
        let pieces = pieces.unwrap_or_else(|| self.model.tidy());
        let units: Vec<Unit> = pieces.into_iter().map(|piece| Unit::of(piece, &mut self.random)).collect();
        assert!(!self.model.is_pinned(), "{:?}", self.model);
        self.pipelined = false;
        self.run(&units)?;
        self.look()?;
        self.token = None;
        Ok(())
    }

    /// Sends a part of what it was to do, and dies in one way or another. Another client takes its place.
    fn die_in(&mut self, units: &[Unit]) {
        self.tally.deaths += 1;
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.bytes.clone()).collect();
        let whole = self.random.one_in(4);
        let cut = if whole { bytes.len() } else { self.random.below(bytes.len() as u64 + 1) as usize };
        let _ = self.client.peer().send(&bytes[..cut]); // a fault shows in the next session
        thread::sleep(Duration::from_micros(self.random.below(2) * self.random.below(2000)));
        // Behind a part of a message it would be taken for the rest of that.
        if whole && self.random.one_in(2) {
            let _ = self.client.peer().send(&terminate());
        }
        let (client, model) =
            log_in(&self.entrance, &mut self.random, self.tally.deaths as u64, &mut self.history);
        self.model = model;
        let dead = std::mem::replace(&mut self.client, client);
        if self.random.one_in(2) {
            dead.abort();
        }
        self.token = None;
    }

    fn note(&mut self, what: &str) {
        note(&mut self.history, what);
    }
}

fn note(history: &mut VecDeque<String>, what: &str) {
    const KEPT: usize = 60;
    history.push_back(what.to_owned());
    if history.len() > KEPT {
        history.pop_front();
    }
}

/// Statements that are one transaction: up to the first that fails.
fn implicit(model: &mut Model, mut statement: impl FnMut(&mut Model) -> Piece, count: u64) -> Vec<Piece> {
    model.begin();
    let mut pieces = Vec::new();
    while pieces.len() < count as usize && !model.is_aborted() {
        pieces.push(statement(model));
    }
    model.commit();
    pieces
}

/// A new session. The client's last one may still be on its way out.
fn log_in(
    entrance: &Entrance<'_>,
    random: &mut Random,
    life: u64,
    history: &mut VecDeque<String>,
) -> (Client, Model) {
    let beginning = if entrance.begins && random.one_in(2) { Model::beginning(random) } else { Vec::new() };
    note(history, &format!("-- a new session with {beginning:?}"));
    let (mut target, mut options) = (entrance.target.clone(), String::new());
    for (name, value) in &beginning {
        match name.contains('.') || random.one_in(2) {
            true => options += &format!(" -c {name}={}", value.replace(' ', "\\ ")),
            false => target = target.param(name, value),
        }
    }
    if !options.is_empty() {
        target = target.param("options", &options);
    }
    let names = (entrance.number, life);
    let model = Model::new(names, &entrance.target.user, entrance.defaults, &beginning);
    (Client::login(&target), model)
}

// ---- the hunts -----------------------------------------------------------------------------------------------------

/// Roles of the cluster: once for all databases.
fn create_roles(postgres: &Postgres) {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let [one, two] = ROLES;
        postgres.sql(&format!(
            "create role {one}; create role {two}; create role {BOSS} login superuser; create role {OTHER} login; \
             grant {one}, {two} to {USER}, {OTHER}"
        ));
    });
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("LEAK_SEED").ok().map(|seed| seed.parse().expect("LEAK_SEED is a number"));
        let seed = given.unwrap_or_else(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_micros() as u64)
        });
        println!("LEAK_SEED={seed}");
        seed
    })
}

/// All clients at once, for a time or up to the first difference.
fn hunt(
    target: &Target,
    database: &Database,
    pinned: usize,
    begins: bool,
    time: Duration,
) -> Result<Tally, Difference> {
    let names = [(USER, CLIENTS), (BOSS, BOSSES)];
    let (end, stopped) = (Instant::now() + time, AtomicBool::new(false));
    let over = || stopped.load(Relaxed) || Instant::now() >= end;
    let tokens = names.map(|_| AtomicUsize::new(pinned));
    let defaults = names.map(|(user, _)| defaults(&database.target().user(user)));
    let results = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, (user, count)) in names.into_iter().enumerate() {
            for number in 0..count {
                let entrance = Entrance {
                    target: target.clone().user(user),
                    number: index as u64 * 100 + number,
                    database,
                    defaults: &defaults[index],
                    tokens: &tokens[index],
                    begins,
                };
                let random = Random::new(seed() ^ entrance.number << 32);
                let (stopped, over) = (&stopped, &over);
                threads.push(scope.spawn(move || {
                    let _stop = StopAtEnd(stopped); // by a difference, a panic, or because it is over
                    Hunter::new(entrance, random).hunt(over)
                }));
            }
        }
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect::<Vec<_>>()
    });
    let mut all = Tally::default();
    for tally in results {
        all += tally?;
    }
    println!("{all:?} in {time:?}");
    Ok(all)
}

/// What the database's servers do.
fn activity(database: &Database) -> Vec<String> {
    let sql = "select concat_ws(' ', pid, usename, state, now() - state_change, wait_event, left(query, 300)) \
               from pg_stat_activity where datname = current_database()";
    database.sql(sql).rows().into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

/// What a session directly on PostgreSQL begins with.
fn defaults(target: &Target) -> BTreeMap<String, String> {
    let rows = Client::login(target).execute("select name, current_setting(name) from pg_settings").rows();
    let pair = |mut row: Vec<Option<String>>| Some((row[0].take()?, row[1].take()?));
    rows.into_iter().filter_map(pair).collect()
}

fn seconds(usual: usize) -> Duration {
    Duration::from_secs(size("LEAK_SECONDS", usual) as u64)
}

fn hunted(setting: &str, value: &str) -> Pooled {
    create_roles(&Postgres::shared());
    pooled(&model::setup(), |builder| {
        let builder = builder.setting("default_pool_size", SERVERS).setting("max_client_conn", 1000);
        let builder = builder.setting("server_round_robin", 1).setting("max_prepared_statements", 20);
        let builder = builder.setting("log_connections", 0).setting("log_disconnections", 0);
        builder.setting(setting, value).secret(BOSS, "")
    })
}

/// The model is PostgreSQL's own: directly, each client sees what it says.
#[test]
fn sessions_of_postgresql_are_as_the_model_says() {
    create_roles(&Postgres::shared());
    let database = Postgres::shared().database("leaks");
    database.connect().execute(&model::setup());
    let found = hunt(&database.target(), &database, usize::MAX >> 1, true, seconds(4));
    found.unwrap_or_else(|what| panic!("the model is wrong: {what}"));
}

#[test]
fn nobody_sees_the_state_of_others() {
    let pooled = hunted("session_state", "preserve");
    let found = hunt(&pooled.target(), &pooled.database, PINNED, true, seconds(10));
    let tally = found.unwrap_or_else(|what| panic!("{what}"));
    assert!(tally.transactions > 200 && tally.pinned > 5 && tally.deaths > 5, "hardly a hunt: {tally:?}");
    wait_until_idle(&pooled.database, SERVERS);
    let log = pooled.pooler.log();
    let bad = log.lines().find(|line| line.contains("crashed") || line.contains("broke the protocol"));
    assert_eq!(bad, None, "{}", pooled.database.log());
}

/// The hunt is worth something: where state does not follow its client it finds that at once.
#[test]
fn the_hunt_finds_what_is_not_preserved() {
    let pooled = hunted("session_state", "discard");
    let found = hunt(&pooled.target(), &pooled.database, PINNED, false, Duration::from_secs(20));
    assert!(found.is_err(), "no difference: {found:?}");
}
