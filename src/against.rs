//! `pgferry check --against`: asks a running pgferry on its console what a reload of a file would change.

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::error_fields::ErrorFields;
use protocol::{message, startup};

/// Longest answer, and longest wait for a part of it.
const MAX_MESSAGE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no plan.
#[derive(Debug)]
pub enum AgainstError {
    /// The process can't be reached, or does not answer as one of these.
    Unreachable(PathBuf, io::Error),
    /// It refuses, in its own words.
    Refused(String),
}

impl Display for AgainstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgainstError::Unreachable(socket, cause) => {
                write!(f, "no answer from the console at {}: {cause}", socket.display())
            }
            AgainstError::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for AgainstError {}

/// The plan, a line a change. `target` is the Unix socket of the running process, or its directory, where the socket is
/// the one of this port. Only the process's own user may ask.
///
/// # Errors
/// It can't be reached, or refuses.
pub fn plan(target: &Path, port: u16, file: &Path) -> Result<Vec<String>, AgainstError> {
    let socket = match target.is_dir() {
        true => target.join(format!(".s.PGSQL.{port}")),
        false => target.to_owned(),
    };
    let unreachable = |cause| AgainstError::Unreachable(socket.clone(), cause);
    let file = std::path::absolute(file).map_err(unreachable)?;
    let mut stream = connect(&socket).map_err(unreachable)?;
    let command = format!("RELOAD_PLAN \"{}\"", file.display().to_string().replace('"', "\"\""));
    let mut out = Vec::new();
    message::query(&mut out, &command);
    message::terminate(&mut out);
    stream.write_all(&out).map_err(unreachable)?;
    let mut lines = Vec::new();
    let mut tables = 0;
    loop {
        let (tag, body) = next(&mut stream).map_err(unreachable)?;
        match tag {
            b'E' => return Err(refused(&body)),
            b'T' => tables += 1,
            b'D' => lines.push(line(&row(&body).ok_or_else(junk).map_err(unreachable)?)),
            b'Z' if tables > 0 => return Ok(lines),
            _ => {}
        }
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut out = Vec::new();
    startup::encode_startup(&mut out, 0, [("user", "pgbouncer"), ("database", "pgbouncer")]);
    stream.write_all(&out)?;
    Ok(stream)
}

fn next(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    let length = length.checked_sub(4).filter(|length| *length <= MAX_MESSAGE).ok_or_else(junk)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    // Only the process's own user is let in without being asked for a password.
    if header[0] == b'R' && body != [0, 0, 0, 0] {
        let text = "it asks for a password: run this as the user that it runs as";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok((header[0], body))
}

fn junk() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is not pgferry")
}

fn refused(body: &[u8]) -> AgainstError {
    let fields = ErrorFields::new(body);
    let text = fields.detail().or(fields.message()).unwrap_or_default();
    AgainstError::Refused(text.into_owned())
}

/// The values of a `DataRow`.
fn row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    body = rest;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, rest) = body.split_first_chunk::<4>()?;
        body = rest;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            continue;
        };
        let (value, rest) = body.split_at_checked(length)?;
        body = rest;
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
    }
    Some(values)
}

/// As the log of the running process would have it.
fn line(row: &[Option<String>]) -> String {
    let cell = |index: usize| row.get(index).and_then(Option::as_deref);
    let text = |index| cell(index).unwrap_or_default();
    let dot = if text(2).is_empty() { "" } else { "." };
    let value = |index| cell(index).unwrap_or("(none)");
    format!("{} {}{dot}{}: {} -> {} ({})", text(0), text(1), text(2), value(3), value(4), text(5))
}
