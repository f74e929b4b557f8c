//! Single statements with their names, and the custom settings of a text.

use pgferry_sql::{Effects, Statement, Target, custom_settings, outline, scan, scan_knowing};

fn one(name: &str) -> Target<'_> {
    Target::One(name.as_bytes().into())
}

fn bytes(name: &str) -> std::borrow::Cow<'_, [u8]> {
    name.as_bytes().into()
}

#[test]
fn a_single_statement_is_named() {
    let cases = [
        ("SET search_path TO x", Statement::Set { name: bytes("search_path") }),
        ("/* x */ set Session \"My\".App . Id = 1 ;", Statement::Set { name: bytes("My.app.id") }),
        ("SET app.user_id = 1", Statement::Set { name: bytes("app.user_id") }),
        ("SET TIME ZONE DEFAULT", Statement::Set { name: bytes("timezone") }),
        ("SET NAMES 'utf8'", Statement::Set { name: bytes("client_encoding") }),
        ("SET SESSION AUTHORIZATION x", Statement::Set { name: bytes("session_authorization") }),
        ("SET local TO 1", Statement::Set { name: bytes("local") }),
        ("SET LOCAL a = 1", Statement::Other),
        ("RESET ALL", Statement::Reset(Target::All)),
        ("RESET a.b", Statement::Reset(one("a.b"))),
        ("RESET TIME ZONE", Statement::Reset(one("timezone"))),
        (
            "PREPARE P1 (int, numeric(1,2)) AS SELECT $1 ;",
            Statement::Prepare { name: bytes("p1"), types: b"int, numeric(1,2)", body: b"SELECT $1 " },
        ),
        (
            "PREPARE \"a\"\"b\" AS select 1",
            Statement::Prepare { name: bytes("a\"b"), types: b"", body: b"select 1" },
        ),
        ("EXECUTE p", Statement::Execute { name: bytes("p") }),
        ("EXECUTE P(1, ';')", Statement::Execute { name: bytes("p") }),
        ("DEALLOCATE PREPARE p", Statement::Deallocate(one("p"))),
        ("DEALLOCATE prepare", Statement::Deallocate(one("prepare"))),
        ("DEALLOCATE ALL", Statement::Deallocate(Target::All)),
        ("DEALLOCATE \"all\"", Statement::Deallocate(one("all"))),
        ("LISTEN Ch", Statement::Listen(bytes("ch"))),
        ("UNLISTEN \"Ch\"", Statement::Unlisten(one("Ch"))),
        ("UNLISTEN *", Statement::Unlisten(Target::All)),
        ("NOTIFY c, 'x'", Statement::Notify(bytes("c"))),
        ("DISCARD ALL", Statement::DiscardAll),
        ("DROP DATABASE IF EXISTS d (FORCE)", Statement::Vacate(bytes("d"))),
        ("drop database D;;", Statement::Vacate(bytes("d"))),
        ("ALTER DATABASE d RENAME TO e", Statement::Vacate(bytes("d"))),
        ("ALTER DATABASE \"D\" SET TABLESPACE t", Statement::Vacate(bytes("D"))),
        ("ALTER DATABASE d SET work_mem = 1", Statement::Other),
        ("ALTER DATABASE d OWNER TO e", Statement::Other),
        ("CREATE DATABASE d OWNER o TEMPLATE e ENCODING 'x'", Statement::Vacate(bytes("e"))),
        ("create database d with template = 'E'", Statement::Vacate(bytes("E"))),
        ("CREATE DATABASE d", Statement::Vacate(bytes("template1"))),
        ("BEGIN", Statement::Begin),
        ("start transaction isolation level serializable", Statement::Begin),
        ("COMMIT WORK", Statement::Commit),
        ("END", Statement::Commit),
        ("ABORT", Statement::Rollback),
        ("ROLLBACK TO SAVEPOINT a", Statement::Other),
        ("ROLLBACK WORK TO a", Statement::Other),
        ("COMMIT AND CHAIN", Statement::Other),
        ("COMMIT PREPARED 'x'", Statement::Other),
        ("EXPLAIN EXECUTE p", Statement::Other),
        ("SELECT 1", Statement::Other),
        ("BEGIN; COMMIT", Statement::Several),
        ("--", Statement::Empty),
    ];
    for (text, statement) in cases {
        assert_eq!(scan(text.as_bytes()).statement, statement, "{text}");
    }
}

/// `name` is visible behind the string if that ends where PostgreSQL ends it.
#[test]
fn strings_and_comments_end_where_they_do_in_postgresql() {
    let seen = |text: &str| scan(text.as_bytes()).effects;
    for string in [
        "'a''b'",
        "''",
        "'a\\\\'",
        "E'a\\'b'",
        "e'\\\\'",
        "E'a''\\''",
        "U&'\\0061'",
        "x'1F'",
        "B'01'",
        "n'x'",
        "$$'$$",
        "$a$ $$ $b$ $a$",
        "$_1$;'$_1$",
        "$1",
        "1.5e-3",
        ".5",
        "0x1F",
        "1_000",
        "\"a\"\"b\"",
        "-- '\n1",
        "/* ' /* */ ' */ 1",
        "1/**/",
        "'a'\n'b'",
        "E'a'\n'\\'b'",
        "\"--\"",
        "'/*'",
        "a$b",
        "1$$x$$",
        "\u{e9}",
        "'\u{e9}'",
        "$\u{61}$\u{e9}$a$",
        "x[1:2]",
        "@-1",
    ] {
        assert_eq!(seen(&format!("SELECT {string}, setseed(1)")), Effects::SEED, "{string}");
    }
    for ambiguous in
        ["'a\\'", "'\\' '", "'a\\''b'", "'\u{e9}\\\\' '", "E'\u{e9}\\n'", "$\u{e9}$ $\u{e9}$", "\\", "{", "$"]
    {
        let effects = seen(&format!("SELECT {ambiguous}, setseed(1)"));
        assert!(effects.contains(Effects::OPAQUE), "{ambiguous}");
    }
}

#[test]
fn custom_settings_are_found_wherever_they_are_named() {
    let text = r#"
        SET app.user_id = '1'; SET LOCAL App."Tenant" TO 2; SET SESSION x.y.z = 3; SET work_mem = '1MB';
        SELECT set_config('app.role', $1, true), current_setting('app.lang', true), lower('no.setting');
        RESET app.a; SHOW app.b; SET local = 1;
        DO $body$ BEGIN PERFORM pg_catalog.set_config('in.body', $$a.b$$, false); SET in.other = 1; END $body$;
        CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('in.function') $$;
        SELECT set_config('doubled.''quote', '', false)"#;
    let found: Vec<_> =
        custom_settings(text.as_bytes()).map(|name| String::from_utf8_lossy(&name).into_owned()).collect();
    let expected = [
        "app.user_id",
        "app.Tenant",
        "x.y.z",
        "app.role",
        "app.role",
        "app.lang",
        "app.lang",
        "no.setting",
        "app.a",
        "app.b",
        "in.body",
        "in.body",
        "in.other",
        "in.function",
        "in.function",
        "doubled.'quote",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_outline_shows_no_values() {
    let cases = [
        ("select 1", "select ?"),
        (
            "  SELECT  a,b\n FROM \"T\" -- secret\n WHERE x = 'sec''ret' AND y=$1 /* more */",
            "SELECT a,b FROM \"T\" WHERE x = ? AND y=$1",
        ),
        ("alter role r password E'\\'x' valid until U&'x'", "alter role r password ? valid until ?"),
        ("do $$ begin end $$; select 0.5e3", "do ?; select ?e3"),
        ("create table täble ()", "create table täble ()"),
        ("select 'no end", "select..."),
        ("", ""),
    ];
    for (text, expected) in cases {
        assert_eq!(outline(text.as_bytes(), 100), expected);
    }
    assert_eq!(outline(b"select abcdef, ghi", 15), "select abcdef,...");
    let long = format!("select '{}', x", "y".repeat(10_000));
    assert_eq!(outline(long.as_bytes(), 100), "select...");
    let long = format!("select '{}', x", "y".repeat(100));
    assert_eq!(outline(long.as_bytes(), 20), "select ?, x");
}

/// Who knows the functions is asked for each that is called, by its name as PostgreSQL sees it.
#[test]
fn functions_may_be_known_from_elsewhere() {
    let cases = [
        ("SELECT f(1), lower('x')", "f"),
        ("SELECT a.F(1) FROM b.\"G\"(2)", "f G"),
        ("SELECT \"a\"\"b\"(f(1)), public.lower('x')", "a\"b f lower"),
        ("INSERT INTO t VALUES (query_to_xml('x'), ($1).f)", "query_to_xml"),
        ("SELECT set_config('a.b', f(1), true), nextval('s')", "f"),
        ("SELECT 1", ""),
    ];
    for (text, expected) in cases {
        let asked = std::cell::RefCell::new(Vec::new());
        let knows = |name: &[u8]| {
            asked.borrow_mut().push(String::from_utf8_lossy(name).into_owned());
            true
        };
        let known = scan_knowing(text.as_bytes(), &knows);
        assert!(!known.effects.contains(Effects::CALLS), "{text}");
        assert!(!known.read_only || expected.is_empty(), "it may write: {text}");
        assert_eq!(asked.borrow().join(" "), expected, "{text}");
        let unknown = scan_knowing(text.as_bytes(), &|name| name != b"f");
        assert_eq!(
            unknown.effects.contains(Effects::CALLS),
            expected.split(' ').any(|name| name == "f"),
            "{text}"
        );
    }
    for text in [
        "SELECT pg_temp.f(1)",
        "SELECT d.\"pg_temp_3\" . f(1)",
        "DO $$ BEGIN END $$",
        "CALL p(1)",
        "REFRESH MATERIALIZED VIEW v",
        "CREATE EXTENSION e",
    ] {
        assert!(scan_knowing(text.as_bytes(), &|_| true).effects.contains(Effects::CALLS), "{text}");
    }
}
