//! What a client sees is what PostgreSQL would have said, whichever host was tried first.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::frontend::*;
use support::oracle::{Oracle, Script, Way};
use support::postgres::{Stop, send_signal};
use support::wire::Client;

use super::{Fleet, PORT, SOON, batch, database_of, eventual, extended, quiet_set};

/// Reads by their text: only a standby knows that they are not.
const SETUP: &str = "
    create table t (id int primary key, v text); insert into t select n, 'row ' || n from generate_series(1, 100) n;
    create table log (at timestamptz default now()); create sequence s;
    create function noted() returns int language plpgsql as
        'begin insert into log default values; return (select count(*) from log); end';
    create view noting as select noted() as times;
    create view numbered as select nextval('s') as number;
    create view locked as select * from t for update;
    create view late as select n, repeat('x', 200) as filler, case when n = 500 then noted() end as noted
        from generate_series(1, 500) n";

/// A replica says that it can't: the primary runs it, the client sees its answer only, and the next time it is not tried.
#[test]
fn what_a_replica_refuses_is_run_by_the_primary() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let protocols: [fn(&mut Client, &str) -> support::wire::Reply; 2] =
        [|client, sql| client.query(sql), extended];
    let mut times = 0;
    for (number, ask) in protocols.into_iter().enumerate() {
        for round in 0..4 {
            times += 1;
            let reply = ask(&mut client, &format!("select times, {number} as protocol, {PORT} from noting"));
            assert_eq!(reply.error(), None, "round {round} of protocol {number}");
            assert_eq!(reply.rows()[0][0], Some(times.to_string()));
            assert_eq!(fleet.place_of(&reply), 0);
        }
    }
    let refused = fleet.refusals();
    assert!((1..=2).contains(&refused.len()), "remembered: {refused:#?}");
    for round in 1..=3 {
        assert_eq!(client.scalar("select number from numbered"), round.to_string());
        assert_eq!(client.execute("select id from locked where id = 1").rows().len(), 1);
    }
    assert_eq!(fleet.refusals().len(), refused.len() + 2, "one each: {:#?}", fleet.refusals());
    // Another client of the same pooler knows it, too.
    assert_eq!(fleet.connect().scalar("select number from numbered"), "4");
    assert_eq!(fleet.refusals().len(), refused.len() + 2);
    // What was refused says nothing of others.
    assert_ne!(fleet.reads_at(&mut client), 0);
}

/// In the middle of a batch, too: all of it is run by the primary, and answered once.
#[test]
fn a_refused_batch_is_answered_once() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let read = format!("select v, {PORT} from t where id = 3");
    let noting = format!("select times, {PORT} from noting");
    for round in 1..=3 {
        client.send([batch(&read), batch(&noting), batch(&read), sync()].concat());
        let reply = client.read_until_ready();
        assert_eq!(reply.tags(), "12TDC12TDC12TDCZ", "{reply:?}");
        assert_eq!(reply.rows()[1][0], Some(round.to_string()));
    }
    for round in 4..=6 {
        let reply = client.execute(&format!("{read}; {noting}"));
        assert_eq!(reply.tags(), "TDCTDCZ", "{reply:?}");
        assert_eq!(reply.rows()[1][0], Some(round.to_string()));
    }
    assert!(fleet.refusals().len() <= 2, "{:#?}", fleet.refusals());
}

/// The refusal comes when much of the answer is with the client: that can't be taken back, so the client is told, once.
#[test]
fn a_refusal_that_comes_late() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let first = client.query("select * from late");
    match first.error_code().as_str() {
        "" => assert_eq!(first.rows().len(), 500),
        code => assert_eq!((code, first.rows().len() < 500), ("25006", true), "{:?}", first.error()),
    }
    let second = client.execute("select * from late");
    assert_eq!(second.rows().len(), 500);
    assert_eq!(fleet.refusals().len(), 1);
}

/// A refusal inside a transaction that is to read only is the client's own affair.
#[test]
fn what_is_refused_in_a_transaction_stays_refused() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    for _ in 0..2 {
        client.execute("begin read only");
        client.execute("select count(*) from t");
        let reply = client.query("select number from numbered");
        assert_eq!((reply.error_code().as_str(), reply.status()), ("25006", Some(b'E')));
        assert_eq!(client.query("select 1").error_code(), "25P02");
        client.execute("rollback");
    }
}

/// How the server process of a running read ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Terminated,
    Killed,
    HostStopped(Stop),
}

/// A read whose replica dies before it has said anything is run by another host; the client sees its answer only.
#[test]
fn a_read_whose_replica_dies_is_run_elsewhere() {
    let ends =
        [End::Terminated, End::HostStopped(Stop::Fast), End::HostStopped(Stop::Immediate), End::Killed];
    let fleet = Fleet::own(2, SETUP, eventual);
    let mut client = fleet.connect();
    for (number, end) in ends.into_iter().enumerate() {
        for ask in [query as fn(&str) -> Vec<u8>, |sql| [batch(sql), sync()].concat()] {
            let sql = format!("select pg_sleep(2), 'answer {number}', {PORT}");
            client.send(ask(&sql));
            let (place, pid) = fleet.wait_for_running(&sql);
            assert_ne!(place, 0);
            let host = fleet.members()[place];
            match end {
                End::Terminated => drop(host.sql(&format!("select pg_terminate_backend({pid})"))),
                End::Killed => send_signal(pid.parse().expect("a process id"), Signal::SIGKILL),
                End::HostStopped(how) => host.stop(how),
            }
            let reply = client.read_until_ready();
            assert_eq!(reply.error(), None, "{end:?}");
            assert_eq!(reply.rows().len(), 1, "{end:?}");
            assert_eq!(reply.rows()[0][1], Some(format!("answer {number}")), "{end:?}");
            if let End::HostStopped(_) = end {
                assert_ne!(fleet.place_of(&reply), place, "{end:?}");
                host.start_again();
            }
            fleet.wait_until_known();
        }
    }
}

/// A read that has begun to answer is not begun again.
#[test]
fn a_read_that_dies_in_its_answer_is_not_run_again() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let sql =
        "select n, repeat('x', 1000), case when n = 100 then pg_sleep(60) end from generate_series(1, 100) n";
    client.send(query(sql));
    let (place, pid) = fleet.wait_for_running(sql);
    client.read_until(b'D');
    fleet.sql_at(place, &format!("select pg_terminate_backend({pid})"));
    let mut rows = 1;
    let error = loop {
        let message = client.read();
        rows += usize::from(message.tag == b'D');
        if let Some(error) = message.error() {
            break error;
        }
        assert_ne!(message.tag, b'C', "a whole answer");
    };
    assert!(rows < 100, "{rows} rows");
    assert!(["57P01", "08006"].contains(&error.code()), "{error:?}");
}

/// Reads and writes of every kind, straight to the primary and through the pooler: the same replies to the byte.
#[test]
fn replies_are_those_of_postgresql() {
    let set = quiet_set();
    let [direct, pooled] = [(); 2].map(|()| database_of(&set, SETUP));
    let pooler = crate::common::pooler()
        .setting("read_routing", "auto")
        .database_line(pooled.name(), &super::hosts(&set, &pooled))
        .start();
    super::wait_until_known(&pooler, pooled.name(), 2);
    let ways = vec![Way { target: pooler.target(pooled.name()), database: pooled }];
    let oracle = Oracle { direct: Way { target: direct.target(), database: direct }, pooled: ways };
    let statements = [
        "select v from t where id = 1",
        "select * from t order by id limit 3",
        "select 1/0",
        "select nonsense from t",
        "select * from nowhere",
        "selec",
        "",
        ";;",
        "select 1; select v from t where id = 2; select 1/0; select 3",
        "insert into t values (101, 'new') returning *",
        "select v from t where id = 101",
        "update t set v = 'newer' where id = 101",
        "select v from t where id = 101",
        "select count(*) from t",
        "insert into t values (101, 'twice')",
        "delete from t where id = 101",
        "select v from t where id = 101",
        "select times from noting",
        "select number from numbered",
        "select id from locked where id = 1",
        "begin; select v from t where id = 1; commit",
        "begin read only; select v from t where id = 1; insert into t values (102, 'no'); commit",
        "select count(*) from log",
        "show default_transaction_read_only",
        "select pg_is_in_recovery()",
        "set timezone = 'Asia/Tokyo'",
        "select '2020-01-01'::timestamptz",
        "explain (costs off) select * from t where id = 1",
        "create table u as select * from t",
        "select count(*) from u",
        "drop table u",
        "select count(*) from u",
        "copy (select id, v from t order by id limit 2) to stdout",
        "values (1, 'x'), (2, null)",
        "select $$a$$ as \"B\", null::int, true, 1.50, '{1,2}'::int[]",
        "listen nobody",
        "unlisten *",
    ];
    let script = statements.iter().fold(Script::new().record_login(), |script, sql| script.query(sql));
    oracle.check(&script);
    let synced = |sql: &str| [batch(sql), sync()].concat();
    let one_by_one = statements.iter().filter(|sql| !sql.contains("; ") && !sql.starts_with("copy"));
    let script = one_by_one.clone().fold(Script::new(), |script, sql| script.send([synced(sql)]).ready(1));
    oracle.check(&script);
    let all: Vec<Vec<u8>> = one_by_one.clone().map(|sql| synced(sql)).collect();
    let count = all.len();
    oracle.check(&Script::new().send(all).ready(count));
}

/// A statement timeout, an error of the statement itself: no reason to ask another host.
#[test]
fn a_failed_read_is_not_run_again() {
    let fleet = Fleet::quiet(SETUP, eventual);
    let mut client = Client::login(&fleet.target().param("options", "-c statement_timeout=200ms"));
    let before = fleet.reads().iter().sum::<u64>();
    assert_eq!(client.query("select 1/0").error_code(), "22012");
    assert_eq!(client.query("select * from nowhere").error_code(), "42P01");
    let begin = Instant::now();
    assert_eq!(client.query("select pg_sleep(5)").error_code(), "57014");
    assert!(begin.elapsed() < Duration::from_secs(2).min(SOON), "{:?}", begin.elapsed());
    assert_eq!(fleet.reads().iter().sum::<u64>() - before, 3);
}
