//! The real entries give the figures again that were published for them.

use std::io::Write;

use trialog::model::Definition;
use trialog::stats::report::{Format, ReportOptions};
use trialog::stats::{Report, Summary};

use crate::real_entries::{lines, shared};

#[test]
fn real_entries_give_the_published_means_standard_errors_and_counts() {
    let (Some(lines), Some(path)) = (lines(), shared("data/alpaca-eval-published.csv")) else {
        let words = "NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED\n";
        return std::io::stderr().write_all(words.as_bytes()).unwrap();
    };
    // In segments of several sizes, each through its bytes.
    let mut summary = Summary::default();
    for segment in lines.chunks(777) {
        let mut bytes = Vec::new();
        fold(segment).encode(&mut bytes);
        summary.merge(&Summary::decode(&bytes).unwrap());
    }
    assert_eq!(summary, fold(&lines));

    let options = ReportOptions::default();
    let report = Report::new(&Definition::default(), &summary, None, &options);
    let published = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<&str>> = published
        .lines()
        .skip(1)
        .map(|row| row.split(',').collect())
        .collect();
    assert_eq!((rows.len(), report.variants.len()), (4, 4));
    for row in rows {
        let variant = report.variants.iter().find(|one| *one.key == *row[0]);
        let metrics = &variant.expect("a variant").metrics;
        let metric = |name| metrics.iter().find(|one| &*one.name == name).unwrap();
        let win_rate = metric("win_rate");
        let six = |value: f64| format!("{value:.5e}");
        let published = |column: usize| six(row[column].parse().unwrap());
        assert_eq!(six(win_rate.mean.unwrap()), published(1), "{row:?}");
        assert_eq!(
            six(win_rate.standard_error.unwrap()),
            published(2),
            "{row:?}"
        );
        let length = metric("length").mean.unwrap().floor();
        assert_eq!(length.to_string(), row[3], "{row:?}");
        assert_eq!(win_rate.count.to_string(), row[4], "{row:?}");
    }
    let table = report.render(Format::Table);
    assert!(table.contains("9.17796"), "{table}");
}

fn fold(lines: &[String]) -> Summary {
    let mut summary = Summary::default();
    for line in lines {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = entry["variantKey"].as_str().unwrap();
        summary.apply(key, 1, line.as_bytes());
    }
    summary
}
