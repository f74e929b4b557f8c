//! The yardstick: a program that only reads and writes. One thread, one epoll, one server connection a client, opened
//! when the client is accepted; bytes pass both ways and nobody looks at them. A pooler can hardly cost less with the
//! same system calls.
//!
//! Edge-triggered, because that costs less: every socket is registered once, and a socket that was served is not
//! looked at again by the next `epoll_wait`. A read that does not fill the buffer has emptied the socket (epoll(7)), so
//! a transaction takes two reads and two writes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

/// Relays between a new port of 127.0.0.1, printed as one line on standard output, and `server`, until standard input
/// ends: when the process that started this one ends in whatever way, so does this one.
pub(crate) fn run(server: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN))?;
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    Relay { epoll, listener, server, pairs: Slab::new(), buffer: vec![0; 64 * 1024] }.serve()
}

struct Relay {
    epoll: Epoll,
    listener: TcpListener,
    server: SocketAddr,
    pairs: Slab<[End; 2]>,
    buffer: Vec<u8>,
}

/// One socket of a pair, client or server.
struct End {
    socket: TcpStream,
    /// What this socket would not take. While there is any, its partner is not read.
    unsent: Vec<u8>,
}

impl Relay {
    fn serve(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 512];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    STDIN => return Ok(()),
                    LISTENER => self.accept()?,
                    end => self.serve_end(end as usize / 2, end as usize % 2, event.events()),
                }
            }
        }
    }

    /// The listener is level-triggered: one client a turn is enough.
    fn accept(&mut self) -> io::Result<()> {
        let client = match self.listener.accept() {
            Ok((client, _)) => client,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let server = TcpStream::connect(self.server)?;
        let entry = self.pairs.vacant_entry();
        let key = entry.key() as u64;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        for (side, socket) in [&client, &server].into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            self.epoll.add(socket, EpollEvent::new(flags, key * 2 + side as u64))?;
        }
        entry.insert([client, server].map(|socket| End { socket, unsent: Vec::new() }));
        Ok(())
    }

    /// Serves one socket; when either is at its end, both are closed, which also takes them out of the epoll.
    fn serve_end(&mut self, key: usize, side: usize, flags: EpollFlags) {
        // An event of this very turn may belong to a pair that an earlier event closed.
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let closing = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let (from, to) = ends(pair, side);
        let served = from.drain().and_then(|resumed| {
            if resumed {
                to.forward(from, &mut self.buffer, true)?;
            }
            if flags.intersects(closing | EpollFlags::EPOLLIN) {
                from.forward(to, &mut self.buffer, flags.intersects(closing))?;
            }
            Ok(())
        });
        if served.is_err() {
            self.pairs.remove(key);
        }
    }
}

impl End {
    /// Sends what was left. `true`: that was something, and nothing is left.
    fn drain(&mut self) -> io::Result<bool> {
        if self.unsent.is_empty() {
            return Ok(false);
        }
        let sent = send(&self.socket, &self.unsent)?;
        self.unsent.drain(..sent);
        Ok(self.unsent.is_empty())
    }

    /// Passes on what has arrived here. `to_end`: read until the socket says that nothing is left, since an end or what
    /// came while this socket was not read gives no further event.
    fn forward(&self, to: &mut End, buffer: &mut [u8], to_end: bool) -> io::Result<()> {
        while to.unsent.is_empty() {
            let count = match (&self.socket).read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let sent = send(&to.socket, &buffer[..count])?;
            to.unsent.extend(&buffer[sent..count]);
            if count < buffer.len() && !to_end {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Writes as much as the socket takes at once.
fn send(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// The end of `side` and its partner.
fn ends(pair: &mut [End; 2], side: usize) -> (&mut End, &mut End) {
    let [client, server] = pair;
    if side == 0 { (client, server) } else { (server, client) }
}

const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;
