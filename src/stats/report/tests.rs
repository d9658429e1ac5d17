//! Planted cases: what a report must see, and what it must not.

use super::super::Summary;
use super::super::extract::FieldPath;
use super::super::units::{BYTES_MAX, UnitScan, Units};
use super::*;
use crate::model::Variant;

fn definition(variants: &[(&str, Option<f64>)], unit: Option<&str>) -> Definition {
    let variants = variants.iter().map(|(key, weight)| Variant {
        key: (*key).into(),
        weight: *weight,
        control: false,
    });
    Definition {
        variants: variants.collect(),
        unit: unit.map(str::to_owned),
        ..Definition::default()
    }
}

/// A log of entries: variant, unit, and the value of `score`.
fn log(entries: impl IntoIterator<Item = (&'static str, u64, f64)>) -> Vec<(&'static str, String)> {
    let body = |unit: u64, score: f64| {
        format!(r#"{{"metrics":{{"score":{score:e}}},"context":{{"session":"s{unit}"}}}}"#)
    };
    let entries = entries.into_iter();
    entries
        .map(|(key, unit, score)| (key, body(unit, score)))
        .collect()
}

fn summary(log: &[(&str, String)]) -> Summary {
    let mut summary = Summary::default();
    for (key, body) in log {
        summary.apply(key, 1, body.as_bytes());
    }
    summary
}

/// The units of a log, and how many scans they took.
fn units(log: &[(&str, String)], bytes_max: usize) -> (Units, usize) {
    let path = FieldPath::new("context.session");
    let mut scan = UnitScan::new(&path, &summary(log), bytes_max);
    let mut scans = 0;
    while let Some(mut table) = scan.next_table() {
        for (key, body) in log {
            table.apply(key, body.as_bytes());
        }
        scan.take(table);
        scans += 1;
    }
    (scan.finish(), scans)
}

fn report(definition: &Definition, log: &[(&str, String)]) -> Report {
    let units = definition.unit.as_ref().map(|_| units(log, BYTES_MAX).0);
    let options = ReportOptions::default();
    Report::new(definition, &summary(log), units.as_ref(), &options)
}

fn counts(a: usize, b: usize) -> Vec<(&'static str, String)> {
    let a = (0..a).map(|at| ("A", at as u64, 1.0));
    log(a.chain((0..b).map(|at| ("B", 1_000_000 + at as u64, 1.0))))
}

#[test]
fn a_split_that_is_not_as_planned_is_flagged() {
    let even = definition(&[("A", Some(0.5)), ("B", Some(0.5))], None);
    let planned = definition(&[("A", Some(0.9)), ("B", Some(0.1))], None);
    let unsaid = definition(&[("A", None), ("B", None)], None);
    let flagged = |definition, a, b| report(definition, &counts(a, b)).sample_ratio.is_mismatch;
    assert!(flagged(&even, 5200, 4800), "52/48 of 10,000");
    assert!(flagged(&unsaid, 5200, 4800));
    assert!(!flagged(&even, 5000, 5000));
    assert!(!flagged(&even, 5060, 4940));
    assert!(!flagged(&planned, 9000, 1000), "a planned 90/10");
    assert!(flagged(&even, 9000, 1000), "an unplanned one");
    assert!(!flagged(&even, 52, 48), "52/48 of 100 says nothing");
    assert!(!flagged(&even, 4, 0), "nor does anything of 4");

    let report = report(&even, &counts(5200, 4800));
    assert!(
        report.warnings[0].starts_with("Sample ratio mismatch"),
        "{report:?}"
    );
    assert!(report.sample_ratio.p_value.unwrap() < 1e-4);
}

#[test]
fn what_cannot_be_checked_says_why() {
    let some = definition(&[("A", Some(0.5)), ("B", None)], None);
    let zero = definition(&[("A", Some(1.0)), ("B", Some(0.0))], None);
    let unchecked = |definition: &Definition| {
        let ratio = report(definition, &counts(50, 50)).sample_ratio;
        (ratio.p_value, ratio.unchecked_because.is_some())
    };
    assert_eq!(unchecked(&some), (None, true));
    assert_eq!(unchecked(&Definition::default()), (None, true));
    assert_eq!(unchecked(&zero), (None, true));
    let warnings = report(&zero, &counts(50, 50)).warnings;
    assert!(warnings[0].contains("weight of 0"), "{warnings:?}");
}

#[test]
fn the_sample_ratio_counts_units() {
    // B's units have twice the entries of A's, and are as many.
    let a = (0..1000).map(|at| ("A", at, 1.0));
    let b = (0..2000).map(|at| ("B", 5000 + at / 2, 1.0));
    let log = log(a.chain(b));
    let even = [("A", None), ("B", None)];
    let by_entry = report(&definition(&even, None), &log);
    let by_unit = report(&definition(&even, Some("context.session")), &log);
    assert!(by_entry.sample_ratio.is_mismatch);
    assert!(!by_unit.sample_ratio.is_mismatch);
    let counts = by_unit
        .variants
        .iter()
        .map(|one| (one.count, one.unit_count));
    assert_eq!(
        counts.collect::<Vec<_>>(),
        [(1000, Some(1000)), (2000, Some(1000))]
    );
}

#[test]
fn units_in_two_variants_are_found_and_entries_without_a_unit_counted() {
    let mut log = log([
        ("A", 1, 1.0),
        ("B", 1, 2.0),
        ("A", 2, 1.0),
        ("A", 2, 3.0),
        ("B", 3, 1.0),
    ]);
    log.push(("B", r#"{"metrics":{"score":9}}"#.into()));
    let report = report(
        &definition(&[("A", None), ("B", None)], Some("context.session")),
        &log,
    );
    assert_eq!(report.unit.crossing_count, Some(1));
    assert_eq!(report.unit.without_unit_count, Some(1));
    assert!(
        report.warnings.iter().any(|one| one.starts_with("1 units")),
        "{report:?}"
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|one| one.starts_with("1 entries")),
        "{report:?}"
    );
}

#[test]
fn units_beyond_the_memory_take_more_scans_and_give_the_same() {
    let mut rng = fastrand::Rng::with_seed(7);
    let entries: Vec<_> = (0..20_000)
        .map(|_| {
            let unit = rng.u64(0..5_000);
            let key = if unit.is_multiple_of(3) || rng.u8(0..50) == 0 {
                "A"
            } else {
                "B"
            };
            (key, unit, rng.f64())
        })
        .collect();
    let mut log = log(entries);
    log.push(("A", "{}".into()));
    let (whole, one) = units(&log, BYTES_MAX);
    assert_eq!(one, 1);
    // A unit takes about 200 bytes here.
    for (bytes_max, scans_min, scans_max) in [(600_000, 2, 3), (100_000, 10, 20), (20_000, 50, 100)]
    {
        let (parts, scans) = units(&log, bytes_max);
        assert_eq!(parts, whole);
        assert!((scans_min..=scans_max).contains(&scans), "{scans} scans");
    }
    assert_eq!(whole.without_unit_count, 1);
}

/// How many of 400 experiments without a difference have an interval that contains zero. Each has
/// 30 units a variant with ten entries, which share nine tenths of their variance.
fn coverage(unit: Option<&str>) -> usize {
    let definition = definition(&[("A", None), ("B", None)], unit);
    let mut rng = fastrand::Rng::with_seed(11);
    // A sum of twelve uniform ones is near enough to normal.
    let mut normal = move || (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
    let contains_zero = |_: &usize| {
        let mut entries = Vec::new();
        for unit in 0..60 {
            let level = 3.0 * normal();
            let key = if unit < 30 { "A" } else { "B" };
            entries.extend((0..10).map(|_| (key, unit, level + normal())));
        }
        let report = report(&definition, &log(entries));
        let Interval(low, high) = report.comparisons[0].interval.unwrap();
        low <= 0.0 && 0.0 <= high
    };
    (0..400).filter(contains_zero).count()
}

#[test]
fn ten_entries_for_each_unit_keep_the_level_with_the_unit_and_lose_it_without() {
    // 95 % of 400 are 380, give or take 4.4; the margin is four times that.
    let named = coverage(Some("context.session"));
    assert!(
        (362..=397).contains(&named),
        "{named} of 400 with the unit named"
    );
    let unnamed = coverage(None);
    assert!(unnamed < 240, "{unnamed} of 400 without");
}

#[test]
fn quantile_differences_have_intervals_that_hold() {
    let definition = definition(&[("A", None), ("B", None)], None);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut held = [0; 3];
    for _ in 0..400 {
        // Exponential, B's twice as long: the quantiles differ by ln(1 / (1 - q)).
        let entries: Vec<_> = (0..1200)
            .map(|at| {
                let (key, scale) = if at % 2 == 0 { ("A", 1.0) } else { ("B", 2.0) };
                (key, at, -scale * (1.0 - rng.f64()).ln())
            })
            .collect();
        let report = report(&definition, &log(entries));
        for (at, quantile) in report.comparisons[0].quantiles.iter().enumerate() {
            let truth = -(1.0 - quantile.q).ln();
            let holds = quantile
                .interval
                .is_some_and(|Interval(low, high)| low <= truth && truth <= high);
            held[at] += usize::from(holds);
        }
    }
    assert!(held.iter().all(|held| *held >= 362), "{held:?} of 400");
}

/// Two variants with scores around these means, spread evenly over one to both sides.
fn around(a: f64, b: f64, count: usize) -> Vec<(&'static str, String)> {
    let spread = |at: usize| 2.0 * (at / 2) as f64 / (count / 2 - 1) as f64 - 1.0;
    log((0..count).map(|at| {
        let (key, mean) = if at % 2 == 0 { ("A", a) } else { ("B", b) };
        (key, at as u64, mean + spread(at))
    }))
}

#[test]
fn the_sentence_says_which_is_ahead_and_how_sure_that_is() {
    let definition = definition(&[("A", None), ("B", None)], None);
    let says = |log: &[_]| {
        let report = report(&definition, log);
        (report.comparisons[0].verdict, report.sentences[0].clone())
    };
    let (verdict, sentence) = says(&around(4.0, 4.5, 1000));
    assert_eq!(verdict, Verdict::Sure);
    assert_eq!(
        sentence,
        "B is ahead of A on score by 12.5 % (0.5); it is sure, however often you looked."
    );
    let (verdict, sentence) = says(&around(4.0, 3.9, 1000));
    assert_eq!(verdict, Verdict::SureForOneLook);
    assert!(sentence.starts_with("B is behind A on score by 2.5 % (0.1); it is sure if this"));
    let (verdict, sentence) = says(&around(4.0, 4.02, 1000));
    assert_eq!(verdict, Verdict::NotSure);
    assert!(
        sentence.contains("more entries would show a difference of this size"),
        "{sentence}"
    );
    let (verdict, sentence) = says(&counts(9, 9));
    assert_eq!(verdict, Verdict::NotSure, "{sentence}");
    let (verdict, sentence) = says(&around(4.0, 4.0, 4)[..2]);
    assert_eq!(verdict, Verdict::TooLittle, "{sentence}");
}

#[test]
fn a_report_of_nothing_is_one_too() {
    let options = ReportOptions::default();
    let empty = Report::new(&Definition::default(), &Summary::default(), None, &options);
    assert_eq!((empty.count, empty.control.clone()), (0, None));
    let defined = definition(&[("A", None), ("B", Some(2.0))], Some("context.session"));
    let defined = report(&defined, &[]);
    assert_eq!(defined.comparisons, []);
    for format in [Format::Table, Format::Json, Format::Markdown] {
        assert!(empty.render(format).ends_with('\n'));
        assert!(defined.render(format).contains('A'));
    }
}

#[test]
fn names_that_clients_made_up_break_no_table() {
    let body = r#"{"metrics":{"a|b\n<i>\u001b[1m":1,"x_y":1e999}}"#;
    let log: Vec<_> = (0..6)
        .map(|at| (["A", "B"][at % 2], body.to_owned()))
        .collect();
    let report = report(&definition(&[("A", None), ("B", None)], None), &log);
    let markdown = report.render(Format::Markdown);
    assert!(
        markdown.contains("a\\|b\u{fffd}&lt;i&gt;\u{fffd}\\[1m"),
        "{markdown}"
    );
    assert!(markdown.contains("x\\_y"), "{markdown}");
    assert!(!report.render(Format::Table).contains('\u{1b}'));
    let json: serde_json::Value = serde_json::from_str(&report.render(Format::Json)).unwrap();
    assert_eq!(json["variants"][0]["metrics"][1]["notFiniteCount"], 3);
}

#[test]
fn tables_are_as_people_read_them() {
    let log: Vec<_> = (0..400)
        .map(|at| {
            let (key, step) = if at % 2 == 0 { ("A", 1) } else { ("B", 2) };
            let score = 40 + at % 7 * step;
            let body = format!(r#"{{"metrics":{{"score":{score},"ok":{}}}}}"#, at % 5 != 0);
            (key, body)
        })
        .collect();
    let definition = definition(&[("A", Some(1.0)), ("B", Some(1.0))], None);
    let report = report(&definition, &log);
    let table = report.render(Format::Table);
    let expected = include_str!("../../../tests/stats/report.txt");
    assert_eq!(table, expected, "\n{table}");
    let markdown = report.render(Format::Markdown);
    let expected = include_str!("../../../tests/stats/report.md");
    assert_eq!(markdown, expected, "\n{markdown}");
}

#[test]
fn json_has_the_names_of_the_api() {
    let definition = definition(&[("A", None), ("B", None)], None);
    let report = report(&definition, &around(4.0, 4.5, 200));
    let json: serde_json::Value = serde_json::from_str(&report.render(Format::Json)).unwrap();
    let comparison = &json["comparisons"][0];
    assert_eq!(comparison["method"], "welch");
    assert_eq!(comparison["verdict"], "sure-for-one-look");
    assert_eq!(comparison["difference"].as_f64(), Some(0.5));
    assert_eq!(comparison["interval"].as_array().map(Vec::len), Some(2));
    assert!(comparison["alwaysValid"]["pValueAdjusted"].is_number());
    assert!(comparison["power"]["moreEntriesForEffect"].is_number());
    assert_eq!(comparison["quantiles"][0]["q"], 0.5);
    assert_eq!(json["adjustment"], "holm");
    assert_eq!(json["unit"]["field"], serde_json::Value::Null);
    assert_eq!(json["sampleRatio"]["isMismatch"], false);
    assert_eq!(
        json["variants"][0]["metrics"][0]["standardError"]
            .as_f64()
            .map(|it| it > 0.05),
        Some(true)
    );
}
