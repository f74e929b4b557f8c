//! What is shown of hosts and of what goes to them: it is what happens.

use support::pooler::PoolerBuilder;
use support::postgres::USER;

use super::{Fleet, PORT, eventual};
use crate::console::table;
use crate::http::{Metrics, with_http};

const SETUP: &str = "create table t (id int primary key, v text); insert into t values (1, 'one');
    create function mine() returns int stable language sql as 'select 1';
    create view sly as select pg_is_in_recovery() as one";

fn watched(builder: PoolerBuilder) -> PoolerBuilder {
    with_http(eventual(builder))
}

/// The console, PostgreSQL and the metrics say the same of each host.
#[test]
fn hosts() {
    let fleet = Fleet::quiet(SETUP, watched);
    let mut client = fleet.connect();
    for _ in 0..40 {
        client.execute("select v from t");
    }
    let rows = fleet.shown();
    let metrics = Metrics::of_pooler(&fleet.pooler);
    for (row, host) in rows.iter().zip(fleet.members()) {
        let endpoint = format!("127.0.0.1:{}", host.port());
        let role = if host.port() == fleet.set.primary.port() { "primary" } else { "standby" };
        assert_eq!(row.text("databases"), fleet.database.name());
        assert_eq!((row.text("role"), row.text("breaker")), (role, "closed"));
        assert_eq!((row.text("timeline"), row.number("weight")), ("1", 1));
        assert!(row.text("lsn").contains('/') && row.number("probes") > 0, "{row:?}");
        let of = |name: &str, more: &[(&str, &str)]| {
            metrics.of(name, &[&[("host", endpoint.as_str())], more].concat())
        };
        assert_eq!(of("pgferry_host_role", &[("role", role)]), 1);
        assert_eq!(of("pgferry_host_breaker", &[("state", "closed")]), 1);
        assert_eq!(of("pgferry_host_reads_total", &[]), row.number("reads"));
    }
    let shares: Vec<f64> = rows.iter().map(|row| row.text("read_share").parse().unwrap()).collect();
    assert_eq!(shares[0], 0.0);
    assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.2, "{shares:?}");
}

/// `SHOW ROUTE` says where a statement goes, and it does.
#[test]
fn routes() {
    let fleet = Fleet::quiet(SETUP, |builder| eventual(builder).setting("read_functions", "mine"));
    let mut client = fleet.connect();
    let mut console = fleet.pooler.console();
    for (sql, why) in [
        ("select {}", "it only reads"),
        ("select v, {} from t where id = 1", "it only reads"),
        ("select mine(), {}", "it only reads"),
        ("insert into t values (7, 'seven') returning {}", "insert changes rows"),
        ("delete from t where id = 7 returning {}", "delete changes rows"),
        ("select id, {} from t for update", "for update takes locks"),
        ("select strange(1), {}", "function strange is not known only to read"),
    ] {
        let sql = sql.replace("{}", PORT);
        let item = format!("ROUTE {} $${sql}$$", fleet.database.name());
        let row = table(&mut console, &item).remove(0);
        assert_eq!(row.text("why").to_lowercase(), why, "{sql}");
        let hosts: Vec<usize> = row
            .text("hosts")
            .split(',')
            .map(|host| fleet.place(host.rsplit(':').next().unwrap_or_default()))
            .collect();
        let expected: &[usize] = if row.text("target") == "primary" { &[0] } else { &[1, 2] };
        assert_eq!(hosts, expected, "{sql}");
        if !sql.contains("strange") {
            let place = fleet.place_of(&client.execute(&sql));
            assert!(hosts.contains(&place), "{sql} was said to go to {hosts:?}, and went to {place}");
        }
    }
    // All databases that have several hosts: one.
    assert_eq!(table(&mut console, "ROUTE 'select 1'").len(), 1);
}

/// What a replica has refused is told to go to the primary from then on.
#[test]
fn routes_of_what_was_refused() {
    let fleet = Fleet::quiet(
        "create table t (id int); create function sly_one() returns int language plpgsql as \
         'begin insert into t values (1); return 1; end'; create view sly as select sly_one() as one",
        eventual,
    );
    let mut console = fleet.pooler.console();
    let mut told = || {
        let row = table(&mut console, "ROUTE 'select one from sly'").remove(0);
        (row.text("target").to_owned(), row.text("reason").to_owned())
    };
    let both = |target: &str, reason: &str| (target.to_owned(), reason.to_owned());
    assert_eq!(told(), both("replica", "only reads"));
    assert_eq!(fleet.connect().scalar("select one from sly"), "1");
    assert_eq!(told(), both("primary", "refused by a replica before"));
}

/// Requests are counted by where they went and why, on the console and for Prometheus.
#[test]
fn counts() {
    let fleet = Fleet::quiet(SETUP, watched);
    let mut console = fleet.pooler.console();
    let mut counted = |reason: &str| -> u64 {
        let rows = table(&mut console, "ROUTING");
        let found = rows.iter().filter(|row| row.text("reason") == reason);
        found.map(|row| row.number("count")).sum()
    };
    let reasons = ["only reads", "writes", "transaction may write", "read-only transaction"];
    let before = reasons.map(&mut counted);
    let mut client = fleet.connect();
    for sql in [
        "select 1",
        "select v from t",
        "begin",
        "commit",
        "begin read only",
        "commit",
        "update t set v = 'x'",
    ] {
        client.execute(sql);
    }
    let grown: Vec<u64> =
        reasons.map(&mut counted).iter().zip(before).map(|(now, then)| now - then).collect();
    assert_eq!(grown, [2, 1, 1, 1]);
    let metrics = Metrics::of_pooler(&fleet.pooler);
    let labels =
        [("database", fleet.database.name()), ("user", USER), ("target", "primary"), ("reason", "writes")];
    assert_eq!(metrics.of("pgferry_routed_total", &labels), counted("writes"));
}
