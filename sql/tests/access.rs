//! Which host may run a text: a corpus of what poolers have misrouted, and of what drivers send.

use pgferry_sql::{
    Access, AccessMode, Cause, Isolation, Kind, Knowledge, Modes, Transaction, scan, scan_with,
};

fn access(text: &str) -> Access<'_> {
    scan(text.as_bytes()).access
}

#[track_caller]
fn all(texts: &[&str], expected: impl Fn(Kind<'_>) -> bool) {
    let wrong: Vec<_> =
        texts.iter().map(|text| (text, access(text).kind)).filter(|(_, kind)| !expected(*kind)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn reads_are_reads() {
    all(
        &[
            "SELECT 1",
            "select * from t where a = $1 and b in (select c from u) order by 1 limit 5",
            "SELECT count(*), max(a), lower(b), now(), random(), gen_random_uuid() FROM t",
            "select t.update, t.delete, t.share, t.into from t",
            "select share, update, merge, t.insert from t where update = 1 and share is null",
            "select count(update), \"insert\", \"for\" from \"update\"",
            "select 'for update', $$insert into t$$, e'delete from' -- for update\n/* for share */",
            "WITH a AS (SELECT 1), b (x) AS MATERIALIZED (SELECT 2) SELECT * FROM a, b",
            "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 2) SEARCH DEPTH FIRST BY x SET y SELECT * FROM a",
            "VALUES (1, 'a')",
            "TABLE t",
            "(SELECT 1) UNION (SELECT 2)",
            "COPY t TO STDOUT",
            "copy binary t to stdout",
            "copy s.\"T\" (a, b) to stdout with (format csv)",
            "COPY (SELECT lower(a) FROM t) TO STDOUT",
            "EXPLAIN SELECT 1",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "EXPLAIN (COSTS OFF, VERBOSE) UPDATE t SET a = 1",
            "explain verbose select * from t for update",
            "EXPLAIN CREATE TABLE t AS SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE, BUFFERS) (SELECT 1)",
            "DECLARE c CURSOR WITHOUT HOLD FOR SELECT * FROM t",
            "SELECT 1; SET a.b = 1; SELECT 2",
            "BEGIN; SELECT 1; COMMIT",
            "BEGIN READ ONLY; SELECT 1",
            "SELECT current_setting('app.user'), version(), current_user, pg_catalog.format_type(1, 2)",
            "SELECT * FROM pg_class, pg_stats, pg_statistic_ext",
        ],
        |kind| kind == Kind::Reads,
    );
}

#[test]
fn what_only_concerns_the_session_goes_anywhere() {
    all(
        &[
            "",
            "-- nothing",
            "BEGIN",
            "start transaction isolation level repeatable read, read only, deferrable",
            "COMMIT",
            "END AND CHAIN",
            "ROLLBACK TO SAVEPOINT a",
            "SAVEPOINT a; RELEASE a",
            "SET search_path = a",
            "SET LOCAL lock_timeout = 1",
            "SET TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SET ROLE a",
            "RESET ALL",
            "SHOW transaction isolation level",
            "show server_version",
            "DEALLOCATE ALL",
            "DISCARD ALL",
            "UNLISTEN *",
            "CLOSE c",
        ],
        |kind| kind == Kind::Neutral,
    );
}

/// The text, the cause, and the words that are shown.
const FOR_THE_PRIMARY: &[(&str, Cause, &str)] = &[
    // Rows
    ("INSERT INTO t VALUES (1)", Cause::Changes, "INSERT"),
    ("update only t set a = 1", Cause::Changes, "update"),
    ("DELETE FROM t", Cause::Changes, "DELETE"),
    ("MERGE INTO t USING u ON true WHEN MATCHED THEN DO NOTHING", Cause::Changes, "MERGE"),
    ("TRUNCATE t", Cause::Changes, "TRUNCATE"),
    ("COPY t FROM STDIN", Cause::Changes, "COPY FROM"),
    ("COPY s.t (a, b) FROM '/x' WHERE a > 1", Cause::Changes, "COPY FROM"),
    ("REFRESH MATERIALIZED VIEW v", Cause::Changes, "REFRESH"),
    ("/* SELECT */ insert into t select 1", Cause::Changes, "insert"),
    ("SELECT 1; DELETE FROM t", Cause::Changes, "DELETE"),
    ("BEGIN; INSERT INTO t VALUES (1)", Cause::Changes, "INSERT"),
    ("BEGIN READ ONLY; COMMIT; UPDATE t SET a = 1", Cause::Changes, "UPDATE"),
    // ... in a CTE, wherever it stands
    ("WITH a AS (INSERT INTO t VALUES (1) RETURNING b) SELECT b FROM a", Cause::Changes, "INSERT"),
    ("WITH a AS NOT MATERIALIZED (UPDATE t SET a = 1 RETURNING b) TABLE a", Cause::Changes, "UPDATE"),
    ("WITH a AS (SELECT 1), b AS (DELETE -- x\n FROM t) SELECT 1", Cause::Changes, "DELETE"),
    ("WITH a AS (SELECT 1) UPDATE \"t\" SET a = 1", Cause::Changes, "UPDATE"),
    ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", Cause::Changes, "INSERT"),
    (
        "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 2) SEARCH DEPTH FIRST BY x SET y DELETE FROM t",
        Cause::Changes,
        "DELETE",
    ),
    ("WITH a AS (MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE) SELECT 1", Cause::Changes, "MERGE"),
    ("COPY (DELETE FROM t RETURNING a) TO STDOUT", Cause::Changes, "DELETE"),
    ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", Cause::Changes, "INSERT"),
    ("EXPLAIN (VERBOSE, \"analyze\" off) UPDATE t SET a = 1", Cause::Changes, "UPDATE"),
    ("EXPLAIN (BUFFERS, ANALYSE) WITH a AS (DELETE FROM t) SELECT 1", Cause::Changes, "DELETE"),
    ("PREPARE p AS DELETE FROM t", Cause::Changes, "DELETE"),
    // Definitions
    ("SELECT * INTO t FROM u", Cause::Defines, "SELECT INTO"),
    ("SELECT 1 INTO TEMP t", Cause::Defines, "SELECT INTO"),
    ("CREATE TABLE t AS SELECT 1", Cause::Defines, "CREATE TABLE"),
    ("CREATE TEMP TABLE t (a int)", Cause::Defines, "CREATE TEMP"),
    ("ALTER TABLE t ADD b int", Cause::Defines, "ALTER TABLE"),
    ("drop  index i", Cause::Defines, "drop index"),
    ("COMMENT ON TABLE t IS 'x'", Cause::Defines, "COMMENT"),
    ("GRANT SELECT ON t TO u", Cause::Defines, "GRANT"),
    ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", Cause::Defines, "CREATE TABLE"),
    // Locks
    ("SELECT * FROM t FOR UPDATE", Cause::Locks, "FOR UPDATE"),
    ("SELECT * FROM t FOR NO KEY UPDATE OF t NOWAIT", Cause::Locks, "FOR NO KEY UPDATE"),
    ("SELECT * FROM (SELECT 1 FROM t FOR SHARE SKIP LOCKED) a", Cause::Locks, "FOR SHARE"),
    ("select 1 from t for/**/key share", Cause::Locks, "FOR KEY SHARE"),
    ("DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE", Cause::Locks, "FOR UPDATE"),
    ("LOCK TABLE t IN ACCESS SHARE MODE", Cause::Locks, "LOCK"),
    // Functions
    ("SELECT nextval('s')", Cause::Function, "nextval"),
    ("SELECT setval('s', 1), lower('a')", Cause::Function, "setval"),
    ("SELECT currval('s')", Cause::Function, "currval"),
    ("SELECT lastval()", Cause::Function, "lastval"),
    (
        "SELECT a FROM t WHERE PG_CATALOG . pg_try_advisory_lock (1)",
        Cause::Function,
        "PG_CATALOG . pg_try_advisory_lock",
    ),
    ("SELECT pg_advisory_xact_lock(1)", Cause::Function, "pg_advisory_xact_lock"),
    ("SELECT pg_advisory_unlock_all()", Cause::Function, "pg_advisory_unlock_all"),
    ("SELECT txid_current()", Cause::Function, "txid_current"),
    ("SELECT pg_current_xact_id()", Cause::Function, "pg_current_xact_id"),
    ("EXPLAIN SELECT pg_current_xact_id()", Cause::Function, "pg_current_xact_id"),
    ("SELECT pg_export_snapshot()", Cause::Function, "pg_export_snapshot"),
    ("SELECT pg_notify('c', 'x')", Cause::Function, "pg_notify"),
    ("SELECT lo_create(0)", Cause::Function, "lo_create"),
    ("SELECT set_config('a.b', 'c', true)", Cause::Function, "set_config"),
    ("SELECT pg_switch_wal(), pg_current_wal_lsn()", Cause::Function, "pg_switch_wal"),
    ("SELECT pg_walfile_name('0/0')", Cause::Function, "pg_walfile_name"),
    ("SELECT pg_logical_emit_message(true, 'a', 'b')", Cause::Function, "pg_logical_emit_message"),
    ("VALUES (nextval('s'))", Cause::Function, "nextval"),
    ("COPY (SELECT nextval('s')) TO STDOUT", Cause::Function, "nextval"),
    ("SELECT (SELECT f(nextval('s')))", Cause::Function, "nextval"),
    ("SELECT pg_is_in_recovery()", Cause::Function, "pg_is_in_recovery"),
    ("SELECT inet_server_addr()", Cause::Function, "inet_server_addr"),
    ("SELECT txid_status(1)", Cause::Function, "txid_status"),
    ("SELECT f(1)", Cause::UnknownFunction, "f"),
    ("SELECT * FROM app.\"Total\"(1)", Cause::UnknownFunction, "app.\"Total\""),
    ("SELECT public.lower('A')", Cause::UnknownFunction, "public.lower"),
    ("SELECT \"Lower\"('A')", Cause::UnknownFunction, "\"Lower\""),
    ("SELECT dblink('x', 'delete from t')", Cause::UnknownFunction, "dblink"),
    ("SELECT query_to_xml('delete from t', true, true, '')", Cause::UnknownFunction, "query_to_xml"),
    (
        "SELECT pg_logical_slot_get_changes('a', NULL, NULL)",
        Cause::UnknownFunction,
        "pg_logical_slot_get_changes",
    ),
    ("EXPLAIN SELECT f(1)", Cause::UnknownFunction, "f"),
    // Modes
    ("BEGIN READ WRITE", Cause::Mode, "READ WRITE"),
    ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", Cause::Mode, "SERIALIZABLE"),
    ("SET TRANSACTION SNAPSHOT '1'", Cause::Mode, "SNAPSHOT"),
    ("SET LOCAL transaction_read_only = off", Cause::Mode, "transaction_read_only = off"),
    ("SET transaction_isolation TO 'serializable'", Cause::Mode, "transaction_isolation"),
    ("SET CONSTRAINTS ALL DEFERRED", Cause::Mode, "SET CONSTRAINTS"),
    // What a standby has not
    ("LISTEN c", Cause::Refused, "LISTEN"),
    ("NOTIFY c", Cause::Refused, "NOTIFY"),
    ("VACUUM t", Cause::Refused, "VACUUM"),
    ("ANALYZE", Cause::Refused, "ANALYZE"),
    ("PREPARE TRANSACTION 'x'", Cause::Refused, "PREPARE TRANSACTION"),
    ("COMMIT PREPARED 'x'", Cause::Refused, "COMMIT PREPARED"),
    // What is not seen
    ("DO $$ BEGIN END $$", Cause::Code, "DO"),
    ("CALL p()", Cause::Code, "CALL"),
    ("LOAD 'x'", Cause::Code, "LOAD"),
    ("EXECUTE p (1)", Cause::Named, "EXECUTE p"),
    ("EXPLAIN ANALYZE EXECUTE p", Cause::Named, "EXECUTE p"),
    ("EXPLAIN CREATE TABLE t AS EXECUTE p", Cause::Named, "EXECUTE"),
    ("FETCH 1 FROM c", Cause::Named, "FETCH"),
    // What hosts answer differently
    ("PREPARE p (int) AS SELECT $1", Cause::Session, "PREPARE"),
    ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t; COMMIT", Cause::Session, "WITH HOLD"),
    ("PREPARE p AS SELECT f(1)", Cause::UnknownFunction, "f"),
    ("SELECT * FROM pg_stat_activity", Cause::Host, "pg_stat_activity"),
    ("SELECT 1 FROM \"pg_catalog\".\"pg_locks\" l", Cause::Host, "\"pg_locks\""),
    ("TABLE PG_STAT_replication", Cause::Host, "PG_STAT_replication"),
    ("SHOW transaction_read_only", Cause::Host, "SHOW transaction_read_only"),
    ("SELECT current_setting('in_hot_standby')", Cause::Host, "current_setting(?"),
    ("COPY t TO '/tmp/x'", Cause::Host, "COPY TO a file"),
    ("COPY (SELECT 1) TO PROGRAM 'x'", Cause::Host, "COPY TO a file"),
    // What writes matters more than what only differs, or than what is not known
    ("SELECT * FROM pg_stat_activity; INSERT INTO t VALUES (1)", Cause::Changes, "INSERT"),
    ("SELECT f(1) FROM t FOR UPDATE", Cause::Locks, "FOR UPDATE"),
    // Not understood
    ("FROBNICATE t", Cause::NotUnderstood, "FROBNICATE"),
    ("SELECT 'a", Cause::NotUnderstood, ""),
    ("SELECT 'a\\'", Cause::NotUnderstood, ""),
    ("SELECT \0", Cause::NotUnderstood, ""),
    ("COPY", Cause::NotUnderstood, "COPY"),
];

#[test]
fn what_is_for_the_primary_says_why() {
    let mut wrong = Vec::new();
    for (text, cause, words) in FOR_THE_PRIMARY {
        let kind = access(text).kind;
        let reason = kind.reason().map(|reason| (reason.cause, reason.to_string()));
        let unknown = matches!(
            cause,
            Cause::UnknownFunction
                | Cause::Code
                | Cause::Named
                | Cause::Session
                | Cause::Host
                | Cause::NotUnderstood
        );
        let right = reason.is_some_and(|(found, shown)| found == *cause && shown.contains(words))
            && unknown == matches!(kind, Kind::Unknown(_));
        if !right {
            wrong.push((text, kind, kind.reason().map(|reason| reason.to_string())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn reasons_show_no_literals_and_no_more_than_needed() {
    let text = "SELECT \t public\n. /* x */ \"F\" ('secret')";
    let shown = access(text).kind.reason().map(|reason| reason.to_string());
    assert_eq!(shown.as_deref(), Some("function public . \"F\" is not known only to read"));
    let text = format!("SELECT {}(1)", "f".repeat(10_000));
    assert!(access(&text).kind.reason().is_some_and(|reason| reason.to_string().len() < 200));
}

#[test]
fn transactions_are_followed_to_the_end_of_the_text() {
    let modes = |access, isolation| Modes { access, isolation };
    let (read_only, read_write) = (Some(AccessMode::ReadOnly), Some(AccessMode::ReadWrite));
    let cases = [
        ("SELECT 1", Transaction::Same),
        ("SAVEPOINT a; ROLLBACK TO a", Transaction::Same),
        ("COMMIT AND CHAIN", Transaction::Same),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Transaction::Same),
        ("SET a = 1", Transaction::Same),
        ("BEGIN", Transaction::Begins(Modes::default())),
        ("BEGIN WORK READ ONLY", Transaction::Begins(modes(read_only, None))),
        ("begin transaction read write, not deferrable", Transaction::Begins(modes(read_write, None))),
        (
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Transaction::Begins(modes(read_only, Some(Isolation::RepeatableRead))),
        ),
        (
            "BEGIN ISOLATION LEVEL READ UNCOMMITTED, READ WRITE, READ ONLY",
            Transaction::Begins(modes(read_only, Some(Isolation::ReadCommitted))),
        ),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Transaction::Begins(modes(None, Some(Isolation::Serializable))),
        ),
        ("BEGIN; SET TRANSACTION READ ONLY; SELECT 1", Transaction::Begins(modes(read_only, None))),
        ("BEGIN; SET LOCAL transaction_read_only = 1", Transaction::Begins(modes(read_only, None))),
        ("SET TRANSACTION READ ONLY", Transaction::Sets(modes(read_only, None))),
        (
            "set local transaction_isolation = 'REPEATABLE read'",
            Transaction::Sets(modes(None, Some(Isolation::RepeatableRead))),
        ),
        ("set session transaction_read_only to 'on'", Transaction::Sets(modes(read_only, None))),
        ("SET transaction_read_only = off", Transaction::Sets(modes(read_write, None))),
        ("COMMIT", Transaction::Ends),
        ("COMMIT AND NO CHAIN", Transaction::Ends),
        ("BEGIN READ ONLY; SELECT 1; END", Transaction::Ends),
        ("COMMIT; SET TRANSACTION READ ONLY", Transaction::Ends),
        ("ROLLBACK; BEGIN READ ONLY", Transaction::Begins(modes(read_only, None))),
        ("BEGIN READ ONLY; COMMIT; BEGIN", Transaction::Begins(Modes::default())),
    ];
    for (text, expected) in cases {
        assert_eq!(access(text).transaction, expected, "{text}");
    }
}

struct Declared;

impl Knowledge for Declared {
    fn only_reads(&self, schema: &[u8], function: &[u8]) -> bool {
        matches!((schema, function), (b"" | b"app", b"total") | (b"", b"nextval" | b"dblink"))
    }

    fn prepared_only_reads(&self, name: &[u8]) -> bool {
        name == b"p"
    }
}

#[test]
fn what_is_declared_to_read_does() {
    let kind = |text: &'static str| scan_with(text.as_bytes(), &Declared).access.kind;
    for text in [
        "SELECT total(1), TOTAL(2), app.total(3), \"app\" . Total(4), dblink('x')",
        "EXECUTE p(total(1))",
        "EXECUTE P; SELECT 1",
    ] {
        assert_eq!(kind(text), Kind::Reads, "{text}");
    }
    for text in [
        "SELECT other.total(1)",
        "SELECT pg_temp.total(1)",
        "SELECT db.app.total(1)",
        "SELECT total(f(1))",
        "SELECT nextval('s')",
        "EXECUTE q",
        "EXECUTE p(f(1))",
        "EXECUTE \"P\"",
    ] {
        assert!(kind(text).reason().is_some(), "{text}");
    }
    assert!(scan_with(b"SELECT total(1)", &Declared).effects.contains(pgferry_sql::Effects::CALLS));
}
