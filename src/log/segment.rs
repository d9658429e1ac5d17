//! A segment's name and header: who it is, and where the one before it ended.

use std::path::{Path, PathBuf};

use crate::model::{LogId, Slug};

/// Bytes in front of the first frame: the header twice, so that damage to one costs nothing.
pub const SEGMENT_HEADER_LEN: u64 = 2 * COPY_LEN as u64;
/// The version of the format that this code writes.
pub const FORMAT_VERSION: u32 = 1;
/// No segment comes near this length: the settings bound what is written into one far below.
pub const SEGMENT_LEN_MAX: u64 = 1 << 34;
/// Nor do counts come near this: what says so is no bytes of ours, and would overflow when it is
/// counted on from.
pub const COUNT_MAX: u64 = 1 << 62;
/// How a segment's file name ends.
pub const SEGMENT_SUFFIX: &str = ".segment";

const COPY_LEN: usize = 256;
const MAGIC: [u8; 8] = *b"TRIALOG\n";
const CRC_AT: usize = COPY_LEN - 4;

/// What a segment says of itself, so that a copy of it alone can be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store_id: u64,
    /// The experiment it belongs to.
    pub slug: Slug,
    /// Which life of the experiment: one that is deleted and made again has another.
    pub incarnation: u64,
    /// How many segments came before it.
    pub number: u64,
    /// The sequence number of its first frame, which also names its file.
    pub first_sequence: u64,
    /// The last id given before it, [`LogId::MIN`] when there was none.
    pub last_id: LogId,
    /// When it was begun, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Seeds its checksums.
    pub salt: u64,
    /// The segment before it.
    pub previous: Option<Previous>,
}

/// What a segment says of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    /// Where its frames end: what lies behind, up to a footer, was never acknowledged.
    pub frames_end: u64,
    /// The sequence number of its last frame. A gap to our first one is of frames that damage
    /// may have cost.
    pub last_sequence: u64,
    /// Its salt.
    pub salt: u64,
}

/// Why a segment's beginning can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a segment, or both copies of its header are damaged.
    #[error("no readable segment header")]
    Unreadable,
    /// A later program wrote it.
    #[error("format version {0}, this program reads up to {FORMAT_VERSION}: use a newer trialog")]
    Newer(u32),
    /// It is whole, and isn't one of those that belong where it is.
    #[error("the segment is of {0}: it is left as it is, and nothing of it is read here")]
    Elsewhere(&'static str),
}

/// Whose segments belong into a folder, as far as is known.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The store.
    pub store_id: Option<u64>,
    /// The experiment.
    pub slug: Option<&'a Slug>,
    /// Its life.
    pub incarnation: Option<u64>,
}

impl Owner<'_> {
    /// Whether a segment with this header is the owner's.
    pub fn check(&self, header: &SegmentHeader) -> Result<(), HeaderError> {
        let is_other = |known: Option<u64>, said| known.is_some_and(|known| known != said);
        if is_other(self.store_id, header.store_id) {
            Err(HeaderError::Elsewhere("another store"))
        } else if self.slug.is_some_and(|slug| *slug != header.slug) {
            Err(HeaderError::Elsewhere("another experiment"))
        } else if is_other(self.incarnation, header.incarnation) {
            Err(HeaderError::Elsewhere(
                "an experiment of this name that was deleted",
            ))
        } else {
            Ok(())
        }
    }
}

/// A header as read, and whether both copies were good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadHeader {
    /// The header.
    pub header: SegmentHeader,
    /// Which of the two copies is damaged, if one is.
    pub damaged_copy: Option<usize>,
}

impl SegmentHeader {
    /// The bytes of the segment's beginning, [`SEGMENT_HEADER_LEN`] of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_LEN * 2);
        let previous = self.previous.unwrap_or(Previous {
            frames_end: 0,
            last_sequence: 0,
            salt: 0,
        });
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&(COPY_LEN as u32).to_le_bytes());
        copy.extend_from_slice(&self.store_id.to_le_bytes());
        copy.extend_from_slice(&self.incarnation.to_le_bytes());
        copy.extend_from_slice(&self.number.to_le_bytes());
        copy.extend_from_slice(&self.first_sequence.to_le_bytes());
        copy.extend_from_slice(&self.last_id.as_u128().to_le_bytes());
        copy.extend_from_slice(&self.created_at_ms.to_le_bytes());
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&previous.frames_end.to_le_bytes());
        copy.extend_from_slice(&previous.last_sequence.to_le_bytes());
        copy.extend_from_slice(&previous.salt.to_le_bytes());
        copy.push(self.slug.as_str().len() as u8);
        copy.extend_from_slice(self.slug.as_str().as_bytes());
        copy.resize(CRC_AT, 0);
        let crc = crc32fast::hash(&copy);
        copy.extend_from_slice(&crc.to_le_bytes());
        copy.extend_from_within(..);
        copy
    }

    /// Reads the beginning of a segment.
    pub fn decode(bytes: &[u8]) -> Result<ReadHeader, HeaderError> {
        let mut copies = bytes.chunks_exact(COPY_LEN).take(2).map(Self::decode_copy);
        let first = copies.next().unwrap_or(Err(HeaderError::Unreadable));
        let second = copies.next().unwrap_or(Err(HeaderError::Unreadable));
        let (header, damaged_copy) = match (first, second) {
            (Ok(first), Ok(second)) if first == second => (first, None),
            (Ok(_), Ok(_)) => return Err(HeaderError::Unreadable),
            (Ok(first), Err(_)) => (first, Some(1)),
            (Err(_), Ok(second)) => (second, Some(0)),
            (Err(error @ HeaderError::Newer(_)), _) | (_, Err(error)) => return Err(error),
        };
        Ok(ReadHeader {
            header,
            damaged_copy,
        })
    }

    /// The name of its file.
    pub fn file_name(&self) -> String {
        segment_file_name(self.first_sequence)
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, HeaderError> {
        let mut fields = Fields(copy);
        let magic = fields.take::<8>()?;
        let (covered, crc) = copy
            .split_at_checked(CRC_AT)
            .ok_or(HeaderError::Unreadable)?;
        if magic != MAGIC || crc != crc32fast::hash(covered).to_le_bytes() {
            return Err(HeaderError::Unreadable);
        }
        let version = fields.u32()?;
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        if version == 0 || fields.u32()? as usize != COPY_LEN {
            return Err(HeaderError::Unreadable);
        }
        let store_id = fields.u64()?;
        let incarnation = fields.u64()?;
        let number = fields.u64()?;
        let first_sequence = fields.u64()?;
        let last_id = LogId::from_u128(u128::from_le_bytes(fields.take()?));
        let created_at_ms = fields.u64()?;
        let salt = fields.u64()?;
        let previous = Previous {
            frames_end: fields.u64()?,
            last_sequence: fields.u64()?,
            salt: fields.u64()?,
        };
        let [slug_len] = fields.take()?;
        let slug = fields
            .0
            .get(..usize::from(slug_len))
            .and_then(|slug| std::str::from_utf8(slug).ok())
            .and_then(|slug| Slug::parse(slug).ok())
            .ok_or(HeaderError::Unreadable)?;
        let previous = (number > 0).then_some(previous);
        let said = previous.map_or([0; 2], |p| [p.frames_end, p.last_sequence]);
        let mut counts = [number, first_sequence].into_iter().chain(said);
        if counts.any(|count| count > COUNT_MAX) {
            return Err(HeaderError::Unreadable);
        }
        Ok(Self {
            store_id,
            slug,
            incarnation,
            number,
            first_sequence,
            last_id,
            created_at_ms,
            salt,
            previous,
        })
    }
}

/// Reads fixed-width little-endian fields one behind the other.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(HeaderError::Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, HeaderError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, HeaderError> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The file name of the segment that begins with this sequence number.
pub fn segment_file_name(first_sequence: u64) -> String {
    format!("{first_sequence:020}{SEGMENT_SUFFIX}")
}

/// The first sequence number of the segment with this file name.
pub fn first_sequence_of(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(SEGMENT_SUFFIX)?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    let sequence = digits.parse().ok().filter(|_| is_ours)?;
    (sequence <= COUNT_MAX).then_some(sequence)
}

/// The file of the segment of an experiment's folder that begins with this sequence number.
pub fn segment_path(experiment_dir: &Path, first_sequence: u64) -> PathBuf {
    experiment_dir.join(segment_file_name(first_sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store_id: 1,
            slug: Slug::parse("search-ranker").unwrap(),
            incarnation: 2,
            number: 3,
            first_sequence: 4,
            last_id: LogId::from_u128(5),
            created_at_ms: 6,
            salt: 7,
            previous: Some(Previous {
                frames_end: 8,
                last_sequence: 3,
                salt: 9,
            }),
        }
    }

    #[test]
    fn counts_that_would_overflow_are_of_no_segment() {
        let with = |change: fn(&mut SegmentHeader)| {
            let mut header = header();
            change(&mut header);
            SegmentHeader::decode(&header.encode()).map(|_| ())
        };
        let refused = Err(HeaderError::Unreadable);
        assert_eq!(with(|header| header.number = u64::MAX), refused);
        assert_eq!(with(|header| header.first_sequence = u64::MAX), refused);
        let ends_at = |header: &mut SegmentHeader| {
            header.previous.as_mut().unwrap().frames_end = u64::MAX;
        };
        assert_eq!(with(ends_at), refused);
        assert_eq!(with(|header| header.first_sequence = COUNT_MAX), Ok(()));
        assert_eq!(first_sequence_of("18446744073709551615.segment"), None);
    }

    #[test]
    fn every_flipped_bit_is_found_and_costs_nothing() {
        let good = header().encode();
        assert_eq!(good.len() as u64, SEGMENT_HEADER_LEN);
        let read = SegmentHeader::decode(&good).unwrap();
        assert_eq!((read.header, read.damaged_copy), (header(), None));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = SegmentHeader::decode(&bad).unwrap();
            assert_eq!(read.header, header());
            assert_eq!(read.damaged_copy, Some(bit / 8 / COPY_LEN));
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = header().encode();
        for copy in bytes.chunks_mut(COPY_LEN) {
            copy[8..12].copy_from_slice(&2u32.to_le_bytes());
            let crc = crc32fast::hash(&copy[..CRC_AT]);
            copy[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer(2)));
        assert_eq!(
            SegmentHeader::decode(b"hello"),
            Err(HeaderError::Unreadable)
        );
    }

    #[test]
    fn names_go_there_and_back() {
        assert_eq!(segment_file_name(7), "00000000000000000007.segment");
        assert_eq!(first_sequence_of("00000000000000000007.segment"), Some(7));
        assert_eq!(first_sequence_of("7.segment"), None);
        assert_eq!(first_sequence_of("0000000000000000000x.segment"), None);
        assert_eq!(first_sequence_of("00000000000000000007.segment.tmp"), None);
    }
}
