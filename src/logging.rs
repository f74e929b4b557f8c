//! The log, in PgBouncer's line format:
//! `YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL peer text`.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Where log lines go.
#[derive(Debug)]
pub struct Log {
    stderr: bool,
    file: Mutex<Option<File>>,
    /// 0 logs what PgBouncer logs by default, 1 debugging lines as well, 2 everything.
    verbosity: AtomicU32,
}

impl Log {
    /// A log to standard error, to a file (appended), or both.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(stderr: bool, file: Option<&Path>, verbosity: u32) -> Result<Arc<Log>, LogError> {
        let log = Log { stderr, file: Mutex::default(), verbosity: AtomicU32::new(verbosity) };
        log.reopen(file)?;
        Ok(Arc::new(log))
    }

    /// Opens the file again, after it was moved away or the configuration names another.
    ///
    /// # Errors
    /// The file can't be opened; the log goes on where it went.
    pub fn reopen(&self, file: Option<&Path>) -> Result<(), LogError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|cause| LogError { path: path.to_owned(), cause })
        };
        let file = file.map(open).transpose()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    /// Sets how much is logged.
    pub fn set_verbosity(&self, verbosity: u32) {
        self.verbosity.store(verbosity, Relaxed);
    }

    /// Makes it the log of the process.
    pub fn install(self: &Arc<Self>) {
        // A second one in the same process (tests) leaves the first in place.
        let _ = tracing_subscriber::registry().with(Lines(self.clone())).try_init();
    }

    fn write(&self, line: &str) {
        if self.stderr {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(file) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// A log file that can't be opened.
#[derive(Debug)]
pub struct LogError {
    path: std::path::PathBuf,
    cause: io::Error,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not open log file {}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for LogError {}

/// Turns events into lines.
struct Lines(Arc<Log>);

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let most = match self.0.verbosity.load(Relaxed) {
            0 => Level::INFO,
            1 => Level::DEBUG,
            _ => Level::TRACE,
        };
        *metadata.level() <= most
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        self.0.write(&line(level, &text.peer, &text.message));
    }
}

/// A whole line, its end included.
pub fn line(level: &str, peer: &str, message: &str) -> String {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f %Z");
    let gap = if peer.is_empty() { "" } else { " " };
    format!("{now} [{}] {level} {peer}{gap}{}\n", std::process::id(), message.replace('\n', "\n\t"))
}

/// The fields of an event: the text, and whose connection it is about.
#[derive(Default)]
struct Text {
    peer: String,
    message: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "peer" => write!(self.peer, "{value:?}"),
            name => write!(self.message, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_look_like_pgbouncers() {
        let text = line("LOG", "C-0x1: db/user@127.0.0.1:5", "login attempt\nand more");
        let (stamp, rest) = text.split_once(" [").unwrap();
        assert_eq!(stamp.split(' ').count(), 3, "date, time, zone: {stamp}");
        let (_, rest) = rest.split_once("] ").unwrap();
        assert_eq!(rest, "LOG C-0x1: db/user@127.0.0.1:5 login attempt\n\tand more\n");
    }
}
