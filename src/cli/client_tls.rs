//! TLS for the commands that ask a server.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The handshake with a server: see [`client`].
pub async fn shake(
    stream: TcpStream,
    host: &str,
    ca: Option<&Path>,
) -> Result<TlsStream<TcpStream>> {
    let (config, name) = client(host, ca)?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

/// How connections to a server are made, and its name. It must have a certificate for `host` that is signed
/// by one of those in the file `ca`; without one, by one that this machine trusts.
pub fn client(host: &str, ca: Option<&Path>) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // An IPv6 address has brackets in a URL.
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host)?;
    Ok((Arc::new(config), name))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        // Of the many on a machine some may be none that can be used.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            bail!("this machine has no certificates that it trusts: name the server's with --ca");
        }
        return Ok(roots);
    };
    let shown = path.display();
    let pem = std::fs::read(path).with_context(|| format!("{shown} can't be read"))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.with_context(|| format!("{shown} is no PEM"))?;
        roots
            .add(certificate)
            .with_context(|| format!("a certificate in {shown}"))?;
    }
    match roots.is_empty() {
        true => bail!("there is no certificate in {shown}"),
        false => Ok(roots),
    }
}
