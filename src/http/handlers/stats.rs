//! `GET /experiment/:slug/stats`: each variant's entries and metrics.

use std::collections::BTreeMap;

use hyper::{Response, StatusCode};
use serde::Serialize;

use super::report::{note_dropped, tell_damage};
use crate::entry_json::rfc3339_ms;
use crate::experiment::asking::Overview;
use crate::http::error::ApiResult;
use crate::http::query::parameters;
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, slug_of};
use crate::stats::summary::VariantSummary;
use crate::stats::{Series, Summary};

const QUANTILES: [(&str, f64); 4] = [("0.5", 0.5), ("0.9", 0.9), ("0.95", 0.95), ("0.99", 0.99)];

#[derive(Serialize)]
struct Stats<'a> {
    experiment: &'a str,
    count: u64,
    variants: Vec<Variant<'a>>,
    #[serde(rename = "droppedMetrics")]
    dropped: Dropped,
    /// By retention: all else is about what is left.
    #[serde(rename = "droppedEntries")]
    dropped_entries: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Variant<'a> {
    key: &'a str,
    count: u64,
    /// Entries a second between the first and the last one.
    rate: Option<f64>,
    first_at: Option<String>,
    last_at: Option<String>,
    metrics: Vec<Metric<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric<'a> {
    name: &'a str,
    count: u64,
    sum: f64,
    mean: Option<f64>,
    variance: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    quantiles: BTreeMap<&'static str, Option<f64>>,
    non_numeric_count: u64,
    not_finite_count: u64,
    is_incomplete: bool,
}

/// Metrics beyond the number that is kept.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dropped {
    name_count: usize,
    value_count: u64,
}

/// What an experiment's log holds now, from what is kept of it.
pub async fn stats(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let slug = slug_of(&asked)?;
    let overview = state.store.overview(slug).await?;
    note_dropped(state, overview.figures.summary.dropped().value_count);
    let mut response = reply::json_of(StatusCode::OK, &stats_of(slug.as_str(), &overview))?;
    tell_damage(&mut response, overview.figures.damage_count);
    Ok(response)
}

fn stats_of<'a>(slug: &'a str, overview: &'a Overview) -> Stats<'a> {
    let summary = &overview.figures.summary;
    let defined = overview.definition.variants.iter();
    // The defined ones, then those of the log only.
    let mut keys: Vec<&str> = defined.map(|variant| &*variant.key).collect();
    let met = summary.variants().iter().map(|variant| &*variant.key);
    let new: Vec<&str> = met.filter(|key| !keys.contains(key)).collect();
    keys.extend(new);
    Stats {
        experiment: slug,
        count: summary.entry_count(),
        variants: keys.into_iter().map(|key| variant(summary, key)).collect(),
        dropped: Dropped {
            name_count: summary.dropped_name_count(),
            value_count: summary.dropped().value_count,
        },
        dropped_entries: overview.dropped.entries,
    }
}

fn variant<'a>(summary: &'a Summary, key: &'a str) -> Variant<'a> {
    let found = summary.variant(key);
    let metrics = summary.metrics().iter().enumerate();
    let metrics = metrics.filter_map(|(place, metric)| {
        let series = found?.series(place)?;
        Some(Metric {
            is_incomplete: metric.is_incomplete,
            ..metric_of(&metric.name, series)
        })
    });
    Variant {
        key,
        count: found.map_or(0, |variant| variant.entry_count),
        rate: found.and_then(rate),
        first_at: found.map(|variant| rfc3339_ms(variant.received_at_ms_min)),
        last_at: found.map(|variant| rfc3339_ms(variant.received_at_ms_max)),
        metrics: metrics.collect(),
    }
}

/// `None` when all came in the same millisecond.
fn rate(variant: &VariantSummary) -> Option<f64> {
    let ms = variant.received_at_ms_max - variant.received_at_ms_min;
    let steps = variant.entry_count.saturating_sub(1);
    (ms > 0).then(|| steps as f64 * 1000.0 / ms as f64)
}

fn metric_of<'a>(name: &'a str, series: &Series) -> Metric<'a> {
    Metric {
        name,
        count: series.count,
        sum: series.sum(),
        mean: series.mean(),
        variance: series.variance(),
        min: series.min(),
        max: series.max(),
        quantiles: QUANTILES.map(|(name, q)| (name, series.quantile(q))).into(),
        non_numeric_count: series.non_numeric_count,
        not_finite_count: series.not_finite_count,
        is_incomplete: false,
    }
}
