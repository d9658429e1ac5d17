//! How logs lie in an archive, which has a folder for each life of each experiment of each store. See the
//! room `archive` for the layout.

use std::io;
use std::path::{Path, PathBuf};

use crate::experiment::definition::DEFINITION_FILE;
use crate::fs::Disk;
use crate::log::segment::first_sequence_of;
use crate::model::Slug;

/// A store's folders hold experiments' folders, and these one for each life.
const DEPTH_MAX: usize = 3;

/// Which log a folder is of, as far as its name and those of the folders around it say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The store.
    pub store_id: Option<u64>,
    /// The experiment.
    pub slug: Option<Slug>,
    /// Its life.
    pub incarnation: Option<u64>,
}

/// The folders of logs at `path`, which may be one, in their order.
pub fn log_dirs(disk: &dyn Disk, path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    collect(disk, path, DEPTH_MAX, &mut dirs)?;
    dirs.sort();
    Ok(dirs)
}

fn collect(disk: &dyn Disk, path: &Path, depth: usize, dirs: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = disk.list(path)?;
    let is_log = |name: &str| first_sequence_of(name).is_some() || name == DEFINITION_FILE;
    if entries
        .iter()
        .any(|entry| !entry.is_dir && is_log(&entry.name))
    {
        dirs.push(path.to_path_buf());
        return Ok(());
    }
    for entry in entries.iter().filter(|entry| entry.is_dir && depth > 0) {
        collect(disk, &path.join(&entry.name), depth - 1, dirs)?;
    }
    Ok(())
}

/// What the names of `dir` and the folders around it say.
pub fn named(dir: &Path) -> Named {
    let mut names = dir.iter().rev().map(|name| name.to_str());
    let mut next = || names.next().flatten();
    let number = |name: Option<&str>| {
        let name = name.filter(|name| name.len() == 16)?;
        u64::from_str_radix(name, 16).ok()
    };
    let incarnation = number(next());
    let slug = next().and_then(|name| Slug::parse(name).ok());
    let store_id = number(next());
    if store_id.is_none() || slug.is_none() || incarnation.is_none() {
        // A copy that lies elsewhere: no part of it says anything.
        return Named::default();
    }
    Named {
        store_id,
        slug,
        incarnation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_its_place_is_named_by_it() {
        let dir = Path::new("s3://bucket/some/00000000000000ab/demo/0000000000000007");
        let expected = Named {
            store_id: Some(0xab),
            slug: Slug::parse("demo").ok(),
            incarnation: Some(7),
        };
        assert_eq!(named(dir), expected);
        for other in [
            "s3://bucket/demo/0000000000000007",
            "s3://bucket/x",
            "s3://bucket",
        ] {
            assert_eq!(named(Path::new(other)), Named::default(), "{other}");
        }
    }
}
