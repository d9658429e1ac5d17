//! Building responses.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
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

/// A response of `value` as JSON.
pub fn json_of(status: StatusCode, value: &impl Serialize) -> ApiResult<Response<Body>> {
    let text = serde_json::to_vec(value).map_err(ApiError::internal)?;
    Ok(json(status, text))
}
