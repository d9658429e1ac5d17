//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, warn};

use super::framing::Watched;
use super::life::{Life, Lives};
use super::metrics::{HttpMetrics, Limit};
use super::router::Router;
use super::service::respond;
use crate::auth::Keyring;
use crate::experiment::Store;

/// How long a connection may be open without a request, or up to twice as long: at its beginning,
/// between two, and in the middle of a head. (While a request is worked on, its body has a limit of its own.)
const QUIET_MAX: Duration = Duration::from_secs(75);
/// How long accepted requests may take to end once the server is going down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Segments that are sent at the same time: each holds a descriptor.
pub(super) const DOWNLOADS_MAX: usize = 64;
/// How long accepting pauses when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The front end's bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body of one entry, in bytes.
    pub body_bytes_max: usize,
    /// The largest body of a batch, in bytes.
    pub batch_bytes_max: usize,
    /// Connections at the same time; further ones wait to be accepted.
    pub connections_max: usize,
    /// Requests that are worked on at the same time; further ones are refused.
    pub requests_max: u64,
    /// How long a client may be silent in the middle of a body.
    pub body_silence_max: Duration,
    /// Those who follow an experiment, at the same time; further ones are refused.
    pub tails_max: usize,
    /// How long such a one hears nothing, at most; then also its key is looked at again.
    pub tail_beat: Duration,
}

/// What all requests share.
pub struct AppState {
    /// The store.
    pub store: Arc<Store>,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The bounds.
    pub limits: Limits,
    /// The table of paths.
    pub(super) router: Router,
    /// What is counted.
    pub metrics: HttpMetrics,
    /// Places for connections.
    pub(super) places: Arc<Semaphore>,
    /// Places for those who follow an experiment.
    pub(super) tails: Arc<Semaphore>,
    /// Places for those who take a segment.
    pub(super) downloads: Arc<Semaphore>,
    /// Whether the server is going down: what would go on for ever ends then.
    pub(super) is_ending: watch::Sender<bool>,
    pub(super) request_ids: RequestIds,
}

impl AppState {
    /// The state of a server for this store.
    pub fn new(store: Store, keyring: Keyring, limits: Limits) -> Self {
        Self {
            store: Arc::new(store),
            keyring: Arc::new(keyring),
            metrics: HttpMetrics::new(),
            places: Arc::new(Semaphore::new(limits.connections_max)),
            tails: Arc::new(Semaphore::new(limits.tails_max)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            is_ending: watch::Sender::new(false),
            limits,
            router: Router::new(),
            request_ids: RequestIds::new(),
        }
    }
}

/// Ids for requests that came without one: unique while this process lives.
pub(super) struct RequestIds(AtomicU64);

impl RequestIds {
    /// Begins anywhere, so that two lives of a server hardly share an id.
    fn new() -> Self {
        Self(AtomicU64::new(fastrand::u64(..)))
    }

    /// The next id: 16 hexadecimal digits.
    pub fn next(&self) -> HeaderValue {
        let mut rest = self.0.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 16];
        for digit in text.iter_mut().rev() {
            let value = (rest & 15) as u8;
            *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
            rest >>= 4;
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            batch_bytes_max: 64 << 20,
            connections_max: 10_000,
            requests_max: 20_000,
            body_silence_max: Duration::from_secs(30),
            tails_max: 1000,
            tail_beat: Duration::from_secs(15),
        }
    }
}

/// Serves until `shutdown` is ready; then takes no more connections, and returns when what was
/// accepted is answered.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AppState>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new(state);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = connections.sweep() => {}
        () = shutdown => {}
    }
    drop(listener);
    connections.drain().await;
}

struct Connections {
    state: Arc<AppState>,
    builder: auto::Builder<TokioExecutor>,
    lives: Arc<Lives>,
}

impl Connections {
    fn new(state: Arc<AppState>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Head and body of an answer are small: one write of both costs less than a vector.
            .writev(false)
            // It would not see a client that sends nothing, nor one of HTTP/2: see `life`.
            .header_read_timeout(None);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1024);
        Self {
            state,
            builder,
            lives: Arc::default(),
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        while let Ok(place) = self.state.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.state.metrics.accepted.add(1);
                    self.serve(stream, place);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    // Mostly no descriptors left: closing connections will give some back.
                    warn!(%error, "accepting pauses");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // An answer is one small write; waiting to join it with another only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "no TCP_NODELAY");
        }
        let state = self.state.clone();
        let (stream, ambiguity) = Watched::new(stream);
        let life = Life::new();
        let seen = life.clone();
        let service =
            service_fn(move |request| respond(state.clone(), seen.begin(), &ambiguity, request));
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = connection.into_owned();
        let led = self.lives.lead(life, connection);
        tokio::spawn(async move {
            if let Err(error) = led.await {
                debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(QUIET_MAX).await;
            let ended = self.lives.sweep();
            self.state.metrics.met(Limit::Quiet, ended);
        }
    }

    async fn drain(self) {
        self.state.is_ending.send_replace(true);
        self.lives.finish();
        let all = u32::try_from(self.state.limits.connections_max).unwrap_or(u32::MAX);
        let drained =
            tokio::time::timeout(DRAIN_TIMEOUT, self.state.places.acquire_many(all)).await;
        if drained.is_err() {
            warn!("some connections did not end in time");
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
