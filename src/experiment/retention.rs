//! Retention: dropping whole segments that are too old or too many, of all experiments of a store, those
//! that nobody uses, too.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use super::actor::Message;
use super::blocking::blocking;
use super::definition::{self, DefinitionFile};
use super::error::{ReadError, StoreError};
use super::folder;
use super::store::Store;
use crate::fs::Disk;
use crate::log::dropped::unlink;
use crate::log::expiry::{self, Limits};
use crate::log::reader::{SegmentError, list_log};
use crate::log::segment_file::Trouble;
use crate::log::view::LogView;
use crate::model::{DroppedCount, Slug};

/// A clock that runs ahead by more than this was set.
const JUMP_MS_MAX: u64 = 3_600_000;
/// For so long it isn't believed then.
const DISBELIEF: Duration = Duration::from_secs(86_400);

/// How much of its log an experiment keeps, once that is known.
#[derive(Debug, Default)]
pub struct KnownLimits(Mutex<Option<Option<Limits>>>);

impl KnownLimits {
    /// What is known.
    pub fn get(&self) -> Option<Option<Limits>> {
        *self.known()
    }

    /// Takes note of a definition that is in force.
    pub fn set(&self, limits: Option<Limits>) {
        *self.known() = Some(limits);
    }

    /// Takes note of a definition that was read, unless another has come into force since.
    pub fn get_or_set(&self, limits: Option<Limits>) -> Option<Limits> {
        *self.known().get_or_insert(limits)
    }

    fn known(&self) -> MutexGuard<'_, Option<Option<Limits>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of dropping what is due.
#[derive(Debug, Default)]
pub struct Retained {
    /// What was dropped.
    pub dropped: DroppedCount,
    /// Why what was dropped is still there in part: the next time it is tried again.
    pub not_unlinked: Option<SegmentError>,
}

/// Drops what `limits` don't keep of a log. First the mark of it is made durable, then readers see it no
/// more, and only then it is unlinked; so after a crash it is either there or dropped, and nothing brings
/// it back. What an earlier time has left is unlinked, too.
pub fn drop_due(
    disk: &dyn Disk,
    dir: &Path,
    view: &LogView,
    limits: &Limits,
    now_ms: u64,
) -> Result<Retained, Trouble> {
    let mut retained = Retained::default();
    let before = view
        .dropped()
        .map_or_else(DroppedCount::default, |d| d.count());
    let due = expiry::due(view, disk, limits, now_ms).map_err(unread)?;
    if let Some(due) = due {
        due.write(disk, dir)?;
        let count = due.count();
        retained.dropped = DroppedCount {
            segments: count.segments - before.segments,
            entries: count.entries - before.entries,
            bytes: count.bytes - before.bytes,
        };
        view.note_dropped(due);
    }
    let leftovers = list_log(disk, dir).map(|listing| listing.leftovers);
    let unlinked = leftovers.and_then(|leftovers| unlink(disk, leftovers));
    retained.not_unlinked = unlinked.err();
    Ok(retained)
}

/// What a failed read, before anything was changed, is told as.
fn unread(error: SegmentError) -> Trouble {
    Trouble::Write(match error {
        SegmentError::Io { error, .. } => error,
        other => io::Error::other(other.to_string()),
    })
}

/// Whether something in an experiment's folder may have to be dropped or unlinked, from the beginnings of
/// its segments alone.
fn may_be_due(
    disk: &dyn Disk,
    dir: &Path,
    limits: &Limits,
    now_ms: u64,
) -> Result<bool, SegmentError> {
    let listing = list_log(disk, dir)?;
    // A segment was written until the next one was begun.
    let second = listing.segments.get(1);
    let Some(second) = second else {
        return Ok(!listing.leftovers.is_empty());
    };
    let header = second.header.as_ref();
    let is_past = header.map_or(true, |header| limits.is_past(header.created_at_ms, now_ms));
    let bytes = listing.segments.iter().map(|segment| segment.len).sum();
    Ok(is_past || limits.is_over(bytes) || !listing.leftovers.is_empty())
}

/// Drops what is due, each time that so long has passed; never ends. Not at once: whoever starts a server on
/// an old backup can say first what is to be kept.
pub async fn keep_retaining(store: Arc<Store>, interval: Duration) {
    let begin = Instant::now();
    let mut watch = ClockWatch::new(store.now_ms());
    let first = tokio::time::Instant::now() + interval;
    let mut ticks = tokio::time::interval_at(first, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_ms = watch.trusted(store.now_ms(), begin.elapsed());
        store.retain(now_ms).await;
    }
}

/// A clock that is set far forward makes everything old at once, and what is dropped doesn't come back.
/// So for a day such a clock isn't believed: time goes on as it did before.
struct ClockWatch {
    /// What the clock said, and when since the beginning, as it was believed last.
    believed: (u64, Duration),
    /// Since when it has been ahead.
    ahead_since: Option<Duration>,
}

impl ClockWatch {
    fn new(wall_ms: u64) -> Self {
        Self {
            believed: (wall_ms, Duration::ZERO),
            ahead_since: None,
        }
    }

    /// The time to judge ages by, when the clock says `wall_ms` so long after the beginning.
    fn trusted(&mut self, wall_ms: u64, since_begin: Duration) -> u64 {
        let (believed_ms, at) = self.believed;
        let passed = since_begin.saturating_sub(at);
        let expected_ms = believed_ms.saturating_add(passed.as_millis() as u64);
        if wall_ms > expected_ms.saturating_add(JUMP_MS_MAX) {
            let since = *self.ahead_since.get_or_insert_with(|| {
                let ahead_s = (wall_ms - expected_ms) / 1000;
                error!(
                    "the clock was set forward by {ahead_s} s: for a day, or until a restart, \
                     retention doesn't believe it"
                );
                since_begin
            });
            if since_begin.saturating_sub(since) < DISBELIEF {
                return expected_ms;
            }
        }
        self.ahead_since = None;
        self.believed = (wall_ms, since_begin);
        wall_ms
    }
}

impl Store {
    /// Drops what no experiment's retention keeps any more at this time, in milliseconds since 1970, and
    /// says how much that was; to be called now and then. An experiment where it fails is tried again the
    /// next time.
    pub async fn retain(&self, now_ms: u64) -> DroppedCount {
        let mut sum = DroppedCount::default();
        for slug in self.slugs(None, usize::MAX) {
            match self.retain_one(&slug, now_ms).await {
                Ok(dropped) => {
                    sum.segments += dropped.segments;
                    sum.entries += dropped.entries;
                    sum.bytes += dropped.bytes;
                }
                // It was deleted meanwhile.
                Err(StoreError::UnknownExperiment) => {}
                Err(StoreError::Read(ReadError::ShuttingDown)) => return sum,
                Err(error) => {
                    warn!(experiment = %slug, %error, "nothing was dropped, and some may have to be");
                }
            }
        }
        sum
    }

    async fn retain_one(&self, slug: &Slug, now_ms: u64) -> Result<DroppedCount, StoreError> {
        let Some(limits) = self.limits(slug).await? else {
            return Ok(DroppedCount::default());
        };
        let disk = self.shared.host.disk.clone();
        let dir = folder::experiment_dir(self.dir(), slug);
        let may_be_due = blocking(move || {
            let may_be = may_be_due(&*disk, &dir, &limits, now_ms);
            Ok::<_, ReadError>(may_be?)
        });
        if !may_be_due.await? {
            return Ok(DroppedCount::default());
        }
        self.ask(slug, |reply| Message::Retain { now_ms, reply })
            .await?
    }

    /// What an experiment keeps, from its definition's file, which is read once.
    async fn limits(&self, slug: &Slug) -> Result<Option<Limits>, StoreError> {
        let known = self.registry.limits(slug);
        let known = known.ok_or(StoreError::UnknownExperiment)?;
        if let Some(limits) = known.get() {
            return Ok(limits);
        }
        let dir = folder::experiment_dir(self.dir(), slug);
        let disk = self.shared.host.disk.clone();
        let file = match blocking(move || DefinitionFile::read(&*disk, &dir)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::UnknownExperiment);
            }
            file => file.map_err(StoreError::Io)?,
        };
        Ok(known.get_or_set(definition::limits(&file.definition)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const BEGIN_MS: u64 = 1_764_000_000_000;

    #[test]
    fn a_clock_that_is_set_far_forward_is_not_believed_for_a_day() {
        let ms = |time: Duration| time.as_millis() as u64;
        let year = 365 * 24 * HOUR;
        let mut watch = ClockWatch::new(BEGIN_MS);
        assert_eq!(
            watch.trusted(BEGIN_MS + 60_000, HOUR / 60),
            BEGIN_MS + 60_000
        );
        // A step that a time service makes.
        let stepped = BEGIN_MS + ms(2 * HOUR);
        assert_eq!(watch.trusted(stepped, HOUR + HOUR / 60), stepped);
        for passed in [1, 2, 24] {
            let since_begin = HOUR / 60 + (1 + passed) * HOUR;
            let wall_ms = stepped + ms(year + passed * HOUR);
            let trusted = watch.trusted(wall_ms, since_begin);
            assert_eq!(trusted, stepped + ms(passed * HOUR), "{passed} hours");
        }
        let since_begin = HOUR / 60 + 26 * HOUR;
        let wall_ms = stepped + ms(year + 25 * HOUR);
        assert_eq!(watch.trusted(wall_ms, since_begin), wall_ms);
        // Set back, it makes nothing older.
        assert_eq!(watch.trusted(BEGIN_MS, since_begin), BEGIN_MS);
    }
}
