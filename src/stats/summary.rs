//! What is kept of a log, or of one segment: each variant's entries, and each of its metrics.
//!
//! [`Summary::apply`] folds entries in, [`Summary::merge`] puts segments together. All figures are
//! exact sums, counts and extremes, so they are the same however the log was split.
//!
//! Memory: a variant's metric takes some 5 KB with everyday values (20 bytes for each bucket of its
//! sketch), and 85 KB at most, with values of both signs over many magnitudes.
//!
//! An experiment keeps [`METRICS_MAX`] names, those that come first in the log: names that a client
//! makes up later can't push out the ones that were there. For one segment the same holds, and
//! merging in the order of the log gives names their order. What isn't kept is counted. If a
//! segment by itself had too many names, a metric may lack values of it: its
//! [`is_incomplete`](Metric::is_incomplete) says so.

use std::collections::{BTreeSet, HashMap};

use super::extract::{self, Value};
use super::series::Series;

/// How many metric names are kept, unless something else is said.
pub const METRICS_MAX: usize = 256;
/// A longer name, in bytes, is not kept.
pub const NAME_BYTES_MAX: usize = 256;
/// How many names that aren't kept are told apart.
pub const DROPPED_NAMES_MAX: usize = 1024;

/// What a log, or a part of it, holds for each variant and each metric.
#[derive(Debug, Clone)]
pub struct Summary {
    pub(super) metrics_max: usize,
    /// In the order of the log.
    pub(super) metrics: Vec<Metric>,
    pub(super) variants: Vec<VariantSummary>,
    pub(super) dropped: Dropped,
    metric_places: HashMap<Box<str>, usize>,
    variant_places: HashMap<Box<str>, usize>,
    /// The values of the entry that is being taken in.
    values: Vec<(usize, Value)>,
}

/// A metric's name, and whether all its values are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// The keys that lead to it, joined with `.`.
    pub name: Box<str>,
    /// Whether a segment had more names than are kept, this one perhaps among them.
    pub is_incomplete: bool,
}

/// What is kept of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantSummary {
    /// Its key.
    pub key: Box<str>,
    /// Its entries.
    pub entry_count: u64,
    /// The earliest time of receipt, in milliseconds since 1970.
    pub received_at_ms_min: u64,
    /// The latest one.
    pub received_at_ms_max: u64,
    /// By the metric's place; shorter where none of the last metrics was seen.
    pub(super) series: Vec<Series>,
}

/// What was not kept, since there were too many names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Values of any kind.
    pub value_count: u64,
    /// Hashes of the names: the smallest ones, so that any order keeps the same.
    pub(super) names: BTreeSet<u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self::new(METRICS_MAX)
    }
}

impl Summary {
    /// An empty summary that keeps this many metric names.
    pub fn new(metrics_max: usize) -> Self {
        Self {
            metrics_max,
            metrics: Vec::new(),
            variants: Vec::new(),
            dropped: Dropped::default(),
            metric_places: HashMap::new(),
            variant_places: HashMap::new(),
            values: Vec::new(),
        }
    }

    /// Takes in an entry: its variant, its time of receipt, and its whole JSON object.
    pub fn apply(&mut self, variant_key: &str, received_at_ms: u64, body: &[u8]) {
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        extract::metrics(body, &mut |name, value| match self.place_of_metric(name) {
            // A name that comes twice counts once, with its last value.
            Some(place) => match values.iter_mut().find(|(other, _)| *other == place) {
                Some((_, earlier)) => *earlier = value,
                None => values.push((place, value)),
            },
            None => self.dropped.note(name),
        });
        let variant = self.variant_mut(variant_key);
        variant.note_entries(1, received_at_ms, received_at_ms);
        for (place, value) in &values {
            variant.series_mut(*place).add(*value);
        }
        self.values = values;
    }

    /// Takes in the summary of what follows in the log. Segments are merged one after the other in
    /// the order of the log: only while no more names come than are kept, does the order not matter.
    pub fn merge(&mut self, later: &Self) {
        // Names that only one of them kept, while the other kept not all.
        for metric in &mut self.metrics {
            metric.is_incomplete |=
                !later.metric_places.contains_key(&metric.name) && later.dropped.may_have(metric);
        }
        let earlier_dropped = self.dropped.clone();
        let places: Vec<_> = later
            .metrics
            .iter()
            .map(|metric| {
                let is_new = !self.metric_places.contains_key(&metric.name);
                let place = self.place_of_metric(&metric.name)?;
                let kept = self.metrics.get_mut(place)?;
                kept.is_incomplete |=
                    metric.is_incomplete || is_new && earlier_dropped.may_have(metric);
                Some(place)
            })
            .collect();
        self.dropped.merge(&later.dropped);
        for variant in &later.variants {
            self.merge_variant(variant, later, &places);
        }
    }

    fn merge_variant(&mut self, later: &VariantSummary, of: &Self, places: &[Option<usize>]) {
        let mut dropped = Dropped::default();
        let variant = self.variant_mut(&later.key);
        variant.note_entries(
            later.entry_count,
            later.received_at_ms_min,
            later.received_at_ms_max,
        );
        for ((series, place), metric) in later.series.iter().zip(places).zip(&of.metrics) {
            match place {
                _ if series.value_count() == 0 => {}
                Some(place) => variant.series_mut(*place).merge(series),
                None => dropped.note_many(&metric.name, series.value_count()),
            }
        }
        self.dropped.merge(&dropped);
    }

    /// The metrics that are kept, in the order of the log.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The variants that have entries, in the order of the log.
    pub fn variants(&self) -> &[VariantSummary] {
        &self.variants
    }

    /// The variant with this key.
    pub fn variant(&self, key: &str) -> Option<&VariantSummary> {
        self.variants.get(*self.variant_places.get(key)?)
    }

    /// All entries.
    pub fn entry_count(&self) -> u64 {
        self.variants
            .iter()
            .map(|variant| variant.entry_count)
            .sum()
    }

    /// What was not kept.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// How many names were not kept; at least so many at [`DROPPED_NAMES_MAX`].
    pub fn dropped_name_count(&self) -> usize {
        let kept = self.metrics.iter().map(|metric| hash(&metric.name));
        let kept_too = kept.filter(|hash| self.dropped.names.contains(hash));
        self.dropped.names.len() - kept_too.count()
    }

    /// The place of a metric that is kept; it is made while there is room.
    pub(super) fn place_of_metric(&mut self, name: &str) -> Option<usize> {
        if let Some(place) = self.metric_places.get(name) {
            return Some(*place);
        }
        if self.metrics.len() >= self.metrics_max || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let place = self.metrics.len();
        self.metric_places.insert(name.into(), place);
        self.metrics.push(Metric {
            name: name.into(),
            is_incomplete: false,
        });
        Some(place)
    }

    /// The variant with this key; it is made when it is new.
    pub(super) fn variant_mut(&mut self, key: &str) -> &mut VariantSummary {
        let place = match self.variant_places.get(key) {
            Some(place) => *place,
            None => {
                let place = self.variants.len();
                self.variant_places.insert(key.into(), place);
                self.variants.push(VariantSummary::new(key));
                place
            }
        };
        #[expect(
            clippy::indexing_slicing,
            reason = "the map holds places of the list only"
        )]
        &mut self.variants[place]
    }
}

impl PartialEq for Summary {
    /// Whether they hold the same, in the same order of names.
    fn eq(&self, other: &Self) -> bool {
        self.metrics == other.metrics
            && self.variants == other.variants
            && self.dropped == other.dropped
    }
}

impl VariantSummary {
    fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            entry_count: 0,
            received_at_ms_min: u64::MAX,
            received_at_ms_max: 0,
            series: Vec::new(),
        }
    }

    /// The values of the metric at this place in [`Summary::metrics`], if there are any.
    pub fn series(&self, place: usize) -> Option<&Series> {
        let series = self.series.get(place)?;
        (series.value_count() > 0).then_some(series)
    }

    fn series_mut(&mut self, place: usize) -> &mut Series {
        if self.series.len() <= place {
            self.series.resize_with(place + 1, Series::default);
        }
        #[expect(clippy::indexing_slicing, reason = "it has just been made long enough")]
        &mut self.series[place]
    }

    fn note_entries(&mut self, count: u64, first_ms: u64, last_ms: u64) {
        self.entry_count += count;
        self.received_at_ms_min = self.received_at_ms_min.min(first_ms);
        self.received_at_ms_max = self.received_at_ms_max.max(last_ms);
    }
}

impl Dropped {
    fn note(&mut self, name: &str) {
        self.note_many(name, 1);
    }

    fn note_many(&mut self, name: &str, value_count: u64) {
        if value_count > 0 {
            self.value_count += value_count;
            self.names.insert(hash(name));
            self.shrink();
        }
    }

    fn merge(&mut self, other: &Self) {
        self.value_count += other.value_count;
        self.names.extend(&other.names);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.names.len() > DROPPED_NAMES_MAX {
            self.names.pop_last();
        }
    }

    /// Whether a metric may be among what was dropped.
    fn may_have(&self, metric: &Metric) -> bool {
        self.names.len() >= DROPPED_NAMES_MAX || self.names.contains(&hash(&metric.name))
    }
}

/// FNV-1a: these hashes are kept on disk, so no version may change them.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn fold<'a>(metrics_max: usize, entries: impl IntoIterator<Item = &'a Entry>) -> Summary {
        let mut summary = Summary::new(metrics_max);
        for (variant, body) in entries {
            summary.apply(variant, 7, body.as_bytes());
        }
        summary
    }

    type Entry = (String, String);

    fn entry(variant: &str, metrics: &str) -> Entry {
        (variant.into(), format!("{{\"metrics\":{metrics}}}"))
    }

    fn names(summary: &Summary) -> Vec<(&str, bool)> {
        let metrics = summary.metrics().iter();
        metrics
            .map(|metric| (&*metric.name, metric.is_incomplete))
            .collect()
    }

    #[test]
    fn entries_and_metrics_are_counted_for_each_variant() {
        let mut summary = Summary::default();
        summary.apply("B", 20, br#"{"metrics":{"ms":4,"ok":true,"model":"x"}}"#);
        summary.apply("A", 30, br#"{"metrics":{"ms":1,"ms":2,"ms":3}}"#);
        summary.apply("B", 10, br#"{"metrics":{"ms":6,"ok":null}}"#);
        assert_eq!(summary.entry_count(), 3);
        let b = summary.variant("B").unwrap();
        let times = (b.received_at_ms_min, b.received_at_ms_max);
        assert_eq!((b.entry_count, times), (2, (10, 20)));
        let figures = |key: &str, place| {
            let series = summary.variant(key)?.series(place)?;
            Some((series.count, series.sum(), series.non_numeric_count))
        };
        assert_eq!(names(&summary).len(), 3);
        assert_eq!(figures("B", 0), Some((2, 10.0, 0)));
        assert_eq!(figures("B", 1), Some((1, 1.0, 1)));
        assert_eq!(figures("B", 2), Some((0, 0.0, 1)));
        assert_eq!(figures("A", 0), Some((1, 3.0, 0)), "the last value counts");
        assert_eq!(figures("A", 1), None);
    }

    #[test]
    fn names_beyond_the_limit_are_counted_and_not_kept() {
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        let entries = [
            entry("A", r#"{"a":1,"b":2,"c":3}"#),
            entry("A", r#"{"d":4,"c":3,"a":1}"#),
            entry("B", &format!("{{\"{long}\":0,\"b\":0}}")),
        ];
        let summary = fold(2, &entries);
        assert_eq!(names(&summary), [("a", false), ("b", false)]);
        assert_eq!(summary.dropped().value_count, 4);
        assert_eq!(summary.dropped_name_count(), 3);
        let many: String = (0..9999).map(|at| format!(",\"x{at}\":1")).collect();
        let summary = fold(2, &[entry("A", &format!("{{\"a\":1{many}}}"))]);
        assert_eq!(summary.dropped_name_count(), DROPPED_NAMES_MAX);
    }

    #[test]
    fn a_metric_that_a_segment_had_no_room_for_says_that_it_is_incomplete() {
        let first = fold(2, &[entry("A", r#"{"a":1,"b":1}"#)]);
        let second = fold(2, &[entry("A", r#"{"x":1,"b":1,"a":1}"#)]);
        let mut merged = first.clone();
        merged.merge(&second);
        assert_eq!(names(&merged), [("a", true), ("b", false)]);
        // Of `x` and the `a` that was not kept.
        assert_eq!(merged.dropped().value_count, 2);
        assert_eq!(merged.dropped_name_count(), 1);
        let third = fold(2, &[entry("B", r#"{"b":1}"#)]);
        merged.merge(&third);
        assert_eq!(names(&merged), [("a", true), ("b", false)]);

        let mut from_nothing = Summary::new(3);
        from_nothing.merge(&second);
        from_nothing.merge(&first);
        assert_eq!(
            names(&from_nothing),
            [("x", false), ("b", false), ("a", true)]
        );
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let value = prop_oneof![
            any::<f64>().prop_map(|value| match value.is_finite() {
                true => format!("{value:e}"),
                false => "1e999".into(),
            }),
            "(true|false|null|\"x\"|\\[1\\])",
        ];
        let metrics = vec(("[a-e](\\.x)?", value), 0..5).prop_map(|members| {
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        });
        ("[AB]", metrics).prop_map(|(variant, metrics)| entry(&variant, &metrics))
    }

    type Figures = (Box<str>, u64, Box<str>, Option<Series>);

    /// By variant and name: what doesn't depend on which came first.
    fn by_name(summary: &Summary) -> Vec<Figures> {
        let mut all = Vec::new();
        for variant in summary.variants() {
            for (place, metric) in summary.metrics().iter().enumerate() {
                let series = variant.series(place).cloned();
                all.push((
                    variant.key.clone(),
                    variant.entry_count,
                    metric.name.clone(),
                    series,
                ));
            }
        }
        all.sort_by(|left, right| (&left.0, &left.2).cmp(&(&right.0, &right.2)));
        all
    }

    proptest! {
        #[test]
        fn any_split_is_equal_to_the_whole(
            entries in vec(any_entry(), 0..40),
            cuts in vec(0_usize..40, 0..4),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.min(&entries.len())).collect();
            cuts.push(entries.len());
            cuts.sort_unstable();
            let mut merged = Summary::default();
            let mut begin = 0;
            for end in cuts {
                merged.merge(&fold(METRICS_MAX, &entries[begin..end]));
                begin = end;
            }
            prop_assert_eq!(merged, fold(METRICS_MAX, &entries));
        }

        #[test]
        fn any_order_gives_the_same_figures(
            entries in vec(any_entry(), 0..40),
            cut in 0_usize..40,
        ) {
            let (left, right) = entries.split_at(cut.min(entries.len()));
            let mut merged = fold(METRICS_MAX, right);
            merged.merge(&fold(METRICS_MAX, left));
            prop_assert_eq!(by_name(&merged), by_name(&fold(METRICS_MAX, &entries)));
        }

        #[test]
        fn beyond_the_limit_a_metric_is_as_without_one_or_says_that_it_is_incomplete(
            segments in vec(vec(any_entry(), 0..9), 1..5),
        ) {
            let mut merged = Summary::new(3);
            segments.iter().for_each(|segment| merged.merge(&fold(3, segment)));
            let whole = fold(METRICS_MAX, segments.iter().flatten());
            let whole = by_name(&whole);
            let count = |all: &[Figures]| -> u64 {
                all.iter().flat_map(|one| &one.3).map(Series::value_count).sum()
            };
            let kept = by_name(&merged);
            prop_assert!(merged.metrics().len() <= 3);
            // Duplicates within an entry count each time when they are dropped.
            prop_assert!(count(&kept) + merged.dropped().value_count >= count(&whole));
            let complete = merged.metrics().iter().filter(|metric| !metric.is_incomplete);
            for metric in complete {
                let of = |all: &[Figures]| {
                    let named = all.iter().filter(|one| one.2 == metric.name);
                    named.cloned().collect::<Vec<_>>()
                };
                prop_assert_eq!(of(&kept), of(&whole));
            }
        }
    }
}
