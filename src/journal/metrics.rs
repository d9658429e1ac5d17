//! What a journal counts of its work.

use crate::metrics::{Counter, Histogram};

/// Entries of one batch.
const ENTRIES: [u64; 10] = [1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16_384];
/// Microseconds of one sync.
const SYNC_US: [u64; 10] = [
    100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 250_000, 1_000_000,
];

/// The figures.
#[derive(Debug)]
pub struct JournalMetrics {
    /// How many entries became durable by each batch.
    pub batch_entries: Histogram,
    /// How long each sync of a batch took.
    pub sync_us: Histogram,
    /// Bytes written to the journal.
    pub written_bytes: Counter,
    /// Checkpoints: laps whose segments are all durable.
    pub checkpoints: Counter,
}

impl Default for JournalMetrics {
    fn default() -> Self {
        Self {
            batch_entries: Histogram::new(&ENTRIES),
            sync_us: Histogram::new(&SYNC_US),
            written_bytes: Counter::default(),
            checkpoints: Counter::default(),
        }
    }
}
