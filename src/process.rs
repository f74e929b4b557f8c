//! The process around the pooler: its user, its pid file, its place in the background.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, User, geteuid, setgid, setsid, setuid};

/// Set in the environment of the process that a `-d` has put in the background.
const IN_BACKGROUND: &str = "PGFERRY_IN_BACKGROUND";

/// Why the process can't be what it was asked to be.
#[derive(Debug)]
pub enum ProcessError {
    /// `-u` or `user` names nobody.
    NoSuchUser(String),
    /// The kernel refused to change the user.
    ChangeUser(String, nix::Error),
    /// Started as root without a user to change to.
    Root,
    /// The pid file belongs to a running process, or can't be read as one.
    Running(PathBuf),
    /// The pid file can't be written.
    PidFile(PathBuf, io::Error),
    /// `-d` needs a pid file.
    NoPidFile,
    /// The background process could not be started.
    Background(io::Error),
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessError::NoSuchUser(name) => write!(f, "could not find user '{name}' to switch to"),
            ProcessError::ChangeUser(name, error) => write!(f, "could not switch to user '{name}': {error}"),
            ProcessError::Root => f.write_str(
                "pgferry should not run as root; give the user to run as with -u or the setting user",
            ),
            ProcessError::Running(path) => {
                write!(f, "pidfile '{}' exists, another instance running?", path.display())
            }
            ProcessError::PidFile(path, error) => {
                write!(f, "could not write pidfile '{}': {error}", path.display())
            }
            ProcessError::NoPidFile => f.write_str("daemon needs pidfile configured"),
            ProcessError::Background(error) => write!(f, "could not start in the background: {error}"),
        }
    }
}

impl std::error::Error for ProcessError {}

/// Becomes another user if one is named, and refuses to stay root.
///
/// # Errors
/// The user is unknown, or the change is not allowed, or it would be root.
pub fn change_user(name: Option<&str>) -> Result<(), ProcessError> {
    if let Some(name) = name {
        let found = User::from_name(name).ok().flatten();
        let user = found.ok_or_else(|| ProcessError::NoSuchUser(name.to_owned()))?;
        if user.uid != geteuid() {
            let change = nix::unistd::setgroups(&[user.gid])
                .and_then(|()| setgid(user.gid))
                .and_then(|()| setuid(user.uid));
            change.map_err(|error| ProcessError::ChangeUser(name.to_owned(), error))?;
        }
    }
    if geteuid().is_root() { Err(ProcessError::Root) } else { Ok(()) }
}

/// A pid file, removed when the process ends in order.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Makes sure that no running process owns the file; a stale one is removed.
    ///
    /// # Errors
    /// One does, or what is in it is no process id.
    pub fn check(path: &Path) -> Result<(), ProcessError> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
        let stale = text.trim().parse().is_ok_and(|pid: i32| {
            pid > 0 && nix::sys::signal::kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH)
        });
        if !stale {
            return Err(ProcessError::Running(path.to_owned()));
        }
        tracing::info!("stale pidfile, removing");
        fs::remove_file(path).map_err(|error| ProcessError::PidFile(path.to_owned(), error))
    }

    /// Writes the file; `replace`: in place of that of the process which this one has taken over.
    ///
    /// # Errors
    /// It can't be made, or somebody else has made it meanwhile.
    pub fn write(path: &Path, replace: bool) -> Result<PidFile, ProcessError> {
        let own = format!("{}\n", std::process::id());
        let written = if replace {
            // At no moment is there none, or half of one.
            let beside = path.with_extension(format!("{}.new", own.trim_end()));
            create(&beside, &own).and_then(|()| fs::rename(&beside, path))
        } else {
            create(path, &own)
        };
        written.map_err(|error| ProcessError::PidFile(path.to_owned(), error))?;
        Ok(PidFile(path.to_owned()))
    }
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?.write_all(text.as_bytes())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It may be that of a process which has taken over.
        let is_own = |text: String| text.trim().parse() == Ok(std::process::id());
        if fs::read_to_string(&self.0).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Whether this is the process in the background; the first call there makes it the leader of a session of its own.
pub fn is_in_background() -> bool {
    let here = std::env::var_os(IN_BACKGROUND).is_some();
    if here {
        let _ = setsid(); // fails only for one that leads a session already
    }
    here
}

/// Starts the same program with the same arguments in the background. The caller exits.
///
/// # Errors
/// It can't be started.
pub fn start_in_background() -> Result<(), ProcessError> {
    let start = || {
        Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(IN_BACKGROUND, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    start().map(drop).map_err(ProcessError::Background)
}

/// Makes glibc's malloc give blocks of more than 128 KiB back to the system as soon as they are free. By itself it does so
/// only until the first of them is freed, and then keeps up to half of what a burst has taken. It can be told so only by
/// the environment that the process starts with: the same program begins once more, in the same process.
pub fn give_back_memory() {
    const BOUND: &str = "MALLOC_MMAP_THRESHOLD_";
    if !cfg!(target_env = "gnu") || std::env::var_os(BOUND).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    arguments.next().map(|name| command.arg0(name));
    let _failed = command.args(arguments).env(BOUND, "131072").exec(); // then it goes on as it is
}

/// Raises the limit of file descriptors as far as it goes and tells how many there are: every client and every server
/// takes one.
pub fn raise_file_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Some((hard, hard));
    }
    Some((soft, hard))
}
