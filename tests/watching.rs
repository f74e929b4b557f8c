//! What the console shows of who holds and who waits, against what is known to have happened.

use std::time::Duration;

use support::frontend::*;
use support::wait::eventually;

use crate::common::pooled;
use crate::console::{Row, row_where, rows_where};

const SOON: Duration = Duration::from_secs(10);

// ---- SHOW LATENCY --------------------------------------------------------------------------------------------

/// Transactions with known pauses: two that wait in the server, one whose client is slow, one that waits for the others.
#[test]
fn latencies_are_those_of_known_sleeps() {
    let pooled = pooled("", |builder| builder.setting("stats_period", 1));
    let mut client = pooled.connect();
    for _ in 0..9 {
        client.execute("select 1");
    }
    client.execute("select pg_sleep(0.3)");
    client.execute("begin");
    let mut waiting = pooled.connect();
    waiting.send(query("select 2"));
    let mut console = pooled.pooler.console();
    eventually("it waits", SOON, || {
        row_where(&mut console, "pools", "database", pooled.database.name()).number("cl_waiting") == 1
    });
    std::thread::sleep(Duration::from_millis(200));
    client.execute("commit");
    waiting.read_until_ready();

    let mut rows = || -> Vec<Row> { rows_where(&mut console, "latency", "database", pooled.database.name()) };
    let what: Vec<String> =
        rows().iter().map(|row| format!("{}/{}", row.text("user"), row.text("what"))).collect();
    assert_eq!(what, ["app/waiting", "app/running", "app/transaction"]);
    let counts = rows().iter().map(|row| row.number("count")).collect::<Vec<_>>();
    assert_eq!(counts[1..], [13, 12]); // `begin` and `commit` are one transaction
    let (waits, runs, transactions) = (&rows()[0], &rows()[1], &rows()[2]);
    assert!(
        (1..=2).contains(&waits.number("count")),
        "the first may have waited for its server to be opened"
    );
    assert!((200_000..5_000_000).contains(&waits.number("max")));
    assert!((300_000..5_000_000).contains(&runs.number("max")));
    assert!(runs.number("p50") < 200_000, "most were short");
    assert!((250_000..5_000_000).contains(&runs.number("p99")));
    assert!(transactions.number("p95") >= 175_000, "two of twelve took long");
    eventually("a period has ended", SOON, || rows()[1].number("period_count") > 0);
    eventually("another has, without requests", SOON, || rows()[1].number("period_count") == 0);
    assert_eq!(rows()[1].number("count"), 13);
}
