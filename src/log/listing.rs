//! What is told of the segments of a log: each by itself, and its file where that is whole.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::closed::ClosedSegment;
use super::footer::{TRAILER_LEN, TRAILER_MAGIC};
use super::outline::{Here, open_archived};
use super::reader::SegmentError;
use super::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use super::view::ActiveSegment;
use crate::fs::{Disk, File, read_up_to};
use crate::model::LogId;

/// A segment of a log that is in use.
#[derive(Clone)]
pub enum SegmentRef {
    /// It is written to.
    Active(Arc<ActiveSegment>),
    /// It isn't any more.
    Closed(Arc<ClosedSegment>),
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// How many entries.
    pub count: u64,
    /// The first one.
    pub first_id: Option<LogId>,
    /// The last one, if it is durable.
    pub last_id: Option<LogId>,
    /// The earliest time of receipt, in milliseconds since 1970.
    pub received_at_ms_min: u64,
    /// The latest time of receipt.
    pub received_at_ms_max: u64,
}

/// The file of a segment that is not written to any more.
pub struct WholeFile {
    /// The file; `None` if its bytes are in an archive alone.
    pub file: Option<Arc<dyn File>>,
    /// Its length.
    pub len: u64,
    /// Whether it ends as a sealed one does; else it is damaged.
    pub is_sealed: bool,
    /// Differs between files that differ.
    pub tag: String,
}

impl SegmentRef {
    /// What it says of itself.
    pub fn header(&self) -> &SegmentHeader {
        match self {
            Self::Active(active) => &active.header,
            Self::Closed(closed) => &closed.header,
        }
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Active(active) => &active.file.path,
            Self::Closed(closed) => &closed.path,
        }
    }

    /// How far it is durable, but for a footer.
    pub fn frames_end(&self) -> u64 {
        match self {
            Self::Active(active) => active.file.durable_end(),
            Self::Closed(closed) => closed.frames_end,
        }
    }

    /// What it holds.
    pub fn figures(&self, disk: &dyn Disk) -> Result<Figures, SegmentError> {
        match self {
            Self::Active(active) => Ok(active.figures(active.file.durable_end())),
            Self::Closed(closed) => closed.figures(disk),
        }
    }

    /// Its file, which is in an archive.
    pub fn open_archived(&self, disk: &dyn Disk) -> Result<Arc<dyn File>, SegmentError> {
        open_archived(disk, self.path()).map_err(|error| SegmentError::Io {
            path: self.path().to_path_buf(),
            error,
        })
    }

    /// Its file, if nothing is written to it any more; `None` when something still is, or when the
    /// file there isn't its own: the experiment was deleted.
    pub fn whole_file(&self, disk: &dyn Disk) -> Result<Option<WholeFile>, SegmentError> {
        match self {
            Self::Closed(closed) if closed.release() => {
                let opened = open_whole(closed, disk);
                opened.map_err(|error| SegmentError::Io {
                    path: closed.path.clone(),
                    error,
                })
            }
            Self::Active(_) | Self::Closed(_) => Ok(None),
        }
    }
}

fn open_whole(closed: &ClosedSegment, disk: &dyn Disk) -> io::Result<Option<WholeFile>> {
    let file = match Here::find(disk, &closed.path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let len = closed.frames_end;
            return Ok(Some(WholeFile {
                file: None,
                len,
                is_sealed: false,
                tag: tag_of(&closed.header, len, &[]),
            }));
        }
        Err(error) => return Err(error),
        Ok(Here::File(file)) => file,
        Ok(Here::Outline(outline)) => {
            let is_own = outline.header.salt == closed.header.salt;
            return Ok(is_own.then(|| WholeFile {
                file: None,
                len: outline.len,
                is_sealed: true,
                tag: tag_of(&outline.header, outline.len, outline.trailer()),
            }));
        }
    };
    let mut header = [0; SEGMENT_HEADER_LEN as usize];
    let read = read_up_to(&*file, &mut header, 0)?;
    let found = SegmentHeader::decode(header.get(..read).unwrap_or_default());
    if found.is_ok_and(|found| found.header.salt != closed.header.salt) {
        return Ok(None);
    }
    let len = file.len()?;
    // The trailer has the checksums of all that is in front of it.
    let mut trailer = [0; TRAILER_LEN];
    let at = len.saturating_sub(TRAILER_LEN as u64);
    let read = read_up_to(&*file, &mut trailer, at)?;
    let trailer = trailer.get(..read).unwrap_or_default();
    let is_sealed = read == TRAILER_LEN && trailer.starts_with(&TRAILER_MAGIC);
    Ok(Some(WholeFile {
        file: Some(file),
        len,
        is_sealed,
        tag: tag_of(&closed.header, len, trailer),
    }))
}

/// The same wherever the segment is.
fn tag_of(header: &SegmentHeader, len: u64, trailer: &[u8]) -> String {
    let salt = header.salt;
    format!("{salt:016x}-{len:x}-{:08x}", crc32fast::hash(trailer))
}
