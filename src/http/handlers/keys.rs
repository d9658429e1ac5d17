//! Keys: create, list, revoke.

use hyper::{Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::auth::{KeyInfo, NewKey, Scope};
use crate::http::body;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::object::Object;
use crate::http::query::parameters;
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, check_json_body};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyRequest {
    name: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    experiments: Vec<String>,
    expires_at: Option<String>,
}

#[derive(Serialize)]
struct Created {
    #[serde(flatten)]
    info: KeyInfo,
    key: String,
}

#[derive(Serialize)]
struct Listed {
    keys: Vec<KeyInfo>,
}

/// `POST /keys`: the only answer that has the secret.
pub async fn create(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let limits = asked.limits.clone();
    let len_max = limits.body_bytes_max;
    let coding = check_json_body(&asked, len_max)?;
    let [] = parameters(asked.request.uri().query(), [])?;
    let body = asked.request.into_body();
    let (body, _permit) = body::read(body, coding, len_max, state, &limits).await?;
    let bad = |why: String| ApiError::new(Code::BadKeyRequest, why);
    let Object::<KeyRequest>(request) =
        serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let expires_at = request
        .expires_at
        .map(|text| text.parse::<Timestamp>())
        .transpose();
    let expires_at = expires_at.map_err(|_| bad("expiresAt is an RFC 3339 time".into()))?;
    let new = NewKey {
        name: request.name,
        scopes: request.scopes,
        experiments: request.experiments,
        expires_at_ms: expires_at.map(|at| u64::try_from(at.as_millisecond()).unwrap_or(0)),
    };
    let (info, key) = tokio::task::block_in_place(|| state.keyring.create(new))?;
    reply::json_of(StatusCode::CREATED, &Created { info, key })
}

/// `GET /keys`.
pub fn list(state: &AppState, asked: &Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let keys = state.keyring.list();
    reply::json_of(StatusCode::OK, &Listed { keys })
}

/// `DELETE /keys/:id`.
pub async fn revoke(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let id = asked.id.unwrap_or_default();
    tokio::task::block_in_place(|| state.keyring.revoke(&id))?;
    Ok(reply::json(StatusCode::OK, r#"{"success":true}"#))
}
