//! Archives as a disk to be read: what lies behind an address, by requests for ranges; all else on the
//! machine's own disk.
//!
//! The names and lengths of all objects are read once, at the beginning; then a read of n bytes is a
//! request for n bytes. Nothing is kept but the beginnings of segments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use tokio::runtime::Runtime;

use super::error::ArchiveError;
use super::store::{Archive, PART_BYTES};
use crate::fs::{Access, Dir, DirEntry, Disk, File, FileSystem, LockGuard, Mapping};
use crate::log::segment::{SEGMENT_HEADER_LEN, SEGMENT_SUFFIX};

/// The beginnings of so many segments are asked for at a time.
const HEADS_AT_ONCE: usize = 16;

/// What an address looks like.
const SCHEME_END: &str = "://";

/// Whether a path is an address.
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.contains(SCHEME_END))
}

/// A disk on which addresses are archives.
pub struct ArchiveDisk {
    beside: Arc<dyn Disk>,
    runtime: Arc<Runtime>,
    places: Vec<Arc<Place>>,
}

/// An address that was opened.
struct Place {
    /// As it was given, without a `/` at its end.
    address: String,
    archive: Archive,
    /// The lengths of all objects, by their path below the address.
    objects: BTreeMap<String, u64>,
    /// The beginnings of segments.
    heads: Mutex<HashMap<String, Bytes>>,
}

impl ArchiveDisk {
    /// Lists what is archived at those `paths` that are addresses. The others are `beside` it.
    pub fn open(paths: &[PathBuf], beside: Arc<dyn Disk>) -> Result<Self, ArchiveError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(1)
            .build()
            .map_err(ArchiveError::Threads)?;
        let addresses = paths.iter().filter(|path| is_address(path));
        let places = addresses.map(|path| {
            let address = folder_of(path.to_str().unwrap_or_default());
            let archive = Archive::open(address)?;
            let listed = runtime.block_on(archive.list(&archive.prefix))?;
            let below = |path: &ObjectPath| {
                let mut parts = path.prefix_match(&archive.prefix)?;
                let first = parts.next()?.as_ref().to_owned();
                Some(parts.fold(first, |path, part| format!("{path}/{}", part.as_ref())))
            };
            let named = listed
                .iter()
                .filter_map(|object| Some((below(&object.path)?, object.len)));
            Ok(Arc::new(Place {
                address: address.to_owned(),
                objects: named.collect(),
                archive,
                heads: Mutex::default(),
            }))
        });
        Ok(Self {
            places: places.collect::<Result<_, ArchiveError>>()?,
            runtime: Arc::new(runtime),
            beside,
        })
    }

    /// The place that a path lies in, and where there.
    fn find(&self, path: &Path) -> Option<(&Arc<Place>, String)> {
        let text = path.to_str()?;
        self.places.iter().find_map(|place| {
            let rest = text.strip_prefix(&place.address)?;
            let is_in = rest.is_empty() || rest.starts_with('/');
            is_in.then(|| (place, rest.trim_matches('/').to_owned()))
        })
    }
}

impl Place {
    /// The objects below a folder, by their paths below the address.
    fn below(&self, folder: &str) -> impl Iterator<Item = (&String, &u64)> {
        let begin = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let behind = self.objects.range(begin.clone()..);
        behind.take_while(move |(name, _)| name.starts_with(&begin))
    }

    /// Asks for the beginnings of all segments that lie beside this one: one after the other, each would cost
    /// the time of a request.
    async fn read_heads(&self, beside: &str) -> Result<(), ArchiveError> {
        let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
        let names = self.below(folder).map(|(name, _)| name);
        let own = names.filter(|name| name.ends_with(SEGMENT_SUFFIX));
        let missing: Vec<String> = own
            .filter(|name| self.head(name).is_none())
            .cloned()
            .collect();
        let reads = missing.into_iter().map(|name| async {
            let path = self.path(&name);
            let head = self.archive.read(&path, 0..SEGMENT_HEADER_LEN).await?;
            Ok::<_, ArchiveError>((name, head))
        });
        let heads = futures_util::stream::iter(reads).buffer_unordered(HEADS_AT_ONCE);
        let heads = heads.try_collect::<Vec<_>>().await?;
        lock(&self.heads).extend(heads);
        Ok(())
    }

    fn head(&self, name: &str) -> Option<Bytes> {
        lock(&self.heads).get(name).cloned()
    }

    fn path(&self, name: &str) -> ObjectPath {
        let parts = name.split('/');
        parts.fold(self.archive.prefix.clone(), |path, part| path.join(part))
    }
}

impl Disk for ArchiveDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.own(path)?.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let Some((place, name)) = self.find(path) else {
            return self.beside.open(path, access);
        };
        if access == Access::ReadWrite {
            return Err(read_only());
        }
        let Some(len) = place.objects.get(&name) else {
            let what = format!("{} isn't in the archive", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        };
        Ok(Arc::new(ArchiveFile {
            place: place.clone(),
            runtime: self.runtime.clone(),
            object: place.path(&name),
            name,
            len: *len,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.own(to)?;
        self.own(from)?.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.own(path)?.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.own(path)?.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.own(path)?.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let Some((place, folder)) = self.find(path) else {
            return self.beside.list(path);
        };
        let own_len = if folder.is_empty() {
            0
        } else {
            folder.len() + 1
        };
        let mut entries = BTreeSet::new();
        for (object, _) in place.below(&folder) {
            let rest = object.get(own_len..).unwrap_or_default();
            let (name, behind) = rest.split_once('/').unwrap_or((rest, ""));
            entries.insert((name, !behind.is_empty()));
        }
        if entries.is_empty() {
            let what = format!("nothing is archived at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        let entries = entries.into_iter().map(|(name, is_dir)| DirEntry {
            name: name.to_owned(),
            is_dir,
        });
        Ok(entries.collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.own(path)?.sync_dir(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.own(path)?.open_dir(path)
    }

    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.own(path)?.open_filesystem(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.own(path)?.lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.own(path)?.is_locked(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.own(path)?.free_bytes(path)
    }

    fn sector_bytes(&self, path: &Path) -> io::Result<usize> {
        self.own(path)?.sector_bytes(path)
    }

    fn is_remote(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }
}

impl ArchiveDisk {
    /// The machine's disk, if the path is there.
    fn own(&self, path: &Path) -> io::Result<&dyn Disk> {
        match self.find(path) {
            Some(_) => Err(read_only()),
            None => Ok(&*self.beside),
        }
    }
}

/// An object that is read.
struct ArchiveFile {
    place: Arc<Place>,
    runtime: Arc<Runtime>,
    object: ObjectPath,
    name: String,
    len: u64,
}

impl ArchiveFile {
    fn read(&self, range: Range<u64>) -> io::Result<Vec<Bytes>> {
        let begins = range.clone().step_by(PART_BYTES as usize);
        let ranges: Vec<_> = begins
            .map(|begin| begin..range.end.min(begin + PART_BYTES))
            .collect();
        let read = self.place.archive.read_all(&self.object, &ranges);
        let pieces = self.runtime.block_on(read).map_err(ArchiveError::into_io)?;
        let read_len: usize = pieces.iter().map(Bytes::len).sum();
        if read_len as u64 != range.end - range.start {
            let place = self.place.archive.place(&self.object);
            let what =
                format!("{place} isn't as long as it was listed: it was replaced, try again");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        Ok(pieces)
    }
}

impl File for ArchiveFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.len.min(offset.saturating_add(buffer.len() as u64));
        if end <= offset {
            return Ok(0);
        }
        let is_head = end <= SEGMENT_HEADER_LEN && self.name.ends_with(SEGMENT_SUFFIX);
        if is_head && self.place.head(&self.name).is_none() {
            let read = self.runtime.block_on(self.place.read_heads(&self.name));
            read.map_err(ArchiveError::into_io)?;
        }
        let head = self
            .place
            .head(&self.name)
            .filter(|head| end <= head.len() as u64);
        let pieces = match head {
            Some(head) => vec![head.slice(offset as usize..end as usize)],
            None => self.read(offset..end)?,
        };
        let mut rest = buffer;
        for piece in &pieces {
            let Some((front, behind)) = rest.split_at_mut_checked(piece.len()) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            front.copy_from_slice(piece);
            rest = behind;
        }
        Ok((end - offset) as usize)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        Ok(Mapping::Owned(self.read(0..len)?.concat()))
    }
}

/// The folder of an address that may be a segment's: its neighbours say where it ends.
fn folder_of(address: &str) -> &str {
    let address = address.trim_end_matches('/');
    match address.rsplit_once('/') {
        Some((folder, name)) if name.ends_with(SEGMENT_SUFFIX) => folder,
        _ => address,
    }
}

fn read_only() -> io::Error {
    let what = "an archive is only read: copy what is to be changed to a folder";
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, what)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
