//! One wrong bit of a batch, found by its checksums and set right.
//!
//! A CRC-32 doesn't only tell that a bit is wrong, it tells which: no two bits of less than 512 MiB
//! change it in the same way. But what is wrong with a batch that the power cut tore is more than a
//! bit, and by chance (1 in 2³² for each bit that there is) its CRC may look like that of one. So the
//! groups' checks, sums of another kind, must be good as well when that bit is set right.

use super::format::{BATCH_HEADER_LEN, Batch, BatchHeader, CHECK_AT, GroupRecord, LapHeader, sum};

/// The polynomial of CRC-32, reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A batch that is whole but for one bit, with that set right.
pub struct Corrected {
    /// The batch.
    pub batch: Batch<'static>,
    /// The byte that the bit is in.
    pub wrong_byte: usize,
}

/// The batch at the beginning of `bytes`, when all that is wrong with it is one bit.
pub fn correct(bytes: &[u8], lap: &LapHeader) -> Option<Corrected> {
    let mut header: [u8; BATCH_HEADER_LEN] = *bytes.first_chunk()?;
    let in_header = wrong_bit_of_header(&header, lap);
    if let Some(bit) = in_header {
        flip(&mut header, bit)?;
    }
    let header = BatchHeader::decode(&header, lap)?;
    let end = BATCH_HEADER_LEN.checked_add(header.payload_len)?;
    let len = end.checked_next_multiple_of(lap.sector_bytes as usize)?;
    let mut batch = bytes.get(..len)?.to_vec();
    let bit = match in_header {
        Some(bit) => bit,
        None => {
            let payload = batch.get(BATCH_HEADER_LEN..end)?;
            let syndrome = crc32fast::hash(payload) ^ header.payload_crc;
            BATCH_HEADER_LEN * 8 + wrong_bit(payload.len(), syndrome)?
        }
    };
    flip(&mut batch, bit)?;
    let corrected = Batch::decode(&batch, lap)?;
    let groups = batch.get(BATCH_HEADER_LEN..end)?;
    are_checked(groups, lap).then(|| Corrected {
        batch: corrected.into_owned(),
        wrong_byte: bit / 8,
    })
}

/// Whether each group of a payload has a check, and a good one. Those that format 1 wrote at first
/// have none.
fn are_checked(mut groups: &[u8], lap: &LapHeader) -> bool {
    while let Some((_, rest)) = GroupRecord::decode(groups) {
        let group = groups.get(..groups.len() - rest.len());
        let group = group.unwrap_or_default();
        if group.get(CHECK_AT..CHECK_AT + 2) == Some(&[0, 0]) || sum(group, lap) != 0 {
            return false;
        }
        groups = rest;
    }
    groups.is_empty()
}

fn wrong_bit_of_header(header: &[u8; BATCH_HEADER_LEN], lap: &LapHeader) -> Option<usize> {
    let (covered, crc) = header.split_last_chunk::<4>()?;
    let syndrome = lap.batch_crc(covered) ^ u32::from_le_bytes(*crc);
    wrong_bit(covered.len(), syndrome)
}

/// Which bit of so many bytes with their CRC behind them is wrong, when one is and the CRC differs
/// by `syndrome` from that of the bytes.
fn wrong_bit(covered_len: usize, syndrome: u32) -> Option<usize> {
    // What the last bit of all does to the CRC, then the one before it, and so on.
    let mut of_bit = 1 << 31;
    (0..(covered_len + 4) * 8).rev().find(|_| {
        let is_wrong = of_bit == syndrome;
        of_bit = (of_bit >> 1) ^ (POLYNOMIAL * (of_bit & 1));
        is_wrong
    })
}

fn flip(bytes: &mut [u8], bit: usize) -> Option<()> {
    *bytes.get_mut(bit / 8)? ^= 1 << (bit % 8);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::format::{RecordMark, begin_batch, finish_batch, push_group};
    use super::*;
    use crate::log::segment_file::SegmentId;
    use crate::model::Slug;

    const LAP: LapHeader = LapHeader {
        store_id: 1,
        lap: 2,
        salt: 0xfedc_ba98_7654_3210,
        sector_bytes: 512,
    };

    /// A batch of two groups, whose bytes `change` changes before they are checksummed.
    fn batch_with(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let segment = SegmentId {
            slug: Slug::parse("demo").unwrap(),
            incarnation: 4,
            first_sequence: 5,
            salt: 6,
        };
        let mut out = Vec::new();
        begin_batch(&mut out);
        let data: Vec<u8> = (0..900).map(|n| (n * n / 7) as u8).collect();
        push_group(&mut out, &LAP, &segment, 512, &[&data], RecordMark::None);
        push_group(&mut out, &LAP, &segment, 1412, &[b"end"], RecordMark::End);
        change(&mut out[BATCH_HEADER_LEN..]);
        finish_batch(&mut out, &LAP, 9, 8, 2);
        out
    }

    fn batch() -> Vec<u8> {
        batch_with(|_| {})
    }

    fn payload_end(batch: &[u8]) -> usize {
        BATCH_HEADER_LEN + BatchHeader::decode(batch, &LAP).unwrap().payload_len
    }

    #[test]
    fn each_bit_that_is_wrong_alone_is_set_right() {
        let good = batch();
        assert!(correct(&good, &LAP).is_none(), "there is nothing to do");
        let groups = Batch::decode(&good, &LAP).unwrap().groups;
        for bit in 0..payload_end(&good) * 8 {
            let mut bad = good.clone();
            flip(&mut bad, bit).unwrap();
            bad.extend_from_slice(&[9; 100]);
            let Corrected { batch, wrong_byte } = correct(&bad, &LAP).unwrap();
            assert_eq!(
                (batch.number, batch.synced_through, batch.len),
                (9, 8, good.len())
            );
            assert_eq!(
                (batch.groups, wrong_byte),
                (groups.clone(), bit / 8),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn more_than_a_bit_and_another_lap_are_not_set_right() {
        let good = batch();
        assert!(correct(&good, &LapHeader { salt: 4, ..LAP }).is_none());
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..20_000 {
            let mut bad = good.clone();
            match round % 4 {
                0 => {
                    let bits = payload_end(&good) * 8;
                    let first = rng.usize(..bits);
                    let second = (first + 1 + rng.usize(..20)) % bits;
                    flip(&mut bad, first).unwrap();
                    flip(&mut bad, second).unwrap();
                }
                1 => {
                    let cut = rng.usize(..1000);
                    bad[cut..].fill(0);
                }
                which => {
                    let sector = rng.usize(..good.len() / 512) * 512;
                    let sector = &mut bad[sector..sector + 512];
                    match which {
                        2 => sector.fill(0),
                        _ => rng.fill(sector),
                    }
                }
            }
            assert!(correct(&bad, &LAP).is_none(), "round {round}");
        }
    }

    #[test]
    fn a_length_that_no_file_has_is_refused() {
        for len in [u64::MAX, u64::MAX - 40, u64::MAX - 41, 1 << 40] {
            let mut bytes = batch();
            bytes[24..32].copy_from_slice(&len.to_le_bytes());
            let crc = LAP.batch_crc(&bytes[..36]);
            bytes[36..40].copy_from_slice(&crc.to_le_bytes());
            assert!(correct(&bytes, &LAP).is_none(), "{len}");
        }
    }

    /// What a torn batch comes to when its CRC looks by chance like that of a wrong bit.
    #[test]
    fn a_bit_is_not_set_right_when_a_groups_check_is_wrong_then() {
        let torn = batch_with(|groups| groups[472..900].fill(0));
        assert!(Batch::decode(&torn, &LAP).is_some(), "its CRC fits");
        for bit in 0..torn.len() * 8 {
            let mut bad = torn.clone();
            flip(&mut bad, bit).unwrap();
            assert!(correct(&bad, &LAP).is_none(), "bit {bit}");
        }
    }

    /// As format 1 had them at first, with zeros in place of the check.
    #[test]
    fn groups_without_a_check_are_read_and_never_set_right() {
        let old = batch_with(|groups| groups[2..4].fill(0));
        assert!(Batch::decode(&old, &LAP).is_some());
        let mut bad = old.clone();
        flip(&mut bad, 5000).unwrap();
        assert!(correct(&bad, &LAP).is_none());
    }
}
