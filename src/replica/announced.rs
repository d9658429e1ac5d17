//! What a stream has told of one shard by itself, until it is placed: so that following asks for nothing.
//!
//! It may have gaps: what comes while too much waits, or while there is no connection, is not kept. Each message is
//! told with the one before it, so a gap is seen, and what is missing is asked for.

use std::collections::VecDeque;

use bytes::Bytes;

/// Messages of one shard that wait here, at most,
const MESSAGES_MAX: usize = 64;
/// and their bytes, but for the first one.
const BYTES_MAX: usize = 256 << 10;

/// What was told of a shard and isn't placed yet.
#[derive(Debug, Default)]
pub struct Announcements {
    messages: VecDeque<Announcement>,
    bytes: usize,
    /// Something was told and not kept.
    has_gap: bool,
}

#[derive(Debug)]
struct Announcement {
    sequence: u64,
    /// The sequence of the shard's message before; 0 if there is none.
    previous: u64,
    message: Bytes,
}

/// What is known of what stands right behind a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// This, with its sequence.
    Next(u64, Bytes),
    /// Nothing was told. There may be something all the same.
    Nothing,
    /// Something was told, and what stands between is missing: ask for it.
    Gap,
}

impl Announcements {
    /// Keeps a message that stands behind the one with the sequence `previous`.
    pub fn push(&mut self, sequence: u64, previous: u64, message: Bytes) {
        let is_full = self.messages.len() >= MESSAGES_MAX || self.bytes + message.len() > BYTES_MAX;
        if is_full && !self.messages.is_empty() {
            self.has_gap = true;
            return;
        }
        self.bytes += message.len();
        self.messages.push_back(Announcement {
            sequence,
            previous,
            message,
        });
    }

    /// Takes the message that stands right behind this one, and forgets those before it.
    pub fn take(&mut self, after: u64) -> Announced {
        while let Some(first) = self
            .messages
            .pop_front_if(|first| first.sequence <= after || first.previous == after)
        {
            self.bytes -= first.message.len();
            if first.sequence > after {
                return Announced::Next(first.sequence, first.message);
            }
        }
        let has_gap = std::mem::take(&mut self.has_gap);
        match has_gap || !self.messages.is_empty() {
            true => Announced::Gap,
            false => Announced::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(announcements: &mut Announcements, sequence: u64, previous: u64) {
        announcements.push(sequence, previous, Bytes::from(sequence.to_string()));
    }

    fn next(sequence: u64) -> Announced {
        Announced::Next(sequence, Bytes::from(sequence.to_string()))
    }

    #[test]
    fn what_stands_right_behind_is_taken_and_what_is_placed_forgotten() {
        let mut announcements = Announcements::default();
        assert_eq!(announcements.take(0), Announced::Nothing);
        for (sequence, previous) in [(3, 0), (4, 3), (9, 4)] {
            told(&mut announcements, sequence, previous);
        }
        assert_eq!(announcements.take(3), next(4));
        assert_eq!(announcements.take(4), next(9));
        assert_eq!(announcements.take(9), Announced::Nothing);
        assert_eq!(announcements.bytes, 0);
    }

    #[test]
    fn a_gap_is_seen_until_it_was_filled_otherwise() {
        let mut announcements = Announcements::default();
        told(&mut announcements, 9, 4);
        assert_eq!(announcements.take(3), Announced::Gap);
        assert_eq!(announcements.take(4), next(9));
        assert_eq!(announcements.take(9), Announced::Nothing);
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_not_kept_is_a_gap() {
        let mut announcements = Announcements::default();
        let large = Bytes::from(vec![0; BYTES_MAX + 1]);
        announcements.push(1, 0, large.clone());
        announcements.push(2, 1, Bytes::from_static(b"2"));
        assert_eq!(announcements.take(0), Announced::Next(1, large));
        assert_eq!(announcements.take(1), Announced::Gap);
        assert_eq!(announcements.take(1), Announced::Nothing);
        for sequence in 1..=MESSAGES_MAX as u64 + 9 {
            told(&mut announcements, sequence, sequence - 1);
        }
        assert_eq!(announcements.messages.len(), MESSAGES_MAX);
    }
}
