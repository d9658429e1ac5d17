//! Reading a request's body: up to a limit, within the in-flight budget, and not for ever.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::error::{ApiError, ApiResult, Code};
use super::server::AppState;
use crate::experiment::BytePermit;

/// A body of at most this size leaves the buffer that the connection reads into. To copy it costs
/// less than the new buffer that the connection would need while the entry waits.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// What a body is, by its `content-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// JSON.
    Json,
    /// JSON, one value a line.
    NdJson,
    /// The header is missing.
    Unsaid,
}

/// Reads the whole body, at most `len_max` bytes of it. The permit covers its bytes.
pub async fn read(
    mut body: Incoming,
    len_max: usize,
    state: &AppState,
) -> ApiResult<(Bytes, BytePermit)> {
    let hint = body.size_hint();
    if hint.lower() > len_max as u64 {
        return Err(too_large(len_max));
    }
    let mut permit = state.store.reserve(hint.lower() as usize)?;
    let mut covered = hint.lower() as usize;
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let silence_max = state.limits().body_silence_max;
    loop {
        let Some(frame) = next_frame(&mut body, silence_max).await? else {
            break;
        };
        let frame = frame.map_err(|_| {
            ApiError::new(
                Code::BodyIncomplete,
                "the body ended before it was complete",
            )
        })?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let len = first.len() + joined.len() + piece.len();
        if len > len_max {
            return Err(too_large(len_max));
        }
        if len > covered {
            permit.try_grow(len - covered)?;
            covered = len;
        }
        if first.is_empty() && joined.is_empty() {
            first = piece;
        } else {
            if joined.is_empty() {
                joined.reserve(hint.lower() as usize);
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&piece);
        }
    }
    let body = if !joined.is_empty() {
        joined.freeze()
    } else if first.len() <= COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&first)
    } else {
        first
    };
    Ok((body, permit))
}

/// The next piece of the body. Most bodies come with their head, and a timer costs more than to
/// read them: it is set only when the piece isn't there yet.
async fn next_frame(
    body: &mut Incoming,
    silence_max: Duration,
) -> ApiResult<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let here = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
    if let Poll::Ready(frame) = here {
        return Ok(frame);
    }
    let silence = tokio::time::timeout(silence_max, body.frame());
    silence.await.map_err(|_| {
        let message = "the body did not come in time";
        ApiError::new(Code::BodyTimeout, message)
    })
}

/// Refuses a declared length over the limit, before anything is read.
pub fn check_length(body: &Incoming, len_max: usize) -> ApiResult<()> {
    if body.size_hint().lower() > len_max as u64 {
        return Err(too_large(len_max));
    }
    Ok(())
}

/// What the headers say that the body is.
pub fn media_type(headers: &HeaderMap) -> ApiResult<MediaType> {
    let encodings = headers.get_all(CONTENT_ENCODING).iter();
    let mut encodings = encodings.map(|value| value.as_bytes().trim_ascii());
    if !encodings.all(|coding| coding.eq_ignore_ascii_case(b"identity")) {
        let message = "this content-encoding is not supported; send the body as it is";
        return Err(ApiError::new(Code::UnsupportedContentEncoding, message));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = types.next() else {
        return Ok(MediaType::Unsaid);
    };
    let unsupported = || {
        let message = "the content-type must be application/json (charset utf-8), for batches \
            also application/x-ndjson";
        ApiError::new(Code::UnsupportedMediaType, message)
    };
    if types.next().is_some() {
        return Err(unsupported());
    }
    let text = value.to_str().map_err(|_| unsupported())?;
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) => {
            !name.eq_ignore_ascii_case("charset")
                || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        None => true,
    };
    if !parts.all(is_utf8) {
        return Err(unsupported());
    }
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(MediaType::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(MediaType::NdJson)
    } else {
        Err(unsupported())
    }
}

fn too_large(len_max: usize) -> ApiError {
    let message = format!("the body has more than {len_max} bytes");
    ApiError::new(Code::BodyTooLarge, message)
}
