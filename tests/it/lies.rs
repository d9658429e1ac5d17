//! Bugs that tests plant, to see that they are caught: a disk that lies between the store and the
//! simulated machine, and an opening of logs that errs. Nothing of this is in the product.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use trialog::fs::sim::SimMachine;
use trialog::fs::{
    Access, Dir, DirEntry, Disk, Entropy, File, FileSystem, Host, LockGuard, Mapping,
};
use trialog::journal::format::BATCHES_AT;
use trialog::log::dropped::DROPPED_FILE;

/// What all random numbers are, for those who have no salts.
pub const EQUAL_SALT: u64 = 7;

/// A bug. Each is one that others had, or that a change may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A batch is acknowledged before its sync, which comes with the next write.
    AckBeforeSync,
    /// Only every second batch is synced.
    SyncEverySecondBatch,
    /// The folders of experiments are never synced.
    NoFolderSync,
    /// A lap is used again without a sync of the segments that it speaks of.
    NoSegmentSync,
    /// A sync that failed is tried again, and believed.
    SyncRetried,
    /// All laps have the same salt.
    NoJournalSalt,
    /// All segments have the same salt.
    NoSegmentSalt,
    /// Readers see what is staged.
    ReadBeyondDurable,
    /// Where a large group was cut, the log goes on in the same file.
    WriteInPlaceAfterCut,
    /// What recovery writes into segments isn't synced.
    RecoverWithoutSync,
    /// Recovery reads the journal without syncing it first.
    RecoverWithoutJournalSync,
    /// Segments are opened with `O_APPEND`: positions mean nothing.
    Append,
    /// A log that is opened gives ids by the clock alone.
    IdsNotSeeded,
    /// A read error is taken for the end of the file.
    ReadErrorIsEnd,
    /// Recovery writes a damaged frame again, with a fresh checksum.
    FreshChecksum,
    /// A log that is opened knows no idempotency keys.
    KeysForgotten,
    /// What is dropped is unlinked before the mark of it is written.
    UnlinkedBeforeMark,
}

/// The machine as a store with this bug uses it, once it has recovered.
pub fn host(machine: &SimMachine, lie: Option<Lie>) -> Host {
    lying(machine, lie, false)
}

/// The machine as recovery with this bug uses it.
pub fn recovering_host(machine: &SimMachine, lie: Option<Lie>) -> Host {
    lying(machine, lie, true)
}

/// `host`, or one whose random numbers are all the same.
pub fn with_salts(host: &Host, are_equal: bool) -> Host {
    struct Same;
    impl Entropy for Same {
        fn next_u64(&self) -> io::Result<u64> {
            Ok(EQUAL_SALT)
        }
    }
    let mut host = host.clone();
    if are_equal {
        host.entropy = Arc::new(Same);
    }
    host
}

fn lying(machine: &SimMachine, lie: Option<Lie>, is_recovering: bool) -> Host {
    let mut host = machine.host();
    if let Some(lie) = lie {
        host.disk = Arc::new(LyingDisk {
            disk: host.disk,
            way: Way {
                lie,
                is_recovering,
                state: Arc::default(),
            },
        });
    }
    host
}

/// How a disk lies.
#[derive(Clone)]
struct Way {
    lie: Lie,
    is_recovering: bool,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// A file whose sync is still to come.
    deferred: Mutex<Option<Arc<dyn File>>>,
    batch_syncs: AtomicU64,
    /// A mark that is still to come, from where to where.
    late_mark: Mutex<Option<(PathBuf, PathBuf)>>,
}

impl Way {
    fn is(&self, lie: Lie) -> bool {
        self.lie == lie
    }

    fn skips_in_recovery(&self) -> bool {
        self.is(Lie::RecoverWithoutSync) && self.is_recovering
    }

    fn skips_segment_sync(&self) -> bool {
        self.is(Lie::NoSegmentSync) && !self.is_recovering
    }
}

struct LyingDisk {
    disk: Arc<dyn Disk>,
    way: Way,
}

impl LyingDisk {
    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        Arc::new(LyingFile {
            file,
            is_journal: ending == Some("journal"),
            is_segment: ending == Some("segment"),
            way: self.way.clone(),
            written_at: AtomicU64::new(0),
        })
    }
}

impl Disk for LyingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.disk.create(path)?))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.disk.open(path, access)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.way.is(Lie::UnlinkedBeforeMark) && to.ends_with(DROPPED_FILE) {
            let late = (from.to_path_buf(), to.to_path_buf());
            *self.way.state.late_mark.lock().unwrap() = Some(late);
            return Ok(());
        }
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let late = self.way.state.late_mark.lock().unwrap().take();
        self.disk.remove_file(path)?;
        match late {
            Some((from, to)) => self.disk.rename(&from, &to),
            None => Ok(()),
        }
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let is_of_experiment = path
            .parent()
            .is_some_and(|above| above.ends_with("experiments"));
        let is_skipped = self.way.is(Lie::NoFolderSync) || self.way.skips_in_recovery();
        if is_of_experiment && is_skipped {
            return Ok(());
        }
        self.disk.sync_dir(path)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.disk.open_dir(path)
    }
    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(LyingFileSystem {
            filesystem: self.disk.open_filesystem(path)?,
            way: self.way.clone(),
        }))
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.disk.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_locked(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
    fn sector_bytes(&self, path: &Path) -> io::Result<usize> {
        self.disk.sector_bytes(path)
    }
}

struct LyingFileSystem {
    filesystem: Arc<dyn FileSystem>,
    way: Way,
}

impl FileSystem for LyingFileSystem {
    fn sync(&self) -> io::Result<()> {
        if self.way.skips_segment_sync() || self.way.skips_in_recovery() {
            return Ok(());
        }
        let synced = self.filesystem.sync();
        match synced {
            Err(_) if self.way.is(Lie::SyncRetried) => self.filesystem.sync(),
            synced => synced,
        }
    }
}

struct LyingFile {
    file: Arc<dyn File>,
    is_journal: bool,
    is_segment: bool,
    way: Way,
    /// Where the last write began.
    written_at: AtomicU64,
}

impl LyingFile {
    /// Whether the sync that is asked for is one of a batch.
    fn is_batch_sync(&self) -> bool {
        let is_batch = self.written_at.load(Ordering::Relaxed) >= BATCHES_AT;
        self.is_journal && !self.way.is_recovering && is_batch
    }

    /// What a failed read is taken for.
    fn or_end<T>(&self, read: io::Result<T>, end: T) -> io::Result<T> {
        match read {
            Err(error) if self.way.is(Lie::ReadErrorIsEnd) && error.raw_os_error() == Some(5) => {
                Ok(end)
            }
            read => read,
        }
    }
}

impl File for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.or_end(self.file.read_at(buffer, offset), 0)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let deferred = self.way.state.deferred.lock().unwrap().take();
        if let Some(deferred) = deferred {
            deferred.sync_data()?;
        }
        self.written_at.store(offset, Ordering::Relaxed);
        if self.way.is(Lie::Append) && self.is_segment {
            return self.file.write_at(bytes, self.file.len()?);
        }
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &self.way.state;
        let is_done = match self.way.lie {
            Lie::AckBeforeSync if self.is_batch_sync() => {
                *state.deferred.lock().unwrap() = Some(self.file.clone());
                true
            }
            Lie::SyncEverySecondBatch if self.is_batch_sync() => {
                (state.batch_syncs.fetch_add(1, Ordering::Relaxed)).is_multiple_of(2)
            }
            Lie::NoSegmentSync => self.is_segment && self.way.skips_segment_sync(),
            Lie::RecoverWithoutSync => self.is_segment && self.way.is_recovering,
            Lie::RecoverWithoutJournalSync => self.is_journal && self.way.is_recovering,
            _ => false,
        };
        if is_done {
            return Ok(());
        }
        let synced = self.file.sync_data();
        match synced {
            Err(_) if self.way.is(Lie::SyncRetried) => self.file.sync_data(),
            synced => synced,
        }
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        self.or_end(self.file.map(len), Mapping::Owned(Vec::new()))
    }
}
