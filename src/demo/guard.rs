//! Leaving nothing behind, whatever the end is.
//!
//! All files lie in one directory. Beside the program a shell waits for the end of a pipe whose only writing end is in
//! this process. It comes when [`Guard`] is dropped, and just as well when the process is killed; then the shell ends
//! the child processes and removes the directory. There is no other clean-up, so every end is the same.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};

use tokio::process::{Child, Command};

/// The directory and its shell.
pub(super) struct Guard {
    dir: PathBuf,
    shell: std::process::Child,
    pipe: Option<ChildStdin>,
}

/// Reads `started PID SIGNAL` and `ended PID` until the end of its input, then sends each child its signal, to those
/// that still run after 5 s KILL, and removes the directory. A zombie has an empty command line: it does not run.
const SCRIPT: &str = r#"
children=
while read -r word pid signal; do
  case $word in
    started) children="$children $pid:$signal" ;;
    ended) children=$(printf '%s\n' $children | grep -v "^$pid:") ;;
  esac
done
running() { grep -qa . "/proc/$1/cmdline" 2>/dev/null; }
for child in $children; do
  kill -"${child#*:}" "${child%:*}" 2>/dev/null
  kill -CONT "${child%:*}" 2>/dev/null
done
for child in $children; do
  tries=0
  while running "${child%:*}" && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  running "${child%:*}" && kill -KILL "${child%:*}" 2>/dev/null
done
rm -rf -- "$1"
"#;

impl Guard {
    /// Makes the directory, which nobody else may enter.
    ///
    /// # Errors
    /// It can't be made, or there is no shell.
    pub(super) fn new() -> io::Result<Guard> {
        let dir = std::env::temp_dir().join(format!("pgferry-demo-{}", random_hex()?));
        let failed = |error| io::Error::other(format!("could not create {}: {error}", dir.display()));
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        let shell = std::process::Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0) // Ctrl-C is not for it
            .spawn();
        let mut shell = shell.inspect_err(|_| {
            let _ = std::fs::remove_dir(&dir);
        })?;
        let pipe = shell.stdin.take();
        Ok(Guard { dir, shell, pipe })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a child process in the directory. It gets `signal` at the end unless it is [`ended`](Self::ended) before.
    pub(super) fn start(&self, command: &mut Command, signal: &str) -> io::Result<Child> {
        command.current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        if let Some(pid) = child.id() {
            self.tell(&format!("started {pid} {signal}"))?;
        }
        Ok(child)
    }

    /// A child has ended, so its number may be another's soon.
    pub(super) fn ended(&self, pid: Option<u32>) -> io::Result<()> {
        pid.map_or(Ok(()), |pid| self.tell(&format!("ended {pid}")))
    }

    fn tell(&self, line: &str) -> io::Result<()> {
        self.pipe.as_ref().map_or(Ok(()), |mut pipe| writeln!(pipe, "{line}"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe.take();
        let _ = self.shell.wait();
    }
}

/// Something that nobody can guess, 16 digits.
pub(super) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
