//! One short function for each action.

mod append;
mod entry;
mod experiments;
mod keys;
mod logs;
mod metrics;
pub mod report;
mod segments;
mod stats;
pub mod status;
mod tail;

use hyper::Response;

use super::error::ApiResult;
use super::reply::Body;
use super::router::Action;
use super::server::AppState;
use super::service::Asked;

/// Does what is asked.
pub async fn handle(state: &AppState, action: Action, asked: Asked) -> ApiResult<Response<Body>> {
    match action {
        Action::Append => append::one(state, asked).await,
        // On the heap, so that the future of an append, which is moved for each, stays small.
        action => Box::pin(handle_others(state, action, asked)).await,
    }
}

async fn handle_others(
    state: &AppState,
    action: Action,
    asked: Asked,
) -> ApiResult<Response<Body>> {
    match action {
        Action::Health | Action::Ready => status::status(state, action),
        Action::Append => append::one(state, asked).await,
        Action::AppendBatch => append::batch(state, asked).await,
        Action::GetEntry => entry::get(state, asked).await,
        Action::QueryLogs => logs::query(state, asked).await,
        Action::ListSegments => segments::list(state, asked).await,
        Action::GetSegment => segments::download(state, asked).await,
        Action::Tail => tail::tail(state, asked).await,
        Action::Stats => stats::stats(state, asked).await,
        Action::Report => report::report(state, asked).await,
        Action::ListExperiments => experiments::list(state, asked).await,
        Action::Describe => experiments::describe(state, asked).await,
        Action::Define => experiments::define(state, asked).await,
        Action::Delete => experiments::delete(state, asked).await,
        Action::CreateKey => keys::create(state, asked).await,
        Action::ListKeys => keys::list(state, &asked),
        Action::Metrics => metrics::metrics(state, asked).await,
        Action::RevokeKey => keys::revoke(state, asked).await,
    }
}
