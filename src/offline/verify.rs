//! Checking every byte: what is damaged, where, and what it costs.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{OfflineError, Source, SourceSegment};
use crate::experiment::definition::DefinitionFile;
use crate::experiment::figures;
use crate::experiment::folder::OLDER_JOURNAL;
use crate::fs::{Disk, parent};
use crate::journal::checkpoint::WRITE_OUT_INTERVAL;
use crate::log::dropped::{DROPPED_FILE, DROPPED_LOCALLY_FILE, DropMark};
use crate::log::outline::{Outline, outline_path};
use crate::log::reader::{Fold, Segment, SegmentError};
use crate::log::scan::{Damage, DamageReason};
use crate::log::segment::HeaderError;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Segments that were read.
    pub segment_count: u64,
    /// Whole entries.
    pub entry_count: u64,
    /// Bytes that were checked.
    pub byte_count: u64,
    /// Damage, in the order in which it was met.
    pub findings: Vec<Finding>,
    /// Segments with damage.
    pub damaged: Vec<PathBuf>,
    /// Bytes of tails that were still being written when they were copied, and belong to no
    /// acknowledged entry as far as can be told.
    pub torn_bytes: u64,
    /// Segments whose bytes are in an archive alone, which isn't looked at.
    pub archived_segments: u64,
    /// Their entries.
    pub archived_entries: u64,
    /// Segments that retention dropped.
    pub dropped_segments: u64,
    /// Their entries.
    pub dropped_entries: u64,
}

/// One thing that isn't as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The bytes that it is about, when it isn't about the file as a whole.
    pub range: Option<Range<u64>>,
    /// What is wrong and what it costs, in a sentence.
    pub what: String,
}

/// How often a store that is being written is looked at before something in it is called damaged.
const LOOKS_MAX: u32 = 5;

/// As [`verify`], also beside a server that writes. It can make whole bytes look bad, when a file is
/// read in pieces while it moves on; so what is found there is looked at again. Damage stays.
pub fn verify_beside(disk: Arc<dyn Disk>, path: &Path) -> Result<Report, OfflineError> {
    let mut looks = 1;
    loop {
        let is_live = Source::open(disk.clone(), path)?.is_live;
        let report = verify(disk.clone(), path)?;
        if report.findings.is_empty() || !is_live || looks == LOOKS_MAX {
            return Ok(report);
        }
        looks += 1;
        std::thread::sleep(2 * WRITE_OUT_INTERVAL);
    }
}

/// Checks everything at `path`, and changes nothing.
pub fn verify(disk: Arc<dyn Disk>, path: &Path) -> Result<Report, OfflineError> {
    verify_source(&Source::open(disk, path)?)
}

/// Checks everything in a source that is open.
pub fn verify_source(source: &Source) -> Result<Report, OfflineError> {
    let plan = source.plan();
    let mut report = Report::default();
    for damage in &plan.damages {
        report.find_bytes(&damage.path, &damage.range, damage.what);
    }
    if source.has_whole_logs() {
        for dir in source.experiment_dirs() {
            if let Err(error) = DefinitionFile::read(source.disk(), dir) {
                report.find(dir, format!("the definition can't be read: {error}"));
            }
            report.check_mark(source.disk(), dir)?;
        }
    }
    let mut before: Option<(SourceSegment, u64)> = None;
    for segment in source.segments(&plan)? {
        report.segment_count += 1;
        let next_sequence = match source.open_segment(&segment, &plan) {
            Ok(open) => {
                if source.has_older_journal(&segment, &open, &plan) {
                    report.find(&segment.path, OLDER_JOURNAL.into());
                }
                report.check_place(source, &segment, before.as_ref())?;
                report.check_segment(&open)
            }
            Err(SegmentError::Archived { .. }) => {
                report.segment_count -= 1;
                report.check_place(source, &segment, before.as_ref())?;
                report.note_archived(source.disk(), &segment)
            }
            // Its outline is: no bytes are lost by that.
            Err(error) if !segment.is_here => {
                report.find(&outline_path(&segment.path), error.to_string());
                0
            }
            Err(error) if source.was_dropped(&error) => {
                report.segment_count -= 1;
                continue;
            }
            Err(SegmentError::Header {
                error: error @ HeaderError::Elsewhere(_),
                ..
            }) => {
                report.find(&segment.path, error.to_string());
                continue;
            }
            Err(error) => {
                report.find(&segment.path, format!("{error}: all its entries are lost"));
                report.damaged.push(segment.path.clone());
                0
            }
        };
        before = Some((segment, next_sequence));
    }
    Ok(report)
}

impl Report {
    fn check_segment(&mut self, segment: &Segment) -> u64 {
        let fold = segment.fold();
        self.entry_count += fold.index.entry_count;
        self.byte_count += segment.bytes().len() as u64;
        let mut behind = segment.footer_damages();
        if !fold.damages.is_empty() {
            // One checksum covers the frames and what was set aside: it has told already.
            behind.retain(|damage| damage.reason != DamageReason::SetAside);
        }
        let damages = fold.damages.iter().cloned().chain(behind);
        let damages: Vec<Damage> = damages.collect();
        for damage in &damages {
            let range = damage.start..damage.end;
            self.find_bytes(&segment.path, &range, &sentence(damage));
        }
        if !damages.is_empty() {
            self.damaged.push(segment.path.clone());
        }
        if let Some(torn_at) = fold.torn_at {
            self.torn_bytes += segment.frames_end - torn_at;
        }
        self.check_footer(segment, &fold);
        segment.header.first_sequence + u64::from(fold.next_ordinal)
    }

    /// A footer whose checksums are right must also say what the frames say.
    fn check_footer(&mut self, segment: &Segment, fold: &Fold) {
        let Some(footer) = segment.footer() else {
            return;
        };
        let frames_end_matches = footer.frames_end == segment.frames_end;
        let is_same = || {
            footer.summary.frame_count == fold.index.frame_count
                && footer.keyed().eq(fold.index.keyed.iter().copied())
                && figures::kept(segment).is_none_or(|kept| kept == figures::fold(segment).0)
        };
        let content_matches = !fold.damages.is_empty() || is_same();
        if !frames_end_matches || !content_matches {
            let what = "the footer doesn't fit the frames; it is rebuilt when read";
            self.find(&segment.path, what.into());
        }
    }

    /// Takes note of a segment of which the outline is here; says which sequence number comes next.
    fn note_archived(&mut self, disk: &dyn Disk, segment: &SourceSegment) -> u64 {
        let outline = match Outline::read(disk, &segment.path) {
            Ok(outline) => outline,
            Err(error) => {
                self.find(&outline_path(&segment.path), error.to_string());
                return 0;
            }
        };
        let Some(summary) = outline.footer().map(|footer| footer.summary) else {
            return 0;
        };
        self.archived_segments += 1;
        self.archived_entries += summary.entry_count;
        outline.header.first_sequence + u64::from(summary.frame_count)
    }

    /// Whether a segment follows the one before it, or is a log's first.
    fn check_place(
        &mut self,
        source: &Source,
        segment: &SourceSegment,
        before: Option<&(SourceSegment, u64)>,
    ) -> Result<(), OfflineError> {
        let is_neighbour =
            |(before, _): &&(SourceSegment, u64)| before.path.parent() == segment.path.parent();
        match before.filter(is_neighbour) {
            Some(before) => self.check_order(segment, before),
            None if source.has_whole_logs() => self.check_first(source.disk(), segment)?,
            None => {}
        }
        Ok(())
    }

    /// Whether a segment follows the one before it.
    fn check_order(&mut self, segment: &SourceSegment, before: &(SourceSegment, u64)) {
        let Ok(header) = &segment.header else { return };
        let (before, next_sequence) = before;
        let Ok(before) = &before.header else { return };
        let is_of_one_log = before.slug == header.slug
            && before.incarnation == header.incarnation
            && before.store_id == header.store_id;
        if !is_of_one_log {
            let what = "the segment belongs to another life of the experiment, or another store";
            self.find(&segment.path, what.into());
        } else if header.number != before.number + 1 {
            self.find_missing(segment, header.number.saturating_sub(before.number + 1));
        } else if header.first_sequence < *next_sequence {
            let what = "the segment begins inside the one before it".into();
            self.find(&segment.path, what);
        }
    }

    /// What was dropped is told, and no damage; a mark that can't be believed is.
    fn check_mark(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), OfflineError> {
        match read_mark(disk, dir)? {
            DropMark::None => {}
            // Of an archive nothing was.
            DropMark::Known(_) if disk.is_remote(dir) => {}
            DropMark::Known(dropped) => {
                self.dropped_segments += dropped.segments;
                self.dropped_entries += dropped.entries;
            }
            DropMark::Damaged(error) => {
                let what = format!("what was dropped of the log can't be read: {error}");
                self.find(&dir.join(DROPPED_FILE), what);
            }
        }
        Ok(())
    }

    /// Whether a log's first segment is its first, or follows what was dropped.
    fn check_first(
        &mut self,
        disk: &dyn Disk,
        segment: &SourceSegment,
    ) -> Result<(), OfflineError> {
        let Ok(header) = &segment.header else {
            return Ok(());
        };
        let first = match read_mark(disk, &parent(&segment.path))? {
            DropMark::None => 0,
            DropMark::Known(dropped) if dropped.is_of(header.incarnation) => {
                dropped.through_number + 1
            }
            DropMark::Known(_) => {
                let what = "what was dropped was so of another life of the experiment".into();
                self.find(&parent(&segment.path).join(DROPPED_FILE), what);
                0
            }
            // It may be missing since it was dropped.
            DropMark::Damaged(_) => header.number,
        };
        if header.number > first {
            self.find_missing(segment, header.number - first);
        }
        Ok(())
    }

    fn find_missing(&mut self, segment: &SourceSegment, count: u64) {
        let what = format!("{count} segments in front of it are missing");
        self.find(&segment.path, what);
    }

    fn find(&mut self, path: &Path, what: String) {
        self.findings.push(Finding {
            path: path.to_path_buf(),
            range: None,
            what,
        });
    }

    fn find_bytes(&mut self, path: &Path, range: &Range<u64>, what: &str) {
        self.findings.push(Finding {
            path: path.to_path_buf(),
            range: Some(range.clone()),
            what: format!("bytes {}..{}: {what}", range.start, range.end),
        });
    }
}

fn read_mark(disk: &dyn Disk, dir: &Path) -> Result<DropMark, OfflineError> {
    let path = dir.join(match disk.is_remote(dir) {
        false => DROPPED_FILE,
        true => DROPPED_LOCALLY_FILE,
    });
    let read = DropMark::read_file(disk, &path);
    read.map_err(|error| OfflineError::Io { path, error })
}

fn sentence(damage: &Damage) -> String {
    let cost = match (damage.entry, damage.frames_lost) {
        (Some(entry), _) => format!("entry {entry} is lost"),
        (None, Some(0)) => "no entry is lost".into(),
        (None, Some(1)) => "1 frame is lost".into(),
        (None, Some(count)) => format!("{count} frames are lost"),
        (None, None) => "the frames up to the end are lost".into(),
    };
    format!("{}: {cost}", damage.reason.as_str())
}
