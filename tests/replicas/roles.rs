//! Hosts that only say that they are PostgreSQL: roles that change faster than any real one's, and other versions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::backend;
use support::frontend::*;
use support::message::Message;
use support::pooler::Pooler;
use support::scripted::{Greeting, ScriptedServer};
use support::wait::{eventually, patient};
use support::wire::{Client, Target};

use super::SOON;
use crate::common::pooler;

/// The primary is the one whose number is the timeline's, modulo two.
#[derive(Clone, Default)]
struct Timeline(Arc<AtomicU32>);

impl Timeline {
    fn promote_other(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn primary(&self) -> u32 {
        self.0.load(Relaxed) % 2
    }
}

/// The answer to a look at host `number`.
fn sighting(timeline: &Timeline, number: u32) -> Vec<u8> {
    let line = timeline.0.load(Relaxed);
    let recovers = line % 2 != number;
    let (lsn, tli) = (format!("0/{:X}", 0x300_0148 + line * 0x1000), (line + 1).to_string());
    let file = format!("{:08X}0000000000000003", line + 1);
    let values = [
        Some(if recovers { "t" } else { "f" }),
        Some(lsn.as_str()),
        (!recovers).then_some(file.as_str()),
        Some(tli.as_str()),
        recovers.then_some(tli.as_str()),
        recovers.then_some(tli.as_str()),
        Some("7400000000000000001"),
        Some("8192"),
        Some("16777216"),
        Some("0/3000028"),
        Some("1000"),
    ];
    let names: Vec<String> = (0..values.len()).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    [
        backend::row_description(&names),
        backend::row(&values),
        backend::command_complete("SELECT 1"),
        backend::ready(b'I'),
    ]
    .concat()
}

/// Host `number`, which answers everything else with its number.
fn host(timeline: &Timeline, number: u32, version: &'static str) -> ScriptedServer {
    let timeline = timeline.clone();
    ScriptedServer::start(move |session| {
        let mut greeting = Greeting::new(session.number);
        let standby = timeline.primary() != number;
        for (name, value) in &mut greeting.params {
            match name.as_str() {
                "server_version" => *value = version.into(),
                "in_hot_standby" => *value = if standby { "on" } else { "off" }.into(),
                _ => {}
            }
        }
        session.login_with(&greeting)?;
        let answer = |message: &Message| match message.tag {
            b'Q' if String::from_utf8_lossy(&message.body).contains("pg_is_in_recovery") => {
                sighting(&timeline, number)
            }
            b'Q' => backend::one_value(&number.to_string()),
            _ => Vec::new(),
        };
        session.serve(answer)
    })
}

fn pooler_before(hosts: &[ScriptedServer; 2]) -> Pooler {
    let line = format!(
        "host=127.0.0.1 port={} dbname=scripted replicas=127.0.0.1:{}",
        hosts[0].port(),
        hosts[1].port()
    );
    pooler()
        .setting("read_routing", "auto")
        .setting("session_state", "discard")
        .setting("server_reset_query", "")
        .setting("probe_interval", "50ms")
        .setting("query_wait_timeout", 8)
        .database_line("scripted", &line)
        .start()
}

/// Asks what goes to the primary until this one answers.
#[track_caller]
fn wait_for_primary(target: &Target, number: u32) -> Client {
    let mut client = None;
    eventually("writes go to the primary", SOON, || {
        let mut tried = Client::login(target);
        let there = tried.query("insert into t values (1)").rows() == [[Some(number.to_string())]];
        client = there.then_some(tried);
        there
    });
    client.expect("a client")
}

/// Row 75: roles that change ten times a second cost the pooler little, and when that is over writes go to the primary.
#[test]
fn roles_that_change_ten_times_a_second() {
    let timeline = Timeline::default();
    let hosts = [0, 1].map(|number| host(&timeline, number, "15.0"));
    let pooler = pooler_before(&hosts);
    let target = pooler.target("scripted");
    drop(wait_for_primary(&target, 0));
    let (begin, before) = (Instant::now(), pooler.cpu_time());
    let changes = 31;
    for _ in 0..changes {
        timeline.promote_other();
        let asked = Instant::now();
        pooler.console().execute("show hosts");
        assert!(asked.elapsed() < patient(Duration::from_secs(1)), "the console took {:?}", asked.elapsed());
        thread::sleep(Duration::from_millis(100).saturating_sub(asked.elapsed()));
    }
    let (took, used) = (begin.elapsed(), pooler.cpu_time() - before);
    println!("{changes} changes in {took:.1?}: {used:?} of processor time");
    assert!(used < took / 2, "{used:?} in {took:?}");
    drop(wait_for_primary(&target, changes % 2));
}

/// Row 76: the new primary is of another version. Who is there stays and goes on, and who comes is let in.
#[test]
fn a_primary_of_another_version() {
    let timeline = Timeline::default();
    let hosts = [host(&timeline, 0, "15.0"), host(&timeline, 1, "16.4")];
    let pooler = pooler_before(&hosts);
    let target = pooler.target("scripted");
    let mut old = wait_for_primary(&target, 0);
    assert_eq!(old.params["server_version"], "15.0");
    timeline.promote_other();
    drop(wait_for_primary(&target, 1));
    old.send(query("insert into t values (2)"));
    assert_eq!(old.read_until_ready().rows(), [[Some("1".to_string())]]);
}
