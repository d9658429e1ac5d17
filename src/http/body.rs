//! Reading a request's body: up to a limit, within the in-flight budget, and not for ever.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::CONTENT_TYPE;

use super::coding::{Coding, Undecoded};
use super::error::{ApiError, ApiResult, Code};
use super::limits::Limits;
use super::server::AppState;
use crate::experiment::{BytePermit, OverBudget};

/// A body of at most this size leaves the buffer that the connection reads into. To copy it costs
/// less than the new buffer that the connection would need while the entry waits.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Bodies over this size are worked on where they stall nobody.
pub const STALLING_BYTES: usize = 256 << 10;

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

/// Reads the whole body; at most `len_max` bytes come out of it. The permit covers its bytes.
pub async fn read(
    body: Incoming,
    coding: Coding,
    len_max: usize,
    state: &AppState,
    limits: &Limits,
) -> ApiResult<(Bytes, BytePermit)> {
    match coding {
        Coding::Identity => read_as_sent(body, len_max, state, limits).await,
        // On the heap, so that the future of a plain body stays small.
        coding => Box::pin(read_decoded(body, coding, len_max, state, limits)).await,
    }
}

/// Reads a body to its end, then decodes it: while a client is slow, nothing has come out yet.
async fn read_decoded(
    body: Incoming,
    coding: Coding,
    len_max: usize,
    state: &AppState,
    limits: &Limits,
) -> ApiResult<(Bytes, BytePermit)> {
    let (sent, mut permit) =
        read_as_sent(body, coding.sent_len_max(len_max), state, limits).await?;
    let sent_len = sent.len();
    // What is short at both ends is decoded here. What turns out not to be begins anew elsewhere.
    let mut decoded = Err(Undecoded::TooLong);
    if sent_len < STALLING_BYTES {
        decoded = coding.decode(&sent, len_max.min(STALLING_BYTES), &mut permit);
    }
    if decoded == Err(Undecoded::TooLong) && len_max > STALLING_BYTES {
        permit.shrink(permit.bytes() - sent_len);
        let decode = move || (coding.decode(&sent, len_max, &mut permit), permit);
        let elsewhere = tokio::task::spawn_blocking(decode).await;
        (decoded, permit) = elsewhere.map_err(ApiError::internal)?;
    }
    let decoded = decoded.map_err(|undecoded| match undecoded {
        Undecoded::TooLong => too_large(len_max),
        Undecoded::OverBudget => OverBudget.into(),
        Undecoded::Broken => coding.broken(),
    })?;
    permit.shrink(sent_len);
    Ok((decoded, permit))
}

async fn read_as_sent(
    mut body: Incoming,
    len_max: usize,
    state: &AppState,
    limits: &Limits,
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
        let rest = Box::pin(pieces.take_rest(body, limits.body_silence_max));
        let rest = tokio::time::timeout(limits.body_time_max, rest).await;
        pieces = rest.map_err(|_| late())??;
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
            let frame = silence.await.map_err(|_| late())?;
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

fn late() -> ApiError {
    ApiError::new(Code::BodyTimeout, "the body did not come in time")
}

fn too_large(len_max: usize) -> ApiError {
    let message = format!("the body has more than {len_max} bytes");
    ApiError::new(Code::BodyTooLarge, message)
}
