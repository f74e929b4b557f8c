//! A primary with replicas, and what can be done to them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use pgferry_test_support as support;
use support::postgres::Stop;
use support::replicas::Replicas;
use support::wait::{eventually, patient};
use support::wire::Client;

#[test]
fn replicas_see_what_the_primary_has_committed() {
    let set = Replicas::start(2);
    assert!(!set.primary.is_standby());
    set.primary.sql("create table t as select 7 as a");
    set.catch_up();
    for replica in &set.replicas {
        assert!(replica.is_standby());
        assert_eq!(replica.timeline(), set.primary.timeline());
        let mut client = Client::login(&replica.superuser("postgres"));
        assert_eq!(client.scalar("select a from t"), "7");
        assert_eq!(client.query("insert into t values (8)").error_code(), "25006");
    }
}

#[test]
fn a_replica_lags_when_it_is_told_to() {
    let set = Replicas::start(2);
    let [late, prompt] = &set.replicas[..] else { panic!("two replicas") };
    late.delay_replay(Duration::from_secs(3600));
    set.primary.sql("create table t ()");
    let position = set.primary.position();
    prompt.wait_for_position(position);
    assert!(late.position() < position);
    late.delay_replay(Duration::ZERO);
    late.wait_for_position(position);
}

#[test]
fn a_promoted_replica_writes_and_the_others_follow_it() {
    let set = Replicas::start(2);
    let [new, other] = &set.replicas[..] else { panic!("two replicas") };
    set.primary.sql("create table t (a int)");
    set.catch_up();
    let before = set.primary.timeline();
    set.primary.stop(Stop::Immediate);
    new.promote();
    assert!(!new.is_standby());
    assert_eq!(new.timeline(), before + 1);
    other.follow(new);
    new.sql("insert into t values (1)");
    other.wait_for_position(new.position());
    eventually("the other receives the new timeline", Duration::from_secs(10), || {
        other.timeline() == before + 1
    });
    // The old one comes back, read-only.
    set.primary.start_again();
    set.primary.demote(new);
    let mut client = Client::login(&set.primary.superuser("postgres"));
    assert_eq!(client.query("insert into t values (2)").error_code(), "25006");
}

#[test]
fn a_frozen_replica_neither_answers_nor_closes() {
    let set = Replicas::start(1);
    let replica = &set.replicas[0];
    let mut client = Client::login(&replica.superuser("postgres"));
    client.execute("select 1");
    replica.freeze();
    client.send(support::frontend::query("select 2"));
    client.expect_silence(Duration::from_millis(50));
    replica.thaw();
    assert_eq!(client.read_until_ready().tags(), "TDCZ");

    replica.freeze();
    let began = Instant::now();
    drop(client);
    drop(set);
    // Not only after the 5 s that a postmaster gives its children.
    assert!(began.elapsed() < patient(Duration::from_secs(4)));
}

#[test]
fn a_standby_in_step_has_every_acknowledged_commit() {
    let set = Replicas::start(1);
    let standby = &set.replicas[0];
    set.primary.sql("create table t (a int)");
    standby.follow_in_step(&set.primary, "heir");
    set.primary.sql("insert into t values (1)");
    standby.freeze();
    let mut client = Client::login(&set.primary.superuser("postgres"));
    client.send(support::frontend::query("insert into t values (2)"));
    client.expect_silence(Duration::from_millis(50));
    standby.thaw();
    assert_eq!(client.read_until_ready().tags(), "CZ");
}

#[test]
fn primary_and_standby_change_places() {
    let set = Replicas::start(1);
    let [first, second] = [&set.primary, &set.replicas[0]];
    first.sql("create table t (a int)");
    for (number, [old, new]) in [[first, second], [second, first], [first, second]].into_iter().enumerate() {
        old.sql(&format!("insert into t values ({number})"));
        old.hand_over(new);
        assert!(old.is_standby() && !new.is_standby());
        new.sql("insert into t values (100)");
        old.wait_for_position(new.position());
        let mut client = Client::login(&old.superuser("postgres"));
        assert_eq!(client.scalar("select count(*) from t"), (2 * (number + 1)).to_string());
    }
}
