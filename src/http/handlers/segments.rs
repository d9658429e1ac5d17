//! `GET /experiment/:slug/segments`, and `…/segments/:n`: the files themselves, to be read elsewhere.

use std::ops::Range;

use hyper::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tracing::error;

use crate::entry_json::rfc3339_ms;
use crate::experiment::segments::{SegmentDownload, SegmentInfo, SegmentState, Sought};
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::metrics::Limit;
use crate::http::pieces::{Next, PieceByPiece, Pieces};
use crate::http::query::{self, limit_of, parameters};
use crate::http::range::{Wanted, wanted};
use crate::http::reply::{self, Body, CutShort};
use crate::http::server::{AppState, DOWNLOADS_MAX};
use crate::http::service::{Asked, slug_of};

const PIECE_BYTES: u64 = 64 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    number: u64,
    file: String,
    bytes: u64,
    state: &'static str,
    entries: Option<u64>,
    first_log_id: Option<String>,
    last_log_id: Option<String>,
    first_received_at: Option<String>,
    last_received_at: Option<String>,
    etag: Option<String>,
}

#[derive(Serialize)]
struct Page {
    segments: Vec<Listed>,
    next: Option<u64>,
}

/// `?after=&limit=`: in the order of the log.
pub async fn list(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [after, limit] = parameters(asked.request.uri().query(), ["after", "limit"])?;
    let limit = limit_of(limit.map(query::limit).transpose()?);
    let after = after.map(|text| text.parse().map_err(|_| not_a_number()));
    let after = after.transpose()?;
    let slug = slug_of(&asked)?;
    let mut infos = state.store.segments(slug, after, limit + 1).await?;
    let has_more = infos.len() > limit;
    infos.truncate(limit);
    let next = infos.last().filter(|_| has_more).map(|info| info.number);
    let segments = infos.into_iter().map(Listed::of).collect();
    reply::json_of(StatusCode::OK, &Page { segments, next })
}

/// One that is finished, or a range of its bytes.
pub async fn download(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let unknown = || ApiError::new(Code::SegmentNotFound, "there is no segment of this number");
    let number = asked.id.as_deref().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(unknown)?;
    // Each holds a descriptor, of which the log itself needs some.
    let place = state.downloads.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{DOWNLOADS_MAX} segments are being sent already: try again later");
        ApiError::overloaded(Limit::Downloads, message)
    })?;
    let segment = match state.store.segment(slug_of(&asked)?, number).await? {
        Sought::Found(segment) => segment,
        Sought::NotFinished => {
            let message = "this segment is still written to: the list says when it is sealed";
            return Err(ApiError::new(Code::SegmentNotSealed, message));
        }
        Sought::Unknown => return Err(unknown()),
    };
    let tag = format!("\"{}\"", segment.tag);
    let len = segment.len;
    let wanted = match wanted(asked.request.headers(), &tag, len) {
        // A range is of what GET sends.
        Wanted::Part(_) | Wanted::Unsatisfiable if asked.request.method() == Method::HEAD => {
            Wanted::All
        }
        wanted => wanted,
    };
    let name = segment.name.clone();
    let mut response = match wanted {
        Wanted::Nothing => with_status(StatusCode::NOT_MODIFIED),
        Wanted::All => bytes_of(segment, 0..len, place),
        Wanted::Part(range) => {
            let (first, last) = (range.start, range.end - 1);
            let mut response = bytes_of(segment, range, place);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(
                &mut response,
                CONTENT_RANGE,
                format!("bytes {first}-{last}/{len}"),
            );
            response
        }
        Wanted::Unsatisfiable => {
            let message = format!("the segment has {len} bytes, and none where the range is");
            let refused = ApiError::new(Code::RangeNotSatisfiable, message);
            let mut response = refused.into_response();
            set(&mut response, CONTENT_RANGE, format!("bytes */{len}"));
            return Ok(response);
        }
    };
    set(&mut response, ETAG, tag);
    set(&mut response, ACCEPT_RANGES, "bytes".into());
    set(
        &mut response,
        CONTENT_DISPOSITION,
        format!("attachment; filename=\"{name}\""),
    );
    Ok(response)
}

fn not_a_number() -> ApiError {
    ApiError::new(Code::BadParameter, "after is the number of a segment")
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: String) {
    // Tags, numbers and our own file names are plain text.
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

fn bytes_of(
    segment: SegmentDownload,
    range: Range<u64>,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let len = range.end - range.start;
    let sending = Sending {
        segment,
        left: range,
        _place: place,
    };
    let mut response = Response::new(Body::stream(PieceByPiece::new(sending, Some(len))));
    let headers = response.headers_mut();
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, binary);
    response
}

struct Sending {
    segment: SegmentDownload,
    left: Range<u64>,
    _place: OwnedSemaphorePermit,
}

impl Pieces for Sending {
    async fn next(mut self) -> Next<Self> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let begin = self.left.start;
        let end = self.left.end.min(begin + PIECE_BYTES);
        self.left.start = end;
        let read = self.segment.read(begin, end).await;
        let bytes = read.map_err(|error| {
            error!(%error, segment = self.segment.name, "a segment breaks off while it is sent");
            CutShort
        })?;
        Ok(Some((bytes, self)))
    }
}

impl Listed {
    fn of(info: SegmentInfo) -> Self {
        let figures = info.figures;
        let with_entries = figures.filter(|figures| figures.count > 0);
        Self {
            number: info.number,
            file: info.name,
            bytes: info.len,
            state: match info.state {
                SegmentState::Active => "active",
                SegmentState::Sealing => "sealing",
                SegmentState::Sealed => "sealed",
                SegmentState::Archived => "archived",
                SegmentState::Unsealed => "unsealed",
            },
            entries: figures.map(|figures| figures.count),
            first_log_id: with_entries.and_then(|f| Some(f.first_id?.to_string())),
            last_log_id: with_entries.and_then(|f| Some(f.last_id?.to_string())),
            first_received_at: with_entries.map(|f| rfc3339_ms(f.received_at_ms_min)),
            last_received_at: with_entries.map(|f| rfc3339_ms(f.received_at_ms_max)),
            etag: info.tag.map(|tag| format!("\"{tag}\"")),
        }
    }
}
