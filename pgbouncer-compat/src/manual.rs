//! `contrib/man` and `contrib/completions`, rendered from the command line and from [`crate::reference()`]. A test keeps
//! them true, so that what renders them is no part of the program.

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::cli::grammar;
use crate::reference;

/// The parts of `pgferry.1` that the command line does not know.
const BEYOND_OPTIONS: &str = "\
## SIGNALS

| Signal | |
|--|--|
| **SIGHUP** | Read the configuration, the users and the log file's name again. With a fault in them nothing changes. |
| **SIGINT** | End as soon as clients have given their servers back; a second one ends at once. |
| **SIGTERM** | End as soon as all clients have left; a second one ends at once. |
| **SIGQUIT** | End at once. |
| **SIGUSR1**, **SIGUSR2** | `PAUSE` and `RESUME`. |

## EXIT STATUS

0 after every regular end, 1 when the program can't start or go on, or a check has found a fault.

## FILES

| File | |
|--|--|
| */etc/pgferry/pgferry.ini* | The configuration, as packages install it; **pgferry.ini**(5). |
| */etc/pgferry/userlist.txt* | Users and their secrets, the `auth_file` of that configuration. |

PgBouncer's files can be used where they are, for example */etc/pgbouncer/pgbouncer.ini*.

## CONSOLE

The database `pgferry`, also called `pgbouncer`, is the console: log in as one of `admin_users` or `stats_users` and say
`SHOW HELP`.

## SEE ALSO

**pgferry.ini**(5), **psql**(1), **pgbouncer**(1)
";

const NAME_OF_SETTINGS: &str = "\
## NAME

pgferry.ini - configuration of pgferry

";

fn program_page() -> String {
    let man = Man::new(grammar()).title("PGFERRY").source("pgferry").manual("pgferry");
    let mut out = Vec::new();
    man.render_title(&mut out).unwrap();
    man.render_name_section(&mut out).unwrap();
    man.render_synopsis_section(&mut out).unwrap();
    man.render_description_section(&mut out).unwrap();
    man.render_options_section(&mut out).unwrap();
    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    commands.to_writer(&mut out).unwrap();
    for command in grammar().get_subcommands() {
        let mut head = Roff::new();
        head.control("SS", [format!("pgferry {}", command.get_name()).as_str()]);
        head.text([roman(format!("{}.", command.get_about().unwrap()))]);
        head.to_writer(&mut out).unwrap();
        let mut options = Vec::new();
        Man::new(command.clone().disable_help_flag(true)).render_options_section(&mut options).unwrap();
        out.extend(String::from_utf8(options).unwrap().replace(".SH OPTIONS\n", "").bytes());
    }
    let after = grammar().get_after_help().unwrap().to_string();
    converted(&format!("\n{after}\n\n{BEYOND_OPTIONS}")).to_writer(&mut out).unwrap();
    without_repeats(&String::from_utf8(out).unwrap())
}

fn settings_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["PGFERRY.INI", "5", "", "pgferry", "pgferry"]);
    let description = reference().replace("# Settings\n", "## DESCRIPTION\n");
    page.extend([converted(&format!("{NAME_OF_SETTINGS}{description}\n## SEE ALSO\n\n**pgferry**(1)\n"))]);
    without_repeats(&page.render())
}

/// Every piece that is rendered by itself begins with the same three lines.
fn without_repeats(page: &str) -> String {
    let preamble = Roff::new().render();
    format!("{preamble}{}", page.replace(&preamble, ""))
}

/// The Markdown that is used here and by the reference, as roff: headings, paragraphs, lists of one level, code between
/// fences, and tables, whose rows become paragraphs.
fn converted(markdown: &str) -> Roff {
    let mut out = Roff::new();
    let mut lines = markdown.lines().peekable();
    let mut columns = 0;
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            out.control("SH", [heading]);
        } else if line.starts_with("```") {
            out.control("EX", []);
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                out.text([roman(code)]);
            }
            out.control("EE", []);
        } else if line.starts_with("|--") || line.starts_with("<!--") {
            columns = line.matches("--").count();
        } else if line.starts_with("| ") {
            if lines.peek().is_none_or(|next| !next.starts_with("|--")) {
                table_row(&mut out, line, columns);
            }
        } else if line.is_empty() {
            out.control("PP", []);
        } else {
            let mut text = line.to_owned();
            while let Some(more) = lines.next_if(|line| continues(line)) {
                text = format!("{text} {}", more.trim_start());
            }
            if let Some(item) = text.strip_prefix("- ") {
                out.control("IP", ["-", "2"]);
                text = item.to_owned();
            }
            out.text(inlines(&text));
        }
    }
    out
}

fn continues(line: &str) -> bool {
    !line.is_empty() && !["#", "```", "|", "- ", "<!--"].iter().any(|start| line.starts_with(start))
}

/// Name and value make the head, the last column what is said of it.
fn table_row(out: &mut Roff, line: &str, columns: usize) {
    let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
    assert_eq!(cells.len(), columns, "{line}");
    let mut head = inlines(cells[0]);
    let help = cells[columns - 1];
    if columns > 2 {
        head.extend([roman(": "), roman(cells[1].replace('`', ""))]);
    }
    out.control("TP", []).text(head).text(inlines(help));
    if let [_, _, default, changes, _] = cells[..] {
        let mut facts = vec![roman("Default: ")];
        facts.extend(inlines(default));
        facts.push(roman(format!(". Changes at {changes}.")));
        out.text(facts);
    }
}

/// `code` and **strong** become bold, *emphasis* italic; of a link its text stays.
fn inlines(text: &str) -> Vec<Inline> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['`', '*', '[']) {
        let mark = ["`", "**", "*", "["].into_iter().find(|mark| rest[start..].starts_with(mark)).unwrap();
        let (before, inside) = (&rest[..start], &rest[start + mark.len()..]);
        let (inner, after) = match (mark, inside.split_once(if mark == "[" { "](" } else { mark })) {
            ("[", Some((inner, url))) if !inner.contains(']') => (inner, url.split_once(')').unwrap().1),
            (_, None) | ("[", _) => (mark, inside), // stands for itself
            (_, Some(found)) => found,
        };
        let inner = inner.replace('`', "");
        out.push(roman(before));
        out.push(match mark {
            "*" => italic(inner),
            "[" => roman(inner),
            _ => bold(inner),
        });
        rest = after;
    }
    out.push(roman(rest));
    out
}

fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut grammar(), "pgferry", &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_committed_pages_and_completions_are_what_the_tables_say() {
    for (file, rendered) in [
        ("man/pgferry.1", program_page()),
        ("man/pgferry.ini.5", settings_page()),
        ("completions/pgferry.bash", completions(Shell::Bash)),
        ("completions/_pgferry", completions(Shell::Zsh)),
        ("completions/pgferry.fish", completions(Shell::Fish)),
    ] {
        let path = format!("{}/../contrib/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == rendered, "contrib/{file} is out of date: UPDATE_DOCS=1 cargo test renders it");
    }
}

/// The package is put together from files that know of each other only by these paths.
#[test]
fn the_unit_starts_what_the_package_installs() {
    let read =
        |file: &str| std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (unit, configuration) = (read("contrib/systemd/pgferry.service"), read("contrib/etc/pgferry.ini"));
    for part in [
        "/usr/bin/pgferry ",
        " /etc/pgferry/pgferry.ini",
        "User=pgferry",
        "RuntimeDirectory=pgferry",
        "LogsDirectory=pgferry",
        "\nType=notify\n", // Debian 12 has no notify-reload
        "\nExecReload=/bin/kill -HUP $MAINPID\n",
        "\nReadWritePaths=/tmp ", // the default of unix_socket_dir
    ] {
        assert!(unit.contains(part), "{part} in {unit}");
    }
    assert!(configuration.contains("unix_socket_dir = /run/pgferry\n"), "{configuration}");
    assert!(read("contrib/debian/postinst").contains("adduser --quiet --system --group"));
}
