//! Redo: what the journal says that segments must hold, applied to their files at start, or laid
//! over them by an offline reader. Physical and idempotent: the same bytes at the same places.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Batch, RecordMark};
use super::scan::{JournalDamage, Lap};
use crate::fs::{Access, Disk, File, FileSystem, naming, parent, write_all_at};
use crate::log::dropped::DropMark;
use crate::log::outline::Outline;
use crate::log::segment::{SEGMENT_HEADER_LEN, SegmentHeader, segment_path};
use crate::log::segment_file::SegmentId;
use crate::log::writer::segment_id;

/// Segments whose files are open at once.
const OPEN_MAX: usize = 256;
/// From this many segments on, one sync of the file system is cheaper than one for each file.
const SYNC_EACH_MAX: usize = 8;

/// What the journal says about all the segments that it speaks of.
#[derive(Default)]
pub struct Plan<'a> {
    /// By segment, in the order of first mention.
    pub segments: Vec<(SegmentId, SegmentPlan<'a>)>,
    /// Damage in the journal.
    pub damages: Vec<JournalDamage>,
    /// The last batch's number.
    pub last_batch: u64,
    /// The journal file that holds it.
    pub last_file: Option<PathBuf>,
    by_id: HashMap<SegmentId, usize>,
}

/// What the journal says about one segment.
#[derive(Debug, Default)]
pub struct SegmentPlan<'a> {
    /// Bytes and where they belong, in log order.
    pub writes: Vec<(u64, Cow<'a, [u8]>)>,
    /// Where a large group around the journal began that never ended: what the file holds from
    /// there on was not acknowledged.
    pub unfinished_from: Option<u64>,
}

/// Which life the experiment of a slug is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// This incarnation.
    Of(u64),
    /// There is no such experiment.
    None,
    /// There is one, and what would tell is damaged.
    Unknown,
}

/// What came of applying a plan to one segment.
#[derive(Debug)]
pub enum Applied {
    /// The file holds what the journal says, durably.
    Done {
        /// Bytes in front of that which were durable once and are not there: they read as zeros,
        /// and what stands behind them is found all the same.
        missing: u64,
    },
    /// The experiment, or this incarnation of it, was deleted, or the segment was dropped.
    Deleted,
    /// The file can't be what the journal speaks of: says why. Nothing was written.
    Mismatch(&'static str),
}

impl<'a> Plan<'a> {
    /// Reads the plan from a journal's laps, oldest first, and the damage that was met on the way
    /// to them.
    pub fn read(laps: &'a [Lap], damages: &[JournalDamage]) -> Self {
        let mut plan = Self {
            damages: damages.to_vec(),
            ..Self::default()
        };
        let mut synced_through = 0;
        for lap in laps {
            let due = (plan.last_batch != 0).then_some(plan.last_batch + 1);
            let (batches, damages) = lap.batches(due);
            if let (Some(due), Some(first)) = (due, batches.first())
                && is_whole(&damages)
                && (first.number > due && first.synced_through >= due)
            {
                plan.damages.push(JournalDamage {
                    path: lap.path.clone(),
                    range: super::format::BATCHES_AT..super::format::BATCHES_AT,
                    what: "batches in front of this lap are missing",
                    corrected: None,
                });
            }
            plan.damages.extend(damages);
            if !batches.is_empty() {
                plan.last_file = Some(lap.path.clone());
            }
            for batch in batches {
                synced_through = synced_through.max(batch.synced_through);
                plan.add(batch);
            }
        }
        // Of a batch that was being written when the power went, one sector may be missing whose old
        // bytes differ in one bit. That is damage only where a later batch says that it was synced.
        let may_be_torn = |damage: &JournalDamage| damage.corrected > Some(synced_through);
        plan.damages.retain(|damage| !may_be_torn(damage));
        if !is_whole(&plan.damages) {
            // What is damaged may be the mark that a group is whole: what the segment's file
            // holds decides then.
            for (_, segment) in &mut plan.segments {
                segment.unfinished_from = None;
            }
        }
        plan
    }

    /// Whether the journal holds no batch, and no damage.
    pub fn is_empty(&self) -> bool {
        self.last_batch == 0 && self.damages.is_empty()
    }

    /// What the journal says about one segment.
    pub fn segment(&self, id: &SegmentId) -> Option<&SegmentPlan<'a>> {
        let (_, plan) = self.segments.get(*self.by_id.get(id)?)?;
        Some(plan)
    }

    fn add(&mut self, batch: Batch<'a>) {
        self.last_batch = self.last_batch.max(batch.number);
        for group in batch.groups {
            let next = self.segments.len();
            let place = *self.by_id.entry(group.segment.clone()).or_insert(next);
            if place == next {
                self.segments.push((group.segment, SegmentPlan::default()));
            }
            let Some((_, plan)) = self.segments.get_mut(place) else {
                continue;
            };
            match group.mark {
                RecordMark::None => {}
                RecordMark::Begin => {
                    plan.unfinished_from = Some(group.offset + group.data.len() as u64);
                }
                RecordMark::End => plan.unfinished_from = None,
            }
            if !group.data.is_empty() {
                plan.writes.push((group.offset, group.data));
            }
        }
    }
}

impl SegmentPlan<'_> {
    /// Where the segment durably ends, as far as the journal knows.
    pub fn end(&self) -> u64 {
        let ends = self
            .writes
            .iter()
            .map(|(offset, data)| offset + data.len() as u64);
        ends.max().unwrap_or(0)
    }

    /// The segment's bytes with the journal's laid over what its file holds. A gap reads as zeros.
    pub fn lay_over(&self, file: &[u8]) -> Vec<u8> {
        let mut bytes = file.to_vec();
        for (offset, data) in &self.writes {
            let begin = *offset as usize;
            let end = begin + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            if let Some(place) = bytes.get_mut(begin..end) {
                place.copy_from_slice(data);
            }
        }
        bytes
    }
}

/// Whether all batches are known, in spite of this damage.
fn is_whole(damages: &[JournalDamage]) -> bool {
    damages.iter().all(|damage| damage.corrected.is_some())
}

/// Writes what the plan says into the segments' files and syncs them. `life_of` tells which life
/// the experiment of a slug is in.
pub fn apply(
    disk: &Arc<dyn Disk>,
    plan: &Plan<'_>,
    experiments_dir: &Path,
    mut life_of: impl FnMut(&str) -> io::Result<Life>,
) -> io::Result<Vec<Applied>> {
    let filesystem = disk.open_filesystem(experiments_dir)?;
    let mut outcomes = Vec::with_capacity(plan.segments.len());
    let mut marks = HashMap::new();
    for segments in plan.segments.chunks(OPEN_MAX) {
        let mut written = Vec::new();
        for (id, segment) in segments {
            let outcome = match life_of(id.slug.as_str())? {
                Life::Of(incarnation) if incarnation == id.incarnation => {
                    let dir = experiments_dir.join(id.slug.as_str());
                    let mark = match marks.entry(&id.slug) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(DropMark::read_durable(&**disk, &dir)?),
                    };
                    if is_dropped(mark, id) {
                        outcomes.push(Applied::Deleted);
                        continue;
                    }
                    let path = segment_path(&dir, id.first_sequence);
                    let outcome = write_segment(&**disk, &path, id, segment, &mut written);
                    outcome.map_err(naming(&path))?
                }
                Life::Of(_) | Life::None => Applied::Deleted,
                Life::Unknown => Applied::Mismatch("which life it is of can't be read"),
            };
            outcomes.push(outcome);
        }
        sync_written(&**disk, &*filesystem, &written)?;
    }
    Ok(outcomes)
}

/// Whether the segment was dropped: then nothing brings it back.
pub fn is_dropped(mark: &DropMark, id: &SegmentId) -> bool {
    let dropped = mark.known();
    dropped.is_some_and(|dropped| dropped.covers_id(id))
}

struct Written {
    file: Arc<dyn File>,
    path: PathBuf,
}

fn write_segment(
    disk: &dyn Disk,
    path: &Path,
    id: &SegmentId,
    plan: &SegmentPlan<'_>,
    written: &mut Vec<Written>,
) -> io::Result<Applied> {
    let begins_file = plan.writes.first().is_some_and(|(offset, _)| *offset == 0);
    let file = match disk.open(path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Its bytes are in an archive alone, and whole there.
            if Outline::read(disk, path).is_ok_and(|outline| *id == segment_id(&outline.header)) {
                return Ok(Applied::Deleted);
            }
            if !begins_file {
                return Ok(Applied::Mismatch("the segment's file is missing"));
            }
            disk.create(path)?
        }
        opened => opened?,
    };
    let mut len = file.len()?;
    let mut head = [0; SEGMENT_HEADER_LEN as usize];
    let head_len = crate::fs::read_up_to(&*file, &mut head, 0)?;
    let header = SegmentHeader::decode(head.get(..head_len).unwrap_or_default());
    if let Ok(read) = header {
        let is_same = read.header.salt == id.salt && read.header.incarnation == id.incarnation;
        if !is_same {
            return Ok(Applied::Mismatch(
                "the file is another segment than the journal's",
            ));
        }
    }
    let mut missing = 0;
    for (offset, data) in joined(&plan.writes) {
        missing += offset.saturating_sub(len);
        write_all_at(&*file, &data, offset)?;
        len = len.max(offset + data.len() as u64);
    }
    written.push(Written {
        file,
        path: path.to_path_buf(),
    });
    Ok(Applied::Done { missing })
}

fn sync_written(
    disk: &dyn Disk,
    filesystem: &dyn FileSystem,
    written: &[Written],
) -> io::Result<()> {
    if written.len() > SYNC_EACH_MAX {
        return filesystem.sync();
    }
    for segment in written {
        let path = &segment.path;
        segment.file.sync_data().map_err(naming(path))?;
        disk.sync_dir(&parent(path)).map_err(naming(path))?;
    }
    Ok(())
}

/// Writes that follow each other, as one.
fn joined(writes: &[(u64, Cow<'_, [u8]>)]) -> Vec<(u64, Vec<u8>)> {
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for (offset, data) in writes {
        match joined.last_mut() {
            Some((begin, bytes)) if *begin + bytes.len() as u64 == *offset => {
                bytes.extend_from_slice(data);
            }
            _ => joined.push((*offset, data.to_vec())),
        }
    }
    joined
}
