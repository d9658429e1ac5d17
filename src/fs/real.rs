//! The machine itself: files by position, `fdatasync`, `syncfs`, `flock`, `mmap`.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Advice;

use super::{
    Access, Clock, Dir, DirEntry, Disk, Entropy, File, FileSystem, Host, LockGuard, Mapping,
};

/// The machine this process runs on.
pub fn host() -> Host {
    Host {
        disk: Arc::new(RealDisk),
        clock: Arc::new(RealClock),
        entropy: Arc::new(RealEntropy),
    }
}

/// The signal that comes with writing beyond the length that a file may have here.
pub const FILE_SIZE_SIGNAL: i32 = rustix::process::Signal::XFSZ.as_raw();

/// Raises this process's limit of open descriptors as far as it may, and says what it is.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    limit.current.unwrap_or(u64::MAX)
}

/// Lets as much wait in a pipe as anybody may ask for on Linux (`/proc/sys/fs/pipe-max-size`), so that
/// its two ends take turns less often. What is no pipe stays as it is.
pub fn widen_pipe(out: &impl std::os::fd::AsFd) {
    const PIPE_LEN: usize = 1 << 20;
    // It works without that, too.
    let _unchanged = rustix::pipe::fcntl_setpipe_size(out, PIPE_LEN);
}

/// The operating system's file system.
pub struct RealDisk;

/// The operating system's clock.
pub struct RealClock;

/// The operating system's randomness.
pub struct RealEntropy;

impl Clock for RealClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }
}

impl Entropy for RealEntropy {
    fn next_u64(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::other)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                let is_dir = entry.file_type()?.is_dir();
                entries.push(DirEntry { name, is_dir });
            }
        }
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        Ok(Box::new(RealDir(fs::File::open(path)?)))
    }

    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(RealFileSystem(fs::File::open(path)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock(RealFile(file))))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match fs::File::open(path)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sector_bytes(&self, path: &Path) -> io::Result<usize> {
        let device = fs::metadata(path)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let disk = format!("/sys/dev/block/{major}:{minor}");
        // A partition's queue is its disk's.
        let said = [format!("{disk}/queue"), format!("{disk}/../queue")]
            .iter()
            .find_map(|queue| fs::read_to_string(format!("{queue}/physical_block_size")).ok())
            .and_then(|text| text.trim().parse::<usize>().ok());
        // A file system that has no disk to ask (overlay, tmpfs) gets the larger common size.
        Ok(said.unwrap_or(4096).clamp(512, 4096))
    }
}

/// A file of the operating system.
struct RealFile(fs::File);

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // std's `sync_data` asks again when a signal interrupts it. That is no error, so nothing
        // was consumed; every other error comes back to us.
        self.0.sync_data()
    }

    fn begin_write_back(&self, offset: u64, len: u64) {
        // Linux begins to write what is dirty in the range, and lets go only of what isn't.
        // (`sync_file_range` would say just that, and has no safe wrapper.)
        let len = NonZeroU64::new(len);
        let _only_a_hint = rustix::fs::fadvise(&self.0, offset, len, Advice::DontNeed);
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }

    #[allow(unsafe_code)]
    fn map(&self, len: u64) -> io::Result<Mapping> {
        if len == 0 {
            return Ok(Mapping::Owned(Vec::new()));
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // SAFETY: segments only grow, are never truncated or rewritten below the length that the
        // caller has read, and are unlinked rather than cut when they go, so the mapped bytes
        // stay there. Another program that truncates a segment breaks this; no check could help.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.0)? };
        Ok(Mapping::Mapped(map))
    }
}

struct RealDir(fs::File);

impl Dir for RealDir {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// A folder that stands for its file system.
struct RealFileSystem(fs::File);

impl FileSystem for RealFileSystem {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

struct RealLock(RealFile);

impl LockGuard for RealLock {
    fn file(&self) -> &dyn File {
        &self.0
    }
}
