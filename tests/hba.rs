//! Rules that choose the method (`auth_type = hba`): their files read as PostgreSQL reads them, and what comes of them.

mod certificates;
mod corpus;
mod logins;

use std::fs;
use std::path::Path;

use pgbouncer_compat::hba::{Files, Parsed, read_maps, read_rules};
use pooler::config::{CertificateCheck, HbaRule};
use serde_json::{Value, json};
use support::postgres::{Options, Postgres};

use corpus::{ACCEPTED_HERE, Differs, FIRST_WITH_PATTERNS, IDENT_LINES, MAPS, REFUSED_HERE, rule_lines};

// ---- what PostgreSQL says ---------------------------------------------------------------------------------------

/// A row of one of PostgreSQL's views, by names of columns.
type Row = serde_json::Map<String, Value>;

/// What the view says of this text in its file. It reads the file at once; the server itself goes on with the old one.
fn according_to_postgres(postgres: &Postgres, file: &str, text: &[u8], view: &str) -> Vec<Row> {
    fs::write(postgres.socket_dir().join("data").join(file), text).unwrap();
    let reply = postgres.sql(&format!("select coalesce(json_agg(t), '[]') from (select * from {view}) t"));
    let rows: Vec<Row> = serde_json::from_str(reply.rows()[0][0].as_deref().unwrap()).unwrap();
    rows
}

fn version(postgres: &Postgres) -> u32 {
    let reply = postgres.sql("show server_version_num");
    reply.rows()[0][0].as_deref().unwrap().parse::<u32>().unwrap() / 10_000
}

// ---- what we say ------------------------------------------------------------------------------------------------

/// A rule with the columns of `pg_hba_file_rules`.
fn row(rule: &HbaRule) -> Value {
    let (address, netmask) = rule.address_columns();
    json!({
        "type": rule.transport.keyword(),
        "database": rule.databases.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "user_name": rule.users.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "address": address,
        "netmask": netmask,
        "auth_method": rule.method.name(),
        "options": options(rule),
    })
}

/// The options that the view shows, sorted.
fn options(rule: &HbaRule) -> Value {
    let hidden = ["clientcert", "clientname", "pam_use_hostname"];
    let shown = rule.options.iter().filter(|(name, _)| !hidden.contains(&&name[..]));
    let mut shown: Vec<String> = shown.map(|(name, value)| format!("{name}={value}")).collect();
    match rule.certificate {
        CertificateCheck::None => {}
        CertificateCheck::Verified => shown.push("clientcert=verify-ca".into()),
        CertificateCheck::OfUser => shown.push("clientcert=verify-full".into()),
    }
    shown.sort();
    if shown.is_empty() { Value::Null } else { json!(shown) }
}

/// The same columns of PostgreSQL's row.
fn columns(row: &Row) -> Value {
    let mut columns = Row::new();
    for name in ["type", "database", "user_name", "address", "netmask", "auth_method", "options"] {
        columns.insert(name.into(), row[name].clone());
    }
    if let Some(Value::Array(options)) = columns.get_mut("options") {
        options.retain(|option| option != "ldapscope=2"); // its default
        options.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    columns.into()
}

/// Errors with which a line counts all the same: it can never match in this build, or while TLS is off.
const NEVER_MATCHES: &str = "record cannot match";

/// Why PostgreSQL refuses the line. Of some that it refuses the view does not say why.
fn error(row: &Row) -> Option<&str> {
    let told = row["error"].as_str().filter(|error| !error.contains(NEVER_MATCHES));
    told.or((row.get("type") == Some(&Value::Null)).then_some(""))
}

/// A file in memory; others are not there.
fn only<T>(text: &[u8], read: impl FnOnce(&Path, Files<'_>) -> Parsed<T>) -> Parsed<T> {
    let path = Path::new("file");
    let content = |asked: &Path| match asked == path {
        true => Ok(text.to_vec()),
        false => Err(std::io::ErrorKind::NotFound.into()),
    };
    read(path, Files::read_by(&content))
}

// ---- the comparison ---------------------------------------------------------------------------------------------

/// Why one of the two may refuse what the other accepts; each reason counted.
struct Differences {
    used: Vec<usize>,
    table: &'static [Differs],
}

impl Differences {
    fn of(table: &'static [Differs]) -> Differences {
        Differences { used: vec![0; table.len()], table }
    }

    fn explain(&mut self, message: &str) -> bool {
        let reason = self.table.iter().position(|(fragment, _)| message.contains(fragment));
        if let Some(reason) = reason {
            self.used[reason] += 1;
        }
        reason.is_some()
    }

    /// A reason that explains nothing would hide a difference some day.
    fn assert_all_used(&self, may_be_idle: impl Fn(&str) -> bool) {
        for ((fragment, why), used) in self.table.iter().zip(&self.used) {
            assert!(*used > 0 || may_be_idle(fragment), "no line is refused with {fragment:?} ({why})");
        }
    }
}

/// Each line once, and the number of the first that it takes.
fn numbered(lines: &[String]) -> Vec<(u64, &str)> {
    let mut number = 1;
    let mut numbered = Vec::new();
    for line in lines {
        numbered.push((number, &line[..]));
        number += 1 + line.matches('\n').count() as u64;
    }
    numbered
}

#[test]
fn rules_are_read_as_postgresql_reads_them() {
    let postgres = Postgres::start(Options::new());
    let version = version(&postgres);
    let lines = rule_lines(version);
    let text = lines.join("\n");
    let theirs = according_to_postgres(&postgres, "pg_hba.conf", text.as_bytes(), "pg_hba_file_rules");
    let maps = only(MAPS.as_bytes(), read_maps).entries;
    let ours = only(text.as_bytes(), |path, files| read_rules(path, files, &maps));

    let (mut refused, mut accepted) = (Differences::of(REFUSED_HERE), Differences::of(ACCEPTED_HERE));
    let (mut compared, mut disagreements) = (0, Vec::new());
    for (number, line) in numbered(&lines) {
        let rule = ours.entries.iter().find(|rule| u64::from(rule.line) == number);
        let fault = ours.faults.iter().find(|fault| fault.place.line.map(u64::from) == Some(number));
        let Some(row_there) = theirs.iter().find(|row| row["line_number"] == number) else {
            assert!(rule.is_none() && fault.is_none(), "nothing to PostgreSQL: {line}");
            continue;
        };
        compared += 1;
        match (rule, error(row_there)) {
            (Some(rule), None) if row(rule) == columns(row_there) => {}
            (Some(rule), None) => {
                disagreements.push(format!("{line}: {} or {}", row(rule), columns(row_there)));
            }
            (None, Some(_)) => assert!(fault.is_some(), "no fault: {line}"),
            (None, None) => {
                let message = fault.expect(line).message.clone();
                if !refused.explain(&message) {
                    disagreements.push(format!("refused only here: {line}: {message}"));
                }
            }
            (Some(_), Some(error)) => {
                if !accepted.explain(error) {
                    disagreements.push(format!("accepted only here: {line}: {error}"));
                }
            }
        }
    }
    assert!(disagreements.is_empty(), "{disagreements:#?}");
    println!("{compared} lines compared with PostgreSQL {version}");
    assert!(compared > 300);
    // Some PostgreSQLs are built without GSSAPI.
    refused.assert_all_used(|fragment| {
        let of_gss = fragment.contains("gss") || fragment.contains("peer and cert");
        version < FIRST_WITH_PATTERNS || of_gss
    });
}

#[test]
fn ident_maps_are_read_as_postgresql_reads_them() {
    let postgres = Postgres::start(Options::new());
    let version = version(&postgres);
    let lines: Vec<String> = IDENT_LINES.iter().map(|line| (*line).to_owned()).collect();
    let text = lines.join("\n");
    let theirs = according_to_postgres(&postgres, "pg_ident.conf", text.as_bytes(), "pg_ident_file_mappings");
    for (number, line) in numbered(&lines) {
        let Some(row) = theirs.iter().find(|row| row["line_number"] == number) else {
            assert!(only(line.as_bytes(), read_maps).entries.is_empty(), "{line}");
            continue;
        };
        let ours = only(line.as_bytes(), read_maps);
        let only_here = corpus::IDENT_REFUSED_HERE.iter().find(|(other, _)| *other == line);
        match (&ours.faults[..], error(row)) {
            ([], None) => assert_eq!(row["map_name"], *ours.entries[0].name, "{line}"),
            ([], Some(error)) => panic!("accepted only here: {line}: {error}"),
            (_, Some(_)) => {}
            ([fault, ..], None) => {
                let old =
                    version < FIRST_WITH_PATTERNS && fault.message.contains("invalid regular expression");
                assert!(only_here.is_some() || old, "refused only here: {line}: {fault}");
            }
        }
    }
}

/// Files that include others, in all ways; both read the same directory.
#[test]
fn includes_are_read_as_postgresql_reads_them() {
    let postgres = Postgres::start(Options::new());
    if version(&postgres) < FIRST_WITH_PATTERNS {
        return; // older ones know @FILE only, which the corpus has
    }
    let data = postgres.socket_dir().join("data");
    let main = "local all all trust\ninclude more.conf\ninclude_if_exists none.conf\ninclude_dir hba.d\n\
                \"include\" \"more.conf\"\nhost @names,third \"@x\" all reject\nlocal @nobody all trust\n\
                include none.conf\nlocal @none all trust\ninclude endless.conf\n";
    fs::create_dir_all(data.join("hba.d/sub.conf")).unwrap();
    for (name, text) in [
        ("more.conf", "local more all trust\n# only a comment\nhost more all 10.0.0.0/8 \\\nmd5\n"),
        ("names", "first, second # both\n\n\"thi rd\" \"all\"\n"),
        ("nobody", "\n# nobody\n"),
        ("endless.conf", "local endless all trust\ninclude endless.conf\n"),
        ("hba.d/b.conf", "local b all trust\nlocal b all\n"),
        ("hba.d/a.conf", "local a all trust\ninclude ../more.conf\n"),
        ("hba.d/.hidden.conf", "local hidden all trust\n"),
        ("hba.d/other", "local other all trust\n"),
    ] {
        fs::write(data.join(name), text).unwrap();
    }
    let theirs = according_to_postgres(&postgres, "pg_hba.conf", main.as_bytes(), "pg_hba_file_rules");
    let read = |path: &Path| fs::read(path);
    let ours = read_rules(&data.join("pg_hba.conf"), Files::read_by(&read), &[]);
    let good: Vec<_> = theirs.iter().filter(|row| error(row).is_none()).map(columns).collect();
    assert_eq!(ours.entries.iter().map(row).collect::<Vec<_>>(), good);
    let bad = theirs.iter().filter(|row| error(row).is_some()).map(|row| {
        let file = row["file_name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (file, row["line_number"].as_u64().unwrap())
    });
    let faults = ours.faults.iter().map(|fault| {
        let file = fault.place.file.file_name().unwrap().to_string_lossy().into_owned();
        (file, u64::from(fault.place.line.unwrap()))
    });
    let (mut bad, mut faults): (Vec<_>, Vec<_>) = (bad.collect(), faults.collect());
    bad.sort();
    faults.sort();
    assert_eq!(faults, bad);
}
