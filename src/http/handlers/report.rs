//! `GET /experiment/:slug/report`: which variant is ahead. The same as `trialog report` from files.

use std::borrow::Cow;
use std::str::FromStr;

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use crate::experiment::ReadError;
use crate::http::accept::accepts;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::metrics::Limit;
use crate::http::query::{decoded, parameters};
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, slug_of};
use crate::model::{Definition, Slug};
use crate::stats::Question;
use crate::stats::extract::FieldPath;
use crate::stats::question::QuestionError;
use crate::stats::report::{Format, ReportOptions, confidence_of_alpha};

/// Tells how many damaged places were met. Not there when there were none.
pub const DAMAGED_PLACES: HeaderName = HeaderName::from_static("trialog-damaged-places");
const TABLE: &str = "text/plain";
const MARKDOWN: &str = "text/markdown";

/// The report, as JSON unless something else is asked for or accepted.
pub async fn report(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let slug = slug_of(&asked)?.clone();
    let (question, format) = parse(asked.request.uri().query(), &slug)?;
    let format = format.unwrap_or_else(|| accepted(asked.request.headers()));
    let answered = state.store.answer(&slug, question).await?;
    note_dropped(state, answered.answer.dropped_value_count());
    let text = answered.answer.render(format);
    let mut response = reply::json(StatusCode::OK, text);
    let content_type = match format {
        Format::Json => "application/json",
        Format::Table => "text/plain; charset=utf-8",
        Format::Markdown => "text/markdown; charset=utf-8",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    tell_damage(&mut response, answered.damage_count);
    Ok(response)
}

/// Says in a header that not all entries are in an answer.
pub fn tell_damage(response: &mut Response<Body>, damage_count: usize) {
    if damage_count > 0 {
        response
            .headers_mut()
            .insert(DAMAGED_PLACES, damage_count.into());
    }
}

/// Counts an answer that lacks values, since more metrics came than are kept.
pub fn note_dropped(state: &AppState, value_count: u64) {
    state
        .metrics
        .met(Limit::Metrics, u64::from(value_count > 0));
}

fn parse(query: Option<&str>, slug: &Slug) -> ApiResult<(Question, Option<Format>)> {
    let names = [
        "control", "metric", "alpha", "adjust", "by", "unit", "format",
    ];
    let [control, metric, alpha, adjust, by, unit, format] = parameters(query, names)?;
    let text = |name, value: Option<_>| value.map(|value| named(name, value)).transpose();
    let mut options = ReportOptions {
        experiment: Some(slug.to_string()),
        control: text("control", control)?.map(Cow::into_owned),
        metric: text("metric", metric)?.map(Cow::into_owned),
        ..ReportOptions::default()
    };
    if let Some(alpha) = text("alpha", alpha)? {
        options.confidence = confidence_of_alpha(&alpha).map_err(bad)?;
    }
    if let Some(adjust) = adjust {
        options.adjustment = read(adjust)?;
    }
    let question = Question {
        definition: Definition {
            unit: text("unit", unit)?.map(Cow::into_owned),
            ..Definition::default()
        },
        by: text("by", by)?.map(|field| FieldPath::new(&field)),
        options,
        ..Question::default()
    };
    Ok((question, format.map(read).transpose()?))
}

fn named<'q>(name: &str, value: &'q str) -> ApiResult<Cow<'q, str>> {
    match decoded(name, value)? {
        empty if empty.is_empty() => Err(bad(format!("{name} is empty"))),
        text => Ok(text),
    }
}

fn read<T: FromStr<Err = &'static str>>(value: &str) -> ApiResult<T> {
    value.parse().map_err(bad)
}

fn accepted(headers: &HeaderMap) -> Format {
    match () {
        () if accepts(headers, MARKDOWN) => Format::Markdown,
        () if accepts(headers, TABLE) => Format::Table,
        () => Format::Json,
    }
}

fn bad(message: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::new(Code::BadParameter, message)
}

impl From<QuestionError<ReadError>> for ApiError {
    fn from(error: QuestionError<ReadError>) -> Self {
        match error {
            QuestionError::Log(error) => error.into(),
            QuestionError::UnknownField(_)
            | QuestionError::TooManyParts(_)
            | QuestionError::UnknownControl { .. }
            | QuestionError::UnknownMetric { .. } => bad(error.to_string()),
        }
    }
}
