//! Each metric of each variant against the control.

use super::super::distributions::normal_quantile;
use super::super::order::quantile_difference;
use super::super::power::{POWER, more_entries};
use super::super::sequence::{COUNT_MIN, SIDE_COUNT_MIN, always_valid};
use super::super::series::Series;
use super::super::significance::{Comparison, Estimate, Interval, fieller, newcombe, welch};
use super::build::{Basis, proportion};
use super::{
    AlwaysValidReport, ComparisonReport, Method, PowerReport, QUANTILES, QuantileReport, Verdict,
};

pub(super) fn comparisons(basis: &Basis<'_>) -> Vec<ComparisonReport> {
    let Some(control) = &basis.control else {
        return Vec::new();
    };
    let mut comparisons = Vec::new();
    for (place, metric) in basis.summary.metrics().iter().enumerate() {
        if !basis.options.wants(&metric.name) {
            continue;
        }
        for key in basis.keys.iter().filter(|key| *key != control) {
            comparisons.extend(compare(basis, control, key, place));
        }
    }
    adjust(basis, &mut comparisons);
    for comparison in &mut comparisons {
        comparison.verdict = verdict(comparison, 1.0 - basis.options.confidence);
    }
    comparisons
}

/// `None` where one side has no numbers.
fn compare(basis: &Basis<'_>, control: &str, key: &str, place: usize) -> Option<ComparisonReport> {
    let metric = basis.summary.metrics().get(place)?;
    let series = |key| basis.summary.variant(key)?.series(place);
    let (from, to) = (series(control)?, series(key)?);
    let estimates = basis
        .estimate(control, place)
        .zip(basis.estimate(key, place));
    let (method, compared) = best_method(basis, (from, to), estimates);
    let difference = match (compared, estimates) {
        (Some(compared), _) => compared.difference,
        (None, Some((control, other))) => other.mean - control.mean,
        (None, None) => to.mean()? - from.mean()?,
    };
    let control_mean = estimates.map_or(from.mean(), |(control, _)| Some(control.mean));
    let relative = control_mean
        .filter(|mean| *mean != 0.0)
        .map(|mean| difference / mean.abs());
    let relative_interval = compared.zip(estimates).and_then(|(compared, (from, to))| {
        let ratio = fieller(from, to, compared.critical)?;
        // Of a control below zero, more is still more.
        if from.mean < 0.0 {
            Interval(-ratio.1, -ratio.0).finite()
        } else {
            Some(ratio)
        }
    });
    Some(ComparisonReport {
        variant: key.into(),
        metric: metric.name.clone(),
        method,
        is_proportion: from.is_proportion() && to.is_proportion(),
        difference,
        interval: compared.map(|compared| compared.interval),
        relative,
        relative_interval,
        p_value: compared.map(|compared| compared.p_value),
        p_value_adjusted: None,
        always_valid: at_all_times(basis, estimates),
        power: power(basis, (from, to), estimates),
        quantiles: quantiles(basis, from, to),
        verdict: Verdict::TooLittle,
    })
}

fn best_method(
    basis: &Basis<'_>,
    (from, to): (&Series, &Series),
    estimates: Option<(Estimate, Estimate)>,
) -> (Method, Option<Comparison>) {
    let confidence = basis.options.confidence;
    let by_estimate = || estimates.and_then(|(control, other)| welch(control, other, confidence));
    if basis.units.is_some() {
        return (Method::WelchByUnit, by_estimate());
    }
    match (proportion(from), proportion(to), z(basis)) {
        (Some(from), Some(to), Some(z)) => (Method::Newcombe, newcombe(from, to, z)),
        _ => (Method::Welch, by_estimate()),
    }
}

fn z(basis: &Basis<'_>) -> Option<f64> {
    normal_quantile(f64::midpoint(1.0, basis.options.confidence))
}

fn at_all_times(
    basis: &Basis<'_>,
    estimates: Option<(Estimate, Estimate)>,
) -> Option<AlwaysValidReport> {
    let (control, other) = estimates?;
    let count = control.count + other.count;
    if count < COUNT_MIN || control.count.min(other.count) < SIDE_COUNT_MIN {
        return None;
    }
    let standard_error = (control.variance + other.variance).sqrt();
    let difference = other.mean - control.mean;
    let found = always_valid(difference, standard_error, count, basis.options.confidence)?;
    Some(AlwaysValidReport {
        interval: found.interval,
        p_value: found.p_value,
        p_value_adjusted: found.p_value,
    })
}

fn power(
    basis: &Basis<'_>,
    (from, to): (&Series, &Series),
    estimates: Option<(Estimate, Estimate)>,
) -> PowerReport {
    let alpha = 1.0 - basis.options.confidence;
    let more = |difference: f64| {
        let (control, other) = estimates?;
        let variance = control.variance + other.variance;
        more_entries(difference, variance, from.count + to.count, alpha, POWER)
    };
    let observed = estimates.map(|(control, other)| other.mean - control.mean);
    let effect = basis.options.effect;
    let wanted = estimates.map(|(control, _)| control.mean * effect);
    PowerReport {
        more_entries_for_observed: observed.and_then(more),
        effect,
        more_entries_for_effect: wanted.and_then(more),
    }
}

fn quantiles(basis: &Basis<'_>, from: &Series, to: &Series) -> Vec<QuantileReport> {
    let difference = |q| {
        let (value, interval) = quantile_difference(from, to, q, z(basis)?)?;
        // Entries of one unit aren't independent, and the interval needs that they are.
        let interval = interval.filter(|_| basis.units.is_none());
        Some(QuantileReport { q, value, interval })
    };
    QUANTILES.into_iter().filter_map(difference).collect()
}

fn adjust(basis: &Basis<'_>, comparisons: &mut [ComparisonReport]) {
    let adjustment = basis.options.adjustment;
    let p_values: Vec<f64> = comparisons.iter().filter_map(|one| one.p_value).collect();
    let with_p_value = comparisons.iter_mut().filter(|one| one.p_value.is_some());
    for (comparison, adjusted) in with_p_value.zip(adjustment.adjust(&p_values)) {
        comparison.p_value_adjusted = Some(adjusted);
    }
    let always = comparisons.iter().filter_map(|one| one.always_valid);
    let p_values: Vec<f64> = always.map(|always| always.p_value).collect();
    let always = comparisons
        .iter_mut()
        .filter_map(|one| one.always_valid.as_mut());
    for (always, adjusted) in always.zip(adjustment.adjust(&p_values)) {
        always.p_value_adjusted = adjusted;
    }
}

fn verdict(comparison: &ComparisonReport, alpha: f64) -> Verdict {
    let always = comparison
        .always_valid
        .map(|always| always.p_value_adjusted);
    match (comparison.p_value_adjusted, always) {
        (_, Some(p_value)) if p_value < alpha => Verdict::Sure,
        (Some(p_value), _) if p_value < alpha => Verdict::SureForOneLook,
        (Some(_), _) => Verdict::NotSure,
        (None, _) => Verdict::TooLittle,
    }
}
