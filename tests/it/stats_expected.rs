//! Every formula of `stats` against what SciPy and statsmodels gave: `tests/stats/make_expected.py`.

use serde_json::Value;
use trialog::stats::distributions;
use trialog::stats::extract;
use trialog::stats::power::more_entries;
use trialog::stats::sample_ratio::chi_square;
use trialog::stats::sequence;
use trialog::stats::series::Series;
use trialog::stats::significance::{
    Adjustment, Estimate, Interval, Proportion, fieller, newcombe, welch, wilson,
};
use trialog::stats::sketch::RELATIVE_ERROR;
use trialog::stats::units::Clusters;

/// How far a figure may be from the expected one, relatively.
const TOLERANCE: f64 = 1e-9;

/// The cases of one kind, none of which may be missing.
fn cases(kind: &str) -> Vec<Value> {
    let text = include_str!("../stats/expected.json");
    let all: Value = serde_json::from_str(text).unwrap();
    let cases = all[kind].as_array().expect("a list of cases").clone();
    assert!(!cases.is_empty(), "{kind}");
    cases
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list");
    list.iter().map(number).collect()
}

fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some(text) => text.parse().expect("a number"),
        None => value.as_f64().expect("a number"),
    }
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &dyn std::fmt::Display) {
    assert_within(TOLERANCE, found, expected, what);
}

#[track_caller]
fn assert_within(tolerance: f64, found: f64, expected: f64, what: &dyn std::fmt::Display) {
    let distance = (found - expected).abs();
    let is_close = distance <= tolerance * expected.abs().max(1e-300);
    // Where terms cancel, an absolute distance is what a figure can promise.
    assert!(
        is_close || distance < 1e-13,
        "{found} is not {expected}: {what}"
    );
}

#[track_caller]
fn assert_interval(found: Interval, expected: &Value, what: &dyn std::fmt::Display) {
    let expected = numbers(expected);
    assert_close(found.0, expected[0], what);
    assert_close(found.1, expected[1], what);
}

fn series(values: &[f64]) -> Series {
    let mut series = Series::default();
    values
        .iter()
        .for_each(|value| series.add(extract::Value::Number(*value)));
    series
}

fn estimate(values: &Value) -> Estimate {
    let series = series(&numbers(values));
    Estimate {
        mean: series.mean().unwrap(),
        variance: series.variance().unwrap() / series.count as f64,
        count: series.count,
    }
}

#[test]
fn tails_and_critical_values() {
    for case in cases("distributions") {
        let (x, freedom) = (number(&case["x"]), number(&case["freedom"]));
        let found = match case["what"].as_str().unwrap() {
            "student_critical" => distributions::student_critical(x, freedom),
            "student_two_sided" => distributions::student_two_sided(x, freedom),
            "chi_square_above" => distributions::chi_square_above(x, freedom),
            "normal_two_sided" => distributions::normal_two_sided(x),
            "normal_quantile" => distributions::normal_quantile(x),
            other => panic!("{other} is not known here"),
        };
        // With a million degrees of freedom the incomplete beta function loses some digits.
        let tolerance = if freedom < 1e5 { TOLERANCE } else { 1e-7 };
        assert_within(tolerance, found.unwrap(), number(&case["value"]), &case);
    }
}

#[test]
fn welch_and_fieller() {
    for case in cases("welch") {
        let (control, other) = (estimate(&case["control"]), estimate(&case["other"]));
        let found = welch(control, other, number(&case["confidence"])).unwrap();
        assert_close(found.difference, number(&case["difference"]), &case);
        assert_interval(found.interval, &case["interval"], &case);
        assert_close(found.p_value, number(&case["p_value"]), &case);
        let relative = fieller(control, other, found.critical);
        match (relative, &case["relative_interval"]) {
            (None, Value::Null) => {}
            (Some(relative), expected) => assert_interval(relative, expected, &case),
            (None, _) => panic!("no interval: {case}"),
        }
    }
}

#[test]
fn wilson_newcombe_and_the_score_test() {
    let proportion = |counts: &Value| Proportion {
        successes: number(&counts[0]),
        trials: number(&counts[1]),
    };
    for case in cases("proportions") {
        let confidence = number(&case["confidence"]);
        let z = distributions::normal_quantile(f64::midpoint(1.0, confidence)).unwrap();
        let (control, other) = (proportion(&case["control"]), proportion(&case["other"]));
        assert_interval(wilson(other, z).unwrap(), &case["wilson"], &case);
        let found = newcombe(control, other, z).unwrap();
        assert_interval(found.interval, &case["interval"], &case);
        assert_close(found.p_value, number(&case["p_value"]), &case);
    }
}

#[test]
fn holm_and_benjamini_hochberg() {
    for case in cases("adjustments") {
        let p_values = numbers(&case["p_values"]);
        let kinds = [
            (Adjustment::Holm, "holm"),
            (Adjustment::BenjaminiHochberg, "benjamini_hochberg"),
        ];
        for (adjustment, kind) in kinds {
            let expected = numbers(&case[kind]);
            let found = adjustment.adjust(&p_values);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert_close(*found, expected, &case);
            }
        }
    }
}

#[test]
fn chi_square_of_the_sample_ratio() {
    for case in cases("sample_ratios") {
        let counts = numbers(&case["counts"]);
        let counts: Vec<u64> = counts.iter().map(|count| *count as u64).collect();
        let found = chi_square(&counts, &numbers(&case["weights"])).unwrap();
        assert_close(found.statistic, number(&case["statistic"]), &case);
        assert_close(found.p_value, number(&case["p_value"]), &case);
    }
}

#[test]
fn means_over_units() {
    for case in cases("clusters") {
        let mut clusters = Clusters::default();
        for unit in case["units"].as_array().unwrap() {
            let values = numbers(unit);
            clusters.add(values.len() as u64, values.iter().sum());
        }
        let found = clusters.estimate().unwrap();
        assert_close(found.mean, number(&case["mean"]), &case);
        assert_close(found.variance, number(&case["variance"]), &case);
    }
}

#[test]
fn the_confidence_sequence_is_where_the_mixture_of_likelihoods_reaches_one_in_alpha() {
    for case in cases("sequences") {
        let count = case["count"].as_u64().unwrap();
        let (alpha, z) = (number(&case["alpha"]), number(&case["z"]));
        assert_close(sequence::errors_allowed(count, alpha), z, &case);
        assert_close(sequence::p_value(z, count), alpha, &case);
        let found = sequence::always_valid(2.0, 0.5, count, 1.0 - alpha).unwrap();
        assert_close(found.interval.1 - 2.0, 0.5 * z, &case);
        assert_eq!(found.p_value, sequence::p_value(4.0, count));
    }
}

#[test]
fn entries_for_a_power() {
    for case in cases("powers") {
        let figure = |name: &str| number(&case[name]);
        let count = case["count"].as_u64().unwrap();
        let (difference, variance) = (figure("difference"), figure("variance"));
        let more = more_entries(
            difference,
            variance,
            count,
            figure("alpha"),
            figure("power"),
        );
        let needed = (more.unwrap() + count) as f64;
        // statsmodels counts the other tail in, too, which is next to nothing.
        assert!(
            (needed - figure("needed")).abs() <= 1.0 + 1e-6 * needed,
            "{case}"
        );
    }
}

#[test]
fn moments_to_the_last_bit_and_quantiles_within_their_error() {
    for case in cases("moments") {
        let series = series(&numbers(&case["values"]));
        assert_eq!(series.sum(), number(&case["sum"]));
        assert_eq!(series.mean(), Some(number(&case["mean"])));
        let variance = series.variance().filter(|variance| variance.is_finite());
        let expected = Some(&case["variance"]).filter(|expected| !expected.is_null());
        assert_eq!(variance, expected.map(number));
        for (q, expected) in case["quantiles"].as_object().unwrap() {
            let found = series.quantile(q.parse().unwrap()).unwrap();
            let expected = number(expected);
            assert!(
                (found - expected).abs() <= expected.abs() * RELATIVE_ERROR,
                "{q}: {case}"
            );
        }
    }
}
