//! What is kept of a log, or of one segment: each variant's entries, and each of its metrics.
//!
//! [`Summary::apply`] folds entries in, [`Summary::merge`] puts segments together. All figures are
//! exact sums, counts and extremes, so they are the same however the log was split.
//!
//! What one metric of one variant holds is a [`Series`]. It takes some 5 KB with everyday values (20
//! bytes for each bucket of its sketch), and 85 KB at most, with values of both signs over many
//! magnitudes. A log may have 1,000 variants with 256 metrics, so series have a limit, and all their
//! buckets together another one: a summary takes less than 100 MB, whatever is in the log. Beyond
//! [`SERIES_MAX`] values are counted as those of further names are, and the metric
//! [`is_incomplete`](Metric::is_incomplete). Beyond [`SUMMARY_BUCKETS_MAX`] all sketches keep half as many
//! buckets, again when needed: the largest ones lose quantiles near zero, small ones nothing, and
//! what is left is as exact as before. That depends on what is in the log alone, in any order.
//!
//! An experiment keeps so many names ([`METRICS_MAX`], or fewer if whoever asks wants fewer), those that
//! come first in the log: names that a client makes up later can't push out the ones that were there.
//! A segment always keeps [`METRICS_MAX`], and merging in the order of the log gives names their order. What isn't kept is counted. If a
//! segment by itself had too many names, a metric may lack values of it: its
//! [`is_incomplete`](Metric::is_incomplete) says so.

use std::collections::{BTreeSet, HashMap};

use super::extract::{self, Value};
use super::series::Series;
use super::sketch::BUCKETS_MAX;

/// How many metric names are kept, unless something else is said.
pub const METRICS_MAX: usize = 256;
/// How many series are kept, over all variants.
pub const SERIES_MAX: usize = 16_384;
/// How many buckets all sketches have together. With 64 for each sign of each series they always fit.
pub const SUMMARY_BUCKETS_MAX: usize = 1 << 21;
/// Where a log is split into parts, each has a share of both.
const SHARES: usize = 16;
/// A longer name, in bytes, is not kept.
pub const NAME_BYTES_MAX: usize = 256;
/// What a name takes beside its bytes, in a list and in a map.
const NAME_BYTES: usize = 64;
/// Variants that are looked for one by one.
const VARIANTS_COMPARED: usize = 4;
/// How many names that aren't kept are told apart.
pub const DROPPED_NAMES_MAX: usize = 1024;

/// How much a summary keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Metric names.
    pub metrics: usize,
    /// Series, over all variants.
    pub series: usize,
    /// Buckets of all sketches; at least two for each series.
    pub buckets: usize,
}

impl Limits {
    /// Those of each of many summaries at once.
    pub fn share(self) -> Self {
        Self {
            series: self.series / SHARES,
            buckets: self.buckets / SHARES,
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metrics: METRICS_MAX,
            series: SERIES_MAX,
            buckets: SUMMARY_BUCKETS_MAX,
        }
    }
}

/// What a log, or a part of it, holds for each variant and each metric.
#[derive(Debug, Clone)]
pub struct Summary {
    limits: Limits,
    pub(super) series_count: usize,
    pub(super) bucket_count: usize,
    /// What each sketch keeps of each sign, so that all fit.
    sketch_buckets_max: usize,
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
    /// By the metric's place; shorter where none of the last metrics was seen. None is empty.
    pub(super) series: Vec<Option<Box<Series>>>,
}

/// What was not kept, since there were too many names or series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Values of any kind.
    pub value_count: u64,
    /// Hashes of the names: the smallest ones, so that any order keeps the same.
    pub(super) names: BTreeSet<u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Summary {
    /// An empty summary that keeps so much.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            series_count: 0,
            bucket_count: 0,
            sketch_buckets_max: BUCKETS_MAX,
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
        let mut due = 0;
        extract::metrics(body, &mut |name, value| match self.place_at(due, name) {
            Some(place) => {
                due = place + 1;
                // A name that comes twice counts once, with its last value.
                match values.iter_mut().find(|(other, _)| *other == place) {
                    Some((_, earlier)) => *earlier = value,
                    None => values.push((place, value)),
                }
            }
            None => self.dropped.note(name),
        });
        let variant = self.place_of_variant(variant_key);
        if let Some(variant) = self.variants.get_mut(variant) {
            variant.note_entries(1, received_at_ms, received_at_ms);
        }
        for (place, value) in &values {
            self.with_series(variant, *place, 1, |series| series.add(*value));
        }
        self.fit();
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
        self.limit_sketches(later.sketch_buckets_max);
        for variant in &later.variants {
            self.merge_variant(variant, later, &places);
            self.fit();
        }
    }

    fn merge_variant(&mut self, later: &VariantSummary, of: &Self, places: &[Option<usize>]) {
        self.variant_mut(&later.key).note_entries(
            later.entry_count,
            later.received_at_ms_min,
            later.received_at_ms_max,
        );
        let variant = self.place_of_variant(&later.key);
        for ((series, place), metric) in later.series.iter().zip(places).zip(&of.metrics) {
            let Some(series) = series else { continue };
            let count = series.value_count();
            match place {
                Some(place) => self.with_series(variant, *place, count, |kept| kept.merge(series)),
                None => self.dropped.note_many(&metric.name, count),
            }
        }
    }

    /// Changes a series, which is made while there is room; else `value_count` values are dropped.
    fn with_series(
        &mut self,
        variant: usize,
        metric: usize,
        value_count: u64,
        change: impl FnOnce(&mut Series),
    ) {
        let (Some(variant), Some(named)) =
            (self.variants.get_mut(variant), self.metrics.get_mut(metric))
        else {
            return;
        };
        let is_new = variant.series.get(metric).is_none_or(Option::is_none);
        if is_new && self.series_count >= self.limits.series {
            named.is_incomplete = true;
            return self.dropped.note_many(&named.name, value_count);
        }
        if variant.series.len() <= metric {
            variant.series.resize_with(metric + 1, || None);
        }
        let Some(slot) = variant.series.get_mut(metric) else {
            return;
        };
        let series = slot.get_or_insert_with(|| {
            self.series_count += 1;
            Box::new(Series::with_buckets_max(self.sketch_buckets_max))
        });
        let before = series.sketch().bucket_count();
        change(series);
        self.bucket_count += series.sketch().bucket_count() - before;
    }

    /// Lets sketches keep fewer buckets until all fit. How few depends on what they have seen, and not
    /// on when.
    fn fit(&mut self) {
        while self.bucket_count > self.limits.buckets && self.sketch_buckets_max > 1 {
            self.limit_sketches(self.sketch_buckets_max / 2);
        }
    }

    fn limit_sketches(&mut self, buckets_max: usize) {
        if buckets_max >= self.sketch_buckets_max {
            return;
        }
        self.sketch_buckets_max = buckets_max;
        self.bucket_count = 0;
        let all = self.variants.iter_mut();
        for series in all.flat_map(|variant| &mut variant.series).flatten() {
            series.limit_sketch(buckets_max);
            self.bucket_count += series.sketch().bucket_count();
        }
    }

    /// Whether sketches keep fewer buckets than one alone would: a footer has no place to say so.
    pub fn is_coarse(&self) -> bool {
        self.sketch_buckets_max < BUCKETS_MAX
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let names = self
            .metrics
            .iter()
            .map(|metric| 2 * metric.name.len() + NAME_BYTES);
        let variants = self.variants.iter().map(|variant| {
            let series: usize = variant.series.iter().flatten().map(|one| one.bytes()).sum();
            let slots = variant.series.capacity() * size_of::<Option<Box<Series>>>();
            2 * variant.key.len() + NAME_BYTES + slots + series
        });
        names.sum::<usize>() + variants.sum::<usize>() + self.dropped.names.len() * NAME_BYTES
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

    /// How many series are kept.
    pub fn series_count(&self) -> usize {
        self.series_count
    }

    /// How many names were not kept; at least so many at [`DROPPED_NAMES_MAX`].
    pub fn dropped_name_count(&self) -> usize {
        let kept = self.metrics.iter().map(|metric| hash(&metric.name));
        let kept_too = kept.filter(|hash| self.dropped.names.contains(hash));
        self.dropped.names.len() - kept_too.count()
    }

    /// As [`Self::place_of_metric`]. It is found at once where it stands at `due`, as it does when
    /// entries give their metrics in one order.
    fn place_at(&mut self, due: usize, name: &str) -> Option<usize> {
        let is_due = |metric: &Metric| *metric.name == *name;
        match self.metrics.get(due).is_some_and(is_due) {
            true => Some(due),
            false => self.place_of_metric(name),
        }
    }

    /// The place of a metric that is kept; it is made while there is room.
    pub(super) fn place_of_metric(&mut self, name: &str) -> Option<usize> {
        if let Some(place) = self.metric_places.get(name) {
            return Some(*place);
        }
        if self.metrics.len() >= self.limits.metrics || name.len() > NAME_BYTES_MAX {
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

    /// The place of the variant with this key; it is made when it is new.
    fn place_of_variant(&mut self, key: &str) -> usize {
        // Comparing a few is faster than hashing.
        let mut first = self.variants.iter().take(VARIANTS_COMPARED);
        if let Some(place) = first.position(|variant| *variant.key == *key) {
            return place;
        }
        if let Some(place) = self.variant_places.get(key) {
            return *place;
        }
        let place = self.variants.len();
        self.variant_places.insert(key.into(), place);
        self.variants.push(VariantSummary::new(key));
        place
    }

    /// The variant with this key; it is made when it is new.
    pub(super) fn variant_mut(&mut self, key: &str) -> &mut VariantSummary {
        let place = self.place_of_variant(key);
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
        self.series.get(place)?.as_deref()
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
mod tests;
