//! Copies of stores in an archive, of which a new node begins, or a store whose disk is gone.
//!
//! A copy is what a backup (`offline/backup.rs`) is, but for segments that are whole in the archive already: of
//! those it has the names. So a copy of a store that archives its segments holds what isn't sealed yet, and little else.
//! Its list is written last: what has none is no copy. Nothing replaces or removes one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path as FilePath;

use bytes::Bytes;
use crc32fast::Hasher;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use super::error::ArchiveError;
use super::layout::LogName;
use super::mark::Mark;
use super::store::{Archive, Object, PART_BYTES};
use crate::experiment::definition::DefinitionFile;
use crate::experiment::folder::LOCK_FILE;
use crate::fs::{Access, Disk, read_exact_at};
use crate::json_file;
use crate::log::archived::ArchivedSegment;
use crate::log::segment::SEGMENT_SUFFIX;

/// The folder of a store's copies, beside its experiments. No slug begins so.
pub const COPIES: &str = "_copies";
/// A copy's list.
pub const LIST: &str = "copy.json";
/// Behind the name of a segment in a copy: it is no segment of the archive.
pub const PART_SUFFIX: &str = ".part";
/// The format of a list.
pub const FORMAT: u32 = 1;
/// The copy's journal is empty: it is made anew.
const JOURNAL_DIR: &str = "journal";

/// What makes a copy whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// Of what is below.
    pub format: u32,
    /// The store, 16 hexadecimal digits.
    pub store_id: String,
    /// Files that lie beside the list.
    pub files: Vec<ListedFile>,
    /// Segments of the archive.
    pub segments: Vec<ArchivedSegment>,
}

/// A file of the store's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Where, with `/` between names.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32, 8 hexadecimal digits.
    pub crc: String,
}

/// The place of one store's copies.
pub struct Copies {
    archive: Archive,
    runtime: Runtime,
    store_id: u64,
    folder: Path,
    /// What was archived when it was opened.
    objects: BTreeMap<Path, Object>,
    /// The log that was looked at last, with its keeper's mark.
    looked_at: RefCell<Option<(LogName, Mark)>>,
}

impl Copies {
    /// Looks what an archive has of a store.
    pub fn open(address: &str, store_id: u64) -> Result<Self, ArchiveError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ArchiveError::Threads)?;
        let archive = Archive::open(address)?;
        let folder = archive.prefix.clone().join(format!("{store_id:016x}"));
        let listed = runtime.block_on(archive.list(&folder))?;
        let objects = listed.into_iter();
        Ok(Self {
            objects: objects
                .map(|object| (object.path.clone(), object))
                .collect(),
            archive,
            runtime,
            store_id,
            folder,
            looked_at: RefCell::default(),
        })
    }

    /// A segment of the experiment in `dir`, if it is whole in the archive: its keeper has read it back, and it is as it
    /// was then.
    pub fn find(
        &self,
        disk: &dyn Disk,
        dir: &FilePath,
        file_name: &str,
        bytes: u64,
    ) -> Result<Option<ArchivedSegment>, ArchiveError> {
        // Each time: the experiment may have been deleted and made again.
        let Ok(definition) = DefinitionFile::read(disk, dir) else {
            return Ok(None);
        };
        let Ok(incarnation) = definition.incarnation() else {
            return Ok(None);
        };
        let name = LogName {
            store_id: self.store_id,
            slug: definition.slug,
            incarnation,
        };
        let mut looked_at = self.looked_at.borrow_mut();
        let (name, mark) = match looked_at.take() {
            Some((before, mark)) if before == name => looked_at.insert((before, mark)),
            _ => {
                let mark = Mark::read(disk, dir, incarnation);
                looked_at.insert((name, mark))
            }
        };
        let Some(seen) = mark.seen(file_name).filter(|seen| seen.bytes == bytes) else {
            return Ok(None);
        };
        let path = name.folder(&self.archive.prefix).join(file_name);
        let object = match self.objects.get(&path) {
            Some(object) => Some(object.clone()),
            // It may have been archived since.
            None => self.runtime.block_on(self.archive.head(&path))?,
        };
        let is_same = |object: &Object| object.len == bytes && object.tag == seen.tag;
        Ok(object.filter(is_same).map(|_| ArchivedSegment {
            experiment: name.slug.to_string(),
            incarnation: definition.incarnation,
            file: file_name.to_owned(),
            bytes,
            crc: seen.crc.clone(),
        }))
    }

    /// Puts the copy in the folder `dir` there, which lacks segments that are `archived`; says where it is.
    pub fn put(
        &self,
        disk: &dyn Disk,
        dir: &FilePath,
        archived: &[ArchivedSegment],
        name: &str,
    ) -> Result<String, ArchiveError> {
        let failed = |path: &FilePath, error| ArchiveError::Disk {
            path: path.display().to_string(),
            error,
        };
        let mut paths = Vec::new();
        collect(disk, dir, "", &mut paths).map_err(|error| failed(dir, error))?;
        let folder = self.folder.clone().join(COPIES).join(name);
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let from = dir.join(&path);
            let (bytes, crc) = self.put_file(disk, &from, &object_of(&folder, &path))?;
            let crc = format!("{crc:08x}");
            files.push(ListedFile { path, bytes, crc });
        }
        let list = List {
            format: FORMAT,
            store_id: format!("{:016x}", self.store_id),
            files,
            segments: archived.to_vec(),
        };
        let bytes =
            json_file::encode(&list).map_err(|error| failed(dir, io::Error::other(error)))?;
        let path = folder.clone().join(LIST);
        self.runtime
            .block_on(self.archive.put(&path, bytes.into()))?;
        Ok(self.archive.place(&folder))
    }

    /// Puts a file there; says its length and its CRC-32.
    fn put_file(
        &self,
        disk: &dyn Disk,
        from: &FilePath,
        to: &Path,
    ) -> Result<(u64, u32), ArchiveError> {
        let failed = |error| ArchiveError::Disk {
            path: from.display().to_string(),
            error,
        };
        let file = disk.open(from, Access::Read).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut crc = Hasher::new();
        let mut piece = |position: u64| {
            let mut bytes = vec![0; (len - position).min(PART_BYTES) as usize];
            read_exact_at(&*file, &mut bytes, position).map_err(failed)?;
            crc.update(&bytes);
            Ok::<_, ArchiveError>(Bytes::from(bytes))
        };
        let sent = async {
            if len <= PART_BYTES {
                return self.archive.put(to, piece(0)?).await;
            }
            let mut parts = self.archive.put_parts(to).await?;
            for position in (0..len).step_by(PART_BYTES as usize) {
                let put = match piece(position) {
                    Ok(bytes) => parts.put(bytes).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = put {
                    parts.abort().await;
                    return Err(error);
                }
            }
            parts.complete().await
        };
        self.runtime.block_on(sent)?;
        let crc = crc.finalize();
        match self.runtime.block_on(self.crc_there(to, len))? == crc {
            true => Ok((len, crc)),
            false => Err(ArchiveError::NotAsSent {
                place: self.archive.place(to),
            }),
        }
    }

    /// The CRC-32 of the first `len` bytes of an object, read back.
    async fn crc_there(&self, path: &Path, len: u64) -> Result<u32, ArchiveError> {
        let mut crc = Hasher::new();
        for begin in (0..len).step_by(PART_BYTES as usize) {
            let end = len.min(begin + PART_BYTES);
            crc.update(&self.archive.read(path, begin..end).await?);
        }
        Ok(crc.finalize())
    }
}

/// Where a file of a copy is.
fn object_of(folder: &Path, path: &str) -> Path {
    object_name(path)
        .split('/')
        .fold(folder.clone(), |object, part| object.join(part))
}

/// The name of a file of a copy, below the copy.
pub fn object_name(path: &str) -> String {
    match path.ends_with(SEGMENT_SUFFIX) {
        true => format!("files/{path}{PART_SUFFIX}"),
        false => format!("files/{path}"),
    }
}

/// The files of a store's folder, but for its lock and its journal.
fn collect(
    disk: &dyn Disk,
    dir: &FilePath,
    below: &str,
    paths: &mut Vec<String>,
) -> io::Result<()> {
    let mut listed = disk.list(&dir.join(below))?;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in listed {
        let path = match below {
            "" if entry.name == LOCK_FILE || entry.name == JOURNAL_DIR => continue,
            "" => entry.name,
            below => format!("{below}/{}", entry.name),
        };
        match entry.is_dir {
            true => collect(disk, dir, &path, paths)?,
            false => paths.push(path),
        }
    }
    Ok(())
}
