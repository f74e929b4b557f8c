//! PostgreSQL's own programs: where they are, and running them against a server.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::peer::Address;
use crate::wait::{holds_within, patient};
use crate::wire::Target;

/// The path of one of PostgreSQL's programs.
///
/// # Panics
/// When no PostgreSQL is installed; the message says what to do.
pub fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(path.exists(), "no {} (set PG_BIN to PostgreSQL's bin directory)", path.display());
    path
}

/// The directory of PostgreSQL's programs: `PG_BIN`, else Debian's newest version, else the first of `PATH` that has
/// `initdb`.
fn programs() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let given = env::var_os("PG_BIN").map(PathBuf::from);
        let has_initdb = |dir: &PathBuf| dir.join("initdb").exists();
        let in_path = || env::split_paths(&env::var_os("PATH").unwrap_or_default()).find(has_initdb);
        given.or_else(newest_of_debian).or_else(in_path).expect(
            "PostgreSQL's programs: install PostgreSQL (Debian: apt-get install postgresql) or set PG_BIN to the \
             directory that holds initdb",
        )
    })
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| entry.ok());
    let with_number = versions.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let dir = entry.path().join("bin");
        dir.join("initdb").exists().then_some((number, dir))
    });
    Some(with_number.max()?.1)
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended; `None` means that it was killed when its time was up.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Checks that the program succeeded.
    #[track_caller]
    pub fn success(self) -> Output {
        assert!(self.status.is_some_and(|status| status.success()), "{self:?}");
        self
    }
}

/// A run of one of PostgreSQL's client programs.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    limit: Duration,
}

impl Tool {
    /// The program, directed at `target` through libpq's environment variables. Nothing of the caller's own libpq
    /// settings gets in.
    pub fn new(name: &str, target: &Target) -> Tool {
        let mut command = Command::new(program(name));
        for (variable, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(variable);
        }
        let (host, port) = match &target.address {
            Address::Tcp(address) => (address.ip().to_string(), address.port().to_string()),
            Address::Unix(path) => {
                let (dir, file) = (path.parent().expect("a directory"), path.extension().unwrap_or_default());
                (dir.display().to_string(), file.to_string_lossy().into_owned())
            }
        };
        command.env("PGHOST", host).env("PGPORT", port);
        command.env("PGUSER", &target.user).env("PGDATABASE", &target.database);
        command.env("PGPASSFILE", "/dev/null").env("PSQLRC", "/dev/null").env("PGCONNECT_TIMEOUT", "20");
        if let Some(password) = &target.password {
            command.env("PGPASSWORD", password);
        }
        Tool { command, limit: Duration::from_secs(60) }
    }

    /// `psql` that stops at the first error and prints bare values.
    pub fn psql(target: &Target) -> Tool {
        Tool::new("psql", target).args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Tool {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Tool {
        self.command.env(name, value);
        self
    }

    /// Time after which the program is killed (60 s; stretched by `PATIENCE`).
    pub fn limit(mut self, limit: Duration) -> Tool {
        self.limit = limit;
        self
    }

    /// Runs it with nothing to read.
    pub fn run(self) -> Output {
        self.run_with("")
    }

    /// Runs it with this text as standard input.
    pub fn run_with(mut self, input: &str) -> Output {
        let pipes = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            pipes.spawn().unwrap_or_else(|e| panic!("start {:?}: {e}", self.command.get_program()));
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_string();
        // Ends by itself when the program reads no more: the pipe breaks.
        thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        let mut status = None;
        holds_within(self.limit, || {
            status = child.try_wait().expect("wait for a child");
            status.is_some()
        });
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut errors = stderr.join().expect("the reading thread");
        if status.is_none() {
            errors.push_str(&format!("\n(killed after {:?})", patient(self.limit)));
        }
        Output { status, stdout: stdout.join().expect("the reading thread"), stderr: errors }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
