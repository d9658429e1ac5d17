//! Whether the variants were assigned in the planned shares.
//!
//! Pearson's chi-square against the weights. A sample ratio mismatch means that something between
//! assignment and log loses or adds entries of some variants, and that no comparison can be
//! trusted. People look often, so the line is drawn low.

use super::distributions::chi_square_above;

/// A p-value below this is a mismatch (Fabijan et al., "Diagnosing sample ratio mismatch in online
/// controlled experiments", KDD 2019).
pub const MISMATCH_P_VALUE: f64 = 0.0005;
/// With fewer expected in a variant the chi-square distribution doesn't fit.
const EXPECTED_MIN: f64 = 5.0;

/// The chi-square test's result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChiSquare {
    /// The statistic.
    pub statistic: f64,
    /// Degrees of freedom.
    pub freedom: f64,
    /// How likely counts this far from the plan are, when they follow it.
    pub p_value: f64,
}

/// Tests counts against weights. `None` with fewer than two variants, or too few counts to say.
pub fn chi_square(counts: &[u64], weights: &[f64]) -> Option<ChiSquare> {
    let total: u64 = counts.iter().sum();
    let weight: f64 = weights.iter().sum();
    let freedom = counts.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mut statistic = 0.0;
    for (count, share) in counts.iter().zip(weights) {
        let expected = total as f64 * share / weight;
        if expected.is_nan() || expected < EXPECTED_MIN {
            return None;
        }
        statistic += (*count as f64 - expected).powi(2) / expected;
    }
    let freedom = freedom as f64;
    Some(ChiSquare {
        statistic,
        freedom,
        p_value: chi_square_above(statistic, freedom)?,
    })
}
