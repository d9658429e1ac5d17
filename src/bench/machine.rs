//! What a result was measured on.

use std::path::Path;

use serde::Serialize;

/// What can be told; what can't is empty.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub processors: usize,
    pub processor: String,
    pub memory_bytes: u64,
    pub kernel: String,
    /// The file system of the store.
    pub file_system: String,
}

impl Machine {
    /// This machine; `dir` is on the disk in question.
    pub fn this(dir: &Path) -> Self {
        let kib = field("/proc/meminfo", "MemTotal");
        let kib = kib.split_whitespace().next().and_then(|n| n.parse().ok());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory_bytes: kib.map_or(0, |kib: u64| kib * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(dir),
        }
    }

    /// Whether what is synced there goes nowhere.
    pub fn is_in_memory(&self) -> bool {
        matches!(&*self.file_system, "tmpfs" | "ramfs")
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line with this name.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// The type of the file system that holds `dir`: of the mount with the longest path.
fn file_system(dir: &Path) -> String {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mounts = read("/proc/self/mounts");
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        dir.starts_with(place).then_some((place.len(), kind))
    });
    let longest = holding.max_by_key(|(len, _)| *len);
    longest.map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}
