//! A store that a command writes: a folder with another name, and no store, until it is whole and synced.

use std::io;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use tracing::debug;

use crate::experiment::folder::{FORMAT_FILE, LOCK_FILE, NOTES_DIR, experiments_dir};
use crate::fs::{
    Access, Disk, File, Host, LockGuard, naming, parent, read_exact_at, replace_file, write_all_at,
};
use crate::journal::local::{LocalOptions, Parts, Resume, journal_dir};
use crate::model::Durability;

/// The hashes of a store's keys.
pub const KEYS_FILE: &str = "keys.json";
/// What a store that isn't whole has behind its name.
const UNFINISHED: &str = ".unfinished";
/// One request where it is read from an archive.
const COPY_BYTES: usize = 8 << 20;
/// Its journal is empty.
const JOURNAL_BYTES: u64 = 1 << 20;

/// Why a store can't be written there.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It would replace something.
    #[error("{0} is there already: name a folder that isn't")]
    Exists(PathBuf),
    /// Another one is being written.
    #[error("another command is writing to {0}")]
    Busy(PathBuf),
    /// Something else is in the way.
    #[error("{0} is in the way, and nothing that was broken off: remove it")]
    InTheWay(PathBuf),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A store that is being written, by one command.
pub struct Target {
    /// What it is on.
    pub host: Host,
    /// Where it is until it is whole.
    pub dir: PathBuf,
    _lock: Box<dyn LockGuard>,
}

impl Target {
    /// A folder beside `to`, which isn't there yet. What was broken off there is removed.
    pub fn begin(host: &Host, to: &Path) -> Result<Self, TargetError> {
        let disk = &*host.disk;
        if disk.list(to).is_ok() || disk.open(to, Access::Read).is_ok() {
            return Err(TargetError::Exists(to.to_path_buf()));
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(UNFINISHED);
        let dir = to.with_file_name(name);
        let is_there = match disk.create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            made => {
                made.map_err(naming(&dir))?;
                false
            }
        };
        if is_there && !is_broken_off(disk, &dir)? {
            return Err(TargetError::InTheWay(dir));
        }
        let lock_path = dir.join(LOCK_FILE);
        let lock = match disk.lock(&lock_path) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(TargetError::Busy(dir)),
            Err(error) => {
                remove_if_possible(disk, &dir);
                return Err(naming(&lock_path)(error).into());
            }
        };
        let target = Self {
            host: host.clone(),
            dir,
            _lock: lock,
        };
        let experiments = experiments_dir(&target.dir);
        let cleared = target.clear();
        let made = cleared.and_then(|()| disk.create_dir(&experiments));
        match made.map_err(naming(&experiments)) {
            Ok(()) => Ok(target),
            Err(error) => {
                target.clear_away();
                Err(error.into())
            }
        }
    }

    /// Removes all but the lock.
    fn clear(&self) -> io::Result<()> {
        let disk = &*self.host.disk;
        for entry in disk.list(&self.dir)? {
            if entry.name != LOCK_FILE {
                remove(disk, &self.dir.join(&entry.name), entry.is_dir)?;
            }
        }
        Ok(())
    }

    /// The disk may have no room for half a copy. What can't be removed is no store: the next one does.
    pub fn clear_away(&self) {
        if self.clear().is_ok() {
            remove_if_possible(&*self.host.disk, &self.dir);
        }
    }

    /// Makes the rest of a store, which is one once it has its `FORMAT`; then gives it its name.
    pub fn finish(&self, to: &Path, store_id: u64, format: &[u8]) -> io::Result<()> {
        let (host, disk) = (&self.host, &*self.host.disk);
        let options = LocalOptions {
            store_dir: self.dir.clone(),
            store_id,
            durability: Durability::Sync,
            lap_bytes_max: JOURNAL_BYTES,
            free_bytes_min: 0,
        };
        drop(Parts::open(host, &options, Resume::default())?);
        for dir in [experiments_dir(&self.dir), journal_dir(&self.dir)] {
            disk.sync_dir(&dir).map_err(naming(&dir))?;
        }
        replace_file(disk, &self.dir.join(FORMAT_FILE), format)?;
        disk.rename(&self.dir, to).map_err(naming(to))?;
        let above = parent(to);
        disk.sync_dir(&above).map_err(naming(&above))?;
        Ok(())
    }

    /// Writes the first `len` bytes of a file to `to`, and syncs them; gives their CRC-32.
    pub fn copy_file(&self, file: &dyn File, to: &Path, len: u64) -> io::Result<u32> {
        let copy = self.host.disk.create(to).map_err(naming(to))?;
        let mut buffer = vec![0; len.min(COPY_BYTES as u64) as usize];
        let (mut position, mut crc) = (0, Hasher::new());
        while position < len {
            let count = (len - position).min(COPY_BYTES as u64) as usize;
            let piece = buffer.get_mut(..count).unwrap_or_default();
            read_exact_at(file, piece, position)?;
            crc.update(piece);
            write_all_at(&*copy, piece, position).map_err(naming(to))?;
            position += count as u64;
        }
        copy.sync_data().map_err(naming(to))?;
        Ok(crc.finalize())
    }

    /// Writes a small file, and syncs it.
    pub fn write(&self, to: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.host.disk.create(to).map_err(naming(to))?;
        write_all_at(&*file, bytes, 0).map_err(naming(to))?;
        file.sync_data().map_err(naming(to))
    }

    /// Where the experiment goes whose folder is `dir`.
    pub fn experiment_of(&self, dir: &Path) -> PathBuf {
        experiments_dir(&self.dir).join(dir.file_name().unwrap_or_default())
    }
}

/// Whether a folder holds what a copy does that was broken off, and nothing else.
fn is_broken_off(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    let ours = [
        LOCK_FILE,
        KEYS_FILE,
        FORMAT_FILE,
        "FORMAT.tmp",
        "journal",
        "experiments",
        NOTES_DIR,
    ];
    let listed = disk.list(dir).map_err(naming(dir))?;
    Ok(listed
        .iter()
        .all(|entry| ours.contains(&entry.name.as_str())))
}

/// Removes a file, or a folder with all that is in it.
pub(super) fn remove(disk: &dyn Disk, path: &Path, is_dir: bool) -> io::Result<()> {
    if !is_dir {
        return disk.remove_file(path).map_err(naming(path));
    }
    for entry in disk.list(path).map_err(naming(path))? {
        remove(disk, &path.join(&entry.name), entry.is_dir)?;
    }
    disk.remove_dir(path).map_err(naming(path))
}

fn remove_if_possible(disk: &dyn Disk, dir: &Path) {
    if let Err(error) = remove(disk, dir, true) {
        debug!(%error, "what isn't whole stays, and is no store");
    }
}

/// A folder in a store's for a copy that goes on to somewhere else. It goes with this.
#[cfg(feature = "archive")]
pub struct Passing {
    host: Host,
    dir: PathBuf,
    _lock: Box<dyn LockGuard>,
}

#[cfg(feature = "archive")]
impl Passing {
    /// In the folder `store`. What a command that was killed has left there is removed.
    pub fn begin(host: &Host, store: &Path) -> Result<Self, TargetError> {
        let dir = store.join("copying");
        let lock = store.join("copying.lock");
        let lock = host.disk.lock(&lock).map_err(naming(&lock))?;
        let lock = lock.ok_or_else(|| TargetError::Busy(dir.clone()))?;
        if host.disk.list(&dir).is_ok() {
            remove(&*host.disk, &dir, true)?;
        }
        Ok(Self {
            host: host.clone(),
            dir,
            _lock: lock,
        })
    }

    /// Where the copy is to be.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(feature = "archive")]
impl Drop for Passing {
    fn drop(&mut self) {
        remove_if_possible(&*self.host.disk, &self.dir);
    }
}
