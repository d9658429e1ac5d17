//! Puts a report together: variants, sample ratio, warnings. The comparisons are in `compare`.

use super::super::distributions::{normal_quantile, student_critical};
use super::super::order::quantile_interval;
use super::super::sample_ratio::{MISMATCH_P_VALUE, chi_square};
use super::super::sequence::{COUNT_MIN, always_valid};
use super::super::series::Series;
use super::super::significance::{Estimate, Proportion, wilson};
use super::super::summary::{DROPPED_NAMES_MAX, Metric, Summary};
use super::super::units::Units;
use super::{
    Interval, MetricReport, QUANTILES, QuantileReport, Report, ReportOptions, SampleRatio,
    UnitReport, VariantReport, compare, words,
};
use crate::model::Definition;

/// All that a report is made of.
pub(super) struct Basis<'a> {
    pub(super) definition: &'a Definition,
    pub(super) summary: &'a Summary,
    pub(super) units: Option<&'a Units>,
    pub(super) options: &'a ReportOptions,
    /// The defined variants, then those of the log only.
    pub(super) keys: Vec<Box<str>>,
    /// The one that the others are compared with: the first one, unless another is named.
    pub(super) control: Option<Box<str>>,
}

pub(super) fn report(
    definition: &Definition,
    summary: &Summary,
    units: Option<&Units>,
    options: &ReportOptions,
) -> Report {
    let defined = definition.variants.iter().map(|variant| &variant.key);
    let mut keys: Vec<Box<str>> = defined.cloned().collect();
    for variant in summary.variants() {
        if !keys.contains(&variant.key) {
            keys.push(variant.key.clone());
        }
    }
    let named = definition.variants.iter().find(|variant| variant.control);
    let named = named.map(|variant| &variant.key).or(keys.first()).cloned();
    let control = options.control.as_deref().map(Box::from).or(named);
    let basis = Basis {
        definition,
        summary,
        units,
        options,
        keys,
        control,
    };
    let sample_ratio = basis.sample_ratio();
    let comparisons = compare::comparisons(&basis);
    let mut report = Report {
        experiment: options.experiment.clone(),
        part: options.part.clone(),
        count: summary.entry_count(),
        confidence: options.confidence,
        adjustment: options.adjustment,
        unit: basis.unit(),
        control: basis.control.clone(),
        warnings: Vec::new(),
        dropped_value_count: summary.dropped().value_count,
        sentences: Vec::new(),
        variants: basis.keys.iter().map(|key| basis.variant(key)).collect(),
        comparisons,
        notes: words::notes(&basis),
        sample_ratio,
    };
    report.warnings = warnings(&basis, &report);
    report.sentences = words::sentences(&report);
    report
}

impl Basis<'_> {
    fn unit(&self) -> UnitReport {
        let field = self.units.and_then(|_| self.definition.unit.clone());
        UnitReport {
            field,
            crossing_count: self.units.map(|units| units.crossing_count),
            without_unit_count: self.units.map(|units| units.without_unit_count),
        }
    }

    /// Entries, or units, of a variant.
    fn assigned_count(&self, key: &str) -> u64 {
        match self.units {
            Some(units) => units.variant(key).map_or(0, |variant| variant.unit_count),
            None => {
                let variant = self.summary.variant(key);
                variant.map_or(0, |variant| variant.entry_count)
            }
        }
    }

    fn sample_ratio(&self) -> SampleRatio {
        sample_ratio(self.definition, |key| self.assigned_count(key))
    }

    fn variant(&self, key: &str) -> VariantReport {
        let of_log = self.summary.variant(key);
        let total: u64 = self.keys.iter().map(|key| self.assigned_count(key)).sum();
        let defined = &self.definition.variants;
        let place = defined.iter().position(|variant| &*variant.key == key);
        let planned = weights(self.definition)
            .ok()
            .zip(place)
            .and_then(|(weights, place)| {
                let total: f64 = weights.iter().sum();
                Some(weights.get(place)? / total)
            });
        let metrics = self.summary.metrics().iter().enumerate();
        let wanted = metrics.filter(|(_, metric)| self.options.wants(&metric.name));
        let metrics = wanted.filter_map(|(place, metric)| {
            let series = of_log?.series(place)?;
            Some(self.metric(key, place, metric, series))
        });
        VariantReport {
            key: key.into(),
            is_control: self.control.as_deref() == Some(key),
            count: of_log.map_or(0, |variant| variant.entry_count),
            unit_count: self.units.map(|_| self.assigned_count(key)),
            share: (total > 0).then(|| self.assigned_count(key) as f64 / total as f64),
            planned_share: planned,
            metrics: metrics.collect(),
        }
    }

    fn metric(&self, key: &str, place: usize, metric: &Metric, series: &Series) -> MetricReport {
        let estimate = self.estimate(key, place);
        let standard_error = estimate.map(|estimate| estimate.variance.max(0.0).sqrt());
        let quantile = |q| {
            let value = series.quantile(q)?;
            let z = normal_quantile(f64::midpoint(1.0, self.options.confidence))?;
            let interval = match self.units {
                Some(_) => None,
                None => quantile_interval(series, q, z),
            };
            Some(QuantileReport { q, value, interval })
        };
        MetricReport {
            name: metric.name.clone(),
            count: series.count,
            sum: series.sum(),
            mean: series.mean(),
            variance: series.variance(),
            standard_error,
            interval: self.mean_interval(series, estimate),
            always_valid_interval: self.always_valid_interval(estimate),
            is_proportion: series.is_proportion(),
            min: series.min(),
            max: series.max(),
            quantiles: QUANTILES.into_iter().filter_map(quantile).collect(),
            non_numeric_count: series.non_numeric_count,
            not_finite_count: series.not_finite_count,
            is_incomplete: metric.is_incomplete,
        }
    }

    fn mean_interval(&self, series: &Series, estimate: Option<Estimate>) -> Option<Interval> {
        let confidence = self.options.confidence;
        if let (Some(proportion), None) = (proportion(series), self.units) {
            let z = normal_quantile(f64::midpoint(1.0, confidence))?;
            return wilson(proportion, z);
        }
        let estimate = estimate?;
        let critical = student_critical(confidence, estimate.count.checked_sub(1)? as f64)?;
        Interval::around(estimate.mean, critical * estimate.variance.max(0.0).sqrt()).finite()
    }

    fn always_valid_interval(&self, estimate: Option<Estimate>) -> Option<Interval> {
        let estimate = estimate.filter(|estimate| estimate.count >= COUNT_MIN)?;
        let standard_error = estimate.variance.sqrt();
        let confidence = self.options.confidence;
        let found = always_valid(estimate.mean, standard_error, estimate.count, confidence)?;
        Some(found.interval)
    }

    /// The mean of a variant's metric and how well it is known: over units, if there is one.
    pub(super) fn estimate(&self, key: &str, place: usize) -> Option<Estimate> {
        if let Some(units) = self.units {
            return units.variant(key)?.clusters(place)?.estimate();
        }
        let series = self.summary.variant(key)?.series(place)?;
        Some(Estimate {
            mean: series.mean()?,
            variance: series.variance()? / series.count as f64,
            count: series.count,
        })
    }
}

/// The defined variants' weights: all given, or all equal.
fn weights(definition: &Definition) -> Result<Vec<f64>, &'static str> {
    let variants = &definition.variants;
    let given: Vec<f64> = variants.iter().filter_map(|one| one.weight).collect();
    if variants.len() < 2 {
        Err("fewer than two variants are defined")
    } else if given.is_empty() {
        Ok(vec![1.0; variants.len()])
    } else if given.len() < variants.len() {
        Err("some variants have a weight and others have none")
    } else if given.iter().sum::<f64>() <= 0.0 {
        Err("all weights are zero")
    } else {
        Ok(given)
    }
}

/// The counts of a definition's variants (entries, or units where it has a unit) against its weights.
pub fn sample_ratio(definition: &Definition, count_of: impl Fn(&str) -> u64) -> SampleRatio {
    let unchecked = |why: &str| SampleRatio {
        chi_square: None,
        p_value: None,
        is_mismatch: false,
        unchecked_because: Some(why.into()),
    };
    let weights = match weights(definition) {
        Ok(weights) => weights,
        Err(why) => return unchecked(why),
    };
    let keys = definition.variants.iter().map(|variant| &variant.key);
    let counts = keys.map(|key| count_of(key));
    // Nothing is expected of a weight of zero; a warning tells if there is something.
    let planned = counts.zip(weights).filter(|(_, weight)| *weight > 0.0);
    let (counts, weights): (Vec<_>, Vec<_>) = planned.unzip();
    match chi_square(&counts, &weights) {
        Some(test) => SampleRatio {
            chi_square: Some(test.statistic),
            p_value: Some(test.p_value),
            is_mismatch: test.p_value < MISMATCH_P_VALUE,
            unchecked_because: None,
        },
        None => unchecked("too few for a test: it needs 5 expected in each variant"),
    }
}

/// A series as successes among trials, if it is of zeros and ones.
pub(super) fn proportion(series: &Series) -> Option<Proportion> {
    series.is_proportion().then(|| Proportion {
        successes: series.sum(),
        trials: series.count as f64,
    })
}

fn warnings(basis: &Basis<'_>, report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let ratio = &report.sample_ratio;
    if ratio.is_mismatch {
        let what = if basis.units.is_some() {
            "units"
        } else {
            "entries"
        };
        let p_value = words::p_value(ratio.p_value.unwrap_or_default());
        warnings.push(format!(
            "Sample ratio mismatch: {what} are not shared out as planned (p {p_value}). Something \
             between assignment and log loses or adds {what} of some variants. Find that first: no \
             comparison below can be trusted."
        ));
    }
    for variant in &report.variants {
        if variant.planned_share == Some(0.0) && variant.count > 0 {
            warnings.push(format!(
                "The variant {} has a weight of 0, and {} entries.",
                words::plain(&variant.key),
                variant.count
            ));
        }
    }
    let unit = words::plain(basis.definition.unit.as_deref().unwrap_or_default());
    match basis.units {
        Some(units) if units.crossing_count > 0 => warnings.push(format!(
            "{} units ({unit}) were seen in more than one variant. They stay in each with what they \
             did there.",
            units.crossing_count
        )),
        None if basis.definition.unit.is_some() => warnings.push(format!(
            "The unit {unit} was not looked at: each entry counts as its own here."
        )),
        _ => {}
    }
    if let Some(units) = basis.units.filter(|units| units.without_unit_count > 0) {
        warnings.push(format!(
            "{} entries name no unit ({unit}). They are in the counts, quantiles and means of the \
             variants, and in no comparison of means.",
            units.without_unit_count
        ));
    }
    let dropped = basis.summary.dropped();
    if dropped.value_count > 0 {
        let count = basis.summary.dropped_name_count();
        let least = if count >= DROPPED_NAMES_MAX {
            "at least "
        } else {
            ""
        };
        let (values, kept) = (dropped.value_count, basis.summary.metrics().len());
        let series = basis.summary.series_count();
        warnings.push(match count {
            0 => format!(
                "There are more metrics of variants than the {series} that are kept: {values} values \
                 are not here. Metrics that lack some are marked."
            ),
            _ => format!(
                "There are more metrics than the {kept} that are kept: {values} values of \
                 {least}{count} further names are not here."
            ),
        });
    }
    warnings
}
