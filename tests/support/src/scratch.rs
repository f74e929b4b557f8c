//! Temporary directories, and the unprivileged user as whom servers run when the tests run as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::{Uid, User, geteuid};

use crate::wait::random;
use crate::watchdog::Watchdog;

/// A directory that is removed at the end, whatever the end is.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    watchdog: Option<Watchdog>,
}

impl Scratch {
    /// A new empty directory for a server, owned by the user as whom servers run. Others may enter it (Unix sockets).
    pub fn new(hint: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("pgferry-{hint}-{:08x}", random() as u32));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("create {}: {e}", path.display()));
        let watchdog = Watchdog::of_dir(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("open the scratch directory");
        let scratch = Scratch { path, watchdog: Some(watchdog) };
        give_to_servers(&scratch.path);
        scratch
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that lives in this directory: stopped before the directory is removed if this process dies.
    pub(crate) fn guard(&mut self, pid: u32) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.guard(pid);
        }
    }

    /// Writes a file that servers may read and change.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close a file to others");
        give_to_servers(&path);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        self.watchdog.take();
    }
}

/// The user as whom servers run: `None` is the present one, another is taken only when that is root, as whom neither
/// PostgreSQL nor PgBouncer nor pgferry starts.
pub(crate) fn server_user() -> Option<&'static User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    USER.get_or_init(|| {
        if geteuid() != Uid::from_raw(0) {
            return None;
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        Some(user.expect("root needs a user `postgres` or `nobody` to run servers as"))
    })
    .as_ref()
}

/// A command that runs as [`server_user`], in a process group of its own (Ctrl-C is the watchdog's business).
pub(crate) fn server_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).current_dir("/");
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Makes [`server_user`] the owner of `path`.
pub(crate) fn give_to_servers(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .unwrap_or_else(|e| panic!("give {} to {}: {e}", path.display(), user.name));
    }
}
