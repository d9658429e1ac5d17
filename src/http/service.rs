//! The pipeline of one request, top to bottom.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response};
use tracing::{debug, error};

use super::body;
use super::coding::Coding;
use super::error::{ApiError, ApiResult, Code};
use super::framing::Ambiguity;
use super::handlers::Work;
use super::life::Working;
use super::metrics::Limit;
use super::refusal::unknown_experiment;
use super::reply::{self, Body};
use super::router::{Action, Place};
use super::server::AppState;
use crate::model::Slug;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REQUEST_ID_LEN_MAX: usize = 128;

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

/// A request that is worked on; it no longer is when this is dropped.
struct Worked(Arc<AppState>);

impl Worked {
    fn begin(state: Arc<AppState>) -> Self {
        state.metrics.begin();
        Self(state)
    }
}

impl Drop for Worked {
    fn drop(&mut self) {
        self.0.metrics.end();
    }
}

/// Answers one request. Every answer, an error's too, names the request's id. Until then its
/// connection counts as working.
pub fn respond(
    state: Arc<AppState>,
    working: Working,
    ambiguity: &Ambiguity,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let begun = Instant::now();
    let request_id = request_id(&state, &request);
    let is_head = request.method() == Method::HEAD;
    let worked = Worked::begin(state);
    // Before the first wait, so that the future, which is moved for each request, holds little.
    let mut asked_for = None;
    let work = check(&worked.0, ambiguity, request, &mut asked_for);
    async move {
        let state = &*worked.0;
        let answered = match work {
            Ok(work) => work.answer(state).await,
            Err(refused) => Err(refused),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(refused) => {
                state.metrics.refused(&refused);
                log_refusal(&refused, &request_id);
                refused.into_response()
            }
        };
        let status = response.status();
        state.metrics.answered(asked_for, status, begun.elapsed());
        response.headers_mut().insert(REQUEST_ID, request_id);
        response.body_mut().tell(|| working.pulse());
        if is_head {
            response = reply::without_body(response);
        }
        Ok(response)
    }
}

/// The order of checks is part of the contract: who asks, whether they may, whether it exists,
/// whether it can be asked so; only then is the body read.
fn check(
    state: &AppState,
    ambiguity: &Ambiguity,
    request: Request<Incoming>,
    asked_for: &mut Option<Action>,
) -> ApiResult<Work> {
    let (method, path) = (request.method(), request.uri().path());
    let place = state.router.find(path);
    if let Ok(place) = &place
        && place.is_open()
    {
        let action = place.action(method)?;
        *asked_for = Some(action);
        return Ok(Work::Status(action));
    }
    // Early, but behind what load balancers ask.
    if state.metrics.in_flight() > state.limits.requests_max {
        let message = "too many requests are in flight; nothing was stored, try again";
        return Err(ApiError::overloaded(Limit::InflightRequests, message));
    }
    let headers = request.headers();
    let by_bearer = place.as_ref().is_ok_and(Place::takes_bearer) && !headers.contains_key(API_KEY);
    let principal = match by_bearer {
        true => state.keyring.authenticate_bearer(headers),
        false => state.keyring.authenticate(headers),
    }?;
    let place = place?;
    let slug = place.slug(method);
    let action = place.action(method);
    if let Ok(action) = &action {
        *asked_for = Some(*action);
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
    Work::new(state, action, asked)
}

fn check_framing(ambiguity: &Ambiguity, request: &Request<Incoming>) -> ApiResult<()> {
    if request.headers().contains_key(TRANSFER_ENCODING) && ambiguity.is_met() {
        let message = "content-length beside transfer-encoding: which one holds can't be told";
        return Err(ApiError::new(Code::AmbiguousLength, message));
    }
    Ok(())
}

fn request_id(state: &AppState, request: &Request<Incoming>) -> HeaderValue {
    let sent = request.headers().get(REQUEST_ID);
    let usable = sent.filter(|id| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_LEN_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    usable.cloned().unwrap_or_else(|| state.request_ids.next())
}

fn log_refusal(refused: &ApiError, request_id: &HeaderValue) {
    let code = refused.code.as_str();
    match &refused.detail {
        Some(detail) => error!(?request_id, code, detail, "request failed"),
        None => debug!(?request_id, code, "request refused"),
    }
}

/// The slug of a path that has one.
pub fn slug_of(asked: &Asked) -> ApiResult<&Slug> {
    asked.slug.as_ref().ok_or_else(unknown_experiment)
}

/// As [`check_body`], where one JSON value is expected.
pub fn check_json_body(asked: &Asked, len_max: usize) -> ApiResult<Coding> {
    let (media_type, coding) = check_body(asked, len_max)?;
    if media_type == body::MediaType::NdJson {
        let message = "application/x-ndjson is for batches: POST it to …/logs";
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    Ok(coding)
}

/// The media type, the coding and the declared length, checked before the body is read.
pub fn check_body(asked: &Asked, len_max: usize) -> ApiResult<(body::MediaType, Coding)> {
    let coding = Coding::of(asked.request.headers());
    // Of a coding that isn't known nothing can come out.
    let sent_len_max = coding
        .as_ref()
        .map_or(len_max, |coding| coding.sent_len_max(len_max));
    body::check_length(asked.request.body(), sent_len_max)?;
    Ok((body::media_type(asked.request.headers())?, coding?))
}
