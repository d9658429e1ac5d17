//! The footer of a sealed segment: its index on disk, and checksums of the whole file.
//!
//! A footer is derived from the frames and can always be built again. Sealing puts it at a multiple
//! of [`FOOTER_ALIGN`] behind the frames and behind bytes that were set aside there, with zeros in
//! between; a reader takes any multiple of 8. It ends with the file:
//!
//! | part | bytes | what |
//! | --- | --- | --- |
//! | head | 32 | `TLFOOTER`, frames' end (8), salt (8), CRC-32 of these (4), zeros (4) |
//! | sections | | kind (4), CRC-32 of the payload (4), length (8), payload, zeros to 8 |
//! | trailer | 48 | `TLTRAILR`, footer's begin (8), frames' end (8), salt (8), CRC-32 of all in front of the footer (4), CRC-32 of the footer so far (4), version (4), CRC-32 of the trailer (4) |
//!
//! A reader passes over kinds of section that it doesn't know.

use super::index::{Block, Keyed, SegmentIndex, positions};
use super::planted::{Bug, is_planted};
use super::record::{self, BorrowDecode, Encode};
use super::segment::{Fields, HeaderError};
use crate::model::{Fingerprint, LogId};

/// Bytes at the end of a sealed segment from which its footer is found.
pub const TRAILER_LEN: usize = 48;

/// A footer begins at a multiple of this: no sector that holds acknowledged bytes is written again
/// for it.
pub const FOOTER_ALIGN: u64 = 4096;

const HEAD_LEN: usize = 32;
const HEAD_MAGIC: [u8; 8] = *b"TLFOOTER";
/// What a trailer begins with.
pub const TRAILER_MAGIC: [u8; 8] = *b"TLTRAILR";
const VERSION: u32 = 1;
const SECTION_HEAD_LEN: usize = 16;
const SECTION_SUMMARY: u32 = 1;
const SECTION_VARIANT: u32 = 2;
const SECTION_BLOCKS: u32 = 3;
const SECTION_METRICS: u32 = 4;
const SECTION_KEYED: u32 = 5;
const BLOCK_LEN: usize = 24;
const KEYED_LEN: usize = 48;

/// What a footer says of its segment as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Summary {
    /// All frames.
    pub frame_count: u32,
    /// Those that are entries.
    pub entry_count: u64,
    first_id: u128,
    last_id: u128,
    /// The earliest time of receipt, in milliseconds since 1970.
    pub received_at_ms_min: u64,
    /// The latest time of receipt.
    pub received_at_ms_max: u64,
    /// The last entry's time of receipt.
    pub received_at_ms_last: u64,
}

impl Summary {
    /// The summary of an index.
    pub fn of(index: &SegmentIndex) -> Self {
        Self {
            frame_count: index.frame_count,
            entry_count: index.entry_count,
            first_id: index.first_id.unwrap_or(LogId::MIN).as_u128(),
            last_id: index.last_id.unwrap_or(LogId::MIN).as_u128(),
            received_at_ms_min: index.received_at_ms_min,
            received_at_ms_max: index.received_at_ms_max,
            received_at_ms_last: index.received_at_ms_last,
        }
    }

    /// The first and the last entry's id.
    pub fn ids(&self) -> Option<(LogId, LogId)> {
        let ids = (
            LogId::from_u128(self.first_id),
            LogId::from_u128(self.last_id),
        );
        (self.entry_count > 0).then_some(ids)
    }
}

#[derive(Encode, BorrowDecode)]
struct VariantSection<'a> {
    key: &'a str,
    count: u64,
    postings: &'a [u8],
}

/// A footer whose checksums are right.
#[derive(Debug)]
pub struct Footer<'a> {
    /// Where the frames end.
    pub frames_end: u64,
    /// Where the footer begins.
    pub footer_start: u64,
    /// What is in the segment.
    pub summary: Summary,
    /// CRC-32 of all bytes in front of the footer.
    pub content_crc: u32,
    /// What is kept of the entries' metrics. Opaque here: who gave it to [`encode`] reads it.
    pub metrics: Option<&'a [u8]>,
    variants: Vec<(&'a str, u64, &'a [u8])>,
    blocks: &'a [u8],
    keyed: &'a [u8],
}

/// The bytes that seal a segment: to be written at `footer_start`, behind everything in the file.
/// Without `metrics` there is no section for them.
pub fn encode(
    index: &SegmentIndex,
    metrics: &[u8],
    salt: u64,
    frames_end: u64,
    footer_start: u64,
    content_crc: u32,
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&HEAD_MAGIC);
    out.extend_from_slice(&frames_end.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    let head_crc = crc32fast::hash(&out);
    out.extend_from_slice(&head_crc.to_le_bytes());
    out.resize(HEAD_LEN, 0);

    let mut payload = Vec::new();
    record::encode(&Summary::of(index), &mut payload);
    push_section(&mut out, SECTION_SUMMARY, &payload);
    for variant in &index.variants {
        payload.clear();
        let section = VariantSection {
            key: &variant.key,
            count: variant.postings.count,
            postings: variant.postings.as_bytes(),
        };
        record::encode(&section, &mut payload);
        push_section(&mut out, SECTION_VARIANT, &payload);
    }
    payload.clear();
    for block in &index.blocks {
        payload.extend_from_slice(&block.id.as_u128().to_le_bytes());
        payload.extend_from_slice(&block.position.to_le_bytes());
    }
    push_section(&mut out, SECTION_BLOCKS, &payload);
    if !metrics.is_empty() {
        push_section(&mut out, SECTION_METRICS, metrics);
    }
    if !index.keyed.is_empty() {
        payload.clear();
        for keyed in &index.keyed {
            payload.extend_from_slice(&keyed.id.as_u128().to_le_bytes());
            payload.extend_from_slice(&keyed.fingerprint.key.to_le_bytes());
            payload.extend_from_slice(&keyed.fingerprint.content.to_le_bytes());
        }
        push_section(&mut out, SECTION_KEYED, &payload);
    }

    let footer_crc = crc32fast::hash(&out);
    let trailer_at = out.len();
    out.extend_from_slice(&TRAILER_MAGIC);
    out.extend_from_slice(&footer_start.to_le_bytes());
    out.extend_from_slice(&frames_end.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&content_crc.to_le_bytes());
    out.extend_from_slice(&footer_crc.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    let trailer_crc = crc32fast::hash(out.get(trailer_at..).unwrap_or_default());
    out.extend_from_slice(&trailer_crc.to_le_bytes());
    out
}

fn push_section(out: &mut Vec<u8>, kind: u32, payload: &[u8]) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(8), 0);
}

impl<'a> Footer<'a> {
    /// Finds and checks the footer at the end of `segment`, a whole file whose header has this
    /// `salt`. `None` when there is none or when it is damaged.
    pub fn read(segment: &'a [u8], salt: u64) -> Option<Self> {
        Self::read_end(segment, 0, salt)
    }

    /// As [`Self::read`], where only the `end` of the segment is there, from this position on.
    pub fn read_end(end: &'a [u8], position: u64, salt: u64) -> Option<Self> {
        let (front, trailer) = end.split_last_chunk::<TRAILER_LEN>()?;
        let trailer = Trailer::decode(trailer).ok()?;
        let footer_start = usize::try_from(trailer.footer_start.checked_sub(position)?).ok()?;
        let footer = front.get(footer_start..)?;
        let is_ours = trailer.salt == salt
            && trailer.frames_end <= trailer.footer_start
            && (crc32fast::hash(footer) == trailer.footer_crc || is_planted(Bug::IndexTrusted))
            && footer_head(footer, salt) == Some(trailer.frames_end);
        if !is_ours {
            return None;
        }
        let mut read = Self {
            frames_end: trailer.frames_end,
            footer_start: trailer.footer_start,
            summary: Summary::of(&SegmentIndex::default()),
            content_crc: trailer.content_crc,
            metrics: None,
            variants: Vec::new(),
            blocks: &[],
            keyed: &[],
        };
        let mut sections = footer.get(HEAD_LEN..)?;
        while !sections.is_empty() {
            sections = read.take_section(sections)?;
        }
        Some(read)
    }

    /// The variants' keys, how many entries each has, and their positions, rising.
    pub fn variants(&self) -> impl Iterator<Item = (&'a str, u64, impl Iterator<Item = u64> + 'a)> {
        self.variants
            .iter()
            .map(|(key, count, postings)| (*key, *count, positions(postings)))
    }

    /// The sparse index of ids.
    pub fn blocks(&self) -> Vec<Block> {
        self.blocks
            .chunks_exact(BLOCK_LEN)
            .filter_map(|block| {
                let (id, position) = block.split_first_chunk::<16>()?;
                Some(Block {
                    id: LogId::from_u128(u128::from_le_bytes(*id)),
                    position: u64::from_le_bytes(position.try_into().ok()?),
                })
            })
            .collect()
    }

    /// The entries with an idempotency key, in log order.
    pub fn keyed(&self) -> impl Iterator<Item = Keyed> + 'a {
        self.keyed.chunks_exact(KEYED_LEN).filter_map(|keyed| {
            let mut fields = Fields(keyed);
            let mut field = || Some(u128::from_le_bytes(fields.take().ok()?));
            Some(Keyed {
                id: LogId::from_u128(field()?),
                fingerprint: Fingerprint {
                    key: field()?,
                    content: field()?,
                },
            })
        })
    }

    fn take_section(&mut self, sections: &'a [u8]) -> Option<&'a [u8]> {
        let mut head = Fields(sections);
        let kind = head.u32().ok()?;
        let crc = head.u32().ok()?;
        let len = usize::try_from(head.u64().ok()?).ok()?;
        let end = SECTION_HEAD_LEN.checked_add(len)?;
        let payload = sections.get(SECTION_HEAD_LEN..end)?;
        if crc32fast::hash(payload) != crc && !is_planted(Bug::IndexTrusted) {
            return None;
        }
        match kind {
            SECTION_SUMMARY => self.summary = record::decode(payload).ok()?,
            SECTION_VARIANT => {
                let section: VariantSection<'a> = record::decode(payload).ok()?;
                self.variants
                    .push((section.key, section.count, section.postings));
            }
            SECTION_BLOCKS => self.blocks = payload,
            SECTION_METRICS => self.metrics = Some(payload),
            SECTION_KEYED => self.keyed = payload,
            _ => {}
        }
        sections.get(end.next_multiple_of(8)..)
    }
}

/// Where the frames end, when a whole footer head stands at the beginning of `bytes`.
pub fn footer_head(bytes: &[u8], salt: u64) -> Option<u64> {
    let head: &[u8; HEAD_LEN] = bytes.first_chunk()?;
    let mut fields = Fields(head);
    let magic = fields.take::<8>().ok()?;
    let frames_end = fields.u64().ok()?;
    let head_salt = fields.u64().ok()?;
    let crc = fields.u32().ok()?;
    let zeros = fields.u32().ok()?;
    let is_head = magic == HEAD_MAGIC
        && head_salt == salt
        && zeros == 0
        && crc == crc32fast::hash(head.get(..24)?);
    is_head.then_some(frames_end)
}

/// Where the frames end, when a whole trailer stands at the end of `segment`. The footer in front of
/// it may be damaged.
pub fn trailer_frames_end(segment: &[u8], salt: u64) -> Option<u64> {
    let trailer = Trailer::decode(segment.last_chunk()?).ok()?;
    (trailer.salt == salt).then_some(trailer.frames_end)
}

/// What a trailer says of the bytes in front of it.
#[derive(Debug, Clone, Copy)]
pub struct Checksums {
    /// Where the footer begins.
    pub footer_start: u64,
    /// CRC-32 of all in front of the footer.
    pub content_crc: u32,
    /// CRC-32 of the footer up to the trailer.
    pub footer_crc: u32,
}

/// What `trailer`, the last [`TRAILER_LEN`] bytes of a segment's file with this `salt`, says of those in
/// front of it. `None` if it is damaged, or no trailer.
pub fn checksums(trailer: &[u8], salt: u64) -> Option<Checksums> {
    let trailer = Trailer::decode(trailer.try_into().ok()?).ok()?;
    (trailer.salt == salt).then_some(Checksums {
        footer_start: trailer.footer_start,
        content_crc: trailer.content_crc,
        footer_crc: trailer.footer_crc,
    })
}

/// Where the footer begins, when a whole trailer stands at the end of `segment`.
pub fn trailer_footer_start(segment: &[u8], salt: u64) -> Option<u64> {
    let trailer = Trailer::decode(segment.last_chunk()?).ok()?;
    (trailer.salt == salt).then_some(trailer.footer_start)
}

struct Trailer {
    footer_start: u64,
    frames_end: u64,
    salt: u64,
    content_crc: u32,
    footer_crc: u32,
}

impl Trailer {
    fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Self, HeaderError> {
        let mut fields = Fields(bytes);
        let magic = fields.take::<8>()?;
        let trailer = Self {
            footer_start: fields.u64()?,
            frames_end: fields.u64()?,
            salt: fields.u64()?,
            content_crc: fields.u32()?,
            footer_crc: fields.u32()?,
        };
        let version = fields.u32()?;
        let crc = fields.u32()?;
        let covered = bytes.get(..TRAILER_LEN - 4).unwrap_or_default();
        if magic != TRAILER_MAGIC || version != VERSION || crc != crc32fast::hash(covered) {
            return Err(HeaderError::Unreadable);
        }
        Ok(trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{EntryRecord, Record, VariantRecord};

    fn index() -> SegmentIndex {
        let mut index = SegmentIndex::default();
        let variant = VariantRecord {
            number: 0,
            key: "A",
        };
        index.apply(512, LogId::MIN, &Record::Variant(variant));
        let entry = EntryRecord {
            received_at_ms: 9,
            variant: 0,
            idempotency: None,
            body: b"{}",
        };
        for n in 1..50u64 {
            // Every seventh has a key.
            let idempotency = n.is_multiple_of(7).then_some("k");
            let entry = EntryRecord {
                idempotency,
                ..entry
            };
            let id = LogId::from_u128(u128::from(n));
            index.apply(512 + n * 4096, id, &Record::Entry(entry));
        }
        index
    }

    fn sealed() -> Vec<u8> {
        let mut bytes = vec![7; 1024];
        let footer = encode(&index(), b"metrics", 5, 1000, 1024, crc32fast::hash(&bytes));
        bytes.extend_from_slice(&footer);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sealed();
        let footer = Footer::read(&bytes, 5).unwrap();
        let index = index();
        assert_eq!((footer.frames_end, footer.footer_start), (1000, 1024));
        assert_eq!(footer.summary, Summary::of(&index));
        assert_eq!(footer.blocks(), index.blocks);
        assert_eq!(footer.metrics, Some(&b"metrics"[..]));
        let keyed: Vec<Keyed> = footer.keyed().collect();
        assert_eq!((keyed.len(), &keyed), (7, &index.keyed));
        let variants: Vec<_> = footer
            .variants()
            .map(|(k, n, p)| (k, n, p.collect()))
            .collect();
        let expected: Vec<u64> = index.variants[0].postings.iter().collect();
        assert_eq!(variants, [("A", 49, expected)]);
        assert!(Footer::read(&bytes, 6).is_none());
    }

    #[test]
    fn every_flipped_bit_of_the_footer_is_found() {
        let good = sealed();
        for bit in 1024 * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::read(&bad, 5).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_section_of_a_later_version_is_passed_over() {
        let mut bytes = vec![7; 1024];
        let mut footer = encode(&index(), &[], 5, 1000, 1024, 0);
        let mut trailer = footer.split_off(footer.len() - TRAILER_LEN);
        push_section(&mut footer, 77, b"something new");
        trailer[36..40].copy_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        let crc = crc32fast::hash(&trailer[..44]);
        trailer[44..].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&footer);
        bytes.extend_from_slice(&trailer);
        assert_eq!(Footer::read(&bytes, 5).unwrap().summary.entry_count, 49);
    }
}
