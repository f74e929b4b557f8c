use pgferry_sql::{Kind, assignments, custom_settings, fingerprint, outline, prepared_names, scan};

/// Any text: what is called a read stays one whole, so that whatever is put behind it is seen; a reason can be shown.
pub fn sql(text: &[u8]) {
    let found = scan(text);
    match found.access.kind.reason() {
        None => {
            assert!(found.read_only);
            let more = [text, b"\n;delete from t"].concat();
            assert!(matches!(scan(&more).access.kind, Kind::Writes(_)));
        }
        Some(reason) => assert!(reason.to_string().len() < 400),
    }
    let _ = (custom_settings(text).count(), assignments(text).count(), prepared_names(text).len());
    let _ = (outline(text, 100), fingerprint(text));
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 8] = [
        b"WITH a (x) AS (SELECT lower('A''b'), $1), b AS (UPDATE t SET a = 1 RETURNING b) SELECT * FROM a, \"b\" FOR UPDATE",
        b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT $a$ $$ $a$, E'\\'', 1.5e3; COMMIT AND CHAIN",
        b"EXPLAIN (ANALYZE, COSTS off) INSERT INTO t VALUES (nextval('s'))",
        b"COPY (SELECT a::int FROM s.t /* /* */ */) TO STDOUT WITH (FORMAT csv)",
        b"SET LOCAL transaction_read_only = on; SHOW in_hot_standby -- x\n; EXECUTE p(f(1))",
        b"PREPARE p (int, numeric(1,2)) AS SELECT set_config('a.b', $2, true) INTO TEMP x",
        b"DECLARE c CURSOR WITH HOLD FOR SELECT * FROM pg_stat_activity; FETCH 1 FROM c",
        b"CREATE TEMP TABLE t AS EXECUTE p; DROP DATABASE IF EXISTS d; DISCARD ALL; U&\"x\"",
    ];
    texts.map(<[u8]>::to_vec).into()
}
