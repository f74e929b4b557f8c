//! Syslog, as RFC 3164 and `syslog(3)` write it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where the system's logger listens.
const SOCKET: &str = "/dev/log";

/// The longest text that is sent, in bytes: loggers cut off what is longer than 2 KiB in all.
const LONGEST: usize = 1900;

/// The way to the system's logger. It is opened again when that was restarted.
#[derive(Debug)]
pub(super) struct Syslog {
    facility: u8,
    ident: String,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn new(facility: u8, ident: &str) -> Syslog {
        Syslog { facility, ident: ident.to_owned(), socket: None }
    }

    pub(super) fn send(&mut self, level: &str, peer: &str, message: &str) {
        let packet = self.packet(level, peer, message);
        if self.try_send(&packet, Path::new(SOCKET)).is_err() {
            self.socket = None;
            let _ = self.try_send(&packet, Path::new(SOCKET)); // there is nobody else to tell
        }
    }

    fn try_send(&mut self, packet: &str, path: &Path) -> io::Result<usize> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?; // a logger that does not read must not stop the pooler
                socket
            }
        };
        let sent = socket.send(packet.as_bytes());
        self.socket = Some(socket);
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0), // this line is lost
            sent => sent,
        }
    }

    fn packet(&self, level: &str, peer: &str, message: &str) -> String {
        let severity = match level {
            "FATAL" => 2,
            "ERROR" => 3,
            "WARNING" => 4,
            "LOG" => 6,
            _ => 7,
        };
        let priority = self.facility * 8 + severity;
        let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
        let gap = if peer.is_empty() { "" } else { " " };
        let text = format!("{peer}{gap}{message}");
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        format!("<{priority}>{now} {}[{}]: {}", self.ident, std::process::id(), &text[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_and_are_well_formed() {
        let path = std::env::temp_dir().join(format!("pgferry-syslog-{}", std::process::id()));
        let logger = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(16, "ferry");
        let packet = syslog.packet("WARNING", "C-0x1: a/b@c", "hello");
        syslog.try_send(&packet, &path).unwrap();
        let mut buf = [0; 4096];
        let len = logger.recv(&mut buf).unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = std::str::from_utf8(&buf[..len]).unwrap();
        assert!(text.starts_with("<132>"), "local0, warning: {text}");
        let (stamp, rest) = text.split_at("<132>Nov 30 12:00:00".len());
        assert!(stamp.ends_with(|c: char| c.is_ascii_digit()), "{text}");
        assert_eq!(rest, format!(" ferry[{}]: C-0x1: a/b@c hello", std::process::id()));
        let long = syslog.packet("LOG", "", &"ü".repeat(LONGEST));
        assert!(long.len() < LONGEST + 60);
    }
}
