//! Figures of a running process: counted with relaxed atomics where things happen, and written as
//! Prometheus' text when somebody asks.

#[cfg(feature = "archive")]
pub mod archive;
pub mod experiments;
pub mod process;
pub mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What has been added so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many values were how large. Its bounds are few: they are looked through for each value.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than there are bounds: for what is above them all.
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// A histogram whose buckets end at these values, which rise.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            sum: Counter::default(),
        }
    }

    /// Takes note of a value.
    pub fn observe(&self, value: u64) {
        let bounds = self.bounds.iter();
        let place = bounds.take_while(|bound| **bound < value).count();
        if let Some(bucket) = self.buckets.get(place) {
            bucket.add(1);
        }
        self.sum.add(value);
    }

    /// Takes note of a duration, in microseconds.
    pub fn observe_us(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The bounds, each with the number of values up to it; the number of all values, and their sum.
    pub fn read(&self) -> (Vec<(u64, u64)>, u64, u64) {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(self.bounds.len());
        let mut buckets = self.buckets.iter();
        for (bound, bucket) in self.bounds.iter().zip(&mut buckets) {
            count += bucket.get();
            up_to.push((*bound, count));
        }
        count += buckets.map(Counter::get).sum::<u64>();
        (up_to, count, self.sum.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_reaches_it() {
        let histogram = Histogram::new(&[1, 10, 100]);
        for value in [0, 1, 2, 10, 11, 100, 101, 5000] {
            histogram.observe(value);
        }
        let expected = vec![(1, 2), (10, 4), (100, 6)];
        assert_eq!(histogram.read(), (expected, 8, 5225));
    }
}
