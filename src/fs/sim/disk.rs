//! The simulated disk behind the seam: paths, handles, faults, counts.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::meanwhile::Meanwhile;
use super::node::{DirChange, DirNode, FileNode};
use super::{Crash, Failure, Fault, OP_COUNT, Op};
use crate::fs::{Access, Dir, DirEntry, Disk, File, FileSystem, LockGuard, Mapping};

const ROOT: usize = 0;

/// The state of the disk.
#[derive(Clone)]
pub struct Inner {
    /// Handles of another epoch are dead.
    pub epoch: u64,
    pub faults: Vec<Fault>,
    pub stop_at: Option<u64>,
    pub change_count: u64,
    pub failed_count: u64,
    pub fault_count: u64,
    pub counts: HashMap<String, [u64; OP_COUNT]>,
    pub recorded: Option<Vec<(Op, String)>>,
    pub free_bytes: Option<u64>,
    pub meanwhile: Meanwhile,
    nodes: Vec<Node>,
    locks: BTreeSet<PathBuf>,
    sector_bytes: usize,
    random: fastrand::Rng,
}

#[derive(Clone)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

impl Inner {
    pub fn new(seed: u64, sector_bytes: usize) -> Self {
        Self {
            epoch: 0,
            faults: Vec::new(),
            stop_at: None,
            change_count: 0,
            failed_count: 0,
            fault_count: 0,
            counts: HashMap::new(),
            recorded: None,
            free_bytes: None,
            meanwhile: Meanwhile::default(),
            nodes: vec![Node::Dir(DirNode::default())],
            locks: BTreeSet::new(),
            sector_bytes,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub fn kill(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.stop_at = None;
    }

    pub fn crash(&mut self, crash: Crash) {
        self.kill();
        let mut bits = match crash {
            Crash::Subset(bits) => bits,
            _ => 0,
        };
        let mut bit = || {
            let is_set = bits & 1 == 1;
            bits >>= 1;
            is_set
        };
        let random = &mut self.random;
        for node in &mut self.nodes {
            let Node::File(file) = node else { continue };
            if file.is_settled() {
                continue;
            }
            let mut tearing = random.fork();
            let mut choosing = random.fork();
            let keep = |versions: usize| match crash {
                Crash::LoseAll => 0,
                Crash::KeepAll => versions,
                Crash::Random | Crash::RandomTorn => random.usize(..=versions),
                Crash::Subset(_) => usize::from(bit()) * versions,
            };
            let tear = |bytes: &mut [u8]| {
                if crash == Crash::RandomTorn && tearing.u8(..8) == 0 {
                    let from = tearing.usize(..=bytes.len());
                    tearing.fill(bytes.get_mut(from..).unwrap_or_default());
                }
            };
            let keep_len = |lengths: usize| match crash {
                Crash::LoseAll => 0,
                Crash::KeepAll | Crash::Subset(_) => lengths - 1,
                Crash::Random | Crash::RandomTorn => choosing.usize(..lengths),
            };
            file.crash(self.sector_bytes, keep, tear, keep_len);
        }
        for node in &mut self.nodes {
            let Node::Dir(dir) = node else { continue };
            let changes = dir.pending.len();
            let kept = match crash {
                Crash::LoseAll => 0,
                Crash::KeepAll => changes,
                Crash::Random | Crash::RandomTorn => self.random.usize(..=changes),
                Crash::Subset(_) => (0..changes).take_while(|_| bit()).count(),
            };
            dir.crash(kept);
        }
    }

    pub fn is_cache_wrong(&self) -> bool {
        let is_wrong = |node: &Node| match node {
            Node::File(file) => file.is_cache_wrong,
            Node::Dir(_) => false,
        };
        self.nodes.iter().any(is_wrong)
    }

    pub fn unsynced_count(&self) -> usize {
        let count = |node: &Node| match node {
            Node::File(file) => file.dirty_count(),
            Node::Dir(dir) => dir.pending.len(),
        };
        self.nodes.iter().map(count).sum()
    }

    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let node = self.find(path)?;
        match self.nodes.get(node) {
            Some(Node::File(file)) => Ok(file.live.clone()),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub fn overwrite(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let node = self.find(path)?;
        let file = self.file(node)?;
        *file = FileNode::with(bytes);
        Ok(())
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, node)) = dirs.pop() {
            let Some(Node::Dir(dir)) = self.nodes.get(node) else {
                continue;
            };
            for (name, child) in &dir.live {
                match self.nodes.get(*child) {
                    Some(Node::Dir(_)) => dirs.push((path.join(name), *child)),
                    _ => files.push(path.join(name)),
                }
            }
        }
        files.sort();
        files
    }

    /// Counts a call and says whether it fails. A failing sync has happened, and lost the pages.
    fn call(&mut self, epoch: u64, op: Op, path: &str) -> io::Result<Option<Failure>> {
        if epoch != self.epoch {
            return Err(io::Error::other("the machine has crashed"));
        }
        let changes = !matches!(op, Op::Open | Op::Read | Op::List | Op::Map);
        if changes {
            if self.stop_at.is_some_and(|at| self.change_count >= at) {
                self.failed_count += 1;
                return Err(io::Error::other("the power has gone"));
            }
            self.change_count += 1;
        }
        self.count(op, path);
        if let Some(recorded) = &mut self.recorded {
            recorded.push((op, path.to_owned()));
        }
        let mut failure = None;
        self.faults.retain_mut(|fault| {
            if failure.is_some() || fault.op != op || !path.contains(fault.path) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            failure = Some(fault.failure);
            fault.is_sticky
        });
        if failure.is_some() {
            self.failed_count += 1;
            self.fault_count += 1;
        }
        match failure {
            None => Ok(None),
            Some(Failure::Short) if op == Op::Write => Ok(failure),
            Some(_) if op == Op::Sync => Ok(failure),
            Some(failure) => Err(error_of(failure)),
        }
    }

    fn count(&mut self, op: Op, path: &str) {
        let counts = match self.counts.get_mut(path) {
            Some(counts) => counts,
            None => self.counts.entry(path.to_owned()).or_default(),
        };
        if let Some(count) = counts.get_mut(op as usize) {
            *count += 1;
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut node = ROOT;
        for name in text(path)?.split('/').filter(|name| !name.is_empty()) {
            let Some(Node::Dir(dir)) = self.nodes.get(node) else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            node = *dir.live.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut DirNode> {
        let node = self.find(path)?;
        match self.nodes.get_mut(node) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn file(&mut self, node: usize) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (parent, name) = split(path)?;
        let id = self.nodes.len();
        let dir = self.dir(parent)?;
        if dir.live.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.change(DirChange::Link(name.to_owned(), id));
        self.nodes.push(node);
        Ok(id)
    }
}

/// The disk as one life of a process sees it.
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    epoch: u64,
}

impl SimDisk {
    pub fn new(inner: Arc<Mutex<Inner>>, epoch: u64) -> Self {
        Self { inner, epoch }
    }

    fn call(&self, op: Op, path: &Path) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = super::lock(&self.inner);
        match inner.call(self.epoch, op, text(path)?)? {
            None => Ok(inner),
            Some(failure) => Err(error_of(failure)),
        }
    }

    fn handle(&self, path: &Path, node: usize) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SimFile {
            inner: self.inner.clone(),
            epoch: self.epoch,
            path: text(path)?.to_owned(),
            node,
        }))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let node = self
            .call(Op::Create, path)?
            .add(path, Node::File(FileNode::default()))?;
        self.handle(path, node)
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn File>> {
        let mut inner = self.call(Op::Open, path)?;
        let node = inner.find(path)?;
        inner.file(node)?;
        drop(inner);
        self.handle(path, node)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.call(Op::Rename, from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from)?, split(to)?);
        if from_dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        if let Ok(target) = inner.find(to)
            && let Some(Node::Dir(dir)) = inner.nodes.get(target)
            && !dir.live.is_empty()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let dir = inner.dir(from_dir)?;
        if !dir.live.contains_key(from_name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        dir.change(DirChange::Rename(from_name.to_owned(), to_name.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.call(Op::Remove, path)?;
        let (parent, name) = split(path)?;
        let dir = inner.dir(parent)?;
        if !dir.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        dir.change(DirChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.call(Op::CreateDir, path)?;
        if inner.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.add(path, Node::Dir(DirNode::default()))?;
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.call(Op::Remove, path)?;
        if !inner.dir(path)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = split(path)?;
        let change = DirChange::Unlink(name.to_owned());
        inner.dir(parent)?.change(change);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let inner = self.call(Op::List, path)?;
        let Some(Node::Dir(dir)) = inner.nodes.get(inner.find(path)?) else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        let entry = |(name, node): (&String, &usize)| DirEntry {
            name: name.clone(),
            is_dir: matches!(inner.nodes.get(*node), Some(Node::Dir(_))),
        };
        Ok(dir.live.iter().map(entry).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir, path)?.dir(path)?.sync();
        Ok(())
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.call(Op::Open, path)?.dir(path)?;
        let disk = Self {
            inner: self.inner.clone(),
            epoch: self.epoch,
        };
        let path = path.to_path_buf();
        Ok(Box::new(SimDir { disk, path }))
    }

    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.call(Op::Open, path)?.find(path)?;
        Ok(Arc::new(SimFileSystem {
            inner: self.inner.clone(),
            epoch: self.epoch,
            path: text(path)?.to_owned(),
        }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = match self.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.open(path, Access::ReadWrite)
            }
            created => created,
        }?;
        let mut inner = super::lock(&self.inner);
        if !inner.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock {
            inner: self.inner.clone(),
            epoch: self.epoch,
            path: path.to_path_buf(),
            file,
        })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(super::lock(&self.inner).locks.contains(path))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(super::lock(&self.inner).free_bytes.unwrap_or(u64::MAX))
    }

    fn sector_bytes(&self, _path: &Path) -> io::Result<usize> {
        Ok(super::lock(&self.inner).sector_bytes)
    }
}

struct SimDir {
    disk: SimDisk,
    path: PathBuf,
}

impl Dir for SimDir {
    fn sync(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.path)
    }
}

struct SimFileSystem {
    inner: Arc<Mutex<Inner>>,
    epoch: u64,
    path: String,
}

impl FileSystem for SimFileSystem {
    fn sync(&self) -> io::Result<()> {
        let mut inner = super::lock(&self.inner);
        if let Some(failure) = inner.call(self.epoch, Op::SyncFilesystem, &self.path)? {
            return Err(error_of(failure));
        }
        let sector_bytes = inner.sector_bytes;
        for node in &mut inner.nodes {
            match node {
                Node::File(file) => file.sync(sector_bytes),
                Node::Dir(dir) => dir.sync(),
            }
        }
        Ok(())
    }
}

struct SimFile {
    inner: Arc<Mutex<Inner>>,
    epoch: u64,
    /// As text: it is asked for at each call.
    path: String,
    node: usize,
}

impl SimFile {
    fn let_happen(&self, op: Op) {
        let meanwhile = super::lock(&self.inner).meanwhile.clone();
        meanwhile.happen(op, &self.path);
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut inner = super::lock(&self.inner);
        if self.epoch != inner.epoch {
            return Err(io::Error::other("the machine has crashed"));
        }
        Ok(inner.file(self.node)?.live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = super::lock(&self.inner);
        inner.call(self.epoch, Op::Read, &self.path)?;
        let live = &inner.file(self.node)?.live;
        let rest = live.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        let (Some(target), Some(source)) = (buffer.get_mut(..len), rest.get(..len)) else {
            return Ok(0);
        };
        target.copy_from_slice(source);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.let_happen(Op::Write);
        let mut inner = super::lock(&self.inner);
        let failure = inner.call(self.epoch, Op::Write, &self.path)?;
        let sector_bytes = inner.sector_bytes;
        let mut bytes = match failure {
            Some(_) => bytes.get(..bytes.len().div_ceil(2)).unwrap_or_default(),
            None => bytes,
        };
        let live_len = inner.file(self.node)?.live.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(live_len);
        if let Some(free) = inner.free_bytes {
            if growth > 0 && free == 0 {
                return Err(error_of(Failure::Full));
            }
            let taken = growth.min(free);
            let kept = bytes.len() - (growth - taken) as usize;
            bytes = bytes.get(..kept).unwrap_or_default();
            inner.free_bytes = Some(free - taken);
        }
        let file = inner.file(self.node)?;
        file.write(offset as usize, bytes, sector_bytes);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.let_happen(Op::Sync);
        let mut inner = super::lock(&self.inner);
        let failure = inner.call(self.epoch, Op::Sync, &self.path)?;
        let sector_bytes = inner.sector_bytes;
        let file = inner.file(self.node)?;
        if let Some(failure) = failure {
            file.fail_sync();
            return Err(error_of(failure));
        }
        file.sync(sector_bytes);
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut inner = super::lock(&self.inner);
        let sector_bytes = inner.sector_bytes;
        inner.file(self.node)?.drop_cache(sector_bytes);
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        let mut inner = super::lock(&self.inner);
        inner.call(self.epoch, Op::Map, &self.path)?;
        let live = &inner.file(self.node)?.live;
        let mapped = live.get(..len as usize);
        let mapped = mapped.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Mapping::Owned(mapped.to_vec()))
    }
}

struct SimLock {
    inner: Arc<Mutex<Inner>>,
    epoch: u64,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl LockGuard for SimLock {
    fn file(&self) -> &dyn File {
        &*self.file
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = super::lock(&self.inner);
        if inner.epoch == self.epoch {
            inner.locks.remove(&self.path);
        }
    }
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((parent, text(Path::new(name))?))
}

/// The path as text: all of ours are.
fn text(path: &Path) -> io::Result<&str> {
    let text = path.to_str();
    text.ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

fn error_of(failure: Failure) -> io::Error {
    match failure {
        Failure::Io | Failure::Short => io::Error::from_raw_os_error(5),
        Failure::Full => io::ErrorKind::StorageFull.into(),
        Failure::Interrupted => io::ErrorKind::Interrupted.into(),
        Failure::TooManyFiles => io::Error::from_raw_os_error(24),
    }
}
