//! What a store has to do and has done, for who watches over it.

use std::sync::Arc;

use super::store::Store;
use crate::journal::metrics::JournalMetrics;
use crate::metrics::experiments::Counters;
use crate::model::Slug;

/// The figures of one moment.
pub struct State {
    /// How many experiments there are.
    pub experiment_count: usize,
    /// How many of them are in use.
    pub actor_count: usize,
    /// Requests that wait in mailboxes.
    pub waiting_count: usize,
    /// Bytes of requests in flight.
    pub inflight_bytes: usize,
    /// Bytes that idempotency keys take.
    pub repeats_bytes: usize,
    /// Bytes that figures of metrics take between two questions, about.
    pub figures_bytes: usize,
    /// Free on the disk; `None` when it doesn't say.
    pub free_bytes: Option<u64>,
    /// Segments sealed since the start.
    pub sealed_count: u64,
    /// What the journal counts.
    pub journal: Arc<JournalMetrics>,
    /// What became durable since the start: of some experiments alone, and of all others.
    pub durable: (Vec<(Slug, Arc<Counters>)>, Counters),
}

impl Store {
    /// The figures as they are now; experiments that aren't shown are among the others. Blocks for
    /// as long as it takes to ask the disk and to pass over all experiments.
    pub fn state(&self, is_shown: impl Fn(&Slug) -> bool) -> State {
        let (actor_count, waiting_count) = self.registry.load();
        let disk = &self.shared.host.disk;
        State {
            experiment_count: self.registry.len(),
            actor_count,
            waiting_count,
            inflight_bytes: self.budget.used(),
            repeats_bytes: self.shared.repeats_memory.used(),
            figures_bytes: self.shared.figures_memory.used(),
            free_bytes: disk.free_bytes(self.dir()).ok(),
            sealed_count: self.shared.sealer.sealed_count(),
            journal: self.journal_metrics.clone(),
            durable: self.shared.counters.read(is_shown),
        }
    }
}
