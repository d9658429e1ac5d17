//! One metric of one variant: what is kept of its values.

use super::exact::ExactSum;
use super::extract::Value;
use super::ratio::Ratio;
use super::sketch::Sketch;

/// What a bucket of a sketch takes: a node of its map has room for eleven, and is half full at least.
const BUCKET_BYTES: usize = 24;

/// What is kept of a metric's values in one variant. Equal for equal values, whatever their order
/// and however they were split and merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// How many numbers.
    pub count: u64,
    /// Strings, nulls and arrays in place of a number.
    pub non_numeric_count: u64,
    /// Numbers beyond the range of a double, such as `1e400`.
    pub not_finite_count: u64,
    pub(super) sum: ExactSum,
    pub(super) squares: ExactSum,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) sketch: Sketch,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            count: 0,
            non_numeric_count: 0,
            not_finite_count: 0,
            sum: ExactSum::default(),
            squares: ExactSum::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sketch: Sketch::default(),
        }
    }
}

impl Series {
    /// One whose sketch keeps at most so many buckets of each sign.
    pub(super) fn with_buckets_max(buckets_max: usize) -> Self {
        let mut series = Self::default();
        series.sketch.limit(buckets_max);
        series
    }

    /// Keeps at most so many buckets of each sign from now on.
    pub(super) fn limit_sketch(&mut self, buckets_max: usize) {
        self.sketch.limit(buckets_max);
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.sum.heap_bytes()
            + self.squares.heap_bytes()
            + self.sketch.bucket_count() * BUCKET_BYTES
    }

    /// Takes in one value.
    pub fn add(&mut self, value: Value) {
        match value {
            Value::Number(number) if number.is_finite() => self.add_number(number),
            Value::Number(_) => self.not_finite_count += 1,
            Value::NonNumeric => self.non_numeric_count += 1,
        }
    }

    fn add_number(&mut self, number: f64) {
        let number = number + 0.0; // There is no -0 among the values.
        self.count += 1;
        self.sum.add(number);
        self.squares.add_product(number, number);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.sketch.add(number);
    }

    /// Takes in what another series took in.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.non_numeric_count += other.non_numeric_count;
        self.not_finite_count += other.not_finite_count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sketch.merge(&other.sketch);
    }

    /// All values, numbers or not.
    pub fn value_count(&self) -> u64 {
        self.count + self.non_numeric_count + self.not_finite_count
    }

    /// The sum, rounded once. Infinite beyond the range of a double.
    pub fn sum(&self) -> f64 {
        self.sum.to_f64()
    }

    /// The mean, rounded once.
    pub fn mean(&self) -> Option<f64> {
        let mean = Ratio::from(&self.sum).over(&self.count.into())?;
        Some(mean.to_f64())
    }

    /// The sample variance (n − 1), rounded once: `(n Σx² − (Σx)²) / (n (n − 1))`, which loses
    /// nothing in exact numbers. `None` below two values.
    pub fn variance(&self) -> Option<f64> {
        let count = Ratio::from(self.count);
        let sum = Ratio::from(&self.sum);
        let squares = Ratio::from(&self.squares);
        let numerator = &(&count * &squares) - &(&sum * &sum);
        let one_less = Ratio::from(self.count.checked_sub(1)?);
        Some(numerator.over(&(&count * &one_less))?.to_f64())
    }

    /// The smallest value.
    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min)
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// How the values are distributed.
    pub fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// The `q`-quantile, within the sketch's error and the smallest and largest value.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let found = self.sketch.quantile(q)?;
        Some(found.max(self.min).min(self.max))
    }

    /// The value with this rank, 0 for the smallest; as exact as a quantile.
    pub fn at_rank(&self, rank: u64) -> Option<f64> {
        let found = self.sketch.at_rank(rank)?;
        Some(found.max(self.min).min(self.max))
    }

    /// Whether the mean is a proportion: there are values, and all are 0 or 1. Between 0 and 1,
    /// only these are their own squares; any other makes the sum of squares smaller.
    pub fn is_proportion(&self) -> bool {
        self.count > 0 && self.min >= 0.0 && self.max <= 1.0 && self.sum == self.squares
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn series(values: &[f64]) -> Series {
        let mut series = Series::default();
        values
            .iter()
            .for_each(|value| series.add(Value::Number(*value)));
        series
    }

    #[test]
    fn a_large_offset_costs_the_variance_nothing() {
        let values = [1e15 + 4.0, 1e15 + 7.0, 1e15 + 13.0, 1e15 + 16.0];
        assert_eq!(series(&values).variance(), Some(30.0));
        assert_eq!(series(&values).mean(), Some(1e15 + 10.0));
        assert_eq!(series(&[1e200, -1e200]).variance(), Some(f64::INFINITY));
        assert_eq!(series(&[0.1; 7]).variance(), Some(0.0));
        assert_eq!(series(&[3.0]).variance(), None);
        assert_eq!(series(&[]).mean(), None);
        assert_eq!((series(&[]).min(), series(&[]).max()), (None, None));
    }

    #[test]
    fn what_is_no_number_is_counted_apart() {
        let mut series = series(&[1.0, f64::INFINITY]);
        series.add(Value::NonNumeric);
        let counts = (
            series.count,
            series.not_finite_count,
            series.non_numeric_count,
        );
        assert_eq!(counts, (1, 1, 1));
    }

    #[test]
    fn proportions_are_seen() {
        assert!(series(&[0.0, 1.0, 1.0, -0.0]).is_proportion());
        assert!(series(&[1.0]).is_proportion());
        assert!(!series(&[0.0, 1.0, 0.5]).is_proportion());
        assert!(!series(&[0.0, 1.0, 1e-300]).is_proportion());
        assert!(!series(&[0.0, 2.0]).is_proportion());
        assert!(!series(&[-1.0, 1.0]).is_proportion());
        assert!(!series(&[]).is_proportion());
    }

    proptest! {
        #[test]
        fn any_split_and_any_order_are_equal_to_the_last_bit(
            values in vec(any::<f64>(), 0..60).prop_shuffle(),
            cut in 0_usize..60,
        ) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = series(right);
            merged.merge(&series(left));
            let whole = series(&values);
            prop_assert_eq!(&merged, &whole);
            let bits = |series: &Series| [
                Some(series.sum()),
                series.mean(),
                series.variance(),
                series.min(),
                series.max(),
                series.quantile(0.9),
            ].map(|figure| figure.map(f64::to_bits));
            prop_assert_eq!(bits(&merged), bits(&whole));
        }
    }
}
