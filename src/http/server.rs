//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, warn};

use super::framing::Watched;
use super::life::{Life, Lives};
use super::metrics::{HttpMetrics, Limit};
use super::router::Router;
use super::service::respond;
use super::tls::Tls;
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
#[derive(Debug, Clone, Copy)]
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
    /// How long the handshake of TLS may take.
    pub handshake_max: Duration,
    /// A request that takes longer until it is answered is told in the log; none, if this is zero.
    pub slow_request: Duration,
}

/// What all requests share.
pub struct AppState {
    /// The store.
    pub store: Arc<Store>,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The bounds: see [`Self::limits`].
    limits: RwLock<Limits>,
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
            limits: RwLock::new(limits),
            router: Router::new(),
            request_ids: RequestIds::new(),
        }
    }

    /// The bounds, as they are now.
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other bounds hold for requests from now on. How many connections and tails there may be is
    /// settled when the state is made.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
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
            handshake_max: Duration::from_secs(10),
            slow_request: Duration::from_secs(1),
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
    serve_tls(listener, None, state, shutdown).await;
}

/// As [`serve`], by TLS if it is there.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    state: Arc<AppState>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new(state, tls);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = connections.sweep() => {}
        () = shutdown => {}
    }
    drop(listener);
    connections.drain().await;
}

struct Connections {
    front: Front,
    tls: Option<Arc<Tls>>,
}

/// What a connection needs, once its bytes are those of HTTP.
#[derive(Clone)]
struct Front {
    state: Arc<AppState>,
    builder: auto::Builder<TokioExecutor>,
    lives: Arc<Lives>,
}

impl Connections {
    fn new(state: Arc<AppState>, tls: Option<Arc<Tls>>) -> Self {
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
        let front = Front {
            state,
            builder,
            lives: Arc::default(),
        };
        Self { front, tls }
    }

    async fn accept(&self, listener: &TcpListener) {
        while let Ok(place) = self.front.state.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.front.state.metrics.accepted.add(1);
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
        match &self.tls {
            None => self.front.serve(stream, place),
            Some(tls) => {
                tokio::spawn(self.front.clone().serve_tls(tls.clone(), stream, place));
            }
        }
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(QUIET_MAX).await;
            let ended = self.front.lives.sweep();
            self.front.state.metrics.met(Limit::Quiet, ended);
        }
    }

    async fn drain(self) {
        let Front { state, lives, .. } = &self.front;
        state.is_ending.send_replace(true);
        lives.finish();
        let all = u32::try_from(state.limits().connections_max).unwrap_or(u32::MAX);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, state.places.acquire_many(all)).await;
        if drained.is_err() {
            warn!("some connections did not end in time");
        }
    }
}

impl Front {
    /// The handshake first, on the connection's own task: accepting goes on meanwhile.
    async fn serve_tls(self, tls: Arc<Tls>, stream: TcpStream, place: OwnedSemaphorePermit) {
        let mut is_ending = self.state.is_ending.subscribe();
        let shaken = tokio::time::timeout(self.state.limits().handshake_max, tls.shake(stream));
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            _ = is_ending.wait_for(|is_ending| *is_ending) => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                self.serve(stream, place);
                // It may have come too late to be told with the others.
                if *is_ending.borrow() {
                    self.lives.finish();
                }
            }
            Ok(Err(error)) => debug!(%error, "a handshake failed"),
            Err(_) => debug!("a handshake took too long"),
        }
    }

    fn serve<S>(&self, stream: S, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
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
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
