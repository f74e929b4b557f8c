//! A tap between two peers, such as a pooler and a real PostgreSQL: it forwards bytes, keeps a copy, and can hold back,
//! delay, freeze and cut.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::peer::{Address, Stream};
use crate::wait::Gate;

/// How often a forwarding thread that waits for bytes looks whether it should end.
const TICK: Duration = Duration::from_millis(10);
/// Bytes kept a direction; what follows is forwarded and counted only.
const KEPT: usize = 16 << 20;

/// What is done to a connection; the default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Connects to the server, and forwards, only when this gate is open.
    pub hold: Option<Gate>,
    /// Waits this long before each piece towards the server.
    pub delay_to_server: Duration,
    /// Waits this long before each piece towards the client.
    pub delay_to_client: Duration,
    /// Cuts the connection after this many bytes towards the server.
    pub cut_to_server: Option<usize>,
    /// Cuts the connection after this many bytes towards the client.
    pub cut_to_client: Option<usize>,
}

/// The beginning of a connection, for choosing its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its number, from 0.
    pub number: usize,
    /// Its first packet is a CancelRequest.
    pub is_cancel: bool,
}

type Chooser = Box<dyn Fn(Opening) -> Rule + Send + Sync>;

/// The tap. Dropping it cuts all its connections.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: Address,
    chooser: Chooser,
    stopping: AtomicBool,
    links: Mutex<Vec<Link>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}", self.upstream)
    }
}

impl Tap {
    /// A tap in front of `upstream` that only listens in.
    pub fn start(upstream: Address) -> Tap {
        Tap::with_rules(upstream, |_| Rule::default())
    }

    /// A tap that asks for the rule of each connection when its first packet has come.
    pub fn with_rules(upstream: Address, chooser: impl Fn(Opening) -> Rule + Send + Sync + 'static) -> Tap {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared {
            upstream,
            chooser: Box::new(chooser),
            stopping: AtomicBool::new(false),
            links: Mutex::new(Vec::new()),
        });
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Tap { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All connections so far that sent a first packet.
    pub fn links(&self) -> Vec<Link> {
        self.shared.links.lock().unwrap().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address); // wakes the accepting thread
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.links().iter().for_each(Link::cut);
    }
}

/// A connection through the tap.
#[derive(Debug, Clone)]
pub struct Link {
    /// How it began.
    pub opening: Opening,
    state: Arc<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    to_server: Direction,
    to_client: Direction,
    cut: AtomicBool,
    reset: AtomicBool,
}

#[derive(Debug, Default)]
struct Direction {
    kept: Mutex<Vec<u8>>,
    frozen: AtomicBool,
    ended: AtomicBool,
}

impl Link {
    /// What was forwarded to the server, the first packet included.
    pub fn to_server(&self) -> Vec<u8> {
        self.state.to_server.kept.lock().unwrap().clone()
    }

    /// What was forwarded to the client.
    pub fn to_client(&self) -> Vec<u8> {
        self.state.to_client.kept.lock().unwrap().clone()
    }

    /// Forwards nothing more, in either direction, until [`Link::thaw`]; the connection stays open.
    pub fn freeze(&self) {
        self.freeze_to_server();
        self.freeze_to_client();
    }

    /// Forwards nothing more to the server.
    pub fn freeze_to_server(&self) {
        self.state.to_server.frozen.store(true, Ordering::Relaxed);
    }

    /// Forwards nothing more to the client.
    pub fn freeze_to_client(&self) {
        self.state.to_client.frozen.store(true, Ordering::Relaxed);
    }

    /// Goes on with both directions.
    pub fn thaw(&self) {
        self.state.to_server.frozen.store(false, Ordering::Relaxed);
        self.state.to_client.frozen.store(false, Ordering::Relaxed);
    }

    /// Ends the connection in order at both ends, whatever was still under way.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// Ends the connection with a TCP reset at both ends.
    pub fn reset(&self) {
        self.state.reset.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// Whether both directions have ended.
    pub fn is_over(&self) -> bool {
        let ended = |direction: &Direction| direction.ended.load(Ordering::Relaxed);
        ended(&self.state.to_server) && ended(&self.state.to_client)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = shared.clone();
        thread::spawn(move || {
            // An end that breaks shows at the other end.
            let _ = connect(Stream::Tcp(stream), &shared);
        });
    }
}

fn connect(mut client: Stream, shared: &Shared) -> io::Result<()> {
    const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();
    client.prepare()?;
    let mut first = [0; 8];
    client.read_exact(&mut first)?;
    let (rule, link) = {
        let mut links = shared.links.lock().unwrap();
        let opening = Opening { number: links.len(), is_cancel: first[4..] == CANCEL };
        let link = Link { opening, state: Arc::default() };
        links.push(link.clone());
        drop(links);
        ((shared.chooser)(opening), link)
    };
    if let Some(gate) = &rule.hold {
        gate.pass();
    }
    let server = shared.upstream.connect()?;
    let upward = Pump {
        from: client.try_clone()?,
        to: server.try_clone()?,
        delay: rule.delay_to_server,
        cut_after: rule.cut_to_server,
        forwarded: 0,
    };
    let downward = Pump {
        from: server,
        to: client,
        delay: rule.delay_to_client,
        cut_after: rule.cut_to_client,
        forwarded: 0,
    };
    let state = link.state.clone();
    thread::spawn(move || upward.run(&first, &link.state, &link.state.to_server));
    downward.run(&[], &state, &state.to_client);
    Ok(())
}

/// One direction of a connection.
struct Pump {
    from: Stream,
    to: Stream,
    delay: Duration,
    cut_after: Option<usize>,
    forwarded: usize,
}

impl Pump {
    fn run(mut self, first: &[u8], link: &LinkState, direction: &Direction) {
        if self.copy(first, link, direction).is_err() {
            link.cut.store(true, Ordering::Relaxed);
        }
        if link.reset.load(Ordering::Relaxed) {
            let _ = self.from.reset_on_close();
            let _ = self.to.reset_on_close();
        } else if link.cut.load(Ordering::Relaxed) {
            let _ = self.from.shutdown(Shutdown::Both);
            let _ = self.to.shutdown(Shutdown::Both);
        }
        direction.ended.store(true, Ordering::Relaxed);
    }

    /// Forwards until the end of `from`, which is passed on, or until the link is cut.
    fn copy(&mut self, first: &[u8], link: &LinkState, direction: &Direction) -> io::Result<()> {
        self.from.set_read_timeout(TICK)?;
        self.forward(first, link, direction)?;
        let mut buffer = vec![0; 64 * 1024];
        while !link.cut.load(Ordering::Relaxed) {
            match self.from.read(&mut buffer) {
                Ok(0) => return self.to.shutdown(Shutdown::Write),
                Ok(count) => self.forward(&buffer[..count], link, direction)?,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn forward(&mut self, bytes: &[u8], link: &LinkState, direction: &Direction) -> io::Result<()> {
        thread::sleep(self.delay);
        while direction.frozen.load(Ordering::Relaxed) && !link.cut.load(Ordering::Relaxed) {
            thread::sleep(TICK / 5);
        }
        if link.cut.load(Ordering::Relaxed) {
            return Ok(()); // what was held back is lost
        }
        let allowed = self.cut_after.map_or(bytes.len(), |limit| bytes.len().min(limit - self.forwarded));
        self.forwarded += allowed;
        // First, so that who has an answer finds what was asked.
        let mut kept = direction.kept.lock().unwrap();
        let room = allowed.min(KEPT.saturating_sub(kept.len()));
        kept.extend(&bytes[..room]);
        drop(kept);
        self.to.write_all(&bytes[..allowed])?;
        if self.cut_after == Some(self.forwarded) {
            link.cut.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
