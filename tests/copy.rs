//! COPY in transaction mode, with one server connection.

use std::time::Duration;

use support::frontend::*;
use support::oracle::Script;
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pair, pooled};

const TABLE: &str = "create table t (id int primary key, v text)";
const COPY_IN: &str = "copy t from stdin";

/// COPY through the extended protocol, without Sync.
fn extended_copy() -> Vec<u8> {
    [parse("", COPY_IN, &[]), bind("", "", &[]), execute("", 0)].concat()
}

fn rows(ids: std::ops::Range<u32>) -> Vec<u8> {
    ids.flat_map(|id| copy_data(format!("{id}\trow {id}\n").as_bytes())).collect()
}

#[test]
fn copy_in_and_out() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([query(COPY_IN)])
        .until(b'G')
        .send([rows(0..1000), copy_done()])
        .ready(1)
        .query("copy t to stdout")
        .query("copy (select 1/0) to stdout")
        .query("begin")
        .send([query(COPY_IN), rows(1000..1010), copy_done(), query("copy t to stdout with binary")])
        .ready(2)
        .query("rollback")
        .send([parse("", "copy t to stdout", &[]), bind("", "", &[]), execute("", 0), sync()])
        .ready(1)
        .send([
            query("copy t to stdout; select 1; copy t from stdin; select 2"),
            rows(5000..5001),
            copy_done(),
        ])
        .ready(1)
        .rows("select count(*), sum(id) from t");
    pair.check(&script);
}

#[test]
fn the_client_fails_its_copy() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([query(COPY_IN), rows(0..3), copy_fail("changed my mind"), query("select 1")])
        .ready(2)
        .query("begin")
        .send([query(COPY_IN), rows(0..3), copy_fail("again")])
        .ready(1)
        .query("rollback")
        .send([extended_copy(), rows(0..3), copy_fail("extended"), sync()])
        .ready(1)
        .rows("select * from t");
    pair.check(&script);
}

/// The server ends a COPY with an error while the client goes on sending; what came late was counted as a new request
/// and wedged the server for ever (bug 55: pgbouncer#1470, #1471).
#[test]
fn data_behind_an_error_is_dropped() {
    let pair = pair(TABLE);
    let late = || [rows(2..5000), copy_done()].concat();
    let script = Script::new()
        .query("insert into t values (1)")
        .send([query(COPY_IN)])
        .until(b'G')
        .send([rows(1..2)]) // the key is taken: COPY fails at its end, or sooner with bad input
        .send([copy_data(b"bad input\n")])
        .ready(1)
        .send([late()])
        .query("select 'after the error'")
        .query("begin")
        .send([query(COPY_IN), copy_data(b"bad input\n"), late()])
        .ready(1)
        .send([copy_done(), rows(7..8), copy_fail("late")])
        .query("rollback")
        .send([query(COPY_IN), copy_data(b"bad input\n"), late(), query("select 'the same write'")])
        .ready(2)
        .rows("select * from t");
    pair.check(&script);
}

/// The same through the extended protocol, where what follows the error is skipped up to Sync.
#[test]
fn data_behind_an_error_is_dropped_extended() {
    let pair = pair(TABLE);
    let late = || [rows(2..5000), copy_done()].concat();
    let script = Script::new()
        .send([extended_copy(), copy_data(b"bad input\n"), late(), sync()])
        .ready(1)
        .send([extended_copy(), flush()])
        .until(b'G')
        .send([copy_data(b"bad input\n")])
        .until(b'E')
        .send([late(), sync()])
        .ready(1)
        .query("select 'after the error'")
        .send([copy_data(b"bad input\n"), extended_copy(), sync(), copy_data(b"bad input\n"), late(), sync()])
        .ready(1)
        .query("select 'after a Sync inside COPY'")
        .query("begin")
        .send([extended_copy(), copy_data(b"bad input\n"), copy_done(), sync(), copy_done(), rows(1..2)])
        .ready(1)
        .query("rollback")
        .rows("select * from t");
    pair.check(&script);
}

/// A unique violation in the first row, with a hundred thousand rows under way (bug 55).
#[test]
fn a_unique_violation_with_much_data_behind() {
    let pair = pair(TABLE);
    let data = rows(1..100_000);
    let script = Script::new()
        .query("insert into t values (1)")
        .send([query(COPY_IN), data.clone(), copy_done()])
        .ready(1)
        .query("begin")
        .send([query(COPY_IN), data, copy_done()])
        .ready(1)
        .query("rollback")
        .rows("select count(*) from t");
    pair.check(&script);
}

/// CopyInResponse is no end of a reply: a pooler that released the server there sent the data to a server that was not
/// in COPY (bug 56: pgcat#522).
#[test]
fn a_slow_copy_keeps_its_server() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([query(COPY_IN)])
        .until(b'G')
        .on(1)
        .send([query("select 'the competitor'")])
        .on(0)
        .send([rows(0..10)])
        .act("give the competitor time", |_| std::thread::sleep(Duration::from_millis(50)))
        .send([rows(10..20), copy_done()])
        .ready(1)
        .on(1)
        .ready(1)
        .rows("select count(*) from t");
    pair.check(&script);
}

/// PostgreSQL ignores Sync and Flush inside COPY; poolers waited for a ReadyForQuery each (bug 57: pgdog#886,
/// pgbouncer#1025, pgpool2#79).
#[test]
fn sync_and_flush_inside_copy() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([extended_copy(), sync()])
        .until(b'G')
        .send([rows(0..5), sync(), flush(), rows(5..10), sync(), copy_done(), sync()])
        .ready(1)
        .send([extended_copy(), sync(), rows(10..15), copy_done(), sync(), query("select 'next'")])
        .ready(2)
        .send([query(COPY_IN), rows(15..20), sync(), flush(), copy_done(), query("select 'next'")])
        .ready(2)
        .rows("select count(*) from t");
    pair.check(&script);
}

/// Some drivers send a CopyFail after each COPY; PostgreSQL ignores copy messages outside COPY (bug 58: xtdb#6079).
#[test]
fn copy_messages_outside_copy() {
    let pair = pair(TABLE);
    let script = Script::new()
        .send([copy_fail("too late"), copy_done(), rows(0..1)])
        .query("select 1")
        .send([query(COPY_IN), rows(0..1), copy_done(), copy_fail("habit")])
        .ready(1)
        .query("select 2")
        .send([copy_fail("habit"), query("select 3"), copy_fail("habit"), query("select 4")])
        .ready(2)
        .query("begin")
        .send([copy_done(), query("select 5"), copy_fail("habit")])
        .ready(1)
        .query("commit")
        .send([
            parse("", "select 6", &[]),
            copy_done(),
            bind("", "", &[]),
            copy_fail("x"),
            execute("", 0),
            sync(),
        ])
        .ready(1)
        .send([parse("", "selec 7", &[]), copy_done(), copy_fail("x"), sync(), copy_done()])
        .ready(1)
        .query("select 8");
    pair.check(&script);
}

/// A client that dies inside COPY has nothing of it committed, and its server is not left in COPY.
#[test]
fn a_client_dies_inside_copy() {
    let pooled = pooled(TABLE, |builder| builder);
    type Death = fn(Client);
    let deaths: [Death; 3] = [drop, Client::abort, |mut client| {
        client.half_close();
        client.expect_closed();
    }];
    for die in deaths {
        for begin in ["", "begin;"] {
            let mut client = pooled.connect();
            client.send(query(&format!("{begin}{COPY_IN}")));
            client.read_until(b'G');
            client.send(rows(0..10));
            die(client);
            assert_eq!(pooled.connect().scalar("select count(*) from t"), "0");
        }
    }
    pooled.settle();
}

#[test]
fn a_client_dies_reading_copy_out() {
    let pooled = pooled("", |builder| builder);
    let mut client = pooled.connect();
    client.send(query("copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout"));
    client.read_until(b'd');
    client.abort();
    assert_eq!(pooled.connect().scalar("select 42"), "42");
    eventually("no COPY goes on", Duration::from_secs(10), || {
        pooled.database.backends("app").iter().all(|backend| !backend.query.starts_with("copy"))
    });
}

/// Bytes of a large COPY arrive unchanged, however they are cut (bug 59: odyssey#554, pgbouncer#57).
#[test]
fn much_data_both_ways_in_random_pieces() {
    const BYTES: usize = 32 << 20;
    let pooled = pooled("create table t (id bigint, v text)", |builder| builder);
    let mut random = Random(2026);
    let mut sent = Vec::with_capacity(BYTES);
    let mut number = 0;
    while sent.len() < BYTES {
        let length = random.below(2000);
        let text: String = (0..length).map(|_| (b'a' + random.below(26) as u8) as char).collect();
        sent.extend(format!("{number}\t{text}\n").bytes());
        number += 1;
    }

    let mut client = pooled.connect();
    client.send(query(COPY_IN));
    client.read_until(b'G');
    let mut framed = Vec::with_capacity(BYTES + BYTES / 100);
    cut(&sent, 20_000, &mut random).for_each(|part| framed.extend(copy_data(part)));
    framed.extend(copy_done());
    cut(&framed, 100_000, &mut random).for_each(|part| client.send(part));
    assert_eq!(client.read_until_ready().commands(), [format!("COPY {number}")]);

    client.send(query("copy (select * from t order by id) to stdout"));
    let messages = client.read_until_ready().0;
    let received: Vec<u8> =
        messages.into_iter().filter(|message| message.tag == b'd').flat_map(|message| message.body).collect();
    assert!(received == sent, "{} bytes became {}", sent.len(), received.len());
}

/// `bytes` in pieces of up to `most` bytes.
fn cut<'a>(bytes: &'a [u8], most: usize, random: &'a mut Random) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = (1 + random.below(most)).min(rest.len());
        let (part, after) = rest.split_at(length);
        rest = after;
        (length > 0).then_some(part)
    })
}

/// xorshift64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
