//! The scanner against a hot standby: what is called a read is answered there, with rows or with an error that has
//! nothing to do with its being one. Wants `PG_BIN`, beside `REGRESS_SQL`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sql::{Effects, Kind, scan};
use support::postgres::{Options, Postgres, SUPERUSER};
use support::replicas::Replicas;
use support::tools::Tool;
use support::wait::eventually;
use support::wire::{Client, Target};

use crate::{files, psql};

/// What no text tells: that a table is unlogged, and that `pg_temp` is first in the search path (`current_schema()`).
const CANT_BE_SEEN: [&str; 2] = [
    "cannot access temporary or unlogged relations during recovery",
    "cannot create temporary tables during recovery",
];

/// A view of the suite that calls `pg_current_xact_id()`.
const VIEW: &str = "my_locks";

fn replicas() -> Option<Replicas> {
    if std::env::var_os("PG_BIN").is_none() {
        println!("skipped: PG_BIN does not name the programs of PostgreSQL");
        return None;
    }
    let options = Options::new().config("statement_timeout = 1s").config("lock_timeout = 300ms");
    Some(Replicas::start_with(1, options))
}

/// Whether an error says that a standby does not do such a thing.
fn is_refusal(code: &str, message: &str) -> bool {
    let of_standby = message.contains("recovery") || message.contains("standby");
    (code == "25006" || of_standby && code != "40001") && !CANT_BE_SEEN.contains(&message)
}

#[test]
fn a_standby_refuses_nothing_that_is_called_a_read() {
    let Some(directories) = std::env::var_os("REGRESS_SQL") else {
        println!("skipped: REGRESS_SQL does not name directories of SQL files");
        return;
    };
    let Some(set) = replicas() else { return };
    let mut check = Check::new(&set);
    for directory in std::env::split_paths(&directories) {
        check.set_up(&directory);
        for path in in_order(&directory) {
            check.file(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    println!("{} statements on the standby, {} of them answered with an error", check.ran, check.errors);
    println!("{:?}", check.codes);
    for (message, count) in &check.expected_refusals {
        println!("not to be seen in the text: {count} of {message}");
    }
    assert!(check.ran > 1000 && check.errors < check.ran, "nothing was tested");
    assert!(check.refused.is_empty(), "{} refused:\n{}", check.refused.len(), check.refused.join("\n"));
}

/// The files of a directory in the order of the suite's schedule, where that is: they build on each other.
fn in_order(directory: &Path) -> Vec<PathBuf> {
    let schedule = directory.parent().map(|suite| std::fs::read_to_string(suite.join("parallel_schedule")));
    let schedule = schedule.and_then(Result::ok).unwrap_or_default();
    let names: Vec<&str> =
        schedule.lines().filter(|line| line.starts_with("test:")).flat_map(str::split_whitespace).collect();
    let place = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default();
        names.iter().position(|listed| name == *listed).unwrap_or(names.len())
    };
    let mut files = files(directory.to_owned());
    files.sort_by_key(place);
    files
}

struct Check<'a> {
    set: &'a Replicas,
    primary: Client,
    standby: Client,
    /// Sessions that only look how far both are: scripts lock and break what a login reads.
    watches: [Client; 2],
    /// Reads that wait for what they read to be on the standby.
    waiting: Vec<String>,
    ran: usize,
    errors: usize,
    codes: BTreeMap<String, usize>,
    expected_refusals: BTreeMap<String, usize>,
    refused: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(set: &'a Replicas) -> Self {
        Check {
            set,
            primary: Client::login(&set.primary.superuser("postgres")),
            standby: Client::login(&set.replicas[0].superuser("postgres")),
            watches: [&set.primary, &set.replicas[0]].map(|node| Client::login(&node.superuser("template1"))),
            waiting: Vec::new(),
            ran: 0,
            errors: 0,
            codes: BTreeMap::new(),
            expected_refusals: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    /// The tables that most files of the suite read.
    fn set_up(&self, directory: &Path) {
        let suite = directory.parent().unwrap_or(directory);
        let psql = Tool::new("psql", &self.set.primary.superuser("postgres"));
        let psql = psql
            .env("PG_ABS_SRCDIR", &suite.to_string_lossy())
            .env("PG_LIBDIR", &suite.join("../lib").to_string_lossy())
            .env("PG_DLSUFFIX", ".so");
        psql.args(["-X", "-q", "-f"]).args([directory.join("test_setup.sql")]).run();
    }

    /// Runs all of a file on the primary, and its reads on the standby as well, before what they read is dropped.
    fn file(&mut self, script: &str) {
        for text in psql::split(script) {
            let found = scan(text.as_bytes());
            // There it would be in a transaction of its own, and in one that has failed for long.
            let transaction = found.effects.contains(Effects::TRANSACTION);
            if transaction || found.effects.contains(Effects::TEMP_GONE) {
                self.flush();
            }
            if found.access.kind.reason().is_none() && !transaction {
                self.waiting.push(text.clone());
            }
            let copies = text.to_ascii_lowercase().contains("stdin");
            if !copies {
                ask(&mut self.primary, &self.set.primary.superuser("postgres"), &text);
            }
        }
        ask(
            &mut self.primary,
            &self.set.primary.superuser("postgres"),
            "rollback; reset all; reset session authorization",
        );
        self.flush();
        ask(
            &mut self.standby,
            &self.set.replicas[0].superuser("postgres"),
            "reset all; reset session authorization",
        );
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let [primary, standby] = &mut self.watches;
        let written = primary.scalar("select pg_current_wal_flush_lsn()");
        let sql = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        eventually("the standby catches up", Duration::from_secs(30), || standby.scalar(&sql) == "t");
        let target = self.set.replicas[0].superuser("postgres");
        for text in std::mem::take(&mut self.waiting) {
            self.ran += 1;
            let Some((code, message)) = ask(&mut self.standby, &target, &text) else { continue };
            self.errors += 1;
            *self.codes.entry(code.clone()).or_default() += 1;
            if is_refusal(&code, &message) && !text.contains(VIEW) {
                self.refused.push(format!("{code} {message}: {text}"));
            } else if CANT_BE_SEEN.contains(&message.as_str()) || code == "25006" {
                *self.expected_refusals.entry(message).or_default() += 1;
            }
        }
    }
}

/// Runs a text; its error, if it has one. A connection that ends is made anew.
fn ask(client: &mut Client, target: &Target, text: &str) -> Option<(String, String)> {
    client.send(support::frontend::query(text));
    let mut error = None;
    loop {
        match client.try_read() {
            Ok(message) => {
                let fields =
                    message.error().map(|fields| (fields.code().to_owned(), fields.message().to_owned()));
                error = error.or(fields);
                match message.tag {
                    b'Z' => return error,
                    b'G' => client.send(support::frontend::copy_fail("no data")),
                    _ => {}
                }
            }
            Err(_) => {
                eventually("another login", Duration::from_secs(30), || {
                    Client::try_login(target).map(|new| *client = new).is_ok()
                });
                return error;
            }
        }
    }
}

/// Each function of the catalog that is taken for a read, with values that most functions can do something with.
#[test]
fn a_standby_runs_each_function_that_is_called_a_read() {
    let Some(set) = replicas() else { return };
    let functions = "select p.proname, coalesce((select string_agg(coalesce(case t.typname \
           when 'text' then $$'a'::text$$ when 'name' then $$'a'::name$$ when 'int4' then '1' when 'int8' then '1::int8' \
           when 'int2' then '1::int2' when 'oid' then '1259::oid' when 'regclass' then $$'pg_class'::regclass$$ \
           when 'bool' then 'true' when 'float8' then '0.001::float8' when 'numeric' then '1::numeric' \
           when 'pg_lsn' then $$'0/1000000'::pg_lsn$$ when 'xid8' then $$'3'::xid8$$ when 'xid' then $$'3'::xid$$ \
           when 'timestamptz' then 'now()' when 'bytea' then $$'a'::bytea$$ \
           when 'pg_snapshot' then 'pg_current_snapshot()' else null end, 'null::' || t.oid::regtype), ', ' order by n) \
           from unnest(p.proargtypes) with ordinality as a(type, n) join pg_type t on t.oid = a.type), '') \
         from pg_proc p where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' \
           and not proretset and pronargs <= 8 order by 1, 2";
    let target = set.replicas[0].superuser("postgres");
    let mut standby = Client::login(&target);
    let (mut ran, mut refused) = (0, Vec::new());
    for row in standby.execute(functions).rows() {
        let [Some(name), Some(arguments)] = &row[..] else { panic!("{row:?}") };
        let text = format!("select pg_catalog.\"{name}\"({arguments})");
        let kind = scan(text.as_bytes()).access.kind;
        if kind != Kind::Reads {
            continue;
        }
        ran += 1;
        if let Some((code, message)) = ask(&mut standby, &target, &text)
            && is_refusal(&code, &message)
        {
            refused.push(format!("{code} {message}: {text}"));
        }
    }
    println!("{ran} functions called on the standby");
    assert!(ran > 1000, "{ran} only");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// `functions.sh` makes its lists from the catalog of a server 15.
#[test]
fn lists_of_functions_are_those_of_the_catalog() {
    let Some(programs) = std::env::var_os("PG_BIN") else {
        println!("skipped: PG_BIN does not name the programs of PostgreSQL");
        return;
    };
    let postgres = Postgres::start(Options::new());
    let mut client = Client::login(&postgres.superuser("postgres"));
    if client.scalar("select current_setting('server_version_num')::int / 10000") != "15" {
        println!("skipped: the server is no 15");
        return;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(PathBuf::from(programs)).chain(std::env::split_paths(&path));
    let mut check = Command::new("sh");
    check.args([concat!(env!("CARGO_MANIFEST_DIR"), "/../functions.sh"), "--check"]);
    check.env("PATH", std::env::join_paths(paths).unwrap()).env("PGHOST", postgres.socket_dir());
    let output = check.env("PGPORT", postgres.port().to_string()).env("PGUSER", SUPERUSER).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
