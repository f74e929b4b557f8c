//! What the kernel knows about a process (Linux `/proc`).

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Resident memory in bytes. `None`: no such process.
pub fn rss(pid: u32) -> Option<u64> {
    status_field(pid, "VmRSS:").map(|kib| kib * 1024)
}

/// Threads of the process.
pub fn threads(pid: u32) -> Option<u64> {
    status_field(pid, "Threads:")
}

/// Processor time (user + system) used so far, in steps of one clock tick (10 ms).
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold blanks.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Open file descriptors of the process.
pub fn open_files(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Bytes that a TCP socket of this machine has received and its process has not read; `None` if there is no such open
/// connection any more. `local` is the socket's own address, `remote` the other end's.
pub fn unread(local: SocketAddr, remote: SocketAddr) -> Option<usize> {
    const ESTABLISHED: &str = "01";
    let (local, remote) = (kernel_form(local)?, kernel_form(remote)?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    // Each line: number, local address, remote address, state, send queue ":" receive queue, ...
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.len() > 4 && line[1] == local && line[2] == remote)?;
    (line[3] == ESTABLISHED).then(|| usize::from_str_radix(line[4].split_once(':')?.1, 16).ok())?
}

/// An IPv4 address as `/proc/net/tcp` writes it: the address in the machine's byte order, the port as a number.
fn kernel_form(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(v4) => Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())),
        SocketAddr::V6(_) => None,
    }
}

fn status_field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wait::holds_within;

    #[test]
    fn knows_this_process() {
        let pid = std::process::id();
        assert!(rss(pid).unwrap() > 100_000);
        assert!(threads(pid).unwrap() >= 1);
        assert!(open_files(pid).unwrap() >= 3);
        assert!(cpu_time(pid).is_some());
    }

    #[test]
    fn knows_what_a_socket_has_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let unread = || unread(server.local_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(unread(), Some(0));
        (&client).write_all(b"seven..").unwrap();
        assert!(holds_within(Duration::from_secs(5), || unread() == Some(7)));
        (&server).read_exact(&mut [0; 7]).unwrap();
        assert_eq!(unread(), Some(0));
    }
}
