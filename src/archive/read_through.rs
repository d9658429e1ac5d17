//! A store's disk on which segments whose bytes are in the archive alone can be opened: their outlines are
//! here, and their frames are read there, by ranges, through a cache in memory.
//!
//! Whoever reads is on a thread that may block. A read has a bounded time, and only so many wait at once: further
//! ones are refused, so that threads are left for all that needs no archive.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tracing::error;

use super::cache::Cache;
use super::error::ArchiveError;
use super::layout::LogName;
use super::store::Archive;
use crate::experiment::archived::Archived;
use crate::fs::{Access, Away, Dir, DirEntry, Disk, File, FileSystem, LockGuard, Mapping};
use crate::log::outline::{Head, Outline, PART_LEN};
use crate::log::segment::segment_file_name;

/// So many may read from the archive or wait for it at once. Each has a thread.
pub const READERS_MAX: usize = 64;
/// So many requests are on their way at once.
const REQUESTS_MAX: usize = 16;
/// A read that has not ended in this time has failed.
const READ_TIME_MAX: Duration = Duration::from_secs(10);
/// Who reads on gets so many parts by one request at most.
const WINDOW_MAX: u64 = 8;

/// The disk.
pub struct ReadThrough {
    own: Arc<dyn Disk>,
    reads: Arc<Reads>,
}

/// What all opened files share.
struct Reads {
    archive: Archive,
    archived: Arc<Archived>,
    /// `None` once it ends.
    runtime: Option<Runtime>,
    turns: Arc<Semaphore>,
    reader_count: AtomicUsize,
    cache: Mutex<Cache>,
}

/// A segment that isn't here.
struct ArchivedFile {
    reads: Arc<Reads>,
    own: Arc<dyn Disk>,
    path: PathBuf,
    len: u64,
    /// Read on first use: many are opened for their length alone.
    outline: OnceLock<Outline>,
    object: ObjectPath,
    /// The part behind the last one that was read.
    next: AtomicU64,
    /// How many parts were read at once then.
    window: AtomicU64,
}

impl ReadThrough {
    /// The disk `own`, with what is in the archive. So many bytes of it are kept in memory.
    pub fn new(
        own: Arc<dyn Disk>,
        archive: Archive,
        archived: Arc<Archived>,
        cache_bytes: usize,
    ) -> Result<Self, ArchiveError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(1)
            .max_blocking_threads(REQUESTS_MAX)
            .thread_name("archive-reads")
            .build()
            .map_err(ArchiveError::Threads)?;
        let reads = Reads {
            archive,
            archived,
            runtime: Some(runtime),
            turns: Arc::new(Semaphore::new(REQUESTS_MAX)),
            reader_count: AtomicUsize::new(0),
            cache: Mutex::new(Cache::new(cache_bytes)),
        };
        Ok(Self {
            own,
            reads: Arc::new(reads),
        })
    }
}

impl Reads {
    /// These bytes of an object.
    fn read(&self, object: &ObjectPath, range: Range<u64>) -> io::Result<Bytes> {
        let readers = Counted::enter(&self.reader_count);
        let Some(runtime) = self
            .runtime
            .as_ref()
            .filter(|_| readers.count <= READERS_MAX)
        else {
            return Err(Away::Busy(READERS_MAX).into());
        };
        let (archive, turns) = (self.archive.clone(), self.turns.clone());
        let (path, wanted) = (object.clone(), range.clone());
        let (reply, answer) = sync_channel(1);
        let request = runtime.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let read = read(&archive, &path, wanted).await;
            // Nobody may wait any more.
            let _gone = reply.send(read);
        });
        let place = || self.archive.place(object);
        let bytes = match answer.recv_timeout(READ_TIME_MAX) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(away)) => {
                self.archived.metrics.read_failures.add(1);
                return Err(away.into());
            }
            Err(_) => {
                request.abort();
                self.archived.metrics.read_failures.add(1);
                let seconds = READ_TIME_MAX.as_secs();
                let what = format!("{} could not be read within {seconds} s", place());
                return Err(Away::Unreachable(what).into());
            }
        };
        self.archived.metrics.reads.add(1);
        self.archived.metrics.read_bytes.add(bytes.len() as u64);
        if bytes.len() as u64 != range.end - range.start {
            let what = format!("{} is shorter than what was uploaded", place());
            return Err(Away::Missing(what).into());
        }
        Ok(bytes)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        // It may be dropped where nothing may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One of those who read.
struct Counted<'a> {
    all: &'a AtomicUsize,
    count: usize,
}

impl<'a> Counted<'a> {
    fn enter(all: &'a AtomicUsize) -> Self {
        let count = all.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all, count }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads, and tells an object that is missing from an archive that is.
async fn read(archive: &Archive, object: &ObjectPath, range: Range<u64>) -> Result<Bytes, Away> {
    let error = match archive.read(object, range).await {
        Ok(bytes) => return Ok(bytes),
        Err(error) => error,
    };
    if !error.is_missing() {
        return Err(Away::Unreachable(error.to_string()));
    }
    // A bucket that is no more, or a folder that isn't mounted, says the same of each object.
    let mut parts: Vec<_> = object.parts().collect();
    parts.pop();
    let folder = ObjectPath::from_iter(parts);
    match archive.has_segments(&folder).await {
        Ok(true) => Err(Away::Missing(error.to_string())),
        Ok(false) => {
            let place = archive.place(&folder);
            let what =
                format!("no segment is at {place}: is the archive's address right, and there?");
            Err(Away::Unreachable(what))
        }
        Err(error) => Err(Away::Unreachable(error.to_string())),
    }
}

impl ArchivedFile {
    fn outline(&self) -> io::Result<&Outline> {
        if let Some(outline) = self.outline.get() {
            return Ok(outline);
        }
        let read = Outline::read(&*self.own, &self.path)?;
        Ok(self.outline.get_or_init(|| read))
    }

    /// A part of the segment.
    fn part(&self, outline: &Outline, number: u64) -> io::Result<Bytes> {
        let salt = outline.header.salt;
        let is_next = self.next.swap(number + 1, Ordering::Relaxed) == number;
        if let Some(bytes) = self.reads.cache().get((salt, number)) {
            return Ok(bytes);
        }
        let window = match is_next {
            true => (self.window.load(Ordering::Relaxed) * 2).min(WINDOW_MAX),
            false => 1,
        };
        self.window.store(window, Ordering::Relaxed);
        let part_count = outline.footer_start.div_ceil(PART_LEN);
        let numbers = number..(number + window).min(part_count).max(number + 1);
        let begin = outline.part(number).start;
        let end = outline.part(numbers.end - 1).end;
        let all = self.reads.read(&self.object, begin..end)?;
        for number in numbers {
            let range = outline.part(number);
            let place = (range.start - begin) as usize..(range.end - begin) as usize;
            let bytes = all.get(place).unwrap_or_default();
            if self.is_whole(outline, number, bytes) {
                // A copy: else one part would keep all that came with it.
                let bytes = Bytes::copy_from_slice(bytes);
                self.reads.cache().put((salt, number), bytes);
            }
        }
        let len = outline.part(number);
        Ok(all.slice(..(len.end - len.start) as usize))
    }

    /// What is damaged there is not kept, and read as damage of a file is: it costs the entries in it alone.
    fn is_whole(&self, outline: &Outline, number: u64, bytes: &[u8]) -> bool {
        let is_part = outline.is_part(number, bytes);
        if !is_part {
            let place = self.reads.archive.place(&self.object);
            let range = outline.part(number);
            error!(object = %place, ?range, "bytes in the archive aren't what was uploaded");
        }
        is_part
    }
}

impl File for ArchivedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    /// Gives what lies in one part.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.len.min(offset.saturating_add(buffer.len() as u64));
        if end <= offset {
            return Ok(0);
        }
        let outline = self.outline()?;
        let footer_start = outline.footer_start;
        let end = if offset < footer_start {
            end.min(footer_start)
        } else {
            end
        };
        let mut copy = |bytes: &[u8]| {
            let len = bytes.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..len), bytes.get(..len)) {
                to.copy_from_slice(from);
            }
            len
        };
        if let Some(bytes) = outline.bytes(&(offset..end)) {
            return Ok(copy(bytes));
        }
        let number = offset / PART_LEN;
        let begin = outline.part(number).start;
        let part = self.part(outline, number)?;
        Ok(copy(
            part.get((offset - begin) as usize..).unwrap_or_default(),
        ))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        crate::fs::read_exact_at(self, &mut bytes, 0)?;
        Ok(Mapping::Owned(bytes))
    }

    fn is_archived(&self) -> bool {
        true
    }
}

impl Disk for ReadThrough {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.own.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let not_here = match self.own.open(path, access) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => error,
            opened => return opened,
        };
        let is_segment = path.extension().is_some_and(|end| end == "segment");
        if access == Access::ReadWrite || !is_segment {
            return Err(not_here);
        }
        let head = match Outline::read_head(&*self.own, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_here),
            read => read?,
        };
        let Some(Head { header, len, .. }) = head else {
            return Err(not_here);
        };
        let name = LogName {
            store_id: header.store_id,
            slug: header.slug.clone(),
            incarnation: header.incarnation,
        };
        let folder = name.folder(&self.reads.archive.prefix);
        Ok(Arc::new(ArchivedFile {
            reads: self.reads.clone(),
            object: folder.join(segment_file_name(header.first_sequence)),
            own: self.own.clone(),
            path: path.to_path_buf(),
            len,
            outline: OnceLock::new(),
            next: AtomicU64::new(u64::MAX),
            window: AtomicU64::new(1),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.own.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.own.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.own.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.own.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.own.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.own.sync_dir(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.own.open_dir(path)
    }

    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.own.open_filesystem(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.own.lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.own.is_locked(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.own.free_bytes(path)
    }

    fn sector_bytes(&self, path: &Path) -> io::Result<usize> {
        self.own.sector_bytes(path)
    }
}
