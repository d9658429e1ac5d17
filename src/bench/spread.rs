//! Which experiment an entry is for: each as often as the others, or few very often.

use fastrand::Rng;

/// Chooses experiments by number, from 0.
#[derive(Debug)]
pub enum Spread {
    /// Each as often as the others.
    Uniform(usize),
    /// The n-th with a weight of 1/n^s: the running sums of the weights.
    Zipf(Vec<f64>),
}

impl Spread {
    pub fn new(experiments: usize, zipf: Option<f64>) -> Self {
        let Some(exponent) = zipf else {
            return Self::Uniform(experiments);
        };
        let mut sum = 0.0;
        let sums = (1..=experiments).map(|n| {
            sum += (n as f64).powf(-exponent);
            sum
        });
        Self::Zipf(sums.collect())
    }

    pub fn choose(&self, random: &mut Rng) -> usize {
        match self {
            Self::Uniform(1) => 0,
            Self::Uniform(count) => random.usize(..count),
            Self::Zipf(sums) => {
                let point = random.f64() * sums.last().copied().unwrap_or(0.0);
                let at = sums.partition_point(|sum| *sum <= point);
                at.min(sums.len().saturating_sub(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(spread: &Spread) -> Vec<u32> {
        let mut random = Rng::with_seed(7);
        let mut counts = vec![0; 10];
        for _ in 0..100_000 {
            counts[spread.choose(&mut random)] += 1;
        }
        counts
    }

    #[test]
    fn uniform_is_level_and_zipf_falls_as_it_should() {
        let uniform = counts(&Spread::new(10, None));
        assert!(
            uniform.iter().all(|n| (9_000..11_000).contains(n)),
            "{uniform:?}"
        );
        let zipf = counts(&Spread::new(10, Some(1.0)));
        // The tenth harmonic number is 2.929.
        for (n, count) in (1..).zip(&zipf) {
            let expected = 100_000.0 / 2.929 / f64::from(n);
            let off = (f64::from(*count) - expected).abs() / expected;
            assert!(off < 0.05, "{n}: {count}, not {expected}");
        }
    }
}
