//! How many entries of each variant came when. From the indexes of the segments: each block of 64 KiB
//! has the time of its first entry, and each variant the places of its entries. Entries themselves are
//! read only where there are so few blocks that these would say too little.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::closed::{ClosedSegment, Opened};
use super::cursor::Met;
use super::index::{Block, variant_key_of};
use super::listing::{Figures, SegmentRef};
use super::reader::SegmentError;
use super::select::{Order, Selection};
use super::view::{ActiveSegment, LogView};
use crate::fs::Disk;
use crate::model::LogId;

/// Of a segment that has at most so many blocks in the span, the entries are read.
const READ_BLOCKS_MAX: usize = 8;

/// A time, in equal steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, in milliseconds since 1970.
    pub begin_ms: u64,
    /// How long each step is; at least one millisecond.
    pub step_ms: u64,
    /// How many steps.
    pub step_count: usize,
}

/// How many entries came in each step of a span. Where the index alone was asked, those of a block are
/// spread evenly over its time, so these are no whole numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// The time.
    pub span: Span,
    /// Each variant that was met, in the order of the log, with its counts.
    pub variants: Vec<(Box<str>, Vec<f64>)>,
}

impl Span {
    /// Where it ends.
    pub fn end_ms(&self) -> u64 {
        let len_ms = self.step_ms.saturating_mul(self.step_count as u64);
        self.begin_ms.saturating_add(len_ms)
    }

    fn meets(&self, min_ms: u64, max_ms: u64) -> bool {
        max_ms >= self.begin_ms && min_ms < self.end_ms()
    }
}

impl Timeline {
    fn new(span: Span) -> Self {
        let variants = Vec::new();
        Self { span, variants }
    }

    /// All variants' counts together.
    pub fn total(&self) -> Vec<f64> {
        let mut total = vec![0.0; self.span.step_count];
        for (_, counts) in &self.variants {
            for (sum, count) in total.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        total
    }

    /// Spreads `count` entries over the time from `from_ms` to `to_ms`.
    fn spread(&mut self, key: &str, from_ms: u64, to_ms: u64, count: f64) {
        let span = self.span;
        if count == 0.0 || !span.meets(from_ms, to_ms) {
            return;
        }
        let counts = self.counts_of(key);
        let len_ms = to_ms.saturating_sub(from_ms);
        let place = |ms: u64| ms.saturating_sub(span.begin_ms) / span.step_ms;
        let (first, last) = (place(from_ms) as usize, place(to_ms) as usize);
        for (place, sum) in counts.iter_mut().enumerate().skip(first) {
            if place > last {
                break;
            }
            let begin_ms = span.begin_ms + place as u64 * span.step_ms;
            let end_ms = begin_ms + span.step_ms;
            let part = match len_ms {
                0 => 1.0,
                _ => {
                    let shared = end_ms.min(to_ms).saturating_sub(begin_ms.max(from_ms));
                    shared as f64 / len_ms as f64
                }
            };
            *sum += count * part;
        }
    }

    /// Spreads the entries of each block over the time until the next one.
    fn spread_blocks(
        &mut self,
        key: &str,
        positions: impl Iterator<Item = u64>,
        blocks: &[Block],
        (min_ms, max_ms): (u64, u64),
    ) {
        let mut counts = vec![0_u64; blocks.len()];
        let mut at = 0;
        for position in positions {
            while blocks
                .get(at + 1)
                .is_some_and(|next| next.position <= position)
            {
                at += 1;
            }
            if let Some(count) = counts.get_mut(at) {
                *count += 1;
            }
        }
        for (at, (block, count)) in blocks.iter().zip(counts).enumerate() {
            // An id's time may run ahead of the clock.
            let time_of = |block: &Block| block.id.timestamp_ms().clamp(min_ms, max_ms);
            let begin_ms = time_of(block);
            let end_ms = blocks.get(at + 1).map_or(max_ms, time_of).max(begin_ms);
            self.spread(key, begin_ms, end_ms, count as f64);
        }
    }

    fn counts_of(&mut self, key: &str) -> &mut [f64] {
        let known = self.variants.iter().position(|(known, _)| **known == *key);
        let place = known.unwrap_or_else(|| {
            let counts = vec![0.0; self.span.step_count];
            self.variants.push((key.into(), counts));
            self.variants.len() - 1
        });
        let variant = self.variants.get_mut(place);
        variant.map_or(&mut [], |(_, counts)| counts)
    }
}

impl LogView {
    /// The entries of a span that are durable now.
    pub fn timeline(&self, disk: &Arc<dyn Disk>, span: Span) -> Result<Timeline, SegmentError> {
        let mut timeline = Timeline::new(span);
        for segment in self.segments(0) {
            let figures = match segment.figures(&**disk) {
                Err(SegmentError::Header { .. }) => continue,
                figures => figures?,
            };
            let (min_ms, max_ms) = (figures.received_at_ms_min, figures.received_at_ms_max);
            if figures.count == 0 || !span.meets(min_ms, max_ms) {
                continue;
            }
            match &segment {
                SegmentRef::Active(active) => {
                    let end = active.file.durable_end();
                    self.add_live(active, end, &figures, disk, &mut timeline)?;
                }
                SegmentRef::Closed(closed) => match closed.live() {
                    Some(active) => {
                        let end = closed.frames_end.min(active.file.durable_end());
                        self.add_live(&active, end, &figures, disk, &mut timeline)?;
                    }
                    None => self.add_closed(closed, &figures, disk, &mut timeline)?,
                },
            }
        }
        Ok(timeline)
    }

    fn add_live(
        &self,
        active: &ActiveSegment,
        end: u64,
        figures: &Figures,
        disk: &Arc<dyn Disk>,
        timeline: &mut Timeline,
    ) -> Result<(), SegmentError> {
        let index = active.index();
        let durable = index.blocks.partition_point(|block| block.position < end);
        let blocks = index.blocks.get(..durable).unwrap_or_default();
        if let Some(few) = few_blocks(blocks, figures, timeline.span) {
            drop(index);
            return self.add_read(few, disk, timeline);
        }
        let times = (figures.received_at_ms_min, figures.received_at_ms_max);
        for variant in &index.variants {
            let positions = variant.postings.iter().take_while(|at| *at < end);
            timeline.spread_blocks(&variant.key, positions, blocks, times);
        }
        Ok(())
    }

    fn add_closed(
        &self,
        closed: &ClosedSegment,
        figures: &Figures,
        disk: &Arc<dyn Disk>,
        timeline: &mut Timeline,
    ) -> Result<(), SegmentError> {
        let index = closed.index_for(&**disk, &mut Default::default())?;
        let (min_ms, max_ms) = (index.received_at_ms_min, index.received_at_ms_max);
        if max_ms - min_ms <= timeline.span.step_ms {
            // Finer than the steps: its counts are all that is wanted.
            for (key, count) in index.counts() {
                timeline.spread(key, min_ms, max_ms, count as f64);
            }
            return Ok(());
        }
        let opened = closed.open(&**disk)?;
        // A plot isn't worth the way to an archive.
        if let (Some(few), Opened::Whole(_)) =
            (few_blocks(&index.blocks, figures, timeline.span), &opened)
        {
            return self.add_read(few, disk, timeline);
        }
        if let Some(footer) = opened.footer() {
            for (key, _, positions) in footer.variants() {
                timeline.spread_blocks(key, positions, &index.blocks, (min_ms, max_ms));
            }
            return Ok(());
        }
        for variant in &opened.fold(&closed.path)?.index.variants {
            let positions = variant.postings.iter();
            timeline.spread_blocks(&variant.key, positions, &index.blocks, (min_ms, max_ms));
        }
        Ok(())
    }

    /// Reads the entries between two ids. What is damaged isn't counted.
    fn add_read(
        &self,
        (after, before): (LogId, LogId),
        disk: &Arc<dyn Disk>,
        timeline: &mut Timeline,
    ) -> Result<(), SegmentError> {
        let selection = Selection {
            after: Some(after),
            before: Some(before),
            since_ms: Some(timeline.span.begin_ms),
            until_ms: Some(timeline.span.end_ms()),
            ..Selection::default()
        };
        let mut cursor = self.cursor(disk.clone(), selection, Order::OldestFirst);
        while cursor.step(&mut |met| {
            if let Met::Entry(entry) = met {
                let (key, at_ms) = (variant_key_of(entry.body), entry.received_at_ms);
                timeline.spread(&key, at_ms, at_ms, 1.0);
            }
            ControlFlow::Continue(())
        })? {}
        Ok(())
    }
}

/// The ids that enclose the blocks of a segment in a span, if those are few.
fn few_blocks(blocks: &[Block], figures: &Figures, span: Span) -> Option<(LogId, LogId)> {
    // The first one may begin before the span.
    let first = blocks.partition_point(|block| block.id.timestamp_ms() < span.begin_ms);
    let first = first.saturating_sub(1);
    let end = blocks.partition_point(|block| block.id.timestamp_ms() < span.end_ms());
    if end.saturating_sub(first) > READ_BLOCKS_MAX {
        return None;
    }
    let last = figures
        .last_id
        .map_or(u128::MAX, |last| last.as_u128().saturating_add(1));
    let before = blocks.get(end).map_or(last, |block| block.id.as_u128());
    let after = blocks.get(first)?.id.as_u128().saturating_sub(1);
    Some((LogId::from_u128(after), LogId::from_u128(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span {
        begin_ms: 1000,
        step_ms: 100,
        step_count: 4,
    };

    #[test]
    fn counts_are_spread_evenly_and_cut_off_at_the_ends() {
        let mut timeline = Timeline::new(SPAN);
        timeline.spread("A", 1050, 1250, 20.0);
        timeline.spread("B", 900, 1100, 10.0);
        timeline.spread("A", 1399, 1399, 1.0);
        timeline.spread("A", 1400, 1500, 7.0);
        timeline.spread("A", 0, 999, 7.0);
        let expected = [
            ("A".into(), vec![5.0, 10.0, 5.0, 1.0]),
            ("B".into(), vec![5.0, 0.0, 0.0, 0.0]),
        ];
        assert_eq!(timeline.variants, expected);
        assert_eq!(timeline.total(), [10.0, 10.0, 5.0, 1.0]);
    }

    #[test]
    fn entries_of_a_block_are_spread_until_the_next_one() {
        let block = |ms: u64, position| Block {
            id: LogId::from_u128(u128::from(ms) << 80),
            position,
        };
        let blocks = [block(1000, 512), block(1200, 1000), block(1300, 2000)];
        let mut timeline = Timeline::new(SPAN);
        let positions = [512, 600, 700, 999, 1000, 2000, 2008];
        timeline.spread_blocks("A", positions.into_iter(), &blocks, (1000, 1399));
        let expected = [("A".into(), vec![2.0, 2.0, 1.0, 2.0])];
        assert_eq!(timeline.variants, expected);
    }
}
