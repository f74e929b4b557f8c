//! Whose certificates LDAP servers may have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::pool::lock;

/// What was read is used for this long, so that a new file counts without a reload.
const KEPT: Duration = Duration::from_secs(60);

/// Files of authorities that were read.
#[derive(Default)]
pub(super) struct Trust(Mutex<HashMap<Option<PathBuf>, (Instant, TlsConnector)>>);

impl Trust {
    /// For servers whose certificates an authority of this file has signed, or one of those of the system.
    ///
    /// # Errors
    /// There is none that can be used, as a sentence.
    pub(super) async fn connector(&self, file: Option<&Path>) -> Result<TlsConnector, String> {
        let named_elsewhere = || std::env::var_os("LDAPTLS_CACERT").map(PathBuf::from);
        let file = file.map(Path::to_owned).or_else(named_elsewhere);
        if let Some((read, connector)) = lock(&self.0).get(&file)
            && read.elapsed() < KEPT
        {
            return Ok(connector.clone());
        }
        let path = file.clone();
        let read = tokio::task::spawn_blocking(move || read(path.as_deref())).await;
        let connector = read.map_err(|_| "reading certificates was given up".to_owned())??;
        let mut known = lock(&self.0);
        known.retain(|_, (read, _)| read.elapsed() < KEPT);
        known.insert(file, (Instant::now(), connector.clone()));
        Ok(connector)
    }
}

fn read(file: Option<&Path>) -> Result<TlsConnector, String> {
    let certificates = match file {
        Some(file) => of_file(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (used, _) = roots.add_parsable_certificates(certificates);
    if used == 0 {
        return Err(match file {
            Some(file) => format!("there is no certificate of an authority in {}", file.display()),
            None => "the system trusts no authority; name one with ldapcafile".to_owned(),
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn of_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let reason = |error| format!("the certificates in {} can't be read: {error}", file.display());
    CertificateDer::pem_file_iter(file).map_err(reason)?.collect::<Result<_, _>>().map_err(reason)
}
