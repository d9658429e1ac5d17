//! Walking a segment's frames, and telling damage from a torn tail.

use super::frame::{FRAME_ALIGN, FRAME_HEADER_LEN, Frame, FrameError, Seed};
use super::planted::{Bug, is_planted};
use super::record::Record;
use crate::model::LogId;

/// What is known about the end of the bytes that are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of them are durable: what doesn't decode is damage.
    Known,
    /// A copy without its journal: bad bytes with nothing good behind them are a torn tail.
    Guessed,
}

/// What a scan comes across.
#[derive(Debug)]
pub enum Found<'a> {
    /// A good record.
    Record {
        /// Where its frame begins.
        position: u64,
        /// The frame around it.
        frame: Frame<'a>,
        /// The record.
        record: Record<'a>,
    },
    /// Bytes that were written whole once and are no longer what they were.
    Damage(Damage),
    /// Nothing good from here to the end, in a segment whose end is guessed.
    Torn {
        /// Where the torn bytes begin.
        position: u64,
    },
}

/// A damaged range of a segment and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub start: u64,
    /// Where good bytes begin again.
    pub end: u64,
    /// The entry that is lost, when its header still names it.
    pub entry: Option<LogId>,
    /// How many frames are lost; `None` at the end of a segment, where nothing tells.
    pub frames_lost: Option<u32>,
    /// What is wrong.
    pub reason: DamageReason,
}

/// What is wrong with a damaged range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageReason {
    /// A copy of the segment's header.
    Header,
    /// A frame's header: its length can't be trusted.
    FrameHeader,
    /// A frame's payload.
    Payload,
    /// Bytes that must be zero; the entry in front of them is whole.
    Padding,
    /// The checksum is right, but the record isn't one of ours.
    Record,
    /// Frames are missing between two good ones.
    Missing,
    /// A frame that isn't in its place: it was there before, or belongs further behind.
    Misplaced,
    /// The file is shorter than what was acknowledged.
    Shortened,
    /// The footer; it is rebuilt from the frames.
    Footer,
    /// Bytes that were set aside behind the frames.
    SetAside,
}

impl DamageReason {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "one of the two copies of the segment header is damaged",
            Self::FrameHeader => "a frame's header is damaged",
            Self::Payload => "a frame's payload is damaged",
            Self::Padding => "padding behind a frame isn't zero",
            Self::Record => "a record doesn't decode",
            Self::Missing => "frames are missing",
            Self::Misplaced => "a frame is not in its place",
            Self::Shortened => "the file is shorter than what was acknowledged",
            Self::Footer => "the footer is damaged",
            Self::SetAside => "bytes set aside behind the frames have changed",
        }
    }
}

/// Walks the frames of a segment.
pub struct Scanner<'a> {
    /// The segment up to where its frames end.
    bytes: &'a [u8],
    seed: Seed,
    end: End,
    position: usize,
    ordinal: u32,
    /// What is found behind a range of damage, told after it.
    held: Option<Found<'a>>,
}

impl<'a> Scanner<'a> {
    /// Walks `bytes`, a segment up to the end of its frames, from `position` on, where a frame
    /// with this `ordinal` is due.
    pub fn new(bytes: &'a [u8], seed: Seed, end: End, position: u64, ordinal: u32) -> Self {
        Self {
            bytes,
            seed,
            end,
            position: position as usize,
            ordinal,
            held: None,
        }
    }

    /// The ordinal of the frame that is due next.
    pub fn next_ordinal(&self) -> u32 {
        self.ordinal
    }

    fn good(&mut self, frame: Frame<'a>) -> Found<'a> {
        let position = self.position as u64;
        let end = position + frame.frame_len() as u64;
        let due = self.ordinal;
        let ordinal = frame.header.ordinal;
        let is_repeated = ordinal < due && !is_planted(Bug::LastOfTwoWins);
        let is_out_of_place = ordinal > due && self.has_earlier_behind(&frame);
        self.position += frame.frame_len();
        if is_repeated || is_out_of_place {
            return Found::Damage(Damage {
                start: position,
                end,
                entry: None,
                frames_lost: Some(0),
                reason: DamageReason::Misplaced,
            });
        }
        self.ordinal = ordinal.saturating_add(1);
        let found = match Record::of(&frame) {
            Ok(record) => Found::Record {
                position,
                frame,
                record,
            },
            Err(_) => Found::Damage(Damage {
                start: position,
                end,
                entry: Some(frame.header.id).filter(|id| *id != LogId::MIN),
                frames_lost: Some(1),
                reason: DamageReason::Record,
            }),
        };
        if ordinal <= due {
            return found;
        }
        self.held = Some(found);
        Found::Damage(Damage {
            start: position,
            end: position,
            entry: None,
            frames_lost: Some(ordinal - due),
            reason: DamageReason::Missing,
        })
    }

    /// The entry is whole and must not be lost for the zeros behind it.
    fn good_but_padding(&mut self, bytes: &'a [u8], frame_len: usize) -> Found<'a> {
        let start = self.position as u64;
        let Ok(frame) = Frame::decode_unpadded(bytes, self.seed) else {
            return self.bad(FrameError::Header);
        };
        self.held = Some(self.good(frame));
        Found::Damage(Damage {
            start,
            end: start + frame_len as u64,
            entry: None,
            frames_lost: Some(0),
            reason: DamageReason::Padding,
        })
    }

    fn bad(&mut self, error: FrameError) -> Found<'a> {
        let start = self.position as u64;
        let (reason, header) = match error {
            FrameError::Payload(header) => (DamageReason::Payload, Some(header)),
            FrameError::Padding(header) => (DamageReason::Padding, Some(header)),
            FrameError::Header => (DamageReason::FrameHeader, None),
            FrameError::Length(_) => (DamageReason::Shortened, None),
        };
        // A good header's length can be trusted, where the end is known or good bytes follow.
        let trusted = header
            .filter(|header| header.ordinal == self.ordinal)
            .map(|header| (header, self.position + header.frame_len()))
            .filter(|(_, next)| self.end == End::Known || self.fits_at(*next).is_some());
        if let Some((header, next)) = trusted {
            self.position = next;
            self.ordinal = self.ordinal.saturating_add(1);
            return Found::Damage(Damage {
                start,
                end: next as u64,
                entry: Some(header.id).filter(|id| *id != LogId::MIN),
                frames_lost: Some(1),
                reason,
            });
        }
        match self.find_next(self.position + FRAME_ALIGN) {
            Some((next, ordinal)) => {
                let frames_lost = ordinal.saturating_sub(self.ordinal);
                self.position = next;
                self.ordinal = ordinal;
                Found::Damage(Damage {
                    start,
                    end: next as u64,
                    entry: None,
                    frames_lost: Some(frames_lost),
                    reason,
                })
            }
            None => {
                self.position = self.bytes.len();
                match self.end {
                    End::Known => Found::Damage(Damage {
                        start,
                        end: self.bytes.len() as u64,
                        entry: None,
                        frames_lost: None,
                        reason,
                    }),
                    End::Guessed => Found::Torn { position: start },
                }
            }
        }
    }

    /// Whether frames follow that belong in front of this one: it was written over one of theirs, and
    /// must not hide them.
    fn has_earlier_behind(&self, frame: &Frame<'_>) -> bool {
        let behind = self.find_next(self.position + frame.frame_len());
        behind.is_some_and(|(_, ordinal)| ordinal < frame.header.ordinal)
    }

    /// The next place from `begin` on where a whole frame stands that fits the order.
    fn find_next(&self, begin: usize) -> Option<(usize, u32)> {
        (begin..self.bytes.len())
            .step_by(FRAME_ALIGN)
            .find_map(|next| Some((next, self.fits_at(next)?)))
    }

    /// The ordinal of the frame at `next`, if a whole one stands there whose ordinal can be: not
    /// below the one that is due, and not more above it than frames fit in between.
    fn fits_at(&self, next: usize) -> Option<u32> {
        let frame = Frame::decode(self.bytes.get(next..)?, self.seed).ok()?;
        let between = (next - self.position) / FRAME_HEADER_LEN;
        let above = frame.header.ordinal.checked_sub(self.ordinal)?;
        (above as usize <= between).then_some(frame.header.ordinal)
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let bytes = self.bytes.get(self.position..)?;
        if bytes.is_empty() {
            return None;
        }
        Some(match Frame::decode(bytes, self.seed) {
            Ok(frame) => self.good(frame),
            Err(FrameError::Padding(header)) if header.ordinal == self.ordinal => {
                self.good_but_padding(bytes, header.frame_len())
            }
            Err(error) => self.bad(error),
        })
    }
}
