//! Giving back entries in log order, selected.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use super::source::{OfflineError, Source};
use super::wanted::Wanted;
use crate::log::index::variant_key_of;
use crate::log::reader::{Segment, SegmentError};
use crate::log::record::Record;
use crate::log::scan::{Damage, Found};
use crate::log::select;
use crate::model::{LogId, Slug};

/// What is wanted of a source.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of these experiments; of all when there is none.
    pub experiments: Vec<Slug>,
    /// Which of their entries.
    pub entries: select::Selection,
}

/// An entry on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Replayed<'a> {
    /// The experiment.
    pub slug: &'a Slug,
    /// What identifies it.
    pub id: LogId,
    /// When it arrived, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The JSON object that the client sent.
    pub body: &'a [u8],
}

/// What a replay met on its way.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Entries that were given back.
    pub entry_count: u64,
    /// Damage, by segment.
    pub damages: Vec<(PathBuf, Damage)>,
    /// Segments that could not be read.
    pub unreadable: Vec<SegmentError>,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The source can't be read.
    #[error(transparent)]
    Source(#[from] OfflineError),
    /// What took the entries failed.
    #[error("writing the output failed: {0}")]
    Output(io::Error),
}

/// Hands every selected entry of `source` to `take`, experiment by experiment, each in the order
/// of its log.
pub fn replay(
    source: &Source,
    selection: &Selection,
    take: impl FnMut(Replayed<'_>) -> io::Result<()>,
) -> Result<Outcome, ReplayError> {
    replay_watched(source, selection, |_| {}, take)
}

/// As [`replay`], and tells `watch` of the bytes of segments that are done, as it goes on.
pub fn replay_watched(
    source: &Source,
    selection: &Selection,
    mut watch: impl FnMut(u64),
    mut take: impl FnMut(Replayed<'_>) -> io::Result<()>,
) -> Result<Outcome, ReplayError> {
    let plan = source.plan();
    let mut outcome = Outcome::default();
    let mut segments = source.segments_of(&plan, &selection.experiments)?;
    segments.retain(|segment| {
        segment.slug.as_ref().is_none_or(|slug| {
            selection.experiments.is_empty() || selection.experiments.contains(slug)
        })
    });
    // Before the first entry is given: what is only a part is not begun.
    for segment in segments.iter().filter(|segment| !segment.is_here) {
        let opened = source.open_wanted(segment, &plan, &selection.entries);
        if let Err(error @ SegmentError::Archived { .. }) = opened {
            return Err(OfflineError::from(error).into());
        }
    }
    for segment in segments {
        match source.open_wanted(&segment, &plan, &selection.entries) {
            Ok(None) => {}
            Ok(Some(open)) if selection.excludes(open.segment()) => {}
            Ok(Some(open)) => {
                replay_segment(&open, selection, &mut watch, &mut take, &mut outcome)
                    .map_err(ReplayError::Output)?;
            }
            Err(error) if source.was_dropped(&error) => {}
            Err(error @ SegmentError::Header { .. }) => outcome.unreadable.push(error),
            Err(error) => return Err(OfflineError::from(error).into()),
        }
    }
    Ok(outcome)
}

fn replay_segment(
    open: &Wanted,
    selection: &Selection,
    watch: &mut impl FnMut(u64),
    take: &mut impl FnMut(Replayed<'_>) -> io::Result<()>,
    outcome: &mut Outcome,
) -> io::Result<()> {
    let segment = open.segment();
    let path = || segment.path.clone();
    let outer = segment.outer_damages();
    outcome
        .damages
        .extend(outer.into_iter().map(|damage| (path(), damage)));
    let mut names = Vec::new();
    for found in open.scans().into_iter().flatten() {
        match found {
            Found::Record { frame, record, .. } => {
                watch(frame.frame_len() as u64);
                match record {
                    Record::Variant(variant) => names.push((variant.number, variant.key)),
                    Record::Entry(entry) => {
                        let (id, at) = (frame.header.id, entry.received_at_ms);
                        // Where the frame that gave the number is damaged, the entry names its
                        // variant itself.
                        let key = || {
                            let named = names.iter().find(|(number, _)| *number == entry.variant);
                            match named {
                                Some((_, key)) => Cow::Borrowed(*key),
                                None => Cow::Owned(variant_key_of(entry.body).into_string()),
                            }
                        };
                        if selection.entries.takes(id, at) && selection.entries.takes_variant(key) {
                            outcome.entry_count += 1;
                            take(Replayed {
                                slug: &segment.header.slug,
                                id,
                                received_at_ms: at,
                                body: entry.body,
                            })?;
                        }
                    }
                }
            }
            Found::Damage(damage) => outcome.damages.push((path(), damage)),
            // A tail that was being written when it was copied.
            Found::Torn { .. } => {}
        }
    }
    Ok(())
}

impl Selection {
    /// Whether nothing in the segment can be wanted, as its footer says.
    fn excludes(&self, segment: &Segment) -> bool {
        let Some(summary) = segment.footer().map(|footer| footer.summary) else {
            return false;
        };
        let (min_ms, max_ms) = (summary.received_at_ms_min, summary.received_at_ms_max);
        let entries = &self.entries;
        let is_before = |after| summary.ids().is_some_and(|(_, last)| last <= after);
        let is_behind = |before| summary.ids().is_some_and(|(first, _)| first >= before);
        !entries.meets_times(min_ms, max_ms)
            || entries.after.is_some_and(is_before)
            || entries.before.is_some_and(is_behind)
    }
}
