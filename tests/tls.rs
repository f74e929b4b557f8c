//! TLS, towards clients and towards servers.

mod clients;
mod data;
mod records;
mod reload;
mod servers;

use std::sync::OnceLock;

use support::pki::{Authority, Files, Identity};
use support::pooler::PoolerBuilder;
use support::postgres::{Database, Options, Postgres};
use support::tls::ClientTls;

/// An authority, a certificate of the pooler's, and the files that the pooler reads.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    pub(crate) files: Files,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let pki = Pki { authority: Authority::new("clients' authority"), files: Files::new() };
        pki.files.write("ca.crt", &pki.authority.pem());
        pki.install(&pki.authority.server(&["localhost"]));
        pki
    }

    /// Writes the pooler's certificate and key, over the former ones.
    pub(crate) fn install(&self, identity: &Identity) {
        self.files.identity("pooler", identity);
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.files.dir().join(name).display().to_string()
    }

    /// Has the pooler offer TLS.
    pub(crate) fn offer(&self, builder: PoolerBuilder, mode: &str) -> PoolerBuilder {
        builder
            .setting("client_tls_cert_file", self.path("pooler.crt"))
            .setting("client_tls_key_file", self.path("pooler.key"))
            .setting("client_tls_sslmode", mode)
    }

    /// A client that believes this authority.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::new(&self.authority)
    }
}

/// A cluster with TLS that all tests share, and who has signed its certificate, for `localhost` and `127.0.0.1`.
pub(crate) struct Secured {
    pub(crate) authority: Authority,
    pub(crate) postgres: Postgres,
}

/// It demands a certificate of role `certified` and nothing of others.
pub(crate) fn secured() -> &'static Secured {
    static SECURED: OnceLock<Secured> = OnceLock::new();
    SECURED.get_or_init(|| {
        let authority = Authority::new("servers' authority");
        let options = Options::new()
            .tls(&authority.server(&["localhost", "127.0.0.1"]), Some(&authority))
            .hba("hostssl all certified 127.0.0.1/32 cert")
            .hba("hostnossl all certified 127.0.0.1/32 reject");
        let postgres = Postgres::start(options);
        postgres.sql("create role certified login");
        Secured { authority, postgres }
    })
}

impl Secured {
    pub(crate) fn database(&self, hint: &str) -> Database {
        self.postgres.database(hint)
    }
}

/// Of the session that runs it: whether PostgreSQL sees TLS, the version and the cipher suite.
pub(crate) const TLS_OF_SERVER: &str =
    "select concat_ws(' ', ssl, version, cipher) from pg_stat_ssl where pid = pg_backend_pid()";
