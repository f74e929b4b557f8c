//! What drivers, frameworks and tools really send, and what it must come out as.

use pgferry_sql::{Effects, scan};

/// Reads and writes that leave nothing behind. Behind `w:` those that are not certain to be only reads.
const PLAIN: &[&str] = &[
    // Django
    r#"SELECT "auth_user"."id", "auth_user"."password" FROM "auth_user" WHERE "auth_user"."username" = 'a' LIMIT 21"#,
    r#"SELECT COUNT(*) AS "__count" FROM "shop_order" INNER JOIN "auth_user" ON ("shop_order"."user_id" = "auth_user"."id") WHERE ("auth_user"."is_active" AND NOT ("shop_order"."state" IN (1, 2, 3)))"#,
    r#"w:INSERT INTO "shop_order" ("user_id", "total", "created") VALUES (1, 2.50, '2026-01-01T00:00:00+00:00'::timestamptz), (2, 3, NULL) RETURNING "shop_order"."id""#,
    r#"w:UPDATE "shop_order" SET "total" = ("shop_order"."total" + 1), "state" = CASE WHEN ("shop_order"."id" = 1) THEN 2 ELSE (3) END WHERE "shop_order"."id" = 4"#,
    r#"w:DELETE FROM "django_session" WHERE "django_session"."session_key" IN ('abc')"#,
    r#"SELECT "a"."id" FROM "a" WHERE EXISTS(SELECT 1 AS "a" FROM "b" U0 WHERE U0."a_id" = ("a"."id") LIMIT 1)"#,
    r#"w:SELECT "a"."id" FROM "a" WHERE "a"."id" = 3 LIMIT 21 FOR UPDATE OF "a" SKIP LOCKED"#,
    r#"SELECT DISTINCT ON ("a"."x") "a"."x", UPPER("a"."name"::text) FROM "a" WHERE UPPER("a"."name"::text) LIKE UPPER('%x%') ORDER BY "a"."x" ASC"#,
    r#"SELECT (DATE_TRUNC('month', "t"."at" AT TIME ZONE 'UTC'))::date AS "m", COALESCE(SUM("t"."v"), 0), EXTRACT('year' FROM "t"."at") FROM "t" GROUP BY 1 HAVING COUNT("t"."id") > 1"#,
    r#"SELECT ROW_NUMBER() OVER (PARTITION BY "t"."a" ORDER BY "t"."b" DESC) AS "n", ARRAY_AGG("t"."c" ORDER BY "t"."c") FILTER (WHERE ("t"."c" > 1)) FROM "t""#,
    r#"w:INSERT INTO "t" ("a", "b") VALUES (1, 2) ON CONFLICT ("a") DO UPDATE SET "b" = EXCLUDED."b""#,
    r#"w:INSERT INTO "t" ("a", "b") SELECT * FROM UNNEST((ARRAY[1, 2])::integer[], (ARRAY['a'])::varchar(10)[]) RETURNING "t"."id""#,
    r#"DECLARE "_django_curs_140_sync_1" NO SCROLL CURSOR FOR SELECT "a"."id" FROM "a""#,
    r#"w:FETCH FORWARD 2000 FROM "_django_curs_140_sync_1""#,
    // Rails
    r#"SELECT "users".* FROM "users" WHERE "users"."email" = $1 ORDER BY "users"."id" ASC LIMIT $2"#,
    r#"SELECT 1 AS one FROM "users" WHERE LOWER("users"."email") = LOWER($1) LIMIT $2 /*application:App,controller:users*/"#,
    r#"w:INSERT INTO "posts" ("title", "created_at") VALUES ($1, $2) RETURNING "id""#,
    r#"w:INSERT INTO "tags" ("name","created_at") VALUES ('a', CURRENT_TIMESTAMP) ON CONFLICT ("name") DO UPDATE SET updated_at=(CASE WHEN ("tags"."name" IS NOT DISTINCT FROM excluded."name") THEN "tags".updated_at ELSE CURRENT_TIMESTAMP END) RETURNING "id""#,
    "SELECT c.relname FROM pg_class c LEFT JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (current_schemas(false)) AND c.relkind IN ('r','v','m','p','f')",
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, col_description(a.attrelid, a.attnum) AS comment FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attrelid = '\"users\"'::regclass AND a.attnum > 0",
    "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4')",
    "SHOW max_identifier_length",
    "w:UPDATE \"posts\" SET \"views\" = COALESCE(\"views\", 0) + 1 WHERE \"posts\".\"id\" = $1",
    "w:TRUNCATE TABLE \"posts\", \"users\" RESTART IDENTITY CASCADE",
    // Hibernate
    "select u1_0.id,u1_0.name from users u1_0 left join roles r1_0 on r1_0.user_id=u1_0.id where u1_0.name=? and (u1_0.age>=18 or u1_0.vip) order by u1_0.id offset ? rows fetch first ? rows only",
    "w:insert into users (name,version,id) values (?,?,?)",
    "w:update users set name=?,version=? where id=? and version=?",
    "select count(u1_0.id) from users u1_0 where u1_0.created between (?) and (?) and lower(u1_0.name) like ? escape ''",
    "with recursive t(id, parent) as (select id, parent from tree where id=$1 union all select c.id, c.parent from tree c join t on c.parent=t.id) select * from t",
    "w:select u1_0.id from users u1_0 where u1_0.id=? for no key update",
    "w:with c as (update q set state='taken' where id in (select id from q where state='new' for update skip locked limit 1) returning id) select id from c",
    "w:merge into accounts as a using (values (1, 2)) as s(id, v) on a.id = s.id when matched then update set v = s.v when not matched then insert (id, v) values (s.id, s.v)",
    "select cast(u.total as numeric(10,2)), u.name::varchar(20), date '2026-01-01', interval '1 day', timestamp(3) '2026-01-01' from u",
    // SQLAlchemy, asyncpg, psycopg
    "select pg_catalog.version()",
    "select current_schema()",
    "show transaction isolation level",
    "show standard_conforming_strings",
    "SELECT users.id AS users_id, users.name AS users_name FROM users WHERE users.id IN ($1::INTEGER, $2::INTEGER)",
    "w:INSERT INTO t (a, b) SELECT p0::INTEGER, p1::VARCHAR FROM (VALUES ($1::INTEGER, $2::VARCHAR, 0), ($3, $4, 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING t.id, t.id AS id__1",
    "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relname = $1::VARCHAR AND pg_catalog.pg_class.relkind = ANY (ARRAY[$2::VARCHAR, $3::VARCHAR]) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)",
    "SELECT t.oid, typarray, typname FROM pg_type t WHERE t.oid = to_regtype($1) ORDER BY t.oid",
    "WITH RECURSIVE typeinfo_tree(oid, ns, name, kind) AS (SELECT ti.oid, ti.ns, ti.name, ti.kind FROM pg_type AS ti WHERE ti.oid = any($1::oid[])), other (x) AS NOT MATERIALIZED (SELECT 1) SELECT DISTINCT *, basetype::regtype::text AS basetype_name FROM typeinfo_tree ORDER BY depth DESC",
    "SELECT anon_1.x FROM (SELECT a.x AS x, rank() OVER w AS r FROM a WINDOW w AS (PARTITION BY a.y)) AS anon_1 WHERE (anon_1.r) <= 3",
    "SELECT * FROM jsonb_to_recordset($1::jsonb) AS x(id int, name text, price numeric(8,2))",
    "SELECT d.key, d.value FROM docs, jsonb_each_text(docs.data) d WHERE docs.data @> '{\"a\": [1]}' AND docs.data ? 'k' AND docs.x ->> 'y' ILIKE ('%z%')",
    "SELECT * FROM unnest($1::int[], $2::text[]) WITH ORDINALITY AS u(a, b, n), LATERAL (SELECT generate_series(1, u.a)) g(i)",
    "SELECT x FROM t WHERE (a, b) IN (VALUES (1, 2), (3, 4)) AND c = ALL (SELECT 1) AND tsv @@ plainto_tsquery('english', $1) ORDER BY ts_rank(tsv, plainto_tsquery('english', $1)) DESC",
    // psql, with \\d, \\l, tab completion
    "SELECT c.oid,\n  n.nspname,\n  c.relname\nFROM pg_catalog.pg_class c\n     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\nWHERE c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default\n  AND pg_catalog.pg_table_is_visible(c.oid)\nORDER BY 2, 3;",
    "SELECT d.datname as \"Name\",\n  pg_catalog.pg_get_userbyid(d.datdba) as \"Owner\",\n  pg_catalog.pg_encoding_to_char(d.encoding) as \"Encoding\",\n  pg_catalog.array_to_string(d.datacl, E'\\n') AS \"Access privileges\"\nFROM pg_catalog.pg_database d\nORDER BY 1;",
    "SELECT a.attname,\n  (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true)\n   FROM pg_catalog.pg_attrdef d\n   WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef),\n  pg_catalog.col_description(a.attrelid, a.attnum)\nFROM pg_catalog.pg_attribute a",
    "SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c WHERE substring(pg_catalog.quote_ident(c.relname),1,3)='use'",
    // pgbench
    "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
    "w:UPDATE pgbench_accounts SET abalance = abalance + -3 WHERE aid = 12345;",
    "w:INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, -4, CURRENT_TIMESTAMP);",
    "select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) group by 1, 2",
    "w:copy pgbench_accounts from stdin with (freeze on)",
    "w:vacuum analyze pgbench_branches",
    // pg_dump
    "COPY public.t (id, name) TO stdout;",
    "COPY (SELECT id, lower(name) FROM t) TO STDOUT WITH (FORMAT csv, HEADER)",
    "w:LOCK TABLE public.a, public.b IN ACCESS SHARE MODE",
    "SELECT pg_catalog.pg_is_in_recovery",
    "SELECT t.tableoid, t.oid, i.indrelid, t.relname AS indexname, pg_catalog.pg_get_indexdef(i.indexrelid) AS indexdef FROM unnest('{16385}'::pg_catalog.oid[]) AS src(tbloid)\nJOIN pg_catalog.pg_index i ON (src.tbloid = i.indrelid) JOIN pg_catalog.pg_class t ON (t.oid = i.indexrelid)",
    // Others: pgJDBC's and Npgsql's own, Prisma, and what the grammar offers
    "SELECT NULL AS TABLE_CAT, n.nspname, (information_schema._pg_expandarray(i.indkey)).n FROM pg_index i",
    "SELECT string_agg(x, ',') WITHIN GROUP (ORDER BY y), GROUPING(a), count(*) FROM t GROUP BY GROUPING SETS ((a), (b)), a UNION SELECT 1, 2, 3 GROUP BY ROLLUP (1)",
    "SELECT * FROM t TABLESAMPLE bernoulli (10) REPEATABLE (5) WHERE a NOT IN (1) AND (b, c) OVERLAPS (d, e) AND f IS NOT NULL",
    "VALUES (1, 'a'), (2, 'b')",
    "TABLE t",
    "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM t WHERE a = ANY($1)",
    "EXPLAIN ANALYZE VERBOSE (SELECT 1)",
    "SELECT trim(both 'x' from y), substring(a from 1 for 2), position('a' in b), overlay(a placing 'b' from 1), nullif(a, b), greatest(a, b), xmlelement(name foo, xmlattributes(1 as a), 'x') FROM t",
    "w:SET CONSTRAINTS ALL DEFERRED",
    "SELECT count(*) FROM \"public\".\"User\" AS \"t0\" LEFT JOIN \"public\".\"Post\" AS j(\"a\", \"b\") ON (1=1) WHERE ($1) = 2 OFFSET $3",
    "",
    " ; -- nothing\n /* at /* all */ */ ;",
];

#[test]
fn plain_statements_do_nothing_to_the_session() {
    let mut wrong = Vec::new();
    for text in PLAIN {
        let (text, read_only) = text.strip_prefix("w:").map_or((*text, true), |text| (text, false));
        let scan = scan(text.as_bytes());
        let anywhere = scan.access.kind.reason().is_none();
        if scan.effects != Effects::NONE || scan.read_only != read_only || anywhere != read_only {
            wrong.push((text, scan));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const SETTINGS: Effects = Effects::SETTINGS;
const LOCAL: Effects = Effects::LOCAL_SETTINGS;
const DDL: Effects = Effects::DDL;
const CALLS: Effects = Effects::CALLS;
const TRANSACTION: Effects = Effects::TRANSACTION;
const LOCKS: Effects = Effects::LOCKS;
const OPAQUE: Effects = Effects::OPAQUE;
const TEMP: Effects = Effects::TEMP;

#[test]
fn statements_with_effects_have_exactly_those() {
    let cases = [
        // Settings
        ("SET search_path TO a, public", SETTINGS),
        ("SET SESSION statement_timeout = '5s'", SETTINGS),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", SETTINGS),
        ("SET TIME ZONE 'UTC'", SETTINGS),
        ("set client_encoding to 'UTF8'", SETTINGS),
        ("SET LOCAL lock_timeout = 1", LOCAL),
        ("SET LOCAL ROLE x", LOCAL),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", LOCAL),
        ("SET ROLE app", SETTINGS | Effects::ROLE),
        ("SET SESSION ROLE app", SETTINGS | Effects::ROLE),
        ("SET SESSION AUTHORIZATION app", SETTINGS | Effects::ROLE),
        ("RESET SESSION AUTHORIZATION", Effects::RESET | Effects::ROLE),
        ("RESET ROLE", Effects::RESET | Effects::ROLE),
        ("set \"role\" = 'x'", SETTINGS | Effects::ROLE),
        ("RESET ALL", Effects::RESET),
        ("SET seed = 0.5", SETTINGS | Effects::SEED),
        ("SELECT pg_catalog.set_config('search_path', '', false);", SETTINGS),
        ("SELECT set_config($1, $2, false)", SETTINGS | Effects::ROLE),
        ("SELECT set_config('app.user', $1, true), 1", LOCAL),
        ("SELECT set_config('app.user', $1, $2)", SETTINGS),
        ("SELECT set_config('ro\\154e', $1, false)", SETTINGS | Effects::ROLE),
        ("SELECT set_config('ro' || 'le', 'x', false)", SETTINGS | Effects::ROLE),
        ("SELECT set_config('RoLe', 'x', false)", SETTINGS | Effects::ROLE),
        ("SELECT set_config(E'role', 'x', false)", SETTINGS | Effects::ROLE),
        ("SELECT set_config('ro'\n'le', 'x', false)", SETTINGS | Effects::ROLE),
        (
            "SELECT set_config(is_local => true, setting_name => 'a', new_value => 'b')",
            SETTINGS | Effects::ROLE,
        ),
        ("SELECT set_config('a.b', set_config('role', 'x', true), true)", LOCAL),
        ("SELECT \"set_config\" /* x */ ('a.b', 'c', not true)", SETTINGS),
        ("SELECT \"Set_config\"('a.b', 'c', true)", CALLS),
        ("SELECT public.set_config('a.b', 'c', true)", CALLS),
        ("UPDATE t SET a = 1 WHERE set_config('x.y', a, false) = ''", SETTINGS),
        ("INSERT INTO t SELECT 1; SET x.y = 1", SETTINGS),
        // Locks, sequences, notifications
        ("SELECT pg_advisory_lock(1)", LOCKS),
        ("SELECT pg_try_advisory_lock(1, 2)", LOCKS),
        ("SELECT PG_CATALOG.PG_ADVISORY_LOCK_SHARED(1)", LOCKS),
        ("SELECT pg_advisory_unlock(1)", Effects::UNLOCKS),
        ("SELECT pg_advisory_unlock_all()", Effects::UNLOCKS),
        ("SELECT pg_advisory_xact_lock(1)", Effects::NONE),
        ("SELECT nextval('s')", Effects::SEQUENCE),
        ("SELECT setval('s', coalesce((SELECT max(id) FROM t), 1), true)", Effects::SEQUENCE),
        ("SELECT CURRVAL(pg_get_serial_sequence('t', 'id'))", Effects::SEQUENCE_READ),
        ("SELECT lastval()", Effects::SEQUENCE_READ),
        ("SELECT setseed(0.5)", Effects::SEED),
        ("LISTEN c", Effects::LISTEN),
        ("UNLISTEN *", Effects::UNLISTEN),
        ("NOTIFY c, 'x'", Effects::NOTIFY),
        ("SELECT pg_notify('c', 'x')", Effects::NOTIFY),
        ("UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'", Effects::SETTINGS),
        (
            "with a as (select 1) update only Pg_Catalog . \"pg_settings\" s set setting = 1",
            Effects::SETTINGS,
        ),
        ("LOAD 'auto_explain'", Effects::LOAD),
        ("SELECT dblink_connect('c', 'host=h')", Effects::LOAD | Effects::CALLS),
        ("SELECT pg_catalog.pg_backup_start('b')", Effects::LOAD | Effects::CALLS),
        // Prepared statements, cursors
        ("PREPARE p AS SELECT 1", Effects::PREPARED),
        ("PREPARE p (int, varchar(10)) AS SELECT set_config('a', $2, false)", Effects::PREPARED | SETTINGS),
        (
            "PREPARE p AS WITH a(x) AS (SELECT 1), b(y) AS (SELECT 2) SELECT f(y) FROM b",
            Effects::PREPARED | CALLS,
        ),
        ("EXECUTE p(1, lower('x'))", Effects::EXECUTE),
        ("EXECUTE p (f(1))", Effects::EXECUTE | CALLS),
        ("EXPLAIN (ANALYZE) EXECUTE p(1)", Effects::EXECUTE),
        ("CREATE TABLE x AS EXECUTE p(1)", Effects::EXECUTE | DDL),
        ("DEALLOCATE p", Effects::PREPARED),
        ("DEALLOCATE PREPARE ALL", Effects::PREPARED | Effects::DEALLOCATE_ALL),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Effects::HOLD_CURSOR),
        ("DECLARE c BINARY INSENSITIVE SCROLL CURSOR WITHOUT HOLD FOR SELECT f(1)", CALLS),
        ("CLOSE ALL", Effects::CLOSE_CURSOR),
        // Definitions
        (
            "CREATE TABLE t (id bigserial PRIMARY KEY, name varchar(10) DEFAULT lower('X') REFERENCES u (name))",
            DDL,
        ),
        ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", DDL | TEMP),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", DDL | TEMP),
        ("CREATE LOCAL TEMPORARY SEQUENCE s", DDL | TEMP),
        ("CREATE TABLE pg_temp.t (a int)", DDL | TEMP),
        ("CREATE TABLE \"pg_temp\".t AS SELECT 1", DDL | TEMP),
        ("CREATE TABLE IF NOT EXISTS s.t (temp int)", DDL),
        ("SELECT 1 INTO TEMP t", DDL | TEMP),
        ("SELECT * INTO t FROM u", DDL),
        ("DROP TABLE t", DDL | Effects::TEMP_GONE),
        ("DISCARD TEMP", Effects::TEMP_GONE),
        ("ALTER TABLE t ADD COLUMN a int", DDL),
        ("ALTER ROLE x IN DATABASE d SET search_path = a", DDL | Effects::DEFAULTS),
        ("ALTER SYSTEM SET work_mem = 1", DDL | Effects::DEFAULTS),
        ("ALTER DATABASE d RENAME TO e", DDL | Effects::DATABASE),
        ("ALTER DATABASE d SET TABLESPACE e", DDL | Effects::DATABASE | Effects::DEFAULTS),
        ("CREATE DATABASE d TEMPLATE e", DDL | Effects::DATABASE),
        ("DROP DATABASE IF EXISTS d WITH (FORCE)", DDL | Effects::DATABASE | Effects::TEMP_GONE),
        ("CREATE EXTENSION postgis", DDL | CALLS),
        ("COMMENT ON TABLE t IS 'x'", DDL),
        // Transactions
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", TRANSACTION),
        ("START TRANSACTION READ ONLY; SELECT 1; COMMIT", TRANSACTION),
        ("SAVEPOINT a", TRANSACTION),
        ("PREPARE TRANSACTION 'x'", TRANSACTION),
        ("ROLLBACK TO a", TRANSACTION),
        // Anything
        ("SELECT f(1)", CALLS),
        ("SELECT a.f(1)", CALLS),
        ("SELECT a.b.lower(1)", CALLS),
        ("SELECT uuid_generate_v4()", CALLS),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", CALLS),
        ("SELECT * FROM dblink('x') AS t(a int)", CALLS),
        ("SELECT DISTINCT ON (a) f(b) FROM t", CALLS),
        ("SELECT 1 OPERATOR(pg_catalog.+) f(b)", CALLS),
        ("WITH a AS (SELECT 1), b AS (SELECT 2) (SELECT 1) ORDER BY (1), f(1)", CALLS),
        ("SELECT (timestamp with time zone '2026-01-01'), f(1)", CALLS),
        ("SELECT join(1), set(2)", CALLS),
        ("CALL p(1)", CALLS),
        ("DO $$ BEGIN PERFORM 1; END $$", CALLS),
        ("REFRESH MATERIALIZED VIEW v", CALLS),
        ("FROBNICATE", OPAQUE),
        ("SELECT 'a", OPAQUE),
        ("SELECT \"a", OPAQUE),
        ("SELECT /* a", OPAQUE),
        ("SELECT $a$ a", OPAQUE),
        ("SELECT U&\"a\"(1)", OPAQUE),
        ("SELECT 1\0", OPAQUE),
        ("IDENTIFY_SYSTEM", OPAQUE),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let effects = scan(text.as_bytes()).effects;
        if effects != expected {
            wrong.push((text, effects));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn discard_all_does_all_that() {
    let effects = scan(b"DISCARD ALL").effects;
    let all = SETTINGS | Effects::ROLE | Effects::PREPARED | Effects::DEALLOCATE_ALL | Effects::LISTEN;
    assert!(effects.contains(all | Effects::TEMP_GONE | Effects::UNLOCKS | Effects::DISCARD_ALL));
}
