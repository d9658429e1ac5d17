//! `GET /experiment/:slug/log/:logId`.

use hyper::{Response, StatusCode};

use crate::entry_json::EntryWriter;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::query::parameters;
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, slug_of};
use crate::model::LogId;

/// One entry, as it was sent.
pub async fn get(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let slug = slug_of(&asked)?;
    let unknown = || {
        ApiError::new(
            Code::LogNotFound,
            "this experiment has no entry with this id",
        )
    };
    let id: LogId = asked
        .id
        .as_deref()
        .and_then(|id| id.parse().ok())
        .ok_or_else(unknown)?;
    let entry = match state.store.get(slug, id).await? {
        Some(entry) => entry,
        None => {
            state.await_id(slug, id).await;
            state.store.get(slug, id).await?.ok_or_else(unknown)?
        }
    };
    let mut text = Vec::with_capacity(entry.body.len() + 160);
    EntryWriter::default().write(&mut text, slug, id, entry.received_at_ms, &entry.body);
    Ok(reply::json(StatusCode::OK, text))
}
