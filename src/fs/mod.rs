//! The seam to the machine: disk, clock and randomness. Knows nothing of logs.
//!
//! [`real`] is the machine itself; [`sim`] is one whose faults and crashes a test decides.

pub mod real;
pub mod sim;

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a store needs of the machine it runs on.
#[derive(Clone)]
pub struct Host {
    /// Where the files are.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where salts, incarnations and the random part of ids come from.
    pub entropy: Arc<dyn Entropy>,
}

/// A wall clock. It may jump, in both directions.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// A source of random bits.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> io::Result<u64>;
}

/// A file system. Every method is one call of the operating system, so that a test can count
/// calls and make each fail.
pub trait Disk: Send + Sync {
    /// Makes a file that must not exist yet, for reading and writing. Durable once its folder
    /// is synced.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file that exists.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;
    /// Renames, replacing what was at `to`. Durable once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unlinks a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder whose parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// What a folder holds, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes a folder's entries (creations, renames, removals) durable. It is opened for that: with
    /// an error of [`is_out_of_descriptors`] no sync was tried.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a folder, so that its entries can be made durable when no descriptor may be left.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>>;
    /// Opens the file system that holds `path`. A write-back that failed is told only to those who
    /// had it open, so it is opened before anything is written that it will sync.
    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>>;
    /// Takes the lock on `path` for this process until the guard is dropped; `None` when another
    /// process holds it. Makes the file when it isn't there.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>>;
    /// Whether a process holds the lock on `path`. Changes nothing.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
    /// Bytes that an unprivileged process can still write on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// The size of the disk's unit of writing: a power cut may tear what lies within one.
    fn sector_bytes(&self, path: &Path) -> io::Result<usize>;
    /// Whether what is at `path` can only be read, and each read is a request to another machine: what
    /// isn't wanted is better not read.
    fn is_remote(&self, _path: &Path) -> bool {
        false
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To read and write.
    ReadWrite,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, when that is UTF-8; ours always are.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// An open file, read and written at positions.
#[allow(clippy::len_without_is_empty)] // Asking for the length is a call that can fail.
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at `offset`; fewer bytes than asked for are not an error, none means the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; fewer bytes than given are not an error.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the file's bytes and length durable. After an error nothing is known about bytes
    /// written since the last success, and asking again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the disk begin to take the `len` bytes at `offset`, so that a later sync finds little left to
    /// write. A hint, which a disk need not follow: nobody waits for it, and it makes nothing durable.
    fn begin_write_back(&self, _offset: u64, _len: u64) {}
    /// Lets go of cached bytes that are on disk, so that the next read asks the disk itself.
    fn drop_cache(&self) -> io::Result<()>;
    /// The first `len` bytes, mapped where the disk can. The caller has read the length first
    /// and never asks for more.
    fn map(&self, len: u64) -> io::Result<Mapping>;
    /// Whether it isn't here, but read from an archive, range by range.
    fn is_archived(&self) -> bool {
        false
    }
}

/// Why bytes that are in an archive alone can't be had: what an [`io::Error`] wraps then.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// Nobody said where the archive is.
    #[error(
        "its bytes are in the archive alone, and this server has none: start it with --archive and the \
         archive's address"
    )]
    NoArchive,
    /// The archive can't be reached, or refuses.
    #[error("{0}")]
    Unreachable(String),
    /// The archive hasn't got it, as it was.
    #[error("{0}")]
    Missing(String),
    /// So many wait for the archive already.
    #[error("{0} readers wait for the archive already")]
    Busy(usize),
}

impl Away {
    /// What an error wraps, if it is one of these.
    pub fn in_error(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Away> for io::Error {
    fn from(away: Away) -> Self {
        Self::other(away)
    }
}

/// An open folder.
pub trait Dir: Send + Sync {
    /// As [`Disk::sync_dir`].
    fn sync(&self) -> io::Result<()>;
}

/// An open file system.
pub trait FileSystem: Send + Sync {
    /// Makes everything on it durable. As strict about errors as [`File::sync_data`].
    fn sync(&self) -> io::Result<()>;
}

/// A file's bytes, mapped or copied.
#[derive(Debug)]
pub enum Mapping {
    /// Mapped by the operating system.
    Mapped(memmap2::Mmap),
    /// A copy in memory.
    Owned(Vec<u8>),
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Holds a [`Disk::lock`]; dropping it gives the lock back.
pub trait LockGuard: Send + Sync {
    /// The locked file, which the holder may write a word about itself into.
    fn file(&self) -> &dyn File;
}

/// Writes all of `bytes` at `offset`, over short writes and interruptions.
pub fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` from `offset` on; the file ending first is an error.
pub fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if read_up_to(file, buffer, offset)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Reads from `offset` until `buffer` is full or the file ends, and says how much that was.
pub fn read_up_to(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The whole of a small file, at most `len_max` bytes.
pub fn read_small(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::Read)?;
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes, where at most {len_max} are expected"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let read = read_up_to(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file whole: after a crash it has its old content or the new one.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(disk, path, bytes)?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(&parent(path))
}

/// Writes and syncs the file that is to replace the one at `path`; says where it is.
pub fn write_temporary(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let temporary = path.with_extension("tmp");
    match disk.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    Ok(temporary)
}

/// Whether an error says that the disk is full: what was tried may be tried again later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether an error says that no descriptor was left to open something with. Nothing was done then,
/// and it passes.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Has an error say with which file it came up; its kind stays.
pub fn naming(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
