//! `commit_certainty`: the answer to a COMMIT is lost, and the client learns what became of its transaction, or that nobody
//! can know.

use support::frontend::*;
use support::postgres::{Postgres, Stop};
use support::replicas::Replicas;
use support::tap::Tap;
use support::wait::eventually;
use support::wire::{Client, Reply};

use super::{Fleet, PORT, SOON, database_of, line, wait_until_known};
use crate::common::pooler;

/// What is inserted with 2 makes the COMMIT take as long as nobody ends it.
const SETUP: &str = "create table kept (id int); grant all on kept to public; \
    create function linger() returns trigger language plpgsql as \
    $$ begin perform pg_sleep(600); return null; end $$; \
    create constraint trigger linger after insert on kept deferrable initially deferred \
    for each row when (new.id = 2) execute function linger()";

fn fleet() -> Fleet {
    Fleet::own(1, SETUP, |builder| {
        builder
            .setting("commit_certainty", 1)
            .setting("probe_interval", "200ms")
            .setting("probe_timeout", "500ms")
    })
}

/// Commits wait for a standby that does not exist; in the WAL they are.
#[track_caller]
fn commits_wait(primary: &Postgres) {
    primary.configure("synchronous_standby_names = 'nobody'");
    // It counts from when the checkpointer has read it, of which nobody hears.
    let mut other = Client::login(&primary.superuser("postgres"));
    let pid = other.backend_pid();
    let state =
        format!("select wait_event = 'SyncRep', state = 'idle' from pg_stat_activity where pid = {pid}");
    eventually("commits wait", SOON, || {
        other.send(query("select pg_logical_emit_message(true, 'test', '')"));
        let mut waits = false;
        eventually("a commit ends or waits", SOON, || {
            let row = primary.sql(&state).rows().remove(0);
            waits = row[0].as_deref() == Some("t");
            waits || row[1].as_deref() == Some("t")
        });
        if waits {
            primary.sql(&format!("select pg_cancel_backend({pid})"));
        }
        other.read_until_ready();
        waits
    });
}

/// A client that has written this number; the id of its transaction.
fn writer(fleet: &Fleet, id: u32) -> (Client, u64) {
    let mut client = fleet.connect();
    client.execute(&format!("begin; insert into kept values ({id})"));
    let xid = client.scalar("select txid_current()").parse().expect("an id");
    (client, xid)
}

/// Sends a COMMIT, and waits until the server is at work on that and waits for this.
#[track_caller]
fn commit(client: &mut Client, server: &Postgres, message: Vec<u8>, waits_for: &str) {
    client.send(message);
    let sql = format!(
        "select count(*) from pg_stat_activity where query = 'commit' and wait_event = '{waits_for}'"
    );
    eventually("it commits", SOON, || server.sql(&sql).rows()[0][0].as_deref() == Some("1"));
}

fn batch() -> Vec<u8> {
    [parse("", "commit", &[]), bind("", "", &[]), execute("", 0), sync()].concat()
}

/// The tags of a reply without what servers say beside it.
fn tags(reply: &Reply) -> String {
    reply.tags().replace(['N', 'S'], "")
}

/// Waits until the replica has all that the primary has, and has been looked at since.
#[track_caller]
fn replica_is_seen(fleet: &Fleet) {
    fleet.set.replicas[0].wait_for_position(fleet.set.primary.position());
    let probes = || fleet.shown()[1].number("probes");
    let before = probes();
    eventually("the replica is looked at", SOON, || probes() >= before + 2);
}

#[track_caller]
fn assert_goes_on(fleet: &Fleet, client: &mut Client, place: usize, expected: &[&str]) {
    let reply = client
        .execute(&format!("begin; select string_agg(id::text, ' ' order by id), {PORT} from kept; end"));
    assert_eq!(reply.rows()[0][0].as_deref().unwrap_or_default(), expected.join(" "));
    assert_eq!(fleet.place_of(&reply), place);
}

/// The transaction was committed, and the server crashes before it says so.
#[test]
fn a_crash_behind_the_commit() {
    for (message, expected) in [(query("commit"), "CZ"), (batch(), "12CZ")] {
        let fleet = fleet();
        let primary = &fleet.set.primary;
        let (mut client, _) = writer(&fleet, 1);
        commits_wait(primary);
        commit(&mut client, primary, message, "SyncRep");
        primary.stop(Stop::Immediate);
        primary.start_again();
        let reply = client.read_until_ready();
        assert_eq!(tags(&reply), expected, "{reply:?}");
        assert_eq!((reply.commands(), reply.status()), (vec!["COMMIT".to_owned()], Some(b'I')));
        assert_goes_on(&fleet, &mut client, 0, &["1"]);
    }
}

/// The server stops before the transaction has committed, orderly or not.
#[test]
fn a_stop_before_the_commit() {
    for how in [Stop::Fast, Stop::Immediate] {
        let fleet = fleet();
        let primary = &fleet.set.primary;
        let mut clients = [query("commit"), batch()].map(|message| {
            let (mut client, _) = writer(&fleet, 2);
            client.send(message);
            client
        });
        let sql = "select count(*) from pg_stat_activity where query = 'commit' and wait_event = 'PgSleep'";
        eventually("they commit", SOON, || primary.sql(sql).rows()[0][0].as_deref() == Some("2"));
        primary.stop(how);
        primary.start_again();
        for client in &mut clients {
            let reply = client.read_until_ready();
            assert_eq!(
                (reply.error_code().as_str(), reply.status()),
                ("40000", Some(b'I')),
                "{how:?}: {reply:?}"
            );
            assert_goes_on(&fleet, client, 0, &[]);
        }
    }
}

/// Only the connection is lost: the server itself is asked, until it has noticed.
#[test]
fn a_connection_that_is_cut() {
    let set = Replicas::start(1);
    let database = database_of(&set, SETUP);
    let tap = Tap::start(set.primary.address());
    let hosts = line(tap.port(), &[set.replicas[0].port()], &database);
    let pooler = pooler()
        .setting("commit_certainty", 1)
        .setting("read_routing", "auto")
        .database_line(database.name(), &hosts)
        .start();
    wait_until_known(&pooler, database.name(), 1);
    let mut client = pooler.connect(database.name());
    client.execute("begin; insert into kept values (1)");
    commits_wait(&set.primary);
    commit(&mut client, &set.primary, query("commit"), "SyncRep");
    let committing = tap.links().into_iter().filter(|link| link.to_server().ends_with(&query("commit")));
    let committing: Vec<_> = committing.collect();
    assert_eq!(committing.len(), 1);
    committing[0].cut();
    let pid = "select pg_terminate_backend(pid) from pg_stat_activity where query = 'commit' and wait_event = 'SyncRep'";
    set.primary.sql(pid);
    let reply = client.read_until_ready();
    assert_eq!(tags(&reply), "CZ", "{reply:?}");
    assert_eq!(database.scalar("select count(*) from kept"), "1");
}

/// A replica that had the COMMIT is promoted.
#[test]
fn a_promotion_behind_the_commit() {
    let fleet = fleet();
    let (mut client, _) = writer(&fleet, 1);
    commits_wait(&fleet.set.primary);
    commit(&mut client, &fleet.set.primary, query("commit"), "SyncRep");
    replica_is_seen(&fleet);
    fleet.set.primary.stop(Stop::Immediate);
    fleet.set.replicas[0].promote();
    let reply = client.read_until_ready();
    assert_eq!(tags(&reply), "CZ", "{reply:?}");
    assert_goes_on(&fleet, &mut client, 1, &["1"]);
}

/// A replica is promoted that has never heard of the transaction.
#[test]
fn a_promotion_without_the_commit() {
    let fleet = fleet();
    let heir = &fleet.set.replicas[0];
    heir.configure("primary_conninfo = ''");
    let (mut client, _) = writer(&fleet, 1);
    commits_wait(&fleet.set.primary);
    commit(&mut client, &fleet.set.primary, query("commit"), "SyncRep");
    fleet.set.primary.stop(Stop::Immediate);
    heir.promote();
    let reply = client.read_until_ready();
    assert_eq!((reply.error_code().as_str(), reply.status()), ("40000", Some(b'I')), "{reply:?}");
    assert_goes_on(&fleet, &mut client, 1, &[]);
}

/// The same, and the new primary has given the transaction's id to another, which commits.
#[test]
fn an_id_that_is_given_twice() {
    let fleet = fleet();
    let heir = &fleet.set.replicas[0];
    heir.configure("primary_conninfo = ''");
    let (mut client, xid) = writer(&fleet, 1);
    commits_wait(&fleet.set.primary);
    commit(&mut client, &fleet.set.primary, query("commit"), "SyncRep");
    fleet.set.primary.stop(Stop::Immediate);
    let name = fleet.database.name().to_owned();
    let mut console = fleet.pooler.console();
    console.execute(&format!("pause {name}"));
    heir.promote();
    let mut other = Client::login(&heir.superuser(&name));
    eventually("the id is given again", SOON, || {
        other.scalar("insert into kept values (3) returning txid_current()").parse() == Ok(xid)
    });
    assert_eq!(other.scalar(&format!("select txid_status({xid})")), "committed");
    console.execute(&format!("resume {name}"));
    let reply = client.expect_closed();
    assert_eq!(reply.error_code(), "40003", "{reply:?}");
    assert_eq!(other.scalar("select count(*) from kept where id = 1"), "0");
}

/// A crash takes what was not flushed, the id with it, and the next transaction gets that id.
#[test]
fn an_id_that_is_given_twice_behind_a_crash() {
    let fleet = fleet();
    let primary = &fleet.set.primary;
    // Nobody flushes the WAL but who waits for that.
    primary.configure("wal_writer_delay = 10000");
    let (mut client, xid) = writer(&fleet, 2);
    let probes = || fleet.shown()[0].number("probes");
    let before = probes();
    eventually("the primary is looked at", SOON, || probes() >= before + 2);
    commit(&mut client, primary, query("commit"), "PgSleep");
    primary.stop(Stop::Immediate);
    let name = fleet.database.name().to_owned();
    let mut console = fleet.pooler.console();
    console.execute(&format!("pause {name}"));
    primary.start_again();
    let mut other = Client::login(&primary.superuser(&name));
    // If the id has come through, it is not given again.
    eventually("higher ids are given", SOON, || {
        let given = other.scalar("insert into kept values (3) returning txid_current()");
        given.parse::<u64>().expect("an id") >= xid
    });
    println!("now it is {}", other.scalar(&format!("select txid_status({xid})")));
    console.execute(&format!("resume {name}"));
    let reply = client.read_until_ready();
    assert_eq!((reply.error_code().as_str(), reply.status()), ("40000", Some(b'I')), "{reply:?}");
}

/// What the session had at the lost server can't be had elsewhere, so that it ends.
#[test]
fn sessions_with_more_than_a_transaction_end() {
    let fleet = fleet();
    let primary = &fleet.set.primary;
    let mut client = fleet.connect();
    client.execute("create temp table mine (id int)");
    client.execute("begin; insert into kept values (2)");
    commit(&mut client, primary, query("commit"), "PgSleep");
    primary.stop(Stop::Immediate);
    primary.start_again();
    let reply = client.expect_closed();
    assert_eq!(reply.error_code(), "40003", "{reply:?}");
}

/// Without the setting nothing is asked, and nothing said.
#[test]
fn who_does_not_ask_is_told_that_it_is_not_known() {
    let fleet = Fleet::own(1, SETUP, |builder| builder);
    let primary = &fleet.set.primary;
    let (mut client, _) = writer(&fleet, 1);
    commits_wait(primary);
    commit(&mut client, primary, query("commit"), "SyncRep");
    primary.stop(Stop::Immediate);
    primary.start_again();
    let reply = client.expect_closed();
    assert_eq!(reply.error_code(), "40003", "{reply:?}");
}
