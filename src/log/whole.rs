//! Whether the file of a sealed segment is whole, told from its bytes as they pass by.

use crc32fast::Hasher;

use super::footer::{Checksums, TRAILER_LEN, checksums};

/// Takes a sealed segment's bytes in their order, and says in the end whether they fit what the trailer
/// says of them.
pub struct WholeCheck {
    len: u64,
    said: Checksums,
    trailer: Vec<u8>,
    position: u64,
    content: Hasher,
    footer: Hasher,
    end: Vec<u8>,
    all: Hasher,
}

impl WholeCheck {
    /// For a file of this length that ends with `trailer`; `None` if no sealed segment with this salt ends
    /// so.
    pub fn new(trailer: &[u8], len: u64, salt: u64) -> Option<Self> {
        let said = checksums(trailer, salt)?;
        let is_in = said.footer_start <= len.checked_sub(TRAILER_LEN as u64)?;
        is_in.then(|| Self {
            len,
            said,
            trailer: trailer.to_vec(),
            position: 0,
            content: Hasher::new(),
            footer: Hasher::new(),
            end: Vec::with_capacity(TRAILER_LEN),
            all: Hasher::new(),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.all.update(bytes);
        let end_start = self.len - TRAILER_LEN as u64;
        let part = |from: u64, to: u64| {
            let place = |at: u64| at.saturating_sub(self.position).min(bytes.len() as u64) as usize;
            bytes.get(place(from)..place(to)).unwrap_or_default()
        };
        self.content.update(part(0, self.said.footer_start));
        self.footer.update(part(self.said.footer_start, end_start));
        self.end.extend_from_slice(part(end_start, self.len));
        self.position += bytes.len() as u64;
    }

    /// The CRC-32 of all bytes, if they are a whole segment.
    pub fn finish(self) -> Option<u32> {
        let is_whole = self.position == self.len
            && self.content.finalize() == self.said.content_crc
            && self.footer.finalize() == self.said.footer_crc
            && self.end == self.trailer;
        is_whole.then(|| self.all.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::footer;
    use crate::log::index::SegmentIndex;

    fn sealed() -> Vec<u8> {
        let mut bytes = vec![7; 4096];
        let crc = crc32fast::hash(&bytes);
        let index = SegmentIndex::default();
        bytes.extend(footer::encode(&index, b"metrics", 5, 1000, 4096, crc));
        bytes
    }

    fn check(bytes: &[u8], piece_len: usize) -> Option<u32> {
        let trailer = bytes.last_chunk::<TRAILER_LEN>()?;
        let mut check = WholeCheck::new(trailer, bytes.len() as u64, 5)?;
        bytes
            .chunks(piece_len)
            .for_each(|piece| check.update(piece));
        check.finish()
    }

    #[test]
    fn a_whole_one_is_told_in_pieces_of_any_length() {
        let bytes = sealed();
        for piece_len in [1, 47, 48, 4095, 4096, 4097, bytes.len()] {
            assert_eq!(check(&bytes, piece_len), Some(crc32fast::hash(&bytes)));
        }
        let trailer = bytes.last_chunk::<TRAILER_LEN>().unwrap();
        assert!(WholeCheck::new(trailer, bytes.len() as u64, 6).is_none());
        assert!(WholeCheck::new(trailer, 47, 5).is_none());
    }

    #[test]
    fn each_flipped_bit_is_told_and_so_is_a_missing_byte() {
        let bytes = sealed();
        for at in (0..bytes.len())
            .step_by(5)
            .chain(bytes.len() - 48..bytes.len())
        {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(check(&flipped, 1000), None, "{at}");
        }
        assert_eq!(check(&bytes[1..], 1000), None);
    }
}
