//! Asking LDAP servers whether a password is right.
//!
//! A check is a task of the client's worker that only ever waits; what would block (a look-up of a name, reading
//! certificates) is done on threads beside the workers. Each group of servers has its own bound of checks, so that
//! servers that do not answer delay the logins that need them and no others.

mod trust;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::ldap::{self, Failure, Login, Step, bind_name};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::config::{LdapLookup, LdapOptions, LdapSecurity, LdapServer};
use crate::pool::lock;
use crate::shared::Shared;

/// Time to reach a server, its TLS included. As PgBouncer has it.
const CONNECT: Duration = Duration::from_secs(3);

/// Time for everything that is asked of one server.
const CONVERSATION: Duration = Duration::from_secs(5);

/// A server that could not be used is asked after the others for this long, in microseconds.
const SHUNNED: u64 = 10_000_000;

/// Checks at a time for each group of servers.
const AT_ONCE: usize = 32;

/// Checks that wait for their turn.
const MOST_WAITING: usize = 1024;

/// The groups of servers that were asked.
#[derive(Default)]
pub(crate) struct Directories {
    groups: Mutex<HashMap<Key, Arc<Group>>>,
    trust: trust::Trust,
}

type Key = (Vec<LdapServer>, LdapSecurity);

struct Group {
    turns: Semaphore,
    waiting: AtomicUsize,
    /// Until when each server is shunned.
    shunned: Box<[AtomicU64]>,
}

/// Why a password was not found to be right; for the log, there is no password in it.
#[derive(Debug)]
pub(crate) enum NotProven {
    /// A server's word.
    Failure(LdapServer, Failure),
    /// No server has answered; what was wrong with the last.
    Nobody(LdapServer, String),
    /// Too many checks wait.
    Crowded,
    /// No entry can have this name, or there is no password.
    Unusable,
}

impl fmt::Display for NotProven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotProven::Failure(server, failure) => write!(f, "{failure}, says {server}"),
            NotProven::Nobody(server, why) => write!(f, "no LDAP server can be asked; {server}: {why}"),
            NotProven::Crowded => f.write_str("too many logins wait for the LDAP server"),
            NotProven::Unusable => f.write_str("there can be no entry of that name"),
        }
    }
}

/// What went wrong at one server.
enum Trouble {
    /// Another one may do better.
    Here(String),
    /// It has decided.
    Decided(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Here(error.to_string())
    }
}

impl Directories {
    /// Those that nobody has asked of late are forgotten when a new one comes: a reload may have changed them.
    fn group(&self, options: &LdapOptions) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        let key = (options.servers.clone(), options.security);
        if let Some(group) = groups.get(&key) {
            return group.clone();
        }
        groups.retain(|_, group| Arc::strong_count(group) > 1);
        let group = Arc::new(Group {
            turns: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
            shunned: options.servers.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        groups.insert(key, group.clone());
        group
    }
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Group {
    /// Waits for a turn; the time is bounded by the login's.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, NotProven> {
        let before = self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MOST_WAITING {
            return Err(NotProven::Crowded);
        }
        self.turns.acquire().await.map_err(|_| NotProven::Crowded)
    }

    /// The numbers of the servers: in their order, the shunned ones last.
    fn order(&self, now: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shunned.len()).collect();
        order.sort_by_key(|i| self.shunned[*i].load(Relaxed) > now); // which keeps the order of equals
        order
    }
}

impl Shared {
    /// Whether a user's password is right. Cancel-safe: what is dropped closes its connection.
    pub(crate) async fn ask_ldap(
        &self,
        options: &LdapOptions,
        user: &str,
        password: &str,
    ) -> Result<(), NotProven> {
        let login = || new_login(options, user, password).ok_or(NotProven::Unusable);
        login()?;
        let group = self.ldap.group(options);
        let _turn = group.turn().await?;
        let mut last = None;
        for i in group.order(self.clock.micros()) {
            let server = &options.servers[i];
            match self.ask_server(options, server, login()?).await {
                Ok(()) => {
                    group.shunned[i].store(0, Relaxed);
                    return Ok(());
                }
                Err(Trouble::Decided(failure)) => return Err(NotProven::Failure(server.clone(), failure)),
                Err(Trouble::Here(why)) => {
                    group.shunned[i].store(self.clock.micros() + SHUNNED, Relaxed);
                    last = Some(NotProven::Nobody(server.clone(), why));
                }
            }
        }
        Err(last.unwrap_or(NotProven::Unusable))
    }

    async fn ask_server(
        &self,
        options: &LdapOptions,
        server: &LdapServer,
        login: Login,
    ) -> Result<(), Trouble> {
        let too_slow =
            |what: &str, limit: Duration| Trouble::Here(format!("{what} for {} s", limit.as_secs()));
        let reached = timeout(CONNECT, self.reach(options, server)).await;
        let (stream, tls) = reached.map_err(|_| too_slow("it could not be reached", CONNECT))??;
        let conversation = converse(stream, tls, server, login);
        timeout(CONVERSATION, conversation).await.map_err(|_| too_slow("no answer", CONVERSATION))?
    }

    /// A connection, with TLS if that comes first; and what StartTLS would need.
    async fn reach(
        &self,
        options: &LdapOptions,
        server: &LdapServer,
    ) -> Result<(Box<dyn Duplex>, Option<TlsConnector>), Trouble> {
        let tls = match options.security {
            LdapSecurity::None => None,
            _ => Some(self.ldap.trust.connector(options.ca_file.as_deref()).await.map_err(Trouble::Here)?),
        };
        let addresses = self.addresses(&server.host, server.port).await;
        let addresses = addresses.map_err(|_| Trouble::Here("its name is not known".to_owned()))?;
        let stream = TcpStream::connect(&*addresses).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Duplex> = match &tls {
            Some(connector) if options.security == LdapSecurity::Tls => {
                secure(connector, server, Box::new(stream)).await?
            }
            _ => Box::new(stream),
        };
        Ok((stream, tls))
    }
}

fn new_login(options: &LdapOptions, user: &str, password: &str) -> Option<Login> {
    let name = match &options.lookup {
        LdapLookup::Bind { prefix, suffix } => Ok(bind_name(prefix, user, suffix)?),
        LdapLookup::Search(search) => Err(search.clone()),
    };
    let start_tls = options.security == LdapSecurity::StartTls;
    Login::new(start_tls, name, user, Zeroizing::new(password.to_owned()))
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

async fn secure(
    connector: &TlsConnector,
    server: &LdapServer,
    stream: Box<dyn Duplex>,
) -> Result<Box<dyn Duplex>, Trouble> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| Trouble::Here("no certificate can have its name".to_owned()))?;
    let secured = connector.connect(name, stream).await;
    Ok(Box::new(secured.map_err(|error| Trouble::Here(format!("TLS: {error}")))?))
}

async fn converse(
    mut stream: Box<dyn Duplex>,
    mut tls: Option<TlsConnector>,
    server: &LdapServer,
    mut login: Login,
) -> Result<(), Trouble> {
    let mut step = login.begin();
    let mut input = Vec::new();
    loop {
        match step {
            Step::Send(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Step::Wait => {}
            Step::StartTls => {
                // What came in the clear is never taken for protected.
                let (true, Some(connector)) = (input.is_empty(), tls.take()) else {
                    return Err(Trouble::Here("it sends on before TLS".to_owned()));
                };
                stream = secure(&connector, server, stream).await?;
                step = login.begin();
                continue;
            }
            Step::Accepted => {
                // It is told out of courtesy; the answer is there already.
                let _ = stream.write_all(&login.end()).await;
                let _ = stream.shutdown().await;
                return Ok(());
            }
        }
        let frame = read_frame(&mut stream, &mut input).await?;
        step = login.receive(&frame).map_err(|failure| match failure.is_of_this_server() {
            true => Trouble::Here(failure.to_string()),
            false => Trouble::Decided(failure),
        })?;
    }
}

async fn read_frame(stream: &mut Box<dyn Duplex>, input: &mut Vec<u8>) -> Result<Vec<u8>, Trouble> {
    loop {
        let framed = ldap::frame(input).map_err(|malformed| Trouble::Here(malformed.to_string()))?;
        if let Some(len) = framed {
            return Ok(input.drain(..len).collect());
        }
        let mut some = [0; 2048];
        match stream.read(&mut some).await? {
            0 => return Err(Trouble::Here("it has closed the connection".to_owned())),
            n => input.extend_from_slice(&some[..n]),
        }
    }
}
