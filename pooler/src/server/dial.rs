//! Reaching a server: the socket, and TLS over it where it is wanted.

use std::net::IpAddr;
use std::path::Path;

use protocol::startup;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::connect::{ConnectError, unreachable};
use crate::config::{Host, Negotiation, SslMode};
use crate::net::sockopt::{self, Inherited};
use crate::net::{self, Peer, Socket, Stream};
use crate::shared::Shared;
use crate::tls::{Dialling, ServerTls};

/// Connects, and begins TLS as `tls` says. Every connection that the pooler opens begins here, or with [`dial_again`].
pub(crate) async fn dial(
    shared: &Shared,
    host: &Host,
    port: u16,
    tls: &ServerTls,
) -> Result<Stream, ConnectError> {
    open(shared, host, host, port, tls).await
}

/// As [`dial`], to the address at which a server was reached by its name.
pub(crate) async fn dial_again(
    shared: &Shared,
    (host, remote): (&Host, Peer),
    port: u16,
    tls: &ServerTls,
) -> Result<Stream, ConnectError> {
    match remote {
        Peer::Tcp(address) => open(shared, &Host::Tcp(address.ip().to_string()), host, port, tls).await,
        Peer::Unix { .. } => open(shared, host, host, port, tls).await,
    }
}

/// `name` is what the server's certificate must be for.
async fn open(
    shared: &Shared,
    at: &Host,
    name: &Host,
    port: u16,
    tls: &ServerTls,
) -> Result<Stream, ConnectError> {
    let socket = reach(shared, at, port).await?;
    let Host::Tcp(name) = name else { return Ok(socket.into()) };
    let dialling = match tls.dialling() {
        Some(dialling) => dialling,
        None if tls.mode() == SslMode::Disable => return Ok(socket.into()),
        None => return Err(ConnectError::Insecure("the settings of TLS can't be used".to_owned())),
    };
    match secure(socket, name, tls, &dialling).await {
        // As with libpq: who may do without goes on without, whatever went wrong.
        Err(Insecure::Handshake(error)) if !tls.mode().is_mandatory() => {
            tracing::warn!("TLS handshake with {name}:{port} failed, going on without: {error}");
            Ok(reach(shared, at, port).await?.into())
        }
        Err(Insecure::Handshake(error)) => {
            Err(ConnectError::Insecure(format!("TLS handshake failed: {error}")))
        }
        Err(Insecure::Other(error)) => Err(error),
        Ok(stream) => Ok(stream),
    }
}

/// Connects the socket: each address of a name in turn.
pub(crate) async fn reach(shared: &Shared, host: &Host, port: u16) -> Result<Socket, ConnectError> {
    match host {
        Host::Unix(dir) => {
            let path = Path::new(dir).join(format!(".s.PGSQL.{port}"));
            let stream = match path.to_str().and_then(|p| p.strip_prefix('@')) {
                // std's SocketAddr for abstract names begins with a NUL in the path's place.
                Some(name) => UnixStream::connect(format!("\0{name}")).await,
                None => UnixStream::connect(&path).await,
            };
            stream.map(Socket::Unix).map_err(unreachable("connect failed"))
        }
        Host::Tcp(name) => {
            let addresses = shared.addresses(name, port).await?;
            let mut last = ConnectError::Unreachable("server DNS lookup failed".to_owned());
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => {
                        let config = shared.config.load();
                        sockopt::apply(SockRef::from(&stream), &config.socket, Inherited::default())
                            .map_err(unreachable("connect failed"))?;
                        return Ok(Socket::Tcp(stream));
                    }
                    Err(e) => last = unreachable("connect failed")(e),
                }
            }
            Err(last)
        }
    }
}

/// Why there is no TLS.
enum Insecure {
    /// What the server said of TLS itself, or its certificate, won't do.
    Handshake(std::io::Error),
    Other(ConnectError),
}

impl From<std::io::Error> for Insecure {
    fn from(error: std::io::Error) -> Insecure {
        Insecure::Other(unreachable("connect failed")(error))
    }
}

async fn secure(
    mut socket: Socket,
    name: &str,
    tls: &ServerTls,
    dialling: &Dialling,
) -> Result<Stream, Insecure> {
    let refused = |text: &str| Err(Insecure::Other(ConnectError::Insecure(text.to_owned())));
    let is_direct = tls.negotiation() == Negotiation::Direct;
    if !is_direct {
        let mut request = Vec::with_capacity(8);
        startup::encode_ssl_request(&mut request);
        socket.write_all(&request).await?;
        // One byte is the answer. More, in the clear, is not the server's, or not from one that knows what it does.
        let mut answer = [0u8; 2];
        match (socket.read(&mut answer).await?, answer[0]) {
            (0, _) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            (1, b'S') => {}
            (1, b'N') if tls.mode().is_mandatory() => return refused("server refused SSL"),
            (1, b'N') => return Ok(socket.into()),
            (1, _) => return refused("bad sslreq answer"),
            _ => return refused("received unencrypted data after SSL response"),
        }
    }
    let Some(name) = server_name(name, &socket, tls.mode()) else {
        return refused("the host's name can't be in a certificate");
    };
    let stream = net::tls::connect(socket, dialling, name).await.map_err(Insecure::Handshake)?;
    if is_direct && !stream.tls().is_some_and(|tls| tls.is_postgresql()) {
        return refused("direct TLS with a server that does not know it is spoken to as PostgreSQL (ALPN)");
    }
    Ok(stream)
}

/// What the server's certificate must be for, and what the server is told that it is called. A name that can be in no
/// certificate goes where none is compared.
fn server_name(name: &str, socket: &Socket, mode: SslMode) -> Option<ServerName<'static>> {
    if let Ok(name) = ServerName::try_from(name.trim_end_matches('.').to_owned()) {
        return Some(name);
    }
    let address: Option<IpAddr> = match socket.remote() {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix { .. } => None,
    };
    address.filter(|_| mode != SslMode::VerifyFull).map(|ip| ServerName::IpAddress(ip.into()))
}
