//! A segment that is not written to any more: sealed, or on its way to be.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::cursor::Reading;
use super::footer::{self, Footer};
use super::frame::Seed;
use super::index::{Block, Keyed, SegmentIndex, block_of};
use super::lead::Lead;
use super::listing::Figures;
use super::outline::{Here, Outline, open_archived, outline_path};
use super::reader::{EndHint, Fold, Segment, SegmentError};
use super::scan::Found;
use super::segment::{HeaderError, SegmentHeader};
use super::segment_file::{Incarnation, SegmentFile};
use super::view::{ActiveSegment, LogSummary, damaged, find_entry};
use crate::fs::{Access, Disk, File, read_exact_at, read_up_to};
use crate::model::{Entry, LogId, VariantCount};

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
    /// The length of its file, once nothing is written to it any more.
    file_len: OnceLock<u64>,
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

/// What was opened of a closed segment.
pub enum Opened {
    /// All of it.
    Whole(Segment),
    /// Its outline: its frames are in an archive alone.
    Outline(Outline),
}

impl Opened {
    /// Its footer, if it has a whole one.
    pub fn footer(&self) -> Option<Footer<'_>> {
        match self {
            Self::Whole(segment) => segment.footer(),
            Self::Outline(outline) => outline.footer(),
        }
    }

    /// Its length.
    pub fn segment_len(&self) -> u64 {
        match self {
            Self::Whole(segment) => segment.bytes().len() as u64,
            Self::Outline(outline) => outline.len,
        }
    }

    /// What comes of reading all its frames, where there is no whole footer.
    pub(super) fn fold(&self, path: &Path) -> Result<Fold, SegmentError> {
        match self {
            Self::Whole(segment) => Ok(segment.fold()),
            // One is only made with a whole footer.
            Self::Outline(_) => Err(SegmentError::Archived { path: path.into() }),
        }
    }
}

/// Makes what a footer keeps of the entries' metrics, of which the log knows nothing.
pub trait MetricsFold {
    /// Takes in what is met in the segment, in its order.
    fn take(&mut self, found: &Found<'_>);
    /// What the footer keeps of it: nothing, if it can't keep all of it.
    fn section(&self) -> Vec<u8>;
}

/// What is kept in memory of a closed segment that was asked for.
#[derive(Debug)]
pub(super) struct ClosedIndex {
    variants: Vec<VariantCount>,
    last: Option<(LogId, u64)>,
    pub blocks: Vec<Block>,
    pub received_at_ms_min: u64,
    pub received_at_ms_max: u64,
    /// Whether frames were damaged when it was made from them.
    pub is_damaged: bool,
    /// How many bytes were read for it.
    read_bytes: u64,
}

impl ClosedIndex {
    /// How many entries each variant has.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.variants.iter().map(|one| (&*one.key, one.count))
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
            file_len: OnceLock::new(),
        }
    }

    /// What was the active segment, on its way to be sealed.
    pub(super) fn of(segment: Arc<ActiveSegment>, frames_end: u64) -> Self {
        Self {
            header: segment.header.clone(),
            path: segment.file.path.clone(),
            frames_end,
            live: RwLock::new(Some(segment)),
            state: Mutex::new(ClosedState {
                is_queued: true,
                sealing: None,
            }),
            index: OnceLock::new(),
            file_len: OnceLock::new(),
        }
    }

    /// Says that [`Self::make_footer`] will be called.
    pub fn note_queued(&self) {
        lock(&self.state).is_queued = true;
    }

    /// Makes the footer from the frames in the file: bytes that go through the journal like any
    /// other, so that after a crash the footer is whole or not there. `None` when there is one,
    /// and when there is damage: a fresh checksum over damaged bytes would hide it. `metrics` makes what
    /// the footer keeps of the entries' metrics.
    pub fn make_footer(
        &self,
        disk: &Arc<dyn Disk>,
        incarnation: &Arc<Incarnation>,
        sector_bytes: usize,
        metrics: &mut dyn MetricsFold,
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
        if segment.footer().is_some() {
            return Ok(None);
        }
        let fold = segment.fold_with(&mut |found| metrics.take(found));
        if !fold.damages.is_empty() {
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
            bytes: self.footer_bytes(&segment, &fold.index, &metrics.section()),
        }))
    }

    /// Takes note that there is nothing more to be done for the footer: it is durable, or there
    /// will be none for now.
    pub fn note_done(&self) {
        lock(&self.state).is_queued = false;
    }

    /// Lets the index in memory go when what was pending is in the file; says whether it has gone.
    pub fn release(&self) -> bool {
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

    fn footer_bytes(&self, segment: &Segment, index: &SegmentIndex, metrics: &[u8]) -> Vec<u8> {
        let len = segment.bytes().len();
        let begin = len.next_multiple_of(footer::FOOTER_ALIGN as usize);
        let mut bytes = vec![0; begin - len];
        let mut crc = crc32fast::Hasher::new();
        crc.update(segment.bytes());
        crc.update(&bytes);
        let (salt, end) = (self.header.salt, self.frames_end);
        let footer = footer::encode(index, metrics, salt, end, begin as u64, crc.finalize());
        bytes.extend_from_slice(&footer);
        bytes
    }

    /// Whether the file ends as a sealed one does. Reads the end only.
    pub fn has_trailer(&self, disk: &dyn Disk) -> io::Result<bool> {
        let file = match disk.open(&self.path, Access::Read) {
            Ok(file) if file.is_archived() => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Only what has one is let go.
                return match disk.open(&outline_path(&self.path), Access::Read) {
                    Ok(_) => Ok(true),
                    Err(_) => Err(error),
                };
            }
            opened => opened?,
        };
        let mut magic = [0; footer::TRAILER_MAGIC.len()];
        let at = file.len()?.checked_sub(footer::TRAILER_LEN as u64);
        let Some(at) = at else { return Ok(false) };
        read_up_to(&*file, &mut magic, at)?;
        Ok(magic == footer::TRAILER_MAGIC)
    }

    pub(super) fn get(&self, disk: &dyn Disk, id: LogId) -> Result<Option<Entry>, SegmentError> {
        if let Some(active) = self.live() {
            // It may have been closed before what is in it was durable.
            return active.get(id, self.frames_end.min(active.file.durable_end()));
        }
        let index = self.index(disk)?;
        let unless_lost = |found: Option<Entry>| match found {
            None if index.is_damaged => Err(damaged(&self.path, id)),
            found => Ok(found),
        };
        let Some(block) = block_of(&index.blocks, id, self.frames_end) else {
            return unless_lost(None);
        };
        let seed = Seed::new(self.header.salt);
        let found = match self.open(disk)? {
            Opened::Whole(segment) => {
                let range = block.start as usize..block.end as usize;
                let block = segment.bytes().get(range);
                find_entry(block.unwrap_or_default(), seed, id, &self.path)
            }
            Opened::Outline(_) => {
                let block = self.read_archived(disk, &block)?;
                find_entry(&block, seed, id, &self.path)
            }
        };
        found.and_then(unless_lost)
    }

    pub(super) fn add_to(
        &self,
        disk: &dyn Disk,
        summary: &mut LogSummary,
    ) -> Result<(), SegmentError> {
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

    pub(super) fn figures(&self, disk: &dyn Disk) -> Result<Figures, SegmentError> {
        if let Some(active) = self.live() {
            return Ok(active.figures(self.frames_end.min(active.file.durable_end())));
        }
        let index = self.index(disk)?;
        Ok(Figures {
            count: index.variants.iter().map(|variant| variant.count).sum(),
            first_id: index.blocks.first().map(|block| block.id),
            last_id: index.last.map(|(id, _)| id),
            received_at_ms_min: index.received_at_ms_min,
            received_at_ms_max: index.received_at_ms_max,
        })
    }

    /// Its entries with an idempotency key, from its footer: no body is read, unless that is missing
    /// or damaged.
    pub(super) fn keyed(&self, disk: &dyn Disk) -> Result<Vec<Keyed>, SegmentError> {
        if let Some(active) = self.live() {
            return Ok(active.index().keyed.clone());
        }
        let opened = self.open(disk)?;
        Ok(match opened.footer() {
            Some(footer) => footer.keyed().collect(),
            None => opened.fold(&self.path)?.index.keyed,
        })
    }

    /// Its file, or its outline.
    pub fn open(&self, disk: &dyn Disk) -> Result<Opened, SegmentError> {
        let mapped = match Here::find(disk, &self.path) {
            Ok(Here::Outline(outline)) => return Ok(Opened::Outline(outline)),
            Ok(Here::File(file)) => file.len().and_then(|len| file.map(len)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let (path, error) = (outline_path(&self.path), HeaderError::Unreadable);
                return Err(SegmentError::Header { path, error });
            }
            Err(error) => Err(error),
        };
        let bytes = mapped.map_err(|error| self.failed(error))?;
        let hint = EndHint::At(self.frames_end);
        Segment::from_bytes(self.path.clone(), bytes, hint).map(Opened::Whole)
    }

    /// All of it, from an archive if it isn't here.
    pub fn open_whole(&self, disk: &dyn Disk) -> Result<Segment, SegmentError> {
        let file = self.open_archived(disk)?;
        let mapped = file.len().and_then(|len| file.map(len));
        let bytes = mapped.map_err(|error| self.failed(error))?;
        let hint = EndHint::At(self.frames_end);
        Segment::from_bytes(self.path.clone(), bytes, hint)
    }

    /// Its file, which is in an archive.
    pub(super) fn open_archived(&self, disk: &dyn Disk) -> Result<Arc<dyn File>, SegmentError> {
        open_archived(disk, &self.path).map_err(|error| self.failed(error))
    }

    fn read_archived(&self, disk: &dyn Disk, range: &Range<u64>) -> Result<Vec<u8>, SegmentError> {
        let file = self.open_archived(disk)?;
        let len = range.end.saturating_sub(range.start);
        let len = usize::try_from(len).map_err(|error| self.failed(io::Error::other(error)))?;
        let mut bytes = vec![0; len];
        let read = read_exact_at(&*file, &mut bytes, range.start);
        read.map_err(|error| self.failed(error))?;
        Ok(bytes)
    }

    fn failed(&self, error: io::Error) -> SegmentError {
        SegmentError::Io {
            path: self.path.clone(),
            error,
        }
    }

    /// The length of its file, if nothing is written to it any more.
    pub(super) fn file_len(&self, disk: &dyn Disk) -> Result<Option<u64>, SegmentError> {
        if !self.release() {
            return Ok(None);
        }
        if let Some(len) = self.file_len.get() {
            return Ok(Some(*len));
        }
        let len = Here::find(disk, &self.path).and_then(|here| here.segment_len());
        let len = len.map_err(|error| self.failed(error))?;
        Ok(Some(*self.file_len.get_or_init(|| len)))
    }

    /// The id of its last entry; without entries, what its ids are behind.
    pub(super) fn last_id(&self, disk: &dyn Disk) -> Result<LogId, SegmentError> {
        let last = match self.live() {
            Some(active) => active.index().last_id,
            None => self.index(disk)?.last.map(|(id, _)| id),
        };
        Ok(last.unwrap_or(self.header.last_id))
    }

    /// Its index, and what it cost to read that.
    pub(super) fn index_for(
        &self,
        disk: &dyn Disk,
        reading: &mut Reading,
    ) -> Result<&ClosedIndex, SegmentError> {
        let was_known = self.index.get().is_some();
        let index = self.index(disk)?;
        if !was_known {
            reading.bytes += index.read_bytes;
        }
        Ok(index)
    }

    /// Where the frames of a variant's entries begin, rising; and what it cost to read that.
    pub(super) fn positions_of(
        &self,
        opened: &Opened,
        key: &str,
        reading: &mut Reading,
    ) -> Result<Vec<u64>, SegmentError> {
        let len = opened.segment_len();
        if let Some(footer) = opened.footer() {
            reading.bytes += len - footer.footer_start;
            let mut variants = footer.variants();
            let found = variants.find(|(name, ..)| *name == key);
            return Ok(found.map_or_else(Vec::new, |(.., positions)| positions.collect()));
        }
        reading.bytes += len;
        let index = opened.fold(&self.path)?.index;
        let found = index.variants.iter().find(|variant| &*variant.key == key);
        Ok(found.map_or_else(Vec::new, |variant| variant.postings.iter().collect()))
    }

    fn index(&self, disk: &dyn Disk) -> Result<&ClosedIndex, SegmentError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let opened = self.open(disk)?;
        let index = match opened.footer() {
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
                received_at_ms_min: footer.summary.received_at_ms_min,
                received_at_ms_max: footer.summary.received_at_ms_max,
                is_damaged: false,
                read_bytes: opened.segment_len() - footer.footer_start,
            },
            // Missing or damaged: the frames are the truth.
            None => {
                let fold = opened.fold(&self.path)?;
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
                    received_at_ms_min: index.received_at_ms_min,
                    received_at_ms_max: index.received_at_ms_max,
                    blocks: index.blocks,
                    read_bytes: opened.segment_len(),
                }
            }
        };
        Ok(self.index.get_or_init(|| index))
    }

    /// What keeps its index in memory until it is sealed.
    pub(super) fn live(&self) -> Option<Arc<ActiveSegment>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone()
    }

    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        self.live().is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
