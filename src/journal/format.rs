//! The journal's bytes: the header of a lap, batches, and the groups in them.
//!
//! A journal is two files, `00000001.journal` and `00000002.journal`, used in turn. Each turn is a
//! *lap* with a number and a random salt of its own. A file begins with the lap's header, twice
//! (at 0 and at 4096); batches follow from 8192 on, each at a multiple of the sector size, which
//! the header names.
//!
//! | lap header | bytes | | batch header | bytes | | group header | bytes |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | magic `TLJOURNL` | 8 | | magic `TLJB` | 4 | | kind: 0 bytes, 1 begin, 2 end | 1 |
//! | version | 4 | | groups | 4 | | length of the slug | 1 |
//! | sector size | 4 | | batch number | 8 | | check | 2 |
//! | store id | 8 | | synced through | 8 | | length of the data | 4 |
//! | lap number | 8 | | length of the payload | 8 | | incarnation | 8 |
//! | salt | 8 | | CRC-32 of the payload | 4 | | segment's first sequence | 8 |
//! | CRC-32 of these | 4 | | CRC-32 of salt and these | 4 | | segment's salt | 8 |
//! | | | | groups, zeros to a sector | | | offset of the data | 8 |
//! | | | | | | | slug, data, zeros to 8 | |
//!
//! Integers are little-endian. Batch numbers rise by one over all laps. *Synced through* is the
//! number of the last batch known to be synced when this one was written: a bad batch up to that
//! number is damage, a bad one behind it is torn. A group's *check* is a sum of another kind than the
//! CRC: both together tell one wrong bit from a torn batch (`correct.rs`).

use std::borrow::Cow;

use crate::log::segment::{COUNT_MAX, Fields, HeaderError, SEGMENT_LEN_MAX};
use crate::log::segment_file::SegmentId;
use crate::model::Slug;

use super::Mark;

/// Where batches begin in a journal file.
pub const BATCHES_AT: u64 = 2 * HEADER_COPY_AT;
/// Where the second copy of the lap's header stands.
pub const HEADER_COPY_AT: u64 = 4096;
/// Bytes of a lap's header.
pub const LAP_HEADER_LEN: usize = 44;
/// Bytes of a batch in front of its groups.
pub const BATCH_HEADER_LEN: usize = 40;

const LAP_MAGIC: [u8; 8] = *b"TLJOURNL";
const BATCH_MAGIC: [u8; 4] = *b"TLJB";
const VERSION: u32 = 1;
const GROUP_HEADER_LEN: usize = 40;
/// Where in a group its check stands.
pub const CHECK_AT: usize = 2;

/// One use of a journal file from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LapHeader {
    /// The store that the journal belongs to.
    pub store_id: u64,
    /// Rises by one from lap to lap.
    pub lap: u64,
    /// Seeds the checksums of the lap's batches.
    pub salt: u64,
    /// Batches begin at multiples of this.
    pub sector_bytes: u32,
}

impl LapHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LAP_HEADER_LEN);
        out.extend_from_slice(&LAP_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.sector_bytes.to_le_bytes());
        out.extend_from_slice(&self.store_id.to_le_bytes());
        out.extend_from_slice(&self.lap.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let covered = bytes
            .get(..LAP_HEADER_LEN - 4)
            .ok_or(HeaderError::Unreadable)?;
        let mut fields = Fields(bytes);
        let magic = fields.take::<8>()?;
        let version = fields.u32()?;
        let sector_bytes = fields.u32()?;
        let store_id = fields.u64()?;
        let lap = fields.u64()?;
        let salt = fields.u64()?;
        let is_ours = magic == LAP_MAGIC && fields.u32()? == crc32fast::hash(covered);
        let is_sector = (512..=4096).contains(&sector_bytes) && sector_bytes.is_power_of_two();
        if !is_ours || !is_sector || lap > COUNT_MAX {
            return Err(HeaderError::Unreadable);
        }
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        Ok(Self {
            store_id,
            lap,
            salt,
            sector_bytes,
        })
    }

    pub(super) fn batch_crc(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// A batch that decoded.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Its number.
    pub number: u64,
    /// The last batch that was known to be synced when this one was written.
    pub synced_through: u64,
    /// Its bytes in the file, padding included.
    pub len: usize,
    /// Its groups.
    pub groups: Vec<GroupRecord<'a>>,
}

/// One group of a batch: bytes for one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord<'a> {
    /// The segment.
    pub segment: SegmentId,
    /// Where the data belongs in the segment.
    pub offset: u64,
    /// The bytes.
    pub data: Cow<'a, [u8]>,
    /// Whether a group around the journal begins behind the data, or has ended.
    pub mark: RecordMark,
}

/// What a record says about groups around the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordMark {
    /// Nothing.
    None = 0,
    /// One begins behind the data.
    Begin = 1,
    /// The one that had begun is whole.
    End = 2,
}

impl From<Mark> for RecordMark {
    fn from(mark: Mark) -> Self {
        match mark {
            Mark::None => Self::None,
            Mark::Begin => Self::Begin,
            Mark::End { .. } => Self::End,
        }
    }
}

/// Begins a batch in the empty `out`; groups are appended by [`push_group`].
pub fn begin_batch(out: &mut Vec<u8>) {
    out.clear();
    out.resize(BATCH_HEADER_LEN, 0);
}

/// Appends a group to a batch; the parts of its data stand one behind the other.
pub fn push_group(
    out: &mut Vec<u8>,
    lap: &LapHeader,
    segment: &SegmentId,
    offset: u64,
    data: &[&[u8]],
    mark: RecordMark,
) {
    let begin = out.len();
    let kind = mark as u8;
    let slug = segment.slug.as_str();
    out.extend_from_slice(&[kind, slug.len() as u8, 0, 0]);
    let data_len: usize = data.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(data_len as u32).to_le_bytes());
    out.extend_from_slice(&segment.incarnation.to_le_bytes());
    out.extend_from_slice(&segment.first_sequence.to_le_bytes());
    out.extend_from_slice(&segment.salt.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(slug.as_bytes());
    for part in data {
        out.extend_from_slice(part);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let check = 65535 - sum(out.get(begin..).unwrap_or_default(), lap);
    if let Some(place) = out.get_mut(begin + CHECK_AT..begin + CHECK_AT + 2) {
        place.copy_from_slice(&check.to_le_bytes());
    }
}

/// The sum of a group's and the salt's 16-bit words modulo 65535: with a good check it is 0. Words of
/// any width have the same sum, since 65536 is 1 modulo 65535.
pub fn sum(group: &[u8], lap: &LapHeader) -> u16 {
    let (words, _) = group.as_chunks::<4>();
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_le_bytes(*word)));
    ((words.sum::<u64>() + lap.salt % 65535) % 65535) as u16
}

/// How many bytes [`push_group`] adds at most.
pub fn group_len_max(segment: &SegmentId, data_len: usize) -> usize {
    GROUP_HEADER_LEN + segment.slug.as_str().len() + data_len + 8
}

/// Writes the header of the batch in `out` and pads it to whole sectors.
pub fn finish_batch(
    out: &mut Vec<u8>,
    lap: &LapHeader,
    number: u64,
    synced_through: u64,
    group_count: u32,
) {
    let payload_len = out.len().saturating_sub(BATCH_HEADER_LEN);
    let payload_crc = crc32fast::hash(out.get(BATCH_HEADER_LEN..).unwrap_or_default());
    let mut header = Vec::with_capacity(BATCH_HEADER_LEN);
    header.extend_from_slice(&BATCH_MAGIC);
    header.extend_from_slice(&group_count.to_le_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&synced_through.to_le_bytes());
    header.extend_from_slice(&(payload_len as u64).to_le_bytes());
    header.extend_from_slice(&payload_crc.to_le_bytes());
    let crc = lap.batch_crc(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    if let Some(place) = out.get_mut(..BATCH_HEADER_LEN) {
        place.copy_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(lap.sector_bytes as usize), 0);
}

/// What stands in front of a batch's groups, checked.
pub(super) struct BatchHeader {
    group_count: u32,
    number: u64,
    synced_through: u64,
    pub payload_len: usize,
    pub payload_crc: u32,
}

impl BatchHeader {
    pub fn decode(bytes: &[u8], lap: &LapHeader) -> Option<Self> {
        let covered = bytes.get(..BATCH_HEADER_LEN - 4)?;
        let mut fields = Fields(bytes);
        if fields.take::<4>().ok()? != BATCH_MAGIC {
            return None;
        }
        let header = Self {
            group_count: fields.u32().ok()?,
            number: fields.u64().ok()?,
            synced_through: fields.u64().ok()?,
            payload_len: usize::try_from(fields.u64().ok()?).ok()?,
            payload_crc: fields.u32().ok()?,
        };
        let is_good = fields.u32().ok()? == lap.batch_crc(covered) && header.number <= COUNT_MAX;
        is_good.then_some(header)
    }
}

impl<'a> Batch<'a> {
    /// Reads the batch at the beginning of `bytes`.
    pub fn decode(bytes: &'a [u8], lap: &LapHeader) -> Option<Self> {
        let header = BatchHeader::decode(bytes, lap)?;
        let end = BATCH_HEADER_LEN.checked_add(header.payload_len)?;
        let payload = bytes.get(BATCH_HEADER_LEN..end)?;
        let len = end.next_multiple_of(lap.sector_bytes as usize);
        if bytes.len() < len || crc32fast::hash(payload) != header.payload_crc {
            return None;
        }
        let mut groups = Vec::new();
        let mut rest = payload;
        for _ in 0..header.group_count {
            let (group, behind) = GroupRecord::decode(rest)?;
            groups.push(group);
            rest = behind;
        }
        rest.is_empty().then_some(Self {
            number: header.number,
            synced_through: header.synced_through,
            len,
            groups,
        })
    }

    /// The batch with bytes of its own.
    pub fn into_owned(self) -> Batch<'static> {
        let groups = self.groups.into_iter();
        Batch {
            number: self.number,
            synced_through: self.synced_through,
            len: self.len,
            groups: groups.map(GroupRecord::into_owned).collect(),
        }
    }
}

impl<'a> GroupRecord<'a> {
    /// Reads the group at the beginning of `bytes`; gives back what is behind it, too.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut fields = Fields(bytes);
        let [kind, slug_len, _, _] = fields.take::<4>().ok()?;
        let data_len = fields.u32().ok()? as usize;
        let incarnation = fields.u64().ok()?;
        let first_sequence = fields.u64().ok()?;
        let salt = fields.u64().ok()?;
        let offset = fields.u64().ok()?;
        let slug_end = GROUP_HEADER_LEN + usize::from(slug_len);
        let slug = std::str::from_utf8(bytes.get(GROUP_HEADER_LEN..slug_end)?).ok()?;
        let data = bytes.get(slug_end..slug_end.checked_add(data_len)?)?;
        let rest = bytes.get((slug_end + data_len).next_multiple_of(8)..)?;
        if offset > SEGMENT_LEN_MAX {
            return None;
        }
        let mark = match kind {
            0 => RecordMark::None,
            1 => RecordMark::Begin,
            2 => RecordMark::End,
            _ => return None,
        };
        let segment = SegmentId {
            slug: Slug::parse(slug).ok()?,
            incarnation,
            first_sequence,
            salt,
        };
        let group = Self {
            segment,
            offset,
            data: data.into(),
            mark,
        };
        Some((group, rest))
    }

    fn into_owned(self) -> GroupRecord<'static> {
        GroupRecord {
            segment: self.segment,
            offset: self.offset,
            data: self.data.into_owned().into(),
            mark: self.mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAP: LapHeader = LapHeader {
        store_id: 1,
        lap: 2,
        salt: 3,
        sector_bytes: 512,
    };

    fn segment() -> SegmentId {
        SegmentId {
            slug: Slug::parse("demo").unwrap(),
            incarnation: 4,
            first_sequence: 5,
            salt: 6,
        }
    }

    fn batch() -> Vec<u8> {
        let mut out = Vec::new();
        begin_batch(&mut out);
        push_group(
            &mut out,
            &LAP,
            &segment(),
            512,
            &[b"bytes of", b" one group"],
            RecordMark::None,
        );
        push_group(&mut out, &LAP, &segment(), 530, &[], RecordMark::End);
        finish_batch(&mut out, &LAP, 9, 8, 2);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = batch();
        assert_eq!(bytes.len() % 512, 0);
        bytes.extend_from_slice(&[9; 100]);
        let read = Batch::decode(&bytes, &LAP).unwrap();
        assert_eq!(
            (read.number, read.synced_through, read.len),
            (9, 8, bytes.len() - 100)
        );
        assert_eq!(read.groups.len(), 2);
        assert_eq!(*read.groups[0].data, *b"bytes of one group");
        assert_eq!(read.groups[1].mark, RecordMark::End);
        assert_eq!(LapHeader::decode(&LAP.encode()), Ok(LAP));
    }

    #[test]
    fn another_lap_and_every_flipped_bit_are_refused() {
        let good = batch();
        assert!(Batch::decode(&good, &LapHeader { salt: 4, ..LAP }).is_none());
        let payload_len = u64::from_le_bytes(good[24..32].try_into().unwrap());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // What is behind the payload means nothing.
            let is_padding = bit / 8 >= BATCH_HEADER_LEN + payload_len as usize;
            assert_eq!(Batch::decode(&bad, &LAP).is_some(), is_padding, "bit {bit}");
        }
        let header = LAP.encode();
        for bit in 0..header.len() * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(LapHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    /// Redo would count on from them, or make a file of that length.
    #[test]
    fn numbers_and_offsets_that_no_writer_gives_are_refused() {
        let batch = |number, offset| {
            let mut out = Vec::new();
            begin_batch(&mut out);
            push_group(
                &mut out,
                &LAP,
                &segment(),
                offset,
                &[b"x"],
                RecordMark::Begin,
            );
            finish_batch(&mut out, &LAP, number, 0, 1);
            Batch::decode(&out, &LAP).is_some()
        };
        assert!(batch(1, SEGMENT_LEN_MAX) && batch(COUNT_MAX, 0));
        assert!(!batch(1, u64::MAX) && !batch(1, SEGMENT_LEN_MAX + 1));
        assert!(!batch(u64::MAX, 0));
        let lap = LapHeader {
            lap: u64::MAX,
            ..LAP
        };
        assert!(LapHeader::decode(&lap.encode()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::decode(&bytes, &LAP);
            let _ = GroupRecord::decode(&bytes);
            let _ = LapHeader::decode(&bytes);
        }
    }
}
