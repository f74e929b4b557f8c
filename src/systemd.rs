//! What systemd is told (`sd_notify`) and what it gives (`LISTEN_FDS`).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;
use nix::time::{ClockId, clock_gettime};
use pooler::Listener;
use tracing::warn;

/// The way to systemd, if it has started this process and wants to hear from it.
#[derive(Debug)]
pub struct Systemd(Option<(UnixDatagram, SocketAddr)>);

impl Systemd {
    /// By `NOTIFY_SOCKET`.
    pub fn from_env() -> Systemd {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Systemd(None);
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&name),
        };
        let way = address.and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        Systemd(way.inspect_err(|error| warn!("cannot notify systemd at {name:?}: {error}")).ok())
    }

    /// It serves, after its start or a reload.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// It reads its configuration again; [`ready`](Self::ready) follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// It has been told to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.tell(&format!("STATUS={line}"));
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            let _ = socket.send_to_addr(state.as_bytes(), address); // systemd does without
        }
    }
}

/// The sockets that systemd listens on for this process (`LISTEN_FDS`), all that were passed.
///
/// # Errors
/// One of them is no listening stream socket.
pub fn passed_listeners() -> io::Result<Vec<Listener>> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let fd = match passed.take_tcp_listener(index) {
            Ok(listener) => listener.map(Into::into),
            Err(_) => passed.take_unix_listener(index)?.map(Into::into),
        };
        if let Some(fd) = fd {
            let listener = Listener::passed(fd);
            listeners.push(listener.ok_or(io::ErrorKind::InvalidInput)?);
        }
    }
    Ok(listeners)
}
