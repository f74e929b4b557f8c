//! Listening sockets, and handing accepted connections to workers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::config::{Config, Listen, ListenAddr, SocketOptions, UnixListen};
use crate::handover::Inheritance;
use crate::load;
use crate::net::sockopt::{self, Inherited};
use crate::net::{self, Peer, Stream};
use crate::shared::Shared;
use crate::snapshot::Listening;
use crate::worker::{Order, Worker, WorkerHandle};

/// A connection that has been accepted but belongs to no event loop yet.
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

/// The first of the descriptors that clients do not get. The system gives the lowest number that is free: who has this one, or
/// one above it, has come when all below were taken.
fn reserve() -> RawFd {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    RawFd::try_from(most - RESERVED.min(most / 16)).unwrap_or(RawFd::MAX)
}

/// File descriptors that clients leave to connections to servers, cancel requests among them; where there are few in all, a
/// sixteenth.
const RESERVED: u64 = 16;

impl Accepted {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Accepted::Tcp(s) => s.as_fd(),
            Accepted::Unix(s) => s.as_fd(),
        }
    }

    /// Takes it off the event loop that watches it.
    fn from_stream(stream: Stream) -> io::Result<Accepted> {
        match stream {
            Stream::Plain(net::Socket::Tcp(s)) => s.into_std().map(Accepted::Tcp),
            Stream::Plain(net::Socket::Unix(s)) => s.into_std().map(Accepted::Unix),
            Stream::Plain(net::Socket::Closed) | Stream::Tls(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The same connection under the lowest number that is free now, if there is one.
    fn renumber(self) -> Accepted {
        match &self {
            Accepted::Tcp(s) => s.try_clone().map_or(self, Accepted::Tcp),
            Accepted::Unix(s) => s.try_clone().map_or(self, Accepted::Unix),
        }
    }

    /// One that another process has accepted.
    pub(crate) fn of(fd: OwnedFd) -> Option<Accepted> {
        let socket = Socket::from(fd);
        match socket.domain().ok()? {
            Domain::UNIX => Some(Accepted::Unix(socket.into())),
            Domain::IPV4 | Domain::IPV6 => Some(Accepted::Tcp(socket.into())),
            _ => None,
        }
    }

    /// Makes the calling thread's event loop watch it.
    pub(crate) fn into_stream(self) -> Option<Stream> {
        let socket = match self {
            Accepted::Tcp(s) => net::Socket::Tcp(TcpStream::from_std(s).ok()?),
            Accepted::Unix(s) => net::Socket::Unix(UnixStream::from_std(s).ok()?),
        };
        Some(socket.into())
    }
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    /// Another process goes on listening: the socket's file is not removed.
    shared: AtomicBool,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    /// With the file to remove at the end (none for an abstract one).
    Unix(UnixListener, Option<PathBuf>),
}

/// Why nothing can be listened on.
#[derive(Debug)]
pub enum ListenError {
    /// No address is configured.
    Nowhere,
    /// Every TCP address failed.
    NoAddress(String),
    /// The Unix socket could not be made.
    Unix(PathBuf, io::Error),
    /// Another process listens on the Unix socket.
    UnixInUse(PathBuf),
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenError::Nowhere => f.write_str("nowhere to listen on"),
            ListenError::NoAddress(list) => {
                write!(f, "failed to listen on any address in listen_addr list: {list}")
            }
            ListenError::Unix(path, error) => {
                write!(f, "failed to create unix socket {}: {error}", path.display())
            }
            ListenError::UnixInUse(path) => {
                write!(f, "unix socket is in use, cannot continue: {}", path.display())
            }
        }
    }
}

impl std::error::Error for ListenError {}

impl From<Bound> for Listener {
    fn from(socket: Bound) -> Listener {
        Listener { socket, shared: AtomicBool::new(false) }
    }
}

impl Listener {
    pub(crate) fn listening(&self) -> Listening {
        match &self.socket {
            Bound::Tcp(l) => Listening::new(l.as_raw_fd(), l.local_addr().ok().map(Peer::Tcp)),
            Bound::Unix(l, _) => Listening::new(l.as_raw_fd(), None),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Bound::Tcp(l) => l.local_addr().ok().map(|a| a.port()),
            Bound::Unix(..) => None,
        }
    }

    /// The file of a Unix socket.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.socket {
            Bound::Unix(_, path) => path.as_deref(),
            Bound::Tcp(_) => None,
        }
    }

    /// One that another process has bound, with the file of a Unix socket; `None` if it is no listening socket of those
    /// that are used here.
    pub(crate) fn inherited(fd: OwnedFd, path: Option<PathBuf>) -> Option<Listener> {
        let socket = Socket::from(fd);
        socket.set_nonblocking(true).ok()?;
        match socket.domain().ok()? {
            Domain::UNIX => Some(Bound::Unix(socket.into(), path).into()),
            Domain::IPV4 | Domain::IPV6 => Some(Bound::Tcp(socket.into()).into()),
            _ => None,
        }
    }

    /// One that somebody has bound and goes on to own.
    pub fn passed(fd: OwnedFd) -> Option<Listener> {
        Listener::inherited(fd, None)
    }

    /// It is bound to this TCP address.
    fn is_at(&self, address: SocketAddr) -> bool {
        matches!(&self.socket, Bound::Tcp(l) if l.local_addr().is_ok_and(|bound| bound == address))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Bound::Tcp(l) => l.as_fd(),
            Bound::Unix(l, _) => l.as_fd(),
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.socket {
            Bound::Tcp(l) => l.local_addr().map_or(Err(std::fmt::Error), |a| a.fmt(f)),
            Bound::Unix(_, Some(path)) => write!(f, "unix:{}", path.display()),
            Bound::Unix(_, None) => f.write_str("unix:(abstract)"),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Some(path), false) = (self.path(), self.shared.load(Relaxed)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The listening sockets of a running pooler, and what accepts on them: for each a task of one worker, which needs no other
/// thread for the connections that it keeps.
pub(crate) struct Doors {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<(Arc<Listener>, Option<Open>)>>,
}

/// A socket that is accepted on.
struct Open {
    /// Dropped to end it.
    stop: oneshot::Sender<()>,
    /// Fails once it has ended.
    ended: oneshot::Receiver<()>,
}

/// What a worker has to accept on.
pub(crate) struct Door {
    listener: Arc<Listener>,
    stop: oneshot::Receiver<()>,
    /// Dropped when the socket is accepted on no more.
    _open: oneshot::Sender<()>,
}

impl Doors {
    pub(crate) fn new(shared: Arc<Shared>, listeners: Vec<Listener>) -> Doors {
        let listeners = listeners.into_iter().map(|listener| (Arc::new(listener), None)).collect();
        let doors = Doors { shared, listeners: Mutex::new(listeners) };
        doors.open();
        doors
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<Listener>, Option<Open>)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts on all of them.
    pub(crate) fn open(&self) {
        for (index, (listener, open)) in self.lock().iter_mut().enumerate() {
            let (stop, told) = oneshot::channel();
            let (is_open, ended) = oneshot::channel();
            let door = Door { listener: listener.clone(), stop: told, _open: is_open };
            self.shared.order(index % self.shared.worker_count(), Order::Open(door));
            *open = Some(Open { stop, ended });
        }
    }

    /// Accepts no more; connections wait for another process, or until this one accepts again.
    pub(crate) async fn shut(&self) {
        let open: Vec<Open> = self.lock().iter_mut().filter_map(|(_, open)| open.take()).collect();
        end_all(open).await;
    }

    /// Closes the TCP sockets: who connects is refused.
    pub(crate) async fn close_tcp(&self) {
        let (tcp, others) = self.lock().drain(..).partition(|(listener, _)| listener.port().is_some());
        *self.lock() = others;
        let tcp: Vec<_> = tcp;
        end_all(tcp.into_iter().filter_map(|(_, open)| open)).await;
    }

    pub(crate) fn listeners(&self) -> Vec<Arc<Listener>> {
        self.lock().iter().map(|(listener, _)| listener.clone()).collect()
    }

    /// The files of Unix sockets are another process's now, or, false, this one's again.
    pub(crate) fn leave_files(&self, leave: bool) {
        self.lock().iter().for_each(|(listener, _)| listener.shared.store(leave, Relaxed));
    }
}

async fn end_all(open: impl IntoIterator<Item = Open>) {
    for Open { stop, ended } in open {
        drop(stop);
        let _ = ended.await;
    }
}

/// Binds everything that is configured, where another process has not bound it already. One TCP address that fails is a warning as long as another works.
///
/// # Errors
/// Nothing to listen on, or the Unix socket can't be made.
pub fn bind(config: &Config, inherited: Option<&mut Inheritance>) -> Result<Vec<Listener>, ListenError> {
    let Config { listen, socket: options, .. } = config;
    let mut inherited = inherited.map(Inheritance::listeners).unwrap_or_default();
    let mut listeners: Vec<Listener> = Vec::new();
    let mut port = listen.port;
    for listed in &listen.addrs {
        for address in resolve(listed, port) {
            let bound = address.and_then(|address| {
                match inherited.iter().position(|listener| listener.is_at(address)) {
                    Some(at) => Ok(inherited.swap_remove(at)),
                    None => bind_tcp(address, listen, options).map(|socket| Bound::Tcp(socket).into()),
                }
            });
            match bound {
                Ok(listener) => {
                    port = listener.port().unwrap_or(port); // further addresses take the port the kernel chose
                    info!("listening on {listener}");
                    listeners.push(listener);
                }
                Err(error) => warn!("cannot listen on {listed:?}: {error}"),
            }
        }
    }
    if listeners.is_empty() && !listen.addrs.is_empty() {
        return Err(ListenError::NoAddress(format!("{:?}", listen.addrs)));
    }
    if let Some(unix) = &listen.unix {
        let path = unix.dir.join(format!(".s.PGSQL.{port}"));
        let known = inherited.iter().position(|listener| listener.path() == Some(&path));
        listeners.push(match known {
            Some(at) => inherited.swap_remove(at),
            None => bind_unix(unix, port, listen.backlog)?,
        });
        info!("listening on unix:{}", path.display());
    }
    if listeners.is_empty() { Err(ListenError::Nowhere) } else { Ok(listeners) }
}

/// Makes sure that no other process listens on the Unix socket that is configured.
///
/// # Errors
/// One does.
pub fn check_in_use(listen: &Listen) -> Result<(), ListenError> {
    let dir = listen.unix.as_ref().map(|unix| &unix.dir);
    let path = dir.map(|dir| dir.join(format!(".s.PGSQL.{}", listen.port)));
    match path.filter(|path| StdUnixStream::connect(path).is_ok()) {
        Some(path) => Err(ListenError::UnixInUse(path)),
        None => Ok(()),
    }
}

fn resolve(address: &ListenAddr, port: u16) -> Vec<io::Result<SocketAddr>> {
    match address {
        ListenAddr::Ip(ip) => vec![Ok(SocketAddr::new(*ip, port))],
        ListenAddr::Any => [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .map(|ip| Ok(SocketAddr::new(ip, port)))
            .into(),
        ListenAddr::Name(name) => match (name.as_str(), port).to_socket_addrs() {
            Ok(addresses) => addresses.map(Ok).collect(),
            Err(error) => vec![Err(error)],
        },
    }
}

fn bind_tcp(
    address: SocketAddr,
    listen: &Listen,
    options: &SocketOptions,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if listen.reuse_port {
        socket.set_reuse_port(true)?;
    }
    sockopt::bequeath(SockRef::from(&socket), options)?;
    socket.bind(&address.into())?;
    socket.listen(listen.backlog.min(i32::MAX as u32) as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(unix: &UnixListen, port: u16, backlog: u32) -> Result<Listener, ListenError> {
    let path = unix.dir.join(format!(".s.PGSQL.{port}"));
    let failed = |error| ListenError::Unix(path.clone(), error);
    let is_abstract = unix.dir.to_str().is_some_and(|d| d.starts_with('@'));
    let address = match (is_abstract, path.to_str()) {
        (true, Some(name)) => socket2::SockAddr::unix(format!("\0{}", &name[1..])),
        _ => socket2::SockAddr::unix(&path),
    };
    let address = address.map_err(failed)?;
    if !is_abstract {
        if StdUnixStream::connect(&path).is_ok() {
            return Err(ListenError::UnixInUse(path));
        }
        let _ = std::fs::remove_file(&path); // left by a process that was killed
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.bind(&address).map_err(failed)?;
    if !is_abstract {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(unix.mode)).map_err(failed)?;
        if let Some(group) = &unix.group {
            let gid = group_id(group).map_err(failed)?;
            std::os::unix::fs::chown(&path, None, Some(gid)).map_err(failed)?;
        }
    }
    socket.listen(backlog.min(i32::MAX as u32) as i32).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(Bound::Unix(socket.into(), (!is_abstract).then_some(path)).into())
}

/// Number of a group, given by number or by name.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = nix::unistd::Group::from_name(group)?;
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("unknown group {group:?}"));
    found.map(|g| g.gid.as_raw()).ok_or_else(unknown)
}

/// Accepts connections and gives each to its worker, until it is told to stop.
pub(crate) async fn accept(worker: Rc<Worker>, mut door: Door) {
    let accepting = accept_all(&worker, door.listener.clone());
    tokio::select! {
        biased;
        _ = &mut door.stop => {}
        () = accepting => {}
    }
}

async fn accept_all(worker: &Rc<Worker>, listener: Arc<Listener>) {
    let shared = &worker.shared;
    let acceptor = match Acceptor::new(&listener) {
        Ok(acceptor) => acceptor,
        Err(error) => return warn!("cannot watch {listener}: {error}"),
    };
    let mut last_complaint: Option<tokio::time::Instant> = None;
    let mut pause = async |error: io::Error| {
        if last_complaint.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            warn!("cannot accept a connection on {listener}: {error}");
            last_complaint = Some(tokio::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut suspended = shared.suspended.subscribe();
    loop {
        let _ = suspended.wait_for(|suspended| !suspended).await;
        let accepted = tokio::select! {
            biased;
            _ = suspended.wait_for(|suspended| *suspended) => continue,
            accepted = acceptor.accept(shared) => accepted,
        };
        let assigned = match accepted {
            Ok((stream, remote)) if stream.fd_number() < reserve() => assign(worker, stream, remote),
            Ok((stream, remote)) => match Accepted::from_stream(stream) {
                Ok(mut accepted) => {
                    while accepted.fd().as_raw_fd() >= reserve() {
                        pause(Errno::EMFILE.into()).await;
                        accepted = accepted.renumber();
                    }
                    accepted.into_stream().map_or(Ok(()), |stream| assign(worker, stream, remote))
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // Out of descriptors, most likely: connections wait in the backlog until some are closed.
        if let Err(error) = assigned {
            pause(error).await;
        }
    }
}

/// Gives a connection to its worker. It is counted before that one has seen it, so that a burst is spread.
fn assign(here: &Rc<Worker>, stream: Stream, remote: Peer) -> io::Result<()> {
    let workers = here.shared.workers.get().map_or(&[][..], Vec::as_slice);
    let carried = workers.iter().map(WorkerHandle::load);
    let chosen = load::choose(carried, here.index, here.load.may_be_ahead());
    match workers.get(chosen) {
        Some(worker) if chosen != here.index => worker.accept(Accepted::from_stream(stream)?, remote),
        _ => here.accept(stream, remote),
    }
    Ok(())
}

/// A listening socket, watched by the event loop of the thread that accepts.
enum Acceptor {
    Tcp(tokio::net::TcpListener, Inherited),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    fn new(listener: &Listener) -> io::Result<Acceptor> {
        Ok(match &listener.socket {
            Bound::Tcp(l) => {
                let inherited = Inherited::from_listener(SockRef::from(l))?;
                Acceptor::Tcp(tokio::net::TcpListener::from_std(l.try_clone()?)?, inherited)
            }
            Bound::Unix(l, _) => Acceptor::Unix(tokio::net::UnixListener::from_std(l.try_clone()?)?),
        })
    }

    /// The next connection, watched by this thread's event loop, and who is at its other end.
    async fn accept(&self, shared: &Shared) -> io::Result<(Stream, Peer)> {
        match self {
            Acceptor::Tcp(l, inherited) => {
                let (stream, remote) = l.accept().await?;
                // A connection that was reset meanwhile takes no options; its worker will find out.
                let options = &shared.config.load().socket;
                let _ = sockopt::apply(SockRef::from(&stream), options, *inherited);
                Ok((net::Socket::Tcp(stream).into(), Peer::Tcp(remote)))
            }
            Acceptor::Unix(l) => {
                let stream: Stream = net::Socket::Unix(l.accept().await?.0).into();
                let remote = stream.remote();
                Ok((stream, remote))
            }
        }
    }
}
