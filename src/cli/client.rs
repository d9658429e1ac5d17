//! Asking a running server, for the commands that go through its API.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Which server, with which key.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// The server's address.
    #[arg(
        long,
        global = true,
        env = "TRIALOG_SERVER",
        default_value = "http://127.0.0.1:7171",
        value_parser = authority
    )]
    server: Authority,
    /// The key to ask with. Without it, the store's own admin key is read from --data.
    #[arg(long, global = true, env = "TRIALOG_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The store's folder, for its admin.key.
    #[arg(
        long,
        global = true,
        env = "TRIALOG_DATA",
        default_value = "trialog-data"
    )]
    data: PathBuf,
}

impl Server {
    /// Sends a request and gives back the JSON of its answer; an answer that is an error becomes
    /// one.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.ask_async(method, path, body))
    }

    async fn ask_async(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let authority = &self.server;
        let mut sender = connect(authority).await?;
        let bytes = body
            .map(serde_json::to_vec)
            .transpose()?
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", authority.as_str())
            .header("x-api-key", self.key()?)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .context("the API key can't be sent: it has characters that a header can't")?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(answer);
        }
        match answer.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => bail!("{message}"),
            None => bail!("the server answered {status}"),
        }
    }

    fn key(&self) -> Result<String> {
        if let Some(key) = &self.api_key {
            return Ok(key.clone());
        }
        let path = self.data.join("admin.key");
        let key = std::fs::read_to_string(&path).with_context(|| {
            let path = path.display();
            format!("no --api-key (or TRIALOG_API_KEY) given, and {path} can't be read")
        })?;
        Ok(key.trim().to_owned())
    }
}

/// Opens a connection to a server.
pub async fn connect(authority: &Authority) -> Result<SendRequest<Full<Bytes>>> {
    let address = (authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("can't reach {authority}: is `trialog serve` running there?"))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What a server's URL says beside `http://`. There is no other scheme, and no path below one.
pub fn authority(url: &str) -> Result<Authority, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let is_plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
    match uri.authority() {
        Some(authority) if is_plain => Ok(authority.clone()),
        _ => Err("a server is http://HOST:PORT".into()),
    }
}
