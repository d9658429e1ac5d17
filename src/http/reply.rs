//! Building responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use super::error::{ApiError, ApiResult};
use super::life::Pulse;

/// The body of a response.
pub enum Body {
    /// All of it.
    Full(Full<Bytes>),
    /// What is made while it is sent. Each piece shows that its connection isn't quiet.
    Stream(Stream, Option<Pulse>),
}

/// A body ends here, and is not whole: the connection says so.
#[derive(Debug, thiserror::Error)]
#[error("what was to be sent can't be read")]
pub struct CutShort;

type Stream = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = CutShort> + Send>>;

impl Body {
    /// A body that is made while it is sent.
    pub fn stream(
        stream: impl hyper::body::Body<Data = Bytes, Error = CutShort> + Send + 'static,
    ) -> Self {
        Self::Stream(Box::pin(stream), None)
    }

    /// Has a stream tell the connection's life of its progress.
    pub fn tell(&mut self, told: impl FnOnce() -> Pulse) {
        if let Self::Stream(_, pulse) = self {
            *pulse = Some(told());
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Full(Full::default())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Full(full) => {
                let polled = Pin::new(full).poll_frame(context);
                polled.map_err(|never| match never {})
            }
            Self::Stream(stream, pulse) => {
                if let Some(pulse) = pulse {
                    pulse.beat();
                }
                stream.as_mut().poll_frame(context)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(stream, _) => stream.size_hint(),
        }
    }
}

/// A response of ready-made JSON.
pub fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Body::Full(Full::new(text.into())));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The same response to HEAD, which tells the length of a body and has none. hyper sees to that
/// for HTTP/1 alone.
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(len) = body.size_hint().exact() {
        head.headers.insert(CONTENT_LENGTH, len.into());
    }
    Response::from_parts(head, Body::default())
}

/// A response of `value` as JSON.
pub fn json_of(status: StatusCode, value: &impl Serialize) -> ApiResult<Response<Body>> {
    let text = serde_json::to_vec(value).map_err(ApiError::internal)?;
    Ok(json(status, text))
}
