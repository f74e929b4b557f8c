//! Cleaning up after a test process that did not get to do it: killed, aborted, or simply at its end (statics are never
//! dropped).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A shell that waits for the end of a pipe whose only writing end is in this process, then stops a server and removes
/// a directory. It sits in a process group of its own, so that Ctrl-C does not reach it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

/// Reads `pid N` lines (the server to stop; a later line replaces an earlier one) until `done` or the end of input. A
/// zombie has an empty command line, so it does not count as running. A stopped process is continued, else it could not
/// end. PostgreSQL takes QUIT as "immediate shutdown" and tells its children; 5 s later everything gets KILL.
const SCRIPT: &str = r#"
pid=
while read -r word value; do
  case $word in
    pid) pid=$value ;;
    done) exit 0 ;;
  esac
done
running() { kill -0 "$pid" 2>/dev/null && grep -qa . "/proc/$pid/cmdline" 2>/dev/null; }
if [ -n "$pid" ]; then
  kill -QUIT "$pid" 2>/dev/null
  kill -CONT "$pid" 2>/dev/null
  tries=0
  while running && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  running && kill -KILL "$pid" 2>/dev/null
fi
rm -rf -- "$1"
"#;

impl Watchdog {
    /// Will remove `dir` when this process ends.
    pub(crate) fn of_dir(dir: &Path) -> Watchdog {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("start the watchdog");
        let pipe = shell.stdin.take();
        Watchdog { shell, pipe }
    }

    /// Will also stop this process, in place of one named before.
    pub(crate) fn guard(&mut self, pid: u32) {
        let pipe = self.pipe.as_mut().expect("the pipe is open until drop");
        writeln!(pipe, "pid {pid}").expect("tell the watchdog");
    }
}

impl Drop for Watchdog {
    /// The owner has cleaned up itself.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = writeln!(pipe, "done");
        }
        let _ = self.shell.wait();
    }
}
