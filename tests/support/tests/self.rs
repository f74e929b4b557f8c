//! The support library against PostgreSQL itself, and against Debian's PgBouncer where it is installed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgferry_test_support as support;
use support::frontend::*;
use support::oracle::{Event, Oracle, Script, Way};
use support::pooler::{PoolerBuilder, StartError};
use support::postgres::{MD5_USER, Options, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER, Stop};
use support::scripted::{Auth, Greeting, ScriptedServer};
use support::tap::{Rule, Tap};
use support::tools::Tool;
use support::wait::{Gate, eventually};
use support::wire::{Client, Target};
use support::{backend, proc};

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

fn pgbouncer() -> Option<PoolerBuilder> {
    if !Path::new(PGBOUNCER).exists() {
        println!("skipped: no {PGBOUNCER} here");
        return None;
    }
    Some(PoolerBuilder::new(PGBOUNCER))
}

#[test]
fn a_client_sees_each_message() {
    let database = Postgres::shared().database("wire");
    let mut client = database.connect();
    assert_eq!(client.params.get("server_encoding").map(String::as_str), Some("UTF8"));
    assert!(client.key.is_some());

    client.send_all([parse("", "select $1::int + 1", &[]), bind("", "", &[Some("41")])]);
    client.send_all([describe_portal(""), execute("", 0), sync()]);
    let reply = client.read_until_ready();
    assert_eq!(reply.tags(), "12TDCZ");
    assert_eq!(reply.rows(), [[Some("42".to_string())]]);
    assert_eq!(reply.commands(), ["SELECT 1"]);
    assert_eq!(reply.status(), Some(b'I'));
    assert_eq!(client.query("select nothing").error_code(), "42703");
    client.expect_silence(Duration::from_millis(20));
    client.terminate();
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let database = Postgres::shared().database("cut");
    let mut client = database.connect();
    let message = query("select 1");
    for at in 1..message.len() {
        client.peer().send_split(&message, &[at]).unwrap();
        assert_eq!(client.read_until_ready().tags(), "TDCZ");
    }
}

#[test]
fn each_password_method_works_and_refuses() {
    let database = Postgres::shared().database("login");
    for user in [MD5_USER, SCRAM_USER, PLAIN_USER] {
        let target = database.target().user(user);
        Client::login(&target.clone().password(PASSWORD)).terminate();
        let refusal = Client::try_login(&target.password("wrong")).unwrap_err().refusal();
        assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "28P01"), "{user}");
    }
}

#[test]
fn a_client_can_end_in_every_way() {
    let database = Postgres::shared().database("ends");
    let gone =
        || eventually("no server process", Duration::from_secs(5), || database.backends("app").is_empty());
    database.connect().terminate();
    gone();
    database.connect().abort();
    gone();
    let mut client = database.connect();
    client.send(query("select 1"));
    client.half_close();
    assert_eq!(client.expect_closed().tags(), "TDCZ");
    gone();
    let mut client = database.connect();
    client.execute("begin");
    let pid = client.backend_pid();
    database.sql(&format!("select pg_terminate_backend({pid})"));
    assert_eq!(client.expect_closed().error_code(), "57P01");
}

#[test]
fn a_cancel_reaches_the_query() {
    let database = Postgres::shared().database("cancel");
    let mut client = database.connect();
    client.send(query("select pg_sleep(60)"));
    eventually("the query runs", Duration::from_secs(5), || database.backends("app")[0].state == "active");
    client.cancel();
    assert_eq!(client.read_until_ready().error_code(), "57014");
}

#[test]
fn databases_are_fresh_and_go_away() {
    let postgres = Postgres::shared();
    let database = postgres.database("fresh");
    let name = database.name().to_string();
    let mut left_open = database.connect();
    left_open.execute("create table t ()");
    assert_eq!(database.scalar("select count(*) from t"), "0");
    database.connect().query("select 1/0");
    assert!(database.log().contains("division by zero"));
    drop(database);
    assert!(postgres.sql(&format!("select from pg_database where datname = '{name}'")).rows().is_empty());
}

#[test]
fn the_sampler_sees_the_peak() {
    let database = Postgres::shared().database("sampler");
    let sampler = database.sample_backends("app");
    let clients: Vec<Client> = (0..7).map(|_| database.connect()).collect();
    eventually("seven are seen", Duration::from_secs(5), || sampler.peak() == 7);
    drop(clients);
    assert_eq!(sampler.finish(), 7);
}

#[test]
fn a_cluster_can_be_stopped_and_started_and_configured() {
    let postgres = Postgres::start(Options::new().config("work_mem = 7MB").hba("host all nosuch all reject"));
    assert_eq!(Client::login(&postgres.superuser("postgres")).scalar("show work_mem"), "7MB");
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        postgres.stop(how);
        assert!(!postgres.is_running());
        postgres.start_again();
        postgres.sql("select 1");
    }
    postgres.wait_for_log("database system is ready");

    let database = postgres.database("frozen");
    let mut client = database.connect();
    postgres.signal_all(Signal::SIGSTOP);
    client.send(query("select 1"));
    client.expect_silence(Duration::from_millis(50));
    postgres.signal_all(Signal::SIGCONT);
    assert_eq!(client.read_until_ready().tags(), "TDCZ");
}

/// Not a test: the process that dies in the test below.
#[test]
#[ignore = "run by another test"]
fn die_with_servers_running() {
    let postgres = Postgres::start(Options::new());
    println!("servers {} {}", postgres.pid(), postgres.socket_dir().display());
    std::process::abort();
}

#[test]
fn nothing_is_left_when_the_test_process_dies() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "die_with_servers_running", "--ignored", "--nocapture"]);
    let output = command.stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("servers ").map(|(_, rest)| rest.to_string()));
    let line = line.expect(&text);
    let (pid, dir) = line.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    eventually("the directory is removed", Duration::from_secs(15), || !Path::new(dir).exists());
    // A zombie that nobody waits for has no memory.
    assert!(proc::rss(pid).is_none(), "PostgreSQL still runs");
}

fn direct_oracle() -> Oracle {
    let way = |hint: &str| {
        let database = Postgres::shared().database(hint);
        database.connect().execute("create table t (id int primary key, v text)");
        Way { target: database.target(), database }
    };
    Oracle { direct: way("left"), pooled: vec![way("right")] }
}

#[test]
fn postgres_equals_itself() {
    let script = Script::new()
        .record_login()
        .query("create table fresh (a int); select * from fresh; select * from nowhere")
        .send([parse("s", "insert into t values ($1, 'x')", &[]), describe_statement("s")])
        .send([bind("", "s", &[Some("1")]), execute("", 0), sync(), query("select * from t")])
        .ready(2)
        .on(1)
        .send_split([query("listen c"), query("notify c"), query("select * from t")], &[3, 11])
        .ready(3)
        .send([copy_done(), terminate()])
        .closed()
        .rows("select count(*) from t");
    direct_oracle().check(&script);
}

#[test]
fn the_oracle_shows_a_difference() {
    let oracle = direct_oracle();
    oracle.pooled[0].database.sql("insert into t values (1, 'only here')");
    let script = Script::new().query("select v from t").query("select 1");
    let (direct, pooled) = (script.run(&oracle.direct), script.run(&oracle.pooled[0]));
    assert_eq!((direct.tags(), pooled.tags()), ("TCZTDCZ".to_string(), "TDCZTDCZ".to_string()));
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| oracle.check(&script)));
    let text = *failure.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains(r#"  + (0, Message(DataRow ["only here"]))"#), "{text}");
    assert!(text.contains(r#"  - (0, Message(CommandComplete SELECT 0))"#), "{text}");
}

#[test]
fn the_oracle_survives_the_end_of_a_connection() {
    let script = Script::new()
        .query("begin")
        .act("terminate the server process", |stage| {
            let pid = stage.client(0).unwrap().backend_pid();
            stage.database.sql(&format!("select pg_terminate_backend({pid})"));
        })
        .query("select 1")
        .query("never read");
    let oracle = direct_oracle();
    oracle.check(&script);
    let transcript = script.run(&oracle.direct);
    assert_eq!(transcript.0.last(), Some(&(0, Event::Closed)));
    assert_eq!(transcript.errors()[0].code(), "57P01");
}

#[test]
fn psql_believes_a_scripted_server() {
    for auth in [
        Auth::Trust,
        Auth::Cleartext(PASSWORD.into()),
        Auth::Md5(PASSWORD.into()),
        Auth::Scram(PASSWORD.into()),
    ] {
        let server = ScriptedServer::start({
            let auth = auth.clone();
            move |session| {
                session.login_with(&Greeting::new(session.number).auth(auth.clone()))?;
                session.serve_number()
            }
        });
        let target = Target::new(server.address(), "app", "any").password(PASSWORD);
        let output = Tool::psql(&target).args(["-c", "select 'anything'"]).run().success();
        assert_eq!(output.stdout, "0\n");
        assert_eq!(server.startup(0)["user"], "app");
        assert_eq!(server.received(0).last().map(|message| message.tag), Some(b'X'));
        if auth != Auth::Trust {
            let output = Tool::psql(&target.password("wrong")).args(["-c", "select 1"]).run();
            assert!(output.stderr.contains("password authentication failed"), "{output:?}");
        }
        server.finish();
    }
}

#[test]
fn a_scripted_server_stalls_breaks_and_takes_cancels() {
    let gate = Gate::new();
    let server = ScriptedServer::start({
        let gate = gate.clone();
        move |session| {
            session.login()?;
            session.expect(b'Q')?;
            let reply = backend::one_value("late");
            session.send(&reply[..7])?;
            gate.pass();
            session.send(&reply[7..])?;
            session.expect_bytes(&query("and now"))?;
            session.reset_at_end()
        }
    });
    let mut client = Client::login(&Target::new(server.address(), "app", "any"));
    client.send(query("select 1"));
    client.expect_silence(Duration::from_millis(30));
    gate.open();
    assert_eq!(client.read_until_ready().rows(), [[Some("late".to_string())]]);
    client.cancel();
    assert_eq!(server.cancels(), [client.key.clone().unwrap()]);
    client.send(query("and now"));
    assert!(client.expect_closed().0.is_empty());
    server.finish();
}

#[test]
#[should_panic(expected = "a scripted server failed")]
fn a_script_that_fails_fails_the_test() {
    let server = ScriptedServer::start(|session| {
        session.login()?;
        session.expect(b'Q').map(drop)
    });
    let mut client = Client::login(&Target::new(server.address(), "app", "any"));
    client.send(sync());
    client.expect_closed();
    server.finish();
}

#[test]
fn a_tap_listens_holds_freezes_and_cuts() {
    let database = Postgres::shared().database("tap");
    let gate = Gate::new();
    let tap = Tap::with_rules(database.postgres().address(), {
        let gate = gate.clone();
        move |opening| match (opening.is_cancel, opening.number) {
            (true, _) => Rule { hold: Some(gate.clone()), ..Rule::default() },
            (false, 2) => Rule { cut_to_server: Some(20), ..Rule::default() },
            _ => Rule::default(),
        }
    });
    let target = Target { address: tap.address(), ..database.target() };
    let mut client = Client::login(&target);
    client.execute("select 1");
    let link = tap.links().remove(0);
    assert!(link.to_server().ends_with(&query("select 1")));
    assert!(link.to_client().ends_with(&backend::ready(b'I')));

    link.freeze_to_client();
    client.send(query("select 2"));
    client.expect_silence(Duration::from_millis(30));
    link.thaw();
    client.read_until_ready();

    client.send(query("select pg_sleep(60)"));
    eventually("the query runs", Duration::from_secs(5), || database.backends("app")[0].state == "active");
    std::thread::scope(|scope| {
        let cancel = scope.spawn(|| client.cancel());
        eventually("the cancel is held", Duration::from_secs(5), || tap.links().len() == 2);
        assert!(tap.links()[1].opening.is_cancel && !cancel.is_finished());
        gate.open();
        cancel.join().unwrap();
    });
    assert_eq!(client.read_until_ready().error_code(), "57014");

    assert!(Client::try_login(&target).is_err());
    assert_eq!(tap.links()[2].to_server().len(), 20);
    link.reset();
    assert!(client.expect_closed().0.is_empty());
    eventually("the link is over", Duration::from_secs(5), || link.is_over());
}

#[test]
fn tools_run_with_input_and_a_time_limit() {
    let database = Postgres::shared().database("tools");
    let output = Tool::psql(&database.target()).run_with("select 1;\nselect 2;\n").success();
    assert_eq!(output.stdout, "1\n2\n");
    let begin = Instant::now();
    let sleep = Tool::psql(&database.target()).args(["-c", "select pg_sleep(60)"]);
    assert_eq!(sleep.limit(Duration::from_millis(200)).run().status, None);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_pooler_runs_and_reloads_and_stops() {
    let Some(builder) = pgbouncer() else { return };
    let database = Postgres::shared().database("pooled");
    let mut pooler = builder.database(&database, "pool_size=1").start();
    let mut client = pooler.connect(database.name());
    assert_eq!(client.scalar("select current_database()"), database.name());
    assert!(pooler.rss() > 100_000 && pooler.cpu_time() < Duration::from_secs(5));
    client.terminate();

    pooler.reload(|builder| {
        builder.database_line("other", &format!("dbname={} host=127.0.0.1", database.name()))
    });
    let console = pooler.console().execute("show databases");
    assert!(console.rows().iter().any(|row| row[0].as_deref() == Some("other")), "{console:?}");
    pooler.signal(Signal::SIGINT);
    assert!(pooler.wait_ended().success());
    pooler.wait_for_log("SIGINT");
}

#[test]
fn a_pooler_that_refuses_to_start_says_why() {
    let Some(builder) = pgbouncer() else { return };
    match builder.setting("pool_mode", "nonsense").try_start() {
        Err(StartError::Ended(status, log)) => {
            assert!(!status.success() && log.contains("nonsense"), "{log}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_oracle_holds_for_a_pooler() {
    let Some(builder) = pgbouncer() else { return };
    let mut oracle = direct_oracle();
    let pooler = builder.database(&oracle.pooled[0].database, "pool_size=1").start();
    oracle.pooled[0].target = pooler.target(oracle.pooled[0].database.name());
    oracle.check(
        &Script::new().query("begin; insert into t values (1)").query("commit").rows("select id from t"),
    );
}
