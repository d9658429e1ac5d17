//! Where the ids and times of entries come from: given here, or elsewhere and placed here.

use super::ulid::IdGenerator;
use crate::model::LogId;

/// Says what each entry that is staged is called, and when it was received.
pub trait Numbers {
    /// Called before the first one, with the time. Says behind which id they go on, if that isn't the log's
    /// own last one.
    fn begin(&mut self, now_ms: u64) -> Option<LogId>;
    /// Of the next entry: its id, and its time in milliseconds since 1970.
    fn next(&mut self, ids: &mut IdGenerator) -> (LogId, u64);
}

/// Ids and times of this log's own clock.
#[derive(Default)]
pub struct Own {
    now_ms: u64,
}

/// Ids and times that were given elsewhere.
pub struct Given<'a> {
    /// The experiment's last id in front of them.
    pub after: LogId,
    /// One pair for each entry, in order.
    pub pairs: std::slice::Iter<'a, (LogId, u64)>,
}

impl Numbers for Own {
    fn begin(&mut self, now_ms: u64) -> Option<LogId> {
        self.now_ms = now_ms;
        None
    }

    fn next(&mut self, ids: &mut IdGenerator) -> (LogId, u64) {
        (ids.next(self.now_ms), self.now_ms)
    }
}

impl Numbers for Given<'_> {
    fn begin(&mut self, _now_ms: u64) -> Option<LogId> {
        Some(self.after)
    }

    fn next(&mut self, ids: &mut IdGenerator) -> (LogId, u64) {
        // Whoever stages gives a pair for each entry; one too few must not become an id twice.
        let missing = || (ids.next(0), 0);
        let (id, received_at_ms) = self.pairs.next().copied().unwrap_or_else(missing);
        ids.go_on_behind(id);
        (id, received_at_ms)
    }
}
