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
    /// Whole sectors as writes left them since the last sync, one behind the other. Few large
    /// pieces: simulations are made of these.
    images: Vec<u8>,
    writes: Vec<Written>,
    /// Lengths that the file had since the last sync.
    lengths: Vec<usize>,
    /// A sync failed: clean pages of the cache may differ from the disk.
    pub is_cache_wrong: bool,
}

/// A write since the last sync.
#[derive(Clone)]
struct Written {
    first_sector: usize,
    sector_count: usize,
    /// Where its sectors begin in the file's images.
    image: usize,
    /// How long the file was then: its last sector may end before its boundary.
    len: usize,
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
    /// A file that is on the disk as it is.
    pub fn with(bytes: &[u8]) -> Self {
        Self {
            live: bytes.to_vec(),
            durable: bytes.to_vec(),
            ..Self::default()
        }
    }

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
        let first_sector = offset / sector_bytes;
        let sector_count = end.div_ceil(sector_bytes).saturating_sub(first_sector);
        self.writes.push(Written {
            first_sector,
            sector_count,
            image: self.images.len(),
            len: self.live.len(),
        });
        let sectors = span(&self.live, first_sector, sector_count, sector_bytes);
        self.images.extend_from_slice(sectors);
    }

    /// How many sectors were written since the last sync.
    pub fn dirty_count(&self) -> usize {
        self.versions().len()
    }

    /// Makes what is dirty durable.
    pub fn sync(&mut self, sector_bytes: usize) {
        self.durable.resize(self.live.len(), 0);
        for write in &self.writes {
            let (first, count) = (write.first_sector, write.sector_count);
            let now = span(&self.live, first, count, sector_bytes);
            put(&mut self.durable, first * sector_bytes, now);
        }
        self.forget_writes();
        self.lengths.clear();
    }

    /// A sync failed: nothing was written, and the pages count as clean all the same.
    pub fn fail_sync(&mut self) {
        self.is_cache_wrong |= !self.writes.is_empty();
        self.forget_writes();
    }

    /// Forgets clean pages: what is read next comes from the disk.
    pub fn drop_cache(&mut self, sector_bytes: usize) {
        if !self.is_cache_wrong {
            return;
        }
        let mut fresh = self.durable.clone();
        fresh.resize(self.live.len(), 0);
        for write in &self.writes {
            let (first, count) = (write.first_sector, write.sector_count);
            let now = span(&self.live, first, count, sector_bytes);
            put(&mut fresh, first * sector_bytes, now);
        }
        self.live = fresh;
        self.is_cache_wrong = false;
    }

    /// Whether a crash has nothing to decide about.
    pub fn is_settled(&self) -> bool {
        self.writes.is_empty() && self.lengths.is_empty() && !self.is_cache_wrong
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
        let len_max = self.live.len().max(old_len);
        self.durable.resize(len_max, 0);
        for (sector, versions) in self.versions() {
            let kept = keep(versions.len()).checked_sub(1);
            let Some(write) = kept.and_then(|at| versions.get(at)) else {
                continue;
            };
            let from = write.image + (sector - write.first_sector) * sector_bytes;
            let begin = sector * sector_bytes;
            let len = sector_bytes.min(write.len - begin);
            if let Some(image) = self.images.get_mut(from..from + len) {
                tear(image);
                put(&mut self.durable, begin, image);
            }
        }
        let mut lengths = vec![old_len];
        lengths.append(&mut self.lengths);
        let kept = keep_len(lengths.len());
        let len = lengths.get(kept).copied().unwrap_or(old_len);
        self.durable.truncate(len.max(old_len));
        self.live.clone_from(&self.durable);
        self.forget_writes();
        self.is_cache_wrong = false;
    }

    /// The sectors written since the last sync, each with its writes in order.
    fn versions(&self) -> BTreeMap<usize, Vec<Written>> {
        let mut versions: BTreeMap<usize, Vec<Written>> = BTreeMap::new();
        for write in &self.writes {
            for sector in write.first_sector..write.first_sector + write.sector_count {
                versions.entry(sector).or_default().push(write.clone());
            }
        }
        versions
    }

    fn forget_writes(&mut self) {
        self.writes.clear();
        self.images.clear();
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

/// The bytes of these sectors, as far as the file goes.
fn span(bytes: &[u8], first_sector: usize, sector_count: usize, sector_bytes: usize) -> &[u8] {
    let begin = first_sector * sector_bytes;
    let end = (begin + sector_count * sector_bytes).min(bytes.len());
    bytes.get(begin..end).unwrap_or_default()
}

/// Puts bytes at their place, as far as the file goes.
fn put(file: &mut [u8], begin: usize, bytes: &[u8]) {
    let end = (begin + bytes.len()).min(file.len());
    if let Some(place) = file.get_mut(begin..end) {
        let len = place.len();
        place.copy_from_slice(bytes.get(..len).unwrap_or_default());
    }
}
