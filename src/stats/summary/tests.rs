//! Summaries: counts, limits, and that no split or order changes a figure.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::{VARIANT_KEY_BYTES_MAX, VARIANTS_MAX};

/// One that keeps so many names.
fn keeping(metrics: usize) -> Summary {
    Summary::new(Limits {
        metrics,
        ..Limits::default()
    })
}

fn fold<'a>(metrics_max: usize, entries: impl IntoIterator<Item = &'a Entry>) -> Summary {
    let mut summary = keeping(metrics_max);
    for (variant, body) in entries {
        summary.apply(variant, 7, body.as_bytes());
    }
    summary
}

type Entry = (String, String);

fn entry(variant: &str, metrics: &str) -> Entry {
    (variant.into(), format!("{{\"metrics\":{metrics}}}"))
}

fn names(summary: &Summary) -> Vec<(&str, bool)> {
    let metrics = summary.metrics().iter();
    metrics
        .map(|metric| (&*metric.name, metric.is_incomplete))
        .collect()
}

#[test]
fn entries_and_metrics_are_counted_for_each_variant() {
    let mut summary = Summary::default();
    summary.apply("B", 20, br#"{"metrics":{"ms":4,"ok":true,"model":"x"}}"#);
    summary.apply("A", 30, br#"{"metrics":{"ms":1,"ms":2,"ms":3}}"#);
    summary.apply("B", 10, br#"{"metrics":{"ms":6,"ok":null}}"#);
    assert_eq!(summary.entry_count(), 3);
    let b = summary.variant("B").unwrap();
    let times = (b.received_at_ms_min, b.received_at_ms_max);
    assert_eq!((b.entry_count, times), (2, (10, 20)));
    let figures = |key: &str, place| {
        let series = summary.variant(key)?.series(place)?;
        Some((series.count, series.sum(), series.non_numeric_count))
    };
    assert_eq!(names(&summary).len(), 3);
    assert_eq!(figures("B", 0), Some((2, 10.0, 0)));
    assert_eq!(figures("B", 1), Some((1, 1.0, 1)));
    assert_eq!(figures("B", 2), Some((0, 0.0, 1)));
    assert_eq!(figures("A", 0), Some((1, 3.0, 0)), "the last value counts");
    assert_eq!(figures("A", 1), None);
}

#[test]
fn names_beyond_the_limit_are_counted_and_not_kept() {
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    let entries = [
        entry("A", r#"{"a":1,"b":2,"c":3}"#),
        entry("A", r#"{"d":4,"c":3,"a":1}"#),
        entry("B", &format!("{{\"{long}\":0,\"b\":0}}")),
    ];
    let summary = fold(2, &entries);
    assert_eq!(names(&summary), [("a", false), ("b", false)]);
    assert_eq!(summary.dropped().value_count, 4);
    assert_eq!(summary.dropped_name_count(), 3);
    let many: String = (0..9999).map(|at| format!(",\"x{at}\":1")).collect();
    let summary = fold(2, &[entry("A", &format!("{{\"a\":1{many}}}"))]);
    assert_eq!(summary.dropped_name_count(), DROPPED_NAMES_MAX);
}

#[test]
fn a_metric_that_a_segment_had_no_room_for_says_that_it_is_incomplete() {
    let first = fold(2, &[entry("A", r#"{"a":1,"b":1}"#)]);
    let second = fold(2, &[entry("A", r#"{"x":1,"b":1,"a":1}"#)]);
    let mut merged = first.clone();
    merged.merge(&second);
    assert_eq!(names(&merged), [("a", true), ("b", false)]);
    // Of `x` and the `a` that was not kept.
    assert_eq!(merged.dropped().value_count, 2);
    assert_eq!(merged.dropped_name_count(), 1);
    let third = fold(2, &[entry("B", r#"{"b":1}"#)]);
    merged.merge(&third);
    assert_eq!(names(&merged), [("a", true), ("b", false)]);

    let mut from_nothing = keeping(3);
    from_nothing.merge(&second);
    from_nothing.merge(&first);
    assert_eq!(
        names(&from_nothing),
        [("x", false), ("b", false), ("a", true)]
    );
}

/// One that keeps so many series, and so many buckets of all sketches.
fn small(series: usize, buckets: usize) -> Summary {
    Summary::new(Limits {
        series,
        buckets,
        ..Limits::default()
    })
}

fn fold_into<'a>(mut summary: Summary, entries: impl IntoIterator<Item = &'a Entry>) -> Summary {
    for (variant, body) in entries {
        summary.apply(variant, 7, body.as_bytes());
    }
    summary
}

#[test]
fn series_beyond_the_limit_are_counted_and_their_metric_says_so() {
    let entries = [
        entry("A", r#"{"a":1,"b":2}"#),
        entry("B", r#"{"a":1,"b":2,"b":3,"c":true}"#),
        entry("A", r#"{"a":7,"c":"x"}"#),
        entry("B", r#"{"b":4}"#),
    ];
    let summary = fold_into(small(3, 1000), &entries);
    assert_eq!(
        names(&summary),
        [("a", false), ("b", true), ("c", true)],
        "B has no b, and nobody has c"
    );
    assert_eq!((summary.series_count(), summary.entry_count()), (3, 4));
    assert_eq!(
        (summary.dropped().value_count, summary.dropped_name_count()),
        (4, 0)
    );
    let b = summary.variant("B").unwrap();
    assert_eq!(b.series(0).map(|a| a.count), Some(1));
    assert_eq!((b.series(1), b.series(2)), (None, None));
    // So does what is merged, whichever had the limit.
    let (left, right) = entries.split_at(2);
    let mut merged = fold_into(small(3, 1000), left);
    merged.merge(&fold_into(small(3, 1000), right));
    assert_eq!(merged.variants(), summary.variants());
    assert_eq!(merged.dropped(), summary.dropped());
    let mut merged = fold(METRICS_MAX, left);
    merged.merge(&fold_into(small(1, 1000), &entries[1..]));
    // The later one had room for B's `a` alone.
    assert_eq!(names(&merged), [("a", true), ("b", true), ("c", true)]);
}

#[test]
fn the_largest_sketches_lose_buckets_first_and_small_ones_nothing() {
    // One metric with 100 buckets, one with four.
    let wide =
        (0..100).map(|at| format!(r#"{{"wide":{},"narrow":{}}}"#, 1.1_f64.powi(at), at % 4 + 1));
    let entries: Vec<_> = wide.map(|metrics| entry("A", &metrics)).collect();
    let whole = fold(METRICS_MAX, &entries);
    let fitted = fold_into(small(10, 70), &entries);
    assert!(!whole.is_coarse() && fitted.is_coarse());
    let series = |summary: &Summary, place| {
        summary
            .variant("A")
            .unwrap()
            .series(place)
            .cloned()
            .unwrap()
    };
    assert_eq!(series(&fitted, 1).sketch().bucket_count(), 4);
    assert_eq!(series(&fitted, 0).sketch().bucket_count(), 64);
    assert_eq!(
        series(&fitted, 1).quantile(0.01),
        series(&whole, 1).quantile(0.01)
    );
    assert_eq!(
        series(&fitted, 0).quantile(0.99),
        series(&whole, 0).quantile(0.99)
    );
    assert_eq!(series(&fitted, 0).quantile(0.01), None, "not a wrong one");
    assert_eq!(series(&fitted, 0).variance(), series(&whole, 0).variance());
}

/// What the limits stand for.
#[test]
fn whatever_is_logged_takes_less_than_100_megabytes() {
    let mut worst = Series::default();
    for power in [-1074, 1023] {
        for sign in [1.0, -1.0] {
            worst.add(Value::Number(sign * 2_f64.powi(power)));
        }
    }
    let sketch = worst.sketch().bucket_count() * 24;
    let series = (worst.bytes() - sketch) * SERIES_MAX;
    let slots = VARIANTS_MAX * METRICS_MAX * size_of::<usize>() * 2;
    let names = (METRICS_MAX * NAME_BYTES_MAX + VARIANTS_MAX * VARIANT_KEY_BYTES_MAX) * 2;
    let all = series + SUMMARY_BUCKETS_MAX * 24 + slots + names;
    assert!(all < 100_000_000, "{all}");
    // Sketches can always be made to fit, and keep an octave at least of values of both signs.
    const { assert!(SUMMARY_BUCKETS_MAX / SERIES_MAX / 2 >= 64) };
}

#[test]
fn everyday_series_take_what_is_said() {
    let entries = (0..4000).map(|at| {
        entry(
            "A",
            &format!(r#"{{"ms":{}}}"#, 40.0 + f64::from(at * 7919 % 4000) / 10.0),
        )
    });
    let entries: Vec<_> = entries.collect();
    let bytes = fold(METRICS_MAX, &entries).bytes();
    assert!((5_000..15_000).contains(&bytes), "{bytes}");
    let alone = fold(METRICS_MAX, &entries[..1]).bytes();
    assert!(alone < 600, "{alone}");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let value = prop_oneof![
        any::<f64>().prop_map(|value| match value.is_finite() {
            true => format!("{value:e}"),
            false => "1e999".into(),
        }),
        "(true|false|null|\"x\"|\\[1\\])",
    ];
    let metrics = vec(("[a-e](\\.x)?", value), 0..5).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    });
    ("[AB]", metrics).prop_map(|(variant, metrics)| entry(&variant, &metrics))
}

type Figures = (Box<str>, u64, Box<str>, Option<Series>);

/// By variant and name: what doesn't depend on which came first.
fn by_name(summary: &Summary) -> Vec<Figures> {
    let mut all = Vec::new();
    for variant in summary.variants() {
        for (place, metric) in summary.metrics().iter().enumerate() {
            let series = variant.series(place).cloned();
            all.push((
                variant.key.clone(),
                variant.entry_count,
                metric.name.clone(),
                series,
            ));
        }
    }
    all.sort_by(|left, right| (&left.0, &left.2).cmp(&(&right.0, &right.2)));
    all
}

proptest! {
    #[test]
    fn any_split_is_equal_to_the_whole(
        entries in vec(any_entry(), 0..40),
        cuts in vec(0_usize..40, 0..4),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.min(&entries.len())).collect();
        cuts.push(entries.len());
        cuts.sort_unstable();
        let mut merged = Summary::default();
        let mut begin = 0;
        for end in cuts {
            merged.merge(&fold(METRICS_MAX, &entries[begin..end]));
            begin = end;
        }
        prop_assert_eq!(merged, fold(METRICS_MAX, &entries));
    }

    /// A server or a reader that keeps fewer names than footers have says what it would say if footers
    /// had no more.
    #[test]
    fn footers_with_more_names_give_what_fewer_names_give(
        entries in vec(any_entry(), 0..40),
        cuts in vec(0_usize..40, 0..4),
        metrics in 1_usize..7,
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.min(&entries.len())).collect();
        cuts.push(entries.len());
        cuts.sort_unstable();
        let mut merged = keeping(metrics);
        let mut begin = 0;
        for end in cuts {
            let mut footer = Vec::new();
            fold(METRICS_MAX, &entries[begin..end]).encode(&mut footer);
            merged.merge(&Summary::decode(&footer).unwrap());
            begin = end;
        }
        let whole = fold(metrics, &entries);
        prop_assert_eq!(&merged.metrics, &whole.metrics);
        prop_assert_eq!(&merged.variants, &whole.variants);
        prop_assert_eq!(&merged.dropped.names, &whole.dropped.names);
        // A name that an entry has twice is one value for a footer, and two where it isn't kept.
        prop_assert!(merged.dropped.value_count <= whole.dropped.value_count);
    }

    #[test]
    fn any_order_gives_the_same_figures(
        entries in vec(any_entry(), 0..40),
        cut in 0_usize..40,
    ) {
        let (left, right) = entries.split_at(cut.min(entries.len()));
        let mut merged = fold(METRICS_MAX, right);
        merged.merge(&fold(METRICS_MAX, left));
        prop_assert_eq!(by_name(&merged), by_name(&fold(METRICS_MAX, &entries)));
    }

    #[test]
    fn however_a_log_is_split_the_same_buckets_are_kept(
        entries in vec(any_entry(), 0..40),
        cuts in vec(0_usize..40, 0..4),
        buckets in 8_usize..60,
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.min(&entries.len())).collect();
        cuts.push(entries.len());
        cuts.sort_unstable();
        let mut merged = small(100, buckets);
        let mut begin = 0;
        for end in cuts {
            // As a footer has it: with room for more than the whole has.
            merged.merge(&fold_into(small(100, buckets * 2), &entries[begin..end]));
            begin = end;
        }
        let whole = fold_into(small(100, buckets), &entries);
        prop_assert!(whole.bucket_count <= buckets || whole.sketch_buckets_max == 1);
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn beyond_the_limit_a_metric_is_as_without_one_or_says_that_it_is_incomplete(
        segments in vec(vec(any_entry(), 0..9), 1..5),
    ) {
        let limited = || Summary::new(Limits { metrics: 3, series: 4, ..Limits::default() });
        let mut merged = limited();
        segments.iter().for_each(|segment| merged.merge(&fold_into(limited(), segment)));
        let whole = fold(METRICS_MAX, segments.iter().flatten());
        let whole = by_name(&whole);
        let count = |all: &[Figures]| -> u64 {
            all.iter().flat_map(|one| &one.3).map(Series::value_count).sum()
        };
        let kept = by_name(&merged);
        prop_assert!(merged.metrics().len() <= 3);
        // Duplicates within an entry count each time when they are dropped.
        prop_assert!(count(&kept) + merged.dropped().value_count >= count(&whole));
        let complete = merged.metrics().iter().filter(|metric| !metric.is_incomplete);
        for metric in complete {
            let of = |all: &[Figures]| {
                let named = all.iter().filter(|one| one.2 == metric.name && one.3.is_some());
                named.cloned().collect::<Vec<_>>()
            };
            prop_assert_eq!(of(&kept), of(&whole));
        }
    }
}
