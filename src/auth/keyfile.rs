//! `keys.json`: the keys of a store, without their secrets.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Scope;
use crate::fs::{Disk, read_small, replace_file};

const FILE_LEN_MAX: u64 = 64 << 20;
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct KeyFile {
    format: u32,
    keys: Vec<KeyRecord>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub experiments: Vec<String>,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
    /// SHA-256 of the whole key, hexadecimal. A key is random, so a slow hash would only cost
    /// throughput.
    pub sha256: String,
}

/// Reads the file; `None` when there is none.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<KeyRecord>>> {
    let bytes = match read_small(disk, path, FILE_LEN_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let file: KeyFile = serde_json::from_slice(&bytes)?;
    if file.format > FORMAT {
        let what = format!("format {} is newer than this program", file.format);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(file.keys))
}

/// Replaces the file, durably.
pub fn write(disk: &dyn Disk, path: &Path, keys: Vec<KeyRecord>) -> io::Result<()> {
    let format = FORMAT;
    let mut bytes = serde_json::to_vec_pretty(&KeyFile { format, keys })?;
    bytes.push(b'\n');
    replace_file(disk, path, &bytes)
}
