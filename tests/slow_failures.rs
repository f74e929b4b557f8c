//! Failed logins are answered late, right ones never, and connections that have not logged in are few.

use std::thread;
use std::time::{Duration, Instant};

use support::frontend::ssl_request;
use support::pooler::{Pooler, PoolerBuilder};
use support::postgres::{PASSWORD, PLAIN_USER, Postgres, SUPERUSER, USER};
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::common::{Pooled, pooled, refusal};
use crate::http::page;
use crate::probe::Probe;

const SOON: Duration = Duration::from_secs(10);

fn guarded(configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Pooled {
    pooled("", |builder| {
        let builder = builder.setting("auth_type", "md5").secret(USER, PASSWORD);
        configure(builder.setting("auth_failure_delay", "0.3"))
    })
}

fn timed(target: &Target) -> Duration {
    let began = Instant::now();
    assert_eq!(refusal(target).message(), "password authentication failed");
    began.elapsed()
}

/// What has not logged in counts in `pgferry_logins_in_progress`; a connection that says nothing is one.
fn newcomers(pooler: &Pooler, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::open(&pooler.address())).collect()
}

#[test]
fn every_further_failure_waits_longer() {
    let pooled = guarded(|builder| builder);
    let target = pooled.target();
    let wrong = target.clone().password("wrong");
    let right = target.password(PASSWORD);
    let delays: Vec<Duration> = (0..4).map(|_| timed(&wrong)).collect();
    for (delay, least) in delays[1..].iter().zip([300, 600, 1200]) {
        assert!(*delay >= Duration::from_millis(least), "{delays:?}");
    }
    assert!(delays[0] < delays[1], "the first is answered at once: {delays:?}");
    // A right password does not wait, also while an answer to a wrong one does.
    let waiting = {
        let wrong = wrong.clone();
        thread::spawn(move || timed(&wrong))
    };
    thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    assert_eq!(Client::login(&right).scalar("select 1"), "1");
    let taken = began.elapsed();
    assert!(!waiting.is_finished() && taken < Duration::from_secs(1), "{taken:?}");
    // Who has come another way is somebody else.
    let other_way = Target { address: pooled.pooler.unix_address(), ..wrong };
    let first = timed(&other_way);
    assert!(first < Duration::from_millis(300), "{first:?}");
    waiting.join().expect("an answer");
}

/// Where PostgreSQL is asked for users, guessed names count as guessed passwords do.
#[test]
fn names_that_are_guessed() {
    let pooled = guarded(|builder| builder.setting("auth_user", SUPERUSER));
    let guess = || {
        let began = Instant::now();
        assert_eq!(refusal(&pooled.target().user("nobody_of_this_name")).message(), "no such user");
        began.elapsed()
    };
    guess();
    let second = guess();
    assert!(second >= Duration::from_millis(300), "{second:?}");
}

/// Setting it to 0 at a reload ends it.
#[test]
fn the_delay_can_be_off() {
    let mut pooled = guarded(|builder| builder.setting("auth_failure_delay", 0).secret("admin", "boss"));
    let wrong = pooled.target().password("wrong");
    let began = Instant::now();
    (0..20).for_each(|_| assert!(timed(&wrong) < SOON));
    assert!(began.elapsed() < Duration::from_secs(5));
    pooled.pooler.rewrite(|builder| builder.setting("auth_failure_delay", 1));
    Client::login(&pooled.pooler.target("pgbouncer").user("admin").password("boss")).execute("RELOAD");
    timed(&wrong);
    assert!(timed(&wrong) >= Duration::from_secs(1));
}

/// Guessing on many connections at the same time is no way around it: an address that fails often may have few.
#[test]
fn many_guesses_at_once() {
    let pooled = guarded(|builder| builder.setting("max_client_conn", 1000));
    let wrong = pooled.target().password("wrong");
    // One after the other up to where there are few; the rest all at once.
    (0..4).for_each(|_| assert!(timed(&wrong) < SOON));
    let guesses: Vec<_> = (0..60)
        .map(|_| {
            let wrong = wrong.clone();
            thread::spawn(move || {
                let fields = refusal(&wrong);
                (fields.code().to_owned(), fields.message().to_owned())
            })
        })
        .collect();
    let answers: Vec<_> = guesses.into_iter().map(|guess| guess.join().expect("an answer")).collect();
    let heard = answers.iter().filter(|(code, _)| code == "08P01").count();
    let unheard = answers.iter().filter(|(code, _)| code == "53300").count();
    assert_eq!(heard + unheard, 60, "{answers:?}");
    assert!(heard <= 16, "{heard} guesses were heard");
    let text =
        "too many connections from this address are logging in after failed logins (auth_failure_delay)";
    assert!(answers.iter().all(|(code, message)| code != "53300" || message == text), "{answers:?}");
    assert_eq!(Client::login(&pooled.target().password(PASSWORD)).scalar("select 1"), "1");
}

/// A client that does not wait for its answer goes on to count until it would have got it.
#[test]
fn who_leaves_early_still_counts() {
    let pooled =
        guarded(|builder| builder.setting("http_listen", "127.0.0.1:0").setting("auth_failure_delay", 2));
    let wrong = pooled.target().password("wrong");
    timed(&wrong);
    let impatient = {
        let mut client = Client::open(&wrong.address);
        client.send(wrong.startup());
        client.expect(b'R');
        client.send(support::frontend::password("md5no"));
        client
    };
    thread::sleep(Duration::from_millis(300)); // so that it has failed
    drop(impatient);
    assert_eq!(metric(&pooled.pooler, "pgferry_logins_in_progress"), 1.0);
    eventually("it is over", SOON, || metric(&pooled.pooler, "pgferry_logins_in_progress") == 0.0);
    assert_eq!(metric(&pooled.pooler, "pgferry_login_failures_delayed_total"), 1.0);
    assert_eq!(metric(&pooled.pooler, "pgferry_login_addresses_slowed"), 1.0);
}

#[track_caller]
pub(crate) fn metric(pooler: &Pooler, name: &str) -> f64 {
    let text = page(pooler, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

#[test]
fn connections_that_do_not_log_in_are_few() {
    let pooled = guarded(|builder| {
        let builder = builder.setting("max_login_clients", 20).setting("max_login_clients_per_address", 10);
        builder.setting("client_login_timeout", 8).setting("http_listen", "127.0.0.1:0")
    });
    let await_newcomers = |count: f64| {
        let what = format!("{count} that have not logged in");
        eventually(&what, SOON, || metric(&pooled.pooler, "pgferry_logins_in_progress") == count);
    };
    let right = pooled.target().password(PASSWORD);
    let mut early: Vec<Client> = (0..15).map(|_| Client::login(&right)).collect();
    let silent = newcomers(&pooled.pooler, 10);
    await_newcomers(10.0);
    let fields = refusal(&right);
    assert_eq!((fields.severity(), fields.code()), ("FATAL", "53300"));
    assert_eq!(
        fields.message(),
        "too many connections from this address are logging in (max_login_clients_per_address)"
    );
    let other_way = Target { address: pooled.pooler.unix_address(), ..right.clone() };
    Client::login(&other_way);
    let _more: Vec<_> = (0..10).map(|_| Client::open(&other_way.address)).collect();
    await_newcomers(20.0);
    for target in [&right, &other_way] {
        assert_eq!(refusal(target).message(), "too many connections are logging in (max_login_clients)");
    }
    // Those who are in are served, and can cancel.
    early[0].send(support::frontend::query("select pg_sleep(60)"));
    eventually("it runs", SOON, || {
        pooled.database.backends(USER).iter().any(|backend| backend.state == "active")
    });
    early[0].cancel();
    assert_eq!(early[0].read_until_ready().error().expect("cancelled").code(), "57014");
    // Who has said nothing for too long makes room.
    eventually("room", 2 * SOON, || Client::try_login(&right).is_ok());
    drop(silent);
}

/// A message costs the memory that has come of it and not the length that it declares.
#[test]
fn declared_lengths_cost_nothing() {
    let pooled = guarded(|builder| builder.setting("max_client_conn", 2000));
    let before = pooled.pooler.rss();
    let clients: Vec<Client> = (0..1000)
        .map(|n| {
            let mut client = Client::open(&pooled.pooler.address());
            match n % 2 {
                0 => client.send([0, 0, 0xff, 0xff, 0, 3, 0, 0]),
                _ => {
                    client.send(pooled.target().startup());
                    client.expect(b'R');
                    client.send([b'p', 0, 0, 0xff, 0xf0, b'm']);
                }
            }
            client
        })
        .collect();
    thread::sleep(Duration::from_millis(300)); // so that all is read
    let grown = pooled.pooler.rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for {} clients", clients.len());
}

/// Attackers who fail as fast as they can, and others who only connect, do not disturb those at work (bug 65).
#[test]
fn failures_do_not_disturb_queries() {
    let database = Postgres::shared().database("attack");
    let pooled = guarded(|builder| {
        let builder = builder.setting("auth_type", "scram-sha-256").database(&database, "");
        builder.setting("max_client_conn", 500).secret(PLAIN_USER, "secret")
    });
    let bystander = pooled.target().password(PASSWORD);
    let calm = Probe::start(&bystander, "select 1", Duration::from_millis(1));
    thread::sleep(Duration::from_millis(500));
    let calm = calm.finish();
    let busy = Probe::start(&bystander, "select 1", Duration::from_millis(1));
    let end = Instant::now() + Duration::from_secs(2);
    let attackers: Vec<_> = (0..8)
        .map(|n| {
            let target = pooled.target().user(PLAIN_USER).password("guess");
            thread::spawn(move || {
                while Instant::now() < end {
                    match n % 2 {
                        0 => drop(Client::try_login(&target)),
                        _ => {
                            let mut client = Client::open(&target.address);
                            client.send(ssl_request());
                        }
                    }
                }
            })
        })
        .collect();
    attackers.into_iter().for_each(|attacker| attacker.join().expect("no panic"));
    let busy = busy.finish();
    println!("calm {}; under attack {}", calm.summary(), busy.summary());
    let limit = calm.quantile(0.99) * 2 + Duration::from_millis(40);
    assert!(busy.quantile(0.99) < limit, "p99 {:?}, allowed {limit:?}", busy.quantile(0.99));
}
