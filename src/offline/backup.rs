//! A consistent copy of a store, which can be served itself. Of a store that nobody has open, it is what a
//! start would find; beside a server, which says how far each segment is durable, it is all that was
//! acknowledged before. It appears under its name when it is whole and synced.
//!
//! Of a node of a replicated store it is a new node: it has the notes of how far that one is on its stream, copied
//! before all else, so that they never lead what the copy has; and no number, which it draws when it is started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use super::source::{OfflineError, Source};
use crate::experiment::definition::{DEFINITION_FILE, DefinitionFile};
use crate::experiment::folder::{
    FORMAT_FILE, LOCK_FILE, NODE_FILE, NOTES_DIR, experiment_dir, experiments_dir, read_store_id,
};
use crate::fs::{
    Access, Disk, File, Host, LockGuard, naming, parent, read_exact_at, read_small, replace_file,
    write_all_at,
};
use crate::journal::local::{LocalOptions, Parts, Resume, journal_dir};
use crate::log::dropped::{DROPPED_FILE, was_dropped};
use crate::log::outline::{Here, outline_path};
use crate::log::reader::SegmentError;
use crate::model::{Durability, Slug};

/// What a copy that isn't whole has behind its name.
const UNFINISHED: &str = ".unfinished";
/// What is in it is copied as it is.
const KEYS_FILE: &str = "keys.json";
const SMALL_FILE_MAX: u64 = 64 << 20;
const COPY_BYTES: usize = 1 << 20;
/// The journal of the copy is empty.
const JOURNAL_BYTES: u64 = 1 << 20;
/// What a server has told to be durable it writes into its file within 100 ms.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How far a segment is durable, as the server that writes it says.
#[derive(Debug, Clone)]
pub struct DurableSegment {
    /// The name of its file.
    pub file_name: String,
    /// So many bytes of it.
    pub bytes: u64,
}

/// What asks a server for the segments of an experiment, in log order.
pub type Ask<'a> = dyn FnMut(&Slug) -> Result<Vec<DurableSegment>, String> + 'a;

/// What was copied.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct BackedUp {
    /// How many experiments.
    pub experiments: u64,
    /// How many segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments whose bytes are in an archive alone: the copy has their outlines, and reads there, too.
    pub archived_segments: u64,
    /// What isn't as it should be: it was copied as it is, or left out.
    pub findings: Vec<String>,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It would replace something.
    #[error("{0} is there already: name a folder that isn't")]
    Exists(PathBuf),
    /// Another one is being written.
    #[error("another backup is being written to {0}")]
    Busy(PathBuf),
    /// Something else is in the way.
    #[error("{0} is in the way, and no backup that was broken off: remove it")]
    InTheWay(PathBuf),
    /// There is nothing to copy.
    #[error("{0} is not a trialog store")]
    NotAStore(PathBuf),
    /// A server has it open, and nobody asks it.
    #[error("a server has {0} open: it must be asked how far it is durable")]
    InUse(PathBuf),
    /// The server doesn't answer as it should.
    #[error("{slug}: {why}")]
    Server {
        /// The experiment that it was asked for.
        slug: Slug,
        /// What it said, or didn't.
        why: String,
    },
    /// The store can't be read.
    #[error(transparent)]
    Source(#[from] OfflineError),
    /// The disk failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Copies the store in `from` to `to`, which isn't there yet. `ask` asks the server that has it open.
/// What only the journal holds is put into its segments; the copy's own journal is empty. `admin.key` is
/// left out: the hashes of all keys are in the copy.
pub fn backup(
    host: &Host,
    from: &Path,
    to: &Path,
    ask: Option<&mut Ask<'_>>,
) -> Result<BackedUp, BackupError> {
    let disk = &host.disk;
    let store_id = read_store_id(&**disk, from).map_err(OfflineError::from)?;
    let store_id = store_id.ok_or_else(|| BackupError::NotAStore(from.to_path_buf()))?;
    let target = Target::begin(host, to)?;
    // First: a note that is older than what it stands beside has the node place again what it has.
    let noted = target.copy_notes(from);
    let copied = noted.and_then(|()| match ask {
        Some(ask) => target.copy_beside(from, ask),
        None => target.copy_settled(from),
    });
    let finished = copied.and_then(|copied| {
        target.finish(from, to, store_id)?;
        Ok(copied)
    });
    if finished.is_err() {
        target.clear_away();
    }
    finished
}

/// Whether a server has the store open.
pub fn is_in_use(disk: &dyn Disk, from: &Path) -> bool {
    disk.is_locked(&from.join(LOCK_FILE)).unwrap_or(false)
}

/// A copy that is being written.
struct Target {
    host: Host,
    dir: PathBuf,
    _lock: Box<dyn LockGuard>,
}

impl Target {
    fn begin(host: &Host, to: &Path) -> Result<Self, BackupError> {
        let disk = &*host.disk;
        if disk.list(to).is_ok() || disk.open(to, Access::Read).is_ok() {
            return Err(BackupError::Exists(to.to_path_buf()));
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(UNFINISHED);
        let dir = to.with_file_name(name);
        let is_there = match disk.create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            made => {
                made.map_err(naming(&dir))?;
                false
            }
        };
        if is_there && !is_broken_off(disk, &dir)? {
            return Err(BackupError::InTheWay(dir));
        }
        let lock_path = dir.join(LOCK_FILE);
        let lock = match disk.lock(&lock_path) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(BackupError::Busy(dir)),
            Err(error) => {
                remove_if_possible(disk, &dir);
                return Err(naming(&lock_path)(error).into());
            }
        };
        let target = Self {
            host: host.clone(),
            dir,
            _lock: lock,
        };
        let experiments = experiments_dir(&target.dir);
        let cleared = target.clear();
        let made = cleared.and_then(|()| disk.create_dir(&experiments));
        match made.map_err(naming(&experiments)) {
            Ok(()) => Ok(target),
            Err(error) => {
                target.clear_away();
                Err(error.into())
            }
        }
    }

    /// Removes all but the lock.
    fn clear(&self) -> io::Result<()> {
        let disk = &*self.host.disk;
        for entry in disk.list(&self.dir)? {
            if entry.name != LOCK_FILE {
                remove(disk, &self.dir.join(&entry.name), entry.is_dir)?;
            }
        }
        Ok(())
    }

    /// The disk may have no room for half a copy. What can't be removed is no store: the next one does.
    fn clear_away(&self) {
        if self.clear().is_ok() {
            remove_if_possible(&*self.host.disk, &self.dir);
        }
    }

    /// Copies what a node remembers of its stream, but for who it is: the copy is another node.
    fn copy_notes(&self, from: &Path) -> Result<(), BackupError> {
        let disk = &*self.host.disk;
        let (from, to) = (from.join(NOTES_DIR), self.dir.join(NOTES_DIR));
        let listed = match disk.list(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(naming(&from))?,
        };
        disk.create_dir(&to).map_err(naming(&to))?;
        for entry in listed {
            // Others are about to become notes.
            if entry.name == NODE_FILE || !entry.name.ends_with(".json") {
                continue;
            }
            let note = from.join(&entry.name);
            let bytes = read_small(disk, &note, SMALL_FILE_MAX).map_err(naming(&note))?;
            write_new(disk, &to.join(&entry.name), &bytes)?;
        }
        disk.sync_dir(&to).map_err(naming(&to))?;
        Ok(())
    }

    /// Copies a store that nobody has open, and keeps it so.
    fn copy_settled(&self, from: &Path) -> Result<BackedUp, BackupError> {
        let disk = &self.host.disk;
        let in_use = || BackupError::InUse(from.to_path_buf());
        let lock = disk.lock(&from.join(LOCK_FILE))?;
        let _lock = lock.ok_or_else(in_use)?;
        let source = Source::open(disk.clone(), from)?;
        let plan = source.plan();
        let mut copied = BackedUp::default();
        for damage in plan
            .damages
            .iter()
            .filter(|damage| damage.corrected.is_none())
        {
            let path = damage.path.display();
            copied.findings.push(format!("{path}: {}", damage.what));
        }
        for dir in source.experiment_dirs() {
            let to = self.experiment_of(dir);
            disk.create_dir(&to).map_err(naming(&to))?;
            copied.experiments += 1;
        }
        for segment in source.segments(&plan)? {
            let to = self.experiment_of(&parent(&segment.path));
            let to = to.join(segment.path.file_name().unwrap_or_default());
            match source.open_segment(&segment, &plan) {
                Ok(open) => {
                    // What is behind the frames, but for a footer, was never acknowledged.
                    let len = match open.footer() {
                        Some(_) => open.bytes().len(),
                        None => open.frames_end as usize,
                    };
                    let bytes = open.bytes().get(..len).unwrap_or_default();
                    write_new(&**disk, &to, bytes)?;
                    copied.bytes += len as u64;
                }
                Err(SegmentError::Archived { .. }) => {
                    self.copy_outline(&segment.path, &parent(&to), &mut copied)?;
                    continue;
                }
                Err(error @ SegmentError::Header { .. }) if !segment.is_here => {
                    copied.findings.push(format!("{error}: left out"));
                    continue;
                }
                Err(error @ SegmentError::Header { .. }) => {
                    copied.findings.push(format!("{error}: copied as it is"));
                    let file = disk.open(&segment.path, Access::Read)?;
                    let len = file.len()?;
                    self.copy_file(&*file, &to, len)?;
                    copied.bytes += len;
                }
                Err(error) => return Err(OfflineError::from(error).into()),
            }
            copied.segments += 1;
        }
        for dir in source.experiment_dirs() {
            self.copy_definition(dir, &mut copied)?;
        }
        Ok(copied)
    }

    /// Copies a store beside its server.
    fn copy_beside(&self, from: &Path, ask: &mut Ask<'_>) -> Result<BackedUp, BackupError> {
        let disk = &*self.host.disk;
        let mut copied = BackedUp::default();
        let mut slugs: Vec<Slug> = Vec::new();
        let all = experiments_dir(from);
        for entry in disk.list(&all).map_err(naming(&all))? {
            slugs.extend(Slug::parse(&entry.name));
        }
        slugs.sort();
        for slug in slugs {
            let dir = experiment_dir(from, &slug);
            let to = experiment_dir(&self.dir, &slug);
            loop {
                let life = life(disk, &dir)?;
                if life.is_none() {
                    break;
                }
                let before = copied.clone();
                disk.create_dir(&to).map_err(naming(&to))?;
                let done = self.copy_log(&slug, &dir, &to, ask, &mut copied);
                let done = done.and_then(|()| self.copy_definition(&dir, &mut copied));
                if self::life(disk, &dir)? == life {
                    done?;
                    copied.experiments += 1;
                    break;
                }
                // It was deleted meanwhile, and may have been made again.
                copied = before;
                remove(disk, &to, true)?;
            }
        }
        Ok(copied)
    }

    fn copy_log(
        &self,
        slug: &Slug,
        dir: &Path,
        to: &Path,
        ask: &mut Ask<'_>,
        copied: &mut BackedUp,
    ) -> Result<(), BackupError> {
        let disk = &*self.host.disk;
        let server = |why| BackupError::Server {
            slug: slug.clone(),
            why,
        };
        for segment in ask(slug).map_err(server)? {
            // It was begun, and nothing in it is durable yet.
            if segment.bytes == 0 {
                continue;
            }
            let path = dir.join(&segment.file_name);
            if self.copy_outline(&path, to, copied)? {
                continue;
            }
            let file = match wait_for(disk, &path, segment.bytes) {
                Ok(Some(file)) => file,
                Ok(None) => {
                    let path = path.display();
                    return Err(server(format!(
                        "{path} doesn't hold what the server says: is it the server of this \
                         store, and does its disk have room?"
                    )));
                }
                Err(error) => {
                    // Its server may have let it go meanwhile.
                    if self.copy_outline(&path, to, copied)? {
                        continue;
                    }
                    let error = SegmentError::Io { path, error };
                    if was_dropped(disk, &error) {
                        continue;
                    }
                    return Err(OfflineError::from(error).into());
                }
            };
            self.copy_file(&*file, &to.join(&segment.file_name), segment.bytes)?;
            copied.segments += 1;
            copied.bytes += segment.bytes;
        }
        Ok(())
    }

    /// Copies the outline of a segment whose bytes are in an archive alone to the folder `to`; says whether it
    /// is one.
    fn copy_outline(&self, path: &Path, to: &Path, copied: &mut BackedUp) -> io::Result<bool> {
        let disk = &*self.host.disk;
        let outline = match Here::find(disk, path) {
            Ok(Here::Outline(outline)) => outline,
            Ok(Here::File(_)) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let name = outline_path(path);
        let to = to.join(name.file_name().unwrap_or_default());
        write_new(disk, &to, &outline.encode())?;
        copied.archived_segments += 1;
        Ok(true)
    }

    /// What lies beside an experiment's segments; later than those, so that what was dropped meanwhile is
    /// known to be.
    fn copy_definition(&self, dir: &Path, copied: &mut BackedUp) -> Result<(), BackupError> {
        let disk = &*self.host.disk;
        let to = self.experiment_of(dir);
        for name in [DROPPED_FILE, DEFINITION_FILE] {
            match read_small(disk, &dir.join(name), SMALL_FILE_MAX) {
                Ok(bytes) => write_new(disk, &to.join(name), &bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(naming(&dir.join(name))(error).into()),
            }
        }
        if let Err(error) = DefinitionFile::read(disk, dir) {
            copied.findings.push(format!("{}: {error}", dir.display()));
        }
        disk.sync_dir(&to).map_err(naming(&to))?;
        Ok(())
    }

    /// Makes the rest of a store, which is one once it has its `FORMAT`; then gives it its name.
    fn finish(&self, from: &Path, to: &Path, store_id: u64) -> Result<(), BackupError> {
        let (host, disk) = (&self.host, &*self.host.disk);
        let keys = from.join(KEYS_FILE);
        match read_small(disk, &keys, SMALL_FILE_MAX) {
            Ok(bytes) => write_new(disk, &self.dir.join(KEYS_FILE), &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(naming(&keys)(error).into()),
        }
        let options = LocalOptions {
            store_dir: self.dir.clone(),
            store_id,
            durability: Durability::Sync,
            lap_bytes_max: JOURNAL_BYTES,
            free_bytes_min: 0,
        };
        drop(Parts::open(host, &options, Resume::default())?);
        for dir in [experiments_dir(&self.dir), journal_dir(&self.dir)] {
            disk.sync_dir(&dir).map_err(naming(&dir))?;
        }
        let format = from.join(FORMAT_FILE);
        let format = read_small(disk, &format, SMALL_FILE_MAX).map_err(naming(&format))?;
        replace_file(disk, &self.dir.join(FORMAT_FILE), &format)?;
        disk.rename(&self.dir, to).map_err(naming(to))?;
        let above = parent(to);
        disk.sync_dir(&above).map_err(naming(&above))?;
        Ok(())
    }

    fn copy_file(&self, file: &dyn File, to: &Path, len: u64) -> io::Result<()> {
        let copy = self.host.disk.create(to).map_err(naming(to))?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut position = 0;
        while position < len {
            let count = (len - position).min(COPY_BYTES as u64) as usize;
            let piece = buffer.get_mut(..count).unwrap_or_default();
            read_exact_at(file, piece, position)?;
            write_all_at(&*copy, piece, position).map_err(naming(to))?;
            position += count as u64;
        }
        copy.sync_data().map_err(naming(to))
    }

    fn experiment_of(&self, dir: &Path) -> PathBuf {
        experiments_dir(&self.dir).join(dir.file_name().unwrap_or_default())
    }
}

/// The experiment's life as its definition says; `None` when it isn't there. A definition that can't be
/// read doesn't change meanwhile.
fn life(disk: &dyn Disk, dir: &Path) -> io::Result<Option<String>> {
    match DefinitionFile::read(disk, dir) {
        Ok(file) => Ok(Some(file.incarnation)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(naming(dir)(error)),
    }
}

/// The file once it has so many bytes; `None` when it never has.
fn wait_for(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<Option<Arc<dyn File>>> {
    let until = Instant::now() + WRITTEN_WITHIN;
    loop {
        let is_over = Instant::now() > until;
        match disk.open(path, Access::Read) {
            Ok(file) if file.len()? >= bytes => return Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_let_go = matches!(Here::find(disk, path), Ok(Here::Outline(_)));
                let path = path.to_path_buf();
                let error = SegmentError::Io { path, error };
                let is_gone = is_over || is_let_go || was_dropped(disk, &error);
                if let (true, SegmentError::Io { error, .. }) = (is_gone, error) {
                    return Err(error);
                }
            }
            Ok(_) if is_over => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether a folder holds what a copy does that was broken off, and nothing else.
fn is_broken_off(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    let ours = [
        LOCK_FILE,
        KEYS_FILE,
        FORMAT_FILE,
        "FORMAT.tmp",
        "journal",
        "experiments",
        NOTES_DIR,
    ];
    let listed = disk.list(dir).map_err(naming(dir))?;
    Ok(listed
        .iter()
        .all(|entry| ours.contains(&entry.name.as_str())))
}

/// Removes a file, or a folder with all that is in it.
fn remove(disk: &dyn Disk, path: &Path, is_dir: bool) -> io::Result<()> {
    if !is_dir {
        return disk.remove_file(path).map_err(naming(path));
    }
    for entry in disk.list(path).map_err(naming(path))? {
        remove(disk, &path.join(&entry.name), entry.is_dir)?;
    }
    disk.remove_dir(path).map_err(naming(path))
}

fn remove_if_possible(disk: &dyn Disk, dir: &Path) {
    if let Err(error) = remove(disk, dir, true) {
        debug!(%error, "what isn't whole stays, and is no store");
    }
}

fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(path).map_err(naming(path))?;
    write_all_at(&*file, bytes, 0).map_err(naming(path))?;
    file.sync_data().map_err(naming(path))
}
