//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, warn};

use super::error::ApiError;
use super::framing::Watched;
use super::life::{Life, Lives};
use super::limits::Limits;
use super::metrics::{HttpMetrics, Limit};
use super::peers::{Peer, Peers};
use super::router::Router;
use super::service::{Origin, respond};
use super::tls::Tls;
use super::unparsed::{self, Unparsed};
use crate::auth::Keyring;
use crate::experiment::Store;

/// How long accepted requests may take to end once the server is going down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Segments that are sent at the same time: each holds a descriptor.
pub(super) const DOWNLOADS_MAX: usize = 64;
/// What the parser takes beyond the limits of URL and headers, so that these are ours to tell. It takes
/// no less than 8 KiB.
const HEAD_MARGIN: usize = 8 << 10;
/// How long accepting pauses when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all requests share.
pub struct AppState {
    /// The store.
    pub store: Arc<Store>,
    /// What has its writes ordered among those of other nodes, where there are some.
    #[cfg(feature = "nats")]
    pub(super) replica: Option<crate::replica::Replica>,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The bounds: see [`Self::limits`].
    limits: RwLock<Arc<Limits>>,
    /// The table of paths.
    pub(super) router: Router,
    /// What is counted.
    pub metrics: HttpMetrics,
    /// What each peer address does.
    pub(super) peers: Arc<Peers>,
    /// When this was made.
    pub(super) begun: Instant,
    /// Places for connections.
    pub(super) places: Arc<Semaphore>,
    /// Places for those who follow an experiment.
    pub(super) tails: Arc<Semaphore>,
    /// Places for those who take a segment.
    pub(super) downloads: Arc<Semaphore>,
    /// Whether the server is going down: what would go on for ever ends then.
    pub(super) is_ending: watch::Sender<bool>,
    pub(super) request_ids: RequestIds,
    /// Whether clients come by TLS.
    is_tls: AtomicBool,
}

impl AppState {
    /// The state of a server for this store.
    pub fn new(store: impl Into<Arc<Store>>, keyring: Keyring, limits: Limits) -> Self {
        Self {
            store: store.into(),
            #[cfg(feature = "nats")]
            replica: None,
            keyring: Arc::new(keyring),
            metrics: HttpMetrics::new(),
            peers: Arc::default(),
            begun: Instant::now(),
            places: Arc::new(Semaphore::new(limits.connections_max)),
            tails: Arc::new(Semaphore::new(limits.tails_max)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            is_ending: watch::Sender::new(false),
            limits: RwLock::new(Arc::new(limits)),
            router: Router::new(),
            request_ids: RequestIds::new(),
            is_tls: AtomicBool::new(false),
        }
    }

    /// The bounds, as they are now. A request takes them once, and keeps them to its end.
    pub fn limits(&self) -> Arc<Limits> {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        limits.clone()
    }

    /// Whether clients come by TLS, as far as this server knows.
    pub fn is_tls(&self) -> bool {
        self.is_tls.load(Ordering::Relaxed)
    }

    /// Other bounds hold for requests from now on. How many connections and tails there may be, and
    /// how long a head, is settled when the server begins.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
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
    state.is_tls.store(tls.is_some(), Ordering::Relaxed);
    let connections = Connections::new(state, tls);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = connections.sweep() => {}
        () = shutdown => {}
    }
    drop(listener);
    connections.drain().await;
}

/// What an open connection holds.
struct Place {
    peer: Peer,
    _permit: OwnedSemaphorePermit,
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
        let limits = state.limits();
        let head_bytes = limits.url_bytes_max + limits.header_bytes_max + HEAD_MARGIN;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Head and body of an answer are small: one write of both costs less than a vector.
            .writev(false)
            .max_buf_size(head_bytes)
            // It would not see a client that sends nothing, nor one of HTTP/2: see `life`.
            .header_read_timeout(None);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
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
                Ok((stream, address)) => {
                    self.front.state.metrics.accepted.add(1);
                    self.enter(stream, address.ip(), place);
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

    fn enter(&self, stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit) {
        let state = &self.front.state;
        let peer = state
            .peers
            .enter(address, state.limits().peer_connections_max);
        let Some(peer) = peer else {
            let message = "this address has too many connections: close one, or try again";
            let refused = ApiError::overloaded(Limit::PeerConnections, message);
            let answer = unparsed::refuse(state, refused, b"");
            // Past the runtime, which doesn't know yet that there is room; and there is for so few bytes.
            if self.tls.is_none()
                && let Ok(mut stream) = stream.into_std()
            {
                let told = io::Write::write(&mut stream, &answer);
                debug!(?told, "a peer has too many connections");
            }
            return;
        };
        let _permit = permit;
        self.serve(stream, Place { peer, _permit });
    }

    fn serve(&self, stream: TcpStream, place: Place) {
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
            let state = &self.front.state;
            tokio::time::sleep(state.limits().head_max).await;
            let limits = state.limits();
            let sweeps = limits
                .quiet_max
                .as_nanos()
                .div_ceil(limits.head_max.as_nanos().max(1));
            let ended = self.front.lives.sweep(sweeps);
            state.metrics.met(Limit::SlowHead, ended.without_request);
            state.metrics.met(Limit::Quiet, ended.quiet);
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
    async fn serve_tls(self, tls: Arc<Tls>, stream: TcpStream, place: Place) {
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
            Err(_) => {
                self.state.metrics.met(Limit::Handshake, 1);
                debug!("a handshake took too long");
            }
        }
    }

    fn serve<S>(&self, stream: S, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = self.state.clone();
        let (stream, ambiguity) = Watched::new(Unparsed::new(stream, state.clone()));
        let life = Life::new();
        let seen = life.clone();
        let (told, address) = (state.clone(), place.peer.address());
        let service = service_fn(move |request| {
            let from = Origin {
                address,
                ambiguity: &ambiguity,
            };
            respond(state.clone(), seen.begin(), from, request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = connection.into_owned();
        let led = self.lives.lead(life, connection);
        tokio::spawn(async move {
            if let Err(error) = led.await {
                if is_too_large(&*error) {
                    told.metrics.met(Limit::Head, 1);
                }
                debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
}

/// Whether the parser refused a head for its size.
fn is_too_large(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(hyper::Error::is_parse_too_large)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
