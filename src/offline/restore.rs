//! From a [copy](crate::archive::copies) in an archive to a store: all of its segments, on this machine's disk.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::target::{Target, TargetError};
use crate::archive::copies::{COPIES, FORMAT, LIST, List, ListedFile, object_name};
use crate::experiment::folder::{FORMAT_FILE, experiment_dir};
use crate::fs::{Access, Disk, Host, naming, parent, read_small};
use crate::json_file::{self, JsonFileError};
use crate::log::archived::ArchivedSegment;
use crate::log::segment::SEGMENT_SUFFIX;
use crate::model::Slug;

const LIST_LEN_MAX: u64 = 1 << 30;
const FORMAT_LEN_MAX: u64 = 4096;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The address of the copy.
    pub copy: PathBuf,
    /// How many segments.
    pub segments: u64,
    /// Their bytes, and those of the other files.
    pub bytes: u64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is none.
    #[error(
        "{0} has no copy of a store: `trialog backup` makes one, at the address of the archive"
    )]
    NoCopy(PathBuf),
    /// Of which store isn't said.
    #[error("{address} has copies of several stores ({}): name one, as {address}/{}", stores.join(", "), stores.first().map_or("", |store| store))]
    Several {
        /// The archive.
        address: String,
        /// Their ids.
        stores: Vec<String>,
    },
    /// The list can't be read.
    #[error("{place}: {error}")]
    List {
        /// Where it is.
        place: PathBuf,
        /// What is wrong with it.
        error: JsonFileError,
    },
    /// A later trialog wrote it.
    #[error("{place} has format {format}, which is newer than this program")]
    Newer {
        /// Where it is.
        place: PathBuf,
        /// Its format.
        format: u32,
    },
    /// An object isn't what the list says.
    #[error("{place} isn't what the copy's list says of it ({what}): restore another copy")]
    Changed {
        /// Where it is.
        place: PathBuf,
        /// How it differs.
        what: &'static str,
    },
    /// It can't be written there.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A disk or the archive failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes the store at `to`, which isn't there yet, of the newest copy at an address on the disk `there`: that of the
/// archive, of a store in it, or of a copy. Its archive isn't needed afterwards.
pub fn restore(
    host: &Host,
    there: &dyn Disk,
    address: &Path,
    to: &Path,
) -> Result<Restored, RestoreError> {
    let copy = newest(there, address)?;
    let place = copy.join(LIST);
    let bytes = read_small(there, &place, LIST_LEN_MAX)?;
    let list: List = json_file::decode(&bytes).map_err(|error| RestoreError::List {
        place: place.clone(),
        error,
    })?;
    if list.format > FORMAT {
        let format = list.format;
        return Err(RestoreError::Newer { place, format });
    }
    let target = Target::begin(host, to)?;
    let mut restoring = Restoring {
        there,
        // COPIES is in the store's folder.
        archived: parent(&parent(&copy)),
        copy: &copy,
        target: &target,
        dirs: BTreeSet::new(),
    };
    let done = restoring.run(&list, to);
    if done.is_err() {
        target.clear_away();
    }
    done
}

/// Where the newest copy is.
fn newest(there: &dyn Disk, address: &Path) -> Result<PathBuf, RestoreError> {
    let listed = there.list(address)?;
    let has = |name: &str| listed.iter().any(|entry| entry.name == name);
    if has(LIST) {
        return Ok(address.to_path_buf());
    }
    let store = match has(COPIES) {
        true => address.to_path_buf(),
        false => {
            let dirs = listed.iter().filter(|entry| entry.is_dir);
            let stores = dirs.map(|entry| &entry.name).filter(|name| {
                let copies = there.list(&address.join(name).join(COPIES));
                copies.is_ok()
            });
            let stores: Vec<_> = stores.cloned().collect();
            match stores.as_slice() {
                [] => return Err(RestoreError::NoCopy(address.to_path_buf())),
                [store] => address.join(store),
                _ => {
                    let address = address.display().to_string();
                    return Err(RestoreError::Several { address, stores });
                }
            }
        }
    };
    let copies = store.join(COPIES);
    let mut names: Vec<_> = there
        .list(&copies)?
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    // One without a list was broken off.
    let whole = names.iter().rev().map(|name| copies.join(name));
    let mut whole = whole.filter(|copy| there.open(&copy.join(LIST), Access::Read).is_ok());
    whole
        .next()
        .ok_or_else(|| RestoreError::NoCopy(address.to_path_buf()))
}

struct Restoring<'a> {
    there: &'a dyn Disk,
    archived: PathBuf,
    copy: &'a Path,
    target: &'a Target,
    /// Folders that were made.
    dirs: BTreeSet<PathBuf>,
}

impl Restoring<'_> {
    fn run(&mut self, list: &List, to: &Path) -> Result<Restored, RestoreError> {
        let disk = self.target.host.disk.clone();
        let mut restored = Restored {
            copy: self.copy.to_path_buf(),
            segments: 0,
            bytes: 0,
        };
        let mut format = None;
        for file in &list.files {
            if file.path == FORMAT_FILE {
                format = Some(read_small(self.there, &self.object(file), FORMAT_LEN_MAX)?);
                continue;
            }
            self.copy_file(file)?;
            restored.bytes += file.bytes;
            restored.segments += u64::from(file.path.ends_with(SEGMENT_SUFFIX));
        }
        for segment in &list.segments {
            self.copy_segment(segment)?;
            restored.bytes += segment.bytes;
            restored.segments += 1;
        }
        for dir in &self.dirs {
            disk.sync_dir(dir).map_err(naming(dir))?;
        }
        let bad = |what| RestoreError::Changed {
            place: self.copy.join(LIST),
            what,
        };
        let format = format.ok_or_else(|| bad("it has no FORMAT"))?;
        let store_id = u64::from_str_radix(&list.store_id, 16);
        let store_id = store_id.map_err(|_| bad("its store has no id"))?;
        self.target.finish(to, store_id, &format)?;
        Ok(restored)
    }

    fn object(&self, file: &ListedFile) -> PathBuf {
        self.copy.join(object_name(&file.path))
    }

    fn copy_file(&mut self, file: &ListedFile) -> Result<(), RestoreError> {
        let place = self.object(file);
        let changed = |what| RestoreError::Changed {
            place: place.clone(),
            what,
        };
        let mut to = self.target.dir.clone();
        let names: Vec<_> = file.path.split('/').collect();
        for (at, name) in names.iter().enumerate() {
            // A list from outside must not lead out of the folder.
            if matches!(*name, "" | "." | "..") || name.contains('\\') {
                return Err(changed("its path is no path in a store"));
            }
            to.push(name);
            if at + 1 < names.len() {
                self.make_dir(&to)?;
            }
        }
        self.copy(&place, &to, file.bytes, &file.crc)
    }

    fn copy_segment(&mut self, segment: &ArchivedSegment) -> Result<(), RestoreError> {
        let ArchivedSegment {
            experiment,
            incarnation,
            file,
            bytes,
            crc,
        } = segment;
        let place = self.archived.join(experiment).join(incarnation).join(file);
        let changed = |what| RestoreError::Changed {
            place: place.clone(),
            what,
        };
        let slug = Slug::parse(experiment).map_err(|_| changed("no experiment has this name"))?;
        if file.contains(['/', '\\']) || incarnation.contains(['/', '\\']) {
            return Err(changed("its path is no path in an archive"));
        }
        let to = experiment_dir(&self.target.dir, &slug);
        self.make_dir(&to)?;
        let to = to.join(file);
        self.copy(&place, &to, *bytes, crc)
    }

    fn copy(&self, place: &Path, to: &Path, bytes: u64, crc: &str) -> Result<(), RestoreError> {
        let changed = |what| RestoreError::Changed {
            place: place.to_path_buf(),
            what,
        };
        let object = match self.there.open(place, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(changed("it is missing"));
            }
            opened => opened?,
        };
        if object.len()? != bytes {
            return Err(changed("it has another length"));
        }
        let copied = self.target.copy_file(&*object, to, bytes)?;
        match format!("{copied:08x}") == crc {
            true => Ok(()),
            false => Err(changed("its bytes don't fit their checksum")),
        }
    }

    fn make_dir(&mut self, dir: &Path) -> Result<(), RestoreError> {
        match self.target.host.disk.create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(naming(dir))?,
        }
        self.dirs.insert(dir.to_path_buf());
        Ok(())
    }
}
