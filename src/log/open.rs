//! Opening an experiment's log to go on writing it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dropped::{DropMark, Dropped, unlink};
use super::frame::FRAME_HEADER_LEN;
use super::lead::Lead;
use super::outline::Outline;
use super::reader::{EndHint, Listed, Listing, Segment, SegmentError, list_log, list_segments};
use super::scan::Damage;
use super::segment::{
    HeaderError, Owner, Previous, SEGMENT_HEADER_LEN, SegmentHeader, segment_path,
};
use super::segment_file::{Incarnation, SegmentFile};
use super::view::{ActiveSegment, ClosedSegment, LogView, Opened};
use super::writer::{LogOptions, LogWriter, Resume, segment_id};
use crate::fs::{Disk, Host, replace_file};
use crate::model::LogId;

/// A log that was opened.
pub struct OpenedLog {
    /// Its writer.
    pub writer: LogWriter,
    /// Closed segments that have no footer yet.
    pub unsealed: Vec<Arc<ClosedSegment>>,
    /// Damage that was met: to be reported.
    pub damages: Vec<(std::path::PathBuf, Damage)>,
    /// Segments whose beginning can't be read; they are left as they are.
    pub unreadable: Vec<SegmentError>,
    /// The last id that is known to be in the log. Where frames were lost the writer goes on behind a later
    /// one.
    pub last_known_id: LogId,
    /// What was dropped of it.
    pub mark: DropMark,
    /// Why what was dropped is still there in part.
    pub not_unlinked: Option<SegmentError>,
}

/// Opens the log in `options.dir`, in a store whose journal was redone: what its last segment's
/// file holds is durable. Reads the last segment whole, of the others the beginning only.
pub fn open(options: LogOptions, host: Host) -> Result<OpenedLog, SegmentError> {
    let Listing {
        segments: mut listed,
        mut mark,
        leftovers,
    } = list_log(&*host.disk, &options.dir)?;
    let made_durable = mark.make_durable(&*host.disk, &options.dir);
    made_durable.map_err(|error| SegmentError::Io {
        path: options.dir.clone(),
        error,
    })?;
    let incarnation = options.incarnation.number;
    if mark
        .known()
        .is_some_and(|dropped| !dropped.is_of(incarnation))
    {
        mark = DropMark::Damaged("it is of another life of the experiment".into());
    }
    if let Some(error) = listed.iter().find_map(newer) {
        return Err(error);
    }
    let owner = Owner {
        store_id: Some(options.store_id),
        slug: Some(&options.slug),
        incarnation: Some(options.incarnation.number),
    };
    for segment in &mut listed {
        segment.must_belong_to(&owner);
    }
    let first_number = listed.iter().find_map(|listed| listed.header.as_ref().ok());
    let first_number = first_number.map_or(0, |header| header.number);
    let last = listed.pop();
    let mut opening = Opening::new(&listed, &host, &options.dir)?;
    let last_open = match last {
        Some(last) => opening.take_last(last, &host, &options.incarnation)?,
        None => None,
    };
    if let DropMark::Known(dropped) = &mark {
        opening.go_on_behind(dropped);
    }
    let unsealed = opening.unsealed(&host)?;
    let view = Arc::new(match opening.has_lost_end {
        true => LogView::with_lost_end(opening.closed),
        false => LogView::new(opening.closed),
    });
    match &mark {
        DropMark::None => {}
        DropMark::Known(dropped) => view.note_dropped(dropped.clone()),
        // What is missing in front can't be told from what was dropped.
        DropMark::Damaged(_) => view.begin_at(first_number),
    }
    let io_error = |error| SegmentError::Io {
        path: options.dir.clone(),
        error,
    };
    let disk = &*host.disk.clone();
    let sector = options.sector_bytes as u64;
    let mut writer = LogWriter::new(options.clone(), host, view, opening.last_id, opening.resume)
        .map_err(io_error)?;
    if let Some((active, next_ordinal, end)) = last_open {
        let boundary = end / sector * sector;
        let lead = active.file.read(boundary, end).map_err(io_error)?;
        writer.view().set_active(active.clone());
        writer.continue_in(active, next_ordinal, end, Lead::new(lead));
    }
    Ok(OpenedLog {
        writer,
        unsealed,
        damages: opening.damages,
        unreadable: opening.unreadable,
        last_known_id: opening.last_known_id,
        mark,
        not_unlinked: unlink(disk, leftovers).err(),
    })
}

/// Whether the log went on behind `frames_end`, where the journal says that a large group began
/// and has not ended: the journal is older than the segment then.
pub fn goes_on_behind(
    host: &Host,
    dir: &Path,
    first_sequence: u64,
    frames_end: u64,
) -> Result<bool, SegmentError> {
    let path = segment_path(dir, first_sequence);
    match Segment::open(&*host.disk, &path, EndHint::At(frames_end)) {
        Ok(segment) => Ok(segment.goes_on_behind_end()),
        Err(SegmentError::Header { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends the last segment in `dir` at `frames_end`, where a large group began that was never
/// acknowledged: makes the next segment, empty, which says so. The bytes behind stay where they
/// are. Nothing is done when there is a next segment already, or nothing behind.
pub fn cut(
    host: &Host,
    dir: &Path,
    first_sequence: u64,
    frames_end: u64,
) -> Result<Option<u64>, SegmentError> {
    let io_error = |error| SegmentError::Io {
        path: dir.to_path_buf(),
        error,
    };
    let listed = list_segments(&*host.disk, dir)?;
    let Some(last) = listed.last() else {
        return Ok(None);
    };
    if last.first_sequence != first_sequence || last.len <= frames_end {
        return Ok(None);
    }
    // One whose beginning can't be read is damaged, and the log goes on behind it anyhow.
    let segment = match Segment::open(&*host.disk, &last.path, EndHint::At(frames_end)) {
        Err(SegmentError::Header { .. }) => return Ok(None),
        opened => opened?,
    };
    let fold = segment.fold();
    let header = segment.header;
    let next_sequence = header.first_sequence + u64::from(fold.next_ordinal);
    let next = SegmentHeader {
        number: header.number + 1,
        first_sequence: next_sequence,
        last_id: fold.last_id().unwrap_or(header.last_id),
        created_at_ms: host.clock.now_ms(),
        salt: host.entropy.next_u64().map_err(io_error)?,
        previous: Some(Previous {
            frames_end,
            last_sequence: next_sequence.saturating_sub(1),
            salt: header.salt,
        }),
        ..header
    };
    // Under another name until it is whole: a kill in between leaves nothing that looks like one.
    let path = dir.join(next.file_name());
    replace_file(&*host.disk, &path, &next.encode()).map_err(io_error)?;
    Ok(Some(last.len - frames_end))
}

struct Opening {
    closed: Vec<Arc<ClosedSegment>>,
    damages: Vec<(std::path::PathBuf, Damage)>,
    unreadable: Vec<SegmentError>,
    /// The last segment is one of those.
    has_lost_end: bool,
    /// Of what can be read.
    last_known_id: LogId,
    /// Of what may have been given.
    last_id: LogId,
    resume: Resume,
}

/// The last segment, when the log goes on in it: with the next ordinal and its end.
type LastOpen = Option<(Arc<ActiveSegment>, u32, u64)>;

impl Opening {
    fn new(listed: &[Listed], host: &Host, dir: &Path) -> Result<Self, SegmentError> {
        let mut opening = Self {
            closed: Vec::new(),
            damages: Vec::new(),
            unreadable: Vec::new(),
            has_lost_end: false,
            last_known_id: LogId::MIN,
            last_id: LogId::MIN,
            resume: Resume {
                next_sequence: 0,
                next_number: 0,
                previous: None,
            },
        };
        for segment in listed {
            match &segment.header {
                Ok(header) => {
                    let end = match segment.hint {
                        EndHint::At(end) => end,
                        // The next one doesn't know it: it was written anew by a repair, or
                        // is followed by damage. Its own footer says where its frames end.
                        hint => frames_end(&*host.disk, segment, hint)?,
                    };
                    let path = dir.join(header.file_name());
                    let closed = ClosedSegment::new(header.clone(), path, end);
                    opening.closed.push(Arc::new(closed));
                }
                Err(error) => opening.unreadable.push(SegmentError::Header {
                    path: segment.path.clone(),
                    error: *error,
                }),
            }
        }
        Ok(opening)
    }

    fn take_last(
        &mut self,
        last: Listed,
        host: &Host,
        incarnation: &Arc<Incarnation>,
    ) -> Result<LastOpen, SegmentError> {
        let number_min = self
            .closed
            .last()
            .map_or(0, |closed| closed.header.number + 1);
        if let (Ok(header), false) = (&last.header, last.is_here) {
            let outline = read_outline(&*host.disk, &last.path)?;
            self.go_on_behind_outline(header, last.path.clone(), &outline, host);
            return Ok(None);
        }
        let opened = match last.header {
            Ok(_) => Segment::open(&*host.disk, &last.path, last.hint),
            Err(error) => Err(SegmentError::Header {
                path: last.path.clone(),
                error,
            }),
        };
        let segment = match opened {
            Ok(segment) => segment,
            Err(error @ SegmentError::Header { .. }) => {
                // Who it is can't be read. Whatever ids and sequences it may have used are left
                // behind: more frames than this can't be in it.
                self.unreadable.push(error);
                self.has_lost_end = true;
                self.resume.next_sequence =
                    last.first_sequence + 1 + last.len / FRAME_HEADER_LEN as u64;
                self.resume.next_number = number_min + 1;
                self.last_known_id = self.last_closed_id(host)?;
                self.last_id = id_of_now(host).max(self.last_known_id);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let fold = segment.fold();
        let header = segment.header.clone();
        self.last_known_id = fold.last_id().unwrap_or(header.last_id);
        self.last_id = self.last_known_id;
        let next_sequence = header.first_sequence + u64::from(fold.next_ordinal);
        let is_closed = segment.footer().is_some() || segment.frames_end < last.len;
        let is_whole = fold
            .damages
            .iter()
            .all(|damage| damage.end <= SEGMENT_HEADER_LEN);
        if is_whole && !is_closed && segment.frames_end >= SEGMENT_HEADER_LEN {
            let end = segment.frames_end;
            let id = segment_id(&header);
            let disk = host.disk.clone();
            let path = last.path.clone();
            let file = SegmentFile::with_end(disk, incarnation.clone(), id, path, end);
            let active = ActiveSegment::new(header, Arc::new(file), fold.index);
            let path = last.path;
            self.damages.extend(
                fold.damages
                    .into_iter()
                    .map(|damage| (path.clone(), damage)),
            );
            return Ok(Some((Arc::new(active), fold.next_ordinal, end)));
        }
        // The log goes on in a new segment. Frames lost at the end had sequence numbers, and ids
        // that clients may have seen.
        let lost_at_end = fold
            .damages
            .iter()
            .filter(|damage| damage.frames_lost.is_none());
        let lost_bytes: u64 = lost_at_end.map(|damage| damage.end - damage.start).sum();
        let skipped = match lost_bytes {
            0 if next_sequence > header.first_sequence => 0,
            bytes => {
                self.last_id = self.last_id.max(id_of_now(host));
                1 + bytes / FRAME_HEADER_LEN as u64
            }
        };
        self.resume = Resume {
            next_sequence: next_sequence + skipped,
            next_number: header.number + 1,
            previous: Some(Previous {
                frames_end: segment.frames_end,
                last_sequence: next_sequence.saturating_sub(1),
                salt: header.salt,
            }),
        };
        let closed = ClosedSegment::new(header, last.path.clone(), segment.frames_end);
        self.closed.push(Arc::new(closed));
        let path = last.path;
        self.damages.extend(
            fold.damages
                .into_iter()
                .map(|damage| (path.clone(), damage)),
        );
        Ok(None)
    }

    /// The log goes on in a new segment behind one whose bytes are in an archive alone. What was behind it
    /// is lost: ids and sequence numbers of that are not given again.
    fn go_on_behind_outline(
        &mut self,
        header: &SegmentHeader,
        path: PathBuf,
        outline: &Outline,
        host: &Host,
    ) {
        let footer = outline.footer();
        let end = footer
            .as_ref()
            .map_or(outline.footer_start, |footer| footer.frames_end);
        let frame_count = footer.map_or(0, |footer| footer.summary.frame_count);
        let last_sequence = header.first_sequence + u64::from(frame_count.saturating_sub(1));
        self.last_id = id_of_now(host).max(header.last_id);
        self.resume = Resume {
            next_sequence: last_sequence + 1 + u64::from(u32::MAX),
            next_number: header.number + 2,
            previous: Some(Previous {
                frames_end: end,
                last_sequence,
                salt: header.salt,
            }),
        };
        let closed = ClosedSegment::new(header.clone(), path, end);
        self.closed.push(Arc::new(closed));
        self.has_lost_end = true;
    }

    /// Nothing is given again of what was dropped, also where nothing is left behind it.
    fn go_on_behind(&mut self, dropped: &Dropped) {
        if let Some(last_id) = dropped.last_id() {
            let last_id = LogId::from_u128(last_id);
            self.last_known_id = self.last_known_id.max(last_id);
            self.last_id = self.last_id.max(last_id);
        }
        let resume = &mut self.resume;
        resume.next_number = resume.next_number.max(dropped.through_number + 1);
        // More frames than this can't be in a segment.
        let behind = dropped.through_sequence + 1 + u64::from(u32::MAX);
        if resume.next_sequence <= dropped.through_sequence {
            resume.next_sequence = behind;
        }
    }

    /// The last id that is known to have been given in a closed segment.
    fn last_closed_id(&self, host: &Host) -> Result<LogId, SegmentError> {
        let Some(closed) = self.closed.last() else {
            return Ok(LogId::MIN);
        };
        let last_id = match closed.open(&*host.disk)? {
            Opened::Whole(segment) => segment.fold().last_id(),
            Opened::Outline(outline) => {
                let ids = outline.footer().and_then(|footer| footer.summary.ids());
                ids.map(|(_, last)| last)
            }
        };
        Ok(last_id.unwrap_or(closed.header.last_id))
    }

    fn unsealed(&self, host: &Host) -> Result<Vec<Arc<ClosedSegment>>, SegmentError> {
        let mut unsealed = Vec::new();
        for closed in &self.closed {
            let has_trailer =
                closed
                    .has_trailer(&*host.disk)
                    .map_err(|error| SegmentError::Io {
                        path: closed.path.clone(),
                        error,
                    })?;
            if !has_trailer {
                unsealed.push(closed.clone());
            }
        }
        Ok(unsealed)
    }
}

/// Where a segment's frames end, as it says itself.
fn frames_end(disk: &dyn Disk, segment: &Listed, hint: EndHint) -> Result<u64, SegmentError> {
    if segment.is_here {
        return Ok(Segment::open(disk, &segment.path, hint)?.frames_end);
    }
    let outline = read_outline(disk, &segment.path)?;
    let footer = outline.footer();
    Ok(footer.map_or(outline.footer_start, |footer| footer.frames_end))
}

fn read_outline(disk: &dyn Disk, path: &Path) -> Result<Outline, SegmentError> {
    Outline::read(disk, path).map_err(|error| SegmentError::Io {
        path: path.to_path_buf(),
        error,
    })
}

fn newer(listed: &Listed) -> Option<SegmentError> {
    match listed.header {
        Err(error @ HeaderError::Newer(_)) => Some(SegmentError::Header {
            path: listed.path.clone(),
            error,
        }),
        _ => None,
    }
}

/// An id that none given before today's clock is above.
fn id_of_now(host: &Host) -> LogId {
    LogId::from_u128((u128::from(host.clock.now_ms()) + 1) << 80)
}
