//! Short words for what tests on the rig do again and again: put entries, look at files, spoil
//! bytes, ask offline readers.

use std::path::{Path, PathBuf};

use trialog::fs::sim::{Op, SimMachine};
use trialog::journal::format::BATCHES_AT;
use trialog::log::segment::segment_path;
use trialog::model::LogId;
use trialog::offline::Source;
use trialog::offline::replay::{Outcome, Selection, replay};
use trialog::offline::verify::{Report, verify};

use crate::rig::{Rig, SECTOR, STORE, entry, slug};

/// Entries as readers give them back.
pub type Entries = Vec<(LogId, Vec<u8>)>;

/// The end of the path of every segment.
pub const SEGMENT: &str = ".segment";
/// The end of the path of every journal file.
pub const JOURNAL: &str = ".journal";

impl Rig {
    /// Appends one entry, which is acknowledged.
    pub fn put(&mut self, name: &str, n: u64, padding: usize) {
        let appended = self.append(&[(name, vec![entry("A", n, padding)])]);
        assert_eq!(appended, Ok(()), "{name} {n}");
    }

    /// Appends a group that goes around the journal, and is acknowledged.
    pub fn put_around(&mut self, name: &str, n: u64, count: u64) {
        let entries = (n..n + count).map(|n| entry("B", n, 700)).collect();
        assert_eq!(self.append_around(name, entries), Ok(()), "{name} {n}");
    }

    /// The end of this life, with everything in the segments, and the next one.
    pub fn restart(&mut self) {
        self.stop();
        self.start().unwrap();
    }

    /// The files of an experiment's segments, in log order.
    pub fn segments(&self, name: &str) -> Vec<PathBuf> {
        let dir = format!("{STORE}/experiments/{name}/");
        let files = self.machine.files().into_iter();
        files
            .filter(|path| {
                let path = path.to_string_lossy();
                path.starts_with(&dir) && path.ends_with(SEGMENT)
            })
            .collect()
    }

    /// Bytes of the frame with the last acknowledged entry, which ends an experiment's only segment.
    pub fn last_frame_len(&self, name: &str) -> usize {
        let bytes = self.machine.read(&first_segment(name)).unwrap();
        let (id, _) = self.models[&slug(name)].acked.last().unwrap();
        let id_at = find(&bytes, &id.as_u128().to_le_bytes()).unwrap();
        // The id stands behind magic, kind, codec, length and ordinal.
        bytes.len() - (id_at - 12)
    }

    /// How many of the bytes behind the first journal file's headers were ever written, in whole
    /// sectors.
    pub fn journal_end(&self) -> usize {
        let bytes = self.machine.read(&journal_file(1)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        used.next_multiple_of(SECTOR).max(BATCHES_AT as usize)
    }

    /// What `verify` says of the whole store.
    pub fn verified(&self) -> Report {
        verify(self.machine.host().disk, Path::new(STORE)).unwrap()
    }

    /// What an offline reader gives back from `path`, damage or not.
    pub fn replay_of(&self, path: &Path) -> (Entries, Outcome) {
        replay_of(&self.machine, path)
    }
}

/// As [`Rig::replay_of`].
pub fn replay_of(machine: &SimMachine, path: &Path) -> (Entries, Outcome) {
    let source = Source::open(machine.host().disk, path).unwrap();
    let mut entries = Vec::new();
    let outcome = replay(&source, &Selection::default(), |entry| {
        entries.push((entry.id, entry.body.to_vec()));
        Ok(())
    });
    (entries, outcome.unwrap())
}

/// A journal file.
pub fn journal_file(number: u32) -> PathBuf {
    trialog::journal::checkpoint::journal_path(&Path::new(STORE).join("journal"), number)
}

/// The first segment of an experiment.
pub fn first_segment(name: &str) -> PathBuf {
    segment_path(&Path::new(STORE).join("experiments").join(name), 0)
}

/// Changes a file's bytes behind everybody's back.
pub fn spoil(machine: &SimMachine, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = machine.read(path).unwrap();
    change(&mut bytes);
    machine.overwrite(path, &bytes).unwrap();
}

/// Puts a file there, durably.
pub fn place(machine: &SimMachine, path: &Path, bytes: &[u8]) {
    let disk = machine.host().disk;
    let mut folder = PathBuf::new();
    for part in path.parent().unwrap().components() {
        folder.push(part);
        let _may_exist = disk.create_dir(&folder);
    }
    disk.create(path).unwrap();
    disk.open_filesystem(&folder).unwrap().sync().unwrap();
    machine.overwrite(path, bytes).unwrap();
}

/// Where the first copy of `needle` begins in `bytes`.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Those of the recorded calls that are of these kinds, on paths that end so, as one word each.
pub fn calls(machine: &SimMachine, kinds: &[Op], path_end: &str) -> Vec<Op> {
    let recorded = machine.recorded().into_iter();
    recorded
        .filter(|(op, path)| kinds.contains(op) && path.ends_with(path_end))
        .map(|(op, _)| op)
        .collect()
}

/// Bytes that are nothing, the same for each seed.
pub fn garbage(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
