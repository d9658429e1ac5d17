//! What is known of how far the log of one experiment is archived.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::time::Instant;

use object_store::path::Path;

use super::layout::LogName;
use super::local_copies::LocalCopy;
use super::mark::Mark;
use super::store::Object;
use crate::fs::Disk;
use crate::log::outline::outlined_name;
use crate::log::reader::Listed;
use crate::log::segment::first_sequence_of;

/// What is known of one log.
pub struct Known {
    /// Which life of which experiment it is of.
    pub name: LogName,
    /// What was seen whole in the archive.
    pub mark: Mark,
    /// What the archive has of it, as it was listed last.
    pub objects: BTreeMap<String, Object>,
    /// When the mark was compared with that list.
    pub compared_at: Instant,
    /// The names of the files of its folder when all that were closed were archived.
    pub settled_with: BTreeSet<String>,
    /// The sealed segments that are here.
    pub local: Vec<LocalCopy>,
    /// Of the definition that was uploaded last.
    pub definition_crc: Option<u32>,
    /// Of what was uploaded last of what was dropped here.
    pub dropped_crc: Option<u32>,
}

impl Known {
    /// Only what is remembered in the experiment's folder.
    pub fn nothing(disk: &dyn Disk, dir: &FilePath, name: LogName) -> Self {
        Self {
            mark: Mark::read(disk, dir, name.incarnation),
            name,
            objects: BTreeMap::new(),
            compared_at: Instant::now(),
            settled_with: BTreeSet::new(),
            local: Vec::new(),
            definition_crc: None,
            dropped_crc: None,
        }
    }

    /// Whether the archive has this segment as it is here.
    pub fn has(&self, segment: &Listed) -> bool {
        let Ok(header) = &segment.header else {
            return false;
        };
        let name = file_name(segment);
        // What the mark says is believed once the archive was listed.
        self.objects.contains_key(&name) && self.mark.has(&name, header.salt, segment.len)
    }

    /// The sealed segments that are here, of all of them.
    pub fn local_copies(&self, segments: &[Listed], prefix: &Path) -> Vec<LocalCopy> {
        let newest = segments.last().map(|last| last.first_sequence);
        let here = segments.iter().filter(|segment| segment.is_here);
        let copies = here.filter_map(|segment| {
            let header = segment.header.as_ref().ok()?;
            let name = file_name(segment);
            let may_go = self.has(segment) && Some(segment.first_sequence) != newest;
            let seen = self.mark.seen(&name).filter(|_| may_go);
            let object = self.name.folder(prefix).join(name.as_str());
            Some(LocalCopy {
                path: segment.path.clone(),
                len: segment.len,
                created_at_ms: header.created_at_ms,
                archived: seen.map(|seen| (object, seen.clone())),
            })
        });
        copies.collect()
    }
}

/// The names of the files of segments and outlines in a folder; none if it can't be read.
pub fn names(disk: &dyn Disk, dir: &FilePath) -> BTreeSet<String> {
    let entries = disk.list(dir).unwrap_or_default().into_iter();
    let names = entries.map(|entry| entry.name);
    names
        .filter(|name| {
            let outlined = outlined_name(name);
            first_sequence_of(outlined.as_ref().unwrap_or(name)).is_some()
        })
        .collect()
}

/// The name that a segment's file has here, and its object in the archive.
pub fn file_name(segment: &Listed) -> String {
    let name = segment.path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
