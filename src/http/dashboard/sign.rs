//! Signing in and out.

use hyper::header::{HeaderName, HeaderValue, SET_COOKIE};
use hyper::{Response, StatusCode};

use super::form::Form;
use super::respond::{Whole, page, redirect};
use super::{Visit, guard, route};
use crate::auth::{AuthError, SESSION_COOKIE, SESSION_SECONDS, Scope};
use crate::dashboard::layout::Here;
use crate::dashboard::link;
use crate::dashboard::pages::sign_in as view;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::reply::Body;
use crate::http::server::AppState;

const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// Takes a key and begins a session. Keys that are none of ours are counted with those of the API.
pub async fn sign_in(state: &AppState, visit: Visit) -> ApiResult<Response<Body>> {
    let Visit {
        request,
        body,
        limits,
        address,
        now,
    } = visit;
    let body = body.ok_or_else(|| ApiError::internal("a form is read twice"))?;
    let form = Form::read(request.headers(), body, state, &limits).await?;
    let to = own_page(form.get("to"));
    let begun = state.keyring.sign_in(form.get("key").as_bytes());
    let (holder, token) = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return Err(ApiError::internal("no random bits to sign a session with")),
        Err(AuthError::Missing | AuthError::Invalid) => {
            let wait = state.peers.fail(address, now, limits.failures_max);
            let refused = match wait {
                None => ApiError::new(Code::ApiKeyInvalid, "That is no key of this server."),
                Some(wait) => {
                    let message = "Too many keys of this address were wrong: wait a moment.";
                    ApiError::too_soon(Code::TooManyFailures, wait, message)
                }
            };
            return Ok(refused_form(state, to, refused));
        }
    };
    if let Err(denied) = holder.principal.may(Scope::Read, None) {
        return Ok(refused_form(state, to, denied.into()));
    }
    let mut response = redirect(to);
    set_cookie(state, &mut response, &token, SESSION_SECONDS);
    Ok(response)
}

/// The form, in place of the page that was asked for.
pub fn form(state: &AppState, visit: &Visit) -> Response<Body> {
    let uri = visit.request.uri();
    let came_from = visit.request.headers().get(guard::FETCH_SITE);
    if came_from.is_some_and(|site| site == "cross-site") {
        // A link on another site: the browser keeps the cookie back, until we ask for the page.
        let whole = Whole {
            title: "One moment",
            here: Here::Elsewhere,
            visitor: None,
            content: view::again(),
        };
        let mut response = page(state, whole);
        response
            .headers_mut()
            .insert(REFRESH, HeaderValue::from_static("0"));
        return response;
    }
    let asked = uri.path_and_query().map_or("/", |asked| asked.as_str());
    let is_get = visit.request.method() != hyper::Method::POST;
    let to = if is_get {
        own_page(asked)
    } else {
        link::EXPERIMENTS
    };
    let mut response = sign_in_page(state, to, None);
    if uri.path() != "/" {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

/// Ends the session in this browser.
pub fn signed_out(state: &AppState) -> Response<Body> {
    let mut response = redirect("/");
    set_cookie(state, &mut response, "", 0);
    response
}

fn refused_form(state: &AppState, to: &str, refused: ApiError) -> Response<Body> {
    state.metrics.refused(&refused);
    let mut response = sign_in_page(state, to, Some(&refused.message));
    let answer = refused.into_response();
    *response.status_mut() = answer.status();
    if let Some(wait) = answer.headers().get(hyper::header::RETRY_AFTER) {
        let headers = response.headers_mut();
        headers.insert(hyper::header::RETRY_AFTER, wait.clone());
    }
    response
}

fn sign_in_page(state: &AppState, to: &str, message: Option<&str>) -> Response<Body> {
    let content = view::sign_in(to, message);
    let whole = Whole {
        title: "Sign in",
        here: Here::Elsewhere,
        visitor: None,
        content,
    };
    page(state, whole)
}

fn set_cookie(state: &AppState, response: &mut Response<Body>, token: &str, seconds: u64) {
    let secure = if state.is_tls() { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}

/// The page to go on to, if it is one of ours and shows something.
fn own_page(to: &str) -> &str {
    let path = to.split('?').next().unwrap_or_default();
    let is_plain = to.bytes().all(|byte| byte.is_ascii_graphic());
    let place = route::Place::of(path, false).filter(|_| is_plain);
    match place {
        Some(place) if !place.route.is_for_script() => to,
        _ => link::EXPERIMENTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_signs_in_stays_here() {
        for (to, page) in [
            (
                "/ui/experiment/a?metric=b%20c",
                "/ui/experiment/a?metric=b%20c",
            ),
            ("/ui/operation", "/ui/operation"),
            ("/ui/operation/figures", link::EXPERIMENTS),
            ("//evil", link::EXPERIMENTS),
            ("https://evil/ui/keys", link::EXPERIMENTS),
            ("/ui/keys\r\nx: y", link::EXPERIMENTS),
            ("", link::EXPERIMENTS),
        ] {
            assert_eq!(own_page(to), page, "{to}");
        }
    }
}
