//! Reading one segment: its bytes, where its frames end, its footer, its records. Nothing here
//! can write.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::dropped::{DropMark, was_dropped};
use super::footer::{Footer, footer_head, trailer_frames_end};
use super::frame::{FrameHeader, Seed};
use super::index::SegmentIndex;
use super::outline::{self, Outline, outline_path, outlined_name};
use super::record::Record;
use super::scan::{Damage, DamageReason, End, Found, Scanner};
use super::segment::{
    HeaderError, Owner, Previous, SEGMENT_HEADER_LEN, SegmentHeader, first_sequence_of,
};
use crate::fs::{Access, Disk, Mapping, read_up_to};
use crate::model::LogId;

/// What is known from elsewhere about where a segment's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndHint {
    /// The next segment's header says so.
    At(u64),
    /// It is the last segment of a store that was recovered: everything in the file is durable.
    FileEnd,
    /// Nothing: it is a copy by itself.
    Unknown,
}

/// Why a segment can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The disk failed, which is not the end of the log.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// Its beginning can't be read.
    #[error("{path}: {error}")]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        error: HeaderError,
    },
    /// Its bytes are in an archive alone, and what is asked for needs them.
    #[error(
        "{path}: its bytes are in the archive alone: give this command the archive's address, as s3://…, or ask \
         the server"
    )]
    Archived {
        /// Where its file was.
        path: PathBuf,
    },
    /// Bytes among which an entry would be are damaged: whether it is there can't be told.
    #[error("{path}: damage where {id} would be")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The entry.
        id: LogId,
    },
}

/// A segment's bytes.
#[derive(Debug)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: SegmentHeader,
    /// Where its frames end.
    pub frames_end: u64,
    /// Whether that is known.
    pub end: End,
    damaged_copy: Option<usize>,
    missing: u64,
    bytes: Mapping,
}

impl Segment {
    /// Opens the file at `path`.
    pub fn open(disk: &dyn Disk, path: &Path, hint: EndHint) -> Result<Self, SegmentError> {
        let mapped = disk
            .open(path, Access::Read)
            .and_then(|file| file.map(file.len()?));
        match mapped {
            Ok(bytes) => Self::from_bytes(path.to_path_buf(), bytes, hint),
            Err(error) => Err(SegmentError::Io {
                path: path.to_path_buf(),
                error,
            }),
        }
    }

    /// Reads `bytes` as the segment at `path`.
    pub fn from_bytes(path: PathBuf, bytes: Mapping, hint: EndHint) -> Result<Self, SegmentError> {
        let read = match SegmentHeader::decode(&bytes) {
            Ok(read) => read,
            Err(error) => return Err(SegmentError::Header { path, error }),
        };
        let len = bytes.len() as u64;
        let salt = read.header.salt;
        let own_end = || {
            let footer = Footer::read(&bytes, salt).map(|footer| footer.frames_end);
            footer.or_else(|| end_by_damaged_footer(&bytes, salt))
        };
        let (frames_end, end) = match hint {
            EndHint::At(end) => (end, End::Known),
            EndHint::FileEnd => (own_end().unwrap_or(len), End::Known),
            EndHint::Unknown => match own_end() {
                Some(end) => (end, End::Known),
                None => (len, End::Guessed),
            },
        };
        Ok(Self {
            path,
            header: read.header,
            frames_end: frames_end.min(len),
            end,
            damaged_copy: read.damaged_copy,
            missing: frames_end.saturating_sub(len),
            bytes,
        })
    }

    /// The same bytes, with something else known about where the frames end.
    pub fn with_hint(self, hint: EndHint) -> Result<Self, SegmentError> {
        Self::from_bytes(self.path, self.bytes, hint)
    }

    /// Whether the log went on behind the end of the frames: entries stand there that can't be of
    /// one group, since those have one time of receipt, or a footer for more frames than these.
    pub fn goes_on_behind_end(&self) -> bool {
        let footer = self.footer();
        if footer.is_some_and(|footer| footer.frames_end > self.frames_end) {
            return true;
        }
        let due = self.fold().next_ordinal;
        let scanner = Scanner::new(&self.bytes, self.seed(), End::Guessed, self.frames_end, due);
        let mut times = scanner.map_while(|found| match found {
            Found::Record { record, .. } => Some(record),
            Found::Damage(_) | Found::Torn { .. } => None,
        });
        let mut first = None;
        times.any(|record| match record {
            Record::Entry(entry) => {
                *first.get_or_insert(entry.received_at_ms) != entry.received_at_ms
            }
            Record::Variant(_) => false,
        })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole file, without what is known of it.
    pub fn into_bytes(self) -> Mapping {
        self.bytes
    }

    /// The seed of its checksums.
    pub fn seed(&self) -> Seed {
        Seed::new(self.header.salt)
    }

    /// Its frames, from the first one on.
    pub fn scan(&self) -> Scanner<'_> {
        let frames = self.frames();
        Scanner::new(frames, self.seed(), self.end, SEGMENT_HEADER_LEN, 0)
    }

    /// Whether a frame begins at `position`.
    pub fn begins_frame(&self, position: u64) -> bool {
        self.frame_header(position).is_some()
    }

    /// Its frames in a range that begins with one; `None` if it doesn't.
    pub fn scan_range(&self, range: Range<u64>) -> Option<Scanner<'_>> {
        let ordinal = self.frame_header(range.start)?.ordinal;
        let end = usize::try_from(range.end).ok()?;
        let frames = self.frames();
        let bytes = frames.get(..end).unwrap_or(frames);
        let scanner = Scanner::new(bytes, self.seed(), End::Known, range.start, ordinal);
        Some(scanner)
    }

    /// Its footer, if it has a whole one.
    pub fn footer(&self) -> Option<Footer<'_>> {
        Footer::read(&self.bytes, self.header.salt)
    }

    /// Builds the index from the frames, and collects what is damaged on the way.
    pub fn fold(&self) -> Fold {
        self.fold_with(&mut |_| {})
    }

    /// As [`Self::fold`]; all that is met is shown to `also`, so that the frames are read once.
    pub fn fold_with(&self, also: &mut dyn FnMut(&Found<'_>)) -> Fold {
        let mut fold = Fold {
            index: SegmentIndex::default(),
            damages: self.outer_damages(),
            next_ordinal: 0,
            torn_at: None,
        };
        let mut scanner = self.scan();
        for found in &mut scanner {
            also(&found);
            match found {
                Found::Record {
                    position,
                    frame,
                    record,
                } => fold.index.apply(position, frame.header.id, &record),
                Found::Damage(damage) => fold.damages.push(damage),
                Found::Torn { position } => fold.torn_at = Some(position),
            }
        }
        fold.next_ordinal = scanner.next_ordinal();
        fold
    }

    /// Damage to what isn't a frame and can be told without reading the frames.
    pub fn outer_damages(&self) -> Vec<Damage> {
        let mut damages = Vec::new();
        if let Some(copy) = self.damaged_copy {
            let copy_len = SEGMENT_HEADER_LEN / 2;
            damages.push(Damage {
                start: copy as u64 * copy_len,
                end: (copy as u64 + 1) * copy_len,
                entry: None,
                frames_lost: Some(0),
                reason: DamageReason::Header,
            });
        }
        if self.missing > 0 {
            damages.push(Damage {
                start: self.frames_end,
                end: self.frames_end + self.missing,
                entry: None,
                frames_lost: None,
                reason: DamageReason::Shortened,
            });
        }
        damages
    }

    /// Damage behind the frames: to a footer, or to bytes set aside in front of it.
    pub fn footer_damages(&self) -> Vec<Damage> {
        let len = self.bytes.len() as u64;
        let damage = |start, end, reason| Damage {
            start,
            end,
            entry: None,
            frames_lost: Some(0),
            reason,
        };
        let Some(footer) = self.footer() else {
            let was_sealed = end_by_damaged_footer(&self.bytes, self.header.salt).is_some();
            let is_damaged = was_sealed && self.frames_end < len;
            return Vec::from_iter(
                is_damaged.then(|| damage(self.frames_end, len, DamageReason::Footer)),
            );
        };
        let content = self.bytes.get(..footer.footer_start as usize);
        let is_same = content.is_some_and(|content| crc32fast::hash(content) == footer.content_crc);
        let set_aside = (footer.frames_end, footer.footer_start);
        Vec::from_iter((!is_same).then(|| damage(set_aside.0, set_aside.1, DamageReason::SetAside)))
    }

    fn frame_header(&self, position: u64) -> Option<FrameHeader> {
        let at = usize::try_from(position).ok()?;
        FrameHeader::decode(self.frames().get(at..)?, self.seed())
    }

    fn frames(&self) -> &[u8] {
        self.bytes
            .get(..self.frames_end as usize)
            .unwrap_or(&self.bytes)
    }
}

/// What comes of reading all frames of a segment.
#[derive(Debug)]
pub struct Fold {
    /// The index.
    pub index: SegmentIndex,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// The ordinal that the next frame would have.
    pub next_ordinal: u32,
    /// Where a torn tail begins, in a segment whose end is guessed.
    pub torn_at: Option<u64>,
}

impl Fold {
    /// The last id that was given, be it to an entry that is damaged and only names itself.
    pub fn last_id(&self) -> Option<LogId> {
        let named = self.damages.iter().filter_map(|damage| damage.entry);
        named.chain(self.index.last_id).max()
    }
}

/// A segment's file in an experiment's folder, known by its beginning only.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// From its name.
    pub first_sequence: u64,
    /// What it says of itself.
    pub header: Result<SegmentHeader, HeaderError>,
    /// Where its frames end.
    pub hint: EndHint,
    /// Its length.
    pub len: u64,
    /// Whether its file is here: else its bytes are in an archive alone.
    pub is_here: bool,
    /// Whether an outline of it is here.
    pub has_outline: bool,
    /// How many bytes the file or the outline has.
    pub local_len: u64,
}

impl Listed {
    /// Leaves out a segment that isn't the owner's.
    pub fn must_belong_to(&mut self, owner: &Owner<'_>) {
        if let Ok(header) = &self.header
            && let Err(error) = owner.check(header)
        {
            self.header = Err(error);
        }
    }
}

/// The segments of the log in an experiment's folder, in log order: but for those that were dropped.
pub fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<Listed>, SegmentError> {
    Ok(list_log(disk, dir)?.segments)
}

/// What an experiment's folder holds of its log.
pub struct Listing {
    /// Its segments, in log order.
    pub segments: Vec<Listed>,
    /// What was dropped of it.
    pub mark: DropMark,
    /// Files of what was dropped, which are to be unlinked.
    pub leftovers: Vec<PathBuf>,
}

/// As [`list_segments`], with what was dropped.
pub fn list_log(disk: &dyn Disk, dir: &Path) -> Result<Listing, SegmentError> {
    let mut segments = list_all(disk, dir)?;
    // Later: what was dropped meanwhile is known then.
    let mark = DropMark::read(disk, dir).map_err(|error| SegmentError::Io {
        path: dir.to_path_buf(),
        error,
    })?;
    let mut leftovers = Vec::new();
    if let Some(dropped) = mark.known() {
        let covered = segments.extract_if(.., |segment| dropped.covers(segment));
        for segment in covered {
            leftovers.extend(segment.has_outline.then(|| outline_path(&segment.path)));
            leftovers.extend(segment.is_here.then_some(segment.path));
        }
    }
    Ok(Listing {
        segments,
        mark,
        leftovers,
    })
}

/// All segments in an experiment's folder, in log order, whatever was dropped.
pub fn list_all(disk: &dyn Disk, dir: &Path) -> Result<Vec<Listed>, SegmentError> {
    let io_error = |path: &Path, error| SegmentError::Io {
        path: path.to_path_buf(),
        error,
    };
    let mut listed = Vec::new();
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    for entry in disk.list(dir).map_err(|error| io_error(dir, error))? {
        match outlined_name(&entry.name) {
            Some(name) => *names.entry(name).or_default() = true,
            None => _ = names.entry(entry.name).or_default(),
        }
    }
    for (name, mut has_outline) in names {
        let Some(first_sequence) = first_sequence_of(&name) else {
            continue;
        };
        let path = dir.join(&name);
        let mut is_here = true;
        let read = read_header(disk, &path).map_err(|error| io_error(&path, error));
        let (header, len, local_len) = match read {
            // Beside a server, which drops it.
            Err(error) if !disk.is_remote(dir) && was_dropped(disk, &error) => continue,
            Err(error) => return Err(error),
            Ok(Beginning::File(header, len)) => (header, len, len),
            Ok(Beginning::Outline(head)) => {
                is_here = false;
                // It may have come since the folder was read.
                has_outline = true;
                match head {
                    Some(head) => (Ok(head.header), head.len, head.file_len),
                    None => (Err(HeaderError::Unreadable), 0, 0),
                }
            }
        };
        // A copy under another name would give its entries twice.
        let header = header.and_then(|header| match header.first_sequence == first_sequence {
            true => Ok(header),
            false => Err(HeaderError::Elsewhere("another place in a log")),
        });
        listed.push(Listed {
            path,
            first_sequence,
            header,
            hint: EndHint::FileEnd,
            len,
            is_here,
            has_outline,
            local_len,
        });
    }
    listed.sort_by_key(|segment| segment.first_sequence);
    let ends: Vec<Option<Previous>> = listed
        .iter()
        .skip(1)
        .map(|next| next.header.as_ref().ok().and_then(|header| header.previous))
        .collect();
    for (segment, previous) in listed.iter_mut().zip(ends) {
        let salt = segment.header.as_ref().map(|header| header.salt);
        segment.hint = match previous {
            Some(previous) if salt == Ok(previous.salt) => EndHint::At(previous.frames_end),
            // The segment that would know is damaged, or missing.
            _ => EndHint::FileEnd,
        };
    }
    Ok(listed)
}

/// The beginning of a segment, and its length.
enum Beginning {
    File(Result<SegmentHeader, HeaderError>, u64),
    /// `None` for one that is damaged.
    Outline(Option<outline::Head>),
}

fn read_header(disk: &dyn Disk, path: &Path) -> io::Result<Beginning> {
    let of_outline = || Outline::read_head(disk, path).map(Beginning::Outline);
    let file = match disk.open(path, Access::Read) {
        Ok(file) if !file.is_archived() => file,
        Ok(_) => return of_outline(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match of_outline() {
                Err(none) if none.kind() == io::ErrorKind::NotFound => Err(error),
                read => read,
            };
        }
        Err(error) => return Err(error),
    };
    let mut head = [0; SEGMENT_HEADER_LEN as usize];
    let head_len = read_up_to(&*file, &mut head, 0)?;
    let read = SegmentHeader::decode(head.get(..head_len).unwrap_or_default());
    Ok(Beginning::File(read.map(|read| read.header), file.len()?))
}

/// Where the frames end, as the beginning or the end of a damaged footer says.
fn end_by_damaged_footer(bytes: &[u8], salt: u64) -> Option<u64> {
    trailer_frames_end(bytes, salt).or_else(|| find_footer_head(bytes, salt))
}

/// Looks for the head of a footer whose end is damaged.
fn find_footer_head(bytes: &[u8], salt: u64) -> Option<u64> {
    let begin = SEGMENT_HEADER_LEN as usize;
    let words = bytes.get(begin..).unwrap_or_default().chunks_exact(8);
    let mut places = (begin..).step_by(8).zip(words);
    places.find_map(|(at, word)| match word == b"TLFOOTER" {
        true => footer_head(bytes.get(at..)?, salt),
        false => None,
    })
}
