//! The dashboard over HTTP: whose session a request is of, what it may see, and what is asked of the
//! store for it. Figures come from the same calls as those of the API's handlers; pages are made of them
//! in [`crate::dashboard`].

mod compare;
mod define;
mod entries;
mod experiment;
mod form;
mod guard;
mod keys;
mod list;
mod operation;
mod respond;
mod route;
mod sign;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tracing::error;

use super::error::{ApiError, ApiResult, Code};
use super::limits::Limits;
use super::refusal::unknown_experiment;
use super::reply::Body;
use super::server::AppState;
use crate::auth::{AuthError, Holder};
use crate::dashboard::layout::Visitor;
use crate::model::Slug;
use respond::{Whole, page, redirect};
use route::{Place, Route};

/// A request for the dashboard.
pub struct Visit {
    /// Its head.
    pub request: Request<()>,
    /// Its body, until that is read.
    pub body: Option<Incoming>,
    /// The bounds that hold for it.
    pub limits: Arc<Limits>,
    /// The peer's address.
    pub address: IpAddr,
    /// When it came, since the process began.
    pub now: Duration,
}

/// A request of somebody who signed in, on its way to its page.
struct Seen {
    visit: Visit,
    holder: Holder,
    visitor: Visitor,
    /// The experiment in the path.
    slug: Option<Slug>,
    /// What else is in the path.
    item: String,
}

impl Seen {
    /// The form that the request brings.
    async fn take_form(&mut self, state: &AppState) -> ApiResult<form::Form> {
        let body = self
            .visit
            .body
            .take()
            .ok_or_else(|| ApiError::internal("a form is read twice"))?;
        form::Form::read(
            self.visit.request.headers(),
            body,
            state,
            &self.visit.limits,
        )
        .await
    }

    fn slug(&self) -> ApiResult<&Slug> {
        self.slug.as_ref().ok_or_else(unknown_experiment)
    }

    fn query(&self) -> Option<&str> {
        self.visit.request.uri().query()
    }
}

/// Answers a request. What is refused is a page, too, but for what a script asks.
pub async fn answer(state: &AppState, visit: Visit) -> ApiResult<Response<Body>> {
    let path = visit.request.uri().path().to_owned();
    let is_post = visit.request.method() == Method::POST;
    let place = Place::of(&path, is_post);
    if let Some(Place {
        route: Route::Asset,
        item,
        ..
    }) = &place
    {
        return respond::asset(item);
    }
    if is_post {
        guard::check_origin(&visit.request)?;
    }
    if let Some(Place {
        route: Route::SignIn,
        ..
    }) = &place
    {
        return sign::sign_in(state, visit).await;
    }
    let holder = match state.keyring.session(visit.request.headers()) {
        Ok(holder) => holder,
        Err(error) => return without_session(state, &visit, place.as_ref(), error),
    };
    let visitor = visitor_of(&holder);
    let is_for_script = place
        .as_ref()
        .is_some_and(|place| place.route.is_for_script());
    let shown = show(state, visit, holder, visitor.clone(), place).await;
    match shown {
        Err(refused) if !is_for_script => {
            state.metrics.refused(&refused);
            if let Some(detail) = &refused.detail {
                error!(detail, "a page failed");
            }
            Ok(respond::failure(state, Some(&visitor), &refused))
        }
        shown => shown,
    }
}

fn without_session(
    state: &AppState,
    visit: &Visit,
    place: Option<&Place>,
    error: AuthError,
) -> ApiResult<Response<Body>> {
    match place {
        Some(place) if place.route.is_for_script() => Err(error.into()),
        // Whoever has signed out already is where they want to be.
        Some(Place {
            route: Route::SignOut,
            ..
        }) => Ok(sign::signed_out(state)),
        _ => Ok(sign::form(state, visit)),
    }
}

fn visitor_of(holder: &Holder) -> Visitor {
    let principal = &holder.principal;
    Visitor {
        name: holder.name.clone(),
        is_admin: principal.may(crate::auth::Scope::Admin, None).is_ok(),
        manages_keys: principal.may_manage_keys().is_ok(),
    }
}

/// The order of checks is that of the API: whether they may, whether it is there, whether it can be asked
/// so.
async fn show(
    state: &AppState,
    visit: Visit,
    holder: Holder,
    visitor: Visitor,
    place: Option<Place>,
) -> ApiResult<Response<Body>> {
    let principal = &holder.principal;
    let rate = visit.limits.key_rate;
    principal.admit(visit.now, rate).map_err(|wait| {
        let message = format!("a key may ask {rate} times a second: wait a moment");
        ApiError::too_soon(Code::RateLimited, wait, message)
    })?;
    let not_found = || ApiError::new(Code::NotFound, "there is no page at this address");
    let Some(place) = place else {
        return Err(not_found());
    };
    let slug = place.slug.map(|slug| Slug::parse(&slug)).transpose();
    let slug = slug.map_err(|_| unknown_experiment())?;
    principal.may(place.route.scope(), slug.as_ref())?;
    if place.route.manages_keys() {
        principal.may_manage_keys()?;
    }
    if let Some(slug) = &slug
        && !state.store.contains(slug)
    {
        return Err(unknown_experiment());
    }
    let item = place.item;
    let seen = Seen {
        visit,
        holder,
        visitor,
        slug,
        item,
    };
    match place.route {
        Route::Home => Ok(redirect(crate::dashboard::link::EXPERIMENTS)),
        Route::SignOut => Ok(sign::signed_out(state)),
        Route::List => list::list(state, &seen).await,
        Route::Experiment => experiment::experiment(state, &seen).await,
        Route::Report => experiment::report(state, &seen).await,
        Route::ReportText => experiment::report_text(state, &seen).await,
        Route::Entries => entries::entries(state, &seen).await,
        Route::Entry => entries::entry(state, &seen).await,
        Route::Compare => compare::compare(state, &seen).await,
        Route::Tail => entries::tail(state, &seen).await,
        Route::Operation => operation::operation(state, &seen).await,
        Route::Figures => operation::figures(state, &seen).await,
        Route::New => Ok(define::new(state, &seen)),
        Route::Create => define::create(state, seen).await,
        Route::Edit => define::edit(state, &seen).await,
        Route::Save => define::save(state, seen).await,
        Route::Keys => Ok(keys::list(state, &seen)),
        Route::MakeKey => keys::make(state, seen).await,
        Route::RevokeKey => keys::revoke(state, &seen),
        Route::Asset | Route::SignIn => Err(not_found()),
    }
}

/// What a client got wrong is said beside its form, which keeps what was written: `show` makes the page
/// with these words.
fn refuse(
    state: &AppState,
    refused: ApiError,
    show: impl FnOnce(&str) -> Response<Body>,
) -> ApiResult<Response<Body>> {
    let status = refused.code.status();
    if status.is_server_error() {
        return Err(refused);
    }
    state.metrics.refused(&refused);
    let mut response = show(&refused.message);
    *response.status_mut() = status;
    Ok(response)
}

/// A page on one experiment, for whoever has signed in.
fn about(state: &AppState, seen: &Seen, slug: &Slug, content: maud::Markup) -> Response<Body> {
    let here = crate::dashboard::layout::Here::Experiments;
    whole(state, seen, slug.as_str(), here, content)
}

/// A page for whoever has signed in.
fn whole(
    state: &AppState,
    seen: &Seen,
    title: &str,
    here: crate::dashboard::layout::Here,
    content: maud::Markup,
) -> Response<Body> {
    let whole = Whole {
        title,
        here,
        visitor: Some(&seen.visitor),
        content,
    };
    page(state, whole)
}
