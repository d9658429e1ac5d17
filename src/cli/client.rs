//! Asking a running server, for the commands that go through its API.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client_tls;

/// Which server, with which key.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// The server's address.
    #[arg(
        long,
        global = true,
        env = "TRIALOG_SERVER",
        default_value = "http://127.0.0.1:7171",
        value_parser = address
    )]
    server: Address,
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
    #[command(flatten)]
    trust: Trust,
}

/// Which servers are believed to be who they say they are.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Trust {
    /// With https: the certificates that the server's is signed by (PEM), in place of those that
    /// this machine trusts.
    #[arg(long, global = true, env = "TRIALOG_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub struct Address {
    authority: Authority,
    is_tls: bool,
}

/// Its URL.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

impl Address {
    /// Host and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The one in the URL, or the scheme's own.
    pub fn port(&self) -> u16 {
        let own = if self.is_tls { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(own)
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl Trust {
    /// The file of certificates that are trusted, if it isn't those of this machine.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

impl Server {
    /// The server at this address.
    pub fn new(server: Address, api_key: Option<String>, data: PathBuf, trust: Trust) -> Self {
        Self {
            server,
            api_key,
            data,
            trust,
        }
    }

    /// Sends a request and gives back the JSON of its answer; an answer that is an error becomes
    /// one.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (_, bytes) = self.ask_whole(method, path, body)?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// As [`Self::ask`], with the answer as it came.
    pub fn ask_whole(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(HeaderMap, Bytes)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.ask_async(method, path, body))
    }

    async fn ask_async(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(HeaderMap, Bytes)> {
        let json = [("content-type", "application/json")];
        let response = self.send(method, path, &json, body).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await?);
        }
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((headers, bytes))
    }

    /// Sends a request on a connection of its own; its answer may be an error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Response<Incoming>> {
        let mut sender = connect(&self.server, &self.trust).await?;
        let bytes = body
            .map(serde_json::to_vec)
            .transpose()?
            .unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.server.authority.as_str())
            .header("x-api-key", self.key()?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(bytes)))
            .context("the API key can't be sent: it has characters that a header can't")?;
        Ok(sender.send_request(request).await?)
    }

    /// The store's folder, if it is on this machine.
    pub fn data(&self) -> &Path {
        &self.data
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

/// What an answer that is an error says.
pub async fn refusal(response: Response<Incoming>) -> Result<Error> {
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let message = answer.pointer("/error/message").and_then(Value::as_str);
    Ok(match message {
        Some(message) => anyhow!("{message}"),
        None => anyhow!("the server answered {status}"),
    })
}

/// Opens a connection to a server.
pub async fn connect(server: &Address, trust: &Trust) -> Result<SendRequest<Full<Bytes>>> {
    let Address { authority, is_tls } = server;
    let stream = TcpStream::connect((authority.host(), server.port()))
        .await
        .with_context(|| format!("can't reach {authority}: is `trialog serve` running there?"))?;
    if !is_tls {
        return speak(stream).await;
    }
    let shaken = client_tls::shake(stream, authority.host(), trust.ca()).await;
    speak(shaken.with_context(|| format!("no TLS with {authority}"))?).await
}

async fn speak<S>(stream: S) -> Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A server's URL. There is no path below one.
pub fn address(url: &str) -> Result<Address, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let is_tls = match uri.scheme_str() {
        Some("http") => Some(false),
        Some("https") => Some(true),
        _ => None,
    };
    match (uri.authority(), is_tls, uri.path()) {
        (Some(authority), Some(is_tls), "" | "/") => Ok(Address {
            authority: authority.clone(),
            is_tls,
        }),
        _ => Err("a server is http://HOST:PORT or https://HOST:PORT".into()),
    }
}
