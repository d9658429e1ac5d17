//! What a segment already holds of the sector in which new bytes begin.
//!
//! The disk may tear what it writes at sector boundaries only; so whoever may have to write new
//! bytes again after a power cut needs the sector's beginning too. That is seldom, and a sector is
//! ten times an entry: groups share it instead of having a copy each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bytes from a sector boundary to the place where new bytes begin.
#[derive(Clone, Default)]
pub struct Lead {
    /// Only ever added to: its first `len` bytes stay what they were.
    sector: Arc<Mutex<Vec<u8>>>,
    len: usize,
}

impl Lead {
    /// A lead of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let sector = Arc::new(Mutex::new(bytes));
        Self { sector, len }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether new bytes begin at a sector boundary.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let sector = self.sector();
        sector.get(..self.len).unwrap_or_default().to_vec()
    }

    /// Becomes the lead of what will stand behind `new`, which ends at `end`.
    pub fn advance(&mut self, new: &[u8], end: u64, sector_bytes: usize) {
        let len = (end % sector_bytes as u64) as usize;
        if len < new.len() {
            let mut sector = Vec::with_capacity(sector_bytes);
            sector.extend_from_slice(new.get(new.len() - len..).unwrap_or_default());
            *self = Self::new(sector);
        } else {
            self.sector().extend_from_slice(new);
            self.len = len;
        }
    }

    fn sector(&self) -> MutexGuard<'_, Vec<u8>> {
        // Whoever panicked while holding this has added whole bytes or none.
        self.sector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_sector_however_it_was_written() {
        let log: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let (mut lead, mut leads, mut end) = (Lead::default(), Vec::new(), 0);
        for len in [0, 1, 15, 16, 17, 3, 13, 0, 32, 100, 5, 11, 16, 700].repeat(3) {
            let begin = end;
            end += len;
            lead.advance(&log[begin..end], end as u64, 16);
            leads.push((end, lead.clone()));
        }
        // The earlier ones too: what came later didn't change them.
        for (end, lead) in leads {
            assert_eq!(lead.to_vec(), log[end / 16 * 16..end], "at {end}");
            assert_eq!(lead.len(), end % 16);
        }
    }
}
