//! Writing what is whole of a damaged segment to a new file. The damaged one keeps its bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{OfflineError, Source};
use crate::experiment::figures;
use crate::fs::{Disk, Host, parent, write_all_at};
use crate::log::footer;
use crate::log::frame::{self, Seed};
use crate::log::index::SegmentIndex;
use crate::log::reader::Segment;
use crate::log::scan::Found;
use crate::log::segment::SegmentHeader;

/// One segment that was written anew.
#[derive(Debug)]
pub struct Repaired {
    /// The segment.
    pub path: PathBuf,
    /// Where the damaged bytes are now.
    pub kept: PathBuf,
    /// Whole entries.
    pub entry_count: u64,
}

/// Writes the segments `damaged` of `path` anew, each sealed. Their frames get new checksums only
/// after their old ones were found right. The caller sees to it that nobody else writes there.
pub fn repair(
    host: &Host,
    path: &Path,
    damaged: &[PathBuf],
) -> Result<Vec<Repaired>, OfflineError> {
    let source = Source::open(host.disk.clone(), path)?;
    let plan = source.plan();
    let mut repaired = Vec::new();
    for segment in source.segments(&plan)? {
        if !damaged.contains(&segment.path) {
            continue;
        }
        // One whose beginning can't be read stays as it is: its frames can't be checked.
        let Ok(open) = source.open_segment(&segment, &plan) else {
            continue;
        };
        let salt = host.entropy.next_u64().map_err(io_error(&segment.path))?;
        let (bytes, entry_count) = rewritten(&open, salt);
        let kept = replace(&host.disk, &segment.path, &bytes).map_err(io_error(&segment.path))?;
        repaired.push(Repaired {
            path: segment.path,
            kept,
            entry_count,
        });
    }
    Ok(repaired)
}

fn rewritten(segment: &Segment, salt: u64) -> (Vec<u8>, u64) {
    let header = SegmentHeader {
        salt,
        ..segment.header.clone()
    };
    let mut bytes = header.encode();
    let seed = Seed::new(salt);
    let mut index = SegmentIndex::default();
    for found in segment.scan() {
        let Found::Record { frame, record, .. } = found else {
            continue;
        };
        let position = bytes.len() as u64;
        let ordinal = index.frame_count;
        frame::encode(
            &mut bytes,
            seed,
            frame.header.kind,
            ordinal,
            frame.header.id,
            |out| {
                out.extend_from_slice(frame.payload);
            },
        );
        index.apply(position, frame.header.id, &record);
    }
    let end = bytes.len() as u64;
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&footer::encode(
        &index,
        &figures::section(segment),
        salt,
        end,
        end,
        crc,
    ));
    (bytes, index.entry_count)
}

fn replace(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = path.with_extension("repaired.tmp");
    match disk.remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&new)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    let kept = free_name(disk, path);
    disk.rename(path, &kept)?;
    disk.rename(&new, path)?;
    disk.sync_dir(&parent(path))?;
    Ok(kept)
}

fn free_name(disk: &Arc<dyn Disk>, path: &Path) -> PathBuf {
    let name = |n: u32| path.with_extension(format!("segment.damaged-{n}"));
    let is_free = |path: &PathBuf| disk.open(path, crate::fs::Access::Read).is_err();
    (1..u32::MAX)
        .map(name)
        .find(is_free)
        .unwrap_or_else(|| name(0))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OfflineError + '_ {
    move |error| OfflineError::Io {
        path: path.to_path_buf(),
        error,
    }
}
