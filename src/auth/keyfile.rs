//! `keys.json`: the keys of a store, without their secrets.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Scope;
use crate::fs::{Disk, read_small, replace_file};
use crate::json_file;

const FILE_LEN_MAX: u64 = 64 << 20;
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct KeyFile {
    format: u32,
    keys: Vec<KeyRecord>,
}

/// What every version of it has.
#[derive(Deserialize)]
struct Version {
    format: u32,
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
    /// To the second, and written now and then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
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
    decode(&bytes).map(Some)
}

/// The keys in such a file's bytes.
pub fn decode(bytes: &[u8]) -> io::Result<Vec<KeyRecord>> {
    // The format first: it says how the rest is to be read, the checksum too.
    if let Ok(Version { format }) = serde_json::from_slice(bytes)
        && format > FORMAT
    {
        return Err(invalid(format!(
            "format {format} is newer than this program"
        )));
    }
    let file: KeyFile = json_file::decode(bytes).map_err(invalid)?;
    Ok(file.keys)
}

/// Replaces the file, durably.
pub fn write(disk: &dyn Disk, path: &Path, keys: Vec<KeyRecord>) -> io::Result<()> {
    replace_file(disk, path, &encode(keys)?)
}

/// The bytes of a file with these keys.
pub fn encode(keys: Vec<KeyRecord>) -> io::Result<Vec<u8>> {
    let format = FORMAT;
    json_file::encode(&KeyFile { format, keys }).map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimMachine;

    fn record(id: &str) -> KeyRecord {
        KeyRecord {
            id: id.into(),
            name: "ci".into(),
            scopes: vec![Scope::Ingest],
            experiments: vec!["search-*".into()],
            created_at_ms: 1_764_000_000_000,
            expires_at_ms: Some(1_795_536_000_000),
            last_used_at_ms: None,
            sha256: "0123456789abcdef".repeat(4),
        }
    }

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing() {
        let machine = SimMachine::new(1, 512);
        let path = Path::new("/keys.json");
        let keys = vec![record("abc"), record("def")];
        write(&*machine.host().disk, path, keys.clone()).unwrap();
        let good = machine.read(path).unwrap();
        let mut found = 0;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            machine.overwrite(path, &bad).unwrap();
            match read(&*machine.host().disk, path) {
                Ok(read) => assert_eq!(read.as_ref(), Some(&keys), "bit {bit}"),
                Err(_) => found += 1,
            }
        }
        assert!(found > good.len() * 7, "{found} of {}", good.len() * 8);
    }

    #[test]
    fn a_file_without_a_checksum_is_taken_as_it_is_and_a_later_one_is_refused() {
        let machine = SimMachine::new(1, 512);
        let path = Path::new("/keys.json");
        let read_back = |bytes: &[u8]| {
            let disk = machine.host().disk;
            replace_file(&*disk, path, bytes).unwrap();
            read(&*disk, path)
        };
        assert_eq!(
            read_back(br#"{"format":1,"keys":[]}"#).unwrap(),
            Some(vec![])
        );
        let later = br#"{"format":2,"crc32": "00000000","keys":7}"#;
        let refused = read_back(later).unwrap_err();
        assert!(refused.to_string().contains("newer"), "{refused}");
    }
}
