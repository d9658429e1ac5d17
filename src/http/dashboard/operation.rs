//! How the server is: the figures of `/metrics`.

use hyper::{Response, StatusCode};

use super::{Seen, whole};
use crate::dashboard::layout::Here;
use crate::dashboard::pages::operation::{self as view, Buckets, Figures};
use crate::http::error::{ApiError, ApiResult};
use crate::http::query::parameters;
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::metrics::Histogram;
use crate::metrics::process::Process;

/// The page.
pub async fn operation(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [] = parameters(seen.query(), [])?;
    let figures = read(state).await?;
    let content = view::operation(&figures, state.store.durability().as_str());
    Ok(whole(state, seen, "Operation", Here::Operation, content))
}

/// What the page is made of, for its script.
pub async fn figures(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [] = parameters(seen.query(), [])?;
    let mut response = reply::json_of(StatusCode::OK, &read(state).await?)?;
    let no_store = hyper::header::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(hyper::header::CACHE_CONTROL, no_store);
    Ok(response)
}

async fn read(state: &AppState) -> ApiResult<Figures> {
    let store = state.store.clone();
    // No experiment is named here: what all have together is no secret.
    let read = tokio::task::spawn_blocking(move || (store.state(|_| false), Process::read()));
    let (stored, process) = read.await.map_err(ApiError::internal)?;
    let process = process.map_err(ApiError::internal)?;
    let limits = state.limits();
    let taken = |max: usize, free: usize| max - free.min(max);
    Ok(Figures {
        at_ms: state.store.now_ms(),
        uptime_ms: u64::try_from(state.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        entry_count: stored.durable.1.entries.get(),
        append_us: state.metrics.appends().map(buckets).unwrap_or_default(),
        sync_us: buckets(&stored.journal.sync_us),
        waiting_count: stored.waiting_count,
        in_flight_count: state.metrics.in_flight(),
        in_flight_bytes: stored.inflight_bytes,
        resident_bytes: process.resident_bytes,
        cpu_seconds: process.cpu_seconds,
        free_bytes: stored.free_bytes,
        connection_count: taken(limits.connections_max, state.places.available_permits()),
        tail_count: taken(limits.tails_max, state.tails.available_permits()),
        experiment_count: stored.experiment_count,
        in_use_count: stored.actor_count,
        failed_count: state.metrics.failed_count(),
    })
}

fn buckets(histogram: &Histogram) -> Buckets {
    let (up_to, count, _) = histogram.read();
    Buckets { up_to, count }
}
