//! What stays here of a sealed segment whose bytes are in an archive alone: its header, its footer, and
//! checksums of all of it, in a file beside where it was. So counts, figures and indexes need no archive, and
//! what comes from there is compared with what was sent.
//!
//! An outline is durable before the segment's own file goes. Where both are there, the segment is.
//!
//! | part | bytes | what |
//! | --- | --- | --- |
//! | magic | 8 | `TLOUTLIN` |
//! | version | 4 | 1 |
//! | CRC-32 of the whole segment | 4 | |
//! | length of the segment | 8 | |
//! | begin of its footer | 8 | |
//! | CRC-32 of all in front | 4 | |
//! | zeros | 4 | |
//! | the segment's header | [`SEGMENT_HEADER_LEN`] | as it stands there |
//! | CRC-32 of each part | 4 each | parts of [`PART_LEN`] bytes up to the footer; the last one may be shorter |
//! | the segment's footer | | as it stands there, to the segment's end |
//! | CRC-32 of all in front | 4 | |

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::footer::{Footer, TRAILER_LEN, checksums};
use super::segment::{Fields, HeaderError, SEGMENT_HEADER_LEN, SEGMENT_SUFFIX, SegmentHeader};
use crate::fs::{
    Access, Away, Disk, File, naming, read_exact_at, read_small, read_up_to, replace_file,
};

/// What the name of an outline ends with, in place of the segment's own end.
pub const OUTLINE_SUFFIX: &str = ".outline";
/// So much of a segment has a checksum of its own.
pub const PART_LEN: u64 = 256 << 10;
const MAGIC: [u8; 8] = *b"TLOUTLIN";
const VERSION: u32 = 1;
const FIXED_LEN: usize = 40;
/// Postings take up to four bytes for each frame, which has at least 64.
const FILE_LEN_MAX: u64 = 1 << 31;

/// What is kept of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// What the segment says of itself.
    pub header: SegmentHeader,
    /// Its length.
    pub len: u64,
    /// Where its footer begins.
    pub footer_start: u64,
    /// CRC-32 of all of it.
    pub crc: u32,
    part_crcs: Vec<u32>,
    head: Vec<u8>,
    end: Vec<u8>,
}

/// The beginning of an outline.
pub struct Head {
    /// What the segment says of itself.
    pub header: SegmentHeader,
    /// The segment's length.
    pub len: u64,
    /// The length of the outline's own file.
    pub file_len: u64,
    footer_start: u64,
    crc: u32,
}

/// What is here of a sealed segment.
pub enum Here {
    /// Its file.
    File(Arc<dyn File>),
    /// Its outline.
    Outline(Outline),
}

/// Where the outline of the segment at this path is.
pub fn outline_path(segment: &Path) -> PathBuf {
    segment.with_extension(OUTLINE_SUFFIX.trim_start_matches('.'))
}

/// The name of the segment whose outline has this file name.
pub fn outlined_name(file_name: &str) -> Option<String> {
    let stem = file_name.strip_suffix(OUTLINE_SUFFIX)?;
    Some(format!("{stem}{SEGMENT_SUFFIX}"))
}

impl Here {
    /// Looks for the segment at `path`.
    pub fn find(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let not_here = match disk.open(path, Access::Read) {
            Ok(file) if !file.is_archived() => return Ok(Self::File(file)),
            Ok(_) => io::ErrorKind::NotFound.into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => error,
            Err(error) => return Err(error),
        };
        match Outline::read(disk, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_here),
            read => read.map(Self::Outline),
        }
    }

    /// The segment's length.
    pub fn segment_len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => file.len(),
            Self::Outline(outline) => Ok(outline.len),
        }
    }
}

/// Opens a segment of which an outline is here, to read from the archive.
pub fn open_archived(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn File>> {
    match disk.open(path, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match disk.open(&outline_path(path), Access::Read) {
                Ok(_) => Err(Away::NoArchive.into()),
                // It was dropped meanwhile.
                Err(_) => Err(error),
            }
        }
        opened => opened,
    }
}

/// The parts of a segment that a range lies in, by number.
pub fn parts_of(range: &Range<u64>) -> Range<u64> {
    range.start / PART_LEN..range.end.div_ceil(PART_LEN)
}

impl Outline {
    /// Of a segment's file; `None` if it isn't sealed and whole. Reads all of it.
    pub fn of(file: &dyn File) -> io::Result<Option<Self>> {
        let len = file.len()?;
        if len < SEGMENT_HEADER_LEN + TRAILER_LEN as u64 {
            return Ok(None);
        }
        let mut head = vec![0; SEGMENT_HEADER_LEN as usize];
        read_exact_at(file, &mut head, 0)?;
        let Ok(read) = SegmentHeader::decode(&head) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER_LEN];
        read_exact_at(file, &mut trailer, len - TRAILER_LEN as u64)?;
        let Some(sums) = checksums(&trailer, read.header.salt) else {
            return Ok(None);
        };
        if sums.footer_start > len - TRAILER_LEN as u64 {
            return Ok(None);
        }
        let mut outline = Self {
            header: read.header,
            len,
            footer_start: sums.footer_start,
            crc: 0,
            part_crcs: Vec::new(),
            head,
            end: vec![0; (len - sums.footer_start) as usize],
        };
        let mut crc = crc32fast::Hasher::new();
        let mut part = vec![0; PART_LEN as usize];
        for begin in (0..sums.footer_start).step_by(PART_LEN as usize) {
            let part_len = (sums.footer_start - begin).min(PART_LEN) as usize;
            let bytes = part.get_mut(..part_len).unwrap_or_default();
            read_exact_at(file, bytes, begin)?;
            crc.update(bytes);
            outline.part_crcs.push(crc32fast::hash(bytes));
        }
        let content_crc = crc.clone().finalize();
        read_exact_at(file, &mut outline.end, sums.footer_start)?;
        crc.update(&outline.end);
        outline.crc = crc.finalize();
        let is_whole = content_crc == sums.content_crc && outline.footer().is_some();
        Ok(is_whole.then_some(outline))
    }

    /// Reads the one of the segment at `path`.
    pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let path = outline_path(path);
        let bytes = match read_small(disk, &path, FILE_LEN_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            read => read.map_err(naming(&path))?,
        };
        Self::decode(&bytes).ok_or_else(|| {
            let what = "this outline of an archived segment is damaged: put the segment itself back here, \
                        from the archive";
            naming(&path)(io::Error::new(io::ErrorKind::InvalidData, what))
        })
    }

    /// Reads the beginning of the one of the segment at `path`; `None` if that is damaged.
    pub fn read_head(disk: &dyn Disk, path: &Path) -> io::Result<Option<Head>> {
        let file = disk.open(&outline_path(path), Access::Read)?;
        let mut head = [0; FIXED_LEN + SEGMENT_HEADER_LEN as usize];
        let len = read_up_to(&*file, &mut head, 0)?;
        let file_len = file.len()?;
        let decoded = Self::decode_head(head.get(..len).unwrap_or_default());
        Ok(decoded.map(|head| Head { file_len, ..head }))
    }

    /// Makes it durable, then unlinks the segment's file at `path`.
    pub fn take_place(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        replace_file(disk, &outline_path(path), &self.encode())?;
        disk.remove_file(path)
    }

    /// Its footer.
    pub fn footer(&self) -> Option<Footer<'_>> {
        Footer::read_end(&self.end, self.footer_start, self.header.salt)
    }

    /// The last bytes of the segment, which its footer ends with.
    pub fn trailer(&self) -> &[u8] {
        let at = self.end.len().saturating_sub(TRAILER_LEN);
        self.end.get(at..).unwrap_or_default()
    }

    /// These bytes of the segment, if they are all here.
    pub fn bytes(&self, range: &Range<u64>) -> Option<&[u8]> {
        let begin = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        let footer_start = self.footer_start as usize;
        match begin.checked_sub(footer_start) {
            Some(begin) => self.end.get(begin..end.checked_sub(footer_start)?),
            None => self.head.get(begin..end),
        }
    }

    /// The place of a part in the segment.
    pub fn part(&self, number: u64) -> Range<u64> {
        let begin = (number * PART_LEN).min(self.footer_start);
        begin..(begin + PART_LEN).min(self.footer_start)
    }

    /// Whether these are the bytes of that part.
    pub fn is_part(&self, number: u64, bytes: &[u8]) -> bool {
        let range = self.part(number);
        let crc = usize::try_from(number)
            .ok()
            .and_then(|at| self.part_crcs.get(at));
        bytes.len() as u64 == range.end - range.start && crc == Some(&crc32fast::hash(bytes))
    }

    /// Its own file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.footer_start.to_le_bytes());
        let fixed_crc = crc32fast::hash(&out);
        out.extend_from_slice(&fixed_crc.to_le_bytes());
        out.resize(FIXED_LEN, 0);
        out.extend_from_slice(&self.head);
        for crc in &self.part_crcs {
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&self.end);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (front, own_crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(front) != u32::from_le_bytes(*own_crc) {
            return None;
        }
        let Head {
            header,
            len,
            footer_start,
            crc,
            ..
        } = Self::decode_head(front)?;
        let (head, rest) = front
            .get(FIXED_LEN..)?
            .split_at_checked(SEGMENT_HEADER_LEN as usize)?;
        let end_len = usize::try_from(len.checked_sub(footer_start)?).ok()?;
        let crcs_len = usize::try_from(footer_start.div_ceil(PART_LEN).checked_mul(4)?).ok()?;
        let (crcs, end) = rest.split_at_checked(crcs_len)?;
        if end.len() != end_len {
            return None;
        }
        let outline = Self {
            header,
            len,
            footer_start,
            crc,
            part_crcs: crcs
                .as_chunks::<4>()
                .0
                .iter()
                .map(|crc| u32::from_le_bytes(*crc))
                .collect(),
            head: head.to_vec(),
            end: end.to_vec(),
        };
        outline.footer().is_some().then_some(outline)
    }

    fn decode_head(bytes: &[u8]) -> Option<Head> {
        let (fixed, rest) = bytes.split_at_checked(FIXED_LEN)?;
        let mut fields = Fields(fixed);
        let mut read = || -> Result<_, HeaderError> {
            let begin = (fields.take::<8>()?, fields.u32()?);
            let sums = (fields.u32()?, fields.u64()?, fields.u64()?);
            Ok((begin, sums, (fields.u32()?, fields.u32()?)))
        };
        let (begin, (crc, len, footer_start), (own_crc, zeros)) = read().ok()?;
        let is_one = begin == (MAGIC, VERSION)
            && zeros == 0
            && own_crc == crc32fast::hash(fixed.get(..FIXED_LEN - 8)?);
        let header = SegmentHeader::decode(rest.get(..SEGMENT_HEADER_LEN as usize)?);
        let header = header.ok().filter(|_| is_one)?.header;
        Some(Head {
            header,
            len,
            file_len: 0,
            footer_start,
            crc,
        })
    }
}
