//! Which idempotency keys an experiment has met lately, and which entry each was given for.
//!
//! In memory, so that a new key costs no read. The log is the truth: an actor loads this from it
//! (from footers, mostly) when it first meets a key, and forgets it when it leaves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::budget::{Budget, BytePermit};
use crate::fs::Disk;
use crate::log::index::Keyed;
use crate::log::reader::SegmentError;
use crate::log::view::LogView;
use crate::model::{Idempotency, LogId, NewEntry};

/// What remembering one key costs at most.
const ROW_BYTES: usize = 176;
/// So many keys each experiment remembers, also where the memory for all of them is used up.
const ROWS_MIN: usize = 256;

/// How long a key is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// So long after its entry was appended,
    pub age: Duration,
    /// and while it is among so many of the last ones.
    pub entries_max: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(24 * 3600),
            entries_max: 1_000_000,
        }
    }
}

/// The keys within the window.
pub struct Repeats {
    window: Window,
    rows: HashMap<u128, Row>,
    /// All that was noted, oldest first.
    order: VecDeque<(u128, LogId)>,
    /// Keys of entries that are about to be staged.
    gathered: HashSet<u128>,
    /// The share of the memory for all experiments: `ROW_BYTES` for each of `order` beyond the first
    /// `ROWS_MIN`.
    permit: BytePermit,
}

struct Row {
    id: LogId,
    content: u128,
}

/// An entry that was appended before: its position in the request, and its id.
pub type Known = (usize, LogId);

/// The entry at this position has a key that was given for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict(pub usize);

impl Repeats {
    /// What the log holds. Reads files.
    pub fn load(
        view: &LogView,
        disk: &dyn Disk,
        window: Window,
        memory: &Budget,
        now_ms: u64,
    ) -> Result<Self, SegmentError> {
        let mut repeats = Self {
            window,
            rows: HashMap::new(),
            order: VecDeque::new(),
            gathered: HashSet::new(),
            permit: memory.none(),
        };
        for keyed in view.keyed(disk, repeats.since_ms(now_ms), window.entries_max)? {
            repeats.insert(keyed);
        }
        Ok(repeats)
    }

    /// Which of a request's entries were appended before. The key of a batch counts only as long as
    /// all its entries are remembered.
    pub fn look_up(&mut self, entries: &[NewEntry], now_ms: u64) -> Result<Vec<Known>, Conflict> {
        self.forget_older_than(self.since_ms(now_ms));
        let mut known = Vec::new();
        let mut is_batch = false;
        for (position, key) in keys_of(entries) {
            is_batch |= key.is_of_batch();
            let Some(row) = self.rows.get(&key.fingerprint.key) else {
                continue;
            };
            if row.content != key.fingerprint.content {
                return Err(Conflict(position));
            }
            known.push((position, row.id));
        }
        if is_batch && known.len() < entries.len() {
            known.clear();
        }
        Ok(known)
    }

    /// Takes note that these entries will be staged: they have no ids yet.
    pub fn gather(&mut self, entries: &[NewEntry]) {
        let keys = keys_of(entries).map(|(_, key)| key.fingerprint.key);
        self.gathered.extend(keys);
    }

    /// Whether one of these may be among those that were gathered.
    pub fn has_gathered(&self, entries: &[NewEntry]) -> bool {
        keys_of(entries).any(|(_, key)| self.gathered.contains(&key.fingerprint.key))
    }

    /// Takes note of the ids that entries got. Nothing is gathered then.
    pub fn note(&mut self, appended: Vec<Keyed>) {
        self.gathered.clear();
        for keyed in appended {
            self.insert(keyed);
        }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn since_ms(&self, now_ms: u64) -> u64 {
        let age_ms = u64::try_from(self.window.age.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_sub(age_ms)
    }

    /// Where the memory for all experiments is used up, a new key takes the place of our oldest one.
    fn insert(&mut self, keyed: Keyed) {
        if self.order.len() >= self.window.entries_max {
            self.forget_oldest();
        }
        while self.order.len() >= ROWS_MIN && self.permit.try_grow(ROW_BYTES).is_err() {
            self.forget_oldest();
        }
        let Keyed { id, fingerprint } = keyed;
        let content = fingerprint.content;
        self.rows.insert(fingerprint.key, Row { id, content });
        self.order.push_back((fingerprint.key, id));
    }

    /// Ids rise, so what is oldest comes first. (After a clock was set back they run ahead of it, and
    /// keys are remembered for longer.)
    fn forget_older_than(&mut self, since_ms: u64) {
        let is_old = |(_, id): &(u128, LogId)| id.timestamp_ms() < since_ms;
        while self.order.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, id)) = self.order.pop_front() else {
            return;
        };
        if self.order.len() >= ROWS_MIN {
            self.permit.shrink(ROW_BYTES);
        }
        // A batch that was remembered in part was appended again, with other ids.
        if self.rows.get(&key).is_some_and(|row| row.id == id) {
            self.rows.remove(&key);
        }
    }
}

/// The keys of entries, with the entries' positions.
fn keys_of(entries: &[NewEntry]) -> impl Iterator<Item = (usize, &Idempotency)> {
    let keys = entries.iter().map(|entry| entry.idempotency.as_deref());
    let keys = keys.enumerate();
    keys.filter_map(|(position, key)| Some((position, key?)))
}

/// What is to be noted of entries that got these ids.
pub fn keyed(entries: &[NewEntry], ids: &[LogId]) -> Vec<Keyed> {
    keys_of(entries)
        .filter_map(|(position, key)| {
            Some(Keyed {
                id: *ids.get(position)?,
                fingerprint: key.fingerprint,
            })
        })
        .collect()
}
