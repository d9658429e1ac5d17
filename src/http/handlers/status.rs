//! `GET /health` and `GET /ready`, for load balancers: no key, and no other data.

use hyper::{Response, StatusCode};

use crate::experiment::StoreHealth;
use crate::http::error::ApiResult;
use crate::http::reply::{self, Body};
use crate::http::router::Action;
use crate::http::server::AppState;

/// Whether the process lives, or whether it can take entries.
pub fn status(state: &AppState, action: Action) -> ApiResult<Response<Body>> {
    if action == Action::Health {
        return Ok(reply::json(StatusCode::OK, r#"{"status":"ok"}"#));
    }
    let durability = state.store.durability().as_str();
    let reason = match state.store.health() {
        StoreHealth::Ready => match state.away() {
            Some(away) => away,
            None => {
                let text = format!(r#"{{"status":"ok","durability":"{durability}"}}"#);
                return Ok(reply::json(StatusCode::OK, text));
            }
        },
        StoreHealth::StorageFull => "storage_full",
        StoreHealth::OutOfDescriptors => "out_of_descriptors",
        StoreHealth::StorageFailed => "storage_failed",
        StoreHealth::ShuttingDown => "shutting_down",
    };
    let text = format!(r#"{{"status":"unavailable","reason":"{reason}"}}"#);
    Ok(reply::json(StatusCode::SERVICE_UNAVAILABLE, text))
}
