//! Who is at an end of a connection.

use std::fmt;
use std::net::SocketAddr;

/// One end of a connection, for the console and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket, with the peer's process id where the kernel tells.
    Unix {
        /// Process id.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The address as the console shows it: the IP, or `unix`.
    pub fn host(&self) -> String {
        match self {
            Peer::Tcp(addr) => addr.ip().to_string(),
            Peer::Unix { .. } => "unix".to_owned(),
        }
    }

    /// How the log writes the address of a client that has come to this port.
    pub(crate) fn label(&self, port: u16) -> String {
        match self {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix { .. } => format!("{self}:{port}"),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Peer::Tcp(addr) => Some(addr.port()),
            Peer::Unix { .. } => None,
        }
    }

    /// Process id behind a Unix socket.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Peer::Tcp(_) => None,
            Peer::Unix { pid } => *pid,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Unix { pid: Some(pid) } => write!(f, "unix({pid})"),
            Peer::Unix { pid: None } => f.write_str("unix"),
        }
    }
}
