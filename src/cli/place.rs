//! What a command's paths are on: the machine's disk, or an archive.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::fs::{Disk, real};

/// The disk that all of these paths are on.
#[cfg(feature = "archive")]
pub fn disk(paths: &[PathBuf]) -> Result<Arc<dyn Disk>> {
    use crate::archive::disk::{ArchiveDisk, is_address};
    let own = real::host().disk;
    match paths.iter().any(|path| is_address(path)) {
        true => Ok(Arc::new(ArchiveDisk::open(paths, own)?)),
        false => Ok(own),
    }
}

/// The disk that all of these paths are on.
#[cfg(not(feature = "archive"))]
pub fn disk(paths: &[PathBuf]) -> Result<Arc<dyn Disk>> {
    let is_address = |path: &&PathBuf| path.to_str().is_some_and(|path| path.contains("://"));
    if let Some(path) = paths.iter().find(is_address) {
        anyhow::bail!(
            "{}: this trialog can't read archives: build one with --features archive",
            path.display()
        );
    }
    Ok(real::host().disk)
}

/// As [`disk`], of one path.
pub fn disk_of(path: &Path) -> Result<Arc<dyn Disk>> {
    disk(&[path.to_path_buf()])
}
