//! TLS for both sides of scripted conversations, over the sockets of [`crate::peer`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use crate::frontend;
use crate::peer::{Address, Stream};
use crate::pki::{Authority, Identity};

/// TLS for tests that know nothing of it.
#[derive(Debug)]
pub struct Everywhere {
    /// What poolers and the shared cluster show.
    pub identity: Identity,
    /// Who believes that.
    pub client: ClientTls,
}

/// With `TLS=1` in the environment clients come to every pooler with TLS, and poolers to the shared cluster.
pub fn everywhere() -> Option<&'static Everywhere> {
    static EVERYWHERE: OnceLock<Option<Everywhere>> = OnceLock::new();
    let make = || {
        std::env::var_os("TLS")?;
        let authority = Authority::new("authority of everything");
        let identity = authority.server(&["localhost", "127.0.0.1"]);
        Some(Everywhere { identity, client: ClientTls::new(&authority) })
    };
    EVERYWHERE.get_or_init(make).as_ref()
}

/// How a client uses TLS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    name: ServerName<'static>,
    direct: bool,
    /// Clones share its tickets.
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// A client that accepts servers whose certificate this authority has signed for `localhost`.
    pub fn new(authority: &Authority) -> ClientTls {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.der())).expect("a root certificate");
        let provider = Arc::new(ring::default_provider());
        let versions = rustls::ALL_VERSIONS.to_vec();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        ClientTls {
            roots: Arc::new(roots),
            identity: None,
            provider,
            versions,
            alpn: Vec::new(),
            name: ServerName::try_from("localhost").expect("a name"),
            direct: false,
            config: Arc::new(config),
        }
    }

    /// Which shows this certificate when asked.
    pub fn identity(mut self, identity: &Identity) -> ClientTls {
        self.identity = Some(identity.clone());
        self.rebuild()
    }

    /// Which expects the server's certificate to be for this name or address.
    pub fn name(mut self, name: &str) -> ClientTls {
        self.name = ServerName::try_from(name.to_owned()).expect("a name");
        self
    }

    /// Which begins the handshake at once, without SSLRequest (and says `postgresql` by ALPN).
    pub fn direct(mut self) -> ClientTls {
        self.direct = true;
        self.alpn(&["postgresql"])
    }

    /// Which offers these protocols by ALPN.
    pub fn alpn(mut self, protocols: &[&str]) -> ClientTls {
        self.alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self.rebuild()
    }

    /// Which speaks only these versions (`rustls::version::TLS12`, `TLS13`).
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> ClientTls {
        self.versions = versions.to_vec();
        self.rebuild()
    }

    /// Which offers only what is left of rustls' suites, groups and so on.
    pub fn provider(mut self, change: impl FnOnce(&mut CryptoProvider)) -> ClientTls {
        change(Arc::make_mut(&mut self.provider));
        self.rebuild()
    }

    fn rebuild(mut self) -> ClientTls {
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .expect("versions")
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            Some(identity) => {
                let (chain, key) = parse(identity);
                config.with_client_auth_cert(chain, key).expect("a certificate and its key")
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        self.config = Arc::new(config);
        self
    }

    /// Connects and has TLS established: by SSLRequest, unless it is direct.
    ///
    /// # Errors
    /// `Unsupported`: the server said `N`. `InvalidData`: the handshake failed.
    pub fn connect(&self, address: &Address) -> io::Result<Stream> {
        let mut socket = address.connect()?;
        if !self.direct {
            socket.write_all(&frontend::ssl_request())?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            if answer != *b"S" {
                let text = format!("the answer to SSLRequest is {:?}", answer[0] as char);
                return Err(io::Error::new(ErrorKind::Unsupported, text));
            }
        }
        self.handshake(socket)
    }

    /// The handshake alone.
    pub fn handshake(&self, socket: Stream) -> io::Result<Stream> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        let connection = connection.map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        Session::establish(connection.into(), socket)
    }
}

/// How a scripted server uses TLS.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// A server with this certificate.
    pub fn new(identity: &Identity) -> ServerTls {
        ServerTls::build(identity, None, rustls::ALL_VERSIONS)
    }

    /// A server that demands a certificate that this authority has signed.
    pub fn demanding(identity: &Identity, authority: &Authority) -> ServerTls {
        ServerTls::build(identity, Some(authority), rustls::ALL_VERSIONS)
    }

    /// A server of these versions, and perhaps demanding a certificate.
    pub fn build(
        identity: &Identity,
        authority: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerTls {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone());
        let config = config.with_protocol_versions(versions).expect("versions");
        let config = match authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from(authority.der())).expect("a root certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                config.with_client_cert_verifier(verifier.expect("a verifier"))
            }
            None => config.with_no_client_auth(),
        };
        let (chain, key) = parse(identity);
        // Without the checks of `with_single_cert`, which does not read certificates of version 1.
        let key = ring::default_provider().key_provider.load_private_key(key).expect("a key");
        let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let mut config = config.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        ServerTls(Arc::new(config))
    }

    /// Which ignores what clients say by ALPN.
    pub fn without_alpn(mut self) -> ServerTls {
        Arc::make_mut(&mut self.0).alpn_protocols.clear();
        self
    }

    /// Serves the handshake on a socket whose SSLRequest was answered.
    pub fn handshake(&self, socket: Stream) -> io::Result<Stream> {
        let connection = ServerConnection::new(self.0.clone());
        let connection = connection.map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        Session::establish(connection.into(), socket)
    }

    /// Reads SSLRequest, answers `S` and serves the handshake.
    pub fn accept(&self, mut socket: Stream) -> io::Result<Stream> {
        let mut request = [0; 8];
        socket.read_exact(&mut request)?;
        assert_eq!(request.as_slice(), frontend::ssl_request(), "no SSLRequest");
        socket.write_all(b"S")?;
        self.handshake(socket)
    }
}

/// A TLS connection over a socket.
pub struct Session {
    connection: Connection,
    socket: Stream,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Session {
    fn establish(connection: Connection, socket: Stream) -> io::Result<Stream> {
        let mut session = Session { connection, socket };
        while session.connection.is_handshaking() {
            if let Err(error) = session.connection.complete_io(&mut session.socket) {
                let _ = session.send_all(); // the alert that says why
                return Err(error);
            }
        }
        session.send_all()?;
        Ok(Stream::Tls(Box::new(session)))
    }

    /// What rustls knows of the connection: version, suite, certificates.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The socket below.
    pub fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Changes the key of this direction, and asks for a change of the other's (`KeyUpdate` of TLS 1.3).
    pub fn change_keys(&mut self) -> io::Result<()> {
        self.connection.refresh_traffic_keys().map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        self.send_all()
    }

    /// Says that nothing follows (`close_notify`).
    pub fn close_notify(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.send_all()
    }

    fn send_all(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Read for Session {
    /// `Ok(0)` is an end that was announced by `close_notify`, `UnexpectedEof` one that was not.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.connection.read_tls(&mut self.socket)?;
            let processed = self.connection.process_new_packets();
            self.send_all()?;
            processed.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        }
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.connection.writer().write(bytes)?;
        self.send_all()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    (chain.expect("certificates"), key.expect("a key"))
}
