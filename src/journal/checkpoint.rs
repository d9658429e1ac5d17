//! The journal's background work: writing out what is durable, making segments durable in their
//! own files, and only then reusing a lap. A state machine that [`local`](super::local) gives a
//! thread, and a simulation drives itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::format::{BATCHES_AT, HEADER_COPY_AT, LapHeader};
use super::metrics::JournalMetrics;
use super::{CommitError, JournalHealth};
use crate::fs::{File, FileSystem, Host, is_full, is_out_of_descriptors, write_all_at};
use crate::log::segment_file::{SegmentFile, Trouble};
use crate::model::Durability;

/// What is durable is written into its segment within about this time.
pub const WRITE_OUT_INTERVAL: Duration = Duration::from_millis(100);

/// Segments written in one go. With more of them waiting, the others wait a little longer, and
/// more is written to each at once.
const WRITE_OUT_SEGMENTS: usize = 256;
/// Segments whose descriptors may be open, waiting for a sync.
const OPEN_SEGMENTS_MAX: usize = 512;
/// From this many segments on, one sync of the file system is cheaper than one for each file.
const SYNC_EACH_MAX: usize = 8;
const ZEROS_LEN: usize = 1 << 20;

/// One of the two journal files, in use from its beginning.
pub struct OpenLap {
    /// The file.
    pub file: Arc<dyn File>,
    /// Who the lap is.
    pub header: LapHeader,
    /// Where the next batch goes.
    pub position: u64,
    capacity: u64,
    /// The segments that the lap speaks of.
    dirty: Vec<Arc<SegmentFile>>,
}

/// What the committer, the background work and the journal's users share.
pub struct Shared {
    host: Host,
    store_dir: PathBuf,
    filesystem: Arc<dyn FileSystem>,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// What is counted of its work.
    pub metrics: Arc<JournalMetrics>,
    lap_bytes_max: u64,
    free_bytes_min: u64,
    failed: AtomicBool,
    full: AtomicBool,
    out_of_descriptors: AtomicBool,
    written_batch: AtomicU64,
    synced_batch: AtomicU64,
    background: Mutex<Background>,
    background_changed: Condvar,
    wake: OnceLock<Arc<Wake>>,
}

/// Has [`Committer::commit`](super::committer::Committer::commit) called soon.
pub type Wake = dyn Fn() + Send + Sync;

struct Background {
    spare: Option<OpenLap>,
    /// Groups wait for it.
    is_spare_awaited: bool,
    retired: Option<OpenLap>,
    active: Arc<dyn File>,
    last_lap: u64,
    /// Segments with something to be written, each once, the one that waits longest first.
    scheduled: Vec<Arc<SegmentFile>>,
    is_asleep: bool,
    is_closing: bool,
}

impl OpenLap {
    /// A lap that has no batch yet, in a file of `capacity` bytes.
    pub fn new(file: Arc<dyn File>, header: LapHeader, capacity: u64) -> Self {
        Self {
            file,
            header,
            position: BATCHES_AT,
            capacity,
            dirty: Vec::new(),
        }
    }

    /// Bytes that are left.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.position)
    }

    /// Whether it has no batch yet.
    pub fn is_unused(&self) -> bool {
        self.position == BATCHES_AT
    }

    /// Takes note that the lap speaks of `segment`; says whether it does so for the first time.
    pub fn note(&mut self, segment: &Arc<SegmentFile>) -> bool {
        let is_first = segment.lap.swap(self.header.lap, Ordering::Relaxed) != self.header.lap;
        if is_first {
            self.dirty.push(segment.clone());
        }
        is_first
    }

    /// Makes the next [`Self::note`] of `segment` a first one.
    pub fn forget(&self, segment: &SegmentFile) {
        segment.lap.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    /// The shared state of a journal whose committer begins with the lap before `spare`.
    pub fn new(
        host: Host,
        store_dir: PathBuf,
        durability: Durability,
        lap_bytes_max: u64,
        free_bytes_min: u64,
        active: &OpenLap,
        spare: OpenLap,
    ) -> io::Result<Self> {
        let background = Background {
            last_lap: spare.header.lap,
            spare: Some(spare),
            is_spare_awaited: false,
            retired: None,
            active: active.file.clone(),
            scheduled: Vec::new(),
            is_asleep: false,
            is_closing: false,
        };
        let filesystem = host.disk.open_filesystem(&store_dir)?;
        Ok(Self {
            host,
            store_dir,
            filesystem,
            durability,
            metrics: Arc::default(),
            lap_bytes_max,
            free_bytes_min,
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            out_of_descriptors: AtomicBool::new(false),
            written_batch: AtomicU64::new(0),
            synced_batch: AtomicU64::new(0),
            background: Mutex::new(background),
            background_changed: Condvar::new(),
            wake: OnceLock::new(),
        })
    }

    /// Says who is woken when groups wait for a lap and there is one, or when it becomes known that
    /// there will be none.
    pub fn wake_with(&self, wake: Arc<Wake>) {
        let _told_once = self.wake.set(wake);
    }

    /// Whether a write or sync has failed.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Latches the failure; says whether it is the first.
    pub fn set_failed(&self) -> bool {
        let is_first = !self.failed.swap(true, Ordering::AcqRel);
        self.background_changed.notify_all();
        self.wake_waiting();
        is_first
    }

    /// Whether groups are taken.
    pub fn health(&self) -> JournalHealth {
        if self.is_failed() {
            JournalHealth::Failed
        } else if self.full.load(Ordering::Acquire) {
            JournalHealth::Full
        } else if self.out_of_descriptors.load(Ordering::Acquire) {
            JournalHealth::OutOfDescriptors
        } else {
            JournalHealth::Ready
        }
    }

    /// The last batch that is known to be synced, when durability is relaxed.
    pub fn synced_through(&self) -> u64 {
        self.synced_batch.load(Ordering::Acquire)
    }

    /// Takes note that a batch is written.
    pub fn note_written(&self, batch: u64) {
        self.written_batch.store(batch, Ordering::Release);
    }

    /// Syncs the batches that are written and not synced, which there are only when durability
    /// is relaxed. Whoever asks goes on to a segment's file: not after a failure, which may have
    /// been a sync of that file.
    pub fn flush(&self) -> io::Result<()> {
        if self.is_failed() {
            return Err(io::Error::other(CommitError::Refused));
        }
        let written = self.written_batch.load(Ordering::Acquire);
        if self.durability == Durability::Sync || self.synced_through() >= written {
            return Ok(());
        }
        let active = self.background().active.clone();
        if let Err(error) = active.sync_data() {
            self.poison("syncing the journal", &error);
            return Err(error);
        }
        self.synced_batch.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn scheduled_count(&self) -> usize {
        self.background().scheduled.len()
    }

    /// Has `segment` written out soon.
    pub fn schedule(&self, segment: Arc<SegmentFile>) {
        let mut background = self.background();
        background.scheduled.push(segment);
        if background.is_asleep {
            self.background_changed.notify_all();
        }
    }

    /// Takes note that the disk is full.
    pub fn note_full(&self) {
        if !self.full.swap(true, Ordering::AcqRel) {
            warn!("the disk is full: entries are refused until there is room");
            self.wake_waiting();
        }
        self.background_changed.notify_all();
    }

    /// Whether a lap is ready to go on with.
    pub fn has_spare(&self) -> bool {
        self.background().spare.is_some()
    }

    /// The lap to go on with, if it may be reused. If not, groups wait for it.
    pub fn take_spare(&self) -> io::Result<Option<OpenLap>> {
        let mut background = self.background();
        if self.is_failed() {
            return Err(io::Error::other(CommitError::Refused));
        }
        background.is_spare_awaited = background.spare.is_none();
        Ok(background.spare.take())
    }

    /// Something has changed for groups that wait.
    fn wake_waiting(&self) {
        let is_awaited = self.background().is_spare_awaited;
        if let Some(wake) = self.wake.get().filter(|_| is_awaited) {
            wake();
        }
    }

    /// Takes note that the next batches are written to this file. Those before are synced.
    pub fn go_on_in(&self, file: Arc<dyn File>) {
        self.background().active = file;
    }

    /// Gives back a lap that is full, to be checkpointed and reused. With relaxed durability that syncs
    /// the batch that was written last, too, before it writes anything else.
    pub fn retire(&self, lap: OpenLap) {
        self.background().retired = Some(lap);
        self.background_changed.notify_all();
    }

    /// Has [`Checkpointer::wait`] say that there is nothing more to come.
    pub fn close(&self) {
        self.background().is_closing = true;
        self.background_changed.notify_all();
    }

    fn background(&self) -> MutexGuard<'_, Background> {
        // Only whole values are moved in and out under this lock.
        self.background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes out, checkpoints, and makes laps ready for reuse.
pub struct Checkpointer {
    shared: Arc<Shared>,
    /// Segments whose descriptors are open, waiting for a sync.
    open: Vec<Arc<SegmentFile>>,
}

impl Checkpointer {
    /// The background work of the journal that shares `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        let open = Vec::new();
        Self { shared, open }
    }

    /// Waits until there is something to do; `false` when there will be nothing more.
    pub fn wait(&self) -> bool {
        let mut background = self.shared.background();
        loop {
            if background.is_closing {
                return false;
            }
            let health = self.shared.health();
            if background.retired.is_some() && health == JournalHealth::Ready {
                return true;
            }
            let has_more = !background.scheduled.is_empty() || health != JournalHealth::Ready;
            let is_due_soon = has_more && health != JournalHealth::Failed;
            background.is_asleep = !is_due_soon;
            let changed = &self.shared.background_changed;
            if !is_due_soon {
                background = changed
                    .wait(background)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, timeout) = changed
                .wait_timeout(background, WRITE_OUT_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            background = guard;
            if timeout.timed_out() {
                return true;
            }
        }
    }

    /// Does what there is to do: checkpoints a retired lap, or else writes out some segments.
    pub fn step(&mut self) {
        if self.shared.is_failed() {
            return;
        }
        let retired = self.shared.background().retired.take();
        let (result, retired) = match retired {
            Some(mut lap) => match self.checkpoint(&mut lap) {
                Ok(()) => (Ok(()), None),
                Err(error) => (Err(error), Some(lap)),
            },
            None => (self.write_out_some(), None),
        };
        let is_stuck = retired.is_some();
        if is_stuck {
            self.shared.background().retired = retired;
        }
        match result {
            Ok(()) => {
                self.note_descriptors(is_stuck);
                self.check_space();
            }
            Err(Trouble::Write(error)) if is_full(&error) => self.shared.note_full(),
            Err(Trouble::Write(error)) if is_out_of_descriptors(&error) => {
                self.note_descriptors(is_stuck);
            }
            Err(Trouble::Write(error)) => self.shared.poison("writing to the disk", &error),
            Err(Trouble::Sync(error)) => self.shared.poison("syncing the disk", &error),
        }
    }

    /// Makes all segments durable that `active` or a retired lap speaks of, and marks the journal
    /// as having nothing to redo.
    pub fn finish(&mut self, mut active: OpenLap) -> Result<(), Trouble> {
        if self.shared.is_failed() {
            return Err(Trouble::Sync(io::Error::other(CommitError::Refused)));
        }
        let retired = self.shared.background().retired.take();
        if let Some(mut lap) = retired {
            self.checkpoint(&mut lap)?;
        }
        self.checkpoint(&mut active)
    }

    /// A checkpoint; without a descriptor for it, those that wait for a sync are given back first.
    fn checkpoint(&mut self, lap: &mut OpenLap) -> Result<(), Trouble> {
        match self.try_checkpoint(lap) {
            Err(Trouble::Write(error)) if is_out_of_descriptors(&error) => {
                self.close_open()?;
                self.try_checkpoint(lap)
            }
            result => result,
        }
    }

    /// The checkpoint protocol: every segment the lap speaks of is written and synced, folder
    /// entries too; then the lap's header is replaced, which is the durable note of it.
    fn try_checkpoint(&mut self, lap: &mut OpenLap) -> Result<(), Trouble> {
        let dirty = lap.dirty.clone();
        for segments in dirty.chunks(WRITE_OUT_SEGMENTS) {
            self.write_out(segments)?;
            self.sync(segments)?;
        }
        lap.dirty.clear();
        self.drop_written();
        self.make_spare(lap)?;
        self.shared.metrics.checkpoints.add(1);
        Ok(())
    }

    /// Takes out of the queue what the checkpoint has written: it would keep every segment that was rolled
    /// since, and the memory with it, until its turn comes.
    fn drop_written(&self) {
        let mut scheduled = std::mem::take(&mut self.shared.background().scheduled);
        scheduled.retain(|segment| segment.stays_scheduled());
        let mut background = self.shared.background();
        scheduled.append(&mut background.scheduled);
        background.scheduled = scheduled;
    }

    fn write_out_some(&mut self) -> Result<(), Trouble> {
        let mut segments = {
            let mut background = self.shared.background();
            let count = background.scheduled.len().min(WRITE_OUT_SEGMENTS);
            background.scheduled.drain(..count).collect::<Vec<_>>()
        };
        let result = self.write_out(&segments);
        segments.retain(|segment| segment.stays_scheduled());
        self.shared.background().scheduled.extend(segments);
        let is_short =
            matches!(&result, Err(Trouble::Write(error)) if is_out_of_descriptors(error));
        if is_short || self.open.len() > OPEN_SEGMENTS_MAX {
            self.close_open()?;
        }
        result
    }

    fn write_out(&mut self, segments: &[Arc<SegmentFile>]) -> Result<(), Trouble> {
        // With relaxed durability, what is pending may be ahead of the journal on disk.
        let ends: Vec<u64> = segments
            .iter()
            .map(|segment| segment.durable_end())
            .collect();
        self.shared.flush().map_err(Trouble::Sync)?;
        for (segment, end) in segments.iter().zip(ends) {
            let was_open = segment.is_open();
            segment.write_out(end).map_err(Trouble::Write)?;
            if !was_open && segment.is_open() {
                self.open.push(segment.clone());
            }
        }
        Ok(())
    }

    fn sync(&mut self, segments: &[Arc<SegmentFile>]) -> Result<(), Trouble> {
        if segments.len() <= SYNC_EACH_MAX {
            for segment in segments {
                segment.sync_written()?;
            }
        } else {
            self.sync_filesystem(segments).map_err(Trouble::Sync)?;
        }
        self.open.retain(|segment| segment.is_open());
        Ok(())
    }

    fn sync_filesystem(&self, segments: &[Arc<SegmentFile>]) -> io::Result<()> {
        let ends: Vec<u64> = segments
            .iter()
            .map(|segment| segment.written_end())
            .collect();
        self.shared.filesystem.sync()?;
        for (segment, end) in segments.iter().zip(ends) {
            segment.note_synced(end);
        }
        Ok(())
    }

    /// Syncs what is open and gives its descriptors back. For that the file system is open already.
    fn close_open(&mut self) -> Result<(), Trouble> {
        if !self.open.is_empty() {
            self.sync_filesystem(&self.open).map_err(Trouble::Sync)?;
            self.open.retain(|segment| segment.is_open());
        }
        Ok(())
    }

    /// Takes note whether a lap waits for descriptors. While one does, entries are refused before the
    /// other one is full, too, and everybody had to wait.
    fn note_descriptors(&self, is_stuck: bool) {
        let flag = &self.shared.out_of_descriptors;
        match (flag.swap(is_stuck, Ordering::AcqRel), is_stuck) {
            (false, true) => {
                warn!("no descriptor is left: entries are refused until there is one");
                self.shared.wake_waiting();
            }
            (true, false) => warn!("there are descriptors again: entries are taken"),
            _ => {}
        }
    }

    fn make_spare(&mut self, lap: &OpenLap) -> Result<(), Trouble> {
        let (host, lap_bytes_max) = (&self.shared.host, self.shared.lap_bytes_max);
        let capacity = grow(&*lap.file, lap.capacity, lap_bytes_max)?;
        let mut background = self.shared.background();
        background.last_lap += 1;
        let header = LapHeader {
            lap: background.last_lap,
            salt: host.entropy.next_u64().map_err(Trouble::Sync)?,
            ..lap.header
        };
        drop(background);
        write_lap_header(&*lap.file, &header).map_err(Trouble::Sync)?;
        self.shared.background().spare = Some(OpenLap::new(lap.file.clone(), header, capacity));
        self.shared.wake_waiting();
        Ok(())
    }

    /// Looks whether the disk has room; clears the flag only when what was pending is written.
    fn check_space(&self) {
        let free = self.shared.host.disk.free_bytes(&self.shared.store_dir);
        match free {
            Ok(free) if free < self.shared.free_bytes_min => self.shared.note_full(),
            Ok(_) => {
                if self.shared.full.swap(false, Ordering::AcqRel) {
                    warn!("the disk has room again: entries are taken");
                }
            }
            Err(error) => warn!(%error, "the disk doesn't say how much is free"),
        }
    }
}

/// Writes a lap's header, one copy after the other, each synced: at any moment one is whole.
pub fn write_lap_header(file: &dyn File, header: &LapHeader) -> io::Result<()> {
    let bytes = header.encode();
    write_all_at(file, &bytes, 0)?;
    file.sync_data()?;
    write_all_at(file, &bytes, HEADER_COPY_AT)?;
    file.sync_data()
}

/// Doubles a journal file with zeros, up to `len_max`, and syncs it: as far as a disk that fills lets it.
fn grow(file: &dyn File, len: u64, len_max: u64) -> Result<u64, Trouble> {
    let target = (len * 2).min(len_max);
    if target <= len {
        return Ok(len);
    }
    // In small steps, each synced: the other lap's syncs would stand behind one large one.
    for begin in (len..target).step_by(ZEROS_LEN) {
        match write_zeros(file, begin, target.min(begin + ZEROS_LEN as u64)) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Ok(begin),
            Err(error) => return Err(Trouble::Write(error)),
        }
        file.sync_data().map_err(Trouble::Sync)?;
    }
    Ok(target)
}

/// Writes zeros from `begin` to `end`: a sync of bytes that were there before is faster than one
/// that has to make the file longer.
pub fn write_zeros(file: &dyn File, begin: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; end.saturating_sub(begin).min(ZEROS_LEN as u64) as usize];
    let mut position = begin;
    while position < end {
        let len = (end - position).min(ZEROS_LEN as u64);
        write_all_at(
            file,
            zeros.get(..len as usize).unwrap_or_default(),
            position,
        )?;
        position += len;
    }
    Ok(())
}

/// The path of a journal file: 1 or 2.
pub fn journal_path(journal_dir: &Path, number: u32) -> PathBuf {
    journal_dir.join(format!("{number:08}.journal"))
}
