//! `POST /experiment/:slug/log` and `/logs`: the hot path.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::experiment::{AppendError, Appended, BytePermit};
use crate::http::body::{self, MediaType, STALLING_BYTES};
use crate::http::coding::Coding;
use crate::http::error::{ApiError, ApiResult};
use crate::http::idempotency::Keys;
use crate::http::json::{Batch, Shape, parse_batch, parse_entry};
use crate::http::limits::Limits;
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, check_body, check_json_body, slug_of};
use crate::model::{Durability, LogId, NewEntry, Slug};

const DURABILITY: HeaderName = HeaderName::from_static("trialog-durability");
/// How many entries of a request were stored before. Not there when none was.
const REPEATED: HeaderName = HeaderName::from_static("trialog-repeated");

/// One entry to append.
pub struct One {
    slug: Slug,
    keys: Keys,
    coding: Coding,
    body: Incoming,
    limits: Arc<Limits>,
}

impl One {
    /// The entry that is sent, if it can be one by its headers.
    pub fn new(asked: Asked) -> ApiResult<Self> {
        let limits = asked.limits.clone();
        let coding = check_json_body(&asked, limits.body_bytes_max)?;
        let keys = Keys::of_entry(asked.request.headers())?;
        let slug = slug_of(&asked)?.clone();
        let body = asked.request.into_body();
        Ok(Self {
            slug,
            keys,
            coding,
            body,
            limits,
        })
    }

    /// Appends it and answers its id once it is durable.
    pub async fn append(self, state: &AppState) -> ApiResult<Response<Body>> {
        let (body, permit) = body::read(
            self.body,
            self.coding,
            self.limits.body_bytes_max,
            state,
            &self.limits,
        )
        .await?;
        let nesting_max = self.limits.nesting_max;
        let (entry, permit) = check(body, self.keys, nesting_max, permit).await?;
        let appended = state.append(&self.slug, vec![entry], permit).await?;
        let id = appended.ids.first().ok_or(AppendError::Failed)?;

        const BEGIN: &[u8] = br#"{"success":true,"logId":""#;
        let mut text = Vec::with_capacity(BEGIN.len() + LogId::TEXT_LEN + 2);
        text.extend_from_slice(BEGIN);
        text.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
        text.extend_from_slice(b"\"}");
        Ok(acknowledged(state, text, &appended))
    }
}

/// Appends all entries of a batch or none.
pub async fn batch(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let limits = asked.limits.clone();
    let len_max = limits.batch_bytes_max;
    let (media_type, coding) = check_body(&asked, len_max)?;
    let shape = match media_type {
        MediaType::NdJson => Some(Shape::Lines),
        // Many clients send lines with JSON's own type.
        MediaType::Json | MediaType::Unsaid => None,
    };
    let keys = Keys::of_batch(asked.request.headers())?;
    let slug = slug_of(&asked)?.clone();
    let body = asked.request.into_body();
    let (body, permit) = body::read(body, coding, len_max, state, &limits).await?;
    let (batch, permit) = check_batch(body, shape, keys, limits.nesting_max, permit).await?;
    let places = batch.places();
    let appended = state.append(&slug, batch.entries, permit).await;
    let appended = appended.map_err(|error| {
        let position = error.position();
        let mut refused = ApiError::from(error);
        if let Some(position) = position {
            refused.message = format!("{}: {}", places.name(position), refused.message).into();
        }
        refused
    })?;

    let ids = &appended.ids;
    let mut text = format!(r#"{{"success":true,"count":{},"logIds":["#, ids.len()).into_bytes();
    text.reserve(ids.len() * (LogId::TEXT_LEN + 3));
    for (n, id) in ids.iter().enumerate() {
        text.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
        text.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(b"]}");
    Ok(acknowledged(state, text, &appended))
}

async fn check(
    body: Bytes,
    keys: Keys,
    nesting_max: usize,
    mut permit: BytePermit,
) -> ApiResult<(NewEntry, BytePermit)> {
    let is_stalling = body.len() >= STALLING_BYTES;
    let check = move || {
        let mut entry = parse_entry(body, nesting_max)?;
        keys.give_to(std::slice::from_mut(&mut entry), &mut permit)?;
        Ok((entry, permit))
    };
    if is_stalling {
        let checked = tokio::task::spawn_blocking(check).await;
        checked.map_err(ApiError::internal)?
    } else {
        check()
    }
}

async fn check_batch(
    body: Bytes,
    shape: Option<Shape>,
    keys: Keys,
    nesting_max: usize,
    mut permit: BytePermit,
) -> ApiResult<(Batch, BytePermit)> {
    let is_stalling = body.len() >= STALLING_BYTES;
    let check = move || {
        let mut reserve = |bytes: usize| permit.try_grow(bytes);
        let mut batch = parse_batch(body, shape, nesting_max, &mut reserve)?;
        keys.give_to(&mut batch.entries, &mut permit)?;
        Ok((batch, permit))
    };
    if is_stalling {
        let checked = tokio::task::spawn_blocking(check).await;
        checked.map_err(ApiError::internal)?
    } else {
        check()
    }
}

fn acknowledged(state: &AppState, text: Vec<u8>, appended: &Appended) -> Response<Body> {
    let durability = match state.store.durability() {
        Durability::Sync => const { HeaderValue::from_static("sync") },
        Durability::Relaxed => const { HeaderValue::from_static("relaxed") },
    };
    let mut response = reply::json(StatusCode::OK, text);
    response.headers_mut().insert(DURABILITY, durability);
    if appended.repeated > 0 {
        let repeated = HeaderValue::from(appended.repeated);
        response.headers_mut().insert(REPEATED, repeated);
    }
    response
}
