//! `pgferry ping ADDRESS`: does a pooler answer there? For health checks where no other program is at hand, as in a
//! container.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For connecting, and again for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// `SSLRequest`: its length, then its code. It is answered at once by a single byte, before anything is counted or logged,
/// whatever database and users there are.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Asks whoever listens at `HOST:PORT`, or at the Unix socket with this path.
///
/// # Errors
/// Nobody answers as a PostgreSQL server or a pooler would.
pub fn run(address: &str) -> io::Result<()> {
    if address.starts_with('/') {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        ask(stream)
    } else {
        let stream = connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        ask(stream)
    }
}

/// A name may have several addresses, of which not all need to be listened on.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    for address in address.to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, PATIENCE);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn ask(mut stream: impl Read + Write) -> io::Result<()> {
    let mut answer = [0];
    stream.write_all(&SSL_REQUEST)?;
    stream.read_exact(&mut answer)?;
    match &answer {
        b"N" | b"S" => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "it does not speak PostgreSQL's protocol")),
    }
}
