//! Two variants' means compared: intervals and p-values for one look.
//!
//! | figure | method |
//! | --- | --- |
//! | difference of means | Welch: unequal variances, Student's t with Satterthwaite's degrees of freedom |
//! | with a unit | the same from the units' linearised residuals ([`super::units`]), which have as many degrees of freedom as units less one |
//! | a proportion | Wilson's score interval |
//! | difference of proportions | Newcombe's hybrid-score interval (1998, method 10) of two Wilson intervals; p-value of the pooled score test (the chi-square test of the 2 × 2 table) |
//! | relative difference | Fieller's interval: all ratios that the data don't refute. Where the control's mean isn't clearly different from zero no bounded interval has that property, and there is none |

use serde::Serialize;

use super::distributions::{normal_two_sided, student_critical, student_two_sided};

/// From and to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval(pub f64, pub f64);

impl Interval {
    /// The interval that reaches as far to both sides.
    pub fn around(middle: f64, reach: f64) -> Self {
        Self(middle - reach, middle + reach)
    }

    /// The interval, if both of its ends are numbers.
    pub fn finite(self) -> Option<Self> {
        (self.0.is_finite() && self.1.is_finite()).then_some(self)
    }
}

/// A variant's mean and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The variance of the mean: the square of its standard error.
    pub variance: f64,
    /// How many independent things it comes from: entries, or units.
    pub count: u64,
}

/// Two variants compared by their difference, the second one less the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The difference of the means.
    pub difference: f64,
    /// Where the true one lies with the confidence asked for.
    pub interval: Interval,
    /// How likely a difference this large is, when there is none.
    pub p_value: f64,
    /// How many standard errors the interval reaches to each side.
    pub critical: f64,
}

/// Welch's comparison. `None` with fewer than two independent things on a side, or when all values
/// are equal on both.
pub fn welch(control: Estimate, other: Estimate, confidence: f64) -> Option<Comparison> {
    let variance = control.variance + other.variance;
    let difference = other.mean - control.mean;
    let share = |one: Estimate| {
        let share = one.variance / variance;
        Some(share * share / one.count.checked_sub(1)? as f64)
    };
    let freedom = 1.0 / (share(control)? + share(other)?);
    let error = variance.sqrt();
    let critical = student_critical(confidence, freedom)?;
    Some(Comparison {
        difference,
        interval: Interval::around(difference, critical * error).finite()?,
        p_value: student_two_sided(difference / error, freedom)?,
        critical,
    })
}

/// Fieller's interval for the relative difference `other / control - 1`: each ratio `r` for which
/// `other - r control` is within `critical` standard errors of zero.
pub fn fieller(control: Estimate, other: Estimate, critical: f64) -> Option<Interval> {
    let square = critical * critical;
    // The solutions of (m1 - r m0)^2 = square (v1 + r^2 v0).
    let a = control.mean * control.mean - square * control.variance;
    let b = control.mean * other.mean;
    if a <= 0.0 || a.is_nan() {
        return None;
    }
    // The discriminant, without the part that cancels.
    let inner = square
        * (control.mean.powi(2) * other.variance + other.mean.powi(2) * control.variance
            - square * control.variance * other.variance);
    let root = inner.max(0.0).sqrt();
    Interval((b - root) / a - 1.0, (b + root) / a - 1.0).finite()
}

/// A number of successes among a number of trials.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proportion {
    /// The successes.
    pub successes: f64,
    /// The trials.
    pub trials: f64,
}

impl Proportion {
    fn share(self) -> f64 {
        self.successes / self.trials
    }
}

/// Wilson's score interval, for `z` standard errors to each side.
pub fn wilson(proportion: Proportion, z: f64) -> Option<Interval> {
    let Proportion { successes, trials } = proportion;
    let share = proportion.share();
    let middle = (successes + z * z / 2.0) / (trials + z * z);
    let variance = share * (1.0 - share) / trials + z * z / (4.0 * trials * trials);
    let reach = z * variance.sqrt() / (1.0 + z * z / trials);
    Interval((middle - reach).max(0.0), (middle + reach).min(1.0)).finite()
}

/// Newcombe's interval and the score test's p-value for two proportions.
pub fn newcombe(control: Proportion, other: Proportion, z: f64) -> Option<Comparison> {
    let difference = other.share() - control.share();
    let (from, to) = (wilson(control, z)?, wilson(other, z)?);
    let below = (other.share() - to.0).hypot(from.1 - control.share());
    let above = (to.1 - other.share()).hypot(control.share() - from.0);
    let pooled = (control.successes + other.successes) / (control.trials + other.trials);
    let variance = pooled * (1.0 - pooled) * (1.0 / control.trials + 1.0 / other.trials);
    // All of both sides equal: nothing speaks against no difference.
    let p_value = if variance > 0.0 {
        normal_two_sided(difference / variance.sqrt())?
    } else {
        1.0
    };
    Some(Comparison {
        difference,
        interval: Interval(difference - below, difference + above).finite()?,
        p_value,
        critical: z,
    })
}

/// How p-values are adjusted for the number of comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjustment {
    /// Holm's: bounds the chance of even one false finding.
    #[default]
    Holm,
    /// Benjamini and Hochberg's: bounds the share of false ones among the findings.
    BenjaminiHochberg,
}

impl std::str::FromStr for Adjustment {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "holm" => Ok(Self::Holm),
            "bh" | "benjamini-hochberg" => Ok(Self::BenjaminiHochberg),
            _ => Err("an adjustment is holm or bh"),
        }
    }
}

impl Adjustment {
    /// The adjusted p-values, each at its place.
    pub fn adjust(self, p_values: &[f64]) -> Vec<f64> {
        let count = p_values.len() as f64;
        let mut places: Vec<usize> = (0..p_values.len()).collect();
        let p_value = |place: usize| p_values.get(place).copied().unwrap_or(1.0);
        places.sort_by(|left, right| p_value(*left).total_cmp(&p_value(*right)));
        let mut adjusted = vec![1.0; p_values.len()];
        let mut set = |place: usize, value: f64| {
            if let Some(slot) = adjusted.get_mut(place) {
                *slot = value;
            }
        };
        match self {
            Self::Holm => {
                let mut largest = 0.0_f64;
                for (rank, place) in places.iter().enumerate() {
                    let factor = count - rank as f64;
                    largest = largest.max(p_value(*place) * factor).min(1.0);
                    set(*place, largest);
                }
            }
            Self::BenjaminiHochberg => {
                let mut smallest = 1.0_f64;
                for (rank, place) in places.iter().enumerate().rev() {
                    let factor = count / (rank + 1) as f64;
                    smallest = smallest.min(p_value(*place) * factor);
                    set(*place, smallest);
                }
            }
        }
        adjusted
    }
}
