//! Which local copies of archived segments go, when there are too many bytes of them.

use std::collections::HashSet;
use std::path::PathBuf;

use tracing::{info, warn};

use super::error::ArchiveError;
use super::mark::Seen;
use super::store::Archive;
use crate::experiment::Store;
use crate::experiment::archived::Archived;
use crate::fs::Access;
use crate::log::outline::Outline;
use object_store::path::Path;

/// So many go in one pass: uploads wait meanwhile.
pub const GO_MAX: usize = 64;

/// A sealed segment's file.
#[derive(Debug, Clone)]
pub struct LocalCopy {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub len: u64,
    /// When it was begun.
    pub created_at_ms: u64,
    /// What was seen whole of it in the archive, and where, unless nothing was, or it has to stay: the newest
    /// sealed segment of a log does, which a start may have to read.
    pub archived: Option<(Path, Seen)>,
}

/// Lets the oldest ones go, while all of them have more than `bytes_max`, and adds them to `gone`: [`GO_MAX`] at
/// most.
pub async fn let_go(
    archive: &Archive,
    store: &Store,
    archived: &Archived,
    copies: &[LocalCopy],
    bytes_max: u64,
    gone: &mut HashSet<PathBuf>,
) -> Result<(), ArchiveError> {
    let mut bytes: u64 = copies.iter().map(|copy| copy.len).sum();
    let mut oldest_first: Vec<_> = copies
        .iter()
        .filter_map(|copy| Some((copy, copy.archived.as_ref()?)))
        .collect();
    oldest_first.sort_by_key(|(copy, _)| copy.created_at_ms);
    for (copy, (object, seen)) in oldest_first {
        if bytes <= bytes_max || gone.len() >= GO_MAX {
            break;
        }
        // Now, and not as it was listed some time ago.
        let there = archive.head(object).await?;
        if there.is_none_or(|there| there.len != seen.bytes || there.tag != seen.tag) {
            let place = archive.place(object);
            warn!(object = %place, "it isn't as it was uploaded: the local copy stays");
            continue;
        }
        let failed = |error| ArchiveError::Disk {
            path: copy.path.display().to_string(),
            error,
        };
        let opened = store.disk().open(&copy.path, Access::Read);
        let outline = match opened.and_then(|file| Outline::of(&*file)) {
            Ok(Some(outline)) if format!("{:08x}", outline.crc) == seen.crc => outline,
            Ok(_) => {
                let path = copy.path.display().to_string();
                return Err(ArchiveError::LocalDamage { path });
            }
            // It was dropped, or deleted with its experiment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if store.let_go(&outline).await.map_err(failed)? {
            gone.insert(copy.path.clone());
            bytes -= copy.len;
            archived.metrics.let_go.add(1);
        }
    }
    if !gone.is_empty() {
        let segments = gone.len();
        info!(
            segments,
            local_bytes = bytes,
            "local copies of archived segments were let go"
        );
    }
    Ok(())
}
