//! `GET /experiment/:slug/tail`: entries as they become durable, as Server-Sent Events.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::error;

use super::logs::{check_bound, log_id, variant_key};
use crate::entry_json::EntryWriter;
use crate::experiment::reading::{Lost, Met, Sink};
use crate::experiment::tail::{Tail, TailError};
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::limits::Limits;
use crate::http::metrics::Limit;
use crate::http::pieces::{Next, PieceByPiece, Pieces};
use crate::http::query::parameters;
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::http::service::{Asked, slug_of};
use crate::model::{LogId, Slug};

/// Events are sent once there are this many bytes of them.
const PIECE_BYTES: usize = 64 << 10;
/// A reader that was at the end and is this far behind it is told that it lags.
const LAG_BYTES: usize = 8 << 20;
/// How long a client should wait before it comes back.
const RETRY_MS: u32 = 1000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether whoever reads a tail may go on.
pub type MayStill = Box<dyn Fn() -> ApiResult<()> + Send>;

/// Events for as long as the key holds.
pub async fn tail(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let headers = asked.request.headers();
    let mut key = HeaderMap::new();
    for value in headers.get_all("x-api-key") {
        key.append("x-api-key", value.clone());
    }
    let keyring = state.keyring.clone();
    let may_still = Box::new(move || Ok(keyring.authenticate(&key).map(|_| ())?));
    let (slug, query) = (slug_of(&asked)?.clone(), asked.request.uri().query());
    follow(state, slug, query, headers, &asked.limits, may_still).await
}

/// The cookies among these headers.
pub fn cookies(headers: &HeaderMap) -> HeaderMap {
    let mut cookies = HeaderMap::new();
    for value in headers.get_all(COOKIE) {
        cookies.append(COOKIE, value.clone());
    }
    cookies
}

/// Events from behind the last one that the client has; without one, from now on.
pub async fn follow(
    state: &AppState,
    slug: Slug,
    query: Option<&str>,
    headers: &HeaderMap,
    limits: &Limits,
    may_still: MayStill,
) -> ApiResult<Response<Body>> {
    let [variant, after] = parameters(query, ["variant", "after"])?;
    let variants = variant.map(variant_key).transpose()?.into_iter().collect();
    // A browser that comes back asks for the same address, and says how far it came.
    let after = match headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        Some(id) => Some(log_id("last-event-id", id.to_str().unwrap_or_default())?),
        None => after.map(|text| log_id("after", text)).transpose()?,
    };
    if !headers.contains_key(LAST_EVENT_ID) {
        // Who comes back is never sent away, whatever has become of the entry that it had last.
        check_bound(state, &slug, "after", after).await?;
    }
    let place = state.tails.clone().try_acquire_owned().map_err(|_| {
        let tails_max = limits.tails_max;
        let message = format!("there are {tails_max} tails already: end some, or try again later");
        ApiError::overloaded(Limit::Tails, message)
    })?;
    let events = Events {
        tail: Tail::begin(state.store.clone(), &slug, variants, after).await?,
        slug,
        may_still,
        is_ending: state.is_ending.subscribe(),
        beat_interval: limits.tail_beat,
        next_beat: Instant::now() + limits.tail_beat,
        said: None,
        behind: None,
        has_lagged: false,
        is_over: false,
        _place: place,
    };
    let mut response = Response::new(Body::stream(PieceByPiece::new(events, None)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What proxies take as a word to pass events on at once.
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

struct Events {
    tail: Tail,
    slug: Slug,
    may_still: MayStill,
    is_ending: watch::Receiver<bool>,
    beat_interval: Duration,
    next_beat: Instant,
    /// The place that the client knows of; nothing was sent yet without one.
    said: Option<LogId>,
    /// Bytes that were sent since the end was reached, once it has been: what was there before a
    /// reader came is no lag.
    behind: Option<usize>,
    has_lagged: bool,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Pieces for Events {
    async fn next(mut self) -> Next<Self> {
        if self.is_over {
            return Ok(None);
        }
        let text = match self.make().await {
            Ok(text) => text,
            Err(why) => self.end(&why),
        };
        Ok(Some((Bytes::from(text), self)))
    }
}

impl Events {
    /// The next events or beat; an error is why there are no more.
    async fn make(&mut self) -> ApiResult<Vec<u8>> {
        if self.said.is_none() {
            // Who is cut off before the first entry comes back to the same place.
            let mut text = format!("retry: {RETRY_MS}\n").into_bytes();
            self.say_place(&mut text);
            return Ok(text);
        }
        loop {
            if self.next_beat <= Instant::now() {
                return self.beat();
            }
            let piece = Piece::new(self.slug.clone());
            let read = tokio::select! {
                biased;
                _ = self.is_ending.wait_for(|is_ending| *is_ending) => {
                    let message = "the server is shutting down: come back";
                    return Err(ApiError::new(Code::ShuttingDown, message));
                }
                read = self.tail.read(piece) => read,
                () = tokio::time::sleep_until(self.next_beat) => continue,
            };
            let read = read.map_err(why_ended)?;
            let mut text = read.sink.text;
            if read.sink.has_entries {
                self.said = Some(self.tail.place());
            }
            self.note_lag(&mut text, read.is_all);
            if !text.is_empty() {
                return Ok(text);
            }
        }
    }

    /// Whether the key still holds is looked at as often as this.
    fn beat(&mut self) -> ApiResult<Vec<u8>> {
        self.next_beat = Instant::now() + self.beat_interval;
        (self.may_still)()?;
        let mut text = b":\n".to_vec();
        if self.said == Some(self.tail.place()) {
            text.push(b'\n');
        } else {
            // Nothing was selected for a while, and need not be looked through again.
            self.say_place(&mut text);
        }
        Ok(text)
    }

    /// An id without data is no event: the client just takes note of it.
    fn say_place(&mut self, text: &mut Vec<u8>) {
        let place = self.tail.place();
        self.said = Some(place);
        text.extend_from_slice(format!("id: {place}\n\n").as_bytes());
    }

    fn note_lag(&mut self, text: &mut Vec<u8>, is_all: bool) {
        let behind = self.behind.map_or(0, |behind| behind + text.len());
        let lags = behind > LAG_BYTES;
        if lags && !self.has_lagged {
            self.has_lagged = true;
            let place = self.tail.place();
            let event = format!("event: lagged\ndata: {{\"after\":\"{place}\"}}\n\n");
            text.extend_from_slice(event.as_bytes());
        }
        if is_all {
            // The log has grown meanwhile: who had so much to read still lags.
            self.has_lagged &= lags;
            self.behind = Some(0);
        } else if self.behind.is_some() {
            self.behind = Some(behind);
        }
    }

    fn end(&mut self, why: &ApiError) -> Vec<u8> {
        self.is_over = true;
        format!("event: end\ndata: {}\n\n", why.to_json()).into_bytes()
    }
}

fn why_ended(error: TailError) -> ApiError {
    match error {
        TailError::Deleted => ApiError::new(Code::ExperimentNotFound, error.to_string()),
        TailError::Read(error) => {
            error!(%error, "a tail ends");
            error.into()
        }
    }
}

/// Events, as they are sent.
struct Piece {
    text: Vec<u8>,
    writer: EntryWriter,
    slug: Slug,
    has_entries: bool,
}

impl Piece {
    fn new(slug: Slug) -> Self {
        Self {
            text: Vec::new(),
            writer: EntryWriter::default(),
            slug,
            has_entries: false,
        }
    }
}

impl Sink for Piece {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        let text = &mut self.text;
        match met {
            Met::Entry(entry) => {
                self.has_entries = true;
                let (id, at) = (entry.id, entry.received_at_ms);
                text.extend_from_slice(b"id: ");
                text.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
                text.extend_from_slice(b"\ndata: ");
                self.writer.write_line(text, &self.slug, id, at, entry.body);
                text.push(b'\n');
            }
            Met::Lost(Lost { after, before }) => {
                let before = before.map_or("null".into(), |before| format!("\"{before}\""));
                let event =
                    format!("event: lost\ndata: {{\"after\":\"{after}\",\"before\":{before}}}\n\n");
                text.extend_from_slice(event.as_bytes());
            }
        }
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        self.text.len() >= PIECE_BYTES
    }
}
