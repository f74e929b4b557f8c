//! tokio-postgres with rustls: one login, in the mode of the first argument; see ../../../logins.

use std::env::var;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(var("LOGIN_CA")?)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = Config::new();
    config.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).dbname(var("PGDATABASE")?);
    config.user(var("PGUSER")?).password(var("PGPASSWORD")?).ssl_mode(SslMode::Require);
    match mode.as_str() {
        "binding" => {
            config.channel_binding(ChannelBinding::Require);
        }
        "direct" => {
            config.ssl_negotiation(SslNegotiation::Direct);
            tls.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        _ => {}
    }
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(connection);
    let user: String = client.query_one("select current_user::text", &[]).await?.get(0);
    ensure!(user == "app", "logged in as {user}");
    Ok(())
}
