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

use super::source::{OfflineError, Source};
use super::target::{KEYS_FILE, Target, TargetError, remove};
use crate::experiment::definition::{DEFINITION_FILE, DefinitionFile};
use crate::experiment::folder::{
    FORMAT_FILE, LOCK_FILE, NODE_FILE, NOTES_DIR, experiment_dir, experiments_dir, read_store_id,
};
use crate::fs::{Access, Disk, File, Host, naming, parent, read_small};
use crate::log::archived::ArchivedSegment;
use crate::log::dropped::{DROPPED_FILE, was_dropped};
use crate::log::outline::{Here, outline_path};
use crate::log::reader::SegmentError;
use crate::model::Slug;

/// What is in it is copied as it is.
const SMALL_FILE_MAX: u64 = 64 << 20;
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

/// Finds a segment of an experiment's folder, by name and length, in an archive: then it needs no copy.
pub type Elsewhere<'a> = dyn Fn(&Path, &str, u64) -> Result<Option<ArchivedSegment>, String> + 'a;

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
    /// Segments that belong to it and were not copied.
    pub elsewhere: Vec<ArchivedSegment>,
    /// What isn't as it should be: it was copied as it is, or left out.
    pub findings: Vec<String>,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It can't be written there.
    #[error(transparent)]
    Target(#[from] TargetError),
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
    /// A segment isn't where it should be, or nobody knows whether it is.
    #[error("{0}")]
    Elsewhere(String),
    /// The store can't be read.
    #[error(transparent)]
    Source(#[from] OfflineError),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Copies the store in `from` to `to`, which isn't there yet. `ask` asks the server that has it open.
/// What only the journal holds is put into its segments; the copy's own journal is empty. `admin.key` is
/// left out: the hashes of all keys are in the copy. What is `elsewhere` is named in what this returns.
pub fn backup(
    host: &Host,
    from: &Path,
    to: &Path,
    ask: Option<&mut Ask<'_>>,
    elsewhere: Option<&Elsewhere<'_>>,
) -> Result<BackedUp, BackupError> {
    let disk = &host.disk;
    let store_id = read_store_id(&**disk, from).map_err(OfflineError::from)?;
    let store_id = store_id.ok_or_else(|| BackupError::NotAStore(from.to_path_buf()))?;
    let target = Target::begin(host, to)?;
    // First: a note that is older than what it stands beside has the node place again what it has.
    let copying = Copying {
        target: &target,
        elsewhere,
    };
    let noted = copying.copy_notes(from);
    let copied = noted.and_then(|()| match ask {
        Some(ask) => copying.copy_beside(from, ask),
        None => copying.copy_settled(from),
    });
    let finished = copied.and_then(|copied| {
        copying.copy_keys(from)?;
        let format = from.join(FORMAT_FILE);
        let format = read_small(&**disk, &format, SMALL_FILE_MAX).map_err(naming(&format))?;
        target.finish(to, store_id, &format)?;
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

/// What goes from a store into a copy of it.
struct Copying<'a> {
    target: &'a Target,
    elsewhere: Option<&'a Elsewhere<'a>>,
}

impl Copying<'_> {
    /// Copies what a node remembers of its stream, but for who it is: the copy is another node.
    fn copy_notes(&self, from: &Path) -> Result<(), BackupError> {
        let disk = &*self.target.host.disk;
        let (from, to) = (from.join(NOTES_DIR), self.target.dir.join(NOTES_DIR));
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
            self.target.write(&to.join(&entry.name), &bytes)?;
        }
        disk.sync_dir(&to).map_err(naming(&to))?;
        Ok(())
    }

    /// Copies a store that nobody has open, and keeps it so.
    fn copy_settled(&self, from: &Path) -> Result<BackedUp, BackupError> {
        let disk = &self.target.host.disk;
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
            let to = self.target.experiment_of(dir);
            disk.create_dir(&to).map_err(naming(&to))?;
            copied.experiments += 1;
        }
        for segment in source.segments(&plan)? {
            let dir = parent(&segment.path);
            let file_name = segment.path.file_name().unwrap_or_default();
            let file_name = file_name.to_string_lossy();
            let len = disk
                .open(&segment.path, Access::Read)
                .and_then(|file| file.len());
            if let Ok(len) = len
                && self.is_elsewhere(&dir, &file_name, len, &mut copied)?
            {
                continue;
            }
            let to = self.target.experiment_of(&dir);
            let to = to.join(segment.path.file_name().unwrap_or_default());
            match source.open_segment(&segment, &plan) {
                Ok(open) => {
                    // What is behind the frames, but for a footer, was never acknowledged.
                    let len = match open.footer() {
                        Some(_) => open.bytes().len(),
                        None => open.frames_end as usize,
                    };
                    let bytes = open.bytes().get(..len).unwrap_or_default();
                    self.target.write(&to, bytes)?;
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
                    self.target.copy_file(&*file, &to, len)?;
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
        let disk = &*self.target.host.disk;
        let mut copied = BackedUp::default();
        let mut slugs: Vec<Slug> = Vec::new();
        let all = experiments_dir(from);
        for entry in disk.list(&all).map_err(naming(&all))? {
            slugs.extend(Slug::parse(&entry.name));
        }
        slugs.sort();
        for slug in slugs {
            let dir = experiment_dir(from, &slug);
            let to = experiment_dir(&self.target.dir, &slug);
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
        let disk = &*self.target.host.disk;
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
            if self.copy_outline(&path, to, copied)?
                || self.is_elsewhere(dir, &segment.file_name, segment.bytes, copied)?
            {
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
            self.target
                .copy_file(&*file, &to.join(&segment.file_name), segment.bytes)?;
            copied.segments += 1;
            copied.bytes += segment.bytes;
        }
        Ok(())
    }

    /// Copies the outline of a segment whose bytes are in an archive alone to the folder `to`; says whether it
    /// is one.
    fn copy_outline(
        &self,
        path: &Path,
        to: &Path,
        copied: &mut BackedUp,
    ) -> Result<bool, BackupError> {
        let disk = &*self.target.host.disk;
        let outline = match Here::find(disk, path) {
            Ok(Here::Outline(outline)) => outline,
            Ok(Here::File(_)) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        if self.elsewhere.is_some() {
            if !self.is_elsewhere(&parent(path), &file_name, outline.len, copied)? {
                // A copy without it would have a hole, and be the newest one.
                return Err(BackupError::Elsewhere(format!(
                    "{}: its bytes are in an archive alone, and in this one it isn't as it was uploaded",
                    path.display()
                )));
            }
            return Ok(true);
        }
        let name = outline_path(path);
        let to = to.join(name.file_name().unwrap_or_default());
        self.target.write(&to, &outline.encode())?;
        copied.archived_segments += 1;
        Ok(true)
    }

    /// What lies beside an experiment's segments; later than those, so that what was dropped meanwhile is
    /// known to be.
    fn copy_definition(&self, dir: &Path, copied: &mut BackedUp) -> Result<(), BackupError> {
        let disk = &*self.target.host.disk;
        let to = self.target.experiment_of(dir);
        for name in [DROPPED_FILE, DEFINITION_FILE] {
            match read_small(disk, &dir.join(name), SMALL_FILE_MAX) {
                Ok(bytes) => self.target.write(&to.join(name), &bytes)?,
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

    fn copy_keys(&self, from: &Path) -> Result<(), BackupError> {
        let keys = from.join(KEYS_FILE);
        match read_small(&*self.target.host.disk, &keys, SMALL_FILE_MAX) {
            Ok(bytes) => Ok(self
                .target
                .write(&self.target.dir.join(KEYS_FILE), &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(naming(&keys)(error).into()),
        }
    }

    /// Whether a segment needs no copy; then it is noted where it is.
    fn is_elsewhere(
        &self,
        dir: &Path,
        file_name: &str,
        bytes: u64,
        copied: &mut BackedUp,
    ) -> Result<bool, BackupError> {
        let Some(elsewhere) = self.elsewhere else {
            return Ok(false);
        };
        let found = elsewhere(dir, file_name, bytes).map_err(BackupError::Elsewhere)?;
        let is_found = found.is_some();
        copied.elsewhere.extend(found);
        Ok(is_found)
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
