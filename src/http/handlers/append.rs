//! `POST /experiment/:slug/log` and `/logs`: the hot path.

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::experiment::{AppendError, BytePermit};
use crate::http::body::{self, MediaType};
use crate::http::error::{ApiError, ApiResult};
use crate::http::json::{Batch, Shape, parse_batch, parse_entry};
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, check_body, check_json_body, slug_of};
use crate::model::{Durability, LogId, NewEntry};

/// Bodies over this size are checked on a thread where they stall nobody.
const STALLING_BYTES: usize = 256 << 10;

const DURABILITY: HeaderName = HeaderName::from_static("trialog-durability");

/// Appends one entry and answers its id once it is durable.
pub async fn one(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let len_max = state.limits.body_bytes_max;
    check_json_body(&asked, len_max)?;
    let slug = slug_of(&asked)?.clone();
    let (body, permit) = body::read(asked.request.into_body(), len_max, state).await?;
    let entry = check(body).await?;
    let id = state.store.append(&slug, entry, permit).await?;

    const BEGIN: &[u8] = br#"{"success":true,"logId":""#;
    let mut text = Vec::with_capacity(BEGIN.len() + LogId::TEXT_LEN + 2);
    text.extend_from_slice(BEGIN);
    text.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
    text.extend_from_slice(b"\"}");
    Ok(acknowledged(state, text))
}

/// Appends all entries of a batch or none.
pub async fn batch(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let len_max = state.limits.batch_bytes_max;
    let shape = match check_body(&asked, len_max)? {
        MediaType::NdJson => Some(Shape::Lines),
        // Many clients send lines with JSON's own type.
        MediaType::Json | MediaType::Unsaid => None,
    };
    let slug = slug_of(&asked)?.clone();
    let (body, permit) = body::read(asked.request.into_body(), len_max, state).await?;
    let (batch, permit) = check_batch(body, shape, permit).await?;
    let places = batch.places();
    let appended = state.store.append_batch(&slug, batch.entries, permit).await;
    let ids = appended.map_err(|error| {
        let position = match &error {
            AppendError::UnknownVariant { position, .. }
            | AppendError::TooManyVariants { position } => Some(*position),
            _ => None,
        };
        let mut refused = ApiError::from(error);
        if let Some(position) = position {
            refused.message = format!("{}: {}", places.name(position), refused.message).into();
        }
        refused
    })?;

    let mut text = format!(r#"{{"success":true,"count":{},"logIds":["#, ids.len()).into_bytes();
    text.reserve(ids.len() * (LogId::TEXT_LEN + 3));
    for (n, id) in ids.iter().enumerate() {
        text.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
        text.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(b"]}");
    Ok(acknowledged(state, text))
}

async fn check(body: Bytes) -> ApiResult<NewEntry> {
    if body.len() < STALLING_BYTES {
        return Ok(parse_entry(body)?);
    }
    let checked = tokio::task::spawn_blocking(move || parse_entry(body)).await;
    Ok(checked.map_err(ApiError::internal)??)
}

async fn check_batch(
    body: Bytes,
    shape: Option<Shape>,
    mut permit: BytePermit,
) -> ApiResult<(Batch, BytePermit)> {
    let is_stalling = body.len() >= STALLING_BYTES;
    let check = move || {
        let mut reserve = |bytes: usize| permit.try_grow(bytes);
        let batch = parse_batch(body, shape, &mut reserve)?;
        Ok((batch, permit))
    };
    if is_stalling {
        let checked = tokio::task::spawn_blocking(check).await;
        checked.map_err(ApiError::internal)?
    } else {
        check()
    }
}

fn acknowledged(state: &AppState, text: Vec<u8>) -> Response<Body> {
    let durability = match state.store.durability() {
        Durability::Sync => const { HeaderValue::from_static("sync") },
        Durability::Relaxed => const { HeaderValue::from_static("relaxed") },
    };
    let mut response = reply::json(StatusCode::OK, text);
    response.headers_mut().insert(DURABILITY, durability);
    response
}
