//! Right checksums for wrong bytes: so that what lies behind a checksum is fuzzed, too. Each of
//! these takes bytes of any kind and puts right what it finds in them.

use crc32fast::{Hasher, hash};

/// The frame that begins `bytes`, in a segment with this salt; its length in the file, if its
/// own length fits.
pub fn frame(bytes: &mut [u8], salt: u64) -> Option<usize> {
    let seed = hash(&salt.to_le_bytes());
    let len = read_u32(bytes, 4)? as usize;
    let crc = continued(seed, bytes.get(..28)?);
    put(bytes, 28, crc);
    let end = len.checked_add(36)?;
    let payload = continued(crc, bytes.get(36..end)?);
    put(bytes, 32, payload);
    Some(end.next_multiple_of(8))
}

/// A segment: its header, whose copies are made equal, its frames as far as their lengths lead, and its footer.
pub fn segment(bytes: &mut [u8]) {
    if let Some(header) = bytes.get_mut(..512) {
        let crc = hash(&header[..252]);
        put(header, 252, crc);
        header.copy_within(..256, 256);
    }
    let Some(salt) = read_u64(bytes, 72) else {
        return;
    };
    footer(bytes, salt);
    let mut at = 512;
    while let Some(len) = bytes.get_mut(at..).and_then(|rest| frame(rest, salt)) {
        at += len;
        if bytes.get(at..at + 2) != Some(b"tl") {
            break;
        }
    }
    content_crc(bytes);
}

/// The footer at the end of `bytes`, where its trailer says that it begins, without the checksum
/// of what is in front of it.
pub fn footer(bytes: &mut [u8], salt: u64) {
    let Some(trailer) = bytes.len().checked_sub(48) else {
        return;
    };
    put(bytes, trailer + 24, salt);
    if let Some(begin) = footer_begin(bytes) {
        put(bytes, begin + 16, salt);
        if let Some(crc) = bytes.get(begin..begin + 24).map(hash) {
            put(bytes, begin + 24, crc);
        }
        let mut section = begin + 32;
        while let Some(end) = section_end(bytes, section).filter(|end| *end <= trailer) {
            if let Some(crc) = bytes.get(section + 16..end).map(hash) {
                put(bytes, section + 4, crc);
            }
            section = end.next_multiple_of(8);
        }
    }
    trailer_crc(bytes);
}

/// The journal's batches in the file `bytes`, whose lap has this salt.
pub fn journal(bytes: &mut [u8], salt: u64, sector_bytes: usize) {
    let mut at = 8192;
    while at + 40 <= bytes.len() {
        let mut len = 0;
        if bytes.get(at..at + 4) == Some(b"TLJB") {
            len = read_u64(bytes, at + 24).map_or(0, |len| len as usize);
            let payload = (at + 40)
                .checked_add(len)
                .and_then(|end| bytes.get(at + 40..end));
            if let Some(crc) = payload.map(hash) {
                put(bytes, at + 32, crc);
            } else {
                len = 0;
            }
            let crc = continued(
                hash(&salt.to_le_bytes()),
                bytes.get(at..at + 36).unwrap_or(&[]),
            );
            put(bytes, at + 36, crc);
        }
        at += (40 + len).next_multiple_of(sector_bytes);
    }
}

/// The member `crc32` of a small JSON file.
pub fn json(bytes: &mut [u8]) {
    const MEMBER: &[u8] = b"\"crc32\": \"";
    let begin = bytes
        .windows(MEMBER.len())
        .rposition(|window| window == MEMBER);
    let Some(begin) = begin.map(|begin| begin + MEMBER.len()) else {
        return;
    };
    if bytes.len() < begin + 8 {
        return;
    }
    bytes[begin..begin + 8].fill(b'0');
    let digits = format!("{:08x}", hash(bytes));
    bytes[begin..begin + 8].copy_from_slice(digits.as_bytes());
}

fn content_crc(bytes: &mut [u8]) {
    if let Some(begin) = footer_begin(bytes) {
        let crc = bytes.get(..begin).map_or(0, hash);
        put(bytes, bytes.len() - 16, crc);
        trailer_crc(bytes);
    }
}

fn trailer_crc(bytes: &mut [u8]) {
    let trailer = bytes.len() - 48;
    if let Some(begin) = footer_begin(bytes) {
        let crc = bytes.get(begin..trailer).map_or(0, hash);
        put(bytes, trailer + 36, crc);
    }
    let crc = bytes.get(trailer..trailer + 44).map_or(0, hash);
    put(bytes, trailer + 44, crc);
}

/// Where the trailer says that the footer begins, if that is in front of it.
fn footer_begin(bytes: &[u8]) -> Option<usize> {
    let trailer = bytes.len().checked_sub(48)?;
    let begin = usize::try_from(read_u64(bytes, trailer + 8)?).ok()?;
    (begin <= trailer).then_some(begin)
}

fn section_end(bytes: &[u8], section: usize) -> Option<usize> {
    let len = usize::try_from(read_u64(bytes, section + 8)?).ok()?;
    section.checked_add(16)?.checked_add(len)
}

fn continued(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

/// A value that stands in a file as its little-endian bytes.
trait Field {
    fn bytes(&self) -> impl AsRef<[u8]>;
}

impl Field for u32 {
    fn bytes(&self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Field for u64 {
    fn bytes(&self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

fn put(bytes: &mut [u8], at: usize, field: impl Field) {
    let field = field.bytes();
    let field = field.as_ref();
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}
