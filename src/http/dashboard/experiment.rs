//! One experiment: the API's report on it, and what its log holds.

use hyper::Response;
use maud::html;

use super::list::page_number;
use super::{Seen, about, respond};
use crate::dashboard::pages::experiment::{self as view, Experiment};
use crate::dashboard::plots::timeline::Counts;
use crate::experiment::asking::Answered;
use crate::experiment::glance::{Span, Timeline};
use crate::http::error::{ApiError, ApiResult};
use crate::http::handlers::report::note_dropped;
use crate::http::query::{decoded, parameters};
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::model::{Description, Slug};
use crate::stats::report::{Format, ReportOptions};
use crate::stats::{Answer, Question, Report, Summary};

/// Steps of the plot over time.
const STEPS: u64 = 96;
/// Variants whose entries over time are drawn.
const VARIANTS_MAX: usize = 20;
/// With more entries than this, a report that has to read them all comes by itself.
const READ_AT_ONCE_MAX: u64 = 20_000;

/// The page.
pub async fn experiment(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [metric, page] = parameters(seen.query(), ["metric", "page"])?;
    let metric = metric.map(|metric| decoded("metric", metric)).transpose()?;
    let metric = metric.filter(|metric| !metric.is_empty());
    let page = page_number(page)?;
    let slug = seen.slug()?;
    let description = state.store.describe(slug).await?;
    let overview = state.store.overview(slug).await?;
    let summary = &overview.figures.summary;
    let takes_long = description.definition.unit.is_some() && description.count > READ_AT_ONCE_MAX;
    let report = match takes_long {
        false => Some(whole_report(ask(state, slug).await?)?),
        true => None,
    };
    let timeline = timeline(state, slug, summary).await?;
    let one = Experiment {
        description: &description,
        report: report.as_ref(),
        summary,
        counts: counts(timeline.as_ref(), &description),
        metric: metric.as_deref(),
        page,
        damage_count: overview.figures.damage_count,
        unknown_variant_count: state.store.unknown_variant_count(slug),
        now_ms: state.store.now_ms(),
        is_admin: seen.visitor.is_admin,
    };
    let content = view::experiment(&one);
    Ok(about(state, seen, slug, content))
}

/// The report and its plots alone.
pub async fn report(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [] = parameters(seen.query(), [])?;
    let slug = seen.slug()?;
    let report = whole_report(ask(state, slug).await?)?;
    let overview = state.store.overview(slug).await?;
    let summary = &overview.figures.summary;
    let content = html! {
        (view::verdict(&report, slug))
        (view::metrics(&report, summary, slug, None, 1))
    };
    Ok(about(state, seen, slug, content))
}

/// The report as the command line prints it.
pub async fn report_text(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [] = parameters(seen.query(), [])?;
    let answered = ask(state, seen.slug()?).await?;
    let text = answered.answer.render(Format::Table);
    Ok(respond::text("text/plain; charset=utf-8", text))
}

async fn ask(state: &AppState, slug: &Slug) -> ApiResult<Answered> {
    let options = ReportOptions {
        experiment: Some(slug.to_string()),
        ..ReportOptions::default()
    };
    let question = Question {
        options,
        ..Question::default()
    };
    let answered = state.store.answer(slug, question).await?;
    note_dropped(state, answered.answer.dropped_value_count());
    Ok(answered)
}

fn whole_report(answered: Answered) -> ApiResult<Report> {
    match answered.answer {
        Answer::Whole(report) => Ok(*report),
        Answer::Parts { .. } => Err(ApiError::internal("a report came in parts")),
    }
}

/// From the first entry to the last.
async fn timeline(state: &AppState, slug: &Slug, summary: &Summary) -> ApiResult<Option<Timeline>> {
    let variants = summary.variants().iter();
    let first = variants
        .clone()
        .map(|variant| variant.received_at_ms_min)
        .min();
    let last = variants.map(|variant| variant.received_at_ms_max).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(None);
    };
    let span = Span {
        begin_ms: first,
        step_ms: (last + 1 - first).div_ceil(STEPS).max(1),
        step_count: STEPS as usize,
    };
    Ok(Some(state.store.timeline(slug, span).await?))
}

fn counts<'a>(timeline: Option<&'a Timeline>, description: &'a Description) -> Counts<'a> {
    let Some(timeline) = timeline else {
        return Counts {
            begin_ms: 0,
            step_ms: 1,
            variants: Vec::new(),
        };
    };
    let of_variant = |key: &str| {
        let found = timeline.variants.iter().find(|(known, _)| **known == *key);
        found.map_or(&[][..], |(_, counts)| counts)
    };
    // In the order of the definition, as all else on the page.
    let with_entries = description
        .variant_counts
        .iter()
        .filter(|one| one.count > 0);
    let variants = with_entries.take(VARIANTS_MAX);
    Counts {
        begin_ms: timeline.span.begin_ms,
        step_ms: timeline.span.step_ms,
        variants: variants
            .map(|one| (&*one.key, of_variant(&one.key), one.count))
            .collect(),
    }
}
