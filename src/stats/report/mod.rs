//! The report on an experiment: which variant is ahead, by how much, and how sure that is.
//!
//! [`Report::new`] makes it from a [`Summary`], the definition, and the units if there is one. It
//! serialises as the API's JSON; [`Report::render`] gives it for people, too. Figures that don't
//! exist (a variance of one value) are null.

mod build;
mod compare;
mod render;
#[cfg(test)]
mod tests;
mod words;

use serde::Serialize;

pub use super::significance::{Adjustment, Interval};
use super::summary::Summary;
use super::units::Units;
use crate::model::Definition;
pub use build::sample_ratio;
pub use render::Format;
pub use words::{figure, percent};

/// The quantiles of which differences are given.
pub const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// What may be chosen.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// The experiment's name, for the title.
    pub experiment: Option<String>,
    /// Which part of it, as `context.environment = production`, when it was split.
    pub part: Option<String>,
    /// The variant that the others are compared with, in place of the definition's.
    pub control: Option<String>,
    /// The only metric that is wanted. Fewer comparisons are adjusted for.
    pub metric: Option<String>,
    /// Of all intervals.
    pub confidence: f64,
    /// Of p-values, for the number of comparisons.
    pub adjustment: Adjustment,
    /// The relative difference for which the needed entries are given.
    pub effect: f64,
}

impl ReportOptions {
    /// Whether the metric with this name is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.metric.as_deref().is_none_or(|metric| metric == name)
    }
}

/// The confidence that goes with a level of significance, as 0.95 with `0.05`.
pub fn confidence_of_alpha(text: &str) -> Result<f64, &'static str> {
    match text.parse::<f64>() {
        Ok(alpha) if (1e-6..=0.5).contains(&alpha) => Ok(1.0 - alpha),
        _ => Err("alpha is a number from 0.000001 to 0.5"),
    }
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            experiment: None,
            part: None,
            control: None,
            metric: None,
            confidence: 0.95,
            adjustment: Adjustment::default(),
            effect: 0.05,
        }
    }
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The experiment's name.
    pub experiment: Option<String>,
    /// Which part of it.
    pub part: Option<String>,
    /// All entries.
    pub count: u64,
    /// The confidence of all intervals.
    pub confidence: f64,
    /// How p-values are adjusted.
    pub adjustment: Adjustment,
    /// What counts as one independent observation.
    pub unit: UnitReport,
    /// The variant that the others are compared with.
    pub control: Option<Box<str>>,
    /// The counts against the plan.
    pub sample_ratio: SampleRatio,
    /// What keeps this report from being read as it is, worst first.
    pub warnings: Vec<String>,
    /// Which variant is ahead on what, one sentence for each comparison.
    pub sentences: Vec<String>,
    /// Each variant, in the order of the definition, then of the log.
    pub variants: Vec<VariantReport>,
    /// Each metric of each variant against the control.
    pub comparisons: Vec<ComparisonReport>,
    /// How the figures are to be read.
    pub notes: Vec<String>,
    /// Values that are not here, since more metrics came than are kept; a warning says so.
    #[serde(skip)]
    pub dropped_value_count: u64,
}

/// What counts as one independent observation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitReport {
    /// The field that names it; null when each entry counts as its own.
    pub field: Option<String>,
    /// Units with entries in more than one variant.
    pub crossing_count: Option<u64>,
    /// Entries that name no unit.
    pub without_unit_count: Option<u64>,
}

/// The counts of variants against their weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleRatio {
    /// Pearson's statistic.
    pub chi_square: Option<f64>,
    /// How likely counts this far from the plan are, when they follow it.
    pub p_value: Option<f64>,
    /// Whether that is below 0.0005.
    pub is_mismatch: bool,
    /// Why there is no p-value.
    pub unchecked_because: Option<String>,
}

/// One variant by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantReport {
    /// Its key.
    pub key: Box<str>,
    /// Whether the others are compared with it.
    pub is_control: bool,
    /// Its entries.
    pub count: u64,
    /// Its units.
    pub unit_count: Option<u64>,
    /// Its share of what the sample ratio counts.
    pub share: Option<f64>,
    /// The planned share.
    pub planned_share: Option<f64>,
    /// Its metrics, in the order of the log.
    pub metrics: Vec<MetricReport>,
}

/// One metric of one variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricReport {
    /// The keys that lead to it, joined with `.`.
    pub name: Box<str>,
    /// How many numbers.
    pub count: u64,
    /// Their sum; null beyond the range of a double.
    pub sum: f64,
    /// Their mean.
    pub mean: Option<f64>,
    /// The sample variance (n − 1).
    pub variance: Option<f64>,
    /// The mean's standard error: over units, when there is one.
    pub standard_error: Option<f64>,
    /// The mean's interval: Wilson's for a proportion, otherwise Student's.
    pub interval: Option<Interval>,
    /// The mean's interval that holds however often one looks; null below 100 entries (or units).
    pub always_valid_interval: Option<Interval>,
    /// Whether all values are 0 or 1.
    pub is_proportion: bool,
    /// The smallest value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
    /// From the sketch.
    pub quantiles: Vec<QuantileReport>,
    /// Strings, nulls and arrays in place of a number.
    pub non_numeric_count: u64,
    /// Numbers beyond the range of a double.
    pub not_finite_count: u64,
    /// Whether values of it may be missing, since there were too many names.
    pub is_incomplete: bool,
}

/// One quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuantileReport {
    /// Which: 0.5 is the median.
    pub q: f64,
    /// Its value, or the difference.
    pub value: f64,
    /// Its interval; null with a unit, or too few values.
    pub interval: Option<Interval>,
}

/// One metric of one variant against the control.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparisonReport {
    /// The variant.
    pub variant: Box<str>,
    /// The metric.
    pub metric: Box<str>,
    /// How the interval and the p-value were made.
    pub method: Method,
    /// Whether all values on both sides are 0 or 1.
    pub is_proportion: bool,
    /// The variant's mean less the control's.
    pub difference: f64,
    /// Its interval, for one look.
    pub interval: Option<Interval>,
    /// The difference as a part of the control's mean.
    pub relative: Option<f64>,
    /// Its interval (Fieller's); null when the control's mean may be zero.
    pub relative_interval: Option<Interval>,
    /// For one look.
    pub p_value: Option<f64>,
    /// Adjusted for the number of comparisons.
    pub p_value_adjusted: Option<f64>,
    /// What holds however often one looks; null below 100 entries (or units).
    pub always_valid: Option<AlwaysValidReport>,
    /// How many more entries it takes.
    pub power: PowerReport,
    /// Differences of quantiles.
    pub quantiles: Vec<QuantileReport>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// How a comparison was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Welch's, over entries.
    Welch,
    /// Welch's, over units.
    WelchByUnit,
    /// Newcombe's, with the score test.
    Newcombe,
}

/// What holds at all times at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlwaysValidReport {
    /// The difference's interval.
    pub interval: Interval,
    /// Its p-value.
    pub p_value: f64,
    /// Adjusted for the number of comparisons.
    pub p_value_adjusted: f64,
}

/// How many more entries, in both variants together, it takes to find a difference with a
/// probability of 80 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerReport {
    /// Of the size that is seen now.
    pub more_entries_for_observed: Option<u64>,
    /// The relative size that was asked for.
    pub effect: f64,
    /// Of that size.
    pub more_entries_for_effect: Option<u64>,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is a difference, however often one looked.
    Sure,
    /// There is one for whoever looks only once.
    SureForOneLook,
    /// There may be none.
    NotSure,
    /// Too few values to say anything, or no variance among them.
    TooLittle,
}

impl Report {
    /// The report on what `summary` holds; `units` are those of the whole log, if the definition
    /// names a unit.
    pub fn new(
        definition: &Definition,
        summary: &Summary,
        units: Option<&Units>,
        options: &ReportOptions,
    ) -> Self {
        build::report(definition, summary, units, options)
    }
}
