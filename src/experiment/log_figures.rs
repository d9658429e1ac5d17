//! A log's figures, kept between two questions: those of ended segments merged, those of the others
//! folded on from where they were. So a question reads what came since the last one, and of ended
//! segments the footers.
//!
//! Nothing is folded before somebody asks: an entry costs its writer nothing, and ten thousand
//! experiments that nobody looks at take no memory (what those take that somebody does is bounded by
//! `figures_memory`). What a first question has to read is at most what
//! isn't sealed yet, which is a segment or two also under load.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::figures::{self, Figures};
use crate::fs::Disk;
use crate::log::cursor::Met;
use crate::log::dropped::was_dropped;
use crate::log::frozen::{Frozen, FrozenSegment, LiveSegment};
use crate::log::index::variant_key_of;
use crate::log::reader::SegmentError;
use crate::model::LogId;
use crate::stats::Summary;
use crate::stats::summary::Limits;

/// The figures of a log as far as they were asked for.
#[derive(Default)]
pub struct LogFigures {
    ended: Ended,
    /// Segments that aren't in `ended`, in the order of the log.
    live: Vec<Live>,
}

/// The merged figures of the first segments.
#[derive(Default)]
struct Ended {
    summary: Summary,
    damage_count: usize,
    /// Their salts; `None` for one that is missing.
    salts: Vec<Option<u64>>,
}

/// A segment up to where it was durable.
struct Live {
    salt: u64,
    summary: Summary,
    damage_count: usize,
    /// The last entry in it that was taken.
    last: Option<LogId>,
}

impl LogFigures {
    /// The figures of a log as it is frozen; the whole of it keeps so much, and each of its segments
    /// what a footer does. It was never read as of a later moment, or with other limits.
    pub fn read(
        &mut self,
        log: &Frozen,
        disk: &Arc<dyn Disk>,
        limits: Limits,
    ) -> Result<Figures, SegmentError> {
        self.forget_unless_of(log);
        if self.ended.salts.is_empty() {
            self.ended.summary = Summary::new(limits);
        }
        let mut all: Option<Figures> = None;
        let mut live = Vec::new();
        let mut scanned_bytes = 0;
        for (place, segment) in log.segments().enumerate() {
            let mut found = match &segment {
                _ if place < self.ended.salts.len() => continue,
                FrozenSegment::Missing => Figures {
                    damage_count: 1,
                    ..Figures::default()
                },
                FrozenSegment::Closed(closed) => match figures::of_closed(closed, &**disk) {
                    Err(error) if was_dropped(&**disk, &error) => Figures::default(),
                    // An outline that is damaged.
                    Err(SegmentError::Header { .. }) => Figures {
                        damage_count: 1,
                        ..Figures::default()
                    },
                    found => found?,
                },
                FrozenSegment::Live(segment) => {
                    let kept = self
                        .live
                        .iter()
                        .position(|live| live.salt == segment.salt());
                    let kept = kept.map(|at| self.live.swap_remove(at));
                    let mut folded = kept.unwrap_or_else(|| Live::new(segment.salt()));
                    scanned_bytes += folded.go_on(segment, disk)?;
                    all.get_or_insert_with(|| self.ended.figures())
                        .merge(&folded.summary, folded.damage_count);
                    live.push(folded);
                    continue;
                }
            };
            scanned_bytes += std::mem::take(&mut found.scanned_bytes);
            match &mut all {
                // In the order of the log: what is behind one that may go on can't be kept yet.
                Some(all) => all.merge(&found.summary, found.damage_count),
                None => self.ended.take(&segment, &found),
            }
        }
        self.live = live;
        let mut all = all.unwrap_or_else(|| self.ended.figures());
        all.scanned_bytes = scanned_bytes;
        Ok(all)
    }

    /// About how many bytes are kept.
    pub fn bytes(&self) -> usize {
        let live = self.live.iter().map(|live| live.summary.bytes());
        let salts = self.ended.salts.len() * size_of::<Option<u64>>();
        self.ended.summary.bytes() + salts + live.sum::<usize>()
    }

    /// Forgets what was kept of segments that aren't the log's first ones.
    fn forget_unless_of(&mut self, log: &Frozen) {
        let mut segments = log.segments();
        let mut kept = self.ended.salts.iter();
        if !kept.all(|salt| segments.next().is_some_and(|one| one.salt() == *salt)) {
            self.ended = Ended::default();
        }
    }
}

impl Ended {
    fn take(&mut self, segment: &FrozenSegment<'_>, found: &Figures) {
        self.summary.merge(&found.summary);
        self.damage_count += found.damage_count;
        self.salts.push(segment.salt());
    }

    fn figures(&self) -> Figures {
        Figures {
            summary: self.summary.clone(),
            damage_count: self.damage_count,
            scanned_bytes: 0,
        }
    }
}

impl Live {
    fn new(salt: u64) -> Self {
        Self {
            salt,
            summary: Summary::default(),
            damage_count: 0,
            last: None,
        }
    }

    /// Takes in what has become durable since; says how many bytes were read.
    fn go_on(
        &mut self,
        segment: &LiveSegment<'_>,
        disk: &Arc<dyn Disk>,
    ) -> Result<u64, SegmentError> {
        let keys = segment.variant_keys();
        let mut cursor = segment.cursor_behind(disk.clone(), self.last);
        while cursor.step(&mut |met| {
            match met {
                Met::Entry(entry) => {
                    let at = entry.received_at_ms;
                    match keys.get(usize::from(entry.variant)) {
                        Some(Some(key)) => self.summary.apply(key, at, entry.body),
                        _ => self
                            .summary
                            .apply(&variant_key_of(entry.body), at, entry.body),
                    }
                    self.last = Some(entry.id);
                }
                Met::Lost(_) => self.damage_count += 1,
            }
            ControlFlow::Continue(())
        })? {}
        Ok(cursor.reading().bytes)
    }
}
