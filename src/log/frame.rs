//! Frames: a record with its length, its place in the segment and two checksums.
//!
//! Pure functions on bytes, shared by the writer, recovery, replay, verify and the fuzzers: a
//! frame that decodes was written whole, by this segment, at this place in its order.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 2 | magic, `tl` |
//! | 2 | 1 | kind: 1 variant, 2 entry |
//! | 3 | 1 | codec of the payload: 0, plain bincode |
//! | 4 | 4 | length of the payload |
//! | 8 | 4 | ordinal: this frame's place in its segment, from 0 |
//! | 12 | 16 | the entry's id (zero for a variant) |
//! | 28 | 4 | CRC-32 of the segment's salt and bytes 0–27 |
//! | 32 | 4 | CRC-32 of the payload, continued from the header's |
//! | 36 | | the payload, then zeros up to a multiple of 8 |
//!
//! Integers are little-endian. The header has a CRC of its own so that the length can be trusted
//! before it is used, and a damaged payload costs exactly one entry, which can be named.

use super::planted::{Bug, is_planted};
use crate::model::LogId;

/// Bytes of a frame in front of its payload.
pub const FRAME_HEADER_LEN: usize = 36;
/// Frames begin at multiples of this.
pub const FRAME_ALIGN: usize = 8;

const MAGIC: [u8; 2] = *b"tl";
const HEADER_CRC_AT: usize = 28;
const CODEC_PLAIN: u8 = 0;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A [`VariantRecord`](super::record::VariantRecord).
    Variant,
    /// An [`EntryRecord`](super::record::EntryRecord).
    Entry,
}

/// A segment's salt, made ready to seed checksums. Bytes of another segment, or of a client who
/// hides a frame in a payload, don't fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u32);

/// What stands in front of a payload, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// Its place in the segment, from 0.
    pub ordinal: u32,
    /// The entry's id; [`LogId::MIN`] for a variant.
    pub id: LogId,
    payload_len: usize,
    crc: u32,
    payload_crc: u32,
}

/// A frame that decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What stood in front of the payload.
    pub header: FrameHeader,
    /// The record's bytes.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame of this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// No header is here: nothing in it can be trusted, the length neither.
    Header,
    /// The header is good and says that the frame goes on behind the end of the bytes.
    Length(FrameHeader),
    /// The header is good, the payload isn't.
    Payload(FrameHeader),
    /// Header and payload are good, a byte behind them that must be zero isn't.
    Padding(FrameHeader),
}

impl Seed {
    /// The seed of a segment with this salt.
    pub fn new(salt: u64) -> Self {
        Self(crc32fast::hash(&salt.to_le_bytes()))
    }

    /// The checksum of what stands in front of a header's checksums.
    fn crc(self, covered: &[u8; HEADER_CRC_AT]) -> u32 {
        let mut covered = *covered;
        let [_, _, _, _, l0, l1, l2, l3, o0, o1, o2, o3, ..] = &mut covered;
        if is_planted(Bug::CrcWithoutLength) {
            [*l0, *l1, *l2, *l3] = [0; 4];
        }
        if is_planted(Bug::CrcWithoutOrdinal) {
            [*o0, *o1, *o2, *o3] = [0; 4];
        }
        continued(self.0, &covered)
    }
}

impl FrameHeader {
    /// Reads the header at the beginning of `bytes`.
    pub fn decode(bytes: &[u8], seed: Seed) -> Option<Self> {
        let header: &[u8; FRAME_HEADER_LEN] = bytes.first_chunk()?;
        let [
            m0,
            m1,
            kind,
            codec,
            l0,
            l1,
            l2,
            l3,
            o0,
            o1,
            o2,
            o3,
            rest @ ..,
        ] = header;
        if [*m0, *m1] != MAGIC {
            return None;
        }
        let (id, crcs) = rest.split_first_chunk::<16>()?;
        let (crc, payload_crc) = crcs.split_first_chunk::<4>()?;
        let crc = u32::from_le_bytes(*crc);
        if crc != seed.crc(header.first_chunk()?) {
            return None;
        }
        let kind = match kind {
            1 => FrameKind::Variant,
            2 => FrameKind::Entry,
            _ => return None,
        };
        if *codec != CODEC_PLAIN {
            return None;
        }
        Some(Self {
            kind,
            ordinal: u32::from_le_bytes([*o0, *o1, *o2, *o3]),
            id: LogId::from_u128(u128::from_le_bytes(*id)),
            payload_len: u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize,
            crc,
            payload_crc: u32::from_le_bytes(payload_crc.try_into().ok()?),
        })
    }

    /// Bytes of the whole frame, padding included.
    pub fn frame_len(&self) -> usize {
        padded_len(self.payload_len)
    }
}

impl<'a> Frame<'a> {
    /// Reads the frame at the beginning of `bytes`.
    pub fn decode(bytes: &'a [u8], seed: Seed) -> Result<Self, FrameError> {
        let frame = Self::decode_unpadded(bytes, seed)?;
        let padding = bytes.get(FRAME_HEADER_LEN + frame.payload.len()..frame.frame_len());
        if padding.is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
            return Err(FrameError::Padding(frame.header));
        }
        Ok(frame)
    }

    /// Reads the frame at the beginning of `bytes`, whatever stands in its padding.
    pub fn decode_unpadded(bytes: &'a [u8], seed: Seed) -> Result<Self, FrameError> {
        let header = FrameHeader::decode(bytes, seed).ok_or(FrameError::Header)?;
        let payload = bytes
            .get(FRAME_HEADER_LEN..header.frame_len())
            .and_then(|rest| rest.get(..header.payload_len))
            .ok_or(FrameError::Length(header))?;
        if continued(header.crc, payload) != header.payload_crc {
            return Err(FrameError::Payload(header));
        }
        Ok(Self { header, payload })
    }

    /// Bytes of the whole frame, padding included.
    pub fn frame_len(&self) -> usize {
        self.header.frame_len()
    }
}

/// Appends a frame to `out`; `payload` appends the record's bytes.
pub fn encode(
    out: &mut Vec<u8>,
    seed: Seed,
    kind: FrameKind,
    ordinal: u32,
    id: LogId,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let begin = out.len();
    out.resize(begin + FRAME_HEADER_LEN, 0);
    payload(out);
    let Some((header, payload)) = out
        .get_mut(begin..)
        .and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER_LEN>())
    else {
        return;
    };
    let kind = match kind {
        FrameKind::Variant => 1,
        FrameKind::Entry => 2,
    };
    let [m0, m1] = MAGIC;
    let [l0, l1, l2, l3] = (payload.len() as u32).to_le_bytes();
    let [o0, o1, o2, o3] = ordinal.to_le_bytes();
    let Some((covered, crcs)) = header.split_first_chunk_mut::<HEADER_CRC_AT>() else {
        return;
    };
    let (fixed, id_bytes) = covered.split_at_mut(12);
    fixed.copy_from_slice(&[m0, m1, kind, CODEC_PLAIN, l0, l1, l2, l3, o0, o1, o2, o3]);
    id_bytes.copy_from_slice(&id.as_u128().to_le_bytes());
    let crc = seed.crc(covered);
    let (header_crc, payload_crc) = crcs.split_at_mut(4);
    header_crc.copy_from_slice(&crc.to_le_bytes());
    payload_crc.copy_from_slice(&continued(crc, payload).to_le_bytes());
    let frame_len = padded_len(payload.len());
    out.resize(begin + frame_len, 0);
}

fn padded_len(payload_len: usize) -> usize {
    (FRAME_HEADER_LEN + payload_len).next_multiple_of(FRAME_ALIGN)
}

fn continued(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed(7);

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let id = LogId::from_u128(99);
        encode(&mut out, SEED, FrameKind::Entry, 5, id, |out| {
            out.extend_from_slice(payload);
        });
        out
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = frame(b"thirteen byte");
        assert_eq!(good.len() % FRAME_ALIGN, 0);
        assert!(Frame::decode(&good, SEED).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(&bad, SEED).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_salt_and_zeros_are_no_frames() {
        let good = frame(b"x");
        assert_eq!(Frame::decode(&good, Seed(8)), Err(FrameError::Header));
        assert_eq!(Frame::decode(&[0; 64], SEED), Err(FrameError::Header));
        assert_eq!(Frame::decode(&[], SEED), Err(FrameError::Header));
    }

    #[test]
    fn a_damaged_payload_still_names_its_entry() {
        let mut bytes = frame(b"payload");
        bytes[FRAME_HEADER_LEN] ^= 1;
        match Frame::decode(&bytes, SEED) {
            Err(FrameError::Payload(header)) => assert_eq!(header.id, LogId::from_u128(99)),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 0..300), tail in any::<[u8; 9]>()) {
            let mut bytes = frame(&payload);
            let len = bytes.len();
            bytes.extend_from_slice(&tail);
            let decoded = Frame::decode(&bytes, SEED).unwrap();
            prop_assert_eq!(decoded.payload, &payload[..]);
            prop_assert_eq!(decoded.frame_len(), len);
            prop_assert_eq!(decoded.header.ordinal, 5);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes, SEED);
        }
    }
}
