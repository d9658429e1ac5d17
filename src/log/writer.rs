//! The one writer of an experiment's log: stages entries into the active segment and rolls to the
//! next. It decides what is written where; the journal and the segment's file do the writing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::{self, FrameKind, Seed};
use super::index::{IndexMark, SegmentIndex};
use super::lead::Lead;
use super::numbers::{Numbers, Own};
use super::record::{self, EntryRecord, Record, VariantRecord};
use super::segment::{Previous, SEGMENT_HEADER_LEN, SegmentHeader, segment_path};
use super::segment_file::{Incarnation, SegmentFile, SegmentId};
use super::ulid::IdGenerator;
use super::view::{ActiveSegment, ClosedSegment, LogView};
use crate::fs::Host;
use crate::model::{Fingerprint, LogId, NewEntry, Slug};

/// Whose log it is, and how it is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The store's id.
    pub store_id: u64,
    /// The experiment.
    pub slug: Slug,
    /// Which life of it.
    pub incarnation: Arc<Incarnation>,
    /// Its folder.
    pub dir: PathBuf,
    /// A segment that has reached this size is closed.
    pub segment_bytes: u64,
    /// The unit in which a power cut may tear what is written.
    pub sector_bytes: usize,
}

/// Where the next frame goes.
#[derive(Debug, Clone, Copy)]
pub struct Resume {
    /// Its sequence number.
    pub next_sequence: u64,
    /// The number of the next segment.
    pub next_number: u64,
    /// The segment before the next one.
    pub previous: Option<Previous>,
}

/// The writer.
pub struct LogWriter {
    options: LogOptions,
    host: Host,
    view: Arc<LogView>,
    ids: IdGenerator,
    active: Option<Active>,
    resume: Resume,
    /// A segment that was closed, when what would have been staged with it was taken back.
    closed: Option<Arc<ClosedSegment>>,
}

struct Active {
    segment: Arc<ActiveSegment>,
    seed: Seed,
    next_ordinal: u32,
    staged_end: u64,
    /// The bytes from the last sector boundary to the staged end.
    lead: Lead,
}

/// Entries in frames, ready for the journal.
pub struct Staged {
    /// The segment that they belong to.
    pub segment: Arc<ActiveSegment>,
    /// Where the new bytes begin.
    pub offset: u64,
    /// What comes before them in their sector.
    pub lead: Lead,
    /// The new bytes.
    pub bytes: Vec<u8>,
    /// How many of them come before the first entry: segment header, variants.
    pub head_len: usize,
    /// The entries' ids.
    pub ids: Vec<LogId>,
    /// The segment before this one, when this one is new: to be sealed once this is durable.
    pub closed: Option<Arc<ClosedSegment>>,
    /// The ordinal of the first entry.
    first_ordinal: u32,
    /// What the index said in front of it.
    mark: IndexMark,
    /// The ordinal of the first frame.
    begin_ordinal: u32,
    /// What the index said in front of that.
    begin_mark: IndexMark,
    /// Of entries whose ids were given elsewhere: the one behind which they go on.
    after: Option<LogId>,
}

/// Where something was staged, to go back there.
pub struct Begin {
    offset: u64,
    lead: Lead,
    ordinal: u32,
    mark: IndexMark,
    closed: Option<Arc<ClosedSegment>>,
}

impl Staged {
    /// Where it was staged.
    pub fn begin(&self) -> Begin {
        Begin {
            offset: self.offset,
            lead: self.lead.clone(),
            ordinal: self.begin_ordinal,
            mark: self.begin_mark,
            closed: self.closed.clone(),
        }
    }

    /// Where in the segment the first entry begins.
    pub fn entries_begin(&self) -> u64 {
        self.offset + self.head_len as u64
    }

    /// The sector in which the first entry begins, when it shares it with bytes in front of it:
    /// its offset, and its bytes as far as they are staged.
    pub fn seam(&self, sector_bytes: usize) -> (u64, Vec<u8>) {
        let base = self.offset - self.lead.len() as u64;
        let (begin, sector) = (self.entries_begin(), sector_bytes as u64);
        let from = begin / sector * sector;
        let to = begin.next_multiple_of(sector).min(self.end());
        let mut bytes = self.lead.to_vec();
        let new_len = to.saturating_sub(self.offset) as usize;
        bytes.extend_from_slice(self.bytes.get(..new_len).unwrap_or_default());
        (from, bytes.split_off((from - base) as usize))
    }

    /// Where in the segment the staged bytes end.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl LogWriter {
    /// A writer that goes on behind what the log holds, in a new segment. `last_id` is the last
    /// id that may have been given.
    pub fn new(
        options: LogOptions,
        host: Host,
        view: Arc<LogView>,
        last_id: LogId,
        resume: Resume,
    ) -> io::Result<Self> {
        let ids = IdGenerator::new(last_id, host.entropy.next_u64()?);
        Ok(Self {
            options,
            host,
            view,
            ids,
            active: None,
            resume,
            closed: None,
        })
    }

    /// Goes on in a segment that was there and ends at `end`, with `lead` before it.
    pub fn continue_in(
        &mut self,
        segment: Arc<ActiveSegment>,
        next_ordinal: u32,
        end: u64,
        lead: Lead,
    ) {
        self.active = Some(Active {
            seed: Seed::new(segment.header.salt),
            segment,
            next_ordinal,
            staged_end: end,
            lead,
        });
    }

    /// The last id that was given, or may have been.
    pub fn last_id(&self) -> LogId {
        self.ids.last()
    }

    /// What readers see of this log.
    pub fn view(&self) -> &Arc<LogView> {
        &self.view
    }

    /// The segment being written, if there is one.
    pub fn active(&self) -> Option<&Arc<ActiveSegment>> {
        self.active.as_ref().map(|active| &active.segment)
    }

    /// Puts entries into frames behind all that was staged before. Their variants were checked.
    pub fn stage(&mut self, entries: &[NewEntry]) -> io::Result<Staged> {
        self.stage_numbered(entries, Own::default())
    }

    /// As [`Self::stage`], with the ids and times that `numbers` says.
    pub fn stage_numbered(
        &mut self,
        entries: &[NewEntry],
        mut numbers: impl Numbers,
    ) -> io::Result<Staged> {
        let now_ms = self.host.clock.now_ms();
        let after = numbers.begin(now_ms);
        if let Some(after) = after {
            // What opening the log guessed gives way: a segment's header says behind which id it begins.
            self.ids.go_on_behind(after);
        }
        let bytes_about = bytes_about(entries);
        self.close_if_full(bytes_about);
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.begin_segment(now_ms)?,
        };
        let closed = self.closed.take();
        let segment = active.segment.clone();
        let mut index = segment.index_mut();
        let lead = active.lead.clone();
        let offset = active.staged_end;
        let header_len = if offset == 0 { SEGMENT_HEADER_LEN } else { 0 };
        let mut bytes = Vec::with_capacity(header_len as usize + bytes_about + 256);
        if offset == 0 {
            bytes.extend_from_slice(&segment.header.encode());
        }
        let begin_mark = index.mark();
        let begin_ordinal = active.next_ordinal;
        let mut frames = Frames {
            bytes,
            base: offset,
            seed: active.seed,
            ordinal: active.next_ordinal,
        };

        for entry in entries {
            if index.number_of(&entry.variant_key).is_none() {
                let variant = VariantRecord {
                    number: index.next_number(),
                    key: &entry.variant_key,
                };
                frames.push(&mut index, LogId::MIN, Record::Variant(variant), None);
            }
        }
        let head_len = frames.bytes.len();
        let first_ordinal = frames.ordinal;
        let mark = index.mark();
        let mut ids = Vec::with_capacity(entries.len());
        for entry in entries {
            let (id, received_at_ms) = numbers.next(&mut self.ids);
            let record = EntryRecord {
                received_at_ms,
                variant: index.number_of(&entry.variant_key).unwrap_or_default(),
                idempotency: entry.idempotency.as_deref().map(|key| &*key.text),
                body: &entry.body,
            };
            let fingerprint = entry.idempotency.as_deref().map(|key| key.fingerprint);
            frames.push(&mut index, id, Record::Entry(record), fingerprint);
            ids.push(id);
        }
        drop(index);

        active.next_ordinal = frames.ordinal;
        active.staged_end = frames.base + frames.bytes.len() as u64;
        let sector_bytes = self.options.sector_bytes;
        active
            .lead
            .advance(&frames.bytes, active.staged_end, sector_bytes);
        self.active = Some(active);
        Ok(Staged {
            segment,
            offset,
            lead,
            bytes: frames.bytes,
            head_len,
            ids,
            closed,
            first_ordinal,
            mark,
            begin_ordinal,
            begin_mark,
            after,
        })
    }

    /// Whether [`Self::stage`] will begin a segment for these entries.
    pub fn is_full_for(&self, entries: &[NewEntry]) -> bool {
        let active = self.active.as_ref();
        active.is_none_or(|active| self.options.is_full(active, bytes_about(entries)))
    }

    /// Takes back all that was staged from `begin` on, of which nothing was written anywhere. It is of
    /// one segment, since nothing else is on its way when a segment is begun. Ids are not given again.
    pub fn take_back(&mut self, begin: Begin) {
        let Some(active) = &mut self.active else {
            return;
        };
        let mut index = active.segment.index_mut();
        index.rewind(&begin.mark, begin.offset);
        active.next_ordinal = begin.ordinal;
        active.staged_end = begin.offset;
        // A copy, since the sector that leads share holds what was taken back.
        active.lead = Lead::new(begin.lead.to_vec());
        self.closed = begin.closed;
    }

    /// Gives up staged entries that went around the journal and were not written whole. The
    /// segment ends in front of them; the log goes on in a new one.
    pub fn abandon(&mut self, staged: &Staged) -> Option<Arc<ClosedSegment>> {
        let active = self.active.take()?;
        let frames_end = staged.entries_begin();
        active.segment.index_mut().rewind(&staged.mark, frames_end);
        if let Some(after) = staged.after {
            // They come again, with the same ids.
            self.ids.go_on_behind(after);
        }
        Some(self.close(active.segment, staged.first_ordinal, frames_end))
    }

    fn close_if_full(&mut self, bytes_about: usize) {
        let options = &self.options;
        if let Some(full) = self.active.take_if(|a| options.is_full(a, bytes_about)) {
            self.closed = Some(self.close(full.segment, full.next_ordinal, full.staged_end));
        }
    }

    fn close(
        &mut self,
        segment: Arc<ActiveSegment>,
        next_ordinal: u32,
        frames_end: u64,
    ) -> Arc<ClosedSegment> {
        let header = &segment.header;
        let next_sequence = header.first_sequence + u64::from(next_ordinal);
        self.resume = Resume {
            next_sequence,
            next_number: header.number + 1,
            previous: Some(Previous {
                frames_end,
                last_sequence: next_sequence.saturating_sub(1),
                salt: header.salt,
            }),
        };
        self.view.close_active(segment, frames_end)
    }

    fn begin_segment(&mut self, now_ms: u64) -> io::Result<Active> {
        let header = SegmentHeader {
            store_id: self.options.store_id,
            slug: self.options.slug.clone(),
            incarnation: self.options.incarnation.number,
            number: self.resume.next_number,
            first_sequence: self.resume.next_sequence,
            last_id: self.ids.last(),
            created_at_ms: now_ms,
            salt: self.host.entropy.next_u64()?,
            previous: self.resume.previous,
        };
        let id = segment_id(&header);
        let path = segment_path(&self.options.dir, header.first_sequence);
        let incarnation = self.options.incarnation.clone();
        let disk = self.host.disk.clone();
        let file = Arc::new(SegmentFile::new(disk, incarnation, id, path));
        let seed = Seed::new(header.salt);
        let segment = Arc::new(ActiveSegment::new(header, file, SegmentIndex::default()));
        self.view.set_active(segment.clone());
        Ok(Active {
            segment,
            seed,
            next_ordinal: 0,
            staged_end: 0,
            lead: Lead::default(),
        })
    }
}

impl LogOptions {
    fn is_full(&self, active: &Active, bytes_about: usize) -> bool {
        let is_empty = active.next_ordinal == 0;
        let ordinals_run_out = active.next_ordinal > u32::MAX / 2;
        let is_too_long = active.staged_end + bytes_about as u64 > self.segment_bytes;
        !is_empty && (is_too_long || ordinals_run_out)
    }
}

/// About as many bytes as entries take as frames.
fn bytes_about(entries: &[NewEntry]) -> usize {
    entries.iter().map(frame_len_about).sum()
}

/// Who a segment is, to the journal.
pub fn segment_id(header: &SegmentHeader) -> SegmentId {
    SegmentId {
        slug: header.slug.clone(),
        incarnation: header.incarnation,
        first_sequence: header.first_sequence,
        salt: header.salt,
    }
}

fn frame_len_about(entry: &NewEntry) -> usize {
    let key = entry.idempotency.as_deref();
    entry.body.len() + 64 + key.map_or(0, |key| key.text.len() + 8)
}

/// Frames that are being put one behind the other.
struct Frames {
    bytes: Vec<u8>,
    /// Where in the segment `bytes` begins.
    base: u64,
    seed: Seed,
    ordinal: u32,
}

impl Frames {
    fn push(
        &mut self,
        index: &mut SegmentIndex,
        id: LogId,
        record: Record<'_>,
        fingerprint: Option<Fingerprint>,
    ) {
        let position = self.base + self.bytes.len() as u64;
        let kind = match record {
            Record::Variant(_) => FrameKind::Variant,
            Record::Entry(_) => FrameKind::Entry,
        };
        frame::encode(
            &mut self.bytes,
            self.seed,
            kind,
            self.ordinal,
            id,
            |out| match &record {
                Record::Variant(variant) => record::encode(variant, out),
                Record::Entry(entry) => record::encode(entry, out),
            },
        );
        index.apply_hashed(position, id, &record, fingerprint);
        self.ordinal += 1;
    }
}
