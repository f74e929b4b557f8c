//! Clients that keep their server because of what is in its session: who they are, how many there may be, and what
//! becomes of the one too many.

use std::time::Duration;

use support::frontend::*;
use support::postgres::{Postgres, USER};
use support::wait::eventually;
use support::wire::Client;

use crate::common::{pooled, pooler};
use crate::console::{row_where, rows_where, table};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_console_shows_who_keeps_a_server_and_why() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 3));
    let mut console = pooled.pooler.console();
    let named = pooled.target().param("application_name", "keeper");
    let (mut keeper, mut other) = (Client::login(&named), pooled.connect());
    assert!(table(&mut console, "PINS").is_empty());
    keeper.execute("select 1");
    keeper.execute("begin");
    keeper.execute("select 'harmless', version()");
    keeper.execute("create  temp table mine /* secret */ (id int default 42, v text default 'secret')");
    keeper.execute("select count(*) from mine");
    keeper.execute("commit");
    let pid = keeper.backend_pid();
    other.execute("select pg_advisory_lock(7)");

    // The answer is on its way before the pooler has looked at what it has left behind.
    eventually("both are shown", SOON, || table(&mut console, "PINS").len() == 2);
    let rows = table(&mut console, "PINS");
    let seen: Vec<_> =
        rows.iter().map(|row| ["reasons", "statement"].map(|column| row.text(column))).collect();
    let statement = "create temp table mine (id int default ?, v text default ?)";
    assert_eq!(seen, [["temporary objects", statement], ["advisory locks", "select pg_advisory_lock(?)"]]);
    let row = &rows[0];
    let shown = ["user", "database", "application_name", "addr"].map(|column| row.text(column));
    assert_eq!(shown, [USER, pooled.database.name(), "keeper", "127.0.0.1"]);
    assert_eq!(row.number("server_pid"), pid as u64);
    let client = row_where(&mut console, "CLIENTS", "application_name", "keeper");
    let columns = ["ptr", "link", "id", "port"];
    assert_eq!(columns.map(|c| row.text(c)), columns.map(|c| client.text(c)));
    let server = row_where(&mut console, "SERVERS", "remote_pid", &pid.to_string());
    assert_eq!(row.text("link"), server.text("ptr"));
    assert!(row.number("seconds") < 60);
    let name = pooled.database.name();
    pooled.pooler.wait_for_log(&format!("keeps its server: temporary objects: {statement}"));
    let login = format!("{name}/{USER}@");
    assert!(pooled.pooler.log().lines().any(|line| line.contains(&login) && line.contains(statement)));

    // What is added is counted and logged, too; what goes is gone, and both are counted for ever.
    keeper.execute("select pg_advisory_lock(8)");
    keeper.execute("select 1");
    let row = row_where(&mut console, "PINS", "server_pid", &pid.to_string());
    assert_eq!(
        [row.text("reasons"), row.text("statement")],
        ["temporary objects, advisory locks", statement]
    );
    pooled.pooler.wait_for_log("keeps its server: advisory locks: select pg_advisory_lock(?)");
    keeper.execute("drop table mine");
    keeper.execute("select pg_advisory_unlock(8)");
    other.terminate();
    eventually("no client keeps a server", SOON, || table(&mut console, "PINS").is_empty());
    let totals = rows_where(&mut console, "PIN_TOTALS", "database", name);
    let of = |reason: &str| totals.iter().find(|row| row.text("reason") == reason).expect(reason);
    assert_eq!(of("advisory locks").text("user"), USER);
    let numbers = ["pins", "current", "max_pins", "refused"];
    assert_eq!(of("advisory locks").numbers(numbers), [2, 0, 0, 0]);
    assert_eq!(of("temporary objects").numbers(numbers), [1, 0, 0, 0]);
    assert_eq!(of("prepared statements").numbers(numbers), [0, 0, 0, 0]);
}

/// What a function has done is put down to the call; what is sent in the extended protocol to its statement.
#[test]
fn the_statement_that_kept_the_server_is_the_one_shown() {
    let setup = "create function locks() returns void language plpgsql as $$ begin perform pg_advisory_lock(1); end $$";
    let pooled = pooled(setup, |builder| builder.setting("default_pool_size", 2));
    let mut console = pooled.pooler.console();
    let (mut simple, mut extended) = (pooled.connect(), pooled.connect());
    simple.execute("select locks() /* 1 */ from (values (1)) as v");
    extended.send_all([parse("s", "select pg_advisory_lock($1 + 1)", &[20]), sync()]);
    extended.read_until_ready();
    extended.send_all([bind("", "s", &[Some("99")]), execute("", 0), sync()]);
    extended.read_until_ready();
    eventually("both are shown", SOON, || table(&mut console, "PINS").len() == 2);
    let statements: Vec<_> =
        table(&mut console, "PINS").iter().map(|row| row.text("statement").to_owned()).collect();
    assert_eq!(statements, ["select locks() from (values (?)) as v", "select pg_advisory_lock($1 + ?)"]);
}

/// The one too many is told and disconnected behind its transaction, which is committed; its state is gone, and its
/// server serves others.
#[test]
fn one_pin_too_many() {
    let setup = "create table t (id int)";
    let limits = [("max_pins_per_pool", "1", ""), ("max_pins_per_pool", "0", "max_pins_per_pool=1")];
    for (name, value, of_database) in limits {
        let database = crate::common::prepared_database("pins", setup);
        let builder = pooler().setting("default_pool_size", 2).setting(name, value);
        let pooler = builder.database(&database, of_database).start();
        let connect = || pooler.connect(database.name());
        let (mut first, mut second, mut third) = (connect(), connect(), connect());
        first.execute("create temp table mine (id int)");
        first.execute("select pg_advisory_lock(1)"); // the same client may have more
        let requests =
            ["insert into t values (1)", "create temp table too_many as select 'secret'", "commit"];
        second.execute("begin");
        requests.into_iter().for_each(|sql| drop(second.execute(sql)));
        let error = second.expect_closed().error().expect("an error");
        assert_eq!([error.severity(), error.code()], ["FATAL", "53400"]);
        let message = format!(
            "too many clients of pool \"{}/{USER}\" keep their server connection (max_pins_per_pool)",
            database.name()
        );
        assert_eq!(error.message(), message);
        assert_eq!(
            error.get(b'D'),
            "It would be kept for: temporary objects, since: create temp table too_many as select ?. The transaction \
             is over; what the session had is gone."
        );
        assert!(error.get(b'H').contains("SHOW PINS"), "{error:?}");
        // One of two servers is the first client's; this is the other one, and it is clean.
        assert_eq!(third.scalar("select count(*) from t"), "1", "its transaction is committed");
        let left = "select count(*) from pg_class where relname = 'too_many'";
        assert_eq!(third.scalar(left), "0");
        assert_eq!(first.scalar("select count(*) from mine"), "0");

        // A client that leaves makes room, and so does one that gives up what it had.
        third.execute("begin; create temp table short (id int) on commit drop; commit");
        first.execute("drop table mine");
        assert!(third.query("select pg_try_advisory_lock(2)").error().is_none());
        assert_eq!(third.expect_closed().error_code(), "53400");
        first.execute("select pg_advisory_unlock(1)");
        first.execute("select 1");
        let mut last = connect();
        last.execute("select pg_advisory_lock(3)");
        last.execute("select 1");
        let mut console = pooler.console();
        let rows = rows_where(&mut console, "PIN_TOTALS", "reason", "advisory locks");
        assert_eq!(rows[0].numbers(["pins", "max_pins", "refused"]), [2, 1, 2]);
    }
}

/// What was sent behind it without waiting is answered first: the verdict comes when the client has nothing under way.
#[test]
fn what_is_sent_behind_one_pin_too_many() {
    let pooled = pooled("create table t (id int)", |builder| {
        builder.setting("default_pool_size", 2).setting("max_pins_per_pool", 1)
    });
    let (mut first, mut second) = (pooled.connect(), pooled.connect());
    first.execute("create temp table mine (id int)");
    first.execute("select 1"); // behind the look at what it has
    second.send_all(
        ["create temp table too_many (id int)", "begin", "insert into t values (1)", "commit"].map(query),
    );
    let reply = second.expect_closed();
    assert_eq!((reply.tags().as_str(), reply.error_code().as_str()), ("CZCZCZCZE", "53400"), "{reply:?}");
    let mut next = pooled.connect();
    assert_eq!(next.scalar("select count(*) from t"), "1");
    assert_eq!(next.scalar("select count(*) from pg_class where relname = 'too_many'"), "0");
}

const SEQUENCES: &str = "create table t (id serial primary key, v text); create table u (id serial); \
                         create sequence s start 100";

/// Clients that insert and then ask for the number, more of them than servers: none waits for long, and each gets its own.
/// Only the first to ask in the life of the pooler may come too late.
#[test]
fn all_clients_ask_for_the_number_of_their_row() {
    let pooled = pooled(SEQUENCES, |builder| builder.setting("default_pool_size", 2));
    let mut first = pooled.connect();
    first.execute("insert into t (v) values ('first')");
    first.execute("select lastval()");
    let begin = std::time::Instant::now();
    let ask = |client: usize| {
        let mut connection = pooled.connect();
        for round in 0..20 {
            let row = format!("{client}:{round}");
            connection.execute(&format!("insert into t (v) values ('{row}')"));
            if round % 5 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            let asked = if client < 4 { "currval('t_id_seq')" } else { "lastval()" };
            let id = connection.scalar(&format!("select {asked}"));
            assert_eq!(connection.scalar(&format!("select v from t where id = {id}")), row);
        }
        connection // stays to the end, as in a program's own pool
    };
    let ask = &ask;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|client| scope.spawn(move || ask(client))).collect();
        clients.into_iter().map(|client| client.join().expect("its own numbers")).collect::<Vec<_>>()
    });
    let elapsed = begin.elapsed();
    assert!(elapsed < support::wait::patient(Duration::from_secs(8)), "{elapsed:?}");
}

/// Who writes several rows with one statement asks behind the last of them, and others wait for the server all the time.
#[test]
fn only_the_last_of_several_is_asked_for() {
    let pooled = pooled(SEQUENCES, |builder| builder);
    let mut client = pooled.connect();
    client.execute("select nextval('s'), currval('s')"); // clients of this pool ask
    let insert = "insert into t (v) values ('x')";
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut other in [pooled.connect(), pooled.connect()] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    other.execute("select 1");
                }
            });
        }
        let replies =
            [insert, insert, insert, insert, "select currval('t_id_seq')"].map(|sql| client.query(sql));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(replies[4].error_code(), String::new(), "{:?}", replies[4]);
    });
}

/// What other clients have advanced on the same server is nobody else's to see, pinned or not.
#[test]
fn nobody_sees_a_strangers_number() {
    let pooled = pooled(SEQUENCES, |builder| builder);
    let connect = || pooled.connect();
    let unset = |client: &mut Client, asked: &str| {
        let reply = client.query(&format!("select {asked}"));
        assert_eq!(reply.error_code(), "55000", "{asked}: {reply:?}");
    };
    let mut writers = [connect(), connect()];
    writers.iter_mut().for_each(|client| drop(client.execute("insert into t (v) values ('x')")));
    // The first of the pool to ask; then as a prepared statement, in a batch, in a transaction, behind a write.
    unset(&mut connect(), "lastval()");
    writers[0].execute("insert into u default values");
    unset(&mut connect(), "currval('u_id_seq')");
    let mut batch = connect();
    writers[1].execute("insert into u default values");
    batch.send_all([parse("", "select 1", &[]), bind("", "", &[]), execute("", 0)]);
    batch.send_all([parse("", "select lastval()", &[]), bind("", "", &[]), execute("", 0), sync()]);
    assert_eq!(batch.read_until_ready().error_code(), "55000");
    writers[0].execute("insert into u default values");
    let mut block = connect();
    block.execute("begin");
    block.execute("insert into t (v) values ('mine')");
    unset(&mut block, "currval('u_id_seq')");
    block.execute("rollback");
    assert_ne!(block.scalar("select lastval()"), "", "its own, although it was rolled back");
    // One that has left in the middle.
    let mut leaves = connect();
    leaves.execute("begin; insert into u default values");
    leaves.abort();
    unset(&mut connect(), "lastval()");
}

/// A client that keeps the only server in case it asks gives it up to others that wait, soon when it idles, and after a
/// while when it goes on writing; so does one that has set the seed of random numbers.
#[test]
fn brief_pins_give_way() {
    let pooled = pooled(SEQUENCES, |builder| builder.setting("query_wait_timeout", 20));
    let mut console = pooled.pooler.console();
    let mut other = pooled.connect();
    for (what, reason) in [
        ("select nextval('s'), currval('s')", "sequences"),
        ("insert into t (v) values ('x') returning lastval()", "sequences"),
        ("select setseed(0.25)", "random seed"),
    ] {
        let mut keeps = pooled.connect();
        keeps.execute(what);
        eventually("it keeps it", SOON, || table(&mut console, "PINS").len() == 1);
        let rows = table(&mut console, "PINS");
        let row = rows.iter().find(|row| row.text("reasons").contains(reason)).expect(reason);
        assert!(row.text("statement").starts_with(&what[..14]), "{}", row.text("statement"));
        let begin = std::time::Instant::now();
        other.execute("select 1");
        assert!(begin.elapsed() < support::wait::patient(Duration::from_secs(3)), "{:?}", begin.elapsed());
        assert!(table(&mut console, "PINS").is_empty());
    }
    // Nobody waits: kept, without an end.
    let mut keeps = pooled.connect();
    keeps.execute("select nextval('s')");
    let value = keeps.scalar("select currval('s')");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(keeps.scalar("select currval('s')"), value);

    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut busy = pooled.connect();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                busy.execute("insert into t (v) values ('x')");
            }
        });
        for _ in 0..3 {
            other.execute("select 1");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Random numbers follow from the seed for its client, and for no other.
#[test]
fn a_seed_is_its_clients() {
    let pooled =
        pooled("", |builder| builder.setting("default_pool_size", 2).setting("server_round_robin", 1));
    let numbers = |client: &mut Client| {
        ["select random()", "select random() -- again", "select random()"].map(|sql| client.scalar(sql))
    };
    let mut direct = pooled.database.connect();
    direct.execute("select setseed(0.5)");
    let expected = numbers(&mut direct);
    let (mut first, mut second) = (pooled.connect(), pooled.connect());
    first.execute("select setseed(0.5)");
    assert_eq!(numbers(&mut first), expected);
    second.execute("set seed = 0.5");
    assert_eq!(numbers(&mut second), expected);

    // A stranger on the same server gets others.
    let alone = crate::common::pooled("", |builder| builder);
    alone.connect().execute("select setseed(0.5)");
    let mut stranger = alone.connect();
    let seen = numbers(&mut stranger);
    assert!(!seen.iter().any(|number| expected.contains(number)), "{seen:?}");
    let mut seeds = alone.connect();
    seeds.execute("select setseed(0.5)");
    let seen = numbers(&mut stranger);
    assert!(!seen.iter().any(|number| expected.contains(number)), "{seen:?}");
}

/// What no view shows and only the end of the session takes away: the client keeps its server, which nobody has after it.
#[test]
fn what_only_the_end_of_a_session_ends() {
    let pooled = pooled("", |builder| builder.setting("default_pool_size", 2));
    let name = pooled.database.name();
    pooled.database.sql("create extension dblink");
    let port = Postgres::shared().port();
    let (mut owner, mut other) = (pooled.connect(), pooled.connect());
    pooled.database.sql(&format!("grant execute on function dblink_connect_u(text, text) to {USER}"));
    owner.execute(&format!(
        "select dblink_connect_u('mine', 'host=127.0.0.1 port={port} dbname={name} user={USER}')"
    ));
    const ASKS: &str = "select coalesce(dblink_get_connections()::text, '')";
    for _ in 0..2 {
        assert_eq!([other.scalar(ASKS), owner.scalar(ASKS)], ["", "{mine}"]);
    }
    let pid = owner.backend_pid();
    drop(owner);
    eventually("its server is gone", SOON, || {
        pooled.database.backends(USER).iter().all(|backend| backend.pid as i32 != pid)
    });
    assert_eq!([(); 3].map(|()| other.scalar(ASKS)), [""; 3]);
}
