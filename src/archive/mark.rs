//! `archived.json`: which segments of an experiment were seen whole in the archive, in its folder. It saves
//! reading them all again after a restart; without it, that is what is done.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::Object;
use crate::fs::{Disk, read_small, replace_file};
use crate::json_file;

/// The name of the file.
const ARCHIVED_FILE: &str = "archived.json";
const FORMAT: u32 = 1;
const FILE_LEN_MAX: u64 = 64 << 20;

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    format: u32,
    /// Of which life of the experiment, 16 hexadecimal digits.
    incarnation: String,
    /// By the name of the file.
    segments: BTreeMap<String, Seen>,
}

/// A segment that was read back whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its salt, 16 hexadecimal digits.
    pub salt: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32 of all of it, 8 hexadecimal digits.
    pub crc: String,
    /// The object's tag.
    pub tag: Option<String>,
}

impl Mark {
    /// Reads the one of this life of the experiment. One that can't be read is none: it says nothing that
    /// can't be asked for again.
    pub fn read(disk: &dyn Disk, dir: &Path, incarnation: u64) -> Self {
        let none = Self {
            format: FORMAT,
            incarnation: format!("{incarnation:016x}"),
            segments: BTreeMap::new(),
        };
        let bytes = read_small(disk, &dir.join(ARCHIVED_FILE), FILE_LEN_MAX);
        let read = bytes
            .ok()
            .and_then(|bytes| json_file::decode::<Self>(&bytes).ok());
        let is_ours = |read: &Self| read.format == FORMAT && read.incarnation == none.incarnation;
        read.filter(is_ours).unwrap_or(none)
    }

    /// Replaces the file.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let bytes = json_file::encode(self).map_err(io::Error::other)?;
        replace_file(disk, &dir.join(ARCHIVED_FILE), &bytes)
    }

    /// Whether a local segment was seen whole.
    pub fn has(&self, name: &str, salt: u64, len: u64) -> bool {
        let seen = self.segments.get(name);
        seen.is_some_and(|seen| seen.salt == format!("{salt:016x}") && seen.bytes == len)
    }

    /// What was seen of a local segment.
    pub fn seen(&self, name: &str) -> Option<&Seen> {
        self.segments.get(name)
    }

    /// Takes note of a segment that was.
    pub fn note(&mut self, name: &str, seen: Seen) {
        self.segments.insert(name.to_owned(), seen);
    }

    /// Forgets what isn't as it was among the `objects`, and what isn't a local segment any more. Says
    /// whether that was anything.
    pub fn compare(
        &mut self,
        objects: &BTreeMap<String, Object>,
        is_local: impl Fn(&str) -> bool,
    ) -> bool {
        let before = self.segments.len();
        self.segments.retain(|name, seen| {
            let object = objects.get(name);
            let is_same = |object: &Object| object.len == seen.bytes && object.tag == seen.tag;
            is_local(name) && object.is_some_and(is_same)
        });
        self.segments.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::real::RealDisk;

    fn seen(tag: &str) -> Seen {
        Seen {
            salt: format!("{:016x}", 5),
            bytes: 100,
            crc: "00000000".into(),
            tag: Some(tag.into()),
        }
    }

    #[test]
    fn it_comes_back_for_its_own_life_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::read(&RealDisk, dir.path(), 7);
        mark.note("a", seen("x"));
        mark.write(&RealDisk, dir.path()).unwrap();
        let read = Mark::read(&RealDisk, dir.path(), 7);
        assert_eq!(read, mark);
        assert!(read.has("a", 5, 100));
        assert!(!read.has("a", 6, 100) && !read.has("a", 5, 101) && !read.has("b", 5, 100));
        assert!(!Mark::read(&RealDisk, dir.path(), 8).has("a", 5, 100));
    }

    #[test]
    fn what_changed_in_the_archive_is_forgotten() {
        let object = |len, tag: &str| Object {
            path: object_store::path::Path::from("x"),
            len,
            tag: Some(tag.into()),
        };
        let mut mark = Mark::default();
        for name in ["same", "gone", "longer", "other", "dropped"] {
            mark.note(name, seen("x"));
        }
        let objects = BTreeMap::from([
            ("same".to_owned(), object(100, "x")),
            ("longer".to_owned(), object(101, "x")),
            ("other".to_owned(), object(100, "y")),
            ("dropped".to_owned(), object(100, "x")),
        ]);
        assert!(mark.compare(&objects, |name| name != "dropped"));
        let names: Vec<_> = mark.segments.keys().collect();
        assert_eq!(names, ["same"]);
        assert!(!mark.compare(&objects, |_| true));
    }
}
