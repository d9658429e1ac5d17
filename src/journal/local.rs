//! The journal of a store on one machine: the committer and the background work, each with a
//! thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tracing::error;

use super::checkpoint::{
    Checkpointer, OpenLap, Shared, journal_path, write_lap_header, write_zeros,
};
use super::committer::Committer;
use super::format::LapHeader;
use super::scan::JOURNAL_FILES;
use super::{CommitError, Group, Journal, JournalHealth};
use crate::fs::{Access, Host};
use crate::model::Durability;

/// How large a journal file is made at first; it grows in the background.
const LAP_BYTES_MIN: u64 = 8 << 20;

/// How the local journal behaves.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The store's folder; the journal is in `journal` below it.
    pub store_dir: PathBuf,
    /// The store's id.
    pub store_id: u64,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// The size up to which each journal file grows.
    pub lap_bytes_max: u64,
    /// With less than this free on the disk, the journal says that it is full.
    pub free_bytes_min: u64,
}

/// Where a new journal goes on: everything before it is in the segments, durably.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resume {
    /// The last lap's number.
    pub last_lap: u64,
    /// The last batch's number.
    pub last_batch: u64,
    /// The number of the file that holds it; 0 when there is none.
    pub last_file: u32,
}

/// The parts of a local journal before they have threads: what a simulation drives itself.
pub struct Parts {
    /// What all parts share.
    pub shared: Arc<Shared>,
    /// Group commit.
    pub committer: Committer,
    /// The background work.
    pub checkpointer: Checkpointer,
    /// The unit in which a power cut may tear what is written.
    pub sector_bytes: usize,
}

/// The folder of a store's journal.
pub fn journal_dir(store_dir: &Path) -> PathBuf {
    store_dir.join("journal")
}

impl Parts {
    /// Begins two laps behind everything that was recovered. What the files held is gone then.
    pub fn open(host: &Host, options: &LocalOptions, resume: Resume) -> io::Result<Self> {
        let dir = journal_dir(&options.store_dir);
        match host.disk.create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        host.disk.sync_dir(&options.store_dir)?;
        let sector_bytes = host.disk.sector_bytes(&dir)?;
        // The last batch goes last: it may hold the end of a large group that began in the other
        // file. (A lap that was just begun is no help: a torn header shows the one before again.)
        let mut files: Vec<u32> = (1..=JOURNAL_FILES).collect();
        files.sort_by_key(|number| *number == resume.last_file);
        let mut laps = Vec::new();
        for (lap, number) in (resume.last_lap + 1..).zip(files) {
            laps.push(open_lap(host, options, &dir, number, lap, sector_bytes)?);
        }
        host.disk.sync_dir(&dir)?;
        let (Some(spare), Some(active)) = (laps.pop(), laps.pop()) else {
            return Err(io::Error::other("a journal has two files"));
        };
        let shared = Arc::new(Shared::new(
            host.clone(),
            options.store_dir.clone(),
            options.durability,
            options.lap_bytes_max,
            options.free_bytes_min,
            &active,
            spare,
        )?);
        Ok(Self {
            committer: Committer::new(shared.clone(), active, resume.last_batch + 1),
            checkpointer: Checkpointer::new(shared.clone()),
            shared,
            sector_bytes,
        })
    }
}

fn open_lap(
    host: &Host,
    options: &LocalOptions,
    dir: &Path,
    number: u32,
    lap: u64,
    sector_bytes: usize,
) -> io::Result<OpenLap> {
    let path = journal_path(dir, number);
    let file = match host.disk.open(&path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => host.disk.create(&path)?,
        opened => opened?,
    };
    let len_min = LAP_BYTES_MIN.min(options.lap_bytes_max);
    let mut len = file.len()?;
    if len < len_min {
        write_zeros(&*file, len, len_min)?;
        file.sync_data()?;
        len = len_min;
    }
    let header = LapHeader {
        store_id: options.store_id,
        lap,
        salt: host.entropy.next_u64()?,
        sector_bytes: sector_bytes as u32,
    };
    write_lap_header(&*file, &header)?;
    Ok(OpenLap::new(file, header, len))
}

/// The journal of a store on one machine.
pub struct LocalJournal {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sector_bytes: usize,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    committer: JoinHandle<Committer>,
    checkpointer: JoinHandle<Checkpointer>,
}

impl LocalJournal {
    /// Gives the parts of a journal their threads.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut committer = parts.committer;
        let groups = queue.clone();
        let committer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                while let Some(groups) = groups.take() {
                    committer.commit(groups);
                    // Whoever is about to hand over a group goes first, if the machine is busy:
                    // fuller batches, and no timer. (Measured: 10 % at 64 and 256 clients.)
                    std::thread::yield_now();
                }
                committer
            })?;
        let mut checkpointer = parts.checkpointer;
        let checkpointer = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                while checkpointer.wait() {
                    checkpointer.step();
                }
                checkpointer
            })?;
        let threads = Threads {
            committer,
            checkpointer,
        };
        Ok(Self {
            shared: parts.shared,
            queue,
            sector_bytes: parts.sector_bytes,
            threads: Mutex::new(Some(threads)),
        })
    }
}

impl Journal for LocalJournal {
    fn submit(&self, group: Group) {
        if let Err(group) = self.queue.push(group) {
            (group.done)(Err(CommitError::Refused));
        }
    }

    fn flush(&self) -> Result<(), CommitError> {
        self.shared.flush().map_err(|_| CommitError::Failed)
    }

    fn poison(&self, what: &str, error: &io::Error) {
        self.shared.poison(what, error);
    }

    fn note_full(&self) {
        self.shared.note_full();
    }

    fn health(&self) -> JournalHealth {
        self.shared.health()
    }

    fn sector_bytes(&self) -> usize {
        self.sector_bytes
    }

    fn shutdown(&self) {
        let threads = lock(&self.threads).take();
        let Some(threads) = threads else { return };
        self.queue.close();
        let committer = threads.committer.join();
        self.shared.close();
        let checkpointer = threads.checkpointer.join();
        let (Ok(committer), Ok(mut checkpointer)) = (committer, checkpointer) else {
            error!("a journal thread panicked: the next start will recover from the journal");
            return;
        };
        if let Err(error) = checkpointer.finish(committer.into_lap()) {
            error!(%error, "the last checkpoint failed: the next start will recover from the journal");
        }
    }
}

impl Drop for LocalJournal {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Groups on their way to the committer. Its length is bounded by the actors' mailboxes.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    groups: Vec<Group>,
    is_waited_for: bool,
    is_closed: bool,
}

impl Queue {
    fn push(&self, group: Group) -> Result<(), Group> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(group);
        }
        state.groups.push(group);
        if std::mem::take(&mut state.is_waited_for) {
            drop(state);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// All groups that wait; waits for some. `None` when there will be no more.
    fn take(&self) -> Option<Vec<Group>> {
        let mut state = lock(&self.state);
        while state.groups.is_empty() {
            if state.is_closed {
                return None;
            }
            state.is_waited_for = true;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut state.groups))
    }

    fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole values are moved in and out under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
