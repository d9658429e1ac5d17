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
    let declared = body.size_hint().lower();
    if declared > len_max as u64 {
        return Err(too_large(len_max));
    }
    let declared = declared as usize;
    let mut pieces = Pieces {
        permit: state.store.reserve(declared)?,
        covered: declared,
        len_max,
        first: Bytes::new(),
        joined: BytesMut::new(),
    };
    // Most bodies come with their head and in one piece.
    let here = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await;
    match here {
        Poll::Ready(None) => return Ok(pieces.join()),
        Poll::Ready(Some(frame)) => pieces.take(frame)?,
        Poll::Pending => {}
    }
    if !body.is_end_stream() {
        // In a box, so that the future of the others stays small: it is moved for each request.
        pieces = Box::pin(pieces.take_rest(body, state.limits.body_silence_max)).await?;
    }
    Ok(pieces.join())
}

/// What came of a body so far.
struct Pieces {
    permit: BytePermit,
    /// How many bytes the permit is for.
    covered: usize,
    len_max: usize,
    first: Bytes,
    /// All pieces, when there are several.
    joined: BytesMut,
}

impl Pieces {
    async fn take_rest(mut self, mut body: Incoming, silence_max: Duration) -> ApiResult<Self> {
        loop {
            let silence = tokio::time::timeout(silence_max, body.frame());
            let frame = silence.await.map_err(|_| {
                let message = "the body did not come in time";
                ApiError::new(Code::BodyTimeout, message)
            })?;
            match frame {
                Some(frame) => self.take(frame)?,
                None => return Ok(self),
            }
        }
    }

    fn take(&mut self, frame: Result<Frame<Bytes>, hyper::Error>) -> ApiResult<()> {
        let frame = frame.map_err(|_| {
            let message = "the body ended before it was complete";
            ApiError::new(Code::BodyIncomplete, message)
        })?;
        let Ok(piece) = frame.into_data() else {
            return Ok(());
        };
        let len = self.first.len() + self.joined.len() + piece.len();
        if len > self.len_max {
            return Err(too_large(self.len_max));
        }
        if len > self.covered {
            self.permit.try_grow(len - self.covered)?;
            self.covered = len;
        }
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = piece;
        } else {
            if self.joined.is_empty() {
                self.joined.reserve(self.covered);
                self.joined
                    .extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.joined.extend_from_slice(&piece);
        }
        Ok(())
    }

    fn join(self) -> (Bytes, BytePermit) {
        let body = if !self.joined.is_empty() {
            self.joined.freeze()
        } else if self.first.len() <= COPIED_BYTES_MAX {
            Bytes::copy_from_slice(&self.first)
        } else {
            self.first
        };
        (body, self.permit)
    }
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
