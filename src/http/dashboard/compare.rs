//! Two variants' answers to the same input. What has the same input is looked for around an entry: the
//! variants of one input are mostly logged one after the other.

use std::ops::ControlFlow;

use bytes::Bytes;
use hyper::Response;
use memchr::memmem;

use super::{Seen, entries, whole};
use crate::dashboard::json::Members;
use crate::dashboard::layout::Here;
use crate::dashboard::pages::compare::{self as view, Compared};
use crate::experiment::reading::{Met, Order, Reader, Selection, Sink, variant_key_of};
use crate::http::error::ApiResult;
use crate::http::query::{decoded, parameters};
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::model::{Entry, LogId, Slug};

/// Bytes of the log that are looked through on each side of an entry.
const READ_BYTES_MAX: u64 = 24 << 20;
/// Variants that are looked for.
const FOUND_MAX: usize = 20;

/// The page: `left` is an entry, `right` the one beside it, or the first one that is found.
pub async fn compare(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let [left, right] = parameters(seen.query(), ["left", "right"])?;
    let slug = seen.slug()?;
    let left = decoded("left", left.unwrap_or_default())?;
    let left = entries::find(state, slug, &left).await?;
    let right = match decoded("right", right.unwrap_or_default())? {
        none if none.is_empty() => None,
        id => Some(entries::find(state, slug, &id).await?),
    };
    let found = look_around(state, slug, &left).await?;
    let first = match (&right, found.met.first()) {
        (None, Some((id, _))) => state.store.get(slug, *id).await?,
        _ => None,
    };
    let right = right.or(first);
    let compared = Compared {
        slug,
        left: &left,
        right: right.as_ref(),
        others: found.met,
        read_bytes: found.read_bytes,
        is_all: found.is_all,
    };
    let content = view::compare(&compared);
    Ok(whole(
        state,
        seen,
        &format!("Answers of {slug}"),
        Here::Experiments,
        content,
    ))
}

/// What has the same input.
struct Found {
    met: Vec<(LogId, Box<str>)>,
    read_bytes: u64,
    is_all: bool,
}

/// Looks for one entry of each other variant, first behind the entry and then in front of it.
async fn look_around(state: &AppState, slug: &Slug, entry: &Entry) -> ApiResult<Found> {
    let mut found = Found {
        met: Vec::new(),
        read_bytes: 0,
        is_all: true,
    };
    let Some(input) = input_of(&entry.body) else {
        return Ok(found);
    };
    let description = state.store.describe(slug).await?;
    let with_entries = description
        .variant_counts
        .iter()
        .filter(|one| one.count > 0);
    let mut same = Same {
        input,
        known: vec![entry.variant_key.clone()],
        wanted: with_entries.count().min(FOUND_MAX + 1),
        met: Vec::new(),
    };
    let behind = Selection {
        after: Some(entry.id),
        ..Selection::default()
    };
    let before = Selection {
        before: Some(entry.id),
        ..Selection::default()
    };
    for (selection, order) in [(behind, Order::OldestFirst), (before, Order::NewestFirst)] {
        let mut reader = Some(state.store.read(slug, selection, order).await?);
        let mut read_bytes = 0;
        while let Some(reading) = reader.take() {
            if same.is_full() || reading.read_bytes() >= READ_BYTES_MAX {
                found.is_all = false;
                break;
            }
            let (step, bytes) = stepped(reading, same).await?;
            (same, reader, read_bytes) = (step.0, step.1, bytes);
        }
        found.read_bytes += read_bytes;
    }
    found.met = same.met;
    Ok(found)
}

async fn stepped(reader: Reader, same: Same) -> ApiResult<((Same, Option<Reader>), u64)> {
    let begun = reader.read_bytes();
    let step = reader.step(same).await?;
    let bytes = step.reader.as_ref().map_or(begun, Reader::read_bytes);
    Ok(((step.sink, step.reader), bytes))
}

/// The input of an entry, as it was written.
fn input_of(body: &Bytes) -> Option<Box<[u8]>> {
    let members = Members::of(body);
    Some(members.get("input")?.get().as_bytes().into())
}

/// Takes the first entry of each variant whose input is the same, byte for byte.
struct Same {
    input: Box<[u8]>,
    known: Vec<Box<str>>,
    wanted: usize,
    met: Vec<(LogId, Box<str>)>,
}

impl Sink for Same {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        let Met::Entry(entry) = met else {
            return ControlFlow::Continue(());
        };
        // Much faster than reading the JSON of each.
        if memmem::find(entry.body, &self.input).is_none() {
            return ControlFlow::Continue(());
        }
        let members = Members::of(entry.body);
        let input = members.get("input").map(|input| input.get().as_bytes());
        let variant = variant_key_of(entry.body);
        if input == Some(&*self.input) && !self.known.contains(&variant) {
            self.known.push(variant.clone());
            self.met.push((entry.id, variant));
        }
        match self.is_full() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn is_full(&self) -> bool {
        self.known.len() >= self.wanted
    }
}
