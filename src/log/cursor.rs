//! Reading the selected entries of a log in either order, a block of a segment at a time. Only what
//! was durable when the reading began is read, and no lock is held meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::block_reader::{BlockReader, Item};
use super::closed::ClosedSegment;
use super::dropped::was_dropped;
use super::reader::SegmentError;
use super::segment::SegmentHeader;
use super::select::{Order, Selection};
use super::view::ActiveSegment;
use crate::fs::Disk;
use crate::model::LogId;

/// A reading of a log that goes on where it stopped.
pub struct LogCursor {
    disk: Arc<dyn Disk>,
    selection: Selection,
    order: Order,
    /// The segments that are still to be read, the next one last.
    parts: Vec<Part>,
    /// The segment that is being read.
    open: Option<BlockReader>,
    /// All entries up to this one were durable when the reading began.
    through: Option<LogId>,
    /// The last entry that was met.
    last: Option<LogId>,
    reading: Reading,
}

/// What a reading has cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of segments and of their footers.
    pub bytes: u64,
    /// Segments of which frames were read.
    pub segments: u64,
}

/// What a reading meets on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met<'a> {
    /// A selected entry.
    Entry(EntryRef<'a>),
    /// Damage that may have cost selected entries.
    Lost(Lost),
}

/// An entry that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// What identifies it.
    pub id: LogId,
    /// When it arrived, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The number of its variant in its segment.
    pub variant: u16,
    /// The JSON object that the client sent.
    pub body: &'a [u8],
}

/// Where damage has cost entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// They are behind this id.
    pub after: LogId,
    /// They are in front of this id; `None` at the end of the log.
    pub before: Option<LogId>,
}

/// A segment, or the place of one.
#[derive(Clone)]
pub(super) struct Part {
    /// Where it is.
    pub source: Source,
    /// Its ids are behind this one.
    pub after: LogId,
    /// Its ids are in front of this one.
    pub before: Option<LogId>,
}

/// Where a segment is.
#[derive(Clone)]
pub(super) enum Source {
    /// One whose index is in memory, up to its durable end.
    Live(Arc<ActiveSegment>, u64),
    /// One that is in its file.
    Closed(Arc<ClosedSegment>),
    /// One that should be behind this one, and can't be read.
    Missing(Option<Arc<ClosedSegment>>),
}

impl Part {
    /// The part in front of the segment `next`.
    pub(super) fn new(source: Source, after: LogId, next: Option<&SegmentHeader>) -> Self {
        let last = next.map(|next| next.last_id.as_u128());
        Self {
            source,
            after,
            before: last.map(|last| LogId::from_u128(last.saturating_add(1))),
        }
    }
}

impl Part {
    /// An id up to which all entries are durable: near its end, if its index is in memory.
    fn durable_block(&self) -> Option<LogId> {
        match &self.source {
            Source::Live(active, end) => active.durable_block(*end),
            // What is in front of one that is in its file was durable before it.
            Source::Closed(closed) => Some(closed.header.last_id),
            Source::Missing(_) => None,
        }
    }
}

impl LogCursor {
    /// A cursor over `parts`, the newest first.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        mut parts: Vec<Part>,
        selection: Selection,
        order: Order,
    ) -> Self {
        let through = parts.iter().find_map(Part::durable_block);
        parts.retain(|part| selection.meets_ids(part.after, part.before));
        if order == Order::NewestFirst {
            parts.reverse();
        }
        Self {
            disk,
            selection,
            order,
            parts,
            open: None,
            through,
            last: None,
            reading: Reading::default(),
        }
    }

    /// An id up to which all entries were durable when the reading began, as near to the end as is
    /// known without reading: the first of the last block, or what is in front of a closed segment.
    pub fn through(&self) -> Option<LogId> {
        self.through
    }

    /// What has been read so far.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Reads at most one block and hands what it meets there to `take`, which may break off: then
    /// the rest of the block is left out. Says whether there is more to read.
    pub fn step(
        &mut self,
        take: &mut dyn FnMut(Met<'_>) -> ControlFlow<()>,
    ) -> Result<bool, SegmentError> {
        let Some(open) = &mut self.open else {
            let Some(part) = self.parts.pop() else {
                return Ok(false);
            };
            if let Some(lost) = self.begin(part)? {
                let _either_way = take(Met::Lost(lost));
            }
            return Ok(true);
        };
        let Some(block) = open.next_block() else {
            self.open = None;
            return Ok(true);
        };
        let chunks = match open.read(&block, &mut self.reading) {
            Err(error) if was_dropped(&*self.disk, &error) => {
                self.open = None;
                return Ok(true);
            }
            read => read?,
        };
        let mut items = open.items(&block, &chunks);
        if self.order == Order::NewestFirst {
            items.reverse();
        }
        for item in items {
            let met = match item {
                Item::Entry(entry) => {
                    // A frame that damage has put twice is no second entry.
                    let is_in_order = self.last.is_none_or(|last| match self.order {
                        Order::OldestFirst => entry.id > last,
                        Order::NewestFirst => entry.id < last,
                    });
                    if !is_in_order || !self.selection.takes(entry.id, entry.received_at_ms) {
                        continue;
                    }
                    self.last = Some(entry.id);
                    Met::Entry(entry)
                }
                Item::Lost(lost) if self.selection.meets_ids(lost.after, lost.before) => {
                    Met::Lost(lost)
                }
                Item::Lost(_) => continue,
            };
            if take(met).is_break() {
                break;
            }
        }
        Ok(true)
    }

    /// Makes ready to read a segment; says what is lost if that can't be.
    fn begin(&mut self, part: Part) -> Result<Option<Lost>, SegmentError> {
        let (after, before) = (part.after, part.before);
        let selection = &self.selection;
        let opened = match part.source {
            Source::Live(active, end) => {
                Ok(BlockReader::live(active, end, (after, before), selection))
            }
            Source::Closed(closed) => {
                let reading = &mut self.reading;
                BlockReader::closed(&*self.disk, &closed, (after, before), selection, reading)
            }
            Source::Missing(previous) => {
                let last = previous.map(|closed| closed.last_id(&*self.disk));
                let after = match last.transpose() {
                    Err(error) if was_dropped(&*self.disk, &error) => after,
                    last => last?.unwrap_or(after),
                };
                let lost = Lost { after, before };
                return Ok(Some(lost).filter(|lost| selection.meets_ids(lost.after, lost.before)));
            }
        };
        match opened {
            Ok(Some(mut open)) => {
                if self.order == Order::OldestFirst {
                    open.reverse();
                }
                self.reading.segments += u64::from(!open.is_empty());
                self.open = Some(open);
                Ok(None)
            }
            Ok(None) => Ok(None),
            // Its beginning was good when the log was opened.
            Err(SegmentError::Header { .. }) => Ok(Some(Lost { after, before })),
            Err(error) if was_dropped(&*self.disk, &error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
