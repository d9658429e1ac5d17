//! Where a node is on a shard; and which shard an experiment is on.

use std::fmt;

use crate::model::Slug;

/// What tells a message from all others: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MessageId(pub u128);

/// A place on a shard: a message, by its sequence in the stream and its id. Both, so that a stream which lost
/// messages and gave their sequences to others is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The message's sequence in the stream; 0 in front of the first one.
    pub sequence: u64,
    /// Its id.
    pub id: MessageId,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The shard of an experiment, of so many. Every node says the same, in every version.
pub fn shard_of(slug: &Slug, shard_count: u16) -> u16 {
    let hash = crc32fast::hash(slug.as_str().as_bytes());
    // Below `shard_count`.
    (hash % u32::from(shard_count.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_pinned() {
        let shard = |text| shard_of(&Slug::parse(text).unwrap(), 64);
        // CRC-32 of the slugs, modulo 64.
        assert_eq!(shard("123456789"), (0xcbf4_3926_u32 % 64) as u16);
        assert_eq!(shard("a"), (0xe8b7_be43_u32 % 64) as u16);
    }

    #[test]
    fn experiments_spread_over_all_shards() {
        let mut counts = [0; 64];
        for n in 0..6400 {
            let slug = Slug::parse(&format!("experiment-{n}")).unwrap();
            counts[usize::from(shard_of(&slug, 64))] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)));
    }
}
