//! Bodies of functions: which are clean, and what they may call.

use std::collections::BTreeSet;

use pgferry_sql::{Language, Mention, is_clean_body};

fn look(body: &str, language: Language) -> (bool, String) {
    let (mut calls, mut all) = (BTreeSet::new(), BTreeSet::new());
    let clean = is_clean_body(body.as_bytes(), language, &mut |name, how| {
        let name = String::from_utf8_lossy(name).into_owned();
        if how == Mention::Call {
            calls.insert(name.clone());
        }
        all.insert(name);
    });
    assert!(calls.is_subset(&all), "{body}");
    (clean, calls.into_iter().collect::<Vec<_>>().join(" "))
}

#[test]
fn clean_bodies_in_sql() {
    let cases = [
        ("select 1", ""),
        ("select a, b(c) from d where lower(e) = f(1) -- set", "b f"),
        ("insert into t (a, b) select x(1), 2 on conflict (a) do update set b = y(2)", "x y"),
        ("update t set v = 'x; set work_mem = 1'; delete from t", ""),
        ("select count(*) over (partition by a), \"F g\"(1) from s.h(2)", "F g h"),
        ("with a (x) as (select 1), b as (select 2) select p.x from a as p, b", ""),
        ("select set_config('a.b', $1 || coalesce(f(1), ''), true), nextval('s'), currval('s')", "f"),
        ("select pg_advisory_xact_lock(1), pg_notify('a', 'b')", ""),
        ("set local work_mem = '1MB'; select case when $1 then f() else g() end", "f g"),
        ("merge into t using u on (a = b) when matched then update set c = d(1)", "d"),
        ("select x::numeric(10, 2), E'\\' set' from t", ""),
    ];
    for (body, calls) in cases {
        assert_eq!(look(body, Language::Sql), (true, calls.to_owned()), "{body}");
    }
}

#[test]
fn clean_bodies_in_plpgsql() {
    let cases = [
        (
            "declare n int := a(1); c cursor for select 1; begin if (b(2) > 1) then null; elsif (c(3)) then \
             return (d(4)); end if; <<l>> while (e(5)) loop exit l when f(6); end loop; end",
            "a b c d e f",
        ),
        ("begin select x into strict y from t; insert into t values (1) returning id into n; end", ""),
        ("begin for r in select * from g(1) loop perform h(r.a); n := i(2); end loop; end", "g h i"),
        (
            "begin raise notice 'execute %', $x$ set $x$; assert (j(1)); return query (select k(2)); \
             exception when others then get stacked diagnostics m = message_text; end",
            "j k",
        ),
        ("begin select max(v) into temp from t; update t set v = 1; set constraints all deferred; end", ""),
        ("#variable_conflict use_column\nbegin perform set_config('a.b', 'c', true); end", ""),
    ];
    for (body, calls) in cases {
        assert_eq!(look(body, Language::PlPgSql), (true, calls.to_owned()), "{body}");
    }
}

#[test]
fn what_may_change_the_session_is_not_clean() {
    const EITHER: [&str; 30] = [
        "select set_config('a', 'b', false)",
        "select set_config('a', 'b', $1)",
        "SELECT pg_catalog.SET_CONFIG('a', 'b', lower('x') = 'y')",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1)",
        "select pg_advisory_unlock_all()",
        "select setseed(0.5)",
        "select pg_listening_channels()",
        "select pg_temp.f(1)",
        "select 1 from \"pg_temp_3\".t",
        "/* x */ set work_mem = 1",
        "select 1; -- y\n set session work_mem = 1",
        "select 1; SET/**/role none",
        "update pg_settings set setting = 1 where name = 'work_mem'",
        "reset all",
        "listen c",
        "unlisten *",
        "load 'x'",
        "discard plans",
        "prepare p as select 1",
        "deallocate p",
        "declare c cursor with hold for select 1",
        "close c",
        "create temporary table t ()",
        "create table t ()",
        "alter role r set work_mem = 1",
        "explain select 1",
        "execute x",
        "do $$ begin end $$",
        "select '\\', 'set'; select '",
    ];
    for body in EITHER {
        for language in [Language::Sql, Language::PlPgSql] {
            assert!(!look(body, language).0, "{body}");
            let within = format!("begin {body}; end");
            assert!(!look(&within, Language::PlPgSql).0, "{within}");
        }
    }
    for body in ["select 1 as a into b", "select 1 as a into temp b"] {
        assert!(!look(body, Language::Sql).0, "{body}");
    }
    for body in [
        "begin if a then set work_mem = 1; end if; end",
        "begin if a then null; else reset work_mem; end if; end",
        "begin loop listen c; end loop; end",
        "begin <<l>> set work_mem = 1; end",
        "begin return query execute 'select 1'; end",
        "begin for r in execute $1 loop end loop; end",
        "begin commit; end",
    ] {
        assert!(!look(body, Language::PlPgSql).0, "{body}");
    }
    // What runs the text that it is given is no harmless function.
    assert_eq!(
        look("select query_to_xml('x', true, true, '')", Language::Sql),
        (true, "query_to_xml".to_owned())
    );
}
