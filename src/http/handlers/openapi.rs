//! `GET /openapi.json`: what all other endpoints take and answer, for programs.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderValue};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

use crate::http::error::{ApiError, ApiResult};
use crate::http::query::parameters;
use crate::http::range::{Wanted, wanted};
use crate::http::reply::{self, Body};
use crate::http::service::Asked;

/// The API in OpenAPI 3.1. Written by hand; `tests/it/openapi.rs` holds it to the code.
pub const DOCUMENT: &str = include_str!("../openapi.json");

/// Another text has another tag.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let sha256 = Sha256::digest(DOCUMENT);
    let first: String = sha256.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("\"{first}\"")
});

/// The document; or nothing, if the client has it.
pub fn document(asked: &Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let len = DOCUMENT.len() as u64;
    let mut response = match wanted(asked.request.headers(), &TAG, len) {
        Wanted::Nothing => {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        // It is sent whole: nobody needs a part.
        _ => reply::json(StatusCode::OK, Bytes::from_static(DOCUMENT.as_bytes())),
    };
    let headers = response.headers_mut();
    let tag = HeaderValue::from_str(&TAG).map_err(ApiError::internal)?;
    headers.insert(ETAG, tag);
    // Whoever keeps it asks whether it is still the one.
    let private = HeaderValue::from_static("private, no-cache");
    headers.insert(CACHE_CONTROL, private);
    Ok(response)
}
