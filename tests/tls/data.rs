//! Much data, slow readers, servers that change hands: TLS holds bytes of its own.

use std::thread;
use std::time::Duration;

use support::frontend::{self, query};
use support::tap::{Rule, Tap};
use support::wait::eventually;
use support::wire::Client;

use super::{Pki, TLS_OF_SERVER, secured};
use crate::common::pooler;
use crate::console::table;

const SOON: Duration = Duration::from_secs(20);

/// A row of so many bytes for each of so many numbers.
fn much(rows: usize, bytes: usize) -> String {
    format!("select repeat('x', {bytes}) from generate_series(1, {rows})")
}

/// Both sides encrypted, in front of the shared cluster.
struct Both {
    pki: Pki,
    pooler: support::pooler::Pooler,
    database: support::postgres::Database,
}

fn both(configure: impl FnOnce(support::pooler::PoolerBuilder) -> support::pooler::PoolerBuilder) -> Both {
    let (pki, database) = (Pki::new(), secured().database("tls"));
    let builder = pki.offer(pooler(), "require").setting("server_tls_sslmode", "require");
    let pooler = configure(builder.database(&database, "")).start();
    Both { pki, pooler, database }
}

impl Both {
    fn connect(&self) -> Client {
        Client::login(&self.pooler.target(self.database.name()).tls(&self.pki.client()))
    }
}

#[test]
fn large_results_and_large_requests() {
    let both = both(|builder| builder.setting("default_pool_size", 1));
    let mut client = both.connect();
    for (rows, bytes) in [(1, 1), (1, 16_384), (1, 5_000_000), (3_000, 1_000), (100_000, 10), (40, 65_536)] {
        let reply = client.execute(&much(rows, bytes));
        assert_eq!(reply.rows().len(), rows);
        assert!(reply.rows().iter().all(|row| row[0].as_ref().unwrap().len() == bytes));
    }
    for bytes in [1, 16_383, 16_384, 16_385, 70_000, 3_000_000] {
        let text = "y".repeat(bytes);
        assert_eq!(client.scalar(&format!("select length('{text}')")), bytes.to_string());
    }
    client.execute("create table copied (text text)");
    client.send(query("copy copied from stdin"));
    client.expect(b'G');
    for _ in 0..200 {
        client.send(frontend::copy_data(&[b"z".repeat(9_999).as_slice(), b"\n"].concat()));
    }
    client.send(frontend::copy_done());
    client.read_until_ready();
    assert_eq!(client.scalar("select count(*) || ' ' || sum(length(text)) from copied"), "200 1999800");
}

/// A client that takes nothing for a while gets all of it in the end, however the last bytes were held.
#[test]
fn a_slow_reader_gets_everything() {
    let both = both(|builder| builder.setting("default_pool_size", 2));
    let tap = Tap::start(both.pooler.address());
    let mut target = both.pooler.target(both.database.name()).tls(&both.pki.client());
    target.address = tap.address();
    let mut client = Client::login(&target);
    let mut other = both.connect();
    // Sizes around what sockets, TLS and the pooler hold: the end of the reply is held at some of them.
    for bytes in (0..40).map(|step| 100_000 + step * 250_007) {
        let link = tap.links().remove(0);
        link.freeze_to_client();
        client.send(query(&format!("select repeat('x', {bytes})")));
        assert_eq!(other.scalar("select 1"), "1", "others are served meanwhile");
        thread::sleep(Duration::from_millis(5));
        link.thaw();
        let reply = client.read_until_ready();
        assert_eq!(reply.rows()[0][0].as_ref().unwrap().len(), bytes);
    }
}

/// The same towards servers.
#[test]
fn a_slow_server_gets_everything() {
    let (pki, database) = (Pki::new(), secured().database("tls"));
    let tap = Tap::with_rules(database.postgres().address(), |_| Rule::default());
    let line = format!("host=127.0.0.1 port={} dbname={}", tap.port(), database.name());
    let pooler = pki
        .offer(pooler(), "require")
        .setting("server_tls_sslmode", "require")
        .setting("default_pool_size", 1)
        .database_line("app", &line)
        .start();
    let mut client = Client::login(&pooler.target("app").tls(&pki.client()));
    for bytes in (0..12).map(|step| 200_000 + step * 400_009) {
        tap.links()[0].freeze_to_server();
        let text = "y".repeat(bytes);
        thread::scope(|scope| {
            let sending = scope.spawn(|| client.send(query(&format!("select length('{text}')"))));
            thread::sleep(Duration::from_millis(20));
            tap.links()[0].thaw();
            sending.join().unwrap();
        });
        assert_eq!(client.read_until_ready().rows()[0][0], Some(bytes.to_string()));
    }
}

/// With one server and clients on several workers it moves from thread to thread.
#[test]
fn servers_move_between_workers() {
    let both = both(|builder| builder.setting("default_pool_size", 1).setting("workers", 4));
    thread::scope(|scope| {
        for number in 0..8 {
            let mut client = both.connect();
            scope.spawn(move || {
                for round in 0..60 {
                    let bytes = 1 + number * 1_000 + round * 700;
                    let reply = client.execute(&format!("select repeat('{number}', {bytes})"));
                    assert_eq!(reply.rows()[0][0], Some(number.to_string().repeat(bytes)));
                }
            });
        }
    });
    let mut client = both.connect();
    assert!(client.scalar(TLS_OF_SERVER).starts_with("t "));
    assert_eq!(table(&mut Client::login(&both.console()), "SERVERS").len(), 1);
}

impl Both {
    fn console(&self) -> support::wire::Target {
        self.pooler.target("pgbouncer").user("admin").tls(&self.pki.client())
    }
}

/// What a client sends while it has not read its reply is not lost either.
#[test]
fn pipelines_in_both_directions() {
    let both = both(|builder| builder.setting("default_pool_size", 1));
    let mut client = both.connect();
    let batch: Vec<u8> = (0..300)
        .flat_map(|number| {
            let sql = format!("select {number}, repeat('p', 20000)");
            [frontend::parse("", &sql, &[]), frontend::bind("", "", &[]), frontend::execute("", 0)].concat()
        })
        .chain(frontend::sync())
        .collect();
    client.send(&batch);
    let reply = client.read_until_ready();
    let numbers: Vec<String> = reply.rows().into_iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(numbers, (0..300).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn replication_over_tls_on_both_sides() {
    let (pki, database) = (Pki::new(), secured().database("tls"));
    let pooler = pki
        .offer(pooler(), "require")
        .setting("server_tls_sslmode", "require")
        .secret("postgres", "")
        .database(&database, "")
        .start();
    let target = pooler.target(database.name()).user("postgres").tls(&pki.client());
    let mut link = Client::login(&target.clone().param("replication", "database"));
    assert!(link.query("IDENTIFY_SYSTEM").error().is_none());
    pooler.wait_for_log("replication=database");
    let slot = format!("tls_{}", database.name());
    link.execute(&format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL test_decoding"));
    link.send(query(&format!("START_REPLICATION SLOT {slot} LOGICAL 0/0")));
    link.expect(b'W');
    let mut ordinary = Client::login(&target);
    ordinary.execute("create table told (n int); insert into told select generate_series(1, 5000)");
    let mut told = 0;
    while told < 5000 {
        let message = link.expect(b'd');
        told += usize::from(message.body.windows(7).any(|part| part == b"INSERT:"));
    }
    drop(link);
    eventually("the slot has gone", SOON, || {
        database.scalar(&format!("select count(*) from pg_replication_slots where slot_name = '{slot}'"))
            == "0"
    });
}

/// A query that runs when its client leaves is cancelled, over TLS as well.
#[test]
fn clients_that_die_have_their_queries_cancelled() {
    let both = both(|builder| builder.setting("default_pool_size", 1));
    let mut client = both.connect();
    client.send(query("select pg_sleep(60)"));
    let busy = || both.database.backends("app").iter().any(|backend| backend.state == "active");
    eventually("the query runs", SOON, busy);
    drop(client);
    eventually("the query ends", SOON, || !busy());
    assert_eq!(both.connect().scalar("select 1"), "1");
}
