//! Intervals that hold however often one looks.
//!
//! An interval for one look, looked at after each entry, leaves out the true difference sooner or
//! later. A *confidence sequence* contains it at all times at once. This is the asymptotic one of
//! Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
//! asymptotic confidence sequences" (Annals of Statistics 52(6), 2024; arXiv 2103.06476), by
//! Robbins' normal mixture, in the two-sided form of its theorem 2.2:
//!
//! ```text
//! estimate ± σ/√n · √( 2 (nρ² + 1) / (nρ²) · ln( √(nρ² + 1) / α ) )
//! ```
//!
//! For two variants, `n` is the number of entries (or units) of both, and `σ/√n` the standard error
//! of the difference, from the variances seen so far: the paper's sequence for the effect in a
//! randomised experiment (its section 3) without covariates. ρ is chosen so that the interval is
//! narrowest at n = 10,000 ([`BEST_AT`]): `ρ² = (−2 ln α + ln(−2 ln α) + 1) / 10,000` with α = 0.05,
//! once and for all: a ρ that looks at the data would break the promise. The p-value is the smallest
//! α whose interval leaves out zero; it is below α at any time with a probability of at most α.
//!
//! It is an asymptotic promise, so it was tried: 10,000 experiments without a difference, looked at
//! after each entry from the 100th to the 10,000th. How many were called different at some look
//! (`cargo bench --bench peeking`, the same with each run):
//!
//! | values | always-valid interval without zero | Welch's p below 0.05 |
//! | --- | --- | --- |
//! | normal | 2.00 % | 48.64 % |
//! | one in 10 | 1.88 % | 48.40 % |
//! | one in 100 | 1.53 % | 35.68 % |
//! | log-normal, σ = 1 | 1.74 % | 46.39 % |
//! | normal, split 90/10 | 2.35 % | 47.30 % |

use super::significance::Interval;

/// The interval is narrowest, for what it promises, with this many entries.
pub const BEST_AT: f64 = 10_000.0;
/// With fewer entries (or units) in both variants together there is no answer yet.
pub const COUNT_MIN: u64 = 100;
/// Nor with fewer in one of them.
pub const SIDE_COUNT_MIN: u64 = 10;
const ALPHA_BEST: f64 = 0.05;

/// An interval and a p-value that hold at all times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlwaysValid {
    /// Where the true difference lies.
    pub interval: Interval,
    /// Never below α, at any time, with a probability of at least 1 − α when there is no difference.
    pub p_value: f64,
}

/// The confidence sequence at `count` entries (or units), for a difference with this standard
/// error. `None` when the standard error is zero or unknown.
pub fn always_valid(
    difference: f64,
    standard_error: f64,
    count: u64,
    confidence: f64,
) -> Option<AlwaysValid> {
    if !(standard_error > 0.0 && standard_error.is_finite() && difference.is_finite()) {
        return None;
    }
    let reach = standard_error * errors_allowed(count, 1.0 - confidence);
    Some(AlwaysValid {
        interval: Interval::around(difference, reach).finite()?,
        p_value: p_value(difference / standard_error, count),
    })
}

/// How many standard errors the interval reaches to each side.
pub fn errors_allowed(count: u64, alpha: f64) -> f64 {
    let mixed = count as f64 * rho_squared();
    (2.0 * (mixed + 1.0) / mixed * (0.5 * (mixed + 1.0).ln() - alpha.ln())).sqrt()
}

/// The smallest α whose interval leaves out zero, for a difference of `z` standard errors.
pub fn p_value(z: f64, count: u64) -> f64 {
    let mixed = count as f64 * rho_squared();
    let exponent = 0.5 * (mixed + 1.0).ln() - z * z * mixed / (2.0 * (mixed + 1.0));
    exponent.exp().min(1.0)
}

fn rho_squared() -> f64 {
    let log = -2.0 * ALPHA_BEST.ln();
    (log + log.ln() + 1.0) / BEST_AT
}

#[cfg(test)]
mod tests {
    use super::super::extract::Value;
    use super::super::series::Series;
    use super::super::significance::{Estimate, welch};
    use super::*;

    /// The smaller sibling of `benches/peeking.rs`, through the exact sums of a report.
    #[test]
    fn looking_all_the_time_finds_few_differences_where_there_are_none() {
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut always, mut once) = (0, 0);
        for _ in 0..200 {
            let mut sides = [Series::default(), Series::default()];
            let (mut is_always, mut is_once) = (false, false);
            for count in 1..=1000 {
                let value = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
                sides[usize::from(rng.bool())].add(Value::Number(value));
                if count < COUNT_MIN || count % 5 != 0 {
                    continue;
                }
                let [control, other] = sides.each_ref().map(|side| Estimate {
                    mean: side.mean().unwrap(),
                    variance: side.variance().unwrap() / side.count as f64,
                    count: side.count,
                });
                let error = (control.variance + other.variance).sqrt();
                let found = always_valid(other.mean - control.mean, error, count, 0.95).unwrap();
                let is_outside = found.interval.0 > 0.0 || found.interval.1 < 0.0;
                assert_eq!(is_outside, found.p_value < 0.05);
                is_always |= is_outside;
                is_once |= welch(control, other, 0.95).unwrap().p_value < 0.05;
            }
            always += usize::from(is_always);
            once += usize::from(is_once);
        }
        assert!(
            always <= 10,
            "{always} of 200 with the always-valid interval"
        );
        assert!(once >= 40, "{once} of 200 with Welch's p-value");
    }

    #[test]
    fn without_a_standard_error_there_is_no_answer() {
        for error in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(always_valid(1.0, error, 1000, 0.95), None);
        }
        assert_eq!(always_valid(f64::NAN, 1.0, 1000, 0.95), None);
    }
}
