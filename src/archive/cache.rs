//! Parts of archived segments that were read lately, up to a number of bytes: who was asked for longest ago
//! goes first.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// A part of a segment: the segment's salt, and the part's number.
pub type Part = (u64, u64);

/// The parts that are kept.
pub struct Cache {
    bytes_max: usize,
    bytes: usize,
    /// With when each was asked for last.
    parts: HashMap<Part, (Bytes, u64)>,
    /// By when they were asked for.
    order: BTreeMap<u64, Part>,
    clock: u64,
}

impl Cache {
    /// An empty one for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            parts: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
        }
    }

    /// The part, if it is kept.
    pub fn get(&mut self, part: Part) -> Option<Bytes> {
        self.clock += 1;
        let (bytes, used_at) = self.parts.get_mut(&part)?;
        self.order.remove(used_at);
        *used_at = self.clock;
        self.order.insert(self.clock, part);
        Some(bytes.clone())
    }

    /// Keeps a part, and lets others go for it.
    pub fn put(&mut self, part: Part, bytes: Bytes) {
        self.remove(part);
        if bytes.len() > self.bytes_max {
            return;
        }
        self.clock += 1;
        self.bytes += bytes.len();
        self.parts.insert(part, (bytes, self.clock));
        self.order.insert(self.clock, part);
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, part: Part) {
        if let Some((bytes, used_at)) = self.parts.remove(&part) {
            self.bytes -= bytes.len();
            self.order.remove(&used_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_goes_and_the_bytes_are_bounded() {
        let part = |len: usize| Bytes::from(vec![0; len]);
        let mut cache = Cache::new(100);
        cache.put((1, 0), part(40));
        cache.put((1, 1), part(40));
        assert!(cache.get((1, 0)).is_some());
        cache.put((2, 0), part(40));
        assert!(cache.get((1, 1)).is_none());
        assert!(cache.get((1, 0)).is_some() && cache.get((2, 0)).is_some());
        // Again, with another length; and one that is too long for all.
        cache.put((2, 0), part(60));
        cache.put((3, 0), part(101));
        assert_eq!(
            (cache.bytes, cache.parts.len(), cache.order.len()),
            (100, 2, 2)
        );
    }
}
