//! A store on a simulated machine, and on one thread: for simulations of what lies above it. Its journal commits
//! each group where it is submitted, so that nothing but the runtime's order of tasks decides what comes when.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::definition::DefinitionFile;
use super::folder::{self, Folder, LOCK_FILE, NODE_FILE, NOTES_DIR};
use super::sealer::SEALING_THREAD;
use super::store::{Store, StoreOptions};
pub(crate) use crate::fs::sim::{Crash, Failure, Fault, Op, SimMachine};
use crate::fs::{parent, write_all_at};
use crate::journal::checkpoint::{self, Checkpointer};
use crate::journal::committer::Committer;
use crate::journal::local::{LocalOptions, Parts};
use crate::journal::{CommitError, Group, Journal, JournalHealth};
use crate::log::reader::{Segment, list_segments};
use crate::log::record::Record;
use crate::log::scan::Found;
use crate::model::{Definition, Durability, LogId, Slug};

const STORE: &str = "/store";
/// Rounds of background work come between so many groups.
const GROUPS_PER_ROUND: u32 = 8;

/// An entry as the files have it: its id, its time, its variant, its key and its body.
pub(crate) type Kept = (LogId, u64, Box<str>, Box<str>, Bytes);

/// What the files of a store hold: each experiment's life, definition and entries.
pub(crate) type Held = Vec<(Slug, u64, Definition, Vec<Kept>)>;

/// Opens the store of a machine, on this thread's runtime.
pub(crate) fn open(machine: &SimMachine, durability: Durability) -> Result<Arc<Store>, String> {
    let host = machine.host();
    let options = StoreOptions {
        dir: STORE.into(),
        segment_bytes: 4096,
        journal_bytes: 32 << 10,
        large_group_bytes: 2048,
        free_bytes_min: 0,
        durability,
        ..StoreOptions::default()
    };
    let folder = Folder::open(&host, &options.dir).map_err(|error| error.to_string())?;
    let resume = folder.recover(&host).map_err(|error| error.to_string())?;
    let local = LocalOptions {
        store_dir: options.dir.clone(),
        store_id: folder.store_id,
        durability,
        lap_bytes_max: options.journal_bytes,
        free_bytes_min: 0,
    };
    let parts = Parts::open(&host, &local, resume).map_err(|error| error.to_string())?;
    let journal = Arc::new(InPlace {
        shared: parts.shared,
        sector_bytes: parts.sector_bytes,
        driven: Mutex::new(Driven {
            committer: parts.committer,
            checkpointer: parts.checkpointer,
            waiting: Vec::new(),
            count: 0,
        }),
    });
    let actors = tokio::runtime::Handle::current();
    let store = Store::open_on(options, host, folder, actors, journal);
    store.map(Arc::new).map_err(|error| error.to_string())
}

/// What the files of a machine's store hold, when nothing runs there.
pub(crate) fn held(machine: &SimMachine) -> Result<Held, String> {
    let host = machine.host();
    let folder = Folder::open(&host, Path::new(STORE)).map_err(|error| error.to_string())?;
    folder.recover(&host).map_err(|error| error.to_string())?;
    let mut slugs = folder
        .experiments(&host)
        .map_err(|error| error.to_string())?;
    slugs.sort();
    let mut held = Vec::new();
    for slug in slugs {
        let dir = folder::experiment_dir(Path::new(STORE), &slug);
        let file = DefinitionFile::read(&*host.disk, &dir).map_err(|error| error.to_string())?;
        let mut entries = Vec::new();
        for listed in list_segments(&*host.disk, &dir).map_err(|error| error.to_string())? {
            let segment = Segment::open(&*host.disk, &listed.path, listed.hint);
            let segment = segment.map_err(|error| error.to_string())?;
            let mut variants = HashMap::new();
            for found in segment.scan() {
                let Found::Record { frame, record, .. } = found else {
                    return Err(format!("{slug}: {found:?}"));
                };
                match record {
                    Record::Variant(variant) => {
                        variants.insert(variant.number, Box::<str>::from(variant.key));
                    }
                    Record::Entry(entry) => entries.push((
                        frame.header.id,
                        entry.received_at_ms,
                        variants.get(&entry.variant).cloned().unwrap_or_default(),
                        entry.idempotency.unwrap_or_default().into(),
                        Bytes::copy_from_slice(entry.body),
                    )),
                }
            }
        }
        let incarnation = file.incarnation().map_err(|error| error.to_string())?;
        held.push((slug, incarnation, file.definition, entries));
    }
    Ok(held)
}

/// Files with their bytes.
pub(crate) type Files = Vec<(PathBuf, Vec<u8>)>;

/// What a replica on this machine has noted, without who it is.
pub(crate) fn notes(machine: &SimMachine) -> Result<Files, String> {
    let dir = Path::new(STORE).join(NOTES_DIR);
    files(machine, |path| path.starts_with(&dir))
}

/// Puts what is on a machine, where nothing runs, on an empty one, with notes that were taken before: as a backup
/// beside a server would.
pub(crate) fn copy(from: &SimMachine, notes: Files, to: &SimMachine) -> Result<(), String> {
    let dir = Path::new(STORE).join(NOTES_DIR);
    let mut all = files(from, |path| !path.starts_with(&dir))?;
    all.extend(notes);
    let disk = to.host().disk;
    let mut made = std::collections::BTreeSet::from([PathBuf::from("/")]);
    let failed = |error: io::Error| error.to_string();
    for (path, bytes) in all {
        let above: Vec<_> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        for dir in above.into_iter().rev() {
            if made.insert(dir.clone()) {
                disk.create_dir(&dir).map_err(failed)?;
                disk.sync_dir(&parent(&dir)).map_err(failed)?;
            }
        }
        let file = disk.create(&path).map_err(failed)?;
        write_all_at(&*file, &bytes, 0).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        disk.sync_dir(&parent(&path)).map_err(failed)?;
    }
    Ok(())
}

fn files(machine: &SimMachine, wanted: impl Fn(&Path) -> bool) -> Result<Files, String> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_left_out = name.is_some_and(|name| [NODE_FILE, LOCK_FILE].contains(&name));
        wanted(path) && !is_left_out && path.extension().is_none_or(|ending| ending != "tmp")
    };
    let paths = machine.files().into_iter().filter(is_ours);
    let read = paths.map(|path| {
        let bytes = machine.read(&path);
        bytes.map(|bytes| (path, bytes))
    });
    let read = read.collect::<io::Result<Files>>();
    read.map_err(|error| error.to_string())
}

/// A journal that commits a group where it is submitted.
struct InPlace {
    shared: Arc<checkpoint::Shared>,
    sector_bytes: usize,
    driven: Mutex<Driven>,
}

struct Driven {
    committer: Committer,
    checkpointer: Checkpointer,
    waiting: Vec<Group>,
    count: u32,
}

impl Journal for InPlace {
    fn submit(&self, group: Group) {
        let mut driven = self.driven.lock().unwrap();
        driven.count += 1;
        if driven.count.is_multiple_of(GROUPS_PER_ROUND) {
            driven.checkpointer.step();
        }
        let mut groups = std::mem::take(&mut driven.waiting);
        groups.push(group);
        // A full lap is free again after a round of background work, if the disk lets it.
        for _ in 0..3 {
            groups = driven.committer.commit(groups);
            if groups.is_empty() {
                return;
            }
            driven.checkpointer.step();
        }
        driven.waiting = groups;
    }

    fn flush(&self) -> Result<(), CommitError> {
        // The sealing thread comes when it likes, and no seed would repeat a run.
        if std::thread::current().name() == Some(SEALING_THREAD) {
            return Err(CommitError::Refused);
        }
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

    fn begin_shutdown(&self) {}

    fn shutdown(&self) {}
}
