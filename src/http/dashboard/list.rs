//! The list of experiments.

use hyper::Response;
use tokio::task::JoinSet;

use super::{Seen, whole};
use crate::dashboard::layout::Here;
use crate::dashboard::pages::experiments::{self as view, List, PAGE_LEN, Row};
use crate::experiment::ReadError;
use crate::experiment::glance::Glance;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::query::{decoded, parameters};
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::model::Slug;
use crate::stats::report::sample_ratio;

/// Those of one page are looked at, and no others.
pub async fn list(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [search, page] = parameters(seen.query(), ["q", "page"])?;
    let search = decoded("q", search.unwrap_or_default())?;
    let search = search.trim().to_lowercase();
    let page = page_number(page)?;
    let mut slugs = state.store.slugs(None, usize::MAX);
    slugs.retain(|slug| seen.holder.principal.sees(slug));
    let count = slugs.len();
    slugs.retain(|slug| slug.as_str().contains(&search));
    let found_count = slugs.len();
    // A page that isn't there any more is the last one.
    let page = page.min(found_count.div_ceil(PAGE_LEN).max(1));
    let slugs = slugs.into_iter().skip((page - 1) * PAGE_LEN).take(PAGE_LEN);
    let now_ms = state.store.now_ms();
    let list = List {
        search: &search,
        page,
        found_count,
        count,
        rows: rows(state, slugs, now_ms).await?,
        now_ms,
        is_admin: seen.visitor.is_admin,
    };
    let content = view::experiments(&list);
    Ok(whole(
        state,
        seen,
        "Experiments",
        Here::Experiments,
        content,
    ))
}

/// A number of a page, from 1.
pub fn page_number(text: Option<&str>) -> ApiResult<usize> {
    match text.filter(|text| !text.is_empty()).map(str::parse) {
        None => Ok(1),
        Some(Ok(page)) if page >= 1 => Ok(page),
        Some(_) => Err(ApiError::new(Code::BadParameter, "page is a number from 1")),
    }
}

async fn rows(
    state: &AppState,
    slugs: impl Iterator<Item = Slug>,
    now_ms: u64,
) -> ApiResult<Vec<Row>> {
    let mut looks = JoinSet::new();
    for (place, slug) in slugs.enumerate() {
        let store = state.store.clone();
        looks.spawn(async move {
            let glance = store.glance(&slug).await;
            let beside = Beside {
                unknown_count: store.unknown_variant_count(&slug),
                is_unit_mismatch: store.is_unit_mismatch(&slug),
            };
            (place, slug, glance, beside)
        });
    }
    let mut rows = Vec::new();
    while let Some(look) = looks.join_next().await {
        let (place, slug, glance, beside) = look.map_err(ApiError::internal)?;
        let seen = match glance {
            Ok(glance) => Ok(seen_of(&glance, &beside, now_ms)),
            // Deleted since we looked.
            Err(ReadError::UnknownExperiment) => continue,
            Err(error) => {
                let error = ApiError::from(error);
                tracing::error!(experiment = %slug, code = error.code.as_str(), "not listed");
                Err(format!("can't be read: {}", error.message))
            }
        };
        rows.push((place, Row { slug, seen }));
    }
    rows.sort_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// What is known of an experiment beside what is seen of it.
struct Beside {
    unknown_count: u64,
    is_unit_mismatch: Option<bool>,
}

fn seen_of(glance: &Glance, beside: &Beside, now_ms: u64) -> view::Seen {
    let description = glance.description.clone();
    let mut warnings = Vec::new();
    let has_unit = description.definition.unit.is_some();
    // With a unit its units are counted, by reading all entries: its report does that, and is remembered.
    if has_unit && beside.is_unit_mismatch == Some(true) {
        warnings.push("sample ratio mismatch in the last report".to_owned());
    }
    if !has_unit {
        let counts = &description.variant_counts;
        let count_of = |key: &str| {
            let found = counts.iter().find(|one| &*one.key == key);
            found.map_or(0, |one| one.count)
        };
        if sample_ratio(&description.definition, count_of).is_mismatch {
            warnings.push("sample ratio mismatch".to_owned());
        }
    }
    if beside.unknown_count > 0 {
        let count = beside.unknown_count;
        warnings.push(format!("unknown variant refused ({count})"));
    }
    view::Seen {
        is_ratio_unchecked: has_unit && beside.is_unit_mismatch.is_none(),
        minutes: glance.minutes(now_ms),
        warnings,
        description,
    }
}
