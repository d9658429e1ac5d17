//! TLS: the certificate, and the handshake of a connection. Knows nothing of files.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// What TLS needs, each as PEM.
#[derive(Debug, Default)]
pub struct Pem {
    /// The certificate, and those that lead from it to one that clients know.
    pub certificates: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// If there is one, a client must have a certificate that one of these has signed.
    pub client_ca: Option<Vec<u8>>,
}

/// Why there can be no TLS with these.
#[derive(Debug, Error)]
pub enum TlsError {
    /// There is none.
    #[error("there is no certificate in the file of --{file} (PEM)")]
    NoCertificate {
        /// The flag that names the file.
        file: &'static str,
    },
    /// What is there can't be read.
    #[error("the certificates in the file of --{file} can't be read: {error}")]
    Certificate {
        /// The flag that names the file.
        file: &'static str,
        /// Why not.
        error: pem::Error,
    },
    /// There is no key.
    #[error("the key in the file of --tls-key can't be read: {0}")]
    Key(pem::Error),
    /// They don't go together, for instance.
    #[error("certificate and key can't be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// Those that are to sign clients' certificates can't.
    #[error("the certificates in the file of --tls-client-ca can't be used: {0}")]
    ClientCa(#[from] VerifierBuilderError),
}

/// TLS for new connections. Those that are open keep what they began with.
pub struct Tls(RwLock<TlsAcceptor>);

impl Tls {
    /// With this certificate.
    pub fn new(pem: &Pem) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(acceptor(pem)?)))
    }

    /// From now on with this one. After an error, still with the one before.
    pub fn replace(&self, pem: &Pem) -> Result<(), TlsError> {
        let new = acceptor(pem)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The handshake of a connection.
    pub(super) async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.now().accept(stream).await
    }

    fn now(&self) -> TlsAcceptor {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn acceptor(pem: &Pem) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&pem.certificates, "tls-cert")?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(TlsError::Key)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &pem.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "tls-client-ca")? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &[u8], file: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Certificate { file, error })?;
    match found.is_empty() {
        true => Err(TlsError::NoCertificate { file }),
        false => Ok(found),
    }
}
