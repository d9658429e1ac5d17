//! Small JSON files that carry a checksum of their own bytes, so that a flipped bit in them is
//! found and never taken for another definition.
//!
//! The last member is `"crc32"`: eight hexadecimal digits, computed with zeros in their place. A
//! file without it (written by hand, or to be changed by hand) is taken as it is.

use serde::Serialize;
use serde::de::DeserializeOwned;

const MEMBER: &[u8] = b"\"crc32\": \"";
const DIGITS: usize = 8;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonFileError {
    /// Not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is not as it was written.
    #[error("its bytes don't fit their checksum")]
    Checksum,
}

/// The bytes of a file with `value`, an object that has members.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, JsonFileError> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.truncate(bytes.trim_ascii_end().len().saturating_sub(1));
    bytes.truncate(bytes.trim_ascii_end().len());
    bytes.extend_from_slice(b",\n  ");
    bytes.extend_from_slice(MEMBER);
    bytes.extend_from_slice(&[b'0'; DIGITS]);
    bytes.extend_from_slice(b"\"\n}\n");
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    if let Some(digits) = digits_of(&mut bytes) {
        digits.copy_from_slice(crc.as_bytes());
    }
    Ok(bytes)
}

/// The value in a file's bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonFileError> {
    let mut zeroed = bytes.to_vec();
    if let Some(digits) = digits_of(&mut zeroed) {
        let said = digits.to_vec();
        digits.fill(b'0');
        if said != format!("{:08x}", crc32fast::hash(&zeroed)).as_bytes() {
            return Err(JsonFileError::Checksum);
        }
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// The digits of the checksum, when the file has one.
fn digits_of(bytes: &mut [u8]) -> Option<&mut [u8]> {
    let begin = memchr::memmem::rfind(bytes, MEMBER)? + MEMBER.len();
    bytes.get_mut(begin..begin + DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing() {
        let value = json!({"name": "\"crc32\": \"00000000", "list": [1, 2]});
        let good = encode(&value).unwrap();
        let read: Value = decode(&good).unwrap();
        assert_eq!(read["name"], value["name"]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = decode::<Value>(&bad) {
                assert_eq!(read["name"], value["name"], "bit {bit}");
                assert_eq!(read["list"], value["list"], "bit {bit}");
            }
        }
    }

    #[test]
    fn a_file_written_by_hand_needs_no_checksum() {
        let read: Value = decode(br#"{"name": "mine"}"#).unwrap();
        assert_eq!(read["name"], "mine");
    }
}
