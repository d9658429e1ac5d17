//! What readers see of a log while it is written: the closed segments, and the active one up to
//! its durable end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use bytes::Bytes;

use super::footer;
use super::frame::{Frame, Seed};
use super::index::{Block, SegmentIndex, block_of, variant_key_of};
use super::lead::Lead;
use super::reader::{EndHint, Segment, SegmentError};
use super::record::Record;
use super::segment::SegmentHeader;
use super::segment_file::{Incarnation, SegmentFile};
use crate::fs::{Access, Disk, read_up_to};
use crate::model::{Entry, LogId, VariantCount};

/// A log's segments. The writer changes it; readers hold its locks for look-ups only, never while
/// they read files.
#[derive(Default)]
pub struct LogView {
    segments: RwLock<Segments>,
}

#[derive(Default, Clone)]
struct Segments {
    closed: Vec<Arc<ClosedSegment>>,
    active: Option<Arc<ActiveSegment>>,
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

/// A segment that is not written to any more.
pub struct ClosedSegment {
    /// What it says of itself.
    pub header: SegmentHeader,
    /// Its file.
    pub path: PathBuf,
    /// Where its frames end.
    pub frames_end: u64,
    /// Until it is sealed: its index and what isn't in its file yet.
    live: RwLock<Option<Arc<ActiveSegment>>>,
    state: Mutex<ClosedState>,
    /// Read from its footer on first use.
    index: OnceLock<ClosedIndex>,
}

#[derive(Default)]
struct ClosedState {
    /// A footer is on its way.
    is_queued: bool,
    /// The file that the footer goes to.
    sealing: Option<Arc<SegmentFile>>,
}

/// A footer on its way to the end of a segment.
pub struct Sealing {
    /// The segment's file.
    pub file: Arc<SegmentFile>,
    /// Where the new bytes begin: the file's end.
    pub offset: u64,
    /// What comes before them in their sector.
    pub lead: Lead,
    /// Zeros, then the footer.
    pub bytes: Vec<u8>,
}

/// What is kept in memory of a closed segment that was asked for.
#[derive(Debug)]
struct ClosedIndex {
    variants: Vec<VariantCount>,
    last: Option<(LogId, u64)>,
    blocks: Vec<Block>,
    /// Whether frames were damaged when it was made from them.
    is_damaged: bool,
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
        let active = None;
        Self {
            segments: RwLock::new(Segments { closed, active }),
        }
    }

    /// Makes `segment` the active one.
    pub fn set_active(&self, segment: Arc<ActiveSegment>) {
        self.segments_mut().active = Some(segment);
    }

    /// Closes the active segment; what lies behind `frames_end` isn't part of the log. Whoever
    /// closes it has it sealed.
    pub fn close_active(&self, segment: Arc<ActiveSegment>, frames_end: u64) -> Arc<ClosedSegment> {
        let closed = Arc::new(ClosedSegment {
            header: segment.header.clone(),
            path: segment.file.path.clone(),
            frames_end,
            live: RwLock::new(Some(segment)),
            state: Mutex::new(ClosedState {
                is_queued: true,
                sealing: None,
            }),
            index: OnceLock::new(),
        });
        let mut segments = self.segments_mut();
        segments.active = None;
        // The last ones may have been sealed meanwhile; what came before them was looked at then.
        let newest_first = segments.closed.iter().rev();
        let _kept = newest_first.take_while(|closed| !closed.release()).count();
        segments.closed.push(closed.clone());
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
        candidate.map_or(Ok(None), |segment| segment.get(disk, id))
    }

    /// Counts, from indexes alone.
    pub fn summary(&self, disk: &dyn Disk) -> Result<LogSummary, SegmentError> {
        let segments = self.snapshot();
        let mut summary = LogSummary::default();
        for closed in &segments.closed {
            closed.add_to(disk, &mut summary)?;
        }
        if let Some(active) = &segments.active {
            active.add_to(active.file.durable_end(), &mut summary);
        }
        Ok(summary)
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

    fn get(&self, id: LogId, end: u64) -> Result<Option<Entry>, SegmentError> {
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

    fn add_to(&self, end: u64, summary: &mut LogSummary) {
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

impl ClosedSegment {
    /// A closed segment that was there before.
    pub fn new(header: SegmentHeader, path: PathBuf, frames_end: u64) -> Self {
        Self {
            header,
            path,
            frames_end,
            live: RwLock::new(None),
            state: Mutex::default(),
            index: OnceLock::new(),
        }
    }

    /// Says that [`Self::make_footer`] will be called.
    pub fn note_queued(&self) {
        lock(&self.state).is_queued = true;
    }

    /// Makes the footer from the frames in the file: bytes that go through the journal like any
    /// other, so that after a crash the footer is whole or not there. `None` when there is one,
    /// and when there is damage: a fresh checksum over damaged bytes would hide it.
    pub fn make_footer(
        &self,
        disk: &Arc<dyn Disk>,
        incarnation: &Arc<Incarnation>,
        sector_bytes: usize,
    ) -> io::Result<Option<Sealing>> {
        let file = match self.live() {
            Some(active) => active.file.clone(),
            None => {
                let id = super::writer::segment_id(&self.header);
                let (path, end) = (self.path.clone(), self.frames_end);
                let incarnation = incarnation.clone();
                Arc::new(SegmentFile::with_end(
                    disk.clone(),
                    incarnation,
                    id,
                    path,
                    end,
                ))
            }
        };
        let bytes = file.map_written(self.frames_end)?;
        let hint = EndHint::At(self.frames_end);
        let Ok(segment) = Segment::from_bytes(self.path.clone(), bytes, hint) else {
            return Ok(None);
        };
        let fold = segment.fold();
        if segment.footer().is_some() || !fold.damages.is_empty() {
            return Ok(None);
        }
        let len = segment.bytes().len();
        lock(&self.state).sealing = Some(file.clone());
        let lead_from = len / sector_bytes * sector_bytes;
        let lead = segment.bytes().get(lead_from..).unwrap_or_default();
        Ok(Some(Sealing {
            file,
            offset: len as u64,
            lead: Lead::new(lead.to_vec()),
            bytes: self.footer_bytes(&segment, &fold.index),
        }))
    }

    /// Takes note that there is nothing more to be done for the footer: it is durable, or there
    /// will be none for now.
    pub fn note_done(&self) {
        lock(&self.state).is_queued = false;
    }

    /// Lets the index in memory go when what was pending is in the file; says whether it has gone.
    fn release(&self) -> bool {
        let mut state = lock(&self.state);
        let live = self.live();
        let mut files = state
            .sealing
            .iter()
            .chain(live.as_ref().map(|active| &active.file));
        if state.is_queued || files.any(|file| file.has_pending()) {
            return false;
        }
        state.sealing = None;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = None;
        true
    }

    fn footer_bytes(&self, segment: &Segment, index: &SegmentIndex) -> Vec<u8> {
        let len = segment.bytes().len();
        let begin = len.next_multiple_of(footer::FOOTER_ALIGN as usize);
        let mut bytes = vec![0; begin - len];
        let mut crc = crc32fast::Hasher::new();
        crc.update(segment.bytes());
        crc.update(&bytes);
        let (salt, end) = (self.header.salt, self.frames_end);
        let footer = footer::encode(index, salt, end, begin as u64, crc.finalize());
        bytes.extend_from_slice(&footer);
        bytes
    }

    /// Whether the file ends as a sealed one does. Reads the end only.
    pub fn has_trailer(&self, disk: &dyn Disk) -> io::Result<bool> {
        let file = disk.open(&self.path, Access::Read)?;
        let mut magic = [0; footer::TRAILER_MAGIC.len()];
        let at = file.len()?.checked_sub(footer::TRAILER_LEN as u64);
        let Some(at) = at else { return Ok(false) };
        read_up_to(&*file, &mut magic, at)?;
        Ok(magic == footer::TRAILER_MAGIC)
    }

    fn get(&self, disk: &dyn Disk, id: LogId) -> Result<Option<Entry>, SegmentError> {
        if let Some(active) = self.live() {
            return active.get(id, self.frames_end);
        }
        let index = self.index(disk)?;
        let unless_lost = |found: Option<Entry>| match found {
            None if index.is_damaged => Err(damaged(&self.path, id)),
            found => Ok(found),
        };
        let Some(block) = block_of(&index.blocks, id, self.frames_end) else {
            return unless_lost(None);
        };
        let segment = Segment::open(disk, &self.path, EndHint::At(self.frames_end))?;
        let block = segment
            .bytes()
            .get(block.start as usize..block.end as usize);
        find_entry(block.unwrap_or_default(), segment.seed(), id, &self.path).and_then(unless_lost)
    }

    fn add_to(&self, disk: &dyn Disk, summary: &mut LogSummary) -> Result<(), SegmentError> {
        if let Some(active) = self.live() {
            active.add_to(self.frames_end.min(active.file.durable_end()), summary);
            return Ok(());
        }
        let index = self.index(disk)?;
        let variants = index.variants.iter();
        summary.add(
            variants.map(|variant| (&*variant.key, variant.count)),
            index.last,
        );
        Ok(())
    }

    fn index(&self, disk: &dyn Disk) -> Result<&ClosedIndex, SegmentError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let segment = Segment::open(disk, &self.path, EndHint::At(self.frames_end))?;
        let index = match segment.footer() {
            Some(footer) => ClosedIndex {
                variants: footer
                    .variants()
                    .map(|(key, count, _)| VariantCount {
                        key: key.into(),
                        count,
                    })
                    .collect(),
                last: footer
                    .summary
                    .ids()
                    .map(|(_, last)| (last, footer.summary.received_at_ms_last)),
                blocks: footer.blocks(),
                is_damaged: false,
            },
            // Missing or damaged: the frames are the truth.
            None => {
                let fold = segment.fold();
                let index = fold.index;
                ClosedIndex {
                    is_damaged: !fold.damages.is_empty(),
                    variants: index
                        .variants
                        .iter()
                        .map(|variant| VariantCount {
                            key: variant.key.clone(),
                            count: variant.postings.count,
                        })
                        .collect(),
                    last: index.last_id.map(|id| (id, index.received_at_ms_last)),
                    blocks: index.blocks,
                }
            }
        };
        Ok(self.index.get_or_init(|| index))
    }

    fn live(&self) -> Option<Arc<ActiveSegment>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogSummary {
    fn add<'a>(
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

fn damaged(path: &Path, id: LogId) -> SegmentError {
    SegmentError::Damaged {
        path: path.to_path_buf(),
        id,
    }
}

/// The entry `id` among the frames of one block. Damage in front of it is stepped over; but who
/// doesn't find it then, or not each frame behind the one before it, must not say that it was
/// never there.
fn find_entry(
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
