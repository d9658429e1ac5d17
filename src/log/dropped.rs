//! What was dropped of a log: a mark beside the segments, durable before the first of them is
//! unlinked. What it covers isn't part of the log any more, whether its file is still there or not, and
//! whatever the journal says of it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::reader::{Listed, SegmentError};
use super::segment::first_sequence_of;
use super::segment_file::{SegmentId, Trouble};
use crate::fs::{Disk, naming, parent, read_small, write_temporary};
use crate::json_file;
use crate::model::DroppedCount;

/// The name of the file.
pub const DROPPED_FILE: &str = "dropped.json";
/// Its name in an archive: there nothing is dropped, and it only says why the first segments may be missing.
pub const DROPPED_LOCALLY_FILE: &str = "dropped-locally.json";
const FORMAT: u32 = 1;
const FILE_LEN_MAX: u64 = 64 << 10;

/// All that was dropped of a log since it was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    format: u32,
    /// Of which life of the experiment, 16 hexadecimal digits.
    incarnation: String,
    /// The number of the last segment that was dropped.
    pub through_number: u64,
    /// Its first sequence number: all up to it is dropped.
    pub through_sequence: u64,
    /// An id that none of the dropped entries is above, in 32 hexadecimal digits.
    last_id: String,
    /// How many segments were dropped.
    pub segments: u64,
    /// How many entries.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What one segment adds to the mark.
#[derive(Debug, Clone, Copy)]
pub struct DueSegment {
    /// Its number.
    pub number: u64,
    /// Its first sequence number.
    pub first_sequence: u64,
    /// The last id that was given in it.
    pub last_id: u128,
    /// Its entries.
    pub entries: u64,
    /// The length of its file.
    pub bytes: u64,
}

/// What is known of what was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropMark {
    /// Nothing was.
    None,
    /// This.
    Known(Dropped),
    /// Something; the file is damaged.
    Damaged(String),
}

impl Dropped {
    /// The mark that also covers `more`, the next segments of the log; `None` without any.
    pub fn with(before: Option<&Self>, incarnation: u64, more: &[DueSegment]) -> Option<Self> {
        let last = more.last()?;
        let sum = |of: fn(&DueSegment) -> u64| more.iter().map(of).sum::<u64>();
        Some(Self {
            format: FORMAT,
            incarnation: format!("{incarnation:016x}"),
            through_number: last.number,
            through_sequence: last.first_sequence,
            last_id: format!("{:032x}", last.last_id),
            segments: before.map_or(0, |before| before.segments) + more.len() as u64,
            entries: before.map_or(0, |before| before.entries) + sum(|due| due.entries),
            bytes: before.map_or(0, |before| before.bytes) + sum(|due| due.bytes),
        })
    }

    /// Replaces the mark in an experiment's folder. When only the sync of its name fails, nobody knows
    /// whether a power cut takes it back: nothing may be unlinked then.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Trouble> {
        let path = dir.join(DROPPED_FILE);
        let bytes = json_file::encode(self).map_err(io::Error::other);
        // First, so that the sync doesn't fail for want of a descriptor.
        let opened = disk.open_dir(dir).map_err(Trouble::Write)?;
        let renamed = bytes.and_then(|bytes| {
            let temporary = write_temporary(disk, &path, &bytes)?;
            disk.rename(&temporary, &path)
        });
        renamed.map_err(Trouble::Write)?;
        opened.sync().map_err(Trouble::Sync)
    }

    /// How much it is.
    pub fn count(&self) -> DroppedCount {
        DroppedCount {
            segments: self.segments,
            entries: self.entries,
            bytes: self.bytes,
        }
    }

    /// Whether it is of this life of the experiment.
    pub fn is_of(&self, incarnation: u64) -> bool {
        self.incarnation == format!("{incarnation:016x}")
    }

    /// An id that none of the dropped entries is above.
    pub fn last_id(&self) -> Option<u128> {
        u128::from_str_radix(&self.last_id, 16).ok()
    }

    /// Whether the segment in a file of this name is dropped, if the file is this log's.
    pub fn covers_name(&self, file_name: &str) -> bool {
        first_sequence_of(file_name).is_some_and(|first| first <= self.through_sequence)
    }

    /// Whether a segment is dropped. One of another life was never this log's.
    pub fn covers(&self, listed: &Listed) -> bool {
        let header = listed.header.as_ref();
        let is_own = header.map_or(true, |header| self.is_of(header.incarnation));
        is_own && listed.first_sequence <= self.through_sequence
    }

    /// As [`Self::covers`], of a segment that the journal speaks of.
    pub fn covers_id(&self, id: &SegmentId) -> bool {
        self.is_of(id.incarnation) && id.first_sequence <= self.through_sequence
    }
}

/// Unlinks what is dropped and still there. Goes on behind a file that can't be unlinked; the next call
/// tries again.
pub fn unlink(disk: &dyn Disk, leftovers: Vec<PathBuf>) -> Result<(), SegmentError> {
    let mut failed = None;
    for path in leftovers {
        match disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failed.get_or_insert(SegmentError::Io { path, error });
            }
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

impl DropMark {
    /// Reads the mark in an experiment's folder. An error is one of the disk.
    pub fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        Self::read_file(disk, &dir.join(DROPPED_FILE))
    }

    /// As [`Self::read`], of a file with any name.
    pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let bytes = match read_small(disk, path, FILE_LEN_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Self::Damaged(error.to_string()));
            }
            read => read.map_err(naming(path))?,
        };
        let read = json_file::decode::<Dropped>(&bytes);
        Ok(match read {
            Ok(dropped) if dropped.format <= FORMAT => Self::Known(dropped),
            Ok(dropped) => Self::Damaged(format!("format {} is newer", dropped.format)),
            Err(error) => Self::Damaged(error.to_string()),
        })
    }

    /// As [`Self::read`], to act on it: a kill may have come between the rename of the file and its sync.
    pub fn read_durable(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let mark = Self::read(disk, dir)?;
        mark.make_durable(disk, dir)?;
        Ok(mark)
    }

    /// What is seen now is seen after a power cut, too.
    pub fn make_durable(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Known(_) | Self::Damaged(_) => disk.sync_dir(dir).map_err(naming(dir)),
        }
    }

    /// What was dropped, if that is known.
    pub fn known(&self) -> Option<&Dropped> {
        match self {
            Self::Known(dropped) => Some(dropped),
            Self::None | Self::Damaged(_) => None,
        }
    }
}

/// Whether a read failed since the segment's file was dropped meanwhile: then there is nothing more to
/// read in it.
pub fn was_dropped(disk: &dyn Disk, error: &SegmentError) -> bool {
    let SegmentError::Io { path, error } = error else {
        return false;
    };
    if error.kind() != io::ErrorKind::NotFound {
        return false;
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let mark = DropMark::read(disk, &parent(path));
    let mark = mark.unwrap_or(DropMark::None);
    let dropped = mark.known();
    dropped.is_some_and(|dropped| name.is_some_and(|name| dropped.covers_name(name)))
}
