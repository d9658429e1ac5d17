//! A segment's figures: the summary of its entries' metrics, from its footer or from its frames.

use crate::fs::Disk;
use crate::log::footer::Footer;
use crate::log::index::variant_key_of;
use crate::log::reader::{Segment, SegmentError};
use crate::log::record::Record;
use crate::log::scan::Found;
use crate::log::view::{ClosedSegment, MetricsFold, Opened};
use crate::stats::Summary;
use crate::stats::question::Take;

/// The names of variants in a segment, by number. An entry whose variant's frame is damaged names
/// its variant itself.
#[derive(Debug, Default)]
pub struct Names(Vec<(u16, Box<str>)>);

impl Names {
    /// Takes in what a scan found; hands entries on.
    pub fn read(&mut self, found: &Found<'_>, take: &mut Take<'_>) {
        let Found::Record { record, .. } = found else {
            return;
        };
        match *record {
            Record::Variant(variant) => self.0.push((variant.number, variant.key.into())),
            Record::Entry(entry) => {
                let at = entry.received_at_ms;
                match self.0.iter().find(|(number, _)| *number == entry.variant) {
                    Some((_, key)) => take(key, at, entry.body),
                    None => take(&variant_key_of(entry.body), at, entry.body),
                }
            }
        }
    }
}

/// Gives every whole entry of a segment, in the order of the log; says how many places among them
/// are damaged.
pub fn scan(segment: &Segment, take: &mut Take<'_>) -> usize {
    let mut names = Names::default();
    let mut damage_count = 0;
    for found in segment.scan() {
        damage_count += usize::from(matches!(found, Found::Damage(_)));
        names.read(&found, take);
    }
    damage_count
}

/// The summary of a segment from its frames, and how many places among them are damaged.
pub fn fold(segment: &Segment) -> (Summary, usize) {
    let mut summary = Summary::default();
    let damage_count = scan(segment, &mut |variant, at, body| {
        summary.apply(variant, at, body);
    });
    (summary, damage_count)
}

/// What a footer keeps of a segment's metrics.
pub fn section(segment: &Segment) -> Vec<u8> {
    let mut sealed = Sealed::default();
    segment.scan().for_each(|found| sealed.take(&found));
    sealed.section()
}

/// The fold of a segment that is being sealed.
#[derive(Debug, Default)]
pub struct Sealed {
    names: Names,
    summary: Summary,
}

impl MetricsFold for Sealed {
    fn take(&mut self, found: &Found<'_>) {
        let Self { names, summary } = self;
        names.read(found, &mut |variant, at, body| {
            summary.apply(variant, at, body);
        });
    }

    /// Nothing if it would not be all that a log may keep of them, since what is merged would depend on
    /// how the log was split then.
    fn section(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.summary.is_coarse() {
            self.summary.encode(&mut bytes);
        }
        bytes
    }
}

/// What is known of the metrics of a segment, or of a log.
#[derive(Debug, Default)]
pub struct Figures {
    /// Of its entries.
    pub summary: Summary,
    /// How many damaged places were met, if the frames had to be read.
    pub damage_count: usize,
    /// How many bytes of frames had to be read.
    pub scanned_bytes: u64,
}

impl Figures {
    /// Takes in those of what follows in the log.
    pub fn merge(&mut self, later: &Summary, damage_count: usize) {
        self.summary.merge(later);
        self.damage_count += damage_count;
    }
}

/// What a segment's footer keeps of its metrics. Where that is missing (the footer is older, damaged,
/// or not there yet), it is folded from the frames again.
pub fn of(segment: &Segment) -> Figures {
    if let Some(summary) = kept(segment) {
        return Figures {
            summary,
            damage_count: 0,
            scanned_bytes: 0,
        };
    }
    let (summary, damage_count) = fold(segment);
    Figures {
        summary,
        damage_count,
        scanned_bytes: segment.frames_end,
    }
}

/// As [`of`], of a closed segment, which may be in an archive alone: all of it is read there if its footer
/// keeps nothing.
pub fn of_closed(closed: &ClosedSegment, disk: &dyn Disk) -> Result<Figures, SegmentError> {
    let outline = match closed.open(disk)? {
        Opened::Whole(segment) => return Ok(of(&segment)),
        Opened::Outline(outline) => outline,
    };
    let footer = outline.footer();
    match footer.and_then(|footer| kept_in(&footer, closed.frames_end)) {
        Some(summary) => Ok(Figures {
            summary,
            ..Figures::default()
        }),
        None => Ok(of(&closed.open_whole(disk)?)),
    }
}

/// The summary that the footer keeps, if it has one that is whole and of these frames.
pub fn kept(segment: &Segment) -> Option<Summary> {
    kept_in(&segment.footer()?, segment.frames_end)
}

fn kept_in(footer: &Footer<'_>, frames_end: u64) -> Option<Summary> {
    let is_of_these = footer.frames_end == frames_end;
    Summary::decode(footer.metrics.filter(|_| is_of_these)?).ok()
}
