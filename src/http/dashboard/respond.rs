//! Pages as responses, with the headers that keep a browser from doing anything else with them.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use maud::Markup;

use crate::dashboard::assets::Asset;
use crate::dashboard::layout::{Here, Shell, Visitor};
use crate::dashboard::pages::failure;
use crate::experiment::StoreHealth;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::reply::Body;
use crate::http::server::AppState;

/// Nothing but our own files, no frames, and forms for us alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The names of assets change with what is in them.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A page to be sent.
pub struct Whole<'a> {
    /// Its title.
    pub title: &'a str,
    /// Where it is.
    pub here: Here,
    /// Who looks.
    pub visitor: Option<&'a Visitor>,
    /// What is on it.
    pub content: Markup,
}

/// The page as a response.
pub fn page(state: &AppState, whole: Whole<'_>) -> Response<Body> {
    // Only who has signed in is told how the store is.
    let trouble = whole.visitor.and_then(|_| trouble(state));
    let shell = Shell {
        title: whole.title,
        here: whole.here,
        visitor: whole.visitor,
        trouble,
    };
    let html = shell.page(whole.content).into_string();
    let mut response = text("text/html; charset=utf-8", html);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Text that nobody keeps.
pub fn text(media_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Full(Full::new(Bytes::from(text))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    protect(&mut response);
    response
}

/// Sends on to another page.
pub fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, to);
    protect(&mut response);
    response
}

/// Why a page can't be shown, with the headers of the API's error.
pub fn failure(state: &AppState, visitor: Option<&Visitor>, refused: &ApiError) -> Response<Body> {
    let status = refused.code.status();
    let content = failure::failure(status.as_u16(), refused.code.as_str(), &refused.message);
    let title = status.canonical_reason().unwrap_or("Failed");
    let mut response = page(
        state,
        Whole {
            title,
            here: Here::Elsewhere,
            visitor,
            content,
        },
    );
    *response.status_mut() = status;
    response
}

/// A file that pages name.
pub fn asset(name: &str) -> ApiResult<Response<Body>> {
    let asset = Asset::find(name)
        .ok_or_else(|| ApiError::new(Code::NotFound, "there is nothing at this path"))?;
    let mut response = Response::new(Body::Full(Full::new(Bytes::from_static(
        asset.text.as_bytes(),
    ))));
    protect(&mut response);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(FOR_EVER));
    Ok(response)
}

fn protect(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // With no-referrer browsers wouldn't say where a form comes from.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
}

/// What the store can't do now.
fn trouble(state: &AppState) -> Option<&'static str> {
    match state.store.health() {
        StoreHealth::Ready => state.away().map(|_| {
            "This node can't reach the other nodes' journal, or has yet to catch up with it: entries may be \
             refused. Reading goes on."
        }),
        StoreHealth::StorageFull => Some(
            "The disk is full: entries are refused until there is room again. Reading goes on.",
        ),
        StoreHealth::StorageFailed => Some(
            "Writing to the disk failed: entries are refused until the server is started again and has \
             checked it. Reading goes on.",
        ),
        StoreHealth::OutOfDescriptors => Some(
            "No more files can be opened: entries are refused until that has passed. Reading goes on.",
        ),
        StoreHealth::ShuttingDown => Some("The server is shutting down."),
    }
}
