//! The index of a segment: the fold of its frames. One [`SegmentIndex::apply`] serves the live
//! path, recovery, sealing and replay.

use std::ops::Range;

use super::record::Record;
use crate::model::{Fingerprint, LogId};

/// One place in the sparse index of ids stands for this many bytes of segment.
pub const BLOCK_BYTES: u64 = 64 * 1024;

/// What is in a segment, by id and by variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// All frames.
    pub frame_count: u32,
    /// Those that are entries.
    pub entry_count: u64,
    /// The first entry's id.
    pub first_id: Option<LogId>,
    /// The last entry's id.
    pub last_id: Option<LogId>,
    /// The earliest time of receipt, in milliseconds since 1970.
    pub received_at_ms_min: u64,
    /// The latest time of receipt.
    pub received_at_ms_max: u64,
    /// The last entry's time of receipt.
    pub received_at_ms_last: u64,
    /// The variants in the order of their first use.
    pub variants: Vec<VariantIndex>,
    /// The first entry of each block.
    pub blocks: Vec<Block>,
    /// The entries with an idempotency key.
    pub keyed: Vec<Keyed>,
    /// Variant number → place in `variants`.
    numbers: Vec<Option<u16>>,
}

/// One variant's entries in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VariantIndex {
    /// Its key.
    pub key: Box<str>,
    /// Where its entries are.
    pub postings: Postings,
}

/// An entry with an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyed {
    /// The entry.
    pub id: LogId,
    /// What is remembered of its key and its body.
    pub fingerprint: Fingerprint,
}

/// Where a block of the segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The id of the block's first entry.
    pub id: LogId,
    /// The position of its frame.
    pub position: u64,
}

/// Rising positions of frames, each kept as its distance from the one before it: in units of 8
/// bytes, 7 bits to a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Postings {
    /// How many there are.
    pub count: u64,
    last: u64,
    bytes: Vec<u8>,
}

/// What an index says of all entries up to some place, to go back to it.
#[derive(Debug, Clone, Copy)]
pub struct IndexMark {
    frame_count: u32,
    entry_count: u64,
    first_id: Option<LogId>,
    last_id: Option<LogId>,
    received_at_ms_min: u64,
    received_at_ms_max: u64,
    received_at_ms_last: u64,
    variant_count: usize,
    number_count: usize,
}

impl SegmentIndex {
    /// Takes in the record of the frame at `position`. Positions rise.
    pub fn apply(&mut self, position: u64, id: LogId, record: &Record<'_>) {
        let fingerprint = match record {
            Record::Entry(entry) => entry
                .idempotency
                .map(|text| Fingerprint::of(text, entry.body)),
            Record::Variant(_) => None,
        };
        self.apply_hashed(position, id, record, fingerprint);
    }

    /// As [`Self::apply`], where the fingerprint is known: the writer's thread hashes no bodies.
    pub fn apply_hashed(
        &mut self,
        position: u64,
        id: LogId,
        record: &Record<'_>,
        fingerprint: Option<Fingerprint>,
    ) {
        self.frame_count = self.frame_count.saturating_add(1);
        match record {
            Record::Variant(variant) => {
                let place = self.place_of(variant.key);
                self.bind(variant.number, place);
            }
            Record::Entry(entry) => {
                let place = self.place_of_number(entry.variant, entry.body);
                if let Some(variant) = self.variants.get_mut(usize::from(place)) {
                    variant.postings.push(position);
                }
                self.note_entry(position, id, entry.received_at_ms);
                if let Some(fingerprint) = fingerprint {
                    self.keyed.push(Keyed { id, fingerprint });
                }
            }
        }
    }

    /// The key of the variant with this number, unless the frame that gave it is damaged.
    pub fn key_of(&self, number: u16) -> Option<&str> {
        let place = (*self.numbers.get(usize::from(number))?)?;
        Some(&self.variants.get(usize::from(place))?.key)
    }

    /// The number of the variant with this key.
    pub fn number_of(&self, key: &str) -> Option<u16> {
        let place = self
            .variants
            .iter()
            .position(|variant| &*variant.key == key)?;
        let number = self
            .numbers
            .iter()
            .position(|bound| *bound == Some(place as u16))?;
        Some(number as u16)
    }

    /// The number that the next new variant gets.
    pub fn next_number(&self) -> u16 {
        self.numbers.len() as u16
    }

    /// The bytes in which the entry `id` must stand if it is in this segment, which ends at
    /// `end`.
    pub fn block_of(&self, id: LogId, end: u64) -> Option<Range<u64>> {
        block_of(&self.blocks, id, end)
    }

    /// What the index says now.
    pub fn mark(&self) -> IndexMark {
        IndexMark {
            frame_count: self.frame_count,
            entry_count: self.entry_count,
            first_id: self.first_id,
            last_id: self.last_id,
            received_at_ms_min: self.received_at_ms_min,
            received_at_ms_max: self.received_at_ms_max,
            received_at_ms_last: self.received_at_ms_last,
            variant_count: self.variants.len(),
            number_count: self.numbers.len(),
        }
    }

    /// Forgets the frames from `position` on, where `mark` was taken.
    pub fn rewind(&mut self, mark: &IndexMark, position: u64) {
        self.frame_count = mark.frame_count;
        self.entry_count = mark.entry_count;
        self.first_id = mark.first_id;
        self.last_id = mark.last_id;
        self.received_at_ms_min = mark.received_at_ms_min;
        self.received_at_ms_max = mark.received_at_ms_max;
        self.received_at_ms_last = mark.received_at_ms_last;
        self.blocks.retain(|block| block.position < position);
        self.variants.truncate(mark.variant_count);
        self.numbers.truncate(mark.number_count);
        self.keyed
            .retain(|keyed| mark.last_id.is_some_and(|last| keyed.id <= last));
        for variant in &mut self.variants {
            variant.postings.forget_from(position);
        }
    }

    fn note_entry(&mut self, position: u64, id: LogId, received_at_ms: u64) {
        if self.entry_count == 0 {
            self.first_id = Some(id);
            self.received_at_ms_min = received_at_ms;
        }
        self.entry_count += 1;
        self.last_id = Some(id);
        self.received_at_ms_min = self.received_at_ms_min.min(received_at_ms);
        self.received_at_ms_max = self.received_at_ms_max.max(received_at_ms);
        self.received_at_ms_last = received_at_ms;
        let is_new_block = self
            .blocks
            .last()
            .is_none_or(|block| block.position / BLOCK_BYTES != position / BLOCK_BYTES);
        if is_new_block {
            self.blocks.push(Block { id, position });
        }
    }

    fn place_of_number(&mut self, number: u16, body: &[u8]) -> u16 {
        match self.numbers.get(usize::from(number)) {
            Some(Some(place)) => *place,
            // The frame that gave the number is damaged. The entry names its variant itself.
            _ => {
                let key = variant_key_of(body);
                let place = self.place_of(&key);
                self.bind(number, place);
                place
            }
        }
    }

    fn bind(&mut self, number: u16, place: u16) {
        let slot = usize::from(number);
        if self.numbers.len() <= slot {
            self.numbers.resize(slot + 1, None);
        }
        if let Some(bound) = self.numbers.get_mut(slot) {
            *bound = Some(place);
        }
    }

    fn place_of(&mut self, key: &str) -> u16 {
        let known = self
            .variants
            .iter()
            .position(|variant| &*variant.key == key);
        let place = known.unwrap_or_else(|| {
            self.variants.push(VariantIndex {
                key: key.into(),
                postings: Postings::default(),
            });
            self.variants.len() - 1
        });
        place as u16
    }
}

/// As [`SegmentIndex::block_of`], over the blocks of any index.
pub fn block_of(blocks: &[Block], id: LogId, end: u64) -> Option<Range<u64>> {
    let behind = blocks.partition_point(|block| block.id <= id);
    let begin = blocks.get(behind.checked_sub(1)?)?.position;
    let end = blocks.get(behind).map_or(end, |block| block.position);
    Some(begin..end)
}

/// What an entry's own JSON names as its variant.
pub fn variant_key_of(body: &[u8]) -> Box<str> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(rename = "variantKey")]
        variant_key: Box<str>,
    }
    serde_json::from_slice::<Named>(body).map_or_else(|_| "".into(), |named| named.variant_key)
}

impl Postings {
    /// Adds a position greater than all before it.
    pub fn push(&mut self, position: u64) {
        let mut distance = position.saturating_sub(self.last) / 8;
        while distance >= 0x80 {
            self.bytes.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        self.bytes.push(distance as u8);
        self.last = position;
        self.count += 1;
    }

    fn forget_from(&mut self, position: u64) {
        let mut kept = Self::default();
        for before in self.iter().take_while(|before| *before < position) {
            kept.push(before);
        }
        *self = kept;
    }

    /// The last position, 0 when there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The positions, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        positions(&self.bytes)
    }

    /// How a footer keeps them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The positions that [`Postings::as_bytes`] gave.
pub fn positions(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut bytes = bytes.iter();
    let mut position = 0u64;
    std::iter::from_fn(move || {
        let mut distance = 0u64;
        let mut shift = 0;
        loop {
            let byte = *bytes.next()?;
            distance |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        position = position.wrapping_add(distance.wrapping_mul(8));
        Some(position)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{EntryRecord, VariantRecord};
    use crate::log::ulid::IdGenerator;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn postings_give_back_what_was_pushed(steps in proptest::collection::vec(1u64..1 << 40, 0..100)) {
            let mut postings = Postings::default();
            let mut position = 0;
            let mut expected = Vec::new();
            for step in steps {
                position += step * 8;
                postings.push(position);
                expected.push(position);
            }
            prop_assert_eq!(postings.iter().collect::<Vec<_>>(), expected);
        }

        #[test]
        fn no_postings_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = positions(&bytes).count();
        }
    }

    #[test]
    fn it_goes_back_to_what_it_was() {
        let mut index = SegmentIndex::default();
        for (number, key) in ["A", "B"].into_iter().enumerate() {
            let number = number as u16;
            let variant = VariantRecord { number, key };
            index.apply(
                512 + 64 * u64::from(number),
                LogId::MIN,
                &Record::Variant(variant),
            );
        }
        let entries = |index: &mut SegmentIndex, ids: &mut IdGenerator, range: Range<u64>| {
            for n in range {
                let entry = EntryRecord {
                    received_at_ms: 10_000 - n,
                    variant: (n % 3 == 0).into(),
                    idempotency: None,
                    body: b"{}",
                };
                index.apply(1024 + 1000 * n, ids.next(n), &Record::Entry(entry));
            }
        };
        for count in [0, 1, 100, 500] {
            let (mut index, mut ids) = (index.clone(), IdGenerator::new(LogId::MIN, 7));
            entries(&mut index, &mut ids, 0..count);
            let (mark, expected) = (index.mark(), index.clone());
            let variant = VariantRecord {
                number: 2,
                key: "C",
            };
            let position = 1024 + 1000 * count;
            index.apply(position, LogId::MIN, &Record::Variant(variant));
            entries(&mut index, &mut ids, count..count + 300);
            index.rewind(&mark, 1024 + 1000 * count);
            assert_eq!(index, expected, "{count} entries");
        }
    }

    #[test]
    fn an_entry_is_found_in_its_block_only() {
        let mut index = SegmentIndex::default();
        let variant = VariantRecord {
            number: 0,
            key: "A",
        };
        index.apply(512, LogId::MIN, &Record::Variant(variant));
        let body = br#"{"variantKey":"A"}"#;
        for n in 1..1000u64 {
            let entry = EntryRecord {
                received_at_ms: n,
                variant: 0,
                idempotency: None,
                body,
            };
            index.apply(
                512 + n * 1024,
                LogId::from_u128(u128::from(n) * 2),
                &Record::Entry(entry),
            );
        }
        assert_eq!(index.entry_count, 999);
        let end = 512 + 1000 * 1024;
        for n in 1..1000u64 {
            let block = index
                .block_of(LogId::from_u128(u128::from(n) * 2), end)
                .unwrap();
            assert!(block.contains(&(512 + n * 1024)));
            assert!(block.end - block.start <= BLOCK_BYTES + 1024);
        }
        assert_eq!(index.block_of(LogId::from_u128(1), end), None);
    }

    #[test]
    fn a_lost_variant_frame_costs_no_entry() {
        let mut index = SegmentIndex::default();
        let body = br#"{"variantKey":"B"}"#;
        let entry = EntryRecord {
            received_at_ms: 1,
            variant: 4,
            idempotency: None,
            body,
        };
        index.apply(512, LogId::from_u128(1), &Record::Entry(entry));
        assert_eq!(index.key_of(4), Some("B"));
        assert_eq!(&*index.variants[0].key, "B");
    }
}
