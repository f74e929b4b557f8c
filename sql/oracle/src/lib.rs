//! The scanner against PostgreSQL's own parser, on every statement of the SQL files in the directories that
//! `REGRESS_SQL` names (separated by colons), such as `src/test/regress/sql` of PostgreSQL's source.
#![cfg(test)]

mod psql;
mod standby;
mod tree;

use sql::{AccessMode, Effects, Isolation, Kind, Statement, Transaction, scan};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `standard_conforming_strings = off`, for `pg_query`.
const PLAIN_BACKSLASHES_ESCAPE: i32 = 32;

#[derive(Default)]
struct Tally {
    statements: usize,
    not_sql: usize,
    strangers: usize,
    opaque: usize,
    calls_without_need: usize,
    more_without_need: usize,
    queries: usize,
    queries_without_need: BTreeMap<String, String>,
    /// Queries that only read by the tree, and of those the ones that the scanner calls reads; ...
    reads: usize,
    reads_found: usize,
    /// ... the others by cause; and queries that call what nobody knows, which may read or not.
    missed: BTreeMap<String, (usize, String)>,
    unknown: usize,
    /// Statements called reads, or good for any host.
    called_reads: usize,
    harmful: Vec<String>,
}

#[test]
fn never_calls_harmless_what_the_parser_says_is_not() {
    let Some(directories) = std::env::var_os("REGRESS_SQL") else {
        println!("skipped: REGRESS_SQL does not name directories of SQL files");
        return;
    };
    let mut tally = Tally::default();
    for path in std::env::split_paths(&directories).flat_map(files) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for statement in psql::split(&text) {
            for options in [0, PLAIN_BACKSLASHES_ESCAPE] {
                check(&statement, options, &mut tally);
            }
        }
    }
    println!("{} calls replaced by one of a stranger", tally.strangers);
    println!(
        "{} statements ({} more are no SQL): {} opaque, {} CALLS and {} other effects without need; \
         of {} queries {} with any",
        tally.statements,
        tally.not_sql,
        tally.opaque,
        tally.calls_without_need,
        tally.more_without_need,
        tally.queries,
        tally.queries_without_need.len()
    );
    println!(
        "{} statements called reads or neutral; of {} queries that only read {} ({:.2} %) are called so; {} more queries \
         call unknown functions",
        tally.called_reads,
        tally.reads,
        tally.reads_found,
        100.0 * tally.reads_found as f64 / tally.reads as f64,
        tally.unknown
    );
    for (cause, (count, example)) in &tally.missed {
        println!("not called a read, {cause}: {count}, such as {example}");
    }
    for (text, effects) in &tally.queries_without_need {
        println!("without need {effects}: {text}");
    }
    assert!(tally.statements > 0, "no statement in {directories:?}");
    assert!(
        tally.harmful.is_empty(),
        "{} called harmless:\n{}",
        tally.harmful.len(),
        tally.harmful.join("\n")
    );
}

fn files(directory: PathBuf) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    files
}

fn check(text: &str, options: i32, tally: &mut Tally) {
    let Ok(parsed) = pg_query::parse(text, options) else {
        tally.not_sql += 1;
        return;
    };
    let tree = serde_json::to_value(&parsed.protobuf).unwrap();
    let expected = tree::expect(&tree);
    let found = scan(text.as_bytes());
    tally.statements += 1;
    if found.effects.contains(Effects::OPAQUE) {
        tally.opaque += 1;
        tally.harmful.extend(found.read_only.then(|| format!("opaque, and only a read: {text}")));
        return;
    }
    if !found.effects.contains(expected.effects) || (found.read_only && !expected.read_only) {
        tally.harmful.push(format!("{found:?}, not {expected:?}: {text}"));
    }
    if !found.effects.contains(Effects::CALLS) {
        strangers(text, &tree, options, tally);
    }
    let anywhere = found.access.kind.reason().is_none();
    tally.called_reads += usize::from(anywhere);
    if anywhere && !expected.read_only {
        tally.harmful.push(format!("called {:?}: {text}", found.access.kind));
    }
    // Those of the session are no transaction's.
    let of_session = text.to_ascii_uppercase().contains("CHARACTERISTICS");
    if found.statements == 1 && !of_session && expected.modes != modes(&found.access.transaction) {
        tally.harmful.push(format!("{:?}, not {:?}: {text}", found.access.transaction, expected.modes));
    }
    recall(text, &tree, &found, &expected, tally);
    let name = expected.statement.as_deref().unwrap_or_default();
    if named(&found.statement) != name {
        tally.harmful.push(format!("{found:?} names it, not {name:?}: {text}"));
    }
    let calls = found.effects.contains(Effects::CALLS) && !expected.effects.contains(Effects::CALLS);
    let more = found.effects != expected.effects | if calls { Effects::CALLS } else { Effects::NONE };
    tally.calls_without_need += usize::from(calls);
    tally.more_without_need += usize::from(more);
    tally.queries += usize::from(expected.query);
    if expected.query && (calls || more) {
        tally.queries_without_need.insert(text.to_owned(), format!("{:?}", found.effects));
    }
    if expected.query && expected.read_only && !found.read_only && expected.effects.is_empty() {
        tally.queries_without_need.insert(text.to_owned(), "not only a read".to_owned());
    }
}

/// How many of the plain queries are told to be reads.
fn recall(
    text: &str,
    tree: &serde_json::Value,
    found: &sql::Scan<'_>,
    expected: &tree::Expected,
    tally: &mut Tally,
) {
    let statements = tree["stmts"].as_array().unwrap();
    if statements.is_empty()
        || !statements.iter().all(|statement| statement["stmt"]["node"].get("SelectStmt").is_some())
    {
        return;
    }
    if !expected.read_only {
        tally.unknown += usize::from(
            matches!(found.access.kind, Kind::Unknown(reason) if reason.cause == sql::Cause::UnknownFunction),
        );
        return;
    }
    tally.reads += 1;
    match found.access.kind.reason() {
        None => tally.reads_found += 1,
        Some(reason) => {
            let missed = tally.missed.entry(format!("{:?}", reason.cause)).or_default();
            *missed = (missed.0 + 1, format!("{reason}: {}", text.trim()));
        }
    }
}

/// The modes that were found, as `tree::expect` writes them.
fn modes(transaction: &Transaction) -> Vec<String> {
    let (Transaction::Begins(modes) | Transaction::Sets(modes)) = transaction else { return Vec::new() };
    let access = modes.access.map(|access| match access {
        AccessMode::ReadOnly => "read only",
        AccessMode::ReadWrite => "read write",
    });
    let isolation = modes.isolation.map(|isolation| match isolation {
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
        Isolation::Serializable => "serializable",
    });
    [isolation, access].into_iter().flatten().map(str::to_owned).collect()
}

/// Wherever a function is called, a function of the user might be: put one there, for one call after the other.
fn strangers(text: &str, tree: &serde_json::Value, options: i32, tally: &mut Tally) {
    let mut calls = Vec::new();
    tree::calls(tree, &mut calls);
    for start in calls {
        let Some(open) = text.get(start..).and_then(|call| call.find('(')) else { continue };
        let strange = [&text[..start], "stranger", &text[start + open..]].concat();
        tally.strangers += 1;
        let found = scan(strange.as_bytes());
        let seen = found.effects.intersects(Effects::CALLS | Effects::OPAQUE);
        if seen && found.access.kind.reason().is_some() {
            continue;
        }
        let parsed = pg_query::parse(&strange, options);
        if parsed.is_ok_and(|parsed| {
            let tree = serde_json::to_value(&parsed.protobuf).unwrap();
            tree::expect(&tree).effects.contains(Effects::CALLS)
        }) {
            tally.harmful.push(format!("a stranger is not seen: {strange}"));
        }
    }
}

/// The statement as `tree::expect` writes it.
fn named(statement: &Statement<'_>) -> String {
    let name = |name: &[u8]| String::from_utf8_lossy(&name[..name.len().min(63)]).into_owned();
    let target = |target: &sql::Target<'_>| match target {
        sql::Target::All => "ALL".to_owned(),
        sql::Target::One(one) => name(one),
    };
    match statement {
        Statement::Set { name: n } => format!("set {}", name(n)),
        Statement::Reset(t) => format!("reset {}", target(t)),
        Statement::Prepare { name: n, .. } => format!("prepare {}", name(n)),
        Statement::Execute { name: n } => format!("execute {}", name(n)),
        Statement::Deallocate(t) => format!("deallocate {}", target(t)),
        Statement::Listen(n) => format!("listen {}", name(n)),
        Statement::Unlisten(t) => format!("unlisten {}", target(t)),
        Statement::Notify(n) => format!("notify {}", name(n)),
        Statement::DiscardAll => "discard ALL".to_owned(),
        Statement::Vacate(n) => format!("vacate {}", name(n)),
        Statement::Begin => "begin".to_owned(),
        Statement::Commit => "commit".to_owned(),
        Statement::Rollback => "rollback".to_owned(),
        Statement::Empty | Statement::Several | Statement::Other => String::new(),
    }
}
