//! Building responses.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use super::error::{ApiError, ApiResult};

/// The body of a response.
pub type Body = Full<Bytes>;

/// A response of ready-made JSON.
pub fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Full::new(text.into()));
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
