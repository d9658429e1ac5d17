//! A segment's figures: the summary of its entries' metrics, folded from the frames.

use crate::log::index::variant_key_of;
use crate::log::reader::Segment;
use crate::log::record::Record;
use crate::log::scan::Found;
use crate::stats::Summary;
use crate::stats::question::Take;

/// The names of variants in a segment, by number. An entry whose variant's frame is damaged names
/// its variant itself.
#[derive(Debug, Default)]
pub struct Names(Vec<(u16, Box<str>)>);

impl Names {
    /// Takes in what a scan found; hands entries on.
    pub fn read(&mut self, found: Found<'_>, take: &mut Take<'_>) {
        let Found::Record { record, .. } = found else {
            return;
        };
        match record {
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
        names.read(found, take);
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
