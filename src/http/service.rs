//! The pipeline of one request, top to bottom.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderName, TRANSFER_ENCODING};
use hyper::{Method, Request, Response};
use tracing::{debug, error, warn};

use super::caller::{self, Names};
use super::clock::Moment;
use super::error::{ApiError, ApiResult, Code};
use super::framing::Ambiguity;
use super::life::Working;
use super::refusal::unknown_experiment;
use super::reply::{self, Body};
use super::router::Action;
use super::server::AppState;
use super::{body, handlers};
use crate::model::Slug;

const REQUEST_ID: HeaderName = HeaderName::from_static(caller::REQUEST_ID);
/// The route of a path that is none of ours: the path itself isn't told.
const NO_ROUTE: &str = "none";

/// A request that may be done, on its way to its handler.
pub struct Asked {
    /// The request.
    pub request: Request<Incoming>,
    /// The experiment in its path.
    pub slug: Option<Slug>,
    /// The id in its path.
    pub id: Option<String>,
    /// Whose it is.
    pub principal: Arc<crate::auth::Principal>,
}

/// Answers one request. Every answer, an error's too, names the request's id. Until then its
/// connection counts as working.
pub async fn respond(
    state: Arc<AppState>,
    working: Working,
    ambiguity: Ambiguity,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let begun = Moment::now();
    let names = Names::of(request.headers(), &state.request_ids);
    let method = request.method().clone();
    let is_head = method == Method::HEAD;
    let mut route = NO_ROUTE;
    let mut response = match answer(&state, &ambiguity, &mut route, request).await {
        Ok(response) => response,
        Err(refused) => {
            log_refusal(&refused, &names);
            refused.into_response()
        }
    };
    let (took, slow) = (begun.elapsed(), state.limits().slow_request);
    if took >= slow && !slow.is_zero() {
        warn!(
            request_id = names.id(),
            trace_id = names.trace_id(),
            method = method_word(&method),
            route,
            status = response.status().as_u16(),
            ms = took.as_millis(),
            "slow request"
        );
    }
    debug!(
        request_id = names.id(),
        trace_id = names.trace_id(),
        method = method_word(&method),
        route,
        status = response.status().as_u16(),
        "request answered"
    );
    response.headers_mut().insert(REQUEST_ID, names.into_id());
    response.body_mut().tell(|| working.pulse());
    if is_head {
        response = reply::without_body(response);
    }
    Ok(response)
}

/// The order of checks is part of the contract: who asks, whether they may, whether it exists,
/// whether it can be asked so; only then is the body read.
async fn answer(
    state: &AppState,
    ambiguity: &Ambiguity,
    route: &mut &'static str,
    request: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let (method, path) = (request.method(), request.uri().path());
    let place = state.router.find(path);
    if let Ok(place) = &place {
        *route = place.route();
    }
    if let Ok(place) = &place
        && place.is_open()
    {
        return handlers::status::status(state, place.action(method)?);
    }
    let principal = state.keyring.authenticate(request.headers())?;
    let place = place?;
    let slug = place.slug(method);
    let action = place.action(method);
    if let Ok(action) = &action {
        let known = slug.as_ref().ok().and_then(Option::as_ref);
        principal.may(action.scope(), known)?;
        if action.manages_keys() {
            principal.may_manage_keys()?;
        }
    }
    let slug = slug?;
    let is_new = matches!(action, Ok(Action::Define));
    if let Some(slug) = &slug {
        if !principal.sees(slug) {
            return Err(crate::auth::Denied::Experiment.into());
        }
        if !is_new && !state.store.contains(slug) {
            return Err(unknown_experiment());
        }
    }
    let action = action?;
    check_framing(ambiguity, &request)?;
    let id = place.id.map(str::to_owned);
    let asked = Asked {
        request,
        slug,
        id,
        principal,
    };
    handlers::handle(state, action, asked).await
}

fn check_framing(ambiguity: &Ambiguity, request: &Request<Incoming>) -> ApiResult<()> {
    if request.headers().contains_key(TRANSFER_ENCODING) && ambiguity.is_met() {
        let message = "content-length beside transfer-encoding: which one holds can't be told";
        return Err(ApiError::new(Code::AmbiguousLength, message));
    }
    Ok(())
}

fn log_refusal(refused: &ApiError, names: &Names) {
    let code = refused.code.as_str();
    let (request_id, trace_id) = (names.id(), names.trace_id());
    match &refused.detail {
        Some(detail) => error!(request_id, trace_id, code, detail, "request failed"),
        None => debug!(request_id, trace_id, code, "request refused"),
    }
}

/// A method that isn't one of HTTP's own may be any text of a client: it isn't told.
fn method_word(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE => method.as_str(),
        _ => "other",
    }
}

/// The slug of a path that has one.
pub fn slug_of(asked: &Asked) -> ApiResult<&Slug> {
    asked.slug.as_ref().ok_or_else(unknown_experiment)
}

/// As [`check_body`], where one JSON value is expected.
pub fn check_json_body(asked: &Asked, len_max: usize) -> ApiResult<()> {
    if check_body(asked, len_max)? == body::MediaType::NdJson {
        let message = "application/x-ndjson is for batches: POST it to …/logs";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    Ok(())
}

/// The media type and the declared length, checked before the body is read.
pub fn check_body(asked: &Asked, len_max: usize) -> ApiResult<body::MediaType> {
    body::check_length(asked.request.body(), len_max)?;
    body::media_type(asked.request.headers())
}
