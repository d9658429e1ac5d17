//! The pipeline of one request, top to bottom.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{HeaderName, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use tracing::{debug, error, warn};

use super::body;
use super::caller::{self, Names};
use super::coding::Coding;
use super::dashboard::Visit;
use super::error::{ApiError, ApiResult, Code};
use super::framing::Ambiguity;
use super::handlers::Work;
use super::life::Working;
use super::limits::Limits;
use super::metrics::Limit;
use super::refusal::unknown_experiment;
use super::reply::{self, Body};
use super::router::{Action, Place};
use super::server::AppState;
use crate::auth::AuthError;
use crate::model::Slug;

const REQUEST_ID: HeaderName = HeaderName::from_static(caller::REQUEST_ID);
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
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
    /// The bounds that hold for it.
    pub limits: Arc<Limits>,
}

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Origin<'c> {
    /// The peer's address.
    pub address: IpAddr,
    /// What its connection has seen.
    pub ambiguity: &'c Ambiguity,
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

/// What is told of a request: in the metrics, and in the log.
struct Teller {
    begun: Instant,
    names: Names,
    method: &'static str,
    route: &'static str,
    action: Option<Action>,
    slow: Duration,
}

impl Teller {
    fn of(request: &Request<Incoming>, state: &AppState, limits: &Limits) -> Self {
        Self {
            begun: Instant::now(),
            names: Names::of(request.headers(), &state.request_ids),
            method: method_word(request.method()),
            route: NO_ROUTE,
            action: None,
            slow: limits.slow_request,
        }
    }

    fn refused(&self, refused: &ApiError, state: &AppState) {
        state.metrics.refused(refused);
        let code = refused.code.as_str();
        let (request_id, trace_id) = (self.names.id(), self.names.trace_id());
        match &refused.detail {
            Some(detail) => error!(request_id, trace_id, code, detail, "request failed"),
            None => debug!(request_id, trace_id, code, "request refused"),
        }
    }

    fn answered(&self, status: StatusCode, state: &AppState) {
        let took = self.begun.elapsed();
        state.metrics.answered(self.action, status, took);
        let (request_id, trace_id) = (self.names.id(), self.names.trace_id());
        let (method, route, status) = (self.method, self.route, status.as_u16());
        if took >= self.slow && !self.slow.is_zero() {
            let ms = took.as_millis();
            warn!(
                request_id,
                trace_id, method, route, status, ms, "slow request"
            );
        }
        debug!(
            request_id,
            trace_id, method, route, status, "request answered"
        );
    }
}

/// Answers one request. Every answer, an error's too, names the request's id. Until then its
/// connection counts as working.
pub fn respond(
    state: Arc<AppState>,
    working: Working,
    from: Origin<'_>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let limits = state.limits();
    let mut teller = Teller::of(&request, &state, &limits);
    let is_head = request.method() == Method::HEAD;
    let worked = Worked::begin(state);
    // Before the first wait, so that the future, which is moved for each request, holds little.
    let work = check(&worked.0, limits, from, request, &mut teller);
    async move {
        let state = &*worked.0;
        let answered = match work {
            Ok(work) => work.answer(state).await,
            Err(refused) => Err(refused),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(refused) => {
                teller.refused(&refused, state);
                refused.into_response()
            }
        };
        teller.answered(response.status(), state);
        response
            .headers_mut()
            .insert(REQUEST_ID, teller.names.into_id());
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
    limits: Arc<Limits>,
    from: Origin<'_>,
    request: Request<Incoming>,
    teller: &mut Teller,
) -> ApiResult<Work> {
    let (method, path) = (request.method(), request.uri().path());
    let place = state.router.find(path);
    if let Ok(place) = &place {
        teller.route = place.route();
    }
    if let Ok(place) = &place
        && place.is_open()
    {
        let action = place.action(method)?;
        teller.action = Some(action);
        return Ok(Work::Status(action));
    }
    // Early, but behind what load balancers ask.
    if state.metrics.in_flight() > limits.requests_max {
        let message = "too many requests are in flight; nothing was stored, try again";
        return Err(ApiError::overloaded(Limit::InflightRequests, message));
    }
    check_head(&request, &limits)?;
    if let Ok(place) = &place
        && place.is_dashboard()
    {
        let action = place.action(method)?;
        teller.action = Some(action);
        check_framing(from.ambiguity, &request)?;
        let (head, body) = request.into_parts();
        return Ok(Work::Dashboard(Box::new(Visit {
            request: Request::from_parts(head, ()),
            body: Some(body),
            address: from.address,
            now: teller.begun.saturating_duration_since(state.begun),
            limits,
        })));
    }
    let headers = request.headers();
    let by_bearer = place.as_ref().is_ok_and(Place::takes_bearer) && !headers.contains_key(API_KEY);
    let principal = match by_bearer {
        true => state.keyring.authenticate_bearer(headers),
        false => state.keyring.authenticate(headers),
    };
    let now = teller.begun.saturating_duration_since(state.begun);
    let principal = principal.map_err(|error| failed(state, error, from, now, &limits))?;
    principal.admit(now, limits.key_rate).map_err(|wait| {
        let rate = limits.key_rate;
        let message =
            format!("a key may ask {rate} times a second: nothing was done, wait a moment");
        ApiError::too_soon(Code::RateLimited, wait, message)
    })?;
    let place = place?;
    let slug = place.slug(method);
    let action = place.action(method);
    if let Ok(action) = &action {
        teller.action = Some(*action);
        let known = slug.as_ref().ok().and_then(Option::as_ref);
        if let Some(scope) = action.scope() {
            principal.may(scope, known)?;
        }
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
    check_framing(from.ambiguity, &request)?;
    let id = place.id.map(str::to_owned);
    let asked = Asked {
        request,
        slug,
        id,
        principal,
        limits,
    };
    Work::new(action, asked)
}

/// The sizes of a head. (What is far beyond them the parser refuses.)
fn check_head(request: &Request<Incoming>, limits: &Limits) -> ApiResult<()> {
    let url_len = request
        .uri()
        .path_and_query()
        .map_or(0, |url| url.as_str().len());
    if url_len > limits.url_bytes_max {
        let message = format!(
            "path and query have more than {} bytes",
            limits.url_bytes_max
        );
        return Err(ApiError::new(Code::UrlTooLong, message));
    }
    let headers = request.headers().iter();
    let len: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if len > limits.header_bytes_max {
        let message = format!(
            "the headers have more than {} bytes",
            limits.header_bytes_max
        );
        return Err(ApiError::new(Code::HeadersTooLarge, message));
    }
    Ok(())
}

/// An attempt without a good key. Those with a wrong one are counted; a good key never gets here.
fn failed(
    state: &AppState,
    error: AuthError,
    from: Origin<'_>,
    now: Duration,
    limits: &Limits,
) -> ApiError {
    let wait = match error {
        AuthError::Missing => None,
        AuthError::Invalid => state.peers.fail(from.address, now, limits.failures_max),
    };
    match wait {
        None => error.into(),
        Some(wait) => {
            let message = "too many requests of this address had no valid key: wait a moment";
            ApiError::too_soon(Code::TooManyFailures, wait, message)
        }
    }
}

fn check_framing(ambiguity: &Ambiguity, request: &Request<Incoming>) -> ApiResult<()> {
    if request.headers().contains_key(TRANSFER_ENCODING) && ambiguity.is_met() {
        let message = "content-length beside transfer-encoding: which one holds can't be told";
        return Err(ApiError::new(Code::AmbiguousLength, message));
    }
    Ok(())
}

/// A method that isn't one of HTTP's own may be any text of a client: it isn't told.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
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
