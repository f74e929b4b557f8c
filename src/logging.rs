//! The log: PgBouncer's lines (`YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL peer text`) or JSON on standard error and in a
//! file, and syslog.

mod syslog;

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use pgbouncer_compat::{LogFormat, Program};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use syslog::Syslog;

/// Where log lines go.
#[derive(Debug)]
pub struct Log {
    stderr: bool,
    to: Mutex<To>,
    /// 0 logs what PgBouncer logs by default, 1 debugging lines as well, 2 everything.
    verbosity: AtomicU32,
    /// What the command line says of that.
    asked: u32,
}

#[derive(Debug, Default)]
struct To {
    file: Option<File>,
    syslog: Option<Syslog>,
    format: LogFormat,
}

impl Log {
    /// A log to standard error, and wherever the settings say. `verbosity` counts unless they say otherwise.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(stderr: bool, program: &Program, verbosity: u32) -> Result<Arc<Log>, LogError> {
        let log = Log { stderr, to: Mutex::default(), verbosity: AtomicU32::default(), asked: verbosity };
        log.configure(program)?;
        Ok(Arc::new(log))
    }

    /// Takes over what the settings say now, and opens the file again, which may have been moved away.
    ///
    /// # Errors
    /// The file can't be opened; the log goes on where it went.
    pub fn configure(&self, program: &Program) -> Result<(), LogError> {
        self.verbosity.store(program.verbose.unwrap_or(self.asked), Relaxed);
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|cause| LogError { path: path.to_owned(), cause })
        };
        let file = program.logfile.as_deref().map(open).transpose()?;
        let syslog = program.syslog.on.then(|| Syslog::new(program.syslog.facility, &program.syslog.ident));
        let to = To { file, syslog, format: program.log_format };
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = to;
        Ok(())
    }

    /// Makes it the log of the process.
    pub fn install(self: &Arc<Self>) {
        // A second one in the same process (tests) leaves the first in place.
        let _ = tracing_subscriber::registry().with(Lines(self.clone())).try_init();
    }

    /// Why the process ends although nobody has told it to.
    pub fn fatal(&self, reason: &str) {
        self.write("FATAL", "", reason);
    }

    fn write(&self, level: &str, peer: &str, message: &str) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(syslog) = &mut to.syslog {
            syslog.send(level, peer, message);
        }
        if !self.stderr && to.file.is_none() {
            return;
        }
        let line = match to.format {
            LogFormat::Text => line(level, peer, message),
            LogFormat::Json => json(level, peer, message),
        };
        if self.stderr {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(file) = &mut to.file {
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
        self.0.write(level, &text.peer, &text.message);
    }
}

/// A whole line, its end included.
pub fn line(level: &str, peer: &str, message: &str) -> String {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f %Z");
    let gap = if peer.is_empty() { "" } else { " " };
    format!("{now} [{}] {level} {peer}{gap}{}\n", std::process::id(), message.replace('\n', "\n\t"))
}

/// The same as an object, with the parts of `peer` by name.
fn json(level: &str, peer: &str, message: &str) -> String {
    let now = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: &str| {
        object.insert(name.to_owned(), value.into());
    };
    put("time", &now);
    put("level", level);
    for (name, value) in parts(peer) {
        put(name, value);
    }
    put("message", message);
    object.insert("pid".to_owned(), std::process::id().into());
    format!("{}\n", serde_json::Value::from(object))
}

/// What `C-0x1: database/user@address` is made of; of pools only database and user.
fn parts(peer: &str) -> Vec<(&'static str, &str)> {
    let (socket, who) = peer.split_once(": ").unwrap_or(("", peer));
    let (names, address) = who.rsplit_once('@').unwrap_or((who, ""));
    let (database, user) = names.rsplit_once('/').unwrap_or((names, ""));
    let number = match socket.split_once('-') {
        Some(("C", number)) => ("client", number),
        Some(("S", number)) => ("server", number),
        _ => ("socket", socket),
    };
    let all = [number, ("database", database), ("user", user), ("addr", address)];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
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
    use super::*;

    #[test]
    fn lines_look_like_pgbouncers() {
        let text = line("LOG", "C-0x1: db/user@127.0.0.1:5", "login attempt\nand more");
        let (stamp, rest) = text.split_once(" [").unwrap();
        assert_eq!(stamp.split(' ').count(), 3, "date, time, zone: {stamp}");
        let (_, rest) = rest.split_once("] ").unwrap();
        assert_eq!(rest, "LOG C-0x1: db/user@127.0.0.1:5 login attempt\n\tand more\n");
    }

    #[test]
    fn objects_have_the_parts_by_name() {
        let text = json("LOG", "S-0x1f: a/b/user@[::1]:5432", "it said \"no\"\nand more");
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("level", "LOG"),
            ("server", "0x1f"),
            ("database", "a/b"),
            ("user", "user"),
            ("addr", "[::1]:5432"),
            ("message", "it said \"no\"\nand more"),
        ] {
            assert_eq!(object[name], value, "{text}");
        }
        assert_eq!(object["pid"], std::process::id());
        let plain: serde_json::Value = serde_json::from_str(&json("LOG", "", "x")).unwrap();
        assert_eq!(plain.as_object().unwrap().len(), 4, "{plain}");
    }
}
