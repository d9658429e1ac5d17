//! Files and folders of the simulated disk: what is live, what is durable, and what a crash may
//! decide about in between.

use std::collections::BTreeMap;

/// A file.
#[derive(Clone, Default)]
pub struct FileNode {
    /// What processes read.
    pub live: Vec<u8>,
    /// What is on the disk.
    pub durable: Vec<u8>,
    /// Sectors written since the last sync, with every version they had.
    pub dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths that the file had since the last sync.
    pub lengths: Vec<usize>,
}

/// A folder.
#[derive(Clone, Default)]
pub struct DirNode {
    /// What processes see.
    pub live: BTreeMap<String, usize>,
    /// What is on the disk.
    pub durable: BTreeMap<String, usize>,
    /// Changes since the last sync, in order.
    pub pending: Vec<DirChange>,
}

/// A change to a folder, atomic in itself.
#[derive(Clone)]
pub enum DirChange {
    /// A name for a node.
    Link(String, usize),
    /// A name is gone.
    Unlink(String),
    /// A node has another name.
    Rename(String, String),
}

impl FileNode {
    /// Writes through the cache.
    pub fn write(&mut self, offset: usize, bytes: &[u8], sector_bytes: usize) {
        let end = offset + bytes.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
            self.lengths.push(end);
        }
        if let Some(place) = self.live.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
        for sector in offset / sector_bytes..end.div_ceil(sector_bytes) {
            let version = sector_of(&self.live, sector, sector_bytes).to_vec();
            self.dirty.entry(sector).or_default().push(version);
        }
    }

    /// Makes what is dirty durable.
    pub fn sync(&mut self, sector_bytes: usize) {
        let len = self.live.len();
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let version = sector_of(&self.live, sector, sector_bytes).to_vec();
            put_sector(&mut self.durable, sector, sector_bytes, &version);
        }
        self.lengths.clear();
    }

    /// A sync failed: nothing was written, and the pages count as clean all the same.
    pub fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// Forgets clean pages: what is read next comes from the disk.
    pub fn drop_cache(&mut self, sector_bytes: usize) {
        let mut fresh = self.durable.clone();
        fresh.resize(self.live.len(), 0);
        for sector in self.dirty.keys() {
            let version = sector_of(&self.live, *sector, sector_bytes).to_vec();
            put_sector(&mut fresh, *sector, sector_bytes, &version);
        }
        self.live = fresh;
    }

    /// The power goes. `keep` decides for each dirty sector, given how many versions it has,
    /// which of them is on the disk (0: the old one), and `tear` may spoil the bytes of one that
    /// was being written. `keep_len` chooses among the lengths that the file had.
    pub fn crash(
        &mut self,
        sector_bytes: usize,
        mut keep: impl FnMut(usize) -> usize,
        mut tear: impl FnMut(&mut [u8]),
        keep_len: impl FnOnce(usize) -> usize,
    ) {
        let old_len = self.durable.len();
        let mut survived = self.durable.clone();
        survived.resize(self.live.len().max(old_len), 0);
        let mut kept_end = old_len;
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let version = keep(versions.len());
            if let Some(mut bytes) = version
                .checked_sub(1)
                .and_then(|v| versions.get(v))
                .cloned()
            {
                tear(&mut bytes);
                put_sector(&mut survived, sector, sector_bytes, &bytes);
                kept_end = kept_end.max(sector * sector_bytes + bytes.len());
            }
        }
        let mut lengths = vec![old_len];
        lengths.append(&mut self.lengths);
        let len = lengths
            .get(keep_len(lengths.len()))
            .copied()
            .unwrap_or(old_len);
        survived.truncate(len.max(old_len));
        self.durable = survived;
        self.live = self.durable.clone();
    }
}

impl DirNode {
    /// Changes what processes see; the disk follows with a sync.
    pub fn change(&mut self, change: DirChange) {
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    /// Makes all changes durable.
    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &change);
        }
    }

    /// The power goes; the first `kept` changes are on the disk.
    pub fn crash(&mut self, kept: usize) {
        for change in std::mem::take(&mut self.pending).iter().take(kept) {
            apply(&mut self.durable, change);
        }
        self.live = self.durable.clone();
    }
}

fn apply(entries: &mut BTreeMap<String, usize>, change: &DirChange) {
    match change {
        DirChange::Link(name, node) => {
            entries.insert(name.clone(), *node);
        }
        DirChange::Unlink(name) => {
            entries.remove(name);
        }
        DirChange::Rename(from, to) => {
            if let Some(node) = entries.remove(from) {
                entries.insert(to.clone(), node);
            }
        }
    }
}

fn sector_of(bytes: &[u8], sector: usize, sector_bytes: usize) -> &[u8] {
    let begin = sector * sector_bytes;
    let end = (begin + sector_bytes).min(bytes.len());
    bytes.get(begin..end).unwrap_or_default()
}

fn put_sector(bytes: &mut [u8], sector: usize, sector_bytes: usize, version: &[u8]) {
    let begin = sector * sector_bytes;
    let end = (begin + version.len()).min(bytes.len());
    if let Some(place) = bytes.get_mut(begin..end) {
        let len = place.len();
        place.copy_from_slice(version.get(..len).unwrap_or_default());
    }
}
