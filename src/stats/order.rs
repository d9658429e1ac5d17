//! Intervals for quantiles and their differences.
//!
//! A quantile's interval is between two of the values by rank: how many of `n` independent entries
//! are below the true `q`-quantile is binomial, here by its normal approximation,
//! `n q ± z √(n q (1 − q))`. It assumes nothing on how values are distributed, but that entries are
//! independent: with a unit that has several, it would be too narrow, and the report gives none. The
//! ends come from the sketch, and are widened by its error, so that the interval holds the one
//! between the true values; where the sketch is exact it is that one.
//!
//! The difference of two quantiles has the interval of Newcombe's way to put two intervals together
//! (MOVER: Zou and Donner, "Construction of confidence limits about effect measures", 2008), as
//! for proportions.

use super::series::Series;
use super::significance::Interval;
use super::sketch::RELATIVE_ERROR;

/// The `q`-quantile's interval, `z` standard errors to each side. `None` when there are too few
/// values to have one on both sides.
pub fn quantile_interval(series: &Series, q: f64, z: f64) -> Option<Interval> {
    let count = series.count as f64;
    let middle = count * q;
    let reach = z * (middle * (1.0 - q)).sqrt();
    // The ranks are from 1 to n here.
    let (low, high) = ((middle - reach).floor(), (middle + reach).ceil() + 1.0);
    if low < 1.0 || high > count {
        return None;
    }
    let low = series.at_rank(low as u64 - 1)?;
    let high = series.at_rank(high as u64 - 1)?;
    if series.sketch().is_exact() {
        return Interval(low, high).finite();
    }
    // A value is as far from zero as the sketch says, or a little farther.
    let farther = 1.0 + RELATIVE_ERROR;
    let low = if low < 0.0 { low * farther } else { low };
    let high = if high > 0.0 { high * farther } else { high };
    let within = |end: f64| Some(end.max(series.min()?).min(series.max()?));
    Interval(within(low)?, within(high)?).finite()
}

/// The difference of the `q`-quantiles, the second one less the first, and its interval.
pub fn quantile_difference(
    control: &Series,
    other: &Series,
    q: f64,
    z: f64,
) -> Option<(f64, Option<Interval>)> {
    let (from, to) = (control.quantile(q)?, other.quantile(q)?);
    let difference = to - from;
    let sides = quantile_interval(control, q, z).zip(quantile_interval(other, q, z));
    let interval = sides.and_then(|(control, other)| {
        let below = (to - other.0).hypot(control.1 - from);
        let above = (other.1 - to).hypot(from - control.0);
        Interval(difference - below, difference + above).finite()
    });
    Some((difference, interval))
}
