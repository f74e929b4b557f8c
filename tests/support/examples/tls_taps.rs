//! Certificates for the drivers' logins, and taps that say how a driver has logged in.
//!
//! `tls_taps DIR` writes `ca.crt`, `stranger.crt` (another authority), `server.crt` and `server.key` (for `localhost`) to
//! DIR and prints `ready`. Then each line `PORT` of standard input opens a tap before that port of the loopback
//! interface, whose own port is printed. A tap ends TLS with the server's own certificate, so that channel binding holds
//! through it, and appends a line for each login to `DIR/logins`: how TLS began, its version, what ALPN chose, the SASL
//! mechanism and the first letter of the GS2 header.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test's program")]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use pgferry_test_support::frontend;
use pgferry_test_support::peer::{Address, Stream};
use pgferry_test_support::pki::{Authority, Identity};
use pgferry_test_support::tls::{ClientTls, ServerTls};

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("usage: tls_taps DIR"));
    let authority = Authority::new("drivers");
    let server = authority.server(&["localhost"]);
    write_files(&dir, &authority, &server);
    println!("ready");
    for line in io::stdin().lock().lines() {
        let port = line.expect("a line").trim().parse().expect("a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        let tap = Tap {
            to: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            client: ClientTls::new(&authority),
            server: ServerTls::new(&server),
            log: dir.join("logins"),
        };
        thread::spawn(move || tap.run(&listener));
    }
}

fn write_files(dir: &Path, authority: &Authority, server: &Identity) {
    let stranger = Authority::new("stranger").pem();
    for (name, text) in [
        ("ca.crt", &authority.pem()),
        ("stranger.crt", &stranger),
        ("server.crt", &server.cert),
        ("server.key", &server.key),
    ] {
        File::create(dir.join(name)).and_then(|mut file| file.write_all(text.as_bytes())).expect(name);
    }
}

struct Tap {
    to: Address,
    client: ClientTls,
    server: ServerTls,
    log: PathBuf,
}

impl Tap {
    fn run(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for socket in listener.incoming() {
                let socket = socket.expect("a connection");
                scope.spawn(move || {
                    // A driver that breaks off is seen by the driver's own outcome.
                    let _ = self.serve(socket);
                });
            }
        });
    }

    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        let mut first = [0];
        socket.peek(&mut first)?;
        let direct = first == [0x16];
        let socket = Stream::Tcp(socket);
        let mut near = if direct { self.server.handshake(socket)? } else { self.server.accept(socket)? };
        let mut far = self.client.connect(&self.to)?;
        for stream in [&near, &far] {
            stream.set_read_timeout(Duration::from_millis(2))?;
        }
        let mut login = Login { bytes: Vec::new(), told: false };
        loop {
            let sent = pass(&mut near, &mut far)?;
            if let Some(mechanism) = login.heard(&sent) {
                let began = if direct { "direct" } else { "SSLRequest" };
                writeln!(
                    OpenOptions::new().create(true).append(true).open(&self.log)?,
                    "{began} {} {mechanism}",
                    describe(&near)
                )?;
            }
            pass(&mut far, &mut near)?;
        }
    }
}

/// What has arrived within the read's time limit, passed on.
fn pass(from: &mut Stream, to: &mut Stream) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 16 << 10];
    match from.read(&mut buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            buffer.truncate(length);
            to.write_all(&buffer)?;
            Ok(buffer)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn describe(stream: &Stream) -> String {
    let session = stream.tls().expect("TLS").connection();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("-");
    let alpn = session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy);
    format!("{version} {alpn}")
}

/// What a client has said until its SASLInitialResponse.
struct Login {
    bytes: Vec<u8>,
    told: bool,
}

impl Login {
    /// Mechanism and GS2 flag, once.
    fn heard(&mut self, bytes: &[u8]) -> Option<String> {
        if self.told {
            return None;
        }
        self.bytes.extend(bytes);
        let startup = self.bytes.get(..4)?.try_into().map(u32::from_be_bytes).ok()? as usize;
        let answer = self.bytes.get(startup..)?;
        let body = answer.get(5..)?;
        let end = body.iter().position(|byte| *byte == 0)?;
        let flag = *body.get(end + 5)? as char; // behind the length of the data
        self.told = true;
        assert_eq!(answer[0], frontend::password("")[0], "not an answer to a challenge");
        Some(format!("{} {flag}", String::from_utf8_lossy(&body[..end])))
    }
}
