//! The files of TLS: read at the start, and again when they have changed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{error, info};

use crate::http::tls::{Pem, Tls};

/// How often it is looked whether they have changed.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Which files.
#[derive(Debug, Clone, clap::Args)]
// Its name must not be that of the arguments that it is among.
#[group(id = "tls")]
pub struct Args {
    /// The server's certificate, and those that lead to the one that clients know (PEM). It is read
    /// again on SIGHUP and when it changes.
    #[arg(long, env = "TRIALOG_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "TRIALOG_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Clients must have a certificate that is signed by one of these (PEM).
    #[arg(long, env = "TRIALOG_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
}

/// TLS, and the files that it is of.
pub struct TlsFiles {
    /// For the server.
    pub tls: Arc<Tls>,
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    seen: Stamps,
}

/// How a file can be told from what it was: its time, its number and its length.
type Stamps = Vec<Option<(i64, i64, u64, u64)>>;

impl Args {
    /// What they name, if they name any.
    pub fn open(&self) -> Result<Option<TlsFiles>> {
        let (cert, key) = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) if self.tls_client_ca.is_none() => return Ok(None),
            _ => bail!("TLS needs both --tls-cert and --tls-key"),
        };
        let client_ca = self.tls_client_ca.clone();
        let seen = stamps(&cert, &key, client_ca.as_deref());
        let pem = read(&cert, &key, client_ca.as_deref())?;
        Ok(Some(TlsFiles {
            tls: Arc::new(Tls::new(&pem)?),
            cert,
            key,
            client_ca,
            seen,
        }))
    }
}

impl TlsFiles {
    /// Reads them again if they have changed since they were last read.
    pub fn look(&mut self) {
        if stamps(&self.cert, &self.key, self.client_ca.as_deref()) != self.seen {
            self.reload();
        }
    }

    /// Reads them again. What can't be used changes nothing: new connections get the old ones.
    pub fn reload(&mut self) {
        // Before they are read: what changes meanwhile is read once more.
        self.seen = stamps(&self.cert, &self.key, self.client_ca.as_deref());
        let pem = read(&self.cert, &self.key, self.client_ca.as_deref());
        match pem.and_then(|pem| Ok(self.tls.replace(&pem)?)) {
            Ok(()) => info!("certificate and key read again"),
            Err(error) => error!("the certificate stays as it was: {error:#}"),
        }
    }
}

fn stamps(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Stamps {
    let stamp = |path: &Path| {
        let of = std::fs::metadata(path).ok()?;
        Some((of.mtime(), of.mtime_nsec(), of.ino(), of.size()))
    };
    [Some(cert), Some(key), client_ca]
        .into_iter()
        .flatten()
        .map(stamp)
        .collect()
}

fn read(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Pem> {
    Ok(Pem {
        certificates: read_one(cert)?,
        key: read_one(key)?,
        client_ca: client_ca.map(read_one).transpose()?,
    })
}

fn read_one(path: &Path) -> Result<Vec<u8>> {
    let read: io::Result<Vec<u8>> = std::fs::read(path);
    read.with_context(|| format!("{} can't be read", path.display()))
}
