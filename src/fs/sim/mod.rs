//! A machine whose disk, clock and randomness a test decides: what is lost in a crash, which call
//! fails, what time it is. The same seed gives the same machine.
//!
//! The disk promises what POSIX promises and no more. Written bytes are durable after
//! `sync_data`, folder entries after `sync_dir`; until then a crash may keep any version of each
//! sector, lose it, or (when asked for) tear it, and keep any number of a folder's changes from
//! their beginning on. After a failed sync the pages count as clean, as on Linux: the cache shows
//! bytes that the disk never got.

mod disk;
mod meanwhile;
mod node;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Clock, Entropy, Host};
use disk::{Inner, SimDisk};
use meanwhile::Meanwhile;

/// The simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimMachine {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<SimClock>,
    entropy: Arc<SimEntropy>,
}

/// What a crash does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All of it is lost.
    LoseAll,
    /// All of it is kept.
    KeepAll,
    /// Each sector has any of its versions, each folder any number of its changes.
    Random,
    /// As `Random`, and sectors that were being written may hold garbage.
    RandomTorn,
    /// Bit n decides whether the n-th unsynced thing is kept: sectors first, then folder changes.
    Subset(u64),
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Op {
    Create,
    Open,
    Rename,
    Remove,
    CreateDir,
    List,
    SyncDir,
    SyncFilesystem,
    Read,
    Write,
    Sync,
    Map,
}

/// How many kinds of calls there are.
const OP_COUNT: usize = Op::Map as usize + 1;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An I/O error.
    Io,
    /// The disk is full.
    Full,
    /// A signal came in between.
    Interrupted,
    /// No descriptor is left.
    TooManyFiles,
    /// A write that takes only half of its bytes, and no error.
    Short,
}

/// Which calls fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The kind of call.
    pub op: Op,
    /// Only on paths that contain this text.
    pub path: &'static str,
    /// How many such calls go well before one fails.
    pub after: u64,
    /// How it fails.
    pub failure: Failure,
    /// Whether all later ones fail too.
    pub is_sticky: bool,
}

impl SimMachine {
    /// A machine with an empty disk whose folder `/` exists.
    pub fn new(seed: u64, sector_bytes: usize) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner::new(seed, sector_bytes))),
            clock: Arc::new(SimClock(AtomicU64::new(1_764_000_000_000))),
            entropy: Arc::new(SimEntropy(Mutex::new(fastrand::Rng::with_seed(!seed)))),
        }
    }

    /// The machine as a store sees it, from now until the next crash or kill.
    pub fn host(&self) -> Host {
        let epoch = self.inner().epoch;
        Host {
            disk: Arc::new(SimDisk::new(self.inner.clone(), epoch)),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        }
    }

    /// The power goes: what was not synced is lost, kept or torn, and all handles are dead.
    pub fn crash(&self, crash: Crash) {
        self.inner().crash(crash);
    }

    /// The process is killed, the operating system lives: nothing is lost, all handles are dead.
    pub fn kill(&self) {
        self.inner().kill();
    }

    /// Has calls fail.
    pub fn fail(&self, fault: Fault) {
        self.inner().faults.push(fault);
    }

    /// Lets all calls go well again.
    pub fn heal(&self) {
        self.inner().faults.clear();
    }

    /// Has `work` done once, in the middle of the next such call: a write or a sync of a file whose path
    /// contains `path`. What it calls comes before that call takes effect.
    pub fn meanwhile(&self, op: Op, path: &'static str, work: impl FnOnce() + Send + 'static) {
        let meanwhile = self.inner().meanwhile.clone();
        meanwhile.plan(op, path, Box::new(work));
    }

    /// Forgets the work of [`Self::meanwhile`] that wasn't done.
    pub fn nothing_meanwhile(&self) {
        let meanwhile = self.inner().meanwhile.clone();
        meanwhile.forget();
    }

    /// From the n-th call on that changes the disk (from 0), every call fails, as if the power
    /// had gone then; [`Self::crash`] decides what is left.
    pub fn stop_at(&self, n: u64) {
        let mut inner = self.inner();
        inner.stop_at = Some(inner.change_count + n);
    }

    /// How many calls changed the disk so far.
    pub fn change_count(&self) -> u64 {
        self.inner().change_count
    }

    /// How many calls failed so far because of [`Self::fail`].
    pub fn fault_count(&self) -> u64 {
        self.inner().fault_count
    }

    /// Whether a sync failed since the last crash, and the cache shows what the disk lacks.
    pub fn is_cache_wrong(&self) -> bool {
        self.inner().is_cache_wrong()
    }

    /// How many calls failed so far, since the test wanted it or the power had gone.
    pub fn failed_count(&self) -> u64 {
        self.inner().failed_count
    }

    /// How many calls of a kind there were, on paths that contain `path`.
    pub fn count(&self, op: Op, path: &str) -> u64 {
        let inner = self.inner();
        let counts = inner.counts.iter();
        counts
            .filter(|(on, _)| on.contains(path))
            .filter_map(|(_, counts)| counts.get(op as usize))
            .sum()
    }

    /// Keeps a list of all calls from now on.
    pub fn record(&self) {
        self.inner().recorded = Some(Vec::new());
    }

    /// The calls since [`Self::record`], in their order, each with its path.
    pub fn recorded(&self) -> Vec<(Op, String)> {
        self.inner().recorded.take().unwrap_or_default()
    }

    /// How many things a crash would decide about.
    pub fn unsynced_count(&self) -> usize {
        self.inner().unsynced_count()
    }

    /// How many bytes may still be written.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.inner().free_bytes = bytes;
    }

    /// Sets the clock, forwards or back.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.clock.0.store(now_ms, Ordering::Relaxed);
    }

    /// A file's bytes, behind everybody's back.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner().bytes(path)
    }

    /// Replaces a file's bytes, live and durable, behind everybody's back.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.inner().overwrite(path, bytes)
    }

    /// All files, with their paths.
    pub fn files(&self) -> Vec<std::path::PathBuf> {
        self.inner().files()
    }

    /// A second machine that is in the same state as this one, and goes its own way from here.
    pub fn fork(&self) -> Self {
        let entropy = lock(&self.entropy.0).clone();
        let mut inner = self.inner().clone();
        inner.meanwhile = Meanwhile::default();
        inner.kill();
        Self {
            inner: Arc::new(Mutex::new(inner)),
            clock: Arc::new(SimClock(AtomicU64::new(self.clock.now_ms()))),
            entropy: Arc::new(SimEntropy(Mutex::new(entropy))),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

/// A clock that stands still until it is set.
struct SimClock(AtomicU64);

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct SimEntropy(Mutex<fastrand::Rng>);

impl Entropy for SimEntropy {
    fn next_u64(&self) -> io::Result<u64> {
        Ok(lock(&self.0).u64(..))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Access, write_all_at};

    fn path() -> &'static Path {
        Path::new("/f")
    }

    fn with_file(bytes: &[u8]) -> (SimMachine, Host) {
        let machine = SimMachine::new(1, 512);
        let host = machine.host();
        let file = host.disk.create(path()).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
        file.sync_data().unwrap();
        host.disk.sync_dir(Path::new("/")).unwrap();
        (machine, host)
    }

    #[test]
    fn what_is_synced_stays_and_the_rest_is_the_crashs_choice() {
        for (crash, expected) in [
            (Crash::LoseAll, 1),
            (Crash::KeepAll, 2),
            (Crash::Subset(1), 2),
        ] {
            let (machine, host) = with_file(&[1; 1024]);
            let file = host.disk.open(path(), Access::ReadWrite).unwrap();
            write_all_at(&*file, &[2; 512], 0).unwrap();
            machine.crash(crash);
            assert_eq!(machine.read(path()).unwrap()[0], expected, "{crash:?}");
            assert_eq!(machine.read(path()).unwrap()[512], 1);
            assert!(file.sync_data().is_err(), "old handles are dead");
        }
    }

    #[test]
    fn a_new_name_needs_its_folder_synced() {
        let (machine, host) = with_file(b"x");
        let file = host.disk.create(Path::new("/g")).unwrap();
        write_all_at(&*file, b"y", 0).unwrap();
        file.sync_data().unwrap();
        host.disk.rename(path(), Path::new("/h")).unwrap();
        machine.crash(Crash::LoseAll);
        assert_eq!(machine.files(), [path().to_path_buf()]);
    }

    #[test]
    fn after_a_failed_sync_the_cache_lies_and_a_second_sync_says_ok() {
        let (machine, host) = with_file(&[1; 512]);
        let file = host.disk.open(path(), Access::ReadWrite).unwrap();
        write_all_at(&*file, &[2; 512], 0).unwrap();
        machine.fail(Fault {
            op: Op::Sync,
            path: "f",
            after: 0,
            failure: Failure::Io,
            is_sticky: false,
        });
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        assert_eq!(machine.read(path()).unwrap()[0], 2);
        file.drop_cache().unwrap();
        assert_eq!(machine.read(path()).unwrap()[0], 1);
    }

    #[test]
    fn a_kill_loses_nothing_and_gives_the_lock_back() {
        let machine = SimMachine::new(1, 512);
        let host = machine.host();
        let lock = host.disk.lock(Path::new("/L")).unwrap().unwrap();
        assert!(host.disk.lock(Path::new("/L")).unwrap().is_none());
        machine.kill();
        let host = machine.host();
        let again = host.disk.lock(Path::new("/L")).unwrap();
        assert!(again.is_some());
        drop(lock);
        assert!(host.disk.is_locked(Path::new("/L")).unwrap());
    }

    #[test]
    fn a_disk_fills_in_the_middle_of_a_write() {
        let (machine, host) = with_file(b"");
        machine.set_free_bytes(Some(100));
        let file = host.disk.open(path(), Access::ReadWrite).unwrap();
        assert_eq!(file.write_at(&[1; 300], 0).unwrap(), 100);
        let full = file.write_at(&[1; 200], 100).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.write_at(&[2; 50], 0).unwrap(), 50);
    }
}
