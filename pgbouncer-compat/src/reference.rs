//! `docs/settings.md`, rendered from the tables that parsing walks.

use std::fmt::Write;

use crate::settings::{Applies, Kind, SETTINGS, Setting, Status, Unit};
use crate::{databases, limits, peers, users};

/// The reference of all settings, as Markdown.
pub fn reference() -> String {
    let mut out = INTRODUCTION.to_owned();
    out.push_str("| Setting | Value | Default | Changes | |\n|--|--|--|--|--|\n");
    for setting in SETTINGS {
        row(&mut out, setting);
    }
    out.push_str(DATABASES);
    for key in databases::keys() {
        line(&mut out, &[&format!("`{}`", key.name), key.value, key.help]);
    }
    limit_keys(&mut out, limits::OWN.iter());
    out.push_str(USERS);
    for key in users::KEYS {
        line(&mut out, &[&format!("`{}`", key.name), key.value, key.help]);
    }
    limit_keys(&mut out, limits::OWN.iter());
    out.push_str(APPLICATIONS);
    limit_keys(&mut out, limits::keys());
    out.push_str(PEERS);
    for key in peers::KEYS {
        line(&mut out, &[&format!("`{}`", key.name), key.value, key.help]);
    }
    out.push_str(FILES);
    out
}

fn limit_keys(out: &mut String, keys: impl Iterator<Item = &'static limits::Key>) {
    for key in keys {
        line(out, &[&format!("`{}`", key.name), key.value, key.help]);
    }
}

fn row(out: &mut String, setting: &Setting) {
    let default = match setting.default {
        None => "(unset)".into(),
        Some("") => "(empty)".into(),
        Some(default) => format!("`{default}`"),
    };
    let applies = match setting.applies {
        Applies::Start | Applies::StartQuietly => "start",
        Applies::Reload => "reload",
    };
    let status = match setting.status {
        Status::Active => String::new(),
        Status::Harmless(why) => format!(" *No effect in this version: {why}.*"),
        Status::Only([""]) => " *Only empty in this version.*".into(),
        Status::Only(values) => format!(" *Only {} in this version.*", words(values)),
    };
    let help = format!("{}{status}", setting.help);
    line(out, &[&format!("`{}`", setting.name), &value(setting.kind), &default, applies, &help]);
}

fn line(out: &mut String, cells: &[&str]) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Bool => "0 or 1".into(),
        Kind::Int { unit: Unit::None, .. } => "number".into(),
        Kind::Int { unit: Unit::Connections, .. } => "connections".into(),
        Kind::Int { unit: Unit::Bytes, .. } => "bytes".into(),
        Kind::Int { unit: Unit::Seconds, .. } => "whole seconds".into(),
        Kind::Int { unit: Unit::Milliseconds, .. } => "milliseconds".into(),
        Kind::Mode => "octal".into(),
        Kind::Seconds => "seconds".into(),
        Kind::Percent => "percent".into(),
        Kind::List => "names".into(),
        Kind::Text | Kind::Secret => "text".into(),
        Kind::Choice(choices) => words(choices),
    }
}

fn words(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

const INTRODUCTION: &str = "\
# Settings

<!-- Rendered from the table of settings: change that, then run `UPDATE_DOCS=1 cargo test -p pgferry-pgbouncer-compat`. -->

The configuration file is PgBouncer's. `pgferry check FILE` reads it and names every fault, with file and line; a file
with a fault is never used, neither at start nor at a reload. `pgferry check --against SOCKET FILE` asks a running
pgferry over its Unix socket (or the one in the directory `SOCKET`) what a reload of the file would change there: each
setting, database, user, application, peer and secret that differs, and whether it counts at once, from the next login or
from the next start on, or renews server connections. It is the console's `RELOAD_PLAN [\"FILE\"]`, which that process's
own user may use without a password.

```ini
[databases]
shop = host=10.0.0.5 port=5432
* = host=10.0.0.6

[users]
reports = pool_mode=session max_user_connections=5

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
auth_file = /etc/pgbouncer/userlist.txt
pool_mode = transaction
```

- A line is `[section]`, `key = value`, `%include FILE`, or a comment, which starts with `;` or `#`. Behind a value there
  can be no comment. Section and key names are case-sensitive.
- A key with other characters than letters, digits and `_ . - *` stands in single quotes: `'my db' = host=a`.
- Where a key is set twice, the last value counts. A second `[pgbouncer]` section starts again from the defaults.
- `%include` takes a path relative to the working directory and goes at most 10 files deep. The section carries across.
- A number may be decimal, octal (`0777`) or hexadecimal (`0x1F`); a time is in seconds and may have a fraction. Beyond
  PgBouncer, times may have a unit (`us`, `ms`, `s`, `min`, `h`, `d`: `5min`), bytes too (`kB`, `MB`, `GB`: `64MB`), and
  switches may be `on`, `off`, `yes`, `no`, `true`, `false`.
- A setting of PgBouncer that this version does not implement is accepted where ignoring it does no harm, and refused
  with a message otherwise.
- A setting that is no longer in the file is back at its default after a reload, whatever its default.

## [pgbouncer]

\"Changes\" says when a new value takes effect.

";

const DATABASES: &str = "
## [databases]

`NAME = key=value ...` is a database that clients can ask for. `*` stands for all names that are not listed; its value
may be empty, as any. Values with blanks stand in single quotes, a quote inside is doubled. `pgbouncer` and `pgferry`
are the console's names. A key that is left out takes the setting of `[pgbouncer]`. All of it changes at a reload.

| Key | Value | |
|--|--|--|
";

const USERS: &str = "
## [users]

`NAME = key=value ...` tunes a user. What is set here wins over the database's setting. An entry gives a user no
password; that is for `auth_file`.

| Key | Value | |
|--|--|--|
";

const APPLICATIONS: &str = "
## [applications]

`PATTERN = key=value ...` gives limits in time to clients by the `application_name` that they have at the moment; `*` in
the pattern stands for any text. The first entry that matches counts, and wins over the user's and the database's
limits. The name is whatever a client says. Not a section of PgBouncer.

| Key | Value | |
|--|--|--|
";

const PEERS: &str = "
## [peers]

`NUMBER = key=value ...` is another instance, PgBouncer or pgferry, behind the same address (a load balancer, or
`so_reuseport`); its number is its `peer_id`. A cancel request comes on a connection of its own and so may meet any of
them; the key that each gives its clients carries its number, and a request with another's is passed on there, three
times at most and within `cancel_wait_timeout`. All instances can have the same section: the own number in it is not
used. All of it changes at a reload; clients that are connected keep their keys.

Keys are those of PgBouncer and of protocol 3.0, eight bytes long: clients that ask for the longer ones of protocol 3.2
are told that it is 3.0 here. Servers may give longer ones.

| Key | Value | |
|--|--|--|
";

const FILES: &str = "
## auth_file

One user a line, `\"name\" \"secret\"`, always in double quotes; a quote inside is doubled, the rest of the line is
ignored. A line that starts with `;` is a comment. The secret is a password in plain text, `md5` and 32 hex digits, or
PostgreSQL's SCRAM verifier (`SCRAM-SHA-256$...`). With an empty secret a user exists but cannot log in by password.
The file is read again at a reload. If it does not exist, nobody can log in until it does and the configuration is
reloaded; a record that cannot be read is a fault.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == reference(),
            "docs/settings.md is out of date: UPDATE_DOCS=1 cargo test renders it"
        );
    }

    #[test]
    fn no_cell_breaks_its_row() {
        let page = reference();
        for line in page.lines().filter(|line| line.starts_with('|')) {
            let columns = line.matches('|').count();
            assert!(columns == 6 || columns == 4, "{line}");
        }
    }
}
