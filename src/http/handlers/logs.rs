//! `GET /experiment/:slug/logs`: a selection of the entries, as a page or as lines.

use std::ops::ControlFlow;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::Timestamp;

use crate::entry_json::EntryWriter;
use crate::experiment::reading::{Lost, Met, Order, Reader, Selection, Sink};
use crate::http::accept::accepts;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::lines::Lines;
use crate::http::query::{self, decoded, limit_of, parameters};
use crate::http::reply::{self, Body};
use crate::http::server::AppState;
use crate::http::service::{Asked, slug_of};
use crate::model::{LogId, Slug, VARIANT_KEY_BYTES_MAX};

/// A page with this many bytes ends, whatever its limit.
const PAGE_BYTES: usize = 4 << 20;
const NDJSON: &str = "application/x-ndjson";

/// What is asked for.
struct Query {
    selection: Selection,
    order: Order,
    limit: Option<usize>,
}

/// A page, or a stream of lines for who accepts those.
pub async fn query(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let query = Query::parse(asked.request.uri().query())?;
    let slug = slug_of(&asked)?.clone();
    for (name, bound) in [
        ("after", query.selection.after),
        ("before", query.selection.before),
    ] {
        check_bound(state, &slug, name, bound).await?;
    }
    let (order, limit) = (query.order, query.limit);
    let reader = state.store.read(&slug, query.selection, order).await?;
    if accepts(asked.request.headers(), NDJSON) {
        let mut response = Response::new(Body::stream(Lines::new(reader, slug, limit)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        return Ok(response);
    }
    page(reader, Page::new(slug, order, limit_of(limit))).await
}

impl Query {
    fn parse(query: Option<&str>) -> ApiResult<Self> {
        let names = [
            "variant", "after", "before", "since", "until", "limit", "order",
        ];
        let [variant, after, before, since, until, limit, order] = parameters(query, names)?;
        let selection = Selection {
            variants: variant.map(variant_key).transpose()?.into_iter().collect(),
            after: after.map(|text| log_id("after", text)).transpose()?,
            before: before.map(|text| log_id("before", text)).transpose()?,
            since_ms: since.map(|text| time("since", text)).transpose()?,
            until_ms: until.map(|text| time("until", text)).transpose()?,
        };
        if let (Some(since), Some(until)) = (selection.since_ms, selection.until_ms)
            && since > until
        {
            return Err(bad("since is behind until: nothing can be between them"));
        }
        if let (Some(after), Some(before)) = (selection.after, selection.before)
            && after >= before
        {
            return Err(bad(
                "after is not in front of before: nothing can be between them",
            ));
        }
        let order = match order {
            None | Some("asc") => Order::OldestFirst,
            Some("desc") => Order::NewestFirst,
            Some(_) => return Err(bad("order is asc or desc")),
        };
        let limit = limit.map(query::limit).transpose()?;
        Ok(Self {
            selection,
            order,
            limit,
        })
    }
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::new(Code::BadParameter, message)
}

pub(super) fn variant_key(text: &str) -> ApiResult<String> {
    let key = decoded("variant", text)?;
    if key.is_empty() || key.len() > VARIANT_KEY_BYTES_MAX {
        let message = format!("variant is a variantKey: 1 to {VARIANT_KEY_BYTES_MAX} bytes");
        return Err(bad(message));
    }
    Ok(key.into_owned())
}

/// The log id that a parameter gives.
pub fn log_id(name: &str, text: &str) -> ApiResult<LogId> {
    let id = decoded(name, text)?.parse();
    id.map_err(|error| bad(format!("{name}: {error}")))
}

/// Refuses an id of another experiment: what it would leave out is by chance. That of all zeros is the
/// beginning of any log.
pub async fn check_bound(
    state: &AppState,
    slug: &Slug,
    name: &str,
    bound: Option<LogId>,
) -> ApiResult<()> {
    let Some(id) = bound.filter(|id| *id != LogId::MIN) else {
        return Ok(());
    };
    if state.store.knows(slug, id).await? {
        return Ok(());
    }
    state.await_id(slug, id).await;
    match state.store.knows(slug, id).await? {
        true => Ok(()),
        false => Err(bad(format!(
            "{name}: no entry of this experiment has the log id {id}; is it another experiment's?"
        ))),
    }
}

/// A time in milliseconds. Between two of them counts as the later one: entries have whole ones.
fn time(name: &str, text: &str) -> ApiResult<u64> {
    let time: Timestamp = decoded(name, text)?.parse().map_err(|_| {
        bad(format!(
            "{name} is a time as 2026-11-24T12:00:00Z (RFC 3339; a + in it is written as %2B)"
        ))
    })?;
    let ms = (time.as_nanosecond() + 999_999).div_euclid(1_000_000);
    Ok(u64::try_from(ms).unwrap_or(0))
}

struct Page {
    text: Vec<u8>,
    writer: EntryWriter,
    slug: Slug,
    order: Order,
    limit: usize,
    count: usize,
    last: Option<LogId>,
    end: Option<PageEnd>,
}

/// Why a page ends in front of the end of the log.
enum PageEnd {
    HasMore,
    Damaged(Lost),
}

impl Page {
    fn new(slug: Slug, order: Order, limit: usize) -> Self {
        Self {
            text: b"{\"logs\":[".to_vec(),
            writer: EntryWriter::default(),
            slug,
            order,
            limit,
            count: 0,
            last: None,
            end: None,
        }
    }

    fn finish(mut self) -> ApiResult<Vec<u8>> {
        match (self.end, self.last) {
            (Some(PageEnd::Damaged(lost)), _) => return Err(damaged(lost, self.order)),
            (Some(PageEnd::HasMore), Some(last)) => {
                self.text.extend_from_slice(b"],\"next\":\"");
                let id = last.encode(&mut [0; LogId::TEXT_LEN]).as_bytes().to_vec();
                self.text.extend_from_slice(&id);
                self.text.extend_from_slice(b"\"}");
            }
            _ => self.text.extend_from_slice(b"],\"next\":null}"),
        }
        Ok(self.text)
    }
}

impl Sink for Page {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        let entry = match met {
            Met::Entry(entry) if self.count < self.limit && self.text.len() < PAGE_BYTES => entry,
            // A page ends in front of damage, and the one that begins with it says so.
            Met::Lost(lost) if self.count == 0 => {
                self.end = Some(PageEnd::Damaged(lost));
                return ControlFlow::Break(());
            }
            Met::Entry(_) | Met::Lost(_) => {
                self.end = Some(PageEnd::HasMore);
                return ControlFlow::Break(());
            }
        };
        if self.count > 0 {
            self.text.push(b',');
        }
        let (id, at) = (entry.id, entry.received_at_ms);
        self.writer
            .write(&mut self.text, &self.slug, id, at, entry.body);
        self.count += 1;
        self.last = Some(id);
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        self.end.is_some()
    }
}

async fn page(reader: Reader, mut page: Page) -> ApiResult<Response<Body>> {
    let mut reader = Some(reader);
    while let Some(reading) = reader.take() {
        let step = reading.step(page).await?;
        page = step.sink;
        reader = step.reader.filter(|_| !page.is_full());
    }
    Ok(reply::json(StatusCode::OK, page.finish()?))
}

/// Says where the log goes on.
fn damaged(lost: Lost, order: Order) -> ApiError {
    let further = match (order, lost.before) {
        (Order::OldestFirst, Some(before)) => {
            let last = LogId::from_u128(before.as_u128().saturating_sub(1));
            format!("it goes on with after={last}")
        }
        (Order::OldestFirst, None) => "nothing is behind it".into(),
        (Order::NewestFirst, _) => {
            let first = LogId::from_u128(lost.after.as_u128().saturating_add(1));
            format!("it goes on with before={first}")
        }
    };
    let message = format!(
        "entries are damaged where this page begins; {further}, and a stream ({NDJSON}) gives \
         everything that is whole"
    );
    ApiError::new(Code::LogDamaged, message)
}
