//! From running to stopped.

/// Where the process stands. Phases only move forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new clients; those connected work on until they leave (`SHUTDOWN WAIT_FOR_CLIENTS`, SIGTERM).
    WaitForClients,
    /// No new clients; connected ones end when they need a server (`SHUTDOWN WAIT_FOR_SERVERS`, SIGINT).
    WaitForServers,
    /// Over: everything is dropped.
    Stopped,
}

impl Phase {
    /// The phase that is `number` when cast.
    pub(crate) fn from_number(number: u8) -> Phase {
        match number {
            0 => Phase::Running,
            1 => Phase::WaitForClients,
            2 => Phase::WaitForServers,
            _ => Phase::Stopped,
        }
    }
}
