//! A replica, or what one client has there, is lost at an awkward moment: each request is answered once, in its turn.

use std::thread;
use std::time::Duration;

use support::frontend::*;
use support::pooler::PoolerBuilder;
use support::tap::{Link, Tap};
use support::wait::{eventually, patient};

use super::{Fleet, PORT, SOON, database_of, eventual, last_value, line, quiet_set, wait_until_known};
use crate::common::pooler;

const SETUP: &str = "create table t (id int primary key, v text); insert into t values (1, 'one')";

/// A primary with a replica, and a tap in front of that.
struct Tapped {
    tap: Tap,
    fleet: Fleet,
}

fn tapped(configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Tapped {
    let set = quiet_set();
    let database = database_of(&set, SETUP);
    let tap = Tap::start(set.replicas[0].address());
    let hosts = line(set.primary.port(), &[tap.port()], &database);
    let builder = pooler().setting("read_routing", "auto").setting("default_pool_size", 1);
    let pooler = configure(eventual(builder)).database_line(database.name(), &hosts).start();
    wait_until_known(&pooler, database.name(), 1);
    Tapped { tap, fleet: Fleet { pooler, database, set } }
}

impl Tapped {
    /// The connection over which this was asked.
    #[track_caller]
    fn link(&self, text: &str) -> Link {
        let mut found = None;
        eventually(&format!("the replica is asked {text:?}"), SOON, || {
            let mut links = self.tap.links().into_iter();
            found = links.find(|link| !link.is_over() && has_carried(link, text));
            found.is_some()
        });
        found.expect("it was asked")
    }
}

fn has_carried(link: &Link, text: &str) -> bool {
    link.to_server().windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

/// It is lost while it takes over the client's settings: nothing of the request was sent. Its client may have found it at
/// once, or got it from another worker.
#[test]
fn lost_before_the_request_was_sent() {
    for workers in [1, 2] {
        let tapped = tapped(|builder| builder.setting("workers", workers));
        let mut other = tapped.fleet.connect();
        let mut client = tapped.fleet.connect();
        client.execute("set work_mem = '7MB'");
        other.execute("select 'find me', v from t");
        let link = tapped.link("find me");
        link.freeze_to_client();
        client.send(query("select 'a', v from t"));
        eventually("settings are sent", SOON, || has_carried(&link, "work_mem"));
        link.cut();
        let reply = client.read_until_ready();
        assert_eq!(reply.rows()[0][0].as_deref(), Some("a"), "{workers} workers");
        let reply = client.execute("select 'b', v from t");
        assert_eq!(reply.rows()[0][0].as_deref(), Some("b"), "{workers} workers");
    }
}

/// It is lost while it runs a batch that closes what it has bound, and which has to be bound once more.
#[test]
fn lost_in_a_batch_that_closes_its_statement() {
    for name in ["n", ""] {
        let tapped = tapped(|builder| builder);
        let mut client = tapped.fleet.connect();
        client.send([parse(name, "select v, pg_sleep(0.5), 'find me' from t", &[]), sync()].concat());
        client.read_until_ready();
        client.send([bind("", name, &[]), execute("", 0), close_statement(name), sync()].concat());
        tapped.fleet.wait_for_running("select v, pg_sleep(0.5)");
        tapped.link("find me").cut();
        let reply = client.read_until_ready();
        assert_eq!((reply.error(), reply.tags().as_str()), (None, "2DC3Z"), "{name:?}");
        client.send([bind("", name, &[]), execute("", 0), sync()].concat());
        assert_eq!(client.read_until_ready().error_code(), "26000", "{name:?}");
    }
}

/// It says good-bye right behind an answer, and the next request is there already.
#[test]
fn good_bye_behind_an_answer() {
    let tapped = tapped(|builder| builder);
    let mut client = tapped.fleet.connect();
    client.execute("select 'find me', v from t");
    let link = tapped.link("find me");
    link.freeze_to_client();
    client.send([query("select 'first', v from t"), query("select 'second', v from t")].concat());
    tapped.link("'first'");
    let name = tapped.fleet.database.name();
    let of_it = format!("datname = '{name}' and starts_with(query, $$select 'first'$$)");
    let sql = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where {of_it} and state = 'idle'"
    );
    let replica = &tapped.fleet.set.replicas[0];
    eventually("the answer was sent", SOON, || replica.sql(&sql).rows()[0][0].as_deref() == Some("1"));
    let left = format!("select pid from pg_stat_activity where {of_it}");
    eventually("the process is gone", SOON, || replica.sql(&left).rows().is_empty());
    link.thaw();
    for name in ["first", "second"] {
        assert_eq!(client.read_until_ready().rows()[0][0].as_deref(), Some(name));
    }
}

/// A client that wants a replica has the only one there is again after it was lost there.
#[test]
fn the_only_replica_is_lost_and_comes_back() {
    let fleet = Fleet::own(1, SETUP, |builder| eventual(builder).setting("route", "replica"));
    let mut client = fleet.connect();
    let sql = "select v, pg_sleep(1) from t";
    client.send(query(sql));
    let (place, pid) = fleet.wait_for_running(sql);
    assert_eq!(place, 1);
    fleet.sql_at(place, &format!("select pg_terminate_backend({pid})"));
    assert_eq!(client.read_until_ready().rows().len(), 1);
    assert_eq!(fleet.reads_at(&mut client), 1);
}

/// A read whose servers die again and again is not tried for ever: its client is told, in the last one's words.
#[test]
fn a_read_that_kills() {
    let fleet = Fleet::own(2, SETUP, |builder| eventual(builder).setting("route", "replica"));
    let mut client = fleet.connect();
    let sql = "select v, pg_sleep(60) from t";
    client.send(query(sql));
    let told = thread::spawn(move || client.read_until(b'E'));
    let kill = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where state = 'active' and query = '{sql}'"
    );
    let mut died = 0;
    eventually("the client is told", patient(SOON), || {
        for place in [1, 2] {
            died += last_value(&fleet.sql_at(place, &kill)).parse::<usize>().expect("a number");
        }
        told.is_finished()
    });
    let said = told.join().expect("the client is told");
    assert_eq!(said.error_code(), "57P01", "{said:?}");
    assert!((2..=10).contains(&died), "{died}");
}

/// A read that was given up for the replica's replay is run by the primary; the next one like it is the replica's again.
#[test]
fn a_conflict_with_replay_is_not_remembered() {
    let fleet = Fleet::own(1, SETUP, eventual);
    fleet.set.replicas[0].configure("max_standby_streaming_delay = 0");
    let mut client = fleet.connect();
    client.send(query(&format!("select v, pg_sleep(2), {PORT} from t")));
    assert_eq!(fleet.wait_for_running("select v, pg_sleep(2)").0, 1);
    fleet.sql_at(0, "alter table t add column w int");
    let reply = client.read_until_ready();
    assert_eq!((reply.error(), fleet.place_of(&reply)), (None, 0));
    let again = format!("select v, pg_sleep(0), {PORT} from t");
    let mut reads = || fleet.place_of(&client.execute(&again));
    eventually("the replica reads again", Duration::from_secs(5), || reads() == 1);
}
