//! A store's folder: its lock, its format, its experiments, and bringing it up to date from the
//! journal at start.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::definition::{DEFINITION_FILE, DefinitionFile};
use crate::fs::{
    Disk, Host, LockGuard, naming, parent, read_small, read_up_to, replace_file, write_all_at,
};
use crate::journal::checkpoint::journal_path;
use crate::journal::local::{Resume, journal_dir};
use crate::journal::redo::{self, Applied, Life, Plan};
use crate::journal::scan::{JOURNAL_FILES, JournalDamage, JournalError, Purpose, read_laps};
use crate::json_file;
use crate::log::open::{cut, goes_on_behind};
use crate::log::reader::{SegmentError, list_segments};
use crate::log::segment_file::{Incarnation, Trouble};
use crate::model::{Definition, Slug};

/// The version of a store's folder that this code writes.
pub const STORE_FORMAT: u32 = 1;

/// The file that a process locks while it has the store open.
pub const LOCK_FILE: &str = "LOCK";
/// The folder of what a node of a replicated store remembers.
pub const NOTES_DIR: &str = "replica";
/// In that folder: who the node is, which no copy has.
pub const NODE_FILE: &str = "node.json";

/// What is said when a segment goes on behind a large group that has not ended for the journal.
pub const OLDER_JOURNAL: &str = "the journal is older than this segment: nothing is cut; put back \
    the journal that belongs to these segments, or go on without what only that one holds";

/// What the names of journal files that were set aside have behind their own.
const SET_ASIDE: &str = ".damaged-";

/// The file that makes a folder a store.
pub const FORMAT_FILE: &str = "FORMAT";
const EXPERIMENTS_DIR: &str = "experiments";
/// How the folder of an experiment that is being made or removed begins; no slug does.
const UNFINISHED_PREFIX: char = '.';

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder has other things in it.
    #[error(
        "{0} is not a trialog store and not empty: name an empty folder, or one that trialog made"
    )]
    NotAStore(PathBuf),
    /// Another process has it open.
    #[error("{dir} is in use by another trialog (process {pid}): stop that one first")]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// What the lock file says of its holder.
        pid: String,
    },
    /// A later program made it.
    #[error(
        "{dir} has store format {format}, this program knows {STORE_FORMAT}: use a newer trialog"
    )]
    Newer {
        /// The folder.
        dir: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Its FORMAT file can't be read.
    #[error(
        "{path} is damaged ({error}): restore it from a backup; `trialog replay` still reads the segments"
    )]
    BadFormat {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A segment that recovery needs can't be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The disk failed.
    #[error("{what} {path} failed: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FormatFile {
    format: u32,
    store_id: String,
}

/// What every version of that file has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// A store's folder, locked for this process.
pub struct Folder {
    /// The store's id.
    pub store_id: u64,
    dir: PathBuf,
    _lock: Box<dyn LockGuard>,
}

/// The folder of one experiment.
pub fn experiment_dir(store_dir: &Path, slug: &Slug) -> PathBuf {
    store_dir.join(EXPERIMENTS_DIR).join(slug.as_str())
}

/// The folder of all experiments.
pub fn experiments_dir(store_dir: &Path) -> PathBuf {
    store_dir.join(EXPERIMENTS_DIR)
}

/// The id of the store in `dir`; `None` when there is none.
pub fn read_store_id(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, OpenError> {
    let path = dir.join(FORMAT_FILE);
    let bytes = match read_small(disk, &path, 4096) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("reading", &path)(error)),
        Ok(bytes) => bytes,
    };
    let bad = |error: String| OpenError::BadFormat {
        path: path.clone(),
        error,
    };
    // The format first: it says how the rest is to be read, the checksum too.
    if let Ok(Version { format }) = serde_json::from_slice(&bytes)
        && format > STORE_FORMAT
    {
        return Err(OpenError::Newer {
            dir: dir.to_path_buf(),
            format,
        });
    }
    let file: FormatFile = json_file::decode(&bytes).map_err(|error| bad(error.to_string()))?;
    let id = u64::from_str_radix(&file.store_id, 16).map_err(|error| bad(error.to_string()))?;
    Ok(Some(id))
}

impl Folder {
    /// Opens the folder `dir`, or makes a store in it.
    pub fn open(host: &Host, dir: &Path) -> Result<Self, OpenError> {
        match host.disk.create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the folder", dir)(error));
            }
            _ => {}
        }
        let known = read_store_id(&*host.disk, dir)?;
        if known.is_none() {
            let listed = host.disk.list(dir).map_err(io_error("reading", dir))?;
            // What a start that was killed leaves behind is ours.
            let is_ours = |name: &str| [LOCK_FILE, "FORMAT.tmp", "lost+found"].contains(&name);
            if !listed.iter().all(|entry| is_ours(&entry.name)) {
                return Err(OpenError::NotAStore(dir.to_path_buf()));
            }
        }
        let lock = lock(host, dir)?;
        let store_id = match known {
            Some(id) => id,
            None => make_store(host, dir)?,
        };
        let experiments = experiments_dir(dir);
        match host.disk.create_dir(&experiments) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the folder", &experiments)(error));
            }
            _ => {}
        }
        // What a start finds, the next one finds: a kill may have come between the rename of an
        // experiment's folder and its sync.
        for dir in [dir, &experiments] {
            host.disk.sync_dir(dir).map_err(io_error("syncing", dir))?;
        }
        Ok(Self {
            store_id,
            dir: dir.to_path_buf(),
            _lock: lock,
        })
    }

    /// The experiments, found by their folders; what making or removing one left is cleared away.
    pub fn experiments(&self, host: &Host) -> Result<Vec<Slug>, OpenError> {
        let dir = experiments_dir(&self.dir);
        let mut slugs = Vec::new();
        for entry in host.disk.list(&dir).map_err(io_error("reading", &dir))? {
            if entry.is_dir && entry.name.starts_with(UNFINISHED_PREFIX) {
                let path = dir.join(&entry.name);
                remove_folder(host, &path).map_err(io_error("removing", &path))?;
            } else if let (true, Ok(slug)) = (entry.is_dir, Slug::parse(&entry.name)) {
                slugs.push(slug);
            }
        }
        Ok(slugs)
    }

    /// Brings the segments up to date from the journal and makes them durable. Can be killed at
    /// any point and run again: every step writes the same bytes to the same places.
    pub fn recover(&self, host: &Host) -> Result<Resume, OpenError> {
        let journal = journal_dir(&self.dir);
        let experiments = experiments_dir(&self.dir);
        let (laps, mut damages) =
            read_laps(&*host.disk, &journal, self.store_id, Purpose::Recover)?;
        damages.extend(missing_journals(&*host.disk, &self.dir)?);
        let plan = Plan::read(&laps, &damages);
        let mut is_suspect = !plan.damages.is_empty();
        for damage in &plan.damages {
            error!(file = %damage.path.display(), range = ?damage.range, "{}", damage.what);
        }
        let mut lives = HashMap::new();
        let known_life = |slug: &str| {
            if let Some(life) = lives.get(slug) {
                return Ok(*life);
            }
            let life = life_of(&*host.disk, &experiments.join(slug))?;
            lives.insert(slug.to_owned(), life);
            Ok(life)
        };
        let outcomes = redo::apply(&host.disk, &plan, &experiments, known_life).map_err(
            io_error("bringing up to date the segments in", &experiments),
        )?;
        for ((id, segment), outcome) in plan.segments.iter().zip(outcomes) {
            match outcome {
                Applied::Deleted => {}
                Applied::Mismatch(why) => {
                    is_suspect = true;
                    let first = id.first_sequence;
                    error!(experiment = %id.slug, segment = first, "not brought up to date: {why}");
                }
                Applied::Done { missing } => {
                    if missing > 0 {
                        let first = id.first_sequence;
                        error!(experiment = %id.slug, segment = first, bytes = missing, "lost");
                    }
                    let Some(end) = segment.unfinished_from else {
                        continue;
                    };
                    let dir = experiments.join(id.slug.as_str());
                    if goes_on_behind(host, &dir, id.first_sequence, end)? {
                        is_suspect = true;
                        let first = id.first_sequence;
                        error!(experiment = %id.slug, segment = first, "{OLDER_JOURNAL}");
                        continue;
                    }
                    if let Some(bytes) = cut(host, &dir, id.first_sequence, end)? {
                        warn!(experiment = %id.slug, bytes, "cut a group that was not acknowledged");
                    }
                }
            }
        }
        if !plan.segments.is_empty() {
            info!(
                segments = plan.segments.len(),
                "brought up to date from the journal"
            );
        }
        let last_file = plan.last_file.as_ref();
        let is_last = |number: &u32| last_file == Some(&journal_path(&journal, *number));
        let resume = Resume {
            last_lap: laps.last().map_or(0, |lap| lap.header.lap),
            last_file: (1..=JOURNAL_FILES).find(is_last).unwrap_or(0),
            last_batch: plan.last_batch,
        };
        if is_suspect {
            self.set_journal_aside(host, resume)?;
        }
        Ok(resume)
    }

    /// A journal with damage keeps its bytes, under a name that says why.
    fn set_journal_aside(&self, host: &Host, resume: Resume) -> Result<(), OpenError> {
        let dir = journal_dir(&self.dir);
        // The last batch goes last, as when the files are begun anew.
        let mut files: Vec<u32> = (1..=JOURNAL_FILES).collect();
        files.sort_by_key(|number| *number == resume.last_file);
        for path in files.into_iter().map(|number| journal_path(&dir, number)) {
            let lap = resume.last_lap;
            let aside = path.with_extension(format!("journal{SET_ASIDE}{lap}"));
            match host.disk.rename(&path, &aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                renamed => renamed.map_err(io_error("setting aside", &path))?,
            }
            warn!(file = %aside.display(), "set aside a journal file with damage");
        }
        host.disk.sync_dir(&dir).map_err(io_error("syncing", &dir))
    }
}

/// The journal files that must be in a store and aren't. Both are there before the first experiment
/// is, until a start sets them aside.
pub fn missing_journals(disk: &dyn Disk, dir: &Path) -> Result<Vec<JournalDamage>, OpenError> {
    let list = |path: &Path| match disk.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(io_error("reading", path)),
    };
    let journal = journal_dir(dir);
    let files = list(&journal)?;
    let paths = (1..=JOURNAL_FILES).map(|number| journal_path(&journal, number));
    let is_there = |path: &PathBuf| files.iter().any(|file| path.ends_with(&file.name));
    let missing: Vec<PathBuf> = paths.filter(|path| !is_there(path)).collect();
    let is_aside = files.iter().any(|file| file.name.contains(SET_ASIDE));
    if missing.is_empty() || is_aside {
        return Ok(Vec::new());
    }
    let experiments = list(&experiments_dir(dir))?;
    let has_experiments = experiments
        .iter()
        .any(|entry| Slug::parse(&entry.name).is_ok());
    let damage = |path| JournalDamage {
        path,
        range: 0..0,
        what: "the file is missing: entries that only it held are lost; put it back, if you can",
        corrected: None,
    };
    let missing = missing.into_iter().map(damage);
    Ok(missing.filter(|_| has_experiments).collect())
}

/// Makes the folder of a new experiment: under another name until it is whole. When the sync of
/// its name fails, nobody can tell whether a power cut takes it away again with all that is in it.
pub fn create_experiment(
    host: &Host,
    store_dir: &Path,
    slug: &Slug,
    definition: Definition,
) -> Result<(), Trouble> {
    let incarnation = host.entropy.next_u64().map_err(Trouble::Write)?;
    let file = DefinitionFile {
        format: STORE_FORMAT,
        slug: slug.clone(),
        incarnation: format!("{incarnation:016x}"),
        created_at_ms: host.clock.now_ms(),
        definition,
    };
    create_from(host, store_dir, &file)
}

/// As [`create_experiment`], with a life that has begun elsewhere.
pub fn create_from(host: &Host, store_dir: &Path, file: &DefinitionFile) -> Result<(), Trouble> {
    let (all, slug) = (experiments_dir(store_dir), &file.slug);
    let unfinished = write_unfinished(host, &all, file).map_err(Trouble::Write)?;
    let dir = experiment_dir(store_dir, slug);
    rename_durably(host, &all, &unfinished, &dir)
}

/// Renames within `all`, which is opened first: the sync must not fail for want of a descriptor.
fn rename_durably(host: &Host, all: &Path, from: &Path, to: &Path) -> Result<(), Trouble> {
    let opened = host.disk.open_dir(all).map_err(Trouble::Write)?;
    host.disk.rename(from, to).map_err(Trouble::Write)?;
    opened.sync().map_err(Trouble::Sync)
}

fn write_unfinished(host: &Host, all: &Path, file: &DefinitionFile) -> io::Result<PathBuf> {
    let (slug, incarnation) = (&file.slug, &file.incarnation);
    let unfinished = all.join(format!("{UNFINISHED_PREFIX}new-{slug}-{incarnation}"));
    match host.disk.create_dir(&unfinished) {
        // Of a try that failed, when the life was given.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    file.write(&*host.disk, &unfinished)?;
    Ok(unfinished)
}

/// Removes an experiment's folder: it is gone, durably, before its first file is. That ends its
/// `incarnation`. When it fails before, nothing has changed; when the sync fails nobody knows whether
/// it is gone, and the journal must not let go of its entries.
pub fn remove_experiment(
    host: &Host,
    store_dir: &Path,
    slug: &Slug,
    incarnation: Option<&Incarnation>,
) -> Result<(), Trouble> {
    let all = experiments_dir(store_dir);
    let tag = host.entropy.next_u64().map_err(Trouble::Write)?;
    let unfinished = all.join(format!("{UNFINISHED_PREFIX}deleted-{slug}-{tag:016x}"));
    let dir = experiment_dir(store_dir, slug);
    let unlink = || rename_durably(host, &all, &dir, &unfinished);
    match incarnation {
        Some(incarnation) => incarnation.end_by(unlink),
        None => unlink(),
    }?;
    if let Err(error) = remove_folder(host, &unfinished) {
        warn!(dir = %unfinished.display(), %error, "the next start removes what is left of it");
    }
    Ok(())
}

fn remove_folder(host: &Host, dir: &Path) -> io::Result<()> {
    for entry in host.disk.list(dir)? {
        let path = dir.join(&entry.name);
        host.disk.remove_file(&path).map_err(naming(&path))?;
    }
    host.disk.remove_dir(dir)
}

/// Which life the experiment in `dir` is in. When its definition is damaged its segments tell: they
/// are all of one life, since a folder never has another.
pub fn life_of(disk: &dyn Disk, dir: &Path) -> io::Result<Life> {
    let definition = DefinitionFile::read(disk, dir).and_then(|file| file.incarnation());
    let error = match definition {
        Ok(incarnation) => return Ok(Life::Of(incarnation)),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::InvalidData => {}
        io::ErrorKind::NotFound => match disk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Life::None),
            listed => drop(listed.map_err(naming(dir))?),
        },
        // Whatever is there could not be read now: no reason to take it for damaged or gone.
        _ => return Err(naming(&dir.join(DEFINITION_FILE))(error)),
    }
    error!(dir = %dir.display(), %error, "an experiment's definition can't be read");
    let listed = list_segments(disk, dir).map_err(|error| match error {
        SegmentError::Io { path, error } => naming(&path)(error),
        other => io::Error::other(other.to_string()),
    })?;
    let mut headers = listed
        .iter()
        .filter_map(|listed| listed.header.as_ref().ok());
    let said = headers.next().map(|header| Life::Of(header.incarnation));
    Ok(said.unwrap_or(Life::Unknown))
}

fn lock(host: &Host, dir: &Path) -> Result<Box<dyn LockGuard>, OpenError> {
    let path = dir.join(LOCK_FILE);
    let locked = host.disk.lock(&path).map_err(io_error("locking", &path))?;
    let Some(lock) = locked else {
        let said = read_small(&*host.disk, &path, 64).unwrap_or_default();
        let text = String::from_utf8_lossy(&said);
        let pid = text
            .split_whitespace()
            .next()
            .unwrap_or("unknown")
            .to_owned();
        return Err(OpenError::Locked {
            dir: dir.to_path_buf(),
            pid,
        });
    };
    // Padded, so that a shorter number leaves nothing of a longer one.
    let pid = format!("{:<20}\n", std::process::id());
    let file = lock.file();
    let is_said = read_up_to(file, &mut [0; 21], 0).map(|len| len > 0);
    let written = write_all_at(file, pid.as_bytes(), 0);
    is_said.and(written).map_err(io_error("writing", &path))?;
    Ok(lock)
}

fn make_store(host: &Host, dir: &Path) -> Result<u64, OpenError> {
    let above = parent(dir);
    host.disk
        .sync_dir(&above)
        .map_err(io_error("syncing", &above))?;
    let path = dir.join(FORMAT_FILE);
    let id = host.entropy.next_u64().map_err(io_error("making", &path))?;
    let file = FormatFile {
        format: STORE_FORMAT,
        store_id: format!("{id:016x}"),
    };
    let bytes = json_file::encode(&file).map_err(io::Error::other);
    bytes
        .and_then(|bytes| replace_file(&*host.disk, &path, &bytes))
        .map_err(io_error("writing", &path))?;
    Ok(id)
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> OpenError + 'a {
    move |error| OpenError::Io {
        what,
        path: path.to_path_buf(),
        error,
    }
}
