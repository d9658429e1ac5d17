//! The file behind a segment that is written to: what is durable but not written yet, the
//! descriptor, and the four positions.
//!
//! *staged* ≥ *durable* (in the journal) ≥ *written* (in the file, through the page cache) ≥
//! *synced* (checkpointed). Only what is durable is acknowledged, read, or written here.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use crate::fs::{
    Access, Disk, File, Mapping, is_out_of_descriptors, parent, read_exact_at, write_all_at,
};
use crate::model::Slug;

/// Pieces of the log are joined up to this size before they are written.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// When so much was written to a file, the disk is asked to begin with it: a checkpoint that finds all of
/// a lap unwritten keeps the journal's syncs waiting behind it.
const WRITE_BACK_BYTES: u64 = 1 << 20;

/// Which segment of which life of which experiment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentId {
    /// The experiment.
    pub slug: Slug,
    /// Its incarnation.
    pub incarnation: u64,
    /// The sequence number of the segment's first frame.
    pub first_sequence: u64,
    /// The segment's salt.
    pub salt: u64,
}

/// One life of an experiment: deleted and made again, it has another. All that writes to its files
/// shares this, so that nothing is written once it has ended: another experiment may have its
/// name, and so its paths, by then.
#[derive(Debug)]
pub struct Incarnation {
    /// The random number that tells it from others.
    pub number: u64,
    /// Held for reading while a file is found by its path and written or synced.
    has_ended: RwLock<bool>,
}

impl Incarnation {
    /// A life that goes on.
    pub fn new(number: u64) -> Arc<Self> {
        let has_ended = RwLock::new(false);
        Arc::new(Self { number, has_ended })
    }

    /// Ends it if `by` goes well: meanwhile and from then on nothing is written. Otherwise it goes
    /// on, and so do its writers.
    pub fn end_by<E>(&self, by: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let has_ended = self.has_ended.write();
        let mut has_ended = has_ended.unwrap_or_else(PoisonError::into_inner);
        by()?;
        *has_ended = true;
        Ok(())
    }

    fn go_on(&self) -> RwLockReadGuard<'_, bool> {
        self.has_ended
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment that is being written.
pub struct SegmentFile {
    /// Which segment this is.
    pub id: SegmentId,
    incarnation: Arc<Incarnation>,
    /// Its file.
    pub path: PathBuf,
    disk: Arc<dyn Disk>,
    durable_end: AtomicU64,
    /// The journal's lap that last spoke of this segment; only the journal uses it.
    pub lap: AtomicU64,
    /// Durable pieces that are not written yet, one behind the other.
    pending: Mutex<Pending>,
    /// Held while writing and syncing, so that both happen in order. Never taken by who has
    /// `pending`.
    io: Mutex<Io>,
}

/// What went wrong with a file. A write that finds the disk full, or no descriptor to open the file
/// with, is tried again; a sync never is.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A write failed.
    #[error("a write failed: {0}")]
    Write(io::Error),
    /// A sync failed: what is on the disk is unknown.
    #[error("a sync failed: {0}")]
    Sync(io::Error),
}

#[derive(Default)]
struct Pending {
    pieces: std::collections::VecDeque<Piece>,
    /// Whether the segment stands in the queue of those that are written soon. Only who takes it out
    /// says that it doesn't: whoever else writes the pieces leaves it there.
    is_scheduled: bool,
}

enum NextWrite {
    Pieces(u64, Vec<u8>, usize),
    BeyondLimit,
    Nothing,
}

#[derive(Clone)]
struct Piece {
    offset: u64,
    bytes: Bytes,
}

struct Io {
    /// Open from the first write until the sync: a write-back error is told only to those who
    /// had the file open.
    file: Option<Arc<dyn File>>,
    /// Whether the folder must be synced for the file to be found after a crash: always at
    /// first, since an actor that has left may have made the file.
    is_new: bool,
    /// Whether a sync of it has failed. Another would succeed, and tell nothing: the pages that were
    /// lost aren't dirty any more.
    has_failed: bool,
    written_end: u64,
    /// What lies before this is on its way to the disk.
    write_back_end: u64,
}

impl Io {
    fn begin_write_back(&mut self, file: &dyn File) {
        let len = self.written_end.saturating_sub(self.write_back_end);
        if len >= WRITE_BACK_BYTES {
            file.begin_write_back(self.write_back_end, len);
            self.write_back_end = self.written_end;
        }
    }

    /// Syncs the file, unless that has failed before: who waited for the lock meanwhile may not know.
    fn sync(&mut self, file: &dyn File) -> Result<(), Trouble> {
        if self.has_failed {
            let error = io::Error::other("an earlier sync of this file failed");
            return Err(Trouble::Sync(error));
        }
        file.sync_data().map_err(|error| {
            self.has_failed = true;
            Trouble::Sync(error)
        })
    }
}

impl SegmentFile {
    /// A segment whose file isn't there yet.
    pub fn new(
        disk: Arc<dyn Disk>,
        incarnation: Arc<Incarnation>,
        id: SegmentId,
        path: PathBuf,
    ) -> Self {
        Self::with_end(disk, incarnation, id, path, 0)
    }

    /// A segment whose file is durable up to `end`.
    pub fn with_end(
        disk: Arc<dyn Disk>,
        incarnation: Arc<Incarnation>,
        id: SegmentId,
        path: PathBuf,
        end: u64,
    ) -> Self {
        Self {
            id,
            incarnation,
            path,
            disk,
            durable_end: AtomicU64::new(end),
            lap: AtomicU64::new(0),
            pending: Mutex::default(),
            io: Mutex::new(Io {
                file: None,
                is_new: true,
                has_failed: false,
                written_end: end,
                write_back_end: end,
            }),
        }
    }

    /// What lies before this may be read.
    pub fn durable_end(&self) -> u64 {
        self.durable_end.load(Ordering::Acquire)
    }

    /// Takes bytes that have become durable at the durable end, to be read from now on and
    /// written soon. Says whether the segment must be put into the queue of those that are.
    #[must_use]
    pub fn push_durable(&self, offset: u64, bytes: Bytes) -> bool {
        let end = offset + bytes.len() as u64;
        let mut pending = lock(&self.pending);
        pending.pieces.push_back(Piece { offset, bytes });
        self.durable_end.store(end, Ordering::Release);
        !std::mem::replace(&mut pending.is_scheduled, true)
    }

    /// Writes pending pieces below `limit` into the file, through the page cache. What is written
    /// leaves memory; after an error the rest stays, to be tried again at the same place. Says
    /// whether nothing is left pending.
    pub fn write_out(&self, limit: u64) -> io::Result<bool> {
        let mut io = lock(&self.io);
        self.write_pending(&mut io, limit)
    }

    /// Makes durable in the file itself what is written, and lets the descriptor go. A file that
    /// was deleted needs that no more, and its folder may be gone.
    pub fn sync_written(&self) -> Result<(), Trouble> {
        let mut io = lock(&self.io);
        let has_ended = self.incarnation.go_on();
        if *has_ended {
            io.file = None;
            return Ok(());
        }
        if let Some(file) = io.file.clone() {
            io.sync(&*file)?;
            self.sync_folder(&mut io)?;
        }
        io.file = None;
        Ok(())
    }

    /// Takes note that the whole file system was synced when the file was written up to
    /// `written_end`.
    pub fn note_synced(&self, written_end: u64) {
        let mut io = lock(&self.io);
        io.is_new = io.is_new && written_end == 0;
        if io.written_end == written_end {
            io.file = None;
        }
    }

    /// Whether it goes back into the queue that it was taken from, or stays there: if durable bytes
    /// wait to be written. If not, the next ones put it there.
    pub fn stays_scheduled(&self) -> bool {
        let mut pending = lock(&self.pending);
        pending.is_scheduled = !pending.pieces.is_empty();
        pending.is_scheduled
    }

    /// Whether durable bytes wait to be written.
    pub fn has_pending(&self) -> bool {
        !lock(&self.pending).pieces.is_empty()
    }

    /// Whether the descriptor is open, since bytes were written and not synced.
    pub fn is_open(&self) -> bool {
        lock(&self.io).file.is_some()
    }

    /// How far the file is written.
    pub fn written_end(&self) -> u64 {
        lock(&self.io).written_end
    }

    /// Writes `bytes` at `offset`, the durable end, and syncs them: the way of a large group,
    /// whose bytes the journal doesn't hold. The caller has made that known in the journal.
    pub fn write_around(&self, offset: u64, bytes: &[u8]) -> Result<(), Trouble> {
        let mut io = lock(&self.io);
        self.write_pending(&mut io, u64::MAX)
            .map_err(Trouble::Write)?;
        let has_ended = self.incarnation.go_on();
        if *has_ended {
            return Ok(());
        }
        let file = self.open(&mut io).map_err(Trouble::Write)?;
        write_all_at(&*file, bytes, offset).map_err(Trouble::Write)?;
        self.sync_folder(&mut io)?;
        io.sync(&*file)?;
        io.written_end = offset + bytes.len() as u64;
        io.write_back_end = io.written_end;
        io.file = None;
        Ok(())
    }

    /// Takes note that what [`Self::write_around`] wrote is whole, and so durable.
    pub fn note_durable(&self, end: u64) {
        self.durable_end.store(end, Ordering::Release);
    }

    /// The file as it is, with everything durable written into it. What lies behind `frames_end`
    /// was set aside: it is made durable with the file's length, and then read from the disk
    /// itself, since a sync that failed may have left other bytes in the page cache. It is not
    /// found when it was deleted, also when the next life has a file of this name.
    pub fn map_written(&self, frames_end: u64) -> io::Result<Mapping> {
        self.write_out(u64::MAX)?;
        let mut io = lock(&self.io);
        let has_ended = self.incarnation.go_on();
        if *has_ended {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = self.disk.open(&self.path, Access::ReadWrite)?;
        let len = file.len()?;
        if len > frames_end {
            // No journal has these bytes: without the folder the file could be gone after a crash,
            // and come back from the journal with other bytes there.
            let synced = self.sync_folder(&mut io).and_then(|()| io.sync(&*file));
            synced.map_err(|trouble| match trouble {
                Trouble::Write(error) | Trouble::Sync(error) => error,
            })?;
            file.drop_cache()?;
        }
        file.map(len)
    }

    /// The bytes from `begin` to `end`, written or not. The caller stays below the durable end.
    pub fn read(&self, begin: u64, end: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(end.saturating_sub(begin)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        // First what is in memory: a piece that leaves it meanwhile was written before that.
        let pieces: Vec<Piece> = {
            let pending = lock(&self.pending);
            let overlaps = |piece: &&Piece| {
                piece.offset < end && piece.offset + piece.bytes.len() as u64 > begin
            };
            pending.pieces.iter().filter(overlaps).cloned().collect()
        };
        let in_file = pieces.first().map_or(end, |piece| piece.offset.max(begin));
        let (front, _) = bytes.split_at_mut((in_file - begin) as usize);
        if !front.is_empty() {
            let file = self.disk.open(&self.path, Access::Read)?;
            read_exact_at(&*file, front, begin)?;
        }
        for piece in &pieces {
            copy_overlap(&mut bytes, begin, &piece.bytes, piece.offset);
        }
        Ok(bytes)
    }

    fn write_pending(&self, io: &mut Io, limit: u64) -> io::Result<bool> {
        let has_ended = self.incarnation.go_on();
        if *has_ended {
            lock(&self.pending).pieces.clear();
            return Ok(true);
        }
        loop {
            let (offset, bytes, piece_count) = match self.next_write(limit) {
                NextWrite::Pieces(offset, bytes, piece_count) => (offset, bytes, piece_count),
                NextWrite::BeyondLimit => return Ok(false),
                NextWrite::Nothing => return Ok(true),
            };
            let file = self.open(io)?;
            write_all_at(&*file, &bytes, offset)?;
            io.written_end = offset + bytes.len() as u64;
            io.begin_write_back(&*file);
            lock(&self.pending).pieces.drain(..piece_count);
        }
    }

    /// The next pieces, joined.
    fn next_write(&self, limit: u64) -> NextWrite {
        let pending = lock(&self.pending);
        let Some(first) = pending.pieces.front() else {
            return NextWrite::Nothing;
        };
        let offset = first.offset;
        let mut joined_len = 0;
        let mut piece_count = 0;
        for piece in &pending.pieces {
            let is_below = piece.offset + piece.bytes.len() as u64 <= limit;
            let fits = piece_count == 0 || joined_len + piece.bytes.len() <= WRITE_BYTES_MAX;
            if !is_below || !fits {
                break;
            }
            joined_len += piece.bytes.len();
            piece_count += 1;
        }
        let mut joined = Vec::with_capacity(joined_len);
        for piece in pending.pieces.iter().take(piece_count) {
            joined.extend_from_slice(&piece.bytes);
        }
        match piece_count {
            0 => NextWrite::BeyondLimit,
            _ => NextWrite::Pieces(offset, joined, piece_count),
        }
    }

    /// Makes sure that the file is found after a crash.
    fn sync_folder(&self, io: &mut Io) -> Result<(), Trouble> {
        if io.is_new {
            let synced = self.disk.sync_dir(&parent(&self.path));
            synced.map_err(|error| match is_out_of_descriptors(&error) {
                true => Trouble::Write(error),
                false => Trouble::Sync(error),
            })?;
            io.is_new = false;
        }
        Ok(())
    }

    fn open(&self, io: &mut Io) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &io.file {
            return Ok(file.clone());
        }
        let opened = match self.disk.open(&self.path, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && io.written_end == 0 => {
                self.disk.create(&self.path)
            }
            opened => opened,
        }?;
        io.file = Some(opened.clone());
        Ok(opened)
    }
}

fn copy_overlap(target: &mut [u8], target_offset: u64, source: &[u8], source_offset: u64) {
    let begin = target_offset.max(source_offset);
    let target = target.get_mut((begin - target_offset) as usize..);
    let source = source.get((begin - source_offset) as usize..);
    if let (Some(target), Some(source)) = (target, source) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = *source;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while it held this has left whole pieces and positions behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
