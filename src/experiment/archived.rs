//! How far each log is in an archive, for retention: what is nowhere else isn't dropped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::archive::ArchiveMetrics;
use crate::model::Slug;

/// What was seen in the archive so long ago is looked for again before a local copy goes.
const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// What is known of an archive. Who uploads writes it, retention reads it.
#[derive(Debug, Default)]
pub struct Archived {
    logs: Mutex<HashMap<Slug, Log>>,
    /// What was done.
    pub metrics: ArchiveMetrics,
}

#[derive(Debug, Default)]
struct Log {
    incarnation: u64,
    /// All local segments with lower numbers were seen whole in the archive.
    number_end: u64,
    seen_at: Option<Instant>,
    is_asked_for: bool,
}

impl Archived {
    /// Takes note that all local segments with a number below `number_end` are in the archive, which has
    /// just been looked at.
    pub fn note(&self, slug: &Slug, incarnation: u64, number_end: u64) {
        let mut logs = self.logs();
        let log = logs.entry(slug.clone()).or_default();
        *log = Log {
            incarnation,
            number_end,
            seen_at: Some(Instant::now()),
            is_asked_for: false,
        };
    }

    /// Segments with a lower number may be dropped. When the archive wasn't looked at lately that is none:
    /// it will be then, for the next time.
    pub fn number_end(&self, slug: &Slug, incarnation: u64) -> u64 {
        let mut logs = self.logs();
        let log = logs.entry(slug.clone()).or_default();
        let is_fresh = log.seen_at.is_some_and(|at| at.elapsed() < BELIEVED_FOR);
        if is_fresh && log.incarnation == incarnation {
            return log.number_end;
        }
        log.is_asked_for = true;
        0
    }

    /// Whether this log was seen in the archive, and not deleted since.
    pub fn is_known(&self, slug: &Slug) -> bool {
        self.logs()
            .get(slug)
            .is_some_and(|log| log.seen_at.is_some())
    }

    /// Whether somebody waits for a look at the archive for this log.
    pub fn is_asked_for(&self, slug: &Slug) -> bool {
        self.logs().get(slug).is_some_and(|log| log.is_asked_for)
    }

    /// Whether somebody waits for a look at the archive for any log.
    pub fn is_any_asked_for(&self) -> bool {
        self.logs().values().any(|log| log.is_asked_for)
    }

    /// Forgets a log that isn't there any more.
    pub fn forget(&self, slug: &Slug) {
        self.logs().remove(slug);
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<Slug, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_go_before_the_archive_was_looked_at() {
        let archived = Archived::default();
        let slug = Slug::parse("demo").unwrap();
        assert_eq!(archived.number_end(&slug, 1), 0);
        assert!(archived.is_asked_for(&slug) && archived.is_any_asked_for());
        archived.note(&slug, 1, 5);
        assert!(!archived.is_asked_for(&slug) && !archived.is_any_asked_for());
        assert_eq!(archived.number_end(&slug, 1), 5);
        // Deleted and made again.
        assert_eq!(archived.number_end(&slug, 2), 0);
        assert!(archived.is_asked_for(&slug));
        archived.forget(&slug);
        assert!(!archived.is_any_asked_for());
    }
}
