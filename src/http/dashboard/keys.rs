//! Keys: what `POST /keys`, `GET /keys` and `DELETE /keys/:id` do.

use hyper::Response;

use super::entries::time_ms;
use super::guard::host_of;
use super::respond::redirect;
use super::{Seen, whole};
use crate::auth::{NewKey, Scope};
use crate::dashboard::layout::Here;
use crate::dashboard::link;
use crate::dashboard::pages::keys::{self as view, Fields, KeyRow, Made};
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::reply::Body;
use crate::http::server::AppState;

const SCOPES: [Scope; 3] = [Scope::Ingest, Scope::Read, Scope::Admin];

/// All keys, and a form for a new one.
pub fn list(state: &AppState, seen: &Seen) -> Response<Body> {
    let fields = Fields {
        scopes: vec![Scope::Ingest.to_string()],
        ..Fields::default()
    };
    show(state, seen, &fields, None)
}

/// Makes a key, and shows its text this once.
pub async fn make(state: &AppState, mut seen: Seen) -> ApiResult<Response<Body>> {
    let form = seen.take_form(state).await?;
    let fields = Fields {
        name: form.get("name").to_owned(),
        scopes: form.all("scope").map(str::to_owned).collect(),
        experiments: form.get("experiments").to_owned(),
        expires_at: form.get("expires_at").to_owned(),
    };
    let refuse = |refused| {
        super::refuse(state, refused, |message| {
            show(state, &seen, &fields, Some(message))
        })
    };
    let new = match new_key(&fields) {
        Ok(new) => new,
        Err(refused) => return refuse(refused),
    };
    let may_ingest = new.scopes.iter().any(|scope| *scope != Scope::Read);
    let made = tokio::task::block_in_place(|| state.keyring.create(new));
    let (info, key) = match made {
        Ok(made) => made,
        Err(error) => return refuse(error.into()),
    };
    let made = Made {
        name: &info.name,
        key: &key,
        server: &server_of(state, &seen),
        example: example(state, &info.id).await,
        may_ingest,
    };
    let content = view::made(&made);
    Ok(whole(state, &seen, "A new key", Here::Keys, content))
}

/// Revokes a key: in force on the next request.
pub fn revoke(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    tokio::task::block_in_place(|| state.keyring.revoke(&seen.item))?;
    Ok(redirect(link::KEYS))
}

fn show(state: &AppState, seen: &Seen, fields: &Fields, message: Option<&str>) -> Response<Body> {
    let keys = state.keyring.list().into_iter();
    let rows: Vec<_> = keys
        .map(|info| KeyRow {
            is_own: info.id == seen.holder.id,
            id: info.id,
            name: info.name,
            scopes: info.scopes.iter().map(Scope::to_string).collect(),
            experiments: info.experiments,
            expires_at: info.expires_at,
            last_used_at: info.last_used_at,
        })
        .collect();
    whole(
        state,
        seen,
        "Keys",
        Here::Keys,
        view::keys(&rows, fields, message),
    )
}

fn new_key(fields: &Fields) -> ApiResult<NewKey> {
    let scope_of = |word: &String| SCOPES.into_iter().find(|scope| scope.to_string() == *word);
    let scopes: Option<Vec<_>> = fields.scopes.iter().map(scope_of).collect();
    let bad = |message| ApiError::new(Code::BadKeyRequest, message);
    let globs = fields
        .experiments
        .split([',', ' '])
        .filter(|glob| !glob.is_empty());
    let expires_at = Some(&*fields.expires_at).filter(|time| !time.is_empty());
    Ok(NewKey {
        name: fields.name.clone(),
        scopes: scopes.ok_or_else(|| bad("a scope is ingest, read or admin"))?,
        experiments: globs.map(str::to_owned).collect(),
        expires_at_ms: expires_at.map(|time| time_ms("Ends", time)).transpose()?,
    })
}

/// The server, as this browser calls it.
fn server_of(state: &AppState, seen: &Seen) -> String {
    let scheme = if state.is_tls() { "https" } else { "http" };
    let is_plain = |host: &&str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
    };
    let host = host_of(&seen.visit.request)
        .filter(is_plain)
        .unwrap_or("127.0.0.1:7171");
    format!("{scheme}://{host}")
}

/// An experiment that the key reaches, and one of its variants.
async fn example(state: &AppState, id: &str) -> (String, String) {
    // Whatever fails here, the key is made, and has to be shown.
    let none = || ("my-experiment".into(), "A".into());
    let Ok(holder) = state.keyring.holder(id) else {
        return none();
    };
    let mut slugs = state.store.slugs(None, usize::MAX).into_iter();
    let Some(slug) = slugs.find(|slug| holder.principal.sees(slug)) else {
        return none();
    };
    let Ok(glance) = state.store.glance(&slug).await else {
        return none();
    };
    let variants = &glance.description.definition.variants;
    let variant = variants
        .first()
        .map_or("A".into(), |one| one.key.to_string());
    (slug.to_string(), variant)
}
