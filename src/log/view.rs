//! What readers see of a log while it is written: the closed segments, and the active one up to
//! its durable end.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use super::closed::{ClosedSegment, MetricsFold, Opened, Sealing};
use super::cursor::{LogCursor, Part, Source};
use super::dropped::{Dropped, was_dropped};
use super::frame::{Frame, Seed};
use super::frozen::Frozen;
use super::index::{Keyed, SegmentIndex, variant_key_of};
use super::listing::{Figures, SegmentRef};
use super::reader::SegmentError;
use super::record::Record;
use super::segment::SegmentHeader;
use super::segment_file::SegmentFile;
use super::select::{Order, Selection};
use crate::fs::Disk;
use crate::model::{Entry, LogId, VariantCount};

/// A log's segments. The writer changes it; readers hold its locks for look-ups only, never while
/// they read files.
#[derive(Default)]
pub struct LogView {
    segments: RwLock<Segments>,
}

#[derive(Default, Clone)]
struct Segments {
    /// Shared with those who read, until another is closed.
    closed: Arc<Vec<Arc<ClosedSegment>>>,
    active: Option<Arc<ActiveSegment>>,
    /// With how many closed segments the log was opened, if one behind them couldn't be read. Later
    /// ones leave a number out for it.
    lost_behind: Option<usize>,
    /// The number of the first segment that was not dropped.
    first_number: u64,
    dropped: Option<Arc<Dropped>>,
}

/// The segment that is written to.
pub struct ActiveSegment {
    /// What it says of itself.
    pub header: SegmentHeader,
    /// Its file.
    pub file: Arc<SegmentFile>,
    /// All that is staged; readers stop at the durable end.
    index: RwLock<SegmentIndex>,
}

/// How far a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewState {
    /// The number of its last segment, and where that durably ends.
    end: Option<(u64, u64)>,
    /// The first segment that was not dropped.
    first_number: u64,
}

/// What a log holds.
#[derive(Debug, Default)]
pub struct LogSummary {
    /// Durable entries.
    pub count: u64,
    /// The same for each variant, in the order of first use.
    pub variants: Vec<VariantCount>,
    /// The newest entry's id and time of receipt.
    pub last: Option<(LogId, u64)>,
    /// How many segments there are.
    pub segment_count: u64,
}

impl LogView {
    /// A view of these closed segments.
    pub fn new(closed: Vec<Arc<ClosedSegment>>) -> Self {
        let segments = Segments {
            closed: Arc::new(closed),
            ..Segments::default()
        };
        Self {
            segments: RwLock::new(segments),
        }
    }

    /// As [`Self::new`], where a segment behind these can't be read.
    pub fn with_lost_end(closed: Vec<Arc<ClosedSegment>>) -> Self {
        let view = Self::new(closed);
        let mut segments = view.segments_mut();
        segments.lost_behind = Some(segments.closed.len());
        drop(segments);
        view
    }

    /// Forgets what was dropped, which is durably known. Who reads it already goes on as far as its
    /// files are there.
    pub fn note_dropped(&self, dropped: Dropped) {
        let first_number = dropped.through_number + 1;
        self.begin_at(first_number);
        let mut segments = self.segments_mut();
        segments.dropped = Some(Arc::new(dropped));
        let is_kept = |closed: &Arc<ClosedSegment>| closed.header.number >= first_number;
        if !segments.closed.iter().all(is_kept) {
            Arc::make_mut(&mut segments.closed).retain(is_kept);
        }
    }

    /// What tells whether anything was appended or dropped meanwhile, from memory alone.
    pub fn state(&self) -> ViewState {
        let segments = self.snapshot();
        let closed = segments.closed.last();
        let closed = closed.map(|closed| (closed.header.number, closed.frames_end));
        let active = segments.active.as_ref();
        let active = active.map(|active| (active.header.number, active.file.durable_end()));
        ViewState {
            end: active.or(closed),
            first_number: segments.first_number,
        }
    }

    /// No segment is missing in front of the one with this number.
    pub fn begin_at(&self, first_number: u64) {
        self.segments_mut().first_number = first_number;
    }

    /// What was dropped of the log, if anything was.
    pub fn dropped(&self) -> Option<Arc<Dropped>> {
        self.snapshot().dropped
    }

    /// Makes `segment` the active one.
    pub fn set_active(&self, segment: Arc<ActiveSegment>) {
        self.segments_mut().active = Some(segment);
    }

    /// Closes the active segment; what lies behind `frames_end` isn't part of the log. Whoever
    /// closes it has it sealed.
    pub fn close_active(&self, segment: Arc<ActiveSegment>, frames_end: u64) -> Arc<ClosedSegment> {
        let closed = Arc::new(ClosedSegment::of(segment, frames_end));
        let mut segments = self.segments_mut();
        segments.active = None;
        Arc::make_mut(&mut segments.closed).push(closed.clone());
        closed
    }

    /// Whether all that has to be sealed is, and is written: another writer may go on from the
    /// files then, but for the active one.
    pub fn is_settled(&self) -> bool {
        let segments = self.snapshot();
        segments.closed.iter().all(|closed| closed.release())
    }

    /// The entry `id`, if it is there and durable.
    pub fn get(&self, disk: &dyn Disk, id: LogId) -> Result<Option<Entry>, SegmentError> {
        let segments = self.snapshot();
        if let Some(active) = &segments.active
            && active.header.last_id < id
        {
            return active.get(id, active.file.durable_end());
        }
        let behind = segments
            .closed
            .partition_point(|segment| segment.header.last_id < id);
        let candidate = behind.checked_sub(1).and_then(|at| segments.closed.get(at));
        match candidate.map_or(Ok(None), |segment| segment.get(disk, id)) {
            Err(error) if was_dropped(disk, &error) => Ok(None),
            found => found,
        }
    }

    /// A reading of what is selected of the entries that are durable now.
    pub fn cursor(&self, disk: Arc<dyn Disk>, selection: Selection, order: Order) -> LogCursor {
        let parts = self.snapshot().parts(selection.after);
        LogCursor::new(disk, parts, selection, order)
    }

    /// The log as it is now.
    pub fn frozen(&self) -> Frozen {
        Frozen::new(self.snapshot().parts(None))
    }

    /// The segments whose numbers are `from` or more, in order.
    pub fn segments(&self, from: u64) -> Vec<SegmentRef> {
        let segments = self.snapshot();
        let begin = segments
            .closed
            .partition_point(|closed| closed.header.number < from);
        let closed = segments.closed.iter().skip(begin).cloned();
        let active = segments
            .active
            .filter(|active| active.header.number >= from);
        let closed = closed.map(SegmentRef::Closed);
        closed.chain(active.map(SegmentRef::Active)).collect()
    }

    /// Counts, from indexes alone.
    pub fn summary(&self, disk: &dyn Disk) -> Result<LogSummary, SegmentError> {
        let segments = self.snapshot();
        let mut summary = LogSummary::default();
        for closed in segments.closed.iter() {
            match closed.add_to(disk, &mut summary) {
                // An outline that is damaged: what it counts isn't known.
                Err(SegmentError::Header { .. }) => {}
                Err(error) if was_dropped(disk, &error) => {}
                added => added?,
            }
        }
        if let Some(active) = &segments.active {
            active.add_to(active.file.durable_end(), &mut summary);
        }
        Ok(summary)
    }

    /// The entries with an idempotency key whose ids are of `since_ms` or later, the last
    /// `count_max` of them, in log order. They may not be durable yet. Reads footers only, of the
    /// segments that can have such entries.
    pub fn keyed(
        &self,
        disk: &dyn Disk,
        since_ms: u64,
        count_max: usize,
    ) -> Result<impl Iterator<Item = Keyed> + use<>, SegmentError> {
        let segments = self.snapshot();
        let mut newest_first = Vec::new();
        let mut count = 0;
        // What all ids in the segments to come are not above.
        let mut id_max = None;
        if let Some(active) = &segments.active {
            let keyed = active.index().keyed.clone();
            count += keyed.len();
            newest_first.push(keyed);
            id_max = Some(active.header.last_id);
        }
        for closed in segments.closed.iter().rev() {
            if count >= count_max || id_max.is_some_and(|id| id.timestamp_ms() < since_ms) {
                break;
            }
            let keyed = match closed.keyed(disk) {
                Err(error) if was_dropped(disk, &error) => break,
                Err(SegmentError::Header { .. }) => Vec::new(),
                keyed => keyed?,
            };
            count += keyed.len();
            newest_first.push(keyed);
            id_max = Some(closed.header.last_id);
        }
        let in_order = newest_first.into_iter().rev().flatten();
        let last = in_order.skip(count.saturating_sub(count_max));
        Ok(last.skip_while(move |keyed| keyed.id.timestamp_ms() < since_ms))
    }

    /// Whether any entry of this log names the variant `key`.
    pub fn has_variant(&self, disk: &dyn Disk, key: &str) -> Result<bool, SegmentError> {
        let summary = self.summary(disk)?;
        let mut variants = summary.variants.iter();
        Ok(variants.any(|variant| &*variant.key == key && variant.count > 0))
    }

    fn snapshot(&self) -> Segments {
        let segments: RwLockReadGuard<'_, Segments> =
            self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.clone()
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, Segments> {
        self.segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Segments {
    /// All segments that may hold ids behind `after`, and where one is missing, the newest first. In this
    /// order durable ends leave no gap: what is in front of a durable entry became durable before it.
    fn parts(&self, after: Option<LogId>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut next: Option<&SegmentHeader> = None;
        if let Some(active) = &self.active {
            let source = Source::Live(active.clone(), active.file.durable_end());
            parts.push(Part::new(source, active.header.last_id, None));
            next = Some(&active.header);
        } else if self.lost_behind == Some(self.closed.len()) {
            let last = self.closed.last();
            let after = last.map_or(LogId::MIN, |last| last.header.last_id);
            parts.push(Part::new(Source::Missing(last.cloned()), after, None));
        }
        for closed in self.closed.iter().rev() {
            // What is in front of the next one is in front of all that is wanted.
            if let (Some(next), Some(after)) = (next, after)
                && next.last_id <= after
            {
                return parts;
            }
            let header = &closed.header;
            if next.is_some_and(|next| next.number > header.number + 1) {
                let missing = Source::Missing(Some(closed.clone()));
                parts.push(Part::new(missing, header.last_id, next));
            }
            // What was sealed just now is let go here: what its footer says isn't read from its frames.
            let source = match closed.live().filter(|_| !closed.release()) {
                Some(active) => {
                    let end = closed.frames_end.min(active.file.durable_end());
                    Source::Live(active, end)
                }
                None => Source::Closed(closed.clone()),
            };
            parts.push(Part::new(source, header.last_id, next));
            next = Some(header);
        }
        if next.is_some_and(|next| next.number > self.first_number) {
            parts.push(Part::new(Source::Missing(None), LogId::MIN, next));
        }
        parts
    }
}

impl ActiveSegment {
    /// An active segment with the index of what its file holds.
    pub fn new(header: SegmentHeader, file: Arc<SegmentFile>, index: SegmentIndex) -> Self {
        Self {
            header,
            file,
            index: RwLock::new(index),
        }
    }

    /// The index, for the writer.
    pub fn index_mut(&self) -> RwLockWriteGuard<'_, SegmentIndex> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of all that is staged.
    pub fn index(&self) -> RwLockReadGuard<'_, SegmentIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the first entry of the last block that begins in front of `end`.
    pub(super) fn durable_block(&self, end: u64) -> Option<LogId> {
        let index = self.index();
        let count = index.blocks.partition_point(|block| block.position < end);
        let last = count.checked_sub(1).and_then(|at| index.blocks.get(at));
        last.map(|block| block.id)
    }

    pub(super) fn get(&self, id: LogId, end: u64) -> Result<Option<Entry>, SegmentError> {
        let block = self.index().block_of(id, end);
        // A block may have been staged behind what is durable.
        let Some(block) = block.filter(|block| block.start < end) else {
            return Ok(None);
        };
        let bytes = self
            .file
            .read(block.start, block.end.min(end))
            .map_err(|error| SegmentError::Io {
                path: self.file.path.clone(),
                error,
            })?;
        find_entry(&bytes, Seed::new(self.header.salt), id, &self.file.path)
    }

    pub(super) fn figures(&self, end: u64) -> Figures {
        let mut summary = LogSummary::default();
        self.add_to(end, &mut summary);
        let index = self.index();
        Figures {
            count: summary.count,
            first_id: index.first_id,
            last_id: summary.last.map(|(id, _)| id),
            received_at_ms_min: index.received_at_ms_min,
            received_at_ms_max: index.received_at_ms_max,
        }
    }

    pub(super) fn add_to(&self, end: u64, summary: &mut LogSummary) {
        let index = self.index();
        let is_all_durable = index
            .variants
            .iter()
            .all(|variant| variant.postings.last() < end);
        let variants = index.variants.iter().map(|variant| {
            let postings = &variant.postings;
            let count = if postings.last() < end {
                postings.count
            } else {
                postings
                    .iter()
                    .take_while(|position| *position < end)
                    .count() as u64
            };
            (&*variant.key, count)
        });
        let last = index.last_id.map(|id| (id, index.received_at_ms_last));
        summary.add(variants, last.filter(|_| is_all_durable));
    }
}

impl LogSummary {
    pub(super) fn add<'a>(
        &mut self,
        variants: impl Iterator<Item = (&'a str, u64)>,
        last: Option<(LogId, u64)>,
    ) {
        self.segment_count += 1;
        for (key, count) in variants {
            self.count += count;
            match self.variants.iter_mut().find(|known| &*known.key == key) {
                Some(known) => known.count += count,
                None => self.variants.push(VariantCount {
                    key: key.into(),
                    count,
                }),
            }
        }
        self.last = last.or(self.last);
    }
}

pub(super) fn damaged(path: &Path, id: LogId) -> SegmentError {
    SegmentError::Damaged {
        path: path.to_path_buf(),
        id,
    }
}

/// The entry `id` among the frames of one block. Damage in front of it is stepped over; but who
/// doesn't find it then, or not each frame behind the one before it, must not say that it was
/// never there.
pub(super) fn find_entry(
    block: &[u8],
    seed: Seed,
    id: LogId,
    path: &Path,
) -> Result<Option<Entry>, SegmentError> {
    let mut is_damaged = false;
    let mut due = None;
    let mut position = 0;
    while let Some(rest) = block.get(position..).filter(|rest| !rest.is_empty()) {
        let Ok(frame) = Frame::decode_unpadded(rest, seed) else {
            is_damaged = true;
            position += super::frame::FRAME_ALIGN;
            continue;
        };
        position += frame.frame_len();
        is_damaged |= due.is_some_and(|due| frame.header.ordinal != due);
        due = Some(frame.header.ordinal.saturating_add(1));
        if frame.header.id != id {
            continue;
        }
        let Ok(Record::Entry(entry)) = Record::of(&frame) else {
            return Err(damaged(path, id));
        };
        return Ok(Some(Entry {
            id,
            received_at_ms: entry.received_at_ms,
            variant_key: variant_key_of(entry.body),
            body: Bytes::copy_from_slice(entry.body),
        }));
    }
    if is_damaged {
        return Err(damaged(path, id));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimMachine;
    use crate::log::segment_file::{Incarnation, SegmentId};
    use crate::model::Slug;

    fn close_one(view: &LogView, number: u64) -> Arc<ClosedSegment> {
        let header = SegmentHeader {
            store_id: 1,
            slug: Slug::parse("one").unwrap(),
            incarnation: 1,
            number,
            first_sequence: number,
            last_id: LogId::MIN,
            created_at_ms: 0,
            salt: number,
            previous: None,
        };
        let id = SegmentId {
            slug: header.slug.clone(),
            incarnation: 1,
            first_sequence: number,
            salt: number,
        };
        let disk = SimMachine::new(1, 512).host().disk;
        let path = header.file_name().into();
        let file = Arc::new(SegmentFile::new(disk, Incarnation::new(1), id, path));
        let active = ActiveSegment::new(header, file, SegmentIndex::default());
        view.close_active(Arc::new(active), 512)
    }

    /// Also those behind one that isn't sealed yet.
    #[test]
    fn whoever_looks_lets_all_go_that_are_sealed() {
        let view = LogView::default();
        let closed: Vec<_> = (0..3).map(|number| close_one(&view, number)).collect();
        closed[0].note_done();
        closed[2].note_done();
        view.frozen();
        let in_memory = closed.iter().map(|closed| closed.is_held());
        assert_eq!(in_memory.collect::<Vec<_>>(), [false, true, false]);
    }
}
