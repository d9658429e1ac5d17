//! Quantiles from a mergeable sketch of bounded size.
//!
//! A DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees", VLDB 2019) counts values in buckets whose width grows with them.
//! Here a bucket is all doubles that share sign, exponent and the first seven bits of the
//! mantissa: the linear interpolation between powers of two that the paper's authors use, too. A
//! value's bucket is cut out of its bits, with no logarithm, so it is the same on any machine;
//! the published crates take the platform's `ln`, and treat what is below 1e-9 as zero.
//!
//! A bucket stands for its end nearer to zero, so a quantile is too near to zero by less than 1/128
//! (0.79 %), and exact for values of at most eight significant bits, such as whole numbers up to
//! 256. (Values nearer to zero than 2.2e-308 have less precision than that.)
//!
//! At most [`BUCKETS_MAX`] buckets of each sign are kept, or fewer ([`Sketch::limit`]): those farthest
//! from zero. What is nearer to zero is counted in the nearest one that is kept, and a quantile in
//! there is not given: no figure is less exact than it says. It takes values over 16 octaves, such as
//! 1 to 65,000, to fill them all. Which ones are kept depends on the values and on the lowest limit
//! alone, so any split and any order give the same sketch.

use std::collections::BTreeMap;

/// The most buckets kept for each sign.
pub const BUCKETS_MAX: usize = 2048;
/// A quantile is nearer to zero than the true one by less than this part of it.
pub const RELATIVE_ERROR: f64 = 1.0 / 128.0;
/// Bits of the mantissa that a bucket doesn't tell apart.
const DROPPED_BITS: u32 = 52 - 7;

/// How values are distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// The most buckets kept for each sign.
    buckets_max: usize,
    positive: Side,
    negative: Side,
    zero_count: u64,
    /// Whether a value was not its bucket's end, or buckets were collapsed.
    is_rounded: bool,
}

/// Buckets of one sign, by exponent and mantissa: a larger one is farther from zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    pub(super) buckets: BTreeMap<u32, u64>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            buckets_max: BUCKETS_MAX,
            positive: Side::default(),
            negative: Side::default(),
            zero_count: 0,
            is_rounded: false,
        }
    }
}

impl Sketch {
    /// Counts a finite value.
    pub fn add(&mut self, value: f64) {
        let magnitude = value.abs().to_bits();
        if magnitude == 0 {
            self.zero_count += 1;
            return;
        }
        self.is_rounded |= magnitude & ((1 << DROPPED_BITS) - 1) != 0;
        let side = if value > 0.0 {
            &mut self.positive
        } else {
            &mut self.negative
        };
        *side.buckets.entry(bucket_of(magnitude)).or_default() += 1;
        self.is_rounded |= side.collapse(self.buckets_max);
    }

    /// Counts what another sketch counted.
    pub fn merge(&mut self, other: &Self) {
        self.limit(other.buckets_max);
        self.zero_count += other.zero_count;
        self.is_rounded |= other.is_rounded;
        let sides = [
            (&mut self.positive, &other.positive),
            (&mut self.negative, &other.negative),
        ];
        for (side, more) in sides {
            for (bucket, count) in &more.buckets {
                *side.buckets.entry(*bucket).or_default() += count;
            }
            self.is_rounded |= side.collapse(self.buckets_max);
        }
    }

    /// Keeps at most `buckets_max` buckets of each sign from now on.
    pub fn limit(&mut self, buckets_max: usize) {
        if buckets_max < self.buckets_max {
            self.buckets_max = buckets_max;
            for side in [&mut self.positive, &mut self.negative] {
                self.is_rounded |= side.collapse(buckets_max);
            }
        }
    }

    /// How many buckets there are.
    pub fn bucket_count(&self) -> usize {
        self.positive.buckets.len() + self.negative.buckets.len()
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.zero_count + self.positive.count() + self.negative.count()
    }

    /// Whether quantiles are exact values of the data.
    pub fn is_exact(&self) -> bool {
        !self.is_rounded
    }

    /// The value with this rank, 0 for the smallest, within [`RELATIVE_ERROR`]. The largest one
    /// for a rank beyond the end; `None` when nothing was counted, or when that value is among those
    /// that share a bucket since there were too many.
    pub fn at_rank(&self, rank: u64) -> Option<f64> {
        let mut before = 0;
        let mut last = None;
        for (value, count) in self.values() {
            before += count;
            last = value;
            if rank < before {
                break;
            }
        }
        last
    }

    /// The values of all buckets, rising, each with how many were counted there; `None` for those that
    /// share a bucket since there were too many. A value is its bucket's end nearer to zero.
    pub fn values(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let (nearest_below, nearest_above) =
            (self.shared(&self.negative), self.shared(&self.positive));
        let negative = self.negative.buckets.iter().rev();
        let negative = negative.map(move |(bucket, count)| {
            let is_known = nearest_below != Some(*bucket);
            (is_known.then(|| -value_of(*bucket)), *count)
        });
        let zero = (self.zero_count > 0).then_some((Some(0.0), self.zero_count));
        let positive = self.positive.buckets.iter();
        let positive = positive.map(move |(bucket, count)| {
            let is_known = nearest_above != Some(*bucket);
            (is_known.then(|| value_of(*bucket)), *count)
        });
        negative.chain(zero).chain(positive)
    }

    /// The bucket that may have values of others: the one nearest to zero, once there are as many as are
    /// kept.
    fn shared(&self, side: &Side) -> Option<u32> {
        let is_full = self.is_rounded && side.buckets.len() >= self.buckets_max;
        side.buckets.keys().next().copied().filter(|_| is_full)
    }

    /// The `q`-quantile: the value with the rank `q (count - 1)`, rounded down, as in the paper.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let last = self.count().checked_sub(1)?;
        self.at_rank((q.clamp(0.0, 1.0) * last as f64) as u64)
    }

    /// What is kept on disk: positive and negative buckets, zeros, and whether anything is rounded.
    pub(super) fn parts(&self) -> (&Side, &Side, u64, bool) {
        (
            &self.positive,
            &self.negative,
            self.zero_count,
            self.is_rounded,
        )
    }

    /// A sketch of these parts, unless none has them.
    pub(super) fn from_parts(parts: (Side, Side, u64, bool)) -> Option<Self> {
        let (positive, negative, zero_count, is_rounded) = parts;
        let is_possible = [&positive, &negative].iter().all(|side| {
            side.buckets.len() <= BUCKETS_MAX
                && side.buckets.values().all(|count| *count > 0)
                && side.buckets.keys().all(|bucket| *bucket < BUCKETS_END)
        });
        is_possible.then_some(Self {
            buckets_max: BUCKETS_MAX,
            positive,
            negative,
            zero_count,
            is_rounded,
        })
    }
}

/// The first bucket that no finite value has.
const BUCKETS_END: u32 = 0x7ff << 7;

impl Side {
    fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Merges the buckets nearest to zero while there are too many; says whether there were.
    fn collapse(&mut self, buckets_max: usize) -> bool {
        let is_too_large = self.buckets.len() > buckets_max;
        while self.buckets.len() > buckets_max {
            let Some((_, count)) = self.buckets.pop_first() else {
                break;
            };
            if let Some(mut nearest) = self.buckets.first_entry() {
                *nearest.get_mut() += count;
            }
        }
        is_too_large
    }
}

fn bucket_of(magnitude_bits: u64) -> u32 {
    (magnitude_bits >> DROPPED_BITS) as u32
}

fn value_of(bucket: u32) -> f64 {
    f64::from_bits(u64::from(bucket) << DROPPED_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    fn any_normal() -> impl Strategy<Value = f64> {
        any::<f64>().prop_filter("normal or zero", |value| value.is_normal() || *value == 0.0)
    }

    #[test]
    fn whole_numbers_up_to_256_come_back_as_they_are() {
        let values: Vec<f64> = (-256..=256).map(f64::from).collect();
        let mut sketch = sketch(&values);
        assert!(sketch.is_exact());
        for (rank, value) in values.iter().enumerate() {
            assert_eq!(sketch.at_rank(rank as u64), Some(*value));
        }
        assert_eq!(sketch.at_rank(9999), Some(256.0));
        sketch.add(257.0);
        assert!(!sketch.is_exact());
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(sketch(&[0.0, -0.0]).quantile(0.5), Some(0.0));
    }

    #[test]
    fn the_buckets_nearest_to_zero_collapse_whatever_the_order() {
        let values: Vec<f64> = (0..5000).map(|at| 1.006_f64.powi(at)).collect();
        let rising = sketch(&values);
        let falling = sketch(&values.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(rising, falling);
        assert_eq!(rising.positive.buckets.len(), BUCKETS_MAX);
        assert_eq!(rising.count(), 5000);
        assert!(!rising.is_exact());
        let (left, right) = values.split_at(1234);
        let mut merged = sketch(right);
        merged.merge(&sketch(left));
        assert_eq!(merged, rising);
        let (exact, found) = (values[4499], rising.quantile(0.9).unwrap());
        assert!(found <= exact && found > exact * (1.0 - RELATIVE_ERROR));
        // What shares a bucket has no value that could be given.
        assert_eq!(rising.quantile(0.1), None);
        let turned: Vec<f64> = values.iter().map(|value| -value).collect();
        let turned = sketch(&turned);
        assert_eq!(turned.at_rank(4500), None);
        assert_eq!(
            turned.at_rank(500),
            rising.at_rank(4499).map(|found| -found)
        );
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(
            values in vec(any_normal(), 1..200),
            q in 0.0..=1.0,
        ) {
            let found = sketch(&values).quantile(q).unwrap();
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[(q * (sorted.len() - 1) as f64) as usize];
            prop_assert!((found - exact).abs() <= exact.abs() * RELATIVE_ERROR);
            prop_assert!(found.abs() <= exact.abs());
        }

        #[test]
        fn any_split_and_any_order_give_the_same_sketch(
            values in vec(any_normal(), 0..300).prop_shuffle(),
            cut in 0_usize..300,
        ) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = sketch(right);
            merged.merge(&sketch(left));
            prop_assert_eq!(&merged, &sketch(&values));
            // However it was limited, and when.
            let limited = |values: &[f64], maxima: &[usize]| {
                let mut sketch = sketch(values);
                maxima.iter().for_each(|max| sketch.limit(*max));
                sketch
            };
            merged.limit(8);
            let mut apart = limited(right, &[100, 32]);
            apart.merge(&limited(left, &[8]));
            prop_assert_eq!(&merged, &limited(&values, &[16, 8]));
            prop_assert_eq!(&apart, &merged);
            prop_assert!(merged.bucket_count() <= 16);
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            for (rank, exact) in sorted.iter().enumerate() {
                if let Some(found) = merged.at_rank(rank as u64) {
                    prop_assert!((found - exact).abs() <= exact.abs() * RELATIVE_ERROR);
                }
            }
        }
    }
}
