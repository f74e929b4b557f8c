//! Another host becomes the primary, in every way that this comes about, while many clients write.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::frontend::*;
use support::postgres::{Options, Postgres, Stop};
use support::replicas::Replicas;
use support::tap::{Link, Rule, Tap};
use support::wait::{eventually, patient};
use support::wire::{Client, Reply};

use super::ledger::{self, Ledger, inserts_logged};
use super::{Fleet, PORT, SOON, last_value};
use crate::console::row_where;
use crate::probe::size;

/// Connections to the primary: as many statements can be under way.
const SERVERS: usize = 10;
/// The promised time from a promotion to the first commit at the new primary, doubled for slow machines.
const RECOVERY: Duration = Duration::from_secs(4);
/// How long clients write before something happens, and behind it.
const MEANWHILE: Duration = Duration::from_secs(2);

fn clients() -> usize {
    size("FAILOVER_CLIENTS", 40)
}

/// Hosts that log what is written. The first replica has every commit that was acknowledged.
fn fleet(replicas: usize) -> Fleet {
    let set = Replicas::start_with(replicas, Options::new().config("log_statement = mod"));
    let fleet = Fleet::start(Arc::new(set), ledger::SETUP, |builder| {
        builder
            .setting("default_pool_size", SERVERS)
            .setting("max_client_conn", 1000)
            .setting("query_wait_timeout", 8)
            .setting("probe_interval", "200ms")
            .setting("probe_timeout", "500ms")
    });
    fleet.set.replicas[0].follow_in_step(&fleet.set.primary, "heir");
    fleet
}

fn heir(fleet: &Fleet) -> &Postgres {
    &fleet.set.replicas[0]
}

/// Clients that do nothing while others suffer, each with a setting and a statement of its own.
struct Idle(Vec<Client>);

impl Idle {
    fn begin(fleet: &Fleet) -> Idle {
        let clients = (0..20).map(|number| {
            let mut client = fleet.connect();
            client.execute(&format!("set app.mine = 'client {number}'"));
            let sql = "select current_setting('app.mine'), count(*) from ledger where id < $1 and id < 0";
            client.send([parse("mine", sql, &[]), sync()].concat());
            client.read_until_ready();
            client
        });
        Idle(clients.collect())
    }

    /// They have heard nothing, and go on.
    fn go_on(&mut self) {
        for (number, client) in self.0.iter_mut().enumerate() {
            client.send([bind("", "mine", &[Some("0")]), execute("", 0), sync()].concat());
            let reply = client.read_until_ready();
            assert_eq!(reply.tags(), "2DCZ", "client {number}: {reply:?}");
            assert_eq!(reply.rows()[0][0], Some(format!("client {number}")));
            let insert =
                format!("insert into ledger values (-{number} - 1) returning current_setting('app.mine')");
            assert_eq!(client.scalar(&insert), format!("client {number}"));
        }
    }
}

#[track_caller]
fn report(name: &str, ledger: &Ledger, promotions: &[Instant]) {
    let times: Vec<Duration> = promotions.iter().map(|promoted| ledger.recovery(*promoted)).collect();
    println!("{name}: {} clients, {}, from promotion to commit {times:.2?}", clients(), ledger.summary());
    assert!(ledger.committed() > 100, "so few that something is wrong with the test: {}", ledger.summary());
    let slowest = times.iter().max().expect("a promotion");
    assert!(*slowest < patient(RECOVERY), "{slowest:?} until the new primary was used");
}

/// Rows 72 and 77: the old primary stays up and could be written to. It is left at once, for good, and a pooler that
/// starts now goes to the right one.
#[test]
fn a_replica_is_promoted_beside_the_primary() {
    let fleet = fleet(2);
    let mut idle = Idle::begin(&fleet);
    let (ledger, promoted) = Ledger::keep(&fleet.target(), clients(), || {
        thread::sleep(MEANWHILE);
        heir(&fleet).promote();
        let promoted = Instant::now();
        eventually("the new primary is written to", SOON, || inserts_logged(heir(&fleet)) > 0);
        // What was under way has arrived by now.
        thread::sleep(Duration::from_secs(1));
        let before = inserts_logged(&fleet.set.primary);
        thread::sleep(MEANWHILE);
        assert_eq!(inserts_logged(&fleet.set.primary), before, "the old primary is written to");
        promoted
    });
    report("promoted beside the primary", &ledger, &[promoted]);
    ledger.check(heir(&fleet), fleet.database.name());
    idle.go_on();
    let roles: Vec<String> = fleet.shown().iter().map(|row| row.text("role").to_string()).collect();
    assert_eq!(roles[..2], ["fenced", "primary"]);

    let hosts = super::hosts(&fleet.set, &fleet.database);
    let late = crate::common::pooler()
        .setting("read_routing", "auto")
        .database_line(fleet.database.name(), &hosts)
        .start();
    let mut client = late.connect(fleet.database.name());
    let insert = format!("insert into ledger values (-100) returning {PORT}");
    assert_eq!(fleet.place_of(&client.execute(&insert)), 1, "a pooler that comes late");
}

/// A pooler that starts now, and hears of the new primary last, writes nothing to the old one.
#[test]
fn a_pooler_starts_when_a_replica_was_promoted() {
    let set = std::sync::Arc::new(Replicas::start(1));
    let database = super::database_of(&set, "create table ledger (id bigint)");
    set.replicas[0].promote();
    let slowly = Rule { delay_to_client: Duration::from_millis(100), ..Rule::default() };
    let tap = Tap::with_rules(set.replicas[0].address(), move |_| slowly.clone());
    let hosts = super::line(set.primary.port(), &[tap.port()], &database);
    let pooler = crate::common::pooler()
        .setting("read_routing", "auto")
        .setting("probe_timeout", "5s")
        .database_line(database.name(), &hosts)
        .start();
    let fleet = Fleet { pooler, database, set };
    let insert = format!("insert into ledger values (1) returning {PORT}");
    assert_eq!(fleet.place_of(&fleet.connect().execute(&insert)), 1);
    let written = fleet.sql_at(0, "select count(*) from ledger");
    assert_eq!(written.rows()[0][0].as_deref(), Some("0"), "at the old primary");
}

/// Row 74: the primary is gone without a word.
#[test]
fn the_primary_stops_and_a_replica_is_promoted() {
    let fleet = fleet(2);
    let mut idle = Idle::begin(&fleet);
    let (ledger, promoted) = Ledger::keep(&fleet.target(), clients(), || {
        thread::sleep(MEANWHILE);
        fleet.set.primary.stop(Stop::Immediate);
        thread::sleep(Duration::from_millis(500));
        heir(&fleet).promote();
        let promoted = Instant::now();
        thread::sleep(MEANWHILE);
        promoted
    });
    report("stopped, then promoted", &ledger, &[promoted]);
    ledger.check(heir(&fleet), fleet.database.name());
    idle.go_on();
}

/// Row 73: the primary says nothing any more, and comes back when there is another.
#[test]
fn the_primary_freezes_and_thaws_behind_another() {
    let fleet = fleet(2);
    let mut idle = Idle::begin(&fleet);
    let (ledger, promoted) = Ledger::keep(&fleet.target(), clients(), || {
        thread::sleep(MEANWHILE);
        fleet.set.primary.freeze();
        thread::sleep(Duration::from_millis(500));
        heir(&fleet).promote();
        let promoted = Instant::now();
        eventually("the new primary is written to", SOON, || inserts_logged(heir(&fleet)) > 0);
        thread::sleep(Duration::from_secs(1));
        let before = inserts_logged(&fleet.set.primary);
        fleet.set.primary.thaw();
        thread::sleep(MEANWHILE);
        let since = inserts_logged(&fleet.set.primary) - before;
        assert!(since <= SERVERS, "{since} statements after it came back, more than were under way");
        promoted
    });
    report("frozen, then promoted, then thawed", &ledger, &[promoted]);
    ledger.check(heir(&fleet), fleet.database.name());
    idle.go_on();
    assert_eq!(fleet.shown()[0].text("role"), "fenced");
}

/// Row 75: primary and replica change places over and over.
#[test]
fn the_roles_change_every_few_seconds() {
    let set = Replicas::start_with(1, Options::new().config("log_statement = mod"));
    let fleet = Fleet::start(Arc::new(set), ledger::SETUP, |builder| {
        builder
            .setting("default_pool_size", SERVERS)
            .setting("max_client_conn", 1000)
            .setting("query_wait_timeout", 8)
    });
    let flaps = size("FAILOVER_FLAPS", 3);
    let mut idle = Idle::begin(&fleet);
    let hosts = [&fleet.set.primary, &fleet.set.replicas[0]];
    let before = fleet.pooler.cpu_time();
    let (ledger, promotions) = Ledger::keep(&fleet.target(), clients(), || {
        let flap = |number: usize| {
            let next = Instant::now() + Duration::from_secs(5);
            thread::sleep(MEANWHILE);
            let [old, new] = [hosts[number % 2], hosts[(number + 1) % 2]];
            let promoted = old.hand_over(new);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            promoted
        };
        (0..flaps).map(flap).collect::<Vec<Instant>>()
    });
    println!("processor time of the pooler: {:?}", fleet.pooler.cpu_time() - before);
    report("roles that change", &ledger, &promotions);
    ledger.check(hosts[flaps % 2], fleet.database.name());
    idle.go_on();
}

/// A standby that follows a primary that is none any more may have more WAL than the new one, of another history.
#[test]
fn standbys_of_the_old_primary_are_not_read() {
    let fleet = fleet(2);
    let (old, other) = (&fleet.set.primary, &fleet.set.replicas[1]);
    heir(&fleet).promote();
    let far = "set synchronous_commit = local; create table ballast as select repeat('x', 1000) from generate_series(1, 20000)";
    fleet.database.sql(far);
    other.wait_for_position(old.position());
    assert!(other.position() > heir(&fleet).position());
    let mut client = fleet.connect();
    let insert = |id: u64| format!("insert into ledger values ({id}) returning {PORT}");
    eventually("the new primary is written to", SOON, || {
        let reply = client.query(&insert(0));
        reply.error().is_none() && fleet.place_of(&reply) == 1
    });
    for id in 1..=50 {
        client.execute(&insert(id));
        let reply = client.execute(&format!("select count(*), {PORT} from ledger where id = {id}"));
        assert_eq!(reply.rows()[0][0].as_deref(), Some("1"), "at host {}", fleet.place_of(&reply));
    }
}

/// The error that a client gets, which may be the last thing that it gets.
#[track_caller]
fn error_of(client: &mut Client) -> (String, bool) {
    let mut code = String::new();
    loop {
        match client.try_read() {
            Ok(message) => {
                if let Some(error) = message.error() {
                    code = error.code().to_string();
                }
                if message.tag == b'Z' {
                    return (code, true);
                }
            }
            Err(error) if support::peer::is_end(&error) => return (code, false),
            Err(error) => panic!("{error} after {code:?}"),
        }
    }
}

/// A transaction that was under way is over, and its client knows; nothing of it is done again.
#[test]
fn transactions_cut_in_the_middle() {
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        let fleet = fleet(1);
        let mut writing = fleet.connect();
        writing.execute("begin; insert into ledger values (1)");
        let mut reading = fleet.connect();
        reading.execute("begin read only; select count(*) from ledger");
        fleet.set.primary.stop(how);
        let _ = writing.peer().send(&query("insert into ledger values (2)"));
        let (code, open) = error_of(&mut writing);
        assert!(["57P01", "57P02", "08006"].contains(&code.as_str()), "{how:?}: {code}");
        // That one was at the replica.
        assert_eq!(reading.scalar("select count(*) from ledger"), "0", "{how:?}");

        heir(&fleet).promote();
        let mut client = if open { writing } else { fleet.connect() };
        assert_eq!(
            fleet.place_of(&client.execute(&format!("insert into ledger values (3) returning {PORT}"))),
            1
        );
        reading.execute("commit");
        assert_eq!(client.scalar("select string_agg(id::text, ',') from ledger"), "3", "{how:?}");
    }
}

/// A transaction of reads whose replica dies is over as well: what it has seen is gone.
#[test]
fn reading_transactions_cut_in_the_middle() {
    let fleet = fleet(2);
    let mut client = fleet.connect();
    client.execute("begin isolation level repeatable read, read only");
    let place = fleet.reads_at(&mut client);
    fleet.members()[place].stop(Stop::Immediate);
    let _ = client.peer().send(&query("select count(*) from ledger"));
    let (code, open) = error_of(&mut client);
    assert!(["57P01", "57P02", "08006"].contains(&code.as_str()), "{code}");
    let mut client = if open { client } else { fleet.connect() };
    assert_eq!(client.scalar("select count(*) from ledger"), "0");
}

/// New transactions wait for the new primary; how long is `query_wait_timeout`.
#[test]
fn writes_wait_for_a_primary() {
    let fleet = fleet(1);
    let mut client = fleet.connect();
    client.execute("insert into ledger values (1)");
    fleet.set.primary.stop(Stop::Immediate);
    client.send(query(&format!("insert into ledger values (2) returning {PORT}")));
    let mut reader = fleet.connect();
    eventually("reads go on", SOON, || {
        let reply = reader.query(&format!("select count(*), {PORT} from ledger"));
        reply.error().is_none() && fleet.place_of(&reply) == 1
    });
    heir(&fleet).promote();
    let reply = client.read_until_ready();
    assert_eq!(reply.error(), None);
    assert_eq!(fleet.place(&last_value(&reply)), 1);
}

/// What becomes of a COMMIT whose answer is lost.
struct Lost {
    fleet: Fleet,
    tap: Tap,
}

impl Lost {
    fn start() -> Lost {
        let set = Arc::new(Replicas::start(1));
        let database = super::database_of(&set, ledger::SETUP);
        let tap = Tap::start(set.primary.address());
        let hosts = super::line(tap.port(), &[set.replicas[0].port()], &database);
        let pooler = crate::common::pooler()
            .setting("read_routing", "auto")
            .database_line(database.name(), &hosts)
            .start();
        super::wait_until_known(&pooler, database.name(), 1);
        Lost { fleet: Fleet { pooler, database, set }, tap }
    }

    /// The connection over which this went.
    #[track_caller]
    fn link(&self, text: &str) -> Link {
        let carried = |link: &Link| {
            let bytes = link.to_server();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        self.tap.links().into_iter().find(carried).unwrap_or_else(|| panic!("nobody has sent {text:?}"))
    }

    fn received(&self) -> u64 {
        let name = self.fleet.database.name();
        row_where(&mut self.fleet.pooler.console(), "STATS", "database", name).number("total_received")
    }

    fn is_there(&self, id: u64) -> bool {
        self.fleet.database.scalar(&format!("select count(*) from ledger where id = {id}")) == "1"
    }

    /// The answer to a COMMIT that has got to the server, or not, when its connection breaks.
    #[track_caller]
    fn commit(&self, id: u64, arrives: bool) -> (Client, Vec<support::message::Message>) {
        let mut client = self.fleet.connect();
        let insert = format!("insert into ledger values ({id})");
        client.execute("begin");
        client.execute(&insert);
        let link = self.link(&insert);
        let before = self.received();
        if arrives {
            link.freeze_to_client()
        } else {
            link.freeze_to_server()
        }
        client.send(query("commit"));
        if arrives {
            eventually("it is committed", SOON, || self.is_there(id));
        } else {
            eventually("the pooler has it", SOON, || self.received() > before);
        }
        link.reset();
        let mut messages = Vec::new();
        while let Ok(message) = client.try_read() {
            messages.push(message);
            if messages.last().is_some_and(|message| message.tag == b'Z') {
                break;
            }
        }
        (client, messages)
    }
}

/// Nobody knows: `40003`, whatever has happened.
#[test]
fn a_commit_whose_answer_is_lost() {
    let lost = Lost::start();
    for (id, arrives) in [(1, true), (2, false)] {
        let (_, messages) = lost.commit(id, arrives);
        assert_eq!(Reply(messages).error_code(), "40003");
        assert_eq!(lost.is_there(id), arrives);
    }
    assert_eq!(lost.fleet.connect().scalar("select count(*) from ledger"), "1");
}
