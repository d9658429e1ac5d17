//! What may be wanted of a sealed segment that lies on another machine, found by its footer: so that the rest
//! need not be read.
//!
//! A segment in which only some places were read has zeros elsewhere, which take no memory until they are
//! touched. Positions and footers are those of the whole one.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::fs::{Access, Disk, File, Mapping, read_exact_at};
use crate::log::footer::{Footer, TRAILER_LEN, trailer_footer_start};
use crate::log::reader::{EndHint, Segment, SegmentError};
use crate::log::scan::{End, Scanner};
use crate::log::segment::SEGMENT_HEADER_LEN;
use crate::log::select::Selection;
use crate::model::LogId;

/// With less than this between two wanted places both are read at once: a request costs as much time.
const GAP_BYTES: u64 = 128 << 10;
/// So much of a segment's end is read at first: often all of its footer.
const END_BYTES: u64 = 64 << 10;

/// A segment of which what may be wanted was read.
pub struct Wanted {
    segment: Segment,
    /// The frames that were read, each range beginning with one; `None` for all.
    ranges: Option<Vec<Range<u64>>>,
}

impl Wanted {
    /// All of it.
    pub fn whole(segment: Segment) -> Self {
        Self {
            segment,
            ranges: None,
        }
    }

    /// Reads what may be selected of the segment at `path`; `None` if nothing is.
    pub fn read(
        disk: &dyn Disk,
        path: &Path,
        hint: EndHint,
        selection: &Selection,
    ) -> Result<Option<Self>, SegmentError> {
        let whole = || Segment::open(disk, path, hint).map(|segment| Some(Self::whole(segment)));
        if selection.is_all() {
            return whole();
        }
        let Some(mut sparse) = Sparse::open(disk, path)? else {
            return whole();
        };
        let frames_end = sparse.frames_end;
        if matches!(hint, EndHint::At(end) if end != frames_end) {
            return whole();
        }
        let Some(ranges) = sparse.wanted(selection) else {
            return Ok(None);
        };
        for range in &ranges {
            sparse.fetch(range.clone())?;
        }
        let segment = sparse.into_segment(hint)?;
        // Where a wanted place begins with damage, only a reading of all tells what it costs.
        let is_good = ranges.iter().all(|range| segment.begins_frame(range.start));
        match is_good {
            true => Ok(Some(Self {
                segment,
                ranges: Some(ranges),
            })),
            false => whole(),
        }
    }

    /// The segment. What wasn't read of it is zeros.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Its frames, as far as they were read.
    pub fn scans(&self) -> Vec<Scanner<'_>> {
        match &self.ranges {
            None => vec![self.segment.scan()],
            Some(ranges) => {
                let scan = |range: &Range<u64>| self.segment.scan_range(range.clone());
                ranges.iter().filter_map(scan).collect()
            }
        }
    }
}

/// The segment at `path` with its header and its footer, and zeros for its frames; `None` if it has no whole
/// footer.
pub fn with_footer(
    disk: &dyn Disk,
    path: &Path,
    hint: EndHint,
) -> Result<Option<Segment>, SegmentError> {
    let sparse = Sparse::open(disk, path)?;
    let segment = sparse.map(|sparse| sparse.into_segment(hint));
    // Where the end of the frames isn't known, zeros would be damage.
    Ok(segment
        .transpose()?
        .filter(|segment| segment.end == End::Known))
}

/// A segment that is read piece by piece.
struct Sparse<'a> {
    path: &'a Path,
    file: std::sync::Arc<dyn File>,
    bytes: Vec<u8>,
    salt: u64,
    frames_end: u64,
}

impl<'a> Sparse<'a> {
    /// Reads the header and the footer.
    fn open(disk: &dyn Disk, path: &'a Path) -> Result<Option<Self>, SegmentError> {
        let failed = |error| SegmentError::Io {
            path: path.to_path_buf(),
            error,
        };
        let file = disk.open(path, Access::Read).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        if len < SEGMENT_HEADER_LEN + TRAILER_LEN as u64 {
            return Ok(None);
        }
        let room = usize::try_from(len).map_err(|error| failed(io::Error::other(error)))?;
        let mut sparse = Self {
            path,
            file,
            bytes: vec![0; room],
            salt: 0,
            frames_end: 0,
        };
        sparse.fetch(0..SEGMENT_HEADER_LEN)?;
        let Ok(read) = crate::log::segment::SegmentHeader::decode(&sparse.bytes) else {
            return Ok(None);
        };
        sparse.salt = read.header.salt;
        let end_start = len.saturating_sub(END_BYTES).max(SEGMENT_HEADER_LEN);
        sparse.fetch(end_start..len)?;
        let Some(footer_start) = trailer_footer_start(&sparse.bytes, sparse.salt) else {
            return Ok(None);
        };
        if footer_start < end_start {
            sparse.fetch(footer_start..end_start)?;
        }
        let footer = Footer::read(&sparse.bytes, sparse.salt);
        let Some(frames_end) = footer.map(|footer| footer.frames_end) else {
            return Ok(None);
        };
        // Between the frames and the footer bytes may be set aside, which nobody reads by this.
        sparse.frames_end = frames_end;
        Ok(Some(sparse))
    }

    fn fetch(&mut self, range: Range<u64>) -> Result<(), SegmentError> {
        let place = range.start as usize..range.end as usize;
        let Some(room) = self.bytes.get_mut(place) else {
            return Ok(());
        };
        let read = read_exact_at(&*self.file, room, range.start);
        read.map_err(|error| SegmentError::Io {
            path: self.path.to_path_buf(),
            error,
        })
    }

    fn into_segment(self, hint: EndHint) -> Result<Segment, SegmentError> {
        Segment::from_bytes(self.path.to_path_buf(), Mapping::Owned(self.bytes), hint)
    }

    /// The ranges of frames in which something may be selected; `None` if nothing is.
    fn wanted(&self, selection: &Selection) -> Option<Vec<Range<u64>>> {
        let footer = Footer::read(&self.bytes, self.salt)?;
        if !may_hold(&footer, selection) {
            return None;
        }
        let mut ranges = blocks(&footer, selection);
        if !selection.variants.is_empty() {
            let frames = frames(&footer, &selection.variants);
            ranges = within(&ranges, &frames);
        }
        let joined = join(ranges);
        (!joined.is_empty()).then_some(joined)
    }
}

/// Whether anything in a segment with this footer may be selected.
pub fn may_hold(footer: &Footer<'_>, selection: &Selection) -> bool {
    let summary = footer.summary;
    let Some((first, last)) = summary.ids() else {
        return false;
    };
    let before_first = LogId::from_u128(first.as_u128().saturating_sub(1));
    let after_last = LogId::from_u128(last.as_u128().saturating_add(1));
    selection.meets_times(summary.received_at_ms_min, summary.received_at_ms_max)
        && selection.meets_ids(before_first, Some(after_last))
        && footer
            .variants()
            .any(|(key, ..)| selection.takes_variant(|| key))
}

/// The blocks whose ids may be selected.
fn blocks(footer: &Footer<'_>, selection: &Selection) -> Vec<Range<u64>> {
    let all = footer.blocks();
    // What is in front of the first entry is its variant's frame.
    let begins = all.iter().enumerate().map(|(at, block)| match at {
        0 => (SEGMENT_HEADER_LEN, block.id),
        _ => (block.position, block.id),
    });
    let ends = all
        .iter()
        .skip(1)
        .map(|block| (block.position, Some(block.id)));
    let ends = ends.chain(std::iter::once((footer.frames_end, None)));
    let may_be_wanted = |first: LogId, behind: Option<LogId>| {
        let before_first = LogId::from_u128(first.as_u128().saturating_sub(1));
        // Nothing is received later than its id says: ids go on where the clock goes back.
        let is_late_enough = |since: u64| behind.is_none_or(|id| id.timestamp_ms() >= since);
        selection.meets_ids(before_first, behind) && selection.since_ms.is_none_or(is_late_enough)
    };
    let pairs = begins.zip(ends);
    let wanted = pairs.filter(|((_, first), (_, behind))| may_be_wanted(*first, *behind));
    wanted.map(|((begin, _), (end, _))| begin..end).collect()
}

/// Where the entries of these variants are: each from its frame up to the next entry's.
fn frames(footer: &Footer<'_>, variants: &[String]) -> Vec<Range<u64>> {
    let mut places = Vec::new();
    for (key, _, positions) in footer.variants() {
        let is_wanted = variants.iter().any(|wanted| wanted == key);
        places.extend(positions.map(|position| (position, is_wanted)));
    }
    places.sort_unstable();
    let ends = places.iter().skip(1).map(|(position, _)| *position);
    let ends = ends.chain(std::iter::once(footer.frames_end));
    let frames = places.iter().zip(ends);
    let wanted = frames.filter(|((_, is_wanted), _)| *is_wanted);
    wanted.map(|((begin, _), end)| *begin..end).collect()
}

/// Those of the `frames` that begin in one of the `blocks`. Both rise.
fn within(blocks: &[Range<u64>], frames: &[Range<u64>]) -> Vec<Range<u64>> {
    let is_in = |frame: &&Range<u64>| {
        let at = blocks.partition_point(|block| block.end <= frame.start);
        blocks
            .get(at)
            .is_some_and(|block| block.start <= frame.start)
    };
    frames.iter().filter(is_in).cloned().collect()
}

/// Neighbours with a small gap as one. What is in the gap is frames.
fn join(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) < GAP_BYTES => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_places_are_read_at_once() {
        let ranges = vec![0..10, 10..20, 1000..1010, 1_000_000..1_000_010];
        assert_eq!(join(ranges), [0..1010, 1_000_000..1_000_010]);
        let blocks = [100..200, 300..400];
        let frames = [90..110, 100..120, 199..210, 200..220, 399..400, 400..410];
        assert_eq!(within(&blocks, &frames), [100..120, 199..210, 399..400]);
    }
}
