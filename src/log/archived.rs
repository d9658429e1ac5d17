//! A sealed segment, as who needs it finds it in an archive.

use serde::{Deserialize, Serialize};

/// Where it is among a store's, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedSegment {
    /// The experiment.
    pub experiment: String,
    /// Which life of it, 16 hexadecimal digits.
    pub incarnation: String,
    /// The name of its file.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32 of all of it, 8 hexadecimal digits.
    pub crc: String,
}
