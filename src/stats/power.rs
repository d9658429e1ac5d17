//! How many entries it takes to see a difference.

use super::distributions::normal_quantile;

/// How often a difference of that size is to be found.
pub const POWER: f64 = 0.8;

/// How many more entries both variants need together until a two-sided test finds a true
/// `difference` with the probability `power`, when `entry_count` entries gave this variance of the
/// difference and entries go on coming in the same shares (and as many for each unit).
///
/// The variance of a mean falls with the number of entries, so the wanted one,
/// `(difference / (z(1 − α/2) + z(power)))²`, gives their number. Zero when there are enough; `None`
/// for no difference.
pub fn more_entries(
    difference: f64,
    variance: f64,
    entry_count: u64,
    alpha: f64,
    power: f64,
) -> Option<u64> {
    let errors = normal_quantile(1.0 - alpha / 2.0)? + normal_quantile(power)?;
    let wanted = (difference / errors).powi(2);
    let needed = (entry_count as f64 * variance / wanted).ceil();
    // Beyond this it is no plan any more.
    let is_answer = difference != 0.0 && variance > 0.0 && needed < 1e15;
    is_answer.then(|| (needed as u64).saturating_sub(entry_count))
}
