//! The journal of a store on one machine: the committer, which somebody drives, and the background
//! work, which has a thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tracing::{error, info, warn};

use super::checkpoint::{
    Checkpointer, OpenLap, Shared, Wake, journal_path, write_lap_header, write_zeros,
};
use super::committer::Committer;
use super::format::LapHeader;
use super::scan::JOURNAL_FILES;
use super::{CommitError, Group, Journal, JournalHealth};
use crate::fs::{Access, Host, naming};
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
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(naming(&dir)(error));
            }
            _ => {}
        }
        let store_dir = &options.store_dir;
        host.disk.sync_dir(store_dir).map_err(naming(store_dir))?;
        let sector_bytes = host.disk.sector_bytes(&dir).map_err(naming(&dir))?;
        // The last batch goes last: it may hold the end of a large group that began in the other
        // file. (A lap that was just begun is no help: a torn header shows the one before again.)
        let mut files: Vec<u32> = (1..=JOURNAL_FILES).collect();
        files.sort_by_key(|number| *number == resume.last_file);
        let mut laps = Vec::new();
        for (lap, number) in (resume.last_lap + 1..).zip(files) {
            let path = journal_path(&dir, number);
            let opened = open_lap(host, options, &path, lap, sector_bytes);
            laps.push(opened.map_err(naming(&path))?);
        }
        host.disk.sync_dir(&dir).map_err(naming(&dir))?;
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
    path: &Path,
    lap: u64,
    sector_bytes: usize,
) -> io::Result<OpenLap> {
    let file = match host.disk.open(path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => host.disk.create(path)?,
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
    queue: Mutex<Queue>,
    /// Called when the first group waits.
    wake: Arc<Wake>,
    committer: Mutex<Option<Committer>>,
    checkpointer: Mutex<Option<JoinHandle<Checkpointer>>>,
    sector_bytes: usize,
}

/// Groups on their way to the committer. Their number is bounded by the actors.
#[derive(Default)]
struct Queue {
    groups: Vec<Group>,
    /// Nothing waits for a journal that is stuck any more.
    is_ending: bool,
    is_closed: bool,
}

impl LocalJournal {
    /// Starts the background work. `wake` is called when a group waits, and when one that waits for a
    /// lap may have it: whoever it wakes calls [`Self::commit_waiting`].
    pub fn start(parts: Parts, wake: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let wake: Arc<Wake> = Arc::new(wake);
        parts.shared.wake_with(wake.clone());
        let mut checkpointer = parts.checkpointer;
        let checkpointer = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                while checkpointer.wait() {
                    checkpointer.step();
                }
                checkpointer
            })?;
        Ok(Self {
            shared: parts.shared,
            queue: Mutex::default(),
            wake,
            committer: Mutex::new(Some(parts.committer)),
            checkpointer: Mutex::new(Some(checkpointer)),
            sector_bytes: parts.sector_bytes,
        })
    }

    /// Makes all waiting groups durable, in one batch if they aren't too many, and answers them.
    /// Blocks for a write and a sync. Those for which there is no lap yet stay first in the queue.
    pub fn commit_waiting(&self) {
        let mut committer = lock(&self.committer);
        let groups = std::mem::take(&mut lock(&self.queue).groups);
        let left = match &mut *committer {
            Some(committer) => committer.commit(groups),
            None => groups,
        };
        if !left.is_empty() {
            self.put_back(left);
        }
    }

    fn put_back(&self, mut groups: Vec<Group>) {
        let mut queue = lock(&self.queue);
        groups.append(&mut queue.groups);
        let is_stuck = self.shared.health() != JournalHealth::Ready;
        // What comes behind one that is refused would stand behind a hole.
        queue.is_closed |= queue.is_ending && is_stuck;
        if queue.is_closed {
            drop(queue);
            return close(groups);
        }
        queue.groups = groups;
    }
}

fn close(groups: Vec<Group>) {
    for group in groups {
        (group.done)(Err(CommitError::Closed));
    }
}

impl Journal for LocalJournal {
    fn submit(&self, group: Group) {
        let mut queue = lock(&self.queue);
        if queue.is_closed {
            drop(queue);
            return close(vec![group]);
        }
        let is_first = queue.groups.is_empty();
        queue.groups.push(group);
        drop(queue);
        if is_first {
            (self.wake)();
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

    fn begin_shutdown(&self) {
        lock(&self.queue).is_ending = true;
        // For those that wait already.
        (self.wake)();
    }

    fn shutdown(&self) {
        lock(&self.queue).is_closed = true;
        self.commit_waiting();
        let Some(committer) = lock(&self.committer).take() else {
            return;
        };
        self.shared.close();
        let checkpointer = lock(&self.checkpointer).take().map(JoinHandle::join);
        let Some(Ok(mut checkpointer)) = checkpointer else {
            error!("the checkpoint thread panicked: the next start will recover from the journal");
            return;
        };
        let Some(lap) = committer.into_lap() else {
            warn!("a large group has not ended: the next start will recover from the journal");
            return;
        };
        match checkpointer.finish(lap) {
            Ok(()) => info!("everything is in the segments"),
            Err(error) => {
                error!(%error, "the last checkpoint failed: the next start will recover from the journal");
            }
        }
    }
}

impl Drop for LocalJournal {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole values are moved in and out under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::fs::sim::{Failure, Fault, Op, SimMachine};
    use crate::journal::format::BATCHES_AT;
    use crate::journal::{IfFull, Mark};
    use crate::log::lead::Lead;
    use crate::log::segment_file::{Incarnation, SegmentFile, SegmentId};
    use crate::model::Slug;

    const GROUPS: u64 = 20;
    const GROUP_LEN: u64 = 1000;

    #[test]
    fn groups_that_wait_for_a_lap_become_durable_in_their_order() {
        let machine = SimMachine::new(1, 512);
        let host = machine.host();
        let store_dir = PathBuf::from("/store");
        for dir in [store_dir.clone(), store_dir.join("one")] {
            host.disk.create_dir(&dir).unwrap();
        }
        let options = LocalOptions {
            store_dir: store_dir.clone(),
            store_id: 1,
            durability: Durability::Sync,
            lap_bytes_max: BATCHES_AT + 5 * GROUP_LEN,
            free_bytes_min: 0,
        };
        let parts = Parts::open(&host, &options, Resume::default()).unwrap();
        let (wake, woken) = channel();
        let journal = LocalJournal::start(parts, move || wake.send(()).unwrap()).unwrap();
        let id = SegmentId {
            slug: Slug::parse("one").unwrap(),
            incarnation: 1,
            first_sequence: 0,
            salt: 1,
        };
        let path = store_dir.join("one/0.segment");
        let segment = SegmentFile::new(host.disk.clone(), Incarnation::new(1), id, path);
        let segment = Arc::new(segment);
        machine.fail(Fault {
            op: Op::Create,
            path: ".segment",
            after: 0,
            failure: Failure::Full,
            is_sticky: true,
        });
        let (done, durable) = channel();
        for n in 0..GROUPS {
            let done = done.clone();
            journal.submit(Group {
                segment: segment.clone(),
                offset: n * GROUP_LEN,
                lead: Lead::default(),
                bytes: vec![7; GROUP_LEN as usize],
                entry_count: 0,
                mark: Mark::None,
                if_full: IfFull::Waits,
                done: Box::new(move |result| done.send((n, result)).unwrap()),
            });
            // Each in turn, and those that are left in front of it.
            journal.commit_waiting();
        }
        let fitting: Vec<_> = durable.try_iter().collect();
        assert!(fitting.len() < GROUPS as usize, "some wait");
        machine.heal();
        let mut all = fitting;
        while all.len() < GROUPS as usize {
            woken.recv().unwrap();
            journal.commit_waiting();
            all.extend(durable.try_iter());
        }
        let in_order: Vec<_> = (0..GROUPS).map(|n| (n, Ok(()))).collect();
        assert_eq!(all, in_order);
        assert_eq!(segment.durable_end(), GROUPS * GROUP_LEN);
    }
}
