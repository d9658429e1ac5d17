//! Reading the blocks of one segment that may hold selected entries, found by its index.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::closed::{ClosedSegment, Opened};
use super::cursor::{EntryRef, Lost, Reading};
use super::frame::{FRAME_ALIGN, Frame, FrameError, FrameHeader, Seed};
use super::index::{Block as IndexBlock, Postings, variant_key_of};
use super::reader::SegmentError;
use super::record::Record;
use super::scan::{End, Found, Scanner};
use super::segment::SEGMENT_HEADER_LEN;
use super::select::Selection;
use super::view::ActiveSegment;
use crate::fs::{Disk, File, Mapping, read_up_to};
use crate::model::LogId;

/// With less than this between the wanted frames of a block it is read as a whole.
const GAP_BYTES: u64 = 4096;
/// A frame's header is read with this much of the frame, which often is all of it.
const FRAME_GUESS: u64 = 256;
/// In which positions are kept.
const UNIT: u64 = FRAME_ALIGN as u64;

/// What may be wanted of one segment.
pub struct BlockReader {
    bytes: SegmentBytes,
    seed: Seed,
    /// Those that are still to be read, the next one last.
    blocks: Vec<Block>,
    filter: Filter,
}

/// A piece of a segment that begins with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    range: Range<u64>,
    /// Its ids are behind this one.
    after: LogId,
    /// Its ids are in front of this one.
    before: Option<LogId>,
}

/// Bytes of a block that were read.
pub struct Chunk<'a> {
    position: u64,
    bytes: Cow<'a, [u8]>,
}

/// What a block holds.
pub enum Item<'a> {
    /// An entry of a wanted variant.
    Entry(EntryRef<'a>),
    /// Damage.
    Lost(Lost),
}

/// What stands at a place where an entry may be: with the id of a lost one, if its frame tells.
enum Read<'a> {
    Entry(EntryRef<'a>),
    Lost(Option<LogId>),
}

/// How entries of the wanted variants are told.
enum Filter {
    /// All are wanted.
    All,
    /// By the index: where the frames begin, rising. An offset in a segment is below 2³⁴.
    Positions(Vec<u32>),
    /// By the entries themselves: what is damaged is in no index.
    Keys(Selection),
}

enum SegmentBytes {
    Mapped(Mapping),
    /// In an archive alone.
    Archived(Arc<dyn File>, PathBuf),
    Live(Arc<ActiveSegment>),
}

impl BlockReader {
    /// Of a segment whose index is in memory, up to `end`; `None` when nothing in it is wanted.
    pub fn live(
        active: Arc<ActiveSegment>,
        end: u64,
        bounds: (LogId, Option<LogId>),
        selection: &Selection,
    ) -> Option<Self> {
        let index = active.index();
        if !selection.meets_times(index.received_at_ms_min, index.received_at_ms_max) {
            return None;
        }
        let blocks = blocks(&index.blocks, end, bounds, selection);
        // Copied, so that the writer need not wait until it is decoded.
        let postings = match selection.variants.as_slice() {
            [key] => {
                let mut variants = index.variants.iter();
                let wanted = variants.find(|variant| *variant.key == **key);
                Some(wanted.map(|variant| variant.postings.clone()))
            }
            _ => None,
        };
        drop(index);
        let filter = match postings {
            Some(postings) => Filter::positions(postings.iter().flat_map(Postings::iter), &blocks),
            None => Filter::of_keys(selection),
        };
        let seed = Seed::new(active.header.salt);
        let bytes = SegmentBytes::Live(active);
        Some(Self {
            bytes,
            seed,
            blocks,
            filter,
        })
    }

    /// Of a segment that is in its file; `None` when nothing in it is wanted.
    pub fn closed(
        disk: &dyn Disk,
        closed: &ClosedSegment,
        bounds: (LogId, Option<LogId>),
        selection: &Selection,
        reading: &mut Reading,
    ) -> Result<Option<Self>, SegmentError> {
        let index = closed.index_for(disk, reading)?;
        let times = (index.received_at_ms_min, index.received_at_ms_max);
        // What is lost may have been received at any time.
        if !index.is_damaged && !selection.meets_times(times.0, times.1) {
            return Ok(None);
        }
        let blocks = blocks(&index.blocks, closed.frames_end, bounds, selection);
        if blocks.is_empty() {
            return Ok(None);
        }
        let opened = closed.open(disk)?;
        let filter = match selection.variants.as_slice() {
            [key] if !index.is_damaged => {
                let positions = closed.positions_of(&opened, key, reading)?;
                Filter::positions(positions.into_iter(), &blocks)
            }
            _ => Filter::of_keys(selection),
        };
        let bytes = match opened {
            Opened::Whole(segment) => SegmentBytes::Mapped(segment.into_bytes()),
            Opened::Outline(_) => {
                let file = closed.open_archived(disk)?;
                SegmentBytes::Archived(file, closed.path.clone())
            }
        };
        Ok(Some(Self {
            seed: Seed::new(closed.header.salt),
            bytes,
            blocks,
            filter,
        }))
    }

    /// Whether there is nothing to be read.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Turns the order of the blocks; the last one is the first at first.
    pub fn reverse(&mut self) {
        self.blocks.reverse();
    }

    /// The next block that may hold what is wanted.
    pub fn next_block(&mut self) -> Option<Block> {
        loop {
            let block = self.blocks.pop()?;
            match &self.filter {
                Filter::Positions(all) if within(all, &block.range).is_empty() => {}
                _ => return Some(block),
            }
        }
    }

    /// Reads what is wanted of a block: all of it, or the frames of a variant.
    pub fn read(
        &self,
        block: &Block,
        reading: &mut Reading,
    ) -> Result<Vec<Chunk<'_>>, SegmentError> {
        let len = block.range.end - block.range.start;
        let mut chunks = Vec::new();
        match &self.filter {
            Filter::Positions(all) => {
                let wanted = within(all, &block.range);
                if wanted.len() as u64 * GAP_BYTES < len {
                    for at in wanted {
                        chunks.push(self.read_frame(position(*at), block.range.end)?);
                    }
                } else {
                    chunks.push(self.chunk(block.range.clone())?);
                }
            }
            Filter::All | Filter::Keys(_) => chunks.push(self.chunk(block.range.clone())?),
        }
        reading.bytes += chunks
            .iter()
            .map(|chunk| chunk.bytes.len() as u64)
            .sum::<u64>();
        Ok(chunks)
    }

    /// What the chunks of a block hold, in the order of the log.
    pub fn items<'a>(&self, block: &Block, chunks: &'a [Chunk<'_>]) -> Vec<Item<'a>> {
        let found = match &self.filter {
            Filter::Positions(all) => {
                let wanted = within(all, &block.range).iter();
                wanted
                    .map(|at| self.frame_at(chunks, position(*at)))
                    .collect()
            }
            Filter::All => self.scan(block, chunks, None),
            Filter::Keys(selection) => self.scan(block, chunks, Some(selection)),
        };
        bounded(found, block)
    }

    /// The frame at `at`, as far as it is there, from a block that ends at `end`.
    fn read_frame(&self, at: u64, end: u64) -> Result<Chunk<'_>, SegmentError> {
        let guess = self.chunk(at..end.min(at + FRAME_GUESS))?;
        let header = FrameHeader::decode(&guess.bytes, self.seed);
        let frame_len = header.map_or(0, |header| header.frame_len() as u64);
        if frame_len <= guess.bytes.len() as u64 {
            return Ok(guess);
        }
        if let SegmentBytes::Mapped(_) = self.bytes {
            return self.chunk(at..end.min(at + frame_len));
        }
        let rest = self.chunk(at + guess.bytes.len() as u64..end.min(at + frame_len))?;
        let bytes = Cow::Owned([guess.bytes, rest.bytes].concat());
        let position = at;
        Ok(Chunk { position, bytes })
    }

    /// These bytes of the segment, or what is there of them.
    fn chunk(&self, range: Range<u64>) -> Result<Chunk<'_>, SegmentError> {
        let position = range.start;
        let bytes = match &self.bytes {
            SegmentBytes::Mapped(all) => {
                let end = all.len().min(range.end as usize);
                Cow::Borrowed(all.get(range.start as usize..end).unwrap_or_default())
            }
            SegmentBytes::Archived(file, path) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let read = read_up_to(&**file, &mut bytes, position);
                let len = read.map_err(|error| SegmentError::Io {
                    path: path.clone(),
                    error,
                })?;
                bytes.truncate(len);
                Cow::Owned(bytes)
            }
            SegmentBytes::Live(active) => {
                let read = active.file.read(range.start, range.end);
                Cow::Owned(read.map_err(|error| SegmentError::Io {
                    path: active.file.path.clone(),
                    error,
                })?)
            }
        };
        Ok(Chunk { position, bytes })
    }

    fn frame_at<'a>(&self, chunks: &'a [Chunk<'_>], at: u64) -> Read<'a> {
        let behind = chunks.partition_point(|chunk| chunk.position <= at);
        let chunk = behind.checked_sub(1).and_then(|place| chunks.get(place));
        let bytes = chunk.and_then(|chunk| chunk.bytes.get((at - chunk.position) as usize..));
        match Frame::decode_unpadded(bytes.unwrap_or_default(), self.seed) {
            Ok(frame) => match Record::of(&frame) {
                Ok(Record::Entry(entry)) => Read::Entry(EntryRef {
                    id: frame.header.id,
                    received_at_ms: entry.received_at_ms,
                    variant: entry.variant,
                    body: entry.body,
                }),
                _ => Read::Lost(Some(frame.header.id)),
            },
            Err(FrameError::Payload(header)) => Read::Lost(Some(header.id)),
            Err(_) => Read::Lost(None),
        }
    }

    fn scan<'a>(
        &self,
        block: &Block,
        chunks: &'a [Chunk<'_>],
        selection: Option<&Selection>,
    ) -> Vec<Read<'a>> {
        let bytes = chunks.first().map_or(&[][..], |chunk| &chunk.bytes);
        let mut found = Vec::new();
        // The first frame tells which ordinal is due; in front of one that is damaged none does.
        let begin = (0..bytes.len()).step_by(FRAME_ALIGN).find_map(|at| {
            let header = FrameHeader::decode(bytes.get(at..)?, self.seed)?;
            Some((at, header.ordinal))
        });
        let (begin, ordinal) = begin.unwrap_or((bytes.len(), 0));
        if begin > 0 {
            found.push(Read::Lost(None));
        }
        let scanner = Scanner::new(bytes, self.seed, End::Known, begin as u64, ordinal);
        for met in scanner {
            match met {
                Found::Record { frame, record, .. } => {
                    if let Record::Entry(entry) = record
                        && selection.is_none_or(|selection| {
                            selection.takes_variant(|| variant_key_of(entry.body))
                        })
                    {
                        found.push(Read::Entry(EntryRef {
                            id: frame.header.id,
                            received_at_ms: entry.received_at_ms,
                            variant: entry.variant,
                            body: entry.body,
                        }));
                    }
                }
                Found::Damage(damage) if damage.frames_lost != Some(0) => {
                    found.push(Read::Lost(damage.entry));
                }
                Found::Damage(_) | Found::Torn { .. } => {}
            }
        }
        if (bytes.len() as u64) < block.range.end - block.range.start {
            found.push(Read::Lost(None));
        }
        found
    }
}

impl Filter {
    fn of_keys(selection: &Selection) -> Self {
        match selection.variants.is_empty() {
            true => Self::All,
            false => Self::Keys(selection.clone()),
        }
    }

    /// Those of the rising `positions` that lie in `blocks`, rising too.
    fn positions(positions: impl Iterator<Item = u64>, blocks: &[Block]) -> Self {
        let begin = blocks.first().map_or(0, |block| block.range.start);
        let end = blocks.last().map_or(0, |block| block.range.end);
        let wanted = positions
            .skip_while(|at| *at < begin)
            .take_while(|at| *at < end);
        Self::Positions(wanted.map(|at| (at / UNIT) as u32).collect())
    }
}

/// The blocks of a segment that ends at `end` in which ids may be wanted, in its order. Its ids lie
/// between `bounds`.
fn blocks(
    index: &[IndexBlock],
    end: u64,
    bounds: (LogId, Option<LogId>),
    selection: &Selection,
) -> Vec<Block> {
    // What is in front of the first entry belongs to its block: damage, if not variants.
    let firsts = index
        .iter()
        .skip(1)
        .take_while(|block| block.position < end);
    let begins = firsts.clone().map(|block| {
        let before_it = LogId::from_u128(block.id.as_u128().saturating_sub(1));
        (block.position, before_it)
    });
    let begins = std::iter::once((SEGMENT_HEADER_LEN, bounds.0)).chain(begins);
    let ends = firsts.map(|block| (block.position, Some(block.id)));
    let ends = ends.chain(std::iter::once((end, bounds.1)));
    begins
        .zip(ends)
        .map(|((begin, after), (end, before))| Block {
            range: begin..end,
            after,
            before,
        })
        .filter(|block| block.range.start < block.range.end)
        .filter(|block| selection.meets_ids(block.after, block.before))
        .collect()
}

/// Says of what is lost between which ids it was.
fn bounded<'a>(found: Vec<Read<'a>>, block: &Block) -> Vec<Item<'a>> {
    let mut before = block.before;
    let mut items = Vec::with_capacity(found.len());
    for read in found.iter().rev() {
        match read {
            Read::Entry(entry) => {
                before = Some(entry.id);
                items.push(Item::Entry(*entry));
            }
            Read::Lost(_) => items.push(Item::Lost(Lost {
                after: block.after,
                before,
            })),
        }
    }
    items.reverse();
    let mut after = block.after;
    for (item, read) in items.iter_mut().zip(&found) {
        match (item, read) {
            (Item::Entry(entry), _) => after = entry.id,
            (Item::Lost(lost), Read::Lost(Some(id))) => {
                let id = id.as_u128();
                lost.after = LogId::from_u128(id.saturating_sub(1));
                lost.before = Some(LogId::from_u128(id.saturating_add(1)));
            }
            (Item::Lost(lost), _) => lost.after = after,
        }
    }
    items
}

/// Those of the rising `positions` that lie in `range`.
fn within<'a>(positions: &'a [u32], range: &Range<u64>) -> &'a [u32] {
    let begin = positions.partition_point(|at| position(*at) < range.start);
    let end = positions.partition_point(|at| position(*at) < range.end);
    positions.get(begin..end).unwrap_or_default()
}

fn position(units: u32) -> u64 {
    u64::from(units) * UNIT
}
