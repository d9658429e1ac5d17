//! How an actor drops what its experiment's retention doesn't keep.

use tracing::{info, warn};

use super::Actor;
use crate::experiment::blocking::blocking;
use crate::experiment::definition;
use crate::experiment::error::{ReadError, StoreError};
use crate::experiment::retention::drop_due;
use crate::journal::JournalHealth;
#[cfg(feature = "archive")]
use crate::log::expiry::{self, Limits};
use crate::log::segment_file::Trouble;
use crate::model::DroppedCount;

impl Actor {
    /// Drops what is due, and says how much that was. It may be asked for by nobody who waits for it.
    pub(super) async fn retain(&mut self, now_ms: u64) -> Result<DroppedCount, StoreError> {
        let limits = definition::limits(&self.file.definition).unwrap_or_default();
        #[cfg(feature = "archive")]
        let limits = self.limits_with_archive(limits, now_ms).await?;
        if self.shared.journal.health() == JournalHealth::Failed {
            return Err(StoreError::StorageFailed);
        }
        let (view, journal) = (self.view().clone(), self.shared.journal.clone());
        let (disk, dir) = (self.shared.host.disk.clone(), self.options.dir.clone());
        let retained = blocking(move || {
            // What is behind that which is dropped must be as durable as the mark.
            let flushed = journal.flush();
            flushed.map_err(|_| ReadError::Io(std::io::Error::other("the journal has failed")))?;
            Ok::<_, ReadError>(drop_due(&*disk, &dir, &view, &limits, now_ms))
        })
        .await?;
        let retained = match retained {
            Ok(retained) => retained,
            Err(Trouble::Write(error)) => return Err(StoreError::of(error)),
            Err(Trouble::Sync(error)) => {
                let journal = &self.shared.journal;
                journal.poison("marking what is dropped", &error);
                return Err(StoreError::Io(error));
            }
        };
        let slug = &self.options.slug;
        if let Some(error) = retained.not_unlinked {
            warn!(experiment = %slug, %error, "what was dropped is still there");
        }
        let DroppedCount {
            segments,
            entries,
            bytes,
        } = retained.dropped;
        if segments > 0 {
            // Some may have been met, or known, in what isn't there now.
            self.met_variants = None;
            self.repeats = None;
            info!(experiment = %slug, segments, entries, bytes, "retention dropped segments");
        }
        Ok(retained.dropped)
    }

    /// The same limits, but that what isn't in the archive stays. If that holds something back, the log says
    /// so.
    #[cfg(feature = "archive")]
    async fn limits_with_archive(&self, limits: Limits, now_ms: u64) -> Result<Limits, StoreError> {
        let Some(archived) = &self.shared.archived else {
            return Ok(limits);
        };
        let slug = &self.options.slug;
        let number_end = archived.number_end(slug, self.options.incarnation.number);
        let (view, disk) = (self.view().clone(), self.shared.host.disk.clone());
        let due =
            blocking(move || Ok::<_, ReadError>(expiry::due(&view, &*disk, &limits, now_ms)?));
        if let Some(due) = due.await?
            && due.through_number >= number_end
        {
            let through = due.through_number;
            info!(
                experiment = %slug, from_number = number_end, through_number = through,
                "segments are due to be dropped, and stay until they were seen whole in the archive"
            );
        }
        Ok(Limits {
            number_end: Some(number_end),
            ..limits
        })
    }
}
