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
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::framing::Watched;
use super::router::Router;
use super::service::respond;
use crate::auth::Keyring;
use crate::experiment::Store;

/// How long a connection may be open without a request: at its beginning, between two, and in the
/// middle of a head. (While a request is worked on, its body has a limit of its own.)
const QUIET_MAX: Duration = Duration::from_secs(75);
/// How long accepted requests may take to end once the server is going down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
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
}

/// What all requests share.
pub struct AppState {
    /// The store.
    pub store: Arc<Store>,
    /// The keys.
    pub keyring: Keyring,
    /// The bounds.
    pub limits: Limits,
    /// The table of paths.
    pub(super) router: Router,
    request_id_prefix: u32,
    request_count: AtomicU64,
}

impl AppState {
    /// The state of a server for this store.
    pub fn new(store: Store, keyring: Keyring, limits: Limits) -> Self {
        Self {
            store: Arc::new(store),
            keyring,
            limits,
            router: Router::new(),
            request_id_prefix: fastrand::u32(..),
            request_count: AtomicU64::new(0),
        }
    }

    /// An id for a request that came without one: unique while this process lives.
    pub(super) fn next_request_id(&self) -> HeaderValue {
        let count = self.request_count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}-{count:x}", self.request_id_prefix);
        HeaderValue::from_maybe_shared(bytes::Bytes::from(id))
            .unwrap_or(HeaderValue::from_static("unknown"))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            batch_bytes_max: 64 << 20,
            connections_max: 10_000,
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
        () = shutdown => {}
    }
    drop(listener);
    connections.drain().await;
}

struct Connections {
    state: Arc<AppState>,
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
}

impl Connections {
    fn new(state: Arc<AppState>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // It would not see a client that sends nothing, nor one of HTTP/2: see `Activity`.
            .header_read_timeout(None);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1024);
        let places = Arc::new(Semaphore::new(state.limits.connections_max));
        Self {
            state,
            builder,
            graceful: GracefulShutdown::new(),
            places,
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, place),
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
        let activity = Arc::new(Activity::default());
        let seen = activity.clone();
        let service = service_fn(move |request| {
            respond(state.clone(), seen.begin(), ambiguity.clone(), request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection ended early");
                    }
                }
                () = activity.quiet_for(QUIET_MAX) => debug!("a connection was quiet too long"),
            }
            drop(place);
        });
    }

    async fn drain(self) {
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, self.graceful.shutdown()).await;
        if drained.is_err() {
            warn!("some connections did not end in time");
        }
    }
}

/// What a connection does, as far as it must be known to end one that is quiet.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that is worked on.
pub(super) struct Working(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Working {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Returns when no request was worked on for `limit`, or up to twice as long.
    async fn quiet_for(&self, limit: Duration) {
        let mut before = None;
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            let is_quiet = self.ended.load(Ordering::Relaxed) == begun;
            if is_quiet && before == Some(begun) {
                return;
            }
            before = is_quiet.then_some(begun);
            tokio::time::sleep(limit).await;
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_only_while_nothing_is_worked_on() {
        let activity = Arc::new(Activity::default());
        let limit = Duration::from_secs(10);
        let working = activity.begin();
        let for_long = tokio::time::timeout(100 * limit, activity.quiet_for(limit));
        assert!(
            for_long.await.is_err(),
            "a request may take as long as it takes"
        );
        drop(working);
        let begin = tokio::time::Instant::now();
        activity.quiet_for(limit).await;
        assert!((limit..=2 * limit).contains(&begin.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_now_and_then_keep_a_connection() {
        let activity = Arc::new(Activity::default());
        let limit = Duration::from_secs(10);
        let asking = activity.clone();
        let client = async move {
            for _ in 0..20 {
                tokio::time::sleep(limit * 9 / 10).await;
                drop(asking.begin());
            }
        };
        tokio::select! {
            biased;
            () = client => {}
            () = activity.quiet_for(limit) => panic!("it was not quiet"),
        }
    }
}
