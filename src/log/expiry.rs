//! Which segments of a log are to be dropped: its oldest ones, as far as they are too old or too many.

use super::dropped::{Dropped, DueSegment};
use super::listing::SegmentRef;
use super::reader::SegmentError;
use super::view::LogView;
use crate::fs::Disk;

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The age of what was received last in a segment.
    pub age_ms_max: Option<u64>,
    /// Of all its files together.
    pub bytes_max: Option<u64>,
    /// Segments with this number and later ones stay all the same: they are nowhere else yet.
    pub number_end: Option<u64>,
}

impl Limits {
    /// Whether something that was received last at `at_ms` is too old.
    pub fn is_past(&self, at_ms: u64, now_ms: u64) -> bool {
        self.age_ms_max
            .is_some_and(|age_ms| at_ms.saturating_add(age_ms) < now_ms)
    }

    /// Whether so much is too much.
    pub fn is_over(&self, bytes: u64) -> bool {
        self.bytes_max.is_some_and(|bytes_max| bytes > bytes_max)
    }
}

/// The mark of what was dropped of the log, with all that is to be dropped now; `None` when that is
/// nothing. Only whole segments are, from the oldest on, to which nothing is written any more; never
/// the last one, where ids and sequence numbers go on.
pub fn due(
    view: &LogView,
    disk: &dyn Disk,
    limits: &Limits,
    now_ms: u64,
) -> Result<Option<Dropped>, SegmentError> {
    let mut segments = view.segments(0);
    let Some(last) = segments.pop() else {
        return Ok(None);
    };
    let mut oldest = Vec::new();
    let mut bytes = last.frames_end();
    for segment in &segments {
        let SegmentRef::Closed(closed) = segment else {
            break;
        };
        let len = closed.file_len(disk)?;
        bytes += len.unwrap_or(closed.frames_end);
        oldest.push((segment, len));
    }
    let mut drops = Vec::new();
    for (segment, len) in oldest {
        let Some(len) = len else { break };
        let number = segment.header().number;
        if limits.number_end.is_some_and(|end| number >= end) {
            break;
        }
        let figures = match segment.figures(disk) {
            // When it was written can't be read any more, nor what is in it.
            Err(SegmentError::Header { .. }) => None,
            figures => Some(figures?),
        };
        let received_at_ms = figures.map_or(0, |figures| figures.received_at_ms_max);
        let begun_at_ms = segment.header().created_at_ms;
        let is_past = limits.is_past(received_at_ms.max(begun_at_ms), now_ms);
        if !is_past && !limits.is_over(bytes) {
            break;
        }
        bytes = bytes.saturating_sub(len);
        let last_id = figures.and_then(|figures| figures.last_id);
        drops.push(DueSegment {
            number,
            first_sequence: segment.header().first_sequence,
            last_id: last_id.unwrap_or(segment.header().last_id).as_u128(),
            entries: figures.map_or(0, |figures| figures.count),
            bytes: len,
        });
    }
    let before = view.dropped();
    let incarnation = last.header().incarnation;
    Ok(Dropped::with(before.as_deref(), incarnation, &drops))
}
