//! Entries: those of the log, one by itself, and those that come.

use std::ops::ControlFlow;

use hyper::Response;
use jiff::Timestamp;

use super::{Seen, whole};
use crate::auth::Scope;
use crate::dashboard::layout::Here;
use crate::dashboard::pages::entries::{self as view, Entries, Filter, PAGE_LEN, Row};
use crate::dashboard::pages::entry as entry_view;
use crate::experiment::reading::{Met, Order, Selection, Sink, variant_key_of};
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::handlers::{logs, tail as tail_handler};
use crate::http::query::{decoded, parameters};
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::model::{Entry, LogId, Slug};

/// Bytes of the log that are looked through for one page.
const PAGE_READ_BYTES: u64 = 64 << 20;

/// A page of entries, the newest first.
pub async fn entries(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let names = ["variant", "since", "until", "before"];
    let [variant, since, until, before] = parameters(seen.query(), names)?;
    let text = |name, value: Option<_>| decoded(name, value.unwrap_or_default());
    let (variant, since) = (text("variant", variant)?, text("since", since)?);
    let (until, before) = (text("until", until)?, text("before", before)?);
    let filter = Filter {
        variant: &variant,
        since: &since,
        until: &until,
        before: &before,
    };
    let slug = seen.slug()?;
    let selection = selection_of(filter)?;
    logs::check_bound(state, slug, "before", selection.before).await?;
    let description = state.store.describe(slug).await?;
    let rows = read(state, slug, selection).await?;
    let tail = match rows.rows.first() {
        Some(row) => Some(row.id),
        None => description.last_entry.map(|(id, _)| id),
    };
    let page = Entries {
        slug,
        variants: description
            .variant_counts
            .iter()
            .map(|one| &*one.key)
            .collect(),
        filter,
        next: rows.next(),
        lost_count: rows.lost_count,
        rows: rows.rows,
        tail,
    };
    let content = view::entries(&page);
    Ok(whole(
        state,
        seen,
        &format!("Entries of {slug}"),
        Here::Experiments,
        content,
    ))
}

/// One entry in full.
pub async fn entry(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [] = parameters(seen.query(), [])?;
    let slug = seen.slug()?;
    let entry = find(state, slug, &seen.item).await?;
    let content = entry_view::entry(slug, &entry);
    Ok(whole(
        state,
        seen,
        &format!("Entry of {slug}"),
        Here::Experiments,
        content,
    ))
}

/// The entry with the id that a path or a parameter names.
pub async fn find(state: &AppState, slug: &Slug, id: &str) -> ApiResult<Entry> {
    let unknown = || {
        ApiError::new(
            Code::LogNotFound,
            "this experiment has no entry with this id",
        )
    };
    let id: LogId = id.parse().map_err(|_| unknown())?;
    state.store.get(slug, id).await?.ok_or_else(unknown)
}

/// Entries as they become durable: the API's tail, for as long as the session lasts.
pub async fn tail(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let slug = seen.slug()?.clone();
    let request = &seen.visit.request;
    let (keyring, cookies) = (
        state.keyring.clone(),
        tail_handler::cookies(request.headers()),
    );
    let of = slug.clone();
    let may_still = Box::new(move || {
        let holder = keyring.session(&cookies)?;
        Ok(holder.principal.may(Scope::Read, Some(&of))?)
    });
    let (query, headers) = (seen.query(), request.headers());
    tail_handler::follow(state, slug, query, headers, &seen.visit.limits, may_still).await
}

fn selection_of(filter: Filter<'_>) -> ApiResult<Selection> {
    let some = |text: &'_ str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(Selection {
        variants: some(filter.variant).into_iter().collect(),
        after: None,
        before: some(filter.before)
            .map(|id| logs::log_id("before", &id))
            .transpose()?,
        since_ms: some(filter.since)
            .map(|time| time_ms("From", &time))
            .transpose()?,
        until_ms: some(filter.until)
            .map(|time| time_ms("Until", &time))
            .transpose()?,
    })
}

/// A time as a form writes it, taken as UTC.
pub fn time_ms(name: &str, text: &str) -> ApiResult<u64> {
    let time: Option<Timestamp> = format!("{text}Z").parse().ok();
    let ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    ms.ok_or_else(|| {
        let message = format!("{name} is a time as 2026-11-24T12:00");
        ApiError::new(Code::BadParameter, message)
    })
}

/// Takes the entries of a page.
struct Rows {
    rows: Vec<Row>,
    has_more: bool,
    lost_count: usize,
}

impl Rows {
    fn next(&self) -> Option<LogId> {
        self.rows.last().filter(|_| self.has_more).map(|row| row.id)
    }
}

impl Sink for Rows {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        let entry = match met {
            Met::Lost(_) => {
                self.lost_count += 1;
                return ControlFlow::Continue(());
            }
            Met::Entry(entry) => entry,
        };
        if self.rows.len() >= PAGE_LEN {
            self.has_more = true;
            return ControlFlow::Break(());
        }
        let variant = variant_key_of(entry.body);
        self.rows.push(Row::new(
            entry.id,
            entry.received_at_ms,
            variant,
            entry.body,
        ));
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        self.has_more
    }
}

async fn read(state: &AppState, slug: &Slug, selection: Selection) -> ApiResult<Rows> {
    let mut rows = Rows {
        rows: Vec::new(),
        has_more: false,
        lost_count: 0,
    };
    let mut reader = Some(
        state
            .store
            .read(slug, selection, Order::NewestFirst)
            .await?,
    );
    while let Some(reading) = reader.take() {
        let is_long = reading.read_bytes() > PAGE_READ_BYTES;
        let step = reading.step(rows).await?;
        rows = step.sink;
        let is_done = rows.is_full() || is_long && !rows.rows.is_empty();
        rows.has_more |= is_done && step.reader.is_some();
        reader = step.reader.filter(|_| !is_done);
    }
    Ok(rows)
}
