//! One short function for each action.

mod append;
mod entry;
mod experiments;
mod keys;
pub mod logs;
mod metrics;
pub mod openapi;
pub mod report;
mod segments;
mod stats;
pub mod status;
pub mod tail;

use hyper::Response;

use super::dashboard::{self, Visit};
use super::error::{ApiError, ApiResult};
use super::reply::Body;
use super::router::Action;
use super::server::AppState;
use super::service::Asked;

/// What is to be done for a request that passed the checks.
pub enum Work {
    /// Tell how the server is.
    Status(Action),
    /// Append one entry: the hot path.
    Append(append::One),
    /// A page of the dashboard.
    Dashboard(Box<Visit>),
    /// Anything else. In a box, so that an append stays small.
    Other(Action, Box<Asked>),
}

impl Work {
    /// The work of a request. What can be refused before its body is read is refused here.
    pub fn new(action: Action, asked: Asked) -> ApiResult<Self> {
        match action {
            Action::Append => append::One::new(asked).map(Self::Append),
            action => Ok(Self::Other(action, Box::new(asked))),
        }
    }

    /// Does it.
    pub async fn answer(self, state: &AppState) -> ApiResult<Response<Body>> {
        match self {
            Self::Status(action) => status::status(state, action),
            Self::Append(one) => one.append(state).await,
            Self::Dashboard(visit) => Box::pin(dashboard::answer(state, *visit)).await,
            Self::Other(action, asked) => Box::pin(handle(state, action, *asked)).await,
        }
    }
}

async fn handle(state: &AppState, action: Action, asked: Asked) -> ApiResult<Response<Body>> {
    match action {
        Action::Health | Action::Ready => status::status(state, action),
        Action::Append => append::One::new(asked)?.append(state).await,
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
        Action::OpenApi => openapi::document(&asked),
        Action::RevokeKey => keys::revoke(state, asked).await,
        Action::Look | Action::Act => Err(ApiError::internal("a page came as an action")),
    }
}
