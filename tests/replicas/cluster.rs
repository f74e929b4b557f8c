//! What the pooler finds out about its hosts, and what its looks at them cost others: from its log, and from what the hosts
//! themselves see of it.

use std::thread;
use std::time::Instant;

use support::wait::patient;

use super::*;

/// What probes are called in `pg_stat_activity`.
const PROBES: &str = "from pg_stat_activity where application_name = 'pgferry probe'";

/// A pooler that has just begun to look at hosts of its own.
struct Watched {
    pooler: Pooler,
    database: Database,
    set: Replicas,
}

impl Watched {
    #[track_caller]
    fn start(count: usize, configure: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Watched {
        let set = Replicas::start(count);
        let database = database_of(&set, "create table t (a int)");
        let builder = pooler().setting("read_routing", "auto").setting("probe_interval", "300ms");
        let pooler = configure(eventual(builder).database_line("a", &hosts(&set, &database))).start();
        Watched { pooler, database, set }
    }

    /// What the pooler has called a host last.
    fn role(&self, host: &Postgres) -> String {
        let mark = format!("host 127.0.0.1:{}: ", host.port());
        let log = self.pooler.log();
        let said = log.lines().rev().filter_map(|line| line.split(&mark).nth(1));
        let role =
            said.filter_map(|words| words.split_once(", was ")).map(|(role, _)| role.to_owned()).next();
        role.unwrap_or_default()
    }

    #[track_caller]
    fn wait_for_role(&self, host: &Postgres, role: &str) {
        eventually(&format!("{} is {role}", host.port()), SOON, || self.role(host) == role);
    }

    #[track_caller]
    fn wait_until_known(&self) {
        self.pooler.connect("a").execute("select 1");
        self.wait_for_role(&self.set.primary, "primary");
        self.set.replicas.iter().for_each(|replica| self.wait_for_role(replica, "standby"));
    }

    fn all(&self) -> Vec<&Postgres> {
        std::iter::once(&self.set.primary).chain(&self.set.replicas).collect()
    }
}

/// How many probes a host has now, and the process of one.
#[track_caller]
fn probes(host: &Postgres) -> (usize, Option<String>) {
    let rows = host.sql(&format!("select pid {PROBES}")).rows();
    (rows.len(), rows.first().and_then(|row| row[0].clone()))
}

#[track_caller]
fn wait_for_probes(host: &Postgres, count: usize) {
    eventually(&format!("{count} probes of {}", host.port()), SOON, || probes(host).0 == count);
}

#[test]
fn each_host_has_one_probe_whatever_databases_it_has() {
    let set = Replicas::start(1);
    let database = database_of(&set, "");
    let (first, second) = (set.primary.port(), set.replicas[0].port());
    let pooler = pooler()
        .setting("read_routing", "auto")
        .database_line("a", &line(first, &[second], &database))
        .database_line("b", &line(second, &[first], &database))
        .start();
    for name in ["a", "b", "a"] {
        let mut client = pooler.connect(name);
        client.execute("create temp table t ()");
    }
    [&set.primary, &set.replicas[0]].iter().for_each(|host| wait_for_probes(host, 1));
}

/// Somebody ends the probe's connection, and nothing else.
#[test]
fn a_probe_that_is_cut_off_changes_nothing() {
    let watched = Watched::start(1, |builder| builder);
    watched.wait_until_known();
    for host in watched.all() {
        let (count, before) = probes(host);
        assert_eq!(count, 1);
        host.sql(&format!("select pg_terminate_backend(pid) {PROBES}"));
        eventually("another probe", SOON, || probes(host).1.is_some_and(|pid| Some(pid) != before));
    }
    let log = watched.pooler.log();
    assert!(!log.contains("unknown, was"), "{log}");
}

/// While the primary is frozen a standby is promoted. The old primary comes back, and takes no writes for all it can.
#[test]
fn a_primary_that_slept_through_a_promotion() {
    let watched = Watched::start(1, |builder| builder.setting("probe_timeout", "500ms"));
    watched.wait_until_known();
    let (old, new) = (&watched.set.primary, &watched.set.replicas[0]);
    let begun = Instant::now();
    old.freeze();
    watched.wait_for_role(old, "unknown");
    assert!(begun.elapsed() < patient(Duration::from_millis(1500)), "{:?}", begun.elapsed());
    let mut client = watched.pooler.connect("a");
    client.send(query("insert into t values (1)"));
    client.expect_silence(Duration::from_millis(200));
    new.promote();
    watched.wait_for_role(new, "primary");
    assert_eq!(client.read_until_ready().error(), None);
    old.thaw();
    watched.wait_for_role(old, "fenced");
    client.execute("insert into t values (2)");
    let rows = |host: &Postgres| {
        let mut client = Client::login(&host.superuser(watched.database.name()));
        client.scalar("select count(*) from t")
    };
    assert_eq!((rows(old), rows(new)), ("0".to_owned(), "2".to_owned()));
}

/// A standby that has stayed on the timeline of the old primary may have what nobody else has: it serves no reads until it
/// follows the new one.
#[test]
fn a_standby_that_was_left_behind() {
    let watched = Watched::start(2, |builder| builder);
    watched.wait_until_known();
    let (new, left) = (&watched.set.replicas[0], &watched.set.replicas[1]);
    let mut client = watched.pooler.connect("a");
    let read = format!("select {PORT}");
    eventually("it serves reads", SOON, || client.scalar(&read) == left.port().to_string());
    watched.set.primary.stop(support::postgres::Stop::Immediate);
    new.promote();
    watched.wait_for_role(new, "primary");
    let mut client = watched.pooler.connect("a");
    for _ in 0..50 {
        assert_eq!(client.scalar(&read), new.port().to_string());
    }
    left.follow(new);
    left.wait_for_position(new.position());
    // What it receives is shown to a few only. All can see where it would begin again.
    new.sql("checkpoint");
    left.wait_for_position(new.position());
    left.sql("checkpoint");
    eventually("it serves reads again", SOON, || client.scalar(&read) == left.port().to_string());
}

/// Who pauses a pooler may want to stop the server, and that waits for everybody who is connected.
#[test]
fn a_pause_is_one_for_probes_too() {
    let watched = Watched::start(1, |builder| builder);
    watched.wait_until_known();
    let mut console = watched.pooler.console();
    for command in ["", " a"] {
        console.execute(&format!("PAUSE{command}"));
        watched.all().iter().for_each(|host| wait_for_probes(host, 0));
        console.execute(&format!("RESUME{command}"));
        watched.pooler.connect("a").execute("insert into t values (1)");
        watched.all().iter().for_each(|host| wait_for_probes(host, 1));
    }
}

#[test]
fn hosts_that_are_no_longer_configured_are_left_alone() {
    let mut watched = Watched::start(1, |builder| builder);
    watched.wait_until_known();
    let here =
        format!("host=127.0.0.1 port={} dbname={}", watched.set.primary.port(), watched.database.name());
    watched.pooler.reload(|builder| builder.database_line("a", &here));
    watched.all().iter().for_each(|host| wait_for_probes(host, 0));
    watched.pooler.connect("a").execute("insert into t values (1)");
}

/// That the probe's login is refused is no fault of the host's, and is not for ever.
#[test]
fn a_user_for_probes_that_there_is_not() {
    let mut watched = Watched::start(1, |builder| builder.setting("probe_user", "nobody_at_all"));
    let target = watched.pooler.target("a");
    let writer = thread::spawn(move || Client::login(&target).query("insert into t values (1)"));
    watched.pooler.wait_for_log("role \"nobody_at_all\" does not exist");
    assert!(!writer.is_finished());
    watched.pooler.reload(|builder| builder.setting("probe_user", support::postgres::USER));
    assert_eq!(writer.join().expect("a client").error(), None);
}
