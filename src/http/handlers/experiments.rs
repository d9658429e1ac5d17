//! Experiments: list, describe, define, delete.

use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::entry_json::rfc3339_ms;
use crate::experiment::ReadError;
use crate::http::body;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::object::{Object, TextOr};
use crate::http::query::{self, limit_of, parameters};
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, check_json_body, slug_of};
use crate::model::{Definition, Description, DroppedCount, Retention, Slug, Variant, VariantCount};

/// What `PUT` takes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DefinitionRequest {
    #[serde(default)]
    variants: Vec<TextOr<Variant>>,
    #[serde(default)]
    open_variants: bool,
    unit: Option<String>,
    description: Option<String>,
    retention: Option<Object<Retention>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    slug: Slug,
    #[serde(flatten)]
    definition: Definition,
    created_at: String,
    count: u64,
    variant_counts: Vec<VariantCount>,
    bytes_on_disk: u64,
    segments: u64,
    last_entry: Option<LastEntry>,
    dropped: DroppedCount,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LastEntry {
    log_id: String,
    received_at: String,
}

#[derive(Serialize)]
struct Page {
    experiments: Vec<Described>,
    next: Option<Slug>,
}

/// `GET /experiments?after=&limit=`: those that the key reaches, in order.
pub async fn list(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [after, limit] = parameters(asked.request.uri().query(), ["after", "limit"])?;
    let limit = limit_of(limit.map(query::limit).transpose()?);
    let after = after
        .map(Slug::parse)
        .transpose()
        .map_err(|error| ApiError::new(Code::BadParameter, format!("after: {error}")))?;
    let mut slugs = state.store.slugs(after.as_ref(), usize::MAX);
    slugs.retain(|slug| asked.principal.sees(slug));
    let has_more = slugs.len() > limit;
    slugs.truncate(limit);
    let next = slugs.last().filter(|_| has_more).cloned();
    let mut experiments = Vec::with_capacity(slugs.len());
    for slug in &slugs {
        match state.store.describe(slug).await {
            Ok(description) => experiments.push(Described::of(description)),
            // Deleted since we looked.
            Err(ReadError::UnknownExperiment) => {}
            Err(error) => return Err(error.into()),
        }
    }
    reply::json_of(StatusCode::OK, &Page { experiments, next })
}

/// `GET /experiment/:slug`.
pub async fn describe(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let description = state.store.describe(slug_of(&asked)?).await?;
    reply::json_of(StatusCode::OK, &Described::of(description))
}

/// `PUT /experiment/:slug`: 201 when it is new.
pub async fn define(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let limits = asked.limits.clone();
    let len_max = limits.body_bytes_max;
    let coding = check_json_body(&asked, len_max)?;
    let [] = parameters(asked.request.uri().query(), [])?;
    let slug = slug_of(&asked)?.clone();
    let body = asked.request.into_body();
    let (body, _permit) = body::read(body, coding, len_max, state, &limits).await?;
    let Object::<DefinitionRequest>(request) = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(Code::BadDefinition, error.to_string()))?;
    let defined = state.define(&slug, request.into_definition()).await?;
    let status = if defined.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    reply::json_of(status, &Described::of(defined.description))
}

/// `DELETE /experiment/:slug?confirm=<slug>`.
pub async fn delete(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let slug = slug_of(&asked)?;
    let [confirm] = parameters(asked.request.uri().query(), ["confirm"])?;
    if confirm != Some(slug.as_str()) {
        let message = format!("deleting can't be undone: say ?confirm={slug}");
        return Err(ApiError::new(Code::ConfirmMissing, message));
    }
    state.delete(slug).await?;
    Ok(reply::json(StatusCode::OK, r#"{"success":true}"#))
}

impl DefinitionRequest {
    fn into_definition(self) -> Definition {
        let whole = |variant| match variant {
            TextOr::Object(variant) => variant,
            TextOr::Text(key) => Variant {
                key,
                weight: None,
                control: false,
            },
        };
        Definition {
            variants: self.variants.into_iter().map(whole).collect(),
            open_variants: self.open_variants,
            unit: self.unit,
            description: self.description,
            retention: self.retention.map(|Object(retention)| retention),
        }
    }
}

impl Described {
    fn of(description: Description) -> Self {
        let last_entry = description.last_entry.map(|(id, at_ms)| LastEntry {
            log_id: id.to_string(),
            received_at: rfc3339_ms(at_ms),
        });
        Self {
            slug: description.slug,
            definition: description.definition,
            created_at: rfc3339_ms(description.created_at_ms),
            count: description.count,
            variant_counts: description.variant_counts,
            bytes_on_disk: description.bytes_on_disk,
            segments: description.segment_count,
            last_entry,
            dropped: description.dropped,
        }
    }
}
