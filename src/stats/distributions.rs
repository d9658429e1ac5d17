//! Tails and critical values of the normal, Student's t and the chi-square distribution.
//!
//! From `statrs`, without its feature `std`: its logarithms and powers are then those of the crate
//! `libm`, which are the same on every machine. Arguments are checked here, since it panics. Student's
//! critical value is found here, by Newton's steps: for a million degrees of freedom `statrs` gives
//! 0.6724 where 0.6745 is right.

use statrs::distribution::{ChiSquared, Continuous, ContinuousCDF, Normal, StudentsT};

/// Far more than any confidence needs: each of the first steps doubles the value at least, and the
/// last few double its digits.
const STEPS_MAX: usize = 200;

/// The probability that a standard normal variable is farther from zero than `z`.
pub fn normal_two_sided(z: f64) -> Option<f64> {
    let tail = Normal::standard().sf(z.abs());
    (!z.is_nan()).then_some((2.0 * tail).min(1.0))
}

/// The `p`-quantile of the standard normal distribution, for `p` within 0 and 1.
pub fn normal_quantile(p: f64) -> Option<f64> {
    (p > 0.0 && p < 1.0).then(|| Normal::standard().inverse_cdf(p))
}

/// The probability that Student's t is farther from zero than `t`.
pub fn student_two_sided(t: f64, freedom: f64) -> Option<f64> {
    if t.is_nan() || !freedom.is_finite() {
        return None;
    }
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some((2.0 * student.sf(t.abs())).min(1.0))
}

/// What Student's t stays within with this probability, on both sides of zero.
pub fn student_critical(confidence: f64, freedom: f64) -> Option<f64> {
    if !(confidence > 0.0 && confidence < 1.0 && freedom.is_finite()) {
        return None;
    }
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let tail = (1.0 - confidence) / 2.0;
    // The tail is convex and Student's is the heavier one, so steps from the normal quantile come
    // nearer from below, and never pass it.
    let mut critical = -normal_quantile(tail)?;
    for _ in 0..STEPS_MAX {
        let next = critical + (student.sf(critical) - tail) / student.pdf(critical);
        if next.is_nan() || next <= critical * (1.0 + f64::EPSILON) {
            break;
        }
        critical = next;
    }
    critical.is_finite().then_some(critical)
}

/// The probability that a chi-square variable is larger than `statistic`.
pub fn chi_square_above(statistic: f64, freedom: f64) -> Option<f64> {
    if !statistic.is_finite() {
        return None;
    }
    Some(ChiSquared::new(freedom).ok()?.sf(statistic.max(0.0)))
}
